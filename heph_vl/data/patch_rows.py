"""Patches of a dataset as the models of the paper's Table 4 take them, with one label: deforming?

    t px a side, N patches; smaller ones are padded with no-data at the right and below

    rgb      (3, t, t) float32: the coloured picture, no-data white, normalised as for ImageNet
    phasor   (3, t, t) float32: Re and Im of the phasor and coherence, no-data 0 (`samples.pixels`)

Nothing is varied. The dataset is one of `heph-vl dataset --config patches` or of
`heph-vl simulate-patches`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import parquet
from heph_vl.data.phase import open_png
from heph_vl.data.samples import whole_image
from heph_vl.data.transforms import encoded
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


class Patches:
    """Map-style dataset keyed by (row, draw): `pixel_values` (3, t, t) and `deformation` bool.

    Args:
        path: A dataset of patches.
        split: `train`, `val` or `test`.
        form: Which pixel values.
        size: t [px].

    Attributes:
        labels: (N,) bool, whether a patch deforms; may be replaced.
        groups: Volcano group of each patch.
        source: `real`, `simulated`, or both.

    Raises:
        HephError: If there is no such split, it holds no patches, or they are larger than t.
    """

    def __init__(
        self, path: str | Path, split: str, *, form: Literal["rgb", "phasor"], size: int
    ) -> None:
        rows = parquet.load(path, split)
        if "patch" not in rows.column_names:
            fix = "write it with: heph-vl dataset ARCHIVE OUT --config patches"
            raise HephError(str(path), "holds whole interferograms, not patches", fix)
        windows = np.array(rows["window"])
        largest = int((windows[:, 2:] - windows[:, :2]).max())
        if largest > size:
            what = f"has patches of {largest} px, and data.patch_size is {size}"
            raise HephError(str(path), what, "set data.patch_size to the dataset's")
        self._images = encoded(rows.select_columns(["unique_id", "patch", "image", "coherence"]))
        self._names = rows.select_columns(["unique_id", "patch", "volcano_group"]).to_list()
        self._form, self._size = form, size
        self.groups = [row["volcano_group"] for row in self._names]
        self.labels: NDArray[np.bool_] = np.array([bool(kinds) for kinds in rows["activity_types"]])
        self.source = " and ".join(sorted(set(rows["source"])))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, _ = key
        row = self._images[index]
        where = f"patch {row['patch']}"
        if self._form == "rgb":
            values = rgb_values(read_picture(row["image"]["bytes"], where), self._size, where)
        else:
            values = padded(whole_image(row)[0], self._size, 0.0, where)
        return {"pixel_values": values, "deformation": bool(self.labels[index])}

    def write_predictions(self, path: Path, probabilities: NDArray[np.float64]) -> None:
        """Write probabilities beside the labels, a JSON object a line.

        Args:
            path: A .jsonl file; each line has `unique_id`, `patch`, `volcano_group`, `label`,
                `deformation`.
            probabilities: (N,) of deformation.

        Raises:
            HephError: If it cannot be written.
        """
        rows = zip(self._names, self.labels.tolist(), probabilities.tolist(), strict=True)
        lines = [json.dumps({**row, "label": label, "deformation": p}) for row, label, p in rows]
        with writing(path):
            write_text(path, "\n".join(lines) + "\n")

    def about(self) -> dict[str, Any]:
        """What tells this set of patches from another: counts, and a hash of names and labels."""
        named = json.dumps([[row["patch"] for row in self._names], self.labels.tolist()])
        return {
            "source": self.source,
            "patches": len(self),
            "deforming": int(self.labels.sum()),
            "groups": len(set(self.groups)),
            "sha256": hashlib.sha256(named.encode()).hexdigest(),
        }


def balanced_weights(labels: NDArray[np.bool_], where: str) -> NDArray[np.float64]:
    """Sampling weights (N,) that draw both classes equally often: the rarer is repeated.

    Args:
        labels: (N,) bool.
        where: How the error names them.

    Returns:
        (N,) one over the size of the own class.

    Raises:
        HephError: If all labels are the same.
    """
    counts = np.bincount(labels, minlength=2)
    if not counts.all():
        what = f"all {len(labels)} training patches are of one class"
        raise HephError(where, what, "give a dataset that has both")
    weights: NDArray[np.float64] = 1 / counts[labels.astype(int)]
    return weights


def read_picture(data: bytes, where: str) -> NDArray[np.uint8]:
    """Colours of a stored patch; no-data white, as in the published patches.

    Args:
        data: An encoded PNG.
        where: How errors name the patch.

    Returns:
        (h, w, 3) uint8.

    Raises:
        HephError: If it cannot be read.
    """
    picture = open_png(data, where).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def rgb_values(rgb: NDArray[np.uint8], size: int, where: str) -> NDArray[np.float32]:
    """Pixel values of a coloured patch, as the paper's models and ImageNet's weights take it.

    Args:
        rgb: (h, w, 3) uint8; no-data white.
        size: t [px]; a smaller patch is padded with white at the right and below.
        where: How errors name the patch.

    Returns:
        (3, t, t) float32: /255, less ImageNet's mean, over its standard deviation.

    Raises:
        HephError: If the patch is larger.
    """
    full = padded(rgb.transpose(2, 0, 1), size, 255, where)
    return ((full / 255 - _MEAN) / _STD).astype(np.float32)


def padded(values: NDArray[Any], size: int, fill: float, where: str) -> NDArray[Any]:
    """Channels (3, h, w) in the top-left corner of (3, t, t); arguments as for `rgb_values`."""
    height, width = values.shape[1:]
    if max(height, width) > size:
        what = f"{width} x {height} px, and data.patch_size is {size}"
        raise HephError(where, what, "set data.patch_size to the size that the dataset has")
    return np.pad(values, ((0, 0), (0, size - height), (0, size - width)), constant_values=fill)
