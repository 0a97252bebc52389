"""The page of a score: what is in it, and what a browser shows of it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from test_tally import predictions, written

from xent.cli import main
from xent.report import render_comparison_page, render_page
from xent.report.compare_text import signed
from xent.report.wording import number, percent
from xent.scoring import compare, score

LARGEST = 400_000


class Checked(HTMLParser):
    """Tags that are closed in order, and names that are used once."""

    VOID = frozenset({"meta", "path", "use", "br", "link", "img", "rect"})

    def __init__(self):
        super().__init__()
        self.open, self.names, self.tags, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.names += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in {"src", "href", "xlink:href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def checked(page):
    parser = Checked()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.names) == len(set(parser.names))
    assert "script" not in parser.tags
    assert all(link.startswith("#") for link in parser.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(page.encode()) < LARGEST
    return parser


def headline(result):
    """The numbers that a page of a score must show."""
    return [
        number(result.log_loss),
        number(result.interval.lower),
        number(result.interval.upper),
        percent(result.accuracy),
        percent(result.skill),
        number(result.brier_score),
        number(result.base_rate_loss),
        number(result.perplexity),
        number(result.standard_error),
        f"{result.n:,}",
        *(number(c.summary.log_loss) for c in result.classes),
        number(result.worst[0].loss),
        *(number(c.log_loss.miscalibration) for c in result.calibration),
    ]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A score of four classes with slices, and a comparison with another model."""
    p, y, _ = predictions(rows=2000, zeros=False)
    columns = {"id": np.arange(2000), "site": np.array(["north", "south"])[y % 2]}
    folder = tmp_path_factory.mktemp("page")
    path = written(folder, p, y, slices=columns)
    q = 0.9 * p + 0.025
    other = columns | {"label": y} | {f"p_{k}": q[:, k] for k in range(4)}
    return score(path, by=["site"], class_wise=True), compare(path, other, key="id")


def test_the_page_is_whole_and_always_the_same(digits):
    page = render_page(*digits)
    parser = checked(page)
    assert page == render_page(*digits)
    for text in headline(digits[0]):
        assert html.escape(text) in page, text
    assert parser.tags.count("h1") == 1
    assert "By site" in page
    assert "Against another model" in page
    assert "is not chance" in page
    assert parser.tags.count("svg") == 1 + 2 * 5
    assert page.count("<details>") == 1 + 5  # a table behind each plot


def test_every_value_of_the_data_is_escaped(tmp_path):
    odd = [
        "<script>alert(1)</script>",
        "\"quoted\" & 'so'",
        "a\nb\x1b[31m\u202e",
        "{{ page }}",
        "x" * 5000,
    ]
    label = np.array(odd * 20)
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(5), size=100)
    source = {"label": label, "id": label, "slice": label} | {
        f"p_{name}": p[:, i] for i, name in enumerate(odd)
    }
    result = score(source, by=["slice"], class_wise=True)
    once = source | {"id": np.array([f"{i}{name}" for i, name in enumerate(label)])}
    other = once | {f"p_{name}": (p[:, i] + 0.2) / 2.0 for i, name in enumerate(odd)}
    comparison = compare(once, other, key="id", by=["slice"])
    for page in (render_page(result, comparison), render_comparison_page(comparison)):
        checked(page)
        for text in ("&lt;script&gt;", "&amp;", "{{ page }}", r"a\nb\x1b[31m"):
            assert text in page
        assert "x" * 400 not in page
        assert "\x1b" not in page


def test_a_thousand_labels_and_slices_fit(tmp_path):
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(1000), size=2000)
    y = random.permutation(np.arange(2000) % 1000)
    source = {"label": y, "probabilities": p, "place": y % 997}
    result = score(source, by=["place"])
    page = render_page(result)
    checked(page)
    assert "980 more labels" in page
    assert "947 more values" in page
    assert page.count('scope="row"') < 500


@pytest.mark.parametrize("text", ["a,0,1\nb,0.5,0.5", "a,0.5,0.5", "a,1,0\nb,0,1", "a,0,1\nb,1,0"])
def test_pages_of_little(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(f"label,p_a,p_b\n{text}\n")
    result = score(path)
    page = render_page(result)
    checked(page)
    assert number(result.log_loss) in page


def test_the_flag(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("label,p_a,p_b\na,0.5,0.5\nb,0.25,0.75\n")
    assert (
        main(
            [
                "score",
                str(path),
                "--html",
                str(tmp_path / "r.html"),
                "--summary",
                str(tmp_path / "s.json"),
            ]
        )
        == 0
    )
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == render_page(
        score(path, class_wise=True)
    )
    assert main(["merge", str(tmp_path / "s.json"), "--html", str(tmp_path / "m.html")]) == 0
    assert "0.4904" in (tmp_path / "m.html").read_text(encoding="utf-8")
    assert main(["score", str(path), "--html", str(path)]) == 2
    assert main(["score", str(path), "--html", str(tmp_path / "no" / "r.html")]) == 2
    assert "--html" in capsys.readouterr().err


# ---- in a browser ---------------------------------------------------------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if BROWSER is None and os.environ.get("XENT_REQUIRE_BROWSER"):
    raise RuntimeError("XENT_REQUIRE_BROWSER is set, but no Chromium is on the path")
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

# What a page says of itself once it has been laid out, in place of its text.
PROBE = """<script>addEventListener('load', () => {
  const shown = [...document.querySelectorAll('details')]; shown.forEach(d => d.open = true);
  const seen = element => element.getClientRects().length > 0;
  const boxes = [...document.querySelectorAll('p, dd, h1, h2, h3, figure, td, th')].filter(seen);
  const told = {
    text: document.body.innerText,
    width: document.documentElement.scrollWidth, view: innerWidth,
    outside: boxes.filter(b => !b.closest('.box') && b.getBoundingClientRect().right > innerWidth + 1).length,
    ground: getComputedStyle(document.body).backgroundColor,
    bar: [...new Set([...document.querySelectorAll('svg text')].map(t => getComputedStyle(t).fill))].join(),
    figures: [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height > 50).length,
  };
  document.body.innerHTML = ''; document.body.append(JSON.stringify(told)); })</script>"""


def shown(folder, page, width, *, dark):
    """Return what a browser shows of a page, and what it complained of."""
    path = folder / f"{width}-{dark}.html"
    path.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},900", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    body = re.search(r"<body>(.*)</body>", done.stdout, flags=re.DOTALL)[1]
    return json.loads(html.unescape(body)), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


@browser
@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_every_headline_number(tmp_path, digits, width, dark):
    told, complaints = shown(tmp_path, render_page(*digits), width, dark=dark)
    assert complaints == []
    for text in headline(digits[0]):
        assert text in told["text"], text
    assert told["width"] <= told["view"]
    assert told["outside"] == 0
    assert told["figures"] == 11
    assert told["ground"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    ink = "rgb(230, 237, 243)" if dark else "rgb(31, 35, 40)"
    assert ink in told["bar"]


def framed(folder, page):
    """Return what a page says of itself in a frame as wide as a phone.

    Chromium's window is no narrower than 500; a frame of 360 is.
    """
    inner = html.escape(page.replace("</body>", PROBE + "</body>"))
    outer = f"""<!doctype html><body><iframe width=360 height=800 srcdoc="{inner}"></iframe><script>
      addEventListener('load', () => setTimeout(() => {{
      const told = frames[0].document.body.innerText; document.body.innerHTML = ''; document.body.append(told) }}, 300))</script></body>"""
    path = folder / "outer.html"
    path.write_text(outer, encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(
        html.unescape(re.search(r"<body>(.*)</body>", done.stdout, flags=re.DOTALL)[1])
    )


@browser
@pytest.mark.parametrize("of", ["score", "comparison"])
def test_a_narrow_phone_scrolls_tables_and_not_the_page(tmp_path, digits, of):
    page = render_page(*digits) if of == "score" else render_comparison_page(digits[1])
    told = framed(tmp_path, page)
    assert told["view"] == 360
    assert told["width"] <= 360
    assert told["outside"] == 0
    for text in headline(digits[0]) if of == "score" else compared_numbers(digits[1]):
        assert text in told["text"], text


# ---- the page of a comparison ---------------------------------------------------------------------


def compared_numbers(found):
    """The numbers that a page of a comparison must show."""
    total = found.models[1].total
    return [
        *(number(model.log_loss) for model in found.models),
        signed(total.mean),
        signed(total.interval.lower),
        signed(total.interval.upper),
        f"{found.rows:,}",
        signed(found.models[1].worse[0].difference),
        number(total.p_value),
        signed(found.models[1].bootstrap.lower),
    ]


def test_the_page_of_a_comparison_is_whole_and_always_the_same(digits):
    _, found = digits
    page = render_comparison_page(found)
    parser = checked(page)
    assert page == render_comparison_page(found)
    assert parser.tags.count("h1") == 1
    for text in compared_numbers(found):
        assert html.escape(text) in page, text


@browser
@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_a_comparison(tmp_path, digits, width, dark):
    _, found = digits
    told, complaints = shown(tmp_path, render_comparison_page(found), width, dark=dark)
    assert complaints == []
    for text in compared_numbers(found):
        assert text in told["text"], text
    assert told["width"] <= told["view"]
    assert told["outside"] == 0
    assert told["ground"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_the_flag_of_a_comparison(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("id,label,p_a,p_b\n1,a,0.5,0.5\n2,b,0.25,0.75\n")
    other = tmp_path / "o.csv"
    other.write_text("id,label,p_a,p_b\n1,a,0.6,0.4\n2,b,0.2,0.8\n")
    words = ["compare", str(path), str(other), "--key", "id"]
    assert main([*words, "--html", str(tmp_path / "c.html")]) == 0
    expected = render_comparison_page(compare(path, other, key="id"))
    assert (tmp_path / "c.html").read_text(encoding="utf-8") == expected
    assert main([*words, "--html", str(other)]) == 2
    assert other.read_text().startswith("id,label")
    assert "--html" in capsys.readouterr().err
