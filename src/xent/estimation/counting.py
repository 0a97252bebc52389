"""From samples, or from counts as they come, to checked counts of named values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xent.errors import DistributionError, OptionError, ShapeError, TargetError

__all__ = [
    "EXACT_IN_INT64",
    "Counts",
    "Pair",
    "Sample",
    "as_array",
    "as_counts",
    "as_pair",
    "as_sample",
    "whole_numbers",
]

EXACT_IN_INT64 = 2**62  # whole numbers below this, and their differences, fit

_WEIGHTS_HINT = (
    "probabilities go to the functions of xent itself (xent.entropy, …): without the number of "
    "observations there is nothing to correct."
)


class Counts(NamedTuple):
    """Counts of values.

    Attributes
    ----------
    values
        The distinct values; positions where the counts came as a plain vector.
    whole
        One count for each value, exact: int64, or Python's integers if their sum is 2⁶² or more.
    n
        Their sum, at least 1.
    by_position
        Whether the values are only the positions of a vector.
    """

    values: Sequence[Any]
    whole: np.ndarray
    n: int
    by_position: bool = False

    @property
    def counts(self) -> np.ndarray:
        """The counts as float64."""
        return self.whole.astype(np.float64)


class Pair(NamedTuple):
    """Counts of the same values in two samples, exact as those of `Counts`."""

    values: Sequence[Any]
    p: np.ndarray
    q: np.ndarray
    n_p: int
    n_q: int


# ---- samples -----------------------------------------------------------------------------------


class Sample(NamedTuple):
    """Observations as places among their distinct values."""

    values: Sequence[Any]
    places: np.ndarray

    @property
    def counts(self) -> Counts:
        """How often each value was observed."""
        counts = np.bincount(self.places, minlength=len(self.values))
        return Counts(self.values, counts.astype(np.int64), self.places.size)


def as_sample(samples: Any, name: str) -> Sample:
    """Read observations: a vector of any library, a list, a text or another iterable.

    Raises
    ------
    ShapeError
        If there is no observation, or an array is no vector.
    TargetError
        If a value is missing or cannot be counted.
    """
    if isinstance(samples, Mapping) or not (
        hasattr(samples, "__array__") or isinstance(samples, Iterable)
    ):
        raise ShapeError(
            f"{name} must be a sequence of observed values: got a {type(samples).__name__}. "
            "Hint: counts go to the function that ends in _from_counts; a single observation is "
            "a list of length 1."
        )
    sample = _sorted_values(_vector(samples, name), name) if hasattr(samples, "__array__") else None
    sample = _hashed_values(samples, name) if sample is None else sample
    if not sample.places.size:
        raise ShapeError(
            f"{name} must hold at least one observation: got none. "
            "Hint: nothing can be estimated from nothing; drop empty groups first."
        )
    return sample


def _vector(samples: Any, name: str) -> np.ndarray:
    if np.ma.is_masked(samples):
        raise TargetError(
            f"{name} must have a value in every row: got a masked array with masked entries. "
            f"Hint: {name}.compressed() leaves them out."
        )
    array = np.asarray(samples)
    if array.ndim != 1:
        raise ShapeError(
            f"{name} must be a vector with one value for each observation: got shape "
            f"{array.shape}. Hint: .ravel() makes one of all entries; a row is one value as a "
            "tuple: list(map(tuple, rows))."
        )
    return array


def _sorted_values(array: np.ndarray, name: str) -> Sample | None:
    """Read an array whose values NumPy can sort; None leaves the others to hashing."""
    kind = array.dtype.kind
    if kind not in "biufSUmM":
        return None
    missing = np.isnan(array) if kind == "f" else np.isnat(array) if kind in "mM" else None
    if missing is not None and missing.any():
        row = int(np.argmax(missing))
        raise _missing(array[row : row + 1].tolist()[0], row, name)
    values, places = np.unique(array, return_inverse=True)
    # Nanoseconds would become bare integers.
    return Sample(list(values) if kind in "mM" else values.tolist(), places)


def _hashed_values(samples: Any, name: str) -> Sample:
    """Read any hashable values, by Python's equality: 1, 1.0 and True are one value."""
    rows = np.asarray(samples).tolist() if hasattr(samples, "__array__") else list(samples)
    numbers: dict[Any, int] = {}
    try:
        found = (numbers.setdefault(value, len(numbers)) for value in rows)
        places = np.fromiter(found, dtype=np.intp, count=len(rows))
    except TypeError:
        row = next(i for i, value in enumerate(rows) if not _is_hashable(value))
        raise TargetError(
            f"{name} must hold values that can be counted, such as texts and numbers: got "
            f"{rows[row]!r} at row {row}. Hint: a list counts as one value as a tuple."
        ) from None
    for value, number in numbers.items():
        if _is_missing(value):
            raise _missing(value, int(np.argmax(places == number)), name)
    return Sample(list(numbers), places)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in {"NAType", "NaTType"} or value != value  # noqa: PLR0124 - only NaN differs from itself


def _missing(value: Any, row: int, name: str) -> TargetError:
    return TargetError(
        f"{name} must have a value in every row: got {value!r} at row {row}. "
        "Hint: drop the missing ones, or give them a value of their own, such as 'missing'."
    )


# ---- counts ------------------------------------------------------------------------------------


def as_counts(counts: Any, name: str) -> Counts:
    """Check counts: a mapping (or pandas series) from value to count, or a vector of counts.

    Raises
    ------
    ShapeError
        If they are no vector, or there is no observation.
    DistributionError
        If one of them is no whole number ≥ 0.
    """
    named = _named(counts, name)
    if named is not None:
        values: Sequence[Any] = list(named)
        given = np.empty(len(values), dtype=object)
        given[:] = list(named.values())
    else:
        given = as_array(counts, name)
        if given.ndim != 1:
            hint = (
                "a table of two variables goes to mutual_information_from_counts, and .ravel() "
                "makes its cells the values."
                if given.ndim > 1
                else "give a list of counts, or a mapping from value to count."
            )
            raise ShapeError(
                f"{name} must be a vector, one count for each value: got shape {given.shape}. "
                f"Hint: {hint}"
            )
        values = range(given.size)
    checked, n = whole_numbers(given, name, lambda place: f"value {values[place]!r}")
    return Counts(values, checked, n, by_position=named is None)


def _named(counts: Any, name: str) -> Mapping[Any, Any] | None:
    """Return counts by value, or None for a vector, whose entries have no names."""
    if isinstance(counts, Mapping):
        return counts
    index = getattr(counts, "index", None)
    # Lists have a method of that name, and data frames two dimensions.
    if index is None or callable(index) or getattr(counts, "ndim", 1) != 1:
        return None
    # The entries of a pandas series lie in the order of its index, not in one that two share.
    values = list(index)
    named = dict(zip(values, np.asarray(counts).tolist(), strict=True))
    if len(named) < len(values):
        raise ShapeError(
            f"{name} must count each value once: got {len(values)} rows of an index with "
            f"{len(named)} values. Hint: group by the index and sum."
        )
    return named


def as_array(counts: Any, name: str) -> np.ndarray:
    """Return counts as a NumPy array of any shape, refusing masked entries."""
    if np.ma.is_masked(counts):
        raise DistributionError(
            f"{name} must hold whole numbers: got a masked array with masked entries. "
            f"Hint: {name}.filled(0) counts them as never seen."
        )
    try:
        array = np.asarray(counts)
        if array.dtype.kind == "f" and (array >= 2.0**63).any() and not hasattr(counts, "dtype"):
            # NumPy rounds a list of integers, some of which int64 cannot hold, to float64.
            return np.asarray(counts, dtype=object)
        return array
    except ValueError as error:  # rows of different lengths
        raise ShapeError(
            f"{name} must hold one count for each value: {error}. Hint: give a flat list."
        ) from None


def whole_numbers(
    given: np.ndarray, name: str, place_of: Callable[[int], str]
) -> tuple[np.ndarray, int]:
    """Return numbers as exact integers, and their sum; `place_of` puts a flat index into words.

    A float that is a whole number is one. The integers are int64, or Python's where their sum is
    2⁶² or more.
    """
    flat = given.ravel()
    numbers: list[Any] | None = None
    if flat.dtype.kind not in "iufO" and flat.size:
        raise _no_count(flat[0], name, place_of(0))
    if flat.dtype.kind == "O":
        numbers = flat.tolist()
        for place, number in enumerate(numbers):
            if not _is_count(number):
                raise _no_count(number, name, place_of(place))
    else:
        array = flat.astype(np.float64)
        with np.errstate(invalid="ignore"):
            good = (array >= 0) & (array < float(_LARGEST)) & (array == np.floor(array))
        if not good.all():
            place = int(np.argmin(good))
            raise _no_count(flat[place], name, place_of(place))
        if float(array.sum()) >= 2.0**61:
            numbers = flat.tolist()
    if numbers is None:
        whole = flat.astype(np.int64)
        n = int(whole.sum())
    else:
        exact = [int(number) for number in numbers]
        n = sum(exact)
        whole = np.array(exact, dtype=np.int64 if n < EXACT_IN_INT64 else object)
    if n == 0:
        raise ShapeError(
            f"{name} must hold at least one observation: got "
            f"{'no count at all' if not flat.size else 'only zeros'}. "
            "Hint: nothing can be estimated from nothing; drop empty groups first."
        )
    return whole.reshape(given.shape), n


def _is_count(number: Any) -> bool:
    if isinstance(number, (bool, np.bool_)) or not isinstance(
        number, (int, float, np.integer, np.floating)
    ):
        return False
    return bool(0 <= number < _LARGEST and number == int(number))


_LARGEST = 10**100  # squares of sums of such counts are ordinary floats


def _no_count(number: Any, name: str, place: str) -> DistributionError:
    shown = number.item() if isinstance(number, np.generic) else number
    if isinstance(shown, (bool, str)):
        hint = "observed values are counted by the function that ends in _from_samples."
    elif not isinstance(shown, (int, float)):
        hint = "give each count as an integer, 0 for a value that was not seen."
    elif shown < 0:
        hint = "counts have no sign; look upstream."
    elif shown >= _LARGEST:
        hint = "counts lie below 1e100."
    else:
        hint = _WEIGHTS_HINT
    return DistributionError(
        f"{name} must hold whole numbers, finite and not negative: got {shown!r} for {place}. "
        f"Hint: {hint}"
    )


# ---- two samples over one alphabet -------------------------------------------------------------


def as_pair(p: Counts, q: Counts, alphabet: Iterable[Any] | None = None) -> Pair:
    """Return the counts of two samples over the same values.

    These are the positions of two vectors, or else `alphabet`, by default all values named in
    either sample, those of p first.

    Raises
    ------
    ShapeError
        If two vectors have different lengths, or one sample is a vector and the other is not.
    OptionError
        If `alphabet` lacks a value that was observed, repeats one, or comes with vectors.
    """
    if p.by_position != q.by_position:
        raise ShapeError(
            "the counts of both samples must be named in one way: got a vector and a mapping. "
            "Hint: give both as mappings from value to count."
        )
    if p.by_position:
        if alphabet is not None:
            raise OptionError(
                "alphabet belongs to named values: got vectors of counts. "
                "Hint: a vector's length is its alphabet; append a 0 for each further value."
            )
        if len(p.values) != len(q.values):
            raise ShapeError(
                "p_counts and q_counts must count the same values: got "
                f"{len(p.values)} and {len(q.values)} of them. "
                "Hint: give a value that one sample lacks a count of 0 there."
            )
        return Pair(p.values, p.whole, q.whole, p.n, q.n)
    if alphabet is None:
        values = list(dict.fromkeys([*p.values, *q.values]))
    else:
        values = _alphabet(alphabet, p, q)
    places = {value: place for place, value in enumerate(values)}
    return Pair(values, _spread(p, places), _spread(q, places), p.n, q.n)


def _spread(sample: Counts, places: Mapping[Any, int]) -> np.ndarray:
    """Return the counts of a sample in the places of an alphabet."""
    counts = np.zeros(len(places), dtype=sample.whole.dtype)
    for value, count in zip(sample.values, sample.whole, strict=True):
        if count:
            counts[places[value]] = count
    return counts


def _alphabet(alphabet: Any, p: Counts, q: Counts) -> list[Any]:
    """Return a named alphabet, which must hold every observed value, and each of its own once."""
    try:
        values = list(alphabet)
        known = set(values)
    except TypeError:
        raise OptionError(
            f"alphabet must hold the possible values: got {alphabet!r}. "
            "Hint: range(256) are the values of a byte."
        ) from None
    if len(known) < len(values):
        twice = next(value for value, times in Counter(values).items() if times > 1)
        raise OptionError(
            f"alphabet must name each value once: got {twice!r} more than once. "
            "Hint: dict.fromkeys(alphabet) drops the repetitions."
        )
    for name, sample in (("p", p), ("q", q)):
        for value, count in zip(sample.values, sample.whole, strict=True):
            if count and value not in known:
                raise OptionError(
                    f"alphabet must hold every observed value: got {value!r} in {name}, which it "
                    "lacks. Hint: leave alphabet out to take the values that were observed."
                )
    return values
