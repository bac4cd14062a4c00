"""Where a model lies: reference weights, a folder, a run, or a name of the Hub."""

import pytest

from heph_vl.errors import HephError
from heph_vl.hub import REPO as NAME
from heph_vl.hub import fetch, located, model_folder, reference_weights
from tests import tiny_heads
from tests.conftest import REPO


def test_nothing_named_is_the_reference_weights():
    for kind in ("heads", "retriever", "captioner", "generator"):
        assert model_folder(None, kind) == REPO / "weights" / kind
    with pytest.raises(HephError, match="did not come with"):
        reference_weights("nothing")


def test_folders_and_runs_are_themselves(tmp_path):
    tiny_heads.make().save_pretrained(tmp_path / "run" / "model")
    assert model_folder(tmp_path / "run", "heads") == tmp_path / "run" / "model"
    assert model_folder(str(tmp_path / "run" / "model"), "heads") == tmp_path / "run" / "model"
    assert located(tmp_path / "run") == tmp_path / "run"


def test_a_folder_is_preferred_to_a_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_heads.make().save_pretrained("user/repo")
    assert str(model_folder("user/repo", "heads")) == "user/repo"


def test_what_is_neither_folder_nor_name_is_left_to_its_reader():
    for name in ("runs/heads/none/model", "/no/such", "../x"):
        assert str(located(name)) == name


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("user/repo", True),
        ("user/repo@v1.0", True),
        ("user/repo@refs/pr/1", True),
        ("a/b/c", False),
        ("../repo", False),
        ("user/..", False),
        ("user/repo;ls", False),
        ("-u/repo", False),
    ],
)
def test_names_of_the_hub(name, fits):
    assert (NAME.fullmatch(name) is not None) == fits


def test_offline_is_told_in_one_line():
    with pytest.raises(HephError, match=r"cannot be reached|HF_HUB_OFFLINE") as told:
        fetch("user/repo")
    assert len(str(told.value).splitlines()) == 1


def test_a_hub_that_is_not_there_is_told_in_one_line(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HephError, match="cannot be reached") as told:
        fetch("user/repo")
    assert len(str(told.value).splitlines()) == 1
