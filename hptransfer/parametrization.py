"""Parametrizations by name: which rule holds for a tensor, and the table that they are printed as. No torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from hptransfer.errors import UserError, did_you_mean
from hptransfer.rules import (
    EMBEDDING_LR,
    KINDS,
    ONE,
    OWN,
    WEIGHT_DECAY,
    Multipliers,
    Options,
    Power,
    Ratios,
    Rule,
    Scheme,
)
from hptransfer.schemes import SCHEMES

__all__ = [
    "FAMILIES",
    "KINDS",
    "SCHEMES",
    "Multipliers",
    "Options",
    "Power",
    "Ratios",
    "Rule",
    "attention_scale",
    "most_specific",
    "rule",
    "scheme",
    "to_markdown",
]

Value = TypeVar("Value")

FAMILIES = {"adamw": "adam", "sgd": "sgd", "muon": "muon"}
"""The rows that each optimizer follows."""

PRINTED_ONLY = {
    family: name for name, what in SCHEMES.items() for family in what.rules if family not in FAMILIES.values()
}
"""Families that no optimizer here follows, and a parametrization that has rows for each."""


def scheme(name: str) -> Scheme:
    """The parametrization of this name; UserError where there is none."""
    if name not in SCHEMES:
        allowed = list(SCHEMES)
        raise UserError(
            f"parametrization.name: unknown name {name!r}; allowed: {', '.join(allowed)}{did_you_mean(name, allowed)}"
        )
    return SCHEMES[name]


def rule(name: str, family: str, role: str, options: Options = OWN) -> Rule:
    """The rule of the longest known prefix of `role`; UserError where the pair is not defined."""
    families = scheme(name).rules
    if family not in families:
        raise UserError(
            f"parametrization.name: {name} has no rules for optimizer family {family!r}; it has {', '.join(families)}"
        )
    if why := most_specific(scheme(name).refused, role):
        raise UserError(f"parametrization.name: {name} does not cover the role {role!r}: {why}")
    found = most_specific(families[family], role)
    if found is None:
        raise UserError(f"parametrization.name: {name} has no rule for the role {role!r} under {family}")
    return _chosen(found, family, role, options)


def _chosen(row: Rule, family: str, role: str, options: Options) -> Rule:
    """The rule with the options in place of the scheme's own."""
    if options.embedding_lr and role.startswith("embedding"):
        if family != "adam" and row.optimizer != "adamw":
            raise UserError(f"parametrization.embedding_lr: its sources know of Adam alone, not of {family}")
        exponent = EMBEDDING_LR[options.embedding_lr].exponent
        fan_out = row.weight_decay.fan_out + row.lr.fan_out - exponent  # lr * weight_decay stays
        decay = replace(row.weight_decay, fan_out=fan_out, absolute=row.lr.absolute)
        row = replace(row, lr=replace(row.lr, fan_out=exponent), weight_decay=decay)
    if options.weight_decay:
        power, lr = WEIGHT_DECAY[options.weight_decay].exponent, row.lr
        fan_in, fan_out = power * lr.fan_in, power * lr.fan_out
        decay = replace(row.weight_decay, fan_in=fan_in, fan_out=fan_out, absolute=lr.absolute)
        row = replace(row, weight_decay=decay)
    return row if options.scale_eps else replace(row, eps=ONE)


def most_specific(table: Mapping[str, Value], role: str) -> Value | None:
    """The entry of the longest dotted prefix of `role` in `table`; None where no prefix is in it."""
    parts = role.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return table[prefix]
    return None


def attention_scale(name: str, head_dim: int, base_head_dim: int) -> float:
    """The factor on the attention logits: head_dim^-attention, exactly 1/sqrt(head_dim) at the base head size."""
    return (1 / math.sqrt(base_head_dim)) * float((base_head_dim / head_dim) ** scheme(name).attention)


def to_markdown(name: str, optimizer: str | None = None, options: Options = OWN) -> str:
    """The parametrization as a Markdown table, one line per role, printed from the same data that training uses.

    `optimizer` is an optimizer or a family; by default the first that the scheme has rows for.
    """
    family = next(iter(scheme(name).rules)) if optimizer is None else FAMILIES.get(optimizer, optimizer)
    roles = scheme(name).rules.get(family, ("hidden",))
    rows = {role: rule(name, family, role, options) for role in sorted(roles)}
    columns: dict[str, Callable[[str, Rule], object]] = {
        "init std": lambda role, row: "constant" if role.startswith("vector") else row.init,
        "forward multiplier": lambda role, row: row.multiplier,
        "lr": lambda role, row: row.lr,
        "eps": lambda role, row: "-" if family == "sgd" else row.eps,
        "weight decay": lambda role, row: (
            "0 †" if role.startswith("vector") and not options.decay_vectors else row.weight_decay
        ),
        "1 - beta": lambda role, row: row.betas,
        "optimizer": lambda role, row: row.optimizer or family,
    }
    if all(row.betas == ONE for row in rows.values()):
        del columns["1 - beta"]
    if all(row.optimizer is None for row in rows.values()):
        del columns["optimizer"]
    lines = [f"| role | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for role, row in rows.items():
        lines.append(f"| {role} | {' | '.join(str(cell(role, row)) for cell in columns.values())} |")
    chosen = f" Options: {options}." if options != OWN else ""
    return "\n".join([*lines, "", f"{_footnote(name, family)}{chosen}"]) + "\n"


def _footnote(name: str, family: str) -> str:
    """What the table's columns do not hold: branches, attention, and the meaning of the signs."""
    what = SCHEMES[name]
    low, high = what.alpha
    alpha = "" if high == 0 else f", α = {high:g}" if low == high else f", α = {high:g} (allowed: {low:g} to {high:g})"
    base = "the value quoted at the base shape" if what.needs else "the value in the config"
    powers = {0.5: "1/sqrt(head_dim)", 1.0: "sqrt(base_head_dim)/head_dim" if what.needs else "1/head_dim"}
    return (
        f"Residual branches × {what.residual}{alpha}; attention logits × {powers[what.attention]}. Cells multiply "
        f"{base}. † `decay_vectors: true` decays gains and biases too. Source: {what.sources.get(family, what.source)}."
        f"{' Printed only: not run here.' if family in PRINTED_ONLY else ''}"
    )
