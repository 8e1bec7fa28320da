"""A language model without attention (Bengio et al. 2003): the embeddings of the last `window` tokens, concatenated
and projected, then residual MLP blocks, pre-norm, with no biases in its linear layers.

Capitals after an underscore name a tensor's axes: B batch, T time, D width, W window, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How each parameter grows. `hidden` and `vector` are inside a residual branch, with the suffix `outer` outside.
ROLES = {
    "token_embedding.weight": "embedding.token",
    "window_projection.weight": "hidden.outer",
    "blocks.*.norm.weight": "vector.gain",
    "blocks.*.norm.bias": "vector.bias",
    "blocks.*.up.weight": "hidden.up",
    "blocks.*.down.weight": "hidden.down",
    "norm.*": "vector.outer",
    "readout.weight": "readout",
}

# As in models/gpt.py: small against the variance 4e-4 of embeddings drawn with std 0.02.
NORM_EPS = 1e-6


class MLP(nn.Module):
    """Token ids (B, T) -> logits (B, T, V); the logits at t see the tokens t - window + 1 to t.

    The multipliers are floats as applied: `input` scales the embeddings, `residual` each branch, `output` the logits;
    there is no attention to scale.
    """

    def __init__(self, shape: Any, multipliers: Any) -> None:
        super().__init__()
        self.window = shape.window
        self.input_multiplier = multipliers.input
        self.residual_multiplier = multipliers.residual
        self.output_multiplier = multipliers.output
        self.token_embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.window_projection = nn.Linear(shape.width * shape.window, shape.width, bias=False)
        self.blocks = nn.ModuleList(FeedForward(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.readout = nn.Linear(shape.width, shape.vocab_size, bias=False)

    def forward(self, inputs_BT: Tensor) -> Tensor:
        tokens_BTD = self.token_embedding(inputs_BT) * self.input_multiplier
        # zeros stand before the first token
        windows_BTDW = F.pad(tokens_BTD, (0, 0, self.window - 1, 0)).unfold(1, self.window, 1)
        x_BTD = self.window_projection(windows_BTDW.flatten(2))
        for block in self.blocks:
            x_BTD = torch.add(x_BTD, block(x_BTD), alpha=self.residual_multiplier)
        return self.readout(self.norm(x_BTD) * self.output_multiplier)


build = MLP


class FeedForward(nn.Module):
    """`down(gelu(up(norm(x))))`."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        ffn_width = round(shape.ffn_ratio * shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.up = nn.Linear(shape.width, ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, shape.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x_BTD))))
