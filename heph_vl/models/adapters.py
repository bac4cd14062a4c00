"""Low-rank updates (LoRA) of a retriever, kept apart from it: a few hundred kilobytes.

retriever = load_adapter(Retriever.from_pretrained("weights/retriever"), "user/etna")
"""

from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from heph_vl.errors import HephError
from heph_vl.hub import located
from heph_vl.models.retriever import Retriever

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(tuner: Any, folder: str | Path, base: str) -> None:
    """Write the updates in peft's format.

    Args:
        tuner: Peft's model around the retriever, before it is merged.
        folder: Made if need be.
        base: `model_id` of the retriever without updates.
    """
    from peft import get_peft_model_state_dict

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = tuner.peft_config["default"]
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))
    state = get_peft_model_state_dict(tuner)
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / WEIGHTS,
    )


def load_adapter(
    retriever: Retriever, folder: str | Path, *, revision: str | None = None
) -> Retriever:
    """Add updates to the retriever that they were learnt on.

    Args:
        retriever: Changed in place.
        folder: Of `save_adapter`, or `user/repo` of the Hub.
        revision: Branch, tag or commit there.

    Returns:
        The retriever, in evaluation mode, with the updates merged into its weights.

    Raises:
        HephError: The folder is incomplete or broken, or of another retriever.
    """
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    folder = located(folder, revision)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            fix = "name a folder `adapter` of training/adapt_retriever.py"
            raise HephError(str(folder), f"this is no saved adapter: no {name}", fix)
    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
        state = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise HephError(str(folder), f"not a saved adapter: {first}", "copy it again") from error
    base, mine = str(config.base_model_name_or_path), retriever.model_id
    if base != mine:
        what = f"learnt on retriever {base[:12]}, this one is {mine[:12]}"
        raise HephError(str(folder), what, "load the retriever that it was learnt on")
    tuner: Any = LoraModel(retriever, config, "default")
    found = set_peft_model_state_dict(tuner, state)
    if found.unexpected_keys:
        what = f"it has updates of {found.unexpected_keys[0]}, which is not there"
        raise HephError(str(folder), what, "copy the whole folder again")
    merged: Retriever = tuner.merge_and_unload()
    return merged.eval()
