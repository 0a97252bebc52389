"""Options of codes that are whole numbers."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from xent.errors import OptionError

__all__ = ["whole_number"]


def whole_number(name: str, value: Any, least: int, most: int, hint: str) -> int:
    """Return an option as a whole number, refused outside its domain.

    Raises
    ------
    OptionError
        If it is no whole number, or too small or large.
    """
    known = not isinstance(value, bool | np.bool_) and hasattr(value, "__index__")
    found = operator.index(value) if known else 0
    if not known or not least <= found <= most:
        raise OptionError(
            f"{name} must be a whole number from {least} to {most}: got {value!r}. Hint: {hint}"
        )
    return found
