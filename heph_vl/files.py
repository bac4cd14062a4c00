"""JSON objects read; files and folders written all or nothing.

A kill or a full disk leaves the old file or folder in place.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from heph_vl.errors import HephError

_OPTION = re.compile(r"(--?[\w.]+=?)(?=[/~])")
TEMPORARY = ".writing-"  # what a file or folder that is not complete is called


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failed write becomes one line."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises the second
        fix = "free space or choose a writable folder; what was complete is kept"
        raise HephError(str(path), f"could not be written: {error}", fix) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """A JSON file that holds one object; if it cannot be read, the error says `fix`."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise HephError(str(path), f"cannot be read ({error.strerror})", fix) from None
    except ValueError as error:
        raise HephError(str(path), f"not valid JSON ({error})", fix) from None
    if not isinstance(content, dict):
        raise HephError(str(path), "holds no object", fix)
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file all or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file all or nothing."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        temporary.write_bytes(content)
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def publish(temporary: Path, target: Path) -> None:
    """Give a complete folder its name, after its content has reached the disk."""
    for path in temporary.rglob("*"):
        _sync(path)
    _sync(temporary)
    temporary.rename(target)
    _sync(target.parent)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `target` once the block has ended without error."""
    temporary = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        old = target.with_name(f"{TEMPORARY}old-{target.name}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        publish(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def without_paths(value: Any, key: str = "") -> Any:
    """JSON values in which absolute paths are their last part, which says enough to others.

    Args:
        value: Any JSON value.
        key: Under which it stood; a `command` is taken apart into words.

    Returns:
        The same otherwise.
    """
    if isinstance(value, dict):
        return {name: without_paths(inside, str(name)) for name, inside in value.items()}
    if isinstance(value, list):
        return [without_paths(inside, key) for inside in value]
    if not isinstance(value, str):
        return value
    if key == "command":
        with contextlib.suppress(ValueError):  # a quote that is not closed
            return shlex.join(without_paths(word) for word in shlex.split(value))
        return " ".join(without_paths(word) for word in value.split())
    if value.startswith("[") and value.endswith("]"):  # a list on a command line
        return f"[{', '.join(without_paths(word.strip()) for word in value[1:-1].split(','))}]"
    option = _OPTION.match(value)
    start = option.end() if option else 0
    if value[start:].startswith(("/", "~", "file:/")):
        return value[:start] + Path(value[start:]).name
    return value
