"""`heph-vl caption` on files: entries, tables, pictures of where sentences come from, errors."""

import inspect
import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from heph_vl import cli
from heph_vl.caption import NUM_SAMPLES, caption_files, caption_rows, look_at_rows
from heph_vl.commands.caption import caption as caption_command
from heph_vl.data import captions
from heph_vl.data.parquet import load, write_parquet
from heph_vl.data.picture import read_picture
from heph_vl.errors import HephError
from heph_vl.models.captioner import Captioner
from heph_vl.models.text import train_tokenizer
from tests import tiny_captioner
from tests.data.fake_archive import draw_pair, write_fake_archive

TEXTS = [
    "A sill of high intensity on the left. Noise.",
    "No deformation. Noise on the left.",
]
KEYS = ["image", "caption", "facts", "fact_confidence", "deformation"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A captioner that says two texts whatever it sees, and images of all kinds."""
    root = tmp_path_factory.mktemp("caption")
    tokenizer = train_tokenizer(TEXTS, root / "tokenizer", 320)
    model = tiny_captioner.make(tokenizer, context_length=32)
    tiny_captioner.teach(model, TEXTS).save_pretrained(root / "model")
    images = root / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("frame", (310, 250)), ("patch", (224, 224))):
        draw_pair(*size, [], rng)[0].save(images / f"{name}.png", transparency=255)
    rows, columns = np.mgrid[:120, :90]
    phase = np.angle(np.exp(1j * (0.05 * rows + 0.03 * columns))).astype(np.float32)
    tags = [(33550, "d", 3, (1 / 600, 1 / 600, 0.0), True)]
    tags.append((33922, "d", 6, (0, 0, 0, 15, 40, 0), True))
    tifffile.imwrite(images / "20180101_20180113.geo.diff_pha.tif", phase, extratags=tags)
    np.save(images / "radians.npy", phase)
    return root


@pytest.fixture
def files(place):
    names = ("20180101_20180113.geo.diff_pha.tif", "frame.png", "patch.png", "radians.npy")
    return [place / "images" / name for name in names]


def caption(capsys, *words):
    code = cli.run(["caption", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def grey(folder):
    path = folder / "grey.png"
    Image.fromarray(np.full((50, 50), 90, np.uint8)).save(path)
    return path


def test_json_entries_follow_the_contract(place, files, capsys):
    words = ("--model", place / "model", "--samples", "8", "--json")
    code, stdout, _ = caption(capsys, place / "images", *words)
    assert code == 0
    entries = json.loads(stdout)
    assert [entry["image"] for entry in entries] == [str(path) for path in files]
    for entry in entries:
        assert list(entry) == KEYS
        told = [tuple(atom) for atom in entry["facts"]]
        assert told == sorted(captions.parse(entry["caption"]).atoms())
        assert len(entry["fact_confidence"]) == len(told) > 0
        # The atoms' shares of eight samples.
        for p in (entry["deformation"], *entry["fact_confidence"]):
            assert 0 <= p <= 1
            assert (8 * p) % 1 == 0
        assert entry["caption"][0].isupper()
    assert {entry["caption"] for entry in entries} <= set(TEXTS)
    code, again, _ = caption(capsys, *files, *words)
    assert json.loads(again) == entries


@pytest.mark.parametrize("beams", [0, 2])
def test_entries_are_the_captioners_answers(place, files, capsys, beams):
    model = Captioner.from_pretrained(place / "model")
    words = ("--model", place / "model", "--samples", "5", "--beams", beams, "--json")
    _, stdout, _ = caption(capsys, *files, *words)
    for path, entry in zip(files, json.loads(stdout), strict=True):
        picture = read_picture(path)
        pixels, valid = torch.from_numpy(picture.channels), torch.from_numpy(picture.valid)
        memories = model.look_often(pixels[None], valid[None])
        (answer,) = model.answer(memories, num_samples=5, num_beams=beams)
        told = zip(entry["facts"], entry["fact_confidence"], strict=True)
        assert {tuple(atom): p for atom, p in told} == answer.confidence
        assert (entry["caption"], entry["deformation"]) == (answer.text, answer.deformation)


def test_the_threshold_of_the_model_decides(place, files, capsys, tmp_path):
    model = Captioner.from_pretrained(place / "model")
    # Both texts come up among 64 samples: at 0 a deformation is told, at 1 none.
    for threshold, text in ((0.0, TEXTS[0]), (1.0, TEXTS[1])):
        model.threshold = threshold
        model.save_pretrained(tmp_path / str(threshold))
        words = ("--model", tmp_path / str(threshold), "--samples", "64", "--json")
        _, stdout, _ = caption(capsys, files[2], *words)
        (entry,) = json.loads(stdout)
        assert entry["caption"] == text
        assert 0.2 < entry["deformation"] < 0.8
        atom = ["deformation", "1", "sill"] if threshold == 0 else ["no_deformation"]
        assert atom in entry["facts"]


def test_a_file_is_said_the_same_of_as_a_row_of_a_dataset(place, tmp_path, capsys):
    write_fake_archive(tmp_path / "archive", n=5, size=64)
    write_parquet(tmp_path / "archive", tmp_path / "dataset")
    rows = load(tmp_path / "dataset", "test")
    model = Captioner.from_pretrained(place / "model").train()
    done = []
    found = caption_rows(model, rows, num_samples=4, progress=lambda *count: done.append(count))
    assert done == [(1, 1)]
    assert model.training
    assert found.positions == [0]
    (path,) = (tmp_path / "archive" / rows[0]["frame_id"]).rglob("*.geo.diff.png")
    words = ("--model", place / "model", "--samples", "4", "--json")
    _, stdout, _ = caption(capsys, path, *words)
    (entry,) = json.loads(stdout)
    (answer,) = found.answers
    assert (entry["caption"], entry["deformation"]) == (answer.text, answer.deformation)
    # What the encoder saw is the same without a word.
    positions, seen = look_at_rows(model, rows, progress=lambda done, total: None)
    assert positions == [0]
    np.testing.assert_array_equal(seen, found.pooled)
    assert seen.shape == (1, tiny_captioner.CONFIG.encoder.dim)


def test_the_table_lists_captions_and_what_is_not_sure(place, files, capsys, tmp_path):
    model = Captioner.from_pretrained(place / "model")
    tiny_captioner.teach(model, [TEXTS[0], TEXTS[1], TEXTS[1]])
    model.threshold = 0.0  # tells the deformation of a third of the samples
    model.save_pretrained(tmp_path)
    words = ("--model", tmp_path, "--samples", "64")
    _, stdout, _ = caption(capsys, files[2], *words, "--json")
    (entry,) = json.loads(stdout)
    assert entry["caption"] == TEXTS[0]
    told = {
        " ".join(atom).removeprefix("deformation 1 "): p
        for atom, p in zip(entry["facts"], entry["fact_confidence"], strict=True)
    }
    assert {atom for atom, p in told.items() if p < 0.5} == {"sill", "intensity high", "at left"}
    assert told["noise"] > 0.9
    code, stdout, err = caption(capsys, files[2], *words)
    assert code == 0
    assert err == ""
    rows = [line.split("\u2502")[1:-1] for line in stdout.splitlines() if line[0] == "\u2502"]
    image, said, deformation, unsure = (
        " ".join(" ".join(cells).split()) for cells in zip(*rows, strict=True)
    )
    assert (image, said) == ("patch.png", TEXTS[0])
    assert deformation == f"{entry['deformation']:.2f}"
    shaky = [f"{atom} ({told[atom]:.2f})" for atom in ("at left", "intensity high", "sill")]
    assert unsure == ", ".join(shaky)


def test_broken_files_are_listed_and_others_answered(place, files, capsys, tmp_path):
    blank = tmp_path / "blank.npy"
    np.save(blank, np.full((40, 40), np.nan, np.float32))
    images = (files[1], grey(tmp_path), blank, tmp_path / "missing.png", files[3])
    words = ("--model", place / "model", "--samples", "2")
    code, stdout, err = caption(capsys, *images, *words, "--json")
    assert code == 1
    entries = json.loads(stdout)
    assert [list(entry) for entry in entries] == [KEYS, *[["image", "error"]] * 3, KEYS]
    assert [entry["image"] for entry in entries] == [str(path) for path in images]
    assert "grey" in entries[1]["error"]
    assert "no valid phase" in entries[2]["error"]
    assert "missing.png" in entries[3]["error"]
    assert "error" not in err
    code, stdout, err = caption(capsys, *images, *words)
    assert code == 1
    assert stdout.count("not read") == 3
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.removeprefix("error: ") for line in lines] == [
        entry["error"] for entry in entries[1:4]
    ]


def test_pictures_of_where_each_sentence_comes_from(place, files, capsys, tmp_path):
    why = tmp_path / "new" / "why"
    words = ("--model", place / "model", "--samples", "4", "--explain", why)
    images = (*files, grey(tmp_path))
    code, stdout, _ = caption(capsys, *images, *words, "--json")
    assert code == 1
    entries = json.loads(stdout)
    names = ["20180101_20180113", "frame", "patch", "radians"]
    assert {path.name for path in why.iterdir()} == {f"{name}.explain.png" for name in names}
    for name, entry in zip(names, entries, strict=False):
        assert list(entry) == [*KEYS, "explained"]
        assert entry["explained"] == str(why / f"{name}.explain.png")
        sentences = entry["caption"].count(".")
        assert sentences == 2
        page = Image.open(entry["explained"])
        page.load()
        assert page.width == (1 + sentences) * 416 + 16
    assert list(entries[4]) == ["image", "error"]
    # The same without pictures; in a table their paths are told.
    code, plain, _ = caption(capsys, *files, *words[:4], "--json")
    for entry, without in zip(entries, json.loads(plain), strict=False):
        assert {key: entry[key] for key in KEYS} == without
    code, stdout, err = caption(capsys, files[2], *words)
    assert code == 0
    assert f"written to {why / 'patch.explain.png'}" in err


def test_the_first_panel_is_the_image_in_its_colours(place, files, tmp_path):
    found = list(caption_files(files[2:3], place / "model", num_samples=1, explain=tmp_path))
    ((_, path),) = found
    page = np.asarray(Image.open(path)).astype(int)
    shown = Image.open(files[2]).convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    shown = Image.alpha_composite(white, shown).convert("RGB").resize((400, 400), 1)
    panel = page[36:436, 16:416]
    assert np.abs(panel - np.asarray(shown)).mean() < 3
    # The other panels are dimmer: nearer to white.
    for k in (1, 2):
        other = page[36:436, 16 + 416 * k : 416 + 416 * k]
        assert (255 - other).mean() < 0.9 * (255 - panel).mean()


def test_pictures_are_no_images_of_the_next_call(place, files, capsys, tmp_path):
    (tmp_path / "a.npy").write_bytes(files[3].read_bytes())
    words = ("--model", place / "model", "--samples", "1", "--explain", tmp_path, "--json")
    for _ in range(2):
        code, stdout, _ = caption(capsys, tmp_path, *words)
        assert code == 0
        assert [entry["image"] for entry in json.loads(stdout)] == [str(tmp_path / "a.npy")]


def test_wrong_models_folders_and_names(place, files, capsys, tmp_path):
    model = ("--model", place / "model")
    (tmp_path / "file").write_text("")
    twice = (files[1], files[1])
    cases = [
        ((files[1], "--model", tmp_path), "config.json"),
        ((tmp_path / "file" / "x", "--model", tmp_path / "no"), "no"),
        ((place / "tokenizer", *model), "holds no interferogram"),
        ((*twice, *model, "--explain", tmp_path / "o"), "two images are named frame"),
        ((files[1], *model, "--explain", tmp_path / "file"), "file"),
    ]
    for words, says in cases:
        code, stdout, err = caption(capsys, *words, "--json")
        assert code == 1
        assert stdout == ""
        assert len(err.strip().splitlines()) == 1
        assert says in err
    assert not (tmp_path / "o").exists()
    # Without pictures nothing would be overwritten.
    code, stdout, _ = caption(capsys, *twice, *model, "--samples", "1", "--json")
    assert code == 0
    assert len(json.loads(stdout)) == 2
    for option in (("--samples", "0"), ("--beams", "-1")):
        assert caption(capsys, files[1], *model, *option)[0] == 2


@pytest.mark.parametrize("size", [(5, 3), (63, 20), (224, 224), (500, 400)])
def test_images_of_any_size_are_answered(place, capsys, tmp_path, size):
    path = tmp_path / "some.npy"
    np.save(path, np.random.default_rng(0).uniform(-3, 3, size[::-1]).astype(np.float32))
    words = ("--model", place / "model", "--samples", "1", "--json", "--explain", tmp_path / "why")
    code, stdout, _ = caption(capsys, path, *words)
    assert code == 0
    (entry,) = json.loads(stdout)
    assert entry["caption"] in TEXTS
    assert Image.open(entry["explained"]).width > 0


def test_a_name_in_brackets_is_shown_as_it_is(place, files, capsys, tmp_path):
    path = tmp_path / "scene[b].npy"
    path.write_bytes(files[3].read_bytes())
    code, stdout, _ = caption(capsys, path, "--model", place / "model", "--samples", "1")
    assert code == 0
    assert path.name in stdout


def test_no_row_could_be_read(place):
    model = Captioner.from_pretrained(place / "model")
    rows = [{"unique_id": 7, "image": None}]
    with pytest.raises(HephError, match="none of 1 could be read, the first because no image"):
        caption_rows(model, rows)
    with pytest.raises(HephError, match="none of 1 could be read"):
        look_at_rows(model, rows, progress=lambda done, total: None)
    with pytest.raises(HephError, match="none of 0 could be read"):
        caption_rows(model, [])


def test_the_command_draws_as_many_as_the_threshold_was_fitted_with():
    default = inspect.signature(caption_command).parameters["samples"].default
    assert default == NUM_SAMPLES
