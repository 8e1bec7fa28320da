"""What parametrize gives back: the model, its numbers tensor by tensor, and what was inferred and why."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hptransfer.applied import draw_into, grouped
from hptransfer.explain import tensor_row
from hptransfer.foreign.branches import Branches
from hptransfer.foreign.growth import Growth
from hptransfer.foreign.roles import Placed
from hptransfer.optimizers import Together, make
from hptransfer.plan import NOT_COUNTED, TensorPlan, first_hidden
from hptransfer.sections import OptimizerConfig, Parametrization
from hptransfer.tables import table


@dataclass(frozen=True)
class Parametrized:
    """A model with its initial weights, and the numbers that it is trained with."""

    model: nn.Module = field(repr=False)
    parametrization: Parametrization
    optimizer: OptimizerConfig
    growth: Growth = field(repr=False)
    placed: tuple[Placed, ...] = field(repr=False)
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    """As applied: what could be folded is in init, lr, eps and weight decay; a `multiplier` is what could not."""
    branches: Branches
    attention: tuple[str, ...]
    width: int
    """Fan-in of the readout."""
    seed: int

    @property
    def params(self) -> int:
        """Non-embedding: all but token and position embeddings and readout."""
        return sum(tensor.size for tensor in self.tensors if not tensor.role.startswith(NOT_COUNTED))

    @property
    def params_total(self) -> int:
        """All that are trained."""
        return sum(tensor.size for tensor in self.tensors)

    def param_groups(self, model: nn.Module | None = None) -> list[dict[str, Any]]:
        """Groups for torch.optim, of the model or of the same one wrapped or sharded (DDP, FSDP2, torch.compile)."""
        return grouped(model or self.model, self.tensors)

    def build_optimizer(self, model: nn.Module | None = None) -> Together:
        """The optimizer with its groups (Muon comes with AdamW for all that is no hidden matrix)."""
        return make(self.param_groups(model))

    def initialise(self, model: nn.Module | None = None) -> None:
        """Draws the initial weights, into the model or the same one materialised or sharded."""
        draw_into(model or self.model, self.tensors, self.seed)

    def facts(self, tokens: int, batch_tokens: int) -> dict[str, Any]:
        """What a run record says of a run of this model (RunRecorder takes it)."""
        hidden = first_hidden(self.tensors)
        return {
            "params": self.params,
            "params_total": self.params_total,
            "tokens": tokens,
            "batch_tokens": batch_tokens,
            "lr": self.optimizer.lr,
            "weight_decay": self.optimizer.weight_decay,
            "lr_hidden": hidden.lr,
            "weight_decay_hidden": hidden.weight_decay,
            "width": self.width,
            "depth": self.growth.depth,
            "seed": self.seed,
            "parametrization": self.parametrization.name,
            "base_width": self.parametrization.base_width,
            "base_depth": self.parametrization.base_depth,
            "optimizer": self.optimizer.name,
        }

    def to_dict(self) -> dict[str, Any]:
        """What an export says of the model beside its tensors, as plain data."""
        return {
            "seed": self.seed,
            "params": self.params_total,
            "params_non_embedding": self.params,
            "parametrization": self.parametrization.model_dump(mode="json", exclude_none=True),
            "optimizer": self.optimizer.model_dump(mode="json", exclude_none=True),
        }

    def report(self) -> str:
        """What was inferred and why: a line for every tensor (one for all blocks), then what else was found."""
        rows = {placed.tensor.pattern: _row(placed, tensor) for placed, tensor in self._pairs()}
        return f"{table(list(rows.values()))}\n\n" + "\n".join(self._notes())

    def _pairs(self) -> Iterator[tuple[Placed, TensorPlan]]:
        return zip(self.placed, self.tensors, strict=True)

    def _notes(self) -> Iterator[str]:
        yield f"width     {self.parametrization.base_width} -> {self.width} (fan-in of the readout)"
        blocks = ", ".join(self.growth.stacks) or "no list of blocks: nothing is deeper"
        yield f"depth     {self.growth.base_depth} -> {self.growth.depth} ({blocks})"
        if self.branches.hosts:
            factor, hosts = self.branches.factor, ", ".join(self.branches.hosts)
            yield f"branches  factor {factor:.6g} folded into init_std, lr, eps and weight_decay of {hosts}"
        for placed, tensor in self._pairs():
            if placed.role.startswith("readout"):
                where = f"factor {tensor.multiplier:.6g} before it (hook)" if placed.tied else "factor folded"
                yield f"logits    {tensor.name}: {where}"
        yield from self.attention
        yield from (f"frozen    {name}: left as the factory made it" for name in self.growth.frozen)


def _row(placed: Placed, tensor: TensorPlan) -> dict[str, Any]:
    row = tensor_row(tensor)
    base = " x ".join(map(str, placed.tensor.base))
    return {**row, "tensor": placed.tensor.pattern, "shape": f"{base} -> {row['shape']}", "why": placed.why}
