"""Draw the figures of the README, simulated or generated; no real image is in them.

    python eval/figures.py [--out eval/figures] [--seed 0]

`classes.png`: one interferogram of each type of deformation and each flaw, both palettes.
`evolution.png`: a fixed primary date and growing spans, as in Figure 4 of the Hephaestus paper:
deformation grows along its time function while each date keeps its atmosphere.
`drawn.png`: the first pictures that `weights/generator` draws of some sentences.
`observatory.png`: the README's eruption as `weights/heads` see it: pairs in the order of their
series, with outlines and motion, and the day of the alert.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from heph_vl.alerts import find_alerts
from heph_vl.data.picture import placed, read_picture
from heph_vl.detect import look
from heph_vl.generate import load_generator
from heph_vl.models.heads import Heads
from heph_vl.series import find_series
from heph_vl.simulate.artefacts import color_bar
from heph_vl.simulate.corpus import simulate
from heph_vl.simulate.flaws import NO_FLAWS, Flaws
from heph_vl.simulate.frame import CLEAR, Frame, draw_frame
from heph_vl.simulate.place import Site, draw_place, seeded
from heph_vl.simulate.render import Rendering, amplitude, draw, to_images
from heph_vl.simulate.scene import Layers, observe
from heph_vl.simulate.sources import KINDS
from heph_vl.watch import describe, sightings_of

SIDE, GAP, LABEL = 225, 6, 16
SHOWN = 128  # px of a drawn picture of 64
HEADER = 34  # px of text above an overlay picture
FRAMES = ("128D_09016_110500", "124D_05291_081406", "087D_07004_060904", "022D_04826_121209")


def picture(layers: Layers, palette: str = "new") -> Image.Image:
    """One interferogram drawn as the real patches are."""
    options = Rendering(palette=palette, posterise=True, flatten=True)
    (scene,) = observe([layers], [seeded(0, "figure")])
    place = layers.place
    bright = None
    if palette == "old":
        g = seeded(0, "amplitude")
        bright = amplitude(place.terrain, place.grid, place.look.vector, g)
    fields = scene.wrapped_phase[None], scene.valid[None], scene.coherence[None]
    image, _ = to_images(draw(*fields, options, bright), 0, options)
    bar = layers.flaws.color_bar
    return color_bar(image, seeded(0, "bar"), palette) if bar else image


def sheet(pictures: Sequence[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Pictures in rows, each with its label above."""
    step = SIDE + GAP
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * step + GAP, rows * (step + LABEL) + GAP), "white")
    pen = ImageDraw.Draw(out)
    for k, (label, image) in enumerate(pictures):
        x, y = GAP + k % columns * step, GAP + k // columns * (step + LABEL)
        pen.text((x, y), label, fill="black")
        out.paste(image, (x, y + LABEL - 2))
    return out


def strongest_pair(frame: Frame) -> tuple[int, int]:
    """The shortest pair in which the source shows nearly all that it has."""
    number = len(frame.dates)
    pairs = [(i, j) for i in range(number) for j in range(i + 1, number)]
    source = frame.sources[0]
    most = max(abs(frame.difference(source, pair)) for pair in pairs)
    enough = [p for p in pairs if abs(frame.difference(source, p)) >= 0.9 * most]
    return min(enough, key=lambda p: frame.dates[p[1]] - frame.dates[p[0]])


def classes(seed: int) -> Image.Image:
    """One of each kind."""
    found = []
    for k, kind in enumerate(KINDS):
        for attempt in range(100):
            name = FRAMES[(k + attempt) % len(FRAMES)]
            frame = draw_frame(name, SIDE, 8, seed + attempt, kinds=(kind,))
            if frame.sources:
                layers = replace(frame.layers(strongest_pair(frame)), flaws=NO_FLAWS)
                (scene,) = observe([layers], [seeded(0, "figure")])
                clear = scene.events and ("noise",) not in scene.facts.scene
                if clear and scene.events[0].intensity != "low":
                    break
        event = scene.events[0]
        label = f"{kind}, {event.intensity}" if event.intensity else kind
        found.append((label, picture(layers)))
        if k == 1:
            found.append(("the same, older palette", picture(layers, "old")))
    base = draw_frame("086A_06208_131313", SIDE, 8, seed + 1, kinds=("mogi",)).layers((0, 1))
    for label, flaws in (
        ("debursting error", Flaws(processing_error="debursting", seed=seed)),
        ("swath merging error", Flaws(processing_error="swath_merging", seed=seed + 2)),
        ("corrupted", Flaws(corrupted=True, seed=seed)),
        ("colour bar", Flaws(color_bar=True, seed=seed)),
    ):
        found.append((label, picture(replace(base, motions=(), flaws=flaws))))
    place = draw_place(Site("155D_02579_100800", (SIDE, SIDE), icy=True), seed)
    ice, kept = place.ice(12.0)
    quiet = replace(
        draw_frame("155D_02579_100800", SIDE, 8, seed).layers((0, 1)),
        place=place,
        motions=(),
        flaws=NO_FLAWS,
        stratification=torch.zeros_like(ice),
        ice=ice,
        coherence=place.cover.coherence(12.0).clamp_min(0.3) * kept * ~place.terrain.water,
    )
    found.append(("glacier", picture(quiet)))
    return sheet(found, 6)


def evolution(seed: int) -> Image.Image:
    """A source that grows over many dates, seen from one primary date."""
    for attempt in range(200):
        frame = draw_frame(FRAMES[attempt % 4], SIDE, 16, seed + attempt, kinds=("mogi", "sill"))
        spans = [
            (k, max((abs(frame.difference(s, (0, k))) for s in frame.sources), default=0.0))
            for k in range(1, 16)
        ]
        levels = [round(level, 2) for _, level in spans]
        if len(set(levels)) >= 8 and levels[-1] > 3.5 and levels[0] < CLEAR:
            break
    shown = spans[::2][:8]
    pictures = []
    for k, level in shown:
        days = (frame.dates[k] - frame.dates[0]).days
        layers = replace(frame.layers((0, k)), flaws=NO_FLAWS, ramp=(0.0, 0.0))
        pictures.append((f"{days} days, {level:.1f} fringes", picture(layers)))
    return sheet(pictures, 4)


SENTENCES = (
    "A mogi-type deformation pattern of high intensity can be detected on the top-left side.",
    "A sill-type deformation pattern of high intensity can be detected in the center.",
    "An earthquake deformation pattern can be detected on the left side.",
    "Turbulent mixing effect can be detected around the area. No deformation activity can be "
    "detected.",
    "Noise can be detected on the right side. No deformation activity can be detected.",
)


def drawn(seed: int) -> Image.Image:
    """The first five pictures of each sentence, phase above coherence, by `weights/generator`."""
    pipeline = load_generator(Path("weights/generator"))
    rows = []
    for text in SENTENCES:
        generator = torch.Generator().manual_seed(seed)
        found = pipeline([text] * 5, num_inference_steps=20, generator=generator)
        pairs = []
        for image, coherence in zip(found.images, found.coherence, strict=True):
            pair = Image.new("RGB", (2 * SHOWN, SHOWN), "white")
            grey = Image.fromarray(np.rint(255 * coherence).astype(np.uint8))
            for place, part in enumerate((image.convert("RGB"), grey.convert("RGB"))):
                shown = part.resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
                pair.paste(shown, (place * SHOWN, 0))
            pairs.append(pair)
        rows.append((text, pairs))
    step = 2 * SHOWN + GAP
    out = Image.new("RGB", (5 * step + GAP, len(rows) * (SHOWN + LABEL + GAP) + GAP), "white")
    pen = ImageDraw.Draw(out)
    for row, (text, pairs) in enumerate(rows):
        y = GAP + row * (SHOWN + LABEL + GAP)
        pen.text((GAP, y), text, fill="black")
        for column, pair in enumerate(pairs):
            out.paste(pair, (GAP + column * step, y + LABEL - 2))
    return out


def observatory(seed: int) -> Image.Image:
    """A chamber that empties, watched."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        simulate(archive, 20, frames=1, dates=10, size=192, seed=14 + seed, geotiff=True, workers=1)
        heads = Heads.from_pretrained(Path("weights/heads"))
        found = find_series(archive, max_gap=24)
        alerts, pictures = [], []
        for i in found.chosen:
            path = placed(found.pairs[i].image)
            entry = look(read_picture(path), heads, Path(folder))
            alerts += sightings_of(entry, describe(path, archive))
            motion = entry["polygons"][0]["motion"] if entry["polygons"] else None
            said = "" if motion is None else f", {motion['centimetres']:.1f} cm"
            name = found.pairs[i].name
            shown = Image.open(Path(folder) / f"{name}.overlay.png").convert("RGB")
            pictures.append((name + said, shown.crop((0, HEADER, shown.width, shown.height))))
    days = ", ".join(f"alert of {alert.raised}" for alert in find_alerts(alerts))
    page = sheet(pictures, 5)
    out = Image.new("RGB", (page.width, page.height + LABEL), "white")
    ImageDraw.Draw(out).text((GAP, 3), f"{found.frame_id}: {days or 'no alert'}", fill="black")
    out.paste(page, (0, LABEL))
    return out


def main() -> int:
    """Writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("eval/figures"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for figure in (classes, evolution, drawn, observatory):
        name = figure.__name__
        path = options.out / f"{name}.png"
        figure(options.seed).quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
