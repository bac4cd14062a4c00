"""A zip or tar unpacked safely, and only as far as the disk and its own size allow.

Everything is written to a folder of its own and moved into the archive at the end. Nothing but
plain files is made, none replaces another, and a name decides nothing but where inside the archive
its file lies: at the frame or at `annotations/` in its path, whatever folders are around those.
"""

import gzip
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from heph_vl.data.annotations import check_frame_id
from heph_vl.data.archive import GENERATION_FILE, SIMULATION_FILE
from heph_vl.data.documents import printable
from heph_vl.download import HEAD_BYTES, check_free, in_words, kind_of
from heph_vl.errors import HephError

# Deflate can make 1 byte into 1000. Text (annotations) and blank images shrink by 30, PNGs not at
# all; a file of a few MB may hold more, up to 1 GiB.
MAX_RATIO = 100
ALWAYS_ALLOWED = 2**30
# A tar keeps long names and attributes in blocks that are read at once.
_MAX_READ = 16 * 2**20

_REPACK = "look at it by hand, and pack plain files with relative names"
_REMOVE = "remove one of the two and run again"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: As the archive says; not to be trusted.
        size: Length that the archive states [bytes]; no more than that is read.
        problem: Why it cannot be taken, if so.
        open: Gives its content.
        position: Where in the archive it ends, about [bytes].
    """

    name: str
    size: int
    problem: str | None
    open: Callable[[], IO[bytes]]
    position: int


@dataclass
class Unpacked:
    """What became of the members.

    Attributes:
        files: Written in this run.
        there: Left alone, since a file of that name and size was there.
        hidden: Left aside: names that begin with a dot, and `__MACOSX`.
        refused: Left out, with the reasons.
        around: Folders around frames and annotations that were left away.
    """

    files: int = 0
    there: int = 0
    hidden: int = 0
    refused: list[HephError] = field(default_factory=list)
    around: set[str] = field(default_factory=set)


def unpack(
    path: Path, out: Path, stage: Path, progress: Callable[[int, int | None], None], source: str
) -> Unpacked:
    """Unpack an archive file into a folder that may already hold others.

    Args:
        path: .zip, .tar or .tar.gz, told apart by content.
        out: Where its files go; those of the same size that are there stay, others as well.
        stage: Folder on the same disk for what is not complete; what an interrupted run left there
            is used.
        progress: Told (bytes read, all bytes) of the archive file.
        source: What to call the archive in messages.

    Returns:
        Counts, and what was left out.

    Raises:
        HephError: It is damaged, too large unpacked, or does not fit on the disk.
    """
    size = path.stat().st_size
    done = Unpacked()
    seen: set[Path] = set()
    total = 0
    stage.mkdir(parents=True, exist_ok=True)
    with _damage(path, source):
        for member in _members(path, out, stage, source):
            total += member.size
            _check_ratio(total, size, source, stage)
            _take(member, out, stage, seen, done, source)
            progress(min(member.position, size), size)
    progress(size, size)
    os.sync()  # before the archive file may be removed
    _move_in(stage, out)
    return done


def _take(
    member: Member, out: Path, stage: Path, seen: set[Path], done: Unpacked, source: str
) -> None:
    """Write one member to the stage, or count why not."""

    def refuse(what: str, fix: str = _REPACK) -> None:
        done.refused.append(HephError(f"{source}: {printable(member.name)}", what, fix))

    parts = _parts(member.name)
    if parts is None:
        refuse("the name leads out of the archive or is none")
        return
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        done.hidden += 1
        return
    if member.problem is not None:
        refuse(member.problem)
        return
    around, inside = place_of(parts)
    target, staged = out.joinpath(*inside), stage.joinpath(*inside)
    if target in seen:
        refuse("a second file of this name; the first was taken")
        return
    seen.add(target)
    if around:
        done.around.add("/".join(around))
    for place in (target, staged):
        above = next(parent for parent in place.parents if os.path.lexists(parent))
        if not above.is_dir():
            refuse(f"lies in {above}, which is no folder", _REMOVE)
            return
    for there in (target, staged):
        if os.path.lexists(there):
            if there.is_file() and there.stat().st_size == member.size:
                done.there += 1
            else:
                refuse(f"{there} is there and differs", _REMOVE)
            return
    check_free(stage, member.size, f"{in_words(member.size)} for {printable(member.name)}")
    try:
        _write(member, stage, staged)
    except _DAMAGED as error:
        refuse(f"cannot be unpacked ({error})", "fetch it again, or ask its owner")
        return
    done.files += 1


def _write(member: Member, stage: Path, target: Path) -> None:
    """A member as a file that is whole or not there."""
    temporary = stage / ".member"
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, temporary.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)  # ends at the size stated, and not before
    temporary.replace(target)


def _move_in(stage: Path, out: Path) -> None:
    """Give all files of the stage their place; whole folders at once where there are none yet."""
    (stage / ".member").unlink(missing_ok=True)
    for path in sorted(stage.iterdir()):
        target = out / path.name
        if path.is_dir() and target.is_dir():
            _move_in(path, target)
        elif not os.path.lexists(target):
            shutil.move(path, target)  # a frame's folder may be a link to another disk
    # What is left was staged by an earlier run, and its place has been taken since.
    shutil.rmtree(stage)


def _parts(name: str) -> tuple[str, ...] | None:
    """The folders and the file of a relative name; None if it is not one, or an odd one."""
    parts = tuple(part for part in name.split("/") if part != ".")
    if not parts or any(
        part in ("", "..")
        or len(os.fsencode(part)) > 255
        or re.search(r'[\x00-\x1f\x7f\\:"]', part)
        for part in parts
    ):
        return None
    return parts


def place_of(parts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where a file belongs in the archive.

    Args:
        parts: Folders and name in the packed file.

    Returns:
        The folders around (left away), and its path from the frame or from `annotations` on; a
        record (`850.json`) without such a folder goes to `annotations`.
    """
    for i, part in enumerate(parts[:-1]):
        if part in ("annotations", "truth") or _is_frame(part):
            return parts[:i], parts[i:]
    if parts[-1] in (SIMULATION_FILE, GENERATION_FILE):  # what is not real stays marked so
        return parts[:-1], parts[-1:]
    if re.fullmatch(r"[0-9]+\.json", parts[-1]):
        return parts[:-1], ("annotations", parts[-1])
    return (), parts


@lru_cache(maxsize=4096)
def _is_frame(name: str) -> bool:
    try:
        check_frame_id(name, "")
    except HephError:
        return False
    return True


def _check_ratio(total: int, size: int, source: str, stage: Path) -> None:
    limit = max(ALWAYS_ALLOWED, MAX_RATIO * size)
    if total > limit:
        shutil.rmtree(stage, ignore_errors=True)
        what = f"unpacks to more than {in_words(limit)} from {in_words(size)}: perhaps a bomb"
        raise HephError(source, what, "do not unpack it, ask its owner")


@contextmanager
def _damage(path: Path, source: str) -> Iterator[None]:
    """Damage of the archive as a whole, in one line."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, *_DAMAGED) as error:
        what = f"damaged or cut short ({error}); nothing of it was put in place"
        raise HephError(source, what, f"remove {path} and run again") from error


def _members(path: Path, out: Path, stage: Path, source: str) -> Iterator[Member]:
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD_BYTES))
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            yield from _zip_members(archive, path, out, stage, source)
    elif kind is not None:
        with path.open("rb") as raw:
            blocks = _Blocks(gzip.GzipFile(fileobj=raw) if kind == "gzip" else raw)
            yield from _tar_members(blocks, raw)
    else:
        what = "neither .zip nor .tar nor .tar.gz"
        raise HephError(source, what, f"look at {path}")


def _zip_members(
    archive: zipfile.ZipFile, path: Path, out: Path, stage: Path, source: str
) -> Iterator[Member]:
    """Members in the order in which they lie in the file; all sizes are known before the first."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    size = path.stat().st_size
    _check_ratio(sum(info.file_size for info in infos), size, source, stage)
    missing = sum(info.file_size for info in infos if not _is_there(info, out, stage))
    check_free(out, missing, f"{in_words(missing)} to unpack")
    for info in sorted(infos, key=lambda info: info.header_offset):
        problem = None
        # The high half of external_attr is the Unix mode; 0 where the packer left none.
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            problem = "a link or a device, not a plain file"
        elif info.flag_bits & 1:
            problem = "needs a password"
        end = info.header_offset + info.compress_size

        def content(info: zipfile.ZipInfo = info) -> IO[bytes]:
            return archive.open(info)

        yield Member(info.filename, info.file_size, problem, content, end)


def _is_there(info: zipfile.ZipInfo, out: Path, stage: Path) -> bool:
    inside = place_of(_parts(info.filename) or (info.filename,))[1]
    for folder in (out, stage):
        try:
            if folder.joinpath(*inside).stat().st_size == info.file_size:
                return True
        except (OSError, ValueError):
            continue
    return False


def _tar_members(file: "_Blocks", raw: IO[bytes]) -> Iterator[Member]:
    """Members one after the other: the file may be 100 GB and is read once."""
    with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
        while (info := archive.next()) is not None:
            archive.members.clear()  # a million of them fill the memory
            if info.isdir():
                continue
            problem = None if info.isreg() else "a link or a device, not a plain file"

            def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                opened: IO[bytes] | None = archive.extractfile(info)
                assert opened is not None  # a plain file, or there is a problem
                return opened

            yield Member(info.name, info.size, problem, content, raw.tell())
    # tarfile takes a bad header, and a file that ends between two members, for the end.
    if file.last.strip(b"\0") or not file.last:
        raise tarfile.ReadError("no end mark")
    while file.read(2**20):  # gzip has its checksum at the very end
        pass


class _Blocks:
    """What tarfile needs of a file, with a limit for what is read at once, and the last read."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
