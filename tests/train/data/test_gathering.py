"""One reader: a folder, a drop and a zip of the same files are the same data set."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handed import colour, hand, zipped
from train.data.datasets import Dataset
from train.data.gathering import gather
from train.data.latents import load_pictures
from train.data.reader import list_files, read_listing, walk


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def contents(folder):
    """(picture, what goes into it) -> (captions, held out), by their bytes: names on disk are the data set's own."""
    found = {}
    for row in list_files(folder, keep=lambda row: True).rows:
        given = row.get("input_file_name")
        pair = (folder / row["file_name"]).read_bytes(), given and (folder / given).read_bytes()
        found[pair] = (row["captions"], row["held_out"])
    return found


def everywhere(tmp_path, files):
    """The same files read as a folder, as a folder added to a data set, and as a zip of it."""
    folder = write(tmp_path / "folder", files)
    added, unpacked = Dataset(tmp_path / "added"), Dataset(tmp_path / "unpacked")
    problems = [
        added.add_folder(folder),
        hand(unpacked, {"set.zip": zipped({f"set/{n}": c for n, c in files.items()})}),
    ]
    listing = list_files(folder, keep=lambda row: True)
    told = [{problem.sentence for problem in some} for some in (listing.problems, *problems)]
    assert told[0] == told[1] == told[2]
    found = [contents(one) for one in (folder, added.folder, unpacked.folder)]
    assert found[0] == found[1] == found[2]
    return found[0], told[0]


A, B, C, D = (colour(index) for index in range(1, 5))


@pytest.mark.parametrize("ending", [".txt", ".caption", ".TXT", ".png.txt"])
def test_captions_lie_beside_pictures(tmp_path, ending):
    found, told = everywhere(tmp_path, {"img01.png": A, f"img01{ending}": "a cat\n", "sub/Thumbs.db": b"x"})
    assert found == {(A, None): (["a cat"], False)} and told == set()
    [row] = read_listing(tmp_path / "folder").rows
    assert row["captions"] == ["a cat"]


def test_a_json_beside_a_picture_is_its_caption(tmp_path):
    files = {"000.png": A, "000.json": '{"caption": "a cat", "url": "x", "key": "000"}', "000.txt": "a cat"}
    assert everywhere(tmp_path, files) == ({(A, None): (["a cat"], False)}, set())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "one"}\n{"file_name": "sub\\\\b.png", "text": "two"}'),
        ("meta_cap.json", '{"/home/me/set/a": {"caption": "one"}, "C:\\\\set\\\\sub\\\\b.png": {"caption": "two"}}'),
        ("sub/data.csv", "image,caption\n../a.png,one\nb.png,two\n"),
        ("captions.json", '[{"image": "./A.png", "prompt": "one"}, {"image": "sub/b.PNG", "prompt": "two"}]'),
    ],
)
def test_lists_name_pictures_as_people_do(tmp_path, name, content):
    found, told = everywhere(tmp_path, {"a.png": A, "sub/b.png": B, name: content})
    assert found == {(A, None): (["one"], False), (B, None): (["two"], False)} and told == set()


def test_what_a_list_does_not_name_is_left_out_unless_it_has_a_caption(tmp_path):
    files = {"a.png": A, "b.png": B, "c.png": C, "d.png": D, "c.txt": "a c", "other/x.png": colour(9)}
    files["metadata.jsonl"] = '{"file_name": "a.png", "text": "one"}'
    found, told = everywhere(tmp_path, files)
    assert set(found) == {(A, None), (C, None)}
    [sentence] = told
    assert sentence.startswith("left out: ") and "metadata.jsonl does not list it" in sentence and "2 more" in sentence


def test_captions_under_an_unknown_key_are_told_by_name(tmp_path):
    listing = list_files(write(tmp_path, {"a.png": A, "metadata.jsonl": '{"file_name": "a.png", "beschreibung": "x"}'}))
    assert "beschreibung" in listing.problems[0].sentence and "call the key text" in listing.problems[0].sentence


def test_other_files_are_told_once_a_kind_and_other_json_is_no_list(tmp_path):
    files = {"a.png": A, "a.txt": "a", "b.npz": b"x", "c.npz": b"x", "notes.md": "x", "config.json": '{"steps": "5"}'}
    found, told = everywhere(tmp_path, files | {"more.json": '{"z.png": "not here"}'})
    assert found == {(A, None): (["a"], False)} and len(told) == 3
    listing = list_files(tmp_path / "folder")
    assert [problem.file for problem in listing.problems] == ["b.npz", "notes.md", "config.json", "more.json"]
    assert any("so are 1 more" in sentence for sentence in told)


def seen(folder):
    """How often an epoch sees each picture, by its bytes."""
    return {(folder / row["file_name"]).read_bytes(): row.get("repeats", 1) for row in list_files(folder).rows}


def test_folders_of_sd_scripts_give_their_words_and_how_often_they_are_seen(tmp_path):
    files = {"img/30_sks cat/IMG_1.png": A, "img/30_sks cat/IMG_2.png": B, "img/30_sks cat/IMG_2.txt": "on a mat"}
    found, told = everywhere(tmp_path, files | {"img/5_dog/x.png": C, "img/2024_trip/a hill.png": D})
    assert found == {
        (A, None): (["sks cat"], False),
        (B, None): (["on a mat"], False),
        (C, None): (["dog"], False),
        (D, None): ([], False),
    }
    assert any('"sks cat"' in one and "seen 30 times an epoch" in one for one in told)
    for folder in ("folder", "added", "unpacked"):
        assert seen(tmp_path / folder) == {A: 30, B: 30, C: 5, D: 1}
    sentences = Dataset(tmp_path / "unpacked").check(16).sentences()
    assert any(sentence.startswith("2 are seen 30 times an epoch") for sentence in sentences)
    assert any(sentence.startswith("1 is seen 5 times an epoch") for sentence in sentences)
    assert any("30 times" in problem.sentence for problem in read_listing(tmp_path / "added").problems)


def test_a_row_says_how_often_and_nothing_else_than_a_number_counts(tmp_path):
    rows = [("a", 3), ("b", "7"), ("c", -1), ("d", "many")]
    files = {f"30_x/{name}.png": content for (name, _), content in zip(rows, (A, B, C, D), strict=True)}
    files["30_x/metadata.jsonl"] = "\n".join(
        json.dumps({"file_name": f"{name}.png", "text": name, "repeats": said}) for name, said in rows
    )
    _, told = everywhere(tmp_path, files)
    for folder in ("folder", "added", "unpacked"):
        assert seen(tmp_path / folder) == {A: 3, B: 7, C: 30, D: 30}
    assert sum("passed over: they must be a number" in one for one in told) == 2


def test_a_picture_that_is_there_twice_is_seen_as_often_as_the_one_that_is_seen_more(tmp_path):
    folder = write(tmp_path / "set", {"2_cat/a.png": A, "9_pet/a.png": A, "b.png": B})
    loaded = load_pictures(folder, 16)
    assert loaded.repeats.tolist() == [9, 1]
    (folder / "2_cat").rename(folder / "3_cat")
    assert load_pictures(folder, 16).digest == loaded.digest
    (folder / "9_pet").rename(folder / "8_pet")
    assert load_pictures(folder, 16).digest != loaded.digest


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_files_that_say_their_folders_are_read_as_a_zip_of_them(tmp_path, slash):
    files = {"set/train_A/a.png": A, "set/train_B/a.png": B, "set/train_prompts.json": '{"a.png": "an a"}'}
    dataset = Dataset(tmp_path / "mine")
    assert hand(dataset, {name.replace("/", slash): content for name, content in files.items()}) == []
    assert contents(dataset.folder) == {(B, A): (["an a"], False)}


@pytest.mark.parametrize(
    "files",
    [
        [("1.png", A), ("1.png", B), ("2.png", C), ("2.png", D)],
        [("1.png", A), ("1.png", B), ("train_prompts.json", b'{"1.png": "a one"}')],
        [("horse.png", A), ("zebra.png", B), ("fixed_prompt_a.txt", b"horse"), ("fixed_prompt_b.txt", b"zebra")],
    ],
)
def test_files_of_a_layout_without_its_folders_are_not_trained_on_as_something_else(tmp_path, files):
    uploads, dataset = tmp_path / "uploads", Dataset(tmp_path / "mine")
    write(uploads, {f"{number}/{name}": content for number, (name, content) in enumerate(files)})
    [problem] = dataset.add([uploads / str(number) / name for number, (name, _) in enumerate(files)])
    assert "drop one zip of the whole" in problem.sentence and dataset.captions() == {}


def test_pictures_of_one_name_are_taken(tmp_path):
    uploads, dataset = tmp_path / "uploads", Dataset(tmp_path / "mine")
    write(uploads, {"0/image.png": A, "1/image.png": B})
    assert dataset.add([uploads / "0/image.png", uploads / "1/image.png"]) == []
    assert len(dataset.captions()) == 2


PAIRS = {"a.png": (A, B), "b.png": (C, D)}


@pytest.mark.parametrize("names", [("train_A", "train_B"), ("trainA", "trainB"), ("input", "target")])
def test_pairs_are_what_comes_out_with_what_goes_in(tmp_path, names):
    files = {f"{names[side]}/{name}": both[side] for name, both in PAIRS.items() for side in (0, 1)}
    test = {f"test_{side}/t.png": colour(20 + index) for index, side in enumerate("AB")}
    if names[0] == "train_A":
        files |= test | {
            "train_prompts.json": '{"a.png": "an a", "b.png": "a b"}',
            "test_prompts.json": '{"t.png": "a t"}',
        }
    if names[0] == "input":
        files |= {"target/a.txt": "an a", "target/b.txt": "a b", "input/lonely.png": colour(30)}
    found, told = everywhere(tmp_path, files)
    captions = ([], []) if names[0] == "trainA" else (["an a"], ["a b"])
    wanted = {(B, A): (captions[0], False), (D, C): (captions[1], False)}
    if names[0] == "train_A":
        wanted[colour(21), colour(20)] = (["a t"], True)
        assert any("none of test" in one for one in told)
    if names[0] == "input":
        assert any("nothing in target goes with it" in one for one in told)
    assert found == wanted
    assert len(read_listing(tmp_path / "folder").rows) == 2


def test_two_domains_have_the_prompts_of_their_files(tmp_path):
    files = {"train_A/1.png": A, "train_B/1.png": B, "test_A/2.png": C, "test_B/3.png": D}
    files |= {"fixed_prompt_a.txt": "a picture of a horse\n", "fixed_prompt_b.txt": "a picture of a zebra"}
    found, _ = everywhere(tmp_path, files)
    horse, zebra = (["a picture of a horse"], ["a picture of a zebra"])
    assert found == {
        (A, None): (horse, False),
        (B, None): (zebra, False),
        (C, None): (horse, True),
        (D, None): (zebra, True),
    }


def test_a_test_split_is_held_out_beside_a_train_split_alone(tmp_path):
    files = {"train/a.png": A, "test/b.png": B, "validation/c.png": C}
    found, _ = everywhere(tmp_path, files)
    assert {picture: held for (picture, _), (_, held) in found.items()} == {A: False, B: True, C: True}
    (tmp_path / "folder/train/a.png").unlink()
    assert not any(row["held_out"] for row in list_files(tmp_path / "folder").rows)


def test_removing_a_picture_removes_what_goes_into_it(tmp_path):
    dataset = Dataset(tmp_path / "mine")
    hand(dataset, {"x.zip": zipped({"train_A/a.png": A, "train_B/a.png": B, "c.png": C})})
    assert len(dataset.captions()) == 2 and len(list(dataset.folder.glob("*.png"))) == 3
    dataset.remove(["a.png"] if (dataset.folder / "a.png").read_bytes() == B else ["a-2.png"])
    assert [path.read_bytes() for path in dataset.folder.glob("*.png")] == [C]


def test_a_pair_with_a_broken_input_is_left_out(tmp_path):
    dataset = Dataset(tmp_path / "mine")
    problems = hand(dataset, {"x.zip": zipped({"train_A/a.png": b"broken", "train_B/a.png": B, "c.png": C})})
    assert any("what goes into it can't be used" in problem.sentence for problem in problems)
    assert list(dataset.captions()) == ["c.png"] and len(list(dataset.folder.glob("*.png"))) == 1


def test_what_systems_leave_behind_is_passed_over_everywhere(tmp_path):
    files = {"a.png": A, "a.txt": "a", ".DS_Store": b"x", "__MACOSX/._a.png": b"x", "desktop.ini": "x", "._b.png": b"x"}
    assert everywhere(tmp_path, files) == ({(A, None): (["a"], False)}, set())


NAME = st.text(st.characters(categories=("Ll", "Lu", "Lo", "Nd"), include_characters=" _-'é"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(st.lists(NAME, min_size=1, max_size=4, unique_by=lambda name: name.casefold()), st.booleans())
def test_any_names_mean_the_same_in_a_folder_and_a_zip(tmp_path_factory, names, marked):
    tmp_path = tmp_path_factory.mktemp("names")
    files = {}
    for index, name in enumerate(names):
        files |= {f"{name}.png": colour(index), f"{name}.txt": f"number {index}"}
    folder = write(tmp_path / "folder", files)
    packed = zipped(files) if marked else unmarked(files)
    dataset = Dataset(tmp_path / "unpacked")
    hand(dataset, {"set.zip": packed})
    wanted = {colour(index): [f"number {index}"] for index in range(len(names))}
    for place in (folder, dataset.folder):
        rows = list_files(place).rows
        assert {(place / row["file_name"]).read_bytes(): row["captions"] for row in rows} == wanted


def unmarked(files):
    """A zip with names in UTF-8 that does not say so, as macOS packs them."""
    content = bytearray(zipped(files))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            flags = int.from_bytes(content[start + place : start + place + 2], "little") & ~0x800
            content[start + place : start + place + 2] = flags.to_bytes(2, "little")
    return bytes(content)


def test_a_long_list_of_files_that_nobody_has_is_told_in_short(tmp_path):
    rows = [json.dumps({"file_name": f"{index}.png", "text": "x"}) for index in range(100)]
    listing = list_files(write(tmp_path, {"metadata.jsonl": "\n".join(rows), "0.png": A}))
    assert len(listing.problems) == 21 and "78 more" in listing.problems[-1].sentence


def test_gathering_opens_no_picture(tmp_path):
    files, _ = walk(write(tmp_path, {"a.png": A, "a.txt": "x", "metadata.jsonl": ""}).resolve())
    closed = [file._replace(open=None) if file.path.endswith(".png") else file for file in files]
    assert len(gather(closed).pictures) == 1
