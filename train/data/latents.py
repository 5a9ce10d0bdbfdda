"""What training sees: captioned pictures from a folder as people have them, and clean latents with their prompts."""

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from train.loop.config import ConfigError
from train.loop.randomness import Draws, batch_indices
from train.recipes.corpus.emoji import CORPUS
from yoso_core.autoencoder import encode
from yoso_core.pictures import Opened, open_picture, square, square_note
from yoso_core.requests import RequestError, check_text

SHORTEST_SIDE = 16  # pixels; what is smaller shows nothing
AHEAD = 64  # pictures read before they are asked for; the only ones in memory
READERS = min(8, os.cpu_count() or 1)  # threads; each may hold a picture of 25 megapixels
ENCODED_AT_ONCE = 2**21  # pixels
MOMENTS_FROM = 256  # latents
LISTING = "metadata.jsonl"
NO_PICTURES = {".txt", ".md", ".csv", ".json", ".jsonl"}  # lie beside pictures and are not tried

Keep = Callable[[dict], bool]


class Problem(NamedTuple):
    """A file that was skipped, or used in another way than it stands there."""

    file: str
    sentence: str

    def __str__(self) -> str:
        """In one line that any terminal takes: file names may hold bytes that are no text, and control characters."""
        return "".join(one if one.isprintable() else "?" for one in f"{self.file}: {self.sentence}")


@dataclass(frozen=True)
class Listing:
    """The usable pictures of a folder.

    Attributes:
        rows: one a picture: "file_name", relative to the folder; "captions", a list of phrasings, at least one; and
            whatever else its line in ``metadata.jsonl`` says.
        problems: of the files skipped, and of those used with a note.
    """

    rows: list[dict]
    problems: list[Problem]


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures and what people would type for each.

    Attributes:
        pictures: (N, 3, S, S) uint8.
        captions: N lists of phrasings of the same picture; empty ones where no caption was asked for.
        rows: the N rows of the listing.
        problems: as in the listing.
        digest: hash of files and captions; "" where there are none.
    """

    pictures: Tensor
    captions: list[list[str]]
    rows: list[dict]
    problems: list[Problem]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.pictures)


def not_held_out(row: dict) -> bool:
    """What may be trained on: all but the lines that say ``"held_out": true``."""
    return not row.get("held_out")


def read_listing(folder: Path, keep: Keep = not_held_out) -> Listing:
    """What a folder says about its pictures; none is opened.

    If there is a ``metadata.jsonl``, its lines say it: JSON objects with ``file_name``, and ``captions``, ``text`` or
    ``caption``, a text or a list of texts; a file listed twice has the captions of both lines. Otherwise all files
    count, subfolders' too, each with the lines of the ``.txt`` file of its name. A picture without a caption gets the
    words of its file name. No file outside the folder is touched, whatever a line or a link says.

    Args:
        folder: of pictures.
        keep: which lines to take.

    Raises:
        ConfigError: there is no such folder, or nothing usable in it.
    """
    listing = with_captions(list_files(folder, keep))
    return Listing(_some(listing.rows, listing.problems, folder), listing.problems)


def list_files(folder: Path, keep: Keep = not_held_out) -> Listing:
    """As `read_listing`, before file names are asked for words: "captions" may be empty, and so may be the listing.

    Raises:
        ConfigError: there is no such folder, or its ``metadata.jsonl`` is none of its own.
    """
    if not folder.is_dir():
        bundled = folder.absolute() == CORPUS.absolute()
        what = (
            "build the bundled corpus with python -m train.recipes.corpus.emoji"
            if bundled
            else "name a folder of pictures"
        )
        raise ConfigError(f"there is no folder {folder}; {what}")
    root, problems = folder.resolve(), []
    source = _listed_rows if (root / LISTING).exists() else _found_rows
    listed = list(source(root, problems))
    held_out = {row["file_name"] for row in listed if row.get("held_out")}  # saying it once is enough
    rows: dict[Path, dict] = {}
    for row in filter(keep, (row | {"held_out": True} if row["file_name"] in held_out else row for row in listed)):
        name = row["file_name"]
        path = inside(root, name)
        if path is None:
            problems.append(Problem(name, "skipped: it leads out of the folder"))
        elif not _is_file(path):
            problems.append(Problem(name, "skipped: there is no such file"))
        else:
            add_captions(rows.setdefault(path, row | {"captions": []}), captions_of(row, problems))
    return Listing(list(rows.values()), problems)


def with_captions(listing: Listing) -> Listing:
    """The words of their file names for pictures that have no caption; those without words are left out."""
    rows, problems = [], list(listing.problems)
    for row in listing.rows:
        name, captions = row["file_name"], row["captions"]
        if not captions and (words := words_of(name)):
            problems.append(Problem(name, f'it has no caption: "{words}", from its file name, is used'))
            captions = [words]
        if captions:
            rows.append(row | {"captions": list(captions)})
        else:
            problems.append(Problem(name, "skipped: it has no caption"))
    return Listing(rows, problems)


def _some(rows: list, problems: list[Problem], folder: Path) -> list:
    if not rows:
        why = f" ({len(problems)} problems, the first: {problems[0]})" if problems else ""
        raise ConfigError(f"no picture in {folder} can be used{why}")
    return rows


def inside(root: Path, name: str) -> Path | None:
    """The file `name` of the folder `root`, links followed; None where that is not inside the folder."""
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):  # links in a circle, names that no file can have
        return None
    return path if path.is_relative_to(root) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _listed_rows(root: Path, problems: list[Problem]) -> Iterator[dict]:
    listing = inside(root, LISTING)
    if listing is None or not _is_file(listing):
        raise ConfigError(f"{root / LISTING} leads out of the folder or is no file")
    yield from rows_in(listing.read_bytes(), LISTING, problems)


def rows_in(content: bytes, name: str, problems: list[Problem]) -> Iterator[dict]:
    """The rows of a ``metadata.jsonl``; `name` says in a problem which one it is."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("file_name"), str):
            yield row
        else:
            problems.append(Problem(name, f"skipped: line {number} is no JSON object with a file_name"))


def _found_rows(root: Path, problems: list[Problem]) -> Iterator[dict]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        folder = path.is_dir() and not path.is_symlink()  # linked folders are not entered, and that is told
        if hidden or folder or path.suffix.lower() in NO_PICTURES:
            continue
        lines: list[str] = []
        sidecar = inside(root, str(path.with_suffix(".txt")))
        if sidecar is not None and _is_file(sidecar):
            try:
                lines = sidecar.read_text("utf-8-sig").splitlines()
            except (OSError, ValueError):
                problems.append(Problem(name, "its caption file can't be read as UTF-8 text"))
        yield {"file_name": name, "captions": lines}


def captions_of(row: dict, problems: list[Problem]) -> list[str]:
    """The phrasings that a row says itself; [] where there are none."""
    found = next((row[key] for key in ("captions", "text", "caption") if row.get(key)), [])
    captions = []
    for caption in found if isinstance(found, list) else [found]:
        try:
            captions += [text] if (text := check_text("A caption", caption).strip()) else []
        except RequestError as error:
            problems.append(Problem(row["file_name"], str(error)))
    return captions


def words_of(name: str) -> str:
    """The words of a file name, which stand in for a caption; "" where it has none."""
    words = re.sub(r"[\W_]+", " ", Path(name).stem).strip()
    words = re.sub(r"( \d+)+$", "", words)
    return words if re.search(r"[^\W\d_]", words) else ""


def add_captions(row: dict, captions: list[str]) -> None:
    row["captions"] += [caption for caption in captions if caption not in row["captions"]]


def open_usable(path: Path) -> Opened:
    """As `open_picture`.

    Raises:
        RequestError: it can't be read, or shows nothing because it is too small.
    """
    opened = open_picture(path)
    shortest = min(opened.picture.size)
    if shortest < SHORTEST_SIDE:
        raise RequestError(f"Its shorter side has {shortest} pixels; {SHORTEST_SIDE} are needed.")
    return opened


class Seen(NamedTuple):
    """What became of a picture.

    Attributes:
        row: of the listing.
        used: whether it is trained on; the listing's problems say why not.
        width, height: in pixels, upright; 0 where it can't be used.
        same_as: the file whose bytes it has, which is used for both; "" where there is none before it.
        digest: of the file; "" where it can't be used.
        cropped: what making it square takes away, in words; "" where that is nothing.
        pixels: (S, S, 3) uint8; None where it can't be used.
    """

    row: dict
    used: bool = False
    width: int = 0
    height: int = 0
    same_as: str = ""
    digest: str = ""
    cropped: str = ""
    pixels: np.ndarray | None = None


def scan(folder: Path, listing: Listing, size: int) -> Iterator[Seen]:
    """Read the pictures of a listing in its order, every one to its last byte, a few in memory at a time.

    Adds to the listing's problems as it goes. A picture that is there twice is used once; the captions of the second
    are added to the first one's row, which therefore is whole only after the last picture.

    Args:
        folder: of the listing.
        listing: see `read_listing`.
        size: side of the squares to make of the pictures, in pixels; the middle of each is taken.
    """

    def read(row: dict) -> tuple[Seen, list[str]]:
        path = folder / row["file_name"]
        opened = open_usable(path)
        width, height = opened.picture.size
        notes = list(opened.notes)
        if min(width, height) < size:
            notes.append(f"enlarged: its shorter side has {min(width, height)} of {size} pixels")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        cropped = square_note(opened.picture, "crop") or ""  # ordinary for photographs: no note of training's
        pixels = np.asarray(square(opened.picture, size))
        return Seen(row, True, width, height, digest=digest, cropped=cropped, pixels=pixels), notes

    first: dict[str, dict] = {}
    remaining = iter(listing.rows)
    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque((row, pool.submit(read, row)) for row in islice(remaining, AHEAD))
        while waiting:
            row, future = waiting.popleft()
            waiting.extend((row, pool.submit(read, row)) for row in islice(remaining, 1))
            name = row["file_name"]
            try:
                seen, notes = future.result()
            except (RequestError, OSError) as error:
                listing.problems.append(Problem(name, f"skipped: {error}"))
                yield Seen(row)
                continue
            listing.problems.extend(Problem(name, note) for note in notes)
            same = first.setdefault(seen.digest, row)
            if same is row:
                yield seen
            else:
                add_captions(same, row["captions"])
                sentence = f"the same picture as {same['file_name']}: used once, with the captions of both"
                listing.problems.append(Problem(name, sentence))
                yield seen._replace(used=False, same_as=same["file_name"])


def _used(folder: Path, listing: Listing, size: int) -> Iterator[Seen]:
    return (seen for seen in scan(folder, listing, size) if seen.used)


def load_pictures(folder: Path, size: int, keep: Keep = not_held_out, captioned: bool = True) -> CaptionedPictures:
    """Read a folder of pictures into memory.

    Args:
        folder: see `read_listing`.
        size: side of the square pictures returned, in pixels; the middle of each picture is taken.
        keep: which lines to take.
        captioned: whether every picture needs a caption; else they may have none.

    Raises:
        ConfigError: nothing in it is usable.
    """
    listing = read_listing(folder, keep) if captioned else list_files(folder, keep)
    found = _some(list(_used(folder, listing, size)), listing.problems, folder)
    stack = torch.from_numpy(np.stack([one.pixels for one in found])).permute(0, 3, 1, 2)
    rows = [one.row for one in found]
    captions = [row["captions"] for row in rows]
    digest = _digest_of_data(size, [one.digest for one in found], captions)
    return CaptionedPictures(stack, captions, rows, listing.problems, digest)


def to_unit_range(pictures: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return pictures.float() / 127.5 - 1


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """(N, 3, H, W) in [-1, 1] as one picture, row by row, at most `columns` wide."""
    count, _, height, width = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = torch.ones(3, rows * height, columns * width)
    for index, picture in enumerate(pictures.float().clamp(-1, 1)):
        top, left = index // columns * height, index % columns * width
        canvas[:, top : top + height, left : left + width] = picture
    return Image.fromarray(((canvas + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class CaptionedLatents:
    """Clean latents and the encoded phrasings of each.

    Attributes:
        latents: (N, C, h, w) float32, scaled by the autoencoder's scaling factor.
        contexts: (M, L, D) bfloat16, the encoded phrasings of all pictures, one after another.
        first: (N + 1,) int64; picture i has the contexts ``first[i]`` to ``first[i + 1] - 1``.
        empty: (1, L, D), the encoded empty prompt.
        digest: hash of the files and the networks that they are made from; "" where there are none.
        problems: of the folder that they come from.
    """

    latents: Tensor
    contexts: Tensor
    first: Tensor
    empty: Tensor
    digest: str = ""
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of a latent."""
        return tuple(self.latents.shape[1:])

    def batch(self, indices: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and one phrasing of each (B, L, D), float32, on the device of `draws`.

        Args:
            indices: (B,) on the CPU.
            drop: probability that a phrasing is replaced by the empty prompt.
            draws: of the same B rows.
        """
        chosen = choose_phrasings(self.first, indices, draws)
        context, _ = drop_prompts(self.contexts[chosen], self.empty, drop, draws)
        return self.latents[indices].to(draws.device), context

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and standard deviation (C,) of the latents, for the informative prior."""
        return self.latents.mean((0, 2, 3)), self.latents.std((0, 2, 3))

    def fingerprint(self) -> str:
        """A short text that is another for other data: of the files if known, because latents differ by device."""
        return (self.digest or _digest(map(_bytes, (self.latents, self.contexts, self.first))))[:16]


@dataclass(frozen=True)
class GeneratedLatents:
    """Captions alone: their clean latents are made when they are asked for, by a model that is fast already.

    Attributes:
        sample: (noise (B, C, h, w), context (B, L', D')) -> clean latents (B, C, h, w), scaled.
        shape: (C, h, w) of a latent.
        maker_contexts: (N, L', D'), the captions as the model behind `sample` reads them.
        contexts: (N, L, D) bfloat16, the captions as the model in training reads them.
        empty: (1, L, D), the encoded empty prompt of the model in training.
        device: where `sample` computes.
        digest: hash of the captions, see `digest_of`; "" to hash what they are encoded to.
    """

    sample: Callable[[Tensor, Tensor], Tensor]
    shape: tuple[int, ...]
    maker_contexts: Tensor
    contexts: Tensor
    empty: Tensor
    device: torch.device | str = "cpu"
    digest: str = ""

    def __len__(self) -> int:
        return len(self.contexts)

    def batch(self, indices: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Tensor]:
        """As `CaptionedLatents.batch`; a latent is made of its caption even where that is dropped."""
        with torch.no_grad():
            context = self.maker_contexts[indices].float().to(self.device)
            latents = self.sample(draws.normal(*self.shape).to(self.device), context).float().to(draws.device)
        return latents, drop_prompts(self.contexts[indices], self.empty, drop, draws)[0]

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `CaptionedLatents.moments`, of a few hundred latents, always the same ones."""
        return self._moments

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        made = []
        for step in range(MOMENTS_FROM // 16):
            draws = Draws(seed=0, step=step, batch=16, rows=slice(None))
            made.append(self.batch(batch_indices(len(self), 16, 0, step), 0.0, draws)[0])
        latents = torch.cat(made)
        return latents.mean((0, 2, 3)), latents.std((0, 2, 3))

    def fingerprint(self) -> str:
        """As `CaptionedLatents.fingerprint`."""
        return (self.digest or _digest(map(_bytes, (self.maker_contexts, self.contexts))))[:16]


def choose_phrasings(first: Tensor, indices: Tensor, draws: Draws) -> Tensor:
    """One phrasing of each picture, by chance: (B,) int64.

    Args:
        first: (N + 1,), where the phrasings of each picture begin, see `Captions`.
        indices: (B,) of the pictures, on the CPU.
        draws: of the same B rows.
    """
    count = first[indices + 1] - first[indices]
    return first[indices] + (draws.uniform().cpu() * count).long()


def drop_prompts(contexts: Tensor, empty: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Replace some prompts by the empty one, as classifier-free guidance wants it.

    Returns:
        The contexts (B, L, D), float32 on the device of `draws`, and which were replaced: (B,) bool.
    """
    dropped = draws.uniform() < drop
    kept, nothing = (each.to(draws.device).float() for each in (contexts, empty))
    return torch.where(dropped[:, None, None], nothing, kept), dropped


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    """A hash of the parts, each by itself: ("ab", "c") is not ("a", "bc")."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def digest_of(texts: list[str]) -> str:
    """A hash of texts and their order."""
    return _digest(text.encode() for text in texts)


def _digest_of_data(size: int, files: list[str], captions: list[list[str]]) -> str:
    return digest_of([str(size), *files, json.dumps(captions)])


def weights_fingerprint(*modules: nn.Module) -> str:
    """A short text that changes with the weights: cheap, because it reads a few numbers of each tensor."""
    tensors = [value.detach().double().flatten() for module in modules for value in module.parameters()]
    sums = torch.stack([value[:: max(1, value.numel() // 64)].sum().cpu() for value in tensors])
    return f"{len(sums)}:{(sums * torch.arange(1, len(sums) + 1)).sum().item():.9g}"


def read_captions(path: Path) -> list[str]:
    """The captions of a text file, one a line; empty lines are none.

    Raises:
        ConfigError: it can't be read as text, holds no caption, or one that is too long.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
        captions = [check_text(f"Line {number} of {path}", line).strip() for number, line in enumerate(lines, 1)]
    except RequestError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as UTF-8 text ({error!s:.80})") from None
    if not any(captions):
        raise ConfigError(f"{path} holds no caption; write one a line")
    return list(filter(None, captions))


@torch.no_grad()
def encode_texts(texts: list[str], tokenizer, text_encoder) -> Tensor:
    """Prompts as a pipeline encodes them: padded to L tokens, last hidden state, (N, L, D) float32 on the CPU."""
    found = []
    for start in range(0, len(texts), 512):
        tokens = tokenizer(
            texts[start : start + 512],
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        found.append(text_encoder(tokens.to(text_encoder.device))[0].float().cpu())
    return torch.cat(found)


class Captions(NamedTuple):
    """The encoded phrasings of pictures.

    Attributes:
        texts: M of them, one picture's after another's.
        contexts: (M, L, D) bfloat16.
        first: (N + 1,) int64; picture i has the phrasings ``first[i]`` to ``first[i + 1] - 1``.
    """

    texts: list[str]
    contexts: Tensor
    first: Tensor


def encode_captions(captions: list[list[str]], tokenizer, text_encoder) -> Captions:
    """Encode the phrasings of N pictures."""
    texts = [text for phrasings in captions for text in phrasings]
    contexts = [
        encode_texts(texts[start : start + 512], tokenizer, text_encoder).bfloat16()
        for start in range(0, len(texts), 512)
    ]
    return Captions(texts, torch.cat(contexts), torch.tensor([0, *map(len, captions)]).cumsum(0))


@torch.no_grad()
def encode_folder(
    folder: Path, size: int, autoencoder: nn.Module, tokenizer, text_encoder, keep: Keep = not_held_out
) -> CaptionedLatents:
    """Run the frozen parts of a model once over a folder of pictures, of which a few are in memory at a time.

    Args:
        folder: see `read_listing`.
        size: side of the pictures in pixels; the middle of each is taken.
        autoencoder: on whatever device, as `text_encoder`; the latents are on the CPU.
        keep: which lines to take.

    Raises:
        ConfigError: nothing in it is usable.
    """
    listing = read_listing(folder, keep)
    weight = next(autoencoder.parameters())
    rows: list[dict] = []
    digests: list[str] = []
    latents: list[Tensor] = []
    reading = _used(folder, listing, size)
    while chunk := list(islice(reading, max(1, min(AHEAD, ENCODED_AT_ONCE // size**2)))):
        pixels = torch.from_numpy(np.stack([one.pixels for one in chunk])).permute(0, 3, 1, 2).to(weight.device)
        latents.append(encode(autoencoder, to_unit_range(pixels).to(weight.dtype)).float().cpu())
        rows += [one.row for one in chunk]
        digests += [one.digest for one in chunk]
    captions = [row["captions"] for row in _some(rows, listing.problems, folder)]
    encoded = encode_captions(captions, tokenizer, text_encoder)
    return CaptionedLatents(
        torch.cat(latents),
        encoded.contexts,
        encoded.first,
        encode_texts([""], tokenizer, text_encoder),
        digest_of([_digest_of_data(size, digests, captions), weights_fingerprint(autoencoder, text_encoder)]),
        tuple(listing.problems),
    )
