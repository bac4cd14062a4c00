"""Recipe configs: frozen dataclasses read from YAML and the command line, strictly.

An unknown key or a wrong type is one line that names the source, the key and what would be right.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from heph_vl.errors import HephError

ConfigT = TypeVar("ConfigT")


class UsageError(HephError):
    """A wrong command line or config file: exit code 2."""


def parse_config(
    config_class: type[ConfigT], argv: Sequence[str], *, prog: str | None = None
) -> tuple[ConfigT, bool]:
    """Read a recipe's config from YAML files and the command line.

    `--config FILE` may be repeated; files are read in order, `--section.key value` wins over them
    wherever it stands. Abbreviated keys are refused.

    Args:
        config_class: Frozen dataclass; nested dataclasses are its sections.
        argv: Command line without the program's name.
        prog: Name of the program in `--help`.

    Returns:
        The config, and whether `--resume` was given.

    Raises:
        UsageError: Unknown key, wrong type or unreadable file.
    """
    keys = dict(_keys(config_class))
    files, overrides, resume = _split(argv, keys)
    parser = ArgumentParser(
        prog=prog, description=config_class.__doc__, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_class_arguments(config_class, nested_key=None, as_group=True)
    from_files: list[str] = []
    for file in files:
        _check_keys(_read_yaml(file), config_class, file)
        from_files += ["--config", file]
        _parse(parser, from_files, keys, source=file, partial=True)
    namespace = _parse(parser, [*from_files, *overrides], keys, source="command line")
    values = vars(parser.instantiate(namespace))
    names = [field.name for field in dataclasses.fields(_as_dataclass(config_class))]
    return config_class(**{name: values[name] for name in names}), resume


def to_plain(config: Any) -> Any:
    """The config as YAML's own types: mappings, lists, text, numbers, truth values and none."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Dotted names of the keys whose values differ between two plain configs."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return [] if one == other else [prefix or "(all)"]
    names = [*one, *(key for key in other if key not in one)]
    differences = []
    for name in names:
        key = f"{prefix}.{name}" if prefix else str(name)
        if name in one and name in other:
            differences += differing_keys(one[name], other[name], key)
        else:
            differences.append(key)
    return differences


def _as_dataclass(hint: Any) -> Any:
    """The dataclass behind `X` or `X | None`, or None."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = [option for option in options if dataclasses.is_dataclass(option)]
    return found[0] if len(found) == 1 else None


def _keys(config_class: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted keys with their types; an optional section is a key too (it can be null)."""
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        section = _as_dataclass(hint)
        if section is None or section is not hint:
            yield prefix + field.name, hint
        if section is not None:
            yield from _keys(section, f"{prefix}{field.name}.")


def _split(argv: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[str], list[str], bool]:
    """Config files, overrides and the resume flag; every key is known."""
    files: list[str] = []
    overrides: list[str] = []
    resume = False
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            overrides.append("--help")
            continue
        if word == "--resume":
            resume = True
            continue
        if not word.startswith("--"):
            raise UsageError("command line", f"unexpected {word!r}", "give --section.key value")
        key, equals, value = word[2:].partition("=")
        if key != "config" and key not in keys:
            raise UsageError("command line", f"unknown key {key!r}", _suggest(key, keys))
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError("command line", f"--{key} has no value", f"give --{key} VALUE")
            value = rest.pop(0)
        if key == "config":
            files.append(value)
        else:
            overrides.append(f"--{key}={value}")
    return files, overrides, resume


def _read_yaml(file: str) -> Any:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(file, f"cannot be read ({error.strerror})", "give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(file, f"is not YAML: {error}", "correct the file") from None
    return {} if content is None else content


def _check_keys(content: Any, config_class: Any, file: str, prefix: str = "") -> None:
    where = f"{file}: {prefix.rstrip('.')}" if prefix else file
    names = {f.name for f in dataclasses.fields(config_class)}
    if not isinstance(content, Mapping):
        raise UsageError(where, f"{content!r} is no section", f"give keys: {_listed(names)}")
    hints = get_type_hints(config_class)
    for name, value in content.items():
        if name not in names:
            raise UsageError(where, f"unknown key {prefix + str(name)!r}", _suggest(name, names))
        section = _as_dataclass(hints[name])
        if section is not None and not (value is None and section is not hints[name]):
            _check_keys(value, section, file, f"{prefix}{name}.")


def _parse(
    parser: ArgumentParser,
    argv: list[str],
    keys: Mapping[str, Any],
    *,
    source: str,
    partial: bool = False,
) -> Any:
    try:
        return parser.parse_args(argv)
    except Exception as error:  # jsonargparse raises several kinds, all of them about the input
        message = str(error)
        if partial and "is required" in message:
            return None  # the command line may still give it
        found = re.search(r'[Kk]ey "([^"]+)"', message)
        key = found.group(1) if found else ""
        inner = re.findall(r'Parser key "([^"]+)":\s+Expected', message)
        if inner and inner[-1] != key:
            key = f"{key}.{inner[-1]}"
        value = re.search(r"Got value: (.*)", message)
        if key in keys and value:
            what = f"{value.group(1).strip()!r} is not {_type_name(keys[key])}"
            raise UsageError(f"{source}: {key}", what, f"give {_type_name(keys[key])}") from None
        fix = "see --help for the keys and their types"
        raise UsageError(f"{source}: {key}" if key else source, message, fix) from None


def _type_name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_name(option) for option in get_args(hint))
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and not get_args(hint):
        return {
            "int": "an integer",
            "float": "a number",
            "str": "text",
            "bool": "true or false",
        }.get(hint.__name__, f"a {hint.__name__}")
    text = str(hint).replace("typing.", "")
    return "one of " + ", ".join(map(str, get_args(hint))) if "Literal" in text else text


def _suggest(key: Any, keys: Any) -> str:
    near = difflib.get_close_matches(str(key), list(keys), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {_listed(keys)}"


def _listed(keys: Any) -> str:
    names = sorted(keys)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
