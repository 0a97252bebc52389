"""``xent code``: compress files, account for their bytes, and tell whose model fits them."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli.process import OK, check_json, guarded, write_json
from xent.cli.progress import progress_of
from xent.errors import OptionError
from xent.files import require_target, write_whole

if TYPE_CHECKING:
    from typer import Typer

    from xent.coding import ContextModel

__all__ = ["add_to"]

_FOLDER = "make the folder first, or '-' for standard output."


def add_to(app: Typer) -> None:
    """Add the commands to the program."""
    import typer

    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Codes: files as short as a model of their bytes says, and where the bits go.",
    )
    app.add_typer(group, name="code")

    file = typer.Argument(metavar="FILE", help="Any file; '-' is standard input.")
    files = typer.Argument(metavar="FILES...", help="Files; a folder stands for all below it.")
    output = typer.Option(
        ..., "--output", "-o", metavar="FILE", help="Where it goes; '-' is standard output."
    )
    model = typer.Option(
        None, metavar="MODEL", help="What `xent code train` wrote; by default a model of FILE's."
    )
    order = typer.Option(2, help="How many bytes before a byte the model looks at: 0, 1 or 2.")
    own_order = typer.Option(None, help="Of a model of FILE's own: 0, 1 or 2. [2]")
    threads = typer.Option(None, help="Blocks at a time. [as many as cores]")
    only = typer.Option("*", metavar="PATTERN", help="Files of folders, such as '*.py'.")
    json = typer.Option(
        None, metavar="FILE", help="Write the answer to FILE as JSON; '-' prints only that."
    )

    @group.command()
    def compress(
        file: Path = file,
        output: Path = output,
        model: Path | None = model,
        order: int | None = own_order,
        threads: int | None = threads,
    ) -> None:
        """Write FILE's code, decode it again to be sure, and only then give it its name."""
        raise typer.Exit(guarded(lambda: _compress(file, output, model, order, threads)))

    @group.command()
    def decompress(
        file: Path = file,
        output: Path = output,
        model: Path | None = model,
        threads: int | None = threads,
    ) -> None:
        """Write what FILE, a code, stands for."""
        raise typer.Exit(guarded(lambda: _decompress(file, output, model, threads)))

    @group.command()
    def train(
        files: list[Path] = files,
        output: Path = typer.Option(
            ..., "--output", "-o", metavar="MODEL", help="Where the model goes."
        ),
        order: int = order,
        only: str = only,
    ) -> None:
        """Fit a model to FILES, to be shared by those who write and those who read."""
        raise typer.Exit(guarded(lambda: _train(files, output, order, only)))

    @group.command()
    def account(
        file: Path = file,
        model: Path | None = model,
        order: int | None = own_order,
        json: str | None = json,
    ) -> None:
        """Say where the bytes of FILE's code go; FILE may be such a code itself."""
        raise typer.Exit(guarded(lambda: _account(file, model, order, json)))

    @group.command()
    def matrix(
        files: list[Path] = files,
        order: int = order,
        only: str = only,
        svg: Path | None = typer.Option(None, metavar="FILE", help="Write a heat map to FILE."),
        json: str | None = json,
    ) -> None:
        """Say what each of FILES costs under the model of each other, in bits a byte."""
        raise typer.Exit(guarded(lambda: _matrix(files, order, only, svg, json)))

    @group.command()
    def classify(
        files: list[Path] = files,
        models: Path = typer.Option(..., metavar="DIR", help="A folder of NAME.model files."),
        output: Path = typer.Option(
            Path("-"), "--output", "-o", metavar="FILE", help="The table, as CSV. [printed]"
        ),
        labels: str | None = typer.Option(
            None, metavar="folder", help="'folder': the one it lies in is each file's true label."
        ),
        only: str = only,
        block: int | None = typer.Option(None, help="Bytes that vote together. [256]"),
        temperature: float | None = typer.Option(
            None, help="What a vote's nats are divided by. [8]"
        ),
    ) -> None:
        """Label FILES by the model that codes them shortest; `xent score` reads the table."""
        given = {"block": block, "temperature": temperature}
        options = {name: value for name, value in given.items() if value is not None}
        raise typer.Exit(guarded(lambda: _classify(files, models, output, labels, only, options)))


def _model(path: Path | None) -> ContextModel | None:
    from xent.coding import ContextModel

    return None if path is None else ContextModel.load(path)


def _say(output: Path, text: str) -> None:
    """Say what was done, where standard output is not the result itself."""
    if str(output) != "-":
        sys.stdout.write(text)


def _order(asked: int | None, model: Path | None) -> int:
    """Return the order of a model of the file's own; a model that is given has its own."""
    if asked is not None and model is not None:
        raise OptionError(
            f"--order and --model must not both be given: got {asked} and {str(model)!r}. "
            "Hint: a model has an order already; `xent code train --order` chooses it."
        )
    return 2 if asked is None else asked


def _require_file(path: Path, flag: str, *sources: Path) -> None:
    if str(path) == "-":
        raise OptionError(f"{flag} must name a file: got '-'. Hint: give it a name.")
    require_target(path, flag, *sources, hint="make the folder first.")


def _check_output(output: Path, *sources: Path) -> None:
    if str(output) != "-":
        require_target(output, "--output", *sources, hint=_FOLDER)


def _compress(
    file: Path, output: Path, model: Path | None, order: int | None, threads: int | None
) -> int:
    from xent.coding.files import compress_file

    used = _order(order, model)
    _check_output(output, file, *([] if model is None else [model]))
    with progress_of("compressing") as progress:
        written = compress_file(
            file, output, model=_model(model), order=used, threads=threads, progress=progress
        )
    length, total = written.header.length, written.total_bytes
    share = f", {8.0 * total / length:.4f} bits for each" if length else ""
    _say(output, f"{length:,} bytes became {total:,}{share}; decoded again, and the same\n")
    return OK


def _decompress(file: Path, output: Path, model: Path | None, threads: int | None) -> int:
    from xent.coding.files import decompress_file

    _check_output(output, file, *([] if model is None else [model]))
    with progress_of("decompressing") as progress:
        header = decompress_file(
            file, output, model=_model(model), threads=threads, progress=progress
        )
    _say(output, f"{header.length:,} bytes, as their checksum has them\n")
    return OK


def _train(files: list[Path], output: Path, order: int, only: str) -> int:
    from xent.coding.files import train_model

    _require_file(output, "--output", *files)
    with progress_of("training") as progress:
        model, size = train_model(files, order=order, only=only, without=output, progress=progress)
    model.save(output)
    sys.stdout.write(
        f"order {model.order}, {model.levels.size:,} rows from {size:,} bytes; "
        f"fingerprint {model.fingerprint.hex()}\n"
    )
    return OK


def _account(file: Path, model: Path | None, order: int | None, target: str | None) -> int:
    from xent.coding.files import account_file
    from xent.report.code_text import render_accounting

    check_json(target, file, *([] if model is None else [model]))
    told = account_file(file, model=_model(model), order=_order(order, model))
    if target != "-":
        sys.stdout.write(render_accounting(told))
    if target is not None:
        write_json(target, told.as_dict())
    return OK


def _matrix(files: list[Path], order: int, only: str, svg: Path | None, target: str | None) -> int:
    from xent.coding import cross_entropy_matrix
    from xent.coding.files import read_all
    from xent.report.code_text import render_matrix

    check_json(target, *files)
    if svg is not None:
        _require_file(svg, "--svg", *files)
    names = _names(files)
    found = cross_entropy_matrix(
        {name: read_all(file, only, without=svg) for name, file in zip(names, files, strict=True)},
        order=order,
    )
    if svg is not None:
        from xent.report.code_plots import heat_map

        write_whole(svg, heat_map(found).encode(), "--svg")
    if target != "-":
        sys.stdout.write(render_matrix(found))
    if target is not None:
        write_json(target, found.as_dict())
    return OK


def _names(files: list[Path]) -> list[str]:
    """Return the files' own names where these differ, and as they were given elsewhere."""
    for names in ([file.name or str(file) for file in files], [str(file) for file in files]):
        if len(set(names)) == len(names):
            return names
    twice = next(name for name in names if names.count(name) > 1)
    raise OptionError(f"each file must be named once: got {twice!r} twice. Hint: leave one out.")


def _classify(
    files: list[Path],
    models: Path,
    output: Path,
    labels: str | None,
    only: str,
    options: dict[str, Any],
) -> int:
    from xent.coding import ContextModel, classify
    from xent.coding.files import files_below, read_all

    if labels not in {None, "folder"}:
        raise OptionError(f"--labels must be 'folder': got {labels!r}. Hint: or leave it out.")
    _check_output(output, *files)
    known = {path.stem: ContextModel.load(path) for path in sorted(models.glob("*.model"))}
    if len(known) < 2:
        raise OptionError(
            f"--models must name a folder of two NAME.model files or more: got {str(models)!r} "
            f"with {len(known)}. Hint: `xent code train FILES -o {models}/NAME.model` for each."
        )
    each = [file for path in files for file in files_below(path, only, without=output)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    truth = ["label"] if labels == "folder" else []
    writer.writerow(["id", *truth, "predicted", *(f"p_{name}" for name in known)])
    empty = 0
    for file in each:
        data = read_all(file)
        if not data:  # says nothing of what it is
            empty += 1
            continue
        found = classify(data, known, **options)
        own = [_folder_of(file, list(known))] if truth else []
        shares = (repr(found.probabilities[name]) for name in known)
        writer.writerow([str(file), *own, found.name, *shares])
    text = table.getvalue()
    if str(output) == "-":
        sys.stdout.write(text)
    else:
        write_whole(output, text.encode("utf-8", errors="surrogateescape"), "--output")
        sys.stdout.write(f"{len(each) - empty:,} files labelled; the table is {output}\n")
    if empty:
        print(f"xent: left out, because empty: {empty:,}", file=sys.stderr)  # noqa: T201
    return OK


def _folder_of(file: Path, known: list[str]) -> str:
    """Return the nearest folder above a file that is named as a model."""
    for folder in file.resolve().parents:
        if folder.name in known:
            return folder.name
    raise OptionError(
        f"a file must lie in a folder that is named as a model: {str(file)!r} does not. "
        f"Hint: the models are {', '.join(known)}."
    )
