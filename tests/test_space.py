"""The repository as a Hugging Face Space: what the platform reads of it, and what the studio offers there."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from app import space
from app.settings import examples_of, is_proposed
from app.train_mode import usual_mode
from yoso_core import cached
from yoso_core.checkpoints import ModelError
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, EditRequest, GenerateRequest, LoraUse

ROOT = Path(__file__).resolve().parent.parent
HEAD = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
# Of the platform's reference, but for what is for other kinds of Spaces.
KEYS = set(
    "title emoji colorFrom colorTo sdk python_version sdk_version suggested_hardware app_file fullWidth header "
    "short_description models datasets tags license thumbnail pinned hf_oauth hf_oauth_scopes "
    "hf_oauth_expiration_minutes disable_embedding startup_duration_timeout custom_headers preload_from_hub".split()
)
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
BROUGHT = {"gradio", "gradio-client", "spaces", "huggingface-hub", "hf-gradio", "uvicorn", "websockets"}
TORCH_THERE = Version("2.8.0"), Version("2.11.0")  # of ZeroGPU, both included
GIT_LIMIT = 10_000_000  # bytes of a file that is no LFS pointer


def asked_in(name: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {one.name: one for one in (Requirement(line) for line in lines if line)}


def test_the_head_is_what_the_platform_accepts():
    assert HEAD.keys() <= KEYS
    assert HEAD["sdk"] == "gradio" and (ROOT / HEAD["app_file"]).is_file()
    assert {HEAD["colorFrom"], HEAD["colorTo"]} <= COLOURS
    assert len(HEAD["short_description"]) <= 60
    assert len(HEAD["emoji"]) == 1 and not HEAD["emoji"].isascii()
    assert re.fullmatch(r"3\.12\.\d+", HEAD["python_version"])  # 3.10 where none is named
    assert re.fullmatch(r"\d+(m|h)", HEAD["startup_duration_timeout"])
    assert (ROOT / HEAD["thumbnail"]).is_file()


def test_the_platforms_own_packages_are_pinned_by_the_head_alone():
    page = asked_in("requirements-page.txt")
    assert not asked_in("requirements.txt").keys() & BROUGHT and page.keys() <= BROUGHT | {"huggingface_hub"}
    assert str(page["gradio"].specifier) == f"=={HEAD['sdk_version']}"
    torch = Version(str(asked_in("requirements.txt")["torch"].specifier).removeprefix("=="))
    assert TORCH_THERE[0] <= torch <= TORCH_THERE[1]
    assert "openvino" in asked_in("requirements.txt")  # what a Space without a GPU draws with


def test_everything_can_be_pushed_without_lfs():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy has no history")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert [path for path in files if path.is_file() and path.stat().st_size >= GIT_LIMIT] == []


def test_what_is_offered_from_the_start_is_preloaded():
    """And in the files that a model is loaded from, and nothing else."""
    preloaded = {}
    for line in HEAD["preload_from_hub"]:
        place, files, revision = line.split()
        preloaded[place, revision] = files.split(",")
    specs = [MODELS[name] for name in (*space.WITH_GPU, *space.WITHOUT)]
    sources = [(one, spec.variant) for spec in specs for one in (spec.source,)]
    sources += [(spec.tiny_decoder, None) for spec in specs if spec.tiny_decoder is not None]
    wanted = {(one.place, one.revision): variant for one, variant in sources if not one.is_folder}
    assert preloaded.keys() == wanted.keys()
    assert set(HEAD["models"]) == {place for place, _ in wanted}
    for source, files in preloaded.items():
        assert sorted(files) == cached.select(files, wanted[source])
        folders = {name.rpartition("/")[0] for name in files}
        assert all(f"{folder}/config.json".lstrip("/") in files for folder in folders & (cached.NETWORKS - {""}))


def test_whoever_comes_finds_a_model_in_any_case(monkeypatch):
    told = []

    def fetch(spec, report):
        if not spec.source.is_folder:
            raise ModelError("the hub does not answer")

    assert set(space.WITH_GPU) <= MODELS.keys() and set(space.WITHOUT) <= MODELS.keys()
    monkeypatch.setattr(space, "fetch_model", fetch)
    assert list(space.offered(MODELS, gpu=True, report=told.append)) == [DEFAULT_MODEL]
    assert told == [f"Without {MODELS['sd-turbo'].title}: the hub does not answer"]
    monkeypatch.setattr(space, "fetch_model", lambda spec, report: None)
    assert list(space.offered(MODELS, gpu=True)) == list(space.WITH_GPU)
    assert list(space.offered(MODELS, gpu=False)) == list(space.WITHOUT)


def test_a_space_is_known_by_what_the_platform_sets(monkeypatch):
    for name in ("SPACE_ID", "SPACES_ZERO_GPU"):
        monkeypatch.delenv(name, raising=False)
    assert space.name() == "" and not space.lends_gpu() and usual_mode("127.0.0.1", False) == "local"
    monkeypatch.setenv("SPACE_ID", "somebody/studio")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert space.name() == "somebody/studio" and space.lends_gpu() and usual_mode("0.0.0.0", False) == "off"


def test_the_page_proposes_its_examples_and_nothing_else(tiny_spec):
    spec = replace(tiny_spec, resolution=64)
    example, style = examples_of(spec)[0], next(iter(spec.styles))
    plain = spec.offer.settle(spec.title, GenerateRequest(example))
    assert is_proposed(plain, spec) and is_proposed(replace(plain, size=64), spec)
    assert is_proposed(replace(plain, prompt=f"{example}, {style}"), spec)
    changed = [
        {"seed": 1},
        {"prompt": "a prompt of somebody"},
        {"prompt": ""},
        {"prompt": style},
        {"size": 96},
        {"count": 2},
        {"loras": (LoraUse("waves"),)},
        {"one_step": 0.5},
    ]
    assert [change for change in changed if is_proposed(replace(plain, **change), spec)] == []


def test_no_edit_is_proposed(tiny_spec):
    from PIL import Image

    edit = EditRequest(examples_of(tiny_spec)[0], picture=Image.new("RGB", (64, 64)))
    assert not is_proposed(edit, tiny_spec)
