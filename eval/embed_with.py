"""Embed a benchmark split with anyone's model, for `eval/evaluate.py --predictions`.

    python eval/embed_with.py open_clip:ViT-B-32 --weights openai --data DATASET --out clip.npz
    python eval/embed_with.py transformers:google/siglip-base-patch16-224 --data DATASET --out s.npz
    python eval/embed_with.py timm:resnet18 --data DATASET --out resnet.npz
    python eval/evaluate.py --data DATASET --predictions clip.npz

Images are the coloured pictures, no data in white, squashed to the model's size; those that our own
models cannot read (broken, without any valid phase) are left out and listed. A timm model has no
words: there a query is the mean of the training images that answer it (by their captions), and
nothing where none does. Weights come from the hub, or are a file; `random` draws them (a floor).
No code is taken from the hub.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.images import open_png
from heph_vl.embed import encoded_images, read_image
from heph_vl.errors import HephError
from heph_vl.files import write_bytes, writing
from heph_vl.metrics.benchmark import query_texts
from heph_vl.metrics.predictions import read_gallery

KINDS = ("open_clip", "transformers", "timm")
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Embedder:
    """How a model sees.

    Args:
        images: Pictures -> (n, E) float32.
        texts: Texts -> (n, E) float32, or None for a model without words.
    """

    images: Callable[[list[Any]], Vectors]
    texts: Callable[[list[str]], Vectors] | None


def load_embedder(name: str, weights: str | None, device: str) -> Embedder:
    """A model by its library and name.

    Args:
        name: `open_clip:NAME`, `transformers:NAME` (or a folder) or `timm:NAME`.
        weights: open_clip's tag or a file, `random`, or None for the library's default.
        device: Where it runs.

    Returns:
        The embedder.

    Raises:
        HephError: No such library or model, or its weights cannot be had.
    """
    kind, _, model = name.partition(":")
    makers = {"open_clip": _open_clip, "transformers": _transformers, "timm": _timm}
    if kind not in makers or not model:
        fix = "write LIBRARY:MODEL, the library one of " + ", ".join(KINDS)
        raise HephError("model", f"{name!r}", fix)
    try:
        return makers[kind](model, weights, device)
    except HephError:
        raise
    except Exception as error:  # libraries, hub and network have no common class
        reason = " ".join(str(error).split())[:200]
        fix = "check the name; without a network use weights on disk, or --weights random"
        raise HephError(f"model {name}", reason, fix) from error


def _open_clip(name: str, weights: str | None, device: str) -> Embedder:
    import open_clip
    import torch

    hosted = ":" in name  # hf-hub:..., local-dir:...: the weights come with the name
    if weights is None and not hosted:
        known = [tag for model_name, tag in open_clip.list_pretrained() if model_name == name]
        what = f"{name} has no default weights"
        raise HephError("--weights", what, f"one of {', '.join([*known, 'random'])}, or a file")
    drawn = weights == "random"
    # OpenAI's weights need another activation than the name of their network says.
    tagged = {} if hosted or weights is None else open_clip.get_pretrained_cfg(name, weights)
    model, _, preprocess = open_clip.create_model_and_transforms(
        name,
        pretrained=None if drawn else weights,
        load_weights=not drawn,
        pretrained_text=not drawn,
        force_quick_gelu=bool((tagged or {}).get("quick_gelu")),
        device=device,
        image_resize_mode="squash",
    )
    tokenize = open_clip.get_tokenizer(name)
    model.eval()

    @torch.inference_mode()
    def images(pictures: list[Any]) -> Vectors:
        batch = torch.stack([preprocess(picture) for picture in pictures]).to(device)
        return _numpy(model.encode_image(batch))

    @torch.inference_mode()
    def texts(lines: list[str]) -> Vectors:
        return _numpy(model.encode_text(tokenize(lines).to(device)))

    return Embedder(images, texts)


def _transformers(name: str, weights: str | None, device: str) -> Embedder:
    if weights not in (None, "random"):
        fix = "give the folder of the weights as the model's name"
        raise HephError("--weights", f"{weights!r} is no choice for transformers", fix)
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    if weights == "random":
        model = AutoModel.from_config(AutoConfig.from_pretrained(name))
    else:
        model = AutoModel.from_pretrained(name, use_safetensors=True)
    if not hasattr(model, "get_text_features"):
        what = f"{type(model).__name__} has no get_text_features"
        raise HephError(f"model {name}", what, "give a model of images and texts (CLIP, SigLIP)")
    processor, tokenizer = (
        AutoImageProcessor.from_pretrained(name),
        AutoTokenizer.from_pretrained(name),
    )
    model.to(device).eval()
    length = getattr(model.config.text_config, "max_position_embeddings", 77)
    height, width = _side(processor)

    @torch.inference_mode()
    def images(pictures: list[Any]) -> Vectors:
        squashed = [picture.resize((width, height), 3) for picture in pictures]
        batch = processor(squashed, do_resize=False, do_center_crop=False, return_tensors="pt")
        return _numpy(_pooled(model.get_image_features(batch["pixel_values"].to(device))))

    @torch.inference_mode()
    def texts(lines: list[str]) -> Vectors:
        # SigLIP learnt padded to its full length; for CLIP padding is masked.
        tokens = tokenizer(
            lines, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        kept = {k: v.to(device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
        return _numpy(_pooled(model.get_text_features(**kept)))

    return Embedder(images, texts)


def _side(processor: Any) -> tuple[int, int]:
    """Height and width that a model sees."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    square = size.get("shortest_edge")
    return int(size.get("height") or square), int(size.get("width") or square)


def _timm(name: str, weights: str | None, device: str) -> Embedder:
    import timm
    import torch

    drawn = weights == "random"
    overlay = {} if weights in (None, "random") else {"file": weights}
    model = timm.create_model(
        name, pretrained=not drawn, num_classes=0, pretrained_cfg_overlay=overlay or None
    )
    model.to(device).eval()
    config = timm.data.resolve_model_data_config(model) | {"crop_pct": 1.0, "crop_mode": "squash"}
    transform = timm.data.create_transform(**config, is_training=False)

    @torch.inference_mode()
    def images(pictures: list[Any]) -> Vectors:
        batch = torch.stack([transform(picture) for picture in pictures]).to(device)
        return _numpy(model(batch))

    return Embedder(images, None)


def _pooled(output: Any) -> Any:
    """Transformers 5 wraps the features of some models."""
    return getattr(output, "pooler_output", output)


def _numpy(features: Any) -> Vectors:
    vectors: Vectors = features.float().cpu().numpy()
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def pictures(
    rows: Any, batch_size: int, problems: list[HephError]
) -> Iterator[tuple[list[int], list[Any]]]:
    """Coloured pictures of dataset rows, no data in white, some at once.

    Args:
        rows: The dataset split.
        batch_size: Rows at once.
        problems: One error is added for each image that cannot be read.

    Yields:
        Positions of the rows, and their pictures.
    """
    from PIL import Image

    images = encoded_images(rows)
    for start in range(0, len(images), batch_size):
        positions, batch = [], []
        for position in range(start, min(start + batch_size, len(images))):
            row = images[position]
            try:
                read_image(row, position)
            except HephError as problem:
                problems.append(problem)
                continue
            image = open_png(row["image"]["bytes"], f"interferogram {position}").convert("RGBA")
            picture = Image.new("RGBA", image.size, "white")
            picture.alpha_composite(image)
            positions.append(position)
            batch.append(picture.convert("RGB"))
        if batch:
            yield positions, batch


def prototypes(texts: Sequence[str], captions: Sequence[str], images: Vectors) -> Vectors:
    """Queries as means of the training images that answer them.

    Args:
        texts: Q queries.
        captions: Of N training images.
        images: (N, E) their features.

    Returns:
        (Q, E) float32; 0 where no image answers.
    """
    from heph_vl.data import captions as caption_facts

    parsed = {text: caption_facts.parse(text) for text in {*captions}}
    found = np.zeros((len(texts), images.shape[1]), np.float32)
    for row, text in zip(found, texts, strict=True):
        query = caption_facts.parse(text)
        answers = {one: caption_facts.entails(facts, query) for one, facts in parsed.items()}
        chosen = np.array([answers[caption] for caption in captions])
        if chosen.any():
            row[:] = images[chosen].mean(0)
    return found


def _embed(
    embedder: Embedder, rows: Any, batch_size: int, what: str
) -> tuple[list[int], Vectors, list[HephError]]:
    """Positions and vectors of the rows that can be read, and the problems of the others."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    problems: list[HephError] = []
    batches = track(
        pictures(rows, batch_size, problems),
        what,
        -(-len(rows) // batch_size),
        console=console,
        disable=not console.is_terminal,
    )
    parts = [(positions, embedder.images(batch)) for positions, batch in batches]
    if not parts:
        raise HephError("images", f"none of {len(rows)} could be read", "check the dataset")
    return [i for part, _ in parts for i in part], np.concatenate([v for _, v in parts]), problems


def run(options: argparse.Namespace) -> None:
    """Embed all images and queries of a split, and write the .npz."""
    import io

    import torch

    from heph_vl.data import parquet

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)  # of random weights
    embedder = load_embedder(options.model, options.weights, device)
    rows = parquet.load(options.data, options.split)
    gallery = read_gallery(rows)
    texts = query_texts(gallery.captions)
    positions, images, problems = _embed(embedder, rows, options.batch_size, "Images")
    if embedder.texts is not None:
        starts = range(0, len(texts), options.batch_size)
        words = np.concatenate([embedder.texts(texts[i : i + options.batch_size]) for i in starts])
    else:
        train = parquet.load(options.data, "train")
        known, seen, _ = _embed(embedder, train, options.batch_size, "Training images")
        words = prototypes(texts, [train["caption"][i] for i in known], seen)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        image_embeddings=images,
        unique_ids=np.array([gallery.unique_ids[i] for i in positions]),
        text_embeddings=words,
        texts=np.array(texts),
    )
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(options.out, buffer.getvalue())
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"written to {options.out}: {len(images)} images, {len(texts)} texts", file=sys.stderr)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="LIBRARY:MODEL", help=f"library: {', '.join(KINDS)}")
    parser.add_argument("--data", type=Path, required=True, help="folder of `heph-vl dataset`")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--weights", help="open_clip's tag, a file, or random")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--batch-size", type=_positive, default=16, help="images at once")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
