"""The command line, ``xent …``: reads options, calls the library, writes what it returns.

Exit status: 0 fine, 1 a limit was not kept (``--fail-…``), 2 an error (said on standard error),
130 interrupted, 141 the reader of a pipe went away. Only this room ends the process. One file holds
one group of commands.
"""

from __future__ import annotations

import sys
from typing import Any

from xent.cli import codes, compare, demo, kernels, measure, merge, models, scores
from xent.cli.process import ERROR, OK, PIPE_CLOSED, Done, guarded
from xent.errors import MissingExtraError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        The words after ``xent``; by default those that the process was started with.
    """
    return guarded(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    # A message can name a file in any script; a terminal that cannot show it gets a substitute.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app = _build()
    try:
        status = app(args=arguments, prog_name="xent", standalone_mode=True)
    except Done as end:
        return int(end.code or OK)
    except SystemExit as end:  # how the parser says that it is done, or that a word was wrong
        if end.code == 1:  # kept for a help text whose reader went away
            return PIPE_CLOSED
        return end.code if isinstance(end.code, int) else OK if end.code is None else ERROR
    return int(status or OK)


def _build() -> Any:
    try:
        import typer
    except ImportError:
        raise MissingExtraError("typer", "tables") from None

    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Cross-entropy, right: scores of predictions, measures of distributions, models that "
        "minimise it, codes whose bytes are it, and which kernel computes a loss.",
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            import xent

            typer.echo(f"xent {xent.__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", is_eager=True, callback=show_version, help="Print the version."
        ),
    ) -> None:
        del version  # its callback has done all

    for group in (scores, compare, merge, measure, models, codes, demo, kernels):
        group.add_to(app)
    return app
