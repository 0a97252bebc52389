"""Nats, bits and bans."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from xent.errors import OptionError
from xent.units import from_nats


@pytest.mark.parametrize(
    ("unit", "nats"), [("nats", 1.0), ("bits", math.log(2.0)), ("bans", math.log(10.0))]
)
def test_one_unit_is_the_logarithm_of_its_base(unit, nats):
    assert from_nats(nats, unit) == 1.0
    assert from_nats(0.0, unit) == 0.0
    assert from_nats(math.inf, unit) == math.inf
    assert math.isnan(from_nats(math.nan, unit))


def test_arrays_stay_in_their_library_and_dtype():
    for array in (np.ones(2, np.float32), torch.ones(2), jnp.ones(2)):
        for unit in ("nats", "bits", "bans"):
            converted = from_nats(array, unit)
            assert type(converted) is type(array)
            assert converted.dtype == array.dtype


@pytest.mark.parametrize("unit", ["bit", "Bits", "", "log2", None, 2])
def test_an_unknown_unit_is_refused_with_the_known_ones(unit):
    with pytest.raises(OptionError, match=r"one of 'nats', 'bits', 'bans': got .*Hint: "):
        from_nats(1.0, unit)
