"""The words of captions: what each one is to the grammar, and how a misspelt one is read.

A word has a `Kind` (its role in the grammar) and a value. The table holds every word of the 1,266
distinct captions of Hephaestus and common synonyms of users' queries.
"""

import re
from enum import IntEnum, auto
from functools import lru_cache
from typing import NamedTuple


class Kind(IntEnum):
    """Role of a word in the grammar."""

    DIRECTION = auto()  # value: a side of the 3 x 3 grid, "center", or a corner
    LOWER = auto()  # "lower intensity" or "lower right": the next word decides
    WIDE = auto()  # "wider area" is everywhere, "wider left side" is left
    EVERYWHERE = auto()
    ALTITUDE = auto()
    LEVEL = auto()  # value: low, medium, high
    INTENSITY = auto()
    TYPE = auto()  # value: a pattern type
    DEFORMATION = auto()
    PATTERN = auto()
    SOURCE = auto()  # words that only lean on a type: "sill-type", "dyke intrusion"
    EFFECT = auto()  # value: an area effect
    VERTICAL = auto()
    COHERENCE = auto()
    ATMOSPHERE = auto()
    IMPACT = auto()
    FLAG = auto()  # value: a scene atom without regions
    GLACIER = auto()
    FRINGE = auto()
    SWATH = auto()
    MERGE = auto()
    BASELINE = auto()
    INFORMATION = auto()
    NUMBER = auto()
    NEGATION = auto()
    AND = auto()
    OR = auto()
    BREAK = auto()  # ends the noun phrase: a cause, "while", "with"
    CAUSE = auto()  # a break that may link "deformation" to its type
    PREPOSITION = auto()
    ARTICLE = auto()
    AREA = auto()
    LONG = auto()
    RESPECTIVELY = auto()
    COMMA = auto()
    FILLER = auto()
    UNKNOWN = auto()


class Word(NamedTuple):
    """A word of the text with its role; `text` is as written, in lower case."""

    text: str
    kind: Kind
    value: str = ""


_TABLE: dict[tuple[Kind, str], str] = {
    (Kind.DIRECTION, "top"): "top upper uppermost topmost upside up north northern",
    (Kind.DIRECTION, "bottom"): "bottom bottommost lowermost down downside south southern",
    (Kind.DIRECTION, "left"): "left leftmost lefthand west western",
    (Kind.DIRECTION, "right"): "right rightmost righthand east eastern",
    (Kind.DIRECTION, "center"): "center central centre centered centred middle mid",
    (Kind.DIRECTION, "top-left"): "northwest northwestern nw",
    (Kind.DIRECTION, "top-right"): "northeast northeastern ne",
    (Kind.DIRECTION, "bottom-left"): "southwest southwestern sw",
    (Kind.DIRECTION, "bottom-right"): "southeast southeastern se",
    (Kind.LOWER, ""): "lower",
    (Kind.WIDE, ""): "wider wide widest broad broader whole entire full all around across over",
    (Kind.EVERYWHERE, ""): "everywhere throughout",
    (Kind.ALTITUDE, ""): "altitude altitudes elevation elevations",
    (Kind.LEVEL, "low"): "low weak weaker faint slight minor little lowest",
    (Kind.LEVEL, "medium"): "medium moderate intermediate",
    (Kind.LEVEL, "high"): "high higher highest strong stronger intense",
    (Kind.INTENSITY, ""): "intensity intensities",
    (Kind.TYPE, "mogi"): "mogi mogis",
    (Kind.TYPE, "dyke"): "dyke dykes dike dikes",
    (Kind.TYPE, "sill"): "sill sills",
    (Kind.TYPE, "spheroid"): "spheroid spheroids spheroidal",
    (Kind.TYPE, "earthquake"): "earthquake earthquakes quake seismic coseismic",
    (Kind.TYPE, "unidentified"): "unidentified unknown",
    (Kind.DEFORMATION, ""): "deformation deformations deforming deformed",
    (Kind.PATTERN, ""): "pattern patterns",
    (Kind.SOURCE, ""): "type types typed source sources intrusion intrusions event events activity "
    "induced related model shaped",
    (Kind.EFFECT, "noise"): "noise noisy noises decorrelation decorrelated incoherent incoherence",
    (Kind.EFFECT, "vertical_stratification"): "stratification stratified",
    (Kind.EFFECT, "turbulent_mixing"): "turbulent turbulence mixing wave waves wavelike vapour "
    "vapor",
    (Kind.VERTICAL, ""): "vertical vertically",
    (Kind.COHERENCE, ""): "coherence",
    (Kind.ATMOSPHERE, ""): "atmospheric atmosphere troposphere tropospheric",
    (Kind.IMPACT, ""): "impact impacts effect effects influence contribution",
    (Kind.FLAG, "corrupted"): "corrupted corrupt",
    (Kind.FLAG, "orbital_fringes"): "orbital orbit",
    (Kind.FLAG, "image_artifacts"): "artifact artifacts artefact artefacts",
    (Kind.FLAG, "debursting"): "debursting deburst burst bursts",
    (Kind.GLACIER, ""): "glacier glaciers glacial",
    (Kind.FRINGE, ""): "fringe fringes",
    (Kind.SWATH, ""): "swath swaths subswath subswaths",
    (Kind.MERGE, ""): "merging merge merged",
    (Kind.BASELINE, ""): "baseline baselines",
    (Kind.INFORMATION, ""): "information info",
    (Kind.NUMBER, "1"): "one single 1",
    (Kind.NUMBER, "2"): "two 2",
    (Kind.NUMBER, "3"): "three 3",
    (Kind.NUMBER, "4"): "four 4",
    (Kind.NUMBER, "5"): "five 5",
    (Kind.NUMBER, "6"): "six 6",
    (Kind.NEGATION, "no"): "no not non cannot never neither isn't aren't can't free",
    (Kind.NEGATION, "without"): "without lacking absence",
    (Kind.AND, ""): "and plus",
    (Kind.OR, ""): "or nor",
    (Kind.BREAK, ""): "while whereas but with where which that",
    (Kind.CAUSE, ""): "caused cause causes due because",
    (Kind.PREPOSITION, ""): "on in at of to from by between close near inside within into onto for "
    "along towards toward i o",  # i, o: typed for "in" and "of"
    (Kind.ARTICLE, ""): "a an the its",
    (Kind.AREA, ""): "area areas region regions side sides image images part parts zone zones half "
    "corner corners edge edges flank flanks sector portion scene frame interferogram",
    (Kind.LONG, ""): "long longer large",
    (Kind.RESPECTIVELY, ""): "respectively",
    (Kind.COMMA, ""): ",",
    (Kind.FILLER, ""): "also be been is are can could detected detect has have it there very more "
    "most like extracted located covering appears distributed spatially covered shows showing "
    "processing error step steps during difficulties difficulty difficult extracting "
    "missing delays delay liquid solid particles displacement surface changes sub temporal hand "
    "present visible seen observed if",  # if: typed for "is"
}

# Misspellings of the real captions that the general rule below does not reach, or not safely.
_MISSPELT = {
    "ride": "right", "rigtht": "right", "lelf": "left", "botto": "bottom", "topost": "topmost",
    "centel": "center", "tree": "three", "leke": "like", "wake": "wave", "adn": "and",
    "cn": "can", "caan": "can", "aslo": "also", "ares": "areas", "altitutde": "altitude",
    "beteenw": "between", "beteewn": "between",
}  # fmt: skip

_LEXICON = {
    word: Word(word, kind, value)
    for (kind, value), words in _TABLE.items()
    for word in words.split()
}
# Ordinary words one letter from a word of the lexicon: not misspellings.
_ORDINARY = frozenset(
    {
        "bright", "corrected", "eight", "even", "felt", "fight", "flow", "form", "glow", "height",
        "let", "lift", "light", "might", "night", "sight", "slow", "still", "stop", "stops",
        "story", "tight", "weight", "wet",
    }
)  # fmt: skip
_LONGEST = 20  # letters of the longest word worth correcting


@lru_cache(maxsize=65536)
def look_up(text: str) -> tuple[Word, ...]:
    """Role of a word as written (lower case): one word, or two where a blank is missing.

    Args:
        text: A word without blanks or hyphens.

    Returns:
        One or two words with their roles; a single one of kind UNKNOWN where nothing fits.
    """
    if text in _LEXICON:
        return (_LEXICON[text],)
    if text in _MISSPELT:
        return (_LEXICON[_MISSPELT[text]]._replace(text=text),)
    if len(text) <= 2 * _LONGEST:
        for cut in range(1, len(text)):
            head, tail = text[:cut], text[cut:]
            if head in _LEXICON and tail in _LEXICON and _separable(head, tail):
                return _LEXICON[head], _LEXICON[tail]
    corrected = _correct(text)
    if corrected is not None:
        return (_LEXICON[corrected]._replace(text=text),)
    return (Word(text, Kind.UNKNOWN),)


def _separable(head: str, tail: str) -> bool:
    """Short pieces ("a", "of") occur inside any word: they count beside a long one only."""
    short, long = sorted((len(head), len(tail)))
    return long >= 4 and (short >= 3 or short + long >= 9)


def _correct(text: str) -> str | None:
    """The lexicon word that a misspelt one means: the nearest, if all nearest have one role."""
    if not (3 <= len(text) <= _LONGEST and text.isalpha()) or text in _ORDINARY:
        return None
    reach = 2 if len(text) >= 8 else 1
    distances = {word: _distance(text, word) for word in _LEXICON if _plausible(text, word)}
    nearest = min(distances.values(), default=reach + 1)
    if nearest > reach:
        return None
    found = [word for word, distance in distances.items() if distance == nearest]
    return found[0] if len({_LEXICON[word][1:] for word in found}) == 1 else None


def _plausible(text: str, word: str) -> bool:
    """Whether `word` may be meant: short words have too many neighbours that mean themselves."""
    if len(word) < 4 or abs(len(word) - len(text)) > 2:
        return False
    if not (word[0] == text[0] or word[:2] == text[1::-1]):
        return False
    if len(word) >= 6:
        return True
    doubled = len(text) > len(word) and _undouble(text) == _undouble(word)
    return sorted(word) == sorted(text) or doubled or len(text) == len(word) - 1


def _undouble(text: str) -> str:
    return re.sub(r"(.)\1", r"\1", text)


def _distance(a: str, b: str) -> int:
    """Edits from a to b: insertions, deletions, substitutions, swaps of neighbours."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
