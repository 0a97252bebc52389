"""The tests' own oracle, array libraries, cases and bounds, so that no benchmark has others."""

from __future__ import annotations

import sys

from benchmarks.results import ROOT

if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))

import libraries
import oracle
import test_accuracy as losses
import test_information as measures

__all__ = ["libraries", "losses", "measures", "oracle"]
