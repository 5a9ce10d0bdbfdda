"""The library of LoRAs: what is found, what is read of it, and that nothing hostile gets in or stops a listing."""

import json
import os
import pickle
import re
import resource
import shutil
import struct
import threading
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests.lora.test_admission import Bomb, as_kohya, as_peft, save
from tests.tiny import LORA_RANK, build_unet, random_lora
from yoso_core.cached import HubError
from yoso_core.checkpoints import Source
from yoso_core.files.cards import FRONT_LIMIT
from yoso_core.lora import library
from yoso_core.lora.admission import PEFT_FILE, admit
from yoso_core.lora.library import (
    LORA_FILE,
    LoraEntry,
    bundled,
    distinct,
    from_hub,
    in_folder,
    left_out,
    misfits,
    of_run,
    public_name,
    search,
    trained,
    uploaded,
)
from yoso_core.lora.reading import HEADER_LIMIT, LoraError
from yoso_core.models import MODELS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "Zx81_-abcdefgh"


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return random_lora(build_unet())


def reading(tensors, width):
    """The same LoRA, its cross-attention for prompts of another width; None leaves cross-attention out."""
    changed = {}
    for key, value in tensors.items():
        crossing = "attn2.to_k" in key or "attn2.to_v" in key
        if width is None and crossing:
            continue
        changed[key] = torch.zeros(LORA_RANK, width) if crossing and "lora_A" in key else value
    return changed


def picture(path):
    Image.new("RGB", (2, 2)).save(path, "PNG")


def write_card(folder, text):
    (folder / "README.md").write_text(text, encoding="utf-8")


def one(entries):
    (entry,) = entries
    return entry


def test_what_is_bundled_is_told_by_its_card(tensors, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "LORAS_FOLDER", tmp_path / "loras")
    assert bundled() == []
    folder = tmp_path / "loras" / "pixel-art"
    folder.mkdir(parents=True)
    path = save(reading(tensors, 192), folder / LORA_FILE)
    front = "license: other\nlicense_name: my-own\ninstance_prompt: pixel art\ntags: [a, b]"
    write_card(folder, f"---\n{front}\n---\n\n# Pixel Art\n\nText\n")
    picture(folder / "thumbnail.png")
    (tmp_path / "loras" / "empty").mkdir()
    (tmp_path / "loras" / "note.txt").write_text("no LoRA")
    assert bundled() == [
        LoraEntry(
            id="pixel-art",
            title="Pixel Art",
            path=path,
            family="yoso-emoji",
            trigger="pixel art",
            bytes=path.stat().st_size,
            licence="my-own",
            thumbnail=folder / "thumbnail.png",
            origin="bundled",
            rank=LORA_RANK,
            one_step=False,
        )
    ]


def test_the_bundled_ones_are_whole():
    for entry in bundled():
        assert entry.family == "yoso-emoji" and entry.trigger and entry.thumbnail and entry.licence != "unknown"
        assert entry.bytes < 1e6 and not entry.one_step


def test_runs_newest_first_and_the_one_step_lora_known_by_its_prior(tensors, tmp_path):
    def hand_over(name, age, **metadata):
        folder = tmp_path / name / "output"
        folder.mkdir(parents=True)
        save(tensors, folder / LORA_FILE, **metadata)
        picture(folder / "preview-last.png")
        os.utime(folder / LORA_FILE, (time.time() - age,) * 2)
        return folder

    prior = json.dumps({"mean": [0.0], "deviation": [1.0]})
    yoso = hand_over("yoso", 30, yoso_prior=prior)
    write_card(yoso, "---\nlicense: mit\n---\n# The same heading for all\n")
    hand_over("styles/line-art", 10)
    hand_over("styles/Night & Day!", 20)
    hand_over("one/two/three", 0)  # too deep
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    found = trained(tmp_path)
    assert [entry.id for entry in found] == ["run-styles-line-art", "run-styles-night-day", "run-yoso"]
    assert [entry.title for entry in found] == ["styles/line-art", "styles/Night & Day!", "yoso"]
    assert [entry.one_step for entry in found] == [False, False, True]
    assert all(entry.thumbnail.name == "preview-last.png" and entry.origin == "trained" for entry in found)
    assert found[-1].licence == "mit"
    assert trained(tmp_path / "nowhere") == []


SECRET = "0123456789abcdef" * 2


def train(tensors, folder, *steps, title="", trigger=""):
    """A run's folder as it is after these steps."""
    settings = json.dumps({"title": title, "model": "yoso-emoji", "trigger": trigger})
    for path in (
        folder / "output" / LORA_FILE,
        *(folder / "snapshots" / f"step-{step:07d}.safetensors" for step in steps),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        save(reading(tensors, None), path, yoso_config=settings, yoso_prior="{}")
    return folder


def told(entries):
    return [(entry.id, entry.title) for entry in entries]


def test_a_run_is_its_output_and_then_its_snapshots(tensors, tmp_path):
    run = train(tensors, tmp_path / "my-style", 50, 1000, 200, title="My Style", trigger="in ink")
    picture(run / "output" / "preview-last.png")
    picture(run / "snapshots" / "step-0000200.png")
    (run / "snapshots" / "step-0000200x.safetensors").write_text("")
    (run / "snapshots" / ".step-0000300.safetensors.partial").write_text("")
    found = of_run(run)
    assert told(found) == [
        ("run-my-style", "My Style"),
        ("run-my-style-step-1000", "My Style, step 1000"),
        ("run-my-style-step-200", "My Style, step 200"),
        ("run-my-style-step-50", "My Style, step 50"),
    ]
    pictures = ["preview-last.png", None, "step-0000200.png", None]
    assert [entry.thumbnail and entry.thumbnail.name for entry in found] == pictures
    for entry in found:
        assert (entry.trigger, entry.family, entry.origin, entry.one_step) == ("in ink", "yoso-emoji", "trained", True)
        assert entry.licence == "unknown" and entry.path.is_file()
    write_card(run / "output", "---\nlicense: mit\ninstance_prompt: in chalk\n---\n# The model, adapted\n")
    assert {(entry.licence, entry.trigger) for entry in of_run(run)} == {("mit", "in chalk")}
    assert told(of_run(run)) == told(found)


def test_a_run_without_a_title_goes_by_its_folder(tensors, tmp_path):
    found = told(of_run(train(tensors, tmp_path / "Night & Day!", 50)))
    assert found == [("run-night-day", "Night & Day!"), ("run-night-day-step-50", "Night & Day!, step 50")]
    assert of_run(tmp_path) == of_run(tmp_path / "nowhere") == of_run(tmp_path / "a\0b") == []


def test_snapshots_stand_without_an_output_and_steps_that_are_written_twice_apart(tensors, tmp_path):
    run = train(tensors, tmp_path / "a", 50)
    (run / "output" / LORA_FILE).unlink()
    save(tensors, run / "snapshots" / "step-50.safetensors")
    assert [entry.id for entry in of_run(run)] == ["run-a-step-50", "run-a-step-50-2"]


def test_runs_with_snapshots_stay_together_the_newest_first(tensors, tmp_path):
    for name, ages in {"old": (90, 80), "new": (95, 10), "old-step-50": (99, 98)}.items():
        run = train(tensors, tmp_path / name, 50)
        for path, age in zip((run / "output" / LORA_FILE, *(run / "snapshots").iterdir()), ages, strict=True):
            os.utime(path, (time.time() - age,) * 2)
    ids = ["run-new", "run-new-step-50", "run-old", "run-old-step-50", "run-old-step-50-2", "run-old-step-50-step-50"]
    assert [entry.id for entry in trained(tmp_path)] == ids


def test_the_secret_of_a_run_stays_whole_in_ids_and_out_of_all_that_is_shown(tensors, tmp_path):
    words = "-".join(["long"] * 12)
    found = of_run(train(tensors, tmp_path / f"{SECRET}-{words}", 200))
    assert [entry.id for entry in found] == [f"run-{SECRET}-{words}", f"run-{SECRET}-{words}-step-200"]
    assert [entry.title for entry in found] == [words, f"{words}, step 200"]
    assert [public_name(entry.id) for entry in found] == [f"run-{words}", f"run-{words}-step-200"]
    (nameless,) = of_run(train(tensors, tmp_path / SECRET))
    assert SECRET in nameless.id and SECRET not in public_name(nameless.id) + nameless.title
    (tmp_path / "styles").mkdir()
    (tmp_path / f"{SECRET}-{words}").rename(tmp_path / "styles" / f"{SECRET}-{words}")
    assert trained(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "public"),
    [
        (f"run-{SECRET}-my-style-step-200", "run-my-style-step-200"),
        (f"run-{SECRET}-{SECRET}", f"run-{SECRET}"),
        ("upload-Zx81_-abcdefghij-my-style", "upload-my-style"),
        ("run-my-style-step-200", "run-my-style-step-200"),
        (f"run-{SECRET}0-style", f"run-{SECRET}0-style"),
        (f"folder-{SECRET}-style", f"folder-{SECRET}-style"),
    ],
)
def test_public_names(name, public):
    assert public_name(name) == public


def test_runs_of_one_long_title_are_told_apart(tensors, tmp_path):
    names = [f"{'a' * 60}-{number:06x}" for number in (1, 2)]
    assert len({of_run(train(tensors, tmp_path / name))[0].id for name in names}) == 2


def test_a_run_is_listed_while_it_trains(tensors, tmp_path):
    """Files are replaced, come and go all the time; what is listed is whole."""
    run = train(tensors, tmp_path / "runs" / "a", 50, 100)
    source, stop = run / "output" / LORA_FILE, threading.Event()

    def train_on():
        step = 100
        while not stop.is_set():
            step += 50
            shutil.copyfile(source, run / "output" / ".partial")
            (run / "output" / ".partial").replace(source)
            shutil.copyfile(source, run / "snapshots" / f"step-{step:07d}.safetensors.partial")
            (run / "snapshots" / f"step-{step:07d}.safetensors.partial").rename(
                run / "snapshots" / f"step-{step:07d}.safetensors"
            )
            (run / "snapshots" / f"step-{step - 100:07d}.safetensors").unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "runs" / "b", ignore_errors=True)
            shutil.copytree(run / "output", tmp_path / "runs" / "b" / "output")

    training = threading.Thread(target=train_on)
    training.start()
    try:
        for _ in range(50):
            assert of_run(run)[0].id == "run-a"
            assert "run-a" in {entry.id for entry in trained(tmp_path / "runs")}
    finally:
        stop.set()
        training.join()


def test_a_run_that_vanishes_under_the_reader_is_no_error(tensors, tmp_path, monkeypatch):
    run = train(tensors, tmp_path / "runs" / "a", 50)
    read = library.read_header

    def vanish(path):
        shutil.rmtree(run, ignore_errors=True)
        return read(path)

    monkeypatch.setattr(library, "read_header", vanish)
    assert of_run(run) == trained(tmp_path / "runs") == []


def test_links_do_not_lead_out_of_a_run(tensors, tmp_path):
    run = train(tensors, tmp_path / "runs" / "a", 50)
    secret = train(tensors, tmp_path / "b", 50)
    picture(secret / "secret.png")
    (run / "snapshots" / "step-0000050.png").symlink_to(secret / "secret.png")
    (run / "snapshots" / "step-0000060.safetensors").symlink_to(secret / "output" / LORA_FILE)
    (tmp_path / "runs" / "c").symlink_to(secret)
    assert [entry.id for entry in trained(tmp_path / "runs")] == ["run-a", "run-a-step-50"]
    assert of_run(run) == trained(tmp_path / "runs") and of_run(run)[-1].thumbnail is None


def test_a_folder_in_every_spelling(tensors, tmp_path):
    diffusers, peft, parts = tmp_path / "Ink", tmp_path / "charcoal", {"unet": build_unet()}
    for folder in (diffusers, peft, tmp_path / "empty", tmp_path / ".hidden"):
        folder.mkdir()
    save(tensors, diffusers / LORA_FILE)
    write_card(diffusers, "# Ink on paper\n")
    save(as_peft(tensors), peft / PEFT_FILE)
    (peft / "adapter_config.json").write_text(json.dumps({"r": LORA_RANK, "lora_alpha": 2 * LORA_RANK}))
    tags = {"10_ink": {"sumi-e": 12, "tree": 3}, "5_more": {"tree": 4, "sumi-e": 1, "river": "many"}}
    loose = save(as_kohya(tensors, 2), tmp_path / "Sumi v1.2.safetensors", ss_tag_frequency=json.dumps(tags))
    picture(tmp_path / "Sumi v1.2.png")
    save(tensors, tmp_path / ".half-written.safetensors")
    save(tensors, tmp_path / ".hidden" / LORA_FILE)
    found = {entry.id: entry for entry in in_folder(tmp_path)}
    assert sorted(found) == ["folder-charcoal", "folder-ink", "folder-sumi-v1-2"]
    assert found["folder-ink"].title == "Ink on paper"
    assert found["folder-charcoal"].path == peft / PEFT_FILE
    assert {change.scale for change in admit(found["folder-charcoal"].path, parts).values()} == {2.0}
    kohya = found["folder-sumi-v1-2"]
    assert (kohya.path, kohya.title, kohya.trigger) == (loose, "Sumi v1.2", "sumi-e")
    assert kohya.thumbnail == tmp_path / "Sumi v1.2.png"
    assert {entry.rank for entry in found.values()} == {LORA_RANK}


def test_folders_within_folders_are_in_the_titles(tensors, tmp_path):
    """As people keep them: by what they are of, some with a folder of their own, some linked."""
    for place in (
        "Ink.safetensors",
        "People/Ink.safetensors",
        "Styles/Old/Ink v2.SAFETENSORS",
        f"Styles/Chalk/{LORA_FILE}",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save(tensors, tmp_path / place)
    save(tensors, tmp_path / "Styles" / "Chalk" / "kohya.safetensors")  # the same once more
    write_card(tmp_path / "Styles" / "Chalk", "# Chalk on slate\n")
    (tmp_path / "Styles" / "round").symlink_to(tmp_path / "Styles")
    (tmp_path / "People" / "linked").symlink_to(tmp_path / "Styles" / "Old")
    found = {entry.id: entry.title for entry in in_folder(tmp_path)}
    assert found == {
        "folder-ink": "Ink",
        "folder-people-ink": "People / Ink",
        "folder-people-linked-ink-v2": "People / linked / Ink v2",
        "folder-styles-chalk": "Styles / Chalk on slate",
    }
    assert left_out(tmp_path) == []


def test_what_a_folder_does_not_offer_is_told(tensors, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "files"
    outside.mkdir()
    folder.mkdir()
    save(tensors, outside / "far.safetensors")
    (folder / "far.safetensors").symlink_to(outside / "far.safetensors")
    (folder / "more").symlink_to(outside)
    (folder / "notes.txt").symlink_to(tmp_path / "nowhere")
    (folder / "broken.safetensors").write_text("no LoRA at all")
    save({"emb_params": torch.zeros(2, 4)}, folder / "word.safetensors")
    save({"lora_unet_conv_in.oft_blocks": torch.zeros(4, 4, 4)}, folder / "turned.safetensors")
    save(tensors, folder / "good.safetensors")
    told = left_out(folder)
    assert len(told) == 5 and all("\n" not in sentence for sentence in told)
    for words in ("far.safetensors leads out", "more leads out", "broken.safetensors is not", "an embedding", "an OFT"):
        assert sum(words in sentence for sentence in told) == 1
    assert left_out(tmp_path / "nowhere") == []


def test_a_folder_without_end_is_cut_and_that_is_told(tensors, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "FILES_LIMIT", 2)
    for name in "abc":
        save(tensors, tmp_path / f"{name}.safetensors")
    assert len(in_folder(tmp_path)) == 2
    assert one(left_out(tmp_path)).endswith("holds 3 files; the first 2 are offered.")


def unfit(entry, spec):
    return misfits([entry], spec).get(entry.id, "")


def test_a_kind_that_is_not_read_is_listed_with_the_reason_and_refused_when_uploaded(tiny_spec, tmp_path):
    path = save({"lora_unet_conv_in.oft_blocks": torch.zeros(4, 4, 4)}, tmp_path / "turned.safetensors")
    entry = one(in_folder(tmp_path))
    assert entry.problem == unfit(entry, tiny_spec) == "turned.safetensors is an OFT, which is not read here."
    with pytest.raises(LoraError, match="is an OFT"):
        uploaded(path, TOKEN)


def test_what_fits_is_told_by_every_name_and_shape_of_a_model_that_is_here(tensors, tiny_spec, tmp_path):
    """And by the family alone of one that is not."""
    written = {
        "good": tensors,
        "its text": as_kohya_text_encoder(),
        "another place": tensors | {"unet.no.such.place.lora_A.weight": torch.zeros(4, 4)},
        "another width": reading(tensors, 33),
        "of SD1.5": reading(tensors, 768),
        "of SDXL": reading(tensors, 2048),
    }
    for name, content in written.items():
        save(content, tmp_path / f"{name}.safetensors")
    entries = {entry.title: entry for entry in in_folder(tmp_path)}
    told = {name: unfit(entry, tiny_spec) for name, entry in entries.items()}
    assert told["good"] == told["its text"] == ""
    assert "has no place for" in told["another place"] and "33" in told["another width"]
    assert "family sd15" in told["of SD1.5"] and "family sdxl" in told["of SDXL"]
    far = replace(tiny_spec, source=Source("nobody/nothing", COMMIT), family="sd15")
    assert [name for name, entry in entries.items() if unfit(entry, far)] == ["of SDXL"]


def test_what_fits_is_told_anew_when_the_file_is_another(tensors, tiny_spec, tmp_path):
    path = save(tensors, tmp_path / "a.safetensors")
    entry = one(in_folder(tmp_path))
    assert unfit(entry, tiny_spec) == ""
    save({"emb_params": torch.zeros(2, 4)}, path)
    assert "an embedding" in unfit(entry, tiny_spec)
    path.unlink()
    assert "gone" in unfit(entry, tiny_spec)


def as_kohya_text_encoder():
    """A pair for the text encoder as trainers spell it, whatever transformers calls its modules."""
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    halves = {"down": torch.zeros(LORA_RANK, 32), "up": torch.zeros(64, LORA_RANK)}
    return {f"{stem}.lora_{half}.weight": value for half, value in halves.items()} | {f"{stem}.alpha": torch.tensor(4)}


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "difference"])
def test_families_of_other_products(tmp_path, kind):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    content = {
        "LoHa": {f"hada_w{n}_{half}": torch.zeros(4, 768) for n in (1, 2) for half in "ab"},
        "LoKr": {"lokr_w1": torch.zeros(4, 8), "lokr_w2_a": torch.zeros(80, 4), "lokr_w2_b": torch.zeros(4, 96)},
        "difference": {"diff": torch.zeros(320, 768)},
    }[kind]
    save({f"{stem}.{name}": value for name, value in content.items()}, tmp_path / "a.safetensors")
    entry = one(in_folder(tmp_path))
    assert (entry.family, entry.rank) == ("sd15", 0 if kind == "difference" else 4)


def test_a_folder_that_is_a_lora_itself(tensors, tmp_path):
    save(tensors, tmp_path / PEFT_FILE)
    write_card(tmp_path, "---\ninstance_prompt: 'null'\nlicense: [mit, apache-2.0]\n---\n# Mine\n")
    entry = one(in_folder(tmp_path))
    assert (entry.title, entry.trigger, entry.licence) == ("Mine", "", "mit")
    assert entry.id == f"folder-{library._slug(tmp_path.name)}"


@pytest.mark.parametrize(
    ("width", "metadata", "base", "family"),
    [
        (192, {}, "", "yoso-emoji"),
        (768, {}, "", "sd15"),
        (1024, {}, "", "sd2"),
        (2048, {"ss_base_model_version": "sd_v1"}, "runwayml/stable-diffusion-v1-5", "sdxl"),  # the matrices don't lie
        (None, {}, "", ""),
        (None, {}, "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
        (None, {}, "stabilityai/sd-turbo", "sd2"),
        (None, {}, "[stabilityai/stable-diffusion-2-1-base]", "sd2"),
        (None, {}, "stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        (None, {"yoso_config": '{"model": "sd15-yoso"}'}, "", "sd15"),
        (None, {"yoso_config": '{"model": "yoso-emoji"}'}, "", "yoso-emoji"),
        (None, {"yoso_config": '["model"]'}, "", ""),
        (None, {"yoso_config": "[" * 100_000}, "", ""),
        (None, {"ss_base_model_version": "sd_v1"}, "", "sd15"),
        (None, {"ss_base_model_version": "sd_v2_v"}, "", "sd2"),
        (None, {"ss_base_model_version": "sdxl_base_v1-0"}, "", "sdxl"),
        (None, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "", "sd15"),
    ],
    ids=str,
)
def test_the_family_from_what_the_file_has(tensors, tmp_path, width, metadata, base, family):
    folder = tmp_path / "style"
    folder.mkdir()
    for spelt in (reading(tensors, width), as_kohya(reading(tensors, width), 4)):
        save(spelt, folder / LORA_FILE, **metadata)
        write_card(folder, f"---\nbase_model: {base}\n---\n")
        assert one(in_folder(tmp_path)).family == family


def test_families_are_those_of_the_models():
    assert set(library.FAMILY_WORDS) == {spec.family for spec in MODELS.values()} - {""}


@pytest.mark.parametrize(
    ("metadata", "trigger"),
    [
        ({"modelspec.trigger_phrase": "in  my\nstyle"}, "in my style"),
        ({"yoso_config": '{"trigger": "in ink"}', "modelspec.trigger_phrase": "in chalk"}, "in ink"),
        ({"yoso_config": '{"trigger": ""}', "modelspec.trigger_phrase": "in chalk"}, "in chalk"),
        ({"ss_tag_frequency": "not json"}, ""),
        ({"ss_tag_frequency": "[1, 2]"}, ""),
        ({"ss_tag_frequency": '{"a": {"x": NaN, "y": "z", "w": true}}'}, ""),
        ({"ss_tag_frequency": "[" * 100_000}, ""),
        ({"ss_tag_frequency": json.dumps({"a": {"x" * 5000: 1}})}, "x" * library.WORDS_LIMIT),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_trigger_from_metadata(tensors, tmp_path, metadata, trigger):
    save(tensors, tmp_path / "a.safetensors", **metadata)
    assert one(in_folder(tmp_path)).trigger == trigger


def test_the_licence_from_metadata(tensors, tmp_path):
    save(tensors, tmp_path / "a.safetensors", **{"modelspec.license": "CC-BY-4.0"})
    save(tensors, tmp_path / "b.safetensors")
    assert [entry.licence for entry in in_folder(tmp_path)] == ["CC-BY-4.0", "unknown"]


def header(text):
    return struct.pack("<Q", len(text)) + text


BROKEN = {
    "pickle": lambda trace: pickle.dumps(Bomb(trace)),
    "empty": lambda trace: b"",
    "text": lambda trace: b"<html>" * 100,
    "huge header": lambda trace: header(json.dumps({"__metadata__": {"x": "a" * 2 * HEADER_LIMIT}}).encode()),
    "length of 2 ** 63": lambda trace: struct.pack("<Q", 2**63) + b"{}",
    "NaN for a length": lambda trace: struct.pack("<d", float("nan")) + b"{}",
    "NaN for a shape": lambda trace: header(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}') + b"\0" * 4,
    "offsets beyond": lambda trace: header(b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}') + b"\0" * 4,
    "shape of 2 ** 64": lambda trace: header(
        b'{"x":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}'
    ),
    "no json": lambda trace: header(b"{" * 100),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_left_out_of_a_listing_and_named_when_uploaded(tensors, tmp_path, kind):
    folder, trace = tmp_path / "files", tmp_path / "trace"
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(BROKEN[kind](trace))
    save(tensors, folder / "whole.safetensors")
    assert one(in_folder(folder)).title == "whole"
    with pytest.raises(LoraError, match=r"broken\.safetensors") as caught:
        uploaded(folder / "broken.safetensors", TOKEN)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert not trace.exists()


def cut(tensors):
    return dict(list(tensors.items())[:1])


def flat(tensors):
    return {key: torch.zeros(()) for key in tensors}


def wide(tensors):
    return {key: torch.zeros(300, 300) for key in tensors}


@pytest.mark.parametrize(
    ("harm", "metadata", "reason"),
    [
        (cut, {}, "no LoRA weights"),
        (lambda tensors: {"conv_in.weight": torch.zeros(4, 4)}, {}, "no LoRA weights"),
        (flat, {}, "rank 0"),
        (wide, {}, "rank 300"),
        (dict, {"yoso_checkpoint": "generator"}, "checkpoint"),
    ],
    ids=["half a pair", "a network", "no shape", "rank 300", "a checkpoint"],
)
def test_what_is_no_lora_is_refused_with_the_reason(tensors, tmp_path, harm, metadata, reason):
    path = save(harm(tensors), tmp_path / "a.safetensors", **metadata)
    assert in_folder(tmp_path) == []
    with pytest.raises(LoraError, match=reason):
        uploaded(path, TOKEN)


def test_no_weights_are_read(tensors, tmp_path):
    """A gigabyte that takes no place on the disk is listed in no time and in no memory."""
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    rows, end = 4, 4 * 4 * 30_000_000
    shapes = {"lora_A": [rows, end // 4 // rows], "lora_B": [end // 4 // rows, rows]}
    described = {
        f"{name}.{half}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [number * end, (number + 1) * end]}
        for number, (half, shape) in enumerate(shapes.items())
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(header(json.dumps(described).encode()))
    os.truncate(path, path.stat().st_size + 2 * end)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert one(in_folder(tmp_path)).bytes == path.stat().st_size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_truncated_weights_are_left_out(tensors, tmp_path):
    path = save(tensors, tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    assert in_folder(tmp_path) == []


MERGE_BOMB = "a0: &a0 {k: v}\n" + "".join(
    f"a{level}: &a{level}\n  <<: [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
ALIAS_BOMB = "a0: &a0 [lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    "front",
    [
        MERGE_BOMB + "license: mit",
        ALIAS_BOMB + "license: *a11",
        "license: &me [*me]",
        "license: {a: b}\ninstance_prompt: [[x]]\nbase_model: 1e999",
        "license: !!python/object/apply:os.system [touch trace]",
        "license: !!int ''\ninstance_prompt: 2024-99-99",
        "[" * 600,
        "license: 'no end",
        "- a\n- b",
        "? [a]\n: b",
        "license: \x00",
        "license: " + "x" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_hostile_card_costs_nothing_but_itself(tensors, tmp_path, monkeypatch, front):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "files" / "style"
    folder.mkdir(parents=True)
    save(reading(tensors, 768), folder / LORA_FILE)
    write_card(folder, f"---\n{front}\n---\n# Heading\n")
    started = time.perf_counter()
    entry = one(in_folder(tmp_path / "files"))
    assert time.perf_counter() - started < 10
    assert entry.title == "Heading" and entry.family == "sd15"
    assert all(len(text) <= library.WORDS_LIMIT for text in (entry.licence, entry.trigger))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "text",
    ["---\nlicense: mit\n---\n# Large\n" + "x" * 5_000_000, "---\n" * 100_000, "\n" * 500_000, "---\nlicense: mit\n"],
    ids=["5 MB", "only rules", "only lines", "no end"],
)
def test_a_card_without_end_is_no_card(tensors, tmp_path, text):
    (tmp_path / "style").mkdir()
    save(tensors, tmp_path / "style" / LORA_FILE)
    write_card(tmp_path / "style", text)
    entry = one(in_folder(tmp_path))
    assert (entry.title, entry.licence) == ("style", "unknown")


def test_a_long_front_matter_is_left_unread(tensors, tmp_path):
    (tmp_path / "style").mkdir()
    save(tensors, tmp_path / "style" / LORA_FILE)
    for notes, licence in ((1, "mit"), (FRONT_LIMIT, "unknown")):
        write_card(tmp_path / "style", f"---\nlicense: mit\nnote: {'x' * notes}\n---\n# Style\n")
        assert (one(in_folder(tmp_path)).title, one(in_folder(tmp_path)).licence) == ("Style", licence)


def test_a_card_that_is_no_text(tensors, tmp_path):
    (tmp_path / "style").mkdir()
    save(tensors, tmp_path / "style" / LORA_FILE)
    (tmp_path / "style" / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n# \x1b[2J\xc3\n")
    assert one(in_folder(tmp_path)).title == "[2J\ufffd"


@pytest.mark.parametrize("what", ["file", "folder", "card and picture", "loop", "pipe"])
def test_links_do_not_lead_out(tensors, tmp_path, what):
    outside, folder = tmp_path / "outside", tmp_path / "files"
    (folder / "style").mkdir(parents=True)
    outside.mkdir()
    save(tensors, outside / LORA_FILE)
    write_card(outside, "---\nlicense: secret\n---\n# Secret\n")
    picture(outside / "thumbnail.png")
    path = folder / "style" / LORA_FILE
    match what:
        case "file":
            path.symlink_to(outside / LORA_FILE)
        case "folder":
            (folder / "link").symlink_to(outside)
        case "card and picture":
            save(tensors, path)
            for name in ("README.md", "thumbnail.png"):
                (folder / "style" / name).symlink_to(outside / name)
        case "loop":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(folder / "pipe.safetensors")
    found = in_folder(folder)
    if what == "card and picture":
        assert (one(found).title, one(found).licence, one(found).thumbnail) == ("style", "unknown", None)
    else:
        assert found == []


def test_links_within_the_folder_are_followed(tensors, tmp_path):
    save(tensors, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "a.safetensors")
    assert [entry.id for entry in in_folder(tmp_path)] == ["folder-a", "folder-b"]


def test_names_of_any_kind_give_safe_ids_on_one_line(tensors, tmp_path):
    names = ["a\nb", "<img src=x onerror=alert(1)>", "Grün", "水墨", "x" * 200, "a b"]
    hidden, unreadable = "..", "\udcff"  # the latter is of a file system that does not write UTF-8
    for name in (*names, hidden, unreadable):
        save(tensors, tmp_path / f"{name}.safetensors")
    found = in_folder(tmp_path)
    assert len(found) == len({entry.id for entry in found}) == len(names)
    for entry in found:
        assert entry.id.isascii() and entry.id.replace("-", "").isalnum() and len(entry.id) < 80
        assert entry.title.isprintable() and entry.title
    assert {"folder-a-b", "folder-a-b-2", "folder-grun", "folder-lora"} <= {entry.id for entry in found}


def test_pictures_are_pngs_of_a_sane_size(tensors, tmp_path):
    save(tensors, tmp_path / "a.safetensors")
    (tmp_path / "a.png").write_text("<svg onload=alert(1)>")
    assert one(in_folder(tmp_path)).thumbnail is None
    picture(tmp_path / "a.preview.png")
    assert one(in_folder(tmp_path)).thumbnail == tmp_path / "a.preview.png"
    with open(tmp_path / "a.preview.png", "ab") as file:
        file.truncate(library.PICTURE_LIMIT + 1)
    assert one(in_folder(tmp_path)).thumbnail is None


def test_an_uploaded_file_is_known_by_its_token(tensors, tmp_path):
    path = save(tensors, tmp_path / "My Style.safetensors")
    picture(tmp_path / "My Style.png")
    entry = uploaded(path, TOKEN)
    assert (entry.id, entry.title, entry.origin) == (f"upload-{TOKEN}-my-style", "My Style", "uploaded")
    for token in ("short", "a/b/c/d/e", "a" * 65, "with spaces", "line\nbreak"):
        with pytest.raises(ValueError, match="token"):
            uploaded(path, token)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u2028b", "a\udcffb"], ids=ascii)
def test_an_error_is_one_line_whatever_the_file_is_called(tmp_path, name):
    path = tmp_path / f"{name}.safetensors"
    path.write_text("no LoRA at all")
    with pytest.raises(LoraError, match=r"^a \S*b\.safetensors is not") as caught:
        uploaded(path, TOKEN)
    assert str(caught.value).isprintable()


def entry(**changes):
    values = {
        "id": "x",
        "title": "X",
        "path": None,
        "family": "",
        "trigger": "",
        "bytes": 0,
        "licence": "mit",
        "thumbnail": None,
        "origin": "folder",
        "rank": 4,
        "one_step": False,
    }
    return LoraEntry(**values | changes)


def test_ids_become_distinct_and_stay_so():
    ids = [made.id for made in distinct(entry(id=name) for name in ["a", "a", "a-2", "a", "b"])]
    assert ids == ["a", "a-2", "a-2-2", "a-3", "b"]
    assert [made.id for made in distinct(entry(id=name) for name in ids)] == ids


def test_search_takes_every_word_from_any_field():
    ink = entry(id="run-ink", title="Ink Wash", trigger="sumi-e", family="sd15", licence="apache-2.0")
    pixel = entry(id="pixel", title="Pixel Art", trigger="pixel art", family="yoso-emoji", licence="mit")
    unknown = entry(id="folder-art", title="Artist's own")
    everything = [ink, pixel, unknown]
    assert search(everything, "") == search(everything, "  ", "") == everything
    assert search(everything, "ART") == [pixel, unknown]
    assert search(everything, "wash SUMI apache run- sd15") == [ink]
    assert search(everything, "ink pixel") == []
    assert search(everything, "artpixel") == []  # it would take two fields
    assert search(everything, "", "yoso-emoji") == [pixel, unknown, ink]
    assert search(everything, "", "sd2") == [unknown, ink, pixel]


def test_files_of_one_name_are_told_apart(weights, tmp_path, monkeypatch):
    Hub(monkeypatch, {"v1/style.safetensors": weights, "v2/style.safetensors": weights})
    ids = [from_hub(f"some/style@{COMMIT}/v{number}/style.safetensors", tmp_path).id for number in (1, 2)]
    assert ids[0] != ids[1]


def test_the_settings_of_peft_come_along(weights, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, {"adapter_model.safetensors": weights, "adapter_config.json": b"{}"})
    from_hub(f"some/style@{COMMIT}", tmp_path)
    assert hub.fetched == ["adapter_config.json", "adapter_model.safetensors"]


def test_what_comes_from_hubs_has_a_limit_in_all(weights, tmp_path, monkeypatch):
    Hub(monkeypatch, {"style.safetensors": weights})
    monkeypatch.setattr(library, "FOLDER_LIMIT", 1.5 * len(weights))
    (tmp_path / "before").write_bytes(b"x" * len(weights))
    with pytest.raises(LoraError, match="no room"):
        from_hub(f"some/style@{COMMIT}", tmp_path)


class Hub:
    """In place of a model hub: files by name, and what was fetched of them, laid out as the hub's cache is."""

    def __init__(self, monkeypatch, files, sizes=None):
        self.files, self.sizes, self.fetched = files, sizes or {}, []
        monkeypatch.setattr("yoso_core.hub.list_files", self.list_files)
        monkeypatch.setattr("yoso_core.hub.download", self.download)

    def list_files(self, place, revision, token):
        assert revision == COMMIT and token is False  # whose token lies on the machine is nobody else's business
        return {name: len(data) for name, data in self.files.items()} | self.sizes

    def download(self, place, revision, sizes, cache, token):
        assert token is False
        for name in sizes:
            self.fetched.append(name)
            repository = cache / f"models--{place.replace('/', '--')}"
            blob, link = repository / "blobs" / str(len(self.fetched)), repository / "snapshots" / revision / name
            for path in (blob, link):
                path.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(self.files[name])
            link.symlink_to(blob)
            yield


@pytest.fixture
def weights(tensors, tmp_path):
    return save(reading(tensors, 768), tmp_path / "weights").read_bytes()


def test_from_a_hub_once_and_then_without_a_connection(weights, tmp_path, monkeypatch):
    png = library.PNG_START + b"..."
    card = b"---\nlicense: mit\ninstance_prompt: in ink\n---\n# Ink\n"
    files = {"README.md": card, "thumbnail.png": png, "ink.safetensors": weights, "pytorch_lora_weights.bin": b"evil"}
    hub = Hub(monkeypatch, files)
    found = from_hub(f"some/Ink@{COMMIT}", tmp_path / "hub")
    assert hub.fetched == ["README.md", "thumbnail.png", "ink.safetensors"]
    assert (found.id, found.title, found.origin) == (found.id, "Ink", "hub") and re.fullmatch(
        "hub-some-ink-[0-9a-f]{16}", found.id
    )
    assert (found.licence, found.trigger, found.family) == ("mit", "in ink", "sd15")
    assert found.thumbnail.read_bytes() == png and found.path.read_bytes() == weights
    monkeypatch.setattr("yoso_core.hub.list_files", lambda *_, **__: pytest.fail("the hub was asked again"))
    named = from_hub(f"some/Ink@{COMMIT}/ink.safetensors", tmp_path / "hub")
    assert named.path == found.path and named.title == "Ink ink" and named.licence == "mit"


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        ((LORA_FILE, "kohya.safetensors"), "", LORA_FILE),
        (("a.safetensors", "b/c d (1).safetensors"), "/b/c d (1).safetensors", "b/c d (1).safetensors"),
        (("only.safetensors", ".hidden.safetensors"), "", "only.safetensors"),
    ],
    ids=["diffusers' name", "named", "the only one"],
)
def test_which_file_of_a_hub(weights, tmp_path, monkeypatch, names, asked, chosen):
    hub = Hub(monkeypatch, dict.fromkeys(names, weights))
    found = from_hub(f"some/style@{COMMIT}{asked}", tmp_path)
    assert hub.fetched == [chosen] and found.path.as_posix().endswith(f"snapshots/{COMMIT}/{chosen}")


@pytest.mark.parametrize(
    ("names", "asked", "reason"),
    [
        (("a.safetensors", "b.safetensors"), "", "2 safetensors files"),
        (("a.safetensors",), "/b.safetensors", "has no b.safetensors"),
        (("pytorch_lora_weights.bin", "model.ckpt"), "", "no safetensors"),
        (("../../x.safetensors",), "", "no safetensors"),
    ],
    ids=["several", "another name", "pickles", "tricks of a hub"],
)
def test_nothing_to_take_from_a_hub(tmp_path, monkeypatch, names, asked, reason):
    hub = Hub(monkeypatch, dict.fromkeys(names, b"x"))
    with pytest.raises(LoraError, match=reason):
        from_hub(f"some/style@{COMMIT}{asked}", tmp_path)
    assert hub.fetched == []


def test_too_large_for_a_lora_is_not_fetched(weights, tmp_path, monkeypatch):
    sizes = {"README.md": 2_000_000, "thumbnail.png": 2_000_000_000}
    hub = Hub(monkeypatch, {"a.safetensors": weights}, sizes | {"a.safetensors": 7_000_000_000})
    with pytest.raises(LoraError, match=r"7\.0 GB"):
        from_hub(f"some/style@{COMMIT}", tmp_path)
    assert hub.fetched == []
    hub.sizes = sizes
    assert from_hub(f"some/style@{COMMIT}", tmp_path).licence == "unknown"
    assert hub.fetched == ["a.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "some/style",
        "some/style@main",
        f"some/style@{COMMIT[:-1]}",
        f"some/style@{COMMIT}0",
        f"../style@{COMMIT}",
        f"some/..@{COMMIT}",
        f"a/b/c@{COMMIT}",
        f"some/style@{COMMIT}/",
        f"some/style@{COMMIT}/../../../etc/passwd",
        f"some/style@{COMMIT}/a/../../b.safetensors",
        f"some/style@{COMMIT}//b.safetensors",
        f"some/style@{COMMIT}/..\\b.safetensors",
        f"some/style@{COMMIT}/weights.bin",
        f"some/style@{COMMIT}/a\n.safetensors",
        "x" * 100_000,
    ],
    ids=lambda name: name[:70],
)
def test_names_that_no_hub_is_asked_for(tmp_path, monkeypatch, name):
    monkeypatch.setattr("yoso_core.hub.list_files", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(LoraError, match="40 hex digits") as caught:
        from_hub(name, tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("error", [HubError("it does not answer"), OSError("disk full")])
def test_a_hub_out_of_reach_is_one_sentence(tmp_path, monkeypatch, error):
    def fail(place, revision, token):
        raise error

    monkeypatch.setattr("yoso_core.hub.list_files", fail)
    with pytest.raises(LoraError, match="can't be had from the hub") as caught:
        from_hub(f"some/style@{COMMIT}", tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_name_the_hub_itself_refuses_is_one_sentence(tmp_path):
    with pytest.raises(LoraError, match="can't be had"):
        from_hub(f"some/sty--le..x@{COMMIT}", tmp_path)


def test_a_cache_whose_links_lead_out_is_not_followed(weights, tmp_path):
    """Laid out by hand: no hub is needed for what is there, and what is outside stays there."""
    snapshot = tmp_path / "hub" / "models--some--style" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / LORA_FILE).write_bytes(weights)
    assert from_hub(f"some/style@{COMMIT}", tmp_path / "hub").rank == LORA_RANK
    (tmp_path / "outside").write_bytes(weights)
    (snapshot / LORA_FILE).unlink()
    (snapshot / LORA_FILE).symlink_to(tmp_path / "outside")
    with pytest.raises(LoraError, match="not a file of its folder"):
        from_hub(f"some/style@{COMMIT}", tmp_path / "hub")
