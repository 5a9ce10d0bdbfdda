"""Dead leaves and photographs."""

import torch

from train.recipes.corpus.textures import (
    HELD_OUT_PHOTOGRAPHS,
    PHOTOGRAPHS,
    crops,
    dead_leaves,
    read_photographs,
)


def test_dead_leaves_are_many_coloured_edged_and_repeatable():
    one = dead_leaves(4, 64, torch.Generator().manual_seed(3))
    again = dead_leaves(4, 64, torch.Generator().manual_seed(3))
    assert torch.equal(one, again) and one.shape == (4, 3, 64, 64) and one.abs().max() <= 1
    assert (one.flatten(1).std(1) > 0.1).all() and not torch.allclose(one[0], one[1], atol=0.1)


def test_photographs_of_installed_packages_are_read_and_the_held_out_are_others():
    assert not {*PHOTOGRAPHS["skimage"]} & {*HELD_OUT_PHOTOGRAPHS["skimage"]}
    found = read_photographs(HELD_OUT_PHOTOGRAPHS)
    assert len(found) == 2 and all(one.dtype == torch.uint8 and len(one) == 3 for one in found)
    parts = crops(found, 3, 48, torch.Generator().manual_seed(0))
    assert parts.shape == (3, 3, 48, 48) and parts.abs().max() <= 1 and parts.std() > 0.1


def test_what_is_not_installed_is_passed_over():
    assert read_photographs({"no_such_package_at_all": ("a.png",)}) == []
