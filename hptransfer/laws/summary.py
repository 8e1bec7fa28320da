"""Laws in words."""

import math

from hptransfer.laws.laws import FittedCell, Laws


def summary(laws: Laws) -> str:
    """Cells, exponents with intervals, what leaving out the largest size showed, warnings."""
    data = laws.data
    lines = [
        f"{data['runs']} runs ({data['diverged']} diverged) in {data['cells']} cells; prior: {laws.settings['prior']}"
    ]
    if laws.recipe:
        lines.append("recipe: " + ", ".join(f"{key} {_plain(value)}" for key, value in laws.recipe.items()))
    lines += ["", "cell (params, tokens)     runs  best lr (95 %)                batch_tokens   loss at the floor"]
    lines += [_cell(one) for one in laws.cells]
    if laws.coordinates:
        lines += ["", "exponents (95 %)"]
        lines += [
            f"  {name:24s} {value:+.3f}  [{low:+.3f}, {high:+.3f}]"
            for name, (value, low, high) in laws.exponents.items()
        ]
        spread = ", ".join(f"{name} {laws.spread[name] * 100:.0f} %" for name in laws.coordinates)
        lines.append(
            f"  a cell's own optimum strays from the law by {spread}; runs at the floor differ by {laws.noise.near * 100:.2g} % of the loss"
        )
    lines += _validation(laws)
    lines += ["", *(f"warning: {warning}" for warning in laws.warnings)] if laws.warnings else []
    return "\n".join(lines)


def _plain(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(one: FittedCell) -> str:
    lr = batch = "not swept"
    if "lr" in one.optimum:
        middle, half = one.optimum["lr"], 1.96 * one.optimum_sd["lr"]
        lr = f"{math.exp(middle):.3g} [{math.exp(middle - half):.3g}, {math.exp(middle + half):.3g}]" + (
            " edge" if one.edge else ""
        )
    if "batch_tokens" in one.optimum:
        batch = f"{math.exp(one.optimum['batch_tokens']):.3g}"
    return f"  {one.cell.params:10.3g} {one.cell.tokens:10.3g}  {one.cell.runs:4d}  {lr:30s}{batch:14s} {math.exp(one.floor):.4f}"


def _validation(laws: Laws) -> list[str]:
    lines = []
    for by in ("params", "tokens"):
        group = [one for one in laws.validation if one.by == by]
        if group:
            inside = sum(one.inside for one in group)
            misses = ", ".join(
                f"{name} off by a factor of {math.exp(max(abs(one.miss[name]) for one in group)):.2f} at most"
                for name in laws.coordinates
            )
            worst = max(one.regret for one in group)
            lines.append(
                f"left out the largest {by}: {inside} of {len(group)} optima inside their intervals; {misses}; regret {worst * 100:.2f} % at most"
            )
    reach = ", ".join(f"{name} {value:.2f}" for name, value in laws.validated.items())
    return ["", *lines, f"validated range, in decades beyond the runs: {reach or 'none'}"]
