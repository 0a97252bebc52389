"""Files appear whole or not at all, whoever else writes them and whatever ends the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from xent.cli.process import guarded
from xent.errors import OptionError
from xent.files import replacing, write_whole


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path, "--output") as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replacing(path, "--output") as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_writers_at_once_do_not_touch_each_other(tmp_path):
    path = tmp_path / "a.txt"
    failed = []

    def write(number):
        try:
            for _ in range(50):
                write_whole(path, f"{number}".encode() * 5000, "--output")
        except OptionError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(set(path.read_text())) == 1
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 250)
    write_whole(path, b"x", "--output")
    assert path.read_bytes() == b"x"


def test_a_new_file_has_the_rights_of_any_other(tmp_path):
    write_whole(tmp_path / "a.txt", b"x", "--output")
    (tmp_path / "b.txt").write_bytes(b"x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


WORK = """
import signal, sys, time
from pathlib import Path
from xent.cli.process import guarded
from xent.files import replacing

path, seconds, hangup = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
# Whoever runs the tests may ignore signals, which processes inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, getattr(signal, hangup))

def work():
    with replacing(path, "--output") as part:
        part.write_text("half")
        print("begun", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # a signal just before a long sleep would wait for its end
            time.sleep(0.05)
    return 0

sys.exit(guarded(work))
"""


def working(path, seconds, hangup):
    words = [sys.executable, "-c", WORK, str(path), str(seconds), hangup]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="these are signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_work_and_leaves_the_old_file_and_no_other(name, tmp_path):
    path, number = tmp_path / "a.txt", getattr(signal, name)
    path.write_text("old")
    with working(path, 60, "SIG_DFL") as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="these are signals of POSIX")
def test_a_hangup_that_was_ignored_stays_ignored(tmp_path):
    with working(tmp_path / "a.txt", 1, "SIG_IGN") as process:  # as nohup does
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    assert (tmp_path / "a.txt").read_text() == "half"


def test_handlers_are_put_back_and_other_threads_have_none():
    seen = []

    def work():
        seen.append(signal.getsignal(signal.SIGTERM))
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert guarded(work) == 0
    thread = threading.Thread(target=guarded, args=(work,))
    thread.start()
    thread.join()
    assert callable(seen[0])
    assert seen[1] == before == signal.getsignal(signal.SIGTERM)
