"""The container's files, without a container: what they name exists, and the shell in them does what it says."""

import json
import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.test_constraints import ENTRY

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OF_CUDA = ("torch", "triton", "nvidia-", "cuda-")


def instructions() -> list[tuple[str, str]]:
    """Name and words of each, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, words) for name, words in lines]


def named(name: str) -> list[str]:
    return [words for each, words in instructions() if each == name]


def is_ignored(path: str) -> bool:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parents = [Path(path), *Path(path).parents]
    anywhere = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    return any(str(one) in patterns or any(fnmatch(one.name, each) for each in anywhere) for one in parents)


def test_what_is_copied_is_there():
    *some, everything = named("COPY")
    assert everything == ". ." and all((ROOT / name).is_file() for words in some for name in words.split()[:-1])


@pytest.mark.parametrize("command", named("RUN"), ids=lambda command: command[:30])
def test_the_shell_reads_every_command(command):
    assert subprocess.run(["sh", "-n", "-c", command], capture_output=True).stderr == b""


def test_without_cuda_everything_else_is_installed_by_hash():
    program = re.search(r"awk ('[^']+')", named("RUN")[0])[1]
    command = ["awk", *shlex.split(program), str(ROOT / "constraints.txt")]
    left = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ENTRY.sub("", left).strip() == ""
    before = {match["asked"] for match in ENTRY.finditer((ROOT / "constraints.txt").read_text())}
    after = {match["asked"] for match in ENTRY.finditer(left)}
    assert after < before and all(asked.startswith(OF_CUDA) for asked in before - after)
    assert not [asked for asked in after if asked.startswith(OF_CUDA)]
    chosen = re.search(r"grep -E '([^']+)'", named("RUN")[0])[1]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if re.search(chosen, line)]
    assert [line.split("==")[0] for line in lines] == ["torch", "torchvision"]


def test_the_studio_runs_as_nobody_special_in_one_volume():
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT") and named("USER") == ["studio"]
    assert named("VOLUME") == ["/data"]
    assert all(place.startswith("/data/") for place in re.findall(r"--\w+ (\S+)", " ".join(entry()[2:])))


def entry() -> list[str]:
    return json.loads(named("ENTRYPOINT")[0])


def test_the_entry_is_a_command_of_the_studio():
    source = (ROOT / "app.py").read_text()
    assert entry()[:2] == ["python", "app.py"]
    assert all(f'"{flag}"' in source for flag in entry() if flag.startswith("--"))


def test_the_check_of_health_is_python():
    _, command = named("HEALTHCHECK")[0].split("CMD ")
    python, flag, program = json.loads(command)
    assert (python, flag) == ("python", "-c")
    compile(program, "HEALTHCHECK", "exec")


def test_what_people_made_and_what_is_not_needed_stays_out():
    listed = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")]
    kept_out = [*listed, "data", "runs", ".git", ".venv", "tests", "app/__pycache__", "docker-compose.yml"]
    assert [name for name in kept_out if not is_ignored(name)] == []
    needed = [*(ROOT / "app").rglob("*.*"), *(ROOT / "yoso_core").rglob("*.py"), *(ROOT / "train").rglob("*.py")]
    needed += [ROOT / "app.py", ROOT / "constraints.txt", *(ROOT / "models/yoso-emoji").rglob("*.safetensors")]
    needed = [str(path.relative_to(ROOT)) for path in needed if "__pycache__" not in path.parts]
    assert [name for name in needed if is_ignored(name)] == []


def test_both_services_are_closed_to_other_machines_and_to_the_image():
    cpu, gpu = COMPOSE["services"]["cpu"], COMPOSE["services"]["gpu"]
    for service in (cpu, gpu):
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ports"] == ["127.0.0.1:${PORT:-7860}:7860"] and service["volumes"] == ["data:/data"]
        source = (ROOT / "app.py").read_text()
        assert all(f'"{name}"' in source for name in service["environment"])
    assert "profiles" not in cpu and gpu["build"]["args"] == {"DEVICE": "cuda"}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
