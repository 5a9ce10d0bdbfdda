"""Stable Diffusion 1.5 in its real size, one step at 512 x 512 in bfloat16: ours against diffusers' own pipeline.

    python -m pytest -s tests/heavy

Needs 3 GB of disk and 8 GB of memory. Weights and LoRA are random; the fast twin of this test is test_sd_layout.py.
"""

import gc

import pytest
import torch

from benchmarks.sd15 import write_random_sd15
from tests.test_sd_layout import diffusers_latents, engine_latents
from yoso_core.requests import GenerateRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd15(tmp_path_factory.mktemp("sd15"))


def test_one_step_at_full_size_differs_by_rounding_alone(folder, monkeypatch):
    """The yardstick of rounding is diffusers itself: its bfloat16 against its float32."""
    request = GenerateRequest("a red heart, 3d", seed=7, model="sd", size=512)
    exact = diffusers_latents(folder, request, torch.float32)
    gc.collect()
    theirs = diffusers_latents(folder, request, torch.bfloat16)
    gc.collect()
    ours = engine_latents(folder, request, torch.bfloat16, monkeypatch)
    print()
    pairs = {
        "diffusers bf16 - float32": (theirs, exact),
        "ours bf16 - float32": (ours, exact),
        "ours - diffusers": (ours, theirs),
    }
    largest, mean = {}, {}
    for name, (one, other) in pairs.items():
        difference = (one - other).abs() / exact.std()
        largest[name], mean[name] = difference.max().item(), difference.mean().item()
        print(f"{name}: largest {largest[name]:.5f}, mean {mean[name]:.5f} of the latents' deviation")
    assert ours.shape == (1, 4, 64, 64) and ours.isfinite().all()
    assert largest["ours bf16 - float32"] <= 1.5 * largest["diffusers bf16 - float32"]
    assert mean["ours bf16 - float32"] <= 1.5 * mean["diffusers bf16 - float32"]
    assert largest["ours - diffusers"] <= 2 * largest["diffusers bf16 - float32"]
