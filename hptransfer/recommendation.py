"""A recommendation in words: warnings first, then numbers with their units beside those of published laws, then what
they are worth."""

from hptransfer.laws import Estimate, Prediction
from hptransfer.tables import table, text

UNITS = {
    "lr": "peak, base units",
    "batch_tokens": "tokens",
    "weight_decay": "base units",
    "loss": "nats per token",
}
RIVALS = {**UNITS, "tau": "AdamW timescale, part of the run", "critical_batch": "tokens"}
"""What published laws speak of, with its unit."""

TELLING = 1e-4
"""Of the loss: what a fixed batch has to cost to be spoken of. One rounded to whole sequences costs less."""


def to_text(prediction: Prediction) -> str:
    """For the terminal."""
    ours = {name: getattr(prediction, name) for name in UNITS if getattr(prediction, name) is not None}
    rivals = {name: values for name, values in prediction.rivals.items() if RIVALS.keys() & values.keys()}
    rows = [name for name in RIVALS if name in ours or any(name in values for values in rivals.values())]
    lines = [
        {
            "": f"{name} ({RIVALS[name]})",
            **_columns(ours.get(name)),
            **{f"by {rival}": values.get(name) for rival, values in rivals.items()},
        }
        for name in rows
    ]
    return "\n".join([*(f"warning: {warning}" for warning in prediction.warnings), table(lines), *worth(prediction)])


def worth(prediction: Prediction) -> list[str]:
    """Expected regret, what a fixed or a rounded batch costs, and how far from the runs this is; a line each."""
    regret, lines = prediction.regret, []
    if "expected" in regret:
        line = f"expected regret: {regret['expected']:.2%} of the loss, in one case of ten above {regret['p90']:.2%}"
        if "batch_rounded" in regret:
            line += f"; {regret['batch_rounded']:.2%} with the batch rounded to a power of two"
        lines.append(line)
    if regret.get("batch_fixed", 0.0) >= TELLING:
        lines.append(f"the fixed batch costs {regret['batch_fixed']:.2%} of the loss against the best one")
    if prediction.decades_beyond_data:
        beyond = ", ".join(f"{name} {value:.2f}" for name, value in prediction.decades_beyond_data.items())
        reach = "inside" if prediction.in_range else "OUTSIDE of"
        lines.append(f"decades beyond the runs: {beyond}; {reach} what leaving out the largest has validated")
    return lines


def interval(estimate: Estimate) -> str:
    """low to high, or the value alone where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return text(estimate.value)
    return f"{estimate.low:.4g} to {estimate.high:.4g}"


def _columns(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return dict.fromkeys(("use", "95 % from", "to", "fitted optimum"))
    return {"use": estimate.value, "95 % from": estimate.low, "to": estimate.high, "fitted optimum": estimate.optimum}
