"""What is tested is what users install."""

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

import ml_energy_callbacks

UNWANTED = (
    "accelerate",
    "codecarbon",
    "jax",
    "keras",
    "lightning",
    "pandas",
    "pytorch_lightning",
    "requests",
    "tensorflow",
    "torch",
    "transformers",
)


def test_the_installed_wheel_is_what_is_tested() -> None:
    prefix = os.environ.get("ML_ENERGY_TESTED_PREFIX")
    if prefix is None:
        pytest.skip("only tox says where it installed the wheel")
    assert Path(ml_energy_callbacks.__file__).is_relative_to(prefix)
    assert "site-packages" in ml_energy_callbacks.__file__


def test_the_wheel_tells_type_checkers_that_it_is_typed() -> None:
    assert Path(ml_energy_callbacks.__file__).with_name("py.typed").is_file()


def test_importing_the_package_pulls_in_nothing_heavy() -> None:
    # The child finds the package where we did: by the same path, which a plain `pytest` in a checkout needs.
    root = str(Path(ml_energy_callbacks.__file__).parents[1])
    code = (
        f"import sys; sys.path.append({root!r}); import ml_energy_callbacks; "
        f"print(*sorted(set({UNWANTED!r}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split() == []


@pytest.mark.parametrize("name", ["keras", "transformers"])
def test_a_framework_that_is_missing_is_named_with_its_extra(name: str) -> None:
    if any(distribution.name == name for distribution in distributions()):
        pytest.skip(f"{name} is installed")
    root = str(Path(ml_energy_callbacks.__file__).parents[1])
    code = f"import sys; sys.path.append({root!r}); import ml_energy_callbacks.{name}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"pip install 'ml-energy-callbacks[{name}]'" in last
