r"""Formulas as MathML when the documentation is built: pages show them without any script.

An extension of Python-Markdown, named in mkdocs.yml. In pages, ``$…$`` stands within a line and
``$$…$$`` is a paragraph of its own, as on GitHub; in docstrings, ``:math:`…``` and ``.. math::``
are the same two. A command that is not known ends the build.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

INLINE = r"(?<![\\$\w])\$(?![\s$])([^$\n]*[^\s$\\])\$(?![$\w])"
ROLE = r":math:`([^`]+)`"
DISPLAY = re.compile(r"\A(?:\$\$(?P<dollars>.+?)\$\$|\.\. math::(?P<directive>.+))\s*\Z", re.DOTALL)
# "y log x", not "ylogx": browsers put no space around the name of a function.
_NAME = r"<mi>(?:log|ln|exp|max|min)</mi>|<msub><mi>log</mi><mn>\w+</mn></msub>"
_OPERAND = r"</mi>|</mn>|</msub>|</msup>|</mfrac>|&#x00029;</mo>"
NAMES = (re.compile(rf"({_OPERAND})(?={_NAME})"), re.compile(rf"({_NAME})(?!<mo|</)"))


def mathml(latex: str, *, display: bool = False) -> str:
    """Return a formula as one line of MathML.

    Raises
    ------
    ValueError
        If a command or an environment is not known.
    """
    text = convert(" ".join(latex.split()), display="block" if display else "inline")
    if "\\" in text or re.search(r"&(?!#?\w+;)", text):
        raise ValueError(f"LaTeX must use commands that MathML has: got {latex!r}")
    for place in NAMES:
        text = place.sub(r'\1<mspace width="0.17em"/>', text)
    return text


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int, int]:  # noqa: N802
        return self.md.htmlStash.store(mathml(m[1])), m.start(0), m.end(0)


class _Display(BlockProcessor):
    def test(self, parent: ET.Element, block: str) -> bool:
        return DISPLAY.match(block) is not None

    def run(self, parent: ET.Element, blocks: list[str]) -> None:
        found = DISPLAY.match(blocks.pop(0))
        latex = found["dollars"] or found["directive"]
        stash = self.parser.md.htmlStash
        element = ET.SubElement(parent, "div", {"class": "formula"})
        element.text = AtomicString(stash.store(mathml(latex, display=True)))


class Formulas(Extension):
    """The forms of a formula, for Python-Markdown."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register them before anything else that reads a dollar, an underscore or a colon."""
        md.parser.blockprocessors.register(_Display(md.parser), "formulas", 95)
        md.inlinePatterns.register(_Inline(ROLE, md), "formula role", 195)  # before `code`
        md.inlinePatterns.register(_Inline(INLINE, md), "formula", 185)  # after it


def makeExtension(**options: Any) -> Formulas:  # noqa: N802
    """Return the extension, as Python-Markdown asks for it."""
    return Formulas(**options)
