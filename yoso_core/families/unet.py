"""What the families around a ``UNet2DConditionModel`` have in common."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import ModelError
from yoso_core.condition import Condition

# Attention projections, feed-forward, resnet convolutions, shortcuts, samplers and time-embedding projections.
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
SAME = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")  # in a ControlNet and its UNet


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


@torch.no_grad()
def clip_texts(texts: Sequence[str], tokenizer: Any, text_encoder: nn.Module) -> Tensor:
    """Texts as a Stable Diffusion pipeline encodes them: padded to L tokens, last hidden state, (N, L, D) float32 on
    the CPU.
    """
    found = []
    for start in range(0, len(texts), 512):
        tokens = tokenizer(
            list(texts[start : start + 512]),
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        found.append(text_encoder(tokens.to(text_encoder.device))[0].float().cpu())
    return torch.cat(found)
