"""Heads: losses against their definitions, masks against one tile, memory, calibration, disk."""

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heph_vl.data import palettes
from heph_vl.data.captions import PATTERN_TYPES, REGIONS, SCENE_ATOMS
from heph_vl.data.labels import LABELS, SOFTMAX, label_shares, sampling_weights
from heph_vl.errors import HephError
from heph_vl.models.calibration import best_f1_threshold, fit_classes, fit_labels
from heph_vl.models.heads import Heads, heads_loss
from heph_vl.models.inputs import as_seen
from heph_vl.models.label_losses import class_loss, fact_bits, label_loss
from heph_vl.models.prediction import LabelCalibration
from heph_vl.models.segmenter import (
    Blender,
    Decoder,
    segmentation_loss,
    segmentation_terms,
    to_pixels,
)
from heph_vl.optim import make_optimizer
from tests.tiny_heads import make, make_batch

ALL_PARTS = {"text_weight": 0.5}


def image(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    phase = 6 * torch.rand(height, width, generator=generator)
    return torch.stack([phase.cos(), phase.sin(), torch.ones_like(phase)]), phase > 0.5


# Logits


def test_each_group_has_its_logits() -> None:
    out = make(**ALL_PARTS)(make_batch([0, 1, 2]))
    assert out["deformation"].shape == (3,)
    for name, names in list(LABELS.items())[1:]:
        assert out[name].shape == (3, len(names))
    assert out["segmentation"].shape == (3, 7, 16, 16)
    assert out["tiles"].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert out["saliency_logits"].shape == out["token_mask"].shape == (3, 16)
    share = out["segmentation"].softmax(1)[:, 0].mean()
    assert 0.9 < share < 0.99  # masks start empty


@pytest.mark.parametrize("imbalance", ["none", "focal", "logit_adjusted"])
def test_every_parameter_learns_whatever_the_batch(imbalance: Any) -> None:
    model, batch = make(imbalance=imbalance, **ALL_PARTS), make_batch([0, 0])
    batch["volcano_phase"][:] = -1
    loss, _ = heads_loss(model, batch)
    loss.backward()
    for name, parameter in model.named_parameters():
        # Without a gradient here, DistributedDataParallel would wait for ever.
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_most_salient_place_speaks_for_deformation() -> None:
    model, batch = make(), make_batch([0, 1])
    with torch.no_grad():
        before = model(batch)
        model.evidence.fill_(2.0)
        after = model(batch)["deformation"]
    salient = before["saliency_logits"].amax(1)
    torch.testing.assert_close(after, before["deformation"] + 2 * salient)


# Loss


def test_the_recipes_loss_puts_its_parts_together() -> None:
    model, batch = make(**ALL_PARTS), make_batch([0, 1, 2, 3])
    batch["volcano_phase"][2] = -1
    loss, logs = heads_loss(model, batch)
    out = model(batch)
    expected = {}
    for name in LABELS:
        logits, truth = out[name], batch[name]
        if name in SOFTMAX:
            known = truth >= 0
            expected[name] = F.cross_entropy(logits[known], truth[known])
        else:
            known = batch["deformation"] if name == "intensities" else torch.ones(4).bool()
            expected[name] = F.binary_cross_entropy_with_logits(logits[known], truth[known].float())
        torch.testing.assert_close(logs[name], expected[name].detach())
    total = sum(expected.values()) + logs["pixels"] + logs["dice"] + logs["saliency"]
    torch.testing.assert_close(loss, total + 0.5 * logs["facts"])


def test_logit_adjustment_adds_the_priors_in_training_only() -> None:
    model, batch = make(imbalance="logit_adjusted"), make_batch([0, 1, 2, 3])
    shares = {name: np.full(len(names), 0.25) for name, names in LABELS.items()}
    shares["deformation"][0] = 0.1
    plain = model(batch)["deformation"]
    model.set_priors(shares)
    torch.testing.assert_close(model(batch)["deformation"], plain)
    _, logs = heads_loss(model, batch)
    odds = torch.tensor(0.1 / 0.9).log()
    expected = F.binary_cross_entropy_with_logits(plain + odds, batch["deformation"].float())
    torch.testing.assert_close(logs["deformation"], expected.detach())


def test_focal_losses_by_hand() -> None:
    logits, truth = torch.tensor([[2.0], [-1.0]]), torch.tensor([[True], [True]])
    p = logits[:, 0].sigmoid()
    expected = ((1 - p) ** 2 * -p.log()).mean()
    torch.testing.assert_close(label_loss(logits, truth, 2.0), expected)
    known = torch.tensor([True, False])
    torch.testing.assert_close(label_loss(logits, truth, 0.0, known), -p[0].log())
    classes, target = torch.tensor([[1.0, 0.0, -1.0]] * 2), torch.tensor([2, -1])
    q = classes[0].softmax(0)[2]
    torch.testing.assert_close(class_loss(classes, target, 2.0), (1 - q) ** 2 * -q.log())
    assert class_loss(classes, torch.tensor([-1, -1])) == 0


def test_facts_are_told_or_not() -> None:
    scene = torch.zeros(1, len(SCENE_ATOMS), dtype=torch.bool)
    none = [-1, -1, 0]
    left = 1 << REGIONS.index("left")
    sill, mogi = PATTERN_TYPES.index("sill"), PATTERN_TYPES.index("mogi")
    patterns = torch.tensor([[[sill, 2, left], [mogi, -1, 3], [sill, 0, 0], none]])
    bits, known = fact_bits(scene, patterns)
    levels, places = bits[0, len(SCENE_ATOMS) :].split([7 * 3, 7 * 11])
    assert levels.view(7, 3).nonzero().tolist() == [[sill, 0], [sill, 2]]
    at = [[mogi, 0], [mogi, 1], [sill, REGIONS.index("left")]]
    assert places.view(7, 11).nonzero().tolist() == at
    known_levels, known_places = known[0, len(SCENE_ATOMS) :].split([7 * 3, 7 * 11])
    assert (~known_levels.view(7, 3)).nonzero()[:, 0].unique().tolist() == [mogi]
    silent = (~known_places.view(7, 11)).nonzero()
    assert silent[:, 0].unique().tolist() == [sill]  # the second sill is somewhere else
    assert len(silent) == 10
    assert known[0, : len(SCENE_ATOMS)].all()


# Segmentation


def test_segmentation_terms_by_hand() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 7, 4, 4), torch.zeros(1, 20, 16, dtype=torch.int64)
    mask[0, 3:6, 2:9] = 3
    tiles, size = torch.tensor([[0, 0, 0], [0, 1, 0]]), torch.tensor([[20, 14]])
    terms = segmentation_terms(logits, tiles, mask, size, 16, 8)
    pixels = to_pixels(logits, 16)
    total = torch.zeros(6)
    for t, top in enumerate((0, 8)):
        log_p = pixels[t, :, : min(16, 20 - top), :14].log_softmax(0)
        true = mask[0, top : top + 16, :14]
        loss = F.nll_loss(log_p[None], true[None], reduction="none")[0]
        p = 1 - log_p[0].exp()
        on = true > 0
        for k, value in enumerate(
            [loss[on].sum(), on.sum(), loss[~on].sum(), (~on).sum(), p[on].sum(), p.sum()]
        ):
            total[k] += value
    torch.testing.assert_close(terms, total)
    cross_entropy, dice = segmentation_loss(terms)
    on_loss, on, off_loss, off, overlap, everything = total.tolist()
    weights = on**-0.5, off**-0.5
    expected = (on_loss * weights[0] + off_loss * weights[1]) / (on**0.5 + off**0.5)
    assert cross_entropy.item() == pytest.approx(expected, rel=1e-5)
    assert dice.item() == pytest.approx(1 - (2 * overlap + 1) / (everything + on + 1), rel=1e-5)


def test_no_deformation_has_no_dice() -> None:
    cross_entropy, dice = segmentation_loss(torch.tensor([0.0, 0, 50, 100, 0, 3]))
    assert dice == 0
    assert cross_entropy == pytest.approx(0.5)


@pytest.mark.parametrize("channels", [{2: 8, 4: 8, 8: 12, 16: 20}, {16: 20}])
def test_the_decoder_takes_the_strides_there_are(channels: dict[int, int]) -> None:
    decoder = Decoder(channels, 16)
    features = {s: torch.randn(2, c, 64 // s, 64 // s) for s, c in channels.items()}
    assert decoder(features).shape == (2, 7, 16, 16)


def test_blending_equals_the_weighted_mean() -> None:
    torch.manual_seed(0)
    places = [(0, 0), (0, 1), (1, 1), (3, 0)]  # (1, 0), (2, .) and others were dropped
    tiles = torch.randn(len(places), 7, 8, 8).softmax(1)
    height, width = 22, 13
    cpu = torch.device("cpu")
    blender = Blender(height, width, 8, 5, device=cpu)
    weight = torch.tensor([1 / 6, 3 / 6, 5 / 6, 1, 1, 5 / 6, 3 / 6, 1 / 6])
    total, norm = torch.zeros(7, 40, 40), torch.zeros(40, 40)
    for (row, column), tile in zip(places, tiles, strict=True):
        blender.add(row, column, tile)
        area = np.s_[row * 5 : row * 5 + 8, column * 5 : column * 5 + 8]
        total[:, *area] += weight[:, None] * weight * tile
        norm[area] += weight[:, None] * weight
    found, deformation = blender.finish()
    p = (total / norm.clamp(min=1e-9))[:, :height, :width]
    expected = p[1:].sum(0)
    np.testing.assert_allclose(deformation, expected.numpy(), rtol=0, atol=1e-6)
    kinds = torch.where(expected > 0, p[1:].argmax(0) + 1, 0)
    assert found.tolist() == kinds.tolist()
    assert found.any()
    assert (found[13:15] == 0).all()  # no tile covers them


def test_a_patch_of_one_tile_is_segmented_as_in_training() -> None:
    model = make().eval()
    pixels, valid = image(50, 64)
    seen = model.predict(pixels, valid)
    with torch.no_grad():
        logits = model({"pixel_values": pixels[None], "valid": valid[None]})["segmentation"]
    expected = 1 - to_pixels(logits, 64).softmax(1)[0, 0, :50]
    assert seen.mask_if_deforming is not None
    assert seen.mask_if_deforming.dtype == np.float32
    np.testing.assert_allclose(seen.mask_if_deforming, expected.numpy(), atol=1e-5)
    assert seen.mask_probability is not None
    assert seen.mask_probability.dtype == np.float32
    both = expected.numpy() * seen.deformation
    np.testing.assert_allclose(seen.mask_probability, both, atol=1e-5)


# Whole images


def test_a_batch_says_what_each_image_says_alone() -> None:
    model = make(**ALL_PARTS)
    sizes = [(150, 90), (40, 64), (64, 200)]
    canvas = torch.full((3, 3, 150, 200), 7.0)
    valid = torch.ones(3, 150, 200, dtype=torch.bool)
    alone = []
    for i, (height, width) in enumerate(sizes):
        pixels, there = image(height, width, seed=i)
        canvas[i, :, :height, :width], valid[i, :height, :width] = pixels, there
        alone.append(model.predict(pixels, there))
    together = model.predict_batch(canvas, valid, torch.tensor(sizes))
    for one, other, size in zip(alone, together, sizes, strict=True):
        assert one.deformation == pytest.approx(other.deformation, abs=1e-5)
        for name in ("activity_types", "quality", "atmosphere", "mask_probability", "facts"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)
        assert one.mask is not None
        assert one.mask.shape == size
        assert one.atmosphere.sum() == pytest.approx(1, abs=1e-5)
    assert model.training  # it comes back in its mode


def test_features_kept_do_not_grow_with_the_image() -> None:
    model = make(encoder={"max_tiles_per_forward": 2, "tile_overlap": 0}).eval()
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []

    def count(module: Any, inputs: Any, features: dict[int, Tensor]) -> None:
        most[-1] = max(most[-1], sum(ref() is not None for ref in alive))
        alive.extend(weakref.ref(f) for stride, f in features.items() if stride < 16)

    model.encoder.backbone.register_forward_hook(count)
    for side in (128, 384):
        alive.clear()
        most.append(0)
        model.predict(*image(side, side))
    assert len(alive) == 3 * 18  # 36 tiles in chunks of 2, three fine strides
    assert most[0] == most[1] <= 3


def test_images_without_phase_and_wrong_sizes_are_told() -> None:
    model = make()
    pixels, valid = image(64, 64)
    with pytest.raises(HephError, match="image 0: no valid phase"):
        model.predict(pixels, torch.zeros_like(valid))
    with pytest.raises(HephError, match="valid: 1 of 60 x 64 px for 1 images of 64 x 64 px"):
        model.predict(pixels, valid[:, :60])
    with pytest.raises(HephError, match="predict: 2 images"):
        model.predict(pixels.expand(2, -1, -1, -1), valid.expand(2, -1, -1))
    batch = make_batch([0, 1])
    batch["mask"] = batch["mask"][:, :32]
    with pytest.raises(HephError, match="mask: 2 of 64 x 32 px for 2 images of 64 x 64 px"):
        heads_loss(model, batch)


# Inputs


def test_colours_are_licsars_relative_to_white() -> None:
    phase = torch.linspace(-3.1, 3.1, 12).view(1, 3, 4)
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    valid[0, 0, 1] = False
    pixels = torch.stack([phase.cos(), phase.sin(), torch.zeros_like(phase)], dim=1)
    table = torch.from_numpy(palettes.new_table()[1]).float() / 255
    assert as_seen(pixels, valid, "phasor", table) is pixels
    rgb = as_seen(0.3 * pixels, valid, "rgb", table)  # the modulus says nothing
    painted = palettes.new_colours(phase.numpy()) / 255 - 1
    painted[0, 0, 1] = 0
    np.testing.assert_allclose(rgb.permute(0, 2, 3, 1).numpy(), painted, atol=0.5 / 255 + 1e-6)
    grey = as_seen(pixels, valid, "grey", table)
    assert torch.equal(grey[:, 0], grey[:, 2])
    luminance = painted @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[:, 1].numpy(), luminance, atol=0.5 / 255 + 1e-6)


def test_grey_heads_do_not_see_what_grey_hides() -> None:
    batch = make_batch([1])
    other = batch | {
        "pixel_values": batch["pixel_values"] * torch.tensor([1, 1, 0.0])[:, None, None]
    }
    for kind, same in (("grey", True), ("rgb", True), ("phasor", False)):
        model = make(input=kind).eval()
        with torch.no_grad():  # coherence is not among the colours
            a, b = model(batch)["atmosphere"], model(other)["atmosphere"]
        assert torch.equal(a, b) == same, kind


# Calibration


def test_temperature_and_bias_are_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    true = 1.5 * torch.randn(20_000, 2, generator=generator)
    labels = torch.rand(20_000, 2, generator=generator) < true.sigmoid()
    shown = torch.stack([2 * (true[:, 0] - 1), true[:, 1]], dim=1)  # too sure, and shifted
    found = fit_labels(shown, labels)
    assert found.temperature == pytest.approx([2, 1], rel=0.06)
    assert found.bias == pytest.approx([1, 0], abs=0.08)
    torch.testing.assert_close(found.logits(shown), true, rtol=0, atol=0.4)
    assert found.fitted == [True, True]
    for share, expected in zip(found.prevalence, labels.float().mean(0), strict=True):
        assert share == pytest.approx(expected.item())


def test_classes_are_calibrated_and_absent_ones_left_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    true = 2 * torch.randn(20_000, 3, generator=generator)
    targets = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    targets[:50] = -1
    shift = torch.tensor([0.0, 1.0, 0.0])
    found = fit_classes(3 * (true - shift), targets)
    assert found.temperature == pytest.approx([3], rel=0.05)
    assert found.bias[1] - found.bias[0] == pytest.approx(1, abs=0.1)
    two = fit_classes(true[:500], targets[:500].clamp(max=1))
    assert two.fitted == [True, True, False]
    assert two.bias[2] == 0
    assert two.threshold == []


def test_a_label_without_positives_is_left_alone() -> None:
    labels = torch.tensor([[False, True], [False, False], [False, True]])
    known = torch.tensor([True, True, False])
    found = fit_labels(torch.tensor([[1.0, 3], [2, -1], [0, -9]]), labels, known)
    assert found.fitted == [False, True]
    assert (found.temperature[0], found.bias[0], found.threshold[0]) == (1, 0, 0.5)
    assert 0 < found.temperature[1] < 10  # perfectly ranked, and still finite


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 0.55),
        ([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], 0.2),
        ([0.4, 0.4, 0.4, 0.1], [1, 0, 1, 0], 0.25),
        ([0.4, 0.2], [1, 1], 0.1),
    ],
)
def test_thresholds_of_best_f1(scores: list[float], labels: list[int], expected: float) -> None:
    found = best_f1_threshold(np.array(scores), np.array(labels) > 0)
    assert found == pytest.approx(expected)


def test_predictions_use_the_calibration() -> None:
    model, (pixels, valid) = make().eval(), image(64, 64)
    raw = model.predict(pixels, valid)
    types = LabelCalibration([2.0] * 6, [1.0] * 6, [0.0] * 5 + [1.0])
    phase = LabelCalibration([0.5], [0.0, 0.0, 3.0], [])
    low = float(raw.mask_probability.min())  # type: ignore[union-attr]
    model.calibration = dataclasses.replace(
        model.calibration, activity_types=types, volcano_phase=phase, mask_threshold=low
    )
    seen = model.predict(pixels, valid)
    logits = torch.from_numpy(raw.logits["activity_types"])
    np.testing.assert_allclose(seen.activity_types, (logits / 2 + 1).sigmoid().numpy(), rtol=1e-5)
    assert seen.present["activity_types"].tolist() == [True] * 5 + [False]
    logits = torch.from_numpy(raw.logits["volcano_phase"])
    expected = (logits * 2 + torch.tensor([0, 0, 3.0])).softmax(0)
    np.testing.assert_allclose(seen.volcano_phase, expected.numpy(), rtol=1e-5)
    assert seen.deformation == raw.deformation
    assert seen.mask is not None
    assert seen.mask.all()
    row = seen.row(7, "masks/7.png")
    assert row["unique_id"] == 7
    assert list(row) == ["unique_id", *LABELS, "mask"]
    assert row["activity_types"]["sill"] == pytest.approx(seen.activity_types[2])


# Sampling


def known_labels() -> dict[str, Any]:
    labels = {name: np.zeros((10, len(names))) for name, names in LABELS.items()}
    labels["deformation"][:2] = 1
    labels["activity_types"][:2, 2] = 1
    labels["activity_types"][1, 0] = 1
    labels["intensities"][2:] = np.nan
    labels["intensities"][0, 0] = 1
    labels["volcano_phase"][:, 0] = 1
    labels["atmosphere"][:, 2] = 1
    return labels


def test_balanced_draws_and_rare_classes() -> None:
    labels = known_labels()
    assert sampling_weights(labels, "none", 0.0) is None
    even = sampling_weights(labels, "deformation", 0.0)
    assert even is not None
    assert even[:2].sum() == pytest.approx(even[2:].sum())
    assert even[0] == even[1]
    rare = sampling_weights(labels, "none", 0.4)
    assert rare is not None
    assert rare.tolist() == pytest.approx([2**0.5, 2] + [1] * 8)  # shares 0.2 and 0.1 of 0.4
    shares = label_shares(labels, even)
    assert shares["deformation"][0] == pytest.approx(6 / 12)
    assert shares["intensities"][0] == pytest.approx(3.5 / 7)  # of 5 draws that deform
    assert shares["volcano_phase"].tolist() == pytest.approx([11 / 13, 1 / 13, 1 / 13])


def test_sets_are_shared_out_and_each_balanced_for_itself() -> None:
    labels = known_labels()
    labels["deformation"][:] = 0
    labels["deformation"][[0, 4, 5, 6, 7]] = 1  # 1 of the first 4, 4 of the other 6
    weights = sampling_weights(labels, "deformation", 0.0, sizes=[4, 6], rest_share=0.7)
    assert weights is not None
    assert weights[:4].tolist() == pytest.approx([0.15, 0.05, 0.05, 0.05])
    assert weights[4:].tolist() == pytest.approx([0.0875] * 4 + [0.175] * 2)
    plain = sampling_weights(labels, "none", 0.0, sizes=[4, 6], rest_share=0.5)
    assert plain is not None
    assert plain.tolist() == pytest.approx([1 / 8] * 4 + [1 / 12] * 6)
    assert sampling_weights(labels, "deformation", 0.0, sizes=[10]) is None  # 5 of each, one set
    three = sampling_weights(labels, "none", 0.0, sizes=[2, 2, 6], rest_share=0.8)
    assert three is not None
    assert [three[:2].sum(), three[2:4].sum(), three[4:].sum()] == pytest.approx([0.2, 0.4, 0.4])
    groups = ["etna"] * 8 + ["taal"] * 2
    even = sampling_weights(labels, "none", 0.0, groups=groups, group_power=1.0)
    assert even is not None
    assert even[:8].sum() == pytest.approx(even[8:].sum())
    groups = ["etna"] * 4 + ["taal"] * 2 + ["etna"] + ["taal"] * 3
    of_two = {"sizes": [6, 4], "rest_share": 0.5, "groups": groups, "group_power": 1.0}
    even = sampling_weights(labels, "none", 0.0, **of_two)  # type: ignore[arg-type]
    assert even is not None
    sums = [even[:4].sum(), even[4:6].sum(), even[6], even[7:].sum()]
    assert sums == pytest.approx([0.25] * 4)


# Disk and starts


def test_saved_and_read_again(tmp_path: Path) -> None:
    model = make(**ALL_PARTS, input="rgb").eval()
    quality = LabelCalibration([2.0] * 7, [0.1] * 7, [0.3] * 7, [0.2] * 7, [True] * 7)
    model.calibration = dataclasses.replace(model.calibration, quality=quality, mask_threshold=0.4)
    model.save_pretrained(tmp_path / "model")
    again = Heads.from_pretrained(tmp_path / "model")
    assert not again.training
    assert again.calibration == model.calibration
    assert again.config == model.config
    assert again.model_id == model.model_id
    one, other = (m.predict(*image(80, 70)) for m in (model, again))
    assert one.deformation == other.deformation
    np.testing.assert_array_equal(one.mask_probability, other.mask_probability)
    with torch.no_grad():
        model.encoder.projection.bias.add_(1)
    model.encoder.save_pretrained(tmp_path / "model" / "encoder")
    with pytest.raises(HephError, match="sha256 is"):
        Heads.from_pretrained(tmp_path / "model")


def test_a_start_from_a_saved_encoder(tmp_path: Path) -> None:
    source = make()
    with torch.no_grad():
        source.encoder.projection.bias.fill_(5.0)
    source.save_pretrained(tmp_path / "heads")
    sha256 = source.encoder.save_pretrained(tmp_path / "alone")
    for folder in ("heads", "alone"):
        model = make()
        model.encoder.fill_from(tmp_path / folder, sha256)
        assert (model.encoder.projection.bias == 5).all()
    with pytest.raises(HephError, match="sha256 is"):
        make().encoder.fill_from(tmp_path / "heads", "0" * 64)
    other = make(encoder={"num_heads": 4})
    with pytest.raises(HephError, match="encoder's num_heads is 2, the config's 4; set model"):
        other.encoder.fill_from(tmp_path / "heads")


def test_saved_heads_go_on_whole(tmp_path: Path) -> None:
    source, model = make(), make()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1)
    source.save_pretrained(tmp_path)
    model.fill_from(tmp_path)
    assert model.model_id == source.model_id
    for changes, told in (
        ({"segmentation_weight": 0.0}, "segmentation_weight is True, the config's False"),
        ({"input": "grey"}, "input is phasor, the config's grey; set model.input"),
        ({"encoder": {"num_heads": 4}}, "encoder's num_heads is 2, the config's 4"),
    ):
        with pytest.raises(HephError, match=told):
            make(**changes).fill_from(tmp_path)  # type: ignore[arg-type]


def test_a_frozen_encoder_stays_as_it_is() -> None:
    model, batch = make(freeze_encoder=True, encoder={"norm": "batch"}), make_batch([0, 1, 2])
    model.train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    loss, _ = heads_loss(model, batch)
    loss.backward()
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert all(p.grad is None for p in model.encoder.parameters())
    own = [p for k, p in model.named_parameters() if not k.startswith("encoder.")]
    assert all(p.grad is not None for p in own)


def test_a_few_images_are_learnt_by_heart() -> None:
    model, batch = make(**ALL_PARTS), make_batch([0, 1, 2, 3])
    optimizer = make_optimizer(model, 3e-3, 0.0)
    history = []
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 60)
        loss, logs = heads_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(logs)
    for part in history[0]:
        assert history[-1][part] < 0.5 * history[0][part], part
    seen = model.eval().predict_batch(batch["pixel_values"], batch["valid"], batch["size"])
    assert [s.deformation > 0.5 for s in seen] == [False, True, True, True]
    assert [int(s.activity_types.argmax()) for s in seen[1:]] == [0, 1, 2]
    for s, true in zip(seen, batch["mask"].numpy(), strict=True):
        assert s.mask is not None
        both = (s.mask > 0) & (true[:, :57] > 0)
        assert not true.any() or both.sum() > 0.6 * ((s.mask > 0) | (true[:, :57] > 0)).sum()
