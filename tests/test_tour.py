"""The tour: its figures are those of its code, its numbers stand in it, and it corrects every slip."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import markdown
import matplotlib as mpl
import numpy as np
import pytest

from tools.mathml import mathml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOUR = (DOCS / "tour.md").read_text(encoding="utf-8")
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
CODE = re.compile(r"^(?:> )?```.*?^(?:> )?```$", flags=re.DOTALL | re.MULTILINE)

# What the tour says of each row of the list of slips, beginning as there.
SLIPS = {
    "the binary batch formula without a bracket": ["text 1", "no bracket after the sum"],
    "scores without the sample's index": ["text 1", "scores of its own"],
    "cross-entropy, or the divergence, a distance": [
        "texts 2 and 5",
        "A distance from here to here is 0",
    ],
    'cross-entropy "in bits"': ["text 2", "Only base 2 counts bits"],
    "the sum over samples as an average": ["text 2", "number of samples times the average"],
    "P = 0.25 for each of eight teams": ["text 3", "it is ⅛"],
    'data encoded "per 3 bits"': ["text 3", "three *outcomes*, and takes ten bits"],
    "log₂ M bits for an outcome of any probability": ["text 3", "It needs −log₂ p"],
    "cross-entropy as the inefficiency": ["text 4", "The inefficiency is the divergence"],
    "a Huffman dictionary as the code": ["text 4", "whole bits are a distribution of their own"],
    "PyTorch does not follow the definition": ["text 4", "It does, on the softmax of the scores"],
    "entropy of the grades 0.804": ["text 5", "It is 0.8018"],
    "student C's loss 1.2": ["text 5", "1.20397"],
    "cross-entropy measures similarity": ["text 5", "grows as the two become less alike"],
    'n is "the possibility for an event"': ["text 5", "It is the number of outcomes"],
    "the divergence equivalent to a mean square error": ["text 5", "0.0268 and 0.0693"],
    "monotonicity as what cross-entropy has": ["text 5", "both have it", "lacks is convexity"],
}


def flat(text):
    return " ".join(text.replace("\n> ", "\n").split())


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "tools" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TOUR = DOCS / "tour.md"
    return module


# ---- figures --------------------------------------------------------------------------------------


def seen(svg):
    """Return what a reader sees of a figure: shapes and words in order, and where they are."""
    what, where = [], []
    hidden = {
        "id",
        "clip-path",
        "{http://www.w3.org/1999/xlink}href",
    }  # names made from the content
    for element in ET.fromstring(svg).iter():
        what += [element.tag, " ".join((element.text or "").split())]
        for key, value in sorted(element.items()):
            places = key in {"d", "x", "y", "transform", "width", "height"}
            if places:
                where += map(float, re.findall(r"-?\d+\.?\d*", value))
            if key not in hidden:
                what.append(f"{key}={re.sub('-?[0-9][0-9.]*', '#', value) if places else value}")
    return what, np.array(where)


def assert_seen_alike(svg, other):
    (what, where), (other_what, other_where) = seen(svg), seen(other)
    assert what == other_what
    np.testing.assert_allclose(where, other_where, rtol=0, atol=0.05)  # points of the page


def named(svg):
    """Return the words of a figure that are no numbers: those do not depend on the layout."""
    texts = [e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]
    return [text for text in texts if re.search("[a-z]", text)]


def test_the_figures_of_the_tour_are_what_its_code_draws_now(tool):
    # Another matplotlib lays figures out by a little differently, so only the pinned one tells.
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = f"matplotlib=={mpl.__version__}" in pins
    drawn = tool.figures()
    assert {path.stem for path in (DOCS / "figures").glob("*")} == set(drawn)
    for name, draw in drawn.items():
        kept = (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert len(kept.encode()) <= 60_000
        now = draw()
        assert named(kept) == named(now)
        if pinned:
            assert_seen_alike(kept, now)


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.36", "0.37"), ("fail", "Fail"), ("#0b62a8", "#0b62a9"), ('y="', 'y="1')],
)
def test_a_figure_that_differs_is_noticed(old, new):
    kept = (DOCS / "figures" / "surprisal.svg").read_text(encoding="utf-8")
    assert old in kept
    with pytest.raises(AssertionError):
        assert_seen_alike(kept, kept.replace(old, new))


def test_pages_show_every_figure_and_say_what_is_seen_on_it():
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    shown = re.findall(r"!\[([^\]]*)\]\((figures/[\w-]+\.svg)\)", pages)
    files = {f"figures/{path.name}" for path in (DOCS / "figures").glob("*")}
    assert {path for _, path in shown} == files
    assert len(shown) == len(files) >= 8
    assert all(len(words) > 40 for words, _ in shown)


def test_a_section_that_the_figures_need_is_missed_by_name(tool):
    with pytest.raises(LookupError, match="No such section"):
        tool.names_of("No such section", "walks")


# ---- words ----------------------------------------------------------------------------------------


def test_the_tour_corrects_every_slip_of_the_sources():
    page = (DOCS / "sources.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| .+ \|$",
        page.split("gets wrong\n" if "gets wrong\n" in page else "get wrong\n")[1],
        flags=re.M,
    )[2:]
    slips = [
        flat(slip)
        for slip in re.findall(r"^> \*\*Slip, .*?(?=^[^>]|\Z|^> \*\*Slip)", TOUR, flags=re.S | re.M)
    ]
    assert len(rows) == len(slips) == len(SLIPS)
    for row in rows:
        (start,) = (start for start in SLIPS if row.startswith(start))
        number = re.search(r"texts? [1-5 and]+", row)[0].strip()
        assert number == SLIPS[start][0]
        assert [
            s for s in slips if all(words in s for words in [f"Slip, {number}.", *SLIPS[start][1:]])
        ], row


def test_every_decimal_of_the_prose_stands_in_the_code_beside_it_or_is_its_rounding():
    computed = {
        float(n)
        for block in CODE.findall(TOUR)
        for n in re.findall(r"\d+\.\d*(?:e-?\d+)?|\d+e-?\d+", block)
    }
    said = re.findall(r"(?<![\w.])\d+\.\d+", CODE.sub("", TOUR))
    assert len(said) > 80
    missing = {
        n for n in said if not any(f"{c:.{len(n.partition('.')[2])}f}" == n for c in computed)
    }
    assert missing == set()


def test_every_link_of_the_tour_leads_to_a_file():
    links = re.findall(r"\]\(([^)#:]+)\)", TOUR)
    assert len(links) > 8
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_the_tour_names_the_four_features_and_says_that_its_students_are_simulated():
    for words in (
        "attendance rate",
        "class performance",
        "homework",
        "learning ability",
        "**simulated**",
    ):
        assert words in flat(TOUR.split("## 13.")[1])


# ---- formulas -------------------------------------------------------------------------------------


def rendered(text):
    return markdown.Markdown(extensions=["tables", "pymdownx.superfences", "tools.mathml"]).convert(
        text
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_formula_of_a_page_becomes_mathml(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    html = re.sub(r"<(pre|code)\b.*?</\1>", "", rendered(text), flags=re.S)
    assert "$" not in html
    assert "\\" not in html
    if page in ("tour.md", "design.md", "pytorch.md"):
        assert html.count("<math") >= 1


@pytest.mark.parametrize(
    "module", sorted((ROOT / "src").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_formula_of_a_docstring_becomes_mathml(module):
    text = module.read_text(encoding="utf-8")
    for formula in re.findall(r":math:`([^`]+)`", text):
        assert mathml(formula).startswith("<math")
    for formula in re.findall(r"\.\. math:: (.*?)\n *\n", text, flags=re.S):
        assert 'display="block"' in mathml(formula, display=True)


@pytest.mark.parametrize(
    ("latex", "element"),
    [
        (r"\frac{1}{2}", "<mfrac>"),
        (r"p_j", "<msub>"),
        (r"e^{z}", "<msup>"),
        (
            r"y \log p",
            '<mi>y</mi><mspace width="0.17em"/><mi>log</mi><mspace width="0.17em"/><mi>p</mi>',
        ),
        (r"-\log_2 p", '<mn>2</mn></msub><mspace width="0.17em"/><mi>p</mi>'),
        (r"\log (p)", "<mi>log</mi><mo"),
    ],
)
def test_a_formula_is_set_as_mathematics(latex, element):
    assert element in mathml(latex)


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\begin{aligned} a &= b \end{aligned}"])
def test_what_mathml_does_not_know_is_refused(latex):
    with pytest.raises(ValueError, match="must use commands"):
        mathml(latex)


def test_formulas_leave_prices_code_and_escapes_alone():
    html = rendered("It costs $5 and $6, `$x$` too.\n\n```python\nprint('$y$')\n```\n")
    assert "<math" not in html
    html = rendered(
        "A $x$ and *$y$*.\n\n> $$z = 1$$\n\nThe :math:`w` here.\n\n.. math:: u\n          + v\n"
    )
    assert html.count("<math") == 5
    assert html.count('display="block"') == 2
    assert "$" not in html
