"""Prototypes: distances, both losses and the pseudo-label stage against numbers by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from heph_vl.errors import HephError
from heph_vl.models.prototypes import (
    Prototypes,
    PrototypesConfig,
    go_on_from,
    prototype_loss,
)
from heph_vl.models.weights import weights_sha256

HIDDEN = [24, 16]


def make(hidden: list[int] | None = None) -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(PrototypesConfig("test_resnet", hidden=hidden or []))


def at(point: list[float]) -> Prototypes:
    """A model that puts every patch at one point, with centres at (0, 0, 0) and (1, 2, 0)."""
    model = make()
    with torch.no_grad():
        model.projection[0].weight.zero_()
        model.projection[0].bias.copy_(torch.tensor(point))
        model.centres.copy_(torch.tensor([[0.0, 0, 0], [1, 2, 0]]))
    return model


def patches(*labels: bool, side: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(labels), 3, side, side, generator=generator)
    target = torch.tensor(labels)
    return {
        "pixel_values": images + 2.0 * target[:, None, None, None],
        "deformation": target,
    }


def test_distances_and_probability_by_hand() -> None:
    model = at([1.0, 0.0, 0.0]).eval()
    images = patches(False, True)["pixel_values"]
    torch.testing.assert_close(model(images), torch.tensor([[1.0, 4.0]]).expand(2, 2))
    # softmax(-2 * (1, 4)) of the second class
    expected = torch.full((2,), 1 / (1 + math.exp(6)))
    torch.testing.assert_close(model.probability(images), expected)


@pytest.mark.parametrize(
    ("label", "nll", "pull"),
    [(False, math.log1p(math.exp(-6)), 1.0), (True, 6 + math.log1p(math.exp(-6)), 4.0)],
)
def test_both_losses_by_hand(label: bool, nll: float, pull: float) -> None:
    loss, logs = prototype_loss(at([1.0, 0.0, 0.0]), patches(label, label))
    assert loss.item() == pytest.approx(nll + pull, rel=1e-5)
    assert float(logs["nll"]) == pytest.approx(nll, rel=1e-4)
    assert float(logs["pull"]) == pytest.approx(pull, rel=1e-5)
    assert float(logs["accuracy"]) == (not label)
    assert float(logs["deforming"]) == label


def test_a_batch_is_averaged() -> None:
    loss, _ = prototype_loss(at([1.0, 0.0, 0.0]), patches(False, True))
    nll = (2 * math.log1p(math.exp(-6)) + 6) / 2
    assert loss.item() == pytest.approx(nll + 2.5, rel=1e-5)


def test_gradients_of_the_centres_by_hand() -> None:
    # One patch of class 1 at f; p = softmax of the logits. d loss / d c_1 = 2 (c_1 - f)(2 (1 - p_1)
    # + 1): toward f. d loss / d c_0 = -4 p_0 (c_0 - f): away from it.
    model = at([1.0, 0.0, 0.0])
    prototype_loss(model, patches(True, True))[0].backward()
    p0, f, c1 = 1 / (1 + math.exp(-6)), torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 2, 0])
    expected = torch.stack([-4 * p0 * (torch.zeros(3) - f), (4 * p0 + 2) * (c1 - f)])
    assert model.centres.grad is not None
    torch.testing.assert_close(model.centres.grad, expected, rtol=1e-5, atol=1e-5)


def test_classes_gather_around_their_centres() -> None:
    model, batch = make(), patches(*[False, True] * 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=3e-3, momentum=0.9)
    first = prototype_loss(model, batch)[0].item()
    for _ in range(40):
        loss, _ = prototype_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    distances = model(batch["pixel_values"])
    own = distances.gather(1, batch["deformation"].long()[:, None])
    other = distances.gather(1, (~batch["deformation"]).long()[:, None])
    assert loss.item() < 0.3 * first
    assert (own < other).all()


def test_the_pseudo_label_stage_trains_the_new_projection_only() -> None:
    model, batch = make().train(), patches(False, True, True, False)
    prototype_loss(model, batch)[0].backward()  # norms have moved from their start
    model.zero_grad()
    old = model.projection[0]
    model.start_pseudo_labels(HIDDEN)
    assert [p.shape for p in model.projection.parameters() if p.ndim == 2] == [
        (24, model.width),
        (16, 24),
        (3, 16),
    ]
    assert old not in set(model.projection.modules())
    kept = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("projection")}
    projection = [p.detach().clone() for p in model.projection.parameters()]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 6
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model.train()  # as the loop does after each evaluation
        prototype_loss(model, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    state = model.state_dict()
    assert {"centres", "backbone.bn1.running_mean", "backbone.layer4.0.conv1.weight"} <= kept.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    changed = [not torch.equal(a, b) for a, b in zip(projection, trained, strict=True)]
    assert all(changed)


@pytest.mark.parametrize("hidden", [[], HIDDEN])
def test_a_saved_model_comes_back(tmp_path: Path, hidden: list[int]) -> None:
    model = make(hidden).eval()
    model.save_pretrained(tmp_path)
    again = Prototypes.from_pretrained(tmp_path)
    assert again.config == model.config
    images = patches(False, True)["pixel_values"]
    assert torch.equal(again(images), model(images))
    assert not again.frozen


def test_a_saved_model_goes_on_on_its_own_backbone_only(tmp_path: Path) -> None:
    model = make().eval()
    model.save_pretrained(tmp_path)
    again, start = go_on_from(tmp_path, "test_resnet")
    images = patches(False, True)["pixel_values"]
    assert torch.equal(again(images), model(images))
    assert start == {
        "source": str(tmp_path),
        "sha256": weights_sha256(tmp_path),
        "share": 1.0,
        "random": [],
    }
    with pytest.raises(HephError, match=r"is on test_resnet, model\.backbone is resnet18; give"):
        go_on_from(tmp_path, "resnet18")


def test_an_unknown_backbone_and_another_model_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(HephError, match=r"model\.backbone: nosuchnet: Unknown model"):
        Prototypes(PrototypesConfig("nosuchnet"))
    (tmp_path / "config.json").write_text('{"model": "encoder"}')
    with pytest.raises(HephError, match="saved encoder; name a saved prototypes"):
        Prototypes.from_pretrained(tmp_path)
