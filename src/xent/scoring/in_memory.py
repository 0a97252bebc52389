"""The log loss of predictions held in memory: lists, arrays and frames."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from xent.arrays import unit_sum_tolerance
from xent.errors import (
    DistributionError,
    InfiniteLossWarning,
    OptionError,
    ShapeError,
    TargetError,
)
from xent.scoring.columns import label_spellings, match_prefix
from xent.scoring.summary import LossSummary
from xent.units import from_nats

__all__ = ["log_loss"]

_HALF_EPSILON = {"torch.float16": 2.0**-10, "torch.bfloat16": 2.0**-7}


def log_loss(
    y_true: Any,
    y_proba: Any,
    *,
    labels: Sequence[Any] | None = None,
    sample_weight: Any = None,
    normalize: bool = True,
    floor: float | None = None,
    unit: str = "nats",
) -> float:
    r"""Return the mean log loss of predicted probabilities: −log P(truth), over the rows.

    .. math:: L = \frac{\sum_i w_i \cdot (-\log p_i)}{\sum_i w_i}, \qquad p_i = P_i(\text{truth}_i)

    Takes the call of ``sklearn.metrics.log_loss`` and differs from it on purpose: nothing is
    clipped, so a truth that was called impossible costs +∞ (and a warning counts such rows); the
    order of `labels` is the order of the columns; a frame's columns are matched to labels by name;
    and the score does not depend on the dtype that holds the numbers. `xent.scoring.score` is
    the sibling for files; `xent.losses.categorical_cross_entropy` takes class indices and any
    number of leading dimensions.

    Parameters
    ----------
    y_true
        Shape (n,): the label of each row (text, integers, booleans …). Or soft labels, shape
        (n, k): a distribution over the classes per row, scored Σ t·(−log p) with 0·log 0 = 0.
    y_proba
        Shape (n, k): a distribution per row, one column per label; a column of a pandas, polars or
        pyarrow frame belongs to the label that it is named after (``cat`` or ``p_cat``). Or shape
        (n,): the probability of the second of two labels.
    labels
        The labels in the order of the columns. By default the sorted labels of `y_true` (and
        False, True for booleans). Labels that no row has are fine.
    sample_weight
        Shape (n,), finite and ≥ 0, not all 0. A row of weight 0 counts for nothing, but must be a
        valid row all the same.
    normalize
        True for the mean, False for the sum.
    floor
        A probability in (0, 1) that smaller ones are raised to, without renormalising. By default
        there is none.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Returns
    -------
    float
        The loss in `unit`: 0 is perfect, +∞ means that some row gave its truth probability 0.

    Raises
    ------
    DistributionError
        If probabilities are negative, not finite, or a row does not sum to one.
    TargetError
        If a label is missing or unknown.
    ShapeError
        If the shapes do not fit, or there are no rows.
    OptionError
        If an option or a weight lies outside its domain.

    Warns
    -----
    InfiniteLossWarning
        If rows with P(truth) = 0 have weight: how many, and the first.

    Examples
    --------
    >>> log_loss(["cat", "dog"], [[0.5, 0.5], [0.25, 0.75]], unit="bits")
    0.70751
    >>> log_loss(["b", "a"], [[0.9, 0.1], [0.1, 0.9]], labels=["b", "a"])
    0.10536
    >>> log_loss([True, False], [1.0, 1e-20], normalize=False)
    1e-20
    """
    if floor is not None and not (_is_real(floor) and 0.0 < floor < 1.0):
        raise OptionError(
            f"floor must be a probability with 0 < floor < 1: got {floor!r}. "
            "Hint: floor=1e-6 caps the loss of a row at 13.8 nats; leave it out for none."
        )
    scale = from_nats(1.0, unit)
    proba = _Predictions.read(y_proba)
    soft = proba.rank == 2 and _rank(y_true) == 2
    if soft:
        losses = _soft_losses(y_true, proba, labels, floor)
    else:
        losses = _hard_losses(y_true, proba, labels, floor)
    summary = LossSummary.from_rows(losses, sample_weight)
    if summary.weight == 0.0:
        raise OptionError(
            "sample_weight must have a positive total: got weights that are all 0. "
            "Hint: leave sample_weight out to count each row once."
        )
    if summary.infinite_rows:
        counted = np.isinf(losses)
        if sample_weight is not None:
            counted &= np.asarray(sample_weight, dtype=np.float64) > 0
        warnings.warn(
            f"P(truth) is 0 in {summary.infinite_rows} of {summary.n} rows (the first is row "
            f"{int(np.argmax(counted))}, counted from 0), so the log loss is infinite. "
            + (
                f"Hint: the finite rows score {summary.finite_log_loss * scale:.6g} {unit}; "
                if summary.finite_rows
                else "Hint: no row is finite, are the columns in the order of the labels? "
            )
            + "floor=1e-6 scores every row with a floor under its probabilities.",
            InfiniteLossWarning,
            stacklevel=2,
        )
    return float((summary.log_loss if normalize else summary.total) * scale)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# ---- probabilities ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Predictions:
    """Checked probabilities in float64, and the column names of the frame they came in."""

    values: np.ndarray  # (n, k), or (n,) for the second of two labels
    names: tuple[str, ...] | None

    @property
    def rank(self) -> int:
        return self.values.ndim

    @classmethod
    def read(
        cls, data: Any, name: str = "y_proba", like: tuple[int, ...] | None = None
    ) -> _Predictions:
        columns = _frame_columns(data, name)
        if columns is None:
            values, epsilon = _as_float64(data, name)
            names = None
        else:
            read = [_as_float64(column, name) for column in columns.values()]
            values = np.stack([column for column, _ in read], axis=1)
            epsilon = max(eps for _, eps in read)
            names = tuple(columns)
        if like is not None and values.shape != like:
            raise ShapeError(
                f"soft labels must have the shape of y_proba, {like}: got {values.shape}. "
                "Hint: hard labels are a vector, y_true.ravel()."
            )
        _check_shape(values, name)
        _check_distributions(values, epsilon, name)
        # A softmax can round to 1.0000001. That is certainty, and no loss is negative.
        return cls(np.minimum(values, 1.0), names)


def _frame_columns(data: Any, name: str) -> dict[str, Any] | None:
    """Return a frame's columns by name, or None where the data is no frame."""
    keys = getattr(data, "column_names", None)  # pyarrow
    if keys is None:
        keys = getattr(data, "columns", None)  # pandas, polars
    if keys is None or callable(keys) or not hasattr(data, "__getitem__"):
        return None
    if hasattr(data, "collect"):
        raise OptionError(
            f"{name} must hold values: got a lazy frame. Hint: {name}.collect() first."
        )
    keys = list(keys)
    names = [str(key) for key in keys]
    if len(set(names)) != len(names):
        twice = next(text for text in names if names.count(text) > 1)
        raise ShapeError(
            f"{name} must have one column per name: got {twice!r} more than once. "
            "Hint: rename a column, or pass .to_numpy() with labels= in the order of the columns."
        )
    if not names:
        raise ShapeError(
            f"{name} must have a column per label: got a frame without columns. "
            "Hint: was the selection of columns empty?"
        )
    return {text: data[key] for text, key in zip(names, keys, strict=True)}


def _as_array(data: Any, name: str) -> tuple[np.ndarray, float]:
    """Return any array as NumPy's, with the spacing of its own dtype at 1."""
    if np.ma.is_masked(data):
        masked = int(np.ma.getmaskarray(data).sum())
        raise (TargetError if name == "y_true" else DistributionError)(
            f"{name} must have every value: got a masked array with {masked} masked. "
            "Hint: select the rows that are whole, from y_true and y_proba alike."
        )
    if hasattr(data, "detach") and hasattr(data, "cpu"):  # a tensor, possibly on a device
        epsilon = _HALF_EPSILON.get(str(data.dtype), 0.0)
        tensor = data.detach().cpu()
        return np.asarray(tensor.double() if epsilon else tensor), epsilon
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ShapeError(
            f"{name} must be an array: got rows of different lengths ({error}). "
            "Hint: every row needs a number per label."
        ) from None
    if array.dtype.kind in "fV" and array.dtype.itemsize == 2:
        # Measured, because NumPy knows no finfo of the brain float that other libraries register.
        one, epsilon = array.dtype.type(1), 1.0
        while one + array.dtype.type(epsilon / 2) != one:
            epsilon /= 2
        return array, epsilon
    return array, 0.0


def _as_float64(data: Any, name: str) -> tuple[np.ndarray, float]:
    array, epsilon = _as_array(data, name)
    if array.dtype.kind in "biufOV":
        try:
            return np.asarray(array, dtype=np.float64), epsilon
        except (TypeError, ValueError):
            pass
    raise DistributionError(
        f"{name} must hold real numbers: got {array.dtype} values. "
        "Hint: missing or textual probabilities must be filled or converted first."
    )


def _check_shape(values: np.ndarray, name: str) -> None:
    if values.ndim not in (1, 2):
        raise ShapeError(
            f"{name} must have shape (rows, labels) or (rows,): got {values.shape}. "
            "Hint: reshape it to one row per prediction."
        )
    if values.shape[0] == 0:
        raise ShapeError(
            f"{name} must have at least one row: got shape {values.shape}. "
            "Hint: the log loss of no rows is undefined."
        )
    if values.ndim == 2 and values.shape[1] < 2:
        raise ShapeError(
            f"{name} must have one column per label: got shape {values.shape}. "
            "Hint: pass a vector for the probability of the second of two labels."
        )


def _check_distributions(values: np.ndarray, epsilon: float, name: str) -> None:
    classes = values.shape[1] if values.ndim == 2 else 2
    tolerance = unit_sum_tolerance(epsilon, classes)
    bad = ~((values >= 0.0) & (values <= 1.0 + tolerance))  # NaN fails both
    if bad.any():
        where = np.unravel_index(int(np.argmax(bad)), values.shape)
        place = f"row {where[0]}" + (f", column {where[1]}" if values.ndim == 2 else "")
        raise DistributionError(
            f"{name} must hold probabilities in [0, 1]: got {values[where]} at {place}. "
            "Hint: scores become probabilities by softmax, log-probabilities by exp."
        )
    if values.ndim == 2:
        totals = values.sum(axis=1)
        off = np.abs(totals - 1.0) > tolerance
        if off.any():
            row = int(np.argmax(off))
            raise DistributionError(
                f"rows of {name} must sum to 1 within {tolerance:.1e}: got {totals[row]:.9g} at "
                f"row {row} ({int(off.sum())} such rows). Hint: probabilities that were rounded "
                "can be divided by their row's sum; labels with probabilities of their own "
                "(multi-label) need xent.binary_cross_entropy."
            )


# ---- labels -----------------------------------------------------------------------------------


def _rank(data: Any) -> int:
    if _frame_columns(data, "y_true") is not None:
        return 2
    if hasattr(data, "ndim"):
        return int(data.ndim)
    try:
        return np.ndim(data)
    except ValueError:  # rows of different lengths, said when they are read
        return 2


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in {"NAType", "NaTType"} or value != value  # noqa: PLR0124 - only NaN differs from itself


def _distinct(y_true: Any) -> tuple[list[Any], np.ndarray]:
    """Return the distinct labels, in no particular order, and each row's place among them."""
    if isinstance(y_true, (list, tuple)) and len({type(value) for value in y_true}) > 1:
        array = np.empty(len(y_true), dtype=object)  # NumPy would turn [1, "1"] into text
        array[:] = y_true
    else:
        array, _ = _as_array(y_true, "y_true")
    if array.ndim != 1:
        raise ShapeError(
            f"y_true must be a vector of labels, or soft labels of y_proba's shape: got shape "
            f"{array.shape}. Hint: a single column becomes a vector by .ravel()."
        )
    if array.dtype.kind in "biufUS":
        missing = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
        if not missing.any():
            values, places = np.unique(array, return_inverse=True)
            return values.tolist(), places
        row = int(np.argmax(missing))
    else:
        numbers: dict[Any, int] = {}
        places = np.empty(array.shape[0], dtype=np.intp)
        for row, value in enumerate(array.tolist()):
            if _is_missing(value):
                break
            try:
                places[row] = numbers.setdefault(value, len(numbers))
            except TypeError:
                raise TargetError(
                    f"y_true must hold labels such as texts or numbers: got {value!r} at row {row}."
                    " Hint: a single column becomes a vector by .ravel()."
                ) from None
        else:
            return list(numbers), places
    raise TargetError(
        f"y_true must have a label in every row: got "
        f"{array[row : row + 1].tolist()[0]!r} at row {row}. "
        "Hint: drop the rows without a label, from y_proba too."
    )


def _sorted(values: list[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise TargetError(
            f"y_true must hold labels of one type: got {' and '.join(kinds)}. "
            "Hint: convert them to one type, or name the labels with labels=[…]."
        ) from None


def _check_labels(labels: Sequence[Any]) -> list[Any]:
    if isinstance(labels, (Set, Mapping, str, bytes)) or not isinstance(labels, Iterable):
        raise OptionError(
            "labels must be a list, which has an order, that of the columns: got "
            f"{type(labels).__name__} {labels!r}. Hint: labels=['cat', 'dog']."
        )
    listed = np.asarray(labels).tolist() if hasattr(labels, "dtype") else list(labels)
    try:
        distinct = len(set(listed))
    except TypeError:
        distinct = -1  # lists are no labels
    if distinct != len(listed) or len(listed) < 2:
        raise OptionError(
            f"labels must name at least two different labels: got {listed!r}. "
            "Hint: one per column of y_proba, in the order of the columns."
        )
    return listed


def _hard_losses(
    y_true: Any, proba: _Predictions, labels: Sequence[Any] | None, floor: float | None
) -> np.ndarray:
    seen, places = _distinct(y_true)
    if places.shape[0] != proba.values.shape[0]:
        raise ShapeError(
            f"y_true and y_proba must have as many rows: got {places.shape[0]} and "
            f"{proba.values.shape[0]}. Hint: were both split in the same way?"
        )
    if labels is not None:
        order = _check_labels(labels)
    elif all(isinstance(value, bool) for value in seen):
        order = [False, True]
    else:
        order = _sorted(seen)
    if proba.names is not None:
        columns = _columns_of(proba.names, order, insist=labels is not None)
    else:
        columns = np.arange(len(order))
        _check_count(proba, order, given=labels is not None)
    index = {label: number for number, label in enumerate(order)}
    unknown = [place for place, value in enumerate(seen) if value not in index]
    if unknown:
        row = int(np.argmax(np.isin(places, unknown)))
        raise _unknown_label(seen[places[row]], row, order)
    number = np.array([index[value] for value in seen], dtype=np.intp)[places]
    with np.errstate(divide="ignore"):
        if proba.rank == 2:
            losses = -np.log(proba.values[np.arange(number.shape[0]), columns[number]])
        else:
            p = proba.values  # P(second); log1p keeps the 1e-20 that 1 − p would round away
            losses = np.where(number == 1, -np.log(p), -np.log1p(-p))
    return _capped(losses, floor)


def _capped(losses: np.ndarray, floor: float | None) -> np.ndarray:
    """Apply a floor under the probabilities: a cap of −log(floor) on the losses."""
    if floor is not None:
        return np.minimum(losses, -math.log(floor))
    return losses


def _check_count(proba: _Predictions, order: list[Any], *, given: bool) -> None:
    columns = proba.values.shape[1] if proba.rank == 2 else 2
    if columns != len(order):
        shape = f"{columns} columns" if proba.rank == 2 else "a vector, which stands for 2 columns"
        raise ShapeError(
            f"y_proba must have one column per label, {len(order)} for "
            f"{'labels' if given else 'the labels of y_true'} {_short(order)}: got {shape}. "
            "Hint: labels=[…] names every label, in the order of the columns."
        )


def _short(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:8])
    return f"[{shown}{', …' if len(values) > 8 else ''}]"


def _columns_of(names: tuple[str, ...], order: list[Any], *, insist: bool) -> np.ndarray:
    """Return the position of each label's column; `insist` that every column has a label."""
    way_out = (
        "Hint: name the columns after the labels ('cat' or 'p_cat' for label 'cat'), or pass "
        ".to_numpy() with labels= in the order of the columns."
    )
    for texts in label_spellings(order):
        prefixes = match_prefix(names, texts)
        if len(prefixes) > 1:
            raise ShapeError(
                "y_proba must have one column per label: got several sets of them, with the "
                f"prefixes {_short(prefixes)}. Hint: select the columns of one set first."
            )
        if prefixes:
            wanted = [prefixes[0] + text for text in texts]
            rest = [name for name in names if name not in set(wanted)]
            # Columns of classes that no row has are welcome when their names say that they are.
            if any(insist or not name.startswith(prefixes[0]) for name in rest):
                raise ShapeError(
                    f"y_proba must have the columns of the labels and no others: got "
                    f"{_short(rest)} beside {_short(wanted)}. {way_out}"
                )
            return np.array([names.index(name) for name in wanted], dtype=np.intp)
    raise ShapeError(
        f"y_proba must have a column named after each label {_short(order)}: got columns "
        f"{_short(names)}. {way_out}"
    )


def _unknown_label(value: Any, row: int, order: list[Any]) -> TargetError:
    twin = next((label for label in order if str(label) == str(value)), None)
    hint = (
        f"{value!r} is {type(value).__name__} and {twin!r} is {type(twin).__name__}: convert one."
        if twin is not None
        else "labels=[…] must name every label, in the order of the columns; soft labels have the "
        "shape of y_proba."
    )
    return TargetError(
        f"y_true must hold only the labels {_short(order)}: got {value!r} at row {row}. "
        f"Hint: {hint}"
    )


def _soft_losses(
    y_true: Any, proba: _Predictions, labels: Sequence[Any] | None, floor: float | None
) -> np.ndarray:
    truth = _Predictions.read(y_true, "y_true", like=proba.values.shape)
    order = None if labels is None else _check_labels(labels)
    if order is None and truth.names is not None:
        order = list(truth.names)
    target, values = truth.values, proba.values
    if order is not None:
        if truth.names is not None:
            target = target[:, _columns_of(truth.names, order, insist=True)]
        if proba.names is not None:
            values = values[:, _columns_of(proba.names, order, insist=True)]
        _check_count(proba, order, given=True)
    with np.errstate(divide="ignore"):
        costs = _capped(-np.log(values), floor)
    # 0·log 0 = 0: what never happens costs nothing, however impossible it was called.
    return np.where(target > 0.0, target * np.where(target > 0.0, costs, 0.0), 0.0).sum(axis=1)
