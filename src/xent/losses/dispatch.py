"""Which kernel runs, and why: a table with reasons.

The first kernel of `KERNELS` that does not refuse runs; the last one, the definition, never
refuses. ``kernel="…"`` insists on one and raises with its reason if it refuses. Nothing else
falls back: a kernel that fails raises.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from xent.errors import OptionError
from xent.losses.kernels import EntryRows, LinearRows, SoftmaxRows

__all__ = [
    "KERNELS",
    "LINEAR_KERNELS",
    "NUMBA",
    "SMALL",
    "Choice",
    "Kernel",
    "Situation",
    "choose",
    "explain",
]

AnyRows = SoftmaxRows | EntryRows | LinearRows


class Situation(NamedTuple):
    """What a choice depends on beside the rows.

    Attributes
    ----------
    device
        Where the arrays are: ``"cpu"``, ``"cuda"``, ``"meta"`` …
    hindrance
        Why no kernel can run, such as a transformation of the framework; or None.
    """

    device: str
    hindrance: str | None = None


@dataclass(frozen=True)
class Kernel:
    """A row of the table.

    Attributes
    ----------
    name
        As ``kernel=`` takes it.
    does
        What it is, in words.
    refuses
        Why it cannot take rows in a situation, or None.
    """

    name: str
    does: str
    refuses: Callable[[AnyRows, Situation], str | None]


class Choice(NamedTuple):
    """A kernel's name and why it is refused; None for the one that runs."""

    name: str
    refusal: str | None


SMALL = 2048
"""Entries of a matrix whose call costs more than its computation."""
# Looked for once, when this module is imported: torch.compile cannot look.
NUMBA = importlib.util.find_spec("numba") is not None


def cpu_rows() -> ModuleType:
    """Import the CPU kernels, which bring numba with them."""
    import xent.losses.kernels.cpu_rows as module

    return module


def _numba_refuses(rows: AnyRows, situation: Situation) -> str | None:
    if situation.hindrance is not None:
        return situation.hindrance
    if situation.device != "cpu":
        return f"it runs on CPUs, and these arrays are on {situation.device}"
    if not NUMBA:
        return "numba is not installed (pip install 'xent[cpu]')"
    reason: str | None = cpu_rows().refuses(rows)
    return reason


def _triton_refuses(rows: AnyRows, situation: Situation) -> str | None:
    if situation.hindrance is not None:
        return situation.hindrance
    if not isinstance(rows, SoftmaxRows):
        return "it computes rows over classes"
    from xent.losses.kernels import triton_rows

    return triton_rows.refuses(rows)


KERNELS = (
    Kernel("numba_rows", "rows on a CPU, compiled by numba", _numba_refuses),
    Kernel("triton_rows", "rows on a GPU, compiled by triton", _triton_refuses),
    Kernel("definition", "the definition, by the array library's own operations", lambda *_: None),
)


def _chunked_refuses(rows: AnyRows, situation: Situation) -> str | None:
    return situation.hindrance


def _triton_linear_refuses(rows: AnyRows, situation: Situation) -> str | None:
    if situation.hindrance is not None:
        return situation.hindrance
    assert isinstance(rows, LinearRows)
    from xent.losses.kernels import triton_linear

    reason: str | None = triton_linear.refuses(rows)
    return reason


LINEAR_KERNELS = (
    Kernel(
        "linear_chunked",
        "products of matrices around a kernel for rows, in a bounded workspace",
        _chunked_refuses,
    ),
    Kernel("triton_linear", "on a GPU without any logits in memory", _triton_linear_refuses),
    Kernel("definition", "the definition, in blocks of rows", lambda *_: None),
)
"""The same for rows whose logits are a product."""


def _table(rows: AnyRows) -> tuple[Kernel, ...]:
    return LINEAR_KERNELS if isinstance(rows, LinearRows) else KERNELS


def explain(rows: AnyRows, situation: Situation) -> list[Choice]:
    """Return the kernels in the order they are asked, up to the one that runs."""
    choices = []
    for kernel in _table(rows):
        refusal = kernel.refuses(rows, situation)
        choices.append(Choice(kernel.name, refusal))
        if refusal is None:
            break
    return choices


def choose(rows: AnyRows, insisted: str | None, situation: Situation) -> str:
    """Return the name of the kernel that runs.

    Raises
    ------
    OptionError
        If the kernel that is insisted on does not exist or refuses.
    """
    table = _table(rows)
    if insisted is None:
        for kernel in table:
            if kernel.refuses(rows, situation) is None:
                return kernel.name
    for kernel in table:
        if kernel.name == insisted:
            if (refusal := kernel.refuses(rows, situation)) is not None:
                raise OptionError(
                    f"kernel={insisted!r} cannot take these rows: {refusal}. "
                    "Hint: kernel=None takes the first that can."
                )
            return insisted
    names = ", ".join(repr(kernel.name) for kernel in table)
    raise OptionError(
        f"kernel must be one of {names} or None: got {insisted!r}. "
        "Hint: xent kernels prints which would run."
    )
