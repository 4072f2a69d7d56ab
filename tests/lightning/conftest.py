"""Fixtures of the Lightning tests."""

import os
import subprocess
from collections.abc import Iterator
from importlib import import_module

import pytest
from forked import Warm, programs_environment, warm

PACKAGES = ("pytorch_lightning", "lightning.pytorch")

CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
long seconds_ahead;
static int (*real)(clockid_t, struct timespec *);
int clock_gettime(clockid_t id, struct timespec *t) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += seconds_ahead;
    return failed;
}
"""
"""A wall clock that a process can set ahead."""


@pytest.hookimpl(trylast=True)  # after the framework was chosen
def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process before torch is imported; it needs no other framework, unless others are tested as well."""
    # On a busy machine, torch's threads wait for each other in busy loops, even for the smallest networks.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if config.getoption("--framework") == "lightning":
        import_module("only_lightning")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Runs programs with Lightning imported, and with a wall clock that can be set ahead."""
    clock = tmp_path_factory.mktemp("clock") / "clock.so"
    compiler = ["cc", "-x", "c", "-shared", "-fPIC", "-o", str(clock), "-", "-ldl"]
    subprocess.run(compiler, input=CLOCK, text=True, check=True)
    environment = programs_environment(OMP_NUM_THREADS="1", LD_PRELOAD=str(clock))
    modules = ("only_lightning", "ml_energy_callbacks.lightning", *(f"{package}.loggers" for package in PACKAGES))
    with warm(tmp_path_factory.mktemp("programs"), *modules, environment=environment) as process:
        yield process
