"""Build the emoji corpus: npm tarballs of open emoji art in, captioned pictures out.

    python -m train.recipes.corpus.emoji --out data/emoji

Four styles of the same labels: ``3d`` (Microsoft Fluent 3D), ``flat`` (Microsoft Fluent flat),
``noto`` (Google Noto) and ``twemoji`` (Twitter). The result is an ordinary captioned-picture folder: PNG files,
and a ``metadata.jsonl`` with one line a picture (``file_name``, ``label``, ``style``, ``captions``, ``held_out``).

300 (label, style) pairs are held out: their label is seen in the three other styles, so they measure
composition. They are listed in ``train/recipes/corpus/emoji_held_out.json`` and are never trained on.
"""

import argparse
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from train.recipes.corpus.art import bare_code, read_json
from yoso_core.npm import fetch

CORPUS = Path("data/emoji")  # where it is built and looked for
LABELS_PACKAGE = "emojibase-data@17.0.0"
STYLE_PACKAGES = {
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
}
STYLES = tuple(STYLE_PACKAGES)
GROUPS = ("smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects")
HELD_OUT_FILE = Path(__file__).with_name("emoji_held_out.json")
HELD_OUT_COUNT = 300
CLOCK_FACE = re.compile(r"o.clock|-thirty$")  # 24 near-equal dials, told apart by a hand of two pixels


@dataclass(frozen=True)
class Emoji:
    """One emoji, whatever its style."""

    code: str  # code points in lower-case hex, joined by "-", without the fe0f variation selector
    label: str
    tags: tuple[str, ...]
    group: str


def read_labels(tarball: Path, groups: tuple[str, ...]) -> list[Emoji]:
    """The emoji of `groups` with their English words, one skin tone each, clock faces left out."""
    names = {group["order"]: group["key"] for group in read_json(tarball, "en/messages.json")["groups"]}
    return [
        Emoji(bare_code(entry["hexcode"]), entry["label"].lower(), tuple(entry.get("tags", ())), names[entry["group"]])
        for entry in read_json(tarball, "en/data.json")
        if names.get(entry.get("group")) in groups and not CLOCK_FACE.search(entry["label"])
    ]


def svg_pictures(tarball: Path, emoji: list[Emoji], size: int) -> Iterator[tuple[Emoji, Image.Image]]:
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
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
        yield one, Image.open(io.BytesIO(png))


def webp_pictures(tarball: Path, emoji: list[Emoji], size: int) -> Iterator[tuple[Emoji, Image.Image]]:
    """Read the pictures of the Fluent 3D package, where it has them."""
    wanted = {one.code: one for one in emoji}
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = Path(member.name)
            one = wanted.get(bare_code(path.stem))
            if path.suffix == ".webp" and one is not None:
                picture = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGBA")
                yield one, picture.resize((size, size), Image.Resampling.LANCZOS)


def on_white(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture.convert("RGBA"))
    return canvas.convert("RGB")


def captions(emoji: Emoji, style: str) -> list[str]:
    """What people type for this picture: with and without article, tags and style."""
    label = emoji.label
    article = "an" if label[0] in "aeiou" else "a"
    tags = [tag for tag in emoji.tags if tag.lower() not in label.split()]
    phrases = [
        f"{label}, {style}",
        f"{article} {label}, {style}",
        f"{style} {label}",
        f"{label} {style}",
        f"{article} {label} in {style} style",
        f"{style} emoji of {article} {label}",
        label,
    ]
    if tags:
        phrases += [f"{label}, {', '.join(tags[:3])}, {style}", f"{', '.join(tags[:4])}, {style}"]
    return phrases


def choose_held_out(pairs: set[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` (label, style) pairs, one a label, whose label exists in every style; the same on every machine."""
    complete = sorted({label for label, _ in pairs if all((label, style) in pairs for style in STYLES)})

    def rank(label: str) -> bytes:
        return hashlib.sha256(label.encode()).digest()

    chosen = sorted(complete, key=rank)[:count]
    return sorted((label, STYLES[rank(label)[-1] % len(STYLES)]) for label in chosen)


def read_held_out() -> set[tuple[str, str]]:
    """The committed list of (label, style) pairs that no run may train on."""
    return {tuple(pair) for pair in json.loads(HELD_OUT_FILE.read_text())}


def build(out: Path, tarballs: Path, size: int = 128, groups: tuple[str, ...] = GROUPS) -> int:
    """Write the corpus to `out` and return the number of pictures.

    Args:
        out: folder to write; pictures already there are drawn again.
        tarballs: where npm tarballs are looked for first and kept.
        size: side of the square pictures, in pixels.
        groups: emojibase group keys to take.
    """
    emoji = read_labels(fetch(LABELS_PACKAGE, tarballs), groups)
    rows = []
    for style, package in STYLE_PACKAGES.items():
        read = webp_pictures if style == "3d" else svg_pictures
        (out / style).mkdir(parents=True, exist_ok=True)
        for one, picture in tqdm(read(fetch(package, tarballs), emoji, size), desc=style, unit="picture"):
            name = f"{style}/{one.code}.png"
            on_white(picture).save(out / name)
            rows.append(
                {
                    "file_name": name,
                    "label": one.label,
                    "style": style,
                    "group": one.group,
                    "captions": captions(one, style),
                }
            )
    if not HELD_OUT_FILE.exists():
        held_out = choose_held_out({(row["label"], row["style"]) for row in rows}, HELD_OUT_COUNT)
        HELD_OUT_FILE.write_text(json.dumps(held_out, indent=0, ensure_ascii=False) + "\n")
    held_out = read_held_out()
    with open(out / "metadata.jsonl", "w") as file:
        for row in sorted(rows, key=lambda row: row["file_name"]):
            row["held_out"] = (row["label"], row["style"]) in held_out
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CORPUS, help="folder to write")
    parser.add_argument("--tarballs", type=Path, default=Path("data/npm"), help="where npm tarballs are kept")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels")
    parser.add_argument("--groups", nargs="+", default=GROUPS, help="emojibase groups to take")
    options = parser.parse_args()
    count = build(options.out, options.tarballs, options.size, tuple(options.groups))
    print(f"{count} pictures in {options.out}")


if __name__ == "__main__":
    main()
