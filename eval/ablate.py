"""Measured choices of any recipe: variants x seeds, trained, scored on one split and compared.

    python eval/ablate.py configs/heads/ablation.yaml --data DATASET --run.root runs/ablations
    python eval/ablate.py configs/heads/ablation.yaml --data DATASET --only rgb grey --markdown

The YAML names the recipe, its base config, seeds and variants; their overrides are written as on
the recipe's command line. Each run is the folder `<root>/<task>/<variant>-<seed>`, and its scores
by `eval/evaluate.py` lie in it as `test.json`. Ctrl-C is passed on to what runs; the same command
goes on: finished runs are kept, broken ones are resumed. The table of all runs that are there is
printed and written to `<root>/<task>/<name of the YAML>.{json,md}`.
"""

import argparse
import dataclasses
import importlib.util
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.ablation_table import AGAIN, Ablation, markdown, print_table, read_runs, summarise
from heph_vl.config import UsageError, differing_keys, parse_config, to_plain
from heph_vl.errors import HephError
from heph_vl.files import read_object, write_text, writing

REPO = Path(__file__).resolve().parents[1]
_STOPPED = "stopped; the same command goes on"
Call = Callable[[list[str], bool], int]  # runs a command, quietly or not; its exit code


def recipe_words(ablation: Ablation, variant: str, seed: int, data: str, root: Path) -> list[str]:
    """The recipe's command line for one run, without the program's name."""
    own = ["--run.root", str(root), "--run.name", f"{variant}-{seed}", "--run.seed", str(seed)]
    return [
        *("--config", str(REPO / ablation.base), "--data.path", data),
        *shlex.split(ablation.overrides),
        *shlex.split(ablation.variants[variant]),
        *own,
    ]


def check_runs(ablation: Ablation, data: str, root: Path) -> None:
    """Read all configs before any run starts, and compare those of runs that are there.

    Args:
        ablation: What is to be run.
        data: The dataset's folder.
        root: Folder of all runs.

    Raises:
        HephError: An override is wrong, or a folder holds a run with another config.
    """
    path = REPO / ablation.recipe
    if not path.is_file():
        raise UsageError("recipe", f"{path} does not exist", "give training/train_<task>.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    for variant in ablation.variants:
        for seed in ablation.seeds:
            words = recipe_words(ablation, variant, seed, data, root)
            try:
                config = to_plain(parse_config(recipe.Config, words)[0])
            except HephError as error:
                what = f"{error.where}: {error.what}"
                raise UsageError(f"variant {variant}", what, error.fix) from None
            there = root / ablation.task / f"{variant}-{seed}" / "config.yaml"
            if not there.is_file():
                continue
            keys = differing_keys(yaml.safe_load(there.read_text()), config)
            if keys:
                what = f"holds a run with another config ({', '.join(keys)} differ)"
                raise HephError(str(there.parent), what, "choose another --run.root or delete it")


def run_one(ablation: Ablation, variant: str, seed: int, data: str, root: Path, call: Call) -> None:
    """Train one run to its end and score it; what is there already is kept.

    Args:
        ablation: What is to be run.
        variant: Which overrides.
        seed: Of the run.
        data: The dataset's folder.
        root: Folder of all runs.
        call: Runs a command.

    Raises:
        HephError: The recipe or the evaluation failed.
    """
    folder = root / ablation.task / f"{variant}-{seed}"
    scores = folder / "test.json"
    if not (folder / "results.json").is_file():
        scores.unlink(missing_ok=True)  # of a model that is about to change
        words = recipe_words(ablation, variant, seed, data, root)
        code = call([sys.executable, str(REPO / ablation.recipe), *words, "--resume"], False)
        if code or not (folder / "results.json").is_file():
            what = f"the recipe ended with exit code {code} and left no results.json"
            raise HephError(str(folder), what, "see its message above")
    arguments = ["--data", data, *shlex.split(ablation.evaluate)]
    if scores.is_file():
        if read_object(scores, AGAIN)["arguments"] == arguments:
            return
        scores.unlink()
    fresh = scores.with_suffix(".new.json")
    model = ["--model", str(folder / "model"), "--out", str(fresh)]
    code = call([sys.executable, str(REPO / "eval" / "evaluate.py"), *arguments, *model], True)
    if code:
        what = f"eval/evaluate.py ended with exit code {code}"
        raise HephError(str(folder), what, "see its message above")
    with writing(scores):
        told = {"arguments": arguments} | read_object(fresh, AGAIN)
        write_text(scores, json.dumps(told, indent=1) + "\n")
        fresh.unlink()


def call_process(command: list[str], quiet: bool) -> int:
    """Run a command to its end; a request to stop is passed on, and the end waited for.

    Args:
        command: Program and arguments.
        quiet: Show what it says on stderr only if it fails.

    Returns:
        Its exit code.

    Raises:
        KeyboardInterrupt: It was asked to stop, by Ctrl-C, SIGTERM or SIGHUP.
    """
    stopped: list[int] = []
    children: list[subprocess.Popen[str]] = []

    def stop(number: int, frame: Any) -> None:
        # The terminal has sent Ctrl-C to the child too; recipes take two at a time as one.
        stopped.append(number)
        for child in children:
            child.send_signal(signal.SIGINT)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in signals]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
        )
        children.append(child)
        if stopped:
            child.send_signal(signal.SIGINT)
        _, said = child.communicate()
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt(_STOPPED)
    if child.returncode and said:
        sys.stderr.write(said)
    return child.returncode


def main(arguments: Sequence[str] | None = None, call: Call = call_process) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; the process's own if None.
        call: Runs the commands of recipe and evaluation.

    Returns:
        Exit code: 0 done, 1 a problem or failed runs, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options, call)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt as stop:
        print(stop or _STOPPED, file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, call: Call) -> int:
    ablation, _ = parse_config(Ablation, ["--config", str(options.ablation)])
    words = f"{ablation.overrides} {options.overrides}"
    ablation = dataclasses.replace(ablation, overrides=words)
    unknown = [name for name in options.only or () if name not in ablation.variants]
    if unknown:
        fix = f"one of {', '.join(ablation.variants)}"
        raise UsageError("--only", f"{unknown[0]!r} is no variant", fix)
    root, data = options.root, str(options.data)
    check_runs(ablation, data, root)
    chosen = [name for name in ablation.variants if options.only is None or name in options.only]
    pairs = [(variant, seed) for seed in ablation.seeds for variant in chosen]
    failed = 0
    for done, (variant, seed) in enumerate(pairs, start=1):
        print(f"[{done}/{len(pairs)}] {variant}-{seed}", file=sys.stderr)
        try:
            run_one(ablation, variant, seed, data, root, call)
        except HephError as error:  # the others may still be well; the table says what is missing
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    table = summarise(ablation, read_runs(ablation, root))
    out = root / ablation.task / options.ablation.stem
    text = json.dumps(table, indent=1, allow_nan=False) + "\n"
    with writing(out):
        write_text(out.with_name(out.name + ".json"), text)
        write_text(out.with_name(out.name + ".md"), markdown(table))
    if options.as_json:
        print(text, end="")
    elif options.markdown:
        print(markdown(table), end="")
    else:
        print_table(table)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("ablation", type=Path, metavar="ABLATION.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of `heph-vl dataset`")
    parser.add_argument("--run.root", type=Path, dest="root", default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants to run (default: all)")
    help_text = "further ones of all variants: one word, as on the recipe's command line"
    parser.add_argument("--overrides", default="", metavar="WORDS", help=help_text)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
