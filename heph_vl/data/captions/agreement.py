"""How far two captions say the same: the atoms of one that the other tells too."""

from __future__ import annotations

from heph_vl.data.captions.facts import Atom, CaptionFacts, Pattern


def agreeing(facts: CaptionFacts, other: CaptionFacts) -> frozenset[Atom]:
    """Atoms of `facts` that `other` tells as well.

    Patterns have no numbers of their own: those of `other` are paired with those of `facts` so that
    as many atoms as possible agree.

    Args:
        facts: Whose atoms are looked for.
        other: Where.

    Returns:
        A part of ``facts.atoms()``; as many as the other way round.
    """
    atoms: set[Atom] = set(facts.scene & other.scene)
    if facts.patterns and other.patterns:
        shared = [[_shared(a, b) for b in other.patterns] for a in facts.patterns]
        for number, index in _pairs([[len(found) for found in row] for row in shared]):
            atoms |= {("deformation", str(number + 1), *rest) for rest in shared[number][index]}
    return frozenset(atoms)


def fact_f1(facts: CaptionFacts, other: CaptionFacts) -> float:
    """F1 of the atoms of two captions, in either order; 1 where neither tells anything."""
    total = len(facts.atoms()) + len(other.atoms())
    return 2 * len(agreeing(facts, other)) / total if total else 1.0


def _shared(a: Pattern, b: Pattern) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = {("at", region) for region in a.regions & b.regions}
    if a.type == b.type:
        found.add((a.type,))
    if a.intensity is not None and a.intensity == b.intensity:
        found.add(("intensity", a.intensity))
    return found


def _pairs(gain: list[list[int]]) -> list[tuple[int, int]]:
    """Rows and columns paired for the largest sum."""
    if len(gain) == 1 or len(gain[0]) == 1:  # nearly always; scipy is slow to import
        flat = [(-value, i, j) for i, row in enumerate(gain) for j, value in enumerate(row)]
        _, i, j = min(flat)
        return [(i, j)]
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gain, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
