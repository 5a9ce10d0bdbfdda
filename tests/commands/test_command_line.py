"""python -m yoso_core, as a person calls it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import build_unet, random_lora
from yoso_core.__main__ import main
from yoso_core.cached import LORA_FILE
from yoso_core.conditioning import find_control
from yoso_core.engine import Engine
from yoso_core.files.metadata import read_request
from yoso_core.models import local_model
from yoso_core.offers import USUAL
from yoso_core.requests import ControlUse, EditRequest, GenerateRequest, LoraUse


def test_generate_writes_a_picture_and_says_so(tiny_model, tmp_path, capsys):
    out = tmp_path / "new" / "heart.png"
    assert main(["generate", "a red heart, 3d", "--seed", "7", "--model", str(tiny_model), "--out", str(out)]) == 0
    assert Image.open(out).size == (64, 64)
    assert "1 network evaluation" in capsys.readouterr().out


def test_json_count_size_and_loras(tiny_model, tmp_path, capsys):
    lora = tmp_path / "style.safetensors"
    save_file(random_lora(build_unet()), lora)
    arguments = ["generate", "a", "--model", str(tiny_model), "--size", "64", "--count", "2", "--steps", "2", "--json"]
    arguments += ["--guidance", "1.5", "--lora", f"{lora}:0.5", "--out", str(tmp_path / "a.png")]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"] == [str(tmp_path / "a-1.png"), str(tmp_path / "a-2.png")]
    assert summary["seeds"] == [0, 1] and summary["evaluations"] == 4
    assert summary["seconds"]["total"] > 0
    assert all(Image.open(path).size == (64, 64) for path in summary["files"])


def test_edit_does_as_it_is_told(tiny_model, tiny_control, drawing, tmp_path, capsys):
    out = tmp_path / "a.png"
    arguments = ["edit", drawing.path, "--prompt", "a crown", "--strength", "0.7", "--mask", drawing.mask_path]
    arguments += [
        "--feather",
        "0.1",
        "--grow",
        "0.1",
        "--fit",
        "pad",
        "--steps",
        "2",
        "--sampler",
        "dpm++",
        "--seed",
        "3",
        "--count",
        "2",
    ]
    arguments += ["--guidance", "1.5", "--negative", "blue", "--one-step", "0.5", "--model", str(tiny_model)]
    arguments += ["--control", "canny", "--control-strength", "0.8", "--control-start", "0.1", "--control-end", "0.9"]
    arguments += ["--low", "20", "--high", "60", "--controlnet", str(tiny_control), "--out", str(out), "--json"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["seeds"] == [3, 4] and json.loads(told.out)["evaluations"] == 4
    assert "80 x 60: put on a white square" in told.err.splitlines()
    control = ControlUse(
        picture=drawing.picture,
        annotator="canny",
        strength=0.8,
        start=0.1,
        end=0.9,
        low=20,
        high=60,
        network=str(tiny_control),
        fit="pad",
    )
    request = EditRequest(
        "a crown",
        negative="blue",
        seed=3,
        steps=2,
        guidance=1.5,
        count=2,
        model=str(tiny_model),
        one_step=0.5,
        sampler="dpm++",
        control=control,
        picture=drawing.picture,
        strength=0.7,
        mask=drawing.mask,
        feather=0.1,
        grow=0.1,
        fit="pad",
    )
    controls = {str(tiny_control): find_control(str(tiny_control), "")}
    engine = Engine({str(tiny_model): local_model(str(tiny_model))}, device="cpu", controls=controls)
    for path, wanted in zip(json.loads(told.out)["files"], engine.run(request).pictures, strict=True):
        with Image.open(path) as saved:
            assert saved.tobytes() == wanted.tobytes()
            assert engine.run(read_request(saved).request).pictures[0].tobytes() == wanted.tobytes()


def test_a_mask_paints_where_it_is_white_and_opaque(tiny_model, drawing, tmp_path, capsys):
    layer = Image.new("RGBA", drawing.picture.size, (255, 255, 255, 0))
    layer.paste("white", (20, 20, 60, 50))  # a stroke as editors save them
    layer.save(tmp_path / "layer.png")
    arguments = ["edit", drawing.path, "--model", str(tiny_model), "--out", str(tmp_path / "a.png"), "--fit", "fit"]
    assert main([*arguments, "--mask", str(tmp_path / "layer.png")]) == 0
    with Image.open(tmp_path / "a.png") as saved:
        assert read_request(saved).request.mask.tobytes() == drawing.mask.tobytes()
    Image.new("L", drawing.picture.size).save(tmp_path / "none.png")
    assert main([*arguments, "--mask", str(tmp_path / "none.png")]) == 0
    assert "the mask paints nothing" in capsys.readouterr().err


def test_what_is_not_said_is_as_the_request_has_it(tiny_model, drawing, tmp_path):
    assert main(["edit", drawing.path, "--model", str(tiny_model), "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as saved:
        request = read_request(saved).request
    wanted = USUAL.settle("", EditRequest("", model=str(tiny_model), picture=drawing.picture))
    assert replace(request, picture=drawing.picture) == wanted


def test_generate_follows_a_picture(tiny_model, tiny_control, drawing, tmp_path):
    pictures = []
    for strength in ("0", "1"):
        out = tmp_path / f"{strength}.png"
        arguments = ["generate", "a", "--model", str(tiny_model), "--out", str(out), "--controlnet", str(tiny_control)]
        assert main([*arguments, "--control", f"map={drawing.path}", "--control-strength", strength]) == 0
        pictures.append(Image.open(out).tobytes())
    assert pictures[0] != pictures[1]


def test_bundled_loras_go_by_name(tiny_model, tmp_path, monkeypatch, capsys):
    save_file(random_lora(build_unet(), 0.5), tmp_path / "style-of-many.safetensors")
    entry = SimpleNamespace(id="style", title="Styled", path=tmp_path / "style-of-many.safetensors")
    monkeypatch.setattr("yoso_core.lora.library.bundled", lambda: [entry])
    pictures = []
    for lora in ("style:0.5", str(entry.path) + ":0.5"):
        assert (
            main(["generate", "a", "--model", str(tiny_model), "--lora", lora, "--out", str(tmp_path / "a.png")]) == 0
        )
        with Image.open(tmp_path / "a.png") as saved:
            pictures.append(saved.tobytes())
            named = read_request(saved).request.loras
        assert named == (LoraUse("style" if lora == "style:0.5" else "style-of-many", 0.5),)
    assert pictures[0] == pictures[1]
    for tag in ("style", "Style of_many", str(entry.path)):
        assert (
            main(["generate", f"a <lora:{tag}:0.5>", "--model", str(tiny_model), "--out", str(tmp_path / "a.png")]) == 0
        )
        with Image.open(tmp_path / "a.png") as saved:
            assert saved.tobytes() == pictures[0] and read_request(saved).request.prompt == "a"
    arguments = ["generate", "a <lora:nothing:0.5>", "--model", str(tiny_model), "--out", str(tmp_path / "a.png")]
    assert main([*arguments, "--lora", "style:0.5"]) == 0
    assert "There is no LoRA “nothing” here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["map", "IN", "--annotator", "x"], "no annotator"),
        (["map", "IN", "--size", "9999999"], "size"),
        (["map", "missing.png"], "missing.png: There is no such file."),
        (["edit", "missing.png"], "missing.png: There is no such file."),
        (["edit", "IN", "--strength", "2"], "Strength"),
        (["edit", "IN", "--fit", "stretch"], "Fit"),
        (["edit", "IN", "--mask", "SQUARE"], "paint it on that picture"),
        (["edit", "IN", "--mask", "/dev/zero"], "There is no such file"),
        (["edit", "IN", "--control-strength", "1"], "--control ANNOTATOR=PICTURE"),
        (["edit", "IN", "--control", "canny"], "No ControlNet"),
        (["generate", "a", "--control", "canny"], "canny=PICTURE"),
        (["generate", "a", "--control", "canny=missing.png"], "missing.png: There is no such file."),
        (["generate", "a", "--control", "canny=IN", "--controlnet", "nothing"], "no ControlNet"),
        (["generate", "a", "--low", "5"], "--control ANNOTATOR=PICTURE"),
        (["generate", "a", "--fit", "pad"], "--fit needs a picture"),
        (["ladder", "a", "--teacher-steps", "0"], "teacher"),
        (["grid", "a", "--x", "size=1,2"], "no axis"),
        (["grid", "a", "--x", "strength=0,1"], "edit"),
        (["grid", "a", "--x", "seed=0,1", "--y", "seed=0"], "Both axes"),
        (["grid", "a", "--x", "seed=0,1", "--strength", "0.5"], "--strength belongs to an edit"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_not_possible_is_one_sentence(tiny_model, drawing, tmp_path, capsys, arguments, reason):
    Image.new("L", (64, 64)).save(tmp_path / "square.png")
    places = {"IN": drawing.path, "SQUARE": str(tmp_path / "square.png")}
    arguments = [arguments[0], *(places.get(each, each.replace("=IN", f"={drawing.path}")) for each in arguments[1:])]
    model = [] if arguments[0] == "map" else ["--model", str(tiny_model)]
    assert main([*arguments, *model, "--out", str(tmp_path / "a.png")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and reason in error and not (tmp_path / "a.png").exists()


def test_weights_take_the_place_of_the_models_own(tiny_model, tmp_path):
    """What a training run hands over is the one-step LoRA, not one on top of another."""
    save_file(random_lora(build_unet(), 0.5), tmp_path / LORA_FILE)
    out = tmp_path / "a.png"
    assert main(["generate", "a", "--model", str(tiny_model), "--weights", str(tmp_path), "--out", str(out)]) == 0
    spec = replace(local_model(str(tiny_model)), lora=tmp_path / LORA_FILE)
    wanted = Engine({"tiny": spec}, device="cpu").run(GenerateRequest("a", model="tiny")).pictures[0]
    assert Image.open(out).convert("RGB").tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--weights", "missing.safetensors"], "missing.safetensors"),
        (["--seed", "-2"], "seed"),
        (["--steps", "3"], "Steps"),
        (["--sampler", "dpm++"], "choose the sampler lcm"),
        (["--guidance", "nan"], "Guidance"),
        (["--count", "0"], "pictures"),
        (["--model", "nothing"], "no model"),
        (["--lora", "missing.safetensors"], "missing.safetensors"),
        (["--out", "/proc/no/picture.png"], "can't be written"),
    ],
)
def test_errors_are_one_sentence_and_exit_1(tiny_model, tmp_path, capsys, arguments, reason):
    defaults = ["--model", str(tiny_model), "--size", "64", "--out", str(tmp_path / "a.png")]
    assert main(["generate", "a", *defaults, *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and reason in error
