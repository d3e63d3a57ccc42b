"""How a solver shows where it is: a bar of tqdm or rich, where one of these is installed, and else a line of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from anyoptim._search._result import Progress
from anyoptim._search._stop import Condition

__all__ = ["bar"]

Show = Callable[[Progress], None]


def bar(stop: Condition) -> AbstractContextManager[Show]:
    """A context with a function that shows progress on stderr, as long as it is open.

    How much of a bar is full is the share of the steps, evaluations or seconds that are allowed; without such a limit
    there is no bar, but the text alone.
    """
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415 - it is the user's, and asked for where it is wanted
    except ImportError:
        pass
    else:
        return _of_tqdm(tqdm, stop)
    try:
        from rich import progress  # noqa: PLC0415 - the same
    except ImportError:
        return _line(stop)
    return _of_rich(progress, stop)


def _text(of: Progress) -> str:
    return f"step {of.steps}, value {of.value:.6g}, |g| {of.gradient_norm:.3g}"


@contextmanager
def _of_tqdm(tqdm: Any, stop: Condition) -> Iterator[Show]:
    """Tqdm looks at the clock in `update` alone."""
    shown: Any = None

    def show(progress: Progress) -> None:
        nonlocal shown
        share = stop.share(progress)
        if shown is None:
            form = "{elapsed}{postfix}" if share is None else "{percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            shown = tqdm(total=1.0, bar_format=form, leave=True)
        shown.set_postfix_str(_text(progress), refresh=False)
        shown.update((share or 0.0) - shown.n)

    try:
        yield show
    finally:
        if shown is not None:
            shown.refresh()
            shown.close()


@contextmanager
def _of_rich(progress: Any, stop: Condition) -> Iterator[Show]:
    """Its own thread draws it ten times a second."""
    from rich.console import Console  # noqa: PLC0415 - it is the user's

    columns = progress.BarColumn(), progress.TimeElapsedColumn(), progress.TextColumn("{task.description}")
    with progress.Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=None)

        def show(of: Progress) -> None:
            share = stop.share(of)
            shown.update(task, description=_text(of), completed=share or 0.0, total=None if share is None else 1.0)

        yield show


@contextmanager
def _line(stop: Condition) -> Iterator[Show]:
    """One line, which is written anew ten times a second at most."""
    next_time, written, last = 0.0, 0, ""

    def write() -> None:
        nonlocal written
        sys.stderr.write("\r" + last.ljust(written))
        sys.stderr.flush()
        written = len(last)

    def show(progress: Progress) -> None:
        nonlocal next_time, last
        share = stop.share(progress)
        last = _text(progress) if share is None else f"{share:4.0%} {_text(progress)}"
        if time.monotonic() >= next_time:
            write()
            next_time = time.monotonic() + 0.1

    try:
        yield show
    finally:
        if last:
            write()
            sys.stderr.write("\n")
