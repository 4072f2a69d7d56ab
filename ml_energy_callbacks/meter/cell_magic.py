"""The cell magic ``%%energy`` of IPython: measures a cell."""

import ast
import importlib
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter


def load_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython's
    """Add the magic to IPython, as ``%load_ext ml_energy_callbacks`` asks."""

    def energy(line: str, cell: str) -> object:
        """Measure the energy of a cell, and show its record.

        Usage: ``%%energy`` or ``%%energy NAME``, which also assigns the record to this name.
        """
        name = line.strip()
        if name and not name.isidentifier():
            msg = f"%%energy takes the name of a variable for the record, such as %%energy used, and not {name!r}."
            raise ConfigurationError(msg)
        with EnergyMeter(verbose=False) as meter:
            value = _run(shell, cell)
        if name:
            shell.user_ns[name] = meter.record
        importlib.import_module("IPython.display").display(meter.record)
        return value

    shell.register_magic_function(energy, magic_kind="cell", magic_name="energy")


def _run(shell: Any, cell: str) -> object:  # noqa: ANN401 - IPython's
    """Run a cell, and return the value of its last expression."""
    source = shell.transform_cell(cell)
    name = shell.compile.cache(source)
    *statements, last = shell.compile.ast_parse(source, filename=name).body or [ast.Pass()]
    if not isinstance(last, ast.Expr):
        statements.append(last)
    exec(shell.compile(ast.Module(statements, []), name, "exec"), shell.user_ns)  # noqa: S102 - as IPython runs each cell
    if isinstance(last, ast.Expr):
        return eval(shell.compile(ast.Expression(last.value), name, "eval"), shell.user_ns)  # noqa: S307 - the same
    return None
