"""Captions: parsing against labels made by hand, writing, and facts that move with their image."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, Event, read_annotations
from heph_vl.data.captions import CaptionFacts, Pattern, compose, decode, encode, parse

# --- labels ---------------------------------------------------------------------------------------

REGION = {
    "tl": "top-left", "t": "top", "tr": "top-right", "l": "left", "c": "center", "r": "right",
    "bl": "bottom-left", "b": "bottom", "br": "bottom-right", "all": "everywhere",
    "alt": "high-altitude",
}  # fmt: skip
SCENE = {
    "vert": ("vertical_stratification",), "turb": ("turbulent_mixing",),
    "orbital": ("orbital_fringes",), "glacier": ("glacier_fringes",),
    "baseline": ("long_temporal_baseline",), "artifacts": ("image_artifacts",),
    "low_impact": ("low_atmospheric_impact",),
    "debursting": ("processing_error", "debursting"),
    "swath_merging": ("processing_error", "swath_merging"),
}  # fmt: skip


def facts_of(label: str) -> CaptionFacts:
    """Facts from shorthand: ``"noise@l,t turb@all | dyke/high@r mogi"``."""
    scene: set[tuple[str, ...]] = set()
    before, _, after = label.partition("|")
    for word in before.split():
        name, _, places = word.partition("@")
        atom = SCENE.get(name, (name,))
        scene |= {atom, *((*atom, REGION[place]) for place in places.split(",") if place)}
    patterns = []
    for word in after.split():
        name, _, places = word.partition("@")
        kind, _, intensity = name.partition("/")
        regions = frozenset(REGION[place] for place in places.split(",") if place)
        patterns.append(Pattern(kind, intensity or None, regions))
    return CaptionFacts(frozenset(scene), tuple(patterns))


def labelled() -> list[tuple[str, str]]:
    """Captions of Hephaestus with labels made by hand, before any parser existed."""
    table = Path(__file__).with_name("captions_by_hand.tsv").read_text(encoding="utf-8")
    return [tuple(line.split("\t")) for line in table.splitlines()]  # type: ignore[misc]


@pytest.mark.parametrize(("label", "caption"), labelled())
def test_parse_agrees_with_hand_labels(label: str, caption: str) -> None:
    facts = parse(caption)
    assert facts.atoms() == facts_of(label).atoms()
    assert facts.unexplained == ()


QUERIES = {
    "sill-type deformation of high intensity on the left": "| sill/high@l",
    "dyke on the left, no noise": "| dyke@l",
    "low-intensity Mogi source in the north-east": "| mogi/low@tr",
    "mogi, low, top-left": "| mogi/low@tl",
    "2 mogis lower right": "| mogi@br mogi@br",
    "left sill, right dyke": "| sill@l dyke@r",
    "sill on the left and on the right a dyke": "| sill@l dyke@r",
    "noise, dyke on the left": "noise | dyke@l",
    "noise, sill-type deformation; left; high intensity": "noise | sill/high@l",
    "Noise And Turbulent Mixing On The Left": "noise@l turb@l",
    "a sill with noise on the left": "noise@l | sill",
    "two dykes and a sill, upper right": "| dyke@tr dyke@tr sill@tr",
    "two patterns on the right, a sill of low intensity and a dyke": "| sill/low@r dyke@r",
    "two patterns of high intensity on the left": "| unspecified/high@l unspecified/high@l",
    "Two patterns on the right. A sill.": "| sill@r unspecified@r",
    "Three patterns: a mogi in the center, a dyke top left and a sill": "| mogi@c dyke@tl sill",
    "A sill and a dyke at the bottom and the left, respectively.": "| sill@b dyke@l",
    "deformation caused by a dyke on the left": "| dyke@l",
    "sill at high altitude": "| sill@alt",
    "sill or dyke of medium intensity in the bottom left corner": "| sill@bl dyke/medium@bl",
    "low coherence on the whole image": "noise@all",
    "weak atmosphere": "low_impact",
    "strong atmospheric impact": "",
    "orbital fringes and noise on the left": "orbital noise@l",
    "swath merging error on the left": "swath_merging",
    "no deformation, noise on the left": "no_deformation noise@l",
    "no deformation and strong turbulence": "no_deformation turb",
    "deformation is not detected": "no_deformation",
    "noise-free image with a sill": "| sill",
    "no noise, turbulence or fringes": "",
    "without noise and turbulence": "",
    "no dyke, but a sill at the top": "| sill@t",
    "no deformation on the left": "",
    "no deformation. A sill on the left.": "| sill@l",
    "noise on the wider left side": "noise@l",
    "noise on the wider area": "noise@all",
    "noise around the area": "noise@all",
    "noise in the deformation zone": "noise",
    "turbulent mixing of low intensity": "turb",
}  # fmt: skip


@pytest.mark.parametrize(("query", "label"), QUERIES.items())
def test_parse_reads_the_fragments_of_queries(query: str, label: str) -> None:
    facts = parse(query)
    assert facts == facts_of(label)
    assert facts.unexplained == ()


def test_words_without_a_reading_are_reported() -> None:
    assert parse("a sill in the caldera of Fernandina").unexplained == ("caldera", "fernandina")
    assert parse("a large sill").unexplained == ("large",)
    nothing = parse("Hello World on the left!")
    assert nothing == CaptionFacts()
    assert nothing.unexplained == ("hello", "world", "on", "the", "left")
    assert parse("") == CaptionFacts()


@pytest.mark.parametrize(
    "caption",
    [
        "Turbulnet mixign efect can be detectd on the botom-rigth side of teh region",
        "A turbulent mixing effect on the bottomright side",
        "turbulentmixing efects at the lower rigt side of the regoin",
    ],
)
def test_misspellings_are_read_as_meant(caption: str) -> None:
    assert parse(caption) == facts_of("turb@br")


@pytest.mark.parametrize("word", ["still", "light", "stop", "wet", "corrected", "might"])
def test_ordinary_words_are_not_corrected(word: str) -> None:
    assert parse(f"sill {word}") == facts_of("| sill")
    assert parse(f"sill {word}").unexplained == (word,)


@given(st.text(max_size=300))
def test_parse_takes_any_text(text: str) -> None:
    facts = parse(text)
    assert parse(compose(facts)) == facts


@pytest.mark.parametrize("text", ["x" * 10_000, "a, " * 3_333, "sill " * 2_000, "unwort " * 1_428])
def test_long_texts_take_no_time(text: str) -> None:
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 5.0


# --- facts ----------------------------------------------------------------------------------------

REGION_SETS = st.frozensets(st.sampled_from(captions.REGIONS), max_size=4) | st.frozensets(
    st.sampled_from(captions.REGIONS)
)
PATTERNS = st.builds(
    Pattern,
    st.sampled_from(captions.PATTERN_TYPES),
    st.none() | st.sampled_from(captions.INTENSITIES),
    REGION_SETS,
)


@st.composite
def valid_facts(draw: st.DrawFn) -> CaptionFacts:
    scene = draw(st.frozensets(st.sampled_from(captions.SCENE_ATOMS), max_size=8))
    patterns = tuple(draw(st.lists(PATTERNS, max_size=captions.MAX_PATTERNS)))
    if patterns and draw(st.booleans()):  # twins are told together
        patterns = (patterns[0], *patterns)[: captions.MAX_PATTERNS]
    return CaptionFacts(scene - {("no_deformation",)} if patterns else scene, patterns)


def test_atoms_follow_the_contract() -> None:
    facts = parse("Noise on the left. A sill of low intensity on the top and a dyke.")
    assert facts.atoms() == {
        ("noise",),
        ("noise", "left"),
        ("deformation", "1", "sill"),
        ("deformation", "1", "intensity", "low"),
        ("deformation", "1", "at", "top"),
        ("deformation", "2", "dyke"),
    }


def test_constructor_adds_base_atoms_and_refuses_contradictions() -> None:
    assert ("noise",) in CaptionFacts(frozenset({("noise", "left")})).scene
    with pytest.raises(ValueError, match="no_deformation contradicts"):
        CaptionFacts(frozenset({("no_deformation",)}), (Pattern("sill"),))
    with pytest.raises(ValueError, match="fog"):
        CaptionFacts(frozenset({("fog",)}))
    with pytest.raises(ValueError, match="volcano"):
        Pattern("volcano")


def test_vocabulary_is_fixed() -> None:
    # Saved models index into these: order and length are part of their format.
    assert len(captions.SCENE_ATOMS) == len(set(captions.SCENE_ATOMS)) == 46
    assert captions.SCENE_ATOMS[:4] == (
        ("corrupted",),
        ("no_information",),
        ("noise",),
        ("noise", "top-left"),
    )
    assert captions.SCENE_ATOMS[-1] == ("no_deformation",)
    assert len(captions.REGIONS) == 11


@given(valid_facts())
def test_compose_is_read_back_exactly(facts: CaptionFacts) -> None:
    read = parse(compose(facts))
    assert read == facts
    assert read.unexplained == ()


@given(valid_facts(), st.integers(0, 2**32 - 1))
def test_paraphrases_are_read_back_exactly(facts: CaptionFacts, seed: int) -> None:
    read = parse(compose(facts, np.random.default_rng(seed)))
    assert read == facts
    assert read.unexplained == ()


def test_paraphrases_vary_and_repeat_by_seed() -> None:
    facts = facts_of("noise@l,t turb@all | sill/high@r dyke/low@l")
    texts = [compose(facts, np.random.default_rng(seed)) for seed in range(50)]
    assert len(set(texts)) > 40
    assert texts[7] == compose(facts, np.random.default_rng(7))
    assert compose(facts) == (
        "Noise can be detected on the top and left side of the region. Turbulent mixing effect can "
        "be detected on the wider area of the region. Two deformation patterns can be detected. A "
        "sill-type of high intensity on the right side of the region and a dyke-type of low "
        "intensity on the left side of the region."
    )


@given(valid_facts())
def test_encode_round_trip(facts: CaptionFacts) -> None:
    scene, patterns = encode(facts)
    assert (scene.dtype, scene.shape) == (np.bool_, (46,))
    assert (patterns.dtype, patterns.shape) == (np.int64, (4, 3))
    assert decode(scene, patterns) == facts


def test_encode_values() -> None:
    scene, patterns = encode(facts_of("corrupted | dyke/high@tl,alt unspecified"))
    assert np.flatnonzero(scene).tolist() == [0]
    assert patterns.tolist() == [[1, 2, 1 | 1 << 10], [6, -1, 0], [-1, -1, 0], [-1, -1, 0]]
    with pytest.raises(ValueError, match="must be"):
        decode(scene[:5], patterns)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("| mogi@r", False),  # mogi is left, it is the sill that is right
        ("| mogi@l", True),
        ("| sill@r mogi@l", True),  # order is free
        ("| sill sill", False),  # one sill cannot stand for two
        ("| unspecified@r", True),  # no type is stated
        ("| unspecified unspecified", True),
        ("| unspecified unspecified unspecified", False),
        ("| mogi/low", False),  # an intensity that the image's facts do not state
        ("noise | sill/high", True),
        ("noise@l", False),
        ("no_deformation", False),
        ("", True),
    ],
)
def test_entailment(text: str, expected: bool) -> None:
    image = facts_of("noise | mogi@l sill/high@r")
    assert captions.entails(image, facts_of(text)) is expected


def test_entailment_tries_all_assignments() -> None:
    # The first sill would do for the first text pattern, but then nothing is left for the second.
    image = facts_of("| sill/low@l sill/high@l")
    assert captions.entails(image, facts_of("| sill@l sill/low"))
    assert not captions.entails(image, facts_of("| sill/low sill/low"))


@given(valid_facts(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_dropped_facts_leave_an_entailed_text(facts: CaptionFacts, seed: int, keep: float) -> None:
    fewer = captions.drop_facts(facts, np.random.default_rng(seed), keep)
    assert captions.entails(facts, fewer)


def test_drop_facts_limits_and_rate() -> None:
    facts = facts_of("noise@l,t turb@all | sill/high@r dyke/low@l")
    rng = np.random.default_rng(0)
    assert captions.drop_facts(facts, rng, 1.0) == facts
    assert captions.drop_facts(facts, rng, 0.0) == CaptionFacts()
    sills = [
        ("deformation", "1", "sill") in captions.drop_facts(facts, rng, 0.5).atoms()
        for _ in range(2000)
    ]
    # The sill is first if it and its type stay: 0.25. (The dyke never turns into a sill.)
    assert np.mean(sills) == pytest.approx(0.25, abs=0.04)


@given(valid_facts())
def test_mirror_is_an_involution(facts: CaptionFacts) -> None:
    assert captions.mirror(captions.mirror(facts)) == facts


def test_mirror_swaps_left_and_right_only() -> None:
    facts = facts_of("noise@tl,r vert@alt turb@t,all debursting | sill/low@bl,c dyke@r")
    assert captions.mirror(facts) == facts_of(
        "noise@tr,l vert@alt turb@t,all debursting | sill/low@br,c dyke@l"
    )


# --- crops ----------------------------------------------------------------------------------------

SIZE = (900, 900)


def square(x: float, y: float, half: float = 20.0) -> tuple[tuple[float, float], ...]:
    return (
        (x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("label", "window", "expected"),
    [
        ("turb@l", (0, 0, 900, 900), "turb@l"),
        ("turb@l", (0, 300, 200, 500), "turb@all"),  # inside the left strip
        ("turb@l", (600, 0, 900, 900), ""),
        ("turb@l", (150, 0, 600, 450), "turb@l"),  # the left third of the crop
        ("turb@l", (0, 0, 450, 450), "turb@l,c"),  # two thirds of the crop
        ("turb@l", (250, 0, 850, 600), ""),  # 8 % of the crop, 11 % of the strip
        ("turb@t", (0, 200, 300, 500), "turb@t"),
        ("turb@tl", (200, 200, 800, 800), ""),  # 1 % of the crop, 11 % of the cell
        ("turb@tl", (150, 150, 750, 750), "turb@tl"),  # 25 % of the cell
        ("turb@c", (250, 250, 650, 650), "turb@c"),  # 56 % of the crop, in its middle
        ("turb@all,alt vert@alt", (0, 0, 100, 100), "turb@all,alt vert@alt"),
        ("turb@l,r", (600, 0, 900, 300), "turb@all"),
        ("turb", (600, 0, 900, 300), "turb"),  # no place to lose
        ("noise@l orbital", (600, 0, 900, 900), "orbital"),
        ("no_deformation noise", (0, 0, 9, 9), "no_deformation noise"),
    ],
)
def test_area_effects_of_a_crop(
    label: str, window: tuple[int, int, int, int], expected: str
) -> None:
    assert captions.crop(facts_of(label), window, SIZE, ()).facts == facts_of(expected)


def test_noise_of_a_crop_comes_from_its_coherence() -> None:
    facts = facts_of("noise@l turb@all")
    window = (0.0, 0.0, 900.0, 900.0)
    assert captions.crop(facts, window, SIZE, (), ["top"]).facts == facts_of("noise@t turb@all")
    assert captions.crop(facts, window, SIZE, (), []).facts == facts_of("turb@all")


def test_patterns_of_a_crop_follow_their_polygons() -> None:
    facts = facts_of("| sill/low@tl dyke/high@br")
    events = [Event("dyke", "high", square(800, 800)), Event("sill", "low", square(100, 100))]
    right = captions.crop(facts, (700, 700, 924, 924), SIZE, events)
    assert right.facts == facts_of("| dyke/high@c")
    assert (right.ambiguous, right.matches) == (0, (0,))
    left = captions.crop(facts, (90, 60, 390, 360), SIZE, events)
    assert left.facts == facts_of("| sill/low@tl")
    none = captions.crop(facts, (300, 300, 500, 500), SIZE, events)
    assert none.facts == facts_of("no_deformation")


def test_a_quarter_of_the_polygon_decides() -> None:
    facts, events = facts_of("| sill@c"), [Event("sill", None, square(450, 450))]
    kept = captions.crop(facts, (460, 350, 660, 550), SIZE, events)  # exactly 25 % inside
    assert kept.facts == facts_of("| sill@l")
    # A sliver: neither a pattern nor its absence can be told.
    assert captions.crop(facts, (462, 350, 662, 550), SIZE, events).facts == CaptionFacts()
    gone = captions.crop(facts, (470, 350, 670, 550), SIZE, events)
    assert gone.facts == facts_of("no_deformation")


def test_matching_by_type_then_place() -> None:
    facts = facts_of("| sill/low@l sill/high@r")
    events = [Event("sill", "low", square(800, 450)), Event("sill", "high", square(100, 450))]
    # Place outweighs the intensity that caption and labels disagree on.
    assert captions.crop(facts, (0, 0, 900, 900), SIZE, events).matches == (1, 0)
    near = [Event("sill", "high", square(450, 440)), Event("sill", "low", square(450, 460))]
    same = facts_of("| sill/low@c sill/high@c")
    result = captions.crop(same, (0, 0, 900, 900), SIZE, near)
    assert (result.matches, result.ambiguous) == ((1, 0), 0)


def test_uncertain_matches_are_counted() -> None:
    whole = (0, 0, 900, 900)
    two = [Event("sill", None, square(450, 440)), Event("sill", None, square(450, 460))]
    assert captions.crop(facts_of("| sill/low@c sill/high@c"), whole, SIZE, two).ambiguous == 2
    assert captions.crop(facts_of("| sill/low@c sill/low@c"), whole, SIZE, two).ambiguous == 0
    assert captions.crop(facts_of("| sill@c"), whole, SIZE, two).ambiguous == 1
    unknown = captions.crop(facts_of("| dyke@c"), whole, SIZE, ())
    assert (unknown.ambiguous, unknown.matches) == (1, (None,))


def test_patterns_without_polygon_follow_their_cells() -> None:
    facts = facts_of("| earthquake@t")
    events = [Event("earthquake", None, None)]
    assert captions.crop(facts, (300, 0, 500, 200), SIZE, events).facts == facts_of(
        "| earthquake@c"
    )
    lower = captions.crop(facts, (300, 600, 500, 800), SIZE, events)
    assert lower.facts == facts_of("no_deformation")
    # Nothing tells where it is: neither the pattern nor its absence is said.
    placeless = captions.crop(facts_of("| earthquake"), (0, 0, 300, 300), SIZE, events)
    assert placeless.facts == CaptionFacts()


def test_crop_needs_a_window_inside_the_image() -> None:
    with pytest.raises(ValueError, match="no area"):
        captions.crop(CaptionFacts(), (950, 0, 1000, 50), SIZE, ())


@settings(max_examples=50)
@given(valid_facts(), st.integers(0, 800), st.integers(0, 800), st.integers(1, 900))
def test_crops_of_any_facts_are_valid_and_written_back(
    facts: CaptionFacts, x: int, y: int, side: int
) -> None:
    events = [Event("sill", "low", square(450, 450)), Event("dyke", None, square(100, 700, 80))]
    cropped = captions.crop(facts, (x, y, x + side, y + side), SIZE, events).facts
    assert parse(compose(cropped)) == cropped


def test_mirror_and_crop_commute() -> None:
    facts = facts_of("noise@tl,r turb@l | sill/low@l dyke@tr")
    events = [Event("sill", "low", square(100, 450)), Event("dyke", None, square(700, 100))]
    mirrored = [
        Event(e.type, e.intensity, tuple((900 - x, y) for x, y in e.polygon or ())) for e in events
    ]
    for window in [(0, 0, 450, 450), (50, 300, 350, 600), (500, 0, 900, 400), (200, 200, 800, 800)]:
        flipped = (900 - window[2], window[1], 900 - window[0], window[3])
        one = captions.mirror(captions.crop(facts, window, SIZE, events).facts)
        assert captions.crop(captions.mirror(facts), flipped, SIZE, mirrored).facts == one


# --- the real captions ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def annotations(shared: Path) -> list[Annotation]:
    return read_annotations(shared / "data" / "hephaestus" / "annotations.tar.gz").annotations


@pytest.mark.real_data
def test_real_captions_are_explained(annotations: list[Annotation]) -> None:
    counts = Counter(a.caption for a in annotations)
    unexplained = {c: parse(c).unexplained for c in counts if parse(c).unexplained}
    records = sum(counts[caption] for caption in unexplained)
    assert records <= 0.005 * len(annotations), json.dumps(unexplained, indent=1)
    assert all(parse(caption).atoms() for caption in counts)
    assert max(len(parse(caption).patterns) for caption in counts) == captions.MAX_PATTERNS


@pytest.mark.real_data
def test_real_captions_agree_with_the_labels(annotations: list[Annotation]) -> None:
    """Where they do not, caption and labels contradict each other in the released files."""
    deforming = [a for a in annotations if a.has_deformation]
    differing = 0
    for a in deforming:
        told = Counter((p.type, p.intensity) for p in parse(a.caption).patterns)
        differing += told != Counter((e.type, e.intensity) for e in a.events)
    assert differing <= 84
    for a in annotations:
        assert bool(parse(a.caption).patterns) == a.has_deformation
        assert (("corrupted",) in parse(a.caption).scene) <= a.corrupted
        error = [x[1] for x in parse(a.caption).scene if x[0] == "processing_error"]
        # Five captions speak of "the merging of burst" where the flag says swath merging.
        assert error in ([], [a.processing_error]) or "merging of burst" in a.caption


@pytest.mark.real_data
def test_real_captions_round_trip(annotations: list[Annotation]) -> None:
    rng = np.random.default_rng(0)
    counts = Counter(a.caption for a in annotations)
    word_for_word = 0
    for caption, count in counts.items():
        facts = parse(caption)
        assert parse(compose(facts)) == facts
        assert parse(compose(facts, rng)) == facts
        assert decode(*encode(facts)) == facts
        word_for_word += count * (compose(facts) == caption)
    assert word_for_word >= 0.9 * len(annotations)


@pytest.mark.real_data
def test_mirrored_facts_are_those_of_the_mirrored_words(annotations: list[Annotation]) -> None:
    swapped = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
    misspelt = re.compile(r"rigth|rihgt|rigtht|ride|lelf|\blef\b")
    checked = 0
    for caption in {a.caption for a in annotations if not misspelt.search(a.caption)}:
        words = re.sub(r"\b(?:left|right)(?:most)?\b", lambda m: swapped[m.group()], caption)
        assert parse(words) == captions.mirror(parse(caption)), caption
        checked += words != caption
    assert checked > 1000


@pytest.mark.real_data
def test_crops_of_real_records(annotations: list[Annotation]) -> None:
    """A patch around each polygon tells its pattern, in the center; one far off tells none."""
    size = (1300, 1300)  # beyond every polygon; the images themselves are not needed
    uncertain = told = patches = 0
    for a in (a for a in annotations if a.has_deformation):
        facts = parse(a.caption)
        uncertain += captions.crop(facts, (0, 0, *size), size, a.events).ambiguous > 0
        polygons = [(e, e.polygon) for e in a.events if e.polygon]
        for event, polygon in polygons:
            xs, ys = zip(*polygon, strict=True)
            x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
            patch = captions.crop(facts, (x - 112, y - 112, x + 112, y + 112), size, a.events)
            patches += 1
            told += any(
                p.type == event.type and p.regions == {"center"} for p in patch.facts.patterns
            )
        far = captions.crop(facts, (1200, 1200, 1300, 1300), size, a.events)
        if len(polygons) >= len(facts.patterns):
            assert far.facts.patterns == ()
            assert ("no_deformation",) in far.facts.scene
    assert uncertain <= 30
    assert told >= 0.98 * patches
    assert patches > 2200
