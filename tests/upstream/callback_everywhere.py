"""A pytest plug-in that adds our callback to every trainer and every fit of a framework, and notes each test's outcome.

Use it as ``-p callback_everywhere``. ``ML_ENERGY_ADDED`` names the framework whose loops get the callback, or is not set;
``ML_ENERGY_OUTCOMES`` names the file that gets a line for each test.
"""

import functools
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_Init = Callable[..., None]

_order = {"passed": 0, "skipped": 1, "failed": 2}
_outcomes: dict[str, str] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Add the callback once the suite has imported the framework in its own way."""
    framework = os.environ.get("ML_ENERGY_ADDED")
    if framework is not None:
        _ADD[framework]()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the worst outcome of a test's set-up, call and tear-down."""
    known = _outcomes.get(report.nodeid, "passed")
    _outcomes[report.nodeid] = max(known, report.outcome, key=_order.__getitem__)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Write a test's outcome at once: a suite may end in a crash."""
    place = os.environ.get("ML_ENERGY_OUTCOMES")
    if place is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(json.dumps([nodeid, _outcomes.get(nodeid, "passed")]) + "\n")


def _folder() -> str:
    """Return a folder for a record, apart from those that the suite looks into."""
    return tempfile.mkdtemp(prefix="energy-")


def _extend(kind: Any, make: Callable[[], Any], wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
    """Have a class add a callback to the argument ``callbacks`` of its ``__init__``, unless it has one of ours."""
    init: _Init = kind.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes a method
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:  # the suite tests what happens then
            return init(self, *args, **kwargs)
        given = bound.arguments.get("callbacks")
        listed = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
        own = make()
        if not any(isinstance(callback, type(own)) for callback in listed) and wanted(bound.arguments):
            bound.arguments["callbacks"] = [*listed, own]
        return init(*bound.args, **bound.kwargs)

    kind.__init__ = __init__


def _add_to_lightning() -> None:
    from ml_energy_callbacks.lightning import EnergyCallback  # noqa: PLC0415 - of the suite's framework alone

    for package in ("lightning.pytorch", "pytorch_lightning"):
        if package in sys.modules:
            trainer = sys.modules[package].Trainer
            _extend(
                trainer, lambda: EnergyCallback(output_dir=_folder(), verbose=False), lambda given: not given.get("barebones")
            )


def _add_to_keras() -> None:
    import keras  # noqa: PLC0415 - as above

    from ml_energy_callbacks.keras import EnergyCallback  # noqa: PLC0415 - as above

    # Those of evaluations within a fit are the fit's own; lists without a model are no loop's.
    _extend(
        keras.callbacks.CallbackList,
        lambda: EnergyCallback(output_dir=_folder(), verbose=False),
        lambda given: given.get("model") is not None,
    )


def _add_to_transformers() -> None:
    from transformers import Trainer  # noqa: PLC0415 - as above

    from ml_energy_callbacks.transformers import EnergyCallback  # noqa: PLC0415 - as above

    _extend(Trainer, lambda: EnergyCallback(output_dir=_folder(), verbose=False))


_ADD = {"lightning": _add_to_lightning, "keras": _add_to_keras, "transformers": _add_to_transformers}
