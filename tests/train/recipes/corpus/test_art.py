"""The art: labels, packages of icons, and what is held out."""

import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.recipes.corpus.tiny_art import HELD_OUT, KINDS, write_art
from train.recipes.corpus.art import (
    SIDE,
    STYLES,
    bare_code,
    choose_held_out,
    read_art,
    read_held_out,
    read_labels,
    read_pixels,
    squared,
    svg_pictures,
)


def tarball(path, **members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            file = path.with_name("member")
            file.write_text(json.dumps(content))
            archive.add(file, f"package/{name.replace('__', '/')}.json")
    return path


@pytest.fixture
def labels(tmp_path):
    data = [
        {"hexcode": "1F436", "emoji": "🐶", "label": "Dog face", "tags": ["dog"], "group": 0, "subgroup": 1},
        {"hexcode": "1F550", "emoji": "🕐", "label": "one o\u2019clock", "group": 0, "subgroup": 1},
        {"hexcode": "1F3FB", "emoji": "🏻", "label": "light skin tone", "group": 1, "subgroup": 1},
        {"hexcode": "1F1E6", "emoji": "🇦", "label": "regional indicator A", "subgroup": 1},
    ]
    groups = [{"order": 0, "key": "animals-nature"}, {"order": 1, "key": "component"}]
    messages = {"groups": groups, "subgroups": [{"order": 1, "key": "animal-mammal"}]}
    return read_labels(tarball(tmp_path / "labels.tgz", en__data=data, en__messages=messages))


def test_labels_are_in_lower_case_without_dials_and_components(labels):
    (one,) = labels
    assert (one.label, one.emoji, one.code, one.subgroup) == ("dog face", "🐶", "1f436", "animal-mammal")


def test_icons_are_drawn_on_nothing_and_made_square(tmp_path, labels):
    pytest.importorskip("resvg_py")
    body = '<rect width="16" height="8" fill="#f00"/>'
    icons = {"icons": {"dog-face": {"body": body, "width": 16, "height": 8}}}
    file = tarball(tmp_path / "icons.tgz", icons=icons, chars={"1f436": "dog-face"})
    ((one, picture),) = svg_pictures(file, labels)
    assert one.label == "dog face" and picture.size == (SIDE, SIDE)
    alpha = np.asarray(picture)[..., 3]
    assert alpha[SIDE // 2].min() == 255 and alpha[:8].max() == 0 and alpha[-8:].max() == 0


def test_what_is_square_stays():
    picture = Image.new("RGBA", (SIDE, SIDE), "red")
    assert squared(picture) is picture


def test_codes_are_compared_without_the_variation_selector():
    assert bare_code("2764-FE0F-200D-1F525") == "2764-200d-1f525"


def test_one_style_a_label_is_held_out_and_always_the_same():
    pairs = {(f"thing {index}", style) for index in range(40) for style in STYLES} | {("rare", STYLES[0])}
    chosen = choose_held_out(pairs, 20)
    assert chosen == choose_held_out(pairs, 20) and len({label for label, _ in chosen}) == 20
    assert "rare" not in dict(chosen) and len({style for _, style in chosen}) > 3


def test_the_committed_list_names_known_styles():
    held_out = read_held_out()
    assert len(held_out) == 300 and {style for _, style in held_out} == {*STYLES}


def test_sprites_are_read_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # processes that take seconds to begin
    art_folder = write_art(tmp_path)
    art = read_art(art_folder)
    assert len(art) == 2 * len(KINDS) and [(one.label, one.style) for one in art if one.held_out] == [HELD_OUT]
    pixels = read_pixels(art, art_folder)
    assert pixels.shape == (len(art), 4, SIDE, SIDE) and pixels.dtype == torch.uint8
    kept = list(art_folder.glob("pixels-*.npy"))
    assert len(kept) == 1 and torch.equal(read_pixels(art, art_folder), pixels)


def test_a_missing_corpus_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="make corpus"):
        read_art(tmp_path)
