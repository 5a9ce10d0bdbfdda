"""A canvas and what comes of it beside: what the tabs have in common that make pictures of a picture."""

from typing import Any

import gradio as gr
from PIL import Image

from app.components import component
from app.picture_tab import PictureTab
from app.pictures import EMPTY, ON_PICK, data_uri_file, info_html, png_uri, problem_html, read_data_uri, result_html
from app.settings import Settings
from yoso_core.engine import Engine, Result
from yoso_core.files.pictures import open_mask, square, square_note
from yoso_core.models import ModelSpec
from yoso_core.requests import DEFAULT_MODEL, FITS, RequestError

CANVAS_SIDE = 512  # pixels, of canvas.js
CANVAS_LIMIT = 4_000_000  # characters of a data URL; canvas.js sends fewer
CANVAS_PIXELS = 2**20  # what is drawn from is remembered, so it may not be large, however few characters it takes


def sent_side(spec: ModelSpec) -> int:
    """Pixels a side that the canvas sends: a few times what a small model draws, else all that it has."""
    return min(4 * spec.resolution, CANVAS_SIDE)


class Easel(PictureTab):
    """A tab with a canvas, and the picture made of it under a slider that uncovers the one before.

    Args:
        engine: tells what models there are.
        settings: the controls that all tabs share.

    Attributes:
        prefix: of the ids of its elements; two tabs may not have the same.
        masks: whether its canvas has a mask.
        brush: width that its brush begins with, in pixels of the canvas.
        fits: what may become of pictures that are not square, the first by default.
        fit_hint: says the same to people.
        fit: which; made by `build_fit`.
    """

    prefix = ""
    masks = True
    brush = 26
    fits = FITS
    fit_hint = "Crop to the middle, fit by squeezing, or pad with white"

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    def build_easel(self) -> None:
        """The canvas, and the result beside it."""
        classes = ["canvas"] if self.masks else ["canvas", "maskless"]
        with gr.Row(elem_classes="easel"):
            with gr.Column(min_width=280):
                self.canvas = component(
                    "canvas", **self.canvas_for(DEFAULT_MODEL), elem_id=self.id("canvas"), elem_classes=classes
                )
            with gr.Column(min_width=280):
                with gr.Row(elem_classes="under"):
                    self.compare = gr.Slider(
                        0, 1, 0, step=0.01, label="Before", elem_id=self.id("compare"), elem_classes="line", buttons=[]
                    )
                    self.onward = gr.Button("To canvas", elem_id=self.id("onward"), size="sm", scale=0, min_width=100)
                    self.save = gr.Button("Save PNG", elem_id=f"save-{self.name}", size="sm", scale=0, min_width=100)
                self.stage = gr.HTML(
                    EMPTY, elem_id=self.id("result"), elem_classes=["stage", "result"], js_on_load=ON_PICK
                )
                self.info = gr.HTML(elem_classes="info", elem_id=f"{self.name}-info")
        self.shown = gr.State(None)

    def build_fit(self) -> None:
        self.fit = gr.Radio(
            self.fits,
            value=self.fits[0],
            label="Pictures that are not square",
            info=self.fit_hint,
            elem_id=self.id("fit"),
            elem_classes="segments",
        )

    def canvas_for(self, model: str) -> dict[str, Any]:
        """What canvas.js reads beside its value; always all of it, because Gradio takes it as one."""
        spec = self.engine.models.get(model, self.engine.models[DEFAULT_MODEL])
        return {"side": sent_side(spec), "brush": self.brush, "tab": self.name}

    def id(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def show(self, result: Result) -> dict[Any, Any]:
        return {self.stage: result_html(result), self.info: info_html(result), self.shown: result.request}

    def refuse(self, sentence: str) -> dict[Any, Any]:
        return {self.info: problem_html(sentence), self.shown: None}

    def connect(self, private: dict[str, Any]) -> None:
        stage = f"document.querySelector('#{self.id('result')}')"
        uncover = f"value => {stage}.style.setProperty('--split', `${{value * 100}}%`)"
        self.compare.input(None, self.compare, None, js=uncover)
        onward = f"() => window.yosoToCanvas({stage}.querySelector('img')?.src, '{self.name}')"
        self.onward.click(None, js=onward)
        self.canvas.upload(self.open_file, [self.canvas, self.fit], self.canvas, show_progress="hidden", **private)

    def open_file(self, value: Any, fit: str) -> dict[str, Any]:
        """A file that was opened, pasted or dropped, as the canvas takes it, and a word on what was done to it."""
        try:
            picture, notes = read_data_uri(value.get("file") if isinstance(value, dict) else None, "This file")
            if fit not in self.fits:
                raise RequestError(f"Choose what becomes of the picture: {', '.join(self.fits)}.")
        except RequestError as error:
            return {"note": str(error)}
        notes = [*notes, *filter(None, [square_note(picture, on_square(fit))])]
        return {"picture": on_canvas(picture, fit), "note": "; ".join(notes), "draw": True}


def on_square(fit: str) -> str:
    """What "keep" comes to on a canvas, which is square: nothing is lost."""
    return "pad" if fit == "keep" else fit


def on_canvas(picture: Image.Image, fit: str) -> str:
    """A picture as canvas.js takes it."""
    return png_uri(square(picture, CANVAS_SIDE, on_square(fit)).convert("RGB"))


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
    mask = open_mask(data_uri_file(value["mask"], "The mask", CANVAS_LIMIT)) if value.get("mask") else None
    if max(one.width * one.height for one in (picture, mask or picture)) > CANVAS_PIXELS:
        raise RequestError("The canvas is too large; please reload the page.")
    return picture, mask
