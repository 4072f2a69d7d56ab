"""The script that draws the pictures of the documentation."""

from pathlib import Path
from typing import Any

import pytest
from run_records import a_record

from ml_energy_callbacks.record.load import dump_json

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

from board import write_run
from pictures import draw

pytestmark = pytest.mark.xdist_group("browser")


def test_the_pictures_of_the_documentation_are_drawn(browser: Any, tmp_path: Path) -> None:
    for i in range(2):
        record = a_record(seed=i)
        write_run(tmp_path / "logs" / f"version_{i}", record)
        (tmp_path / "logs" / f"version_{i}" / "energy.json").write_text(dump_json(record))
    draw(browser, tmp_path / "logs", tmp_path)
    for name in ("tab", "page"):
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 20_000
    assert not (tmp_path / "page.html").exists()
