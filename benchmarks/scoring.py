"""What a score of a large table costs beside the engine's own mean of −log p, and its memory.

Every question is asked of the same Parquet file, in turns; the engine's own sum has the same number
of threads. The data are simulated: random predictions and labels drawn from them, in blocks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np

from benchmarks.results import ROOT, provenance, replace_part, show_progress

__all__ = [
    "PAGE", "STORED", "Case", "Measured", "make_table", "measure", "measure_all", "measure_peer",
    "name_labels", "peak", "reached", "render_page", "table",
]  # fmt: skip

STORED = ROOT / "benchmarks" / "results" / "scoring.jsonl"
PAGE = ROOT / "docs" / "scoring.md"
ROWS, CLASSES, SLICES = 10_000_000, 10, 1000
BLOCK = 500_000
NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""Labels in the order of texts, which is that of scikit-learn's columns."""
NUMBERED_ROWS = 1_000_000
"""Rows of the table with whole numbers for labels that scikit-learn is asked about."""
LEAST_TIMES = 50.0
"""So many times as fast as pandas and scikit-learn the plain score shall be, of named labels."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A question, and how many times the engine's own sum it may take."""

    name: str
    most: float
    about: str


CASES = (
    Case("sums", 1.5, "log loss and its standard error by class, of rows known to be valid"),
    Case("validated", 3.0, "the same with accuracy, every row validated"),
    Case("plain", 4.0, "score(path, explain=False): the same and Brier's score, from the path"),
    Case("score", 8.0, "score(path): the whole explanation"),
    Case("class-wise", 20.0, "score(path, class_wise=True)"),
    Case("slices", 16.0, "score(path, by=['place']), 1000 values"),
)


@dataclass(frozen=True)
class Measured:
    """Seconds of a question, the medians of rounds, beside the engine's own sum."""

    case: str
    rows: int
    classes: int
    seconds: float
    engine_seconds: float
    ratio: float
    most: float
    rounds: int

    def as_dict(self) -> Line:
        """Return the measurement as a line of the results."""
        return {"kind": "time", **asdict(self), **provenance(), "duckdb": duckdb.__version__}


def make_table(path: Path, rows: int, classes: int = CLASSES, *, lists: bool = False) -> float:
    """Write a table of predictions, and return its log loss as NumPy computes it.

    Parameters
    ----------
    path
        The Parquet file, or the folder of its blocks where there is more than one.
    rows, classes
        Its size.
    lists
        Whether the probabilities are one column of lists.
    """
    path.mkdir()
    random = np.random.default_rng(0)
    total, block = 0.0, min(BLOCK, max(1, 50_000_000 // classes // 10))
    for start in range(0, rows, block):
        show_progress(f"{path.name}: {start:,} of {rows:,} rows")
        n = min(block, rows - start)
        z = random.standard_normal((n, classes), dtype=np.float32) * np.float32(1.5)
        np.exp(z, out=z)
        p = z / z.sum(axis=1, keepdims=True)
        places = np.cumsum(p, axis=1, dtype=np.float64)
        y = (places < random.random((n, 1)) * places[:, -1:]).sum(axis=1)
        total += float(-np.log(p[np.arange(n), y].astype(np.float64)).sum())
        columns = {"label": y.astype(np.int32)}
        columns |= {"place": random.integers(SLICES, size=n).astype(np.int32)}
        with duckdb.connect() as connection:
            if lists:
                import pyarrow as pa

                flat = pa.FixedSizeListArray.from_arrays(pa.array(p.ravel()), classes)
                made: Any = pa.table({"label": columns["label"], "probabilities": flat})
            else:
                made = columns | {f"p_{k}": np.ascontiguousarray(p[:, k]) for k in range(classes)}
            connection.register("made", made)
            target = path / f"part-{start:012}.parquet"
            connection.execute(f"COPY made TO '{target}' (FORMAT parquet)")
    return total / rows


def name_labels(path: Path, target: Path) -> None:
    """Write the same table with names for labels, and for what its columns are called."""
    target.mkdir()
    names = ", ".join(f"'{name}'" for name in NAMES)
    columns = ", ".join(f"p_{k} AS p_{name}" for k, name in enumerate(NAMES))
    for file in sorted(path.glob("*.parquet")):
        show_progress(f"{target.name}: {file.name}")
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT [{names}][label + 1] AS label, {columns} "
                f"FROM read_parquet('{file}')) TO '{target / file.name}' (FORMAT parquet)"
            )


def measure(path: Path, rows: int, expected: float, rounds: int) -> Iterator[Measured]:
    """Ask every question in turns, and check each answer."""
    from xent.scoring import score
    from xent.scoring.query import Query
    from xent.scoring.reading import Wishes, read_roles
    from xent.scoring.sources import open_table

    files = f"'{path}/*.parquet'"
    cases = " ".join(f"WHEN {k} THEN p_{k}" for k in range(CLASSES))
    own = f"SELECT avg(-ln(CAST(CASE label {cases} END AS DOUBLE))) FROM read_parquet({files})"

    def engine() -> float:
        with duckdb.connect() as connection:
            return float(connection.execute(own).fetchall()[0][0])

    def sums() -> float:
        with open_table(path) as opened:
            reading = read_roles(opened, Wishes())
            query = Query(opened, reading, length=CLASSES)
            first, *others = query.summaries(judged=False).values()
            return first.merge(*others).log_loss

    def validated() -> float:
        with open_table(path) as opened:
            reading = read_roles(opened, Wishes())
            scan = Query(opened, reading, length=CLASSES).scan(explain=False, brier=False)
            return scan.tally.whole.summary.log_loss

    questions: dict[str, Callable[[], float]] = {
        "sums": sums,
        "validated": validated,
        "plain": lambda: score(path, explain=False).log_loss,
        "score": lambda: score(path).log_loss,
        "class-wise": lambda: score(path, class_wise=True).log_loss,
        "slices": lambda: score(path, by=["place"]).log_loss,
    }
    spent: dict[str, list[float]] = {"engine": [], **{case.name: [] for case in CASES}}
    for turn in range(rounds):
        for name, ask in [("engine", engine), *questions.items()]:
            show_progress(f"round {turn + 1} of {rounds}: {name}")
            start = time.perf_counter()
            answer = ask()
            spent[name].append(time.perf_counter() - start)
            if abs(answer - expected) > 1e-9 * expected:
                raise AssertionError(f"{name} says {answer}, and NumPy {expected}")
    base = median(spent["engine"])
    for case in CASES:
        took = median(spent[case.name])
        yield Measured(case.name, rows, CLASSES, took, base, took / base, case.most, rounds)


def measure_peer(
    files: Sequence[Path], labels: Sequence[Any], kind: str, *, rounds: int, peer_rounds: int
) -> Line:
    """Time pandas and scikit-learn beside `score`, plain and whole, in turns.

    Parameters
    ----------
    files
        Of the table.
    labels, kind
        Its labels, in the order of its columns, and what they are in words.
    rounds, peer_rounds
        How many times each is asked, and the peer.
    """
    import pandas as pd
    from sklearn.metrics import log_loss

    from xent.scoring import score

    columns = [f"p_{label}" for label in labels]

    def theirs() -> float:
        frame = pd.concat([pd.read_parquet(file, columns=["label", *columns]) for file in files])
        predicted = frame[columns].astype("float64")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float32 numbers sum to 1 within 1e-7, which it tells
            return float(log_loss(frame["label"], predicted, labels=list(labels)))

    questions: dict[str, tuple[int, Callable[[], float]]] = {
        "plain": (rounds, lambda: score(files, explain=False).log_loss),
        "whole": (rounds, lambda: score(files).log_loss),
        "theirs": (peer_rounds, theirs),
    }
    spent: dict[str, list[float]] = {name: [] for name in questions}
    answers = {}
    for turn in range(max(rounds, peer_rounds)):
        for name, (many, ask) in questions.items():
            if turn < many:
                show_progress(f"scikit-learn and score, labels are {kind}: {name}")
                start = time.perf_counter()
                answers[name] = ask()
                spent[name].append(time.perf_counter() - start)
    seconds = {name: median(times) for name, times in spent.items()}
    named = kind == "names"
    return {
        "kind": "peer",
        "labels": kind,
        "rows": score(files, explain=False).n,
        "seconds": seconds["plain"],
        "whole_seconds": seconds["whole"],
        "peer_seconds": seconds["theirs"],
        "ratio": seconds["theirs"] / seconds["plain"],
        "whole_ratio": seconds["theirs"] / seconds["whole"],
        "least": LEAST_TIMES if named else None,
        "rounds": rounds,
        "peer_rounds": peer_rounds,
        "difference": max(abs(answers["theirs"] - answers[name]) for name in ("plain", "whole")),
        **provenance(),
    }


_PEAK = """
import json, sys
import duckdb
from xent.scoring import score
def most():  # of this process alone: what resource.getrusage says begins with its parent's
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
before = most()
result = score(json.loads(sys.argv[1]), class_wise=len(sys.argv) > 2)
after = most()
print(json.dumps([result.n, result.log_loss, before * 1024, after * 1024]))
"""


def peak(name: str, sources: Sequence[Path], most: float) -> Line:
    """Return the memory of a process that scores a table, beyond that of its imports.

    Parameters
    ----------
    name
        What the table is.
    sources
        Its files.
    most
        What it may take, bytes.
    """
    show_progress(f"memory: {name}")
    words = [sys.executable, "-c", _PEAK, json.dumps([str(source) for source in sources])]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    rows, loss, before, after = json.loads(done.stdout)
    return {
        "kind": "memory",
        "case": name,
        "rows": rows,
        "log_loss": loss,
        "bytes": after - before,
        "imports_bytes": before,
        "most": most,
        **provenance(),
    }


def measure_all(folder: Path, rows: int, rounds: int, *, wide_lists: int) -> Iterator[Line]:
    """Make the tables, and measure everything.

    Parameters
    ----------
    folder
        Where the tables go.
    rows, rounds
        Of the wide table, and of its questions.
    wide_lists
        Rows of the table of lists of 1000 probabilities; 0 for none.
    """
    wide = folder / "wide"
    expected = make_table(wide, rows)
    for measured in measure(wide, rows, expected, rounds):
        yield measured.as_dict()
    parts = sorted(wide.glob("*.parquet"))
    named = folder / "named"
    name_labels(wide, named)
    # The peer takes a minute on all rows: there one round has to do.
    yield measure_peer(
        sorted(named.glob("*.parquet")), NAMES, "names", rounds=rounds, peer_rounds=1
    )
    some = parts[: max(1, NUMBERED_ROWS // BLOCK)]
    yield measure_peer(some, range(CLASSES), "whole numbers", rounds=rounds, peer_rounds=rounds)
    few = parts[: max(1, len(parts) // 10)]
    tables = {"a tenth of the table": few, "the table": parts, "the table four times": parts * 4}
    for name, files in tables.items():
        line = peak(name, files, 2**30)
        if len(files) >= len(parts) and abs(line["log_loss"] - expected) > 1e-9 * expected:
            raise AssertionError(f"{name}: {line['log_loss']}, and NumPy says {expected}")
        yield line
    if wide_lists:
        lists = folder / "lists"
        expected = make_table(lists, wide_lists, 1000, lists=True)
        yield peak("lists of 1000 probabilities", sorted(lists.glob("*.parquet")), 2**31)


# ---- what is shown -------------------------------------------------------------------------------


def table(lines: Sequence[Line]) -> str:
    """Return the figures as tables in Markdown."""
    times = [line for line in lines if line["kind"] == "time"]
    about = {case.name: case.about for case in CASES}
    rows = ["| question | seconds | times the engine's own sum |", "| --- | --- | --- |"]
    if times:
        engine = times[0]["engine_seconds"]
        rows.append(f"| `avg(-ln(p))` of the truth, nothing checked | {engine:.2f} | 1 |")
    rows += [f"| {about[t['case']]} | {t['seconds']:.2f} | {t['ratio']:.1f} |" for t in times]
    peers = [line for line in lines if line["kind"] == "peer"]
    if peers:
        heads = ["labels are", "rows", "pandas and scikit-learn, seconds"]
        heads += ["score(path, explain=False)", "times as fast", "score(path)", "times as fast"]
        rows += ["", f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for line in peers:
        many = f"{line['rows']:,}".replace(",", " ")
        rows.append(
            f"| {line['labels']} | {many} | {line['peer_seconds']:.2f} | {line['seconds']:.2f} | "
            f"{line['ratio']:.1f} | {line['whole_seconds']:.2f} | {line['whole_ratio']:.1f} |"
        )
    memory = [line for line in lines if line["kind"] == "memory"]
    if memory:
        rows += ["", "| memory of | rows | MiB beyond the imports |", "| --- | --- | --- |"]
    for line in memory:
        many = f"{line['rows']:,}".replace(",", " ")
        rows.append(f"| {line['case']} | {many} | {line['bytes'] / 2**20:.0f} |")
    return "\n".join(rows)


def reached(lines: Sequence[Line]) -> list[str]:
    """Return what was to be reached, a line each, with whether it holds."""
    told = []
    for line in lines:
        if line["kind"] == "time":
            holds = line["ratio"] <= line["most"]
            told.append(
                f"{'holds ' if holds else 'misses'}  {line['case']}: {line['ratio']:.2f} × the "
                f"engine's sum, {line['most']:g} × at most"
            )
        elif line["kind"] == "peer" and line["least"] is not None:
            holds = line["ratio"] >= line["least"]
            told.append(
                f"{'holds ' if holds else 'misses'}  the plain score is {line['ratio']:.1f} × as "
                f"fast as pandas and scikit-learn where labels are {line['labels']}, "
                f"{line['least']:g} × at least"
            )
        elif line["kind"] == "memory":
            holds = line["bytes"] <= line["most"]
            told.append(
                f"{'holds ' if holds else 'misses'}  {line['case']}: {line['bytes'] / 2**20:.0f} "
                f"MiB, {line['most'] / 2**20:.0f} at most"
            )
    return told


def render_page(text: str, lines: Sequence[Line]) -> str:
    """Return the page with its tables made from the measurements."""
    return replace_part(text, "scoring-speed", f"\n{table(lines)}\n\n")
