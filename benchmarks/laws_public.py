"""The laws on public sweeps other than Step Law's, each predicted from smaller budgets or sizes, beside simple rivals.

    python benchmarks/laws_public.py DATA [--output FILE.md]

DATA is a folder with marin_adamw_130m.csv (arXiv:2509.02046; lr, weight decay, batch varied one at a time round the
best run), zhang_cbs_small.csv (arXiv:2410.21676; steps to a loss by batch) and porian_isoflop_small.csv
(arXiv:2406.19146; loss by size and budget). Nothing is fitted to what is predicted. What each table shows stands above
it.
"""

import argparse
import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hptransfer.laws import Laws, fit
from hptransfer.laws.batch import ToTarget, critical_batches, fit_critical_batch
from hptransfer.laws.isoflop import fit_isoflop
from hptransfer.laws.loss import fit_chinchilla
from hptransfer.laws.predict import Estimate
from hptransfer.laws.published import LAWS
from hptransfer.laws.timescale import fading_of, timescale
from hptransfer.records import read_rows
from hptransfer.rows import Row

Floats = npt.NDArray[np.float64]
LOST = 0.2
"""Relative loss of a run that diverged, and the most that any run loses."""
SWEPT = ("lr", "batch_tokens", "weight_decay")


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def rms(values: Sequence[float]) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


# --- lr, weight decay and batch at a larger token budget -------------------------------------------------------------


@dataclass(frozen=True)
class Parabola:
    """curvature (x - floor)^2 between low and high."""

    low: float
    high: float
    floor: float
    curvature: float


@dataclass(frozen=True)
class Held:
    """The held-out budget: its best run, and the runs that differ from it in one hyperparameter."""

    best: Row
    slices: Mapping[str, list[Row]]

    @staticmethod
    def of(rows: Sequence[Row]) -> "Held":
        best = min((row for row in rows if row.status == "finished"), key=lambda row: row.loss)
        return Held(best, {name: [row for row in rows if _differ(row, best) <= {name}] for name in SWEPT})

    def place(self, name: str, value: float) -> float:
        """The ln of lr and batch; of a weight decay the ln of the timescale, so that none has a place."""
        if name != "weight_decay":
            return math.log(value)
        return math.log(timescale(self.best.lr * value * self.best.tokens / self.best.batch_tokens))

    def curve(self, name: str) -> tuple[Floats, Floats]:
        """Places, and the losses there over that of the best run."""
        found = {
            self.place(name, getattr(row, name)): min(row.loss / self.best.loss - 1, LOST)
            if row.status == "finished"
            else LOST
            for row in self.slices[name]
        }
        return np.array(sorted(found)), np.array([found[x] for x in sorted(found)])

    def regret(self, values: Mapping[str, float]) -> float:
        """Sum over the hyperparameters, each read off its own slice."""
        return sum(self._lost(name, values[name]) for name in SWEPT)

    def _lost(self, name: str, value: float) -> float:
        """By the parabola, over its floor, between its runs; else between two finished runs; beside one that diverged,
        or beyond the sweep, that of the nearest run."""
        x, y = self.curve(name)
        at = self.place(name, value)
        if (found := self.parabola(name)) and found.low <= at <= found.high:
            return found.curvature * (at - found.floor) ** 2
        i = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
        if y[i - 1 : i + 1].max() >= LOST:
            return float(y[np.argmin(np.abs(x - at))])
        return float(np.interp(at, x, y))

    def end(self, name: str) -> int:
        """-1 or 1 where the best run has the lowest or highest value of its sweep: the floor may lie beyond it."""
        values = sorted(getattr(row, name) for row in self.slices[name])
        best = getattr(self.best, name)
        return -1 if best == values[0] else 1 if best == values[-1] else 0

    def octaves(self, name: str, value: float) -> float:
        """How far off a value is: from the vertex, else from the best run, beyond which nothing is known at an end."""
        away = math.log2(max(value, 1e-9) / (self.vertex(name) or getattr(self.best, name)))
        return 0.0 if away * self.end(name) > 0 else abs(away)

    def parabola(self, name: str) -> Parabola | None:
        """Through the best run and its finished neighbours; None where one is missing."""
        x, y = self.curve(name)
        i = int(np.argmin(y))
        if i in (0, len(x) - 1) or y[i - 1 : i + 2].max() >= LOST:
            return None
        a, b, _ = np.polyfit(x[i - 1 : i + 2], y[i - 1 : i + 2], 2)
        return Parabola(float(x[i - 1]), float(x[i + 1]), float(-b / 2 / a), float(a))

    def vertex(self, name: str) -> float | None:
        """Its floor as a value of the hyperparameter."""
        if (found := self.parabola(name)) is None:
            return None
        at = math.exp(found.floor)
        if name != "weight_decay":
            return at
        return fading_of(at) * self.best.batch_tokens / (self.best.lr * self.best.tokens)


def _differ(row: Row, other: Row) -> set[str]:
    return {name for name in SWEPT if getattr(row, name) != getattr(other, name)}


def read_marin(path: Path) -> tuple[list[Row], list[Row]]:
    """All runs, and those in which nothing but lr, batch and weight decay was varied."""
    rows = read_rows([path], columns={"params": "n_params_nominal", "tokens": "tokens_nominal"})
    with path.open(newline="") as file:
        varied = [line["varied"] for line in csv.DictReader(file)]
    swept = ("baseline", "lr", "batch_seqs", "weight_decay")
    return rows, [row for row, name in zip(rows, varied, strict=True) if name in swept]


def ours(train: Sequence[Row], held: Held) -> dict[str, Estimate]:
    """Batch as recommended; lr and weight decay at the batch of the held-out budget's best run, as its slices are."""
    laws: Laws = fit(train, pool=True, validate=False)
    free = laws.predict(params=held.best.params, tokens=held.best.tokens)
    fixed = laws.predict(params=held.best.params, tokens=held.best.tokens, batch_tokens=held.best.batch_tokens)
    assert fixed.weight_decay is not None
    return {"lr": fixed.lr, "batch_tokens": free.batch_tokens, "weight_decay": fixed.weight_decay}


def rivals(train: Sequence[Row], held: Held) -> dict[str, dict[str, float]]:
    """Predictors that fit nothing."""
    finished = [row for row in train if row.status == "finished"]
    near = min((row for row in finished if row.tokens == max(r.tokens for r in finished)), key=lambda row: row.loss)
    assert near.weight_decay is not None
    carried = {"lr": near.lr, "batch_tokens": near.batch_tokens, "weight_decay": near.weight_decay}
    here = held.best
    tau = LAWS["power_lines"].values(here.params, here.tokens, here.batch_tokens)["tau"]
    longer = here.tokens / near.tokens
    published = {
        "lr": near.lr,
        "batch_tokens": near.batch_tokens * longer**0.383,
        "weight_decay": here.batch_tokens / (near.lr * here.tokens * tau),
    }
    return {"best run of the largest training cell": carried, "the same, Power Lines' batch and tau": published}


def marin(path: Path) -> list[str]:
    """Two tables: predictions with intervals, and misses and regrets of all methods."""
    everything, swept = read_marin(path)
    budgets = sorted({row.tokens for row in swept}, reverse=True)
    shown, scores = [], {}
    for held_out in budgets:
        held = Held.of([row for row in swept if row.tokens == held_out])
        methods: dict[str, dict[str, float]] = {}
        for label, rows in (("laws", swept), ("laws, all runs of the table", everything)):
            train = [row for row in rows if row.tokens != held_out]
            found = ours(train, held)
            methods[f"hpt{label}"] = {name: one.value for name, one in found.items()}
            shown += [_prediction(held_out, label, name, found[name], held) for name in SWEPT]
        methods.update(rivals([row for row in swept if row.tokens != held_out], held))
        constant = {**methods["hptlaws"], "weight_decay": 0.1}
        methods["hptransfer's lr and batch, constant weight decay"] = constant
        for label, values in methods.items():
            scores.setdefault(label, []).append((held, values))
    lines = []
    for label, cases in scores.items():
        misses = [[held.octaves(name, values[name]) for held, values in cases] for name in SWEPT]
        regrets = [held.regret(values) * 100 for held, values in cases]
        name = label.replace("hptlaws", "hptransfer")
        lines.append(
            [
                name,
                *(f"{miss[0]:.2f} / {np.mean(miss):.2f}" for miss in misses),
                f"{regrets[0]:.2f} / {np.mean(regrets):.2f}",
            ]
        )
    return [
        "Each token budget of the 130M model from the other three; lr and weight decay at the batch of its best run.",
        "The grid is in octaves (weight decay 0, 0.1, 0.2), so the best *run* says little; the *vertex* is that of a",
        "parabola through it and its neighbours. ! marks an interval without the best run, !! one without the vertex.",
        "Where the best run is at the end of its sweep, the optimum may lie beyond.",
        "",
        *table(["held out", "from", "", "best run", "vertex", "predicted (95 %)", ""], shown),
        "",
        "Octaves between prediction and vertex (or best run), and regret in percent read off the budget's own runs,",
        "one hyperparameter at a time (by that parabola; beside a run that diverged, and beyond the sweep, that of the",
        "nearest run): largest budget / mean of the four.",
        "",
        *table(["", "lr", "batch", "weight decay", "regret %"], lines),
    ]


def _prediction(tokens: float, label: str, name: str, found: Estimate, held: Held) -> list[str]:
    assert found.low is not None and found.high is not None
    best, vertex, end = getattr(held.best, name), held.vertex(name), held.end(name)
    holds_run = (found.low <= best or end > 0) and (best <= found.high or end < 0)
    holds_vertex = vertex is None or found.low <= vertex <= found.high
    marks = ("" if holds_run else "!") + ("" if holds_vertex else " !!")
    interval = f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"
    source = "all runs" if "all" in label else "lr, batch, decay runs"
    return [
        f"{tokens / 1e9:g}B",
        source,
        name,
        f"{best:.3g}",
        f"{vertex:.3g}" if vertex else ("at most", "next diverged", "at least")[end + 1],
        interval,
        marks,
    ]


# --- critical batch and steps to a loss at a larger size -------------------------------------------------------------


def zhang(path: Path) -> list[str]:
    """The largest size from the two others, then each of those."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    runs = [
        ToTarget(n, 20 * n, float(line["batch_tokens"]), float(line["steps_to_target"]), float(line["target_loss"]))
        for line in lines
        if (n := float(line["n_params"]))
    ]
    seq_len = float(lines[0]["seq_len"])
    reference = 256 * seq_len
    own = {model.params: model for model in critical_batches(runs, reference)}
    shown = []
    for size in sorted(own, reverse=True):
        there = [run for run in runs if run.params == size]
        law = fit_critical_batch([run for run in runs if run.params != size], reference)
        low, high = law.interval(size)
        x, y = (np.log([getattr(model, key) for model in law.models]) for key in ("params", "critical"))
        line = math.exp(float(np.polyval(np.polyfit(x, y, 1), math.log(size))))
        nearest = min(law.models, key=lambda model: abs(math.log(model.params / size)))
        published = 93.20 * math.exp(0.46828 * math.log(size / 1e6)) * seq_len
        off = rms([math.log(law.steps(size, 20 * size, run.batch_tokens) / run.steps_to_target) for run in there])
        ratio = 0.2 / (published - 1.2 * reference)
        theirs = [20 * size * (ratio + 1 / run.batch_tokens) / (1 + ratio * reference) for run in there]
        theirs_off = rms([math.log(a / run.steps_to_target) for a, run in zip(theirs, there, strict=True)])
        measured = own[size].critical
        shown.append(
            [
                f"{size / 1e6:g}M",
                f"{measured / seq_len:.0f}",
                f"{law.at(size) / seq_len:.0f} ({low / seq_len:.0f} to {high / seq_len:.0f})",
                *(f"{value / seq_len:.0f}" for value in (line, nearest.critical, published)),
                *(f"{value * 100:.1f}" for value in (off, theirs_off, own[size].scatter)),
            ]
        )
    return [
        "Critical batch in sequences of 512, and steps to the target at nine batches (rms error in percent), of each",
        "size from the two others. The published law saw them all. The scatter of a size's runs about its own",
        "hyperbola is the least that can be reached.",
        "",
        *table(
            [
                "held out",
                "its own",
                "hptransfer (95 %)",
                "line through logs",
                "nearest size",
                "Zhang et al.",
                "steps: hptransfer",
                "Zhang et al.",
                "own scatter",
            ],
            shown,
        ),
    ]


# --- compute-optimal size and loss at a larger budget ----------------------------------------------------------------

Optimum = tuple[float, float]
"""ln params and ln loss of the best size."""


def parabola(rows: Floats, sizes: int = 5) -> Optimum:
    """Through the best runs of one budget; rows of flops, params, tokens, loss."""
    n, y = np.log(rows[:, 1]), np.log(rows[:, 3])
    near = np.argsort(y)[:sizes]
    a, b, c = np.polyfit(n[near], y[near], 2)
    at = float(np.clip(-b / 2 / a if a > 0 else n[near[0]], n[near].min(), n[near].max()))
    return at, float(np.polyval((a, b, c), at))


def by_parabolas(rows: Floats) -> Callable[[float], Optimum]:
    """A power law through the vertices; E + K C^-gamma through their heights by least squares, gamma from a grid."""
    budgets = np.unique(rows[:, 0])
    found = np.array([parabola(rows[rows[:, 0] == flops]) for flops in budgets])
    x = np.log(budgets / budgets[-1])
    line = np.polyfit(x, found[:, 0], 1)
    fits = []
    for gamma in np.linspace(0.02, 0.5, 97):
        design = np.stack([np.ones_like(x), np.exp(-gamma * x)], 1) / np.exp(found[:, 1:])
        values = np.linalg.lstsq(design, np.ones_like(x), rcond=None)[0]
        fits.append((values[0] <= 0, float(np.sum((design @ values - 1) ** 2)), gamma, values))
    _, _, gamma, (floor, rest) = min(fits, key=lambda one: one[:2])

    def at(flops: float) -> Optimum:
        beyond = math.log(flops / budgets[-1])
        return float(np.polyval(line, beyond)), math.log(floor + rest * math.exp(-gamma * beyond))

    return at


def by_chinchilla(rows: Floats) -> Callable[[float], Optimum]:
    """E + A / N^alpha + B / D^beta, log-Huber."""
    law = fit_chinchilla(*rows[:, 1:].T.tolist())

    def at(flops: float) -> Optimum:
        params, tokens = law.optimum(flops)
        return math.log(params), math.log(law.predict(params, tokens)[0])

    return at


def near_the_best(rows: Floats, within: float = 0.1) -> Floats:
    """Runs within 10 % of the best loss of their budget."""
    best = {flops: rows[rows[:, 0] == flops, 3].min() for flops in np.unique(rows[:, 0])}
    return rows[[row[3] <= (1 + within) * best[row[0]] for row in rows]]


def porian(path: Path) -> list[str]:
    """The largest budget from smaller ones, over the 15 configurations."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    groups: dict[tuple[str, ...], list[list[float]]] = {}
    for line in lines:
        key = tuple(line[name] for name in ("dataset", "hparams", "warmup", "decay", "param_count", "split"))
        groups.setdefault(key, []).append([float(line[name]) for name in ("flops", "n_params", "tokens", "loss")])
    tables = [np.array(rows) for rows in groups.values()]
    methods = {
        "Chinchilla, log-Huber, all runs": by_chinchilla,
        "Chinchilla, log-Huber, runs within 10 % of their budget's best": lambda rows: by_chinchilla(
            near_the_best(rows)
        ),
        "a parabola per budget, power laws through them": by_parabolas,
    }
    shown = []
    for largest in (8e17, 2e17):
        target = max(rows[:, 0].max() for rows in tables)
        truth = [parabola(rows[rows[:, 0] == target]) for rows in tables]
        train = [rows[rows[:, 0] <= largest] for rows in tables]
        reach = f"{largest:.0e} -> {target:.1e}".replace("e+", "e")
        for label, method in methods.items():
            found = [method(rows)(target) for rows in train]
            shown.append([reach, label, *_misses(found, truth), ""])
        laws = [fit_isoflop(rows[:, 0], rows[:, 1], rows[:, 3]) for rows in train]
        spans = [(law.params(target), law.least_loss(target)) for law in laws]
        found = [(math.log(size[0]), math.log(loss[0])) for size, loss in spans]
        inside = [
            sum(span[i][1] <= math.exp(true[i]) <= span[i][2] for span, true in zip(spans, truth, strict=True))
            for i in (0, 1)
        ]
        shown.append([reach, "hptransfer", *_misses(found, truth), f"{inside[0]} and {inside[1]} of {len(tables)}"])
    return [
        "Compute-optimal size and the loss there at the largest budget, from the budgets up to the first number of",
        f"FLOPs; errors over {len(tables)} configurations, against a parabola through the five best runs there.",
        "",
        *table(
            [
                "",
                "",
                "size, rms of ln",
                "size, worst factor",
                "loss, rms %",
                "loss, worst %",
                "size and loss inside 95 %",
            ],
            shown,
        ),
    ]


def _misses(found: Sequence[Optimum], truth: Sequence[Optimum]) -> list[str]:
    size, loss = np.array(found).T - np.array(truth).T
    worst = math.exp(float(np.abs(size).max()))
    return [f"{rms(size):.3f}", f"{worst:.2f}", f"{rms(loss) * 100:.2f}", f"{np.abs(loss).max() * 100:.2f}"]


PARTS: Mapping[str, tuple[str, Callable[[Path], list[str]]]] = {
    "lr, batch and weight decay at other token budgets": ("marin_adamw_130m.csv", marin),
    "critical batch and steps to a loss at another size": ("zhang_cbs_small.csv", zhang),
    "compute-optimal size and loss at a larger budget": ("porian_isoflop_small.csv", porian),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    lines = ["`python benchmarks/laws_public.py DATA`"]
    for title, (name, part) in PARTS.items():
        lines += ["", f"**{title}** ({name})", "", *part(args.data / name)]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
