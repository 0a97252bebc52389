"""The benchmark of scores: small tables, the same questions, the same checks."""

from __future__ import annotations

import pytest

from benchmarks import scoring
from benchmarks.results import read
from xent.scoring import score


def test_a_small_table_is_made_asked_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 3000)
    lines = list(scoring.measure_all(tmp_path, 6000, 1, wide_lists=500))
    kinds = [line["kind"] for line in lines]
    assert kinds == ["time"] * 6 + ["peer"] * 2 + ["memory"] * 4
    assert [line["rows"] for line in lines if line["kind"] == "memory"] == [3000, 6000, 24000, 500]
    named, numbered = lines[6:8]
    assert (named["labels"], named["rows"], named["least"]) == ("names", 6000, 50.0)
    assert (numbered["labels"], numbered["least"]) == ("whole numbers", None)
    for peer in (named, numbered):
        assert peer["difference"] < 1e-7
        assert peer["ratio"] == peer["peer_seconds"] / peer["seconds"]
    told = scoring.reached(lines)
    assert len(told) == 11  # of whole numbers nothing is promised
    assert all(line.startswith(("holds", "misses")) for line in told)
    page = scoring.render_page("<!-- scoring-speed -->\n<!-- /scoring-speed -->\n", lines)
    assert "| the table four times | 24 000 |" in page
    assert "| names | 6 000 |" in page
    assert "| whole numbers | 6 000 |" in page


def test_a_wrong_answer_ends_the_benchmark(tmp_path):
    expected = scoring.make_table(tmp_path / "t", 2000)
    assert score(tmp_path / "t").log_loss == pytest.approx(expected, rel=1e-12)
    with pytest.raises(AssertionError, match="NumPy"):
        list(scoring.measure(tmp_path / "t", 2000, expected * 1.001, 1))


def test_the_page_is_made_from_the_stored_figures():
    text = scoring.PAGE.read_text(encoding="utf-8")
    assert scoring.render_page(text, read(scoring.STORED)) == text
