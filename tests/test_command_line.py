"""python -m yoso_core, as a person calls it."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import build_unet, random_lora
from yoso_core.__main__ import main
from yoso_core.lora import admit


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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
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
