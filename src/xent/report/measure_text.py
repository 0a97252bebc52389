"""A measure as text for a terminal: its value, what it was computed from, how sure it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xent.report.wording import count, percent, plain

if TYPE_CHECKING:
    from xent.scoring.measures import Measure

__all__ = ["render_measure"]

_MOST = 6
_NAMES = {
    "cross_entropy": "cross-entropy",
    "kl_divergence": "Kullback–Leibler divergence",
    "js_divergence": "Jensen–Shannon divergence",
    "mutual_information": "mutual information",
}


def render_measure(measure: Measure) -> str:
    """Return the report of a measure as text, its numbers with twelve digits.

    Parameters
    ----------
    measure
        What a function of `xent.scoring.measures` returned.

    Examples
    --------
    >>> from xent.scoring.measures import measure_numbers
    >>> print(render_measure(measure_numbers("entropy", [0.5, 0.5], unit="bits")))
    entropy  1 bits
      p: 2 numbers
    """
    unit = "" if measure.unit is None else f" {measure.unit}"
    name = _NAMES.get(measure.measure, measure.measure)
    lines = [f"{name}  {_digits(measure.value)}{unit}"]
    lines += [f"  {line}" for line in (*measure.reading, *_estimation(measure, unit))]
    lines += [f"  {line}" for line in _unsupported(measure)]
    return "".join(f"{plain(line)}\n" for line in lines)


def _digits(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.12g}"


def _estimation(measure: Measure, unit: str) -> list[str]:
    """Return how the value was estimated, and what is known of its error."""
    if measure.estimator is None:
        return []
    if measure.smoothing:
        size = count(measure.alphabet_size or 0, "value")
        return [
            f"estimator: {measure.smoothing:g} added to the counts in q of {size} (--smoothing)"
        ]
    if measure.plug_in is None:
        return ["estimator: plug_in, the observed shares as they are"]
    plug_in = f"; plug_in gives {_digits(measure.plug_in)}{unit}"
    if measure.estimator == "plug_in":
        plug_in = ""
    lines = [f"estimator: {measure.estimator} (else --estimator){plug_in}"]
    if measure.interval is not None:
        error = measure.standard_error
        about = "" if error is None else f", standard error {_digits(error)}"
        low, high = (_digits(end) for end in measure.interval)
        lines.append(f"95 % interval: {low} to {high}{unit}{about}")
    elif measure.why_no_interval is not None:
        lines.append(f"no interval: {measure.why_no_interval}")
    return lines


def _unsupported(measure: Measure) -> list[str]:
    """Return what P has and Q lacks, and what that does to the value."""
    lacking = measure.unsupported
    if not lacking:
        return []
    # Values of samples are the table's own words; places of distributions are ours.
    shown = [repr(text) if measure.estimator else text for text in lacking[:_MOST]]
    more = f" … {len(lacking):,} in all" if len(lacking) > _MOST else ""
    mass = percent(measure.unsupported_mass)
    said = f"q lacks {', '.join(shown)}{more}, {mass} of p"
    if math.isinf(measure.value):
        more = "; --smoothing 0.5 would make it finite" if measure.estimator else ""
        return [f"infinite: {said}{more}"]
    return [f"{said}: what the smoothing gives to that decides the value"]
