"""Reports for people."""

from __future__ import annotations

from xent.report.text import render_text

__all__ = ["render_text"]
