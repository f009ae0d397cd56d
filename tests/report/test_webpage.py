"""The report says what the runs' files say, escapes what they are called, and refuses what cannot stand side by
side."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgma_jax.config import TrainConfig, from_json
from sgma_jax.errors import InputError
from sgma_jax.report import charts, figures
from sgma_jax.report.card import make_card
from sgma_jax.report.page import render_page
from sgma_jax.report.records import check_comparable, labels_of, read_run
from sgma_jax.show.tables import percent
from tests.report.conftest import CLASSES, SENSORS, MakeRun, random_scenes

EMPTY = {"img", "meta", "link", "br", "hr", "input", "path", "circle", "rect"}


class Reader(HTMLParser):
    """The rows of all tables as lists of texts; and what is open at the end, which must be nothing."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.identities: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.identities += [value or "" for name, value in attrs if name == "id"]
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] = " ".join((self.rows[-1][-1] + " " + data).split())


def test_the_table_over_all_subsets_is_that_of_the_evaluation(made_run: MakeRun) -> None:
    run = made_run("alone")
    reader = Reader(render_page([run]))
    assert not reader.open
    assert len(set(reader.identities)) == len(reader.identities)
    for subset in run.evaluation.subsets:
        ece = subset.calibration.ece if subset.calibration else None
        scores = [percent(v) for v in (subset.miou, subset.f1, subset.oa, subset.coverage, ece)]
        assert [" + ".join(subset.modalities), *scores] in reader.rows
        assert [" + ".join(subset.modalities), *(percent(subset.iou[c]) for c in CLASSES)] in reader.rows
    firsts = {row[0]: row[1] for row in reader.rows if len(row) > 1}
    assert firsts["Average"] == percent(run.evaluation.average)
    assert firsts["Expected, each sensor lost with p = 0.1"] == percent(run.evaluation.bernoulli["0.1"])
    full = np.array(run.evaluation.full.confusion)
    for name, row in zip(CLASSES, full, strict=True):
        assert [name, *(percent(v) for v in row / row.sum())] in reader.rows


def test_several_runs_have_a_column_each_and_the_best_of_a_line_is_marked(made_run: MakeRun) -> None:
    runs = [made_run("first"), made_run("the_second")]
    page = render_page(runs)
    rows = Reader(page).rows
    for subset in runs[0].evaluation.subsets:
        assert [
            " + ".join(subset.modalities),
            *(percent(r.evaluation.of(subset.modalities).miou) for r in runs),
        ] in rows
    best = re.findall(r'class="bar best"><b>([\d.]+)', page)
    assert best[: len(runs[0].evaluation.subsets)] == [percent(row.best) for row in figures.subset_rows(runs)]


def test_an_ablation_is_laid_out_as_in_the_paper(made_run: MakeRun) -> None:
    names = {"sgma": (True, True), "mas_only": (False, True), "sgf_only": (True, False), "baseline": (False, False)}
    runs = [made_run(name, sgf=sgf, mas=mas) for name, (sgf, mas) in names.items()]
    rows = figures.ablation_rows(runs)
    assert [row.run.label for row in rows] == ["baseline", "sgf_only", "mas_only", "sgma"]
    assert [row[1:] for row in rows] == [(False, False), (True, False), (False, True), (True, True)]
    assert {d.field for d in figures.config_differences(runs)} == {"model.fusion", "sampling"}
    shown = next(row for row in Reader(render_page(runs)).rows if row[0] == "sgf_only")
    assert shown[1:3] == ["● yes", "– no"]
    assert shown[-2:] == [percent(rows[1].run.evaluation.average), percent(rows[1].run.evaluation.last1.miou)]  # type: ignore[union-attr]
    assert "Not a clean ablation" not in render_page(runs)
    longer = dataclasses.replace(runs[0], label="longer", config=dataclasses.replace(runs[0].config, steps=80))
    assert "differ in steps too" in " ".join(render_page([*runs, longer]).split())
    assert figures.ablation_rows(runs[:1] * 2) == []
    assert "Ablation" not in render_page([runs[0], dataclasses.replace(runs[0], label="again")])


def test_names_cannot_become_markup_and_nothing_may_run_or_be_fetched(made_run: MakeRun) -> None:
    evil = '</script><script>alert(1)</script><img src="http://x/y" onerror=alert(2)>'
    run = made_run("evil", classes=(evil, "roof", "tree"))
    run = dataclasses.replace(run, label=evil, scenes=random_scenes(0, 1), starts=[{"step": 0, "command": evil}])
    page = render_page([run], evil)
    assert Reader(page).open == []
    assert page.count("<script") == 2  # the scenes and the viewer
    assert '<img src="http' not in page
    assert "onerror=alert(2)>" not in page
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]


def test_the_card_says_what_is_known_and_how_to_get_the_run_again(made_run: MakeRun) -> None:
    run = made_run("carded")
    card = make_card(run)
    assert from_json(card.config, TrainConfig) == run.config
    assert card.commands[0] == "git checkout " + "b" * 40  # the code that trained, not the code that scored
    assert card.recorded_command == "sgma train carded.py --workdir carded"
    assert card.facts["Data licence"].startswith("not stated")
    assert run.manifest is not None
    licensed = dataclasses.replace(
        run, manifest=dataclasses.replace(run.manifest, options={"licence": "CC BY 4.0, A. Publisher"})
    )
    assert make_card(licensed).facts["Data licence"] == "CC BY 4.0, A. Publisher"
    assert card.facts["Trained on"] == "1 x cpu"
    assert card.findings == ("two scenes have no sar",)
    page = render_page([run])
    for known in ("two scenes have no sar", "a" * 40, "data_prep.made", "carded.py"):
        assert known in page
    bare = dataclasses.replace(run, manifest=None, starts=[])
    assert make_card(bare).commands[0] == "git checkout " + "a" * 40
    assert make_card(bare).recorded_command is None
    assert "not at hand" in render_page([bare])


def test_limits_are_read_off_the_numbers(made_run: MakeRun) -> None:
    run = made_run("limited")
    low = tuple(dataclasses.replace(s, iou={**s.iou, "roof": 0.001, "road": None}) for s in run.evaluation.subsets)
    run = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, subsets=low))
    said = " ".join(make_card(run).limits)
    assert "Does not find roof" in said
    assert "Says nothing about road" in said
    assert "one seed (0)" in said
    assert "Does not find" not in " ".join(make_card(made_run("able")).limits)


def test_runs_without_curves_calibration_or_scenes_are_reported_and_say_so(made_run: MakeRun) -> None:
    run = dataclasses.replace(made_run("plain", mas=False, calibrated=False), metrics=[], manifest=None)
    page = render_page([run], "None were asked for.")
    assert Reader(page).open == []
    assert page.count("nothing recorded") == 2
    assert page.count("trained without MAS") == 1
    assert "counts no probabilities" in page
    assert "No scenes. None were asked for." in page
    assert "<script" not in page


def test_a_run_without_pictures_stands_beside_one_that_has_them(made_run: MakeRun) -> None:
    with_scenes = dataclasses.replace(made_run("jax"), scenes=random_scenes(0))
    page = render_page([made_run("torch", calibrated=False), with_scenes])
    assert "holds no checkpoint that this program opens" in page
    data = json.loads(re.search(r'id="scenes">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [a is None for a in data["scenes"][0]["answers"]] == [True, False]


def test_the_same_runs_give_the_same_bytes(made_run: MakeRun) -> None:
    run = dataclasses.replace(made_run("same"), scenes=random_scenes(0))
    assert render_page([run]) == render_page([run])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (None, "sgma evaluate"),
        ("{", "cannot be read"),
        ("{}", "missing"),
        ('{"split": "test"}', "again"),
    ],
)
def test_a_run_that_was_not_scored_or_whose_scores_are_damaged_is_told_in_words(
    made_run: MakeRun, damage: str | None, words: str
) -> None:
    run = made_run("damaged")
    path = run.folder / "evaluation" / "test.json"
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(InputError, match=words) as caught:
        read_run(run.folder, run.config, "test", "damaged")
    assert "test.json" in str(caught.value)


def test_scores_of_an_earlier_version_name_the_command_that_renews_them(made_run: MakeRun) -> None:
    run = made_run("early")
    path = run.folder / "evaluation" / "test.json"
    report = json.loads(path.read_text())
    for subset in report["subsets"]:
        del subset["confusion"]
    path.write_text(json.dumps(report))
    with pytest.raises(InputError, match=r"confusion.*sgma evaluate"):
        read_run(run.folder, run.config, "test", "early")


def test_runs_of_other_classes_sensors_or_data_are_not_compared(made_run: MakeRun) -> None:
    first, other = made_run("first"), made_run("other", classes=("road", "roof", "water"))
    with pytest.raises(InputError, match=r"classes.*water.*report of each"):
        check_comparable([first, other])
    moved = dataclasses.replace(first.evaluation, provenance={"manifest_hash": "else"})
    with pytest.raises(InputError, match="manifest"):
        check_comparable([first, dataclasses.replace(first, evaluation=moved)])
    check_comparable([first, made_run("second")])


def test_runs_of_one_name_are_told_apart(made_run: MakeRun) -> None:
    a, b = made_run("a"), made_run("b")
    assert labels_of([a.folder, b.folder], [a.config, b.config]) == ["a", "b"]
    same = dataclasses.replace(a.config, name="b")
    assert labels_of([a.folder, b.folder], [same, b.config]) == ["a", "b"]
    twins = [a.folder, a.folder.parent / "x" / "a"]
    assert labels_of(twins, [same, same]) == [str(t) for t in twins]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6), count=st.integers(2, 8))
def test_ticks_are_round_and_span_the_data(low: float, span: float, count: int) -> None:
    ticks = charts.nice_ticks(low, low + span, count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + span - 1e-6 * step
    assert 2 <= len(ticks) <= count + 2
    np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-4, atol=1e-11)


@given(heights=st.lists(st.floats(charts.TOP, charts.HEIGHT - charts.BOTTOM), min_size=1, max_size=8))
def test_names_of_lines_do_not_overlap(heights: list[float]) -> None:
    placed = charts._apart(heights)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= charts.LABEL_DISTANCE - 1e-9).all()
    assert max(placed) <= charts.HEIGHT - charts.BOTTOM + 1e-9


def test_long_curves_keep_their_mean_and_their_end() -> None:
    points = [(float(x), float(x % 7)) for x in range(5000)]
    thinned = charts._thinned(points)
    assert len(thinned) == charts.MOST_POINTS
    assert thinned[-1] == points[-1]
    assert np.mean([y for _, y in thinned]) == pytest.approx(np.mean([y for _, y in points]), rel=0.02)


def test_every_chart_has_a_title_and_a_description(made_run: MakeRun) -> None:
    page = render_page([made_run("charted")])
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        title, description = re.search(r'aria-labelledby="(\S+) (\S+)"', svg).groups()  # type: ignore[union-attr]
        assert f'<title id="{title}">' in svg
        assert re.search(rf'<desc id="{description}">[^<]{{20,}}</desc>', svg)
    assert page.count("<svg") == 3 + 1 + len(SENSORS)
