"""Laws + a target's config -> the same config with everything that must move filled in, each line with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hptransfer.config import RunConfig, load_config, to_yaml
from hptransfer.errors import UserError
from hptransfer.laws import Estimate, Laws, Prediction
from hptransfer.recommendation import interval, worth
from hptransfer.records import recipe
from hptransfer.tables import table, text

BASE = ("base_width", "base_depth", "base_tokens", "base_batch_tokens")
"""What the values of a recipe are quoted at: a unit."""


@dataclass(frozen=True)
class Size:
    """Where a prediction is asked for; width and depth where they are known, and the recipe where a config says it."""

    params: float
    """Non-embedding."""
    tokens: float
    width: float | None = None
    depth: float | None = None
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Tuned:
    """A target's config with the tuned values in it."""

    config: RunConfig
    prediction: Prediction
    moved: Mapping[str, Any]
    """New values by key path."""
    reasons: Mapping[str, str]
    """Why, for every key that was set (moved or confirmed)."""
    warnings: tuple[str, ...]

    def to_yaml(self) -> str:
        """The config as a file: the prediction and its warnings above it, its reason behind every tuned line."""
        loss = self.prediction.loss
        expected = (
            f"Expected loss {loss.value:.4g} ({interval(loss)}) nats per token." if loss else "No loss is predicted."
        )
        head = [
            f"Tuned by hptransfer transfer. {expected}",
            *(f"{line[:1].upper()}{line[1:]}." for line in worth(self.prediction)),
            *(f"Warning: {warning}" for warning in self.warnings),
        ]
        plain = self.config.to_dict()
        return "".join(f"# {line}\n" for line in head) + to_yaml(plain, self.reasons)

    def to_text(self) -> str:
        """The tuned values as a table, the expected loss, and what they are worth."""
        tuned = table([{"key": key, "value": self.moved[key], "reason": self.reasons[key]} for key in self.moved])
        loss = self.prediction.loss
        expected = [f"expected loss: {loss.value:.4g} nats per token, 95 % {interval(loss)}"] if loss else []
        return "\n".join([tuned, *expected, *worth(self.prediction)])


def transfer(laws: Laws, target: RunConfig, batch_tokens: float | None = None) -> Tuned:
    """The target's config with lr, batch and weight decay from the laws, and beta2 and eps moved with the batch.

    `batch_tokens` fixes the batch: lr is then the best one at that batch. A target at another base shape is quoted at
    that of the runs. UserError where the laws do not hold for the target (another parametrization or optimizer).
    """
    given, (target, at_base) = target, _at_base_of_runs(laws, target)
    size = size_of_config(target)
    prediction = predict_for(laws, size, batch_tokens)
    batch = _whole_batch(prediction.batch_tokens.value, target.data.seq_len)
    why = _swept(prediction.batch_tokens, "") if batch_tokens is None else f"fixed at {batch_tokens:g}"
    prediction = predict_for(laws, size, batch)
    moved, reasons = _from_laws(prediction)
    moved["train.batch_tokens"] = batch
    reasons["train.batch_tokens"] = f"{why}; in whole sequences"
    _with_batch(laws, target, batch, moved, reasons)
    for path, reason in at_base.items():
        section, key = path.split(".")
        moved[path], reasons[path] = getattr(target, section).model_dump()[key], reason
    if at_base and prediction.weight_decay is None:
        _check_decay(given, target)
    reasons["schedule.warmup"] = "a fraction of the run, as in the runs: it grows with the run"
    sections: dict[str, dict[str, Any]] = {"tracking": {"job_type": target.tracking.job_type or "target"}}
    for path, value in moved.items():
        section, key = path.split(".")
        sections.setdefault(section, {})[key] = value
    return Tuned(target.updated(**sections), prediction, moved, reasons, prediction.warnings)


def _at_base_of_runs(laws: Laws, target: RunConfig) -> tuple[RunConfig, dict[str, str]]:
    """The target quoted at the base of the runs where it is of their scheme, and the reasons for what moved."""
    base = other_base(laws, recipe(target))
    if not base:
        return target, {}
    from hptransfer.rebasing import rebased

    return rebased(target, base)


def other_base(laws: Laws, wanted: Mapping[str, Any]) -> dict[str, int]:
    """The base of the runs by key, where the recipe has another one of the same parametrization."""
    if laws.recipe.get("parametrization") != wanted.get("parametrization"):
        return {}
    keys = [key for key in BASE if key in laws.recipe and key in wanted and laws.recipe[key] != wanted[key]]
    return {key: int(laws.recipe[key]) for key in keys}


def _check_decay(given: RunConfig, target: RunConfig) -> None:
    """UserError where the laws know no weight decay and the file's own means another one at the base of the runs."""
    from hptransfer.rebasing import decay_moves

    if decay_moves(given, target):
        raise UserError(
            f"optimizer.weight_decay: {given.optimizer.weight_decay:g} at this base has no single value at that of the "
            "runs, and the runs do not say theirs; quote the target at the base of the runs"
        )


def _from_laws(prediction: Prediction) -> tuple[dict[str, Any], dict[str, str]]:
    """lr and weight decay."""
    moved: dict[str, Any] = {"optimizer.lr": rounded(prediction.lr.value)}
    reasons = {"optimizer.lr": _swept(prediction.lr, "least expected regret; ")}
    if (decay := prediction.weight_decay) is not None:
        moved["optimizer.weight_decay"] = rounded(decay.value)
        reasons["optimizer.weight_decay"] = _swept(decay, "AdamW timescale; ")
    return moved, reasons


def _with_batch(laws: Laws, target: RunConfig, batch: int, moved: dict[str, Any], reasons: dict[str, str]) -> None:
    """beta2 and eps for a batch outside of the range of the runs; inside of it the laws know their effect.

    beta2 keeps its half-life in tokens (Marek et al., arXiv:2507.07101: beta2' = beta2^(B'/B)); eps follows the size
    of the gradient noise (Malladi et al., arXiv:2205.10287, the square-root rule for Adam: eps' = eps / sqrt(B'/B)).
    """
    optimizer = target.optimizer
    if optimizer.name != "adamw":
        return
    low, high = laws.batch_range
    nearest = min(max(batch, low), high)
    ratio = batch / nearest
    same = f"the batch is one that the runs cover ({low:g} to {high:g} tokens)"
    beta1, beta2 = optimizer.betas
    moved["optimizer.betas"] = [beta1, beta2**ratio if ratio != 1 else beta2]
    moved["optimizer.eps"] = optimizer.eps / ratio**0.5
    changed = f"for a batch of {ratio:.3g} times the nearest in the runs"
    reasons["optimizer.betas"] = same if ratio == 1 else f"beta2 keeps its half-life in tokens, {changed}"
    reasons["optimizer.eps"] = same if ratio == 1 else f"over the square root, {changed}"


def rounded(value: float) -> float:
    """Three significant digits: far finer than any interval, and short enough to be read and typed."""
    return float(f"{value:.3g}")


def _swept(estimate: Estimate, rule: str) -> str:
    """Why a value is what it is: the law and its interval, or that there was nothing to learn from."""
    if estimate.low is None:
        return "not swept: as in the runs"
    return f"{rule}95 % {interval(estimate)}, fitted optimum {text(estimate.optimum)}"


def _whole_batch(batch_tokens: float, seq_len: int) -> int:
    """The nearest whole number of sequences."""
    return max(1, round(batch_tokens / seq_len)) * seq_len


def size_of_config(config: RunConfig) -> Size:
    """The size of a run config's model and budget."""
    from hptransfer.scaling import resolve

    plan = resolve(config)
    return Size(plan.params, plan.tokens, config.model.width, config.model.depth, recipe(plan.config))


def size_of(config: str | None, overrides: Sequence[str], params: float | None, tokens: float | None) -> Size:
    """The size that the command line gives: --config, or --params and --tokens."""
    if config is not None and params is None and tokens is None:
        return size_of_config(load_config(config, overrides))
    if config is None and params and tokens and params > 0 and tokens > 0:
        return Size(params, tokens)
    raise UserError("predict: give either --config CONFIG, or --params N and --tokens D, both positive")


def predict_for(laws: Laws, size: Size, batch_tokens: float | None = None) -> Prediction:
    """The recommendation at a size; UserError where the laws don't hold for the recipe, warnings where they may not."""
    return laws.predict(
        params=size.params,
        tokens=size.tokens,
        width=size.width,
        depth=size.depth,
        batch_tokens=batch_tokens,
        recipe=_with_known_data(laws, size.recipe),
    )


def predict_at_base_of_runs(laws: Laws, size: Size, batch_tokens: float | None = None) -> Prediction:
    """As `predict_for`; at another base shape the answer is quoted at that of the runs, which a warning says."""
    base = other_base(laws, size.recipe or {})
    there = replace(size, recipe={**size.recipe, **base}) if size.recipe else size
    prediction = predict_for(laws, there, batch_tokens)
    if not base:
        return prediction
    named = " and ".join(f"{key} {value}" for key, value in base.items())
    warning = (
        f"lr and weight_decay are quoted at the runs' {named}, not at the config's (transfer moves the config there)"
    )
    return replace(prediction, warnings=(warning, *prediction.warnings))


def _with_known_data(laws: Laws, wanted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The recipe with the runs' data where a config names the same source: only the runs say which content it had."""
    known = str(laws.recipe.get("data", ""))
    if wanted is None or known.partition(":")[0] != wanted.get("data"):
        return wanted
    return {**wanted, "data": known}
