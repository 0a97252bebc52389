"""How much of a command is done, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_of"]


@contextmanager
def progress_of(
    what: str, *, each: Callable[[int, int], str] | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Give what shows how much is done, on a terminal; nothing elsewhere.

    Parameters
    ----------
    what
        What is being done.
    each
        What is being done when so many of so many are done. Without it they are bytes, and said.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:20}"), BarColumn(), TimeElapsedColumn()
    shown = columns if each else (*columns[:2], DownloadColumn(), *columns[2:])
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            description = each(done, total) if each else what
            bar.update(task, description=description, completed=done, total=total or None)

        yield show
