"""`heph-vl app`: everything in a browser."""

import errno
import socket
from pathlib import Path
from typing import Annotated

import typer

from heph_vl.commands.output import examples, progress_bar, say, spinner
from heph_vl.errors import HephError

EXAMPLES = examples(
    "heph-vl app",
    "heph-vl app --index runs/demo/index --port 8080",
    "heph-vl app --heads runs/heads/tiny/model --generator user/my-generator@v2",
)


def app(
    index: Annotated[
        Path | None, typer.Option(help="Index to search; a small simulated gallery if not given.")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Folder or user/repo; the reference weights if not given.")
    ] = None,
    retriever: Annotated[
        str | None, typer.Option(help="Likewise; of an index, the one that made it.")
    ] = None,
    captioner: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    generator: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Search, caption, detect and generate in a browser, on this machine alone.

    The first start simulates a small gallery to search in and to try things on, which takes less
    than a minute. Ctrl-C ends it.
    """
    check_port(host, port)
    try:
        with spinner("Loading"):
            from heph_vl import app as served
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "starlette"):
            raise
        fix = "in a clone of heph_vl: pip install -e '.[app]'"
        raise HephError("heph-vl app", "gradio is not installed", fix) from None
    with progress_bar("Simulating") as progress:
        models = served.prepare(
            index=index,
            retriever=retriever,
            heads=heads,
            captioner=captioner,
            generator=generator,
            progress=progress,
            announce=say,
        )
    with spinner("Drawing the page"):
        page = served.page(models)
    address = served.serve(page, host=host, port=port, browser=browser, wait=False)
    say(f"open {address} in a browser; Ctrl-C ends it")
    page.block_thread()


def check_port(host: str, port: int) -> None:
    """Raise HephError unless this address and port are free, before anything is loaded."""
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fix = f"end it, or choose another port, e.g. --port {port + 1}"
            raise HephError(f"port {port}", "another program uses it", fix) from None
        what = error.strerror or str(error)
        raise HephError(f"{host}:{port}", f"cannot listen there: {what}", "see --help") from None
