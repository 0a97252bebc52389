"""Measures of numbers, of columns of probabilities, and of columns of values."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from tables import csv_of, parquet_of

import xent
from xent import estimation
from xent.cli import main
from xent.errors import OptionError
from xent.report import render_measure
from xent.scoring import measures
from xent.scoring.measures import measure_columns, measure_numbers, measure_samples

ODD = 'a, "b" * c;'  # the name of a column
COLOURS = ["red"] * 6 + ["blue"] * 3 + ["green"]
SIZES = ["s", "s", "m", "s", "m", "s", "l", "l", "m", "l"]


def measured(capsys, *words):
    """Return the JSON of a command, which must be all that it prints."""

    def refuse(word):
        raise AssertionError(word)

    assert main(["measure", *map(str, words), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out, parse_constant=refuse)


def refused(capsys, *words):
    """Return the one message of a command that fails."""
    assert main(["measure", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xent: ")
    assert err.count("\n") == 1
    assert "Hint: " in err
    return err


@pytest.fixture
def table(tmp_path):
    quoted = ODD.replace('"', '""')
    rows = [f"{c},{s}" for c, s in zip(COLOURS, SIZES, strict=True)]
    return csv_of(tmp_path, [f'"{quoted}",size', *rows])


@pytest.fixture
def outcomes(tmp_path):
    return csv_of(tmp_path, ["p,q,r,w", "0.5,0.25,1,2", "0.25,0.75,0,1", "0.25,0,0,1"], "o.csv")


# ---- numbers ---------------------------------------------------------------------------------


def by_hand(measure, p, q):
    """The definition, in 60 digits."""
    with mpmath.workdps(60):
        p, q = ([mpmath.mpf(x) for x in numbers] for numbers in (p, q))
        log = mpmath.log

        def divergence(p, q):
            return mpmath.fsum(a * log(a / b) for a, b in zip(p, q, strict=True) if a)

        entropy = -mpmath.fsum(a * log(a) for a in p if a)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return float(
            {
                "entropy": lambda: entropy,
                "perplexity": lambda: mpmath.exp(entropy),
                "cross-entropy": lambda: entropy + divergence(p, q),
                "kl": lambda: divergence(p, q),
                "js": lambda: (divergence(p, middle) + divergence(q, middle)) / 2,
            }[measure]()
        )


P, Q = (0.75, 0.125, 0.125, 0.0), (0.25, 0.5, 0.125, 0.125)


@pytest.mark.parametrize("measure", ["entropy", "perplexity", "cross-entropy", "kl", "js"])
@pytest.mark.parametrize("unit", ["nats", "bits", "bans"])
def test_numbers_are_measured_by_the_definition(capsys, measure, unit):
    two = measure not in {"entropy", "perplexity"}
    words = ["--p", ",".join(map(str, P)), "--q", " ".join(map(str, Q))] if two else P
    units = [] if measure == "perplexity" else ["--unit", unit]
    found = measured(capsys, measure, *words, *units)
    per = 1.0 if measure == "perplexity" else {"nats": 1, "bits": math.log(2), "bans": math.log(10)}[unit]  # fmt: skip
    assert found["value"] == pytest.approx(by_hand(measure, P, Q) / per, rel=1e-14)
    assert found["unit"] == (None if measure == "perplexity" else unit)
    assert found["estimator"] is None
    assert found["infinite"] is False


def test_the_command_of_the_readme(capsys):
    assert main(["measure", "entropy", "0.7", "0.2", "0.1", "--unit", "bits"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("entropy  1.15677964945 bits\n  p: 3 numbers\n", "")


def test_numbers_may_be_spelt_in_several_ways(capsys):
    values = {
        measured(capsys, "kl", *words)["value"]
        for words in (
            ["--p", "0.5,0.5", "--q", "0.25,0.75"],
            ["--p", "0.5 0.5", "--q", "0.25, 0.75"],
            ["--p", "0.5", "--p", "0.5", "--q", "0.25", "--q", "0.75"],
            ["--p", "2,2", "--q", "1,3", "--normalize"],
        )
    }
    assert len(values) == 1


def test_mutual_information_of_a_joint_distribution(capsys):
    joint = [[0.5, 0.125], [0.125, 0.25]]
    found = measured(
        capsys, "mutual-information", "--joint", "0.5,0.125;0.125,0.25", "--unit", "bits"
    )
    x, y = np.sum(joint, axis=1), np.sum(joint, axis=0)
    hand = math.fsum(
        joint[i][j] * math.log2(joint[i][j] / (x[i] * y[j])) for i in (0, 1) for j in (0, 1)
    )
    assert found["value"] == pytest.approx(hand, rel=1e-13)
    weights = measured(capsys, "mutual-information", "--joint", "4 1; 1 2", "--normalize")
    assert weights["value"] == pytest.approx(hand * math.log(2), rel=1e-13)


def test_an_infinite_value_is_reported_with_its_symbols(capsys):
    words = ["kl", "--p", "0.5,0.25,0.25", "--q", "1,0,0"]
    found = measured(capsys, *words)
    assert found["value"] is None
    assert found["infinite"] is True
    assert found["unsupported"] == ["symbol 1", "symbol 2"]
    assert found["unsupported_mass"] == 0.5
    assert main(["measure", *words]) == 0
    out = capsys.readouterr().out
    assert "∞ nats" in out
    assert "infinite: q lacks symbol 1, symbol 2, 50 % of p" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["entropy", "0.5", "0.4"], "got 0.9"),
        (["entropy", "0.5", "0.4"], "--normalize"),
        (["entropy", "1.5", "-0.5"], "got -0.5 for symbol 1"),
        (["entropy", "nan", "1"], "got nan"),
        (["entropy", "inf", "0.5"], "got inf"),
        (["entropy"], "got none"),
        (["entropy", "half", "0.5"], "'half'"),
        (["entropy", "0.5", "0.5", "--bogus", "x"], "got '--bogus'"),
        (["perplexity", "1", "--unit", "bits"], "got '--unit'"),
        (["entropy", "0.5", "0.5", "--unit", "bytes"], "'bytes'"),
        (["entropy", "0", "0", "--normalize"], "positive, finite sum"),
        (["entropy", "0.5", "0.5", "--estimator", "plug_in"], "--estimator"),
        (["perplexity", "0.5", "0.5", "--missing", "drop"], "--missing"),
        (["kl", "--p", "0.5,0.5"], "no --q"),
        (["kl", "--p", "0.5,0.5", "--q", "1"], "same symbols"),
        (["kl", "--p", "0.5,0.5", "--q", "0.7,0.2"], "q must sum to 1"),
        (["kl", "--p", "0.5", "0.5", "--q", "0.5", "0.5"], "with commas between"),
        (["kl", "--p", "1", "--q", "1", "--smoothing", "1"], "--p-samples"),
        (["mutual-information", "--joint", "0.5,0.5;0"], "one length"),
        (["mutual-information", "--joint", ";"], "got none"),
        (["mutual-information", "--joint", "0.5,0.25"], "got 0.75"),
        (["mutual-information", "t.csv", "--joint", "1"], "without a file"),
        (["mutual-information", "--joint", "1", "--x", "a"], "--x"),
        (["mutual-information"], "--joint"),
    ],
)
def test_numbers_that_are_no_distribution_are_refused(capsys, words, said):
    assert said in refused(capsys, *words)


def test_one_certain_symbol_has_no_entropy(capsys):
    assert measured(capsys, "entropy", "1")["value"] == 0.0
    assert measured(capsys, "perplexity", "1")["value"] == 1.0


# ---- columns of probabilities ------------------------------------------------------------------


def test_columns_of_probabilities_are_distributions(capsys, outcomes):
    found = measured(capsys, "cross-entropy", outcomes, "--p", "q", "--q", "p")
    assert found["value"] == float(xent.cross_entropy([0.25, 0.75, 0.0], [0.5, 0.25, 0.25]))
    assert measured(capsys, "entropy", outcomes, "--p", "p", "--unit", "bits")["value"] == 1.5
    weighed = measured(capsys, "perplexity", outcomes, "--p", "w", "--normalize")
    assert weighed["value"] == pytest.approx(2**1.5, rel=1e-15)
    assert "divided by their sum" in weighed["reading"][0]
    assert measured(capsys, "js", outcomes, "--p", "p", "--q", "p")["value"] == 0.0


def test_an_infinite_value_names_rows(capsys, outcomes):
    found = measured(capsys, "kl", outcomes, "--p", "p", "--q", "r")
    assert (found["value"], found["unsupported"]) == (None, ["row 2", "row 3"])


def test_parquet_and_compressed_tables_are_read(tmp_path):
    path = parquet_of(tmp_path, p=[0.5, 0.25, 0.25], q=[1, 0, 0])
    assert measure_columns("entropy", path, "p", unit="bits").value == 1.5
    assert measure_columns("cross_entropy", path, "q", "p", unit="bits").value == 1.0
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(b"p\n0.5\n0.5\n"))
    assert measure_columns("perplexity", packed, "p").value == 2.0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["p,q", "0.5,1", ",0", "0.5,0"], "got nothing in row 2"),
        (["p,q", "1.5,1", "-0.5,0"], "got '-0.5' in row 2"),
        (["p,q", "half,1", "half,0"], "got 'half' in row 1 (2 rows in all)"),
        (["p,q", "inf,1"], "got 'inf'"),
        (["p,q", "0.5,1", "0.4,0"], "column 'p' of "),
        (["p,q", "0.5,1", "0.4,0"], "must sum to 1 within"),
        (["p,q"], "at least one row"),
        (["pp,q", "1,1"], "did you mean 'pp'"),
    ],
)
def test_a_column_that_is_no_distribution_is_refused(capsys, tmp_path, lines, said):
    assert said in refused(capsys, "kl", csv_of(tmp_path, lines), "--p", "p", "--q", "q")


def test_a_column_of_another_type_is_refused(capsys, tmp_path):
    path = parquet_of(tmp_path, p=[True, False], q="[0.5]")
    for name, kind in (("p", "BOOLEAN"), ("q", "DECIMAL")):
        message = refused(capsys, "entropy", path, "--p", name)
        assert "must hold numbers" in message
        assert kind in message


# ---- columns of values -------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["plug_in", "miller_madow", "chao_wang_jost"])
def test_the_values_of_a_column_are_counted(capsys, table, estimator):
    expected = estimation.entropy_from_samples(COLOURS, estimator=estimator, unit="bits")
    words = [table, "--column", ODD, "--estimator", estimator]
    found = measured(capsys, "entropy", *words, "--unit", "bits")
    assert found["value"] == pytest.approx(expected.value, rel=1e-14)
    assert found["estimator"] == estimator
    assert found["observations"] == [10]
    assert found["why_no_interval"] == expected.why_no_interval
    plug_in = estimation.entropy_from_samples(COLOURS, estimator="plug_in", unit="bits").value
    assert found["plug_in"] == pytest.approx(plug_in, rel=1e-14)
    perplexity = measured(capsys, "perplexity", *words)
    assert perplexity["value"] == pytest.approx(2**expected.value, rel=1e-14)
    assert main(["measure", "entropy", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert f"estimator: {estimator}" in out
    assert "10 rows, 3 different values, 1 of them seen once" in out
    assert expected.why_no_interval is not None
    assert f"no interval: {expected.why_no_interval}\n" in out


def test_a_large_sample_has_an_interval(tmp_path):
    path = csv_of(tmp_path, ["x", *("abc"[i % 3] for i in range(900))], "large.csv")
    expected = estimation.entropy_from_counts([300, 300, 300])
    assert expected.interval is not None
    found = measure_samples("entropy", path, "x")
    assert found.interval == expected.interval
    assert found.standard_error == expected.standard_error
    perplexity = measure_samples("perplexity", path, "x")
    assert perplexity.interval == tuple(map(math.exp, expected.interval))
    assert perplexity.standard_error is None
    assert "95 % interval: " in render_measure(perplexity)


@pytest.mark.parametrize("measure", ["cross-entropy", "kl"])
@pytest.mark.parametrize("smoothing", [None, 0.5])
def test_two_samples_are_compared_with_a_stated_smoothing(capsys, tmp_path, measure, smoothing):
    path = csv_of(tmp_path, ["now,before", "a,a", "a,b", "b,a", "c,a"])
    now, before = "aabc", "abaa"
    estimate = {
        "cross-entropy": estimation.cross_entropy_from_samples,
        "kl": estimation.kl_divergence_from_samples,
    }[measure](now, before, smoothing=smoothing or 0.0)
    words = [measure, path, "--p-samples", "now", "--q-samples", "before"]
    words += [] if smoothing is None else ["--smoothing", smoothing]
    found = measured(capsys, *words)
    assert found["unsupported"] == ["c"]
    assert found["unsupported_mass"] == 0.25
    assert found["smoothing"] == (smoothing or 0.0)
    assert found["alphabet_size"] == 3
    assert main(["measure", *map(str, words)]) == 0
    out = capsys.readouterr().out
    if smoothing is None:
        assert found["value"] is None
        assert "infinite: q lacks 'c', 25 % of p; --smoothing 0.5" in out
    else:
        assert found["value"] == pytest.approx(estimate.value, rel=1e-14)
        assert "0.5 added to the counts in q of 3 values" in out


def test_the_jensen_shannon_divergence_of_two_samples(capsys, tmp_path):
    path = csv_of(tmp_path, ["x,y", "a,a", "a,b", "b,b", "c,b"])
    found = measured(capsys, "js", path, "--p-samples", "x", "--q-samples", "y")
    shares = [0.5, 0.25, 0.25], [0.25, 0.75, 0.0]
    assert found["value"] == pytest.approx(by_hand("js", *shares), rel=1e-14)
    assert found["estimator"] == "plug_in"


@pytest.mark.parametrize("most", [10**7, 1])
def test_mutual_information_of_two_columns(capsys, table, monkeypatch, most):
    monkeypatch.setattr(measures, "_MOST_CELLS", most)
    found = measured(capsys, "mutual-information", table, "--x", ODD, "--y", "size")
    for key, estimator in (("value", "chao_wang_jost"), ("plug_in", "plug_in")):
        expected = estimation.mutual_information_from_samples(COLOURS, SIZES, estimator=estimator)
        assert found[key] == pytest.approx(expected.value, rel=1e-12)
    assert found["estimator"] == "chao_wang_jost"
    assert found["observations"] == [10]
    itself = measure_samples("mutual_information", table, "size", "size", estimator="plug_in")
    entropy = estimation.entropy_from_samples(SIZES, estimator="plug_in")
    assert itself.value == pytest.approx(entropy.value, rel=1e-14)


# ---- rows without a value ----------------------------------------------------------------------


def test_a_missing_value_is_refused_or_dropped_and_counted(capsys, tmp_path):
    path = csv_of(tmp_path, ["x,y", "a,u", ",v", "b,", "a,u", ",", "b,v"])
    message = refused(capsys, "entropy", path, "--column", "x")
    assert "column 'x' of " in message
    assert "got none in 2 rows; the first is row 2" in message
    found = measured(capsys, "entropy", path, "--column", "x", "--missing", "drop")
    assert (found["observations"], found["missing"]) == ([4], [2])
    assert "2 rows without a value left out" in found["reading"][0]
    assert found["plug_in"] == pytest.approx(math.log(2), rel=1e-15)
    samples = [path, "--p-samples", "x", "--q-samples", "y"]
    assert "column 'x' of " in refused(capsys, "js", *samples)
    assert measured(capsys, "js", *samples, "--missing", "drop")["missing"] == [2, 2]
    pairs = ["mutual-information", path, "--x", "x", "--y", "y"]
    assert "row 2" in refused(capsys, *pairs)
    found = measured(capsys, *pairs, "--missing", "drop", "--estimator", "plug_in")
    assert (found["observations"], found["missing"]) == ([3], [3])
    assert found["value"] == pytest.approx(math.log(3) - math.log(2) * 2 / 3, rel=1e-14)


def test_nan_is_missing_and_whole_floats_are_whole_numbers(tmp_path):
    path = parquet_of(
        tmp_path,
        x="CASE WHEN i < 5 THEN 'nan'::DOUBLE WHEN i < 10 THEN NULL WHEN i < 20 THEN -0.0::DOUBLE "
        "ELSE (i % 2)::DOUBLE END",
        y="CASE WHEN i < 30 THEN 0 ELSE 1 END",
    )
    found = measure_samples("kl_divergence", path, "x", "y", missing="drop")
    assert found.missing == (10, 0)
    assert found.observations == (50, 60)
    assert found.unsupported == ()
    expected = estimation.kl_divergence_from_counts([30, 20], [30, 30])
    assert found.value == pytest.approx(expected.value, rel=1e-14)


@pytest.mark.parametrize("lines", [["x,y"], ["x,y", ",a", ",b"]])
def test_a_column_without_values_is_refused(capsys, tmp_path, lines):
    path = csv_of(tmp_path, lines)
    for words in (["entropy", path, "--column", "x"], ["mutual-information", path, "--x", "y", "--y", "x"]):  # fmt: skip
        assert "got none" in refused(capsys, *words, "--missing", "drop")


def test_a_column_of_one_value_has_no_entropy(capsys, tmp_path):
    path = csv_of(tmp_path, ["x,y", "a,u", "a,v"])
    found = measured(capsys, "entropy", path, "--column", "x")
    assert (found["value"], found["plug_in"], found["interval"]) == (0.0, 0.0, None)
    found = measured(capsys, "mutual-information", path, "--x", "x", "--y", "y")
    assert found["value"] == pytest.approx(0.0, abs=1e-15)


# ---- which form is which -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["entropy", "TABLE"], "--column NAME"),
        (["entropy", "TABLE", "--column", "size_"], "did you mean 'size'"),
        (["entropy", "TABLE", "--column", "size", "--p", "size"], "one of --column and --p"),
        (["entropy", "TABLE", "--column", "size", "--normalize"], "--normalize"),
        (["entropy", "TABLE", "--column", "size", "--estimator", "best"], "'best'"),
        (["entropy", "TABLE", "--column", "size", "--missing", "zero"], "'zero'"),
        (["entropy", "--column", "size"], "one FILE"),
        (["entropy", "no.csv", "--column", "size"], "'no.csv'"),
        (["kl", "TABLE", "--p-samples", "size"], "no --q-samples"),
        (["kl", "TABLE", "--p-samples", "size", "--q-samples", "size", "--p", "size"], "--p "),
        (["kl", "TABLE", "--p", "size", "--q", "size", "--missing", "drop"], "--missing"),
        (["kl", "TABLE", "--p", "size", "--p", "x", "--q", "size"], "one column"),
        (
            ["kl", "TABLE", "--p-samples", "size", "--q-samples", "size", "--smoothing", "-1"],
            "smoothing",
        ),
        (["mutual-information", "TABLE", "--x", "size"], "no --y"),
    ],
)
def test_options_that_do_not_go_together_are_refused(capsys, table, words, said):
    assert said in refused(capsys, *(str(table) if w == "TABLE" else w for w in words))


def test_the_functions_refuse_what_they_have_no_meaning_for(table):
    with pytest.raises(OptionError, match="measure must be one of"):
        measure_numbers("kl", [1.0], [1.0])
    with pytest.raises(OptionError, match="must have 2 arrays: got 1"):
        measure_numbers("kl_divergence", [1.0])
    with pytest.raises(OptionError, match="needs a joint distribution"):
        measure_columns("mutual_information", table, "size", "size")
    with pytest.raises(OptionError, match="smoothing belongs to"):
        measure_samples("js_divergence", table, "size", "size", smoothing=1.0)
    with pytest.raises(OptionError, match="an estimator belongs to"):
        measure_samples("kl_divergence", table, "size", "size", estimator="plug_in")


def test_control_codes_of_a_table_do_not_reach_the_terminal(capsys, tmp_path):
    path = csv_of(tmp_path, ["x,y", "\x1b[31m,a"])
    assert main(["measure", "kl", str(path), "--p-samples", "x", "--q-samples", "y"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "q lacks " in out


def test_json_beside_the_report_and_never_over_the_table(capsys, table, tmp_path):
    target = tmp_path / "m.json"
    words = ["measure", "entropy", str(table), "--column", "size", "--json"]
    assert main([*words, str(target)]) == 0
    assert "entropy  " in capsys.readouterr().out
    assert json.loads(target.read_text(encoding="utf-8"))["measure"] == "entropy"
    before = table.read_bytes()
    assert "another file than" in refused(capsys, *words[1:], table)
    assert table.read_bytes() == before


def test_it_runs_as_a_program():
    words = [sys.executable, "-m", "xent", "measure", "entropy", "0.5", "0.5", "--unit", "bits"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "entropy  1 bits\n  p: 2 numbers\n",
        "",
    )


@pytest.mark.parametrize(
    ("words", "got"),
    [
        ("0.5,,0.5", "got nothing before or after a comma"),
        ("0.5,0.5,", "got nothing before or after a comma"),
        (",1", "got nothing before or after a comma"),
        ("1e-400,1", "got '1e-400'"),
        ("0_5,0.5", "got '0_5'"),
    ],
)
def test_numbers_that_would_be_read_as_others_are_refused(words, got, capsys):
    assert main(["measure", "entropy", words]) == 2
    assert got in capsys.readouterr().err
    assert main(["measure", "kl", "--p", "0.5,0.5", "--q", words]) == 2
    assert got in capsys.readouterr().err


def test_zeros_are_numbers_however_they_are_spelt(capsys):
    assert measured(capsys, "entropy", "0e-500, 1 -0.0")["value"] == 0.0
