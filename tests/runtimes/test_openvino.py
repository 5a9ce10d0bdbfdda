"""OpenVINO answers what torch does, holds no weights that are not asked for, and gives way wherever it can't."""

import ast
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import Timesteps
from PIL import Image

import yoso_core.runtimes.openvino as module
from tests.test_engine import lora_files  # noqa: F401
from tests.tiny import FAMILY
from yoso_core.drawing import Result
from yoso_core.engine import Engine
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    TranslateRequest,
)
from yoso_core.runtimes.openvino import OpenVINO
from yoso_core.runtimes.parts import Decode, Part, Predict
from yoso_core.runtimes.reference import Weights

pytestmark = pytest.mark.skipif(not module.is_here(), reason="OpenVINO is not installed")
MEAN, MOST = 2, 8  # levels of 255 that pictures of two runtimes may differ by, on average and at the 99th percentile


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fast(tiny_spec, cache, monkeypatch, lora_files):  # noqa: F811
    """An engine on the tiny model, whose graphs other tests made already."""
    monkeypatch.setenv("YOSO_CACHE", str(cache))
    monkeypatch.setattr(module, "REST", 0.05)
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", runtime="openvino")
    engine.runtime.precision = "f32"  # random weights make more of bfloat16 than trained ones
    for name, path in lora_files.items():
        engine.add_lora(name, path)
    yield engine
    engine.runtime.settle()


@pytest.fixture
def plain(tiny_spec, lora_files):  # noqa: F811
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
    for name, path in lora_files.items():
        engine.add_lora(name, path)
    return engine


def pixels(result: Result) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in result.pictures]).astype(int)


def assert_alike(one: Result, other: Result) -> None:
    difference = np.abs(pixels(one) - pixels(other))
    assert difference.mean() <= MEAN and np.percentile(difference, 99) <= MOST


def test_pictures_of_the_bundled_model_look_the_same(monkeypatch, cache):
    """Every network of it: prompt, network, decoder, encoder, ControlNet and translator."""
    monkeypatch.setenv("YOSO_CACHE", str(cache))
    monkeypatch.setattr(module, "REST", 0.05)
    engines = [Engine(device="cpu", runtime=name) for name in ("torch", "openvino")]
    side = engines[0].models[DEFAULT_MODEL].resolution
    scene = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    scene.paste((200, 30, 60), (side // 4, side // 4, side // 2, side // 2))
    requests = [
        GenerateRequest("a red heart, 3d", seed=3),
        EditRequest("a red heart, 3d", picture=scene, strength=0.7, control=ControlUse(picture=scene)),
    ]
    first = next(iter(engines[0].translators))
    requests.append(TranslateRequest("a red heart, 3d", picture=scene, translator=first))
    for engine in engines:
        engine.load(DEFAULT_MODEL)
    for request in requests:
        for _ in range(2):  # compiled, then compared
            engines[1].run(request)
            engines[1].runtime.settle()
        expected, made = (engine.run(request) for engine in engines)
        assert made.runtime.startswith("openvino") and "torch" not in made.runtime
        assert expected.runtime == "torch float32"
        assert_alike(expected, made)


def test_a_model_that_is_loaded_ahead_is_fast_from_its_first_picture(fast, plain):
    fast.load(DEFAULT_MODEL)
    request = GenerateRequest("a red heart", seed=4)
    made = fast.run(request)
    assert made.runtime == "openvino f32"
    assert_alike(made, plain.run(request))


def test_a_slider_is_answered_by_torch_while_it_moves_and_compiled_when_it_rests(fast, plain):
    fast.load(DEFAULT_MODEL)
    for weight in (0.1, 0.2, 0.3, 1.5):
        request = GenerateRequest("a", loras=(LoraUse("lora0", weight),))
        moving = fast.run(request)
        assert "torch float32" in moving.runtime
        assert_alike(moving, plain.run(request))
    fast.runtime.settle()
    fast.run(request)  # compared with torch
    rested = fast.run(request)
    assert "torch" not in rested.runtime
    assert_alike(rested, plain.run(request))
    without = fast.run(GenerateRequest("a"))
    assert "torch" not in without.runtime
    assert_alike(without, plain.run(GenerateRequest("a")))
    assert np.abs(pixels(rested) - pixels(without)).mean() > MEAN


def test_sets_that_take_turns_without_rest_are_compiled_too(fast, monkeypatch):
    monkeypatch.setattr(module, "REST", 1000)
    fast.load(DEFAULT_MODEL)
    for _ in range(module.OFTEN + 1):
        fast.run(GenerateRequest("a", loras=(LoraUse("lora0", 0.5),)))
    fast.runtime.settle()
    fast.run(GenerateRequest("a", loras=(LoraUse("lora0", 0.5),)))
    assert "torch" not in fast.run(GenerateRequest("a", loras=(LoraUse("lora0", 0.5),))).runtime


def test_large_networks_are_not_swapped_for_a_compilation_alone_and_small_ones_are(fast, plain, monkeypatch):
    fast.load(DEFAULT_MODEL)
    requests = [GenerateRequest("a", loras=(LoraUse(name, 0.5),)) for name in ("lora0", "lora1")]
    networks = fast._executed[DEFAULT_MODEL]
    fast.run(requests[0])
    (part,) = networks._predict.values()
    weights = networks._weights(part)
    inputs = [torch.zeros(1, 8, 8, 8), torch.tensor([999]), torch.zeros(1, 32, 32)]
    fast.run(requests[1])
    fast.runtime.settle()
    monkeypatch.setattr(module, "SWAPPED", 0)
    assert fast.runtime._compile(part, inputs, weights, fast.lock) is None
    monkeypatch.setattr(module, "SWAPPED", 1e9)
    assert fast.runtime._compile(part, inputs, weights, fast.lock) is not None
    for request in (requests[0], requests[0], requests[1]):
        assert_alike(fast.run(request), plain.run(request))


def test_a_compiled_set_of_loras_is_answered_without_a_swap(fast, plain):
    fast.load(DEFAULT_MODEL)
    request = GenerateRequest("a", loras=(LoraUse("lora0", 0.5),))
    for _ in range(2):
        fast.run(request)
        fast.runtime.settle()
    stack = fast._loaded[DEFAULT_MODEL].loras
    in_force = stack.active
    fast.run(GenerateRequest("a"))
    fast.run(request)
    assert stack.active == in_force and len(in_force) == 2
    assert "torch" not in fast.run(request).runtime
    assert_alike(fast.run(GenerateRequest("a")), plain.run(GenerateRequest("a")))


def test_no_more_compiled_networks_than_there_is_room_for(fast, monkeypatch):
    monkeypatch.setattr(module, "COMPILED", 2)
    fast.load(DEFAULT_MODEL)
    for weight in (0.1, 0.2, 0.3):
        fast.run(GenerateRequest("a", loras=(LoraUse("lora0", weight),)))
        fast.runtime.settle()
    assert len(fast.runtime._shelves[fast._executed[DEFAULT_MODEL]._predict["context",]].ready) == 2
    assert module.room(2**50) == 1


@pytest.fixture
def part(tiny_spec, plain):
    return Decode(plain.load(DEFAULT_MODEL).autoencoder)


def run(runtime, part, times=3):
    latents = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = [runtime.run(part, (latents,), Weights(), True) for _ in range(times)]
        (expected,) = part(latents)
    return [who for _, who in answers], [answer[0] for answer, _ in answers], expected


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text("<net"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.with_suffix(".bin").write_bytes(b""),
        lambda path: path.write_text('<?xml version="1.0"?><net name="x" version="11"><layers/><edges/></net>'),
        lambda path: path.unlink(),
    ],
    ids=["no xml", "cut", "no constants", "another graph", "no graph"],
)
def test_a_broken_cache_is_made_anew_with_one_line(part, plain, tmp_path, caplog, harm):
    run(OpenVINO(plain.lock, cache=tmp_path), part, 1)
    (path,) = tmp_path.glob("graphs/*/graph.xml")
    harm(path)
    who, answers, expected = run(OpenVINO(plain.lock, cache=tmp_path), part)
    assert who[-1].startswith("openvino")
    assert len(caplog.records) == 1 and "made anew" in caplog.text
    torch.testing.assert_close(answers[-1], expected, atol=0.05, rtol=0.05)
    run(OpenVINO(plain.lock, cache=tmp_path), part, 1)
    assert len(caplog.records) == 1


def test_sides_that_can_not_be_halved_throughout_are_compiled_too(plain, tmp_path, caplog):
    predict = Predict(FAMILY, plain.load(DEFAULT_MODEL).network)
    runtime = OpenVINO(plain.lock, "f32", tmp_path)
    for shape in ((8, 8), (11, 6), (6, 11), (9, 7), (12, 6)):
        inputs = (
            torch.randn(1, predict.network.config.in_channels, *shape),
            torch.tensor([999]),
            torch.zeros(1, 4, 32),
        )
        with torch.inference_mode():
            (expected,) = predict(*inputs)
            for _ in range(2):
                (answer,), who = runtime.run(predict, inputs, Weights(), True)
        assert who == "openvino f32", (shape, caplog.text)
        torch.testing.assert_close(answer, expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_keep_their_values(part, plain, tmp_path, dtype):
    latents = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    (expected,) = part.to(dtype).float()(latents)
    runtime = OpenVINO(plain.lock, "f32", tmp_path)
    with torch.inference_mode():
        for _ in range(2):
            (answer,), who = runtime.run(part.to(dtype), (latents.to(dtype),), Weights(), True)
    assert who == "openvino f32" and answer.dtype == dtype
    assert (answer.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_a_cache_that_can_not_be_written_to_is_one_line(part, plain, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    who, _, _ = run(OpenVINO(plain.lock, cache=tmp_path / "file"), part)
    assert who[-1].startswith("openvino")
    assert len(caplog.records) == 1 and "can't be kept" in caplog.text


def test_a_graph_on_disk_holds_no_weights_and_serves_other_ones(part, plain, tmp_path, monkeypatch):
    run(OpenVINO(plain.lock, cache=tmp_path), part, 1)
    (folder,) = (tmp_path / "graphs").iterdir()
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(OpenVINO, "_trace", lambda *arguments: pytest.fail("traced again"))
    with torch.no_grad():
        part.decoder.decoder.conv_out.bias += 3
    who, answers, expected = run(OpenVINO(plain.lock, cache=tmp_path), part)
    assert who[-1].startswith("openvino") and expected.mean() > 2
    torch.testing.assert_close(answers[-1], expected, atol=0.05, rtol=0.05)
    largest = max(value.numel() * value.element_size() for value in part.parameters())
    constants = folder / "graph.bin"
    assert constants.stat().st_size < largest and size < 1_000_000


def fail(*arguments, **options):
    raise RuntimeError("the driver\nis gone")


@pytest.mark.parametrize("step", ["_trace", "_write", "_compare"])
def test_whatever_fails_torch_answers_and_one_line_says_so(part, plain, tmp_path, caplog, monkeypatch, step):
    monkeypatch.setattr(OpenVINO, step, fail)
    who, answers, expected = run(OpenVINO(plain.lock, cache=tmp_path), part)
    assert who == ["torch float32"] * 3
    assert all(torch.equal(answer, expected) for answer in answers)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "torch does" in record.message and "the driver is gone" in record.message


def test_a_device_that_fails_later_gives_way(part, plain, tmp_path, caplog, monkeypatch):
    runtime = OpenVINO(plain.lock, cache=tmp_path)
    assert run(runtime, part)[0][-1].startswith("openvino")
    monkeypatch.setattr(module._Compiled, "__call__", fail)
    who, answers, expected = run(runtime, part, 2)
    assert who == ["torch float32"] * 2 and torch.equal(answers[0], expected)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("wrong", [lambda array: array * np.nan, lambda array: array + 1], ids=["NaN", "wrong"])
def test_results_that_are_not_torchs_are_not_used(part, plain, tmp_path, caplog, monkeypatch, wrong):
    call = module._Compiled.__call__
    monkeypatch.setattr(module._Compiled, "__call__", lambda self, inputs: [wrong(one) for one in call(self, inputs)])
    who, answers, expected = run(OpenVINO(plain.lock, cache=tmp_path), part)
    assert who == ["torch float32"] * 3 and all(torch.equal(answer, expected) for answer in answers)
    assert "differ" in caplog.text


def test_nobody_is_told_of_what_is_imported():
    module.load_library()
    assert sys.modules["openvino_telemetry"] is None


def test_the_library_is_imported_only_where_it_is_used():
    for path in Path(module.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "openvino" for name in names), path


def test_small_networks_get_one_thread_and_large_ones_all(part, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    for small, threads in ((1e15, 1), (1, 2)):
        monkeypatch.setattr(module, "SMALL", small)
        runtime = OpenVINO(plain.lock, cache=tmp_path)
        run(runtime, part, 1)
        (compiled,) = runtime._shelves[part].ready.values()
        assert compiled.library.get_property("INFERENCE_NUM_THREADS") == threads


def test_a_large_network_is_left_to_torch_where_memory_is_short(fast, plain, monkeypatch, caplog):
    monkeypatch.setattr(module, "SWAPPED", 0)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    fast.load(DEFAULT_MODEL)
    request = GenerateRequest("a cat", seed=2)
    made = fast.run(request)
    assert made.runtime == "torch float32" and "of memory, and 0.0 are free" in caplog.text
    assert_alike(made, plain.run(request))


@pytest.mark.parametrize("flip", [True, False])
def test_times_are_embedded_as_the_network_does_it(flip):
    own = Timesteps(32, flip, 0.0)
    for times in (torch.tensor([0, 1, 999]), torch.tensor([0.0, 0.3, 1.5, 999.75, 1536.0])):
        torch.testing.assert_close(module._Sinusoids(own)(times), own(times), rtol=0, atol=1e-4)


def test_the_last_timestep_is_not_another_in_bfloat16(plain, tmp_path):
    """999 is 1,000 in it, whose sines are others."""

    class Embedded(Part):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.out = Timesteps(64, True, 0.0), torch.nn.Linear(64, 8).bfloat16()

        def forward(self, t: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.out(self.time(t).to(self.out.weight.dtype)),)

    part, t = Embedded().requires_grad_(False), torch.tensor([999, 3])
    runtime = OpenVINO(plain.lock, "bf16", cache=tmp_path)
    with torch.inference_mode():
        expected = part(t)[0].float()
        runtime.run(part, [t], Weights(), True)
        (made,), who = runtime.run(part, [t], Weights(), True)
    assert who == "openvino bf16" and (made.float() - expected).abs().mean() < 0.02 * expected.abs().mean()
