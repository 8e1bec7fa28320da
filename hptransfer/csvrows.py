"""Rows from a CSV of somebody else's runs: columns under our names, units checked by arithmetic, bad lines named.

A mapping says where a column of ours comes from: {"lr": "learning_rate"}, or, times a number or another column,
{"batch_tokens": "batch_size*2048"}, {"tokens": "billions*1e9"}, {"batch_tokens": "batch_size*seq_len"}.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hptransfer.errors import UserError, did_you_mean
from hptransfer.rows import NUMBERS, RECIPE, REQUIRED, Row, row_of

KNOWN = (*NUMBERS, "status", "diverged", "steps", *RECIPE)
"""Columns that are read; `diverged` (true or false) instead of a status, `steps` (of the optimizer) only to check
steps x batch_tokens = tokens."""
TRUTH = {"true": "diverged", "1": "diverged", "false": "", "0": "", "": ""}
SHOWN = 10
"""Problems named one by one."""
ROUNDING = 0.02
"""Of tokens; and one step: budgets are rounded to whole steps."""
MOST_STEPS = 1e7
MOST_TOKENS_PER_PARAM = 1e6
"""Beyond these a number is taken to be in another unit until the user says that it is not."""


@dataclass(frozen=True)
class Source:
    """A column of theirs, times `factor`: a number or another column of theirs."""

    column: str
    factor: str | None = None

    def value(self, values: Mapping[str, str], where: str) -> str:
        """As text; what is no number is left as it is, for whoever reads it to refuse."""
        text = values[self.column]
        number = _number(text)
        if self.factor is None or number is None:
            return text
        factor = _number(values.get(self.factor, self.factor))
        if factor is None:
            raise UserError(f"{where}: {self.factor}: expected a number, got {values[self.factor]!r}")
        return repr(number * factor)


@dataclass(frozen=True)
class Line:
    """One run: file and line, its row, its number of steps where it is known."""

    where: str
    row: Row
    steps: float | None


def csv_rows(path: Path, say: Callable[[str], None], columns: Mapping[str, str]) -> list[Row]:
    """The rows of a CSV with at least the columns REQUIRED; `say` hears of columns that nobody knows.

    UserError with a line for each bad row, and where the columns are in other units than ours.
    """
    header, lines = _read(path)
    sources = _sources(header, columns, path)
    used = {name for source in sources.values() for name in (source.column, source.factor)}
    if ignored := [column for column in header if column not in used]:
        say(f"{path}: ignored columns: {', '.join(ignored)}{_repeats(header, lines, ignored, sources)}")
    found: list[Line] = []
    problems: list[str] = []
    for number, fields in lines:
        try:
            found.append(_line(f"{path}:{number}", header, fields, sources))
        except UserError as problem:
            problems.append(str(problem))
    if not problems:
        problems = _other_units(path, found, sources)
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError("\n".join(problems[:SHOWN] + more))
    return [line.row for line in found]


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header, and the fields of each line that is not empty, with its number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise UserError(f"{path}: cannot read: {problem}") from None
    header = lines[0][1] if lines else []
    if twice := [column for column in dict.fromkeys(header) if header.count(column) > 1]:
        raise UserError(f"{path}: column {twice[0]!r} is there twice")
    return header, lines[1:]


def _sources(header: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, Source]:
    """Where each column of ours comes from; UserError for a mapping of what is not there, and where one is missing."""
    sources = {name: Source(name) for name in header if name in KNOWN}
    for ours, text in columns.items():
        if ours not in KNOWN:
            raise UserError(f"--map {ours}={text}: {ours!r} is no column of ours{did_you_mean(ours, list(KNOWN))}")
        column, _, factor = ("", "", text) if text in header else text.rpartition("*")
        for name in (column or text, *((factor,) if column and _number(factor) is None else ())):
            if name not in header:
                raise UserError(f"{path}: --map {ours}={text}: no such column{did_you_mean(name, list(header))}")
        sources[ours] = Source(column, factor) if column else Source(text)
    for name in REQUIRED:
        if name not in sources:
            near = did_you_mean(name, list(header)) or f"; --map {name}=COLUMN says which it is"
            raise UserError(
                f"{path}: column {name!r} is missing{near}; needed: {', '.join(REQUIRED)}; it has {', '.join(header)}"
            )
    return sources


def _repeats(
    header: Sequence[str],
    lines: Sequence[tuple[int, Sequence[str]]],
    ignored: Sequence[str],
    sources: Mapping[str, Source],
) -> str:
    """What to a reader of the known columns looks like the same run again, and by which ignored columns it is not."""
    outcome = {sources[name].column for name in ("loss", "status", "diverged", "seed") if name in sources}
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for _, fields in lines:
        theirs = dict(zip(header, fields, strict=False))
        key = tuple(text for column, text in theirs.items() if column not in (*ignored, *outcome))
        groups.setdefault(key, []).append(theirs)
    differ = [
        column for column in ignored if any(len({one.get(column) for one in group}) > 1 for group in groups.values())
    ]
    return f"; runs that differ in {', '.join(differ)} alone count as repeats of one run" if differ else ""


def _line(where: str, header: Sequence[str], fields: Sequence[str], sources: Mapping[str, Source]) -> Line:
    if len(fields) != len(header):
        raise UserError(f"{where}: {len(fields)} fields, the header has {len(header)}")
    theirs = dict(zip(header, fields, strict=True))
    values = {ours: source.value(theirs, where) for ours, source in sources.items()}
    gone = values.pop("diverged", "").strip().lower()
    if gone not in TRUTH:
        raise UserError(f"{where}: diverged: {gone!r}; allowed: true, false")
    values["status"] = values.get("status") or TRUTH[gone]
    return Line(where, row_of(values, where), _number(values.get("steps", "")))


def _number(text: str) -> float | None:
    """None where the text is no finite number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _other_units(path: Path, lines: Sequence[Line], sources: Mapping[str, Source]) -> list[str]:
    """Problems: by arithmetic where the steps are given, else a question where a number or a name leaves doubt."""
    ended = [line for line in lines if line.row.status == "finished"]
    counted = [line for line in ended if line.steps]
    return _steps_that_do_not_add_up(path, counted, sources) or _doubts(path, ended, bool(counted), sources)


def _steps_that_do_not_add_up(path: Path, lines: Sequence[Line], sources: Mapping[str, Source]) -> list[str]:
    """Nothing where steps x batch_tokens is tokens; one problem where it is off by one factor, else one a line."""
    seen = [(line.steps or 0.0) * line.row.batch_tokens for line in lines]
    wrong = [
        (line, tokens)
        for line, tokens in zip(lines, seen, strict=True)
        if abs(tokens - line.row.tokens) > max(ROUNDING * line.row.tokens, line.row.batch_tokens)
    ]
    ratios = sorted(tokens / line.row.tokens for line, tokens in wrong)
    if len(wrong) > 1 and len(wrong) == len(lines) and ratios[-1] < ratios[0] * (1 + 2 * ROUNDING):
        ratio = ratios[len(ratios) // 2]
        name, factor = ("batch_tokens", 1 / ratio) if ratio < 1 else ("tokens", ratio)
        of, unit = (f"1/{factor:.4g} of", "sequences") if ratio < 1 else (f"{factor:.4g} times", "units")
        return [
            f"{path}: steps x batch_tokens is {of} tokens in every run: {name} looks to be in {unit} of "
            f"{factor:.4g} tokens; then say --map {name}={sources[name].column}*{factor:.4g}"
        ]
    return [
        f"{line.where}: steps {line.steps:g} x batch_tokens {line.row.batch_tokens:g} is {tokens:g}, "
        f"but tokens is {line.row.tokens:g}"
        for line, tokens in wrong
    ]


def _doubts(path: Path, lines: Sequence[Line], counted: bool, sources: Mapping[str, Source]) -> list[str]:
    """Questions on the unit of a column, at most one each; none on a column with a factor: the user has said."""
    found: dict[str, str] = {}
    for line in lines:
        row, seq_len = line.row, line.row.recipe.get("seq_len")
        steps = row.tokens / row.batch_tokens
        if row.tokens / row.params > MOST_TOKENS_PER_PARAM:
            ratio = f"{row.tokens / row.params:.2g} tokens per parameter"
            found.setdefault("params", f"{line.where}: {ratio}: {_question('params', sources, '1e6', 'millions')}")
        if counted:
            continue
        if steps < 1:
            text = f"{line.where}: tokens {row.tokens:g} are less than one batch"
            found.setdefault("tokens", f"{text}: {_question('tokens', sources, '1e9', 'billions')}")
        elif steps > MOST_STEPS or (isinstance(seq_len, float) and row.batch_tokens < seq_len):
            text = f"{line.where}: batch_tokens {row.batch_tokens:g} is {steps:.2g} steps" + (
                f" and less than a sequence of {seq_len:g}" if steps <= MOST_STEPS else ""
            )
            found.setdefault("batch_tokens", f"{text}: {_question('batch_tokens', sources, 'SEQ_LEN', 'sequences')}")
    column = sources["batch_tokens"].column
    if not counted and "tok" not in column.lower():
        text = f"{path}: there are no steps to check column {column!r} by"
        found.setdefault("batch_tokens", f"{text}: {_question('batch_tokens', sources, 'SEQ_LEN', 'sequences')}")
    return [text for name, text in found.items() if sources[name].factor is None]


def _question(name: str, sources: Mapping[str, Source], factor: str, unit: str) -> str:
    column, ours = sources[name].column, "parameters" if name == "params" else "tokens"
    return f"in which unit is it? --map {name}={column}*{factor} if in {unit}, --map {name}={column}*1 if in {ours}"
