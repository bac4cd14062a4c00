"""One caption of many sampled ones, and how far they agree with each of its facts.

A caption is worth as much as it tells of what is there: among the sampled fact sets that is said
whose mean F1 against all samples is highest (minimum Bayes risk, Kumar and Byrne, 2004, with fact
F1 as the gain). The likeliest single text, which beam search looks for, may be of facts that the
other texts contradict, as the same facts can be worded in many ways.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from heph_vl.data import captions
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.captions.agreement import agreeing, fact_f1
from heph_vl.data.captions.facts import Atom


@dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        text: In sentence case.
        facts: That the text tells.
        confidence: For each of their atoms the share of the samples that tell it too.
        deformation: Share of the samples that tell any.
        samples: The texts that were drawn.
    """

    text: str
    facts: CaptionFacts
    confidence: dict[Atom, float]
    deformation: float
    samples: tuple[str, ...]


def choose(samples: Sequence[str], threshold: float, text: str | None = None) -> Answer:
    """The sampled text that the others agree with most.

    Args:
        samples: Texts of one image, at least one.
        threshold: Share of them that must tell a deformation for the answer to do so.
        text: To be said in any case, if it is given; the samples then give the confidence only.

    Returns:
        The answer; of texts with its facts the commonest.
    """
    wordings: dict[object, Counter[str]] = {}
    known: dict[object, CaptionFacts] = {}
    for sample in samples:
        facts = captions.parse(sample)
        wordings.setdefault(facts.key, Counter())[sample] += 1
        known.setdefault(facts.key, facts)
    told = [(known[key], texts.total()) for key, texts in wordings.items()]
    total = len(samples)
    deformation = sum(count for facts, count in told if facts.patterns) / total
    if text is None:
        wanted = deformation >= threshold
        # Where none tells what the threshold asks for, all stand for election.
        key = max(
            [key for key, facts in known.items() if bool(facts.patterns) == wanted] or known,
            key=lambda k: sum(count * fact_f1(facts, known[k]) for facts, count in told),
        )
        text = wordings[key].most_common(1)[0][0]
        facts = known[key]
    else:
        facts = captions.parse(text)
    votes: Counter[Atom] = Counter()
    for other, count in told:
        for atom in agreeing(facts, other):
            votes[atom] += count
    confidence = {atom: votes[atom] / total for atom in facts.atoms()}
    return Answer(text, facts, confidence, deformation, tuple(samples))
