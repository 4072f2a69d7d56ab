"""The benchmark's harness, at a scale that says nothing about the tools."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# One worker runs the benchmark, for all of these.
pytestmark = pytest.mark.xdist_group("smoke")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOOLS = {"ours", "zeus", "codecarbon", "carbontracker"}
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "results.json"
    command = [sys.executable, "-m", "side_by_side", "--smoke", "--json", str(file)]
    # The harness is tried, not the tools: threads that wait for each other in busy loops are not needed.
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert "held" in done.stdout or "missed" in done.stdout, done.stdout
    return json.loads(file.read_text(encoding="utf-8"))


def tables(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [table for section in results.values() for table in section["tables"]]


def test_every_section_has_a_table(results: Mapping[str, Any]) -> None:
    assert all(section["tables"] for section in results.values())
    assert {"overhead", "accuracy", "scaling", "own-energy"} <= results.keys()


def test_every_cell_has_a_value_or_a_reason(results: Mapping[str, Any]) -> None:
    for table in tables(results):
        for name, row in table["rows"].items():
            assert len(row) == len(table["columns"]), (table["title"], name)
            for cell in row:
                assert cell["value"] is not None or cell["note"], (table["title"], name, cell)


def test_every_tool_is_in_the_tables_that_compare_tools(results: Mapping[str, Any]) -> None:
    for table in tables(results):
        if "zeus" in table["rows"]:
            assert table["rows"].keys() >= TOOLS, table["title"]


def test_no_peer_failed_to_mark_a_batch(results: Mapping[str, Any]) -> None:
    hooks = results["overhead"]["tables"][0]["rows"]
    for tool in TOOLS - {"carbontracker"}:
        assert all(cell["value"] is not None for cell in hooks[tool]), (tool, hooks[tool])


def test_every_bar_says_what_was_found(results: Mapping[str, Any]) -> None:
    bars = [bar for section in results.values() for bar in section["bars"]]
    assert bars
    assert all(bar["asked"] and bar["got"] for bar in bars), bars
