"""The one owner of what a person has set: kept by the browser as it changes, set again when the page opens.

A reload, a restart of the server and a second tab all begin here, and so does a link, which is laid over what was kept.
The canvases keep themselves, see ``canvas.js``; both use ``desk.js``.
"""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.components import is_number, script
from app.drawing import Drawing
from app.lora_picker import OWN
from app.pictures import plain
from app.server.queueing import DRAWING
from app.settings import Settings
from yoso_core.drawing import PictureError
from yoso_core.files.links import from_link
from yoso_core.lora.library import public_name
from yoso_core.requests import LORA_WEIGHT_RANGE, PROMPT_LIMIT, RequestError
from yoso_core.service import Service

# The prompt is selected, so that what is typed first takes its place.
ON_OPEN = (
    "(saved, order) => { document.querySelector('#prompt textarea')?.select(); "
    "return [window.yosoDesk.opening(), order]; }"
)
ON_OPENED = "(...values) => window.yosoDesk.opened({names}, values)"


def head() -> str:
    """What the page's head has to hold for all of it."""
    return f"<script>{script('desk')}</script>"


class Desk:
    """What is kept, by name, and how it comes back.

    Args:
        engine: knows the models.
        settings: the controls that all tabs share.
        drawing: sets them all.
        others: objects whose controls are kept, too, with the names of these.
        recall: makes known what is on this machine beside what the engine began with.
    """

    def __init__(
        self,
        engine: Service,
        settings: Settings,
        drawing: Drawing,
        others: dict[str, tuple[Any, tuple[str, ...]]],
        recall: Callable[[], None],
    ) -> None:
        self.engine, self.settings, self.drawing, self.others = engine, settings, drawing, others
        self.recall = recall

    def connect(self, load: Callable[..., Any], private: dict[str, Any]) -> Any:
        """Keep what changes, and set it when the page opens; returns the event after which all is set.

        Args:
            load: the event of a page that opens.
            private: queue rules of a listener that no program may call.
        """
        settings, picker = self.settings, self.settings.picker
        self.saved = gr.JSON(visible="hidden")
        self.controls = self._controls()
        for name, control in self.controls.items():  # each by itself: the page goes over all inputs of a listener
            control.change(None, control, js=f"value => window.yosoDesk.put('{name}', value)")
        outputs = [*self.drawing.restores, *self.controls.values(), picker.own]
        return load(
            self.open,
            [self.saved, settings.order],
            list(dict.fromkeys(outputs)),
            js=ON_OPEN,
            show_progress="hidden",
            show_progress_on=self.saved,  # not all it sets: the page goes over these whenever any listener gets on
            **private | DRAWING,  # it may load a model
        ).then(None, [*self.controls.values()], js=ON_OPENED.format(names=json.dumps([*self.controls])))

    def _controls(self) -> dict[str, Any]:
        settings, drawing = self.settings, self.drawing
        shared = {name: control for name, control in vars(settings).items() if control in [*settings.typed]}
        found = shared | {"loras": settings.picker.loras, "model": settings.model, "tab": drawing.active}
        found |= {"keep": settings.keep, "live": settings.live, "enlarge": settings.enlarge}
        for tab in drawing.tabs.values():
            kept = [control for control in tab.typed if not isinstance(control, gr.HTML)]
            found |= {f"{tab.name}.{name}": control for name, control in vars(tab).items() if control in kept}
        for prefix, (owner, names) in self.others.items():
            found |= {f"{prefix}.{name}": getattr(owner, name) for name in names}
        return found

    def open(self, opening: Any, order: int) -> dict[Any, Any]:
        """Everything as it was, as far as it is here; the browser sends what it kept, and a link if there is one."""
        opening = opening if isinstance(opening, dict) else {}
        saved, link = opening.get("saved"), opening.get("link")
        updates, notes = self.kept(saved if isinstance(saved, dict) else {})
        values = self.values(updates) | {self.settings.order: order}
        try:
            if link:
                updates |= self.drawing.restored(from_link(link), values)
        except RequestError as error:
            gr.Warning(plain(str(error)), title="Link not opened")
        for note in notes:
            gr.Info(plain(note), title="Not as it was")
        return updates | {self.settings.order: order + 1}

    def values(self, updates: dict[Any, Any]) -> dict[Any, Any]:
        """What the controls say once these updates are done."""
        asked = [*self.controls.values(), *self.drawing.asked]
        said = {control: updates.get(control, control.value) for control in asked}
        return {control: each.get("value") if _is_update(each) else each for control, each in said.items()}

    def kept(self, saved: dict[str, Any]) -> tuple[dict[Any, Any], list[str]]:
        """Updates that set what was kept, and what of it is gone, in words."""
        settings, picker, notes = self.settings, self.settings.picker, []
        self.recall()
        own = saved.get("own")
        own = [name for name in own if picker.is_opened(name)] if isinstance(own, list) else []
        picker.hold(own)
        model = self._model(saved.get("model"), notes)
        values = {control: saved.get(name, control.value) for name, control in self.controls.items()}
        updates: dict[Any, Any] = self.drawing.for_model(model, values | {picker.own: own}) | {picker.own: own}
        updates[picker.loras] = self._loras(model, saved.get("loras"), own, notes)
        for name, control in self.controls.items():
            update = updates.get(control, {})
            if control in (picker.loras, settings.model, self.drawing.active) or name not in saved:
                continue
            if fits(control, update, saved[name]):
                updates[control] = {**update, **gr.update(value=saved[name])}
        tab = saved.get("tab")
        if isinstance(tab, str) and tab in self.drawing.known_tabs:
            updates |= {self.drawing.selected: gr.Tabs(selected=tab), self.drawing.active: tab}
        return updates, notes

    def _model(self, name: Any, notes: list[str]) -> str:
        """The model that was in use, loaded; the first one where that can't be."""
        first = self.engine.first
        if name in (None, first) or not isinstance(name, str):
            return first
        try:
            if needs := self.engine.missing(name):
                notes.append(f"{needs[0].title} has to be fetched first; choose its model again.")
                return first
            self.engine.load(name)
        except (RequestError, PictureError) as error:
            notes.append(str(error))
            return first
        return name

    def _loras(self, model: str, saved: Any, own: list[str], notes: list[str]) -> dict[str, Any]:
        """The list with the weights that were kept, of what is still here."""
        picker, spec = self.settings.picker, self.engine.models[model]
        low, high = LORA_WEIGHT_RANGE
        saved = saved if isinstance(saved, dict) else {}
        weights = {name: each for name, each in saved.items() if is_number(each) and low <= each <= high}
        here = {*picker.shared, *own, *(name for name in [*picker.known] if name.startswith("run-"))}
        gone = [name for name in weights if name not in here and name != OWN]
        if gone:
            names = ", ".join(f"{public_name(name):.60}" for name in gone)
            notes.append(f"These LoRAs are not here any more, add them again: {names}.")
        kept = {name: weight for name, weight in weights.items() if name in here}
        value = picker.start(spec)
        value = {name: weights.get(name, weight) for name, weight in value.items()} | kept
        return gr.update(value=value, entries=picker.cards(spec, own))


def _is_update(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update"


def fits(control: Any, update: dict[str, Any], value: Any) -> bool:
    """Whether a value that a browser kept can be set: pages change, and models have other choices.

    Args:
        control: that is set.
        update: what is changed about it at the same time.
        value: that was kept.
    """
    match control:
        case gr.Radio() | gr.Dropdown():
            choices = update.get("choices", control.choices)
            return value in [choice[1] if isinstance(choice, tuple | list) else choice for choice in choices]
        case gr.Slider():
            return is_number(value) and control.minimum <= value <= control.maximum
        case gr.Number():
            return value is None or is_number(value)
        case gr.Checkbox():
            return isinstance(value, bool)
        case _:
            return isinstance(value, str) and len(value) <= (control.max_length or PROMPT_LIMIT)
