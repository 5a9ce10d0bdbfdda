"""A saved PNG carries everything needed to make its picture again; links and foreign PNGs as much as they can."""

import base64
import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.tiny_control import write_tiny_control
from tests.tiny_translate import write_translator
from yoso_core.conditioning import find_control
from yoso_core.engine import Engine, Result
from yoso_core.files.metadata import (
    PARAMETERS_LIMIT,
    PNG_URL,
    from_json,
    parameters_text,
    png_info,
    read_parameters,
    read_request,
    request_of,
    save_png,
    to_json,
)
from yoso_core.requests import (
    DEFAULT_MODEL,
    PROMPT_LIMIT,
    SAMPLERS,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
)


def noise(width, height, mode="RGB", seed=0):
    channels = (3,) if mode == "RGB" else ()
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8))


def blob(width, height):
    """A mask of the left half, grey in places as people's masks are."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    mask.paste(140, (0, 0, width // 3, height // 3))
    return mask


def edit(width=100, height=70, **changes):
    control = ControlUse(picture=noise(width, height, seed=1), annotator="map", strength=0.8, fit="pad")
    given = {"strength": 0.7, "mask": blob(width, height), "control": control, "seed": 3}
    return EditRequest("a crown", picture=noise(width, height), **(given | changes))


def fake_result(request, size=64):
    return Result(request, [Image.new("RGB", (size, size))] * request.count, [request.seed], 1, {"total": 0.1})


def png_with(**chunks):
    info, file = PngInfo(), io.BytesIO()
    for name, text in chunks.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return Image.open(file)


@pytest.fixture(scope="module")
def control_engine(tiny_spec, tmp_path_factory):
    folder = write_tiny_control(tmp_path_factory.mktemp("controls") / "tiny")
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", controls={"tiny": find_control(str(folder), "")})


def test_a_png_makes_its_picture_again(engine, tmp_path):
    request = GenerateRequest("ein rotes Herz ♥, 3d", negative="blau", seed=7, count=2, guidance=1.5, steps=2)
    result = engine.run(request)
    save_png(result, 1, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as saved:
        again = read_request(saved)
        assert again.notes == ()
        assert again.request.seed == 8 and again.request.count == 1 and again.request.prompt == request.prompt
        assert np.array_equal(np.asarray(saved), np.asarray(engine.run(again.request).pictures[0]))


@pytest.mark.parametrize(
    ("width", "height", "changes"),
    [
        (100, 70, {}),
        (64, 64, {"fit": "pad", "steps": 2}),
        (700, 300, {}),
        (300, 701, {"fit": "pad", "grow": 0.3}),
        (500, 200, {"fit": "fit", "grow": 0.1, "mask": None, "count": 2}),
    ],
)
def test_the_png_of_an_edit_makes_its_picture_again(control_engine, tmp_path, width, height, changes):
    """Pictures of whatever size: those far larger than what is made are stored as they were laid out for it."""
    request = edit(width, height, **changes)
    result = control_engine.run(request)
    index = request.count - 1
    save_png(result, index, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as saved:
        assert len(saved.text["yoso"]) < 250_000
        again, pixels = read_request(saved).request, np.asarray(saved)

    def made(request):
        return np.asarray(control_engine.run(request).pictures[0])

    assert isinstance(again, EditRequest) and again.strength == 0.7
    assert np.array_equal(pixels, made(again))
    assert not np.array_equal(pixels, made(replace(again, control=None)))
    if request.mask:
        assert not np.array_equal(pixels, made(replace(again, mask=None)))


@pytest.mark.parametrize(
    ("width", "height", "changes"),
    [(100, 70, {}), (700, 300, {"fit": "pad", "strength": 0.5}), (300, 701, {"direction": "b2a", "strength": 0.3})],
)
def test_the_png_of_a_translation_makes_its_picture_again(tiny_spec, tmp_path, width, height, changes):
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", translators={})
    model = engine.load(DEFAULT_MODEL)
    engine.add_translator("x", write_translator(tmp_path / "x", model, ("a2b", "b2a"), input="lines"))
    request = TranslateRequest("a", seed=3, count=2, picture=noise(width, height), translator="x", **changes)
    result = engine.run(request)
    save_png(result, -1, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as saved:
        assert len(saved.text["yoso"]) < 60_000
        again, pixels = read_request(saved).request, np.asarray(saved)
    assert isinstance(again, TranslateRequest) and again.seed == result.seeds[-1]
    made = engine.run(again).pictures[0]  # of a large picture in the size that the network draws
    assert np.array_equal(pixels, made.resize(pixels.shape[1::-1], Image.Resampling.LANCZOS))
    assert f"Translator: x{' b2a' * ('direction' in changes)}, Translation strength" in parameters_text(result, 0)


def test_pictures_that_are_not_far_too_large_keep_their_shape():
    kept = request_of(fake_result(edit(128, 90)), 0)
    assert kept.picture.size == kept.mask.size == kept.control.picture.size == (128, 90)
    laid_out = request_of(fake_result(edit(129, 90)), 0)
    assert laid_out.picture.size == laid_out.mask.size == laid_out.control.picture.size == (64, 64)


def test_json_holds_every_field():
    loras = (LoraUse("a", 0.5), LoraUse("b", -1))
    control = ControlUse(
        picture=noise(9, 7),
        annotator="depth",
        strength=1.5,
        start=0.1,
        end=0.9,
        low=50,
        high=90,
        network="x",
        fit="pad",
    )
    common = {"negative": "n", "seed": 2**32 - 1, "steps": 4, "guidance": 1.35, "count": 3, "model": "m", "size": 512}
    common |= {"loras": loras, "one_step": 0.5, "control": control}
    for request in (
        GenerateRequest("p", **common | {"sampler": "ddim", "steps": 25}),
        TranslateRequest(
            "p",
            **common | {"steps": 1, "guidance": 1, "control": None},
            picture=noise(9, 7),
            translator="t",
            direction="b2a",
            strength=0.3,
            annotator="map",
            low=50,
            high=90,
            fit="pad",
        ),
        edit(9, 7, **common, feather=0.1, grow=0.2, fit="fit"),
    ):
        values = json.loads(json.dumps(to_json(request)))
        again = from_json(values)
        assert type(again) is type(request) and to_json(again) == to_json(request) == values
        assert again.control is None or np.array_equal(np.asarray(again.control.picture), np.asarray(control.picture))
    assert again.mask.mode == "L" and np.array_equal(np.asarray(again.mask), np.asarray(blob(9, 7)))
    assert np.array_equal(np.asarray(again.picture), np.asarray(noise(9, 7)))


def test_a_picture_that_many_requests_have_is_written_once(monkeypatch):
    saved, save = [], Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, *given, **more: saved.append(1) or save(self, *given, **more))
    picture = Image.effect_noise((24, 16), 40).convert("RGB")
    told = [to_json(EditRequest("a", picture=picture.copy(), strength=strength)) for strength in (0.1, 0.2, 0.3)]
    assert len(saved) == 1 and len({one["picture"] for one in told}) == 1
    assert from_json(told[0]).picture == picture


def test_pngs_of_the_first_version_are_read():
    chunk = (
        '{"prompt": "a", "negative": "", "seed": 5, "steps": 2, "guidance": 1.5, "count": 1, "model": "yoso-emoji", '
    )
    chunk += '"size": null, "loras": [{"name": "x", "weight": 0.5}]}'
    wanted = GenerateRequest("a", seed=5, steps=2, guidance=1.5, loras=(LoraUse("x", 0.5),))
    assert read_request(png_with(yoso=chunk, parameters="something else")).request == wanted


def png_url(picture, format="PNG"):
    file = io.BytesIO()
    picture.save(file, format)
    return PNG_URL + base64.b64encode(file.getvalue()).decode()


SMALL = png_url(Image.new("RGB", (4, 4)))
BOMB = png_url(Image.new("1", (6000, 6000)))


@pytest.mark.parametrize(
    "values",
    [
        [],
        None,
        "a",
        {},
        {"prompt": 3},
        {"prompt": "a", "os": 1},
        {"prompt": "a", "seed": -2},
        {"prompt": "a", "seed": float("nan")},
        {"prompt": "a", "steps": [1]},
        {"prompt": "a", "sampler": ["ddim"]},
        {"prompt": "a", "sampler": "dpm++"},
        {"prompt": "a", "size": {}},
        {"prompt": "a", "model": None},
        {"prompt": "a", "kind": "video"},
        {"prompt": "a", "kind": ["edit"]},
        {"prompt": "a", "kind": "generate", "picture": SMALL},
        {"prompt": "a", "loras": None},
        {"prompt": "a", "loras": {"name": "x"}},
        {"prompt": "a", "loras": ["x"]},
        {"prompt": "a", "loras": [{"weight": 1}]},
        {"prompt": "a", "loras": [{"name": "x", "path": "/etc"}]},
        {"prompt": "a", "loras": [{"name": str(index)} for index in range(100_000)]},
        {"prompt": "a", "control": []},
        {"prompt": "a", "control": {"annotator": "canny"}},
        {"prompt": "a", "control": {"picture": SMALL, "network": 3}},
        {"prompt": "a", "control": {"picture": SMALL, "kind": "edit"}},
        {"prompt": "a", "kind": "edit"},
        {"prompt": "a", "kind": "edit", "picture": None},
        {"prompt": "a", "kind": "edit", "picture": "/etc/passwd"},
        {"prompt": "a", "kind": "edit", "picture": "https://example.com/a.png"},
        {"prompt": "a", "kind": "edit", "picture": PNG_URL},
        {"prompt": "a", "kind": "edit", "picture": PNG_URL + "%%%%"},
        {"prompt": "a", "kind": "edit", "picture": PNG_URL + "ü"},
        {"prompt": "a", "kind": "edit", "picture": SMALL[:80]},
        {"prompt": "a", "kind": "edit", "picture": BOMB},
        {"prompt": "a", "kind": "edit", "picture": SMALL, "mask": "white"},
        {"prompt": "a", "kind": "edit", "picture": SMALL, "mask": png_url(Image.new("L", (4, 5)))},
        {"prompt": "a", "kind": "edit", "picture": SMALL, "sampler": "ddim", "steps": 1},
        {"prompt": "a", "kind": "translate", "picture": SMALL},
        {"prompt": "a", "kind": "translate", "picture": SMALL, "translator": 3},
        {"prompt": "a", "kind": "translate", "picture": SMALL, "translator": "x", "steps": 2},
        {"prompt": "a", "kind": "translate", "picture": SMALL, "translator": "x", "mask": SMALL},
    ],
    ids=lambda values: repr(values)[:80],
)
def test_invalid_settings_are_one_sentence(values):
    with pytest.raises(RequestError) as caught:
        from_json(values)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 250


def test_more_text_than_any_request_takes_is_refused_unread(monkeypatch):
    chunk = json.dumps(to_json(edit(8, 8)))
    from_json(json.loads(chunk))
    with monkeypatch.context() as patch:
        patch.setattr("yoso_core.files.metadata.PICTURE_LIMIT", 100)
        with pytest.raises(RequestError, match="picture"):
            from_json(json.loads(chunk))
    monkeypatch.setattr("yoso_core.files.metadata.JSON_LIMIT", len(chunk) - 1)
    with pytest.raises(RequestError, match="characters"):
        read_request(png_with(yoso=chunk))


@pytest.mark.parametrize("chunk", ["{", "[]", '{"prompt": "a", "seed": ' + "9" * 5000 + "}", "[" * 100_000, ""])
def test_broken_pngs_are_one_sentence(chunk):
    with pytest.raises(RequestError) as caught:
        read_request(png_with(yoso=chunk))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_png_without_settings_is_one_sentence():
    for picture in (png_with(), png_with(workflow="{}"), Image.new("RGB", (8, 8))):
        with pytest.raises(RequestError, match="no settings"):
            read_request(picture)


def test_parameters_are_what_other_tools_read(engine):
    text = parameters_text(engine.run(GenerateRequest("a red heart", negative="blue", seed=7)), 0)
    prompt, negative, settings = text.splitlines()
    assert prompt == "a red heart" and negative == "Negative prompt: blue"
    assert (
        settings
        == "Steps: 1, Sampler: LCM, CFG scale: 1, Seed: 7, Size: 64x64, Model: yoso-emoji, Runtime: torch float32"
    )


def test_parameters_tell_of_edits_weights_and_controls():
    control = ControlUse(picture=noise(8, 8), annotator="canny", strength=0.75, end=0.5, network="emoji")
    text = parameters_text(fake_result(edit(one_step=0.5, control=control, model="a, b")), 0)
    assert 'Model: "a, b", Denoising strength: 0.7, One-step weight: 0.5, ControlNet 0: "Module: canny, ' in text
    assert text.endswith('Model: emoji, Weight: 0.75, Guidance Start: 0, Guidance End: 0.5"')
    teacher = GenerateRequest("a", sampler="ddim", steps=25, one_step=0)
    assert "Steps: 25, Sampler: DDIM" in parameters_text(fake_result(teacher), 0)


def test_our_own_parameters_are_read_like_any():
    request = GenerateRequest("a cat,\nflat", "red,\nblue", 9, 4, 1.35, loras=(LoraUse("x", 0.5), LoraUse("y")))
    restored = read_parameters(parameters_text(fake_result(request), 0), loras=("x", "y"))
    assert restored.request == replace(request, sampler="lcm")
    assert restored.notes == ("not taken over: Size 64x64, Model yoso-emoji",)
    request = replace(request, sampler="dpm++")
    assert read_parameters(parameters_text(fake_result(request), 0), loras=("x", "y")).request == request


@pytest.mark.parametrize(
    ("named", "sampler"),
    [
        ("Sampler: DPM++ 2M", "dpm++"),
        ("Sampler: DPM++ 2M Karras", "dpm++"),
        ("Sampler: DPM++ 2M, Schedule type: Karras", "dpm++"),
        ("Sampler: dpmpp_2m", "dpm++"),
        ("Sampler: DDIM", "ddim"),
        ("Sampler: LCM", "lcm"),
        ("Sampler: DPM++ 2M SDE", None),
        ("Sampler: DPM++ 3M", None),
        ("Sampler: Euler a", None),
    ],
)
def test_samplers_of_other_programs_are_ours_where_they_are_the_same(named, sampler):
    for steps in (1, 4):
        restored = read_parameters(f"a cat\nSteps: {steps}, {named}, CFG scale: 1, Seed: 3")
        taken = sampler if steps > 1 or sampler == "lcm" else None
        assert restored.request == GenerateRequest("a cat", seed=3, steps=steps, sampler=taken)
        assert any("Sampler" in note for note in restored.notes) == (taken is None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sampler_comes_back_from_a_png(sampler):
    for request in (
        GenerateRequest("a", seed=2, steps=4, sampler=sampler),
        edit(9, 7, steps=2, sampler=sampler),
    ):
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "PNG", pnginfo=png_info(fake_result(request), 0))
        file.seek(0)
        restored = read_request(file).request
        assert (restored.sampler, restored.steps) == (sampler, request.steps)


def test_pictures_that_call_the_sampler_of_one_step_models_otherwise_are_read():
    assert from_json({"prompt": "a", "steps": 2, "sampler": "consistency"}) == GenerateRequest(
        "a", steps=2, sampler="lcm"
    )


WEBUI = """photo of a cozy cabin in the woods, <lora:snow_v2:0.6>, (night:1.2),
two lines <lora:eyes:0.4:0.8> <hypernet:fur:1> <lora:strong:3>
Negative prompt: (worst quality:1.4), cartoon,
text: none
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.53, Seed: 777, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned, Denoising strength: 0.45, \
ADetailer prompt: "a face, \\"Seed: 5\\", smile", \
ControlNet 0: "Module: canny, Model: control_v11p [d14c016b], Weight: 0.8", \
Lora hashes: "snow_v2: 1a2b", Version: v1.9.4

Template: photo of {a cabin|a hut}"""


def test_parameters_of_another_tool():
    restored = read_request(png_with(parameters=WEBUI), loras=("snow_v2", "strong", "fur"))
    assert restored.request == GenerateRequest(
        "photo of a cozy cabin in the woods, (night:1.2),\ntwo lines",
        negative="(worst quality:1.4), cartoon,\ntext: none",
        seed=777,
        loras=(LoraUse("snow_v2", 0.6), LoraUse("strong", 2.0)),
    )
    without, strong, steps, negative, left = restored.notes
    assert without == "without the LoRAs eyes, fur" and strong == "LoRA strong at 3: set to 2"
    assert steps == "25 steps at guidance 6.53: set to 1 step at guidance 1, as a one-step model stands"
    assert negative == "the negative prompt acts above guidance 1 alone"
    assert left.startswith("not taken over: Sampler DPM++ 2M, Schedule type Karras, Size 512x768, Model v1-5-pruned,")
    assert 'ADetailer prompt a face, "Seed: 5", smile' in left and "ControlNet 0" in left
    assert "hash" not in left and "Version" not in left


@pytest.mark.parametrize(
    ("text", "wanted", "notes"),
    [
        ("a cat\nSteps: 4, Seed: 3", GenerateRequest("a cat", seed=3, steps=4), 0),
        ("\nNegative prompt: b\nSteps: 1, Seed: 3, CFG scale: 1", GenerateRequest("", "b", seed=3), 1),
        ("a\r\nNegative prompt: b\r\nSteps: 1, Seed: 3", GenerateRequest("a", "b", seed=3), 1),
        ("a\nSize: 64x64, Seed: 18446744073709551615, Steps: 1", GenerateRequest("a", seed=2**32 - 1), 2),
        ("a\nSteps: 1, Seed: -1, CFG scale: 30", GenerateRequest("a", seed=2**32 - 1, guidance=1.5), 2),
        ("a\nSteps: 1, Seed: x, CFG scale: nan", GenerateRequest("a"), 2),
        ("a\nSteps: 1e999, Seed: 1, CFG scale: 0.2", GenerateRequest("a", seed=1), 1),
        ("a\nSteps: 4, Seed: 1, CFG scale: 7", GenerateRequest("a", seed=1, steps=4, guidance=1.5), 1),
        ("a\nSteps: 20, Seed: 1, CFG scale: 7", GenerateRequest("a", seed=1), 1),
        ("a\nSteps: 3, Seed: 1", GenerateRequest("a", seed=1), 1),
        ("Steps: 1, Seed: 2, x\nSteps: 1, Seed: 3", GenerateRequest("Steps: 1, Seed: 2, x", seed=3), 0),
        ("only words, Seed: 3 of them", GenerateRequest("only words, Seed: 3 of them"), 1),
        ("<lora:x:1>, a <lora:x:2>, b<lora:x>\nSteps: 1, Seed: 1", GenerateRequest("a, b", seed=1), 1),
        ("w" * 3000 + "\nSteps: 1, Seed: 1", GenerateRequest("w" * PROMPT_LIMIT, seed=1), 1),
    ],
    ids=range(14),
)
def test_parameters_in_every_shape(text, wanted, notes):
    restored = read_parameters(text)
    assert restored.request == wanted and len(restored.notes) == notes, restored.notes


def test_lora_tags_of_every_kind():
    text = "a <lora:x:0.5,0,1> <lora:y> <lora:z:> <lora:v:lbw=1> <lora:x:2> <lora:w:-3> <lora:6:1>\nSteps: 1, Seed: 1"
    restored = read_parameters(text, loras="xyzvw6")
    uses = (LoraUse("x", 0.5), LoraUse("y"), LoraUse("z"), LoraUse("v"), LoraUse("w", -1))
    assert restored.request.loras == uses and restored.request.prompt == "a"
    odd = "LoRA v without a weight that can be read: set to 1"
    assert restored.notes == ("without the LoRAs 6", odd, "LoRA w at -3: set to -1")


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        " ",
        ",",
        "\n",
        "a:",
        'a: "',
        '"',
        "<lora:",
        "<lora:a:1>",
        "<lora:a\n>",
        ", <lora:a:1>",
        'a: "\\',
        "Steps: 1, ",
    ],
)
def test_hostile_parameters_are_read_in_no_time(piece):
    started = time.process_time()
    text = (piece * PARAMETERS_LIMIT)[:PARAMETERS_LIMIT]
    restored = read_parameters(text)
    assert time.process_time() - started < 2
    assert sum(map(len, restored.notes)) < 2000 and not any("\n" in note for note in restored.notes)
    with pytest.raises(RequestError, match="characters"):
        read_parameters(text + "a")
    with pytest.raises(RequestError, match="no text"):
        read_parameters("a\0")


def test_what_other_programs_read_has_its_choices_made():
    result = fake_result(GenerateRequest("a {red|blue} cat", "{x|y}", seed=3))
    prompt, negative, _ = parameters_text(result, 0).splitlines()
    assert prompt in ("a red cat", "a blue cat") and negative in ("Negative prompt: x", "Negative prompt: y")
    assert to_json(request_of(result, 0))["prompt"] == "a {red|blue} cat"
