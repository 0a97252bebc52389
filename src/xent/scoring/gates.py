"""Gates for continuous integration: limits that a score has to keep."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xent.errors import OptionError, TableError
from xent.scoring.comparison import Comparison
from xent.scoring.table_score import Score
from xent.units import from_nats

__all__ = ["Gate", "gate_above", "gate_worse_than", "gates_worse", "parse_limit", "read_baseline"]

Z = 1.6448536269514722
"""The normal quantile of 0.95: a test of one side at 5 %."""


@dataclass(frozen=True)
class Gate:
    """A limit, and whether it was kept.

    Attributes
    ----------
    name
        The flag that set it.
    passed
        Whether it was kept.
    reason
        Why, in a sentence with the figures.
    """

    name: str
    passed: bool
    reason: str


def parse_limit(text: str, flag: str = "--fail-above") -> float:
    """Return a limit in nats: ``"0.45"``, ``"0.45nats"`` or ``"0.65bits"``.

    Raises
    ------
    OptionError
        If it is no such amount, or not positive and finite.

    Examples
    --------
    >>> parse_limit("0.45"), parse_limit("1 bits")
    (0.45, 0.6931)
    """
    number, factor = text.strip(), 1.0
    for unit in ("bits", "nats"):
        if number.endswith(unit):
            number = number.removesuffix(unit)
            factor = 1.0 / from_nats(1.0, unit)
    try:
        limit = float(number) * factor
    except ValueError:
        limit = math.nan
    if not 0.0 < limit < math.inf:
        raise OptionError(
            f"{flag} must be an amount above 0: got {text!r}. Hint: 0.45 is in nats; 0.65bits in "
            "bits."
        )
    return limit


def gate_above(score: Score, limit: float) -> Gate:
    """Return whether a log loss is no larger than a limit, in nats.

    Examples
    --------
    >>> from xent.scoring import score
    >>> gate_above(score("examples/predictions.csv"), 0.45).reason
    'the log loss, 0.453808 nats, is above 0.45'
    """
    loss = score.log_loss
    what = "is above" if not loss <= limit else "is not above"
    return Gate("--fail-above", loss <= limit, f"the log loss, {_nats(loss)}, {what} {limit:.6g}")


def gate_worse_than(score: Score, baseline: dict[str, Any], tolerance: float = 0.0) -> Gate:
    r"""Return whether a log loss is no worse than that of an earlier score of other rows.

    The two are of samples that are independent of each other, so it fails where

    .. math:: \hat μ - \hat μ_0 > τ + 1.645 \sqrt{SE^2 + SE_0^2}

    the test of one side at 5 % whether the mean is worse by more than the tolerance τ. With the
    predictions of the same rows, `xent.scoring.compare` is far sharper. An infinite log loss fails.

    Parameters
    ----------
    score
        What is judged.
    baseline
        What `read_baseline` returned.
    tolerance
        τ in nats.

    Examples
    --------
    >>> from xent.scoring import score
    >>> result = score("examples/predictions.csv")
    >>> gate_worse_than(result, result.to_dict()).passed
    True
    """
    loss, before = score.log_loss, baseline["log_loss_nats"]
    errors = (score.standard_error or 0.0, baseline["standard_error_nats"] or 0.0)
    if before is None:
        passed = math.isfinite(loss)
        return Gate(
            "--fail-worse-than", passed, f"the log loss is {_nats(loss)}; the baseline's was ∞"
        )
    allowed = tolerance + Z * math.hypot(*errors)
    passed = loss - before <= allowed
    return Gate(
        "--fail-worse-than",
        passed,
        f"the log loss, {_nats(loss)}, is {_nats(loss - before)} above the baseline's "
        f"{before:.6g}; {allowed:.3g} is allowed (a tolerance of "
        f"{tolerance:g}, and 1.645 standard errors)",
    )


def gates_worse(comparison: Comparison, tolerance: float = 0.0) -> list[Gate]:
    """Return, for each model after the first, whether it is not surely worse than the first.

    It fails where the interval of the difference lies above the tolerance, in nats, where the
    difference is +∞, and where the model and the first are infinite in different rows.
    """
    gates = []
    for model in comparison.models[1:]:
        total = model.total
        if total is None:
            continue
        if total.mean is None and total.pairs.rows == total.pairs.both_infinite:
            passed, said = False, "both are infinite in every row"
        elif total.mean is None or math.isinf(total.mean):
            passed = total.mean is not None and total.mean < 0
            said = "each is infinite where the other is not" if total.mean is None else ""
            said = said or f"the difference is {_nats(total.mean or 0.0)}"
        elif total.interval is None:
            passed, said = total.mean <= tolerance, f"the difference is {_nats(total.mean)}"
        else:
            passed = total.interval.lower <= tolerance
            said = (
                f"the difference is {_nats(total.mean)}, between {total.interval.lower:.6g} and "
                f"{total.interval.upper:.6g}"
            )
        passed = passed and math.isfinite(model.log_loss)
        if not math.isfinite(model.log_loss):
            said += "; its log loss is infinite"
        gates.append(Gate("--fail-worse", passed, f"{model.path}: {said}"))
    return gates


def read_baseline(path: str | Path) -> dict[str, Any]:
    """Return the score that ``xent score --json`` wrote.

    Raises
    ------
    TableError
        If there is no such file, or it is something else.
    """
    hint = "`xent score TABLE --json FILE` writes one."
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TableError(
            f"there must be a baseline to read: got {str(path)!r}: {error.strerror}. Hint: {hint}"
        ) from None
    except ValueError as error:
        raise TableError(
            f"{str(path)!r} must be the JSON of a score: got none: {error}. Hint: {hint}"
        ) from None
    wanted = ("log_loss_nats", "standard_error_nats", "infinite_rows")
    if not isinstance(document, dict) or not all(name in document for name in wanted):
        raise TableError(
            f"{str(path)!r} must be the JSON of a score: got none with {', '.join(wanted)}. "
            f"Hint: {hint}"
        )
    for name in wanted:
        value = document[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value < math.inf):
            raise TableError(
                f"{name} in {str(path)!r} must be a number: got {value!r}. Hint: {hint}"
            )
    if document["log_loss_nats"] is None and not document["infinite_rows"]:
        raise TableError(
            f"log_loss_nats in {str(path)!r} must be a number where no row is infinite: got null. "
            f"Hint: {hint}"
        )
    return document


def _nats(value: float) -> str:
    return "∞" if value == math.inf else "−∞" if value == -math.inf else f"{value:.6g} nats"
