"""Training against inference over the life of a model."""

import copy
import json
import random
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command import ml_energy
from msgspec.structs import replace
from privilege import unprivileged
from rich.console import Console

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.schema import RunRecord, StageRecord
from ml_energy_callbacks.report import quantity
from ml_energy_callbacks.report.lifecycle import Lifecycle, lifecycle, load_records
from ml_energy_callbacks.report.lifecycle_plot import plot_lifecycle
from ml_energy_callbacks.report.lifecycle_table import render_lifecycle
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter


@cache
def _empty() -> RunRecord:
    with EnergyMeter(backends=[], carbon_intensity=450, verbose=False) as meter:
        pass
    return meter.record


def a_run(name: str, joules: float | None, doubt: float | None = 0.1, **total: Any) -> RunRecord:
    """Return a run of 450 g CO2e per kWh."""
    record = copy.deepcopy(_empty())
    record.run = replace(record.run, id="".join(filter(str.isalnum, name)))
    figures = {
        "joules": joules,
        "relative_uncertainty": None if joules is None else doubt,
        "provenance": None if joules is None else "measured",
        "co2e_grams": None if joules is None else joules / 3.6e6 * 450,
        "cost": None if joules is None else joules / 3.6e6 * 0.3,
    }
    record.total = replace(record.total, **{**figures, **total})
    return record


def a_prediction(joules_per_sample: float | None, doubt: float = 0.05, *, stage: str = "predict", **total: Any) -> RunRecord:
    """Return a run of 100 predictions."""
    joules = None if joules_per_sample is None else joules_per_sample * 100
    record = a_run("prediction", joules, doubt, **total)
    record.stages[stage] = StageRecord(
        joules=joules,
        seconds=10.0,
        batches=10,
        samples=100,
        joules_per_sample=joules_per_sample,
        mean_watts=None,
        relative_uncertainty=doubt,
        provenance=record.total.provenance,
        phases={},
        devices={},
        co2e_grams=record.total.co2e_grams,
        cost=record.total.cost,
    )
    return record


def text_of(found: Lifecycle, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as shown:
        console.print(render_lifecycle(found))
    return shown.get()


def test_few_predictions_are_not_rounded_to_none() -> None:
    told = text_of(lifecycle([a_run("a", 0.5)], a_prediction(1.0), per_day=0.5, days=1))
    assert "0.5 a day for 1 days." in told
    assert "inference (0.5)" in told
    assert "after 0.5 predictions (0.445 to 0.557)" in told


def test_a_run_without_grams_does_not_taint_those_of_the_others() -> None:
    nowhere = a_run("a", None)
    nowhere.carbon = replace(nowhere.carbon, assumed=True)
    assert not any("no location was set" in note for note in lifecycle([nowhere], a_prediction(1), per_day=1, days=1).notes)


def test_a_thousand_is_no_power_of_ten() -> None:
    assert [quantity(value, "J") for value in (999.4, 999.6, 1000.4)] == ["999 J", "1,000 J", "1,000 J"]


def test_training_and_inference_over_the_life() -> None:
    runs = [a_run("a", 3.6e6), replace(a_run("b", 7.2e6), run=replace(a_run("b", 1.0).run, status="failed"))]
    found = lifecycle(runs, a_prediction(0.36), per_day=1e5, days=300)
    assert (found.runs, found.stage, found.lower_bound, found.notes) == (2, "predict", False, [])
    assert (found.training.kwh, found.inference.kwh) == (pytest.approx(3), pytest.approx(3))
    assert (found.training.co2e_grams, found.inference.co2e_grams) == (pytest.approx(1350), pytest.approx(1350))
    assert (found.training.cost, found.inference.cost) == (pytest.approx(0.9), pytest.approx(0.9))
    shares = found.training_share
    assert (shares.joules, shares.co2e_grams, shares.cost) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))
    assert found.break_even is not None
    assert (found.break_even.predictions, found.break_even.day) == (pytest.approx(3e7), pytest.approx(300))
    assert found.provenance == "measured"


def test_no_width_of_the_terminal_takes_a_digit_away() -> None:
    found = lifecycle([a_run("a", 1.23456789e11)], a_prediction(0.18), per_day=1e9, days=3000)
    wide = text_of(found)
    assert "inference (3,000,000,000,000)" in wide
    for width in (50, 80):
        shown = text_of(found, width)
        assert sorted("".join(shown.replace("─", "").split())) == sorted("".join(wide.replace("─", "").split())), shown


def test_errors_of_training_runs_add_up() -> None:
    found = lifecycle([a_run("a", 100.0, 0.1), a_run("b", 300.0, 0.2)], a_prediction(1), per_day=1, days=1)
    assert found.training.relative_uncertainty == pytest.approx((10 + 60) / 400)


@pytest.mark.parametrize(("trained", "predicted"), [(0.1, 0.05), (0.5, 0.5), (0.0, 0.3), (0.3, 0.0)])
def test_the_interval_of_the_break_even_holds_95_percent(trained: float, predicted: float) -> None:
    """The truth lies in it for 95 of 100 measurements, where a half-width is 1.96 standard deviations."""
    rng = random.Random(1)
    held, tries = 0, 2000
    for _ in range(tries):
        # The half-widths are absolute, known beforehand: as a share of what is measured they vary with it.
        joules, each = 1000 + rng.gauss(0, 1000 * trained / 1.96), 2 + rng.gauss(0, 2 * predicted / 1.96)
        run, prediction = (1000 * trained / joules, 2 * predicted / each)
        even = lifecycle([a_run("a", joules, run)], a_prediction(each, prediction), per_day=10, days=1).break_even
        assert even is not None
        held += even.low <= 500 and (even.high is None or even.high >= 500)
    assert held / tries == pytest.approx(0.95, abs=0.02)


def test_a_prediction_that_may_take_nothing_sets_no_upper_limit() -> None:
    found = lifecycle([a_run("a", 1000.0)], a_prediction(1, 1.2), per_day=1, days=10)
    assert found.break_even is not None
    assert found.break_even.high is None
    assert 0 < found.break_even.low < 1000
    assert found.training_share.joules_high == 1
    assert "or more" in text_of(found)


def test_the_share_lies_where_the_ratio_does() -> None:
    found = lifecycle([a_run("a", 1000.0, 0.1)], a_prediction(1, 0.0), per_day=1000, days=1)
    shares = found.training_share
    assert (shares.joules_low, shares.joules_high) == (pytest.approx(900 / 1900), pytest.approx(1100 / 2100))


def test_an_unknown_training_run_is_named_and_makes_lower_bounds() -> None:
    found = lifecycle([a_run("known", 1000.0), a_run("dark", None)], a_prediction(1), per_day=1, days=10)
    assert (found.runs, found.lower_bound, found.training.joules) == (2, True, 1000)
    assert found.break_even is not None
    assert found.break_even.high is None
    assert "The energy of run dark is unknown: training, its share and the break-even are lower bounds." in found.notes
    assert "at least 1,000 predictions" in text_of(found)
    assert "≥" in text_of(found)


def test_all_of_training_unknown_is_unknown() -> None:
    found = lifecycle([a_run("dark", None)], a_prediction(1), per_day=1, days=10)
    assert (found.training.joules, found.training_share.joules, found.break_even) == (None, None, None)
    assert "The point at which inference overtakes training is unknown." in text_of(found)


def test_several_currencies_leave_the_cost_unknown() -> None:
    found = lifecycle([a_run("a", 1000.0, currency="EUR")], a_prediction(1), per_day=1, days=1)
    assert (found.currency, found.training.cost, found.inference.cost, found.training_share.cost) == (None, None, None, None)
    assert found.notes == ["The cost is unknown: the records have several currencies (EUR, USD)."]


def test_a_run_without_a_price_is_named() -> None:
    found = lifecycle([a_run("a", 1000.0), a_run("gratis", 10.0, cost=None)], a_prediction(1), per_day=1, days=1)
    assert (found.training.cost, found.training_share.cost) == (None, None)
    assert found.notes == ["The cost is unknown, because no price was set for run gratis."]


def test_no_price_anywhere_is_not_worth_a_word() -> None:
    found = lifecycle([a_run("a", 1000.0, cost=None)], a_prediction(1, cost=None), per_day=1, days=1)
    assert found.notes == []
    assert "USD" not in text_of(found)


def test_a_run_named_twice_counts_once() -> None:
    run = a_run("a", 1000.0)
    found = lifecycle([run, copy.deepcopy(run)], a_prediction(1), per_day=1, days=1)
    assert (found.runs, found.training.joules, found.lower_bound) == (1, 1000, False)
    assert found.notes == ["Run a has 2 records; it is counted once."]


def trained(seconds: float, earlier: RunRecord | None = None) -> tuple[RunRecord, RunRecord]:
    """Return what the checkpoint of a training at 100 W holds, and the record at its end, a while later."""
    counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock)
    with EnergyMeter(backends=[ScriptedBackend([counter])], carbon_intensity=450, verbose=False) as meter:
        if earlier is not None:
            meter.resume(earlier)
        with meter.stage("train"):
            time.sleep(0.2)
            checkpoint = meter.record
            time.sleep(seconds)
    return checkpoint, meter.record


def test_a_run_that_is_resumed_twice_from_one_checkpoint_is_a_lower_bound() -> None:
    checkpoint, failed = trained(0.3)
    runs = [failed, trained(0.0, checkpoint)[1], trained(0.6, checkpoint)[1]]
    assert {run.run.id for run in runs} == {failed.run.id}
    found = lifecycle(runs, a_prediction(1), per_day=1, days=1)
    assert (found.runs, found.lower_bound, found.training.joules) == (1, True, runs[2].total.joules)
    assert found.break_even is None or found.break_even.high is None
    assert found.notes[0] == (
        f"Run {failed.run.id[:8]} has 3 records that differ: the longest one is used, and the others may include energy that "
        "it lacks; training, its share and the break-even are lower bounds."
    )
    assert "≥" in text_of(found)


def test_a_run_that_is_on_both_sides_is_told() -> None:
    both = a_prediction(1)
    found = lifecycle([both], both, per_day=1, days=1)
    assert found.training.joules == 100
    assert found.notes == ["Run predicti provides the energy of a prediction and is also counted as a training run."]


def test_a_running_run_counts_as_of_now() -> None:
    run = a_run("a", 1000.0)
    run.run = replace(run.run, status="running")
    found = lifecycle([run], a_prediction(1), per_day=1, days=1)
    assert found.notes == ["Run a is still running or was killed; its current values are used."]


def test_the_test_stage_stands_in_for_predict() -> None:
    assert lifecycle([a_run("a", 1.0)], a_prediction(1, stage="test"), per_day=1, days=1).stage == "test"


def test_what_is_estimated_anywhere_is_estimated() -> None:
    found = lifecycle([a_run("a", 1.0), a_run("b", 1.0, provenance="estimated")], a_prediction(1), per_day=1, days=1)
    assert (found.training.provenance, found.inference.provenance, found.provenance) == ("estimated", "measured", "estimated")


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_have_to_be_above_0(bad: float) -> None:
    with pytest.raises(ConfigurationError, match=r"number of predictions a day is .*; give one above 0"):
        lifecycle([a_run("a", 1.0)], a_prediction(1), per_day=bad, days=1)
    with pytest.raises(ConfigurationError, match=r"number of days is .*; give one above 0"):
        lifecycle([a_run("a", 1.0)], a_prediction(1), per_day=1, days=bad)


def test_so_many_predictions_that_they_have_no_number_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"1e\+200 predictions a day for 1e\+200 days are too many to calculate with"):
        lifecycle([a_run("a", 1.0)], a_prediction(1), per_day=1e200, days=1e200)


def test_a_record_without_predictions_is_refused() -> None:
    with pytest.raises(RecordError, match=r"Run predicti has no energy of a prediction: pass a record whose stage predict"):
        lifecycle([a_run("a", 1.0)], a_prediction(None), per_day=1, days=1)
    with pytest.raises(ConfigurationError, match="No training run is given"):
        lifecycle([], a_prediction(1), per_day=1, days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training runs in one directory, the first of them renamed by the second, and another one's predictions."""
    for name, joules in (("tuning/a/energy-12345678.json", 1000.0), ("tuning/a/energy.json", 2000.0)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_record(a_run(name, joules)))
    (tmp_path / "tuning" / "a" / "energy-broken.json").write_text("{")  # so is what was no record renamed
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "energy.json").write_bytes(encode_record(a_prediction(1)))
    return tmp_path


def test_directories_are_searched(folder: Path) -> None:
    assert sorted(run.total.joules or 0 for run in load_records([folder / "tuning"])) == [1000, 2000]
    (folder / "empty").mkdir()
    with pytest.raises(RecordError, match=r"There is no run record below .*empty: pass an energy\.json"):
        load_records([folder / "empty"])
    with pytest.raises(RecordError, match="There is no run record at"):
        load_records([folder / "nowhere.json"])


def test_the_command(folder: Path) -> None:
    args = ("lifecycle", "--train", folder / "tuning", "--predict", folder / "serving", "--per-day", 100, "--days", 60)
    done = ml_energy(*args)
    assert done.returncode == 0, done.stderr
    assert "Inference overtakes training after 3,000 predictions" in " ".join(done.stdout.split())
    assert json.loads(ml_energy(*args, "--json").stdout)["break_even"]["day"] == pytest.approx(30)
    wrong = ml_energy(*args[:-1], 0)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "ml-energy: The number of days is 0; give one above 0.\n"


@pytest.mark.parametrize("days", [1, 60])
def test_the_picture(tmp_path: Path, days: int) -> None:
    for training in ([a_run("a", 3000.0)], [a_run("dark", None)], [a_run("a", 3000.0), a_run("dark", None)]):
        picture = tmp_path / "life.png"
        plot_lifecycle(lifecycle(training, a_prediction(1), per_day=100, days=days), picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    found = lifecycle([a_run("a", 3000.0)], a_prediction(1), per_day=100, days=1)
    for path in (tmp_path / "nowhere" / "life.png", tmp_path / "life.strange"):
        with pytest.raises(ConfigurationError, match=r"cannot be written: .*; use a file such as life\.png"):
            plot_lifecycle(found, path)


def test_a_picture_without_matplotlib_names_the_extra(tmp_path: Path) -> None:
    found = lifecycle([a_run("a", 3000.0)], a_prediction(1), per_day=100, days=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'ml-energy-callbacks\[plot\]'"):
            plot_lifecycle(found, tmp_path / "life.png")


def test_a_directory_that_cannot_be_listed_is_no_sum_without_it(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    refused = pytest.raises(RecordError, match="closed cannot be listed: Permission denied; pass directories that can be read")
    with unprivileged(tmp_path), refused:
        load_records([tmp_path])
