"""The files of a SOURCE: folders as they are, archives (also archives of archives) unpacked where they can do no
harm."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.workspace import workspace
from sgma_jax.errors import InputError, is_disk_full

NESTING = 2
"""Archives inside archives that are unpacked: an outer one of inner ones, as ISPRS delivers Potsdam."""
EXPANSION = 500
"""[C] An archive that expands more is taken for a bomb. Flat labels, the best that images do, compress some 150
times; the format's limit is 1032."""
SMALL = 2**30
"""[C] Archives up to this many bytes in all may expand by any ratio."""
SPARE_DISK = 2**30
"""[C] Bytes that stay free on the disk."""
MEND = "The archive is not what its publisher delivers: download it again, or unpack it by hand and give the folder."


@dataclass(frozen=True)
class SourceTree:
    """The files of SOURCE, by names that do not depend on where it lies."""

    root: Path
    """SOURCE itself."""
    files: Mapping[str, Path]
    """Name relative to SOURCE, with / between its parts -> file on disk, in the order of the names. A member of an
    archive is named ARCHIVE/MEMBER, and the archives themselves are not listed. Only what stands in these names may
    be used to recognise a file: the path of SOURCE itself may contain anything."""
    archives: Mapping[str, Path]
    """The archives that were unpacked, named in the same way (outermost only): what a manifest hashes instead of
    their members."""

    def source_files(self, used: Mapping[str, Path]) -> dict[str, Path]:
        """`used`, a part of `files`, as the manifest lists sources: members of an archive stand for the archive,
        once."""
        named: dict[str, Path] = {}
        for name, path in used.items():
            archive = next((a for a in self.archives if name.startswith(f"{a}/")), None)
            named[archive or name] = self.archives[archive] if archive else path
        return named


@contextlib.contextmanager
def open_source_beside(source: Path, out: Path) -> Iterator[SourceTree]:
    """Open a source like `open_source`, with archives unpacked beside OUT, where there must be room for the result
    anyway.

    Not in the folder in which the result is made: each of the two is cleared away on its own. Files are named
    absolutely, because other processes, which may stand elsewhere, read them too.
    """
    out = out.resolve()
    with workspace(out.with_name(f"{out.name}.source")) as scratch, open_source(source.absolute(), scratch) as tree:
        yield tree


@contextlib.contextmanager
def open_source(source: Path, scratch: Path) -> Iterator[SourceTree]:
    """The files of a folder or of one archive; archives are unpacked below `scratch`, a folder that exists, and
    removed afterwards.

    Raises InputError for a source that does not exist or is empty, and for an archive that is damaged or encrypted,
    or that holds a member outside its folder, a link, one name twice, or more than the disk takes.
    """
    if not source.exists():
        raise InputError(
            f"{source} does not exist. Give the folder with the data set's files, or an archive as it was downloaded."
        )
    files: dict[str, Path] = {}
    archives: dict[str, Path] = {}
    unpacked = scratch / "unpacked"
    try:
        for name, path in _walk(source) if source.is_dir() else [(source.name, source)]:
            if path.suffix.lower() == ".zip":
                archives[name] = path
                files.update(_unpack(path, name, unpacked / f"{len(archives)}", NESTING, scratch))
            else:
                files[name] = path
        if not files:
            raise InputError(
                f"{source} holds no file. Give the folder with the data set's files, or an archive as it was "
                f"downloaded."
            )
        yield SourceTree(source, dict(sorted(files.items())), archives)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files by name relative to the folder, in order. Links are followed, because large sets often lie on another
    disk."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}). Make it readable, or give another folder."
        ) from error

    found: dict[str, Path] = {}
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above or beside it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not _is_clutter(f))
        for name in names:
            path = Path(parent, name)
            if not _is_clutter(name) and path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    yield from sorted(found.items())


def _unpack(archive: Path, name: str, target: Path, depth: int, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Members of an archive by name, unpacked below `target`."""
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [(m, m.filename.replace("\\", "/")) for m in opened.infolist() if not m.filename.endswith("/")]
            members = [(member, inner) for member, inner in members if not _is_clutter(inner)]
            for member, inner in members:
                _check_member(f"{name}, member {inner!r}", member, PurePosixPath(inner))
            needed, free = sum(m.file_size for m, _ in members), shutil.disk_usage(target).free
            if needed > max(SMALL, EXPANSION * archive.stat().st_size):
                raise InputError(f"{name} claims to expand {needed // archive.stat().st_size} times. {MEND}")
            if needed > free - SPARE_DISK:
                raise InputError(
                    f"{name} unpacks to {needed / 2**30:.1f} GiB, but {scratch} has {free / 2**30:.1f} GiB left. "
                    "Free some space, or unpack it elsewhere and give that folder."
                )
            folders: dict[PurePosixPath, Path] = {}
            for member, inner in members:
                # A number for each folder: what stands beside a raster (world file, mask) stays beside it, and no name
                # of the archive becomes a folder of ours.
                folder = folders.setdefault(PurePosixPath(inner).parent, target / f"{len(folders)}")
                folder.mkdir(exist_ok=True)
                path = folder / PurePosixPath(inner).name
                if path.exists():
                    raise InputError(f"{name} holds the member {inner!r} twice. {MEND}")
                with opened.open(member) as reading, path.open("wb") as writing:
                    shutil.copyfileobj(reading, writing, 2**20)
                if path.suffix.lower() != ".zip":
                    yield f"{name}/{inner}", path
                    continue
                if depth == 1:
                    raise InputError(
                        f"{name}/{inner}: an archive inside an archive inside an archive is not unpacked. Unpack it, "
                        f"and give the folder."
                    )
                yield from _unpack(
                    path, f"{name}/{inner}", target / f"inside-{len(list(target.iterdir()))}", depth - 1, scratch
                )
                path.unlink()
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
    ) as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"{name} cannot be unpacked ({error}): it is damaged, or no plain zip archive. Download it again."
        ) from error


def _check_member(place: str, member: zipfile.ZipInfo, path: PurePosixPath) -> None:
    if path.is_absolute() or ".." in path.parts or not path.name or ":" in path.parts[0]:
        raise InputError(f"{place} would be written outside its folder. {MEND}")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise InputError(f"{place} is a link or a device, and no file. {MEND}")
    if member.flag_bits & 1:
        raise InputError(f"{place} is encrypted. Unpack the archive with its password, and give the folder.")


def _is_clutter(name: str) -> bool:
    """Return whether a name is one that macOS adds to archives and folders, or that is hidden."""
    return any(part.startswith(("__MACOSX", ".")) and part not in (".", "..") for part in PurePosixPath(name).parts)
