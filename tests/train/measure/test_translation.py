"""Figures of a translator while it trains."""

import pytest
import torch

from train.data.latents import to_unit_range
from train.measure.evaluate import load_judge
from train.measure.translation import Tried, measure
from train.tasks.perception import load_perception
from yoso_core.condition import Condition


@pytest.mark.parametrize("paired", [True, False])
def test_figures_are_zero_where_all_is_as_wanted_and_grow_with_what_is_wrong(paired):
    wanted = torch.randint(0, 256, (9, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tried = Tried("a2b", to_unit_range(wanted), wanted, Condition(torch.zeros(9, 1, 1)), paired)
    levels, judge = load_perception("evaluator").levels, load_judge("emoji")
    names = ["structure a2b", *["squared error a2b"] * paired, "Fréchet a2b"]
    right = measure(tried, lambda given, context: given, levels, judge)
    wrong = measure(tried, lambda given, context: given.flip(3) * 0.5, levels, judge)
    assert list(right) == list(wrong) == names
    assert all(abs(right[name]) < 1e-3 and wrong[name] > 10 * abs(right[name]) + 1e-4 for name in names)


def test_too_few_pictures_have_no_frechet_distance():
    wanted = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    tried = Tried("a2b", to_unit_range(wanted), wanted, Condition(torch.zeros(2, 1, 1)), True)
    found = measure(tried, lambda given, context: given, load_perception("evaluator").levels, load_judge("emoji"))
    assert list(found) == ["structure a2b", "squared error a2b"]


def test_each_picture_goes_with_its_own_prompt():
    wanted = torch.zeros(9, 3, 64, 64, dtype=torch.uint8)
    tried = Tried("a2b", to_unit_range(wanted), wanted, Condition(torch.arange(9.0)[:, None, None]), True)
    seen = []

    def go(given, condition):
        assert len(given) == len(condition)
        seen.extend(condition.context.flatten().tolist())
        return given

    measure(tried, go, load_perception("evaluator").levels, load_judge("emoji"))
    assert seen == list(range(9))
