"""A manifest comes back as it was written, and a damaged one never becomes a wrong data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgma_jax.data.schema import (
    DTYPES,
    Example,
    FileHash,
    Manifest,
    Modality,
    Schema,
    SplitCounts,
    check_expected,
    from_record,
    manifest_to_json,
    read_manifest,
    to_record,
)
from sgma_jax.errors import InputError

SCHEMA = Schema(
    "toy",
    (
        Modality("rgb", 3, "", "uint8", (1.0, 2.0, 3.0), (1.0, 1.0, 2.0)),
        Modality("dsm", 1, "metre", "float32", (30.5,), (4.25,)),
    ),
    ("ground", "roof"),
    ((0, 0, 0), (255, 0, 9)),
    8,
)
COUNTS = SplitCounts(3, (100, 20), 7, (3, 2), (190, 120))
MANIFEST = Manifest(
    SCHEMA,
    "records",
    {"train": COUNTS, "test": COUNTS},
    "tests",
    {"tile": 8, "names": ["a"]},
    (FileHash("a.tif", 10, "00"),),
    (FileHash("b", 10, "11"),),
    ("odd",),
)


def write(folder: Path, value: Any) -> Path:
    (folder / "manifest.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in items for p in ((*prefix, key), *paths(item, (*prefix, key)))]


PLACES = [p for p in paths(json.loads(manifest_to_json(MANIFEST))) if p[0] != "options"]


@given(st.data())
def test_a_manifest_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    names = data.draw(
        st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True), min_size=1, max_size=4, unique=True)
    )
    number = st.floats(allow_nan=False, allow_infinity=False)
    modalities = []
    for name in names:
        bands = data.draw(st.integers(1, 4))
        values = st.lists(number, min_size=bands, max_size=bands).map(tuple)
        modalities.append(
            Modality(
                name,
                bands,
                data.draw(st.text(max_size=5)),
                data.draw(st.sampled_from(DTYPES)),
                data.draw(values),
                data.draw(values),
                data.draw(st.sampled_from([(), tuple(f"band {i}" for i in range(bands))])),
                data.draw(st.booleans()),
                data.draw(st.none() | st.tuples(st.floats(-9, 0), st.floats(1, 9))),
            )
        )
    classes = tuple(data.draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True)))
    schema = Schema(
        data.draw(st.text(max_size=8)),
        tuple(modalities),
        classes,
        ((1, 2, 3),) * len(classes),
        data.draw(st.integers(1, 4096)),
    )
    counts = SplitCounts(1, (2,) * len(classes), 3, (4,) * len(names), (5,) * len(names))
    manifest = dataclasses.replace(MANIFEST, schema=schema, splits={"train": counts})
    folder = write(tmp_path_factory.mktemp("set"), manifest_to_json(manifest))
    assert read_manifest(folder) == manifest
    assert read_manifest(folder).manifest_hash == manifest.manifest_hash


def test_the_hash_tells_any_two_manifests_apart() -> None:
    others = [
        dataclasses.replace(MANIFEST, findings=()),
        dataclasses.replace(MANIFEST, shards=(FileHash("b", 10, "12"),)),
        dataclasses.replace(MANIFEST, schema=dataclasses.replace(SCHEMA, tile=16)),
    ]
    assert len({m.manifest_hash for m in (MANIFEST, *others)}) == 4


@given(st.sampled_from(PLACES), st.sampled_from(["remove", None, "x", -1.5, [], {}, True, [1, 2, 3, 4, 5, 6, 7]]))
def test_a_damaged_field_is_named_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], change: Any
) -> None:
    document = json.loads(manifest_to_json(MANIFEST))
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    if change == "remove":
        del parent[place[-1]]
    else:
        parent[place[-1]] = change
    folder = write(tmp_path_factory.mktemp("set"), document)
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        message = str(error)
    else:
        # What is accepted has the right types, and means what it says.
        assert json.loads(manifest_to_json(manifest)) == document
        return
    assert "manifest.json" in message
    assert "onvert" in message  # the way out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "not a converted data set"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "'format'"),
        ({"format": "else"}, "'format'"),
        ({"format": "sgma_jax converted set", "version": 99}, "'version' is 99"),
        ({"format": "sgma_jax converted set", "version": 1}, "'builder' is missing"),
    ],
)
def test_a_foreign_or_broken_manifest_is_named(tmp_path: Path, content: Any, says: str) -> None:
    folder = tmp_path if content is None else write(tmp_path, content)
    with pytest.raises(InputError, match=says):
        read_manifest(folder)


def test_records_hold_zeros_where_a_sensor_saw_nothing_and_come_back() -> None:
    rng = np.random.default_rng(0)
    available = rng.random((2, 8, 8)) < 0.5
    dsm = np.where(available[1], rng.normal(size=(8, 8)), np.nan).astype(np.float32)[..., None]
    example = Example(
        {"rgb": rng.integers(0, 256, (8, 8, 3)).astype(np.uint8), "dsm": dsm},
        available,
        np.zeros((8, 8), np.uint8),
        "a",
    )
    record = to_record(example, SCHEMA)
    assert not record["images"]["dsm"][~available[1]].any()
    assert not record["images"]["rgb"][~available[0]].any()
    back = from_record(record, ("dsm",), (1,))
    assert list(back.images) == ["dsm"]
    np.testing.assert_array_equal(back.available, available[1:])
    np.testing.assert_array_equal(back.images["dsm"][available[1]], dsm[available[1]])


def test_a_sensor_that_a_record_lacks_need_not_be_drawn_as_zeros() -> None:
    available = np.stack((np.ones((8, 8), bool), np.zeros((8, 8), bool)))
    record = to_record(
        Example({"rgb": np.ones((8, 8, 3), np.uint8)}, available, np.zeros((8, 8), np.uint8), "a"), SCHEMA
    )
    assert record["images"]["dsm"].shape == (8, 8, 1)
    assert not record["images"]["dsm"].any()


def test_an_example_that_breaks_the_schema_is_never_stored() -> None:
    good = Example(
        {"rgb": np.ones((8, 8, 3), np.uint8), "dsm": np.ones((8, 8, 1), np.float32)},
        np.ones((2, 8, 8), bool),
        np.zeros((8, 8), np.uint8),
        "tile7",
    )
    to_record(good, SCHEMA)
    bad = [
        good._replace(images={**good.images, "rgb": np.ones((8, 8, 4), np.uint8)}),
        good._replace(images={**good.images, "dsm": np.ones((8, 8, 1), np.float64)}),
        good._replace(images={**good.images, "dsm": np.full((8, 8, 1), np.nan, np.float32)}),
        good._replace(images={"rgb": good.images["rgb"]}),
        good._replace(available=np.ones((2, 8, 8), np.uint8)),
        good._replace(available=np.ones((1, 8, 8), bool)),
        good._replace(label=np.zeros((8, 9), np.uint8)),
    ]
    for example in bad:
        with pytest.raises(ValueError, match="tile7"):
            to_record(example, SCHEMA)


def test_a_set_of_another_schema_is_told_by_field() -> None:
    check_expected(SCHEMA, ("dsm", "rgb"), (1, 3), ("ground", "roof"))
    check_expected(SCHEMA, ("rgb",), (3,), ("ground", "roof"))
    wrong: list[tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...], str]] = [
        (("rgb", "sar"), (3, 1), ("ground", "roof"), r"data\.modalities names 'sar'.*rgb, dsm"),
        (("rgb", "dsm"), (4, 1), ("ground", "roof"), r"data\.bands says 4 for 'rgb'.* has 3"),
        (("rgb",), (3,), ("roof", "ground"), r"data\.classes is roof, ground.*ground, roof"),
    ]
    for modalities, bands, classes, says in wrong:
        with pytest.raises(InputError, match=says):
            check_expected(SCHEMA, modalities, bands, classes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modalities": ()}, "at least one"),
        ({"modalities": (SCHEMA.modalities[0],) * 2}, "twice"),
        ({"modalities": (Modality("near ir", 1, "", "uint8"),)}, "'near ir'"),
        ({"modalities": (Modality("nir", 0, "", "uint8"),)}, "0 bands"),
        ({"modalities": (Modality("nir", 1, "", "complex64"),)}, "complex64"),
        ({"modalities": (Modality("nir", 1, "", "uint8", band_names=("a", "b")),)}, "2 names"),
        ({"modalities": (Modality("sar", 1, "", "float32", clip=(20.0, -30.0)),)}, "clipped to 20 to -30"),
        ({"classes": ("a", "a")}, "twice"),
        ({"classes": ("a", "b", "c")}, "palette"),
        ({"tile": 0}, "tile"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        dataclasses.replace(SCHEMA, **change)


def test_a_set_that_says_nothing_of_bands_logarithm_and_clipping_has_the_text_of_before_they_could_be_said() -> None:
    # Checkpoints hold the hash of this text.
    assert set(json.loads(manifest_to_json(MANIFEST))["schema"]["modalities"][0]) == {
        "name", "bands", "unit", "dtype", "mean", "std",
    }  # fmt: skip


def test_select_keeps_the_order_asked_for() -> None:
    assert SCHEMA.select(("dsm", "rgb")).names == ("dsm", "rgb")
    assert SCHEMA.select(()).names == ("rgb", "dsm")
    with pytest.raises(InputError, match=r"no modality 'sar'; it has rgb, dsm"):
        SCHEMA.select(("sar",))
