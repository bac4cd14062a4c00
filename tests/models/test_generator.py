"""The denoiser and its losses: what is learnt, at which times, and which texts it sees."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from heph_vl.errors import HephError
from heph_vl.models import generator
from heph_vl.models.autoencoder import encode
from heph_vl.models.generator import (
    TRAIN_STEPS,
    GeneratorConfig,
    centred,
    denoise,
    flow_step,
    generator_loss,
    make_denoiser,
    make_scheduler,
    v_step,
    without,
)
from heph_vl.models.text import tokenize
from tests import tiny_generator
from tests.tiny_generator import TEXT, frozen, tokenizer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(*texts: str) -> dict[str, Tensor]:
    return tokenize(tokenizer(), texts, TEXT.context_length)


class Answers(nn.Module):
    """Stands for a denoiser: answers with `answer(noised, time)` and keeps what it was shown."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer, self.seen = answer, SimpleNamespace()

    def forward(self, noised: Tensor, time: Tensor, **texts: Any) -> tuple[Tensor]:
        self.seen = SimpleNamespace(noised=noised, time=time, **texts)
        return (self.answer(noised, time),)


def squares(time: Tensor) -> tuple[Tensor, Tensor]:
    """a^2 and s^2 of `v` at a time: the cosine schedule of Nichol and Dhariwal 2021, eq. 17."""

    def bar(t: Tensor) -> Tensor:
        return ((t / TRAIN_STEPS + 0.008) / 1.008 * torch.pi / 2).cos().square()

    steps = torch.arange(TRAIN_STEPS, dtype=torch.float64)
    betas = (1 - bar(steps + 1) / bar(steps)).clamp(max=0.999)
    a = (1 - betas).cumprod(0).float()[time]
    return a, 1 - a


def test_the_flow_goes_from_data_to_noise() -> None:
    x, n = noise(3, 4, 2, 2), noise(3, 4, 2, 2, seed=1)
    share = torch.tensor([0.0, 1.0, 0.3])
    z, time, velocity, weight = flow_step(x, n, share)
    assert torch.equal(z[0], x[0])
    assert torch.equal(z[1], n[1])
    torch.testing.assert_close(velocity, n - x)
    left = (1 - share)[:, None, None, None]
    torch.testing.assert_close(z + left * velocity, n)
    torch.testing.assert_close(time, share * 1000)
    assert torch.equal(weight, torch.ones(3))


def test_v_gives_back_latents_and_noise() -> None:
    parts = frozen(prediction="v")
    x, n = noise(4, 4, 2, 2), noise(4, 4, 2, 2, seed=1)
    time = torch.tensor([0, 300, 700, 999])
    z, velocity, _ = v_step(x, n, time, parts)
    a, s = (part.sqrt()[:, None, None, None] for part in squares(time))
    torch.testing.assert_close(a * z - s * velocity, x, rtol=0, atol=2e-4)
    torch.testing.assert_close(s * z + a * velocity, n, rtol=0, atol=2e-4)
    assert (z[0] - x[0]).abs().max() < 0.05  # time 0 is nearly data
    assert (z[3] - n[3]).abs().max() < 0.05


def test_min_snr_caps_times_with_little_noise() -> None:
    # Hang et al. 2023, section 3.4: min(SNR, gamma) / (SNR + 1) for a predicted velocity.
    time = torch.tensor([0, 100, 300, 500, 900])
    a, s = squares(time)
    for cap in (5.0, 0.5):
        parts = frozen(prediction="v", min_snr=cap)
        _, _, weight = v_step(*torch.zeros(2, 5, 4, 2, 2), time, parts)
        torch.testing.assert_close(weight, (a / s).clamp(max=cap) / (a / s + 1), rtol=1e-3, atol=0)
        uncapped = weight[a / s < cap]
        torch.testing.assert_close(uncapped, a[a / s < cap], rtol=1e-3, atol=0)
    assert weight[0] < weight[3]


def batch_of(count: int) -> dict[str, Tensor]:
    return tiny_generator.make_batch(tiny_generator.CAPTIONS[:count])


@pytest.mark.parametrize("prediction", ["flow", "v"])
def test_the_loss_is_0_for_the_true_velocity_and_weighted(
    prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = frozen(prediction=prediction, min_snr=0.5)
    batch = batch_of(6)
    x = encode(parts.autoencoder, centred(batch["pixel_values"]), batch["valid"])
    n = noise(*x.shape)
    monkeypatch.setattr(torch, "randn_like", lambda like: n)

    def true(z: Tensor, time: Tensor) -> Tensor:
        if prediction == "flow":
            return (z - x) / (time / 1000)[:, None, None, None]
        a, s = (part.sqrt()[:, None, None, None] for part in squares(time))
        return a * n - s * x

    model = Answers(true)
    assert generator_loss(model, batch, parts)[0].item() < 1e-6
    model = Answers(lambda z, time: true(z, time) + 1)
    loss, _ = generator_loss(model, batch, parts)
    weight = torch.ones(6)
    if prediction == "v":
        a, s = squares(model.seen.time)
        weight = (a / s).clamp(max=0.5) / (a / s + 1)
        assert weight.std() > 0.01
    assert loss.item() == pytest.approx(float(weight.mean()), rel=1e-3)


@pytest.mark.parametrize("prediction", ["flow", "v"])
def test_times_cover_what_the_sampler_visits(prediction: str) -> None:
    torch.manual_seed(0)
    parts = frozen(prediction=prediction)
    seen = {**parts.prepare(batch_of(1)), "latents": torch.zeros(2000, 4, 2, 2)}
    seen |= {name: seen[name].expand(2000, *seen[name].shape[1:])
             for name in ("states", "state_mask", "pooled")}  # fmt: skip
    model = Answers(lambda z, time: torch.zeros_like(z))
    generator_loss(model, seen, parts)
    time = model.seen.time.float()
    assert 0 <= time.min() < 60
    assert 940 < time.max() <= 1000
    assert time.mean() == pytest.approx(500, abs=25)
    # Logit-normal shares lie in the middle half for 72.8 %, even ones for 50 %.
    middle = ((time > 250) & (time < 750)).float().mean()
    assert float(middle) == pytest.approx(0.728 if prediction == "flow" else 0.5, abs=0.04)


def test_centred_images_have_a_mean_phase_of_0_and_are_else_unchanged() -> None:
    pixels = tiny_generator.make_images(3)["pixel_values"]
    found = centred(pixels)
    z, before = (torch.complex(p[:, 0], p[:, 1]) for p in (found, pixels))
    # Ground counts by the square of its coherence.
    mean = (z * pixels[:, 2].square()).sum((1, 2))
    torch.testing.assert_close(mean.imag, torch.zeros(3), rtol=0, atol=1e-3)
    assert (mean.real > 0).all()
    assert torch.equal(found[:, 2], pixels[:, 2])
    data = before.abs() > 0
    assert not z[~data].any()
    for one, other, where in zip(z, before, data, strict=True):  # turned as a whole
        turn = (one / other)[where]
        torch.testing.assert_close(turn, turn[:1].expand_as(turn), rtol=0, atol=1e-4)
        assert turn[0].abs() == pytest.approx(1, abs=1e-4)


def test_a_constant_phase_changes_nothing_that_is_learnt() -> None:
    pixels = tiny_generator.make_images(2)["pixel_values"]
    z = torch.complex(pixels[:, 0], pixels[:, 1]) * torch.polar(torch.ones(()), torch.tensor(2.0))
    moved = torch.stack([z.real, z.imag, pixels[:, 2]], dim=1)
    torch.testing.assert_close(centred(moved), centred(pixels), rtol=0, atol=1e-5)
    assert centred(torch.zeros(1, 3, 4, 4)).isfinite().all()
    batch, parts = batch_of(2), frozen()
    one, other = (parts.prepare(batch | {"pixel_values": p})["latents"] for p in (moved, pixels))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_latents_made_before_give_the_same_loss_as_images() -> None:
    parts, model = frozen(), Answers(lambda z, time: torch.zeros_like(z))
    batch = batch_of(4)
    torch.manual_seed(1)
    loss, logs = generator_loss(model, batch, parts)
    seen = parts.prepare(batch)
    torch.manual_seed(1)
    again, _ = generator_loss(model, seen, parts)
    assert again.item() == loss.item() > 0
    assert set(seen) == {"latents", "states", "state_mask", "pooled"}
    torch.testing.assert_close(
        seen["latents"], encode(parts.autoencoder, centred(batch["pixel_values"]), batch["valid"])
    )
    assert set(logs) == {"without_text"}


def test_left_out_texts_are_those_of_an_empty_one() -> None:
    parts = frozen(caption_dropout=0.5)
    batch = batch_of(8)
    full = parts.read(batch["input_ids"], batch["attention_mask"])
    empty = parts.read(**tokens(""))
    assert empty["state_mask"].tolist() == [[True]]
    kept = {name: value.clone() for name, value in full.items()}
    left_out = torch.arange(8) % 3 == 0
    found = without(full, left_out, parts.nothing(1))
    assert all(torch.equal(full[name], kept[name]) for name in full)  # nothing is changed in place
    for i in range(8):
        mask = found["state_mask"][i]
        source = empty if left_out[i] else full
        row = 0 if left_out[i] else i
        assert torch.equal(found["pooled"][i], source["pooled"][row])
        assert mask.sum() == source["state_mask"][row].sum()
        seen = source["states"][row][source["state_mask"][row]]
        assert torch.equal(found["states"][i][mask], seen)


def test_caption_dropout_leaves_out_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(8)
    for share, expected in ((0.0, 0), (0.5, 4), (0.75, 6)):
        parts = frozen(caption_dropout=share)
        monkeypatch.setattr(torch, "rand", lambda count, **_: (torch.arange(count) + 0.5) / count)
        model = Answers(lambda z, time: torch.zeros_like(z))
        _, logs = generator_loss(model, batch, parts)
        empty = parts.nothing(1)["pooled"]
        same = (model.seen.class_labels == empty).all(1)
        assert int(same.sum()) == expected
        assert (model.seen.encoder_attention_mask.sum(1)[same] == 1).all()
        assert float(logs["without_text"]) == expected / 8


def test_an_empty_text_among_others_is_read_as_alone() -> None:
    parts = frozen()
    together = parts.read(**tokens("", tiny_generator.CAPTIONS[0]))
    alone = parts.nothing(1)
    assert together["state_mask"][0].tolist() == [True] + [False] * (
        together["state_mask"].shape[1] - 1
    )
    torch.testing.assert_close(together["pooled"][:1], alone["pooled"])
    torch.testing.assert_close(together["states"][:1, :1], alone["states"])
    assert parts.nothing(3)["pooled"].shape == (3, 32)


def test_padding_and_company_do_not_change_the_denoiser() -> None:
    pipeline = tiny_generator.make()
    parts, unet = frozen(), pipeline.unet
    z, time = noise(2, 4, 8, 8), torch.tensor([300.0, 300.0])
    long = tiny_generator.CAPTIONS[-1]
    with torch.no_grad():
        together = denoise(unet, z, time, parts.read(**tokens("a sill", long)))
        alone = denoise(unet, z[:1], time[:1], parts.read(**tokens("a sill")))
        texts = parts.read(**tokens("a sill", long))
        texts["states"][~texts["state_mask"]] = 7.0
        scribbled = denoise(unet, z, time, texts)
        texts["states"][0, 1] = 7.0
        changed = denoise(unet, z, time, texts)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, scribbled, rtol=0, atol=1e-5)
    assert (changed[0] - together[0]).abs().max() > 1e-3
    torch.testing.assert_close(changed[1], together[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["states", "pooled", "time"])
def test_the_denoiser_hears_each_part(part: str) -> None:
    unet, parts = tiny_generator.make().unet, frozen()
    texts, time = parts.read(**tokens("a sill on the left")), torch.tensor([300.0])
    z = noise(1, 4, 8, 8)
    with torch.no_grad():
        one = denoise(unet, z, time, texts)
        if part == "time":
            time = torch.tensor([600.0])
        else:
            texts[part] = texts[part] + 1
        assert (denoise(unet, z, time, texts) - one).abs().max() > 1e-3


def test_the_frozen_parts_stay_and_every_parameter_learns() -> None:
    parts = frozen()
    torch.manual_seed(0)
    unet = make_denoiser(parts.config, 4, TEXT.width, 8)
    assert unet.config.sample_size == 8
    loss, _ = generator_loss(unet, batch_of(3), parts)
    loss.backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for module in (parts.autoencoder, parts.text):
        assert not module.training
        assert all(not p.requires_grad and p.grad is None for p in module.parameters())


def test_an_untrained_denoiser_errs_by_about_the_velocity_itself() -> None:
    parts = frozen()
    torch.manual_seed(0)
    seen = parts.prepare(batch_of(1))
    count = 64
    seen = {name: value.expand(count, *value.shape[1:]) for name, value in seen.items()}
    seen["latents"] = noise(count, 4, 8, 8)  # as training crops are: mean 0, deviation 1
    loss, _ = generator_loss(Answers(lambda z, time: torch.zeros_like(z)), seen, parts)
    assert loss.item() == pytest.approx(2, rel=0.05)  # variances of noise and latents


def test_the_scheduler_fits_the_prediction() -> None:
    flow, v = (make_scheduler(GeneratorConfig(prediction=p)) for p in ("flow", "v"))
    assert isinstance(flow, FlowMatchEulerDiscreteScheduler)
    assert isinstance(v, DPMSolverMultistepScheduler)
    assert v.config.prediction_type == "v_prediction"
    a, _ = squares(torch.arange(TRAIN_STEPS))
    torch.testing.assert_close(v.alphas_cumprod, a, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(frozen().noising.alphas_cumprod, a, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (16,)}, r"model.widths, layers, heads: \[16\], 2, 4; at least two"),
        ({"widths": (16, 24)}, r"\[16, 24\], 2, 4"),
        ({"heads": 3, "widths": (16, 32)}, r"\[16, 32\], 2, 3"),
        ({"layers": 0}, r", 0, 4"),
        ({"caption_dropout": 1.0}, r"model.caption_dropout, min_snr: 1.0, 5.0"),
        ({"caption_dropout": -0.1}, "-0.1"),
        ({"min_snr": 0.0}, "0.1, 0.0"),
    ],
)
def test_bad_values_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HephError, match=message):
        GeneratorConfig(**changes)


def test_the_loss_is_the_mean_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that another rank would add count as the own ones do."""
    parts, model = frozen(), Answers(lambda z, time: torch.zeros_like(z))
    torch.manual_seed(0)
    alone, _ = generator_loss(model, batch_of(4), parts)
    other = torch.tensor([[6.0, 2.0]])  # two crops of loss 3
    monkeypatch.setattr(generator, "gather_rows", lambda rows: (torch.cat([rows, other]),))
    torch.manual_seed(0)
    together, _ = generator_loss(model, batch_of(4), parts)
    assert together.item() == pytest.approx((4 * alone.item() + 6) / 6, rel=1e-5)
