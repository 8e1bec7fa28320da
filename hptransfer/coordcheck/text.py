"""A check as text for the terminal, and the words that the page shares with it."""

from collections.abc import Iterator, Sequence
from typing import Any

from hptransfer.coordcheck.checking import Check, Ladder
from hptransfer.coordcheck.promises import ERRORS, MARGIN, STANDARD, Quantity, Verdict
from hptransfer.tables import table


def to_text(check: Check) -> str:
    """Tables of slopes for each axis, what is wrong where something is, and the verdicts last."""
    parts = [about(check)]
    for ladder in check.ladders:
        parts += [f"over {ladder.axis} {', '.join(map(str, ladder.sizes))}", table(module_rows(ladder))]
        parts += [table(gradient_rows(ladder))]
    return "\n\n".join([*parts, "\n".join(conclusions(check))])


def about(check: Check) -> str:
    """What was done, and how slopes become verdicts."""
    return (
        f"coordinate check of {check.parametrization}: {check.steps} steps at the peak lr "
        f"{check.lr:g} (no warm-up, decay or clipping), {_count(check.seeds, 'seed')}. A slope is "
        f"d ln rms / d ln size; it passes within {MARGIN:g} of its promise and fails beyond "
        f"{MARGIN:g} + {ERRORS:g} standard errors."
    )


def conclusions(check: Check) -> Iterator[str]:
    """The verdict over each axis, each followed by what is wrong."""
    name = check.parametrization
    for ladder in check.ladders:
        counted = [verdict for verdict in ladder.verdicts if verdict.slope]
        if not ladder.claimed:
            beyond = sum(abs(verdict.deviation) > MARGIN for verdict in counted)
            yield (
                f"{ladder.axis}: not claimed: {name} promises nothing over {ladder.axis}; "
                f"{beyond} of {len(counted)} slopes are not those of completep"
            )
            continue
        unsure = sum(verdict.outcome == "unsure" for verdict in ladder.verdicts)
        tail = f", {unsure} unsure (more seeds would tell)" if unsure else ""
        yield f"{ladder.axis}: {ladder.outcome}: {ladder.failed} of {len(ladder.verdicts)} slopes fail{tail}"
        yield from (f"  {diagnosis}" for diagnosis in ladder.diagnoses)
        printed = [verdict for verdict in ladder.verdicts if verdict.outcome == "as printed"]
        yield from (f"  {verdict.name}: {verdict.source}" for verdict in printed)
    if name in STANDARD:
        yield f"{name} itself promises nothing: it is held to what the transfer of hyperparameters needs"


def module_rows(ladder: Ladder) -> list[dict[str, Any]]:
    """One line per module: slope of its output at initialisation and of the change since."""
    names = dict.fromkeys(verdict.name for verdict in ladder.verdicts if verdict.quantity != "gradient")
    rows = []
    for name in names:
        init, change = (_find(ladder.verdicts, quantity, name) for quantity in ("init", "change"))
        rows.append(
            {
                "module": name,
                "at initialisation": slope_text(init),
                "promised": promise_text(init),
                "change": slope_text(change),
                "promised ": promise_text(change),
                "verdict": worst([v.outcome for v in (init, change) if v]),
            }
        )
    return rows


def gradient_rows(ladder: Ladder) -> list[dict[str, Any]]:
    """One line per role."""
    return [
        {
            "gradient of": verdict.name,
            "slope": slope_text(verdict),
            "eps is right for": promise_text(verdict),
            "verdict": verdict.outcome,
        }
        for verdict in ladder.verdicts
        if verdict.quantity == "gradient"
    ]


def worst(outcomes: Sequence[str]) -> str:
    """Of several verdicts on one module."""
    order = ("FAIL", "unsure", "PASS", "not claimed", "zero")
    return min(outcomes, key=order.index)


def slope_text(verdict: Verdict | None) -> str:
    """Slope and standard error."""
    if verdict is None or verdict.slope is None:
        return "-" if verdict is None else "zero" if verdict.outcome == "zero" else "not finite"
    return f"{verdict.slope.value:+.2f} ± {verdict.slope.error:.2f}"


def promise_text(verdict: Verdict | None) -> str:
    """The slope that theory asks for, or the range."""
    if verdict is None:
        return "-"
    low, high = (_plain(value) for value in (verdict.low, verdict.high))
    return low if low == high else f"{low} to {high}"


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0.0:g}"


def _find(verdicts: Sequence[Verdict], quantity: Quantity, name: str) -> Verdict | None:
    return next((v for v in verdicts if (v.quantity, v.name) == (quantity, name)), None)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
