"""The command line: what can be typed. Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hptransfer import verbs
from hptransfer.errors import UserError
from hptransfer.rules import EMBEDDING_LR, WEIGHT_DECAY
from hptransfer.verbs import say

OVERRIDES = "a.b=v overrides a config key; --a.b=v does too"
OVERRIDE = re.compile(r"(--)?(model|parametrization|optimizer|schedule|data|train|tracking)(\.[\w.]+)?=")
"""Read before argparse, which would take one with a space in its value for the config's name."""


def parser() -> argparse.ArgumentParser:
    """All verbs; a verb's help is its function's docstring."""
    root = argparse.ArgumentParser(prog="hptransfer", description="Tune small, train big, with evidence.")
    subparsers = root.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(action: Callable[[argparse.Namespace], int], *options: tuple[Any, ...], overrides: bool = False) -> None:
        about = (action.__doc__ or "").strip()
        added = subparsers.add_parser(
            action.__name__, help=about, description=about, allow_abbrev=False, epilog=OVERRIDES if overrides else None
        )
        added.set_defaults(action=action, takes_overrides=overrides)
        for *names, settings in options:
            added.add_argument(*names, **settings)

    config = ("config", {"help": "run config (YAML)"})
    runs = ("--runs", {"default": "runs", "metavar": "DIR", "help": "folder of run records (default: runs)"})
    workers = ("--workers", {"type": int, "metavar": "N", "help": "processes (default: one per core)"})
    laws = ("laws", {"help": "laws file (YAML)"})
    as_json = ("--json", {"action": "store_true", "help": "print JSON"})
    output = ("-o", "--output", {"required": True, "metavar": "FILE"})
    records = (
        "runs",
        {"nargs": "+", "metavar": "RUNS", "help": "run folders, folders of runs, CSV files, wandb:entity/project"},
    )
    columns = (
        "--map",
        {
            "action": "append",
            "default": [],
            "metavar": "OURS=THEIRS[*FACTOR]",
            "help": "a CSV's column, times a number or another column; repeatable",
        },
    )
    batch = ("--batch-tokens", {"type": float, "metavar": "B", "help": "fix the batch; lr moves with it"})

    verb(verbs.train, config, runs, overrides=True)
    verb(verbs.explain, config, as_json, overrides=True)
    verb(verbs.export, config, output, overrides=True)
    verb(
        verbs.table,
        ("name", {}),
        ("optimizer", {"nargs": "?", "help": "adamw, sgd, muon, shampoo, soap or kfac (default: the first it has)"}),
        ("--weight-decay", {"choices": sorted(WEIGHT_DECAY), "help": "over width (default: the paper's)"}),
        ("--embedding-lr", {"choices": sorted(EMBEDDING_LR), "help": "over width (default: the paper's)"}),
        ("--one-eps", {"action": "store_true", "help": "scale_eps: false"}),
        ("--decay-vectors", {"action": "store_true", "help": "decay gains and biases too"}),
    )
    how = (
        ("--retry-failed", {"action": "store_true", "help": "run failed runs again"}),
        ("--timeout", {"type": float, "metavar": "SECONDS", "help": "of one local trial"}),
        ("--trials-per-device", {"type": int, "default": 1, "metavar": "K", "help": "on each accelerator at a time"}),
        ("--executor", {"default": "local", "help": "local (default), slurm or ray"}),
        ("--option", {"action": "append", "default": [], "metavar": "KEY=V", "help": "for the executor; repeatable"}),
    )
    depth = (
        ("--deepen", {"type": times, "metavar": "Kx", "help": "go on from finished runs to K times their length"}),
        ("--best", {"type": int, "metavar": "N", "help": "with --deepen: the N best of each size alone"}),
    )
    sweep_file = ("sweep", {"help": "sweep file (YAML, as W&B's)"})
    seed = ("--seed", {"type": int, "default": 0, "help": "of a random sweep's draws"})
    design = ("--design", {"choices": ("random", "qmc"), "default": "random", "help": "how a random sweep draws"})
    verb(
        verbs.sweep,
        sweep_file,
        runs,
        workers,
        seed,
        design,
        ("--dry-run", {"action": "store_true", "help": "list the runs and their cost"}),
        *depth,
        ("--share", {"action": "store_true", "help": "work beside another process that runs this sweep"}),
        *how,
    )
    verb(verbs.status, sweep_file, runs, workers, seed, design, *depth, as_json)
    verb(
        verbs.check,
        config,
        ("--width", {"type": sizes, "metavar": "N,N,...", "help": "widths to compare"}),
        ("--depth", {"type": sizes, "metavar": "N,N,...", "help": "depths to compare"}),
        ("--steps", {"type": int, "default": 10, "metavar": "N"}),
        ("--seeds", {"type": int, "default": 3, "metavar": "N"}),
        runs,
        workers,
        ("-o", "--output", {"metavar": "FILE", "help": "also write figures (HTML)"}),
        as_json,
        overrides=True,
    )
    verb(
        verbs.fit,
        records,
        output,
        ("--pool", {"action": "store_true", "help": "pool runs of different recipes"}),
        columns,
    )
    verb(
        verbs.predict,
        ("laws", {"nargs": "?", "help": "laws file (YAML); none with --law"}),
        ("--law", {"metavar": "NAME", "help": "a published law instead (hptransfer laws list)"}),
        ("--params", {"type": float, "metavar": "N", "help": "non-embedding parameters"}),
        ("--tokens", {"type": float, "metavar": "D"}),
        ("--config", {"metavar": "CONFIG", "help": "take the size from a run config"}),
        batch,
        as_json,
        overrides=True,
    )
    verb(
        verbs.laws,
        ("what", {"choices": ("list", "show")}),
        ("name", {"nargs": "?", "help": "of a published law, for show"}),
    )
    verb(verbs.compare, laws, records, columns)
    verb(
        verbs.ladder,
        ("--target", {"required": True, "metavar": "CONFIG", "dest": "config", "help": "the target's run config"}),
        ("--budget", {"required": True, "type": percent, "metavar": "P%", "help": "of the FLOPs of the target's run"}),
        ("--batch", {"action": "store_true", "help": "sweep lr and batch together"}),
        output,
        overrides=True,
    )
    verb(verbs.transfer, laws, ("target", {"help": "the target's run config"}), output, batch, overrides=True)
    verb(
        verbs.confirm,
        ("config", {"help": "the target's run config as transfer wrote it"}),
        ("--budget", {"required": True, "type": percent, "metavar": "P%", "help": "of the FLOPs of the target's run"}),
        ("--run", {"action": "store_true", "help": "train the rung and judge (without: only the plan)"}),
        ("--laws", {"default": "laws.yaml", "metavar": "FILE", "help": "that transfer used (default: laws.yaml)"}),
        ("--evidence", {"nargs": "+", "metavar": "RUNS", "help": "that the laws were fitted to (default: --runs)"}),
        columns,
        (
            "--tolerate",
            {"type": percent, "default": "0.5%", "metavar": "P%", "help": "regret (default: 0.5%% of the loss)"},
        ),
        ("-o", "--output", {"metavar": "FILE", "help": "the laws fitted again (default: LAWS_confirmed.yaml)"}),
        runs,
        workers,
        *how,
        overrides=True,
    )
    verb(verbs.report, records, ("--laws", {"metavar": "FILE"}), columns, output)
    verb(
        verbs.wandb,
        ("what", {"choices": ("sync", "publish", "workspace")}),
        ("runs", {"nargs": "*", "default": ["runs"], "metavar": "RUNS", "help": "for sync, publish (default: runs)"}),
        ("--project", {"metavar": "ENTITY/PROJECT"}),
        ("--laws", {"metavar": "FILE", "help": "for publish: laws to draw"}),
        ("--tuned", {"metavar": "CONFIG", "help": "for publish: the target's config, as an artifact"}),
        ("--report", {"metavar": "HTML", "help": "for publish: the page that report wrote"}),
        columns,
    )
    verb(verbs.doctor, runs)
    verb(verbs.schema)
    verb(verbs.quickstart, runs, workers, overrides=True)
    return root


def sizes(text: str) -> list[int]:
    """`64,128,256` as numbers."""
    return [int(part) for part in text.split(",")]


def times(text: str) -> int:
    """`4x` as a number."""
    return int(text.removesuffix("x"))


def percent(text: str) -> float:
    """`5%` as a fraction."""
    return float(text.removesuffix("%")) / 100


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
