"""Every error that xent raises on purpose.

The tree, each also a subclass of the built-in that callers already catch::

    XentError
    ├── DistributionError (ValueError)   negative, NaN, infinite or unnormalised probabilities
    ├── LogitError (ValueError)          NaN or +∞ logits, a row in which every class is masked
    ├── TargetError (ValueError)         class indices or labels outside what the call allows
    ├── ShapeError (ValueError)          arrays that do not fit together, or are empty
    ├── OptionError (ValueError)         an option outside its domain
    ├── TableError (ValueError)          a file, table or column that cannot be read as it should
    ├── ModelError (ValueError)          a model file that cannot be read
    ├── CodeError (ValueError)           symbols without a code, or a code that cannot be decoded
    └── MissingExtraError (ImportError)  an optional dependency that is not installed

and one warning, `InfiniteLossWarning`, for a loss that is +∞ because P(truth) = 0.

Each message says what was expected, what came, where, and ends in a hint.
"""

from __future__ import annotations

__all__ = [
    "CodeError",
    "DistributionError",
    "InfiniteLossWarning",
    "LogitError",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "ShapeError",
    "TableError",
    "TargetError",
    "XentError",
]


class XentError(Exception):
    """The root of the tree: catches everything that xent raises on purpose."""


class DistributionError(XentError, ValueError):
    """Numbers that are not a probability distribution."""


class LogitError(XentError, ValueError):
    """Logits that no softmax or sigmoid is defined for."""


class TargetError(XentError, ValueError):
    """A target or a label outside what the call allows."""


class ShapeError(XentError, ValueError):
    """Arrays whose shapes do not fit together, or that are empty."""


class OptionError(XentError, ValueError):
    """An option outside its domain."""


class TableError(XentError, ValueError):
    """A file, table or column that cannot be read as predictions or features."""


class ModelError(XentError, ValueError):
    """A file that cannot be read as a model."""


class CodeError(XentError, ValueError):
    """Symbols that have no code, or a code that is cut off, damaged or none at all."""


class MissingExtraError(XentError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed. "
            f"Hint: pip install 'xent[{extra}]'"
        )


class InfiniteLossWarning(UserWarning):
    """Some rows gave the truth a probability of exactly 0, so the loss is +∞."""
