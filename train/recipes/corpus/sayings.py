"""How people put a thing into a prompt: "two cute corgis next to a tree" is about a corgi."""

import random
from collections.abc import Mapping

from train.recipes.corpus import words

FLUFF = (
    *words.FLUFF,
    "a drawing of {}",
    "drawing of {}",
    "a painting of {}",
    "a picture with {}",
    "i want {}",
    "show me {}",
    "can you draw {}",
    "make {}",
    "generate {}",
    "create an image of {}",
    "an emoji of {}",
    "an icon of {}",
    "a logo with {}",
    "a sticker of {}",
    "a cartoon of {}",
    "a close-up of {}",
    "portrait of {}",
    "{} logo",
    "{} sticker",
    "{} cartoon",
    "{} clipart",
    "{} clip art",
    "{} illustration",
    "{} drawing",
    "{} symbol",
    "{} picture",
    "{} in the style of a cartoon",
    "{} in pixel art",
    "{}, pixel art",
    "{}, oil painting",
    "{}, watercolor",
    "{}, digital art",
    "{}, highly detailed",
    "{}, 4k",
    "{}, simple",
    "{} on white background",
    "{} isolated on white",
    "just {}",
    "{}!",
)
LOOKS = (
    *words.COLOURS,
    *words.PRAISE,
    *words.SMALL,
    *words.LARGE,
    *"black white brown grey gray golden silver dark bright colorful colourful shiny old new young baby fluffy".split(),
    *"happy sad angry sleepy lazy fat round tall long short fast slow hot cold fresh wooden metal broken empty".split(),
    *"magic magical fantasy modern vintage antique classic fancy sweet tasty delicious wild scary spooky".split(),
    *"friendly realistic simple lonely single glowing flying dancing running sleeping smiling spotted striped".split(),
)
PLACES = (
    *"on_a_hill in_the_forest in_a_garden on_the_beach at_the_beach in_the_snow in_the_rain in_the_desert".split(),
    *"in_the_sky in_space on_the_moon in_the_sea under_water in_the_water by_the_lake on_a_mountain".split(),
    *"on_the_street in_the_city in_a_field in_the_grass on_a_meadow in_the_kitchen on_a_table on_the_table".split(),
    *"on_a_plate in_a_box in_a_room in_the_house on_the_sofa in_bed on_a_chair at_home in_the_park".split(),
    *"on_a_white_background on_a_blue_background with_a_red_background on_top_of_a_mountain over_the_sea".split(),
    *"in_the_clouds on_fire under_a_tree on_a_branch in_a_tree at_the_zoo on_a_farm in_the_jungle on_an_island".split(),
    *"in_the_woods in_the_mountains by_the_sea over_the_city above_the_clouds between_the_trees in_paris".split(),
)
TIMES = (
    *"at_night at_sunset at_sunrise in_the_morning in_winter in_summer in_spring in_autumn in_the_fog".split(),
    *"in_the_evening by_day by_moonlight in_the_sunshine under_the_stars under_a_rainbow at_dawn".split(),
)
WORN = (
    *"a_hat a_top_hat a_crown glasses sunglasses a_scarf a_bow_tie a_party_hat a_cap shoes a_dress a_backpack".split(),
    *"a_red_hat headphones a_cape a_tie a_santa_hat a_helmet a_mask a_jacket".split(),
)
DOING = (
    *"running sleeping eating jumping flying swimming dancing playing sitting standing smiling laughing".split(),
    *"reading_a_book playing_guitar drinking_coffee riding_a_bike driving_a_car eating_pizza eating_ice_cream".split(),
    *"playing_football looking_at_the_moon holding_a_balloon holding_a_flower playing_with_a_ball in_love".split(),
    *"catching_a_fish eating_an_apple wearing_a_hat climbing_a_tree riding_a_skateboard walking singing".split(),
)
BESIDE = ("next to", "and", "and", "with", "beside", "near", "under", "on", "in front of", "behind", "in", "over")
SOMEBODY = "a_man a_woman a_girl a_boy a_child a_person somebody my_friend the_man kids people an_old_man".split()
WITH_THING = ("with", "holding", "and", "looking at", "using", "next to", "on", "riding", "eating")
PORTIONS = {
    "food-drink": "a_plate_of a_bowl_of some a_piece_of a_slice_of a_basket_of a_pile_of a_box_of fresh".split(),
    "animals-nature": "a_group_of a_family_of a_pair_of a_lot_of a_field_of a_herd_of".split(),
}
NUMBERS = ("two", "three", "four", "five", "2", "3", "many", "some", "a few", "lots of", "a pair of")


def say(phrase: str, other: str, group: str, meaning: Mapping[str, str], picker: random.Random) -> str:
    """A phrase as a prompt that is still about it.

    Args:
        phrase: that means something.
        other: another one, which may be mentioned beside it.
        group: of emoji that the phrase's picture is in; it says whether there are slices or herds of it.
        meaning: of all phrases, so that nothing is made of one that means something else: no "black" cat.
    """
    text, said = phrase, picker.random()
    if said < 0.25:
        text = _looking(phrase, meaning, picker)
    elif said < 0.33 and words.singular(phrase):
        text = f"{picker.choice(NUMBERS)} {words.plural(phrase)}"
    elif said < 0.38:
        text = f"{picker.choice(PORTIONS.get(group, ('a', 'the', 'one')))} {phrase}".replace("_", " ")
        text = text if _means_still(text, phrase, meaning) else phrase
    elif said < 0.42:
        text = f"{picker.choice(SOMEBODY)} {picker.choice(WITH_THING)} {words.article(phrase)}".replace("_", " ")
    if said < 0.38 and not text.startswith(("a ", "an ", *NUMBERS)) and picker.random() < 0.5:
        text = words.article(text)
    if said >= 0.42:
        text = picker.choice([phrase, words.article(phrase), words.article(phrase), f"the {phrase}", f"my {phrase}"])
    if said > 0.7 or said < 0.1:
        text = f"{text} {_rest(other, picker)}".replace("_", " ")
    if picker.random() < 0.15:
        text = picker.choice(FLUFF).format(text)
    if picker.random() < 0.06:
        text = words.misspelt(text, picker)
    if picker.random() < 0.1:
        text = text.capitalize()
    return text


def _looking(phrase: str, meaning: Mapping[str, str], picker: random.Random) -> str:
    """With one adjective or two before it."""
    looks = picker.sample(LOOKS, 1 if picker.random() < 0.75 else 2)
    text = f"{' '.join(looks)} {phrase}"
    return text if _means_still(text, phrase, meaning) else phrase


def _means_still(text: str, phrase: str, meaning: Mapping[str, str]) -> bool:
    """Whether no part of a text, of two words or more, means something else than the phrase in it."""
    said = text.split()
    parts = {" ".join(said[i:j]) for i in range(len(said)) for j in range(i + 2, len(said) + 1)}
    return all(meaning.get(part, meaning[phrase]) == meaning[phrase] for part in parts)


def _rest(other: str, picker: random.Random) -> str:
    """What stands behind the thing: a place, a time, something beside it, what it wears or does."""
    said = picker.random()
    if said < 0.3:
        place = picker.choice(PLACES)
        return f"{place} {picker.choice(TIMES)}" if picker.random() < 0.3 else place
    if said < 0.4:
        return picker.choice(TIMES)
    if said < 0.7:
        return f"{picker.choice(BESIDE)} {words.article(other)}"
    if said < 0.85:
        return f"{picker.choice(['wearing', 'with', 'in'])} {picker.choice(WORN)}"
    return picker.choice(DOING)
