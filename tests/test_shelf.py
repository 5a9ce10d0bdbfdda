"""The shelf on models of a stand-in hub: what a card may say, what is begun, removed and added, and what is not."""

import json
import time
from dataclasses import replace

import pytest
import torch

from tests.stand_in import COMMIT
from yoso_core import cached, hub, machine
from yoso_core import shelf as module
from yoso_core.cached import HubError
from yoso_core.checkpoints import NEWEST, Source
from yoso_core.convert import PUBLISHED
from yoso_core.engine import Engine
from yoso_core.fetches import Fetches
from yoso_core.hub import Listing, Progress
from yoso_core.machine import Room, duration, judge
from yoso_core.requests import DEFAULT_MODEL, RequestError
from yoso_core.shelf import Shelf, ShelfError

LORA = Source("some/lora", NEWEST)
FILES = {"model_index.json": 100, "unet/config.json": 100, "unet/diffusion_pytorch_model.safetensors": 4_000_000_000}
FILES |= {"README.md": 100, "vae/diffusion_pytorch_model.safetensors": 1_000_000_000, "unet/other.bin": 10**12}


def endless(need):
    while True:
        time.sleep(0.01)
        yield Progress(1, 2, "")


class Hub:
    """In place of the hub and what is on this machine."""

    def __init__(self, monkeypatch, tmp_path):
        self.here, self.removed = set(), []
        self.listings = {"some/model": Listing(COMMIT, FILES), "some/lora": Listing(COMMIT, {"a.safetensors": 10**8})}
        monkeypatch.setattr(cached, "find", lambda need: tmp_path if need in self.here else None)
        monkeypatch.setattr(hub, "look", lambda needs: [(need, self.listings[need.place]) for need in needs])
        monkeypatch.setattr(hub, "remove", self.remove)

    def remove(self, needs, kept=()):
        self.removed += needs
        self.here -= set(needs)
        return 7


@pytest.fixture
def there(monkeypatch, tmp_path):
    return Hub(monkeypatch, tmp_path)


@pytest.fixture
def shelf(tiny_spec, there, tmp_path):
    remote = replace(
        tiny_spec, title="Remote", source=Source("some/model", COMMIT), licence="some-terms", resolution=512
    )
    remote = replace(remote, lora=tmp_path / "lora.safetensors", lora_source=LORA, variant=None, dtype="bfloat16")
    engine = Engine(
        {DEFAULT_MODEL: tiny_spec, "remote": remote}, device="cpu", controls={}, translators={}, waits=False
    )
    engine.fetches = Fetches(endless)
    return Shelf(engine, tmp_path / "shelf")


ID = "model:remote"


def test_a_card_knows_what_has_to_come_and_what_it_takes(shelf, there):
    item = shelf.item(ID)
    assert shelf.size(shelf.lacks(item)) is None and shelf.fit(item) is None
    shelf.learn(ID)
    assert shelf.size(shelf.lacks(item)) == 5_000_000_300 + 10**8  # pickles are not fetched
    picture = machine.PER_PIXEL * 512**2
    assert shelf.memory(item) == 5 * 10**9 + 4 * 10**9 + picture  # what its LoRA changes is kept as it was
    shelf.service.held = 2  # what compiled networks hold
    assert shelf.memory(item) == 3 * 5 * 10**9 + 4 * 10**9 + picture
    pixart = replace(shelf.service.models["remote"], architecture="pixart")
    shelf.service.models["remote"] = pixart
    there.listings["some/model"] = Listing(COMMIT, FILES | {"text_encoder/model.safetensors": 10**9})
    shelf.learn(ID)
    assert shelf.memory(item) == 3 * 5 * 10**9 + 10**9 + picture  # of a transformer; its encoder comes and goes
    shelf.service.held, far = 0, shelf.service.models
    far["remote"] = replace(far["remote"], architecture="stable-diffusion", dtype="float32")
    assert shelf.memory(item) == 6 * 10**9 + 2 * 4 * 10**9 + picture
    far["remote"] = replace(far["remote"], lora=None, lora_source=None)
    assert shelf.memory(shelf.item(ID)) == 6 * 10**9 + picture
    far["remote"] = pixart
    there.here.add(item.needs[0])
    assert shelf.size(shelf.lacks(item)) == 10**8


def test_a_network_that_is_converted_takes_its_room_twice(shelf, there, tiny_spec, monkeypatch):
    network = Source("some/lora", COMMIT, inside="unet.bin")
    spec = replace(shelf.service.models["remote"], network=network, lora=None, lora_source=None)
    shelf.service.models["remote"] = spec
    there.listings["some/lora"] = Listing(COMMIT, {"unet.bin": 4 * 10**9, "README.md": 5})
    shelf.learn(ID)
    item = shelf.item(ID)
    assert [need.convert for need in item.needs] == ["", "network"]
    assert shelf.size(item.needs) == 5_000_000_300 and shelf.memory(item) > 5 * 10**9
    monkeypatch.setattr(module, "room", lambda *_: Room(9 * 10**9, 64 * 10**9, 64 * 10**9, "memory"))
    assert shelf.fit(item).level == "no" and "takes 9 GB of the disk until it is here" in shelf.fit(item).why
    monkeypatch.setattr(module, "room", lambda *_: Room(11 * 10**9, 64 * 10**9, 64 * 10**9, "memory"))
    assert shelf.fit(item).level == "fits"


def test_a_card_says_which_licence_the_hub_states(shelf, there, tmp_path):
    item = shelf.item(ID)
    assert shelf.stated(item) == ""
    there.here |= set(item.needs)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert shelf.stated(item) == "mit"  # as it came
    there.listings["some/model"] = Listing(COMMIT, FILES, "their-terms")
    shelf.learn(ID)
    assert shelf.stated(item) == "their-terms"


@pytest.mark.parametrize(
    ("disk", "memory", "level"), [(20, 4, "fits"), (20, 9, "tight"), (20, 15, "no"), (70, 4, "no"), (60, 4, "no")]
)
def test_whether_it_fits_is_told_before_anything_comes(disk, memory, level):
    there = Room(disk=60 * 10**9, memory=16 * 10**9, free=8 * 10**9, where="memory")
    told = judge(there, disk * 10**9, memory * 10**9, spare=10**9)
    assert told.level == level and ("of the disk" in told.why) == (disk >= 60)


def test_on_a_gpu_networks_can_take_turns_and_that_is_told(shelf, there, monkeypatch):
    item, picture = shelf.item(ID), machine.PER_PIXEL * 512**2
    there.listings["some/model"] = Listing(COMMIT, FILES | {"text_encoder/model.safetensors": 2 * 10**9})
    shelf.learn(ID)
    assert shelf.least(item) is None  # of the machine's own memory, where they rest
    shelf.service.device = torch.device("cuda")
    assert shelf.least(item) == 4 * 10**9 + picture  # the largest
    monkeypatch.setattr(module, "room", lambda *_: Room(10**11, 6 * 10**9, 6 * 10**9, "GPU memory"))
    told = shelf.fit(item)
    assert told.level == "tight" and "take turns" in told.why and "5.05 GB" in told.why
    monkeypatch.setattr(module, "room", lambda *_: Room(10**11, 5 * 10**9, 5 * 10**9, "GPU memory"))
    assert shelf.fit(item).level == "no"
    monkeypatch.setattr(module, "room", lambda *_: Room(10**11, 16 * 10**9, 16 * 10**9, "GPU memory"))
    assert shelf.fit(item).level == "fits"
    shelf.service.models["remote"] = replace(shelf.service.models["remote"], architecture="pixart")
    there.listings["some/model"] = Listing(COMMIT, FILES | {"text_encoder/model.safetensors": 9 * 10**9})
    shelf.learn(ID)
    assert shelf.least(item) == 4 * 10**9 + picture  # an encoder that comes and goes finds its own place


def test_times_are_said_as_people_say_them():
    told = [duration(seconds) for seconds in (0.31, 9.4, 9.7, 45, 240, 7300)]
    assert told == ["0.3 s", "9 s", "10 s", "45 s", "4 min", "2 h"]


def test_the_room_is_that_of_the_container(monkeypatch, tmp_path):
    (tmp_path / "max").write_text("1000000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "max")
    found = machine.room(tmp_path / "not" / "there", torch.device("cpu"))
    assert found.memory == 1_000_000 and found.free <= 1_000_000 and found.disk > 0
    assert machine.Speed(torch.device("cpu")).seconds(1.0) > 0


def test_nothing_is_fetched_before_its_licence_is_agreed_to(shelf, there):
    for agreed in (False, None, "yes", 1):
        with pytest.raises(ShelfError, match="Please read the licence of Remote"):
            shelf.get(ID, agreed)
    assert not shelf.service.fetches.status()
    shelf.get(ID, True)
    assert shelf.service.fetches.status()[ID].needs == shelf.item(ID).needs
    shelf.pause(ID)
    shelf.get(ID)  # who goes on has agreed
    shelf.service.fetches.drop(ID)
    again = Shelf(shelf.service, shelf.folder)  # as after a restart
    assert again.is_begun(again.item(ID))
    again.get(ID)
    again.cancel(ID)
    with pytest.raises(ShelfError, match="Please read"):
        again.get(ID)


def test_what_is_cancelled_leaves_nothing(shelf, there):
    shelf.get(ID, True)
    assert shelf.cancel(ID) == 7 and not shelf.service.fetches.status()
    assert there.removed == list(shelf.item(ID).needs)


def test_what_is_in_use_or_came_along_stays(shelf, there):
    item = shelf.item(ID)
    there.here |= set(item.needs)
    with pytest.raises(ShelfError, match="it stays"):
        shelf.remove(f"model:{DEFAULT_MODEL}")
    with pytest.raises(ShelfError, match="This page draws with Remote"):
        shelf.remove(ID, using="remote")
    shelf.shared, shelf.service._is_loaded = True, lambda name: True
    with pytest.raises(ShelfError, match="Somebody may be drawing"):
        shelf.remove(ID)
    shelf.shared = False
    shelf.service.fetches.get("another", "Another", [item.needs[0]])
    with pytest.raises(ShelfError, match="on its way"):
        shelf.remove(ID)
    shelf.service.fetches.drop("another")
    assert there.removed == []
    other = replace(shelf.service.models["remote"], title="Other", source=Source("other/model", COMMIT))
    shelf.service.models["other"] = other
    there.here |= set(shelf.item("model:other").needs)
    assert shelf.remove(ID, using="other") == 7
    assert there.removed == [item.needs[0]]  # the LoRA is the other's too


def test_a_model_that_a_translator_works_on_stays(tiny_spec, there, tmp_path):
    base = replace(tiny_spec, title="Base", source=Source("some/model", COMMIT), lora=None, lora_source=None)
    shelf = Shelf(Engine({"sd-turbo": base}, device="cpu", controls={}, translators={}), tmp_path)
    translator = shelf.item(f"translator:{PUBLISHED['day2night.pkl'].name}")
    there.here |= set(translator.needs)
    with pytest.raises(ShelfError, match="Day to night works on Base"):
        shelf.remove("model:sd-turbo")
    shelf.remove(translator.id)
    assert there.removed == [translator.needs[0]]
    shelf.remove("model:sd-turbo")


@pytest.mark.parametrize("id", ["model:none", "", None, 5, ["model:remote"], {"a": 1}])
def test_what_a_page_makes_up_is_refused(shelf, id):
    for do in (shelf.get, shelf.pause, shelf.cancel, shelf.remove):
        with pytest.raises(ShelfError, match="not on the shelf"):
            do(id)


# What is added


def test_a_folder_is_put_on_the_shelf_and_found_again(shelf, there, tiny_model, tmp_path):
    id = shelf.add(f" {tiny_model} ")
    item = shelf.item(id)
    assert item.added and item.needs == () and shelf.is_here(item) and item.title == tiny_model.name
    again = Shelf(Engine(shelf.service.models | {}, device="cpu", controls={}, translators={}), tmp_path / "none")
    assert not again.item(id).added
    del shelf.service.models[item.name]
    again = Shelf(shelf.service, tmp_path / "shelf")
    assert again.item(id).added
    again.remove(id)
    assert item.name not in again.service.models and tiny_model.is_dir()  # it is off the shelf, not off the disk
    assert json.loads((tmp_path / "shelf" / module.STORE).read_text()) == {"added": [], "begun": []}


@pytest.mark.parametrize(
    "told",
    [
        "",
        "no json",
        "[]",
        '{"added": [1, {"place": "../..", "commit": "x"}, {"folder": "/nowhere"}], "begun": [1, {}]}',
    ],
)
def test_a_store_that_was_changed_by_hand_is_no_harm(shelf, told, tmp_path):
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / module.STORE).write_text(told)
    assert ID in Shelf(shelf.service, tmp_path / "hand").items()


@pytest.mark.parametrize(
    "name",
    ["", "  ", None, 5, "word", "a/b/c", "../x", "a/..", "a/b@main", "a/b@123", "x" * 2000, "a/b\nc", "/nowhere"],
)
def test_what_is_no_model_is_not_asked_for(shelf, monkeypatch, name):
    monkeypatch.setattr(hub, "look", lambda needs: pytest.fail("the hub was asked"))
    with pytest.raises(ShelfError):
        shelf.add(name)


def test_folders_are_not_for_strangers(shelf, monkeypatch, tiny_model):
    shelf.shared = True
    with pytest.raises(ShelfError, match="no model of a hub"):
        shelf.add(str(tiny_model))


def test_what_is_added_is_looked_at_before_it_is_fetched(shelf, there, tiny_model, tmp_path, monkeypatch):
    """Its settings come, and say what it is; nobody lends a stranger the token of this machine."""
    fetched = []

    def download(place, commit, sizes, token):
        fetched.append((place, commit, sorted(sizes), token))
        target = tmp_path / "cache" / "models--their--model" / "snapshots" / commit
        for name in sizes:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((tiny_model / name).read_bytes())
        return iter(())

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "download", download)
    names = [path.relative_to(tiny_model).as_posix() for path in tiny_model.rglob("*.*")]
    sizes = {name: (tiny_model / name).stat().st_size for name in names}
    there.listings["their/model"] = Listing(COMMIT, sizes | {"../evil/config.json": 5}, "cc-by-nc-4.0")
    shelf.shared = True
    item = shelf.item(shelf.add("https://huggingface.co/their/model"))
    ((place, commit, settings, token),) = fetched
    assert (place, commit, token) == ("their/model", COMMIT, False)
    assert all(name.endswith(("json", "README.md")) and ".." not in name for name in settings)
    assert (item.title, item.licence, item.asks, item.name) == (
        "their/model",
        "cc-by-nc-4.0",
        True,
        f"their/model@{COMMIT}",
    )
    assert not shelf.is_here(item) and not shelf.is_begun(item)
    shelf.remove(item.id)
    assert item.id not in shelf.items()


@pytest.mark.parametrize(
    "pasted",
    [
        "some/model",
        " https://huggingface.co/some/model/ ",
        "huggingface.co/some/model/tree/main",
        "http://hf.co/some/model",
    ],
)
def test_a_place_is_found_in_an_address(shelf, monkeypatch, pasted):
    def looked_at(place, revision, trusted):
        raise HubError(f"asked for {place}")

    monkeypatch.setattr(module, "look_at", looked_at)
    with pytest.raises(ShelfError, match="asked for some/model\\)"):
        shelf.add(pasted)


def test_a_folder_that_is_no_model_is_not_added(shelf, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    before = set(shelf.items())
    for name, told in {"pictures": "not a whole diffusers model", "flux": "is a FluxPipeline"}.items():
        with pytest.raises(RequestError, match=told):
            shelf.add(str(tmp_path / name))
    assert set(shelf.items()) == before


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        (HubError("it does not answer"), "does not answer"),
        (Listing(COMMIT, {"a.ckpt": 5}), "no model in diffusers' layout"),
        (Listing(COMMIT, {"model_index.json": 5, "unet/a.bin": 5}), "no safetensors"),
        (Listing(COMMIT, {"model_index.json": 10**9}), "no model in diffusers' layout"),
    ],
)
def test_what_can_not_be_drawn_with_is_told_and_not_added(shelf, there, listing, told):
    there.listings["their/model"] = listing
    before = set(shelf.items())
    with pytest.raises(RequestError, match=told):
        shelf.add("their/model")
    assert set(shelf.items()) == before
