"""A model on disk: a folder of `config.json` and `model.safetensors`, checked when it is read.

`config.json` holds {"model", "config", "weights_sha256", ...}; the hash of the weights is the
model's identity. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from heph_vl.errors import HephError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_AGAIN = "copy the whole folder again from where it was saved"

Config = TypeVar("Config")


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Sha256 of weights as they would be written: the identity of a model in memory."""
    return hashlib.sha256(_encode(state)).hexdigest()


def weights_sha256(folder: str | Path) -> str:
    """Sha256 of a folder's `model.safetensors`: the identity of a saved model.

    Args:
        folder: A folder of `write_model`.

    Returns:
        64 hexadecimal digits.

    Raises:
        HephError: If the folder holds no weights.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise HephError(str(path), "there are no weights here", _AGAIN)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_model(
    folder: str | Path, model: str, config: Any, state: Mapping[str, Tensor], **extra: Any
) -> str:
    """Write a model folder; an interrupted write never looks complete.

    Args:
        folder: Made if need be.
        model: Kind of model, checked when it is read.
        config: The model's config, a dataclass of JSON values.
        state: Its parameters and buffers.
        **extra: More entries of `config.json`.

    Returns:
        Sha256 of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoded = _encode(state)
    sha256 = hashlib.sha256(encoded).hexdigest()
    entries = {"model": model, "config": dataclasses.asdict(config), "weights_sha256": sha256}
    _replace(folder / WEIGHTS, encoded)
    _replace(folder / CONFIG, (json.dumps(entries | extra, indent=2) + "\n").encode())
    return sha256


def halve(folder: str | Path) -> str:
    """Store the weights of a saved model in half precision; they are read as float32 again.

    Statistics of batch norms stay as they are: a variance may be too small for half precision.

    Args:
        folder: Of `write_model`, rewritten.

    Returns:
        Sha256 of the new weights.

    Raises:
        HephError: If the weights are missing or broken.
    """
    folder = Path(folder)
    kind = kind_of_model(folder) or "model"
    entries = read_config(folder, kind)
    state = read_weights(folder, entries["weights_sha256"])
    encoded = _encode(
        {
            k: v.half() if v.is_floating_point() and "running_" not in k else v
            for k, v in state.items()
        }
    )
    entries["weights_sha256"] = hashlib.sha256(encoded).hexdigest()
    _replace(folder / WEIGHTS, encoded)
    _replace(folder / CONFIG, (json.dumps(entries, indent=2) + "\n").encode())
    return str(entries["weights_sha256"])


def kind_of_model(folder: str | Path) -> str | None:
    """What kind of model a folder of `write_model` holds; None if its config cannot be read."""
    try:
        entries = json.loads((Path(folder) / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    return entries.get("model") if isinstance(entries, dict) else None


def read_config(folder: str | Path, model: str) -> dict[str, Any]:
    """The entries of a model folder's `config.json`.

    Args:
        folder: A folder of `write_model`.
        model: Kind of model that is expected.

    Returns:
        The entries; `config` and `weights_sha256` are there.

    Raises:
        HephError: If there is no such file, it is cut or broken, or of another kind of model.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise HephError(str(folder), f"this is no saved {model}: no {CONFIG}", "name its folder")
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise HephError(str(path), f"not valid JSON ({error})", _AGAIN) from None
    kind = entries.get("model") if isinstance(entries, dict) else None
    if kind != model:
        raise HephError(
            str(path), f"this is a saved {kind or 'other model'}", f"name a saved {model}"
        )
    if not isinstance(entries.get("config"), dict) or "weights_sha256" not in entries:
        raise HephError(str(path), "the entry config or weights_sha256 is missing", _AGAIN)
    return dict(entries)


def part(entries: Mapping[str, Any], name: str, keys: Sequence[str], where: str) -> dict[str, Any]:
    """An entry of `config.json` that names a part of the model.

    Args:
        entries: Of `read_config`.
        name: Of the entry.
        keys: That it must have.
        where: The file, for the message.

    Returns:
        The entry.

    Raises:
        HephError: It is missing or lacks a key.
    """
    found = entries.get(name)
    if not isinstance(found, dict) or set(keys) - found.keys():
        what = f"the entry {name}: {{{', '.join(keys)}}} is missing"
        raise HephError(where, what, "save it again")
    for key in keys:
        value = found[key]
        if not isinstance(value, str) or (key == "path" and not _is_inside(value)):
            fix = "give a text, and as a path one inside the folder, or of the folder beside it"
            raise HephError(where, f"{name}.{key} is {value!r}", fix)
    return found


def encoder_folder(folder: str | Path) -> Path:
    """Where the encoder of a saved model lies; of a saved encoder, the folder itself.

    Args:
        folder: Of `write_model`.

    Returns:
        The encoder's folder.

    Raises:
        HephError: The model names it wrongly, or has none.
    """
    folder = Path(folder)
    kind = kind_of_model(folder)
    if kind in (None, "encoder"):  # of no model: what reads it says so
        return folder
    entries = read_config(folder, kind)
    encoder = part(entries, "encoder", ("path", "sha256"), str(folder / CONFIG))
    return folder / str(encoder["path"])


def read_weights(folder: str | Path, sha256: str) -> dict[str, Tensor]:
    """The weights of a folder of `write_model`.

    Args:
        folder: Where they were saved.
        sha256: What they must be.

    Returns:
        Parameters and buffers by name, on the CPU.

    Raises:
        HephError: If the weights are missing, broken, or other ones.
    """
    found = weights_sha256(folder)
    path = Path(folder) / WEIGHTS
    if found != sha256:
        what = f"sha256 is {found[:12]}, expected {str(sha256)[:12]}: broken or other weights"
        raise HephError(str(path), what, _AGAIN)
    try:
        return dict(safetensors.torch.load_file(path))
    except safetensors.SafetensorError as error:
        raise HephError(str(path), f"not in safetensors format: {error}", _AGAIN) from None


def fill(module: nn.Module, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Give a module all its weights, and no others.

    Args:
        module: Its parameters and buffers are overwritten.
        state: What `read_weights` gave.
        folder: Where they came from, for the message.

    Raises:
        HephError: If names or shapes differ.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise HephError(str(folder), f"weights do not fit the config: {error}", _AGAIN) from None


def config_from_dict(cls: type[Config], values: Any, where: str) -> Config:
    """A (nested) config dataclass from JSON values, refusing unknown keys and wrong types.

    Args:
        cls: A dataclass of JSON values, tuples and such dataclasses.
        values: What `dataclasses.asdict` gave, through JSON.
        where: File and entry, for the message.

    Returns:
        The config.

    Raises:
        HephError: If a key is unknown or a value has the wrong type.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise HephError(where, f"{values!r} is no table of settings", _AGAIN)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise HephError(f"{where}.{unknown[0]}", "no such setting", "use the version that saved it")
    return cls(**{k: _typed(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return config_from_dict(typing.cast(type, hint), value, where)
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        fits = value in choices
    elif origin in (typing.Union, types.UnionType):
        fits = any(type(value) is (typing.get_origin(c) or c) for c in choices)
    elif hint is float:
        fits = type(value) in (int, float)
    else:
        fits = type(value) is (origin or hint)
    if not fits:
        raise HephError(where, f"{value!r} is not {hint}", _AGAIN)
    return value


def _is_inside(path: str) -> bool:
    """Whether a path stays in the folder, or, as "../encoder", in the one that it is in."""
    parts = Path(path).parts
    return not Path(path).is_absolute() and ".." not in (parts[1:] if parts[1:] else parts)


def _encode(state: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    )


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
