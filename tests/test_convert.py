"""Published checkpoints: what is converted computes what they compute, and nothing else gets through."""

import copy
import hashlib
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.tiny_checkpoint import Paired, Unpaired, build_model
from yoso_core import convert, pickles
from yoso_core.__main__ import main
from yoso_core.autoencoder import to_pil
from yoso_core.condition import Condition
from yoso_core.convert import PUBLISHED, convert_lora, convert_network, convert_translator
from yoso_core.engine import Engine
from yoso_core.lora.reading import FILE_LIMIT, read_prior
from yoso_core.prompts import as_it_is
from yoso_core.requests import RequestError, TranslateRequest
from yoso_core.translate import find_translators, load_translator, read_translator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def paired(model):
    return Paired(model, blend=False)


@pytest.fixture(scope="module")
def unpaired(model):
    return Unpaired(model)


@pytest.fixture
def given():
    """Pictures, a prompt's encoding and noise for the tiny model."""
    generator = torch.Generator().manual_seed(5)
    pictures = torch.rand(1, 3, 64, 64, generator=generator)
    return pictures, torch.randn(1, 7, 32, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)


def converted(checkpoint, path, **settings):
    """The translator of a checkpoint, as it is read back."""
    torch.save(checkpoint, path)
    spec, _ = convert_translator(path, path.with_name("out"), **settings)
    assert read_translator(spec.folder) == spec
    return spec


@torch.no_grad()
def ours(model, spec, pictures, context, strength=1.0, noise=None):
    loaded = load_translator(spec, model)
    direction = spec.direction("")
    model.loras.apply([(loaded.loras[direction], strength)])
    made = loaded.on(model, direction)(pictures, Condition(context), strength, noise).clamp(-1, 1)
    model.loras.apply([])
    return made


def assert_same(one, other):
    assert (one - other).abs().max() < 1e-4 * other.std()


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("lora_on_skips", [False, True])
@torch.no_grad()
def test_a_paired_one_computes_the_same(model, tmp_path, given, blend, lora_on_skips):
    pictures, context, noise = given
    reference = Paired(model, blend, lora_on_skips)
    spec = converted(reference.checkpoint(), tmp_path / "x.pkl")
    wanted = reference(pictures, context)
    assert_same(ours(model, spec, pictures, context), wanted)
    if blend:
        less = reference(pictures, context, 0.4, noise)
        assert_same(ours(model, spec, pictures, context, 0.4, noise), less)
        assert (less - wanted).abs().mean() > 0.1 * wanted.std()


def test_a_network_is_converted_one_weight_after_another(tmp_path, monkeypatch):
    """As safetensors writes it, whatever its size, and without a second copy in memory."""
    state = {
        "a.weight": torch.randn(3, 4, 1, 1).half(),
        "b": torch.tensor(2.0),
        "c": torch.randn(6, 4).bfloat16()[::2].T,
    }
    torch.save(state, tmp_path / "unet.bin")
    monkeypatch.setattr(pickles, "FILE_LIMIT", 10)
    monkeypatch.setattr(pickles, "save_file", lambda *_, **__: pytest.fail("all was held in memory"))
    digest = convert_network(tmp_path / "unet.bin", tmp_path / "out.safetensors")
    assert digest == hashlib.sha256((tmp_path / "unet.bin").read_bytes()).hexdigest()
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "converted_from_sha256": digest}
        read = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in state.items())


class Ran:
    def __reduce__(self):
        return os.system, ("touch run",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"a": Ran()}, "no pickle of weights alone"),
        ({"a": torch.tensor([float("nan")])}, "NaN or infinite"),
        ({"a": torch.tensor([1])}, "is of torch.int64"),
        ({"a": "b"}, "is no tensor but str"),
        ({}, "no weights by name"),
        ({"a": torch.zeros(1).expand(10**12)}, "far larger than the file"),
        (b"\x80\x02no zip", "as torch.save writes it"),
    ],
)
def test_a_network_that_can_not_be_taken_is_told(tmp_path, monkeypatch, content, told):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "unet.bin"
    source.write_bytes(content) if isinstance(content, bytes) else torch.save(content, source)
    with pytest.raises(RequestError, match=told):
        convert_network(source, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["unet.bin"]


def test_a_network_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "unet.bin", "wb") as file:
        file.truncate(pickles.MAPPED_LIMIT + 1)  # sparse
    with pytest.raises(RequestError, match="more than 16 GiB"):
        convert_network(tmp_path / "unet.bin", tmp_path / "out.safetensors")


@pytest.mark.parametrize("way", ["a2b", "b2a"])
@torch.no_grad()
def test_an_unpaired_one_computes_the_same(model, unpaired, tmp_path, given, way):
    pictures, context, _ = given
    spec = converted(unpaired.checkpoint(), tmp_path / "x.pkl", direction=way, prompt="night")
    wanted, other = (unpaired(2 * pictures - 1, context, each) for each in (way, {"a2b": "b2a", "b2a": "a2b"}[way]))
    made = ours(model, spec, 2 * pictures - 1, context)
    assert_same(made, wanted)
    assert (made - other).abs().mean() > 0.1 * other.std()
    assert list(spec.directions) == [way] and spec.directions[way].prompt == "night" and spec.black == -1


@torch.no_grad()
def test_the_engine_gives_lines_as_they_were_learned(model, paired, tmp_path):
    """Paired ones learned white lines of value 1 on black of value 0."""
    spec = converted(paired.checkpoint(), tmp_path / "edge_to_image_loras.pkl")
    lines = Image.fromarray((np.random.default_rng(0).random((64, 64, 1)) > 0.8).repeat(3, 2).astype(np.uint8) * 255)
    engine = Engine({"sd": model.spec}, device="cpu", translators={"edges": spec})
    request = TranslateRequest("a cat", model="sd", picture=lines, translator="edges", annotator="map")
    made = np.asarray(engine.run(request).pictures[0]).astype(int)
    context = engine._condition(request, as_it_is("a cat"), (64, 64))[0].context
    pictures = torch.from_numpy(np.array(lines)).permute(2, 0, 1)[None] / 255
    wanted = np.asarray(to_pil(paired(pictures, context))[0]).astype(int)
    assert np.abs(made - wanted).max() <= 1
    inverted = np.asarray(to_pil(paired(1 - pictures, context))[0]).astype(int)
    assert np.abs(made - inverted).mean() > 1


def test_what_is_known_of_published_files(paired, unpaired, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "CONVERTED_TRANSLATORS", tmp_path / "converted")
    for name, known in PUBLISHED.items():
        one_way = "image" in name
        torch.save((paired if one_way else unpaired).checkpoint(), tmp_path / name)
        spec, digest = convert_translator(tmp_path / name)
        assert spec.folder == tmp_path / "converted" / known.name and spec.title == known.title
        assert (spec.input, spec.ink, spec.black) == (("lines", "white", 0) if one_way else ("picture", "white", -1))
        assert (spec.directions[known.direction].prompt is None) == one_way
        assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert json.loads((spec.folder / "config.json").read_text())["source_sha256"] == digest
        with safe_open(spec.folder / "unet.safetensors", "pt") as file:
            assert file.metadata()["converted_from_sha256"] == digest
    assert {known.name for known in PUBLISHED.values()} <= find_translators(tmp_path / "converted").keys()


def test_the_other_direction_of_a_published_file_has_another_caption(unpaired, tmp_path):
    torch.save(unpaired.checkpoint(), tmp_path / "day2night.pkl")
    with pytest.raises(RequestError, match="--prompt"):
        convert_translator(tmp_path / "day2night.pkl", tmp_path / "out", direction="b2a")
    assert not (tmp_path / "out").exists()


def test_the_command(paired, tmp_path, capsys):
    torch.save(paired.checkpoint(), tmp_path / "mine.pkl")
    out = tmp_path / "new" / "mine"
    settings = ["--title", "Mine", "--input", "lines", "--ink", "black", "--licence", "mit", "--prompt", "a shoe"]
    assert main(["convert-translator", str(tmp_path / "mine.pkl"), str(out), *settings]) == 0
    assert hashlib.sha256((tmp_path / "mine.pkl").read_bytes()).hexdigest() in capsys.readouterr().out
    spec = read_translator(out)
    assert (spec.title, spec.input, spec.ink, spec.licence) == ("Mine", "lines", "black", "mit")
    assert spec.directions["a2b"].prompt == "a shoe"
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    assert main(["convert-translator", str(tmp_path / "mine.pkl"), str(out)]) == 1
    assert "there already" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def nan(state, key):
    state[key] = torch.full_like(state[key], torch.nan)


def drop(state, ending):
    del state[next(key for key in state if key.endswith(ending))]


SKIP = "decoder.skip_conv_2"
DOWN = "up_blocks.0.resnets.0.conv1.lora_A.default.weight"
BROKEN_PAIRED = {
    "a missing setting": (lambda told: told.pop("rank_vae"), "'rank_vae' is missing"),
    "a missing state": (lambda told: told.pop("state_dict_vae"), "'state_dict_vae' is missing"),
    "an unknown setting": (lambda told: told.update(beta=1), "'beta' in it is unknown"),
    "an unknown weight": (lambda told: told["state_dict_unet"].update(x=torch.ones(1)), "'x' in its state_dict_unet"),
    "a magnitude": (
        lambda told: told["state_dict_vae"].update({"a.lora_magnitude_vector.vae_skip": torch.ones(1)}),
        "lora_magnitude_vector",
    ),
    "another adapter": (
        lambda told: told["state_dict_unet"].update({"a.lora_A.other.weight": torch.ones(8, 1)}),
        "is unknown",
    ),
    "a wrong rank": (lambda told: told.update(rank_unet=4), "no LoRA of rank 4"),
    "a rank that is text": (lambda told: told.update(rank_unet="8"), "rank_unet is '8'"),
    "a rank of nothing": (lambda told: told.update(rank_vae=0), "rank_vae is 0"),
    "a rank that is true": (lambda told: told.update(rank_vae=True), "rank_vae is True"),
    "half a LoRA": (lambda told: drop(told["state_dict_unet"], "lora_B.default.weight"), "half of a LoRA"),
    "no skip": (lambda told: told["state_dict_vae"].pop(f"{SKIP}.base_layer.weight"), "skip_conv_2.weight' is missing"),
    "a skip of another shape": (
        lambda told: told["state_dict_vae"].update({f"{SKIP}.base_layer.weight": torch.ones(24, 24, 1, 1)}),
        "skip 2, is of another shape",
    ),
    "no first convolution": (lambda told: told["state_dict_unet"].pop("conv_in.bias"), "'conv_in.bias' is missing"),
    "NaN": (lambda told: nan(told["state_dict_unet"], DOWN), "NaN"),
    "NaN in the first convolution": (lambda told: nan(told["state_dict_unet"], "conv_in.weight"), "NaN"),
    "NaN in a skip": (lambda told: nan(told["state_dict_vae"], f"{SKIP}.base_layer.weight"), "NaN"),
    "whole numbers": (
        lambda told: told["state_dict_vae"].update({f"{SKIP}.base_layer.weight": torch.ones(24, 16, 1, 1).long()}),
        "torch.int64",
    ),
    "no tensor": (lambda told: told["state_dict_unet"].update({DOWN: [1.0]}), "no tensor but list"),
    "a huge tensor of one number": (
        lambda told: told["state_dict_unet"].update({DOWN: torch.ones(1).expand(8, 10**12)}),
        "far larger than the file",
    ),
    "no state": (lambda told: told.update(state_dict_unet=[]), "holds no weights by name"),
}


@pytest.mark.parametrize("name", BROKEN_PAIRED)
def test_a_broken_paired_one_is_refused(paired, tmp_path, name):
    change, reason = BROKEN_PAIRED[name]
    refused(paired.checkpoint(), change, reason, tmp_path)


BROKEN_UNPAIRED = {
    "a missing state": (lambda told: told.pop("sd_decoder"), "'sd_decoder' is missing"),
    "a missing module": (
        lambda told: [told["sd_other"].pop(key) for key in list(told["sd_other"]) if key.startswith("conv_out.")],
        "its sd_other lacks 'conv_out'",
    ),
    "a module twice": (
        lambda told: told["sd_other"].update({key: value for key, value in told["sd_encoder"].items()}),
        "has two LoRAs",
    ),
    "modules that are none": (lambda told: told.update(l_modules_others=3), "can't be converted"),
    "another autoencoder": (
        lambda told: told["sd_vae_dec"].update({"vae_c.x": torch.ones(1)}),
        "'vae_c.x' in its autoencoders is unknown",
    ),
    "autoencoders that were trained whole": (
        lambda told: told["sd_vae_dec"].update({"vae.post_quant_conv.bias": torch.ones(4)}),
        "'post_quant_conv.bias' is not the same",
    ),
    "a wrong rank": (lambda told: told.update(rank_vae=2), "no LoRA of rank 2"),
    "NaN": (lambda told: nan(told["sd_encoder"], "conv_in.lora_B.weight"), "NaN"),
}


@pytest.mark.parametrize("name", BROKEN_UNPAIRED)
def test_a_broken_unpaired_one_is_refused(unpaired, tmp_path, name):
    change, reason = BROKEN_UNPAIRED[name]
    refused(unpaired.checkpoint(), change, reason, tmp_path, prompt="night")


def refused(checkpoint, change, reason, folder, **settings):
    checkpoint = {key: copy.copy(value) for key, value in checkpoint.items()}
    change(checkpoint)
    torch.save(checkpoint, folder / "x.pkl")
    with pytest.raises(RequestError) as error:
        convert_translator(folder / "x.pkl", folder / "out", **settings)
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in folder.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize("data", [b"hello", b"", b"\x80\x02.", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_told_in_words(tmp_path, data):
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(RequestError, match=r"x\.pkl can't be converted \(\w+ .*\)\.$"):
        convert_translator(tmp_path / "x.pkl", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"direction": "b2a"}, "one way"),
        ({"direction": "../a2b"}, "one way"),
        ({"input": "sound"}, "its input is 'sound'"),
        ({"ink": "red"}, "its ink is 'red'"),
        ({"title": "x" * 301}, "no short text"),
        ({"title": "two\nlines"}, "no short text"),
    ],
)
def test_settings_are_checked(paired, tmp_path, settings, reason):
    refused(paired.checkpoint(), lambda told: None, reason, tmp_path, **settings)


@pytest.mark.parametrize("settings", [{}, {"prompt": "night", "direction": "../b2a"}])
def test_an_unpaired_one_needs_its_caption_and_a_known_direction(unpaired, tmp_path, settings):
    refused(unpaired.checkpoint(), lambda told: None, "../b2a" if settings else "--prompt", tmp_path, **settings)


@pytest.mark.parametrize("content", [{}, {"a": torch.ones(1)}, [torch.ones(1)], torch.ones(1), None, {1: 2}], ids=str)
def test_other_pickles_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pkl")
    with pytest.raises(RequestError, match="no checkpoint of pix2pix-turbo or CycleGAN-Turbo"):
        convert_translator(tmp_path / "x.pkl", tmp_path / "out")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_pickle_is_run(paired, tmp_path, zipped):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "bomb"), "w")

    torch.save(paired.checkpoint() | {"x": Bomb()}, tmp_path / "x.pkl", _use_new_zipfile_serialization=zipped)
    for make in (convert_translator, convert_lora):
        with pytest.raises(RequestError, match="no pickle of weights alone") as error:
            make(tmp_path / "x.pkl", tmp_path / "out")
        assert "weights_only" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_a_zip_that_unpacks_to_far_more_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pkl", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(RequestError, match="far larger than the file"):
        convert_translator(tmp_path / "x.pkl", tmp_path / "out")


def test_files_that_are_too_large_are_not_read(tmp_path):
    with open(tmp_path / "x.pkl", "wb") as file:
        file.truncate(FILE_LIMIT + 1)  # takes no place on the disk
    with pytest.raises(RequestError, match="more than 4 GiB"):
        convert_translator(tmp_path / "x.pkl", tmp_path / "out")


def test_a_failure_half_way_leaves_nothing(paired, tmp_path, monkeypatch):
    torch.save(paired.checkpoint(), tmp_path / "x.pkl")

    def full(*arguments, **options):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(convert, "write_config", full)
    with pytest.raises(RequestError, match="no space left"):
        convert_translator(tmp_path / "x.pkl", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


MOMENTS = {"mean": [0.5, -1.0, 0.0, 2.0], "deviation": [1.0, 2.0, 0.5, 1.0]}


def test_a_lora_may_be_given_the_moments_of_its_latents(tmp_path):
    torch.save({"unet.down.lora_A.weight": torch.ones(2, 3)}, tmp_path / "x.bin")
    (tmp_path / "moments.json").write_text(json.dumps(MOMENTS))
    first, second, plain = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "plain"))
    convert_lora(tmp_path / "x.bin", first, tmp_path / "moments.json")
    convert_lora(tmp_path / "x.bin", second, first)  # of another LoRA
    convert_lora(tmp_path / "x.bin", plain)
    assert read_prior(plain) is None
    for path in (first, second):
        assert [moment.tolist() for moment in read_prior(path)] == list(MOMENTS.values())


@pytest.mark.parametrize(
    "content", ["", "{}", '{"mean": [1], "deviation": [1, 2]}', '{"mean": [1], "deviation": [-1]}', "[]", "5", None]
)
def test_moments_that_are_none_change_nothing(tmp_path, content):
    torch.save({"x": torch.ones(2)}, tmp_path / "x.bin")
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(RequestError, match=r"m\.json (can't be read|has no moments)"):
        convert_lora(tmp_path / "x.bin", tmp_path / "out.safetensors", tmp_path / "m.json")
    assert not (tmp_path / "out.safetensors").exists()
