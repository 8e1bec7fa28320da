"""The one exception whose text is meant for the user."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend. The message is one or more complete lines: where, what, what is allowed."""


def did_you_mean(name: str, allowed: list[str]) -> str:
    """`'; did you mean 'width'?'`, or nothing where no allowed name is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), allowed, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


@contextmanager
def about(file: str) -> Iterator[None]:
    """Puts the file's name before the lines of a UserError that begin with a key path of a run config."""
    sections = ("model.", "parametrization.", "optimizer.", "schedule.", "data.", "train.")
    try:
        yield
    except UserError as problem:
        lines = [f"{file}: {line}" if line.startswith(sections) else line for line in str(problem).splitlines()]
        raise type(problem)("\n".join(lines)) from problem
