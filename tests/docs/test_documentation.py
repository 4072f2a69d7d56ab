"""Every example runs, and so does every Python block of the Markdown pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Warm
from trackers import OFFLINE

from ml_energy_callbacks import load_record
from ml_energy_callbacks.sinks.figures import FIGURES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

INTEGRATIONS = ROOT / "examples" / "integrations"
ARGUMENTS = {"lightning_cli.py": ["fit", "--config", INTEGRATIONS / "lightning_cli.yaml"], "optuna_search.py": [3]}
NO_PROGRAMS = {"digits.py", "ray_tune_search.py"}
"""A helper; and an example that the tests of Ray run."""
IN_FULL = {"mlflow_autolog.py", "torchrun_loop.py", "wandb_offline.py"}
"""These take seconds each; what they show is also tested with each framework."""

# A block that cannot run by itself says so in its fence: ```python no-test
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> str:
    """Return the page's Python blocks as one program whose line numbers are those of the page."""
    text = page.read_text(encoding="utf-8")
    program = ""
    for block in BLOCK.finditer(text):
        program += "\n" * (text.count("\n", 0, block.start(1)) - program.count("\n")) + block[1]
    return program


def run(*arguments: object, folder: Path) -> None:
    """Run a program in a fresh process."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


# Of Keras, the tests of each of its backends run the example.
@pytest.mark.parametrize(
    "example",
    [pytest.param(path, marks=[pytest.mark.full] if path.name.startswith("keras_") else []) for path in EXAMPLES],
    ids=lambda path: path.name,
)
@pytest.mark.xdist_group("programs")
def test_example_runs(example: Path, tmp_path: Path, program: Warm) -> None:
    if example.name.startswith("keras_"):
        run(example, folder=tmp_path)  # it chooses its backend
    else:
        program.run(example, folder=tmp_path)


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, marks=[pytest.mark.full] if path.name in IN_FULL else [])
        for path in sorted(INTEGRATIONS.glob("*.py"))
        if path.name not in NO_PROGRAMS
    ],
    ids=lambda path: path.name,
)
@pytest.mark.xdist_group("programs")
def test_integration_measures_energy(example: Path, tmp_path: Path, program: Warm) -> None:
    if example.name == "torchrun_loop.py":
        run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, example, folder=tmp_path)
    else:
        # A script's own folder, where its helper is, is not searched.
        environment = {**OFFLINE, "PYTHONPATH": str(INTEGRATIONS)}
        program.run(example, *ARGUMENTS.get(example.name, []), folder=tmp_path, environment=environment)
    records = [load_record(path) for path in tmp_path.rglob("energy.json")]
    assert records
    for record in records:
        assert record.run.status == "completed"
        assert record.total.joules > 0
        assert sum(stage.samples or 0 for stage in record.stages.values()) > 0


def test_the_page_of_integrations_shows_each_of_them() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    for path in INTEGRATIONS.glob("*.*"):
        assert f"](../examples/integrations/{path.name})" in page


def page_program(page: Path, folder: Path) -> Path:
    """Return a file with the page's Python blocks."""
    blocks = folder / f"page_{page.stem}.py"  # not to shadow a package
    blocks.write_text(python_blocks(page), encoding="utf-8")
    return blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
@pytest.mark.xdist_group("pages")
def test_python_blocks_of_a_page_run_one_after_another(page: Path, tmp_path: Path, program: Warm) -> None:
    if page.name == "README.md":
        run(page_program(page, tmp_path), folder=tmp_path)
    else:
        program.run(page_program(page, tmp_path), folder=tmp_path)


@pytest.mark.full
def test_the_page_of_keras_runs_on_its_default_backend(tmp_path: Path) -> None:
    run(page_program(ROOT / "docs" / "keras.md", tmp_path), folder=tmp_path)


def test_the_page_of_services_names_every_figure() -> None:
    page = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
    for figure in FIGURES:
        assert f"| `{figure.prometheus}` | `{figure.name}` |" in page


def test_the_new_backend_of_the_page_passes_the_suite_and_is_short(tmp_path: Path) -> None:
    page = ROOT / "docs" / "new-backend.md"
    backend = next(block[1] for block in BLOCK.finditer(page.read_text(encoding="utf-8")))
    assert len(backend.splitlines()) < 40
    program = tmp_path / "test_page.py"
    program.write_text(python_blocks(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 passed" in done.stdout
