"""Translation: what strength means, that nothing is left behind, and that broken translators are refused."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny_translate import write_translator
from yoso_core import translate
from yoso_core.autoencoder import to_tensor
from yoso_core.checkpoints import ModelError
from yoso_core.condition import Condition
from yoso_core.engine import Engine
from yoso_core.lora import reading
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
)
from yoso_core.translate import (
    CONFIG_LIMIT,
    SKIP_START,
    Direction,
    Skips,
    TranslatorSpec,
    check_spec,
    find_translators,
    input_tensor,
    load_translator,
    read_translator,
)

PICTURE = Image.merge("RGB", [Image.radial_gradient("L"), Image.linear_gradient("L"), Image.new("L", (256, 256), 90)])
OTHER = PICTURE.rotate(90)


@pytest.fixture(scope="module")
def model(tiny_spec):
    """To be looked at and written for, not changed."""
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", translators={}).load(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def specs(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("translators")
    return {
        "one": write_translator(folder / "one", model),
        "both": write_translator(folder / "both", model, ("a2b", "b2a"), seed=1),
        "lines": write_translator(folder / "lines", model, input="lines", seed=2),
    }


@pytest.fixture
def engine(tiny_spec, specs):
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", translators=specs)


@pytest.fixture
def folder(specs, tmp_path):
    """A copy of a translator, to be broken."""
    return shutil.copytree(specs["one"].folder, tmp_path / "copy")


def ask(prompt="a red heart", **settings):
    return TranslateRequest(prompt, **{"picture": PICTURE, "translator": "one", "fit": "crop"} | settings)


def drawn(engine, request):
    """The pixels of each picture, as numbers."""
    return [np.asarray(picture).astype(int) for picture in engine.run(request).pictures]


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


# Strength


@pytest.mark.parametrize("name", ["one", "both", "lines"])
def test_strength_0_is_the_model_that_makes_pictures_from_words(engine, specs, name):
    prompt = specs[name].directions["a2b"].prompt or "a red heart"
    (made,) = drawn(engine, ask(translator=name, strength=0.0, seed=7))
    (wanted,) = drawn(engine, GenerateRequest(prompt, seed=7))
    assert np.abs(made - wanted).max() <= 1
    (other,) = drawn(engine, GenerateRequest(prompt, seed=8))
    assert np.abs(made - other).mean() > 1


def test_only_below_strength_1_a_seed_acts(engine):
    one, other = (drawn(engine, ask(seed=seed)) for seed in (1, 2))
    assert same(one, other)
    one, other = (drawn(engine, ask(seed=seed, strength=0.6)) for seed in (1, 2))
    assert not same(one, other)


def test_strength_1_draws_one_picture_and_says_why(engine):
    result = engine.run(ask(count=3))
    assert len(result.pictures) == len(result.seeds) == 1 and "one answer" in " ".join(result.notes)
    result = engine.run(ask(count=3, strength=0.9, seed=4))
    assert len(result.pictures) == 3 and result.seeds == [4, 5, 6] and not result.notes


@pytest.mark.parametrize("change", [{"picture": OTHER}, {"prompt": "a dog"}, {"strength": 0.5}, {"translator": "both"}])
def test_every_setting_acts(engine, change):
    assert not same(drawn(engine, ask()), drawn(engine, ask(**change)))


def test_directions_differ_and_a_fixed_prompt_takes_the_place_of_people_s(engine):
    there, back = (drawn(engine, ask(translator="both", direction=name)) for name in ("a2b", "b2a"))
    assert not same(there, back)
    assert same(there, drawn(engine, ask(translator="both")))
    result = engine.run(ask("something else", translator="both", direction="a2b"))
    assert same(there, [np.asarray(result.pictures[0])])
    assert result.notes == ("“Way a2b” always reads the prompt “a2b”; yours was not used.",)
    for prompt in ("", "a2b"):
        assert not engine.run(ask(prompt, translator="both")).notes


def test_the_result_tells_what_was_done(engine):
    result = engine.run(ask(picture=PICTURE.resize((128, 64)), translator="lines"))
    assert result.evaluations == 1 and result.before.size == result.control_map.size == (64, 64)
    assert "crop" in " ".join(result.notes) or "square" in " ".join(result.notes)
    assert engine.run(ask()).control_map is None


@pytest.mark.parametrize("translator", ["one", "lines"])
@pytest.mark.parametrize("width, height", [(300, 100), (50, 133), (64, 64), (1, 1), (1500, 3), (100, 325), (4, 900)])
def test_a_picture_comes_back_in_its_own_size_and_shape(engine, translator, width, height):
    given = PICTURE.resize((width, height))
    result = engine.run(TranslateRequest("a red heart", picture=given, translator=translator))
    assert result.pictures[0].size == (width, height)
    drawn = result.before.size
    assert not any(side % 8 for side in drawn) and max(drawn) <= 4 * 64
    assert (f"{width} x {height}: drawn at {drawn[0]} x {drawn[1]}" in result.notes) == (drawn != (width, height))
    if max(width, height) < 4 * min(width, height):
        assert abs(np.log(drawn[0] / drawn[1] * height / width)) < 0.25 and abs(drawn[0] * drawn[1] / 64**2 - 1) < 0.25


def test_what_is_too_large_comes_back_smaller_and_says_so(engine):
    result = engine.run(ask(picture=PICTURE.resize((4096, 100)), fit="keep"))
    assert result.pictures[0].size == (2048, 50) and "given back at 2048 x 50" in result.notes[1]


def test_lines_are_inked_and_scaled_as_they_were_learned(specs):
    lines = Image.new("RGB", (8, 8))
    lines.paste((255, 255, 255), (2, 2, 4, 4))
    white = replace(specs["lines"], ink="white")
    assert torch.equal(input_tensor(lines, white), to_tensor(lines))
    assert torch.equal(input_tensor(lines, replace(white, ink="black")), -to_tensor(lines))
    assert torch.equal(input_tensor(lines, replace(white, black=0.0)), (to_tensor(lines) + 1) / 2)
    assert torch.equal(input_tensor(PICTURE, specs["one"]), to_tensor(PICTURE))  # no ink in pictures


# Nothing is left behind


def test_ordinary_pictures_stay_the_same(engine):
    requests = [GenerateRequest("a dog", seed=3), EditRequest("a dog", picture=OTHER, seed=3, strength=0.5)]
    before = [drawn(engine, request) for request in requests]
    for settings in ({}, {"strength": 0.3}, {"translator": "both", "direction": "b2a"}, {"translator": "lines"}):
        engine.run(ask(**settings))
        assert all(same(drawn(engine, request), wanted) for request, wanted in zip(requests, before, strict=True))


def test_weights_are_given_back_exactly(engine):
    model = engine.load(DEFAULT_MODEL)
    networks = (model.network, model.autoencoder, *model.encoders)
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in networks]
    engine.run(ask(strength=0.7))
    assert any(
        not torch.equal(value, old[key])
        for network, old in zip(networks, before, strict=True)
        for key, value in network.state_dict().items()
    )
    engine.run(GenerateRequest("a dog"))
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in network.state_dict().items())
    assert not model.autoencoder._forward_hooks and "forward" not in vars(model.autoencoder.encoder)


def test_order_and_threads_do_not_matter(engine):
    requests = [
        ask(),
        ask(strength=0.4, seed=3),
        ask(translator="both", direction="b2a"),
        GenerateRequest("a dog", seed=1),
        ask(translator="lines", strength=0.8),
        EditRequest("a dog", picture=OTHER),
    ]
    wanted = [drawn(engine, request) for request in requests]
    order = [0, 3, 2, 5, 1, 4, 1, 0, 5, 2, 4, 3]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda index: drawn(engine, requests[index]), order))
    assert all(same(one, wanted[index]) for one, index in zip(made, order, strict=True))


@torch.no_grad()
def test_a_translation_in_the_middle_of_another_changes_nothing(model, specs):
    """Features are handed on, not kept in the networks."""
    translate = load_translator(specs["one"], model).on(model, "a2b")
    pictures, others = torch.randn(2, 1, 3, 64, 64).unbind()
    condition = Condition(torch.randn(1, 5, model.network.config.cross_attention_dim))
    noise = torch.randn(1, model.channels, 8, 8)
    wanted, between = translate(pictures, condition), []

    def interrupt(module, inputs):
        if not between:
            between.append(None)
            between[0] = translate(others, condition, 0.5, noise)

    for place in (model.autoencoder.encoder.mid_block, model.network.mid_block, model.autoencoder.decoder.mid_block):
        between.clear()
        hook = place.register_forward_pre_hook(interrupt)
        made = translate(pictures, condition)
        hook.remove()
        assert torch.equal(made, wanted) and not torch.equal(between[0], wanted)


def test_a_prompt_is_encoded_once_whatever_translator_and_strength(engine):
    """No translator changes the text encoder, so no slider of one may cost encoding."""
    encoded = []
    engine.load(DEFAULT_MODEL).parts["text_encoder"].register_forward_hook(lambda *given: encoded.append(1))
    for strength in (1.0, 0.7, 0.4):
        engine.run(ask(strength=strength))
    engine.run(GenerateRequest(ask().prompt))
    engine.remove_translator("one")
    engine.run(GenerateRequest(ask().prompt))
    assert len(encoded) == 1


def test_a_refused_translator_changes_nothing(engine, folder):
    before = drawn(engine, GenerateRequest("a dog"))
    (folder / "a2b.safetensors").unlink()
    engine.add_translator("broken", read_translator(folder))
    with pytest.raises(RequestError, match="a2b"):
        engine.run(ask(translator="broken"))
    with pytest.raises(RequestError, match="no direction 'up'"):
        engine.run(ask(direction="up"))
    assert same(drawn(engine, GenerateRequest("a dog")), before)


def test_loras_act_beside_a_translator(engine, tiny_lora):
    engine.add_lora("waves", tiny_lora.path)
    assert not same(drawn(engine, ask()), drawn(engine, ask(loras=(LoraUse("waves", 1.5),))))


def test_a_lora_file_can_t_touch_the_autoencoder(engine, specs, tmp_path):
    save_file(
        {key: value for key, value in load_file(specs["one"].folder / "a2b.safetensors").items() if "lora" in key},
        tmp_path / "vae.safetensors",
    )
    engine.add_lora("vae", tmp_path / "vae.safetensors")
    with pytest.raises(RequestError, match="no place for 'vae"):
        engine.run(GenerateRequest("a", loras=(LoraUse("vae"),)))
    with pytest.raises(RequestError, match="no place for 'vae"):
        engine.run(ask(loras=(LoraUse("vae"),)))


# Skips


def test_skips_have_the_published_shapes():
    shapes = [tuple(weight.shape[:2]) for weight in Skips((128, 256, 512, 512)).weights]
    assert shapes == [(512, 512), (512, 256), (512, 128), (256, 128)]


def test_skips_begin_small_and_scale_with_strength():
    skips = Skips((4, 8))
    assert all((weight == SKIP_START).all() for weight in skips.weights)
    features = [torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)]
    whole, half = skips(features), skips(features, 0.5)
    assert [tuple(each.shape) for each in whole] == [(1, 8, 4, 4), (1, 8, 8, 8)]
    for one, other in zip(whole, half, strict=True):
        torch.testing.assert_close(other, 0.5 * one)
    skips.changes = [torch.ones_like(weight) for weight in skips.weights]
    for changed, feature in zip(skips(features, 0.5), reversed(features), strict=True):
        wanted = 0.5 * (SKIP_START + 0.5) * feature.sum(1, keepdim=True)  # of equal weights
        torch.testing.assert_close(changed, wanted.expand_as(changed))


# Configs of strangers

SOUND = {"title": "T", "family": "sd2", "directions": {"a2b": {"title": "There"}}}


@pytest.mark.parametrize(
    "change",
    [
        {"title": None},
        {"title": 3},
        {"title": ""},
        {"title": "a\nb"},
        {"title": "\u202eb"},
        {"title": "x" * 301},
        {"family": ["sd2"]},
        {"family": {}},
        {"licence": 1},
        {"input": "sound"},
        {"input": ["picture"]},
        {"ink": "red"},
        {"ink": {}},
        {"black": 0.5},
        {"black": "0"},
        {"black": True},
        {"black": False},
        {"black": float("nan")},
        {"directions": {}},
        {"directions": []},
        {"directions": "a2b"},
        {"directions": None},
        {"directions": {"a2b": "There"}},
        {"directions": {"a2b": ["title"]}},
        {"directions": {"a2b": {}}},
        {"directions": {"a2b": {"title": 1}}},
        {"directions": {"a2b": {"title": "There", "prompt": 1}}},
        {"directions": {"a2b": {"title": "There", "prompt": False}}},
        {"directions": {"a2b": {"title": "There", "prompt": ["a"]}}},
        {"directions": {"a2b": {"title": "There", "prompt": "x" * 301}}},
        {"directions": {f"d{index}": {"title": "There"} for index in range(9)}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_broken_configs_are_refused(tmp_path, change):
    refuse_config(tmp_path, json.dumps(SOUND | change))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "../x",
            "..\\x",
            "/etc/x",
            "a/b",
            "a\\b",
            "a.b",
            "a\0b",
            "a b",
            "a\nb",
            "a2b\n",
            "-a",
            "~",
            "C:x",
        ),
        *("unet", "x" * 41, "caf\u00e9", "\uff41"),
    ],
)
def test_a_direction_can_t_lead_elsewhere(tmp_path, name):
    refuse_config(tmp_path, json.dumps(SOUND | {"directions": {name: {"title": "There"}}}))
    with pytest.raises(ValueError, match="can't name a direction"):
        check_spec(TranslatorSpec("T", tmp_path, {name: Direction("There")}, "sd2"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "3", '"a"', "\0", "[" * 50_000, "1" * 5000),
        *(json.dumps({key: value for key, value in SOUND.items() if key != lacking}) for lacking in SOUND),
        "[" + json.dumps(SOUND) + " " * CONFIG_LIMIT + "]",
    ],
    ids=lambda text: text[:20],
)
def test_configs_that_are_none_are_refused(tmp_path, text):
    refuse_config(tmp_path, text)


def test_a_config_is_not_read_without_end(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SOUND) + " " * CONFIG_LIMIT + "nothing that is read")
    assert read_translator(tmp_path).title == "T"


def refuse_config(root, text):
    folder = root / "strange"
    folder.mkdir()
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match="holds no translator") as error:
        read_translator(folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 300
    assert find_translators(root).keys() == find_translators().keys()


def test_bytes_that_are_no_text_and_no_file_at_all(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError, match="holds no translator"):
            read_translator(folder)


def test_sound_configs_are_read(tmp_path):
    told = SOUND | {"black": 0, "input": "lines", "ink": "black", "licence": "mit", "more": [1]}
    told["directions"] = {"day-to_night2": {"title": "日から夜", "prompt": "at night"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    spec = read_translator(tmp_path)
    assert (spec.title, spec.black, spec.input, spec.ink, spec.licence) == ("T", 0, "lines", "black", "mit")
    assert spec.directions == {"day-to_night2": Direction("日から夜", "at night")}


def test_translators_are_found_in_folders(specs, tmp_path, monkeypatch):
    places = [("bundled", "x"), ("converted", "x"), ("converted", "y"), ("converted", ".z.partial"), ("more", "a")]
    for root, name in places:
        shutil.copytree(specs["one"].folder, tmp_path / root / name)
    (tmp_path / "converted" / "broken").mkdir()
    (tmp_path / "converted" / "broken" / "config.json").write_text("{")
    monkeypatch.setattr(translate, "HERE", (tmp_path / "bundled", tmp_path / "converted"))
    found = find_translators(tmp_path / "more", tmp_path / "missing")
    assert [(name, spec.folder.parent.name) for name, spec in found.items()] == [
        ("x", "bundled"),  # the first is the one that is chosen when the studio opens
        ("y", "converted"),
        ("a", "more"),
    ]
    assert list(find_translators()) == ["x", "y"]


# Weights of strangers


def test_a_broken_file_is_told_with_its_translator(engine, folder, specs):
    (folder / "unet.safetensors").write_bytes(b"\x01")
    engine.add_translator("broken", replace(specs["one"], folder=folder, title="Seasons"))
    with pytest.raises(RequestError, match=r"^Seasons: unet\.safetensors is not"):
        engine.run(ask(translator="broken"))


def change(folder, file, edit):
    path = folder / f"{file}.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def put(key, value):
    return lambda tensors: tensors.update({key: value})


def halve(ending):
    def edit(tensors):
        del tensors[next(key for key in tensors if key.endswith(ending))]

    return edit


BROKEN = {
    "NaN in a LoRA": ("a2b", lambda told: told["vae.decoder.conv_in.lora_A.weight"].fill_(torch.nan), "NaN"),
    "NaN in a skip": ("a2b", lambda told: told["skips.0.weight"].fill_(torch.nan), "NaN"),
    "infinity in the first convolution": ("unet", lambda told: told["conv_in.bias"].fill_(torch.inf), "NaN"),
    "half a LoRA": ("unet", halve("lora_B.weight"), "only half"),
    "a LoRA of another shape": ("a2b", put("vae.decoder.conv_in.lora_A.weight", torch.ones(4, 9, 3, 3)), "another"),
    "a first convolution of another shape": ("unet", put("conv_in.weight", torch.ones(1, 8, 3, 3)), "does not fit"),
    "no bias": ("unet", lambda told: told.pop("conv_in.bias"), "does not fit"),
    "a skip of another shape": ("a2b", put("skips.1.weight", torch.ones(16, 3, 1, 1)), "does not fit"),
    "a missing skip": ("a2b", lambda told: told.pop("skips.3.weight"), "does not fit"),
    "a fifth skip": ("a2b", put("skips.4.weight", torch.ones(16, 16, 1, 1)), "skips.4.weight"),
    "a skip's unknown part": ("a2b", put("skips.0.bias", torch.ones(16)), "skips.0.bias"),
    "a change of one skip alone": ("a2b", put("skips.0.change", torch.ones(16, 16, 1, 1)), "does not fit"),
    "a change of another shape": (
        "a2b",
        lambda told: told.update({f"skips.{index}.change": torch.ones(16, 16) for index in range(4)}),
        "does not fit",
    ),
    "the text encoder": (
        "unet",
        put("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", torch.ones(1, 32)),
        "no place for 'text_encoder",
    ),
    "an unknown weight": ("a2b", put("vae.nothing.lora_A.weight", torch.ones(1, 2)), "no place for 'vae.nothing"),
    "whole numbers": ("a2b", put("skips.0.weight", torch.ones(16, 16, 1, 1).int()), "holds whole numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_weights_that_do_not_fit_are_refused(model, folder, name):
    file, edit, reason = BROKEN[name]
    change(folder, file, edit)
    with pytest.raises(RequestError) as error:
        load_translator(read_translator(folder), model)
    assert reason in str(error.value) and str(error.value).isprintable()


def test_other_files_are_refused(model, folder, monkeypatch):
    spec = read_translator(folder)
    with pytest.raises(ModelError, match="family sd2"):
        load_translator(replace(spec, family="sd2"), model)
    monkeypatch.setattr(reading, "FILE_LIMIT", 1000)
    with pytest.raises(RequestError, match="GiB"):
        load_translator(spec, model)
    monkeypatch.undo()
    torch.save({}, folder / "a2b.safetensors")
    with pytest.raises(RequestError, match="pickle"):
        load_translator(spec, model)
    (folder / "unet.safetensors").unlink()
    with pytest.raises(RequestError, match=r"unet\.safetensors"):
        load_translator(spec, model)


def test_skips_and_first_convolution_may_be_missing(model, folder):
    change(folder, "a2b", lambda told: [told.pop(key) for key in list(told) if key.startswith("skips")])
    change(folder, "unet", lambda told: [told.pop(key) for key in list(told) if key.startswith("conv_in")])
    loaded = load_translator(read_translator(folder), model)
    assert loaded.skips == {"a2b": None} and loaded.first is None
    translate = loaded.on(model, "a2b")
    condition = Condition(torch.randn(1, 5, model.network.config.cross_attention_dim))
    with torch.no_grad():
        assert translate(torch.randn(1, 3, 64, 64), condition).shape == (1, 3, 64, 64)


# Requests


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": 2}, "one evaluation"),
        ({"guidance": 2.0}, "one evaluation"),
        ({"sampler": "ddim"}, "one evaluation"),
        ({"control": ControlUse(picture=PICTURE)}, "leave the ControlNet out"),
        ({"strength": 1.1}, "Strength"),
        ({"strength": -0.1}, "Strength"),
        ({"strength": float("nan")}, "Strength"),
        ({"strength": "1"}, "Strength"),
        ({"strength": None}, "Strength"),
        ({"picture": None}, "picture to translate"),
        ({"picture": PICTURE.convert("L")}, "picture to translate"),
        ({"translator": None}, "translator's name"),
        ({"translator": "x" * 501}, "translator's name"),
        ({"direction": 1}, "direction"),
        ({"direction": "x" * 101}, "direction"),
        ({"annotator": 1}, "annotator"),
        ({"low": 501}, "low threshold"),
        ({"high": "a"}, "high threshold"),
        ({"fit": "stretch"}, "Fit"),
        ({"fit": None}, "Fit"),
        ({"count": 10}, "number of pictures"),
    ],
    ids=lambda each: each if isinstance(each, str) else json.dumps(each, default=lambda picture: "picture")[:60],
)
def test_requests_that_are_not_possible(settings, reason):
    with pytest.raises(RequestError, match=reason) as error:
        ask(**settings)
    assert "\n" not in str(error.value)


def test_browsers_numbers_are_taken():
    request = ask(strength=1, low=50.0, high=90.0, steps=1.0, guidance=1)
    assert (request.strength, request.low, request.high, request.steps) == (1.0, 50, 90, 1)
    assert isinstance(request.strength, float) and isinstance(request.low, int)


def test_lines_of_an_unknown_kind(engine):
    with pytest.raises(RequestError, match="waves"):
        engine.run(ask(translator="lines", annotator="waves"))
