"""A canvas and what comes of it beside: what the tabs have in common that make pictures of a picture."""

from functools import lru_cache
from typing import Any

import gradio as gr
from PIL import Image

from app.components import component, script
from app.picture_tab import PictureTab, save_label
from app.pictures import EMPTY, data_uri_file, info_html, png_uri, read_data_uri, result_html
from app.settings import Settings
from yoso_core.drawing import Result
from yoso_core.files.pictures import fit_note, fitted, open_mask, shape_of
from yoso_core.models import ModelSpec
from yoso_core.requests import FITS, RequestError, check_choice
from yoso_core.service import Service

CANVAS_SIDE = 512  # pixels, of canvas.js
CANVAS_LIMIT = 4_000_000  # characters of a data URL; canvas.js sends fewer
CANVAS_PIXELS = 2**20  # what is drawn from is remembered, so it may not be large, however few characters it takes


def sent_side(spec: ModelSpec) -> int:
    """Pixels a side that a square canvas sends: a few times what a small model draws, else all that it has."""
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
        fit: what becomes of pictures that are not square; made by `build_fit`.
    """

    prefix = ""
    masks = True
    brush = 26

    def __init__(self, engine: Service, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    def build_easel(self) -> None:
        """The canvas, and the result beside it."""
        classes = ["canvas"] if self.masks else ["canvas", "maskless"]
        with gr.Row(elem_classes="easel"):
            with gr.Column(min_width=280):
                self.canvas = component(
                    "canvas",
                    fixed={
                        "TAB": self.name,
                        "WIDTH": self.brush,
                        "SIDE": sent_side(self.engine.models[self.engine.first]),
                    },
                    elem_id=self.id("canvas"),
                    elem_classes=classes,
                )
            with gr.Column(min_width=280):
                with gr.Row(elem_classes="under"):
                    self.compare = gr.Slider(
                        0,
                        1,
                        0,
                        step=0.01,
                        label="Before",
                        elem_id=self.id("compare"),
                        elem_classes="line",
                        min_width=120,
                        buttons=[],
                    )
                    self.onward = gr.Button("To canvas", elem_id=self.id("onward"), size="sm", scale=0, min_width=100)
                    self.save = gr.Button(save_label(1), elem_id=f"save-{self.name}", size="sm", scale=0, min_width=124)
                self.stage = gr.HTML(
                    EMPTY, elem_id=self.id("result"), elem_classes=["stage", "result"], js_on_load=script("stage")
                )
                self.info = gr.HTML(elem_classes="info", elem_id=f"{self.name}-info")
        self.shown = gr.State(None)

    def build_fit(self) -> None:
        self.fit = gr.Radio(
            FITS,
            value=FITS[0],
            label="Pictures that are not square",
            info="Keep their shape; or make them square: crop to the middle, fit by squeezing, pad with white",
            elem_id=self.id("fit"),
            elem_classes="segments",
        )

    def id(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def show(self, result: Result) -> dict[Any, Any]:
        return {self.stage: result_html(result), self.info: info_html(result), self.shown: result.request}

    def connect(self, private: dict[str, Any]) -> None:
        stage = f"document.querySelector('#{self.id('result')}')"
        uncover = f"value => {stage}.style.setProperty('--split', `${{value * 100}}%`)"
        self.compare.input(None, self.compare, None, js=uncover)
        onward = f"() => window.yosoToCanvas({stage}.querySelector('img')?.src, '{self.name}')"
        self.onward.click(None, js=onward)
        refit = f"() => window.yosoCanvases?.['{self.name}']?.refit()"
        self.fit.input(None, js=refit)
        # The last wish counts, as where a picture is to fit otherwise while it is being opened.
        upload = {"trigger_mode": "always_last", "show_progress": "hidden"}
        self.canvas.upload(self.open_file, [self.canvas, self.fit], self.canvas, **upload, **private)

    def open_file(self, value: Any, fit: str) -> dict[str, Any]:
        """A file that was opened, pasted or dropped, as the canvas takes it, and a word on what was done to it."""
        try:
            picture, notes = read_data_uri(value.get("file") if isinstance(value, dict) else None, "This file")
            check_choice("What becomes of the picture", fit, FITS)
        except RequestError as error:
            return {"note": str(error)}
        notes = [*notes, *filter(None, [fit_note(picture, CANVAS_SIDE, fit)])]
        return {"picture": on_canvas(picture, fit), "note": "; ".join(notes), "draw": True}


def on_canvas(picture: Image.Image, fit: str) -> str:
    """A picture as canvas.js takes it: of as many pixels as a canvas has, in its own shape or as a square."""
    size = shape_of(picture.size, CANVAS_SIDE, 1) if fit == "keep" else CANVAS_SIDE
    return png_uri(fitted(picture, size, fit).convert("RGB"))


def read_canvas(value: Any) -> tuple[Image.Image, Image.Image | None]:
    """The picture on the canvas, RGB, and the mask over it, "L", or None; an untouched canvas is white.

    Raises:
        RequestError: the page sent something else.
    """
    if not value:
        return Image.new("RGB", (CANVAS_SIDE // 2, CANVAS_SIDE // 2), "white"), None
    if not isinstance(value, dict):
        raise RequestError("The canvas can't be read; please reload the page.")
    picture, mask = _read(str(value.get("picture")), str(value.get("mask") or ""))
    return picture.copy(), mask.copy() if mask else None


@lru_cache(maxsize=4)  # while a slider moves, the canvas is the same each time
def _read(drawn: str, masked: str) -> tuple[Image.Image, Image.Image | None]:
    """What two data URLs hold; the mask may be ""."""
    picture, _ = read_data_uri(drawn, "The canvas", CANVAS_LIMIT)
    mask = open_mask(data_uri_file(masked, "The mask", CANVAS_LIMIT)) if masked else None
    if max(one.width * one.height for one in (picture, mask or picture)) > CANVAS_PIXELS:
        raise RequestError("The canvas is too large; please reload the page.")
    return picture, mask
