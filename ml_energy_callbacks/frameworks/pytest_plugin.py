"""A plug-in of pytest: the fixture ``energy``, and the options that compare what it measures with a baseline.

Importing this imports no more than pytest: what measures is imported when a test asks for the fixture.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from ml_energy_callbacks.frameworks.measured_tests import FunctionEnergy, MeasuredTests

_DEFAULT_SECONDS: Final = 60.0
_ALONE: Final = "Devices measure the energy of all that runs, so that tests which measure it cannot run side by side."


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("energy", "energy of functions")
    group.addoption("--energy-baseline", metavar="FILE", help="compare with this file, which --energy-save has written")
    group.addoption("--energy-save", metavar="FILE", help="write what is measured into this file, as a baseline")
    group.addoption(
        "--energy-fail-if",
        metavar="GROWTH",
        help="fail a test whose energy has grown and may have grown by this much or more, such as +5%%",
    )
    group.addoption(
        "--energy-seconds",
        metavar="SECONDS",
        type=float,
        default=_DEFAULT_SECONDS,
        help="measure a function for at most this long; default: 60",
    )


_TESTS: Final = pytest.StashKey["MeasuredTests"]()


def pytest_configure(config: pytest.Config) -> None:
    """Check the options."""
    if any(config.getoption(f"energy_{name}") is not None for name in ("baseline", "save", "fail_if")):
        if _is_distributed(config):
            msg = f"{_ALONE} Leave out -n, or the options of energy."
            raise pytest.UsageError(msg)
        _tests(config)


def _tests(config: pytest.Config) -> "MeasuredTests":
    """Return what the session has measured so far."""
    if _TESTS not in config.stash:
        from ml_energy_callbacks.exceptions import EnergyError  # noqa: PLC0415 - see above
        from ml_energy_callbacks.frameworks.measured_tests import MeasuredTests  # noqa: PLC0415 - as above

        try:
            config.stash[_TESTS] = MeasuredTests(
                baseline=_path(config, "baseline"),
                save=_path(config, "save"),
                fail_if=config.getoption("energy_fail_if"),
                max_seconds=config.getoption("energy_seconds"),
            )
        except EnergyError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_TESTS]


def _path(config: pytest.Config, name: str) -> Path | None:
    given = config.getoption(f"energy_{name}")
    return None if given is None else Path(given).absolute()  # a test may change the directory


def _is_distributed(config: pytest.Config) -> bool:
    """Return whether pytest-xdist runs tests in processes of its own."""
    return hasattr(config, "workerinput") or bool(config.getoption("tx", None))


@pytest.fixture
def energy(request: pytest.FixtureRequest) -> "FunctionEnergy":
    """Measure the energy of functions.

    ``energy(function)`` measures it in turns with a reference and compares it with the baseline, if there is one;
    ``energy.compare(before, after)`` measures two functions in turns. Inside of them, ``with energy.part("forward"):`` marks a
    part.
    """
    if _is_distributed(request.config):
        pytest.skip(_ALONE)
    return _tests(request.config).energy_of(request.node.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Write the baseline, unless the tests were only collected, or interrupted."""
    tests = session.config.stash.get(_TESTS, None)
    broken = exitstatus in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR}
    if tests is not None and not broken and not session.config.option.collectonly:
        tests.save()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was measured."""
    tests = config.stash.get(_TESTS, None)
    text = "" if tests is None else tests.to_text()
    if text:
        terminalreporter.section("energy")
        terminalreporter.write_line(text)
