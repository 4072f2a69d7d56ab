"""Records, profiles and comparisons as HTML, data frames and pictures."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import hide
from run_records import a_record

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.results import BatchCost, Comparison, Interval, ModelCost, Profile
from ml_energy_callbacks.record.schema import LatencyRecord

NASTY = "<script>alert(1)</script>"


def a_cost(joules: float) -> dict[str, Any]:
    return {
        "joules_per_sample": Interval(mean=joules, half_width=0.05 * joules),
        "joules_per_sample_above_idle": None,
        "wh_per_1000_samples": joules / 3.6,
        "samples_per_second": Interval(mean=100.0, half_width=None),
        "latency": LatencyRecord(batches=10, p50_s=0.01, p95_s=0.02, p99_s=0.03),
        "repeats": 10,
        "state": "measured",
        "note": None,
    }


FINDINGS: dict[str, Any] = {
    "idle_watts": None,
    "relative_uncertainty": 0.05,
    "provenance": "estimated",
    "devices": ["cpu:0"],
    "relative_width": 0.05,
    "seconds": 10.0,
    "differences": [],
    "warnings": [NASTY],
}


def a_profile() -> Profile:
    sizes = [BatchCost(batch_size=size, **a_cost(1 / size)) for size in (1, 8)]
    return Profile(**FINDINGS, sizes=sizes, latency_limit_s=None, best=8, alike=[], candidates=[8])


def a_comparison() -> Comparison:
    models = [
        ModelCost(**a_cost(joules), name=name, accuracy=accuracy, size_bytes=None, pareto=True)
        for name, joules, accuracy in (("small", 0.5, 0.8), (NASTY, 1.0, 0.9))
    ]
    return Comparison(**FINDINGS, models=models)


def test_record_shows_headline_bars_table_and_first_hint() -> None:
    record = a_record(model=NASTY, tags={"team": NASTY})
    html = record._repr_html_()
    assert "<script" not in html
    order = ["measured", "<dt>Energy</dt>", "Energy by stage and phase", "Energy by stage</caption>", "Hint: ", "<details>"]
    places = [html.index(part) for part in order]
    assert places == sorted(places)
    assert len(html) < 150_000


def test_record_as_dictionary_is_its_file() -> None:
    record = a_record()
    assert msgspec.convert(record.to_dict(), type(record)) == record


def test_meter_that_never_started_shows_nothing() -> None:
    assert EnergyMeter(verbose=False)._repr_html_() is None


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_record_as_data_frame(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    hide(monkeypatch, "polars" if package == "pandas" else "pandas")
    record = a_record(epochs=3, slices=10)
    stages, epochs, power = (record.to_frame(rows) for rows in ("stages", "epochs", "power"))
    assert type(stages).__module__.startswith(package)
    assert list(stages["stage"]) == ["train", "validate", "other"]
    assert next(iter(stages["compute_joules"])) == pytest.approx(0.8 * 0.85 * 7200)
    assert list(epochs["index"]) == [0, 0, 1, 1, 2, 2]
    assert {"val_acc", "train_loss", "gpu:0_joules", "joules_per_sample"} <= set(epochs.columns)
    assert power.shape == (20, 5)


def test_metric_of_the_users_replaces_no_column() -> None:
    pytest.importorskip("pandas")
    record = a_record(epochs=1, slices=1)
    joules = record.epochs[0].joules
    record.epochs[0].metrics = {"joules": 1.0, "loss": 2.0}
    row = record.to_frame("epochs").iloc[0]
    assert (row["joules"], row["metric_joules"], row["loss"]) == (joules, 1.0, 2.0)


def test_data_frame_without_a_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "pandas")
    hide(monkeypatch, "polars")
    with pytest.raises(ConfigurationError, match="requires pandas or polars: pip install pandas"):
        a_record().to_frame()


def test_unknown_rows_of_a_data_frame_are_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match="use stages, substages, epochs or power"):
        a_record().to_frame("batches")  # type: ignore[arg-type]


def test_pictures_are_saved_for_a_browser(tmp_path: Path) -> None:
    picture = a_record().plot()
    assert "4 pictures of ResNet" not in repr(picture)
    assert repr(picture).startswith("<5 pictures of ResNet")
    assert picture._repr_html_().count("<figure>") == 5
    picture.save(tmp_path / "energy.html")
    assert (tmp_path / "energy.html").read_text().count("<figure>") == 5
    with pytest.raises(ConfigurationError, match="writable folder"):
        picture.save(tmp_path / "missing" / "energy.html")


@pytest.mark.parametrize("made", [a_profile, a_comparison])
def test_findings_show_pictures_table_and_notes(made: Any) -> None:
    findings = made()
    html = findings._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "Energy of a prediction by" in html
    assert "estimated" in html
    assert msgspec.convert(findings.to_dict(), type(findings)) == findings
    assert findings.plot()._repr_html_().count("<figure>") == (1 if made is a_profile else 2)


def test_profile_names_the_best_size_first() -> None:
    assert "<p><strong>Lowest energy per sample: batch size 8.</strong></p>" in a_profile()._repr_html_()


def test_findings_as_data_frame() -> None:
    pytest.importorskip("pandas")
    sizes = a_profile().to_frame()
    assert list(sizes["batch_size"]) == [1, 8]
    assert list(sizes["joules_per_sample_mean"]) == [1.0, 0.125]
    assert list(sizes["latency_p95_s"]) == [0.02, 0.02]
    assert list(a_comparison().to_frame()["name"]) == ["small", NASTY]


def test_showing_a_record_imports_no_data_frames() -> None:
    before = {"pandas", "polars"} & set(sys.modules)
    a_record()._repr_html_()
    assert {"pandas", "polars"} & set(sys.modules) == before
