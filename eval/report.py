"""One page of results, ours or yours, each beside its baselines; or of the demo.

    python eval/report.py weights/heads weights/retriever mine/results.json --out page.html
    python eval/report.py weights/captioner --out page.md
    python eval/report.py --index runs/demo/index --query "mogi, left" --out page.html
    python eval/report.py --demo runs/demo

Results are what `eval/evaluate.py`, `evaluate_generation.py`, `evaluate_watch.py`, `realism.py` and
training runs write: files, or folders with a results.json. Those of one kind stand side by side.
A .html is one file without scripts; a .md has its figures in a folder beside it. `--demo` reads
what `make demo` leaves and writes `index.html` there.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eval import (
    report_captions,
    report_generation,
    report_labels,
    report_retrieval,
    report_runs,
    report_watch,
)
from eval.report_demo import demo_page
from eval.report_files import Result, as_written, provenance, read_results, simulated_or_real
from eval.report_markdown import write_markdown
from heph_vl import page
from heph_vl.errors import HephError

# Title and writer of each kind, in the order of the page.
KINDS: dict[str, tuple[str, Callable[[Sequence[Result]], str]]] = {
    "retrieval": ("Retrieval", report_retrieval.section),
    "labels": ("Labels and masks", report_labels.section),
    "captions": ("Captions", report_captions.section),
    "generation": ("Generation", report_generation.section),
    "realism": ("Simulated beside real", report_generation.realism_section),
    "watch": ("Alarms", report_watch.section),
    "patches": ("Classifiers of patches", report_runs.patches),
    "real_patches": ("Labels of real patches", report_runs.flat),
    "real_captions": ("Captions of real patches", report_runs.flat),
    "training": ("Runs and other measures", report_runs.section),
}


def result_sections(results: Sequence[Result]) -> list[page.Section]:
    """A section for each kind of results.

    Args:
        results: Of any kinds.

    Returns:
        Sections in the order of KINDS.

    Raises:
        HephError: A file is not as evaluation writes it.
    """
    sections = []
    for kind, (title, write) in KINDS.items():
        some = [result for result in results if result.kind == kind]
        if some:
            with as_written(some):
                sections.append(page.Section(title, write(some)))
    return sections


def write_report(out: Path, title: str, lead: str, sections: Sequence[page.Section]) -> None:
    """The page as its name's ending says.

    Args:
        out: A .html or .md file.
        title: Plain text.
        lead: Markup under the title.
        sections: In order.

    Raises:
        HephError: Another ending, or it cannot be written.
    """
    if out.suffix == ".md":
        write_markdown(out, title, lead, sections)
    elif out.suffix == ".html":
        page.write_page(out, title, lead, sections)
    else:
        raise HephError(str(out), "neither .html nor .md", "name it page.html or page.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        out = _demo(options) if options.demo is not None else _report(options)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {out}")
    return 0


def _demo(options: argparse.Namespace) -> Path:
    if options.results:
        raise HephError("--demo", "results are given too", "give either")
    out: Path = options.out or options.demo / "index.html"
    write_report(out, *demo_page(options.demo, result_sections))
    return out


def _report(options: argparse.Namespace) -> Path:
    if options.out is None:
        raise HephError("--out", "it is missing", "name the page, page.html or page.md")
    results = read_results(options.results)
    sections = [*result_sections(results), *_pictures(options)]
    if not sections:
        raise HephError("report", "nothing to show", "give results.json, or --help")
    if results:
        with as_written(results):
            sections.append(page.Section("Where this is from", _about(results)))
    write_report(options.out, options.title, _lead(results), sections)
    out: Path = options.out
    return out


def _lead(results: Sequence[Result]) -> str:
    if not results:
        return ""
    names = ", ".join(f"{r.name} ({r.kind}; {simulated_or_real(r)})" for r in results)
    return page.paragraph(f"Results of {names}.")


def _about(results: Sequence[Result]) -> str:
    return provenance(results) + report_runs.settings(results)


def _pictures(options: argparse.Namespace) -> list[page.Section]:
    """Sections that show images, where folders are named."""
    if (options.index is None) != (not options.query):
        raise HephError("--index", "--query and --index need one another", "give both")
    if (options.real is None) != (options.simulated is None):
        raise HephError("--real", "--real and --simulated need one another", "give both")
    sections = []
    if options.index is not None:
        found = report_retrieval.sheets(
            options.index, options.query, model=options.model, data=options.data
        )
        sections.append(page.Section("Search", found))
    if options.samples is not None:
        found = report_generation.samples(options.samples)
        sections.append(page.Section("Drawn from words", found))
    if options.real is not None:
        found = report_generation.beside(options.real, options.simulated)
        sections.append(page.Section("Real and simulated", found))
    if options.series is not None:
        sections.append(page.Section("Time line", report_watch.time_line(options.series)))
    if options.alerts is not None:
        sections.append(page.Section("Alerts", report_watch.alerts(options.alerts)))
    return sections


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("results", type=Path, nargs="*", help="results.json, or folders with one")
    parser.add_argument(
        "--out", type=Path, help="page.html or page.md (of a demo: index.html in it)"
    )
    parser.add_argument("--title", default="heph_vl: results", help="of the page")
    parser.add_argument("--demo", type=Path, help="folder of make demo")
    parser.add_argument("--index", type=Path, help="of heph-vl index, for pictures of searches")
    parser.add_argument(
        "--query", action="append", default=[], metavar="TEXT", help="to search for; repeatable"
    )
    parser.add_argument("--model", type=Path, help="retriever of --index, if it has moved")
    parser.add_argument("--data", type=Path, help="images of --index, if they have moved")
    parser.add_argument("--samples", type=Path, metavar="ARCHIVE", help="of heph-vl generate")
    parser.add_argument("--real", type=Path, help="real images, shown beside --simulated")
    parser.add_argument("--simulated", type=Path, help="dataset, archive or folder of pictures")
    parser.add_argument("--series", type=Path, metavar="FRAME", help="frame folder of an archive")
    parser.add_argument("--alerts", type=Path, metavar="DIR", help="folder of heph-vl watch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
