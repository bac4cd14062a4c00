"""What is known of an address from which a file is fetched, and where it is kept.

One folder for each, `<out>/.download/<key>-<name>/`: the bytes so far (`archive.part`), what the
server said of them (`state.json`) and what is unpacked so far (`unpacked/`, see `unpack`). Nothing
written or shown holds the user name, password or query of the address: those may be secrets.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from heph_vl.errors import HephError
from heph_vl.files import write_text, writing

FOLDER = ".download"


@dataclass(frozen=True)
class Remote:
    """What a server says of a file; a part goes on only where all of it is still the same.

    Attributes:
        size: Length of the whole file [bytes], None where the server does not say.
        etag: Its version, None where the server has none.
        modified: When it was changed last, None where the server does not say.
    """

    size: int | None
    etag: str | None
    modified: str | None

    @classmethod
    def of(cls, response: httpx.Response) -> "Remote":
        """From the headers of a whole (200) or partial (206) answer."""
        headers = response.headers
        if response.status_code == 206:
            total = headers.get("content-range", "").rpartition("/")[2]
        else:
            total = headers.get("content-length", "")
        size = int(total) if total.isascii() and total.isdigit() else None
        return cls(size, headers.get("etag"), headers.get("last-modified"))

    @property
    def unchanged(self) -> str:
        """What is known of the file when the server says all this again, in words."""
        if self.etag or self.modified:
            return "and it has not changed"
        if self.size is not None:
            return "and its length has not changed"
        return "but whether it has changed cannot be told: the server gives no length, ETag or date"

    @property
    def validator(self) -> str | None:
        """For If-Range, which takes no weak ETag (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class Place:
    """The folder in which what belongs to one address is kept.

    Args:
        out: Folder of the archive.
        url: Address; what it says before `@` and after `?` is never kept.

    Raises:
        HephError: No http or https address.
    """

    def __init__(self, out: Path, url: str) -> None:
        parsed = parse(url)
        self.url = url
        self.shown = shown(parsed)
        self.name = file_name(parsed)
        # Two addresses of one name are two files; a new password for the same one is not.
        bare = parsed.copy_with(userinfo=b"", fragment=None)
        key = hashlib.sha256(str(bare).encode()).hexdigest()[:10]
        self.out = out
        self.folder = out / FOLDER / f"{key}-{self.name}"
        self.kept = out / self.name
        self.part = self.folder / "archive.part"
        self.unpacked = self.folder / "unpacked"
        self._state = self.folder / "state.json"

    def load(self) -> Remote | None:
        """What the server said last time, if ever."""
        state = self._read()
        try:
            return Remote(state["size"], state["etag"], state["modified"])
        except KeyError:
            return None

    def save(self, remote: Remote, done: AbstractSet[str] = frozenset()) -> None:
        """Note what the server says, and what has been done with the file."""
        state = {"url": self.shown, **asdict(remote), "done": sorted(done)}
        write_text(self._state, json.dumps(state, indent=1) + "\n")

    @property
    def done(self) -> set[str]:
        """`unpacked`, and `kept` while the file is there and as long as it was."""
        state = self._read()
        done = set(state.get("done", ()))
        there = self.kept.is_file() and state.get("size") in (None, self.kept.stat().st_size)
        return done if there else done - {"kept"}

    def finish(self, done: AbstractSet[str]) -> None:
        """Note that all is done, and remove what is not needed any more."""
        remote = self.load()
        assert remote is not None  # saved before the first byte
        self.save(remote, done | self.done)
        shutil.rmtree(self.unpacked, ignore_errors=True)
        self.part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def have(self) -> int:
        """Bytes that are here."""
        return self.part.stat().st_size if self.part.exists() else 0

    def forget(self) -> None:
        """Remove what is here of an older file."""
        self.part.unlink(missing_ok=True)
        shutil.rmtree(self.unpacked, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Two processes would write into the same part; a folder with nothing in it goes again."""
        new = not self.out.exists()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = f"another process is fetching it into {self.out}"
                raise HephError(self.shown, what, "wait for it or end it") from None
            try:
                yield
            finally:
                if not self._state.exists():
                    shutil.rmtree(self.folder, ignore_errors=True)
                    with contextlib.suppress(OSError):  # others are in it
                        self.folder.parent.rmdir()
                        if new:
                            self.out.rmdir()


def parse(url: str) -> httpx.URL:
    """An http(s) address in its parts; the text is in no message, as it may hold a password."""
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        word = f"{scheme}:" if re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) and ":" in url else "it"
        raise HephError("URL", f"{word} is not http or https", "give an http(s) address")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:  # its message could hold the password
        raise HephError("URL", "cannot be read", "quote it, and escape odd characters") from None
    if not parsed.host:
        raise HephError("URL", "names no server", "expected https://server/file.zip")
    return parsed


def shown(url: httpx.URL) -> str:
    """An address without user name, password, query and fragment."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"


def file_name(url: httpx.URL) -> str:
    """A harmless file name out of an address: its last part, never a path, never hidden."""
    last = url.path.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".-")[-100:].lstrip(".-") or "archive"
