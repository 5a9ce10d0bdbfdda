"""Fetching from a hub: a stand-in on the loopback that answers, stalls, breaks off or has nothing."""

import hashlib
import json
import os
import pickle
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace

import huggingface_hub
import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.stand_in import CHUNK, COMMIT, TOKEN, Repository, StandIn, files_of
from yoso_core import cached, hub, hub_process
from yoso_core.cached import HubError, Need, commit_of, find, folder_of, held, select
from yoso_core.checkpoints import ModelError, Source
from yoso_core.engine import Engine
from yoso_core.hub import Progress, fetch, remove
from yoso_core.needs import need_of
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

NEED = Need("A model", "some/model", COMMIT)


PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "image_encoder": None}
FILES = {"model_index.json": json.dumps({name: ["a", kind] if kind else [None, None] for name, kind in PARTS.items()})}
FILES |= {f"{name}/config.json": json.dumps({"of": name}) for name in ("unet", "vae", "text_encoder", "tokenizer")}
FILES = {name: text.encode() for name, text in FILES.items()}
FILES |= {
    f"{name}/diffusion_pytorch_model.safetensors": random.Random(name).randbytes(250_000) for name in ("unet", "vae")
}
FILES |= {"text_encoder/model.safetensors": b"z" * 30_000}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A model's files on a hub; what is fetched of it lands in a folder of the test's own."""
    files = dict(FILES)
    files |= {"unet/diffusion_pytorch_model.bin": b"a pickle", "safety_checker/a.json": b"{}"}
    files["whole.safetensors"] = b"x" * 1000
    server = StandIn({"some/model": Repository(files)})
    server.begin(monkeypatch, tmp_path / "cache")
    yield server
    server.end()


@pytest.fixture
def inside(stand_in, monkeypatch):
    """Jobs done in this process, which is what they are about where nothing is killed or waited for."""

    def asked(job, silence):
        said = []
        with monkeypatch.context() as patch:
            patch.setattr(hub_process, "say", lambda **message: said.append(message))
            hub_process.work_on(json.loads(json.dumps(job)))
        for message in said:
            if "error" in message:
                raise HubError(message["error"])
            if "end" not in message:
                yield message

    monkeypatch.setattr(hub, "_asked", asked)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stand_in.address)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        stand_in.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    return stand_in


@pytest.fixture
def engine(tiny_spec, tiny_model, stand_in):
    """Its second model has to be fetched."""
    stand_in.repositories["some/model"] = Repository(files_of(tiny_model))
    remote = replace(tiny_spec, title="Remote", source=Source("some/model", COMMIT), lora=None)
    return Engine({DEFAULT_MODEL: tiny_spec, "remote": remote}, device="cpu", waits=False)


def test_a_model_is_fetched_once_and_then_found(inside, tmp_path):
    assert find(NEED) is None
    steps = list(fetch(NEED))
    assert steps[0] == Progress() and steps[-1].done == steps[-1].total > 100_000
    folder = find(NEED)
    assert folder is not None and folder.is_relative_to(tmp_path / "cache")
    assert not (folder / "whole.safetensors").exists() and not list(folder.rglob("*.bin"))
    for part in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json"):
        kept = (folder / part).resolve()
        (folder / part).unlink()
        assert find(NEED) is None, part
        (folder / part).symlink_to(kept)
    assert find(NEED) == folder and find(replace(NEED, revision="f" * 40)) is None


def test_a_network_of_another_place_is_one_file_and_the_base_is_fetched_without_its_own(inside):
    rest, network = replace(NEED, without=("unet",)), replace(NEED, inside="whole.safetensors")
    list(fetch(rest))
    assert (find(rest) / "unet/config.json").exists() and not list(find(rest).glob("unet/*.safetensors"))
    assert find(NEED) is None and find(network) is None
    list(fetch(network))
    assert (find(network) / "whole.safetensors").is_file() and find(NEED) is None


def test_what_has_come_is_not_fetched_again(stand_in):
    stand_in.cut = 100_000
    with pytest.raises(HubError, match="can't be had"):
        list(fetch(NEED, silence=4))
    assert held(NEED) > 60_000
    stand_in.cut, stand_in.sent = None, 0
    stand_in.asked.clear()
    list(fetch(NEED))
    assert find(NEED) is not None
    assert f"GET /some/model/resolve/{COMMIT}/model_index.json" not in stand_in.asked
    assert stand_in.sent < sum(steps_of(stand_in)) - 60_000  # the file that broke off is gone on with


def steps_of(stand_in):
    """Bytes of what a model is loaded from."""
    files = stand_in.repositories["some/model"].files
    return [len(files[name]) for name in select(files)]


def test_a_killed_download_is_gone_on_with_by_another_process(stand_in):
    """Nothing but the folder tells what has come."""
    stand_in.pace = 300_000
    steps = fetch(NEED)
    while next(steps).done < 60_000:
        pass
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(HubError, match="ended before its time"):
        list(steps)
    here = held(NEED)
    assert here > 30_000 and find(NEED) is None
    stand_in.pace, stand_in.sent = None, 0
    list(fetch(NEED))
    assert find(NEED) is not None and stand_in.sent <= sum(steps_of(stand_in)) - here + 2 * CHUNK


def test_the_newest_commit_is_found_once_and_recorded(inside):
    """What the hub has later is not what was agreed to."""
    newest = replace(NEED, revision="")
    assert commit_of(newest) == "" and find(newest) is None
    list(fetch(newest))
    assert commit_of(newest) == COMMIT and find(newest) == find(NEED)
    inside.repositories["some/model"].commit = "f" * 40
    assert find(newest) == find(NEED)
    with pytest.raises(HubError, match="no such commit"):
        list(fetch(newest))


def test_two_studios_fetch_once(stand_in):
    """The second waits for the first, and takes what that brings."""
    stand_in.pace = 60_000
    first, second = fetch(NEED), fetch(NEED)
    while next(first).done < 30_000:
        pass
    while not (step := next(second)).doing.startswith("waiting for another"):
        assert not step.total or find(NEED) is None
    assert step.total == sum(steps_of(stand_in)) and step.done >= 0
    stand_in.pace = None
    list(first)
    list(second)
    assert find(NEED) is not None and stand_in.sent <= 1.1 * sum(steps_of(stand_in))


def test_what_is_removed_frees_the_disk(inside, tmp_path):
    list(fetch(NEED))
    before = held(NEED)
    assert remove([NEED]) == before and find(NEED) is None and held(NEED) == 0
    assert remove([NEED]) == 0
    assert not list((tmp_path / "cache").glob("models--*"))


def test_what_is_removed_is_that_repository_and_not_another_of_the_same_commit(inside):
    """A copy of a repository on a hub has its commits too."""
    needs = [replace(NEED, place=f"copy/number-{number}") for number in range(5)]
    for need in needs:
        inside.repositories[need.place] = Repository(FILES)
        list(fetch(need))
    while needs:
        need = needs.pop()
        assert remove([need]) > 0 and find(need) is None
        assert all(find(other) for other in needs)


def test_what_others_need_of_a_repository_stays(inside):
    """Of one commit: several networks, and a base with and without its own."""
    files = inside.repositories["some/model"].files
    files["other.safetensors"] = b"y" * 2000
    one, other = (replace(NEED, inside=f"{name}.safetensors") for name in ("whole", "other"))
    rest = replace(NEED, without=("unet",))
    for need in (one, other, NEED):
        list(fetch(need))
    assert remove([NEED], kept=[rest, one, other]) == 250_000
    assert find(NEED) is None and find(rest) and find(one) and find(other)
    assert remove([one], kept=[rest, other]) == 1000 and find(one) is None and find(other)
    coming = folder_of(NEED.place) / "blobs" / "abc.incomplete"
    coming.write_bytes(b"1234")
    assert remove([other], kept=[rest, NEED]) == 2000 and coming.exists()  # of what is paused
    assert remove([rest], kept=[]) > 250_000 and not folder_of(NEED.place).exists()


def test_a_folder_inside_a_repository_is_a_network(inside):
    """As what its authors published later is; what else is there does not come."""
    files = inside.repositories["some/model"].files
    files |= {f"new/{name}": data for name, data in {"config.json": b"{}", "../a.json": b"{}", "b.bin": b"c"}.items()}
    files |= {f"new/{name}.safetensors": b"y" * 500 for name in ("diffusion_pytorch_model", "training_state")}
    need = replace(NEED, inside="new")
    assert find(need) is None
    *_, last = fetch(need)
    assert last.total == 502 and cached.files_of(need).keys() == {
        "new/config.json",
        "new/diffusion_pytorch_model.safetensors",
    }
    (find(need) / "new/diffusion_pytorch_model.safetensors").unlink()
    assert find(need) is None
    with pytest.raises(HubError, match="no safetensors files"):
        list(fetch(replace(NEED, inside="nowhere")))


def test_a_network_in_a_pickle_is_converted_and_its_pickle_goes(inside, tmp_path):
    torch.save({"conv_in.weight": torch.ones(2, 3)}, tmp_path / "unet.bin")
    files = inside.repositories["some/model"].files
    files["unet_fp16.bin"] = (tmp_path / "unet.bin").read_bytes()
    need = need_of("Its network", Source("some/model", COMMIT, inside="unet_fp16.bin"))
    assert need.convert == "network" and need.out.name == "unet_fp16.safetensors"
    need = replace(need, out=tmp_path / "converted" / "unet_fp16.safetensors")
    assert [step.doing for step in fetch(need)][-1] == "converting"
    assert find(need) == need.out and cached.files_of(need).keys() == {"unet_fp16.safetensors"}
    with safe_open(need.out, "pt") as file:
        assert torch.equal(file.get_tensor("conv_in.weight"), torch.ones(2, 3))
    assert held(need) == 0  # or it would take its room twice
    assert remove([need]) > 0 and find(need) is None


LORA = Need("Its LoRA", "some/lora", convert="lora")


@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_a_lora_is_converted_in_the_same_breath(inside, tmp_path, kind):
    """A pickle under the name of a safetensors file, as published, or really one; its hash is in what is kept."""
    weights, path = {"unet.a.lora_A.weight": torch.ones(2, 3)}, tmp_path / "lora"
    torch.save(weights, path) if kind == "pickle" else save_file(weights, path)
    need = replace(LORA, out=tmp_path / "out" / "lora.safetensors")
    inside.repositories["some/lora"] = Repository({"a.safetensors": path.read_bytes(), "README.md": b"# Words"})
    assert [step.doing for step in fetch(need)][-1] == "converting"
    assert find(need) == need.out
    with safe_open(need.out, "pt") as file:
        assert file.metadata()["converted_from_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert torch.equal(file.get_tensor("unet.a.lora_A.weight"), torch.ones(2, 3))
    assert remove([need]) > 0 and not need.out.exists() and held(need) == 0


class Evil:
    def __reduce__(self):
        return os.system, ("touch run",)


def test_a_pickle_that_runs_code_is_refused(inside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    need = replace(LORA, out=tmp_path / "lora.safetensors")
    data = pickle.dumps({"unet.a.lora_A.weight": Evil()})
    inside.repositories["some/lora"] = Repository({"a.safetensors": data})
    with pytest.raises(
        HubError, match=r"^Its LoRA has come but is not taken: it can't be converted \(it is no pickle of"
    ) as told:
        list(fetch(need))
    assert not (tmp_path / "run").exists() and not need.out.exists() and str(tmp_path) not in str(told.value)


def test_a_file_of_the_web_is_gone_on_with_and_converted(stand_in, tmp_path):
    """The published translators are such."""
    data = b"no checkpoint" * 40_000
    stand_in.addresses["/models/day2night.pkl"] = data
    address = f"{stand_in.address}/models/day2night.pkl"
    need = Need("A translator", address, convert="translator", out=tmp_path / "translators" / "day-to-night")
    stand_in.pace = 400_000
    steps = fetch(need)
    while next(steps).done < 50_000:
        pass
    steps.close()
    stand_in.pace, stand_in.sent = None, 0
    here = held(need)
    assert 0 < here < len(data)
    with pytest.raises(HubError, match="A translator has come but is not taken: it can't be converted"):
        list(fetch(need))
    assert stand_in.sent <= len(data) - here + 2 * CHUNK and held(need) == 0 and not need.out.exists()


# Hostile answers


def hostile(stand_in, trick):
    """What a repository of a stranger, or somebody between, may send."""
    found = stand_in.repositories["some/model"]
    name = "unet/diffusion_pytorch_model.safetensors"
    if trick == "names that lead elsewhere":
        found.files |= dict.fromkeys(
            ("../../evil.json", "/etc/evil.json", "unet/../../evil.json", "a\\..\\evil.json"), b"{}"
        )
    elif trick == "another size than listed":
        found.listed[name] = 1000
    elif trick == "other bytes":
        found.sent[name] = bytes(len(found.files[name]))
    elif trick == "more bytes":
        found.sent[name] = found.files[name] + bytes(5_000_000)
    elif trick == "an endless list":
        found.files |= {f"{index}.json": b"{}" for index in range(30_000)}
    elif trick == "sizes that are none":
        found.listed = dict.fromkeys(found.files, -5)


@pytest.mark.parametrize(
    ("trick", "told"),
    [
        ("another size than listed", "another size than the hub lists"),
        ("other bytes", "checksum differs"),
        ("more bytes", "more than it lists|Consistency check"),
        ("an endless list", "lists 3.... files"),
        ("sizes that are none", "no safetensors files"),
    ],
)
def test_hostile_answers_are_refused(inside, tmp_path, trick, told):
    hostile(inside, trick)
    with pytest.raises(HubError, match=told) as error:
        list(fetch(NEED, silence=10))
    assert "\n" not in str(error.value) and find(NEED) is None
    assert held(NEED) < 2 * sum(map(len, inside.repositories["some/model"].files.values()))


def test_names_that_lead_elsewhere_are_left_out(inside, tmp_path):
    hostile(inside, "names that lead elsewhere")
    list(fetch(NEED))
    assert find(NEED) is not None and not list(tmp_path.rglob("*evil*"))


def test_who_agreed_at_the_hub_gets_what_is_gated_and_the_token_goes_nowhere_else(inside, monkeypatch):
    found = inside.repositories["some/model"]
    found.terms = True
    with pytest.raises(HubError, match=r"asks for agreement: .* some/model, and log in on this machine"):
        list(fetch(NEED))
    other = StandIn({})
    other.addresses = {f"/{name}": data for name, data in found.files.items()}
    threading.Thread(target=other.serve_forever, daemon=True).start()
    inside.elsewhere = f"http://localhost:{other.server_port}"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    list(fetch(NEED))
    assert find(NEED) is not None
    assert other.tokens and set(other.tokens.values()) == {None}
    other.end()
    with pytest.raises(HubError, match="asks for agreement"):  # nobody lends the token of this machine
        list(fetch(replace(NEED, revision="", trusted=False)))


@pytest.mark.parametrize("stall", [COMMIT, "diffusion_pytorch_model.safetensors"], ids=["at once", "on the way"])
def test_a_hub_that_does_not_answer_is_given_up(stand_in, stall):
    stand_in.stall = stall
    began = time.monotonic()
    with pytest.raises(HubError, match=r"^A model is not on this machine and can't be had .*does not answer.*\.$"):
        list(fetch(NEED, silence=4))
    assert time.monotonic() - began < 30 and find(NEED) is None


@pytest.mark.parametrize("lacks", ["everything", "the hub", "safetensors"])
def test_what_a_hub_does_not_have_is_told(stand_in, monkeypatch, lacks):
    if lacks == "everything":
        need = replace(NEED, place="some/other")
    elif lacks == "the hub":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        need = NEED
    else:
        stand_in.repositories["some/model"], need = Repository({"unet/weights.bin": b"x", "README.md": b"x"}), NEED
    with pytest.raises(HubError, match="can't be had from the model hub") as told:
        list(fetch(need))
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_leaving_ends_the_download(stand_in):
    stand_in.stall = "diffusion_pytorch_model.safetensors"
    before = children()
    steps = fetch(NEED)
    while next(steps).total == 0:
        pass
    assert children() - before
    steps.close()
    assert not children() - before and find(NEED) is None


def children() -> set[int]:
    """Processes of this one that ask a hub."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            if "yoso_core.hub_process" in child.cmdline():
                found.add(child.pid)
    return found


def test_no_room_on_the_disk_is_told_before_anything_comes(inside, monkeypatch):
    monkeypatch.setattr("yoso_core.hub.shutil.disk_usage", lambda place: type("", (), {"free": 1000})())
    with pytest.raises(HubError, match="the disk has no room"):
        list(fetch(NEED))
    assert not any("resolve" in path for path in inside.asked)


# Beside requests


def until(told, seconds=60):
    began = time.monotonic()
    while not told():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)


def test_a_hub_that_does_not_answer_holds_up_nobody(engine, stand_in):
    """Whoever asks for what is not here is told at once, and everybody else draws on."""
    before = engine.run(GenerateRequest("a cat", seed=1)).pictures[0].tobytes()
    stand_in.stall = COMMIT
    engine.fetches.get("remote", "Remote", engine.missing("remote"))
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(HubError, match="Remote is being fetched from the model hub"):
            engine.run(GenerateRequest("a cat", model="remote"))
    with pytest.raises(HubError, match="is being fetched"):
        engine.load("remote")
    assert engine.run(GenerateRequest("a cat", seed=1)).pictures[0].tobytes() == before
    assert time.monotonic() - began < 5 and not engine.lock.locked()
    assert list(engine._loaded) == [DEFAULT_MODEL]
    engine.fetches.drop("remote")
    stand_in.go.set()


def test_what_was_fetched_beside_requests_is_used(engine, tiny_spec, stand_in):
    told = []

    def drawn():
        try:
            return engine.run(GenerateRequest("a cat", model="remote"))
        except HubError as error:
            told.append(str(error))

    with pytest.raises(HubError, match="Remote is not on this machine; it can be had on the Models tab"):
        engine.run(GenerateRequest("a cat", model="remote"))
    assert stand_in.asked == []
    engine.fetches.get("remote", "Remote", engine.missing("remote"))
    until(drawn)
    assert told and all("Remote is being fetched" in one for one in told)
    local = Engine({DEFAULT_MODEL: replace(tiny_spec, lora=None)}, device="cpu")
    same = local.run(GenerateRequest("a cat")).pictures[0]
    assert engine.run(GenerateRequest("a cat", model="remote")).pictures[0].tobytes() == same.tobytes()


def test_an_engine_that_waits_fetches_on_the_way(engine):
    engine.waits, told = True, []
    assert engine.run(GenerateRequest("a cat", model="remote"), report=told.append).pictures
    assert told[0] == "Fetching Remote: asking the hub"
    assert any(one.startswith("Fetched Remote: ") and "MB" in one for one in told)


def test_what_lacks_its_lora_is_not_fetched(engine, stand_in, tmp_path):
    engine.models["remote"] = replace(engine.models["remote"], lora=tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="needs its one-step LoRA"):
        engine.load("remote")
    assert stand_in.asked == []
