"""What a step costs, measured on the meta device: no memory is taken, nothing is computed."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.losses import losses
from hptransfer.modelfile import ModelFile
from hptransfer.parametrization import Multipliers
from hptransfer.shapes import Shape


@dataclass(frozen=True)
class Cost:
    """Of one sequence, forward and backward."""

    flops: float
    """Two per multiply-add of every matrix product (for a GPT: 6 params + 12 depth width seq_len a token, as in the
    appendix B of PaLM, arXiv:2204.02311)."""
    activation_bytes: int
    """What autograd keeps from forward to backward, in float32."""


@lru_cache(maxsize=256)
def cost_per_sequence(model: ModelFile, key: tuple[tuple[str, Any], ...]) -> Cost:
    """The cost of a model of this shape (the shape's items, sorted)."""
    shape = Shape(**dict(key))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        module = model.build(shape, Multipliers())
        inputs, targets = example(shape)
        counter = FlopCounterMode(display=False)
        kept_tensors = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with model.running("forward(inputs)"), counter, kept_tensors:
            cross_entropy, auxiliary = losses(module(inputs), targets)
            torch.autograd.backward(cross_entropy + auxiliary)
    weights = sum(parameter.untyped_storage().nbytes() for parameter in module.parameters())
    return Cost(flops=float(counter.get_total_flops()), activation_bytes=max(0, sum(kept.values()) - weights))


def example(shape: Shape) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one sequence, all zeros: token ids (1, T) twice, or an image (1, C, H, W) and a label."""
    if hasattr(shape, "image_size"):
        image = torch.zeros(1, shape.channels, shape.image_size, shape.image_size)
        return image, torch.zeros(1, dtype=torch.long)
    tokens = torch.zeros(1, shape.seq_len, dtype=torch.long)
    return tokens, tokens
