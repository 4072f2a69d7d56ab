"""The tab Energy of TensorBoard, as a reader sees it in a real browser beside a real TensorBoard."""

import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from browser import Seen, opened
from msgspec.structs import replace
from run_records import a_record

from ml_energy_callbacks.record.schema import ForecastRecord, RunRecord

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

from board import TAB, refreshed, served, served_by_command, shown, wait_until, write_raw, write_run

from ml_energy_callbacks.report.drawing import to_html
from ml_energy_callbacks.tensorboard.event_file import EventFile
from ml_energy_callbacks.tensorboard.runs import TabRun
from ml_energy_callbacks.tensorboard.snapshots import decode, encode
from ml_energy_callbacks.tensorboard.tab import Wanted, tab

pytestmark = pytest.mark.xdist_group("browser")

NASTY = "<script>document.title='hacked'<i>"
NO_ICON = "Failed to load resource: the server responded with a status of 404 (NOT FOUND)"
"""A browser asks for the icon of a page that is not in a frame, and TensorBoard has none."""

PAINTED = """new Promise(found => new PerformanceObserver(list => list.getEntriesByName("first-contentful-paint").forEach(
    entry => found(entry.startTime))).observe({ type: "paint", buffered: true }))"""


def finished() -> list[RunRecord]:
    energies, accuracies = (7200.0, 9000.0, 4000.0), (0.90, 0.93, 0.85)
    return [a_record(joules=e, accuracy=a, seed=i) for i, (e, a) in enumerate(zip(energies, accuracies, strict=True))]


def running(joules: float = 3600.0) -> RunRecord:
    now = datetime.now(UTC)
    record = a_record(joules=joules, seconds=300.0, accuracy=0.8, seed=9, epochs=8, slices=200)
    forecast = ForecastRecord(
        after_epochs=8,
        kwh=9000 / 3.6e6,
        kwh_low=8200 / 3.6e6,
        kwh_high=9900 / 3.6e6,
        co2e_grams=None,
        cost=None,
        seconds_left=400.0,
        ends_at=(now + timedelta(seconds=400)).isoformat(),
    )
    began = (now - timedelta(seconds=300)).isoformat()
    return replace(record, run=replace(record.run, status="running", ended_at=None, started_at=began), forecast=forecast)


def names(seen: Seen) -> list[str]:
    found: list[str] = seen.page.locator("tbody th button").all_inner_texts()
    return found


def check(seen: Seen) -> None:
    """Check what holds for the tab whatever it shows."""
    assert set(seen.console) <= {NO_ICON}
    assert seen.requests == []
    assert seen.violations() == []
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A log directory with three finished runs and one that goes on."""
    for i, record in enumerate(finished()):
        write_run(tmp_path / f"version_{i}", record)
    write_run(tmp_path / "version_3", running())
    return tmp_path


def test_a_running_run_is_compared_with_three_finished_ones(browser: Any, logs: Path) -> None:
    with shown(browser, logs, runs=4) as seen:
        assert names(seen) == ["version_3", "version_2", "version_1", "version_0"]
        assert seen.page.locator("#run-heading").inner_text() == "version_3"
        assert seen.page.locator(".badge").all_inner_texts() == ["running", "measured ±5 %"]
        cards = dict(text.split("\n")[:2] for text in seen.page.locator(".cards > div").all_inner_texts())
        assert (cards["Energy"], cards["Expected"], cards["Training sample"]) == ("1.00 Wh", "2.50 Wh", "61.2 mJ")
        titles = [text.split("\n")[0] for text in seen.page.locator("figcaption").all_inner_texts()]
        assert len(titles) == 6
        for title, start in zip(
            titles, ("Cumulative", "Energy of a training", "Energy against val_acc", "Power"), strict=False
        ):
            assert title.startswith(start)
        assert "version_3, forecast" in seen.text()
        rows = seen.page.locator("#runs tbody tr").all_inner_texts()
        assert "so far" in rows[0]
        assert "−44 % (" in rows[1]  # noqa: RUF001 - a minus sign
        assert "baseline" in rows[3]
        colours = seen.page.locator("tbody .swatch").evaluate_all(
            "all => all.map(one => getComputedStyle(one).backgroundColor)"
        )
        assert len(set(colours)) == 4
        check(seen)


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (700, True)])
def test_the_tab_fits_its_window_light_and_dark(browser: Any, logs: Path, width: int, *, dark: bool) -> None:
    with shown(browser, logs, runs=4, width=width) as seen:
        if dark:
            seen.page.evaluate("document.body.classList.add('dark-mode')")
            wait_until(lambda: seen.page.evaluate("document.documentElement.dataset.theme") == "dark")
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(21, 23, 28)") == dark
        check(seen)


def test_figures_appear_under_the_pointer(browser: Any, logs: Path) -> None:
    with shown(browser, logs, runs=4) as seen:
        columns = seen.page.locator("figure").first.locator(".hover")
        columns.first.hover()
        text = columns.nth(20).locator("title").text_content()
        assert re.search(r"version_0: \d", text), text
        parts = seen.page.locator("td.of-where svg").first
        assert "compute" in parts.get_attribute("aria-label")


def test_headings_sort_and_keep_their_focus(browser: Any, logs: Path) -> None:
    with shown(browser, logs, runs=4) as seen:
        heading = seen.page.locator("#by-energy")
        heading.focus()
        seen.page.keyboard.press("Enter")
        wait_until(lambda: names(seen)[0] == "version_1")
        assert names(seen) == ["version_1", "version_0", "version_2", "version_3"]
        assert seen.page.locator("th[aria-sort=descending]").inner_text().startswith("Energy")
        assert seen.page.evaluate("document.activeElement.id") == "by-energy"
        seen.page.keyboard.press("Enter")
        wait_until(lambda: names(seen)[0] == "version_3")
        assert seen.page.locator("th[aria-sort=ascending]").count() == 1
        check(seen)


def test_the_keyboard_alone_chooses_run_baseline_and_charts(browser: Any, logs: Path) -> None:
    with shown(browser, logs, runs=4) as seen:
        row = seen.page.locator("#runs tbody tr", has_text="version_1")
        row.locator("button").focus()
        seen.page.keyboard.press("Enter")
        wait_until(lambda: seen.page.locator("#run-heading").inner_text() == "version_1")
        row.locator("input[type=radio]").focus()
        seen.page.keyboard.press("Space")
        wait_until(lambda: "baseline" in row.inner_text())
        row.locator("input[type=checkbox]").focus()
        seen.page.keyboard.press("Space")
        wait_until(lambda: "version_1" not in seen.page.locator(".charts").first.inner_text())
        assert seen.page.locator("#run-heading").inner_text() == "version_1"
        seen.page.locator("#filter").fill("_2")
        wait_until(lambda: names(seen) == ["version_2"])
        assert "1 of 4 runs" in seen.text()
        assert "version_3" in seen.page.locator(".charts").first.inner_text()
        check(seen)


def test_a_run_is_shown_while_it_trains(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "version_0", running(1800.0))
    with shown(browser, tmp_path, runs=1) as seen:
        assert "0.500 Wh" in seen.text()
        run.follow(lambda: running(3600.0), last=True)
        wait_until(lambda: "1.00 Wh" in refreshed(seen))
        ended = replace(running(5400.0), run=a_record().run)
        run.follow(lambda: ended, last=True)
        wait_until(lambda: "1.50 Wh" in refreshed(seen))
        assert seen.page.locator(".badge").first.inner_text() == "completed"
        assert "Expected" not in seen.text()
        check(seen)


def test_tensorboards_own_page_has_the_tab(browser: Any, logs: Path) -> None:
    with served(logs) as address, opened(browser, f"{address}#ml_energy") as seen:
        frame = seen.page.frame_locator("iframe")
        frame.locator("#run-heading").wait_for(timeout=60_000)
        assert frame.locator("#run-heading").inner_text() == "version_3"
        assert seen.page.get_by_role("tab", name="Energy").count() == 1
        seen.page.evaluate("document.body.classList.add('dark-mode')")
        frame.locator("html[data-theme=dark]").wait_for()
        assert [text for text in seen.console if "three.js" not in text.lower()] == []
        assert seen.requests == []


def test_the_fast_data_server_reads_the_snapshots_too(browser: Any, logs: Path) -> None:
    pytest.importorskip("tensorboard_data_server", reason="TensorBoard's data server is not installed")
    with served_by_command(logs, fast=True) as address, opened(browser, f"{address}{TAB}") as seen:
        wait_until(lambda: "4 runs" in refreshed(seen))
        assert names(seen)[0] == "version_3"


def test_names_are_never_markup(browser: Any, tmp_path: Path) -> None:
    record = a_record()
    record.run.model = record.devices[0].name = NASTY
    record.epochs[1].metrics = {f"{NASTY}val_acc": 0.5}
    write_run(tmp_path / NASTY, record)
    with shown(browser, tmp_path, runs=1) as seen:
        assert names(seen) == [NASTY]
        assert seen.page.title() == "Energy"
        seen.page.locator("tbody th button").click()
        wait_until(lambda: seen.page.locator("#run-heading").inner_text() == NASTY)
        check(seen)


def test_a_run_without_joules_says_so_and_empty_charts_say_why(browser: Any, tmp_path: Path) -> None:
    record = a_record()
    unknown = {"joules": None, "kwh": None, "relative_uncertainty": None, "provenance": None, "co2e_grams": None, "cost": None}
    record = replace(record, total=replace(record.total, **unknown), stages={}, epochs=[], power={}, devices=[])
    write_run(tmp_path / "version_0", record)
    with shown(browser, tmp_path, runs=1) as seen:
        assert seen.page.locator(".empty").count() == 6
        assert "No device could be read" in seen.text()
        assert "No run has a metric" in seen.text()
        check(seen)


def test_a_directory_without_runs_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    with served(tmp_path) as address, opened(browser, f"{address}{TAB}") as seen:
        seen.page.locator(".empty").wait_for()
        assert "Add EnergyCallback()" in seen.text()
        check(seen)


def test_damaged_and_half_written_logs_hide_no_other_run(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "good", a_record())
    write_raw(tmp_path / "bad", b"no snapshot")
    write_run(tmp_path / "half", a_record(seed=1))
    (half,) = (tmp_path / "half" / "energy").iterdir()
    half.write_bytes(half.read_bytes()[:-40])  # as if the writer had got no further
    with shown(browser, tmp_path, runs=1) as seen:
        assert names(seen) == ["good"]
        wait_until(lambda: "The snapshot of run bad is not a run record" in refreshed(seen))
        check(seen)


def test_old_logs_are_shown_from_their_scalars(browser: Any, tmp_path: Path) -> None:
    for folder, prefix in ((tmp_path / "lightning", ""), (tmp_path / "trainer", "train/"), (tmp_path / "keras" / "energy", "")):
        file = EventFile(folder)
        for epoch in range(3):
            stage = {
                "joules": 360.0,
                "watts": 36.0,
                "joules_per_sample": 0.36,
                "compute_joules": 300.0,
                "data_wait_joules": 60.0,
            }
            total = {"joules": 360.0 * (epoch + 1), "relative_uncertainty": 0.5, "measured_share": 0.0}
            scalars = {f"energy/train/{name}": value for name, value in stage.items()}
            scalars |= {f"energy/total/{name}": value for name, value in total.items()}
            file.add_scalars({f"{prefix}{name}": value for name, value in scalars.items()}, epoch)
    with shown(browser, tmp_path, runs=3) as seen:
        assert sorted(names(seen)) == ["keras", "lightning", "trainer"]
        wait_until(lambda: refreshed(seen).count("\t300\t") >= 3)  # TensorBoard may have read a part of the scalars only
        cells = seen.page.locator("#runs tbody tr").all_inner_texts()
        assert all("\t300\t" in row and "log without records" in row for row in cells), cells
        assert seen.page.locator(".badge").all_inner_texts() == ["log without records", "estimated ±50 %"]
        assert seen.page.locator(".empty").count() == 2  # neither power over time nor a metric
        check(seen)


def test_a_lower_bound_is_marked_in_cards_and_table() -> None:
    record = a_record()
    least = replace(record, total=replace(record.total, lower_bound=True))
    text = to_html(tab([TabRun("a", record, 0.0), TabRun("b", least, 0.0)], Wanted(run="b"), [], 1.0))
    assert text.count(">≥2.00") == 2
    assert text.count(">2.00<") == 1
    assert ">≥112<" in text


def test_a_token_has_a_card_where_its_energy_is_known() -> None:
    record = a_record()
    train = replace(record.stages["train"], tokens=1_000_000, joules_per_token=0.00612)
    counted = replace(record, stages={**record.stages, "train": train})
    with_tokens, without = (to_html(tab([TabRun("a", each, 0.0)], Wanted(run="a"), [], 1.0)) for each in (counted, record))
    assert "<dt>Training token</dt><dd>6.12 mJ" in with_tokens
    assert '<button name="by" value="token" id="by-token">Training token,\u00a0mJ</button>' in with_tokens
    assert "Training token" not in without


def test_stages_and_phases_unfold_with_substages() -> None:
    record = a_record()
    train = record.stages["train"]
    record.stages["train"] = replace(train, substages={"encode": train})
    text = to_html(tab([TabRun("a", record, 0.0)], Wanted(run="a"), [], 1.0))
    details = text.partition('id="stages"')[2].partition("</details>")[0]
    assert '<th scope="row">\u2003encode</th>' in details
    assert "train/encode, compute" in details


def test_a_slow_answer_is_waited_for(browser: Any, logs: Path) -> None:
    with shown(browser, logs, runs=4) as seen:
        seen.page.clock.install()
        seen.page.reload()
        seen.page.locator("#runs tbody tr").first.wait_for()
        held: list[Any] = []
        seen.page.route("**/view?*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright sets attributes

        def asked() -> bool:
            seen.page.clock.run_for(5_000)
            seen.page.wait_for_timeout(50)
            return bool(held)

        wait_until(asked)
        seen.page.clock.run_for(35_000)
        seen.page.wait_for_timeout(50)
        assert len(held) == 1
        held[0].continue_()


def test_a_killed_run_says_when_it_was_last_heard_of() -> None:
    now = time.time()
    runs = [TabRun("a", running(), now - 3600), TabRun("b", running(), now - 5)]
    text = to_html(tab(runs, Wanted(), [], now))
    assert "no news since" in text
    assert text.count("so far") == 0  # neither: the first is the baseline, and was killed; see the forecast of the other
    assert "b, forecast" in text
    assert "a, forecast" not in text


def test_ten_thousand_runs_take_a_page_of_bounded_size() -> None:
    record = a_record(epochs=3, slices=20)
    runs = [TabRun(f"sweep/version_{i}", replace(record, run=replace(record.run, id=f"{i:032x}")), 0.0) for i in range(10_000)]
    began = time.process_time()
    text = to_html(tab(runs, Wanted(sort="energy"), [], 1.0))
    tab(runs, Wanted(sort="difference"), [], 1.0)
    assert time.process_time() - began < 10
    assert len(text) < 400_000
    assert "10,000 runs; the first 100 are listed" in text
    text = to_html(tab(runs, Wanted(filter="_9999"), [], 1.0))
    assert "1 of 10,000 runs" in text


def test_a_snapshot_of_a_long_run_is_small() -> None:
    record = a_record(epochs=2000, slices=2000)
    data = encode(record)
    assert len(data) < 60_000
    assert decode(data, "it").total == record.total


def test_the_first_paint_of_a_hundred_runs_is_soon(browser: Any, tmp_path: Path, record_property: Any) -> None:
    for i in range(100):
        write_run(tmp_path / f"version_{i}", a_record(seed=i, epochs=10))
    with shown(browser, tmp_path, runs=100) as seen:
        seen.page.reload()
        painted = seen.page.evaluate(PAINTED)
        record_property("first_paint_ms", painted)
        assert painted < 30_000  # on a busy machine
        assert len(names(seen)) == 100


def test_tensorboard_starts_without_what_the_tab_needs() -> None:
    code = """
import sys
sys.modules["msgspec"] = None  # as if it were missing
from ml_energy_callbacks.tensorboard.loader import EnergyLoader
assert EnergyLoader().load(object()) is None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "TensorBoard shows no tab Energy: " in done.stderr
    assert "Traceback" not in done.stderr


def test_tensorboard_finds_the_tab_by_its_entry_point() -> None:
    found = {point.name: point.value for point in entry_points(group="tensorboard_plugins")}
    assert found["energy"] == "ml_energy_callbacks.tensorboard.loader:EnergyLoader"
