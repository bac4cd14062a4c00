"""The models of the app: each is loaded when it is first asked, and asked by one at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from heph_vl.embed import on_best_device
from heph_vl.gallery import Gallery

if TYPE_CHECKING:
    from heph_vl.models.captioner import Captioner
    from heph_vl.models.heads import Heads
    from heph_vl.models.pipeline import InSARPipeline
    from heph_vl.search import Searcher

Model = TypeVar("Model")
Answer = TypeVar("Answer")


class Once(Generic[Model]):
    """A model that is loaded when it is first asked, and asked by one at a time.

    Args:
        load: Loads it onto the CPU.
        warn: Told in one line when the model leaves the GPU for good.
    """

    def __init__(self, load: Callable[[], Model], warn: Callable[[str], object]) -> None:
        self._load, self._warn = load, warn
        self._model: Model | None = None
        self._gpu_is_full = False
        self._lock = Lock()

    def ask(self, question: Callable[[Model], Answer]) -> Answer:
        """What a function of the model gives, on the best device that has room for it.

        Args:
            question: Called with the model, a second time if the GPU was too small.

        Returns:
            Its answer.
        """
        import torch

        with self._lock:
            if self._model is None:
                self._model = self._load()
            if not self._gpu_is_full:
                try:
                    return question(on_best_device(self._model))
                except torch.OutOfMemoryError:
                    self._gpu_is_full = True
                self._warn("The GPU's memory is full: this goes on, slower, on the CPU.")
                model: Any = self._model
                model.to("cpu")
                torch.cuda.empty_cache()
            return question(self._model)


@dataclass(frozen=True)
class Models:
    """What the tabs ask, each loaded at its first question.

    Attributes:
        folders: Of each kind of model.
        gallery: Of simulated interferograms.
        data: Folder of the images of the index; where they were indexed if None.
        searcher: Of the index, or of the gallery.
        captioner: Of its folder.
        heads: Likewise.
        generator: Likewise.
    """

    folders: dict[str, Path]
    gallery: Gallery
    data: Path | None
    searcher: "Once[Searcher]"
    captioner: "Once[Captioner]"
    heads: "Once[Heads]"
    generator: "Once[InSARPipeline]"


def models_of(
    folders: dict[str, Path], gallery: Gallery, index: Path | None, warn: Callable[[str], object]
) -> Models:
    """The models of these folders, none of them loaded yet.

    Args:
        folders: Of `heads`, `captioner`, `generator`, and of the `retriever`; without that an
            index is searched by the one that made it.
        gallery: Searched if there is no index.
        index: Folder of an index.
        warn: Told in one line when a model leaves the GPU.

    Returns:
        The models.
    """

    def searcher() -> "Searcher":
        from heph_vl.search import Searcher

        return Searcher(index or gallery.index, folders.get("retriever"), device="cpu")

    def captioner() -> "Captioner":
        from heph_vl.models.captioner import Captioner

        return Captioner.from_pretrained(folders["captioner"])

    def heads() -> "Heads":
        from heph_vl.models.heads import Heads

        return Heads.from_pretrained(folders["heads"])

    def generator() -> "InSARPipeline":
        from diffusers.utils import logging

        from heph_vl.models.pipeline import InSARPipeline

        logging.disable_progress_bar()
        return InSARPipeline.from_pretrained(folders["generator"])

    return Models(
        folders,
        gallery,
        None if index else gallery.patches,
        Once(searcher, warn),
        Once(captioner, warn),
        Once(heads, warn),
        Once(generator, warn),
    )
