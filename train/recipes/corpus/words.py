"""The words people have for what the art shows: names, synonyms, plurals, and the fluff around them.

A caption of the corpus is one of many that answer a picture, and a picture one of many that answer a caption.
"""

import random
import re
from collections.abc import Sequence

from train.recipes.corpus.art import Emoji

# What people call things that emoji have other labels for. Label: names.
SYNONYMS = {
    "dog face": "dog puppy doggo corgi",
    "dog": "dog doggo corgi dachshund hound",
    "poodle": "poodle dog",
    "guide dog": "dog labrador",
    "service dog": "dog labrador retriever",
    "cat face": "cat kitty kitten",
    "cat": "cat kitty tabby",
    "black cat": "black_cat cat",
    "automobile": "car red_car auto sedan",
    "oncoming automobile": "car",
    "racing car": "sports_car race_car racecar formula_one_car",
    "sport utility vehicle": "suv jeep car",
    "pickup truck": "truck pickup",
    "delivery truck": "truck lorry van",
    "articulated lorry": "truck lorry semi_truck",
    "police car": "police_car",
    "oncoming police car": "police_car",
    "fire engine": "fire_truck firetruck",
    "motorcycle": "motorbike motorcycle",
    "motor scooter": "scooter vespa moped",
    "bicycle": "bike bicycle",
    "locomotive": "steam_train train",
    "high-speed train": "train fast_train",
    "bullet train": "train bullet_train",
    "airplane": "plane airplane aeroplane jet",
    "small airplane": "plane small_plane",
    "sailboat": "sailboat boat sailing_boat yacht",
    "speedboat": "speedboat boat motorboat",
    "ship": "ship boat",
    "passenger ship": "cruise_ship ship ocean_liner",
    "flying saucer": "ufo flying_saucer spaceship",
    "rocket": "rocket spaceship rocket_ship space_rocket",
    "house": "house home cottage",
    "house with garden": "house home",
    "castle": "castle medieval_castle fortress",
    "japanese castle": "castle japanese_castle",
    "office building": "building office skyscraper",
    "church": "church chapel",
    "mosque": "mosque",
    "tent": "tent camping_tent",
    "pizza": "pizza pizza_slice slice_of_pizza",
    "hamburger": "burger hamburger cheeseburger",
    "french fries": "fries french_fries chips",
    "hot dog": "hotdog hot_dog",
    "doughnut": "donut doughnut",
    "ice cream": "ice_cream",
    "soft ice cream": "ice_cream ice_cream_cone",
    "shortcake": "cake strawberry_cake slice_of_cake",
    "birthday cake": "birthday_cake cake happy_birthday",
    "cupcake": "cupcake muffin",
    "red apple": "apple red_apple",
    "green apple": "apple green_apple",
    "hot beverage": "coffee cup_of_coffee tea cup_of_tea hot_drink coffee_cup",
    "teacup without handle": "tea cup_of_tea green_tea",
    "beer mug": "beer beer_mug pint_of_beer",
    "wine glass": "wine glass_of_wine red_wine",
    "cocktail glass": "cocktail martini drink",
    "tropical drink": "cocktail drink",
    "bread": "bread loaf_of_bread toast",
    "cheese wedge": "cheese piece_of_cheese",
    "cooking": "fried_egg eggs egg",
    "spaghetti": "spaghetti pasta noodles",
    "steaming bowl": "noodles ramen noodle_soup soup",
    "sushi": "sushi",
    "chocolate bar": "chocolate chocolate_bar",
    "deciduous tree": "tree oak_tree oak",
    "evergreen tree": "pine_tree fir_tree tree pine",
    "palm tree": "palm_tree palm tree",
    "christmas tree": "christmas_tree tree",
    "rose": "rose red_rose flower",
    "cherry blossom": "cherry_blossom blossom flower sakura",
    "sunflower": "sunflower flower",
    "tulip": "tulip flower",
    "hibiscus": "hibiscus flower",
    "blossom": "flower blossom daisy",
    "bouquet": "bouquet flowers bunch_of_flowers",
    "potted plant": "plant potted_plant houseplant",
    "four leaf clover": "clover four_leaf_clover",
    "maple leaf": "leaf maple_leaf autumn_leaf",
    "mushroom": "mushroom toadstool",
    "tropical fish": "fish tropical_fish",
    "fish": "fish",
    "blowfish": "pufferfish blowfish fish",
    "spouting whale": "whale",
    "whale": "whale blue_whale",
    "lady beetle": "ladybug ladybird beetle",
    "honeybee": "bee honeybee",
    "butterfly": "butterfly",
    "bird": "bird",
    "baby chick": "chick baby_chick chicken",
    "front-facing baby chick": "chick baby_chick",
    "hatching chick": "chick hatching_chick",
    "rooster": "rooster cock",
    "chicken": "chicken hen",
    "horse face": "horse pony",
    "horse": "horse pony stallion",
    "cow face": "cow",
    "pig face": "pig piglet",
    "mouse face": "mouse",
    "rabbit face": "rabbit bunny",
    "rabbit": "rabbit bunny hare",
    "bear": "bear teddy_bear brown_bear",
    "teddy bear": "teddy_bear teddy toy_bear",
    "polar bear": "polar_bear white_bear bear",
    "panda": "panda panda_bear",
    "tiger face": "tiger",
    "lion": "lion",
    "wolf": "wolf",
    "fox": "fox",
    "frog": "frog toad",
    "monkey face": "monkey",
    "dragon": "dragon",
    "dragon face": "dragon",
    "t-rex": "dinosaur t-rex tyrannosaurus",
    "sauropod": "dinosaur brontosaurus",
    "turtle": "turtle tortoise",
    "crocodile": "crocodile alligator",
    "sun": "sun sunshine",
    "sun with face": "sun smiling_sun",
    "crescent moon": "moon crescent_moon",
    "full moon": "moon full_moon",
    "star": "star yellow_star",
    "glowing star": "star shining_star",
    "cloud": "cloud",
    "cloud with rain": "rain rain_cloud rainy_weather",
    "cloud with lightning and rain": "thunderstorm storm",
    "cloud with lightning": "thunderstorm lightning storm",
    "high voltage": "lightning lightning_bolt bolt",
    "snowflake": "snowflake snow",
    "fire": "fire flame flames",
    "droplet": "water_drop drop droplet",
    "water wave": "wave ocean_wave sea_wave",
    "volcano": "volcano",
    "mountain": "mountain",
    "snow-capped mountain": "mountain snowy_mountain",
    "mount fuji": "mount_fuji mountain volcano",
    "beach with umbrella": "beach seaside",
    "desert island": "island desert_island tropical_island",
    "sunrise": "sunrise sunset_over_the_sea sunset",
    "sunset": "sunset city_at_sunset",
    "sunrise over mountains": "sunrise_over_mountains sunrise mountains",
    "red heart": "heart red_heart love",
    "broken heart": "broken_heart",
    "grinning face": "smiley happy_face smile",
    "slightly smiling face": "smiley smile smiling_face",
    "smiling face with smiling eyes": "smiley happy_face smile",
    "face with tears of joy": "laughing_face laughing_emoji laughing",
    "smiling face with heart-eyes": "face_in_love heart_eyes love_face",
    "smiling face with sunglasses": "cool_face face_with_sunglasses smiley_with_sunglasses",
    "crying face": "sad_face crying_face",
    "loudly crying face": "crying_face sad_face",
    "pouting face": "angry_face",
    "enraged face": "angry_face",
    "angry face": "angry_face",
    "thinking face": "thinking_face thinking_emoji",
    "winking face": "wink winking_face winking_smiley",
    "sleeping face": "sleeping_face sleepy_face",
    "pile of poo": "poop poop_emoji",
    "skull": "skull",
    "ghost": "ghost",
    "alien": "alien",
    "robot": "robot",
    "jack-o-lantern": "pumpkin halloween_pumpkin jack-o-lantern",
    "christmas": "christmas",
    "santa claus": "santa santa_claus father_christmas",
    "wrapped gift": "gift present birthday_present gift_box",
    "party popper": "party_popper confetti celebration party",
    "balloon": "balloon red_balloon",
    "soccer ball": "football soccer_ball ball",
    "basketball": "basketball ball",
    "american football": "american_football football",
    "tennis": "tennis_ball tennis_racket",
    "trophy": "trophy cup winner_cup",
    "video game": "game_controller gamepad video_game_controller",
    "guitar": "guitar acoustic_guitar electric_guitar",
    "musical keyboard": "piano keyboard",
    "violin": "violin",
    "drum": "drum drums",
    "artist palette": "palette paint_palette",
    "crown": "crown golden_crown king's_crown",
    "top hat": "top_hat hat magician's_hat",
    "woman\u2019s hat": "hat sun_hat",
    "billed cap": "cap baseball_cap",
    "glasses": "glasses eyeglasses",
    "sunglasses": "sunglasses shades",
    "t-shirt": "t-shirt shirt",
    "dress": "dress",
    "running shoe": "sneaker running_shoe shoe",
    "high-heeled shoe": "high_heel shoe",
    "backpack": "backpack school_bag",
    "gem stone": "diamond gem jewel",
    "ring": "ring diamond_ring",
    "laptop": "laptop computer",
    "desktop computer": "computer pc",
    "mobile phone": "phone smartphone mobile_phone",
    "telephone": "telephone old_phone",
    "camera": "camera photo_camera",
    "television": "tv television",
    "light bulb": "light_bulb lightbulb lamp idea",
    "books": "books stack_of_books pile_of_books",
    "open book": "book open_book",
    "closed book": "book red_book",
    "pencil": "pencil",
    "scissors": "scissors",
    "key": "key",
    "old key": "key old_key",
    "locked": "lock padlock",
    "hammer": "hammer",
    "crossed swords": "swords crossed_swords",
    "dagger": "dagger sword knife",
    "shield": "shield",
    "money bag": "money_bag bag_of_money money",
    "alarm clock": "alarm_clock clock",
    "hourglass done": "hourglass",
    "umbrella": "umbrella",
    "umbrella with rain drops": "umbrella umbrella_in_the_rain",
    "chair": "chair",
    "couch and lamp": "couch sofa",
    "bed": "bed",
    "door": "door",
    "toilet": "toilet",
    "candle": "candle",
    "bomb": "bomb",
    "magnet": "magnet",
    "telescope": "telescope",
    "microscope": "microscope",
    "anchor": "anchor",
    "globe showing europe-africa": "earth globe planet_earth planet",
    "globe showing americas": "earth globe planet_earth planet",
    "ringed planet": "planet saturn",
    "eye": "eye",
    "eyes": "eyes",
    "thumbs up": "thumbs_up like",
    "thumbs down": "thumbs_down dislike",
    "waving hand": "waving_hand hand hello",
    "clapping hands": "clapping_hands applause",
    "folded hands": "praying_hands thank_you",
    "victory hand": "peace_sign victory_sign",
    "ok hand": "ok_hand ok_sign",
    "flexed biceps": "muscle strong_arm biceps",
    "person": "person",
    "woman": "woman lady",
    "man": "man guy",
    "girl": "girl",
    "boy": "boy",
    "baby": "baby",
    "old man": "old_man grandpa grandfather",
    "old woman": "old_woman grandma grandmother",
    "police officer": "policeman police_officer cop",
    "astronaut": "astronaut spaceman",
    "princess": "princess",
    "prince": "prince",
    "mage": "wizard mage",
    "fairy": "fairy",
    "mermaid": "mermaid",
    "vampire": "vampire dracula",
    "ninja": "ninja",
    "snowman": "snowman",
    "snowman without snow": "snowman",
    "check mark button": "check_mark tick",
    "cross mark": "cross red_cross",
    "warning": "warning_sign warning",
    "stop sign": "stop_sign",
    "hundred points": "hundred 100",
    "musical note": "musical_note music note",
    "musical notes": "musical_notes music",
    "recycling symbol": "recycling recycle_symbol",
    "speech balloon": "speech_bubble",
    "peacock": "peacock",
    "grapes": "grapes bunch_of_grapes",
    "watermelon": "watermelon slice_of_watermelon",
    "tangerine": "orange tangerine mandarin",
    "lemon": "lemon",
    "banana": "banana bananas",
    "strawberry": "strawberry",
    "cherries": "cherries cherry",
    "carrot": "carrot",
    "ear of corn": "corn",
    "tomato": "tomato",
    "eggplant": "aubergine eggplant",
    "potato": "potato",
    "ferris wheel": "ferris_wheel",
    "roller coaster": "roller_coaster",
    "fireworks": "fireworks",
    "rainbow": "rainbow",
    "tornado": "tornado",
    "comet": "comet shooting_star",
    "shooting star": "shooting_star",
    "statue of liberty": "statue_of_liberty",
    "tokyo tower": "tower eiffel_tower",
    "bridge at night": "bridge bridge_at_night",
    "night with stars": "city_at_night night_sky starry_night",
    "cityscape": "city skyline city_skyline",
    "milky way": "milky_way galaxy starry_sky",
    "national park": "park forest lake",
    "fountain": "fountain",
    "school": "school",
    "hospital": "hospital",
    "factory": "factory",
    "farmer": "farmer",
    "tractor": "tractor",
    "helicopter": "helicopter",
    "parachute": "parachute",
    "bus": "bus school_bus",
    "taxi": "taxi cab yellow_cab",
    "ambulance": "ambulance",
    "canoe": "canoe kayak rowing_boat",
}

COLOURS = "red orange yellow green blue purple pink".split()
FLUFF = (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "an illustration of {}",
    "photo of {}",
    "picture of {}",
    "draw {}",
    "{} emoji",
    "{} icon",
    "{} please",
    "{}, high quality",
    "{}, cute",
)
PRAISE = "cute beautiful nice lovely adorable pretty funny cool".split()
SMALL = "small tiny little".split()
LARGE = "big large huge giant".split()
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
IRREGULAR = {
    "mouse": "mice",
    "person": "people",
    "child": "children",
    "goose": "geese",
    "tooth": "teeth",
    "cactus": "cacti",
    "wolf": "wolves",
    "leaf": "leaves",
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "ox": "oxen",
}
NO_ARTICLE = re.compile(
    r"^(happy|flags? of|flag:|music$|love$|snow$|rain$|fire$|money$|sushi$|cheese$|bread$|coffee$|tea$|beer$|wine$|"
    r"spaghetti$|noodles|pasta|mount |santa|christmas$|good |thank |hello|the )|s$"
)


def names(emoji: Emoji) -> list[str]:
    """What it may be called, the commonest first, its tags not among them."""
    label = emoji.label.replace("\u2019", "'")
    found = [name.replace("_", " ") for name in SYNONYMS.get(emoji.label, "").split()]
    if label.startswith("flag: "):
        country = label[6:]
        found += [f"flag of {country}", f"{country} flag", f"{country}"]
    elif emoji.subgroup.startswith("animal") and label.endswith(" face"):
        found.append(label.removesuffix(" face"))
        found.append(label)
    else:
        found.append(label)
    return list(dict.fromkeys(found))


def singular(name: str) -> bool:
    return not NO_ARTICLE.search(name)


def plural(name: str) -> str:
    """Many of it; names that are many already, or can't be counted, stay."""
    if not singular(name):
        return name
    head, _, last = name.rpartition(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith("man"):
        last = last[:-2] + "en"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it, where it takes one."""
    if not singular(phrase):
        return phrase
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def misspelt(text: str, picker: random.Random) -> str:
    """One letter dropped, doubled or swapped in a word of five or more."""
    places = [found.start() for found in re.finditer(r"(?<=[a-z])[a-z](?=[a-z]{3})", text)]
    if not places:
        return text
    place = picker.choice(places)
    return picker.choice(
        [
            text[:place] + text[place + 1 :],
            text[:place] + text[place] + text[place:],
            text[:place] + text[place + 1] + text[place] + text[place + 2 :],
        ]
    )


def styled(text: str, style: str, picker: random.Random) -> str:
    """`text` as people ask for it in a style."""
    form = picker.choice(
        ["{0}, {1}", "{0}, {1}", "{0} {1}", "{1} {0}", "{0} in {1} style", "{0}, {1} style", "{1} emoji of {0}"]
    )
    return form.format(text, style)


def one_of(words: Sequence[str], picker: random.Random, first: float = 0.4) -> str:
    """The first word with chance `first`, any otherwise."""
    return words[0] if picker.random() < first else picker.choice(words)
