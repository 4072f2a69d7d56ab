"""What the tests of the Trainer share."""

import os
from collections.abc import Iterator
from importlib import import_module

import pytest
from forked import Warm, programs_environment, warm


@pytest.hookimpl(trylast=True)  # after the framework was chosen
def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process, which has not imported torch; it needs no other framework, unless others are tested as well."""
    # On a busy machine torch's threads wait for each other in busy loops, for the smallest of networks.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if config.getoption("--framework") == "transformers":
        import_module("only_transformers")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """What runs programs that have the Trainer imported."""
    environment = programs_environment(OMP_NUM_THREADS="1")
    modules = ("only_transformers", "trainer_models", "ml_energy_callbacks.transformers")
    with warm(tmp_path_factory.mktemp("programs"), *modules, environment=environment) as process:
        yield process
