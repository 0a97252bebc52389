"""Reports for people."""

from __future__ import annotations

from xent.report.compare_text import render_comparison
from xent.report.fit_text import render_fit
from xent.report.markdown import render_comparison_markdown, render_markdown
from xent.report.measure_text import render_measure
from xent.report.page import render_comparison_page, render_page
from xent.report.text import render_text

__all__ = [
    "render_comparison",
    "render_comparison_markdown",
    "render_comparison_page",
    "render_fit",
    "render_markdown",
    "render_measure",
    "render_page",
    "render_text",
]
