"""The one way to load any model, and what it is in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.autoencoder import pixels_per_latent
from yoso_core.checkpoints import Checkpoint, ModelError, load_part, refuse_other_files, shapes_of
from yoso_core.condition import Condition
from yoso_core.denoiser import Control, Denoiser
from yoso_core.devices import REST, bytes_of
from yoso_core.families import FAMILIES
from yoso_core.families.base import Family
from yoso_core.lora.admission import admit
from yoso_core.lora.changes import Lora
from yoso_core.lora.reading import read_prior
from yoso_core.lora.stack import LoraStack
from yoso_core.models import ModelSpec
from yoso_core.needs import elsewhere, local_source, refuse_missing_lora
from yoso_core.schedule import NoiseSchedule, Prediction


@dataclass
class LoadedModel:
    """A model in memory. Only the engine changes it, under its lock.

    Attributes:
        family: its architecture.
        parts: of the pipeline, by the names that diffusers gives them.
        decoder: what turns latents into pictures; the autoencoder itself or a tiny one.
        schedule: noise schedule.
        prediction: what the network returns.
        prior_mean, prior_deviation: (C,) moments of clean scaled latents, for the informative prior.
        loras: the networks' weights and what is added to them.
        one_step: the model's own LoRA; empty where the network itself is one-step.
        device: where it computes.
        takes_turns: whether its networks come there to be called, and rest in the machine's memory; see `TakingTurns`.
    """

    spec: ModelSpec
    family: Family
    parts: dict[str, Any]
    decoder: nn.Module
    schedule: NoiseSchedule
    prediction: Prediction
    prior_mean: Tensor
    prior_deviation: Tensor
    loras: LoraStack
    one_step: Lora
    device: torch.device
    takes_turns: bool = False

    @property
    def network(self) -> nn.Module:
        """What predicts."""
        return self.parts[self.family.network]

    @property
    def autoencoder(self) -> nn.Module:
        return self.parts["vae"]

    @property
    def scheduler(self) -> Any:
        """The pipeline's scheduler, whose config the schedule comes from."""
        return self.parts["scheduler"]

    @property
    def encoders(self) -> list[nn.Module]:
        """The networks that read prompts."""
        return [self.parts[name] for name in self.family.encoders]

    @property
    def rests(self) -> torch.device:
        """Where networks are that are not called."""
        return REST if self.takes_turns else self.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype  # diffusers' own goes over all modules at each call: 2 ms

    @property
    def channels(self) -> int:
        """C of a latent."""
        return self.autoencoder.config.latent_channels

    @property
    def pixels_per_latent(self) -> int:
        return pixels_per_latent(self.autoencoder)

    @property
    def unit(self) -> int:
        """Pixels that sides of pictures are multiples of."""
        return self.pixels_per_latent * self.family.patch(self.network)

    def predict(self, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()) -> Tensor:
        """The bare output of its network, see `Family.predict`."""
        return self.family.predict(self.network, noisy, t, condition, residuals)

    def denoiser(self, consistent: bool = True, control: Control | None = None) -> Denoiser:
        """Its network as a function to the clean latent, see `Denoiser`."""
        return Denoiser(self.predict, self.schedule, self.prediction, consistent, control)

    def encode_texts(self, texts: Sequence[str], size: tuple[int, int] | None = None) -> Condition:
        """See `Family.encode_texts`; for pictures of this width and height, None for the model's own."""
        condition = self.family.encode_texts(self, texts)
        condition = self.family.at_size(self, condition, size or (self.spec.resolution,) * 2)
        return self.family.told(condition, self.spec.offer.guidance)


def load_model(
    spec: ModelSpec,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    report: Callable[[str], None] = lambda message: None,
    fits: Callable[[int], bool] = lambda size: True,
) -> LoadedModel:
    """Load a checkpoint that is on this machine: parts by diffusers, LoRA by our own admission.

    Args:
        spec: what to load.
        device: where it computes.
        dtype: what it computes in; None for the spec's own.
        report: told in a few words what is happening.
        fits: whether the device has room for so many bytes of weights; where it has not, they take turns.

    Raises:
        ModelError: a sentence that says what is missing or broken.
    """
    from diffusers.utils import logging as diffusers_logging  # seconds to import, so not at import time
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # `report` says it in a line
    dtype = dtype or getattr(torch, spec.dtype)
    refuse_missing_lora(spec)
    report(f"Loading {spec.title}")
    place = local_source(spec.title, spec.source, spec.variant, elsewhere(spec)).place
    refuse_other_files(spec.title, Path(place))
    family = FAMILIES[spec.architecture]
    parts = family.load(Checkpoint(spec.title, place, spec.variant, _apart(spec)), dtype)
    network, autoencoder = parts[family.network], parts["vae"]
    parts["scheduler"] = scheduler = parts["scheduler"].from_config(parts["scheduler"].config, **spec.scheduler)
    try:
        prediction, schedule = family.prediction(scheduler.config), family.schedule(scheduler.config)
    except ValueError as error:
        raise ModelError(f"{spec.title} can't be used: {error}.") from None
    if prediction == "epsilon" and schedule.alpha[-1] == 0:
        raise ModelError(
            f"{spec.title} predicts noise from pure noise, which says nothing; its scheduler config is wrong."
        )
    decoder = autoencoder
    if spec.tiny_decoder is not None:
        from diffusers import AutoencoderTiny

        report(f"Loading the fast decoder of {spec.title}")
        source = local_source(f"The fast decoder of {spec.title}", spec.tiny_decoder)
        decoder = load_part(AutoencoderTiny.from_pretrained, spec.title, source, dtype=dtype)
    device, networks = torch.device(device), (network, *(parts[name] for name in family.encoders), autoencoder, decoder)
    # What its LoRA changes is kept as it was; in float32 what comes of it is, too.
    kept = bytes_of([network]) * (2 if dtype == torch.float32 else 1) if spec.lora is not None else 0
    takes_turns = not fits(bytes_of(networks) + kept)
    if takes_turns:
        report(f"{spec.title} is too large for the device as a whole: its networks take turns, which takes longer")
    for part in networks:
        part.requires_grad_(False).eval().to(REST if takes_turns else device)
    for part in (network, autoencoder, decoder):
        part.to(memory_format=torch.channels_last)
    stack = LoraStack({name: parts[name] for name in (*family.adapted, "vae")}, REST if takes_turns else None)
    mean, deviation = _prior(spec, autoencoder.config, scheduler)
    return LoadedModel(
        spec=spec,
        family=family,
        parts=parts,
        decoder=decoder,
        schedule=schedule,
        prediction=prediction,
        prior_mean=mean,
        prior_deviation=deviation,
        loras=stack,
        one_step=admit(spec.lora, stack.for_requests) if spec.lora is not None else Lora(),
        device=device,
        takes_turns=takes_turns,
    )


def _apart(spec: ModelSpec) -> Path | None:
    """Where on this machine the network is, if not with the other parts.

    Raises:
        ModelError: it has not been fetched.
    """
    if spec.network is None:
        return None
    found = local_source(f"The network of {spec.title}", spec.network)
    return Path(found.place) / found.inside


def _prior(spec: ModelSpec, autoencoder: Any, scheduler: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C,) of scaled latents that noise at the last timestep is made from: as the one-step LoRA was
    trained with, or as the scheduler of a network that is one-step itself begins, or as the autoencoder's config says,
    or those of the standard normal distribution.
    """
    if spec.lora is not None and (prior := read_prior(spec.lora)) and len(prior[0]) == autoencoder.latent_channels:
        return prior
    scale, channels = autoencoder.scaling_factor, autoencoder.latent_channels
    mean, deviation = autoencoder.get("latents_mean"), autoencoder.get("latents_std")
    if spec.lora is None and not (mean or deviation) and _begins_at_noise_alone(scheduler):
        return torch.zeros(channels), torch.zeros(channels)
    return torch.tensor(mean or [0.0] * channels) * scale, torch.tensor(deviation or [1 / scale] * channels) * scale


def _begins_at_noise_alone(scheduler: Any) -> bool:
    """Whether it begins at sigma_T eps, as if clean latents were zero, and not at eps."""
    return type(scheduler).__name__.startswith("Euler") and scheduler.config.timestep_spacing in (
        "linspace",
        "trailing",
    )


def parameter_shapes(spec: ModelSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of what LoRAs may change in a model, by part, read off its files; {} where it is not here."""
    family = FAMILIES[spec.architecture]
    try:
        folder = Path(local_source("The model", spec.source, spec.variant, elsewhere(spec)).place).expanduser()
        apart = _apart(spec)
    except ModelError:
        return {}
    places = {part: folder / part for part in family.adapted} | ({family.network: apart} if apart else {})
    shapes = {part: found for part, place in places.items() if (found := shapes_of(place))}
    return shapes if family.network in shapes else {}
