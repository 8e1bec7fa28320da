"""The coordinate check of a model that knows nothing of this: `parametrize` makes it at every size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from hptransfer.coordcheck.checking import Check, Key, Subject, ladder_of
from hptransfer.coordcheck.measuring import Measurement, watch
from hptransfer.coordcheck.promises import FOLDED, Axis
from hptransfer.coordcheck.running import OnRun
from hptransfer.coordcheck.sizes import refuse
from hptransfer.foreign import Parametrized
from hptransfer.plan import TensorPlan

At = Callable[..., Parametrized]
Batches = Callable[[int, int], tuple[Tensor, Tensor]]


def check_model(
    at: At,
    batches: Batches,
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    steps: int = 10,
    seeds: int = 3,
    on_run: OnRun | None = None,
) -> Check:
    """The coordinate check of what `parametrize` gives back, with the promises and verdicts of `check`.

    `at(width=W, seed=S)` and `at(depth=D, seed=S)` make the model at a size, on the CPU (the size that is not given
    at a value of its own choice). `batches(seed, step)` are the inputs of its forward and the targets (class or token
    ids), the same at every size; the one after the last step is what activations are measured on. The model is in
    evaluation mode: no dropout. UserError where there is no slope to fit.
    """
    sizes: dict[Axis, tuple[int, ...]] = {"width": tuple(sorted(set(widths))), "depth": tuple(sorted(set(depths)))}
    refuse(sizes, steps, seeds)
    total = seeds * sum(map(len, sizes.values()))
    measured: dict[Key, list[Measurement]] = {}
    ladders, first = [], None
    for axis, of in sizes.items():
        made = {size: at(**{axis: size}, seed=0) for size in of}
        hosts = {pattern for result in made.values() for pattern in result.branches.hosts}
        for size, seed in ((size, seed) for size in of for seed in range(seeds)):
            result = at(**{axis: size}, seed=seed)
            measured[axis, size, seed] = _watch(result, hosts, batches, seed, steps)
            if on_run is not None:
                on_run(len(measured), total)
        subjects = [
            Subject(size, result.parametrization, result.optimizer, tuple(_tensors(result, hosts)))
            for size, result in made.items()
        ]
        if subjects:
            first = subjects[0]
            ladders.append(ladder_of(axis, subjects, measured))
    assert first is not None
    return Check(first.parametrization.name, first.optimizer.lr, steps, seeds, tuple(ladders))


def _watch(result: Parametrized, hosts: set[str], batches: Batches, seed: int, steps: int) -> list[Measurement]:
    probe, _ = batches(seed, steps + 1)
    tensors = list(_tensors(result, hosts))
    return watch(result.model.eval(), result.build_optimizer(), tensors, probe, lambda step: batches(seed, step), steps)


def _tensors(result: Parametrized, hosts: set[str]) -> Iterator[TensorPlan]:
    """With FOLDED at the end of the roles of those that hold the branches' factor at some size of the ladder."""
    for placed, tensor in zip(result.placed, result.tensors, strict=True):
        yield replace(tensor, role=tensor.role + FOLDED) if placed.tensor.pattern in hosts else tensor
