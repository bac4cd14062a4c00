"""Hephaestus as a Hugging Face dataset: builder, Parquet, and reading it back.

    from heph_vl.data.hephaestus import Hephaestus, load, write_parquet

    write_parquet("archive", "dataset")             # shards that datasets.load_dataset reads
    train = load("dataset", "train")

    builder = Hephaestus("archive", "patches")      # or straight from the archive
    builder.download_and_prepare()                  # cached
    train = builder.as_dataset("train")
    train = builder.as_streaming_dataset("train")   # or not written at all

Importing this module imports `datasets`, which takes a second; the other modules of `data` do not.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from heph_vl.data.archive import Archive, Pair, scan_archive
from heph_vl.data.examples import CONFIGS, ExampleConfig, fingerprint, generate, pairs_by_split
from heph_vl.data.features import FEATURES, features
from heph_vl.data.native import usual_sizes
from heph_vl.data.official import export_official
from heph_vl.data.parquet import load, write_parquet
from heph_vl.data.patches import PATCH_SIZE, PatchConfig
from heph_vl.errors import HephError

_log = logging.getLogger(__name__)

__all__ = ["FEATURES", "Hephaestus", "export_official", "features", "load", "write_parquet"]

VERSION = "0.1.0"
DESCRIPTION = (
    "Sentinel-1 interferograms over volcanoes with captions, labels and deformation polygons "
    "(Hephaestus; Bountos et al., CVPRW 2022, or simulated in its likeness)."
)


@dataclass
class HephaestusConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Settings of the builder; each one is part of the cache key.

    Attributes:
        scheme: Split scheme (`splits.assign`).
        fold: Fold of the scheme.
        patch_file: The published patch split, for scheme `official`.
        patch_size: Side of patches in pixels.
        jitter: Seed of the place of deformation in its crop; -1: in the middle.
        strict: Raise the first problem instead of leaving the record out.
    """

    scheme: str = "grouped"
    fold: int | None = None
    patch_file: str | None = None
    patch_size: int = PATCH_SIZE
    jitter: int = 0
    strict: bool = False


class Hephaestus(datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    """Builder over an archive, real or simulated; instantiate it directly.

    Args:
        archive: Root of the archive.
        config_name: `interferograms`, `patches` or `unlabeled`.
        annotations: Annotations that lie elsewhere (folder, .zip, .tar.gz, .json).
        cache_dir: Where to cache; the cache notices changed files, records and code.
        **settings: Fields of HephaestusConfig.

    Raises:
        HephError: If the archive cannot be read.
    """

    BUILDER_CONFIG_CLASS = HephaestusConfig
    # The version must be set here: datasets ignores the builder's own.
    BUILDER_CONFIGS = [HephaestusConfig(name=name, version=VERSION) for name in CONFIGS]  # noqa: RUF012
    DEFAULT_CONFIG_NAME = "interferograms"
    DEFAULT_WRITER_BATCH_SIZE = 64

    def __init__(
        self,
        archive: str | Path,
        config_name: str = "interferograms",
        *,
        annotations: str | Path | None = None,
        cache_dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        if config_name not in CONFIGS:
            raise HephError(f"config {config_name}", "unknown", f"one of {', '.join(CONFIGS)}")
        strict = bool(settings.get("strict", False))
        self.archive: Archive = scan_archive(archive, annotations, strict=strict)
        patch_file = settings.get("patch_file")
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            config_name=config_name,
            hash=fingerprint(self.archive, Path(patch_file) if patch_file else None),
            **settings,
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            features=features(self.config.name), description=DESCRIPTION, license="mit"
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        config, patch_file = self.config, self.config.patch_file
        found = pairs_by_split(
            self.archive,
            config.name,
            config.scheme,
            config.fold,
            Path(patch_file) if patch_file else None,
        )
        examples = ExampleConfig(
            config.name,
            self.archive.source,
            usual_sizes(self.archive.pairs),
            patch_config(config.patch_size, config.jitter),
            config.strict,
        )
        return [
            # A list among the arguments is what datasets divides between processes and shards.
            datasets.SplitGenerator(name, gen_kwargs={"pairs": pairs, "examples": examples})
            for name, pairs in found.items()
        ]

    def _generate_examples(
        self, pairs: list[Pair], examples: ExampleConfig
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        problems: list[HephError] = []
        yield from generate(pairs, examples, problems, Counter())
        for problem in problems:  # worker processes can return nothing but rows
            _log.warning("left out: %s", problem)


def patch_config(size: int, jitter: int) -> PatchConfig:
    """Settings for cutting, checked.

    Args:
        size: Side in pixels, at least 8.
        jitter: Seed, or -1 for deformation in the middle.

    Returns:
        The settings.

    Raises:
        HephError: If the size is too small.
    """
    if size < 8:
        raise HephError("patch_size", f"{size} px", "give at least 8, the paper has 224")
    return PatchConfig(size, None if jitter < 0 else jitter)
