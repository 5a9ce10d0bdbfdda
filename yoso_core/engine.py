"""The engine: owner of weights, adapters and device. Requests in, results out, one at a time."""

import dataclasses
import gc
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from yoso_core.autoencoder import to_tensor
from yoso_core.condition import Condition
from yoso_core.conditioning import (
    CONTROLS,
    Annotations,
    ControlSpec,
    Guide,
    choose_control,
    load_control,
    map_tensor,
)
from yoso_core.devices import device_named, free_memory
from yoso_core.drawing import (
    LoadedDirections,
    PictureError,
    Result,
    Stopwatch,
    Tools,
    draw,
    edit,
    seeds_of,
    translate,
)
from yoso_core.editing import Canvas, lay_out
from yoso_core.families.base import Encoded
from yoso_core.files.pictures import fitted, shape_of
from yoso_core.loading import LoadedModel, load_model
from yoso_core.lora.admission import admit
from yoso_core.lora.changes import Lora
from yoso_core.machine import memory_of
from yoso_core.models import MODELS, ModelSpec
from yoso_core.prompts import Prompt, has_choices
from yoso_core.requests import (
    SIZE_STEP,
    ControlUse,
    EditRequest,
    GenerateRequest,
    RequestError,
    TranslateRequest,
    sides_of,
)
from yoso_core.runtimes.choice import choose_runtime
from yoso_core.runtimes.networks import Networks, in_words
from yoso_core.runtimes.offloading import TakingTurns
from yoso_core.service import Report, Service, unheard
from yoso_core.translate import TranslatorSpec, load_translator
from yoso_core.turns import COME_FIRST

MODELS_IN_MEMORY = 2
CONTROLS_IN_MEMORY = 2
TRANSLATORS_IN_MEMORY = 2
LORAS_IN_MEMORY = 16  # admitted ones; more than one request may name
PROMPTS_IN_MEMORY = 256
ROUNDED = 1.02  # times the pixels of a square: what other shapes have once their sides are whole steps
PICTURES_IN_MEMORY = 8  # encoded ones, and control maps: what sliders are dragged over


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


def joined(request: GenerateRequest, results: Sequence[Result]) -> Result:
    """The results of one seed each as one; times add up, and what is told is told once."""
    seconds: dict[str, float] = {}
    for result in results:
        for stage, spent in result.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    return dataclasses.replace(
        results[0],
        request=request,
        pictures=[picture for result in results for picture in result.pictures],
        seeds=[seed for result in results for seed in result.seeds],
        seconds=seconds,
        cut=next((result.cut for result in results if result.cut), ""),
        notes=tuple(dict.fromkeys(note for result in results for note in result.notes)),
    )


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


@dataclass(eq=False)
class _Asked:
    """A request that waits for its answer.

    Attributes:
        answer: what came of it, or what kept it from being answered; None while it waits.
    """

    request: GenerateRequest
    report: Report
    answer: Result | BaseException | None = None


def _shares_passes(request: GenerateRequest) -> bool:
    """Whether its pictures can be drawn in one pass with another request's."""
    return type(request) is GenerateRequest and request.control is None


def _alike(request: GenerateRequest) -> GenerateRequest:
    """What requests that share passes have in common."""
    return dataclasses.replace(request, prompt="", negative="", seed=0, count=1)


def digest(picture: Image.Image | None) -> str:
    """A short text that is another for another picture."""
    if picture is None:
        return ""
    return hashlib.blake2b(picture.tobytes(), key=f"{picture.mode} {picture.size}".encode()).hexdigest()


def _kept_picture(request: GenerateRequest) -> Image.Image | None:
    """The picture whose shape the result shall have; translations see to their own."""
    if isinstance(request, TranslateRequest):
        return None
    if isinstance(request, EditRequest):
        return request.picture if request.fit == "keep" else None
    control = request.control
    return control.picture if control is not None and control.fit == "keep" and request.size is None else None


class Engine(Service):
    """Answers requests in this process, one pass of the networks at a time.

    Args:
        models, controls, translators, waits: as a `Service`'s.
        device: "cpu", "cuda", ...; None takes the best there is.
        dtype: overrides each model's own choice.
        runtime: who executes the networks: a key of `RUNTIMES`, or "auto" for the fastest that is here.

    Attributes:
        room: models that are in memory at the same time.
        free: says how many bytes are free where it computes; without end where that is the machine's own memory.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec] = MODELS,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        controls: Mapping[str, ControlSpec] = CONTROLS,
        translators: Mapping[str, TranslatorSpec] | None = None,
        runtime: str = "torch",
        waits: bool = True,
    ) -> None:
        super().__init__(models, controls, translators, waits)
        self.device = device_named(device)
        self.dtype = dtype
        self.annotate = Annotations()
        self.runtime = choose_runtime(runtime, self.device, self.lock)
        self.places, self.held, self.room = self.runtime.batch, self.runtime.held, MODELS_IN_MEMORY
        self.free = partial(free_memory, self.device) if self.device.type == "cuda" else lambda: math.inf
        self._waiting: list[_Asked] = []
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._executed: dict[str, Networks] = {}  # of the models in `_loaded`
        self._admitted: dict[tuple[str, str], Lora] = {}
        self._maps: Memory[Image.Image] = Memory(PICTURES_IN_MEMORY)
        # The keys of these begin with the model's name.
        self._conditions: Memory[Encoded] = Memory(PROMPTS_IN_MEMORY)
        self._networks: Memory[Callable[..., tuple[Tensor, ...]]] = Memory(CONTROLS_IN_MEMORY)
        self._latents: Memory[tuple[Canvas, Tensor]] = Memory(PICTURES_IN_MEMORY)
        self._translations: Memory[LoadedDirections] = Memory(TRANSLATORS_IN_MEMORY)

    def _forget_lora(self, name: str) -> None:
        self._admitted = {key: lora for key, lora in self._admitted.items() if key[1] != name}
        self._conditions.forget()  # they are told apart by the identity of LoRAs that may be gone now

    def _forget_control(self, name: str) -> None:
        self._networks.forget(lambda key: key[1] == name)

    def _forget_translator(self, name: str) -> None:
        self._translations.forget(lambda key: key[1] == name)

    def _is_loaded(self, name: str) -> bool:
        return name in self._loaded

    def check_lora(self, name: str, model: str) -> tuple[str, ...]:
        self._bring(self._missing(model), unheard)
        with self.lock, memory_guard():
            return self._lora(model, self._model(model, unheard), name).notes

    def load(self, name: str, report: Report = unheard) -> LoadedModel:
        """Bring a model into memory ahead of its first request, to be looked at, not changed; raises as `run` does.

        What makes its pictures fast is done at once. For a model that a request brings, it is done beside requests.
        """
        self._bring(self._missing(name), report)
        with self.lock, memory_guard():
            model = self._model(name, report)
            if self.runtime.prepares:
                self._warm_up(name, report)
            return model

    def answer(self, request: GenerateRequest, report: Report = unheard) -> Result:
        parts = self._parts(request)
        results = [self._in_turn(part, report) for part in parts]
        settled = dataclasses.replace(results[0].request, seed=request.seed, count=request.count)
        return joined(settled, results) if len(parts) > 1 else results[0]

    def _parts(self, request: GenerateRequest) -> list[GenerateRequest]:
        """A request as those that are drawn in one go each, so that others have their turn in between."""
        if isinstance(request, TranslateRequest) and request.strength == 1:  # which has one answer
            return [request]
        chooses = has_choices(request.prompt) or has_choices(request.negative)  # each picture for itself
        seeds, most = seeds_of(request), 1 if chooses else self.runtime.batch
        starts = range(0, request.count, most)
        return [dataclasses.replace(request, seed=seeds[start], count=len(seeds[start:][:most])) for start in starts]

    def _in_turn(self, request: GenerateRequest, report: Report) -> Result:
        mine = _Asked(request, report)
        if self.runtime.batch > 1 and _shares_passes(request):
            self._waiting.append(mine)
        with self.lock.told(lambda count: report(f"{count} {COME_FIRST}")):
            if mine.answer is None:  # it may have been drawn together with another's
                self._answer(self._company(mine))
        if isinstance(mine.answer, BaseException):
            raise mine.answer
        return mine.answer

    def _company(self, mine: "_Asked") -> list["_Asked"]:
        """This request, and those that wait for the lock and can share its passes of the network."""
        company = [mine]
        if mine in self._waiting:
            self._waiting.remove(mine)
            company += [one for one in list(self._waiting) if _alike(one.request) == _alike(mine.request)]
            company = company[: self.runtime.batch]
            for one in company[1:]:
                self._waiting.remove(one)
        return company

    def _answer(self, asked: Sequence["_Asked"]) -> None:
        """Write an answer to each, or why there is none."""
        since = time.perf_counter()
        try:
            with memory_guard(), torch.inference_mode():
                results = self._run([one.request for one in asked], asked[0].report)
        except BaseException as error:
            if len(asked) > 1:  # one's trouble is not another's
                for one in asked:
                    self._answer([one])
                return
            asked[0].answer = error
            return
        for one, result in zip(asked, results, strict=True):
            seconds = result.seconds | {"total": time.perf_counter() - since}
            one.answer = dataclasses.replace(result, seconds=seconds)

    def control_map(self, use: ControlUse, size: int, report: Report = unheard) -> Image.Image:
        with self.lock, memory_guard(), torch.inference_mode():
            shape = shape_of(use.picture.size, size, SIZE_STEP) if use.fit == "keep" else sides_of(size)
            return self._map(use, shape, report)

    def _run(self, requests: Sequence[GenerateRequest], report: Report) -> list[Result]:
        """Settle what a request needs, and hand it on; of several, which share passes, what the first one needs."""
        request = requests[0]
        model = self._model(request.model, report)
        networks = self._executed[request.model]
        watch = Stopwatch(self.device)
        loras = [self._lora(request.model, model, use.name) for use in request.loras]
        uses = [(model.one_step, request.one_step)]
        uses += [(lora, use.weight) for lora, use in zip(loras, request.loras, strict=True)]
        asked = self._size(request, model)
        size = model.family.shape(model, asked)
        tools = Tools(
            model,
            networks,
            size,
            watch,
            report,
            condition=lambda prompt: self._condition(request, prompt, size),
            canvas=lambda request: self._canvas(request, size),
            control_map=lambda use, size: self._map(use, size, report),
            guide=lambda use, made: self._guide(use, request.model, made, report),
        )
        translator = None
        if isinstance(request, TranslateRequest):
            translator = self._translator(request, report)
            ways = translator.loaded.loras
            uses.append((ways[translator.loaded.spec.direction(request.direction)], request.strength))
        with watch.stage("weights"):
            networks.begin(uses)
        if translator is not None:
            results = [translate(request, tools, translator)]
        elif isinstance(request, EditRequest):
            results = [edit(request, tools)]
        else:
            results = draw(requests, tools)
        told = [note for lora in loras for note in lora.notes]
        if size != asked:
            told.append(f"drawn at {size[0]} x {size[1]}, the nearest shape that {model.spec.title} was made for")
        executed = in_words(networks.executed)
        return [dataclasses.replace(result, runtime=executed, notes=(*told, *result.notes)) for result in results]

    def _translator(self, request: TranslateRequest, report: Report) -> LoadedDirections:
        name, spec = request.translator, self._translator_spec(request.translator)

        def load() -> LoadedDirections:
            model, networks = self._loaded[request.model], self._executed[request.model]
            loaded = load_translator(spec, model, report)
            ways = {way: networks.translator(loaded.on(model, way)) for way in loaded.spec.directions}
            return LoadedDirections(loaded, ways)

        return self._translations.get((request.model, name), load)

    def _size(self, request: GenerateRequest, model: LoadedModel) -> tuple[int, int]:
        """Width and height as they are asked for, or in the shape of the picture that is kept."""
        spec, unit = model.spec, model.unit
        width, height = sides_of(request.size or spec.resolution)
        if width * height > ROUNDED * max(spec.sizes) ** 2 or width % unit or height % unit:
            raise RequestError(
                f"{spec.title} draws as many pixels as a square of {max(spec.sizes)} in steps of {unit}, "
                f"not {width if width == height else f'{width} x {height}'}."
            )
        if (kept := _kept_picture(request)) is not None:
            return shape_of(kept.size, (width, height), unit)
        if max(width, height) > spec.aspect * min(width, height):
            shapes = "squares" if spec.aspect == 1 else f"pictures up to {spec.aspect:g} times as long as short"
            raise RequestError(f"{spec.title} draws {shapes}, not {width} x {height}.")
        return width, height

    def _canvas(self, request: EditRequest, size: tuple[int, int]) -> tuple[Canvas, Tensor]:
        """The picture of an edit as it is laid out, and its latent (1, C, h, w)."""
        model, networks = self._loaded[request.model], self._executed[request.model]
        given = (digest(request.picture), digest(request.mask), request.feather, request.grow, request.fit)

        def make() -> tuple[Canvas, Tensor]:
            canvas = lay_out(request, size)
            pixels = to_tensor(canvas.picture).to(self.device, model.autoencoder.dtype)
            latent = networks.encode(pixels.contiguous(memory_format=torch.channels_last))
            return canvas, latent.to(model.dtype)

        return self._latents.get((request.model, size, *given), make)

    def _map(self, use: ControlUse, size: tuple[int, int] | None, report: Report) -> Image.Image:
        """The map of a picture in this size; `size` None: it is laid out already."""
        key = (digest(use.picture), size, use.annotator, use.low, use.high, use.fit)

        def make() -> Image.Image:
            laid_out = use.picture if size is None else fitted(use.picture, size, use.fit)
            return self.annotate(laid_out, use, report)

        return self._maps.get(key, make)

    def _guide(self, use: ControlUse, name: str, control_map: Image.Image, report: Report) -> Guide:
        model, networks = self._loaded[name], self._executed[name]
        chosen = choose_control(self.controls, use, model.spec.family)

        def load() -> Callable[..., tuple[Tensor, ...]]:
            return networks.control(load_control(self.controls[chosen], model, report))

        values = map_tensor(control_map).to(self.device, model.dtype)
        network = self._networks.get((name, chosen), load)
        return Guide(network, values, model.schedule.last, use.strength, use.start, use.end)

    def _condition(self, request: GenerateRequest, prompt: Prompt, size: tuple[int, int]) -> tuple[Condition, str]:
        """An encoded prompt, and the part of the text that did not fit; remembered by what it says.

        A LoRA may change the text encoders, so the set in force is part of the key.
        """
        name = request.model
        model, networks = self._loaded[name], self._executed[name]
        family = model.family

        def make() -> Encoded:
            condition, cut = family.encode(model, prompt.spelled(model.spec.words.spelled_out), networks.read)
            return Encoded(condition.to(self.device, model.dtype), cut)

        encoded = self._conditions.get((name, networks.state(*family.encoders), prompt.parts), make)
        return family.told(family.at_size(model, encoded.condition, size), request.guidance), encoded.cut

    def _model(self, name: str, report: Report) -> LoadedModel:
        spec = self._spec(name)
        if name not in self._loaded:
            while len(self._loaded) >= self.room:  # before, because two large ones may be all that fits
                self._forget(next(iter(self._loaded)))
            loaded = load_model(spec, self.device, self.dtype, report, partial(self._make_room, spec))
            loaded.loras.apply([(loaded.one_step, 1.0)])  # seconds on a large model, and part of loading it
            runtime = self.runtime
            if loaded.takes_turns:
                runtime = TakingTurns(self.device, memory_of(0, spec.resolution), self.free)
            self._loaded[name], self._executed[name] = loaded, Networks(loaded, runtime)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def _make_room(self, spec: ModelSpec, size: int) -> bool:
        """Whether a model's weights fit the device beside a picture; others are forgotten for that, the oldest first.

        One whose networks take turns has the device to itself.
        """
        for name in [name for name, model in self._loaded.items() if model.takes_turns]:
            self._forget(name)
        gc.collect()  # what hangs in circles has memory, too
        wanted = memory_of(size, spec.resolution)
        while self._loaded and self.free() < wanted:
            self._forget(next(iter(self._loaded)))
            gc.collect()
        return self.free() >= wanted

    def _warm_up(self, name: str, report: Report) -> None:
        """Draw a picture of the model's own size, so that the first that is asked for takes as long as the others."""
        report(f"Making {self.models[name].title} ready")
        networks = self._executed[name]
        networks.prepare = True
        try:
            with torch.inference_mode():
                self._run([self.completed(GenerateRequest("", model=name))], unheard)
        except PictureError:
            pass  # whoever asks for a picture is told
        finally:
            networks.prepare = False

    def _forget_model(self, name: str) -> None:
        if name in self._loaded:
            self._forget(name)

    def _forget(self, name: str) -> None:
        del self._loaded[name], self._executed[name]
        self._admitted = {key: lora for key, lora in self._admitted.items() if key[0] != name}
        for memory in (self._conditions, self._networks, self._latents, self._translations):
            memory.forget(lambda key: key[0] == name)

    def _lora(self, model_name: str, model: LoadedModel, name: str) -> Lora:
        path, key = self._lora_file(name), (model_name, name)
        if key not in self._admitted:
            admitted = admit(path, model.loras.for_requests)
            if len(self._admitted) >= LORAS_IN_MEMORY:
                del self._admitted[next(iter(self._admitted))]
                self._conditions.forget()  # they are told apart by the identity of LoRAs that may be gone now
            self._admitted[key] = admitted
        return self._admitted[key]
