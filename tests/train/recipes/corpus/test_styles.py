"""Style corpora: what image processing makes of a picture, and the folder that training reads."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.train.recipes.corpus.tiny_art import Here
from train.data.latents import load_pictures
from train.data.reader import read_listing
from train.loop.config import ConfigError
from train.recipes.corpus import styles
from train.recipes.corpus.art import SIDE
from train.recipes.corpus.art import STYLES as ART_STYLES
from train.recipes.corpus.styles import (
    PAPER,
    PIXELS,
    STYLES,
    build,
    line_art,
    neon_night,
    pixel_art,
    watercolour,
)


def scene(colour="red", right=100):
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 20, right, 100), fill=colour)
    draw.rectangle((50, 50, 70, 70), fill="black")
    return picture


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(styles, "process_pool", Here)


@pytest.fixture
def corpus(tmp_path):
    """Three pictures in folders, of which one is held out, with more phrasings than a style takes."""
    folder, rows = tmp_path / "corpus", []
    for style in ("flat", "3d"):
        (folder / style).mkdir(parents=True)
    for name, colour, right in (("flat/1.png", "red", 100), ("3d/1.png", "blue", 90), ("3d/2.png", "green", 80)):
        scene(colour, right).save(folder / name)
        captions = [f"{colour} ball", *(f"{colour} ball {index}" for index in range(8))]
        rows.append({"file_name": name, "captions": captions, "held_out": colour == "green"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_the_picture_and_keeps_its_shape(style):
    picture = scene()
    made = STYLES[style](picture)
    assert made.size == picture.size and made.mode == "RGB"
    values, before = np.asarray(made).astype(int), np.asarray(picture).astype(int)
    assert values[:8].std() < 12  # a ground of one colour stays one, but for its grain
    assert np.abs(values - before).mean() > 2
    shape = (np.abs(values - np.median(values[:8], axis=(0, 1))).max(axis=2) > 40).nonzero()
    assert abs(shape[0].min() - 20) < 10 and abs(shape[1].max() - 100) < 10
    assert np.array_equal(np.asarray(STYLES[style](picture)), values)


def test_styles_are_told_apart():
    made = {name: np.asarray(style(scene())).astype(int) for name, style in STYLES.items()}
    for name, one in made.items():
        assert all(np.abs(one - other).mean() > 3 for title, other in made.items() if title != name)


def test_line_art_has_outlines_and_no_fill():
    values = np.asarray(line_art(scene()).convert("L"))
    assert values[30, 60] > 240  # within the disc
    assert values[60, 60] > 240  # within the square
    assert values[16:26, 60].min() < 100 and values[60, 46:54].min() < 100  # their outlines
    plain = np.asarray(line_art(Image.new("RGB", (SIDE, SIDE), "red")))
    assert (plain == PAPER).all()  # nothing to outline


def test_pixel_art_has_few_colours_on_a_coarse_grid():
    values = np.asarray(pixel_art(scene()))
    blocks = values.reshape(PIXELS, SIDE // PIXELS, PIXELS, SIDE // PIXELS, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert len(np.unique(values.reshape(-1, 3), axis=0)) <= 16


def test_a_neon_night_is_dark_but_for_its_outlines():
    values = np.asarray(neon_night(scene()).convert("HSV")).astype(int)
    assert values[:8, :, 2].max() < 80 and values[..., 2].max() == 255
    assert values[..., 1][values[..., 2] > 200].mean() > 120  # bright is also vivid


def test_watercolour_is_paler():
    assert np.asarray(watercolour(scene())).mean() > np.asarray(scene()).mean() - 12
    assert np.asarray(watercolour(scene()))[60, 60].min() > 40  # black is washed out


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("colour", ["white", "black", "red"])
def test_a_picture_of_one_colour_is_no_error(style, colour):
    assert STYLES[style](Image.new("RGB", (SIDE, SIDE), colour)).size == (SIDE, SIDE)


@pytest.mark.parametrize("style", STYLES)
def test_a_folder_of_a_style_is_one_that_training_reads(corpus, tmp_path, style):
    assert build(corpus, tmp_path / "out", style) == 2
    (folder,) = (tmp_path / "out").iterdir()
    data = load_pictures(folder, 64)
    assert len(data) == 2 and not data.problems and data.pictures.shape == (2, 3, 64, 64)
    assert not torch.equal(data.pictures[0], data.pictures[1])
    for captions in data.captions:
        assert 1 <= len(captions) <= 4 and all(caption.endswith(f", {style}") for caption in captions)
    texts = " ".join(caption for captions in data.captions for caption in captions)
    assert "red ball" in texts and "blue ball" in texts
    assert "green" not in texts and len(list(folder.glob("*.png"))) == 2  # what is held out stays out


def test_pictures_are_in_their_style(corpus, tmp_path):
    build(corpus, tmp_path, "line art")
    (row, _) = read_listing(tmp_path / "line-art").rows
    made = Image.open(tmp_path / "line-art" / row["file_name"])
    assert np.array_equal(np.asarray(made), np.asarray(line_art(scene("red"))))


def test_building_again_is_building_once(corpus, tmp_path):
    build(corpus, tmp_path, "line art")
    listing = (tmp_path / "line-art" / "metadata.jsonl").read_bytes()
    build(corpus, tmp_path, "line art")
    assert (tmp_path / "line-art" / "metadata.jsonl").read_bytes() == listing


def test_a_corpus_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        build(tmp_path / "nothing", tmp_path / "out", "line art")


def test_no_caption_of_the_corpus_names_a_style():
    """Two words each, none of them one of the bundled model's own styles."""
    for style in STYLES:
        assert len(style.split()) == 2 and not {*ART_STYLES} & set(style.split())
