"""Everyday words for a finished model: its text encoder goes on learning, everything else stays as it is.

    python -m train.recipes.corpus.emoji --out data/emoji
    python -m train.recipes.paraphrases --model models/yoso-emoji --run runs/paraphrases --minutes 40

A model knows its captions; "a corgi on the beach" means nothing to it, although it draws dogs. The encoder is trained
so that such a phrase leads the frozen network to the picture that the label leads it to: every cross-attention has to
answer the same questions in the same way, those of the one-step network at its first timestep and of the teacher at
any; and where both texts have ended the encoder's states have to be equal, whatever else reads them (LoRAs,
ControlNets, translators). Captions that the model was trained on keep their states. No picture is looked at.

Which label a phrase means: `train.recipes.corpus.lexicon`; how people put it: `train.recipes.corpus.sayings`.
Needs ``requirements-recipes.txt``.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel

from train.data.latents import digest_of, grid, weights_fingerprint
from train.data.reader import read_listing
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws, Use, generator_for
from train.loop.trainer import Losses, Player, Trainer
from train.recipes.corpus.emoji import CORPUS, GROUPS, LABELS_PACKAGE, STYLES, read_labels
from train.recipes.corpus.lexicon import TOLD, Lexicon, make_lexicon
from train.recipes.corpus.sayings import say
from train.recipes.corpus.wordnet import PACKAGE, Nouns
from train.recipes.corpus.words import styled
from train.recipes.text_encoder import sentence_embeddings
from train.tasks.base import load_base
from yoso_core.autoencoder import decode
from yoso_core.condition import Condition
from yoso_core.families.unet import clip_texts
from yoso_core.loading import LoadedModel
from yoso_core.npm import fetch
from yoso_core.sampling import one_step, prior_start
from yoso_core.words import words_in

HELD_OUT_FILE = Path(__file__).with_name("paraphrases_held_out.json")  # prompt -> label; nothing is learned from them
# How often a label is meant, by its group: as people ask for it.
DEMAND = {"animals-nature": 3, "food-drink": 3, "travel-places": 2, "activities": 2, "objects": 2}
MANY = 25000  # commonest English words that are asked for a meaning
COMMON, COMMON_PART = 3.3, 4.0  # Zipf frequency that a phrase of several words has, and each of its words
SHORT = 20  # tokens that four of five steps compute; the whole length takes twice as long
AMONG = 5  # labels whose pictures are nearest, that of the one that is meant included
STYLED = 0.4  # of phrases name a style


@dataclass(frozen=True)
@with_defaults(steps=4000, warmup=50, batch=40, learning_rate=8e-4, weight_decay=0.0, ema=0.99, cooldown=0.5)
class ParaphrasesConfig(RunConfig):
    model: str = setting("yoso-emoji", "whose text encoder goes on: a known model or a folder", on_resume=True)
    data: str = setting(str(CORPUS), "folder with the captions that it was trained on", on_resume=True)
    lexicon: str = setting("data/lexicon.json", "what phrases mean; made where there is no such file", on_resume=True)
    tarballs: str = setting("data/npm", "where npm tarballs are kept", on_resume=True)
    start_from: str = setting("", "folder of a text encoder to go on from; without one, the model's own")
    phrases: int = setting(8, "phrases of each label in a batch")
    attention_weight: float = setting(1.0, "weight of what cross-attentions answer")
    ended_weight: float = setting(0.5, "weight of states where both texts have ended")
    kept_weight: float = setting(6.0, "weight of the states of trained captions")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "phrases")
        self._at_least(0, "attention_weight", "ended_weight", "kept_weight")


@dataclass(frozen=True)
class Subject:
    """What a picture is of: its label, the group of emoji that it is in, and the captions that were trained."""

    label: str
    group: str
    captions: tuple[str, ...]


def read_subjects(folder: Path) -> list[Subject]:
    """Of a corpus; what is held out is in none."""
    found: dict[str, tuple[str, list[str]]] = {}
    for row in read_listing(folder).rows:
        found.setdefault(row["label"], (row["group"], []))[1].extend(row["captions"])
    return [Subject(label, group, tuple(dict.fromkeys(captions))) for label, (group, captions) in found.items()]


def read_lexicon(path: Path, tarballs: Path, labels: set[str]) -> Lexicon:
    """Read what phrases mean, or find it out once: minutes, with the sentence model."""
    if path.exists():
        return Lexicon(**json.loads(path.read_text("utf-8")))
    from wordfreq import top_n_list, zipf_frequency

    art = [one for one in read_labels(fetch(LABELS_PACKAGE, tarballs), GROUPS) if one.label in labels]
    nouns = Nouns.read(fetch(PACKAGE, tarballs))
    words = [word for word in top_n_list("en", MANY) if word.isalpha() and len(word) > 2]
    words += [
        phrase
        for phrase in nouns.of
        if " " in phrase
        and phrase.replace(" ", "").isalpha()
        and nouns.things(phrase, most=1)
        and zipf_frequency(phrase, "en") > COMMON
        and all(zipf_frequency(word, "en") > COMMON_PART for word in phrase.split())
    ]
    lexicon = make_lexicon(art, words, nouns, sentence_embeddings)
    for one in art:
        lexicon.add("".join(chr(int(point, 16)) for point in one.code.split("-")), one.label, TOLD)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(lexicon), ensure_ascii=False, indent=0), "utf-8")
    return lexicon


def read_held_out() -> dict[str, str]:
    """Prompts that nothing is learned from, and the label that each means."""
    return json.loads(HELD_OUT_FILE.read_text("utf-8"))


class Reader:
    """Texts as a model's tokenizer and encoder read them."""

    def __init__(self, tokenizer: Any, device: torch.device) -> None:
        self.tokenizer, self.device = tokenizer, device

    def tokens(self, texts: Sequence[str], length: int) -> Tensor:
        """(N, length) int64, filled up with the end token."""
        return self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids.to(self.device)

    def fits(self, text: str, length: int) -> bool:
        return len(self.tokenizer(text).input_ids) <= length

    def ended(self, tokens: Tensor) -> Tensor:
        """(N, L) bool: the end token and what it is filled up with."""
        return (tokens == self.tokenizer.eos_token_id).cumsum(1) > 0


@dataclass(frozen=True)
class Question:
    """What one cross-attention was asked, and what it answered.

    Attributes:
        attention: the layer.
        asked: (B, P, C) states of the picture.
        answer: (B, P, C), given the label.
    """

    attention: nn.Module
    asked: Tensor
    answer: Tensor

    def error(self, context: Tensor, each: int) -> Tensor:
        """How far the answers are off with another context (B * each, L, D), relative to how labels differ; scalar."""
        asked, answer = (value.repeat_interleave(each, 0) for value in (self.asked, self.answer))
        off = (self.attention(asked, encoder_hidden_states=context) - answer).float().square().mean()
        return off / self.answer.float().var(0).mean().clamp_min(1e-6)


@contextmanager
def questions(network: nn.Module) -> Iterator[list[Question]]:
    """What the cross-attentions of a network are asked meanwhile."""
    found: list[Question] = []

    def note(attention: nn.Module, given: tuple, named: dict[str, Any], answer: Tensor) -> None:
        found.append(Question(attention, given[0], answer))

    hooks = [
        module.register_forward_hook(note, with_kwargs=True)
        for name, module in network.named_modules()
        if name.endswith("attn2")
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class ParaphrasesTask:
    """Lead phrases to where the frozen network has the picture of their label.

    Args:
        model: with its one-step LoRA; frozen.
        teacher: the same without.
        subjects: what it knows.
        lexicon: phrases that mean these.
        config: of the run.
    """

    averaged = ("encoder",)

    def __init__(
        self,
        model: LoadedModel,
        teacher: LoadedModel,
        subjects: list[Subject],
        lexicon: Lexicon,
        config: ParaphrasesConfig,
    ) -> None:
        self.model, self.teacher, self.subjects, self.config = model, teacher, subjects, config
        self.lexicon, self.all_phrases = lexicon, list(lexicon.meaning)
        for module in (model.network, teacher.network, *model.encoders):
            module.requires_grad_(False).eval()
        (self.before,) = model.encoders
        self.encoder = CLIPTextModel(self.before.config).to(model.device)
        start = CLIPTextModel.from_pretrained(config.start_from) if config.start_from else self.before
        self.encoder.load_state_dict(start.state_dict())
        if model.device.type == "cpu":
            self.encoder.set_attn_implementation("eager")  # on few tokens fused attention takes twice as long
            self.before.set_attn_implementation("eager")
        tokenizer = model.parts["tokenizer"]
        self.reader, self.longest = Reader(tokenizer, model.device), tokenizer.model_max_length
        self.deviation = self._states([one.label for one in subjects]).float().flatten(0, 1).std(0)
        self.players = {"encoder": Player(self.encoder.float().train(), config.learning_rate)}
        self.sample_count = len(subjects)
        self.repeats = torch.tensor([self._demand(one) for one in subjects])
        self.fingerprint = f"{digest_of(self.all_phrases)[:16]} {weights_fingerprint(model.network, self.before)}"
        side = model.spec.resolution // model.pixels_per_latent
        self.shape = (model.channels, side, side)

    def _demand(self, subject: Subject) -> int:
        _, weights = self.lexicon.of(subject.label)
        return max(1, round(DEMAND.get(subject.group, 1) * sum(weights) ** 0.5))

    @torch.no_grad()
    def _states(self, texts: list[str], length: int | None = None) -> Tensor:
        """(N, L, D) of the encoder as it was."""
        return self.before(self.reader.tokens(texts, length or self.longest))[0]

    def _say(self, subject: Subject, length: int, picker: random.Random) -> str:
        phrases, weights = self.lexicon.of(subject.label)
        phrase = picker.choices(phrases, weights)[0]
        other = picker.choice(self.all_phrases)
        text = say(phrase, other, subject.group, self.lexicon.meaning, picker) if picker.random() < 0.7 else phrase
        return text if self.reader.fits(text, length - 6) else phrase  # which leaves room for a style

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        picker = random.Random(int(torch.randint(2**31, (1,), generator=draws.generator)))
        length = self.longest if draws.step % 5 == 0 else min(SHORT, self.longest)
        chosen = [self.subjects[index] for index in indices.tolist()]
        each = self.config.phrases
        meant, said, kept = [], [], []
        for subject in chosen:
            style = picker.choice(STYLES) if picker.random() < STYLED else ""
            meant.append(f"{subject.label}, {style}" if style else subject.label)
            texts = [self._say(subject, length, picker) for _ in range(each)]
            said += [styled(text, style, picker) if style else text for text in texts]
            short = [text for text in subject.captions if self.reader.fits(text, length)]
            kept += picker.sample(short, min(2, len(short)))
        kept.append("")  # what guidance leads away from
        tokens = self.reader.tokens([*said, *kept], length)
        states = self.encoder(tokens)[0]
        with torch.no_grad():
            targets = self._states(meant, length)
            asked = self._questions(targets, self._drawn_labels[indices].view(-1, *self.shape), draws)
            ended = self.reader.ended(tokens[: len(said)])
            ended &= self.reader.ended(self.reader.tokens(meant, length)).repeat_interleave(each, 0)
            return states, targets, self._states(kept, length), ended, asked

    def _questions(self, context: Tensor, clean: Tensor, draws: Draws) -> list[Question]:
        """What a network asks of labels: by turns the one-step network of noise, and the teacher of noisy pictures."""
        model, condition = self.model, Condition(context)
        noise = draws.normal(*self.shape).contiguous(memory_format=torch.channels_last)
        if draws.step % 2:
            t = (draws.stratified() * len(model.schedule)).long()
            with questions(self.teacher.network) as asked:
                self.teacher.predict(model.schedule.add_noise(clean, noise, t), t, condition)
        else:
            start = prior_start(model.schedule, noise, model.prior_mean, model.prior_deviation)
            with questions(model.network) as asked:
                one_step(model.denoiser(), start, condition, model.schedule.last)
        return asked

    def losses(self, player: str, shared: tuple[Any, ...]) -> Losses:
        states, targets, kept, ended, asked = shared
        each, config = self.config.phrases, self.config
        said, same = states[: len(ended)], states[len(ended) :]
        off = ((said - targets.repeat_interleave(each, 0)) / self.deviation).float().square().mean(-1)
        drift = ((same - kept) / self.deviation).float().square().mean()
        attention = sum(question.error(said, each) for question in asked) / len(asked)
        return Losses(
            {
                "attention": config.attention_weight * attention,
                "ended": config.ended_weight * (off * ended).sum() / ended.sum().clamp_min(1),
                "kept": config.kept_weight * drift,
            }
        )

    @torch.no_grad()
    def draw(self, context: Tensor) -> Tensor:
        """One evaluation each, of the same noise: latents (N, C, h, w)."""
        noise = torch.randn(1, *self.shape, generator=generator_for(0, Use.PREVIEW)).to(context)
        start = prior_start(self.model.schedule, noise, self.model.prior_mean, self.model.prior_deviation)
        denoise, last = self.model.denoiser(), self.model.schedule.last
        parts = [
            one_step(denoise, start.expand(len(part), -1, -1, -1), Condition(part), last) for part in context.split(64)
        ]
        return torch.cat(parts)

    def read(self, texts: Sequence[str], encoder: nn.Module) -> Tensor:
        return clip_texts(texts, self.reader.tokenizer, encoder).to(self.model.device)

    @cached_property
    def _drawn_labels(self) -> Tensor:
        """(S, C * h * w), what the labels drew before."""
        return self.draw(self.read([one.label for one in self.subjects], self.before)).flatten(1)

    def places(self, meaning: Mapping[str, str], encoder: nn.Module) -> Tensor:
        """(N,) how many other labels' pictures are nearer to what comes of a phrase than that of its own."""
        found = self.draw(self.read(list(meaning), encoder)).flatten(1)
        labels = [one.label for one in self.subjects]
        order = torch.cdist(found, self._drawn_labels).argsort(1)
        wanted = torch.tensor([labels.index(label) for label in meaning.values()], device=order.device)
        return (order == wanted[:, None]).float().argmax(1)

    def understood(self, encoder: nn.Module) -> list[str]:
        """The single words of the lexicon that draw what they mean."""
        words = {word: label for word, label in self.lexicon.meaning.items() if words_in(word) == [word]}
        places = self.places(words, encoder).tolist()
        return sorted(word for word, place in zip(words, places, strict=True) if place < AMONG)

    def measure(self, averages: dict[str, nn.Module]) -> dict[str, float]:
        """Of prompts that nothing is learned from: whose picture is nearest to the one that comes.

        Returns:
            "first", "among five": how often it is that of the label that is meant, from 0 to 1; "kept": how far the
            states of trained captions have moved, relative to their variance.
        """
        encoder, labels = averages["encoder"], {one.label for one in self.subjects}
        places = self.places({prompt: label for prompt, label in read_held_out().items() if label in labels}, encoder)
        captions = [one.captions[0] for one in self.subjects]
        moved = (self.read(captions, encoder) - self.read(captions, self.before)) / self.deviation
        rates = {"first": places == 0, "among five": places < AMONG}
        return {name: hits.float().mean().item() for name, hits in rates.items()} | {
            "kept": moved.square().mean().item()
        }

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """The first 32 held-out prompts: above as they are drawn now, below what the label draws."""
        rows = list(read_held_out().items())[:32]
        now = self.draw(self.read([prompt for prompt, _ in rows], averages["encoder"]))
        wanted = self.draw(self.read([label for _, label in rows], self.before))
        stacked = torch.stack([now.view(-1, 8, *self.shape), wanted.view(-1, 8, *self.shape)], 1).flatten(0, 2)
        with torch.no_grad():
            return grid(decode(self.model.decoder, stacked).cpu(), 8)


def save_encoder(encoder: nn.Module, folder: Path) -> None:
    """In half precision, as the bundled ones are."""
    half = CLIPTextModel(encoder.config)
    half.load_state_dict(encoder.state_dict())
    half.half().save_pretrained(folder)
    config_file = folder / "config.json"
    # transformers loads what the config says, diffusers float32: a pipeline needs the two to agree.
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def main() -> None:
    config, folder = parse(ParaphrasesConfig, __doc__, "runs/paraphrases")
    torch.manual_seed(config.seed)
    device = PartialState().device
    model, teacher = (load_base(config, device, one_step=own) for own in (True, False))
    subjects = read_subjects(Path(config.data))
    with PartialState().local_main_process_first():
        lexicon = read_lexicon(Path(config.lexicon), Path(config.tarballs), {one.label for one in subjects})
    task = ParaphrasesTask(model, teacher, subjects, lexicon, config)

    def hand_over(trainer: Trainer) -> None:
        save_encoder(trainer.averages["encoder"], folder / "output" / "text_encoder")

    trainer = Trainer(task, config, folder, hand_over, task.measure)
    if follow(trainer) and trainer.processes.is_main_process:
        words = task.understood(trainer.averages["encoder"])
        (folder / "output" / "words.txt").write_text("\n".join(words) + "\n", "utf-8")
        print(f"{len(words)} words in {folder / 'output' / 'words.txt'} draw what they mean")


if __name__ == "__main__":
    run_command(main)
