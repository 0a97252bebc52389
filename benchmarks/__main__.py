"""The commands: ``python -m benchmarks``, from the root of the repository, xent installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import RESULTS, ROOT, read, replace_text, show_progress, write


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
    rows = commands.add_parser(
        "rows", help="xent.torch beside torch.nn.functional on large shapes (some minutes)"
    )
    rows.add_argument(
        "--shape", nargs="+", metavar="NAME", help="measure these shapes instead of all"
    )
    rows.add_argument("--rounds", type=_rounds, metavar="N", help="how often each has its turn")
    rows.add_argument(
        "--json",
        nargs="?",
        type=Path,
        const=RESULTS / "rows.jsonl",
        metavar="FILE",
        help="store the figures in FILE, by default benchmarks/results/rows.jsonl",
    )
    rows.add_argument(
        "--quick",
        action="store_true",
        help="small shapes, without the kernel's tests: figures to try the command with, no result",
    )
    linear = commands.add_parser(
        "linear", help="linear cross-entropy beside its products, torch's forms and their memory"
    )
    linear.add_argument(
        "--shape", nargs="+", metavar="NAME", help="measure these shapes instead of all"
    )
    linear.add_argument("--rounds", type=_rounds, default=5, metavar="N", help="turns of each")
    linear.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    linear.add_argument(
        "--json",
        action="store_true",
        help="store the figures in benchmarks/results/linear.jsonl (linear-cuda.jsonl), and write "
        "the tables of docs/linear.md and README.md from those of a CPU",
    )
    linear.add_argument(
        "--quick",
        action="store_true",
        help="a small shape, without the kernel's tests: to try the command with, no result",
    )
    fit = commands.add_parser(
        "fit", help="xent.models beside scikit-learn: time to the same optimum (some minutes)"
    )
    fit.add_argument(
        "--case", nargs="+", metavar="NAME", help="fit the cases that begin so instead of all"
    )
    fit.add_argument("--rounds", type=_rounds, default=3, metavar="N", help="turns of each")
    fit.add_argument(
        "--figures",
        type=Path,
        default=Path("benchmark-figures"),
        metavar="DIR",
        help="where to draw loss against seconds, a case to a file",
    )
    fit.add_argument(
        "--json",
        action="store_true",
        help="store the figures in benchmarks/results/fit.jsonl, and write the table of "
        "docs/models.md from them",
    )
    coverage = commands.add_parser(
        "coverage", help="where the intervals of xent.estimation cover, by simulation (two minutes)"
    )
    coverage.add_argument(
        "--json",
        action="store_true",
        help="store the figures in benchmarks/results/coverage.jsonl, and write the tables of "
        "docs/estimation.md from them",
    )
    scoring = commands.add_parser(
        "scoring", help="xent.scoring beside the engine's own sums, and its memory (some minutes)"
    )
    scoring.add_argument(
        "--rows", type=_rounds, default=10_000_000, metavar="N", help="of the table"
    )
    scoring.add_argument("--rounds", type=_rounds, default=3, metavar="N", help="turns of each")
    scoring.add_argument(
        "--lists",
        type=int,
        default=1_000_000,
        metavar="N",
        help="rows of a table of lists of 1000 probabilities, 4 kB each on disk; 0 for none",
    )
    scoring.add_argument(
        "--json",
        action="store_true",
        help="store the figures in benchmarks/results/scoring.jsonl, and write the table of "
        "docs/scoring.md from them",
    )
    scores = commands.add_parser(
        "score-coverage", help="where the intervals of a score cover, by simulation (two minutes)"
    )
    scores.add_argument(
        "--json",
        action="store_true",
        help="store the figures in benchmarks/results/score_coverage.jsonl, and write the tables "
        "of docs/scoring.md from them",
    )
    coding = commands.add_parser(
        "coding", help="xent.coding beside other coders: bytes, and time (some minutes)"
    )
    coding.add_argument("--rounds", type=_rounds, default=5, metavar="N", help="turns of each")
    coding.add_argument(
        "--json",
        action="store_true",
        help="store the figures in benchmarks/results/coding.jsonl, and write the tables of "
        "docs/coding.md from them",
    )
    coding.add_argument(
        "--quick",
        action="store_true",
        help="some 200 kB in one turn: to try the command with, no result",
    )
    options = parser.parse_args(arguments)
    if options.command == "accuracy":
        return _accuracy(page_only=options.page_only)
    if options.command == "losses":
        return _losses(options.shape, store=options.json)
    if options.command == "rows":
        return _rows(options.shape, options.rounds, options.json, quick=options.quick)
    if options.command == "linear":
        return _linear(
            options.shape, options.rounds, options.device, store=options.json, quick=options.quick
        )
    if options.command == "fit":
        return _fit(options.case, options.rounds, options.figures, store=options.json)
    if options.command == "coverage":
        return _coverage(store=options.json)
    if options.command == "scoring":
        return _scoring(options.rows, options.rounds, options.lists, store=options.json)
    if options.command == "score-coverage":
        return _score_coverage(store=options.json)
    if options.command == "coding":
        return _coding(options.rounds, store=options.json, quick=options.quick)
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


def _rounds(text: str) -> int:
    rounds = int(text) if text.isdecimal() else 0
    if not rounds:
        raise argparse.ArgumentTypeError(f"expected a number of rounds, like 9: got {text!r}")
    return rounds


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
        write(RESULTS / "losses.jsonl", [t.as_dict() for t in timings])
    return 0


def _rows(names: list[str] | None, rounds: int | None, store: Path | None, *, quick: bool) -> int:
    from benchmarks.apart import first_calls, peaks
    from benchmarks.rows import is_proved, shapes_named, time_rows
    from benchmarks.rows_page import table, target_lines, targets

    if quick and store is not None:
        sys.stderr.write("--quick makes no result to store: leave out --json\n")
        return 2
    try:
        shapes = shapes_named(names, quick=quick)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not quick and not is_proved():
        sys.stderr.write("The kernel's tests do not pass, so its speed says nothing.\n")
        return 1
    timings = list(time_rows(shapes, rounds or (3 if quick else None)))
    peak = [] if quick else peaks([shape.name for shape in shapes])
    first = [] if quick else first_calls()
    show_progress("")
    sys.stdout.write(table(timings, peak))
    if quick:
        sys.stdout.write("\n--quick: shapes too small to say anything about speed.\n")
        return 0
    reached = targets(timings, peak, first)
    sys.stdout.write(target_lines(reached))
    for call in first[:1]:
        took = f"{call.numba:.2f} s"
        sys.stdout.write(f"  numba's own imports on its first use take {took} beside those\n")
    if store is not None:
        write(store, [m.as_dict() for group in (timings, peak, first, reached) for m in group])
        if store == RESULTS / "rows.jsonl" and not names:
            from benchmarks.page import README
            from benchmarks.rows_page import render_readme

            replace_text(README, render_readme(README.read_text(encoding="utf-8"), read(store)))
    return 0


def _linear(names: list[str] | None, rounds: int, device: str, *, store: bool, quick: bool) -> int:
    from benchmarks.linear import (
        PAGE,
        README,
        STORED,
        TESTS,
        measure_all,
        reached,
        render,
        shapes_named,
        table,
    )
    from benchmarks.rows import is_proved

    if quick and store:
        sys.stderr.write("--quick makes no result to store: leave out --json\n")
        return 2
    try:
        shapes = shapes_named(names, device, quick=quick)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not quick and not is_proved(TESTS):
        sys.stderr.write("The kernel's tests do not pass, so its speed says nothing.\n")
        return 1
    lines = list(measure_all(shapes, rounds))
    show_progress("")
    sys.stdout.write(table(lines) + "\n\n")
    if quick:
        sys.stdout.write("--quick: a shape too small to say anything about speed.\n")
        return 0
    told = reached(lines) if device == "cpu" else []
    sys.stdout.write("".join(f"{line}\n" for line in told))
    if store:
        write(STORED if device == "cpu" else STORED.with_name("linear-cuda.jsonl"), lines)
        if device == "cpu" and names is None:
            for page in (PAGE, README):
                replace_text(page, render(page.read_text(encoding="utf-8"), read(STORED)))
    return 1 if any(line.startswith("misses") for line in told) else 0


def _fit(names: list[str] | None, rounds: int, figures: Path, *, store: bool) -> int:
    from benchmarks.fit import (
        PAGE,
        STORED,
        cases_named,
        compare,
        figure,
        file_name,
        render_page,
        table,
    )

    try:
        cases = cases_named(names)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    results = []
    for fits in compare(cases, rounds):
        show_progress("")
        sys.stdout.write(table([fits]) + "\n")
        sys.stdout.flush()
        replace_text(figures / file_name(fits[0].case), figure(fits))
        results.append(fits)
    sys.stdout.write(f"loss against seconds is drawn in {figures}\n")
    if store:
        write(STORED, [fit.as_dict() for fits in results for fit in fits])
        replace_text(PAGE, render_page(PAGE.read_text(encoding="utf-8"), read(STORED)))
        sys.stdout.write(f"the table of {PAGE.relative_to(ROOT)} is written from them\n")
    return 0


def _coverage(*, store: bool) -> int:
    from benchmarks.coverage import (
        PAGE,
        STORED,
        bootstrap_all,
        failures,
        render_page,
        simulate_all,
        simulate_limit,
        table,
    )

    measured = (*simulate_all(), simulate_limit(), *bootstrap_all())
    lines = [m.as_dict() for m in measured]
    show_progress("")
    cells = [line for line in lines if line["kind"] == "cell"]
    sys.stdout.write(table(cells) + "\n")
    if store:
        write(STORED, lines)
        replace_text(PAGE, render_page(PAGE.read_text(encoding="utf-8"), read(STORED)))
        sys.stdout.write(f"the tables of {PAGE.relative_to(ROOT)} are written from them\n")
    wrong = failures(cells)
    sys.stdout.write("".join(f"less than promised: {w}\n" for w in wrong))
    return 1 if wrong else 0


def _scoring(rows: int, rounds: int, lists: int, *, store: bool) -> int:
    from tempfile import TemporaryDirectory

    from benchmarks.scoring import PAGE, STORED, measure_all, reached, render_page, table

    with TemporaryDirectory() as folder:
        lines = list(measure_all(Path(folder), rows, rounds, wide_lists=lists))
    show_progress("")
    told = reached(lines)
    sys.stdout.write(table(lines) + "\n\n" + "".join(f"{line}\n" for line in told))
    if store:
        write(STORED, lines)
        replace_text(PAGE, render_page(PAGE.read_text(encoding="utf-8"), read(STORED)))
        sys.stdout.write(f"the tables of {PAGE.relative_to(ROOT)} are written from them\n")
    return 1 if any(line.startswith("misses") for line in told) else 0


def _score_coverage(*, store: bool) -> int:
    from benchmarks.score_coverage import (
        PAGE,
        STORED,
        failures,
        render_page,
        simulate_all,
        table,
    )

    cells = [cell.as_dict() for cell in simulate_all()]
    show_progress("")
    sys.stdout.write(table(cells) + "\n")
    if store:
        write(STORED, cells)
        replace_text(PAGE, render_page(PAGE.read_text(encoding="utf-8"), read(STORED)))
        sys.stdout.write(f"the tables of {PAGE.relative_to(ROOT)} are written from them\n")
    wrong = failures(cells)
    sys.stdout.write("".join(f"less than promised: {w}\n" for w in wrong))
    return 1 if wrong else 0


def _coding(rounds: int, *, store: bool, quick: bool) -> int:
    from benchmarks.coding import (
        BLOCK,
        LENGTH,
        PAGE,
        QUICK_BLOCK,
        QUICK_LENGTH,
        STORED,
        measure_all,
        reached,
        render,
        table,
        text_of_sources,
    )

    if quick and store:
        sys.stderr.write("--quick makes no result to store: leave out --json\n")
        return 2
    length, block = (QUICK_LENGTH, QUICK_BLOCK) if quick else (LENGTH, BLOCK)
    lines = list(measure_all(text_of_sources(length, block), 1 if quick else rounds))
    show_progress("")
    sys.stdout.write(table(lines) + "\n\n")
    if quick:
        sys.stdout.write("--quick: too few bytes to say anything about speed.\n")
        return 0
    told = reached(lines)
    sys.stdout.write("".join(f"{line}\n" for line in told))
    if store:
        write(STORED, lines)
        replace_text(PAGE, render(PAGE.read_text(encoding="utf-8"), read(STORED)))
        sys.stdout.write(f"the tables of {PAGE.relative_to(ROOT)} are written from them\n")
    return 1 if any(line.startswith("misses") for line in told) else 0


if __name__ == "__main__":
    raise SystemExit(main())
