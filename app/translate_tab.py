"""The Translate tab: a picture becomes another one that keeps its structure, while you draw."""

import html
from typing import Any

import gradio as gr
from PIL import Image

from app.easel import Easel, on_canvas, read_canvas
from app.settings import Settings
from app.translate_files import TranslateFiles
from yoso_core.requests import (
    CONSISTENCY,
    COUNT_LIMIT,
    THRESHOLD_LIMIT,
    RequestError,
    TranslateRequest,
)
from yoso_core.service import Service

Choices = list[tuple[str, str]]  # title and name
LINES: Choices = [("Drawing", "scribble"), ("Photo or picture", "canny"), ("Ready-made map", "map")]
NOTHING_YET = '<p class="note">Draw something, or open a picture.</p>'
NONE_HERE = '<p class="note">There is no translator for this model here yet.</p>'


class TranslateTab(Easel):
    """Layout of the tab, what it asks for and how its settings come back.

    Args:
        engine: tells what translators there are.
        settings: the controls that all tabs share.
    """

    name, kind = "translate", TranslateRequest
    prefix = "translate-"
    masks, brush = False, 12

    def __init__(self, engine: Service, settings: Settings) -> None:
        super().__init__(engine, settings)
        self.files = TranslateFiles(engine, self.request_of)

    def build(self) -> None:
        offered = self.offered(self.engine.first)
        first = first_of(offered)
        self.trained = gr.State(())  # what was trained here; the pickers offer it once this changes
        with gr.Row(elem_id="way"):
            self.translator = gr.Radio(
                **choices_of(offered, first), label="Translator", elem_id="translator", elem_classes="segments"
            )
            self.direction = gr.Radio(
                **self.ways(first), label="Direction", elem_id="direction", elem_classes="segments"
            )
        told, lines = self.describe(first, "")
        self.hint = gr.HTML(told, elem_id="way-hint", elem_classes="info")
        self.build_easel()
        with gr.Row(elem_id="translate-how"):
            self.strength = gr.Slider(
                0,
                1,
                1,
                step=0.01,
                label="Strength",
                info="1 is as trained; below it each seed gives another variation",
                elem_id="translate-strength",
                min_width=240,
                scale=2,
                buttons=[],
            )
            self.count = gr.Slider(
                1,
                COUNT_LIMIT,
                1,
                step=1,
                label="Variations",
                info="Below strength 1",
                elem_id="translate-count",
                min_width=160,
                buttons=[],
            )
        with gr.Row(elem_id="translate-lines", **lines) as self.lines:
            self.annotator = gr.Radio(
                LINES,
                value="scribble",
                label="What the canvas holds",
                info="The translator is given its lines, shown in the corner of the result",
                elem_id="translate-annotator",
                elem_classes="segments",
                min_width=320,
                scale=2,
            )
            with gr.Accordion("Thresholds of edges", open=False, elem_id="translate-edges"), gr.Row():
                self.low = gr.Slider(0, THRESHOLD_LIMIT, 100, step=5, label="Low", min_width=100, buttons=[])
                self.high = gr.Slider(0, THRESHOLD_LIMIT, 200, step=5, label="High", min_width=100, buttons=[])
        with gr.Accordion("Translate many files", open=False, elem_id="translate-many"):
            self.build_fit()
            self.files.build()

    @property
    def typed(self) -> list[Any]:
        return [
            *(self.canvas, self.translator, self.direction, self.strength, self.count),
            *(self.annotator, self.low, self.high, self.fit),
        ]

    def request(self, values: dict[Any, Any]) -> TranslateRequest | None:
        """What the controls ask for; None while the canvas is empty."""
        picture, _ = read_canvas(values[self.canvas])
        if all(low == high for low, high in picture.getextrema()):
            return None
        # A square comes in the size that is drawn, and other shapes in that of the canvas, which they keep.
        fit = "crop" if picture.width == picture.height else "keep"
        return self.request_of(values, picture, count=values[self.count], fit=fit)

    def request_of(self, values: dict[Any, Any], picture: Image.Image, **changes: Any) -> TranslateRequest:
        """What the controls ask of any picture.

        Args:
            values: of the controls.
            picture: RGB.
            changes: fields of the request that are not as the controls say, or that these do not say.

        Raises:
            RequestError: something that is not possible, or no translator.
        """
        spec = self.engine.translators.get(values[self.translator] or "")
        if spec is None:
            raise RequestError("There is no translator for this model here; choose another model or train one.")
        direction = values[self.direction]
        direction = direction if direction in spec.directions else next(iter(spec.directions))
        fixed = spec.directions[direction].prompt
        common = self.settings.values(values)
        if fixed is not None:
            common["prompt"] = fixed
        unused = {"steps": 1, "sampler": CONSISTENCY, "guidance": 1.0, "negative": ""}  # by one evaluation
        return TranslateRequest(
            **common | unused | {"fit": values[self.fit]} | changes,
            picture=picture,
            translator=values[self.translator],
            direction=direction,
            strength=values[self.strength],
            annotator=values[self.annotator],
            low=values[self.low],
            high=values[self.high],
        )

    def wait(self) -> dict[Any, Any]:
        return super().wait() | {self.info: NOTHING_YET}

    def restored(self, request: TranslateRequest) -> dict[Any, Any]:
        offered = self.offered(request.model)
        name = request.translator
        if name not in {known for _, known in offered}:
            raise RequestError(f"This picture was made by the translator {name!r:.60}, which is not here.")
        direction = self.engine.translators[name].direction(request.direction)
        fixed = self.engine.translators[name].directions[direction].prompt is not None
        kept = {self.settings.prompt: gr.skip(), self.settings.style: gr.skip()} if fixed else {}
        return kept | {
            self.canvas: {"picture": on_canvas(request.picture, request.fit), "draw": True},
            self.translator: gr.Radio(**choices_of(offered, name)),
            self.direction: gr.Radio(**self.ways(name, direction)),
            self.strength: request.strength,
            self.count: request.count,
            self.annotator: request.annotator if request.annotator in dict(LINES).values() else LINES[0][1],
            self.low: request.low,
            self.high: request.high,
        }

    def offered(self, model: str) -> Choices:
        """Title and name of each translator for a model."""
        family = self.engine.models.get(model, self.engine.models[self.engine.first]).family
        known = list(self.engine.translators.items())  # a run may add its own meanwhile
        return numbered([(spec.title, name) for name, spec in known if spec.family == family])

    def ways(self, name: str | None, direction: str = "") -> dict[str, Any]:
        """What the picker of directions shows for a translator; nothing where there is no choice."""
        spec = self.engine.translators.get(name or "")
        found = numbered([(one.title, key) for key, one in spec.directions.items()]) if spec else []
        return choices_of(found, direction or first_of(found))

    def describe(self, name: str | None, direction: str) -> tuple[str, dict[str, Any]]:
        """A word on what the prompt does here, and whether it is lines that are translated."""
        spec = self.engine.translators.get(name or "")
        if spec is None:
            return NONE_HERE, {"visible": False}
        way = spec.directions.get(direction) or next(iter(spec.directions.values()))
        if way.prompt is not None:
            prompt = html.escape(way.prompt)
            hint = f'<p class="fixed-prompt">This direction always reads the prompt “{prompt}”; yours is not used.</p>'
        elif spec.input == "lines":
            hint = "<p>Lines stay where they are; the prompt says what becomes of them.</p>"
        else:
            hint = "<p>What is on the canvas stays where it is; the prompt says what becomes of it.</p>"
        return hint, {"visible": spec.input == "lines"}

    def connect(self, private: dict[str, Any]) -> None:
        super().connect(private)
        quiet = private | {"show_progress": "hidden"}
        settings, chosen = self.settings, [self.translator, self.direction]
        self.translator.input(self.choose, self.translator, self.direction, **quiet)
        gr.on(
            [self.translator.change, self.direction.change],
            self.tell,
            chosen,
            [self.hint, self.lines],
            **quiet,
        )
        self.trained.change(self.offer, [settings.model, *chosen], chosen, **quiet)
        self.canvas.upload(None, None, self.annotator, js="() => 'canny'")  # what is opened is seldom a sketch
        self.files.connect({*settings.asked, *self.typed}, private)

    def choose(self, translator: str) -> Any:
        return gr.Radio(**self.ways(translator))

    def tell(self, translator: str | None, direction: str | None) -> tuple[str, Any]:
        hint, lines = self.describe(translator, direction or "")
        return hint, gr.Row(**lines)

    @property
    def of_model(self) -> list[Any]:
        return [self.translator, self.direction]

    def for_model(self, name: str, values: dict[Any, Any]) -> dict[Any, dict[str, Any]]:
        translator, direction = self.offer(name, values[self.translator], values[self.direction])
        return {self.translator: translator, self.direction: direction}

    def offer(self, model: str, translator: str | None, direction: str | None) -> tuple[Any, Any]:
        """What there is for a model; what is chosen stays where there is it."""
        offered = self.offered(model)
        if translator not in {known for _, known in offered}:
            translator, direction = first_of(offered), ""
        ways = self.ways(translator, direction or "")
        return gr.update(**choices_of(offered, translator)), gr.update(**ways)


def numbered(found: Choices) -> Choices:
    """The same with a number behind titles that came before."""
    titles = [title for title, _ in found]
    before = [titles[:index].count(title) for index, title in enumerate(titles)]
    return [
        (f"{title} ({count + 1})" if count else title, name) for count, (title, name) in zip(before, found, strict=True)
    ]


def first_of(found: Choices) -> str | None:
    return found[0][1] if found else None


def choices_of(found: Choices, chosen: str | None) -> dict[str, Any]:
    """Options of a radio over titles and names; hidden where there is no choice."""
    return {"choices": found, "value": chosen, "visible": len(found) > 1}
