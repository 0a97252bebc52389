"""Codes as text for a terminal: where their bytes go, and whose model fits a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent.report.wording import count, plain

if TYPE_CHECKING:
    from xent.coding import Accounting, Matrix

__all__ = ["render_accounting", "render_matrix"]

_WORDS = {
    "payload": "payload, n·H(P, Q)",
    "integer_rounding": "rounding to whole frequencies",
    "padding": "padding, the blocks' last states",
    "tables": "the model",
    "headers": "headers and checksums",
}
_SHARED = {"payload": "payload, n·H(P, Q̂)", "tables": "the model's fingerprint"}


def render_accounting(told: Accounting) -> str:
    """Return where the bytes of a code go.

    Examples
    --------
    >>> from xent.coding import account
    >>> print(render_accounting(account(b"abracadabra" * 1000, order=0)))
    11,000 bytes become 2,909, 2.1156 bits for each; ...
    """
    model = "a shared model" if told.shared else "a model of its own"
    given = ("no byte before", "the byte before", "the two bytes before")[told.order]
    head = (
        f"{count(told.symbols, 'byte')} become {told.total_bytes:,}, {told.bits_per_symbol:.4f} "
        f"bits for each; order {told.order}, {model} with {count(told.rows, 'row')}, "
        f"{count(told.blocks, 'block')}"
    )
    lines = [
        head,
        "",
        "  bits a byte",
        f"    {told.entropy_bits_per_symbol:10.4f}  entropy of the file, given {given}",
        f"    {told.cross_entropy_bits_per_symbol:10.4f}  cross-entropy under the model",
        f"    {told.kl_bits_per_symbol:10.4f}  Kullback–Leibler divergence, the difference",
        "",
        "  bytes of the code",
    ]
    whole = max(1.0, 8.0 * told.total_bytes)
    for name, bits in told.parts.items():
        if told.shared and name == "integer_rounding":  # such a model is its whole frequencies
            continue
        what = (_SHARED if told.shared else {}).get(name, _WORDS[name])
        lines.append(f"    {bits / 8.0:14,.1f}  {100.0 * bits / whole:6.2f} %  {what}")
    lines.append(f"    {told.total_bytes:14,.1f}  100.00 %  in all")
    return "\n".join(lines) + "\n"


def render_matrix(found: Matrix) -> str:
    """Return the cross-entropies of files under each other's models, and which is closest.

    Examples
    --------
    >>> from xent.coding import cross_entropy_matrix
    >>> files = {"a": b"to be or not" * 9, "b": b"not to be or" * 9, "zeros": bytes(99)}
    >>> print(render_matrix(cross_entropy_matrix(files, order=1)))
    bits a byte of each file (down) under the model of each (across), order 1
    ...
    """
    names = [plain(name) for name in found.names]
    wide = max(len(name) for name in names)
    columns = [max(6, min(len(name), 12)) for name in names]
    head = "  ".join(
        (name if len(name) <= c else f"{name[: c - 1]}…").rjust(c)
        for name, c in zip(names, columns, strict=True)
    )
    lines = [
        f"bits a byte of each file (down) under the model of each (across), order {found.order}",
        "",
        f"{'':{wide}}  {head}  {'closest other'}",
    ]
    for row, name in enumerate(names):
        cells = "  ".join(
            f"{value:{c}.3f}" for value, c in zip(found.bits[row], columns, strict=True)
        )
        other, bits = found.closest(found.names[row])
        lines.append(f"{name:{wide}}  {cells}  {plain(other)}, {bits - found.bits[row, row]:+.3f}")
    gap = np.median((found.bits - np.diag(found.bits)[:, None])[~np.eye(len(names), dtype=bool)])
    lines += ["", f"The wrong model costs {gap:.3f} bits a byte more than a file's own (median)."]
    return "\n".join(lines) + "\n"
