"""Models on the Hugging Face Hub: found, fetched, and errors of the Hub in one line.

    folder = model_folder("user/repo@v1.0", "heads")  # or a local folder; None: reference weights

Nothing but data is fetched: no Python, nothing that is unpickled. What is sent: `share`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from heph_vl.errors import HephError

Kind = Literal["heads", "retriever", "captioner", "generator"]
REPO = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
# Of a model; nothing that could be unpickled or run.
MODEL_FILES = ("*.json", "*.safetensors", "*.yaml", "*.md", "*.txt", "*.model", "*.png")
_OFFLINE = "check the connection, or name a local folder"


def reference_weights(kind: str) -> Path:
    """Folder of the reference weights of a kind of model, which come with the package.

    Args:
        kind: Of model.

    Returns:
        The folder.

    Raises:
        HephError: They are not there.
    """
    package = Path(__file__).parent
    # In a wheel inside the package, in a clone beside it.
    folder = next(
        (f for f in (package / "weights" / kind, package.parent / "weights" / kind) if f.is_dir()),
        None,
    )
    if folder is None:
        what = "the reference weights did not come with this installation"
        raise HephError(f"weights/{kind}", what, "name a model: its folder, or user/repo")
    return folder


def model_folder(name: str | Path | None, kind: Kind) -> Path:
    """Where a model lies on this machine.

    Args:
        name: A folder, a run folder that holds `model/`, `user/repo` or `user/repo@revision` of the
            Hub; None: the reference weights.
        kind: Of model, for the reference weights.

    Returns:
        Its folder; whether it holds such a model is seen when it is read.

    Raises:
        HephError: It cannot be fetched.
    """
    if name is None:
        return reference_weights(kind)
    folder = located(name)
    inside = folder / "model"
    return inside if inside.is_dir() and not (folder / "config.json").exists() else folder


def located(name: str | Path, revision: str | None = None) -> Path:
    """A folder as it is, or one of the Hub once it has been fetched.

    Args:
        name: A folder, or `user/repo` or `user/repo@revision` where there is no such folder.
        revision: Branch, tag or commit on the Hub, if `name` does not say it.

    Returns:
        The folder; a name that can be neither comes back for whoever reads it to complain of.

    Raises:
        HephError: It cannot be fetched.
    """
    match = REPO.fullmatch(str(name))
    if Path(name).exists() or match is None:
        return Path(name)
    return fetch(match["repo"], match["revision"] or revision)


def fetch(repo: str, revision: str | None = None) -> Path:
    """Files of a model on the Hub, from the cache where they are there already.

    Args:
        repo: `user/name`.
        revision: Branch, tag or commit.

    Returns:
        The folder of its snapshot.

    Raises:
        HephError: It is not there, may not be read, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with explained(f"{repo}@{revision}" if revision else repo):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(MODEL_FILES)))


@contextmanager
def explained(where: str, *, sending: bool = False) -> Iterator[None]:
    """Errors of the Hub as one line.

    Args:
        where: The repository, for the message.
        sending: Whether something was to be published, for the message.

    Raises:
        HephError: Whatever went wrong.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        what = "no such folder here, not in the Hub's cache, and the Hub cannot be reached"
        raise HephError(where, what, _OFFLINE) from error
    except errors.OfflineModeIsEnabled as error:
        raise HephError(where, "HF_HUB_OFFLINE is set", "unset it to reach the Hub") from error
    except errors.GatedRepoError as error:
        raise HephError(where, "its owner grants access one by one", "ask for it there") from error
    except errors.RepositoryNotFoundError as error:
        what = "no such folder here and no such repository on the Hub, or it is private"
        raise HephError(where, what, "check the name; for a private one: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        what = "the repository has no such branch, tag or commit"
        raise HephError(where, what, "check what follows the @") from error
    except (errors.HFValidationError, errors.LocalTokenNotFoundError) as error:
        raise HephError(where, _first_line(error), "see hf auth login") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else None
        if code == 412:
            what, fix = "somebody has sent something meanwhile", "run the same command again"
        elif code in (401, 403):
            what, fix = "the token is wrong or may not do this", "hf auth login with a write token"
        else:
            what, fix = f"the Hub answered {code}: {_first_line(error)}", "try again later"
        raise HephError(where, what, fix) from error
    except Exception as error:
        if not _is_transport(error):
            raise
        what = "the connection to the Hub broke, or it cannot be reached"
        what += "; nothing was published" if sending else ""
        raise HephError(where, what, "check the connection and run the same again") from error


def _is_transport(error: BaseException | None) -> bool:
    """Whether a broken connection is behind an error, whatever library has wrapped it."""
    while error is not None:
        library = type(error).__module__.split(".")[0]
        if isinstance(error, (ConnectionError, TimeoutError)) or library.startswith("httpx"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


class OnHub:
    """`push_to_hub` for models that have `save_pretrained`."""

    def push_to_hub(
        self,
        repo: str,
        *,
        revision: str | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Send the model with a card to the Hub; results are sent by `heph-vl share RUN`.

        Args:
            repo: `user/name`, made if need be.
            revision: Branch, made if need be.
            private: Whether a new repository is.
            token: Of the Hub; the one that was logged in with if None.

        Returns:
            Address of the commit.

        Raises:
            HephError: It could not be sent; nothing is published then.
        """
        from heph_vl.share import share

        model: Any = self
        with TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder) / "model")
            return share(
                Path(folder) / "model", repo, revision=revision, private=private, token=token
            )
