"""The package as a whole: what it names, what it imports, how long that takes."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import xent

SOURCES = str(Path(xent.__file__).parents[1])
HEAVY = [
    "array_api_compat.numpy",
    "duckdb",
    "jax",
    "matplotlib",
    "numba",
    "pandas",
    "polars",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "torch",
    "typer",
]
SECONDS = 0.2


def in_a_fresh_process(code):
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def loaded_by(code):
    return in_a_fresh_process(
        f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    ).split()


def test_importing_xent_loads_nothing_heavier_than_numpy():
    assert loaded_by("import xent") == []


def test_measuring_lists_and_arrays_loads_nothing_heavier_than_numpy():
    assert loaded_by("import numpy, xent; xent.entropy([0.5, 0.5]); xent.entropy([True])") == []


@pytest.mark.parametrize("module", ["array_api_compat.numpy", "scipy", "rich"])
def test_the_guard_sees_a_heavy_import(module):
    assert module in loaded_by(f"import xent, {module}")


def seconds_of(*imports):
    """Return how long each import takes in fresh processes that take turns, the best of several.

    Each is a pair: what is imported before, and what is timed.
    """
    best = [float("inf")] * len(imports)
    for _ in range(9):
        for place, (first, second) in enumerate(imports):
            timed = f"import time; {first}; start = time.perf_counter(); {second}"
            took = float(in_a_fresh_process(timed + "; print(time.perf_counter() - start)"))
            best[place] = min(best[place], took)
    return best


def test_importing_xent_takes_less_than_a_fifth_of_a_second_beyond_numpy():
    assert seconds_of(("import numpy", "import xent"))[0] < SECONDS


def test_importing_xent_takes_less_than_twice_the_time_of_numpy_alone():
    # NumPy's own time is the machine's; a ratio does not depend on how busy that is.
    both, numpy = seconds_of(("pass", "import xent"), ("pass", "import numpy"))
    assert both < 2 * numpy


def test_the_public_names_are_sorted_and_are_all_there_is():
    public = {name: getattr(xent, name) for name in xent.__all__}  # some are loaded when asked for
    assert xent.__all__ == sorted(public)
    assert all(value.__module__.startswith("xent.") for value in public.values())
    at_hand = {
        name
        for name, value in vars(xent).items()
        if getattr(value, "__module__", None) and value.__module__.startswith("xent.")
    }
    assert at_hand <= set(public)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_measure"):
        _ = xent.no_such_measure


def test_every_public_function_has_an_example_that_runs_as_a_doctest():
    for name in xent.__all__:
        value = getattr(xent, name)
        if isinstance(value, types.FunctionType):
            assert ">>> " in value.__doc__, name
