"""How the loops of codes are compiled."""

from __future__ import annotations

from typing import Any

from xent.errors import MissingExtraError

try:
    import numba
except ImportError:
    raise MissingExtraError("numba", "coding") from None

__all__ = ["compiled"]


def compiled(function: Any) -> Any:
    """Compile a function on first use, and keep it for later processes.

    Where neither the package's folder nor the user's can be written to, it is compiled each time.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba: no locator available
        return numba.njit(nogil=True)(function)
