"""What the heads say of an image: labels by name, calibrated probabilities, a mask."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heph_vl.data.labels import LABELS, SOFTMAX


@dataclass(frozen=True)
class LabelCalibration:
    """Of one label group with K classes; lists, for JSON.

    Attributes:
        temperature: K logits are divided by these; one number for all classes of a softmax.
        bias: K numbers, added after that.
        threshold: K probabilities from which a label counts as present; none for a softmax.
        prevalence: K shares of positives in the split it was fitted on.
        fitted: K, whether the split could tell.
    """

    temperature: list[float]
    bias: list[float]
    threshold: list[float]
    prevalence: list[float] = field(default_factory=list)
    fitted: list[bool] = field(default_factory=list)

    @classmethod
    def identity(cls, count: int, *, softmax: bool) -> "LabelCalibration":
        """That changes nothing, of K = `count` classes."""
        temperature = [1.0] * (1 if softmax else count)
        return cls(temperature, [0.0] * count, [] if softmax else [0.5] * count)

    def logits(self, logits: Tensor) -> Tensor:
        """Calibrated logits (..., K) float32 of raw ones (..., K)."""
        temperature = torch.tensor(self.temperature, device=logits.device)
        return logits.float() / temperature + torch.tensor(self.bias, device=logits.device)


@dataclass(frozen=True)
class Calibration:
    """What a validation split says of each label group, and of the masks."""

    deformation: LabelCalibration
    activity_types: LabelCalibration
    intensities: LabelCalibration
    volcano_phase: LabelCalibration
    atmosphere: LabelCalibration
    quality: LabelCalibration
    mask_threshold: float = 0.5  # probability from which a pixel counts as deforming

    @classmethod
    def identity(cls) -> "Calibration":
        """That changes nothing."""
        groups: dict[str, Any] = {
            name: LabelCalibration.identity(len(names), softmax=name in SOFTMAX)
            for name, names in LABELS.items()
        }
        return cls(**groups)


@dataclass(frozen=True)
class Prediction:
    """What the heads say of one image of H x W pixels; probabilities are calibrated.

    Attributes:
        deformation: Probability of any deformation.
        activity_types: (6,) float32, each for itself.
        intensities: (3,) float32, given that there is deformation.
        volcano_phase: (3,) float32, sum 1.
        atmosphere: (4,) float32, sum 1.
        quality: (7,) float32, each for itself.
        present: For the label groups without softmax, (K,) bool: probability above threshold.
        mask: (H, W) uint8 class ids, None without decoder.
        mask_probability: (H, W) float32 of any deformation in the pixel, None without decoder:
            that of the image times that of the pixel if the image deforms. A tile cannot tell
            rings of air around every cone of a frame from one that deforms; the image can.
        mask_if_deforming: (H, W) float32, the second factor.
        facts: (NUM_FACTS,) float32, not calibrated, None if they are not predicted.
        logits: Raw logits of each label group (K,) float32, which calibration is fitted on.
    """

    deformation: float
    activity_types: NDArray[np.float32]
    intensities: NDArray[np.float32]
    volcano_phase: NDArray[np.float32]
    atmosphere: NDArray[np.float32]
    quality: NDArray[np.float32]
    present: dict[str, NDArray[np.bool_]]
    mask: NDArray[np.uint8] | None
    mask_probability: NDArray[np.float32] | None
    mask_if_deforming: NDArray[np.float32] | None
    facts: NDArray[np.float32] | None
    logits: dict[str, NDArray[np.float32]]

    @classmethod
    def of(
        cls,
        logits: Mapping[str, Tensor],
        calibration: Calibration,
        mask: tuple[NDArray[np.uint8], NDArray[np.float32]] | None,
    ) -> "Prediction":
        """Calibrate raw logits.

        Args:
            logits: (K,) float32 of each label group, perhaps of `facts`.
            calibration: Applied to the label groups.
            mask: Class ids (H, W) without background, and `mask_if_deforming`, if there are any.

        Returns:
            The prediction.
        """
        found: dict[str, NDArray[np.float32]] = {}
        present: dict[str, NDArray[np.bool_]] = {}
        for name in LABELS:
            fitted: LabelCalibration = getattr(calibration, name)
            calibrated = fitted.logits(logits[name])
            p = calibrated.softmax(0) if name in SOFTMAX else calibrated.sigmoid()
            found[name] = p.numpy()
            if name not in SOFTMAX:
                present[name] = found[name] >= np.array(fitted.threshold)
        deformation = float(found.pop("deformation")[0])
        seen, probability, if_deforming = None, None, None
        if mask is not None:
            kinds, if_deforming = mask
            probability = if_deforming * np.float32(deformation)
            seen = np.where(probability >= np.float32(calibration.mask_threshold), kinds, 0)
        return cls(
            deformation=deformation,
            **found,
            present=present,
            mask=seen,
            mask_probability=probability,
            mask_if_deforming=if_deforming,
            facts=logits["facts"].sigmoid().numpy() if "facts" in logits else None,
            logits={name: logits[name].numpy() for name in LABELS},
        )

    def row(self, unique_id: int, mask: str | None = None) -> dict[str, Any]:
        """The image's line of `predictions.jsonl`, with the relative path of its mask."""
        named = {
            group: dict(zip(names, map(float, getattr(self, group)), strict=True))
            for group, names in LABELS.items()
            if group != "deformation"
        }
        return {"unique_id": unique_id, "deformation": self.deformation, **named, "mask": mask}
