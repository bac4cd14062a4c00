"""Archives of generated pairs: what records say, what pictures carry, what the command tells."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from heph_vl import cli, generate
from heph_vl.data import captions, parquet
from heph_vl.data.archive import scan_archive
from heph_vl.data.phase import colour, decode_image
from heph_vl.errors import HephError
from heph_vl.generate import (
    Request,
    draw,
    generated_sheet,
    load_generator,
    velocity_error,
    write_archive,
    write_sheet,
)
from heph_vl.models.pipeline import NOTICE
from heph_vl.models.prediction import LabelCalibration
from tests import tiny_generator, tiny_heads
from tests.test_generated_records import THREE, box, seen
from tests.test_reconstruct import make_item

MOGI = "A mogi-type deformation of high intensity on the top-left side"
SIDE = 48


@pytest.fixture(scope="module")
def pipeline():
    found = tiny_generator.make()
    with torch.no_grad():  # coherent everywhere, so that there is data everywhere
        found.autoencoder.decoder.conv_out.bias[2] += 3
    return found


@pytest.fixture(scope="module")
def model(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    made = tiny_heads.make().eval()
    rare = LabelCalibration([1.0] * 7, [-9.0] * 7, [0.5] * 7)  # random heads see flags everywhere
    made.calibration = replace(made.calibration, quality=rare)
    made.save_pretrained(folder)
    return folder


def request(prompt, number=1, **changes):
    return Request(prompt, number, **({"steps": 1, "size": (SIDE, SIDE)} | changes))


def test_an_archive_is_read_like_any_other_and_all_of_it_trains(pipeline, tmp_path):
    out = tmp_path / "drawn"
    labels = seen(mask=THREE, air="both")
    found = write_archive(out, pipeline, request(MOGI, 3), model="weights/g", labels=labels)
    archive = scan_archive(out, strict=True)
    assert archive.source == "generated"
    assert [pair.annotation.unique_id for pair in archive.annotated] == [1, 2, 3]
    assert [pair.image for pair in archive.annotated] == [w.image for w in found]
    assert [w.why_not for w in found] == [None] * 3
    for pair in archive.annotated:
        assert [(e.type, e.intensity) for e in pair.annotation.events] == [("mogi", "high")]
        assert box(pair.annotation.events[0]) == [4, 4, 12, 12]
        assert pair.annotation.atmosphere == 3
    report = parquet.write_parquet(archive, tmp_path / "dataset", strict=True)
    assert report["source"] == "generated"
    assert report["problems"] == []
    counts = {split: count["pairs"] for split, count in report["splits"].items()}
    assert counts["train"] == 3
    assert sum(counts.values()) == 3
    rows = parquet.load(tmp_path / "dataset", "train", cache_dir=tmp_path / "cache")
    assert rows["caption"] == [w.caption for w in found]
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "generated, not observations" in card
    assert "- generated" in card
    assert "# Generated interferograms" in card
    assert "All images and labels are **simulated**" not in card


def test_pictures_without_heads_get_no_record(pipeline, tmp_path):
    (found,) = write_archive(tmp_path, pipeline, request(MOGI), model="m")
    assert (found.caption, found.why_not) == (None, "no heads read it")
    archive = scan_archive(tmp_path, strict=True)
    assert [pair.image for pair in archive.unlabeled] == [found.image]
    truth = json.loads((tmp_path / "truth" / "1.json").read_text())
    read_as = captions.compose(captions.parse(MOGI))
    assert truth == {"notice": NOTICE, "prompt": MOGI, "read_as": read_as}


def test_a_picture_that_heads_do_not_believe_gets_no_record(pipeline, tmp_path):
    labels = seen(0.1, mask=THREE)
    (found,) = write_archive(tmp_path, pipeline, request(MOGI), model="m", labels=labels)
    assert (found.caption, found.why_not) == (None, "the heads see no deformation")
    (found,) = write_archive(tmp_path, pipeline, request("noise"), model="m", labels=labels)
    assert (found.unique_id, found.why_not) == (2, None)
    archive = scan_archive(tmp_path, strict=True)
    assert [pair.annotation.unique_id for pair in archive.annotated] == [2]
    assert len(archive.unlabeled) == 1


def test_pictures_say_that_they_are_generated_and_show_what_was_drawn(
    pipeline, tmp_path, monkeypatch
):
    outs = []
    monkeypatch.setattr(
        generate, "draw", lambda *words: (outs.append(o) or o for o in draw(*words))
    )
    (found,) = write_archive(tmp_path, pipeline, request(MOGI, seed=3), model="m")
    (out,) = outs
    grey = found.image.with_name(found.image.name.replace("geo.diff", "geo.cc"))
    for path in (found.image, grey):
        assert Image.open(path).text == {"Description": NOTICE}
    decoded = decode_image(Image.open(found.image))
    good = decoded.valid & out.valid[0]
    assert good.mean() > 0.5
    error = np.abs(np.angle(np.exp(1j * (decoded.wrapped_phase - out.wrapped_phase[0]))))[good]
    assert np.median(error) < 0.2
    level = np.asarray(Image.open(grey).convert("L")) / 255
    np.testing.assert_allclose(level, out.coherence[0], atol=0.04)


def test_ids_go_on_with_other_pictures_and_requests_are_kept(pipeline, tmp_path):
    first = write_archive(tmp_path, pipeline, request("a sill", 2), model="one")
    more = write_archive(tmp_path, pipeline, request("a sill", 2), model="two")
    assert [w.unique_id for w in (*first, *more)] == [1, 2, 3, 4]
    assert len({w.image.read_bytes() for w in (*first, *more)}) == 4
    made = json.loads((tmp_path / "generation.json").read_text())
    assert made["notice"] == NOTICE
    told = [(r["prompt"], r["first"], r["number"], r["pixels"]) for r in made["requests"]]
    assert told == [("a sill", 1, 2, [SIDE, SIDE]), ("a sill", 3, 2, [SIDE, SIDE])]
    assert made["requests"][1]["read_as"] == "A sill-type deformation pattern can be detected."


def test_an_archive_has_pictures_of_one_size(pipeline, tmp_path):
    write_archive(tmp_path, pipeline, request("", size=None), model="m")
    write_archive(tmp_path, pipeline, request("", size=(16, 16)), model="m")
    with pytest.raises(HephError, match=r"it holds pictures of \[16, 16\] px, not \[16, 20\]"):
        write_archive(tmp_path, pipeline, request("", size=(16, 20)), model="m")
    assert len(scan_archive(tmp_path).pairs) == 2


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"requests": 5}', '{"requests": ["a"]}', '{"requests": [{"prompt": "a"}]}'],
)
def test_a_folder_with_something_else_is_refused(pipeline, tmp_path, content):
    (tmp_path / "photos").mkdir()
    with pytest.raises(HephError, match=f"{tmp_path}: the folder holds something else"):
        write_archive(tmp_path, pipeline, request(""), model="m")
    (tmp_path / "generation.json").write_text(content)
    with pytest.raises(HephError, match=r"generation\.json: it is broken; choose a new folder"):
        write_archive(tmp_path, pipeline, request(""), model="m")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "generation.json"}


def test_nothing_is_left_of_a_request_that_cannot_be_drawn(pipeline, tmp_path):
    with pytest.raises(HephError, match="size"):
        write_archive(tmp_path / "new", pipeline, request("", size=(17, 17)), model="m")
    assert not (tmp_path / "new").exists()


def test_many_images_are_drawn_some_at_a_time_and_none_twice(pipeline):
    told = []
    parts = list(draw(pipeline, request("", 18, steps=2, size=None), 4, lambda *d: told.append(d)))
    assert [len(part.images) for part in parts] == [16, 2]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    (again,) = draw(pipeline, request("", 16, steps=2, size=None), 4)
    assert np.array_equal(again.wrapped_phase, parts[0].wrapped_phase)
    one, other = (
        [phase.tobytes() for part in draw(pipeline, request("", 32, size=None), seed)
         for phase in part.wrapped_phase]
        for seed in (0, 1)
    )  # fmt: skip
    assert len({*one, *other}) == 64  # neighbouring seeds have no image in common either


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("quake, with TURBULENT mixing", None),
        ("a blue whale", "a blue whale"),
        ("  ", ""),
        ("a sill and a blue whale", "A sill-type deformation pattern can be detected."),
    ],
)
def test_a_prompt_reaches_the_model_in_the_words_of_captions(prompt, text):
    found = Request(prompt, 1).text
    if text is not None:
        assert found == text
    assert captions.parse(found) == captions.parse(prompt)


def test_real_heads_complete_records(pipeline, heads, tmp_path):
    from heph_vl.models.heads import Heads

    labels = Heads.from_pretrained(heads)
    found = write_archive(tmp_path, pipeline, request("", 2), model="m", labels=labels)
    archive = scan_archive(tmp_path, strict=True)
    recorded = [w for w in found if w.why_not is None]
    assert recorded
    assert [pair.annotation.caption for pair in archive.annotated] == [w.caption for w in recorded]
    for pair in archive.annotated:
        assert captions.parse(pair.annotation.caption).unexplained == ()


def test_the_sheet_of_an_archive_shows_its_pairs(pipeline, tmp_path):
    asked = request(MOGI, 2, size=(16, 16))
    found = write_archive(tmp_path, pipeline, asked, model="m")
    path = write_sheet(tmp_path, found, asked)
    assert path == tmp_path / "sheet_1.png"
    page = np.asarray(Image.open(path))
    for i, pair in enumerate(found):
        x = 8 + i * (64 + 8)
        shown = page[8 : 8 + 32 : 2, x : x + 64 : 2]
        picture = np.asarray(Image.open(pair.image).convert("RGB"))
        assert np.array_equal(shown[:, :16], picture)
        assert (np.ptp(shown[:, 16:].astype(int), axis=2) == 0).all()
    assert not scan_archive(tmp_path).problems


def frozen_batch(prediction, count=10):
    parts = tiny_generator.frozen(prediction=prediction)
    batch = tiny_generator.make_batch((tiny_generator.CAPTIONS * 2)[:count])
    return parts, batch | {"unique_id": torch.arange(count)}


@pytest.mark.parametrize("prediction", ["flow", "v"])
def test_the_velocity_error_is_that_of_the_velocity(prediction, monkeypatch):
    parts, batch = frozen_batch(prediction)
    wrong, times, prepare = 0.0, [], parts.prepare
    latents = []
    monkeypatch.setattr(parts, "prepare", lambda b: latents.append(prepare(b)) or latents[-1])

    def answer(model, z, time, texts):
        x = latents[-1]["latents"]
        assert torch.equal(texts["pooled"], latents[-1]["pooled"])
        times.append(time)
        if prediction == "flow":
            return (z - x) / (time / 1000)[:, None, None, None] + wrong
        a2 = parts.noising.alphas_cumprod[time][:, None, None, None]
        n = (z - a2.sqrt() * x) / (1 - a2).sqrt()
        return a2.sqrt() * n - (1 - a2).sqrt() * x + wrong

    monkeypatch.setattr(generate, "denoise", answer)
    state = torch.get_rng_state()
    assert velocity_error(None, batch, parts) == pytest.approx(0, abs=1e-6)
    wrong = 0.5
    assert velocity_error(None, batch, parts) == pytest.approx(0.25, rel=1e-2)
    assert torch.equal(torch.get_rng_state(), state)  # a resumed training goes on as if unmeasured
    # The same times each run, from nearly data to nearly noise.
    assert torch.equal(times[0], times[1])
    assert [int(t) for t in times[0][:8]] == [62, 187, 312, 437, 562, 687, 812, 937]


def test_the_velocity_error_of_many_crops_is_their_mean(monkeypatch):
    parts, batch = frozen_batch("flow", 18)  # more than go through at once
    offsets = []

    def answer(model, z, time, texts):
        offsets.append(len(z))
        return torch.zeros_like(z)

    monkeypatch.setattr(generate, "denoise", answer)
    x = parts.prepare({name: rows for name, rows in batch.items() if name != "unique_id"})
    generator = torch.Generator().manual_seed(0)
    noise = torch.cat([torch.randn(n, 4, 8, 8, generator=generator) for n in (16, 2)])
    expected = (noise - x["latents"]).square().mean()
    assert velocity_error(None, batch, parts) == pytest.approx(float(expected), rel=1e-4)
    assert offsets == [16, 2]


def test_the_sheet_of_a_training_shows_crops_above_what_is_drawn(pipeline, tmp_path):
    items = [make_item(i, side=16) | {"text": text} for i, text in enumerate([MOGI, ""])]
    generated_sheet(pipeline, items, tmp_path / "sheet.png", num_steps=2)
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    drawn = pipeline([MOGI, ""], num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    for i, item in enumerate(items):
        shown = page[8 : 8 + 64 : 2, 8 + i * 72 : 8 + i * 72 + 64 : 2]
        code = item["sample"].phase_code
        phase = np.angle(np.exp(1j * (code.astype(float) - 1) * 2 * np.pi / 255))
        given = colour(phase.astype(np.float32), code > 0)
        assert np.abs(shown[:16, :16].astype(int) - given).max() <= 2
        assert (shown[:16, 16:] == item["sample"].coherence[..., None]).all()
        assert np.array_equal(shown[16:, :16], colour(drawn.wrapped_phase[i], drawn.valid[i]))
        grey = (drawn.coherence[i] * 255).astype(np.uint8)
        assert (shown[16:, 16:] == grey[..., None]).all()


def run(capsys, *words):
    code = cli.run(["generate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_tells_what_was_read_and_written(model, tmp_path, capsys):
    out = tmp_path / "drawn"
    words = (f"{MOGI} of a blue whale", "--model", model, "--out", out, "-n", 2, "--steps", 2)
    code, stdout, _ = run(capsys, *words, "--size", 24, 32, "--no-records", "--json")
    assert code == 0
    told = json.loads(stdout)
    assert list(told) == ["out", "read_as", "not_understood", "images", "sheet"]
    assert told["out"] == str(out)
    assert told["read_as"] == captions.compose(captions.parse(MOGI))
    assert {"blue", "whale"} <= set(told["not_understood"])
    archive = scan_archive(out, strict=True)
    assert [entry["image"] for entry in told["images"]] == [str(p.image) for p in archive.pairs]
    assert [entry["unique_id"] for entry in told["images"]] == [1, 2]
    nothing = {"caption": None, "why_not": "no heads read it"}
    assert [{k: e[k] for k in nothing} for e in told["images"]] == [nothing] * 2
    assert Image.open(told["images"][0]["image"]).size == (32, 24)
    assert Image.open(told["sheet"]).width > 64


def test_the_command_says_what_it_did_and_adds_to_its_archive(model, heads, tmp_path, capsys):
    words = ("--model", model, "--out", tmp_path, "--steps", 1, "--size", 32, 32)
    code, stdout, err = run(capsys, "turbulent mixing, zebra", *words, "-n", 3, "--no-records")
    assert (code, stdout) == (0, "")
    assert "read as: Turbulent mixing effect can be detected." in err
    assert "not understood: zebra" in err
    assert "3 without a record: no heads read it" in err
    assert "3 generated pairs, not observations, written to" in err
    code, stdout, err = run(
        capsys, "", *words, "-n", 2, "--labels", heads, "--palette", "old", "--json"
    )
    assert code == 0
    told = json.loads(stdout)["images"]
    assert [entry["unique_id"] for entry in told] == [4, 5]
    archive = scan_archive(tmp_path)
    recorded = {pair.annotation.unique_id: pair.annotation.caption for pair in archive.annotated}
    assert recorded == {e["unique_id"]: e["caption"] for e in told if e["why_not"] is None}
    assert recorded
    assert decode_image(Image.open(told[0]["image"]), palette="old").palette == "old"


def test_the_same_seed_in_a_new_folder_draws_the_same(model, tmp_path, capsys):
    pictures = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6), ("d", 2**63 - 1)):
        words = ("--model", model, "--out", tmp_path / name, "-n", 1, "--steps", 2, "--seed", seed)
        assert run(capsys, "a sill", *words, "--no-records")[0] == 0
        (pair,) = scan_archive(tmp_path / name).pairs
        pictures.append(pair.image.read_bytes())
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--size", "17", "16"], "sides are multiples of 4 px", 1),
        (["--size", "2048", "16"], "up to 1024", 1),
        (["--records", "--labels", "nowhere"], "nowhere", 1),
        (["--guidance", "nan"], "guidance", 2),
        (["-n", "0"], "number", 2),
        (["--steps", "0"], "steps", 2),
        (["--steps", "1001"], "1001 steps", 1),
        (["--palette", "blue"], "palette", 2),
        (["--seed", "-1"], "seed", 2),
        (["--seed", str(2**63)], "seed", 2),
    ],
)
def test_bad_input_is_told(model, tmp_path, capsys, words, message, code):
    found, stdout, err = run(
        capsys,
        "a sill",
        "--model",
        model,
        "--out",
        tmp_path / "out",
        "-n",
        1,
        "--no-records",
        *words,
    )
    assert (found, stdout) == (code, "")
    assert message in err
    assert code == 2 or len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_wrong_folders_and_prompts_are_told(model, tmp_path, capsys):
    def told(prompt, folder, out):
        code, stdout, err = run(
            capsys, prompt, "--model", folder, "--out", out, "-n", 1, "--no-records"
        )
        assert (code, stdout, len(err.strip().splitlines())) == (1, "", 1)
        return err

    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    assert "no model_index.json" in told("a sill", tmp_path / "nowhere", tmp_path / "out")
    assert "it has 2001 characters; use at most 2000" in told("x" * 2001, model, tmp_path / "out")
    assert "holds something else" in told("a sill", model, tmp_path / "taken")
    assert str(tmp_path / "file") in told("a sill", model, tmp_path / "file")
    assert str(tmp_path / "file") in told("a sill", model, tmp_path / "file" / "below")
    shutil.copytree(model, tmp_path / "cut")
    weights = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:999])
    assert "not a saved generator" in told("a sill", tmp_path / "cut", tmp_path / "out")


def test_a_loaded_generator_draws_without_bars_of_its_own(model, capsys):
    load_generator(model)(num_inference_steps=1)
    assert capsys.readouterr().err == ""
