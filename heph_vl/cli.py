"""The `heph-vl` command: puts the subcommands together and turns errors into lines and exit codes.

Exit codes: 0 done, 1 an error told in one line, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import sys
import traceback
from collections.abc import Sequence

import typer

from heph_vl.commands import app as browser
from heph_vl.commands import (
    caption,
    correct,
    data,
    detect,
    download,
    generate,
    search,
    series,
    share,
    simulate,
    watch,
)
from heph_vl.commands.output import say
from heph_vl.errors import HephError

app = typer.Typer(
    name="heph-vl",
    help="Search, describe, simulate and check Sentinel-1 interferograms of volcanoes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Add --debug to any command to see the full traceback of an error.",
)
# In the order of the help: from data to answers.
app.command(epilog=download.EXAMPLES)(download.download)
app.command(epilog=data.INSPECT_EXAMPLES)(data.inspect)
app.command(epilog=simulate.EXAMPLES)(simulate.simulate)
app.command("simulate-patches", epilog=simulate.PATCH_EXAMPLES)(simulate.simulate_patches)
app.command(epilog=data.DATASET_EXAMPLES)(data.dataset)
app.command(epilog=search.INDEX_EXAMPLES)(search.index)
app.command(epilog=search.SEARCH_EXAMPLES)(search.search)
app.command(epilog=detect.EXAMPLES)(detect.detect)
app.command(epilog=correct.EXAMPLES)(correct.correct)
app.command(epilog=caption.EXAMPLES)(caption.caption)
app.command(epilog=generate.EXAMPLES)(generate.generate)
app.command(epilog=series.EXAMPLES)(series.series)
app.command(epilog=watch.EXAMPLES)(watch.watch)
app.command(epilog=browser.EXAMPLES)(browser.app)
app.command(epilog=share.EXAMPLES)(share.share)


def main() -> None:
    """Run the command line; errors are one line on stderr unless --debug is given."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    sys.exit(run([word for word in arguments if word != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run one command.

    Args:
        arguments: Words after `heph-vl`.
        debug: Whether to print tracebacks.

    Returns:
        The exit code.
    """
    try:
        app(list(arguments))
    except SystemExit as end:  # typer's way to return; it has shown usage errors itself
        code = end.code if isinstance(end.code, int) else 0
        if code == 130:
            say("stopped; nothing half-written is left: run the same command again")
        return code
    except HephError as error:
        return _fail(str(error), debug)
    except OSError as error:
        where = error.filename or "input or output"
        return _fail(f"{where}: {error.strerror or error}; check the path, rights and space", debug)
    except Exception as error:  # the last resort: one line, never a raw traceback
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _fail(f"heph-vl: unexpected {text}; run again with --debug and report it", debug)
    return 0


def _fail(line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    say(f"error: {line}")
    return 1


if __name__ == "__main__":
    main()
