"""What every command of the program shares: its exit status, its terminal, its JSON."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xent.errors import OptionError, XentError
from xent.files import require_target, write_whole

if TYPE_CHECKING:
    from xent.scoring.gates import Gate

__all__ = [
    "ERROR",
    "GATE",
    "OK",
    "PIPE_CLOSED",
    "Done",
    "check_format",
    "check_json",
    "guarded",
    "json_bytes",
    "judge",
    "program",
    "terminal",
    "write_json",
]

OK, GATE, ERROR, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


class Done(SystemExit):
    """The end of a command with a status of its own, which the parser's 1 is not taken for."""


class _Ended(KeyboardInterrupt):
    """A request to end that came as a signal other than Ctrl-C; cleaned up after all the same."""

    def __init__(self, number: int) -> None:
        self.number = number


def guarded(work: Callable[[], int]) -> int:
    """Turn every expected way to fail into a message and a status, never a traceback."""
    try:
        with _ending_cleanly():
            status = work()
            sys.stdout.flush()
    except XentError as error:
        print(f"xent: {error}", file=sys.stderr)  # noqa: T201
        return ERROR
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED
    except OSError as error:  # a full disk behind standard output, for example
        where = f"{error.filename!r}: " if error.filename is not None else ""
        print(  # noqa: T201
            f"xent: the system must read and write what it is asked to: got {where}"
            f"{error.strerror or error}. Hint: is a disk full?",
            file=sys.stderr,
        )
        _discard_output()
        return ERROR
    except _Ended as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _discard_output() -> None:
    """Let what Python flushes once more at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let a closed terminal, and `kill`, end the work as Ctrl-C does: half files are removed."""

    def end(number: int, _: object) -> NoReturn:
        for each in before:  # once is enough: a second one would interrupt the cleaning up
            signal.signal(each, signal.SIG_IGN)
        raise _Ended(number)

    def again(ignored: Any) -> None:
        # A destructor that was running has swallowed the request: it is made once more, later.
        if not isinstance(ignored.exc_value, _Ended):
            hook(ignored)
            return
        number = ignored.exc_value.number
        for each in before:
            signal.signal(each, end)
        main = threading.main_thread().ident
        threading.Timer(0.05, lambda: signal.pthread_kill(main or 0, number)).start()

    hook = sys.unraisablehook
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has one of the two
            # Who ignores a signal, as nohup does, goes on ignoring it.
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
        if before and hasattr(signal, "pthread_kill"):
            sys.unraisablehook = again
    try:
        yield
    finally:
        if sys.unraisablehook is again:
            sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def judge(gates: Sequence[Gate]) -> int:
    """Say which limits were not kept, and return the status that says whether all were."""
    failed = [gate for gate in gates if not gate.passed]
    for gate in failed:
        print(f"xent: {gate.name}: {gate.reason}", file=sys.stderr)  # noqa: T201
    return GATE if failed else OK


def program() -> str:
    """Return how to call this program from here: by its name, where the shell finds it."""
    if shutil.which("xent") is not None:
        return "xent"
    beside = Path(sys.executable).parent / ("xent.exe" if os.name == "nt" else "xent")
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m xent"
    here = Path.cwd()
    # Not resolved: the interpreter of an environment is a link to one outside it.
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def terminal() -> dict[str, Any]:
    """Return the width of the terminal and whether it may be coloured."""
    shown = sys.stdout.isatty()
    width = os.get_terminal_size(sys.stdout.fileno()).columns if shown else 0
    return {"width": width or 100, "color": shown and not os.environ.get("NO_COLOR")}


def json_bytes(document: Any, indent: int | None = 2) -> bytes:
    """Return a document as JSON.

    It is UTF-8 whatever the terminal speaks. What is no Unicode, such as the odd byte of a file
    name, becomes an escape, which in JSON is spelt as Python's is.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", errors="backslashreplace")


def write_json(target: str, document: Any) -> None:
    """Write a document to a file, or to standard output for '-'."""
    data = json_bytes(document)
    if target != "-":
        write_whole(Path(target), data, "--json")
    elif hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(data.decode("utf-8"))


def check_format(name: str) -> None:
    """Refuse a format of what is printed that there is not."""
    if name not in {"text", "md"}:
        raise OptionError(
            f"--format must be text or md: got {name!r}. Hint: md is Markdown; --json and --html "
            "write files for programs and browsers."
        )


def check_json(target: str | None, *sources: Path) -> None:
    """Refuse a place for the JSON that cannot be written, before the work is done."""
    if target not in {None, "-"}:
        hint = "'-' prints to standard output."
        require_target(Path(str(target)), "--json", *sources, hint=hint)
