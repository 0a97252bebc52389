"""The checksum of files: CRC-32C."""

from __future__ import annotations

from typing import Any

from xent.errors import MissingExtraError

__all__ = ["crc32c"]


def crc32c(data: Any, before: int = 0) -> int:
    """Return the CRC-32C (Castagnoli, RFC 3720) of bytes behind others whose own is `before`."""
    try:
        import google_crc32c
    except ImportError:
        raise MissingExtraError("google-crc32c", "coding") from None
    found: int = google_crc32c.extend(before, bytes(data) if not isinstance(data, bytes) else data)
    return found
