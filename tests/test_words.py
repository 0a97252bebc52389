"""Words are checked like code: the picture, the commands and the figures of the README."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks import rows_page
from benchmarks.results import read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_readmes_picture_is_what_the_command_prints(at_root):
    spec = importlib.util.spec_from_file_location("picture", ROOT / "tools" / "picture.py")
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    assert picture.draw() == picture.TARGET.read_text(encoding="utf-8")


def test_the_first_commands_of_the_readme_are_demo_and_test():
    commands = re.findall(r"^(make \w+|\.venv/bin/\S+)", README, flags=re.MULTILINE)
    assert commands[:3] == ["make demo", "make test", ".venv/bin/xent"]


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/design.md"]
)
def test_every_linked_file_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert all(((ROOT / page).parent / link).exists() for link in links), links


def test_the_design_page_shows_every_file_of_the_house():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "xent"
    private = {"__init__.py", "__main__.py"}
    files = {p.name for p in source.rglob("*.py") if p.name not in private}
    assert {name for name in files if name not in page} == set()


def test_every_make_target_named_in_words_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"`?make ([a-z]+)", page)) <= targets


def test_the_readmes_times_are_those_of_the_results():
    lines = read(ROOT / "benchmarks" / "results" / "rows.jsonl")
    assert rows_page.render_readme(README, lines) == README
