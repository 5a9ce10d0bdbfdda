"""The engine: owner of weights, adapters and device. Requests in, results out, one at a time."""

import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from yoso_core.autoencoder import decode, to_pil
from yoso_core.denoiser import Denoiser, guided
from yoso_core.lora import Lora, admit
from yoso_core.models import MODELS, LoadedModel, ModelSpec, load_model
from yoso_core.requests import GenerateRequest, RequestError
from yoso_core.sampling import few_step, few_step_timesteps, prior_start

MODELS_IN_MEMORY = 2
PROMPTS_IN_MEMORY = 256


class PictureError(RuntimeError):
    """A valid request that no picture came of: NaN, or not enough memory. The next request works."""


def is_out_of_memory(error: Exception) -> bool:
    """A full GPU has a type of its own; a full CPU allocator is told from other RuntimeErrors by its words alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


@contextmanager
def memory_guard() -> Iterator[None]:
    """Out of memory, on whatever device, as one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise PictureError("There is not enough memory for this; choose a smaller size or a smaller model.") from error


@dataclass(frozen=True)
class Result:
    """What came of a request.

    Attributes:
        request: what was asked.
        pictures: one or more, in order of seed.
        seeds: the seed of each picture.
        evaluations: network evaluations a picture, guidance counted.
        seconds: time by stage: "text", "network", "decode", and "total" with everything.
        cut: the part of the prompt beyond the token limit, which the model did not read; "" if none.
    """

    request: GenerateRequest
    pictures: list[Image.Image]
    seeds: list[int]
    evaluations: int
    seconds: dict[str, float]
    cut: str = ""


@dataclass
class Stopwatch:
    """Adds up time by stage; waits for the device, so that the figures are true on a GPU too."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Engine:
    """Answers requests, one at a time, whoever asks from whatever thread.

    Args:
        models: what can be asked for, by name.
        device: "cpu", "cuda", ...; None takes the best there is.
        dtype: overrides each model's own choice.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec] = MODELS,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.models = dict(models)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype
        self.lock = threading.Lock()
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lora_files: dict[str, Path] = {}
        self._admitted: dict[tuple[str, str], Lora] = {}
        self._contexts: OrderedDict[tuple, tuple[Tensor, str]] = OrderedDict()

    def add_lora(self, name: str, path: Path) -> None:
        """Put a LoRA file into the library under `name`; it is checked when first used with a model."""
        with self.lock:
            self._lora_files[name] = Path(path)
            self._admitted = {key: lora for key, lora in self._admitted.items() if key[1] != name}
            self._contexts.clear()  # they are told apart by the identity of LoRAs that may be gone now

    def load(self, name: str, report: Callable[[str], None] = lambda message: None) -> LoadedModel:
        """Bring a model into memory ahead of its first request, to be looked at, not changed; raises as `run` does."""
        with self.lock, memory_guard():
            return self._model(name, report)

    def run(self, request: GenerateRequest, report: Callable[[str], None] = lambda message: None) -> Result:
        """Make the pictures of a request.

        Everything that the request needs (model, LoRAs and their weights) is settled under the lock from the
        request alone, so no request can see another's.

        Raises:
            RequestError: an unknown model or LoRA, a file that does not fit; nothing was changed.
            PictureError: the networks returned NaN, or there is not enough memory.
        """
        with self.lock, memory_guard(), torch.inference_mode():
            started = time.perf_counter()
            result = self._generate(request, report)
        return dataclasses.replace(result, seconds=result.seconds | {"total": time.perf_counter() - started})

    def _generate(self, request: GenerateRequest, report: Callable[[str], None]) -> Result:
        model = self._model(request.model, report)
        size, unit = request.size or model.spec.resolution, model.pixels_per_latent
        if size > max(model.spec.sizes) or size % unit:
            raise RequestError(
                f"{model.spec.title} draws up to {max(model.spec.sizes)} pixels in steps of {unit}, not {size}."
            )
        loras = [(self._lora(request.model, model, use.name), use.weight) for use in request.loras]
        model.loras.apply([(model.one_step, 1.0), *loras])
        watch = Stopwatch(self.device)
        with watch.stage("text"):
            context, cut = self._context(request, model, request.prompt)
            negative, _ = self._context(request, model, request.negative) if request.guidance > 1 else (context, "")
        denoise = guided(Denoiser(model.unet, model.schedule, model.prediction), request.guidance, negative)
        timesteps = few_step_timesteps(request.steps, len(model.schedule))
        seeds = [(request.seed + index) % 2**32 for index in range(request.count)]
        pictures: list[Image.Image] = []
        # One picture at a time: arithmetic in a batch rounds differently, and a seed must mean one picture.
        for number, seed in enumerate(seeds, 1):
            report(f"Drawing picture {number} of {request.count}")
            noises = self._noises(seed, request.steps, model, size // unit)
            with watch.stage("network"):
                start = prior_start(model.schedule, noises[0], model.prior_mean, model.prior_deviation)
                clean = few_step(denoise, model.schedule, start, context, timesteps, noises[1:])
            with watch.stage("decode"):
                decoded = decode(model.decoder, clean)
                if not torch.isfinite(decoded).all():
                    raise PictureError(
                        f"{model.spec.title} returned NaN for seed {seed}; try another seed or weaker LoRAs."
                    )
                pictures += to_pil(decoded)
        evaluations = request.steps * (2 if request.guidance > 1 else 1)
        return Result(request, pictures, seeds, evaluations, watch.seconds, cut)

    def _noises(self, seed: int, count: int, model: LoadedModel, side: int) -> list[Tensor]:
        """Standard normal noises of one picture, drawn on the CPU so that a seed means the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        shape = (1, model.unet.config.in_channels, side, side)
        drawn = [torch.randn(shape, generator=generator) for _ in range(count)]
        return [
            noise.to(self.device, model.unet.dtype).contiguous(memory_format=torch.channels_last) for noise in drawn
        ]

    def _context(self, request: GenerateRequest, model: LoadedModel, text: str) -> tuple[Tensor, str]:
        """(1, L, D) encoded prompt, and the part of the text that did not fit; remembered by text.

        A LoRA may change the text encoder, so the set in force is part of the key.
        """
        key = (request.model, model.loras.active, text)
        if key not in self._contexts:
            limit = model.tokenizer.model_max_length
            options = {"truncation": True, "max_length": limit, "return_tensors": "pt"}
            tokens = model.tokenizer(text, padding="max_length", **options).input_ids
            whole = model.tokenizer(text).input_ids
            cut = model.tokenizer.decode(whole[limit - 1 : -1]) if len(whole) > limit else ""
            context = model.text_encoder(tokens.to(self.device))[0].to(model.unet.dtype)
            self._contexts[key] = context, cut
            if len(self._contexts) > PROMPTS_IN_MEMORY:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return self._contexts[key]

    def _model(self, name: str, report: Callable[[str], None]) -> LoadedModel:
        if name not in self.models:
            raise RequestError(f"There is no model {name!r:.60}; choose one of {', '.join(self.models)}.")
        if name not in self._loaded:
            while len(self._loaded) >= MODELS_IN_MEMORY:  # before, because two large ones may be all that fits
                self._forget(next(iter(self._loaded)))
            loaded = load_model(self.models[name], self.device, self.dtype, report)
            loaded.loras.apply([(loaded.one_step, 1.0)])  # seconds on a large model, and part of loading it
            self._loaded[name] = loaded
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def _forget(self, name: str) -> None:
        del self._loaded[name]
        self._admitted = {key: lora for key, lora in self._admitted.items() if key[0] != name}
        for key in [key for key in self._contexts if key[0] == name]:
            del self._contexts[key]

    def _lora(self, model_name: str, model: LoadedModel, name: str) -> Lora:
        if name not in self._lora_files:
            raise RequestError(f"There is no LoRA {name!r:.60} in the library; add its file first.")
        key = (model_name, name)
        if key not in self._admitted:
            self._admitted[key] = admit(self._lora_files[name], model.loras.parts)
        return self._admitted[key]
