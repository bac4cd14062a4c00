"""timm models of any family: cut after their features at stride 16, or whole and pooled."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from heph_vl.errors import HephError
from heph_vl.models.tiles import CELL

_FIX = "name a timm model with features at stride 16, such as resnet18"


class Backbone(nn.Module):
    """Tiles (T, 3, t, t) -> features by stride: 2, 4, 8, 16 where the model has them.

    Args:
        name: A timm model.
        options: More arguments of `timm.create_model`.
        tile_size: t [px], for models that are made for one size (ViT, Swin).
        norm: What stands where the model has batch norms; other norms stay.
        pretrained: A .safetensors file of timm's weights of that model, or `hub`: from the Hugging
            Face Hub, where timm keeps them, those of open_clip's image towers among them
            (`vit_base_patch16_clip_224.openai`).

    Raises:
        HephError: If there is no such model, it has no features at stride 16, or the weights are
            not its own.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        *,
        tile_size: int,
        norm: Literal["batch", "group"],
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        try:
            options = sized_options(name, options, tile_size)
            probe = timm.create_model(name, features_only=True, out_indices=(-1,), **options)
        except Exception as error:  # timm refuses names and options in many ways
            raise HephError("encoder.backbone", f"{name}: {error}", _FIX) from error
        strides = [stage["reduction"] for stage in probe.feature_info.info]
        if CELL not in strides:
            raise HephError("encoder.backbone", f"{name} has features at {strides} px", _FIX)
        # The last stage of each stride; what comes after stride 16 is left out.
        stages = sorted({s: i for i, s in enumerate(strides) if s <= CELL}.values())
        options |= {"features_only": True, "out_indices": stages}
        self.model = _with_weights(name, options, pretrained)
        if norm == "group":
            _use_group_norm(self.model)
        self.strides = [strides[i] for i in stages]
        self.channels = int(self.model.feature_info.channels()[-1])
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self._leave_out_unused(name, tile_size)

    def forward(self, tiles: Tensor) -> dict[int, Tensor]:
        """Features (T, C, t / stride, t / stride) of tiles (T, 3, t, t), by stride."""
        # Up to a fifth faster on a CPU, and equal to rounding.
        features = self.model(tiles.contiguous(memory_format=torch.channels_last))
        if self.channels_last:
            features = [f.permute(0, 3, 1, 2) for f in features]
        return dict(zip(self.strides, features, strict=True))

    def _leave_out_unused(self, name: str, tile_size: int) -> None:
        """Freeze what comes after stride 16 in models that timm does not cut (EfficientNet).

        A parameter without gradient would stop DistributedDataParallel.
        """
        self.eval()
        with torch.enable_grad():
            features = self(torch.zeros(1, 3, tile_size, tile_size))[CELL]
            features.sum().backward()
        self.train()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        if features.shape[2:] != (tile_size // CELL, tile_size // CELL):
            what = f"{name} gives {tuple(features.shape[2:])} cells for {tile_size} px"
            raise HephError("encoder.backbone, tile_size", what, _FIX)


def sized_options(name: str, options: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Options of `timm.create_model`, with the image size where a model is made for one.

    Args:
        name: A timm model.
        options: They may have another `img_size`, which stays.
        size: Side of its images [px], for ViT, Swin and their like.

    Returns:
        The options, in a new dict.
    """
    known = timm.get_pretrained_cfg(name)
    fixed = known is not None and known.fixed_input_size
    return ({"img_size": size} if fixed else {}) | dict(options)


def pooled_backbone(name: str, options: Mapping[str, Any]) -> tuple[Any, int]:
    """A whole timm model without its classifier, and the width of its pooled features.

    Args:
        name: A timm model.
        options: More arguments of `timm.create_model`.

    Returns:
        Module: images (B, 3, t, t) -> pooled features (B, C), with random weights; and C.

    Raises:
        HephError: If timm has no such model.
    """
    try:
        model = timm.create_model(name, num_classes=0, **options)
    except Exception as error:  # timm refuses names and options in many ways
        fix = "name a timm model, such as resnet18"
        raise HephError("model.backbone", f"{name}: {error}", fix) from error
    return model, int(getattr(model, "head_hidden_size", None) or model.num_features)


def _with_weights(name: str, options: dict[str, Any], pretrained: str | None) -> Any:
    if pretrained is None:
        return timm.create_model(name, **options)
    path = _hub_file(name) if pretrained == "hub" else Path(pretrained)
    where = f"encoder.pretrained: {path}"
    fix = f"give the path of timm's weights of {name} as a .safetensors file"
    if path.suffix != ".safetensors" or not path.is_file():
        missing = path.suffix == ".safetensors"
        raise HephError(where, "no such file" if missing else "not a .safetensors file", fix)
    try:
        given = safetensors.torch.load_file(path)
        model = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options
        )
    except Exception as error:  # a broken file or other shapes: timm has no error of its own
        raise HephError(where, f"these are no weights of {name}: {error}", fix) from error
    # timm passes over names it does not find. Few parameters may differ from the file: position
    # codes are resampled to the tile's size.
    known = {_fingerprint(tensor) for tensor in given.values()}
    sizes = [(p.numel(), _fingerprint(p) in known) for p in model.parameters()]
    if sum(n for n, found in sizes if found) < 0.9 * sum(n for n, _ in sizes):
        raise HephError(where, f"these are no weights of {name}: other names", fix)
    return model


def _hub_file(name: str) -> Path:
    """Timm's weights of a model on the Hub, as a file here; never pickled ones."""
    from huggingface_hub import hf_hub_download

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        fix = "name one with a tag, such as resnet18.a1_in1k"
        raise HephError("encoder.pretrained: hub", f"timm has no weights of {name} there", fix)
    try:
        return Path(hf_hub_download(known.hf_hub_id, "model.safetensors"))
    except Exception as error:  # network, hub and cache have no common class
        reason = " ".join(str(error).split())[:200]
        fix = f"check the network, or give the path of {known.hf_hub_id}'s model.safetensors"
        raise HephError("encoder.pretrained: hub", reason, fix) from error


def _fingerprint(tensor: Tensor) -> tuple[tuple[int, ...], float]:
    return tuple(tensor.shape), tensor.detach().double().sum().item()


def _use_group_norm(module: nn.Module) -> None:
    """Put group norms in the place of batch norms, with their affine.

    Groups of 16 channels (Wu and He, 2018, table 3): with 32 groups, narrow layers would have one
    channel each, and lose how strong a feature is.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _use_group_norm(child)
            continue
        channels = child.num_features
        norm = nn.GroupNorm(channels // math.gcd(16, channels), channels)
        norm.load_state_dict({"weight": child.weight, "bias": child.bias})
        # timm's BatchNormAct2d includes dropout and activation.
        rest = [child.drop, child.act] if isinstance(child, BatchNormAct2d) else []
        setattr(module, name, nn.Sequential(norm, *rest) if rest else norm)
