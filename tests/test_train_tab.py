"""The Train tab without a browser: who may do what, what is told, what stands on the page."""

import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import gradio as gr
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from app.pictures import problem_html
from app.train_mode import ALL, MODES, owner_of
from app.train_new import previewed
from app.train_run import command_of
from app.train_tab import TrainTab, waits_for_gpu
from app.ui import build_app
from tests.tiny import LORA_RANK, build_unet, random_lora
from tests.tiny_translate import write_translator
from tests.trained import finish
from train.data.datasets import Dataset
from train.handover.export import CONFIG_KEY
from train.runs.estimates import Estimate, Estimates
from train.runs.jobs import (
    DEVICE_LOCK,
    LOCK,
    NOW,
    ROOT,
    STANDBY,
    STOP,
    Job,
    Runs,
    Standby,
    held,
    read_json,
    write_json,
)
from train.runs.presets import PRESETS
from train.tasks.translate_config import TranslateConfig, settled
from yoso_core.cached import LORA_FILE
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse, RequestError, TranslateRequest
from yoso_core.words import Words

BEGIN = Job.start  # what really starts a process
SKIPPED = gr.skip()
BUTTONS = ("pause", "resume", "keep", "thin", "discard")


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """No process is started: runs wait in line for ever, and what they take is never measured."""
    monkeypatch.setattr(Job, "start", lambda job: job.set_state("queued", pid=0))
    monkeypatch.setattr(Estimates, "get", lambda *_: None)


@pytest.fixture(scope="module")
def engine(tiny_spec) -> Engine:
    """Its second model can be found by its name by the process of a run, too."""
    return Engine({DEFAULT_MODEL: tiny_spec, "small": replace(tiny_spec, title="Small")}, device="cpu")


@pytest.fixture(scope="module")
def studios(engine, tmp_path_factory):
    """The tab of each mode; to build a page takes a while."""
    root = tmp_path_factory.mktemp("studios")
    return cache(lambda mode: tab_of(build_app(engine, [], root / "loras", root / "runs", mode)))


@pytest.fixture
def make_tab(studios, tmp_path):
    """The tab of a mode, with a folder of runs of the test's own."""

    def make(mode: str = "local", root: Path = tmp_path / "runs") -> TrainTab:
        tab = studios(mode)
        tab.runs.root, tab.view.download.GRADIO_CACHE = root, str(tmp_path / "cache")
        return tab

    return make


@pytest.fixture
def tab(make_tab) -> TrainTab:
    """Of a machine of one's own."""
    return make_tab()


def tab_of(demo: gr.Blocks) -> TrainTab:
    return next(fn.fn.__self__ for fn in demo.fns.values() if fn.name == "look")


def use_run(tab: TrainTab, owner: str, selected: str, prompt="a", style="any", seed=0, own=(), order=0) -> dict:
    """What "Use in Generate" sets on a page that says this."""
    drawing, settings = tab.restored.__self__, tab.settings
    values = {control: control.value for control in drawing.asked}
    values |= {tab.owner: owner, tab.selected: selected, settings.picker.own: list(own), settings.order: order}
    return tab.use_run(values | {settings.prompt: prompt, settings.style: style, settings.seed: seed})


class Page:
    """What a browser holds of the tab, and what the last look changed."""

    def __init__(self, tab: TrainTab, owner: str = "", selected: str = "") -> None:
        self.tab, self.owner, self.selected = tab, owner, selected
        self.loras, self.own, self.told, self.seen, self.scrubbed = {"one-step": 1.0}, [], (), {}, 0.0

    def look(self) -> dict:
        tab, state = self.tab, (self.loras, self.own, self.told, self.seen, self.scrubbed, "")
        updates = tab.look(self.owner, self.selected, DEFAULT_MODEL, *state)
        if updates == SKIPPED:
            return {}
        picker = tab.settings.picker
        self.told, self.seen = updates.get(tab.told, self.told), updates.get(tab.view.seen, self.seen)
        self.own = updates.get(picker.own, self.own)
        if picker.loras in updates:
            self.loras = updates[picker.loras].constructor_args.get("value", self.loras)
        if tab.view.scrub in updates:  # what is not given stays as it is on the page
            self.scrubbed = updates[tab.view.scrub].constructor_args.get("value", self.scrubbed)
        return updates

    def listed(self, updates: dict | None = None) -> list[dict]:
        """What is in the row of runs; without `updates`, after another look."""
        sent = (self.look() if updates is None else updates)[self.tab.list]
        return (sent if isinstance(sent, dict) else sent.props)["runs"]


def test_a_model_that_was_added_meanwhile_can_be_trained_on(tab, engine, tiny_spec, monkeypatch):
    monkeypatch.setitem(engine.models, "late", replace(tiny_spec, title="Late"))
    offered = tab.new.offer("train", "late")
    assert ("Late", "late") in offered.choices and offered.value == "late"
    monkeypatch.delitem(engine.models, "late")
    assert tab.new.offer("train", "late").value == DEFAULT_MODEL  # it was removed
    assert tab.new.offer("generate", DEFAULT_MODEL) == SKIPPED


def owner(name: str) -> str:
    return owner_of(name * 40, MODES["private"])


def hand_made(root: Path, state: str = "paused", name: str = "sky", owner: str = "", **config) -> Job:
    """A run as its folder would stand; it is `state` that its process said."""
    job = Job(root.resolve() / (f"{hashlib.md5(name.encode()).hexdigest()}-{name}" if owner else name))
    job.data.mkdir(parents=True)
    task = config.pop("task", "teacher")
    write_json(job.folder / "config.json", {"model": DEFAULT_MODEL, "steps": 40, "data": str(job.data)} | config)
    job.change(task=task, preset="quick", title=name.title(), owner=owner, created=time.time())
    job.set_state(state, pid=0)
    return job


def tell(job: Job, *events: dict) -> None:
    with open(job.folder / "events.jsonl", "a") as file:
        for event in events:
            file.write(json.dumps({"time": 100.0, "step": 0} | event) + "\n")


def losses(step: int, value: float = 0.5, **more) -> dict:
    return {"event": "StepDone", "step": step, "losses": {"error": value}, "rate": 20.0, "eta": 30.0} | more


def draw_preview(job: Job, *steps: int) -> None:
    (job.folder / "previews").mkdir(exist_ok=True)
    for step in steps:
        Image.new("RGB", (64, 64), (step % 256, 0, 0)).save(job.folder / "previews" / f"{step:07d}.png")


@cache
def weights(seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return random_lora(build_unet(), 0.3)


def hand_over(job: Job, step: int, seed: int = 0, snapshot: bool = True, **settings) -> None:
    """What a run leaves at a checkpoint, as `train.handover.export` writes it."""
    tensors = weights(seed)
    layers = sorted({key.removeprefix("unet.").rpartition(".lora_")[0] for key in tensors})
    adapter = {"unet.r": LORA_RANK, "unet.lora_alpha": LORA_RANK, "unet.target_modules": layers}
    config = {"title": job.about["title"], "trigger": ""} | settings
    metadata = {CONFIG_KEY: json.dumps(config), "lora_adapter_metadata": json.dumps(adapter)}
    files = [job.folder / "output" / LORA_FILE]
    files += [job.folder / "snapshots" / f"step-{step:07d}.safetensors"] if snapshot else []
    for path in files:
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, path, metadata)
        os.utime(path, (step, step))


def checkpoint(job: Job, step: int = 10) -> None:
    (job.folder / "checkpoints" / f"step-{step:07d}").mkdir(parents=True)


def pictures(folder: Path, number: int = 3) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"a {word} thing.png" for word in ("red", "blue", "green", "round")[:number]]
    for index, path in enumerate(paths):
        Image.new("RGB", (64, 64), (80 * index, 0, 90)).save(path)
    return [str(path) for path in paths]


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", markup))


def begin(tab: TrainTab, who: str = "", preset="quick", model="small", form=None, title="My style", trigger=""):
    return tab.new.begin(who, preset, model, form, title, trigger)


def event(values: object) -> gr.EventData:
    return gr.EventData(None, values)


def captions_of(tab: TrainTab, who: str = "") -> dict[str, list[str]]:
    """Of the pictures that have been handed over."""
    return Dataset(tab.runs.draft(who).data).captions()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Who may do what


def test_owners_are_hashes_and_tokens_never_stand_on_disk(make_tab, tmp_path):
    tab = make_tab("private")
    token, who, selected = tab.enter("")
    assert len(token) >= 32 and re.fullmatch("[0-9a-f]{32}", who) and selected == ""
    assert tab.enter(token) == (token, who, "") and tab.enter("")[1] != who
    for odd in (None, 5, "short", ["a" * 40]):
        assert len(tab.enter(odd)[0]) >= 32 and tab.enter(odd)[1] != who
    tab.new.take_files(who, "small", pictures(tmp_path / "in"))
    name, told = begin(tab, who)
    assert told == "" and tab.enter(token)[2] == name
    found = contents(tmp_path)
    assert any(who.encode() in content for content in found.values())
    assert not any(token.encode() in content or token in str(path) for path, content in found.items())


def test_all_runs_of_ones_own_machine_are_one_persons(tab):
    job = hand_made(tab.runs.root)
    assert tab.enter("")[1:] == ("", job.id) and tab.enter("x" * 40)[1:] == ("", job.id)


IDS = {
    "its id": lambda job: job.id,
    "up and down": lambda job: f"../{job.folder.parent.name}/{job.id}",
    "below its own": lambda job: f"mine/../{job.id}",
    "with a slash": lambda job: f"{job.id}/",
    "absolute": lambda job: str(job.folder),
    "x above": lambda job: "../x",
    "above": lambda job: "..",
    "here": lambda job: ".",
    "empty": lambda job: "",
    "None": lambda job: None,
    "a word": lambda job: "None",
    "a list": lambda job: [job.id],
}


@pytest.mark.parametrize("send", IDS.values(), ids=IDS)
def test_nobody_reaches_a_run_of_somebody_else(make_tab, send):
    tab, me, you = make_tab("private"), owner("m"), owner("y")
    hand_made(tab.runs.root, name="mine", owner=me)
    job = hand_made(tab.runs.root, name="yours", owner=you, trigger="mint stencil")
    checkpoint(job)
    draw_preview(job, 0, 10)
    hand_over(job, 10)
    Page(tab, you, job.id).look()  # so that the engine knows what it learned
    view, sent, before = tab.view, send(job), contents(job.folder)
    for act in (view.stop_run, view.resume_run):
        assert "no such run" in act(me, sent)
    assert "no such run" in view.keep_run(me, sent, True)
    assert "no such run" in view.discard_run(me, sent, True)[1]
    assert view.show_preview(me, sent, 10) == SKIPPED
    shown, told = view.draw_sample(me, sent, "a cat", 0, 1.0)
    assert shown == SKIPPED and "no such run" in told
    assert ["no such run" in told for told in view.draw_checkpoints(me, sent, "a cat", 0)] == [True]
    assert "no such run" in tab.new.again(me, sent)[1]
    for act in (lambda: view.pack_run(me, sent), lambda: use_run(tab, me, sent)):
        with pytest.raises(gr.Error, match="no such run"):
            act()
    page = Page(tab, me, sent)
    assert not {view.head, view.log, view.preview, view.curves} & set(page.look())
    assert contents(job.folder) == before and job.state == "paused"
    assert view.show_preview(you, job.id, 10) != SKIPPED  # its owner does


def test_nobody_is_told_where_files_lie(make_tab, tmp_path):
    """By the page of a run, or by what is taken away; on one's own machine the log is as it is."""
    for mode, who in (("private", owner("m")), ("local", "")):
        tab = make_tab(mode, tmp_path / f"runs of {mode}")
        job = hand_made(tab.runs.root, "failed", owner=who, model=str(tmp_path / "a model"))
        hand_over(job, 5)
        job.set_state("failed", f"{job.folder}/checkpoints can't be written to", pid=0)
        (job.folder / "log.txt").write_text(f'step 5: {job.folder}/checkpoints\n  File "{ROOT}/train/loop/x.py"\n')
        (job.folder / "problems.txt").write_text(f"{tmp_path}/secret.png: skipped\n")
        page = Page(tab, who, job.id)
        updates = page.look()
        told = str([updates[part] for part in (tab.view.head, tab.view.log, tab.view.how)])
        assert ("step 5" in told) and (str(tmp_path) in told or str(ROOT) in told) == (mode == "local")
        with zipfile.ZipFile(tab.view.pack_run(who, job.id)) as packed:
            for name in packed.namelist():
                assert str(tmp_path).encode() not in packed.read(name), name


def test_a_full_disk_is_one_sentence(tab, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/srv/secret")

    job = hand_made(tab.runs.root)
    hand_over(job, 5)
    monkeypatch.setattr("app.train_run.pack", full)
    monkeypatch.setattr(Job, "stop", full)
    monkeypatch.setattr(Runs, "drafting", full)
    said = [tab.view.stop_run("", job.id), tab.new.again("", job.id)[1]]
    for act in (lambda: tab.view.pack_run("", job.id), lambda: tab.new.remove_all("", "small")):
        with pytest.raises(gr.Error) as caught:
            act()
        said.append(caught.value.message)
    assert all("No space left" in one and "/srv" not in one and "Errno" not in one for one in said)


def test_what_one_learns_stays_out_of_the_lists_of_others(make_tab):
    tab, me, you = make_tab("private"), Page(None, owner("m")), Page(None, owner("y"))
    me.tab = you.tab = tab
    for page, name in ((me, "mine"), (you, "yours")):
        hand_over(hand_made(tab.runs.root, name=name, owner=page.owner), 5)
    seen = {page: page.look() for page in (me, you)}
    for page, title in ((me, "Mine"), (you, "Yours")):
        cards = seen[page][tab.settings.picker.loras].props["entries"]
        assert [card["title"] for card in cards if card["id"] != "one-step"] == [title, f"{title}, step 5"]
        assert [run["title"] for run in page.listed(seen[page])] == [title]
    assert not set(me.own) & set(you.own) and not set(tab.settings.picker.shared) & {*me.own, *you.own}
    stranger = Page(tab, owner("s"))
    assert stranger.listed() == [] and stranger.own == []


def test_nobody_is_no_owner_of_a_shared_studio(make_tab, tmp_path):
    """A page that has not said whose it is, such as one from before a restart, leaves nothing behind."""
    tab = make_tab("private")
    with pytest.raises(gr.Error):
        tab.new.take_files("", "small", pictures(tmp_path / "in"))
    assert 'role="alert"' in begin(tab, "")[1] and "Drop pictures" in tab.new.shown("", "small")[0]
    assert not list(tab.runs.root.glob("*/job.json"))


def test_folders_and_logins_of_a_shared_machine_are_nobodys(make_tab, tmp_path, monkeypatch):
    tab, me = make_tab("private"), owner("m")
    pictures(tmp_path / "secret")
    report, captions, table, _ = tab.new.take_folder(me, "small", str(tmp_path / "secret"))
    assert "be named here" in words(report) and table.props["pictures"] == [] and not captions.visible
    monkeypatch.setattr("app.train_run.push", lambda *_, **__: pytest.fail("it was pushed"))
    monkeypatch.setattr("app.train_run.login", lambda: ("somebody", "a token"))
    job = hand_made(tab.runs.root, owner=me)
    hand_over(job, 5)
    assert "nobody can push" in tab.view.push_run(me, job.id, "somebody/sky", True)


def test_ones_own_machine_pushes_with_its_login(tab, monkeypatch):
    job, sent = hand_made(tab.runs.root), []
    monkeypatch.setattr("app.train_run.login", lambda: None)
    assert "Nobody is logged in" in tab.view.push_run("", job.id, "a/b", True)
    monkeypatch.setattr("app.train_run.login", lambda: ("me", "a token"))
    monkeypatch.setattr(
        "app.train_run.push", lambda *given, **options: sent.append((given, options)) or "https://x/<a>"
    )
    told = tab.view.push_run("", job.id, " me/sky ", True)
    assert "https://x/&lt;a&gt;" in told and "a token" not in told
    assert sent == [((job.folder / "output", "me/sky", "a token"), {"private": True})]


@pytest.mark.parametrize(("mode", "who"), [("private", owner("m")), ("local", "")])
def test_nothing_is_begun_for_what_is_refused(make_tab, tmp_path, mode, who):
    """Nor for looking, nor for what is taken away again."""
    tab = make_tab(mode)
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    tab.new.take_files(who, "small", [str(tmp_path / "a.pdf")])
    tab.new.remove_all(who, "small")
    begin(tab, who)
    with suppress(gr.Error):  # on one's own machine there is no such folder; among others none can be named
        tab.new.take_folder(who, "small", "/nowhere")
    with pytest.raises(gr.Error):
        tab.new.add_trigger(who, "small", "")
    Page(tab, who).look()
    assert not list(tab.runs.root.glob("*/job.json"))
    tab.new.take_files(who, "small", pictures(tmp_path / "in"))
    assert len(list(tab.runs.root.glob("*/job.json"))) == 1
    tab.new.remove_all(who, "small")
    assert not list(tab.runs.root.glob("*/job.json")) and not list(tab.runs.root.glob(".gone-*"))
    (tmp_path / "sky.txt").write_text("the sky")  # a caption whose picture is to come is something
    tab.new.take_files(who, "small", [str(tmp_path / "sky.txt")])
    assert len(list(tab.runs.root.glob("*/job.json"))) == 1


def test_a_run_whose_folder_is_gone_leaves_the_page_as_others_do(tab):
    job = hand_made(tab.runs.root)
    hand_over(job, 5)
    page = Page(tab, "", job.id)
    assert page.listed() and page.own
    shutil.rmtree(job.folder)
    updates = page.look()
    assert page.listed(updates) == [] and page.own == [] and "no such run" in tab.view.stop_run("", job.id)


BEYOND = {
    "steps": {"form": {"steps": 61}},
    "a single setting": {"form": {"seed": 1}},
    "its own value": {"form": {"steps": 60}},
    "no table": {"form": [1]},
    "another preset": {"preset": "one-step"},
    "another model": {"model": "small"},
    "no preset": {"preset": None},
    "no model": {"model": "/tmp"},
}


@pytest.mark.parametrize("beyond", BEYOND.values(), ids=BEYOND)
def test_a_tiny_studio_takes_its_one_preset_as_it_is(make_tab, tmp_path, beyond):
    tab, me = make_tab("tiny"), owner("m")
    tab.new.take_files(me, "small", pictures(tmp_path / "in"))
    name, told = begin(tab, me, **{"model": DEFAULT_MODEL} | beyond)
    assert name == SKIPPED and 'role="alert"' in told and [job.state for job in tab.runs.all(me)] == ["draft"]
    assert (
        'role="alert"' in tab.new.price(*({"preset": "quick", "model": DEFAULT_MODEL, "form": {}} | beyond).values())[0]
    )


def test_a_tiny_studio_shortens_runs_and_allows_few(make_tab, tmp_path, monkeypatch):
    tab, me = make_tab("tiny"), owner("m")
    for title in ("One", "Two", "Three"):
        tab.new.take_files(me, "small", pictures(tmp_path / "in"))
        _, told = begin(tab, me, model=DEFAULT_MODEL, title=title)
    assert "You have 2 runs, which is the most here" in told
    jobs = [job for job in tab.runs.all(me) if job.state != "draft"]
    assert [job.about["title"] for job in jobs] == ["Two", "One"]
    assert {read_json(job.folder / "config.json")["steps"] for job in jobs} == {60}
    jobs[0].discard()
    monkeypatch.setattr(Job, "bytes", lambda job: 10**8)
    assert "more than 0.1 GB" in begin(tab, me, model=DEFAULT_MODEL)[1]


@pytest.mark.parametrize(
    "form",
    [{"steps": 20_001}, {"batch": 65}, {"rank": 129}, {"tracker": "tensorboard"}, {"compile": True}],
    ids=lambda form: next(iter(form)),
)
def test_a_shared_studio_has_limits(make_tab, tmp_path, form):
    tab, me = make_tab("private"), owner("m")
    tab.new.take_files(me, "small", pictures(tmp_path / "in"))
    name, told = begin(tab, me, form=form)
    assert name == SKIPPED and next(iter(form)) in told.lower()
    assert 'role="alert"' in tab.new.price("quick", "small", form)[0]
    assert begin(tab, me, form={"steps": 20_000, "batch": 64, "rank": 128})[1] == ""


def test_where_nothing_is_trained_nothing_listens(engine, tmp_path):
    demo = build_app(engine, [], tmp_path / "loras", tmp_path / "runs", "off")
    homes = {type(getattr(fn.fn, "__self__", None)).__name__ for fn in demo.fns.values() if fn.fn is not None}
    assert "Drawing" in homes and not homes & {"TrainTab", "NewRun", "RunView"}
    assert not [block for block in demo.blocks.values() if isinstance(block, gr.BrowserState)]
    assert not any(block.active for block in demo.blocks.values() if isinstance(block, gr.Timer))
    assert "train-files" not in {block.elem_id for block in demo.blocks.values()}
    assert not (tmp_path / "runs").exists()


def test_no_listener_of_the_tab_is_for_programs(engine, tmp_path):
    demo = build_app(engine, [], tmp_path / "loras", tmp_path / "runs", "private")
    homes = (TrainTab, type(tab_of(demo).new), type(tab_of(demo).view))
    ours = [fn for fn in demo.fns.values() if isinstance(getattr(fn.fn, "__self__", None), homes)]
    assert len(ours) > 20 and {fn.api_visibility for fn in ours} == {"private"}
    drawing = {fn.name for fn in ours if fn.concurrency_id == "engine"}
    assert drawing == {"draw_sample", "draw_checkpoints"}


# A new run


def test_dropped_files_are_reported_and_shown(tab, tmp_path):
    paths = [Path(path) for path in pictures(tmp_path / "in")]
    (tmp_path / "in" / "a red thing.txt").write_text("red <i>paint</i>")
    strange = tmp_path / "in" / "<b onclick=alert(1)>x.png"
    Image.new("RGB", (90, 60), "white").save(strange)
    (tmp_path / "in" / "<u>torn.png").write_bytes(paths[0].read_bytes()[:60])
    (tmp_path / "in" / "weights.png").write_bytes(pickle.dumps({"a": print}))
    (tmp_path / "in" / "notes.pdf").write_bytes(b"%PDF")
    files, report, captions, table, _ = tab.new.take_files(
        "", "small", [str(path) for path in (tmp_path / "in").iterdir()]
    )
    assert files is None and captions.visible
    assert "4 pictures can be used. 1 is cropped to its middle." in words(report).replace("  ", " ")
    assert "2 are enlarged" not in report and "Fewer than 10 pictures" in report
    for name in ("&lt;u&gt;torn.png", "weights.png", "notes.pdf"):
        assert re.search(f'<p class="problem">{name}: skipped: ', report), name
    assert "<u>" not in report and "<b " not in report and not list(tab.runs.draft("").data.rglob("*weights*"))
    rows = {row["file"]: row for row in table.props["pictures"]}
    assert len(rows) == 4 and table.props["more"] == 0
    assert all(row["thumbnail"].startswith("data:image/png;base64,") and row["used"] for row in rows.values())
    assert rows["a red thing.png"] | {"thumbnail": ""} == {
        **{"file": "a red thing.png", "size": "64 x 64", "caption": "red <i>paint</i>", "from_name": False},
        **{"used": True, "notes": [], "thumbnail": ""},
    }
    assert rows["a blue thing.png"]["caption"] == "a blue thing" and rows["a blue thing.png"]["from_name"]
    json.dumps(table.props["pictures"])


def test_pictures_are_captioned_called_and_removed(tab, tmp_path):
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    wish = {"captions": {"a red thing.png": "paint | red paint"}, "remove": ["a green thing.png"]}
    *_, table, _ = tab.new.change("", "small", event(wish))
    assert {row["file"]: row["caption"] for row in table.props["pictures"]} == {
        "a red thing.png": "paint | red paint",
        "a blue thing.png": "a blue thing",
    }
    *_, table, _ = tab.new.add_trigger("", "small", " mint stencil ")
    assert [row["caption"] for row in table.props["pictures"]] == [
        "paint, mint stencil | red paint, mint stencil",
        "a blue thing, mint stencil",
    ]
    report, captions, table, _ = tab.new.remove_all("", "small")
    assert table.props["pictures"] == [] and not captions.visible and "Drop pictures above" in report


def test_for_pictures_a_process_is_made_ready_to_train(tab, tmp_path, monkeypatch):
    """Where runs are processes, and once there is something to train on."""
    called = []
    monkeypatch.setattr(Standby, "call", lambda self: called.append(self))
    tab.new.take_files("", "small", [])
    assert not called
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    assert called == [STANDBY]
    monkeypatch.setattr(tab.new, "starts", waits_for_gpu)  # the tab is of all tests
    tab.new.add_trigger("", "small", "mint stencil")
    assert called == [STANDBY]


def test_what_a_page_can_not_wish_is_refused_or_left(tab, tmp_path):
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    before = captions_of(tab)
    for odd in (None, 5, {}, {"captions": 5, "remove": 5}, {"remove": ["../job.json", "/etc/passwd", 5]}):
        tab.new.change("", "small", event(odd))
    assert captions_of(tab) == before and (tab.runs.draft("").folder / "job.json").exists()
    for odd in ({"captions": {"<b>.png": "a"}}, {"captions": {"a red thing.png": "a" * 10_000}}):
        with pytest.raises(gr.Error) as caught:
            tab.new.change("", "small", event(odd))
        assert "<b>" not in caught.value.message
    with pytest.raises(gr.Error, match="type some"):
        tab.new.add_trigger("", "small", "  ")
    assert captions_of(tab) == before


def test_a_folder_of_ones_own_machine_is_taken(tab, tmp_path):
    pictures(tmp_path / "mine")
    report, captions, table, _ = tab.new.take_folder("", "small", f" {tmp_path / 'mine'} ")
    assert "3 pictures can be used" in report and captions.visible and len(table.props["pictures"]) == 3
    for odd in ("/nowhere/<b>", "~nobody-of-that-name/x", "\0"):
        with pytest.raises(gr.Error) as caught:
            tab.new.take_folder("", "small", odd)
        assert "<b>" not in caught.value.message


def test_an_empty_field_names_no_folder(tab, tmp_path, monkeypatch):
    pictures(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(gr.Error, match="folder"):
        tab.new.take_folder("", "small", "  ")
    assert captions_of(tab) == {}


def test_a_run_needs_pictures_and_settings_that_can_be(tab, tmp_path):
    name, told = begin(tab, trigger=tab.new.trigger.value)  # which is hidden until there are pictures
    assert name == SKIPPED and "There are no pictures yet" in told
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    before = captions_of(tab)
    bad = [
        ({"form": {"steps": 0}}, "Steps must be at least 1"),
        ({"form": {"<b>": 1}}, "unknown field &#x27;&lt;b&gt;&#x27;"),
        ({"form": {"data": "/etc"}}, "can&#x27;t change data"),
        ({"form": {"learning_rate": float("nan")}}, "no setting"),
        ({"preset": "best"}, "one of the presets"),
        ({"model": "/tmp"}, "one of the models"),
        ({"title": "a" * 61}, "The name has 61 characters"),
        ({"title": "a\nb", "trigger": "mint"}, "title must be"),
        ({"trigger": 5}, "The trigger must be text"),
    ]
    for given, why in bad:
        name, told = begin(tab, **given)
        assert name == SKIPPED and why in told and 'role="alert"' in told, given
    assert [job.state for job in tab.runs.all("")] == ["draft"] and captions_of(tab) == before


def test_a_run_begins_with_what_was_chosen_and_a_new_draft_is_empty(tab, engine, tmp_path):
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    draft = tab.runs.draft("")
    name, told = begin(tab, form={"steps": 7}, title="Mint & <b>ice</b>", trigger="mint stencil")
    job = tab.runs.get(name, "")
    assert told == "" and name.startswith("mint-b-ice-b") and job.state == "interrupted" and not draft.folder.exists()
    assert {key: job.about[key] for key in ("task", "preset", "title", "owner")} == {
        **{"task": "teacher", "preset": "quick", "title": "Mint & <b>ice</b>", "owner": ""}
    }
    config = read_json(job.folder / "config.json")
    expected = {"steps": 7, "title": "Mint & <b>ice</b>", "trigger": "mint stencil", "data": str(job.data)}
    assert config | expected | {"model": engine.models["small"].source.place} == config
    lines = (job.data / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 3 and all("thing, mint stencil" in line for line in lines)
    assert captions_of(tab) == {} and "Drop pictures above" in tab.new.shown("", "small")[0]
    begin(tab, title="Again")
    assert len([job for job in tab.runs.all("") if job.state != "draft"]) == 1  # there is nothing to begin with


def test_another_run_begins_with_the_same_pictures(tab, tmp_path):
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    tab.new.add_trigger("", "small", "mint")
    name, _ = begin(tab)
    assert tab.new.again("", name)[:2] == ("", "")
    assert [row["caption"] for row in tab.new.shown("", "small")[2].props["pictures"]] == [
        f"a {word} thing, mint" for word in ("red", "blue", "green")
    ] or len(captions_of(tab)) == 3
    job = hand_made(tab.runs.root, data="")
    assert "not trained on pictures" in tab.new.again("", job.id)[1]


def test_a_name_fits_the_preset_until_somebody_gives_one(tab, tmp_path):
    presets = [("looks", "My style"), ("controlnet", "My translator"), ("quick", "My ControlNet")]
    for (preset, before), after in zip(presets, ("My translator", "My ControlNet", "My style"), strict=True):
        names = [tab.new.choose(preset, "small", name)[4] for name in (before, after, "Mine")]
        assert names == [after, SKIPPED, SKIPPED]
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    job = tab.runs.get(begin(tab, preset="lines", title=" ")[0], "")
    assert job.title == job.config["title"] == "My translator"


@pytest.mark.parametrize("preset", ALL)
def test_every_preset_brings_its_form_and_what_it_is_for(tab, preset):
    form, about, cost, *_ = tab.new.choose(preset, "small", "Mine")
    fields = {field["name"]: field["preset"] for field in form.props["fields"]}
    assert form.value == {} and not {"model", "data", "title", "trigger"} & set(fields)
    assert f"{fields['steps']:,} steps" in cost and PRESETS[preset].about[:20] in about


def test_the_price_is_told_once_it_is_known(tab, monkeypatch):
    cost, unknown = tab.new.price("quick", "small", {"steps": 1200, "batch": 2})
    assert words(cost).strip().startswith("1,200 steps, 2 pictures a step · how long that takes here is being measured")
    monkeypatch.setattr(Estimates, "get", lambda *_: Estimate(0.5, 6.0, 1_500_000_000))
    cost, known = tab.new.price("quick", "small", {"steps": 228})
    assert "about 2 min on this machine · 1.5 GB of memory" in words(cost).replace(" ·", " ·")
    assert known != unknown and tab.reprice("train", "", "quick", "small", {"steps": 228}, unknown) == (cost, known)
    assert tab.reprice("train", "", "quick", "small", {"steps": 228}, known) == (SKIPPED, SKIPPED)
    assert tab.reprice("edit", "", "quick", "small", {}, "") == tab.reprice("train", "x", "quick", "small", {}, "")
    monkeypatch.setattr(Estimates, "get", lambda *_: Estimate(reason="No <b>memory</b>"))
    assert "No &lt;b&gt;memory&lt;/b&gt;" in tab.new.price("quick", "small", {})[0]
    assert 'role="alert"' in tab.new.price("quick", "small", {"steps": "many"})[0]


# A run on the page


def test_what_takes_time_before_the_first_step_is_told(tab):
    job = hand_made(tab.runs.root, "running")
    (job.folder / "log.txt").write_text(f"{NOW}reads the model\nsome warning\n{NOW}reads the pictures\nanother\n")
    with held(job.folder / LOCK), held(job.folder.parent / DEVICE_LOCK):
        page = Page(tab, "", job.id)
        assert "Begins: reads the pictures …" in page.look()[tab.view.head]
        (job.folder / "log.txt").write_text(f"{NOW}makes a preview\n")
        assert "Begins: makes a preview …" in page.look()[tab.view.head]


STATES = {  # what its process said, what is in its folder -> what is told, which buttons are there
    "waiting": ("queued", "alive device", "Waits until", "pause discard"),
    "first in line": ("queued", "alive", "Begins", "pause discard"),
    "beginning": ("running", "alive device", "Begins", "pause discard"),
    "training": ("running", "alive events", "Training.", "pause discard"),
    "training, with a LoRA": ("running", "alive events lora checkpoint", "Training.", "pause keep discard"),
    "stopping": ("running", "alive events lora checkpoint stop", "Stops after", "discard"),
    "paused": ("paused", "events lora checkpoint", "Paused.", "Resume thin discard"),
    "paused before a checkpoint": ("paused", "", "Paused.", "Start discard"),
    "interrupted": ("running", "events lora checkpoint", "Interrupted", "Resume thin discard"),
    "interrupted in line": ("queued", "", "Interrupted", "Start discard"),
    "failed": ("failed", "events checkpoint", "Stopped by a problem. No <b>room</b>", "Resume thin discard"),
    "finished": ("finished", "events lora checkpoint", "Done.", "thin discard"),
    "kept": ("kept", "events lora", "Ended and kept.", "discard"),
}


@pytest.mark.parametrize(("said", "has", "told", "there"), STATES.values(), ids=STATES)
def test_the_head_and_the_buttons_say_how_a_run_stands(tab, said, has, told, there):
    job, parts = hand_made(tab.runs.root, name="sky <b>"), has.split()
    job.set_state(said, "no <b>room</b>" if said == "failed" else "", pid=0)
    if "events" in parts:
        tell(job, {"event": "Started", "seconds": 60, "memory": 2e9, "disk": 1e6}, losses(10, time=105.0))
    if "lora" in parts:
        hand_over(job, 10)
    if "checkpoint" in parts:
        checkpoint(job)
    if "stop" in parts:
        (job.folder / STOP).touch()
    locks = [job.folder / LOCK] * ("alive" in parts) + [job.folder.parent / DEVICE_LOCK] * ("device" in parts)
    holding = [held(path) for path in locks]
    for lock in holding:
        lock.__enter__()
    updates = Page(tab, "", job.id).look()
    for lock in holding:
        lock.__exit__(None, None, None)
    head, view = updates[tab.view.head], tab.view
    assert told.replace("<b>", "&lt;b&gt;").replace("</b>", "&lt;/b&gt;") in head and "<b>" not in head
    assert "Sky &lt;B&gt; <small>Style, quick</small>" in head
    shown = {name: updates[getattr(view, name)] for name in BUTTONS}
    seen = [button.value if name == "resume" else name for name, button in shown.items() if button.visible]
    assert seen == there.split()
    if "events" in parts:
        facts = ["step 10 of 40", "2.0 GB of memory"] + ["30 s left", "20 samples/s"] * (
            said == "running" and "alive" in parts
        )
        assert all(fact in head for fact in facts) and "width: 25.00%" in head
    assert updates[view.trial].visible == updates[view.use].visible == ("lora" in parts)
    assert updates[view.using].visible == ("lora" in parts)


def test_a_draft_is_neither_listed_nor_shown(tab, tmp_path):
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    page = Page(tab, "", tab.runs.draft("").id)
    updates = page.look()
    assert page.listed(updates) == [] and tab.view.head not in updates


def test_runs_are_listed_with_state_and_progress(tab):
    first, second = hand_made(tab.runs.root, "paused", "one"), hand_made(tab.runs.root, "finished", "two")
    tell(first, losses(10))
    tell(second, losses(40))
    assert Page(tab).listed() == [
        {"id": "two", "title": "Two", "state": "finished", "progress": 1.0},
        {"id": "one", "title": "One", "state": "paused", "progress": 0.25},
    ]


def test_what_has_not_changed_is_not_sent_again(tab):
    job = hand_made(tab.runs.root)
    hand_over(job, 10)
    draw_preview(job, 0)
    tell(job, losses(10))
    page = Page(tab, "", job.id)
    view = tab.view
    assert {view.head, view.preview, view.curves, view.log, view.trial, tab.list} <= set(page.look())
    assert page.look() == {} and page.look() == {}
    tell(job, losses(12, 0.4, time=110.0))
    assert set(page.look()) == {
        tab.list,
        tab.told,
        tab.begin,
        tab.watch,
        tab.network,
        tab.trained,
        view.head,
        view.curves,
        view.seen,
    }
    page.selected = ""
    updates = page.look()
    assert updates[tab.begin].visible and not updates[tab.watch].visible and view.head not in updates


def test_another_run_takes_the_place_of_one_that_stands_alike(tab):
    page = Page(tab)
    for name, state in (("one", "queued"), ("two", "queued"), ("three", "paused"), ("four", "paused")):
        page.selected = hand_made(tab.runs.root, state, name).id
        assert f"<h2>{name.title()} " in page.look()[tab.view.head]


def test_a_run_can_be_kept_as_soon_as_there_is_something_to_keep(tab):
    job = hand_made(tab.runs.root, "running")
    page, view = Page(tab, "", job.id), tab.view
    checkpoint(job)
    with held(job.folder / LOCK):
        assert not page.look()[view.keep].visible
        hand_over(job, 10)  # which comes after the checkpoint itself
        assert page.look()[view.keep].visible


def test_losses_are_curves_and_lost_steps_count_once(tab):
    job = hand_made(tab.runs.root)
    tell(job, losses(2, 0.9), losses(4, 0.8))
    tell(job, {"event": "Started", "step": 2, "seconds": 9, "memory": 1, "disk": 1}, losses(4, 0.7))
    page = Page(tab, "", job.id)
    assert page.look()[tab.view.curves] == {"terms": {"error": [(2, 0.9), (4, 0.7)]}, "steps": 40}


def test_what_several_pages_read_at_once_counts_once(tab):
    job = hand_made(tab.runs.root)
    tell(job, *(losses(step, time=100.0 + step) for step in range(1, 2001)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: tab.view.progress(job), range(16)))
    progress = tab.view.progress(job)
    assert [step for step, _ in progress.losses["error"]] == list(range(1, 2001)) and progress.seconds == 1999.0


def test_the_newest_preview_is_shown_unless_an_older_one_is_looked_at(tab):
    job, view = hand_made(tab.runs.root, "running"), tab.view
    page = Page(tab, "", job.id)
    assert "img" not in page.look()[view.preview]
    draw_preview(job, 0)
    updates = page.look()
    assert "after 0 steps" in updates[view.preview] and not updates[view.scrub].visible
    for newest in (10, 20):
        draw_preview(job, newest)
        updates = page.look()
        assert f"after {newest} steps" in updates[view.preview] and updates[view.scrub].visible
        assert (updates[view.scrub].value, updates[view.scrub].maximum) == (newest, newest)
    page.scrubbed = 10.0
    assert "after 10 steps" in view.show_preview("", job.id, 10) and "after 20 steps" in view.show_preview(
        "", job.id, 16
    )
    draw_preview(job, 30)
    updates = page.look()
    assert view.preview not in updates and updates[view.scrub].maximum == 30 and page.scrubbed == 10.0
    page.scrubbed = 30.0
    draw_preview(job, 40)
    assert "after 40 steps" in page.look()[view.preview]
    other = hand_made(tab.runs.root, name="other")
    draw_preview(other, 0, 5)
    page.selected, page.scrubbed = other.id, 10.0
    assert "after 5 steps" in page.look()[view.preview]


def test_the_slider_reaches_every_preview(tab):
    job = hand_made(tab.runs.root)
    draw_preview(job, 0, 50, 100, 120)  # the last step has one, whatever it is
    scrub = Page(tab, "", job.id).look()[tab.view.scrub]
    assert {(step - scrub.minimum) % scrub.step for step in (0, 50, 100, 120)} == {0}


def test_previews_that_are_gone_are_missed_by_nobody(tab):
    job = hand_made(tab.runs.root)
    draw_preview(job, 0, 10, 20)
    page = Page(tab, "", job.id)
    page.look()
    page.scrubbed = 0.0
    for step in (10, 20):
        (job.folder / "previews" / f"{step:07d}.png").unlink()
    page.look()
    (job.folder / "previews" / "0000000.png").write_bytes(b"torn")
    assert "img" not in tab.view.show_preview("", job.id, 0)


def test_words_of_the_log_stay_words(make_tab, tmp_path):
    tab = make_tab(root=tmp_path / "my $runs's")
    job = hand_made(tab.runs.root, title="<i>")
    (job.folder / "log.txt").write_text("x" * 9000 + "<script>alert(1)</script>")
    (job.folder / "problems.txt").write_text("<img src=x>.png: skipped")
    log = Page(tab, "", job.id).look()[tab.view.log]
    assert "&lt;script&gt;" in log and len(log) < 9000 and not re.search("<(script|img|i)[ >]", log)
    assert "&lt;img src=x&gt;.png: skipped" in log and "&lt;i&gt;" in log
    command = command_of("teacher", job.folder)
    place = str(job.folder)
    assert shlex.split(command) == [
        *("accelerate launch -m train teacher".split()),
        *("--config", f"{place}/config.json", "--run", place),
    ]
    assert (
        shlex.quote(place) != place
        and command.replace("&", "&amp;").replace("'", "&#x27;").replace('"', "&quot;") in log
    )


# What was learned


def test_what_a_run_learns_is_offered_as_it_appears(tab, engine):
    job, picker = hand_made(tab.runs.root, trigger="mint"), tab.settings.picker
    page = Page(tab)
    page.look()
    assert page.own == []
    hand_over(job, 10, trigger="mint")
    cards = page.look()[picker.loras].props["entries"]
    assert page.own == ["run-sky", "run-sky-step-10"] and page.look() == {}
    assert [
        (card["title"], card["about"].split(" · ")[0], card["fits"]) for card in cards if card["id"] in page.own
    ] == [
        ("Sky", "“mint”", True),
        ("Sky, step 10", "“mint”", True),
    ]
    page.loras, page.own = page.loras | {"run-sky": 1.0, "upload-x": 0.5}, [*page.own, "upload-x"]
    request = GenerateRequest("a cat", loras=(LoraUse("run-sky"),))
    before = engine.run(request).pictures[0].tobytes()
    hand_over(job, 20, seed=1)
    page.look()
    assert page.own == ["run-sky", "run-sky-step-20", "run-sky-step-10", "upload-x"]
    assert engine.run(request).pictures[0].tobytes() != before
    assert page.loras == {"one-step": 1.0, "run-sky": 1.0, "upload-x": 0.5}
    snapshot = replace(request, loras=(LoraUse("run-sky-step-10"),))
    assert engine.run(snapshot).pictures[0].tobytes() == before


def test_what_is_discarded_is_gone_everywhere(tab, engine):
    job, other, picker = hand_made(tab.runs.root), hand_made(tab.runs.root, name="other"), tab.settings.picker
    for one in (job, other):
        hand_over(one, 10)
    page = Page(tab, "", job.id)
    page.look()
    page.loras |= {"run-sky": 1.0, "run-sky-step-10": 0.5, "run-other": 0.25}
    assert tab.view.discard_run("", job.id, False) == (job.id, "") and job.folder.exists()
    page.selected, told = tab.view.discard_run("", job.id, True)
    assert (page.selected, told) == ("", "") and not job.folder.exists()
    updates = page.look()
    assert [run["id"] for run in page.listed(updates)] == ["other"]
    assert page.own == ["run-other", "run-other-step-10"] and page.loras == {"one-step": 1.0, "run-other": 0.25}
    assert {card["id"] for card in updates[picker.loras].props["entries"]} == {"one-step", *page.own}
    assert not {"run-sky", "run-sky-step-10"} & set(picker.known)
    with pytest.raises(RequestError, match="no LoRA"):
        engine.run(GenerateRequest("a cat", loras=(LoraUse("run-sky"),)))


def test_a_run_that_is_gone_gives_its_place_to_the_form(tab):
    job = hand_made(tab.runs.root)
    page = Page(tab, "", job.id)
    page.look()
    job.discard()  # on another page
    updates = page.look()
    assert updates[tab.begin].visible and not updates[tab.watch].visible


def test_what_everybody_has_stays_switched_on(engine, tiny_lora, tmp_path):
    """The studio of several people offers what was trained from a shell to all, by names that begin alike."""
    shared = replace(tiny_lora, id="run-style", title="Style")
    tab = tab_of(build_app(engine, [shared], tmp_path / "loras", tmp_path / "runs", "private"))
    page = Page(tab, owner("m"))
    page.loras["run-style"] = 1.0
    hand_over(hand_made(tab.runs.root, owner=page.owner), 10)
    page.look()
    assert len(page.own) == 2 and page.loras == {"one-step": 1.0, "run-style": 1.0}


def test_a_sample_is_drawn_with_what_was_learned_by_now(tab):
    job, view = hand_made(tab.runs.root), tab.view
    hand_over(job, 10)
    Page(tab).look()
    drawn = [view.draw_sample("", job.id, "a <b>cat</b>", 3, weight) for weight in (1.0, 0.0, 1.0)]
    assert len({stage for stage, _ in drawn}) == 2 and "1 network evaluation" in words(drawn[0][1])
    assert 'alt="a &lt;b&gt;cat&lt;/b&gt;, seed 3"' in drawn[0][0]
    for odd in ({"weight": 3.0}, {"weight": None}, {"seed": None}, {"seed": -2}, {"prompt": "a" * 3000}, {"prompt": 5}):
        stage, told = view.draw_sample("", job.id, **({"prompt": "a", "seed": 0, "weight": 1.0} | odd))
        assert stage == SKIPPED and 'role="alert"' in told
    empty = hand_made(tab.runs.root, name="empty")
    assert "learned nothing yet" in view.draw_sample("", empty.id, "a", 0, 1.0)[1]
    foreign = hand_made(tab.runs.root, name="foreign", model="/<b>elsewhere")
    hand_over(foreign, 10)
    told = view.draw_sample("", foreign.id, "a", 0, 1.0)[1]
    assert "serve it by --add-model" in told and "&lt;b&gt;" in told


def test_checkpoints_are_compared_with_the_untouched_model(tab):
    job = hand_made(tab.runs.root)
    for step in range(1, 13):
        hand_over(job, step, seed=step % 3)
    Page(tab).look()
    shown = list(tab.view.draw_checkpoints("", job.id, "a cat", 0))
    titles = re.findall(r"<b>(.*?)</b>", shown[-1])
    assert titles[:2] == ["before", "step 1"] and titles[-1] == "step 12" and len(titles) == 9
    assert [markup.count("<img") for markup in shown] == list(range(1, 10))
    assert 'role="alert"' in next(tab.view.draw_checkpoints("", job.id, "a cat", -2))


def test_a_run_without_snapshots_has_nothing_to_compare(tab):
    job = hand_made(tab.runs.root)
    hand_over(job, 5, snapshot=False)
    Page(tab).look()
    assert list(tab.view.draw_checkpoints("", job.id, "a cat", 0))


TITLES = ("Sky", "", "../../out", "{}/out/x", "a/b", "<b>", "ü" * 60, "..", "a\\b")


@pytest.mark.parametrize("title", TITLES)
def test_a_run_is_packed_in_the_cache_whatever_its_name(tab, tmp_path, title):
    job = hand_made(tab.runs.root)
    hand_over(job, 5)
    job.change(title=title.format(tmp_path))
    before = set(tmp_path.rglob("*"))
    path = Path(tab.view.pack_run("", job.id))
    assert path.suffix == ".zip" and path.resolve().parent == tmp_path / "cache" / "runs" / job.id
    made = [one for one in set(tmp_path.rglob("*")) - before if one.is_file()]
    assert made == [path]


def test_nothing_learned_is_nothing_to_pack(tab):
    with pytest.raises(gr.Error, match="handed over nothing yet"):
        tab.view.pack_run("", hand_made(tab.runs.root).id)


USES = {  # task, trigger, prompt, style chip -> prompt, weight of the model's own LoRA
    "a style": ("teacher", "mint stencil", "a cat", "any", "a cat, mint stencil", 1.0),
    "on a style of the model": ("teacher", "mint stencil", "a cat", "3d", "a cat, mint stencil", 1.0),
    "on nothing": ("teacher", "mint stencil", "", "3d", "mint stencil", 1.0),
    "a style that is called": ("teacher", "mint stencil", "a Mint Stencil cat", "any", "a Mint Stencil cat", 1.0),
    "no trigger": ("teacher", "", "a cat", "any", "a cat", 1.0),
    "one step": ("yoso", "", "a cat", "any", "a cat", 0.0),
}


@pytest.mark.parametrize(("task", "trigger", "prompt", "style", "expected", "one_step"), USES.values(), ids=USES)
def test_use_in_generate_draws_with_the_run(tab, task, trigger, prompt, style, expected, one_step):
    job, drawing = hand_made(tab.runs.root, task=task, trigger=trigger), tab.restored.__self__
    hand_over(job, 5)
    page = Page(tab, "", job.id)
    page.look()
    updates, settings = use_run(tab, "", job.id, prompt, style, 7, page.own, 3), tab.settings
    entry = tab.entries(job)[0].id
    assert (updates[settings.prompt], updates[settings.seed]) == (expected, 7)
    assert updates[settings.style]["value"] == ("none" if trigger and style == "any" else style)
    assert updates[settings.picker.loras].value == {"one-step": one_step, entry: 1.0}
    assert updates[drawing.selected].selected == updates[drawing.active] == "generate"
    assert updates[settings.order] == 4 and updates[settings.model]["value"] == DEFAULT_MODEL
    assert set(updates) <= set(drawing.restores)


def test_previews_show_prompts_that_a_run_has_not_seen():
    words = Words(
        names=("red heart", "cat", *(f"thing {index}" for index in range(20))), examples=("a red heart", "cat")
    )
    prompts = previewed(["a cat, mint"] * 3 + ["a hat"] * 30, "mint", words)
    assert len(prompts) == 16 and all("mint" in prompt for prompt in prompts)
    assert set(prompts[:8]) == {"a cat, mint", "a hat, mint"} and prompts[8] == "a red heart, mint"
    assert not [prompt for prompt in prompts[8:] if "cat" in prompt]
    assert previewed(["a cat"], "", Words(names=("cat",))) == ()  # nothing else to ask for


def test_use_in_generate_tells_what_is_in_the_way(tab):
    with pytest.raises(gr.Error, match="learned nothing"):
        use_run(tab, "", hand_made(tab.runs.root, name="nothing").id)
    job = hand_made(tab.runs.root, name="odd", model="<img src=x>")
    hand_over(job, 5)
    with pytest.raises(gr.Error) as caught:  # which is shown as HTML
        use_run(tab, "", job.id)
    assert "<img" not in caught.value.message


# Translators


def described(root: Path, tmp_path: Path, *texts: str) -> list[str]:
    folder = tmp_path / "described"
    folder.mkdir()
    for index, text in enumerate(texts):
        Image.new("RGB", (64, 64), (40 * index, 0, 90)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(text)
    return [str(path) for path in folder.iterdir()]


def test_two_looks_are_told_apart_by_words_of_the_captions(tab, tmp_path):
    *_, asks, first, second = tab.new.choose("looks", "small", "")
    assert asks.visible and (first, second) == ("flat", "3d") and not tab.new.choose("quick", "small", "")[-3].visible
    assert tab.new.count("looks", first, second, tab.new.shown("", "small")[-1]) == ("", "")
    files = described(tab.runs.root, tmp_path, "a cat, inked", "a dog, painted", "a cow, inked")
    tab.new.take_files("", "small", files)
    used = tab.new.shown("", "small")[-1]
    shares, told = tab.new.count("looks", " inked ", "painted <b>", used)
    assert (
        words(shares) == " Pictures with “inked”: 2 · “painted &lt;b&gt;”: 0 · neither or both, which are left out: 1 "
    )
    assert told == "" and tab.new.count("lines", "inked", "painted", used) == ("", "")
    for said, why in [
        (("", "painted"), "a word for each"),
        (("inked", "inked"), "must differ"),
        (("inked", "flat <b>"), "&#x27;flat &lt;b&gt;&#x27;"),
        (("inked", "x" * 41), "41 characters"),
        (("inked", 5), "must be text"),
    ]:
        name, told = tab.new.begin("", "looks", "small", {}, "Mine", "", *said)
        assert name == SKIPPED and why in told, said
    name, told = tab.new.begin("", "looks", "small", {"steps": 7}, "Mine", "", " inked", "painted")
    job = tab.runs.get(name, "")
    assert told == "" and job.about["task"] == "translate"
    assert {key: job.config[key] for key in ("data", "pairs", "domains", "steps", "title")} == {
        **{"data": str(job.data), "pairs": "", "domains": ["inked", "painted"], "steps": 7, "title": "Mine"}
    }


def test_pictures_of_two_looks_count_once_however_often_they_came(tab, tmp_path):
    """Those alone that training would use."""
    files = described(tab.runs.root, tmp_path, "a cat, inked", "a dog, painted", "a cow, inked")
    (tmp_path / "described/torn.png").write_bytes(b"torn")
    (tmp_path / "described/torn.txt").write_text("inked")
    (tmp_path / "described/both.txt").write_text("a cow, painted")
    (tmp_path / "described/both.png").write_bytes((tmp_path / "described/2.png").read_bytes())
    *_, used = tab.new.take_folder("", "small", str(tmp_path / "described"))
    *_, again = tab.new.take_files("", "small", files)
    shares, _ = tab.new.count("looks", "inked", "painted", used)
    assert words(shares) == " Pictures with “inked”: 1 · “painted”: 1 · neither or both, which are left out: 1 "
    assert tab.new.count("looks", "inked", "painted", again)[0] == shares


def test_other_words_and_other_pictures_take_back_what_was_in_the_way_of_a_start(engine, tmp_path):
    demo = build_app(engine, [], tmp_path / "loras", tmp_path / "runs", "local")
    new = tab_of(demo).new
    counting = [fn for fn in demo.fns.values() if fn.name == "count"]
    assert all(fn.outputs == [new.shares, new.told] for fn in counting)
    heard = {target for fn in counting for target in fn.targets}
    assert heard == {(control._id, "change") for control in (*new.words, new.used)}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("there are no pictures yet", "There are no pictures yet."),
        ("runs/x holds a run with batch = 2", "runs/x holds a run with batch = 2."),
        ("a.png can't be used", "a.png can't be used."),
        ("nothing. was changed!", "Nothing. was changed!"),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_file_as_it_is_named(said, shown):
    assert problem_html(said) == f'<p class="note problem" role="alert">{shown}</p>'.replace("'", "&#x27;")


def test_lines_are_made_of_the_pictures_that_were_dropped(tab, tmp_path):
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    name, told = begin(tab, preset="lines")
    job = tab.runs.get(name, "")
    assert told == "" and job.config["pairs"] == str(job.data) and job.config["data"] == ""
    assert job.config["perceptual"] in ("lpips", "evaluator")
    assert settled(TranslateConfig(pairs=job.config["pairs"], input=job.config["input"])).input == "lines"
    assert tab.new.again("", name)[:2] == ("", "") and len(captions_of(tab)) == 3
    for field in ("pairs", "input", "domains"):
        assert f"can&#x27;t change {field}" in begin(tab, preset="lines", form={field: ["a", "b"]})[1]


@pytest.mark.parametrize(
    "form", [{"autoencoder_rank": 129}, {"clip_model": "/etc"}, {"similarity": "clip"}, {"batch": 65}], ids=str
)
def test_translators_of_a_shared_studio_have_limits_too(make_tab, tmp_path, form):
    tab, me = make_tab("private"), owner("m")
    tab.new.take_files(me, "small", pictures(tmp_path / "in"))
    name, told = begin(tab, me, preset="lines", form=form)
    assert name == SKIPPED and next(iter(form)) in told.lower()


def hand_over_translator(job: Job, engine: Engine, seed: int = 0) -> None:
    output = job.folder / "output"
    write_translator(output, engine.load("small"), ("a2b", "b2a"), seed=seed)
    os.utime(output / "config.json", (seed + 1, seed + 1))


def test_a_trained_translator_is_offered_as_it_appears_and_gone_when_discarded(tab, engine):
    place = engine.models["small"].source.place
    job = hand_made(tab.runs.root, task="translate", model=place)
    page = Page(tab, "", job.id)
    assert page.look()[tab.trained] == () and not engine.translators.keys() & {"run-sky"}
    request = TranslateRequest("", model="small", picture=Image.new("RGB", (64, 64), "red"), translator="run-sky")
    hand_over_translator(job, engine)
    updates = page.look()
    assert updates[tab.trained] == (("Sky", "run-sky"),) and "on the Translate tab" in updates[tab.view.how]
    assert not updates[tab.view.use].visible and updates[tab.view.using].visible and not updates[tab.view.trial].visible
    before = engine.run(request).pictures[0].tobytes()
    hand_over_translator(job, engine, seed=1)
    page.look()
    assert engine.run(request).pictures[0].tobytes() != before
    assert Path(tab.view.pack_run("", job.id)).exists()
    tab.view.discard_run("", job.id, True)
    page.selected = ""
    assert page.look()[tab.trained] == () and "run-sky" not in engine.translators


def test_what_was_handed_over_broken_or_for_another_model_is_not_offered(tab, engine):
    for name, model in (("broken", engine.models["small"].source.place), ("foreign", "/elsewhere")):
        job = hand_made(tab.runs.root, name=name, task="translate", model=model)
        hand_over_translator(job, engine)
        if name == "broken":
            (job.folder / "output" / "config.json").write_text("{")
    assert Page(tab).look()[tab.trained] == () and not {"run-broken", "run-foreign"} & engine.translators.keys()


def test_names_of_translators_of_a_shared_studio_are_told_to_nobody(make_tab, engine):
    tab, me = make_tab("private"), owner("m")
    job = hand_made(tab.runs.root, owner=me, task="translate", model=engine.models["small"].source.place)
    hand_over_translator(job, engine)
    updates = Page(tab, me, job.id).look()
    assert updates[tab.trained] == () and not [name for name in engine.translators if name.startswith("run-")]
    assert "as a zip" in updates[tab.view.how]


# In earnest


def test_a_run_of_the_page_trains_and_is_used(tab, tmp_path, monkeypatch, forks):
    monkeypatch.setattr(Job, "start", BEGIN)
    tab.new.take_files("", "small", pictures(tmp_path / "in"))
    form = {"steps": 4, "batch": 2, "rank": 2, "alpha": 2, "warmup": 1, "checkpoint_every": 2, "precision": "fp32"}
    name, told = begin(tab, form=form | {"preview_every": 2}, trigger="mint")
    assert told == ""
    job, page = tab.runs.get(name, ""), Page(tab, "", name)
    assert page.look()[tab.view.pause].visible
    finish(job)
    try:
        updates = page.look()
        assert job.state == "finished", job.log()
        assert "Done." in updates[tab.view.head] and "after 4 steps" in updates[tab.view.preview]
        assert page.own == [f"run-{name}", f"run-{name}-step-4", f"run-{name}-step-2"]
        stage, told = tab.view.draw_sample("", name, "a red thing, mint", 0, 1.0)
        assert "<img" in stage and "1 network evaluation" in words(told)
    finally:
        job.discard()


@pytest.mark.parametrize("preset", ["lines", "looks"])
def test_a_translator_of_the_page_trains_and_is_used(tab, engine, tmp_path, monkeypatch, forks, preset):
    monkeypatch.setattr(Job, "start", BEGIN)
    texts = [f"a {colour} thing, {look}" for colour in ("red", "blue") for look in ("flat", "3d")]
    tab.new.take_files("", "small", described(tab.runs.root, tmp_path, *texts))
    form = {"steps": 2, "batch": 2, "rank": 2, "alpha": 2, "warmup": 1, "checkpoint_every": 2, "precision": "fp32"}
    form |= {"preview_every": 2, "perceptual": "evaluator"}
    name, told = tab.new.begin("", preset, "small", form, "Mine", "", "flat", "3d")
    assert told == ""
    job, page = tab.runs.get(name, ""), Page(tab, "", name)
    finish(job)
    try:
        updates = page.look()
        assert job.state == "finished", job.log()
        assert "Done." in updates[tab.view.head] and "after 2 steps" in updates[tab.view.preview]
        assert updates[tab.trained] == (("Mine", f"run-{name}"),)
        picture = Image.new("RGB", (64, 64), "green")
        result = engine.run(TranslateRequest("a thing", model="small", picture=picture, translator=f"run-{name}"))
        assert result.evaluations == 1
    finally:
        job.discard()
        page.look()
