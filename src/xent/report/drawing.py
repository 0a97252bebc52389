"""From lines on axes to one SVG that is legible on light and dark pages.

A figure is drawn once, in the colours for light pages. A rule at its head exchanges each of them
where the reader prefers dark ones, so that what ignores the rule shows a light figure on its own
light ground. Its words stay words: they can be searched, and no font is stored. The same data give
the same file with the same matplotlib: identifiers come from what is drawn, and there is no date.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import quoteattr

from xent.errors import MissingExtraError, OptionError
from xent.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE",
    "GRAY",
    "GRID",
    "GROUND",
    "HUES",
    "INK",
    "ORANGE",
    "Figure",
    "Hue",
    "draw",
    "name_lines",
]


class Hue(NamedTuple):
    """One colour, on light pages and on dark ones."""

    light: str
    dark: str


@dataclass(frozen=True)
class Figure:
    """A figure: shown by a notebook, and saved as a file.

    Attributes
    ----------
    svg
        Its text, an SVG for light and dark pages.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Write the figure to a file that ends in ``.svg``.

        Raises
        ------
        OptionError
            If it cannot be written there.
        """
        if Path(path).suffix.lower() != ".svg":
            raise OptionError(
                f"a figure must be saved as .svg: got {str(path)!r}. Hint: figures are drawn as "
                "SVG only, which every browser shows and other programs convert."
            )
        write_whole(Path(path), self.svg.encode(), "path")


INK = Hue("#1f2328", "#e6edf3")
GRAY = Hue("#59636e", "#a3adb8")
GRID = Hue("#dfe3e8", "#2b323b")
GROUND = Hue("#ffffff", "#0d1117")
BLUE = Hue("#0b62a8", "#6cb6ff")
ORANGE = Hue("#b84a00", "#ff9f43")
# Told apart with every kind of colour vision, by lightness too (after Okabe and Ito).
HUES = (
    BLUE,
    ORANGE,
    Hue("#00785a", "#3fcf9f"),
    Hue("#8a3f86", "#dd9fd7"),
    Hue("#6b5900", "#e0cc4f"),
    GRAY,
)

_FONTS = "Inter, system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_RULES: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xent",
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wide: others fit in its place
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY.light,
    "axes.facecolor": GROUND.light,
    "axes.labelcolor": INK.light,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "figure.facecolor": GROUND.light,
    "savefig.facecolor": GROUND.light,
    "grid.color": GRID.light,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "text.color": INK.light,
    "text.parse_math": False,
    "xtick.color": GRAY.light,
    "ytick.color": GRAY.light,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
}
_NUMBERS = re.compile(r'\b(d|x|y|x1|y1|x2|y2|cx|cy|r|points|transform|width|height)="([^"]*)"')
# matplotlib's settings belong to the process; two figures at once would exchange theirs.
_ONE_AT_A_TIME = threading.Lock()


def draw(
    paint: Callable[[Axes], None],
    *,
    label: str,
    width: float = 480.0,
    height: float = 290.0,
    hues: Iterable[Hue] = (),
) -> str:
    """Return what `paint` draws on axes as the text of an SVG.

    Parameters
    ----------
    paint
        Draws on the axes it is given, in the light colours of hues.
    label
        What the figure shows, for those who do not see it.
    width, height
        Size in pixels.
    hues
        Colours used besides those of this module.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None

    out = io.StringIO()
    with _ONE_AT_A_TIME, mpl.rc_context(), warnings.catch_warnings():
        # Words are written as words, in the reader's font, which may have what is missing here.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        mpl.rcdefaults()
        mpl.rcParams.update(_RULES)
        # An inch of 96 pixels has 72 of matplotlib's points.
        figure = Figure(figsize=(width / 96.0, height / 96.0), layout="constrained")
        paint(figure.add_subplot())
        figure.savefig(
            out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _finished(out.getvalue(), label, (INK, GRAY, GRID, GROUND, *HUES, *hues))


def _finished(svg: str, label: str, hues: Iterable[Hue]) -> str:
    """Return matplotlib's SVG with the rule for dark pages, a label and short numbers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _NUMBERS.sub(lambda found: f'{found[1]}="{_short(found[2])}"', svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    rules = [
        f'[style*="{kind}: {hue.light}"] {{ {kind}: {hue.dark} !important }}'
        for hue in dict.fromkeys(hues)
        for kind in ("fill", "stroke")
        if f"{kind}: {hue.light}" in svg
    ]
    style = [
        "<style>",
        f".xent text {{ font-family: {_FONTS} !important }}",
        "@media (prefers-color-scheme: dark) {",
        *rules,
        "}",
        "</style>",
    ]
    head, body = svg.split(">", 1)
    head += f' class="xent" role="img" aria-label={quoteattr(label)}>\n'
    return head + "\n".join(style) + body


def _short(numbers: str) -> str:
    """Return numbers with two decimals: a hundredth of a pixel is not seen."""
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", numbers)


def name_lines(axes: Axes, names: Iterable[tuple[str, float, float, Hue]]) -> None:
    """Write the name of each line to the right of its end, and no name over another.

    Parameters
    ----------
    axes
        With their final limits: names are moved apart on the page, not in the data.
    names
        Name, x and y of the line's end within the limits, and hue.
    """
    written: list[Any] = []
    for name, x, y, hue in sorted(names, key=lambda end: end[2]):
        offset = 0.0
        text = axes.annotate(
            name,
            (x, y),
            (6.0, offset),
            textcoords="offset points",
            va="center",
            color=hue.light,
            annotation_clip=False,
        )
        while any(text.get_window_extent().overlaps(box) for box in written):
            offset += 1.0
            text.set_position((6.0, offset))
        written.append(text.get_window_extent())
