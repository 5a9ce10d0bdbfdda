"""The Edit tab: draw, mask, drag a slider, and the picture answers while you do."""

from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from app.components import component
from app.pictures import EMPTY, edit_html, info_html, png_uri, problem_html, read_data_uri
from app.settings import Settings
from yoso_core.conditioning import ANNOTATORS, missing_weights
from yoso_core.engine import Engine, Result
from yoso_core.models import ModelSpec
from yoso_core.pictures import square, square_note
from yoso_core.requests import (
    CONTROL_STRENGTH_LIMIT,
    DEFAULT_MODEL,
    FEATHER_LIMIT,
    FITS,
    GROWTH_LIMIT,
    THRESHOLD_LIMIT,
    ControlUse,
    EditRequest,
    GenerateRequest,
    RequestError,
)

CANVAS_SIDE = 512  # pixels, of canvas.js
CANVAS_LIMIT = 4_000_000  # characters of a data URL; canvas.js sends fewer
OFF = "off"
OWN_CONTROL = ("The model's own", "")  # beside those that were trained here
ON_COMPARE = "value => document.querySelector('#result').style.setProperty('--split', `${value * 100}%`)"
ON_CONTINUE = "() => window.yosoToCanvas(document.querySelector('#result img')?.src)"


def offered_annotators(engine: Engine, family: str) -> list[tuple[str, str]]:
    """Title and name of none, and of each annotator that can be used here and has a ControlNet for the model."""
    fitting = {name for spec in engine.controls.values() if spec.family == family for name in spec.annotators}
    usable = (name for name in ANNOTATORS if name in fitting and missing_weights(name) is None)
    return [("Off", OFF), *((ANNOTATORS[name].title, name) for name in usable)]


def sent_side(spec: ModelSpec) -> int:
    """Pixels a side that the canvas sends: a few times what a small model draws, else all that it has."""
    return min(4 * spec.resolution, CANVAS_SIDE)


def missing_html() -> str:
    """What other annotators would need."""
    sentences = [sentence for sentence in map(missing_weights, ANNOTATORS) if sentence]
    return "".join(f"<p>{sentence}</p>" for sentence in sentences)


class EditTab:
    """Layout of the tab, what it asks for and how it shows what came of it.

    Args:
        engine: tells what can guide a picture.
        settings: the controls that all tabs share.
    """

    name = "edit"

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    def build(self) -> None:
        spec = self.engine.models[DEFAULT_MODEL]
        with gr.Row(elem_id="easel"):
            with gr.Column(min_width=280):
                self.canvas = component("canvas", side=sent_side(spec), elem_id="canvas")
            with gr.Column(min_width=280):
                with gr.Row(elem_classes="under"):
                    self.compare = gr.Slider(
                        0, 1, 0, step=0.01, label="Before", elem_id="compare", elem_classes="line", buttons=[]
                    )
                    self.onward = gr.Button("To canvas", elem_id="onward", size="sm", scale=0, min_width=100)
                    self.save = gr.Button("Save PNG", elem_id="save-edit", size="sm", scale=0, min_width=100)
                self.stage = gr.HTML(EMPTY, elem_id="result", elem_classes="stage")
                self.info = gr.HTML(elem_classes="info", elem_id="edit-info")
        self.strength = gr.Slider(
            0,
            1,
            0.5,
            step=0.01,
            label="Strength",
            info="0 keeps your picture, 1 forgets it",
            elem_id="strength",
            buttons=[],
        )
        with gr.Row(elem_id="edit-more"):
            with gr.Accordion("Follow lines", open=False, elem_id="follow"):
                self.annotator = gr.Radio(
                    offered_annotators(self.engine, spec.family),
                    value=OFF,
                    label="What to follow",
                    info="The picture keeps the lines of the canvas, whatever the strength",
                    elem_id="annotator",
                    elem_classes="segments",
                )
                self.network = gr.Dropdown(
                    [OWN_CONTROL], value=OWN_CONTROL[1], label="ControlNet", visible=False, elem_id="control-network"
                )
                self.control_strength = gr.Slider(
                    0,
                    CONTROL_STRENGTH_LIMIT,
                    1,
                    step=0.05,
                    label="How strictly",
                    elem_id="control-strength",
                    buttons=[],
                )
                self.control_start = gr.Slider(
                    0,
                    1,
                    0,
                    step=0.05,
                    label="Start",
                    info="Part of the way on which it waits; one step is all of it",
                    buttons=[],
                )
                with gr.Row():
                    self.low = gr.Slider(
                        0, THRESHOLD_LIMIT, 100, step=5, label="Low threshold", min_width=120, buttons=[]
                    )
                    self.high = gr.Slider(
                        0, THRESHOLD_LIMIT, 200, step=5, label="High threshold", min_width=120, buttons=[]
                    )
                if lacking := missing_html():
                    with gr.Accordion("More ways need weights that are not here", open=False):
                        gr.HTML(lacking, elem_classes="quiet")
            with gr.Accordion("Mask and canvas", open=False, elem_id="mask-more"):
                self.invert = gr.Checkbox(False, label="Repaint what is not masked", elem_id="invert")
                self.feather = gr.Slider(
                    0,
                    FEATHER_LIMIT,
                    0.05,
                    step=0.01,
                    label="Feather",
                    info="Width of the soft rim, of the side",
                    buttons=[],
                )
                self.grow = gr.Slider(
                    0,
                    GROWTH_LIMIT,
                    0,
                    step=0.05,
                    label="Grow the canvas",
                    info="Paint around the picture: room on every side, of its width",
                    elem_id="grow",
                    buttons=[],
                )
                self.fit = gr.Radio(
                    FITS,
                    value=FITS[0],
                    label="Pictures that are not square",
                    info="Crop to the middle, fit by squeezing, or pad with white",
                    elem_id="fit",
                    elem_classes="segments",
                )
        self.shown = gr.State(None)

    @property
    def typed(self) -> list[Any]:
        return [
            *(self.canvas, self.strength, self.annotator, self.network, self.control_strength, self.control_start),
            *(self.low, self.high, self.invert, self.feather, self.grow),
        ]

    def request(self, values: dict[Any, Any]) -> GenerateRequest:
        common = self.settings.values(values)
        picture, mask = read_canvas(values[self.canvas])
        if values[self.invert]:
            mask = ImageOps.invert(mask) if mask else None
        control = None
        if values[self.annotator] != OFF:
            control = ControlUse(
                picture=picture,
                annotator=values[self.annotator],
                network=values[self.network] or None,
                strength=values[self.control_strength],
                start=values[self.control_start],
                low=values[self.low],
                high=values[self.high],
            )
        return EditRequest(
            picture=picture,
            mask=mask,
            strength=values[self.strength],
            feather=values[self.feather],
            grow=values[self.grow],
            control=control,
            **common,
        )

    def show(self, result: Result) -> dict[Any, Any]:
        return {self.stage: edit_html(result), self.info: info_html(result), self.shown: result.request}

    def refuse(self, sentence: str) -> dict[Any, Any]:
        return {self.info: problem_html(sentence), self.shown: None}

    def restored(self, request: EditRequest) -> dict[Any, Any]:
        control = request.control
        spec = self.engine.models[request.model]
        offered = offered_annotators(self.engine, spec.family)
        followed = control is not None and control.annotator in {name for _, name in offered}
        canvas = {"picture": png_uri(square(request.picture, CANVAS_SIDE, request.fit))}
        if request.mask is not None:
            canvas["mask"] = png_uri(square(request.mask, CANVAS_SIDE, request.fit).convert("RGB"))
        return {
            self.canvas: canvas | {"draw": True},
            self.strength: request.strength,
            self.annotator: gr.Radio(offered, value=control.annotator if followed else OFF),
            self.network: control.network if followed and self.is_trained(control.network) else OWN_CONTROL[1],
            self.control_strength: control.strength if control else 1,
            self.control_start: control.start if control else 0,
            self.low: control.low if control else 100,
            self.high: control.high if control else 200,
            self.invert: False,
            self.feather: request.feather,
            self.grow: request.grow,
        }

    def is_trained(self, network: str | None) -> bool:
        """Whether a ControlNet is one that was trained here, which the page offers by name."""
        return network in self.engine.controls and str(network).startswith("run-")

    def connect(self, private: dict[str, Any]) -> None:
        self.compare.input(None, self.compare, None, js=ON_COMPARE)
        self.onward.click(None, js=ON_CONTINUE)
        self.canvas.upload(self.open_file, [self.canvas, self.fit], self.canvas, show_progress="hidden", **private)
        offered = [self.annotator, self.canvas]
        self.settings.model.input(self.offer_annotators, self.settings.model, offered, **private)

    def open_file(self, value: Any, fit: str) -> dict[str, Any]:
        """A file that was opened, pasted or dropped, as the canvas takes it, and a word on what was done to it."""
        try:
            picture, notes = read_data_uri(value.get("file") if isinstance(value, dict) else None, "This file")
            if fit not in FITS:
                raise RequestError("Choose how to make the picture square: crop, fit or pad.")
        except RequestError as error:
            return {"note": str(error)}
        notes = [*notes, *filter(None, [square_note(picture, fit)])]
        canvas = square(picture, CANVAS_SIDE, fit)
        return {"picture": png_uri(canvas), "note": "; ".join(notes), "draw": True}

    def offer_annotators(self, model: str) -> tuple[Any, Any]:
        """What can guide another model, and how large its canvas is."""
        spec = self.engine.models.get(model, self.engine.models[DEFAULT_MODEL])
        return gr.Radio(offered_annotators(self.engine, spec.family), value=OFF), gr.HTML(side=sent_side(spec))


def read_canvas(value: Any) -> tuple[Image.Image, Image.Image | None]:
    """The picture on the canvas, RGB, and the mask over it, "L", or None; an untouched canvas is white.

    Raises:
        RequestError: the page sent something else.
    """
    if not value:
        return Image.new("RGB", (CANVAS_SIDE // 2, CANVAS_SIDE // 2), "white"), None
    if not isinstance(value, dict):
        raise RequestError("The canvas can't be read; please reload the page.")
    picture, _ = read_data_uri(value.get("picture"), "The canvas", CANVAS_LIMIT)
    mask = read_data_uri(value["mask"], "The mask", CANVAS_LIMIT)[0].convert("L") if value.get("mask") else None
    return picture, mask
