"""Reports as Markdown and in notebooks: whole, and nothing of the data read as markup."""

import html
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from xent.cli import main
from xent.errors import OptionError
from xent.report import (
    render_comparison,
    render_comparison_markdown,
    render_comparison_page,
    render_markdown,
    render_page,
    render_text,
)
from xent.report.compare_text import signed
from xent.report.markdown import _literal
from xent.report.wording import number, percent, plain
from xent.scoring import compare, score

NASTY = [
    "a|b", "a\\|b", "`code`", "*bold*", "_it_", "<script>alert(1)</script>", "&amp;", "[x](y)", "#1",
    "@someone", "@some|one", "line\nbreak", "~~no~~", "![i](j)", "http://x.y", "- item", "1. one",
    "> quote", "a  b", "$x$", "```", "<!-- c -->", "\\", "__init__", "é|ü", " @someone", "@some`one",
    "@some\\one", "www.x.y", "a@b.cd|e", ":+1:", "GH-12", "o/r#1", "# head",
]  # fmt: skip
CALLS = re.compile(r"@|#\w|(?<!\w)GH-\d|:[\w+-]+:")
markdown = MarkdownIt("commonmark", {"html": True}).enable("table")


def cells(text):
    """Return the text of every cell of every table, as a reader sees it."""
    found, inside = [], False
    for token in markdown.parse(text):
        if token.type in {"th_open", "td_open"}:
            inside = True
        elif token.type in {"th_close", "td_close"}:
            inside = False
        elif inside and token.type == "inline":
            found.append(literal(token))
    return found


def literal(token):
    """Return the text of a piece of Markdown that GitHub finds nothing to exchange in."""
    code, told = False, []
    for child in token.children:
        if child.type == "html_inline":
            assert child.content == ("</code>" if code else "<code>"), token.content
            code = not code
            continue
        assert child.type in {"text", "text_special"}, (child.type, token.content)
        # It reads each text by itself, and none that is code.
        assert code or not CALLS.search(child.content), token.content
        told.append(child.content)
    assert not code
    # Links without brackets it finds in the source.
    assert not re.search(r"www\.|://", token.content), token.content
    return "".join(told)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=30))
@example("a|b")
@example("`|`@x")
@example("\\|")
@example("@a`b")
@example(" @a")
@example("a@b.cd|")
@example("www.x.y")
@example(":+1:|")
@example("GH-1")
@example("-@-.a")
def test_any_text_is_one_cell_that_says_it(text):
    said = plain(text)
    table = f"| head | next |\n| :-- | --: |\n| {_literal(said)} | last |\n"
    found = cells(table)
    assert len(found) == 4
    assert found[2] == said.strip(" \t") or found[2] == said
    assert found[3] == "last"


@pytest.fixture(scope="module")
def nasty():
    random = np.random.default_rng(0)
    n = len(NASTY)
    p = random.dirichlet(np.ones(n), size=4 * n)
    label = np.array(NASTY * 4, dtype=object)
    columns = {f"p_{name}": p[:, i] for i, name in enumerate(NASTY)}
    table = {"id": np.arange(4 * n), "label": label, "slice": label, "note": label, **columns}
    other = table | {f"p_{name}": (p[:, i] + 1 / n) / 2 for i, name in enumerate(NASTY)}
    return table, other


def test_a_score_of_nasty_labels_is_a_score(nasty):
    found = score(nasty[0], by=["slice"], show=["note"])
    text = render_markdown(found)
    told = cells(text)
    for row in found.worst:
        assert plain(row.label).strip() in told  # a cell has no spaces at its ends
    slices = {plain(s.value).strip() for s in found.slices}
    assert slices <= set(told)
    assert number(found.log_loss) in text
    assert percent(found.accuracy) in text
    kinds = {t.type for t in markdown.parse(text)}
    assert kinds <= {
        "heading_open", "heading_close", "inline", "paragraph_open", "paragraph_close", "table_open",
        "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close",
        "th_open", "th_close", "td_open", "td_close", "html_block", "bullet_list_open",
        "bullet_list_close", "list_item_open", "list_item_close", "blockquote_open",
        "blockquote_close",
    }  # fmt: skip
    blocks = [t.content.strip() for t in markdown.parse(text) if t.type == "html_block"]
    assert blocks == [
        "<details><summary>How the table was read</summary>", "</details>"
    ]  # fmt: skip


def test_a_comparison_of_nasty_labels_is_a_comparison(nasty):
    found = compare(*nasty, key="id", by=["slice"])
    text = render_comparison_markdown(found)
    told = cells(text)
    assert {plain(row.label).strip() for row in found.models[1].worse} <= set(told)
    for model in found.models:
        assert number(model.log_loss) in told
    assert "nats a row" in text
    for token in markdown.parse(text):
        if token.type == "inline":
            literal_but_strong(token)


def literal_but_strong(token):
    """Check a piece of Markdown in which our own words may be strong."""
    token.children = [c for c in token.children if not c.type.startswith("strong")]
    literal(token)


def test_every_piece_of_a_score_is_literal(nasty):
    text = render_markdown(score(nasty[0], by=["slice"], show=["note"]))
    pieces = [token for token in markdown.parse(text) if token.type == "inline"]
    assert len(pieces) > 100
    for token in pieces:
        literal_but_strong(token)


def test_long_probabilities_are_not_cut():
    names = [f"a rather long name of a label {k}" for k in range(4)]
    table = {"label": names} | {f"p_{name}": [0.25] * 4 for name in names}
    told = cells(render_markdown(score(table)))
    assert ", ".join(f"{name} 0.2500" for name in names) in told


def test_a_comparison_tells_its_interval_and_the_doubts_about_it():
    """What a terminal says, Markdown and a page say too."""
    one = {"id": list(range(40)), "label": [0, 1] * 20, "p": [0.5] * 40}
    found = compare(one, one | {"p": [0.01] + [0.51] * 39}, key="id")
    total = found.models[1].total
    assert total.interval.doubts
    shown = [
        number(total.p_value),
        *(signed(end) for end in (total.interval.lower, total.interval.upper)),
        *(f"not to be trusted: {doubt}" for doubt in total.interval.doubts),
        "by drawing anew",
    ]
    pages = (
        render_comparison(found, width=200),
        render_comparison_markdown(found),
        html.unescape(render_comparison_page(found)),
    )
    for text in shown:
        assert all(text in page for page in pages), text
    (group, *_) = [g for g in found.models[1].groups if g.interval is not None]
    told = cells(pages[1])
    assert signed(group.interval.lower) in told
    assert number(group.adjusted_p_value) in told


def test_what_is_infinite_comes_first(tmp_path):
    one = {
        "id": [1, 2, 3, 4],
        "label": list("abab"),
        "p_a": [0, 1, 0.5, 0.5],
        "p_b": [1, 0, 0.5, 0.5],
    }
    other = one | {"p_a": [0.5, 0.5, 0.5, 0.4], "p_b": [0.5, 0.5, 0.5, 0.6]}
    place = {"place": ["x", "x", "x", "y"]}
    worse = {"p_a": [0, 1.0, 1.0, 0.4], "p_b": [1.0, 0, 0, 0.6]}
    found = compare(other | place | {"p_a": [0.5, 0.5, 0, 0.5], "p_b": [0.5, 0.5, 1, 0.5]},
                    other | place | worse, key="id", by=["place"])  # fmt: skip
    told = cells(render_comparison_markdown(found))
    assert found.models[1].groups
    where = [told.index(v) for v in ("x", "y")]
    assert where == sorted(where)
    assert told[where[0] + 2] == "–"  # each is infinitely wrong in rows of its own


def test_notebooks_show_escaped_tables(nasty):
    one = score(nasty[0], by=["slice"])
    two = compare(*nasty, key="id")
    for text in (one._repr_html_(), two._repr_html_()):
        assert not re.search(r"<(script|style|link|img)|style=|class=|on\w+=", text)
        ET.fromstring(text)  # well formed
    assert number(one.log_loss) in one._repr_html_()
    assert number(two.models[1].log_loss) in two._repr_html_()
    assert "&lt;script&gt;" in one._repr_html_()


def test_notebooks_need_no_extra_of_a_page():
    hidden = "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'jinja2', 'rich']));"
    code = (
        "from xent.scoring import compare, score; one = {'id': [1, 2], 'label': [0, 1], 'p': [.5, .6]};"
        "print(score(one)._repr_html_(), compare(one, one, key='id')._repr_html_())"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("<table>") == 2


def test_figures_are_shown_and_saved(tmp_path):
    found = score("examples/predictions.csv", class_wise=True)
    for kind in ("losses", "reliability", "decomposition"):
        figure = found.plot(kind)
        assert figure._repr_svg_() == figure.svg
        figure.save(tmp_path / f"{kind}.svg")
        assert (tmp_path / f"{kind}.svg").read_text(encoding="utf-8") == figure.svg
        ET.fromstring(figure.svg)
    assert "Is it cat?" in found.plot("reliability", "cat").svg
    assert found.plot("reliability", "cat").svg != found.plot("reliability", "dog").svg
    with pytest.raises(OptionError, match="kind must be"):
        found.plot("pie")
    with pytest.raises(OptionError, match="label must be one that was looked at"):
        found.plot("reliability", "cow")
    with pytest.raises(OptionError, match="label must not be given"):
        found.plot("losses", "cat")
    with pytest.raises(OptionError, match=r"saved as \.svg"):
        found.plot().save(tmp_path / "x.png")


def test_figures_of_infinite_losses():
    some = score({"label": list("aba"), "p_a": [0.0, 0.5, 0.5], "p_b": [1.0, 0.5, 0.5]})
    ET.fromstring(some.plot().svg)
    ET.fromstring(some.plot("reliability").svg)
    with pytest.raises(OptionError, match="where the loss is infinite"):
        some.plot("decomposition")
    every = {"label": list("ab"), "p_a": [0.0, 1.0], "p_b": [1.0, 0.0]}
    with pytest.raises(OptionError, match="where every loss is infinite"):
        score(every).plot()
    ET.fromstring(score(every, floor=1e-15).plot().svg)
    with pytest.raises(OptionError, match="kind must be"):
        some.plot("pie", "cow")


@pytest.mark.parametrize("width", [70, 96, 120])
def test_the_smooth_error_is_said_everywhere(width):
    found = score("examples/predictions.csv", class_wise=True)
    pages = (render_text(found, width=width), render_markdown(found), render_page(found))
    for calibration in (found.top_calibration, *found.calibration):
        error = number(calibration.smooth_calibration_error)
        assert all(error in page for page in pages), error
    named = "smECE" if width >= 96 else "smooth calibration error"
    assert named in pages[0]


def test_the_smooth_error_is_that_of_the_rows():
    random = np.random.default_rng(1)
    p = random.random(4000)
    y = (random.random(4000) < p**2).astype(int)
    (calibration,) = score({"label": y, "p": p}).calibration
    from xent.scoring.histogram import Histogram
    from xent.scoring.reliability import smooth_calibration_error

    expected = smooth_calibration_error(Histogram.from_rows(p, y))
    assert calibration.smooth_calibration_error == pytest.approx(expected, rel=1e-9)
    assert calibration.smooth_calibration_error == pytest.approx(np.mean(p - p**2), rel=0.1)


@pytest.mark.parametrize("command", ["score", "merge", "compare"])
def test_the_flag(tmp_path, capsys, command):
    path = tmp_path / "t.csv"
    path.write_text("id,label,p_a,p_b\n1,a,0.5,0.5\n2,b,0.25,0.75\n")
    main(["score", str(path), "--summary", str(tmp_path / "s.json"), "--json", "-"])
    capsys.readouterr()
    words = {
        "score": ["score", str(path)],
        "merge": ["merge", str(tmp_path / "s.json")],
        "compare": ["compare", str(path), str(path), "--key", "id"],
    }[command]
    assert main([*words, "--format", "md"]) == 0
    assert capsys.readouterr().out.startswith("### ")
    assert main([*words, "--format", "pdf"]) == 2
    assert "--format must be text or md: got 'pdf'" in capsys.readouterr().err


def test_what_the_caller_allowed_and_what_floors_would_cost_is_said():
    table = {"label": ["a", "b", "a"], "p_a": [0.5, 1.0, 0.6], "p_b": [0.5, 0.0, 0.399]}
    found = score(table, allow_unnormalised=0.01)
    for text in (render_markdown(found), found._repr_html_()):
        assert "did not sum to 1, and were used as given: 1" in text
        assert f"{number(found.floor_scores[1e-15])} at 1e-15" in text
