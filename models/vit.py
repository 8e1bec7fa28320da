"""A vision transformer (Dosovitskiy et al. 2010.11929) in plain PyTorch: pre-norm, no dropout, no biases in its linear
layers; its blocks are those of models/gpt.py without the causal mask.

Capitals after an underscore name a tensor's axes: B batch, C channels, H height, W width of the image, P pixels of a
patch, T patches and the class token, D width, N classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gpt import BLOCK_ROLES, Block, make_norm

# How each parameter grows. `hidden` and `vector` are inside a residual branch, with the suffix `outer` outside.
ROLES = {
    "patch_embedding.weight": "embedding.patch",
    "class_token.weight": "embedding.class",
    "position_embedding.weight": "embedding.position",
    **BLOCK_ROLES,
    "norm.*": "vector.outer",
    "readout.weight": "readout",
}


class ViT(nn.Module):
    """Images (B, C, H, W) -> logits (B, N), read from the class token.

    The multipliers are floats as applied: `input` scales the sum of the embeddings, `residual` each attention and
    each feed-forward branch; `attention` is the whole scale of the attention logits, `output` that of the logits.
    """

    def __init__(self, shape: Any, multipliers: Any) -> None:
        super().__init__()
        self.patch = shape.patch
        self.input_multiplier = multipliers.input
        self.output_multiplier = multipliers.output
        patches = (shape.image_size // shape.patch) ** 2
        self.patch_embedding = nn.Linear(shape.channels * shape.patch**2, shape.width, bias=False)
        self.class_token = nn.Embedding(1, shape.width)
        self.position_embedding = nn.Embedding(1 + patches, shape.width)
        self.blocks = nn.ModuleList(Block(shape, multipliers, causal=False) for _ in range(shape.depth))
        self.norm = make_norm(shape)
        self.readout = nn.Linear(shape.width, shape.classes, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        patches_BTP = F.unfold(images_BCHW, self.patch, stride=self.patch).mT
        patches_BTD = self.patch_embedding(patches_BTP)
        class_token_B1D = self.class_token.weight.expand(len(images_BCHW), 1, -1)
        x_BTD = torch.cat([class_token_B1D.type_as(patches_BTD), patches_BTD], dim=1)
        x_BTD = (x_BTD + self.position_embedding.weight) * self.input_multiplier
        for block in self.blocks:
            x_BTD = block(x_BTD)
        # the norm sees all tokens: so does whoever looks at the end of the residual stream
        return self.readout(self.norm(x_BTD)[:, 0] * self.output_multiplier)


build = ViT
