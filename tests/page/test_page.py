"""The page of `ml-energy report --html`, as a reader sees it in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from browser import Seen, opened
from command import ml_energy
from msgspec.structs import replace
from run_records import a_record

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.report.headline import headline
from ml_energy_callbacks.report.page.runs import difference

pytestmark = pytest.mark.xdist_group("browser")

NASTY = "<script>document.title = 'hacked'</script>"

PAINTED = """new Promise(found => new PerformanceObserver(list => list.getEntriesByName("first-contentful-paint").forEach(
    entry => found(entry.startTime))).observe({ type: "paint", buffered: true }))"""

Shown = Callable[..., Path]


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    """Write records and the page of them by the command; return the page."""

    def show(*records: RunRecord) -> Path:
        for i, record in enumerate(records):
            folder = tmp_path / "runs" / f"run-{i}"
            folder.mkdir(parents=True)
            (folder / "energy.json").write_text(dump_json(record))
        page = tmp_path / "page.html"
        done = ml_energy("report", "--html", page, tmp_path / "runs")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == str(page)
        return page

    return show


def check(seen: Seen) -> None:
    """Check what holds for every page."""
    assert seen.console == []
    assert seen.requests == []
    assert seen.violations() == []
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def five() -> list[RunRecord]:
    energies = (7200.0, 9000.0, 4000.0, 7300.0, 12000.0)
    accuracies = (0.90, 0.93, 0.85, 0.89, 0.92)
    return [
        a_record(joules=joules, accuracy=accuracy, seed=i, devices=3 if i == 3 else 2)
        for i, (joules, accuracy) in enumerate(zip(energies, accuracies, strict=True))
    ]


def runs_in_order(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("table.sorts tbody th").all_inner_texts()]


def test_page_shows_the_headline_first(browser: Any, shown: Shown) -> None:
    record = a_record()
    file = shown(record)
    with opened(browser, file) as seen:
        lines = seen.page.locator(".headline > div").all_inner_texts()
        expected = headline(record, file.parent / "runs" / "run-0" / "energy.json")
        for text, line in zip(lines, expected, strict=True):
            assert text.split("\n")[0] == line.label
            assert all(cell.strip() in text for cell in line.cells)
        assert seen.page.locator(".badge").all_inner_texts() == ["completed", "measured ±5 %"]


def test_page_has_every_part(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(a_record())) as seen:
        headings = seen.page.locator("h2").all_inner_texts()
        assert headings == [
            "Where it went",
            "Over time",
            "By epoch",
            "What could be saved",
            "Carbon and money",
            "Devices",
            "How to repeat it",
            "Cite it",
            "Notes",
            "The record",
        ]
        assert seen.page.locator("figure figcaption").all_inner_texts()[0].startswith("Energy by stage and phase")
        for text in (
            "co2_eq_emissions:",
            "ISO/IEC 21031:2024",
            "Waiting for data used at least",
            "NVIDIA H100",
            "energy counter",
        ):
            assert text in seen.text()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_pages_are_accessible_and_alone(browser: Any, shown: Shown, width: int, *, dark: bool) -> None:
    records = five()
    with opened(browser, shown(records[0]), width=width, dark=dark) as seen:
        check(seen)
        seen.page.click("summary")
        check(seen)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_pages_of_several_runs_are_accessible_and_alone(browser: Any, shown: Shown, width: int, *, dark: bool) -> None:
    with opened(browser, shown(*five()), width=width, dark=dark) as seen:
        check(seen)
        fits = seen.page.evaluate("(all => all.scrollWidth <= all.clientWidth)(document.querySelector('.scroll'))")
        assert fits == (width == 1200)  # no column is cut off but in a narrow window


def test_pictures_tell_their_values_under_the_pointer(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(a_record())) as seen:
        part = seen.page.locator("svg[role=img] rect", has=seen.page.locator("title")).first
        part.hover()
        assert part.locator("title").text_content() == "train, compute: 4.90 kJ, 80 %; 95 %: 4.70 to 5.09 kJ"
        column = seen.page.locator("svg[role=img]", has_text="power").locator("rect.hover").nth(3)
        column.hover()
        assert "gpu:0" in (column.locator("title").text_content() or "")
        assert column.evaluate("element => getComputedStyle(element).fillOpacity") != "1"


def test_gaps_in_power_are_hatched(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(a_record())) as seen:
        assert seen.page.locator("svg rect.gap").count() == 2
        assert "Not every device could be read." in (seen.page.locator("svg rect.gap title").first.text_content() or "")


def test_record_can_be_saved_and_loaded(browser: Any, shown: Shown, tmp_path: Path) -> None:
    record = a_record()
    with opened(browser, shown(record), accept_downloads=True) as seen:
        with seen.page.expect_download() as download:
            seen.page.get_by_role("button", name="Download energy.json").press("Enter")
        download.value.save_as(tmp_path / "energy.json")
        assert load_record(tmp_path / "energy.json") == record
        assert seen.console == []


def test_citation_is_copied_by_keyboard(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(a_record()), permissions=["clipboard-read", "clipboard-write"]) as seen:
        button = seen.page.get_by_role("button", name="Copy the Model card")
        button.focus()
        seen.page.keyboard.press("Enter")
        seen.page.get_by_text("Copied.").wait_for(state="attached")
        text = seen.page.evaluate("navigator.clipboard.readText()")
        assert text.startswith("co2_eq_emissions:")


def test_print_opens_what_is_folded(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(a_record()), dark=True) as seen:
        seen.page.emulate_media(media="print")
        assert seen.page.locator("details table").is_visible()
        assert not seen.page.locator("nav").is_visible()
        assert seen.page.evaluate("getComputedStyle(document.body).colorScheme") == "light"
        assert len(seen.page.pdf()) > 10_000


def test_runs_sort_by_keyboard(browser: Any, shown: Shown) -> None:
    unknown = a_record(seed=7)
    unknown = replace(unknown, total=replace(unknown.total, joules=None, kwh=None))
    with opened(browser, shown(*five(), unknown)) as seen:
        heading = seen.page.locator("th", has_text="Energy,")
        heading.locator("button").focus()
        seen.page.keyboard.press("Enter")
        assert runs_in_order(seen.page) == ["run-2", "run-0", "run-3", "run-1", "run-4", "run-5"]
        assert heading.get_attribute("aria-sort") == "ascending"
        seen.page.keyboard.press("Enter")
        assert runs_in_order(seen.page) == ["run-4", "run-1", "run-3", "run-0", "run-2", "run-5"]
        assert heading.get_attribute("aria-sort") == "descending"
        assert seen.page.inner_text(".said").startswith("Sorted by Energy")
        check(seen)


def test_baseline_is_chosen_by_keyboard(browser: Any, shown: Shown) -> None:
    records = five()
    with opened(browser, shown(*records)) as seen:
        texts = seen.page.locator("[data-run]")
        for i, baseline in enumerate(records):
            if i:
                seen.page.keyboard.press("ArrowDown")
            else:
                seen.page.locator("input[name=baseline]").first.focus()
            assert texts.all_inner_texts() == [difference(baseline, record).text for record in records]


def test_difference_within_the_interval_is_grey(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(*five())) as seen:
        colours = seen.page.locator("[data-run]").evaluate_all("cells => cells.map(cell => getComputedStyle(cell).color)")
        texts = seen.page.locator("[data-run]").all_inner_texts()
        muted = seen.page.evaluate("getComputedStyle(document.querySelector('.subtitle')).color")
        assert texts == [
            "baseline",
            "+25 % (+24 % to +26 %)",
            "−44 % (−47 % to −42 %)",  # noqa: RUF001 - minus signs
            "+1.4 % (−5.7 % to +8.5 %)",  # noqa: RUF001
            "+67 % (+63 % to +70 %)",
        ]
        assert [colour == muted for colour in colours] == [True, False, False, True, False]


def test_pareto_front_is_drawn(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(*five())) as seen:
        picture = seen.page.get_by_role("img", name="Energy against val_acc")
        assert "on the Pareto front: run-2, run-0, run-1" in (picture.get_attribute("aria-label") or "")
        assert picture.locator("circle title").all_text_contents()[0] == "run-0: 2.00 Wh, val_acc 0.8939"


def test_names_are_never_markup(browser: Any, shown: Shown) -> None:
    tags = {NASTY: "</script><img src=x onerror=alert(1)>"}
    nasty = a_record(model=NASTY, hostnames=[NASTY], tags=tags, framework='"><b onclick=x>', reason=NASTY, status="failed")
    nasty.devices[0].name = f"{NASTY}<!--<script>"
    nasty.warnings.append(f"</style>{NASTY}")
    nasty.epochs = [replace(epoch, metrics={NASTY: 1.0}) for epoch in nasty.epochs]
    with opened(browser, shown(nasty)) as seen:
        assert seen.page.title() == f"{NASTY}: energy of a run"
        assert seen.page.inner_text("h1") == NASTY
        assert seen.page.locator("img, b").count() == 0
        assert json.loads(seen.page.locator("#run-record").text_content() or "") == msgspec.to_builtins(nasty)
        check(seen)


def test_names_of_several_runs_are_never_markup(browser: Any, shown: Shown) -> None:
    records = [a_record(seed=i, model=NASTY, hostnames=[NASTY]) for i in range(2)]
    for record in records:
        record.epochs = [replace(epoch, metrics={f"val_acc{NASTY}": 1.0}) for epoch in record.epochs]
    with opened(browser, shown(*records)) as seen:
        assert seen.page.title() == "Energy of 2 runs"
        check(seen)


def test_run_without_joules_says_so(browser: Any, shown: Shown) -> None:
    record = a_record(epochs=0)
    nothing: dict[str, Any] = {
        "joules": None,
        "provenance": None,
        "relative_uncertainty": None,
        "co2e_grams": None,
        "cost": None,
    }
    stages = {
        name: replace(stage, **nothing, joules_per_sample=None, mean_watts=None, phases={}, devices={})
        for name, stage in record.stages.items()
    }
    record = replace(record, stages=stages, devices=[], power={}, total=replace(record.total, **nothing, kwh=None))
    with opened(browser, shown(record)) as seen:
        assert "No device could be read" in seen.text()
        assert "a model card requires them" in seen.text()
        assert "0 J" not in seen.text()
        check(seen)


def test_older_record_says_what_it_lacks(browser: Any, shown: Shown) -> None:
    record = a_record()
    older = json.loads(dump_json(record))
    del older["power"]
    for epoch in older["epochs"]:
        for name in ("started_s", "devices", "phases", "metrics", "sampling_joules"):
            del epoch[name]
    for stage in older["stages"].values():
        for phase in stage["phases"].values():
            del phase["low_joules"], phase["high_joules"]
    with opened(browser, shown(msgspec.convert(older, RunRecord))) as seen:
        assert "This record has no power over time" in seen.text()
        assert seen.page.locator("svg .whisker").count() > 0
        check(seen)


def test_page_works_without_script(browser: Any, shown: Shown) -> None:
    with opened(browser, shown(*five()), java_script_enabled=False) as seen:
        assert runs_in_order(seen.page) == ["run-0", "run-1", "run-2", "run-3", "run-4"]
        assert "+25 % (+24 % to +26 %)" in seen.text()


def test_thousand_epochs_are_small_and_soon_painted(
    browser: Any, shown: Shown, record_property: Callable[[str, object], None]
) -> None:
    page = shown(a_record(epochs=1000, slices=2000, seconds=86_400.0, joules=3e7, devices=10))
    size = page.stat().st_size
    with opened(browser, page) as seen:
        painted_ms = seen.page.evaluate(PAINTED)
        record_property("kilobytes", size / 1000)
        record_property("first_paint_ms", painted_ms)
        print(f"{size / 1000:.0f} kB, first paint after {painted_ms:.0f} ms")  # noqa: T201 - shown with -s
        check(seen)
    assert size <= 300_000
    assert painted_ms < 10_000  # on a busy machine; 0.2 s on an idle one
