"""LoRAs exchanged between requests: what a request gets depends on itself alone, and the base is never changed."""

import copy
import hashlib
import json
import pickle
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.lora.test_admission import aim_at_a_norm, halve, poison, raise_rank, reshape, save
from tests.tiny import build_unet, dense, random_lora
from yoso_core.engine import Engine
from yoso_core.lora.admission import admit
from yoso_core.lora.changes import Lora, LowRank
from yoso_core.lora.reading import LoraError
from yoso_core.lora.stack import LoraStack
from yoso_core.requests import (
    DEFAULT_MODEL,
    LORA_LIMIT,
    LORA_WEIGHT_RANGE,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
)

NAMES = tuple(f"style{index}" for index in range(LORA_LIMIT))


def pixels(result):
    return [np.asarray(picture).tobytes() for picture in result.pictures]


def convolutions_lora(unet, rank=3):
    """A LoRA for the convolutions of residual blocks, which `random_lora` leaves alone."""
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith(("conv1", "conv2")):
            tensors[f"unet.{name}.lora_A.weight"] = 0.1 * torch.randn(rank, *module.weight.shape[1:])
            tensors[f"unet.{name}.lora_B.weight"] = 0.1 * torch.randn(module.out_channels, rank, 1, 1)
    return tensors


@pytest.fixture(scope="module")
def style_files(tmp_path_factory):
    """Of attention alone, of convolutions alone, of both, in half precision, and of a few places."""
    folder, unet = tmp_path_factory.mktemp("styles"), build_unet()
    torch.manual_seed(1)
    contents = [random_lora(unet, 0.3), convolutions_lora(unet), random_lora(unet, 0.2) | convolutions_lora(unet, 5)]
    contents.append({key: value.half() for key, value in random_lora(unet, 0.3).items()})
    contents.append(dict(list(random_lora(unet, 0.3).items())[:6]))
    return {name: save(tensors, folder / f"{name}.safetensors") for name, tensors in zip(NAMES, contents, strict=True)}


@pytest.fixture(scope="module")
def styled(tiny_spec, style_files):
    """Makes engines that know all styles."""

    def make():
        engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
        for name, path in style_files.items():
            engine.add_lora(name, path)
        return engine

    return make


def mixed_request(picker: random.Random) -> GenerateRequest:
    """Any of what the engine does but control: words or a picture, with a mask or growing, under any set of LoRAs."""

    def weight():
        return picker.choice([round(picker.uniform(*LORA_WEIGHT_RANGE), 2), 0.0, 1.0])

    names = picker.sample(NAMES, picker.randrange(LORA_LIMIT + 1))
    shared = {
        "prompt": picker.choice(["a red heart", "dog", "a green car"]),
        "seed": picker.randrange(5),
        "steps": picker.choice([1, 2]),
        "guidance": picker.choice([1.0, 1.0, 1.5]),
        "size": picker.choice([None, 96]),
        "one_step": weight(),
        "loras": tuple(LoraUse(name, weight()) for name in names),
    }
    if picker.random() < 0.4:
        return GenerateRequest(**shared, count=picker.choice([1, 2]))
    generator = np.random.default_rng(picker.randrange(3))
    picture = Image.fromarray(generator.integers(0, 256, (48, 64, 3), np.uint8))
    mask = Image.fromarray((generator.random((48, 64)) < 0.5).astype(np.uint8) * 255)
    return EditRequest(
        **shared,
        picture=picture,
        strength=picker.choice([0.0, 0.3, 0.6, 1.0]),
        mask=picker.choice([None, mask]),
        feather=picker.choice([0.0, 0.1]),
        grow=picker.choice([0.0, 0.0, 0.25]),
        fit=picker.choice(["crop", "pad"]),
    )


def test_eight_threads_of_mixed_edits_equal_each_alone(styled):
    """In another order, on another engine, with seven others at the same time: the same bits."""
    picker = random.Random(0)
    requests = [mixed_request(picker) for _ in range(48)]
    serial = styled()
    alone = [pixels(serial.run(request)) for request in requests]
    assert len({str(one) for one in alone}) > len(alone) / 2  # they are different pictures
    order = random.Random(1).sample(range(len(requests)), len(requests))
    engine = styled()
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda index: pixels(engine.run(requests[index])), order))
    assert threaded == [alone[index] for index in order]


def write_pickle(path):
    path.write_bytes(pickle.dumps({"x": 1}))


def write_cut(path):
    save(random_lora(build_unet()), path)
    path.write_bytes(path.read_bytes()[:-100])


def write_long_header(path):
    header = json.dumps({"__metadata__": {"x": "a" * 17_000_000}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def harmed(harm):
    def write(path):
        tensors = random_lora(build_unet())
        harm(tensors)
        save(tensors, path)

    return write


BAD = {
    "half a pair": (harmed(halve), "half of the pair"),
    "NaN": (harmed(lambda tensors: poison(tensors, torch.nan)), "NaN"),
    "infinite": (harmed(lambda tensors: poison(tensors, -torch.inf)), "infinite"),
    "another width": (harmed(reshape), "another model"),
    "rank 300": (harmed(raise_rank), "rank 300"),
    "a norm": (harmed(aim_at_a_norm), "another model"),
    "another architecture": (
        harmed(lambda tensors: tensors.update({"unet.mid_block.no.such.lora_A.weight": torch.zeros(4, 4)})),
        "no place for",
    ),
    "a pickle": (write_pickle, "is a pickle"),
    "cut short": (write_cut, "can't be read as safetensors"),
    "a header of 17 MB": (write_long_header, "has a header of 17 MB"),
}


@pytest.fixture(scope="module")
def engine_with_bad_files(styled, tmp_path_factory):
    engine, folder = styled(), tmp_path_factory.mktemp("bad")
    for number, (kind, (write, _)) in enumerate(BAD.items()):
        path = folder / f"bad{number}.safetensors"
        write(path)
        engine.add_lora(kind, path)
    return engine


@pytest.mark.parametrize("kind", BAD)
def test_after_a_bad_file_the_next_picture_is_the_same(engine_with_bad_files, kind):
    engine = engine_with_bad_files
    good = GenerateRequest("a red heart", seed=3, loras=(LoraUse(NAMES[0]), LoraUse(NAMES[1], -0.5)))
    before = pixels(engine.run(good))
    for loras in [(LoraUse(kind),), (LoraUse(NAMES[2]), LoraUse(kind, 0.0))]:  # refused even where it would do nothing
        with pytest.raises(LoraError, match=BAD[kind][1]) as caught:
            engine.run(GenerateRequest("a red heart", seed=3, loras=loras))
        assert "\n" not in str(caught.value)
        assert pixels(engine.run(good)) == before


def network_digest(unet):
    return hashlib.sha256(b"".join(value.float().numpy().tobytes() for value in unet.state_dict().values())).hexdigest()


def test_the_base_is_that_of_the_file_after_a_hundred_swaps(engine_with_bad_files, tiny_model):
    engine, picker = engine_with_bad_files, random.Random(2)
    engine.run(GenerateRequest("a"))
    model = engine._loaded[DEFAULT_MODEL]
    refused = 0
    for swap in range(100):
        names = picker.sample(NAMES, picker.randrange(1, 4))
        bad = [picker.choice(list(BAD))] if swap % 5 == 4 else []
        loras = tuple(LoraUse(name, round(picker.uniform(*LORA_WEIGHT_RANGE), 2)) for name in names + bad)
        try:
            engine.run(GenerateRequest("a", loras=loras, one_step=picker.choice([1.0, 0.5, 0.0])))
        except RequestError:
            refused += 1
    assert refused == 20
    stored = load_file(tiny_model / "unet" / "diffusion_pytorch_model.safetensors")
    for (_, name), value in model.loras.base.items():
        assert torch.equal(value, stored[name])
    model.loras.apply([])
    assert all(torch.equal(value, stored[key]) for key, value in model.network.state_dict().items())


def test_a_lora_of_the_text_encoder_acts_and_is_taken_off(styled, tmp_path):
    """Prompts are remembered by what the text encoder was when they were read."""
    engine, plain = styled(), GenerateRequest("a red heart")
    torch.manual_seed(5)
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{stem}.lora_down.weight": torch.randn(4, 32), f"{stem}.lora_up.weight": torch.randn(64, 4)}
    tensors |= {f"{stem}.alpha": torch.tensor(4), "bundle_emb.word.string_to_param.*": torch.zeros(1, 32)}
    engine.add_lora("words", save(tensors, tmp_path / "words.safetensors"))
    assert "embedding" in engine.check_lora("words", DEFAULT_MODEL)[0]
    before = engine.run(plain)
    changed = engine.run(GenerateRequest("a red heart", loras=(LoraUse("words"),)))
    assert pixels(changed) != pixels(before) == pixels(engine.run(plain))
    (note,) = changed.notes
    assert note == engine.check_lora("words", DEFAULT_MODEL)[0] and not before.notes
    halfway = engine.run(GenerateRequest("a red heart", loras=(LoraUse("words", 0.5),)))
    assert pixels(halfway) not in (pixels(before), pixels(changed))


LAYOUTS = [
    (torch.float32, torch.channels_last),
    (torch.float32, torch.contiguous_format),
    (torch.bfloat16, torch.channels_last),
]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: f"{layout[0]}-{layout[1]}".replace("torch.", ""))
def unet(request):
    dtype, layout = request.param
    torch.manual_seed(0)
    return build_unet().requires_grad_(False).to(dtype).to(memory_format=layout)


@pytest.fixture
def styles(unet, style_files) -> list[Lora]:
    return [admit(path, {"unet": unet}) for path in style_files.values()]


def random_uses(styles, picker):
    """Some of the styles in any order, at any weights; mostly the same one leads, as the one-step LoRA does."""
    chosen = picker.sample(styles[1:], picker.randrange(4))
    if picker.random() < 0.7:
        chosen = [styles[0], *chosen]
    return [(lora, picker.choice([1.0, 1.0, 0.0, -0.5, 1.7])) for lora in chosen]


def test_any_order_of_swaps_gives_the_bits_of_a_fresh_stack(unet, styles):
    pristine, stack, picker = copy.deepcopy(unet), LoraStack({"unet": unet}), random.Random(3)
    for _ in range(25):
        uses = random_uses(styles, picker)
        stack.apply(uses)
        fresh = copy.deepcopy(pristine)
        LoraStack({"unet": fresh}).apply(uses)
        assert network_digest(unet) == network_digest(fresh)
    stack.apply([])
    assert network_digest(unet) == network_digest(pristine)


def exact(change):
    return dense(LowRank(change.down.double(), change.up.double(), change.scale))


def test_the_sum_is_what_it_should_be(unet, styles):
    uses = [(lora, weight) for lora, weight in zip(styles, (1.0, -0.5, 2.0, 0.3, 1.5), strict=True)]
    stack = LoraStack({"unet": unet})
    before = {place: stack.weight(place).double().clone() for lora in styles for place in lora}
    stack.apply(uses)
    rounding = {"rtol": 1e-2, "atol": 1e-3} if unet.dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-6}
    for place, value in before.items():
        changes = (weight * exact(lora[place]) for lora, weight in uses if place in lora)
        torch.testing.assert_close(stack.weight(place).double(), value + sum(changes), **rounding)


@pytest.mark.parametrize("good", [0, 1, 7])
def test_a_failure_anywhere_is_mended_by_whatever_comes_next(unet, styles, monkeypatch, good):
    """Memory may run out in the middle of a swap, more than once, and in the middle of a weight."""
    pristine, stack = copy.deepcopy(unet), LoraStack({"unet": unet})
    stack.apply([(styles[0], 1.0), (styles[2], 0.5)])
    write = stack._write
    for failures in (1, 2):
        calls = iter(range(1000))

        def fail(place, here, calls=calls):
            if next(calls) == good:
                stack.weight(place).fill_(torch.nan)
                raise MemoryError
            write(place, here)

        with monkeypatch.context() as patch:
            patch.setattr(stack, "_write", fail)
            with pytest.raises(MemoryError):
                stack.apply([(styles[3], 0.1 * failures), (styles[1], 1.0), (styles[2], 1.0)])
    uses = [(styles[0], 1.0), (styles[2], 0.5)]
    stack.apply(uses)
    fresh = copy.deepcopy(pristine)
    LoraStack({"unet": fresh}).apply(uses)
    assert network_digest(unet) == network_digest(fresh)


def test_a_swap_keeps_one_dense_copy_beside_the_base_and_none_of_large_networks(unet, styles):
    stack, picker = LoraStack({"unet": unet}), random.Random(4)
    for _ in range(30):
        stack.apply(random_uses(styles, picker))
    kept = sum(total.numel() for _, _, total in stack.started.values())
    touched = sum(stack.weight(place).numel() for place in {place for lora in styles for place in lora})
    assert sum(value.numel() for value in stack.base.values()) == touched
    assert kept == touched if unet.dtype == torch.float32 else kept == 0


def test_what_does_not_change_is_not_written(unet, styles, monkeypatch):
    """The convolutions keep their sum while a style of attention alone comes and goes."""
    stack, written = LoraStack({"unet": unet}), []
    monkeypatch.setattr(stack, "_write", lambda place, uses: written.append(place))
    attention, convolutions = styles[0], styles[1]
    stack.apply([(convolutions, 1.0), (attention, 1.0)])
    assert set(written) == {*attention, *convolutions}
    for uses in ([(convolutions, 1.0), (attention, 0.5)], [(convolutions, 1.0)]):
        written.clear()
        stack.apply(uses)
        assert set(written) == set(attention)
