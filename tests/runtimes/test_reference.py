"""torch as the reference: threads by the size of a call, and left as they were."""

import pytest
import torch

import yoso_core.runtimes.reference as module
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.runtimes.parts import Decode
from yoso_core.runtimes.reference import Torch, Weights


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("small", "expected"), [(1e15, [3, 1, 1]), (1, [3, 3, 3])])
def test_small_calls_take_one_thread_once_they_are_known(tiny_spec, threads, monkeypatch, small, expected):
    monkeypatch.setattr(module, "SMALL", small)
    part, seen = Decode(Engine({DEFAULT_MODEL: tiny_spec}, device="cpu").load(DEFAULT_MODEL).autoencoder), []
    part.register_forward_pre_hook(lambda *arguments: seen.append(torch.get_num_threads()))
    runtime, latents = Torch(), torch.zeros(1, 8, 8, 8)
    with torch.inference_mode():
        answers = [runtime.run(part, (latents,), Weights(), False)[0][0] for _ in expected]
    assert seen == expected and torch.get_num_threads() == 3
    assert all(torch.allclose(answer, answers[0], atol=1e-5) for answer in answers)


def test_threads_come_back_after_a_failure(threads):
    with pytest.raises(RuntimeError), module.threads(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 3
