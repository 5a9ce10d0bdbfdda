"""What all tabs that draw have in common: prompt, style, model, seed, steps, guidance and LoRAs."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.components import component
from app.lora_picker import LoraPicker
from app.server.queueing import DRAWING
from app.styles import StylePictures, chips_of, style_of, with_style
from yoso_core.files.pictures import SUFFIXES, shape_of
from yoso_core.lora.library import by_name
from yoso_core.models import ModelSpec
from yoso_core.offers import Offer
from yoso_core.prompts import take_loras
from yoso_core.requests import (
    GUIDANCE_LIMIT,
    GUIDANCE_STEP,
    PROMPT_LIMIT,
    SAMPLERS,
    SIZE_STEP,
    GenerateRequest,
    RequestError,
    check_choice,
    check_size,
    check_text,
)
from yoso_core.service import Service
from yoso_core.words import COMMON

EXAMPLES = 8  # shown, of those that the model names
# Of a model that names none: what any model of pictures at large has seen.
EVERYDAY = (
    "a fox in fresh snow at sunrise, photograph",
    "a lighthouse on a cliff, oil painting",
    "a bowl of ramen, food photography",
    "a paper boat on a quiet lake, watercolour",
    "an old tram in a narrow street, rain, evening light",
    "portrait of a grandmother laughing, soft light",
    "a cabin in the mountains under the stars",
    "a parrot among tropical leaves, detailed illustration",
)

# Listeners without Python behind them, so that a press acts at once. `order` counts the explicit wishes for a picture.
RATIOS = {"square": (1, 1), "portrait": (3, 4), "landscape": (4, 3), "tall": (9, 16), "wide": (16, 9)}
OWN_SHAPE = "own"
ENLARGEMENTS = [("As drawn", 1), ("2 x", 2), ("4 x", 4), ("8 x", 8)]
ON_SHAPE = "shape => { document.body.dataset.shape = shape; }"
FRESH_SEED = "Math.floor(Math.random() * 1000000)"
ON_GENERATE = f"(seed, keep, order) => [keep ? seed : {FRESH_SEED}, order + 1]"
ON_DICE = f"(order) => [{FRESH_SEED}, order + 1]"
ON_EXAMPLE = "(example, order) => [example, order + 1]"


def about(spec: ModelSpec) -> str:
    """What the page says of a model: what it draws, and whose it is."""
    sides = f"{spec.resolution} x {spec.resolution} pixels" + (", squares only" if spec.aspect == 1 else "")
    steps = ", in one step" if spec.offer.steps == (1,) and not spec.offer.many else ""
    return f"Draws {sides}{steps}{'' if spec.offer.edits else ', from words alone'}. Licence: {spec.licence}"


class Settings:
    """The controls above and beside the tabs.

    Args:
        engine: answers the requests.
        picker: the LoRAs.
    """

    def __init__(self, engine: Service, picker: LoraPicker) -> None:
        self.engine, self.picker = engine, picker
        self.styles = StylePictures(engine)

    def build_prompt(self) -> None:
        """The row above the tabs: what to draw."""
        spec = self.engine.models[self.engine.first]
        with gr.Row(elem_id="ask", equal_height=True):
            self.prompt = gr.Textbox(
                examples_of(spec)[0],
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
        self.style_sheet = gr.HTML(elem_id="style-sheet")
        with gr.Row(elem_id="how"):
            self.style = gr.Radio(
                chips_of(spec.styles),
                value=chips_of(spec.styles)[0],
                label="Style",
                container=False,
                elem_id="style",
                elem_classes="chips",
            )
            self.words = component("words", words_of(spec), elem_id="words")
            self.live = gr.Checkbox(
                True, label="Live", container=False, elem_id="live", elem_classes="switch", min_width=0
            )

    def build_panel(self) -> None:
        """The column beside the tabs: how to draw it."""
        spec = self.engine.models[self.engine.first]
        offer = spec.offer
        # What is wished for, and what is in use: they differ while a model is loaded, and where that fails.
        self.wished = gr.Dropdown(
            [(known.title, name) for name, known in self.engine.models.items()],
            value=self.engine.first,
            label="Model",
            info=about(spec),
            elem_id="model",
        )
        self.model = gr.Textbox(self.engine.first, visible="hidden")
        self.steps = gr.Radio(
            list(offer.steps),
            value=offer.steps[0],
            label="Steps",
            info="How often the network is run for a picture; more take longer",
            elem_id="steps",
            elem_classes="segments",
        )
        self.sampler = gr.Radio(
            samplers_of(offer),
            value=offer.samplers[0],
            label="Sampler",
            info="How the steps follow one another; DDIM and DPM++ are for teachers too",
            elem_id="sampler",
            elem_classes="segments",
        )
        with gr.Row(elem_id="seeds", equal_height=True):
            self.seed = gr.Number(
                0, label="Seed", precision=0, elem_id="seed", min_width=100, scale=1, placeholder="-1 is random"
            )
            self.keep = gr.Checkbox(
                False, label="Lock", container=False, elem_id="keep", elem_classes="switch", min_width=0, scale=0
            )
            self.dice = gr.Button("Roll", elem_id="dice", scale=0, min_width=0)
        self.build_shape(spec)
        self.picker.build(spec)
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.guidance = gr.Slider(
                1,
                GUIDANCE_LIMIT,
                offer.guidance,
                step=GUIDANCE_STEP,
                label="Guidance",
                info=offer.about_guidance,
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
            self.enlarge = gr.Radio(
                ENLARGEMENTS,
                value=1,
                label="Saved pictures",
                info="Enlarged by resampling, for where many pixels are wanted; no detail is added",
                elem_id="enlarge",
                elem_classes="segments",
            )
            self.upload = gr.UploadButton(
                "Settings from a picture", file_types=[*SUFFIXES], size="sm", elem_id="upload"
            )
        with gr.Row(elem_id="examples"):
            gr.HTML('<span class="label">Try</span>', elem_id="try")
            self.examples = [
                gr.Button(words, size="sm", min_width=0, elem_classes="example", visible=bool(words))
                for words in examples_of(spec)
            ]
        self.order = gr.Number(0, visible="hidden", precision=0)

    def build_shape(self, spec: ModelSpec) -> None:
        """Width and height, as far as the model draws others than its own."""
        with gr.Column(elem_id="shapes"):
            self.size = gr.Radio(
                spec.sizes,
                value=spec.resolution,
                label="Size in pixels",
                visible=len(spec.sizes) > 1,
                elem_id="size",
                elem_classes="segments",
            )
            self.shape = gr.Radio(
                [*RATIOS, OWN_SHAPE],
                value="square",
                label="Shape",
                visible=spec.aspect > 1,
                elem_id="shape",
                elem_classes="segments",
            )
            with gr.Row(elem_id="own-shape"):
                self.width, self.height = (
                    gr.Number(spec.resolution, label=label, precision=0, step=SIZE_STEP, min_width=90)
                    for label in ("Width", "Height")
                )

    def drawn_size(self, values: dict[Any, Any], spec: ModelSpec | None) -> Any:
        """What the size of a request is by the controls."""
        shape, side = values[self.shape], values[self.size]
        if spec is None or spec.aspect == 1 or shape == "square":
            return side
        if shape == OWN_SHAPE:
            return (values[self.width], values[self.height])
        check_choice("The shape", shape, tuple(RATIOS))
        return shape_of(RATIOS[shape], check_size(side), spec.unit)

    @property
    def typed(self) -> list[Any]:
        """The controls whose every change asks for a picture."""
        return [
            *(self.prompt, self.negative, self.seed, self.style, self.steps, self.sampler, self.guidance),
            *(self.size, self.shape, self.width, self.height),
            self.picker.loras,
        ]

    def connect(self, private: dict[str, Any]) -> None:
        """Buttons that only set other controls.

        Args:
            private: queue rules of a listener that no program may call.
        """
        wish = [self.seed, self.order]
        gr.on([self.generate.click, self.prompt.submit], None, [self.seed, self.keep, self.order], wish, js=ON_GENERATE)
        self.dice.click(None, self.order, wish, js=ON_DICE)
        for example in self.examples:
            example.click(None, [example, self.order], [self.prompt, self.order], js=ON_EXAMPLE)
        self.shape.change(None, self.shape, js=ON_SHAPE)
        self.show_styles(self.model.change, private)
        self.picker.connect(self.model, private)

    def show_styles(self, when: Callable[..., Any], private: dict[str, Any]) -> None:
        """Draw the pictures of the styles after an event, where there are none yet."""
        drawing = private | DRAWING | {"show_progress": "hidden"}
        when(self.styles.sheet, self.model, self.style_sheet, **drawing)

    def are_overtaken(self, values: dict[Any, Any]) -> bool:
        """Whether the choices are another model's: a page that is being given new ones sends again once it has all."""
        spec = self.engine.models.get(values[self.model])  # an unknown one is the engine's to refuse
        if spec is None:
            return False
        return values[self.style] not in chips_of(spec.styles) or values[self.sampler] not in spec.offer.samplers

    @property
    def asked(self) -> set[Any]:
        """All that `values` reads."""
        return {*self.typed, self.model, self.picker.own}

    def values(self, values: dict[Any, Any]) -> dict[str, Any]:
        """What the controls say, as the fields that all requests have; LoRA tags in the prompt are LoRAs."""
        check_text("The prompt", values[self.prompt])
        spec = self.engine.models.get(values[self.model])  # an unknown one is the engine's to refuse
        alone = values[self.steps] == 1  # the samplers are shown above one step
        one_step, chosen = self.picker.uses(values[self.picker.loras])
        offered = by_name(self.picker.here(values.get(self.picker.own) or []))
        prompt = with_style(values[self.prompt], values[self.style], spec.styles if spec else ())
        prompt, loras = take_loras(prompt, chosen, offered)
        return {
            "prompt": prompt,
            "negative": values[self.negative],
            "seed": values[self.seed],
            "steps": values[self.steps],
            "sampler": spec.offer.samplers[0] if alone and spec else values[self.sampler],
            "guidance": values[self.guidance],
            "model": values[self.model],
            "size": self.drawn_size(values, spec),
            "one_step": one_step,
            "loras": loras,
        }

    @property
    def of_model(self) -> list[Any]:
        """What `for_model` sets."""
        shapes = [self.size, self.shape, self.width, self.height]
        how = [self.steps, self.sampler, self.guidance, self.negative]
        return [self.wished, self.model, self.style, *how, *shapes, self.words, self.picker.loras, *self.examples]

    def for_model(self, name: str, values: dict[Any, Any], own: list[str]) -> dict[Any, dict[str, Any]]:
        """The controls as another model has them.

        Args:
            name: of the model.
            values: of the style, steps, sampler and LoRAs that are chosen; what the model has of them stays.
            own: ids of LoRAs that the session added.
        """
        spec = self.engine.models[name]
        offer, style, loras = spec.offer, values.get(self.style), values.get(self.picker.loras, {})
        chips = chips_of(spec.styles)
        steps, sampler = values.get(self.steps), values.get(self.sampler)
        return {
            self.steps: gr.update(
                choices=list(offer.steps),
                value=steps if steps in offer.steps else offer.steps[0],
                visible=len(offer.steps) > 1,
            ),
            self.sampler: gr.update(
                choices=samplers_of(offer),
                value=sampler if sampler in offer.samplers else offer.samplers[0],
                visible=len(offer.samplers) > 1,
            ),
            self.guidance: gr.update(
                value=offer.guidance, info=offer.about_guidance, interactive=offer.guided != "never"
            ),
            self.negative: gr.update(value=values.get(self.negative, ""), visible=offer.guided == "freely"),
            self.wished: gr.update(value=name, info=about(spec)),
            self.model: gr.update(value=name),
            self.style: gr.update(
                choices=chips, value=style if style in chips else chips[0], visible=bool(spec.styles)
            ),
            self.size: gr.update(choices=list(spec.sizes), value=spec.resolution, visible=len(spec.sizes) > 1),
            self.shape: gr.update(value="square", visible=spec.aspect > 1),
            self.width: gr.update(value=spec.resolution),
            self.height: gr.update(value=spec.resolution),
            self.words: gr.update(value=words_of(spec)),
            self.picker.loras: self.picker.for_model(spec, loras, own),
        } | {
            button: gr.update(value=words, visible=bool(words))
            for button, words in zip(self.examples, examples_of(spec), strict=True)
        }

    def restored(self, request: GenerateRequest, values: dict[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
        """Updates that set the controls as a picture was made, and what of it can't be had here.

        Args:
            request: that made it.
            values: of `order`, of the LoRAs that the session added, and of the style, which stays where the prompt
                names one itself.

        Raises:
            RequestError: its model is not here.
        """
        if request.model not in self.engine.models:
            raise RequestError(f"This picture was made by {request.model!r:.60}, which is not among the models here.")
        spec, own = self.engine.models[request.model], values[self.picker.own]
        prompt, style = style_of(request.prompt, spec.styles)
        chosen = {
            self.style: values[self.style] if style is None else style,
            self.steps: request.steps,
            self.sampler: request.sampler,
        }
        updates = self.for_model(request.model, chosen, own)
        if isinstance(request.size, int):
            updates[self.size] |= {"choices": sorted({*spec.sizes, request.size}), "value": request.size}
        elif request.size:
            updates |= {self.shape: OWN_SHAPE, self.width: request.size[0], self.height: request.size[1]}
        loras, notes = self.picker.restored(spec, request.one_step, request.loras, own)
        steps, few = request.steps, spec.offer.steps  # of the solvers they may be others than are offered
        updates[self.steps] |= {"value": steps} if steps in few else {"choices": [*few, steps], "value": steps}
        updates[self.sampler]["value"] = request.sampler or spec.offer.samplers[0]
        guidance = request.guidance or spec.offer.guidance
        if spec.offer.guided == "never" and guidance != 1:
            guidance, notes = 1.0, [*notes, f"{spec.title} draws without guidance"]
        updates[self.guidance]["value"] = guidance
        updates[self.negative]["value"] = request.negative
        return updates | {
            self.prompt: prompt,
            self.seed: request.seed,
            self.picker.loras: loras,
            self.order: values[self.order] + 1,
        }, notes


def samplers_of(offer: Offer) -> list[tuple[str, str]]:
    """Titles and names."""
    return [(SAMPLERS[name], name) for name in offer.samplers]


def examples_of(spec: ModelSpec) -> list[str]:
    """As many as there are buttons; "" where the model names no more."""
    return [*(spec.words.examples or EVERYDAY), *[""] * EXAMPLES][:EXAMPLES]


def is_proposed(request: GenerateRequest, spec: ModelSpec) -> bool:
    """Whether the page itself proposes it: an example, in a style of the model, and nothing else changed."""
    prompt, _ = style_of(request.prompt, spec.styles)
    plain = spec.offer.settle(spec.title, GenerateRequest(request.prompt, model=request.model, size=request.size))
    known = bool(prompt) and prompt in examples_of(spec) and request.size in (None, spec.resolution)
    return known and request == plain


def words_of(spec: ModelSpec) -> str:
    """What words.js completes from, and what it knows to be known: one text, because the page copies every piece of
    every component whenever a listener gets on.
    """
    words = spec.words
    whole = sorted(COMMON | {*words.styles})
    known = sorted(words.known.union(whole)) if words.known else []
    told = {"names": list(words.names), "known": known, "whole": whole, "emoji": dict(words.emoji)}
    return json.dumps(told, ensure_ascii=False)
