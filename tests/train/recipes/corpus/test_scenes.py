"""Scenes: a function of seed and index; held-out sprites in none; the same scene in any light."""

import random

import pytest
import torch

from tests.train.recipes.corpus.tiny_art import HELD_OUT
from train.recipes.corpus.colours import dominant_hues
from train.recipes.corpus.grounds import GROUND_NUMBERS, PLACES, WEATHERS, Ground
from train.recipes.corpus.painter import Painter
from train.recipes.corpus.scenes import SLOTS, Placed, Scene, Scenes, describe


def plain(*placed, ground=None, weather=0):
    return Scene("a thing", ground or Ground(), list(placed), weather)


def test_a_scene_is_a_function_of_seed_and_index(corpus):
    whole, part = describe(corpus.describer, 30, 5), describe(corpus.describer, 10, 5, start=20)
    assert whole.captions[20:] == part.captions
    for name in ("ground", "sprite", "place", "weather"):
        assert torch.equal(getattr(whole, name)[20:], getattr(part, name))
    assert describe(corpus.describer, 30, 6).captions != whole.captions


def test_many_pictures_answer_one_caption(corpus):
    found = describe(corpus.describer, 1500, 0)
    pictures = {}
    for index, caption in enumerate(found.captions):
        pictures.setdefault(caption, set()).add(
            (*found.sprite[index].tolist(), round(found.place[index].sum().item(), 3))
        )
    assert sum(len(each) > 3 for each in pictures.values()) > 5


def test_held_out_sprites_are_in_no_scene_and_all_that_the_unseen_are(corpus):
    held_out = {index for index, one in enumerate(corpus.art) if (one.label, one.style) == HELD_OUT}
    assert not held_out & {*describe(corpus.describer, 2000, 0).sprite.flatten().tolist()}
    unseen = describe(corpus.unseen, 20, 0)
    assert {*unseen.sprite[:, 0].tolist()} == held_out and unseen.counts.max() == 1
    assert unseen.captions[0].endswith(f", {HELD_OUT[1]}")


def test_captions_count_what_is_there(corpus):
    found = describe(corpus.describer, 3000, 1)
    for word, count in (("two", 2), ("three", 3), ("four", 4)):
        counts = [
            n
            for caption, n in zip(found.captions, found.counts.tolist(), strict=True)
            if caption.startswith(f"{word} ")
        ]
        assert counts and {*counts} == {count}


def test_no_sprite_no_picture_but_its_ground(corpus):
    ground = Ground(top=(1.0, 0.0, 0.0), bottom=(1.0, 0.0, 0.0))
    picture = corpus.painter(Scenes.of([plain(ground=ground)]))[0]
    assert torch.allclose(picture, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand_as(picture), atol=1e-5)


@pytest.mark.parametrize("size", [0.9, 0.45, 0.2])
def test_a_sprite_is_where_it_is_put_and_as_large(corpus, size):
    painter = corpus.painter
    square = next(i for i, one in enumerate(corpus.art) if one.style == "flat" and one.label == "dog face")
    picture = painter(Scenes.of([plain(Placed(square, x=0.4, y=0.6, size=size))]))[0]
    inside = (picture.min(0).values < 0.5).nonzero().float() / painter.size
    middle = inside.mean(0)
    assert abs(middle[1] - 0.4) < 0.03 and abs(middle[0] - 0.6) < 0.03
    assert abs(len(inside) - (0.75 * size * painter.size) ** 2) < 0.25 * (0.75 * size * painter.size) ** 2


def test_a_turned_hue_changes_colour_and_not_shape(corpus):
    car = next(i for i, one in enumerate(corpus.art) if one.label == "automobile")
    red, other = corpus.painter(Scenes.of([plain(Placed(car)), plain(Placed(car, hue=2.1))]))
    assert red[0, 32, 32] > red[1, 32, 32] and other[0, 32, 32] < other[1:, 32, 32].max()
    assert ((red.mean(0) < 0.9) == (other.mean(0) < 0.9)).float().mean() > 0.98


def test_hues_are_told_where_there_is_one():
    pixels = torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    pixels[:, 3] = 255
    pixels[0, 0] = 220  # red
    pixels[1, 2] = 220  # blue
    pixels[2, :3] = 128  # grey
    red, blue, grey = dominant_hues(pixels)
    assert abs(red - blue) > 1.5 and grey != grey


def test_night_is_darker_and_leaves_indoors_alone(corpus):
    picker = random.Random(0)
    scenes = Scenes.of([plain(Placed(0, size=0.4), ground=PLACES[name].draw(picker)) for name in ("meadow", "room")])
    day, night = corpus.painter(scenes.under("day")), corpus.painter(scenes.under("night"))
    assert night[0].mean() < day[0].mean() - 0.3
    assert torch.equal(night[1], day[1])


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_drawn_in_every_weather(corpus, place, weather):
    ground = PLACES[place].draw(random.Random(1))
    scene = plain(Placed(0, size=0.3), ground=ground, weather=WEATHERS.index(weather))
    picture = corpus.painter(Scenes.of([scene]))
    assert picture.isfinite().all() and picture.abs().max() <= 1 and picture.std() > 0.02


def test_pictures_do_not_depend_on_their_neighbours(corpus):
    scenes = describe(corpus.describer, 12, 3)
    alone = torch.cat([corpus.painter(scenes[torch.tensor([index])]) for index in range(12)])
    assert torch.allclose(corpus.painter(scenes), alone, atol=1e-5)


def test_numbers_have_the_shapes_that_are_promised(corpus):
    scenes = describe(corpus.describer, 4, 0)
    assert scenes.ground.shape == (4, GROUND_NUMBERS) and scenes.sprite.shape == (4, SLOTS)
    assert scenes.place.shape == (4, SLOTS, 7) and len(scenes) == 4
    painter = Painter(torch.zeros(1, 4, 128, 128, dtype=torch.uint8), size=32)
    assert painter(Scenes.of([plain()])).shape == (1, 3, 32, 32)
