"""Figures of measures, losses and searches, each as the text of one SVG for light and dark pages.

Every number that is drawn comes from the library's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import xent.information as measures
from xent.errors import OptionError, ShapeError
from xent.losses import (
    binary_cross_entropy,
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_value_and_grad,
    squared_error,
    squared_error_value_and_grad,
)
from xent.report.drawing import BLUE, GRAY, GROUND, HUES, INK, ORANGE, Hue, draw, name_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "binary_losses",
    "block_code",
    "convergence",
    "entropy_of_a_coin",
    "expected_losses",
    "gradients",
    "loss_surface",
    "surprisal",
]

_LEVELS = 10
_ARRIVED = 1e-300
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))


def surprisal(outcomes: Mapping[str, float]) -> str:
    """Draw the surprisal of a probability, and that of named outcomes.

    Parameters
    ----------
    outcomes
        Names and probabilities above 0.

    Examples
    --------
    >>> svg = surprisal({"heads": 0.5})
    >>> "heads: 0.69" in svg
    True
    """
    told = {name: float(measures.surprisal(p)) for name, p in outcomes.items()}
    top = max([4.0, *(1.15 * nats for nats in told.values())])
    if not math.isfinite(top):
        raise OptionError(
            f"outcomes must have probabilities above 0: got {dict(outcomes)}. "
            "Hint: the surprisal of an impossible outcome is ∞, which has no place on an axis."
        )
    p = np.linspace(math.exp(-top), 1.0, 200)
    curve: Any = measures.surprisal(p)

    def paint(axes: Axes) -> None:
        axes.plot(p, curve, color=BLUE.light)
        for name, nats in told.items():
            axes.plot([outcomes[name]], [nats], "o", color=ORANGE.light)
            axes.annotate(
                f"{name}: {nats:.2f}",
                (outcomes[name], nats),
                (7.0, 5.0),
                textcoords="offset points",
                color=ORANGE.light,
            )
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, top))
        axes.set(xlabel="probability p of the outcome", ylabel="surprisal −log p, in nats")

    return draw(paint, label="Surprisal falls from infinity at p = 0 to 0 at p = 1.")


def entropy_of_a_coin() -> str:
    """Draw the entropy of a coin, in bits, by its probability of heads.

    Examples
    --------
    >>> entropy_of_a_coin().startswith("<svg")
    True
    """
    # Finer towards 0 and 1, where the curve is as steep as a wall.
    p = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 201))
    bits: Any = measures.entropy(np.stack([p, 1.0 - p], axis=-1), unit="bits")

    def paint(axes: Axes) -> None:
        axes.plot(p, bits, color=BLUE.light)
        axes.plot([0.5], [1.0], "o", color=ORANGE.light)
        axes.annotate(
            "fair: 1 bit",
            (0.5, 1.0),
            (0.0, 7.0),
            textcoords="offset points",
            ha="center",
            color=ORANGE.light,
        )
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.15), yticks=[0.0, 0.25, 0.5, 0.75, 1.0])
        axes.set(xlabel="probability of heads", ylabel="entropy, in bits")

    return draw(
        paint, label="The entropy of a coin: 0 bits where it is certain, 1 bit where it is fair."
    )


def block_code(outcomes: int, largest: int) -> str:
    """Draw the bits an outcome takes in blocks of 1, 2, … outcomes that are equally likely.

    A block of G among M outcomes has a distribution over M**G values, which the least whole
    number of bits that holds its entropy can name.

    Parameters
    ----------
    outcomes
        M, at least 2.
    largest
        The largest block.

    Examples
    --------
    >>> "log₂ 10" in block_code(10, largest=12)
    True
    """
    if outcomes < 2 or largest < 1:
        raise OptionError(
            "outcomes must be at least 2 and largest at least 1: got "
            f"outcomes={outcomes!r}, largest={largest!r}. Hint: a single outcome needs no bits."
        )
    entropy = float(measures.entropy(np.full(outcomes, 1.0 / outcomes), unit="bits"))
    blocks = np.arange(1, largest + 1)
    # In integers: G·log₂ M would be rounded, which shows where M is a power of 2.
    each = np.array([(outcomes**g - 1).bit_length() / g for g in range(1, largest + 1)])

    def paint(axes: Axes) -> None:
        axes.axhline(entropy, color=ORANGE.light)
        axes.vlines(blocks, entropy, each, color=BLUE.light, linewidth=1.2)
        axes.plot(blocks, each, "o", color=BLUE.light, markersize=4.5)
        axes.annotate(
            f"log₂ {outcomes} = {entropy:.3f}",
            (largest, entropy),
            (0.0, -12.0),
            textcoords="offset points",
            ha="right",
            color=ORANGE.light,
        )
        room = max(float(each.max()) - entropy, 0.1)
        axes.set(xlim=(0.0, largest + 0.8), ylim=(entropy - 0.25 * room, entropy + 1.1 * room))
        axes.set(xlabel="G, outcomes in a block", ylabel="bits an outcome")
        axes.grid(visible=False, axis="x")

    return draw(paint, label=f"Bits an outcome of {outcomes} by the length of the block.")


def expected_losses(p: float) -> str:
    """Draw three losses that are expected of a stated probability where the truth is `p`.

    The logarithmic and the squared loss are least where the statement is the truth; the absolute
    error is least at 0 or 1.

    Parameters
    ----------
    p
        The probability of yes, in [0, 1].

    Examples
    --------
    >>> "absolute error" in expected_losses(0.7)
    True
    """
    q = np.linspace(0.01, 0.99, 99)
    stated, truth = np.stack([1.0 - q, q], axis=-1), np.array([1.0 - p, p])
    both = np.tile(q, (2, 1))  # the losses where the answer is no, and where it is yes
    answers = np.repeat([[0.0], [1.0]], q.size, axis=1)
    squares = squared_error(both, answers, axis=None, reduction="none")
    curves: Any = (
        ("cross-entropy", measures.cross_entropy(truth, stated), BLUE),
        ("squared error", truth @ squares, ORANGE),
        ("absolute error", truth @ np.abs(both - answers), HUES[2]),
    )

    def paint(axes: Axes) -> None:
        axes.axvline(p, color=GRAY.light, linewidth=1.0, linestyle=(0, (3, 3)))
        for _, loss, hue in curves:
            least = int(np.argmin(loss))
            axes.plot(q, loss, color=hue.light)
            axes.plot(q[least], loss[least], "o", color=hue.light)
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 2.0))
        axes.set(xlabel="stated probability q of yes", ylabel=f"expected loss, P(yes) = {p:g}")
        ends = [(name, 0.99, min(float(loss[-1]), 1.95), hue) for name, loss, hue in curves]
        name_lines(axes, ends)

    return draw(paint, label=f"Expected losses by the stated probability; the truth is {p:g}.")


def binary_losses() -> str:
    """Draw the two binary losses by the predicted probability: for a truth of 1, and of 0.

    Examples
    --------
    >>> "the truth is 1" in binary_losses()
    True
    """
    a = np.linspace(0.005, 0.995, 199)
    yes: Any = binary_cross_entropy(a, np.ones(a.size), reduction="none")
    no: Any = binary_cross_entropy(a, np.zeros(a.size), reduction="none")

    def paint(axes: Axes) -> None:
        axes.plot(a, yes, color=BLUE.light)
        axes.plot(a, no, color=ORANGE.light)
        axes.text(0.1, 3.3, "the truth is 1:\n−log a", color=BLUE.light)
        axes.text(0.9, 3.3, "the truth is 0:\n−log(1 − a)", color=ORANGE.light, ha="right")
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 5.0))
        axes.set(xlabel="predicted probability a of 1", ylabel="loss, in nats")

    return draw(paint, label="Binary cross-entropy falls to 0 towards the truth and rises to ∞.")


def gradients() -> str:
    """Draw the slopes of cross-entropy and squared error by the score, where the truth is 1.

    Examples
    --------
    >>> "squared error" in gradients()
    True
    """
    z = np.linspace(-8.0, 6.0, 141)
    yes = np.ones(z.size)
    entropy: Any = sigmoid_cross_entropy_value_and_grad(z, yes, reduction="none")[1]
    square: Any = squared_error_value_and_grad(z, yes, link="sigmoid", reduction="none")[1]

    def paint(axes: Axes) -> None:
        axes.plot(z, entropy, color=BLUE.light)
        axes.plot(z, square, color=ORANGE.light)
        axes.text(-7.8, -0.95, "cross-entropy", color=BLUE.light)
        axes.text(-7.8, -0.09, "squared error", color=ORANGE.light)
        axes.set(xlim=(-8.0, 6.0), ylim=(-1.08, 0.08))
        axes.set(xlabel="score z; right above 0, wrong below", ylabel="slope of the loss by z")

    return draw(
        paint, label="Wrong scores have a slope near −1 in cross-entropy, near 0 in squares."
    )


def loss_surface(
    x: Sequence[float],
    y: Sequence[float],
    *,
    loss: Literal["cross_entropy", "squared_error"],
    path: Sequence[tuple[float, float]] = (),
    reach: float = 6.0,
) -> str:
    """Draw the mean loss of the scores w·x + b as level lines over w and b.

    Parameters
    ----------
    x, y
        One feature, and the answers, 0 or 1.
    loss
        ``"cross_entropy"`` or ``"squared_error"``, of the sigmoid of the scores.
    path
        The (w, b) of a search, drawn as a line from its first to its last.
    reach
        w and b run from −reach to reach; in [0.01, 1000].

    Examples
    --------
    >>> svg = loss_surface([-1.0, 1.0], [1, 0], loss="squared_error", path=[(0, 0), (-1, 0)])
    >>> "weight w" in svg
    True
    """
    if loss not in ("cross_entropy", "squared_error"):
        raise OptionError(
            f"loss must be 'cross_entropy' or 'squared_error': got {loss!r}. "
            "Hint: these two can be compared on the same scores."
        )
    if len(x) == 0 or len(x) != len(y):
        raise ShapeError(
            f"x and y must have as many entries, at least one: got {len(x)} and {len(y)}. "
            "Hint: one feature and one answer a row."
        )
    if not 0.01 <= reach <= 1000.0:  # less is flat, and more is two planes
        raise OptionError(f"reach must lie in [0.01, 1000]: got {reach!r}. Hint: 6.0 is usual.")
    w = np.linspace(-reach, reach, 61)
    scores = w[None, :, None] * np.asarray(x, np.float64) + w[:, None, None]
    truth = np.broadcast_to(np.asarray(y, np.float64), scores.shape)
    rows: Any
    if loss == "cross_entropy":
        rows = sigmoid_cross_entropy(scores, truth, reduction="none")
    else:
        rows = squared_error_value_and_grad(scores, truth, link="sigmoid", reduction="none")[0]
    height = np.mean(rows, axis=-1)
    shades = [_between(GROUND, BLUE, 0.6 * (1.0 - k / (_LEVELS - 1))) for k in range(_LEVELS)]
    title = {"cross_entropy": "cross-entropy, in nats", "squared_error": "squared error"}[loss]

    def paint(axes: Axes) -> None:
        # Closer to each other towards the minimum, where the surface is flat.
        levels = height.min() + np.ptp(height) * np.linspace(0.0, 1.0, _LEVELS + 1) ** 2
        axes.contourf(w, w, height, levels, colors=[shade.light for shade in shades])
        lines = axes.contour(w, w, height, levels[2:-1:2], colors=GRAY.light, linewidths=0.6)
        axes.clabel(lines, fmt="%.2f", fontsize=8, colors=INK.light)
        if len(path):
            axes.plot(*zip(*path, strict=True), color=ORANGE.light, marker=".", markersize=4)
            for name, (u, v), marker, side in (
                ("start", path[0], "o", "right"),
                ("end", path[-1], "s", "left"),
            ):
                axes.plot(u, v, marker, color=ORANGE.light)
                offset = (7.0 if side == "left" else -7.0, -3.0)
                axes.annotate(
                    name, (u, v), offset, textcoords="offset points", ha=side, color=INK.light
                )
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.set(xlabel="weight w", ylabel="intercept b", title=title)
        axes.grid(visible=False)

    label = f"Mean {title} over weight and intercept; the bluer, the lower."
    return draw(paint, label=label, width=340.0, height=320.0, hues=shades)


def _decades(excess: Any) -> tuple[float, float]:
    """Return the powers of ten around all of them, so that an axis has at least two to name."""
    low, high = (math.log10(float(end)) for end in (excess.min(), excess.max()))
    first = math.floor(low - 0.2)  # a name at the lowest end needs room
    return 10.0**first, 10.0 ** min(max(math.ceil(high), first + 1), 308)


def _power_of_ten(value: float) -> str:
    exponent = str(round(math.log10(value)))
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _between(start: Hue, end: Hue, share: float) -> Hue:
    def mixed(a: str, b: str) -> str:
        pairs = ((int(a[k : k + 2], 16), int(b[k : k + 2], 16)) for k in (1, 3, 5))
        return "#" + "".join(f"{round(u + share * (v - u)):02x}" for u, v in pairs)

    return Hue(mixed(start.light, end.light), mixed(start.dark, end.dark))


def convergence(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str = "seconds",
    up: str = "objective above the optimum",
    label: str = "How far each search is above the optimum, by time.",
) -> str:
    """Draw how far searches are above an optimum, on a logarithmic axis.

    Parameters
    ----------
    curves
        For each name the points of a line, such as (seconds, excess): finite, excess not
        negative. A point whose excess is 0 (below 1e-300) has arrived and has no place on the
        axis.
    across, up
        The names of the axes, with their units.
    label
        What the figure shows, for those who do not see it.

    Raises
    ------
    ShapeError, OptionError
        If there is nothing to draw, or a point that has no place on the axes.

    Examples
    --------
    >>> svg = convergence({"fast": [(0.0, 1.0), (0.1, 1e-6)], "slow": [(0.0, 1.0), (2.0, 1e-3)]})
    >>> "slow" in svg
    True
    """
    lines = {name: np.array(points, np.float64) for name, points in curves.items()}
    for name, line in lines.items():
        if line.ndim != 2 or line.shape[1] != 2:
            raise ShapeError(
                f"curves must hold pairs: got shape {line.shape} for {name!r}. "
                "Hint: give each name a list of (seconds, excess)."
            )
        if not (np.all(np.isfinite(line)) and np.all(line[:, 1] >= 0.0)):
            at = int(np.argmin(np.isfinite(line).all(axis=1) & (line[:, 1] >= 0.0)))
            raise OptionError(
                f"points must be finite, with an excess of at least 0: got {tuple(line[at])} as "
                f"point {at} of {name!r}. Hint: take the lowest objective of all as the optimum."
            )
    drawn = {name: line[line[:, 1] > _ARRIVED] for name, line in lines.items()}
    drawn = {name: line for name, line in drawn.items() if len(line)}
    if not drawn:
        raise ShapeError(
            f"curves must have a point above the optimum: got {list(curves)}. "
            "Hint: an excess of 0 has no place on a logarithmic axis."
        )

    def paint(axes: Axes) -> None:
        ends = []
        for number, (name, line) in enumerate(drawn.items()):
            hue = HUES[number % len(HUES)]
            dashes = _DASHES[number // len(HUES) % len(_DASHES)]
            few = "o" if len(line) <= 40 else ""
            axes.plot(*line.T, color=hue.light, linestyle=dashes, marker=few, markersize=3.5)
            ends.append((name, float(line[-1, 0]), float(line[-1, 1]), hue))
        axes.set_yscale("log")
        axes.minorticks_off()  # they would be named in TeX
        axes.yaxis.set_major_formatter(lambda value, _: _power_of_ten(value))
        axes.set(xlabel=across, ylabel=up)
        axes.set_ylim(*_decades(np.concatenate(list(drawn.values()))[:, 1]))
        axes.set_xlim(left=min(0.0, *(float(line[:, 0].min()) for line in drawn.values())))
        name_lines(axes, ends)

    return draw(paint, label=label, width=640.0, height=340.0)
