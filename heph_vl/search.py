"""Index interferograms and search them: what `heph-vl index` and `heph-vl search` call.

build_index("runs/dataset", "runs/index", "runs/retriever/tiny/model")
found = search("runs/index", text="sill-type deformation on the left", k=5)
print([hit.row["caption"] for hit in found.hits])
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heph_vl.data import captions
from heph_vl.data.images import read_png
from heph_vl.embed import embed_batches
from heph_vl.errors import HephError
from heph_vl.index import Hit, Index
from heph_vl.index_rows import index_row

MAX_QUERY = 1000  # characters; the longest real caption has 600
_ROWS_AT_ONCE = 128  # rows in memory between reading and storing: 0.2 GB of full frames

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Results of a search.

    Attributes:
        hits: Best first.
        thumbnails: A small PNG for each hit, or None.
        read_as: The query as the model got it; empty for an image.
        not_understood: Words of the query that name no fact.
    """

    hits: list[Hit]
    thumbnails: list[bytes | None]
    read_as: str = ""
    not_understood: tuple[str, ...] = ()


def build_index(
    data: str | Path,
    index: str | Path,
    model: str | Path,
    *,
    split: str | None = None,
    batch_size: int = 8,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Embed all images of a folder and store them; an image that is there is replaced.

    Args:
        data: A dataset of `heph-vl dataset`, an archive, or a folder of PNG interferograms.
        index: Folder of the index, new or made by the same model.
        model: Folder of the retriever.
        split: Only this split of a dataset.
        batch_size: Images embedded at once.
        strict: Raise the first problem instead of leaving the image out.
        progress: Called with (done, total).

    Returns:
        `images` (number stored), `model_id`, `problems` (one line for each image left out).

    Raises:
        HephError: Nothing to index, or an index of another model; with `strict`, any bad image.
            Nothing is stored then.
    """
    from heph_vl.models.retriever import Retriever

    model, index = Path(model), Path(index)
    rows, problems = _rows(Path(data), split)
    if strict and problems:
        raise problems[0]
    retriever = Retriever.from_pretrained(model)
    model_id, total, stored = retriever.model_id, len(rows), 0
    if index.exists() and any(index.iterdir()):
        store = Index.open(index, model_id)
    else:
        store = Index.create(index, model_id, retriever.config.dim, model=str(model.resolve()))
    with store:
        for start in range(0, total, _ROWS_AT_ONCE):
            some = _read_some(rows, range(start, min(start + _ROWS_AT_ONCE, total)), problems)
            if strict and problems:
                raise problems[0]

            def tell(done: int, of: int, before: int = start) -> None:
                if progress is not None:
                    progress(before + done, total)

            for batch in embed_batches(retriever, some, batch_size=batch_size, progress=tell):
                if strict and batch.problems:
                    raise batch.problems[0]
                problems += batch.problems
                if batch.positions:
                    store.add(batch.vectors, [index_row(some[i]) for i in batch.positions])
                    stored += len(batch.positions)
        if not stored:
            first = problems[0].what if problems else "there is none"
            raise HephError(str(data), f"no image could be read: {first}", "see --debug")
    return {"images": stored, "model_id": model_id, "problems": [str(p) for p in problems]}


def search(
    index: str | Path,
    *,
    text: str | None = None,
    image: str | Path | None = None,
    k: int = 10,
    where: str | None = None,
    model: str | Path | None = None,
) -> Found:
    """The images of an index that fit a text, or look like an image.

    A text is read as facts and given to the model in the dataset's own words, so that "left sill,
    strong" and the caption that says the same find the same. A text without any known fact is
    given as it is.

    Args:
        index: Folder of the index.
        text: What to look for; or
        image: An interferogram to compare with: PNG, GeoTIFF or .npy.
        k: Number of results.
        where: Filter on columns (see `heph_vl.where`).
        model: Folder of the retriever; the one that made the index if None.

    Returns:
        At most k hits.

    Raises:
        HephError: An empty or overlong text, an unreadable image, a bad filter, or another model.
    """
    from heph_vl.models.retriever import Retriever

    if text is not None:
        _check_query(text)
    store = Index.open(index)
    folder = Path(model) if model is not None else Path(store.meta.model)
    if model is None and not folder.is_dir():
        raise HephError(str(index), f"its model {folder} is not there", "name it with --model")
    retriever = Retriever.from_pretrained(folder)
    store = Index.open(index, retriever.model_id)
    read_as = ""
    unknown: tuple[str, ...] = ()
    if text is not None:
        facts = captions.parse(text)
        unknown = facts.unexplained
        read_as = captions.compose(facts) if facts.atoms() else text
        vector = retriever.embed_texts([read_as])
    elif image is not None:
        vector = _embed_image(retriever, Path(image))
    else:
        raise HephError("search", "neither text nor image", "give one of them")
    hits = store.search(vector.float().cpu().numpy(), k, where)[0]
    return Found(hits, store.thumbnails(hits), read_as, unknown)


def _check_query(text: str) -> None:
    if not text.strip():
        raise HephError("query", "the text is empty", 'say what to look for, e.g. "mogi, left"')
    if len(text) > MAX_QUERY:
        what = f"the text has {len(text)} characters"
        raise HephError("query", what, f"use at most {MAX_QUERY}: one sentence is enough")


def _embed_image(retriever: Any, path: Path) -> Any:
    import torch

    from heph_vl.data import phase
    from heph_vl.data.samples import decoded_pixels
    from heph_vl.data.transforms import collate_images

    decoded = phase.read_interferogram(path)
    pixels = decoded_pixels(decoded.wrapped_phase, decoded.valid)
    with torch.inference_mode():
        return retriever.encode_images(**collate_images([pixels]))


def _rows(data: Path, split: str | None) -> tuple[Sequence[Row], list[HephError]]:
    """Rows with encoded images, read when asked for, whatever the folder holds."""
    if not data.exists():
        raise HephError(str(data), "no such folder", "give a dataset, an archive or images")
    if any(data.glob("data/*.parquet")):
        return _dataset_rows(data, split), []
    if split is not None:
        raise HephError(str(data), "only a dataset has splits", "leave --split out")
    # scan_archive says so where the folder is one too high or too low.
    signs = ("interferograms", "annotations", "*/interferograms", "*/*/interferograms")
    if any(path.is_dir() for sign in signs for path in data.glob(sign)):
        archive = _Archive(data)
        return archive, archive.problems
    files = _Files(data)
    if not len(files):
        raise HephError(str(data), "holds no PNG", "give a dataset, an archive or images")
    return files, []


def _read_some(rows: Sequence[Row], which: range, problems: list[HephError]) -> list[Row]:
    found = []
    for i in which:
        try:
            found.append(rows[i])
        except HephError as problem:
            problems.append(problem)
    return found


def _dataset_rows(data: Path, split: str | None) -> Any:
    import datasets

    from heph_vl.data import parquet

    found = parquet.load(data, split)
    parts = [found] if split is not None else list(found.values())
    rows = datasets.concatenate_datasets(parts)
    for name in ("image", "coherence"):
        rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows.remove_columns([name for name in ("mask",) if name in rows.column_names])


class _Archive(Sequence[Row]):
    """Pairs of a raw archive as rows."""

    def __init__(self, root: Path) -> None:
        from heph_vl.data.archive import scan_archive
        from heph_vl.data.native import usual_sizes

        archive = scan_archive(root)
        self.problems = list(archive.problems)
        self._pairs = archive.pairs
        self._source = archive.source
        self._usual_sizes = usual_sizes(archive.pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: Any) -> Any:
        from heph_vl.data.examples import ExampleConfig, generate

        pair = self._pairs[position]
        name = "unlabeled" if pair.annotation is None else "interferograms"
        config = ExampleConfig(name, self._source, self._usual_sizes, strict=True)
        return next(row for _, row in generate([pair], config, [], Counter()))


class _Files(Sequence[Row]):
    """PNG files as rows; coherence images are not interferograms."""

    def __init__(self, data: Path) -> None:
        paths = [data] if data.is_file() else sorted(data.rglob("*.png"))
        self._paths = [path for path in paths if not path.name.endswith(".cc.png")]
        self._root = data if data.is_dir() else data.parent

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: Any) -> Any:
        path = self._paths[position]
        coherence = path.with_name(path.name.replace(".geo.diff.png", ".geo.cc.png"))
        has = coherence != path and coherence.is_file()
        name = str(path.relative_to(self._root))
        return {
            "image_id": name,
            "patch": name,
            "image": {"bytes": read_png(path), "path": str(path)},
            "coherence": {"bytes": read_png(coherence), "path": None} if has else None,
        }
