"""The command line: one function per verb, no logic.

Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError, about

OVERRIDES = "a.b=v overrides a config key; --a.b=v does too"
OVERRIDE = re.compile(r"(--)?(model|parametrization|optimizer|schedule|data|train|tracking)(\.[\w.]+)?=")
"""Read before argparse, which would take one with a space in its value for the config's name."""


def train(args: argparse.Namespace) -> int:
    """Train one run; a finished run is not run again, an interrupted one continues. Prints the run folder last."""
    from hptransfer.config import load_config

    config = load_config(args.config, args.overrides)
    from hptransfer.training import train as train_run  # torch: only once the config is known to be good

    with about(args.config), step_bar(Path(args.config).stem) as on_step, data_bar() as on_data:
        record = train_run(config, args.runs, on_step, on_data)
    result = record.result or {}
    say(f"{result.get('status')}: loss {_show(result.get('loss'))} after {result.get('tokens_seen')} tokens")
    print(record.path)
    return 0


def explain(args: argparse.Namespace) -> int:
    """Print what a config means: every tensor's numbers, tokens, FLOPs, memory. Nothing is trained."""
    from hptransfer.config import load_config
    from hptransfer.records import to_json

    config = load_config(args.config, args.overrides)
    from hptransfer.explain import to_text  # torch: only once the config is known to be good
    from hptransfer.scaling import resolve

    with about(args.config):
        plan = resolve(config)
    print(to_json(plan.to_dict(), indent=2) if args.json else to_text(plan))
    return 0


def export(args: argparse.Namespace) -> int:
    """Write all numbers of a run as JSON, for a model that is trained elsewhere."""
    from hptransfer.config import load_config
    from hptransfer.exporting import export as numbers
    from hptransfer.records import write_json

    with about(args.config):
        write_json(Path(args.output), numbers(load_config(args.config, args.overrides)))
    print(args.output)
    return 0


def table(args: argparse.Namespace) -> int:
    """Print a parametrization as a Markdown table."""
    from hptransfer.parametrization import to_markdown

    print(to_markdown(args.name, args.optimizer), end="")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Run every run of a sweep file in a pool of processes; the same command continues an interrupted sweep."""
    from hptransfer.loading import parse_override
    from hptransfer.sweeps import sweep as run_sweep

    result = run_sweep(
        args.sweep,
        runs=args.runs,
        workers=args.workers,
        seed=args.seed,
        dry_run=args.dry_run,
        retry_failed=args.retry_failed,
        design=args.design,
        timeout=args.timeout,
        executor=args.executor,
        executor_options=dict(parse_override(option) for option in args.option),
    )
    print(result.to_text())
    return 1 if result.failed else 0


def status(args: argparse.Namespace) -> int:
    """Say what of a sweep is done, running and failed (with the reason), and the time that is left."""
    from hptransfer.sweeps import status as look

    print(look(args.sweep, runs=args.runs, workers=args.workers, seed=args.seed, design=args.design).to_text())
    return 0


def check(args: argparse.Namespace) -> int:
    """Check that activations, updates and gradients keep their size as width and depth grow; exit status 1 on FAIL."""
    from hptransfer.config import load_config
    from hptransfer.coordcheck import check as run_check
    from hptransfer.coordcheck import to_text
    from hptransfer.coordcheck.page import write_page
    from hptransfer.records import to_json

    with about(args.config), count_bar("runs") as on_run, data_bar() as on_data:
        found = run_check(
            load_config(args.config, args.overrides),
            widths=args.width,
            depths=args.depth,
            steps=args.steps,
            seeds=args.seeds,
            runs=args.runs,
            workers=args.workers,
            on_run=on_run,
            on_data=on_data,
        )
    print(to_json(found.to_dict(), indent=2) if args.json else to_text(found))
    if args.output:
        say(f"written: {write_page(found, Path(args.output))}")
    return 0 if found.passed else 1


def fit(args: argparse.Namespace) -> int:
    """Fit the laws to run folders and CSV files."""
    from hptransfer.laws import fit as fit_laws
    from hptransfer.tracking import rows_from

    laws = fit_laws(rows_from(args.runs, warn=say), pool=args.pool)
    laws.save(args.output)
    print(laws.summary())
    print(args.output)
    return 0


def predict(args: argparse.Namespace) -> int:
    """Recommend lr, batch and weight decay at a size, with intervals."""
    from hptransfer.laws import Laws
    from hptransfer.records import to_json
    from hptransfer.target import predict_for, size_of, to_text

    laws = Laws.load(args.laws)
    size = size_of(args.config, args.overrides, args.params, args.tokens)
    prediction = predict_for(laws, size, args.batch_tokens)
    print(to_json(prediction.to_json(), indent=2) if args.json else to_text(prediction))
    return 0


def transfer(args: argparse.Namespace) -> int:
    """Write the target's config with everything that must move filled in, each line with its reason."""
    from hptransfer.config import load_config
    from hptransfer.files import write_atomic
    from hptransfer.laws import Laws
    from hptransfer.target import transfer as tune

    tuned = tune(Laws.load(args.laws), load_config(args.target, args.overrides), batch_tokens=args.batch_tokens)
    write_atomic(Path(args.output), tuned.to_yaml())
    for warning in tuned.warnings:
        say(f"warning: {warning}")
    print(tuned.to_text())
    print(args.output)
    return 0


def report(args: argparse.Namespace) -> int:
    """Write one self-contained HTML file on runs and laws."""
    from hptransfer.laws import Laws
    from hptransfer.report import write_report

    laws = Laws.load(args.laws) if args.laws else None
    write_report(args.runs, laws, Path(args.output), warn=say)
    print(args.output)
    return 0


def wandb(args: argparse.Namespace) -> int:
    """Bring ended local runs into W&B (sync), or make its dashboard by code (workspace)."""
    from hptransfer.tracking import sync
    from hptransfer.tracking.workspace import save_workspace

    if args.what == "workspace":
        print(save_workspace(args.project or ""))
        return 0
    with count_bar("runs") as on_run:
        say(f"{sync(args.runs, args.project, on_run)} runs are in W&B")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Say what this machine has (cores, accelerator, disk, W&B login, extras) and what that means."""
    from hptransfer.doctor import examine
    from hptransfer.tables import table as lay_out

    print(lay_out(examine(Path(args.runs))))
    return 0


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a run config."""
    from hptransfer.config import run_schema

    print(run_schema(), end="")
    return 0


def quickstart(args: argparse.Namespace) -> int:
    """The main job on real text: proxy sweep, law, tuned target, target runs, report."""
    from hptransfer.quickstart import quickstart as run

    print(run(Path(args.runs), workers=args.workers, overrides=args.overrides))
    return 0


def parser() -> argparse.ArgumentParser:
    """All verbs; a verb's help is its function's docstring."""
    root = argparse.ArgumentParser(prog="hptransfer", description="Tune small, train big, with evidence.")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(action: Callable[[argparse.Namespace], int], *options: tuple[Any, ...], overrides: bool = False) -> None:
        about = (action.__doc__ or "").strip()
        added = verbs.add_parser(
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
    batch = ("--batch-tokens", {"type": float, "metavar": "B", "help": "fix the batch; lr moves with it"})

    verb(train, config, runs, overrides=True)
    verb(explain, config, as_json, overrides=True)
    verb(export, config, output, overrides=True)
    verb(
        table,
        ("name", {}),
        ("optimizer", {"nargs": "?", "help": "adamw, sgd or muon (default: the first it has rows for)"}),
    )
    sweep_file = ("sweep", {"help": "sweep file (YAML, as W&B's)"})
    seed = ("--seed", {"type": int, "default": 0, "help": "of a random sweep's draws"})
    design = ("--design", {"choices": ("random", "qmc"), "default": "random", "help": "how a random sweep draws"})
    verb(
        sweep,
        sweep_file,
        runs,
        workers,
        seed,
        design,
        ("--dry-run", {"action": "store_true", "help": "list the runs and their cost"}),
        ("--retry-failed", {"action": "store_true", "help": "run failed runs again"}),
        ("--timeout", {"type": float, "metavar": "SECONDS", "help": "of one local trial"}),
        ("--executor", {"default": "local", "help": "local (default), slurm or ray"}),
        ("--option", {"action": "append", "default": [], "metavar": "KEY=V", "help": "for the executor; repeatable"}),
    )
    verb(status, sweep_file, runs, workers, seed, design)
    verb(
        check,
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
    verb(fit, records, output, ("--pool", {"action": "store_true", "help": "pool runs of different recipes"}))
    verb(
        predict,
        laws,
        ("--params", {"type": float, "metavar": "N", "help": "non-embedding parameters"}),
        ("--tokens", {"type": float, "metavar": "D"}),
        ("--config", {"metavar": "CONFIG", "help": "take the size from a run config"}),
        batch,
        as_json,
        overrides=True,
    )
    verb(transfer, laws, ("target", {"help": "the target's run config"}), output, batch, overrides=True)
    verb(report, records, ("--laws", {"metavar": "FILE"}), output)
    verb(
        wandb,
        ("what", {"choices": ("sync", "workspace")}),
        ("runs", {"nargs": "*", "default": ["runs"], "metavar": "RUNS", "help": "for sync (default: runs)"}),
        ("--project", {"metavar": "ENTITY/PROJECT"}),
    )
    verb(doctor, runs)
    verb(schema)
    verb(quickstart, runs, workers, overrides=True)
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


def say(line: str) -> None:
    """To the user, beside the output."""
    print(f"hptransfer: {line}", file=sys.stderr)


def _show(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


@contextmanager
def step_bar(label: str) -> Iterator[Callable[[Any], None]]:
    """A progress bar over the steps of one run; silent where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(desc=label, unit="step", disable=None, dynamic_ncols=True) as bar:

        def on_step(step: Any) -> None:
            bar.total = step.steps
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            bar.update(step.step - bar.n)

        yield on_step


def sizes(text: str) -> list[int]:
    """`64,128,256` as numbers."""
    return [int(part) for part in text.split(",")]


@contextmanager
def count_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over things that are done one after the other."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, leave=False, dynamic_ncols=True) as bar:

        def on_one(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_one


@contextmanager
def data_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over the building of a corpus."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, leave=False, dynamic_ncols=True) as bar:

        def on_data(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield on_data
