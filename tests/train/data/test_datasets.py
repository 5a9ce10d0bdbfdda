"""Captions and the look at a data set: changes are whole or none, and the report says what training would do."""

import errno
import os
import random
import threading
import weakref

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.handed import colour, hand, metadata, on_disk, picture, stored
from train.data import datasets, reader
from train.data.datasets import OWN, SHARED, Dataset
from train.data.latents import load_pictures
from train.data.reader import read_listing
from train.loop.config import ConfigError


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path / "data" / "mine", SHARED)


# Changes


def test_a_folder_with_a_list_of_its_own_making_is_a_data_set(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.png").write_bytes(colour(1))
    (tmp_path / "metadata.jsonl").write_bytes(metadata({"file_name": "sub/a.png", "text": "one", "style": "flat"}))
    dataset = Dataset(tmp_path)
    dataset.set_captions({"sub/a.png": ""})
    assert dataset.captions() == {"sub/a.png": []}
    dataset.remove(["sub/a.png"])
    assert not (tmp_path / "sub/a.png").exists() and dataset.captions() == {}


def test_pictures_are_opened_by_name(dataset, tmp_path):
    hand(dataset, {"a.jpg": stored(picture("blue", 40, 20)), "b.png": colour(1)})
    assert dataset.open("a.png").size == (40, 20) and dataset.open("a.png").mode == "RGB"
    (dataset.folder / "b.png").write_bytes(b"damaged since")
    (tmp_path / "out.png").write_bytes(colour(1))
    for name in ("nothing.png", "b.png", "../../out.png", str(tmp_path / "out.png"), "nul\0", ""):
        with pytest.raises(ConfigError):
            dataset.open(name)


def test_removed_pictures_are_gone_with_their_captions(dataset):
    hand(dataset, {"a.png": colour(1), "a.txt": "one", "b.png": colour(2)})
    dataset.remove(["a.png"])
    assert on_disk(dataset) == ["b.png"] and Dataset(dataset.folder).captions() == {"b.png": []}
    hand(dataset, {"a.png": colour(3)})
    assert dataset.captions() == {"b.png": [], "a.png": []}


def test_captions_are_set_with_all_their_phrasings(dataset):
    hand(dataset, {"a.png": colour(1), "b cat.png": colour(2), "c.png": colour(3), "c.txt": "stays"})
    dataset.set_captions({"a.png": "one | two\n\n three \r\none | two", "b cat.png": "x"})
    assert dataset.captions() == {"a.png": ["one", "two", "three"], "b cat.png": ["x"], "c.png": ["stays"]}
    dataset.set_captions({"a.png": "| a|b |  | ||c |"})
    assert dataset.captions()["a.png"] == ["a|b", "||c"]
    dataset.set_captions({"b cat.png": " \n"})
    assert dataset.captions()["b cat.png"] == []
    assert read_listing(dataset.folder).rows[1]["captions"] == ["b cat"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nothing.png": "x"}, "there is no picture 'nothing.png'"),
        ({"../a.png": "x"}, "there is no picture"),
        ({"a.png": "x" * 2001}, "caption of a.png has 2,001 characters"),
        ({"a.png": "\ud800"}, "no text"),
        ({"a.png": None}, "must be text"),
        ({"a.png": "\n".join(map(str, range(51)))}, "51 captions"),
    ],
)
def test_captions_that_can_not_be_set_change_nothing(dataset, changes, words):
    hand(dataset, {"a.png": colour(1), "a.txt": "old", "b.png": colour(2)})
    with pytest.raises(ConfigError, match=words):
        dataset.set_captions({"b.png": "new"} | changes)
    assert dataset.captions() == {"a.png": ["old"], "b.png": []}


def test_words_are_added_once_to_every_phrasing(dataset):
    files = {"a.png": "one\nan OHWX cat\nohwxs", "b cat.png": None, "0001.png": None}
    hand(dataset, {name: colour(index) for index, name in enumerate(files)} | {"a.txt": files["a.png"]})
    for _ in range(2):
        dataset.add_words("  ohwx ")
        assert dataset.captions() == {
            "a.png": ["one, ohwx", "an OHWX cat", "ohwxs, ohwx"],
            "b cat.png": ["b cat, ohwx"],
            "0001.png": ["ohwx"],
        }
    dataset.set_captions({"b cat.png": "y" * 1999})
    for words in ("", " \n", "x" * 3000, "\0", "zzz"):
        before = dataset.captions()
        with pytest.raises(ConfigError):
            dataset.add_words(words)
        assert dataset.captions() == before


def test_a_crash_leaves_the_old_or_the_new(dataset, monkeypatch):
    hand(dataset, {"a.png": colour(1), "a.txt": "old"})
    original = os.replace

    def crash(source, target):
        if os.fspath(target).endswith(".jsonl"):
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        dataset.set_captions({"a.png": "new"})
    assert dataset.captions() == {"a.png": ["old"]}
    monkeypatch.undo()
    (dataset.folder / ".incoming").mkdir()
    (dataset.folder / ".incoming/metadata.jsonl").write_text("half")  # of a process that was killed
    dataset.set_captions({"a.png": "new"})
    assert dataset.captions() == {"a.png": ["new"]} and on_disk(dataset) == ["a.png"]


def test_a_disk_that_takes_not_even_the_listing_changes_nothing(dataset, monkeypatch):
    hand(dataset, {"a.png": colour(1), "a.txt": "old"})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for change in (lambda: hand(dataset, {"b.png": colour(2)}), lambda: dataset.set_captions({"a.png": "new"})):
        with pytest.raises(ConfigError, match="nothing was changed"):
            change()
    assert on_disk(dataset) == ["a.png"] and dataset.captions() == {"a.png": ["old"]}


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="make room"):
        hand(Dataset(tmp_path / "file"), {"a.png": colour(1)})


def test_changes_at_once_lose_nothing(dataset, monkeypatch):
    hand(dataset, {"first.png": colour(0)})
    errors = []

    def work(number):
        try:
            own = Dataset(dataset.folder, SHARED)
            for part in range(3):
                name = f"{number} {part}"
                path = dataset.folder.parent / name
                path.write_bytes(colour(1 + number * 3 + part))
                caption = dataset.folder.parent / f"{name} caption"
                caption.write_text(name)
                assert own.add([path, caption], ["same.png", "same.txt"]) == []
                own.set_captions({"first.png": name})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    captions = dataset.captions()
    assert captions.pop("first.png") and len(captions) == 12 == len(on_disk(dataset)) - 1
    assert sorted(said for [said] in captions.values()) == [f"{a} {b}" for a in range(4) for b in range(3)]
    monkeypatch.setattr(datasets, "PATIENCE", 0.05)
    with (
        datasets.FileLock(dataset.folder / ".lock"),
        pytest.raises(ConfigError, match="somebody else"),
    ):
        dataset.remove(["first.png"])


# Looking it over


def test_a_report_says_what_training_would_do(dataset):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    files = {
        "a wide.png": stored(picture("red", 64, 32)),
        "b small.png": stored(picture("blue", 20, 20)),
        "c turned.jpg": stored(picture("lime", 64, 48), "JPEG", exif=exif),
        "d again.png": stored(picture("red", 64, 32)),
        "0001.png": stored(picture("black", 32, 32)),
        "e.png": stored(picture("white", 32, 32)),
        "e.txt": "a square",
        "d again.txt": "a red one",
        "f.png": stored(picture("navy", 32, 32)),
    }
    hand(dataset, files)
    hand(dataset, {"metadata.jsonl": metadata({"file_name": "f.png", "text": "x", "held_out": True})})
    (dataset.folder / "e.png").write_bytes(b"damaged since")
    progress = []
    report = dataset.check(32, lambda done, total: progress.append((done, total)))
    rows = {row.file: row for row in report.rows}
    assert list(rows) == list(dataset.captions()) and progress == [(index, 5) for index in range(1, 6)]
    assert [row.file for row in report.rows if row.used] == ["a wide.png", "b small.png", "c turned.jpg"]
    assert rows["a wide.png"].captions == ("a wide", "a red one") and rows["a wide.png"].from_name
    assert "64 x 32: cropped to its middle" in rows["a wide.png"].notes
    assert any(note.startswith("enlarged") for note in rows["b small.png"].notes)
    assert (rows["c turned.jpg"].width, rows["c turned.jpg"].height) == (48, 64)
    assert "rotated as its EXIF says" in rows["c turned.jpg"].notes
    assert rows["d again.png"].same_as == "a wide.png" and not rows["d again.png"].used
    assert any("the same picture as a wide.png" in note for note in rows["d again.png"].notes)
    assert rows["0001.png"].notes == ("skipped: it has no caption",) and rows["0001.png"].thumbnail is None
    assert rows["e.png"].notes[0].startswith("skipped: This is no PNG") and rows["e.png"].captions == ("a square",)
    assert rows["f.png"].notes == ("left out: it is marked as held out",)
    assert rows["a wide.png"].thumbnail.size == (96, 96) and rows["d again.png"].thumbnail.size == (96, 96)
    assert rows["b small.png"].thumbnail.getpixel((5, 5)) == (0, 0, 255)
    assert report.bytes == sum((dataset.folder / name).stat().st_size for name in rows)
    assert report.sentences() == [
        "3 pictures can be used.",
        "3 are skipped: 0001.png (it has no caption), e.png (This is no PNG, JPEG, WebP or GIF picture, or its "
        "beginning is damaged), f.png (it is marked as held out).",
        "1 is there already: every picture is used once, with the captions of all its files.",
        "2 are cropped to their middle.",
        "1 is enlarged: training takes 32 x 32 pixels.",
        "3 have no caption of their own: the words of their file names are used.",
        "Sizes are from 20 x 20 to 48 x 64 pixels.",
        "Fewer than 10 pictures: the style will be learned poorly.",
    ]


def test_a_report_and_training_agree(dataset):
    rng = random.Random(5)
    files = {}
    for index in range(30):
        content = stored(picture((index // 2, 9, 9), rng.choice([10, 16, 40]), rng.choice([16, 40])))
        files[rng.choice(["{}.png", "a {}.png", "b cat {}.png"]).format(index)] = content
    files |= {f"{name[:-4]}.txt": f"the {name}" for name in files if rng.random() < 0.4}
    hand(dataset, files)
    for name in list(dataset.captions())[::7]:
        (dataset.folder / name).write_bytes(b"damaged since")
    report, loaded = dataset.check(16), load_pictures(dataset.folder, 16)
    used = [row for row in report.rows if row.used]
    assert [row.file for row in used] == [row["file_name"] for row in loaded.rows]
    assert [list(row.captions) for row in used] == loaded.captions
    told = {(row.file, note) for row in report.rows for note in row.notes}
    assert set(map(tuple, loaded.problems)) <= told


def test_many_pictures_are_shown_in_part(dataset):
    names = [f"picture {chr(97 + index // 26)}{chr(97 + index % 26)}.png" for index in range(203)]
    hand(dataset, {name: colour(index) for index, name in enumerate(names)})
    report = dataset.check(16)
    assert [row.thumbnail is not None for row in report.rows] == [True] * 200 + [False] * 3
    assert report.sentences() == [
        "203 pictures can be used.",
        "203 have no caption of their own: the words of their file names are used.",
        "All have 16 x 16 pixels.",
    ]


def test_pixels_are_not_kept(dataset, monkeypatch):
    hand(dataset, {f"a {index}.png": colour(index) for index in range(30)})
    alive, most, original = weakref.WeakSet(), [], datasets.scan

    def scan(*arguments):
        for seen in original(*arguments):
            alive.add(seen.pixels)
            most.append(len(alive))
            yield seen

    class Pixels(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    monkeypatch.setattr(datasets, "scan", scan)
    monkeypatch.setattr(reader.np, "asarray", lambda picture: np.array(picture).view(Pixels))
    assert len(dataset.check(16).rows) == 30 and max(most) <= 3


def test_nothing_is_reported_as_nothing(dataset):
    assert dataset.captions() == {} and dataset.check(64).sentences() == ["No picture can be used."]
    assert not dataset.folder.exists()
    hand(dataset, {f"{index}.png": colour(index) for index in range(5)})
    assert dataset.check(16).sentences() == [
        "No picture can be used.",
        "5 are skipped: 0.png (it has no caption), 1.png (it has no caption), 2.png (it has no caption) and 2 more.",
    ]


def test_limits_are_those_of_the_place():
    assert (OWN.pictures, OWN.file_bytes, OWN.total_bytes) == (20_000, 10**8, 2 * 10**10)
    assert (SHARED.pictures, SHARED.file_bytes, SHARED.total_bytes) == (500, 2 * 10**7, 2 * 10**8)
