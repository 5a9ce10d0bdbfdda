"""The Generate tab: words in, pictures out, while you type."""

import base64
import html
import io
import logging
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from yoso_core.engine import Engine, PictureError, Result
from yoso_core.metadata import png_info, read_request
from yoso_core.models import ModelSpec
from yoso_core.requests import (
    COUNT_LIMIT,
    DEFAULT_MODEL,
    GUIDANCE_LIMIT,
    GUIDANCE_STEP,
    PROMPT_LIMIT,
    STEPS,
    GenerateRequest,
    RequestError,
    check_text,
)

LOG = logging.getLogger(__name__)
EXAMPLES = ("a red heart", "grinning cat", "pizza", "rocket", "palm tree", "panda", "crown")
NO_STYLE = "any"
LOSSLESS_SIDE = 256  # up to this many pixels a PNG costs next to nothing; above, live pictures travel as JPEG
SHOWN_SIDE = 256  # smaller pictures are enlarged before they travel: browsers do it bilinearly, which looks soft
UPLOAD_PIXELS = 25_000_000

# Listeners without Python behind them, so that a press acts at once. `order` counts the explicit wishes for a picture.
FRESH_SEED = "Math.floor(Math.random() * 1000000)"
ON_GENERATE = f"(seed, keep, order) => [keep ? seed : {FRESH_SEED}, order + 1]"
ON_DICE = f"(order) => [{FRESH_SEED}, order + 1]"
ON_EXAMPLE = "(example, order) => [example, order + 1]"
ON_LOAD = "(order) => { document.querySelector('#prompt textarea')?.select(); return order + 1; }"
ON_SAVED = "() => setTimeout(() => document.querySelector('#download').click(), 50)"  # once the page has the new link
ON_PICK = """
element.addEventListener('click', event => {
    const picture = event.target.closest('button[data-seed]');
    if (picture) trigger('select', {seed: Number(picture.dataset.seed)});
});
"""


def with_style(prompt: str, style: str | None, styles: tuple[str, ...]) -> str:
    """The prompt as the model reads it: the chosen style is its last words, unless the prompt names one itself."""
    named = not {*styles}.isdisjoint(re.findall(r"\w+", prompt.lower()))
    return ", ".join(part for part in (prompt.strip(), "" if named or style == NO_STYLE else style) if part)


def licence(spec: ModelSpec) -> str:
    return f"Licence: {spec.licence}"


def first_style(spec: ModelSpec) -> str:
    """What the chips start with: without a style the model mixes all of them."""
    return next(iter(spec.styles), NO_STYLE)


def run(engine: Engine, request: GenerateRequest) -> Result:
    """Run a request; whatever goes wrong is one sentence in a ``gr.Error``."""
    try:
        return engine.run(request)
    except (RequestError, PictureError) as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception:  # whatever it is, the page must go on
        LOG.exception("unforeseen while drawing")
        raise gr.Error("Something went wrong that the server's log tells of; please try again.") from None


def data_uri(picture: Image.Image) -> str:
    """The picture as the page shows it; saved ones are neither enlarged nor compressed with loss."""
    if (factor := SHOWN_SIDE // max(picture.size)) > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    kind, options = ("PNG", {"compress_level": 1}) if max(picture.size) <= LOSSLESS_SIDE else ("JPEG", {"quality": 90})
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def stage_html(result: Result) -> str:
    """The pictures, in as square a grid as their number allows; several can be clicked."""
    prompt = html.escape(result.request.prompt or "no prompt")
    images = [
        (seed, f'<img src="{data_uri(picture)}" alt="{prompt}, seed {seed}" draggable="false">')
        for seed, picture in zip(result.seeds, result.pictures, strict=True)
    ]
    if len(images) > 1:
        cells = "".join(
            f'<button type="button" data-seed="{seed}" title="Keep the picture of seed {seed}">{image}</button>'
            for seed, image in images
        )
    else:
        cells = images[0][1]
    return f'<div class="pictures" style="--columns: {math.ceil(math.sqrt(len(images)))}">{cells}</div>'


def info_html(result: Result) -> str:
    """What it took to make the pictures, and what the model did not read."""
    evaluations, seeds = result.evaluations, result.seeds
    several = len(seeds) > 1
    parts = [f"{evaluations} network evaluation{'s' if evaluations > 1 else ''}{' a picture' if several else ''}"]
    parts += [f"{name} {seconds * 1000:.0f} ms" for name, seconds in result.seconds.items()]
    parts.append(f"seeds {seeds[0]} to {seeds[-1]}" if several else f"seed {seeds[0]}")
    lines = [f'<p class="figures">{" · ".join(f"<span>{part}</span>" for part in parts)}</p>']
    if not result.request.prompt:
        lines.append('<p class="note">Without a prompt the model draws what it likes.</p>')
    if result.cut:
        lines.append(f'<p class="note">Too long: the model did not read “{html.escape(result.cut)}”.</p>')
    return "".join(lines)


def problem_html(sentence: str) -> str:
    return f'<p class="note problem" role="alert">{html.escape(sentence)}</p>'


def saved_name(request: GenerateRequest, seed: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower()).strip("-")[:40].rstrip("-")
    return f"{words or 'picture'}-{seed}.png"


def png_bytes(result: Result, index: int) -> bytes:
    buffer = io.BytesIO()
    result.pictures[index].save(buffer, "PNG", pnginfo=png_info(result, index))
    return buffer.getvalue()


def png_files(result: Result, folder: str) -> list[str]:
    """Paths of the pictures as PNG with metadata, in Gradio's cache `folder`, which is cleaned up by age."""
    return [
        save_bytes_to_cache(png_bytes(result, index), saved_name(result.request, seed), folder)
        for index, seed in enumerate(result.seeds)
    ]


def download_file(result: Result, folder: str) -> str:
    """Path of what "Save" hands out: one PNG, or a zip of several."""
    paths = png_files(result, folder)
    if len(paths) == 1:
        return paths[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in paths:
            archive.write(path, Path(path).name)
    return save_bytes_to_cache(buffer.getvalue(), Path(paths[0]).with_suffix(".zip").name, folder)


def read_settings(path: str) -> GenerateRequest:
    """The request inside a PNG that was saved here.

    Raises:
        RequestError: it is no such PNG.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > UPLOAD_PIXELS:
                raise RequestError("This picture is too large; please choose a PNG saved here.")
            return read_request(picture)
    except RequestError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError("This file can't be read as a PNG; please choose one saved here.") from error


def model_controls(spec: ModelSpec, style: str) -> tuple[Any, Any]:
    """Style chips and sizes as `spec` has them."""
    return (
        gr.Radio(choices=[NO_STYLE, *spec.styles], value=style, visible=bool(spec.styles)),
        gr.Radio(choices=spec.sizes, value=spec.resolution, visible=len(spec.sizes) > 1),
    )


class GenerateTab:
    """Layout of the tab, and what its listeners do.

    Every picture on the page comes from the one listener `draw`, so that nothing can overtake it: Gradio runs it one
    at a time and, with ``always_last``, once more when inputs changed meanwhile. Buttons, examples and files only
    set inputs and count `order` up, which is one of its triggers.

    Args:
        engine: answers the requests.
        listening: queue rules that all listeners share.
    """

    def __init__(self, engine: Engine, listening: dict[str, Any]) -> None:
        self.engine, self.listening = engine, listening
        self.build_layout()
        self.connect()

    def build_layout(self) -> None:
        spec = self.engine.models[DEFAULT_MODEL]
        with gr.Row(elem_id="ask", equal_height=True):
            self.prompt = gr.Textbox(
                EXAMPLES[0],
                label="Prompt",
                show_label=False,
                container=False,
                placeholder="Type what you want to see",
                max_length=PROMPT_LIMIT,
                max_lines=4,
                autofocus=True,
                elem_id="prompt",
                scale=1,
            )
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", scale=0, min_width=132)
        with gr.Row(elem_id="how"):
            self.style = gr.Radio(
                [NO_STYLE, *spec.styles],
                value=first_style(spec),
                label="Style",
                container=False,
                elem_id="style",
                elem_classes="chips",
            )
            self.live = gr.Checkbox(
                True, label="Live", container=False, elem_id="live", elem_classes="switch", min_width=0
            )
        with gr.Row(elem_id="work"):
            with gr.Column(scale=5, min_width=320, elem_id="picture-column"):
                self.stage = gr.HTML('<div class="pictures empty"></div>', elem_id="stage", js_on_load=ON_PICK)
                with gr.Row(elem_id="under"):
                    self.info = gr.HTML(elem_id="info")
                    self.save = gr.Button("Save PNG", elem_id="save", size="sm", scale=0, min_width=110)
                    self.download = gr.DownloadButton(visible="hidden", elem_id="download")
            with gr.Column(scale=3, min_width=300, elem_id="settings"):
                self.build_settings(spec)

    def build_settings(self, spec: ModelSpec) -> None:
        self.model = gr.Dropdown(
            [(known.title, name) for name, known in self.engine.models.items()],
            value=DEFAULT_MODEL,
            label="Model",
            info=licence(spec),
            elem_id="model",
        )
        self.steps = gr.Radio(
            STEPS,
            value=1,
            label="Steps",
            info="Network evaluations a picture",
            elem_id="steps",
            elem_classes="segments",
        )
        self.count = gr.Slider(1, COUNT_LIMIT, 1, step=1, label="Pictures", elem_id="count", buttons=[])
        with gr.Row(elem_id="seeds", equal_height=True):
            self.seed = gr.Number(0, label="Seed", precision=0, elem_id="seed", min_width=100, scale=1)
            self.keep = gr.Checkbox(
                False, label="Lock", container=False, elem_id="keep", elem_classes="switch", min_width=0, scale=0
            )
            self.dice = gr.Button("Roll", elem_id="dice", scale=0, min_width=0)
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.guidance = gr.Slider(
                1,
                GUIDANCE_LIMIT,
                1,
                step=GUIDANCE_STEP,
                label="Guidance",
                info="1 is off; above, each step takes two evaluations",
                elem_id="guidance",
                buttons=[],
            )
            self.negative = gr.Textbox(
                "",
                label="Negative prompt",
                info="What to move away from; acts when guidance is above 1",
                max_length=PROMPT_LIMIT,
                elem_id="negative",
            )
            self.size = gr.Radio(
                spec.sizes,
                value=spec.resolution,
                label="Size in pixels",
                visible=len(spec.sizes) > 1,
                elem_id="size",
                elem_classes="segments",
            )
            self.upload = gr.UploadButton("Settings from a saved PNG", file_types=[".png"], size="sm", elem_id="upload")
        with gr.Row(elem_id="examples"):
            gr.HTML('<span class="label">Try</span>', elem_id="try")
            self.examples = [gr.Button(words, size="sm", min_width=0, elem_classes="example") for words in EXAMPLES]
        self.order = gr.Number(0, visible="hidden", precision=0)
        self.drawn = gr.State(0)  # the `order` of the last explicit wish that was met
        self.shown = gr.State(None)  # the request of the pictures on the page

    def connect(self) -> None:
        """Who listens to whom."""
        private = self.listening | {"api_visibility": "private"}
        typed = (self.prompt, self.negative, self.seed, self.style, self.steps, self.guidance, self.count, self.size)
        asked = {*typed, self.model, self.live, self.order, self.drawn, self.shown}
        gr.on(
            [
                self.order.change,
                self.live.change,
                *(component.change for component in typed),  # `input` is deaf to what is pasted
            ],
            self.draw,
            asked,
            [self.stage, self.info, self.shown, self.drawn],
            trigger_mode="always_last",  # the default drops what is typed while a picture is in the making
            show_progress="minimal",
            show_progress_on=self.stage,
            **private,
        )
        wish = [self.seed, self.order]
        gr.on([self.generate.click, self.prompt.submit], None, [self.seed, self.keep, self.order], wish, js=ON_GENERATE)
        self.dice.click(None, self.order, wish, js=ON_DICE)
        for example in self.examples:
            example.click(None, [example, self.order], [self.prompt, self.order], js=ON_EXAMPLE)
        self.stage.select(self.pick, self.order, [self.seed, self.keep, self.count, self.order], **private)
        self.model.select(
            self.choose_model,
            [self.model, self.order],
            [self.model, self.style, self.size, self.order],
            show_progress_on=self.stage,
            **private,
        )
        self.save.click(self.save_pictures, self.shown, self.download, show_progress="hidden", **private).success(
            None, js=ON_SAVED
        )
        everything = [self.prompt, self.style, self.negative, self.seed, self.keep, self.steps, self.guidance]
        everything += [self.count, self.model, self.size, self.order]
        self.upload.upload(self.restore, [self.upload, self.order], everything, show_progress="hidden", **private)

    def request(self, values: dict[Any, Any]) -> GenerateRequest:
        """What the controls ask for now."""
        check_text("The prompt", values[self.prompt])
        spec = self.engine.models.get(values[self.model])  # an unknown one is the engine's to refuse
        return GenerateRequest(
            prompt=with_style(values[self.prompt], values[self.style], spec.styles if spec else ()),
            negative=values[self.negative],
            seed=values[self.seed],
            steps=values[self.steps],
            guidance=values[self.guidance],
            count=values[self.count],
            model=values[self.model],
            size=values[self.size],
        )

    def draw(self, values: dict[Any, Any]) -> tuple[Any, ...]:
        """Make the pictures and say what they took.

        Problems are told on the page and not raised: after a failed listener Gradio forgets the input that waits.
        """
        order, wished = values[self.order], values[self.order] != values[self.drawn]
        try:
            request = self.request(values)
            if not wished and request == values[self.shown]:
                return gr.skip(), gr.skip(), gr.skip(), gr.skip()
            if not wished and not values[self.live]:
                return gr.skip(), '<p class="note">Press Generate for a new picture.</p>', gr.skip(), gr.skip()
            result = run(self.engine, request)
        except (RequestError, gr.Error) as error:
            sentence = getattr(error, "message", str(error))
            return '<div class="pictures empty"></div>', problem_html(sentence), None, order
        return stage_html(result), info_html(result), request, order

    def pick(self, order: int, event: gr.EventData) -> tuple[Any, ...]:
        """Go on with one picture of the grid."""
        return event.seed, True, 1, order + 1

    def choose_model(self, name: str, order: int, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:
        """Load a model while the page shows how far it is; back to the bundled one if it can't be."""
        progress(0, desc="Loading")
        try:
            spec = self.engine.load(name, report=lambda message: progress(0.5, desc=message)).spec
        except (RequestError, PictureError) as error:
            gr.Warning(str(error), title="Model not loaded")
            name, spec = DEFAULT_MODEL, self.engine.models[DEFAULT_MODEL]
        return gr.update(value=name, info=licence(spec)), *model_controls(spec, first_style(spec)), order + 1

    def save_pictures(self, shown: GenerateRequest | None) -> str:
        """Make the pictures once more from their request, which a session remembers in place of their pixels."""
        if shown is None:
            raise gr.Error("There is no picture to save yet.", print_exception=False)
        return download_file(run(self.engine, shown), self.download.GRADIO_CACHE)

    def restore(self, path: str, order: int) -> tuple[Any, ...]:
        """Set every control to what a saved PNG was made with."""
        try:
            request = read_settings(path)
            if request.loras:
                raise RequestError("This picture was made with LoRAs, which the page can't choose yet.")
            if request.model not in self.engine.models:
                raise RequestError(
                    f"This picture was made by {request.model!r:.60}, which is not among the models here."
                )
        except RequestError as error:
            raise gr.Error(str(error), print_exception=False) from None
        spec = self.engine.models[request.model]
        style, size = model_controls(spec, NO_STYLE)  # the style is in the prompt already
        size = gr.Radio(
            choices=sorted({*spec.sizes, request.size or spec.resolution}), value=request.size or spec.resolution
        )
        head = (request.prompt, style, request.negative, request.seed, True, request.steps, request.guidance)
        return *head, 1, request.model, size, order + 1


def build_endpoint(engine: Engine, folder: str, listening: dict[str, Any]) -> None:
    """The `/generate` endpoint for programs."""

    def generate(
        prompt: str = "",
        negative: str = "",
        seed: int = 0,
        steps: int = 1,
        guidance: float = 1.0,
        count: int = 1,
        model: str = DEFAULT_MODEL,
        size: int | None = None,
    ) -> tuple[list[gr.FileData], dict]:
        """Make pictures from a prompt: PNG files with their settings inside, and a JSON object about them."""
        try:
            request = GenerateRequest(prompt, negative, seed, steps, guidance, count, model, size)
        except RequestError as error:
            raise gr.Error(str(error), print_exception=False) from None
        result = run(engine, request)
        files = [gr.FileData(path=path, mime_type="image/png").model_dump() for path in png_files(result, folder)]
        about = {"evaluations": result.evaluations, "seeds": result.seeds, "seconds": result.seconds, "cut": result.cut}
        return files, about

    gr.api(generate, api_name="generate", **listening)
