"""How much of the bare encoder's throughput is left when an index is made of a dataset.

    python benchmarks/index.py --data runs/dataset --model weights/retriever [--split val]

The floor is the model alone over decoded images that wait in memory, in the same batches. Making
an index reads and decodes, embeds, draws small pictures and writes. Both in turns within one run,
the fastest of each: machines are noisy.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from heph_vl.data.transforms import collate_images
from heph_vl.embed import read_image
from heph_vl.folders import open_folder
from heph_vl.models.retriever import Retriever
from heph_vl.search import build_index


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Run both and print images a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    retriever = Retriever.from_pretrained(options.model)
    rows = open_folder(options.data, options.split)[0]
    images = [read_image(rows[i], i) for i in range(len(rows))]
    size = options.batch_size
    batches = [collate_images(images[i : i + size]) for i in range(0, len(images), size)]

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            retriever.encode_images(**batch)

    def build() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            build_index(options.data, path, options.model, split=options.split, batch_size=size)

    bare()
    times = [(seconds(bare), seconds(build)) for _ in range(options.runs)]
    floor, whole = (min(column) for column in zip(*times, strict=True))
    print(f"{len(images)} images, {torch.get_num_threads()} threads")
    print(f"encoder alone {len(images) / floor:6.2f} images/s")
    print(f"index         {len(images) / whole:6.2f} images/s = {floor / whole:.2f} of it")


if __name__ == "__main__":
    main()
