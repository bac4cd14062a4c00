"""What stands between the app and whoever asks it: errors in one line, nothing fetched or kept."""

import html
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.responses import PlainTextResponse

from heph_vl.errors import HephError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
import gradio as gr

# The page takes gradio from here, so that it is imported after that.
__all__ = ["NothingFetched", "answered", "gr"]
_LARGEST = 1_000_000  # bytes; what the page sends but for uploads are a few fields of text
_UPLOAD = "/gradio_api/upload"
_ADDRESS = re.compile(r"/(file|proxy)=https?:", re.IGNORECASE)
_WEB = "http:", "https:"


class NothingFetched:
    """Refuses what gradio would fetch from the web for whoever asks; an ASGI application.

    gradio downloads the `path` of whatever looks like an upload in the value of any input, be it a
    text field. So all requests pass here, whatever they ask for.

    Args:
        app: Answers the other requests.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        answer = self._app
        if scope["type"] == "http":
            if _ADDRESS.search(scope["path"]):
                answer = PlainTextResponse("addresses are not fetched", 403)
            elif not scope["path"].endswith(_UPLOAD):  # gradio has a limit of its own for these
                messages = await _beginning(receive)
                body = b"".join(message.get("body", b"") for message in messages)
                if len(body) > _LARGEST:
                    answer = PlainTextResponse("the request is too large", 413)
                elif _names_an_address(body):
                    answer = PlainTextResponse("addresses are not fetched", 403)
                receive = _again(messages, receive)
        await answer(scope, receive, send)


async def _beginning(receive: Any) -> list[Any]:
    """The messages of a request up to the end of its body, or to where it is too large."""
    messages: list[Any] = []
    size, more = 0, True
    while more and size <= _LARGEST:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        more = messages[-1].get("more_body", False)
    return messages


def _again(messages: list[Any], receive: Any) -> Callable[[], Any]:
    """Receives these messages once more, and then what comes after them."""
    waiting = iter(messages)

    async def received() -> Any:
        return next(waiting, None) or await receive()

    return received


def _names_an_address(body: bytes) -> bool:
    """Whether a JSON has an address at any depth where an upload has its path."""
    fields: list[tuple[str, Any]] = []
    try:
        json.loads(body, object_pairs_hook=fields.extend)
    except ValueError:
        return False  # gradio reads it with the same function, and so not at all
    except RecursionError:
        return True
    return any(name == "path" and str(value).lower().startswith(_WEB) for name, value in fields)


def answered(answer: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A function of the page that tells errors in one line.

    Args:
        answer: Called with an empty folder and the values of the page.

    Returns:
        A generator of its one answer: gradio has copied the files of that when the folder goes.
    """

    def asked(*values: Any) -> Iterator[Any]:
        with TemporaryDirectory(prefix="heph-vl-") as folder:
            try:
                found = answer(Path(folder), *values)
            except HephError as error:
                line = str(error).replace(f"{folder}/", "")
            except Exception as error:  # the last resort: the traceback is for the terminal
                traceback.print_exc(file=sys.stderr)
                line = f"unexpected {type(error).__name__}: see the terminal, and report it"
            else:
                yield found
                return
        raise gr.Error(html.escape(line), duration=None, print_exception=False)

    return asked
