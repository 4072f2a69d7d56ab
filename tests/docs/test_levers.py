"""The levers run at a small scale, and their page has a place for what each finds."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from forked import Warm

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "levers"
HELPERS = {"digits", "figures", "findings"}
LEVERS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("figures")


@pytest.mark.parametrize("lever", LEVERS)
@pytest.mark.xdist_group("programs")
def test_lever_finds_accuracy_and_energy(lever: str, figures: ModuleType, tmp_path: Path, program: Warm) -> None:
    # A script's own folder, where its helpers are, is not searched.
    done = program.run(FOLDER / f"{lever}.py", "--quick", "--json", folder=tmp_path, environment={"PYTHONPATH": str(FOLDER)})
    found = figures.Findings(**json.loads(done.output))
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
