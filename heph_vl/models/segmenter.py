"""Segmentation: a light decoder on the encoder's pyramid, its loss, and whole images from tiles.

    pyramid (T, C, t / s, t / s) of strides s = 4, 8, 16 -> decoder -> logits (T, 7, t / 4, t / 4)
    -> bilinear (T, 7, t, t) -> softmax -> blended over overlaps -> kinds, probability (H, W)

The decoder is a feature pyramid network (Lin et al., 2017) with one output level, as in panoptic
FPN (Kirillov et al., 2019). Binary deformation is 1 minus the background.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.models.tiles import CELL, cut_tiles, inside

NUM_CLASSES = 1 + len(ACTIVITY_TYPES)  # 0 is background
STRIDE = 4  # of the decoder's output
# Softmax then starts at 97 % background: the first steps do not unlearn masks over everything.
_BACKGROUND_BIAS = 5.3


class Decoder(nn.Module):
    """Features of tiles by stride -> logits of classes at stride 4.

    Args:
        channels: Channels by stride; 16 must be there, 8 and 4 are used where they are.
        width: Channels inside.
    """

    def __init__(self, channels: Mapping[int, int], width: int) -> None:
        super().__init__()
        used = [stride for stride in (CELL, 8, STRIDE) if stride in channels]
        self.laterals = nn.ModuleDict({str(s): nn.Conv2d(channels[s], width, 1) for s in used})
        self.smooth = nn.ModuleDict({str(s): _smooth(width) for s in (8, STRIDE)})
        self.classify = nn.Conv2d(width, NUM_CLASSES, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        bias = torch.zeros(NUM_CLASSES)
        bias[0] = _BACKGROUND_BIAS
        self.classify.bias = nn.Parameter(bias)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Logits (T, 7, t / 4, t / 4) of features (T, C, t / stride, t / stride)."""
        x: Tensor = self.laterals[str(CELL)](features[CELL])
        for stride in (8, STRIDE):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if str(stride) in self.laterals:
                x = x + self.laterals[str(stride)](features[stride])
            x = self.smooth[str(stride)](x)
        logits: Tensor = self.classify(x)
        return logits


def _smooth(width: int) -> nn.Module:
    groups = max(1, width // 16)
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU()
    )


def to_pixels(logits: Tensor, tile_size: int) -> Tensor:
    """Logits (T, 7, t, t) of the decoder's (T, 7, t / 4, t / 4)."""
    return F.interpolate(
        logits.float(), size=(tile_size, tile_size), mode="bilinear", align_corners=False
    )


def segmentation_terms(
    logits: Tensor, tiles: Tensor, mask: Tensor, size: Tensor, tile_size: int, stride: int
) -> Tensor:
    """Sums that `segmentation_loss` is made of; add them over ranks first.

    Pixels without data count, too: outlines run over them. Those beyond an image's edge do not.

    Args:
        logits: (T, 7, t / 4, t / 4).
        tiles: (T, 3) int64: image, tile row, tile column.
        mask: (B, H, W) int64 class ids.
        size: (B, 2) int64, true height and width of each image.
        tile_size: t [px].
        stride: Distance between neighbouring tiles [px].

    Returns:
        (6,) float32: cross-entropy and number of pixels, deforming ones, then the others; summed
        probability of deformation in deforming pixels, and in all.
    """
    known = inside(size, *mask.shape[1:])
    target = torch.stack([mask.masked_fill(~known, -1) + 1], dim=1)  # cut_tiles pads with 0
    target = cut_tiles(target, tiles, tile_size, stride)[:, 0] - 1  # (T, t, t), -1 = outside
    log_p = to_pixels(logits, tile_size).log_softmax(1)
    losses = F.nll_loss(log_p, target, ignore_index=-1, reduction="none")
    deforming, others = target > 0, target == 0
    probability = -torch.expm1(log_p[:, 0])
    sums = [
        (losses * deforming).sum(),
        deforming.sum(),
        (losses * others).sum(),
        others.sum(),
        (probability * deforming).sum(),
        (probability * (target >= 0)).sum(),
    ]
    return torch.stack([total.float() for total in sums])


def segmentation_loss(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Balanced cross-entropy () and soft Dice loss of deformation ().

    With n pixels of each kind, deforming and not, a pixel weighs n^(-1/2): 1 % of the pixels then
    make 9 % of the cross-entropy. Equal halves would paint deformation over everything, equal
    pixels never any. Dice is 0 where nothing deforms: an empty mask has no overlap to improve.

    Args:
        terms: (6,) of `segmentation_terms`.

    Returns:
        Both losses, float32.
    """
    loss_on, count_on, loss_off, count_off, overlap, probability = terms.unbind()
    share = count_on.clamp(min=1).rsqrt(), count_off.clamp(min=1).rsqrt()
    total = count_on * share[0] + count_off * share[1]
    cross_entropy = (loss_on * share[0] + loss_off * share[1]) / total.clamp(min=1)
    dice = 1 - (2 * overlap + 1) / (probability + count_on + 1)
    return cross_entropy, dice * (count_on > 0)


class Blender:
    """Deformation in the pixels of one image from the probabilities of its tiles, given in order.

    Only a band of one tile row is held in float32: rows that no later tile covers are finished.
    Over an overlap the weight of a tile falls linearly toward its edge. Where no tile was looked
    at there is no deformation.

    Args:
        height: Of the image [px].
        width: Of the image [px].
        tile_size: t [px].
        stride: Distance between neighbouring tiles [px].
        device: Where the tiles are.
    """

    def __init__(
        self,
        height: int,
        width: int,
        tile_size: int,
        stride: int,
        *,
        device: torch.device,
    ) -> None:
        self.kinds = np.zeros((height, width), np.uint8)
        self.deformation = np.zeros((height, width), np.float32)
        self._tile_size, self._stride = tile_size, stride
        edge = torch.arange(tile_size, device=device) + 0.5
        ramp = (torch.minimum(edge, tile_size - edge) / max(1, tile_size - stride)).clamp(max=1)
        self._weight = ramp[:, None] * ramp
        self._columns = max(0, -(-(width - tile_size) // stride)) * stride + tile_size
        self._band = torch.zeros(NUM_CLASSES + 1, tile_size, self._columns, device=device)
        self._row = 0  # tile row at the top of the band

    def add(self, row: int, column: int, probabilities: Tensor) -> None:
        """Add the tile at a tile row and column; probabilities (7, t, t), no earlier row later."""
        while self._row < row:
            self._finish_rows(self._stride)
        left = column * self._stride
        part = self._band[:, :, left : left + self._tile_size]
        part[:-1].addcmul_(self._weight, probabilities)
        part[-1] += self._weight

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The likeliest class but background (H, W) uint8, and probability of any (H, W) float32.

        Both are 0 where no tile was looked at.
        """
        self._finish_rows(self._tile_size)
        return self.kinds, self.deformation

    def _finish_rows(self, count: int) -> None:
        top = self._row * self._stride
        into = np.s_[top : top + count]
        height, width = self.kinds[into].shape
        rows = self._band[:, :height, :width]
        deformation = rows[1:-1].sum(0) / rows[-1].clamp(min=1e-6)
        kind = rows[1:-1].max(0).indices + 1  # as argmax, at a sixth of its time
        kind = kind.masked_fill(rows[-1] == 0, 0)
        self.deformation[into] = deformation.cpu().numpy()
        self.kinds[into] = kind.to(torch.uint8).cpu().numpy()
        self._band = F.pad(self._band[:, count:], (0, 0, 0, count))
        self._row += 1
