"""The Edit tab: draw, mask, drag a slider, and the picture answers while you do."""

from typing import Any

import gradio as gr
from PIL import ImageOps

from app.easel import Easel, on_canvas, read_canvas
from yoso_core.conditioning import ANNOTATORS, missing_weights
from yoso_core.requests import (
    CONTROL_STRENGTH_LIMIT,
    FEATHER_LIMIT,
    GROWTH_LIMIT,
    THRESHOLD_LIMIT,
    ControlUse,
    EditRequest,
    GenerateRequest,
)
from yoso_core.service import Service

OFF = "off"
OWN_CONTROL = ("The model's own", "")  # beside those that were trained here


def offered_annotators(engine: Service, family: str) -> list[tuple[str, str]]:
    """Title and name of none, and of each annotator that can be used here and has a ControlNet for the model."""
    fitting = {name for spec in engine.controls.values() if spec.family == family for name in spec.annotators}
    usable = (name for name in ANNOTATORS if name in fitting and missing_weights(name) is None)
    return [("Off", OFF), *((ANNOTATORS[name].title, name) for name in usable)]


def missing_html() -> str:
    """What other annotators would need."""
    sentences = [sentence for sentence in map(missing_weights, ANNOTATORS) if sentence]
    return "".join(f"<p>{sentence}</p>" for sentence in sentences)


class EditTab(Easel):
    """Layout of the tab, what it asks for and how its settings come back."""

    name, kind = "edit", EditRequest

    def build(self) -> None:
        spec = self.engine.models[self.engine.first]
        self.build_easel()
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
                self.build_fit()

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
        if values[self.annotator] not in (OFF, None):
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

    def restored(self, request: EditRequest) -> dict[Any, Any]:
        control = request.control
        spec = self.engine.models[request.model]
        offered = offered_annotators(self.engine, spec.family)
        followed = control is not None and control.annotator in {name for _, name in offered}
        canvas = {"picture": on_canvas(request.picture, request.fit)}
        if request.mask is not None:
            canvas["mask"] = on_canvas(request.mask, request.fit)
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

    @property
    def of_model(self) -> list[Any]:
        return [self.annotator]

    def for_model(self, name: str, values: dict[Any, Any]) -> dict[Any, dict[str, Any]]:
        """What can guide another model; what is followed stays where the model can follow it."""
        offered = offered_annotators(self.engine, self.engine.models[name].family)
        followed = values[self.annotator]
        value = followed if followed in {known for _, known in offered} else OFF
        return {self.annotator: gr.update(choices=offered, value=value)}
