"""Faults put into the CPU kernels on purpose: a panel of rows must notice every one of them.

Each mutant is compiled anew, so they run in one process that does not optimise what it compiles:
the text is changed, the modules of the kernels are loaded from it without a cache, and rows in one
form are compared with the definition.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xent

pytestmark = pytest.mark.slow


PACKAGE = Path(xent.__file__).parent / "losses/kernels"
VECTORS, LOOPS, ROWS = "numba_vectors", "numba_loops", "numba_rows"
CLASSES, POSITIONS, DOUBLES = "numba_classes", "numba_positions", "numba_doubles"
ENTRIES = "numba_entries"
MODULES = (
    VECTORS,
    "numba_arithmetic",
    LOOPS,
    ROWS,
    CLASSES,
    POSITIONS,
    DOUBLES,
    ENTRIES,
    "cpu_rows",
)
"""In the order in which they import each other."""
ALONG, ACROSS, ONE, ENTRY = "along the classes", "across positions", "one by one", "entries"

# fmt: off
MUTANTS = [
    # (what is wrong, the form that must notice, where, the text, what it becomes)
    ("the low part of T·log 2 is dropped", ALONG, LOOPS, "rests = [fma(n, low, r) for n, r in zip(turns, rests, strict=True)]", "rests = list(rests)"),
    ("the others are what the likeliest leaves", ALONG, LOOPS, "rest = _sum_of([nothing.where(s, v) for s, v in zip(same, made, strict=True)])", "rest = _sum_of(made)"),
    ("classes that share the maximum are forgotten", ALONG, CLASSES, "others = rest + (times - 1) * most", "others = rest"),
    ("a slope of 0/0 is written", ALONG, CLASSES, "if ORDINARY < abs(stand_in) < 1.0 / ORDINARY:", "if True:"),
    ("the next row's maximum is the last of its numbers", ALONG, LOOPS, "tops[u % 2] = larger(ahead.load(place, lanes), tops[u % 2])", "tops[u % 2] = ahead.load(place, lanes)"),
    ("the gradient at the target is p − 1", ALONG, ROWS, "rest = others if e_y == top else (others + top) - e_y", "rest = (others + top) - e_y"),
    ("exponentials are not lifted", ALONG, LOOPS, "LIFT = 64.0", "LIFT = 0.0"),
    ("smoothing reaches masked classes", ALONG, CLASSES, "part = share if widen(load(z, j, kind)) > -np.inf else ZERO", "part = share"),
    ("wide rows are computed in float32", ALONG, LOOPS, "LARGEST = 2.0**18", "LARGEST = 2.0**30"),
    ("the block's temperature is not in the loss", ACROSS, LOOPS, "+ gap.load(i, lanes) * inverse_of", "+ gap.load(i, lanes)"),
    ("a block's classes that share the maximum are forgotten", ACROSS, LOOPS, "s + a.floats(DOUBLE) * d", "s"),
    ("a block's gradient at the target is p − 1", ACROSS, LOOPS, 'rest = rest_of.where(x.compare("==", top), (rest_of + top) - x)', "rest = (rest_of + top) - x"),
    ("a transpose swaps too little", ACROSS, VECTORS, "done, size = list(rows), LANES // 2", "done, size = list(rows), LANES // 4"),
    ("differences lose their remainders", ONE, DOUBLES, "store(low, j, lost if abs(lost) < np.inf else 0.0)", "store(low, j, 0.0)"),
    ("the softcap has no slope", ONE, DOUBLES, "slope *= 1.0 / np.cosh(v / say.softcap) ** 2 if v != -np.inf else 1.0", "slope *= 1.0"),
    ("0·∞ is not made 0 for entries", ENTRY, ENTRIES, "(0.0 if no == 0.0 else no * loss_no)", "(no * loss_no)"),
]
# fmt: on


AWKWARD = max(
    np.linspace(0.6, 0.8, 999),
    key=lambda t: abs(t * np.log(2.0) - float(np.float32(t * np.log(2.0)))),
)
"""A temperature of which float32 keeps as little as it can."""


# ---- the panel, in a process of its own -----------------------------------------------------------


def load(file, old, new):
    """Load the modules of the kernels again, one of them changed, with no cache."""
    import importlib.util

    for name in MODULES:
        source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        if name == file:
            assert source.count(old) == 1, f"{file} has {old!r} {source.count(old)} times: renew it"
            source = source.replace(old, new)
        source = source.replace("cache=True", "cache=False")
        full = f"xent.losses.kernels.{name}"
        spec = importlib.util.spec_from_file_location(full, PACKAGE / f"{name}.py")
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        setattr(sys.modules["xent.losses.kernels"], name, module)
        exec(compile(source, str(PACKAGE / f"{name}.py"), "exec"), module.__dict__)


def check(form):
    """Raise AssertionError for the first row of the panel that is wrong."""
    sys.modules.pop("row_calls", None)
    from row_calls import Placed, assert_right, by_row, call, defined, forced

    generator = np.random.default_rng(0)

    def compare(values, y, dtype="float32", **options):
        z, t = Placed(values, dtype), Placed(y, "int64")
        with forced(form):
            got = call(z, t, **options)
        assert_right(got, defined(by_row(z.values()), y.reshape(-1), **options), dtype)
        assert got.sums.bad == -1

    if form == ENTRY:
        check_entries()
        return
    classes = 11
    values = 3.0 * generator.standard_normal((40, classes, 1))
    y = generator.integers(0, classes, (40, 1))
    dtype = "float64" if form == ONE else "float32"
    confident = values.copy()
    confident[:, 3, 0] += np.linspace(0.0, 94.0, 40)
    confident[::2, 5] = confident[::2, 3] - 1e-12 * (dtype == "float64")
    compare(values, y, dtype)
    compare(confident, np.full((40, 1), 3), dtype, temperature=AWKWARD)
    compare(confident, y, dtype, temperature=1.3, z_loss=0.1)
    if form == ALONG:
        long = 3.0 * generator.standard_normal((40, 75, 1))
        long[:, 40, 0] += np.linspace(0.0, 20.0, 40)
        compare(long, np.full((40, 1), 40), dtype)
        masked = values.copy()
        masked[:, ::3] = -np.inf
        compare(masked, np.ones((40, 1), np.int64), dtype, smoothing=0.2)
        compare(values, y, dtype, class_weight=np.arange(11.0) % 3)
    if form == ACROSS:
        compare(np.transpose(values, (2, 1, 0)), y.T, dtype, temperature=0.8)
    if form == ONE:
        compare(values, y, "float32", softcap=5.0)
    if form != ACROSS:  # these are wide rows, for which one more function is compiled
        compare(values + 2.0**26 * np.arange(40)[:, None, None], y, dtype, temperature=7.3)


def check_entries():
    from xent.losses.kernels import EntryRows, cpu_rows

    z = np.concatenate([np.linspace(-745.0, 745.0, 300), [np.inf, -np.inf]])
    for t in (np.zeros(302), np.ones(302), np.full(302, 0.25)):
        losses, gradient = np.empty(302), np.empty(302)
        cpu_rows.sigmoid(EntryRows(z, t), losses=losses, gradient=gradient)
        finite, far = np.isfinite(z), np.exp(-np.abs(z))
        plus = np.log1p(far) + np.where(z > 0, np.abs(z), 0.0)
        minus = np.log1p(far) + np.where(z < 0, np.abs(z), 0.0)
        no, yes = 1.0 - t, t
        truth = np.where(no == 0, 0.0, no * plus) + np.where(yes == 0, 0.0, yes * minus)
        same = np.abs(losses[finite] - truth[finite]) <= 4 * np.spacing(truth[finite])
        assert np.all(same)
        assert np.array_equal(losses[~finite], truth[~finite])
        p, q = np.where(z > 0, 1.0, far) / (1 + far), np.where(z > 0, far, 1.0) / (1 + far)
        assert np.all(np.abs(gradient - (no * p - yes * q)) <= 1e-14 * (no * p + yes * q) + 1e-322)


def main():
    """Print, for each mutant and for the unchanged text, whether the panel noticed anything."""
    import warnings

    import numba

    warnings.simplefilter("ignore")
    assert numba.config.OPT == 0
    noticed = {}
    plain = [(f"nothing ({form})", form, ROWS, "ZERO = F(0.0)", "ZERO = F(0.0)") for form in (ALONG, ACROSS, ONE, ENTRY)]  # fmt: skip
    for name, form, *mutation in plain + MUTANTS:
        load(*mutation)
        try:
            check(form)
            noticed[name] = False
        except AssertionError:
            noticed[name] = True
    sys.stdout.write(json.dumps(noticed))


@pytest.fixture(scope="module")
def noticed():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(PACKAGE.parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", "import test_numba_mutants; test_numba_mutants.main()"],
        env={**os.environ, "PYTHONPATH": path, "NUMBA_OPT": "0"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_panel_passes_on_the_unchanged_text(noticed):
    assert [name for name in noticed if name.startswith("nothing") and noticed[name]] == []


@pytest.mark.parametrize("name", [m[0] for m in MUTANTS])
def test_the_panel_notices_that(name, noticed):
    assert noticed[name], "the mutant survives"
