"""What of a model is on this machine, in folders as the hub's client leaves them."""

import json
from dataclasses import replace

import pytest

from yoso_core.cached import RECORD, HubError, Need, commit_of, files_of, find, folder_of, held, select, wanted

COMMIT = "a" * 40
NEED = Need("A model", "some/model", COMMIT)
WEIGHTS = "diffusion_pytorch_model"
NAMES = ["README.md", "config.json", "model_index.json", "v1.safetensors", "v1.ckpt", "unet/config.json"]
NAMES += [f"unet/{WEIGHTS}.{ending}" for ending in ("safetensors", "fp16.safetensors", "non_ema.safetensors", "bin")]
NAMES += [f"vae/{WEIGHTS}-0000{shard}-of-00002.safetensors" for shard in (1, 2)]
NAMES += [f"vae/{WEIGHTS}.safetensors.index.json", "text_encoder/model.safetensors", "safety_checker/model.safetensors"]
NAMES += ["tokenizer/merges.txt", "tokenizer/vocab.json", "onnx/model.onnx", "../x.json", "unet/run.py", "a/b/c.json"]


def test_only_what_a_model_is_loaded_from_is_fetched():
    plain = select(NAMES)
    assert {name for name in plain if "safetensors" in name and "index" not in name} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors",
    }
    assert {"README.md", "model_index.json", "tokenizer/merges.txt", "unet/config.json"} <= set(plain)
    assert not {"../x.json", "unet/run.py", "a/b/c.json", "v1.ckpt"} & set(plain)
    half = select(NAMES, "fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half
    assert "unet/diffusion_pytorch_model.safetensors" not in half and "text_encoder/model.safetensors" in half


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The snapshot of a pipeline of three parts, one of which is in two files; its files are links, as the client's."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    blobs, folder = folder_of(NEED.place) / "blobs", folder_of(NEED.place) / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    kinds = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDIMScheduler",
        "safety_checker": "Any",
    }
    files = {"model_index.json": json.dumps({name: ["diffusers", kind] for name, kind in kinds.items()})}
    files |= {f"{name}/config.json": "{}" for name in ("unet", "vae", "scheduler")}
    files |= {f"unet/{WEIGHTS}-0000{shard}-of-00002.safetensors": "x" * 300 for shard in (1, 2)}
    files |= {f"vae/{WEIGHTS}.safetensors": "y" * 100}
    for number, (name, text) in enumerate(files.items()):
        (blobs / str(number)).write_text(text)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(blobs / str(number))
    return folder


def test_a_model_is_there_once_all_parts_with_all_their_files_are(here):
    assert find(NEED) == here and sum(files_of(NEED).values()) == held(NEED) > 700
    for name in (f"unet/{WEIGHTS}-00002-of-00002.safetensors", f"vae/{WEIGHTS}.safetensors", "scheduler/config.json"):
        (here / name).rename(here / "away")
        assert find(NEED) is None and files_of(NEED) == {} and held(NEED) > 700, name
        (here / "away").rename(here / name)
    (here / f"unet/{WEIGHTS}-00001-of-00002.safetensors").unlink()
    assert find(NEED) is None and find(replace(NEED, without=("unet",))) == here


def test_without_a_commit_the_one_that_was_recorded_is_meant(here):
    newest, told = replace(NEED, revision=""), folder_of(NEED.place) / "refs" / RECORD
    assert commit_of(newest) == "" and find(newest) is None
    told.parent.mkdir()
    told.write_text(f"{COMMIT}\n")
    assert commit_of(newest) == COMMIT and find(newest) == here
    told.write_text("../../elsewhere")
    assert commit_of(newest) == "" and find(newest) is None


def test_what_is_converted_is_there_once_that_is_and_its_parts_count_on_the_way(tmp_path):
    address = "https://some.where/models/a.pkl"
    need = Need("A translator", address, convert="translator", out=tmp_path / "translators" / "a")
    assert find(need) is None and held(need) == 0
    coming = tmp_path / "translators/.coming/a"
    coming.mkdir(parents=True)
    for ending, size in ((".partial", 7), (".lock", 100)):
        (coming / f"a.pkl{ending}").write_bytes(bytes(size))
    assert find(need) is None and held(need) == 7
    need.out.mkdir()
    (need.out / "config.json").write_text("{}")
    assert find(need) == need.out and files_of(need) == {"config.json": 2}


def test_a_lora_is_the_only_one_there_is_or_has_the_usual_name():
    lora, usual = replace(NEED, convert="lora"), "pytorch_lora_weights.safetensors"
    assert wanted(lora, {"a.safetensors": 5, "README.md": 1}) == {"a.safetensors": 5}
    assert wanted(lora, {"a.safetensors": 5, usual: 6}) == {usual: 6}
    with pytest.raises(HubError, match="2 LoRA files"):
        wanted(lora, {"a.safetensors": 5, "b.safetensors": 6})
    with pytest.raises(HubError, match="no safetensors"):
        wanted(lora, {"a.bin": 5})
