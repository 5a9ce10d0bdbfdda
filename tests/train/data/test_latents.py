"""Folders as people have them: what is usable is used, the rest is told; latents stay beside their captions."""

import copy
import io
import json
import os
import struct
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

from tests.tiny import TOKENIZER, build_autoencoder, build_text_encoder
from train.data import reader
from train.data.latents import (
    CaptionedLatents,
    GeneratedLatents,
    digest_of,
    encode_folder,
    grid,
    load_pictures,
    to_unit_range,
)
from train.data.listings import read_captions
from train.data.reader import AHEAD, Listing, list_files, read_listing, scan, with_captions
from train.loop.config import ConfigError
from train.loop.randomness import Draws
from train.recipes.corpus.emoji import CORPUS
from yoso_core.condition import Condition
from yoso_core.families.unet import clip_texts

SIZE = 16


def picture(colour="red", width=SIZE, height=SIZE, mode="RGB"):
    return Image.new(mode, (width, height), colour)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(folder, files):
    """Write pictures, bytes or texts to `folder` by name."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content.save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def metadata(*rows):
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def scanned(folder, size):
    """What training would use, and what is said of the rest."""
    listing = read_listing(folder)
    used = [seen.row for seen in scan(folder, listing, size) if seen.used]
    return Listing(used, listing.problems)


def told(found, name):
    """All that is said of one file."""
    return "; ".join(sentence for file, sentence in found.problems if file == name)


def captions_by_file(found):
    return {row["file_name"]: row["captions"] for row in found.rows}


def huge_png():
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


# Captions


def test_captions_are_read_under_all_their_names_and_other_fields_stay(tmp_path):
    rows = [
        {"file_name": "a.png", "captions": ["one", " two "], "style": "flat"},
        {"file_name": "b.png", "text": "three"},
        {"file_name": "sub/c.png", "caption": "four"},
        {"file_name": "d.png", "text": ["five"], "captions": []},
    ]
    write(tmp_path, {"metadata.jsonl": "\ufeff" + metadata(*rows, "", "  "), "unlisted.png": picture("black")})
    write(tmp_path, {row["file_name"]: picture((index, 0, 0)) for index, row in enumerate(rows)})
    found = scanned(tmp_path, SIZE)
    assert captions_by_file(found) == {
        "a.png": ["one", "two"],
        "b.png": ["three"],
        "sub/c.png": ["four"],
        "d.png": ["five"],
    }
    assert found.rows[0]["style"] == "flat" and [problem.file for problem in found.problems] == ["unlisted.png"]
    assert read_listing(tmp_path) == found


def test_captions_are_read_from_text_files_beside_the_pictures(tmp_path):
    files = {"a.png": picture("red"), "a.txt": "\ufeffa red square\r\n\r\nred\n", "sub/b.JPEG": stored(picture("blue"))}
    write(tmp_path, files | {"sub/b.txt": "blau, größer", ".hidden.png": picture(), ".git/x.png": picture()})
    found = scanned(tmp_path, SIZE)
    assert captions_by_file(found) == {"a.png": ["a red square", "red"], "sub/b.JPEG": ["blau, größer"]}
    assert found.problems == []


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("red_heart-2.png", "red heart"),
        ("Red Heart (3).png", "Red Heart"),
        ("größer_als.png", "größer als"),
        ("7up.png", "7up"),
        ("2024-01-01.png", None),
        ("0001.png", None),
        ("__.png", None),
    ],
)
def test_without_captions_the_file_name_is_used_if_it_has_words(tmp_path, name, caption):
    write(tmp_path, {name: picture("red"), "good thing.png": picture("blue"), "empty.txt": " \n"})
    found = scanned(tmp_path, SIZE)
    assert captions_by_file(found).get(name) == (caption and [caption])
    assert f'"{caption}"' in told(found, name) if caption else "skipped: it has no caption" in told(found, name)


@pytest.mark.parametrize("bad", [5, {"a": 1}, [None], ["x" * 2001], ["\ud800"], ["nul \0"], [[]]])
def test_captions_that_are_no_text_are_told_and_others_stay(tmp_path, bad):
    among_good = [*bad, "good"] if isinstance(bad, list) else "good"
    listed = [{"file_name": "a.png", "text": bad}, {"file_name": "b.png", "text": among_good}]
    write(tmp_path, {"metadata.jsonl": metadata(*listed), "a.png": picture("red"), "b.png": picture("blue")})
    found = scanned(tmp_path, SIZE)
    assert captions_by_file(found) == {"a.png": ["a"], "b.png": ["good"]}
    assert "A caption" in told(found, "a.png") and ("A caption" in told(found, "b.png")) == isinstance(bad, list)


def test_a_caption_file_that_is_no_text_is_told(tmp_path):
    found = scanned(write(tmp_path, {"a cat.png": picture(), "a cat.txt": b"caf\xe9"}), SIZE)
    assert captions_by_file(found) == {"a cat.png": ["a cat"]} and "UTF-8" in told(found, "a cat.txt")


@pytest.mark.parametrize("line", ["{", "[1]", "null", '"a.png"', "{}", '{"file_name": 3}', "\xff\xfe", "[" * 100_000])
def test_bad_lines_are_told_by_their_number(tmp_path, line):
    good = '{"file_name": "a.png", "text": "x\u2028y"}'  # a line separator of Unicode ends no line
    write(
        tmp_path, {"metadata.jsonl": f"{good}\n\n{line}\n".encode("latin-1" if "\xff" in line else "utf-8", "replace")}
    )
    found = scanned(write(tmp_path, {"a.png": picture()}), SIZE)
    assert len(found.rows) == 1 and "line 3" in told(found, "metadata.jsonl")


def test_a_picture_that_is_held_out_once_is_never_trained_on(tmp_path):
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "a.png", "text": "b", "held_out": True}]
    write(tmp_path, {"metadata.jsonl": metadata(*rows, {"file_name": "c.png", "text": "c"}), "a.png": picture("red")})
    write(tmp_path, {"c.png": picture("blue")})
    assert [row["file_name"] for row in read_listing(tmp_path).rows] == ["c.png"]
    [held_out] = read_listing(tmp_path, keep=lambda row: row.get("held_out")).rows
    assert held_out["captions"] == ["a", "b"]


def test_held_out_lines_are_left_out_unless_asked_for(tmp_path):
    rows = [{"file_name": f"{name}.png", "text": name, "held_out": name == "b"} for name in "abc"]
    write(tmp_path, {"metadata.jsonl": metadata(*rows), "a.png": picture("red"), "c.png": picture("blue")})
    assert [row["text"] for row in read_listing(tmp_path).rows] == ["a", "c"]
    assert read_listing(tmp_path).problems == []  # what is not wanted is not looked at
    assert "skipped" in told(read_listing(tmp_path, keep=lambda row: True), "b.png")
    write(tmp_path, {"b.png": picture("lime")})
    held_out = load_pictures(tmp_path, SIZE, keep=lambda row: row["held_out"])
    assert held_out.captions == [["b"]] and held_out.pictures[0, :, 0, 0].tolist() == [0, 255, 0]


# Files

SKIPPED = {
    "unreadable": (b"no picture", "no PNG"),
    "empty": (b"", "no PNG"),
    "cut": (stored(Image.effect_noise((64, 64), 50).convert("RGB"))[:-2000], "can't be read"),
    "huge": (huge_png(), "megapixels"),
    "tiny": (picture("lime", 15, 200), "15 pixels"),
    "bitmap": (stored(picture("lime"), "BMP"), "no PNG"),
}
NOTED = {
    "grey": (stored(picture(100, mode="L")), "grey"),
    "cmyk": (stored(picture((0, 255, 0, 9), mode="CMYK"), "JPEG"), "CMYK"),
    "animated": (stored(picture("lime"), "GIF", save_all=True, append_images=[picture("blue")]), "first frame"),
    "transparent": (stored(Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 9))), "on white"),
    "deep": (stored(Image.fromarray(np.full((SIZE, SIZE), 40_000, np.uint16))), "16-bit"),
    "small": (picture("navy", SIZE, 300), "enlarged"),
}


@pytest.mark.parametrize("kind", [*SKIPPED, *NOTED])
def test_every_kind_of_odd_file_is_told_and_training_goes_on(tmp_path, kind):
    content, words = (SKIPPED | NOTED)[kind]
    size = SIZE * 2
    big = {"first.png": picture("red", size, size), "last.png": picture("blue", size, size)}
    write(tmp_path, big | {"odd.png": content})
    expected = ["first.png", "last.png"] + (["odd.png"] if kind in NOTED else [])
    found, loaded = scanned(tmp_path, size), load_pictures(tmp_path, size)
    assert words in told(found, "odd.png") and ("skipped" in told(found, "odd.png")) == (kind in SKIPPED)
    assert not told(found, "first.png").replace('it has no caption: "first", from its file name, is used', "")
    assert [row["file_name"] for row in found.rows] == expected == [row["file_name"] for row in loaded.rows]
    assert loaded.problems == found.problems and loaded.pictures.shape == (len(expected), 3, size, size)
    assert loaded.pictures[1, :, 0, 0].tolist() == [0, 0, 255]


def test_listed_but_missing_files_and_odd_names_are_skipped(tmp_path):
    names = ["missing.png", "", ".", "sub", "x" * 5000, "nul\0.png", "\ud800.png"]
    write(tmp_path, {"metadata.jsonl": metadata(*({"file_name": name, "text": "x"} for name in ["a.png", *names]))})
    (tmp_path / "sub").mkdir()
    found = scanned(write(tmp_path, {"a.png": picture()}), SIZE)
    assert list(captions_by_file(found)) == ["a.png"] and len(found.problems) == len(names)
    assert all("skipped" in problem.sentence and str(problem).encode() for problem in found.problems)


@pytest.fixture
def escape(tmp_path):
    """A folder with a picture, and a secret beside it."""
    write(tmp_path, {"secret/s.png": picture("black"), "secret/s.txt": "the secret"})
    return write(tmp_path / "folder", {"a good one.png": picture("red")})


@pytest.mark.parametrize(
    "name", ["../secret/s.png", "sub/../../secret/s.png", "{root}/secret/s.png", "link.png", "loop"]
)
def test_listed_names_do_not_leave_the_folder(escape, name):
    name = name.format(root=escape.parent)
    (escape / "sub").mkdir()
    (escape / "link.png").symlink_to("../secret/s.png")
    (escape / "loop").symlink_to("loop")
    write(escape, {"metadata.jsonl": metadata(*({"file_name": n, "text": "x"} for n in (name, "a good one.png")))})
    loaded = load_pictures(escape, SIZE)
    assert loaded.captions == [["x"]] and loaded.pictures[0, :, 0, 0].tolist() == [255, 0, 0]
    assert "skipped: it leads out of the folder" in told(loaded, name)


def test_links_in_a_folder_do_not_leave_it(escape):
    (escape / "a good one.txt").symlink_to("../secret/s.txt")
    (escape / "link.png").symlink_to("../secret/s.png")
    (escape / "sub").symlink_to("../secret")
    found = scanned(escape, SIZE)
    assert captions_by_file(found) == {"a good one.png": ["a good one"]}
    assert all("leads out" in told(found, name) for name in ("link.png", "sub"))
    write(escape.parent, {"secret/metadata.jsonl": metadata({"file_name": "a good one.png", "text": "the secret"})})
    (escape / "metadata.jsonl").symlink_to("../secret/metadata.jsonl")
    with pytest.raises(ConfigError, match="leads out"):
        read_listing(escape)


def test_a_linked_folder_may_be_named_itself(escape):
    (escape.parent / "alias").symlink_to("folder")
    assert len(load_pictures(escape.parent / "alias", SIZE)) == 1


def test_the_same_bytes_are_used_once_with_all_captions(tmp_path):
    files = {f"{name}.png": picture("red") for name in ("a cat", "b dog", "d hen")} | {"c cow.png": picture("blue")}
    loaded = load_pictures(write(tmp_path, files), SIZE)
    assert loaded.captions == [["a cat", "b dog", "d hen"], ["c cow"]]
    assert "the same picture as a cat.png" in told(loaded, "b dog.png")


def test_a_file_listed_twice_has_the_captions_of_both_lines(tmp_path):
    rows = [{"file_name": "a.png", "text": text} for text in ("one", "two", "one")]
    rows[1]["file_name"] = "./a.png"
    found = scanned(write(tmp_path, {"metadata.jsonl": metadata(*rows), "a.png": picture()}), SIZE)
    assert captions_by_file(found) == {"a.png": ["one", "two"]} and found.problems == []


@pytest.mark.parametrize(
    "files",
    [{}, {"a.txt": "x"}, {"a.png": b"x"}, {"metadata.jsonl": ""}, {"metadata.jsonl": "{"}, {"1.png": picture()}],
)
def test_a_folder_with_nothing_usable_is_refused_in_a_sentence(tmp_path, files):
    with pytest.raises(ConfigError, match=r"no picture in .* can be used") as caught:
        load_pictures(write(tmp_path, files), SIZE)
    assert "\n" not in str(caught.value)


def test_files_are_listed_before_their_names_are_asked_for_words(tmp_path):
    assert list_files(tmp_path) == Listing([], [])
    write(tmp_path, {"a cat.png": picture("red"), "1.png": picture("blue"), "b.png": picture("lime"), "b.txt": "bee"})
    listing = list_files(tmp_path)
    assert captions_by_file(listing) == {"1.png": [], "a cat.png": [], "b.png": ["bee"]} and listing.problems == []
    named = with_captions(listing)
    assert captions_by_file(named) == {"a cat.png": ["a cat"], "b.png": ["bee"]} and read_listing(tmp_path) == named
    assert captions_by_file(listing)["a cat.png"] == [] and listing.problems == []


def test_a_scan_tells_of_every_picture_whether_it_is_used(tmp_path):
    files = {"a.png": picture("red", 40, 20), "b.png": b"damaged", "c.png": picture("red", 40, 20), "d.png": picture()}
    listing = read_listing(write(tmp_path, files))
    seen = {one.row["file_name"]: one for one in scan(tmp_path, listing, SIZE)}
    assert [(name, one.used, one.width, one.height, one.same_as) for name, one in seen.items()] == [
        ("a.png", True, 40, 20, ""),
        ("b.png", False, 0, 0, ""),
        ("c.png", False, 40, 20, "a.png"),
        ("d.png", True, SIZE, SIZE, ""),
    ]
    assert seen["a.png"].row["captions"] == ["a", "c"] and seen["b.png"].pixels is None
    assert seen["c.png"].pixels.shape == (SIZE, SIZE, 3) and seen["c.png"].digest == seen["a.png"].digest


def test_a_missing_folder_is_refused_with_what_to_do(tmp_path):
    write(tmp_path, {"file": "x"})
    for name in ("nowhere", "file"):
        with pytest.raises(ConfigError, match=r"name a folder of pictures$"):
            load_pictures(tmp_path / name, SIZE)


def test_the_bundled_corpus_is_told_how_to_build_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (CORPUS, tmp_path / CORPUS):
        with pytest.raises(ConfigError, match=r"build the .* with python -m train\.recipes\.corpus\.emoji$"):
            load_pictures(Path(place), SIZE)


def colours(count):
    return [(index % 256, index // 256, 99) for index in range(count)]


def many(folder, count):
    """`count` pictures, each of a colour of its own and captioned with it; every seventh is damaged."""
    rows = [{"file_name": f"{index}.png", "text": f"colour {index}"} for index in range(count)]
    files = {f"{i}.png": picture(c) if i % 7 else b"damaged" for i, c in enumerate(colours(count))}
    return write(folder, files | {"metadata.jsonl": metadata(*rows)})


def test_pictures_stay_aligned_with_captions_around_bad_ones(tmp_path):
    count = 3 * AHEAD + 5
    loaded = load_pictures(many(tmp_path, count), SIZE)
    usable = [index for index in range(count) if index % 7]
    assert loaded.captions == [[f"colour {index}"] for index in usable]
    assert loaded.pictures[:, :, 3, 3].tolist() == [list(colours(count)[index]) for index in usable]
    assert len(loaded.problems) == count - len(usable)


def test_the_middle_of_a_picture_is_taken(tmp_path):
    wide = picture("red", 48, 16)
    wide.paste("blue", (16, 0, 32, 16))
    assert (load_pictures(write(tmp_path, {"w.png": wide}), 16).pictures[0, 2] == 255).all()


def test_unit_range():
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_grid_places_pictures_row_by_row():
    pictures = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    picture = grid(pictures, 2)
    assert picture.size == (4, 4)
    assert [picture.getpixel(place)[0] for place in ((0, 0), (2, 0), (0, 2), (2, 2))] == [0, 128, 255, 255]


# Latents


@dataclass
class Frozen:
    """What of a `LoadedModel` makes latents and conditions."""

    autoencoder: nn.Module
    tokenizer: CLIPTokenizer
    text_encoder: nn.Module

    @property
    def encoders(self):
        return [self.text_encoder]

    def encode_texts(self, texts):
        return Condition(clip_texts(texts, self.tokenizer, self.text_encoder))


@pytest.fixture(scope="module")
def frozen():
    """Of a model the parts that make latents and conditions, tiny."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    autoencoder = build_autoencoder()
    autoencoder.register_to_config(scaling_factor=0.5)
    return Frozen(autoencoder.eval(), tokenizer, build_text_encoder(tokenizer).eval())


@pytest.fixture
def folder(tmp_path):
    rows = [{"file_name": "a.png", "captions": ["red", "a red square"]}, {"file_name": "b.png", "text": "blue"}]
    rows.insert(1, {"file_name": "bad.png", "text": "bad"})
    files = {"metadata.jsonl": metadata(*rows), "a.png": picture("red", 64, 64), "b.png": picture("blue", 64, 64)}
    return write(tmp_path, files | {"bad.png": b""})


def test_a_folder_is_encoded_as_its_pictures_and_captions_are(folder, frozen):
    encoded, loaded = encode_folder(folder, 64, frozen), load_pictures(folder, 64)
    with torch.no_grad():
        expected = frozen.autoencoder.encode(to_unit_range(loaded.pictures)).latent_dist.mean * 0.5
    torch.testing.assert_close(encoded.latents, expected)
    contexts = frozen.encode_texts(["red", "a red square", "blue"]).context
    assert torch.equal(encoded.conditions.context, contexts.bfloat16())
    assert encoded.first.tolist() == [0, 2, 3] and len(encoded) == 2 and encoded.shape == (8, 8, 8)
    assert torch.equal(encoded.empty.context, frozen.encode_texts([""]).context)
    assert list(encoded.problems) == loaded.problems and "bad.png" in {problem.file for problem in loaded.problems}


class CountingAutoencoder(nn.Module):
    """Its latents are the pictures themselves; it remembers how many had been opened when each part came."""

    config = SimpleNamespace(scaling_factor=1.0)

    def __init__(self, count_opened):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.count_opened, self.seen, self.ahead = count_opened, 0, []

    def encode(self, pictures, return_dict):
        self.seen += len(pictures)
        time.sleep(0.1)  # readers that may run ahead do so
        self.ahead.append(self.count_opened() - self.seen)
        return (pictures,)


def test_a_large_folder_is_never_whole_in_memory(tmp_path, frozen, monkeypatch):
    count, opened = 6 * AHEAD, []
    original = reader.open_picture
    monkeypatch.setattr(reader, "open_picture", lambda path: opened.append(path) or original(path))
    autoencoder = CountingAutoencoder(lambda: len(opened))
    encoded = encode_folder(many(tmp_path, count), SIZE, replace(frozen, autoencoder=autoencoder))
    usable = [index for index in range(count) if index % 7]
    assert len(autoencoder.ahead) >= 5 and max(autoencoder.ahead) <= AHEAD + count // 7 + 1  # bad ones are not seen
    expected = to_unit_range(torch.tensor([colours(count)[index] for index in usable]))
    assert torch.equal(encoded.latents[:, :, 5, 5], expected) and len(encoded.conditions) == len(usable)


def test_the_fingerprint_follows_the_data_and_nothing_else(folder, frozen):
    first = encode_folder(folder, 64, frozen).fingerprint()
    assert first == encode_folder(folder, 64, frozen).fingerprint() and len(first) == 16
    trained_again = replace(frozen, autoencoder=build_autoencoder())
    seen = {first, encode_folder(folder, 32, frozen).fingerprint()}
    seen.add(encode_folder(folder, 64, trained_again).fingerprint())
    write(folder, {"b.png": picture("navy", 64, 64)})
    seen.add(encode_folder(folder, 64, frozen).fingerprint())
    listing = (folder / "metadata.jsonl").read_text()
    write(folder, {"metadata.jsonl": listing.replace('"blue"', '"navy"')})
    seen.add(encode_folder(folder, 64, frozen).fingerprint())
    os.remove(folder / "b.png")
    seen.add(encode_folder(folder, 64, frozen).fingerprint())
    assert len(seen) == 6


EMPTY = Condition(torch.full((1, 5, 4), -1.0))


def captioned(count=12):
    """Latents of 3 x 2 x 2, two phrasings each; the numbers tell which is which."""
    latents = torch.arange(count * 12.0).reshape(count, 3, 2, 2)
    conditions = Condition(torch.arange(count * 2.0)[:, None, None].expand(-1, 5, 4).bfloat16())
    return CaptionedLatents(latents, conditions, torch.arange(0, count * 2 + 1, 2), EMPTY)


def generated(count=12, **options):
    """A sampler that keeps noise and caption apart: noise, doubled, plus the caption's number."""
    own = torch.arange(float(count))[:, None, None]
    options = {"sample": lambda noise, told: noise * 2 + told.context.mean((1, 2))[:, None, None, None]} | options
    return GeneratedLatents(
        shape=(3, 2, 2),
        maker_conditions=Condition(own.expand(-1, 7, 6)),
        conditions=Condition((own + 100).expand(-1, 5, 4).bfloat16()),
        empty=EMPTY,
        **options,
    )


def plain(batch):
    """Latents and contexts (B, L, D)."""
    latents, condition = batch
    return latents, condition.context


def draws(step=0, batch=12, rows=slice(None)):
    return Draws(seed=3, step=step, batch=batch, rows=rows)


@pytest.mark.parametrize("data", [captioned(), generated()], ids=["captioned", "generated"])
def test_both_kinds_of_data_are_one_interface(data):
    indices = torch.randperm(12)
    latents, context = plain(data.batch(indices, 0.0, draws()))
    assert latents.shape == (12, *data.shape) and context.shape == (12, 5, 4)
    assert latents.dtype == context.dtype == torch.float32 and len(data) == 12
    assert (data.batch(indices, 1.0, draws())[1].context == data.empty.context).all()
    dropped = (
        data.batch(torch.zeros(2000, dtype=torch.int64), 0.25, draws(batch=2000))[1].context == data.empty.context
    ).all((1, 2))
    assert 0.2 < dropped.float().mean() < 0.3
    whole = plain(data.batch(indices, 0.5, draws(7)))
    parts = [plain(data.batch(indices[rows], 0.5, draws(7, rows=rows))) for rows in (slice(0, 5), slice(5, 12))]
    for a, b in zip(whole, map(torch.cat, zip(*parts, strict=True)), strict=True):
        assert torch.equal(a, b)
    mean, deviation = data.moments()
    assert mean.shape == deviation.shape == (3,) and len(data.fingerprint()) == 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_processor_gives(folder, frozen):
    encoded = encode_folder(folder, 64, frozen)
    moved = replace(
        frozen,
        autoencoder=copy.deepcopy(frozen.autoencoder).cuda(),
        text_encoder=copy.deepcopy(frozen.text_encoder).cuda(),
    )
    there = encode_folder(folder, 64, moved)
    torch.testing.assert_close(there.latents, encoded.latents, atol=2e-2, rtol=0)
    assert there.fingerprint() == encoded.fingerprint()
    for data in (captioned(), generated(), generated(device="cuda")):
        on_gpu = plain(data.batch(torch.arange(12), 0.5, replace(draws(), device="cuda")))
        for a, b in zip(on_gpu, plain(data.batch(torch.arange(12), 0.5, draws())), strict=True):
            assert a.is_cuda
            torch.testing.assert_close(a.cpu(), b)


def test_latents_come_with_one_of_their_own_phrasings():
    data = captioned()
    chosen = set()
    for step in range(20):
        latents, context = plain(data.batch(torch.arange(12), 0.0, draws(step)))
        assert torch.equal(latents, data.latents)
        assert (context[:, 0, 0].long() // 2 == torch.arange(12)).all()
        chosen |= set(context[:, 0, 0].tolist())
    assert len(chosen) == 24


def test_moments_are_those_of_each_channel():
    latents = (
        torch.randn(500, 3, 4, 4) * torch.tensor([1.0, 2, 3])[:, None, None] + torch.tensor([0.0, 5, -5])[:, None, None]
    )
    data = CaptionedLatents(latents, Condition(torch.zeros(500, 1, 1).bfloat16()), torch.arange(501), EMPTY)
    mean, deviation = data.moments()
    torch.testing.assert_close(mean, torch.tensor([0.0, 5, -5]), atol=0.2, rtol=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0, 2, 3]), atol=0.2, rtol=0)


def test_generated_latents_are_of_their_caption_and_of_fresh_noise():
    data = generated()
    latents, context = plain(data.batch(torch.arange(12), 0.0, draws()))
    noise = draws().normal(3, 2, 2)
    torch.testing.assert_close(latents, noise * 2 + torch.arange(12.0)[:, None, None, None])
    assert (context[:, 0, 0] == torch.arange(12.0) + 100).all()
    assert not torch.equal(latents, data.batch(torch.arange(12), 0.0, draws(1))[0])
    assert torch.equal(latents, data.batch(torch.arange(12), 1.0, draws())[0])  # dropping changes the prompt alone


def test_generated_latents_carry_no_gradient():
    network = nn.Conv2d(3, 3, 1)
    data = generated(sample=lambda noise, told: network(noise))
    assert not data.batch(torch.arange(4), 0.0, draws(batch=4))[0].requires_grad


def test_moments_of_generated_latents_are_measured_once_and_always_the_same():
    calls = []
    data = generated(sample=lambda noise, told: calls.append(len(noise)) or noise * 2 + 3)
    mean, deviation = data.moments()
    torch.testing.assert_close(mean, torch.full((3,), 3.0), atol=0.3, rtol=0)
    torch.testing.assert_close(deviation, torch.full((3,), 2.0), atol=0.2, rtol=0)
    made = sum(calls)
    assert made >= 200 and torch.equal(data.moments()[0], mean) and sum(calls) == made
    assert torch.equal(generated(sample=data.sample).moments()[1], deviation)


def test_fingerprints_without_files_are_of_the_tensors_or_the_captions():
    assert captioned().fingerprint() == captioned().fingerprint() != captioned(11).fingerprint()
    assert generated().fingerprint() == generated().fingerprint() != generated(11).fingerprint()
    changed = captioned()
    changed.latents[3, 1, 0, 0] += 1e-3
    assert changed.fingerprint() != captioned().fingerprint()
    assert generated(11, digest=digest_of(["a"])).fingerprint() == generated(12, digest=digest_of(["a"])).fingerprint()
    assert len({digest_of(texts) for texts in (["a", "b"], ["b", "a"], ["ab"], ["a", "", "b"], [])}) == 5


def test_captions_are_read_one_a_line(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufeffa cat\r\n\n  größer \nlast".encode())
    assert read_captions(path) == ["a cat", "größer", "last"]


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "no caption"), (b" \n\n", "no caption"), (b"\xff", "UTF-8"), (b"a\n" + b"x" * 2001, "Line 2")],
)
def test_caption_files_that_are_none_are_refused(tmp_path, content, word):
    (tmp_path / "captions.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=word):
        read_captions(tmp_path / "captions.txt")
    with pytest.raises(ConfigError, match="can't be read"):
        read_captions(tmp_path / "nothing.txt")
