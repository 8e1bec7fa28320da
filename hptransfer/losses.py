"""What a model's forward gives back, as losses."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def losses(output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy in nats per target, auxiliary loss) of `logits` (..., V), of `(logits, auxiliary_loss)`, or
    of an object with `.logits` (transformers).

    Training minimises the sum; what is reported is the cross-entropy. A model without an auxiliary loss has one of 0.
    """
    logits, auxiliary = logits_of(output), torch.zeros((), device=targets.device)
    if isinstance(output, tuple):
        _, auxiliary = output
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten()), auxiliary


def logits_of(output: Any) -> Tensor:
    """The logits in what a model's forward gives back."""
    logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
    assert isinstance(logits, Tensor)
    return logits
