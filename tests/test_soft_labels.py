"""Tables whose truth is a distribution over the labels."""

import json
import math

import numpy as np
import pytest

from xent.errors import DistributionError, OptionError, TableError
from xent.report import render_page, render_text
from xent.scoring import compare, merge, score
from xent.scoring.histogram import Histogram
from xent.scoring.score_file import read_summary, summary_document

NAMES = ["cat", "dog", "fox"]


def drawn(n=400, seed=0, zeros=True):
    random = np.random.default_rng(seed)
    p = random.dirichlet([1.0, 0.7, 0.4], size=n)
    t = random.dirichlet([0.8, 0.8, 0.8], size=n)
    if zeros:  # some truths are sure, and some predictions too where they may be
        t[: n // 4] = np.eye(3)[random.integers(0, 3, n // 4)]
        p[5], t[5] = [0.0, 0.5, 0.5], [0.0, 0.25, 0.75]
    return p, t, random.exponential(size=n)


def table(p, t, layout="wide", scale=None, **more):
    given = p if scale is None else np.log(np.maximum(p, 1e-300))
    name = {None: "p", "log": "logprob", "logits": "logit"}[scale]
    if layout == "list":
        return {
            "truths": t,
            {"p": "p", "logprob": "logprobs", "logit": "logits"}[name]: given,
            **more,
        }
    # In another order than the probabilities: names decide.
    soft = {f"y_{NAMES[k]}": t[:, k] for k in (2, 0, 1)}
    return {**soft, **{f"{name}_{NAMES[k]}": given[:, k] for k in range(3)}, **more}


def soft(layout):
    return {"soft_labels": "truths" if layout == "list" else "y_*"}


def cross_entropies(p, t):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(t > 0, -t * np.log(p), 0.0).sum(axis=1)


@pytest.mark.parametrize("weights", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("scale", [None, "log", "logits"])
@pytest.mark.parametrize("layout", ["wide", "list"])
def test_a_soft_label_costs_the_cross_entropy_of_the_two(layout, scale, weights):
    p, t, w = drawn(zeros=scale is None)
    w = w if weights else np.ones(len(p))
    more = {"weight": w} if weights else {}
    given = table(p, t, layout, scale, **more)
    found = score(given, class_wise=True, **soft(layout))
    losses = cross_entropies(p, t)
    mean = (w * losses).sum() / w.sum()
    assert found.log_loss == pytest.approx(mean, rel=1e-12)
    spread = (w**2 * (losses - mean) ** 2).sum() / w.sum() ** 2
    assert found.standard_error == pytest.approx(
        math.sqrt(spread * len(p) / (len(p) - 1)), rel=1e-9
    )
    assert found.accuracy == pytest.approx((w * (p.argmax(1) == t.argmax(1))).sum() / w.sum())
    assert found.brier_score == pytest.approx((w * ((p - t) ** 2).sum(1)).sum() / w.sum(), rel=1e-9)
    shares = (w[:, None] * t).sum(0) / w.sum()
    assert found.base_rate_loss == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
    entropies = cross_entropies(t, t)
    assert found.label_entropy == pytest.approx((w * entropies).sum() / w.sum(), rel=1e-12)
    worst = found.worst[0]
    assert worst.number == int(losses.argmax()) + 1
    assert worst.p_truth == pytest.approx(math.exp(-losses.max()), rel=1e-12)

    def alike(histogram, q, yes):
        expected = Histogram.from_rows(q, yes, w)
        for name in ("rows", "weight", "hits", "softness", "probability", "loss", "squared"):
            total = np.sum(getattr(expected, name))
            assert np.sum(getattr(histogram, name)) == pytest.approx(total, rel=1e-9), name

    rows = np.arange(len(p))
    top = p.argmax(1)
    alike(found.top_label, p[rows, top], t[rows, top])
    names = NAMES if layout == "wide" else ["0", "1", "2"]
    for calibration in found.calibration:
        k = names.index(calibration.labels[0])
        alike(calibration.histogram, p[:, k], t[:, k])


def test_sure_soft_labels_score_as_labels():
    p, t, w = drawn()
    sure = np.eye(3)[t.argmax(1)]
    p[5] = [0.2, 0.3, 0.5]
    hard = {"label": [NAMES[k] for k in t.argmax(1)], "weight": w}
    hard |= {f"p_{NAMES[k]}": p[:, k] for k in range(3)}
    one = score(hard, class_wise=True)
    other = score(table(p, sure, weight=w), class_wise=True, soft_labels="y_*")
    assert other.log_loss == pytest.approx(one.log_loss, rel=1e-13)
    assert other.standard_error == pytest.approx(one.standard_error, rel=1e-10)
    assert other.brier_score == pytest.approx(one.brier_score, rel=1e-10)
    assert other.base_rate_loss == pytest.approx(one.base_rate_loss, rel=1e-12)
    assert other.label_entropy == 0.0
    assert one.label_entropy is None
    for a, b in zip(one.calibration, other.calibration, strict=True):
        for term in ("score", "miscalibration", "discrimination", "uncertainty"):
            assert getattr(b.log_loss, term) == pytest.approx(getattr(a.log_loss, term), abs=1e-9)


def test_what_a_soft_label_holds_for_possible_may_not_be_impossible():
    p, t, _ = drawn(20, zeros=False)
    p[3], t[3] = [0.0, 0.5, 0.5], [1e-9, 0.5, 0.5 - 1e-9]
    found = score(table(p, t), soft_labels="y_*")
    assert found.log_loss == math.inf
    assert found.infinite_rows == 1
    floored = score(table(p, t), soft_labels="y_*", floor=1e-6)
    expected = cross_entropies(np.maximum(p, 1e-6), t).mean()
    assert floored.log_loss == pytest.approx(expected, rel=1e-12)
    assert (floored.touched_rows, floored.tally.zeros) == (1, 1)


@pytest.mark.parametrize("scale", [None, "logits", "log"])
def test_one_column_of_soft_labels_is_the_second_class(scale):
    random = np.random.default_rng(3)
    p, t = random.random(100), random.random(100)
    given = {None: p, "logits": np.log(p / (1 - p)), "log": np.log(p)}[scale]
    found = score({"t": t, "p": given}, soft_labels="t", scale=scale)
    losses = -(t * np.log(p) + (1 - t) * np.log1p(-p))
    assert found.log_loss == pytest.approx(losses.mean(), rel=1e-12)
    assert found.names == ("0", "1")
    (calibration,) = found.calibration
    assert calibration.histogram.softness.sum() == pytest.approx((t * (1 - t)).sum())
    assert calibration.log_loss.score == pytest.approx(losses.mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        ([0.5, 0.4, 0.2], DistributionError, "soft labels in .* got others in .* of data row 3"),
        ([-0.1, 0.6, 0.5], DistributionError, "must be probabilities of the 3 classes"),
        ([math.inf, 0.0, 0.0], DistributionError, "must be probabilities"),
        ([math.nan, 0.5, 0.5], TableError, "must have a value in every row: got 1 row without"),
    ],
)
def test_soft_labels_must_be_distributions(bad, error, said):
    p, t, _ = drawn(6)
    p[5] = 1 / 3
    t[2] = bad
    with pytest.raises(error, match=said):
        score(table(p, t), soft_labels="y_*")


def test_soft_labels_and_probabilities_belong_together():
    p, t, _ = drawn(8)
    lacking = table(p, t)
    del lacking["y_fox"]
    with pytest.raises(TableError, match="each soft label must have a probability of its name"):
        score(lacking, soft_labels="y_*")
    with pytest.raises(OptionError, match="must not be given together"):
        score(table(p, t), soft_labels="y_*", label="y_cat")
    with pytest.raises(OptionError, match="soft_labels must not be given to a comparison"):
        compare(table(p, t), table(p, t), key="y_cat", soft_labels="y_*")
    with pytest.raises(TableError, match="must go with one of soft labels: got 2"):
        score({"a": [0.1], "b": [0.9], "p": [0.5]}, soft_labels="a,b")


def test_scores_of_soft_labels_merge_and_are_kept(tmp_path):
    p, t, w = drawn(60)
    whole = score(table(p, t, weight=w), soft_labels="y_*")
    parts = [
        score(table(p[s], t[s], weight=w[s]), soft_labels="y_*") for s in (slice(25), slice(25, 60))
    ]
    path = tmp_path / "part.json"
    path.write_text(json.dumps(summary_document(parts[0])))
    merged = merge(read_summary(path), parts[1])
    assert merged.log_loss == pytest.approx(whole.log_loss, rel=1e-13)
    assert merged.base_rate_loss == pytest.approx(whole.base_rate_loss, rel=1e-13)
    assert merged.label_entropy == pytest.approx(whole.label_entropy, rel=1e-13)
    hard = score({"label": ["cat", "dog"], **{f"p_{n}": [1 / 3, 1 / 3] for n in NAMES}})
    with pytest.raises(OptionError, match="soft or not"):
        merge(parts[0], hard)


def test_reports_of_soft_labels_say_what_no_prediction_removes():
    p, t, _ = drawn(60)
    found = score(table(p, t), soft_labels="y_*")
    text = render_text(found)
    assert "which no prediction removes" in text
    assert "likeliest label" in text
    assert "soft labels: " in text
    assert f"{found.label_entropy:.4f}" in render_page(found)
