"""Figures of codes: a heat map of whose model codes whose bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent.report.drawing import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xent.coding import Matrix

__all__ = ["heat_map"]

# Cells keep their colours on dark pages, so what is written on them does, too.
_LOW, _HIGH = np.array([0xF4, 0xF8, 0xFC]), np.array([0x0A, 0x3D, 0x6B])
_DARK, _LIGHT = "#101418", "#fcfdfe"
_WITH_NUMBERS = 20
"""Files up to which numbers fit into the cells."""


def heat_map(found: Matrix) -> str:
    """Draw cross-entropies of files under each other's models, as the text of an SVG.

    Parameters
    ----------
    found
        What `xent.coding.cross_entropy_matrix` returned.

    Examples
    --------
    >>> from xent.coding import cross_entropy_matrix
    >>> files = {"a": b"to be or not" * 9, "b": b"not to be or" * 9}
    >>> "under the model of" in heat_map(cross_entropy_matrix(files, order=1))
    True
    """
    bits, names = found.bits, list(found.names)
    low, high = float(bits.min()), float(bits.max())
    place = (bits - low) / max(high - low, 1e-12)

    def paint(axes: Axes) -> None:
        colors = (_LOW + place[..., None] * (_HIGH - _LOW)) / 255.0
        for row in range(len(names)):
            for column in range(len(names)):
                _cell(axes, row, column, colors[row, column])
                if len(names) <= _WITH_NUMBERS:
                    axes.text(
                        column, row, f"{bits[row, column]:.2f}", ha="center", va="center",
                        fontsize=8.0, color=_LIGHT if place[row, column] > 0.68 else _DARK,
                    )  # fmt: skip
        ticks = range(len(names))
        axes.set_xticks(ticks, names, rotation=45.0, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="under the model of", ylabel="bits a byte of")
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0.0)

    closest = "; ".join(f"{name}: {found.closest(name)[0]}" for name in names)
    longest = max(map(len, names))
    size = 44.0 * len(names) + 7.0 * longest + 70.0
    return draw(
        paint,
        label=f"Bits a byte of {len(names)} files under each other's models, {low:.2f} to "
        f"{high:.2f}. The closest other of each: {closest}.",
        width=size,
        height=size,
    )


def _cell(axes: Any, row: int, column: int, color: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=color))
