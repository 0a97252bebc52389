"""The array libraries that every function is tested on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any
from unittest import mock

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import torch

from xent.losses import dispatch


@dataclass(frozen=True)
class Library:
    """A way to make arrays, and the float dtypes it has."""

    name: str
    dtypes: tuple[str, ...]

    def make(self, array: Any, dtype: str | None = None) -> Any:
        """Return the numbers of a NumPy array; floats are rounded to `dtype` where it is given."""
        array = np.asarray(array)
        rounded = dtype is not None and array.dtype.kind == "f"
        if self.name == "torch":
            made = torch.from_numpy(np.array(array))
            return made.to(getattr(torch, dtype)) if rounded else made
        if self.name.startswith("jax"):
            return jnp.asarray(array, dtype=dtype if rounded else None)
        made = array.astype(dtype) if rounded else array
        if self.name == "array-api-strict":
            return array_api_strict.asarray(made)
        made = made.copy()
        made.flags.writeable = False  # inputs are never modified
        return made

    def context(self) -> Any:
        """Return the context in which the library has its dtypes."""
        if self.name == "jax, 64-bit":
            return jax.enable_x64(True)
        return contextlib.nullcontext()

    @property
    def flushes(self) -> bool:
        """Tell whether subnormal numbers are flushed to zero."""
        return self.name.startswith("jax")

    @property
    def accumulates_in(self) -> str:
        return "float32" if self.name == "jax" else "float64"


@contextlib.contextmanager
def definition_alone():
    """Let no kernel run."""
    with mock.patch.object(dispatch, "KERNELS", dispatch.KERNELS[-1:]):
        yield


LIBRARIES = [
    Library("numpy", ("float16", "float32", "float64")),
    Library("array-api-strict", ("float32", "float64")),
    Library("torch", ("float16", "bfloat16", "float32", "float64")),
    Library("jax", ("float16", "bfloat16", "float32")),
    Library("jax, 64-bit", ("float16", "bfloat16", "float32", "float64")),
]

EVERY = [(library, dtype) for library in LIBRARIES for dtype in library.dtypes]
NAMES = [f"{library.name}, {dtype}" for library, dtype in EVERY]


def to_numpy(x: Any) -> np.ndarray:
    """Return an array of any library as NumPy's, half types widened exactly."""
    if isinstance(x, torch.Tensor):
        x = x.detach()
        return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    x = np.asarray(x)
    return x if x.dtype.kind in "biuf" else x.astype(np.float32)
