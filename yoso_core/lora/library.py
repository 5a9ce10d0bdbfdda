"""The LoRAs that a studio offers: found in folders, known by an id, described by what their files say of themselves.

Only headers and model cards are read here, never weights. Clients name a LoRA by its id; its path stays inside. What is
no LoRA, or is broken, is left out of a listing, and a LoRA of a kind that is not read stays in it with the reason; who
hands over a single file is told what is wrong with it.

Titles and triggers are words of strangers, on one line and of limited length; whoever puts them on a page escapes them.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from yoso_core import cached, hub
from yoso_core.cached import LORA_FILE
from yoso_core.families.stable_diffusion import KINDS
from yoso_core.files.cards import CARD_LIMIT, NOTHING, read_card
from yoso_core.loading import parameter_shapes
from yoso_core.lora import admission
from yoso_core.lora.reading import CHECKPOINT_KEY, PRIOR_KEY, LoraError, one_line, read_header
from yoso_core.models import MODELS, MODELS_FOLDER, ModelSpec
from yoso_core.prompts import called

LORAS_FOLDER = MODELS_FOLDER / "loras"
OWN_FOLDER = (LORA_FILE, admission.PEFT_FILE)  # their names say nothing: the folder's card and picture are theirs
CARD_FILE = "README.md"
PICTURE_FILES = ("thumbnail.png", "preview-last.png")  # the better one first
PICTURE_LIMIT = 5_000_000  # bytes
PNG_START = b"\x89PNG\r\n\x1a\n"
HUB_LIMIT = 1_000_000_000  # bytes of a file from a hub; the largest LoRA that is admitted has fewer
FOLDER_LIMIT = 20_000_000_000  # bytes that may come from hubs in all
WORDS_LIMIT = 200  # characters of a title, a trigger or a licence
SLUG_LIMIT = 60
FILES_LIMIT = 2000  # that one folder offers
DEPTH_LIMIT = 8  # folders within folders
MISFITS_IN_MEMORY = 10_000
OUTLINES_IN_MEMORY = 8
WIDTHS = {2048: "sdxl"} | KINDS  # families by the width of the prompts that they read
RUN_LIMIT = 150  # characters of a run's name in an id: what tells runs apart may stand at either end of it
TOKEN = re.compile(r"[\w-]{8,64}", re.ASCII)
SECRET_RUN = re.compile(r"^[0-9a-f]{32}\b-?")  # how the name of a run begins that only its owner may know
SECRET = re.compile(r"^(upload-)[\w-]{16}-|^(run-)[0-9a-f]{32}\b-?")  # as the page makes them
SNAPSHOT = re.compile(r"step-([0-9]{1,12})\.safetensors")
HUB_FILE = re.compile(r"(?:[^./\\\x00-\x1f][^/\\\x00-\x1f]*/)*[^./\\\x00-\x1f][^/\\\x00-\x1f]*\.safetensors")
HUB_LORA = re.compile(r"(\w[\w.-]*/\w[\w.-]*)@([0-9a-f]{40})(?:/(.+))?", re.ASCII)
FAMILY_WORDS = {  # how the names of base models begin
    "yoso-emoji": re.compile(r"\byoso-emoji\b"),
    "sd15": re.compile(r"(?<![a-z])(stable-diffusion|sd)[-_ ]?v?1([.-]?[45])?(?!\d)"),
    "sd2": re.compile(r"(?<![a-z])(stable-diffusion|sd)[-_ ]?v?2([.-]?[01])?(?!\d)|(?<![a-z])sd-turbo"),
    "sdxl": re.compile(r"(?<![a-z])(stable-diffusion|sd)[-_ ]?xl"),
    "pixart": re.compile(r"(?<![a-z])pixart(?![-_ ]?sigma)"),
    "sana-sprint": re.compile(r"(?<![a-z])sana[-_ ]?sprint"),
}

Origin = Literal["bundled", "trained", "folder", "uploaded", "hub"]


@dataclass(frozen=True)
class LoraEntry:
    """A LoRA that can be chosen.

    Attributes:
        id: what requests call it; letters, digits, "-" and "_".
        title: what people read.
        path: its safetensors file.
        family: base models that it is for: "yoso-emoji", "sd15", "sd2"; "" where that is unknown, or none of these.
        trigger: words to put into the prompt; "" where none are known to be needed.
        bytes: size of the file.
        licence: as its card or its file spells it; "unknown" where they don't.
        thumbnail: a PNG that shows what it does.
        origin: where it is from.
        rank: of its first pair of matrices; 0 where what it changes is of full rank.
        one_step: whether it makes a model draw in one step; others are styles.
        problem: why no model can use it, in a sentence; "" for nearly all.
    """

    id: str
    title: str
    path: Path
    family: str
    trigger: str
    bytes: int
    licence: str
    thumbnail: Path | None
    origin: Origin
    rank: int
    one_step: bool
    problem: str = ""


def bundled() -> list[LoraEntry]:
    """The LoRAs of the repository, by name."""
    return _listed(
        [(path / LORA_FILE, path.name) for path in _children(LORAS_FOLDER)], LORAS_FOLDER, "bundled", prefix=""
    )


def trained(runs: Path) -> list[LoraEntry]:
    """The LoRAs of the runs in a folder, or in folders of it: the newest run first, in each the order of `of_run`.

    Runs of secret names are left out: each is its owner's alone, for whom `of_run` lists it.
    """
    runs = Path(runs)
    folders = [folder for path in _children(runs) for folder in (path, *_children(path))]
    named = sorted((folder.relative_to(runs).as_posix(), folder) for folder in folders)
    groups = [_of_run(folder, name, runs) for name, folder in named if not any(map(SECRET_RUN.match, name.split("/")))]
    newest = [time for group in groups for time in [max(map(_modified, group), default=0.0)] * len(group)]
    entries = zip(newest, distinct(entry for group in groups for entry in group), strict=True)
    return [entry for _, entry in sorted(entries, key=itemgetter(0), reverse=True)]


def of_run(folder: Path) -> list[LoraEntry]:
    """The LoRAs of one run: what it handed over last, then its snapshots, the newest first.

    It may be training: what is gone or replaced meanwhile is left out.
    """
    folder = Path(folder)
    return distinct(_of_run(folder, folder.absolute().name, folder))


def in_folder(folder: Path) -> list[LoraEntry]:
    """The safetensors files of a folder and of the folders in it, which their titles name.

    Of a folder that holds a LoRA as diffusers or peft writes it, that file alone. Hidden files are left out.
    """
    return _listed(_walk(Path(folder), [])[:FILES_LIMIT], Path(folder), "folder", prefix="folder-")


def left_out(folder: Path) -> list[str]:
    """What `in_folder` does not offer of a folder, or not to any model, and why: a sentence each."""
    folder, told = Path(folder), []
    found = _walk(folder, told)
    if len(found) > FILES_LIMIT:
        told.append(f"{folder} holds {len(found)} files; the first {FILES_LIMIT} are offered.")
    for path, _ in found[:FILES_LIMIT]:
        try:
            told += filter(None, [_entry(path, folder, "folder", "", "").problem])
        except (LoraError, OSError) as error:
            told.append(str(error))
    return told


def _walk(folder: Path, told: list[str]) -> list[tuple[Path, str]]:
    """The safetensors files in a folder and their names, those of folders in it before them; links that lead out of
    the folder are told.
    """
    found: list[tuple[Path, str]] = []
    root, seen = _real(folder), set()

    def enter(here: Path, above: tuple[str, ...]) -> None:
        seen.add(_real(here))
        own = [here / name for name in OWN_FOLDER if above and (here / name).is_file()][:1]
        found.extend((path, " / ".join(above)) for path in own)
        for path in _children(here):
            is_file, real = path.suffix.lower() == ".safetensors", _real(path)
            if not real.is_relative_to(root):
                if is_file or path.is_dir():
                    told.append(one_line(f"{path} leads out of {folder} and is left out; put {real} itself there."))
            elif path.is_dir():
                if real not in seen and len(above) < DEPTH_LIMIT:
                    enter(path, (*above, path.name))
            elif is_file and not own:
                found.append((path, " / ".join((*above, root.name if path.name in OWN_FOLDER else path.stem))))

    enter(folder, ())
    return found


def uploaded(path: Path, token: str) -> LoraEntry:
    """A file that someone has just handed over.

    Args:
        path: where the server has put it.
        token: random, and another for each file: who does not know it can't guess the id.

    Raises:
        LoraError: it is no LoRA, and why.
        ValueError: the token is too short, or would not do in an address.
    """
    if not TOKEN.fullmatch(token):
        raise ValueError("a token has 8 to 64 letters, digits, - and _")
    return _entry(path, path.parent, "uploaded", f"upload-{token}-{_slug(path.stem)}", path.stem)


def from_hub(name: str, folder: Path) -> LoraEntry:
    """Fetch a LoRA from a hub, with its card and picture, or take it from `folder` where it was fetched before.

    Args:
        name: ``OWNER/NAME@COMMIT`` or ``OWNER/NAME@COMMIT/FILE.safetensors``; the commit as 40 hex digits, because
            what a branch holds may change from one day to the next.
        folder: gets the files, laid out like the hub's own cache.

    Raises:
        LoraError: no such LoRA, none that is safe to read, or no connection; one sentence says what to do.
    """
    match = HUB_LORA.fullmatch(name)
    if not match or (match[3] and not HUB_FILE.fullmatch(match[3])):
        raise LoraError(
            f"{name!r:.120} names no LoRA of a hub: write OWNER/NAME@ and the 40 hex digits of a commit, and "
            "/FILE.safetensors after it where there are several."
        )
    place, commit, file = match.groups()
    path = _fetch(place, commit, file, folder)
    snapshot = next(parent for parent in path.parents if parent.name == commit)
    called = place if file in (None, LORA_FILE) else f"{place} {Path(file).stem}"
    mark = hashlib.blake2b(f"{place}@{commit}/{file or LORA_FILE}".encode(), digest_size=8).hexdigest()
    entry_id = f"hub-{_slug(called)}-{mark}"
    return _entry(path, Path(folder), "hub", entry_id, called.partition("/")[2], snapshot)


def public_name(entry_id: str) -> str:
    """An id as it may be shown to others: without the secret of what a session opened, or of a run of one owner."""
    return SECRET.sub(r"\1\2", entry_id)


def distinct(entries: Iterable[LoraEntry]) -> list[LoraEntry]:
    """The same entries, with -2, -3, ... behind the ids that were there before."""
    taken: set[str] = set()
    made = []
    for entry in entries:
        free, number = entry.id, 1
        while free in taken:
            number += 1
            free = f"{entry.id}-{number}"
        taken.add(free)
        made.append(replace(entry, id=free))
    return made


def by_name(entries: Iterable[LoraEntry]) -> dict[str, str]:
    """Ids by what people call LoRAs: by ids, file names and titles, as `yoso_core.prompts.called` has these."""
    found: dict[str, str] = {}
    listed = list(entries)
    for name_of in (lambda entry: entry.id, lambda entry: public_name(entry.id), _file_name, lambda entry: entry.title):
        for entry in listed:
            found.setdefault(called(name_of(entry)), entry.id)
    found.pop("", None)
    return found


def _file_name(entry: LoraEntry) -> str:
    """ "" where all LoRAs of a kind have the same."""
    return "" if entry.path.name in OWN_FOLDER else entry.path.name


def search(entries: Iterable[LoraEntry], text: str, family: str | None = None) -> list[LoraEntry]:
    """The entries that hold every word of `text`, whatever its case.

    Args:
        entries: what to look through.
        text: words, or beginnings and parts of words; "" finds everything.
        family: that of the model in use: its LoRAs come first and those of other families last; None or "" keeps the
            order.
    """
    words = text.casefold().split()

    def holds(entry: LoraEntry) -> bool:
        said = "\n".join((entry.title, entry.trigger, entry.family, entry.licence, entry.id)).casefold()
        return all(word in said for word in words)

    def distance(entry: LoraEntry) -> int:
        return 0 if not family or entry.family == family else 2 if entry.family else 1

    return sorted(filter(holds, entries), key=distance)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises where links go round in a circle


def _children(folder: Path) -> list[Path]:
    """What is in a folder by name, without hidden files; nothing where it can't be read."""
    try:
        return sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    except (OSError, ValueError):  # the latter for names that no folder can have
        return []


def _of_run(folder: Path, name: str, root: Path) -> list[LoraEntry]:
    """As `of_run`, of a run that is called `name`; nothing outside `root` is read."""
    output, entry_id, called = folder / "output", f"run-{_slug(name, RUN_LIMIT)}", SECRET_RUN.sub("", name)
    found = []
    with suppress(LoraError, OSError):
        found.append(_entry(output / LORA_FILE, root, "trained", entry_id, called, output))
    named = [(SNAPSHOT.fullmatch(path.name), path) for path in _children(folder / "snapshots")]
    snapshots = [(int(match[1]), path) for match, path in named if match]
    for step, path in sorted(snapshots, reverse=True):
        with suppress(LoraError, OSError):
            entry = _entry(path, root, "trained", f"{entry_id}-step-{step}", called, output)
            picture = path.with_suffix(".png")
            shown = picture if _is_picture(picture, root) else None
            found.append(replace(entry, title=f"{entry.title}, step {step}", thumbnail=shown))
    return found


def _modified(entry: LoraEntry) -> float:
    try:
        return entry.path.stat().st_mtime
    except OSError:  # gone since it was listed
        return 0.0


def _listed(found: Iterable[tuple[Path, str]], root: Path, origin: Origin, prefix: str) -> list[LoraEntry]:
    """The entries of those of (file, name) that are LoRAs."""
    entries = []
    for path, name in found:
        with suppress(LoraError, OSError):
            entries.append(_entry(path, root, origin, prefix + _slug(name), name))
    return distinct(entries)


def misfits(entries: Iterable[LoraEntry], spec: ModelSpec) -> dict[str, str]:
    """Why LoRAs can't be used with a model, in a sentence each, by their ids; those that can be are not in it.

    Where the model is on this machine, every name and every shape is compared; else the families.
    """
    try:
        networks = _outline(spec)
    except LookupError:
        networks = None
    reasons = {entry.id: entry.problem or _misfit(entry, spec, networks) for entry in entries}
    return {name: reason for name, reason in reasons.items() if reason}


@lru_cache(OUTLINES_IN_MEMORY)
def _outline(spec: ModelSpec) -> admission.Outline:
    """What LoRAs may change in a model, off its files.

    Raises:
        LookupError: it is not on this machine; perhaps it will be when it is asked for next.
    """
    if shapes := parameter_shapes(spec):
        return admission.Outline(shapes)
    raise LookupError(spec.source.place)


def _misfit(entry: LoraEntry, spec: ModelSpec, networks: admission.Outline | None) -> str:
    if entry.family and entry.family != spec.family:
        return f"It is for models of the family {entry.family}."
    try:
        state = entry.path.stat()
    except OSError:
        return "Its file is gone."
    return _checked(entry.path, (state.st_mtime_ns, state.st_size), networks) if networks else ""


@lru_cache(MISFITS_IN_MEMORY)
def _checked(path: Path, state: tuple[int, int], networks: admission.Outline) -> str:
    """Why a file, as it is in this state, does not fit networks; "" where it does."""
    try:
        admission.check(path, networks)
    except LoraError as error:
        return str(error)
    return ""


def _entry(
    path: Path, root: Path, origin: Origin, entry_id: str, name: str, card_folder: Path | None = None
) -> LoraEntry:
    """Describe one file.

    Args:
        path: the safetensors file.
        root: nothing outside this folder is read, whatever links say.
        origin: see `LoraEntry`.
        entry_id: its id.
        name: its title, where no card has a better one.
        card_folder: where its card and picture are; None for where its file's name says.

    Raises:
        LoraError: it is no LoRA, and why.
        OSError: it is gone.
    """
    if not _inside(path, root):
        raise LoraError(f"{path.name} is not a file of its folder; please choose another file.")
    shapes, metadata = read_header(path)
    if CHECKPOINT_KEY in metadata:
        raise LoraError(f"{path.name} is of a checkpoint, which does not say its strength; take the run's output.")
    problem = admission.unread(path, shapes)
    if problem and origin in ("uploaded", "hub"):
        raise LoraError(problem)
    rank = 0 if problem else admission.rank(path, shapes)
    if card_folder is None and path.name in OWN_FOLDER:
        card_folder = path.parent
    if card_folder is not None:
        card, heading = _read_card(card_folder / CARD_FILE, root)
        pictures = [card_folder / picture for picture in PICTURE_FILES]
    else:
        card, heading = {}, ""
        pictures = [path.with_name(path.stem + ending) for ending in (".png", ".preview.png")]  # as A1111 does
    if origin == "trained":  # the headings of runs on one model are all alike, unless they were given a title
        heading = _setting(metadata, "title")
    elif origin == "hub":  # its LoRAs go by their names
        heading = ""
    above = "".join(name.rpartition(" / ")[:2])  # the folders that hold it
    return LoraEntry(
        id=entry_id,
        title=_words(above + heading if heading else name) or public_name(entry_id),
        path=path,
        family=_family(shapes, card, metadata),
        trigger=_said(card, "instance_prompt") or _trigger(metadata),
        bytes=path.stat().st_size,
        licence=_licence(card, metadata),
        thumbnail=next((picture for picture in pictures if _is_picture(picture, root)), None),
        origin=origin,
        rank=rank,
        one_step=PRIOR_KEY in metadata,
        problem=problem,
    )


def _inside(path: Path, root: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def _family(shapes: Mapping[str, tuple[int, ...]], card: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """By the width of prompts that the file's matrices read; where it has none, by what it says of itself."""
    if width := admission.prompt_width(shapes):
        return WIDTHS.get(width, "")
    stated = [_said(card, "base_model"), _setting(metadata, "model")]
    stated += [_said(metadata, key) for key in ("ss_base_model_version", "modelspec.architecture")]
    return next(filter(None, map(_family_of, stated)), "")


def _family_of(base: str) -> str:
    """The family of a model by its name; "" where it tells nothing."""
    for name, spec in MODELS.items():
        if base in (name, spec.source.place):
            return spec.family
    return next((family for family, words in FAMILY_WORDS.items() if words.search(base.lower())), "")


def _setting(metadata: Mapping[str, str], name: str) -> str:
    """What a run of ours was told, in words; "" where it was not, or is no such run."""
    try:
        return _said(json.loads(metadata["yoso_config"]), name)
    except (KeyError, ValueError, AttributeError, RecursionError):
        return ""


def _trigger(metadata: Mapping[str, str]) -> str:
    return _setting(metadata, "trigger") or _said(metadata, "modelspec.trigger_phrase") or _top_tag(metadata)


def _top_tag(metadata: Mapping[str, str]) -> str:
    """The tag that stands at the most pictures that kohya's trainer was given, which is the one that calls the style.

    It counts them by folder: ``{"10_style": {"tag": 12, ...}, ...}``.
    """
    counts: Counter[str] = Counter()
    try:
        for tags in json.loads(metadata["ss_tag_frequency"]).values():
            counts.update({_words(tag): number for tag, number in tags.items() if type(number) is int})
    except (KeyError, ValueError, AttributeError, RecursionError):
        return ""
    return counts.most_common(1)[0][0] if counts else ""


def _licence(card: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    stated = _said(card, "license")
    if stated == "other":  # the hub's word for those that are not in its list
        stated = _said(card, "license_name") or stated
    return stated or _said(metadata, "modelspec.license") or "unknown"


def _said(fields: Mapping[str, Any], key: str) -> str:
    """A field of a card or of metadata as text, the first of several; "" where it says nothing."""
    value = fields.get(key)
    if isinstance(value, list):
        value = next(iter(value), None)
    words = _words(value) if isinstance(value, str) else ""
    return "" if words.lower() in NOTHING else words


def _words(text: str) -> str:
    return one_line(text)[:WORDS_LIMIT]


def _slug(name: str, limit: int = SLUG_LIMIT) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", plain))[:limit].strip("-") or "lora"


def _read_card(path: Path, root: Path) -> tuple[dict[str, Any], str]:
    """Front matter and heading of a model card; {} and "" where it has none, is too large or is broken."""
    if not _inside(path, root):
        return {}, ""
    fields, lines = read_card(path)
    return fields, next((_words(line[2:]) for line in lines if line.startswith("# ")), "")


def _is_picture(path: Path, root: Path) -> bool:
    try:
        if not _inside(path, root) or path.stat().st_size > PICTURE_LIMIT:
            return False
        with open(path, "rb") as file:
            return file.read(len(PNG_START)) == PNG_START
    except OSError:
        return False


def _fetch(place: str, commit: str, file: str | None, folder: Path) -> Path:
    """The safetensors file of a hub's repository, with its card and pictures beside it.

    Raises:
        LoraError: it has no such file, or it can't be had.
    """
    from huggingface_hub import try_to_load_from_cache  # half a second to import

    try:
        kept = try_to_load_from_cache(place, file or LORA_FILE, cache_dir=folder, revision=commit)
        if isinstance(kept, str):  # what a commit holds never changes, so this needs no connection
            return Path(kept)
        # Without a token: whoever asks may not be whose token lies on this machine.
        sizes = hub.list_files(place, commit, token=False)
        chosen = _choose(place, sizes, file)
        if sizes[chosen] + _size_of(folder) > FOLDER_LIMIT:
            raise LoraError(f"There is no room for more LoRAs from a hub here; remove some from {folder.name}.")
        settings = str(Path(chosen).with_name("adapter_config.json"))  # what peft's own files leave to it
        beside = ((CARD_FILE, CARD_LIMIT), (settings, CARD_LIMIT), *((name, PICTURE_LIMIT) for name in PICTURE_FILES))
        wanted = {name: sizes[name] for name, limit in beside if sizes.get(name, limit + 1) <= limit}
        # The weights last, so that what is whole for the lines above has its card too.
        for _ in hub.download(place, commit, wanted | {chosen: sizes[chosen]}, cache=folder, token=False):
            pass
        return Path(try_to_load_from_cache(place, chosen, cache_dir=folder, revision=commit))
    except LoraError:
        raise
    except (cached.HubError, OSError, ValueError) as error:  # ValueError: a name that no hub takes
        raise LoraError(
            f"{place} can't be had from the hub ({error!s:.200}); check its name and commit, or download the file "
            "yourself."
        ) from None


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _choose(place: str, sizes: Mapping[str, int], file: str | None) -> str:
    """The one safetensors file of a repository that is meant.

    Raises:
        LoraError: there is none, there are several, or it is too large.
    """
    names = sorted(name for name in sizes if HUB_FILE.fullmatch(name))
    if file and file not in names:
        raise LoraError(f"{place} has no {file:.100} at this commit; please check the name.")
    if not names:
        raise LoraError(f"{place} has no safetensors file at this commit; only such files are read.")
    chosen = file or (LORA_FILE if LORA_FILE in names else names[0])
    if not file and chosen != LORA_FILE and len(names) > 1:
        raise LoraError(f"{place} has {len(names)} safetensors files; add the name of one, such as /{names[0]:.100}.")
    if sizes[chosen] > HUB_LIMIT:
        raise LoraError(f"{chosen:.100} of {place} has {sizes[chosen] / 1e9:.1f} GB; that is no LoRA.")
    return chosen
