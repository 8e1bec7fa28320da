"""The plan: what a run config means once resolved, as data. Nothing here decides anything."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from hptransfer.config import RunConfig
from hptransfer.cost import Cost, cost_per_sequence
from hptransfer.modelfile import find_model
from hptransfer.parametrization import Multipliers
from hptransfer.shapes import Shape

NOT_COUNTED = ("embedding.token", "embedding.position", "embedding.class", "readout")
"""Roles left out of the non-embedding parameter count."""


@dataclass(frozen=True)
class TensorPlan:
    """One parameter tensor, with its numbers as applied."""

    name: str
    shape: tuple[int, ...]
    role: str
    init_mean: float
    init_std: float
    multiplier: float
    lr: float
    eps: float
    weight_decay: float
    betas: tuple[float, ...]
    optimizer: str

    @property
    def size(self) -> int:
        """Number of parameters."""
        return prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """What a run config means once resolved."""

    config: RunConfig
    """With every default that follows from others filled in; resolving it again changes nothing."""
    tensors: tuple[TensorPlan, ...]
    multipliers: Multipliers
    """As applied; `output` is the tuned factor alone, the readout's own factor is its tensor's `multiplier`."""
    params: int
    """Non-embedding: all but token and position embeddings and readout. Of all experts, busy or not: published MoE
    sweeps follow lr laws in these better than in the active ones (Step Law's runs, arXiv:2503.04715)."""
    params_total: int

    @property
    def params_active(self) -> int:
        """Those of `params` that one token meets: of the experts, the share that it is sent to."""
        shape = self.config.shape
        share = getattr(shape, "experts_per_token", 1) / getattr(shape, "experts", 1)
        experts = sum(tensor.size for tensor in self.tensors if tensor.role.startswith("hidden.expert"))
        return self.params - round(experts * (1 - share))

    @property
    def tokens(self) -> int:
        """The budget asked for."""
        assert self.config.train.tokens is not None
        return self.config.train.tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.config.batch_tokens

    @property
    def steps(self) -> int:
        """Optimizer steps: the nearest whole number to the budget."""
        return max(1, round(self.tokens / self.batch_tokens))

    @property
    def sequences(self) -> int:
        """Sequences per optimizer step."""
        return self.batch_tokens // self.config.data.seq_len

    @property
    def micro_batch(self) -> int:
        """Sequences per forward pass."""
        return min(self.config.train.micro_batch or self.sequences, self.sequences)

    @property
    def cost(self) -> Cost:
        """FLOPs and memory of one sequence."""
        return cost_per_sequence(find_model(self.config.model.name), key_of(self.config.shape))

    @property
    def flops_per_token(self) -> float:
        """Forward and backward."""
        return self.cost.flops / self.config.data.seq_len

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return self.flops_per_token * self.steps * self.batch_tokens

    @property
    def memory(self) -> int:
        """Estimated bytes at peak: weights, gradients, optimizer state (float32), activations of one micro-batch."""
        copies = 4 if self.config.optimizer.name == "adamw" else 3
        return 4 * copies * self.params_total + self.cost.activation_bytes * self.micro_batch

    @property
    def hidden(self) -> TensorPlan:
        """The tensor whose lr and weight decay a record quotes as applied."""
        return first_hidden(self.tensors)

    @property
    def facts(self) -> dict[str, float]:
        """What a run record says of the run before it has begun: sizes, base and as-applied values."""
        return {
            "params": self.params,
            "params_total": self.params_total,
            "params_active": self.params_active,
            "tokens": self.tokens,
            "batch_tokens": self.batch_tokens,
            "steps": self.steps,
            "lr": self.config.optimizer.lr,
            "weight_decay": self.config.optimizer.weight_decay,
            "lr_hidden": self.hidden.lr,
            "weight_decay_hidden": self.hidden.weight_decay,
            "width": self.config.model.width,
            "depth": self.config.model.depth,
            "seed": self.config.train.seed,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `explain --json`."""
        return {
            "tensors": [{k: v for k, v in asdict(t).items() if k != "init_mean"} for t in self.tensors],
            "multipliers": asdict(self.multipliers),
            "params": self.params_total,
            "params_non_embedding": self.params,
            "params_active": self.params_active,
            "tokens": self.tokens,
            "steps": self.steps,
            "batch_tokens": self.batch_tokens,
            "flops": self.flops,
            "memory_bytes": self.memory,
            "config": self.config.to_dict(),
        }


def first_hidden(tensors: Sequence[TensorPlan]) -> TensorPlan:
    """The first hidden matrix inside a residual branch."""
    hidden = [tensor for tensor in tensors if tensor.role.startswith("hidden")]
    return next((tensor for tensor in hidden if not tensor.role.startswith("hidden.outer")), tensors[0])


def key_of(shape: Shape) -> tuple[tuple[str, Any], ...]:
    """A shape as something that can be hashed."""
    return tuple(sorted(vars(shape).items()))
