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
    "filelock",
    "jax",
    "keras",
    "lightning",
    "numpy",
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


def test_numpy_is_imported_as_a_meter_starts_and_not_before() -> None:
    """It takes 0.1 s: in the user's thread, and never in the middle of a run."""
    root = str(Path(ml_energy_callbacks.__file__).parents[1])
    code = f"""
import sys
sys.path.append({root!r})
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.02)
meter = EnergyMeter(backends=[ScriptedBackend([counter])], location="FRA", verbose=False)
print("numpy" in sys.modules)
meter.start()
print("numpy" in sys.modules)
meter.stop()
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split() == ["False", "True"]


def test_a_run_has_grams_without_codecarbon_and_what_it_brings() -> None:
    root = str(Path(ml_energy_callbacks.__file__).parents[1])
    code = f"""
import sys
sys.path.append({root!r})
sys.modules.update(dict.fromkeys(["codecarbon", "pandas", "pycountry"]))  # as if they were not installed
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.02)
with EnergyMeter(backends=[ScriptedBackend([counter])], location="Türkiye", verbose=False) as meter, meter.stage("train"):
    sum(range(3_000_000))
print(meter.record.carbon.location, meter.record.carbon.intensity_g_per_kwh, meter.record.total.co2e_grams > 0)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8").stdout
    assert found.split() == ["TUR", "464.586", "True"]


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
