"""The page without a browser: handlers as functions, queue rules, the API."""

import asyncio
import json
import re
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image
from safetensors.torch import save_file

from app import easel
from app.drawing import Drawing
from app.easel import read_canvas
from app.history import read_png
from app.lora_picker import OWN
from app.pictures import data_uri, download_file, info_html, pictures_html, run, saved_name
from app.server.page import NOT_TAKEN
from app.server.queueing import PLACES, SEATS
from app.server.sessions import Session
from app.ui import build_app, launch_options
from yoso_core.checkpoints import Source
from yoso_core.engine import Engine
from yoso_core.files.links import from_link, link_text
from yoso_core.files.metadata import Restored, from_json, to_json
from yoso_core.models import MODELS, ModelSpec
from yoso_core.offers import USUAL, Offer
from yoso_core.requests import DEFAULT_MODEL, EditRequest, GenerateRequest, LoraUse, RequestError


@pytest.fixture(scope="module")
def engine(tiny_spec, tiny_control) -> Engine:
    broken = ModelSpec("Broken", Source("/nowhere"), "none", 64)
    models = {DEFAULT_MODEL: replace(tiny_spec, family="tiny"), "broken": broken}
    return Engine(models, device="cpu", controls={"tiny": tiny_control})


@pytest.fixture(scope="module")
def demo(engine, tiny_lora) -> gr.Blocks:
    return build_app(engine, [tiny_lora])


@pytest.fixture(scope="module")
def drawing(demo) -> Drawing:
    return next(fn.fn.__self__ for fn in demo.fns.values() if fn.name == "answer")


@pytest.fixture(scope="module")
def url(demo):
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield address
    demo.close()


@pytest.fixture(scope="module")
def client(url) -> Client:
    return Client(url, verbose=False)


def values_of(drawing: Drawing, tab: str = "generate", order: int = 0, **changes) -> dict:
    """What Gradio hands to `draw` when the controls hold their first values, `changes` apart."""
    settings, values = drawing.settings, {drawing.active: tab, drawing.drawn: 0, drawing.refused: False}
    controls = {name: control for name, control in vars(settings).items() if control in [*settings.typed]}
    controls |= {name: getattr(settings, name) for name in ("live", "keep", "model")}
    controls["loras"] = settings.picker.loras
    values |= {control: changes.pop(name, control.value) for name, control in controls.items()}
    for one in drawing.tabs.values():
        own = {name: control for name, control in vars(one).items() if control in one.typed}
        mine = changes if one.name == tab else {}
        values |= {control: mine.pop(name, control.value) for name, control in own.items()} | {one.shown: None}
    return values | {settings.order: order} | changes.pop("states", {})


def said(update):
    """What an update sets a control to."""
    return update["value"] if isinstance(update, dict) else update


def shown(updates: dict, component) -> str:
    """The words of what a handler sends to a component, without markup."""
    return re.sub("<[^>]+>", "", updates[component])


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.title)
def test_sizes_are_valid_requests(spec):
    assert spec.resolution in spec.sizes
    for side in spec.sizes:
        GenerateRequest("a", size=side)


def test_draw_shows_the_picture_and_what_it_took(drawing):
    tab = drawing.tabs["generate"]
    updates = drawing.draw(values_of(drawing, prompt="a <b>cat</b>", style="3d", seed=7, order=1))
    assert 'alt="a &lt;b&gt;cat&lt;/b&gt;, 3d, seed 7"' in updates[tab.stage] and "<b>" not in updates[tab.stage]
    assert re.fullmatch(
        r"1 network evaluation · .*network \d+ ms.*total \d+ ms · .*64 x 64 pixels · seed 7", shown(updates, tab.info)
    )
    request = updates[tab.shown]
    wanted = USUAL.settle("", GenerateRequest("a <b>cat</b>, 3d", seed=7, size=64))
    assert request == wanted and updates[drawing.drawn] == 1
    assert from_json(updates[drawing.history.strip]["entry"]) == request


def test_draw_waits_for_generate_when_not_live(drawing):
    tab = drawing.tabs["generate"]
    updates = drawing.draw(values_of(drawing, prompt="a dog", live=False))
    assert "Press Generate" in updates[tab.info] and tab.stage not in updates
    updates = drawing.draw(values_of(drawing, prompt="a dog", live=False, order=1))
    assert "a dog" in updates[tab.stage]
    states = {drawing.drawn: 1, tab.shown: updates[tab.shown]}
    again = drawing.draw(values_of(drawing, prompt="a dog", live=False, order=1, states=states))
    assert again == {drawing.drawn: 1, drawing.refused: False}


def test_a_wish_for_the_same_picture_says_what_is_in_the_way(drawing):
    tab = drawing.tabs["generate"]
    drawn = drawing.draw(values_of(drawing, prompt="a dog", order=1))
    states = {drawing.drawn: 1, tab.shown: drawn[tab.shown]}
    again = drawing.draw(values_of(drawing, prompt="a dog", order=2, keep=True, states=states))
    assert "The seed is locked" in again[tab.info]
    assert "The seed is locked" not in drawing.draw(values_of(drawing, prompt="a cat", order=2, keep=True))[tab.info]


def settings_asked(drawing):
    """What `restored` and `choose_model` are told of the page as it begins."""
    values = {control: control.value for control in drawing.asked} | {drawing.settings.picker.own: []}
    return values | {drawing.settings.order: 0, drawing.settings.wished: DEFAULT_MODEL}


@pytest.mark.parametrize(
    "bad", [{"seed": None}, {"seed": 2**32}, {"steps": 3}, {"prompt": "a" * 100_000}, {"guidance": float("nan")}]
)
def test_draw_tells_problems_and_the_picture_stays(drawing, bad):
    tab = drawing.tabs["generate"]
    shown = drawing.draw(values_of(drawing))[tab.shown]
    updates = drawing.draw(values_of(drawing, **bad, states={tab.shown: shown}))
    assert 'role="alert"' in updates[tab.info] and not {tab.stage, tab.shown} & {*updates}
    assert not re.search(r"\de[+-]", updates[tab.info])
    mended = drawing.draw(values_of(drawing, states={tab.shown: shown, drawing.refused: updates[drawing.refused]}))
    assert 'role="alert"' not in mended[tab.info]


BAD_LORAS = [None, "line-art", {"nowhere": 1.0}, {"waves": 3.0}, {"waves": float("nan")}, {"waves": True}]
BAD_LORAS += [{f"lora-{index}": 1.0 for index in range(9)}, {OWN: 9}]


@pytest.mark.parametrize("bad", BAD_LORAS, ids=str)
def test_bad_lora_values_are_told(drawing, bad):
    updates = drawing.draw(values_of(drawing, loras=bad))
    assert 'role="alert"' in updates[drawing.tabs["generate"].info]


def test_a_tag_in_the_prompt_chooses_a_lora_of_the_session_alone(drawing, tiny_lora):
    tab = drawing.tabs["generate"]
    wanted = drawing.draw(values_of(drawing, prompt="a", loras={OWN: 1.0, "waves": 0.5}))
    updates = drawing.draw(values_of(drawing, prompt="a <lora:Waves:0.5>"))
    assert updates[tab.shown] == wanted[tab.shown] and updates[tab.stage] == wanted[tab.stage]
    secret = replace(tiny_lora, id="upload-0123456789abcdef-hidden", title="Hidden", origin="uploaded")
    drawing.settings.picker.remember(secret)  # another session's
    try:
        updates = drawing.draw(values_of(drawing, prompt="a <lora:hidden:0.5>"))
        assert "There is no LoRA “hidden” here" in updates[tab.info] and updates[tab.shown].loras == ()
        states = {drawing.settings.picker.own: [secret.id]}
        updates = drawing.draw(values_of(drawing, prompt="a <lora:hidden:0.5>", states=states))
        assert updates[tab.shown].loras == (LoraUse(secret.id, 0.5),)
    finally:
        drawing.settings.picker.drop(secret.id)


def test_a_lora_and_the_own_weight_change_the_picture(drawing):
    tab = drawing.tabs["generate"]
    stages = [
        drawing.draw(values_of(drawing, loras=value))[tab.stage]
        for value in ({OWN: 1.0}, {OWN: 1.0, "waves": 1.0}, {OWN: 1.0, "waves": -1.0}, {OWN: 0.0})
    ]
    assert len(set(stages)) == 4


def test_the_canvas_is_white_until_it_is_drawn_on():
    picture, mask = read_canvas(None)
    assert picture.getcolors() == [(picture.width * picture.height, (255, 255, 255))] and mask is None


def test_a_canvas_is_read_once_while_a_slider_moves(monkeypatch):
    opened, read = [], easel.read_data_uri
    monkeypatch.setattr(easel, "read_data_uri", lambda *given: opened.append(given) or read(*given))
    value = {"picture": data_uri(Image.new("RGB", (64, 64), "teal")), "mask": None}
    (one, _), (other, _) = read_canvas(value), read_canvas(dict(value))
    assert len(opened) == 1 and one == other
    one.putpixel((0, 0), (1, 2, 3))  # nobody sees what another does with it
    assert read_canvas(value)[0] == other
    for odd in (5, None, "hello", {}):
        with pytest.raises(RequestError, match="The canvas is no picture"):
            read_canvas({"picture": odd})
        if odd:
            with pytest.raises(RequestError, match="The mask is no picture"):
                read_canvas(value | {"mask": odd})


def test_an_edit_shows_before_and_after_and_the_map(drawing):
    tab = drawing.tabs["edit"]
    picture = Image.radial_gradient("L").convert("RGB").resize((64, 64))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    canvas = {"picture": data_uri(picture), "mask": data_uri(mask)}
    updates = drawing.draw(values_of(drawing, "edit", canvas=canvas, strength=0.7, annotator="scribble"))
    assert re.findall('class="([a-z]+)"', updates[tab.stage]) == ["pictures", "before", "map"]
    request = updates[tab.shown]
    assert request.strength == 0.7 and request.control.annotator == "scribble" and request.mask.mode == "L"
    inverted = drawing.draw(values_of(drawing, "edit", canvas=canvas, strength=0.7, invert=True))[tab.shown]
    assert inverted.mask.getpixel((255, 0)) == 255 and request.mask.getpixel((255, 0)) == 0


BAD_CANVASES = [
    5,
    {"picture": None},
    {"picture": "data:image/png;base64,%%%"},
    {"picture": "data:text/html;base64,PGI+"},
    {"picture": "data:image/png;base64,aGVsbG8="},
    {"picture": "http://127.0.0.1/secret.png"},
    {"picture": "/etc/passwd"},
]


def test_a_canvas_of_few_characters_may_not_be_large(drawing):
    """What is drawn from is remembered: 25 megapixels of one colour take some kilobytes on their way and 75 MB here."""
    large = data_uri(Image.new("1", (2000, 2000)))
    for bad in ({"picture": large}, {"picture": data_uri(Image.new("RGB", (8, 8))), "mask": large}):
        updates = drawing.draw(values_of(drawing, "edit", canvas=bad))
        assert "too large" in updates[drawing.tabs["edit"].info]


@pytest.mark.parametrize("bad", BAD_CANVASES, ids=str)
def test_bad_canvases_are_told(drawing, bad):
    updates = drawing.draw(values_of(drawing, "edit", canvas=bad))
    assert 'role="alert"' in updates[drawing.tabs["edit"].info]


def test_opened_files_are_made_square_and_that_is_told(drawing):
    tab = drawing.tabs["edit"]
    wide = data_uri(Image.new("RGBA", (90, 30), (255, 0, 0, 128)))
    value = tab.open_file({"file": wide}, "pad")
    assert "transparent" in value["note"] and "white square" in value["note"] and value["draw"]
    picture, _ = read_canvas(value)
    assert picture.width == picture.height and picture.getpixel((5, 5)) == (255, 255, 255)
    assert tab.open_file({"file": "data:image/png;base64,aGVsbG8="}, "crop").keys() == {"note"}


def test_cut_prompts_and_empty_prompts_are_told(engine):
    long = engine.run(GenerateRequest("red heart " * 60))
    assert long.cut and "did not read" in info_html(long)
    assert "Without a prompt" in info_html(engine.run(GenerateRequest("")))


def test_several_pictures_can_be_looked_at_and_are_all_kept(engine, drawing):
    result = engine.run(GenerateRequest("a cat", seed=3, count=4))
    assert re.findall(r'<button type="button" data-seed="(\d+)"', pictures_html(result)) == ["3", "4", "5", "6"]
    entry = drawing.history.entry(result, "stage")
    wanted = USUAL.settle("", GenerateRequest("a cat", seed=3))
    assert entry["seeds"] == [3, 4, 5, 6] and from_json(entry["entry"]) == wanted


def test_saved_png_holds_its_request(engine, tmp_path):
    request = GenerateRequest("a Crown, 3d!", seed=2, steps=2)
    path = download_file([engine.run(request)], str(tmp_path))
    assert Path(path).name == saved_name(request, 2) == "a-crown-3d-2.png"
    assert read_png(path).request == USUAL.settle("", request)
    assert download_file([engine.run(GenerateRequest("a", count=2))], str(tmp_path)).endswith(".zip")


def test_restore_sets_the_controls_of_the_right_tab(drawing):
    settings, edit = drawing.settings, drawing.tabs["edit"]
    request = GenerateRequest("a crown", negative="red", seed=2, steps=4, one_step=0.5, loras=(LoraUse("waves", 0.3),))
    updates = drawing.restored(Restored(request), settings_asked(drawing))
    assert settings.keep not in updates
    names = ("prompt", "negative", "seed", "steps")
    assert [said(updates[getattr(settings, name)]) for name in names] == ["a crown", "red", 2, 4]
    assert updates[settings.style]["value"] == "none"
    assert updates[settings.picker.loras].value == {OWN: 0.5, "waves": 0.3}
    picture = Image.new("RGB", (64, 64), "red")
    request = EditRequest("a", picture=picture, strength=0.2, grow=0.5)
    updates = drawing.restored(Restored(request), settings_asked(drawing))
    assert (updates[edit.strength], updates[edit.grow]) == (0.2, 0.5)
    assert read_canvas(updates[edit.canvas])[0].getpixel((9, 9)) == (255, 0, 0)
    assert updates[drawing.selected].selected == "edit"


def test_what_is_drawn_from_restored_settings_is_the_same_request(drawing):
    """Everything that a request of the page can say comes back from a picture of it."""
    request = GenerateRequest("a crown, 3d", seed=9, steps=2, guidance=1.5, size=64, loras=(LoraUse("waves", 0.5),))
    updates = drawing.restored(Restored(request), settings_asked(drawing))
    settings = drawing.settings
    loras, style = updates[settings.picker.loras].value, updates[settings.style]["value"]
    assert (updates[settings.prompt], style) == ("a crown", "3d")  # as they were set
    again = drawing.draw(values_of(drawing, prompt="a crown", seed=9, steps=2, guidance=1.5, loras=loras, style=style))
    assert again[drawing.tabs["generate"].shown] == USUAL.settle("", request)


def test_a_style_stays_where_the_prompt_names_one_itself(drawing):
    """The chip had no part in that picture, so nothing is known of it."""
    style = drawing.settings.style
    for chip in ("any", "flat"):
        values = settings_asked(drawing) | {style: chip}
        assert drawing.restored(Restored(GenerateRequest("a 3d cat")), values)[style]["value"] == chip


def test_guidance_is_left_out_where_a_model_has_none(drawing, monkeypatch):
    spec = drawing.engine.models[DEFAULT_MODEL]
    monkeypatch.setitem(drawing.engine.models, DEFAULT_MODEL, replace(spec, offer=replace(USUAL, guided="never")))
    updates, notes = drawing.settings.restored(GenerateRequest("a", guidance=1.5), settings_asked(drawing))
    assert updates[drawing.settings.guidance]["value"] == 1 and notes == [f"{spec.title} draws without guidance"]


def test_the_page_asks_for_a_sampler_above_one_step_and_sets_it_again(drawing):
    settings, shown_request = drawing.settings, drawing.tabs["generate"].shown
    for steps, wanted in ((2, "dpm++"), (1, "lcm")):  # where the choice is hidden, it is not in the way
        drawn = drawing.draw(values_of(drawing, prompt="a", steps=steps, sampler="dpm++"))
        assert (drawn[shown_request].steps, drawn[shown_request].sampler) == (steps, wanted)
    request = GenerateRequest("a", steps=25, sampler="ddim", guidance=2.0)
    updates = drawing.restored(Restored(request), settings_asked(drawing))
    assert updates[settings.steps]["value"] == 25 and 25 in updates[settings.steps]["choices"]
    assert said(updates[settings.sampler]) == "ddim"


def test_files_that_are_no_saved_picture_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "text.png"):
        with pytest.raises(RequestError):
            read_png(str(tmp_path / name))


def test_history_saves_what_it_holds(drawing, engine):
    entries = [to_json(GenerateRequest("a", seed=seed)) for seed in range(3)]
    path = drawing.history.save_entries(1, gr.EventData(None, {"requests": entries}))
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 3
    for bad in ({}, {"requests": 5}, {"requests": []}, {"requests": entries * 40}, {"requests": [{"kind": "?"}]}, None):
        with pytest.raises(gr.Error):
            drawing.history.save_entries(1, gr.EventData(None, bad))


def choose(drawing, name, **changes):
    """What choosing a model sets."""
    settings = drawing.settings
    asked = (
        settings_asked(drawing)
        | {settings.wished: name}
        | {getattr(settings, key): each for key, each in changes.items()}
    )
    return drawing.choose_model(asked, progress=lambda *_, **__: None)


def test_a_model_that_fails_changes_nothing(drawing, monkeypatch):
    warnings, settings = [], drawing.settings
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    assert choose(drawing, "broken", model="another") == {settings.wished: "another"}
    assert warnings == ["Broken is not at /nowhere; please check the folder's path."]
    monkeypatch.setattr(drawing.engine, "load", lambda *_, **__: 1 / 0)
    assert {*choose(drawing, DEFAULT_MODEL)} == {settings.wished} and "log" in warnings[-1]


def test_another_model_brings_its_own_choices_to_every_tab(drawing, engine, monkeypatch):
    other = replace(engine.models[DEFAULT_MODEL], family="other", sizes=(64,))
    monkeypatch.setitem(engine.models, "other", other)
    settings, edit = drawing.settings, drawing.tabs["edit"]
    asked = settings_asked(drawing) | {settings.wished: "other", edit.annotator: "canny"}
    updates = drawing.choose_model(asked, progress=lambda *_, **__: None)
    assert updates[settings.model]["value"] == "other" and updates[settings.order] == 1
    assert updates[edit.annotator] == gr.update(choices=[("Off", "off")], value="off")
    assert updates[settings.size]["visible"] is False
    back = drawing.choose_model(asked | {settings.wished: DEFAULT_MODEL}, progress=lambda *_, **__: None)
    assert "value" not in back[edit.annotator]  # stays as it is by now: somebody may have chosen meanwhile


def test_choices_of_another_model_are_overtaken(demo, drawing, engine, monkeypatch):
    """A page that is being given other choices sends what it has of them; some wait in the queue meanwhile."""
    plain = replace(engine.models[DEFAULT_MODEL], offer=Offer(("tcd",), (2,)), sizes=(64,), source=Source("/plain"))
    monkeypatch.setitem(engine.models, "broken", plain)
    monkeypatch.setattr(engine, "load", lambda *_, **__: None)
    settings, page = drawing.settings, Session(demo, "")
    before = values_of(drawing, style="3d")
    before |= {settings.wished: DEFAULT_MODEL, settings.picker.own: []}

    def send(name: str, **changes) -> dict:
        """What comes of values that a page sends, by component."""
        values = before | {getattr(settings, key): each for key, each in changes.items()}
        values[drawing.wish] = json.dumps([values[control] for control in drawing.sent])
        fn = next(fn for fn in demo.fns.values() if fn.name == name)
        inputs = [None if isinstance(block, gr.State) else values[block] for block in fn.inputs]
        answer = asyncio.run(demo.process_api(fn, inputs, page))
        return dict(zip(fn.outputs, answer["data"], strict=True))

    assert send("choose_model", wished="broken")[settings.style]["value"] == "none"
    overtaken, tab = send("answer", order=1, model="broken"), drawing.tabs["generate"]
    assert "<img" not in str(overtaken[tab.stage]) and "reload the page if" in overtaken[tab.info]
    assert overtaken[drawing.history.strip] == gr.skip()
    back = send("choose_model", wished=DEFAULT_MODEL, model="broken")
    assert back[settings.model]["value"] == DEFAULT_MODEL and back[settings.style]["value"] == "any"
    assert "3d, seed 0" in str(send("answer", order=2)[tab.stage])


@pytest.mark.parametrize("bad", [None, 5, "", "[]", "{}", "[1]", "not json", "[" * 100_000])
def test_a_wish_that_the_page_would_not_send_is_not_taken(drawing, bad):
    with pytest.raises(gr.Error, match="can't take"):
        drawing.answer(values_of(drawing) | {drawing.wish: bad})


ODD = [None, True, 5, -1e300, float("nan"), float("inf"), "", "x", "\0", [], [[]], {}, {"a": [5]}, {"picture": 5}]


@pytest.mark.parametrize("tab", ["generate", "edit", "translate", "compare"])
def test_whatever_stands_in_a_wish_is_answered_in_a_sentence(drawing, monkeypatch, tab):
    """Each control as every kind of value that a program could send."""

    def drawn(*_):
        raise gr.Error("Drawn.")

    monkeypatch.setattr("app.drawing.run", drawn)
    values = values_of(drawing, tab) | {drawing.active: tab}
    wish = [values[control] for control in drawing.sent]
    for index, control in enumerate(drawing.sent):
        for odd in ODD:
            sent = json.dumps([*wish[:index], odd, *wish[index + 1 :]])
            try:
                drawing.answer(values | {drawing.wish: sent})
            except gr.Error as error:
                assert error.message == NOT_TAKEN, (control.elem_id, odd)
    for odd in ([[]], [], {}, 5):
        with pytest.raises(gr.Error, match="can't take"):
            drawing.answer(values | {drawing.wish: json.dumps([odd, *wish[1:]])})


def test_a_model_that_is_not_here_is_shown_on_the_shelf(drawing, monkeypatch):
    """Nothing is fetched for a look at a list, and the model in use stays."""
    engine, settings = drawing.engine, drawing.settings
    remote = replace(engine.models[DEFAULT_MODEL], title="Remote", source=Source("some/model", "0" * 40), lora=None)
    monkeypatch.setitem(engine.models, "remote", remote)
    updates = choose(drawing, "remote")
    assert updates[settings.wished] == DEFAULT_MODEL and settings.model not in updates
    assert updates[drawing.active] == "models" and updates[drawing.shelf]["shown"]["id"] == "model:remote"
    assert not engine.fetches.status()


def test_uploaded_loras_are_the_sessions_own(drawing, tiny_lora, tmp_path):
    picker = drawing.settings.picker
    cards, own, told = picker.add_file(str(tiny_lora.path), DEFAULT_MODEL, {OWN: 1.0}, [])
    (name,) = own
    assert cards.value == {OWN: 1.0, name: 1.0} and "is in the list" in told
    assert name not in picker.shared and len(name) > 16
    others = {card["id"] for card in picker.cards(drawing.engine.models[DEFAULT_MODEL], [])}
    assert name not in others
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04not safe")
    assert picker.add_file(str(tmp_path / "bad.safetensors"), DEFAULT_MODEL, {}, own)[:2] == (gr.skip(), gr.skip())


def test_what_does_not_fit_is_not_kept_and_sessions_forget(drawing, tiny_lora, tmp_path):
    picker = drawing.settings.picker
    known = set(picker.known)
    wide = tmp_path / "wide.safetensors"
    save_file({f"unet.mid_block.attentions.0.proj_in.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}, wide)
    _, _, told = picker.add_file(str(wide), DEFAULT_MODEL, {}, [])
    assert 'role="alert"' in told and set(picker.known) == known
    _, own, _ = picker.add_file(str(tiny_lora.path), DEFAULT_MODEL, {}, [])
    picker.hold(own)  # the same browser, after a reload
    picker.forget(own)
    use = GenerateRequest("a", loras=(LoraUse(own[0]),))
    drawing.engine.run(use)
    picker.forget([*own, "waves"])
    assert set(picker.known) == known
    with pytest.raises(RequestError, match="no LoRA"):
        drawing.engine.run(use)


def test_pictures_and_links_do_not_give_away_uploads(drawing, tiny_lora, tmp_path):
    picker = drawing.settings.picker
    _, own, _ = picker.add_file(str(tiny_lora.path), DEFAULT_MODEL, {}, [])
    request = GenerateRequest("a", loras=(LoraUse(own[0], 0.5),))
    secret = own[0].split("-waves")[0].removeprefix("upload-")
    path = download_file([drawing.engine.run(request)], str(tmp_path))
    assert secret.encode() not in Path(path).read_bytes()
    assert from_link(link_text(request).text).request.loras == (LoraUse("upload-waves", 0.5),)
    restored, notes = picker.restored(drawing.engine.models[DEFAULT_MODEL], 1.0, read_png(path).request.loras, own)
    assert restored.value[own[0]] == 0.5 and not notes  # whose it is still gets it
    assert picker.restored(drawing.engine.models[DEFAULT_MODEL], 1.0, read_png(path).request.loras, [])[1]


def test_toasts_show_no_markup(drawing, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Info", lambda message, **_: told.append(message))
    request = GenerateRequest("a", loras=(LoraUse("<img src=x>"),))
    drawing.restored(Restored(request), settings_asked(drawing))
    assert "&lt;img" in told[0] and "<img" not in told[0]


def test_a_picture_that_can_not_be_made_again_leaves_the_others(drawing, monkeypatch):
    monkeypatch.setattr(gr, "Warning", lambda message, **_: None)
    entries = [to_json(GenerateRequest("a")), to_json(GenerateRequest("a", loras=(LoraUse("gone"),)))]
    assert drawing.history.save_entries(1, gr.EventData(None, {"requests": entries})).endswith(".png")
    long = to_json(GenerateRequest("a", sampler="ddim", steps=50, guidance=2))
    for bad in ([long] * 20, entries[1:]):
        with pytest.raises(gr.Error):
            drawing.history.save_entries(1, gr.EventData(None, {"requests": bad}))


def test_tools_for_language_models_are_the_public_endpoints(engine, tiny_lora, monkeypatch):
    demo = build_app(engine, [tiny_lora])
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options(mcp=True))
    tools = httpx.get(f"{address}gradio_api/mcp/schema", timeout=60).json()
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}
    hello["params"] |= {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    taken = {"accept": "application/json, text/event-stream"}
    statuses = [
        httpx.post(f"{address}gradio_api/mcp/", json=hello | more, headers=taken | headers, timeout=60).status_code
        for headers, more in (
            ({}, {}),
            ({"origin": "http://evil.example"}, {}),
            ({"host": "evil.example"}, {}),
            ({}, {"padding": "x" * 41_000_000}),
        )
    ]
    demo.close()
    assert statuses == [200, 403, 403, 413]
    assert {tool["name"].removeprefix("studio_") for tool in tools} == PUBLIC
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install"):
        launch_options(mcp=True)


def test_ladder_and_grid(drawing, demo):
    compare = next(fn.fn.__self__ for fn in demo.fns.values() if fn.name == "draw_grid")
    values = values_of(drawing) | {compare.source: "generate"}
    steps = [markup for markup, _ in compare.draw_ladder(values)]
    assert [markup.count("<img") for markup in steps] == [0, 1, 2, 3, 4, 5]
    axes = {compare.x: "seed", compare.x_values: "0, 1", compare.y: "lora.waves", compare.y_values: "0:1:3"}
    *grown, (shown, told, _, path) = compare.draw_grid(values | axes)
    counts = [markup.count("<img") for markup, *_ in grown]
    assert counts == sorted({*counts}) and counts[0] == 1  # it is seen as it grows
    assert shown.count("<img") == 6 and told == "" and Path(path).exists()
    ((_, told, *_),) = compare.draw_grid(values | axes | {compare.x_values: "x"})
    assert 'role="alert"' in told


PUBLIC = {"generate", "edit", "translate", "control_map", "ladder", "grid", "loras", "translators"}


DRAWS = {"answer", "draw_grid", "draw_ladder", "save", "save_entries", "open", "sheet"}  # on the page


def test_what_draws_has_seats_and_holds_up_nothing_else(demo):
    python = [fn for fn in demo.fns.values() if fn.fn is not None]
    assert {fn.name for fn in python if fn.concurrency_id == "engine"} == DRAWS | PUBLIC
    assert {fn.concurrency_limit for fn in python if fn.concurrency_id == "engine"} == {SEATS}
    apart = {fn.name: fn.concurrency_id for fn in python if fn.concurrency_id not in ("engine", "page")}
    shelf = dict.fromkeys(("open", "tick", "act", "add", "use", "offer"), "shelf")
    assert apart == {"add_from_hub": "hub", "choose_model": "hub", "translate_all": "batch"} | shelf
    # Batches find their own place or are refused, so that none waits in the queue that all share.
    assert {fn.concurrency_limit for fn in python if fn.concurrency_id == "page"} == {1}
    assert {fn.api_name for fn in python if fn.api_visibility == "public"} == PUBLIC
    assert not demo.api_open and demo._queue.max_size == PLACES
    assert [fn.trigger_mode for fn in python if fn.name == "answer"] == ["always_last"]


def test_no_message_of_a_listener_has_the_page_go_over_much(demo, drawing):
    """Gradio's page copies all of a component, piece by piece, that a listener once showed its progress on, at each
    message of any listener."""
    with_python = [
        one for one in demo.config["dependencies"] if one["backend_fn"] and one["api_visibility"] == "private"
    ]
    assert max(len(one["show_progress_on"] or one["outputs"]) for one in with_python) <= 8
    props = {one["id"]: one["props"] for one in demo.config["components"]}
    assert isinstance(props[drawing.settings.words._id]["value"], str)
    answer = next(one for one in with_python if one["api_name"] == "answer")
    assert len(answer["inputs"]) <= 8 and len(answer["targets"]) == 1


def test_who_waits_is_told_how_many_pictures_come_first(engine):
    told, made = [], []

    def ask() -> None:
        made.append(run(engine, GenerateRequest("a"), lambda place, unit: told.append((place, unit))))

    with engine.lock:
        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(500):
            if told:
                break
            time.sleep(0.01)
    thread.join(60)
    assert told == [((1, None), "picture comes first")] and len(made[0].pictures) == 1


def test_api_with_a_prompt_alone(client):
    files, about = client.predict(prompt="a red heart", seed=7, api_name="/generate")
    assert about["seeds"] == [7] and about["evaluations"] == 1
    with Image.open(files[0]) as picture:
        assert json.loads(picture.text["yoso"])["prompt"] == "a red heart"


def test_api_edits_follows_and_compares(client, tmp_path):
    Image.radial_gradient("L").convert("RGB").resize((80, 60)).save(tmp_path / "in.png")
    picture = handle_file(tmp_path / "in.png")
    files, about = client.predict(picture=picture, prompt="a", strength=0.0, annotator="scribble", api_name="/edit")
    assert about["evaluations"] == 0 and about["notes"] == []
    with Image.open(files[0]) as made:
        assert made.size == (72, 56) and json.loads(made.text["yoso"])["kind"] == "edit"
    files, about = client.predict(picture=picture, prompt="a", fit="crop", api_name="/edit")
    with Image.open(files[0]) as made:
        assert made.size == (64, 64) and "cropped" in about["notes"][0]
    layer = Image.new("RGBA", (80, 60), (255, 255, 255, 0))
    layer.paste("white", (20, 20, 60, 50))  # a stroke as editors save them
    layer.save(tmp_path / "mask.png")
    files, about = client.predict(picture=picture, mask=handle_file(tmp_path / "mask.png"), api_name="/edit")
    with Image.open(files[0]) as made:
        assert from_json(json.loads(made.text["yoso"])).mask.getbbox() == (20, 20, 60, 50)
    with Image.open(client.predict(picture=picture, api_name="/control_map")) as found:
        assert found.size == (72, 56)
    files, _ = client.predict(prompt="a", size="96x64", api_name="/generate")
    with Image.open(files[0]) as made:
        assert made.size == (96, 64)
    _, rungs = client.predict(prompt="a", api_name="/ladder")
    assert [rung["evaluations"] for rung in rungs] == [1, 2, 4, 50, 1]
    assert client.predict(prompt="a", x="seed=0,1", y="", api_name="/grid")
    assert [each["id"] for each in client.predict(api_name="/loras")] == ["waves"]
    assert client.predict(prompt="a", loras="waves:0.5", api_name="/generate")[1]["evaluations"] == 1
    files, about = client.predict(prompt="a, <lora:Waves:0.5> <lora:no:1>", api_name="/generate")
    with Image.open(files[0]) as made:
        request = from_json(json.loads(made.text["yoso"]))
    assert request.loras == (LoraUse("waves", 0.5),) and request.prompt == "a, <lora:no:1>"
    assert "There is no LoRA “no” here" in about["notes"][0]


def test_api_reads_no_file_that_was_not_uploaded(client, url, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    body = {"data": [{"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}, "map", 1, 2, 64]}
    for meta in ({"_type": "gradio.FileData"}, {}):
        body["data"][0]["meta"] = meta
        started = httpx.post(f"{url}gradio_api/call/control_map", json=body, timeout=60)
        answer = started.text
        if started.status_code == 200:
            answer = httpx.get(f"{url}gradio_api/call/control_map/{started.json()['event_id']}", timeout=30).text
            assert "event: error" in answer
        assert ".png" not in answer.replace("secret.png", "")


BAD = [
    {"seed": -2},
    {"seed": True},
    {"seed": "NaN"},
    {"steps": 3},
    {"sampler": "dpm++"},
    {"sampler": "euler", "steps": 2},
    {"guidance": 1e9},
    {"count": 10},
    {"model": "none"},
    {"size": 65},
    {"prompt": "a" * 100_000},
    {"prompt": 5},
    {"loras": "nowhere"},
    {"loras": "waves:much"},
    {"loras": None},
    {"loras": ["waves"]},
    {"one_step": 3},
    {"annotator": "canny"},
]


def test_api_takes_a_sampler(client, tmp_path):
    picture = tmp_path / "given.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    for endpoint, given in (("/generate", {}), ("/edit", {"picture": handle_file(str(picture))})):
        pictures, about = client.predict(prompt="a", steps=8, sampler="dpm++", api_name=endpoint, **given)
        assert about["evaluations"] == 8 and read_png(pictures[0]).request.sampler == "dpm++"


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: next(iter(bad)))
def test_api_refuses_in_one_sentence_and_goes_on(client, bad):
    with pytest.raises(Exception, match=r"^[A-Z][^\n]*\.$"):
        client.predict(api_name="/generate", **({"prompt": "a"} | bad))
    assert client.predict(prompt="a", api_name="/generate")[1]["seeds"] == [0]


def test_api_refuses_a_bare_nan(url, client):
    body = b'{"data": ["a", "", NaN, 1, 1, 1, "yoso-emoji", null, "", 1, null, "", 1, "lcm"]}'
    headers = {"content-type": "application/json"}
    event = httpx.post(f"{url}gradio_api/call/generate", content=body, headers=headers).json()["event_id"]
    answer = httpx.get(f"{url}gradio_api/call/generate/{event}", timeout=30).text
    assert "event: error" in answer and "The seed must be a number" in answer


def test_a_full_queue_says_so_and_recovers(engine, url, client, monkeypatch):
    """50 at once: never two on the device, the surplus told, and then business as before."""
    answer, busy, alone = engine._answer, threading.Lock(), []

    def slow_answer(asked):
        alone.append(busy.acquire(blocking=False))
        time.sleep(0.1)
        busy.release()
        answer(asked)

    monkeypatch.setattr(engine, "_answer", slow_answer)
    body = {"data": ["a", "", 0, 1, 1, 1, DEFAULT_MODEL, None, "", 1, None, "", 1, "lcm"]}
    answers = []
    with httpx.Client(timeout=60) as http:
        call = lambda: answers.append(http.post(f"{url}gradio_api/call/generate", json=body))  # noqa: E731
        threads = [threading.Thread(target=call) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused and all("Queue is full" in answer.text for answer in refused)
    deadline = time.monotonic() + 60
    while len(alone) < 50 - len(refused) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(alone) == 50 - len(refused) and all(alone)
    assert client.predict(prompt="a", api_name="/generate")[1]["seeds"] == [0]
