"""What happens inside a model in its first steps: the size of module outputs, of their change, of the gradients."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hptransfer.data import Batch, Data
from hptransfer.losses import losses
from hptransfer.observing import Activations, observe, rms
from hptransfer.optimizers import Together
from hptransfer.plan import Plan, TensorPlan
from hptransfer.scaling import build, build_optimizer

SEQ_LEN = 128
"""Longest sequence taken: long enough for attention to matter, short enough for a laptop."""


@dataclass(frozen=True)
class Measurement:
    """One number: root-mean-square over the entries of every tensor under `name`.

    quantity: "activation" (of a module, on a fixed batch), "change" (of it since step 0), "gradient" (by role).
    """

    quantity: str
    name: str
    step: int
    rms: float


def measure(plan: Plan, data: Data, steps: int, tokens: int) -> list[Measurement]:
    """`watch` a plan's model: `tokens` per step, in sequences of at most SEQ_LEN; activations on the held-out set."""
    sequences = max(1, tokens // min(plan.config.data.seq_len, SEQ_LEN))
    probe, _ = _short(data.validation(min(sequences, data.validation_sequences)), plan)
    seed = plan.config.train.seed
    model, optimizer = _start(plan)
    return watch(
        model, optimizer, plan.tensors, probe, lambda step: _short(data.batch(seed, step, sequences), plan), steps
    )


def watch(
    model: nn.Module,
    optimizer: Together,
    tensors: Sequence[TensorPlan],
    probe: Tensor,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
) -> list[Measurement]:
    """Trains the model at its peak lr, without warm-up, decay and clipping, and measures before every step and after
    the last: activations on `probe`, gradients on `batch(step)`, by role."""
    found, first = [], observe(model, probe)
    for step in range(steps + 1):
        now = observe(model, probe) if step else first
        found += [Measurement("activation", name, step, rms(now[name])) for name in now]
        found += [Measurement("change", name, step, rms(change)) for name, change in _changes(first, now) if step]
        _gradients(model, *batch(step))
        found += [Measurement("gradient", role, step, size) for role, size in _by_role(model, tensors).items()]
        optimizer.step()
    return found


def _start(plan: Plan) -> tuple[nn.Module, Together]:
    model = build(plan)
    if plan.config.train.precision == "float64":
        model = model.double()
    return model, build_optimizer(model, plan)


def _changes(first: Activations, now: Activations) -> Iterator[tuple[str, list[Tensor]]]:
    """What has changed since the first look; a module whose outputs have other shapes (routed tokens) is left out."""
    for name, tensors in first.items():
        others = now.get(name, [])
        if [x.shape for x in tensors] == [x.shape for x in others]:
            yield name, [new - old for old, new in zip(tensors, others, strict=True)]


def _short(batch: Batch, plan: Plan) -> tuple[Tensor, Tensor]:
    """Inputs, images in the model's precision, and targets; of long sequences the beginning."""
    inputs, targets = (torch.from_numpy(array) for array in batch)
    if plan.config.data.seq_len > SEQ_LEN:
        inputs, targets = inputs[:, :SEQ_LEN], targets[:, :SEQ_LEN]
    if inputs.is_floating_point() and plan.config.train.precision == "float64":
        inputs = inputs.double()
    return inputs, targets


def _gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Leaves the gradient of the mean loss (nats per target) in the parameters."""
    model.zero_grad(set_to_none=True)
    cross_entropy, auxiliary = losses(model(inputs), targets)
    torch.autograd.backward(cross_entropy + auxiliary)


def _by_role(model: nn.Module, tensors: Sequence[TensorPlan]) -> dict[str, float]:
    parameters = dict(model.named_parameters())
    gradients = defaultdict(list)
    for tensor in tensors:
        gradient = parameters[tensor.name].grad
        if gradient is not None:
            gradients[tensor.role].append(gradient)
    return {role: rms(tensors) for role, tensors in gradients.items()}
