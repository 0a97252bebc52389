"""Faults put into the source text on purpose: the tests must notice every one of them.

Each mutant is a line of the mathematics written as it is easily got wrong. It is loaded beside the
real package, and a panel of the real tests is run against it, with its functions in place of
xent's. Only a failed assertion counts: a mutant that cannot be run proves nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import math
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
import test_accuracy
import test_derivatives
import test_rules
from libraries import LIBRARIES

import xent
from benchmarks import accuracy
from xent.losses.cases import CASES

PACKAGE = Path(xent.__file__).parent
NUMPY = LIBRARIES[0]
READERS = (test_accuracy, test_derivatives, test_rules, accuracy)  # they say `xent.…`

DEFINITION, TARGETS, ROWS, ARRAYS = (
    "losses/definition.py",
    "losses/targets.py",
    "losses/rows.py",
    "arrays.py",
)

# fmt: off
MUTANTS = [
    # (what is wrong, where, the text, what it becomes)
    ("the sign of −Σ t·x", DEFINITION, "return t * (0.0 - xp.where(nothing", "return t * (0.0 + xp.where(nothing"),
    ("log(1 + others) in the place of log1p", DEFINITION, "xp.log1p(others)", "xp.log(1.0 + others)"),
    ("no maximum is subtracted", DEFINITION, "m = constant(xp.max(z, axis=-1, keepdims=True))", "m = constant(0.0 * xp.max(xp.where(z > -xp.inf, z, 0.0), axis=-1, keepdims=True))"),
    ("0·∞ is not made 0", DEFINITION, "nothing = (t == 0) & (x == -xp.inf)", "nothing = (t == 0) & (x == xp.inf)"),
    ("p − 1 at a confident target", DEFINITION, "xp.where(self.top, self.others, (1.0 - self.e) + self.others) / (1.0 + self.others)", "1.0 - self.probability(xp)"),
    ("the sign of the target in the gradient", DEFINITION, "slope = p * (weight - t) - t * s.rest(xp)", "slope = p * (weight - t) + t * s.rest(xp)"),
    ("the gradient does not know the temperature", DEFINITION, "return xp.full_like(z, 1.0 / self.temperature)", "return xp.ones_like(z)"),
    ("the softcap comes after the temperature", DEFINITION, "= transform.centred(xp, z)", "= LogitTransform(1.0, transform.softcap and transform.softcap * transform.temperature, transform.carry).centred(xp, z)"),
    ("the z-loss has no weight", DEFINITION, "loss = loss + z_loss * weight *", "loss = loss + z_loss *"),
    ("the z-loss is not in the gradient", DEFINITION, "slope = slope + 2.0 * z_loss", "slope = slope + 0.0 * z_loss"),
    ("the Hessian is diag p alone", DEFINITION, "product = weight * p * (u - mean)", "product = weight * p * u"),
    ("the slope of the loss at a confident row cancels", DEFINITION, "share = _share_of_top(xp, top, t)", "share = 0.0"),
    ("log(1 + exp) in the place of log1p in the sigmoid's loss", DEFINITION, "xp.log1p(xp.exp(xp.where(z > 0, -z, z)))", "xp.log(1.0 + xp.exp(xp.where(z > 0, -z, z)))"),
    ("the sigmoid's loss overflows", DEFINITION, "xp.log1p(xp.exp(xp.where(z > 0, -z, z))) + xp.where(z > 0, z, xp.zeros_like(z))", "xp.log1p(xp.exp(z))"),
    ("smoothing reaches masked classes", TARGETS, "allowed = xp.astype(z > -xp.inf, z.dtype)", "allowed = xp.ones_like(z)"),
    ("smoothing adds mass", TARGETS, "t = (1.0 - smoothing) * t +", "t = t +"),
    ("class weights are dropped", TARGETS, "return t if class_weight is None else t * class_weight", "return t"),
    ("row weights are dropped from the loss", ROWS, "rows.weight * losses", "losses"),
    ("row weights are dropped from the gradient", ROWS, "return _over(rows.xp, rows.weight, divisor)", "return _over(rows.xp, rows.xp.ones_like(rows.weight), divisor)"),
    ("rows of weight 0 are counted", ROWS, "kept = kept & (weight != 0)", "kept = kept & (weight == weight)"),
    ("class weights are left out of what the mean divides by", ROWS, "else rows.weight * target_mass", "else rows.weight"),
    ("the normalizers are confused", ROWS, 'if self.normalizer == "count":', 'if self.normalizer == "weight":'),
    ("a mean over no row is NaN", ROWS, "return xp.where(nothing & (numerator == 0), 0.0 * numerator, numerator / safe)", "return numerator / divisor"),
    ("half precision is accumulated as it comes", ARRAYS, "wide = xp.float64\n", "wide = xp.float16\n"),
    ("half precision is returned", ARRAYS, "return xp.result_type(xp.float32, *floats)", "return xp.result_type(xp.float16, *floats)"),
    ("sums and differences lose their remainders", ARRAYS, "_finite_or_zero(xp, (a_ - (high - part)) + (b_ - part))", "xp.zeros_like(high)"),
    ("the division by a temperature loses its remainder", ARRAYS, "xp.where(near, correction, xp.zeros_like(q))", "xp.zeros_like(q)"),
    ("sums are running sums", ARRAYS, "        return high + low\n", "        return xp.cumulative_sum(x, axis=-1)[..., -1]\n"),
]
# fmt: on


# ---- the panel: some of the real tests -------------------------------------------------------------

ROWS_AGAINST_THE_ORACLE = [
    ("ordinary rows", "float16"),
    ("ordinary rows", "float32"),
    ("confident, low temperature", "float32"),
    ("confident and right", "float64"),
    ("confident, low temperature", "float64"),
    ("common offset 2^26, temperature", "float64"),
    ("extreme logits", "float64"),
    ("masked classes, smoothing", "float64"),
    ("z-loss", "float64"),
    ("softcap, temperature", "float64"),
    ("class weights", "float64"),
    ("soft targets, masked classes", "float64"),
]


def _panel():
    cases = {case.name: case for case in CASES}
    for name, dtype in ROWS_AGAINST_THE_ORACLE:
        for check in (
            test_accuracy.test_softmax_cross_entropy_is_right_to_four_ulp,
            test_accuracy.test_softmax_gradient_is_right_within_its_bound,
        ):
            yield functools.partial(check, NUMPY, dtype, cases[name])
    yield test_rules.test_r5_the_softcap_comes_before_the_temperature
    for options in (
        {},
        {"class_weight": [0.5, 2.0, 1.0, 3.0], "label_smoothing": 0.2, "z_loss": 0.01},
    ):
        for normalizer in ("weight", "count", 7.0):
            yield functools.partial(
                test_rules.test_r6_hard_targets_equal_one_hot_targets_to_the_bit,
                options,
                "mean",
                normalizer,
            )
    yield test_rules.test_r6_the_weighted_mean_is_sum_of_weighted_losses_over_sum_of_weights
    yield test_rules.test_r7_the_normalizer_is_weight_count_a_number_or_an_array
    yield functools.partial(
        test_rules.test_r8_no_kept_row_is_a_loss_of_zero_with_zero_gradients, NUMPY
    )
    yield test_rules.test_r9_smoothing_leaves_masked_classes_out
    yield test_derivatives.test_a_confident_row_keeps_its_gradient_in_float32
    for transform in ("backward", "double"):
        yield functools.partial(test_derivatives.test_torch_eager_derivatives_are_right, transform)
    for name in test_derivatives.OPTIONS:
        yield functools.partial(
            test_derivatives.test_value_and_grad_and_the_product_equal_automatic_differentiation,
            name,
            "mean",
        )
    yield functools.partial(_measured, accuracy.sigmoid, "float32")
    yield all_options_together
    yield long_sums_keep_their_digits


def all_options_together():
    """Compare rows under every option at once with the oracle: options must not lose each other."""
    options = {
        "class_weight": [0.5, 2.0, 1.0, 3.0],
        "label_smoothing": 0.2,
        "z_loss": 0.25,
        "temperature": 0.75,
        "softcap": 3.0,
    }
    w = np.array([2.0, 0.5, 3.0])
    value, gradient = test_rules.xent.softmax_cross_entropy_value_and_grad(
        test_rules.Z, test_rules.Y, row_weight=w, reduction="none", **options
    )
    for row, (z, y) in enumerate(zip(test_rules.Z, test_rules.Y, strict=True)):
        loss, slopes, *_ = oracle.softmax_row(z, y, **options)
        assert value[row] == pytest.approx(float(w[row] * loss), rel=1e-14, abs=0.0)
        assert gradient[row] == pytest.approx(
            [float(w[row] * s) for s in slopes], rel=1e-12, abs=1e-15
        )


def long_sums_keep_their_digits():
    p = np.random.default_rng(1).uniform(size=1 << 17)
    p /= p.sum()
    assert test_rules.xent.entropy(p) == pytest.approx(
        -math.fsum(p * np.log(p)), rel=1e-15, abs=0.0
    )


def _measured(measured, dtype):
    for m in accuracy.measure(measured, NUMPY, dtype):
        assert m.worst <= m.bound, m


# ---- loading a mutant beside the real package ------------------------------------------------------


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from other source text than its file's, without the file's byte code."""

    def __init__(self, fullname, path, source):
        super().__init__(fullname, path)
        self.source = source

    def get_code(self, fullname):
        return self.source_to_code(self.source.encode(), self.path)


class _Finder:
    """Finds one changed module, and leaves the others to the rest."""

    def __init__(self, fullname, source):
        self.fullname, self.source = fullname, source

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.fullname:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        spec.loader = _Changed(fullname, spec.origin, self.source)
        return spec


def _named_xent():
    return [name for name in sys.modules if name == "xent" or name.startswith("xent.")]


def load(file, source):
    """Import the package anew with one file's text replaced; the loaded one stays as it is."""
    fullname = ".".join(["xent", *Path(file).with_suffix("").parts])
    finder = _Finder(fullname, source)
    real = {name: sys.modules.pop(name) for name in _named_xent()}
    sys.meta_path.insert(0, finder)
    try:
        package = importlib.import_module("xent")
        # The kernels have mutants of their own; here the definition runs.
        package.losses.dispatch.KERNELS = package.losses.dispatch.KERNELS[-1:]
        return package
    finally:
        sys.meta_path.remove(finder)
        for name in _named_xent():
            del sys.modules[name]
        sys.modules.update(real)


@contextlib.contextmanager
def in_place_of_xent(package):
    """Let the panel's tests see another package under the name of xent."""
    with pytest.MonkeyPatch.context() as patch:
        for reader in READERS:
            patch.setattr(reader, "xent", package)
        yield


def first_failure(package):
    """Return the first failed assertion of the panel, or None."""
    with in_place_of_xent(package):
        for check in _panel():
            try:
                check()
            except AssertionError as failure:
                return failure
    return None


# ---- the tests ---------------------------------------------------------------------------------------


def test_the_panel_passes_on_the_unchanged_text():
    source = (PACKAGE / DEFINITION).read_text(encoding="utf-8")
    package = load(DEFINITION, source)
    assert package is not xent
    assert sys.modules["xent"] is xent
    assert first_failure(package) is None


@pytest.mark.parametrize(
    ("file", "old", "new"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_the_panel_notices_that(file, old, new):
    source = (PACKAGE / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} has {old!r} {source.count(old)} times: renew the mutant"
    failure = first_failure(load(file, source.replace(old, new)))
    assert failure is not None, "the mutant survives"
