"""Output folders that are either complete or untouched.

Everything is written to `<out>/.partial` and moved into place at the end. `<out>/heph_vl.json`, the
manifest, is removed before the first move and written after the last: where it is, the folder is
complete and holds what it says.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heph_vl.errors import HephError

MANIFEST = "heph_vl.json"
_PARTIAL = ".partial"
_STATE = "state.json"


def read_manifest(out: Path) -> dict[str, Any] | None:
    """What a complete folder says of itself, None where there is none."""
    return _read_json(out / MANIFEST)


def is_complete(out: Path, fingerprint: str) -> bool:
    """Whether a folder holds exactly what this fingerprint stands for, all files in full size."""
    manifest = read_manifest(out)
    if manifest is None or manifest.get("fingerprint") != fingerprint:
        return False
    return not damaged_files(out, manifest)


def damaged_files(out: Path, manifest: dict[str, Any]) -> list[str]:
    """Files of the manifest that are missing or have another size."""
    wrong = []
    for name, size in manifest.get("files", {}).items():
        try:
            if (out / name).stat().st_size != size:
                wrong.append(name)
        except OSError:
            wrong.append(name)
    return wrong


def open_stage(out: Path, fingerprint: str) -> Path:
    """The folder to write into, with what an interrupted run of the same fingerprint finished.

    Args:
        out: The output folder, created if need be.
        fingerprint: What the output depends on; leftovers of another one are removed.

    Returns:
        The folder inside `out`.

    Raises:
        HephError: If `out` is no folder or holds files of someone else.
    """
    if out.exists() and not out.is_dir():
        raise HephError(str(out), "is a file", "give a folder")
    out.mkdir(parents=True, exist_ok=True)
    stage = out / _PARTIAL
    state = _read_json(stage / _STATE)
    others = sorted(path.name for path in out.iterdir() if path.name != _PARTIAL)
    if others and read_manifest(out) is None and state is None:
        what = f"holds other files, e.g. {others[0]}"
        raise HephError(str(out), what, "give an empty or new folder")
    if state is None or state.get("fingerprint") != fingerprint:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        write_atomically(stage / _STATE, json.dumps({"fingerprint": fingerprint}))
    return stage


def publish(out: Path, stage: Path, names: Sequence[str], manifest: dict[str, Any]) -> None:
    """Move staged files and folders into place and write the manifest.

    Args:
        out: The output folder.
        stage: The folder given by `open_stage`.
        names: Top-level names in `stage`; they replace those of the old manifest in `out`.
        manifest: Gets `files`, sizes of all files by their path in `out`.
    """
    files = {
        path.relative_to(stage).as_posix(): path.stat().st_size
        for name in names
        for path in sorted([stage / name, *(stage / name).rglob("*")])
        if path.is_file()
    }
    before = {Path(name).parts[0] for name in (read_manifest(out) or {}).get("files", {})}
    (out / MANIFEST).unlink(missing_ok=True)
    replaced = stage / "replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    replaced.mkdir()
    # What an output of another kind left would be read together with this one.
    for name in sorted(before.union(names)):
        if (out / name).exists():
            (out / name).replace(replaced / name)
    for name in names:
        (stage / name).replace(out / name)
    write_atomically(out / MANIFEST, json.dumps(manifest | {"files": files}, indent=1))
    shutil.rmtree(stage)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that it is whole or not there."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


@contextmanager
def output_errors(out: Path) -> Iterator[None]:
    """Turn any failure of the file system into one line about the output folder.

    Args:
        out: Named in the error.

    Yields:
        Nothing.

    Raises:
        HephError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise HephError(
            str(out),
            f"cannot be written: {error.strerror or error}",
            "check rights and free space and run again; finished parts are kept",
        ) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
