"""What all commands share: two options, their examples, and how they talk to the terminal.

Results go to stdout, as one JSON value or as lines and tables; all else goes to stderr.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first bad record instead of leaving it out.")
]

Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of the model, or user/repo of the Hub; the reference weights if not given."
    ),
]

Bbox = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option(help="Only this box of GeoTIFFs: west south east north, in degrees."),
]


def check_box(
    bbox: tuple[float, float, float, float] | None,
) -> tuple[float, float, float, float] | None:
    """The box itself; wrong usage unless it is one."""
    if bbox is not None:
        west, south, east, north = bbox
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            what = f"{west:g} {south:g} {east:g} {north:g}: give west south east north, in degrees"
            raise typer.BadParameter(what, param_hint="--bbox")
    return bbox


def examples(*lines: str) -> str:
    """The end of a command's help: example commands, each in its own paragraph."""
    return "\n\n".join(("Examples:", *lines))


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A spinner on stderr while something of unknown length is done."""
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal; yields a function of (done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.2f}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_report(report: Mapping[str, Any], as_json: bool) -> None:
    """What was done, as JSON or as lines; problems are listed, each on its line."""
    if as_json:
        print_json(report)
        return
    console = stdout_console()
    for name, value in report.items():
        if name != "problems" and value not in (None, {}, []):
            if isinstance(value, Mapping):
                value = ", ".join(f"{key} {part}" for key, part in value.items())
            console.print(f"[bold]{name}[/]", end=": ")
            console.print(str(value), markup=False, soft_wrap=True)
    problems = list(report.get("problems", []))
    if problems:
        say(f"{len(problems)} left out:")
    for problem in problems:
        say(f"  {problem}")


def print_json(value: Any) -> None:
    """One JSON value on stdout; what JSON does not know (paths, errors) becomes text."""
    print(json.dumps(value, indent=2, default=str, allow_nan=False))


def stdout_console() -> "Console":
    """The console of stdout; wide enough for tables when it is a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr)
