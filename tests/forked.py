"""Run programs in processes forked from one that has already imported their modules.

Importing a framework takes seconds of a core, forking milliseconds. The forked process runs the program as its ``__main__``
and ends like an interpreter, with exit handlers, or by a signal. The parent only imports: anything that a framework starts at
its first operation, such as threads, is started in each forked process.
"""

import atexit
import ctypes
import faulthandler
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

_POLL_S = 0.01
_NUMBER_BYTES = 4


class Forked:
    """A program that runs in a forked process.

    Attributes:
        pid: Id of the process.
    """

    def __init__(self, ended: int, output: Path, errors: Path) -> None:
        self._ended, self._output, self._errors = ended, output, errors
        self._code: int | None = None
        self.pid = self._read_number(None)

    def _read_number(self, timeout: float | None) -> int:
        if not select.select([self._ended], [], [], timeout)[0]:
            message = f"It still runs after {timeout} s: {self.errors}"
            raise TimeoutError(message)
        data = os.read(self._ended, _NUMBER_BYTES)
        assert data, "The process from which programs are forked has ended."
        return int.from_bytes(data, sys.byteorder, signed=True)

    @property
    def output(self) -> str:
        """Its standard output so far."""
        return self._output.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """Its standard error so far."""
        return self._errors.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it if it still runs."""
        if self._code is None:
            with suppress(ProcessLookupError):
                self.send_signal(signal.SIGKILL)
            self.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to a process that has not been waited for."""
        os.kill(self.pid, number)

    def wait_for(self, line: str, times: int = 1, timeout: float = 300) -> None:
        """Wait until it has printed a line this many times."""
        end = monotonic() + timeout
        while self.output.splitlines().count(line) < times:
            running = not select.select([self._ended], [], [], 0)[0]
            assert running, self.errors
            assert monotonic() < end, self.errors
            sleep(_POLL_S)

    def wait(self, timeout: float = 300) -> int:
        """Wait for its end, and return its exit status; the negative number of the signal if a signal ended it."""
        if self._code is None:
            try:
                self._code = self._read_number(timeout)
            except TimeoutError:
                self.send_signal(signal.SIGABRT)  # its fault handler prints where it hangs
                self._code = self._read_number(10)
                raise AssertionError(self.errors) from None
            os.close(self._ended)
        return self._code


class Warm:
    """A process that has imported modules, from which others are forked."""

    def __init__(self, folder: Path, *modules: str, environment: Mapping[str, str] | None = None) -> None:
        """Import the modules in this environment; the output of the programs is written into the folder."""
        self._folder = folder
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-P", __file__, str(theirs.fileno()), *modules]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def start(
        self, *arguments: object, folder: Path, libraries: Sequence[Path] = (), environment: Mapping[str, str] | None = None
    ) -> Forked:
        """Start a program.

        Args:
            arguments: Its path, and its arguments.
            folder: Its working directory.
            libraries: Shared libraries to load before it begins, which a new process would find by ``LD_LIBRARY_PATH``.
            environment: Additional variables; a ``PYTHONPATH`` among them is searched first.
        """
        output, errors = (Path(tempfile.mkstemp(dir=self._folder, suffix=suffix)[1]) for suffix in (".out", ".err"))
        order = {
            "arguments": list(map(str, arguments)),
            "folder": str(folder),
            "libraries": list(map(str, libraries)),
            "environment": dict(environment or {}),
            "output": str(output),
            "errors": str(errors),
        }
        ended, ends = os.pipe()
        socket.send_fds(self._socket, [json.dumps(order).encode()], [ends])
        os.close(ends)
        return Forked(ended, output, errors)

    def run(self, *arguments: object, folder: Path, timeout: float = 300, status: int = 0, **options: Any) -> Forked:
        """Run a program to its end, and check its exit status."""
        with self.start(*arguments, folder=folder, **options) as forked:
            assert forked.wait(timeout) == status, forked.output + forked.errors
            return forked

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()


@contextmanager
def warm(folder: Path, *modules: str, environment: Mapping[str, str] | None = None) -> Iterator[Warm]:
    """Provide a process that has imported these modules, until the body ends."""
    process = Warm(folder, *modules, environment=environment)
    try:
        yield process
    finally:
        process.close()


def programs_environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process for programs that import the tests' own helpers, with additional variables."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **variables}


def _write_number(file: int, number: int) -> None:
    os.write(file, number.to_bytes(_NUMBER_BYTES, sys.byteorder, signed=True))


def _next_program(orders: socket.socket) -> Sequence[str]:
    """Fork a process for each order; in such a process, return its program with the arguments."""
    while True:
        data, files, _, _ = socket.recv_fds(orders, 1 << 20, 1)
        _collect(os.WNOHANG if data else 0)
        if not data:
            os._exit(0)  # there are no more orders
        # A process in between writes the exit status; this process collects it, so that its parent gets the CPU time of all.
        if os.fork():
            os.close(files[0])
            continue
        program = os.fork()
        if program:
            _write_number(files[0], program)
            _, status = os.waitpid(program, 0)
            _write_number(files[0], os.waitstatus_to_exitcode(status))
            os._exit(0)
        os.close(files[0])
        orders.close()
        return _begin(json.loads(data))


def _collect(options: int) -> None:
    """Collect the processes that have ended, or wait for all."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _begin(order: Mapping[str, Any]) -> Sequence[str]:
    """Make this process like a new one, and return the program with its arguments."""
    for name, number in (("output", 1), ("errors", 2)):
        file = os.open(order[name], os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.path[:0] = filter(None, order["environment"].get("PYTHONPATH", "").split(os.pathsep))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even if the parent of the tests ignores it
    for library in order["libraries"]:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    sys.argv = order["arguments"]
    return order["arguments"]


def _main() -> Sequence[str]:
    orders = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        import_module(module)
    faulthandler.enable()
    gc.freeze()  # forked processes do not collect the imported objects, and so do not copy their memory
    return _next_program(orders)


def _run(program: str) -> None:
    """Run a program, and end as an interpreter does, but without clearing the modules, which would copy their memory."""
    runpy.run_path(program, run_name="__main__")
    threading._shutdown()  # type: ignore[attr-defined] # as the interpreter does: wait for the other threads to end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _run(_main()[0])
