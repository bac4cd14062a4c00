"""The file ``meta.json`` of an index, and errors of its storage in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from heph_vl import __version__
from heph_vl.approximate import Lists
from heph_vl.errors import HephError

T = TypeVar("T")

_META = "meta.json"
_FORMAT = 2


@dataclass(frozen=True)
class Meta:
    """What ``meta.json`` says: who made the vectors, and which table version is published."""

    model_id: str
    dim: int
    count: int
    table_version: int
    created: str
    model: str = ""  # folder of the model, where the index was made
    lists: Lists | None = None  # of approximate search, if it was prepared
    heph_vl: str = __version__
    format: int = _FORMAT


def read_meta(path: Path) -> Meta:
    """``meta.json`` of an index.

    Args:
        path: The index's folder.

    Returns:
        What it says.

    Raises:
        HephError: There is none, it is damaged, or of another format.
    """
    if not (path / _META).is_file():
        raise HephError(str(path), "no index here", "make one with: heph-vl index DATA INDEX")
    try:
        entries = json.loads((path / _META).read_text())
        if entries.get("lists") is not None:
            entries["lists"] = Lists(**entries["lists"])
        meta = Meta(**entries)
        readable = meta.format == _FORMAT
        complete = isinstance(meta.model_id, str) and min(meta.dim, meta.table_version) > 0
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HephError(
            str(path / _META), f"unreadable: {error}", "index the images anew"
        ) from error
    if not readable or not complete:
        raise HephError(str(path / _META), f"not of format {_FORMAT}", "index the images anew")
    return meta


def write_meta(folder: Path, meta: Meta) -> None:
    """Write ``meta.json`` whole: renamed into place once it is on the disk."""
    temporary = folder / f".{_META}.tmp"
    with temporary.open("w") as file:
        json.dump(asdict(meta), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _META)


def guard(path: Path, action: Callable[[], T]) -> T:
    """Act on the storage; a failure is told in one line.

    Args:
        path: Of the index, named in the error.
        action: What to do.

    Returns:
        The action's result.

    Raises:
        HephError: LanceDB raised an OSError, RuntimeError or ValueError, as it does for a damaged
            table or a full disk.
    """
    try:
        return action()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).split(", /")[0]  # without the place in LanceDB's own source
        raise HephError(
            str(path), f"cannot read or write the index: {reason}", "check the disk, or index anew"
        ) from error
