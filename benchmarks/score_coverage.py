"""Where the intervals of a score cover, by simulation of rows from listed processes.

From each process many samples of rows are drawn. What is counted is how many of the intervals of
`xent.scoring.intervals` hold the mean loss of the process, and in how many samples a doubt was
raised. The sums are taken for many samples at once, by the formulas of the library, which is asked
itself for the first sample of each cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import stdtrit

from benchmarks.results import ROOT, replace_part, show_progress
from xent.scoring.clusters import ClusterSummary
from xent.scoring.intervals import FEWEST_CARRIERS, FEWEST_ROWS, mean_interval
from xent.scoring.summary import LossSummary

__all__ = [
    "CLUSTERED", "CLUSTERS", "PAGE", "PROCESSES", "SIZES", "STORED", "UNEVEN", "Cell", "failures",
    "render_page", "simulate", "simulate_all", "simulate_clusters", "table",
]  # fmt: skip

STORED = ROOT / "benchmarks" / "results" / "score_coverage.jsonl"
PAGE = ROOT / "docs" / "scoring.md"
LEVEL = 0.95
SIZES = (50, 200, 1000, 10000)
CLUSTERS = (5, 10, 20, 50, 200)
SAMPLES = 2000
ENTRIES = 1 << 21
LEAST_COVERED = 0.92
"""What an interval of 95 % must cover where fewer than half of the samples raise a doubt."""
RARE = "rare confident mistakes"
"""The process that no sample without such a mistake can tell from a harmless one."""

Line = dict[str, Any]
Rows = tuple[np.ndarray, np.ndarray | None]


# ---- processes: losses of independent rows, nats, and their weights -----------------------------


def _binary(
    random: np.random.Generator, shape: tuple[int, ...], truth: np.ndarray, said: np.ndarray
) -> np.ndarray:
    """Return −log P(y) of predictions with the logit `said`, of which `truth` is right."""
    yes = random.random(shape) < 1.0 / (1.0 + np.exp(-truth))
    return np.logaddexp(0.0, np.where(yes, -said, said))


def _calibrated(random: np.random.Generator, shape: tuple[int, ...]) -> Rows:
    z = 1.5 * random.standard_normal(shape)
    return _binary(random, shape, z, z), None


def _confident(random: np.random.Generator, shape: tuple[int, ...]) -> Rows:
    z = 1.5 * random.standard_normal(shape)
    return _binary(random, shape, z, 3.0 * z), None


def _rare(random: np.random.Generator, shape: tuple[int, ...]) -> Rows:
    z = random.standard_normal(shape) - 5.0
    return _binary(random, shape, z, z), None


def _ten_classes(random: np.random.Generator, shape: tuple[int, ...]) -> Rows:
    z = 2.0 * random.standard_normal((10, *shape))
    truth = (z + random.gumbel(size=z.shape)).argmax(axis=0)
    top = z.max(axis=0)
    lse = top + np.log(np.exp(z - top).sum(axis=0))
    return lse - np.take_along_axis(z, truth[None], axis=0)[0], None


def _mistakes(random: np.random.Generator, shape: tuple[int, ...]) -> Rows:
    loss = 0.1 * random.random(shape)
    return np.where(random.random(shape) < 1e-3, -math.log(1e-6), loss), None


def _weighted(random: np.random.Generator, shape: tuple[int, ...]) -> Rows:
    loss, _ = _calibrated(random, shape)
    return loss, np.exp(1.5 * random.standard_normal(shape))


PROCESSES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Rows]] = {
    "calibrated, two classes": _calibrated,
    "calibrated, ten classes": _ten_classes,
    "over-confident (logits × 3)": _confident,
    "rare event (1 % yes)": _rare,
    "sampling weights over a hundredfold": _weighted,
    RARE: _mistakes,
}


def _alike(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return losses of clusters whose rows share half of what decides them, shape (…, 20)."""
    z = 1.5 * random.standard_normal((*shape, 20))
    return _binary(random, z.shape, z + 1.5 * random.standard_normal((*shape, 1)), z)


CLUSTERED = "clusters of 20 rows that share a shift of the logit"
UNEVEN = "clusters of 1 to 20 rows that share a shift of the logit"


@cache
def _mean(process: str) -> float:
    """Return the mean loss of a process, from 4·10⁷ rows apart from the samples."""
    random = np.random.default_rng(7)
    total = weight = 0.0
    for _ in range(20):
        if process == CLUSTERED:
            loss, w = _alike(random, (100_000,)), None
        else:
            loss, w = PROCESSES[process](random, (2_000_000 // (10 if "ten" in process else 1),))
        # The weights of a process are independent of its losses, so all count alike here.
        del w
        total += float(loss.sum())
        weight += loss.size
    return total / weight


# ---- simulation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """How often the intervals of one process and size hold the mean.

    Attributes
    ----------
    process, n
        What is drawn, and how many rows (or clusters) a sample has.
    samples
        How many samples.
    covered
        Share of the samples whose interval holds the mean.
    doubted
        Share of the samples in which a doubt was raised.
    independent
        For clusters: the share covered by the interval that takes rows for independent.
    """

    process: str
    n: int
    samples: int
    covered: float
    doubted: float
    independent: float | None = None

    def as_dict(self) -> Line:
        """Return the cell as a line of the results."""
        return {"kind": "cell", **asdict(self)}


def simulate(process: str, n: int, samples: int = SAMPLES, seed: int = 0) -> Cell:
    """Count the intervals of samples of independent rows."""
    random = np.random.default_rng([seed, n, list(PROCESSES).index(process)])
    mean, held, doubted, done = _mean(process), 0, 0, 0
    while done < samples:
        some = min(samples - done, max(1, ENTRIES // (n * (10 if "ten" in process else 1))))
        loss, w = PROCESSES[process](random, (some, n))
        w = np.ones_like(loss) if w is None else w
        centre = (w * loss).sum(axis=1) / w.sum(axis=1)
        squares = (w * (loss - centre[:, None])) ** 2
        error = np.sqrt(n / (n - 1) * squares.sum(axis=1)) / w.sum(axis=1)
        effective = w.sum(axis=1) ** 2 / (w * w).sum(axis=1)
        reach = stdtrit(np.maximum(effective - 1.0, 0.01), 0.5 + 0.5 * LEVEL) * error
        carriers = _carriers(squares)
        doubt = (effective < FEWEST_ROWS) | (carriers < FEWEST_CARRIERS) | (n < FEWEST_ROWS)
        if not done:
            _agree(loss[0], w[0], centre[0] - reach[0], bool(doubt[0]), float(carriers[0]))
        held += int((np.abs(centre - mean) <= reach).sum())
        doubted += int(doubt.sum())
        done += some
    return Cell(process, n, samples, held / samples, doubted / samples)


def _carriers(squares: np.ndarray) -> np.ndarray:
    """Return how few rows carry half of the sum of squares, in each sample."""
    most = -np.sort(-squares, axis=1)
    shares = np.cumsum(most, axis=1) / most.sum(axis=1, keepdims=True)
    return (shares < 0.5).sum(axis=1) + 1.0


def _agree(loss: np.ndarray, w: np.ndarray, lower: float, doubt: bool, carriers: float) -> None:
    """Refuse to count what the library does not say."""
    found = mean_interval(LossSummary.from_rows(loss, w), level=LEVEL, carriers=carriers)
    if found is None or abs(found.lower - lower) > 1e-9 or bool(found.doubts) != doubt:
        raise AssertionError(f"the library's interval is another: {found}, {lower}, {doubt}")


def simulate_clusters(
    clusters: int, samples: int = SAMPLES, seed: int = 0, *, uneven: bool = False
) -> Cell:
    """Count the intervals of samples of clusters, and those that take rows for independent."""
    random = np.random.default_rng([seed, clusters])
    loss = _alike(random, (samples, clusters))
    # Sizes have nothing to do with losses, so that the mean is that of clusters of one size.
    sizes = np.full((samples, clusters), 20)
    if uneven:
        drawn = np.exp(1.0 + random.standard_normal((samples, clusters)))
        sizes = np.clip(drawn.astype(int), 1, 20)
    mean = _mean(CLUSTERED)
    held = doubted = naive = 0
    for sample, size in zip(loss, sizes, strict=True):
        there = np.arange(20) < size[:, None]
        totals = ClusterSummary.from_totals(size, np.where(there, sample, 0.0).sum(axis=1))
        found = totals.interval(LEVEL)
        rows = mean_interval(LossSummary.from_rows(sample[there]), level=LEVEL)
        if found is None or rows is None:
            raise AssertionError("every sample has an interval")
        held += found.lower <= mean <= found.upper
        naive += rows.lower <= mean <= rows.upper
        doubted += bool(found.doubts)
    name = UNEVEN if uneven else CLUSTERED
    return Cell(name, clusters, samples, held / samples, doubted / samples, naive / samples)


def simulate_all(samples: int = SAMPLES) -> Iterator[Cell]:
    """Simulate every cell."""
    for process in PROCESSES:
        for n in SIZES:
            show_progress(f"{process}, {n} rows")
            yield simulate(process, n, samples)
    for clusters in CLUSTERS:
        for uneven in (False, True):
            show_progress(f"{clusters} clusters")
            yield simulate_clusters(clusters, samples, uneven=uneven)


def failures(cells: Sequence[Line]) -> list[str]:
    """Return the cells that cover too little while most samples raise no doubt."""
    return [
        f"{cell['process']}, {cell['n']}: {cell['covered']:.1%}, {cell['doubted']:.0%} doubted"
        for cell in cells
        if cell["covered"] < LEAST_COVERED and cell["doubted"] < 0.5 and cell["process"] != RARE
    ]


# ---- what is shown ------------------------------------------------------------------------------


def table(cells: Sequence[Line]) -> str:
    """Return two tables in Markdown: of rows, and of clusters."""
    return "\n\n".join((_rows_table(cells), _clusters_table(cells)))


def _rows_table(cells: Sequence[Line]) -> str:
    rows = [["process", *(f"n = {n:,}".replace(",", " ") for n in SIZES)]]
    for process in PROCESSES:
        found = {c["n"]: c for c in cells if c["process"] == process}
        rows.append([process, *(_shown(found.get(n)) for n in SIZES)])
    return _markdown(rows)


def _clusters_table(cells: Sequence[Line]) -> str:
    rows = [["clusters", "rows of each", "by clusters", "doubted", "as if rows were independent"]]
    for cell in (c for c in cells if c["process"] in {CLUSTERED, UNEVEN}):
        rows.append(
            [
                str(cell["n"]),
                "20" if cell["process"] == CLUSTERED else "1 to 20",
                f"{100 * cell['covered']:.1f}",
                f"{100 * cell['doubted']:.0f}",
                f"{100 * cell['independent']:.1f}",
            ]
        )
    return _markdown(rows)


def _shown(cell: Line | None) -> str:
    if cell is None:
        return "–"
    return f"{100 * cell['covered']:.1f} ({100 * cell['doubted']:.0f})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_page(text: str, lines: Sequence[Line]) -> str:
    """Return the page with its tables made from the measurements."""
    cells = [line for line in lines if line["kind"] == "cell"]
    for name, inner in (("rows", _rows_table(cells)), ("clusters", _clusters_table(cells))):
        text = replace_part(text, f"coverage-{name}", f"\n{inner}\n\n")
    return text
