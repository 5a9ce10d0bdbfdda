"""The one listener that draws, for whichever tab is open."""

import html
from typing import Any

import gradio as gr

from app.history import ON_SAVED, History
from app.picture_tab import PictureTab
from app.pictures import plain, run
from app.settings import Settings
from yoso_core.engine import Engine
from yoso_core.files.metadata import Restored
from yoso_core.requests import RequestError

TAKE_STAGE = "() => { window.yosoToCanvas(document.querySelector('#stage img')?.src); }"
WAITING = '<p class="note">Press Generate for a new picture.</p>'


def open_edit() -> tuple[gr.Tabs, str]:
    """What shows the Edit tab; a script has put the picture on its canvas."""
    return gr.Tabs(selected="edit"), "edit"


class Drawing:
    """Every picture on the page comes from the one listener `draw`, so that nothing can overtake it.

    Gradio runs it one at a time and, with ``always_last``, once more when inputs changed meanwhile. Buttons, examples
    and files only set inputs and count `order` up, which is one of its triggers.

    Args:
        engine: answers the requests.
        settings: the controls that all tabs share.
        tabs: those that draw.
        history: gets the settings of every picture.
    """

    def __init__(self, engine: Engine, settings: Settings, tabs: list[PictureTab], history: History) -> None:
        self.engine, self.settings, self.history = engine, settings, history
        self.tabs = {tab.name: tab for tab in tabs}
        self.makers = {tab.kind: tab for tab in tabs}

    def connect(self, selected: gr.Tabs, private: dict[str, Any]) -> None:
        """Who listens to whom.

        Args:
            selected: the row of tabs.
            private: queue rules of a listener that no program may call.
        """
        self.selected, settings = selected, self.settings
        self.active = gr.Textbox("generate", visible="hidden")  # the name of the open tab; scripts set it too
        self.drawn = gr.State(0)  # the `order` of the last explicit wish that was met
        typed = [*settings.typed, *(control for tab in self.tabs.values() for control in tab.typed)]
        states = [self.active, self.drawn, *(tab.shown for tab in self.tabs.values())]
        shown = [part for tab in self.tabs.values() for part in (tab.stage, tab.info, tab.shown)]
        events = [component.change for component in typed]  # `input` is deaf to what is pasted
        gr.on(
            [settings.order.change, settings.live.change, self.active.change, *events],
            self.draw,
            {*typed, *states, *settings.asked, settings.live, settings.order},
            [*shown, self.drawn, self.history.strip],
            trigger_mode="always_last",  # the default drops what is typed while a picture is in the making
            show_progress="minimal",
            show_progress_on=[tab.stage for tab in self.tabs.values()],
            **private,
        )
        selected.select(self.choose_tab, None, self.active, show_progress="hidden", **private)
        settings.connect(private, self.tabs["generate"].stage)
        opened = [selected, self.active]
        self.tabs["generate"].edit.click(open_edit, None, opened, js=TAKE_STAGE, show_progress="hidden", **private)
        self.history.strip.edit(open_edit, None, opened, show_progress="hidden", **private)
        for tab in self.tabs.values():
            tab.connect(private)
            tab.save.click(
                self.history.save, tab.shown, self.history.download, show_progress="hidden", **private
            ).success(None, js=ON_SAVED)
        self.restores = [
            *typed,
            settings.keep,
            settings.model,
            settings.chosen,
            settings.order,
            *opened,
        ]  # what `restored` sets
        picker = settings.picker
        self.history.connect(
            settings.upload, settings.order, picker.own, picker.shared, self.restored, self.restores, private
        )

    def choose_tab(self, event: gr.SelectData) -> str:
        """The name of the tab that was opened; `event.value` is its label."""
        return str(event.value).lower()

    def draw(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Make the pictures of the open tab and say what they took.

        Problems are told on the page and not raised: after a failed listener Gradio forgets the input that waits.
        """
        tab = self.tabs.get(values[self.active])
        if tab is None:
            return {self.drawn: values[self.drawn]}
        order, wished = values[self.settings.order], values[self.settings.order] != values[self.drawn]
        try:
            request = tab.request(values)
            if request is None:  # nothing to draw from
                return tab.wait() | {self.drawn: order}
            if not wished and request == values[tab.shown]:
                return {self.drawn: order}
            if not wished and not values[self.settings.live]:
                return {tab.info: WAITING}
            result = run(self.engine, request)
        except RequestError as error:
            return tab.refuse(str(error)) | {self.drawn: order}
        except gr.Error as error:  # made for a toast
            return tab.refuse(html.unescape(error.message)) | {self.drawn: order}
        entry = self.history.entry(result, tab.stage.elem_id)
        return tab.show(result) | {self.drawn: order, self.history.strip: entry}

    def restored(self, restored: Restored, own: list[str], order: int) -> dict[Any, Any]:
        """Set every control to what a picture was made with, on the tab that makes such pictures.

        Raises:
            RequestError: it can't be made here.
        """
        request = restored.request
        tab = self.makers[type(request)]
        updates, notes = self.settings.restored(request, own, order)
        if request.control is not None and tab.name == "generate":
            notes.append("What the picture followed; the Edit tab can follow lines.")
        for note in (*restored.notes, *notes):
            gr.Info(plain(note), title="Not taken over")
        opened = {self.selected: gr.Tabs(selected=tab.name), self.active: tab.name}
        return updates | tab.restored(request) | opened
