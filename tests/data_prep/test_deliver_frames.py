"""DELIVER's frames: which split a map is in, and how a frame of the real size is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import deliver
from data_prep.deliver_files import FrameFiles
from data_prep.deliver_survey import assign_splits

SPLITS = ("train", "validation", "test")


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.sampled_from(SPLITS)), max_size=30))
def test_every_map_in_two_splits_is_found(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, str]]
) -> None:
    frames = [FrameFiles(f"sun/none/MAP_{m}_point{p}/{i:06d}", split, {}) for i, (m, p, split) in enumerate(drawn)]
    own = {frame.map: {other.split for other in frames if other.map == frame.map} for frame in frames}
    _, chosen, findings = assign_splits(frames, "official")
    assert chosen == [frame.split for frame in frames]
    assert sorted(finding.place for finding in findings) == sorted(
        name for name, splits in own.items() if len(splits) > 1
    )
    if own:
        path = tmp_path_factory.mktemp("splits") / "splits.csv"
        path.write_text(
            "map,split\n"
            + "".join(f"{name},{('train', 'test', 'none')[i % 3]}\n" for i, name in enumerate(sorted(own)))
        )
        assigned, chosen, findings = assign_splits(frames, str(path))
        assert not findings
        assert chosen == [assigned.get(frame.map, "") for frame in frames]


def test_a_frame_of_the_real_size_takes_four_tiles_without_padding() -> None:
    frame = deliver.Frame("sun/none/MAP_1_point1/1", "train", {}, Path(), 1042, 1042)
    options = deliver.Options(Path(), Path())
    keys = deliver.plan_tiles((frame,), options.tile, options.stride)["train"]
    assert [(k.row.start, k.column.start) for k in keys] == [(0, 0), (0, 498), (498, 0), (498, 498)]
    assert all(k.row.stop - k.row.start == options.tile for k in keys)
