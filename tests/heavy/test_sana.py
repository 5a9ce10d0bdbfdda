"""SANA-Sprint 0.6B in its real size with random weights: a megapixel in one step, its time and the most memory it took.

    python -m pytest -s tests/heavy/test_sana.py

Needs 7 GB of disk and 12 GB of memory.
"""

import resource

from benchmarks.sana import write_random_sana
from yoso_core.engine import Engine
from yoso_core.models import local_model
from yoso_core.requests import GenerateRequest


def test_a_megapixel_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setenv("YOSO_CACHE", str(tmp_path / "cache"))
    folder = write_random_sana(tmp_path / "sana")
    result = Engine({"sana": local_model(str(folder))}, device="cpu").run(GenerateRequest("a red heart", model="sana"))
    assert result.pictures[0].size == (1024, 1024) and result.evaluations == 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in result.seconds.items())
    print(f"\n{seconds}; at most {peak / 1e9:.1f} GB")
