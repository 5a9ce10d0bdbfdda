"""Paraphrases: the encoder alone moves, towards where labels are; a run goes on as it was."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel

from train.loop.randomness import Draws
from train.loop.trainer import Trainer
from train.recipes.corpus.lexicon import TOLD, Lexicon
from train.recipes.paraphrases import (
    ParaphrasesConfig,
    ParaphrasesTask,
    Subject,
    questions,
    read_held_out,
    read_lexicon,
    read_subjects,
    save_encoder,
)
from train.tasks.base import load_base
from yoso_core.condition import Condition
from yoso_core.models import MODELS_FOLDER
from yoso_core.words import read_words

SUBJECTS = [
    Subject(label, "food-drink", (f"{label}, 3d", f"a {label}, flat", label)) for label in ("cat", "pizza", "red heart")
]
PHRASES = {
    "cat": "cat",
    "kitty": "cat",
    "pizza": "pizza",
    "margherita": "pizza",
    "red heart": "red heart",
    "love": "red heart",
}
LEXICON = Lexicon(PHRASES, dict.fromkeys(PHRASES, TOLD))


@pytest.fixture
def task(tiny_model):
    torch.manual_seed(0)
    config = ParaphrasesConfig(
        model=str(tiny_model), batch=3, phrases=2, steps=4, warmup=1, precision="fp32", minutes=0
    )
    model, teacher = (load_base(config, torch.device("cpu"), one_step=own) for own in (True, False))
    return ParaphrasesTask(model, teacher, SUBJECTS, LEXICON, config)


def draws(step=1):
    return Draws(seed=0, step=step, batch=3, rows=slice(None))


def terms(task, step=1):
    return task.losses("encoder", task.forward(torch.arange(3), draws(step))).minimised


def test_captions_are_kept_where_nothing_has_moved(task):
    found = terms(task)
    assert found["kept"] == 0 and found["attention"] > 0.01 and found["ended"] > 0


def test_the_same_text_asks_nothing_of_the_encoder(task):
    task.lexicon = Lexicon({label: label for label in ("cat", "pizza", "red heart")}, dict.fromkeys(PHRASES, TOLD))
    task._say = lambda subject, length, picker: subject.label
    states, targets, *_ = task.forward(torch.arange(3), draws(step=5))
    # Where no style was said: styles are put into other words than the captions' own.
    assert any(torch.allclose(states[2 * index], targets[index], atol=1e-5) for index in range(3))


def test_questions_are_those_of_every_cross_attention_and_their_answers(task):
    context = task.read(["cat"], task.before)
    with questions(task.model.network) as asked:
        task.model.predict(torch.zeros(1, *task.shape), torch.tensor([5]), Condition(context))
    layers = [name for name, _ in task.model.network.named_modules() if name.endswith("attn2")]
    assert len(asked) == len(layers) > 2
    assert all(torch.equal(one.attention(one.asked, encoder_hidden_states=context), one.answer) for one in asked)
    with questions(task.model.network) as after:
        pass
    assert after == []


def test_only_the_encoder_moves_and_the_loss_falls(task, tmp_path):
    frozen = [*task.model.network.parameters(), *task.teacher.network.parameters(), *task.before.parameters()]
    copies = [value.clone() for value in frozen]
    before = sum(terms(task).values()).item()
    config = replace(task.config, steps=20, learning_rate=5e-3, warmup=2)
    list(Trainer(task, config, tmp_path).run())
    assert sum(terms(task).values()).item() < before
    assert all(torch.equal(value, copy) for value, copy in zip(frozen, copies, strict=True))


def test_a_batch_is_a_function_of_its_draws(task):
    first, again, other = (task.forward(torch.arange(3), draws(step)) for step in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])


def test_what_is_measured_are_rates_and_a_distance(task, monkeypatch):
    monkeypatch.setattr("train.recipes.paraphrases.read_held_out", lambda: {"my kitty": "cat", "a tractor": "tractor"})
    found = task.measure({"encoder": task.before})
    assert found["kept"] == 0 and {found["first"], found["among five"]} <= {0.0, 1.0}  # of one prompt: no tractor


def test_words_are_understood_that_draw_their_label(task):
    task.lexicon = Lexicon({"cat": "cat", "red heart": "red heart", "tac": "cat"}, dict.fromkeys(PHRASES, TOLD))
    assert task.places({"cat": "cat", "pizza": "pizza"}, task.before).tolist() == [0, 0]
    assert set(task.understood(task.before)) == {"cat", "tac"}  # among three labels; a single word each


def test_an_encoder_is_saved_as_the_bundled_one_is(task, tmp_path):
    save_encoder(task.encoder, tmp_path)
    assert all(value.dtype == torch.float16 for value in load_file(tmp_path / "model.safetensors").values())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    read = CLIPTextModel.from_pretrained(tmp_path, dtype=torch.float32)
    names = {name for name, _ in task.encoder.named_parameters()}
    assert names == {name for name, _ in read.named_parameters()}


def test_a_run_goes_on_from_an_encoder_and_is_held_to_the_states_of_the_model(task, tmp_path):
    with torch.no_grad():
        task.encoder.final_layer_norm.bias.add_(1)
    save_encoder(task.encoder, tmp_path)
    going_on = replace(task.config, start_from=str(tmp_path))
    second = ParaphrasesTask(task.model, task.teacher, SUBJECTS, LEXICON, going_on)
    assert terms(second)["kept"].item() == pytest.approx(terms(task)["kept"].item(), rel=1e-2)
    assert terms(second)["kept"] > 0.1


def test_a_lexicon_is_read_where_there_is_one(tmp_path):
    path = tmp_path / "lexicon.json"
    path.write_text(json.dumps({"meaning": {"kitty": "cat"}, "weight": {"kitty": 1.0}}))
    assert read_lexicon(path, tmp_path / "nowhere", set()).of("cat") == (["kitty"], [1.0])


def test_subjects_have_the_captions_of_all_their_pictures_but_those_held_out(tmp_path):
    rows = [
        {"file_name": f"{style}.png", "label": "cat", "group": "animals-nature", "captions": [f"cat, {style}", "cat"]}
        for style in ("3d", "flat", "noto")
    ]
    rows[2]["held_out"] = True
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (tmp_path / row["file_name"]).write_bytes(b"")
    assert read_subjects(tmp_path) == [Subject("cat", "animals-nature", ("cat, 3d", "cat", "cat, flat"))]


def test_held_out_prompts_mean_what_the_bundled_model_draws():
    assert set(read_held_out().values()) <= {*read_words(MODELS_FOLDER / "yoso-emoji").names}
