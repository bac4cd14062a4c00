"""Heat maps: where in an image something was found, in cells of 16 px."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CELL = 16  # px, as of the encoder's tokens


@dataclass(frozen=True)
class Heat:
    """A map of cells over an image.

    Attributes:
        cells: (rows, columns) float32, at least 0.
        size: Height and width of the image [px at 1/300 degree].
    """

    cells: npt.NDArray[np.float32]
    size: tuple[int, int]

    @property
    def peak(self) -> tuple[int, int]:
        """X and y of the middle of the highest cell [px]."""
        highest = np.unravel_index(self.cells.argmax(), self.cells.shape)
        y, x = (
            min(int(cell) * CELL + CELL // 2, side - 1)
            for cell, side in zip(highest, self.size, strict=True)
        )
        return x, y
