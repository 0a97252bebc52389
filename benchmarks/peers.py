"""The same rows by other ways: the naive formula in the inputs' dtype, and installed peers."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import xent
from benchmarks.errors import excused
from benchmarks.proof import libraries, losses, oracle
from benchmarks.results import show_progress
from xent.losses.cases import CASES, LOSS_ULPS, SMALLEST

__all__ = ["Comparison", "compare_all"]

to_numpy = libraries.to_numpy
COMPARED = [
    case for case in CASES if not set(case.options) - {"temperature"} and case.build()[1].ndim == 1
]
"""Plain rows: hard targets, at most a temperature, which every peer can be given."""


@dataclass(frozen=True)
class Comparison:
    """How one system does on the compared rows, in ulp of what xent returns for that dtype.

    Attributes
    ----------
    system, library, dtype
        Who, on whose arrays, and the dtype of the inputs.
    rows
        How many rows it was given.
    wrong
        Rows that are NaN, infinite where the loss is finite, or finite where it is infinite.
    beyond
        Further rows that are off by more than `LOSS_ULPS` ulp.
    median, worst
        Error of the rows that are not `wrong`.
    """

    system: str
    library: str
    dtype: str
    rows: int
    wrong: int
    beyond: int
    median: float
    worst: float

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        return asdict(self)


Loss = Callable[[Any, Any, np.ndarray[Any, Any], float], Any]
"""``loss(library, logits, targets, temperature)``: the loss of each row."""


def _xent(_: Any, z: Any, y: Any, temperature: float) -> Any:
    return xent.softmax_cross_entropy(z, y, temperature=temperature, reduction="none")


def _naive(library: Any, z: Any, y: Any, temperature: float) -> Any:
    """Compute log Σ exp(z) − z_y as it stands."""
    xp = _namespace(library, z)
    z = z / temperature
    at_target = library.make(np.arange(z.shape[-1]) == np.asarray(y)[:, None])
    chosen = xp.sum(xp.where(at_target, z, xp.zeros_like(z)), axis=-1)
    return xp.log(xp.sum(xp.exp(z), axis=-1)) - chosen


def _namespace(library: Any, z: Any) -> Any:
    if library.name == "numpy":
        return np
    if library.name == "torch":
        return libraries.torch
    if library.name.startswith("jax"):
        return libraries.jnp
    return z.__array_namespace__()


def _torch(library: Any, z: Any, y: Any, temperature: float) -> Any:
    functional = libraries.torch.nn.functional
    return functional.cross_entropy(z / temperature, library.make(y), reduction="none")


def _jax(library: Any, z: Any, y: Any, temperature: float) -> Any:
    logs = libraries.jax.nn.log_softmax(z / temperature)
    return -logs[np.arange(len(y)), library.make(y)]


def _scipy(_: Any, z: Any, y: Any, temperature: float) -> Any:
    from scipy.special import log_softmax

    return -log_softmax(z / z.dtype.type(temperature), axis=-1)[np.arange(len(y)), y]


def _sklearn(_: Any, z: Any, y: Any, temperature: float) -> Any:
    """Score softmax probabilities, which is how logits get there; it needs two classes."""
    from scipy.special import softmax
    from sklearn.metrics import log_loss

    classes = range(z.shape[-1])
    chances = softmax(z / z.dtype.type(temperature), axis=-1)
    return np.array(
        [log_loss([t], p[None], labels=classes) for t, p in zip(y, chances, strict=True)]
    )


PEERS: tuple[tuple[str, str, tuple[str, ...], str | None, Loss], ...] = (
    ("xent.softmax_cross_entropy", "", (), None, _xent),
    ("log(sum(exp(z))) − z[y]", "", (), None, _naive),
    ("torch.nn.functional.cross_entropy", "torch", (), None, _torch),
    ("jax.nn.log_softmax", "jax", (), None, _jax),
    ("scipy.special.log_softmax", "numpy", ("float32", "float64"), "scipy", _scipy),
    ("sklearn.metrics.log_loss", "numpy", ("float32", "float64"), "sklearn", _sklearn),
)
"""Name, whose arrays it takes, its dtypes (all where none), the package it needs, the function."""


def _compare(system: str, loss: Loss, library: Any, dtype: str) -> Comparison:
    errors = []
    for case in COMPARED:
        z, _, exact_z, y = losses.rows_of(case, library, dtype)
        if loss is _sklearn and exact_z.shape[1] < 2:
            continue
        given = library.make(y) if loss is _xent else y
        got = to_numpy(loss(library, z, given, case.options.get("temperature", 1.0)))
        smallest = SMALLEST * exact_z.shape[1] if library.flushes else 0.0
        truths = [row[0] for row in losses.exact_rows(case, exact_z, y)]
        for value, truth in zip(got, truths, strict=True):
            ulps = oracle.ulps(value, truth, losses.result_dtype(dtype))
            flushed = excused(value, truth, ulps, LOSS_ULPS, smallest)
            errors.append(0.0 if flushed else ulps)
    finite = np.array([e for e in errors if np.isfinite(e)])
    return Comparison(
        system=system,
        library=library.name,
        dtype=dtype,
        rows=len(errors),
        wrong=len(errors) - len(finite),
        beyond=int(np.sum(finite > LOSS_ULPS)),
        median=float(np.median(finite)),
        worst=float(np.max(finite)),
    )


def compare_all() -> Iterator[Comparison]:
    """Compare every system on the dtypes of the libraries whose arrays it takes."""
    for system, owner, dtypes, package, loss in PEERS:
        if package and importlib.util.find_spec(package) is None:
            continue
        for library in libraries.LIBRARIES:
            if not library.name.startswith(owner) or (owner == "numpy" != library.name):
                continue
            for dtype in dtypes or library.dtypes:
                show_progress(f"{system}: {library.name}, {dtype}")
                with library.context(), np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # peers warn of what is being measured
                    yield _compare(system, loss, library, dtype)
