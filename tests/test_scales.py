"""Tables of logits and of logarithms: the score of their probabilities, to more digits."""

import json
import math

import mpmath
import numpy as np
import pytest

from xent.errors import DistributionError, OptionError, TableError, TargetError
from xent.scoring import compare, merge, score
from xent.scoring.histogram import Histogram
from xent.scoring.score_file import read_summary, summary_document
from xent.scoring.summary import LossSummary

LAYOUTS = ["wide", "list"]


def table(layout, name, numbers, labels, **more):
    numbers = np.asarray(numbers, dtype=float)
    columns = {f"{name}_{k}": numbers[:, k] for k in range(numbers.shape[1])}
    return {"label": labels, **(columns if layout == "wide" else {name: numbers}), **more}


def exact_loss(logits, label):
    with mpmath.workdps(60):
        exact = [mpmath.mpf(float(z)) for z in logits]
        top = exact.index(max(exact))
        others = mpmath.fsum(mpmath.exp(z - exact[top]) for k, z in enumerate(exact) if k != top)
        return float(exact[top] - exact[label] + mpmath.log1p(others))


def rounding(loss):
    """A loss e^(z − m) below 1 has the error of the rounded difference in its exponent."""
    return 4e-16 + (1.2e-16 * -math.log(loss) if 0 < loss < 1 else 0.0)


def logits_of(rows, classes, spread, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, classes)) * spread, random.integers(0, classes, rows)


@pytest.mark.parametrize("spread", [1.0, 30.0, 3000.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_cost_what_the_definition_says(layout, spread):
    z, y = logits_of(40, 5, spread)
    result = score(table(layout, "logits" if layout == "list" else "logit", z, y), worst=40)
    for row in result.worst:
        exact = exact_loss(z[row.number - 1], y[row.number - 1])
        assert row.loss == pytest.approx(exact, rel=rounding(exact), abs=5e-324)
    assert result.log_loss == pytest.approx(
        math.fsum(exact_loss(*each) for each in zip(z, y, strict=True)) / 40, rel=1e-15
    )
    assert result.infinite_rows == 0
    assert "logits: " in result.reading[1]


@pytest.mark.parametrize("label", [0, 1])
def test_one_column_of_logits_is_the_logistic_function_of_it(label):
    z = np.array([-1e40, -800.0, -40.0, -1e-9, 0.0, 1e-9, 0.7, 40.0, 800.0, 1e40])
    result = score({"label": np.full(len(z), label), "logit": z}, classes=["0", "1"], worst=99)
    for row in result.worst:
        pair = (0.0, z[row.number - 1])
        exact = max(pair) - pair[label]
        exact += math.log1p(math.exp(-abs(pair[1])))
        assert row.loss == pytest.approx(exact, rel=4e-16, abs=0.0)


def test_infinite_logits_of_one_column_are_certainties():
    infinite = score({"label": [0, 1, 1], "logit": [-np.inf, np.inf, 0.0]})
    assert infinite.log_loss == pytest.approx(math.log(2) / 3)
    wrong = score({"label": [0, 1, 1], "logit": [np.inf, -np.inf, 0.0]})
    assert wrong.log_loss == math.inf
    assert wrong.infinite_rows == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logarithms_cost_themselves(layout):
    z, y = logits_of(50, 4, 600.0)
    logs = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    assert (np.exp(logs)[np.arange(50), y] == 0).any()  # what a probability would lose
    result = score(table(layout, "logprobs" if layout == "list" else "logprob", logs, y), worst=50)
    assert {r.number: r.loss for r in result.worst} == {
        i + 1: max(-logs[i, k], 0.0) for i, k in enumerate(y)
    }
    assert "logarithms of probabilities: " in result.reading[1]


def test_one_column_of_logarithms_keeps_the_digits_of_the_complement():
    logs = np.array([-1e-20, -1e-12, -0.3, -0.69, -0.7, -5.0, -750.0])
    result = score({"label": np.zeros(7, int), "log_p": logs}, classes=["0", "1"], worst=9)
    for row in result.worst:
        with mpmath.workdps(60):
            exact = float(-mpmath.log(-mpmath.expm1(mpmath.mpf(logs[row.number - 1]))))
        assert row.loss == pytest.approx(exact, rel=1e-15, abs=0.0)


def _parts(result):
    whole = result.summary.about(0.0)
    return {
        "loss": whole.first,
        "squares": whole.second_squared,
        "brier": result.brier_score,
        "accuracy": result.accuracy,
        "base": result.base_rate_loss,
    }


def _same_histogram(one: Histogram, other: Histogram):
    """Bins differ by no more than the rows at their very edges."""
    for name in ("rows", "weight", "hits", "probability", "complement", "loss", "squared"):
        a, b = getattr(one, name), getattr(other, name)
        assert np.sum(a) == pytest.approx(np.sum(b), rel=1e-12)
    moved = set(one.bins.tolist()) ^ set(other.bins.tolist())
    assert len(moved) <= 0.02 * len(one.bins) + 2


@pytest.mark.parametrize("weights", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("scale", ["logits", "log"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "binary"])
def test_everything_else_is_that_of_the_probabilities(layout, scale, weights):
    random = np.random.default_rng(3)
    z, y = logits_of(3000, 2 if layout == "binary" else 4, 2.0, seed=5)
    p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    more = {"weight": random.exponential(size=len(y))} if weights else {}
    more["part"] = random.integers(0, 3, len(y))
    if layout == "binary":
        given = {"p": z[:, 1] - z[:, 0] if scale == "logits" else np.log(p[:, 1])}
        plain = {"label": y, "p": p[:, 1], **more}
        told = {"label": y, **given, **more}
    else:
        told = table(layout, "p", z + 7.0 if scale == "logits" else np.log(p), y, **more)
        plain = table(layout, "p", p, y, **more)
    one = score(plain, by=["part"], class_wise=True)
    other = score(told, scale=scale, by=["part"], class_wise=True)
    assert _parts(other) == pytest.approx(_parts(one), rel=1e-12)
    assert [w.number for w in one.worst] == [w.number for w in other.worst]
    for a, b in zip(one.worst, other.worst, strict=True):
        assert b.probabilities == pytest.approx(a.probabilities, rel=1e-12)
    assert one.top_label is not None
    assert other.top_label is not None
    _same_histogram(one.top_label, other.top_label)
    for a, b in zip(one.calibration, other.calibration, strict=True):
        assert a.labels == b.labels
        _same_histogram(a.histogram, b.histogram)
        assert b.log_loss.miscalibration == pytest.approx(a.log_loss.miscalibration, abs=2e-4)
    for a, b in zip(one.slices, other.slices, strict=True):
        assert (a.value, a.cell.rows) == (b.value, b.cell.rows)
        assert a.cell.summary.log_loss == pytest.approx(b.cell.summary.log_loss, rel=1e-12)


def test_a_certainty_that_a_float_cannot_hold_is_none():
    """P = 1 − e⁻⁶⁰ is 1 as a float; its complement, and the loss of being wrong, are not."""
    result = score(table("wide", "logit", [[60.0, 0.0], [60.0, 0.0]], [0, 1]))
    assert result.top_label is not None
    assert result.top_label.infinite_rows.sum() == 0
    assert result.top_label.loss.sum() == pytest.approx(60.0, rel=1e-15)
    (two,) = result.calibration
    assert two.histogram.infinite_rows.sum() == 0
    assert two.histogram.complement.sum() == pytest.approx(2.0)
    assert two.histogram.probability.sum() == pytest.approx(2 * math.exp(-60), rel=1e-15)


def test_a_floor_caps_the_loss_of_a_logit():
    z = [[0.0, 900.0], [0.0, -np.inf], [1.0, 1.0]]
    result = score(table("wide", "logit", z, [0, 1, 0]), floor=1e-6)
    assert result.log_loss == pytest.approx((2 * -math.log(1e-6) + math.log(2)) / 3)
    assert (result.touched_rows, result.tally.zeros) == (2, 1)


def test_a_masked_class_is_impossible():
    result = score(table("wide", "logit", [[0.0, -np.inf, 1.0], [0.0, -np.inf, 1.0]], [1, 2]))
    assert result.infinite_rows == 1
    assert result.finite_log_loss == pytest.approx(math.log1p(math.exp(-1.0)))


@pytest.mark.parametrize(
    ("numbers", "scale", "said"),
    [
        pytest.param([[np.inf, 0.0]], "logits", "inf", id="infinity"),
        pytest.param([[-np.inf, -np.inf]], "logits", "data row 1", id="all-masked"),
        pytest.param([[1e41, 0.0]], "logits", "1e\\+41", id="huge"),
        pytest.param([[-1e41, 0.0]], "logits", "-1e\\+41", id="far-below"),
        pytest.param([[0.1, -3.0]], "log", "0.1", id="above-0"),
        pytest.param([[-1.0, -3.0]], "log", "sum to 1", id="not-normalised"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_no_logit_or_logarithm_can_be_is_refused(layout, numbers, scale, said):
    with pytest.raises(DistributionError, match=said):
        score(table(layout, "p", numbers, [0]), scale=scale, classes=["0", "1"])


def test_missing_and_unseen_are_told_of_logits_too(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    file = tmp_path / "nan.parquet"
    pq.write_table(pa.table({"label": [0, 1], "logit": [0.5, math.nan]}), file)
    with pytest.raises(DistributionError, match="got nan in column 'logit' of data row 2"):
        score(str(file))
    with pytest.raises(TableError, match="must be numbers: got nothing"):
        score({"label": [0, 1], "logit": np.ma.array([0.5, 1.0], mask=[0, 1]).filled(np.nan)})
    with pytest.raises(TargetError, match="got label '2'"):
        score(table("wide", "logit", [[1.0, 0.0]], [2]), classes=["0", "1"])
    unseen = score(table("list", "logits", [[1.0, 0.0]] * 2, [2, 0]), allow_unseen=True)
    assert unseen.infinite_rows == 1


def test_the_scale_must_be_one(tmp_path):
    with pytest.raises(OptionError, match="--scale must be probability, log, logits: got 'odds'"):
        score({"label": [0], "p": [0.5]}, scale="odds")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_probabilities_are_not_taken_for_logits(layout):
    with pytest.raises(TableError, match="must not be probabilities already"):
        score(table(layout, "p", [[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]], [0, 1, 1]), scale="logits")
    some = score(table(layout, "p", [[0.2, 0.8], [1.0, 0.5]], [0, 1]), scale="logits")
    assert some.log_loss == pytest.approx(
        (exact_loss([0.2, 0.8], 0) + exact_loss([1.0, 0.5], 1)) / 2
    )


def test_probabilities_come_before_what_leads_to_them():
    both = {
        "label": [0, 1],
        "p_0": [0.5, 0.4],
        "p_1": [0.5, 0.6],
        "logit_0": [0, 9],
        "logit_1": [0, 0],
    }
    assert score(both).log_loss == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2)
    asked = score(both, scale="logits")
    assert asked.log_loss == pytest.approx((math.log(2) + exact_loss([9, 0], 1)) / 2)


def test_summaries_of_logits_merge_with_infinite_rows(tmp_path):
    z, y = logits_of(20, 3, 5.0)
    z[3, y[3]] = -np.inf
    whole = score(table("wide", "logit", z, y), worst=3)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(summary_document(whole)))
    read = read_summary(path)
    assert summary_document(read) == summary_document(whole)
    assert read.worst == whole.worst
    parts = [score(table("wide", "logit", z[s], y[s])) for s in (slice(0, 9), slice(9, 20))]
    merged = merge(*parts)
    assert merged.infinite_rows == whole.infinite_rows == 1
    assert merged.finite_log_loss == pytest.approx(whole.finite_log_loss, rel=1e-14)
    assert merged.worst[0].loss == math.inf


def test_models_of_logits_compare():
    z, y = logits_of(60, 3, 2.0)
    ids = {"id": np.arange(60)}
    one, other = (table("wide", "logit", f * z, y, **ids) for f in (1.0, 2.0))
    found = compare(one, other, key="id")
    losses = [
        LossSummary.from_rows([exact_loss(f * r, k) for r, k in zip(z, y, strict=True)]).log_loss
        for f in (1.0, 2.0)
    ]
    assert found.models[1].total is not None
    assert found.models[1].total.mean == pytest.approx(losses[1] - losses[0], rel=1e-12)
