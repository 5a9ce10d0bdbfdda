"""The Translate tab without a browser: what it asks for, what it shows, what comes back of a saved picture."""

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from app.easel import read_canvas
from app.history import read_png
from app.pictures import data_uri, download_file, read_data_uri, result_html
from app.translate_files import AT_ONCE, Shown, problems_html
from app.translate_tab import numbered
from app.ui import build_app, launch_options
from tests.handed import stored
from tests.test_app import settings_asked, shown, values_of
from tests.tiny_translate import write_translator
from yoso_core.engine import Engine
from yoso_core.files.metadata import Restored
from yoso_core.requests import DEFAULT_MODEL, LoraUse, RequestError, TranslateRequest

PICTURE = Image.radial_gradient("L").convert("RGB").resize((64, 64))
CANVAS = {"picture": data_uri(PICTURE), "mask": None}


@pytest.fixture(scope="module")
def engine(tiny_spec, tmp_path_factory) -> Engine:
    models = {DEFAULT_MODEL: replace(tiny_spec, family="tiny"), "other": replace(tiny_spec, family="other")}
    engine = Engine(models, device="cpu", translators={})
    folder, model = tmp_path_factory.mktemp("translators"), engine.load(DEFAULT_MODEL)
    lines = write_translator(folder / "lines", model, input="lines")
    both = write_translator(folder / "both", model, ("a2b", "b2a"), seed=1)
    engine.add_translator("lines", replace(lines, title="From <lines>"))
    engine.add_translator("both", replace(both, title="Both ways"))
    return engine


@pytest.fixture(scope="module")
def demo(engine, tiny_lora) -> gr.Blocks:
    return build_app(engine, [tiny_lora])


@pytest.fixture(scope="module")
def drawing(demo):
    return next(fn.fn.__self__ for fn in demo.fns.values() if fn.name == "answer")


@pytest.fixture
def tab(drawing):
    return drawing.tabs["translate"]


@pytest.fixture(scope="module")
def client(demo):
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield Client(address, verbose=False)
    demo.close()


def draw(drawing, **changes):
    return drawing.draw(values_of(drawing, "translate", **{"canvas": CANVAS, **changes}))


@pytest.mark.parametrize("canvas", [None, {"picture": data_uri(Image.new("RGB", (64, 64), "white"))}])
def test_an_empty_canvas_asks_for_nothing(drawing, tab, canvas):
    updates = draw(drawing, canvas=canvas)
    assert "empty" in updates[tab.stage] and updates[tab.shown] is None
    assert shown(updates, tab.info) == "Draw something, or open a picture." and "problem" not in updates[tab.info]
    assert drawing.history.strip not in updates


def test_the_picture_its_lines_and_what_it_took_are_shown(drawing, tab):
    updates = draw(drawing, prompt="a cat", style="3d", annotator="scribble", order=1)
    assert re.findall('class="([a-z]+)"', updates[tab.stage]) == ["pictures", "before", "map"]
    assert "1 network evaluation" in shown(updates, tab.info) and updates[drawing.drawn] == 1
    request = updates[tab.shown]
    assert (request.translator, request.direction, request.prompt) == ("lines", "a2b", "a cat, 3d")
    assert updates[drawing.history.strip]["entry"]["kind"] == "translate"
    assert updates[drawing.history.strip]["shows"] == "#translate-result"


def test_steps_guidance_and_negative_prompt_do_not_matter(drawing, tab):
    request = draw(drawing, steps=4, guidance=3.0, negative="blue")[tab.shown]
    assert (request.steps, request.guidance, request.negative) == (1, 1.0, "")


def test_a_fixed_prompt_is_told_and_what_is_typed_changes_nothing(drawing, tab):
    one = draw(drawing, translator="both", direction="b2a", prompt="a cat")[tab.shown]
    other = draw(drawing, translator="both", direction="b2a", prompt="a dog", style="flat")[tab.shown]
    assert one.prompt == other.prompt == "b2a" and replace(one, picture=PICTURE) == replace(other, picture=PICTURE)
    hint, lines = tab.tell("both", "b2a")
    assert "“b2a”" in hint and "fixed-prompt" in hint and not lines.visible
    hint, lines = tab.tell("lines", "a2b")
    assert "fixed-prompt" not in hint and lines.visible


def test_choosing_a_translator_offers_its_directions(drawing, tab):
    both, lines = tab.choose("both"), tab.choose("lines")
    assert both.choices == [("Way a2b", "a2b"), ("Way b2a", "b2a")] and both.value == "a2b" and both.visible
    assert not lines.visible and lines.value == "a2b"
    # The direction of another translator, as the page holds it for a moment, is not an error.
    assert draw(drawing, translator="lines", direction="b2a")[tab.shown].direction == "a2b"


def test_another_model_has_other_translators(drawing, tab):
    updates = tab.for_model("other", {tab.translator: "lines", tab.direction: "a2b"})
    translators, directions = updates[tab.translator], updates[tab.direction]
    assert not translators["visible"] and translators["value"] is None and not directions["visible"]
    assert "no translator" in tab.tell(None, None)[0]
    updates = draw(drawing, translator=None, direction=None)
    assert 'role="alert"' in updates[tab.info] and "no translator" in updates[tab.info]
    translators, directions = tab.offer(DEFAULT_MODEL, "both", "b2a")
    assert (translators["value"], directions["value"]) == ("both", "b2a") and translators["visible"]


def test_variations_are_a_row_to_choose_from(drawing, tab):
    updates = draw(drawing, strength=0.5, count=3, seed=4)
    assert re.findall(r'<img data-seed="(\d+)"', updates[tab.stage]) == ["4", "5", "6"]
    assert updates[tab.stage].count('class="before"') == 1 and "variations" in updates[tab.stage]
    assert updates[tab.save].value == "Save 3 PNG (zip)"
    alone = draw(drawing, strength=1, count=3)
    assert alone[tab.save].value == draw(drawing, canvas=None)[tab.save].value == "Save PNG"
    assert "variations" not in alone[tab.stage] and "lower it for variations" in shown(alone, tab.info)


@pytest.mark.parametrize(
    "bad", [{"strength": 2}, {"translator": "nowhere"}, {"annotator": "x"}, {"canvas": 5}], ids=str
)
def test_what_is_not_possible_is_told(drawing, tab, bad):
    updates = draw(drawing, **bad)
    assert 'role="alert"' in updates[tab.info] and tab.shown not in updates


def test_a_saved_picture_comes_back_to_the_tab(drawing, tab, engine, tmp_path):
    request = TranslateRequest(
        *("a cat, 3d", ""),
        seed=5,
        loras=(LoraUse("waves", 0.5),),
        size=64,
        picture=PICTURE,
        translator="lines",
        direction="a2b",
        strength=0.7,
        annotator="scribble",
        low=50,
        fit="crop",
    )
    saved = read_png(download_file([engine.run(request)], str(tmp_path)))
    assert isinstance(saved.request, TranslateRequest) and not saved.notes
    updates = drawing.restored(saved, settings_asked(drawing))
    assert updates[drawing.selected].selected == "translate" and updates[drawing.active] == "translate"
    names = ("strength", "count", "annotator", "low", "high")
    again = {name: updates[getattr(tab, name)] for name in names}
    again |= {"translator": updates[tab.translator].value, "direction": updates[tab.direction].value}
    again |= {"prompt": updates[drawing.settings.prompt], "style": "3d", "seed": 5}
    again["loras"] = updates[drawing.settings.picker.loras].value
    picture, _ = read_canvas(updates[tab.canvas])
    small = {"picture": data_uri(picture.resize((64, 64)))}
    found = drawing.draw(values_of(drawing, "translate", canvas=small, **again))[tab.shown]
    answered = replace(saved.request, loras=request.loras)
    assert replace(found, picture=PICTURE) == replace(answered, picture=PICTURE)


def test_what_is_restored_leaves_the_prompt_alone_where_it_does_not_matter(drawing, engine):
    request = TranslateRequest("b2a", picture=PICTURE, translator="both", direction="b2a")
    updates = drawing.restored(Restored(request), settings_asked(drawing))
    assert updates[drawing.settings.prompt] == gr.skip()
    with pytest.raises(RequestError, match="not here"):
        drawing.restored(Restored(replace(request, translator="gone")), settings_asked(drawing))


def test_titles_and_prompts_show_no_markup(engine, tab):
    spec = replace(engine.translators["both"], title="<b>")
    engine.add_translator("odd", replace(spec, directions={"a2b": replace(spec.directions["a2b"], prompt="<i>x")}))
    assert "<i>" not in tab.tell("odd", "a2b")[0]
    engine.remove_translator("odd")
    result = engine.run(TranslateRequest("<script>", picture=PICTURE, translator="lines", strength=0.5, count=2))
    assert "<script>" not in result_html(result)


def test_compare_draws_grids_of_translations_and_no_ladder(drawing, demo):
    compare = next(fn.fn.__self__ for fn in demo.fns.values() if fn.name == "draw_grid")
    values = values_of(drawing, "translate", canvas=CANVAS) | {compare.source: "translate"}
    axes = {compare.x: "seed", compare.x_values: "0, 1", compare.y: "strength", compare.y_values: "0.5, 1"}
    *_, (_, told, _, path) = compare.draw_grid(values | axes)
    assert told == "" and Path(path).exists()
    assert "one evaluation" in list(compare.draw_ladder(values))[-1][1]
    empty = values | {drawing.tabs["translate"].canvas: None}
    assert "Translate tab" in list(compare.draw_ladder(empty))[-1][1]


def batch(drawing, tab, files: dict[str, bytes], tmp_path, **changes):
    """What the page gets, step by step, once files are dropped and all are to be translated."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    values = values_of(drawing, "translate", **changes) | {tab.files.given: [str(tmp_path / name) for name in files]}
    return list(tab.files.translate_all(values))


def test_a_batch_is_one_zip_and_what_can_not_be_read_is_told(drawing, tab, tmp_path, monkeypatch):
    monkeypatch.setattr("app.translate_files.EVERY", 0)
    wide = stored(Image.linear_gradient("L").resize((90, 60)))
    files = {"a.png": stored(PICTURE), "<b>.png": b"no picture", "c.png": wide}
    steps = batch(drawing, tab, files, tmp_path, strength=0.5, count=4, prompt="a cat", style="3d", fit="pad")
    files = tab.files
    assert [shown(step, files.told)[:6] for step in steps[:2]] == ["0 of 3", "1 of 3"] and steps[1][files.stop].visible
    last = steps[-1]
    assert "2 of 3 translated." in shown(last, files.told) and "&lt;b&gt;.png: This is no PNG" in last[files.told]
    assert last[files.grid].count("<img") == 2 and last[files.start].visible and not last[files.stop].visible
    assert last[files.download].visible
    with zipfile.ZipFile(last[files.download].value["path"]) as archive:
        assert archive.namelist() == ["a.png", "c.png"]
        request = read_png(io.BytesIO(archive.read("c.png"))).request
        assert (request.prompt, request.count, request.fit, request.strength) == ("a cat, 3d", 1, "pad", 0.5)


def test_pictures_of_a_batch_keep_their_size_and_their_shape(drawing, tab, tmp_path):
    last = batch(drawing, tab, {"wide.png": stored(PICTURE.resize((300, 100)))}, tmp_path, translator="both")[-1]
    with zipfile.ZipFile(last[tab.files.download].value["path"]) as archive:
        assert Image.open(io.BytesIO(archive.read("wide.png"))).size == (300, 100)
    picture, _ = read_data_uri(last[tab.files.grid].split('src="')[1].split('"')[0], "The thumbnail")
    column = np.asarray(picture)[:, picture.width // 2].min(axis=1) > 245
    assert column[0] and column[-1] and not column[picture.height // 2]  # white above and below it


@pytest.mark.parametrize(
    ("files", "changes", "told"),
    [
        ({}, {}, "Drop pictures first"),
        ({"a.png": stored(PICTURE)}, {"translator": None}, "no translator"),
        ({"a.png": stored(PICTURE)}, {"annotator": "x"}, "no annotator"),
        ({"a.png": b""}, {}, "0 of 1 translated"),
    ],
)
def test_a_batch_that_can_not_be_is_told_and_leaves_no_zip(drawing, tab, tmp_path, monkeypatch, files, changes, told):
    monkeypatch.setattr(tab.files.download, "GRADIO_CACHE", str(tmp_path / "cache"))
    last = batch(drawing, tab, files, tmp_path, **changes)[-1]
    assert told in shown(last, tab.files.told) and last[tab.files.start].visible
    assert not list((tmp_path / "cache").rglob("*.zip"))


def test_a_batch_that_is_stopped_leaves_no_zip(drawing, tab, tmp_path, monkeypatch):
    monkeypatch.setattr(tab.files.download, "GRADIO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.png").write_bytes(stored(PICTURE))
    values = values_of(drawing, "translate") | {tab.files.given: [str(tmp_path / "a.png")] * 3}
    monkeypatch.setattr("app.translate_files.EVERY", 0)
    steps = tab.files.translate_all(values)
    next(steps), next(steps)
    assert list((tmp_path / "cache").rglob("*.zip"))
    steps.close()
    assert not list((tmp_path / "cache").rglob("*.zip"))


def test_a_batch_too_many_is_refused_and_the_next_one_has_its_place(drawing, tab, tmp_path, monkeypatch):
    monkeypatch.setattr(tab.files.download, "GRADIO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.png").write_bytes(stored(PICTURE))
    values = values_of(drawing, "translate") | {tab.files.given: [str(tmp_path / "a.png")]}
    going = [tab.files.translate_all(values) for _ in range(AT_ONCE)]
    for each in going:
        next(each)
    (refused,) = tab.files.translate_all(values)
    assert "try again" in refused[tab.files.told]
    for each in going:
        each.close()
    assert "1 translated." in list(tab.files.translate_all(values))[-1][tab.files.told]


def test_of_a_batch_no_large_picture_is_kept(drawing, tab, tmp_path, monkeypatch):
    monkeypatch.setattr(tab.files.download, "GRADIO_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (900, 900), "red").save(tmp_path / "large.png")
    values = values_of(drawing, "translate") | {tab.files.given: [str(tmp_path / "large.png")]}
    kept = []
    monkeypatch.setattr(tab.files, "_ended", lambda done, path: kept.extend(done) or {})
    list(tab.files.translate_all(values))
    (one,) = kept
    assert isinstance(one, Shown) and one.thumbnail.startswith("data:image/") and len(one.thumbnail) < 100_000


def test_titles_that_are_the_same_are_numbered():
    assert numbered([("A", "x"), ("B", "y"), ("A", "z")]) == [("A", "x"), ("B", "y"), ("A (2)", "z")]


def test_of_many_problems_the_first_are_told():
    told = problems_html([Shown(f"{index}.png", "it is odd") for index in range(11)])
    assert told.count("It is odd.") == 8 and "And 3 more." in told


def test_the_endpoint_translates_and_says_what_there_is(client, tmp_path):
    PICTURE.resize((90, 60)).save(tmp_path / "in.png")
    given = {"picture": handle_file(tmp_path / "in.png"), "api_name": "/translate"}
    files, about = client.predict(translator="both", direction="b2a", strength=0.5, seed=3, count=2, **given)
    assert about["seeds"] == [3, 4] and about["evaluations"] == 1
    assert about["notes"][0] == "90 x 60: drawn at 72 x 48" and Image.open(files[1]).size == (90, 60)
    request = read_png(files[1]).request
    assert (request.translator, request.direction, request.seed, request.strength) == ("both", "b2a", 4, 0.5)
    files, _ = client.predict(translator="lines", prompt="a cat", annotator="scribble", loras="waves:0.5", **given)
    assert read_png(files[0]).request.loras == (LoraUse("waves", 0.5),)
    told = {each["id"]: each for each in client.predict(api_name="/translators")}
    assert told["lines"]["input"] == "lines" and told["lines"]["directions"]["a2b"]["prompt"] is None
    assert told["both"]["directions"]["b2a"] == {"title": "Way b2a", "prompt": "b2a"}
    for bad in (
        {"translator": "nowhere"},
        {"translator": "both", "direction": "c"},
        {"translator": "both", "count": 10},
    ):
        with pytest.raises(Exception, match=r"^[A-Z][^\n]*\.$"):
            client.predict(**bad, **given)
