"""Run the command `ml-energy`, in this process or in another one."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any, TextIO

import pytest

from ml_energy_callbacks import cli

INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Start of a program that is to be interrupted: otherwise it inherits an ignored SIGINT, as under `nohup`, from the tests."""

COMMAND = (
    sys.executable,
    "-c",
    f"{INTERRUPTIBLE}import sys; sys.argv[0] = 'ml-energy'; from ml_energy_callbacks.cli import main; main()",
)

_IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that an interpreter ignores by default."""


def ml_energy(
    *args: object, columns: int = 80, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Run the command in this process, as in a process without a terminal; an error that it does not handle is raised.

    Args:
        args: The arguments after `ml-energy`.
        columns: Width of the output.
        folder: Working directory of the command.
        environment: Environment variables that are set for the command.
    """
    argv = ["ml-energy", *map(str, args)]
    with (
        contextlib.chdir(folder or Path.cwd()),
        _environment({"COLUMNS": str(columns), **(environment or {})}),
        _interpreter(argv),
        _captured(sys.stdin) as (out, err),
    ):
        try:
            cli.main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
            if code is not None and not isinstance(code, int):
                sys.stderr.write(f"{code}\n")
                code = 1
    return CompletedProcess(argv, int(code or 0), _text(out), _text(err))  # type: ignore[call-overload]


def ml_energy_process(
    *args: object,
    columns: int = 80,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> CompletedProcess[str]:
    """Run the command in a separate process, with the same arguments as :func:`ml_energy`."""
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=folder,
        env={**os.environ, "COLUMNS": str(columns), **(environment or {})},
    )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def _interpreter(argv: list[str]) -> Iterator[None]:
    """Set the arguments and warnings of a program, and afterwards remove the modules that it imported from its folder."""
    here, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    before, sys.argv = sys.argv, argv
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # its name is in the help
            warnings.simplefilter("default")
            for ignored in _IGNORED:
                warnings.simplefilter("ignore", ignored)
            warnings.showwarning = _show_warning
            yield
    finally:
        sys.argv, sys.path[:] = before, path
        for name in sys.modules.keys() - modules:
            file, root = getattr(sys.modules[name], "__file__", None), here / name.partition(".")[0]
            # Not those of an environment in this folder: a library that is imported twice has two classes of each error.
            if file is not None and (Path(file) == root.with_suffix(".py") or Path(file).is_relative_to(root)):
                del sys.modules[name]


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: Any = None
) -> None:
    (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


@contextlib.contextmanager
def _captured(stdin: TextIO) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Capture stdout and stderr, which are not terminals, and provide no input."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(out, encoding="utf-8", write_through=True)) as ours,
        contextlib.redirect_stderr(io.TextIOWrapper(err, encoding="utf-8", write_through=True)) as theirs,
    ):
        sys.stdin = io.StringIO()
        try:
            yield out, err
        finally:
            sys.stdin = stdin
            ours.detach()
            theirs.detach()


def _text(written: io.BytesIO) -> str:
    """Return the output, with line ends as :mod:`subprocess` returns them."""
    return io.TextIOWrapper(io.BytesIO(written.getvalue()), encoding="utf-8").read()


def hide(patch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package appear not to be installed, whether it has been imported or not."""
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        patch.setitem(sys.modules, name, None)
