"""What a run hands over: every reader sees the network that was trained, and the card tells how it came about."""

import copy
import dataclasses
import json
import shlex

import pytest
import torch
import yaml
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny import FAMILY, build_unet
from train.handover.cards import Card
from train.handover.export import CONFIG_KEY, KOHYA_FILE, read_config, save_lora, save_network, save_translator
from train.loop.config import ConfigError
from train.recipes.teacher import build_scheduler
from train.tasks.base import add_lora
from train.tasks.translate import Generator, lora_layers
from train.tasks.translate_config import TranslateConfig
from train.tasks.yoso import YosoConfig
from yoso_core.__main__ import build_parser
from yoso_core.cached import LORA_FILE
from yoso_core.checkpoints import Source
from yoso_core.loading import load_model
from yoso_core.lora.admission import admit
from yoso_core.lora.reading import read_tensors
from yoso_core.lora.stack import LoraStack
from yoso_core.models import local_model
from yoso_core.translate import Direction, TranslatorSpec, read_translator

RANK, ALPHA = 4, 6
CONFIG = YosoConfig(steps=7, rank=RANK, alpha=ALPHA)
FILES = [LORA_FILE, KOHYA_FILE]


def card(base=Source("owner/name", "0" * 40), **changes):
    return Card("A title", "It draws.", base, "apache-2.0", "Four pictures of *dogs*.", 'a "red" heart', **changes)


def with_adapter(unet, alpha=ALPHA):
    """A frozen network with a LoRA on everything, of weights that count."""
    torch.manual_seed(1)
    add_lora(unet, FAMILY.targets, RANK, alpha)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return unet


def bare():
    torch.manual_seed(0)
    return build_unet()


@pytest.fixture
def network():
    return with_adapter(bare())


@torch.no_grad()
def output(unet):
    torch.manual_seed(2)
    return unet(torch.randn(2, 8, 8, 8), torch.tensor([999, 10]), torch.randn(2, 32, 32), return_dict=False)[0]


def assert_same_network(found, network):
    wanted = output(network)
    network.disable_adapters()
    assert (wanted - output(network)).abs().max() > 0.05
    network.enable_adapters()
    torch.testing.assert_close(output(found), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("alpha", [6, 1])
def test_our_own_reader_gets_the_trained_network(tmp_path, file, alpha):
    network, unet = with_adapter(bare(), alpha), bare()
    save_lora(network, tmp_path, CONFIG, card(), 7)
    stack = LoraStack({"unet": unet})
    lora = admit(tmp_path / file, stack.parts)
    stack.apply([(lora, 1.0)])
    assert_same_network(unet, network)
    merged = copy.deepcopy(network)
    merged.fuse_lora()
    weights = dict(merged.named_parameters())
    for place in lora:
        difference = stack.weight(place) - weights[place[1].replace(".weight", ".base_layer.weight")]
        assert difference.abs().max() <= 1e-3


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("alpha", [6, 1])
def test_plain_diffusers_gets_the_trained_network(tiny_model, tmp_path, file, alpha):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    network = with_adapter(copy.deepcopy(pipeline.unet), alpha)
    save_lora(network, tmp_path, CONFIG, card(), 7)
    pipeline.load_lora_weights(tmp_path, weight_name=file)
    assert_same_network(pipeline.unet, network)


def test_a_folder_is_enough_for_diffusers(tiny_model, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    network = with_adapter(copy.deepcopy(pipeline.unet))
    save_lora(network, tmp_path, CONFIG, card(), 7)
    pipeline.load_lora_weights(tmp_path)
    assert_same_network(pipeline.unet, network)


def test_every_kind_of_module_is_in_both_files(network, tmp_path):
    save_lora(network, tmp_path, CONFIG, card(), 7)
    diffusers, kohya = (load_file(tmp_path / file) for file in FILES)
    for target in FAMILY.targets:
        assert any(f"{target}.lora_A.weight" in key for key in diffusers)
        assert any(f"{target.replace('.', '_')}.lora_down.weight" in key for key in kohya)
    assert convert_state_dict_to_kohya(diffusers).keys() == kohya.keys()
    assert {value.dtype for value in diffusers.values()} == {torch.float16}
    assert {value.item() for key, value in kohya.items() if key.endswith(".alpha")} == {ALPHA}


@pytest.mark.parametrize("file", FILES)
def test_the_settings_travel_with_the_weights(network, tmp_path, file):
    save_lora(network, tmp_path, CONFIG, card(), 7)
    assert read_config(tmp_path / file) == json.loads(CONFIG.to_json())


def test_files_without_settings(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    assert read_config(path) is None
    save_file({"x": torch.zeros(1)}, path, {CONFIG_KEY: "[1]"})
    with pytest.raises(ConfigError, match=r"lora\.safetensors"):
        read_config(path)
    path.write_text("hello")
    with pytest.raises(ConfigError, match=r"lora\.safetensors"):
        read_config(path)


def test_a_compiled_average_in_channels_last_writes_the_same(network, tmp_path):
    save_lora(network, tmp_path / "plain", CONFIG, card(), 7)
    average = copy.deepcopy(torch.compile(network)).to(memory_format=torch.channels_last)
    average.mid_block = torch.compile(average.mid_block)
    save_lora(average, tmp_path / "other", CONFIG, card(), 7)
    for file in FILES:
        plain, other = (read_tensors(tmp_path / folder / file) for folder in ("plain", "other"))
        assert plain[1] == other[1] and plain[0].keys() == other[0].keys()
        assert all(torch.equal(value, other[0][key]) for key, value in plain[0].items())


@pytest.mark.parametrize("save", [save_lora, save_network])
def test_the_network_stays_as_it_is(tmp_path, save):
    network = bare() if save is save_network else with_adapter(bare())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    storage = {key: value.data_ptr() for key, value in network.state_dict().items()}
    save(network, tmp_path, CONFIG, card(), 7)
    after = network.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (
            value.dtype == after[key].dtype and torch.equal(value, after[key]) and storage[key] == after[key].data_ptr()
        )


def test_a_network_without_one_uniform_adapter_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="0 adapters"):
        save_lora(build_unet(), tmp_path, CONFIG, card(), 7)
    network.set_adapters(["default"], [0.5])
    with pytest.raises(ValueError, match="strength"):
        save_lora(network, tmp_path, CONFIG, card(), 7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_a_whole_network_comes_back(tmp_path, shard):
    network = torch.compile(bare().to(memory_format=torch.channels_last))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "stale.safetensors").write_text("of an earlier export")
    save_network(network, tmp_path, CONFIG, card(), 7, build_scheduler(), shard)
    found = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", dtype=torch.float16)
    wanted = network._orig_mod.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key].half()) for key, value in found.state_dict().items())
    torch.testing.assert_close(output(found.float()), output(bare()), rtol=1e-2, atol=1e-2)
    assert (len(list((tmp_path / "unet").glob("*.safetensors"))) > 1) == (shard == "200KB")
    assert not (tmp_path / "unet" / "stale.safetensors").exists()
    scheduler = DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.rescale_betas_zero_snr


def test_nothing_half_written_is_seen(network, tmp_path, monkeypatch):
    save_lora(network, tmp_path, CONFIG, card(), 7)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def half(tensors, path, metadata):
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr("train.handover.export.save_file", half)
    with pytest.raises(OSError, match="No space"):
        save_lora(network, tmp_path, CONFIG, card(), 9)
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in tmp_path.iterdir() if path not in before and path.suffix == ".safetensors"]


def test_whoever_may_enter_the_folder_may_read_the_files(tmp_path):
    for mode in (0o750, 0o755):
        out = tmp_path / str(mode)
        out.mkdir()
        out.chmod(mode)
        save_lora(with_adapter(bare()), out, CONFIG, card(), 7)
        save_network(bare(), out, CONFIG, card(), 7)
        files = [path for path in out.rglob("*") if path.is_file()]
        assert len(files) == 6 and {path.stat().st_mode & 0o777 for path in files} == {mode & 0o666}


def run_folder(folder):
    (folder / "previews").mkdir(parents=True)
    for step in (0, 500, 1000):
        Image.new("RGB", (4, 4), (step // 5, 0, 0)).save(folder / "previews" / f"{step:07d}.png")
    events = [
        {"event": "StepDone", "step": 500, "losses": {"adversarial": 9.0}},
        {"event": "StepDone", "step": 1000, "losses": {"adversarial": 0.125, "consistency": 0.5}},
        {"event": "Finished", "step": 1000},
    ]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"event": "St')
    return folder


def read_card(folder):
    """(front matter, text) of the card."""
    nothing, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert nothing == ""
    return yaml.safe_load(front), text


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_the_card_tells_how_it_came_about(tmp_path, full):
    save, network = (save_network, bare()) if full else (save_lora, with_adapter(bare()))
    out = tmp_path / "out"
    save(network, out, CONFIG, card(run=run_folder(tmp_path / "run")), 1000)
    front, text = read_card(out)
    assert front == {
        "base_model": "owner/name",
        "base_model_relation": "finetune" if full else "adapter",
        "library_name": "diffusers",
        "license": "apache-2.0",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "one-step", "yoso"] + ["lora"] * (not full),
    }
    for one in dataclasses.fields(CONFIG):
        assert f"| `{one.name}` | {getattr(CONFIG, one.name)} | {one.metadata['help']} |" in text
    assert "# A title" in text and "Four pictures of *dogs*." in text and "1,000 steps" in text
    assert "| adversarial | 0.1250 |" in text and "9.0" not in text
    for name, red in (("preview-first.png", 0), ("preview-last.png", 200)):
        assert f"]({name})" in text
        assert Image.open(out / name).getpixel((0, 0))[0] == red


def test_a_card_of_little(network, tmp_path):
    licence = dataclasses.replace(card(Source("/some/folder")), licence="sai-nc-community", one_step=False)
    save_lora(network, tmp_path, CONFIG, licence, 7)
    front, text = read_card(tmp_path)
    assert "base_model" not in front and "yoso" not in front["tags"]
    assert (front["license"], front["license_name"]) == ("other", "sai-nc-community")
    assert "Previews" not in text and "Last losses" not in text and "num_inference_steps=25" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["README.md", *FILES])


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("scheduler", [None, build_scheduler()], ids=["base", "own"])
def test_what_the_card_says_to_run_runs(tiny_model, tmp_path, monkeypatch, full, one_step, scheduler):
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    says = card(Source(str(tiny_model)), one_step=one_step)
    if full:
        save_network(unet, tmp_path, CONFIG, says, 7, scheduler)
    else:
        save_lora(with_adapter(unet), tmp_path, CONFIG, says, 7, scheduler)
    program = read_card(tmp_path)[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert len(list(tmp_path.glob("*.png"))) == (2 if one_step else 1)


WAYS = {"a2b": Direction("Flat to 3D", "3d"), "b2a": Direction("3D to flat", "flat")}


@pytest.fixture(params=[WAYS, {"a2b": Direction("Lines to pictures")}], ids=["both ways", "one way"])
def translator(request, tiny_model, tmp_path):
    """A folder with one, and the settings, generator and spec that it was written of."""
    base = load_model(local_model(str(tiny_model)))
    given = {"domains": (str(tmp_path / "flat"), str(tmp_path / "3d"))} if len(request.param) > 1 else {"pairs": "here"}
    config = TranslateConfig(**given, rank=2, alpha=6, autoencoder_rank=2, preview_prompts=("x" * 300, "~nobody/x"))
    generator = Generator(base, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora_layers(generator):
            layer.lora_B["default"].weight.normal_(std=0.1)
    spec = TranslatorSpec("A title", tmp_path, request.param, base.spec.family, "apache-2.0")
    out = tmp_path / "out"
    save_translator(generator, out, spec, config, card(Source(str(tiny_model))), 7)
    return out, config, generator, spec


def test_a_translator_comes_back_as_it_was_told(translator):
    out, _, generator, spec = translator
    assert read_translator(out) == dataclasses.replace(spec, folder=out)
    network = load_file(out / "unet.safetensors")
    layer = generator.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    stem = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    # Alpha is folded in: readers take a strength of 1.
    assert torch.equal(network[f"{stem}.lora_B.weight"], (3 * layer.lora_B["default"].weight).half())
    assert torch.equal(network[f"{stem}.lora_A.weight"], layer.lora_A["default"].weight.half())
    assert sorted(path.stem for path in out.glob("*.safetensors")) == sorted([*spec.directions, "unet"])


def test_the_card_of_a_translator_is_none_of_a_model_that_draws_from_words(translator, tiny_model):
    out, _, _, spec = translator
    front, text = read_card(out)
    assert front["pipeline_tag"] == "image-to-image" and "library_name" not in front
    assert front["tags"] == ["image-to-image", "one-step", "yoso", "translator"]
    assert "Pipeline" not in text and "A translator of pictures for `tiny`, trained for 7 steps." in text
    shell = text.split("```sh\n")[1].split("\n```")[0].splitlines()
    assert len(shell) == len(spec.directions)
    for line, (name, direction) in zip(shell, spec.directions.items(), strict=True):
        words = shlex.split(line)
        assert words[:7] == "python -m yoso_core translate in.png --model FOLDER".split() and f"{name}.png" in words
        assert words[words.index("--prompt") + 1] == card().prompt if direction.prompt is None else name in words
        parsed = build_parser().parse_args(words[3:])
        assert (parsed.translator, parsed.model) == ("FOLDER", tiny_model.name)
        assert getattr(parsed, "direction", None) == (name if direction.prompt else None)


def test_folders_of_who_trained_stay_out_of_what_is_handed_over(translator, tmp_path):
    out, config, *_ = translator
    told = json.loads((out / "yoso_config.json").read_text())
    assert told["domains"] == (["flat", "3d"] if config.domains else [])
    for name in ("yoso_config.json", "config.json"):
        assert str(tmp_path) not in (out / name).read_text()


def test_what_the_card_of_a_translator_says_to_run_runs(translator, tiny_model, monkeypatch):
    out, _, _, spec = translator
    (out / tiny_model.name).symlink_to(tiny_model)  # a card names no folder of whoever trained, so it has to lie there
    Image.new("RGB", (80, 64), "orange").save(out / "in.png")
    program = read_card(out)[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(out)
    exec(program, {})
    made = [(out / f"{name}.png").read_bytes() for name in spec.directions]
    assert len(set(made)) == len(spec.directions)
