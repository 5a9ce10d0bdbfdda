"""Which runtime is taken, and the line that says why it is another than was asked for."""

import threading

import pytest
import torch

import yoso_core.runtimes.choice as choice
from yoso_core.requests import RequestError
from yoso_core.runtimes.openvino import OpenVINO
from yoso_core.runtimes.reference import Torch


def choose(name, device="cpu"):
    return choice.choose_runtime(name, torch.device(device), threading.Lock())


def test_the_reference_can_be_asked_for_anywhere(caplog):
    for device in ("cpu", "cuda", "mps"):
        assert type(choose("torch", device)) is Torch
    assert type(choose("auto", "mps")) is Torch
    assert not caplog.records


def test_no_wheel_is_torch_and_one_line(monkeypatch, caplog):
    monkeypatch.setattr(choice.openvino, "is_here", lambda: False)
    assert type(choose("auto")) is Torch
    assert len(caplog.records) == 1 and "not installed" in caplog.text


@pytest.mark.parametrize(
    "error", [ImportError("no AVX"), OSError("cannot open\nshared object"), RuntimeError("no device")]
)
def test_a_library_that_does_not_fit_is_torch_and_one_line(monkeypatch, caplog, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(choice.openvino, "is_here", lambda: True)
    monkeypatch.setattr(choice, "OpenVINO", fail)
    assert type(choose("auto")) is Torch
    (record,) = caplog.records
    assert "\n" not in record.message and "torch executes" in record.message


def test_a_runtime_for_another_device_is_torch_and_one_line(caplog):
    assert type(choose("openvino", "cuda")) is Torch and type(choose("cuda-graphs")) is Torch
    assert len(caplog.records) == 2


def test_an_unknown_one_is_refused():
    with pytest.raises(RequestError, match="choose auto, torch, openvino"):
        choose("tensorrt")


@pytest.mark.skipif(not choice.openvino.is_here(), reason="OpenVINO is not installed")
def test_the_fastest_is_the_default_on_a_cpu():
    assert type(choose("auto")) is OpenVINO
