"""Codes by several threads and between files: the same bytes, and targets whole or untouched."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xent.coding import ContextModel, compress, decompress
from xent.coding.container import compress_stream, decompress_stream
from xent.coding.files import compress_file, decompress_file, train_model
from xent.errors import CodeError, ModelError, OptionError

PIECES = [b"to be", b" or ", b"not", b" to be", b", ", b"\n", b"that is the question"]


def some_text(seed, size=60_000):
    source = random.Random(seed)
    return b"".join(source.choices(PIECES, k=size // 5))[:size]


TEXT = some_text(0)
LATE = 30  # seconds after which a thread is held to hang


# ---- threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [100, 4096, 1 << 20])
@pytest.mark.parametrize("order", [0, 2])
def test_threads_do_not_change_a_byte(order, block_size):
    text = TEXT[:3000] if block_size == 100 else TEXT
    one = compress(text, order=order, block_size=block_size, threads=1)
    for threads in (2, 3, None):
        assert compress(text, order=order, block_size=block_size, threads=threads) == one
        assert decompress(one, threads=threads) == text


def test_many_at_once():
    """Callers that share a model, whose tables are made when they are first wanted, and some not."""
    texts = [some_text(seed, 5000 + 1000 * seed) for seed in range(8)]
    model = ContextModel.from_bytes(ContextModel.of(TEXT, order=2).to_bytes())
    expected = [(compress(t), compress(t, model=ContextModel.of(TEXT, order=2))) for t in texts]
    start = threading.Barrier(4)

    def work(number):
        start.wait(LATE)
        for at in range(number, number + len(texts)):
            text, (own, shared) = texts[at % len(texts)], expected[at % len(texts)]
            assert compress(text, threads=2) == own
            assert compress(text, model=model, threads=2) == shared
            assert decompress(own, threads=2) == text
            assert decompress(shared, model=model, threads=2) == text
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(f.result(LATE) for f in [pool.submit(work, n) for n in range(4)])


def test_a_damaged_block_among_many_is_told():
    code = bytearray(compress(TEXT, block_size=1000))
    code[-1] ^= 1
    last = len(TEXT) // 1000 - 1
    for threads in (1, 2, 4):
        with pytest.raises(CodeError, match=f"^block {last}, from byte {1000 * last}: "):
            decompress(code, threads=threads)


def test_the_first_of_two_faults_is_told():
    model = ContextModel.of(TEXT, order=1, escape=False)
    text = bytearray(TEXT)
    text[2500] = text[7500] = 0
    for threads in (1, 2, 4):
        with pytest.raises(CodeError, match=r"^block 2, from byte 2000: .* got 0 at 500"):
            compress(text, model=model, block_size=1000, threads=threads)


def test_no_thread_is_left_behind():
    before = threading.active_count()
    for threads in (2, 4):
        compress(TEXT, block_size=1000, threads=threads)
        with pytest.raises(CodeError):
            decompress(compress(TEXT, block_size=1000)[:-1], threads=threads)
        with pytest.raises(Interruption):
            compress_stream(
                io.BytesIO(TEXT), io.BytesIO(), block_size=1000, threads=threads,
                progress=interrupting(0.8),
            )  # fmt: skip
    stop = time.monotonic() + LATE
    while threading.active_count() > before and time.monotonic() < stop:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("threads", [0, -1, True])
def test_a_number_of_threads_that_is_none(threads):
    with pytest.raises(OptionError, match="threads must be"):
        compress(b"abc", threads=threads)
    with pytest.raises(OptionError, match="threads must be"):
        decompress(compress(b"abc"), threads=threads)


# ---- streams -----------------------------------------------------------------------------------------


class Changing(io.BytesIO):
    """A source with other bytes from the second reading on."""

    def __init__(self, first, second):
        super().__init__(first)
        self.first, self.second, self.starts = first, second, 0

    def read(self, size=-1):
        if self.tell() == 0:
            self.starts += 1
            if self.starts == 2:
                self.seek(0)
                self.truncate()
                self.write(self.second)
                self.seek(0)
        return super().read(size)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "second",
    [TEXT[:-1], TEXT + b"\n", TEXT[::-1], b"", TEXT[1000:] + TEXT[:1000], TEXT + TEXT[:1000]],
    ids=["shorter", "longer", "backwards", "empty", "turned", "a block longer"],
)
def test_a_source_that_changes_is_refused(second, threads):
    source = Changing(TEXT, second)
    with pytest.raises(CodeError, match="must stay as it is while it is read"):
        compress_stream(
            source, io.BytesIO(), model=ContextModel.of(TEXT), block_size=1000, threads=threads
        )
    assert source.starts >= 2


def test_a_source_that_changes_to_what_has_no_code_is_refused():
    with pytest.raises(CodeError):
        compress_stream(Changing(TEXT, b"\0" * len(TEXT)), io.BytesIO(), order=0)


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 7) if size > 0 else size)


def test_streams_that_give_little_at_a_time():
    sink = io.BytesIO()
    compress_stream(Trickle(TEXT[:3000]), sink, block_size=1000)
    assert sink.getvalue() == compress(TEXT[:3000], block_size=1000)
    again = io.BytesIO()
    decompress_stream(Trickle(sink.getvalue()), again)
    assert again.getvalue() == TEXT[:3000]


def test_a_source_is_read_from_where_it_stands():
    source, sink = io.BytesIO(b"before" + TEXT), io.BytesIO()
    source.seek(6)
    compress_stream(source, sink)
    assert sink.getvalue() == compress(TEXT)


def test_progress_goes_up_to_the_whole():
    told = []
    compress_stream(
        io.BytesIO(TEXT), io.BytesIO(), block_size=7000, progress=lambda *a: told.append(a)
    )
    assert told == sorted(told)
    assert told[-1] == (len(TEXT), len(TEXT))
    told.clear()
    decompress_stream(
        io.BytesIO(compress(TEXT, block_size=7000)), None, progress=lambda *a: told.append(a)
    )
    assert told == sorted(told)
    assert told[-1] == (len(TEXT), len(TEXT))


# ---- files -------------------------------------------------------------------------------------------


class Interruption(KeyboardInterrupt):
    """Ctrl-C, of the tests' own."""


def interrupting(share):
    """Return what interrupts when that share of the work is done; compressing, half is counting."""

    def progress(done, total):
        if done >= share * total:
            raise Interruption

    return progress


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").write_bytes(TEXT)
    (tmp_path / "in.xent").write_bytes(compress(TEXT, block_size=1000))
    (tmp_path / "out").write_bytes(b"old")
    return tmp_path


def left_as_it_was(folder):
    assert (folder / "out").read_bytes() == b"old"
    assert {path.name for path in folder.iterdir()} == {"in", "in.xent", "out"}
    assert (folder / "in").read_bytes() == TEXT


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_an_interruption_leaves_the_old_file(folder, share, threads):
    with pytest.raises(Interruption):
        compress_file(
            folder / "in", folder / "out", block_size=1000, threads=threads,
            progress=interrupting(share),
        )  # fmt: skip
    left_as_it_was(folder)
    with pytest.raises(Interruption):
        decompress_file(
            folder / "in.xent", folder / "out", threads=threads, progress=interrupting(share)
        )
    left_as_it_was(folder)


def test_a_damaged_file_leaves_the_old_file(folder):
    code = (folder / "in.xent").read_bytes()
    for damaged in (code[:-1], code[:-1] + bytes([code[-1] ^ 1]), code + b"\0", b"", TEXT):
        (folder / "in.xent").write_bytes(damaged)
        with pytest.raises(CodeError):
            decompress_file(folder / "in.xent", folder / "out")
        left_as_it_was(folder)


def test_another_model_leaves_the_old_file(folder):
    model = ContextModel.of(TEXT)
    (folder / "in.xent").write_bytes(compress(TEXT, model=model))
    for other in (None, ContextModel.of(TEXT[:99])):
        with pytest.raises(ModelError, match="fingerprint"):
            decompress_file(folder / "in.xent", folder / "out", model=other)
        left_as_it_was(folder)


def test_a_file_that_changes_leaves_the_old_file(folder):
    def progress(done, total):
        if done == total // 2:  # the first reading ends
            (folder / "in").write_bytes(TEXT[:-1])

    with pytest.raises(CodeError, match="must stay as it is"):
        compress_file(folder / "in", folder / "out", block_size=1000, progress=progress)
    (folder / "in").write_bytes(TEXT)
    left_as_it_was(folder)


def test_what_is_written_is_decoded_first(folder, monkeypatch):
    """A block that is written wrongly is found before it replaces anything."""
    from xent.coding import container

    def wrongly(block, model):
        code = right(block, model)
        return code[:-1] + bytes([code[-1] ^ 1])

    right = container.encode_block
    monkeypatch.setattr(container, "encode_block", wrongly)
    with pytest.raises(CodeError, match=r"block 0, from byte 0: .* must end"):
        compress_file(folder / "in", folder / "out", block_size=1000)
    left_as_it_was(folder)


def test_files_come_back(folder):
    written = compress_file(folder / "in", folder / "out", block_size=1000, threads=2)
    assert (folder / "out").read_bytes() == (folder / "in.xent").read_bytes()
    assert written.total_bytes == (folder / "out").stat().st_size
    header = decompress_file(folder / "out", folder / "back", threads=2)
    assert (folder / "back").read_bytes() == TEXT
    assert header == written.header


def test_a_file_becomes_its_own_code(folder):
    """The old bytes are read before the new ones take their name."""
    compress_file(folder / "in", folder / "in", block_size=1000)
    assert (folder / "in").read_bytes() == (folder / "in.xent").read_bytes()
    decompress_file(folder / "in", folder / "in")
    assert (folder / "in").read_bytes() == TEXT


def test_a_missing_file_or_folder(folder):
    with pytest.raises(OptionError, match=r"'.*nothing' cannot: No such file"):
        compress_file(folder / "nothing", folder / "out")
    with pytest.raises(OptionError, match=r"'.*out' cannot: Not a directory"):
        compress_file(folder / "in", folder / "in" / "out")
    with pytest.raises(OptionError, match="can be read"):
        train_model([folder / "nothing"])
    left_as_it_was(folder)


# ---- the command -------------------------------------------------------------------------------------


def run(*arguments, **options):
    command = [sys.executable, "-m", "xent", "code", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


def test_through_a_pipe():
    """Standard input cannot go back, and is read twice."""
    packed = run("compress", "-", "-o", "-", input=TEXT)
    assert (packed.returncode, packed.stderr) == (0, b"")
    assert packed.stdout == compress(TEXT)
    unpacked = run("decompress", "-", "-o", "-", "--threads", 2, input=packed.stdout)
    assert (unpacked.returncode, unpacked.stderr) == (0, b"")
    assert unpacked.stdout == TEXT


def test_nothing_through_a_pipe():
    packed = run("compress", "-", "-o", "-", stdin=subprocess.DEVNULL)
    assert (packed.returncode, packed.stdout, packed.stderr) == (0, compress(b""), b"")


def test_a_damaged_file_by_the_command(folder):
    code = (folder / "in.xent").read_bytes()
    (folder / "in.xent").write_bytes(code[:-1] + bytes([code[-1] ^ 1]))
    done = run("decompress", folder / "in.xent", "-o", folder / "out")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"xent: block 59, from byte 59000: ")
    assert b"Traceback" not in done.stderr
    left_as_it_was(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe(folder):
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=Path.write_bytes, args=(pipe, TEXT), daemon=True)
    writer.start()
    compress_file(pipe, folder / "out", block_size=1000)
    writer.join(LATE)
    assert (folder / "out").read_bytes() == (folder / "in.xent").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_command_leaves_the_old_file(folder):
    """It waits for input when the signal comes; the file is not yet named."""
    command = [sys.executable, "-m", "xent", "code", "decompress", "-", "-o", folder / "out"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        child.stdin.write((folder / "in.xent").read_bytes()[:-1])
        child.stdin.flush()
        stop = time.monotonic() + LATE
        # When these are written it only waits for the rest of the last block.
        while sum(p.stat().st_size for p in folder.glob(".*.part")) < len(TEXT) // 2:
            assert time.monotonic() < stop
            time.sleep(0.05)
        time.sleep(0.2)
        child.terminate()
        assert child.wait(LATE) == 128 + 15
        assert b"Traceback" not in child.stderr.read()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stderr.close()
    left_as_it_was(folder)
