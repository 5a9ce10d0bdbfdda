"""The Models tab: what models there are, what they take, what is here; getting and removing them."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from app.components import component, sent_along
from app.drawing import Drawing
from app.pictures import data_uri
from app.settings import Settings
from yoso_core.cached import cache_folder, held
from yoso_core.fetches import COMES, FAILED, PAUSED, WAITS, Fetching
from yoso_core.files.archives import amount
from yoso_core.files.pictures import fitted, open_picture
from yoso_core.machine import duration, room
from yoso_core.models import MODELS_FOLDER
from yoso_core.requests import RequestError
from yoso_core.shelf import Item, Shelf

EVERY = 1.0  # seconds between looks at what is on its way
PICTURE = (300, 104)  # pixels of what stands above a card
# Beside everything else: a hub may take its time.
BESIDE: dict[str, Any] = {"concurrency_id": "shelf", "concurrency_limit": 4}
ELSEWHERE = """<p>Without a server: <code>make web</code> writes the bundled model as a page of 40 MB that draws in its
visitor's own browser, for any web server or a static Space.</p>"""
VISITORS = "Nothing is fetched for visitors here; whoever runs this studio can allow it by --shelf open."


class ModelsTab:
    """The tab and what keeps it true.

    Args:
        shelf: what there is.
        settings: the controls that all tabs share.
        may: whether whoever opens the page may get, add and remove.
    """

    name = "models"

    def __init__(self, shelf: Shelf, settings: Settings, may: bool) -> None:
        self.shelf, self.settings, self.may = shelf, settings, may
        self.count = 0  # cards that were shown by name
        self.pictures: dict[str, str] = {}

    def build(self) -> None:
        self.list = component("shelf", {"cards": [], "may": self.may}, elem_id="shelf")
        with gr.Row(elem_id="shelf-add", visible=self.may):
            where = "OWNER/NAME of a model hub" if self.shelf.shared else "OWNER/NAME of a model hub, or a folder"
            self.place = gr.Textbox(
                label="Another model",
                info="It is looked at first: what it is, how large, under which licence",
                placeholder=where,
                max_length=1000,
                elem_id="shelf-place",
            )
            self.look_at = gr.Button("Look at it", elem_id="shelf-look", scale=0, min_width=110)
        gr.HTML(ELSEWHERE, visible=not self.shelf.shared, elem_classes="quiet", elem_id="elsewhere")

    def connect(self, drawing: Drawing, load: Callable[..., Any], private: dict[str, Any]) -> None:
        """Who listens to whom.

        Args:
            drawing: draws with what is chosen.
            load: the event of a page that opens.
            private: queue rules of a listener that no program may call.
        """
        self.drawing = drawing
        timer = gr.Timer(EVERY, active=False)  # outside of the tab, which Gradio makes only when it is opened
        # Not on the cards: the page would go over all of them whenever any listener gets on.
        quiet = private | BESIDE | {"show_progress": "hidden", "show_progress_on": self.place}
        offered = [self.list, self.settings.wished]
        drawing.active.change(self.open, [drawing.active, self.list], [self.list, timer], **quiet)
        timer.tick(self.tick, self.list, [self.list, drawing.tabs["translate"].trained], **quiet)
        self.list.select(self.act, self.settings.model, offered, **quiet)
        stage = drawing.tabs["generate"].stage
        self.list.edit(self.use, drawing.chooses, drawing.chosen, show_progress_on=stage, **private | BESIDE)
        gr.on(
            [self.place.submit, self.look_at.click],
            self.add,
            self.place,
            [*offered, self.place],
            **private | BESIDE | {"show_progress": "minimal"},
        )
        load(self.offer, None, self.settings.wished, **quiet)

    # What is shown

    def value(self, told: str = "", problem: bool = False, shown: str = "") -> dict[str, Any]:
        """All that the page shows.

        Args:
            told: a sentence above the cards.
            problem: whether that says what went wrong.
            shown: id of a card to look at.
        """
        self.count += bool(shown)
        there = room(cache_folder(), self.shelf.service.device)
        machine = (
            f"{amount(there.disk)} of the disk and {amount(there.free)} of {there.where} are free on this machine."
        )
        return {
            "cards": [self.card(item) for item in self.shelf.items().values()],
            "machine": machine if self.may else VISITORS,
            "may": self.may,
            "translators": sorted(self.shelf.service.translators),
            "told": told,
            "problem": problem,
            "shown": {"id": shown, "count": self.count} if shown else None,
        }

    def card(self, item: Item) -> dict[str, Any]:
        """What the page shows of a model."""
        shelf, thing = self.shelf, self.shelf.service.fetches.status().get(item.id)
        here = shelf.is_here(item)
        come = 0 if here else sum(held(need) for need in shelf.lacks(item))
        total, memory, fit = shelf.size(shelf.lacks(item)), shelf.memory(item), shelf.fit(item)
        state = state_of(item, here, shelf.is_begun(item), thing)
        seconds = duration(shelf.speed.seconds(item.work)) if item.work else ""
        facts = [
            f"{item.resolution} x {item.resolution} pixels" if item.resolution else "",
            f"roughly {seconds} a picture here" if seconds else "",
            f"{amount(memory)} of memory" if memory and state != "absent" else "",
        ]
        said = shelf.stated(item)
        also = "" if said.lower() in ("", item.licence.lower()) else f"; its card says {said}"
        facts = [" · ".join(filter(None, facts)), item.licence + also]
        done = thing.done if thing and thing.state == COMES else come
        return {
            "id": item.id,
            "kind": item.kind,
            "title": item.title,
            "about": item.about,
            "licence": item.licence,
            "page": item.page,
            "asks": item.asks,
            "state": state,
            "size": amount(total) if total else "",
            "facts": [fact for fact in facts if fact],
            "fit": words_of_fit(fit, shelf.problem(item)) if state == "absent" and self.may else None,
            "share": min(1.0, done / total) if total else 0.0,
            "figures": figures(thing, done, total),
            "why": thing.why if thing and state == "failed" else "",
            "usable": item.kind == "model" and here,
            "removable": (state == "here" and bool(item.needs)) or (item.added and state in ("here", "absent")),
            "frees": amount(shelf.frees(item)) if state == "here" and self.may else "",
            "picture": self.picture(item),
        }

    def picture(self, item: Item) -> str:
        """Of a model that came along; the page makes up others."""
        if item.id not in self.pictures:
            path = MODELS_FOLDER / item.name / "thumbnail.png"
            told = item.kind == "model" and "/" not in item.name and path.is_file()
            self.pictures[item.id] = data_uri(fitted(open_picture(path).picture, PICTURE)) if told else ""
        return self.pictures[item.id]

    def offer(self) -> gr.Dropdown:
        """What there is to choose from beside the other tabs."""
        return gr.Dropdown([(spec.title, name) for name, spec in list(self.shelf.service.models.items())])

    # What is done

    def at(self, id: str) -> dict[str, Any]:
        """What is shown where somebody looks for one of them."""
        return self.value(shown=id)

    def open(self, active: str, shown: Any) -> tuple[Any, gr.Timer]:
        """Ask the hub once somebody looks, and look again for as long as they do."""
        if active != self.name:
            return gr.skip(), gr.Timer(active=False)
        if self.may:
            self.shelf.ask()
        return self._anew(shown), gr.Timer(active=True)

    def _anew(self, shown: Any) -> dict[str, Any]:
        """The same, with what has changed."""
        before = shown if isinstance(shown, dict) else {}
        value = self.value(str(before.get("told", ""))[:500], bool(before.get("problem")))
        return value | {"shown": before.get("shown")}

    def tick(self, shown: Any) -> tuple[Any, Any]:
        """What has changed since the last look; where translators have come, the Translate tab is told."""
        value = self._anew(shown)
        if value == shown:
            return gr.skip(), gr.skip()
        here = value["translators"]
        changed = isinstance(shown, dict) and shown.get("translators") not in (None, here)
        return value, tuple(here) if changed else gr.skip()

    def act(self, model: str, event: gr.EventData) -> tuple[Any, Any]:
        """Get, pause, cancel or remove; whatever goes wrong is a sentence, and changes nothing else."""
        sent = sent_along(event)
        what, id = sent.get("do"), sent.get("id")
        try:
            if not self.may:
                raise RequestError(VISITORS)
            told = self._do(what, id, sent.get("agreed"), model)
        except RequestError as error:
            return self.value(str(error), problem=True), gr.skip()
        return self.value(told), self.offer()

    def _do(self, what: Any, id: Any, agreed: Any, model: str) -> str:
        shelf = self.shelf
        title = shelf.item(id).title
        if what == "get":
            shelf.get(id, agreed)
            return ""
        if what == "pause":
            shelf.pause(id)
            return f"{title} is paused; what has come stays."
        if what == "cancel":
            return f"{title} is cancelled{free(shelf.cancel(id))}."
        if what == "remove":
            return f"{title} is removed{free(shelf.remove(id, model))}."
        raise RequestError("That can't be done with a model; please reload the page.")

    def add(self, place: str) -> tuple[Any, Any, Any]:
        try:
            if not self.may:
                raise RequestError(VISITORS)
            id = self.shelf.add(place)
            self.shelf.learn(id)
        except RequestError as error:
            return self.value(str(error), problem=True), gr.skip(), gr.skip()
        told = f"{self.shelf.item(id).title} is on the shelf."
        return self.value(told, shown=id), self.offer(), ""

    def use(self, values: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """Draw with a model, on the Generate tab."""
        try:
            name = self.shelf.item(sent_along(event).get("id")).name
        except RequestError as error:
            return {self.list: self.value(str(error), problem=True)}
        return self.drawing.choose_model(values | {self.settings.wished: name}, opened="generate")


def free(size: int) -> str:
    """Bytes of the disk, behind what freed them."""
    return f"; {amount(size)} are free again" if size else ""


def state_of(item: Item, here: bool, begun: bool, thing: Fetching | None) -> str:
    if here:
        return "here" if item.needs or item.added else "bundled"
    if thing is not None:
        return {COMES: "comes", WAITS: "waits", PAUSED: "paused", FAILED: "failed"}[thing.state]
    return "paused" if begun else "absent"


def figures(thing: Fetching | None, done: int, total: int | None) -> str:
    """How far something is, in words."""
    if thing is not None and thing.state == WAITS:
        return "waits for what is on its way before it"
    if thing is not None and thing.state == COMES and thing.progress.doing:
        return thing.progress.doing
    told = f"{amount(done)} of {amount(total)}" if total else f"{amount(done)} have come"
    if thing is None or thing.state != COMES:
        return told
    parts = [told, f"{amount(round(thing.pace))} a second" if thing.pace else ""]
    left = thing.left(total) if total else None
    parts.append(f"about {duration(max(1, left))} left" if left is not None else "")
    return " · ".join(filter(None, parts))


def words_of_fit(fit: Any, problem: str) -> dict[str, str]:
    """Whether it fits this machine, for a card."""
    if problem:
        return {"level": "unknown", "words": problem}
    if fit is None:
        return {"level": "unknown", "words": "The hub is asked what it takes ..."}
    heads = {"fits": "Fits this machine", "tight": "Tight", "no": "Does not fit"}
    return {"level": fit.level, "words": f"{heads[fit.level]}: {fit.why}."}
