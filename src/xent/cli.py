"""The command line, ``xent …``: reads options, calls the library, writes what it returns.

Exit status: 0 fine, 2 an error (said on standard error), 130 interrupted, 141 the reader of a pipe
went away. Only this file ends the process.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xent.errors import MissingExtraError, OptionError, XentError

__all__ = ["main"]

_OK, _ERROR, _INTERRUPTED, _PIPE_CLOSED = 0, 2, 130, 141


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        The words after ``xent``; by default those that the process was started with.
    """
    return _guarded(lambda: _run(arguments))


def _guarded(work: Callable[[], int]) -> int:
    """Turn every expected way to fail into a message and a status, never a traceback."""
    try:
        status = work()
        sys.stdout.flush()
    except XentError as error:
        print(f"xent: {error}", file=sys.stderr)  # noqa: T201
        return _ERROR
    except BrokenPipeError:
        # Python flushes standard output once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _run(arguments: list[str] | None) -> int:
    # A message can name a file in any script; a terminal that cannot show it gets a substitute.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app = _build()
    try:
        status = app(args=arguments, prog_name="xent", standalone_mode=True)
    except SystemExit as end:  # how the parser says that it is done, or that a word was wrong
        if end.code == 1:  # kept for a help text whose reader went away
            return _PIPE_CLOSED
        return end.code if isinstance(end.code, int) else _OK if end.code is None else _ERROR
    return int(status or _OK)


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
        help="Cross-entropy, right: scores of predictions, and which kernel computes a loss.",
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

    @app.command()
    def score(
        file: Path = typer.Argument(
            help="CSV (gzip too) or Parquet with labels and probabilities."
        ),
        label: str | None = typer.Option(None, metavar="COLUMN", help="The true label."),
        probabilities: str | None = typer.Option(
            None, metavar="PATTERN", help="The probabilities: 'p_*', or names with commas between."
        ),
        positive: str | None = typer.Option(
            None, metavar="VALUE", help="The label value that one column is the probability of."
        ),
        classes: str | None = typer.Option(
            None, metavar="A,B,C", help="The label values in the order of the probabilities."
        ),
        weights: str | None = typer.Option(
            None, metavar="COLUMN", help="Sampling weights; 'none' counts each row once."
        ),
        id: str | None = typer.Option(  # noqa: A002 - the name of the flag
            None, metavar="COLUMN", help="What names a row in the report; 'none' for its number."
        ),
        allow: list[str] = typer.Option(
            [],
            metavar="unnormalised=TOLERANCE",
            help="Accept rows whose sum lies within TOLERANCE of 1, used as given.",
        ),
        worst: int = typer.Option(5, min=0, help="How many of the worst rows to show."),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the score as JSON to FILE; '-' prints only that."
        ),
    ) -> None:
        """Log loss of the predictions in FILE, by class, with its standard error."""
        options = {
            "label": label,
            "probabilities": probabilities,
            "positive": positive,
            "classes": None if classes is None else classes.split(","),
            "weights": weights,
            "id": id,
            "allow_unnormalised": _parse_allow(allow),
            "worst": worst,
        }
        # The parser would otherwise answer an interruption or a closed pipe in its own way.
        raise typer.Exit(_guarded(lambda: _score(file, json, options)))

    @app.command()
    def demo(
        directory: Path = typer.Argument(
            Path("demo-output"), metavar="[DIR]", help="Where the prediction files go."
        ),
    ) -> None:
        """Minimise, measure and explain cross-entropy on real data, in under a minute."""
        raise typer.Exit(_guarded(lambda: _demo(directory)))

    @app.command()
    def kernels(
        shapes: list[str] | None = typer.Argument(
            None,
            metavar="[SHAPE]...",
            help="Shapes of logits, such as 4096x32000 or 8x21x512x512 with classes second; "
            "by default those that speed is measured on.",
        ),
        dtype: str | None = typer.Option(
            None, help="Of the logits: float32, float64, bfloat16 or float16."
        ),
        soft: bool = typer.Option(False, "--soft", help="Targets are probabilities."),
        softcap: float | None = typer.Option(None, help="Logits are capped softly at this."),
        device: str = typer.Option("cpu", help="Where the arrays are: cpu, cuda, …"),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the answers to FILE as JSON; '-' prints only that."
        ),
    ) -> None:
        """Say which kernel would run softmax cross-entropy of SHAPE, and why no other."""
        options = {"dtype": dtype, "soft": soft, "softcap": softcap, "device": device}
        raise typer.Exit(_guarded(lambda: _kernels(shapes or [], json, options)))

    return app


def _kernels(shapes: list[str], target: str | None, options: dict[str, Any]) -> int:
    from xent.losses.kernel_table import kernel_table, render

    if target not in {None, "-"}:
        _check_target(Path(str(target)))
    answers = kernel_table(shapes, **options)
    if target != "-":
        sys.stdout.write(render(answers))
    if target is not None:
        _write_json(target, [answer.to_dict() for answer in answers])
    return _OK


def _demo(directory: Path) -> int:
    from xent.demo import render, run

    entries = run(directory)
    sys.stdout.write(render(entries, **_terminal()))
    sys.stdout.write(f"\nThe predictions are in {directory}; score any of them yourself:\n")
    sys.stdout.write(f"  {_program()} score {shlex.quote(entries[0].score.path)}\n")
    return _OK


def _program() -> str:
    """Return how to call this program from here: by its name, where the shell finds it."""
    if shutil.which("xent") is not None:
        return "xent"
    beside = Path(sys.executable).parent / ("xent.exe" if os.name == "nt" else "xent")
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m xent"
    here = Path.cwd()
    # Not resolved: the interpreter of an environment is a link to one outside it.
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def _terminal() -> dict[str, Any]:
    """Return the width of the terminal and whether it may be coloured."""
    terminal = sys.stdout.isatty()
    width = os.get_terminal_size(sys.stdout.fileno()).columns if terminal else 0
    return {"width": width or 100, "color": terminal and not os.environ.get("NO_COLOR")}


def _parse_allow(words: list[str]) -> float | None:
    """Return the tolerance in ``unnormalised=1e-3``."""
    tolerance = None
    for word in words:
        name, _, value = word.partition("=")
        try:
            tolerance = float(value)
        except ValueError:
            name = ""
        if name != "unnormalised":
            raise OptionError(
                f"--allow must look like unnormalised=1e-3: got {word!r}. "
                "Hint: the number is how far from 1 the sum of a row may lie."
            )
    return tolerance


def _score(file: Path, target: str | None, options: dict[str, Any]) -> int:
    from xent.scoring import score_table

    if target not in {None, "-"}:
        _check_target(Path(str(target)), file)
    result = score_table(file, **options)
    if target != "-":
        from xent.report import render_text

        sys.stdout.write(render_text(result, **_terminal()))
    if target is not None:
        _write_json(target, result.to_dict())
    return _OK


def _write_json(target: str, document: Any) -> None:
    """Write a document to a file, or to standard output for '-'."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # JSON is UTF-8 whatever the terminal speaks. What is no Unicode, such as the odd byte of a
    # file name, becomes an escape, which in JSON is spelt as Python's is.
    data = text.encode("utf-8", errors="backslashreplace")
    if target != "-":
        _write_whole(Path(target), data)
    elif hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(data.decode("utf-8"))


def _check_target(path: Path, source: Path | None = None) -> None:
    """Refuse a place that cannot be written before the work is done, not after it."""
    try:
        fits = not path.is_dir() and path.resolve().parent.is_dir()
        same = source is not None and source.exists() and path.exists() and path.samefile(source)
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        fits = same = False
    if same:
        raise OptionError(
            f"--json must name another file than the table: got {str(path)!r} for both, and the "
            "score would replace the predictions. Hint: --json score.json."
        )
    if not fits:
        raise OptionError(
            f"--json must name a file in a folder that exists: got {str(path)!r}. "
            "Hint: '-' prints to standard output."
        )


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that an interruption leaves either the old one or the new one, whole."""
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():  # a device or a pipe has nothing to keep
            path.write_bytes(data)
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(
            f"--json must name a file that can be written: {str(path)!r} cannot: "
            f"{error.strerror}. Hint: choose another folder."
        ) from None
