"""Functions that are compiled in a process of its own, while steps go on without them."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress

from anyoptim._machine import _machine_code
from anyoptim._machine._generated import Text

__all__ = ["Compilation", "answer", "answers", "main"]

_BEGIN = "import sys; sys.path[:] = {path!r}; from anyoptim._machine._elsewhere import main; main()"

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder of this very package, which the other process is to have, too."""

PATIENCE = 120
"""After so many seconds without an end, the process has failed."""


class Compilation:
    """Some functions on their way to being machine code: a process at a time makes them, and answers through a pipe."""

    _running: Compilation | None = None

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts, self._process_id = texts, os.getpid()
        self._answers: list[tuple[Text, bytes]] = []
        self._ends: float | None = None
        self._ended = False
        self.done()  # which begins

    def done(self) -> bool:
        """Whether there is no more to wait for: all are loaded, or will have to be compiled here after all."""
        if os.getpid() != self._process_id:  # a fork, which nobody answers
            return True
        ended = self._ended  # asked first: what is answered by then is loaded below
        while self._answers:
            text, content = self._answers.pop()
            with suppress(Exception):  # then it is compiled here
                _machine_code.add(text, content, keep=True)
        if self._ends is not None:
            if not ended and time.monotonic() > self._ends:
                _end()
            return ended
        if Compilation._running is not None:
            return ended
        todo = [text for text in self._texts if not _machine_code.known(text)]
        self._ends = time.monotonic() + PATIENCE
        self._ended = not (todo and self._begin(todo))
        return self._ended

    def _begin(self, todo: Sequence[Text]) -> bool:
        """Start the process, and a thread that waits for what it answers; where that can be done."""
        if getattr(sys, "frozen", False) or not sys.executable:  # it would start the user's program again
            return False
        # As this one was started, but for what warns: the other one's warnings are nobody's errors.
        flags = [flag for flag in subprocess._args_from_interpreter_flags() if not flag.startswith("-W")]  # type: ignore[attr-defined]
        path = [_PACKAGE, *map(os.path.abspath, sys.path)]
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, *flags, "-c", _BEGIN.format(path=path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is this process's
            )
            _children.add(process)
            Compilation._running = self
            threading.Thread(target=self._wait, args=(process, todo), name="anyoptim compiling", daemon=True).start()
        except BaseException as error:
            _end()
            if isinstance(error, OSError | RuntimeError):  # no process, or no thread
                return False
            self._ended = True
            raise
        return True

    def _wait(self, process: subprocess.Popen[bytes], todo: Sequence[Text]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - they are pipes
        try:
            with process, suppress(OSError, ValueError):
                process.stdin.write(json.dumps(todo).encode())
                process.stdin.close()
                for line in process.stdout:
                    self._answers += answers(line, todo)
        finally:
            _children.discard(process)
            if Compilation._running is self:
                Compilation._running = None
            self._ended = True


def answer(text: Text, content: bytes) -> bytes:
    """A line that says for which text it is, and by a digest that it is whole: what isn't would end who loads it."""
    encoded = b64encode(content)
    return b" ".join([b"\nanyoptim", _digest(repr(text).encode()), _digest(encoded), encoded]) + b"\n"


def answers(line: bytes, todo: Sequence[Text]) -> list[tuple[Text, bytes]]:
    """What a line answers; nothing, if it is cut short, or what somebody else has printed."""
    of, *rest = line.strip().split(b" ")
    if of != b"anyoptim" or len(rest) != 3 or _digest(rest[2]) != rest[1]:
        return []
    return [(text, b64decode(rest[2])) for text in todo if _digest(repr(text).encode()) == rest[0]]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


_children: set[subprocess.Popen[bytes]] = set()


@atexit.register
def _end() -> None:
    """Leave no process behind."""
    for process in [*_children]:
        process.kill()
        with suppress(OSError, ValueError), process:  # which closes its pipes, and waits for it
            pass
    _forget()


def _forget() -> None:
    """Have no process: it ended, or is another one's child."""
    _children.clear()
    Compilation._running = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def main() -> None:
    """Compile what comes by standard input, and answer each by a line."""
    _end_with(os.getppid())
    todo, out = [Text(*fields) for fields in json.load(sys.stdin)], sys.stdout.buffer
    sys.stdout = sys.stderr  # nobody else is to answer
    from anyoptim._machine._compiling import compiled  # noqa: PLC0415 - a second

    for text in todo:
        out.write(answer(text, compiled(text)))
        out.flush()


def _end_with(parent: int) -> None:
    """Have this process end soon after its parent, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            pause.wait(0.2)
        os._exit(1)

    pause = threading.Event()
    threading.Thread(target=watch, daemon=True).start()
