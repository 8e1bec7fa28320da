"""Progress bars on stderr; silent where that is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
