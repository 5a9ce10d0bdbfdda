"""SDXS-512's layout, tiny: a UNet without a middle and a tiny autoencoder. One step is what diffusers makes."""

import dataclasses
import shutil

import torch
from diffusers import AutoencoderTiny, DEISMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTokenizer

from tests.test_sd_layout import engine_latents
from tests.tiny import TOKENIZER, build_text_encoder
from yoso_core.models import MODELS, local_model
from yoso_core.requests import GenerateRequest


def test_one_step_is_that_of_diffusers(tmp_path, monkeypatch):
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            mid_block_type=None,
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        small = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        StableDiffusionPipeline(
            vae=AutoencoderTiny(**small, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4),
            text_encoder=build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DEISMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(tmp_path)
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer", dirs_exist_ok=True)
    spec = local_model(str(tmp_path))
    spec = dataclasses.replace(spec, resolution=64, sizes=(64,), lora=None, offer=MODELS["sdxs-512"].offer)
    monkeypatch.setattr("tests.test_sd_layout.local_model", lambda folder: spec)
    request = GenerateRequest("a red heart", seed=7, model="sd", size=64)
    ours = engine_latents(tmp_path, request, torch.float32, monkeypatch)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    options = {"num_inference_steps": 1, "guidance_scale": 0, "output_type": "latent"}
    theirs = pipeline("a red heart", latents=start, **options).images
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()
