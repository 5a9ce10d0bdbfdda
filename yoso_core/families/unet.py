"""What the families around a ``UNet2DConditionModel`` have in common."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import Checkpoint, ModelError, config_of, refuse_absent, refuse_missing_weights
from yoso_core.condition import Condition

# Attention projections, feed-forward, resnet convolutions, shortcuts, samplers and time-embedding projections.
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
SAME = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")  # in a ControlNet and its UNet


def resolution(folder: Path) -> int | None:
    """Side in pixels of the pictures that a folder's networks were made for; None where their configs don't say."""
    try:
        levels, side = len(config_of(folder / "vae")["block_out_channels"]), config_of(folder / "unet")["sample_size"]
        return int(min(side) if isinstance(side, list) else side) * 2 ** (levels - 1)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def refuse_incomplete(files: Checkpoint, parts: Mapping[str, Any]) -> None:
    """
    Raises:
        ModelError: a part is not there, or not all of its weights.
    """
    refuse_absent(files, parts)
    for name in ("unet", "vae"):
        refuse_missing_weights(f"The {name} of {files.title}", parts[name])


def misfit(parts: Mapping[str, Any]) -> str:
    """Why network, autoencoder and scheduler don't go together, in words; "" if they do."""
    network, scheduler, channels = parts["unet"].config, parts["scheduler"], parts["vae"].config.latent_channels
    if not network.get("in_channels") == network.get("out_channels") == channels:
        takes, gives = network.get("in_channels"), network.get("out_channels")
        return f"latents have {channels} channels, its network takes {takes} and gives {gives}"
    if not {"beta_schedule", "trained_betas"} & set(scheduler.config):
        return f"its scheduler, {type(scheduler).__name__}, has no betas"
    return "" if parts["vae"].config.scaling_factor else "its autoencoder has no scaling factor"


def predict(
    unet: Callable[..., Any],
    noisy: Tensor,
    t: Tensor,
    condition: Condition,
    residuals: Sequence[Tensor] = (),
    **more: Any,
) -> Tensor:
    """The bare output (B, C, h, w) of a ``UNet2DConditionModel``, or of a module that is called the same way."""
    if residuals:
        more |= {"down_block_additional_residuals": residuals[:-1], "mid_block_additional_residual": residuals[-1]}
    return unet(noisy, t, encoder_hidden_states=condition.context, return_dict=False, **more)[0]


def follow(
    control: Callable[..., Any], noisy: Tensor, t: Tensor, condition: Condition, given: Tensor, **more: Any
) -> tuple[Tensor, ...]:
    """What a ``ControlNetModel`` adds at strength 1."""
    down, middle = control(
        noisy,
        t,
        encoder_hidden_states=condition.context,
        controlnet_cond=given,
        conditioning_scale=1.0,
        return_dict=False,
        **more,
    )
    return (*down, middle)


def check_control(title: str, control: nn.Module, model: Any, extra: Sequence[str]) -> None:
    """See whether a ControlNet is made for a UNet and its autoencoder.

    Args:
        extra: settings of what it wants beside a prompt and a map, none of which may be set.

    Raises:
        ModelError: it is not.
    """
    unet, own = model.network.config, control.config
    for name in SAME:
        if own[name] != unet[name]:
            raise ModelError(
                f"{title} is for another model: its {name} is {own[name]}, that of {model.spec.title} is {unet[name]}."
            )
    if 2 ** (len(own.conditioning_embedding_out_channels) - 1) != model.pixels_per_latent:
        raise ModelError(f"{title} is for another autoencoder than that of {model.spec.title}.")
    wanting = [name for name in extra if own[name] is not None]
    if own["conditioning_channels"] != 3:
        wanting.append("conditioning_channels")
    if wanting:
        raise ModelError(f"{title} wants something else than a prompt and an RGB map ({wanting[0]}).")


class UNetEncoder(nn.Module):
    """A copy of the down and middle blocks of a UNet, as a feature extractor.

    Args:
        unet: the pretrained network; it is copied, without its up blocks.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.time_proj = copy.deepcopy(unet.time_proj)
        self.time_embedding = copy.deepcopy(unet.time_embedding)
        self.conv_in = copy.deepcopy(unet.conv_in)
        self.down_blocks = copy.deepcopy(unet.down_blocks)
        self.mid_block = copy.deepcopy(unet.mid_block)
        self.features, self.groups = unet.config.block_out_channels[-1], unet.config.norm_num_groups

    def embedding(self, latent: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What tells the blocks the time, (B, E)."""
        return self.time_embedding(self.time_proj(t).to(latent.dtype))

    def forward(self, latent: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """latent (B, C, h, w), t (B,), condition of B rows -> middle-block features (B, F, h', w')."""
        embedding = self.embedding(latent, t, condition)
        hidden, context = self.conv_in(latent), condition.context
        for block in self.down_blocks:
            attends = getattr(block, "has_cross_attention", False)
            hidden, _ = block(hidden, embedding, **({"encoder_hidden_states": context} if attends else {}))
        return self.mid_block(hidden, embedding, encoder_hidden_states=context)


def tokens_by_batch(texts: Sequence[str], tokenizer: Any, device: torch.device) -> Iterator[Tensor]:
    """Texts as a Stable Diffusion pipeline hands them to its encoder: padded or cut to L tokens, (up to 512, L)."""
    for start in range(0, len(texts), 512):
        yield tokenizer(
            list(texts[start : start + 512]),
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids.to(device)


@torch.no_grad()
def clip_texts(texts: Sequence[str], tokenizer: Any, text_encoder: nn.Module) -> Tensor:
    """Texts as a Stable Diffusion pipeline encodes them: last hidden state, (N, L, D) float32 on the CPU."""
    return torch.cat(
        [text_encoder(tokens)[0].float().cpu() for tokens in tokens_by_batch(texts, tokenizer, text_encoder.device)]
    )
