"""The benchmark of linear cross-entropy: its forms agree, and its words follow from its figures."""

import pytest
import torch

from benchmarks import linear
from benchmarks.__main__ import main
from benchmarks.results import ROOT, read

QUICK = linear.QUICK[0]


def test_all_forms_compute_the_same_and_are_timed(monkeypatch):
    forms = linear.systems(QUICK)
    monkeypatch.setattr(
        linear, "systems", lambda shape: {n: f for n, f in forms.items() if n != linear.CHUNKS}
    )
    lines = list(linear.time_shape(QUICK, 1))
    assert [line["form"] for line in lines] == [
        linear.PRODUCTS, linear.FOUR, linear.MEAN, linear.SMALL, linear.ROWS, linear.WHOLE,
    ]  # fmt: skip
    assert lines[0]["row_kernel"] == "numba_rows"
    assert all(len(line["turns"]) >= 1 and line["seconds"] > 0.0 for line in lines)
    for line in lines[2:]:
        assert line["loss_error"] < 1e-6
        assert max(line["hidden_gradient_error"], line["head_gradient_error"]) < 1e-5


def test_products_are_three_and_four(monkeypatch):
    done, own = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: (done.append(a), own(*a, **k))[1])
    for name, number in ((linear.PRODUCTS, 3), (linear.FOUR, 4)):
        done.clear()
        linear.products(linear.inputs(QUICK))[name]()
        assert len(done) == number


def test_torchs_chunks_alone_are_left_out_after_one_turn(monkeypatch):
    forms = linear.systems(QUICK)
    monkeypatch.setattr(
        linear, "systems", lambda shape: {linear.MEAN: forms[linear.MEAN], linear.CHUNKS: slow}
    )

    def slow(given):
        for _ in range(500):
            loss = linear._materialised(given)
        return loss

    turns = {line["form"]: len(line["turns"]) for line in linear.time_shape(QUICK, 3)}
    assert turns[linear.CHUNKS] == 1
    assert turns[linear.MEAN] == turns[linear.PRODUCTS] >= 3


def test_an_error_is_seen():
    given = linear.inputs(QUICK)
    truth = linear.exact(given)
    loss = linear._materialised(given)
    given.head.grad[0, 0] += 1.0
    off = truth.errors(loss * 1.01, given)
    assert off[0] == pytest.approx(0.01, rel=1e-3)
    assert off[2] > 0.1


def made(ours, whole, peak):
    common = {"shape": "small", "size": "1 × 1 × 1", "dtype": "float32"}
    exact = {"loss_error": 1e-8, "hidden_gradient_error": 1e-7, "head_gradient_error": 1e-7}
    seconds = {
        linear.PRODUCTS: 1.0, linear.FOUR: 4 / 3, linear.MEAN: ours, linear.SMALL: 1.2 * ours,
        linear.ROWS: 4 / 3 * ours, linear.WHOLE: whole, linear.CHUNKS: 9.0,
    }  # fmt: skip
    for form, took in seconds.items():
        yield {
            "kind": "time",
            **common,
            "form": form,
            "seconds": took,
            "turns": [took],
            **exact,
        }
    for form, workspace in ((linear.MEAN, 100), (linear.SMALL, 10)):
        yield {
            "kind": "peak", **common, "form": form, "bytes": peak, "gradient_bytes": 50,
            "workspace_bytes": workspace,
        }  # fmt: skip


def test_what_was_to_be_reached_is_told_with_whether_it_holds():
    assert all(line.startswith("holds") for line in linear.reached(list(made(1.1, 1.5, 60))))
    told = linear.reached(list(made(1.3, 1.3, 160)))
    missed = [line for line in told if line.startswith("misses")]
    assert len(missed) == 5  # products twice, the materialised form, and two peaks
    assert "of three products: 1.300, 1.15 at most" in missed[0]
    assert "| | xent | 1.3 s | 1.30 × |" in linear.table(list(made(1.3, 1.3, 160)))


def test_a_form_is_compared_with_another_turn_by_turn():
    # The machine slows down to a half, and one form has fewer turns than the other.
    ours, theirs = {"turns": [1.1, 1.1, 2.2, 2.2]}, {"turns": [1.0, 1.0, 2.0, 2.0]}
    assert linear.ratio(ours, theirs) == pytest.approx(1.1)
    assert linear.ratio(ours, {"turns": [4.0]}) == pytest.approx(1.1 / 4.0)


def test_the_pages_show_the_results():
    lines = read(linear.STORED)
    for page in (linear.PAGE, linear.README):
        text = page.read_text(encoding="utf-8")
        assert linear.render(text, lines) == text, page.relative_to(ROOT)


def test_the_command_refuses_what_it_cannot_do(capsys):
    assert main(["linear", "--quick", "--json"]) == 2
    assert main(["linear", "--shape", "none"]) == 2
    assert "no shape 'none' on cpu" in capsys.readouterr().err
