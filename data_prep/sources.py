"""The files of a SOURCE: folders as they are, archives (also archives of archives) unpacked where they can do no harm."""

from __future__ import annotations

import contextlib
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sgma_jax.errors import InputError

NESTING = 2
"""Archives inside archives that are unpacked: an outer one of inner ones, as ISPRS delivers Potsdam."""
EXPANSION = 500
"""[C] An archive that expands more is taken for a bomb. Flat labels, the best that images do, compress some 150 times; the format's limit is 1032."""
SMALL = 2**30
"""Archives up to this many bytes in all may expand by any ratio."""
SPARE_DISK = 2**30
"""Bytes that stay free on the disk."""
MEND = "The archive is not what its publisher delivers: download it again, or unpack it by hand and give the folder."


@dataclass(frozen=True)
class SourceTree:
    """What SOURCE holds, by names that do not depend on where it lies."""

    root: Path
    """SOURCE itself."""
    files: Mapping[str, Path]
    """Name relative to SOURCE, with / between its parts -> file on disk, in the order of the names. A member of an archive is named
    ARCHIVE/MEMBER, and the archives themselves are not listed. Only what stands in these names may be used to recognise a file:
    the path of SOURCE itself may contain anything."""
    archives: Mapping[str, Path]
    """The archives that were unpacked, named in the same way (outermost only): what a manifest hashes instead of their members."""

    def source_files(self, used: Mapping[str, Path]) -> dict[str, Path]:
        """`used`, a part of `files`, as the manifest lists sources: members of an archive stand for the archive, once."""
        named: dict[str, Path] = {}
        for name, path in used.items():
            archive = next((a for a in self.archives if name.startswith(f"{a}/")), None)
            named[archive or name] = self.archives[archive] if archive else path
        return named


@contextlib.contextmanager
def open_source(source: Path, scratch: Path) -> Iterator[SourceTree]:
    """The files of a folder or of one archive; archives are unpacked below `scratch`, a folder that exists, and removed afterwards.

    Raises InputError for a source that does not exist or is empty, and for an archive that is damaged or encrypted, or that holds
    a member outside its folder, a link, or more than the disk takes.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist. Give the folder with the data set's files, or an archive as it was downloaded.")
    files: dict[str, Path] = {}
    archives: dict[str, Path] = {}
    unpacked = scratch / "unpacked"
    try:
        base = source if source.is_dir() else source.parent
        found = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        for path in found:
            name = path.relative_to(base).as_posix()
            if any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts):
                continue
            if path.suffix.lower() == ".zip":
                archives[name] = path
                files.update(_unpack(path, name, unpacked / f"{len(archives)}", NESTING))
            else:
                files[name] = path
        if not files:
            raise InputError(f"{source} holds no file. Give the folder with the data set's files, or an archive as it was downloaded.")
        yield SourceTree(source, dict(sorted(files.items())), archives)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(archive: Path, name: str, target: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """Members of an archive by name, unpacked below `target`."""
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not m.is_dir() and not _is_clutter(m.filename)]
            for member in members:
                _check_member(name, member)
            needed, free = sum(m.file_size for m in members), shutil.disk_usage(target).free
            if needed > max(SMALL, EXPANSION * archive.stat().st_size):
                raise InputError(f"{name} claims to expand {needed // archive.stat().st_size} times. {MEND}")
            if needed > free - SPARE_DISK:
                raise InputError(
                    f"{name} unpacks to {needed / 2**30:.1f} GiB, but {target.parent.parent.parent} has {free / 2**30:.1f} GiB left. "
                    "Free some space, or unpack it elsewhere and give that folder."
                )
            for number, member in enumerate(members):
                inner = f"{name}/{member.filename}"
                # By number, because two members may differ in case only.
                path = target / f"{number:05d}" / PurePosixPath(member.filename).name
                path.parent.mkdir()
                with opened.open(member) as reading, path.open("wb") as writing:
                    shutil.copyfileobj(reading, writing, 2**20)
                if path.suffix.lower() == ".zip":
                    if depth == 1:
                        raise InputError(f"{inner}: an archive inside an archive inside an archive is not unpacked. Unpack it, and give the folder.")
                    yield from _unpack(path, inner, target / f"{number:05d}" / "inside", depth - 1)
                    path.unlink()
                else:
                    yield inner, path
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{name} cannot be unpacked ({error}): it is damaged, or no plain zip archive. Download it again.") from error


def _check_member(archive: str, member: zipfile.ZipInfo) -> None:
    place = f"{archive}, member {member.filename!r}"
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise InputError(f"{place} would be written outside its folder. {MEND}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{place} is a link. {MEND}")
    if member.flag_bits & 1:
        raise InputError(f"{place} is encrypted. Unpack the archive with its password, and give the folder.")


def _is_clutter(name: str) -> bool:
    """What macOS adds to archives, and other hidden files."""
    return any(part.startswith(("__MACOSX", ".")) and part not in (".", "..") for part in PurePosixPath(name).parts)
