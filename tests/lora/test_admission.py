"""Admission of LoRA files: every spelling is read, every bad file is refused with its reason."""

import json
import pickle
import struct

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from tests.tiny import build_unet, dense, random_lora
from yoso_core.lora.admission import admit
from yoso_core.lora.reading import HEADER_LIMIT, KEY_LIMIT, LoraError, read_prior
from yoso_core.lora.stack import LoraStack


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return build_unet()


@pytest.fixture
def tensors(unet):
    return random_lora(unet)


def save(tensors, path, **metadata):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata or None)
    return path


def as_kohya(tensors, alpha):
    renamed = {}
    for key, value in tensors.items():
        stem, role = key.removeprefix("unet.").rsplit(".lora_", 1)
        stem = "lora_unet_" + stem.replace(".", "_")
        renamed[f"{stem}.lora_{'down' if role[0] == 'A' else 'up'}.weight"] = value
        renamed[f"{stem}.alpha"] = torch.tensor(float(alpha))
    return renamed


def as_peft(tensors):
    return {key.replace("unet.", "base_model.model.", 1): value for key, value in tensors.items()}


def test_three_spellings_are_one_lora(unet, tensors, tmp_path):
    parts = {"unet": unet}
    ours = admit(save(tensors, tmp_path / "diffusers.safetensors"), parts)
    peft = admit(save(as_peft(tensors), tmp_path / "peft.safetensors"), parts)
    kohya = admit(save(as_kohya(tensors, 2), tmp_path / "kohya.safetensors"), parts)
    assert ours.keys() == peft.keys() == kohya.keys() and len(ours) == len(tensors) / 2
    for place, change in ours.items():
        assert torch.equal(dense(change), dense(peft[place]))
        torch.testing.assert_close(dense(kohya[place]), dense(change) * 2 / 4)  # alpha / rank


def test_a_header_of_any_length_is_read(unet, tensors, tmp_path):
    """The first bytes are the header's length, and some lengths look like the start of a pickle."""
    starts = set()
    for length in range(0, 300, 8):
        path = save(tensors, tmp_path / "lora.safetensors", note="x" * length)
        starts.add(path.read_bytes()[:1])
        admit(path, {"unet": unet})
    assert b"\x80" in starts


def test_a_checkpoint_is_no_lora_to_use(unet, tensors, tmp_path):
    """It has the right names, and not the strength."""
    path = save(tensors, tmp_path / "generator.safetensors", yoso_checkpoint="generator")
    with pytest.raises(LoraError, match="checkpoint"):
        admit(path, {"unet": unet})


@pytest.mark.parametrize("key", ["lora_adapter_metadata", "yoso_prior"])
def test_metadata_nested_without_end_is_refused_or_ignored(unet, tensors, tmp_path, key):
    path = save(tensors, tmp_path / "lora.safetensors", **{key: "[" * 100_000})
    if key == "yoso_prior":
        assert read_prior(path) is None
    else:
        with pytest.raises(LoraError, match="settings"):
            admit(path, {"unet": unet})


def test_strength_is_what_peft_would_take(unet, tensors, tmp_path):
    """An alpha for all, one for some modules, and 1 / sqrt(r): in diffusers' metadata, and in peft's file beside."""
    settings = {"r": 4, "lora_alpha": 2, "alpha_pattern": {"to_k": 12}, "use_rslora": True}
    stored = json.dumps({f"unet.{key}": value for key, value in settings.items()})
    ours = admit(save(tensors, tmp_path / "diffusers.safetensors", lora_adapter_metadata=stored), {"unet": unet})
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    peft = admit(save(as_peft(tensors), tmp_path / "adapter_model.safetensors"), {"unet": unet})
    for place, change in ours.items():
        assert change.scale == peft[place].scale == (12 if place[1].endswith("to_k.weight") else 2) / 2
    assert {change.scale for change in ours.values()} == {6.0, 1.0}


@pytest.mark.parametrize("stored", ["{", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": NaN}'])
def test_strength_that_can_not_be_read_is_refused(unet, tensors, tmp_path, stored):
    path = save(tensors, tmp_path / "lora.safetensors", lora_adapter_metadata=stored)
    with pytest.raises(LoraError, match=r"adapter settings|alpha"):
        admit(path, {"unet": unet})


def test_equals_peft_in_the_network(tiny_model, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    torch.manual_seed(1)
    inputs = torch.randn(2, 8, 8, 8), torch.tensor([999, 10]), torch.randn(2, 32, 32)
    path = save(random_lora(pipeline.unet, 0.3), tmp_path / "style.safetensors")
    with torch.no_grad():
        base = pipeline.unet(*inputs, return_dict=False)[0]
        stack = LoraStack({"unet": pipeline.unet})
        stack.apply([(admit(path, stack.parts), 0.7)])
        ours = pipeline.unet(*inputs, return_dict=False)[0]
        stack.apply([])
        assert torch.equal(pipeline.unet(*inputs, return_dict=False)[0], base)
        pipeline.load_lora_weights(tmp_path, weight_name="style.safetensors", adapter_name="style")
        pipeline.set_adapters(["style"], [0.7])
        theirs = pipeline.unet(*inputs, return_dict=False)[0]
    assert (ours - base).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_weights_do_not_depend_on_what_was_applied_before(unet, tensors, tmp_path):
    stack = LoraStack({"unet": unet})
    a = admit(save(tensors, tmp_path / "a.safetensors"), stack.parts)
    b = admit(save(random_lora(unet, 0.5), tmp_path / "b.safetensors"), stack.parts)
    place = next(iter(a))
    stack.apply([(a, 0.5), (b, -1.0)])
    first = stack.weight(place).clone()
    stack.apply([(b, 2.0)])
    stack.apply([(a, 0.0)])
    stack.apply([(a, 0.5), (b, -1.0)])
    assert torch.equal(stack.weight(place), first)


def test_a_failure_in_the_middle_is_mended_by_the_next_call(unet, tensors, tmp_path, monkeypatch):
    stack = LoraStack({"unet": unet})
    lora = admit(save(tensors, tmp_path / "a.safetensors"), stack.parts)
    before = {place: stack.weight(place).clone() for place in lora}
    calls, addmm = iter(range(100)), torch.addmm

    def fail_at_the_third(*arguments, **options):
        if next(calls) == 2:
            raise MemoryError
        return addmm(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "addmm", fail_at_the_third)
        with pytest.raises(MemoryError):
            stack.apply([(lora, 1.0)])
    stack.apply([])
    assert all(torch.equal(stack.weight(place), value) for place, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.bfloat16])
def test_eight_bits_are_widened(unet, tensors, tmp_path, dtype):
    """And other precisions mean the numbers that they hold."""
    given = {key: value.to(dtype) for key, value in tensors.items()}
    lora = admit(save(given, tmp_path / "a.safetensors"), {"unet": unet})
    same = admit(save({key: value.float() for key, value in given.items()}, tmp_path / "b.safetensors"), {"unet": unet})
    assert all(
        torch.equal(change.rows(torch.empty(0)), same[place].rows(torch.empty(0))) for place, change in lora.items()
    )


def test_a_header_of_training_tags_is_read(unet, tensors, tmp_path):
    tags = json.dumps({"10_style": {f"tag number {number}": number for number in range(60_000)}})
    path = save(tensors, tmp_path / "lora.safetensors", ss_tag_frequency=tags)
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] > 1_400_000
    assert len(admit(path, {"unet": unet})) == len(tensors) / 2


def halve(tensors):
    tensors.pop(next(key for key in tensors if "lora_B" in key))


def poison(tensors, value):
    key = next(iter(tensors))
    tensors[key] = torch.full_like(tensors[key], value)


def reshape(tensors):
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = torch.zeros(4, 7)


def aim_at_a_norm(tensors):
    tensors["unet.conv_norm_out.lora_A.weight"], tensors["unet.conv_norm_out.lora_B.weight"] = (
        torch.zeros(4),
        torch.zeros(32, 4),
    )


def empty_rank(tensors):
    down = next(key for key in tensors if "lora_A" in key)
    up = down.replace("lora_A", "lora_B")
    tensors[down], tensors[up] = torch.zeros(0, tensors[down].shape[1]), torch.zeros(len(tensors[up]), 0)


def raise_rank(tensors):
    down = next(key for key in tensors if "lora_A" in key)
    up = down.replace("lora_A", "lora_B")
    tensors[down], tensors[up] = torch.zeros(300, tensors[down].shape[1]), torch.zeros(len(tensors[up]), 300)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (halve, "half of the pair"),
        (lambda tensors: poison(tensors, torch.nan), "NaN"),
        (lambda tensors: poison(tensors, torch.inf), "infinite"),
        (reshape, "another model"),
        (raise_rank, "rank 300"),
        (empty_rank, "rank 0"),
        (aim_at_a_norm, "another model"),
        (lambda tensors: tensors.update({"unet.no.such.place.lora_A.weight": torch.zeros(4, 4)}), "another model"),
        (lambda tensors: tensors.clear() or tensors.update({"x": torch.zeros(1)}), "no LoRA weights"),
        (lambda tensors: tensors.update({f"k{i}": torch.zeros(1) for i in range(KEY_LIMIT)}), "tensors"),
    ],
    ids=[
        "unpaired",
        "nan",
        "inf",
        "shape",
        "rank",
        "no rank",
        "norm",
        "unknown place",
        "nothing",
        "too many keys",
    ],
)
def test_bad_tensors_are_refused_with_the_reason(unet, tensors, tmp_path, harm, reason):
    harm(tensors)
    with pytest.raises(LoraError, match=reason):
        admit(save(tensors, tmp_path / "bad.safetensors"), {"unet": unet})


class Bomb:
    """A pickle that would leave a trace if it ran."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "empty", "header", "missing"])
def test_what_is_not_safetensors_is_refused_and_runs_nothing(unet, tmp_path, kind):
    path, trace = tmp_path / "evil.safetensors", tmp_path / "trace"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb(trace)))
        case "torch":
            torch.save({"x": Bomb(trace)}, path)
        case "text":
            path.write_text("hello " * 100)
        case "empty":
            path.write_bytes(b"")
        case "header":
            header = json.dumps({"__metadata__": {"x": "a" * HEADER_LIMIT}}).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(LoraError) as caught:
        admit(path, {"unet": unet})
    assert "\n" not in str(caught.value)
    assert not trace.exists()
