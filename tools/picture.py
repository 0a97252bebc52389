"""Draw docs/score.svg, the README's picture: what `xent score examples/predictions.csv` prints.

Run from the project's root: ``python tools/picture.py``. A test holds that it is up to date.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from xent.report import render_text
from xent.scoring import score

PROMPT = ' class="prompt"'
TARGET = Path("docs/score.svg")
STYLE = """
  rect { fill: #ffffff; stroke: #d0d7de } text { font: 13px ui-monospace, Menlo, Consolas,
  'DejaVu Sans Mono', monospace; fill: #1f2328; white-space: pre }
  .prompt { font-weight: bold }
  @media (prefers-color-scheme: dark) {
    rect { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } }
"""


def draw() -> str:
    """Return the picture as SVG text."""
    command = "$ xent score examples/predictions.csv"
    report = render_text(score("examples/predictions.csv"), width=100)
    lines = [command, *(line.rstrip() for line in report.rstrip().splitlines())]
    width, height = 8 * max(map(len, lines)) + 32, 18 * len(lines) + 28
    rows = [
        f'<text x="16" y="{18 * number + 28}"{PROMPT if number == 0 else ""}>'
        f"{escape(line, quote=False)}</text>"
        for number, line in enumerate(lines)
    ]
    space = 'xmlns="http://www.w3.org/2000/svg" xml:space="preserve"'
    head = f'<svg {space} viewBox="0 0 {width} {height}" width="{width}">'
    frame = f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", frame, *rows, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
    print(f"wrote {TARGET}")
