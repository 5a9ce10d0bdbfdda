"""python -m yoso_core, as a person calls it."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import build_unet, random_lora
from yoso_core.__main__ import main
from yoso_core.engine import Engine
from yoso_core.lora import admit, read_tensors
from yoso_core.models import LORA_FILE, local_model
from yoso_core.requests import GenerateRequest


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
