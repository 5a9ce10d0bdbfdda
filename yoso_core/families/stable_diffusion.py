"""Stable Diffusion 1.5 and 2, their fine-tunes, SD-Turbo, and the bundled models: a UNet that reads CLIP's encoding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import Checkpoint, ModelError, config_of, load_text_encoder
from yoso_core.condition import Condition
from yoso_core.encoding import encode_prompt
from yoso_core.families import unet
from yoso_core.families.base import Encoded, Family, Model, Outline, Read
from yoso_core.prompts import Prompt

KINDS = {192: "yoso-emoji", 768: "sd15", 1024: "sd2"}  # by the width of the prompt's encoding
EXTRA = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim")  # of other UNets
UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}


class StableDiffusion(Family):
    """Its condition is the context alone: CLIP's last hidden states, (B, L, D)."""

    name = "stable-diffusion"
    alike = ("StableDiffusionImg2ImgPipeline", "LatentConsistencyModelPipeline")
    targets = unet.TARGETS

    def outline(self, folder: Path) -> Outline:
        kind = KINDS.get(config_of(folder / "unet").get("cross_attention_dim"), "")
        return Outline(unet.resolution(folder), kind)

    def load(self, files: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel  # seconds to import, so not at once
        from transformers import CLIPTextModel

        text_encoder = load_text_encoder(files, CLIPTextModel, "text_encoder", dtype)
        pipeline = files.part(
            StableDiffusionPipeline.from_pretrained,
            text_encoder=text_encoder,
            dtype=dtype,
            low_cpu_mem_usage=True,
            **files.apart(UNet2DConditionModel, "unet", dtype),
            **UNCHECKED,
        )
        parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
        _refuse_what_does_not_fit(files, parts)
        return parts

    def pipeline(self, parts: Mapping[str, Any]) -> Any:
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(**parts, feature_extractor=None, **UNCHECKED)

    def encode(self, model: Model, prompt: Prompt, read: Read) -> Encoded:
        context, cut = encode_prompt(prompt, model.parts["tokenizer"], lambda tokens: read("text_encoder", tokens)[0])
        return Encoded(Condition(context), cut)

    def encode_texts(self, model: Model, texts: Sequence[str]) -> Condition:
        return Condition(unet.clip_texts(texts, model.parts["tokenizer"], model.parts["text_encoder"]))

    def read(self, part: str, encoder: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B, L) int64 -> (B, L, D)."""
        return (encoder(*inputs)[0],)

    def predict(
        self, network: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()
    ) -> Tensor:
        return unet.predict(network, noisy, t, condition, residuals)

    def halvings(self, network: nn.Module) -> int:
        return network.num_upsamplers

    def follow(
        self, control: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, given: Tensor
    ) -> tuple[Tensor, ...]:
        return unet.follow(control, noisy, t, condition, given)

    def check_control(self, title: str, control: nn.Module, model: Model) -> None:
        unet.check_control(title, control, model, EXTRA)

    def encoder(self, network: nn.Module) -> nn.Module:
        return unet.UNetEncoder(network)


def _refuse_what_does_not_fit(files: Checkpoint, parts: Mapping[str, Any]) -> None:
    """The parts must be there, whole, fit each other, and be of this family.

    Raises:
        ModelError: they are not; one sentence says how.
    """
    unet.refuse_incomplete(files, parts)
    network = parts["unet"].config
    wanting = [name for name in EXTRA if network.get(name) is not None]
    width, read = parts["text_encoder"].config.hidden_size, network.get("cross_attention_dim")
    limit = parts["text_encoder"].config.max_position_embeddings
    given = parts["tokenizer"].model_max_length
    if wanting:
        reason = f"its network wants more than a prompt ({wanting[0]})"
    elif read != width:
        reason = f"its network reads prompts of width {read}, its text encoder writes {width}"
    elif not 2 <= given <= limit:
        reason = f"its text encoder takes {limit} tokens, its tokenizer gives {given:.3g}"
    elif not (reason := unet.misfit(parts)):
        return
    raise ModelError(f"{files.title} is not a Stable Diffusion model that can be used here: {reason}.")
