"""Results on disk: one JSON line for a measurement, with the machine and versions it is true of."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "ROOT",
    "provenance",
    "read",
    "replace_part",
    "replace_text",
    "seconds_in_words",
    "show_progress",
    "write",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "numpy", "array-api-strict", "torch", "numba", "jax", "scipy", "scikit-learn", "mpmath",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Return what a measurement depends on besides the code: machine, versions, commit, date."""
    return {
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "python": platform.python_version(),
        "versions": dict(_versions()),
        **_commit(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    # Only what the numbers come from: a changed page or result does not change them.
    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py", "tests")
    return {"commit": commit, "modified": None if changed is None else bool(changed)}


def write(path: Path, measurements: Iterable[dict[str, Any]]) -> None:
    """Replace a file of JSON lines; infinities become the strings "inf" and "nan"."""
    common = provenance()
    lines = [
        json.dumps({**_strict(m), **common}, ensure_ascii=False, allow_nan=False)
        for m in measurements
    ]
    replace_text(path, "\n".join(lines) + "\n")


def _strict(measurement: dict[str, Any]) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in measurement.items()
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines as `write` writes them."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def replace_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def replace_part(text: str, name: str, part: str) -> str:
    """Return a page with what stands between its comments ``name`` and ``/name`` replaced."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, rest = text.split(start)
    _, tail = rest.split(end)
    return f"{head}{start}{part}{end}{tail}"


def seconds_in_words(seconds: float) -> str:
    """Return a time with its unit, in three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def show_progress(text: str) -> None:
    """Show what is being measured, where a person watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
