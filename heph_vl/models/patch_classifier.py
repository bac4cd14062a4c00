"""The plain patch classifier of the paper's Table 4: any timm backbone, pooled, and a linear layer.

    B patches, C channels of the backbone's pooled features

    pixel_values (B, 3, t, t) -> backbone -> pooled (B, C) -> logits (B, 2): none, deformation
    loss = cross-entropy; batches are balanced by the sampler, not by weights

Unlike `encoder.Encoder` it sees the whole backbone, has no tiles and no saliency: it is what others
have measured, for comparison. `initialise` (first weights of a backbone) and `predict` serve
`prototypes.Prototypes` as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.backbone import pooled_backbone

_NAMED = "name another: random, a .safetensors file of timm's weights, or a saved encoder's folder"
_ENCODER = "backbone.model."  # where an Encoder keeps the features of its timm model


@dataclass(frozen=True)
class PatchClassifierConfig:
    """Parts of the classifier."""

    backbone: str = "resnet18"  # any timm model
    backbone_options: dict[str, Any] = field(default_factory=dict)  # of timm.create_model


class PatchClassifier(OnHub, nn.Module):
    """Patches -> deformation or none.

    Args:
        config: Its backbone.

    Raises:
        HephError: If timm has no such model.
    """

    def __init__(self, config: PatchClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, width = pooled_backbone(config.backbone, config.backbone_options)
        self.head = nn.Linear(width, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits (B, 2) of none and deformation for patches (B, 3, t, t)."""
        logits: Tensor = self.head(self.backbone(pixel_values))
        return logits

    def probability(self, pixel_values: Tensor) -> Tensor:
        """Probability of deformation (B,) float32 of patches (B, 3, t, t)."""
        probability: Tensor = self(pixel_values).float().softmax(1)[:, 1]
        return probability

    def save_pretrained(self, folder: str | Path) -> str:
        """Write the classifier to a folder; the sha256 of its weights."""
        return weights.write_model(folder, "patch_classifier", self.config, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None
    ) -> "PatchClassifier":
        """Read a classifier from a folder of `save_pretrained`, in evaluation mode.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.

        Returns:
            The classifier.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "patch_classifier")
        where = f"{Path(folder) / weights.CONFIG}: config"
        model = cls(weights.config_from_dict(PatchClassifierConfig, entries["config"], where))
        weights.fill(model, weights.read_weights(folder, entries["weights_sha256"]), folder)
        return model.eval()


def classifier_loss(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Cross-entropy of a batch.

    Args:
        model: A `PatchClassifier`, possibly wrapped for several ranks.
        batch: `pixel_values` (B, 3, t, t) and `deformation` (B,) bool.

    Returns:
        The loss (), and scalars to log.
    """
    logits, target = model(batch["pixel_values"]).float(), batch["deformation"].long()
    loss = F.cross_entropy(logits, target)
    return loss, {
        "accuracy": (logits.detach().argmax(1) == target).float().mean(),
        "deforming": target.float().mean(),
    }


@torch.no_grad()
def predict(model: Any, patches: Any, *, batch_size: int, num_workers: int) -> NDArray[np.float64]:
    """Probability of deformation of all patches; the model comes back in its mode.

    Args:
        model: A module with `probability`: pixel values (B, 3, t, t) -> (B,).
        patches: Sized, keyed by (index, draw), gives `pixel_values` (3, t, t).
        batch_size: B.
        num_workers: Processes that prepare batches.

    Returns:
        (N,) in [0, 1].
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    keys = [(index, 0) for index in range(len(patches))]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    found = [
        model.probability(batch["pixel_values"].to(device)).cpu()
        for batch in DataLoader(patches, batch_sampler=batches, num_workers=num_workers)
    ]
    model.train(was_training)
    probabilities: NDArray[np.float64] = torch.cat(found).double().numpy()
    return probabilities


def initialise(
    backbone: nn.Module, name: str, options: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Give a timm backbone its first weights.

    An encoder is cut after stride 16: what its backbone lacks (layer4 of a ResNet, three quarters
    of ResNet-18's parameters) stays random, and the result says so. One that was made with
    `backbone_options {output_stride: 16}` has it all.

    Args:
        backbone: `timm.create_model(name, num_classes=0, **options)`; overwritten.
        name: The timm model.
        options: Its other arguments.
        source: `imagenet` (timm's weights from the hub), `random`, a .safetensors file of timm's
            weights of that model, or the folder of an `Encoder` on it.

    Returns:
        What was done, for the run's results: `source`, `share` of the parameters that have got
        weights, `random` (parts that have not), and `sha256` of a file's or a folder's weights.

    Raises:
        HephError: If the weights cannot be had, or are not those of that model.
    """
    path = Path(source)
    done: dict[str, Any] = {"source": source}
    given: Mapping[str, Tensor] = {}
    if source == "imagenet":
        given = _from_hub(name, options)
    elif path.is_dir():
        given, done["sha256"] = _from_encoder(path, name)
    elif source != "random":
        given, done["sha256"] = _from_file(path, name)
    own = backbone.state_dict()
    missing = sorted({key.split(".")[0] for key in own.keys() - given.keys()})
    taken = {key: given[key] for key in own if key in given}
    wrong = [key for key, tensor in taken.items() if tensor.shape != own[key].shape]
    if wrong or (given and not taken) or (missing and path.suffix == ".safetensors"):
        what = f"no weights of {name}: {(wrong or missing)[0]} is missing or of another shape"
        raise HephError(f"model.init: {source}", what, f"give those of {name}, or change backbone")
    backbone.load_state_dict(taken, strict=False)
    sizes = {key: parameter.numel() for key, parameter in backbone.named_parameters()}
    share = sum(n for key, n in sizes.items() if key in taken) / sum(sizes.values())
    return done | {"share": round(share, 4), "random": missing if given else ["all"]}


def _from_hub(name: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except Exception as error:  # the hub's, the network's and timm's errors have no common class
        reason = " ".join(str(error).split())[:120]
        what = f"ImageNet weights of {name} cannot be had from the hub ({reason})"
        raise HephError("model.init: imagenet", what, _NAMED) from error
    return dict(model.state_dict())


def _from_file(path: Path, name: str) -> tuple[dict[str, Tensor], str]:
    if path.suffix != ".safetensors" or not path.is_file():
        what = "no such file" if path.suffix == ".safetensors" else "no such initialisation"
        raise HephError(f"model.init: {path}", what, f"imagenet, or {_NAMED}")
    try:
        state = safetensors.torch.load_file(path)
    except Exception as error:  # safetensors has no error class for every broken file
        raise HephError(f"model.init: {path}", f"cannot be read: {error}", _NAMED) from error
    return dict(state), weights.state_sha256(state)


def _from_encoder(folder: Path, name: str) -> tuple[dict[str, Tensor], str]:
    entries = weights.read_config(folder, "encoder")
    config, sha256 = entries["config"], str(entries["weights_sha256"])
    found = (config.get("backbone"), config.get("norm"))
    if found != (name, "batch"):
        what = f"is an encoder on {found[0]} with {found[1]} norm"
        fix = f"give one on {name} with batch norm, or change model.backbone"
        raise HephError(f"model.init: {folder}", what, fix)
    state = weights.read_weights(folder, sha256)
    kept = {k.removeprefix(_ENCODER): v for k, v in state.items() if k.startswith(_ENCODER)}
    return kept, sha256
