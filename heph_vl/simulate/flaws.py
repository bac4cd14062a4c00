"""Which flaws an interferogram has, and where in the chain each one enters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from heph_vl.simulate.artefacts import (
    Fields,
    corrupt,
    debursting_error,
    in_sight,
    seams_in_sight,
    swath_merging_error,
)
from heph_vl.simulate.grid import uniform
from heph_vl.simulate.place import Place, seeded

# Shares of pairs: those of the 19,919 records of Hephaestus, the rarest one raised so that it is
# seen at all.
CORRUPTED, DEBURSTING, SWATH_MERGING, COLOR_BAR = 0.016, 0.009, 0.016, 0.006


@dataclass(frozen=True)
class Flaws:
    """What went wrong with one interferogram.

    Args:
        corrupted: The whole image is useless.
        processing_error: "none", "debursting" or "swath_merging".
        color_bar: A colour-bar legend is drawn into the picture.
        seed: Of the random choices in drawing them.
    """

    corrupted: bool = False
    processing_error: str = "none"
    color_bar: bool = False
    seed: int = 0

    def generator(self, name: str) -> torch.Generator:
        """Randomness of one flaw, whatever the others are."""
        return seeded(self.seed, "flaw", name)


NO_FLAWS = Flaws()


def draw_flaws(place: Place, visible: Tensor, g: torch.Generator) -> Flaws:
    """Flaws of a pair, about as rare as in Hephaestus; a corrupted image has no other.

    Args:
        place: Where.
        visible: (H, W) bool, coherent land, where an error must be seen to count.
        g: Randomness.

    Returns:
        What goes wrong.
    """
    corrupted, error, bar = (uniform(0.0, 1.0, g) for _ in range(3))
    seed = int(torch.randint(0, 2**62, (), generator=g))
    if corrupted < CORRUPTED:
        return Flaws(corrupted=True, seed=seed)
    kind = "none"
    if error < DEBURSTING and seams_in_sight(place.sub_swath, place.burst, visible):
        kind = "debursting"
    elif DEBURSTING <= error < DEBURSTING + SWATH_MERGING:
        kind = "swath_merging" if len(in_sight(place.sub_swath, visible)) > 1 else "none"
    return Flaws(False, kind, bar < COLOR_BAR, seed)


def disturb(flaws: Flaws, place: Place, fields: Fields) -> Fields:
    """Errors of processing and corruption, before the noise.

    Args:
        flaws: What to do.
        place: Where.
        fields: Unwrapped phase, coherence of the ground, validity.

    Returns:
        The fields, changed where there is a flaw. An error that no part of the image can show (a
        single burst, a single sub-swath) leaves them as they are.
    """
    visible = place.land & (fields.coherence > 0.2)
    swaths = place.sub_swath, place.burst
    if flaws.processing_error == "debursting":
        visible = visible if seams_in_sight(*swaths, visible) else place.footprint
        if seams_in_sight(*swaths, visible):
            g = flaws.generator("debursting")
            fields = debursting_error(fields, *swaths, visible, g)
    elif flaws.processing_error == "swath_merging":
        visible = visible if len(in_sight(swaths[0], visible)) > 1 else place.footprint
        if len(in_sight(swaths[0], visible)) > 1:
            g = flaws.generator("swath_merging")
            fields = swath_merging_error(fields, *swaths, visible, g)
    if flaws.corrupted:
        heading = place.look.heading_deg
        fields = corrupt(fields, place.grid, heading, flaws.generator("corrupted"))
    return fields
