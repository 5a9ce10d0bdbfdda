"""python -m yoso_core, as a person calls it."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.handed import stored, zipped
from tests.tiny import build_unet, random_lora
from tests.tiny_control import write_tiny_control
from tests.tiny_translate import write_translator
from yoso_core.__main__ import main
from yoso_core.conditioning import find_control
from yoso_core.engine import Engine
from yoso_core.files.metadata import read_request
from yoso_core.lora.admission import admit
from yoso_core.lora.reading import read_tensors
from yoso_core.models import LORA_FILE, local_model
from yoso_core.requests import ControlUse, EditRequest, GenerateRequest, LoraUse, TranslateRequest
from yoso_core.translate import read_translator


@pytest.fixture(scope="module")
def tiny_control(tmp_path_factory):
    return write_tiny_control(tmp_path_factory.mktemp("controls") / "tiny")


@pytest.fixture
def drawing(tmp_path):
    """A picture that is neither square nor large, and a mask of a part of it."""
    picture = Image.linear_gradient("L").resize((80, 60)).convert("RGB")
    picture.paste("red", (20, 10, 60, 30))
    mask, nearly = Image.new("L", picture.size), Image.new("L", picture.size, 9)
    mask.paste(255, (20, 20, 60, 50))
    nearly.paste(240, (20, 20, 60, 50))
    picture.save(tmp_path / "in.png")
    nearly.save(tmp_path / "mask.png")
    return SimpleNamespace(
        path=str(tmp_path / "in.png"), mask_path=str(tmp_path / "mask.png"), picture=picture, mask=mask
    )


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
    arguments += ["--feather", "0.1", "--grow", "0.1", "--fit", "pad", "--steps", "2", "--seed", "3", "--count", "2"]
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
    assert replace(request, picture=drawing.picture) == EditRequest("", model=str(tiny_model), picture=drawing.picture)


@pytest.fixture(scope="module")
def translators(tiny_model, tmp_path_factory):
    """Folders of a translator of lines and of one that goes both ways."""
    folder = tmp_path_factory.mktemp("translators")
    model = Engine({"tiny": local_model(str(tiny_model))}, device="cpu").load("tiny")
    write_translator(folder / "lines", model, input="lines")
    write_translator(folder / "both", model, ("a2b", "b2a"))
    return folder


def test_translate_does_as_it_is_told(tiny_model, translators, drawing, tmp_path, capsys):
    name = str(translators / "lines")
    arguments = ["translate", drawing.path, "--model", name, "--prompt", "a crown", "--strength", "0.7", "--fit", "pad"]
    arguments += ["--seed", "3", "--count", "2", "--annotator", "canny", "--low", "20", "--high", "60", "--size", "64"]
    arguments += ["--base", str(tiny_model), "--one-step", "0.5", "--out", str(tmp_path / "a.png"), "--json"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    summary = json.loads(told.out)
    assert summary["seeds"] == [3, 4] and summary["evaluations"] == 1
    assert "80 x 60: put on a white square" in told.err.splitlines()
    request = TranslateRequest(
        "a crown",
        seed=3,
        count=2,
        model=str(tiny_model),
        size=64,
        one_step=0.5,
        picture=drawing.picture,
        translator=name,
        strength=0.7,
        low=20,
        high=60,
        fit="pad",
    )
    engine = Engine(
        {str(tiny_model): local_model(str(tiny_model))}, device="cpu", translators={name: read_translator(Path(name))}
    )
    for path, wanted in zip(summary["files"], engine.run(request).pictures, strict=True):
        with Image.open(path) as saved:
            assert saved.tobytes() == wanted.tobytes()
            assert engine.run(read_request(saved).request).pictures[0].tobytes() == wanted.tobytes()


def test_translate_goes_the_way_that_is_named(tiny_model, translators, drawing, tmp_path, capsys):
    pictures = {}
    for direction in ([], ["--direction", "a2b"], ["--direction", "b2a"], ["--count", "3"]):
        out = tmp_path / "a.png"
        arguments = ["translate", drawing.path, "--model", str(translators / "both"), "--base", str(tiny_model)]
        assert main([*arguments, *direction, "--out", str(out)]) == 0
        pictures[tuple(direction)] = Image.open(out).tobytes()
    assert pictures[()] == pictures["--direction", "a2b"] == pictures["--count", "3"]
    assert pictures[()] != pictures["--direction", "b2a"]
    assert "Strength 1 has one answer" in capsys.readouterr().err


def test_translate_takes_folders_and_goes_on_after_what_it_can_not_read(
    tiny_model, translators, drawing, tmp_path, capsys
):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        drawing.picture.save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.png").write_text("no picture")
    for name in (".hidden", ".hidden.png", "a.txt", "Thumbs.db"):
        (tmp_path / "in" / name).write_text("a caption")
    out = tmp_path / "new" / "out"
    arguments = ["translate", str(tmp_path / "in"), drawing.path, "--model", str(translators / "both"), "--json"]
    arguments += ["--base", str(tiny_model), "--out", str(out), "--direction", "b2a"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "in.png"]
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["in"] for line in lines] == ["a.png", "b.jpg", "in.png"] and lines[0]["files"] == [str(out / "a.png")]
    assert "bad.png: This is no PNG" in told.err
    assert told.err.strip().splitlines()[-1].startswith("error: 1 of 4 could not be translated")
    (tmp_path / "in" / "bad.png").unlink()
    assert main(arguments) == 0
    assert main([*arguments, "--out", drawing.path]) == 1 and "need a folder" in capsys.readouterr().err


def test_translate_writes_over_nothing_that_is_given(tiny_model, translators, drawing, tmp_path, capsys):
    folder, link, far = tmp_path / "in", tmp_path / "link", tmp_path / "far"
    folder.mkdir(), far.mkdir()
    link.symlink_to(folder)
    drawing.picture.save(folder / "a.png")
    (far / "b.png").symlink_to(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    arguments = ["translate", "--model", str(translators / "both"), "--base", str(tiny_model)]
    for inputs, out in (
        ([folder], folder),
        ([link], folder),
        ([folder], link),
        ([folder / "a.png", drawing.path], far / ".." / "in"),
        ([far], folder),
        ([far], far),
    ):
        assert main([*arguments, *map(str, inputs), "--out", str(out)]) == 1
        assert "choose another folder for --out." in capsys.readouterr().err.splitlines()[-1]
        assert (folder / "a.png").read_bytes() == before and len(list(folder.iterdir())) == 1
    assert (far / "b.png").is_symlink()
    for given in (folder / "a.png", far / "b.png"):
        assert main([*arguments, str(given), "--out", str(link / "a.png")]) == 1
        assert "choose another file for --out." in capsys.readouterr().err.splitlines()[-1]
        assert (folder / "a.png").read_bytes() == before
    (tmp_path / "none").mkdir()
    assert main([*arguments, str(tmp_path / "none"), "--out", str(folder)]) == 1
    assert "There are no pictures" in capsys.readouterr().err


def test_names_in_zips_do_nothing_to_a_terminal(tiny_model, translators, tmp_path, capsys):
    good = stored(Image.new("RGB", (8, 8)))
    odd = tmp_path / os.fsdecode(b"b\xff\x1b[2J.png")
    odd.write_bytes(good)
    (tmp_path / "a.zip").write_bytes(zipped({"a\x1b[2J.png": good, "bad\x1b]0;x\x07\nerror: y.png": b"x"}))
    arguments = ["translate", str(tmp_path / "a.zip"), str(odd), "--model", str(translators / "both")]
    arguments += ["--base", str(tiny_model), "--out", str(tmp_path / "out")]
    for more in ([], ["--json"]):
        assert main([*arguments, *more]) == 1
        told = capsys.readouterr()
        lines = [*told.out.splitlines(), *told.err.splitlines()]
        assert all(line.isprintable() for line in lines) and len(told.out.splitlines()) == 2
        assert any(line.startswith("a.zip/bad ]0;x error: y.png: This is no PNG") for line in lines)
        assert "a.zip/a [2J.png" in told.out and "b [2J.png" in told.out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.png"], "missing.png: There is no such file."),
        (["IN", "--direction", "c"], "no direction 'c'"),
        (["IN", "--strength", "2"], "Strength"),
        (["IN", "--model", "nothing"], "There is no translator 'nothing'"),
        (["IN", "--model", "FOLDER"], "holds no translator"),
        (["IN", "--base", "nothing"], "no model"),
        (["IN", "--out", "picture.jpg"], "ends in .png, not 'picture.jpg'"),
        (["IN", "IN", "--out", "FOLDER/out", "--direction", "c"], "no direction 'c'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_can_not_be_translated_is_one_sentence(
    tiny_model, translators, drawing, tmp_path, capsys, arguments, reason
):
    places = {"IN": drawing.path, "FOLDER": str(tmp_path)}
    defaults = ["--model", str(translators / "both"), "--base", str(tiny_model), "--out", str(tmp_path / "out.png")]
    arguments = [places.get(each, each.replace("FOLDER", str(tmp_path))) for each in arguments]
    assert main(["translate", *defaults, *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and reason in error


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


def test_ladder_draws_its_rungs(tiny_model, tmp_path, capsys):
    out = tmp_path / "new" / "ladder.png"
    arguments = ["ladder", "a", "--model", str(tiny_model), "--teacher-steps", "3", "--teacher-guidance", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out) and Image.open(out).width > 5 * 192
    assert [line.split(":")[0] for line in lines[:4]] == ["1 step", "2 steps", "4 steps", "Teacher, 3 steps"]
    assert "3 network evaluation(s)" in lines[3]
    assert main([*arguments, "--weights", "none", "--out", str(out)]) == 0
    assert "no one-step LoRA" in capsys.readouterr().err and Image.open(out).width < 4 * 192


def test_grid_lays_settings_beside_one_another(tiny_model, drawing, tmp_path, capsys):
    save_file(random_lora(build_unet(), 0.5), tmp_path / "style.safetensors")
    out = tmp_path / "grid.png"
    arguments = ["grid", "a", "--in", drawing.path, "--model", str(tiny_model), "--out", str(out)]
    arguments += ["--lora", str(tmp_path / "style.safetensors"), "--mask", drawing.mask_path]
    assert main([*arguments, "--x", "strength=0.5:1:2", "--y", "lora.style=0,0.5,1"]) == 0
    told = capsys.readouterr()
    assert [line.split(":")[0] for line in told.out.splitlines()[:3]] == ["0, 0.5", "0, 1", "0.5, 0.5"]
    assert told.err.count("80 x 60: cropped to its middle") == 1
    width, height = Image.open(out).size
    assert 2 * 192 < width < 3 * 192 < height < 4 * 192
    axis = f"lora.{tmp_path / 'style.safetensors'}=0,1"
    assert main(["grid", "a", "--model", str(tiny_model), "--out", str(out), "--x", axis]) == 0


def test_grid_lays_loras_beside_one_another(tiny_model, tmp_path, capsys):
    for step in (50, 200):
        save_file(random_lora(build_unet(), 0.5), tmp_path / f"step-{step:07d}.safetensors")
    arguments = ["grid", "a", "--model", str(tiny_model), "--out", str(tmp_path / "grid.png")]
    arguments += ["--lora", f"{tmp_path}/step-0000050.safetensors:0.5"]
    axis = f"adapter=none|step-0000050|{tmp_path}/step-0000200.safetensors"
    assert main([*arguments, "--x", axis, "--y", "seed=0,1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main([*arguments, "--x", "adapter=none|nothing"]) == 1
    assert "There is no LoRA 'nothing'" in capsys.readouterr().err


def test_map_draws_what_a_controlnet_follows(drawing, tmp_path, capsys):
    out = tmp_path / "map.png"
    assert main(["map", drawing.path, "--size", "64", "--low", "20", "--high", "60", "--out", str(out)]) == 0
    edges = Image.open(out)
    assert (
        edges.size == (64, 64)
        and edges.getcolors()
        and {colour for _, colour in edges.getcolors()}
        == {
            (0, 0, 0),
            (255, 255, 255),
        }
    )
    assert main(["map", drawing.path, "--annotator", "map", "--fit", "fit", "--size", "64", "--out", str(out)]) == 0
    assert Image.open(out).tobytes() == drawing.picture.resize((64, 64), Image.Resampling.LANCZOS).tobytes()


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
        (["--seed", "-1"], "seed"),
        (["--steps", "3"], "Steps"),
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


def test_convert_lora_reads_weights_only(tmp_path, capsys):
    unet = build_unet()
    source, out, bomb = tmp_path / "published.safetensors", tmp_path / "out" / "lora.safetensors", tmp_path / "bomb"
    torch.save(random_lora(unet), source)
    assert main(["convert-lora", str(source), str(out)]) == 0
    assert "sha256" in capsys.readouterr().out
    assert admit(out, {"unet": unet})

    class Bomb:
        def __reduce__(self):
            return (open, (str(bomb), "w"))

    torch.save({"x": Bomb()}, source)
    assert main(["convert-lora", str(source), str(out)]) == 1
    assert not bomb.exists() and "\n" not in capsys.readouterr().err.strip()


def test_convert_lora_reads_what_trainers_save(tmp_path):
    pair = torch.randn(2, 4, 4)
    source, out = tmp_path / "published.bin", tmp_path / "lora.safetensors"
    torch.save({"state_dict": {"a": torch.nn.Parameter(pair[0]), "b": pair[1].T}, "epoch": 3}, source)
    assert main(["convert-lora", str(source), str(out)]) == 0
    tensors, metadata = read_tensors(out)
    assert torch.equal(tensors.pop("a"), pair[0]) and torch.equal(tensors.pop("b"), pair[1].T) and not tensors
    assert metadata["converted_from_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(1)], "no weights by name"),
        ({}, "no weights by name"),
        ({"unet.x.lora_A.weight": torch.zeros(1), "rank": 4}, "'rank' in it is no tensor but int"),
    ],
)
def test_convert_lora_says_what_is_wrong(tmp_path, capsys, content, reason):
    torch.save(content, tmp_path / "odd.bin")
    assert main(["convert-lora", str(tmp_path / "odd.bin"), str(tmp_path / "lora.safetensors")]) == 1
    error = capsys.readouterr().err.strip()
    assert reason in error and "\n" not in error and not (tmp_path / "lora.safetensors").exists()


def test_convert_lora_leaves_safetensors_alone(tmp_path, capsys):
    save_file(random_lora(build_unet()), tmp_path / "published.safetensors")
    assert main(["convert-lora", str(tmp_path / "published.safetensors"), str(tmp_path / "out.safetensors")]) == 1
    assert "safetensors already" in capsys.readouterr().err
