"""Figures of a score, each as the text of one SVG for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent.errors import OptionError
from xent.report.drawing import BLUE, GRAY, GRID, ORANGE, Figure, draw
from xent.report.wording import number, percent, plain
from xent.scoring.columns import listed
from xent.scoring.reliability import reliability_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xent.scoring import Score
    from xent.scoring.decomposition import Decomposition
    from xent.scoring.histogram import Histogram
    from xent.scoring.reliability import ReliabilityCurve
    from xent.scoring.table_score import ClassCalibration, LossBin

__all__ = [
    "LossBar",
    "decomposition_bar",
    "loss_bars",
    "loss_histogram",
    "reliability_diagram",
    "score_figure",
]

_PER_DOUBLING = 2
_LEAST = 2.0**-20
_DENSITY_BINS = 40


class LossBar(NamedTuple):
    """Rows whose loss lies between two amounts, in nats, as shares of all rows and of the loss."""

    lower: float
    upper: float
    rows: int
    of_rows: float
    of_loss: float | None


def loss_bars(bins: Sequence[LossBin]) -> list[LossBar]:
    """Return a score's bins of the loss joined to two for each doubling, small losses to one.

    Examples
    --------
    >>> from xent.scoring import score
    >>> bars = loss_bars(score("examples/predictions.csv").loss_bins)
    >>> sum(bar.rows for bar in bars), bars[-1].upper
    (48, 2.0)
    """
    weight = math.fsum(b.weight for b in bins)
    places: dict[float, list[LossBin]] = {}
    for b in bins:
        if math.isinf(b.lower):
            place = math.inf
        elif b.upper <= _LEAST:
            place = -math.inf
        else:
            middle = math.log2(b.upper) if math.isinf(b.upper) else math.log2(b.upper * 0.99)
            place = math.floor(_PER_DOUBLING * middle) / _PER_DOUBLING
        places.setdefault(place, []).append(b)
    bars = []
    for place, some in sorted(places.items()):
        shares = [b.share for b in some if b.share is not None]
        lower = 0.0 if place == -math.inf else 2.0**place
        upper = _LEAST if place == -math.inf else 2.0 ** (place + 1 / _PER_DOUBLING)
        bars.append(
            LossBar(
                lower,
                upper,
                sum(b.rows for b in some),
                math.fsum(b.weight for b in some) / weight,
                math.fsum(shares) if len(shares) == len(some) else None,
            )
        )
    return bars


def loss_histogram(bins: Sequence[LossBin]) -> str:
    """Draw how many rows lose how much, and what part of the loss those make up.

    Parameters
    ----------
    bins
        Of a score.

    Examples
    --------
    >>> from xent.scoring import score
    >>> loss_histogram(score("examples/predictions.csv").loss_bins).startswith("<svg")
    True
    """
    bars = [bar for bar in loss_bars(bins) if math.isfinite(bar.lower)]
    edges = np.array([[max(bar.lower, _LEAST / 2.0), bar.upper] for bar in bars]).reshape(-1, 2)

    def paint(axes: Axes) -> None:
        width = edges[:, 1] - edges[:, 0]
        axes.bar(
            edges[:, 0],
            [100.0 * bar.of_rows for bar in bars],
            width,
            align="edge",
            color=BLUE.light,
            linewidth=0.0,
            label="of the rows",
        )
        if all(bar.of_loss is not None for bar in bars):
            for edge, bar in zip(edges, bars, strict=True):
                height = 100.0 * (bar.of_loss or 0.0)
                axes.plot(edge, [height, height], color=ORANGE.light, linewidth=2.5)
            axes.plot([], [], color=ORANGE.light, linewidth=2.5, label="of the loss")
        axes.set_xscale("log", base=10)
        low, high = (math.floor(math.log10(edge)) for edge in (edges.min(), edges.max()))
        step = max(1, (high - low) // 6)
        ticks = [10.0**decade for decade in range(low, high + 2, step)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(edges.min(), edges.max())
        axes.set(xlabel="loss of a row, in nats", ylabel="per cent")
        axes.grid(visible=False, axis="x")
        axes.legend(frameon=False, loc="upper left")

    label = "Per cent of the rows, and of the loss, by the loss of a row."
    return draw(paint, label=label, width=520.0, height=280.0)


def reliability_diagram(histogram: Histogram, curve: ReliabilityCurve, question: str) -> str:
    """Draw what happened against what was predicted, with the band of calibrated predictions.

    Parameters
    ----------
    histogram
        The predictions.
    curve
        Of `xent.scoring.reliability.reliability_curve`.
    question
        What was predicted, in words.

    Examples
    --------
    >>> from xent.scoring.histogram import Histogram
    >>> from xent.scoring.reliability import reliability_curve
    >>> some = Histogram.from_rows([0.2, 0.4, 0.6], [0, 1, 0])
    >>> reliability_diagram(some, reliability_curve(some), "is it?").startswith("<svg")
    True
    """
    means = histogram.probability / (histogram.probability + histogram.complement)
    heights, edges = np.histogram(
        means, bins=_DENSITY_BINS, range=(0.0, 1.0), weights=histogram.weight
    )
    heights = heights / heights.max()

    def paint(axes: Axes) -> None:
        axes.bar(edges[:-1], 0.12 * heights, np.diff(edges), align="edge", color=GRID.light)
        axes.plot([0.0, 1.0], [0.0, 1.0], color=GRAY.light, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.fill_between(
            curve.predicted, curve.lower, curve.upper, color=GRAY.light, alpha=0.25, linewidth=0.0
        )
        axes.plot(curve.predicted, curve.recalibrated, color=BLUE.light)
        if len(curve.predicted) <= 20:
            axes.plot(curve.predicted, curve.recalibrated, "o", color=BLUE.light, markersize=4.0)
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), aspect="equal")
        axes.set(xlabel="predicted probability", ylabel="share that came true")

    label = f"Reliability of the question, {question}: share that came true by what was predicted."
    return draw(paint, label=label, width=340.0, height=330.0)


def decomposition_bar(split: Decomposition, question: str) -> str:
    """Draw a score as uncertainty, less discrimination, plus miscalibration.

    Parameters
    ----------
    split
        Of `xent.scoring.decomposition.decompose`, with a finite score.
    question
        What was predicted, in words.

    Examples
    --------
    >>> from xent.scoring.decomposition import Decomposition
    >>> "0.2000" in decomposition_bar(Decomposition("brier", 0.2, 0.05, 0.1, 0.25), "is it?")
    True
    """
    known = split.uncertainty - split.discrimination
    steps = [
        ("uncertainty", 0.0, split.uncertainty, GRAY),
        ("− discrimination", known, split.discrimination, BLUE),
        ("+ miscalibration", known, split.miscalibration, ORANGE),
        ("= its loss", 0.0, split.score, GRAY),
    ]
    most = max(split.uncertainty, split.score) or 1.0

    def paint(axes: Axes) -> None:
        for place, (_, left, width, hue) in enumerate(steps):
            axes.barh(place, width, left=left, color=hue.light, height=0.6)
            axes.annotate(
                number(width),
                (left + width, place),
                (5.0, 0.0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(steps)), [name for name, *_ in steps])
        axes.invert_yaxis()
        axes.set(xlim=(0.0, 1.18 * most), xlabel="nats")
        axes.grid(visible=False, axis="y")

    taken = percent(split.miscalibration / split.score) if split.score else "0 %"
    label = f"The loss of the question, {question}, in its parts; miscalibration is {taken} of it."
    return draw(paint, label=label, width=520.0, height=200.0)


def score_figure(score: Score, kind: str, label: str | None) -> Figure:
    """Draw one of the figures of a score, as `xent.scoring.Score.plot` describes them."""
    if not score.explained:
        raise OptionError(
            f"a score must have its explanation to be drawn: got that of {score.path!r} without. "
            "Hint: score(…) without explain=False looks at where the loss comes from."
        )
    if kind == "losses":
        if label is not None:
            raise OptionError(
                f"label must not be given with the losses: got {label!r}. "
                "Hint: plot('reliability', label) is about one label."
            )
        if not score.summary.finite_rows:
            raise OptionError(
                "kind must not be 'losses' where every loss is infinite: got 'losses'. "
                "Hint: score(…, floor=1e-15) gives P(truth) = 0 a finite loss."
            )
        return Figure(loss_histogram(score.loss_bins))
    if kind not in {"reliability", "decomposition"}:
        raise OptionError(
            f"kind must be 'losses', 'reliability' or 'decomposition': got {kind!r}. "
            "Hint: plot() shows how many rows lost how much."
        )
    asked = _calibration_of(score, label)
    question = "Is the likeliest label right?" if not asked.labels else f"Is it {asked.labels[0]}?"
    if kind == "reliability":
        curve = reliability_curve(asked.histogram)
        return Figure(reliability_diagram(asked.histogram, curve, plain(question)))
    if not math.isfinite(asked.log_loss.score):
        raise OptionError(
            "kind must not be 'decomposition' where the loss is infinite: got 'decomposition'. "
            "Hint: plot('reliability') has no infinite part."
        )
    return Figure(decomposition_bar(asked.log_loss, plain(question)))


def _calibration_of(score: Score, label: str | None) -> ClassCalibration:
    """Return the calibration of a label; of none that of the second of two, or of the likeliest."""
    if label is None:
        found = score.top_calibration if len(score.names) > 2 else score.calibration[0]
        if found is not None:
            return found
    alone = {c.labels[0]: c for c in score.calibration if len(c.labels) == 1}
    if label not in alone:
        raise OptionError(
            f"label must be one that was looked at by itself: got {label!r}, and there are "
            f"{listed(list(alone)) or 'none'}. Hint: score(…, class_wise=True) looks at each."
        )
    return alone[label]
