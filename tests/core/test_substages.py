"""Sub-stages of a user's own: each has its own figures, and its stage has the sum of all."""

import dataclasses
import random
import threading
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded import figures_of
from rich.console import Console

from ml_energy_callbacks import EnergyMeter, LoopDescription, RunRecord
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import described, is_core
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import merge_records
from ml_energy_callbacks.record.schema import StageRecord
from ml_energy_callbacks.report import render
from ml_energy_callbacks.report.diff import diff_runs
from ml_energy_callbacks.report.diff_table import render_diff
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.page import run_page
from ml_energy_callbacks.sinks.figures import read_figures
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter, replay
from ml_energy_callbacks.testing.replaying import replay_file

PREFILL_WATTS, DECODE_WATTS, REST_WATTS = 400.0, 150.0, 50.0


class World:
    """A meter of a device that serves requests, and the true energy of each part."""

    def __init__(self, period_s: float = 0.1, name: str = "scripted:gpu", **options: Any) -> None:
        self.clock = ManualClock()
        self.curve = PowerCurve(self.clock, REST_WATTS)
        counter = ScriptedCounter(self.curve, self.clock, period_s=period_s)
        counter.device = dataclasses.replace(counter.device, id=name)
        backend = ScriptedBackend([counter])
        self.meter = SteppedMeter(self.clock, backends=[backend], verbose=False, **({"carbon_intensity": 360} | options))
        self.true = {"prefill": 0.0, "decode": 0.0}

    def work(self, part: str, watts: float, seconds: float) -> None:
        self.curve.set(watts)
        before = self.curve.joules()
        self.clock.advance(seconds)
        self.true[part] += self.curve.joules() - before
        self.curve.set(REST_WATTS)

    def serve(self, requests: int, scale: float = 1.0) -> None:
        for i in range(requests):
            self.clock.advance(0.02 + 0.0037 * (i % 7))
            with self.meter.batch(samples=4):
                with self.meter.stage("predict/prefill"):
                    self.work("prefill", PREFILL_WATTS, scale * (0.05 + 0.0053 * (i % 11)))
                with self.meter.stage("predict/decode"):
                    self.work("decode", DECODE_WATTS, scale * (0.15 + 0.0053 * (i % 5)))


@pytest.fixture(scope="module")
def served() -> World:
    """Return a world in which a hundred requests were served, each in two parts that are about as short as a refresh."""
    world = World()
    with world.meter, world.meter.stage("predict"):
        world.serve(100)
    return world


def test_each_substage_has_its_own_energy_within_its_interval(served: World) -> None:
    predict = served.meter.record.stages["predict"]
    assert list(predict.substages) == ["prefill", "decode"]
    for name, joules in served.true.items():
        part = predict.substages[name]
        assert part.joules == pytest.approx(joules, rel=0.08)
        (phase,) = part.phases.values()
        assert phase.low_joules is not None
        assert phase.high_joules is not None
        assert phase.low_joules <= joules <= phase.high_joules


def test_a_stage_has_the_sum_of_its_substages_and_of_its_own_time(served: World) -> None:
    record = served.meter.record
    predict = record.stages["predict"]
    assert list(record.stages) == ["other", "predict"]
    assert sum(stage.joules or 0.0 for stage in record.stages.values()) == pytest.approx(record.total.joules, rel=1e-9)
    assert predict.phases["compute"].seconds == pytest.approx(sum(part.seconds for part in predict.substages.values()))
    assert predict.phases["compute"].interval is not None
    low, high = predict.phases["compute"].interval
    assert low <= sum(served.true.values()) <= high
    assert (predict.batches, predict.samples) == (100, 400)  # of the requests, which the parts are parts of
    assert [(part.batches, part.samples) for part in predict.substages.values()] == [(0, None)] * 2


def test_a_substage_alone_is_in_its_stage_and_counts_its_own_batches() -> None:
    world = World(0.02)
    with world.meter:
        for i in range(30):
            with world.meter.stage("test/encode"), world.meter.batch(samples=3):
                world.work("prefill", PREFILL_WATTS, 0.1 + 0.003 * (i % 5))
    test = world.meter.record.stages["test"]
    encode = test.substages["encode"]
    assert (encode.samples, encode.batches) == (90, 30)
    assert encode.latency == test.latency
    assert encode.latency is not None
    assert encode.joules_per_sample == pytest.approx(PREFILL_WATTS * encode.seconds / 90, rel=0.05)
    assert replace(test, substages={}) == encode


def test_a_stage_goes_on_in_the_phase_that_a_substage_interrupted() -> None:
    world = World(0.0)
    meter, clock = world.meter, world.clock
    with meter, meter.stage("predict"):
        clock.advance(0.1)
        with meter.batch(samples=1):
            clock.advance(0.2)
            with meter.stage("predict/a"):
                assert meter.phase == "compute"
                clock.advance(0.4)
                with meter.stage("predict/b"):
                    clock.advance(0.8)
            assert meter.phase == "compute"
            clock.advance(1.6)
        with meter.stage("predict/a"):
            assert meter.phase == "data_wait"
            clock.advance(3.2)
        with meter.stage("validate"):
            clock.advance(6.4)
    stages = meter.record.stages
    predict = stages["predict"]
    seconds = {phase: found.seconds for phase, found in predict.phases.items()}
    assert seconds == {"compute": pytest.approx(3.0), "data_wait": pytest.approx(3.3)}
    parts = {name: {phase: found.seconds for phase, found in part.phases.items()} for name, part in predict.substages.items()}
    assert parts == {
        "a": {"compute": pytest.approx(0.4), "data_wait": pytest.approx(3.2)},
        "b": {"compute": pytest.approx(0.8)},
    }
    assert stages["validate"].seconds == pytest.approx(6.4)


def test_substages_that_overlap_are_told_and_the_last_one_has_the_time() -> None:
    world = World(0.0)
    meter, clock = world.meter, world.clock
    with meter, meter.stage("predict"):
        first, second = meter.stage("predict/a"), meter.stage("predict/b")
        first.__enter__()
        clock.advance(1.0)
        second.__enter__()
        clock.advance(2.0)
        first.__exit__(None, None, None)  # as in another thread
        clock.advance(4.0)
        second.__exit__(None, None, None)
        clock.advance(8.0)
    predict = meter.record.stages["predict"]
    assert {name: part.seconds for name, part in predict.substages.items()} == {
        "a": pytest.approx(1.0),
        "b": pytest.approx(6.0),
    }
    assert predict.seconds == pytest.approx(15.0)
    assert sum("predict/a ended while another stage went on" in warning for warning in meter.record.warnings) == 1


def test_a_stage_that_threads_enter_each_by_itself_is_one() -> None:
    world = World(0.0)
    meter, clock = world.meter, world.clock
    with meter:
        threads = [meter.stage("predict") for _ in range(3)]
        for each in threads:
            each.__enter__()
            clock.advance(1.0)
        for each in threads:
            each.__exit__(None, None, None)
            clock.advance(1.0)
    assert meter.record.stages["predict"].seconds == pytest.approx(5.0)
    assert not [warning for warning in meter.record.warnings if "ended while" in warning]


def test_a_substage_whose_run_has_ended_changes_nothing_of_the_next() -> None:
    world = World(0.0)
    meter, clock = world.meter, world.clock
    meter.start()
    inside = meter.stage("predict/a")
    inside.__enter__()
    clock.advance(1.0)
    meter.stop()
    with meter, meter.stage("train"):
        clock.advance(2.0)
        inside.__exit__(None, None, None)
        clock.advance(4.0)
    assert meter.record.stages["train"].seconds == pytest.approx(6.0)


def test_a_substage_of_another_stage_computes_inside_a_batch() -> None:
    world = World(0.0)
    meter, clock = world.meter, world.clock
    with meter, meter.stage("test"):
        meter.batch_start()
        clock.advance(1.0)
        with meter.stage("validate/encode"):
            clock.advance(2.0)
        clock.advance(4.0)
        meter.batch_end(1)
    stages = meter.record.stages
    assert stages["test"].phases["compute"].seconds == pytest.approx(5.0)
    assert stages["validate"].substages["encode"].phases["compute"].seconds == pytest.approx(2.0)


def test_a_part_of_a_batch_goes_on_after_a_substage_in_it() -> None:
    world = World(0.0)
    meter, clock = world.meter, world.clock
    with meter, meter.stage("train"):
        meter.batch_start()
        with meter.part("forward"):
            clock.advance(1.0)
            with meter.stage("train/attention"):
                clock.advance(2.0)
            clock.advance(4.0)
        clock.advance(8.0)
        meter.batch_end(1)
        with meter.stage("train/log"):
            clock.advance(16.0)
    train = meter.record.stages["train"]
    parts = {name: part.seconds for name, part in train.phases["compute"].parts.items()}
    assert parts == {"forward": pytest.approx(5.0), "other": pytest.approx(10.0)}
    assert train.phases["data_wait"].seconds == pytest.approx(16.0)
    assert train.batches == 1


def test_a_substage_of_validation_is_one_of_a_sanity_check_in_that() -> None:
    world = World(0.0)
    meter = world.meter
    with meter:
        for stage in ("sanity_check", "validate"):
            with meter.stage(stage), meter.batch(samples=1), meter.stage("validate/encode"):
                with meter.stage("validate/head"):
                    world.clock.advance(1.0)
                world.clock.advance(2.0)
    stages = meter.record.stages
    for stage in ("sanity_check", "validate"):
        assert {name: part.seconds for name, part in stages[stage].substages.items()} == {
            "encode": pytest.approx(2.0),
            "head": pytest.approx(1.0),
        }
        assert list(stages[stage].phases) == ["compute"]


# ------------------------------------------------------------------------------------------------------- conservation


def test_substages_conserve_joules_seconds_and_samples(*, full: bool) -> None:
    worlds = settings(max_examples=100 if full else 12, deadline=None)(conserves)
    worlds = example(seed=189, period_s=0.0)(worlds)  # shares of its sub-stages add up to a little more than 1
    given(seed=st.integers(0, 2**32), period_s=st.sampled_from([0.0, 0.02, 0.1]))(worlds)()


def conserves(seed: int, period_s: float) -> None:
    """Run stages and sub-stages at random; `test` runs in its sub-stages alone."""
    rng = random.Random(seed)
    world = World(period_s)
    meter = world.meter
    seconds: dict[str, float] = {}
    samples: dict[str, int] = {}
    with meter:
        for _ in range(rng.randint(1, 40)):
            name = rng.choice(["train", "predict", "predict/a", "predict/b", "test/a", "test/b", "test/c"])
            world.curve.set(rng.choice([REST_WATTS, 200.0, 500.0]))
            time, size = rng.choice([0.003, 0.03, 0.3]), rng.randint(1, 9)
            with meter.stage(name), meter.batch(samples=size):
                world.clock.advance(time)
            seconds[name] = seconds.get(name, 0.0) + time
            samples[name] = samples.get(name, 0) + size
    record = meter.record
    assert sum(stage.joules or 0.0 for stage in record.stages.values()) == pytest.approx(record.devices[0].joules, rel=1e-9)
    assert sum(stage.seconds for stage in record.stages.values()) == pytest.approx(record.total.seconds, rel=1e-9)
    for name, stage in record.stages.items():
        if name != "other":
            assert stage.samples == sum(size for each, size in samples.items() if each.split("/")[0] == name)
            assert stage.seconds == pytest.approx(sum(time for each, time in seconds.items() if each.split("/")[0] == name))
        for own, part in stage.substages.items():
            assert part.samples == samples[f"{name}/{own}"]
            assert part.seconds == pytest.approx(seconds[f"{name}/{own}"])
    if "test" in record.stages:
        add_up(record.stages["test"])


def add_up(stage: StageRecord) -> None:
    """Look for what a stage that ran in its sub-stages alone has more or less than these."""
    parts = stage.substages.values()
    for figure in ("joules", "seconds", "batches", "samples", "co2e_grams", "sampled_joules"):
        assert sum(getattr(part, figure) for part in parts) == pytest.approx(getattr(stage, figure), rel=1e-9, abs=1e-12)
    for name, joules in stage.devices.items():
        assert sum(part.devices[name] for part in parts) == pytest.approx(joules, rel=1e-9, abs=1e-12)
    for name, phase in stage.phases.items():
        each = [part.phases[name] for part in parts if name in part.phases]
        assert sum(found.seconds or 0.0 for found in each) == pytest.approx(phase.seconds)


# ------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["serve/a", "predict/", "/a", "predict/a/b", "predict/a b", "predict/ü", "predict/.a", f"predict/{'a' * 65}", 3]
)
def test_a_name_that_is_no_substages_is_refused_in_one_sentence(name: Any) -> None:
    meter = World().meter
    calls: Sequence[Callable[[], object]] = (
        meter.stage(name).__enter__,
        lambda: meter.begin_stage(name),
        lambda: meter.measure(stage=name),
    )
    for call in calls:
        with pytest.raises(ConfigurationError, match=r"^Unknown stage .*; use one of train, .* such as predict/prefill"):
            call()
    with pytest.raises(ConfigurationError, match=r"^the stage of marks\[0\] is .*; use one of train, "):
        replay([(0.0, name, "compute"), (1.0, None, None)])


def test_a_stage_has_no_more_than_sixteen_substages() -> None:
    meter = World().meter
    with meter:
        for i in range(16):
            with meter.stage(f"predict/{i}"):
                pass
        with meter.stage("test/0"), meter.stage("predict/3"):
            pass
        with pytest.raises(ConfigurationError, match="'predict/16' is one too many: the stage predict has 16 sub-stages"):
            meter.begin_stage("predict/16")
        assert meter.depth == 0


def test_in_the_loop_of_a_framework_a_wrong_name_is_a_warning() -> None:
    world = World(0.0)
    meter = world.meter.start(LoopDescription(framework="pytorch_lightning 2.6.6"))
    with meter.stage("predict"), meter.batch(samples=1):
        for _ in range(2):
            with meter.stage("predict/no name"):
                world.clock.advance(1.0)
        meter.begin_stage("predict/", "compute")
        world.clock.advance(1.0)
        meter.end_stage("compute")
    assert meter.depth == 0
    meter.stop()
    record = meter.record
    assert record.stages["predict"].phases["compute"].seconds == pytest.approx(3.0)
    assert not record.stages["predict"].substages
    assert sum("'predict/no name'" in warning for warning in record.warnings) == 1


def test_metrics_of_substages_have_names_that_no_stage_has(served: World) -> None:
    metrics = served.meter.metrics("predict")
    own = {name for name in metrics if name.count("/") == 3}
    assert {"energy/predict/joules", "energy/predict/prefill/joules", "energy/predict/decode/watts"} <= metrics.keys()
    assert {name.rsplit("/", 1)[0] for name in own} == {"energy/predict/prefill", "energy/predict/decode"}
    assert {name for name in own if is_core(name)} == {"energy/predict/prefill/watts", "energy/predict/decode/watts"}
    assert described("energy/predict/prefill/joules") == "Energy in J, of stage predict/prefill in the epoch, or evaluation."
    assert served.meter.metrics("predict/prefill") == {name: metrics[name] for name in own if "/prefill/" in name}


def test_an_epoch_has_the_metrics_of_the_substages_that_ran_in_it() -> None:
    world = World(0.02)
    with world.meter as meter, meter.stage("train"):
        since = meter.point()
        with meter.stage("train/forward"), meter.batch(samples=2):
            world.clock.advance(0.5)
        first, since = meter.close_epoch("train", 0, since)
        with meter.batch(samples=2):
            world.clock.advance(0.5)
        second, _ = meter.close_epoch("train", 1, since)
    assert first["energy/train/forward/joules"] == pytest.approx(first["energy/train/joules"])
    assert "energy/train/forward/joules" not in second
    assert [epoch.samples for epoch in meter.record.epochs] == [2, 2]


# ------------------------------------------------------------------------------------------------------- sums, replays


def test_the_processes_of_a_job_add_up_by_substage() -> None:
    barrier, given_by = threading.Barrier(2, timeout=20), [None, None]
    records: list[Any] = [None, None]
    metrics: list[Any] = [None, None]

    def work(rank: int) -> None:
        def gather(fact: Any) -> Sequence[Any]:
            given_by[rank] = fact
            barrier.wait()
            every = list(given_by)
            barrier.wait()
            return every

        world = World(0.02, f"scripted:gpu-{rank}")
        meter = world.meter.start(LoopDescription(gather=gather, framework="loop 1.0"))
        since = meter.point()
        with meter.stage("predict"):
            for name in ("all", f"rank{rank}"):
                with meter.stage(f"predict/{name}"), meter.batch(samples=5):
                    world.clock.advance(1.0 + rank)
        metrics[rank], _ = meter.close_epoch("predict", 0, since)
        meter.stop()
        records[rank] = meter.record

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    predict = records[0].stages["predict"]
    assert {name: (part.samples, round(part.seconds, 3)) for name, part in predict.substages.items()} == {
        "all": (10, 2.0),  # the time is that of the process that ran longest
        "rank0": (5, 1.0),
        "rank1": (5, 2.0),
    }
    assert predict.samples == 20
    assert sum(part.joules or 0.0 for part in predict.substages.values()) == pytest.approx(predict.joules, rel=1e-6)
    for name in ("all", "rank0", "rank1"):
        assert metrics[0][f"energy/predict/{name}/joules"] == metrics[1][f"energy/predict/{name}/joules"]
    assert metrics[0]["energy/predict/all/joules_per_sample"] == pytest.approx(REST_WATTS * 3 / 10, rel=0.05)


def test_processes_of_several_hosts_name_the_devices_of_substages(served: World) -> None:
    record = served.meter.record
    part = {"uses": ["scripted:gpu0"], "barrier_seconds": 0.0, "barrier_joules": 0.0}
    parts = [
        replace(record, part=msgspec.convert(part | {"rank": rank, "host": host, "hostname": host}, type=type_of_part()))
        for rank, host in enumerate("ab")
    ]
    merged = merge_records(parts)
    predict = merged.stages["predict"]
    assert predict.substages["prefill"].devices.keys() == predict.devices.keys()
    assert len(predict.devices) == 2
    assert decode_record(encode_record(merged), "energy.json") == merged


def type_of_part() -> Any:
    from ml_energy_callbacks.record.schema import Part  # noqa: PLC0415

    return Part


def test_a_run_that_resumes_another_adds_up_by_substage(served: World) -> None:
    earlier = served.meter.record
    world = World()
    world.meter.start()
    world.meter.resume(earlier)
    with world.meter.stage("predict"):
        world.serve(20)
        with world.meter.stage("predict/post"):
            world.clock.advance(1.0)
    world.meter.stop()
    before, after = earlier.stages["predict"].substages, world.meter.record.stages["predict"].substages
    assert list(after) == ["prefill", "decode", "post"]
    assert after["prefill"].joules == pytest.approx((before["prefill"].joules or 0.0) + world.true["prefill"], rel=0.05)
    assert after["decode"].seconds > before["decode"].seconds


def test_a_recording_with_substages_is_replayed_as_it_was(tmp_path: Path) -> None:
    world = World(recording=tmp_path / "raw.jsonl", carbon_intensity=475)
    with world.meter, world.meter.stage("predict"):
        world.serve(30)
    replayed = replay_file(tmp_path / "raw.jsonl")
    assert figures_of(replayed)["stages"] == figures_of(world.meter.record)["stages"]
    assert replayed.stages["predict"].substages.keys() == {"prefill", "decode"}


def test_marks_of_a_replay_may_be_of_substages() -> None:
    marks: list[tuple[float, Any, Any]] = []
    polls, joules, now = [], 0.0, 0.0
    for _ in range(20):
        for name, watts in (("predict/prefill", 400.0), ("predict/decode", 150.0), ("predict", 50.0)):
            marks.append((now, name, "compute"))
            for _ in range(10):
                polls.append((now, joules))
                now, joules = now + 0.05, joules + watts * 0.05
    record = replay([*marks, (now, None, None)], counters={"gpu": [*polls, (now, joules)]})
    predict = record.stages["predict"]
    assert predict.joules == pytest.approx(joules, rel=0.01)
    for name, watts in (("prefill", 400.0), ("decode", 150.0)):
        part = predict.substages[name].phases["compute"]
        assert part.joules == pytest.approx(20 * 0.5 * watts, rel=0.1)  # of all waits and polls the same, edges show little
        assert part.interval is not None
        assert part.interval[0] <= 20 * 0.5 * watts <= part.interval[1]


# ------------------------------------------------------------------------------------------------------- what is shown


def test_a_report_has_substages_below_their_stage(served: World) -> None:
    shown = StringIO()
    Console(file=shown, width=160).print(render(served.meter.record, verbose=True))
    lines = shown.getvalue().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(" predict "))
    assert [line[:10].rstrip() for line in lines[at : at + 3]] == [" predict", "   prefill", "   decode"]
    assert any(line.startswith(" predict/decode") and "compute" in line for line in lines)


def test_a_page_has_substages_below_their_stage(served: World) -> None:
    page = run_page(served.meter.record)
    assert '<th scope="row">\u2003prefill</th>' in page
    assert "predict/prefill, compute" in page


def test_exported_stages_still_add_up_beside_their_substages(served: World) -> None:
    record = served.meter.record
    figures = {figure.prometheus: dict(values) for figure, values in read_figures(record).items()}
    joules = {labels[-1]: value for labels, value in figures["ml_energy_joules"].items()}
    assert sum(joules.values()) == pytest.approx(record.total.joules)
    predict = record.stages["predict"]
    assert figures["ml_energy_substage_joules"] == {("predict", name): p.joules for name, p in predict.substages.items()}
    assert figures["ml_energy_substage_seconds"] == {("predict", name): p.seconds for name, p in predict.substages.items()}


def test_a_record_of_an_earlier_release_has_no_substages(served: World) -> None:
    record = msgspec.json.decode(encode_record(served.meter.record))
    for stage in record["stages"].values():
        del stage["substages"]
    loaded: RunRecord = decode_record(msgspec.json.encode(record), "energy.json")
    assert not loaded.stages["predict"].substages
    assert loaded.stages["predict"].joules == served.meter.record.stages["predict"].joules


def test_calls_of_a_function_can_be_a_substage() -> None:
    world = World(0.02)
    meter: EnergyMeter = world.meter

    @meter.measure(stage="predict/embed", samples=len)
    def embed(batch: list[int]) -> None:
        world.clock.advance(0.1 * len(batch))

    with meter, meter.stage("predict"):
        embed([1, 2, 3])
        world.clock.advance(0.5)
    predict = meter.record.stages["predict"]
    assert (predict.samples, predict.substages["embed"].samples) == (3, 3)
    assert predict.substages["embed"].seconds == pytest.approx(0.3)
    assert predict.seconds == pytest.approx(0.8)


def test_a_difference_has_substages_after_their_stage() -> None:
    shorter, longer = World(0.02), World(0.02)
    for world, scale in ((shorter, 2.0), (longer, 4.0)):
        with world.meter, world.meter.stage("predict"):
            world.serve(40, scale)
    diff = diff_runs(shorter.meter.record, longer.meter.record)
    places = [(part.stage, part.phase) for part in diff.parts if part.stage != "other"]
    assert [stage for stage, phase in places if phase is None] == ["predict", "predict/prefill", "predict/decode"]
    prefill = next(part for part in diff.parts if part.stage == "predict/prefill")
    assert prefill.difference is not None
    assert prefill.samples is not None  # as of the requests that it is a part of
    assert prefill.time is not None
    assert (prefill.difference.verdict, prefill.samples.joules, prefill.time.verdict) == ("more", 0.0, "more")
    true = longer.true["prefill"] - shorter.true["prefill"]
    assert prefill.difference.low_joules < true < prefill.difference.high_joules  # by the split, not by the devices alone
    stages = [part for part in diff.parts if part.phase is None and "/" not in (part.stage or "")]
    for kind in ("difference", "time", "power"):
        assert sum(getattr(part, kind).joules for part in stages) == pytest.approx(getattr(diff.total, kind).joules)
    shown = StringIO()
    Console(file=shown, width=80).print(render_diff(diff))
    assert "\n predict/prefill" in shown.getvalue()
    assert "Largest cause: the time per sample of predict " in shown.getvalue().replace(",", " ")
    assert "Sub-stages are part of their stages." in shown.getvalue()
    one = diff_runs(shorter.meter.record, without_substages(longer.meter.record))
    decode = next(part for part in one.parts if part.stage == "predict/decode")
    assert decode.b_joules == 0


def without_substages(record: RunRecord) -> RunRecord:
    return replace(record, stages={name: replace(stage, substages={}) for name, stage in record.stages.items()})


def test_a_score_of_a_substage_is_beside_that_of_its_stage() -> None:
    world = World(0.02, embodied_kg=100, lifetime_years=4)
    with world.meter as meter:
        for name in ("predict/a", "predict/b"):
            with meter.stage(name), meter.batch(samples=3, tokens=10):
                world.clock.advance(1.0)
    statements = msgspec.json.decode(export(world.meter.record, Format.SCI_JSON))
    places = [(each["stage"], each["functional_unit"], each["units"]) for each in statements]
    assert places == [
        (stage, unit, count * times)
        for stage, times in (("predict", 2), ("predict/a", 1), ("predict/b", 1))
        for unit, count in (("sample", 3), ("token", 10))
    ]
    whole, a, b = (each for each in statements if each["functional_unit"] == "sample")
    for figure in ("energy_kwh", "operational_g", "embodied_g"):
        assert a[figure] + b[figure] == pytest.approx(whole[figure])


def test_a_data_frame_has_substages_apart_from_stages(served: World) -> None:
    pytest.importorskip("pandas")
    record = served.meter.record
    stages, parts = record.to_frame(), record.to_frame("substages")
    assert list(stages["stage"]) == ["predict", "other"]
    assert stages["joules"].sum() == pytest.approx(record.total.joules)
    assert [*zip(parts["stage"], parts["substage"], strict=True)] == [("predict", "prefill"), ("predict", "decode")]
    assert list(parts["joules"]) == [part.joules for part in record.stages["predict"].substages.values()]
