"""Index interferograms and search them: what `heph-vl index` and `heph-vl search` call.

build_index("runs/dataset", "runs/index", "runs/retriever/tiny/model")
found = search("runs/index", text="sill-type deformation on the left", k=5)
print([hit.row["caption"] for hit in found.hits])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heph_vl.approximate import FEWEST
from heph_vl.data import captions
from heph_vl.embed import embed_batches, on_best_device, read_image
from heph_vl.errors import HephError
from heph_vl.folders import open_folder, read_rows
from heph_vl.heat import Heat
from heph_vl.hub import reference_weights
from heph_vl.index import Hit, Index
from heph_vl.index_rows import index_row
from heph_vl.metrics.benchmark import query_texts

if TYPE_CHECKING:
    from torch import Tensor

    from heph_vl.models.retriever import Retriever

MAX_QUERY = 1000  # characters; the longest real caption has 600
_QUERIES = 100  # of each kind, to measure the recall of approximate search
_ROWS_AT_ONCE = 128  # rows in memory between reading and storing: 0.2 GB of full frames


@dataclass(frozen=True)
class Found:
    """Results of a search.

    Attributes:
        hits: Best first.
        thumbnails: A small PNG for each hit, or None.
        read_as: The query as the model got it; empty for an image.
        not_understood: Words of the query that name no fact.
        heat: Where each image agrees with the query, when asked for; None if it is not there.
        problems: One error for each image whose heat map could not be made.
    """

    hits: list[Hit]
    thumbnails: list[bytes | None]
    read_as: str = ""
    not_understood: tuple[str, ...] = ()
    heat: Sequence[Heat | None] = ()
    problems: Sequence[HephError] = ()


def build_index(
    data: str | Path,
    index: str | Path,
    model: str | Path,
    *,
    split: str | None = None,
    batch_size: int = 8,
    strict: bool = False,
    approximate: bool = False,
    moved: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Embed all images of a folder and store them; an image that is there is replaced.

    Args:
        data: A dataset of `heph-vl dataset`, an archive, or a folder of images.
        index: Folder of the index, new or made by the same model.
        model: Folder of the retriever.
        split: Only this split of a dataset.
        batch_size: Images embedded at once.
        strict: Raise the first problem instead of leaving the image out.
        approximate: Prepare approximate search, for indexes of hundreds of thousands.
        moved: Images that the index holds from another folder are the same ones: replace them.
        progress: Called with (done, total).

    Returns:
        `images` (number stored), `model_id`, `problems` (one line for each image left out), and
        with `approximate` its `recall` at 10, or None where so few images need none.

    Raises:
        HephError: Nothing to index, or an index of another model; with `strict`, any bad image.
            Nothing is stored then.
    """
    from heph_vl.models.retriever import Retriever

    model, index = Path(model), Path(index)
    rows, problems = open_folder(Path(data), split)
    source = {"data": str(Path(data).resolve())}
    if strict and problems:
        raise problems[0]
    retriever = on_best_device(Retriever.from_pretrained(model))
    model_id, total, stored = retriever.model_id, len(rows), 0
    if index.exists() and any(index.iterdir()):
        store = Index.open(index, model_id)
    else:
        store = Index.create(index, model_id, retriever.config.dim, model=str(model.resolve()))
    with store:
        for start in range(0, total, _ROWS_AT_ONCE):
            some = read_rows(rows, range(start, min(start + _ROWS_AT_ONCE, total)), problems)
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
                    found = [index_row(some[i] | source) for i in batch.positions]
                    store.add(batch.vectors, found, moved=moved)
                    stored += len(batch.positions)
        if not stored:
            first = problems[0].what if problems else "there is none"
            raise HephError(str(data), f"no image could be read: {first}", "see --debug")
    report: dict[str, Any] = {"images": stored, "model_id": model_id}
    if approximate:
        report["recall"] = None
        if len(store) >= FEWEST:
            report["recall"] = round(store.build_approximate(*_usual_queries(store, retriever)), 4)
    return report | {"problems": [str(problem) for problem in problems]}


def _usual_queries(store: Index, retriever: "Retriever") -> tuple[Any, Any]:
    """Images and texts as they are asked: of the index, and in the words of `_read_query`."""
    said = store.captions() or ["No deformation. Turbulent mixing.", "High intensity sill, left."]
    texts = list(dict.fromkeys(_read_query(text)[0] for text in query_texts(said)))
    some = texts[:: -(-len(texts) // _QUERIES)]
    return store.sample(_QUERIES), retriever.embed_texts(some).float().cpu().numpy()


class Searcher:
    """An index and the model that made it, kept in memory between searches.

    Args:
        index: Folder of the index.
        model: Folder of the retriever; the one that made the index if None.
        device: Of the model; the best one if None.

    Raises:
        HephError: No index, no model, or another model than the index's.
    """

    def __init__(
        self,
        index: str | Path,
        model: str | Path | None = None,
        *,
        device: str | None = None,
    ) -> None:
        from heph_vl.models.retriever import Retriever

        store = Index.open(index)
        folder = Path(model) if model is not None else Path(store.meta.model)
        if model is None and not folder.is_dir():  # made elsewhere, perhaps with the same weights
            folder = reference_weights("retriever")
        retriever = Retriever.from_pretrained(folder)
        self.retriever = on_best_device(retriever) if device is None else retriever.to(device)
        self.index = Index.open(index, self.retriever.model_id)

    def to(self, device: str) -> "Searcher":
        """Itself, with its model on another device."""
        self.retriever.to(device)
        return self

    def search(
        self,
        *,
        text: str | None = None,
        image: str | Path | None = None,
        k: int = 10,
        where: str | None = None,
        approximately: bool = False,
        heat: bool = False,
        data: str | Path | None = None,
    ) -> Found:
        """The images of the index that fit a text, or look like an image.

        A text is read as facts and given to the model in the dataset's own words, so that "left
        sill, strong" and the caption that says the same find the same. A text without any known
        fact is given as it is.

        Args:
            text: What to look for; or
            image: An interferogram to compare with: PNG, GeoTIFF or .npy.
            k: Number of results.
            where: Filter on columns (see `heph_vl.where`).
            approximately: Look into a part of the index only, if it was prepared for that.
            heat: Also where in each image it agrees with the query.
            data: Folder that the images of heat maps are read from; where they were indexed if
                None.

        Returns:
            At most k hits.

        Raises:
            HephError: An empty or overlong text, an unreadable image, or a bad filter.
        """
        read_as = ""
        unknown: tuple[str, ...] = ()
        if text is not None and image is not None:
            raise HephError("search", "both text and image", "give one of them")
        if text is not None:
            read_as, unknown = _read_query(text)
            vector = self.retriever.embed_texts([read_as])
        elif image is not None:
            vector = _embed_image(self.retriever, Path(image))
        else:
            raise HephError("search", "neither text nor image", "give one of them")
        query = vector.float().cpu().numpy()
        hits = self.index.search(query, k, where, approximately=approximately)[0]
        maps, problems = _heat(self.retriever, vector, hits, data) if heat else ([], [])
        return Found(hits, self.index.thumbnails(hits), read_as, unknown, maps, problems)


def search(index: str | Path, *, model: str | Path | None = None, **question: Any) -> Found:
    """One search; several are faster with a `Searcher`, which reads model and vectors once.

    Args:
        index: Folder of the index.
        model: Folder of the retriever; the one that made the index if None.
        **question: As of `Searcher.search`.

    Returns:
        At most k hits.
    """
    return Searcher(index, model).search(**question)


def _heat(
    retriever: "Retriever", query: "Tensor", hits: Sequence[Hit], data: str | Path | None
) -> tuple[list[Heat | None], list[HephError]]:
    """Heat maps of hits, whose images are read again: the index holds only small pictures."""
    from heph_vl.data.transforms import collate_images

    images, problems = _images([hit.row for hit in hits], data)
    maps: list[Heat | None] = []
    for hit in hits:
        if hit.row["image_id"] not in images:
            maps.append(None)
            continue
        pixels, valid = images[hit.row["image_id"]]
        inputs = collate_images([(pixels, valid)])
        cells = retriever.heat_map(query, **{k: v.to(query.device) for k, v in inputs.items()})[0]
        maps.append(Heat(cells.cpu().numpy(), (valid.shape[0], valid.shape[1])))
    return maps, problems


def _images(
    rows: Sequence[Mapping[str, Any]], data: str | Path | None
) -> tuple[dict[str, Any], list[HephError]]:
    """Model inputs of index rows by image_id, from the folders that they were indexed from."""
    wanted: dict[str, list[str]] = {}
    for row in rows:
        wanted.setdefault(str(data or row["data"]), []).append(row["image_id"])
    images: dict[str, Any] = {}
    problems: list[HephError] = []
    fix = "name the folder that holds them with --data"
    for folder, ids in wanted.items():
        try:
            there = open_folder(Path(folder))[0]
        except HephError as problem:
            problems += [HephError(f"image {i}", f"{folder}: {problem.what}", fix) for i in ids]
            continue
        position = {name: i for i, name in enumerate(there.ids())}
        for name in ids:
            try:
                if name not in position:
                    raise HephError(f"image {name}", f"not in {folder}", fix)
                images[name] = read_image(there[position[name]], position[name])
            except HephError as problem:
                problems.append(problem)
    return images, problems


def _read_query(text: str) -> tuple[str, tuple[str, ...]]:
    """The text as the model gets it, and its words that name no fact."""
    if not text.strip():
        raise HephError("query", "the text is empty", 'say what to look for, e.g. "mogi, left"')
    if len(text) > MAX_QUERY:
        what = f"the text has {len(text)} characters"
        raise HephError("query", what, f"use at most {MAX_QUERY}: one sentence is enough")
    facts = captions.parse(text)
    return captions.compose(facts) if facts.atoms() else text, facts.unexplained


def _embed_image(retriever: Any, path: Path) -> Any:
    import torch

    from heph_vl.data.picture import read_picture
    from heph_vl.data.transforms import collate_images

    picture = read_picture(path)
    inputs = collate_images([(picture.channels, picture.valid)])
    device = retriever.logit_scale.device
    with torch.no_grad():
        return retriever.encode_images(**{k: v.to(device) for k, v in inputs.items()})
