"""python -m yoso_core translate."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.handed import stored, zipped
from tests.tiny_translate import write_translator
from yoso_core.__main__ import main
from yoso_core.engine import Engine
from yoso_core.files.metadata import read_request
from yoso_core.models import local_model
from yoso_core.requests import TranslateRequest
from yoso_core.translate import read_translator


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
