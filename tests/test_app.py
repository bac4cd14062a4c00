"""The app without a browser: uploads, answers with the reference weights, the server."""

import asyncio
import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely
import tifffile
import torch
from PIL import Image

import heph_vl
from heph_vl import cli, serving
from heph_vl.caption import fact_in_words
from heph_vl.data import captions
from heph_vl.data.geotiff import Georeference, geotiff_tags
from heph_vl.data.phase import read_interferogram
from heph_vl.data.picture import read_picture
from heph_vl.errors import HephError
from heph_vl.gallery import Gallery
from heph_vl.hub import model_folder
from heph_vl.index_rows import COLUMNS
from heph_vl.once import Once, models_of
from heph_vl.search import build_index
from heph_vl.serving import CALM, wanted
from heph_vl.simulate.stream import SimulatedPatches, StreamConfig
from heph_vl.uploads import MAX_PIXELS, read_upload, take_upload
from heph_vl.where import parse_where
from tests.licsar import bowl, write_pair

KINDS = ("retriever", "captioner", "heads", "generator")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six simulated patches with their coherence, under LiCSAR's names."""
    folder = tmp_path_factory.mktemp("images")
    patches = SimulatedPatches(StreamConfig(seed=3, split="test", pairs_per_place=3))
    for number in range(6):
        drawn = patches.draw(number)
        name = f"2018010{number + 1}_20180113.geo"
        Image.fromarray(drawn.image).save(folder / f"{name}.diff.png")
        Image.fromarray(drawn.coherence).save(folder / f"{name}.cc.png")
    return folder


@pytest.fixture(scope="module")
def models(images, tmp_path_factory):
    """The reference weights, and an index of the patches."""
    index = tmp_path_factory.mktemp("index") / "index"
    build_index(images, index, model_folder(None, "retriever"))
    folders = {kind: model_folder(None, kind) for kind in KINDS}
    return models_of(folders, Gallery(images), index, print)


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def png(*, width=64, height=64, depth=8, kind=2, data=None):
    """A PNG whose header and data need not agree."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = zlib.compress(bytes(64 * (1 + 3 * 64))) if data is None else data
    parts = chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def photo(kind):
    rows, columns = np.mgrid[:120, :160]
    rgb = np.stack([rows, columns, (rows * columns) % 200], axis=-1).astype(np.uint8)
    found = io.BytesIO()
    Image.fromarray(rgb).save(found, kind)
    return found.getvalue()


def zipped():
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(10_000_000))
    return found.getvalue()


BAD = {
    "a PDF": (b"%PDF-1.7\n%%EOF\n", "neither PNG nor TIFF"),
    "nothing": (b"", "empty file"),
    "a zip bomb": (zipped(), "neither PNG nor TIFF"),
    "a JPEG": (photo("JPEG"), "neither PNG nor TIFF"),
    "a photo": (photo("PNG"), "colours of no LiCSAR palette"),
    "enormous by its header": (png(width=200_000, height=200_000), "the limit is 16 million"),
    "cut in its header": (png()[:20], "header is cut"),
    "cut": (png()[:60], "cut or damaged"),
    "a cut TIFF": (b"II*\x00\x08\x00", "not a readable TIFF"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_one_line(name, tmp_path, work):
    content, line = BAD[name]
    upload = tmp_path / "upload.png"
    upload.write_bytes(content)
    with pytest.raises(HephError, match=line) as error:
        read_upload(work, str(upload), None)
    assert "\n" not in str(error.value)


def test_nothing_chosen(work):
    with pytest.raises(HephError, match="there is no interferogram"):
        read_upload(work, None, None)


def test_a_tiff_with_too_many_pixels_is_not_unpacked(tmp_path, work):
    path = tmp_path / "large.tif"
    side = int(MAX_PIXELS**0.5) + 1
    tifffile.imwrite(path, np.zeros((side, side), np.float32), compression="zlib")
    assert path.stat().st_size < 1_000_000
    with pytest.raises(HephError, match=f"{side} x {side} px"):
        read_upload(work, str(path), None)


def inflated():
    """Data that unpacks to 400 MB."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(400)) + packer.flush()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_what_unpacks_to_more_than_its_header_says_stays_small(kind, tmp_path, work):
    path = tmp_path / "bomb"
    if kind == "PNG":
        path.write_bytes(png(data=inflated()))
    else:
        tifffile.imwrite(path, np.zeros((64, 64), np.float32))
        with tifffile.TiffFile(path) as file:
            tags = file.pages.first.tags
            places = {tag.name: (tag.offset, tag.valueoffset) for tag in tags.values()}
        content, data = bytearray(path.read_bytes()), inflated()
        for name, value in (
            ("Compression", 8),
            ("StripOffsets", len(content)),
            ("StripByteCounts", len(data)),
        ):
            at = places[name][0]
            struct.pack_into(
                "<HHII", content, at, *struct.unpack_from("<H", content, at), 4, 1, value
            )
        path.write_bytes(content + data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HephError):
        read_upload(work, str(path), None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_nan_is_no_data(tmp_path, work):
    phase = write_pair(tmp_path / "frame", "20180101_20180113", bowl(4))
    values = tifffile.imread(phase)
    values[:60] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", values)
    picture = read_upload(work, str(tmp_path / "nan.tif"), None)
    assert picture.valid.shape == (320, 320)
    assert not picture.valid[:60].any()
    assert picture.valid[60:, 20:].mean() > 0.99
    assert np.isfinite(picture.channels).all()
    tifffile.imwrite(tmp_path / "nan.tif", np.full_like(values, np.nan))
    with pytest.raises(HephError, match="no valid phase"):
        read_upload(work, str(tmp_path / "nan.tif"), None)


def test_a_name_is_not_used_but_for_its_dates(images, tmp_path, work):
    some = next(images.glob("*.diff.png")).read_bytes()
    for name, stem in (
        ("..%2f..%2fevil.png", "interferogram"),
        ("..\\..\\evil.tif", "interferogram"),
        ("x'; DROP <b>20180101_20180113<b>.exe", "20180101_20180113"),
        ("220180101_20180113.png", "interferogram"),
    ):
        (tmp_path / name).write_bytes(some)
        found = take_upload(work, str(tmp_path / name), None)
        assert found == work / f"{stem}.geo.diff.png"
        assert found.read_bytes() == some


def test_coherence_comes_beside_its_phase(images, tmp_path, work):
    phase = sorted(images.glob("*.diff.png"))[0]
    coherence = phase.with_name(phase.name.replace("diff", "cc"))
    picture = read_upload(work, str(phase), str(coherence))
    assert picture.measured
    np.testing.assert_array_equal(picture.channels, read_picture(phase).channels)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert not read_upload(alone, str(phase), None).measured
    tiff = write_pair(tmp_path / "frame", "20180101_20180113", bowl(4))
    with pytest.raises(HephError, match="another format"):
        read_upload(work, str(phase), str(tiff))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(HephError, match="beside an interferogram"):
        read_upload(work, str(phase), str(tmp_path / "small.png"))


def test_filters_become_one():
    table = pa.table(
        {
            "activity_types": [["sill"], ["mogi"], [], ["sill"]],
            "label": [["Deformation"], ["Deformation"], ["Non_Deformation"], ["Deformation"]],
            "frame_id": ["a", "o'b", "a", "a"],
            "primary_date": ["2017-01-01", "2018-01-01", "2019-01-01", "2016-01-01"],
            "secondary_date": ["2017-02-01", "2018-02-01", "2019-02-01", "2016-02-01"],
            "low_coherence": [False, False, False, True],
        }
    )

    def passing(*fields):
        return np.flatnonzero(parse_where(wanted(*fields), COLUMNS).mask(table)).tolist()

    assert wanted(None, None, None, "  ", "") is None
    assert passing(["sill"], "", "", "", "") == [0, 3]
    assert passing(["sill", CALM], "", "", "", "") == [0, 2, 3]
    assert passing([], "o'b", "", "", "") == [1]
    assert passing([], "", "2017", "2018-12-31", "") == [0, 1]
    assert passing(["sill"], "", "", "", "low_coherence = TRUE OR frame_id = 'x'") == [3]
    with pytest.raises(HephError):
        passing([], "", "", "", "1 = 1) OR (frame_id = 'a'")


def test_search(models, images, work, tmp_path):
    asked = "A sill on the left. Flummery."
    pictures, rows, notes = serving.search(
        models, work, asked, None, None, [], "", "", "", "", 4, True
    )
    assert len(pictures) == len(rows) == 4
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert f"Read as: {captions.compose(captions.parse('A sill on the left.'))}" in notes
    assert "Not understood: flummery" in notes
    assert "No heat map" not in notes
    phase = sorted(images.glob("*.diff.png"))[2]
    coherence = phase.with_name(phase.name.replace("diff", "cc"))
    _, rows, notes = serving.search(
        models, work, "", str(phase), str(coherence), None, None, None, None, None, 2, False
    )
    assert rows[0][2] == phase.name  # itself
    assert float(rows[0][1]) == pytest.approx(1, abs=1e-3)
    assert notes == ""
    filters = ["", "2030", "", ""]
    found = serving.search(models, work, "sill", None, None, [], *filters, 4, False)
    assert found == ([], [], found[2])
    assert "Nothing passes" in found[2]
    for bad, line in (({"text": "x" * 1001}, "1001 characters"), ({"text": None}, "neither text")):
        with pytest.raises(HephError, match=line):
            serving.search(models, work, bad["text"], None, None, [], *[""] * 4, 4, False)
    for number in (0, 51, None, "4"):
        with pytest.raises(HephError, match="number of results"):
            serving.search(models, work, "sill", None, None, [], *[""] * 4, number, False)


def test_detect(models, images, tmp_path, work):
    """A spheroid that swells, whose GeoTIFF says that it lies at Etna."""
    preview = sorted(images.glob("*.diff.png"))[0]
    decoded = read_interferogram(preview)
    radians = np.where(decoded.valid, decoded.wrapped_phase, np.nan)
    tags = geotiff_tags(Georeference(14.7, 38.0, 1 / 300), float("nan"))
    phase = tmp_path / "20180101_20180113.tif"
    tifffile.imwrite(phase, radians, extratags=tags)
    with Image.open(preview.with_name(preview.name.replace("diff", "cc"))) as grey:
        tifffile.imwrite(tmp_path / "cc.tif", np.asarray(grey), extratags=tags)
    overlay, summary, labels, outlines, files = serving.detect(
        models, work, str(phase), str(tmp_path / "cc.tif")
    )
    assert overlay.size == (2 * 224, 2 * (224 + 34))
    assert summary.startswith("Deformation")
    assert "measured" in summary
    shares = {(group, label): float(p) for group, label, p in labels}
    assert len(shares) == 6 + 3 + 3 + 4 + 7
    air = [p for (group, _), p in shares.items() if group == "atmosphere"]
    assert sum(air) == pytest.approx(1, abs=0.03)
    mask, outlined = map(Path, files)
    with Image.open(mask) as picture:
        deforming = np.asarray(picture) > 0
    assert deforming.shape == (224, 224)
    found = json.loads(outlined.read_text())["features"]
    assert len(found) == len(outlines) > 0
    row, column = np.argwhere(deforming).mean(axis=0)
    middle = shapely.geometry.shape(found[0]["geometry"]).centroid
    assert middle.x == pytest.approx(14.7 + column / 300, abs=0.05)
    assert middle.y == pytest.approx(38.0 - row / 300, abs=0.05)
    assert "cm" in outlines[0][2]
    assert "Etna" in outlines[0][3]
    assert found[0]["properties"]["primary_date"] == "2018-01-01"


def test_caption(models, images, work):
    phase = sorted(images.glob("*.diff.png"))[1]
    text, facts, drawn, notes = serving.caption(models, work, str(phase), None)
    told = captions.parse(text).atoms()
    assert {fact for fact, _ in facts} == {fact_in_words(atom) for atom in told}
    assert all(0 <= float(p) <= 1 for _, p in facts)
    assert "estimated" in notes
    with Image.open(drawn) as picture:
        assert picture.width > 416


def test_facts_in_words():
    assert fact_in_words(("deformation", "2", "at", "top-left")) == "pattern 2: at top-left"
    assert fact_in_words(("no_deformation",)) == "no deformation"


def test_generate(models, work):
    pictures, notes = serving.generate(models, work, "Mogi. Flummery.", 2, 7, 4, None, "new")
    assert "Not understood: flummery" in notes
    assert [line for _, line in pictures] == [f"{i}: generated, not an observation" for i in (1, 2)]
    first = [Path(path).read_bytes() for path, _ in pictures]
    assert first[0] != first[1]
    again = serving.generate(models, work, "Mogi. Flummery.", 2, 7, 4, None, "new")[0]
    assert [Path(path).read_bytes() for path, _ in again] == first
    for change in ({"prompt": "x" * 1001}, {"number": 9}, {"number": 0}, {"steps": 51}):
        asked = {"prompt": "", "number": 1, "seed": 0, "steps": 4} | change
        with pytest.raises(HephError, match=str(next(iter(change))).replace("prompt", "text")):
            serving.generate(models, work, *asked.values(), None, "new")
    for guidance in (-1, 8.5, float("nan"), "2"):
        with pytest.raises(HephError, match="guidance"):
            serving.generate(models, work, "", 1, 0, 4, guidance, "new")
    with pytest.raises(HephError, match="palette"):
        serving.generate(models, work, "", 1, 0, 4, None, "../../etc")


def test_a_model_is_loaded_once_and_asked_by_one_at_a_time():
    loaded, inside, most = [], [], []

    def load():
        time.sleep(0.05)
        loaded.append(torch.nn.Linear(1, 1))
        return loaded[-1]

    def question(model):
        inside.append(model)
        most.append(len(inside))
        time.sleep(0.01)
        inside.remove(model)
        return model

    once = Once(load, print)
    threads = [threading.Thread(target=once.ask, args=(question,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1
    assert most == [1] * 8


def test_a_full_gpu_is_told_once_and_left():
    told, asked = [], []

    def question(model):
        asked.append(model)
        if len(asked) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model.weight.device.type

    once = Once(lambda: torch.nn.Linear(1, 1), told.append)
    assert once.ask(question) == "cpu"
    assert once.ask(question) == "cpu"
    assert len(asked) == 3
    assert len(told) == 1
    assert "GPU" in told[0]


def test_a_taken_port_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.run(["app", "--port", str(port), "--no-browser"]) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"error: port {port}: another program uses it")
    assert "\n" not in line


@pytest.mark.parametrize("missing", ["gradio", "starlette.responses"])
def test_without_the_extra_it_says_how_to_get_it(missing, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("app", "app_guard"):
        monkeypatch.delitem(sys.modules, f"heph_vl.{name}", raising=False)
        monkeypatch.delattr(heph_vl, name, raising=False)
    assert cli.run(["app", "--port", str(free_port()), "--no-browser"]) == 1
    assert "in a clone of heph_vl: pip install -e '.[app]'" in capsys.readouterr().err


def test_errors_reach_the_page_escaped_and_without_paths(tmp_path):
    gr = pytest.importorskip("gradio")
    from heph_vl.app_guard import answered

    def fail(work, value):
        raise HephError(str(work / "a.png"), f"<img src=x onerror={value}>", "see")

    with pytest.raises(gr.Error) as error:
        next(answered(fail)(1))
    assert error.value.message == "a.png: &lt;img src=x onerror=1&gt;; see"
    with pytest.raises(gr.Error, match="unexpected ZeroDivisionError"):
        next(answered(lambda work: 1 / 0)())


@pytest.fixture(scope="module")
def address(models):
    pytest.importorskip("gradio")
    from heph_vl import app

    page = app.page(models)
    yield app.serve(page, host="127.0.0.1", port=free_port(), wait=False).rstrip("/")
    page.close()


def test_no_file_but_uploads_and_answers_is_served(address, tmp_path):
    import httpx

    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    here = Path(__file__)
    for path in (
        "/etc/passwd",
        "../../../../etc/passwd",
        "/tmp/../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        str(secret),
        str(here),
        os.path.relpath(here),
        "file:///etc/passwd",
    ):
        for route in ("/gradio_api/file=", "/file=", "/static/", "/assets/"):
            answer = httpx.get(f"{address}{route}{path}")
            assert answer.status_code in (403, 404), (route, path)
            assert "root:" not in answer.text


def test_nothing_is_fetched_from_the_web(address):
    import httpx

    for route in ("file=", "file%3D", "proxy="):
        for url in ("http://example.org/x.png", "HTTPS://example.org/x.png"):
            answer = httpx.get(f"{address}/gradio_api/{route}{url}")
            assert (answer.status_code, answer.text) == (403, "addresses are not fetched")


def ask(address, number, data):
    """What the page gets from its event of this number, or why it was refused."""
    import httpx

    body = {"data": data, "fn_index": number, "session_hash": "test", "trigger_id": None}
    joined = httpx.post(f"{address}/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    with httpx.stream(
        "GET", f"{address}/gradio_api/queue/data?session_hash=test", timeout=60
    ) as lines:
        for line in lines.iter_lines():
            if "process_completed" in line:
                return line
    raise AssertionError("no answer")


def test_a_request_cannot_name_files_of_this_machine(address, models):
    import httpx

    config = httpx.get(f"{address}/config").json()
    assert config["analytics_enabled"] is False
    detect = next(
        event["id"]
        for event in config["dependencies"]
        if len(event["inputs"]) == 2 and len(event["outputs"]) == 5
    )
    for path in ("/etc/passwd", "../../etc/passwd"):
        text = ask(address, detect, [an_upload(path), None])
        assert '"success":false' in text
        assert "error" in text
        assert "root:" not in text


def an_upload(path):
    """What stands for an upload in a request."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}


@pytest.fixture
def elsewhere(monkeypatch):
    """Address of another server, which gradio may ask, and the paths it was asked for."""
    processing = pytest.importorskip("gradio.processing_utils")
    # gradio keeps away from private networks, and this one is: it shall not be that which helps.
    monkeypatch.setattr(processing, "PUBLIC_HOSTNAME_WHITELIST", ["127.0.0.1"])
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_no_input_of_any_event_makes_it_fetch(address, elsewhere, tmp_path):
    import httpx
    from gradio import processing_utils

    other, asked = elsewhere
    # It can be asked: what follows is no accident.
    asyncio.run(processing_utils.async_ssrf_protected_download(f"{other}/seen", str(tmp_path)))
    assert asked == ["/seen"]
    events = httpx.get(f"{address}/config").json()["dependencies"]
    tried = 0
    for event in events:
        for i in range(len(event["inputs"])):
            upload = an_upload(f"{other}/{event['id']}/{i}")
            for value in (upload, [upload], {"value": upload}):
                data = [None] * len(event["inputs"])
                data[i] = value
                answer = ask(address, event["id"], data)
                assert asked == ["/seen"]
                assert answer == "addresses are not fetched"
                tried += 1
    assert tried >= 3 * (10 + 2 + 2 + 6)  # search, caption, detect, generate


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"data": [{"path": "https://example.org"}]}', 403),
        (b'{"data": [{"path": "HTTP://example.org"}]}', 403),
        ('{"data": [{"p\\u0061th": "http\\u003a//example.org"}]}'.encode("utf-16"), 403),
        (b'{"data": ' + b"[" * 100_000, 403),
        (b'{"data": "https://example.org", "url": "https://example.org"}', 422),
        (b'{"data": "' + b"x" * 2_000_000 + b'"}', 413),
        (b"{", 422),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_request_may_say(address, body, status):
    import httpx

    for route in ("queue/join", "run/search", "call/search", "component_server"):
        kind = {"Content-Type": "application/json"}
        answer = httpx.post(f"{address}/gradio_api/{route}", content=body, headers=kind)
        wanted = 400 if status == 422 and route == "component_server" else status
        if status != 422 or route == "queue/join":
            assert answer.status_code == wanted, route


CARD = """---
license: mit
model-index:
- name: x
---

# A card

See [that](https://example.org/a), [this](../x/README.md), [script](javascript:alert(1)), <https://example.org>.

<img src="https://example.org/1.png"> <p align=center>Centred</p> <b>bold</b> a < b

<script>fetch("https://example.org/2")</script>

<!-- a
comment -->

![one](https://example.org/3.png) ![two][r] ![r][] ![r] ![a [b]](<https://example.org/5.png>)

[r]: https://example.org/4.png

```mermaid
flowchart TD
    A@{ img: "https://example.org/6.png", label: "x" }
```

`<pair>` ${document.title = "taken"} {{value}}

| a | b |
|---|---|
| 1 | 2 |
"""


def test_a_card_shows_text_alone(tmp_path):
    pytest.importorskip("gradio")
    from heph_vl.app import _card

    (tmp_path / "README.md").write_text(CARD)
    shown = _card(tmp_path)
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags <= {"h1", "p", "a", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert re.findall(r'href="([^"]*)"', shown) == ["https://example.org/a", "https://example.org"]
    assert "license" not in shown
    for said in ("A card", "this", "Centred", "a &lt; b", "&lt;pair&gt;", "<td>2</td>"):
        assert said in shown
    for unsaid in ("fetch(", "comment", "model-index", "3.png", "4.png", "5.png"):
        assert unsaid not in shown


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ("---\nlicense: [\n---\nText", "Text"),
        ("\ufeff---\r\nlicense: mit\r\n--- \r\nText", "Text"),
        ("---\n---\nText\n---\n", "Text"),
        ("Text", "Text"),
    ],
)
def test_front_matter_is_not_shown(card, text, tmp_path):
    pytest.importorskip("gradio")
    from heph_vl.app import _card

    (tmp_path / "README.md").write_bytes(card.encode() + b"\xff")  # not UTF-8 either
    shown = re.sub("<[^>]*>", "", _card(tmp_path)).strip()
    assert shown.startswith(text)
    assert "license" not in shown


def test_a_large_upload_is_refused(address, tmp_path):
    import httpx

    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.write(png())
        file.truncate(500_000_000)  # sparse: takes no room
    with large.open("rb") as file:
        try:
            answer = httpx.post(f"{address}/gradio_api/upload", files={"files": file}, timeout=60)
        except httpx.WriteError:  # it hung up before all was sent
            return
    assert answer.status_code == 413


@pytest.mark.slow
def test_programs_that_start_together_make_one_gallery(tmp_path):
    (tmp_path / "heph_vl").mkdir()
    code = (
        "from heph_vl import gallery, hub\n"
        "if __name__ == '__main__':\n"
        "    gallery.NUMBER = 6\n"
        "    made = gallery.gallery(hub.model_folder(None, 'retriever'), announce=print)\n"
        "    print(made.folder, len(made.examples()), sep='|')\n"
    )
    script = tmp_path / "start.py"
    script.write_text(code)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen(
            [sys.executable, script], env=environment, stdout=-1, text=True, cwd=cli_root()
        )
        for _ in range(2)
    ]
    said = [program.communicate(timeout=600)[0].strip().splitlines() for program in started]
    assert [program.returncode for program in started] == [0, 0]
    assert sorted(map(len, said)) == [1, 2]  # one told that it simulates
    assert said[0][-1] == said[1][-1]
    folder, examples = said[0][-1].split("|")
    assert int(examples) > 0
    assert {path.name for path in (tmp_path / "heph_vl").iterdir()} == {
        Path(folder).name,
        "gallery.lock",
    }


def cli_root():
    return Path(cli.__file__).parent.parent
