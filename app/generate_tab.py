"""The Generate tab: words in, pictures out, while you type."""

from typing import Any

import gradio as gr

from app.components import script
from app.picture_tab import PictureTab, save_label
from app.pictures import EMPTY, info_html, pictures_html
from app.settings import Settings
from yoso_core.drawing import Result
from yoso_core.requests import COUNT_LIMIT, GenerateRequest


class GenerateTab(PictureTab):
    """Layout of the tab, what it asks for and how it shows what came of it.

    Args:
        settings: the controls that all tabs share.
    """

    name, kind = "generate", GenerateRequest

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def build(self) -> None:
        with gr.Row(elem_id="look"):
            self.stage = gr.HTML(EMPTY, elem_id="stage", elem_classes="stage", js_on_load=script("stage"))
            with gr.Column(elem_id="beside", min_width=200):
                with gr.Row(elem_classes="under"):
                    self.edit = gr.Button("Edit", elem_id="to-edit", size="sm", scale=0, min_width=80)
                    self.save = gr.Button(save_label(1), elem_id="save", size="sm", scale=0, min_width=124)
                self.count = gr.Slider(1, COUNT_LIMIT, 1, step=1, label="Pictures", elem_id="count", buttons=[])
                self.info = gr.HTML(elem_id="info", elem_classes="info")
        self.shown = gr.State(None)

    @property
    def typed(self) -> list[Any]:
        return [self.count]

    def request(self, values: dict[Any, Any]) -> GenerateRequest:
        return GenerateRequest(count=values[self.count], **self.settings.values(values))

    def show(self, result: Result) -> dict[Any, Any]:
        return {self.stage: pictures_html(result), self.info: info_html(result), self.shown: result.request}

    def restored(self, request: GenerateRequest) -> dict[Any, Any]:
        return {self.count: 1}

    def connect(self, private: dict[str, Any]) -> None:
        """Its buttons are the others' to listen to."""
