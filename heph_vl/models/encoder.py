"""The shared image encoder: an interferogram of any size as a bag of native patches.

    B images, T tiles of all of them, n x n cells of 16 px in a tile,
    N = rows x columns cells of the padded canvas, D = `dim`, L = `num_latents`

    pixel_values (B, 3, H, W) -> tiles (T, 3, t, t) -> backbone (T, C, n, n) -> cells (T, n, n, D)
    -> tokens (B, N, D), overlaps from the nearer tile -> saliency (B, N)
    -> latents (B, L, D), half of the queries drawn to salient tokens -> pooled (B, D)

Nothing is ever shrunk: half of all deformation is under 24 px wide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.backbone import Backbone
from heph_vl.models.tiles import CELL, cell_share, choose_tiles, cut_tiles, inside, nearest_cells


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and parts of the encoder.

    Raises:
        HephError: If sizes do not fit each other.
    """

    backbone: str = "resnet18"  # any timm model with features at stride 16
    backbone_options: dict[str, Any] = field(default_factory=dict)  # of timm.create_model
    pretrained: str | None = None  # a .safetensors file of timm weights of the backbone, or: hub
    # Batch norms learn faster; with group norms in their place each image is seen for itself, so
    # that training by several processes equals training by one, to rounding.
    norm: Literal["batch", "group"] = "batch"
    dim: int = 256
    tile_size: int = 224
    tile_overlap: int = 32
    min_valid_tile: float = 0.05  # share of valid pixels under which a tile is dropped
    min_valid_cell: float = 0.1  # share of valid pixels under which a token is masked
    num_latents: int = 32
    num_heads: int = 8
    max_tiles_per_forward: int = 32  # without gradient only: bounds memory

    def __post_init__(self) -> None:
        if self.tile_size % CELL or self.tile_size <= 0:
            raise HephError(
                "encoder.tile_size", f"{self.tile_size} px", f"use a positive multiple of {CELL}"
            )
        if self.tile_overlap % CELL or not 0 <= self.tile_overlap < self.tile_size:
            raise HephError(
                "encoder.tile_overlap",
                f"{self.tile_overlap} px",
                f"use a multiple of {CELL} from 0 to below tile_size {self.tile_size}",
            )
        if self.dim % self.num_heads or self.num_latents % 2 or self.num_latents < 2:
            raise HephError(
                "encoder.dim, num_heads, num_latents",
                f"{self.dim}, {self.num_heads}, {self.num_latents}",
                "num_heads must divide dim, and num_latents be even",
            )


@dataclass
class EncoderOutput:
    """What the encoder sees in B images.

    Attributes:
        tokens: (B, N, D), cells of 16 px row by row; 0 where masked.
        token_mask: (B, N) bool, True where a cell has data in a tile that was looked at.
        token_positions: (B, N, 2) float32, x and y of a cell's centre in [0, 1] of its image.
        grid: Rows and columns of cells, N = rows x columns.
        saliency_logits: (B, N), logit of deformation in the cell; 0 where masked.
        latents: (B, L, D).
        pooled: (B, D), the first latent, which has seen all others.
        tiles: (T, 3) int64: image, tile row, tile column.
        pyramid: Features of the tiles by stride, (T, C, t / stride, t / stride), when asked for.
    """

    tokens: Tensor
    token_mask: Tensor
    token_positions: Tensor
    grid: tuple[int, int]
    saliency_logits: Tensor
    latents: Tensor
    pooled: Tensor
    tiles: Tensor
    pyramid: dict[int, Tensor] | None


class Encoder(OnHub, nn.Module):
    """Images of any size -> tokens, latents and saliency.

    Args:
        config: Its parts.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.backbone,
            config.backbone_options,
            tile_size=config.tile_size,
            norm=config.norm,
            pretrained=config.pretrained,
        )
        self.projection = nn.Linear(self.backbone.channels, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.saliency = nn.Linear(config.dim, 1)  # the 1 x 1 convolution
        self.position = PositionCode(config.dim)
        self.pool = AttentionPool(config.dim, config.num_latents, config.num_heads)

    def forward(
        self,
        pixel_values: Tensor,
        valid: Tensor,
        size: Tensor | None = None,
        *,
        return_pyramid: bool = False,
        consume: Callable[[Tensor, dict[int, Tensor]], None] | None = None,
    ) -> EncoderOutput:
        """Look at a batch of images.

        Args:
            pixel_values: (B, 3, H, W) float32: Re and Im of the phasor, coherence.
            valid: (B, H, W) bool, False where there is no data.
            size: (B, 2) int64, true height and width of each image in the top-left corner of
                the canvas, or None when all fill it. What is outside has no influence.
            return_pyramid: Keep the tiles' features at all strides of the backbone.
            consume: Called with each chunk of tiles (n, 3), in order, and its features at all
                strides (n, C, t / stride, t / stride). Only stride 16 is kept of them, so that
                an image of any size can be segmented in bounded memory.

        Returns:
            Tokens, latents and saliency.
        """
        batch, _, height, width = pixel_values.shape
        tile_size = self.config.tile_size
        stride = tile_size - self.config.tile_overlap
        if size is None:
            size = torch.tensor([[height, width]], device=valid.device).expand(batch, 2)
        valid = valid & inside(size, height, width)
        tiles = choose_tiles(valid, size, tile_size, stride, self.config.min_valid_tile)
        seen = cut_tiles(pixel_values * valid[:, None], tiles, tile_size, stride)
        features = self._look(seen, tiles, return_pyramid, consume)
        cells = self.norm(self.projection(features[CELL].permute(0, 2, 3, 1)))  # (T, n, n, D)
        share = cell_share(valid)
        grid = (share.shape[1], share.shape[2])
        source = nearest_cells(tiles, tile_size // CELL, stride // CELL, batch, grid)
        token_mask = (share.flatten(1) >= self.config.min_valid_cell) & (source >= 0)
        content = cells.flatten(0, 2)[source.clamp(min=0)]  # (B, N, D)
        saliency_logits = self.saliency(content)[..., 0].masked_fill(~token_mask, 0.0)
        positions = cell_positions(size, grid)
        tokens = (content + self.position(positions)).masked_fill(~token_mask[..., None], 0.0)
        latents = self.pool(tokens, token_mask, saliency_logits)
        return EncoderOutput(
            tokens=tokens,
            token_mask=token_mask,
            token_positions=positions,
            grid=grid,
            saliency_logits=saliency_logits,
            latents=latents,
            pooled=latents[:, 0],
            tiles=tiles,
            pyramid=features if return_pyramid else None,
        )

    def _look(
        self,
        seen: Tensor,
        tiles: Tensor,
        pyramid: bool,
        consume: Callable[[Tensor, dict[int, Tensor]], None] | None,
    ) -> dict[int, Tensor]:
        """Features of tiles (T, 3, t, t) by stride; only stride 16 unless `pyramid`."""
        chunk = len(seen) if torch.is_grad_enabled() else self.config.max_tiles_per_forward
        parts: list[dict[int, Tensor]] = []
        for start in range(0, len(seen), chunk):
            features = self.backbone(seen[start : start + chunk])
            if consume is not None:
                consume(tiles[start : start + chunk], features)
            parts.append(features if pyramid else {CELL: features[CELL]})
        return {s: torch.cat([part[s] for part in parts]) for s in parts[0]}

    def fill_from(self, folder: str | Path, sha256: str | None = None) -> None:
        """Take the weights of a saved encoder, alone or inside a saved retriever or other model.

        Args:
            folder: Of `save_pretrained`.
            sha256: The encoder weights that are expected, if it matters which.

        Raises:
            HephError: It is missing, another one, or made otherwise than this one.
        """
        folder = weights.encoder_folder(located(folder))
        encoder = Encoder.from_pretrained(folder, sha256=sha256)
        check_alike(encoder.config, self.config, str(folder))
        weights.fill(self, encoder.state_dict(), folder)

    def save_pretrained(self, folder: str | Path) -> str:
        """Write the encoder to a folder; the sha256 of its weights, its identity."""
        config = replace(self.config, pretrained=None)  # its weights are part of these
        return weights.write_model(folder, "encoder", config, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, sha256: str | None = None, revision: str | None = None
    ) -> "Encoder":
        """Read an encoder from a folder of `save_pretrained`, in evaluation mode.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            sha256: The weights that are expected, if it matters which.
            revision: Branch, tag or commit on the Hub.

        Returns:
            The encoder.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "encoder")
        where = f"{Path(folder) / weights.CONFIG}: config"
        encoder = cls(weights.config_from_dict(EncoderConfig, entries["config"], where))
        state = weights.read_weights(folder, sha256 or entries["weights_sha256"])
        weights.fill(encoder, state, folder)
        return encoder.eval()


def check_alike(saved: EncoderConfig, mine: EncoderConfig, where: str) -> None:
    """Refuse weights that fit another encoder; not all of it shows in the shapes of tensors.

    Args:
        saved: Of the encoder whose weights are taken.
        mine: Of the encoder that takes them.
        where: Where they were saved, for the message.

    Raises:
        HephError: They differ in a part that the weights depend on.
    """
    for name in ("backbone", "backbone_options", "norm", "dim", "num_latents", "num_heads"):
        theirs, ours = getattr(saved, name), getattr(mine, name)
        if theirs != ours:
            what = f"the saved encoder's {name} is {theirs}, the config's {ours}"
            raise HephError(where, what, f"set model.encoder.{name} to {theirs}")


def cell_positions(size: Tensor, grid: tuple[int, int]) -> Tensor:
    """Centres of the cells relative to each image.

    Args:
        size: (B, 2) int64, height and width [px].
        grid: Rows and columns of cells.

    Returns:
        (B, rows * columns, 2) float32: x (to the right) and y (down) in [0, 1].
    """
    y = (torch.arange(grid[0], device=size.device) + 0.5) * CELL / size[:, :1]  # (B, rows)
    x = (torch.arange(grid[1], device=size.device) + 0.5) * CELL / size[:, 1:]  # (B, columns)
    x, y = x[:, None, :].expand(-1, *grid), y[:, :, None].expand(-1, *grid)
    return torch.stack([x, y], dim=-1).flatten(1, 2).clamp(max=1.0)


class PositionCode(nn.Module):
    """Fourier features of positions in [0, 1] (wavelengths 2 to 1/16 of the image) -> (..., D).

    Args:
        dim: D.
    """

    wavenumbers: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("wavenumbers", math.pi * 2.0 ** torch.arange(6), persistent=False)
        self.projection = nn.Linear(4 * len(self.wavenumbers), dim)

    def forward(self, positions: Tensor) -> Tensor:
        """Code (..., D) of positions (..., 2)."""
        angle = (positions[..., None] * self.wavenumbers).flatten(-2)
        code: Tensor = self.projection(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return code


class AttentionPool(nn.Module):
    """Tokens -> latents: learned queries attend to tokens, then to one another.

    The second half of the queries adds the saliency, times a learned factor, to its attention
    logits: a 23 px pattern is 0.05 % of an image and drowns in any mean. The first latent is of the
    other half, which surveys the whole image, and learns of salient places in the second step.

    Args:
        dim: D.
        num_latents: L.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, num_latents: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries = nn.Parameter(torch.randn(num_latents, dim) * 0.02)
        # Always there to attend to: an image may have no valid token, or nothing salient.
        self.nothing = nn.Parameter(torch.randn(dim) * 0.02)
        self.saliency_scale = nn.Parameter(torch.ones(()))
        self.token_norm, self.query_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.cross_out = nn.Linear(dim, dim)
        self.self_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.self_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, token_mask: Tensor, saliency_logits: Tensor) -> Tensor:
        """Latents (B, L, D) of tokens (B, N, D), mask (B, N) bool and saliency (B, N)."""
        batch, num_latents = len(tokens), len(self.queries)
        queries = self.queries.expand(batch, -1, -1)
        keys = torch.cat([self.nothing.expand(batch, 1, -1), tokens], dim=1)
        level = torch.zeros_like(saliency_logits).masked_fill(~token_mask, -math.inf)
        drawn = level + self.saliency_scale * saliency_logits
        bias = F.pad(torch.stack([level, drawn], dim=1), (1, 0))  # (B, 2, 1 + N)
        bias = bias.repeat_interleave(num_latents // 2, dim=1)[:, None]  # (B, 1, L, 1 + N)
        key, value = self.key_value(self.token_norm(keys)).chunk(2, dim=-1)
        seen = self._attend(self.query(self.query_norm(queries)), key, value, bias)
        latents = queries + self.cross_out(seen)
        query, key, value = self.query_key_value(self.self_norm(latents)).chunk(3, dim=-1)
        latents = latents + self.self_out(self._attend(query, key, value, None))
        latents = latents + self.mlp(self.mlp_norm(latents))
        out: Tensor = self.out_norm(latents)
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (self._split(x) for x in (query, key, value))
        if bias is not None:
            bias = bias.to(query.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, heads, L, D / heads)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def saliency_terms(logits: Tensor, token_mask: Tensor, mask: Tensor) -> Tensor:
    """Sums and counts of the saliency's cross-entropy; add them over ranks, then `balanced_mean`.

    Args:
        logits: (B, N) of `EncoderOutput.saliency_logits`.
        token_mask: (B, N) bool; other cells do not count.
        mask: (B, H, W) int64, above 0 where there is deformation; a cell is positive if any
            of its pixels is.

    Returns:
        (2, 2) float32: rows for positive and negative cells; columns sum and count.
    """
    positive = cell_share(mask > 0).flatten(1) > 0
    loss = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="none")
    of_kind = torch.stack([positive & token_mask, ~positive & token_mask]).float()  # (2, B, N)
    return torch.stack([(of_kind * loss).sum((1, 2)), of_kind.sum((1, 2))], dim=1)


def balanced_mean(terms: Tensor) -> Tensor:
    """Mean of the two kinds' mean losses (), float32: under 1 % of the cells are positive.

    A kind that does not occur adds 0, so that half the loss is missing rather than doubled.
    """
    return (terms[:, 0] / terms[:, 1].clamp(min=1)).mean()
