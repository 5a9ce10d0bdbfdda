"""What files that came together say about the pictures among them, wherever their bytes are.

Captions in files beside the pictures and in lists, and the layouts of sd-scripts (``30_cat``), of translators
(``train_A``, ``train_B``; ``input``, ``target``) and of splits (``train``, ``test``): one set of rules for a folder
(`train.data.reader`) and for what people hand over (`train.data.intake`).
"""

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from train.data.listings import (
    LISTS,
    NoListError,
    Problem,
    caption_key,
    captions_of,
    row_beside,
    rows_in,
    text_of,
)
from yoso_core.files.archives import read_parts
from yoso_core.requests import RequestError

LISTING = "metadata.jsonl"
CAPTIONS = {".txt", ".caption"}  # beside a picture of the same name
# Lie beside pictures and are none: notes, settings, caches of latents, archives.
STRANGERS = {
    *(".md", ".rst", ".html", ".pdf", ".log", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".xml", ".py", ".sh", ".lock"),
    *(".npz", ".npy", ".pt", ".pth", ".ckpt", ".safetensors", ".parquet", ".arrow", ".pkl"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"),
}
JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # what systems leave behind
TEXT_BYTES = 400_000  # of captions beside a picture; what they may say has fewer
KEY_CHARACTERS = 500
OWN_KEYS = {"file_name", "input_file_name", "given", "held_out", "repeats"}  # of lists, beside captions
SPLIT = re.compile("(?P<split>train|test|val|valid|validation|dev|eval)(?:_?[ab])?")
SIDE = re.compile("(?P<split>train|test|val|valid|validation)_?(?P<side>[ab])|input|target")
FIXED_PROMPTS = {"a": "fixed_prompt_a.txt", "b": "fixed_prompt_b.txt"}
NUMBER = "[1-9][0-9]{0,2}"
REPEATS = re.compile(rf"(?P<repeats>{NUMBER})_(?P<words>.*[^\W\d_].*)")


class File(NamedTuple):
    """A file of a data set, wherever its bytes are.

    Attributes:
        name: what its owner calls it.
        path: where it lies in what it came in, with slashes.
        bytes: what it is said to have.
        open: for reading.
        link: where it lies, if it may stay there as well.
    """

    name: str
    path: str
    bytes: int
    open: Callable[[], BinaryIO]
    link: Path | None = None

    @property
    def key(self) -> str:
        return key_of(self.path)


def key_of(path: str) -> str:
    """What pictures and captions find each other by: the path in what they came in, whatever its case and encoding."""
    text = unicodedata.normalize("NFC", path.encode("utf-8", "ignore").decode())
    return text.casefold()[-KEY_CHARACTERS:]


def last_of(path: str) -> str:
    return posixpath.basename(path.replace("\\", "/").rstrip("/"))


@dataclass
class Gathered:
    """What files that came together say.

    Attributes:
        pictures: those that count, in the order in which they are listed, then as they came.
        told: rows by the key of their picture, or by that without its ending: "captions", and what else is said.
        sources: the name of the file that says it, by the same keys.
        listed: keys of files that lists tell of, with the names that they give them.
        inputs: what a picture is to be made of, by the picture's key.
        governed: the name of a list by the key of the folder that it is for.
        problems: what can't be used, or is used otherwise than it stands there.
    """

    pictures: list[File] = field(default_factory=list)
    told: dict[str, dict] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    listed: list[tuple[str, str]] = field(default_factory=list)
    inputs: dict[str, File] = field(default_factory=dict)
    governed: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def skip(self, name: str, why: str) -> None:
        self.problems.append(Problem(name, f"skipped: {why}"))

    def tell(self, key: str, row: dict, captions: list[str], source: str) -> None:
        """Note what a row says of a picture."""
        said = self.told.setdefault(key, row | {"captions": [], "held_out": False})
        add_captions(said, captions)
        said["held_out"] |= bool(row.get("held_out"))
        if "repeats" in row:
            said.setdefault("repeats", row["repeats"])  # what a list says goes before the name of a folder
        self.sources[key] = source

    def keys_of(self, file: File) -> list[str]:
        """Under which something is told of a picture."""
        return [key for key in (file.key, stem(file.key)) if key in self.told]

    def captions_of(self, file: File) -> list[str]:
        """What is told of a picture by its whole name, else by that without its ending."""
        return next((said for key in self.keys_of(file) if (said := self.told[key]["captions"])), [])

    def repeats_of(self, file: File) -> int:
        """How often an epoch sees a picture."""
        return next((self.told[key]["repeats"] for key in self.keys_of(file) if "repeats" in self.told[key]), 1)

    def within(self, folder: str) -> list[File]:
        """The pictures in a folder, by its key."""
        return [file for file in self.pictures if file.key.startswith(f"{folder}/")]

    def drop(self, keys: Iterable[str]) -> None:
        """Take out the pictures of these keys."""
        keys = set(keys)
        self.pictures = [file for file in self.pictures if file.key not in keys]


def add_captions(row: dict, captions: Iterable[str]) -> None:
    row["captions"] += [caption for caption in dict.fromkeys(captions) if caption not in row["captions"]]


def see_again(row: dict, repeats: int) -> None:
    """Have an epoch see the picture of a row so often, unless it does more often."""
    if repeats > row.get("repeats", 1):
        row["repeats"] = repeats


def gather(files: Iterable[File], nested: bool = True, limit: int | None = None) -> Gathered:
    """Read what files that came together say about the pictures among them; no picture is opened.

    Args:
        files: of one source, so that their paths say which belong to each other.
        nested: whether their paths have folders; files dropped on a page have none, even where a list names some.
        limit: bytes that a list may have; None for any number.
    """
    found, lists, captions = Gathered(), [], []
    strangers: dict[str, list[str]] = defaultdict(list)
    for file in files:
        suffix = _suffix(file.key)
        if last_of(file.path).startswith(".") or JUNK & set(file.key.split("/")):
            continue
        if suffix in STRANGERS:
            strangers[suffix].append(file.name)
        else:
            (lists if suffix in LISTS else captions if suffix in CAPTIONS else found.pictures).append(file)
    for suffix, names in strangers.items():
        why = "it is a zip, unpack it first" if suffix == ".zip" else "it is no picture and holds no captions"
        found.skip(names[0], and_more(why, names))
    sides = _sides(found.pictures, {file.key for file in [*captions, *lists]})
    _read_lists(found, lists, sides, nested, limit)
    _read_captions(found, captions, sides)
    _leave_out(found)
    _read_pairs(found, sides)
    _hold_out(found)
    _read_repeats(found)
    order = {key: number for number, (key, _) in reversed(list(enumerate(found.listed)))}
    last = len(found.listed)
    found.pictures.sort(key=lambda file: min((order.get(key, last) for key in found.keys_of(file)), default=last))
    return found


def and_more(sentence: str, files: Sequence) -> str:
    """A sentence about the first of some files that stands for all of them."""
    return sentence + (f"; so are {len(files) - 1:,} more" if len(files) > 1 else "")


def _suffix(key: str) -> str:
    return posixpath.splitext(key)[1]


def stem(key: str) -> str:
    return posixpath.splitext(key)[0]


def _in(base: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(base, name))


def _folders(key: str) -> Iterator[str]:
    """The folders that a file lies in, the innermost first and the whole last."""
    while key:
        key = posixpath.dirname(key)
        yield key


class Sides(NamedTuple):
    """Two folders of a translator's data beside each other.

    Attributes:
        base: key of the folder that holds them.
        a, b: their own keys: what goes in and what comes out, or two domains.
        split: "train", or what is kept to measure by.
        paired: whether files of the same names belong together.
    """

    base: str
    a: str
    b: str
    split: str
    paired: bool


def _sides(pictures: Iterable[File], others: set[str]) -> list[Sides]:
    """The layouts of translators among these files: ``train_A`` and ``train_B``, ``input`` and ``target``.

    Args:
        pictures: files of a source.
        others: keys of its files with captions.
    """
    held: dict[tuple[str, str], dict[str, tuple[str, set[str]]]] = defaultdict(dict)
    for file in pictures:
        for folder in _folders(file.key):
            if (match := SIDE.fullmatch(last_of(folder))) is not None:
                side = match["side"] or {"input": "a", "target": "b"}[match[0]]
                both = held[posixpath.dirname(folder), match["split"] or ""]
                _, stems = both.setdefault(side, (folder, set()))
                stems.add(stem(file.key.removeprefix(f"{folder}/")))
                break
    found = []
    for (base, split), both in held.items():
        if len(both) == 2:
            (a, given), (b, wanted) = both["a"], both["b"]
            prompts = _in(base, f"{split}_prompts.json") in others
            fixed = any(_in(base, name) in others for name in FIXED_PROMPTS.values())
            paired = not split or prompts or (not fixed and 2 * len(given & wanted) >= len(wanted))
            found.append(Sides(base, a, b, split or "train", paired))
    return found


def _read_lists(found: Gathered, lists: list[File], sides: list[Sides], nested: bool, limit: int | None) -> None:
    """What lists say of pictures."""
    known = {key for file in found.pictures for key in (file.key, stem(file.key))}
    by_key = {file.key: file for file in found.pictures}
    prompts = {_in(one.base, f"{one.split}_prompts.json"): one.b for one in sides}
    for file in lists:
        problems: list[Problem] = []
        named_so = last_of(file.key) == LISTING
        try:
            content = b"".join(read_parts(file.open, limit))
            if stem(file.key) in known and (row := row_beside(content)) is not None:
                row = _with_repeats({"file_name": file.name} | row, found)
                found.tell(stem(file.key), row, captions_of(row, found.problems), file.name)
                continue
            rows = rows_in(content, file.name, problems)
        except NoListError as error:
            found.problems.append(Problem(file.name, f"passed over: {error}"))
            continue
        except RequestError as error:
            found.skip(file.name, _continued(error))
            continue
        base = prompts.get(file.key, posixpath.dirname(file.key))
        paths = {key_of(posixpath.normpath(row["file_name"].replace("\\", "/"))) for row in rows}
        namesakes = Counter(map(last_of, paths))
        placed = [(row, *_place(row["file_name"], base, known, nested, namesakes)) for row in rows]
        if not named_so and known and not any(key in known for _, key, _ in placed):
            found.problems.append(Problem(file.name, "passed over: it names none of the pictures"))
            continue
        found.problems += problems
        for row, key, why in placed:
            if why:
                found.skip(row["file_name"], why.format(file.name))
                continue
            row = _with_repeats(row, found)
            found.tell(key, row, captions_of(row, found.problems), file.name)
            found.listed.append((key, row["file_name"]))
            found.governed.setdefault(base, last_of(file.name))
            if "input_file_name" in row:
                given, _ = _place(row["input_file_name"], base, known, nested, Counter())
                if given in by_key:
                    found.inputs[key] = by_key[given]
        keys = {key for row in rows for key, value in row.items() if isinstance(value, str)} - OWN_KEYS
        if keys and not any(caption_key(dict.fromkeys(row, "x")) for row in rows):
            named = ", ".join(sorted(map(str, keys)))
            sentence = f"it has captions under no key that is known (its keys: {named:.100}); call the key text"
            found.problems.append(Problem(file.name, sentence))
    found.drop(file.key for file in found.inputs.values())


def _with_repeats(row: dict, found: Gathered) -> dict:
    """A row whose "repeats", if it has any, are a number that a folder's name could have."""
    if "repeats" not in row:
        return row
    said = str(row["repeats"]).strip()
    if re.fullmatch(NUMBER, said):
        return row | {"repeats": int(said)}
    sentence = f"its repeats ({said!r:.20}) are passed over: they must be a number from 1 to 999"
    found.problems.append(Problem(row["file_name"], sentence))
    return {key: value for key, value in row.items() if key != "repeats"}


def _place(name: str, base: str, known: set[str], nested: bool, namesakes: Counter[str]) -> tuple[str, str]:
    """The key of the file that a list calls `name`, and "" or why it has none ("{}" stands for the list's name)."""
    path = name.replace("\\", "/")
    key = key_of(path)
    if not nested:
        last = last_of(key)
        return last, "{} names several files so; put them and it into one zip" if namesakes[last] > 1 else ""
    if path.startswith("/") or re.match("[A-Za-z]:/", path):  # as it was called on another machine
        parts = key.split("/")
        tails = ["/".join(parts[start:]) for start in range(1, len(parts))]
        found = next((place for tail in tails for place in (_in(base, tail), tail) if place in known), "")
        return found, "" if found else "it leads out of the folder"
    place, whole = _in(base, key), posixpath.normpath(key)
    if place == ".." or place.startswith("../"):
        return "", "it leads out of the folder"
    return whole if place not in known and whole in known else place, ""


def _continued(error: RequestError) -> str:
    """A sentence as it goes on after a colon."""
    return str(error)[0].lower() + str(error)[1:].rstrip(".")


def _read_captions(found: Gathered, captions: list[File], sides: list[Sides]) -> None:
    """What files beside pictures say, and the prompts of domains."""
    fixed: dict[str, list[str]] = defaultdict(list)  # folders by the file of their prompt
    for one in sides:
        if not one.paired:
            fixed[_in(one.base, FIXED_PROMPTS["a"])].append(f"{one.a}/")
            fixed[_in(one.base, FIXED_PROMPTS["b"])].append(f"{one.b}/")
    for file in captions:
        try:
            lines = text_of(b"".join(read_parts(file.open, TEXT_BYTES))).splitlines()
        except UnicodeDecodeError:
            found.skip(file.name, "it can't be read as UTF-8 text; save it as UTF-8")
            continue
        except RequestError as error:
            found.skip(file.name, _continued(error))
            continue
        said = captions_of({"file_name": file.name, "captions": lines}, found.problems)
        keys = [stem(file.key)]
        if (folders := fixed.get(file.key)) is not None:
            keys = [picture.key for picture in found.pictures if picture.key.startswith(tuple(folders))]
        for key in keys if said else ():
            found.tell(key, {}, said, file.name)


def _leave_out(found: Gathered) -> None:
    """Pictures beside a list that does not name them, unless they have a caption of their own."""
    left: dict[str, list[File]] = defaultdict(list)
    for file in found.pictures:
        base = next((folder for folder in _folders(file.key) if folder in found.governed), None)
        if base is not None and not found.keys_of(file):
            left[found.governed[base]].append(file)
    for name, files in left.items():
        sentence = f"left out: {name} does not list it, and it has no caption of its own"
        found.problems.append(Problem(files[0].name, and_more(sentence, files)))
        found.drop(file.key for file in files)


def _read_pairs(found: Gathered, sides: list[Sides]) -> None:
    """Pictures of pairs: those that come out count, each with the one that goes in."""
    for one in sides:
        if one.paired:
            given = {stem(file.key.removeprefix(f"{one.a}/")): file for file in found.within(one.a)}
            for file in found.within(one.b):
                if (match := given.pop(stem(file.key.removeprefix(f"{one.b}/")), None)) is not None:
                    found.inputs[file.key] = match
            if given:
                names = [file.name for file in given.values()]
                found.skip(names[0], and_more(f"nothing in {last_of(one.b)} goes with it", names))
            found.drop(file.key for file in found.within(one.a))


def _hold_out(found: Gathered) -> None:
    """What lies in a folder for tests, beside one for training, is held out."""
    splits: dict[str, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
    for file in found.pictures:
        for folder in _folders(file.key):
            if (match := SPLIT.fullmatch(last_of(folder))) is not None:
                splits[posixpath.dirname(folder)][match["split"]].append(file)
                break
    for named in splits.values():
        for split, files in named.items() if "train" in named else ():
            if split == "train":
                continue
            for file in files:
                found.tell(file.key, {"held_out": True}, [], file.name)
            sentence = f"held out: training takes the pictures of train, and none of {split}"
            found.problems.append(Problem(files[0].name, and_more(sentence, files)))


def _read_repeats(found: Gathered) -> None:
    """The folders of sd-scripts, "30_cat": how often their pictures are seen, and words that stand in for captions."""
    folders: dict[str, list[File]] = defaultdict(list)
    for file in found.pictures:
        folders[posixpath.dirname(file.path)].append(file)
    listed: dict[int, list[File]] = defaultdict(list)
    for file in found.pictures:
        if (repeats := found.repeats_of(file)) > 1:
            listed[repeats].append(file)
    for repeats, files in listed.items():
        sentence = f"is seen {repeats} times an epoch, as its list says"
        found.problems.append(Problem(files[0].name, and_more(sentence, files)))
    for folder, files in folders.items():
        if (match := REPEATS.fullmatch(last_of(folder))) is None:
            continue
        words = " ".join(match["words"].replace("_", " ").split())
        bare = [file for file in files if not found.captions_of(file)]
        repeats = int(match["repeats"])
        for file in bare:
            found.tell(file.key, {}, [words], folder)
        for file in files if repeats > 1 else ():
            found.tell(file.key, {"repeats": repeats}, [], folder)
        note = f'its words, "{words}", are the caption of {len(bare):,} pictures without one; ' if bare else ""
        often = "once" if repeats == 1 else f"{repeats} times"
        found.problems.append(Problem(folder, f"{note}its pictures are seen {often} an epoch, as its name says"))
