"""One backend for all tests of a process, as Keras requires, and forked processes with that backend imported."""

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
from forked import Warm, programs_environment, warm

ON_EACH_BACKEND = {
    "test_promises": (
        "test_every_stage_is_in_the_record_and_the_record_adds_up",
        "test_an_exception_in_training_leaves_a_complete_record",
        "test_training_is_bit_for_bit_the_same",
        "test_the_parts_of_batches_add_up_or_have_a_reason",
    ),
    "test_control": (
        "test_a_budget_stops_the_training_at_the_end_of_a_batch",
        "test_early_stopping_ends_a_training_that_gains_too_little",
        "test_an_interrupted_training_goes_on_with_its_budget_and_its_patience",
    ),
    "test_truth": ("test_total_stages_phases_and_wait_energy_are_true",),
}
"""Tests of every framework that depend on Keras's backend; in a quick run, the others are run on the first backend only."""


@pytest.hookimpl(trylast=True)  # after the backend was chosen
def pytest_configure() -> None:
    """Prepare this process for the backend, which has not been imported yet."""
    # On a busy machine, torch's threads wait for each other in busy loops, even for the smallest networks.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    backend = os.environ.get("KERAS_BACKEND")
    if backend == "torch":
        import_module("without_tensorflow")  # the tests here do not need it
    if backend == "jax":
        # TensorFlow is installed only for tf.data: TensorBoard's reader, which looks for it, is made to use its own files.
        sys.modules["tensorboard.compat.notf"] = ModuleType("tensorboard.compat.notf")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, in a quick run, the tests that are the same on each backend and run on another one."""
    from frameworks.keras_loops import BACKEND, FIRST_BACKEND  # noqa: PLC0415 - it imports Keras, whose backend is chosen now

    if config.getoption("--full") or BACKEND == FIRST_BACKEND:
        return
    left_out = [item for item in items if item.path.parent.name == "contract" and not _is_wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_wanted(item: pytest.Item) -> bool:
    wanted = ON_EACH_BACKEND.get(item.path.stem, ())
    module = item.getparent(pytest.Module)
    assert module is not None
    missing = [name for name in wanted if not hasattr(module.obj, name)]
    if missing:
        message = f"{item.path} has no {', '.join(missing)}"
        raise pytest.UsageError(message)
    return item.name.partition("[")[0] in wanted


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Runs programs; with TensorFlow and torch, Keras is already imported."""
    environment = programs_environment(TF_CPP_MIN_LOG_LEVEL="3")
    backend = os.environ.get("KERAS_BACKEND")
    hidden = () if backend == "tensorflow" else ("without_tensorflow",)
    # JAX starts threads when it is imported, which a forked process does not have: there each program imports it itself.
    modules = hidden if backend == "jax" else (*hidden, "frameworks.keras_loops", "sklearn.datasets")
    with warm(tmp_path_factory.mktemp("programs"), *modules, environment=environment) as process:
        yield process
