"""DiffAugment: what it does to pictures, alike for real and made ones, with gradients."""

import pytest
import torch

from train.tasks.augmentation import CHANGES, NUMBERS, POLICY, augmented, cut_out, recoloured, translated

PICTURES = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
CHANCES = torch.rand(4, NUMBERS, generator=torch.Generator().manual_seed(1))


def test_the_middle_of_the_colours_changes_nothing_and_others_change_what_they_are_called():
    middle = torch.full((4, 3), 0.5)
    torch.testing.assert_close(recoloured(PICTURES, middle), PICTURES)
    brighter, grey, flat = (middle.clone() for _ in range(3))
    brighter[:, 0], grey[:, 1], flat[:, 2] = 1.0, 0.0, 0.0
    torch.testing.assert_close(recoloured(PICTURES, brighter), PICTURES + 0.5)
    torch.testing.assert_close(recoloured(PICTURES, grey), PICTURES.mean(1, keepdim=True).expand_as(PICTURES))
    spread, before = (each.std((1, 2, 3)) for each in (recoloured(PICTURES, flat), PICTURES))
    torch.testing.assert_close(spread, before / 2)


@pytest.mark.parametrize(("chance", "shift"), [((0.0, 0.0), (-2, -3)), ((0.5, 0.5), (0, 0)), ((0.99, 0.99), (2, 3))])
def test_pictures_move_by_an_eighth_at_most_and_leave_zeros(chance, shift):
    moved = translated(PICTURES, torch.tensor([chance]).expand(4, -1))
    wanted = torch.nn.functional.pad(PICTURES, (3, 3, 2, 2))
    down, right = 2 - shift[0], 3 - shift[1]
    assert torch.equal(moved, wanted[:, :, down : down + 16, right : right + 24])


def test_a_rectangle_of_half_the_sides_is_cut_out_wherever_chance_has_it():
    whole = torch.ones(3, 1, 16, 24)
    cut = cut_out(whole, torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.99, 0.0]]))
    gone = (cut == 0).sum((1, 2, 3)).tolist()
    assert gone == [8 * 12, 4 * 6, 4 * 6]
    assert cut[0, 0, 4:12, 6:18].sum() == 0 and cut[1, 0, :4, :6].sum() == 0 and cut[2, 0, 12:, :6].sum() == 0


def test_rows_change_by_their_own_numbers_alone():
    names = POLICY.split(",")
    whole = augmented(PICTURES, names, CHANCES)
    parts = [augmented(PICTURES[rows], names, CHANCES[rows]) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(whole, PICTURES) and whole.shape == PICTURES.shape


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_reach_what_is_still_seen(name):
    pictures = PICTURES.clone().requires_grad_(True)
    augmented(pictures, [name], CHANCES).square().sum().backward()
    assert pictures.grad.isfinite().all()
    share = (pictures.grad != 0).float().mean()
    assert share > 0.95 if name == "color" else 0.3 < share < 1
