r"""Whose language is it: the cross-entropy of each file under the model of each other.

A model is fitted to each file, and says what every file costs with it, in bits a byte. A file is
closest to the one whose model codes it shortest. This is done on prices, those of a file as one
block, and nothing is encoded.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xent.coding.context_model import ContextModel, Counts, as_bytes
from xent.coding.options import whole_number
from xent.errors import OptionError

__all__ = ["BLOCK", "TEMPERATURE", "Classified", "Matrix", "classify", "cross_entropy_matrix"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BLOCK, TEMPERATURE = 256, 8.0
"""Bytes of a block of evidence, and what its nats are divided by, where the caller names none."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Cross-entropies of files under each other's models.

    Attributes
    ----------
    names
        The files' names.
    order
        How many bytes before a byte the models look at.
    bits
        Bits a byte of each file (rows) under the model of each (columns).   float64 (n, n)
    entropies
        Bits a byte of each file given its contexts, under relative frequencies of its own.   (n,)
    sizes
        Bytes of each file.
    """

    names: tuple[str, ...]
    order: int
    bits: Array
    entropies: Array
    sizes: tuple[int, ...]

    @property
    def kl(self) -> Array:
        """What another model costs more than relative frequencies of one's own, in bits a byte."""
        return np.maximum(0.0, self.bits - self.entropies[:, None])

    def closest(self, name: str) -> tuple[str, float]:
        """Return the other file whose model codes a file shortest, and the bits a byte.

        Raises
        ------
        OptionError
            If there is no such file.
        """
        if name not in self.names:
            raise OptionError(
                f"name must be that of a file: got {name!r}. Hint: there are "
                f"{', '.join(self.names)}."
            )
        row = self.names.index(name)
        others = [i for i in range(len(self.names)) if i != row]
        best = min(others, key=lambda i: self.bits[row, i])
        return self.names[best], float(self.bits[row, best])

    def as_dict(self) -> dict[str, Any]:
        """Return the matrix as a JSON object."""
        return {
            "names": list(self.names),
            "bytes": list(self.sizes),
            "order": self.order,
            "cross_entropy_bits_per_byte": self.bits.tolist(),
            "entropy_bits_per_byte": self.entropies.tolist(),
            "kl_bits_per_byte": self.kl.tolist(),
        }


def cross_entropy_matrix(files: Mapping[str, Any], *, order: int = 2) -> Matrix:
    """Return the cross-entropy of each file under the model of each other, in bits a byte.

    Parameters
    ----------
    files
        Names and bytes. None may be empty.
    order
        How many bytes before a byte the models look at, 0 to 2.

    Notes
    -----
    Models are `ContextModel.fit` with its escape, so every byte has a price: a byte that did not
    follow a context costs the escape's −log₂(d/(n + d)), of n bytes and d different ones that
    did, and then what the shorter context takes.

    Raises
    ------
    OptionError
        If there are fewer than two files, or one is empty.

    Examples
    --------
    >>> from xent.coding import cross_entropy_matrix
    >>> files = {"a": b"to be or not to be" * 20, "b": b"not to be or to be" * 20, "c": bytes(99)}
    >>> found = cross_entropy_matrix(files, order=1)
    >>> print(found.closest("a")[0], found.bits[0].round(2))
    b [ 1.56  1.81 14.64]
    """
    if len(files) < 2:
        raise OptionError(
            f"there must be two files or more to be compared: got {len(files)}. "
            "Hint: `xent code account` looks at one."
        )
    counted = {}
    sizes = []
    for name, data in files.items():
        counted[name] = Counts(order)
        counted[name].add(_some(name, data))
        sizes.append(counted[name].total)  # which gathers the contexts that are there
    bits = np.empty((len(files), len(files)))
    for column, own in enumerate(counted.values()):
        model = ContextModel.fit(own)
        for row, counts in enumerate(counted.values()):
            bits[row, column] = model.price_of(counts) / sizes[row]
    entropies = [c.entropy_bits() / size for c, size in zip(counted.values(), sizes, strict=True)]
    return Matrix(tuple(files), int(order), bits, np.array(entropies), tuple(sizes))


def _some(name: str, data: Any) -> Array:
    found = as_bytes(data)
    if not found.size:
        raise OptionError(
            f"every file must have a byte: {name!r} is empty. Hint: leave it out; bits a byte are "
            "not defined for nothing."
        )
    return found


@dataclass(frozen=True)
class Classified:
    """What a file is, by the models of what it could be.

    Attributes
    ----------
    name
        The model that codes it shortest.
    bits
        Bits a byte under each model, by name.
    probabilities
        By name; they sum to 1.
    """

    name: str
    bits: dict[str, float]
    probabilities: dict[str, float]


def classify(
    data: Any,
    models: Mapping[str, ContextModel],
    *,
    block: int = BLOCK,
    temperature: Any = TEMPERATURE,
) -> Classified:
    r"""Return which model codes bytes shortest, and how probable each is.

    Parameters
    ----------
    data
        The bytes; at least one.
    models
        Names and models; at least two.
    block
        Bytes of a block of evidence.
    temperature
        What the nats of a block are divided by; above 0.

    Notes
    -----
    The likelihoods of whole files differ by thousands of bits, so that their posterior is 0 or 1
    whatever the file: bytes are not independent given a model that looks back by two. So each block
    votes with a posterior of its own, tempered, under equal priors, and a probability is the mean
    of the votes by their bytes:

    .. math:: p_m = \sum_b \frac{n_b}{n} \frac{2^{-L_{bm}/T}}{\sum_k 2^{-L_{bk}/T}}

    with L the bits of block b under model m. The probabilities tell how much of the file
    looks like what; how well they are calibrated, `xent score` measures.

    Raises
    ------
    OptionError
        If there are fewer than two models, no bytes, or an option is outside its domain.

    Examples
    --------
    >>> from xent.coding import ContextModel, classify
    >>> models = {"words": ContextModel.of(b"to be or not"), "zeros": ContextModel.of(bytes(99))}
    >>> found = classify(b"not to be", models)
    >>> print(found.name, round(found.bits["words"], 2), round(found.probabilities["words"], 4))
    words 5.93 0.9989
    """
    if len(models) < 2:
        raise OptionError(
            f"there must be two models or more to choose from: got {len(models)}. "
            "Hint: `xent code train FILES -o NAME.model` makes one for each."
        )
    block = whole_number("block", block, 1, 2**62, f"{BLOCK} is usual.")
    heat = float(temperature) if isinstance(temperature, numbers.Real) else math.nan
    if not 0.0 < heat < math.inf:
        raise OptionError(
            f"temperature must be above 0 and finite: got {temperature!r}. "
            f"Hint: {TEMPERATURE:g} is usual, and 1 is none."
        )
    own = _some("data", data)
    prices = np.stack([model.piece_prices(own, block) for model in models.values()], axis=1)
    least = prices.min(axis=1, keepdims=True)
    # Of a block that no model has a code for, nothing is learned.
    none = np.isinf(least)
    more = np.where(none, 0.0, prices - np.where(none, 0.0, least))
    with np.errstate(over="ignore"):  # beyond all numbers is ∞, and its share 0
        shares = np.exp(-more * math.log(2.0) / heat)
    shares /= shares.sum(axis=1, keepdims=True)
    sizes = np.full(prices.shape[0], float(block))
    sizes[-1] = own.size - block * (prices.shape[0] - 1)
    mean = sizes @ shares / own.size
    bits = prices.sum(axis=0) / own.size
    names = list(models)
    return Classified(
        names[int(np.argmin(bits))],
        dict(zip(names, bits.tolist(), strict=True)),
        dict(zip(names, (mean / mean.sum()).tolist(), strict=True)),
    )
