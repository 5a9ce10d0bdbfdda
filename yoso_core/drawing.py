"""What becomes of a request: one plain function a kind, from the prompt to the pictures.

The engine has settled under its lock whatever must be settled (the model, its weights, what is remembered), and hands
over `Tools`. Nothing here outlives the request.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from yoso_core.autoencoder import to_pil
from yoso_core.condition import Condition, cat
from yoso_core.conditioning import Guide
from yoso_core.denoiser import Denoise, Denoiser, guided
from yoso_core.editing import Canvas, latent_mask, put_together
from yoso_core.files.pictures import OWN_SIDE, fit_note, fitted, own_size, whole
from yoso_core.loading import LoadedModel
from yoso_core.prompts import Asked, Prompt, as_it_is, read_request
from yoso_core.requests import FEW_STEP_SAMPLERS, ControlUse, EditRequest, GenerateRequest, TranslateRequest
from yoso_core.runtimes.networks import Networks
from yoso_core.sampling import KNOWN, begun_at, prior_start, repaint, sdedit_start, strength_timestep
from yoso_core.translate import LoadedTranslator, input_tensor


class PictureError(RuntimeError):
    """A valid request that no picture came of: NaN, or not enough memory. The next request works."""


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
        runtime: who executed the networks, such as "openvino bf16".
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
    runtime: str = ""


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
class LoadedDirections:
    """A translator in memory.

    Attributes:
        loaded: what it is.
        translate: by direction, called as a `Translator` is.
    """

    loaded: LoadedTranslator
    translate: dict[str, Callable[..., Tensor]]


@dataclass(frozen=True)
class Tools:
    """What a request is worked on with.

    Attributes:
        model: the model, with the LoRAs of the request in force.
        networks: its networks, as they are executed.
        size: width and height of the pictures in pixels.
        watch: takes the time.
        report: told in a few words what is happening.
        condition: of a prompt, of one row, and the words that did not fit.
        canvas: of an edit, laid out, and its latent (1, C, h, w).
        control_map: of a picture that is to be followed, brought to a size, or as it is where the size is None.
        guide: what follows a map.
    """

    model: LoadedModel
    networks: Networks
    size: tuple[int, int]
    watch: Stopwatch
    report: Callable[[str], None]
    condition: Callable[[Prompt], tuple[Condition, str]]
    canvas: Callable[[EditRequest], tuple[Canvas, Tensor]]
    control_map: Callable[[ControlUse, int | None], Image.Image]
    guide: Callable[[ControlUse, Image.Image], Guide]


def seeds_of(request: GenerateRequest) -> list[int]:
    """One a picture."""
    return [(request.seed + index) % 2**32 for index in range(request.count)]


Row = TypeVar("Row")


def passes(rows: Sequence[Row], most: int) -> Iterator[tuple[int, list[Row]]]:
    """Rows by passes of at most so many, with the number of the first: of 1, 2, 4, ... each, because every other shape
    would have to be made ready too. The last row fills up what is left.
    """
    for start in range(0, len(rows), most):
        batch = list(rows[start : start + most])
        room = 2 ** (len(batch) - 1).bit_length()
        yield start, batch + batch[-1:] * (room - len(batch))


def draw(requests: Sequence[GenerateRequest], tools: Tools) -> list[Result]:
    """Pictures from words.

    Args:
        requests: those that may differ in prompt, negative prompt, seed and count alone: their pictures share passes of
            the network where the runtime gains by it.
    """
    first, model, watch = requests[0], tools.model, tools.watch
    guidance = _guidance(first, model)
    with watch.stage("text"):
        asked = [read_request(request) for request in requests]
        read = [tools.condition(one.prompt) for one in asked]
        negatives = [tools.condition(one.negative)[0] if guidance > 1 else read[0][0] for one in asked]
    if len({condition.shapes for condition, _ in read}) > 1:  # prompts of several parts are longer
        return [draw([request], tools)[0] for request in requests]
    guide, control_map, notes = _followed(first, tools)
    rows = [(number, seed) for number, request in enumerate(requests) for seed in seeds_of(request)]
    pictures: list[list[Image.Image]] = [[] for _ in requests]
    timesteps = _timesteps(first, model, model.schedule.last)
    for start, batch in passes(rows, tools.networks.runtime.batch):
        tools.report(f"Drawing picture {start + 1} of {len(rows)}")
        condition = cat([read[number][0] for number, _ in batch])
        negative = cat([negatives[number] for number, _ in batch])
        denoise = _guided(_denoiser(first, tools, guide), guidance, negative, tools)
        noises = _noises([seed for _, seed in batch], first, tools)
        with watch.stage("network"):
            begin = prior_start(model.schedule, noises[0], model.prior_mean, model.prior_deviation)
            clean = _sample(first, model, denoise, condition, begin, timesteps, noises)
        with watch.stage("decode"):
            made = _pictures(tools.networks.decode(clean), model, [seed for _, seed in batch])
        for (number, _), picture in zip(rows[start : start + len(batch)], made, strict=False):
            pictures[number].append(picture)
    evaluations = len(timesteps) * (2 if guidance > 1 else 1)
    return [
        Result(
            request=request,
            pictures=pictures[number],
            seeds=seeds_of(request),
            evaluations=evaluations,
            seconds=watch.seconds,
            cut=read[number][1],
            control_map=control_map,
            notes=_told(asked[number], model, notes),
        )
        for number, request in enumerate(requests)
    ]


def edit(request: EditRequest, tools: Tools) -> Result:
    """Pictures from a picture and words."""
    model, watch = tools.model, tools.watch
    guidance = _guidance(request, model)
    with watch.stage("text"):
        asked = read_request(request)
        condition, cut = tools.condition(asked.prompt)
        negative = tools.condition(asked.negative)[0] if guidance > 1 else condition
    guide, control_map, notes = _followed(request, tools)
    with watch.stage("encode"):
        canvas, latent = tools.canvas(request)
    denoise = _guided(_denoiser(request, tools, guide), guidance, negative, tools)
    if canvas.mask is not None:
        denoise = repaint(denoise, latent, latent_mask(canvas.mask, latent.shape[2:]).to(latent))
    t = strength_timestep(model.schedule, request.strength, latent.shape[-1])
    timesteps = _timesteps(request, model, t) if t > 0 else []
    seeds, pictures = seeds_of(request), []
    for start, batch in passes(seeds, tools.networks.runtime.batch):
        tools.report(f"Drawing picture {start + 1} of {len(seeds)}")
        noises = _noises(batch, request, tools)
        with watch.stage("network"):
            clean = given = latent.expand(len(batch), -1, -1, -1)
            if t > 0:
                begin = (
                    prior_start(model.schedule, noises[0], model.prior_mean, model.prior_deviation)
                    if t == model.schedule.last
                    else sdedit_start(model.schedule, given, noises[0], timesteps[0])
                )
                clean = _sample(request, model, denoise, condition.expand(len(batch)), begin, timesteps, noises)
        with watch.stage("decode"):
            made = _pictures(tools.networks.decode(clean), model, batch)
            pictures += [put_together(canvas, picture) for picture in made[: len(seeds) - start]]
    evaluations = len(timesteps) * (2 if guidance > 1 else 1)
    told = _told(asked, model, [*notes, *canvas.notes])
    return Result(request, pictures, seeds, evaluations, watch.seconds, cut, canvas.picture, control_map, told)


def translate(request: TranslateRequest, tools: Tools, translator: LoadedDirections) -> Result:
    """Pictures from a picture, its structure kept."""
    model, watch, spec = tools.model, tools.watch, translator.loaded.spec
    direction = spec.direction(request.direction)
    fixed = spec.directions[direction].prompt
    with watch.stage("text"):
        asked = read_request(request)
        condition, cut = tools.condition(asked.prompt if fixed is None else as_it_is(fixed))
    before, notes = _laid_out(request, model, tools.size)
    notes += asked.notes if fixed is None else ()
    if fixed is not None and request.prompt.strip() not in ("", fixed):
        title = spec.directions[direction].title
        notes.append(f"“{title}” always reads the prompt “{fixed}”; yours was not used.")
    lines = None
    if spec.input == "lines":
        with watch.stage("control"):
            lines = tools.control_map(dataclasses.replace(request.lines, picture=before), None)
    pixels = input_tensor(before if lines is None else lines, spec)
    pixels = pixels.to(model.device, model.autoencoder.dtype).contiguous(memory_format=torch.channels_last)
    seeds, pictures = seeds_of(request), []
    if request.strength == 1 and request.count > 1:
        notes.append("strength 1 has one answer; lower it for variations")
        del seeds[1:]
    for number, seed in enumerate(seeds, 1):
        tools.report(f"Drawing picture {number} of {len(seeds)}")
        (noise,) = _noises([seed], request, tools, before.size, 1)
        with watch.stage("network"):
            start = prior_start(model.schedule, noise, model.prior_mean, model.prior_deviation)
            made = translator.translate[direction](pixels, condition, request.strength, start)
            (picture,) = _pictures(made, model, [seed])
        if request.fit == "keep":
            picture = picture.resize(own_size(request.picture), Image.Resampling.LANCZOS)
        pictures.append(picture)
    return Result(request, pictures, seeds, 1, watch.seconds, cut, before, lines, tuple(notes))


def _told(asked: Asked, model: LoadedModel, notes: Sequence[str]) -> tuple[str, ...]:
    """What is said about a request, of its words first."""
    unused = [] if model.family.weighs else _unused(asked, model)
    return tuple(filter(None, [*asked.notes, *unused, model.spec.words.note(asked.prompt.words), *notes]))


def _unused(asked: Asked, model: LoadedModel) -> list[str]:
    """What is said of a request whose words a model reads all alike."""
    spans = [span for part in asked.prompt.parts for span in part]
    weighed = len(asked.prompt.parts) > 1 or any(span.weight != 1 for span in spans)
    return [f"{model.spec.title} reads all words alike: weights and BREAK were left out."] if weighed else []


def _guidance(request: GenerateRequest, model: LoadedModel) -> float:
    """Of classifier-free guidance, 1 being none: a network that is told of guidance needs no second evaluation."""
    return request.guidance if model.spec.offer.guided == "freely" else 1.0


def _guided(denoise: Denoise, guidance: float, negative: Condition, tools: Tools) -> Denoise:
    """Where every shape has to be made ready and batches gain nothing, guidance needs none of its own."""
    runtime = tools.networks.runtime
    return guided(denoise, guidance, negative, together=runtime.batch > 1 or not runtime.prepares)


def _followed(request: GenerateRequest, tools: Tools) -> tuple[Guide | None, Image.Image | None, list[str]]:
    """What follows the map of a request, the map, and what was done to make it; nothing where nothing is followed."""
    use = request.control
    if use is None:
        return None, None, []
    with tools.watch.stage("control"):
        made = tools.control_map(use, tools.size)
        return tools.guide(use, made), made, list(filter(None, [fit_note(use.picture, tools.size, use.fit)]))


def _denoiser(request: GenerateRequest, tools: Tools, guide: Guide | None) -> Denoiser:
    """The network as its sampler wants it: what follows a diffusion path takes the plain estimate."""
    model, sampler = tools.model, KNOWN[request.sampler]
    return Denoiser(tools.networks.predict, model.schedule, model.prediction, sampler.consistent, guide)


def _timesteps(request: GenerateRequest, model: LoadedModel, t: int) -> list[int]:
    """Where the network is run, falling from t."""
    own = next((own for own in model.spec.timesteps if len(own) == request.steps), ())
    if own and request.sampler in FEW_STEP_SAMPLERS:
        return begun_at(own, t, len(model.schedule))
    return KNOWN[request.sampler].timesteps(request.steps, t, len(model.schedule))


def _sample(
    request: GenerateRequest,
    model: LoadedModel,
    denoise: Denoise,
    condition: Condition,
    start: Tensor,
    timesteps: Sequence[int],
    noises: Sequence[Tensor],
) -> Tensor:
    """Clean latents (B, C, h, w).

    Args:
        start: z_t at ``timesteps[0]``.
        noises: as many as the sampler takes; the first is in `start`.
    """
    return KNOWN[request.sampler].sample(denoise, model.schedule, start, condition, timesteps, noises[1:])


def _noises(
    seeds: Sequence[int],
    request: GenerateRequest,
    tools: Tools,
    size: tuple[int, int] | None = None,
    count: int | None = None,
) -> list[Tensor]:
    """Standard normal noises (B, C, h, w), drawn on the CPU so that a seed means the same on every device.

    Args:
        size: width and height of the pictures; None for those that were settled.
        count: how many, None for what the sampler takes.
    """
    model = tools.model
    count = count or KNOWN[request.sampler].noises(request.steps)
    width, height = (side // model.pixels_per_latent for side in size or tools.size)
    shape = (1, model.channels, height, width)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn = [torch.cat([torch.randn(shape, generator=one) for one in generators]) for _ in range(count)]
    return [noise.to(model.device, model.dtype).contiguous(memory_format=torch.channels_last) for noise in drawn]


def _pictures(decoded: Tensor, model: LoadedModel, seeds: Sequence[int]) -> list[Image.Image]:
    """
    Raises:
        PictureError: one is NaN.
    """
    for one, seed in zip(decoded, seeds, strict=True):
        if not torch.isfinite(one).all():
            raise PictureError(f"{model.spec.title} returned NaN for seed {seed}; try another seed or weaker LoRAs.")
    return to_pil(decoded)


def _laid_out(request: TranslateRequest, model: LoadedModel, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """The picture as it is translated, and what was done to it in words."""
    if request.fit != "keep":
        note = fit_note(request.picture, size, request.fit)
        return fitted(request.picture, size, request.fit), [note] if note else []
    laid_out = whole(request.picture, size, model.pixels_per_latent)
    shapes = [f"{width} x {height}" for width, height in (request.picture.size, laid_out.size)]
    notes = [f"{shapes[0]}: drawn at {shapes[1]}"] if shapes[0] != shapes[1] else []
    width, height = own_size(request.picture)
    if (width, height) != request.picture.size:
        notes.append(f"given back at {width} x {height}: at most {OWN_SIDE} pixels a side")
    return laid_out, notes
