"""The corpus: captions as people type them, and held-out pairs that nobody trains on."""

from collections import Counter

from train.recipes.corpus.emoji import (
    HELD_OUT_COUNT,
    STYLES,
    Emoji,
    captions,
    choose_held_out,
    read_held_out,
)


def test_held_out_pairs_test_composition():
    pairs = read_held_out()
    assert len(pairs) == HELD_OUT_COUNT
    assert len({label for label, _ in pairs}) == HELD_OUT_COUNT  # so each label is seen in three styles
    assert min(Counter(style for _, style in pairs).values()) > 40


def test_held_out_choice_is_the_same_everywhere():
    pairs = {(f"label {index}", style) for index in range(50) for style in STYLES} | {("lonely", "3d")}
    chosen = choose_held_out(pairs, 10)
    assert chosen == choose_held_out(set(sorted(pairs, reverse=True)), 10)
    assert "lonely" not in {label for label, _ in chosen} and set(chosen) <= pairs


def test_captions_say_label_style_and_tags():
    phrases = captions(Emoji("1f980", "octopus", ("sea", "squid"), "animals-nature"), "3d")
    assert "octopus, 3d" in phrases and "an octopus in 3d style" in phrases and "octopus" in phrases
    assert any("sea" in phrase for phrase in phrases)
