"""An archive file fetched by HTTP: resumed, tried again, checked, never longer than announced."""

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import httpx

from heph_vl.download_place import Place, Remote, parse, shown
from heph_vl.errors import HephError
from heph_vl.files import writing

T = TypeVar("T")
Progress = Callable[[int, int | None], None]
Say = Callable[[str], None]

HEAD_BYTES = 512  # enough to tell a zip, gzip, tar (magic at 257) or web page
RESERVE = 64 * 2**20  # bytes of the disk left free
MAX_REDIRECTS = 5
TRIES = 5  # in a row without one new byte
FIRST_WAIT_S = 1.0  # doubled at each try
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_AGAIN = "run the same command again later: it goes on where this stopped, if the server can"


@dataclass(frozen=True)
class Fetched:
    """A whole file.

    Attributes:
        path: Where it lies.
        size: Its length [bytes].
        received: Bytes that came in this run.
        checked: What it was compared with, in words.
    """

    path: Path
    size: int
    received: int
    checked: str


def fetch(
    place: Place,
    *,
    sha256: str | None = None,
    wanted: AbstractSet[str],
    progress: Progress,
    say: Say,
) -> Fetched | None:
    """Bring the file of an address to `place.part`, going on where an earlier run stopped.

    A file that an earlier run kept is never touched: to be unpacked it is used where it lies, and
    the server is not asked.

    Args:
        place: Of the address; locked by the caller.
        sha256: Checksum that the file must have; None: that of `<address>.sha256`, if the server
            has such a file.
        wanted: `unpacked`, `kept` or both; to be unpacked, it must be a zip or tar, and there must
            be room.
        progress: Told (bytes so far, all bytes or None).
        say: Told in a line what is worth knowing.

    Returns:
        The file, or None if earlier runs have done what is wanted with this very file.

    Raises:
        HephError: It cannot be had, is no archive, does not fit on the disk, has another sum, or
            is another one than the file kept.
    """
    known, unpack, kept = place.load(), "unpacked" in wanted, "kept" in place.done
    if known is not None and kept and "unpacked" in wanted - place.done:
        say(f"{place.kept} is there: the server is not asked")
        fetched = Fetched(place.kept, place.kept.stat().st_size, 0, _checked_by(known))
        return _compare(fetched, place, sha256, "--sha256", progress, say)
    # identity: sizes and ranges are those of the file, not of a compressed copy of it.
    headers = {"Accept-Encoding": "identity", "User-Agent": "heph-vl"}
    with httpx.Client(headers=headers, timeout=30.0) as client:
        remote, head, content_type = _retry(lambda: _probe(client, place), place, say)
        if known == remote and wanted <= place.done:
            return None
        if known != remote and kept:
            what = "is there, and the file on the server is another one by now"
            fix = "move it away to fetch that one, or choose another folder"
            raise HephError(str(place.kept), what, fix)
        _check_kind(head, content_type, place, unpack)
        if known is not None and known != remote and place.have():
            say("the file on the server has changed: starting anew")
        before = place.have() if known == remote else 0
        _check_space(place, remote.size, before, unpack)
        if known != remote:
            place.forget()
            place.save(remote)
        if before and remote.size is not None:
            here = "all" if before == remote.size else in_words(before)
            say(f"{here} of {in_words(remote.size)} is here, going on")
        received = 0

        def attempt() -> None:
            nonlocal received
            for count in _transfer(client, place, unpack, progress, say):
                received += count

        if before != remote.size:
            _retry(attempt, place, say)
        size = place.have()
        expected, source = sha256, "--sha256"
        if expected is None:
            expected, source = _published_sum(client, place), f"{place.name}.sha256 of the server"
    fetched = Fetched(place.part, size, received, _checked_by(remote))
    return _compare(fetched, place, expected, source, progress, say)


def _checked_by(remote: Remote) -> str:
    return "its length" if remote.size is not None else "nothing: the server tells no length"


def _compare(
    fetched: Fetched, place: Place, expected: str | None, source: str, progress: Progress, say: Say
) -> Fetched:
    """The same file once it has the sha256 expected, if any."""
    if expected is None:
        return fetched
    say("comparing the sha256")
    if (found := _sha256(fetched.path, progress)) != expected.lower():
        what = f"sha256 is {found}, expected {expected.lower()} ({source})"
        fix = f"if the expected one is right, remove {fetched.path} and run again"
        raise HephError(place.shown, what, fix)
    return replace(fetched, checked=f"sha256 ({source})")


def _probe(client: httpx.Client, place: Place) -> tuple[Remote, bytes, str]:
    """What the server says of the file, its first bytes, and what it calls them."""
    asked = {"Range": f"bytes=0-{HEAD_BYTES - 1}"}
    with _ask(client, place, asked) as response:
        head = b""
        for chunk in response.iter_raw():
            head += chunk
            if len(head) >= HEAD_BYTES:  # a server without ranges sends everything
                break
        content_type = response.headers.get("content-type", "")
        return Remote.of(response), head[:HEAD_BYTES], content_type


def _transfer(
    client: httpx.Client, place: Place, unpack: bool, progress: Progress, say: Say
) -> Iterator[int]:
    """Append what is missing; yields the number of bytes of each piece once it is written."""
    remote = place.load()
    assert remote is not None  # saved by the caller
    offset = place.have()
    asked = {}
    if offset and remote.size is not None:
        asked = {"Range": f"bytes={offset}-"}
        if remote.validator:
            asked["If-Range"] = remote.validator
    with _ask(client, place, asked) as response:
        now = Remote.of(response)
        start = response.headers.get("content-range", "").removeprefix("bytes ").split("-")[0]
        goes_on = response.status_code == 206 and now == remote and start == str(offset)
        if response.status_code == 206 and not goes_on:
            place.forget()
            raise _AgainError("the server sent another part than asked for")
        if not goes_on:
            if offset:
                why = "the server cannot go on"
                if now != remote:
                    why = "the file has changed"
                elif now.size is None:
                    why = "the server tells no length"
                say(f"{why}: starting anew")
            place.forget()
            place.save(now)
            offset = 0
            _check_space(place, now.size, 0, unpack)
        with writing(place.part), place.part.open("ab") as file:
            progress(offset, now.size)
            for chunk in response.iter_raw():
                offset += len(chunk)
                if now.size is not None and offset > now.size:
                    what = f"sends more than the {in_words(now.size)} that it said"
                    raise HephError(place.shown, what, "tell its owner")
                if now.size is None and shutil.disk_usage(place.out).free < RESERVE:
                    raise HephError(str(place.out), "the disk is full", "free space, run again")
                file.write(chunk)
                progress(offset, now.size)
                yield len(chunk)
    if now.size is not None and offset < now.size:
        raise _AgainError(f"ended after {in_words(offset)} of {in_words(now.size)}")


class _AgainError(Exception):
    """A failure that may pass: told in words, with the seconds the server asks to wait."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def _retry(attempt: Callable[[], T], place: Place, say: Say) -> T:
    """The result of `attempt`, which is made again until it fails TRIES times without progress."""
    tries = 0
    while True:
        before = place.have()
        try:
            return attempt()
        except (_AgainError, httpx.TransportError) as error:
            why = str(error) or type(error).__name__
            if "CERTIFICATE_VERIFY" in why:  # will not pass
                what = "its certificate cannot be verified"
                raise HephError(place.shown, what, "check the address and the clock") from None
            tries = 1 if place.have() > before else tries + 1
            if tries >= TRIES:
                what = f"failed {tries} times in a row without progress: {why}"
                raise HephError(place.shown, what, _AGAIN) from None
            asked = error.wait if isinstance(error, _AgainError) else 0.0
            wait = max(FIRST_WAIT_S * 2 ** (tries - 1), min(asked, 60.0))
            say(f"{' '.join(why.split())}; trying again in {wait:.0f} s")
            time.sleep(wait)


@contextlib.contextmanager
def _ask(client: httpx.Client, place: Place, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer to a GET once redirects have been followed, its body still to be read."""
    request = client.build_request("GET", place.url, headers=headers)
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        with contextlib.closing(response):
            if response.next_request is None:
                _check_status(response, place)
                yield response
                return
            before, request = request.url, response.next_request
        if request.url.scheme not in ("http", "https"):
            what = f"redirects to {request.url.scheme}:, which is not followed"
            raise HephError(place.shown, what, "ask its owner for another address")
        if before.scheme == "https" and request.url.scheme == "http":
            what = f"redirects from https to {shown(request.url)}, which anyone can read and change"
            raise HephError(place.shown, what, "check it and give that address itself")
    what = f"redirects more than {MAX_REDIRECTS} times"
    raise HephError(place.shown, what, "give the address at the end")


def _check_status(response: httpx.Response, place: Place) -> None:
    code = response.status_code
    if code in (200, 206):
        return
    if code in _TRY_AGAIN:
        wait = response.headers.get("retry-after", "")
        raise _AgainError(f"the server answers {code}", float(wait) if wait.isdecimal() else 0.0)
    what = f"the server answers {code} {response.reason_phrase}"
    if code in (401, 403, 407):
        fix = "you may not read it: get a link that works without login, or http://user:password@"
    elif code == 416:  # no first byte
        what, fix = "the file is empty", "check the address"
    else:
        fix = "check the address"
    raise HephError(place.shown, what, fix)


def kind_of(head: bytes) -> str | None:
    """`zip`, `gzip` or `tar` by the first 512 bytes; None for anything else."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "tar" if head[257:262] == b"ustar" else None


def _check_kind(head: bytes, content_type: str, place: Place, unpack: bool) -> None:
    kind = kind_of(head)
    if kind is not None:
        return
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if content_type.startswith("text/html") or start.startswith((b"<!doctype html", b"<html")):
        what = "a web page, not an archive file: perhaps a login or a preview"
        fix = "give the link of the file itself (of Dropbox: dl=1 in place of dl=0)"
        raise HephError(place.shown, what, fix)
    if unpack:
        what = f"neither .zip nor .tar nor .tar.gz, it begins with {head[:8]!r}"
        raise HephError(place.shown, what, "check the link; --no-unpack fetches it as it is")


def _check_space(place: Place, size: int | None, have: int, unpack: bool) -> None:
    if size is None:
        return
    # PNGs do not shrink when packed: unpacked they need about as much again.
    needed, text = size - have, f"{in_words(size - have)} to fetch"
    if unpack:
        needed += size
        text += f" and about {in_words(size)} to unpack"
    check_free(place.out, needed, text, "fetch alone with --no-unpack" if unpack else "")


def check_free(folder: Path, needed: int, text: str, other: str = "") -> None:
    """Raise unless a disk has room.

    Args:
        folder: On the disk.
        needed: Bytes.
        text: What for.
        other: What else the user can do.

    Raises:
        HephError: There is less room.
    """
    free = shutil.disk_usage(folder).free
    if needed + RESERVE > free:
        fix = "free space or choose another disk" + (f", or {other}" if other else "")
        raise HephError(str(folder), f"needs {text}, {in_words(free)} are free", fix)


def _published_sum(client: httpx.Client, place: Place) -> str | None:
    """The checksum in `<address>.sha256`; None where there is no such file or it holds none."""
    parsed = parse(place.url)
    beside = Place(place.out, str(parsed.copy_with(path=parsed.path + ".sha256")))
    try:
        with _ask(client, beside, {}) as response:
            text = b""
            for chunk in response.iter_raw():
                text += chunk
                if len(text) > 4096:  # a web page, or the sums of other files
                    return None
    except (HephError, _AgainError, httpx.TransportError):
        return None
    match = re.match(rb"([0-9a-fA-F]{64})(?![0-9a-fA-F])", text)
    return match[1].decode().lower() if match else None


def _sha256(path: Path, progress: Progress) -> str:
    size, done = path.stat().st_size, 0
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            done += len(block)
            progress(done, size)
    return digest.hexdigest()


def in_words(size: int | None) -> str:
    """A number of bytes as people say it, e.g. `98.4 GB`."""
    if size is None:
        return "an unknown size"
    units = ("B", "kB", "MB", "GB", "TB")
    power = min((len(str(size)) - 1) // 3, len(units) - 1)
    return f"{size / 1000**power:.{min(power, 1)}f} {units[power]}"
