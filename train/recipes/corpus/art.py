"""The art: npm tarballs of seven open emoji sets in, RGBA sprites with labels and tags out.

    python -m train.recipes.corpus.art --out data/corpus

Writes one lossless WebP a picture, and ``art.jsonl`` with a line each (``file``, ``code``, ``emoji``, ``label``,
``tags``, ``group``, ``subgroup``, ``style``, ``held_out``). 300 (label, style) pairs are held out: their label is seen
in other styles, so they measure composition. ``held_out.json`` lists them; nothing is ever trained on them, in no
scene either.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from yoso_core.npm import fetch

CORPUS = Path("data/corpus")  # where it is built and looked for
LABELS_PACKAGE = "emojibase-data@17.0.0"
STYLE_PACKAGES = {
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "glossy": "@iconify-json/fluent-emoji@1.2.7",
    "noto": "@iconify-json/noto@1.2.9",
    "blob": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
}
MEANINGS = "meanings.safetensors"  # beside the art: what a sentence model says of phrases
STYLES = tuple(STYLE_PACKAGES)
SIDE = 128  # pixels of a sprite
HELD_OUT_FILE = Path(__file__).with_name("held_out.json")
HELD_OUT_COUNT = 300
# 24 near-equal dials, and the keycaps and letters that are text more than pictures.
LEFT_OUT = re.compile(r"o.clock|-thirty$|^keycap|^regional indicator|Japanese .* button|^button")


@dataclass(frozen=True)
class Emoji:
    """One emoji, whatever its style."""

    code: str  # code points in lower-case hex, joined by "-", without the fe0f variation selector
    emoji: str  # the characters themselves
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class Sprite(Emoji):
    """One picture of an emoji."""

    file: str  # below the corpus' folder
    style: str
    held_out: bool


def process_pool() -> ProcessPoolExecutor:
    """A process a core. Not forked: the fork of a process that computes on several threads or on a GPU hangs."""
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))


def bare_code(code: str) -> str:
    """The spelling of a code point sequence that all packages can be compared in."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def read_json(tarball: Path, member: str):
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile(f"package/{member}"))


def read_labels(tarball: Path) -> list[Emoji]:
    """All emoji with their English words, one skin tone each."""
    messages = read_json(tarball, "en/messages.json")
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    return [
        Emoji(
            bare_code(entry["hexcode"]),
            entry["emoji"],
            entry["label"].lower(),
            tuple(entry.get("tags", ())),
            groups[entry["group"]],
            subgroups[entry["subgroup"]],
        )
        for entry in read_json(tarball, "en/data.json")
        if groups.get(entry.get("group"), "component") != "component" and not LEFT_OUT.search(entry["label"])
    ]


def svg_pictures(tarball: Path, emoji: list[Emoji]) -> Iterator[tuple[Emoji, Image.Image]]:
    """Draw the icons of an iconify package, where it has them."""
    import resvg_py

    icons = read_json(tarball, "icons.json")
    names = read_json(tarball, "chars.json")
    for one in emoji:
        icon = icons["icons"].get(names.get(one.code) or re.sub(r"[^a-z0-9]+", "-", one.label).strip("-"))
        if icon is None:
            continue
        width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE))
        yield one, squared(Image.open(io.BytesIO(png)).convert("RGBA"))


def squared(picture: Image.Image) -> Image.Image:
    """`picture` in the middle of a transparent square; not all icons are as wide as they are high."""
    if picture.size == (SIDE, SIDE):
        return picture
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return canvas


def webp_pictures(tarball: Path, emoji: list[Emoji]) -> Iterator[tuple[Emoji, Image.Image]]:
    """Read the pictures of the Fluent 3D package, where it has them."""
    wanted = {one.code: one for one in emoji}
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = Path(member.name)
            one = wanted.get(bare_code(path.stem))
            if path.suffix == ".webp" and one is not None:
                picture = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGBA")
                yield one, picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def choose_held_out(pairs: set[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` (label, style) pairs, one a label, whose label exists in every style; the same on every machine."""
    complete = sorted({label for label, _ in pairs if all((label, style) in pairs for style in STYLES)})

    def rank(label: str) -> bytes:
        return hashlib.sha256(label.encode()).digest()

    chosen = sorted(complete, key=rank)[:count]
    return sorted((label, STYLES[rank(label)[-1] % len(STYLES)]) for label in chosen)


def _draw_style(style: str, tarball: Path, emoji: list[Emoji], out: Path) -> list[tuple[Emoji, str, str]]:
    (out / style).mkdir(parents=True, exist_ok=True)
    found = []
    for one, picture in (webp_pictures if style == "3d" else svg_pictures)(tarball, emoji):
        file = f"{style}/{one.code}.webp"
        picture.save(out / file, lossless=True)
        found.append((one, style, file))
    return found


def build(out: Path, tarballs: Path) -> int:
    """Write the sprites to `out` and return their number; pictures already there are drawn again."""
    emoji = read_labels(fetch(LABELS_PACKAGE, tarballs))
    files = {style: fetch(package, tarballs) for style, package in STYLE_PACKAGES.items()}
    with process_pool() as pool:
        jobs = [pool.submit(_draw_style, style, file, emoji, out) for style, file in files.items()]
        drawn = [one for job in tqdm(jobs, desc="drawing", unit="style") for one in job.result()]
    if not HELD_OUT_FILE.exists():
        held_out = choose_held_out({(one.label, style) for one, style, _ in drawn}, HELD_OUT_COUNT)
        HELD_OUT_FILE.write_text(json.dumps(held_out, indent=0, ensure_ascii=False) + "\n")
    held_out = read_held_out()
    with open(out / "art.jsonl", "w") as file:
        for one, style, name in sorted(drawn, key=lambda entry: entry[2]):
            sprite = Sprite(**asdict(one), file=name, style=style, held_out=(one.label, style) in held_out)
            file.write(json.dumps(asdict(sprite), ensure_ascii=False) + "\n")
    return len(drawn)


def read_held_out() -> set[tuple[str, str]]:
    """The committed list of (label, style) pairs that no run may train on."""
    return {tuple(pair) for pair in json.loads(HELD_OUT_FILE.read_text())}


def read_art(corpus: Path = CORPUS) -> list[Sprite]:
    """What `build` listed.

    Raises:
        FileNotFoundError: nothing was built there.
    """
    path = corpus / "art.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{corpus} holds no art; build it with make corpus")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Sprite(**row | {"tags": tuple(row["tags"])}) for row in rows]


def _decode(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGBA")).transpose(2, 0, 1)


def read_pixels(sprites: list[Sprite], corpus: Path = CORPUS) -> Tensor:
    """(N, 4, 128, 128) uint8, colour not multiplied by opacity; kept as one file once read."""
    digest = hashlib.sha256("\n".join(one.file for one in sprites).encode()).hexdigest()[:12]
    cache = corpus / f"pixels-{digest}.npy"
    if not cache.exists():
        with process_pool() as pool:
            pixels = np.stack(list(pool.map(_decode, [corpus / one.file for one in sprites], chunksize=256)))
        partial = cache.with_suffix(".part.npy")
        np.save(partial, pixels)
        partial.rename(cache)
    return torch.from_numpy(np.load(cache, mmap_mode=None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CORPUS, help="folder to write")
    parser.add_argument("--tarballs", type=Path, default=Path("data/npm"), help="where npm tarballs are kept")
    options = parser.parse_args()
    print(f"{build(options.out, options.tarballs)} sprites in {options.out}")


if __name__ == "__main__":
    main()
