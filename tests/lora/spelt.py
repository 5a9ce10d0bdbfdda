"""Tiny networks in the layouts of Stable Diffusion, and LoRAs for them as programs spell them."""

import re
from collections.abc import Callable, Mapping

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

RANK, ALPHA = 4, 3.0
Pairs = dict[tuple[str, str], tuple[Tensor, Tensor]]  # A and B by part and module


def build_text_encoder(kind=CLIPTextModel) -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 24}
    depth = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16, "vocab_size": 99}
    return kind(CLIPTextConfig(**sizes, **depth)).requires_grad_(False)


def build_unet(large: bool) -> UNet2DConditionModel:
    """With attention in the first and in the last block, and an up block without, as Stable Diffusion has them."""
    xl = {"use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    xl |= {"projection_class_embeddings_input_dim": 72, "transformer_layers_per_block": (1, 2)}
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D") if large else ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D") if large else ("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
        **(xl if large else {}),
    ).requires_grad_(False)


def build_parts(large: bool) -> dict[str, nn.Module]:
    """The networks of Stable Diffusion 1.5, or XL, that a LoRA may change."""
    torch.manual_seed(0)
    parts = {"unet": build_unet(large), "text_encoder": build_text_encoder()}
    return parts | ({"text_encoder_2": build_text_encoder(CLIPTextModelWithProjection)} if large else {})


def pipeline(parts: Mapping[str, nn.Module]) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """What diffusers loads LoRAs into."""
    shared = {"vae": None, "tokenizer": None, "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1), **parts}
    if "text_encoder_2" in parts:
        return StableDiffusionXLPipeline(**shared, tokenizer_2=None)
    return StableDiffusionPipeline(**shared, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


ALL = ""
ATTENTION = r"(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$"
TRAINED = r"^(?!add_embedding)"  # no trainer calls the layers of SDXL's size conditions what kohya's would be called


def random_pairs(parts: Mapping[str, nn.Module], wanted: str = ALL) -> Pairs:
    """A LoRA for every linear layer and convolution whose name `wanted` is found in."""
    torch.manual_seed(1)
    pairs = {}
    for part, network in parts.items():
        for name, module in network.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and re.search(wanted, name):
                out, into, *kernel = module.weight.shape
                down = 0.3 * torch.randn(RANK, into, *kernel)
                pairs[part, name] = down, 0.3 * torch.randn(out, RANK, *[1] * len(kernel))
    return pairs


def with_text_model(name: str) -> str:
    """A module of a text encoder as all files have it; transformers 5 calls that of one model differently."""
    name = name.removeprefix("text_model.")
    return name if name == "text_projection" else f"text_model.{name}"


def by_part(pairs: Pairs, spell: Callable[[str, str], str], halves=("lora_A.weight", "lora_B.weight")) -> dict:
    """A and B of each pair under ``spell(part, module)`` and what stands for each half."""
    return {
        f"{spell(part, name)}.{half}": tensor.clone()
        for (part, name), pair in pairs.items()
        for half, tensor in zip(halves, pair, strict=True)
    }


def diffusers_name(part: str, name: str) -> str:
    return f"{part}.{name if part == 'unet' else with_text_model(name)}"


def as_diffusers(pairs: Pairs) -> dict[str, Tensor]:
    return by_part(pairs, diffusers_name)


def as_kohya(pairs: Pairs, text_encoder: str = "lora_te_", module=lambda name: name) -> dict[str, Tensor]:
    """As sd-scripts does, with an alpha for every pair.

    Args:
        pairs: the LoRA.
        text_encoder: what stands before modules of the first text encoder.
        module: what a module of the UNet is called.
    """

    def spell(part: str, name: str) -> str:
        prefix = {"unet": "lora_unet_", "text_encoder": text_encoder, "text_encoder_2": "lora_te2_"}[part]
        return prefix + (module(name) if part == "unet" else with_text_model(name)).replace(".", "_")

    tensors = by_part(pairs, spell, ("lora_down.weight", "lora_up.weight"))
    return tensors | {f"{spell(*place)}.alpha": torch.tensor(ALPHA) for place in pairs}


def as_kohya_by_diffusers(pairs: Pairs) -> dict[str, Tensor]:
    """By diffusers' own converter, whose alphas are whole numbers."""
    return convert_state_dict_to_kohya(as_diffusers(pairs))


def as_old_processors(pairs: Pairs) -> dict[str, Tensor]:
    """As diffusers saved the processors of attention, and text encoders the same way."""

    def spell(part: str, name: str) -> str:
        attention, _, projection = diffusers_name(part, name).removesuffix(".0").rpartition(".")
        processor = ".processor" if part == "unet" else ""
        letter = "to_" + projection.removeprefix("to_").removesuffix("_proj")
        return f"{attention}{processor}.{letter}_lora"

    return by_part(pairs, spell, ("down.weight", "up.weight"))


def as_old_layers(pairs: Pairs) -> dict[str, Tensor]:
    """As diffusers saved layers, just before peft."""
    unet = {place: pair for place, pair in pairs.items() if place[0] == "unet"}
    others = {place: pair for place, pair in pairs.items() if place[0] != "unet"}
    return by_part(unet, diffusers_name, ("lora.down.weight", "lora.up.weight")) | by_part(
        others, diffusers_name, ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
    )


def ldm_name(name: str) -> str:
    """A module of the large UNet as the first implementation numbers it, written down block by block."""
    first = {
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.resnets.1": "input_blocks.2.0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.1.resnets.0": "input_blocks.4.0",
        "down_blocks.1.attentions.0": "input_blocks.4.1",
        "down_blocks.1.resnets.1": "input_blocks.5.0",
        "down_blocks.1.attentions.1": "input_blocks.5.1",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        **{f"up_blocks.0.resnets.{n}": f"output_blocks.{n}.0" for n in range(3)},
        **{f"up_blocks.0.attentions.{n}": f"output_blocks.{n}.1" for n in range(3)},
        "up_blocks.0.upsamplers.0": "output_blocks.2.2",
        **{f"up_blocks.1.resnets.{n}": f"output_blocks.{3 + n}.0" for n in range(3)},
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
    }
    inner = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    inner["conv_shortcut"] = "skip_connection"
    block = next(block for block in first if name == block or name.startswith(f"{block}."))
    rest = name.removeprefix(block).removeprefix(".")
    return ".".join(filter(None, (first[block], inner.get(rest, rest))))


def expected(parts: Mapping[str, nn.Module], pairs: Pairs, scale: float) -> dict[tuple[str, str], Tensor]:
    """W_0 + scale B A by part and parameter."""
    return {
        (part, f"{name}.weight"): parts[part].get_submodule(name).weight
        + scale * (up.flatten(1) @ down.flatten(1)).view_as(parts[part].get_submodule(name).weight)
        for (part, name), (down, up) in pairs.items()
    }
