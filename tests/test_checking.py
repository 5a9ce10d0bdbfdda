"""What is said of any file and folder; tests/commands has how the command line says it."""

import io
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.handed import colour, stored, zipped
from tests.tiny import build_unet, random_lora
from tests.tiny_control import write_tiny_control
from tests.tiny_translate import write_translator
from yoso_core.checking import examine
from yoso_core.engine import Engine
from yoso_core.models import local_model


@pytest.fixture
def kinds(tmp_path):
    """A file of every kind, by name."""
    webui = io.BytesIO()
    Image.new("RGB", (8, 6)).save(webui, "JPEG", comment=b"a cat\nSteps: 20, Seed: 1, CFG scale: 7")
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.bin")
    files = {
        "plain.png": colour(1),
        "grey.png": stored(Image.new("L", (4, 4))),
        "settings.jfif": webui.getvalue(),
        "broken.png": colour(1)[:60],
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(40),
        "many.zip": zipped({"a.png": colour(1), "b.txt": "words", "c.png": b"none", "__MACOSX/a.png": b"x"}),
        "none.zip": zipped({"b.txt": "words"}),
        "bad.zip": b"PK\x03\x04 no zip",
        "zip.dat": zipped({"a.png": colour(1)}),
        "old.pt": b"\x80\x02}q\0.",
        "words.txt": b"a cat",
        "no.safetensors": b"hello",
        "renamed.safetensors": (tmp_path / "weights.bin").read_bytes(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "what", "problem", "note"),
    [
        ("plain.png", "a PNG picture of 16 x 16 pixels", "", ""),
        ("grey.png", "a PNG picture of 4 x 4 pixels", "", "grey: converted"),
        ("settings.jfif", "a JPEG picture of 8 x 6 pixels", "", "can be taken over: “a cat”; 20 steps at guidance 7"),
        ("broken.png", "nothing that is read here", "damaged", ""),
        ("phone.heic", "nothing that is read here", "This is a HEIC picture", ""),
        ("many.zip", "a zip of 1 picture", "", "many.zip/c.png: This is no PNG"),
        ("none.zip", "a zip of 0 pictures", "There is no picture in it", "1 file of text"),
        ("bad.zip", "a zip", "no zip that can be read", ""),
        ("zip.dat", "a zip", "call it .zip", ""),
        ("weights.bin", "a pickle", "convert-lora weights.bin", ""),
        ("old.pt", "a pickle", "never opened", ""),
        ("words.txt", "text", "", "with their pictures"),
        ("no.safetensors", "a safetensors file", "no.safetensors", ""),
        ("renamed.safetensors", "a safetensors file", "renamed.safetensors", ""),
        ("gone.png", "nothing", "There is no such file.", ""),
    ],
)
def test_files_are_told_apart_by_what_they_hold(kinds, name, what, problem, note):
    verdict = examine(kinds / name)
    assert verdict.what == what and bool(verdict.problem) == bool(problem) and problem in verdict.problem
    assert note in "\n".join(verdict.notes) and (verdict.notes or not note)


def test_loras_are_tried_on_a_model(tiny_model, tmp_path):
    save_file(random_lora(build_unet()), tmp_path / "fits.safetensors")
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    narrow = {f"{name}.lora_A.weight": torch.randn(2, 7), f"{name}.lora_B.weight": torch.randn(7, 2)}
    save_file(narrow, tmp_path / "other.safetensors")
    good, bad = (examine(tmp_path / f"{name}.safetensors", str(tiny_model)) for name in ("fits", "other"))
    assert good.what.startswith("a LoRA for") and "rank 4" in good.what and "it fits tiny" in good.notes[-1]
    assert not good.problem and bad.problem
    untold = examine(tmp_path / "fits.safetensors")
    assert not untold.problem and "name one with --model" in untold.notes[-1]
    folder = examine(tmp_path, str(tiny_model))
    assert folder.what == "a folder of 1 LoRA" and "other.safetensors: " in "\n".join(folder.notes)


def test_folders_are_told_apart(tiny_model, tmp_path):
    model = examine(tiny_model)
    assert model.what == "a model" and not model.problem and "for 64 pixels" in model.notes[0]
    assert "holds model_index.json" in examine(tiny_model / "unet").problem
    assert examine(tmp_path).problem == "There is nothing in it."
    loaded = Engine({"tiny": local_model(str(tiny_model))}, device="cpu", translators={}).load("tiny")
    write_translator(tmp_path / "translator", loaded, input="lines")
    assert "given lines: a2b" in examine(tmp_path / "translator").notes[0]
    write_tiny_control(tmp_path / "control")
    control = examine(tmp_path / "control", str(tiny_model))
    assert control.what.startswith("a ControlNet") and control.notes == ("it fits tiny",)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    assert "is not a whole diffusers model" in examine(tmp_path / "broken").problem
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        (tmp_path / "pictures" / f"{index}.png").write_bytes(colour(index))
    (tmp_path / "pictures" / "0.txt").write_text("a cat")
    assert examine(tmp_path / "pictures").what == "a folder of 3 pictures"
