"""What all tabs that draw have in common: prompt, style, model, seed, steps, guidance and LoRAs."""

import re
from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.lora_picker import FETCHING, LoraPicker
from app.pictures import plain
from yoso_core.engine import Engine, PictureError
from yoso_core.files.pictures import SUFFIXES
from yoso_core.lora.library import by_name
from yoso_core.models import ModelSpec
from yoso_core.prompts import take_loras
from yoso_core.requests import (
    DEFAULT_MODEL,
    GUIDANCE_LIMIT,
    GUIDANCE_STEP,
    PROMPT_LIMIT,
    SAMPLERS,
    STEPS,
    GenerateRequest,
    RequestError,
    check_text,
)

EXAMPLES = ("a red heart", "grinning cat", "pizza", "rocket", "palm tree", "panda", "crown")
NO_STYLE = "any"

# Listeners without Python behind them, so that a press acts at once. `order` counts the explicit wishes for a picture.
FRESH_SEED = "Math.floor(Math.random() * 1000000)"
ON_GENERATE = f"(seed, keep, order) => [keep ? seed : {FRESH_SEED}, order + 1]"
ON_DICE = f"(order) => [{FRESH_SEED}, order + 1]"
ON_EXAMPLE = "(example, order) => [example, order + 1]"


def with_style(prompt: str, style: str | None, styles: tuple[str, ...]) -> str:
    """The prompt as the model reads it: the chosen style is its last words, unless the prompt names one itself."""
    named = not {*styles}.isdisjoint(re.findall(r"\w+", prompt.lower()))
    return ", ".join(part for part in (prompt.strip(), "" if named or style == NO_STYLE else style) if part)


def licence(spec: ModelSpec) -> str:
    return f"Licence: {spec.licence}"


def first_style(spec: ModelSpec) -> str:
    """What the chips start with: without a style the model mixes all of them."""
    return next(iter(spec.styles), NO_STYLE)


def model_controls(spec: ModelSpec, style: str) -> tuple[Any, Any]:
    """Style chips and sizes as `spec` has them."""
    return (
        gr.Radio(choices=[NO_STYLE, *spec.styles], value=style, visible=bool(spec.styles)),
        gr.Radio(choices=spec.sizes, value=spec.resolution, visible=len(spec.sizes) > 1),
    )


class Settings:
    """The controls above and beside the tabs.

    Args:
        engine: answers the requests.
        picker: the LoRAs.
    """

    def __init__(self, engine: Engine, picker: LoraPicker) -> None:
        self.engine, self.picker = engine, picker

    def build_prompt(self) -> None:
        """The row above the tabs: what to draw."""
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

    def build_panel(self) -> None:
        """The column beside the tabs: how to draw it."""
        spec = self.engine.models[DEFAULT_MODEL]
        self.model = gr.Dropdown(
            [(known.title, name) for name, known in self.engine.models.items()],
            value=DEFAULT_MODEL,
            label="Model",
            info=licence(spec),
            elem_id="model",
        )
        self.chosen = gr.State(DEFAULT_MODEL)  # the model in use, where another one is fetched or can't be had
        self.stop = gr.Button("Stop fetching", size="sm", visible=False, elem_id="stop-fetching")
        self.steps = gr.Radio(
            STEPS,
            value=1,
            label="Steps",
            info="Network evaluations a picture",
            elem_id="steps",
            elem_classes="segments",
        )
        with gr.Row(elem_id="seeds", equal_height=True):
            self.seed = gr.Number(0, label="Seed", precision=0, elem_id="seed", min_width=100, scale=1)
            self.keep = gr.Checkbox(
                False, label="Lock", container=False, elem_id="keep", elem_classes="switch", min_width=0, scale=0
            )
            self.dice = gr.Button("Roll", elem_id="dice", scale=0, min_width=0)
        self.picker.build(spec)
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
            self.upload = gr.UploadButton(
                "Settings from a picture", file_types=[*SUFFIXES], size="sm", elem_id="upload"
            )
        with gr.Row(elem_id="examples"):
            gr.HTML('<span class="label">Try</span>', elem_id="try")
            self.examples = [gr.Button(words, size="sm", min_width=0, elem_classes="example") for words in EXAMPLES]
        self.order = gr.Number(0, visible="hidden", precision=0)

    @property
    def typed(self) -> list[Any]:
        """The controls whose every change asks for a picture."""
        return [
            *(self.prompt, self.negative, self.seed, self.style, self.steps, self.guidance, self.size),
            self.picker.loras,
        ]

    def connect(self, private: dict[str, Any], tell_on: Any) -> None:
        """Buttons that only set other controls.

        Args:
            private: queue rules of a listener that no program may call.
            tell_on: where the loading of a model is shown.
        """
        wish = [self.seed, self.order]
        gr.on([self.generate.click, self.prompt.submit], None, [self.seed, self.keep, self.order], wish, js=ON_GENERATE)
        self.dice.click(None, self.order, wish, js=ON_DICE)
        for example in self.examples:
            example.click(None, [example, self.order], [self.prompt, self.order], js=ON_EXAMPLE)
        # A place of its own: what has to be fetched may take an hour.
        choosing = self.model.select(
            self.choose_model,
            [self.model, self.chosen, self.picker.loras, self.picker.own, self.order],
            [self.model, self.chosen, self.stop, self.style, self.size, self.picker.loras, self.order],
            show_progress_on=tell_on,
            **private | FETCHING,
        )
        stopped = lambda chosen: (chosen, gr.Button(visible=False))  # noqa: E731
        self.stop.click(stopped, self.chosen, [self.model, self.stop], cancels=[choosing], **private)
        self.picker.connect(self.model, private)

    @property
    def asked(self) -> set[Any]:
        """All that `values` reads."""
        return {*self.typed, self.model, self.picker.own}

    def values(self, values: dict[Any, Any]) -> dict[str, Any]:
        """What the controls say, as the fields that all requests have; LoRA tags in the prompt are LoRAs."""
        check_text("The prompt", values[self.prompt])
        spec = self.engine.models.get(values[self.model])  # an unknown one is the engine's to refuse
        one_step, chosen = self.picker.uses(values[self.picker.loras])
        offered = by_name(self.picker.here(values.get(self.picker.own) or []))
        prompt = with_style(values[self.prompt], values[self.style], spec.styles if spec else ())
        prompt, loras = take_loras(prompt, chosen, offered)
        return {
            "prompt": prompt,
            "negative": values[self.negative],
            "seed": values[self.seed],
            "steps": values[self.steps],
            "guidance": values[self.guidance],
            "model": values[self.model],
            "size": values[self.size],
            "one_step": one_step,
            "loras": loras,
        }

    def restored(self, request: GenerateRequest, own: list[str], order: int) -> tuple[dict[Any, Any], list[str]]:
        """What to set every control to, so that it asks for `request`, and what can't be had here.

        Raises:
            RequestError: its model is not here.
        """
        if request.model not in self.engine.models:
            raise RequestError(f"This picture was made by {request.model!r:.60}, which is not among the models here.")
        spec = self.engine.models[request.model]
        style, size = model_controls(spec, NO_STYLE)  # the style is in the prompt already
        if request.size and request.size not in spec.sizes:
            size = gr.Radio(choices=sorted({*spec.sizes, request.size}), value=request.size)
        elif request.size:
            size = gr.Radio(choices=spec.sizes, value=request.size)
        loras, notes = self.picker.restored(spec, request.one_step, request.loras, own)
        steps = request.steps if request.steps in STEPS else STEPS[0]
        if request.sampler != SAMPLERS[0] or request.steps != steps:
            notes.append(f"The teacher's {request.steps} steps: the page draws in one.")
        return {
            self.prompt: request.prompt,
            self.style: style,
            self.negative: request.negative,
            self.seed: request.seed,
            self.keep: True,
            self.steps: steps,
            self.guidance: request.guidance,
            self.model: gr.update(value=request.model, info=licence(spec)),
            self.chosen: request.model,
            self.size: size,
            self.picker.loras: loras,
            self.order: order + 1,
        }, notes

    def pick(self, order: int, event: gr.EventData) -> tuple[int, bool, int, int]:
        """Go on with one picture of several: its seed, which is kept, one picture, and the wish for it."""
        return event.seed, True, 1, order + 1

    def choose_model(
        self, name: str, chosen: str, loras: Any, own: list[str], order: int, progress: gr.Progress = gr.Progress()
    ) -> Iterator[dict[Any, Any]]:
        """Fetch and load a model while the page shows how far it is; where that fails, nothing has changed."""
        progress(0, desc="Loading")
        try:
            for need in self.engine.missing(name):
                for done in self.engine.fetches.follow(need):
                    progress(done.share, desc=f"Fetching {need.title}: {done}")
                    yield {self.stop: gr.Button(visible=True)}
            spec = self.engine.load(name, report=lambda message: progress(0.5, desc=message)).spec
        except (RequestError, PictureError) as error:
            gr.Warning(plain(str(error)), title="Model not loaded")
            yield {self.model: chosen, self.stop: gr.Button(visible=False)}
            return
        style, size = model_controls(spec, first_style(spec))
        yield {
            self.model: gr.update(value=name, info=licence(spec)),
            self.chosen: name,
            self.stop: gr.Button(visible=False),
            self.style: style,
            self.size: size,
            self.picker.loras: self.picker.for_model(spec, loras, own),
            self.order: order + 1,
        }
