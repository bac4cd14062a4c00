"""A sentence as an interferogram: diffusers' pipeline of text tower, denoiser and autoencoder."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from heph_vl.data.grain import draw_phase
from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.autoencoder import decode, factor
from heph_vl.models.generator import TRAIN_STEPS, denoise, text_features
from heph_vl.models.text import TextConfig, TextTower, load_tokenizer, save_tokenizer, tokenize
from heph_vl.models.weights import state_sha256

NOTICE = "generated, not an observation"
LARGEST = 1024  # px; a side
_AGAIN = "copy the whole folder again from where it was saved"


class CaptionEncoder(ModelMixin, ConfigMixin):
    """The text tower as a part of a pipeline.

    Args:
        vocab_size: As of `TextConfig`, like all.
        context_length: Tokens of a text at most.
        width: Of the features.
        layers: Of the transformer.
        heads: Of each.
    """

    @register_to_config
    def __init__(
        self, vocab_size: int, context_length: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.tower = TextTower(TextConfig(vocab_size, context_length, width, layers, heads))

    @classmethod
    def of(cls, tower: TextTower) -> "CaptionEncoder":
        """Around an existing tower."""
        encoder: CaptionEncoder = cls(
            **{f.name: getattr(tower.config, f.name) for f in fields(TextConfig)}
        )
        encoder.tower = tower
        return encoder

    @classmethod
    def of_retriever(cls, folder: Path) -> "CaptionEncoder":
        """The text tower of a saved retriever, without the rest of it.

        Args:
            folder: Of `Retriever.save_pretrained`.

        Returns:
            The tower, in evaluation mode.

        Raises:
            HephError: The folder is incomplete, broken, or holds another model.
        """
        entries = weights.read_config(folder, "retriever")
        where = f"{folder / weights.CONFIG}: config.text"
        config = weights.config_from_dict(TextConfig, entries["config"].get("text"), where)
        tower, own = TextTower(config), "text_tower."
        state = weights.read_weights(folder, entries["weights_sha256"])
        state = {k.removeprefix(own): v for k, v in state.items() if k.startswith(own)}
        weights.fill(tower, state, folder)
        return cls.of(tower.eval())


@dataclass
class InSAROutput(BaseOutput):
    """Generated interferograms.

    Attributes:
        wrapped_phase: (N, H, W) float32 [rad] in (-pi, pi], 0 where invalid.
        coherence: (N, H, W) float32 in [0, 1], 0 where invalid.
        valid: (N, H, W) bool.
        images: N coloured pictures as LiCSAR stores them, no data transparent.
        coherence_images: N grey pictures of the coherence.
        prompts: N texts.
    """

    wrapped_phase: NDArray[np.float32]
    coherence: NDArray[np.float32]
    valid: NDArray[np.bool_]
    images: list[Image.Image]
    coherence_images: list[Image.Image]
    prompts: list[str]


class InSARPipeline(OnHub, DiffusionPipeline):
    """Text to a wrapped interferogram with its coherence.

    Args:
        autoencoder: With the scale of its latents.
        unet: The denoiser.
        scheduler: The sampler it was trained for.
        text_encoder: The text tower it was trained with.
        tokenizer: Of `models.text`, that tower's.
        text_sha256: Of the text tower's weights, `tokenizer_sha256` of the tokenizer's file; both
            are written by `save_pretrained` and compared by `from_pretrained`.
        tokenizer_sha256: See there.
        guidance_scale: Used if a call names none.
        text_path: Folder of the retriever whose text tower and tokenizer are used, seen from the
            pipeline's own; None where they lie in it.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        text_encoder: CaptionEncoder,
        tokenizer: Any,
        text_sha256: str | None = None,
        tokenizer_sha256: str | None = None,
        guidance_scale: float = 2.0,
        text_path: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            unet=unet,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.register_to_config(
            text_sha256=text_sha256,
            tokenizer_sha256=tokenizer_sha256,
            guidance_scale=guidance_scale,
            text_path=text_path,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        *,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 20,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        height: int | None = None,
        width: int | None = None,
        palette: str = "new",
        callback: Callable[[int, int], None] = lambda done, total: None,
    ) -> InSAROutput:
        """Draw interferograms.

        Args:
            prompt: What is to be seen, one text or several; an empty one leaves it open.
            num_images_per_prompt: Of each text, one after another.
            num_inference_steps: Of the sampler; 8 and more.
            guidance_scale: 1 follows the texts as they were learnt, more exaggerates them.
            generator: Source of all randomness, on the CPU.
            height: Pixels, a multiple of `multiple`; of the training crops if None.
            width: Likewise.
            palette: LiCSAR's colours: "new" or "old".
            callback: Called with steps done and of all.

        Returns:
            Phase, coherence and pictures.

        Raises:
            HephError: An impossible size, number or palette.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [text for text in prompts for _ in range(num_images_per_prompt)]
        size = tuple(self.side if side is None else side for side in (height, width))
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self._check(prompts, size, num_inference_steps, guidance, palette)
        latents = self.sample(
            self.read(prompts), size, num_inference_steps, guidance, generator, callback
        )
        return self.develop(latents, prompts, generator, palette)

    @property
    def side(self) -> int:
        """Pixels along a side of the crops it was trained on."""
        return int(self.unet.config.sample_size) * factor(self.autoencoder)

    @property
    def multiple(self) -> int:
        """Pixels that the sides of an image must be a multiple of."""
        halvings = len(self.unet.config.block_out_channels) - 1
        return int(factor(self.autoencoder) * 2**halvings)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Text features of texts for `sample`: `states`, `state_mask`, `pooled`."""
        length = self.text_encoder.config.context_length
        tokens = tokenize(self.tokenizer, texts, length)
        ids, mask = (t.to(self.device) for t in tokens.values())
        return text_features(self.text_encoder.tower, ids, mask)

    @torch.no_grad()
    def sample(
        self,
        texts: Mapping[str, Tensor],
        size: tuple[int, ...],
        num_steps: int,
        guidance_scale: float,
        generator: torch.Generator | None = None,
        callback: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """Latents (N, C, h, w) float32 of text features.

        Args:
            texts: Of `read`, N texts.
            size: Height and width of the images in pixels.
            num_steps: Of the scheduler.
            guidance_scale: As for a call; 1 costs half.
            generator: On the CPU.
            callback: Called with steps done and of all.

        Returns:
            On the pipeline's device.
        """
        count, cell = len(texts["pooled"]), factor(self.autoencoder)
        shape = count, self.unet.config.in_channels, size[0] // cell, size[1] // cell
        latents = torch.randn(shape, generator=generator).to(self.device)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        guided = guidance_scale != 1
        if guided:
            nothing = self.read([""])
            texts = {name: _beside(texts[name], nothing[name]) for name in texts}
        self.scheduler.set_timesteps(**_times(self.scheduler, num_steps), device=self.device)
        times = self.scheduler.timesteps
        for done, time in enumerate(times, start=1):
            twice = torch.cat([latents, latents]) if guided else latents
            if hasattr(self.scheduler, "scale_model_input"):
                twice = self.scheduler.scale_model_input(twice, time)
            found = denoise(self.unet, twice.to(self.unet.dtype), time, texts).float()
            if guided:
                told, untold = found.chunk(2)
                found = untold + guidance_scale * (told - untold)
            latents = self.scheduler.step(found, time, latents, return_dict=False)[0]
            callback(done, len(times))
        return latents

    @torch.no_grad()
    def develop(
        self,
        latents: Tensor,
        prompts: Sequence[str],
        generator: torch.Generator | None = None,
        palette: str = "new",
    ) -> InSAROutput:
        """Decode latents, turn their phase, draw grain where it is open, and colour it.

        Args:
            latents: (N, C, h, w) of `sample`.
            prompts: N texts, to be handed on.
            generator: Of the constant that is added to each phase (`generator.centred`), and of
                the grain.
            palette: "new" or "old".

        Returns:
            The interferograms.
        """
        seed = int(torch.randint(2**31, (), generator=generator))
        rng = np.random.default_rng(seed)
        decoded = decode(self.autoencoder, latents.to(self.autoencoder.dtype))
        valid = decoded.valid.cpu().numpy()
        turns = np.exp(2j * np.pi * rng.random(len(valid)))[:, None, None]
        coherence = decoded.coherence.float().cpu().numpy()
        phase = draw_phase(decoded.phasor.cpu().numpy() * turns, rng, coherence) * valid
        images, grey = draw_pictures(phase, valid, coherence, palette)
        return InSAROutput(phase, coherence, valid, images, grey, list(prompts))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write a diffusers folder, in safetensors; half the size after `to(torch.float16)`."""
        sha256 = save_tokenizer(self.tokenizer, Path(save_directory) / "tokenizer")
        self.register_to_config(
            text_sha256=_text_sha256(self.text_encoder), tokenizer_sha256=sha256, text_path=None
        )
        super().save_pretrained(str(save_directory), safe_serialization=True, **options)
        save_tokenizer(self.tokenizer, Path(save_directory) / "tokenizer")  # transformers' differs

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None, **options: Any
    ) -> "InSARPipeline":
        """Read a folder of `save_pretrained`.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.
            **options: Of diffusers' `from_pretrained`.

        Returns:
            The pipeline, in evaluation mode, float32.

        Raises:
            HephError: The folder is incomplete or broken, or has the text tower or tokenizer of
                another model.
        """
        folder = located(folder, revision)
        if not (folder / "model_index.json").is_file():
            fix = "name a folder of a trained generator"
            raise HephError(str(folder), "this is no saved generator: no model_index.json", fix)
        wanted = _written(folder)
        words = folder / (wanted["text_path"] or "")
        tokenizer = load_tokenizer(words / "tokenizer", sha256=wanted["tokenizer_sha256"])
        try:
            text_encoder = (
                CaptionEncoder.from_pretrained(
                    str(folder / "text_encoder"), local_files_only=True, use_safetensors=True
                )
                if wanted["text_path"] is None
                else CaptionEncoder.of_retriever(words)
            )
            found: InSARPipeline = super().from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                tokenizer=tokenizer,
                text_encoder=text_encoder,
                **options,
            )
        except HephError as error:
            raise HephError(str(folder), f"not a saved generator: {error}", _AGAIN) from error
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError),
            SafetensorError,
        ) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise HephError(str(folder), f"not a saved generator: {first}", _AGAIN) from error
        sha256 = _text_sha256(text_encoder)
        if sha256 != wanted["text_sha256"]:
            what = f"its text tower is {sha256[:12]}, it learnt with {wanted['text_sha256'][:12]}"
            raise HephError(str(folder), what, _AGAIN)
        return found

    def _check(
        self,
        prompts: Sequence[str],
        size: tuple[int, ...],
        num_steps: int,
        guidance_scale: float,
        palette: str,
    ) -> None:
        multiple = self.multiple
        if any(not 0 < side <= LARGEST or side % multiple for side in size):
            what = f"an image of {size[1]} x {size[0]} px cannot be drawn"
            fix = f"sides are multiples of {multiple} px, up to {LARGEST}; it learnt {self.side}"
            raise HephError("size", what, fix)
        steps_fit = 1 <= num_steps <= TRAIN_STEPS
        if not prompts or not steps_fit or not 0 <= guidance_scale < float("inf"):
            what = f"{len(prompts)} images, {num_steps} steps, guidance {guidance_scale}"
            raise HephError("generate", what, f"at least 1, 1 to {TRAIN_STEPS}, a number from 0")
        if palette not in ("new", "old"):
            raise HephError("palette", f"{palette!r} is not known", "use new or old")


def draw_pictures(
    wrapped_phase: NDArray[np.float32],
    valid: NDArray[np.bool_],
    coherence: NDArray[np.float32],
    palette: str = "new",
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Native pixels as LiCSAR stores pictures: few colours, no data transparent.

    Args:
        wrapped_phase: (N, H, W) float32 [rad].
        valid: (N, H, W) bool.
        coherence: (N, H, W) float32 in [0, 1].
        palette: "new" or "old".

    Returns:
        N coloured pictures and N grey ones.
    """
    from heph_vl.simulate.render import Rendering, draw, to_images

    options = Rendering(downsample=1.0, filter="lanczos", palette=palette, posterise=True)
    phase, shown, level = (
        torch.from_numpy(np.ascontiguousarray(f)) for f in (wrapped_phase, valid, coherence)
    )
    picture = draw(phase, shown, level, options)
    pairs = [to_images(picture, i, options) for i in range(len(valid))]
    return [image for image, _ in pairs], [grey for _, grey in pairs]


def _times(scheduler: Any, num_steps: int) -> dict[str, Any]:
    """For the flow equal steps down to 0: its own last one starts at 0.001 and does nothing."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return {"sigmas": np.linspace(1, 1 / num_steps, num_steps)}
    return {"num_inference_steps": num_steps}


def _beside(texts: Tensor, nothing: Tensor) -> Tensor:
    """(2 N, ...): the features of texts, then those of an empty one for each, padded alike."""
    other = nothing.expand(len(texts), *nothing.shape[1:])
    if texts.ndim > 1 and other.shape[1] < texts.shape[1] and texts.shape[:1] == other.shape[:1]:
        room = torch.zeros_like(texts)
        room[:, : other.shape[1]] = other
        other = room
    return torch.cat([texts, other])


def _text_sha256(encoder: CaptionEncoder) -> str:
    """Of the weights as they are stored: half precision has its own."""
    return state_sha256({k: v.float().contiguous() for k, v in encoder.state_dict().items()})


def _written(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says of text tower and tokenizer."""
    path = folder / "model_index.json"
    try:
        found = json.loads(path.read_bytes())
        said = {name: str(found[name]) for name in ("text_sha256", "tokenizer_sha256")}
        at = found.get("text_path")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HephError(str(path), "it is broken, or of no generator", _AGAIN) from error
    if at is not None:
        weights.part({"text": {"path": at}}, "text", ("path",), str(path))
    return {**said, "text_path": at}
