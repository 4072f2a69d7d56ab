"""Options and fixtures for all tests."""

import os
import warnings
from collections.abc import Callable, Iterator

import pytest
from threads import samplers

from ml_energy_callbacks.testing.nvml import SimulatedDriver

# Warnings of the frameworks themselves, which we cannot prevent.
THEIR_OWN = (
    # PyTorch Lightning
    ".*does not have many workers.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
    ".*GPU available but not used.*",
    ".*smaller than the logging interval.*",
    ".*Running in `fast_dev_run` mode.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`trainer.init_module`.*",
    ".*Trying to infer the `batch_size`.*",
    ".*You defined a `validation_step` but have no `val_dataloader`.*",
    ".*`..._dataloader` is set to 0.*",
    ".*torch.*deprecated.*",
    ".*You're resuming from a checkpoint that ended before the epoch ended.*",
    ".*Detected KeyboardInterrupt.*",
    # MLflow's tables
    ".*``noload`` loader strategy is deprecated.*",
    # Keras
    ".*__array__ implementation doesn't accept a copy keyword.*",
    ".*`shuffle=True` was passed, but will be ignored.*",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    parser.addoption("--full", action="store_true", help="run the tests marked `full` too, and all seeds of the others")
    parser.addoption(
        "--framework", help="lightning, transformers or keras-<backend>: what tests/contract and tests/keras run on"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the framework for this process, for its workers and for the processes that the tests start."""
    framework = config.getoption("--framework")
    if framework is not None:
        name, _, backend = framework.partition("-")
        os.environ["ML_ENERGY_FRAMEWORK"] = name
        if backend:
            os.environ["KERAS_BACKEND"] = backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that run only in a full run."""
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to use all seeds instead of the few of a quick run."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def no_thread_lives() -> Callable[[], bool]:
    """Return whether no meter's thread lives that the test started; one of an exception's run may outlive its own test."""
    before = samplers()
    return lambda: samplers() <= before


@pytest.fixture(autouse=True)
def _their_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in THEIR_OWN:
            warnings.filterwarnings("ignore", message)
        yield


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDriver:
    """The simulated NVIDIA driver; a process can load only one."""
    return SimulatedDriver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(driver_library: SimulatedDriver) -> Iterator[SimulatedDriver]:
    """A simulated NVIDIA driver with one GPU of 90 W whose counter refreshes every 100 ms; the test may restart it."""
    driver_library.start()
    yield driver_library
    driver_library.end()
