"""Units of information: the only place where the base of a logarithm changes."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from xent.errors import OptionError

__all__ = ["Unit", "from_nats", "surprisal_in"]

Unit = Literal["nats", "bits", "bans"]

_NATS_PER = {"nats": 1.0, "bits": math.log(2.0), "bans": math.log(10.0)}


def from_nats(nats: Any, unit: str) -> Any:
    """Convert an amount of information from nats.

    One bit is ln 2 nats (the answer to a fair yes-or-no question), one ban is ln 10 nats (a
    decimal digit).

    Parameters
    ----------
    nats
        A number or an array of any library.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Raises
    ------
    OptionError
        If `unit` is none of the three.

    Examples
    --------
    >>> from_nats(math.log(8), "bits")
    3.0
    """
    _require_unit(unit)
    return nats if unit == "nats" else nats / _NATS_PER[unit]


def surprisal_in(xp: Any, p: Any, unit: str) -> Any:
    """Return −log p in a unit, by that unit's own logarithm: exact for powers of its base."""
    _require_unit(unit)
    logarithm = {"nats": xp.log, "bits": xp.log2, "bans": xp.log10}[unit]
    return 0.0 - logarithm(p)


def _require_unit(unit: Any) -> None:
    if not isinstance(unit, str) or unit not in _NATS_PER:
        units = ", ".join(repr(name) for name in get_args(Unit))
        raise OptionError(
            f"unit must be one of {units}: got {unit!r}. "
            "Hint: logarithms to base 2 give bits, to base e nats, to base 10 bans."
        )
