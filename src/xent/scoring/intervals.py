"""Intervals of a mean loss, and what speaks against trusting one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from xent.errors import MissingExtraError, OptionError
from xent.scoring.summary import LossSummary

__all__ = [
    "FEWEST_CARRIERS",
    "FEWEST_CLUSTERS",
    "FEWEST_ROWS",
    "Interval",
    "check_level",
    "mean_interval",
    "quantile",
]

FEWEST_ROWS = 30
"""So many rows should there be, by their weights too: docs/scoring.md shows what fewer cover."""
FEWEST_CARRIERS = 10
"""So many rows should carry half of the variance."""
FEWEST_CLUSTERS = 50
"""So many clusters should there be."""


@dataclass(frozen=True)
class Interval:
    """Between which amounts a mean lies, with a stated probability.

    Attributes
    ----------
    lower, upper
        The amounts, nats.
    level
        The probability, over samples of rows, that such an interval holds the mean of the
        population.
    method
        ``"t"`` (Student's distribution) or ``"bootstrap"``.
    degrees
        Degrees of freedom of Student's distribution; None for others.
    doubts
        Sentences, why the interval is not to be trusted; empty if nothing in the sample says so.

    Examples
    --------
    >>> Interval(0.4, 0.5, 0.95, "t", 30.0, ()).to_dict()["level"]
    0.95
    """

    lower: float
    upper: float
    level: float
    method: str
    degrees: float | None
    doubts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the interval as numbers, texts and lists."""
        return {**asdict(self), "doubts": list(self.doubts)}


def check_level(level: object) -> float:
    """Return a confidence level.

    Raises
    ------
    OptionError
        If it is none.

    Examples
    --------
    >>> check_level(0.95)
    0.95
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0.5 <= level < 1.0:
        raise OptionError(
            f"level must be a probability in [0.5, 1): got {level!r}. Hint: 0.95 is customary."
        )
    return float(level)


def quantile(level: float, degrees: float) -> float:
    """Return how many standard errors an interval reaches to either side, by Student's t.

    Parameters
    ----------
    level
        The probability of the interval.
    degrees
        Degrees of freedom, > 0; ∞ for the normal distribution.

    Raises
    ------
    MissingExtraError
        If scipy is not installed.

    Examples
    --------
    >>> quantile(0.95, float("inf")), quantile(0.95, 4.0)
    (1.95996, 2.77645)
    """
    try:
        from scipy.special import stdtrit
    except ImportError:
        raise MissingExtraError("scipy", "tables") from None
    return float(stdtrit(degrees, 0.5 + 0.5 * level))


def mean_interval(
    summary: LossSummary, *, level: float = 0.95, carriers: float | None = None
) -> Interval | None:
    r"""Return the interval of a mean of weighted losses.

    .. math:: \hat μ ± t_{n_{\text{eff}} - 1} \cdot SE, \qquad
              n_{\text{eff}} = \Big(\sum w\Big)^2 \Big/ \sum w^2

    Rows are taken as drawn independently of each other; `xent.scoring.clusters` is for rows that
    were not. No sample shows a mistake that it does not hold: of confident mistakes so rare that
    none is among the rows an interval says nothing, and no doubt is raised (docs/scoring.md has
    the coverage for such processes).

    Parameters
    ----------
    summary
        The statistics of the losses.
    level
        The probability of the interval, in [0.5, 1).
    carriers
        How many rows carry half of the variance (`xent.scoring.tally.Tally.carriers`), for the
        doubt where these are few.

    Returns
    -------
    Interval or None
        None for fewer than two rows, or an infinite mean.

    Raises
    ------
    OptionError
        If `level` lies outside its domain.
    MissingExtraError
        If scipy is not installed.

    Examples
    --------
    >>> found = mean_interval(LossSummary.from_rows([0.2, 0.4, 0.6]))
    >>> found.lower, found.upper, found.doubts
    (-0.0968, 0.8968, ('there are only 3 rows',))
    """
    level = check_level(level)
    error = summary.standard_error
    if error is None:
        return None
    effective = summary.finite_weight**2 / summary.finite_weight_squared
    doubts = []
    if summary.n < FEWEST_ROWS:
        doubts.append(f"there are only {summary.n} rows")
    elif effective < FEWEST_ROWS:
        doubts.append(f"by their weights the rows are worth only {effective:.3g}")
    elif carriers is not None and carriers < FEWEST_CARRIERS and error > 0.0:
        many = f"{max(carriers, 1.0):.0f} row" + ("" if max(carriers, 1.0) < 1.5 else "s")
        doubts.append(f"half of the variance is that of {many}")
    if error == 0.0:
        doubts.append("all losses are the same")
    # A sample in which nearly all weight is that of one row is worth hardly more than one.
    degrees = max(effective - 1.0, 0.01)
    reach = quantile(level, degrees) * error
    mean = summary.log_loss
    return Interval(mean - reach, mean + reach, level, "t", degrees, tuple(doubts))
