"""What stands between the app and whoever asks it: errors in one line, nothing fetched or kept."""

import html
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
__all__ = ["NothingFetched", "answered", "gr", "only_uploads"]
_ADDRESS = re.compile(r"/(file|proxy)=https?:", re.IGNORECASE)


class NothingFetched:
    """Refuses what gradio would fetch from the web for whoever asks; an ASGI application.

    Args:
        app: Answers the other requests.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        answer = self._app
        if scope["type"] == "http" and _ADDRESS.search(scope["path"]):
            answer = PlainTextResponse("addresses are not fetched", 403)
        await answer(scope, receive, send)


def only_uploads(file: Any) -> None:
    """Make gradio fetch no address that a request names in place of an upload."""
    take = file.async_move_resource_to_block_cache

    async def taken(path: str) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("addresses are not fetched: upload the file", print_exception=False)
        return await take(path)

    file.async_move_resource_to_block_cache = taken


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
