"""What is handed over in a browser: all that can be used is taken in, nothing else is written, nothing is lost."""

import errno
import os
import pickle
import random
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.handed import colour, encrypted, hand, lying, metadata, on_disk, picture, special, stored, zipped
from train.data import intake
from train.data.datasets import SHARED, Dataset
from train.data.intake import PHRASINGS, Limits
from train.data.listings import Problem
from train.data.reader import read_listing
from train.loop.config import ConfigError

SMALL = Limits(pictures=5, file_bytes=3000, total_bytes=10_000, zip_members=8)


def noise(size, seed=0):
    """A PNG of about size x size x 3 bytes, and of a content of its own."""
    return stored(Image.frombytes("RGB", (size, size), random.Random(seed).randbytes(size * size * 3)))


def blank_png(width, height):
    """Tiny on disk, as large as its header says."""
    row = zlib.compressobj(9)
    data = row.compress(b"\0" * (width + 1) * 8) + row.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path / "data" / "mine", SHARED)


def told(problems, name):
    return "; ".join(problem.sentence for problem in problems if problem.file == name)


# Pictures and captions


def test_pictures_are_taken_in_as_what_they_are(dataset):
    files = {
        "a.png": colour(1),
        "b.png": stored(picture("red"), "JPEG"),
        "c": stored(picture("blue"), "WEBP"),
        "d.jpeg": stored(picture("lime"), "GIF"),
    }
    assert hand(dataset, files) == []
    assert on_disk(dataset) == ["a.png", "b.jpg", "c.webp", "d.gif"]
    assert (dataset.folder / "b.jpg").read_bytes() == files["b.png"]
    assert dataset.captions() == {"a.png": [], "b.jpg": [], "c.webp": [], "d.gif": []}
    assert [row["captions"] for row in read_listing(dataset.folder).rows] == [["a"], ["b"], ["c"], ["d"]]


HUGE = blank_png(13_000, 13_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no PNG"),
        (noise(40)[:-900], "can't be read"),
        (pickle.dumps([1, 2]), "no PNG"),
        (HUGE, "169.0 megapixels"),
        (blank_png(60_000, 60_000), "megapixels"),
        (stored(picture(), "BMP"), "no PNG"),
        (stored(picture("red", 300, 15)), "15 pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG"),
    ],
    ids=["empty", "cut", "pickle", "huge", "bomb", "bitmap", "tiny", "svg"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_told_and_not_kept(dataset, content, words):
    packed = zipped({"inner.png": content, "fine.png": colour(1)})
    problems = hand(dataset, {"odd.png": content, "good.png": colour(2), "set.zip": packed})
    assert [problem.file for problem in problems] == ["odd.png", "set.zip/inner.png"]
    assert all(words in problem.sentence and problem.sentence.startswith("skipped: ") for problem in problems)
    assert on_disk(dataset) == ["fine.png", "good.png"]


def test_files_of_other_kinds_are_told(dataset):
    problems = hand(dataset, {"notes.md": "# x", "data.csv": "a,b", "a.json": "{}", "b.png": colour(1)})
    assert [problem.file for problem in problems] == ["notes.md", "data.csv", "a.json"] and len(on_disk(dataset)) == 1
    assert dataset.add([dataset.folder / "nothing.png", dataset.folder, "nul\0.png"]) == [
        Problem(name, "skipped: there is no such file") for name in ("nothing.png", "mine", "nul\0.png")
    ]


@pytest.mark.parametrize("order", [["Cat.PNG", "cat.txt"], ["cat.txt", "Cat.PNG"]])
@pytest.mark.parametrize("together", [True, False])
def test_a_text_is_the_caption_of_the_picture_of_its_name(dataset, order, together):
    files = {"Cat.PNG": colour(1), "cat.txt": "\ufeffa cat\r\n\r\n une chatte noire, größer \n"}
    if together:
        assert hand(dataset, {name: files[name] for name in order}) == []
    else:
        problems = [hand(Dataset(dataset.folder, SHARED), {name: files[name]}) for name in order]
        waits = [Problem("cat.txt", "its caption waits for its picture: nothing of that name is here yet")]
        assert problems == [waits if order[0] == "cat.txt" else [], []]
    assert dataset.captions() == {"Cat.png": ["a cat", "une chatte noire, größer"]}
    assert read_listing(dataset.folder).problems == []
    assert hand(dataset, {"CAT.txt": "another"}) == [] and dataset.captions() == {"Cat.png": ["another"]}
    assert hand(dataset, {"CAT.txt": " \n"}) == [] and dataset.captions() == {"Cat.png": ["another"]}


def test_names_find_each_other_however_they_are_encoded(dataset):
    hand(dataset, {"Ko\u0308nig!?.png": colour(1), "a.png.txt": "a"})
    hand(dataset, {"k\u00f6nig!?.txt": "a king", "a.png": colour(2)})
    assert dataset.captions() == {"König!.png": ["a king"], "a.png": ["a"]}


def test_a_text_belongs_to_what_came_with_it_before_what_came_earlier(dataset):
    hand(dataset, {"a.png": colour(1), "a.txt": "first"})
    hand(dataset, {"a.png": colour(2), "a.jpg": colour(3), "a.txt": "second"})
    assert dataset.captions() == {"a.png": ["first"], "a-2.png": ["second"], "a-3.png": ["second"]}
    hand(dataset, {"a.txt": "third"})
    assert dataset.captions() == {"a.png": ["first"], "a-2.png": ["third"], "a-3.png": ["third"]}
    hand(dataset, {"b.png": colour(4)})
    assert dataset.captions()["b.png"] == []


def test_a_list_says_captions_under_all_their_names(dataset):
    rows = [
        {"file_name": "images/a.png", "captions": ["one", " two "], "style": "x"},
        {"file_name": "b.png", "text": "three"},
        {"file_name": "C.png", "caption": ["four"], "held_out": True},
        {"file_name": "late.png", "text": "five"},
    ]
    assert hand(dataset, {"metadata.jsonl": metadata(*rows[:3]), "a.png": colour(1), "b.png": colour(2)}) == [
        Problem("metadata.jsonl", "its caption waits for its picture: nothing of that name is here yet")
    ]
    hand(dataset, {"c.png": colour(3), "c.txt": "not this"})
    assert dataset.captions() == {"a.png": ["one", "two"], "b.png": ["three"], "c.png": ["four"]}
    assert [row["file_name"] for row in read_listing(dataset.folder).rows] == ["a.png", "b.png"]
    hand(dataset, {"metadata.jsonl": metadata(rows[3], {"file_name": "b.png", "text": "new"})})
    hand(dataset, {"late.png": colour(4)})
    assert dataset.captions() == {"a.png": ["one", "two"], "b.png": ["new"], "c.png": ["four"], "late.png": ["five"]}


def test_a_list_that_means_several_files_of_one_name_is_not_guessed_at(dataset):
    rows = [{"file_name": f"{folder}/1.png", "text": folder} for folder in ("cat", "dog")]
    problems = hand(dataset, {"metadata.jsonl": metadata(*rows), "1.png": colour(1)})
    assert [problem.file for problem in problems] == ["cat/1.png", "dog/1.png"]
    assert all("zip" in problem.sentence for problem in problems) and dataset.captions() == {"1.png": []}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"caf\xe9", "UTF-8"),
        ("a.txt", "x" * 2001, "2,001 characters"),
        ("a.txt", "nul \0", "no text"),
        ("a.txt", "x\n" * 300_000, "too large"),
        ("a.txt", "\n".join(map(str, range(99))), f"of its 99 captions {PHRASINGS} are taken"),
        ("metadata.jsonl", '{"file_name": 3}', "line 1"),
        ("metadata.jsonl", "[" * 100_000, "line 1"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": {"no": "text"}}', "must be text"),
        ("metadata.jsonl", '{"file_name": "../../a.png", "text": "x"}' + "\n{}", "line 2"),
    ],
)
def test_captions_that_can_not_be_used_are_told(dataset, name, content, words):
    problems = hand(dataset, {"a.png": colour(1), name: content})
    assert words in "; ".join(problem.sentence for problem in problems)
    assert on_disk(dataset) == ["a.png"] and len(dataset.captions()["a.png"]) <= PHRASINGS


def test_captions_that_wait_do_not_pile_up(tmp_path):
    dataset = Dataset(tmp_path / "mine", SMALL)
    problems = hand(dataset, {"metadata.jsonl": metadata(*({"file_name": f"{i}.png", "text": "x"} for i in range(8)))})
    assert told(problems, "metadata.jsonl").count("skipped: 5 captions wait") == 3
    assert "5 captions wait for pictures: nothing of that name" in told(problems, "metadata.jsonl")
    rows = [{"file_name": "a.png", "text": f"{i:05}"} for i in range(500)]
    hand(dataset, {"metadata.jsonl": metadata(*rows[:50]), "a.png": colour(1)})
    assert len(dataset.captions()["a.png"]) == PHRASINGS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A red  heart_2.png", "A red heart_2.png"),
        ("../../etc/passwd", "passwd.png"),
        ("", "picture.png"),
        ("a\nb\x1b[31m\u202ec.png", "a b [31m c.png"),
        ("\udcff\ud800x.png", "x.png"),
        ("metadata.jsonl.png", "metadata.jsonl.png"),
        ("漢" * 200 + ".png", "漢" * 60 + ".png"),
    ],
)
def test_names_on_disk_are_harmless_and_keep_their_words(dataset, name, expected):
    hand(dataset, {name: colour(1), "other.zip": zipped({"z.png": colour(2)})})
    assert expected in on_disk(dataset) and len(expected.encode()) < 200
    assert hand(dataset, {name: colour(3)}) == []
    again = expected.replace(".png", "-2.png")
    assert again in on_disk(dataset) and len(on_disk(dataset)) == len(dataset.captions()) == 3


def test_names_that_differ_in_case_alone_are_made_different(dataset):
    hand(dataset, {"a.png": colour(1), "A.png": colour(2), "a-2.PNG": colour(3)})
    assert on_disk(dataset) == ["A-2.png", "a-2-2.png", "a.png"]


def test_limits_of_number_and_size_are_kept_and_told(tmp_path):
    dataset = Dataset(tmp_path / "mine", SMALL)
    problems = hand(dataset, {"big.png": noise(40), "bad.png": b"x"} | {f"{i}.png": colour(i) for i in range(7)})
    assert "too large: at most 3 kB" in told(problems, "big.png") and "no PNG" in told(problems, "bad.png")
    assert told(problems, "5.png") == "left out with 1 more: at most 5 pictures of 10 kB in all are taken"
    assert on_disk(dataset) == [f"{i}.png" for i in range(5)] and len(problems) == 3
    assert "left out: at most 5" in told(hand(dataset, {"z.png": colour(9)}), "z.png")
    dataset.remove(dataset.captions())
    noisy = {f"noise {index}.png": noise(30, index) for index in range(4)}  # of 2.8 kB
    problems = hand(dataset, noisy | {"small.png": colour(1)})
    assert on_disk(dataset) == ["noise 0.png", "noise 1.png", "noise 2.png", "small.png"]
    assert told(problems, "noise 3.png").startswith("left out: at most 5 pictures of 10 kB")
    dataset.remove(dataset.captions())
    cut = {f"cut {name}": content[:-100] for name, content in list(noisy.items())[:3]}
    problems = hand(dataset, cut | {"a.png": colour(1), "b.png": colour(2), "noise 0.png": noisy["noise 0.png"]})
    assert on_disk(dataset) == ["a.png", "b.png", "noise 0.png"] and len(problems) == 3  # refused ones take no room


# Zips


def test_a_zip_is_unpacked_with_its_folders_apart(dataset):
    files = {
        "set/cat/1.png": colour(1),
        "set/cat/1.txt": "a cat",
        "set/dog/1.png": colour(2),
        "set/dog/1.TXT": "a dog",
        "set/dog/metadata.jsonl": metadata({"file_name": "2.png", "text": "two dogs"}),
        "set/dog/2.png": colour(3),
        "set/cat/2.png": colour(4),
        "set/.DS_Store": b"x",
        "__MACOSX/set/cat/._1.png": b"x",
        "set/.git/x.png": colour(5),
        "set/empty/": b"",
    }
    assert hand(dataset, {"set.zip": zipped(files, compression=zipfile.ZIP_DEFLATED)}) == []
    captions = {(dataset.folder / name).read_bytes(): said for name, said in dataset.captions().items()}
    assert captions == {
        colour(1): ["a cat"],
        colour(2): ["a dog"],
        colour(3): ["two dogs"],
        colour(4): [],
    }
    assert on_disk(dataset) == ["1-2.png", "1.png", "2-2.png", "2.png"]


def test_captions_may_come_in_a_zip_of_their_own(dataset):
    hand(dataset, {"pictures.zip": zipped({"pictures/a.png": colour(1), "pictures/b/c.png": colour(2)})})
    assert hand(dataset, {"texts.ZIP": zipped({"texts/a.txt": "an a", "texts/b/c.txt": "a c"})}) == []
    assert dataset.captions() == {"a.png": ["an a"], "c.png": ["a c"]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.png", "leads out"),
        (special("link.png", stat.S_IFLNK | 0o777), "link"),
        ("inner.zip", "unpack it first"),
    ],
)
def test_members_that_lead_elsewhere_are_refused(dataset, name, words, tmp_path):
    before = sorted(path for path in tmp_path.parent.rglob("*evil*"))
    content = b"/etc/passwd" if isinstance(name, zipfile.ZipInfo) else colour(1)
    problems = hand(dataset, {"set.zip": zipped([(name, content), ("good.png", colour(2))])})
    assert len(problems) == 1 and words in problems[0].sentence and problems[0].file.startswith("set.zip/")
    assert on_disk(dataset) == ["good.png"] and sorted(tmp_path.parent.rglob("*evil*")) == before


def test_members_that_are_locked_are_refused(dataset):
    packed = encrypted(zipped([("good.png", colour(1)), ("locked.png", colour(2))]))
    [problem] = hand(dataset, {"set.zip": packed})
    assert "password" in problem.sentence and problem.file == "set.zip/locked.png" and on_disk(dataset) == ["good.png"]


def test_zips_are_counted_and_sized_before_they_are_unpacked(tmp_path, monkeypatch):
    dataset = Dataset(tmp_path / "mine", SMALL)
    many = zipped({f"{i}.png": b"" for i in range(9)})
    bomb = zipped({f"{i}.png": b"\0" * 2500 for i in range(5)}, compression=zipfile.ZIP_DEFLATED)
    large = zipped({"a.png": b"\0" * 5000, "b.png": colour(1)}, compression=zipfile.ZIP_DEFLATED)
    opened, original = [], zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, one: opened.append(one.filename) or original(self, one))
    assert hand(dataset, {"many.zip": many}) == [
        Problem("many.zip", "skipped: it holds too many files: at most 8 are taken; split it")
    ]
    assert hand(dataset, {"bomb.zip": bomb}) == [
        Problem("bomb.zip", "skipped: it unpacks to 12.5 kB; at most 10 kB are taken")
    ]
    [problem] = hand(dataset, {"large.zip": large})
    assert problem == Problem("large.zip/a.png", "skipped: it is too large: at most 3 kB are read")
    assert on_disk(dataset) == opened == ["b.png"]


def test_sizes_are_counted_because_headers_lie(tmp_path):
    dataset = Dataset(tmp_path / "mine", SMALL)
    content = lying(zipped({"a.png": b"\0" * 10**6}, compression=zipfile.ZIP_DEFLATED), 100)
    [problem] = hand(dataset, {"lies.zip": content, "b.png": colour(1)})
    assert problem.file == "lies.zip/a.png" and "damaged" in problem.sentence and on_disk(dataset) == ["b.png"]


@pytest.mark.parametrize("damage", ["cut", "empty", "no zip", "table", "members"])
def test_a_damaged_zip_is_told_and_nothing_is_lost(dataset, damage):
    hand(dataset, {"before.png": colour(1), "before.txt": "before"})
    whole = zipped({"a.png": colour(2), "b.png": colour(3)})
    table = whole.index(b"PK\x01\x02")
    content = {
        "cut": whole[:-30],
        "empty": b"",
        "no zip": colour(4),
        "table": whole[:table] + b"\xff" * 60 + whole[table + 60 :],
        "members": b"\xff" * 60 + whole[60:],
    }[damage]
    problems = hand(dataset, {"set.zip": content, "after.png": colour(5)})
    assert len(problems) == 1 and "damaged" in problems[0].sentence and "\n" not in problems[0].sentence
    kept = {"b.png"} if damage == "members" else set()
    assert set(on_disk(dataset)) == {"before.png", "after.png"} | kept
    assert dataset.captions()["before.png"] == ["before"]


def test_random_damage_of_a_zip_never_does_harm(dataset):
    rng = random.Random(3)
    whole = zipped({f"d/{i}.png": colour(i) for i in range(4)} | {"d/1.txt": "one"}, compression=zipfile.ZIP_DEFLATED)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 12)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        hand(dataset, {"set.zip": bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])})
        on_disk(dataset)
    assert all(path.suffix == ".png" for path in map(Path, on_disk(dataset)))
    assert set(dataset.captions()) == set(on_disk(dataset))


# Folders


def test_a_folder_is_linked_in_and_left_as_it_is(dataset, tmp_path):
    theirs = tmp_path / "theirs"
    (theirs / "sub").mkdir(parents=True)
    files = {"a cat.png": colour(1), "a cat.txt": b"one\ntwo", "sub/0001.jpg": colour(2), "bad.png": b"x"}
    for name, content in files.items():
        (theirs / name).write_bytes(content)
    (theirs / "out.png").symlink_to("/etc/passwd")
    problems = dataset.add_folder(str(theirs))
    assert {problem.file for problem in problems} == {"bad.png", "out.png"}
    assert dataset.captions() == {"a cat.png": ["one", "two"], "0001.png": []}
    assert (dataset.folder / "0001.png").stat().st_ino == (theirs / "sub/0001.jpg").stat().st_ino
    dataset.set_captions({"0001.png": "three"})
    dataset.remove(["a cat.png"])
    assert {name: (theirs / name).read_bytes() for name in files} == files
    assert on_disk(dataset) == ["0001.png"] and read_listing(dataset.folder).rows[0]["captions"] == ["three"]


def test_a_folder_on_another_disk_is_copied(dataset, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a.png").write_bytes(colour(1))

    def refuse(*paths):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert dataset.add_folder(tmp_path / "theirs") == []
    assert (dataset.folder / "a.png").read_bytes() == colour(1)
    assert (dataset.folder / "a.png").stat().st_ino != (tmp_path / "theirs/a.png").stat().st_ino


def test_pictures_that_a_folder_holds_out_or_does_not_list_stay_out(dataset, tmp_path):
    rows = [{"file_name": f"{name}.png", "text": name, "held_out": name == "b"} for name in "abc"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/metadata.jsonl").write_bytes(metadata(*rows))
    for index, name in enumerate("abcd"):
        (tmp_path / f"theirs/{name}.png").write_bytes(colour(index))
    [problem] = dataset.add_folder(tmp_path / "theirs")
    assert problem.file == "d.png" and "metadata.jsonl does not list it" in problem.sentence
    assert dataset.captions() == {"a.png": ["a"], "b.png": ["b"], "c.png": ["c"]}
    assert [row["captions"] for row in read_listing(dataset.folder).rows] == [["a"], ["c"]]


def test_folders_that_can_not_be_added_are_refused_in_a_sentence(dataset, tmp_path):
    hand(dataset, {"a.png": colour(1)})
    for path, words in [
        (tmp_path / "nowhere", "there is no folder"),
        (dataset.folder, "lie in each other"),
        (tmp_path, "lie in each other"),
        ("nul\0", "can't be read"),
        ("~nobody-of-that-name/x", "can't be read"),
    ]:
        with pytest.raises(ConfigError, match=words) as caught:
            dataset.add_folder(path)
        assert "\n" not in str(caught.value)
    assert on_disk(dataset) == ["a.png"]


# Disks


def fill_disk(monkeypatch, after):
    """Let `after` copies be written, and then no more; listings still are."""
    written = []

    def full(opener, limit):
        yield b"".join(original(opener, limit))
        written.append(opener)
        if len(written) > after:
            raise OSError(errno.ENOSPC, "No space left on device")

    original = intake.read_parts
    monkeypatch.setattr(intake, "read_parts", full)


@pytest.mark.parametrize("packed", [False, True])
def test_a_full_disk_keeps_what_was_taken_in(dataset, monkeypatch, packed):
    hand(dataset, {"before.png": colour(1), "before.txt": "before"})
    files = {f"{i}.png": colour(i + 10) for i in range(6)}
    with monkeypatch.context() as patch:
        fill_disk(patch, 4)
        with pytest.raises(ConfigError, match=r"No space left on device.*make room.*4 of these") as caught:
            hand(dataset, {"set.zip": zipped(files)} if packed else files)
    assert "\n" not in str(caught.value)
    assert on_disk(dataset) == [f"{i}.png" for i in range(4)] + ["before.png"]
    assert dataset.captions()["before.png"] == ["before"] and len(dataset.captions()) == 5
    assert hand(dataset, {"5.png": files["5.png"]}) == []
