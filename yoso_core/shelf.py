"""The shelf: what models there are, what each takes, what of it is here; bringing and removing it.

What is known of a model is data of `models.py`, `convert.py` and `conditioning.py`; what it takes comes from the hub's
list of files, before anything is fetched. Nothing here holds the service's lock but for a look-up.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yoso_core import cached, hub
from yoso_core.cached import HubError, Need
from yoso_core.convert import PUBLISHED, Published
from yoso_core.families import FAMILIES
from yoso_core.hub import Listing
from yoso_core.looking import look_at
from yoso_core.machine import Fit, Speed, judge, memory_of, room
from yoso_core.models import CONVERTED_FOLDER, ModelSpec, hub_model, licence_in, local_model
from yoso_core.needs import needed, parts_of
from yoso_core.requests import RequestError
from yoso_core.service import Service
from yoso_core.translate import CONVERTED_TRANSLATORS, read_translator

PUBLISHED_AT = "https://www.cs.cmu.edu/~img2img-turbo/models/"
HUB_PAGE = "https://huggingface.co/"
KINDS = ("model", "translator", "control")
BASE = "sd-turbo"  # the model of all published translators
STORE = "shelf.json"  # what was added
# Licences that ask for nothing but their own text; all others are to be agreed to.
PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "unlicense", "openrail++"}
ADDRESS = re.compile(r"^(https?://)?(huggingface\.co|hf\.co)/|(/tree/main)?/?$")  # around a place, as people paste it
AGAIN = 60.0  # seconds until a hub that did not answer is asked again
ADDED_LIMIT = 100  # models that were added
WEIGHTS = (".safetensors", ".bin")
ENCODERS = {"text_encoder", "text_encoder_2"}
NAME = re.compile(rf"({cached.PLACE.pattern})(?:@({cached.COMMIT.pattern}))?", re.ASCII)


class ShelfError(RequestError):
    """What can't be done with the shelf, and why."""


@dataclass(frozen=True)
class Item:
    """Something that can be had.

    Attributes:
        id: of it on the shelf.
        name: of it where it is used.
        kind: one of `KINDS`.
        title, about: what people read.
        licence: of the weights.
        needs: what it takes of a hub, be that here or not.
        resolution: side of its pictures in pixels; 0 where that is its model's.
        work: of a picture, in 10^12 operations; 0 where that is not known.
        folder: where it is, of one that no hub has.
        doubled: whether its weights are computed with twice the bytes that they are stored in.
        added: whether somebody put it on the shelf.
    """

    id: str
    name: str
    kind: str
    title: str
    about: str
    licence: str
    needs: tuple[Need, ...]
    resolution: int = 0
    work: float = 0.0
    folder: Path | None = None
    doubled: bool = False
    added: bool = False

    @property
    def page(self) -> str:
        """The address of the page about it, where its licence stands; "" of what is a folder of this machine."""
        place = self.needs[0].place if self.needs else ""
        return place and (place.rpartition("/")[0] if "://" in place else HUB_PAGE + place)

    @property
    def asks(self) -> bool:
        """Whether its licence is to be agreed to."""
        return bool(self.needs) and self.licence.lower() not in PERMISSIVE


class Shelf:
    """What there is for a service, and what is done with it.

    Args:
        service: answers requests, and fetches.
        folder: where is kept what was added; None for the usual one.
        shared: whether several people use the service.
    """

    def __init__(self, service: Service, folder: Path | None = None, shared: bool = False) -> None:
        self.service, self.shared = service, shared
        self.folder = CONVERTED_FOLDER if folder is None else folder
        self.speed = Speed(service.device)
        self._listings: dict[tuple[str, str], Listing | HubError] = {}
        self._asked = -AGAIN
        self._asking = threading.Lock()
        self._changing = threading.Lock()
        self._added: dict[str, dict[str, str]] = {}
        service.fetches.came = self.settle
        stored = self._stored()
        self._begun = {id for id in stored.get("begun", []) if isinstance(id, str)}
        for told in stored.get("added", [])[:ADDED_LIMIT]:
            # A folder, or the hub's cache, was removed by hand, or the file was changed.
            with suppress(RequestError, OSError, KeyError, TypeError, AttributeError):
                self._put(told)

    # What there is

    def items(self) -> dict[str, Item]:
        """By id: models in the order in which they are offered, then what else there is."""
        models = self.service.models
        found = [self._model(name, spec) for name, spec in list(models.items())]
        if BASE in models:
            base, size = tuple(parts_of(models[BASE])), models[BASE].resolution
            for file, one in PUBLISHED.items():
                need = Need(
                    f"The translator {one.title}", PUBLISHED_AT + file, convert="translator", out=self._out(one)
                )
                about = f"{one.about} Works on {models[BASE].title}."
                item = Item(
                    f"translator:{one.name}", one.name, "translator", one.title, about, one.licence, (need, *base)
                )
                found.append(replace(item, resolution=size, work=models[BASE].work))
        for name, spec in list(self.service.controls.items()):
            title = f"The ControlNet {spec.title}"
            if needs := tuple(needed([(title, spec.source, spec.variant)])):
                kept = spec.title.rpartition(" ")[0].lower()
                models = {"sdxl": "SDXL"}.get(spec.family, "Stable Diffusion 1.5")
                about = f"Keeps the {kept} of a picture on the Edit tab, with {models}."
                found.append(Item(f"control:{name}", name, "control", spec.title, about, spec.licence, needs))
        return {item.id: item for item in found}

    def _model(self, name: str, spec: ModelSpec) -> Item:
        item = Item(f"model:{name}", name, "model", spec.title, spec.about, spec.licence, tuple(parts_of(spec)))
        more = {"resolution": spec.resolution, "work": spec.work, "added": name in self._added}
        folder = Path(spec.source.place).expanduser() if spec.source.is_folder else None
        return replace(item, folder=folder, doubled=spec.dtype == "float32" and spec.variant is not None, **more)

    def _out(self, one: Published) -> Path:
        return self.folder / CONVERTED_TRANSLATORS.name / one.name

    def item(self, id: Any) -> Item:
        """The one of this id.

        Raises:
            ShelfError: there is none.
        """
        found = self.items().get(id) if isinstance(id, str) else None
        if found is None:
            raise ShelfError("That is not on the shelf any more; please reload the page.")
        return found

    def is_here(self, item: Item) -> bool:
        return not self.lacks(item)

    def lacks(self, item: Item) -> list[Need]:
        """What of it is not on this machine."""
        return [need for need in item.needs if cached.find(need) is None]

    # What it takes

    def ask(self) -> None:
        """Begin to ask the hub what is not known yet, beside everything else."""
        if time.monotonic() - self._asked < AGAIN or not self._asking.acquire(blocking=False):
            return
        unknown = [need for need in self._needs() if not isinstance(self._listings.get(_key(need)), Listing)]
        self._asked = time.monotonic()

        def work() -> None:
            try:
                for need, listing in hub.look(unknown):
                    self._listings[_key(need)] = listing
            except HubError as error:
                for need in unknown:
                    self._listings.setdefault(_key(need), error)
            finally:
                self._asking.release()

        threading.Thread(target=work, daemon=True).start()

    @property
    def is_asking(self) -> bool:
        return self._asking.locked()

    def _needs(self) -> list[Need]:
        return list({_key(need): need for item in self.items().values() for need in item.needs}.values())

    def _sizes(self, need: Need) -> dict[str, int] | None:
        """Bytes of what is needed, by name; None where that is not known."""
        listing = self._listings.get(_key(need))
        if not isinstance(listing, Listing):
            return None
        try:
            return listing.sizes if need.is_address else cached.wanted(need, listing.sizes)
        except HubError:
            return None

    def size(self, needs: Sequence[Need]) -> int | None:
        """Bytes that have to come for these; None where that is not known."""
        sizes = [self._sizes(need) for need in needs]
        return None if None in sizes else sum(sum(each.values()) for each in sizes)

    def memory(self, item: Item) -> int | None:
        """Bytes that it takes at work; None where that is not known."""
        parts = self._parts(item)
        return None if parts is None else memory_of(sum(map(sum, parts)), item.resolution)

    def least(self, item: Item) -> int | None:
        """Bytes of a GPU with which it works while its networks take turns; None where that is not known, or no way."""
        parts = self._parts(item) if self.service.device.type == "cuda" else None
        return memory_of(max(parts[0], default=0), item.resolution) if parts else None

    def _parts(self, item: Item) -> tuple[list[int], list[int]] | None:
        """Bytes of each network's weights at work and of copies, those that come and go apart; None where not known."""
        kept = [need for need in item.needs if need.convert in ("", "network")]
        found = [cached.files_of(need) or self._sizes(need) for need in kept]
        if None in found:
            return None
        if item.folder is not None:
            found.append(cached.sizes_in(item.folder))
        model = self.service.models[item.name if item.kind == "model" else self.service.first]
        family = FAMILIES[model.architecture]
        apart = ENCODERS.difference(family.encoders)  # come and go, and are held once
        held, lone = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
        for number, sizes in enumerate(found):
            for name, size in sizes.items():
                part, twice = name.partition("/")[0], 2 if item.doubled else 1
                if name.endswith(WEIGHTS):
                    (lone if part in apart else held)[number, part] += size * twice
        # What a LoRA of its own or a translator changes is kept as it was; in float32 what comes of it is, too.
        own = item.kind == "translator" or (item.kind == "model" and model.lora is not None)
        changed = {family.network, "vae"} if item.kind == "translator" else {family.network}
        copies = [size for (_, part), size in held.items() if own and part in changed]
        copies *= 2 if model.dtype == "float32" else 1
        return [*(size * (1 + self.service.held) for size in held.values()), *copies], [*lone.values()]

    def fit(self, item: Item) -> Fit | None:
        """Whether it fits this machine; None where that is not known yet."""
        lacks, memory, least = self.lacks(item), self.memory(item), self.least(item)
        disk, twice = self.size(lacks), self.size([need for need in lacks if need.convert == "network"])
        if disk is None or memory is None:
            return None
        return judge(room(cached.cache_folder(), self.service.device), disk + twice, memory, hub.SPARE, least)

    def stated(self, item: Item) -> str:
        """The licence that the card of what predicts states, at the hub or here; "" where it says none."""
        if item.kind != "model" or not item.needs:
            return ""
        need = item.needs[self.service.models[item.name].network is not None]
        if isinstance(listing := self._listings.get(_key(need)), Listing):
            return listing.licence
        folder = cached.find(need)
        return licence_in(folder) if folder is not None and folder.is_dir() else ""

    def problem(self, item: Item) -> str:
        """Why the hub does not say what it takes; "" where it does, or has not been asked."""
        for need in self.lacks(item):
            listing = self._listings.get(_key(need))
            if isinstance(listing, HubError):
                return f"{need.title} can't be looked at on the hub ({listing})."
            if listing is not None and self._sizes(need) is None:
                return f"{need.title} has no files at the hub that are read here."
        return ""

    def learn(self, id: str) -> None:
        """Ask the hub about one thing, and wait for that."""
        with suppress(HubError):
            for need, listing in hub.look(self.item(id).needs):
                self._listings[_key(need)] = listing

    def frees(self, item: Item) -> int:
        """Bytes of the disk that go with it."""
        own, kept = self._own(item)
        stays = {(need.place, name) for need in kept for name in cached.files_of(need)}
        files = {(need.place, name): size for need in own for name, size in cached.files_of(need).items()}
        return sum(size for file, size in files.items() if file not in stays)

    def _own(self, item: Item) -> tuple[list[Need], list[Need]]:
        """What it needs and nothing else that is here or has begun to come, and what all that else needs."""
        others = [each for each in self.items().values() if each.id != item.id]
        kept = {need for each in others if self.is_here(each) or self.is_begun(each) for need in each.needs}
        return [need for need in item.needs if need not in kept], list(kept)

    # What is done

    def get(self, id: Any, agreed: Any = False) -> None:
        """Bring something to this machine, or go on with it.

        Raises:
            ShelfError: its licence was not agreed to, or too much is on its way.
        """
        item = self.item(id)
        if item.asks and agreed is not True and not self.is_begun(item):
            raise ShelfError(f"Please read the licence of {item.title} ({item.licence}) and agree to it first.")
        if lacks := self.lacks(item):
            self.service.fetches.get(item.id, item.title, lacks)
            self._remember(item.id, begun=True)

    def is_begun(self, item: Item) -> bool:
        """Whether somebody let it come, and so agreed to its licence; over restarts, too."""
        return item.id in self._begun

    def _remember(self, id: str, begun: bool) -> None:
        with self._changing:
            (self._begun.add if begun else self._begun.discard)(id)
            self._store()

    def pause(self, id: Any) -> None:
        self.service.fetches.pause(self.item(id).id)

    def cancel(self, id: Any) -> int:
        """Leave it; what has come is removed, unless another studio is bringing it. Bytes that are free then.

        Raises:
            ShelfError: it is not on its way.
        """
        item = self.item(id)
        if not self.is_begun(item) and item.id not in self.service.fetches.status():
            raise ShelfError(f"{item.title} is not on its way; there is nothing to cancel.")
        self.service.fetches.drop(item.id)
        self._remember(item.id, begun=False)
        own, kept = self._own(item)
        lacks = [need for need in self.lacks(item) if need in own]
        try:
            return hub.remove(lacks, kept) if lacks else 0
        except HubError:
            return 0

    def _is_coming(self, need: Need) -> bool:
        return any(need in thing.needs for thing in self.service.fetches.status().values())

    def remove(self, id: Any, using: str = "") -> int:
        """Take it from this machine, and off the shelf where somebody put it there; bytes that are free then.

        Args:
            id: of it.
            using: the model that the page of whoever asks draws with.

        Raises:
            ShelfError: it came along, or is in use.
        """
        item = self.item(id)
        if not item.needs and not item.added:
            raise ShelfError(f"{item.title} came with the studio or was added when it was started; it stays.")
        if not item.added and not self.is_here(item):
            raise ShelfError(f"{item.title} is not on this machine; there is nothing to remove.")
        others = [each for each in self.items().values() if each.id != item.id and each.needs]
        if item.kind == "model":
            if item.name == using:
                raise ShelfError(f"This page draws with {item.title}; choose another model first.")
            if self.service.is_busy(item.name):
                raise ShelfError(f"{item.title} is drawing just now; remove it when its pictures are there.")
            if self.shared and self.service.is_loaded(item.name):
                raise ShelfError(f"Somebody may be drawing with {item.title}, which is in memory; try again later.")
            if leaning := [each.title for each in others if each.kind != "model" and self._leans(each, item)]:
                raise ShelfError(f"{leaning[0]} works on {item.title}; remove that first.")
        if any(self._is_coming(need) for need in item.needs):
            raise ShelfError(f"{item.title} is on its way; cancel that first.")
        own, kept = self._own(item)
        try:
            freed = hub.remove(own, kept) if own else 0
        except HubError as error:
            raise ShelfError(f"{item.title} can't be removed now ({error}); please try again later.") from None
        self._let_go(item)
        if item.added:
            with self._changing:
                self._added.pop(item.name, None)
                self.service.models.pop(item.name, None)
                self._store()
        return freed

    def _leans(self, other: Item, item: Item) -> bool:
        """Whether something that is here is of no use without a model."""
        own = other.needs[0]
        return {*item.needs} <= {*other.needs} and cached.find(own) is not None

    def _let_go(self, item: Item) -> None:
        if item.kind == "model":
            self.service.forget_model(item.name)
        elif item.kind == "translator":
            self.service.remove_translator(item.name)

    def settle(self) -> None:
        """Make known what has come."""
        for id, item in self.items().items() if self._begun else ():
            if id in self._begun and self.is_here(item):
                self._remember(id, begun=False)
        for one in PUBLISHED.values():
            if one.name not in self.service.translators and self._out(one).exists():
                with suppress(RequestError):
                    self.service.add_translator(one.name, read_translator(self._out(one)))

    # What is added

    def add(self, name: Any) -> str:
        """Put a model on the shelf by its place at a hub or its folder, having looked at what it is; its id.

        Raises:
            ShelfError: it is nothing that can be drawn with here, or can't be looked at.
        """
        if not isinstance(name, str) or not name.strip() or len(name) > 1000:
            raise ShelfError("Please name a model of a hub, OWNER/NAME, or a folder of this machine.")
        if len(self._added) >= ADDED_LIMIT:
            raise ShelfError(f"{ADDED_LIMIT} models were added already; remove one first.")
        name = ADDRESS.sub("", name.strip())
        if not self.shared and Path(name).expanduser().is_dir():
            told = {"folder": str(Path(name).expanduser().resolve())}
        elif found := NAME.fullmatch(name):
            told = self._looked_at(found[1], found[2] or "")
        else:
            folder = "" if self.shared else ", or a folder of this machine"
            raise ShelfError(f"{name!r:.80} is no model of a hub, which is OWNER/NAME or OWNER/NAME@COMMIT{folder}.")
        with self._changing:
            id = self._put(told)
            self._store()
        return id

    def _looked_at(self, place: str, revision: str) -> dict[str, str]:
        try:
            return look_at(place, revision, trusted=not self.shared)
        except HubError as error:
            raise ShelfError(f"{place} can't be added ({error}).") from None

    def _put(self, told: Mapping[str, str]) -> str:
        """Make a model known that was added; its id.

        Raises:
            RequestError: it is nothing that can be drawn with here.
        """
        if "folder" in told:
            spec = local_model(told["folder"])
            name = spec.title
        else:
            spec, name = hub_model(told), f"{told['place']}@{told['commit']}"
        fitting = f" LoRAs and ControlNets of the family {spec.family} fit it." if spec.family else ""
        spec = replace(spec, about=f"Added here.{fitting}")
        if name in self.service.models and name not in self._added:
            raise ShelfError(f"{name} is on the shelf already.")
        self._added[name] = dict(told)
        self.service.models[name] = spec
        return f"model:{name}"

    def _stored(self) -> dict[str, list[Any]]:
        try:
            told = json.loads((self.folder / STORE).read_text())
            return {name: list(told[name]) for name in ("added", "begun")}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _store(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{STORE}.partial"
        partial.write_text(json.dumps({"added": list(self._added.values()), "begun": sorted(self._begun)}, indent=1))
        partial.replace(self.folder / STORE)


def _key(need: Need) -> tuple[str, str]:
    return need.place, need.revision
