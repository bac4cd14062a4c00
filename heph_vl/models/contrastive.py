"""Contrastive losses of images and texts of which many say the same, and who belongs to whom.

    B images, G texts, E = width of the common space, A scene atoms

41 % of the interferograms share one caption, so a text has many images. Which, follows from facts:
scene atoms as a bitmask, and at most 4 patterns (type, intensity, 11-bit mask of regions).
"""

import warnings
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from heph_vl.data.captions import INTENSITIES, MAX_PATTERNS, PATTERN_TYPES, REGIONS, SCENE_ATOMS

_UNSPECIFIED = PATTERN_TYPES.index("unspecified")
# Scene atoms, types, type x intensity, type x region.
NUM_SIMILARITY_FACTS = len(SCENE_ATOMS) + len(PATTERN_TYPES) * (1 + len(INTENSITIES) + len(REGIONS))


def contrastive_loss(
    u: Tensor,
    v: Tensor,
    logit_scale: Tensor,
    positives: Tensor,
    image_weights: Tensor,
    text_weights: Tensor,
) -> Tensor:
    """Contrastive loss with many positives, mean of both directions.

    For image i and a positive text g, with s_ig = exp(t) u_i . v_g,

        l(i, g) = -log(e^s_ig / (e^s_ig + sum over g' that are not positives of i of e^s_ig')),

    averaged over the positives of i, then over the images by weight; texts likewise. Other
    positives stay out of the denominator: there they would push what belongs together apart, and
    leave a floor of log |P|. With one positive in each row it is CLIP's loss.

    Args:
        u: (B, E) unit embeddings of images.
        v: (G, E) unit embeddings of texts.
        logit_scale: (), t.
        positives: (B, G) bool, whether text g is true of image i.
        image_weights: (B,), any scale.
        text_weights: (G,), any scale.

    Returns:
        () float32; 0, with a warning, when there is nothing to contrast.
    """
    with torch.autocast(u.device.type, enabled=False):
        logits = logit_scale.float().exp() * u.float() @ v.float().T
        if _nothing_to_contrast(positives, positives):
            return logits.sum() * 0.0
        return 0.5 * (
            _one_direction(logits, positives, image_weights)
            + _one_direction(logits.T, positives.T, text_weights)
        )


def _one_direction(logits: Tensor, positives: Tensor, row_weights: Tensor) -> Tensor:
    # A row without negatives gets a sum of nearly e^-3e38 = 0, with a gradient of 0, not NaN.
    floor = torch.finfo(logits.dtype).min
    negatives = logits.masked_fill(positives, floor).logsumexp(1, keepdim=True)
    losses = F.softplus(negatives - logits)  # -log(e^s / (e^s + e^negatives))
    num_positives = positives.sum(1)
    row_losses = losses.masked_fill(~positives, 0.0).sum(1) / num_positives.clamp(min=1)
    weights_ = row_weights.float() * (num_positives > 0)
    return (weights_ * row_losses).sum() / weights_.sum()


def sigmoid_loss(
    u: Tensor,
    v: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    positives: Tensor,
    image_weights: Tensor,
    text_weights: Tensor,
) -> Tensor:
    """Each pair of image and text for itself (SigLIP; Zhai et al., 2023).

    Positive and negative pairs are averaged separately: of SigLIP's 1 / N positives its bias of
    -10 is made, here one pair in five is one. A pair weighs as its image times its text.

    Args:
        u: (B, E) unit embeddings of images.
        v: (G, E) unit embeddings of texts.
        logit_scale: (), t: logits are exp(t) u . v + bias.
        logit_bias: ().
        positives: (B, G) bool, whether text g is true of image i.
        image_weights: (B,), any scale.
        text_weights: (G,), any scale.

    Returns:
        () float32; 0, with a warning, when there is nothing to contrast.
    """
    with torch.autocast(u.device.type, enabled=False):
        logits = logit_scale.float().exp() * u.float() @ v.float().T + logit_bias.float()
        if _nothing_to_contrast(positives, positives):
            return logits.sum() * 0.0
        pairs = image_weights.float()[:, None] * text_weights.float()
        on, off = pairs * positives, pairs * ~positives
        pull = (on * F.softplus(-logits)).sum() / on.sum()
        push = (off * F.softplus(logits)).sum() / off.sum()
        return 0.5 * (pull + push)


def soft_loss(
    u: Tensor,
    v: Tensor,
    logit_scale: Tensor,
    similarity: Tensor,
    image_weights: Tensor,
    text_weights: Tensor,
) -> Tensor:
    """Divergence of the softmax from shares in proportion to a similarity of facts.

    Args:
        u: (B, E) unit embeddings of images.
        v: (G, E) unit embeddings of texts.
        logit_scale: (), t.
        similarity: (B, G) in [0, 1], of `fact_similarity`.
        image_weights: (B,), any scale.
        text_weights: (G,), any scale.

    Returns:
        Mean of both directions, () float32, at least 0; rows without any similar side do not
        count. 0, with a warning, when there is nothing to contrast.
    """
    with torch.autocast(u.device.type, enabled=False):
        logits = logit_scale.float().exp() * u.float() @ v.float().T
        if _nothing_to_contrast(similarity > 0, similarity > 0.999):
            return logits.sum() * 0.0
        return 0.5 * (
            _divergence(logits, similarity.float(), image_weights)
            + _divergence(logits.T, similarity.float().T, text_weights)
        )


def _divergence(logits: Tensor, similarity: Tensor, row_weights: Tensor) -> Tensor:
    total = similarity.sum(1, keepdim=True)
    shares = similarity / total.clamp(min=1e-9)
    losses = F.kl_div(logits.log_softmax(1), shares, reduction="none").sum(1)
    weights = row_weights.float() * (total[:, 0] > 0)
    return (weights * losses).sum() / weights.sum()


def fact_counts(scene: Tensor, patterns: Tensor) -> Tensor:
    """How often facts tell each thing: a multiset, with patterns told by type.

    Args:
        scene: (N, A) bool.
        patterns: (N, 4, 3) int64, as of `entails`.

    Returns:
        (N, NUM_SIMILARITY_FACTS) float32: scene atoms, types, type x intensity, type x region.
        As `metrics.fact_queries.fact_tokens`.
    """
    kind, intensity, regions = patterns.unbind(-1)  # (N, 4)
    device = kind.device
    kinds = (torch.arange(len(PATTERN_TYPES), device=device) == kind[..., None]).float()
    levels = (torch.arange(len(INTENSITIES), device=device) == intensity[..., None]).float()
    places = ((regions[..., None] >> torch.arange(len(REGIONS), device=device)) & 1).float()
    cross = [torch.einsum("npk,npx->nkx", kinds, said).flatten(1) for said in (levels, places)]
    return torch.cat([scene.float(), kinds.sum(1), *cross], dim=1)


def fact_similarity(images: Tensor, texts: Tensor, weights: Tensor) -> Tensor:
    """Weighted Jaccard similarity of multisets of facts.

    Args:
        images: (B, K) of `fact_counts`.
        texts: (G, K).
        weights: (K,) of each fact, such as log(1 + N / number of records that have it).

    Returns:
        (B, G) in [0, 1]: 1 for equal facts, 0 for facts without anything in common.
    """
    rows = []
    for image in images:  # one by one: (B, G, K) would not fit
        shared = torch.minimum(image, texts) @ weights
        union = torch.maximum(image, texts) @ weights
        rows.append(torch.where(union > 0, shared / union.clamp(min=1e-9), 1.0))
    return torch.stack(rows)


def _nothing_to_contrast(similar: Tensor, same: Tensor) -> bool:
    """Whether there is one text, nothing similar or all the same, (B, G) bool; with a warning."""
    alone = similar.shape[1] < 2 or bool(same.all()) or not bool(similar.any())
    if alone:
        warnings.warn(
            "contrastive loss 0: the batch has no negatives, no positives or one text",
            stacklevel=3,
        )
    return alone


def entails(text_scene: Tensor, text_patterns: Tensor, scene: Tensor, patterns: Tensor) -> Tensor:
    """Which text is true of which image, as far as the facts go.

    The text's scene atoms must be among the image's, and its patterns be assignable to distinct
    patterns of the image that have every attribute stated; all 24 assignments are tried. The slow
    reference is `data.captions.entails`.

    Args:
        text_scene: (G, A) bool.
        text_patterns: (G, 4, 3) int64: type, intensity, 11-bit mask of regions; type -1 = no
            pattern, intensity -1 = not stated.
        scene: (B, A) bool.
        patterns: (B, 4, 3) int64.

    Returns:
        (G, B) bool.
    """
    absent_atoms = text_scene.float() @ (~scene).float().T  # (G, B) counts, exact in float32
    kind, intensity, regions = text_patterns[:, None, :, None].unbind(-1)  # (G, 1, 4, 1)
    its_kind, its_intensity, its_regions = patterns[None, :, None].unbind(-1)  # (1, B, 1, 4)
    fits = (its_kind >= 0) & ((kind == its_kind) | (kind == _UNSPECIFIED))
    fits &= (intensity < 0) | (intensity == its_intensity)
    fits &= (regions & ~its_regions) == 0
    fits |= kind < 0  # (G, B, 4, 4): the text's a-th pattern, the image's b-th
    assignable = torch.zeros_like(absent_atoms, dtype=torch.bool)
    for order in permutations(range(MAX_PATTERNS)):
        assignable |= fits[:, :, range(MAX_PATTERNS), order].all(-1)
    return (absent_atoms == 0) & assignable


def distinct_texts(text_scene: Tensor, text_patterns: Tensor, has_text: Tensor) -> Tensor:
    """The first text with each set of facts, so that no text is a negative of its own copy.

    Args:
        text_scene: (G, A) bool.
        text_patterns: (G, 4, 3) int64; their order does not matter.
        has_text: (G,) bool, False for an empty text, which is left out.

    Returns:
        (G',) int64 indices, in order.
    """
    kind, intensity, regions = (text_patterns + 1).unbind(-1)
    codes = ((kind << 2 | intensity) << 12 | regions).masked_fill(kind == 0, 0).sort(1).values
    candidates = has_text.nonzero()[:, 0]
    facts = torch.cat([text_scene.long(), codes], dim=1)[candidates]
    sets, number = torch.unique(facts, dim=0, return_inverse=True)
    first = torch.full((len(sets),), len(has_text), device=number.device)
    return first.scatter_reduce(0, number, candidates, "amin").sort().values
