"""The levers run at a small scale, and their page has a place for what each finds."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "levers"
HELPERS = {"digits", "figures", "findings"}
LEVERS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("figures")


@pytest.mark.parametrize("lever", LEVERS)
def test_lever_finds_accuracy_and_energy(lever: str, figures: ModuleType, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / f"{lever}.py", "--quick", "--json"],
        cwd=tmp_path,
        # PYTHONSAFEPATH keeps a script from its own folder, where its helpers are.
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = figures.Findings(**json.loads(done.stdout))
    assert found.provenance in {"measured", "estimated"}
    assert 0 < found.relative_uncertainty < 1
    assert len(found.rows) >= 2
    for row in found.rows:
        assert 0 < row["accuracy"] <= 1
        assert row["joules_per_sample"] > 0
    headings, rows = found.cells()
    assert {len(row) for row in rows} == {len(headings)}


def test_page_has_a_place_for_each_lever(figures: ModuleType) -> None:
    assert sorted(figures.LEVERS) == LEVERS
    page = figures.PAGE.read_text(encoding="utf-8")
    for name in (*LEVERS, "machine"):
        filled = figures.filled(page, name, f"what {name} found")
        assert f"<!-- {name} -->\nwhat {name} found\n<!-- /{name} -->" in filled


def test_unknown_figures_are_shown_as_unknown(figures: ModuleType) -> None:
    row = {"name": "net", "accuracy": 0.97, "joules_per_sample": None, "half_width": None}
    table = figures.markdown(figures.Findings([row], None, None, ["No device was read."]))
    assert "| net | 97.0 % | - | - |" in table
    assert table.endswith("- No device was read.\n- Joules are unknown, alike in all rows.")


def test_page_without_a_place_is_refused(figures: ModuleType) -> None:
    with pytest.raises(ValueError, match="The page has 0 places for 'pruning'; it needs one: <!-- pruning -->"):
        figures.filled("# Levers", "pruning", "found")
