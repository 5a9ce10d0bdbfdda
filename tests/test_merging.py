"""theta_high + (theta_yoso - theta_low), in files, whole or not at all."""

import json
import os
import shutil

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file

from benchmarks.pixart import layout, write_random_pixart
from yoso_core.__main__ import main
from yoso_core.checkpoints import ModelError
from yoso_core.loading import load_model
from yoso_core.merging import find_network, merge_resolution
from yoso_core.models import local_model

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A pipeline at the high resolution, and networks before and after one-step training at the low one."""
    root = tmp_path_factory.mktemp("merge")
    write_random_pixart(root / "high", sized=True, small=True, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name in ("low", "yoso"):
            network = PixArtTransformer2DModel(**layout(small=True)["transformer"])
            network.save_pretrained(root / name, max_shard_size="100KB")
    return root


@pytest.fixture
def folders(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "given")
    return tmp_path / "given"


def weights(folder):
    network = find_network(folder)
    return {name: network.tensor(name) for name in network.shapes}


def test_the_sum_is_the_paper_s_and_a_model_that_loads(folders, tmp_path, capsys):
    given = [str(folders / name) for name in ("high", "yoso", "low")]
    assert main(["merge-resolution", *given, "--out", str(tmp_path / "out")]) == 0
    high, yoso, low, made = (weights(folders / name) for name in ("high", "yoso", "low", "../out"))
    assert made.keys() == high.keys() > low.keys() == yoso.keys()
    for name, value in made.items():
        wanted = high[name] + (yoso[name] - low[name]) if name in low else high[name]
        torch.testing.assert_close(value, wanted)
    assert f"{len(high) - len(low)} weights" in capsys.readouterr().out
    spec = local_model(str(tmp_path / "out"))
    assert load_model(spec, dtype=torch.float32).prediction == "v_prediction" and spec.resolution == 1024
    source, linked = (root / "text_encoder/model.safetensors" for root in (folders / "high", tmp_path / "out"))
    assert os.path.samefile(source, linked)
    assert main(["merge-resolution", *given, "--out", str(tmp_path / "out")]) == 1
    assert "there already" in capsys.readouterr().err


def test_networks_alone_are_files_of_the_same_names(folders, tmp_path):
    assert merge_resolution(folders / "low", folders / "yoso", folders / "low", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in (folders / "low").iterdir()}
    made, yoso = weights(tmp_path / "out"), weights(folders / "yoso")
    assert all(torch.allclose(made[name], value, atol=1e-6) for name, value in yoso.items())


def test_a_run_that_was_cut_off_goes_on_and_leaves_nothing_half_done(folders, tmp_path, monkeypatch):
    given = [folders / name for name in ("low", "yoso", "low")]
    written = []

    def failing(tensors, path, metadata):
        written.append(path.name)
        if len(written) == 2:
            raise OSError("no space left")
        save_file(tensors, path, metadata)

    monkeypatch.setattr("yoso_core.merging.save_file", failing)
    with pytest.raises(OSError, match="no space"):
        merge_resolution(*given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge_resolution(*given, tmp_path / "out")
    shards = len(list(folders.glob("low/*.safetensors")))
    assert shards > 2 and len(written) == shards + 1 and len(list(tmp_path.iterdir())) == 2


def drop(name):
    def harm(folders):
        path = max(folders.glob(f"{name}/*.safetensors"))
        save_file(dict(sorted(load_file(path).items())[1:]), path)

    return harm


def widen(folders):
    path = max(folders.glob("yoso/*.safetensors"))
    tensors = load_file(path)
    first = min(tensors)
    save_file(tensors | {first: torch.cat([tensors[first]] * 2)}, path)


def explode(folders):
    path = max(folders.glob("yoso/*.safetensors"))
    tensors = load_file(path)
    save_file(tensors | {min(tensors): torch.full_like(tensors[min(tensors)], torch.inf)}, path)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (drop("yoso"), "only one of them has"),
        (widen, "different shapes"),
        (explode, "not be finite"),
        (lambda folders: os.remove(folders / "low/config.json"), "holds no network"),
        (
            lambda folders: (folders / "low/x.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "../x"}})
            ),
            "only safetensors",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_no_folder(folders, tmp_path, harm, reason):
    harm(folders)
    with pytest.raises(ModelError, match=reason) as refused:
        merge_resolution(folders / "high", folders / "yoso", folders / "low", tmp_path / "out")
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()
