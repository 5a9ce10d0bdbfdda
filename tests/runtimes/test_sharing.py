"""Requests that wait for the lock together share passes of the network, and each gets its own answer."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.test_engine import lora_files  # noqa: F401
from yoso_core.drawing import PictureError, draw, passes
from yoso_core.engine import Engine
from yoso_core.offers import USUAL
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse, RequestError
from yoso_core.runtimes.reference import Torch


class Batches(Torch):
    """torch as on a device that gains by batches, which notes their sizes."""

    batch = 4

    def __init__(self):
        super().__init__()
        self.sizes = []

    def run(self, part, inputs, weights, prepare):
        if type(part).__name__ == "Decode":
            self.sizes.append(len(inputs[0]))
        return super().run(part, inputs, weights, prepare)


@pytest.fixture
def engine(tiny_spec, lora_files):  # noqa: F811
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
    engine.runtime = Batches()
    engine.add_lora("lora0", lora_files["lora0"])
    return engine


def run_together(engine, requests):
    """All of them at once: the lock is held until they wait for it."""

    def run(request):
        try:
            return engine.run(request)
        except (PictureError, RequestError) as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        with engine.lock:
            asked = [pool.submit(run, request) for request in requests]
            while len(engine._waiting) < sum(type(one) is GenerateRequest for one in requests):
                pass
        return [one.result() for one in asked]


def close(one, other):
    return all(
        np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= 1
        for a, b in zip(one.pictures, other.pictures, strict=True)
    )


def test_requests_of_one_kind_share_passes_and_others_do_not(engine):
    picker = random.Random(0)
    requests = [
        GenerateRequest(
            picker.choice(["a red heart", "a {red|blue} dog"]),
            seed=picker.randrange(100),
            count=picker.choice([1, 1, 2]),
            steps=picker.choice([1, 2]),
            loras=picker.choice([(), (LoraUse("lora0", 0.5),)]),
        )
        for _ in range(16)
    ]
    alone = [engine.run(request) for request in requests]
    engine.runtime.sizes.clear()
    together = run_together(engine, requests)
    assert max(engine.runtime.sizes) > 1 and len(engine.runtime.sizes) < len(requests)
    for one, other in zip(alone, together, strict=True):
        assert other.request == one.request and other.seeds == one.seeds
        assert close(one, other)


def test_samplers_are_not_mixed_in_a_pass(engine, monkeypatch):
    """Rows that wait together at equal steps, sampler by sampler: a pass of another's would draw another picture."""
    requests = [
        GenerateRequest("a dog", seed=seed, steps=2, sampler=sampler) for seed in range(2) for sampler in USUAL.samplers
    ]
    alone = [engine.run(request) for request in requests]
    kinds = []

    def noted(asked, tools):
        kinds.append([one.sampler for one in asked])
        return draw(asked, tools)

    monkeypatch.setattr("yoso_core.engine.draw", noted)
    together = run_together(engine, requests)
    assert sorted(kinds) == [[sampler] * 2 for sampler in sorted(USUAL.samplers)]
    assert all(close(*pair) for pair in zip(alone, together, strict=True))


def test_prompts_of_other_lengths_are_drawn_apart(engine):
    requests = [GenerateRequest("a dog"), GenerateRequest("a dog BREAK a cat"), GenerateRequest("a cat", seed=1)]
    alone = [engine.run(request) for request in requests]
    assert all(close(*pair) for pair in zip(alone, run_together(engine, requests), strict=True))


def test_the_trouble_of_one_is_not_that_of_others(engine, monkeypatch):
    requests = [GenerateRequest("a", seed=seed) for seed in range(4)]
    good = engine.run(requests[0])

    def pictures(decoded, model, seeds):
        if 2 in seeds:
            raise PictureError("returned NaN for seed 2")
        return own(decoded, model, seeds)

    import yoso_core.drawing as module

    own = module._pictures
    monkeypatch.setattr(module, "_pictures", pictures)
    answers = run_together(engine, requests)
    assert [type(answer).__name__ for answer in answers] == ["Result", "Result", "PictureError", "Result"]
    assert close(answers[0], good)
    assert not engine._waiting


def test_an_unknown_lora_is_refused_to_all_who_name_it_and_to_nobody_else(engine):
    requests = [GenerateRequest("a", seed=seed, loras=(LoraUse("nothing"),)) for seed in range(2)]
    answers = run_together(engine, [*requests, GenerateRequest("a")])
    assert [type(answer) is RequestError for answer in answers] == [True, True, False]


def test_passes_hold_all_rows_in_few_sizes():
    for count in range(1, 40):
        rows = list(range(count))
        made = list(passes(rows, 8))
        assert [row for start, batch in made for row in batch[: count - start]] == rows
        assert {len(batch) for _, batch in made} <= {1, 2, 4, 8}
    assert [batch for _, batch in passes("abc", 1)] == [["a"], ["b"], ["c"]]
