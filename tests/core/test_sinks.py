"""A served model's figures, scraped by Prometheus over HTTP and exported by OpenTelemetry, with their own libraries."""

import gc
import importlib
import os
import re
import sys
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client import parser as text
from prometheus_client.openmetrics import parser as openmetrics
from service import Service

from ml_energy_callbacks import EnergyMeter, RunRecord
from ml_energy_callbacks.carbon import ElectricityMaps
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.sinks.opentelemetry import observe
from ml_energy_callbacks.sinks.prometheus import EnergyCollector
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, ScriptedPower, SteppedMeter

GPU = ScriptedCounter(PowerCurve(monotonic_clock, 0), monotonic_clock).device
DRAM = replace(GPU, id="scripted:dram", name="Memory", kind="dram", provenance="estimated", relative_uncertainty=0.3)
PLUG = replace(GPU, id="scripted:plug", name="Plug", kind="board", method="power_integration", whole_machine=True)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def counter(
    watts: float = 100, device: Device = GPU, period_s: float = 0.02, clock: Clock = monotonic_clock
) -> ScriptedCounter:
    return ScriptedCounter(PowerCurve(clock, watts), clock, period_s=period_s, device=device)


def metered(*sources: Any, **options: Any) -> EnergyMeter:
    return EnergyMeter(backends=[ScriptedBackend(sources or [counter()])], verbose=False, **options)


def stepped(clock: ManualClock, *sources: Any, **options: Any) -> SteppedMeter:
    return SteppedMeter(clock, backends=[ScriptedBackend(sources or [counter(clock=clock)])], verbose=False, **options)


def serve(meter: EnergyMeter, sleep: Callable[[float], None], seconds: float = 0.3) -> None:
    with meter.stage("predict"):
        for _ in range(3):
            with meter.batch(samples=4):
                sleep(seconds / 6)
            sleep(seconds / 6)


def flat(families: Any) -> Samples:
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def collected(registry: CollectorRegistry) -> Samples:
    return flat(registry.collect())


def named(samples: Samples, name: str) -> dict[str, float]:
    """Return the values of a metric by the values of its labels, in the order of the labels' names."""
    return {
        ",".join(value for _, value in sorted(labels)): value for (found, labels), value in samples.items() if found == name
    }


def expected(record: RunRecord) -> Samples:
    """Return what Prometheus has to be told of a record of devices that all were read."""
    devices = {
        each.id: {"device": each.id, "kind": each.kind, "name": each.name, "provenance": each.provenance}
        for each in [*record.devices, *record.whole_machine]
    }
    values: list[tuple[str, dict[str, str], float | None]] = []
    for stage, told in record.stages.items():
        values += [("joules_total", {**devices[name], "stage": stage}, joules) for name, joules in told.devices.items()]
        for phase, part in told.phases.items():
            labels = {"stage": stage, "phase": phase}
            values.append(("phase_joules_total", labels, part.joules))
            values += [("phase_low_joules", labels, part.low_joules), ("phase_high_joules", labels, part.high_joules)]
            values.append(("time_seconds_total", {"stage": stage, "phase": phase}, part.seconds))
        values += [
            ("batches_total", {"stage": stage}, told.batches),
            ("samples_total", {"stage": stage}, told.samples),
            ("co2e_grams_total", {"stage": stage}, told.co2e_grams),
            ("cost_total", {"stage": stage, "currency": record.total.currency}, told.cost),
        ]
    for plug in record.whole_machine:
        values += [("host_joules_total", {**devices[plug.id], "stage": stage}, joules) for stage, joules in plug.stages.items()]
    for device in [*record.devices, *record.whole_machine]:
        values.append(("missing_seconds_total", devices[device.id], device.missing_s))
        values.append(("relative_uncertainty", devices[device.id], device.relative_uncertainty))
    carbon = record.carbon
    place = {"location": carbon.location or "", "source": carbon.source, "basis": carbon.basis}
    values.append(
        ("carbon_intensity_grams_per_kwh", {**place, "assumed": str(carbon.assumed).lower()}, carbon.intensity_g_per_kwh)
    )
    return {(f"ml_energy_{name}", frozenset(labels.items())): value for name, labels, value in values if value is not None}


# ---------------------------------------------------------------------------------------------------- Prometheus


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def url(registry: CollectorRegistry) -> Iterator[str]:
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def scrape(url: str, accept: str = "text/plain") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=10) as answer:  # noqa: S310
        body: str = answer.read().decode()
        return body


def test_a_scrape_tells_what_the_record_does(clock: ManualClock, registry: CollectorRegistry, url: str) -> None:
    plug = ScriptedPower(PowerCurve(clock, 300), clock, device=PLUG)
    meter = stepped(clock, counter(clock=clock), counter(20, DRAM, clock=clock), plug, location="FRA", electricity_price=0.3)
    EnergyCollector(meter, registry)
    with meter:
        serve(meter, clock.advance)
    want = expected(meter.record)
    assert flat(text.text_string_to_metric_families(scrape(url))) == want
    accept = "application/openmetrics-text; version=1.0.0"
    families = list(openmetrics.text_string_to_metric_families(scrape(url, accept)))
    assert flat(families) == want
    assert {family.name: family.unit for family in families if family.unit}["ml_energy_joules"] == "joules"
    predict = meter.record.stages["predict"]
    joules = named(want, "ml_energy_joules_total")
    assert sum(value for labels, value in joules.items() if labels.endswith("predict")) == predict.joules
    assert {labels.rpartition(",")[0] for labels in joules} == {
        "scripted:0,gpu,Scripted device,measured",
        "scripted:dram,dram,Memory,estimated",
    }


def test_rates_while_it_serves_are_watts_and_joules_per_sample(clock: ManualClock, registry: CollectorRegistry) -> None:
    meter = stepped(clock)
    EnergyCollector(meter, registry)
    with meter, meter.stage("predict"):
        clock.advance(0.3)
        seen = []
        for _ in range(2):
            seen.append((clock() / NS_PER_S, collected(registry)))
            for _ in range(20):
                with meter.batch(samples=5):
                    clock.advance(0.04)
    (began, first), (ended, last) = seen
    growth = {
        name: sum(value for labels, value in named(last, name).items() if "predict" in labels)
        - sum(value for labels, value in named(first, name).items() if "predict" in labels)
        for name in ("ml_energy_joules_total", "ml_energy_samples_total")
    }
    assert growth["ml_energy_joules_total"] / (ended - began) == pytest.approx(100, rel=0.1)
    assert growth["ml_energy_samples_total"] == 100


def test_counters_never_go_backwards_where_the_record_is_corrected(clock: ManualClock, registry: CollectorRegistry) -> None:
    source = counter(400, period_s=0.4, clock=clock)
    meter = stepped(clock, source)
    EnergyCollector(meter, registry)
    records, scrapes = [], []
    with meter, meter.stage("predict"):
        clock.advance(2)
        for watts in (1, 400, 1):
            source.curve.set(watts)  # type: ignore[attr-defined]
            end = clock() / NS_PER_S + 0.8
            while clock() / NS_PER_S < end:
                records.append(meter.record.stages["predict"].joules or 0.0)
                scrapes.append(collected(registry))
                clock.advance(0.01)
    assert any(b < a for a, b in pairwise(records))  # else this test shows nothing
    for name in {key for each in scrapes for key in each if key[0].endswith("_total")}:
        values = [each[name] for each in scrapes if name in each]
        assert values == sorted(values), name
    (told,) = (value for labels, value in named(scrapes[-1], "ml_energy_joules_total").items() if "predict" in labels)
    assert told == pytest.approx(meter.record.stages["predict"].joules, abs=400 * 0.5)


def test_before_the_start_nothing_is_told_and_after_the_stop_the_last(clock: ManualClock, registry: CollectorRegistry) -> None:
    meter = stepped(clock)
    EnergyCollector(meter, registry)
    assert collected(registry) == {}
    with meter:
        serve(meter, clock.advance)
    first = collected(registry)
    assert first == expected(meter.record)
    clock.advance(0.1)
    assert collected(registry) == first
    with meter:  # again: it adds up
        serve(meter, clock.advance)
    again = collected(registry)
    assert named(again, "ml_energy_samples_total") == {"predict": 24}
    assert all(again[name] >= value for name, value in first.items() if name[0].endswith("_total"))


def test_a_run_that_was_resumed_tells_the_whole(clock: ManualClock, registry: CollectorRegistry) -> None:
    earlier = stepped(clock)
    with earlier:
        serve(earlier, clock.advance)
    meter = stepped(clock)
    meter.resume(earlier.record)
    EnergyCollector(meter, registry)
    with meter:
        serve(meter, clock.advance)
    assert named(collected(registry), "ml_energy_samples_total") == {"predict": 24}
    assert collected(registry) == expected(meter.record)


def test_a_meter_is_not_kept_alive(clock: ManualClock, registry: CollectorRegistry) -> None:
    meter = stepped(clock)
    collector = EnergyCollector(meter, registry)
    with meter:
        serve(meter, clock.advance)
    gone = weakref.ref(meter)
    del meter
    gc.collect()
    assert gone() is None
    assert collected(registry) == {}
    registry.unregister(collector)
    EnergyCollector(stepped(clock), registry)


def test_what_is_not_known_is_absent(clock: ManualClock, registry: CollectorRegistry) -> None:
    meter = SteppedMeter(clock, backends=[], verbose=False)
    EnergyCollector(meter, registry)
    with meter:
        clock.advance(0.05)
        with meter.stage("predict"), meter.batch():
            clock.advance(0.05)
    assert {name for name, _ in collected(registry)} == {"ml_energy_batches_total", "ml_energy_time_seconds_total"}
    assert named(collected(registry), "ml_energy_batches_total") == {"other": 0, "predict": 1}


def test_the_jobs_share_is_told_beside_the_devices(clock: ManualClock, registry: CollectorRegistry) -> None:
    class Used(ScriptedCounter):
        def process_share(self, _: object) -> float:
            return 0.25

    meter = stepped(clock, Used(PowerCurve(clock, 100), clock, period_s=0.02), scope="process")
    EnergyCollector(meter, registry)
    with meter:
        serve(meter, clock.advance, 0.6)
    process = meter.record.process
    assert process is not None
    told = {
        labels.rpartition(",")[2]: value
        for labels, value in named(collected(registry), "ml_energy_process_joules_total").items()
    }
    assert told == process.stages
    assert told["predict"] == pytest.approx(15, rel=0.3)


def test_grams_are_there_once_the_intensity_is(registry: CollectorRegistry) -> None:
    service = Service()
    service.silence_s = 30
    service.tell(41)
    meter = metered(carbon_intensity=ElectricityMaps("FR", token="s3cret", url=service.url))  # noqa: S106 - made up
    EnergyCollector(meter, registry)
    with meter:
        serve(meter, time.sleep)
        before = {name for name, _ in collected(registry)}
        service.ended.set()
        end = time.monotonic() + 15
        while "ml_energy_co2e_grams_total" not in {name for name, _ in collected(registry)} and time.monotonic() < end:
            time.sleep(0.05)
        after = named(collected(registry), "ml_energy_carbon_intensity_grams_per_kwh")
    service.close()
    assert "ml_energy_joules_total" in before
    assert not before & {"ml_energy_co2e_grams_total", "ml_energy_carbon_intensity_grams_per_kwh"}
    assert after == {"false,lifecycle,FR,Electricity Maps": 41}


def test_a_device_that_falls_silent_keeps_its_joules_and_counts_what_is_missing(
    clock: ManualClock, registry: CollectorRegistry
) -> None:
    source = counter(clock=clock)
    meter = stepped(clock, source)
    EnergyCollector(meter, registry)
    with meter:
        serve(meter, clock.advance)
        clock.advance(0.2)
        source.failing = True
        failed = clock() / NS_PER_S
        clock.advance(1.5)  # for a second, it might only be late
        silent = collected(registry)
        clock.advance(0.3)
        later = collected(registry)
        silence = clock() / NS_PER_S - failed
    (missing,) = named(later, "ml_energy_missing_seconds_total").values()
    assert missing == pytest.approx(silence, abs=0.3)
    joules = "ml_energy_joules_total"
    assert named(later, joules) == pytest.approx(named(silent, joules), rel=1e-9)


def test_no_scrape_waits_for_a_device(registry: CollectorRegistry, url: str) -> None:
    release, hangs, hung, answered = (threading.Event() for _ in range(4))

    class Hanging(ScriptedCounter):
        def read(self) -> float:
            if hangs.is_set():
                hung.set()
                release.wait(60)
                answered.set()
            return super().read()

    meter = metered(Hanging(PowerCurve(monotonic_clock, 100), monotonic_clock, period_s=0.02))
    EnergyCollector(meter, registry)
    with meter:
        serve(meter, time.sleep)
        hangs.set()
        assert hung.wait(30)
        for _ in range(10):
            assert "ml_energy_joules_total" in scrape(url)
        assert not answered.is_set()
        release.set()


def test_scrapes_and_requests_may_overlap(registry: CollectorRegistry) -> None:
    meter = metered()
    EnergyCollector(meter, registry)

    def watch(_: int) -> list[float]:
        name = "ml_energy_samples_total"
        return [sum(named(collected(registry), name).values()) for _ in range(40)]

    def answer(_: int) -> None:
        with meter.batch(samples=1):
            time.sleep(0.001)

    with meter, meter.stage("predict"), ThreadPoolExecutor(8) as pool:
        seen = [pool.submit(watch, i) for i in range(4)]
        list(pool.map(answer, range(200)))
        for each in seen:
            assert each.result() == sorted(each.result())
    assert named(collected(registry), "ml_energy_samples_total") == {"predict": 200}


def test_a_fork_tells_nothing_of_what_its_parent_measures(registry: CollectorRegistry) -> None:
    meter = metered()
    EnergyCollector(meter, registry)
    with meter, meter.batch(1):
        time.sleep(0.1)
        assert b"ml_energy_joules" in generate_latest(registry)
        pid = os.fork()
        if not pid:
            told = 1
            try:
                told = len(generate_latest(registry))
            finally:
                os._exit(min(told, 255))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert b"ml_energy_joules" in generate_latest(registry)


def test_a_record_that_fails_takes_nothing_else_of_the_service_with_it(registry: CollectorRegistry) -> None:
    class Broken(EnergyMeter):
        @property
        def record(self) -> RunRecord:
            msg = "broken"
            raise RuntimeError(msg)

    meter = Broken(backends=[], verbose=False)
    EnergyCollector(meter, registry)
    with meter:
        assert collected(registry) == {}
        assert "RuntimeError('broken')" in meter._session.build().warnings[-1]


def test_a_registry_takes_one_meter(clock: ManualClock, registry: CollectorRegistry) -> None:
    meter = stepped(clock)
    EnergyCollector(meter, registry)
    for other in (meter, stepped(clock)):
        with pytest.raises(ConfigurationError, match="already contains the figures of a meter: unregister"):
            EnergyCollector(other, registry)
    EnergyCollector(meter, CollectorRegistry())


def test_what_is_no_meter_and_no_registry_is_refused() -> None:
    given: Any = "meter"
    with pytest.raises(ConfigurationError, match="'meter' is not a meter; pass an EnergyMeter"):
        EnergyCollector(given)
    with pytest.raises(ConfigurationError, match="'meter' is not a meter; pass an EnergyMeter"):
        observe(given)
    with pytest.raises(ConfigurationError, match="None is not a registry; pass a CollectorRegistry"):
        EnergyCollector(metered(), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'meter' is not a meter provider; pass a MeterProvider"):
        observe(metered(), given)


@pytest.mark.parametrize(("sink", "library"), [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry")])
def test_a_library_that_is_missing_is_named_with_its_extra(sink: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as far as the interpreter knows, there is none
    monkeypatch.delitem(sys.modules, f"ml_energy_callbacks.sinks.{sink}")
    with pytest.raises(ImportError, match=re.escape(f"pip install 'ml-energy-callbacks[{sink}]'")) as raised:
        importlib.import_module(f"ml_energy_callbacks.sinks.{sink}")
    assert raised.type is ImportError


# ---------------------------------------------------------------------------------------------------- OpenTelemetry


def points(data: MetricsData | None) -> dict[str, list[Any]]:
    if data is None:
        return {}
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.data.data_points
    }


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader])
    yield provider
    provider.shutdown()


def test_opentelemetry_tells_what_the_record_does(
    clock: ManualClock, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    plug = ScriptedPower(PowerCurve(clock, 300), clock, device=PLUG)
    meter = stepped(clock, counter(clock=clock), counter(20, DRAM, clock=clock), plug, location="FRA", electricity_price=0.3)
    observe(meter, provider)
    assert points(reader.get_metrics_data()) == {}
    with meter:
        serve(meter, clock.advance)
    data = reader.get_metrics_data()
    told, record = points(data), meter.record
    predict = record.stages["predict"]
    energy = {(each.attributes["hw.id"], each.attributes["ml.stage"]): each for each in told["hw.energy"]}
    assert {key: each.value for key, each in energy.items()} == {
        (name, stage): joules for stage, each in record.stages.items() for name, joules in each.devices.items()
    }
    assert energy[DRAM.id, "predict"].attributes == {
        "hw.id": DRAM.id,
        "hw.type": "memory",
        "hw.name": "Memory",
        "ml.provenance": "estimated",
        "ml.stage": "predict",
    }
    assert {each.attributes["hw.id"] for each in told["hw.host.energy"]} == {PLUG.id}
    by_stage = {name: {each.attributes["ml.stage"]: each.value for each in told[name]} for name in told if "co" in name}
    assert by_stage["ml.energy.co2e"]["predict"] == predict.co2e_grams
    assert by_stage["ml.energy.cost"]["predict"] == predict.cost
    (samples,) = told["ml.energy.samples"]
    assert samples.value == predict.samples
    (intensity,) = told["ml.energy.carbon_intensity"]
    assert (intensity.value, intensity.attributes["ml.location"]) == (record.carbon.intensity_g_per_kwh, "FRA")
    (scope,) = data.resource_metrics[0].scope_metrics if data else ()
    kinds = {metric.name: (metric.unit, getattr(metric.data, "is_monotonic", None)) for metric in scope.metrics}
    assert kinds["hw.energy"] == kinds["hw.host.energy"] == ("J", True)
    assert kinds["ml.energy.relative_uncertainty"] == ("1", None)
    assert scope.scope.name == "ml_energy_callbacks"


def test_opentelemetry_looks_at_the_meter_once_for_an_export(
    clock: ManualClock, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    looks = []

    class Watched(SteppedMeter):
        @property
        def record(self) -> RunRecord:
            looks.append(1)
            return super().record

    meter = Watched(clock, backends=[ScriptedBackend([counter(clock=clock)])], verbose=False)
    observe(meter, provider)
    with meter, meter.stage("predict"):
        values = []
        for _ in range(3):
            clock.advance(0.2)
            told = points(reader.get_metrics_data())
            values.append(sum(each.value for each in told["ml.energy.time"]))
    assert len(looks) == 3
    assert values[2] - values[1] > 0.19  # each export is of its own instant


def test_opentelemetry_exports_on_a_period() -> None:
    class Kept(MetricExporter):
        def __init__(self) -> None:
            super().__init__()
            self.exported: list[dict[str, list[Any]]] = []

        def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
            self.exported.append(points(metrics_data))
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 10_000) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            """Do nothing."""

    kept = Kept()
    provider = MeterProvider([PeriodicExportingMetricReader(kept, export_interval_millis=100)])
    meter = metered()
    observe(meter, provider)
    with meter:
        end = time.monotonic() + 30
        while len(kept.exported) < 4 and time.monotonic() < end:
            serve(meter, time.sleep, 0.2)
    provider.shutdown()
    energy = [sum(each.value for each in told["hw.energy"]) for told in kept.exported if "hw.energy" in told]
    assert len(energy) > 2
    assert energy == sorted(energy)
    assert energy[-1] == pytest.approx(meter.record.total.joules, rel=0.05)


def test_a_provider_is_told_of_one_meter_at_a_time(
    clock: ManualClock, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    meter = stepped(clock)
    observe(meter, provider)
    for _ in range(2):  # before it begins, and while it measures
        with pytest.raises(ConfigurationError, match="already exports a meter: stop that meter first"):
            observe(stepped(clock), provider)
        meter.start()
    serve(meter, clock.advance)
    meter.stop()
    assert points(reader.get_metrics_data())["ml.energy.samples"][0].value == 12
    after = stepped(clock)
    observe(after, provider)
    assert points(reader.get_metrics_data()) == {}
    del after
    gc.collect()
    last = stepped(clock)
    observe(last, provider)
    with last, last.stage("predict"), last.batch(samples=7):
        clock.advance(0.1)
    assert points(reader.get_metrics_data())["ml.energy.samples"][0].value == 7
