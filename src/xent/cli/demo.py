"""``xent demo``: cross-entropy on real data."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xent.cli.process import OK, guarded, program, terminal

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["add_to"]


def add_to(app: Typer) -> None:
    """Add the command to the program."""
    import typer

    @app.command()
    def demo(
        directory: Path = typer.Argument(
            Path("demo-output"), metavar="[DIR]", help="Where the prediction files go."
        ),
    ) -> None:
        """Minimise, measure and explain cross-entropy on real data, in under a minute."""
        raise typer.Exit(guarded(lambda: _demo(directory)))


def _demo(directory: Path) -> int:
    from xent.demo import render, run, write_page

    entries = run(directory)
    sys.stdout.write(render(entries, **terminal()))
    page, better = write_page(directory, entries)
    sys.stdout.write(f"\n{better}\nA page about that, for a browser: {page}\n")
    sys.stdout.write(f"\nThe predictions are in {directory}; score any of them yourself:\n")
    sys.stdout.write(f"  {program()} score {shlex.quote(entries[0].score.path)}\n")
    return OK
