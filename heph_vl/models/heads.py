"""Multi-task heads on the shared encoder: labels, quality and deformation masks, and their loss.

    B images, T tiles of all of them, D = encoder.dim, L latents

    image -> encoder -> pooled (B, D), latents (B, L, D), pyramid (T, C, t / s, t / s)
    pooled + one query for each label group over the latents -> logits of the labels (B, K)
    pyramid -> decoder -> segmentation (T, 7, t / 4, t / 4)
    loss = labels (BCE, or CE of a softmax) + segmentation + saliency + facts of the caption

Labels speak of the image given; `intensities` are of an image that deforms.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from heph_vl.data.labels import LABELS, SOFTMAX
from heph_vl.data.palettes import new_table
from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.encoder import (
    Encoder,
    EncoderConfig,
    balanced_mean,
    check_alike,
    saliency_terms,
)
from heph_vl.models.gather import gather_rows
from heph_vl.models.inputs import InputKind, as_seen
from heph_vl.models.label_losses import NUM_FACTS, class_loss, fact_loss, label_loss
from heph_vl.models.prediction import Calibration, Prediction
from heph_vl.models.segmenter import (
    Blender,
    Decoder,
    segmentation_loss,
    segmentation_terms,
    to_pixels,
)


@dataclass(frozen=True)
class HeadsConfig:
    """Parts of the heads and of their loss.

    Raises:
        HephError: If a weight is negative.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    # What is seen of a phase: phasor and coherence, or LiCSAR's colours, or their luminance.
    input: InputKind = "phasor"
    num_heads: int = 4  # of the label queries' attention
    decoder_width: int = 64
    freeze_encoder: bool = False
    imbalance: Literal["none", "focal", "logit_adjusted"] = "none"  # of the labels' losses
    focal_gamma: float = 2.0
    segmentation_weight: float = 1.0  # 0: there is no decoder
    saliency_weight: float = 1.0
    text_weight: float = 0.0  # of the facts told by the caption; 0: they are not predicted

    def __post_init__(self) -> None:
        for name in ("focal_gamma", "segmentation_weight", "saliency_weight", "text_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise HephError(f"model.{name}", f"{getattr(self, name)}", "a number from 0 on")
        if self.encoder.dim % self.num_heads:
            what = f"{self.num_heads} do not divide encoder.dim {self.encoder.dim}"
            raise HephError("model.num_heads", what, "choose a divisor")


class Heads(OnHub, nn.Module):
    """Labels and masks of images of any size.

    Args:
        config: Parts and loss.
    """

    log_prior: Tensor
    colours: Tensor

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.calibration = Calibration.identity()
        self.encoder = Encoder(config.encoder)
        if config.freeze_encoder:  # else as it is: parts that a backbone does not use stay frozen
            self.encoder.requires_grad_(False)
        dim = config.encoder.dim
        outputs = {name: len(names) for name, names in LABELS.items()}
        if config.text_weight:
            outputs["facts"] = NUM_FACTS
        self.queries = nn.Parameter(torch.randn(len(outputs), dim) * 0.02)
        self.attention = nn.MultiheadAttention(dim, config.num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.outputs = nn.ModuleDict({name: nn.Linear(dim, n) for name, n in outputs.items()})
        # A deforming image has a salient place: the most salient token speaks for itself.
        self.evidence = nn.Parameter(torch.zeros(()))
        self.decoder: Decoder | None = None
        if config.segmentation_weight:
            channels = self.encoder.backbone.model.feature_info.channels()
            strides = self.encoder.backbone.strides
            self.decoder = Decoder(dict(zip(strides, channels, strict=True)), config.decoder_width)
        # Log odds (of a softmax: log shares) of the labels among the samples that are drawn.
        self.register_buffer(
            "log_prior", torch.zeros(sum(map(len, LABELS.values()))), persistent=False
        )
        table = torch.from_numpy(new_table()[1]).float() / 255
        self.register_buffer("colours", table, persistent=False)

    def train(self, mode: bool = True) -> "Heads":
        """Switch mode; a frozen encoder stays as it is, batch norms included."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
        return self

    def set_priors(self, shares: Mapping[str, ArrayLike]) -> None:
        """Shares (K,) of each label among the samples that are drawn, for `logit_adjusted`."""
        groups = []
        for name in LABELS:
            share = torch.as_tensor(shares[name]).float().clamp(1e-4, 1 - 1e-4)
            groups.append(share.log() if name in SOFTMAX else share.logit())
        self.log_prior.copy_(torch.cat(groups))

    def fill_from(self, folder: str | Path) -> None:
        """Take all weights of saved heads; calibration stays.

        Args:
            folder: Of `save_pretrained`.

        Raises:
            HephError: They are broken, or made otherwise than these.
        """
        saved = Heads.from_pretrained(folder)
        check_alike(saved.config.encoder, self.config.encoder, str(folder))
        for name in ("num_heads", "input", "decoder_width", "segmentation_weight", "text_weight"):
            theirs, ours = getattr(saved.config, name), getattr(self.config, name)
            if name.endswith("_weight"):  # only whether there is such a part
                theirs, ours = bool(theirs), bool(ours)
            if theirs != ours:
                what = f"the saved heads' {name} is {theirs}, the config's {ours}"
                raise HephError(str(folder), what, f"set model.{name} as theirs")
        weights.fill(self, saved.state_dict(), folder)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw logits of all label groups, of the tiles' pixels and of the tokens' saliency."""
        valid, size = batch["valid"], batch.get("size")
        seen_as = as_seen(batch["pixel_values"], valid, self.config.input, self.colours)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            seen = self.encoder(seen_as, valid, size, return_pyramid=self.decoder is not None)
        out = self._label_logits(seen.pooled, seen.latents, seen.saliency_logits, seen.token_mask)
        out |= {"saliency_logits": seen.saliency_logits, "token_mask": seen.token_mask}
        if self.decoder is not None and seen.pyramid is not None:
            out |= {"segmentation": self.decoder(seen.pyramid), "tiles": seen.tiles}
        return out

    def _label_logits(
        self, pooled: Tensor, latents: Tensor, saliency_logits: Tensor, token_mask: Tensor
    ) -> dict[str, Tensor]:
        queries = self.queries.expand(len(latents), -1, -1)
        attended, _ = self.attention(queries, latents, latents, need_weights=False)
        features = self.norm(pooled[:, None] + attended)  # (B, groups, D)
        out = {
            name: layer(feature)
            for (name, layer), feature in zip(self.outputs.items(), features.unbind(1), strict=True)
        }
        salient = saliency_logits.masked_fill(~token_mask, -10.0).amax(1)
        out["deformation"] = out["deformation"][:, 0] + self.evidence * salient
        return out

    def predict(
        self, pixel_values: Tensor, valid: Tensor, size: Tensor | None = None
    ) -> Prediction:
        """What is in one image of any size; memory does not grow with its tiles.

        Args:
            pixel_values: (3, H, W) or (1, 3, H, W) float32: Re and Im of the phasor, coherence.
            valid: (H, W) or (1, H, W) bool, False where there is no data.
            size: (2,) or (1, 2) int64, true height and width, or None.

        Returns:
            The prediction, of the true size.

        Raises:
            HephError: The image has no valid phase, or `valid` is of another size.
        """
        if pixel_values.ndim == 3:
            pixel_values, valid = pixel_values[None], valid[None]
        if len(pixel_values) != 1:
            what = f"{len(pixel_values)} images"
            raise HephError("predict", what, "give one, or use predict_batch")
        return self.predict_batch(pixel_values, valid, None if size is None else size.view(1, 2))[0]

    @torch.no_grad()
    def predict_batch(
        self, pixel_values: Tensor, valid: Tensor, size: Tensor | None = None
    ) -> list[Prediction]:
        """What is in each of B images; the tensors may be on any device.

        Args:
            pixel_values: (B, 3, H, W) float32: Re and Im of the phasor, coherence.
            valid: (B, H, W) bool, False where there is no data.
            size: (B, 2) int64, true heights and widths, or None when all fill the canvas.

        Returns:
            The predictions, each of its true size.

        Raises:
            HephError: An image has no valid phase, or `valid` is of another size.
        """
        device = self.queries.device
        pixel_values, valid = pixel_values.to(device), valid.to(device)
        _check_shape("valid", valid, pixel_values[:, 0])
        if size is None:
            size = torch.tensor([pixel_values.shape[2:]] * len(valid))
        size = size.to(device)
        for i, (height, width) in enumerate(size.tolist()):
            if not valid[i, :height, :width].any():
                raise HephError(f"image {i}", "no valid phase", "the whole image is no-data")
        config = self.config.encoder
        blenders = [
            Blender(
                height,
                width,
                config.tile_size,
                config.tile_size - config.tile_overlap,
                device=device,
            )
            for height, width in (size.tolist() if self.decoder is not None else [])
        ]

        def segment(tiles: Tensor, features: dict[int, Tensor]) -> None:
            if self.decoder is not None:
                logits = self.decoder(features).split(1)
                # One by one: a tile's probabilities fit the processor's cache, a chunk's do not.
                for (image, row, column), tile in zip(tiles.tolist(), logits, strict=True):
                    classes = to_pixels(tile, config.tile_size).softmax(1)[0]
                    blenders[image].add(row, column, classes)

        was_training = self.training
        self.eval()
        try:
            seen_as = as_seen(pixel_values, valid, self.config.input, self.colours)
            seen = self.encoder(seen_as, valid, size, consume=segment)
            out = self._label_logits(
                seen.pooled, seen.latents, seen.saliency_logits, seen.token_mask
            )
        finally:
            self.train(was_training)
        masks = [blender.finish() for blender in blenders]
        raw = {name: logits.float().cpu() for name, logits in out.items()}
        return [
            Prediction.of(
                {name: logits[i].view(-1) for name, logits in raw.items()},
                self.calibration,
                masks[i] if masks else None,
            )
            for i in range(len(valid))
        ]

    @property
    def model_id(self) -> str:
        """Sha256 of all weights."""
        return weights.state_sha256(self.state_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write own weights with the calibration, and the encoder (subfolder `encoder`).

        Args:
            folder: Made if need be.
        """
        folder = Path(folder)
        encoder = {"path": "encoder", "sha256": self.encoder.save_pretrained(folder / "encoder")}
        config = replace(self.config, encoder=replace(self.config.encoder, pretrained=None))
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("encoder.")}
        calibration = asdict(self.calibration)
        weights.write_model(folder, "heads", config, own, encoder=encoder, calibration=calibration)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "Heads":
        """Read heads from a folder of `save_pretrained`, in evaluation mode.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.

        Returns:
            The heads with their calibration.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model, or if its
                encoder is not the one they were trained with.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "heads")
        where = str(folder / weights.CONFIG)
        config = weights.config_from_dict(HeadsConfig, entries["config"], f"{where}: config")
        encoder = weights.part(entries, "encoder", ("path", "sha256"), where)
        heads = cls(config)
        heads.calibration = weights.config_from_dict(
            Calibration, entries.get("calibration"), f"{where}: calibration"
        )
        state = weights.read_weights(folder, entries["weights_sha256"])
        seen = weights.read_weights(folder / encoder["path"], encoder["sha256"])
        state |= {f"encoder.{name}": tensor for name, tensor in seen.items()}
        weights.fill(heads, state, folder)
        return heads.eval()


def heads_loss(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The heads' loss over the batches of all ranks, the same on every rank.

    Args:
        model: `Heads`, possibly wrapped for several ranks.
        batch: Of `data.transforms.collate`.

    Returns:
        The loss (), and its parts to log.

    Raises:
        HephError: The masks are of another size than the images.
    """
    unwrapped: Any = getattr(model, "module", model)
    config: HeadsConfig = unwrapped.config
    mask = batch["mask"]
    _check_shape("mask", mask, batch["valid"])
    out = model(batch)
    # Labels: of all ranks, so that masked means are those of one process.
    rows = gather_rows(*(out[name] for name in LABELS), *(batch[name] for name in LABELS))
    logits = dict(zip(LABELS, rows[: len(LABELS)], strict=True))
    truth = dict(zip(LABELS, rows[len(LABELS) :], strict=True))
    priors = torch.split(unwrapped.log_prior, [len(names) for names in LABELS.values()])
    gamma = config.focal_gamma if config.imbalance == "focal" else 0.0
    parts: dict[str, Tensor] = {}
    for name, prior in zip(LABELS, priors, strict=True):
        raw = logits[name].float().view(len(truth[name]), -1)
        if config.imbalance == "logit_adjusted":  # Menon et al. (2021), equation 10, tau = 1
            raw = raw + prior
        if name in SOFTMAX:
            parts[name] = class_loss(raw, truth[name], gamma)
        else:
            known = truth["deformation"] if name == "intensities" else None
            parts[name] = label_loss(raw, truth[name].view(raw.shape), gamma, known)
    loss = torch.stack(list(parts.values())).sum()
    if config.segmentation_weight:
        size, tile = batch.get("size"), config.encoder.tile_size
        if size is None:
            size = torch.tensor([mask.shape[1:]] * len(mask), device=mask.device)
        terms = segmentation_terms(
            out["segmentation"],
            out["tiles"],
            mask,
            size,
            tile_size=tile,
            stride=tile - config.encoder.tile_overlap,
        )
        parts["pixels"], parts["dice"] = segmentation_loss(gather_rows(terms[None])[0].sum(0))
        loss = loss + config.segmentation_weight * (parts["pixels"] + parts["dice"])
    if config.saliency_weight:
        terms = saliency_terms(out["saliency_logits"], out["token_mask"], mask)
        parts["saliency"] = balanced_mean(gather_rows(terms[None])[0].sum(0))
        loss = loss + config.saliency_weight * parts["saliency"]
    if config.text_weight:
        told = gather_rows(out["facts"], batch["scene_atoms"], batch["patterns"])
        parts["facts"] = fact_loss(*told)
        loss = loss + config.text_weight * parts["facts"]
    return loss, {name: part.detach() for name, part in parts.items()}


def _check_shape(name: str, flags: Tensor, like: Tensor) -> None:
    if flags.shape != like.shape:
        sides = [" x ".join(map(str, tensor.shape[:0:-1])) for tensor in (flags, like)]
        what = f"{len(flags)} of {sides[0]} px for {len(like)} images of {sides[1]} px"
        raise HephError(name, what, "give one of the image's size for each image")
