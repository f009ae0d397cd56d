"""The page in headless Chromium: the switches work, by mouse and keys, nothing is fetched, nothing complains, and it
fits a telephone."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sgma_jax.report.page import render_page
from sgma_jax.report.records import ReportedRun
from tests.report.conftest import SENSORS, MakeRun, random_scenes

pytestmark = pytest.mark.browser
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
WIDTHS = (400, 1400)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'sgma_jax[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; install the system's (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def runs(made_run: MakeRun) -> list[ReportedRun]:
    """Two runs with scenes; the second fuses by the mean, so it has no robustness maps here."""
    return [
        dataclasses.replace(made_run(name), scenes=random_scenes(seed))
        for seed, name in enumerate(("sgma", "baseline_with_a_long_name"))
    ]


class Opened:
    """The report of some runs in a tab that may not reach anything, and what the tab asked for and complained about."""

    def __init__(
        self, browser: Any, folder: Path, runs: list[ReportedRun], width: int = 1400, script: bool = True
    ) -> None:
        self.file = folder / "report.html"
        self.file.write_text(render_page(runs, "Two tiles."))
        context = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=script, offline=True
        )
        self.tab = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(self.file.as_uri())

    def shown(self, kind: str, run: int, sensor: str | None = None) -> str | None:
        """Data URI of the picture that is visible, None where there is none."""
        which = f'[data-picture="{kind}"][data-run="{run}"]' + (f'[data-sensor="{sensor}"]' if sensor else "")
        image = self.tab.locator(f"{which} img")
        return image.get_attribute("src") if image.is_visible() else None

    def choose(self, sensors: tuple[str, ...]) -> None:
        """Click until these sensors are on and no other."""
        for name in SENSORS:
            switch = self.tab.get_by_role("button", name=name, exact=True)
            if (switch.get_attribute("aria-pressed") == "true") != (name in sensors):
                switch.click()
            assert switch.get_attribute("aria-pressed") == str(name in sensors).lower()


def test_every_state_of_the_switches_shows_its_own_pictures(
    chromium: Any, runs: list[ReportedRun], tmp_path: Path
) -> None:
    page = Opened(chromium, tmp_path, runs)
    for scene in range(2):
        page.tab.get_by_role("button", name=f"Scene {scene + 1}").click()
        for mask in product((True, False), repeat=len(SENSORS)):
            sensors = tuple(s for s, on in zip(SENSORS, mask, strict=True) if on)
            page.choose(sensors)
            state = page.tab.get_by_role("status").inner_text()
            for number, run in enumerate(runs):
                answer = run.scenes[scene].answers.get("+".join(sensors))
                assert page.shown("prediction", number) == (answer.prediction if answer else None)
                assert page.shown("errors", number) == (answer.errors if answer else None)
                for name in SENSORS:
                    assert page.shown("robustness", number, name) == (answer.robustness.get(name) if answer else None)
                assert answer is None or f"{run.label} {100 * (answer.right or 0):.1f} %" in state
            assert ("No sensor is left" in state) == (not sensors)
    assert page.complaints == []


def test_nothing_is_fetched_and_nothing_complains(chromium: Any, runs: list[ReportedRun], tmp_path: Path) -> None:
    page = Opened(chromium, tmp_path, runs)
    page.tab.get_by_role("button", name="sar", exact=True).click()
    page.tab.mouse.wheel(0, 5000)
    assert [url for url in page.requests if not url.startswith("data:")] == [page.file.as_uri()]
    assert page.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_wide_tables_scroll_in_themselves(
    chromium: Any, runs: list[ReportedRun], tmp_path: Path, width: int
) -> None:
    page = Opened(chromium, tmp_path, runs, width)
    assert page.tab.evaluate("document.documentElement.scrollWidth") == width
    outside = """() => [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, svg, .unseen")
        && e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 80))"""
    assert page.tab.evaluate(outside) == []
    smallest = page.tab.evaluate(
        """Math.min(...[...document.querySelectorAll("[data-switch]")].map((e) => e.getBoundingClientRect().height))"""
    )
    assert smallest >= 44  # what a finger hits


def test_all_switches_are_reached_by_tab_and_turned_by_space_and_enter(
    chromium: Any, runs: list[ReportedRun], tmp_path: Path
) -> None:
    page = Opened(chromium, tmp_path, runs)
    reached: list[str] = []
    while "sar" not in reached and len(reached) < 9:
        page.tab.keyboard.press("Tab")
        name = page.tab.evaluate(
            "document.activeElement.dataset.switch ?? document.activeElement.dataset.scene ?? null"
        )
        if name is None:
            continue
        reached.append(name)
        outline = page.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # one sees where one is
        if name in SENSORS:
            pressed = "document.activeElement.getAttribute('aria-pressed')"
            assert page.tab.evaluate(pressed) == "true"
            page.tab.keyboard.press("Space")
            assert page.tab.evaluate(pressed) == "false"
            page.tab.keyboard.press("Enter")
            assert page.tab.evaluate(pressed) == "true"
    assert reached == ["0", "1", *SENSORS]


def test_a_screen_reader_is_told_what_everything_is(chromium: Any, runs: list[ReportedRun], tmp_path: Path) -> None:
    page = Opened(chromium, tmp_path, runs)
    page.tab.get_by_role("button", name="dsm", exact=True).click()
    snapshot = page.tab.locator("body").aria_snapshot()
    for words in (
        'button "rgb" [pressed]',
        'button "Scene 1" [pressed]',
        'group "Sensors that are there"',
        'heading "Model card"',
        "status:",
    ):
        assert words in snapshot
    assert 'button "dsm" [pressed]' not in snapshot
    assert re.search(r'img "Errors with rgb \+ sar: [\d.]+ % right"', snapshot)
    session = page.tab.context.new_cdp_session(page.tab)
    nodes = [n for n in session.send("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
    needing = [
        n
        for n in nodes
        if n["role"]["value"] in ("button", "image", "link", "region", "table", "columnheader", "rowheader", "group")
    ]
    nameless = [
        n for n in needing if not n.get("name", {}).get("value") and n["role"]["value"] not in ("table", "group")
    ]
    assert len(needing) > 50
    assert nameless == []


def test_without_javascript_the_full_answer_is_there(chromium: Any, runs: list[ReportedRun], tmp_path: Path) -> None:
    page = Opened(chromium, tmp_path, runs, script=False)
    assert page.shown("prediction", 0) == runs[0].scenes[0].answers["+".join(SENSORS)].prediction
    assert page.tab.locator("noscript p").is_visible()


def test_it_prints(chromium: Any, runs: list[ReportedRun], tmp_path: Path) -> None:
    page = Opened(chromium, tmp_path, runs)
    page.tab.emulate_media(media="print", color_scheme="dark")
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.tab.locator("nav").is_visible()
    folded = page.tab.locator("#classes details").nth(1).locator("table")
    assert folded.bounding_box()["height"] > 100
    pdf = page.tab.pdf()
    assert pdf.startswith(b"%PDF")
    if folder := os.environ.get("SGMA_SCREENSHOTS"):  # for a person to look at
        (Path(folder) / "report.pdf").write_bytes(pdf)
