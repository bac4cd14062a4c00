"""What is sent to the Hub, put together in a folder: a model, adapter, dataset, metric or app.

    stage(Path("runs/heads/small"), Path("out"), half=True)

A model is sent whole: an encoder that it shares with others lies inside what is staged.
"""

import fnmatch
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from heph_vl.errors import HephError
from heph_vl.files import without_paths
from heph_vl.hub import MODEL_FILES
from heph_vl.models import weights

# Kinds that are no models, and what of them is sent.
_FILES = {
    "dataset": ("README.md", "heph_vl.json", "data/*.parquet"),
    "metric": ("*.py", "README.md", "requirements.txt"),
    "space": ("*.py", "README.md", "requirements.txt", "*.png", "*.whl"),
    "adapter": MODEL_FILES,
}
# Of a run: what evaluation found on the test split goes before what training saw on validation.
_RUN_FILES = {
    "config.yaml": "training.yaml",
    "results.test.json": "results.json",
    "results.json": "results.json",
    "environment.json": "environment.json",
}


def kind_of(folder: Path) -> str:
    """What a folder holds.

    Args:
        folder: Of a model, a run, a dataset, an adapter, a metric module or an app.

    Returns:
        "encoder", "heads", ... for models, "generator", "autoencoder", or a key of `_FILES`.

    Raises:
        HephError: Nothing that can be shared.
    """
    if not folder.is_dir():
        raise HephError(str(folder), "no such folder", "name a model, a run or a dataset")
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "model_index.json").is_file():
        return "generator"
    kind = weights.kind_of_model(folder)
    if kind is not None:
        return kind
    if "AutoencoderKL" in _text(folder / "config.json"):
        return "autoencoder"
    if any(folder.glob("data/*.parquet")):
        return "dataset"
    card = _text(folder / "README.md")
    front = card.split("---")[1] if card.startswith("---") else ""
    if "\nsdk:" in front:
        return "metric" if "evaluate" in front else "space"
    if (folder / "model").is_dir():
        return kind_of(folder / "model")
    if any(folder.glob("*/interferograms")):
        what, fix = "an archive of images", f"write a dataset: heph-vl dataset {folder} OUT"
        raise HephError(str(folder), what, fix)
    what = "neither model, run, dataset, adapter, metric nor app"
    raise HephError(str(folder), what, "name the folder that training or heph-vl dataset wrote")


def stage(
    folder: Path, out: Path, *, half: bool = False, encoder: Path | None = None
) -> tuple[str, list[Path]]:
    """Copy what is to be sent; everything else stays behind, absolute paths in it as well.

    Args:
        folder: Of `kind_of`.
        out: New or empty folder.
        half: Store weights in half precision (`weights.halve`).
        encoder: Saved encoder beside `out` that the model is to refer to, if it is the same.

    Returns:
        The kind, and the files left behind, relative to `folder`.

    Raises:
        HephError: There is nothing to send, or `encoder` is another one.
    """
    kind = kind_of(folder)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise HephError(str(out), "the folder is not empty", "choose a new one")
    run = folder if (folder / "model").is_dir() else folder.parent
    source = folder / "model" if run == folder else folder
    left = _copy(source, out, _FILES.get(kind, MODEL_FILES))
    part = folder.name in ("model", "adapter") and (run / "config.yaml").is_file()
    for name, target in _RUN_FILES.items() if run == folder or part else ():
        if (run / name).is_file() and not (out / target).exists():
            shutil.copyfile(run / name, out / target)
    for path in (*out.rglob("*.json"), *out.rglob("*.yaml")):
        if path.name != "tokenizer.json":
            _hide_paths(path)
    if kind in ("generator", "autoencoder"):
        if half:
            _halve_diffusers(source, out, kind)
        elif kind == "generator":
            _stage_text(source, out)
    elif kind not in _FILES:
        _stage_encoder(source, out, half, encoder)
        if half:
            weights.halve(out)
    return kind, left


def _stage_encoder(source: Path, out: Path, half: bool, shared: Path | None) -> None:
    """Bring along the encoder of a model, or refer to a shared one."""
    path = out / weights.CONFIG
    entries: dict[str, Any] = json.loads(path.read_text())
    if "encoder" not in entries:
        return
    own = out / "encoder"
    if not own.is_dir():
        shutil.copytree(weights.encoder_folder(source), own)
    if half:
        weights.halve(own)
    sha256 = weights.weights_sha256(own)
    at = "encoder"
    if shared is not None:
        if weights.weights_sha256(shared) != sha256:
            what = f"another encoder than that of {source}"
            raise HephError(str(shared), what, "leave --encoder out")
        shutil.rmtree(own)
        at = f"../{shared.name}"
    entries["encoder"] |= {"path": at, "sha256": sha256}
    path.write_text(json.dumps(entries, indent=2) + "\n")


def _stage_text(source: Path, out: Path) -> None:
    """Bring along text tower and tokenizer of a generator that refers to a retriever's."""
    path = out / "model_index.json"
    entries: dict[str, Any] = json.loads(path.read_text())
    at = entries.get("text_path")
    if at is None:
        return
    from heph_vl.models.pipeline import CaptionEncoder

    weights.part({"text": {"path": at}}, "text", ("path",), str(path))
    CaptionEncoder.of_retriever(source / at).half().save_pretrained(out / "text_encoder")
    shutil.copytree(source / at / "tokenizer", out / "tokenizer")
    path.write_text(json.dumps(entries | {"text_path": None}, indent=2) + "\n")


def _halve_diffusers(source: Path, out: Path, kind: str) -> None:
    """Write a generator, whole, or an autoencoder in half precision."""
    from heph_vl.models.autoencoder import load_autoencoder
    from heph_vl.models.pipeline import InSARPipeline

    load: Any = InSARPipeline.from_pretrained if kind == "generator" else load_autoencoder
    load(source).to(torch.float16).save_pretrained(str(out))


def _hide_paths(path: Path) -> None:
    """Of absolute paths in a JSON or YAML file leave the last part, which says enough to others."""
    text = path.read_text()
    try:
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        what = f"not valid {path.suffix[1:]}: {str(error).splitlines()[0]}"
        raise HephError(path.name, what, "mend it, or remove it") from None
    hidden = without_paths(found)
    if hidden != found and path.suffix == ".json":
        path.write_text(json.dumps(hidden, indent=2) + "\n")
    elif hidden != found:
        path.write_text(yaml.safe_dump(hidden, sort_keys=False))


def _copy(source: Path, out: Path, patterns: Sequence[str]) -> list[Path]:
    """Copy files by patterns (of the path, or of the name alone); those that fit none come back."""
    left = []
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        inside = path.resolve().is_relative_to(source.resolve().parent.parent)  # of a Hub cache
        if not inside or not any(
            fnmatch.fnmatch(str(name) if "/" in pattern else name.name, pattern)
            for pattern in patterns
        ):
            left.append(name)
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
    return left


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
