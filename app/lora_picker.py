"""The LoRAs that act on every tab: a list to choose from, each with a weight."""

import html
import re
import secrets
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import gradio as gr

from app.components import component, sent_along
from app.pictures import data_uri, problem_html
from yoso_core.drawing import PictureError
from yoso_core.files.archives import amount
from yoso_core.files.pictures import fitted, open_picture
from yoso_core.lora.library import LoraEntry, from_hub, misfits, public_name, uploaded
from yoso_core.models import ModelSpec
from yoso_core.requests import LORA_LIMIT, LoraUse, RequestError
from yoso_core.service import Service

OWN = "one-step"  # the model's own LoRA, in the picker's value
THUMBNAIL = 96  # pixels
UPLOADS = 20  # LoRAs that one session may add
FETCHING: dict[str, Any] = {"concurrency_id": "hub", "concurrency_limit": 4}  # a download holds up nobody who draws


class LoraPicker:
    """A list of LoRAs with sliders, and ways to add to it.

    What everybody sees is given; what a session adds is known by an id that holds a secret, so that nobody else can
    name it.

    Args:
        engine: gets the files.
        entries: what everybody sees.
        downloads: folder for what comes from a hub.
    """

    def __init__(self, engine: Service, entries: list[LoraEntry], downloads: Path) -> None:
        self.engine, self.downloads = engine, downloads
        self.known: dict[str, LoraEntry] = {}
        self.shared = [entry.id for entry in entries]
        self.held: Counter[str] = Counter()  # sessions that have a file that was opened
        self.counting = threading.Lock()  # of those: pages open at the same time
        for entry in entries:
            self.remember(entry)

    def remember(self, entry: LoraEntry) -> None:
        self.known[entry.id] = entry
        self.engine.add_lora(entry.id, entry.path)

    def here(self, own: list[str]) -> list[LoraEntry]:
        """What a session can use: its own first; runs that were discarded are gone."""
        return [self.known[name] for name in dict.fromkeys((*own, *self.shared)) if name in self.known]

    def is_opened(self, name: Any) -> bool:
        """Whether it is a file that somebody opened; who knows its id is who did."""
        return isinstance(name, str) and name in self.known and self.known[name].origin == "uploaded"

    def hold(self, names: list[str]) -> None:
        """Another session of the same browser has them, after a reload."""
        with self.counting:
            self.held.update(names)

    def forget(self, names: list[str]) -> None:
        """What a session opened goes with the last that has it; what came from a hub stays, others may use it too."""
        for name in names:
            with self.counting:
                self.held[name] -= 1
                left = self.held[name]
            if left <= 0 and self.is_opened(name):
                path = self.known[name].path
                self.drop(name)
                if all(entry.path != path for entry in [*self.known.values()]):  # the same file has the same place
                    self.upload.keep_in_cache.discard(str(path))

    def drop(self, name: str) -> None:
        self.known.pop(name, None)
        self.held.pop(name, None)
        self.engine.remove_lora(name)

    def build(self, spec: ModelSpec) -> None:
        with gr.Column(elem_id="lora-column"):
            gr.HTML('<span class="title">LoRAs</span>')
            self.loras = component("lora_picker", self.start(spec), entries=self.cards(spec, []), elem_id="loras")
            with gr.Accordion("Add a LoRA", open=False, elem_id="add-lora"):
                self.upload = gr.UploadButton("Open a .safetensors file", file_types=[".safetensors"], size="sm")
                self.hub = gr.Textbox(
                    label="Or from a model hub",
                    placeholder="OWNER/NAME@COMMIT",
                    info="With its commit of 40 hex digits; press Enter",
                    max_length=300,
                )
                self.told = gr.HTML()
        self.own = gr.State([], delete_callback=self.forget)  # ids that this session added

    def connect(self, model: Any, private: dict[str, Any]) -> None:
        inputs, outputs = [model, self.loras, self.own], [self.loras, self.own, self.told]
        self.upload.upload(self.add_file, [self.upload, *inputs], outputs, show_progress="minimal", **private)
        self.loras.clear(self.take_out, inputs, outputs, show_progress="hidden", **private)
        self.hub.submit(self.add_from_hub, [self.hub, *inputs], outputs, show_progress="minimal", **private | FETCHING)

    def take_out(self, model: str, loras: Any, own: list[str], event: gr.EventData) -> tuple[Any, ...]:
        """Forget a file that this session opened."""
        name = sent_along(event).get("id")
        if name not in own or not self.is_opened(name):
            return gr.skip(), gr.skip(), gr.skip()
        self.forget([name])
        own = [each for each in own if each != name]
        kept = {each: weight for each, weight in (loras or {}).items() if each != name}
        cards = self.cards(self.engine.models.get(model, self.engine.models[self.engine.first]), own)
        return gr.HTML(value=kept, entries=cards), own, ""

    def start(self, spec: ModelSpec) -> dict[str, float]:
        return {OWN: 1.0} if spec.lora is not None else {}

    def cards(self, spec: ModelSpec, own: list[str]) -> list[dict[str, Any]]:
        """What the page shows of each LoRA; those that fit the model come first."""
        cards = []
        if spec.lora is not None:
            about = "makes the model draw in one evaluation"
            cards.append({"id": OWN, "title": "YOSO", "about": about, "family": spec.family, "fits": True, "own": True})
        here = self.here(own)
        problems = misfits(here, spec)
        for entry in here:
            problem = problems.get(entry.id, "")
            about = " · ".join(
                filter(None, [entry.trigger and f"“{entry.trigger}”", amount(entry.bytes), entry.licence])
            )
            card = {"id": entry.id, "title": entry.title, "about": problem or about, "family": entry.family}
            card |= {"opened": self.is_opened(entry.id), "run": run_of(entry), "step": step_of(entry)}
            cards.append(card | {"fits": not problem, "thumbnail": _thumbnail(entry)})
        return sorted(cards, key=lambda card: not card["fits"])

    def for_model(self, spec: ModelSpec, loras: Any, own: list[str]) -> Any:
        """The list for another model: what does not fit it is switched off."""
        cards = self.cards(spec, own)
        fitting = {card["id"] for card in cards if card["fits"]}
        values = loras if isinstance(loras, dict) else {}
        kept = {name: weight for name, weight in values.items() if name in fitting and name != OWN}
        return gr.update(value=self.start(spec) | kept, entries=cards)

    def uses(self, value: Any) -> tuple[float, tuple[LoraUse, ...]]:
        """Weight of the model's own LoRA, and the others.

        Raises:
            RequestError: the page sent something else.
        """
        if not isinstance(value, dict) or len(value) > LORA_LIMIT + 1:
            raise RequestError(f"LoRAs come as a table of at most {LORA_LIMIT} names and weights.")
        loras = tuple(LoraUse(name, weight) for name, weight in value.items() if name != OWN)
        return value.get(OWN, 1.0), loras

    def restored(
        self, spec: ModelSpec, one_step: float, loras: tuple[LoraUse, ...], own: list[str]
    ) -> tuple[Any, list[str]]:
        """The list with the weights of a request, and what of it is not here."""
        here = {public_name(name): name for name in own} | {name: name for name in (*self.shared, *own)}
        missing = [use.name for use in loras if use.name not in here]
        value = {here[use.name]: use.weight for use in loras if use.name in here}
        if spec.lora is not None:
            value = {OWN: one_step} | value
        notes = [f"The LoRA {name!r:.60} is not in the library here." for name in missing]
        return gr.HTML(value=value, entries=self.cards(spec, own)), notes

    def add_file(self, path: str, model: str, loras: Any, own: list[str]) -> tuple[Any, ...]:
        self.upload.keep_in_cache.add(str(path))  # for as long as the session may use it
        return self._add(lambda: uploaded(Path(path), secrets.token_urlsafe(12)), model, loras, own)

    def add_from_hub(self, name: str, model: str, loras: Any, own: list[str]) -> tuple[Any, ...]:
        return self._add(lambda: from_hub(name.strip(), self.downloads), model, loras, own)

    def _add(self, find: Any, model: str, loras: Any, own: list[str]) -> tuple[Any, ...]:
        """Put a LoRA into the list of this session and switch it on, if it fits the model."""
        spec = self.engine.models.get(model, self.engine.models[self.engine.first])
        try:
            if sum(name in self.known and self.known[name].origin != "trained" for name in own) >= UPLOADS:
                raise RequestError(f"A session may add {UPLOADS} LoRAs; please reload the page to begin anew.")
            entry = find()
            self.remember(entry)
            try:
                notes = self.engine.check_lora(entry.id, model)
            except (RequestError, PictureError):
                if entry.id not in {*self.shared, *own}:
                    self.forget([entry.id])
                raise
        except (RequestError, PictureError) as error:
            return gr.skip(), gr.skip(), problem_html(str(error))
        self.hold([entry.id])
        own = [entry.id, *(name for name in own if name != entry.id)]
        values = dict(loras) if isinstance(loras, dict) else self.start(spec)
        if len([name for name in values if name != OWN]) < LORA_LIMIT:
            values[entry.id] = 1.0
        told = f'<p class="note">{html.escape(" ".join([f"{entry.title} is in the list.", *notes]))}</p>'
        return gr.HTML(value=values, entries=self.cards(spec, own)), own, told


def run_of(entry: LoraEntry) -> str:
    """The folder of the run that made it, by name, so that its snapshots are one card; "" of all others."""
    if entry.origin != "trained":
        return ""
    inside = next((folder for folder in entry.path.parents if folder.name in ("output", "snapshots")), None)
    return inside.parent.name if inside else ""


def step_of(entry: LoraEntry) -> int | None:
    """After how many steps of its run a snapshot was taken; None of what was handed over last."""
    found = re.search(r", step (\d+)$", entry.title)
    return int(found[1]) if found and run_of(entry) else None


def _thumbnail(entry: LoraEntry) -> str | None:
    if entry.thumbnail is None:
        return None
    try:
        return data_uri(fitted(open_picture(entry.thumbnail).picture, THUMBNAIL))
    except RequestError:
        return None
