"""Downloads from a real HTTP server that drops connections, changes files and lies."""

import gzip
import hashlib
import io
import json
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from heph_vl import cli, download, unpack
from heph_vl.data import splits
from heph_vl.download_place import Place, file_name, parse, shown
from heph_vl.errors import HephError
from tests.data.fake_archive import FRAMES, write_fake_archive


class Server(ThreadingHTTPServer):
    """Serves `files` by path, with ranges; the switches make it misbehave."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.etag = '"1"'
        self.modified = None
        self.kind = "application/octet-stream"
        self.ranges = True
        self.fail = []  # status of the next answers
        self.drop_after = []  # bytes of the next long answers after which the line is cut
        self.redirects = {}
        self.extra_length = 0  # said beyond the file's
        self.most = None  # bytes of an answer with a range
        self.shift = 0  # of the range that is sent against the one asked for
        self.too_much = b""  # sent after the end of the file
        self.chunked = False
        self.stall_at = None  # bytes after which nothing more is sent; `go_on` hangs up
        self.go_on = threading.Event()
        self.requests = []  # path, Range, Authorization
        self.served = 0  # bytes of bodies, those of the first look left out

    def url(self, path="/archive.zip"):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request, client_address):
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        path = self.path.partition("?")[0]
        server.requests.append((self.path, asked, self.headers.get("Authorization")))
        if path in server.redirects:
            self._answer(302, b"", Location=server.redirects[path])
        elif path not in server.files:
            self._answer(404, b"gone")
        elif server.fail:
            self._answer(server.fail.pop(0), b"busy")
        else:
            self._send(server.files[path], asked)

    def _answer(self, code, body, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, content, asked):
        server = self.server
        first, last = 0, len(content) - 1
        condition = self.headers.get("If-Range")
        partial = asked and server.ranges and condition in (None, server.etag, server.modified)
        if partial:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
            if server.most and not end:
                first -= server.shift
                last = min(last, first + server.most - 1)
        body = content[first : last + 1] + self.server.too_much
        self.send_response(206 if partial else 200)
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.modified:
            self.send_header("Last-Modified", server.modified)
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(body) + server.extra_length))
        self.end_headers()
        probe = asked == f"bytes=0-{download.HEAD_BYTES - 1}"
        cut = server.drop_after.pop(0) if server.drop_after and not probe else None
        for at in range(0, len(body), 4096):
            block = body[at : at + 4096] if cut is None else body[at : min(at + 4096, cut)]
            self.wfile.write(block)
            self.wfile.flush()
            server.served += 0 if probe else len(block)
            if cut is not None and at + 4096 >= cut:
                break
            if server.stall_at is not None and server.served >= server.stall_at:
                server.go_on.wait(60)
                self.close_connection = True
                return
        if cut is not None or server.extra_length:
            self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A fake archive of ten interferograms."""
    root = tmp_path_factory.mktemp("source") / "Hephaestus_Raw"
    write_fake_archive(root, n=10, size=96)
    return root


def zipped(root, around=""):
    """The bytes of a zip of a folder's content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, around + str(path.relative_to(root)))
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(members, mode="w:gz"):
    """Members are contents, or TarInfos without one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def noise(size, seed=0):
    return b"PK\x03\x04" + hashlib.shake_128(bytes([seed])).digest(size - 4)


def call(capsys, *words):
    """Exit code, stdout and stderr of one command."""
    code = cli.run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files_of(root):
    """Content of all files that are not hidden, by path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".download" not in path.parts
    }


def hidden_files(root):
    return {path.name for path in (root / ".download").rglob("*") if path.is_file()}


@pytest.mark.parametrize("around", ["", "Hephaestus_Raw/", "mnt/data/Hephaestus_Raw/"])
def test_from_link_to_dataset(server, source, tmp_path, capsys, around):
    server.files["/s/Hephaestus_Raw.zip"] = zipped(source, around)
    out = tmp_path / "HEPHAESTUS"
    code, printed, said = call(
        capsys, "download", server.url("/s/Hephaestus_Raw.zip?dl=1"), out, "--json"
    )
    assert code == 0, said
    assert files_of(out) == files_of(source)
    report = json.loads(printed)
    assert (report["files"], report["pairs"], report["records"]) == (30, 10, 10)
    assert report["pairs_with_record"] == 10
    assert report["around"] == ([around.rstrip("/")] if around else [])
    assert report["frames_missing"] == sorted(set(splits.FRAMES) - set(FRAMES))
    assert report["checked"] == "its length"
    for name in ("pairs_without_coherence", "records_without_image", "problems", "frames_other"):
        assert report[name] == []
    assert hidden_files(out) == {"state.json", "lock"}  # the zip is not kept

    # A second time nothing is fetched, and what is there is checked again.
    server.served = 0
    code, printed, said = call(
        capsys, "download", server.url("/s/Hephaestus_Raw.zip?dl=1"), out, "--json"
    )
    assert code == 0
    assert "nothing to fetch" in said
    assert json.loads(printed)["pairs"] == 10
    assert server.served == 0

    code, printed, said = call(capsys, "dataset", out, tmp_path / "dataset", "--json")
    assert code == 0, said
    assert sum(part["rows"] for part in json.loads(printed)["splits"].values()) == 10


def test_downloads_add_up(server, source, tmp_path, capsys):
    records = {f"deep/path/{p.name}": p.read_bytes() for p in source.glob("annotations/*.json")}
    first, second = FRAMES[:2], FRAMES[2:]
    images = {
        f"part/{p.relative_to(source)}": p.read_bytes()
        for p in source.rglob("*.png")
    }  # fmt: skip
    server.files["/annotations.tar.gz"] = tar_of(records)
    for path, frames in (("/one.tar", first), ("/two.zip", second)):
        chosen = {n: c for n, c in images.items() if n.split("/")[1] in frames}
        server.files[path] = tar_of(chosen, "w") if path.endswith("tar") else zip_of(chosen)
    out = tmp_path / "out"

    code, printed, _ = call(capsys, "download", server.url("/annotations.tar.gz"), out)
    assert code == 0
    assert "0 interferograms, 10 records" in printed
    assert "fetch the images into the same folder" in printed

    code, printed, said = call(capsys, "download", server.url("/one.tar"), out)
    assert code == 0
    assert "2 frames, 4 interferograms, 10 records, 4 interferograms with record" in printed
    assert "6 records without an image" in said
    assert "... and 3 more (--json lists all)" in said
    assert "next:" in printed

    code, printed, said = call(capsys, "download", server.url("/two.zip"), out)
    assert code == 0
    assert "5 frames, 10 interferograms, 10 records, 10 interferograms with record" in printed
    assert "without an image:" not in said
    assert files_of(out) == files_of(source)


def test_a_dropped_line_goes_on_where_it_stopped(server, tmp_path, capsys):
    content = noise(300_000)
    server.files["/archive.zip"] = content
    server.drop_after = [100_000, 50_000]
    code, _, said = call(capsys, "download", server.url(), tmp_path / "out", "--no-unpack")
    assert code == 0, said
    assert (tmp_path / "out" / "archive.zip").read_bytes() == content
    assert server.served == 300_000  # not one byte twice
    ranges = [asked for _, asked, _ in server.requests]
    assert "bytes=100000-" in ranges
    assert "bytes=150000-" in ranges
    assert said.count("trying again") == 2


def test_a_killed_process_goes_on(server, tmp_path):
    content = noise(2_000_000)
    server.files["/archive.zip"] = content
    server.stall_at = 1_000_000
    out = tmp_path / "out"
    command = [sys.executable, "-m", "heph_vl.cli", "download", server.url(), str(out)]
    command += ["--no-unpack"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background has it ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any(path.stat().st_size > 500_000 for path in out.rglob("*.part")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    server.go_on.set()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    have = next(out.rglob("*.part")).stat().st_size
    assert 0 < have < 2_000_000
    assert not (out / "archive.zip").exists()

    server.served, server.stall_at = 0, None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 2.0 MB is here, going on" in done.stderr
    assert (out / "archive.zip").read_bytes() == content
    assert server.served == 2_000_000 - have


def part_of(server, out, size):
    """Leave a part of so many bytes, as a stopped run does."""
    place = Place(out, server.url())
    place.folder.mkdir(parents=True)
    content = server.files["/archive.zip"]
    place.save(download.Remote(len(content), server.etag, server.modified))
    place.part.write_bytes(content[:size])
    return place


@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', None])
def test_a_changed_file_starts_anew(server, tmp_path, capsys, etag):
    server.etag, server.modified = etag, "Mon, 05 Jan 2026 10:00:00 GMT"
    server.files["/archive.zip"] = noise(50_000)
    part_of(server, tmp_path, 30_000)
    server.files["/archive.zip"] = noise(50_000, seed=1)
    server.etag = etag and etag.replace("1", "2")
    server.modified = "Mon, 05 Jan 2026 11:00:00 GMT"
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0
    assert "has changed on" in said or "has changed: starting anew" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(50_000, seed=1)


@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', None])
def test_an_unchanged_file_goes_on(server, tmp_path, capsys, etag):
    server.etag = etag
    server.modified = "Mon, 05 Jan 2026 10:00:00 GMT" if etag else None
    server.files["/archive.zip"] = noise(50_000)
    part_of(server, tmp_path, 30_000)
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0, said
    assert server.served == 20_000
    assert (tmp_path / "archive.zip").read_bytes() == noise(50_000)


def test_a_file_that_changes_between_two_tries(server, tmp_path, capsys, monkeypatch):
    server.files["/archive.zip"] = noise(50_000)
    server.drop_after = [20_000]
    sleep = time.sleep

    def change(seconds):
        if threading.current_thread() is threading.main_thread():
            server.files["/archive.zip"], server.etag = noise(40_000, seed=1), '"2"'
        sleep(seconds)

    monkeypatch.setattr(download.time, "sleep", change)
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0, said
    assert "the file has changed: starting anew" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(40_000, seed=1)


def test_a_server_without_ranges_starts_anew(server, tmp_path, capsys):
    server.ranges = False
    server.files["/archive.zip"] = noise(50_000)
    part_of(server, tmp_path, 30_000)
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0
    assert "the server cannot go on: starting anew" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(50_000)


def test_a_server_that_sends_short_ranges(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(50_000)
    server.most = 9_000
    part_of(server, tmp_path, 20_000)
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0, said
    assert server.served == 30_000
    assert (tmp_path / "archive.zip").read_bytes() == noise(50_000)


def test_a_server_that_sends_another_range(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(50_000)
    server.most, server.shift = 50_000, 4_096
    part_of(server, tmp_path, 20_000)
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0, said
    assert "another part than asked for" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(50_000)


def test_a_busy_server_is_asked_again(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(5_000)
    server.fail = [500, 503]
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0
    assert "answers 500; trying again" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(5_000)


def test_a_server_that_tells_no_length(server, tmp_path, capsys):
    server.chunked, server.ranges = True, False
    server.files["/archive.zip"] = noise(5_000)
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0
    assert "checked: nothing" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(5_000)


@pytest.mark.parametrize(
    ("etag", "chunked", "known"),
    [
        (None, True, "whether it has changed cannot be told: the server gives no length"),
        (None, False, "and its length has not changed"),
        ('"1"', True, "and it has not changed"),
    ],
)
def test_unchanged_is_said_only_as_far_as_it_is_known(
    server, tmp_path, capsys, etag, chunked, known
):
    server.chunked, server.ranges, server.etag = chunked, False, etag
    server.files["/archive.zip"] = noise(5_000)
    assert call(capsys, "download", server.url(), tmp_path, "--no-unpack")[0] == 0
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0
    assert "nothing to fetch" in said
    assert known in said


def test_a_part_of_unknown_length_is_not_said_to_go_on(server, tmp_path, capsys):
    server.chunked, server.ranges, server.etag = True, False, None
    server.files["/archive.zip"] = noise(5_000)
    place = part_of(server, tmp_path, 3_000)
    place.save(download.Remote(None, None, None))
    code, _, said = call(capsys, "download", server.url(), tmp_path, "--no-unpack")
    assert code == 0
    assert "going on" not in said
    assert "the server tells no length: starting anew" in said
    assert (tmp_path / "archive.zip").read_bytes() == noise(5_000)


def one_line(capsys, *words):
    """The only line of an error; its exit code is 1."""
    code, out, err = call(capsys, "download", *words)
    assert code == 1
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    told = ("trying again", "starting anew", "is here, going on", "comparing the sha256")
    told += ("the server is not asked",)
    assert all(any(text in line for text in told) for line in lines[:-1]), err
    return lines[-1]


def test_errors_of_the_server_are_one_line(server, tmp_path, capsys):
    out = tmp_path / "out"
    assert "404" in one_line(capsys, server.url("/missing.zip"), out)
    server.files["/archive.zip"] = noise(5_000)
    server.fail = [403]
    assert "may not read it" in one_line(capsys, server.url(), out)
    server.fail = [502] * download.TRIES
    assert "5 times in a row" in one_line(capsys, server.url(), out)
    server.files["/page.zip"] = b"<!DOCTYPE html><html>Log in</html>"
    assert "a web page" in one_line(capsys, server.url("/page.zip"), out, "--no-unpack")
    server.files["/a.zip"] = b"{}"
    assert "neither .zip nor .tar" in one_line(capsys, server.url("/a.zip"), out)
    server.kind = "text/html; charset=utf-8"
    assert "dl=1 in place of dl=0" in one_line(capsys, server.url("/a.zip"), out)
    assert not out.exists()  # nothing was begun


def test_a_length_that_is_not_kept_is_an_error_that_keeps_the_part(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(50_000)
    server.ranges, server.extra_length = False, 1000
    line = one_line(capsys, server.url(), tmp_path, "--no-unpack")
    assert "without progress" in line
    assert not (tmp_path / "archive.zip").exists()


def test_never_more_than_announced(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(50_000)
    server.too_much = bytes(200_000)
    place = part_of(server, tmp_path, 30_000)
    assert "sends more than the 50.0 kB" in one_line(capsys, server.url(), tmp_path, "--no-unpack")
    assert 30_000 <= place.have() <= 50_000
    assert place.part.read_bytes() == noise(50_000)[: place.have()]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_https(server, tmp_path, capsys, monkeypatch):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2"
    command += " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.files["/archive.zip"] = noise(5_000)
    server.redirects = {"/down": server.url()}
    url, out = server.url().replace("http:", "https:"), tmp_path / "out"
    assert "certificate cannot be verified" in one_line(capsys, url, out)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    line = one_line(capsys, url.replace("/archive.zip", "/down"), out)
    assert f"redirects from https to {server.url()}" in line
    assert call(capsys, "download", url, out, "--no-unpack")[0] == 0
    assert (out / "archive.zip").read_bytes() == noise(5_000)


def test_redirects(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(5_000)
    server.redirects = {"/a": "/b", "/b": "/archive.zip", "/loop": "/loop"}
    server.redirects |= {"/file": "file:///etc/passwd", "/ftp": "ftp://127.0.0.1/a.zip"}
    code, _, said = call(capsys, "download", server.url("/a"), tmp_path, "--no-unpack")
    assert code == 0, said
    assert (tmp_path / "a").read_bytes() == noise(5_000)  # named by the address given
    assert "more than 5 times" in one_line(capsys, server.url("/loop"), tmp_path)
    assert "redirects to ftp:" in one_line(capsys, server.url("/ftp"), tmp_path)
    assert "redirects to file:" in one_line(capsys, server.url("/file"), tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://server/a.zip", "archive.zip"])
def test_only_http(tmp_path, capsys, url):
    assert "not http or https" in one_line(capsys, url, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", ["http://", "https:///a.zip", "http://user:pa/ss@host/a.zip"])
def test_addresses_that_are_none(tmp_path, capsys, url):
    assert "pa/ss" not in one_line(capsys, url, tmp_path / "out")


def test_passwords_are_used_and_never_shown(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(5_000)
    url = server.url("/archive.zip?token=SECRET1").replace("//", "//someone:SECRET2@")
    code, printed, said = call(capsys, "download", url, tmp_path, "--no-unpack", "--json")
    assert code == 0
    assert all(authorization for *_, authorization in server.requests)
    other = url.replace("SECRET2", "SECRET3")  # the same file by a new password
    assert "nothing to fetch" in call(capsys, "download", other, tmp_path, "--no-unpack")[2]
    kept = "".join(p.read_text() for p in tmp_path.rglob("state.json"))
    assert "archive.zip" in kept
    names = "".join(str(path) for path in tmp_path.rglob("*"))
    server.fail = [404]
    error = one_line(capsys, url, tmp_path, "--no-unpack")
    for text in (printed, said, kept, names, error):
        assert "SECRET" not in text
        assert "someone" not in text


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a/b/Hephaestus_Raw.zip?dl=1", "Hephaestus_Raw.zip"),
        ("https://a/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "passwd"),
        ("https://a/..%5c..%5cx.zip", "_.._x.zip"),
        ("https://a/.bashrc", "bashrc"),
        ("https://a/", "archive"),
        ("https://a/a b;c$(d).zip", "a_b_c__d_.zip"),
    ],
)
def test_file_names_are_harmless(url, name):
    assert file_name(parse(url)) == name


def test_shown_addresses():
    assert shown(parse("https://u:p@host:8443/a/b.zip?x=1#y")) == "https://host:8443/a/b.zip"


def test_checksums(server, tmp_path, capsys):
    content = noise(5_000)
    right = hashlib.sha256(content).hexdigest()
    server.files["/archive.zip"] = content
    line = one_line(capsys, server.url(), tmp_path, "--no-unpack", "--sha256", "0" * 64)
    assert right in line
    assert "0" * 64 in line
    assert not (tmp_path / "archive.zip").exists()

    # The file beside it on the server says the same; the bytes are not fetched again.
    server.files["/archive.zip.sha256"] = b"f" * 64 + b"  archive.zip\n"
    before = server.served
    line = one_line(capsys, server.url(), tmp_path, "--no-unpack")
    assert "archive.zip.sha256 of the server" in line
    assert server.served - before == len(server.files["/archive.zip.sha256"])
    server.files["/archive.zip.sha256"] = b"<html>not found</html>"
    code, _, said = call(
        capsys, "download", server.url(), tmp_path, "--no-unpack", "--sha256", right.upper()
    )
    assert code == 0
    assert "checked: sha256 (--sha256)" in said
    assert (tmp_path / "archive.zip").read_bytes() == content

    out = tmp_path / "other"
    server.files["/archive.zip.sha256"] = right.encode()
    code, _, said = call(capsys, "download", server.url(), out, "--no-unpack")
    assert code == 0
    assert "checked: sha256 (archive.zip.sha256 of the server)" in said


def test_kept_then_unpacked_without_fetching(server, source, tmp_path, capsys):
    server.files["/archive.zip"] = zipped(source)
    assert call(capsys, "download", server.url(), tmp_path, "--no-unpack")[0] == 0
    served = server.served
    code, _, said = call(capsys, "download", server.url(), tmp_path)
    assert code == 0, said
    assert server.served == served
    assert (tmp_path / "archive.zip").exists()
    assert set(files_of(tmp_path)) == set(files_of(source)) | {"archive.zip"}
    (tmp_path / "archive.zip").unlink()
    assert call(capsys, "download", server.url(), tmp_path, "--no-unpack")[0] == 0
    assert (tmp_path / "archive.zip").read_bytes() == zipped(source)
    # A file that is there and not from this address is left alone.
    (tmp_path / "other.zip").write_bytes(b"mine")
    server.files["/other.zip"] = zipped(source)
    assert "is there already" in one_line(capsys, server.url("/other.zip"), tmp_path, "--keep")
    assert (tmp_path / "other.zip").read_bytes() == b"mine"


@pytest.mark.parametrize("trouble", ["fails", "changed", "offline"])
def test_what_is_kept_is_unpacked_where_it_lies(server, source, tmp_path, capsys, trouble):
    content, kept = zipped(source), tmp_path / "archive.zip"
    server.files["/archive.zip"] = content
    assert call(capsys, "download", server.url(), tmp_path, "--no-unpack")[0] == 0
    inode = kept.stat().st_ino
    if trouble == "fails":
        server.fail = [502] * download.TRIES
    elif trouble == "changed":
        server.files["/archive.zip"], server.etag = noise(5_000), '"2"'
    else:
        server.socket.close()
    requests = len(server.requests)
    line = one_line(capsys, server.url(), tmp_path, "--sha256", "0" * 64)
    assert hashlib.sha256(content).hexdigest() in line
    code, _, said = call(capsys, "download", server.url(), tmp_path)
    assert code == 0, said
    assert len(server.requests) == requests
    assert f"{kept} is there: the server is not asked" in said
    assert files_of(tmp_path) == files_of(source) | {"archive.zip": content}
    assert kept.stat().st_ino == inode  # not moved away and back
    assert hidden_files(tmp_path) == {"state.json", "lock"}


@pytest.mark.parametrize("words", [(), ("--no-unpack",)])
def test_what_is_kept_does_not_give_way_to_a_newer_file(server, source, tmp_path, capsys, words):
    content, kept = zipped(source), tmp_path / "archive.zip"
    server.files["/archive.zip"] = content
    assert call(capsys, "download", server.url(), tmp_path, "--keep")[0] == 0
    server.files["/archive.zip"], server.etag = zip_of({"5.json": b"{}"}), '"2"'
    for _ in range(2):
        line = one_line(capsys, server.url(), tmp_path, *words)
        assert "is there, and the file on the server is another one by now" in line
        assert kept.read_bytes() == content
    kept.rename(tmp_path / "mine.zip")
    call(capsys, "download", server.url(), tmp_path, *words)
    assert (tmp_path / "mine.zip").read_bytes() == content
    assert kept.exists() == bool(words)


def test_a_file_in_the_place_of_the_kept_one_is_left_alone(server, source, tmp_path, capsys):
    server.files["/archive.zip"] = zipped(source)
    assert call(capsys, "download", server.url(), tmp_path, "--no-unpack")[0] == 0
    (tmp_path / "archive.zip").write_bytes(b"mine")
    assert call(capsys, "download", server.url(), tmp_path)[0] == 0
    assert files_of(tmp_path) == files_of(source) | {"archive.zip": b"mine"}
    assert "is there already" in one_line(capsys, server.url(), tmp_path, "--no-unpack")


def test_what_is_kept_stays_where_a_member_is_refused(server, tmp_path, capsys):
    content = zip_of({"a": b"1", "../x": b""})
    server.files["/archive.zip"] = content
    assert call(capsys, "download", server.url(), tmp_path, "--no-unpack")[0] == 0
    for _ in range(2):
        code, _, said = call(capsys, "download", server.url(), tmp_path)
        assert code == 1
        assert f"{tmp_path / 'archive.zip'} is kept, since not all of it was taken" in said
        assert files_of(tmp_path) == {"archive.zip": content, "a": b"1"}


def test_one_process_at_a_time(server, tmp_path, capsys):
    server.files["/archive.zip"] = noise(5_000)
    with Place(tmp_path, server.url()).locked():
        assert "another process" in one_line(capsys, server.url(), tmp_path)


def free(monkeypatch, size):
    usage = shutil.disk_usage("/")._replace(free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_small_disk_is_told_before_anything_is_fetched(server, tmp_path, capsys, monkeypatch):
    server.files["/archive.zip"] = noise(3_000_000)
    free(monkeypatch, download.RESERVE + 5_000_000)
    line = one_line(capsys, server.url(), tmp_path / "out")
    assert "3.0 MB to fetch and about 3.0 MB to unpack" in line
    assert "--no-unpack" in line
    assert server.served == 0
    assert not (tmp_path / "out").exists()
    assert call(capsys, "download", server.url(), tmp_path / "out", "--no-unpack")[0] == 0


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_small_disk_is_told_before_it_is_full(tmp_path, monkeypatch, pack):
    path = tmp_path / "a"
    path.write_bytes(pack({"1.json": b"0" * 5_000_000}))
    free(monkeypatch, download.RESERVE + 4_000_000)
    with pytest.raises(HephError, match=r"needs 5\.0 MB .* 71\.1 MB are free"):
        unpacked(path, tmp_path / "out")
    assert files_of(tmp_path / "out") == {}


def test_all_of_a_zip_must_fit_before_its_first_member_is_written(tmp_path, monkeypatch):
    path, out = tmp_path / "a.zip", tmp_path / "out"
    path.write_bytes(zip_of({"1.json": b"0" * 2_000_000, "2.json": b"0" * 3_000_000}))
    free(monkeypatch, download.RESERVE + 4_000_000)
    with pytest.raises(HephError, match=r"needs 5\.0 MB to unpack"):
        unpacked(path, out)
    assert [p for p in out.rglob("*") if p.is_file()] == []


def unpacked(path, out):
    """Unpack and count."""
    return unpack.unpack(path, out, out / ".download" / "x", lambda done, total: None, path.name)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_bombs(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(unpack, "ALWAYS_ALLOWED", 2**20)
    path = tmp_path / "bomb"
    members = {f"{i}.json": bytes(2**20) for i in range(8)}
    path.write_bytes(pack(members))
    with pytest.raises(HephError, match="perhaps a bomb"):
        unpacked(path, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_a_zip_that_lies_about_a_size(tmp_path):
    content = bytearray(zip_of({"1.json": b"a" * 5000}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")  # in the directory
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    done = unpacked(path, tmp_path / "out")
    assert done.files == 0
    assert len(done.refused) == 1
    assert files_of(tmp_path / "out") == {}


def test_a_tar_with_a_huge_header(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, unpack._MAX_READ + 1
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(unpack._MAX_READ + 4096)))
    with pytest.raises(HephError, match="a header of"):
        unpacked(path, tmp_path / "out")


BAD_NAMES = ("../evil.json", "a/../../evil.json", "/etc/evil.json", "a\\..\\evil.json", "C:evil")


def test_an_archive_of_something_else(server, tmp_path, capsys):
    server.files["/a.zip"] = zip_of({"patches/5.png": b"", "../x": b""})
    code, printed, said = call(capsys, "download", server.url("/a.zip"), tmp_path)
    assert code == 1
    assert "1 files unpacked" in printed
    assert "1 refused" in said
    assert "expected <frameID>/interferograms" in said.splitlines()[-1]
    code, printed, said = call(capsys, "download", server.url("/a.zip"), tmp_path, "--json")
    assert code == 1
    report = json.loads(printed)
    assert (report["files_there"], len(report["refused"])) == (1, 1)
    assert "no interferogram" in report["problem"]


def test_names_that_lead_out(server, tmp_path, capsys):
    members = dict.fromkeys((*BAD_NAMES, "5.json", "._5.json", "__MACOSX/x"), b"{}")
    for path, content in (("/a.zip", zip_of(members)), ("/a.tar.gz", tar_of(members))):
        server.files[path] = content
        out = tmp_path / path[1:] / "out"
        code, _, said = call(capsys, "download", server.url(path), out, "--json")
        assert code == 1  # the one record holds nothing
        assert "no such" not in said
        assert set(files_of(out.parent)) == {"out/annotations/5.json"}
        done = unpacked(next(out.rglob("*.part")), out)
        assert len(done.refused) == len(BAD_NAMES)
        assert (done.there, done.hidden) == (1, 2)
    assert not Path("/etc/evil.json").exists()


def test_links_and_devices_are_refused_and_listed(server, source, tmp_path, capsys):
    members = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*.*")
               if p.is_file()}  # fmt: skip
    for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE),
                       ("d", tarfile.CHRTYPE), ("f", tarfile.FIFOTYPE)):  # fmt: skip
        info = tarfile.TarInfo(f"{FRAMES[0]}/{name}")
        info.type, info.linkname = kind, "/etc/passwd"
        members[info.name] = info
    server.files["/a.tar.gz"] = tar_of(members)
    code, printed, said = call(capsys, "download", server.url("/a.tar.gz"), tmp_path, "--json")
    assert code == 1
    report = json.loads(printed)
    assert len(report["refused"]) == 4
    assert all("a link or a device" in line for line in report["refused"])
    assert "is kept, since not all of it was taken" in said
    assert report["pairs"] == 10  # the rest is there
    assert files_of(tmp_path) == files_of(source)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link.json")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    path = tmp_path / "links.zip"
    path.write_bytes(buffer.getvalue())
    assert "a link or a device" in str(unpacked(path, tmp_path / "zip").refused[0])


def test_nothing_is_replaced(tmp_path):
    frame = FRAMES[0]
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({f"{frame}/a": b"new", f"{frame}/b": b"new", f"x/{frame}/b": b"two",
                             f"{frame}/c": b"c"}))  # fmt: skip
    out = tmp_path / "out"
    (out / frame).mkdir(parents=True)
    (out / frame / "a").write_bytes(b"older")
    done = unpacked(path, out)
    assert (done.files, done.there) == (2, 0)
    assert [p.what.rpartition("/")[2] for p in done.refused] == [
        "a is there and differs",
        "a second file of this name; the first was taken",
    ]
    assert files_of(out) == {f"{frame}/a": b"older", f"{frame}/b": b"new", f"{frame}/c": b"c"}


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_file_in_the_place_of_a_folder_in_the_archive(tmp_path, pack):
    path, out = tmp_path / "p", tmp_path / "out"
    path.write_bytes(pack({"a": b"file", "a/b/c": b"below", "d": b"other"}))
    for files, there in ((2, 0), (0, 2)):  # and the same again
        done = unpacked(path, out)
        assert (done.files, done.there) == (files, there)
        assert [problem.where for problem in done.refused] == ["p: a/b/c"]
        assert "a, which is no folder" in done.refused[0].what
        assert files_of(out) == {"a": b"file", "d": b"other"}
        assert hidden_files(out) == set()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_file_in_the_place_of_a_folder_in_the_archive_folder(tmp_path, pack):
    path, out = tmp_path / "p", tmp_path / "out"
    path.write_bytes(pack({"a/b/c": b"below", "d": b"other"}))
    out.mkdir()
    (out / "a").write_bytes(b"mine")
    for _ in range(2):
        done = unpacked(path, out)
        assert [problem.what for problem in done.refused] == [
            f"lies in {out / 'a'}, which is no folder"
        ]
        assert files_of(out) == {"a": b"mine", "d": b"other"}
        assert hidden_files(out) == set()
    (out / "a").unlink()
    assert unpacked(path, out).refused == []
    assert files_of(out) == {"a/b/c": b"below", "d": b"other"}


@pytest.mark.parametrize("taken", ["a", "a/b", "a/b/c"])
def test_what_was_staged_replaces_nothing_that_came_since(tmp_path, taken):
    path, out = tmp_path / "p", tmp_path / "out"
    path.write_bytes(zip_of({"a/b/c": b"below", "d": b"other"}))

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack.unpack(path, out, out / ".download" / "x", stop, "p")
    assert hidden_files(out) == {"c"}
    (out / taken).parent.mkdir(parents=True, exist_ok=True)
    (out / taken).write_bytes(b"mine and longer")
    assert len(unpacked(path, out).refused) == 1
    assert files_of(out) == {taken: b"mine and longer", "d": b"other"}
    assert hidden_files(out) == set()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_unpacking_goes_on_and_is_all_or_nothing(tmp_path, pack):
    members = {f"annotations/{i}.json": noise(1000, i) for i in range(20)}
    path, out = tmp_path / "a", tmp_path / "out"
    path.write_bytes(pack(members))
    stops = iter(range(10))

    def stop(done, total):
        if next(stops) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack.unpack(path, out, out / ".download" / "x", stop, "a")
    assert files_of(out) == {}
    done = unpacked(path, out)
    assert (done.files, done.there) == (12, 8)
    assert files_of(out) == members


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
@pytest.mark.parametrize("mode", ["zip", "w", "w:gz"])
def test_a_cut_archive_is_told_and_leaves_nothing(tmp_path, mode, keep):
    members = {f"annotations/{i}.json": noise(1000, i) for i in range(20)}
    content = zip_of(members) if mode == "zip" else tar_of(members, mode)
    path = tmp_path / "a"
    # A tar ends in 10 kB of zeros: cut in what comes before.
    end = len(content.rstrip(b"\0")) if mode == "w" else len(content)
    path.write_bytes(content[: int(end * keep)])
    with pytest.raises(HephError, match="damaged or cut short"):
        unpacked(path, tmp_path / "out")
    assert files_of(tmp_path / "out") == {}


def test_a_tar_that_ends_or_breaks_between_two_members(tmp_path):
    content = tar_of({f"annotations/{i}.json": noise(1000, i) for i in range(20)}, "w")
    path = tmp_path / "a"
    for damaged in (content[: 5 * 1536], content[: 5 * 1536] + b"x" * 512 + content[6 * 1536 :]):
        path.write_bytes(damaged)
        with pytest.raises(HephError, match="damaged or cut short"):
            unpacked(path, tmp_path / "out")
    assert files_of(tmp_path / "out") == {}


def test_a_damaged_member_is_refused(tmp_path):
    members = {f"annotations/{i}.json": noise(1000, i) for i in range(3)}
    content = bytearray(zip_of(members))
    content[content.index(members["annotations/1.json"][500:600])] ^= 1
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    done = unpacked(path, tmp_path / "out")
    assert done.files == 2
    assert "1.json" in done.refused[0].where
    assert set(files_of(tmp_path / "out")) == {"annotations/0.json", "annotations/2.json"}


def test_what_is_simulated_stays_marked(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"x/simulation.json": b"{}", "x/truth/5.json": b"{}",
                             "x/README.md": b""}))  # fmt: skip
    unpacked(path, tmp_path / "out")
    assert set(files_of(tmp_path / "out")) == {"simulation.json", "truth/5.json", "x/README.md"}


def test_check_of_a_folder(source, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(source, root)
    pairs = sorted(root.glob("*/interferograms/*"))
    gone, bare, unlabeled = pairs[0], pairs[1], pairs[2]
    shutil.rmtree(gone)
    next(bare.glob("*.geo.cc.png")).unlink()
    for path in root.glob("annotations/*.json"):
        raw = json.loads(path.read_text())
        name = f"{raw['primary_date']}_{raw['secondary_date']}"
        if (raw["frameID"], name) == (unlabeled.parts[-3], unlabeled.name):
            path.unlink()
    (root / "annotations" / "99.json").write_text("{")

    def called(path):
        return f"{path.parts[-3]}/{path.name}"

    code, printed, _ = call(capsys, "download", "--check", root, "--json")
    assert code == 0
    report = json.loads(printed)
    assert report["pairs"] == 9
    assert report["records_without_image"] == [called(gone)]
    assert report["pairs_without_coherence"] == [called(bare)]
    assert report["images_without_record"] == [called(unlabeled)]
    assert len(report["problems"]) == 1
    assert "99.json" in report["problems"][0]
    assert len(report["frames_missing"]) == len(splits.FRAMES) - 5

    code, printed, said = call(capsys, "download", "--check", root)
    assert code == 0
    assert "5 frames, 9 interferograms, 9 records, 8 interferograms with record" in printed
    assert f"heph-vl dataset {root} runs/dataset" in printed
    assert "33 annotated frames of Hephaestus without an image here" in said


def test_wrong_folders_tell_the_right_one(source, tmp_path, capsys):
    shutil.copytree(source, tmp_path / "a" / "b")
    line = one_line(capsys, "--check", tmp_path / "a")
    assert f"give {tmp_path / 'a' / 'b'}" in line
    inside = tmp_path / "a" / "b" / FRAMES[0]
    assert f"give {tmp_path / 'a' / 'b'}" in one_line(capsys, "--check", inside)
    assert "no such folder" in one_line(capsys, "--check", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "expected <frameID>/interferograms" in one_line(capsys, "--check", tmp_path / "empty")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("http://a/b.zip",),
        ("http://a/b.zip", "out", "--check", "out"),
        ("http://a/b.zip", "out", "--sha256", "abc"),
    ],
)
def test_wrong_usage(capsys, words):
    assert call(capsys, "download", *words)[0] == 2


def test_sizes_in_words():
    words = {
        0: "0 B",
        999: "999 B",
        1500: "1.5 kB",
        98_400_000_000: "98.4 GB",
        None: "an unknown size",
    }
    assert {size: download.in_words(size) for size in words} == words


@pytest.mark.slow
def test_a_simulated_archive_by_download(server, tmp_path, capsys):
    source, out = tmp_path / "simulated", tmp_path / "out"
    assert call(capsys, "simulate", source, "-n", 4, "--frames", 2, "--size", 96)[0] == 0
    server.files["/archive.zip"] = zipped(source, "simulated/")
    code, printed, said = call(capsys, "download", server.url(), out)
    assert code == 0, said
    assert "these are simulated, not observations" in printed
    assert files_of(out) == files_of(source)


@pytest.mark.real_data
def test_the_real_annotations(server, shared, tmp_path, capsys):
    content = (shared / "data" / "hephaestus" / "annotations.tar.gz").read_bytes()
    server.files["/annotations.tar.gz"] = content
    code, printed, said = call(
        capsys, "download", server.url("/annotations.tar.gz"), tmp_path, "--json"
    )
    assert code == 0, said
    report = json.loads(printed)
    assert report["records"] == len(list((tmp_path / "annotations").iterdir()))
    assert report["records"] == 19_919
    assert report["refused"] == report["problems"] == []
    assert len(report["records_without_image"]) == 19_919
