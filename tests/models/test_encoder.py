"""What the encoder sees must not depend on padding, company, chunks or the backbone's family."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from heph_vl.errors import HephError
from heph_vl.models.encoder import (
    AttentionPool,
    Encoder,
    EncoderConfig,
    EncoderOutput,
    balanced_mean,
    cell_positions,
    saliency_terms,
)

TINY = EncoderConfig(
    backbone="test_resnet", norm="group", dim=32, tile_size=64, num_latents=8, num_heads=2
)
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
SMALL_VIT = {"depth": 1, "embed_dim": 32, "num_heads": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {},
    "test_convnext": {},
    "swin_tiny_patch4_window7_224": SWIN,
    "test_efficientnet": {},
}


def make(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(dataclasses.replace(TINY, **changes))


def images(batch: int = 2, height: int = 96, width: int = 150) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, height, width, generator=generator)
    return pixels, torch.rand(batch, height, width, generator=generator) < 0.9


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=2e-5)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_gives_stride_16_and_trains_whole(backbone: str) -> None:
    encoder = make(backbone=backbone, backbone_options=FAMILIES[backbone])
    pixels, valid = images()
    out = encoder(pixels, valid, return_pyramid=True)
    assert out.grid == (6, 10)
    assert out.tokens.shape == (2, 60, 32)
    assert out.latents.shape == (2, 8, 32)
    assert torch.equal(out.pooled, out.latents[:, 0])
    assert out.tiles.tolist() == [[b, y, x] for b in (0, 1) for y in (0, 1) for x in range(4)]
    assert out.pyramid is not None
    assert out.pyramid[16].shape[2:] == (4, 4)
    for stride, features in out.pyramid.items():
        assert features.shape[0] == 16
        assert features.shape[2:] == (64 // stride, 64 // stride)
    out.pooled.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        # Without a gradient here, DistributedDataParallel would wait for ever.
        assert not parameter.requires_grad or parameter.grad is not None, name
    assert encoder(pixels, valid).pyramid is None


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(HephError, match=r"^encoder.backbone: nonsense_net: Unknown model"):
        make(backbone="nonsense_net")


def test_the_default_backbone_is_cut_after_layer3() -> None:
    encoder = Encoder(EncoderConfig())
    assert sum(p.numel() for p in encoder.backbone.parameters()) == 2_782_784
    assert encoder.backbone.strides == [2, 4, 8, 16]


def test_what_is_outside_an_image_has_no_influence() -> None:
    encoder = make().eval()
    pixels, valid = images(3)
    size = torch.tensor([[96, 150], [50, 64], [33, 120]])
    together = encoder(pixels, valid, size)
    for i, (height, width) in enumerate(size.tolist()):
        alone = encoder(pixels[i : i + 1, :, :height, :width], valid[i : i + 1, :height, :width])
        rows, columns = alone.grid
        close(together.latents[i], alone.latents[0])
        of_grid = together.tokens[i].view(*together.grid, -1)
        close(of_grid[:rows, :columns].flatten(0, 1), alone.tokens[0])
        assert not of_grid[rows:].any()
        assert not of_grid[:, columns:].any()
        assert together.token_mask[i].sum() == alone.token_mask.sum()


def test_values_without_data_have_no_influence() -> None:
    encoder = make().eval()
    pixels, valid = images()
    changed = torch.where(valid[:, None], pixels, 7.0)
    assert torch.equal(encoder(pixels, valid).latents, encoder(changed, valid).latents)


def test_group_norm_keeps_an_image_apart_from_its_batch_and_batch_norm_does_not() -> None:
    pixels, valid = images(4, 64, 64)
    for norm, alike in (("group", True), ("batch", False)):
        encoder = make(norm=norm).train()
        has_batch_norm = any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
        assert has_batch_norm != alike
        full, half = encoder(pixels, valid).pooled[:2], encoder(pixels[:2], valid[:2]).pooled
        assert torch.allclose(full, half, rtol=0, atol=1e-5) == alike


def test_overlaps_come_from_the_nearer_tile() -> None:
    encoder = make(tile_overlap=32).eval()
    pixels, _ = images(1, 64, 96)
    out = encoder(pixels, torch.ones(1, 64, 96, dtype=torch.bool))
    assert out.tiles.tolist() == [[0, 0, 0], [0, 0, 1]]
    code = encoder.position(out.token_positions)[0].view(4, 6, -1)
    tokens = out.tokens[0].view(4, 6, -1) - code
    for start, columns in ((0, [0, 1, 2]), (32, [3, 4, 5])):
        features = encoder.backbone(pixels[:, :, :, start : start + 64])[16]
        cells = encoder.norm(encoder.projection(features[0].permute(1, 2, 0)))
        for column in columns:
            close(tokens[:, column], cells[:, column - start // 16])


def test_a_dropped_tile_leaves_its_overlap_to_the_other() -> None:
    pixels, _ = images(1, 64, 96)
    valid = torch.zeros(1, 64, 96, dtype=torch.bool)
    valid[:, :, :64] = True
    out = make(tile_overlap=32, min_valid_tile=0.6)(pixels, valid)
    assert out.tiles.tolist() == [[0, 0, 0]]
    assert out.token_mask[0].view(4, 6).all(0).tolist() == [True] * 4 + [False] * 2


def test_an_image_without_data_has_no_token_and_is_finite() -> None:
    encoder = make()
    pixels, valid = images()
    valid[1] = False
    out = encoder(pixels, valid)
    assert not out.token_mask[1].any()
    assert out.token_mask[0].any()
    out.pooled.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert out.latents.isfinite().all()


def test_chunks_without_gradient_change_nothing() -> None:
    encoder = make(max_tiles_per_forward=3).eval()
    calls: list[int] = []
    encoder.backbone.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    whole = encoder(*images(), return_pyramid=True)
    with torch.no_grad():
        chunked = encoder(*images(), return_pyramid=True)
    assert calls == [16, 3, 3, 3, 3, 3, 1]
    close(chunked.latents, whole.latents)
    assert whole.pyramid is not None
    assert chunked.pyramid is not None
    for stride, features in whole.pyramid.items():
        close(chunked.pyramid[stride], features)


def test_positions_are_relative_to_the_image() -> None:
    positions = cell_positions(torch.tensor([[32, 64], [32, 40]]), (2, 4)).view(2, 2, 4, 2)
    assert positions[0, 0, :, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert positions[0, :, 0, 1].tolist() == [0.25, 0.75]
    torch.testing.assert_close(positions[1, 1, :, 0], torch.tensor([0.2, 0.6, 1.0, 1.0]))


def test_saliency_lifts_one_token_out_of_thousands() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(32, 8, 2)
    tokens, mask = torch.randn(1, 4000, 32), torch.ones(1, 4000, dtype=torch.bool)
    changed = tokens.clone()
    changed[0, 1234] = torch.randn(32)
    saliency = torch.zeros(1, 4000)
    drowned = (pool(changed, mask, saliency) - pool(tokens, mask, saliency))[0, 0].norm()
    saliency[0, 1234] = 10
    lifted = (pool(changed, mask, saliency) - pool(tokens, mask, saliency))[0, 0].norm()
    assert lifted > 50 * drowned  # it reaches `pooled`, whose own query has no such bias
    mask[0, 1234] = False
    assert torch.equal(pool(changed, mask, saliency), pool(tokens, mask, saliency))


def test_only_the_second_half_of_the_queries_feels_saliency() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(32, 8, 2)
    nn.init.zeros_(pool.self_out.weight)  # no exchange among the latents
    tokens, mask = torch.randn(1, 50, 32), torch.ones(1, 50, dtype=torch.bool)
    change = pool(tokens, mask, torch.randn(1, 50)) - pool(tokens, mask, torch.zeros(1, 50))
    assert (change[0].norm(dim=1) > 1e-4).tolist() == [False] * 4 + [True] * 4


def test_saliency_loss_by_hand() -> None:
    mask = torch.zeros(1, 32, 40, dtype=torch.int64)  # 2 x 3 cells
    mask[0, 31, 0] = 4
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 3.0, 9.0]])
    token_mask = torch.tensor([[True, True, False, True, False, False]])
    terms = saliency_terms(logits, token_mask, mask)
    softplus = nn.functional.softplus
    positive = softplus(torch.tensor(-2.0))
    negative = softplus(torch.tensor(0.0)) + softplus(torch.tensor(1.0))
    torch.testing.assert_close(terms, torch.tensor([[positive, 1], [negative, 2]]))
    torch.testing.assert_close(balanced_mean(terms), (positive + negative / 2) / 2)
    assert balanced_mean(torch.tensor([[0.0, 0.0], [6.0, 3.0]])) == 1.0


def test_bf16_is_finite_and_near() -> None:
    encoder = make().eval()
    with torch.autocast("cpu", torch.bfloat16):
        low: EncoderOutput = encoder(*images())
    assert (low.pooled.float() - encoder(*images()).pooled).abs().max() < 0.2


def test_saved_and_read_again(tmp_path: Path) -> None:
    encoder = make(backbone_options={"stem_width": 32}, norm="batch")
    encoder(*images())  # moves the batch norms' statistics
    sha256 = encoder.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path, sha256=sha256)
    assert not again.training
    assert again.config == encoder.config
    assert torch.equal(again(*images()).latents, encoder.eval()(*images()).latents)
    assert again.save_pretrained(tmp_path / "copy") == sha256
    with torch.no_grad():
        next(encoder.parameters()).add_(1e-3)
    assert encoder.save_pretrained(tmp_path / "changed") != sha256


def break_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    entries["config"].update(changes)
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text('{"model": "enc'), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "saved other model"),
        (lambda f: (f / "config.json").write_text('{"model": "captioner"}'), "saved captioner"),
        (lambda f: (f / "config.json").write_text('{"model": "encoder"}'), "is missing"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights here"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "broken or other weights"),
        (lambda f: break_config(f, dim=64), "do not fit the config"),
        (lambda f: break_config(f, colour=1), "config.colour: no such setting"),
        (lambda f: break_config(f, dim="32"), "config.dim: '32' is not"),
        (lambda f: break_config(f, norm="layer"), "config.norm: 'layer' is not"),
        (lambda f: break_config(f, pretrained=3), "config.pretrained: 3 is not"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(harm: Any, told: str, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(HephError, match=told) as caught:
        Encoder.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_weights_than_expected_are_refused(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    with pytest.raises(HephError, match="expected 000000000000"):
        Encoder.from_pretrained(tmp_path, sha256="0" * 64)


def test_pretrained_weights_come_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = timm.create_model("test_resnet")
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    encoder = make(pretrained=str(path))
    assert torch.equal(encoder.backbone.model.conv1[0].weight, source.conv1[0].weight)
    encoder.save_pretrained(tmp_path / "saved")
    path.unlink()  # no longer needed: the encoder's weights include them
    assert Encoder.from_pretrained(tmp_path / "saved").config.pretrained is None


def test_pretrained_weights_come_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its cache, as laid out by a download: there is no network here."""
    torch.manual_seed(5)
    source = timm.create_model("test_resnet")
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    safetensors.torch.save_file(source.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = make(pretrained="hub")
    assert torch.equal(encoder.backbone.model.conv1[0].weight, source.conv1[0].weight)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(HephError, match=r"encoder\.pretrained: hub") as caught:
        make(pretrained="hub")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"backbone": "resnet_of_ours"}, "encoder.backbone: resnet_of_ours"),
        ({"backbone": "vit_small_patch32_224", "backbone_options": SMALL_VIT}, "has features at"),
        ({"backbone_options": {"colour": 1}}, "encoder.backbone: test_resnet"),
        ({"tile_size": 100}, "encoder.tile_size: 100 px"),
        ({"tile_overlap": 64}, "encoder.tile_overlap: 64 px"),
        ({"tile_overlap": 8}, "encoder.tile_overlap: 8 px"),
        ({"num_heads": 3}, "num_heads must divide dim"),
        ({"num_latents": 7}, "num_latents be even"),
        ({"pretrained": "weights.pth"}, "not a .safetensors file"),
        ({"pretrained": "absent.safetensors"}, "no such file"),
    ],
)
def test_a_wrong_config_is_told_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(HephError, match=told) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(HephError, match="these are no weights of test_resnet"):
        make(pretrained=str(path))
