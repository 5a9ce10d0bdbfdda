"""What a model is told to know: ``words.json`` of its folder, made of the captions that it learned from.

    python -m train.recipes.words data/emoji/metadata.jsonl models/yoso-emoji --more runs/paraphrases/output/words.txt

Names, words and emoji characters are taken from the captions anew; the lines about styles and the examples that stand
in the file already were written by people, and stay. What each key means is told by `yoso_core.words`.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yoso_core.words import COMMON, FILE, VARIATION, words_in

OFTEN = 2  # captions of different pictures that hold a word before it counts as learned


def words_of(rows: Iterable[dict[str, Any]], more: Iterable[str] = ()) -> dict[str, Any]:
    """Styles, names, words and emoji characters of captioned pictures.

    Args:
        rows: of a ``metadata.jsonl``; `label`, `style` and `captions` are read, and `file_name`, which may be the code
            points of an emoji.
        more: words that were learned without pictures, see `train.recipes.paraphrases`.
    """
    styles: dict[str, str] = {}
    names: dict[str, None] = {}  # a set that keeps its order
    emoji: dict[str, str] = {}
    pictures: Counter[str] = Counter()
    for row in rows:
        styles.setdefault(row["style"], "")
        names.setdefault(row["label"])
        pictures.update({word for caption in row["captions"] for word in words_in(caption)})
        if re.fullmatch(r"[0-9a-f]{4,5}(-[0-9a-f]{2,5})*", code := Path(row["file_name"]).stem):
            character = "".join(chr(int(point, 16)) for point in code.split("-"))
            emoji.setdefault(character.replace(VARIATION, ""), row["label"])
    named = {word for name in names for word in words_in(name)} | {*styles} | COMMON
    often = {word for word, count in pictures.items() if count >= OFTEN}
    words = sorted(often.union(more) - named)
    return {"styles": dict(sorted(styles.items())), "names": sorted(names), "words": words, "emoji": emoji}


def write_words(captions: Path, folder: Path, more: Iterable[str] = ()) -> dict[str, Any]:
    """Renew the file of a model; returns what stands in it now.

    Args:
        captions: a ``metadata.jsonl``.
        folder: of the model.
        more: see `words_of`.
    """
    path = folder / FILE
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    with open(captions, encoding="utf-8") as lines:
        made = words_of(map(json.loads, lines), more)
    told = before.get("styles", {})  # in the order in which the page shows them
    order = [style for style in told if style in made["styles"]]
    made["styles"] = {style: told.get(style, "") for style in dict.fromkeys([*order, *made["styles"]])}
    made["examples"] = before.get("examples", [])
    path.write_text(json.dumps(made, indent=0, ensure_ascii=False) + "\n", "utf-8")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path, help="a metadata.jsonl")
    parser.add_argument("model", type=Path, help="its folder")
    parser.add_argument("--more", type=Path, help="a text file of words that were learned without pictures, one a line")
    options = parser.parse_args()
    more = options.more.read_text("utf-8").split() if options.more else ()
    made = write_words(options.captions, options.model, more)
    print(f"{len(made['names'])} names, {len(made['words'])} more words in {options.model / FILE}")


if __name__ == "__main__":
    main()
