"""Cards of models and datasets on the Hub, written from what is in their folders.

Front matter (licence, tags, `model-index` with measured results) is always written anew; a folder's
own text stays as it is, and a model without one gets one. Provenance and limits are always there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heph_vl.data.card import LIMITS, PROVENANCE
from heph_vl.errors import HephError
from heph_vl.files import read_object

_TASKS = {  # kind -> pipeline_tag of the Hub, what it does
    "encoder": ("feature-extraction", "Encoder of Sentinel-1 interferograms"),
    "moco": ("feature-extraction", "Encoder of Sentinel-1 interferograms, pretrained with MoCo v2"),
    "heads": ("image-classification", "Labels, quality and deformation masks of interferograms"),
    "patch_classifier": ("image-classification", "Deformation in 224 px patches"),
    "prototypes": ("image-classification", "Deformation in 224 px patches, by prototypes"),
    "retriever": ("zero-shot-image-classification", "Interferograms found by text"),
    "captioner": ("image-to-text", "Captions of interferograms"),
    "generator": ("text-to-image", "Interferograms drawn from words"),
    "autoencoder": ("feature-extraction", "Latents of wrapped phase"),
    "adapter": ("zero-shot-image-classification", "Low-rank updates of a retriever"),
}
_USE = {
    "encoder": "from heph_vl.models.encoder import Encoder\n\n"
    'encoder = Encoder.from_pretrained("{repo}")',
    "heads": 'heph-vl detect image.png --model "{repo}"',
    "retriever": 'heph-vl index images index --model "{repo}"\n'
    'heph-vl search index "mogi-type deformation of high intensity"',
    "captioner": 'heph-vl caption image.png --model "{repo}"',
    "generator": 'heph-vl generate "Earthquake on the left side." --model "{repo}" --out drawn',
    "adapter": "from heph_vl.models.adapters import load_adapter\n\n"
    'retriever = load_adapter(retriever, "{repo}")',
}

_LABEL_METRICS = {"AUROC": "auroc", "F1": "f1", "average precision": "average_precision"}


@dataclass(frozen=True)
class Headline:
    """One result for a card.

    Attributes:
        metric: Its name.
        value: The model's.
        interval: 95 %, or None.
        baseline: What stands beside it, and its value; None if nothing.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None
    baseline: tuple[str, float] | None


def card_of(folder: Path, kind: str, repo: str | None = None) -> str:
    """The card of a staged model or adapter.

    Args:
        folder: Of `stage.stage`.
        kind: Of `stage.kind_of`.
        repo: Where it is going to be.

    Returns:
        Markdown with front matter.

    Raises:
        HephError: `results.json` is broken.
    """
    own = folder / "README.md"
    given, text = front_matter(own.read_text()) if own.is_file() else ({}, "")
    results = _read(folder / "results.json")
    try:
        front = _front(kind, repo, given, results)
        body = text.strip() or _body(folder, kind, repo or "user/repo", results)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"not as evaluation writes it: {type(error).__name__} {error}"
        raise HephError(str(folder / "results.json"), what, "evaluate again") from error
    for title, section in (("## Provenance", _provenance(results)), ("## Limits", LIMITS)):
        if title not in body:
            body += "\n\n" + section
    return _join(front, body)


def headlines(results: Mapping[str, Any]) -> list[Headline]:
    """The results that a card names, of any file of eval/evaluate*.py.

    Args:
        results: Content of a results.json.

    Returns:
        None of a file that is of no known task, such as a training run's.
    """
    task = results.get("task")
    found: Iterator[tuple[str, Any, str, Any]]
    if task == "retrieval":
        metrics = results["suites"]["captions"]["metrics"]
        found = (
            (
                f"{name} of unique captions",
                metrics[name]["model"],
                "chance",
                metrics[name]["chance"],
            )
            for name in ("mAP", "hit@1", "hit@10")
        )
    elif task == "labels":
        deformation = results["tasks"]["deformation"]["classes"]["deformation"]["metrics"]
        found = (
            (f"{name} of deformation", deformation[key]["model"], "majority", base)
            for name, key in _LABEL_METRICS.items()
            if key in deformation
            for base in [deformation[key].get("majority")]
        )
    elif task == "captions":
        metrics = results["sides"]["all"]["metrics"]
        found = (
            (title, systems["model"], "constant caption", systems["constant"]["value"])
            for title, key in (("F1 of facts", "fact_f1"), ("F1 of deformations", "deformation_f1"))
            for systems in [metrics[key]["systems"]]
        )
    elif task == "generation":
        steps = [name for name in results["realism"] if name.startswith("generated")]
        found = (
            (title, value, base, against)
            for name in steps
            for title, value, base, against in (
                (
                    f"KID, 0 as crops, 1 as scrambled ({name})",
                    results["realism"][name]["kid_normalised"],
                    "scrambled phase",
                    1.0,
                ),
                (
                    f"F1 of facts read back ({name})",
                    results["agreement"][name]["fact_f1"],
                    "shuffled captions",
                    results["agreement"][name]["fact_f1_shuffled"]["value"],
                ),
            )
        )
    else:
        return []
    return [_headline(*entry) for entry in found if entry[1].get("value") is not None]


def _headline(metric: str, value: Mapping[str, Any], base: str, against: Any) -> Headline:
    interval = value.get("interval")
    return Headline(
        metric,
        float(value["value"]),
        None if interval is None else (float(interval[0]), float(interval[1])),
        None if against is None else (base, float(against)),
    )


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card.

    Args:
        card: Markdown.

    Returns:
        Both; no front matter is empty.

    Raises:
        HephError: It is not valid YAML.
    """
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}, card
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise HephError(
            "README.md", f"front matter is not valid YAML: {first}", "mend it"
        ) from None
    return (dict(front) if isinstance(front, dict) else {}), parts[2]


def dataset_cards(
    card: str, config: str | None, repo: str, published: Mapping[str, Any], where: str
) -> tuple[str, str, str]:
    """Cards of a dataset on the Hub: each config has a folder with a card of its own.

    Args:
        card: Of the local folder, whose shards lie in `data`.
        config: Its new name, or None to keep it.
        repo: Where it is going to be.
        published: Front matter of the card that is there already; its other configs stay.
        where: The local folder, for messages.

    Returns:
        The repository's card, the config's card, and the config's name.

    Raises:
        HephError: The local card names no config, or the new name is none.
    """
    front, text = front_matter(card)
    mine = next(iter(front.get("configs") or []), None)
    if not isinstance(mine, dict) or "config_name" not in mine:
        raise HephError(where, "its card names no config", "write it again: heph-vl dataset")
    old, name = str(mine["config_name"]), config or str(mine["config_name"])
    if not name.replace("_", "").replace("-", "").isalnum():
        raise HephError("config", f"{name!r} is no name", "use letters, digits, - and _")
    files = [
        {**entry, "path": entry["path"].replace("data/", f"{name}/", 1)}
        for entry in mine["data_files"]
    ]
    others = [c for c in published.get("configs") or [] if c.get("config_name") != name]
    first = not any(c.get("default") for c in others)
    mine = {k: v for k, v in mine.items() if k != "default"} | {
        "config_name": name,
        "data_files": files,
        **({"default": True} if first else {}),
    }
    front["configs"] = sorted([*others, mine], key=lambda c: str(c["config_name"]))
    front["tags"] = list(dict.fromkeys([*(published.get("tags") or []), *front.get("tags", [])]))
    listed = [
        f"- [`{c['config_name']}`]({c['config_name']}/README.md)"
        f"{' (default)' if c.get('default') else ''}"
        for c in front["configs"]
    ]
    load = f'```python\nimport datasets\n\ndatasets.load_dataset("{repo}", "{name}")\n```'
    body = ["# Interferograms of volcanoes", "Configs, each with a card:", "\n".join(listed), load]
    own = text.replace('"this folder"', f'"{repo}", "{name}"').replace(f"`{old}`", f"`{name}`")
    return _join(front, "\n\n".join([*body, PROVENANCE, LIMITS])), own.strip() + "\n", name


def _front(
    kind: str, repo: str | None, given: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    tag, _ = _TASKS.get(kind, ("feature-extraction", ""))
    tags = ["InSAR", "Sentinel-1", "volcano", *(given.get("tags") or [])]
    front: dict[str, Any] = {
        "language": "en",
        "license": "mit",
        "library_name": "diffusers" if kind in ("generator", "autoencoder") else "heph_vl",
        "pipeline_tag": tag,
    }
    front |= {k: v for k, v in given.items() if k not in ("tags", "model-index")}
    front["tags"] = list(dict.fromkeys(tags))
    found = headlines(results)
    if found:
        front["model-index"] = _model_index(kind, repo, results, found)
    return front


def _model_index(
    kind: str, repo: str | None, results: Mapping[str, Any], found: list[Headline]
) -> Any:
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    split = _split(results)
    name = f"Hephaestus, {_sources(results) or 'source not recorded'}"
    entries = [
        EvalResult(
            task_type=_TASKS[kind][0],
            dataset_type="hephaestus",
            dataset_name=name,
            dataset_split=split.get("name"),
            metric_type=headline.metric,
            metric_name=headline.metric,
            metric_value=round(headline.value, 4),
        )
        for headline in found
    ]
    return eval_results_to_model_index(repo or kind, entries)


def _body(folder: Path, kind: str, repo: str, results: Mapping[str, Any]) -> str:
    _, what = _TASKS.get(kind, ("", f"A saved {kind}"))
    parts = [f"# {what}", f"A model of heph_vl, kind `{kind}`, in safetensors."]
    if kind in _USE:
        parts.append("```\n" + _USE[kind].format(repo=repo) + "\n```")
    found = headlines(results)
    if found:
        parts.append(_table(results, found))
    elif kind not in ("adapter", "encoder", "autoencoder"):
        parts.append("Not evaluated yet: `python eval/evaluate.py --data DATASET --model MODEL`.")
    if kind == "adapter":
        base = _read(folder / "adapter_config.json").get("base_model_name_or_path")
        parts.append(f"It changes the retriever with the model id `{base}`, and no other.")
    parts.append(_training(folder))
    return "\n\n".join(part for part in parts if part)


def _table(results: Mapping[str, Any], found: list[Headline]) -> str:
    split, sources = _split(results), _sources(results) or "source not recorded"
    lines = [
        "## Results",
        "",
        f"Split {split.get('name')} ({split.get('images', split.get('crops'))} images, "
        f"{split.get('groups')} groups of volcanoes, {sources}); commit {results.get('commit')}; "
        "95 % intervals over groups.",
        "",
        "| metric | value | 95 % | baseline |",
        "|---|---|---|---|",
    ]
    for entry in found:
        interval = "-" if entry.interval is None else "{:.3f} to {:.3f}".format(*entry.interval)
        base = "-" if entry.baseline is None else f"{entry.baseline[1]:.3f} ({entry.baseline[0]})"
        lines.append(f"| {entry.metric} | {entry.value:.3f} | {interval} | {base} |")
    return "\n".join(lines)


def _training(folder: Path) -> str:
    """How it was trained, by `environment.json` and `training.yaml` where they are."""
    environment = _read(folder / "environment.json")
    lines = []
    if environment:
        lines += [
            f"    {environment.get('command')}",
            "",
            f"Commit {environment.get('commit')}"
            f"{' with uncommitted changes' if environment.get('dirty') else ''}, seed "
            f"{environment.get('seed')}, {environment.get('num_processes')} process(es) on "
            f"{environment.get('device')}, precision {environment.get('mixed_precision')}.",
        ]
    if (folder / "training.yaml").is_file():
        lines.append("The whole config: `training.yaml`.")
    else:
        lines.append("How it was trained is not recorded here.")
    return "## Training\n\n" + "\n".join(lines)


def _provenance(results: Mapping[str, Any]) -> str:
    sources = _sources(results)
    return PROVENANCE + (f"\n\nMeasured on {sources} interferograms." if sources else "")


def _split(results: Mapping[str, Any]) -> dict[str, Any]:
    """What results say of their split; training runs give its name alone."""
    split = results.get("split") or {}
    return dict(split) if isinstance(split, dict) else {"name": split}


def _sources(results: Mapping[str, Any]) -> str:
    return " and ".join(sorted(_split(results).get("sources") or []))


def _read(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty if there is none."""
    return read_object(path, "mend it, or evaluate again") if path.is_file() else {}


def _join(front: Mapping[str, Any], body: str) -> str:
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{head}---\n\n{body.strip()}\n"
