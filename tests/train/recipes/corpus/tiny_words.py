"""A WordNet of nine senses, and a sentence model that knows letters alone."""

import io
import tarfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

LICENCE = "  1 This software and database is being provided to you\n"
# offset: words, lexicographer file, broader
SENSES = {
    "00000100": (["animal"], "05", []),
    "00000200": (["canine"], "05", ["00000100"]),
    "00000300": (["dog", "domestic_dog"], "05", ["00000200"]),
    "00000400": (["corgi"], "05", ["00000300"]),
    "00000500": (["sausage"], "13", []),
    "00000600": (["hot_dog", "dog"], "13", ["00000500"]),
    "00000700": (["villain"], "18", []),
    "00000800": (["pizza"], "13", []),
    "00000900": (["pizza_pie"], "13", ["00000800"]),
}


def write_wordnet(path: Path) -> Path:
    """The tarball, as the package has it."""
    data, index = LICENCE, LICENCE
    lemmas: dict[str, list[str]] = {}
    for offset, (words, file, broader) in SENSES.items():
        said = " ".join(f"{word} 0" for word in words)
        pointers = "".join(f" @ {one} n 0000" for one in broader) + " ~ 00000999 n 0000"
        data += f'{offset} {file} n {len(words):02x} {said} {len(broader) + 1:03d}{pointers} | a {words[0]}; "see it"\n'
        for word in words:
            lemmas.setdefault(word, []).append(offset)
    for lemma, offsets in lemmas.items():
        index += f"{lemma} n {len(offsets)} 2 @ ~ {len(offsets)} 1 {' '.join(offsets)}  \n"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("data", data), ("index", index)):
            entry = tarfile.TarInfo(f"package/dict/{name}.noun")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def embed_letters(texts: list[str]) -> Tensor:
    """(N, 26), unit length: which letters a text has, squared so that few in common are little."""
    counts = torch.tensor([[float(text.lower().count(chr(97 + i))) for i in range(26)] for text in texts])
    return F.normalize(counts.view(-1, 26) + 1e-6, dim=-1)
