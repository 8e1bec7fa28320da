"""Laws in words."""

import math

from hptransfer.laws.laws import FittedCell, Laws, plain


def summary(laws: Laws) -> str:
    """Cells, exponents with intervals, what leaving out the largest size showed, warnings."""
    data = laws.data
    gone = ", ".join(f"{data[status]} {status}" for status in ("diverged", "stopped") if status in data)
    runs = f"{data['runs']} runs ({gone}) in {data['cells']} cells"
    recipe = ", ".join(f"{key} {plain(value)}" for key, value in laws.recipe.items())
    lines = [f"{runs}; prior: {laws.settings['prior']}", *([f"recipe: {recipe}"] if recipe else []), ""]
    lines.append("cell (params, tokens)     runs  best lr (95 %)                batch_tokens   loss at the floor, nats")
    lines += [_cell(one) for one in laws.cells]
    if laws.coordinates:
        lines += ["", *_exponents(laws)]
    lines += _validation(laws)
    lines += [f"{claim}: {answer}" for claim, answer in laws.checks.items()]
    lines += ["", *(f"warning: {warning}" for warning in laws.warnings)] if laws.warnings else []
    return "\n".join(lines)


def _cell(one: FittedCell) -> str:
    lr = batch = "not swept"
    if "lr" in one.optimum:
        middle, half = one.optimum["lr"], 1.96 * one.optimum_sd["lr"]
        lr = f"{math.exp(middle):.3g} [{math.exp(middle - half):.3g}, {math.exp(middle + half):.3g}]"
        lr += " edge" if one.edge else ""
    if "batch_tokens" in one.optimum:
        batch = f"{math.exp(one.optimum['batch_tokens']):.3g}"
    size = f"{one.cell.params:10.3g} {one.cell.tokens:10.3g}  {one.cell.runs:4d}"
    return f"  {size}  {lr:30s}{batch:14s} {math.exp(one.floor):.4f}"


def _exponents(laws: Laws) -> list[str]:
    spread = ", ".join(f"{name} {laws.spread[name] * 100:.0f} %" for name in laws.coordinates)
    return [
        "exponents (95 %)",
        *(
            f"  {name:24s} {value:+.3f}  [{low:+.3f}, {high:+.3f}]"
            for name, (value, low, high) in laws.exponents.items()
        ),
        f"  a cell's own optimum strays from the law by {spread};"
        f" runs at the floor differ by {laws.noise.near * 100:.2g} % of the loss",
    ]


def _validation(laws: Laws) -> list[str]:
    lines = []
    for by in ("params", "tokens"):
        group = [one for one in laws.validation if one.by == by]
        if group:
            misses = ", ".join(
                f"{name} off by a factor of {math.exp(max(abs(one.miss[name]) for one in group)):.2f} at most"
                for name in laws.coordinates
            )
            inside = f"{sum(one.inside for one in group)} of {len(group)} optima inside their intervals"
            worst = f"regret {max(one.regret for one in group) * 100:.2f} % at most"
            lines.append(f"left out the largest {by}: {inside}; {misses}; {worst}")
    reach = ", ".join(f"{name} {value:.2f}" for name, value in laws.validated.items())
    return ["", *lines, f"validated range, in decades beyond the runs: {reach or 'none'}"]
