"""Stable Diffusion 1.5 and 2, their fine-tunes, SD-Turbo, and the bundled models: a UNet that reads CLIP's encoding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import Checkpoint, ModelError, config_of, refuse_missing_weights
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
    targets = unet.TARGETS
    guides = translates = True

    def outline(self, folder: Path) -> Outline:
        config = config_of(folder / "unet")
        kind = KINDS.get(config.get("cross_attention_dim"), "")
        try:
            levels, side = len(config_of(folder / "vae")["block_out_channels"]), config["sample_size"]
            return Outline(int(min(side) if isinstance(side, list) else side) * 2 ** (levels - 1), kind)
        except (KeyError, TypeError, ValueError, OverflowError):
            return Outline(kind=kind)

    def load(self, files: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
        from diffusers import StableDiffusionPipeline  # seconds to import, so not at import time
        from transformers import CLIPTextModel

        # By itself, because only so transformers tells which weights the files lack; it makes those up.
        text_encoder, told = files.part(
            CLIPTextModel.from_pretrained, "text_encoder", dtype=dtype, output_loading_info=True
        )
        if missing := sorted(told["missing_keys"]):
            raise ModelError(
                f"The text encoder of {files.title} lacks the weights {missing[0]}; its files are incomplete."
            )
        pipeline = files.part(
            StableDiffusionPipeline.from_pretrained,
            text_encoder=text_encoder,
            dtype=dtype,
            low_cpu_mem_usage=True,
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
    if absent := [name for name, part in parts.items() if part is None]:
        raise ModelError(f"The folder {files.place} is not a whole diffusers model ({absent[0]} is missing).")
    for name in ("unet", "vae"):
        refuse_missing_weights(f"The {name} of {files.title}", parts[name])
    network, scheduler = parts["unet"].config, parts["scheduler"]
    channels = parts["vae"].config.latent_channels
    wanting = [name for name in EXTRA if network.get(name) is not None]
    width, read = parts["text_encoder"].config.hidden_size, network.get("cross_attention_dim")
    limit = parts["text_encoder"].config.max_position_embeddings
    given = parts["tokenizer"].model_max_length
    if wanting:
        reason = f"its network wants more than a prompt ({wanting[0]})"
    elif not network.get("in_channels") == network.get("out_channels") == channels:
        takes, gives = network.get("in_channels"), network.get("out_channels")
        reason = f"latents have {channels} channels, its network takes {takes} and gives {gives}"
    elif read != width:
        reason = f"its network reads prompts of width {read}, its text encoder writes {width}"
    elif not 2 <= given <= limit:
        reason = f"its text encoder takes {limit} tokens, its tokenizer gives {given:.3g}"
    elif not {"beta_schedule", "trained_betas"} & set(scheduler.config):
        reason = f"its scheduler, {type(scheduler).__name__}, has no betas"
    elif not parts["vae"].config.scaling_factor:
        reason = "its autoencoder has no scaling factor"
    else:
        return
    raise ModelError(f"{files.title} is not a Stable Diffusion model that can be used here: {reason}.")
