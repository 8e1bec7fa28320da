"""The command line: what can be typed. Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hptransfer import verbs
from hptransfer.errors import UserError
from hptransfer.rules import EMBEDDING_LR, WEIGHT_DECAY
from hptransfer.verbs import say

OVERRIDES = "a.b=v overrides a config key; --a.b=v does too"
OVERRIDE = re.compile(r"(--)?(model|parametrization|optimizer|schedule|data|train|tracking)(\.[\w.]+)?=")
"""Read before argparse, which would take one with a space in its value for the config's name."""


def sizes(text: str) -> list[int]:
    """`64,128,256` as numbers."""
    return [int(part) for part in text.split(",")]


def times(text: str) -> int:
    """`4x` as a number."""
    return int(text.removesuffix("x"))


def percent(text: str) -> float:
    """`5%` as a fraction."""
    return float(text.removesuffix("%")) / 100


Option = tuple[tuple[str, ...], dict[str, Any]]


def option(*names: str, **settings: Any) -> Option:
    """What `argparse.ArgumentParser.add_argument` takes."""
    return names, settings


class Verb(NamedTuple):
    """A verb's function, whose docstring is its help; its options; whether it takes overrides."""

    action: Callable[[argparse.Namespace], int]
    options: Sequence[Option] = ()
    overrides: bool = False


CONFIG = option("config", help="run config (YAML)")
RUNS = option("--runs", default="runs", metavar="DIR", help="folder of run records (default: runs)")
WORKERS = option("--workers", type=int, metavar="N", help="processes (default: one per core)")
LAWS = option("laws", help="laws file (YAML)")
AS_JSON = option("--json", action="store_true", help="print JSON")
OUTPUT = option("-o", "--output", required=True, metavar="FILE")
RECORDS = option(
    "runs", nargs="+", metavar="RUNS", help="run folders, folders of runs, CSV files, wandb:entity/project"
)
COLUMNS = option(
    "--map",
    action="append",
    default=[],
    metavar="OURS=THEIRS[*FACTOR]",
    help="a CSV's column, times a number or another column; repeatable",
)
BATCH = option("--batch-tokens", type=float, metavar="B", help="fix the batch; lr moves with it")
BUDGET = option("--budget", required=True, type=percent, metavar="P%", help="of the FLOPs of the target's run")
WHICH = (
    option("sweep", help="sweep file (YAML, as W&B's)"),
    RUNS,
    WORKERS,
    option("--seed", type=int, default=0, help="of a random sweep's draws"),
    option("--design", choices=("random", "qmc"), default="random", help="how a random sweep draws"),
    option("--deepen", type=times, metavar="Kx", help="go on from finished runs to K times their length"),
    option("--best", type=int, metavar="N", help="with --deepen: the N best of each size alone"),
)
"""Of which runs a sweep has."""
HOW = (
    option("--retry-failed", action="store_true", help="run failed runs again"),
    option("--timeout", type=float, metavar="SECONDS", help="of one local trial"),
    option("--trials-per-device", type=int, default=1, metavar="K", help="on each accelerator at a time"),
    option("--executor", default="local", help="local (default), slurm or ray"),
    option("--option", action="append", default=[], metavar="KEY=V", help="for the executor; repeatable"),
)
"""Of how runs are trained."""

VERBS = (
    Verb(verbs.train, (CONFIG, RUNS), overrides=True),
    Verb(verbs.explain, (CONFIG, AS_JSON), overrides=True),
    Verb(verbs.export, (CONFIG, OUTPUT), overrides=True),
    Verb(
        verbs.table,
        (
            option("name"),
            option("optimizer", nargs="?", help="adamw, sgd, muon, shampoo, soap or kfac (default: the first it has)"),
            option("--weight-decay", choices=sorted(WEIGHT_DECAY), help="over width (default: the paper's)"),
            option("--embedding-lr", choices=sorted(EMBEDDING_LR), help="over width (default: the paper's)"),
            option("--one-eps", action="store_true", help="scale_eps: false"),
            option("--decay-vectors", action="store_true", help="decay gains and biases too"),
        ),
    ),
    Verb(
        verbs.sweep,
        (
            *WHICH,
            option("--dry-run", action="store_true", help="list the runs and their cost"),
            option("--share", action="store_true", help="work beside another process that runs this sweep"),
            *HOW,
        ),
    ),
    Verb(verbs.status, (*WHICH, AS_JSON)),
    Verb(
        verbs.check,
        (
            CONFIG,
            option("--width", type=sizes, metavar="N,N,...", help="widths to compare"),
            option("--depth", type=sizes, metavar="N,N,...", help="depths to compare"),
            option("--steps", type=int, default=10, metavar="N"),
            option("--seeds", type=int, default=3, metavar="N"),
            RUNS,
            WORKERS,
            option("-o", "--output", metavar="FILE", help="also write figures (HTML)"),
            AS_JSON,
        ),
        overrides=True,
    ),
    Verb(
        verbs.fit,
        (RECORDS, OUTPUT, option("--pool", action="store_true", help="pool runs of different recipes"), COLUMNS),
    ),
    Verb(
        verbs.predict,
        (
            option("laws", nargs="?", help="laws file (YAML); none with --law"),
            option("--law", metavar="NAME", help="a published law instead (hptransfer laws list)"),
            option("--params", type=float, metavar="N", help="non-embedding parameters"),
            option("--tokens", type=float, metavar="D"),
            option("--config", metavar="CONFIG", help="take the size from a run config"),
            BATCH,
            AS_JSON,
        ),
        overrides=True,
    ),
    Verb(
        verbs.laws,
        (option("what", choices=("list", "show")), option("name", nargs="?", help="of a published law, for show")),
    ),
    Verb(
        verbs.critical,
        (
            option("steps", metavar="CSV", help="steps to a loss, a line for each batch of a model"),
            option(
                "--reference", required=True, type=float, metavar="B", help="tokens of the batch that scaling starts at"
            ),
            option("--by", choices=("params", "tokens"), default="params", help="what the law is in (default: params)"),
            option("--at", action="append", type=float, default=[], metavar="N", help="say it there; repeatable"),
        ),
    ),
    Verb(verbs.compare, (LAWS, RECORDS, COLUMNS)),
    Verb(
        verbs.ladder,
        (
            option("--target", required=True, metavar="CONFIG", dest="config", help="the target's run config"),
            BUDGET,
            option("--batch", action="store_true", help="sweep lr and batch together"),
            RUNS,
            OUTPUT,
        ),
        overrides=True,
    ),
    Verb(verbs.transfer, (LAWS, option("target", help="the target's run config"), OUTPUT, BATCH), overrides=True),
    Verb(
        verbs.confirm,
        (
            option("config", help="the target's run config as transfer wrote it"),
            BUDGET,
            option("--run", action="store_true", help="train the rung and judge (without: only the plan)"),
            option("--laws", default="laws.yaml", metavar="FILE", help="that transfer used (default: laws.yaml)"),
            option("--evidence", nargs="+", metavar="RUNS", help="that the laws were fitted to (default: --runs)"),
            COLUMNS,
            option(
                "--tolerate", type=percent, default="0.5%", metavar="P%", help="regret (default: 0.5%% of the loss)"
            ),
            option("-o", "--output", metavar="FILE", help="the laws fitted again (default: LAWS_confirmed.yaml)"),
            RUNS,
            WORKERS,
            *HOW,
        ),
        overrides=True,
    ),
    Verb(verbs.report, (RECORDS, option("--laws", metavar="FILE"), COLUMNS, OUTPUT)),
    Verb(
        verbs.wandb,
        (
            option("what", choices=("sync", "publish", "workspace")),
            option("runs", nargs="*", default=["runs"], metavar="RUNS", help="for sync, publish (default: runs)"),
            option("--project", metavar="ENTITY/PROJECT"),
            option("--laws", metavar="FILE", help="for publish: laws to draw"),
            option("--tuned", metavar="CONFIG", help="for publish: the target's config, as an artifact"),
            option("--report", metavar="HTML", help="for publish: the page that report wrote"),
            COLUMNS,
        ),
    ),
    Verb(verbs.doctor, (RUNS,)),
    Verb(verbs.schema),
    Verb(verbs.quickstart, (RUNS, WORKERS), overrides=True),
)


def parser() -> argparse.ArgumentParser:
    """All verbs."""
    root = argparse.ArgumentParser(prog="hptransfer", description="Tune small, train big, with evidence.")
    subparsers = root.add_subparsers(dest="verb", metavar="VERB", required=True)
    for action, options, overrides in VERBS:
        about = (action.__doc__ or "").strip()
        added = subparsers.add_parser(
            action.__name__, help=about, description=about, allow_abbrev=False, epilog=OVERRIDES if overrides else None
        )
        added.set_defaults(action=action, takes_overrides=overrides)
        for names, settings in options:
            added.add_argument(*names, **settings)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; what the user can mend is said in plain lines, never in a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    root = parser()
    words = list(sys.argv[1:] if argv is None else argv)
    overrides = [word for word in words if OVERRIDE.match(word)]
    args, rest = root.parse_known_args([word for word in words if word not in overrides])
    rest = [*overrides, *rest]
    if rest and not args.takes_overrides:
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    try:
        return int(args.action(args))
    except UserError as problem:
        for line in str(problem).splitlines():
            say(line)
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command continues where this one stopped")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        if os.environ.get("HPTRANSFER_DEBUG"):
            raise
        first = next(iter(str(problem).splitlines()), "")
        say(f"failed: {type(problem).__name__}: {first} (HPTRANSFER_DEBUG=1 shows where)")
        return 1


def _interrupt(signum: int, frame: Any) -> None:
    """SIGTERM (a scheduler's preemption, say) is taken as Ctrl-C: a checkpoint, then out."""
    raise KeyboardInterrupt
