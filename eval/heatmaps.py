"""Does a retriever's or a captioner's heat map point at the deformation that the text tells?

    python eval/heatmaps.py --data DATASET --model runs/retriever/small/model
    python eval/heatmaps.py --data DATASET --model CAPTIONER --sheet heat.png --json

Of each frame with one deformation pattern, the text is that pattern's type and intensity, without
its place. Scored is how often the peak of the map lies within 15 px of the outlined deformation.
Beside it: the most salient cell, which knows no text, and a cell drawn at random.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.heat import CELL

NEAR_PX = 15.0
POINTERS = ("heat map", "saliency", "random cell")


def hits(found: NDArray[np.float32], looked: NDArray[np.bool_], near: NDArray[np.bool_]) -> float:
    """How often the best cell is near: 1 or 0, a share among equal ones.

    Args:
        found: (rows, columns), higher is better.
        looked: (rows, columns) bool, cells with data.
        near: (rows, columns) bool, cells whose middle is near the deformation.

    Returns:
        In [0, 1].
    """
    best = looked & (found >= found[looked].max())
    return float(near[best].mean())


def near_cells(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells (rows, columns) whose middle is within NEAR_PX of the deformation of a mask (H, W)."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(mask == 0)
    y, x = (np.arange(n) * CELL + CELL // 2 for n in grid)
    inside = (y < mask.shape[0])[:, None] & (x < mask.shape[1])
    at = distance[np.ix_(y.clip(max=mask.shape[0] - 1), x.clip(max=mask.shape[1] - 1))]
    near: NDArray[np.bool_] = (at <= NEAR_PX) & inside
    return near


def load_pointer(folder: Path) -> tuple[Any, Callable[[str, dict[str, Any]], Any]]:
    """A retriever or a captioner, and its heat map of a text in a batch of one image.

    Args:
        folder: Of the saved model.

    Returns:
        The model, on a GPU where there is one; and a function of text and batch that gives
        (rows, columns) float32.

    Raises:
        HephError: It is neither, or broken.
    """
    from heph_vl.embed import on_best_device
    from heph_vl.models.captioner import Captioner
    from heph_vl.models.retriever import Retriever
    from heph_vl.models.weights import kind_of_model

    if kind_of_model(folder) == "captioner":
        captioner = on_best_device(Captioner.from_pretrained(folder))

        def of_sentence(text: str, batch: dict[str, Any]) -> Any:
            ((_, found),) = captioner.phrase_maps(batch["pixel_values"][0], batch["valid"][0], text)
            return found

        return captioner, of_sentence
    retriever = on_best_device(Retriever.from_pretrained(folder))

    def of_query(text: str, batch: dict[str, Any]) -> Any:
        return retriever.heat_map(retriever.embed_texts([text]), **batch)[0]

    return retriever, of_query


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Point at the deformation of each frame with one pattern.

    Args:
        options: The command line.

    Returns:
        JSON-ready: `images`, `left_out`, and for each pointer `value`, `interval` and `per_group`.

    Raises:
        HephError: No such frame.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    from heph_vl.data import captions, parquet
    from heph_vl.data.captions import CaptionFacts
    from heph_vl.data.samples import pixels, read_row, whole
    from heph_vl.data.transforms import collate_images, encoded
    from heph_vl.metrics.bootstrap import clusters, group_weights

    if options.sheet is not None and options.sheet.suffix.lower() not in (".png", ".jpg"):
        raise HephError("--sheet", f"{options.sheet} is no picture's name", "end it in .png")
    model, heat_map = load_pointer(options.model)
    device = model.encoder.pool.queries.device
    rows = parquet.load(options.data, options.split)
    facts = [captions.parse(text) for text in rows["caption"]]
    polygons = rows["polygons"]
    chosen = [i for i, f in enumerate(facts) if len(f.patterns) == 1 and len(polygons[i]) == 1]
    if not chosen:
        what = f"no frame of split {options.split} has one pattern and one outline"
        raise HephError(str(options.data), what, "choose another split or dataset")
    images, rest = encoded(rows), rows.remove_columns(["image", "coherence", "mask"])
    values: dict[str, list[float]] = {name: [] for name in POINTERS}
    groups, pictures, left_out = [], [], []
    console = Console(stderr=True)
    for i in track(chosen, "Looking", console=console, disable=not console.is_terminal):
        sample = whole(read_row(images[i]), rest[i], estimated=False)
        if not sample.mask.any() or not sample.phase_code.any():
            what = "no valid phase" if sample.mask.any() else "no outline in its mask"
            left_out.append(f"interferogram {rest[i]['unique_id']}: {what}")
            continue
        (pattern,) = facts[i].patterns
        text = captions.compose(CaptionFacts(patterns=(captions.Pattern(*_what(pattern)),)))
        batch = {k: v.to(device) for k, v in collate_images([pixels(sample)]).items()}
        with torch.no_grad():
            seen = model.encoder(**batch)
        found = heat_map(text, batch).cpu().numpy()
        looked = seen.token_mask.view(seen.grid).cpu().numpy()
        salient = seen.saliency_logits.view(seen.grid).cpu().numpy()
        near = near_cells(sample.mask, seen.grid)
        values["heat map"].append(hits(found, looked, near))
        values["saliency"].append(hits(salient, looked, near))
        values["random cell"].append(hits(np.zeros_like(found), looked, near))
        groups.append(rest[i]["volcano_group"])
        if len(pictures) < options.pictures:
            pictures.append((sample, found, text))
    if not groups:
        what = f"no frame of split {options.split} can be looked at: {left_out[0]}"
        raise HephError(str(options.data), what, "choose another split or dataset")
    weights, names = group_weights(np.eye(len(groups), dtype=np.bool_), groups)
    units = clusters(weights, names, seed=options.seed, num_draws=2000)
    scores = {name: units.estimate(units.mean(np.array(values[name]))) for name in POINTERS}
    if options.sheet is not None:
        _draw(pictures, options.sheet)
    return {
        "model_id": model.model_id,
        "split": options.split,
        "near_px": NEAR_PX,
        "images": len(groups),
        "left_out": left_out,
        "pointers": scores,
    }


def _what(pattern: Any) -> tuple[str, str | None]:
    return pattern.type, pattern.intensity


def _draw(pictures: Sequence[tuple[Any, NDArray[np.float32], str]], path: Path) -> None:
    """Phase with the outline in black, plain and under the map, two frames in a row."""
    from PIL import Image, ImageDraw
    from scipy.ndimage import binary_erosion

    from heph_vl.data.palettes import new_table
    from heph_vl.heat import Heat
    from heph_vl.sheet import spotlight

    colours = new_table()[1]
    side, cells = 300, []
    for sample, found, text in pictures:
        code = sample.phase_code.astype(int)
        place = (code - 1) * (len(colours) - 1) // 254
        picture = np.where(code[..., None] > 0, colours[place.clip(0)], 255).astype(np.uint8)
        outlined = sample.mask > 0
        picture[outlined & ~binary_erosion(outlined, iterations=2)] = 0
        plain = Image.fromarray(picture)
        plain.thumbnail((side, side))
        cell = Image.new("RGB", (2 * side + 10, side + 20), "white")
        cell.paste(plain, (0, 16))
        heat = Heat(found, (code.shape[0], code.shape[1]))
        cell.paste(spotlight(plain, heat).convert("RGB"), (side, 16))
        ImageDraw.Draw(cell).text((2, 2), text[:90], fill="black")
        cells.append(cell)
    columns = 2
    size = (columns * cells[0].width, -(-len(cells) // columns) * cells[0].height)
    page = Image.new("RGB", size, "white")
    for number, cell in enumerate(cells):
        page.paste(cell, (number % columns * cell.width, number // columns * cell.height))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        results = run(options)
        if options.out is not None:
            with writing(options.out):
                options.out.parent.mkdir(parents=True, exist_ok=True)
                write_text(options.out, json.dumps(results, indent=1) + "\n")
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.as_json:
        print(json.dumps(results))
        return 0
    for problem in results["left_out"]:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{results['images']} frames, peak within {NEAR_PX:.0f} px of the outline:")
    for name, score in results["pointers"].items():
        interval = score["interval"]
        span = "" if interval is None else f"  ({interval[0]:.3f} to {interval[1]:.3f})"
        print(f"  {name:12}{score['value']:6.3f}{span}")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of `heph-vl dataset`")
    parser.add_argument(
        "--model", type=Path, required=True, help="folder of a saved retriever or captioner"
    )
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals' draws")
    parser.add_argument("--sheet", type=Path, help="write a picture of the first maps")
    parser.add_argument("--pictures", type=_positive, default=12, help="how many (default: 12)")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print them as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
