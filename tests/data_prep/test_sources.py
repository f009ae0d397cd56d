"""Where a source's files come from: folders, archives and archives of archives; and archives that mean harm, or were
harmed."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import sources
from data_prep.sources import open_source
from sgma_jax.errors import InputError
from tests.data.damage import truncate


def make_zip(path: Path, members: dict[str, bytes | Path]) -> Path:
    """An archive with members of any name; the contents are bytes or a file's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as writing:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            writing.writestr(member, content.read_bytes() if isinstance(content, Path) else content)
    return path


def read_all(source: Path, scratch: Path) -> dict[str, bytes]:
    with open_source(source, scratch) as tree:
        return {name: path.read_bytes() for name, path in tree.files.items()}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def assert_refused(source: Path, scratch: Path, words: str) -> None:
    before = sorted(p.relative_to(scratch.parent) for p in scratch.parent.rglob("*"))
    with pytest.raises(InputError, match=words) as error, open_source(source, scratch):
        pass
    assert "\n" not in str(error.value)
    assert sorted(p.relative_to(scratch.parent) for p in scratch.parent.rglob("*")) == before


def test_a_folder_and_its_archives_are_one_tree_of_names(tmp_path: Path, scratch: Path) -> None:
    source = tmp_path / "img"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "plain.tif").write_bytes(b"1")
    (source / "a" / ".hidden").write_bytes(b"no")
    (source / ".cache").mkdir()
    (source / ".cache" / "hidden.tif").write_bytes(b"no")
    inner = make_zip(tmp_path / "inner.zip", {"top/x.tif": b"2", "top/x.tfw": b"3", "__MACOSX/top/._x.tif": b"no"})
    make_zip(source / "Outer.ZIP", {"inner.zip": inner, "empty/": b"", "windows\\y.tif": b"4", "one/x.tif": b"5"})
    assert read_all(source, scratch) == {
        "Outer.ZIP/inner.zip/top/x.tfw": b"3",
        "Outer.ZIP/inner.zip/top/x.tif": b"2",
        "Outer.ZIP/one/x.tif": b"5",
        "Outer.ZIP/windows/y.tif": b"4",
        "a/b/plain.tif": b"1",
    }
    assert not any(scratch.iterdir())
    members = ("inner.zip/top/x.tfw", "inner.zip/top/x.tif", "one/x.tif", "windows/y.tif")
    assert set(read_all(source / "Outer.ZIP", scratch)) == {f"Outer.ZIP/{name}" for name in members}


def test_what_stands_beside_a_raster_in_an_archive_stands_beside_it_unpacked(tmp_path: Path, scratch: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"top/x.tif": b"2", "other/x.tif": b"1", "top/x.tfw": b"3"})
    with open_source(archive, scratch) as tree:
        assert tree.files["a.zip/top/x.tif"].with_suffix(".tfw").read_bytes() == b"3"
        assert not tree.files["a.zip/other/x.tif"].with_suffix(".tfw").exists()
        assert all(path.is_relative_to(scratch) for path in tree.files.values())


def test_a_manifest_names_the_archive_in_place_of_its_members(tmp_path: Path, scratch: Path) -> None:
    source = tmp_path / "source"
    make_zip(source / "a.zip", {"x.tif": b"1", "y.tif": b"2"})
    (source / "a.zip.txt").write_bytes(b"3")
    with open_source(source, scratch) as tree:
        assert tree.source_files(tree.files) == {"a.zip": source / "a.zip", "a.zip.txt": source / "a.zip.txt"}


def test_links_to_another_disk_are_followed_and_loops_are_not(tmp_path: Path, scratch: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    source.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x.tif").write_bytes(b"1")
    (source / "2_Ortho_RGB").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(source)
    (source / "broken.tif").symlink_to(tmp_path / "nowhere")
    assert read_all(source, scratch) == {"2_Ortho_RGB/x.tif": b"1"}


@pytest.mark.parametrize(
    "name", ["../evil.tif", "a/../../evil.tif", "/evil.tif", "..\\evil.tif", "C:\\evil.tif", "C:/evil.tif", ".", "a/.."]
)
def test_a_member_outside_its_folder_is_refused_before_anything_is_unpacked(
    name: str, tmp_path: Path, scratch: Path
) -> None:
    assert_refused(
        make_zip(tmp_path / "a.zip", {"fine.tif": b"1", name: b"2"}),
        scratch,
        "a.zip, member .* would be written outside its folder",
    )


PARTS = ("..", ".", "a", "a b", "c.tif", "/", "\\", "C:", "ä", "", "con")


@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=6), slash=st.sampled_from("/\\"))
def test_no_name_of_a_member_writes_outside(
    parts: list[str], slash: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "scratch").mkdir()
    archive = make_zip(folder / "a.zip", {slash.join(parts): b"evil"})
    try:
        with open_source(archive, folder / "scratch") as tree:
            unpacked = [p.resolve() for p in folder.rglob("*") if p.is_file() and p != archive]
            assert all(p.is_relative_to(folder / "scratch") for p in unpacked)
            assert all(".." not in name.split("/") and not name.startswith("/") for name in tree.files)
    except InputError:
        pass
    assert sorted(p.name for p in folder.iterdir()) == ["a.zip", "scratch"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_an_archive_are_refused(kind: int, tmp_path: Path, scratch: Path) -> None:
    link = zipfile.ZipInfo("x.tif")
    link.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writing:
        writing.writestr(link, "/etc/passwd")
    assert_refused(tmp_path / "a.zip", scratch, "a.zip, member 'x.tif' is a link or a device")


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SMALL", 2**16)
    bomb = make_zip(tmp_path / "bomb.zip", {"zeros.tif": bytes(2**22)})
    assert_refused(bomb, scratch, r"bomb.zip claims to expand \d{3,4} times")
    assert_refused(
        make_zip(tmp_path / "outer.zip", {"bomb.zip": bomb}), scratch, r"outer.zip/bomb.zip claims to expand"
    )


def test_a_member_larger_than_it_claims_is_not_written(tmp_path: Path, scratch: Path) -> None:
    archive = make_zip(tmp_path / "liar.zip", {"x.tif": bytes(2**20)})
    claimed = struct.pack("<L", 2**20)
    archive.write_bytes(archive.read_bytes().replace(claimed, struct.pack("<L", 1000)))
    assert_refused(archive, scratch, "liar.zip cannot be unpacked")


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SPARE_DISK", 2**60)
    assert_refused(make_zip(tmp_path / "a.zip", {"x.tif": b"1"}), scratch, r"a.zip unpacks to .* GiB left")


def test_an_encrypted_archive_is_refused(tmp_path: Path, scratch: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x.tif": b"1"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # flag of the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    archive.write_bytes(content)
    assert_refused(archive, scratch, "a.zip, member 'x.tif' is encrypted")


def test_one_name_twice_in_an_archive_is_refused(tmp_path: Path, scratch: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writing:
        writing.writestr("x.tif", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            writing.writestr("x.tif", b"2")
    assert_refused(tmp_path / "a.zip", scratch, "a.zip holds the member 'x.tif' twice")


def test_archives_three_deep_are_refused(tmp_path: Path, scratch: Path) -> None:
    one = make_zip(tmp_path / "1" / "1.zip", {"x.tif": b"1"})
    two = make_zip(tmp_path / "2" / "2.zip", {"1.zip": one})
    assert_refused(
        make_zip(tmp_path / "3.zip", {"2.zip": two}), scratch, "3.zip/2.zip/1.zip: an archive inside an archive"
    )


def test_a_damaged_archive_is_refused_whatever_the_damage(tmp_path: Path, scratch: Path) -> None:
    whole = make_zip(tmp_path / "a.zip", {"x.tif": os.urandom(5000) + bytes(5000)})
    content = whole.read_bytes()
    truncate(whole)
    assert_refused(whole, scratch, "a.zip cannot be unpacked")
    for place in (60, 2000, 5010, len(content) // 2):
        whole.write_bytes(content[:place] + bytes([content[place] ^ 0xFF] * 3) + content[place + 3 :])
        assert_refused(whole, scratch, "a.zip cannot be unpacked")
    whole.write_bytes(b"")
    assert_refused(whole, scratch, "a.zip cannot be unpacked")
    whole.write_text("<html>Please log in</html>")
    assert_refused(whole, scratch, "a.zip cannot be unpacked")


def test_a_source_that_is_not_there_or_empty_is_told(tmp_path: Path, scratch: Path) -> None:
    assert_refused(tmp_path / "nowhere", scratch, "nowhere does not exist")
    assert_refused(scratch, scratch, "holds no file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, scratch: Path) -> None:
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    (source / "x.tif").write_bytes(b"1")
    (source / "closed").chmod(0)
    try:
        assert_refused(source, scratch, "closed cannot be read")
    finally:
        (source / "closed").chmod(0o700)
