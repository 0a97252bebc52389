"""Figures: what they show is what the library computes, on light pages and on dark ones."""

from __future__ import annotations

import math
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from scipy.optimize import minimize

import xent
from xent.errors import MissingExtraError, OptionError, ShapeError
from xent.report import plots
from xent.report.drawing import BLUE, GRAY, GROUND, HUES, INK, ORANGE, draw, name_lines

SPACE = "{http://www.w3.org/2000/svg}"
X, Y = [-2.0, -1.0, 0.5, 1.0], [0, 1, 0, 1]
RUNS = {"fast": [(0.0, 1.0), (0.5, 1e-3), (1.0, 1e-6)], "slow": [(0.0, 1.0), (4.0, 1e-2)]}
FIGURES = {
    "surprisal": lambda: plots.surprisal({"A": 0.7, "fail": 0.1}),
    "entropy_of_a_coin": plots.entropy_of_a_coin,
    "block_code": lambda: plots.block_code(10, largest=12),
    "expected_losses": lambda: plots.expected_losses(0.7),
    "binary_losses": plots.binary_losses,
    "gradients": plots.gradients,
    "loss_surface": lambda: plots.loss_surface(X, Y, loss="squared_error", path=[(0, 0), (1, 0)]),
    "convergence": lambda: plots.convergence(RUNS),
}


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SPACE}text")]


def ticks(svg, axis):
    """Return the pixel and the value of each tick that has a number."""
    group = next(g for g in ET.fromstring(svg).iter() if g.get("id") == f"matplotlib.axis_{axis}")
    found = []
    for tick in group.findall(f"{SPACE}g[@id]"):
        label = tick.find(f".//{SPACE}text")
        mark = tick.find(f".//{SPACE}use")
        if "tick" in tick.get("id") and label is not None:
            found.append((float(mark.get("x" if axis == 1 else "y")), number(label.text)))
    return np.array(found)


def number(text):
    if "⁻" in text or set(text[2:]) & set("⁰¹²³⁴⁵⁶⁷⁸⁹"):
        plain = text[2:].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        return float(plain)  # the exponent: a logarithmic axis
    return float(text.replace("−", "-"))


def drawn(svg, hue):
    """Return the line of a hue, read back by the axes' ticks: x and y of its points."""
    style = f"stroke: {hue.light}"
    lines = [p for p in ET.fromstring(svg).iter(f"{SPACE}path") if style in p.get("style", "")]
    line = max((p for p in lines if p.get("clip-path")), key=lambda p: len(p.get("d")))
    pixels = np.array(re.findall(r"[ML] (\S+) (\S+)", line.get("d")), dtype=float)
    return [
        np.polynomial.polynomial.polyval(
            pixels[:, axis - 1], np.polynomial.polynomial.polyfit(*ticks(svg, axis).T, 1)
        )
        for axis in (1, 2)
    ]


def hide_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


# ---- what is drawn ------------------------------------------------------------------------------


def test_every_plot_has_a_case_here():
    assert set(FIGURES) == set(plots.__all__)


def test_the_curve_of_the_coin_is_its_entropy_in_bits():
    p, bits = drawn(plots.entropy_of_a_coin(), BLUE)
    inside = (p > 0.01) & (p < 0.99)
    p, bits = p[inside], bits[inside]
    assert len(p) > 50
    exact = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    np.testing.assert_allclose(bits, exact, atol=2e-3)


@pytest.mark.parametrize(("hue", "truth"), [(BLUE, 1), (ORANGE, 0)])
def test_the_binary_curves_are_minus_log_a_and_minus_log_of_the_rest(hue, truth):
    a, loss = drawn(plots.binary_losses(), hue)
    middle = (a > 0.05) & (a < 0.95)
    exact = -np.log(a if truth else 1 - a)
    np.testing.assert_allclose(loss[middle], exact[middle], atol=2e-2)


def test_the_slopes_are_sigma_minus_one_and_that_times_the_slope_of_sigma():
    svg = plots.gradients()
    for hue in (BLUE, ORANGE):
        z, slope = drawn(svg, hue)
        sigma = 1 / (1 + np.exp(-z))
        exact = sigma - 1 if hue is BLUE else 2 * (sigma - 1) * sigma * (1 - sigma)
        np.testing.assert_allclose(slope, exact, atol=5e-3)


def test_the_surprisal_is_drawn_and_named():
    svg = plots.surprisal({"A": 0.7, "fail": 0.1})
    p, nats = drawn(svg, BLUE)
    np.testing.assert_allclose(nats[p > 0.05], -np.log(p[p > 0.05]), atol=2e-2)
    assert {"A: 0.36", "fail: 2.30"} <= set(texts(svg))


def test_blocks_of_a_power_of_two_cost_what_they_must_and_no_bit_more():
    # In floating point g·log2(8) would be rounded up for some g.
    svg = plots.block_code(8, largest=40)
    heights = [
        float(use.get("y"))
        for use in ET.fromstring(svg).iter(f"{SPACE}use")
        if BLUE.light in use.get("style", "")
    ]
    assert len(heights) == 40
    assert max(heights) - min(heights) < 0.02
    assert "log₂ 8 = 3.000" in texts(svg)


def test_proper_losses_are_least_at_the_truth_and_the_absolute_error_at_the_edge():
    svg = plots.expected_losses(0.3)
    least = [drawn(svg, hue)[0][np.argmin(drawn(svg, hue)[1])] for hue in (BLUE, ORANGE, HUES[2])]
    np.testing.assert_allclose(least, [0.3, 0.3, 0.01], atol=0.02)


def test_convergence_draws_seconds_and_decades_and_names_each_line():
    svg = plots.convergence(RUNS)
    seconds, decade = drawn(svg, BLUE)
    np.testing.assert_allclose(seconds, [0, 0.5, 1.0], atol=1e-2)
    np.testing.assert_allclose(decade, [0, -3, -6], atol=2e-2)
    assert {"fast", "slow", "seconds", "objective above the optimum"} <= set(texts(svg))


def test_a_point_that_has_arrived_has_no_place_on_the_axis():
    arrived = {"a": [(0.0, 1.0), (1.0, 1e-4), (2.0, 0.0), (3.0, 5e-324)]}
    assert len(drawn(plots.convergence(arrived), BLUE)[0]) == 2


@pytest.mark.parametrize("excess", [2e-300, 1e-12, 0.3, 1.0, 7.0, 1e300])
def test_any_excess_has_an_axis_with_at_least_two_numbers(excess):
    svg = plots.convergence({"a": [(0.0, excess)]})
    decades = ticks(svg, 2)[:, 1]
    assert len(decades) >= 2
    assert min(decades) <= math.log10(excess) <= max(decades)
    assert not any("$" in text for text in texts(svg))


def test_the_path_of_a_surface_begins_and_ends_where_the_search_did():
    svg = plots.loss_surface(
        X, Y, loss="cross_entropy", path=[(-4.0, -3.0), (0.0, 2.0), (1.5, 0.5)]
    )
    w, b = drawn(svg, ORANGE)
    np.testing.assert_allclose([w, b], [[-4, 0, 1.5], [-3, 2, 0.5]], atol=0.05)
    assert {"start", "end", "weight w", "intercept b"} <= set(texts(svg))


@pytest.mark.parametrize("reach", [0.01, 1000.0])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_surface_of_any_reach_has_levels(loss, reach):
    assert plots.loss_surface([0.0], [1], loss=loss, reach=reach).count("<path") > 10


@pytest.mark.parametrize("p", [0.0, 1e-300, 0.5, 1.0])
def test_edges_of_the_domain_are_drawn(p):
    assert "cross-entropy" in plots.expected_losses(p)
    assert plots.surprisal({} if p == 0.0 else {"rare": p}).endswith("</svg>\n")


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_the_levels_of_a_surface_are_those_of_the_loss_above_its_minimum(loss):
    def mean(w):
        z = w[0] * np.array(X) + w[1]
        if loss == "cross_entropy":
            return float(xent.sigmoid_cross_entropy(z, Y))
        return float(xent.squared_error(1 / (1 + np.exp(-z)), Y, axis=None))

    levels = [
        float(t) for t in texts(plots.loss_surface(X, Y, loss=loss)) if re.fullmatch(r"\d\.\d\d", t)
    ]
    least = minimize(mean, [0.0, 0.0]).fun
    edges = [mean((w, b)) for w in (-6, 6) for b in (-6, 6)]
    assert least < min(levels) + 0.005 < least + 0.2
    assert 0.3 * max(edges) < max(levels) < max(edges)


# ---- how ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_one_small_labelled_svg_that_refers_to_nothing_outside(name):
    svg = FIGURES[name]()
    root = ET.fromstring(svg)
    assert (root.tag, root.get("role")) == (f"{SPACE}svg", "img")
    assert len(root.get("aria-label")) > 20
    assert len(svg.encode()) < 64_000
    links = re.findall(r'(?:href="|url\()(.)', svg)
    assert set(links) <= {"#"}
    assert texts(svg)
    assert "<metadata" not in svg


@pytest.mark.parametrize("name", FIGURES)
def test_every_colour_of_a_figure_has_its_counterpart_for_dark_pages(name):
    style, body = FIGURES[name]().split("</style>", 1)
    used = set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", body))
    assert used
    assert {colour for colour in used if f'[style*="{colour}"]' not in style} == set()
    # Black is what an element has that names no colour: no word and no line may rely on it.
    for element in ET.fromstring(FIGURES[name]()).iter(f"{SPACE}text"):
        assert "fill: #" in element.get("style")


def luminance(colour):
    parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.dot(
        [0.2126, 0.7152, 0.0722],
        np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4),
    )


@pytest.mark.parametrize("hue", [INK, GRAY, *HUES])
def test_words_in_any_hue_stand_out_from_the_ground_as_wcag_asks(hue):
    for colour, ground in zip(hue, GROUND, strict=True):
        light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_is_the_same_text(name):
    assert FIGURES[name]() == FIGURES[name]()


def test_the_user_s_settings_neither_change_a_figure_nor_are_changed():
    before = plots.entropy_of_a_coin()
    with mpl.rc_context({"axes.facecolor": "red", "svg.fonttype": "path", "font.size": 31.0}):
        own = dict(mpl.rcParams)
        assert plots.entropy_of_a_coin() == before
        assert dict(mpl.rcParams) == own
    assert "matplotlib.pyplot" not in plots.__dict__.values()


def test_figures_may_be_drawn_from_many_threads():
    alone = [FIGURES[name]() for name in FIGURES]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda name: FIGURES[name](), FIGURES)) == alone


def test_names_are_data_whatever_they_are():
    names = ['a<b>&"c"', "$x$", "100 %", "\\alpha", "é 中"]
    svg = plots.convergence({name: [(0.0, 1.0), (1.0, 0.1)] for name in names})
    assert set(names) <= set(texts(svg))
    label = draw(lambda axes: None, label=names[0])
    assert ET.fromstring(label).get("aria-label") == names[0]


def test_names_of_lines_that_end_together_are_moved_apart():
    ends = [(f"line {k}", 1.0, 0.5, BLUE) for k in range(4)]

    def paint(axes):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        name_lines(axes, ends)

    root = ET.fromstring(draw(paint, label="four"))
    heights = sorted(float(t.get("y")) for t in root.iter(f"{SPACE}text") if "line" in t.text)
    assert len(heights) == 4
    assert np.all(np.diff(heights) > 9)


# ---- what is refused ------------------------------------------------------------------------------


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    hide_matplotlib(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"xent\[report\]"):
        plots.entropy_of_a_coin()


REFUSED = [
    (ShapeError, "above the optimum", lambda: plots.convergence({"a": [(0.0, 5e-324)]})),
    (OptionError, "above 0", lambda: plots.surprisal({"never": 0.0})),
    (ValueError, r"\[0, 1\]", lambda: plots.surprisal({"more": 1.5})),
    (OptionError, "at least 2", lambda: plots.block_code(1, largest=3)),
    (OptionError, "at least 1", lambda: plots.block_code(10, largest=0)),
    (ValueError, "probabilities", lambda: plots.expected_losses(1.5)),
    (OptionError, "got 'hinge'", lambda: plots.loss_surface(X, Y, loss="hinge")),
    (ShapeError, "as many", lambda: plots.loss_surface(X, Y[:2], loss="squared_error")),
    (ShapeError, "at least one", lambda: plots.loss_surface([], [], loss="squared_error")),
    (ValueError, "targets", lambda: plots.loss_surface(X, [0, 1, 2, 0], loss="cross_entropy")),
    (ValueError, "finite|NaN|logits", lambda: plots.loss_surface([math.nan], [1], loss="cross_entropy")),
    (OptionError, "reach", lambda: plots.loss_surface(X, Y, loss="cross_entropy", reach=0.0)),
    (ShapeError, "above the optimum", lambda: plots.convergence({})),
    (ShapeError, "above the optimum", lambda: plots.convergence({"a": [(0.0, 0.0)]})),
    (ShapeError, "pairs", lambda: plots.convergence({"a": [1.0, 2.0]})),
    (ShapeError, "pairs", lambda: plots.convergence({"a": []})),
    (OptionError, "point 1 of 'a'", lambda: plots.convergence({"a": [(0.0, 1.0), (1.0, -1e-9)]})),
    (OptionError, "point 0 of 'a'", lambda: plots.convergence({"a": [(0.0, math.nan)]})),
    (OptionError, "point 0 of 'a'", lambda: plots.convergence({"a": [(math.inf, 1.0)]})),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "call"), REFUSED, ids=range(len(REFUSED)))
def test_what_has_no_place_on_the_axes_is_refused_with_a_hint(error, words, call):
    with pytest.raises(error, match=words) as refused:
        call()
    assert "Hint: " in str(refused.value)
