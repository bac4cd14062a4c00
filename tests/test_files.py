"""Files and folders that are written whole or not at all."""

import contextlib
from pathlib import Path

import pytest

from heph_vl.files import new_folder, without_paths, write_text


def test_files_and_folders_are_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "two"
    with new_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("1")
    with contextlib.suppress(ValueError), new_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("2")
        raise ValueError
    assert (tmp_path / "model" / "x").read_text() == "1"
    with new_folder(tmp_path / "model") as folder:
        (folder / "y").write_text("3")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "model"]


def test_a_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a.txt", "one")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("heph_vl.files._sync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "two")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("/home/me/a b/c", "c"),
        ("~/x/y", "y"),
        ("file:///home/me/x", "x"),
        ("runs/dataset", "runs/dataset"),
        ("https://a.b/c", "https://a.b/c"),
        ("[/a/b, c/d]", "[b, c/d]"),
        ("--path=/a/b", "--path=b"),
        ("a / b", "a / b"),
        (3, 3),
    ],
)
def test_absolute_paths_are_left_out(given, left):
    assert without_paths({"x": [given]}) == {"x": [left]}


def test_paths_in_a_command_are_left_out_word_by_word():
    command = "python a.py --data '/home/J S/d' -I/x/y --more '[/a/b, c]'"
    assert (
        without_paths({"command": command})["command"] == "python a.py --data d -Iy --more '[b, c]'"
    )
    assert without_paths({"command": "say 'it /a/b"})["command"] == "say 'it b"
