"""Networks that take turns on a device that is too small: who is there when, and that every picture is as ever.

The device is a stand-in that remembers what was brought and sent away; all is computed on the CPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.test_conditioning import drawing
from tests.tiny_translate import write_translator
from yoso_core.devices import bytes_of
from yoso_core.engine import Engine
from yoso_core.machine import memory_of
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    TranslateRequest,
)
from yoso_core.runtimes import offloading as module
from yoso_core.runtimes.offloading import TakingTurns
from yoso_core.runtimes.parts import Decode
from yoso_core.runtimes.reference import Torch, Weights

PICTURE, FAR, RUN = memory_of(0, 64), torch.device("meta"), Torch.run
ASKED = {
    "words": GenerateRequest("a red heart", seed=1),
    "guidance": GenerateRequest("a red heart", seed=1, guidance=2.0, negative="blue"),
    "lora": GenerateRequest("a red heart", seed=1, loras=(LoraUse("waves", 0.5),)),
    "edit": EditRequest("a red heart", picture=drawing(), strength=0.6),
    "lines": GenerateRequest("a red heart", control=ControlUse(picture=drawing(), annotator="canny")),
    "translation": TranslateRequest("a red heart", picture=drawing(), translator="one"),
    "between": TranslateRequest("a red heart", picture=drawing(), translator="one", strength=0.5),
}


class Small:
    """A device of so many bytes, and what has travelled to it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.here, self.travels = limit, [], []

    def free(self) -> int:
        return self.limit - bytes_of(self.here)

    def move(self, network: nn.Module, device: torch.device) -> None:
        if device == FAR:
            self.here.remove(network)
            return
        assert network not in self.here
        self.here.append(network)
        self.travels.append(network)
        assert self.free() >= PICTURE


@pytest.fixture(scope="module")
def spec(tiny_spec):
    return replace(tiny_spec, family="tiny")


@pytest.fixture(scope="module")
def translators(spec, tmp_path_factory):
    model = Engine({DEFAULT_MODEL: spec}, device="cpu").load(DEFAULT_MODEL)
    return {"one": write_translator(tmp_path_factory.mktemp("translators") / "one", model)}


@pytest.fixture
def build(spec, tiny_control, tiny_lora, translators, monkeypatch):
    """An engine whose device has room for so many bytes of weights beside a picture; None: for all."""

    def build(room: int | None = None) -> tuple[Engine, Small]:
        given = {"controls": {"tiny": tiny_control}, "translators": translators}
        engine = Engine({DEFAULT_MODEL: spec, "other": spec}, device="cpu", **given)
        engine.add_lora("waves", tiny_lora.path)
        small = Small(PICTURE + (room or 10**12))
        engine.free = small.free
        if room is not None:
            monkeypatch.setattr(module, "REST", FAR)
            monkeypatch.setattr(module, "move", small.move)

            def watched(self, part, *given):
                assert {*part.children()} <= {*small.here}
                return RUN(self, part, *given)

            monkeypatch.setattr(Torch, "run", watched)
        return engine, small

    return build


@pytest.fixture(scope="module")
def sizes(tiny_spec):
    """Bytes of text encoder, network and autoencoder."""
    model = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu").load(DEFAULT_MODEL)
    return [bytes_of([model.parts[name]]) for name in ("text_encoder", "unet", "vae")]


def pixels(engine: Engine, request: GenerateRequest) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in engine.run(request).pictures])


def test_every_picture_is_as_ever(build, sizes):
    (whole, _), wanted = build(), {}
    for name, request in ASKED.items():
        wanted[name] = pixels(whole, request)
    # A ControlNet and a network, or a translator's network with its autoencoder, are called as one or in turns.
    engine, small = build(sum(sizes) - 1)
    assert engine.load(DEFAULT_MODEL).takes_turns and not whole.load(DEFAULT_MODEL).takes_turns
    for name, request in ASKED.items():
        assert np.array_equal(pixels(engine, request), wanted[name]), name
    assert small.travels


def test_what_fits_stays_and_what_was_not_used_the_longest_goes(build, sizes):
    engine, small = build(max(sizes))  # one at a time
    model = engine.load(DEFAULT_MODEL)
    text, network, decoder = model.parts["text_encoder"], model.network, model.decoder
    pixels(engine, GenerateRequest("a"))
    assert small.travels == [text, network, decoder] and small.here == [decoder]
    pixels(engine, GenerateRequest("a", seed=1))  # a prompt that was read before
    assert small.travels[3:] == [network, decoder]

    engine, small = build(sum(sizes) - 1)
    model = engine.load(DEFAULT_MODEL)
    text, network, decoder = model.parts["text_encoder"], model.network, model.decoder
    for seed in range(3):
        pixels(engine, GenerateRequest("a", seed=seed))
    assert small.travels == [text, network, decoder] and small.here == [network, decoder]


def test_who_takes_turns_has_the_device_to_itself(build, sizes):
    engine, _ = build(sum(sizes) - 1)
    engine.load(DEFAULT_MODEL)
    assert engine.load("other").takes_turns and not engine.is_loaded(DEFAULT_MODEL)


def test_models_make_room_for_one_that_then_fits(build, sizes):
    engine, _ = build()
    assert not engine.load(DEFAULT_MODEL).takes_turns
    full = iter([0, *[10**12] * 9])
    engine.free = lambda: next(full)
    assert not engine.load("other").takes_turns and not engine.is_loaded(DEFAULT_MODEL)


def test_a_picture_that_takes_more_than_was_guessed_gets_the_room_of_the_others(build, sizes, monkeypatch):
    engine, small = build(sum(sizes) - 1)
    model = engine.load(DEFAULT_MODEL)
    wanted = pixels(engine, GenerateRequest("a"))
    decode, failed = Decode.forward, []

    def once(self, latents):
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, latents)

    monkeypatch.setattr(Decode, "forward", once)
    assert np.array_equal(pixels(engine, GenerateRequest("a")), wanted) and small.here == [model.decoder]


def test_with_nothing_left_to_send_away_it_is_full():
    class Full(Decode):
        def forward(self, latents):
            raise torch.OutOfMemoryError("CUDA out of memory")

    turns = TakingTurns(torch.device("cpu"), 0, lambda: 0)
    with pytest.raises(torch.OutOfMemoryError):
        turns.run(Full(nn.Linear(1, 1)), (torch.zeros(1),), Weights(), False)


def test_networks_can_travel_while_pictures_are_drawn():
    """In inference mode, where tensors that come to be are none that could be changed later."""
    network = nn.Linear(2, 2)
    with torch.inference_mode():
        module.move(network, torch.device("meta"))
    assert not any(weight.is_inference() for weight in network.parameters())


def test_copies_of_weights_are_kept_aside(tiny_spec):
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
    engine.free = lambda: 0
    stack = engine.load(DEFAULT_MODEL).loras
    assert stack.aside == torch.device("cpu") and stack.base


def test_that_networks_take_turns_is_said(tiny_spec):
    engine, said = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu"), []
    engine.free = lambda: 0
    engine.load(DEFAULT_MODEL, said.append)
    assert any("take turns" in line for line in said)
    assert isinstance(engine.run(GenerateRequest("a")).pictures[0], Image.Image)
