"""Text: a tokenizer trained on the captions, and open_clip's text transformer.

The tokenizer is a Llama-style folder (SentencePiece BPE with byte fallback, so that any query can
be written; ids 0 unk, 1 bos, 2 eos, 3 pad), which transformers and open_clip load as well.
"""

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from heph_vl.errors import HephError

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3
_MIN_VOCABULARY = 4 + 256  # special pieces and bytes
_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "add_bos_token": True,
    "add_eos_token": True,
    "clean_up_tokenization_spaces": False,
    "padding_side": "right",
    "legacy": False,
}


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text transformer.

    Raises:
        HephError: If sizes do not fit each other.
    """

    vocab_size: int = 1024
    context_length: int = 160  # the longest real caption has 115 tokens at 1,024 pieces
    width: int = 256
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if self.width % self.heads or self.context_length < 3:
            raise HephError(
                "text.width, heads, context_length",
                f"{self.width}, {self.heads}, {self.context_length}",
                "heads must divide width, and context_length be at least 3",
            )


class TextTower(nn.Module):
    """open_clip's text transformer, each token seeing all others of its text.

    Args:
        config: Its sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = TextTransformer(
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            output_dim=None,
            no_causal_mask=True,
            use_pad_mask=True,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            pool_type="eos",
            output_tokens=True,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features of texts, read at their end.

        Args:
            input_ids: (G, T) int64 of `tokenize`, T at most `context_length`.
            attention_mask: (G, T) int64, 1 for tokens. A text without any is read as an empty
                one, finite and without meaning: every rank then uses every parameter.

        Returns:
            (G, width).
        """
        return self.states(input_ids, attention_mask)[1]

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each token beside those of the whole text.

        Args:
            input_ids: As for `forward`.
            attention_mask: As for `forward`.

        Returns:
            (G, T, width), of use where there is a token or, of an empty text, at the first place;
            and (G, width).
        """
        ids = input_ids.masked_fill(attention_mask == 0, PAD_ID)
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        ids = ids.masked_fill(first & ~attention_mask.any(1, keepdim=True), EOS_ID)
        features, tokens = self.transformer(ids)
        return tokens, features


def train_tokenizer(captions: Iterable[str], folder: str | Path, vocab_size: int = 1024) -> Any:
    """Train a tokenizer and save its folder; the same captions in any order give the same bytes.

    Args:
        captions: Texts; a repeated one counts once, so that the commonest do not fill the pieces.
        folder: Made if need be.
        vocab_size: At most so many pieces; few captions give fewer.

    Returns:
        The tokenizer.

    Raises:
        HephError: If there is no caption or `vocab_size` leaves no room for words.
    """
    texts = {_normalise(caption) for caption in captions} - {""}
    if not texts:
        raise HephError(str(folder), "no caption to train a tokenizer on", "give captions")
    if vocab_size <= _MIN_VOCABULARY:
        raise HephError("vocab_size", str(vocab_size), f"use more than {_MIN_VOCABULARY}")
    # Queries are read in lower case, captions also as they are written: pieces for both.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted(texts | {text.lower() for text in texts})),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",  # transformers applies no other
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        num_threads=1,
        minloglevel=2,
    )
    save_tokenizer(_converted(model.getvalue()), folder)
    return load_tokenizer(folder)


def save_tokenizer(tokenizer: Any, folder: str | Path) -> str:
    """Write a tokenizer's folder (`tokenizer.json`, `tokenizer_config.json`), made if need be.

    Args:
        tokenizer: Of `load_tokenizer`.
        folder: Where to.

    Returns:
        Sha256 of `tokenizer.json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n")
    pieces = (tokenizer.backend_tokenizer.to_str(pretty=True) + "\n").encode()
    (folder / "tokenizer.json").write_bytes(pieces)
    return hashlib.sha256(pieces).hexdigest()


def load_tokenizer(folder: str | Path, *, sha256: str | None = None) -> Any:
    """The tokenizer of a folder of `train_tokenizer`.

    Args:
        folder: Where it was saved.
        sha256: The `tokenizer.json` that is expected, if it matters which.

    Returns:
        A transformers tokenizer.

    Raises:
        HephError: If the folder is incomplete, broken, or holds another tokenizer or one of
            another kind.
    """
    from transformers import LlamaTokenizer

    folder = Path(folder)
    missing = [
        name
        for name in ("tokenizer_config.json", "tokenizer.json")
        if not (folder / name).is_file()
    ]
    fix = "copy the whole tokenizer folder again from where it was saved"
    if missing:
        raise HephError(str(folder), f"no {missing[0]} here", fix)
    found = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    if sha256 not in (None, found):
        what = f"sha256 is {found[:12]}, not {sha256[:12]}: another model's tokenizer"
        raise HephError(str(folder / "tokenizer.json"), what, fix)
    try:
        tokenizer = LlamaTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raises Exception itself
        raise HephError(str(folder), f"not a tokenizer: {error}", fix) from error
    ids = [getattr(tokenizer, f"{name}_token_id") for name in ("unk", "bos", "eos", "pad")]
    if ids != [UNK_ID, BOS_ID, EOS_ID, PAD_ID] or len(tokenizer) <= _MIN_VOCABULARY:
        raise HephError(str(folder), f"unk, bos, eos, pad are {ids}, not [0, 1, 2, 3]", fix)
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], context_length: int) -> dict[str, Tensor]:
    """Token ids of texts, in lower case, each with bos and eos.

    Args:
        tokenizer: Of `load_tokenizer`.
        texts: G texts. An empty one has no token at all.
        context_length: A longer text is cut to it, eos kept, with a warning.

    Returns:
        `input_ids` and `attention_mask`, (G, T) int64 each, T the longest text's length.
    """
    normal = [_normalise(text).lower() for text in texts]
    ids = tokenizer(normal, split_special_tokens=True)["input_ids"] if normal else []
    ids = [tokens if text else [] for tokens, text in zip(ids, normal, strict=True)]
    cut = sum(len(tokens) > context_length for tokens in ids)
    if cut:
        warnings.warn(f"{cut} of {len(ids)} texts cut to {context_length} tokens", stacklevel=2)
    ids = [t if len(t) <= context_length else [*t[: context_length - 1], EOS_ID] for t in ids]
    length = max([1, *(len(tokens) for tokens in ids)])
    padded = [tokens + [PAD_ID] * (length - len(tokens)) for tokens in ids]
    mask = [[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in ids]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


def sentence_case(text: str) -> str:
    """A text in lower case as it is written: sentences begin with a capital letter.

    Args:
        text: As a decoder of lower-case pieces says it; "sill - type" is written "sill-type".

    Returns:
        The same words.
    """
    text = re.sub(r"(?<=\w) ?- ?(?=\w)", "-", _normalise(text))
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def sentence_spans(tokenizer: Any, input_ids: Tensor) -> list[tuple[str, slice]]:
    """Sentences of a text, and where their pieces are.

    Args:
        tokenizer: Of `load_tokenizer`.
        input_ids: (T,) int64 of `tokenize`, with bos and eos.

    Returns:
        Each sentence, in sentence case, with its span in `input_ids`.
    """
    ids = input_ids.tolist()
    last = len(ids) - 1  # the eos
    pieces = tokenizer.convert_ids_to_tokens(ids)
    ends = [i + 1 for i in range(1, last) if pieces[i].endswith((".", "!", "?"))]
    if last > 1 and ends[-1:] != [last]:
        ends.append(last)
    spans = [slice(start, end) for start, end in zip([1, *ends], ends, strict=False)]
    return [(sentence_case(tokenizer.decode(ids[span])), span) for span in spans]


def _normalise(text: str) -> str:
    return " ".join(text.split())


def _converted(model: bytes) -> Any:
    """A SentencePiece model as a transformers tokenizer."""
    from transformers import LlamaTokenizer

    with TemporaryDirectory() as folder:
        Path(folder, "tokenizer.model").write_bytes(model)
        Path(folder, "tokenizer_config.json").write_text(json.dumps(_CONFIG))
        return LlamaTokenizer.from_pretrained(folder, local_files_only=True)
