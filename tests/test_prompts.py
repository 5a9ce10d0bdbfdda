"""Prompts as people type them elsewhere: what weighs how much, which choice a seed makes, what is told."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoso_core.prompts import (
    PARTS_LIMIT,
    WEIGHT_LIMIT,
    Prompt,
    Span,
    Tag,
    called,
    choose,
    has_choices,
    read_prompt,
    read_request,
    tags_of,
    take_loras,
    without_tags,
)
from yoso_core.requests import GenerateRequest, LoraUse, RequestError

PIECES = [*"ab1.5 ,()[]{}|:\\<>_-\n", "BREAK", " AND ", "<lora:x:", "__", "::"]
SYNTAX = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


def spans(text):
    """What a prompt of one part says, as text and weight, and no notes."""
    found = read_prompt(text)
    assert not found.notes and len(found.parts) == 1
    return [(span.text, pytest.approx(span.weight, abs=1e-5)) for span in found.parts[0]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a red heart, 3d", [("a red heart, 3d", 1)]),
        ("", [("", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("a ((red)) cat", [("a ", 1), ("red", 1.21), (" cat", 1)]),
        ("a [red] cat", [("a ", 1), ("red", 1 / 1.1), (" cat", 1)]),
        ("a (red:1.3) cat", [("a ", 1), ("red", 1.3), (" cat", 1)]),
        ("a (red: .5 ) cat", [("a ", 1), ("red", 0.5), (" cat", 1)]),
        ("a (red:-1) cat", [("a ", 1), ("red", -1), (" cat", 1)]),
        ("(a (red:1.5) cat:0.5)", [("a ", 0.5), ("red", 0.75), (" cat", 0.5)]),
        ("([a])", [("a", 1)]),
        (r"a \(red\) cat \[x\] \\", [("a (red) cat [x] \\", 1)]),
        (r"(a\):1.5)", [("a)", 1.5)]),
        (r"a \n b", [(r"a \n b", 1)]),
        ("a (red cat", [("a ", 1), ("red cat", 1.1)]),
        ("a [red cat", [("a ", 1), ("red cat", 1 / 1.1)]),
        ("a red) cat]", [("a red) cat]", 1)]),
        ("time: 12:30", [("time: 12:30", 1)]),
        ("()", [("", 1)]),
        (":1.3)", [(":1.3)", 1)]),
        ("I <3 you, a < b > c", [("I <3 you, a < b > c", 1)]),
        ("SALT AND PEPPER", [("SALT AND PEPPER", 1)]),
        ("a BRAND, BREAKFAST", [("a BRAND, BREAKFAST", 1)]),
    ],
)
def test_brackets_weigh_as_they_do_elsewhere(text, wanted):
    assert spans(text) == wanted


def test_break_begins_a_part():
    found = read_prompt("a (red BREAK blue:1.2) cat\nBREAK  dog")
    assert found.parts == (
        (Span("a "), Span("red", 1.2)),
        (Span("blue", 1.2), Span(" cat")),
        (Span("dog"),),
    )
    assert read_prompt("BREAK a BREAK BREAK").parts == ((Span("a"),),)
    assert len(read_prompt("a BREAK " * 50).parts) == PARTS_LIMIT and "first 8" in read_prompt("a BREAK " * 50).notes[0]


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("a [cat:dog:0.5] runs", "a cat runs", "“[cat:dog:0.5]” changes from step to step"),
        ("a [dog:3] runs", "a dog runs", "read as “dog”"),
        ("a [cat::3] runs", "a cat runs", "read as “cat”"),
        ("a [cat|dog] runs", "a cat runs", "read as “cat”"),
        ("a [(cat:1.2):(dog:1.3):.5]", "a  cat", "“[(cat:1.2):(dog:1.3):.5]”"),
        ("cat :1.2 AND dog :0.8", "cat, dog", "AND joins"),
        ("a __pet/small__ runs", "a pet small runs", "“__pet/small__” is a list"),
        ("a cat <hypernet:furs:0.5>", "a cat", "“<hypernet:furs>” is of another program"),
        ("a cat <lora:nothing:0.5>, red", "a cat, red", "There is no LoRA “nothing” here"),
    ],
)
def test_what_is_not_understood_is_told_once(text, words, told):
    found = read_prompt(text)
    assert found.words.strip() == words and len(found.notes) == 1 and told in found.notes[0]
    assert read_prompt(f"{text}, {text}").notes == found.notes


def test_weights_are_bounded_and_told():
    found = read_prompt("(a:99) (b:-99) " + "(" * 300 + "c" + ")" * 300 + " ((d:" + "9" * 400 + "):0)")
    weights = [span.weight for span in found.parts[0] if span.text.strip()]
    assert weights == [WEIGHT_LIMIT, -WEIGHT_LIMIT, WEIGHT_LIMIT, 0] and "go to 5" in found.notes[0]


def test_a_seed_makes_the_same_choice_and_seeds_differ():
    text = "a {red|green|blue} {cat|{small|large} dog}"
    made = [choose(text, seed) for seed in range(200)]
    assert made == [choose(text, seed) for seed in range(200)]
    assert len(set(made)) == 9 and all(word not in "".join(made) for word in "{|}")
    assert has_choices(text) and has_choices("{a|{b}}") and not has_choices("{a}, a|b, {c")
    assert choose("{a}, a|b, {c", 0) == "a, a|b, {c" and choose(r"\{a|b\}", 0) == r"\{a|b\}"
    assert read_prompt(r"\{a|b\}").words == "{a|b}"


def test_choices_may_have_shares():
    made = [choose("{3::a|1::b|0::c}", seed) for seed in range(400)]
    assert 0.65 < made.count("a") / 400 < 0.85 and "c" not in made


def test_a_request_tells_its_choices_and_reads_both_prompts():
    request = GenerateRequest("a {red|blue} cat BREAK dog", negative="(bad) <lora:x:1>", guidance=2.0, seed=3)
    asked = read_request(request)
    assert asked.prompt.words in ("a red cat dog", "a blue cat dog")
    assert len(asked.negative.parts) == 2 and asked.negative.parts[0] == (Span("bad", 1.1),)
    assert asked.notes[0] in ("Seed 3: red.", "Seed 3: blue.") and "in the prompt alone" in asked.notes[1]
    within = [read_request(GenerateRequest("{a {red|blue}|no} {cat|}", seed=seed)).notes for seed in range(60)]
    told = {note.partition(": ")[2] for (note,) in within}
    assert told == {f"{first}, {cat}." for first in ("a red", "a blue", "no") for cat in ("cat", "nothing")}
    plain = read_request(GenerateRequest("a cat", negative="<lora:x:1>"))
    assert plain.notes == ()  # a negative prompt does not act without guidance


def test_tags_are_read_and_leave_no_seam():
    assert tags_of("<lora:a:0.8> <LyCO: b c> <lora:d:0.5:0.7:lbw=X> <lora:e:unet=1>") == [
        Tag("lora", "a", 0.8),
        Tag("lyco", "b c", 1.0),
        Tag("lora", "d", 0.5),
        Tag("lora", "e", None),
    ]
    for text, wanted in (
        ("a, <lora:x:1>, b", "a, b"),
        ("a <lora:x:1> b", "a b"),
        ("<lora:x:1>, a", "a"),
        ("a, <lora:x:1>", "a"),
        ("a<lora:x:1><lora:y:1>b", "a b"),
    ):
        assert without_tags(text) == wanted
    assert without_tags("a, <lora:x:1> <lora:y:2>, b", lambda tag: tag.name == "x") == "a, <lora:y:2>, b"
    assert without_tags("<lora:x:1><lora:y:2>", lambda tag: tag.name == "x") == "<lora:y:2>"


OFFERED = {called(name): name for name in ("line-art", "upload-x-Soft_Ink")} | {called("Soft Ink"): "upload-x-Soft_Ink"}


@pytest.mark.parametrize(
    ("tag", "use"),
    [
        ("<lora:line-art:0.8>", LoraUse("line-art", 0.8)),
        ("<lora:Line_Art>", LoraUse("line-art", 1.0)),
        ("<lora:styles/line art.safetensors:-0.5>", LoraUse("line-art", -0.5)),
        ("<lyco:soft_ink:1.25>", LoraUse("upload-x-Soft_Ink", 1.25)),
        ("<lora:line-art:1:0.3:lbw=ALL>", LoraUse("line-art", 1.0)),
    ],
)
def test_a_tag_chooses_a_lora_by_its_name(tag, use):
    assert take_loras(f"a cat, {tag}", (), OFFERED) == ("a cat", (use,))


def test_a_tag_sets_the_weight_of_what_is_chosen_already():
    chosen = (LoraUse("line-art", 1.0), LoraUse("other", 0.5))
    assert take_loras("<lora:line-art:0.3> a", chosen, OFFERED) == ("a", (LoraUse("line-art", 0.3), chosen[1]))


def test_what_names_none_stays_and_weights_have_limits():
    prompt, loras = take_loras("a <lora:line-art:1> <lora:other:1> <hypernet:line-art:1>", (), OFFERED)
    assert prompt == "a <lora:other:1> <hypernet:line-art:1>" and loras == (LoraUse("line-art", 1.0),)
    with pytest.raises(RequestError, match="weight must be from -1 to 2, not 9"):
        take_loras("a <lora:line-art:9>", (), OFFERED)
    assert take_loras("a, b", (), OFFERED) == ("a, b", ())


@given(SYNTAX | st.text(max_size=60), st.integers(0, 2**32 - 1))
def test_any_text_is_a_prompt(text, seed):
    chosen = choose(text, seed)
    assert chosen == choose(text, seed) and (chosen == text or "{" in text)
    found = read_prompt(chosen)
    assert isinstance(found, Prompt) and found.parts and all(found.parts)
    for part in found.parts:
        assert all(math.isfinite(span.weight) and abs(span.weight) <= WEIGHT_LIMIT for span in part)
        assert all(one.weight != other.weight for one, other in pairwise(part))
    assert all(note.endswith(".") and "\n\n" not in note for note in found.notes)
    assert not tags_of(found.words) or "<" in without_tags(chosen)


@given(st.text(st.characters(exclude_characters="()[]{}<>\\|:_", codec="utf-8"), max_size=60))
def test_words_alone_are_left_as_they_are(text):
    if "BREAK" not in text and "AND" not in text:
        assert read_prompt(choose(text, 0)) == Prompt(((Span(text),),))


@given(st.text(st.characters(codec="utf-8", exclude_characters="_"), max_size=40))
def test_what_is_escaped_is_meant(text):
    if "BREAK" not in text and "AND" not in text:
        escaped = "".join(f"\\{one}" if one in "()[]{}<>|\\" else one for one in text)
        assert read_prompt(choose(escaped, 0)) == Prompt(((Span(text),),))


@given(SYNTAX, st.lists(st.sampled_from(["x", "y", "line-art"])))
def test_loras_of_tags_are_requests_that_can_be(text, names):
    prompt, loras = take_loras(text, (), {called(name): name for name in names})
    assert {use.name for use in loras} <= set(names)
    assert all(called(tag.name) not in map(called, names) for tag in tags_of(prompt) if tag.kind == "lora")
