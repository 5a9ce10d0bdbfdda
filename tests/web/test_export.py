"""What an export holds, of tiny models; what the page makes of it is tests/browser/test_web.py's."""

import hashlib
import io
import json
import tarfile
import zlib

import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper

from yoso_core.__main__ import main
from yoso_core.loading import load_model
from yoso_core.lora.admission import admit
from yoso_core.requests import RequestError
from yoso_core.sampling import prior_start, sdedit_start, strength_timestep
from yoso_core.web import export


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A tarball with the files that are taken out of the real one."""
    path = tmp_path_factory.mktemp("npm") / "runtime.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (file for files in export.BUILDS.values() for file in files):
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    return path


@pytest.fixture(scope="module")
def model(tiny_spec):
    return load_model(tiny_spec, dtype=torch.float32)


@pytest.fixture(scope="module")
def uses(model, tiny_lora):
    return [(model.one_step, 1.0), (admit(tiny_lora.path, model.loras.for_requests), 0.5)]


@pytest.fixture(scope="module")
def made(model, uses, runtime, tmp_path_factory):
    out = tmp_path_factory.mktemp("web") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "fetch_runtime", lambda: runtime)
        return out, export.export_page(model, uses, out)


def about(out):
    return json.loads((out / "model.json").read_text())


def weights(path):
    """The graph of a network, and what is stored in it."""
    graph = onnx.load_model_from_string(zlib.decompress(path.read_bytes())).graph
    return graph, [numpy_helper.to_array(one) for one in graph.initializer]


def test_the_list_holds_every_file_and_what_it_holds(made):
    out, sizes = made
    listed = json.loads((out / export.LISTING).read_text().removeprefix("const FILES = ").removesuffix(";\n"))
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(listed) == set(sizes) == files - {export.LISTING, "README.md", "sw.js"}
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in listed.items())


def test_sizes_are_the_models(made, model):
    out, _ = made
    told = about(out)
    assert told["side"] == model.spec.resolution and told["latent"] == [8, 8, 8]
    assert told["context"] == [model.parts["tokenizer"].model_max_length, 32]
    graph, _ = weights(out / told["networks"]["network"])
    shape = [each.dim_value for each in graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, *told["latent"]]


def test_a_picture_starts_as_in_python(made, model):
    told = about(made[0])
    noise, clean = torch.randn(2, 1, *told["latent"])
    mean, deviation = (torch.tensor(told["first"][name])[:, None, None] for name in ("mean", "deviation"))
    expected = prior_start(model.schedule, noise, model.prior_mean, model.prior_deviation)
    torch.testing.assert_close(mean + deviation * noise, expected)
    for hundredth in (0, 37, 99, 100):
        t, kept, drowned = told["edits"][hundredth]
        assert t == strength_timestep(model.schedule, hundredth / 100, told["latent"][-1])
        torch.testing.assert_close(kept * clean + drowned * noise, sdedit_start(model.schedule, clean, noise, t))


def test_weights_are_halves_of_what_the_loras_make_of_them(made, model, uses):
    _, stored = weights(made[0] / "networks" / "network.onnx.deflate")
    model.loras.apply(uses)
    merged = model.network.state_dict()["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"].half().numpy()
    assert any(one.dtype == merged.dtype and one.shape == merged.shape and (one == merged).all() for one in stored)
    assert all(one.dtype == merged.dtype for one in stored)


def test_the_folder_is_a_static_space(made):
    _, front, _ = (made[0] / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["sdk"] == "static" and (made[0] / head["app_file"]).is_file()
    assert set(head["custom_headers"]) == {f"cross-origin-{name}-policy" for name in ("embedder", "opener", "resource")}
    manifest = json.loads((made[0] / "manifest.webmanifest").read_text())
    assert all((made[0] / icon["src"]).is_file() for icon in manifest["icons"])


def test_nothing_of_somebody_else_is_written_over(made, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RequestError, match="holds something else"):
        export.refuse_other_folders(tmp_path)
    with pytest.raises(RequestError, match="is a file"):
        export.refuse_other_folders(tmp_path / "letter.txt")
    export.refuse_other_folders(made[0])
    export.refuse_other_folders(tmp_path / "new")


def test_what_the_page_can_not_read_is_refused(model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(export, "MOST", 1000)
    with pytest.raises(RequestError, match="million weights"):
        export.export_page(model, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setattr(export, "TOKENIZER", ("spiece.model",))
    with pytest.raises(RequestError, match="reads prompts in a way"):
        export.export_page(model, [], tmp_path / "out")
    assert main(["export-web", str(tmp_path / "out"), "--lora", "nowhere.safetensors"]) == 1
    assert "There is no LoRA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
