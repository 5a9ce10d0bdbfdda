"""Every family in its real size on random weights: a picture comes, and what it took is told.

    python -m pytest -s tests/heavy/test_full_size.py

Needs 14 GB of disk, and of memory what docs/models.md tells; -k sd15 and the like for some of them.
"""

import shutil

import pytest

from benchmarks.full_size import HEAD, SAMPLES, sample
from yoso_core.models import MODELS


@pytest.mark.parametrize("name", SAMPLES)
def test_a_picture_of_its_own_size_and_steps(name, tmp_path):
    try:
        drawn = sample(name, tmp_path)
    finally:
        shutil.rmtree(tmp_path)
    print(f"\n{HEAD}\n{drawn.row(name)}")
    spec = MODELS[name]
    assert drawn.size == (spec.resolution, spec.resolution) and drawn.evaluations == spec.offer.steps[0]
