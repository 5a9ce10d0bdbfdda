"""Every spelling that diffusers loads, loaded by it and here: the same weights; and those that it does not."""

import copy
import re

import peft
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis.strategies import booleans, data, sampled_from, text
from safetensors.torch import save_file

from tests.lora import spelt
from tests.lora.spelt import ALL, ATTENTION, TRAINED, as_diffusers, as_kohya, as_old_layers, as_old_processors, ldm_name
from yoso_core.lora.admission import PEFT_FILE, admit, check, outline
from yoso_core.lora.reading import LoraError
from yoso_core.lora.spellings import PREFIXES, ROLES, read_key, unread_kind
from yoso_core.lora.stack import LoraStack

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def layouts():
    """The networks of each layout, never changed."""
    return {"sd15": spelt.build_parts(large=False), "sdxl": spelt.build_parts(large=True)}


def state(parts):
    return {(part, name): value.clone() for part, net in parts.items() for name, value in net.named_parameters()}


def loaded_here(parts, path):
    """The parameters with a LoRA file applied at strength 1, and its notes."""
    parts = copy.deepcopy(parts)
    lora = admit(path, parts)
    assert check(path, outline(parts)) == lora.notes
    LoraStack(parts).apply([(lora, 1.0)])
    return state(parts), lora


def loaded_by_diffusers(parts, path):
    """The parameters after diffusers has loaded the file and merged it."""
    pipeline = spelt.pipeline(copy.deepcopy(parts))
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="a")
    pipeline.fuse_lora(components=list(parts), adapter_names=["a"])
    pipeline.unload_lora_weights()
    return state({part: getattr(pipeline, part) for part in parts})


def write(tensors, path, **metadata):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata or None)
    return path


def assert_same(ours, theirs, base):
    assert ours.keys() == theirs.keys()
    for place, value in theirs.items():
        torch.testing.assert_close(ours[place], value, **CLOSE, msg=lambda text, place=place: f"{place}: {text}")
    return {place for place, value in base.items() if not torch.equal(ours[place], value)}


SPELLINGS = {
    "kohya, the default of its trainer": ("sd15", ALL, as_kohya),
    "kohya, lora_te1_": ("sd15", ALL, lambda pairs: as_kohya(pairs, "lora_te1_")),
    "kohya, by diffusers, alpha a whole number": ("sd15", ALL, spelt.as_kohya_by_diffusers),
    "diffusers": ("sd15", ALL, as_diffusers),
    "diffusers, attention alone": ("sd15", ATTENTION, as_diffusers),
    "diffusers before peft, processors": ("sd15", ATTENTION, as_old_processors),
    "diffusers before peft, layers": ("sd15", ATTENTION, as_old_layers),
    "SDXL, kohya in LDM's blocks": ("sdxl", ALL, lambda pairs: as_kohya(pairs, "lora_te1_", ldm_name)),
    "SDXL, kohya in diffusers' blocks": ("sdxl", TRAINED, lambda pairs: as_kohya(pairs, "lora_te1_")),
    "SDXL, diffusers": ("sdxl", ALL, as_diffusers),
    "SDXL, kohya, by diffusers": ("sdxl", TRAINED, spelt.as_kohya_by_diffusers),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_means_what_diffusers_makes_of_it(layouts, tmp_path, spelling):
    layout, wanted, write_as = SPELLINGS[spelling]
    parts = layouts[layout]
    pairs = spelt.random_pairs(parts, wanted)
    path = write(write_as(pairs), tmp_path / "a.safetensors")
    ours, lora = loaded_here(parts, path)
    changed = assert_same(ours, loaded_by_diffusers(parts, path), state(parts))
    assert changed == {(part, f"{name}.weight") for part, name in pairs} and not lora.notes


def unet_alone(layouts):
    return {"unet": layouts["sd15"]["unet"]}


def adapted(network, config, adapter="default"):
    """A copy of a network with an adapter of peft, every matrix of which is random."""
    torch.manual_seed(2)
    model = peft.get_peft_model(copy.deepcopy(network), config, adapter_name=adapter)
    for name, value in model.named_parameters():
        if any(mark in name for mark in (".lora_", ".hada_", ".lokr_")):
            value.data = 0.3 * torch.randn(value.shape) + ("magnitude" in name)
    return model


TARGETS = ["to_q", "to_v", "to_out.0", "ff.net.2", "conv1", "conv_shortcut", "proj_in", "conv_in"]
ADAPTERS = {
    "LoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS),
    "LoRA with an alpha of some": peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, alpha_pattern={"to_v": 9, "^conv_in": 1}, rank_pattern={"conv1": 2}
    ),
    "LoRA by 1 / sqrt(r)": peft.LoraConfig(r=4, lora_alpha=2, target_modules=TARGETS, use_rslora=True),
    "DoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_dora=True),
    "LoRA with biases": peft.LoraConfig(r=4, lora_alpha=6, target_modules=["proj_in", "ff.net.2"], lora_bias=True),
    "LoHa": peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS),
    "LoHa, Tucker": peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS, use_effective_conv2d=True),
    "LoKr": peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "LoKr of two products": peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS, decompose_both=True),
    "LoKr, Tucker": peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS, use_effective_conv2d=True),
    "LoKr, full matrices": peft.LoKrConfig(r=64, alpha=32, target_modules=TARGETS),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_peft_saves_means_what_peft_makes_of_it(layouts, tmp_path, kind):
    """The strength is in the config beside, whatever the file is called."""
    parts = unet_alone(layouts)
    model = adapted(parts["unet"], ADAPTERS[kind])
    model.save_pretrained(tmp_path)
    path = (tmp_path / PEFT_FILE).rename(tmp_path / "renamed by its owner.safetensors")
    ours, lora = loaded_here(parts, path)
    assert assert_same(ours, state({"unet": model.merge_and_unload()}), state(parts)) == set(lora)
    assert not lora.notes


def test_peft_files_without_their_config_are_told(layouts, tmp_path):
    parts = unet_alone(layouts)
    adapted(parts["unet"], ADAPTERS["LoRA"]).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(LoraError, match="does not say its strength"):
        admit(tmp_path / PEFT_FILE, parts)
    path = (tmp_path / PEFT_FILE).rename(tmp_path / "renamed.safetensors")
    lora = admit(path, parts)
    assert "does not say its strength" in lora.notes[0] and {change.scale for change in lora.values()} == {1.0}


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module."])
def test_the_state_of_a_network_as_it_trains(layouts, tmp_path, wrapper):
    """With peft's name of the adapter in every key, and those of what the network was wrapped in."""
    parts = unet_alone(layouts)
    model = adapted(parts["unet"], ADAPTERS["DoRA"], "my_style")
    named = {key: value for key, value in model.state_dict().items() if "my_style" in key}
    assert any(key.endswith("lora_A.my_style.weight") for key in named)
    keys = {key: key.replace("base_model.model.", f"base_model.model.{wrapper}") for key in named}
    model.peft_config["my_style"].save_pretrained(tmp_path)
    path = write({keys[key]: value for key, value in named.items()}, tmp_path / "state.safetensors")
    ours, lora = loaded_here(parts, path)
    assert assert_same(ours, state({"unet": model.merge_and_unload()}), state(parts)) == set(lora)


def test_two_adapters_in_a_file_are_not_mixed(layouts, tmp_path):
    tensors = as_diffusers(spelt.random_pairs(unet_alone(layouts), "to_q$"))
    both = {key.replace(".weight", f".{name}.weight"): value.clone() for key, value in tensors.items() for name in "ab"}
    with pytest.raises(LoraError, match="twice"):
        admit(write(both, tmp_path / "a.safetensors"), layouts["sd15"])


@pytest.mark.parametrize("later", ["down_blocks_1", "input_blocks_4"])
def test_of_two_spellings_in_a_file_that_of_diffusers_counts(layouts, tmp_path, later):
    """As diffusers has it; the same spelling twice is no such file."""
    parts = {"unet": layouts["sdxl"]["unet"]}
    place = "unet", "down_blocks.1.attentions.0.proj_in"
    down, up = spelt.random_pairs(parts, "down_blocks.1.attentions.0.proj_in")[place]
    first, ours = as_kohya({place: (down, up)}, module=ldm_name), as_kohya({place: (down, 2 * up)})
    both = first | ours if later == "down_blocks_1" else ours | first
    lora = admit(write(both, tmp_path / "a.safetensors"), parts)
    assert torch.equal(lora["unet", f"{place[1]}.weight"].up, 2 * up)
    twice = first | {
        key.replace(".weight", ".b.weight"): value.clone() for key, value in first.items() if "alpha" not in key
    }
    with pytest.raises(LoraError, match="twice"):
        admit(write(twice, tmp_path / "b.safetensors"), parts)


def test_old_files_that_name_no_part(layouts, tmp_path):
    parts = unet_alone(layouts)
    tensors = {
        key.removeprefix("unet."): value
        for key, value in as_old_processors(spelt.random_pairs(parts, ATTENTION)).items()
    }
    ours, _ = loaded_here(layouts["sd15"], write(tensors, tmp_path / "a.safetensors"))
    theirs = copy.deepcopy(layouts["sd15"])
    theirs["unet"].load_lora_adapter(dict(tensors), prefix=None, adapter_name="a")
    theirs["unet"].fuse_lora(adapter_names=["a"])
    theirs["unet"].unload_lora()
    assert assert_same(ours, state(theirs), state(layouts["sd15"]))


@pytest.mark.parametrize("kind", ["DoRA", "LoKr", "LoKr of two products", "LoKr, full matrices", "LoRA with biases"])
def test_other_kinds_that_diffusers_loads(layouts, tmp_path, kind):
    parts = unet_alone(layouts)
    config = copy.deepcopy(ADAPTERS[kind])
    if "LoKr" in kind:  # which it loads for linear layers alone
        config.target_modules = {"to_q", "to_v", "to_out.0", "ff.net.2"}
    made = peft.get_peft_model_state_dict(adapted(parts["unet"], config))
    tensors = {key.replace("base_model.model.", "unet."): value.contiguous() for key, value in made.items()}
    ours, lora = loaded_here(parts, write(tensors, tmp_path / "a.safetensors"))
    theirs = copy.deepcopy(parts["unet"])
    theirs.load_lora_adapter(dict(tensors), prefix="unet", adapter_name="a")
    theirs.fuse_lora(adapter_names=["a"])
    theirs.unload_lora()
    assert assert_same(ours, state({"unet": theirs}), state(parts)) == set(lora)


def test_what_diffusers_saves_of_settings_counts_for_each_part(layouts, tmp_path):
    parts, kept = copy.deepcopy(layouts["sd15"]), {}
    for part, alpha in (("unet", 2), ("text_encoder", 6)):
        targets = ["to_q", "to_v"] if part == "unet" else ["q_proj", "fc1"]
        config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        parts[part].add_adapter(config, "a")
        kept[f"{part}_lora_layers"] = peft.get_peft_model_state_dict(parts[part], adapter_name="a")
        kept[f"{part}_lora_adapter_metadata"] = config.to_dict()
    StableDiffusionPipeline.save_lora_weights(tmp_path, **kept)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    ours, lora = loaded_here(layouts["sd15"], path)
    assert {change.scale for (part, _), change in lora.items() if part == "unet"} == {0.5}
    assert {change.scale for (part, _), change in lora.items() if part == "text_encoder"} == {1.5}
    assert_same(ours, loaded_by_diffusers(layouts["sd15"], path), state(layouts["sd15"]))


def test_alphas_of_their_own_count(layouts, tmp_path):
    """diffusers 0.42 does not see those of attention when they differ within a file; the trainer's formula is plain."""
    parts = layouts["sd15"]
    pairs = spelt.random_pairs(parts)
    tensors = as_kohya(pairs)
    alphas = {key: torch.tensor(1.0 + number % 5) for number, key in enumerate(tensors) if key.endswith(".alpha")}
    ours, lora = loaded_here(parts, write(tensors | alphas, tmp_path / "a.safetensors"))
    scales = {key.removesuffix(".alpha"): value.item() / spelt.RANK for key, value in alphas.items()}
    assert sorted({change.scale for change in lora.values()}) == sorted(set(scales.values()))
    stems = [key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")]
    for stem, (place, (down, up)) in zip(stems, pairs.items(), strict=True):
        part, name = place
        weight = parts[part].get_submodule(name).weight
        wanted = weight + scales[stem] * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        torch.testing.assert_close(ours[part, f"{name}.weight"], wanted, **CLOSE)


LINEAR, CONVOLUTION = "mid_block.attentions.0.transformer_blocks.0.ff.net.2", "mid_block.resnets.0.conv1"  # (32, 128)
R, ONE = 3, torch.ones(())


def effect(layouts, tmp_path, tensors, module):
    """What a file with these keys of one module, as LyCORIS spells them, adds to its weight."""
    parts = unet_alone(layouts)
    named = {f"lora_unet_{module.replace('.', '_')}.{key}": value for key, value in tensors.items()}
    ours, lora = loaded_here(parts, write(named, tmp_path / "a.safetensors"))
    assert set(lora) == {("unet", f"{module}.weight")} and not lora.notes
    return ours["unet", f"{module}.weight"] - parts["unet"].get_submodule(module).weight


def random(*shape):
    return 0.3 * torch.randn(*shape)


def test_a_kernel_between_the_pair_is_the_three_convolutions_in_a_row(layouts, tmp_path):
    """LoCon with Tucker: in -> r (1x1) -> r (3x3) -> out (1x1)."""
    torch.manual_seed(3)
    down, mid, up = random(R, 32, 1, 1), random(R, R, 3, 3), random(32, R, 1, 1)
    tensors = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": 2 * ONE}
    added = effect(layouts, tmp_path, tensors, CONVOLUTION)
    pictures = torch.randn(2, 32, 6, 6)
    wanted = F.conv2d(F.conv2d(F.conv2d(pictures, down), mid, padding=1), up) * 2 / R
    torch.testing.assert_close(F.conv2d(pictures, added, padding=1), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
def test_loha_is_the_product_number_by_number(layouts, tmp_path, module):
    torch.manual_seed(3)
    shape = layouts["sd15"]["unet"].get_submodule(module).weight.shape
    (a, c), (b, d) = (random(shape[0], R) for _ in "ac"), (random(R, shape[1:].numel()) for _ in "bd")
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": 2 * ONE}
    added = effect(layouts, tmp_path, tensors, module)
    torch.testing.assert_close(added, ((a @ b) * (c @ d)).view(shape) * 2 / R, **CLOSE)


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("left", [True, False], ids=["w1", "w1_a w1_b"])
@pytest.mark.parametrize("right", [True, False], ids=["w2", "w2_a w2_b"])
def test_lokr_is_the_kronecker_product(layouts, tmp_path, module, left, right):
    """alpha / r where one of both is a product itself, and 1 where neither is, whatever alpha says."""
    torch.manual_seed(3)
    shape = layouts["sd15"]["unet"].get_submodule(module).weight.shape
    sizes = {"lokr_w1": (4, 8), "lokr_w2": (shape[0] // 4, shape[1:].numel() // 8)}
    tensors, factors = {"alpha": 2 * ONE}, []
    for (name, (rows, columns)), whole in zip(sizes.items(), (left, right), strict=True):
        a, b = random(rows, R), random(R, columns)
        tensors |= {name: a @ b} if whole else {f"{name}_a": a, f"{name}_b": b}
        factors.append(a @ b)
    scale = 1 if left and right else 2 / R
    added = effect(layouts, tmp_path, tensors, module)
    torch.testing.assert_close(added, scale * torch.kron(*factors).view(shape), **CLOSE)


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("axis", [0, 1], ids=["each output", "each input"])
def test_dora_scale_is_the_norm_of_what_comes_out(layouts, tmp_path, module, axis):
    """LyCORIS has it of each output or of each input."""
    torch.manual_seed(3)
    weight = layouts["sd15"]["unet"].get_submodule(module).weight
    pair = {"lora_down.weight": random(R, *weight.shape[1:]), "lora_up.weight": random(len(weight), R)}
    others = [other for other in range(weight.ndim) if other != axis]
    magnitude = 1 + torch.rand([1 if other != axis else size for other, size in enumerate(weight.shape)])
    moved = weight + effect(layouts, tmp_path, pair, module)
    turned = weight + effect(layouts, tmp_path, pair | {"dora_scale": magnitude}, module)
    norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
    torch.testing.assert_close(turned, magnitude * moved / norm, **CLOSE)


def test_dora_at_half_strength_is_half_way(layouts, tmp_path):
    parts = unet_alone(layouts)
    model = adapted(parts["unet"], ADAPTERS["DoRA"])
    model.save_pretrained(tmp_path)
    lora, moved = admit(tmp_path / PEFT_FILE, parts), copy.deepcopy(parts)
    stack = LoraStack(moved)
    ends = {}
    for strength in (0.0, 0.5, 1.0):
        stack.apply([(lora, strength)])
        ends[strength] = state(moved)
    for place, value in state(parts).items():
        assert torch.equal(ends[0.0][place], value)
        torch.testing.assert_close(ends[0.5][place], (value + ends[1.0][place]) / 2, **CLOSE)


def test_differences_of_weights_biases_and_norms_are_added(layouts, tmp_path):
    unet = layouts["sd15"]["unet"]
    torch.manual_seed(3)
    shapes = {
        f"{CONVOLUTION}.diff": unet.get_submodule(CONVOLUTION).weight.shape,
        f"{CONVOLUTION}.diff_b": unet.get_submodule(CONVOLUTION).bias.shape,
        "conv_norm_out.w_norm": unet.conv_norm_out.weight.shape,
        "conv_norm_out.b_norm": unet.conv_norm_out.bias.shape,
    }
    tensors = {key: torch.randn(shape) for key, shape in shapes.items()}
    named = {f"unet.{key}": value for key, value in tensors.items()}
    ours, lora = loaded_here(unet_alone(layouts), write(named, tmp_path / "a.safetensors"))
    assert len(lora) == 4 and not lora.notes
    for key, value in tensors.items():
        name = re.sub(r"\.(diff|w_norm)$", ".weight", re.sub(r"\.(diff_b|b_norm)$", ".bias", key))
        torch.testing.assert_close(ours["unet", name], unet.get_parameter(name) + value)


def test_a_bias_without_a_place_is_told(layouts, tmp_path):
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": random(R, 32), f"{stem}.lora_B.weight": random(32, R)}
    tensors[f"{stem}.lora_B.bias"] = random(32)
    lora = admit(write(tensors, tmp_path / "a.safetensors"), layouts["sd15"])
    assert len(lora) == 1 and "bias" in lora.notes[0]


def test_linear_layers_as_convolutions_and_convolutions_as_matrices(layouts, tmp_path):
    torch.manual_seed(3)
    down, up = random(R, 128), random(32, R)
    as_convolution = {"lora_down.weight": down[..., None, None], "lora_up.weight": up[..., None, None]}
    torch.testing.assert_close(effect(layouts, tmp_path, as_convolution, LINEAR), up @ down, **CLOSE)
    down = random(R, 32, 3, 3)
    as_matrix = {"lora_down.weight": down.flatten(1), "lora_up.weight": up}
    wanted = (up @ down.flatten(1)).view(32, 32, 3, 3)
    torch.testing.assert_close(effect(layouts, tmp_path, as_matrix, CONVOLUTION), wanted, **CLOSE)


STRANGERS = {
    "an embedding": ({"bundle_emb.my_word.string_to_param.*": torch.zeros(2, 32)}, "embedding"),
    "a whole number": ({"steps": torch.tensor(7)}, "unknown kind"),
    "a weight": ({"some.weight": torch.full((3,), torch.nan)}, "unknown kind"),
    "an alpha alone": ({"lora_unet_conv_in.alpha": torch.tensor(3.0)}, "unet"),
    "another part": (
        {f"lora_te2_text_projection.lora_{half}.weight": torch.zeros(4, 4) for half in ("down", "up")},
        "2 of text_encoder_2",
    ),
    "the autoencoder": ({"vae.decoder.conv_in.lora_A.weight": torch.zeros(4, 4, 3, 3)}, "1 of vae"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_beside_good_pairs_are_told_and_left_out(layouts, tmp_path, kind):
    extra, words = STRANGERS[kind]
    pairs = as_kohya(spelt.random_pairs(layouts["sd15"], "to_q$"))
    alone, _ = loaded_here(layouts["sd15"], write(pairs, tmp_path / "alone.safetensors"))
    ours, lora = loaded_here(layouts["sd15"], write(pairs | extra, tmp_path / "a.safetensors"))
    assert all(torch.equal(ours[place], value) for place, value in alone.items())
    (note,) = lora.notes
    assert "left out" in note and words in note and next(iter(extra)) in note


UNREAD = {
    "an OFT": {"lora_unet_conv_in.oft_blocks": torch.zeros(4, 4, 4)},
    "a GLoRA": {f"lora_unet_conv_in.{name}.weight": torch.zeros(4, 4) for name in ("a1", "a2", "b1", "b2")},
    "an (IA)³": {"lora_unet_conv_in.weight": torch.zeros(4), "lora_unet_conv_in.on_input": torch.zeros(())},
    "a VeRA": {"base_model.model.conv_in.vera_lambda_b": torch.zeros(4)},
    "a Control-LoRA": {"lora_controlnet": torch.zeros(()), "input_blocks.0.0.up": torch.zeros(4, 4)},
    "numbers what it changes": {f"unet:0:{half}": torch.zeros(4, 4) for half in ("up", "down")},
}


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("beside", [True, False], ids=["beside pairs", "alone"])
def test_what_is_not_read_is_called_what_it_is(layouts, tmp_path, kind, beside):
    pairs = as_kohya(spelt.random_pairs(layouts["sd15"], "to_q$")) if beside else {}
    path = write(UNREAD[kind] | pairs, tmp_path / "a.safetensors")
    for judge in (lambda: admit(path, layouts["sd15"]), lambda: check(path, outline(layouts["sd15"]))):
        with pytest.raises(LoraError, match=f"{re.escape(kind)}.*not read here"):
            judge()


NO_LORAS = {
    "an embedding": {"emb_params": torch.zeros(2, 32)},
    "a whole checkpoint": {"model.diffusion_model.out.2.weight": torch.zeros(4)},
    "a ControlNet": {"controlnet_cond_embedding.conv_in.weight": torch.zeros(4)},
    "an autoencoder": {"decoder.conv_in.weight": torch.zeros(4), "encoder.down_blocks.0.weight": torch.zeros(4)},
    "a whole network": {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(4)},
}


@pytest.mark.parametrize("kind", NO_LORAS)
def test_what_is_no_lora_is_called_what_it_is(layouts, tmp_path, kind):
    path = write(NO_LORAS[kind], tmp_path / "a.safetensors")
    with pytest.raises(LoraError, match=f"is {kind}.* and no LoRA"):
        admit(path, layouts["sd15"])


def harmful(**changes):
    """A LoKr or LoHa, broken; None takes a tensor away."""
    if any(name.startswith("hada") for name in changes):
        whole = {"hada_w1_a": random(32, R), "hada_w1_b": random(R, 128)}
        whole |= {"hada_w2_a": random(32, R), "hada_w2_b": random(R, 128)}
    else:
        whole = {"lokr_w1": random(4, 8), "lokr_w2": random(8, 16)}
    return {key: value for key, value in (whole | changes).items() if value is not None}


HARMED = {
    "half a LoHa": (harmful(hada_w2_b=None), "half"),
    "LoHa of another width": (harmful(hada_w1_b=random(R, 64)), "another model"),
    "LoHa of rank 300": (harmful(hada_w1_b=random(300, 128)), "rank 300"),
    "LoHa with NaN": (harmful(hada_w1_b=torch.full((R, 128), torch.nan)), "NaN"),
    "LoHa of whole numbers": (harmful(hada_w1_a=torch.zeros(32, R, dtype=torch.int64)), "whole numbers"),
    "LoHa with a kernel for a matrix": (harmful(hada_t1=random(R, R, 3, 3)), "another model"),
    "half a LoKr": (harmful(lokr_w2=None), "half"),
    "LoKr with both": (harmful(lokr_w1_a=random(4, 2), lokr_w1_b=random(2, 8)), "half"),
    "LoKr that does not divide": (harmful(lokr_w1=random(5, 8)), "another model"),
    "LoKr of another width": (harmful(lokr_w2=random(8, 17)), "another model"),
    "LoKr of no size": (harmful(lokr_w1=random(0, 8)), "another model"),
    "LoKr of a number": (harmful(lokr_w1=torch.zeros(())), "another model"),
    "LoKr of a vector": (harmful(lokr_w2=random(128)), "another model"),
    "LoKr and a pair": (harmful(**{"lora_up.weight": random(32, R), "lora_down.weight": random(R, 128)}), "two ways"),
    "a magnitude alone": ({"dora_scale": random(32, 1)}, "half"),
    "a magnitude of another size": (harmful(dora_scale=random(31, 1)), "another model"),
    "a difference of another shape": ({"diff": random(32, 127)}, "another model"),
    "a bias of another size": (harmful(diff_b=random(31)), "another model"),
    "a kernel of another size": (
        {"lora_down.weight": random(R, 128), "lora_mid.weight": random(R, R, 5, 5), "lora_up.weight": random(32, R)},
        "another model",
    ),
    "an endless alpha": (
        harmful(lokr_w2=None, lokr_w2_a=random(8, 2), lokr_w2_b=random(2, 16), alpha=1e30 * ONE),
        "alpha",
    ),
}


@pytest.mark.parametrize("kind", HARMED)
def test_broken_products_are_refused_with_the_reason(layouts, tmp_path, kind):
    tensors, reason = HARMED[kind]
    path = write({f"unet.{LINEAR}.{key}": value for key, value in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(LoraError, match=reason) as caught:
        admit(path, layouts["sd15"])
    assert "\n" not in str(caught.value)
    if reason not in ("NaN", "whole numbers", "alpha"):  # what only the weights themselves tell
        with pytest.raises(LoraError, match=reason):
            check(path, outline(layouts["sd15"]))


@pytest.fixture(scope="module")
def modules_of(layouts):
    """Names of what has a weight, by part, and how they are found."""
    made = {}
    for layout, parts in layouts.items():
        here, end = outline(parts), ".weight"
        names = {
            part: [name.removesuffix(end) for name in parameters if name.endswith(end)]
            for part, parameters in here.shapes.items()
        }
        made[layout] = names, here.modules
    return made


@settings(deadline=None)
@given(data())
def test_any_module_is_found_under_any_prefix(modules_of, drawn):
    names, modules = modules_of[drawn.draw(sampled_from(["sd15", "sdxl"]))]
    part = drawn.draw(sampled_from(sorted(names)))
    name = drawn.draw(sampled_from(names[part]))
    prefix = drawn.draw(sampled_from(PREFIXES[part]))
    spelled = drawn.draw(sampled_from([f"_{name}", f".{name}", f"._orig_mod.{name}", f".base_model.model.{name}"]))
    stem = prefix[:-1] + (spelled.replace(".", "_") if drawn.draw(booleans()) and "mod." not in spelled else spelled)
    role = drawn.draw(sampled_from(sorted(ROLES)))
    key = read_key(f"{stem}.{role}{drawn.draw(sampled_from(['', '.default']))}.weight")
    assert key.role == ROLES[role] and modules.find(key.stem) == (part, name)


@settings(deadline=None)
@given(text(max_size=80))
def test_no_key_is_too_odd_to_be_read(key):
    read = read_key(key)
    assert read is None or (read.role and key.startswith(read.stem))
    unread_kind([key])
