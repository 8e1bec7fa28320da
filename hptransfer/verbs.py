"""The verbs of the command line: one function each, no logic. Docstrings are the help, results the exit codes."""

import argparse
import sys
from pathlib import Path
from typing import Any

from hptransfer.bars import count_bar, data_bar, step_bar
from hptransfer.errors import UserError, about


def train(args: argparse.Namespace) -> int:
    """Train one run; a finished run is not run again, an interrupted one continues. Prints the run folder last."""
    from hptransfer.config import load_config

    config = load_config(args.config, args.overrides)
    from hptransfer.training import train as train_run  # torch: only once the config is known to be good

    with about(args.config), step_bar(Path(args.config).stem) as on_step, data_bar() as on_data:
        record = train_run(config, args.runs, on_step, on_data)
    result = record.result or {}
    say(f"{result.get('status')}: loss {show(result.get('loss'))} after {result.get('tokens_seen')} tokens")
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
    from hptransfer.parametrization import Options, to_markdown

    options = Options(args.weight_decay, args.embedding_lr, not args.one_eps, args.decay_vectors)
    print(to_markdown(args.name, args.optimizer, options), end="")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Run every run of a sweep file in a pool of processes; the same command continues an interrupted sweep."""
    from hptransfer.sweeps import sweep as run_sweep

    with data_bar() as on_data:
        result = run_sweep(
            args.sweep, dry_run=args.dry_run, share=args.share, on_data=on_data, **_which(args), **_how(args)
        )
    print(result.to_text())
    return 1 if result.failed else 0


def status(args: argparse.Namespace) -> int:
    """Say what of a sweep is done, running and failed (with the reason), and the time that is left."""
    from hptransfer.records import to_json
    from hptransfer.sweeps import status as look

    found = look(args.sweep, workers=args.workers, **_which(args))
    print(to_json(found.to_dict(), indent=2) if args.json else found.to_text())
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
    from hptransfer.seeds import seed_noise
    from hptransfer.tracking import rows_from

    rows = rows_from(args.runs, warn=say, columns=_columns(args))
    laws = fit_laws(rows, pool=args.pool)
    laws.save(args.output)
    print(laws.summary())
    if noise := seed_noise(rows):
        print(noise)
    print(args.output)
    return 0


def predict(args: argparse.Namespace) -> int:
    """Recommend lr, batch and weight decay at a size, with intervals."""
    from hptransfer.laws import Laws
    from hptransfer.laws.published import predict_published
    from hptransfer.recommendation import to_text
    from hptransfer.records import to_json
    from hptransfer.target import predict_at_base_of_runs, size_of

    if (args.law is None) == (args.laws is None):
        raise UserError("predict: give a laws file, or --law NAME (hptransfer laws list)")
    size = size_of(args.config, args.overrides, args.params, args.tokens)
    if args.law is None:
        prediction = predict_at_base_of_runs(Laws.load(args.laws), size, args.batch_tokens)
    else:
        prediction = predict_published(args.law, params=size.params, tokens=size.tokens, batch_tokens=args.batch_tokens)
    print(to_json(prediction.to_json(), indent=2) if args.json else to_text(prediction))
    return 0


def laws(args: argparse.Namespace) -> int:
    """List the published laws, or show one: formulas, units, what it holds for, source."""
    from hptransfer.laws.published import listing
    from hptransfer.laws.published import show as show_law

    if args.what == "show" and args.name is None:
        raise UserError("laws show: give the name of a law (hptransfer laws list)")
    print(listing() if args.what == "list" else show_law(args.name))
    return 0


def critical(args: argparse.Namespace) -> int:
    """Fit the critical batch to steps to a target loss at several batches: a CSV with the columns params, tokens,
    batch_tokens, steps_to_target, target_loss."""
    from hptransfer.laws.batch import fit_critical_batch, read_to_target, to_text

    print(to_text(fit_critical_batch(read_to_target(Path(args.steps)), args.reference, args.by), args.at))
    return 0


def compare(args: argparse.Namespace) -> int:
    """Compare laws with runs that were held out of the fit: regret, cell by cell, against the rivals."""
    from hptransfer.laws import Laws
    from hptransfer.laws.compare import compare as hold_against
    from hptransfer.laws.compare import to_text
    from hptransfer.tracking import rows_from

    print(to_text(hold_against(Laws.load(args.laws), rows_from(args.runs, warn=say, columns=_columns(args)))))
    return 0


def ladder(args: argparse.Namespace) -> int:
    """Propose the proxies for a target: sizes, tokens, runs, cost, the interval to expect; write the sweep file."""
    from hptransfer.config import load_config, to_yaml
    from hptransfer.files import write_atomic
    from hptransfer.laws.ladder import halvings, propose
    from hptransfer.sweeps.progress import seconds_per_flop

    with about(args.config):
        config = load_config(args.config, args.overrides)
        target, rungs = halvings(config)
    found = propose(target, rungs, args.budget, sweep_batch=args.batch, parametrization=config.parametrization.name)
    print(found.to_text(seconds_per_flop(Path(args.runs))))
    plan = found.to_sweep(args.config, config.optimizer.lr, config.batch_tokens, target.tokens / target.params)
    write_atomic(Path(args.output), to_yaml(plan))
    print(args.output)
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


def confirm(args: argparse.Namespace) -> int:
    """Plan a last rung before the big run: three lrs for a share of its FLOPs. --run trains it, says go or no-go
    (exit status 1), and writes the laws fitted again with what it saw."""
    from hptransfer.config import load_config
    from hptransfer.confirming import losses_of, moved, propose, refit, train_rung
    from hptransfer.laws import Laws
    from hptransfer.laws.rung import judge
    from hptransfer.sweeps.progress import seconds_per_flop
    from hptransfer.tracking import rows_from

    runs, before = Path(args.runs), Laws.load(args.laws)
    tuned = load_config(args.config, args.overrides)
    with about(args.config):
        proposal = propose(before, tuned, args.budget)
    for warning in proposal.warnings:
        say(f"warning: {warning}")
    if not args.run:
        print(proposal.to_text(seconds_per_flop(runs)))
        say("a plan, nothing was trained; --run trains it and says go or no-go")
        return 0
    with data_bar() as on_data:
        rows = train_rung(proposal, args.config, runs, args.overrides, **_how(args), on_data=on_data)
    losses = losses_of(rows)
    verdict = judge(before, proposal.line, losses, args.tolerate)
    print(proposal.to_text(losses=losses), verdict.to_text(), sep="\n\n")
    output = Path(args.output or Path(args.laws).with_stem(f"{Path(args.laws).stem}_confirmed"))
    try:
        after = refit(before, rows_from(args.evidence or [runs], warn=say, columns=_columns(args)), rows)
        after.save(output, overwrite=False)
        print("", moved(before, after, tuned), output, sep="\n")
        if not verdict.go:
            say(f"next: hptransfer transfer {output} {args.config} -o ANOTHER.yaml, then confirm that one")
    except UserError as problem:
        say(f"the laws are not fitted again: {problem}")
    return 0 if verdict.go else 1


def _which(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of which runs a sweep has."""
    return {name: getattr(args, name) for name in ("runs", "seed", "design", "deepen", "best")}


def _how(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of how runs are trained."""
    from hptransfer.loading import parse_override

    return {
        "workers": args.workers,
        "retry_failed": args.retry_failed,
        "timeout": args.timeout,
        "executor": args.executor,
        "executor_options": dict(parse_override(option) for option in args.option),
        "trials_per_device": args.trials_per_device,
    }


def report(args: argparse.Namespace) -> int:
    """Write one self-contained HTML file on runs and laws."""
    from hptransfer.laws import Laws
    from hptransfer.report import write_report

    laws = Laws.load(args.laws) if args.laws else None
    write_report(args.runs, laws, Path(args.output), warn=say, columns=_columns(args))
    print(args.output)
    return 0


def wandb(args: argparse.Namespace) -> int:
    """Bring ended local runs into W&B (sync), publish what they show as one run (publish), make its dashboard by code
    (workspace)."""
    from hptransfer.tracking import sync
    from hptransfer.tracking.workspace import save_workspace

    if args.what == "workspace":
        print(save_workspace(args.project or ""))
        return 0
    if args.what == "publish":
        print(_published(args))
        return 0
    with count_bar("runs") as on_run:
        say(f"{sync(args.runs, args.project, on_run)} runs are in W&B")
    return 0


def _published(args: argparse.Namespace) -> str:
    """Where the evidence is; WANDB_MODE=offline leaves it in the first folder of runs."""
    from hptransfer.laws import Laws
    from hptransfer.sections import Tracking
    from hptransfer.tracking import rows_from
    from hptransfer.tracking.project import place
    from hptransfer.tracking.publishing import EVIDENCE, publish
    from hptransfer.tracking.session import mode_of

    rows = rows_from(args.runs, warn=say, columns=_columns(args))
    return publish(
        rows,
        next((Path(path) for path in args.runs if Path(path).is_dir()), Path()),
        EVIDENCE.model_copy(update=place(args.project) if args.project else {}),
        laws=Laws.load(args.laws) if args.laws else None,
        tuned=args.tuned and Path(args.tuned),
        report=args.report and Path(args.report),
        mode=mode_of(Tracking(wandb="online")),
    )


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


def _columns(args: argparse.Namespace) -> dict[str, str]:
    """--map as {ours: theirs}."""
    return dict(pair.partition("=")[::2] for pair in args.map)


def say(line: str) -> None:
    """To the user, beside the output."""
    print(f"hptransfer: {line}", file=sys.stderr)


def show(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"
