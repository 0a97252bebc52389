"""Measures of distributions given as numbers, as columns of a table, or as samples in one.

Numbers and columns of probabilities are distributions, measured by `xent.information`. Columns of
values are samples, counted by the engine and estimated from by `xent.estimation`. The caller says
which of the two a column is; nothing is guessed from its content.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xent import estimation, information
from xent.arrays import quietly, unit_sum_tolerance
from xent.errors import OptionError, TableError
from xent.scoring.columns import find_column, listed, no_rows_error
from xent.scoring.duckdb import Table
from xent.scoring.sources import open_table

__all__ = ["Measure", "measure_columns", "measure_numbers", "measure_samples"]

_MEASURES = {  # how many distributions, or variables, each is a measure of
    "entropy": 1,
    "perplexity": 1,
    "cross_entropy": 2,
    "kl_divergence": 2,
    "js_divergence": 2,
    "mutual_information": 2,
}
_DEFAULT_ESTIMATOR = "chao_wang_jost"
_MOST_CELLS = 10_000_000  # of a table of counts in memory, 80 MB


@dataclass(frozen=True)
class Measure:
    """A measure and what it was computed from.

    Attributes
    ----------
    measure
        ``"entropy"``, ``"perplexity"``, ``"cross_entropy"``, ``"kl_divergence"``,
        ``"js_divergence"`` or ``"mutual_information"``.
    value
        Its value, in `unit`; +∞ where P has mass on `unsupported`.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``; None for a perplexity, which is a number of symbols.
    reading
        In words, what it was computed from.
    estimator
        How it was estimated from samples; None where the distributions themselves were given.
    plug_in
        The uncorrected estimate beside a corrected one, in `unit`.
    observations
        Number of observations in each sample; one number for pairs.
    missing
        Number of rows without a value that were left out, for each sample.
    standard_error, interval, why_no_interval
        As in `xent.estimation.EntropyEstimate`; the interval of a perplexity is that of the
        entropy, exponentiated, and has no standard error.
    smoothing, alphabet_size
        What was added to each count of the second sample, and to how many.
    unsupported
        What P has and Q lacks: values of samples, or places such as ``"row 3"``. Rows count from
        1, symbols among numbers from 0.
    unsupported_mass
        Its probability under P.
    """

    measure: str
    value: float
    unit: str | None
    reading: tuple[str, ...]
    estimator: str | None = None
    plug_in: float | None = None
    observations: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    why_no_interval: str | None = None
    smoothing: float | None = None
    alphabet_size: int | None = None
    unsupported: tuple[str, ...] = ()
    unsupported_mass: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the measure as numbers, texts, lists and None only: an infinite value is None."""
        fields = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        finite = math.isfinite(self.value)
        return {**fields, "value": self.value if finite else None, "infinite": not finite}


# ---- distributions -----------------------------------------------------------------------------


def measure_numbers(
    measure: str, *distributions: Any, unit: str = "nats", normalize: bool = False
) -> Measure:
    """Measure distributions that are given as numbers.

    Parameters
    ----------
    measure
        One of the names of `Measure`.
    distributions
        One vector of probabilities, two over the same symbols, or for mutual information one
        matrix of joint probabilities.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``; a perplexity has none.
    normalize
        Divide by the sum first.

    Returns
    -------
    Measure
        The value, and the symbols that make it infinite.

    Raises
    ------
    DistributionError
        If a number is negative or not finite, or a sum is not 1 within rounding.
    ShapeError
        If there is no number, or two distributions differ in length.
    OptionError
        If `unit` or `measure` is none of the names.

    See Also
    --------
    measure_columns : the same from columns of a table.
    measure_samples : estimated from values, not from probabilities.

    Examples
    --------
    >>> measure_numbers("entropy", [0.5, 0.25, 0.25], unit="bits").value
    1.5
    >>> measure_numbers("kl_divergence", [0.5, 0.5], [1.0, 0.0]).unsupported
    ('symbol 1',)
    """
    _require_measure(measure, distributions, variables=False)
    arrays = [np.asarray(numbers, dtype=np.float64) for numbers in distributions]
    names = ["the joint distribution"] if measure == "mutual_information" else ["p", "q"]
    reading = tuple(
        f"{name}: {_numbers(array)}{', divided by their sum' if normalize else ''}"
        for name, array in zip(names, arrays, strict=False)
    )
    return _of_distributions(
        measure, arrays, names, reading, unit, normalize, lambda place: f"symbol {place}"
    )


def _numbers(array: np.ndarray) -> str:
    if array.ndim == 2:
        return f"{array.shape[0]} × {array.shape[1]} numbers"
    return f"{array.size:,} number{'' if array.size == 1 else 's'}"


def measure_columns(
    measure: str,
    path: str | Path,
    *columns: str,
    unit: str = "nats",
    normalize: bool = False,
) -> Measure:
    """Measure distributions that are columns of a table, one row for each symbol.

    Parameters
    ----------
    measure
        One of the names of `Measure` but ``"mutual_information"``.
    path
        A CSV (gzip too) or Parquet file.
    columns
        The column of P, and that of Q for a measure of two.
    unit, normalize
        As for `measure_numbers`.

    Returns
    -------
    Measure
        The value, and the rows that make it infinite.

    Raises
    ------
    TableError
        If the file or a column cannot be read, or a row holds no number, or one that is negative
        or not finite.
    DistributionError
        If a sum is not 1 within rounding.
    OptionError
        If `unit` or `measure` is none of the names.

    See Also
    --------
    measure_samples : estimated from columns of values.
    """
    _require_measure(measure, columns, variables=True)
    if measure == "mutual_information":
        raise OptionError(
            "mutual information needs a joint distribution: got two columns of probabilities. "
            "Hint: measure_samples takes two columns of values."
        )
    with open_table(path) as table:
        places = _find(table, columns, ("p", "q"))
        arrays = _probabilities(table, places)
    names = [f"column {name!r} of {str(path)!r}" for name in columns]
    divided = ", divided by their sum" if normalize else ""
    reading = tuple(
        f"{letter}: {_numbers(array)} in {name}{divided}"
        for letter, array, name in zip("pq", arrays, names, strict=False)
    )
    return _of_distributions(
        measure, arrays, names, reading, unit, normalize, lambda place: f"row {place + 1}"
    )


@quietly
def _of_distributions(
    measure: str,
    arrays: Sequence[np.ndarray],
    names: Sequence[str],
    reading: tuple[str, ...],
    unit: str,
    normalize: bool,
    spelt: Callable[[int], str],
) -> Measure:
    """Compute a measure; `spelt` puts the index of a symbol into words."""
    if not normalize:
        for name, array in zip(names, arrays, strict=False):
            flat = array.ravel()
            information.require_distribution(
                np,
                flat,
                name=name,
                tolerance=unit_sum_tolerance(float(np.finfo(np.float64).eps), flat.size),
                raising=True,
                hint="--normalize (normalize=True in Python) divides by the sum.",
                value_hint="probabilities lie between 0 and 1; log-probabilities and logits must "
                "be exponentiated first.",
            )
    options: dict[str, Any] = {"normalize": normalize}
    if measure != "perplexity":
        options["unit"] = unit
    value = float(getattr(information, measure)(*arrays, **options))
    lacking: tuple[str, ...] = ()
    mass = 0.0
    if math.isinf(value):
        why = information.unsupported(*arrays, normalize=normalize)
        lacking = tuple(spelt(int(place)) for place in np.flatnonzero(np.asarray(why.mask)))
        mass = float(why.mass)
    return Measure(
        measure,
        value,
        options.get("unit"),
        reading,
        unsupported=lacking,
        unsupported_mass=mass,
    )


def _probabilities(table: Table, columns: Sequence[int]) -> list[np.ndarray]:
    """Return columns as float64, all finite and not negative."""
    for column in columns:
        if table.kinds[column] not in {"text", "number", "float"}:
            raise TableError(
                f"column {table.names[column]!r} of {str(table.path)!r} must hold numbers: got "
                f"values of type {table.types[column]}. Hint: choose another column."
            )
    read = [f"coalesce({table.number(column)}, 'nan'::DOUBLE)" for column in columns]
    arrays = [np.asarray(array, dtype=np.float64) for array in table.arrays(read)]
    for column, array in zip(columns, arrays, strict=True):
        if not array.size:
            raise no_rows_error(table)
        bad = ~((array >= 0) & np.isfinite(array))
        if bad.any():
            row = int(np.argmax(bad))
            raise TableError(
                f"column {table.names[column]!r} of {str(table.path)!r} must hold numbers, finite "
                f"and not negative: got {table.shown(column, row)} in row "
                f"{row + 1} ({_rows(int(np.count_nonzero(bad)))} in all). Hint: a symbol that "
                "cannot occur has the probability 0; a column of values is a sample, not a "
                "distribution."
            )
    return arrays


# ---- samples -----------------------------------------------------------------------------------


def measure_samples(
    measure: str,
    path: str | Path,
    *columns: str,
    unit: str = "nats",
    estimator: str | None = None,
    smoothing: float | None = None,
    missing: str = "refuse",
) -> Measure:
    """Estimate a measure from columns of observed values, of which only the counts are kept.

    Parameters
    ----------
    measure
        One of the names of `Measure`.
    path
        A CSV (gzip too) or Parquet file.
    columns
        One column for entropy and perplexity. For cross-entropy and the divergences that of the
        first sample and that of the second; for mutual information those of X and Y, paired by
        row. Values are compared as text; whole floats without their ``.0``.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``; a perplexity has none.
    estimator
        For entropy, perplexity and mutual information: one of
        `xent.estimation.entropy_from_counts`, by default ``"chao_wang_jost"``.
    smoothing
        For cross-entropy and the Kullback–Leibler divergence: what is added to each count of the
        second sample, by default nothing.
    missing
        ``"refuse"`` an empty field, NULL or NaN, or ``"drop"`` it: a row for pairs, and else from
        its own sample only. `Measure.missing` has their numbers.

    Returns
    -------
    Measure
        The estimate, how it was made, and an interval or the reason why there is none.

    Raises
    ------
    TableError
        If the file or a column cannot be read, or a row lacks a value that must not be missing.
    OptionError
        If an option is outside its domain or does not belong to the measure.

    References
    ----------
    Those of `xent.estimation`.

    See Also
    --------
    measure_columns : from columns of probabilities.
    xent.estimation.entropy_from_samples : from samples in memory.
    """
    _require_measure(measure, columns, variables=True)
    divergence = measure in {"cross_entropy", "kl_divergence"}
    if smoothing is not None and not divergence:
        raise OptionError(
            "smoothing belongs to cross-entropy and the Kullback–Leibler divergence: got "
            f"{smoothing!r} for {measure!r}. Hint: leave it out."
        )
    if estimator is not None and (divergence or measure == "js_divergence"):
        raise OptionError(
            f"an estimator belongs to entropy and mutual information: got {estimator!r} for "
            f"{measure!r}. Hint: leave it out; two samples are compared by their shares."
        )
    if missing not in {"refuse", "drop"}:
        raise OptionError(
            f"missing must be 'refuse' or 'drop': got {missing!r}. Hint: 'drop' leaves out rows "
            "without a value and says how many."
        )
    chosen = estimator or _DEFAULT_ESTIMATOR
    with open_table(path) as table:
        if measure == "mutual_information":
            x, y = _find(table, columns, ("x", "y"))
            return _dependence(table, x, y, unit, chosen, missing)
        flags = ("column",) if len(columns) == 1 else ("p-samples", "q-samples")
        samples = [_count(table, c, missing) for c in _find(table, columns, flags)]
    if len(samples) == 1:
        return _of_one_sample(measure, samples[0], unit, chosen)
    return _of_two_samples(measure, samples[0], samples[1], unit, smoothing)


@dataclass(frozen=True)
class _Sample:
    """How often each value of a column occurs, and in how many rows there is none."""

    name: str
    counts: dict[str, int]
    missing: int

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    @property
    def words(self) -> str:
        left_out = f", {_rows(self.missing)} without a value left out" if self.missing else ""
        return f"the values of {self.name}: {_rows(self.n)}, {_values(self.counts)}{left_out}"


def _count(table: Table, column: int, missing: str) -> _Sample:
    rows = table.rows(
        f"SELECT v, count(*) FROM (SELECT {_value(table, column)} AS v FROM {table.source}) "
        "GROUP BY v ORDER BY count(*) DESC, v"
    )
    if not rows:
        raise no_rows_error(table)
    counts = {value: many for value, many in rows if value is not None}
    gaps = sum(many for value, many in rows if value is None)
    _require_values(table, column, gaps, missing, some=bool(counts))
    name = f"column {table.names[column]!r} of {str(table.path)!r}"
    return _Sample(name, counts, gaps)


def _of_one_sample(measure: str, sample: _Sample, unit: str, estimator: str) -> Measure:
    counts = list(sample.counts.values())
    perplexity = measure == "perplexity"
    asked = "nats" if perplexity else unit
    estimate = estimation.entropy_from_counts(counts, estimator=estimator, unit=asked)
    plain = estimation.entropy_from_counts(counts, estimator="plug_in", unit=asked).value
    value, interval, error = estimate.value, estimate.interval, estimate.standard_error
    if perplexity:
        value, plain, error = math.exp(value), math.exp(plain), None
        interval = interval and (math.exp(interval[0]), math.exp(interval[1]))
    once = f"{estimate.singletons:,} of them seen once"
    return Measure(
        measure,
        value,
        None if perplexity else unit,
        (f"{sample.words}, {once}",),
        estimator=estimator,
        plug_in=plain,
        observations=(sample.n,),
        missing=(sample.missing,),
        standard_error=error,
        interval=interval,
        why_no_interval=estimate.why_no_interval,
    )


def _of_two_samples(
    measure: str, p: _Sample, q: _Sample, unit: str, smoothing: float | None
) -> Measure:
    reading = (f"p: {p.words}", f"q: {q.words}")
    observations, missing = (p.n, q.n), (p.missing, q.missing)
    if measure == "js_divergence":
        values = dict.fromkeys([*p.counts, *q.counts])
        of_p, of_q = ([sample.counts.get(value, 0) for value in values] for sample in (p, q))
        shares = information.js_divergence(
            np.asarray(of_p, np.float64), np.asarray(of_q, np.float64), normalize=True, unit=unit
        )
        return Measure(
            measure,
            float(shares),
            unit,
            reading,
            estimator="plug_in",
            observations=observations,
            missing=missing,
        )
    estimate_from = getattr(estimation, f"{measure}_from_counts")
    alpha = 0.0 if smoothing is None else smoothing
    estimate = estimate_from(p.counts, q.counts, smoothing=alpha, unit=unit)
    return Measure(
        measure,
        estimate.value,
        unit,
        reading,
        estimator="additive_smoothing" if estimate.smoothing else "plug_in",
        observations=observations,
        missing=missing,
        smoothing=estimate.smoothing,
        alphabet_size=estimate.alphabet_size,
        unsupported=estimate.unsupported,
        unsupported_mass=estimate.unsupported_mass,
    )


def _dependence(table: Table, x: int, y: int, unit: str, estimator: str, missing: str) -> Measure:
    rows = table.rows(
        f"SELECT x, y, count(*) FROM (SELECT {_value(table, x)} AS x, {_value(table, y)} AS y "
        f"FROM {table.source}) GROUP BY x, y ORDER BY x, y"
    )
    if not rows:
        raise no_rows_error(table)
    pairs = [row for row in rows if row[0] is not None and row[1] is not None]
    for column, place in ((x, 0), (y, 1)):
        gaps = sum(row[2] for row in rows if row[place] is None)
        _require_values(table, column, gaps, missing, some=bool(pairs))
    of_x, of_y = (
        {value: i for i, value in enumerate(sorted({r[k] for r in pairs}))} for k in (0, 1)
    )
    places = [np.array([names[row[k]] for row in pairs]) for k, names in ((0, of_x), (1, of_y))]
    counts = np.array([row[2] for row in pairs])

    def estimate(name: str) -> estimation.MutualInformationEstimate:
        if len(of_x) * len(of_y) <= _MOST_CELLS:
            joint = np.zeros((len(of_x), len(of_y)))
            joint[places[0], places[1]] = counts
            return estimation.mutual_information_from_counts(joint, estimator=name, unit=unit)
        samples = (np.repeat(codes, counts) for codes in places)
        return estimation.mutual_information_from_samples(*samples, estimator=name, unit=unit)

    n = int(counts.sum())
    left_out = sum(row[2] for row in rows) - n
    gone = f", {_rows(left_out)} without one left out" if left_out else ""
    words = (
        f"the pairs of values in columns {table.names[x]!r} ({_values(of_x)}) and "
        f"{table.names[y]!r} ({_values(of_y)}) of {str(table.path)!r}: {_rows(n)}, "
        f"{len(pairs):,} different{gone}"
    )
    return Measure(
        "mutual_information",
        estimate(estimator).value,
        unit,
        (words,),
        estimator=estimator,
        plug_in=estimate("plug_in").value,
        observations=(n,),
        missing=(left_out,),
    )


def _value(table: Table, column: int) -> str:
    """Return SQL for the value of a row as text, NULL where there is none."""
    label = table.label(column)
    if table.kinds[column] == "float":  # −0.0 is no other number than 0.0
        return f"CASE WHEN {table.raw(column)} = 0 THEN '0' ELSE {label} END"
    return label


# ---- what is refused ---------------------------------------------------------------------------


def _require_measure(measure: str, given: Sequence[Any], *, variables: bool) -> None:
    """Refuse an unknown measure, and a wrong number of distributions."""
    if measure not in _MEASURES:
        raise OptionError(
            f"measure must be one of {listed(list(_MEASURES))}: got {measure!r}. "
            "Hint: divergences are spelt out, such as 'kl_divergence'."
        )
    count = _MEASURES[measure]
    if measure == "mutual_information" and not variables:
        count = 1
    if len(given) != count:
        what = "columns" if variables else "arrays"
        raise OptionError(
            f"{measure!r} must have {count} {what[:-1] if count == 1 else what}: got "
            f"{len(given)}. Hint: entropy is of one distribution, a divergence of two."
        )


def _find(table: Table, names: Sequence[str], flags: Sequence[str]) -> list[int]:
    return [find_column(table, name, flag) for name, flag in zip(names, flags, strict=False)]


def _require_values(table: Table, column: int, gaps: int, missing: str, *, some: bool) -> None:
    """Refuse rows without a value unless they may be dropped, and a sample without any."""
    name, path = table.names[column], str(table.path)
    if gaps and missing == "refuse":
        first = table.rows(
            f"SELECT min(r) FROM (SELECT {table.number_of_row} AS r, {_value(table, column)} AS v "
            f"FROM {table.numbered}) WHERE v IS NULL"
        )[0][0]
        raise TableError(
            f"column {name!r} of {path!r} must have a value in every row: got none in "
            f"{_rows(gaps)}; the first is row {first}. Hint: --missing drop leaves them out."
        )
    if not some:
        raise TableError(
            f"column {name!r} of {path!r} must have a value in some row that counts: got none. "
            "Hint: choose another column."
        )


def _rows(many: int) -> str:
    return f"{many:,} row{'' if many == 1 else 's'}"


def _values(values: dict[str, Any]) -> str:
    return f"{len(values):,} different value{'' if len(values) == 1 else 's'}"
