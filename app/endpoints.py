"""What programs can ask for, over HTTP and as MCP tools: the functions of the page with named, defaulted parameters."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.lora_picker import LoraPicker
from app.pictures import png_files, run, save_picture
from yoso_core import sheets
from yoso_core.drawing import PictureError, Result
from yoso_core.files.pictures import Opened, open_mask, open_picture
from yoso_core.lora.library import by_name
from yoso_core.prompts import take_loras
from yoso_core.requests import (
    SIZE_RANGE,
    SIZE_STEP,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
    check_text,
    check_whole,
    parse_size,
)
from yoso_core.service import Service


def in_one_sentence(function: Callable) -> Callable:
    """Whatever is refused reaches the caller as one sentence."""

    @functools.wraps(function)
    def answer(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (RequestError, PictureError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    return answer


def parse_loras(text: str) -> tuple[LoraUse, ...]:
    """``NAME:WEIGHT, NAME``, as people write it.

    Raises:
        RequestError: a weight is no number, or it is no text at all.
    """
    uses = []
    if not isinstance(text, str):
        raise RequestError("LoRAs are written NAME:0.8, NAME.")
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            number = float(weight or 1)
        except ValueError:
            raise RequestError(f"LoRAs are written NAME:0.8, NAME, and not {part!r:.60}.") from None
        uses.append(LoraUse(name.strip(), number))
    return tuple(uses)


def build_endpoints(engine: Service, picker: LoraPicker, folder: str, listening: dict[str, Any]) -> None:
    """Register all of them; to be called inside ``gr.Blocks``.

    Args:
        engine: answers the requests.
        picker: the LoRAs that can be named.
        folder: Gradio's cache.
        listening: queue rules that all listeners share.
    """

    def files(result: Result) -> list[dict]:
        return [png(path) for path in png_files(result, folder)]

    def about(result: Result, given: Opened | None = None) -> dict[str, Any]:
        """What it took, and what was done to the picture that was given and to what was asked."""
        names = ("evaluations", "seeds", "seconds", "cut", "runtime")
        notes = [*(given.notes if given else ()), *result.notes]
        return {name: getattr(result, name) for name in names} | {"notes": notes}

    def asked(prompt: str, loras: str) -> tuple[str, tuple[LoraUse, ...]]:
        """A prompt and its LoRAs: those that are named, and those of its tags."""
        offered = by_name(picker.known[shared] for shared in picker.shared)
        return take_loras(check_text("The prompt", prompt), parse_loras(loras), offered)

    def control_of(
        picture: Image.Image | None, annotator: str, strength: float, fit: str = "keep"
    ) -> ControlUse | None:
        if not annotator:
            return None
        if picture is None:
            raise RequestError("Control needs a picture; give one as `control`.")
        return ControlUse(picture=picture, annotator=annotator, strength=strength, fit=fit)

    def png(path: str) -> dict:
        return gr.FileData(path=path, mime_type="image/png").model_dump()

    def read(file: Any) -> Opened:
        return open_picture(uploaded(file))

    def uploaded(file: Any) -> Path:
        """Where an uploaded file is. Gradio moves uploads to its cache, but only where the client calls them files."""
        try:
            path = Path(str(file["path"] if isinstance(file, dict) and "path" in file else "")).resolve()
            ours = path.is_relative_to(Path(folder).resolve())
        except (OSError, ValueError):  # names that no path can have
            ours = False
        if not ours:
            raise RequestError("A picture must be an uploaded file.")
        return path

    def generate(
        prompt: str = "",
        negative: str = "",
        seed: int = 0,
        steps: int = 1,
        guidance: float | None = None,
        count: int = 1,
        model: str = engine.first,
        size: int | str | None = None,
        loras: str = "",
        one_step: float = 1.0,
        control: gr.FileData | None = None,
        annotator: str = "",
        control_strength: float = 1.0,
        sampler: str | None = None,
    ) -> tuple[list[gr.FileData], dict]:
        """Make pictures from a prompt: PNG files with their settings inside, and a JSON object about them.

        `size` is the side of a square, or width and height such as "640x384".
        `loras` is such as "line-art:0.8, blueprint-ink:0.4", beside tags in the prompt; `control` with `annotator`
        ("canny", "scribble", "map") is a picture whose lines to follow. `sampler` is "lcm" or "tcd" at 1, 2 or 4 steps,
        "ddim" or "dpm++" at 2 to 50, as far as the model has them; left out, it and `guidance` are the model's own.
        """
        given = read(control) if annotator and control else None
        prompt, uses = asked(prompt, loras)
        request = GenerateRequest(
            prompt,
            negative,
            seed,
            steps,
            guidance,
            count,
            model,
            parse_size(size) if isinstance(size, str) else size,
            uses,
            one_step,
            sampler,
            control=control_of(given and given.picture, annotator, control_strength),
        )
        result = run(engine, request)
        return files(result), about(result, given)

    def edit(
        picture: gr.FileData,
        prompt: str = "",
        strength: float = 0.5,
        mask: gr.FileData | None = None,
        feather: float = 0.05,
        grow: float = 0.0,
        fit: str = "keep",
        negative: str = "",
        seed: int = 0,
        steps: int = 1,
        guidance: float | None = None,
        count: int = 1,
        model: str = engine.first,
        size: int | None = None,
        loras: str = "",
        one_step: float = 1.0,
        annotator: str = "",
        control_strength: float = 1.0,
        sampler: str | None = None,
    ) -> tuple[list[gr.FileData], dict]:
        """Edit a picture: strength 0 keeps it, 1 forgets it; white in `mask` says where to repaint,
        what is transparent in it is not.

        `grow` paints around the picture; `annotator` ("canny", "scribble") makes the result follow its lines.
        `sampler` and `guidance` are as of `generate`.
        """
        given = read(picture)
        prompt, uses = asked(prompt, loras)
        request = EditRequest(
            prompt,
            negative,
            seed,
            steps,
            guidance,
            count,
            model,
            size,
            uses,
            one_step,
            sampler,
            control=control_of(given.picture, annotator, control_strength, fit),
            picture=given.picture,
            strength=strength,
            mask=open_mask(uploaded(mask)) if mask else None,
            feather=feather,
            grow=grow,
            fit=fit,
        )
        result = run(engine, request)
        return files(result), about(result, given)

    def translate(
        picture: gr.FileData,
        translator: str,
        prompt: str = "",
        direction: str = "",
        strength: float = 1.0,
        seed: int = 0,
        count: int = 1,
        annotator: str = "canny",
        low: int = 100,
        high: int = 200,
        fit: str = "keep",
        model: str = engine.first,
        size: int | None = None,
        loras: str = "",
        one_step: float = 1.0,
    ) -> tuple[list[gr.FileData], dict]:
        """Translate a picture, its structure and its size kept, by one of `translators` in one of its directions.

        Strength 1 has one answer, below it each seed gives a variation; `annotator` ("canny", "scribble" for drawings,
        "map") finds the lines of a translator that wants lines.
        """
        given = read(picture)
        prompt, uses = asked(prompt, loras)
        request = TranslateRequest(
            prompt,
            seed=seed,
            count=count,
            model=model,
            size=size,
            loras=uses,
            one_step=one_step,
            picture=given.picture,
            translator=translator,
            direction=direction,
            strength=strength,
            annotator=annotator,
            low=low,
            high=high,
            fit=fit,
        )
        result = run(engine, request)
        return files(result), about(result, given)

    def translators() -> list[dict]:
        """The translators that can be named here, and their directions; a fixed prompt takes the place of yours."""
        told = ("title", "family", "licence", "input")
        return [
            {"id": name}
            | {each: getattr(spec, each) for each in told}
            | {"directions": {key: asdict(way) for key, way in spec.directions.items()}}
            for name, spec in engine.translators.items()
        ]

    def control_map(
        picture: gr.FileData, annotator: str = "canny", low: int = 100, high: int = 200, size: int = 64
    ) -> gr.FileData:
        """The map that a ControlNet would be given of a picture."""
        side = check_whole("The size", size, *SIZE_RANGE, SIZE_STEP)
        use = ControlUse(picture=read(picture).picture, annotator=annotator, low=low, high=high)
        found = engine.control_map(use, side)
        return png(save_picture(found, "map.png", folder))

    def ladder(prompt: str = "", seed: int = 0, model: str = engine.first, loras: str = "") -> tuple[gr.FileData, list]:
        """The ladder: one prompt and seed in 1, 2 and 4 steps, by the teacher, and without the one-step LoRA."""
        prompt, uses = asked(prompt, loras)
        sheet = sheets.ladder(engine, GenerateRequest(prompt, seed=seed, model=model, loras=uses))
        results = list(sheets.run(engine, sheet))
        path = save_picture(sheets.draw(sheet, results), "ladder.png", folder)
        rungs = [{"rung": title} | about(result) for title, result in zip(sheet.columns, results, strict=True)]
        return png(path), rungs

    def grid(
        prompt: str = "",
        x: str = "seed=0,1,2,3",
        y: str = "steps=1,2",
        seed: int = 0,
        model: str = engine.first,
        loras: str = "",
    ) -> gr.FileData:
        """A labelled grid over two settings, such as x "seed=0,1,2" and y "lora.line-art=0:1:3"."""
        prompt, uses = asked(prompt, loras)
        request = GenerateRequest(prompt, seed=seed, model=model, loras=uses)
        sheet = sheets.grid(request, sheets.parse_axis(x), sheets.parse_axis(y) if y else None)
        path = save_picture(sheets.draw(sheet, list(sheets.run(engine, sheet))), "grid.png", folder)
        return png(path)

    def loras() -> list[dict]:
        """The LoRAs that everybody can name here."""
        told = ("id", "title", "family", "trigger", "licence", "bytes")
        return [{name: getattr(picker.known[shared], name) for name in told} for shared in picker.shared]

    for function in (
        generate,
        edit,
        translate,
        control_map,
        ladder,
        grid,
        loras,
        translators,
    ):  # a tool is named after its function
        gr.api(in_one_sentence(function), api_name=function.__name__, **listening)
