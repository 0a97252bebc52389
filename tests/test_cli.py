"""The command line."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import xent
from xent.cli import main, process
from xent.cli.progress import progress_of
from xent.scoring import score
from xent.scoring.sources import open_table

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "predictions.csv"
INFINITE = "label,p_a,p_b\na,0,1\na,0.5,0.5\n"


@pytest.fixture
def infinite(tmp_path):
    path = tmp_path / "infinite.csv"
    path.write_text(INFINITE)
    return path


def run(*words: object, **options):
    return subprocess.run(
        [sys.executable, "-m", "xent", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", check=False, **options,
    )  # fmt: skip


def hide(monkeypatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    if package != "duckdb":  # its compiled half does not bear a second import
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def strict(text: str):
    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_the_example_is_scored_without_flags(capsys):
    assert main(["score", str(EXAMPLE)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    result = score(EXAMPLE)
    assert f"{result.log_loss:.4f}" in out
    assert "typically" in out
    assert "--probabilities" in out
    for label in ("cat", "dog", "fox"):
        assert label in out
    assert 40 <= result.n <= 60
    assert result.infinite_rows == 0


def test_json_on_standard_output_stands_alone(capsys, infinite):
    assert main(["score", str(EXAMPLE), "--json", "-"]) == 0
    data = strict(capsys.readouterr().out)
    result = score(EXAMPLE)
    assert data["n"] == result.n
    assert data["log_loss_nats"] == pytest.approx(result.log_loss, rel=1e-14)
    assert data["log_loss_bits"] == pytest.approx(result.log_loss / math.log(2), rel=1e-14)
    assert data["standard_error_nats"] == pytest.approx(result.standard_error, rel=1e-12)
    assert data["finite_log_loss_nats"] == pytest.approx(result.log_loss, rel=1e-14)
    assert data["accuracy"] == result.accuracy
    assert data["infinite_rows"] == 0
    assert [c["label"] for c in data["classes"]] == ["cat", "dog", "fox"]
    assert main(["score", str(infinite), "--json", "-"]) == 0
    data = strict(capsys.readouterr().out)
    assert data["log_loss_nats"] is data["log_loss_bits"] is data["standard_error_nats"] is None
    assert data["infinite_rows"] == 1


def test_json_in_a_file_stands_beside_the_report(capsys, tmp_path):
    target = tmp_path / "score.json"
    target.write_text("old")
    assert main(["score", str(EXAMPLE), "--json", str(target)]) == 0
    assert "typically" in capsys.readouterr().out
    assert strict(target.read_text(encoding="utf-8"))["n"] == score(EXAMPLE).n
    assert os.listdir(tmp_path) == ["score.json"]


@pytest.mark.parametrize("blow", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_the_old_file_whole(capsys, tmp_path, monkeypatch, blow):
    target = tmp_path / "score.json"
    target.write_text("old")

    def fail(*_):
        raise blow

    monkeypatch.setattr(os, "fsync", fail)
    status = main(["score", str(EXAMPLE), "--json", str(target)])
    assert status == (130 if blow is KeyboardInterrupt else 2)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["score.json"]
    if status == 2:
        assert "No space left" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(capsys, tmp_path):
    assert main(["score", "no such table", "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert "folder that exists" in capsys.readouterr().err
    assert main(["score", "no such table", "--json", str(tmp_path)]) == 2
    assert "folder that exists" in capsys.readouterr().err


def test_flags_reach_the_score(capsys, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("who,what,mass,s1,s2\nx,a,3,0.5,0.4999\ny,b,1,0.9,0.1\n")
    words = ["score", str(path), "--label", "what", "--probabilities", "s*", "--classes", "a,b"]
    words += ["--weights", "mass", "--id", "who", "--allow", "unnormalised=1e-3", "--worst", "1"]
    assert main([*words, "--json", "-"]) == 0
    data = strict(capsys.readouterr().out)
    assert data["log_loss_nats"] == pytest.approx(-(3 * math.log(0.5) + math.log(0.1)) / 4)
    assert [row["name"] for row in data["worst"]] == ["y"]
    assert data["unnormalised_rows"] == 1
    path.write_text("y,p\nham,0.25\nspam,0.5\n")
    assert main(["score", str(path), "--positive", "spam", "--json", "-"]) == 0
    assert strict(capsys.readouterr().out)["log_loss_nats"] == pytest.approx(
        -(math.log(0.75) + math.log(0.5)) / 2
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "no-such.csv"], "no-such.csv"),
        (["score", str(EXAMPLE), "--label", "species"], "'species'"),
        (["score", str(EXAMPLE), "--allow", "everything"], "unnormalised=1e-3"),
        (["score", str(EXAMPLE), "--allow", "unnormalised=much"], "'unnormalised=much'"),
        (["score", str(EXAMPLE), "--allow", "unnormalised=2"], "between 0 and 1"),
    ],
)
def test_an_error_is_one_message_on_standard_error_and_status_two(capsys, words, said):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xent: ")
    assert said in err
    assert "Hint: " in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [["score"], ["score", "x", "--bogus"], ["bogus"], ["score", "x", "--worst", "-1"]]
)
def test_a_wrong_word_is_status_two(capfd, words):
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "Error" in err


def test_the_version_and_the_help_are_printed(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"xent {xent.__version__}\n"
    assert main(["score", "--help"]) == 0
    text = capfd.readouterr().out
    for flag in (
        "label",
        "probabilities",
        "positive",
        "classes",
        "weights",
        "id",
        "allow",
        "worst",
    ):
        assert f"--{flag}" in text
    assert "--json" in text


@pytest.mark.parametrize("package", ["typer", "duckdb", "rich"])
def test_a_missing_extra_says_what_to_install(capsys, monkeypatch, package):
    hide(monkeypatch, package)
    assert main(["score", str(EXAMPLE)]) == 2
    assert "xent[tables]" in capsys.readouterr().err


def test_json_needs_no_rich(capsys, monkeypatch):
    hide(monkeypatch, "rich")
    assert main(["score", str(EXAMPLE), "--json", "-"]) == 0
    assert strict(capsys.readouterr().out)["n"] > 0


def test_the_module_runs_as_a_program(infinite):
    done = run("score", infinite)
    assert (done.returncode, done.stderr) == (0, "")
    assert "∞" in done.stdout
    assert "\x1b" not in done.stdout
    assert run("score", "missing.csv").returncode == 2


def test_a_terminal_without_unicode_gets_substitutes(infinite):
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("score", infinite, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "? nats" in done.stdout.replace("  ", " ")


@pytest.mark.parametrize("words", [[], ["--json", "-"]])
def test_a_closed_pipe_is_quiet(tmp_path, words):
    path = tmp_path / "long.csv"
    path.write_text("label,p_a,p_b\n" + "a,0.25,0.75\nb,0.25,0.75\n" * 1000)
    with subprocess.Popen(
        [sys.executable, "-m", "xent", "score", str(path), "--worst", "2000", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        err = process.stderr.read()
        status = process.wait(60)
    assert err == b""
    assert status in {0, 141}


def test_control_c_is_status_130(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("xent.scoring.score", interrupted)
    assert main(["score", str(EXAMPLE)]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def heeds_control_c():
    """Hear Ctrl-C also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_control_c")
def test_control_c_stops_a_running_query():
    with open_table(EXAMPLE) as table:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            table.rows("SELECT sum(sin(range)) FROM range(100000000000)")
        timer.join()


def test_no_heavy_package_is_loaded_before_a_command_needs_it():
    code = (
        "import sys, xent.cli;"
        "heavy = {'duckdb', 'typer', 'rich', 'pandas', 'torch', 'scipy', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_the_table_is_never_replaced_by_its_score(capsys, infinite, link):
    target = infinite
    if link != "same":
        target = infinite.with_name("other.csv")
        (target.symlink_to if link == "symbolic" else target.hardlink_to)(infinite)
    assert main(["score", str(infinite), "--json", str(target)]) == 2
    assert "another file than" in capsys.readouterr().err
    assert infinite.read_text() == INFINITE


def test_json_is_utf_8_whatever_the_terminal_speaks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("label,p_猫,p_é\n猫,0.5,0.5\n", encoding="utf-8")
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    data = strict(run("score", path, "--json", "-", env=env).stdout)
    assert [c["label"] for c in data["classes"]] == ["猫", "é"]


@pytest.mark.parametrize("name", ["x" * 300, "zero\0byte"])
def test_a_json_file_that_cannot_exist_is_refused(capsys, name):
    assert main(["score", str(EXAMPLE), "--json", name]) == 2
    assert "Hint: " in capsys.readouterr().err


def test_the_demo_names_a_command_that_works_here(monkeypatch, tmp_path):
    monkeypatch.setattr(process.shutil, "which", lambda _: "/somewhere/xent")
    assert process.program() == "xent"
    monkeypatch.setattr(process.shutil, "which", lambda _: None)
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    assert process.program() == f"{folder / 'python'} -m xent"
    (folder / ("xent.exe" if os.name == "nt" else "xent")).touch()
    assert Path(process.program()) == Path(
        ".venv", "bin", "xent.exe" if os.name == "nt" else "xent"
    )


def test_a_request_to_end_that_a_destructor_swallows_is_made_again():
    script = (
        "import os, signal, sys, time\n"
        "from xent.cli.process import guarded\n"
        "class Swallows:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.01)\n"
        "def work():\n"
        "    swallows = Swallows()\n"
        "    del swallows\n"
        "    time.sleep(60)\n"
        "    return 0\n"
        "sys.exit(guarded(work))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 128 + 15
    assert done.stderr == b""


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("each", "said"),
    [(None, "1.5/2.0 MB"), (lambda done, total: f"fit {done + 1} of {total}", "fit 1500001 of")],
    ids=["bytes", "fits"],
)
def test_progress_is_shown_on_a_terminal_alone(each, said, monkeypatch, capsys):
    with progress_of("packing", each=each) as progress:
        progress(0, 0)
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_of("packing", each=each) as progress:
        progress(0, 0)
        progress(1_500_000, 2_000_000)
    assert said in terminal.getvalue()
    assert capsys.readouterr().out == ""
