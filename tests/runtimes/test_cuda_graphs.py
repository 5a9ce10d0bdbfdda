"""CUDA graphs without a GPU: when they are recorded, what is replayed, and what gives way."""

import pytest
import torch

from tests.test_engine import lora_files, pixels  # noqa: F401
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse
from yoso_core.runtimes.cuda_graphs import GRAPHS, CudaGraphs, Recorded, record
from yoso_core.runtimes.parts import Part
from yoso_core.runtimes.reference import Weights


class Sum(Part):
    """x -> x + weight, counting calls."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = torch.nn.Parameter(torch.ones(1), requires_grad=False), 0

    def forward(self, x):
        self.calls += 1
        return (x + self.weight,)


class FakeGraph:
    """Computes on the same places as were recorded, as a real one does."""

    def __init__(self, part, places, outputs):
        self.part, self.places, self.outputs = part, places, outputs

    def replay(self):
        for place, value in zip(self.outputs, self.part(*self.places), strict=True):
            place.copy_(value)


def fake_record(part, inputs):
    places = [value.clone() for value in inputs]
    outputs = part(*places)
    return Recorded(FakeGraph(part, places, outputs), places, outputs)


def run(runtime, part, value, size=2, prepare=False):
    (answer,), who = runtime.run(part, (torch.full((size,), float(value)),), Weights(), prepare)
    return answer, who


def test_a_shape_is_recorded_when_it_comes_again_and_sees_its_inputs_and_weights():
    runtime, part = CudaGraphs(fake_record), Sum()
    first, who = run(runtime, part, 1)
    assert who == "torch float32" and first.tolist() == [2, 2]
    second, who = run(runtime, part, 5)
    assert who == "cuda graphs float32" and second.tolist() == [6, 6]
    part.weight += 10  # as a LoRA is written into it
    third, _ = run(runtime, part, 7)
    assert third.tolist() == [18, 18] and second.tolist() == [6, 6]  # an answer is the caller's own


def test_what_is_prepared_is_recorded_at_once():
    assert run(CudaGraphs(fake_record), Sum(), 1, prepare=True)[1] == "cuda graphs float32"


def test_a_bounded_number_of_shapes_is_kept():
    runtime, part = CudaGraphs(fake_record), Sum()
    for size in range(1, GRAPHS + 5):
        run(runtime, part, 1, size, prepare=True)
    assert len(runtime._graphs[part]) == GRAPHS


@pytest.mark.parametrize("error", [RuntimeError("capture failed"), torch.OutOfMemoryError("CUDA out of memory")])
def test_what_can_not_be_recorded_is_torchs_with_one_line(caplog, error):
    def fail(part, inputs):
        raise error

    runtime, part = CudaGraphs(fail), Sum()
    for _ in range(3):
        answer, who = run(runtime, part, 1, prepare=True)
        assert who == "torch float32" and answer.tolist() == [2, 2]
    assert len(caplog.records) == 1 and "torch does" in caplog.text


def test_the_engine_draws_batches_that_are_close_to_single_pictures(tiny_spec, lora_files):  # noqa: F811
    plain, batched = (Engine({DEFAULT_MODEL: tiny_spec}, device="cpu") for _ in range(2))
    batched.runtime = CudaGraphs(fake_record)
    for engine in (plain, batched):
        engine.add_lora("lora0", lora_files["lora0"])
    for request in (
        GenerateRequest("a red heart", seed=7, count=9),
        GenerateRequest("a red heart", seed=7, count=3, guidance=2, steps=2, loras=(LoraUse("lora0", 0.5),)),
        GenerateRequest("a red heart", seed=7, count=2, steps=2, sampler="dpm++"),
    ):
        one, other = plain.run(request), batched.run(request)
        assert other.seeds == one.seeds and other.evaluations == one.evaluations
        for a, b in zip(pixels(one), pixels(other), strict=True):
            a, b = (torch.frombuffer(bytearray(each), dtype=torch.uint8).int() for each in (a, b))
            assert (a - b).abs().max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_graph_computes_what_the_network_does():
    part = Sum().cuda()
    recorded = record(part, [torch.zeros(4, device="cuda")])
    part.weight += 2
    assert recorded([torch.arange(4.0, device="cuda")])[0].tolist() == [3, 4, 5, 6]
