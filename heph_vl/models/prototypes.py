"""Prototype learning on simulated InSAR (SwinPL): two class centres in a 3-dimensional space.

    B patches, C channels of the backbone's pooled features, K = 2 classes: none, deformation

    pixel_values (B, 3, t, t) -> backbone -> pooled (B, C) -> projection -> f (B, 3)
    distances_k = ||f - c_k||^2 (B, K), logits_k = -2 distances_k
    loss = NLL(logits, y) + ||f - c_y||^2

Source: Bountos, Michail and Papoutsis (2022), "Learning from synthetic InSAR with vision
transformers", with Swin-B. Three uses: training on simulated patches; going on with labelled ones
(Table 4 of the Hephaestus paper); and the pseudo-label stage, where backbone and centres stay as
they are and a new projection learns the model's own labels of images without records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.backbone import pooled_backbone

DIM, CLASSES = 3, 2


@dataclass(frozen=True)
class PrototypesConfig:
    """Parts of the model."""

    backbone: str = "swin_base_patch4_window7_224"  # any timm model
    backbone_options: dict[str, Any] = field(default_factory=dict)  # of timm.create_model
    hidden: list[int] = field(default_factory=list)  # of the projection; none: one linear layer


class Prototypes(OnHub, nn.Module):
    """Patches -> squared distances to the centres of none and of deformation.

    Args:
        config: Backbone and projection.

    Raises:
        HephError: If timm has no such model.
    """

    def __init__(self, config: PrototypesConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.width = pooled_backbone(config.backbone, config.backbone_options)
        self.projection = _projection(self.width, config.hidden)
        self.centres = nn.Parameter(torch.randn(CLASSES, DIM))
        self.frozen = False  # the pseudo-label stage's backbone and centres

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Squared distances (B, K) float32 of patches (B, 3, t, t) to the centres."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled = self.backbone(pixel_values)
        f = self.projection(pooled).float()
        distances: Tensor = (f[:, None] - self.centres.float()).square().sum(-1)
        return distances

    def probability(self, pixel_values: Tensor) -> Tensor:
        """Probability of deformation (B,) float32 of patches (B, 3, t, t)."""
        probability: Tensor = (-2 * self(pixel_values)).softmax(1)[:, 1]
        return probability

    def start_pseudo_labels(self, hidden: list[int]) -> None:
        """Freeze backbone and centres, and put a new projection in the place of the old one.

        Args:
            hidden: Widths of its hidden layers, [8096, 16000] in the paper.
        """
        self.config = replace(self.config, hidden=list(hidden))
        self.projection = _projection(self.width, hidden).to(self.centres.device)
        self.backbone.requires_grad_(False)
        self.centres.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Prototypes":
        """Training mode; a frozen backbone stays in evaluation mode, or its norms would drift."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def save_pretrained(self, folder: str | Path) -> str:
        """Write the model to a folder; the sha256 of its weights."""
        return weights.write_model(folder, "prototypes", self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "Prototypes":
        """Read a model from a folder of `save_pretrained`, in evaluation mode, nothing frozen.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.

        Returns:
            The model.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "prototypes")
        where = f"{Path(folder) / weights.CONFIG}: config"
        model = cls(weights.config_from_dict(PrototypesConfig, entries["config"], where))
        weights.fill(model, weights.read_weights(folder, entries["weights_sha256"]), folder)
        return model.eval()


def go_on_from(folder: str | Path, backbone: str) -> tuple[Prototypes, dict[str, Any]]:
    """A saved model to be trained further, and what it starts from.

    Args:
        folder: Where it was saved.
        backbone: What it must be on.

    Returns:
        The model; and as `patch_classifier.initialise`, for the run's results.

    Raises:
        HephError: If the folder cannot be read, or the model is on another backbone.
    """
    model = Prototypes.from_pretrained(folder)
    if model.config.backbone != backbone:
        what = f"it is on {model.config.backbone}, model.backbone is {backbone}"
        raise HephError(f"model.init: {folder}", what, "give both the same backbone")
    sha256 = weights.weights_sha256(folder)
    return model, {"source": str(folder), "sha256": sha256, "share": 1.0, "random": []}


def prototype_loss(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """NLL of the distances' softmax, and the squared distance to the own centre.

    Without the second term features would only have to be nearer to their centre than to the
    other; with it they gather around it.

    Args:
        model: A `Prototypes`, possibly wrapped for several ranks.
        batch: `pixel_values` (B, 3, t, t) and `deformation` (B,) bool.

    Returns:
        The loss (), and scalars to log.
    """
    distances, target = model(batch["pixel_values"]), batch["deformation"].long()
    nll = F.cross_entropy(-2 * distances, target)
    pull = distances.gather(1, target[:, None]).mean()
    return nll + pull, {
        "nll": nll.detach(),
        "pull": pull.detach(),
        "accuracy": (distances.detach().argmin(1) == target).float().mean(),
        "deforming": target.float().mean(),
    }


def _projection(width: int, hidden: list[int]) -> nn.Sequential:
    # ReLU between the layers is our choice: the paper gives their widths only.
    layers: list[nn.Module] = []
    for after in hidden:
        layers += [nn.Linear(width, after), nn.ReLU()]
        width = after
    return nn.Sequential(*layers, nn.Linear(width, DIM))
