"""Text and image in one space: the retriever, and the loss it is trained with.

    B images, G texts, E = `dim` of the common space

    image -> encoder -> pooled (B, D) -> image_embeds u (B, E), unit
    text -> text tower (G, width) -> text_embeds v (G, E), unit
    loss = contrastive(u, v, positives = which text is true of which image) + saliency

The contrastive losses, and which text is true of which image, are in `contrastive`.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.contrastive import (
    NUM_SIMILARITY_FACTS,
    contrastive_loss,
    distinct_texts,
    entails,
    fact_counts,
    fact_similarity,
    sigmoid_loss,
    soft_loss,
)
from heph_vl.models.encoder import (
    Encoder,
    EncoderConfig,
    balanced_mean,
    check_alike,
    saliency_terms,
)
from heph_vl.models.explain import relevance
from heph_vl.models.gather import gather_rows
from heph_vl.models.text import TextConfig, TextTower, load_tokenizer, save_tokenizer, tokenize

MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class RetrieverConfig:
    """Parts of the retriever and of its loss."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text: TextConfig = field(default_factory=TextConfig)
    dim: int = 256
    # entailment: many positives; diagonal: CLIP's, each its own text; sigmoid: entailment in pairs,
    # as SigLIP's; soft: shares by similarity of facts.
    loss: Literal["entailment", "diagonal", "sigmoid", "soft"] = "entailment"
    # With n training records of the same facts an image weighs n^-power, a text n^power. 0.5, meant
    # to keep rare images and frequent texts in balance, gains entailment nothing on any suite and
    # costs it image to text (eval/LOG.md, 2026-11-28).
    count_power: float = 0.0
    saliency_weight: float = 1.0


class Retriever(OnHub, nn.Module):
    """An image encoder and a text tower with a common space.

    Args:
        config: Sizes and loss.
        tokenizer: Of `text.load_tokenizer`; without one, texts must come as token ids.

    Raises:
        HephError: If the tokenizer has more pieces than the text tower has embeddings.
    """

    fact_weights: Tensor

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
        self.logit_bias = nn.Parameter(torch.zeros(())) if config.loss == "sigmoid" else None
        self.register_buffer("fact_weights", torch.ones(NUM_SIMILARITY_FACTS), persistent=False)

    def weigh_facts(self, scene_atoms: Tensor, patterns: Tensor) -> None:
        """Let rare facts count more in `soft`: log(1 + N / number of records that have one).

        Args:
            scene_atoms: (N, A) bool of the training records.
            patterns: (N, 4, 3) int64.
        """
        number = (fact_counts(scene_atoms, patterns) > 0).sum(0)
        self.fact_weights.copy_(torch.log1p(len(scene_atoms) / number.clamp(min=0.5)))

    def fill_from(self, other: "Retriever", where: str) -> None:
        """Take all weights of another retriever.

        Args:
            other: Made like this one, up to its loss.
            where: It was saved, for messages.

        Raises:
            HephError: It was made otherwise.
        """
        check_alike(other.config.encoder, self.config.encoder, where)
        for name in ("text", "dim"):
            theirs, ours = getattr(other.config, name), getattr(self.config, name)
            if theirs != ours:
                what = f"the saved retriever's {name} is {theirs}, the config's {ours}"
                raise HephError(where, what, f"set model.{name} to that")
        weights.fill(self, other.state_dict(), Path(where))

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
            **({} if self.logit_bias is None else {"logit_bias": self.logit_bias}),
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

    @torch.no_grad()
    def heat_map(
        self, text_embeds: Tensor, pixel_values: Tensor, valid: Tensor, size: Tensor | None = None
    ) -> Tensor:
        """Where each image agrees with a text.

        Args:
            text_embeds: (B, E) or (E,), of `embed_texts`.
            pixel_values: As for `Encoder.forward`, like the next two.
            valid: (B, H, W) bool.
            size: (B, 2) int64, or None.

        Returns:
            (B, rows, columns) float32, relevance of cells of 16 px (`explain.relevance`).
        """
        seen = self.encoder(pixel_values, valid, size)

        def score(latents: Tensor, tokens: Tensor) -> Tensor:
            return (_unit(self.image_projection(latents[:, 0])) * text_embeds).sum(-1)

        return relevance(self.encoder, seen, score)

    @property
    def model_id(self) -> str:
        """Sha256 of weights, sizes and tokenizer: two models with one id embed alike."""
        sizes = replace(self.config.encoder, pretrained=None), self.config.text
        parts = [
            json.dumps([asdict(part) for part in sizes], sort_keys=True),
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
        tokenizer = {"sha256": save_tokenizer(self.tokenizer, folder / "tokenizer")}
        config = replace(self.config, encoder=replace(self.config.encoder, pretrained=None))
        parts = {"encoder": encoder, "tokenizer": tokenizer}
        weights.write_model(folder, "retriever", config, self._own_state(), **parts)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "Retriever":
        """Read a retriever from a folder of `save_pretrained`, in evaluation mode.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.

        Returns:
            The retriever with its tokenizer.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model, or if its
                encoder or tokenizer is not the one it was trained with.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "retriever")
        where = str(folder / weights.CONFIG)
        config = weights.config_from_dict(RetrieverConfig, entries["config"], f"{where}: config")
        encoder = weights.part(entries, "encoder", ("path", "sha256"), where)
        words = entries.get("tokenizer")  # models of before 2026-11-28 do not say which
        sha256 = words.get("sha256") if isinstance(words, dict) else None
        retriever = cls(config, load_tokenizer(folder / "tokenizer", sha256=sha256))
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
    if config.loss == "diagonal":
        texts = has_text.nonzero()[:, 0]
        positives = torch.eye(len(u), dtype=torch.bool, device=u.device)[:, texts]
        weighting = torch.ones_like(fact_count), torch.ones_like(text_count[texts])
    else:
        texts = distinct_texts(text_scene, text_patterns, has_text)
        positives = entails(text_scene[texts], text_patterns[texts], scene, patterns).T
        weighting = fact_count**-config.count_power, text_count[texts] ** config.count_power
    scale = out["logit_scale"]
    if config.loss == "sigmoid":
        bias = out["logit_bias"]
        contrastive = sigmoid_loss(u, v[texts], scale, bias, positives, *weighting)
    elif config.loss == "soft":
        similarity = fact_similarity(
            fact_counts(scene, patterns),
            fact_counts(text_scene[texts], text_patterns[texts]),
            unwrapped.fact_weights,
        )
        contrastive = soft_loss(u, v[texts], scale, similarity, *weighting)
    else:
        contrastive = contrastive_loss(u, v[texts], scale, positives, *weighting)
    loss = contrastive
    logs: dict[str, Tensor | float] = {
        "contrastive": contrastive.detach(),
        "logit_scale": scale.detach().exp(),
        "texts": float(len(texts)),
        "positives": positives.float().mean().detach(),
    }
    if config.saliency_weight and "mask" in batch:
        terms = saliency_terms(out["saliency_logits"], out["token_mask"], batch["mask"])
        saliency = balanced_mean(gather_rows(terms[None])[0].sum(0))
        loss = loss + config.saliency_weight * saliency
        logs["saliency"] = saliency.detach()
    return loss, logs


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1)
