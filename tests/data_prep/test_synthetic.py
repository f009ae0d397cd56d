"""The synthetic city is reproducible, and the paper's three problems really occur in it."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import synthetic
from data_prep.city import BUILDING, CAR, IMPERVIOUS, LOW_VEGETATION, TREE, draw_city
from data_prep.synthetic import MODALITY_NAMES, render
from sgma_jax.data.schema import Example, to_record
from sgma_jax.data.source import open_source


@functools.cache
def tiles(split: str = "train", count: int = 8) -> tuple[Example, ...]:
    """Complete tiles."""
    whole = (e for e in (render(0, split, i, 128) for i in range(2 * count)) if e.available.all())
    return tuple(e for e, _ in zip(whole, range(count), strict=False))


def pixels(sensor: str, label: int) -> np.ndarray:
    return np.concatenate([e.images[sensor][e.label == label] for e in tiles()]).astype(np.float64)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Shared area of two histograms: 1 where two classes look the same, 0 where they never do."""
    edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 40)
    shares = [np.histogram(v, edges)[0] / v.size for v in (a, b)]
    return float(np.minimum(*shares).sum())


def test_a_tile_depends_on_its_arguments_alone() -> None:
    first = [render(3, "test", i, 64) for i in (0, 1, 2)]
    again = [render(3, "test", i, 64) for i in (2, 0, 1)]
    for a, b in zip(first, (again[1], again[2], again[0]), strict=True):
        assert a.id == b.id
        for x, y in (
            (a.label, b.label),
            (a.available, b.available),
            *((a.images[s], b.images[s]) for s in MODALITY_NAMES),
        ):
            np.testing.assert_array_equal(x, y)
    others = (render(4, "test", 0, 64), render(3, "train", 0, 64), render(3, "test", 1, 64))
    assert all((first[0].label != other.label).any() for other in others)


@pytest.mark.parametrize("size", [16, 33, 200])
def test_tiles_come_in_any_size_and_fit_the_schema(size: int) -> None:
    for index in range(8):
        record = to_record(render(0, "train", index, size), synthetic.schema(size))
        assert record["label"].max() < len(synthetic.CLASSES)


def test_all_five_classes_occur_and_none_is_negligible() -> None:
    share = np.bincount(np.concatenate([e.label.ravel() for e in tiles()]), minlength=5) / (len(tiles()) * 128**2)
    assert share.size == 5
    assert (share > (0.2, 0.04, 0.1, 0.06, 0.008)).all()


def test_roofs_and_streets_share_colours_but_not_heights() -> None:
    for band in range(3):
        assert overlap(pixels("rgb", BUILDING)[:, band], pixels("rgb", IMPERVIOUS)[:, band]) > 0.55
    assert overlap(pixels("dsm", BUILDING), pixels("dsm", IMPERVIOUS)) < 0.25


def test_lawns_and_streets_share_heights_but_not_colours() -> None:
    assert overlap(pixels("dsm", LOW_VEGETATION), pixels("dsm", IMPERVIOUS)) > 0.7
    greenness = [
        pixels("rgb", c)[:, 1] - 0.5 * (pixels("rgb", c)[:, 0] + pixels("rgb", c)[:, 2])
        for c in (LOW_VEGETATION, IMPERVIOUS)
    ]
    assert overlap(*greenness) < 0.35


def test_trees_and_roofs_share_heights() -> None:
    assert overlap(pixels("dsm", TREE), pixels("dsm", BUILDING)) > 0.5


def test_radar_alone_tells_classes_apart_worst_and_colour_best() -> None:
    """Best accuracy of telling each pair of classes apart by one number: the pixel's, averaged over its 3 x 3
    neighbours."""

    def separation(sensor: str) -> float:
        values = {c: pixels(sensor, c) for c in range(5)}
        pairs = [(a, b) for a in range(5) for b in range(a)]
        bands = range(values[0].shape[1])
        return float(np.mean([1 - min(overlap(values[a][:, k], values[b][:, k]) for k in bands) for a, b in pairs]))

    scores = {sensor: separation(sensor) for sensor in MODALITY_NAMES}
    assert min(scores, key=scores.__getitem__) == "sar"
    assert separation("sar") < 0.6 * separation("rgb")


def test_buildings_vary_in_size_and_direction() -> None:
    areas, angles = [], []
    for seed in range(6):
        city = draw_city(np.random.default_rng(seed), 256)
        roofs, sizes = np.unique(city.height[city.label == BUILDING], return_counts=True)
        for height in roofs[sizes > 60]:  # flat roofs: one height each
            y, x = np.nonzero((city.height == height) & (city.label == BUILDING))
            areas.append(y.size)
            spread = np.linalg.eigh(np.cov(np.stack((x, y))))[1][:, 1]
            angles.append(np.degrees(np.arctan2(spread[1], spread[0])) % 90)
    assert len(areas) > 15
    assert np.percentile(areas, 90) > 4 * np.percentile(areas, 10)
    assert np.histogram(angles, 6, (0, 90))[0].all()


def test_radar_shines_on_the_side_of_buildings_that_faces_it() -> None:
    # The sensor looks from the left: the three pixels left of a wall against the three right of one.
    before, behind = [], []
    for e in tiles():
        roof = np.pad(e.label == BUILDING, ((0, 0), (4, 4)))
        sar = np.pad(e.images["sar"][..., 0], ((0, 0), (4, 4)), constant_values=np.nan)
        for shift in (1, 2, 3):
            before.append(sar[:, :-shift][roof[:, shift:] & ~roof[:, :-shift]])
            behind.append(sar[:, shift:][roof[:, :-shift] & ~roof[:, shift:]])
    assert np.nanmean(np.concatenate(before)) > np.nanmean(np.concatenate(behind)) + 2


def test_speckle_is_multiplicative_and_heavy() -> None:
    # In decibels its spread does not depend on the brightness.
    spreads = [pixels("sar", c).std() for c in (IMPERVIOUS, LOW_VEGETATION, CAR)]
    assert min(spreads) > 2.5
    assert max(spreads) < 1.6 * min(spreads)


@pytest.mark.parametrize(("split", "every"), [("train", 10), ("test", 12)])
def test_some_records_lack_a_sensor_wholly_and_some_in_part_but_none_lacks_all(split: str, every: int) -> None:
    shares = np.array([render(0, split, i, 32).available.mean((1, 2)) for i in range(4 * every)])
    whole, part = (shares == 0).any(1), ((shares > 0) & (shares < 1)).any(1)
    assert whole.sum() == 4
    assert part.sum() == 4
    assert not (whole & part).any()
    assert shares.any(1).all()
    assert ((shares == 0).sum(0) == 1).all()  # each sensor in turn
    assert (shares == 1).all(1).mean() > 0.75


def test_unavailable_pixels_hold_zeros() -> None:
    for index in range(40):
        e = render(0, "train", index, 32)
        for name, mask in zip(MODALITY_NAMES, e.available, strict=True):
            assert not e.images[name][~mask].any()


def test_the_command_writes_what_render_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "synthetic",
        str(tmp_path / "out"),
        "--seed",
        "5",
        "--size",
        "32",
        "--train",
        "6",
        "--validation",
        "2",
        "--test",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", command)
    synthetic.main()
    for split, count in (("train", 6), ("validation", 2), ("test", 3)):
        source = open_source(tmp_path / "out", split)
        assert len(source) == count
        assert source.schema.names == MODALITY_NAMES
        for i in range(count):
            drawn, stored = render(5, split, i, 32), source[i]
            np.testing.assert_array_equal(stored.label, drawn.label)
            np.testing.assert_array_equal(stored.available, drawn.available)
            for name in MODALITY_NAMES:
                np.testing.assert_array_equal(stored.images[name], drawn.images[name])


@pytest.mark.parametrize(("flag", "value"), [("--train", "-1"), ("--size", "8"), ("--train", "0")])
def test_numbers_that_make_no_city_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["synthetic", str(tmp_path / "out"), "--size", "32", "--validation", "1", "--test", "1", flag, value],
    )
    with pytest.raises(SystemExit) as end:
        synthetic.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())
