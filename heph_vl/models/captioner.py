"""Interferogram -> words: the captioner, and the loss it is trained with.

    B images, T pieces of the longest text, L latents, K = `num_tokens`, W = `width`

    image -> encoder -> latents (B, L, D), tokens (B, N, D), saliency (B, N)
    latents and the K most salient tokens -> memory (B, L + K, W)
    memory, pieces so far -> decoder (transformers' BART, cross-attention) -> logits
    loss = cross-entropy of the next piece + saliency

What is said of an image is chosen among many sampled texts: `models.consensus`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.consensus import Answer, Sample, choose
from heph_vl.models.encoder import (
    Encoder,
    EncoderConfig,
    EncoderOutput,
    balanced_mean,
    check_alike,
    saliency_terms,
)
from heph_vl.models.explain import relevance
from heph_vl.models.gather import gather_rows
from heph_vl.models.text import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    load_tokenizer,
    save_tokenizer,
    sentence_case,
    sentence_spans,
    tokenize,
)

# Ways to see an image that change no word of its caption: its phase reversed or not, and a constant
# [rad] added. On validation shares of samples from four of them tell deformation from none with
# AUROC 0.978 where as many samples of one give 0.944 (eval/LOG.md, 2026-11-28).
VIEWS = ((False, 0.0), (True, 1.3), (False, 2.9), (True, 4.4))


@dataclass(frozen=True)
class CaptionerConfig:
    """Parts of the captioner and of its loss.

    Raises:
        HephError: If sizes do not fit each other.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    vocab_size: int = 1024
    context_length: int = 160  # the longest real caption has 115 tokens at 1,024 pieces
    width: int = 256
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1  # of the decoder
    num_tokens: int = 64  # the most salient ones, which are told beside the latents
    freeze_encoder: bool = False
    saliency_weight: float = 1.0  # of its loss; a frozen encoder has none

    def __post_init__(self) -> None:
        sizes = self.vocab_size, self.width, self.layers, self.heads, self.num_tokens
        if min(sizes) < 1 or self.width % self.heads or self.context_length < 3:
            raise HephError(
                "model.vocab_size, width, layers, heads, num_tokens, context_length",
                f"{', '.join(map(str, (*sizes, self.context_length)))}",
                "all at least 1, context_length at least 3, and heads must divide width",
            )
        if not 0 <= self.dropout < 1 or not 0 <= self.saliency_weight < float("inf"):
            what = f"{self.dropout}, {self.saliency_weight}"
            fix = "a share below 1, and a number from 0 on"
            raise HephError("model.dropout, saliency_weight", what, fix)


@dataclass(frozen=True)
class Memory:
    """What the decoder attends to of B images.

    Attributes:
        states: (B, L + K, W).
        mask: (B, L + K) bool, False where an image has fewer tokens.
        pooled: (B, D), the encoder's view of the whole image.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor

    def one(self, i: int) -> "Memory":
        """That of one image."""
        return Memory(*(value[i : i + 1] for value in vars(self).values()))


class Captioner(OnHub, nn.Module):
    """An image encoder and a text decoder.

    Args:
        config: Sizes.
        tokenizer: Of `text.load_tokenizer`; without one, texts must come as token ids.

    Attributes:
        threshold: Share of the sampled texts that must tell a deformation for the caption to do
            so; fitted on validation, saved with the model.

    Raises:
        HephError: If the tokenizer has more pieces than the decoder has embeddings.
    """

    def __init__(self, config: CaptionerConfig, tokenizer: Any = None) -> None:
        super().__init__()
        if tokenizer is not None and len(tokenizer) > config.vocab_size:
            what = f"{config.vocab_size}, but the tokenizer has {len(tokenizer)} pieces"
            raise HephError("model.vocab_size", what, "make it as large as the tokenizer")
        self.config = config
        self.tokenizer = tokenizer
        self.threshold = 0.5
        self.encoder = Encoder(config.encoder)
        if config.freeze_encoder:
            self.encoder.requires_grad_(False)
        elif not config.saliency_weight:  # else it chooses tokens without learning to
            self.encoder.saliency.requires_grad_(False)
        dim, width = config.encoder.dim, config.width
        self.latent_projection = nn.Linear(dim, width)
        self.token_projection = nn.Linear(dim + 1, width)  # a token, and how salient it is
        self.kind = nn.Parameter(torch.randn(2, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.decoder = _decoder(config)

    def train(self, mode: bool = True) -> "Captioner":
        """Switch mode; a frozen encoder stays as it is, batch norms included."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, T - 1, vocab_size) of the next piece of each text, and the saliency."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            seen = self.encoder(batch["pixel_values"], batch["valid"], batch.get("size"))
        memory = self.remember(seen.latents, seen.tokens, seen)
        return {
            "logits": self.next_logits(memory, batch["input_ids"]),
            "saliency_logits": seen.saliency_logits,
            "token_mask": seen.token_mask,
        }

    def remember(self, latents: Tensor, tokens: Tensor, seen: EncoderOutput) -> Memory:
        """Memory of images.

        Args:
            latents: (B, L, D), those of `seen` or others in their place.
            tokens: (B, N, D), likewise.
            seen: Which tokens there are, and how salient.

        Returns:
            The memory.
        """
        salience = seen.saliency_logits.float()
        ranked = salience.masked_fill(~seen.token_mask, float("-inf"))
        chosen = ranked.topk(min(self.config.num_tokens, ranked.shape[1]), dim=1).indices
        mask = seen.token_mask.gather(1, chosen)  # (B, K)
        told = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
        told = torch.cat([told, salience.gather(1, chosen)[..., None].to(told.dtype)], dim=-1)
        parts = self.latent_projection(latents), self.token_projection(told)
        states = torch.cat([part + self.kind[i] for i, part in enumerate(parts)], dim=1)
        always = torch.ones(latents.shape[:2], dtype=torch.bool, device=mask.device)
        return Memory(self.norm(states), torch.cat([always, mask], dim=1), latents[:, 0])

    def next_logits(self, memory: Memory, input_ids: Tensor) -> Tensor:
        """Logits (B, T - 1, vocab_size) of pieces 1 to T - 1, each given those before it.

        Args:
            memory: Of B images.
            input_ids: (B, T) int64 of `text.tokenize`, padded on the right.

        Returns:
            Float32.
        """
        from transformers.modeling_outputs import BaseModelOutput

        found = self.decoder(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory.states),
            attention_mask=memory.mask.long(),
            decoder_input_ids=input_ids[:, :-1],  # padding is to the right: no piece sees it
            use_cache=False,
        )
        logits: Tensor = found.logits
        return logits

    @torch.no_grad()
    def look(
        self, pixel_values: Tensor, valid: Tensor, size: Tensor | None = None, *, view: int = 0
    ) -> Memory:
        """Memory of images, as they are or seen in another way that changes no word.

        Args:
            pixel_values: As for `Encoder.forward`, like the next two, on any device.
            valid: (B, H, W) bool.
            size: (B, 2) int64, or None.
            view: 0: as they are; else one of `VIEWS`.

        Returns:
            The memory.
        """
        device = self.kind.device
        size = None if size is None else size.to(device)
        pixels = seen_otherwise(pixel_values.to(device), *VIEWS[view])
        seen = self.encoder(pixels, valid.to(device), size)
        return self.remember(seen.latents, seen.tokens, seen)

    def look_often(self, pixel_values: Tensor, valid: Tensor) -> list[Memory]:
        """Memory of images in each of `VIEWS`; arguments as for `look`."""
        return [self.look(pixel_values, valid, view=view) for view in range(len(VIEWS))]

    @torch.no_grad()
    def generate(
        self,
        memory: Memory,
        *,
        num_beams: int = 1,
        num_samples: int = 0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Texts of images: greedy, by beam search, or sampled.

        Args:
            memory: Of B images, of `look`.
            num_beams: 1: the likeliest piece at each step.
            num_samples: If not 0, so many texts of each image are drawn instead.
            temperature: Of the draws.
            seed: Of the draws; those of an image do not depend on the others.

        Returns:
            For each image its texts, in sentence case: one, or `num_samples`.

        Raises:
            HephError: If the model has no tokenizer, or a number is out of range.
        """
        if num_beams < 1 or num_samples < 0 or not 0 < temperature < float("inf"):
            what = f"{num_beams} beams, {num_samples} samples, temperature {temperature}"
            raise HephError("generate", what, "at least 1, at least 0, and above 0")
        if not num_samples:
            # Without the usual division by length, which prefers long texts to likely ones.
            how = {"num_beams": num_beams} | ({"length_penalty": 0.0} if num_beams > 1 else {})
            return [[text] for text, _ in self._decode(memory, **how)]
        if num_beams > 1:
            raise HephError("generate", "both beams and samples", "ask for one of them")
        drawn = [
            self._sample(memory.one(i), num_samples, temperature, seed)
            for i in range(len(memory.states))
        ]
        return [[text for text, _ in texts] for texts in drawn]

    def _sample(
        self, memory: Memory, count: int, temperature: float, seed: int
    ) -> list[tuple[str, float]]:
        """Texts of one image, each with the log of its probability."""
        cuda = [memory.states.device] if memory.states.is_cuda else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            return self._decode(
                memory,
                do_sample=True,
                top_k=0,
                temperature=temperature,
                num_return_sequences=count,
            )

    def _decode(self, memory: Memory, **how: Any) -> list[tuple[str, float]]:
        from transformers.modeling_outputs import BaseModelOutput

        if self.tokenizer is None:
            raise HephError("captioner", "it has no tokenizer", "load it with from_pretrained")
        was_training = self.training
        self.eval()
        try:
            found = self.decoder.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=memory.states),
                attention_mask=memory.mask.long(),
                max_length=self.config.context_length,
                return_dict_in_generate=True,
                output_scores=True,
                **how,
            )
            each = self.decoder.compute_transition_scores(
                found.sequences,
                found.scores,
                getattr(found, "beam_indices", None),
                normalize_logits="beam_indices" not in found,
            )
        finally:
            self.train(was_training)
        # After the end of a text there are only pads, which have no probability of their own.
        told = found.sequences[:, 1:] != PAD_ID
        totals = each.masked_fill(~told[:, : each.shape[1]], 0.0).sum(1).tolist()
        words = self.tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
        return [(sentence_case(text), total) for text, total in zip(words, totals, strict=True)]

    @torch.no_grad()
    def answer(
        self,
        memories: Sequence[Memory],
        *,
        num_samples: int,
        num_beams: int = 0,
        seed: int = 0,
    ) -> list[Answer]:
        """What is said of images, and how sure each fact is.

        Args:
            memories: Of B images in one or several views, as they are first (`look_often`).
            num_samples: Texts drawn of each image, of all views alike, whose agreement gives the
                confidence.
            num_beams: 0: the text that the samples agree on most, which tells a deformation if
                a share of `threshold` of them do; else the text of a search with so many beams.
            seed: Of the draws.

        Returns:
            One for each image.

        Raises:
            HephError: No sample is asked for, or the model has no tokenizer.
        """
        if num_samples < 1:
            raise HephError("answer", f"{num_samples} samples", "draw at least one")
        first = memories[0]
        texts: list[str | None] = [None] * len(first.states)
        if num_beams:
            texts = [text for (text,) in self.generate(first, num_beams=num_beams)]
        answers = []
        for i, text in enumerate(texts):
            samples: list[Sample] = []
            for view, memory in enumerate(memories):
                count = len(range(view, num_samples, len(memories)))
                if count:
                    samples += self._sample(memory.one(i), count, 1.0, seed + view)
            answers.append(choose(samples, self.threshold, text))
        return answers

    def phrase_maps(
        self, pixel_values: Tensor, valid: Tensor, text: str
    ) -> list[tuple[str, Tensor]]:
        """Where in an image each sentence of a text comes from.

        Args:
            pixel_values: (3, H, W) float32.
            valid: (H, W) bool.
            text: Said of the image.

        Returns:
            Each sentence with (rows, columns) float32, relevance of cells of 16 px to the
            probability of its pieces (`explain.relevance`).
        """
        device = self.kind.device
        with torch.no_grad():
            seen = self.encoder(pixel_values[None].to(device), valid[None].to(device))
        ids = tokenize(self.tokenizer, [text], self.config.context_length)["input_ids"].to(device)
        found = []
        for sentence, span in sentence_spans(self.tokenizer, ids[0]):

            def score(latents: Tensor, tokens: Tensor, span: slice = span) -> Tensor:
                memory = self.remember(latents, tokens, seen)
                logits = self.next_logits(memory, ids).log_softmax(-1)
                told = logits.gather(2, ids[:, 1:, None])[..., 0]  # (1, T - 1): of pieces from 1
                return told[:, span.start - 1 : span.stop - 1].sum(1)

            found.append((sentence, relevance(self.encoder, seen, score)[0]))
        return found

    def fill_from(self, other: "Captioner", where: str) -> None:
        """Take all weights of another captioner.

        Args:
            other: Made like this one.
            where: It was saved, for messages.

        Raises:
            HephError: It was made otherwise.
        """
        check_alike(other.config.encoder, self.config.encoder, where)
        for name in ("vocab_size", "context_length", "width", "layers", "heads"):
            theirs, ours = getattr(other.config, name), getattr(self.config, name)
            if theirs != ours:
                what = f"the saved captioner's {name} is {theirs}, the config's {ours}"
                raise HephError(where, what, f"set model.{name} to that")
        weights.fill(self, other.state_dict(), Path(where))

    @property
    def model_id(self) -> str:
        """Sha256 of all weights."""
        return weights.state_sha256(self._own_state() | self.encoder.state_dict())

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
        parts = {
            "encoder": {
                "path": "encoder",
                "sha256": self.encoder.save_pretrained(folder / "encoder"),
            },
            "tokenizer": {"sha256": save_tokenizer(self.tokenizer, folder / "tokenizer")},
            "threshold": self.threshold,
        }
        config = replace(self.config, encoder=replace(self.config.encoder, pretrained=None))
        weights.write_model(folder, "captioner", config, self._own_state(), **parts)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "Captioner":
        """Read a captioner from a folder of `save_pretrained`, in evaluation mode.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.

        Returns:
            The captioner with its tokenizer.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model, or if its
                encoder or tokenizer is not the one it was trained with.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "captioner")
        where = str(folder / weights.CONFIG)
        config = weights.config_from_dict(CaptionerConfig, entries["config"], f"{where}: config")
        encoder = weights.part(entries, "encoder", ("path", "sha256"), where)
        words = weights.part(entries, "tokenizer", ("sha256",), where)
        model = cls(config, load_tokenizer(folder / "tokenizer", sha256=words["sha256"]))
        threshold: Any = entries.get("threshold")
        if type(threshold) not in (int, float) or not 0 <= threshold <= 1:
            raise HephError(where, f"threshold is {threshold!r}", "copy the whole folder again")
        model.threshold = float(threshold)
        state = weights.read_weights(folder, entries["weights_sha256"])
        seen = weights.read_weights(folder / encoder["path"], encoder["sha256"])
        state |= {f"encoder.{name}": tensor for name, tensor in seen.items()}
        weights.fill(model, state, folder)
        return model.eval()

    def _own_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("encoder.")}


def seen_otherwise(pixel_values: Tensor, reversed_phase: bool, shift: float) -> Tensor:
    """Images with all phase turned.

    Args:
        pixel_values: (B, 3, H, W) float32: Re and Im of the phasor, coherence.
        reversed_phase: The dates in the other order.
        shift: Added to the phase after that [rad].

    Returns:
        Of the same shape; no-data stays 0.
    """
    real, imaginary, coherence = pixel_values.unbind(1)
    z = torch.complex(real, -imaginary if reversed_phase else imaginary)
    z = z * complex(math.cos(shift), math.sin(shift))
    return torch.stack([z.real, z.imag, coherence], dim=1)


def captioner_loss(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The captioner's loss over the batches of all ranks, the same on every rank.

    Args:
        model: A `Captioner`, possibly wrapped for several ranks.
        batch: Of `data.transforms.collate`; images without `mask` train no saliency.

    Returns:
        The loss (), and scalars to log.
    """
    unwrapped: Any = getattr(model, "module", model)
    config: CaptionerConfig = unwrapped.config
    if batch["input_ids"].shape[1] < 2:  # no image of this rank has a text: still a piece to guess
        room = {"input_ids": PAD_ID, "attention_mask": 0}
        batch = {**batch, **{k: F.pad(batch[k], (0, 1), value=v) for k, v in room.items()}}
    out = model(batch)
    told = batch["attention_mask"][:, 1:].bool()
    pieces = batch["input_ids"][:, 1:]
    logits = out["logits"].float()
    each = F.cross_entropy(logits.transpose(1, 2), pieces, reduction="none") * told  # (B, T - 1)
    with torch.no_grad():
        right = ((logits.argmax(-1) == pieces) & told).sum()
    terms = torch.stack([each.sum(), told.sum().float(), right.float()])
    total, count, right = gather_rows(terms[None])[0].sum(0)
    text = total / count.clamp(min=1)  # mean over the pieces of all ranks
    loss = text
    logs: dict[str, Tensor | float] = {
        "text": text.detach(),
        "piece_accuracy": (right / count.clamp(min=1)).detach(),
    }
    if config.saliency_weight and not config.freeze_encoder and "mask" in batch:
        terms = saliency_terms(out["saliency_logits"], out["token_mask"], batch["mask"])
        saliency = balanced_mean(gather_rows(terms[None])[0].sum(0))
        loss = loss + config.saliency_weight * saliency
        logs["saliency"] = saliency.detach()
    return loss, logs


def _decoder(config: CaptionerConfig) -> Any:
    """BART's decoder with its language model head; the memory takes the place of its encoder."""
    from transformers import BartConfig, BartForConditionalGeneration

    decoder = BartForConditionalGeneration(
        BartConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context_length,
            d_model=config.width,
            encoder_layers=0,
            decoder_layers=config.layers,
            decoder_attention_heads=config.heads,
            decoder_ffn_dim=4 * config.width,
            dropout=config.dropout,
            pad_token_id=PAD_ID,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=BOS_ID,
            forced_eos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    # Never called: the memory takes its place. It must hold nothing that could be trained.
    decoder.model.encoder = nn.Identity()
    del decoder.model.shared
    return decoder
