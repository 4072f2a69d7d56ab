"""Run the frameworks' own suites with our callback in every loop and without: `tox -e upstream`.

`LIGHTNING_SOURCE`, `KERAS_SOURCE` and `TRANSFORMERS_SOURCE` name the checkouts; a framework without one is left out. Arguments
are passed on to pytest, paths within the checkouts in place of those of the suites. What fails with the callback and passes
without it is listed, and makes the exit status 1.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Suite:
    """A framework's suite.

    Attributes:
        variable: The environment variable that names its checkout.
        sources: The folder in it from which the framework is imported.
        tests: Its tests of loops and of callbacks.
    """

    variable: str
    sources: str
    tests: tuple[str, ...]


SUITES = {
    "lightning": Suite("LIGHTNING_SOURCE", "src", ("tests/tests_pytorch",)),
    "keras": Suite("KERAS_SOURCE", ".", ("keras/src/callbacks", "keras/src/trainers", "keras/src/models")),
    "transformers": Suite("TRANSFORMERS_SOURCE", "src", ("tests/trainer",)),
}


def outcomes(suite: Suite, source: Path, added: str | None, arguments: list[str]) -> dict[str, str]:
    """Run a suite, with the callback where a framework is named, and return the outcome of each test by its id."""
    paths = [argument for argument in arguments if (source / argument.partition("::")[0]).exists()]
    chosen = arguments if paths else [*(path for path in suite.tests if (source / path).exists()), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "outcomes"
        place.touch()
        path = [str(Path(__file__).parent), str(source / suite.sources), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "ML_ENERGY_OUTCOMES": str(place)}
        if added is not None:
            environment["ML_ENERGY_ADDED"] = added
        command = [sys.executable, "-m", "pytest", "-p", "callback_everywhere", "-p", "no:cacheprovider", "-q", *chosen]
        subprocess.run(command, cwd=source, env=environment, check=False)
        return dict(json.loads(line) for line in place.read_text("utf-8").splitlines())


def compare(name: str, suite: Suite, source: Path, arguments: list[str]) -> list[str]:
    """Return the ids of the tests that pass without the callback, and do not with it."""
    without = outcomes(suite, source, None, arguments)
    measured = outcomes(suite, source, name, arguments)
    passed = [test for test, outcome in without.items() if outcome == "passed"]
    print(f"{name}: {len(without)} tests, of which {len(passed)} pass without the callback")  # noqa: T201 - its result
    return [test for test in passed if measured.get(test) != "passed"]


def main(arguments: list[str]) -> int:
    """Compare each suite that has a checkout; return the exit status."""
    given = {name: (suite, os.environ[suite.variable]) for name, suite in SUITES.items() if os.environ.get(suite.variable)}
    if not given:
        print(f"Name a checkout by {', '.join(suite.variable for suite in SUITES.values())}.", file=sys.stderr)  # noqa: T201
        return 2
    failed = 0
    for name, (suite, source) in given.items():
        found = compare(name, suite, Path(source).absolute(), arguments)
        failed += len(found)
        for test in found or ["nothing fails because of the callback"]:
            print(f"  {test}")  # noqa: T201 - as above
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
