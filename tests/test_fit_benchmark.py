"""The benchmark of fits compares what it says, and its page is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import fit, results


@pytest.fixture
def small(monkeypatch):
    r = np.random.default_rng(0)
    x = r.standard_normal((300, 4))
    y = (x @ r.standard_normal((4, 3)) + r.gumbel(size=(300, 3))).argmax(axis=1)
    monkeypatch.setattr(fit, "CASES", {"small": lambda: (x, y)})


def test_both_are_taken_to_the_same_optimum(small):
    (fits,) = fit.compare(["small"], rounds=2)
    own, there = fit.gain(fits)
    assert [f.name for f in fits].count("xent") == 1
    assert own.excess <= fit.AGREED
    assert there is not None
    assert there is fits[-1]
    assert there.excess <= fit.AGREED < fits[-2].excess
    assert own.turns == there.turns == 2
    assert fits[1].turns == 1
    assert own.objective == pytest.approx(there.objective, rel=2e-8)
    assert [f.tolerance for f in fits[1:]] == list(fit.TOLERANCES[: len(fits) - 1])
    text = fit.table([fits])
    assert f"xent is {there.seconds / own.seconds:.2f} × as fast" in text
    stored = [{**f.as_dict(), "machine": {}} for f in fits]
    again = fit.by_case(stored)
    assert again == [fits]
    drawn = fit.figure(fits)
    assert "scikit-learn" in drawn
    assert "xent" in drawn


def test_the_command_prints_draws_and_refuses(small, tmp_path, capsys):
    assert command.main(["fit", "--rounds", "1", "--figures", str(tmp_path)]) == 0
    assert "small" in capsys.readouterr().out
    drawn = (tmp_path / "fit-small.svg").read_text(encoding="utf-8")
    assert drawn.rstrip().endswith("</svg>")
    assert command.main(["fit", "--case", "large"]) == 2
    assert "no case begins like large. Hint: small" in capsys.readouterr().err


def test_the_page_is_what_was_measured_and_everyone_arrived():
    stored = results.read(fit.STORED)
    page = fit.PAGE.read_text(encoding="utf-8")
    assert page == fit.render_page(page, stored)
    doctored = [{**line, "seconds": 2.0 * line["seconds"]} for line in stored]
    assert page != fit.render_page(page, doctored)
    assert [fits[0].case for fits in fit.by_case(stored)] == list(fit.CASES)
    late = [{**line, "excess": 1e-7} for line in stored]
    with pytest.raises(ValueError, match="not both reached the optimum"):
        fit.render_page(page, late)
