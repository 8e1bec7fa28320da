"""A pre-activation residual network of convolutions (He et al. 1603.05027), with residual branches that are scaled with
depth as in depthwise transfer (Bordelon et al. 2309.16620), and no biases in its convolutions.

Capitals after an underscore name a tensor's axes: B batch, C channels, H height, W width of the image, D channels of
the last stage, N classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How each parameter grows. `hidden` and `vector` are inside a residual branch, with the suffix `outer` outside.
ROLES = {
    "stem.weight": "embedding.patch",
    "stage*.*.norm?.weight": "vector.gain",
    "stage*.*.norm?.bias": "vector.bias",
    "stage*.*.conv?.weight": "hidden.conv",
    "down*.norm.*": "vector.outer",
    "down*.conv.weight": "hidden.outer.conv",
    "norm.*": "vector.outer",
    "readout.weight": "readout",
}


class ResNet(nn.Module):
    """Images (B, C, H, W) -> logits (B, N): a convolution of stride 2, then stages of `depth` residual blocks; from
    stage to stage the channels double and height and width are halved.

    The multipliers are floats as applied: `input` scales what the first convolution gives, `residual` each branch,
    `output` the logits; there is no attention to scale.
    """

    def __init__(self, shape: Any, multipliers: Any) -> None:
        super().__init__()
        self.input_multiplier = multipliers.input
        self.output_multiplier = multipliers.output
        widths = [shape.width * 2**stage for stage in range(shape.stages)]
        self.stem = convolution(shape.channels, shape.width, stride=2)
        for number, width in enumerate(widths, start=1):
            if number > 1:
                self.add_module(f"down{number}", Down(width // 2, width))
            blocks = (Block(width, multipliers.residual) for _ in range(shape.depth))
            self.add_module(f"stage{number}", nn.ModuleList(blocks))
        self.norm = make_norm(widths[-1])
        self.readout = nn.Linear(widths[-1], shape.classes, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(images_BCHW) * self.input_multiplier
        for name, part in self.named_children():
            if name.startswith("down"):
                x_BCHW = part(x_BCHW)
            elif name.startswith("stage"):
                for block in part.children():
                    x_BCHW = block(x_BCHW)
        pooled_BD = F.relu(self.norm(x_BCHW)).mean(dim=(2, 3))
        return self.readout(pooled_BD * self.output_multiplier)


build = ResNet


class Block(nn.Module):
    """`x + residual_multiplier * conv2(relu(norm2(conv1(relu(norm1(x))))))`."""

    def __init__(self, width: int, residual_multiplier: float) -> None:
        super().__init__()
        self.residual_multiplier = residual_multiplier
        self.norm1 = make_norm(width)
        self.conv1 = convolution(width, width)
        self.norm2 = make_norm(width)
        self.conv2 = convolution(width, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.conv1(F.relu(self.norm1(x_BCHW)))
        h_BCHW = self.conv2(F.relu(self.norm2(h_BCHW)))
        return torch.add(x_BCHW, h_BCHW, alpha=self.residual_multiplier)


class Down(nn.Module):
    """Between stages: half the height and width, other channels."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm = make_norm(width_in)
        self.conv = convolution(width_in, width_out, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x_BCHW)))


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """3 x 3, padded: of stride 1 it keeps height and width."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)


def make_norm(width: int) -> nn.GroupNorm:
    """All channels and places of an image as one group (Wu & He 1803.08494), with a gain and a bias per channel.

    Batch norm's statistics are others in training and inference, and hang on the micro-batch; those of one image do
    not, and over a growing number of channels they converge, as muP needs.
    """
    return nn.GroupNorm(1, width, eps=1e-6)
