"""The loss modules of `torch.nn`, drop-in; each is a subclass of torch's own.

So ``isinstance`` holds, and buffers, state dicts, attributes and ``.to()`` are torch's. What is
ours is an attribute by the name of its argument; a repr shows it where it is not the default.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NoReturn, TypeAlias

import torch

from xent.torch import functional
from xent.torch.arguments import Tensor, refuse_scripting

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "KLDivLoss", "NLLLoss"]

Normalizer: TypeAlias = Literal["weight", "count"] | float | Tensor | None
Empty: TypeAlias = Literal["nan", "zero"]


class _Options:
    """How the options of ours are kept, handed on and shown."""

    _defaults: ClassVar[dict[str, Any]]

    def _keep(self, **options: Any) -> None:
        for name, value in options.items():
            setattr(self, name, value)

    def _options(self, normalizer: Normalizer) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in self._defaults}
        if normalizer is not None:
            options["normalizer"] = normalizer
        return options

    def extra_repr(self) -> str:
        """Return the options of ours that are not the default."""
        given = ((name, getattr(self, name)) for name in self._defaults)
        return ", ".join(
            f"{name}={value!r}"
            for name, value in given
            if value is not self._defaults[name] and value != self._defaults[name]
        )

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_scripting(type(self).__name__)


class CrossEntropyLoss(_Options, torch.nn.CrossEntropyLoss):
    """`cross_entropy` as a module; a drop-in for `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As torch's, in their places.
    z_loss, temperature, softcap, normalizer, out_dtype, empty, kernel
        As for `cross_entropy`.

    Examples
    --------
    >>> loss = CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-4)
    >>> loss
    CrossEntropyLoss(z_loss=0.0001)
    >>> print(f"{loss(torch.zeros(2, 4), torch.tensor([0, 3])):.6f}")
    1.386487
    """

    _defaults: ClassVar[dict[str, Any]] = {
        "z_loss": 0.0,
        "temperature": 1.0,
        "softcap": None,
        "normalizer": None,
        "out_dtype": None,
        "empty": "nan",
        "kernel": None,
    }

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        temperature: float = 1.0,
        softcap: float | None = None,
        normalizer: Normalizer = None,
        out_dtype: torch.dtype | None = None,
        empty: Empty = "nan",
        kernel: str | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self._keep(
            z_loss=z_loss,
            temperature=temperature,
            softcap=softcap,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: Normalizer = None,
    ) -> Tensor:
        """Return the loss; `normalizer`, if given, overrules the module's for this call."""
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            row_weight=row_weight,
            **self._options(normalizer),
        )


class NLLLoss(_Options, torch.nn.NLLLoss):
    """`nll_loss` as a module; a drop-in for `torch.nn.NLLLoss`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction
        As torch's, in their places.
    normalizer, out_dtype, empty
        As for `nll_loss`.

    Examples
    --------
    >>> print(f"{NLLLoss()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])):.6f}")
    1.386294
    """

    _defaults: ClassVar[dict[str, Any]] = {"normalizer": None, "out_dtype": None, "empty": "nan"}

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        normalizer: Normalizer = None,
        out_dtype: torch.dtype | None = None,
        empty: Empty = "nan",
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self._keep(normalizer=normalizer, out_dtype=out_dtype, empty=empty)

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: Normalizer = None,
    ) -> Tensor:
        """Return the loss; `normalizer`, if given, overrules the module's for this call."""
        return functional.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            row_weight=row_weight,
            **self._options(normalizer),
        )


class BCELoss(_Options, torch.nn.BCELoss):
    """`binary_cross_entropy` as a module; a drop-in for `torch.nn.BCELoss`.

    Parameters
    ----------
    weight, size_average, reduce, reduction
        As torch's, in their places.
    clamp, normalizer, out_dtype, empty
        As for `binary_cross_entropy`.

    Examples
    --------
    >>> print(BCELoss(clamp=None)(torch.tensor([0.0]), torch.tensor([1.0])))
    tensor(inf)
    """

    _defaults: ClassVar[dict[str, Any]] = {
        "clamp": -100.0,
        "normalizer": None,
        "out_dtype": None,
        "empty": "nan",
    }

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        clamp: float | None = -100.0,
        normalizer: Normalizer = None,
        out_dtype: torch.dtype | None = None,
        empty: Empty = "nan",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self._keep(clamp=clamp, normalizer=normalizer, out_dtype=out_dtype, empty=empty)

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        *,
        normalizer: Normalizer = None,
    ) -> Tensor:
        """Return the loss; `normalizer`, if given, overrules the module's for this call."""
        return functional.binary_cross_entropy(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            **self._options(normalizer),
        )


class BCEWithLogitsLoss(_Options, torch.nn.BCEWithLogitsLoss):
    """`binary_cross_entropy_with_logits` as a module; for `torch.nn.BCEWithLogitsLoss`.

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        As torch's, in their places.
    label_smoothing, normalizer, out_dtype, empty, kernel
        As for `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> print(f"{BCEWithLogitsLoss()(torch.tensor([0.0]), torch.tensor([1.0])):.6f}")
    0.693147
    """

    _defaults: ClassVar[dict[str, Any]] = {
        "label_smoothing": 0.0,
        "normalizer": None,
        "out_dtype": None,
        "empty": "nan",
        "kernel": None,
    }

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        normalizer: Normalizer = None,
        out_dtype: torch.dtype | None = None,
        empty: Empty = "nan",
        kernel: str | None = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self._keep(
            label_smoothing=label_smoothing,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        *,
        normalizer: Normalizer = None,
    ) -> Tensor:
        """Return the loss; `normalizer`, if given, overrules the module's for this call."""
        return functional.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            **self._options(normalizer),
        )


class KLDivLoss(_Options, torch.nn.KLDivLoss):
    """`kl_div` as a module; a drop-in for `torch.nn.KLDivLoss`.

    Parameters
    ----------
    size_average, reduce, reduction, log_target
        As torch's, in their places.
    normalizer, out_dtype, empty
        As for `kl_div`.

    Examples
    --------
    >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    >>> print(f"{KLDivLoss(reduction='batchmean')(q.log(), p):.6f}")
    0.143841
    """

    _defaults: ClassVar[dict[str, Any]] = {"normalizer": None, "out_dtype": None, "empty": "nan"}

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
        *,
        normalizer: float | Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        empty: Empty = "nan",
    ) -> None:
        super().__init__(size_average, reduce, reduction, log_target)
        self._keep(normalizer=normalizer, out_dtype=out_dtype, empty=empty)

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        *,
        normalizer: Normalizer = None,
    ) -> Tensor:
        """Return the loss; `normalizer`, if given, overrules the module's for this call."""
        return functional.kl_div(
            input,
            target,
            reduction=self.reduction,
            log_target=self.log_target,
            **self._options(normalizer),
        )
