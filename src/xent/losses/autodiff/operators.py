"""Kernels for rows whose logits are a product, as operators that compilers may record.

What is registered for a number of each row is two operators: the numbers, and their derivatives by
hidden, weight and bias once the upstream gradient is known. For a sum there is one that computes
its derivatives with it, so that a compiled sum takes no more products than an eager one.

A compiler differentiates an operator once. Elsewhere, where operations are only watched, further
derivatives are those of the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias

import torch

from xent.losses.autodiff.linear_pieces import Limits, are_half, by_graph
from xent.losses.autodiff.torch import Reduction, reduced
from xent.losses.kernels import LinearRows
from xent.losses.kernels.linear_products import accumulation_dtype

__all__ = [
    "ARRAYS",
    "NUMBERS",
    "Operators",
    "as_arguments",
    "define",
    "recorded",
    "taken_apart",
]

Tensor: TypeAlias = torch.Tensor
Needed: TypeAlias = tuple[bool, bool, bool]
Derivatives: TypeAlias = tuple[Tensor | None, ...]

ARRAYS = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? class_weight, "
    "Tensor? row_weight"
)
"""The arrays of `xent.losses.kernels.LinearRows`, as an operator takes them."""

NUMBERS = (
    "SymInt? ignore_index, float smoothing, float temperature, float? softcap, float z_loss, "
    "int workspace_bytes, bool invariant, bool low_memory"
)
"""Its options, and those of the memory."""


_TAGS: dict[str, Any] = {}
if hasattr(torch.Tag, "cudagraph_unsafe"):  # torch 2.8; which rows are kept is looked at
    _TAGS["tags"] = (torch.Tag.cudagraph_unsafe,)


class Operators(NamedTuple):
    """What compilers may record."""

    rows: Any  # numbers of each row
    sum: Any  # the sum of a number of each row, and its derivatives; None where there is none


class _Formulas(NamedTuple):
    """What an operator computes, from the arguments of its schema."""

    rows: Callable[..., Tensor]
    defined: Callable[..., Tensor]
    gradients: Callable[..., Derivatives]
    ahead: Callable[..., tuple[Tensor, *Derivatives]] | None


def define(
    name: str,
    arrays: str,
    numbers: str,
    *,
    rows: Callable[..., Tensor],
    defined: Callable[..., Tensor],
    gradients: Callable[..., Derivatives],
    columns: tuple[int, ...] = (),
    ahead: Callable[..., tuple[Tensor, *Derivatives]] | None = None,
) -> Operators:
    """Register operators whose arguments are `arrays`, then `numbers`.

    Parameters
    ----------
    name
        Of the operators, within ``xent::``.
    arrays, numbers
        Their schema. The first three arrays are hidden, weight and bias, which have derivatives.
    rows
        Of the arguments: numbers of each row, float64 (rows, …).
    defined
        The same by differentiable operations.
    gradients
        Of these numbers, their upstream gradient, which derivatives are needed, and the arguments:
        the derivatives, None for those that are not.
    columns
        The dimensions of a row's numbers.
    ahead
        Of a factor of the derivatives, which of them are needed, and the arguments: the sum over
        rows in float64, and its derivatives in the dtype of the logits; None for no such operator.
    """
    formulas = _Formulas(_alone(rows), defined, _alone(gradients), ahead and _alone(ahead))
    schema, count = f"{arrays}, {numbers}", arrays.count("Tensor")
    of_rows = _of_rows(name, schema, count, columns, formulas)
    return Operators(of_rows, _of_sums(name, schema, count, formulas) if ahead else None)


def _alone(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes in the dtypes it is given, within autocast too."""

    def computed(*arguments: Any) -> Any:
        device = next(a.device.type for a in arguments if isinstance(a, torch.Tensor))
        with torch.autocast(device, enabled=False):
            return compute(*arguments)

    return computed


def _of_rows(
    name: str, schema: str, count: int, columns: tuple[int, ...], formulas: _Formulas
) -> Any:
    """Register numbers of each row, and their derivatives."""

    def differentiate(
        found: Tensor, upstream: Tensor, needed: list[bool], *arguments: Any
    ) -> tuple[Tensor, ...]:
        own = formulas.gradients(found, upstream, _triple(needed), *arguments)
        # three tensors, not a list of those needed: so torch can go over many upstream gradients
        return tuple(upstream.new_empty(0) if a is None else a for a in own)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:count], output)
        ctx.numbers = inputs[count:]

    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, found = ctx.saved_tensors
        arguments, needed = (*arrays, *ctx.numbers), ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            by = _by_definition(formulas.defined, arguments, needed, upstream)
        else:
            own = derivatives(found, upstream, [bool(asked) for asked in needed], *arguments)
            by = tuple(a if asked else None for a, asked in zip(own, needed, strict=True))
        return *by, *(None for _ in arguments[3:])

    operator = torch.library.custom_op(
        f"xent::{name}", formulas.rows, mutates_args=(), schema=f"({schema}) -> Tensor", **_TAGS
    )
    derivatives = torch.library.custom_op(
        f"xent::{name}_gradient",
        differentiate,
        mutates_args=(),
        schema=f"(Tensor found, Tensor upstream, bool[] needed, {schema}) "
        "-> (Tensor, Tensor, Tensor)",
        **_TAGS,
    )
    operator.register_fake(
        lambda hidden, *_: hidden.new_empty((hidden.shape[0], *columns), dtype=torch.float64)
    )
    derivatives.register_fake(
        lambda _, upstream, needed, *arguments: tuple(
            _empty_like(a, a.dtype) if asked else upstream.new_empty(0)
            for a, asked in zip(arguments[:3], needed, strict=True)
        )
    )
    operator.register_autograd(backward, setup_context=setup)
    return operator


def _of_sums(name: str, schema: str, count: int, formulas: _Formulas) -> Any:
    """Register a scaled sum of numbers of rows that computes its derivatives with it."""
    ahead = formulas.ahead
    assert ahead is not None

    def compute(needed: list[bool], scale: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        factor = float(scale) if _is_ahead(scale, arguments) else 1.0
        total, *own = ahead(factor, _triple(needed), *arguments)
        return total * scale, *(total.new_empty(0) if a is None else a for a in own)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[1 : 2 + count], *output[1:])
        ctx.numbers = inputs[2 + count :]
        ctx.mark_non_differentiable(*output[1:])

    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # a checkpoint hands them out once
        scale, arrays, own = saved[0], saved[1 : 1 + count], saved[1 + count :]
        arguments, needed = (*arrays, *ctx.numbers), ctx.needs_input_grad[2:5]
        if torch.is_grad_enabled():
            each = (upstream * scale).expand(arguments[0].shape[0])
            by = _by_definition(formulas.defined, arguments, needed, each)
        else:
            factor = upstream if _is_ahead(scale, arguments) else upstream * scale
            by = tuple(
                (a * factor.to(a.dtype)).to(of.dtype) if asked else None
                for a, of, asked in zip(own, arguments[:3], needed, strict=True)
            )
        return None, None, *by, *(None for _ in arguments[3:])

    operator = torch.library.custom_op(
        f"xent::{name}_sum",
        compute,
        mutates_args=(),
        schema=f"(bool[] needed, Tensor scale, {schema}) -> (Tensor, Tensor, Tensor, Tensor)",
        **_TAGS,
    )

    def fake(needed: list[bool], scale: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        total = arguments[0].new_empty((), dtype=torch.float64)
        wide = accumulation_dtype(*arguments[:3])
        return total, *(
            _empty_like(a, wide) if asked else total.new_empty(0)
            for a, asked in zip(arguments[:3], needed, strict=True)
        )

    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup)
    return operator


def _is_ahead(scale: Tensor, arguments: tuple[Any, ...]) -> bool:
    """Tell whether gradients have the scale when they are made, before their upstream is known.

    Half types wait for it, as `ahead_of` says; so does what would have to wait for a device.
    """
    return scale.device.type == "cpu" and not are_half(*arguments[:2])


def _triple(needed: list[bool]) -> Needed:
    return needed[0], needed[1], needed[2]


def _empty_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)


def _by_definition(
    defined: Callable[..., Tensor], arguments: tuple[Any, ...], needed: Any, upstream: Tensor
) -> tuple[Tensor | None, ...]:
    """Return derivatives by hidden, weight and bias that can be differentiated."""
    return by_graph(lambda *own: defined(*own, *arguments[3:]), arguments[:3], upstream, needed)


# ---- as the functions call them ------------------------------------------------------------------


def taken_apart(arguments: tuple[Any, ...]) -> tuple[LinearRows, Limits]:
    """Return rows and limits from the arguments of an operator."""
    *of_rows, workspace_bytes, invariant, low_memory = arguments
    return LinearRows(*of_rows), Limits(workspace_bytes, invariant, low_memory=low_memory)


def as_arguments(rows: LinearRows, limits: Limits) -> tuple[Any, ...]:
    """Return the arguments of an operator: six arrays, then numbers."""
    of_rows = (getattr(rows, field.name) for field in fields(rows))
    return *of_rows, limits.workspace_bytes, limits.invariant, limits.low_memory


def recorded(
    own: Operators,
    arguments: tuple[Any, ...],
    needed: tuple[bool, bool, bool],
    reduction: Reduction,
    scale: float | Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Return losses, or their sum, by an operator that compilers may record.

    A sum computes its derivatives ahead where a compiler will have its backward pass, and lays out
    the memory; an exported program does not know which derivatives it will be asked for.
    """
    if reduction == "sum" and any(needed) and torch.compiler.is_compiling() and not _is_exporting():
        factor = torch.as_tensor(scale, dtype=torch.float64).detach()
        return own.sum(list(needed), factor, *arguments)[0].to(dtype)
    return reduced(own.rows(*arguments), None, reduction, scale, dtype)


def _is_exporting() -> bool:
    known = getattr(torch.compiler, "is_exporting", None)  # torch 2.7
    return known is not None and bool(known())
