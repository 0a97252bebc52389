"""Where the intervals of `xent.estimation` cover, and how biased its estimators are, by simulation.

From each distribution many samples are drawn. Each gets the interval that the library gives it, or
none, and what is counted is how many of the intervals hold the entropy of the distribution. The
same samples tell the bias of every estimator.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.results import ROOT, replace_part, show_progress
from xent.estimation.entropy import CONFIDENCE, interval_of
from xent.estimation.estimators import ESTIMATORS, Tally
from xent.information import entropy

__all__ = [
    "DISTRIBUTIONS",
    "PAGE",
    "SIZES",
    "STORED",
    "Bootstrap",
    "Cell",
    "bootstrap",
    "bootstrap_all",
    "failures",
    "render_page",
    "simulate",
    "simulate_all",
    "simulate_limit",
    "table",
]

STORED = ROOT / "benchmarks" / "results" / "coverage.jsonl"
PAGE = ROOT / "docs" / "estimation.md"

LEAST_COVERED = 0.93
"""What an interval of 95 % must cover in a cell where `LEAST_GIVEN` of the samples get one."""
LEAST_GIVEN = 0.5
MOST_MISSED = 0.07
"""The share of all samples of any cell that may get an interval that misses."""
DOUBTS = 2.0
"""Standard errors of the simulation that are allowed for."""
SAMPLES = 2000
ENTRIES = 1 << 20

Line = dict[str, Any]


# ---- the distributions -------------------------------------------------------------------------


def _uniform(size: int) -> np.ndarray:
    return np.ones(size)


def _zipf(size: int) -> np.ndarray:
    return 1.0 / np.arange(1, size + 1)


def _steep(size: int) -> np.ndarray:
    return np.arange(1, size + 1) ** -2.0


def _geometric(size: int) -> np.ndarray:
    return np.exp(-8.0 / size * np.arange(size))


def _lognormal(size: int) -> np.ndarray:
    return np.exp(2.0 * np.random.default_rng(size).standard_normal(size))


def _rest_equal(first: float, values: int = 1) -> Callable[[int], np.ndarray]:
    """Return distributions with some of the mass on a few equal values, the rest on the others."""

    def shares(size: int) -> np.ndarray:
        rest = np.full(size - values, (1.0 - first) / (size - values))
        return np.concatenate([np.full(values, first / values), rest])

    return shares


SHAPES: dict[str, tuple[Callable[[int], np.ndarray], tuple[int, ...]]] = {
    "uniform": (_uniform, (2, 10, 100, 1000, 10_000)),
    "1/rank": (_zipf, (10, 100, 1000, 10_000)),
    "1/rank²": (_steep, (100, 10_000)),
    "geometric": (_geometric, (10, 100, 1000)),
    "log-normal, σ = 2": (_lognormal, (100, 1000)),
    "half on 5 values": (_rest_equal(0.5, 5), (100, 1000, 10_000)),
    "0.9 on 10 values": (_rest_equal(0.9, 10), (1000,)),
    "0.999 on 2 values": (_rest_equal(0.999, 2), (3, 30, 1000)),
    "0.53 on one value": (_rest_equal(0.53), (2,)),
    "0.9 on one value": (_rest_equal(0.9), (2, 10, 100, 1000)),
    "0.99 on one value": (_rest_equal(0.99), (2, 10, 100, 1000)),
}
LIMIT = ("0.999 on 2 values", 10_000, 2000)
"""A distribution and n for which the interval fails, as any must for some."""
DISTRIBUTIONS = tuple((shape, size) for shape, (_, sizes) in SHAPES.items() for size in sizes)
SIZES = (30, 100, 300, 1000, 3000, 10_000, 100_000)


def _probabilities(shape: str, size: int) -> np.ndarray:
    weights = SHAPES[shape][0](size)
    return weights / weights.sum()


def _draw(
    generator: np.random.Generator, p: np.ndarray, n: int, samples: int
) -> Iterator[np.ndarray]:
    """Yield blocks of samples as counts, one row each, without columns that are 0 throughout."""
    block = max(1, ENTRIES // len(p))
    for start in range(0, samples, block):
        counts = generator.multinomial(n, p, size=min(block, samples - start))
        # Where most values are not seen, the counts in falling order are a narrow matrix.
        ordered = -np.sort(-counts, axis=-1) if n < len(p) else counts
        yield ordered[:, : max(1, int((ordered > 0).any(axis=0).nonzero()[0][-1]) + 1)].astype(
            np.float64
        )


# ---- one cell ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What was found in the samples of one size from one distribution.

    Attributes
    ----------
    shape, alphabet, n
        The distribution, its number of values, and the number of observations in a sample.
    entropy
        Of the distribution, nats.
    samples, given, covered
        The number of samples, of those that got an interval, and of those that hold the entropy.
    given_knowing, covered_knowing
        The same where the number of values is told as `alphabet_size`.
    standard_error_ratio
        The mean standard error of the samples over the standard deviation of their estimates.
    bias, error
        The mean and the root mean square of estimate minus entropy, nats, by estimator.
    """

    shape: str
    alphabet: int
    n: int
    entropy: float
    samples: int
    given: int
    covered: int
    given_knowing: int
    covered_knowing: int
    standard_error_ratio: float
    bias: dict[str, float]
    error: dict[str, float]
    kind: str = "cell"

    def as_dict(self) -> Line:
        """Return the cell as a JSON object."""
        return asdict(self)


def simulate(shape: str, size: int, n: int, samples: int = SAMPLES, seed: int = 0) -> Cell:
    """Draw samples of n observations, and count how the library does on them."""
    p = _probabilities(shape, size)
    truth = float(entropy(p))
    drawn = _draw(np.random.default_rng([seed, *shape.encode(), size, n]), p, n, samples)
    counted = {None: [0, 0], size: [0, 0]}
    errors: list[float] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in ESTIMATORS}
    for counts in drawn:
        tally = Tally.of(counts)
        for name, estimate in ESTIMATORS.items():
            found[name].append(estimate(tally))
        for known, count in counted.items():
            interval = interval_of(tally, known)
            # The logarithm of a uniform distribution's size is its entropy, but for rounding.
            holds = (interval.lower <= truth) & (truth <= interval.upper + 1e-12)
            count[0] += int(interval.given.sum())
            count[1] += int((interval.given & holds).sum())
        errors += interval.standard_error.tolist()
    estimates = {name: np.concatenate(parts) - truth for name, parts in found.items()}
    spread = float(estimates["chao_wang_jost"].std())
    return Cell(
        shape,
        size,
        n,
        truth,
        samples,
        *counted[None],
        *counted[size],
        float(np.mean(errors)) / spread if spread else math.inf,
        {name: float(e.mean()) for name, e in estimates.items()},
        {name: float(np.sqrt((e * e).mean())) for name, e in estimates.items()},
    )


def simulate_all(
    distributions: Sequence[tuple[str, int]] = DISTRIBUTIONS,
    sizes: Sequence[int] = SIZES,
    samples: int = SAMPLES,
) -> Iterator[Cell]:
    """Simulate every distribution and size."""
    for shape, size in distributions:
        for n in sizes:
            show_progress(f"{shape}, {size} values, n = {n}")
            yield simulate(shape, size, n, samples)


def simulate_limit() -> Cell:
    """Simulate the distribution for which the interval fails."""
    return replace(simulate(*LIMIT), kind="limit")


def failures(cells: Iterable[Line]) -> list[str]:
    """Return, in words, the cells in which the intervals do less than is promised."""
    wrong = []
    for c in cells:
        for which in ("", "_knowing"):
            samples, given, covered = c["samples"], c["given" + which], c["covered" + which]
            where = _where(c) + (", known" if which else "")
            missed = (given - covered) / samples
            if missed > MOST_MISSED + DOUBTS * _doubt(MOST_MISSED, samples):
                wrong.append(f"{where}: {missed:.1%} of the samples have an interval that misses")
            if given < LEAST_GIVEN * samples:
                continue
            if covered / given < LEAST_COVERED - DOUBTS * _doubt(LEAST_COVERED, given):
                wrong.append(f"{where}: {covered / given:.1%} of {given} intervals cover")
    return wrong


def _doubt(share: float, samples: int) -> float:
    return math.sqrt(share * (1.0 - share) / samples)


# ---- the bootstrap that does not cover ---------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """How often the percentile bootstrap of the plug-in covers."""

    shape: str
    alphabet: int
    n: int
    samples: int
    resamples: int
    covered: int

    def as_dict(self) -> Line:
        """Return the finding as a JSON object."""
        return {"kind": "bootstrap", **asdict(self)}


RESAMPLED = (("uniform", 100, 1000), ("1/rank", 100, 1000), ("0.9 on one value", 2, 1000))


def bootstrap(
    shape: str, size: int, n: int, samples: int = 400, resamples: int = 400, seed: int = 0
) -> Bootstrap:
    """Resample samples of a distribution, and take the middle 95 % of their plug-ins."""
    generator = np.random.default_rng(seed)
    p = _probabilities(shape, size)
    truth = float(entropy(p))
    tails = 50.0 * (1.0 - CONFIDENCE)
    covered = 0
    for sample in generator.multinomial(n, p, size=samples):
        again = generator.multinomial(n, sample / n, size=resamples).astype(np.float64)
        entropies = ESTIMATORS["plug_in"](Tally.of(again))
        lower, upper = np.percentile(entropies, [tails, 100.0 - tails])
        covered += int(lower <= truth <= upper)
    return Bootstrap(shape, size, n, samples, resamples, covered)


def bootstrap_all() -> Iterator[Bootstrap]:
    """Resample samples of the distributions that the page names."""
    for shape, size, n in RESAMPLED:
        yield bootstrap(shape, size, n)


# ---- as text -----------------------------------------------------------------------------------


def table(cells: Sequence[Line]) -> str:
    """Return the coverage by distribution and n, as a Markdown table."""
    sizes = sorted({c["n"] for c in cells})
    found = {(c["shape"], c["alphabet"], c["n"]): c for c in cells}
    rows = [
        [shape, _grouped(size), *(_shown(found.get((shape, size, n))) for n in sizes)]
        for shape, size in dict.fromkeys((c["shape"], c["alphabet"]) for c in cells)
    ]
    return _markdown(["distribution", "values", *(f"n = {_grouped(n)}" for n in sizes)], rows)


def _shown(cell: Line | None) -> str:
    """Return the percentage covered, and that of the samples with an interval if not all."""
    if cell is None or not cell["given"]:
        return "–"
    covered = f"{100 * cell['covered'] / cell['given']:.0f}"
    given = 100 * cell["given"] / cell["samples"]
    if given >= 99.5:
        return covered
    return f"{covered} ({'< 1' if given < 1 else f'{given:.0f}'} %)"


BIASED = (("uniform", 100), ("1/rank", 1000), ("0.9 on one value", 100))
BY_BIAS = ("plug_in", "miller_madow", "jackknife", "chao_shen", "chao_wang_jost")


def _biases(cells: Sequence[Line]) -> str:
    rows = [
        [
            f"{c['shape']}, {_grouped(c['alphabet'])} values",
            _grouped(c["n"]),
            *(f"{c['bias'][name]:+.3f} ({c['error'][name]:.3f})" for name in BY_BIAS),
        ]
        for c in cells
        if (c["shape"], c["alphabet"]) in BIASED and c["n"] in (100, 1000, 10_000)
    ]
    overall = [
        f"{np.mean([abs(c['bias'][name]) for c in cells]):.3f} "
        f"({np.mean([c['error'][name] for c in cells]):.3f})"
        for name in BY_BIAS
    ]
    rows.append([f"mean size over the {len(cells)} cells below", "", *overall])
    return _markdown(["distribution", "n", *(f"`{name}`" for name in BY_BIAS)], rows)


def _summary(cells: Sequence[Line], limit: Line, bootstraps: Sequence[Line]) -> list[str]:
    """Return paragraphs: what the intervals cover, and what the bootstrap does."""
    promised = [c for c in cells if c["given"] >= LEAST_GIVEN * c["samples"]]
    knowing = [c for c in cells if c["given_knowing"] >= LEAST_GIVEN * c["samples"]]
    worst = min(promised, key=lambda c: c["covered"] / c["given"])
    missed = max((c["given"] - c["covered"]) / c["samples"] for c in cells)
    ratios = [c["standard_error_ratio"] for c in promised]
    least_knowing = min(c["covered_knowing"] / c["given_knowing"] for c in knowing)
    ours = f"""
        Of {len(cells)} cells with {_grouped(cells[0]["samples"])} samples each, {len(promised)}
        give an interval to half of the samples or more. There it covers
        {worst["covered"] / worst["given"]:.1%} at least ({_where(worst)}), for a nominal
        {CONFIDENCE:.0%}; {LEAST_COVERED:.0%} is asked. In no cell more than {missed:.1%} of all
        samples get an interval that misses; {MOST_MISSED:.0%} is allowed. With the number of
        values told as `alphabet_size`, {len(knowing)} cells give an interval to half of the
        samples, and it covers {least_knowing:.1%} at least. The standard error is
        {min(ratios):.2f} to {max(ratios):.2f} times what the estimates scatter by; it is largest
        for equal probabilities, where the intervals are wider than need be."""
    fails = f"""
        One of the distributions that no rule recognises: {_where(limit)}. The
        {_grouped(limit["alphabet"] - 2)} rare values have a thousandth of the probability
        together, so one sample in seven has none of them:
        {limit["covered"] / limit["given"]:.0%} of the intervals cover."""
    theirs = f"""
        The percentile bootstrap of the plug-in, for comparison, of {bootstraps[0]["samples"]}
        samples: {"; ".join(_bootstrapped(found) for found in bootstraps)}. Resampling adds the
        bias of the plug-in once more instead of removing it, and for equal probabilities the
        plug-in never reaches their entropy."""
    texts = (ours, fails, theirs)
    return [textwrap.fill(textwrap.dedent(text).strip(), 138) for text in texts]


def _where(line: Line) -> str:
    return f"{line['shape']}, {_grouped(line['alphabet'])} values, n = {_grouped(line['n'])}"


def _bootstrapped(found: Line) -> str:
    covered = found["covered"] / found["samples"]
    return f"{_where(found)}: {covered:.0%} cover"


def _provenance(line: Line) -> str:
    commit = (line["commit"] or "an unknown commit")[:12] + (" with changes" * line["modified"])
    return (
        f"Measured with NumPy {line['versions']['numpy']}, commit {commit}, {line['date']}; the "
        "figures are in `benchmarks/results/coverage.jsonl`."
    )


def render_page(text: str, lines: Sequence[Line]) -> str:
    """Return the page with its tables made from the measurements."""
    cells = [line for line in lines if line["kind"] == "cell"]
    bootstraps = [line for line in lines if line["kind"] == "bootstrap"]
    (limit,) = (line for line in lines if line["kind"] == "limit")
    parts = [*_summary(cells, limit, bootstraps), table(cells), _provenance(lines[0])]
    for name, inner in (("bias", _biases(cells)), ("coverage", "\n\n".join(parts))):
        text = replace_part(text, name, f"\n{inner}\n\n")
    return text


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f") if number >= 10_000 else str(number)
