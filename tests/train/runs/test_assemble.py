"""`python -m train` from end to end on the tiny model: what is handed over, what is refused, and two processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from train.__main__ import main
from train.data.latents import encode_folder
from train.handover.export import read_config
from train.loop.config import ConfigError
from train.loop.console import run_command
from train.runs.jobs import LOCK, Job, held
from yoso_core.engine import Engine
from yoso_core.loading import load_model
from yoso_core.models import local_model
from yoso_core.requests import GenerateRequest, LoraUse
from yoso_core.translate import read_translator

ROOT = Path(__file__).resolve().parents[3]
SHORT = "--steps 2 --batch 4 --warmup 1 --checkpoint-every 2 --preview-every 2 --precision fp32".split()
TINY_LORA = "--rank 2 --learning-rate 1e-2".split()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Six captioned pictures, and three that no run can use."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, colour in enumerate(("red", "green", "blue", "yellow", "black", "white")):
        picture = Image.new("RGB", (80, 64), "grey")
        ImageDraw.Draw(picture).ellipse((10 + index, 10, 50, 50), fill=colour)
        picture.save(folder / f"{colour}_ball.png")
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    Image.new("RGB", (4, 4)).save(folder / "tiny.png")
    Image.new("CMYK", (64, 64)).save(folder / "cmyk_square.jpg")
    return folder


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    run_command(main)


def refused(monkeypatch, capsys, *arguments) -> str:
    """The one sentence that a command ends with."""
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *arguments)
    message = str(caught.value) if isinstance(caught.value.code, str) else capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_yoso_hands_over_a_lora_that_draws_another_picture(tmp_path, monkeypatch, tiny_model, tiny_spec, pictures):
    folder = tmp_path / "run"
    run(monkeypatch, "yoso", "--model", tiny_model, "--data", pictures, "--run", folder, *SHORT, *TINY_LORA)
    out = folder / "output"
    stored = read_config(out / "pytorch_lora_weights.safetensors")
    assert stored["rank"] == 2 and stored["data"] == pictures.name and str(tmp_path) not in json.dumps(stored)
    assert (out / "README.md").exists() and (out / "preview-last.png").exists()
    problems = (folder / "problems.txt").read_text()
    assert "broken.png: skipped" in problems and "tiny.png: skipped" in problems and "cmyk_square.jpg" in problems
    engine = Engine({"tiny": tiny_spec}, device="cpu")
    found = []
    for name in ("pytorch_lora_weights", "kohya"):
        engine.add_lora(name, out / f"{name}.safetensors")
        found.append(engine.run(GenerateRequest("a ball", model="tiny", loras=(LoraUse(name, 1.0),))).pictures[0])
    assert found[0].tobytes() == found[1].tobytes()
    assert found[0].tobytes() != engine.run(GenerateRequest("a ball", model="tiny")).pictures[0].tobytes()


def test_the_moments_of_the_prior_travel_with_the_lora(tmp_path, monkeypatch, tiny_model, pictures):
    folder = tmp_path / "run"
    run(monkeypatch, "yoso", "--model", tiny_model, "--data", pictures, "--run", folder, *SHORT, *TINY_LORA)
    spec = local_model(str(tiny_model))
    trained = load_model(replace(spec, lora=folder / "output/pytorch_lora_weights.safetensors"))
    data = encode_folder(pictures, spec.resolution, trained)
    for stored, measured in zip((trained.prior_mean, trained.prior_deviation), data.moments(), strict=True):
        torch.testing.assert_close(stored, measured, rtol=1e-3, atol=1e-3)
    assert not torch.equal(trained.prior_mean, load_model(spec).prior_mean)


def test_full_training_hands_over_a_pipeline(tmp_path, monkeypatch, tiny_model, pictures):
    folder = tmp_path / "run"
    common = ("--model", tiny_model, "--data", pictures, *SHORT)
    run(monkeypatch, "yoso", "--run", folder, "--adapter", "full", *common)
    spec = local_model(str(folder / "output"))
    assert spec.lora is None  # its network is one-step by itself
    trained = load_model(spec)
    [checkpoint] = (folder / "checkpoints").iterdir()
    average = load_file(checkpoint / "generator.average.safetensors")
    for name, value in trained.network.state_dict().items():
        torch.testing.assert_close(value, average[name].half().to(value.dtype), rtol=0, atol=0)
    data = encode_folder(pictures, spec.resolution, trained)
    for stored, measured in zip((trained.prior_mean, trained.prior_deviation), data.moments(), strict=True):
        torch.testing.assert_close(stored, measured, rtol=1e-3, atol=1e-3)


def test_adaptation_then_yoso(tmp_path, monkeypatch, tiny_model, pictures):
    """A model that predicts noise, moved to velocity and zero terminal SNR, is a base like any other."""
    common = ("--data", pictures, *SHORT)
    epsilon = ("--prediction", "epsilon", "--no-zero-terminal-snr")
    run(monkeypatch, "teacher", "--model", tiny_model, "--run", tmp_path / "epsilon", *epsilon, *common)
    noisy = load_model(local_model(str(tmp_path / "epsilon/output")))
    assert noisy.prediction == "epsilon" and noisy.schedule.alpha[-1] > 0
    run(monkeypatch, "teacher", "--model", tmp_path / "epsilon/output", "--run", tmp_path / "adapted", *common)
    adapted = load_model(local_model(str(tmp_path / "adapted/output")))
    assert adapted.prediction == "v_prediction" and adapted.schedule.alpha[-1] == 0
    run(monkeypatch, "yoso", "--model", tmp_path / "epsilon/output", "--run", tmp_path / "yoso", *common, *TINY_LORA)
    assert (tmp_path / "yoso/output/kohya.safetensors").exists()


def test_captions_alone_are_data_enough(tmp_path, monkeypatch, tiny_model):
    captions = tmp_path / "captions.txt"
    captions.write_text("a red ball\na green ball\n\na blue ball\n")
    common = ("--model", tiny_model, "--captions", captions, "--maker", tiny_model, *SHORT, *TINY_LORA)
    run(monkeypatch, "yoso", "--run", tmp_path / "run", *common)
    assert (tmp_path / "run/output/README.md").exists()


@pytest.mark.parametrize("command", ["scratch", "scratch-diffusion"])
def test_from_nothing(tmp_path, monkeypatch, pictures, command):
    common = ("--data", pictures, "--size", 8, "--channels", 16, 32)
    run(monkeypatch, command, "--run", tmp_path / "run", *common, *SHORT)
    assert (tmp_path / "run/output/unet/config.json").exists()
    assert "broken.png: skipped" in (tmp_path / "run/problems.txt").read_text()
    assert len(list((tmp_path / "run/previews").glob("*.png"))) == 2


def test_the_same_command_goes_on_and_another_is_refused(tmp_path, monkeypatch, capsys, tiny_model, pictures):
    common = ("yoso", "--model", tiny_model, "--data", pictures, "--run", tmp_path, *SHORT, *TINY_LORA)
    run(monkeypatch, *common)
    run(monkeypatch, *common, "--steps", 4)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "Started"] == [0, 2]
    assert "seed = 0, not 5" in refused(monkeypatch, capsys, *common, "--seed", 5)
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (64, 64), "pink").save(other / "pink_square.png")
    assert "data and base model" in refused(monkeypatch, capsys, *common, "--data", other)


def left(folder: Path) -> dict[str, bytes]:
    """What stands in a folder, but for locks, which say nothing."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("task", "data", "more"),
    [("translate", "--pairs", ("--perceptual", "evaluator")), ("teacher", "--data", ()), ("scratch", "--data", ())],
)
def test_a_refused_call_leaves_the_run_of_the_folder_alone(
    tmp_path, monkeypatch, capsys, tiny_model, pictures, task, data, more
):
    small = ("--size", 8, "--channels", 16, 32) if task == "scratch" else ("--model", tiny_model)
    common = ("--run", tmp_path / "run", data, pictures, *small, *more, *SHORT)
    run(monkeypatch, task, *common)
    before, job = left(tmp_path / "run"), Job(tmp_path / "run")
    assert job.state == "finished" and "problems.txt" in before
    assert "batch = 4, not 3" in refused(monkeypatch, capsys, task, *common, "--batch", 3)
    (tmp_path / "other").mkdir()
    Image.new("CMYK", (64, 64)).save(tmp_path / "other/pink_square.jpg")
    assert "data and base model" in refused(monkeypatch, capsys, task, *common, data, tmp_path / "other")
    assert "nowhere" in refused(monkeypatch, capsys, task, *common, data, "nowhere")
    with FileLock(tmp_path / "run/lock"):  # as a process that asks for no card
        assert "another process trains" in refused(monkeypatch, capsys, task, *common)
    with held(tmp_path / "run" / LOCK):
        assert "another process trains" in refused(monkeypatch, capsys, task, *common)
    assert left(tmp_path / "run") == before and job.state == "finished"


def test_a_start_that_is_refused_leaves_no_run_behind(tmp_path, monkeypatch, capsys, tiny_model, pictures):
    common = ("yoso", "--model", tiny_model, *SHORT)
    refused(monkeypatch, capsys, *common, "--data", "nowhere", "--run", tmp_path / "run")
    refused(monkeypatch, capsys, *common, "--data", pictures, "--accumulation", 9, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    refused(monkeypatch, capsys, *common, "--data", pictures, "--accumulation", 9, "--run", tmp_path / "mine")
    assert left(tmp_path / "mine") == {"notes.txt": b"mine"}


def test_a_run_that_fails_after_its_first_step_is_kept(tmp_path, monkeypatch, capsys, tiny_model, pictures):
    """Even where the settings are to blame, as for weights that are not finite."""

    def hand_over(*_):
        raise ConfigError("train again with a lower learning_rate")

    monkeypatch.setattr("train.runs.assemble._hand_over", hand_over)
    where = ("--model", tiny_model, "--data", pictures, "--run", tmp_path / "run")
    with pytest.raises(SystemExit, match="lower learning_rate"):
        run(monkeypatch, "teacher", *where, *SHORT)
    assert Job(tmp_path / "run").state == "failed" and "lower learning_rate" in Job(tmp_path / "run").reason


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--data", "nowhere"), "nowhere"),
        ((), "name the training data"),
        (("--captions", "nowhere.txt", "--maker", "yoso-emoji"), "nowhere.txt"),
        (("--data", "{pictures}", "--model", "nobody/nothing"), "40 hex digits"),
        (("--data", "{pictures}", "--model", "{pictures}"), "not a whole diffusers model"),
        (("--data", "{pictures}", "--learning-rate", "nan"), "learning_rate"),
        (("--data", "{pictures}", "--batch", "0"), "batch"),
        (("--config", "{pictures}/broken.png"), "JSON"),
        (("--data", "{pictures}", "--adapter", "both"), "adapter"),
    ],
)
def test_what_can_not_be_done_is_one_sentence(tmp_path, monkeypatch, capsys, tiny_model, pictures, arguments, named):
    given = [argument.format(pictures=pictures) for argument in arguments]
    message = refused(monkeypatch, capsys, "yoso", "--model", tiny_model, "--run", tmp_path, *given)
    assert named in message and not (tmp_path / "checkpoints").exists()


def test_a_run_among_its_pictures_is_refused(monkeypatch, capsys, tiny_model, pictures):
    """Its previews would become training pictures, and it could never go on."""
    message = refused(monkeypatch, capsys, "yoso", "--model", tiny_model, "--data", pictures, "--run", pictures / "run")
    assert "choose one outside" in message and not (pictures / "run").exists()


@pytest.mark.parametrize("place", ["a_file", "a_file/run"])
def test_a_run_where_no_folder_can_be_is_refused(tmp_path, monkeypatch, capsys, tiny_model, pictures, place):
    (tmp_path / "a_file").write_text("")
    where = ("--data", pictures, "--run", tmp_path / place)
    assert "can't be written to" in refused(monkeypatch, capsys, "yoso", "--model", tiny_model, *where)


@pytest.mark.parametrize(
    "given", [("--pairs", "{pictures}"), ("--domains", "{other}", "{pictures}")], ids=["pairs", "domains"]
)
def test_a_translator_among_its_pictures_is_refused(monkeypatch, capsys, tiny_model, pictures, tmp_path, given):
    (tmp_path / "other").mkdir()
    data = [one.format(pictures=pictures, other=tmp_path / "other") for one in given]
    message = refused(monkeypatch, capsys, "translate", "--model", tiny_model, *data, "--run", pictures / "run")
    assert "choose one outside" in message and not (pictures / "run").exists()


def test_a_translator_is_trained_from_the_command_line(tmp_path, monkeypatch, capsys, tiny_model, pictures):
    common = ("--model", tiny_model, "--perceptual", "evaluator", *SHORT, *TINY_LORA)
    run(monkeypatch, "translate", "--pairs", pictures, "--run", tmp_path / "lines", *common)
    spec = read_translator(tmp_path / "lines/output")
    assert (spec.title, spec.input, list(spec.directions)) == ("Lines to pictures", "lines", ["a2b"])
    problems = (tmp_path / "lines/problems.txt").read_text()
    assert "broken.png: skipped" in problems and "tiny.png: skipped" in problems
    card = (tmp_path / "lines/output/README.md").read_text()
    assert "--prompt 'black ball'" in card and "a red heart" not in card  # the first caption of the data
    for name in ("ink_wash", "water-colour"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64), "pink" if name == "ink_wash" else "cyan").save(tmp_path / name / "1.png")
    capsys.readouterr()
    domains = ("--domains", tmp_path / "ink_wash", tmp_path / "water-colour")
    run(monkeypatch, "translate", *domains, "--run", tmp_path / "looks", *common, "--batch", 1)
    assert "notes on the data" not in capsys.readouterr().out  # captions are not asked for
    spec = read_translator(tmp_path / "looks/output")
    assert {name: (one.title, one.prompt) for name, one in spec.directions.items()} == {
        "a2b": ("Ink wash to water colour", "water colour"),
        "b2a": ("Water colour to ink wash", "ink wash"),
    }
    assert json.loads((tmp_path / "looks/job.json").read_text())["task"] == "translate"
    assert str(tmp_path) not in (tmp_path / "looks/output/README.md").read_text().replace(str(tiny_model), "")


def test_an_unknown_setting_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.json").write_text('{"lerning_rate": 1e-3}')
    message = refused(monkeypatch, capsys, "yoso", "--config", tmp_path / "mine.json")
    assert "unknown field 'lerning_rate'" in message and "learning_rate" in message


def test_a_lora_can_not_carry_another_prediction(tmp_path, monkeypatch, capsys, tiny_model, pictures):
    given = ("--adapter", "lora", "--prediction", "epsilon", "--no-zero-terminal-snr")
    where = ("--model", tiny_model, "--data", pictures, "--run", tmp_path)
    assert "adapter full" in refused(monkeypatch, capsys, "teacher", *where, *given)


def test_a_model_of_another_family_is_refused(tmp_path, monkeypatch, capsys, tiny_model, pictures):
    """An unconditional network has no place for prompts."""
    import shutil

    from train.tasks.scratch import ScratchConfig, build_network

    shutil.copytree(tiny_model, tmp_path / "other")
    shutil.rmtree(tmp_path / "other/unet")
    build_network(ScratchConfig(size=8, channels=(16, 32))).save_pretrained(tmp_path / "other/unet")
    message = refused(monkeypatch, capsys, "yoso", "--model", tmp_path / "other", "--data", pictures)
    assert "not a Stable Diffusion model" in message


def test_two_processes_train_as_one(tmp_path, monkeypatch, tiny_model, pictures):
    """The same batch on one process and on two: the same gradients, the same weights, up to the order of a sum."""
    common = ["yoso", "--model", tiny_model, "--data", pictures, *SHORT, *TINY_LORA]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "train"]
    arguments = [sys.executable, *launch, *common, "--run", tmp_path / "two"]
    with subprocess.Popen([*map(str, arguments)], cwd=ROOT, env=environment) as two:
        run(monkeypatch, *common, "--run", tmp_path / "one")
        assert two.wait(240) == 0
    for file in ("generator", "generator.average", "discriminator"):
        one, two = (
            load_file(tmp_path / name / f"checkpoints/step-0000002/{file}.safetensors") for name in ("one", "two")
        )
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-4)
    # AdamW's first moments are the gradients of the joined batch, averaged over two steps.
    for file in ("generator.optimizer", "discriminator.optimizer"):
        one, two = (
            load_file(tmp_path / name / f"checkpoints/step-0000002/{file}.safetensors") for name in ("one", "two")
        )
        moments = [key for key in one if key.endswith("exp_avg")]
        assert moments and any(one[key].abs().max() > 1e-6 for key in moments)
        for key in moments:
            torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-6)
    logs = [(tmp_path / name / "events.jsonl").read_text() for name in ("one", "two")]
    assert logs[0].count("Finished") == logs[1].count("Finished") == 1
