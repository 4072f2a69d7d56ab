"""What `tox -e upstream` does with a suite: it lists what fails with our callback and passes without it."""

import subprocess
import sys
from pathlib import Path

COMPARE = Path(__file__).parents[1] / "upstream" / "compare.py"

SUITE = """
import pytorch_lightning as pl
import pytest
import lightning_models

def fit(folder, **options):
    trainer = lightning_models.trainer(folder, None, **options)
    trainer.fit(lightning_models.module(), lightning_models.loader())
    return trainer

def test_that_asks_for_loops(tmp_path):
    assert fit(tmp_path).current_epoch == 2

def test_that_lists_callbacks(tmp_path):
    assert not fit(tmp_path).callbacks

def test_that_fails_anyway(tmp_path):
    assert fit(tmp_path).current_epoch == 3

@pytest.mark.skip
def test_that_is_skipped():
    pass

def test_of_bare_trainers(tmp_path):
    assert pl.Trainer(barebones=True, accelerator="cpu").barebones
"""


def test_what_fails_with_the_callback_alone_is_listed(tmp_path: Path) -> None:
    tests = tmp_path / "tests" / "tests_pytorch"
    tests.mkdir(parents=True)
    (tests / "test_small.py").write_text(SUITE, encoding="utf-8")
    (tests / "conftest.py").write_text(f"import sys; sys.path.insert(0, {str(COMPARE.parents[1])!r}); import only_lightning\n")
    environment = {"PATH": "", "LIGHTNING_SOURCE": str(tmp_path)}
    ended = subprocess.run([sys.executable, COMPARE], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    shown = ended.stdout.splitlines()
    place = next(number for number, line in enumerate(shown) if line.startswith("lightning: "))
    assert shown[place:] == [
        "lightning: 5 tests, of which 3 pass without the callback",
        "  tests/tests_pytorch/test_small.py::test_that_lists_callbacks",
    ]


def test_without_a_checkout_it_says_what_to_name() -> None:
    ended = subprocess.run([sys.executable, COMPARE], env={}, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "Name a checkout by LIGHTNING_SOURCE, KERAS_SOURCE, TRANSFORMERS_SOURCE.\n"
