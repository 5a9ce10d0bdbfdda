"""What people write captions into, under whatever key and in whatever form."""

import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.listings import CAPTION_KEYS, LETTER, NoListError, captions_of, read_captions, rows_in, words_of
from train.loop.config import ConfigError

QUICK = settings(deadline=None, max_examples=60)
WORD = st.text(st.characters(categories=("Ll", "Lo")), min_size=1, max_size=8)


def said(content, name="list.json"):
    """Captions by file, and the problems."""
    problems = []
    rows = rows_in(content if isinstance(content, bytes) else content.encode(), name, problems)
    return {row["file_name"]: captions_of(row, problems) for row in rows}, problems


# Lists


@pytest.mark.parametrize("key", [*CAPTION_KEYS, "Prompt", "TEXT", " caption ", "blip_caption", "long_prompt"])
@pytest.mark.parametrize("file", ["file_name", "image", "img_path", "File_Name"])
def test_captions_and_files_are_found_under_their_usual_keys(key, file):
    row = {file: "a.png", key: "a cat", "width": 3}
    for content, name in [
        (json.dumps(row), "a.jsonl"),
        (json.dumps([row]), "a.json"),
        (f"{file},{key},width\na.png,a cat,3\n", "a.csv"),
        (f"{file}\t{key}\twidth\na.png\ta cat\t3\n", "a.TSV"),
    ]:
        assert said(content, name) == ({"a.png": ["a cat"]}, [])


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"tags": ["1girl", "solo"]}, ["1girl, solo"]),
        ({"tags": "1girl, solo"}, ["1girl, solo"]),
        ({"caption": "a girl", "tags": "solo"}, ["a girl, solo"]),
        ({"captions": ["one", "two"], "tags": "no"}, ["one", "two"]),
        ({"negative_prompt": "ugly"}, []),
        ({"prompt": "good", "negative_prompt": "ugly"}, ["good"]),
        ({"caption": "", "prompt": "good"}, ["good"]),
    ],
)
def test_what_a_row_says(row, captions):
    problems = []
    assert captions_of(row | {"file_name": "a.png"}, problems) == captions and problems == []


LISTS = {
    "an object of captions (img2img-turbo)": '{"a.png": "an a", "b.png": "a b"}',
    "an object of objects (sd-scripts)": '{"a.png": {"caption": "an a"}, "b.png": {"tags": "a b", "size": [1]}}',
    "lines in a file called json (ControlNet)": '{"source": "s/a.png", "target": "a.png", "prompt": "an a"}\n'
    '{"source": "s/b.png", "target": "b.png", "prompt": "a b"}',
    "annotations (COCO)": json.dumps(
        {
            "images": [{"id": 2, "file_name": "b.png"}, {"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "caption": "an a"}, {"image_id": 2, "caption": "a b"}],
        }
    ),
}


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS)
def test_published_forms_of_lists_are_read(content):
    assert said(content) == ({"a.png": ["an a"], "b.png": ["a b"]}, [])


def test_a_row_may_say_what_its_picture_is_made_of():
    rows = [{"source": "s/a.png", "target": "a.png"}, {"file_name": "b.png", "input_file_name": "c.png"}]
    rows += [{"file_name": "d.png", "source": "the web"}]
    found = rows_in(json.dumps(rows).encode(), "x.json", [])
    assert [row.get("input_file_name") for row in found] == ["s/a.png", "c.png", None]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("{}", "a.json", "no files with captions"),
        ('{"lr": 0.1, "name": ["x", 1]}', "a.json", "no files with captions"),
        ("[1, 2]", "a.json", "call the key file_name"),
        ("no json", "a.json", "no JSON"),
        ("a,b\n1,2", "a.csv", "'a, b'"),
        (b"caf\xe9,file_name\n", "a.csv", "UTF-8"),
        ("", "a.csv", "file_name"),
    ],
)
def test_what_lists_no_pictures_is_told_apart(content, name, words):
    with pytest.raises(NoListError, match=words):
        said(content, name)


def test_rows_that_can_not_be_read_are_told_by_number_and_others_stay():
    found, problems = said('[{"file_name": "a.png", "text": "a"}, 5]')
    assert found == {"a.png": ["a"]} and "entry 2" in problems[0].sentence
    found, problems = said('file_name,text\na.png,"a, b"\nb.png,a, b\n', "x.csv")
    assert found == {"a.png": ["a, b"]} and "line 3" in problems[0].sentence and "quotation" in problems[0].sentence
    assert said("file_name;text\r\na.png;a, b\r\n", "x.csv") == ({"a.png": ["a, b"]}, [])
    assert said("file_name,text\na.png,ä\n".encode("utf-16"), "x.csv") == ({"a.png": ["ä"]}, [])


@QUICK
@given(st.dictionaries(WORD.map(lambda word: f"{word}.png"), WORD, min_size=1, max_size=5))
def test_all_forms_say_the_same(captions):
    rows = [{"file_name": name, "text": text} for name, text in captions.items()]
    table = "file_name,text\n" + "".join(f"{name},{text}\n" for name, text in captions.items())
    wanted = {name: [text] for name, text in captions.items()}
    assert said("\n".join(map(json.dumps, rows)), "x.jsonl") == (wanted, [])
    assert said("\n".join(map(json.dumps, rows)), "x.json")[0] == wanted
    assert said(json.dumps(rows)) == said(json.dumps(captions)) == said(table, "x.csv") == (wanted, [])


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("00012-3456789-red_fox.png", "red fox"),
        ("the_fox's_den.png", "the fox's den"),
        ("the fox’s den (2).png", "the fox’s den"),  # noqa: RUF001
        ("'quoted'_words.png", "quoted words"),
        ("0001 red fox.png", "red fox"),
        ("2 foxes.png", "2 foxes"),
        ("3d_heart-12.png", "3d heart"),
        ("cafe\u0301_terrace.png", "café terrace"),
        ("a.b.c.png", "a b c"),
        ("2024-01-01.png", ""),
        ("00012-3456789.png", ""),
        ("___.png", ""),
    ],
)
def test_words_of_names(name, words):
    assert words_of(name) == words


@QUICK
@given(st.lists(WORD, min_size=1, max_size=4), st.lists(st.integers(0, 10**7), max_size=2), st.sampled_from("_- ."))
def test_words_come_back_whatever_is_counted_around_them(words, numbers, between):
    counted = "".join(f"{number:05}-" for number in numbers)
    wanted = unicodedata.normalize("NFC", " ".join(words))
    assert words_of(f"{counted}{between.join(words)}.png") == wanted
    assert words_of(f"{counted}{between.join(words)}_{len(words)}.png") == wanted


@QUICK
@given(st.text(max_size=30))
def test_words_of_any_name_are_words(name):
    words = words_of(f"x/{name}.png")
    assert words == " ".join(words.split()) and "_" not in words and (not words or re.search(LETTER, words))


# Captions alone

JOURNEY = [{"img_path": "./000/a.jpg", "prompt": "a fox, detailed --ar 16:9", "Task2": {"Caption": "no"}}] * 2


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        ("a.txt", "\ufeffa fox\r\n\r\n a den \n", ["a fox", "a den"]),
        ("train_anno.jsonl", "\n".join(map(json.dumps, JOURNEY)), ["a fox, detailed --ar 16:9"] * 2),
        ("lines.txt", "\n".join(map(json.dumps, JOURNEY)), ["a fox, detailed --ar 16:9"] * 2),
        ("a.json", json.dumps(["a fox", "a den"]), ["a fox", "a den"]),
        ("a.json", json.dumps({"a.png": "a fox", "b.png": {"caption": "a den"}}), ["a fox", "a den"]),
        ("a.json", json.dumps(JOURNEY), ["a fox, detailed --ar 16:9"] * 2),
        ("a.csv", 'id,Prompt\n1,"a fox, red"\n2,\n3,a den\n', ["a fox, red", "a den"]),
        ("a.txt", "[a fox] in brackets\n{another}\n", ["[a fox] in brackets", "{another}"]),
    ],
)
def test_captions_alone_are_read_from_texts_and_lists(tmp_path, name, content, captions):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    assert read_captions(path) == captions
    path.write_bytes(content.removeprefix("\ufeff").encode("utf-16"))
    assert read_captions(path) == captions


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", " \n", "write one a line"),
        ("a.txt", b"caf\xe9", "UTF-8"),
        ("a.txt", "good\n" + "x" * 2001, "Line 2"),
        ("a.jsonl", '{"text": "x"}\nraw', "Line 2 .* no JSON object"),
        ("a.jsonl", '{"note": "x", "id": 1}', "no known key .*note, id"),
        ("a.txt", '{"note": "x"}', "no known key"),
        ("a.csv", "id,note\n1,x", "no known key"),
        ("a.json", "{", "can't be read as JSON"),
        ("a.jsonl", '{"prompt": 5}', "Line 1"),
    ],
)
def test_captions_that_would_not_be_what_their_owner_believes_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        read_captions(tmp_path / name)
    assert "\n" not in str(caught.value)
