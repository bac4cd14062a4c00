"""The patch classifier, its input, and every start that its backbone can have."""

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from heph_vl.errors import HephError
from heph_vl.models.encoder import Encoder, EncoderConfig
from heph_vl.models.patch_classifier import (
    PatchClassifier,
    PatchClassifierConfig,
    classifier_loss,
    initialise,
    predict,
)

NAME = "test_resnet"


def make() -> PatchClassifier:
    torch.manual_seed(0)
    return PatchClassifier(PatchClassifierConfig(NAME))


def encoder(folder: Path, **changes: object) -> Encoder:
    torch.manual_seed(1)
    config = {"backbone": NAME, "dim": 16, "tile_size": 32, "tile_overlap": 0, "num_latents": 2}
    made = Encoder(EncoderConfig(**config | {"num_heads": 2} | changes))
    made.save_pretrained(folder)
    return made


def test_loss_and_probability_by_hand() -> None:
    model = make()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 2.0]))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = {"pixel_values": images, "deformation": torch.tensor([True, False, False])}
    loss, logs = classifier_loss(model, batch)
    right = math.log1p(math.exp(-2))  # -log of the probability of deformation, e^2 / (1 + e^2)
    assert loss.item() == pytest.approx((right + 2 * (right + 2)) / 3, rel=1e-5)
    assert float(logs["accuracy"]) == pytest.approx(1 / 3)
    assert float(logs["deforming"]) == pytest.approx(1 / 3)
    expected = torch.full((3,), 1 / (1 + math.exp(-2)))
    torch.testing.assert_close(model.probability(images), expected)


class Constant:
    """Patches whose values are all their own index / 10."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        assert key[1] == 0
        return {"pixel_values": torch.full((3, 32, 32), key[0] / 10)}


@pytest.mark.parametrize("batch_size", [2, 8])
def test_predictions_are_in_order_and_leave_the_mode(batch_size: int) -> None:
    model = make().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = predict(model, Constant(), batch_size=batch_size, num_workers=0)
    assert model.training
    assert len(same(before, model.state_dict())) == len(before)  # no norm has drifted
    model.eval()
    with torch.no_grad():
        alone = [model.probability(torch.full((1, 3, 32, 32), i / 10)).item() for i in range(5)]
    assert len(set(alone)) == 5
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_a_saved_classifier_comes_back(tmp_path: Path) -> None:
    model = make().eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(PatchClassifier.from_pretrained(tmp_path)(images), model(images))


def same(one: dict[str, Tensor], other: dict[str, Tensor], prefix: str = "") -> list[str]:
    """Names of the first one's tensors that are equal to the other's."""
    return [k for k, v in one.items() if prefix + k in other and torch.equal(v, other[prefix + k])]


def test_random_changes_nothing() -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = initialise(model.backbone, NAME, {}, "random")
    assert done == {"source": "random", "share": 0.0, "random": ["all"]}
    assert len(same(before, model.state_dict())) == len(before)


def test_a_file_of_timms_weights_fills_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(9)
    given = timm.create_model(NAME).state_dict()  # with the head that a classifier drops
    path = tmp_path / "weights.safetensors"
    save_file(given, path)
    model = make()
    done = initialise(model.backbone, NAME, {}, str(path))
    state = model.backbone.state_dict()
    assert len(same(state, given)) == len(state)
    assert done["share"] == 1.0
    assert done["random"] == []
    assert len(done["sha256"]) == 64
    save_file({k: v for k, v in given.items() if not k.startswith("layer2")}, path)
    with pytest.raises(HephError, match=r"no weights of test_resnet: layer2 is missing"):
        initialise(model.backbone, NAME, {}, str(path))


def test_an_encoder_gives_what_it_has(tmp_path: Path) -> None:
    given = encoder(tmp_path).state_dict()
    model = make()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    done = initialise(model.backbone, NAME, {}, str(tmp_path))
    state = model.backbone.state_dict()
    lacking = {name for name in state if name.startswith("layer4")}
    assert lacking
    assert set(same(state, given, "backbone.model.")) == set(state) - lacking
    assert set(same(state, before)) >= lacking
    assert done["random"] == ["layer4"]
    sizes = {name: p.numel() for name, p in model.backbone.named_parameters()}
    share = sum(n for name, n in sizes.items() if name not in lacking) / sum(sizes.values())
    assert done["share"] == pytest.approx(share, abs=1e-4)


def test_an_undivided_encoder_gives_all(tmp_path: Path) -> None:
    encoder(tmp_path, backbone_options={"output_stride": 16})
    done = initialise(make().backbone, NAME, {}, str(tmp_path))
    assert (done["share"], done["random"]) == (1.0, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "group"}, "is an encoder on test_resnet with group norm"),
        ({"backbone": "resnet10t"}, "is an encoder on resnet10t with batch norm"),
    ],
)
def test_another_encoder_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    encoder(tmp_path, **changes)
    with pytest.raises(HephError, match=message):
        initialise(make().backbone, NAME, {}, str(tmp_path))


def test_without_the_hub_imagenet_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def offline(name: str, **options: object) -> None:
        assert options["pretrained"]
        raise OSError("connect\nrefused")

    backbone = make().backbone
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(HephError) as found:
        initialise(backbone, NAME, {}, "imagenet")
    text = str(found.value)
    assert text.startswith(
        "model.init: imagenet: ImageNet weights of test_resnet cannot be had from the hub "
        "(connect refused); name another: random, a .safetensors file"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.safetensors", "model.init: .*: no such file; imagenet, or name another: random"),
        ("imagenett", "model.init: imagenett: no such initialisation; imagenet, or name another"),
    ],
)
def test_a_start_that_does_not_exist_is_one_line(source: str, message: str) -> None:
    with pytest.raises(HephError, match=message):
        initialise(make().backbone, NAME, {}, source)


def test_broken_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(HephError, match=r"broken\.safetensors: cannot be read"):
        initialise(make().backbone, NAME, {}, str(path))
