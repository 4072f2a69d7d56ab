"""Tokens are counted beside samples, and are known wherever those are shown; unknown ones are never zero."""

import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet import Fleet, group_rows, render_fleet
from ml_energy_callbacks.fleet.rows import make_row
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.report.diff import diff_runs
from ml_energy_callbacks.report.diff_table import render_diff
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.lifecycle import lifecycle
from ml_energy_callbacks.report.lifecycle_table import render_lifecycle
from ml_energy_callbacks.report.page.run import run_page
from ml_energy_callbacks.report.page.runs import runs_page
from ml_energy_callbacks.report.table import render
from ml_energy_callbacks.safe_text import describe
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter, replay
from ml_energy_callbacks.testing.replaying import replay_file

WATTS, BATCH_S = 100.0, 0.5
BATCHES, SAMPLES, TOKENS = 8, 4, 50


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def meter_of(clock: ManualClock, **options: Any) -> SteppedMeter:
    counter = ScriptedCounter(PowerCurve(clock, WATTS), clock, period_s=0.02)
    return SteppedMeter(clock, **{"backends": [ScriptedBackend([counter])], "verbose": False, "location": "FRA", **options})


def measured(clock: ManualClock, tokens: Any = TOKENS, **options: Any) -> RunRecord:
    """Return the record of a prediction of equal batches; ``tokens`` may be a list with those of each."""
    counts = tokens if isinstance(tokens, list) else [tokens] * BATCHES
    with meter_of(clock, **options) as meter, meter.stage("predict"):
        for each in counts:
            with meter.batch(SAMPLES) as batch:
                clock.advance(BATCH_S)
                batch.tokens = each
    return meter.record


def test_energy_per_token_is_known_in_every_way_of_counting(clock: ManualClock) -> None:
    meter = meter_of(clock)

    @meter.measure(samples=SAMPLES, tokens=lambda prompt: len(prompt) * 10)
    def generate(prompt: str) -> None:
        clock.advance(BATCH_S)

    with meter, meter.stage("predict"):
        for _ in range(2):
            with meter.batch() as batch:
                clock.advance(BATCH_S)
                batch.samples, batch.tokens = SAMPLES, np.int64(TOKENS)
            with meter.batch(samples=SAMPLES, tokens=TOKENS):
                clock.advance(BATCH_S)
            meter.batch_start()
            clock.advance(BATCH_S)
            meter.batch_end(SAMPLES, tokens=TOKENS)
            generate("hello")
        metrics = meter.metrics("predict")
        counts = meter.counts("predict")
    predict = meter.record.stages["predict"]
    joules = WATTS * BATCH_S * BATCHES
    assert (predict.batches, predict.samples, predict.tokens) == (BATCHES, BATCHES * SAMPLES, BATCHES * TOKENS)
    assert (counts.samples, counts.tokens, counts.counted) == (BATCHES * SAMPLES, BATCHES * TOKENS, BATCHES)
    assert predict.joules_per_token == pytest.approx(joules / BATCHES / TOKENS, rel=0.02)
    assert predict.joules_per_sample == pytest.approx(joules / BATCHES / SAMPLES, rel=0.02)
    assert predict.tokens_per_joule == pytest.approx(BATCHES * TOKENS / joules, rel=0.02)
    assert metrics["energy/predict/joules_per_token"] == pytest.approx(predict.joules_per_token, rel=0.02)
    assert metrics["energy/predict/wh_per_1000_tokens"] == pytest.approx(joules / 3.6 / BATCHES / TOKENS, rel=0.02)
    assert metrics["energy/predict/tokens_per_joule"] == pytest.approx(predict.tokens_per_joule, rel=0.02)


@pytest.mark.parametrize("unknown", [None, "12", -1, 2.5, 10**30, object(), True], ids=range(7))
def test_one_batch_of_unknown_tokens_makes_the_stages_unknown(clock: ManualClock, unknown: Any, tmp_path: Path) -> None:
    record = measured(clock, [TOKENS, unknown, TOKENS], output_dir=tmp_path)
    stage = load_record(tmp_path).stages["predict"]
    assert (stage.tokens, stage.joules_per_token, stage.tokens_per_joule) == (None, None, None)
    assert (stage.batches, stage.samples) == (3, 3 * SAMPLES)
    assert any("is not a number of tokens" in warning for warning in record.warnings) == (unknown is not None)


@pytest.mark.parametrize(("number", "known"), [(np.int64(5), 5), (np.array(5), 5), (5.0, None), (True, None), (-5, None)])
def test_numbers_of_any_kind_are_counted_or_told_at_the_end_of_a_batch(
    clock: ManualClock, number: Any, known: int | None
) -> None:
    with meter_of(clock) as meter, meter.stage("predict"):
        meter.batch_start()
        clock.advance(BATCH_S)
        meter.batch_end(number, tokens=number)
    stage = meter.record.stages["predict"]
    assert (stage.samples, stage.tokens) == (known, known)
    for what in ("samples", "tokens"):
        told = f"{describe(number)} is not a number of {what}: energy per {what[:-1]} is unknown."
        assert (told in meter.record.warnings) == (known is None)


def test_more_than_any_run_has_is_unknown_and_no_record_is_lost(clock: ManualClock, tmp_path: Path) -> None:
    with meter_of(clock, output_dir=tmp_path) as meter, meter.stage("predict"):
        for _ in range(3):
            with meter.batch(10**18, 10**18):
                clock.advance(BATCH_S)
    stage = load_record(tmp_path).stages["predict"]
    assert (stage.batches, stage.samples, stage.tokens) == (3, None, None)


def test_tokens_that_nobody_counts_are_shown_nowhere(clock: ManualClock) -> None:
    with meter_of(clock) as meter, meter.stage("predict"):
        for _ in range(BATCHES):
            with meter.batch(SAMPLES):
                clock.advance(BATCH_S)
        assert not [name for name in meter.metrics("predict") if "token" in name]
    record = meter.record
    assert record.stages["predict"].tokens is None
    for text in (shown(record), record.summary(), export(record, Format.SCI_JSON)):
        assert "token" not in text
    assert "Energy of a token" not in run_page(record)


def test_compilation_and_its_tokens_are_left_out(clock: ManualClock) -> None:
    with meter_of(clock) as meter, meter.stage("train"):
        meter.enter("compile")
        clock.advance(2.0)
        meter.batch_end(SAMPLES, tokens=TOKENS)
        for _ in range(BATCHES):
            meter.batch_start()
            clock.advance(BATCH_S)
            meter.batch_end(SAMPLES, tokens=TOKENS)
        metrics = meter.metrics("train")
    train = meter.record.stages["train"]
    assert (train.tokens, train.compile_tokens) == ((BATCHES + 1) * TOKENS, TOKENS)
    assert train.joules_per_token == pytest.approx(WATTS * BATCH_S / TOKENS, rel=0.05)
    assert metrics["energy/train/joules_per_token"] == pytest.approx(train.joules_per_token, rel=0.05)
    assert f"J/token excludes compilation ({TOKENS} tokens)." in shown(meter.record)


def test_a_failing_function_of_tokens_is_one_warning(clock: ManualClock) -> None:
    meter = meter_of(clock)

    @meter.measure(tokens=lambda prompt: prompt["tokens"])
    def generate(prompt: dict[str, int]) -> None:
        clock.advance(BATCH_S)

    with meter:
        generate({"tokens": 5})
        generate({})
    predict = meter.record.stages["predict"]
    assert (predict.batches, predict.samples, predict.tokens) == (2, 2, None)
    assert [text for text in meter.record.warnings if "counts tokens failed (KeyError('tokens'))" in text]
    with pytest.raises(ConfigurationError, match="tokens is 0; give a whole number above 0"):
        meter.measure(tokens=0)


def test_a_resumed_run_adds_its_tokens(clock: ManualClock) -> None:
    whole = add_records(measured(clock), measured(clock)).stages["predict"]
    assert whole.tokens == 2 * BATCHES * TOKENS
    assert whole.joules_per_token == pytest.approx(WATTS * BATCH_S / TOKENS, rel=0.02)
    for parts in ((None, TOKENS), (TOKENS, None)):
        unknown = add_records(*(measured(clock, tokens) for tokens in parts)).stages["predict"]
        assert (unknown.tokens, unknown.joules_per_token, unknown.samples) == (None, None, 2 * BATCHES * SAMPLES)


def test_an_older_record_loads_without_tokens(clock: ManualClock) -> None:
    facts = json.loads(encode_record(measured(clock)))
    for name in ("tokens", "compile_tokens", "joules_per_token"):
        del facts["stages"]["predict"][name]
    old = decode_record(json.dumps(facts).encode(), "energy.json")
    assert old.stages["predict"].tokens is None
    assert add_records(old, measured(clock)).stages["predict"].joules_per_token is None


def test_a_recording_replays_tokens_and_one_without_them_replays_too(clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    live = measured(clock, recording=path).stages["predict"]
    again = replay_file(path).stages["predict"]
    assert again.tokens == live.tokens == BATCHES * TOKENS
    assert again.joules_per_token == pytest.approx(live.joules_per_token)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "tokens"}) + "\n" for line in lines), "utf-8")
    before = replay_file(path).stages["predict"]
    assert (before.tokens, before.samples, before.joules) == (None, live.samples, pytest.approx(live.joules))


def test_epochs_have_their_tokens(clock: ManualClock) -> None:
    with meter_of(clock) as meter, meter.stage("train"):
        for index in range(2):
            begun = meter.point()
            for _ in range(BATCHES):
                with meter.batch(SAMPLES, TOKENS + index):
                    clock.advance(BATCH_S)
            metrics, _ = meter.close_epoch("train", index, begun)
            assert metrics["energy/train/joules_per_token"] == pytest.approx(WATTS * BATCH_S / (TOKENS + index), rel=0.05)
    assert [epoch.tokens for epoch in meter.record.epochs] == [BATCHES * TOKENS, BATCHES * (TOKENS + 1)]


def shown(record: RunRecord, width: int = 140, *, verbose: bool = False) -> str:
    return printed(render(record, verbose=verbose), width)


def printed(contents: RenderableType, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False)
    console.print(contents)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_what_shows_samples_shows_tokens(clock: ManualClock) -> None:
    record = measured(clock)
    text = shown(record)
    assert "12.5 J/sample, 1.00 J/token" in record.summary()
    assert "J/token" in text
    assert "tokens/J" in text
    page = run_page(record)
    assert "Energy of a token" in page
    assert "Tokens per J" in page
    assert "Prediction token" in runs_page([("a", record), ("b", measured(clock, None))])
    sample, token = json.loads(export(record, Format.SCI_JSON))
    assert (sample["functional_unit"], sample["units"]) == ("sample", BATCHES * SAMPLES)
    assert (token["functional_unit"], token["units"]) == ("token", BATCHES * TOKENS)
    assert token["sci_g_per_unit"] * BATCHES * TOKENS == pytest.approx(sample["sci_g_per_unit"] * BATCHES * SAMPLES)


def test_a_data_frame_has_the_tokens_of_a_joule(clock: ManualClock) -> None:
    pytest.importorskip("pandas")
    frame = measured(clock).to_frame("stages")
    assert float(frame["tokens_per_joule"][0]) == pytest.approx(1.0, rel=0.02)


def test_a_score_by_tokens_needs_no_samples(clock: ManualClock) -> None:
    record = deepcopy(measured(clock))
    record.stages["predict"].samples = None
    (statement,) = json.loads(export(record, Format.SCI_JSON))
    assert statement["functional_unit"] == "token"


def test_a_made_up_run_has_the_tokens_of_its_batches() -> None:
    marks = [(0.0, "predict", "compute"), (4.0, None, None)]
    powers = {"gpu0": [(t / 10, WATTS) for t in range(-5, 46)]}
    stage = replay(marks, powers=powers, samples=[(1.0, 4, 150), (2.0, None, np.int64(50))]).stages["predict"]
    assert (stage.batches, stage.samples, stage.tokens) == (2, None, 200)
    assert stage.joules_per_token == pytest.approx(4 * WATTS / 200)
    for unknown in [(2.0, 4), (2.0, 4, None)]:
        assert replay(marks, powers=powers, samples=[(1.0, 4, 150), unknown]).stages["predict"].tokens is None


def test_a_group_of_runs_has_the_energy_of_a_token_where_that_is_known(clock: ManualClock) -> None:
    records = [measured(clock), measured(clock, 2 * TOKENS), measured(clock, None), measured(clock)]
    records[-1].stages["predict"].samples = records[-1].stages["predict"].joules_per_sample = None
    rows = [make_row(record, "energy.json") for record in records]
    assert [row.predict_tokens for row in rows] == [BATCHES * TOKENS, 2 * BATCHES * TOKENS, None, BATCHES * TOKENS]
    assert [row.predict_samples for row in rows] == [BATCHES * SAMPLES] * 3 + [None]
    (group,) = group_rows(rows, [])
    assert group.predict_joules_per_token == pytest.approx(3 * WATTS * BATCH_S / (4 * TOKENS), rel=0.02)
    assert group.predict_joules_per_sample == pytest.approx(WATTS * BATCH_S / SAMPLES, rel=0.02)
    assert (group.train_joules_per_token, group.train_token_relative_uncertainty) == (None, None)
    fleet = Fleet(
        groups=group_rows(rows, ["run"]), total=group, included=0, repeated=0, other_versions=[], broken=[], unlisted=[]
    )
    text = printed(render_fleet(fleet))
    assert "J/token" in text
    assert "train" not in text


def test_a_difference_has_the_energy_of_a_token_in_both_runs(clock: ManualClock) -> None:
    a, b, uncounted = measured(clock), measured(clock, 2 * TOKENS), measured(clock, None)
    diff = diff_runs(a, b)
    sample, token = diff.each
    assert (sample.stage, sample.unit, token.unit) == ("predict", "sample", "token")
    assert (token.a_joules, token.b_joules) == (pytest.approx(1.0, rel=0.02), pytest.approx(0.5, rel=0.02))
    assert token.difference is not None
    assert sample.difference is not None
    assert token.difference.verdict == "less"
    assert sample.difference.joules == pytest.approx(0.0, abs=0.05 * WATTS * BATCH_S / SAMPLES)
    assert token.difference.joules == pytest.approx(-0.5, rel=0.02)
    text = printed(render_diff(diff))
    assert "predict J/token: A 1.00 J; B 0.500 J; less: -0.500 J" in text
    one = diff_runs(a, uncounted)
    assert [(each.unit, each.b_joules, each.difference) for each in one.each][1] == ("token", None, None)
    assert "predict J/token: A 1.00 J; B -\n" in printed(render_diff(one))
    assert not [each for each in diff_runs(uncounted, uncounted).each if each.unit == "token"]


def test_a_lifecycle_shows_the_energy_of_a_token(clock: ManualClock) -> None:
    found = lifecycle([measured(clock)], measured(clock), per_day=10, days=10)
    assert found.joules_per_token == pytest.approx(1.0, rel=0.02)
    assert "A prediction uses 12.5 J, a token 1 J (stage predict)" in printed(render_lifecycle(found))
    uncounted = lifecycle([measured(clock)], measured(clock, None), per_day=10, days=10)
    assert "A prediction uses 12.5 J (stage predict)" in printed(render_lifecycle(uncounted))
