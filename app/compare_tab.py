"""The Compare tab: one prompt and seed in ever fewer steps, and grids over any two settings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import gradio as gr

from app.components import script
from app.picture_tab import PictureTab
from app.pictures import come_first, on_saved, problem_html, save_picture
from app.server.queueing import DRAWING
from app.settings import Settings
from app.sheet_html import grid_html, ladder_html
from app.styles import NO_STYLE
from yoso_core.drawing import PictureError, Result
from yoso_core.lora.library import public_name
from yoso_core.requests import GenerateRequest, RequestError
from yoso_core.service import Service
from yoso_core.sheets import AXES, NO_ADAPTER, Axis, draw, grid, ladder, parse_axis, run

EXAMPLES = {
    "prompt": "a cat | a dog | a panda",
    "style": "3d | flat",
    "seed": "0, 1, 2, 3",
    "steps": "1, 2, 4",
    "sampler": "lcm, ddim, dpm++",
    "guidance": "1, 1.5, 2, 3",
    "strength": "0:1:6",
    "control": "0:1.5:4",
    "one-step": "0:1:5",
    "lora": "0:1:3",
    "adapter": "none | line-art | blueprint-ink",
}
LADDER = """<h3>Ladder</h3><p>What more time would buy: the same prompt and seed in 1, 2 and 4 steps, in the 25 of the
teacher that the model learned from, and in one step without what it learned.</p>"""
GRID = "<h3>Grid</h3><p>Any two settings against each other, up to 64 pictures; a click on one looks at it.</p>"
SHOWN = 5  # prompts of the grid that the page begins with
PACE = 0.7  # seconds between two tables of a grid that grows
NAMED = "lora"  # the kind of axis that names a LoRA


class CompareTab:
    """Ladder and grid of what the open settings ask for.

    Args:
        engine: makes the pictures.
        settings: the controls that all tabs share.
        tabs: those whose pictures are compared.
    """

    name = "compare"
    kept = ("source", "x", "x_values", "y", "y_values")  # what a person sets

    def __init__(self, engine: Service, settings: Settings, tabs: Sequence[PictureTab]) -> None:
        self.engine, self.settings = engine, settings
        self.sources = {tab.name: tab for tab in tabs}

    def build(self) -> None:
        self.source = gr.Radio(
            [(name.capitalize(), name) for name in self.sources],
            value="generate",
            label="Of what",
            info="The picture that this tab makes of the present settings",
            elem_id="source",
            elem_classes="segments",
        )
        with gr.Row(elem_classes="compare-head"):
            gr.HTML(LADDER)
            self.climb = gr.Button("Draw", elem_id="climb", scale=0, min_width=120)
        self.climbed = gr.HTML(elem_classes="info", elem_id="ladder-told")
        self.ladder = gr.HTML(elem_id="ladder", js_on_load=script("sheet"))
        with gr.Row(elem_classes="compare-head"):
            gr.HTML(GRID)
            self.fill = gr.Button("Draw", elem_id="fill", scale=0, min_width=120)
        with gr.Row(elem_id="axes"):
            self.x, self.x_values = self.build_axis("Across", "prompt")
            self.y, self.y_values = self.build_axis("Down", "style")
        self.told = gr.HTML(elem_classes="info", elem_id="compare-told")
        self.grid = gr.HTML(elem_id="grid", js_on_load=script("sheet"))
        with gr.Row(elem_classes="under"):
            self.save = gr.Button("Save PNG", size="sm", scale=0, min_width=110, visible=False)
            self.download = gr.DownloadButton(visible="hidden", elem_id="sheet-download")

    def build_axis(self, label: str, kind: str) -> tuple[gr.Dropdown, gr.Textbox]:
        with gr.Column(min_width=240):
            chosen = gr.Dropdown(
                self.kinds([]), value=kind, label=label, elem_id=f"axis-{label.lower()}", elem_classes="axis"
            )
            values = gr.Textbox(
                self.example(kind, self.engine.first),
                label="Values",
                info="1, 2, 4 or FROM:TO:COUNT; words one | another",
                max_length=4000,
                elem_id=f"values-{label.lower()}",
            )
        return chosen, values

    def example(self, kind: str, model: str) -> str:
        """Values that show something, of a kind of axis; the words are those of the model, where it names some."""
        kind = kind.partition(".")[0]
        words = self.engine.models[model].words
        own = {"prompt": words.examples[:SHOWN], "style": tuple(words.styles)}.get(kind)
        return " | ".join(own) if own else EXAMPLES[kind]

    def kinds(self, own: list[str]) -> list[tuple[str, str]]:
        """What an axis can change: title and name."""
        titles = {"control": "control strength", "one-step": "YOSO weight", "adapter": "LoRA"}
        kinds = [(titles.get(kind, kind), kind) for kind in AXES if kind != NAMED]
        picker = self.settings.picker
        return kinds + [(f"{entry.title} weight", f"lora.{entry.id}") for entry in picker.here(own)]

    def connect(self, private: dict[str, Any]) -> None:
        asked = {
            *self.settings.asked,
            self.source,
            *(control for tab in self.sources.values() for control in tab.typed),
        }
        axes = {self.x, self.x_values, self.y, self.y_values}
        drawing = private | DRAWING | {"show_progress": "minimal"}  # who comes first
        climbs = drawing | {"show_progress_on": self.climbed}
        self.climb.click(self.draw_ladder, asked, [self.ladder, self.climbed], **climbs)
        own = self.settings.picker.own
        self.fill.click(
            self.draw_grid,
            asked | axes,
            [self.grid, self.told, self.save, self.download],
            show_progress_on=self.told,
            **drawing,
        )
        self.save.click(None, js=on_saved("sheet-download"))
        for kind, typed in ((self.x, self.x_values), (self.y, self.y_values)):
            kind.input(self.example, [kind, self.settings.model], typed, show_progress="hidden", **private)
        own.change(lambda own: [gr.Dropdown(choices=self.kinds(own))] * 2, own, [self.x, self.y], **private)

    def axis(self, kind: str, values: str, own: list[str]) -> Axis:
        """What is typed, its LoRAs by their ids; people write their titles, or their names without what is secret.

        Raises:
            RequestError: it is no axis.
        """
        axis, picker = parse_axis(f"{kind}={values}"), self.settings.picker
        if axis.kind != "adapter":
            return axis
        here = picker.here(own)
        ids = {entry.title.casefold(): entry.id for entry in here}
        ids |= {public_name(entry.id): entry.id for entry in here} | {NO_ADAPTER: NO_ADAPTER}
        return replace(axis, values=tuple(ids.get(name, ids.get(name.casefold(), name)) for name in axis.values))

    def asked(self, values: dict[Any, Any]) -> GenerateRequest:
        """What the chosen tab asks for.

        Raises:
            RequestError: that is not possible, or nothing yet.
        """
        tab = self.sources[values[self.source]]
        request = tab.request(values)
        if request is None:
            raise RequestError(f"There is no picture on the {tab.name.capitalize()} tab yet; draw or open one there.")
        return request

    def draw_ladder(self, values: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> Iterator[tuple[str, str]]:
        """Rung by rung."""
        try:
            sheet = ladder(self.engine, self.asked(values))
            results: list[Result] = []
            yield ladder_html(sheet, results), ""
            for result in run(self.engine, sheet, come_first(progress)):
                results.append(result)
                yield ladder_html(sheet, results), ""
        except (RequestError, PictureError) as error:
            yield gr.skip(), problem_html(str(error))

    def draw_grid(self, values: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> Iterator[tuple[Any, ...]]:
        """As a table that grows, and at its end as one labelled picture to save."""
        try:
            own = values.get(self.settings.picker.own) or []
            x = self.axis(values[self.x], values[self.x_values], own)
            y = self.axis(values[self.y], values[self.y_values], own)
            if "style" in (x.kind, y.kind):
                values = values | {self.settings.style: NO_STYLE}
            sheet = grid(self.asked(values), x, y)
            results: list[Result] = []
            shown = 0.0
            for result in run(self.engine, sheet, come_first(progress)):
                results.append(result)
                if monotonic() - shown > PACE:
                    yield grid_html(sheet, results), "", gr.Button(visible=False), gr.skip()
                    shown = monotonic()
        except (RequestError, PictureError) as error:
            yield gr.skip(), problem_html(str(error)), gr.skip(), gr.skip()
            return
        path = save_picture(draw(sheet, results), "grid.png", self.download.GRADIO_CACHE)
        yield grid_html(sheet, results), "", gr.Button(visible=True), path
