"""The engine: owner of weights, adapters and device. Requests in, results out, one at a time."""

import dataclasses
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from yoso_core.autoencoder import decode, encode, to_pil, to_tensor
from yoso_core.conditioning import (
    CONTROLS,
    Annotations,
    ControlSpec,
    Guide,
    choose_control,
    load_control,
    map_tensor,
)
from yoso_core.denoiser import Denoise, Denoiser, guided
from yoso_core.editing import Canvas, latent_mask, lay_out, put_together
from yoso_core.files.pictures import OWN_SIDE, own_size, square, square_note, whole
from yoso_core.lora import Lora, admit
from yoso_core.models import MODELS, LoadedModel, ModelSpec, load_model
from yoso_core.requests import ControlUse, EditRequest, GenerateRequest, RequestError, TranslateRequest
from yoso_core.sampling import (
    ddim,
    edit_timesteps,
    few_step,
    prior_start,
    repaint,
    sdedit_start,
    strength_timestep,
)
from yoso_core.translate import LoadedTranslator, TranslatorSpec, find_translators, input_tensor, load_translator

MODELS_IN_MEMORY = 2
CONTROLS_IN_MEMORY = 2
TRANSLATORS_IN_MEMORY = 2
LORAS_IN_MEMORY = 16  # admitted ones; more than one request may name
PROMPTS_IN_MEMORY = 256
PICTURES_IN_MEMORY = 8  # encoded ones, and control maps: what sliders are dragged over


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
        before: of an edit or a translation, the picture as it was laid out.
        control_map: what the ControlNet, or the translator, followed.
        notes: what was done to the pictures that were given, in words.
    """

    request: GenerateRequest
    pictures: list[Image.Image]
    seeds: list[int]
    evaluations: int
    seconds: dict[str, float]
    cut: str = ""
    before: Image.Image | None = None
    control_map: Image.Image | None = None
    notes: tuple[str, ...] = ()


Kept = TypeVar("Kept")


class Memory(Generic[Kept]):
    """The last few things that took time to make, by what they were made of."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        if key not in self._kept:
            made = make()
            while len(self._kept) >= self.limit:
                self._kept.popitem(last=False)
            self._kept[key] = made
        self._kept.move_to_end(key)
        return self._kept[key]

    def forget(self, which: Callable[[Hashable], bool] = lambda key: True) -> None:
        for key in [key for key in self._kept if which(key)]:
            del self._kept[key]


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


@dataclass(frozen=True)
class _Work:
    """What a request is worked on with."""

    model: LoadedModel
    size: int
    watch: Stopwatch
    report: Callable[[str], None]


def digest(picture: Image.Image | None) -> str:
    """A short text that is another for another picture."""
    if picture is None:
        return ""
    return hashlib.blake2b(picture.tobytes(), key=f"{picture.mode} {picture.size}".encode()).hexdigest()


class Engine:
    """Answers requests, one at a time, whoever asks from whatever thread.

    Args:
        models: what can be asked for, by name.
        device: "cpu", "cuda", ...; None takes the best there is.
        dtype: overrides each model's own choice.
        controls: the ControlNets that can be asked for, by name.
        translators: what translates pictures, by name; None takes those that come along.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec] = MODELS,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        controls: Mapping[str, ControlSpec] = CONTROLS,
        translators: Mapping[str, TranslatorSpec] | None = None,
    ) -> None:
        self.models, self.controls = dict(models), dict(controls)
        self.translators = find_translators() if translators is None else dict(translators)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype
        self.lock = threading.Lock()
        self.annotate = Annotations()
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lora_files: dict[str, Path] = {}
        self._admitted: dict[tuple[str, str], Lora] = {}
        self._maps: Memory[Image.Image] = Memory(PICTURES_IN_MEMORY)
        # The keys of these begin with the model's name.
        self._contexts: Memory[tuple[Tensor, str]] = Memory(PROMPTS_IN_MEMORY)
        self._networks: Memory[torch.nn.Module] = Memory(CONTROLS_IN_MEMORY)
        self._latents: Memory[tuple[Canvas, Tensor]] = Memory(PICTURES_IN_MEMORY)
        self._translations: Memory[LoadedTranslator] = Memory(TRANSLATORS_IN_MEMORY)

    def add_lora(self, name: str, path: Path) -> None:
        """Put a LoRA file into the library under `name`; it is checked when first used with a model."""
        with self.lock:
            self._forget_lora(name)
            self._lora_files[name] = Path(path)

    def remove_lora(self, name: str) -> None:
        """Take a LoRA out of the library; nothing happens if it is not there."""
        with self.lock:
            self._forget_lora(name)
            self._lora_files.pop(name, None)

    def _forget_lora(self, name: str) -> None:
        self._admitted = {key: lora for key, lora in self._admitted.items() if key[1] != name}
        self._contexts.forget()  # they are told apart by the identity of LoRAs that may be gone now

    def add_control(self, name: str, spec: ControlSpec) -> None:
        """Put a ControlNet among those that can be asked for by `name`; it is read anew when it is used next."""
        with self.lock:
            self.controls[name] = spec
            self._networks.forget(lambda key: key[1] == name)

    def remove_control(self, name: str) -> None:
        """Take a ControlNet out again; nothing happens if it is not there."""
        with self.lock:
            self.controls.pop(name, None)
            self._networks.forget(lambda key: key[1] == name)

    def add_translator(self, name: str, spec: TranslatorSpec) -> None:
        """Put a translator among those that can be asked for by `name`; it is read anew when it is used next."""
        with self.lock:
            self.translators[name] = spec
            self._translations.forget(lambda key: key[1] == name)

    def remove_translator(self, name: str) -> None:
        """Take a translator out again; nothing happens if it is not there."""
        with self.lock:
            self.translators.pop(name, None)
            self._translations.forget(lambda key: key[1] == name)

    def check_lora(self, name: str, model: str) -> None:
        """See whether a LoRA of the library fits a model.

        Raises:
            RequestError: it does not, and why.
        """
        with self.lock, memory_guard():
            self._lora(model, self._model(model, lambda message: None), name)

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
            result = self._run(request, report)
        return dataclasses.replace(result, seconds=result.seconds | {"total": time.perf_counter() - started})

    def control_map(
        self, use: ControlUse, size: int, report: Callable[[str], None] = lambda message: None
    ) -> Image.Image:
        """The map that a ControlNet would be given at this size, to be looked at.

        Raises:
            RequestError: an unknown annotator, or one whose weights are not here.
        """
        with self.lock, memory_guard(), torch.inference_mode():
            return self._map(use, size, report)

    def _run(self, request: GenerateRequest, report: Callable[[str], None]) -> Result:
        model = self._model(request.model, report)
        size = self._size(request, model)
        loras = [(self._lora(request.model, model, use.name), use.weight) for use in request.loras]
        work = _Work(model, size, Stopwatch(self.device), report)
        own = (model.one_step, request.one_step)
        if isinstance(request, TranslateRequest):
            return self._translate(request, work, [own, *loras])
        return self._draw(request, work, [own, *loras])

    def _draw(self, request: GenerateRequest, work: _Work, loras: list[tuple[Lora, float]]) -> Result:
        """Pictures from words, or edits."""
        model, size, watch = work.model, work.size, work.watch
        with watch.stage("weights"):
            model.loras.apply(loras)
        with watch.stage("text"):
            context, cut = self._context(request, model, request.prompt)
            negative, _ = self._context(request, model, request.negative) if request.guidance > 1 else (context, "")
        notes: list[str] = list(filter(None, [model.spec.words.note(request.prompt)]))
        guide, control_map = None, None
        if request.control is not None:
            with watch.stage("control"):
                use = request.control
                control_map = self._map(use, size, work.report)
                guide = self._guide(use, request.model, model, control_map, work.report)
            notes += filter(None, [square_note(use.picture, use.fit)])
        consistent = request.sampler == "consistency"
        plain = Denoiser(model.unet, model.schedule, model.prediction, consistent, guide)
        denoise = guided(plain, request.guidance, negative)
        canvas, latent = None, None
        if isinstance(request, EditRequest):
            with watch.stage("encode"):
                canvas, latent = self._canvas(request, model, size)
            notes += canvas.notes
            if canvas.mask is not None:
                denoise = repaint(denoise, latent, latent_mask(canvas.mask, latent.shape[2:]).to(latent))
        evaluations = 0

        def draw(seed: int) -> Image.Image:
            nonlocal evaluations
            noises = self._noises(seed, request.steps if consistent else 1, model, (size, size))
            with watch.stage("network"):
                clean, evaluations = self._sample(request, model, denoise, context, noises, latent)
            with watch.stage("decode"):
                made = self._picture(decode(model.decoder, clean), model, seed)
                return put_together(canvas, made) if canvas else made

        pictures, seeds = self._each_seed(request, work, draw)
        evaluations *= 2 if request.guidance > 1 else 1
        before = canvas.picture if canvas else None
        return Result(request, pictures, seeds, evaluations, watch.seconds, cut, before, control_map, tuple(notes))

    def _translate(self, request: TranslateRequest, work: _Work, loras: list[tuple[Lora, float]]) -> Result:
        """Pictures from a picture, its structure kept."""
        model, size, watch = work.model, work.size, work.watch
        loaded = self._translator(request, model, work.report)
        direction = loaded.spec.direction(request.direction)
        fixed = loaded.spec.directions[direction].prompt
        with watch.stage("weights"):
            model.loras.apply([*loras, (loaded.loras[direction], request.strength)])
        with watch.stage("text"):
            context, cut = self._context(request, model, request.prompt if fixed is None else fixed)
        before, notes = self._laid_out(request, model, size)
        if fixed is not None and request.prompt.strip() not in ("", fixed):
            title = loaded.spec.directions[direction].title
            notes.append(f"“{title}” always reads the prompt “{fixed}”; yours was not used.")
        lines = None
        if loaded.spec.input == "lines":
            with watch.stage("control"):
                lines = self._map(dataclasses.replace(request.lines, picture=before), None, work.report)
        given = before if lines is None else lines
        pixels = input_tensor(given, loaded.spec).to(self.device, model.autoencoder.dtype)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        translate = loaded.on(model, direction)

        def draw(seed: int) -> Image.Image:
            (noise,) = self._noises(seed, 1, model, before.size)
            start = prior_start(model.schedule, noise, model.prior_mean, model.prior_deviation)
            with watch.stage("network"):
                made = self._picture(translate(pixels, context, request.strength, start), model, seed)
            return made.resize(own_size(request.picture), Image.Resampling.LANCZOS) if request.fit == "keep" else made

        if request.strength == 1 and request.count > 1:
            notes.append("strength 1 has one answer; lower it for variations")
            pictures, seeds = self._each_seed(dataclasses.replace(request, count=1), work, draw)
        else:
            pictures, seeds = self._each_seed(request, work, draw)
        return Result(request, pictures, seeds, 1, watch.seconds, cut, before, lines, tuple(notes))

    def _laid_out(self, request: TranslateRequest, model: LoadedModel, size: int) -> tuple[Image.Image, list[str]]:
        """The picture as it is translated, and what was done to it in words."""
        if request.fit != "keep":
            note = square_note(request.picture, request.fit)
            return square(request.picture, size, request.fit), [note] if note else []
        laid_out = whole(request.picture, size, model.pixels_per_latent)
        shapes = [f"{width} x {height}" for width, height in (request.picture.size, laid_out.size)]
        notes = [f"{shapes[0]}: drawn at {shapes[1]}"] if shapes[0] != shapes[1] else []
        width, height = own_size(request.picture)
        if (width, height) != request.picture.size:
            notes.append(f"given back at {width} x {height}: at most {OWN_SIDE} pixels a side")
        return laid_out, notes

    def _each_seed(
        self, request: GenerateRequest, work: _Work, draw: Callable[[int], Image.Image]
    ) -> tuple[list[Image.Image], list[int]]:
        """The pictures of a request and their seeds.

        One at a time: arithmetic in a batch rounds differently, and a seed must mean one picture.
        """
        seeds = [(request.seed + index) % 2**32 for index in range(request.count)]
        pictures = []
        for number, seed in enumerate(seeds, 1):
            work.report(f"Drawing picture {number} of {request.count}")
            pictures.append(draw(seed))
        return pictures, seeds

    def _picture(self, decoded: Tensor, model: LoadedModel, seed: int) -> Image.Image:
        if not torch.isfinite(decoded).all():
            raise PictureError(f"{model.spec.title} returned NaN for seed {seed}; try another seed or weaker LoRAs.")
        return to_pil(decoded)[0]

    def _translator(
        self, request: TranslateRequest, model: LoadedModel, report: Callable[[str], None]
    ) -> LoadedTranslator:
        name = request.translator
        if name not in self.translators:
            known = f"choose one of {', '.join(self.translators)}" if self.translators else "none are here"
            raise RequestError(f"There is no translator {name!r:.60}; {known}.")
        return self._translations.get(
            (request.model, name), lambda: load_translator(self.translators[name], model, report)
        )

    def _size(self, request: GenerateRequest, model: LoadedModel) -> int:
        size, unit = request.size or model.spec.resolution, model.pixels_per_latent
        if size > max(model.spec.sizes) or size % unit:
            raise RequestError(
                f"{model.spec.title} draws up to {max(model.spec.sizes)} pixels in steps of {unit}, not {size}."
            )
        return size

    def _sample(
        self,
        request: GenerateRequest,
        model: LoadedModel,
        denoise: Denoise,
        context: Tensor,
        noises: list[Tensor],
        latent: Tensor | None,
    ) -> tuple[Tensor, int]:
        """A clean latent (1, C, h, w), and the number of timesteps that it took.

        Args:
            latent: (1, C, h, w) of the picture to edit; None to begin from nothing.
        """
        schedule, last = model.schedule, model.schedule.last
        t = last if latent is None else strength_timestep(schedule, request.strength, noises[0].shape[-1])
        if t == 0:
            return latent, 0
        if t == last:
            start = prior_start(schedule, noises[0], model.prior_mean, model.prior_deviation)
        else:
            start = sdedit_start(schedule, latent, noises[0], t)
        if request.sampler == "ddim":
            return ddim(denoise, schedule, start, context, request.steps), request.steps
        timesteps = edit_timesteps(request.steps, t, len(schedule))
        return few_step(denoise, schedule, start, context, timesteps, noises[1:]), request.steps

    def _canvas(self, request: EditRequest, model: LoadedModel, size: int) -> tuple[Canvas, Tensor]:
        """The picture of an edit as it is laid out, and its latent (1, C, h, w)."""
        given = (digest(request.picture), digest(request.mask), request.feather, request.grow, request.fit)

        def make() -> tuple[Canvas, Tensor]:
            canvas = lay_out(request, size)
            pixels = to_tensor(canvas.picture).to(self.device, model.autoencoder.dtype)
            latent = encode(model.autoencoder, pixels.contiguous(memory_format=torch.channels_last))
            return canvas, latent.to(model.unet.dtype)

        return self._latents.get((request.model, size, *given), make)

    def _map(self, use: ControlUse, size: int | None, report: Callable[[str], None]) -> Image.Image:
        """The map of a picture, made square first; `size` None: it is laid out already."""
        key = (digest(use.picture), size, use.annotator, use.low, use.high, use.fit)

        def make() -> Image.Image:
            laid_out = use.picture if size is None else square(use.picture, size, use.fit)
            return self.annotate(laid_out, use, report)

        return self._maps.get(key, make)

    def _guide(
        self, use: ControlUse, name: str, model: LoadedModel, control_map: Image.Image, report: Callable[[str], None]
    ) -> Guide:
        chosen = choose_control(self.controls, use, model.spec.family)
        network = self._networks.get((name, chosen), lambda: load_control(self.controls[chosen], model, report))
        values = map_tensor(control_map).to(self.device, model.unet.dtype)
        return Guide(network, values, model.schedule.last, use.strength, use.start, use.end)

    def _noises(self, seed: int, count: int, model: LoadedModel, size: tuple[int, int]) -> list[Tensor]:
        """Standard normal noises of one picture, drawn on the CPU so that a seed means the same on every device.

        Args:
            size: width and height of the picture.
        """
        generator = torch.Generator().manual_seed(seed)
        width, height = (side // model.pixels_per_latent for side in size)
        shape = (1, model.unet.config.in_channels, height, width)
        drawn = [torch.randn(shape, generator=generator) for _ in range(count)]
        return [
            noise.to(self.device, model.unet.dtype).contiguous(memory_format=torch.channels_last) for noise in drawn
        ]

    def _context(self, request: GenerateRequest, model: LoadedModel, text: str) -> tuple[Tensor, str]:
        """(1, L, D) encoded prompt, and the part of the text that did not fit; remembered by text.

        A LoRA may change the text encoder, so the set in force is part of the key.
        """

        def make() -> tuple[Tensor, str]:
            limit = model.tokenizer.model_max_length
            words = model.spec.words.spelled_out(text)
            options = {"truncation": True, "max_length": limit, "return_tensors": "pt"}
            tokens = model.tokenizer(words, padding="max_length", **options).input_ids
            whole = model.tokenizer(words).input_ids
            cut = model.tokenizer.decode(whole[limit - 1 : -1]) if len(whole) > limit else ""
            return model.text_encoder(tokens.to(self.device))[0].to(model.unet.dtype), cut

        return self._contexts.get((request.model, model.loras.active_on("text_encoder"), text), make)

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
        for memory in (self._contexts, self._networks, self._latents, self._translations):
            memory.forget(lambda key: key[0] == name)

    def _lora(self, model_name: str, model: LoadedModel, name: str) -> Lora:
        if name not in self._lora_files:
            raise RequestError(f"There is no LoRA {name!r:.60} in the library; add its file first.")
        key = (model_name, name)
        if key not in self._admitted:
            admitted = admit(self._lora_files[name], model.loras.for_requests)
            if len(self._admitted) >= LORAS_IN_MEMORY:
                del self._admitted[next(iter(self._admitted))]
                self._contexts.forget()  # they are told apart by the identity of LoRAs that may be gone now
            self._admitted[key] = admitted
        return self._admitted[key]
