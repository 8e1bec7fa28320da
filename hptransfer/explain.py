"""The plan as text: what a config means, before compute is spent."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hptransfer.plan import Plan, TensorPlan
from hptransfer.rules import OWN
from hptransfer.tables import amount, table


def to_text(plan: Plan) -> str:
    """One line for all tensors that are alike, then the run's budget and cost."""
    return f"{table(list(_alike(plan)))}\n\n{summary(plan)}"


def _alike(plan: Plan) -> Iterator[dict[str, Any]]:
    """A line for tensors that differ in nothing but a number in their names (blocks, experts), with their count."""
    rows = [{**tensor_row(tensor), "tensor": _pattern(tensor.name)} for tensor in plan.tensors]
    counts = Counter(tuple(row.items()) for row in rows)
    yield from ({"tensors": count, **dict(row)} for row, count in counts.items())


def _pattern(name: str) -> str:
    """`blocks.0.norm.weight` -> `blocks.*.norm.weight`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def tensor_row(tensor: TensorPlan) -> dict[str, Any]:
    """One line of the table."""
    return {
        "tensor": tensor.name,
        "shape": " x ".join(map(str, tensor.shape)),
        "role": tensor.role,
        "init_std": tensor.init_std,
        "multiplier": tensor.multiplier,
        "lr": tensor.lr,
        "eps": tensor.eps,
        "weight_decay": tensor.weight_decay,
        "optimizer": tensor.optimizer,
    }


def summary(plan: Plan) -> str:
    """Multipliers, budget and cost."""
    config, factors = plan.config, plan.multipliers
    scheme = config.parametrization
    at = f", quoted at width {scheme.base_width}, depth {scheme.base_depth}" if scheme.base_width else ""
    active = f", of which a token meets {plan.params_active}" if plan.params_active != plan.params else ""
    return "\n".join(
        [
            f"parametrization  {scheme.name}{at}",
            *([f"options          {scheme.options}"] if scheme.options != OWN else []),
            f"multipliers      input {factors.input:.6g}, output {factors.output:.6g}, "
            f"attention logits {factors.attention:.6g}, residual branches {factors.residual:.6g}",
            f"params           {plan.params_total} ({plan.params} non-embedding{active})",
            f"tokens           {plan.tokens} in {plan.steps} steps of {plan.batch_tokens}",
            f"compute          {amount(plan.flops, 'FLOP')} ({amount(plan.flops_per_token, 'FLOP')} a token)",
            f"memory           about {amount(plan.memory, 'B')} (float32, {plan.micro_batch} sequences at a time)",
        ]
    )
