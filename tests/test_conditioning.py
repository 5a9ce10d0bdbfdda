"""ControlNets and the maps that guide them: what is made offline, what is refused and in which words, and what acts."""

import json
import os
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageDraw

from tests.tiny import FAMILY, build_unet
from tests.tiny_control import write_tiny_control
from train.tasks.controlnet import build_controlnet
from yoso_core import conditioning
from yoso_core.checkpoints import ModelError
from yoso_core.condition import Condition
from yoso_core.conditioning import (
    ANNOTATORS,
    CONTROLS,
    Annotations,
    Guide,
    choose_control,
    detected_map,
    find_control,
    load_control,
    map_tensor,
    missing_weights,
    scribble_map,
)
from yoso_core.loading import load_model
from yoso_core.requests import ControlUse, RequestError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def drawing(side=64):
    """A red disc and a blue bar on grey paper."""
    picture = Image.new("RGB", (side, side), (200, 200, 205))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((side // 8, side // 8, side // 2, side // 2), fill="red")
    draw.rectangle((side // 2, side * 3 // 4, side - 4, side - 6), fill="blue")
    return picture


@pytest.fixture
def annotators_folder(tmp_path, monkeypatch):
    """An empty folder in place of ours, and no hub cache."""
    folder = tmp_path / "annotators"
    folder.mkdir()
    monkeypatch.setattr(conditioning, "ANNOTATORS_FOLDER", folder)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: None)
    return folder


@pytest.fixture(scope="module")
def model(tiny_spec):
    return load_model(tiny_spec)


@pytest.fixture(scope="module")
def control_folder(tmp_path_factory):
    return write_tiny_control(tmp_path_factory.mktemp("control"))


@pytest.fixture
def broken_control(control_folder, tmp_path):
    """A copy to harm."""
    for file in control_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("thresholds", [(100, 200), (30, 60)])
def test_canny_is_opencv_s(thresholds, annotators_folder):
    picture = drawing()
    use = ControlUse(picture=picture, annotator="canny", low=thresholds[0], high=thresholds[1])
    found = np.asarray(Annotations()(picture, use))
    assert found.shape == (64, 64, 3) and found.any()
    assert np.array_equal(found, cv2.Canny(np.asarray(picture), *thresholds)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("size", [(1920, 1080), (768, 512), (80, 56), (24, 104), (8, 256), (333, 77)])
def test_edges_of_any_shape_are_whole_and_binary(size, annotators_folder):
    picture = drawing(512).resize(size)
    found = np.asarray(Annotations()(picture, ControlUse(picture=picture, low=50, high=100)))
    assert set(np.unique(found)) == {0, 255}
    assert np.array_equal(found, cv2.Canny(np.asarray(picture), 50, 100)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("size", [(512, 512), (64, 64), (1920, 1080), (700, 512), (96, 416), (8, 2048)])
def test_a_detector_sees_the_picture_in_its_shape(size):
    seen = []

    def detector(picture, detect_resolution, image_resolution, output_type):
        """As those of controlnet_aux: both sides are rounded to multiples of 64, the shorter becomes the resolution."""
        for resolution in (detect_resolution, image_resolution):
            sides = (round(side * resolution / min(picture.size) / 64) * 64 for side in picture.size)
            picture = picture.resize(tuple(sides))
            seen.append(picture.size)
        return picture

    picture = Image.linear_gradient("L").convert("RGB").resize(size)
    assert detected_map(detector, picture).size == size
    (width, height), again = seen
    assert (width, height) == again and width % 64 == height % 64 == 0 and max(width, height) <= 4 * 512
    assert min(width, height) == 512 or max(width, height) == 4 * 512
    if max(size) < 4 * min(size):
        assert abs(width / height / (size[0] / size[1]) - 1) < 0.07  # half of 64 in 512


@pytest.mark.parametrize("side", [72, 96, 512])
def test_a_map_has_the_size_of_the_picture_to_make(side, annotators_folder):
    picture = drawing(side)
    for annotator in ("canny", "scribble", "map"):
        made = Annotations()(picture, ControlUse(picture=picture, annotator=annotator))
        assert made.size == (side, side) and made.mode == "RGB" and np.asarray(made).any()


def test_what_differs_from_the_paper_is_ink_and_strokes_stay_as_they_are():
    picture = Image.new("RGB", (256, 256), (200, 200, 205))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 30, 200, 220), outline="red", width=13)  # of the width that the canvas' brush begins with
    draw.line((20, 120, 240, 120), fill="blue", width=24)  # and nearly twice that
    draw.ellipse((220, 220, 238, 238), fill="green")  # an eye is no shape to draw around
    found = np.asarray(scribble_map(picture))
    ink = (np.abs(np.asarray(picture).astype(int) - (200, 200, 205)) > 60).any(axis=2)
    assert set(np.unique(found)) == {0, 255} and np.array_equal(found.all(axis=2), ink)


def test_of_a_filled_shape_its_outline_is_followed_and_what_is_drawn_on_it():
    picture = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((40, 40, 199, 199), fill="#ffc42e")
    draw.line((199, 120, 250, 120), fill="#ffc42e", width=9)  # a stroke that leads away
    plain = np.asarray(scribble_map(picture))[..., 0] == 255
    expected = (np.asarray(picture) != 255).any(axis=2)
    expected[48:192, 48:192] = False  # all but a rim of 256 / 32 pixels
    assert np.array_equal(plain, expected)
    draw.rectangle((90, 90, 110, 110), fill="black")
    marked = np.asarray(scribble_map(picture))[..., 0] == 255
    assert (marked >= plain).all()
    ys, xs = np.nonzero(marked & ~plain)
    assert {ys.min(), xs.min()} <= {89, 90} and {ys.max(), xs.max()} <= {110, 111} and not marked[95:106, 95:106].any()


def test_a_filled_shape_that_leaves_the_picture_has_no_line_along_its_border():
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).rectangle((0, 160, 255, 255), fill="black")
    found = np.asarray(scribble_map(picture))[..., 0] == 255
    assert found[160:168].all() and found.sum() == 8 * 256


@pytest.mark.parametrize(("paper", "pen"), [("white", "black"), ("black", "white"), ("#102040", "#e0e0e0")])
def test_a_scribble_is_white_on_black_whatever_the_paper(paper, pen):
    picture = Image.new("RGB", (64, 64), paper)
    ImageDraw.Draw(picture).line((5, 5, 60, 50), fill=pen, width=3)
    found = np.asarray(scribble_map(picture))[..., 0]
    assert 0.01 < (found == 255).mean() < 0.2 and found[5, 5] == 255 and found[60, 5] == 0


def test_an_empty_sheet_asks_for_nothing():
    assert not np.asarray(scribble_map(Image.new("RGB", (64, 64), "white"))).any()


def test_an_unknown_annotator_is_named():
    picture = drawing()
    with pytest.raises(RequestError, match=r"no annotator 'cany'.*canny, scribble"):
        Annotations()(picture, ControlUse(picture=picture, annotator="cany"))


@pytest.mark.parametrize("name", [name for name, annotator in ANNOTATORS.items() if annotator.files])
def test_an_annotator_without_its_weights_says_which_and_where_to(name, annotators_folder):
    picture, annotations = drawing(), Annotations()
    with pytest.raises(RequestError) as caught:
        annotations(picture, ControlUse(picture=picture, annotator=name))
    message = str(caught.value)
    assert message == missing_weights(name) and "\n" not in message
    assert all(file in message for file in ANNOTATORS[name].files) and "models/annotators" in message
    assert np.asarray(annotations(picture, ControlUse(picture=picture))).any()  # the others still work


def test_annotators_without_weights_miss_none(annotators_folder):
    assert [missing_weights(name) for name in ("canny", "scribble", "map")] == [None] * 3


def write_edge_detector(path):
    """Random weights of the real network; they find some edges or other."""
    from controlnet_aux.hed import ControlNetHED_Apache2

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(ControlNetHED_Apache2().state_dict(), path)


def test_an_annotator_with_its_weights_runs(annotators_folder, monkeypatch):
    write_edge_detector(annotators_folder / "ControlNetHED.pth")
    monkeypatch.setattr(conditioning, "DETECTOR_SIDE", 64)  # fast
    picture, annotations, heard = drawing(), Annotations(), []
    assert missing_weights("softedge") is None
    use = ControlUse(picture=picture, annotator="softedge")
    first = annotations(picture, use, heard.append)
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() != annotations(Image.new("RGB", (64, 64)), use, heard.append).tobytes()
    assert len(heard) == 1  # loaded once
    assert annotations(drawing(96), use).size == (96, 96)


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("archive", [True, False])
def test_a_malicious_pickle_runs_nothing(annotators_folder, tmp_path, archive):
    mark, file = tmp_path / "was here", annotators_folder / "ControlNetHED.pth"
    torch.save({"norm": Malicious(mark)}, file, _use_new_zipfile_serialization=archive)
    picture, annotations = drawing(), Annotations()
    with pytest.raises(RequestError, match="can't be read") as caught:
        annotations(picture, ControlUse(picture=picture, annotator="softedge"))
    assert not mark.exists() and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    torch.load(file, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_broken_weights_of_an_annotator_are_a_sentence_and_can_be_replaced(annotators_folder, monkeypatch, harm):
    file = annotators_folder / "ControlNetHED.pth"
    monkeypatch.setattr(conditioning, "DETECTOR_SIDE", 64)
    write_edge_detector(file)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        torch.save({"block1.convs.0.weight": torch.zeros(3)}, file)
    picture, annotations = drawing(), Annotations()
    use = ControlUse(picture=picture, annotator="softedge")
    with pytest.raises(RequestError, match="can't be read") as caught:
        annotations(picture, use)
    assert "\n" not in str(caught.value)
    write_edge_detector(file)
    assert annotations(picture, use).size == (64, 64)


def test_a_map_as_a_tensor():
    values = map_tensor(drawing())
    assert values.shape == (1, 3, 64, 64) and values.dtype == torch.float32
    assert values[0, 2, 50, 40] == 1 and values[0, 0, 50, 40] == 0  # the blue bar


def test_known_controls_are_pinned():
    for spec in CONTROLS.values():
        assert spec.source.is_folder or (len(spec.source.revision) == 40 and int(spec.source.revision, 16))
        assert set(spec.annotators) <= set(ANNOTATORS) and spec.licence


def test_a_control_is_found_by_name_folder_or_hub(control_folder):
    assert find_control("sd15-canny", "x") is CONTROLS["sd15-canny"]
    local = find_control(str(control_folder), "tiny")
    assert local.source.place == str(control_folder) and local.family == "tiny" and local.source.is_folder
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = find_control(f"somebody/something@{commit}", "sd15")
    assert (hub.source.place, hub.source.revision) == ("somebody/something", commit)


@pytest.mark.parametrize("name", ["nothing", "a/b", "a/b@main", "~nobody-of-that-name/x", "x" * 5000, "a\0b"])
def test_a_control_that_is_nowhere_is_one_sentence(name):
    with pytest.raises(ModelError, match="no ControlNet") as caught:
        find_control(name, "sd15")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_control_for_a_map_is_the_first_of_its_family():
    picture = drawing()
    assert choose_control(CONTROLS, ControlUse(picture=picture, annotator="scribble"), "sd15") == "sd15-canny"
    assert choose_control(CONTROLS, ControlUse(picture=picture, annotator="depth"), "sd15") == "sd15-depth"
    assert choose_control(CONTROLS, ControlUse(picture=picture), "yoso-emoji") == "emoji"
    named = ControlUse(picture=picture, annotator="depth", network="sd15-canny")
    assert choose_control(CONTROLS, named, "sd15") == "sd15-canny"


@pytest.mark.parametrize(
    ("use", "family", "named"),
    [
        ({"annotator": "depth"}, "yoso-emoji", "'depth' fits"),
        ({}, "sd2", "'canny' fits"),
        ({"network": "../../etc"}, "sd15", "no ControlNet '../../etc'"),
    ],
)
def test_a_map_that_no_control_takes_is_refused(use, family, named):
    with pytest.raises(RequestError, match=named):
        choose_control(CONTROLS, ControlUse(picture=drawing(), **use), family)


def test_a_tiny_control_loads(model, control_folder):
    heard = []
    network = load_control(find_control(str(control_folder), "tiny"), model, heard.append)
    assert isinstance(network, ControlNetModel) and not network.training and len(heard) == 1
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.dtype == model.network.dtype


def refused(folder, model, named):
    with pytest.raises(ModelError, match=named) as caught:
        load_control(find_control(str(folder), "tiny"), model)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def only_pickles(folder):
    torch.save(build_controlnet(build_unet(), True).state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def foreign_shards(folder):
    """An index that leads out of the folder, and one to a pickle beside it."""
    (folder / WEIGHTS).rename(folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../../secret.safetensors", "conv_in.bias": "a.bin"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def half_the_weights(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    save_file({key: value for key, value in tensors.items() if "down_blocks.1" not in key}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "not a whole diffusers model"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 100), "not a whole diffusers model"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a whole diffusers model"),
        (only_pickles, "not a whole diffusers model"),
        (foreign_shards, "only safetensors files are read"),
        (half_the_weights, "lacks the weights"),
        (
            lambda folder: change_config(folder, class_embed_type="timestep"),
            "class_embed|lacks the weights|not a whole",
        ),
    ],
    ids=["no weights", "damaged", "bad json", "pickles", "foreign shards", "half the weights", "other config"],
)
def test_a_broken_control_is_one_sentence(model, broken_control, harm, named):
    harm(broken_control)
    refused(broken_control, model, named)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cross_attention_dim": 48}, "cross_attention_dim is 48"),
        ({"block_out_channels": (32, 96)}, "block_out_channels"),
        ({"layers_per_block": 2}, "layers_per_block is 2"),
        ({"in_channels": 4}, "in_channels is 4"),
        ({"conditioning_embedding_out_channels": (16, 32)}, "another autoencoder"),
        ({"conditioning_channels": 1}, "conditioning_channels"),
        ({"num_class_embeds": 3}, "num_class_embeds"),
    ],
    ids=str,
)
def test_a_control_of_another_family_is_refused(model, tmp_path, change, named):
    config = dict(build_controlnet(build_unet(), whole_encoder=True).config) | change
    ControlNetModel.from_config(config).save_pretrained(tmp_path)
    refused(tmp_path, model, named)


@pytest.fixture(scope="module")
def network(model, control_folder):
    return load_control(find_control(str(control_folder), "tiny"), model)


def guide_of(network, *settings):
    return Guide(partial(FAMILY.follow, network), *settings)


def ask(guide, model, t, batch=1):
    generator = torch.Generator().manual_seed(0)
    noisy, context = torch.randn(batch, 8, 8, 8, generator=generator), torch.randn(batch, 32, 32, generator=generator)
    with torch.no_grad():
        return guide(noisy, torch.full((batch,), t), Condition(context))


def test_a_guide_adds_to_every_skip_and_the_middle(model, network):
    *added, middle = ask(guide_of(network, map_tensor(drawing()), 999), model, 999, batch=2)
    assert len(added) == 4 and middle.shape == (2, 64, 4, 4)
    assert all(one.abs().max() > 0 for one in (*added, middle))
    *others, _ = ask(guide_of(network, map_tensor(Image.new("RGB", (64, 64))), 999), model, 999, batch=2)
    assert not torch.equal(added[0], others[0])


def test_a_guide_s_strength_scales_what_it_adds(model, network):
    half, whole = (ask(guide_of(network, map_tensor(drawing()), 999, strength), model, 999) for strength in (0.5, 1.0))
    assert len(half) == len(whole) == 5
    for one, other in zip(half, whole, strict=True):
        torch.testing.assert_close(2 * one, other)
    assert not ask(guide_of(network, map_tensor(drawing()), 999, 0.0), model, 999)


@pytest.mark.parametrize(
    ("start", "end", "acts"),
    [
        (0.0, 1.0, [999, 500, 1, 0]),
        (0.0, 0.0, [999]),
        (0.0, 0.4, [999, 600]),
        (0.5, 1.0, [499, 1, 0]),
        (0.3, 0.7, [600, 499]),
        (1.0, 1.0, [0]),
    ],
)
def test_a_guide_acts_on_its_part_of_the_way(model, network, start, end, acts):
    guide = guide_of(network, map_tensor(drawing()), 999, 1.0, start, end)
    found = [t for t in (999, 600, 500, 499, 1, 0) if ask(guide, model, t)]
    assert set(acts) <= set(found) and all(start <= 1 - t / 999 <= end for t in found)
    assert (999 in found) == (start == 0) and (0 in found) == (end == 1)
