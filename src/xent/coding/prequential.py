r"""How many bits labels cost if a classifier has to learn them while it codes them.

A probability that was fitted to a label says nothing about how well it would have been foretold. So
the labels are coded block by block, each with a classifier fitted to the blocks before it only. A
receiver who has the same features and classifier can do the same, and so decode: the sum is
the length of a real code, in which learning slowly costs as much as knowing little.
"""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xent.arrays import quietly, unit_sum_tolerance
from xent.errors import (
    DistributionError,
    InfiniteLossWarning,
    MissingExtraError,
    OptionError,
    ShapeError,
    TargetError,
)
from xent.information import require_distribution
from xent.units import surprisal_in

__all__ = ["PrequentialBlock", "PrequentialCode", "prequential"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

HALVINGS = 10
"""How often the rows are halved for the default blocks: the first has 1/1024 of them."""
LEAST_ROWS = 10
"""The least rows of the first default block; or two for each class, if that is more."""


@dataclass(frozen=True)
class PrequentialBlock:
    """What the labels of one block cost.

    Attributes
    ----------
    start, stop
        The block's rows, in the order in which they were coded: from `start` up to before `stop`.
    bits
        What its labels cost together, in bits; ∞ if one was impossible.
    fitted_rows
        How many rows the classifier was fitted to; 0 where there was none: in the first block, and
        while the rows before had one class only.
    seen_classes
        How many classes the rows before it had.
    """

    start: int
    stop: int
    bits: float
    fitted_rows: int
    seen_classes: int

    @property
    def bits_per_label(self) -> float:
        """What a label costs on average, in bits."""
        return self.bits / (self.stop - self.start)

    def as_dict(self) -> dict[str, Any]:
        """Return the block as a JSON object: infinite bits are None."""
        return {
            "start": self.start,
            "stop": self.stop,
            "bits": _or_none(self.bits),
            "bits_per_label": _or_none(self.bits_per_label),
            "fitted_rows": self.fitted_rows,
            "seen_classes": self.seen_classes,
        }


@dataclass(frozen=True)
class PrequentialCode:
    """The length of a predict-then-code description of labels, and where its bits go.

    Attributes
    ----------
    blocks
        The blocks, in the order in which they were coded.
    classes
        The labels that could occur.
    uniform_mass
        The share of the uniform distribution in each probability.

    See Also
    --------
    prequential : makes it.
    """

    blocks: tuple[PrequentialBlock, ...]
    classes: tuple[Any, ...]
    uniform_mass: float

    @property
    def rows(self) -> int:
        """How many labels were coded: n."""
        return self.blocks[-1].stop

    @property
    def total_bits(self) -> float:
        """What all labels cost together; ∞ if one of them was impossible."""
        return math.fsum(block.bits for block in self.blocks)

    @property
    def bits_per_label(self) -> float:
        """What a label costs on average, in bits."""
        return self.total_bits / self.rows

    @property
    def uniform_bits(self) -> float:
        """What they cost if nothing is learned: n·log₂ K."""
        return self.rows * math.log2(len(self.classes))

    @property
    def compression(self) -> float:
        """`uniform_bits` / `total_bits`: above 1 if something was learned that pays.

        0 if the total is infinite. 1 if it is 0, as it is for one class only: neither code has
        anything to say.
        """
        return self.uniform_bits / self.total_bits if self.total_bits else 1.0

    @property
    def curve(self) -> tuple[Array, Array]:
        """The learning curve: rows seen before each block (int64), bits a label in it (float64)."""
        seen = np.array([block.start for block in self.blocks], dtype=np.int64)
        return seen, np.array([block.bits_per_label for block in self.blocks], dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return the code as a JSON object: infinite bits are None, other than plain labels text.

        ``"infinite"`` says whether the total is.
        """
        plain = (str, int, float, bool)
        return {
            "rows": self.rows,
            "classes": [c if isinstance(c, plain) else str(c) for c in self.classes],
            "uniform_mass": self.uniform_mass,
            "total_bits": _or_none(self.total_bits),
            "infinite": math.isinf(self.total_bits),
            "bits_per_label": _or_none(self.bits_per_label),
            "uniform_bits": self.uniform_bits,
            "compression": self.compression,
            "blocks": [block.as_dict() for block in self.blocks],
        }

    def __str__(self) -> str:
        text = (
            f"{self.total_bits:.1f} bits for {self.rows} labels of {len(self.classes)} classes, "
            f"{self.bits_per_label:.4f} bits a label\n"
            f"{self.uniform_bits:.1f} bits if uniform: compression {self.compression:.3f}, "
            f"uniform mass {self.uniform_mass:g}\n"
            f"{'rows':>15}  {'fitted to':>9}  {'classes seen':>12}  {'bits':>12}  bits a label"
        )
        for b in self.blocks:
            text += (
                f"\n{f'{b.start}–{b.stop}':>15}  {b.fitted_rows:>9}  {b.seen_classes:>12}  "
                f"{b.bits:>12.1f}  {b.bits_per_label:>12.4f}"
            )
        return text


def prequential(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    blocks: Iterable[float] | None = None,
    classes: Any = None,
    uniform_mass: float = 0.01,
    shuffle: bool = False,
    seed: int = 0,
) -> PrequentialCode:
    r"""Return how many bits labels cost when a classifier predicts each block from those before.

    .. math:: L = n_1 \log_2 K - \sum_{b \ge 2} \sum_{i \in b} \log_2 q_b(y_i \mid x_i), \qquad
              q_b = (1 - m)\, p_b + \frac{m}{K}

    with :math:`p_b` the probabilities of a clone of the classifier fitted to all rows before block
    b, and m the uniform mass. It is the length of a code that can be decoded by whoever has X, the
    classifier, the list of the K classes and the blocks; what these cost is not counted.

    Parameters
    ----------
    estimator
        Any classifier of scikit-learn's kind: `fit`, `predict_proba`, `get_params`, and after a fit
        `classes_`. A clone is fitted for each block; this one stays as it is. If it is random, give
        it a `random_state`: without it neither a decoder nor you get the same probabilities again.
    X
        The features of n rows: an array, a SciPy sparse matrix, a pandas or polars frame, a list.
    y
        The labels (n,): texts, or numbers and booleans. None may be missing.
    blocks
        The ends of the blocks, increasing: whole numbers are counts of rows, 1 to n; if one is not
        whole all are fractions of n, above 0 and up to 1, and rounded to the nearest row. Ends
        that fall together are one. Rows after the last are one more block. By default they double:
        n is halved (rounded up) ten times, to 1/1024, but not below 10 rows or two for each class,
        whatever is more; so fewer than 19 rows are one block. It depends on n and K only, never on
        what the labels are.
    classes
        All labels that can occur, K of them; those in `y` by default. With one class, L is 0.
    uniform_mass
        m, from 0 to 1: what a label that was thought impossible costs at most is
        :math:`\log_2(K / m)` bits, and others cost up to :math:`-\log_2(1 - m)` more. With 0, a
        label of probability 0 costs ∞ bits.
    shuffle
        Whether rows are put in a random order first. The length depends on the order; rows that are
        sorted by label or by time learn from what does not resemble what comes.
    seed
        Of that order, a whole number of 0 or more.

    Returns
    -------
    PrequentialCode
        Total and blocks, in bits.

    Raises
    ------
    OptionError
        If an option is outside its domain, or the estimator lacks a method.
    ShapeError
        If there are no rows, `X` and `y` have different numbers of them, or `predict_proba` gives
        anything but rows by `classes_`.
    TargetError
        If a label is missing, of another kind than the rest, or not in `classes`; or the fitted
        classifier knows one that is not.
    DistributionError
        If `predict_proba` gives numbers that are negative or not finite, or do not sum to 1.
    MissingExtraError
        If scikit-learn is not installed.

    Warns
    -----
    InfiniteLossWarning
        If labels had the probability 0, as they can only with a uniform mass of 0: how many, and
        the first.

    See Also
    --------
    xent.log_loss : what labels cost with given probabilities; that they were learned is free.

    Notes
    -----
    Columns of `predict_proba` are matched to labels by the clone's `classes_`. Classes that it does
    not have yet get the uniform mass only.

    While the rows before a block have one class only, nothing is fitted and that class counts as
    certain, before the uniform mass is mixed in. This is what each classifier says that accepts
    such rows, since its row of one probability sums to 1; so those that refuse them cost the same.

    Logarithms are summed, so that nothing underflows.

    The code is Dawid's prequential one [1]_ and Rissanen's predictive one [2]_, in blocks as for
    deep networks [3]_ and for probes of representations [4]_. The ends of [4]_ are
    ``blocks=(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1)``.

    References
    ----------
    .. [1] A. P. Dawid, Present position and potential developments: some personal views.
       Statistical theory: the prequential approach, JRSS A 147 (1984) 278-292.
       doi:10.2307/2981683
    .. [2] J. Rissanen, Universal coding, information, prediction, and estimation, IEEE Transactions
       on Information Theory 30 (1984) 629-636. doi:10.1109/TIT.1984.1056936
    .. [3] L. Blier and Y. Ollivier, The description length of deep learning models, NeurIPS 2018.
       arXiv:1802.07044
    .. [4] E. Voita and I. Titov, Information-theoretic probing with minimum description length,
       EMNLP 2020. doi:10.18653/v1/2020.emnlp-main.14

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from xent.coding.prequential import prequential
    >>> from xent.models import SoftmaxRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> print(prequential(SoftmaxRegression(), X, y, shuffle=True))
    62.3 bits for 150 labels of 3 classes, 0.4153 bits a label
    237.7 bits if uniform: compression 3.816, uniform mass 0.01
               rows  fitted to  classes seen          bits  bits a label
               0–10          0             0          15.8        1.5850
              10–19         10             3           7.8        0.8687
              19–38         19             3          10.4        0.5476
              38–75         38             3           9.1        0.2449
             75–150         75             3          19.2        0.2555
    """
    clone, take = _scikit_learn()
    _require_classifier(estimator)
    labels = _labels("y", y)
    known = _index(_labels("classes", classes) if classes is not None else np.unique(labels))
    mass = _share(uniform_mass)
    if len(labels) == 0:
        raise ShapeError("y must have at least one label: got none. Hint: was all filtered away?")
    X = X.tocsr() if hasattr(X, "tocsr") else X  # whose rows can be picked
    _require_rows(X, len(labels))
    codes = _codes(labels, known)
    ends = _ends(blocks, len(labels), len(known))
    order = np.arange(len(labels))
    shuffled = np.random.default_rng(_seed(seed)).permutation(order)
    order = shuffled if shuffle else order

    records = []
    impossible: list[int] = []
    for start, stop in itertools.pairwise([0, *ends]):
        before, block = order[:start], order[start:stop]
        seen = np.unique(codes[before])
        fits = len(seen) > 1
        if start == 0:
            q = np.full(stop, 1.0 / len(known))
        else:
            if fits:
                # Rows are copied, for a classifier may write on those it is given.
                p = _predicted(clone(estimator), take, X, labels, before, block, known)
            else:
                p = np.zeros((stop - start, len(known)))
                p[:, seen] = 1.0
            p_true = p[np.arange(stop - start), codes[block]]
            q = p_true + mass * (1.0 / len(known) - p_true)  # exact at 0 and 1, never above 1
        impossible += block[q == 0.0].tolist()
        records.append(
            PrequentialBlock(
                start=start,
                stop=stop,
                bits=math.fsum(quietly(surprisal_in)(np, q, "bits").tolist()),
                fitted_rows=start if fits else 0,
                seen_classes=len(seen),
            )
        )
    if impossible:
        warnings.warn(
            f"P(truth) is 0 in {len(impossible)} of {len(labels)} rows (the first to be coded is "
            f"row {impossible[0]} of y, counted from 0), so the code is infinitely long. "
            "Hint: uniform_mass=0.01 gives each class some probability.",
            InfiniteLossWarning,
            stacklevel=2,
        )
    return PrequentialCode(tuple(records), tuple(known), mass)


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


# ---- what the caller gave ----------------------------------------------------------------------


def _scikit_learn() -> tuple[Callable[[Any], Any], Callable[[Any, Array], Any]]:
    """Return scikit-learn's `clone`, and what picks rows of arrays, frames and lists alike."""
    try:
        from sklearn.base import clone
        from sklearn.utils import _safe_indexing  # its public callers pick at random
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "models") from error
    return clone, _safe_indexing


def _require_classifier(estimator: Any) -> None:
    if isinstance(estimator, type):
        raise OptionError(
            f"estimator must be a classifier: got the class {estimator.__name__}. "
            f"Hint: {estimator.__name__}() makes one."
        )
    needed = ("fit", "predict_proba", "get_params")
    missing = [name for name in needed if not hasattr(estimator, name)]
    if missing:
        raise OptionError(
            f"estimator must have fit, predict_proba and get_params: got "
            f"{type(estimator).__name__} without {' and '.join(missing)}. Hint: scikit-learn's "
            "CalibratedClassifierCV gives probabilities to classifiers that have none."
        )


def _labels(name: str, values: Any) -> Array:
    """Return labels as one axis of one kind, none of them missing."""
    # A list of texts and NaN would become texts, "nan" among them.
    listed = isinstance(values, (list, tuple))
    found: Array = np.array(values, dtype=object) if listed else np.asarray(values)
    if found.ndim != 1:
        raise ShapeError(
            f"{name} must have one axis of labels: got shape {found.shape}. "
            "Hint: y.ravel() makes one of a column."
        )
    if found.dtype == object:
        as_number = (numbers.Real, np.bool_)
        kinds = [isinstance(v, str) + 2 * isinstance(v, as_number) for v in found.tolist()]
        odd = [i for i, kind in enumerate(kinds) if kind == 0 or kind != kinds[0]]
        if odd:
            raise TargetError(
                f"labels must be all texts, or all numbers, and none missing: got "
                f"{found[odd[0]]!r} in {name} at row {odd[0]}. Hint: drop rows without a label, or "
                "give them one of their own."
            )
        if 2 in kinds:
            found = _as_numbers(found, name)
    missing = np.flatnonzero(found != found)  # noqa: PLR0124
    if missing.size:
        raise TargetError(
            f"labels must not be missing: got {found[missing[0]]} in {name} at row {missing[0]}. "
            "Hint: drop rows without a label, or give them one of their own."
        )
    return found


def _as_numbers(found: Array, name: str) -> Array:
    """Return numbers in one dtype, refused where that would make one of two."""
    values = found.tolist()
    array = np.array(values)
    held: dict[Any, Any] = {}
    for value, number in zip(values, array.tolist(), strict=True):
        other = held.setdefault(number, value)
        if other != value and value == value:  # noqa: PLR0124
            raise TargetError(
                f"labels must stay different as {array.dtype}: got {other!r} and {value!r} in "
                f"{name}, which are both {number!r} there. Hint: labels as texts, or of one kind "
                "of number."
            )
    return array


def _index(classes: Array) -> dict[Any, int]:
    """Return the place of each class; 1, 1.0 and True are the same one."""
    found = {label: place for place, label in enumerate(classes.tolist())}
    if len(found) < len(classes):
        raise OptionError(
            f"classes must differ: got {len(classes)}, of which {len(found)} are different. "
            "Hint: numpy.unique(classes)."
        )
    return found


def _codes(labels: Array, known: dict[Any, int]) -> Array:
    """Return the place of each label's class   int64 (n,)."""
    codes = np.array([known.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise TargetError(
            f"labels must be among the {len(known)} classes: got {labels.tolist()[row]!r} in y at "
            f"row {row}. Hint: classes lists all that can occur; left out, it is those in y."
        )
    return codes


def _require_rows(X: Any, rows: int) -> None:
    shape = getattr(X, "shape", None)
    if not (shape or hasattr(X, "__len__")):
        raise ShapeError(
            f"X must have rows: got {type(X).__name__}. Hint: an array, a sparse matrix, a list or "
            "a frame; lazy ones are collected first."
        )
    found = int(shape[0]) if shape else len(X)
    if found != rows:
        raise ShapeError(
            f"X and y must have as many rows: got {found} in X and {rows} in y. "
            "Hint: features go in rows; X.T if they are in columns."
        )


def _share(uniform_mass: Any) -> float:
    real = isinstance(uniform_mass, numbers.Real) and not isinstance(uniform_mass, bool)
    if not (real and 0.0 <= uniform_mass <= 1.0):
        raise OptionError(
            f"uniform_mass must be a probability from 0 to 1: got {uniform_mass!r}. "
            "Hint: the default is 0.01."
        )
    return float(uniform_mass)


def _seed(seed: Any) -> int:
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not (whole and seed >= 0):
        raise OptionError(
            f"seed must be a whole number of 0 or more: got {seed!r}. Hint: the default is 0."
        )
    return int(seed)


def _ends(blocks: Any, rows: int, classes: int) -> list[int]:
    """Return where blocks end, increasing, the last at `rows`."""
    if blocks is None:
        ends = [rows]
        least = max(LEAST_ROWS, 2 * classes)
        while len(ends) <= HALVINGS and (half := -(-ends[0] // 2)) >= least:
            ends.insert(0, half)
        return ends
    listed = list(blocks) if isinstance(blocks, Iterable) else [blocks]
    if not (isinstance(blocks, Iterable) and listed and all(map(_is_number, listed))):
        raise OptionError(
            f"blocks must be the ends of blocks, one or more numbers: got {blocks!r}. "
            "Hint: (100, 1000) are rows, (0.01, 0.1, 1.0) fractions of them."
        )
    counts = all(isinstance(end, numbers.Integral) for end in listed)
    most = rows if counts else 1
    last: float = 0
    for end in listed:
        if not last < end <= most:
            raise OptionError(
                f"blocks must increase, from above 0 up to {most}"
                f"{', the number of rows' if counts else ''}: got {end!r} after {last!r}. "
                "Hint: whole numbers are counts of rows, others fractions."
            )
        last = end
    found = {int(end) if counts else max(1, round(float(end) * rows)) for end in listed}
    return sorted(found | {rows})


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


# ---- what the classifier says ------------------------------------------------------------------


def _predicted(
    model: Any,
    take: Callable[[Any, Array], Any],
    X: Any,
    labels: Array,
    before: Array,
    block: Array,
    known: dict[Any, int],
) -> Array:
    """Return the probabilities of all classes in a block, by a fit to the rows before it."""
    try:
        model.fit(take(X, before), labels[before])
        said = model.predict_proba(take(X, block))
    except Exception as error:
        error.add_note(
            f"This was a {type(model).__name__} to be fitted to the first {len(before)} of "
            f"{len(labels)} rows. Hint: blocks= says how many rows the first block has, which is "
            "coded without one."
        )
        raise
    own = getattr(model, "classes_", None)
    if own is None:
        raise OptionError(
            f"estimator must have classes_ after fit: got a {type(model).__name__} without. Hint: "
            "they say which column of predict_proba belongs to which label."
        )
    columns = _columns(own, known)
    try:
        found = np.asarray(said)
        p: Any = found.astype(np.float64)
    except (TypeError, ValueError):
        raise DistributionError(
            f"predict_proba must give numbers: got {type(said).__name__}. "
            "Hint: it gives one array, rows by classes."
        ) from None
    expected = (len(block), len(columns))
    if p.shape != expected:
        raise ShapeError(
            f"predict_proba must give rows by classes_, {expected}: got shape {p.shape}. "
            "Hint: a classifier of several targets is one for each."
        )
    spacing = float(np.finfo(found.dtype).eps) if found.dtype.kind == "f" else 0.0
    p = quietly(require_distribution)(
        np,
        p,
        name="predict_proba",
        tolerance=unit_sum_tolerance(spacing, len(columns)),
        raising=True,
        hint="a row is the probabilities of all classes of one label, given its features.",
        value_hint="scores and log-probabilities are no probabilities; NaN comes from a bad fit.",
        place=lambda where: f"in row {block[where[0]]} of X",
    )
    probabilities = np.zeros((len(block), len(known)))
    probabilities[:, columns] = p
    return probabilities


def _columns(own: Any, known: dict[Any, int]) -> list[int]:
    """Return the class of each column of the classifier's."""
    labels = np.asarray(own).ravel().tolist()
    for label in labels:
        if label not in known:
            raise TargetError(
                f"a classifier's classes_ must be among the {len(known)} classes: got {label!r}. "
                "Hint: it was made for more labels than are in y; name all of them in classes."
            )
    if len(set(labels)) < len(labels):
        raise TargetError(
            f"a classifier's classes_ must differ: got {labels!r}. Hint: look at its fit."
        )
    return [known[label] for label in labels]
