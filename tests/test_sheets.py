"""Ladders and grids: what is asked of the engine, and the labelled pictures of what came of it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.tiny_control import write_tiny_control
from yoso_core.conditioning import find_control
from yoso_core.engine import Engine, Result
from yoso_core.offers import USUAL, Offer
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
)
from yoso_core.sheets import Axis, Sheet, draw, grid, ladder, parse_axis, run

PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def made(request, picture=PICTURE, evaluations=1, seconds=0.0234):
    return Result(request, [picture], [request.seed], evaluations, {"total": seconds})


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("seed=0,1,2,3", Axis("seed", (0, 1, 2, 3))),
        ("strength=0:1:5", Axis("strength", (0.0, 0.25, 0.5, 0.75, 1.0))),
        ("strength=1:0:2", Axis("strength", (1.0, 0.0))),
        ("seed = 4294967293:4294967295:3", Axis("seed", (4294967293, 4294967294, 4294967295))),
        ("lora.pixel-art=0,0.5,1", Axis("lora", (0.0, 0.5, 1.0), "pixel-art")),
        ("lora.v1.5=-1", Axis("lora", (-1.0,), "v1.5")),
        ("one-step=0:1:3", Axis("one-step", (0.0, 0.5, 1.0))),
        ("prompt=a cat | a dog, 3d|a=b", Axis("prompt", ("a cat", "a dog, 3d", "a=b"))),
        ("guidance=1:8:3", Axis("guidance", (1.0, 4.5, 8.0))),
        ("control=0:2:3", Axis("control", (0.0, 1.0, 2.0))),
        ("steps=1,2,4", Axis("steps", (1, 2, 4))),
        ("adapter=none | line-art|a, b:1", Axis("adapter", ("none", "line-art", "a, b:1"))),
    ],
    ids=str,
)
def test_axes_as_people_write_them(text, axis):
    parsed = parse_axis(text)
    assert parsed == axis
    assert [type(value) for value in parsed.values] == [type(value) for value in axis.values]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed",
        "seed=",
        "seed=,",
        "size=1,2",
        "seed=a",
        "seed=nan",
        "seed=1e400",
        "seed=0.5",
        "seed=-1",
        "seed=0:1",
        "seed=0:1:2:3",
        "seed=0:10:4",
        "seed=0:9:1",
        "seed=0:9:1000000000",
        "seed=0:9:2.5",
        "seed=" + "1," * 10 + "1",
        "strength=2",
        "guidance=1.01",
        "control=3",
        "steps=51",
        "lora=1",
        "lora.x=3",
        "seed.x=1",
        "prompt=" + "a|" * 10 + "a",
        "prompt=" + "a" * 2001,
        "prompt=" + "a" * 30_000,
        "prompt=\0",
        "sampler=",
        "sampler=lcm,euler",
        "adapter=",
        "adapter=a||b",
        "adapter=" + "a|" * 10 + "a",
        "adapter=" + "a" * 201,
        "adapter=\0",
        "adapter.x=a",
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_is_no_axis_is_one_sentence(text):
    with pytest.raises(RequestError) as caught:
        parse_axis(text)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".") and len(str(caught.value)) < 250


def test_a_grid_goes_from_left_to_right_and_down():
    request = GenerateRequest("a", seed=9, count=4, loras=(LoraUse("x", 0.3), LoraUse("y", 0.4)))
    sheet = grid(request, parse_axis("seed=1,2,3"), parse_axis("lora.x=0,1"))
    asked = [(each.seed, {use.name: use.weight for use in each.loras}, each.count) for each in sheet.requests]
    assert asked == [(seed, {"x": weight, "y": 0.4}, 1) for weight in (0, 1) for seed in (1, 2, 3)]
    assert sheet.columns == ("1", "2", "3") and sheet.rows == ("0", "1")
    assert (sheet.column_title, sheet.row_title, sheet.title) == ("seed", "weight of x", "a")


def test_a_column_a_lora_and_nothing_else_differs():
    others = (LoraUse("x", 0.3), LoraUse("b", 0.4), LoraUse("y", 0.5))
    sheet = grid(GenerateRequest("a", loras=others), parse_axis("adapter=none|a|b"))
    kept = (LoraUse("x", 0.3), LoraUse("y", 0.5))
    assert [each.loras for each in sheet.requests] == [kept, (*kept, LoraUse("a")), (*kept, LoraUse("b"))]
    assert sheet.columns == ("none", "a", "b") and sheet.column_title == "LoRA"


SECRET = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("run-my-style-step-50|run-my-style-step-200", ("step 50", "step 200")),
        (f"none|run-{SECRET}-ink-step-50|run-{SECRET}-ink-step-200", ("none", "step 50", "step 200")),
        ("run-my-style|run-my-style-step-200", ("style", "style step 200")),
        ("a/b/step-0000050.safetensors|a/b/step-0000200.safetensors", ("step 0000050", "step 0000200")),
        ("runs/a/output/x.safetensors|runs/b/output/x.safetensors", ("a output x", "b output x")),
        ("line-art|blueprint-ink", ("line-art", "blueprint-ink")),
        ("none|line-art", ("none", "line-art")),
        (f"run-{SECRET}-ink", ("run-ink",)),
        ("a-1|a-1", ("a-1", "a-1")),
        ("none", ("none",)),
        ("-|--|a", ("-", "--", "a")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_labels_of_loras_say_what_differs(names, labels):
    assert parse_axis(f"adapter={names}").labels == labels


def test_no_secret_is_drawn_into_a_grid():
    assert parse_axis("lora.upload-Zx81_-abcdefghij-ink=0,1").title == "weight of upload-ink"


def test_a_style_goes_behind_the_prompt_whichever_axis_it_has():
    x, y = parse_axis("prompt=a cat|a dog"), parse_axis("style=3d|flat")
    prompts = ["a cat, 3d", "a dog, 3d", "a cat, flat", "a dog, flat"]
    assert [each.prompt for each in grid(GenerateRequest("x"), x, y).requests] == prompts
    assert [each.prompt for each in grid(GenerateRequest("x"), y, x).requests] == [prompts[i] for i in (0, 2, 1, 3)]


def test_every_kind_of_axis_changes_its_own():
    control = ControlUse(picture=PICTURE)
    request = EditRequest("a", picture=PICTURE, control=control)
    for text, read in {
        "prompt=b": lambda changed: changed.prompt == "b",
        "seed=5": lambda changed: changed.seed == 5,
        "steps=2": lambda changed: changed.steps == 2,
        "guidance=2": lambda changed: changed.guidance == 2,
        "strength=0.25": lambda changed: changed.strength == 0.25,
        "control=0.5": lambda changed: changed.control.strength == 0.5 and changed.control.picture is PICTURE,
        "one-step=0": lambda changed: changed.one_step == 0,
        "lora.x=0.5": lambda changed: changed.loras == (LoraUse("x", 0.5),),
        "adapter=x": lambda changed: changed.loras == (LoraUse("x"),),
    }.items():
        assert not read(request)
        (changed,) = grid(request, parse_axis(text)).requests
        assert read(changed), text


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ("strength=0,1", None, "edit"),
        ("control=0,1", None, "control picture"),
        ("steps=1,3", None, "Steps must be one of"),
        ("seed=1", "seed=2", "Both axes"),
        ("lora.x=1", "lora.x=0", "Both axes"),
        ("adapter=x|y", "lora.x=0", "Both axes change 'x'"),
        ("lora.x=0", "adapter=none|x", "Both axes change 'x'"),
        ("adapter=x", "adapter=y", "Both axes change the LoRA"),
        ("seed=0:9:10", "guidance=1,2,3,4,5,6,7", "at most 64"),
    ],
)
def test_grids_that_can_not_be_are_refused_before_anything_is_drawn(x, y, reason):
    with pytest.raises(RequestError, match=reason):
        grid(GenerateRequest("a"), parse_axis(x), y and parse_axis(y))


def test_two_loras_may_be_the_axes_of_a_grid():
    assert len(grid(GenerateRequest("a"), parse_axis("lora.x=0,1"), parse_axis("lora.y=0,1,2")).requests) == 6
    with pytest.raises(RequestError, match="LoRAs"):
        grid(GenerateRequest("a", loras=tuple(map(LoraUse, "abcde"))), parse_axis("lora.x=0,1"))


def test_results_come_one_by_one(engine):
    sheet = grid(GenerateRequest("a"), parse_axis("seed=1,2,3"))
    told = []
    results = run(engine, sheet, told.append)
    assert not told
    first = next(results)
    assert told[-1] == "1 of 3: Drawing picture 1 of 1" and first.request.seed == 1
    assert [result.seeds for result in results] == [[2], [3]]
    assert first.pictures[0].tobytes() == engine.run(GenerateRequest("a", seed=1)).pictures[0].tobytes()


def test_a_lora_that_is_not_here_is_refused_before_anything_is_drawn(engine, tiny_lora):
    engine.add_lora("waves", tiny_lora.path)
    sheet = grid(GenerateRequest("a"), parse_axis("adapter=none|waves|rain"))
    with pytest.raises(RequestError, match="no LoRA 'rain'"):
        next(run(engine, sheet))
    engine.add_lora("rain", tiny_lora.path)
    none, waves, rain = (result.pictures[0].tobytes() for result in run(engine, sheet))
    assert none != waves == rain


def test_a_grid_of_edits_under_control(tiny_spec, tmp_path):
    controls = {"tiny": find_control(str(write_tiny_control(tmp_path / "control")), "")}
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu", controls=controls)
    request = EditRequest("a", picture=PICTURE, control=ControlUse(picture=PICTURE, annotator="map"))
    sheet = grid(request, parse_axis("strength=0.5,1"), parse_axis("control=0,1"))
    assert len({result.pictures[0].tobytes() for result in run(engine, sheet)}) == 4


@pytest.mark.parametrize(
    ("x", "y"), [("steps=2,8", "sampler=ddim,dpm++"), ("sampler=ddim|dpm++", "steps=2,8")], ids=["right", "down"]
)
def test_a_grid_over_samplers_and_their_steps(x, y):
    """What is possible in a cell is possible, although it is not with the request's own steps or sampler."""
    sheet = grid(GenerateRequest("a"), parse_axis(x), parse_axis(y))
    asked = {(each.steps, each.sampler) for each in sheet.requests}
    assert asked == {(2, "ddim"), (2, "dpm++"), (8, "ddim"), (8, "dpm++")}
    with pytest.raises(RequestError, match="lcm"):
        grid(GenerateRequest("a"), parse_axis("sampler=lcm,dpm++"))


def test_a_ladder_has_five_rungs(engine):
    request = GenerateRequest("a", seed=7, steps=2, count=3, guidance=1.5, one_step=0.9)
    sheet = ladder(engine, request, teacher_steps=3)
    results = list(run(engine, sheet))
    assert sheet.columns == ("1 step", "2 steps", "4 steps", "Teacher, 3 steps", "1 step without the one-step LoRA")
    assert sheet.notes == () and sheet.title == "a" and sheet.subtitle == "Tiny, seed 7"
    assert [result.evaluations for result in results] == [2, 4, 8, 6, 2]
    assert [each.one_step for each in sheet.requests] == [0.9, 0.9, 0.9, 0, 0]
    assert [each.sampler for each in sheet.requests] == [None] * 3 + ["ddim", None]
    assert [each.guidance for each in sheet.requests] == [1.5, 1.5, 1.5, 2, 1.5]
    assert all(each.seed == 7 and each.count == 1 for each in sheet.requests)
    assert len({result.pictures[0].tobytes() for result in results}) == 5


def test_a_ladder_says_which_rungs_it_lacks(tiny_spec):
    engine = Engine({DEFAULT_MODEL: replace(tiny_spec, lora=None)}, device="cpu")
    sheet = ladder(engine, GenerateRequest("a", sampler="ddim", steps=30))
    assert sheet.columns == ("1 step", "2 steps", "4 steps") and "no one-step LoRA" in sheet.notes[0]


def test_a_ladder_leaves_out_what_its_model_does_not_take(tiny_spec):
    offer = Offer(samplers=("lcm",), steps=(4,), guided="never")
    engine = Engine({DEFAULT_MODEL: replace(tiny_spec, offer=offer)}, device="cpu")
    sheet = ladder(engine, GenerateRequest("a"))
    assert sheet.columns == ("4 steps",) and len(sheet.notes) == 2 and "Teacher, 25 steps" in sheet.notes[0]
    engine.models[DEFAULT_MODEL] = replace(tiny_spec, offer=replace(USUAL, guided="never"))
    assert len(ladder(engine, GenerateRequest("a")).columns) == 5  # the teacher has guidance, if it has not


def test_a_ladder_of_an_edit_has_the_teacher_too(engine):
    sheet = ladder(engine, EditRequest("a", picture=PICTURE), teacher_steps=3)
    assert len(sheet.columns) == 5 and sheet.columns[3] == "Teacher, 3 steps" and sheet.notes == ()
    assert len({result.pictures[0].tobytes() for result in run(engine, sheet)}) == 5
    with pytest.raises(RequestError, match="no model"):
        ladder(engine, GenerateRequest("a", model="b"))
    with pytest.raises(RequestError, match="teacher"):
        ladder(engine, GenerateRequest("a"), teacher_steps=51)


def test_a_translation_has_strengths_and_no_ladder(engine):
    request = TranslateRequest("a", picture=PICTURE, translator="x")
    assert [each.strength for each in grid(request, parse_axis("strength=0.5,1")).requests] == [0.5, 1]
    with pytest.raises(RequestError, match="one evaluation"):
        ladder(engine, request)
    with pytest.raises(RequestError, match="one evaluation"):
        grid(request, parse_axis("steps=1,2"))


def pale(drawn):
    """(H, W) bool: the frames of pictures, and the places of those that are not made yet."""
    return (np.asarray(drawn) == (0xF1, 0xF1, 0xF4)).all(axis=2)


@pytest.mark.parametrize(("natural", "side"), [(64, 192), (192, 192), (400, 400), (768, 512)])
def test_pictures_are_drawn_in_a_size_to_look_at(natural, side):
    picture = PICTURE.resize((natural, natural))
    sheet = grid(GenerateRequest("a"), parse_axis("seed=1,2"), parse_axis("steps=1,2"))
    results = [made(request, picture.rotate(90 * index)) for index, request in enumerate(sheet.requests)]
    drawn = draw(sheet, results)
    framed = pale(drawn)
    xs, ys = (np.flatnonzero(framed.sum(axis=axis) >= 2 * side) for axis in (0, 1))
    assert len(xs) == len(ys) == 4 and xs[1] - xs[0] == ys[1] - ys[0] == side + 1
    for index, result in enumerate(results):
        left, top = xs[index % 2 * 2] + 1, ys[index // 2 * 2] + 1
        shown = drawn.crop((left, top, left + side, top + side))
        wanted = result.pictures[0].resize((side, side), Image.Resampling.LANCZOS)
        assert shown.tobytes() == wanted.tobytes()


def test_what_is_not_made_yet_is_left_pale():
    sheet = grid(GenerateRequest("a"), parse_axis("seed=1,2,3"))
    whole = draw(sheet, [made(request) for request in sheet.requests])
    for count in range(3):
        drawn = draw(sheet, iter([made(request) for request in sheet.requests[:count]]))
        assert drawn.size == whole.size
        assert pale(drawn).sum() == 3 * 194**2 - count * 192**2


def ink(drawn):
    """How many pixels are of text, in a sheet of white pictures."""
    return (np.asarray(drawn).max(axis=2) < 200).sum()


def test_labels_times_and_notes_are_written():
    white = Image.new("RGB", (64, 64), "white")
    bare = Sheet(("",), ("",), (GenerateRequest("a"),))

    def drawn(**changes):
        return draw(replace(bare, **changes), [made(bare.requests[0], white)])

    assert ink(drawn()) == 0
    for change in (
        {"columns": ("one",)},
        {"rows": ("one",)},
        {"title": "one"},
        {"subtitle": "one"},
        {"column_title": "one"},
        {"row_title": "one"},
        {"notes": ("one",)},
        {"timed": True},
    ):
        assert ink(drawn(**change)) > 20, change
        if "timed" not in change:
            longer = {name: ("one two",) if isinstance(value, tuple) else "one two" for name, value in change.items()}
            assert ink(drawn(**longer)) > ink(drawn(**change)), change


@pytest.mark.parametrize("text", ["word " * 400, "W" * 2000, "é" * 2000, "你" * 2000, "\n" * 2000, " "], ids=range(6))
def test_long_prompts_are_wrapped_and_cut(text):
    axis = Axis("prompt", (text, "b"))
    for sheet in (grid(GenerateRequest(text), axis), grid(GenerateRequest(text), parse_axis("seed=1,2"), axis)):
        drawn = draw(sheet, [made(request) for request in sheet.requests])
        assert drawn.width < 2 * 192 + 260 and drawn.height < 2 * 192 + 160
        dark = np.asarray(drawn) < 255
        assert dark.sum() == dark[12:-12, 12:-12].sum() > 0


def test_bars_in_the_choices_of_a_prompt_part_no_values():
    assert parse_axis("prompt=a {red|blue} cat|a [cat|dog]|b").values == ("a {red|blue} cat", "a [cat|dog]", "b")
