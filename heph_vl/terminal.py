"""What a training run has to do with the terminal: its progress bar and Ctrl-C."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_Values = Mapping[str, float]
_SHOWN = {"loss": ".4f", "lr": ".2e", "samples_per_s": ".1f", "data_wait": ".1%"}


@contextlib.contextmanager
def progress_bar(total: int, done: int, *, show: bool) -> Iterator[Callable[[int, _Values], None]]:
    """A bar on stderr; where that is no terminal, one line for each step with values.

    Args:
        total: Steps of the whole training.
        done: Steps done before.
        show: False on all but the main process.

    Yields:
        `update(step, values)`; no values leave the old ones on show.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("step"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns, console=console, refresh_per_second=2, disable=not (show and console.is_terminal)
    )

    def update(step: int, values: _Values) -> None:
        bar.update(task, completed=step)
        status = "  ".join(f"{k} {values[k]:{form}}" for k, form in _SHOWN.items() if k in values)
        if status:
            bar.update(task, status=status)
        if status and show and not console.is_terminal:
            console.print(f"step {step}/{total}  {status}", highlight=False, soft_wrap=True)

    with bar:
        task = bar.add_task("", total=total, completed=done, status="")
        yield update


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a request to stop at the end of the step; a second one stops at once.

    Yields:
        A function that says whether to stop. Data loader workers forked inside inherit the
        handler, so they go on serving until the step is done.
    """
    first = 0.0

    def request(signum: int, frame: Any) -> None:
        nonlocal first
        # torchrun passes on the Ctrl-C that the terminal has already sent to every process.
        if first and time.monotonic() - first > 2.0:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is kept")
        first = first or time.monotonic()

    if threading.current_thread() is not threading.main_thread():  # signals go to the main one
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, request)
    try:
        yield lambda: first > 0
    finally:
        signal.signal(signal.SIGINT, before)
