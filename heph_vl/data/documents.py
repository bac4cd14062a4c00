"""JSON documents out of a folder, a zip, a (compressed) tar or one file, read in memory only."""

import io
import json
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heph_vl.data.record_fields import FIELDS, show
from heph_vl.errors import HephError

# A real record has 1 to 4 kB and all 19,919 together 25 MB: whatever passes these is no annotation.
MAX_DOCUMENT = 4 * 2**20
MAX_TOTAL = 2**30

_MACOS = "macos_resource_fork_ignored"
_OTHER = "other_file_ignored"
_REPACK = "unpack the archive, look at it, and pack plain files with relative names"


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON text: where it comes from (for messages), the stem of its name, its bytes."""

    source: str
    stem: str
    content: bytes


def read_documents(path: Path, rules: Counter[str]) -> Iterator[Document | HephError]:
    """Yield the JSON documents under `path` in a fixed order, and a problem for each unsafe one.

    Nothing is ever extracted: members of an archive are read in memory, links, devices and names
    that lead out of the archive are problems, and sizes are limited before anything is read.

    Args:
        path: A folder (one that holds `annotations/` is read from there), a .zip, a .tar,
            a .tar.gz, a .json or a .json.gz; told apart by content, not by name.
        rules: Counts files that are left aside because they hold no annotation.

    Yields:
        Documents, or the HephError of a member that cannot be used.

    Raises:
        HephError: `path` does not exist or cannot be read at all.
    """
    try:
        if path.is_dir():
            yield from _from_folder(path, rules)
        elif path.is_file():
            yield from _from_file(path, rules)
        elif path.exists():
            raise HephError(str(path), "neither a file nor a folder", "name one of those")
        else:
            raise HephError(str(path), "no such file or folder", "check the path")
    except OSError as error:
        message = error.strerror or str(error)
        raise HephError(str(path), f"cannot be read ({message})", "check its rights") from error


def printable(name: str) -> str:
    """The name with control characters and undecodable bytes escaped: names are not trusted."""
    return repr(name)[1:-1]


def _from_folder(folder: Path, rules: Counter[str]) -> Iterator[Document | HephError]:
    # An archive root also holds thousands of interferogram folders: do not walk those.
    inner = folder / "annotations"
    root = inner if inner.is_dir() else folder
    names: list[str] = []
    for parent, folders, files in os.walk(root, onerror=_raise):
        here = Path(parent).relative_to(root)
        names += [(here / file).as_posix() for file in files]
        for link in [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]:
            where = printable(str(link))
            yield HephError(where, "a link to a folder is not followed", "name its target instead")
    for name in sorted(names, key=_natural):
        if _is_json(name, rules):
            yield _read_document(root / name)


def _raise(error: OSError) -> None:
    raise error


def _read_document(path: Path) -> Document | HephError:
    where = printable(str(path))
    try:
        if not path.is_file():
            return HephError(where, "not a regular file", "put a plain file there")
        if (size := path.stat().st_size) > MAX_DOCUMENT:
            return _too_large(where, size)
        return Document(where, path.stem, path.read_bytes())
    except OSError as error:
        return HephError(where, f"cannot be read ({error.strerror})", "check its rights")


def _from_file(path: Path, rules: Counter[str]) -> Iterator[Document | HephError]:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK":
        yield from _from_zip(path, rules)
        return
    content, problem = _gunzip(path) if head[:2] == b"\x1f\x8b" else (_read_all(path), None)
    # An empty tar is all zeros.
    if content[257:262] == b"ustar" or (content and not content.strip(b"\0")):
        yield from _from_tar(str(path), content, rules, complete=problem is None)
    elif problem is None:
        # `850.json` states an id, `annotations_hephaestus.json.gz` does not: see the reader.
        yield Document(str(path), path.name.split(".")[0], content)
    if problem is not None:
        yield problem


def _read_all(path: Path) -> bytes:
    if (size := path.stat().st_size) > MAX_TOTAL:
        raise _too_large(str(path), size, MAX_TOTAL)
    return path.read_bytes()


def _gunzip(path: Path) -> tuple[bytes, HephError | None]:
    """What could be decompressed, at most MAX_TOTAL bytes, and what went wrong after it."""
    parts: list[bytes] = []
    total = 0
    engine = zlib.decompressobj(wbits=31)
    try:
        with path.open("rb") as file:
            while block := file.read(2**16):  # at most 66 MB when decompressed
                while block:
                    parts.append(engine.decompress(block))
                    total += len(parts[-1])
                    block = engine.unused_data.lstrip(b"\0")
                    if engine.eof and block:  # several streams in a row are one file, too
                        engine = zlib.decompressobj(wbits=31)
                if total > MAX_TOTAL:
                    raise _too_large(str(path), total, MAX_TOTAL)
    except zlib.error as error:
        return b"".join(parts), _cut(str(path), str(error))
    return b"".join(parts), None if engine.eof else _cut(str(path), "the stream has no end")


def _from_tar(
    name: str, content: bytes, rules: Counter[str], complete: bool
) -> Iterator[Document | HephError]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                where = f"{name}: {printable(member.name)}"
                if member.isdir() and not _leads_out(member.name):
                    continue
                problem = _unsafe(where, member.name, regular=member.isreg(), size=member.size)
                if problem is not None:
                    yield problem
                elif _is_json(member.name, rules):
                    file = tar.extractfile(member)
                    assert file is not None  # isreg() was checked
                    yield Document(where, _stem(member.name), file.read())
    except (tarfile.TarError, OSError, ValueError) as error:
        if complete:  # else the caller tells why it is not
            yield _cut(name, str(error))
    else:
        # tarfile takes a file that ends between two members, or in a header, for a whole one.
        if complete and content[-1024:].strip(b"\0"):
            yield _cut(name, "no end mark")


def _from_zip(path: Path, rules: Counter[str]) -> Iterator[Document | HephError]:
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: _natural(info.filename)):
                where = f"{path}: {printable(info.filename)}"
                if info.is_dir() and not _leads_out(info.filename):
                    continue
                # The high half of external_attr is the Unix mode; 0 where the packer left none.
                kind = (info.external_attr >> 16) & 0o170000
                total += info.file_size
                problem = _unsafe(
                    where, info.filename, regular=kind in (0, 0o100000), size=info.file_size
                )
                if problem is not None:
                    yield problem
                elif total > MAX_TOTAL:
                    yield _too_large(str(path), total, MAX_TOTAL)
                    return
                elif _is_json(info.filename, rules):
                    yield _zip_member(archive, info, where)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        yield _cut(str(path), str(error))


def _zip_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str
) -> Document | HephError:
    try:
        with archive.open(info) as file:
            # The stated size may lie: never read more than it.
            return Document(where, _stem(info.filename), file.read(MAX_DOCUMENT))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return HephError(where, f"cannot be unpacked ({error})", "pack it again, without password")


def _unsafe(where: str, name: str, *, regular: bool, size: int) -> HephError | None:
    if _leads_out(name):
        return HephError(where, "the name leads out of the archive", _REPACK)
    if not regular:
        return HephError(where, "a link or a device, not a plain file", _REPACK)
    return _too_large(where, size) if size > MAX_DOCUMENT else None


def _leads_out(name: str) -> bool:
    path = name.replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/") or path[1:2] == ":"


def _is_json(name: str, rules: Counter[str]) -> bool:
    *folders, file = name.split("/")
    if file.startswith("._") or "__MACOSX" in folders:
        rules[_MACOS] += 1
        return False
    if not file.lower().endswith(".json"):
        rules[_OTHER] += 1
        return False
    return True


def _natural(name: str) -> tuple[str, int, str]:
    """Sort key: folder, then the number a name states, then the name (2.json before 10.json)."""
    stem = _stem(name)
    number = int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 19 else -1
    return name.rpartition("/")[0], number, name


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _too_large(where: str, size: int, limit: int = MAX_DOCUMENT) -> HephError:
    return HephError(
        where, f"{size:,} bytes, more than the {limit:,} allowed", "check that it holds annotations"
    )


def _cut(where: str, detail: str) -> HephError:
    return HephError(where, f"damaged or cut short ({detail})", "download or pack it again")


@dataclass(frozen=True, slots=True)
class _Repeated:
    """A JSON object in which one key occurs twice: which value holds is anyone's guess."""

    key: str
    pairs: list[tuple[str, Any]]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    counts = Counter(key for key, _ in pairs)
    return _Repeated(counts.most_common(1)[0][0], pairs)


def read_records(document: Document) -> Iterator[tuple[str, str, Any]]:
    """Yield (source, stated id, JSON value) of each record that the document should hold.

    Args:
        document: A record, or an object that holds records by id.

    Yields:
        Where the value comes from, the id that the file's name or the key states, the value.

    Raises:
        HephError: No UTF-8, or no JSON: it may be cut in the middle.
    """
    try:
        content = json.loads(document.content.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        what, fix = f"byte {error.start} is not UTF-8", "save it as UTF-8"
        raise HephError(document.source, what, fix) from error
    except (ValueError, RecursionError) as error:
        what, fix = f"not JSON ({error})", "get it again if it is cut"
        raise HephError(document.source, what, fix) from error
    pairs = content.pairs if isinstance(content, _Repeated) else None
    if pairs is None and isinstance(content, dict):
        pairs = list(content.items())
    if not pairs or any(key in FIELDS for key, _ in pairs):
        yield document.source, document.stem, content
        return
    for key, value in pairs:
        yield f"{document.source}: {printable(key)}", key, value


def as_record(value: Any, source: str) -> dict[str, Any]:
    """The value itself, once it is known to be a JSON object without repeated keys.

    Args:
        value: From `read_records`.
        source: Named in the error.

    Returns:
        The object.

    Raises:
        HephError: Something else, or a key that occurs twice.
    """
    if isinstance(value, _Repeated):
        raise HephError(source, f"the field {show(value.key)} occurs twice", "keep one")
    if not isinstance(value, dict):
        raise HephError(source, f"{show(value)} is no record", "expected an object of 20 fields")
    return value
