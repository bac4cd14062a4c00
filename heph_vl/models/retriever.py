"""Text and image in one space: the retriever, and the loss it is trained with.

    B images, G texts, A scene atoms, E = `dim` of the common space

    image -> encoder -> pooled (B, D) -> image_embeds u (B, E), unit
    text -> text tower (G, width) -> text_embeds v (G, E), unit
    loss = contrastive(u, v, positives = which text is true of which image) + saliency

41 % of the interferograms share one caption, so a text has many images. Which, follows from facts:
scene atoms as a bitmask, and at most 4 patterns (type, intensity, 11-bit mask of regions).
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.data.captions import MAX_PATTERNS, PATTERN_TYPES
from heph_vl.errors import HephError
from heph_vl.models import weights
from heph_vl.models.encoder import Encoder, EncoderConfig, balanced_mean, saliency_terms
from heph_vl.models.gather import gather_rows
from heph_vl.models.text import TextConfig, TextTower, load_tokenizer, save_tokenizer, tokenize

MAX_LOGIT_SCALE = math.log(100)
_UNSPECIFIED = PATTERN_TYPES.index("unspecified")


@dataclass(frozen=True)
class RetrieverConfig:
    """Parts of the retriever and of its loss."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text: TextConfig = field(default_factory=TextConfig)
    dim: int = 256
    loss: Literal["entailment", "diagonal"] = "entailment"  # diagonal: CLIP's, each its own text
    saliency_weight: float = 1.0


class Retriever(nn.Module):
    """An image encoder and a text tower with a common space.

    Args:
        config: Sizes and loss.
        tokenizer: Of `text.load_tokenizer`; without one, texts must come as token ids.

    Raises:
        HephError: If the tokenizer has more pieces than the text tower has embeddings.
    """

    def __init__(self, config: RetrieverConfig, tokenizer: Any = None) -> None:
        super().__init__()
        if tokenizer is not None and len(tokenizer) > config.text.vocab_size:
            raise HephError(
                "text.vocab_size",
                f"{config.text.vocab_size}, but the tokenizer has {len(tokenizer)} pieces",
                "make it as large as the tokenizer",
            )
        self.config = config
        self.tokenizer = tokenizer
        self.encoder = Encoder(config.encoder)
        self.text_tower = TextTower(config.text)
        self.image_projection = nn.Linear(config.encoder.dim, config.dim, bias=False)
        self.text_projection = nn.Linear(config.text.width, config.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10)))  # t: logits are exp(t) u . v

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that the loss needs of the model, under the names of the methods below."""
        logit_scale = self.logit_scale
        if self.training:  # bound t itself: behind a clamp it would get no gradient to come back
            with torch.no_grad():
                logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        seen = self.encoder(batch["pixel_values"], batch["valid"], batch.get("size"))
        return {
            "image_embeds": _unit(self.image_projection(seen.pooled)),
            "text_embeds": self.encode_texts(batch["input_ids"], batch["attention_mask"]),
            "saliency_logits": seen.saliency_logits,
            "token_mask": seen.token_mask,
            "logit_scale": logit_scale,
        }

    def encode_images(
        self, pixel_values: Tensor, valid: Tensor, size: Tensor | None = None
    ) -> Tensor:
        """Embeddings (B, E) float32 of unit length; arguments as for `Encoder.forward`."""
        return _unit(self.image_projection(self.encoder(pixel_values, valid, size).pooled))

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings (G, E) float32 of unit length; arguments as for `TextTower.forward`."""
        return _unit(self.text_projection(self.text_tower(input_ids, attention_mask)))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Embeddings (G, E) float32 of unit length of texts as they are typed.

        Args:
            texts: G of them.
            batch_size: Texts at once.

        Returns:
            On the model's device.

        Raises:
            HephError: If a text is blank or the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise HephError("retriever", "it has no tokenizer", "load it with from_pretrained")
        if any(not text.strip() for text in texts):
            raise HephError("text", "it is empty", "say what to look for")
        device = self.logit_scale.device
        parts = [torch.empty(0, self.config.dim, device=device)]
        for start in range(0, len(texts), batch_size):
            some = texts[start : start + batch_size]
            tokens = tokenize(self.tokenizer, some, self.config.text.context_length)
            parts.append(self.encode_texts(**{k: t.to(device) for k, t in tokens.items()}))
        return torch.cat(parts)

    @property
    def model_id(self) -> str:
        """Sha256 of all weights and of the tokenizer: two models with one id embed alike."""
        parts = [
            weights.state_sha256(self.encoder.state_dict()),
            weights.state_sha256(self._own_state()),
            self.tokenizer.backend_tokenizer.to_str() if self.tokenizer is not None else "",
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write own weights, the encoder (subfolder `encoder`) and the tokenizer (`tokenizer`).

        Args:
            folder: Made if need be.

        Raises:
            HephError: If the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise HephError(str(folder), "the model has no tokenizer", "give it the one it learnt")
        folder = Path(folder)
        encoder = {"path": "encoder", "sha256": self.encoder.save_pretrained(folder / "encoder")}
        save_tokenizer(self.tokenizer, folder / "tokenizer")
        config = replace(self.config, encoder=replace(self.config.encoder, pretrained=None))
        weights.write_model(folder, "retriever", config, self._own_state(), encoder=encoder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Retriever":
        """Read a retriever from a folder of `save_pretrained`, in evaluation mode.

        Args:
            folder: Where it was saved.

        Returns:
            The retriever with its tokenizer.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model, or if its
                encoder is not the one it was trained with.
        """
        folder = Path(folder)
        entries = weights.read_config(folder, "retriever")
        where = str(folder / weights.CONFIG)
        config = weights.config_from_dict(RetrieverConfig, entries["config"], f"{where}: config")
        encoder = entries.get("encoder")
        if not isinstance(encoder, dict) or {"path", "sha256"} - encoder.keys():
            raise HephError(where, "the entry encoder: {path, sha256} is missing", "save it again")
        retriever = cls(config, load_tokenizer(folder / "tokenizer"))
        seen = weights.read_weights(folder / encoder["path"], encoder["sha256"])
        state = weights.read_weights(folder, entries["weights_sha256"])
        state |= {f"encoder.{name}": tensor for name, tensor in seen.items()}
        weights.fill(retriever, state, folder)
        return retriever.eval()

    def _own_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("encoder.")}


def retriever_loss(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The retriever's loss over the batches of all ranks, the same on every rank.

    Args:
        model: A `Retriever`, possibly wrapped for several ranks.
        batch: Of `data.transforms.collate`; images without `mask` train no saliency.

    Returns:
        The loss (), and scalars to log.
    """
    unwrapped: Any = getattr(model, "module", model)
    config: RetrieverConfig = unwrapped.config
    out = model(batch)
    rows = gather_rows(
        out["image_embeds"],
        out["text_embeds"],
        batch["attention_mask"].any(1),
        batch["scene_atoms"],
        batch["patterns"],
        batch["text_scene_atoms"],
        batch["text_patterns"],
        batch["fact_count"],
        batch["text_count"],
    )
    u, v, has_text, scene, patterns, text_scene, text_patterns, fact_count, text_count = rows
    if config.loss == "entailment":
        texts = distinct_texts(text_scene, text_patterns, has_text)
        positives = entails(text_scene[texts], text_patterns[texts], scene, patterns).T
        weighting = fact_count**-0.5, text_count[texts] ** 0.5
    else:
        texts = has_text.nonzero()[:, 0]
        positives = torch.eye(len(u), dtype=torch.bool, device=u.device)[:, texts]
        weighting = torch.ones_like(fact_count), torch.ones_like(text_count[texts])
    contrastive = contrastive_loss(u, v[texts], out["logit_scale"], positives, *weighting)
    loss = contrastive
    logs: dict[str, Tensor | float] = {
        "contrastive": contrastive.detach(),
        "logit_scale": out["logit_scale"].detach().exp(),
        "texts": float(len(texts)),
        "positives": positives.float().mean().detach(),
    }
    if config.saliency_weight and "mask" in batch:
        terms = saliency_terms(out["saliency_logits"], out["token_mask"], batch["mask"])
        saliency = balanced_mean(gather_rows(terms[None])[0].sum(0))
        loss = loss + config.saliency_weight * saliency
        logs["saliency"] = saliency.detach()
    return loss, logs


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
        if len(v) < 2 or bool(positives.all()) or not bool(positives.any()):
            warnings.warn(
                "contrastive loss 0: the batch has no negatives, no positives or one text",
                stacklevel=2,
            )
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


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1)
