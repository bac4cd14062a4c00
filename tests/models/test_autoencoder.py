"""The phase autoencoder: what it is shown, what its loss knows, and how latents are scaled."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from heph_vl.errors import HephError
from heph_vl.models.autoencoder import (
    AutoencoderConfig,
    PhaseAutoencoder,
    autoencoder_loss,
    decode,
    encode,
    factor,
    from_channels,
    load_autoencoder,
    save_autoencoder,
    set_scale,
    to_channels,
)
from tests import tiny_generator
from tests.tiny_generator import CENTRE, SPREAD


class Given(nn.Module):
    """Stands for a `PhaseAutoencoder` that answers with given channels and moments."""

    def __init__(self, decoded: Tensor, mean: float = 0.0, logvar: float = 0.0, **config) -> None:
        super().__init__()
        self.config = AutoencoderConfig(**config)
        self.decoded, self.moments = decoded, (mean, logvar)

    def forward(self, batch):
        mean, logvar = (torch.full((len(self.decoded), 4, 2, 2), value) for value in self.moments)
        channels = to_channels(batch["pixel_values"], batch["valid"])
        return {"channels": channels, "decoded": self.decoded, "mean": mean, "logvar": logvar}


def batch_of(phase: Tensor, coherence: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    valid = torch.ones_like(phase, dtype=torch.bool) if valid is None else valid
    pixels = torch.stack([phase.cos(), phase.sin(), coherence], dim=1) * valid[:, None]
    return {"pixel_values": pixels, "valid": valid}


def turned(channels: Tensor, angle: float) -> Tensor:
    z = torch.complex(channels[:, 0], channels[:, 1]) * complex(math.cos(angle), math.sin(angle))
    return torch.stack([z.real, z.imag, channels[:, 2]], dim=1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_no_data_is_told_apart_from_low_coherence() -> None:
    batch = batch_of(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.eye(2).bool()[None])
    channels = to_channels(**batch)
    assert torch.equal(channels[0, 2], torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    assert torch.equal(channels[0, 0], torch.zeros(2, 2))  # without coherence a phase is grain
    again = from_channels(channels)
    assert torch.equal(again.valid, batch["valid"])
    assert torch.equal(again.coherence, torch.zeros(1, 2, 2))


def test_what_comes_back_is_in_bounds_and_nothing_without_data() -> None:
    channels = torch.tensor([[3.0, 0.3, 0.6, 1.0], [-4.0, 0.4, 0.0, 1.0], [1.7, -0.2, 0.4, -0.8]])
    found = from_channels(channels[None, :, None])
    wanted = torch.tensor([0.6 - 0.8j, 0.3 + 0.4j, 0.6, 0])  # the angle is kept
    torch.testing.assert_close(found.phasor[0, 0], wanted.to(torch.complex64))
    torch.testing.assert_close(found.coherence[0, 0], torch.tensor([1.0, 0.0, 0.4, 0.0]))
    assert found.valid[0, 0].tolist() == [True, True, True, False]


def test_the_phase_term_is_the_square_distance_of_phasors() -> None:
    wanted, given = noise(2, 4, 4), noise(2, 4, 4, seed=1)
    length = 0.7
    answer = torch.stack([length * given.cos(), length * given.sin(), torch.ones(2, 4, 4)], dim=1)
    _, logs = autoencoder_loss(Given(answer), batch_of(wanted, torch.ones(2, 4, 4)))
    expected = (1 + length**2 - 2 * length * (wanted - given).cos()).mean()
    assert float(logs["phase"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("angle", [0.5, math.pi, 4.0])
def test_the_loss_knows_no_cut_of_the_circle(angle: float) -> None:
    batch = batch_of(3 * noise(2, 8, 8), noise(2, 8, 8, seed=1).sigmoid())
    answer = noise(2, 3, 8, 8, seed=2)
    loss, _ = autoencoder_loss(Given(answer), batch)
    moved = {**batch, "pixel_values": turned(batch["pixel_values"], angle)}
    again, _ = autoencoder_loss(Given(turned(answer, angle)), moved)
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)
    alone, _ = autoencoder_loss(Given(answer), moved)
    assert alone.item() != pytest.approx(loss.item(), rel=1e-2)


def test_the_loss_is_least_at_the_mean_phasor() -> None:
    phase = 0.4 + noise(1, 40, 40)
    batch = batch_of(phase, torch.ones(1, 40, 40))
    mean = batch["pixel_values"][0, :2].mean((1, 2))
    answer = torch.ones(1, 3, 40, 40)
    answer[:, :2] = mean[:, None, None]

    def at(step: Tensor) -> float:
        moved = answer.clone()
        moved[:, :2] += step[:, None, None]
        return float(autoencoder_loss(Given(moved), batch)[1]["phase"])

    assert 0.5 < mean.norm() < 0.7
    assert at(torch.zeros(2)) == pytest.approx(1 - float(mean.square().sum()), rel=1e-4)
    for step in 0.1 * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]):
        assert at(step) == pytest.approx(at(torch.zeros(2)) + 0.01, rel=1e-3)


def test_coherent_ground_counts_most_and_no_data_not_at_all() -> None:
    coherence = torch.zeros(1, 8, 8)
    coherence[0, :, 3:6] = 0.5
    coherence[0, :, 6:] = 1.0
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[0, :, :1] = False
    batch = batch_of(torch.zeros(1, 8, 8), coherence, valid)
    level = torch.tensor([0, 0, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1])  # means of 3 pixels
    weights = (0.2 + 0.8 * level).repeat(8, 1)
    weights[:, 0] = 0
    for row, column in ((0, 0), (0, 1), (4, 3), (2, 7)):
        answer = to_channels(**batch)
        answer[0, 0, row, column] += 2
        _, logs = autoencoder_loss(Given(answer, coherence_floor=0.2), batch)
        expected = 4 * weights[row, column] / weights.sum()
        assert float(logs["phase"]) == pytest.approx(float(expected), abs=1e-6)
        assert float(logs["coherence"]) == 0
    answer = to_channels(**batch)
    answer[0, 2, 3, 0] += 3  # no data counts in the third channel
    answer[0, 2, 3, 5] += 1
    assert float(autoencoder_loss(Given(answer), batch)[1]["coherence"]) == pytest.approx(10 / 64)


def test_grain_is_a_phasor_of_0_and_coherence_has_no_speckle() -> None:
    coherence = torch.full((1, 6, 6), 0.12) + 0.03 * torch.eye(6)
    channels = to_channels(**batch_of(noise(1, 6, 6), coherence))
    assert float(channels[0, :2, 2:4, 2:4].abs().max()) == 0
    assert channels[0, 2, 3, 3] == pytest.approx(0.12 + 0.03 / 3)
    sure = to_channels(**batch_of(noise(1, 6, 6), torch.full((1, 6, 6), 0.19)))
    assert torch.allclose(sure[:, :2].norm(dim=1), torch.ones(1, 6, 6), atol=1e-5)
    half = to_channels(**batch_of(noise(1, 6, 6), torch.full((1, 6, 6), 0.16)))
    assert torch.allclose(half[:, :2].norm(dim=1), torch.full((1, 6, 6), 0.5), atol=1e-5)
    valid = torch.ones(1, 6, 6, dtype=torch.bool)
    valid[0, :, 3:] = False
    edge = to_channels(**batch_of(torch.zeros(1, 6, 6), torch.full((1, 6, 6), 0.4), valid))
    assert torch.allclose(edge[0, 2, :, :3], torch.full((6, 3), 0.4))  # a mean over data alone
    assert (edge[0, 2, :, 3:] == -1).all()


def test_a_batch_without_data_has_a_finite_loss() -> None:
    batch = batch_of(*torch.zeros(2, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool))
    loss, _ = autoencoder_loss(Given(torch.zeros(1, 3, 4, 4)), batch)
    assert loss.item() == pytest.approx(1)  # of the third channel alone


def test_the_parts_are_weighed_and_added() -> None:
    batch = batch_of(torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    model = Given(
        to_channels(**batch) + 0.5, mean=0.3, logvar=-1.0, coherence_weight=3.0, kl_weight=0.01
    )
    loss, logs = autoencoder_loss(model, batch)
    # Kingma and Welling 2014, appendix B: of N(m, v) from N(0, 1), (m^2 + v - 1 - log v) / 2.
    normal, standard = (
        torch.distributions.Normal(0.3, math.exp(-0.5)),
        torch.distributions.Normal(0, 1),
    )
    kl = float(torch.distributions.kl_divergence(normal, standard))
    assert float(logs["kl"]) == pytest.approx(kl, rel=1e-5)
    assert float(logs["phase"]) == pytest.approx(0.5)
    assert float(logs["coherence"]) == pytest.approx(0.25)
    assert loss.item() == pytest.approx(0.5 + 3 * 0.25 + 0.01 * kl, rel=1e-5)


def test_training_shows_sampled_latents_of_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = PhaseAutoencoder(tiny_generator.AUTOENCODER)
    batch = tiny_generator.make_images(2)
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.7))
    out = model(batch)
    assert torch.equal(out["channels"], to_channels(**batch))
    assert out["mean"].shape == out["logvar"].shape == (2, 4, 8, 8)
    latents = out["mean"] + 0.7 * (0.5 * out["logvar"]).exp()
    torch.testing.assert_close(out["decoded"], model.network.decode(latents).sample)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = PhaseAutoencoder(tiny_generator.AUTOENCODER)
    autoencoder_loss(model, tiny_generator.make_images(2))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_encode_gives_scaled_latents_and_decode_takes_them() -> None:
    network, batch = tiny_generator.autoencoder(), tiny_generator.make_images(3)
    assert factor(network) == 2
    with torch.no_grad():
        mean = network.encode(to_channels(**batch)).latent_dist.mean
        latents = encode(network, **batch)
        assert latents.shape == (3, 4, 8, 8)
        for channel in range(4):
            expected = (mean[:, channel] - CENTRE[channel]) / SPREAD[channel]
            torch.testing.assert_close(latents[:, channel], expected)
        found = decode(network, latents)
        wanted = from_channels(network.decode(mean).sample)
    torch.testing.assert_close(found.phasor, wanted.phasor, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.coherence, wanted.coherence, rtol=0, atol=1e-5)


def test_a_size_that_cells_do_not_divide_is_told() -> None:
    images = tiny_generator.make_images(1, side=17)
    with pytest.raises(HephError, match="images of 17 x 17 px; sides must be multiples of 2 px"):
        encode(tiny_generator.autoencoder(), **images)
    with pytest.raises(HephError, match="images of 17 x 17 px"):
        PhaseAutoencoder(tiny_generator.AUTOENCODER)(images)


def test_without_a_scale_nothing_is_encoded() -> None:
    network = PhaseAutoencoder(tiny_generator.AUTOENCODER).network
    with pytest.raises(HephError, match=r"scale of its latents; train it with"):
        encode(network, **tiny_generator.make_images(1))
    with pytest.raises(HephError, match="scale of its latents"):
        decode(network, torch.zeros(1, 4, 8, 8))
    set_scale(network, CENTRE, SPREAD)
    assert decode(network, torch.zeros(1, 4, 8, 8)).valid.shape == (1, 16, 16)


@pytest.mark.parametrize(("widths", "expected"), [((16,), 1), ((16, 16), 2), ((16, 16, 32), 4)])
def test_each_width_but_the_last_halves_the_side(widths: tuple[int, ...], expected: int) -> None:
    network = PhaseAutoencoder(AutoencoderConfig(widths=widths, layers=1)).network
    assert factor(network) == expected
    set_scale(network, CENTRE, SPREAD)
    latents = encode(network, **tiny_generator.make_images(1))
    assert latents.shape[-1] == 16 // expected


def test_a_saved_one_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    network, batch = tiny_generator.autoencoder(), tiny_generator.make_images(2)
    save_autoencoder(network, tmp_path / "saved")
    again = load_autoencoder(str(tmp_path / "saved"))
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(encode(network, **batch), encode(again, **batch))
    assert (again.config.latents_mean, again.config.latents_std) == (CENTRE, SPREAD)


def broken(folder: Path, kind: str) -> None:
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    settings = json.loads(config.read_text())
    if kind == "no config":
        config.unlink()
    elif kind == "no weights":
        weights.unlink()
    elif kind == "cut weights":
        weights.write_bytes(weights.read_bytes()[:2000])
    elif kind == "cut config":
        config.write_text(config.read_text()[:50])
    elif kind == "other sizes":
        config.write_text(json.dumps(settings | {"block_out_channels": [32, 32]}))
    elif kind == "other kind":
        config.write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    elif kind == "no object":
        config.write_text("[]")


@pytest.mark.parametrize(
    "kind",
    [
        "no config", "no weights", "cut weights", "cut config", "other sizes", "other kind",
        "no object",
    ],
)  # fmt: skip
def test_a_broken_folder_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    save_autoencoder(tiny_generator.autoencoder(), tmp_path)
    broken(tmp_path, kind)
    with pytest.raises(HephError, match=str(tmp_path)):
        load_autoencoder(tmp_path)


def test_an_autoencoder_of_colours_is_refused(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(in_channels=4, out_channels=4).save_pretrained(str(tmp_path))
    with pytest.raises(HephError, match="it has 4 channels, not phasor and coherence"):
        load_autoencoder(tmp_path)
    with pytest.raises(HephError, match=r"no config.json; name the folder"):
        load_autoencoder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (16, 24)}, r"model.widths: \[16, 24\]; multiples of 16"),
        ({"widths": ()}, "model.widths"),
        ({"widths": (0, 16)}, "model.widths"),
        ({"layers": 0}, r"model.layers, latent_channels: 0, 4"),
        ({"latent_channels": 0}, r"model.layers, latent_channels: 2, 0"),
    ],
)
def test_sizes_that_do_not_fit_are_told(changes: dict, message: str) -> None:
    with pytest.raises(HephError, match=message):
        AutoencoderConfig(**changes)
