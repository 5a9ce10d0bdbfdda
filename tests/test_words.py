"""What models say of the words that they know."""

import json

import pytest

from train.recipes.words import write_words
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, RequestError
from yoso_core.words import FILE, NOTHING, Words, read_words

WORDS = Words(
    styles={"3d": "", "flat": ""},
    names=("red heart", "bear", "polar bear", "box"),
    words=("kitty",),
    emoji={"🐻": "bear", "🐻\u200d❄": "polar bear", "❤": "red heart"},
)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("🐻 with a ❤️", "bear with a red heart"),
        ("🐻‍❄️", "polar bear"),
        ("❤❤, 3d", "red heart  red heart , 3d"),
        ("a bear", "a bear"),
        ("été", "été"),
    ],
)
def test_emoji_characters_are_words_the_longest_first(prompt, read):
    assert WORDS.spelled_out(prompt) == read


@pytest.mark.parametrize(
    ("prompt", "unknown", "noted"),
    [
        ("a Bear, 3d", [], False),
        ("bears and boxes", [], False),
        ("a zxcv bear", ["zxcv"], False),
        ("a zxcv in flat style", ["zxcv"], True),
        ("❤️", [], False),
        ("", [], False),
        ("a picture, 3d", [], False),
        ("красный 猫", ["красный", "猫"], True),
    ],
)
def test_what_is_not_known_is_noted_where_nothing_is(prompt, unknown, noted):
    assert WORDS.unknown(prompt) == unknown
    assert bool(WORDS.note(prompt)) == noted


def test_a_model_without_words_claims_nothing(tmp_path):
    assert read_words(tmp_path) is NOTHING
    assert NOTHING.unknown("zxcv") == [] and NOTHING.note("zxcv") == "" and NOTHING.spelled_out("🐻") == "🐻"


@pytest.mark.parametrize("text", ["{", "[]", '{"names": "cat"}', '{"styles": ["3d"]}', '{"emoji": {"a": 1}}', "\x00"])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RequestError, match=r"words\.json can't be read"):
        read_words(tmp_path)


def test_the_file_is_made_of_captions_and_keeps_what_people_wrote(tmp_path):
    rows = [
        {"file_name": f"{style}/1f43b.png", "label": "bear", "style": style, "captions": [f"{style} bear", "teddy"]}
        for style in ("flat", "3d", "ink")
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / FILE).write_text(json.dumps({"styles": {"flat": "plain", "gone": "no more"}, "examples": ["a bear"]}))
    write_words(tmp_path / "metadata.jsonl", tmp_path, more=["grizzly", "bear"])
    words = read_words(tmp_path)
    assert words.styles == {"flat": "plain", "3d": "", "ink": ""} and next(iter(words.styles)) == "flat"
    assert (words.names, words.words, words.examples) == (("bear",), ("grizzly", "teddy"), ("a bear",))
    assert words.emoji == {"🐻": "bear"}


def test_the_bundled_model_knows_its_own_examples():
    words = MODELS[DEFAULT_MODEL].words
    assert words.examples and not [prompt for prompt in words.examples if words.unknown(prompt)]
    assert words.spelled_out("🐼") == "panda" and words.note("flurble")
    assert all(words.styles.values())
