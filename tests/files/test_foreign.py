"""Settings of other programs: what is taken of pictures that they wrote, and what is told of the rest."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from yoso_core.files.foreign import Found, exif_texts, from_novelai, read_foreign, read_lines
from yoso_core.files.metadata import read_request
from yoso_core.prompts import read_prompt
from yoso_core.requests import GenerateRequest, LoraUse, RequestError

WEBUI = "a cat, (red:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"
DOWN = "20 steps at guidance 7: set to 1 step at guidance 1, as a one-step model stands"
LORAS = ["folder-snow", "upload-0123456789abcdef-add-detail"]


def png(**texts):
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name.replace("_dot_", "."), text if isinstance(text, str) else json.dumps(text))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    file.seek(0)
    return file


def with_exif(kind, tags, own=()):
    """A JPEG or WebP with EXIF tags; `own` are those that belong into the part of their own."""
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    for tag, value in dict(own).items():
        exif.get_ifd(0x8769)[tag] = value
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif.tobytes())
    file.seek(0)
    return file


def read(file, loras=LORAS):
    return read_request(file, loras=loras)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le", "ascii", "bare"])
@pytest.mark.parametrize("place", ["own", "first"])
def test_a1111_writes_exif_into_all_but_png(kind, order, place):
    text = WEBUI if order == "ascii" else WEBUI.replace("cat", "cat é 猫")
    if order == "ascii":
        comment = b"ASCII\0\0\0" + text.encode()
    else:
        comment = text.encode() if order == "bare" else b"UNICODE\0" + text.encode(order)
    tags = {0x9286: comment}
    restored = read(with_exif(kind, {} if place == "own" else tags, tags if place == "own" else {}))
    assert restored.request.prompt == text.splitlines()[0] and restored.request.negative == "blurry"
    assert (restored.request.seed, restored.request.steps, restored.request.guidance) == (5, 1, None)
    assert restored.notes[0] == DOWN and restored.notes[-1] == "not taken over: Sampler Euler a, Size 512x512"


def test_a_jpeg_comment_is_read():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", comment=WEBUI.encode())
    assert read(file).request.prompt == "a cat, (red:1.2)"


SWARM = {
    "sui_image_params": {
        "prompt": "a [photo] of {a} cat, <lora:snow:0.5>",
        "negativeprompt": "dog",
        "model": "OfficialStableDiffusion/sd_xl_base_1.0",
        "seed": 77,
        "steps": 20,
        "cfgscale": 7.0,
        "aspectratio": "1:1",
        "width": 1024,
        "loras": ["styles/Add_Detail"],
        "loraweights": ["0.7"],
        "swarm_version": "0.9.6.0",
    },
    "sui_extra_data": {"date": "2026-01-01"},
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_swarmui(kind):
    text = json.dumps(SWARM, indent=2)
    file = (
        png(parameters=text)
        if kind == "PNG"
        else with_exif(kind, {}, {0x9286: b"UNICODE\0" + text.encode("utf-16-le")})
    )
    restored = read(file)
    loras = (LoraUse("folder-snow", 0.5), LoraUse("upload-0123456789abcdef-add-detail", 0.7))
    assert restored.request == GenerateRequest("a [photo] of {a} cat", "dog", seed=77, loras=loras)
    assert restored.notes[:2] == ("made by SwarmUI", DOWN)
    assert "model OfficialStableDiffusion/sd_xl_base_1.0" in restored.notes[-1] and "{" not in restored.notes[-1]


FOOOCUS = {
    "base_model": "juggernautXL_v8",
    "full_prompt": ["a cat", "cinematic"],
    "guidance_scale": 7.0,
    "loras": [["snow", 0.1, "hash"], ["other", 1.0, "hash"]],
    "metadata_scheme": "fooocus",
    "negative_prompt": "blurry",
    "performance": "Speed",
    "prompt": "a cat",
    "resolution": "(896, 1152)",
    "seed": "123456789012",
    "steps": 20,
    "styles": "['Fooocus V2']",
    "version": "Fooocus v2.5.5",
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_fooocus(kind):
    text = json.dumps(FOOOCUS)
    if kind == "PNG":
        file = png(parameters=text, fooocus_scheme="fooocus")
    else:
        file = with_exif(kind, {0x9286: text, 0x927C: "fooocus", 0x0131: "Fooocus v2.5.5"})
    restored = read(file)
    assert restored.request == GenerateRequest(
        "a cat", "blurry", seed=123456789012 % 2**32, loras=(LoraUse("folder-snow", 0.1),)
    )
    assert restored.notes[:3] == ("made by Fooocus v2.5.5", "without the LoRAs other", DOWN)
    assert "performance Speed" in restored.notes[-1]
    a1111 = read(png(parameters=WEBUI, fooocus_scheme="a1111"))
    assert a1111.request.prompt == "a cat, (red:1.2)"


INVOKE = {
    "app_version": "4.2.9",
    "generation_mode": "txt2img",
    "positive_prompt": "a cat",
    "negative_prompt": "blurry",
    "seed": 12,
    "steps": 20,
    "cfg_scale": 7,
    "scheduler": "euler",
    "model": {"key": "x", "name": "Dreamshaper 8"},
    "loras": [{"model": {"key": "y", "name": "snow"}, "weight": 0.75}, {"lora": {"model_name": "far"}, "weight": 1}],
}


def test_invokeai_of_every_age():
    restored = read(png(invokeai_metadata=INVOKE, invokeai_graph="{}"))
    assert restored.request == GenerateRequest("a cat", "blurry", seed=12, loras=(LoraUse("folder-snow", 0.75),))
    assert restored.notes[:3] == ("made by InvokeAI", "without the LoRAs far", DOWN)
    image = {"prompt": [{"prompt": "a cat [blurry]", "weight": 1}], "seed": 12, "steps": 20, "cfg_scale": 7}
    old = read(png(**{"sd-metadata": {"app_version": "2.3", "image": image}}))
    assert old.request == GenerateRequest("a cat", "blurry", seed=12) and DOWN in old.notes
    dream = read(png(Dream='"a \\"cat\\" [blurry]" -s 20 -S 12 -W 512 -H 512 -C 7 -A k_lms'))
    assert dream.request == GenerateRequest('a "cat"', "blurry", seed=12)
    assert dream.notes[-1] == "not taken over: width 512, height 512, sampler k_lms"


COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 9, "steps": 20, "cfg": 7, "positive": ["11", 0], "negative": ["7", 0], "model": ["10", 0]},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "snow.safetensors", "strength_model": 0.8}},
    "11": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1}},
    "12": {"class_type": "PrimitiveString", "inputs": {"value": "a cat (red:1.2)"}},
}


@pytest.mark.parametrize("place", ["PNG", "WEBP", "none"])
def test_comfyui_is_named_and_its_prompt_found(place):
    graph = json.dumps(COMFY)[:-1] + ', "99": {"class_type": "X", "inputs": {"is_changed": NaN}}}'
    drawn = {"nodes": [{"type": "CLIPTextEncode", "widgets_values": ["a cat (red:1.2)"]}]}
    if place == "PNG":
        file = png(prompt=graph, workflow=drawn)
    elif place == "WEBP":
        file = with_exif("WEBP", {0x010F: "workflow:" + json.dumps(drawn), 0x0110: "prompt:" + graph})
    else:
        restored = read(png(workflow=drawn))
        assert restored.request.prompt == "a cat (red:1.2)" and "no seed in it" in restored.notes[1]
        return
    restored = read(file)
    assert restored.request == GenerateRequest(
        "a cat (red:1.2)", "blurry", seed=9, loras=(LoraUse("folder-snow", 0.8),)
    )
    told = "made by ComfyUI: its graph is not read here, but for its prompt, seed, steps and guidance"
    assert restored.notes[:2] == (told, DOWN)


def test_a_graph_without_words_or_with_circles_is_told():
    circle = {"1": {"class_type": "K", "inputs": {"seed": 1, "positive": ["2", 0]}}, "2": {"inputs": {"a": ["2", 0]}}}
    for texts in ({"prompt": circle}, {"workflow": {"nodes": []}}):
        with pytest.raises(RequestError, match="made by ComfyUI, and no prompt was found"):
            read(png(**texts))
    assert read(png(prompt=circle, parameters=WEBUI)).request.seed == 5  # some write both


NOVEL = {"prompt": "{cat}, (alone), [dog]", "steps": 20, "scale": 7.0, "seed": 4, "uc": "lowres", "sampler": "k_euler"}


def test_novelai():
    file = png(Software="NovelAI", Description="{cat}", Source="Stable Diffusion", Comment=NOVEL)
    restored = read(file)
    assert restored.request.prompt == r"(cat:1.05), \(alone\), (dog:0.9524)" and restored.request.negative == "lowres"
    assert restored.request.seed == 4 and restored.notes[:2] == ("made by NovelAI", DOWN)
    assert not read_prompt(restored.request.prompt).notes
    caption = {"base_caption": "1.5::cat::, winter", "char_captions": [{"char_caption": "girl"}]}
    four = NOVEL | {"v4_prompt": {"caption": caption}, "v4_negative_prompt": {"caption": {"base_caption": "bad"}}}
    restored = read(png(Software="NovelAI", Comment=four))
    assert restored.request.prompt == "(cat:1.5), winter, girl" and restored.request.negative == "bad"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("{{cat}}", "((cat:1.05):1.05)"), ("-1.2::cat::", "(cat:-1.2)"), ("0.5::cat", "(cat:0.5)"), ("{cat", "cat")],
)
def test_weights_of_novelai(text, wanted):
    assert from_novelai(text) == wanted


def test_programs_with_names_of_their_own():
    easy = read(png(prompt="a cat", negative_prompt="b", seed="3", num_inference_steps="20", guidance_scale="7"))
    assert easy.request == GenerateRequest("a cat", "b", seed=3) and easy.notes[:2] == ("made by Easy Diffusion", DOWN)
    comment = b'ASCII\0\0\0{"c":"a cat","uc":"b","seed":3,"steps":20,"scale":7}'
    things = read(with_exif("JPEG", {}, {0x9286: comment}))
    assert things.request == GenerateRequest("a cat", "b", seed=3) and things.notes[:2] == ("made by Draw Things", DOWN)
    mochi = "Include in Image: a cat; red; Exclude from Image: b; Model: x; Steps: 20; Guidance Scale: 7; Seed: 3"
    mochi = read(with_exif("JPEG", {0x010E: mochi}))
    assert mochi.request == GenerateRequest("a cat; red", "b", seed=3) and mochi.notes[0] == "made by Mochi Diffusion"
    journey = read(png(Description="a cat --ar 3:2 --v 6 Job ID: 1234"))
    assert journey.request.prompt == "a cat" and journey.notes[0] == "made by Midjourney"
    krita = read(png(parameters=WEBUI.replace("Size", "Version: krita, Size")))
    assert krita.request.prompt == "a cat, (red:1.2)"
    other = read(
        png(parameters={"Prompt": "a cat", "Negative": "b", "cfg": 7, "steps": 20, "software": "RuinedFooocus"})
    )
    assert other.request.prompt == "a cat" and other.notes[:2] == ("made by RuinedFooocus", DOWN)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (lambda: png(), "no settings in it; please"),
        (lambda: png(Software="Krita\n5"), "no settings in it that can be read (it was saved by Krita 5)"),
        (lambda: png(parameters={"width": 3, "app": "X"}), "made by X, and no prompt was found"),
        (lambda: with_exif("JPEG", {0x010E: "OLYMPUS DIGITAL CAMERA", 0x010F: "OLYMPUS"}), "no settings in it"),
        (lambda: io.BytesIO(b"no picture"), "This is no PNG"),
    ],
)
def test_what_can_not_be_read_is_one_sentence(file, told):
    with pytest.raises(RequestError) as caught:
        read(file())
    assert told in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


KEYS = ["parameters", "prompt", "workflow", "Comment", "Software", "Description", "invokeai_metadata", "sd-metadata"]
KEYS += ["Dream", "UserComment", "xmp", "ImageDescription", "fooocus_scheme", "num_inference_steps"]
NAMES = ["prompt", "seed", "steps", "cfg", "uc", "c", "loras", "image", "inputs", "positive", "class_type", "nodes"]
NAMES += ["sui_image_params", "v4_prompt", "caption", "base_model", "positive_prompt", "lora_combined_1", "text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["1", "{", "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
LINES = st.lists(
    st.sampled_from(["a", " ", ",", "\n", ":", '"', "Steps: 4, ", "Seed: 3, ", "Negative prompt:", "<lora:a:1>"])
)
TEXTS = st.text(max_size=30) | LINES.map("".join) | JSON.map(json.dumps)


@given(st.dictionaries(st.sampled_from(KEYS), TEXTS, max_size=4))
def test_any_texts_are_settings_or_one_sentence(texts):
    try:
        found = read_foreign(texts)
    except RequestError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 400
        return
    assert isinstance(found, Found) and isinstance(found.prompt, str) and isinstance(found.negative, str)
    assert all(isinstance(value, str) for value in found.rest.values())


@given(st.dictionaries(st.sampled_from(KEYS), TEXTS, max_size=3))
def test_what_is_read_can_be_asked(texts):
    try:
        restored = read(png(**{name: text.replace("\0", "") for name, text in texts.items()}))
    except (RequestError, UnicodeEncodeError):
        return
    assert isinstance(restored.request, GenerateRequest)
    assert (restored.request.guidance or 1) <= 1.5 and restored.request.steps in (1, 2, 4)
    assert not any("\n" in note for note in restored.notes) and sum(map(len, restored.notes)) < 4000


@given(LINES.map("".join))
def test_lines_of_a1111_come_back(text):
    found = read_lines(text)
    assert len(found.prompt) + len(found.negative) <= len(text)


@given(st.binary(max_size=80))
def test_any_user_comment_is_text(data):
    assert all(isinstance(text, str) for text in exif_texts(Image.open(with_exif("JPEG", {}, {0x9286: data}))).values())
