"""Scenes as folders of captioned pictures."""

import json

import numpy as np
from PIL import Image

from tests.train.recipes.corpus.tiny_art import Here
from train.data.latents import load_pictures
from train.recipes.corpus import export as exporting
from train.recipes.corpus.export import Exported, export, outdoor_scenes, scenes_in_styles
from train.recipes.corpus.scenes import describe


def test_a_folder_that_training_reads_without_what_is_held_out(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(exporting, "process_pool", Here)
    parts = [
        Exported("scene", describe(corpus.describer, 5, 0)),
        Exported("sprite", describe(corpus.unseen, 2, 0), held_out=True),
    ]
    assert export(corpus, tmp_path / "out", parts) == 7
    data = load_pictures(tmp_path / "out", 64)
    assert len(data) == 5 and data.captions[0] == [parts[0].scenes.captions[0]]


def test_pairs_of_light_differ_in_light_alone(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(exporting, "process_pool", Here)
    scenes = outdoor_scenes(corpus, 3, 0)
    export(corpus, tmp_path, [Exported(word, scenes.under(word), word=word) for word in ("day", "night")])
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["captions"][0].endswith(", night") for row in rows] == [False] * 3 + [True] * 3
    for index in range(3):
        day, night = (np.asarray(Image.open(tmp_path / f"{word}-{index:06d}.png")) for word in ("day", "night"))
        assert night.mean() < day.mean() - 10


def test_pairs_of_styles_have_the_same_things_in_the_same_places(corpus):
    first, second = scenes_in_styles(corpus, 6, 0, ["3d", "flat"])
    assert len(first) == len(second) == 6 and first.captions == second.captions
    for a, b in zip(first.sprite[:, 0].tolist(), second.sprite[:, 0].tolist(), strict=True):
        assert corpus.art[a].label == corpus.art[b].label
        assert (corpus.art[a].style, corpus.art[b].style) == ("3d", "flat")
    assert (first.place == second.place).all()
