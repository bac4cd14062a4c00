"""A small Hugging Face Hub in memory, on localhost: repositories with commits, branches, tags, LFS.

It speaks the part of the Hub's HTTP interface that huggingface_hub, datasets and evaluate use to
create, upload, list and download, asks for the token TOKEN where something is written, and can
break connections.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_right"
_NOW = "2026-01-01T00:00:00.000Z"
_LFS = (".safetensors", ".parquet", ".arrow", ".model", ".png")
Key = tuple[str, str]  # kind of repository, name


@dataclass
class File:
    """Content of one file; `oid` is its git or LFS hash."""

    data: bytes
    oid: str
    lfs: bool

    @classmethod
    def of(cls, data: bytes) -> "File":
        return cls(data, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), False)


@dataclass
class Repo:
    """Commits by id, and what branches and tags point at."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, revision: str, files: dict[str, File]) -> str:
        said = repr((len(self.commits), sorted((path, f.oid) for path, f in files.items())))
        oid = hashlib.sha1(said.encode()).hexdigest()
        self.commits[oid], self.refs[revision] = files, oid
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        oid = self.refs.get(revision, revision)
        return (oid, self.commits[oid]) if oid in self.commits else None


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repos: What there is.
        log: Requests, "METHOD path".
        drop_uploads: Break the connection at LFS uploads, once `keep_uploads` have arrived.
        down: Answer everything with 503.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[Key, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.drop_uploads, self.keep_uploads = False, 0
        self.down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are meant."""


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub that runs until the block ends."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub
    routes: ClassVar[list[tuple[re.Pattern[str], str]]] = [
        (re.compile(pattern), name)
        for pattern, name in (
            (r"/api/whoami-v2", "whoami"),
            (r"/api/validate-yaml", "validate"),
            (r"/api/repos/create", "create"),
            (r"/_lfs/(?P<oid>[0-9a-f]{64})", "lfs"),
            (
                r"/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
                "batch",
            ),
            (r"/(?:(dataset|space)s/)?[^/]+/[^/]+\.git/info/lfs/objects/verify", "verify"),
            (
                r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
                r"(?:/(?P<what>revision|preupload|commit|tree|paths-info|refs|branch|tag)"
                r"(?:/(?P<rest>.*))?)?",
                "repo",
            ),
            (
                r"/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)",
                "resolve",
            ),
        )
    ]

    def log_message(self, *args: Any) -> None:
        pass

    def _any(self) -> None:
        url = urlparse(self.path)
        self.query = parse_qs(url.query)
        self.raw = self._body() if self.command in ("POST", "PUT", "DELETE") else b""
        self.server.log.append(f"{self.command} {self.path}")
        if self.server.down:
            return self._send(503, {"error": "down"})
        writes = self.command in ("POST", "PUT", "DELETE") and "paths-info" not in url.path
        asks = (writes or "whoami" in url.path) and "/_lfs/" not in url.path
        if asks and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._fail(401, None, "Invalid user token")
        for pattern, name in self.routes:
            if match := pattern.fullmatch(unquote(url.path)):
                return getattr(self, f"_{name}")(match.groupdict())
        return self._fail(404, "NotImplemented", self.path)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _any  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline().strip(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, code: int, body: Any = b"", head: dict[str, str] | None = None) -> None:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        head = {"Content-Length": str(len(content)), "Content-Type": kind} | (head or {})
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, code: int, name: str | None, text: str) -> None:
        head = {"X-Error-Message": text} | ({} if name is None else {"X-Error-Code": name})
        self._send(code, {"error": text}, head)

    def _whoami(self, found: dict[str, str]) -> None:
        token = {"displayName": "t", "role": "write"}
        auth = {"type": "access_token", "accessToken": token}
        self._send(200, {"type": "user", "name": "user", "fullname": "u", "orgs": [], "auth": auth})

    def _validate(self, found: dict[str, str]) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _create(self, found: dict[str, str]) -> None:
        asked = json.loads(self.raw)
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        key = asked.get("type") or "model", name
        if key in self.server.repos:
            return self._send(409, {"error": "exists", "url": f"{self.server.url}/{name}"})
        repo = self.server.repos[key] = Repo(private=bool(asked.get("private")))
        repo.commit("main", {".gitattributes": File.of(b"*.safetensors filter=lfs\n")})
        prefix = "" if key[0] == "model" else f"{key[0]}s/"
        address = f"{self.server.url}/{prefix}{name}"
        return self._send(200, {"url": address, "name": name, "id": "0" * 24})

    def _lfs(self, found: dict[str, str]) -> None:
        if self.server.drop_uploads and len(self.server.lfs) >= self.server.keep_uploads:
            self.close_connection = True
            self.connection.close()
            return
        self.server.lfs[found["oid"]] = self.raw
        self._send(200)

    def _batch(self, found: dict[str, str]) -> None:
        objects = []
        for asked in json.loads(self.raw)["objects"]:
            there = asked["oid"] in self.server.lfs
            upload = {"upload": {"href": f"{self.server.url}/_lfs/{asked['oid']}"}}
            entry = {"oid": asked["oid"], "size": asked["size"]}
            objects.append(entry if there else entry | {"actions": upload})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _verify(self, found: dict[str, str]) -> None:
        self._send(200, {})

    def _repo(self, found: dict[str, str]) -> None:
        key, what, rest = (found["kind"], found["name"]), found["what"], found["rest"] or "main"
        repo = self.server.repos.get(key)
        if repo is None:
            return self._fail(404, "RepoNotFound", "Repository not found")
        if what == "refs":
            refs = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
                for name, oid in repo.refs.items()
            ]
            return self._send(200, {"branches": refs, "tags": [], "converts": []})
        if what == "branch":
            if rest in repo.refs:
                return self._send(409, {"error": "Reference already exists"})
            repo.refs[rest] = repo.refs["main"]
            return self._send(200, {})
        if what == "tag":
            if json.loads(self.raw)["tag"] in repo.refs:
                return self._send(409, {"error": "Tag reference exists already"})
            repo.refs[json.loads(self.raw)["tag"]] = repo.refs.get(rest, rest)
            return self._send(200, {})
        revision, _, below = rest.partition("/") if what == "tree" else (rest, "", "")
        at = repo.at(revision)
        if at is None:
            return self._fail(404, "RevisionNotFound", "Revision not found")
        oid, files = at
        if what in (None, "revision"):
            return self._send(200, _info(key, oid, files, repo.private))
        if what == "preupload":
            asked = json.loads(self.raw)["files"]
            return self._send(200, {"files": [_mode(entry, files) for entry in asked]})
        if what == "tree":
            return self._tree(files, below)
        if what == "paths-info":
            return self._paths(files)
        return self._commit(key, repo, revision, files)

    def _tree(self, files: dict[str, File], below: str) -> None:
        prefix = f"{below.rstrip('/')}/" if below else ""
        found = [_entry(path, f) for path, f in files.items() if path.startswith(prefix)]
        if below and not found:
            return self._fail(404, "EntryNotFound", "Entry not found")
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            by_name: dict[str, Any] = {}
            for entry in found:
                first, slash, _ = entry["path"][len(prefix) :].partition("/")
                folder = {"type": "directory", "path": prefix + first, "oid": "0" * 40, "size": 0}
                by_name[prefix + first] = folder if slash else entry
            found = list(by_name.values())
        return self._send(200, found)

    def _paths(self, files: dict[str, File]) -> None:
        asked = (
            json.loads(self.raw)["paths"]
            if self.raw[:1] == b"{"
            else parse_qs(self.raw.decode()).get("paths", [])
        )
        found = [_entry(path, files[path]) for path in asked if path in files]
        found += [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in asked
            if path not in files and any(f.startswith(path.rstrip("/") + "/") for f in files)
        ]
        self._send(200, found)

    def _commit(self, key: Key, repo: Repo, revision: str, files: dict[str, File]) -> None:
        files = dict(files)
        for line in self.raw.splitlines():
            if not line.strip():
                continue
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit") not in (
                None,
                repo.refs[revision],
            ):
                return self._send(412, {"error": "A commit has happened since"})
            if entry["key"] == "file":
                files[value["path"]] = File.of(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                oid = value["oid"]
                files[value["path"]] = File(self.server.lfs[oid], oid, True)
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = repo.commit(revision, files)
        prefix = "" if key[0] == "model" else f"{key[0]}s/"
        address = f"{self.server.url}/{prefix}{key[1]}/commit/{oid}"
        done = {"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": ""}
        return self._send(200, done)

    def _resolve(self, found: dict[str, str]) -> None:
        repo = self.server.repos.get((found["kind"] or "model", found["name"]))
        if repo is None:
            return self._fail(404, "RepoNotFound", "Repository not found")
        at = repo.at(found["rev"])
        if at is None:
            return self._fail(404, "RevisionNotFound", "Revision not found")
        oid, files = at
        file = files.get(found["path"])
        if file is None:
            head = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid}
            return self._send(404, b"Entry not found", head)
        head = {"X-Repo-Commit": oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            head |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        data, code = file.data, 200
        if part := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
            head["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, code = data[first : last + 1], 206
        return self._send(code, data, head)


def _entry(path: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
    if file.lfs:
        lfs = {"oid": file.oid, "size": len(file.data), "pointerSize": 134}
        entry |= {"oid": hashlib.sha1(file.oid.encode()).hexdigest(), "lfs": lfs}
    return entry


def _mode(asked: dict[str, Any], files: dict[str, File]) -> dict[str, Any]:
    there = files.get(asked["path"])
    return {
        "path": asked["path"],
        "uploadMode": "lfs" if asked["path"].endswith(_LFS) else "regular",
        "shouldIgnore": False,
        "oid": None if there is None else there.oid,
    }


def _info(key: Key, oid: str, files: dict[str, File], private: bool) -> dict[str, Any]:
    return {
        "_id": "0" * 24,
        "id": key[1],
        "modelId": key[1],
        "author": key[1].split("/")[0],
        "sha": oid,
        "lastModified": _NOW,
        "createdAt": _NOW,
        "private": private,
        "disabled": False,
        "gated": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path, "size": len(f.data)} for path, f in files.items()],
        "usedStorage": 0,
    }
