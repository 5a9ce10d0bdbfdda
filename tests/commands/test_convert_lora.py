"""python -m yoso_core convert-lora."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny import build_unet, random_lora
from yoso_core.__main__ import main
from yoso_core.lora.admission import admit
from yoso_core.lora.reading import read_tensors


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
