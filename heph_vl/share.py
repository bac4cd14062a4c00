"""Models, adapters, datasets, metrics and the app, sent to the Hugging Face Hub with their cards.

share("runs/heads/small", "user/repo", tag="v1.0")
share("runs/dataset", "user/data", config="interferograms")
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heph_vl.cards import card_of, dataset_cards, front_matter
from heph_vl.errors import HephError
from heph_vl.files import write_text
from heph_vl.hub import REPO, explained
from heph_vl.stage import kind_of, stage

REPO_TYPES = {"dataset": "dataset", "metric": "space", "space": "space"}  # all else: model


def share(
    folder: str | Path,
    repo: str,
    *,
    config: str | None = None,
    half: bool = False,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Send a folder to the Hub with its card, in one commit: all of it or nothing.

    Args:
        folder: A model, run, adapter, dataset, metric module or app (`stage.kind_of`).
        repo: `user/name`, made if need be.
        config: Name of a dataset's config; a repository keeps several.
        half: Store a model in half precision (`weights.halve`).
        private: Whether a new repository is.
        revision: Branch, made if need be.
        tag: Given to the commit.
        message: Of the commit.
        token: Of the Hub; the one that was logged in with if None.

    Returns:
        Address of the commit.

    Raises:
        HephError: Nothing to send, a bad name, no right to write, or the connection broke. Nothing
            is published then, unless it says so, and what was uploaded is not sent a second time.
    """
    from huggingface_hub import HfApi

    if "@" in repo or REPO.fullmatch(repo) is None:
        raise HephError(repo, "not a name on the Hub", "give it as user/name")
    folder = Path(folder)
    kind = kind_of(folder)
    repo_type = REPO_TYPES.get(kind, "model")
    api = HfApi(token=token, library_name="heph_vl")
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "staged"
        with explained(repo, sending=True):
            if kind != "dataset":  # what cannot be sent makes no repository
                prepare(folder, out, half=half, config=config, repo=repo)
            sdk = "gradio" if repo_type == "space" else None
            api.create_repo(
                repo, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk
            )
            if revision is not None:
                api.create_branch(repo, branch=revision, repo_type=repo_type, exist_ok=True)
            before = str(api.repo_info(repo, repo_type=repo_type, revision=revision).sha)
            name = None
            if kind == "dataset":
                published = _published_front(api, repo, before)
                prepare(folder, out, config=config, repo=repo, published=published)
                name = next(path.name for path in out.iterdir() if path.is_dir())
            done = api.upload_folder(
                repo_id=repo,
                folder_path=out,
                repo_type=repo_type,
                revision=revision,
                parent_commit=before,  # whoever has sent something since is not overwritten
                commit_message=message or f"{kind}, sent by heph_vl",
                # Shards of an earlier, longer version of this config.
                delete_patterns=None if name is None else f"{name}/*.parquet",
            )
    if tag is not None:
        try:
            with explained(repo):
                api.create_tag(repo, tag=tag, revision=done.oid, repo_type=repo_type)
        except HephError as error:
            what = f"sent to {done.commit_url}, but not tagged {tag}: {error.what}"
            raise HephError(repo, what, "if the tag is there already, choose another") from error
    return str(done.commit_url)


def prepare(
    folder: Path,
    out: Path,
    *,
    half: bool = False,
    encoder: Path | None = None,
    config: str | None = None,
    repo: str | None = None,
    published: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Put together in a folder what `share` sends, the card included.

    Args:
        folder: As for `share`, like `half`, `config` and `repo`.
        out: New or empty folder.
        half: See `share`.
        encoder: As for `stage`.
        config: See `share`.
        repo: Where it is going to be, for the card.
        published: Front matter of the dataset card that is there already, whose other configs stay.

    Returns:
        Files left behind, relative to `folder`.

    Raises:
        HephError: Nothing to send, or `config` for something else than a dataset.
    """
    kind, left = stage(folder, out, half=half, encoder=encoder)
    if kind != "dataset":
        if config is not None:
            raise HephError("config", f"{folder} is no dataset", "leave it out")
        if kind not in REPO_TYPES:
            write_text(out / "README.md", card_of(out, kind, repo))
        return left
    card = (out / "README.md").read_text()
    found = dataset_cards(card, config, repo or "user/repo", published or {}, str(folder))
    whole, own, name = found
    if name != "data":
        (out / "data").rename(out / name)
    if (out / "heph_vl.json").is_file():
        (out / "heph_vl.json").rename(out / name / "heph_vl.json")
    write_text(out / name / "README.md", own)
    write_text(out / "README.md", whole)
    return left


def _published_front(api: Any, repo: str, revision: str) -> dict[str, Any]:
    """Front matter of a dataset's card on the Hub; empty if there is none."""
    from huggingface_hub import errors

    try:
        path = api.hf_hub_download(repo, "README.md", repo_type="dataset", revision=revision)
    except errors.RemoteEntryNotFoundError:
        return {}
    return front_matter(Path(path).read_text())[0]
