"""What people write captions into: text files, and lists in JSON, JSON lines and CSV under the keys that are in use.

A list becomes rows of the one form that the rest of `train.data` knows: "file_name", a caption under whatever key it
had, "input_file_name" where a picture goes with another that it is made of, and all other fields as they stand there.
"""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from train.loop.config import ConfigError
from yoso_core.requests import RequestError, check_text

LISTS = {".jsonl", ".json", ".csv", ".tsv"}
PICTURES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"}

# In the order in which they are looked for, in any case.
FILE_KEYS = (
    *("file_name", "filename", "file", "file_path", "filepath", "image_file_name", "image_path", "image_file", "image"),
    *("img_path", "img", "path", "target_file_name", "target_image", "target", "edited_image", "output_image"),
)
INPUT_KEYS = (
    *("input_file_name", "conditioning_image_file_name", "conditioning_image_path", "conditioning_image"),
    *("control_image", "source_file_name", "source_image", "source", "input_image", "original_image", "input"),
)
CAPTION_KEYS = ("captions", "text", "caption", "texts", "prompt", "prompts", "edit_prompt", "description", "tags")
CAPTION_LIKE = re.compile(r"(?!negative)\w+_(?:captions?|prompts?|text)")
LETTER, QUOTES = r"[^\W\d_]", "'\u2019"  # parts of patterns
TAGS = "tags"  # one caption together, and the end of one that stands beside them


class Problem(NamedTuple):
    """A file that was skipped, or used in another way than it stands there."""

    file: str
    sentence: str

    def __str__(self) -> str:
        """In one line that any terminal takes: file names may hold bytes that are no text, and control characters."""
        return "".join(one if one.isprintable() else "?" for one in f"{self.file}: {self.sentence}")


class NoListError(ValueError):
    """A file in the format of a list that is none of pictures, and why, in words."""


def text_of(content: bytes) -> str:
    """Bytes as text: UTF-8, or UTF-16 as editors of Windows mark it.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def rows_in(content: bytes, name: str, problems: list[Problem]) -> list[dict]:
    """The rows of a list of pictures; what is wrong with single ones is added to `problems`.

    Read are: JSON lines; a JSON list of objects; a JSON object of file names, each with its caption or an object;
    COCO's captions; CSV and TSV with a line of headings.

    Args:
        content: of the file.
        name: of the file, whose ending says what it is.
        problems: gets what can't be used.

    Raises:
        NoListError: it lists no pictures.
    """
    kind = posixpath.splitext(name)[1].lower()
    if kind in (".csv", ".tsv"):
        return _table(content, name, problems)
    whole = None if kind == ".jsonl" else _parsed(content)
    if isinstance(whole, dict):
        return _of_object(whole)
    if isinstance(whole, list):
        rows = [_row(one) for one in whole]
        wrong = [f"entry {number}" for number, row in enumerate(rows, 1) if row is None]
    else:
        lines = [
            (number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip(b" \t\xef\xbb\xbf")
        ]
        rows = [_row(_parsed(line)) for _, line in lines]
        wrong = [f"line {number}" for (number, _), row in zip(lines, rows, strict=True) if row is None]
        if kind != ".jsonl" and len(wrong) == len(lines):
            raise NoListError("it is no JSON that can be read")
    found = [row for row in rows if row is not None]
    if wrong and not found and kind != ".jsonl":
        raise NoListError("its entries name no files; call the key file_name")
    problems += [Problem(name, f"skipped: {one} is no JSON object with a file_name") for one in wrong]
    return found


def row_beside(content: bytes) -> dict | None:
    """What a JSON file beside the picture of its name says of it; None where it holds no caption."""
    found = _parsed(content)
    return found if isinstance(found, dict) and caption_key(found) is not None else None


def _parsed(content: bytes | str) -> Any:
    try:
        return json.loads(text_of(content) if isinstance(content, bytes) else content)
    except (ValueError, RecursionError):
        return None


def _of_object(whole: dict) -> list[dict]:
    if (row := _row(whole)) is not None:
        return [row]
    images, annotations = whole.get("images"), whole.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):  # COCO's captions
        names = {one.get("id"): one.get("file_name") for one in images if isinstance(one, dict)}
        rows = [
            _row(one | {"file_name": names.get(one.get("image_id"))}) for one in annotations if isinstance(one, dict)
        ]
        if found := [row for row in rows if row is not None]:
            return found
    rows = []
    for name, said in whole.items():
        if isinstance(said, dict) and caption_key(said) is not None:
            rows.append(said | {"file_name": name})
        elif isinstance(said, str) or (isinstance(said, list) and said and all(isinstance(one, str) for one in said)):
            rows.append({"file_name": name, "text": said})
    if not rows:
        raise NoListError("it names no files with captions")
    return rows


def _row(found: Any) -> dict | None:
    """A row with its file under "file_name"; None where it names none."""
    if not isinstance(found, dict):
        return None
    known = {key.strip().casefold(): key for key in reversed(found) if isinstance(key, str)}
    name = next((found[known[key]] for key in FILE_KEYS if key in known and isinstance(found[known[key]], str)), None)
    if name is None:
        return None
    given = (found[known[key]] for key in INPUT_KEYS if key in known)
    given = next((one for one in given if isinstance(one, str) and one != name and _suffix(one) in PICTURES), None)
    return found | {"file_name": name} | ({} if given is None else {"input_file_name": given})


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _table(content: bytes, name: str, problems: list[Problem]) -> list[dict]:
    try:
        text = text_of(content)
    except UnicodeDecodeError:
        raise NoListError("it can't be read as UTF-8 text; save it as UTF-8") from None
    heading = text.partition("\n")[0]
    comma = max(",;\t", key=heading.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=comma, restkey="")
    try:
        columns = [str(one) for one in reader.fieldnames or ()]
        if _row(dict.fromkeys(columns, "")) is None:
            raise NoListError(f"its columns are {', '.join(columns)[:80]!r}; call the one of the files file_name")
        rows = []
        for row in reader:
            if isinstance(row.get(""), list):
                rest = "its captions hold commas; put them in quotation marks"
                problems.append(Problem(name, f"skipped: line {reader.line_num} has too many columns: {rest}"))
            else:
                rows.append({key: value for key, value in row.items() if key and value is not None})
    except csv.Error as error:
        raise NoListError(f"it can't be read as a table ({error!s:.80})") from None
    return [row for row in map(_row, rows) if row is not None and row["file_name"].strip()]


def caption_key(row: dict) -> str | None:
    """The key under which a row has its caption; None where it has none."""
    known = {key.strip().casefold(): key for key in reversed(row) if isinstance(key, str)}
    exact = (known[key] for key in CAPTION_KEYS if key in known and row[known[key]])
    alike = (known[key] for key in known if CAPTION_LIKE.fullmatch(key) and row[known[key]])
    return next(iter([*exact, *alike]), None)


def captions_of(row: dict, problems: list[Problem]) -> list[str]:
    """The phrasings that a row says itself; [] where there are none."""
    key = caption_key(row)
    found = row[key] if key is not None else []
    found = found if isinstance(found, list) else [found]
    tags = row.get(TAGS)
    if key == TAGS:
        found = [_joined(found)]
    elif tags and key == "caption" and len(found) == 1 and isinstance(found[0], str):  # as sd-scripts reads both
        found = [", ".join([found[0], _joined(tags if isinstance(tags, list) else [tags])])]
    captions = []
    for caption in found:
        try:
            captions += [text] if (text := check_text("A caption", caption).strip()) else []
        except RequestError as error:
            problems.append(Problem(row["file_name"], str(error)))
    return captions


def _joined(tags: list) -> Any:
    return ", ".join(tags) if all(isinstance(one, str) for one in tags) else tags


def words_of(name: str) -> str:
    """The words of a file name, which stand in for a caption; "" where it has none.

    Numbers before and after them, as programs count pictures, are none of them; apostrophes in words are.
    """
    stem = re.sub(r"^(?:\d+[-_.]+|0\d+\s+)+", "", unicodedata.normalize("NFC", Path(name).stem))
    words = re.sub(rf"(?:(?<!{LETTER})[{QUOTES}]|[{QUOTES}](?!{LETTER})|[^\w{QUOTES}]|_)+", " ", stem).strip()
    words = re.sub(r"( \d+)+$", "", words)
    return words if re.search(LETTER, words) else ""


def read_captions(path: Path) -> list[str]:
    """The captions of a file: a text with one a line, or a list in JSON lines, JSON or CSV.

    Raises:
        ConfigError: it can't be read as text, holds no caption, or one that is too long.
    """
    try:
        captions = list(_captions_in(path))
    except ConfigError:
        raise
    except RequestError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as UTF-8 text ({error!s:.80})") from None
    if not captions:
        raise ConfigError(f"{path} holds no caption; write one a line")
    return captions


def _captions_in(path: Path) -> Iterator[str]:
    kind = path.suffix.lower()
    with open(path, "rb") as file:
        encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with open(path, encoding=encoding, newline="\n") as file:
        if kind in (".csv", ".tsv"):
            yield from _of_rows(_columns(file, path), path)
            return
        start = next((line for line in file if line.strip()), "")
        file.seek(0)
        if kind == ".json" or start.lstrip()[:1] == "[":
            whole = _parsed(file.read())
            if isinstance(whole, dict) and caption_key(whole) is None:
                whole = [said if isinstance(said, dict) else {"text": said} for said in whole.values()]
            if whole is not None:
                yield from _of_rows(enumerate(whole if isinstance(whole, list) else [whole], 1), path)
                return
            file.seek(0)
        lines = ((number, line.strip()) for number, line in enumerate(file, 1))
        if kind == ".jsonl" or isinstance(_parsed(start), dict):
            yield from _of_rows(((number, _parsed(line)) for number, line in lines if line), path)
        elif kind == ".json":
            raise ConfigError(f"{path} can't be read as JSON; write a list of captions, or a text with one a line")
        else:
            for number, line in lines:
                if text := check_text(f"Line {number} of {path}", line).strip():
                    yield text


def _columns(file: Iterable[str], path: Path) -> Iterator[tuple[int, dict]]:
    heading = next(iter(file), "")
    comma = max(",;\t", key=heading.count)
    columns = next(csv.reader([heading], delimiter=comma), [])
    try:
        for number, row in enumerate(csv.DictReader(file, columns, delimiter=comma), 2):
            yield number, {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise ConfigError(f"{path} can't be read as a table ({error!s:.80})") from None


def _of_rows(rows: Iterable[tuple[int, Any]], path: Path) -> Iterator[str]:
    """The captions of numbered rows, each an object or a text."""
    for number, row in rows:
        where = f"Line {number} of {path}"
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise ConfigError(f"{where} is no JSON object with a caption; mend it or leave it out")
        if caption_key(row) is None:
            if not _knows_captions(row):
                keys = ", ".join(map(str, row))
                raise ConfigError(f"{where} has its caption under no known key (its keys: {keys:.100}); call it text")
            continue
        problems: list[Problem] = []
        yield from captions_of(row | {"file_name": ""}, problems)
        if problems:
            raise ConfigError(f"{where}: {problems[0].sentence}")


def _knows_captions(row: dict) -> bool:
    """Whether a row has a key for captions, though nothing stands under it."""
    return caption_key(dict.fromkeys(row, "x")) is not None
