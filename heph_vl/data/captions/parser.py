"""Text to facts.

Three steps. `chunks` cuts the text into sentences and each sentence into *items*: mentions (an
effect, a flag, a pattern), places, levels, negations and separators. `_Reader` hangs places and
levels on the mentions they belong to. Patterns announced as a group ("two deformation patterns on
the right side") are then filled with those described after it.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from heph_vl.data.captions.chunks import Chunker, Item, Level, Mark, Mention, Place, sentences
from heph_vl.data.captions.facts import PROCESSING_ERRORS, Atom, CaptionFacts, Pattern
from heph_vl.data.captions.lexicon import Kind


@lru_cache(maxsize=16384)
def parse(text: str) -> CaptionFacts:
    """Facts that a caption or a query states.

    Args:
        text: English text in the manner of the Hephaestus captions; fragments are fine.

    Returns:
        The facts; `unexplained` holds the words without a reading, in order. If nothing is
        recognised the facts are empty and every word is unexplained. If a text both denies
        deformation and describes some, the described patterns hold.
    """
    reader = _Reader()
    words: list[str] = []
    unexplained: list[str] = []
    for sentence in sentences(text):
        words += [word.text for word in sentence if word.kind is not Kind.COMMA]
        chunker = Chunker(sentence)
        unexplained += reader.read(chunker.items())
        unexplained += chunker.unexplained
    if all(m.role == "information" and not m.negated for m in reader.mentions):
        return CaptionFacts(unexplained=tuple(words))
    patterns = _resolve_groups([m for m in reader.mentions if m.role == "pattern"])
    scene = {atom for mention in reader.mentions for atom in _scene_atoms(mention)}
    if patterns:
        scene.discard(("no_deformation",))
    return CaptionFacts(frozenset(scene), patterns, tuple(unexplained))


class _Reader:
    """Hangs places, levels and negations on mentions, sentence by sentence."""

    def __init__(self) -> None:
        self.mentions: list[Mention] = []
        # Mentions that share what is said after them: "a dyke and a sill on the right side".
        self.group: list[Mention] = []

    def read(self, items: Sequence[Item]) -> list[str]:
        """Read one sentence; gives the words of places that belong to nothing."""
        self.items = items
        self.placed = True  # the group got a place, so the next mention starts another one
        self.negation: str | None = None
        self.waiting_places: list[Place] = []
        self.waiting_level: str | None = None
        # A sentence that mentions nothing goes on about the last: "The effect is also ...".
        if any(isinstance(item, Mention) for item in items):
            self.group = []
        for index, item in enumerate(items):
            if isinstance(item, Mention):
                self._read_mention(index, item)
            elif isinstance(item, Place):
                self._read_place(index, item)
            elif isinstance(item, Level):
                self._read_level(item)
            else:
                self._read_mark(index, item)
        if any(isinstance(i, Mark) and i.kind is Kind.RESPECTIVELY for i in items):
            _share_out(self.group)
        return [word for place in self.waiting_places for word in place.words]

    def _between(self, index: int) -> list[Kind]:
        """Separators since the last mention before the item."""
        kinds = []
        for item in reversed(self.items[:index]):
            if isinstance(item, Mention):
                break
            if isinstance(item, Mark):
                kinds.append(item.kind)
        return kinds

    def _read_mention(self, index: int, mention: Mention) -> None:
        mention.negated = self.negation is not None
        mention.regions += [place.region for place in self.waiting_places]
        if self.waiting_level is not None:
            mention.level, self.waiting_level = self.waiting_level, None
        self.waiting_places = []
        marks = self._between(index)
        joins = (
            bool(self.group)
            and not self.placed
            and not mention.regions
            and self.group[-1].negated == mention.negated
            # "noise, dyke on the left": a bare comma parts fields from patterns.
            and (Kind.COMMA not in marks or Kind.AND in marks or self._same_family(mention))
            and Kind.BREAK not in marks
        )
        if mention.role == "flag" and mention.name == "long_temporal_baseline":
            self.mentions.append(mention)  # a cause: what follows is still said of the effect
            return
        self.group = [*self.group, mention] if joins else [mention]
        self.placed = bool(mention.regions)
        self.mentions.append(mention)

    def _same_family(self, mention: Mention) -> bool:
        return (self.group[-1].role == "pattern") == (mention.role == "pattern")

    def _read_place(self, index: int, place: Place) -> None:
        """A place belongs to what precedes it, unless a mention follows without a separator."""
        following = next(
            (i for i in self.items[index + 1 :] if isinstance(i, Mention | Mark)), None
        )
        if isinstance(following, Mention) or not self.group:
            self.waiting_places.append(place)
            return
        for mention in self.group:
            if place.region not in mention.regions:
                mention.regions.append(place.region)
        self.placed = True

    def _read_level(self, level: Level) -> None:
        if level.forward or not self.group:
            self.waiting_level = level.value
            return
        last = self.group[-1]
        # "Dyke-type and sill-type deformation patterns of high intensity": said of both.
        bearers = self.group if last.plural else [last]
        for mention in bearers:
            mention.level = mention.level or level.value

    def _read_mark(self, index: int, mark: Mark) -> None:
        rest = self.items[index + 1 :]
        if mark.kind is Kind.NEGATION:
            ends = (i for i in rest if isinstance(i, Mention | Mark))
            following = next(ends, None)
            if isinstance(following, Mention) or not self.group:
                self.negation = mark.value
            else:  # "deformation is not detected"
                for mention in self.group:
                    mention.negated = True
        elif self.negation is not None and (
            mark.kind in (Kind.BREAK, Kind.CAUSE)
            or (mark.kind is Kind.AND and self.negation == "no")
            or (mark.kind is Kind.COMMA and not _goes_on(rest))
        ):
            self.negation = None


def _goes_on(rest: Sequence[Item]) -> bool:
    """Whether a list ends in "or": "no noise, turbulence or fringes" denies all three."""
    for item in rest:
        if isinstance(item, Mark) and item.kind is not Kind.COMMA:
            return item.kind is Kind.OR
    return False


def _share_out(group: Sequence[Mention]) -> None:
    """One place each: "a sill and a dyke at the bottom and the left, respectively"."""
    regions = group[0].regions if group else []
    shared = all(mention.regions == regions for mention in group)
    if shared and len(group) > 1 and len(regions) == len(group):
        for mention, region in zip(group, list(regions), strict=True):
            mention.regions = [region]


def _scene_atoms(mention: Mention) -> Iterator[Atom]:
    if mention.role == "information" and mention.negated:
        yield ("no_information",)
    elif mention.role == "pattern" and mention.negated:
        # "No dyke" or "no deformation on the left" leaves room for other deformation.
        if not mention.name and mention.level is None and set(mention.regions) <= {"everywhere"}:
            yield ("no_deformation",)
    elif mention.negated:
        return
    elif mention.role == "impact" and mention.level == "low":
        yield ("low_atmospheric_impact",)
    elif mention.role == "flag" and mention.name in PROCESSING_ERRORS:
        yield ("processing_error", mention.name)
    elif mention.role == "flag":
        yield (mention.name,)
    elif mention.role == "effect":
        yield (mention.name,)
        for region in mention.regions:
            yield (mention.name, region)


def _resolve_groups(mentions: Sequence[Mention]) -> tuple[Pattern, ...]:
    """Patterns in order of mention; those described after "two patterns" are these two."""
    patterns: list[Pattern] = []
    group: Mention | None = None
    slots = 0
    bare = False  # the open group has no description yet

    def close() -> None:
        if group is not None:
            missing = slots if group.count is not None else int(bare)
            patterns.extend([_pattern(group)] * missing)

    for mention in mentions:
        if mention.negated:
            continue
        if not mention.name and (mention.plural or (mention.count or 1) > 1):
            close()
            group, bare = mention, True
            slots = mention.count if mention.count is not None else len(mentions) * 9
            continue
        count = mention.count or 1
        inherited = group if group is not None and slots > 0 else None
        patterns += [_pattern(mention, inherited)] * count
        if inherited is not None:
            slots, bare = max(0, slots - count), False
    close()
    return tuple(patterns)


def _pattern(mention: Mention, group: Mention | None = None) -> Pattern:
    regions, level = mention.regions, mention.level
    if group is not None:
        regions, level = regions or group.regions, level or group.level
    return Pattern(mention.name or "unspecified", level, frozenset(regions))
