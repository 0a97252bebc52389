"""Linear softmax cross-entropy on every array library, against the loss of the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from libraries import LIBRARIES, to_numpy

import xent
from xent.errors import LogitError, OptionError, ShapeError, TargetError
from xent.losses.problem import Product

GENERATOR = np.random.default_rng(5)
HIDDEN = GENERATOR.standard_normal((3, 4, 5))
WEIGHT = GENERATOR.standard_normal((7, 5))
BIAS = GENERATOR.standard_normal(7)
TARGETS = GENERATOR.integers(0, 7, (3, 4))
TARGETS[1, 2] = -1
LOGITS = HIDDEN @ WEIGHT.T + BIAS
ROWS = 8 * Product.HELD * 7  # bytes that a row of the definition takes
CASES = {
    "plain": {},
    "sum": {"reduction": "sum", "label_smoothing": 0.1},
    "rows": {"reduction": "none", "z_loss": 0.01, "class_weight": GENERATOR.uniform(0.5, 2.0, 7)},
    "count": {"normalizer": "count", "row_weight": GENERATOR.uniform(0.5, 2.0, (3, 4))},
    "bent": {"temperature": 0.7, "softcap": 2.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("workspace", [1, 5 * ROWS, 2**28])
@pytest.mark.parametrize("library", LIBRARIES, ids=[x.name for x in LIBRARIES])
def test_it_is_the_loss_of_the_logits(library, workspace, case):
    dtype = library.dtypes[-1]
    with library.context():
        options = {
            name: library.make(value, dtype) if isinstance(value, np.ndarray) else value
            for name, value in CASES[case].items()
        }
        found = xent.linear_softmax_cross_entropy(
            library.make(HIDDEN, dtype), library.make(WEIGHT, dtype), library.make(TARGETS),
            bias=library.make(BIAS, dtype), ignore_index=-1, workspace_bytes=workspace, **options,
        )  # fmt: skip
    truth = xent.softmax_cross_entropy(LOGITS, TARGETS, ignore_index=-1, **CASES[case])
    tolerance = 1e-13 if "float64" in library.dtypes else 2e-6
    np.testing.assert_allclose(to_numpy(found), truth, rtol=tolerance)


def test_half_types_are_added_up_in_float32():
    hidden, weight = (a.astype(np.float16) for a in (HIDDEN, WEIGHT))
    found = xent.linear_softmax_cross_entropy(hidden, weight, TARGETS, ignore_index=-1)
    assert found.dtype == np.float32
    exact = hidden.astype(float) @ weight.astype(float).T
    truth = xent.softmax_cross_entropy(exact, TARGETS, ignore_index=-1)
    assert float(found) == pytest.approx(float(truth), rel=1e-6)


def test_soft_targets_and_masked_classes():
    share = np.full((3, 4, 7), 1 / 6)
    share[..., 2] = 0.0
    bias = BIAS.copy()
    bias[2] = -np.inf
    found = xent.linear_softmax_cross_entropy(HIDDEN, WEIGHT, share, bias=bias)
    truth = xent.softmax_cross_entropy(HIDDEN @ WEIGHT.T + bias, share)
    assert float(found) == pytest.approx(float(truth), rel=1e-14)
    assert xent.linear_softmax_cross_entropy(HIDDEN[0, 0], WEIGHT, 2, bias=bias) == np.inf


def test_the_logits_are_never_there_as_a_whole(monkeypatch):
    seen = []
    own = Product.__getitem__
    monkeypatch.setattr(
        Product,
        "__getitem__",
        lambda self, place: (seen.append(place[0].stop - place[0].start), own(self, place))[1],
    )
    xent.linear_softmax_cross_entropy(HIDDEN, WEIGHT, np.abs(TARGETS), workspace_bytes=5 * ROWS)
    assert seen == [5, 5, 2]


def test_rows_that_are_ignored_are_not_looked_at():
    hidden = HIDDEN.copy()
    hidden[1, 2] = np.nan
    found = xent.linear_softmax_cross_entropy(hidden, WEIGHT, TARGETS, bias=BIAS, ignore_index=-1)
    truth = xent.softmax_cross_entropy(LOGITS, TARGETS, ignore_index=-1)
    assert float(found) == pytest.approx(float(truth), rel=1e-14)
    nothing = xent.linear_softmax_cross_entropy(
        hidden, WEIGHT, TARGETS, row_weight=np.zeros((3, 4))
    )
    assert nothing == 0.0
    assert xent.linear_softmax_cross_entropy(HIDDEN[:0], WEIGHT, TARGETS[:0]) == 0.0


def test_libraries_that_differentiate_differentiate_it():
    hidden = HIDDEN.copy()
    hidden[1, 2] = np.nan  # of a row that is ignored
    z = torch.tensor(LOGITS).flatten(0, 1)
    y = torch.tensor(TARGETS).flatten()
    p = torch.softmax(z, 1)
    p[torch.arange(12), y.clamp(min=0)] -= 1.0
    p[y < 0] = 0.0
    expected = (p.T @ torch.tensor(HIDDEN).flatten(0, 1) / (y >= 0).sum()).numpy()

    def loss(hidden, weight, targets, bias):
        return xent.linear_softmax_cross_entropy(
            hidden, weight, targets, bias=bias, ignore_index=-1, workspace_bytes=5 * ROWS
        )

    weight = torch.tensor(WEIGHT, requires_grad=True)
    loss(torch.tensor(hidden), weight, torch.tensor(TARGETS), torch.tensor(BIAS)).backward()
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=1e-12)
    with jax.enable_x64(True):
        by = jax.jit(jax.grad(loss, argnums=1))
        found = by(
            jnp.asarray(hidden), jnp.asarray(WEIGHT), jnp.asarray(TARGETS), jnp.asarray(BIAS)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_does_not_fit_is_refused_in_words():
    call = xent.linear_softmax_cross_entropy
    with pytest.raises(ShapeError, match="weight \\(classes, features\\): got shapes"):
        call(HIDDEN, WEIGHT[:, 1:], TARGETS)
    with pytest.raises(ShapeError, match="bias must have a number for each of 7 classes"):
        call(HIDDEN, WEIGHT, TARGETS, bias=BIAS[1:])
    wrong, hidden = np.abs(TARGETS), HIDDEN.copy()
    wrong[2, 1], hidden[2, 1] = 9, np.nan
    with pytest.raises(TargetError, match=r"targets must lie in \[0, 7\): got 9 at row \(2, 1\)"):
        call(HIDDEN, WEIGHT, wrong, workspace_bytes=1)
    with pytest.raises(LogitError, match=r"got nan at row \(2, 1\)"):
        call(hidden, WEIGHT, np.abs(TARGETS), workspace_bytes=1)
    with pytest.raises(OptionError, match="workspace_bytes"):
        call(HIDDEN, WEIGHT, TARGETS, workspace_bytes=0)
