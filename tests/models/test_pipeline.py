"""The pipeline: text to an interferogram, its sampler, its pictures and its folder."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heph_vl.data.phase import decode_image, wrap
from heph_vl.errors import HephError
from heph_vl.models import pipeline as module
from heph_vl.models.autoencoder import Decoded
from heph_vl.models.pipeline import CaptionEncoder, InSARPipeline, draw_pictures
from heph_vl.models.text import TextTower, tokenize, train_tokenizer
from tests import tiny_generator
from tests.tiny_generator import CAPTIONS, TEXT

SAID = CAPTIONS[0]
SIZE = (16, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=["flow", "v"])
def pipeline(request: pytest.FixtureRequest) -> InSARPipeline:
    return tiny_generator.make(prediction=request.param)


@pytest.fixture(scope="module")
def flow() -> InSARPipeline:
    return tiny_generator.make()


def same(one: Any, other: Any) -> bool:
    pictures = zip(one.images, other.images, strict=True)
    return bool(
        np.array_equal(one.wrapped_phase, other.wrapped_phase)
        and np.array_equal(one.coherence, other.coherence)
        and all(a.tobytes() == b.tobytes() for a, b in pictures)
    )


def test_the_same_seed_gives_the_same_images(pipeline: InSARPipeline) -> None:
    one, again, other = (
        pipeline(SAID, num_inference_steps=3, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert same(one, again)
    assert not same(one, other)


def test_what_comes_out_has_its_shapes_and_ranges(pipeline: InSARPipeline) -> None:
    out = pipeline(
        [SAID, ""], num_images_per_prompt=2, num_inference_steps=2, generator=seeded(),
        height=20, width=32,
    )  # fmt: skip
    assert out.prompts == [SAID, SAID, "", ""]
    assert out.wrapped_phase.shape == out.coherence.shape == out.valid.shape == (4, 20, 32)
    assert (out.wrapped_phase.dtype, out.coherence.dtype) == (np.float32, np.float32)
    assert out.valid.dtype == np.bool_
    assert np.abs(out.wrapped_phase).max() <= np.float32(np.pi)
    assert out.coherence.min() >= 0
    assert out.coherence.max() <= 1
    assert not out.wrapped_phase[~out.valid].any()
    assert not out.coherence[~out.valid].any()
    assert [image.size for image in (*out.images, *out.coherence_images)] == [(32, 20)] * 8
    for level, grey in zip(out.coherence, out.coherence_images, strict=True):
        np.testing.assert_allclose(np.asarray(grey.convert("L")) / 255, level, atol=0.04)
    for valid, image in zip(out.valid, out.images, strict=True):
        assert np.array_equal(np.asarray(image.convert("RGBA"))[..., 3] > 0, valid)


class Spy:
    """`denoise` that keeps what it is called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any = None) -> None:
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        self.answer = answer or module.denoise
        monkeypatch.setattr(module, "denoise", self)

    def __call__(self, unet: Any, z: Tensor, time: Tensor, texts: Any) -> Tensor:
        self.calls.append((z, time, dict(texts)))
        return self.answer(unet, z, time, texts)


def test_guidance_1_asks_once_and_follows_the_text_alone(
    pipeline: InSARPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pipeline.read([SAID, ""])
    spy = Spy(monkeypatch)
    found = pipeline.sample(texts, SIZE, 3, 1.0, seeded())
    assert [len(z) for z, _, _ in spy.calls] == [2] * 3
    # By hand, of the plain prediction: Euler's equal steps of the flow, or DPM-Solver's own.
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    scheduler, euler = pipeline.scheduler, not hasattr(pipeline.scheduler, "alphas_cumprod")
    if not euler:
        scheduler.set_timesteps(3)
    for time in torch.tensor([1000.0, 2000 / 3, 1000 / 3]) if euler else scheduler.timesteps:
        with torch.no_grad():
            velocity = spy.answer(pipeline.unet, z, time, texts)
        step = scheduler.step
        z = z - velocity / 3 if euler else step(velocity, time, z, return_dict=False)[0]
    torch.testing.assert_close(found, z, rtol=0, atol=1e-5)


def test_guidance_goes_on_from_no_text_to_the_text(
    flow: InSARPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = flow.read([SAID, CAPTIONS[1]])
    empty = flow.read([""])["pooled"]
    told, untold = torch.randn(2, 1, 4, 8, 8, generator=seeded(1))

    def answer(unet: Any, z: Tensor, time: Tensor, texts: Any) -> Tensor:
        without = (texts["pooled"] == empty).all(1)[:, None, None, None]
        return torch.where(without, untold, told)

    spy = Spy(monkeypatch, answer)
    noise = torch.randn(2, 4, 8, 8, generator=seeded())
    for scale in (0.0, 1.0, 2.5):
        found = flow.sample(texts, SIZE, 1, scale, seeded())
        torch.testing.assert_close(found, noise - (untold + scale * (told - untold)))
    assert [len(z) for z, _, _ in spy.calls] == [4, 2, 4]
    seen = spy.calls[-1]
    assert torch.equal(seen[0][:2], seen[0][2:])
    assert seen[2]["state_mask"][2:].sum(1).tolist() == [1, 1]
    torch.testing.assert_close(seen[2]["states"][2:, :1], flow.read(["", ""])["states"])


def test_guidance_between_predictions_of_the_network(flow: InSARPipeline) -> None:
    texts, nothing = flow.read([SAID]), flow.read([""])
    noise = torch.randn(1, 4, 8, 8, generator=seeded())
    with torch.no_grad():
        told, untold = (
            module.denoise(flow.unet, noise, torch.tensor(1000.0), some)
            for some in (texts, nothing)
        )
    found = flow.sample(texts, SIZE, 1, 3.0, seeded())
    torch.testing.assert_close(found, noise - (3 * told - 2 * untold), rtol=0, atol=1e-4)
    assert (told - untold).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_sampler_arrives_where_an_exact_denoiser_points(
    pipeline: InSARPipeline, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 4, 8, 8, generator=seeded(5))

    def exact(unet: Any, z: Tensor, time: Tensor, texts: Any) -> Tensor:
        goal = x.repeat(len(z) // 2, 1, 1, 1)
        if not hasattr(pipeline.scheduler, "alphas_cumprod"):
            return (z - goal) / (time / 1000)  # n - x with z = (1 - s) x + s n
        a2 = pipeline.scheduler.alphas_cumprod[time.long()]
        a, s = a2.sqrt(), (1 - a2).sqrt()
        return a * (z - a * goal) / s - s * goal

    Spy(monkeypatch, exact)
    for guidance in (1.0, 2.0):
        found = pipeline.sample(pipeline.read(["", SAID]), SIZE, steps, guidance, seeded())
        torch.testing.assert_close(found, x, rtol=0, atol=1e-3)


def test_the_sampler_starts_in_pure_noise_and_tells_its_steps(
    pipeline: InSARPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, told = Spy(monkeypatch), []
    pipeline(num_inference_steps=4, generator=seeded(), callback=lambda *done: told.append(done))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    times = [float(time) for _, time, _ in spy.calls]
    assert times[0] >= 999
    assert times == sorted(times, reverse=True)
    first = spy.calls[0][0][:1]
    torch.testing.assert_close(first, torch.randn(1, 4, 8, 8, generator=seeded()))


def test_texts_are_read_as_in_training(flow: InSARPipeline) -> None:
    parts = tiny_generator.frozen()
    parts.text = flow.text_encoder.tower
    texts = [SAID, "", "a sill"]
    one = flow.read(texts)
    other = parts.read(**tokenize(flow.tokenizer, texts, TEXT.context_length))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_empty_prompt_is_the_default(flow: InSARPipeline) -> None:
    one = flow(num_inference_steps=2, generator=seeded())
    other = flow("", num_inference_steps=2, generator=seeded())
    assert same(one, other)
    assert one.prompts == [""]
    assert not same(one, flow(SAID, num_inference_steps=2, generator=seeded()))


def test_the_guidance_kept_with_it_is_used_if_none_is_named(flow: InSARPipeline) -> None:
    call = {"num_inference_steps": 2}
    one = flow(SAID, generator=seeded(), **call)
    assert same(one, flow(SAID, generator=seeded(), guidance_scale=2.0, **call))
    assert not same(one, flow(SAID, generator=seeded(), guidance_scale=1.0, **call))
    assert not same(one, flow(SAID, generator=seeded(), guidance_scale=0.0, **call))


def test_the_size_is_that_of_training_unless_given(flow: InSARPipeline) -> None:
    assert (flow.side, flow.multiple) == (16, 4)
    assert flow(num_inference_steps=1, generator=seeded()).valid.shape == (1, 16, 16)
    assert flow(num_inference_steps=1, generator=seeded(), height=40).valid.shape == (1, 40, 16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"height": 18}, r"size: an image of 16 x 18 px cannot be drawn; sides are multiples of 4 "
         r"px, up to 1024; it learnt 16"),
        ({"width": 0}, "an image of 0 x 16 px"),
        ({"width": -4}, "-4 x 16"),
        ({"height": 1028}, "16 x 1028"),
        ({"num_inference_steps": 0}, "1 images, 0 steps, guidance 2.0"),
        ({"num_inference_steps": 1001}, "1 images, 1001 steps, guidance 2.0"),
        ({"num_images_per_prompt": 0}, "0 images"),
        ({"prompt": []}, "0 images"),
        ({"guidance_scale": -1.0}, "guidance -1.0"),
        ({"guidance_scale": math.nan}, "guidance nan"),
        ({"guidance_scale": math.inf}, "guidance inf"),
        ({"palette": "blue"}, "palette: 'blue' is not known; use new or old"),
    ],
)  # fmt: skip
def test_impossible_wishes_are_told(
    flow: InSARPipeline, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(HephError, match=message):
        flow(**words)


def ramp(size: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fringes, no data in a corner, coherence low on the right."""
    rows, columns = np.mgrid[:size, :size]
    phase = wrap((0.09 * columns + 0.15 * rows).astype(np.float32))
    valid = (rows > 8) | (columns > 8)
    coherence = np.where(columns < size // 2, 0.9, 0.2).astype(np.float32)
    return phase * valid, valid, coherence * valid


@pytest.mark.parametrize("palette", ["new", "old"])
def test_pictures_hold_the_phase_and_the_coherence(palette: str) -> None:
    phase, valid, coherence = ramp()
    # Two at once: pictures are those of their own rows.
    (image, other), (grey, _) = draw_pictures(
        *(np.stack([field, flipped]) for field, flipped in
          ((phase, -phase), (valid, valid[::-1]), (coherence, coherence))), palette,
    )  # fmt: skip
    for picture, wanted, shown in ((image, phase, valid), (other, -phase, valid[::-1])):
        found = decode_image(picture, palette=palette)
        assert np.array_equal(np.asarray(picture.convert("RGBA"))[..., 3] > 0, shown)
        assert found.posterised
        good = found.valid & shown
        assert good.mean() > 0.9
        error = np.abs(np.angle(np.exp(1j * (found.wrapped_phase - wanted))))[good]
        assert np.median(error) < (0.15 if palette == "new" else 0.4)
    level = np.asarray(grey.convert("L")) / 255
    np.testing.assert_allclose(level[valid], coherence[valid], atol=0.04)
    colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) <= 256


def test_images_decode_to_the_phase_that_was_drawn(
    flow: InSARPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase, valid, coherence = ramp(64)
    sure = np.where(coherence > 0.5, 0.99, 0.0) * valid
    phasor = torch.from_numpy(sure * np.exp(1j * phase)).to(torch.complex64)
    told = (phasor, torch.from_numpy(coherence), torch.from_numpy(valid))
    monkeypatch.setattr(module, "decode", lambda *_: Decoded(*(t[None] for t in told)))
    out = flow.develop(torch.zeros(1, 4, 32, 32), ["a"], seeded())
    ground, grain = sure > 0.5, valid & (sure < 0.5)
    # The phase comes with a constant of its own.
    turn = np.exp(1j * (out.wrapped_phase[0] - phase))[ground].mean()
    assert np.abs(turn) > 0.95
    phase = np.angle(np.exp(1j * phase) * turn)
    error = np.abs(np.angle(np.exp(1j * (out.wrapped_phase[0] - phase))))
    assert error[ground].mean() < 0.2
    assert error[grain].mean() == pytest.approx(np.pi / 2, abs=0.15)  # no phase is open there
    assert np.array_equal(out.coherence[0], coherence)
    assert np.array_equal(out.valid[0], valid)
    assert not out.wrapped_phase[0][~valid].any()
    found = decode_image(out.images[0])
    good = ground & found.valid
    error = np.abs(np.angle(np.exp(1j * (found.wrapped_phase - phase))))
    assert good.sum() > 0.9 * ground.sum()
    assert np.median(error[good]) < 0.2
    # Grain is of the generator's seed.
    again, other = (flow.develop(torch.zeros(1, 4, 32, 32), ["a"], seeded(s)) for s in (0, 1))
    assert same(out, again)
    assert not same(out, other)


def test_each_image_is_turned_by_a_constant_from_the_whole_circle(
    flow: InSARPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 60
    phasor = torch.ones(count, 4, 4, dtype=torch.complex64)
    told = Decoded(phasor, torch.ones(count, 4, 4), torch.ones(count, 4, 4, dtype=torch.bool))
    monkeypatch.setattr(module, "decode", lambda *_: told)
    out = flow.develop(torch.zeros(count, 4, 2, 2), [""] * count, seeded())
    turns = np.exp(1j * out.wrapped_phase)
    means = turns.mean((1, 2))
    assert np.abs(means).min() > 0.99  # one constant for a whole image
    assert np.abs(means.mean()) < 0.3  # and for each its own, anywhere
    quarters = np.floor((np.angle(means) + np.pi) / (np.pi / 2)).astype(int).clip(0, 3)
    assert np.bincount(quarters, minlength=4).min() >= 6


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_generator.make(prediction="v").save_pretrained(folder)
    return folder


def test_a_saved_pipeline_draws_the_same(saved: Path) -> None:
    pipeline = tiny_generator.make(prediction="v")
    again = InSARPipeline.from_pretrained(str(saved))
    assert not any(part.training for part in (again.unet, again.autoencoder, again.text_encoder))
    call = {"num_inference_steps": 3, "height": 24}
    one, other = (p([SAID, ""], generator=seeded(), **call) for p in (pipeline, again))
    # Weights lie elsewhere in memory, which sums their products in another order.
    apart = np.angle(np.exp(1j * (one.wrapped_phase - other.wrapped_phase)))
    assert np.abs(apart).max() < 1e-3
    np.testing.assert_allclose(one.coherence, other.coherence, rtol=0, atol=1e-4)
    assert np.array_equal(one.valid, other.valid)
    for name in ("unet", "autoencoder", "text_encoder"):
        before, after = (getattr(p, name).state_dict() for p in (pipeline, again))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before), name
    third = InSARPipeline.from_pretrained(saved)
    assert same(other, third([SAID, ""], generator=seeded(), **call))
    assert len(again.config.text_sha256) == len(again.config.tokenizer_sha256) == 64
    assert again.config.guidance_scale == 2.0
    assert not list(saved.rglob("*.bin"))


def test_the_guidance_is_saved(tmp_path: Path) -> None:
    parts = tiny_generator.make()
    names = ("autoencoder", "unet", "scheduler", "text_encoder", "tokenizer")
    InSARPipeline(
        **{name: getattr(parts, name) for name in names}, guidance_scale=3.5
    ).save_pretrained(tmp_path)
    assert InSARPipeline.from_pretrained(tmp_path).config.guidance_scale == 3.5


def test_half_precision_halves_the_files_and_loads(saved: Path, tmp_path: Path) -> None:
    InSARPipeline.from_pretrained(saved).to(torch.float16).save_pretrained(tmp_path)
    whole, half = (
        sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        for folder in (saved, tmp_path)
    )
    assert 0.4 * whole < half < 0.62 * whole  # headers stay
    pipeline = InSARPipeline.from_pretrained(tmp_path)
    assert pipeline.unet.dtype == torch.float32
    call = {"num_inference_steps": 2, "guidance_scale": 1.0}
    texts = InSARPipeline.from_pretrained(saved).read([SAID])
    near = pipeline.read([SAID])
    torch.testing.assert_close(near["pooled"], texts["pooled"], rtol=0, atol=0.02)
    assert pipeline(SAID, generator=seeded(), **call).valid.shape == (1, 16, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_draws_in_half_precision(saved: Path, dtype: torch.dtype) -> None:
    pipeline = InSARPipeline.from_pretrained(saved).to(dtype)
    out = pipeline(SAID, num_inference_steps=2, generator=seeded())
    assert out.wrapped_phase.dtype == out.coherence.dtype == np.float32
    assert np.isfinite(out.wrapped_phase).all()


def test_a_tower_comes_around_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = TextTower(TEXT)
    encoder = CaptionEncoder.of(tower)
    assert encoder.tower is tower
    encoder.save_pretrained(str(tmp_path))
    again = CaptionEncoder.from_pretrained(str(tmp_path)).tower
    assert again.config == TEXT
    tokens = tokenize(tiny_generator.tokenizer(), [SAID, ""], TEXT.context_length)
    one, other = (t.eval().states(*tokens.values()) for t in (tower, again))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def foreign_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    train_tokenizer(["some other words", "of another model"], folder / "tokenizer", 300)


def foreign_tower(folder: Path) -> None:
    torch.manual_seed(99)
    CaptionEncoder.of(TextTower(TEXT)).save_pretrained(str(folder / "text_encoder"))


def cut(path: str) -> Any:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:1000])


def remove(path: str) -> Any:
    def change(folder: Path) -> None:
        there = folder / path
        shutil.rmtree(there) if there.is_dir() else there.unlink()

    return change


def rewrite(path: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        settings = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(settings | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("model_index.json"), "no saved generator: no model_index.json"),
        (remove("tokenizer"), "no tokenizer_config.json here"),
        (remove("tokenizer/tokenizer.json"), "no tokenizer.json here"),
        (remove("text_encoder"), "not a saved generator"),
        (remove("unet"), "not a saved generator"),
        (remove("scheduler"), "not a saved generator"),
        (remove("unet/diffusion_pytorch_model.safetensors"), "not a saved generator"),
        (cut("unet/diffusion_pytorch_model.safetensors"), "not a saved generator"),
        (cut("autoencoder/diffusion_pytorch_model.safetensors"), "not a saved generator"),
        (cut("text_encoder/diffusion_pytorch_model.safetensors"), "not a saved generator"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "it is broken"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "it is broken"),
        (lambda folder: (folder / "unet/config.json").write_text(""), "not a saved generator"),
        (foreign_tokenizer, "another model's tokenizer"),
        (foreign_tower, "its text tower is .*, it learnt with"),
        (rewrite("text_encoder/config.json", width=64), "not a saved generator"),
        (rewrite("unet/config.json", block_out_channels=[32, 64]), "not a saved generator"),
        (rewrite("model_index.json", unet=["diffusers", "Nothing"]), "not a saved generator"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(
    saved: Path, change: Any, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    change(folder)
    with pytest.raises(HephError, match=message) as caught:
        InSARPipeline.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(HephError, match="name a folder of a trained generator"):
        InSARPipeline.from_pretrained(tmp_path / "nowhere")
