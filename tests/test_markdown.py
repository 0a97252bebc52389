"""Reports as Markdown and in notebooks: whole, and nothing of the data read as markup."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from xent.cli import main
from xent.errors import OptionError
from xent.report import render_comparison_markdown, render_markdown
from xent.report.markdown import _literal
from xent.report.wording import number, percent, plain
from xent.scoring import compare, score

NASTY = [
    "a|b", "a\\|b", "`code`", "*bold*", "_it_", "<script>alert(1)</script>", "&amp;", "[x](y)", "#1",
    "@someone", "@some|one", "line\nbreak", "~~no~~", "![i](j)", "http://x.y", "- item", "1. one",
    "> quote", "a  b", "$x$", "```", "<!-- c -->", "\\", "__init__", "é|ü",
]  # fmt: skip
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
            kinds = {child.type for child in token.children}
            assert kinds <= {"text", "code_inline", "text_special"}, (kinds, token.content)
            found.append("".join(child.content for child in token.children))
    return found


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=30))
@example("a|b")
@example("`|`@x")
@example("\\|")
@example("@a`b")
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
        assert plain(row.label) in told
    slices = {plain(s.value) for s in found.slices}
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
    assert {plain(row.label) for row in found.models[1].worse} <= set(told)
    for model in found.models:
        assert number(model.log_loss) in told
    assert "nats a row" in text


def test_notebooks_show_escaped_tables(nasty):
    one = score(nasty[0], by=["slice"])
    two = compare(*nasty, key="id")
    for text in (one._repr_html_(), two._repr_html_()):
        assert not re.search(r"<(script|style|link|img)|style=|class=|on\w+=", text)
        ET.fromstring(text)  # well formed
    assert number(one.log_loss) in one._repr_html_()
    assert number(two.models[1].log_loss) in two._repr_html_()
    assert "&lt;script&gt;" in one._repr_html_()


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
