"""The commands: ``python -m benchmarks``, from the root of the repository, xent installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.results import ROOT, read, replace_text, show_progress, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark, or say which there are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure xent: how far from the exact numbers it is, and how long it takes.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    accuracy = commands.add_parser(
        "accuracy",
        help="worst errors against 600-bit arithmetic; writes docs/accuracy.md (some minutes)",
    )
    accuracy.add_argument(
        "--page-only",
        action="store_true",
        help="write docs/accuracy.md from the stored measurements, without measuring",
    )
    losses = commands.add_parser(
        "losses", help="time, extra memory and error of the loss and its gradient beside peers"
    )
    losses.add_argument(
        "--json", action="store_true", help="store the figures in benchmarks/results/losses.jsonl"
    )
    losses.add_argument(
        "--shape",
        action="append",
        type=_shape,
        metavar="ROWSxCLASSES",
        help="measure this shape (may be repeated) instead of those that there are",
    )
    options = parser.parse_args(arguments)
    if options.command == "accuracy":
        return _accuracy(page_only=options.page_only)
    if options.command == "losses":
        return _losses(options.shape, store=options.json)
    parser.print_help()
    return 0


def _shape(text: str) -> tuple[int, int]:
    try:
        rows, classes = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected ROWSxCLASSES, like 4096x1000: got {text!r}"
        ) from None
    return rows, classes


def _accuracy(*, page_only: bool) -> int:
    from benchmarks.page import PAGE, README, STORED, beyond_bound, render, render_readme

    if not page_only:
        from benchmarks.accuracy import measure_all
        from benchmarks.peers import compare_all

        measured = [{"kind": "error", **m.as_dict()} for m in measure_all()]
        compared = [{"kind": "comparison", **c.as_dict()} for c in compare_all()]
        show_progress("")
        write(STORED, measured + compared)
    lines = read(STORED)
    replace_text(PAGE, render(lines))
    replace_text(README, render_readme(README.read_text(encoding="utf-8"), lines))
    beyond = beyond_bound(lines)
    sys.stdout.write("".join(f"beyond its bound: {b}\n" for b in beyond))
    written = f"{PAGE.relative_to(ROOT)} and the table of {README.name}"
    sys.stdout.write(f"{written} are written from {STORED.relative_to(ROOT)}\n")
    return 1 if beyond else 0


def _losses(shapes: list[tuple[int, int]] | None, *, store: bool) -> int:
    from benchmarks.losses import SHAPES, table, time_losses

    timings = list(time_losses(tuple(shapes) if shapes else SHAPES))
    show_progress("")
    sys.stdout.write(table(timings))
    if store:
        write(ROOT / "benchmarks" / "results" / "losses.jsonl", [t.as_dict() for t in timings])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
