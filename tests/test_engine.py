"""The engine: same request, same pixels, whoever asks beside it; bad requests change nothing."""

import hashlib
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import build_unet, dense, random_lora
from yoso_core.checkpoints import ModelError
from yoso_core.engine import Engine, PictureError
from yoso_core.models import local_model
from yoso_core.prompts import choose
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse, RequestError


def pixels(result):
    return [np.asarray(picture).tobytes() for picture in result.pictures]


@pytest.fixture(scope="module")
def lora_files(tmp_path_factory):
    """Three LoRAs for the tiny model."""
    folder, paths = tmp_path_factory.mktemp("loras"), {}
    for index in range(3):
        torch.manual_seed(index)
        paths[f"lora{index}"] = folder / f"lora{index}.safetensors"
        save_file(random_lora(build_unet(), 0.3), paths[f"lora{index}"])
    return paths


@pytest.fixture
def engine_with_loras(engine, lora_files):
    for name, path in lora_files.items():
        engine.add_lora(name, path)
    return engine


def test_result_says_what_was_done(engine):
    result = engine.run(GenerateRequest("a red heart", seed=7, count=2, guidance=1.5, steps=2))
    assert result.seeds == [7, 8] and len(result.pictures) == 2
    assert result.evaluations == 4
    assert result.pictures[0].size == (64, 64) and result.pictures[0].mode == "RGB"
    stages = result.seconds
    assert stages["total"] >= stages["text"] + stages["network"] + stages["decode"] > 0


def test_others_have_their_turn_between_pictures(engine):
    engine.run(GenerateRequest("a"))
    order, many = [], GenerateRequest("a", count=4)

    def listen(message: str) -> None:
        if not message.startswith("Drawing"):  # it waits
            return
        order.append("many")
        if len(order) == 1:  # while its first picture is drawn
            thread.start()
            for _ in range(500):
                if engine.lock._waiting:
                    break
                time.sleep(0.01)

    thread = threading.Thread(
        target=lambda: engine.run(
            GenerateRequest("b"), lambda message: message.startswith("Drawing") and order.append("one")
        )
    )
    result = engine.run(many, listen)
    thread.join(60)
    assert order == ["many", "one", "many", "many", "many"]
    assert (result.request.prompt, result.request.seed, result.request.count) == ("a", 0, 4)
    assert result.seeds == [0, 1, 2, 3] and len(result.pictures) == 4


def test_same_seed_same_pixels_alone_or_in_a_batch(engine):
    together = pixels(engine.run(GenerateRequest("a red heart", seed=7, count=3)))
    alone = [pixels(engine.run(GenerateRequest("a red heart", seed=seed)))[0] for seed in (7, 8, 9)]
    assert together == alone
    assert len(set(together)) == 3


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a dog"}, {"seed": 8}, {"steps": 2}, {"guidance": 3.0}, {"guidance": 3.0, "negative": "dog"}],
    ids=str,
)
def test_every_field_acts(engine, change):
    request = GenerateRequest("a red heart", seed=7)
    assert pixels(engine.run(request)) != pixels(engine.run(replace(request, **change)))
    if "negative" in change:
        assert pixels(engine.run(replace(request, guidance=3.0))) != pixels(engine.run(replace(request, **change)))


def test_any_size_of_the_grid(engine):
    assert engine.run(GenerateRequest("a", size=96)).pictures[0].size == (96, 96)
    with pytest.raises(RequestError, match="as many pixels as a square of 96 in steps of 8, not 1024"):
        engine.run(GenerateRequest("a", size=1024))


def test_a_seed_near_the_limit_wraps(engine):
    assert engine.run(GenerateRequest("a", seed=2**32 - 1, count=2)).seeds == [2**32 - 1, 0]


def test_a_cut_prompt_shows_what_was_cut(engine):
    assert engine.run(GenerateRequest("a red heart")).cut == ""
    result = engine.run(GenerateRequest("heart " * 40 + "rocket"))
    assert result.cut.endswith("rocket")


def test_eight_threads_of_mixed_requests_equal_serial(engine_with_loras):
    picker = random.Random(0)
    requests = [
        GenerateRequest(
            picker.choice(["a red heart", "dog", "a green car"]),
            seed=picker.randrange(5),
            steps=picker.choice([1, 2, 4]),
            guidance=picker.choice([1.0, 1.5]),
            loras=tuple(LoraUse(f"lora{index}", picker.choice([0.5, 1.0])) for index in picker.sample(range(3), 2)),
        )
        for _ in range(100)
    ]
    serial = {request: pixels(engine_with_loras.run(request)) for request in requests}
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda request: pixels(engine_with_loras.run(request)), requests))
    assert threaded == [serial[request] for request in requests]


def test_base_weights_come_back_after_a_hundred_swaps(engine_with_loras, tmp_path):
    engine = engine_with_loras
    broken = tmp_path / "broken.safetensors"
    tensors = random_lora(build_unet())
    save_file({key: value * torch.nan for key, value in tensors.items()}, broken)
    engine.add_lora("broken", broken)

    def base_digest():
        engine._loaded[DEFAULT_MODEL].loras.apply([])
        state = engine._loaded[DEFAULT_MODEL].network.state_dict()
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()

    engine.load(DEFAULT_MODEL)
    before = base_digest()
    picture = pixels(engine.run(GenerateRequest("a")))
    for index in range(100):
        name = "broken" if index % 10 == 9 else f"lora{index % 3}"
        if name == "broken":
            with pytest.raises(RequestError, match="NaN"):
                engine.run(GenerateRequest("a", loras=(LoraUse(name),)))
        else:
            engine.run(GenerateRequest("a", loras=(LoraUse(name, 0.1 * (index % 7)),)))
    assert pixels(engine.run(GenerateRequest("a"))) == picture
    assert base_digest() == before


def test_a_prompt_is_encoded_once(engine, monkeypatch):
    engine.run(GenerateRequest("a red heart"))
    encoder = engine._loaded[DEFAULT_MODEL].parts["text_encoder"]
    monkeypatch.setattr(type(encoder), "forward", lambda *args, **kwargs: pytest.fail("encoded again"))
    engine.run(GenerateRequest("a red heart", seed=1))


def test_nan_is_no_picture(engine):
    engine.load(DEFAULT_MODEL)
    weight = engine._loaded[DEFAULT_MODEL].network.conv_out.bias.data
    before = weight.clone()
    weight.fill_(torch.nan)
    with pytest.raises(PictureError, match="NaN"):
        engine.run(GenerateRequest("a"))
    weight.copy_(before)
    engine.run(GenerateRequest("a"))


def test_unknown_names_are_refused(engine):
    with pytest.raises(RequestError, match="no model"):
        engine.run(GenerateRequest("a", model="../../etc"))
    with pytest.raises(RequestError, match="no LoRA"):
        engine.run(GenerateRequest("a", loras=(LoraUse("/etc/passwd"),)))
    engine.run(GenerateRequest("a"))


def break_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    "harm",
    [
        break_weights,
        lambda folder: shutil.rmtree(folder / "unet"),
        lambda folder: (folder / "model_index.json").unlink(),
        lambda folder: (folder / "vae" / "config.json").write_text("{"),
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / "yoso_lora.safetensors").unlink(),
    ],
    ids=["cut weights", "no unet", "no index", "bad json", "no folder", "no lora"],
)
def test_a_broken_folder_is_one_sentence_and_the_next_request_works(tiny_model, tiny_spec, tmp_path, harm):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    spec = local_model(str(folder))
    harm(folder)
    engine = Engine({DEFAULT_MODEL: tiny_spec, "broken": spec}, device="cpu")
    with pytest.raises(ModelError) as caught:
        engine.run(GenerateRequest("a", model="broken"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    engine.run(GenerateRequest("a"))


def test_two_models_and_no_more_stay_in_memory(tiny_spec):
    engine = Engine(dict.fromkeys("abc", tiny_spec), device="cpu")
    same = {name: pixels(engine.run(GenerateRequest("x", model=name))) for name in "abc"}
    assert len({tuple(value) for value in same.values()}) == 1
    assert list(engine._loaded) == ["b", "c"]


def test_the_one_step_lora_is_in_force(engine, tiny_model):
    engine.run(GenerateRequest("a"))
    model = engine._loaded[DEFAULT_MODEL]
    base = load_file(tiny_model / "unet" / "diffusion_pytorch_model.safetensors")
    place = next(iter(model.one_step))
    change = model.loras.weight(place) - base[place[1]]
    torch.testing.assert_close(change, dense(model.one_step[place]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_one_sentence_and_the_next_request_works(engine, monkeypatch, failure):
    def fail(*arguments):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr("yoso_core.runtimes.parts.decode", fail)
        with pytest.raises(PictureError, match="not enough memory"):
            engine.run(GenerateRequest("a"))
    engine.run(GenerateRequest("a"))


def test_a_replaced_lora_file_takes_effect(engine, lora_files):
    request = GenerateRequest("a", loras=(LoraUse("style"),))
    seen = []
    for path in lora_files.values():
        engine.add_lora("style", path)
        seen += pixels(engine.run(request))
    assert len(set(seen)) == len(lora_files)


def test_brackets_weigh_words_and_are_none(engine):
    def drawn(prompt, **settings):
        return pixels(engine.run(GenerateRequest(prompt, **settings)))

    assert drawn("a (red:1.0) heart") == drawn("a red heart") == drawn("a ([red]) heart")
    assert len({drawn(f"a (red:{weight}) heart")[0] for weight in (0, 0.5, 1, 1.5)}) == 4
    assert drawn("a red heart BREAK 3d") != drawn("a red heart 3d")
    heavy = {"guidance": 2.0, "negative": "(blue:1.5)"}
    assert drawn("a red heart BREAK 3d", **heavy) != drawn("a red heart BREAK 3d", **heavy | {"negative": "blue"})
    result = engine.run(GenerateRequest("a [cat:dog:0.5] __pet__", count=2))
    assert len(result.notes) == 2 and "read as “cat”" in result.notes[0]


def test_every_seed_makes_its_own_choice_and_makes_it_again(engine):
    prompt = "a {red|blue|green} {heart|cat}"
    together = engine.run(GenerateRequest(prompt, seed=4, count=4))
    assert together.seeds == [4, 5, 6, 7] and together.request.count == 4
    words = [choose(prompt, seed) for seed in together.seeds]
    told = [f"Seed {seed}: {', '.join(text.split()[1:])}." for seed, text in zip(together.seeds, words, strict=True)]
    assert together.notes == (*told,)
    assert len(set(words)) > 1 and len(words) == 4
    for seed, text, picture in zip(together.seeds, words, pixels(together), strict=True):
        alone = engine.run(GenerateRequest(prompt, seed=seed))
        assert pixels(alone) == [picture] == pixels(engine.run(GenerateRequest(text, seed=seed)))


def test_tags_in_a_prompt_are_loras_of_the_library(engine_with_loras):
    asked = GenerateRequest("a red heart, <lora:lora1:0.5> <lora:nothing:1>")
    result = engine_with_loras.run(asked)
    wanted = GenerateRequest("a red heart", loras=(LoraUse("lora1", 0.5),))
    assert pixels(result) == pixels(engine_with_loras.run(wanted))
    assert result.request.loras == wanted.loras and result.notes == (
        "There is no LoRA “nothing” here to act on the prompt: left out.",
    )
    assert pixels(engine_with_loras.run(result.request)) == pixels(result)
