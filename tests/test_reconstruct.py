"""Scores of what an autoencoder keeps, on networks that change one thing each."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from heph_vl.data.captions import CaptionFacts
from heph_vl.data.phase import colour
from heph_vl.data.samples import Sample, pixels
from heph_vl.models.autoencoder import encode
from heph_vl.reconstruct import measure_scale, reconstruction, reconstruction_sheet
from tests import tiny_generator

SIDE = 32
SCORES = [
    "circular_error", "fringe_count_error", "lines_off", "coherence_error", "valid_error",
    "equivariance_error",
]  # fmt: skip
DRAWN = ["drawn_circular_error", "drawn_fringe_count_error"]


def make_item(i, side=SIDE):
    """Fringes along the rows, finer for each; incoherent below, no data on the right."""
    rows, columns = np.mgrid[:side, :side]
    code = 1 + (columns * (4 + i) + 3 * rows) % 255
    coherence = np.where(rows < side // 2, 230, 50)
    valid = columns < side - 4
    return {
        "sample": Sample(
            (code * valid).astype(np.uint8), (coherence * valid).astype(np.uint8),
            np.zeros((side, side), np.uint8), (), CaptionFacts(), None, "ascending", 0, 0,
            (False,) * 7,
        )
    }  # fmt: skip


class Network:
    """Stands for an AutoencoderKL: its latents are the channels, decoded by `change`."""

    device = torch.device("cpu")

    def __init__(self, change=lambda z, coherence: (z, coherence)):
        self.change = change

    def encode(self, channels):
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=channels))

    def decode(self, latents):
        z, coherence = self.change(torch.complex(latents[:, 0], latents[:, 1]), latents[:, 2])
        return SimpleNamespace(sample=torch.stack([z.real, z.imag, coherence], dim=1))


def all_scores(change, count=3):
    model = SimpleNamespace(network=Network(change))
    return reconstruction(model, [make_item(i) for i in range(count)])


def scores(change, count=3):
    """Those of the mean phase, without grain."""
    found = all_scores(change, count)
    assert found.keys() == {*SCORES, *DRAWN}
    return {name: value for name, value in found.items() if name in SCORES}


def spin(angle):
    return complex(math.cos(angle), math.sin(angle))


def test_what_comes_back_whole_has_no_error():
    found = scores(lambda z, c: (z, c))
    assert found == pytest.approx(dict.fromkeys(SCORES, 0), abs=1e-6)


def test_a_turned_phase_is_off_by_its_angle_alone():
    found = scores(lambda z, c: (0.5 * z * spin(0.3), c))  # a modulus is no phase
    wanted = dict.fromkeys(SCORES, 0) | {"circular_error": 0.3}
    assert found == pytest.approx(wanted, abs=1e-5)


def test_the_phase_with_its_grain_is_scored_as_well():
    sure = all_scores(lambda z, c: (z, c))
    open_ = all_scores(lambda z, c: (0.01 * z, torch.where(c < 0, c, 0.1)))
    assert sure["drawn_circular_error"] < 0.02
    assert sure["drawn_fringe_count_error"] < 0.02
    # A phase that is told by nothing is drawn anyhow: off by a quarter turn on the average.
    assert open_["drawn_circular_error"] == pytest.approx(np.pi / 2, abs=0.1)
    assert open_["drawn_fringe_count_error"] > 0.3
    assert open_["circular_error"] == pytest.approx(0, abs=1e-6)


def test_what_no_crop_can_tell_is_left_out():
    dark = [make_item(0)]
    dark[0]["sample"].coherence[:] = 10
    found = reconstruction(SimpleNamespace(network=Network()), dark)
    assert found == pytest.approx({"coherence_error": 0, "valid_error": 0}, abs=1e-6)


def test_twice_the_phase_has_other_fringes_and_turns_twice():
    found = scores(lambda z, c: (z * z, c))
    # Crop i has 28 columns of data with (4 + i) / 255 fringes a step, 16 rows of 3 / 255.
    lines = [(27 * (4 + i) / 255, 15 * 3 / 255) for i in range(3)]
    wrong = np.repeat(np.array(lines), [16, 28], axis=1)
    assert found["fringe_count_error"] == pytest.approx(wrong.mean(), rel=1e-4)
    assert found["lines_off"] == pytest.approx((wrong >= 0.5).mean())
    assert 0 < found["lines_off"] < 1
    assert found["equivariance_error"] == pytest.approx(1, abs=1e-4)


def test_a_network_with_a_fixed_answer_is_not_equivariant():
    found = scores(lambda z, c: (torch.ones_like(z), c))
    assert found["equivariance_error"] == pytest.approx(1, abs=1e-4)
    assert found["circular_error"] > 0.5


def test_phase_counts_on_coherent_ground_only():
    found = scores(lambda z, c: (torch.where(c >= 0.3, z, -z), c))
    assert found == pytest.approx(dict.fromkeys(SCORES, 0), abs=1e-6)
    found = scores(lambda z, c: (torch.where(c >= 0.3, -z, z), c))
    assert found["circular_error"] == pytest.approx(math.pi, abs=1e-3)


def test_coherence_and_validity_are_scored_everywhere():
    found = scores(lambda z, c: (z, torch.where(c >= 0, c - 0.1, c)))
    assert found["coherence_error"] == pytest.approx(0.1, abs=1e-6)
    assert found["valid_error"] == 0
    found = scores(lambda z, c: (z, torch.where(c < 0, 0.2, c)))
    assert found["valid_error"] == pytest.approx(4 / SIDE)
    assert found["coherence_error"] == pytest.approx(0, abs=1e-6)
    found = scores(lambda z, c: (z, torch.where(c < 0, c, -0.9)))
    assert found["valid_error"] == pytest.approx(1 - 4 / SIDE)


def test_crops_count_alike_in_any_number_of_batches():
    one = scores(lambda z, c: (z * z, c), count=70)  # two batches
    parts = [
        reconstruction(SimpleNamespace(network=Network(lambda z, c: (z * z, c))), [make_item(i)])
        for i in range(70)
    ]
    for name in SCORES[:3]:
        assert one[name] == pytest.approx(np.mean([part[name] for part in parts]), rel=1e-4)


def test_the_measured_scale_makes_latents_standard():
    network = tiny_generator.autoencoder()
    items = [make_item(i % 9, side=16) for i in range(70)]
    measure_scale(network, iter(items))
    channels, valid = zip(*(pixels(item["sample"]) for item in items), strict=True)
    images = torch.from_numpy(np.stack(channels)), torch.from_numpy(np.stack(valid))
    with torch.no_grad():
        latents = encode(network, *images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    deviation = latents.var((0, 2, 3), correction=0).sqrt()
    torch.testing.assert_close(deviation, torch.ones(4), rtol=1e-4, atol=0)
    assert isinstance(network.config.latents_mean, list)


def test_the_sheet_shows_crops_above_what_comes_back(tmp_path):
    model = SimpleNamespace(network=Network(lambda z, c: (z * spin(1.0), c)))
    items = [make_item(i) for i in range(3)]
    reconstruction_sheet(model, items, tmp_path / "sheet.png")
    page = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    for i, item in enumerate(items):
        x = 8 + i * (4 * SIDE + 8)
        shown = page[8 : 8 + 4 * SIDE : 2, x : x + 4 * SIDE : 2]
        channels, valid = pixels(item["sample"])
        phase = np.arctan2(channels[1], channels[0])
        assert np.array_equal(shown[:SIDE, :SIDE], colour(phase, valid))
        grey = (channels[2] * 255).astype(np.uint8)
        assert (shown[:SIDE, SIDE:] == grey[..., None]).all()
        # What comes back is coherence without speckle: the same but for the border of two areas.
        border = np.abs(np.arange(SIDE) - SIDE // 2 + 0.5) < 1
        assert (
            np.abs(shown[SIDE:, SIDE:][~border] - grey[~border, :, None].astype(int)) <= 1
        ).all()
        below = shown[SIDE:, :SIDE]
        assert (below[:, -4:] == 255).all()  # no data stays white
        turned = colour(np.angle(np.exp(1j * (phase + 1))), valid)
        # Drawn from a sure phasor: nearly the turned phase, and nothing like the crop's.
        near, far = (
            np.abs(below.astype(int) - other)[valid].mean()
            for other in (turned, shown[:SIDE, :SIDE])
        )
        assert near < 0.3 * far
