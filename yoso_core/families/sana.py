"""SANA-Sprint (arXiv 2503.09641): pictures of a megapixel in one to four steps, in TrigFlow's time.

TrigFlow (arXiv 2410.11081) is ``z_t = cos(u) z_0 + sin(u) eps`` for times u from 0 to pi / 2, of which the network,
trained as a flow, is told ``tau = sin(u) / (sin(u) + cos(u))``. Here it is a `NoiseSchedule` like any other: index i
stands for u = (i + 1) / 10,000, so that all the times that its sampler takes are on the grid.

Its condition is what Gemma 2 makes of the prompt behind an instruction, with its mask, and how strongly the prompt is
to be followed, of which the network is told.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
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
from yoso_core.families.base import Encoded, Family, Model, Outline, Read
from yoso_core.families.shapes import MEGAPIXEL, nearest
from yoso_core.families.texts import encodings
from yoso_core.offers import Offer
from yoso_core.prompts import Prompt
from yoso_core.schedule import NoiseSchedule, Prediction

GRID = 1e-4  # radians from one index to the next
LENGTH = 15708  # T: the last index stands for 1.5708, which is pi / 2 as far as the network was told
TOKENS = 300  # of a prompt that the network reads, the begin among them
PIXELS_PER_LATENT = 32  # a side, by the six levels of its autoencoder
SHAPES = {32: MEGAPIXEL}  # by the latent's side


class SanaSprint(Family):
    """The text encoder is none of its `encoders`: it comes and goes, see `Encodings`."""

    name = "sana-sprint"
    diffusers = "SanaSprintPipeline"
    alike = ("SanaSprintImg2ImgPipeline",)
    network = "transformer"
    encoders = ()
    adapted = ("transformer",)
    targets = ("to_q", "to_k", "to_v", "to_out.0", "conv_inverted", "conv_point")
    offer = Offer(("scm",), guidance=4.5, guided="told")
    weighs = False
    unit = PIXELS_PER_LATENT

    def outline(self, folder: Path) -> Outline:
        try:
            return Outline(int(config_of(folder / "transformer")["sample_size"]) * PIXELS_PER_LATENT, self.name)
        except (KeyError, TypeError, ValueError, OverflowError):
            return Outline(kind=self.name)

    def load(self, files: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
        from diffusers import SanaSprintPipeline  # seconds to import, so not at import time
        from transformers import Gemma2Model

        pipeline = files.part(
            SanaSprintPipeline.from_pretrained, text_encoder=None, dtype=dtype, low_cpu_mem_usage=True
        )
        parts = {name: getattr(pipeline, name) for name in ("transformer", "vae", "tokenizer", "scheduler")}
        _refuse_what_does_not_fit(files, parts)
        skipped = torch.tensor(parts["tokenizer"](instruction()).input_ids[1:-1])

        def read(encoder: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
            return read_tokens(encoder, tokens, mask, skipped.to(tokens.device))

        return parts | {"encodings": encodings(files, Gemma2Model, dtype, read)}

    def schedule(self, config: Mapping[str, Any]) -> NoiseSchedule:
        """alpha = cos(u), sigma = sin(u); pure noise at the last index."""
        if config.get("prediction_type", "trigflow") != "trigflow":
            raise ValueError(f"its scheduler is for {config['prediction_type']!r:.40}; only trigflow is known of SANA")
        times = (torch.arange(LENGTH, dtype=torch.float64) + 1) * GRID
        return NoiseSchedule(times.cos().clamp_min(0).float(), times.sin().float())

    def prediction(self, config: Mapping[str, Any]) -> Prediction:
        return "v_prediction"

    def pipeline(self, parts: Mapping[str, Any]) -> Any:
        from diffusers import SanaSprintPipeline

        return SanaSprintPipeline(
            **{name: part for name, part in parts.items() if name != "encodings"}, text_encoder=None
        )

    def encode(self, model: Model, prompt: Prompt, read: Read) -> Encoded:
        """All of a prompt as one sentence: a language model reads no weights of words."""
        ids, mask, cut = tokens_of(prompt.words, model.parts["tokenizer"])
        return Encoded(Condition(model.parts["encodings"](ids, mask, model.device), mask), cut)

    def encode_texts(self, model: Model, texts: Sequence[str]) -> Condition:
        rows = [tokens_of(text, model.parts["tokenizer"]) for text in texts]
        ids, mask = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
        return Condition(model.parts["encodings"](ids, mask, model.device).float(), mask)

    def shape(self, model: Model, size: tuple[int, int]) -> tuple[int, int]:
        return nearest(SHAPES.get(model.parts["transformer"].config.sample_size), size)

    def told(self, condition: Condition, guidance: float) -> Condition:
        return replace(condition, sizes=condition.context.new_full((len(condition), 1), guidance))

    def predict(
        self, network: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()
    ) -> Tensor:
        """v_t of TrigFlow by a flow network (section 3.1 of the paper); computed in float32 at least around it."""
        dtype = torch.promote_types(noisy.dtype, torch.float32)
        time = (t.to(dtype) + 1) * GRID
        tau = time.sin() / (time.cos() + time.sin())
        each = tau.view(-1, 1, 1, 1)
        norm = (each**2 + (1 - each) ** 2).sqrt()
        scaled = noisy.to(dtype) * norm
        output = network(
            scaled.to(noisy.dtype),
            encoder_hidden_states=condition.context,
            encoder_attention_mask=condition.mask,
            guidance=condition.sizes[:, 0] * network.config.guidance_embeds_scale,
            timestep=tau,
            return_dict=False,
        )[0]
        return (((1 - 2 * each) * scaled + (1 - 2 * each + 2 * each**2) * output) / norm).to(noisy.dtype)


@cache
def instruction() -> str:
    """What the language model is asked before the prompt, as when the network was trained; diffusers has it."""
    from diffusers import SanaSprintPipeline

    lines: Sequence[str] = (
        inspect.signature(SanaSprintPipeline.__call__).parameters["complex_human_instruction"].default
    )
    return "\n".join(lines)


def tokens_of(words: str, tokenizer: Any) -> tuple[Tensor, Tensor, str]:
    """What the network reads of a prompt behind the instruction: the begin, then the prompt in lower case.

    The last token of the instruction is a space; a prompt's first word may be one token with it.

    Returns:
        Ids (1, 300), mask (1, 300) bool, and the words that there was no room for.
    """
    asked = instruction()
    ids, skipped = tokenizer(asked + words.lower().strip()).input_ids, len(tokenizer(asked).input_ids) - 1
    ids = ids[:1] + ids[skipped:]
    cut = tokenizer.decode(ids[TOKENS:]).strip()
    ids = ids[:TOKENS]
    mask = torch.arange(TOKENS)[None] < len(ids)
    return torch.tensor([ids + [tokenizer.pad_token_id] * (TOKENS - len(ids))]), mask, cut


def read_tokens(encoder: nn.Module, tokens: Tensor, mask: Tensor, skipped: Tensor) -> Tensor:
    """The encoding (B, 300, D) of what `tokens_of` gives, with the instruction before it that is not read itself.

    Args:
        tokens: (B, 300).
        mask: (B, 300) bool.
        skipped: (S,), the instruction without begin and last token.
    """
    between = skipped.expand(len(tokens), -1)
    whole = torch.cat([tokens[:, :1], between, tokens[:, 1:]], dim=1)
    attended = torch.cat([mask[:, :1], torch.ones_like(between, dtype=torch.bool), mask[:, 1:]], dim=1)
    encoding = encoder(whole, attention_mask=attended.long())[0]
    return torch.cat([encoding[:, :1], encoding[:, 1 - TOKENS :]], dim=1)


def _refuse_what_does_not_fit(files: Checkpoint, parts: Mapping[str, Any]) -> None:
    """The parts must be there, whole, fit each other, and be of this family.

    Raises:
        ModelError: they are not; one sentence says how.
    """
    refuse_absent(files, parts)
    network, channels = parts["transformer"].config, parts["vae"].config.latent_channels
    if network.get("guidance_embeds"):
        for name in ("transformer", "vae"):
            refuse_missing_weights(f"The {name} of {files.title}", parts[name])
    width = config_of(Path(files.place) / "text_encoder").get("hidden_size")
    takes, gives = network.get("in_channels"), network.get("out_channels")
    if not network.get("guidance_embeds"):
        reason = "its transformer is not told of guidance, so it is no SANA-Sprint"
    elif not takes == gives == channels:
        reason = f"latents have {channels} channels, its network takes {takes} and gives {gives}"
    elif network.caption_channels != width:
        reason = f"its network reads prompts of width {network.caption_channels}, its text encoder writes {width}"
    elif not parts["vae"].config.scaling_factor:
        reason = "its autoencoder has no scaling factor"
    else:
        return
    raise ModelError(f"{files.title} is not a SANA model that can be used here: {reason}.")
