"""DELIVER: every trap of the set is in the synthetic tree, and the converter is fooled by none of them."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import deliver, doctor
from data_prep.sources import open_source as open_tree
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import Example, read_manifest
from sgma_jax.data.source import open_source
from tests.data import make_deliver as tree
from tests.data.make_dfc2023 import make_dfc2023

SIZE = 96
Run = Callable[..., tuple[int, str]]
SENSORS = {"rgb": "img", "depth": "hha", "event": "event", "lidar": "lidar"}
SPLITS = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture(scope="session")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set as it is delivered. Not to be changed."""
    root = tmp_path_factory.mktemp("deliver")
    tree.make_deliver(root, size=SIZE)
    return root


@pytest.fixture(scope="session")
def converted(delivered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted set, a record a frame."""
    out = tmp_path_factory.mktemp("converted") / "deliver"
    deliver.convert_deliver(deliver.Options(delivered, out, tile=SIZE))
    return out


@pytest.fixture
def spoiled(delivered: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(delivered, tmp_path / "source"))


def examples(out: Path) -> dict[str, Example]:
    """Every record by split and id, without the tile."""
    splits = [split for split, counts in read_manifest(out).splits.items() if counts.records]
    sources = [open_source(out, split) for split in splits]
    return {f"{s.split}/{e.id.rpartition('/')[0]}": e for s in sources for e in (s[i] for i in range(len(s)))}


def key(frame: tree.Frame, folders: bool = False) -> str:
    return f"{SPLITS[frame[0]]}/{tree.record_id(frame, folders)}"


def survey(source: Path, tmp_path: Path, **options: object) -> deliver.Survey:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    with open_tree(source, tmp_path / "scratch") as files:
        assert deliver.recognise(files)
        return deliver.survey(files, deliver.Options(source, Path(), **options))  # type: ignore[arg-type]


def test_every_pixel_arrives(converted: Path) -> None:
    records = examples(converted)
    assert set(records) == {key(frame) for frame in tree.FRAMES}
    for frame in tree.FRAMES:
        stored, example = tree.images(frame, SIZE), records[key(frame)]
        for sensor in set(SENSORS) - {"event"}:
            np.testing.assert_array_equal(example.images[sensor], stored[SENSORS[sensor]][..., :3])
        assert example.available.all()
    manifest = read_manifest(converted)
    assert [(m.name, m.bands, m.dtype) for m in manifest.schema.modalities] == [
        (sensor, 3, "uint8") for sensor in SENSORS
    ]
    assert len(manifest.schema.classes) == 25


def test_raw_0_and_255_are_ignored_and_1_to_25_are_the_classes(converted: Path) -> None:
    records = examples(converted)
    for frame in tree.FRAMES:
        raw = tree.images(frame, SIZE)["semantic"][..., 0]
        assert {0, 255} <= set(np.unique(raw))
        np.testing.assert_array_equal(records[key(frame)].label, tree.label(frame, SIZE))


def test_the_alpha_of_an_rgba_image_hides_nothing(converted: Path) -> None:
    frame = next(frame for frame in tree.FRAMES if frame[4] == tree.TRANSPARENT)
    assert tree.images(frame, SIZE)["img"].shape[2] == 4
    assert (tree.images(frame, SIZE)["img"][..., 3] == 0).any()
    assert examples(converted)[key(frame)].available.all()


def test_events_of_another_size_are_resized_to_the_nearest_pixel(converted: Path) -> None:
    for frame in tree.FRAMES:
        event = tree.images(frame, SIZE)["event"]
        rows, columns = (np.array([i * n // SIZE for i in range(SIZE)]) for n in event.shape[:2])
        np.testing.assert_array_equal(examples(converted)[key(frame)].images["event"], event[rows][:, columns])
    assert sum("event-size" in finding for finding in read_manifest(converted).findings) == 1


def test_tiles_of_a_frame_hold_what_the_whole_frame_holds(
    converted: Path, delivered: Path, tmp_path: Path, run_converter: Run
) -> None:
    status, error = run_converter(deliver, delivered, tmp_path / "out", "--tile", 64)
    assert status == 0, error
    whole = {split: open_source(converted, split) for split in ("train", "test")}
    for split, source in whole.items():
        frames = {example.id.rpartition("/")[0]: example for example in (source[i] for i in range(len(source)))}
        tiles = open_source(tmp_path / "out", split)
        assert len(tiles) == 4 * len(source)
        for tile in (tiles[i] for i in range(len(tiles))):
            identity, _, place = tile.id.rpartition("/")
            y, x = map(int, place.split("_"))
            window = (slice(y, y + 64), slice(x, x + 64))
            for sensor in SENSORS:
                np.testing.assert_array_equal(tile.images[sensor], frames[identity].images[sensor][window])
            if split == "train":
                np.testing.assert_array_equal(tile.label, frames[identity].label[window])
    manifests = [read_manifest(out).splits["test"] for out in (converted, tmp_path / "out")]
    assert manifests[0].labelled_pixels == manifests[1].labelled_pixels


def test_ids_tell_weather_and_failure(converted: Path) -> None:
    ids = {name.split("/", 1)[1] for name in examples(converted)}
    assert {tuple(name.split("/")[:2]) for name in ids} == {
        (weather, failure) for _, weather, _, failure, _ in tree.FRAMES
    }


def test_failures_as_folders_and_as_ends_of_names_are_the_same_frames(
    converted: Path, tmp_path: Path, run_converter: Run
) -> None:
    tree.make_deliver(tmp_path / "source", size=SIZE, folders=True)
    assert run_converter(deliver, tmp_path / "source", tmp_path / "out", "--tile", SIZE)[0] == 0
    first, second = examples(converted), examples(tmp_path / "out")
    assert set(second) == {key(frame, folders=True) for frame in tree.FRAMES}
    for frame in tree.FRAMES:
        np.testing.assert_array_equal(first[key(frame)].label, second[key(frame, folders=True)].label)
        np.testing.assert_array_equal(first[key(frame)].images["rgb"], second[key(frame, folders=True)].images["rgb"])


def test_raw_depth_is_an_option(converted: Path, delivered: Path, tmp_path: Path, run_converter: Run) -> None:
    assert run_converter(deliver, delivered, tmp_path / "out", "--tile", SIZE, "--depth", "raw")[0] == 0
    frame = tree.FRAMES[0]
    np.testing.assert_array_equal(
        examples(tmp_path / "out")[key(frame)].images["depth"][..., 0], tree.images(frame, SIZE)["depth"]
    )
    assert read_manifest(tmp_path / "out").schema.modalities[1].bands == 1


@pytest.mark.parametrize("name", ["img", "rain", "img/cloud", "rain/img", "train"])
def test_the_name_of_a_folder_around_the_set_means_nothing(delivered: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "DELIVER"
    shutil.copytree(delivered / "DELIVER", folder)
    for source in (folder, folder.parent, tmp_path / name.split("/")[0], tmp_path):
        found = survey(source, tmp_path)
        assert sorted(frame.id for frame in found.frames) == sorted(
            tree.record_id(frame, False) for frame in tree.FRAMES
        )
        assert all(set(frame.files) == set(SENSORS) for frame in found.frames)


def test_archive_or_folder_and_one_worker_or_two_give_the_same_bytes(
    converted: Path, delivered: Path, tmp_path: Path, run_converter: Run
) -> None:
    archive = tmp_path / "DELIVER.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(delivered.rglob("*")):
            file.write(path, path.relative_to(delivered))
    for out, source, workers in (("again", delivered, 2), ("unpacked", archive, 1)):
        status, error = run_converter(deliver, source, tmp_path / out, "--tile", SIZE, "--workers", workers)
        assert status == 0, error
        for shard in (converted / "records").iterdir():
            assert shard.read_bytes() == (tmp_path / out / "records" / shard.name).read_bytes()
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (converted / "manifest.json").read_bytes()


def test_a_frame_that_lacks_a_sensor_is_kept_without_it(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    frame = tree.FRAMES[3]
    (spoiled / "DELIVER" / tree.path_of(frame, "lidar")).unlink()
    assert run_converter(deliver, spoiled, tmp_path / "out", "--tile", SIZE)[0] == 0
    example = examples(tmp_path / "out")[key(frame)]
    assert not example.available[3].any()
    assert example.available[:3].all()


def test_one_channel_among_three_is_repeated(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    path = spoiled / "DELIVER" / tree.path_of(tree.FRAMES[0], "lidar")
    grey = tree.images(tree.FRAMES[0], SIZE)["lidar"][..., 0]
    Image.fromarray(grey).save(path)
    assert run_converter(deliver, spoiled, tmp_path / "out", "--tile", SIZE)[0] == 0
    np.testing.assert_array_equal(
        examples(tmp_path / "out")[key(tree.FRAMES[0])].images["lidar"], np.dstack((grey, grey, grey))
    )
    assert any("mixed-channels" in finding for finding in read_manifest(tmp_path / "out").findings)


def test_the_reader_of_tiles_can_be_sent_to_another_process(delivered: Path, tmp_path: Path) -> None:
    found = survey(delivered, tmp_path)
    tile = deliver.plan_tiles(found.frames, SIZE, None)["test"][0]
    reader = deliver.TileReader(Rasters(), dict(found.kinds), SIZE)
    copy, same = pickle.loads(pickle.dumps((reader, tile)))
    np.testing.assert_array_equal(reader(tile).images["lidar"], copy(same).images["lidar"])


def test_no_map_is_in_two_splits(converted: Path) -> None:
    maps: dict[str, set[str]] = {}
    for name in examples(converted):
        split, _, _, scene, _ = name.split("/")
        maps.setdefault("_".join(scene.split("_")[:2]), set()).add(split)
    assert maps == {"MAP_1": {"train"}, "MAP_2": {"train"}, "MAP_3": {"validation"}, "MAP_10": {"test"}}


def test_a_map_in_two_splits_is_refused_unless_accepted_or_assigned(
    spoiled: Path, tmp_path: Path, run_converter: Run
) -> None:
    for kind in tree.WORDS:
        base = spoiled / "DELIVER" / kind / "sun"
        (base / "train" / "MAP_3_point9").mkdir()
        shutil.copy(
            base / "val" / "MAP_3_point2_overexposure" / f"000200_{tree.WORDS[kind]}_front.png",
            base / "train" / "MAP_3_point9",
        )
    arguments = (deliver, spoiled, tmp_path / "out", "--tile", SIZE)
    status, error = run_converter(*arguments)
    assert status == 2
    assert all(word in error.splitlines()[-1] for word in ("MAP_3", "map-in-two-splits", "--splits FILE"))
    assert run_converter(*arguments, "--accept", "map-in-two-splits")[0] == 0
    splits = tmp_path / "splits.csv"
    splits.write_text("map,split\nMAP_1,train\nMAP_3,validation\nMAP_10,test\n")
    assert run_converter(*arguments, "--overwrite", "--splits", splits)[0] == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.options["assigned"] == {"MAP_1": "train", "MAP_3": "validation", "MAP_10": "test"}
    assert [manifest.splits[split].records for split in ("train", "validation", "test")] == [3, 3, 3]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])


def odd_label(path: Path) -> None:
    values = np.array(Image.open(path))
    values[20, 7:10, 0] = 77
    Image.fromarray(values).save(path)


def with_colour_table(path: Path) -> None:
    Image.open(path).convert("P").save(path)


FRAME = tree.FRAMES[3]
BAD = {
    "a truncated image": (tree.path_of(FRAME, "lidar"), cut, ("truncated", tree.path_of(FRAME, "lidar"))),
    "a truncated label": (tree.path_of(FRAME, "semantic"), cut, ("truncated", tree.path_of(FRAME, "semantic"))),
    "no image": (tree.path_of(FRAME, "img"), lambda p: p.write_text("x"), ("unreadable", tree.path_of(FRAME, "img"))),
    "a class that does not exist": (
        tree.path_of(FRAME, "semantic"),
        odd_label,
        ("unknown-label", "77", "row 20, column 7", "such values: 3", "--accept unknown-label"),
    ),
    "a label with a colour table": (
        tree.path_of(FRAME, "semantic"),
        with_colour_table,
        ("colour-table", tree.path_of(FRAME, "semantic")),
    ),
    "lidar of another size": (
        tree.path_of(FRAME, "lidar"),
        lambda p: Image.fromarray(np.zeros((SIZE - 1, SIZE, 3), np.uint8)).save(p),
        ("wrong-size", f"{SIZE - 1} x {SIZE}"),
    ),
    "depth of another type": (
        tree.path_of(FRAME, "hha"),
        lambda p: Image.fromarray(np.zeros((SIZE, SIZE), np.uint16)).save(p),
        ("mixed-types", "DELIVER/hha/"),
    ),
    "a lost label": (tree.path_of(FRAME, "semantic"), Path.unlink, ("label-missing", "--accept label-missing")),
    "no hha": ("hha", shutil.rmtree, ("sensor-missing", "no frame has depth", "--depth raw")),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_with_file_and_remedy(
    spoiled: Path, tmp_path: Path, run_converter: Run, kind: str
) -> None:
    name, spoil, words = BAD[kind]
    spoil(spoiled / "DELIVER" / name)
    status, error = run_converter(deliver, spoiled, tmp_path / "out", "--tile", SIZE)
    assert status == 2
    assert all(word in error.splitlines()[-1] for word in words), error
    assert error.splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_findings_of_all_files_are_listed_before_the_error(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    for kind in ("img", "event"):
        cut(spoiled / "DELIVER" / tree.path_of(FRAME, kind))
    odd_label(spoiled / "DELIVER" / tree.path_of(FRAME, "semantic"))
    status, error = run_converter(deliver, spoiled, tmp_path / "out", "--tile", SIZE)
    assert status == 2
    assert all(tree.path_of(FRAME, kind) in error for kind in ("img", "event", "semantic"))


def test_the_doctor_knows_the_set(spoiled: Path, run_converter: Run) -> None:
    assert run_converter(doctor, spoiled)[0] == 0
    odd_label(spoiled / "DELIVER" / tree.path_of(FRAME, "semantic"))
    assert run_converter(doctor, spoiled)[0] == 1
    shutil.rmtree(spoiled / "DELIVER" / "img")
    make_dfc2023(spoiled, size=32)
    status, error = run_converter(doctor, spoiled)
    assert status == 2
    assert "DELIVER" in error
    assert "DFC2023" in error


def test_an_unknown_label_is_ignored_when_accepted(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    odd_label(spoiled / "DELIVER" / tree.path_of(FRAME, "semantic"))
    assert run_converter(deliver, spoiled, tmp_path / "out", "--tile", SIZE, "--accept", "unknown-label")[0] == 0
    assert (examples(tmp_path / "out")[key(FRAME)].label[20, 7:10] == 255).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tile", 8), ("--tile", "16")),
        (("--stride", 0), ("--stride", "0")),
        (("--splits", "nowhere.csv"), ("--splits", "nowhere.csv", "official")),
        (("--accept", "nonsense"), ("--accept", "nonsense")),
    ],
)
def test_bad_options_name_the_flag(
    delivered: Path, tmp_path: Path, run_converter: Run, flags: tuple[object, ...], words: tuple[str, ...]
) -> None:
    status, error = run_converter(deliver, delivered, tmp_path / "out", *flags)
    assert status == 2
    assert all(word in error.splitlines()[-1] for word in words), error
