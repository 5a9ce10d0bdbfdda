"""Layouts in their real sizes, without a number in them: as many weights, so named and shaped, as published files have.

What is known of the files: their bytes as hubs list them, to the digits that they give, and names of what tells the
architectures from others.
"""

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)

from benchmarks import pixart, sana, sd15, sdxl

SDXS = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": None,
    "layers_per_block": 1,
    "cross_attention_dim": 768,
}
SMALL, LARGE, XL, OLD = sana.layout("0.6b"), sana.layout("1.6b"), sdxl.layout(False), sd15.layout(False)
PIXART = pixart.layout(False)
FILES = [  # kind, config, gigabytes of the file, bytes a number in it, a weight and its shape
    (
        UNet2DConditionModel,
        OLD["unet"],
        3.44,
        4,
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        (1280, 768),
    ),
    (CLIPTextModel, OLD["text_encoder"], 0.492, 4, None, None),
    (AutoencoderKL, OLD["vae"], 0.335, 4, "encoder.conv_out.weight", (8, 512, 3, 3)),
    (UNet2DConditionModel, XL["unet"], 10.3, 4, "add_embedding.linear_1.weight", (1280, 2816)),
    (CLIPTextModelWithProjection, XL["text_encoder_2"], 2.78, 4, "text_projection.weight", (1280, 1280)),
    (
        UNet2DConditionModel,
        SDXS,
        1.26,
        4,
        "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight",
        (1280, 1280),
    ),
    (AutoencoderTiny, {}, 0.00979, 4, "decoder.layers.0.weight", (64, 4, 3, 3)),
    (PixArtTransformer2DModel, PIXART["transformer"], None, 4, "caption_projection.linear_1.weight", (1152, 4096)),
    (
        T5EncoderModel,
        PIXART["text_encoder"],
        9.52,
        2,
        "encoder.block.23.layer.1.DenseReluDense.wi_1.weight",
        (10240, 4096),
    ),
    (AutoencoderDC, SMALL["vae"], 1.25, 4, None, None),
    (Gemma2Model, {}, 5.23, 2, "layers.25.mlp.gate_proj.weight", (9216, 2304)),
    (
        SanaTransformer2DModel,
        SMALL["transformer"],
        None,
        2,
        "time_embed.guidance_embedder.linear_1.weight",
        (1152, 256),
    ),
    (SanaTransformer2DModel, LARGE["transformer"], None, 2, "transformer_blocks.19.attn2.norm_q.weight", (2240,)),
]
CONFIGS = {
    T5EncoderModel: T5Config,
    CLIPTextModel: CLIPTextConfig,
    CLIPTextModelWithProjection: CLIPTextConfig,
    Gemma2Model: Gemma2Config,
}


@pytest.mark.parametrize(
    ("kind", "config", "size", "width", "name", "shape"),
    FILES,
    ids=[
        "sd15",
        "sd15 text",
        "sd15 vae",
        "sdxl",
        "sdxl text 2",
        "sdxs",
        "taesd",
        "pixart",
        "t5",
        "dc-ae",
        "gemma",
        "sana 0.6b",
        "sana 1.6b",
    ],
)
def test_as_many_weights_as_the_published_file(kind, config, size, width, name, shape):
    with torch.device("meta"):
        network = kind(CONFIGS[kind](**config)) if kind in CONFIGS else kind(**config)
    weights = dict(network.named_parameters())
    assert all(weight.is_meta for weight in weights.values())
    if size is not None:
        counted = sum(weight.numel() for weight in weights.values()) * width / 1e9
        assert abs(counted / size - 1) < 0.004
    if name is not None:
        assert tuple(weights[name].shape) == shape


@pytest.mark.parametrize(("size", "millions"), [("0.6b", 594), ("1.6b", 1610)])
def test_sana_sprint_is_as_large_as_it_is_called(size, millions):
    with torch.device("meta"):
        network = SanaTransformer2DModel(**sana.layout(size)["transformer"])
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) == millions
