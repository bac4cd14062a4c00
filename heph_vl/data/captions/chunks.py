"""Sentences of a text, and the items in each: what it mentions, places, levels, separators."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from heph_vl.data.captions.lexicon import Kind, Word, look_up

_SPLIT = re.compile(r"[.;:!?()\[\]\n\"]+")
# A capital after a lower-case word starts a sentence whose full stop is missing.
_MISSING_STOP = re.compile(
    r"(\b[a-z][a-z-]*) ?(?=(?:An?|The|No|Also|There|Two|Three|Four|Vertical|Turbulent|Wave|Image"
    r"|Noise|Noisy)\b)"
)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[,&+/]")
_SIGNS = {"&": "and", "+": "and", "/": "and"}
_PATTERN_WORDS = (Kind.TYPE, Kind.DEFORMATION, Kind.PATTERN)
_AREA_WORDS = (Kind.EFFECT, Kind.VERTICAL, Kind.ATMOSPHERE)


@dataclass(eq=False)
class Mention:
    """Something the text speaks of; places and levels are added as they are read."""

    role: str  # "effect" | "flag" | "impact" | "information" | "pattern"
    name: str = ""  # effect, flag or pattern type; "" for a pattern of no type
    count: int | None = None
    plural: bool = False
    level: str | None = None
    regions: list[str] = field(default_factory=list)
    negated: bool = False


@dataclass(frozen=True)
class Place:
    """A region, and the words that named it."""

    region: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Level:
    """An intensity."""

    value: str
    forward: bool  # stands before the mention it belongs to


@dataclass(frozen=True)
class Mark:
    """A separator, a negation, or "respectively"."""

    kind: Kind
    value: str = ""


Item = Mention | Place | Level | Mark


def sentences(text: str) -> Iterator[list[Word]]:
    """Sentences of a text as words with roles; clauses parted by a colon or brackets are, too."""
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for sentence in _SPLIT.split(_MISSING_STOP.sub(r"\1. ", text)):
        parts = [_SIGNS.get(part, part) for part in _WORD.findall(sentence.lower())]
        if parts:
            yield [word for part in parts for word in look_up(part)]


class Chunker:
    """One sentence of words, read into items from left to right.

    Args:
        words: The sentence.
    """

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = words
        self.unexplained: list[str] = []
        self.at = 0
        self.count: int | None = None  # a number waiting for its noun
        self.noisy = False

    def items(self) -> list[Item]:
        """Items of the sentence in order."""
        found: list[Item] = []
        while self.at < len(self.words):
            item = self._next()
            if item is not None:
                found.append(item)
        return found

    def _kind(self, offset: int = 0) -> Kind | None:
        index = self.at + offset
        return self.words[index].kind if 0 <= index < len(self.words) else None

    def _skip(self, offset: int, *kinds: Kind) -> int:
        """First offset from `offset` on whose word is of none of the kinds."""
        while self._kind(offset) in kinds:
            offset += 1
        return offset

    def _take(self, length: int) -> tuple[str, ...]:
        taken = tuple(word.text for word in self.words[self.at : self.at + length])
        self.at += length
        return taken

    def _next(self) -> Item | None:
        word = self.words[self.at]
        return _READERS.get(word.kind, Chunker._plain)(self, word)

    def _plain(self, word: Word) -> None:
        """A word that is no item itself."""
        if word.kind is Kind.NUMBER:
            self.count = int(word.value)
        elif word.kind is Kind.AREA:
            self.count = None
        elif word.kind is Kind.UNKNOWN:
            self.unexplained.append(word.text)
        self._take(1)

    def _mark(self, word: Word) -> Item:
        self.count = None
        self._take(1)
        return Mark(word.kind, word.value)

    def _pattern(self, word: Word) -> Item | None:
        """A run like "sill-type deformation pattern", or "deformation caused by an earthquake"."""
        if self._is_zone():
            self._take(2)
            return None
        mention = Mention("pattern", count=self.count)
        self.count = None
        end = 0
        while True:
            kind = self._kind(end)
            if kind is Kind.TYPE:
                value = self.words[self.at + end].value
                if mention.name not in ("", value):
                    break
                mention.name = value
            elif kind in (Kind.PATTERN, Kind.DEFORMATION):
                mention.plural |= self.words[self.at + end].text.endswith("s")
            elif kind is not Kind.SOURCE:
                typed = self._linked_type(end)
                if mention.name or typed is None:
                    break
                end = typed
                continue
            end += 1
        self._take(end)
        return mention

    def _is_zone(self) -> bool:
        """Whether "deformation" only says which zone: "noise in the deformation zones"."""
        before = -2 if self._kind(-1) is Kind.ARTICLE else -1
        return (
            self._kind() is Kind.DEFORMATION
            and self._kind(1) is Kind.AREA
            and self._kind(before) is Kind.PREPOSITION
        )

    def _linked_type(self, offset: int) -> int | None:
        """Offset of the type in "(deformation) caused by an earthquake", "of sill type"."""
        end = self._skip(offset, Kind.CAUSE, Kind.PREPOSITION, Kind.ARTICLE, Kind.SOURCE)
        linked = any(self._kind(i) in (Kind.CAUSE, Kind.PREPOSITION) for i in range(offset, end))
        return end if linked and self._kind(end) is Kind.TYPE else None

    def _level(self, word: Word) -> Item | None:
        """An intensity, or the word that makes "coherence", "altitude" or "baseline" mean it."""
        low = word.value == "low" or word.kind is Kind.LOWER
        after = self._skip(1, Kind.FILLER)
        if self._kind(1) is Kind.ALTITUDE:
            if low:
                self.unexplained += self._take(2)
                return None
            return Place("high-altitude", self._take(2))
        if self._kind(1) is Kind.COHERENCE and low:
            self._take(2)
            # "Noise ... due to low coherence" speaks of the same noise again.
            return None if self.noisy else Mention("effect", "noise")
        if self._kind(after) is Kind.BASELINE and not low:
            self._take(after + 1)
            return Mention("flag", "long_temporal_baseline")
        if word.kind is Kind.LONG:
            self.unexplained += self._take(1)
            return None
        end = self._skip(1, Kind.LEVEL, Kind.INTENSITY)
        if word.kind is Kind.LOWER and end == 1:
            return self._direction(word)
        start = self._kind(-2) if self._kind(-1) is Kind.ARTICLE else self._kind(-1)
        said_of = start in (Kind.PREPOSITION, Kind.BREAK)
        noun = self._kind(self._skip(end, Kind.SOURCE))
        forward = not said_of and noun in (*_PATTERN_WORDS, *_AREA_WORDS)
        self._take(end)
        return Level(word.value or "low", forward)

    def _direction(self, word: Word) -> Item:
        """One place: "top", "top right", "central-left"; a second side on one axis starts anew."""
        sides: set[str] = set()
        end = 0
        while self._kind(end) in (Kind.DIRECTION, Kind.LOWER):
            side = self.words[self.at + end].value or "bottom"
            if not _composes(sides | {side}):
                break
            sides.add(side)
            end += 1
        self.count = None
        return Place(_compose_sides(sides), self._take(end))

    def _everywhere(self, word: Word) -> Item | None:
        """A "wider area of the region", unless a direction follows or stands right before."""
        end = self._skip(1, Kind.AREA, Kind.ARTICLE, Kind.PREPOSITION, Kind.WIDE, Kind.EVERYWHERE)
        has_area = any(self._kind(i) is Kind.AREA for i in range(1, end))
        aside = self._kind(end) in (Kind.DIRECTION, Kind.LOWER) or self._kind(-1) is Kind.DIRECTION
        if aside or not (has_area or word.kind is Kind.EVERYWHERE):
            self._take(1)
            return None
        return Place("everywhere", self._take(end))

    def _altitude(self, word: Word) -> Item:
        return Place("high-altitude", self._take(1))

    def _atmosphere(self, word: Word) -> Item | None:
        """An "atmospheric impact" or "weak atmosphere"; as a cause the word says nothing."""
        caused = self._kind(-1) in (Kind.CAUSE, Kind.PREPOSITION)
        impact = self._kind(1) is Kind.IMPACT
        weak = self._kind(-1) in (Kind.LEVEL, Kind.INTENSITY)
        self._take(1 + impact)
        return None if caused or not (impact or weak) else Mention("impact")

    def _flag(self, word: Word) -> Item:
        self._take(1)
        return Mention("flag", word.value)

    def _information(self, word: Word) -> Item:
        self._take(1)
        return Mention("information")

    def _glacier(self, word: Word) -> Item | None:
        self._take(1)
        fringed = any(other.kind is Kind.FRINGE for other in self.words)
        return Mention("flag", "glacier_fringes") if fringed else None

    def _swath(self, word: Word) -> Item | None:
        """Swath merging, in either order; a swath alone is a place that nothing is told of."""
        other = Kind.MERGE if word.kind is Kind.SWATH else Kind.SWATH
        end = self._skip(1, Kind.PREPOSITION, Kind.ARTICLE, Kind.FILLER)
        merged = self._kind(end) is other
        self._take(end + 1 if merged else 1)
        return Mention("flag", "swath_merging") if merged else None

    def _effect(self, word: Word) -> Item:
        # "Wave-like patterns" are no deformation patterns.
        end = self._skip(1, Kind.FILLER)
        self._take(end + 1 if self._kind(end) is Kind.PATTERN else 1)
        self.noisy |= word.value == "noise"
        self.count = None
        return Mention("effect", word.value)

    def _qualified(self, word: Word) -> None:
        """Words that mean something with a neighbour only: "vertical stratification"."""
        explained = word.kind is Kind.VERTICAL and self._kind(1) is Kind.EFFECT
        taken = self._take(1)
        if not explained:
            self.unexplained += taken


_READERS: dict[Kind, Callable[[Chunker, Word], Item | None]] = {
    **dict.fromkeys((Kind.TYPE, Kind.DEFORMATION, Kind.PATTERN), Chunker._pattern),
    **dict.fromkeys((Kind.LEVEL, Kind.LOWER, Kind.LONG), Chunker._level),
    Kind.DIRECTION: Chunker._direction,
    **dict.fromkeys((Kind.WIDE, Kind.EVERYWHERE), Chunker._everywhere),
    Kind.ALTITUDE: Chunker._altitude,
    Kind.ATMOSPHERE: Chunker._atmosphere,
    Kind.FLAG: Chunker._flag,
    Kind.INFORMATION: Chunker._information,
    Kind.GLACIER: Chunker._glacier,
    **dict.fromkeys((Kind.SWATH, Kind.MERGE), Chunker._swath),
    Kind.EFFECT: Chunker._effect,
    **dict.fromkeys((Kind.VERTICAL, Kind.COHERENCE, Kind.BASELINE), Chunker._qualified),
    **dict.fromkeys(
        (
            Kind.COMMA,
            Kind.AND,
            Kind.OR,
            Kind.BREAK,
            Kind.CAUSE,
            Kind.NEGATION,
            Kind.RESPECTIVELY,
        ),
        Chunker._mark,
    ),
}


def _composes(sides: set[str]) -> bool:
    """Whether sides make one place: at most one vertical and one horizontal."""
    simple = sides - {"center"}
    if any("-" in side for side in simple):
        return len(simple) == 1
    return not ({"top", "bottom"} <= simple or {"left", "right"} <= simple)


def _compose_sides(sides: set[str]) -> str:
    parts = sides - {"center"}
    if len(parts) < 2:
        return next(iter(parts), "center")
    vertical, horizontal = parts & {"top", "bottom"}, parts & {"left", "right"}
    return f"{vertical.pop()}-{horizontal.pop()}"
