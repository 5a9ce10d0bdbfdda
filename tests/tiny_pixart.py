"""A PixArt of random weights, of the true layout but tiny."""

from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny import build_autoencoder

WORDS = ("▁a", "▁red", "▁blue", "▁cat", "▁dog", "▁heart", ",", *"▁abcdefghijklmnopqrstuvwxyz")
WIDTH = 32  # of T5's encodings


def build_transformer(sized: bool = False) -> PixArtTransformer2DModel:
    """Four blocks; `sized`: the one for 1024 pixels, which is told of the picture's size."""
    return PixArtTransformer2DModel(
        sample_size=128 if sized else 8,
        num_layers=4,
        num_attention_heads=2,
        attention_head_dim=24,  # in all a multiple of 3, as sizes are told in thirds
        cross_attention_dim=48,
        caption_channels=WIDTH,
    )


def write_tiny_pixart(folder: Path, sized: bool = False, seed: int = 0) -> Path:
    """Write a whole pipeline that predicts velocity; the same seed writes the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
        words = [(word, -1.0 / len(word)) for word in WORDS]
        tokenizer = T5Tokenizer([*special, *words], extra_ids=0, additional_special_tokens=[])
        encoder = T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        )
        PixArtAlphaPipeline(
            tokenizer=tokenizer,
            text_encoder=encoder,
            vae=build_autoencoder((16, 16, 16, 16), latent_channels=4),
            transformer=build_transformer(sized),
            scheduler=DPMSolverMultistepScheduler(
                beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"
            ),
        ).save_pretrained(folder)
    return folder
