"""Captions scored by what they say: facts told and missed, by kind, and false alarms.

A generated caption and the reference are parsed; an atom of the one counts as right if the other
tells it too (`data.captions.agreement`). Counts are summed over images, so that precision, recall
and F1 are those of all facts together, and an interval comes from resampling the images' groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heph_vl.data import captions
from heph_vl.data.captions.agreement import agreeing
from heph_vl.data.captions.facts import Atom
from heph_vl.metrics.bootstrap import Floats, Statistic

KINDS = ("atmosphere", "noise", "type", "intensity", "place", "flags", "no deformation")
GROUPS = {"all": KINDS, "deformation": ("type", "intensity", "place")} | {k: (k,) for k in KINDS}
"""Which kinds each row of a table is about."""


def kind_of(atom: Atom) -> str:
    """The kind of an atom, of `KINDS`."""
    if atom[0] == "deformation":
        return {"intensity": "intensity", "at": "place"}.get(atom[2], "type")
    if atom[0] in ("vertical_stratification", "turbulent_mixing", "low_atmospheric_impact"):
        return "atmosphere"
    return {"noise": "noise", "no_deformation": "no deformation"}.get(atom[0], "flags")


@dataclass(frozen=True)
class FactCounts:
    """Atoms of N images by kind, and whether a deformation is told.

    Attributes:
        wanted: (N, kinds) float64, atoms of the references.
        said: (N, kinds) float64, atoms of the captions.
        right: (N, kinds) float64, atoms that both tell.
        exact: (N,) bool, the same facts, in any order of mention.
        told: (N,) bool, the caption tells a deformation.
    """

    wanted: Floats
    said: Floats
    right: Floats
    exact: npt.NDArray[np.bool_]
    told: npt.NDArray[np.bool_]

    def of(self, kept: npt.NDArray[np.bool_]) -> "FactCounts":
        """Those of some images."""
        return FactCounts(*(values[kept] for values in vars(self).values()))

    def sums(self, group: str) -> tuple[Floats, Floats, Floats]:
        """Wanted, said and right (N,) of a row of `GROUPS`."""
        kept = [KINDS.index(kind) for kind in GROUPS[group]]
        wanted, said, right = (
            values[:, kept].sum(1) for values in (self.wanted, self.said, self.right)
        )
        return wanted, said, right

    def f1(self, group: str = "all") -> float:
        """F1 over all images, 0 where no fact is wanted or said."""
        wanted, said, right = (float(values.sum()) for values in self.sums(group))
        return 2 * right / (wanted + said) if wanted + said else 0.0


def count_facts(references: Sequence[str], texts: Sequence[str]) -> FactCounts:
    """Compare captions with their references.

    Args:
        references: N.
        texts: N captions, in the same order.

    Returns:
        The counts.
    """
    counts = np.zeros((3, len(references), len(KINDS)))
    exact, told = np.zeros((2, len(references)), dtype=bool)
    for i, (reference, text) in enumerate(zip(references, texts, strict=True)):
        wanted, said = captions.parse(reference), captions.parse(text)
        for row, atoms in zip(
            counts[:, i], (wanted.atoms(), said.atoms(), agreeing(wanted, said)), strict=True
        ):
            for atom in atoms:
                row[KINDS.index(kind_of(atom))] += 1
        exact[i], told[i] = wanted.key == said.key, bool(said.patterns)
    return FactCounts(counts[0], counts[1], counts[2], exact, told)


def ratio(members: Floats, numerator: Floats, denominator: Floats) -> Statistic:
    """A ratio of sums over images, as a function of how often each unit counts.

    Args:
        members: (N, U) of `bootstrap.Clusters`.
        numerator: (N,).
        denominator: (N,).

    Returns:
        Draws (B, U) -> ratios (B,), NaN for a draw in which the denominator is 0.
    """
    above, below = members.T @ numerator, members.T @ denominator

    def statistic(draws: Floats) -> Floats:
        total = draws @ below
        found: Floats = draws @ above / np.where(total > 0, total, np.nan)
        return found

    return statistic
