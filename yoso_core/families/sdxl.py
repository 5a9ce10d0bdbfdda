"""Stable Diffusion XL, its fine-tunes, and what was distilled from it to few steps (arXiv 2307.01952).

Two text encoders are read next to each other; the network is also told the prompt as one vector, and the size and crop
of the picture.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import Checkpoint, ModelError, load_text_encoder
from yoso_core.condition import Condition
from yoso_core.encoding import encode_prompt
from yoso_core.families import unet
from yoso_core.families.base import Encoded, Family, Model, Outline, Read
from yoso_core.prompts import Prompt

ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
NUMBERS = 6  # of `size_conditions`
EXTRA = ("class_embed_type", "num_class_embeds", "encoder_hid_dim")  # of other UNets


class StableDiffusionXL(Family):
    """Its condition: the last hidden states but one of both encoders (B, L, D_1 + D_2), the second one's projection of
    the prompt (B, P), and `size_conditions` (B, 6).
    """

    name = "sdxl"
    diffusers = "StableDiffusionXLPipeline"
    alike = ("StableDiffusionXLImg2ImgPipeline",)
    encoders = ENCODERS
    adapted = ("unet", *ENCODERS)
    targets = unet.TARGETS

    def outline(self, folder: Path) -> Outline:
        return Outline(unet.resolution(folder), "sdxl")

    def load(self, files: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
        from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel  # seconds to import, so not at once
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        readers = {
            name: load_text_encoder(files, kind, name, dtype)
            for name, kind in zip(ENCODERS, (CLIPTextModel, CLIPTextModelWithProjection), strict=True)
        }
        pipeline = files.part(
            StableDiffusionXLPipeline.from_pretrained,
            dtype=dtype,
            low_cpu_mem_usage=True,
            add_watermarker=False,
            **readers,
            **files.apart(UNet2DConditionModel, "unet", dtype),
        )
        parts = {name: getattr(pipeline, name) for name in ("unet", "vae", *ENCODERS, *TOKENIZERS, "scheduler")}
        _refuse_what_does_not_fit(files, parts)
        if dtype == torch.float16 and parts["vae"].config.force_upcast:
            parts["vae"].to(torch.float32)  # its activations go beyond the largest float16
        return parts

    def pipeline(self, parts: Mapping[str, Any]) -> Any:
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline(**parts, add_watermarker=False)

    def encode(self, model: Model, prompt: Prompt, read: Read) -> Encoded:
        contexts, pooled, cut = [], [], ""
        for encoder, tokenizer in zip(ENCODERS, TOKENIZERS, strict=True):

            def encode(tokens: Tensor, encoder: str = encoder) -> Tensor:
                context, *more = read(encoder, tokens)
                pooled.extend(more)
                return context

            context, cut = encode_prompt(prompt, model.parts[tokenizer], encode)
            contexts.append(context)
        return Encoded(Condition(torch.cat(contexts, -1), pooled=pooled[0]), cut)  # of the first part, as is usual

    @torch.no_grad()
    def encode_texts(self, model: Model, texts: Sequence[str]) -> Condition:
        contexts, pooled = [], []
        for encoder, tokenizer in zip(ENCODERS, TOKENIZERS, strict=True):
            found = [
                [value.float().cpu() for value in self.read(encoder, model.parts[encoder], tokens)]
                for tokens in unet.tokens_by_batch(texts, model.parts[tokenizer], model.parts[encoder].device)
            ]
            context, *more = (torch.cat(values) for values in zip(*found, strict=True))
            contexts.append(context)
            pooled += more
        return Condition(torch.cat(contexts, -1), pooled=pooled[0])

    def read(self, part: str, encoder: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B, L) int64 -> (B, L, D); of the second encoder also (B, P)."""
        made = encoder(*inputs, output_hidden_states=True)
        return (made.hidden_states[-2], *([made.text_embeds] if part == ENCODERS[1] else []))

    def at_size(self, model: Model, condition: Condition, size: tuple[int, int]) -> Condition:
        sizes = size_conditions(size).to(condition.context)
        return Condition(**condition.tensors | {"sizes": sizes.expand(len(condition), -1)})

    def predict(
        self, network: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()
    ) -> Tensor:
        return unet.predict(network, noisy, t, condition, residuals, added_cond_kwargs=_added(condition))

    def halvings(self, network: nn.Module) -> int:
        return network.num_upsamplers

    def follow(
        self, control: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, given: Tensor
    ) -> tuple[Tensor, ...]:
        return unet.follow(control, noisy, t, condition, given, added_cond_kwargs=_added(condition))

    def check_control(self, title: str, control: nn.Module, model: Model) -> None:
        unet.check_control(title, control, model, EXTRA)

    def encoder(self, network: nn.Module) -> nn.Module:
        return XLEncoder(network)


def size_conditions(size: tuple[int, int]) -> Tensor:
    """(1, 6): height and width of a picture before it was cropped, where that began, and height and width after.

    What is drawn was never another size.

    Args:
        size: width and height in pixels.
    """
    width, height = size
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


def _added(condition: Condition) -> dict[str, Tensor]:
    """What diffusers' networks call the conditions beside the context."""
    return {"text_embeds": condition.pooled, "time_ids": condition.sizes}


class XLEncoder(unet.UNetEncoder):
    """The blocks are told the conditions together with the time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.add_time_proj, self.add_embedding = (
            copy.deepcopy(module) for module in (network.add_time_proj, network.add_embedding)
        )

    def embedding(self, latent: Tensor, t: Tensor, condition: Condition) -> Tensor:
        sizes = self.add_time_proj(condition.sizes.flatten()).view(len(latent), -1)
        told = torch.cat([condition.pooled, sizes.to(condition.pooled)], -1)
        return super().embedding(latent, t, condition) + self.add_embedding(told.to(latent.dtype))


def _refuse_what_does_not_fit(files: Checkpoint, parts: Mapping[str, Any]) -> None:
    """The parts must be there, whole, fit each other, and be of this family.

    Raises:
        ModelError: they are not; one sentence says how.
    """
    unet.refuse_incomplete(files, parts)
    network = parts["unet"].config
    widths = [parts[name].config.hidden_size for name in ENCODERS]
    told = NUMBERS * (network.get("addition_time_embed_dim") or 0) + parts[ENCODERS[1]].config.projection_dim
    takes = network.get("projection_class_embeddings_input_dim")
    rooms = [parts[name].model_max_length for name in TOKENIZERS]
    limit = min(parts[name].config.max_position_embeddings for name in ENCODERS)
    if (kind := network.get("addition_embed_type")) != "text_time":
        reason = f"its network is told {kind or 'nothing'} beside the prompt, and not text_time"
    elif wanting := [name for name in EXTRA if network.get(name) is not None]:
        reason = f"its network wants more than a prompt ({wanting[0]})"
    elif network.get("cross_attention_dim") != sum(widths):
        reads = network.get("cross_attention_dim")
        reason = f"its network reads prompts of width {reads}, its text encoders write {widths[0]} and {widths[1]}"
    elif takes != told:
        reason = f"its network takes {takes} numbers on prompt and size, there are {told}"
    elif not (rooms[0] == rooms[1] and 2 <= rooms[0] <= limit):
        reason = f"its text encoders take {limit} tokens, its tokenizers give {rooms[0]:.3g} and {rooms[1]:.3g}"
    elif not (reason := unet.misfit(parts)):
        return
    raise ModelError(f"{files.title} is not a Stable Diffusion XL model that can be used here: {reason}.")
