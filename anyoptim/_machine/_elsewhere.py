"""Functions that are compiled in a process of its own, while steps go on without them."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress

from anyoptim._machine import _machine_code
from anyoptim._machine._generated import Text

__all__ = ["Compilation", "main"]

_BEGIN = "import sys; sys.path[:] = {path!r}; from anyoptim._machine._elsewhere import main; main()"


class Compilation:
    """Some functions on their way to being machine code: a process at a time makes them, and answers through a pipe."""

    _running: Compilation | None = None

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts, self._begun, self._process_id = texts, False, os.getpid()
        self._answers: list[tuple[Text, bytes]] = []
        self._ended = False
        self.done()  # which begins

    def done(self) -> bool:
        """Whether there is no more to wait for: all are loaded, or will have to be compiled here after all."""
        if os.getpid() != self._process_id:  # a fork, which nobody answers
            return True
        ended = self._ended  # asked first: what is answered by then is loaded below
        while self._answers:
            _machine_code.add(*self._answers.pop(), keep=True)
        if self._begun or Compilation._running is not None:
            return ended
        todo = [text for text in self._texts if not _machine_code.known(text)]
        self._begun = True
        self._ended = not (todo and self._begin(todo))
        return self._ended

    def _begin(self, todo: Sequence[Text]) -> bool:
        """Start the process, and a thread that waits for what it answers; where that can be done."""
        if getattr(sys, "frozen", False) or not sys.executable:  # it would start the user's program again
            return False
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-c", _BEGIN.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            _children.add(process)
            Compilation._running = self
            threading.Thread(target=self._wait, args=(process, todo), name="anyoptim compiling", daemon=True).start()
        except (OSError, RuntimeError):  # no process, or no thread
            _end()
            return False
        return True

    def _wait(self, process: subprocess.Popen[bytes], todo: Sequence[Text]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - they are pipes
        try:
            with process, suppress(OSError, ValueError):
                process.stdin.write(json.dumps(todo).encode())
                process.stdin.close()
                for text, line in zip(todo, process.stdout, strict=False):
                    self._answers.append((text, b64decode(line)))
        finally:
            _children.discard(process)
            Compilation._running, self._ended = None, True


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
    from anyoptim._machine._compiling import compiled  # noqa: PLC0415 - a second

    for text in todo:
        out.write(b64encode(compiled(text)) + b"\n")
        out.flush()


def _end_with(parent: int) -> None:
    """Have this process end soon after its parent, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            pause.wait(0.2)
        os._exit(1)

    pause = threading.Event()
    threading.Thread(target=watch, daemon=True).start()
