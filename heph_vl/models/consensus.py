"""One caption of many sampled ones, and how far they agree with each of its facts.

Whether it tells a deformation, their number decides. Of those that tell one, or of the others, that
fact set is said whose mean F1 against them all is highest (minimum Bayes risk, Kumar and Byrne,
2004, with fact F1 as the gain): a caption is worth what it tells of what is there. The likeliest
single text, which beam search looks for, may be of facts that the other texts contradict, as the
same facts can be worded in many ways.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from heph_vl.data import captions
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.captions.agreement import agreeing, fact_f1
from heph_vl.data.captions.facts import Atom

Sample = tuple[str, float]  # a text, and the log of its probability


@dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        text: In sentence case.
        facts: That the text tells.
        confidence: For each of their atoms the share of the samples that tell it too.
        deformation: Share of the samples that tell any.
        samples: That were drawn.
    """

    text: str
    facts: CaptionFacts
    confidence: dict[Atom, float]
    deformation: float
    samples: tuple[Sample, ...]


def choose(samples: Sequence[Sample], threshold: float, text: str | None = None) -> Answer:
    """The facts that the samples agree on most, in their likeliest words.

    Args:
        samples: Of one image, at least one.
        threshold: Share of them that must tell a deformation for the answer to do so.
        text: To be said in any case, if it is given; the samples then give the confidence only.

    Returns:
        The answer.
    """
    counts: Counter[object] = Counter()
    best: dict[object, tuple[float, str, CaptionFacts]] = {}
    for words, log_probability in samples:
        facts = captions.parse(words)
        counts[facts.key] += 1
        if facts.key not in best or log_probability > best[facts.key][0]:
            best[facts.key] = log_probability, words, facts
    told = [(best[key][2], count) for key, count in counts.items()]
    total = len(samples)
    deformation = sum(count for facts, count in told if facts.patterns) / total
    if text is None:
        wanted = deformation >= threshold
        # Where none tells what the threshold asks for, all stand for election, and vote.
        fit = [key for key, one in best.items() if bool(one[2].patterns) == wanted] or list(best)
        _, text, facts = max(
            (best[key] for key in fit),
            key=lambda one: sum(counts[key] * fact_f1(best[key][2], one[2]) for key in fit),
        )
    else:
        facts = captions.parse(text)
    votes: Counter[Atom] = Counter()
    for other, count in told:
        for atom in agreeing(facts, other):
            votes[atom] += count
    confidence = {atom: votes[atom] / total for atom in facts.atoms()}
    return Answer(text, facts, confidence, deformation, tuple(samples))
