"""Which kernel would run for rows that are described, not held: what ``xent kernels`` prints.

The kernels are asked as they are in a call. What stands in for the arrays has their shape, dtype
and device, and repeats one number over and over, so that no shape is too large to ask about.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.errors import OptionError
from xent.losses import dispatch
from xent.losses.cases import SHAPES, Shape
from xent.losses.kernels import SoftmaxRows

__all__ = ["DTYPES", "Answer", "kernel_table", "render"]

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Answer:
    """What the kernels say to one shape.

    Attributes
    ----------
    asked
        The shape, in words.
    runs
        The kernel that runs, or None where nothing can.
    refusals
        Each kernel's name, in the order they are asked, and why it refuses; None where it could
        run.
    """

    asked: str
    runs: str | None
    refusals: tuple[tuple[str, str | None], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as a JSON object."""
        return {
            "asked": self.asked,
            "runs": self.runs,
            "kernels": [{"name": name, "refusal": why} for name, why in self.refusals],
        }


def kernel_table(
    shapes: Sequence[str] = (),
    *,
    dtype: str | None = None,
    soft: bool = False,
    softcap: float | None = None,
    device: str = "cpu",
) -> list[Answer]:
    """Ask each kernel whether it takes softmax cross-entropy of these shapes.

    Parameters
    ----------
    shapes
        Shapes of logits such as ``"4096x32000"`` or ``"8x21x512x512"``, classes second; by
        default those that speed is measured on.
    dtype
        Of the logits: one of `DTYPES`; by default float32, or what a default shape has.
    soft
        Whether targets are probabilities instead of class indices.
    softcap
        As the losses take it.
    device
        Where the arrays are, as torch spells it: ``"cpu"``, ``"cuda"``, …

    Returns
    -------
    list of Answer
        One for each shape.

    Raises
    ------
    OptionError
        If a shape, dtype or softcap is none.

    Examples
    --------
    >>> answer, = kernel_table(["64x10"], dtype="float64", softcap=30.0)
    >>> answer.runs
    'definition'

    See Also
    --------
    xent.losses.dispatch.explain : the same for rows at hand.
    """
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(
            f"--dtype must be one of {', '.join(DTYPES)}: got {dtype!r}. "
            "Hint: it is the dtype of the logits."
        )
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise OptionError(
            f"--softcap must be a positive number: got {softcap!r}. "
            "Hint: leave it out where logits are not capped."
        )
    asked = [Shape(text, _parse(text)) for text in shapes] or SHAPES
    answers = []
    for shape in asked:
        described = Shape(
            shape.name,
            shape.shape,
            dtype or shape.dtype,
            soft or shape.soft,
            shape.label_smoothing,
            shape.class_weight,
        )
        answers.append(_ask(described, softcap, device))
    return answers


def _parse(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().replace("×", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 0 or math.prod(shape) >= 2**62:
        raise OptionError(
            f"a shape must be sizes with x between: got {text!r}. "
            "Hint: 4096x32000 for rows × classes, 8x21x512x512 with classes second."
        )
    return shape


def _ask(shape: Shape, softcap: float | None, device: str) -> Answer:
    words = f"{shape}{'' if softcap is None else f', softcap {softcap:g}'}, {device}"
    absent = _why_absent(shape.dtype, device)
    if absent is not None:
        every = tuple((kernel.name, absent) for kernel in dispatch.KERNELS)
        return Answer(words, None, every)
    rows = _stand_in(shape, softcap, device)
    where = dispatch.Situation(device.partition(":")[0])
    refusals = tuple((kernel.name, kernel.refuses(rows, where)) for kernel in dispatch.KERNELS)
    return Answer(words, dispatch.choose(rows, None, where), refusals)


def _torch() -> Any:
    """Return torch, or None where it is not installed."""
    # Not a statement: what is asked here is whether the package is there at all.
    return importlib.import_module("torch") if importlib.util.find_spec("torch") else None


def _why_absent(dtype: str, device: str) -> str | None:
    """Say why there can be no such array here, or return None."""
    torch = _torch()
    if torch is None:
        if device != "cpu":
            return f"arrays on {device} need torch, which is not installed"
        if dtype == "bfloat16":
            return "NumPy has no bfloat16, and torch is not installed"
        return None
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        return f"torch finds no device {device!r} here"
    return None


def _stand_in(shape: Shape, softcap: float | None, device: str) -> SoftmaxRows:
    """Return rows as the losses would fold them, of arrays that hold one number each."""
    sizes = shape.shape
    n, c, *places = sizes if len(sizes) > 1 else (1, *sizes)
    logits, indices = (n, c, math.prod(places)), (n, math.prod(places))
    torch = _torch()

    def array(dtype: str, of: tuple[int, ...]) -> Any:
        if torch is None:
            return np.broadcast_to(np.zeros((), dtype), of)
        return torch.zeros((), dtype=getattr(torch, dtype), device=device).expand(of)

    return SoftmaxRows(
        array(shape.dtype, logits),
        array(shape.dtype, logits) if shape.soft else array("int64", indices),
        array(shape.dtype, (c,)) if shape.class_weight else None,
        smoothing=shape.label_smoothing,
        softcap=softcap,
    )


def render(answers: Sequence[Answer]) -> str:
    """Return the answers as text."""
    width = max(len(kernel.name) for kernel in dispatch.KERNELS)
    blocks = []
    for answer in answers:
        lines = [answer.asked]
        for name, refusal in answer.refusals:
            if name == answer.runs:
                said = "runs"
            else:
                said = f"kernel={name!r} makes it run" if refusal is None else f"no: {refusal}"
            lines.append(f"  {name:{width}}  {said}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
