"""The one listener that draws, for whichever tab is open."""

import html
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from app.components import is_of, sent_along
from app.easel import sent_side
from app.history import ON_SAVED, History
from app.lora_picker import FETCHING
from app.picture_tab import PictureTab, save_label
from app.pictures import plain, run
from app.server.page import NOT_TAKEN
from app.server.queueing import DRAWING
from app.settings import Settings
from yoso_core.drawing import PictureError
from yoso_core.files.metadata import Restored
from yoso_core.requests import RequestError
from yoso_core.service import Service

TAKE_STAGE = "() => { window.yosoToCanvas(document.querySelector('#stage img')?.src); }"
LOG = logging.getLogger(__name__)
# For as long as a picture takes, as a rule; for longer where the server has forgotten what the page had.
OVERTAKEN = '<p class="note">Other choices have come meanwhile; reload the page if no picture follows.</p>'
WAITING = '<p class="note">Press Generate for a new picture.</p>'


# What is typed counts a number up once nothing was typed for a while; what is overtaken until then changes nothing.
ON_REST = """count => new Promise(done => {{
    clearTimeout(window.yosoRest?.timer);
    window.yosoRest?.overtaken();
    const timer = setTimeout(() => {{ window.yosoRest = null; done(count + 1); }}, {milliseconds:.0f});
    window.yosoRest = {{timer, overtaken: () => done(count)}};
}})"""
# All that is sent of what is set, as one text: each input of a listener with Python behind it is gone over twice by the
# page and once by the server. Of tabs that are not open nothing is sent.
ON_CHANGE = """(...values) => {{
    for (const [tab, [from, to]] of Object.entries({tabs})) if (tab !== values[{active}]) values.fill(null, from, to);
    return JSON.stringify(values);
}}"""
LOCKED = '<p class="note">The seed is locked, so this is the same picture; unlock it or press Roll for another.</p>'


def open_edit() -> tuple[gr.Tabs, str]:
    """What shows the Edit tab; a script has put the picture on its canvas."""
    return gr.Tabs(selected="edit"), "edit"


def changed(updates: dict[Any, dict[str, Any]], values: dict[Any, Any]) -> dict[Any, dict[str, Any]]:
    """The updates without values that controls have already: meanwhile somebody may have chosen others.

    Args:
        updates: by control.
        values: what the controls said as the page sent them.
    """
    return {
        control: {key: each for key, each in update.items() if (key, each) != ("value", values.get(control))}
        for control, update in updates.items()
    }


class Drawing:
    """Every picture on the page comes from the one listener `answer`, so that nothing can overtake it.

    Gradio runs it one at a time and, with ``always_last``, once more when what is asked changed meanwhile. Buttons,
    examples and files only set controls and count `order` up; a script puts what the controls say together as `wish`
    whenever one of them changes, and that is its trigger.

    Args:
        engine: answers the requests.
        settings: the controls that all tabs share.
        tabs: those that draw.
        history: gets the settings of every picture.
        others: names of the tabs that don't draw.
        rest: seconds without a change until what was typed is drawn; 0 draws at once.
    """

    def __init__(
        self,
        engine: Service,
        settings: Settings,
        tabs: list[PictureTab],
        history: History,
        others: Sequence[str] = (),
        rest: float = 0.0,
    ) -> None:
        self.rest = rest
        self.engine, self.settings, self.history = engine, settings, history
        self.tabs = {tab.name: tab for tab in tabs}
        self.known_tabs = [*self.tabs, *others]
        self.makers = {tab.kind: tab for tab in tabs}

    def connect(
        self, selected: gr.Tabs, private: dict[str, Any], shelf: Any, at_shelf: Callable[[str], dict[str, Any]]
    ) -> None:
        """Who listens to whom.

        Args:
            selected: the row of tabs.
            shelf: where models are shown that are not here.
            at_shelf: what it shows of one of them, by id.
            private: queue rules of a listener that no program may call.
        """
        self.selected, settings = selected, self.settings
        self.shelf, self.at_shelf = shelf, at_shelf
        sides = json.dumps({name: sent_side(spec) for name, spec in self.engine.models.items()})
        settings.model.change(None, settings.model, js=f"name => {{ window.yosoSide = {sides}[name]; }}")
        self.active = gr.Textbox("generate", visible="hidden")  # the name of the open tab; scripts set it too
        self.drawn = gr.State(0)  # the `order` of the last explicit wish that was met
        self.refused = gr.State(False)  # whether what stands under the pictures is a problem
        typed = [*settings.typed, *(control for tab in self.tabs.values() for control in tab.typed)]
        states = [self.drawn, self.refused, settings.picker.own, *(tab.shown for tab in self.tabs.values())]
        shown = [part for tab in self.tabs.values() for part in (tab.stage, tab.info, tab.shown, tab.save)]
        events = [component.change for component in typed]  # `input` is deaf to what is pasted
        if self.rest:
            rested = gr.Number(0, visible="hidden", precision=0)
            js = ON_REST.format(milliseconds=1000 * self.rest)
            gr.on(events, None, rested, rested, js=js, trigger_mode="multiple")
            events = [rested.change]
        self.sent = [self.active, *(settings.order, settings.live, settings.keep, settings.model), *typed]
        self.wish = gr.HTML("", html_template="", visible="hidden")
        js = ON_CHANGE.format(tabs=json.dumps(self._places()), active=self.sent.index(self.active))
        for event in (settings.order.change, settings.live.change, self.active.change, *events):
            event(None, self.sent, self.wish, js=js)  # each by itself: the page goes over all triggers of a listener
        self.wish.change(
            self.answer,
            {self.wish, *states},
            [*shown, self.drawn, self.refused, self.history.strip],
            trigger_mode="always_last",  # the default drops what is typed while a picture is in the making
            show_progress="minimal",
            show_progress_on=[tab.stage for tab in self.tabs.values()],
            **private | DRAWING,
        )
        # Every tab of a quick hand, one after the other: by default those would be dropped that come during an answer.
        every = private | {"trigger_mode": "multiple", "show_progress": "hidden"}
        selected.select(self.choose_tab, None, self.active, **every)
        settings.connect(private)
        # A place of its own: what is loaded may take a minute.
        self.chooses = {settings.wished, settings.model, settings.order, settings.picker.own, *typed}
        opening = [selected, self.active, shelf]
        self.chosen = list(dict.fromkeys([*settings.of_model, settings.order, *self.of_model, *opening]))
        settings.wished.select(
            self.choose_model,
            self.chooses,
            self.chosen,
            show_progress_on=self.tabs["generate"].stage,
            **private | FETCHING,
        )
        opened = [selected, self.active]
        self.tabs["generate"].edit.click(open_edit, None, opened, js=TAKE_STAGE, show_progress="hidden", **private)
        self.history.strip.edit(self.open_tab, None, opened, show_progress="hidden", **private)
        for tab in self.tabs.values():
            tab.connect(private)
            tab.save.click(
                self.history.save,
                [tab.shown, settings.enlarge],
                self.history.download,
                show_progress="hidden",
                **private | DRAWING,
            ).success(None, js=ON_SAVED)
        # What `restored` sets, and what it has to know.
        self.restores = list(dict.fromkeys([*typed, *settings.of_model, *self.of_model, settings.order, *opened]))
        self.asked = {settings.model, settings.order, settings.picker.own, *typed}
        self.history.connect(
            settings.upload, self.asked, settings.picker, settings.enlarge, self.restored, self.restores, private
        )

    @property
    def of_model(self) -> list[Any]:
        """The controls of the tabs that `for_model` sets."""
        return [control for tab in self.tabs.values() for control in tab.of_model]

    def choose_tab(self, event: gr.SelectData) -> str:
        """The name of the tab that was opened; `event.value` is its label."""
        return str(event.value).lower()

    def open_tab(self, event: gr.EventData) -> tuple[gr.Tabs, str]:
        """What shows the tab that a script has brought a picture to."""
        name = sent_along(event).get("tab")
        name = name if name in self.tabs else "edit"
        return gr.Tabs(selected=name), name

    def for_model(self, name: str, values: dict[Any, Any]) -> dict[Any, dict[str, Any]]:
        """Every control as another model has it."""
        settings = self.settings
        updates = settings.for_model(name, values, values.get(settings.picker.own) or [])
        for tab in self.tabs.values():
            updates |= tab.for_model(name, values)
        return updates

    def choose_model(
        self, values: dict[Any, Any], progress: gr.Progress = gr.Progress(), opened: str = ""
    ) -> dict[Any, Any]:
        """Load a model and open a tab, if one is named; one that is not here is shown on the shelf.

        Where that fails, only the picker goes back.
        """
        progress(0, desc="Loading")
        settings, name = self.settings, values[self.settings.wished]
        try:
            if self.engine.missing(name):  # what it takes is told there, and it can be got
                shelf = {self.shelf: self.at_shelf(f"model:{name}")}
                return shelf | self.shows("models") | {settings.wished: values[settings.model]}
            self.engine.load(name, report=lambda message: progress(0.5, desc=message))
            # The picker is always set: the shelf asks in its name.
            updates = changed(self.for_model(name, values), values | {settings.wished: None})
        except (RequestError, PictureError) as error:
            gr.Warning(plain(str(error)), title="Model not loaded")
            return {settings.wished: values[settings.model]}
        except Exception:  # a broken folder may raise anything
            LOG.exception("unforeseen while loading %s", name)
            gr.Warning("The server's log tells what went wrong.", title="Model not loaded")
            return {settings.wished: values[settings.model]}
        shown = self.shows(opened) if opened else {}
        return updates | shown | {settings.order: values[settings.order] + 1}

    def shows(self, tab: str) -> dict[Any, Any]:
        """Updates that open a tab."""
        return {self.selected: gr.Tabs(selected=tab), self.active: tab}

    def _places(self) -> dict[str, tuple[int, int]]:
        """Where the controls of each tab begin and end in what is sent."""
        firsts = {name: self.sent.index(tab.typed[0]) for name, tab in self.tabs.items()}
        return {name: (first, first + len(self.tabs[name].typed)) for name, first in firsts.items()}

    def answer(self, values: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> dict[Any, Any]:
        """Draw what the page asks for.

        Raises:
            Error: what is sent is not what the page sends.
        """
        try:
            said = dict(zip(self.sent, json.loads(values[self.wish]), strict=True))
        except (TypeError, ValueError, RecursionError):
            raise gr.Error(NOT_TAKEN, print_exception=False) from None
        if not all(is_of(control, value) for control, value in said.items()):
            raise gr.Error(NOT_TAKEN, print_exception=False)
        return self.draw(values | said, progress)

    def draw(self, values: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> dict[Any, Any]:
        """Make the pictures of the open tab and say what they took.

        Problems are told on the page and not raised: after a failed listener Gradio forgets the input that waits.
        """
        tab = self.tabs.get(values[self.active])
        if tab is None:
            return {self.drawn: values[self.drawn]}
        if self.settings.are_overtaken(values):
            return {self.drawn: values[self.drawn], tab.info: OVERTAKEN}
        order, wished = values[self.settings.order], values[self.settings.order] != values[self.drawn]
        met = {self.drawn: order, self.refused: False}
        try:
            request = tab.request(values)
            if request is None:  # nothing to draw from
                return tab.wait() | met
            same = request == values[tab.shown] and not values[self.refused]
            if not wished and same:
                return met
            if not wished and not values[self.settings.live]:
                return {tab.info: WAITING}
            result = run(self.engine, request, progress)
        except RequestError as error:
            return tab.refuse(str(error)) | met | {self.refused: True}
        except gr.Error as error:  # made for a toast
            return tab.refuse(html.unescape(error.message)) | met | {self.refused: True}
        updates = tab.show(result) | {tab.save: gr.Button(save_label(len(result.pictures)))}
        if wished and same and values[self.settings.keep]:
            updates[tab.info] += LOCKED
        return updates | met | {self.history.strip: self.history.entry(result, tab.stage.elem_id)}

    def restored(self, restored: Restored, values: dict[Any, Any]) -> dict[Any, Any]:
        """Set every control to what a picture was made with, on the tab that makes such pictures.

        Args:
            restored: the picture's settings.
            values: of the controls `asked`.

        Raises:
            RequestError: it can't be made here.
        """
        request, settings = restored.request, self.settings
        tab = self.makers[type(request)]
        updates, notes = settings.restored(request, values)
        if request.model != values[settings.model]:
            for each in self.tabs.values():
                updates |= each.for_model(request.model, values)
        if request.control is not None and tab.name == "generate":
            notes.append("What the picture followed; the Edit tab can follow lines.")
        for note in (*restored.notes, *notes):
            gr.Info(plain(note), title="Not taken over")
        opened = {self.selected: gr.Tabs(selected=tab.name), self.active: tab.name}
        return updates | tab.restored(request) | opened
