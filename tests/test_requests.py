"""A request that exists is valid; everything else is refused in one sentence."""

import math

import pytest

from yoso_core.requests import SEED_LIMIT, GenerateRequest, LoraUse, RequestError, parse_size

BAD = [
    {"prompt": None},
    {"prompt": "a" * 100_000},
    {"prompt": "nul\x00"},
    {"prompt": "half a pair \ud800"},
    {"seed": 10**400},
    {"negative": 3},
    {"seed": -2},
    {"seed": 2**32},
    {"seed": 1.5},
    {"seed": True},
    {"seed": math.nan},
    {"steps": 0},
    {"steps": 3},
    {"steps": "1"},
    {"steps": math.inf},
    {"guidance": math.nan},
    {"guidance": -math.inf},
    {"guidance": 0.5},
    {"guidance": 99},
    {"guidance": 1.013},
    {"guidance": False},
    {"count": 0},
    {"count": 10},
    {"count": 2.5},
    {"size": 63},
    {"size": 100},
    {"size": 1_000_000},
    {"size": math.nan},
    {"model": 7},
    {"loras": tuple(LoraUse(str(index)) for index in range(6))},
    {"loras": (LoraUse("same"), LoraUse("same", 0.5))},
]


@pytest.mark.parametrize("fields", BAD, ids=lambda fields: f"{fields!r:.40}")
def test_refused_in_one_sentence(fields):
    with pytest.raises(RequestError) as caught:
        GenerateRequest(**{"prompt": "a red heart"} | fields)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 200


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.1, 2.1, True, "1", None])
def test_lora_weights_are_checked(weight):
    with pytest.raises(RequestError, match="weight"):
        LoraUse("a", weight)


def test_whole_floats_from_a_browser_become_integers():
    request = GenerateRequest("a", seed=7.0, steps=2.0, count=3.0, size=64.0, guidance=2)
    assert [type(value) for value in (request.seed, request.steps, request.count, request.size)] == [int] * 4
    assert isinstance(request.guidance, float)


def test_every_guidance_of_the_slider_is_taken():
    for index in range(141):
        GenerateRequest("a", guidance=round(1 + index * 0.05, 2))


def test_an_empty_prompt_is_a_request():
    assert GenerateRequest("").prompt == ""


def test_a_seed_of_minus_one_is_a_random_one():
    seeds = {GenerateRequest("a", seed=-1).seed for _ in range(20)}
    assert len(seeds) > 1 and all(0 <= seed <= SEED_LIMIT for seed in seeds)


@pytest.mark.parametrize("seed", [None, 2**32, 1.5, -2, True, "7"])
def test_what_is_no_seed_is_told_in_plain_numbers(seed):
    with pytest.raises(RequestError, match="up to 4294967295, or -1 for a random one") as caught:
        GenerateRequest("a", seed=seed)
    assert "e+" not in str(caught.value)


def test_a_size_is_a_side_or_width_and_height():
    assert GenerateRequest("a", size=[96, 64]).size == (96, 64)
    assert GenerateRequest("a", size=(64.0, 64)).size == 64
    assert parse_size("512") == 512 and parse_size(" 640 x 384 ") == (640, 384)
    for bad in ((64,), (64, 64, 64), (63, 64), (64, 2048), ("64", 64), "64x64"):
        with pytest.raises(RequestError):
            GenerateRequest("a", size=bad)
    for text in ("", "x", "64x", "64x64x64", "-64", "100000", "1e3"):
        with pytest.raises(RequestError):
            parse_size(text)
