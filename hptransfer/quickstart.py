"""The main job, from the public functions alone: proxy sweep, law, tuned target, target runs, report."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.config import load_config, read_yaml, to_yaml
from hptransfer.errors import UserError
from hptransfer.files import make_folder, write_atomic
from hptransfer.laws import fit
from hptransfer.recommendation import interval
from hptransfer.report import write_report
from hptransfer.rows import Row
from hptransfer.sweeps import sweep
from hptransfer.tables import amount, table
from hptransfer.target import Tuned, transfer

CUSTOMARY_LR = 3e-4
"""What people take who tune nothing."""


def quickstart(runs: Path, workers: int | None = None, overrides: Sequence[str] = ()) -> str:
    """Runs all of it below `runs`/quickstart; started again, it continues. Returns the closing text."""
    home = make_folder(runs / "quickstart")
    clone = _clone()

    print("1/4 sweeping the lr on small proxies")
    proxies = read_yaml(clone / "sweeps/quickstart.yaml")["parameters"]
    rows = _swept(home, "proxies", clone / "configs/quickstart.yaml", proxies, workers, overrides)

    print("2/4 fitting the law and transferring it to the target")
    laws = fit(rows)
    laws.save(home / "laws.yaml")
    tuned = transfer(laws, load_config(clone / "configs/quickstart_target.yaml", overrides))
    write_atomic(home / "target_tuned.yaml", tuned.to_yaml())

    print("3/4 training the target: at the transferred lr, at half and twice of it, then as one would without transfer")
    lr, proxy_lr = tuned.config.optimizer.lr, _best_of_smallest(rows).lr
    contenders = {
        "transferred lr": ("completep", lr),
        "half of it": ("completep", lr / 2),
        "twice of it": ("completep", lr * 2),
        "sp, smallest proxy's best lr": ("sp", proxy_lr),
        f"sp, lr {CUSTOMARY_LR:g}": ("sp", CUSTOMARY_LR),
    }
    trained: list[Row] = []
    for scheme in ("completep", "sp"):
        lrs = {"optimizer.lr": {"values": [value for name, value in contenders.values() if name == scheme]}}
        fixed = [f"parametrization.name={scheme}"]
        trained += _swept(home, f"target_{scheme}", home / "target_tuned.yaml", lrs, workers, fixed)
    found = {(row.recipe["parametrization"], row.lr): row for row in trained}
    results = {label: found[contender] for label, contender in contenders.items()}

    print("4/4 writing the report")
    write_report([home / "proxies", home / "target"], laws, home / "report.html", title="Quickstart")
    return _closing(tuned, results, rows, home)


def _swept(
    home: Path,
    name: str,
    base: Path,
    parameters: Mapping[str, Any],
    workers: int | None,
    overrides: Sequence[str],
) -> list[Row]:
    """The rows of a grid sweep over `base`; its sweep file and its runs stay below `home`."""
    command = ["hptransfer", "train", str(base), *overrides, "${args}"]
    metric = {"name": "loss", "goal": "minimize"}
    plan = {"name": name, "method": "grid", "metric": metric, "parameters": parameters, "command": command}
    write_atomic(home / f"{name}.yaml", to_yaml(plan))
    done = sweep(home / f"{name}.yaml", runs=home / name.partition("_")[0], workers=workers)
    if len(done.rows) < len(done.runs):
        raise UserError(f"{done.to_text()}\nquickstart: some runs failed, see above; the same command continues")
    return done.rows


def _closing(tuned: Tuned, results: Mapping[str, Row], proxies: Sequence[Row], home: Path) -> str:
    """The table in the terminal, what was saved, where things are, and what to type next."""
    best = results["transferred lr"]
    lines = [
        {
            "target trained with": name,
            "lr": row.lr,
            "loss": row.loss if math.isfinite(row.loss) else row.status,
            "against transferred": f"{100 * (row.loss / best.loss - 1):+.2f} %" if math.isfinite(row.loss) else "",
        }
        for name, row in results.items()
    ]
    predicted = tuned.prediction.loss
    expected = f"predicted {predicted.value:.3f} ({interval(predicted)}), " if predicted else ""
    spent = math.fsum(row.flops or 0.0 for row in proxies)
    lrs = len({row.lr for row in proxies})
    same = lrs * (best.flops or 0.0)
    return "\n".join(
        [
            "",
            table(lines),
            "",
            f"loss of the target at the transferred lr: {expected}measured {best.loss:.3f}",
            f"compute: {amount(spent, 'FLOP')} for the proxies; the same {lrs} lrs at the target's size would take "
            f"{amount(same, 'FLOP')}, {same / spent:.0f} times as much",
            f"the tuned config  {home / 'target_tuned.yaml'}",
            f"the law           {home / 'laws.yaml'}",
            f"the report        {home / 'report.html'}",
            f"next: hptransfer predict {home / 'laws.yaml'} --config configs/quickstart_target.yaml --model.width=256",
        ]
    )


def _best_of_smallest(rows: Sequence[Row]) -> Row:
    """The best run of the smallest proxy: at the base shape every parametrization is sp, so it is sp's best run too."""
    smallest = min(row.params for row in rows)
    return min((row for row in rows if row.params == smallest and math.isfinite(row.loss)), key=lambda row: row.loss)


def _clone() -> Path:
    """The folder that holds configs/ and sweeps/ beside the package."""
    clone = Path(__file__).parent.parent
    if not (clone / "sweeps/quickstart.yaml").exists():
        raise UserError("quickstart runs from a clone (pip install -e .): configs/ is not beside the package")
    return clone
