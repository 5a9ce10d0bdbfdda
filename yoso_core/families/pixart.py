"""PixArt-alpha: a transformer on patches of a latent that reads T5's encoding, and its one-step YOSO fine-tunes.

Its condition is T5's last hidden states of 120 tokens with their mask and, of networks for 1024 pixels, the height, the
width and height / width of the picture. The network returns twice as many channels as a latent has; the second half was
to be a variance, and nobody uses it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import (
    Checkpoint,
    ModelError,
    config_of,
    refuse_absent,
    refuse_missing_weights,
)
from yoso_core.condition import Condition
from yoso_core.encoding import tokens_of, weighted
from yoso_core.families.base import Encoded, Family, Model, Outline, Read
from yoso_core.families.shapes import MEGAPIXEL, nearest
from yoso_core.families.texts import encodings
from yoso_core.prompts import Prompt, Span, as_it_is

TOKENS = 120  # of a prompt, as it was trained (arXiv 2310.00426, section 3.1)
SHAPES = {128: MEGAPIXEL, 64: "ASPECT_RATIO_512_BIN", 32: "ASPECT_RATIO_256_BIN"}  # by the latent's side
MASKED = -10_000.0  # added to the attention that padding gets, as the network itself has it
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "adaln_single.linear", "proj_out")


class PixArt(Family):
    """The text encoder is none of its `encoders`: it comes and goes, see `Encodings`."""

    name = "pixart"
    diffusers = "PixArtAlphaPipeline"
    network = "transformer"
    encoders = ()
    adapted = ("transformer",)
    targets = TARGETS
    unit = 16

    def outline(self, folder: Path) -> Outline:
        try:
            levels = len(config_of(folder / "vae")["block_out_channels"])
            return Outline(int(config_of(folder / "transformer")["sample_size"]) * 2 ** (levels - 1), self.name)
        except (KeyError, TypeError, ValueError, OverflowError):
            return Outline(kind=self.name)

    def load(self, files: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
        from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel  # seconds to import
        from transformers import T5EncoderModel

        pipeline = files.part(
            PixArtAlphaPipeline.from_pretrained,
            text_encoder=None,
            dtype=dtype,
            low_cpu_mem_usage=True,
            **files.apart(PixArtTransformer2DModel, "transformer", dtype),
        )
        parts = {name: getattr(pipeline, name) for name in ("transformer", "vae", "tokenizer", "scheduler")}
        _refuse_what_does_not_fit(files, parts)
        return parts | {"encodings": encodings(files, T5EncoderModel, dtype, _read)}

    def pipeline(self, parts: Mapping[str, Any]) -> Any:
        from diffusers import PixArtAlphaPipeline

        return PixArtAlphaPipeline(
            **{name: part for name, part in parts.items() if name != "encodings"}, text_encoder=None
        )

    def encode(self, model: Model, prompt: Prompt, read: Read) -> Encoded:
        """As diffusers reads a prompt whose caption it does not clean: in lower case."""
        rows = [
            tokens_of(tuple(Span(span.text.lower(), span.weight) for span in part), model.parts["tokenizer"], TOKENS)
            for part in prompt.parts
        ]
        masks = [_mask(row.ids, model.parts["tokenizer"]) for row in rows]
        found = [
            weighted(model.parts["encodings"](row.ids, mask, model.device), row.weights)
            for row, mask in zip(rows, masks, strict=True)
        ]
        cut = " ".join(filter(None, (row.cut for row in rows)))
        return Encoded(Condition(torch.cat(found, dim=1), torch.cat(masks, dim=1)), cut)

    def encode_texts(self, model: Model, texts: Sequence[str]) -> Condition:
        tokenizer = model.parts["tokenizer"]
        tokens = torch.cat([tokens_of(as_it_is(text.lower()).parts[0], tokenizer, TOKENS).ids for text in texts])
        mask = _mask(tokens, tokenizer)
        return Condition(model.parts["encodings"](tokens, mask, model.device).float(), mask)

    def at_size(self, model: Model, condition: Condition, size: tuple[int, int]) -> Condition:
        """With height, width and height / width, where the network was trained with them."""
        if not model.parts["transformer"].use_additional_conditions:
            return condition
        (width, height), context = size, condition.context
        sizes = torch.tensor([[height, width, height / width]]).to(context).expand(len(condition), -1)
        return replace(condition, sizes=sizes)

    def shape(self, model: Model, size: tuple[int, int]) -> tuple[int, int]:
        return nearest(SHAPES.get(model.parts["transformer"].config.sample_size), size)

    def predict(
        self, network: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()
    ) -> Tensor:
        output = network(
            noisy,
            encoder_hidden_states=condition.context,
            timestep=t,
            added_cond_kwargs=_told(condition),
            encoder_attention_mask=condition.mask,
            return_dict=False,
        )[0]
        return output[:, : noisy.shape[1]]

    def is_apart(self, network: nn.Module, shape: tuple[int, ...]) -> bool:
        """Those of its own shape: positions of their patches are kept and not computed."""
        return shape[-2:] == (network.config.sample_size,) * 2

    def patch(self, network: nn.Module) -> int:
        return network.config.patch_size

    def encoder(self, network: nn.Module) -> nn.Module:
        return HalfTransformer(network)


class HalfTransformer(nn.Module):
    """A copy of the first half of a transformer's blocks, as a feature extractor.

    Args:
        network: a ``PixArtTransformer2DModel``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.pos_embed, self.adaln_single = copy.deepcopy(network.pos_embed), copy.deepcopy(network.adaln_single)
        self.caption_projection = copy.deepcopy(network.caption_projection)
        self.blocks = copy.deepcopy(network.transformer_blocks[: max(1, len(network.transformer_blocks) // 2)])
        self.patch, self.features = network.config.patch_size, network.inner_dim
        self.groups = network.config.num_attention_heads

    def forward(self, latent: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """latent (B, C, h, w), t (B,), condition of B rows -> features of patches (B, F, h', w')."""
        height, width = (side // self.patch for side in latent.shape[2:])
        hidden, context, bias = self.pos_embed(latent), condition.context, None
        time, _ = self.adaln_single(t, _told(condition), batch_size=len(latent), hidden_dtype=hidden.dtype)
        if self.caption_projection is not None:
            context = self.caption_projection(context)
        if condition.mask is not None:
            bias = (1 - condition.mask.to(hidden.dtype))[:, None] * MASKED
        for block in self.blocks:
            hidden = block(hidden, encoder_hidden_states=context, encoder_attention_mask=bias, timestep=time)
        return hidden.transpose(1, 2).unflatten(2, (height, width))


def _told(condition: Condition) -> dict[str, Tensor | None]:
    """What the network is told of the picture's size, by the names that diffusers has for it."""
    if condition.sizes is None:
        return {"resolution": None, "aspect_ratio": None}
    return {"resolution": condition.sizes[:, :2], "aspect_ratio": condition.sizes[:, 2:]}


def _read(encoder: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    return encoder(tokens, attention_mask=mask)[0]


def _mask(tokens: Tensor, tokenizer: Any) -> Tensor:
    """(B, L) bool: which tokens are none of the padding behind them; a "<pad>" that somebody typed is no padding."""
    return (tokens != tokenizer.pad_token_id).flip(1).cumsum(1).flip(1) > 0


def _refuse_what_does_not_fit(files: Checkpoint, parts: Mapping[str, Any]) -> None:
    """The parts must be there, whole, fit each other, and be of this family.

    Raises:
        ModelError: they are not; one sentence says how.
    """
    refuse_absent(files, parts)
    for name in ("transformer", "vae"):
        refuse_missing_weights(f"The {name} of {files.title}", parts[name])
    network, scheduler, channels = parts["transformer"].config, parts["scheduler"], parts["vae"].config.latent_channels
    width = config_of(Path(files.place) / "text_encoder").get("d_model")
    gives = network.get("out_channels") or network.in_channels
    if network.get("norm_type") != "ada_norm_single":
        reason = "its transformer is of another kind"
    elif network.in_channels != channels or gives not in (channels, 2 * channels):
        reason = f"latents have {channels} channels, its network takes {network.in_channels} and gives {gives}"
    elif network.caption_channels != width:
        reason = f"its network reads prompts of width {network.caption_channels}, its text encoder writes {width}"
    elif not {"beta_schedule", "trained_betas"} & set(scheduler.config):
        reason = f"its scheduler, {type(scheduler).__name__}, has no betas"
    elif not parts["vae"].config.scaling_factor:
        reason = "its autoencoder has no scaling factor"
    else:
        return
    raise ModelError(f"{files.title} is not a PixArt model that can be used here: {reason}.")
