"""`xent demo`: the optimiser reaches the minimum, the files score, and what it prints is true."""

from __future__ import annotations

import html
import math

import numpy as np
import pytest
from sklearn.metrics import log_loss as clipped_log_loss

import xent
from xent import cli, errors
from xent.demo import render, run, write_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def entries(folder):
    return run(folder / "made for it")


def test_every_entry_scores_the_file_that_it_wrote(entries):
    assert len(entries) == 8
    for entry in entries:
        again = xent.scoring.score(entry.score.path)
        assert again.log_loss == entry.score.log_loss == pytest.approx(entry.plain[0], rel=1e-12)
        assert again.n == {"digits": 1797, "breast cancer": 569}[entry.data]


def test_finite_scores_are_scikit_learns_and_infinite_ones_are_not_clipped(entries):
    for entry in entries:
        infinite = entry.score.infinite_rows
        assert math.isinf(entry.score.log_loss) == bool(infinite)
        if not infinite and entry.model != "naive Bayes":  # nothing below the clip
            assert entry.score.log_loss == pytest.approx(entry.clipped[0], rel=1e-12)


def test_a_float32_copy_changes_scikit_learns_ranking_and_not_ours(entries):
    digits = [e for e in entries if e.data == "digits"]

    def best(of, k):
        return min(digits, key=lambda e: of(e)[k]).model

    assert best(lambda e: e.clipped, 0) == "softmax regression"
    assert best(lambda e: e.clipped, 1) == "k nearest neighbours"
    assert best(lambda e: e.plain, 0) == best(lambda e: e.plain, 1) == "softmax regression"
    for entry in entries:
        assert entry.plain[0] == pytest.approx(entry.plain[1], rel=1e-6)


def test_the_report_says_what_was_measured(entries):
    text = " ".join(render(entries).split())
    neighbours = next(e for e in entries if e.model == "k nearest neighbours")
    assert f"{neighbours.score.infinite_rows} rows had P(truth) = 0; with a floor of 0.001" in text
    assert f"{neighbours.score.floor_scores[1e-3]:.4f} nats" in text
    assert "digits: xent ranks the models alike on both copies" in text
    assert "digits: scikit-learn ranks them «softmax regression <" in text
    softmax = entries[0]
    assert f"from {softmax.history[0]:.4f} to {softmax.history[-1]:.4f} nats" in text


def test_no_part_file_is_left_behind(entries, folder):
    names = sorted(p.name for p in (folder / "made for it").iterdir())
    assert len(names) == 8
    assert all(name.startswith("predictions-") for name in names)


def test_the_command_says_where_it_cannot_write(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert cli.main(["demo", str(blocked / "inside")]) == 2
    assert "the demo's folder must be one that can be made" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(errors.MissingExtraError, match=r"'duckdb'.*pip install 'xent\[demo\]'"):
        run(tmp_path)


def test_the_clip_is_what_the_difference_comes_from():
    y, p = [0, 1], np.array([[1.0, 0.0], [1.0, 0.0]])
    single, double = (clipped_log_loss(y, p.astype(kind)) for kind in (np.float32, np.float64))
    assert single == pytest.approx(-math.log(np.finfo(np.float32).eps) / 2, rel=1e-6)
    assert double == pytest.approx(-math.log(np.finfo(np.float64).eps) / 2, rel=1e-6)
    with pytest.warns(errors.InfiniteLossWarning):
        assert math.isinf(xent.log_loss(y, p))


def test_the_demo_ends_with_a_page_and_a_comparison(entries, tmp_path):
    path, better = write_page(tmp_path, entries)
    text = path.read_text(encoding="utf-8")
    ours = next(e for e in entries if e.data == "digits" and e.model == "softmax regression")
    assert f"{ours.score.log_loss:.4f} <small>nats a row" in text
    assert "is better than" in better
    assert "which is not chance" in better
    assert html.escape(better) in text
    assert len(text.encode()) < 400_000
