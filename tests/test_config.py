"""Recipe configs: what is read, and how each mistake is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from heph_vl.config import UsageError, differing_keys, parse_config, to_plain


@dataclass(frozen=True)
class Section:
    """A section."""

    learning_rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    sides: tuple[int, int] = (1, 2)
    path: Path | None = None


@dataclass(frozen=True)
class Config:
    """A recipe."""

    seed: int = 0
    shuffle: bool = True
    optim: Section = field(default_factory=Section)
    extra: Section | None = None


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_files_then_overrides_wherever_they_stand(tmp_path: Path) -> None:
    one = write(tmp_path / "1.yaml", "seed: 5\noptim:\n  learning_rate: 1e-4\n  sides: [3, 4]\n")
    two = write(tmp_path / "2.yaml", "optim: {path: some/where}\nextra: {kind: b}\n")
    argv = ["--optim.kind", "b", "--config", one, f"--config={two}", "--resume", "--shuffle=false"]
    config, resume = parse_config(Config, argv)
    optim = Section(1e-4, "b", (3, 4), Path("some/where"))
    assert config == Config(5, False, optim, Section(kind="b"))
    assert resume
    assert parse_config(Config, []) == (Config(), False)


def test_the_resolved_config_reads_back(tmp_path: Path) -> None:
    config = Config(7, False, Section(3e-4, "b", (5, 6), Path("x")), Section())
    text = yaml.safe_dump(to_plain(config), sort_keys=False)
    assert parse_config(Config, ["--config", write(tmp_path / "c.yaml", text)])[0] == config


BAD_FILES = [
    (
        "optim:\n  learning_rat: 1\n",
        r"c.yaml: optim: unknown key 'optim.learning_rat'; did you mean",
    ),
    ("sed: 1\n", r"c.yaml: unknown key 'sed'; did you mean 'seed'\?"),
    ("seed: x\n", r"c.yaml: seed: 'x' is not an integer; give an integer"),
    ("optim: {learning_rate: fast}\n", r"c.yaml: optim.learning_rate: 'fast' is not a number"),
    ("optim: {kind: c}\n", r"c.yaml: optim.kind: 'c' is not one of a, b"),
    ("optim: 3\n", r"c.yaml: optim: 3 is no section; give keys: kind, learning_rate"),
    ("extra: {kindd: a}\n", r"c.yaml: extra: unknown key 'extra.kindd'; did you mean 'kind'"),
    ("extra: {learning_rate: x}\n", r"c.yaml: extra.learning_rate: 'x' is not a number"),
    ("- 3\n", r"c.yaml: \[3\] is no section"),
    ("seed: [1\n", r"c.yaml: is not YAML: .*line 2"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_bad_files_are_one_line_with_source_and_key(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_config(Config, ["--config", write(tmp_path / "c.yaml", text)])
    assert "\n" not in str(caught.value)


BAD_COMMANDS = [
    (["--optim.learning_rat", "1"], "unknown key 'optim.learning_rat'; did you mean 'optim.lea"),
    (["--optim.learning_rate", "x"], "command line: optim.learning_rate: 'x' is not a number"),
    (["--seed=1.5"], "command line: seed: '1.5' is not an integer"),
    (["--shuffle", "7"], "command line: shuffle: '7' is not true or false"),
    (["--optim", "{}"], "unknown key 'optim'"),
    (["--seed"], "--seed has no value"),
    (["--seed", "--resume"], "--seed has no value"),
    (["train"], "unexpected 'train'"),
    (["--config", "/no/such.yaml"], "/no/such.yaml: cannot be read"),
]


@pytest.mark.parametrize(("argv", "message"), BAD_COMMANDS)
def test_bad_commands_are_one_line_with_the_key(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(Config, argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_differing_keys_are_dotted() -> None:
    one = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "e": 0}
    assert differing_keys(one, one) == []
    assert differing_keys(one, {"a": 1, "b": {"c": 3, "d": [1]}, "f": 0}) == [
        "b.c",
        "b.d",
        "e",
        "f",
    ]
