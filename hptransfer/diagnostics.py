"""What is watched while training, now and then: sizes that theory wants flat in width and depth, and gradient noise.

Nothing here changes the training: no random number is drawn, no gradient is left behind.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hptransfer.observing import LOGITS, SCORES, STREAM_OUT, observe, rms
from hptransfer.plan import Plan

MOST_SEQUENCES = 8
"""Sequences looked at: their activations are all kept at once."""

Loss = Callable[[Tensor, Tensor], Tensor]


class Diagnostics:
    """Watches one model. The names of what it measures are those of metrics.jsonl and of the tracker."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model, self.parameters = model, dict(model.named_parameters())
        self.kinds = {tensor.name: tensor.role.split(".")[0] for tensor in plan.tensors}

    def before_step(self, inputs: Tensor, targets: Tensor, loss: Loss) -> dict[str, float]:
        """Activations, and the gradient noise scale, at the weights that the step starts from."""
        return {**self._activations(inputs[:MOST_SEQUENCES]), **self._noise(inputs, targets, loss)}

    @contextmanager
    def update_sizes(self) -> Iterator[dict[str, float]]:
        """`update/<kind>`: rms of what the step inside the block changes, over the rms of the weights before it."""
        before = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        found: dict[str, float] = {}
        yield found
        changes: dict[str, list[Tensor]] = defaultdict(list)
        weights: dict[str, list[Tensor]] = defaultdict(list)
        for name, kind in self.kinds.items():
            changes[kind].append(self.parameters[name].detach() - before[name])
            weights[kind].append(before[name])
        found.update({f"update/{kind}": _over(rms(changes[kind]), rms(weights[kind])) for kind in changes})

    def _activations(self, inputs: Tensor) -> dict[str, float]:
        """Sizes of the logits and of the residual stream, and the largest attention logit."""
        seen = observe(self.model, inputs)
        found = {"activation/logits": rms(seen[LOGITS])}
        if stream := [x for name, xs in seen.items() if name.endswith(STREAM_OUT) for x in xs]:
            found["activation/stream"] = rms(stream)
        if scores := [x for name, xs in seen.items() if name.endswith(SCORES) for x in xs]:
            found["activation/largest_attention_logit"] = max(float(x.abs().max()) for x in scores)
        return found

    def _noise(self, inputs: Tensor, targets: Tensor, loss: Loss) -> dict[str, float]:
        """`gradient_noise_scale`: tr(Σ) / |G|^2 in tokens (McCandlish et al., arXiv:1812.06162, equation 2.9).

        The gradients a, b over the two halves of a batch differ by noise alone: E |a - b|^2 = tr(Σ) (1/B_a + 1/B_b).
        No measurement of the critical batch size (Merrill et al., arXiv:2505.23971).
        """
        half = len(inputs) // 2
        if half == 0:
            return {}
        first, second = (self._gradient(inputs[part], targets[part], loss) for part in (slice(half), slice(half, None)))
        share, per_token = half / len(inputs), targets[0].numel()
        apart = [a - b for a, b in zip(first, second, strict=True)]
        whole = [share * a + (1 - share) * b for a, b in zip(first, second, strict=True)]
        noise = _square(apart) / (1 / half + 1 / (len(inputs) - half)) * per_token
        return {"gradient_noise_scale": _over(noise, _square(whole) - noise / targets.numel())}

    def _gradient(self, inputs: Tensor, targets: Tensor, loss: Loss) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(inputs, targets), list(self.parameters.values()))


def _square(tensors: list[Tensor]) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors))


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
