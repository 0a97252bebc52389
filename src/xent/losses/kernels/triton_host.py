"""What the kernels of a GPU share on the host: where Triton runs, and options as it takes them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import struct
import sys
from typing import Any, NamedTuple

from xent.losses.kernels import LinearRows, SoftmaxRows

__all__ = [
    "FLOATS",
    "INTEGERS",
    "OLDEST_TRITON",
    "RowStatistics",
    "numbers_of",
    "on_device_of",
    "pair_of",
    "refuses_device",
]

OLDEST_TRITON = (3, 4)
"""The oldest release of Triton that takes named tuples as these kernels give them."""

FLOATS = ("torch.float32", "torch.bfloat16", "torch.float16")
"""The dtypes of logits, or of what they are products of."""

INTEGERS = ("torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8")
"""The dtypes of class indices."""


class RowStatistics(NamedTuple):
    """What is known of each row after one pass over its logits.

    Attributes
    ----------
    loss
        The loss in nats, not multiplied by the row's weight; 0 for a row that is not looked at.
                                                                                float32
    logsumexp
        log Σ exp of the logits after softcap and temperature.                  float32
    entropy
        The entropy of the softmax, or None where it was not asked for.         float32
    saved
        What `backward` needs beside the rows: two to five numbers for each, along the first axis.
                                                                                float64
    """

    loss: Any
    logsumexp: Any
    entropy: Any
    saved: Any


def refuses_device(name: str, tensor: Any) -> str | None:
    """Say why Triton cannot run where a tensor is, or return None.

    Parameters
    ----------
    name
        What the tensor is called in that clause, with its verb.
    tensor
        A torch tensor.
    """
    device, torch = tensor.device, sys.modules["torch"]
    if device.type == "cpu" and _interpreted():
        return None
    if device.type != "cuda":
        return f"it runs on NVIDIA and AMD GPUs, and {name} on the device {str(device)!r}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer"
    return _refuses_triton()


def _interpreted() -> bool:
    """Tell whether Triton runs kernels on the CPU, without importing it where it does not."""
    if os.environ.get("TRITON_INTERPRET", "0") == "0" or _refuses_triton():
        return False
    from xent.losses.kernels.triton_arithmetic import INTERPRETED

    return INTERPRETED


@functools.cache
def _refuses_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "it needs triton, which is not installed"
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"it needs triton {oldest} or newer, and {triton.__version__} is installed"
    return None


def pair_of(x: float) -> tuple[float, float]:
    """Return a float64 as the sum of two float32: Triton passes no wider floats."""
    high = _narrow(x)
    return high, _narrow(x - high)


def _narrow(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def numbers_of(rows: SoftmaxRows | LinearRows) -> Any:
    """Return the options of rows as a kernel takes them."""
    from xent.losses.kernels.triton_arithmetic import Numbers

    return Numbers(
        pair_of(1.0 / rows.temperature),
        pair_of(1.0 / (math.log(2.0) * rows.temperature)),
        None if rows.softcap is None else pair_of(rows.softcap),
        pair_of(rows.smoothing) if rows.smoothing else None,
        pair_of(1.0 - rows.smoothing),
        pair_of(rows.z_loss),
    )


def on_device_of(tensor: Any) -> Any:
    """Return the context in which launches go to the tensor's device."""
    if tensor.device.type != "cuda":
        return contextlib.nullcontext()
    return sys.modules["torch"].cuda.device(tensor.device)
