"""Notebooks that are executed by nbclient, and their outputs as a reader sees them."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import opened

from ml_energy_callbacks.record.load import load_record

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

pytestmark = pytest.mark.xdist_group("browser")

FIT = """
import torch, warnings
from {lightning} import LightningModule, Trainer
from ml_energy_callbacks.lightning import EnergyCallback
warnings.simplefilter("ignore")

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(32, 2)
    def training_step(self, batch, _):
        loss = self.layer(batch).square().mean()
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

energy = EnergyCallback(location="FRA")
data = torch.utils.data.DataLoader(torch.ones(256, 32), batch_size=32)
trainer = Trainer(max_epochs=2, callbacks=[energy], logger=False, enable_checkpointing=False, enable_progress_bar=False,
                  enable_model_summary=False, default_root_dir={folder!r}, accelerator="cpu")
trainer.fit(Net(), data)
"""


def run(*cells: str, allow_errors: bool = False) -> list[list[Any]]:
    """Execute cells in a kernel of their own, and return their outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=allow_errors).execute()
    return [cell.outputs for cell in notebook.cells]


def stdout(outputs: Sequence[Any]) -> str:
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def html(outputs: Sequence[Any]) -> str:
    (found,) = (output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {}))
    return str(found)


def visible(fragment: str) -> str:
    """Return the texts of a fragment, without its style sheet."""

    class Texts(HTMLParser):
        texts: list[str] = []  # noqa: RUF012 - one for each call
        tag = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tag = tag

        def handle_data(self, data: str) -> None:
            if self.tag != "style":
                self.texts.append(data)

    parser = Texts()
    parser.feed(fragment)
    return " ".join(parser.texts)


@pytest.mark.filterwarnings("ignore")  # of the kernel's own packages
def test_fit_in_a_notebook_shows_its_energy(tmp_path: Path) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            lightning = pytest.importorskip(name).__name__
            break
        except pytest.skip.Exception:
            continue
    else:
        pytest.skip("Lightning is not installed")
    show = "print(energy.record_path); energy"
    frames = "energy.record.to_frame('epochs')[['stage', 'index', 'joules', 'train_loss']]"
    fit, shown, framed, plotted = run(
        FIT.format(lightning=lightning, folder=str(tmp_path)), show, frames, "energy.record.plot()"
    )
    assert stdout(fit).startswith("Energy  ")
    assert "Train   " in stdout(fit)
    text = visible(html(shown))
    record = load_record(stdout(shown).strip())
    assert record.run.status == "completed"
    for expected in (
        "Energy",
        "Train",
        "Record",
        "Energy by stage and phase",
        "Energy by stage",
        "Phases, power, epochs and devices",
    ):
        assert expected in text
    assert "train_loss" in html(framed)
    assert visible(html(plotted)).startswith("Energy by stage and phase")


@pytest.mark.filterwarnings("ignore")
def test_cell_magic_measures_a_cell(browser: Any, tmp_path: Path) -> None:
    load, cell, named, failing, refused = run(
        "%load_ext ml_energy_callbacks",
        "%%energy used\nx = sum(range(1_000_000))\nprint('in the cell')\nx + 1",
        "print(x, used.total.seconds > 0, sorted(used.stages)); used",
        "%%energy\n1 / 0",
        "%%energy not a name\n1",
        allow_errors=True,
    )
    assert load == []
    assert stdout(cell) == "in the cell\n"
    assert [output["data"]["text/plain"] for output in cell if output["output_type"] == "execute_result"] == ["499999500001"]
    assert stdout(named) == "499999500000 True ['other']\n"
    assert [output["ename"] for output in failing] == ["ZeroDivisionError"]
    assert "takes the name of a variable" in refused[0]["evalue"]
    page = tmp_path / "cell.html"
    page.write_text(f"<!DOCTYPE html><html lang=en><title>x</title><body><main><h1>x</h1>{html(named)}</main></body></html>")
    for dark in (False, True):
        with opened(browser, page, dark=dark) as seen:
            assert (seen.console, seen.requests, seen.violations()) == ([], [], [])
            assert seen.page.locator(".headline dt").first.inner_text() == "Energy"
            assert not seen.page.get_by_text("Devices of the total").is_visible()
            seen.page.click("summary")
            assert seen.page.get_by_text("Devices of the total").is_visible()


@pytest.mark.filterwarnings("ignore")
def test_meter_in_a_notebook_prints_its_headline_and_shows_itself() -> None:
    block = "from ml_energy_callbacks import EnergyMeter\nmeter = EnergyMeter(location='FRA')\nmeter"
    before, used = run(block, "with meter:\n    pass\nmeter")
    assert "text/html" not in before[0]["data"]
    assert stdout(used).startswith("Energy  ")
    assert "Energy" in visible(html(used))
    assert json.dumps(used)
