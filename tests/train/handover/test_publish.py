"""What leaves a run's folder: which files, in what, and that nothing says more than it should."""

import json
import os
import threading
import zipfile
from types import SimpleNamespace

import pytest

from train.handover import publish
from train.handover.export import KOHYA_FILE
from train.handover.publish import login, pack, push
from train.loop.config import ConfigError
from yoso_core.cached import LORA_FILE

TOKEN = "hf_abcdefghijklmnop"
LORA = ["README.md", KOHYA_FILE, "preview-last.png", LORA_FILE, "thumbnail.png"]
PIPELINE = ["model_index.json", "text_encoder/config.json", "tokenizer/merges.txt", "unet/config.json"]
PIPELINE += ["unet/diffusion_pytorch_model-00001-of-00002.safetensors", "vae/config.json", "yoso_config.json"]


def handed_over(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith(".json") else f"{name} " * 100)
    return folder


@pytest.fixture
def output(tmp_path):
    """Of a LoRA, with what does not belong to it around."""
    folder = handed_over(tmp_path / "run" / "output", LORA)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (folder / "link.txt").symlink_to(secret)
    strange = [".kohya.safetensors.partial", ".hidden.json", "notes.md", "run.sh", "checkpoint.pt", "a b.png"]
    handed_over(folder, [*strange, ".unet.partial/config.json", "data/cat.png", "unet/run.py"])
    return folder


def test_a_zip_holds_what_was_handed_over_and_no_more(output, tmp_path):
    out = pack(output, tmp_path / "new" / "my-style.zip")
    assert out == tmp_path / "new" / "my-style.zip"
    with zipfile.ZipFile(out) as packed:
        assert packed.testzip() is None and packed.namelist() == sorted(LORA)
        assert all(packed.read(name) == (output / name).read_bytes() for name in LORA)
        stored = {one.filename for one in packed.infolist() if one.compress_type == zipfile.ZIP_STORED}
    assert stored == set(LORA) - {"README.md"}
    assert [path.name for path in out.parent.iterdir()] == ["my-style.zip"]
    assert sorted(path.name for path in output.parent.iterdir()) == ["output"]


def test_a_pipeline_keeps_its_folders(tmp_path):
    output = handed_over(tmp_path / "run" / "output", PIPELINE)
    with zipfile.ZipFile(pack(output, tmp_path / "a.zip")) as packed:
        assert packed.namelist() == sorted(PIPELINE)


def test_folders_of_whoever_trained_stay_at_home(tmp_path):
    output = handed_over(tmp_path / "run" / "output", PIPELINE)
    said = {"_name_or_path": "/home/me/models/base", "pad_token": "/", "act_fn": "silu", "sizes": [1, 2]}
    (output / "unet" / "config.json").write_text(json.dumps(said))
    with zipfile.ZipFile(pack(output, tmp_path / "a.zip")) as packed:
        assert json.loads(packed.read("unet/config.json")) == {"pad_token": "/", "act_fn": "silu", "sizes": [1, 2]}
    assert "/home/me" in (output / "unet" / "config.json").read_text()


def test_a_zip_is_whole_or_not_there(output, tmp_path, monkeypatch):
    out = pack(output, tmp_path / "out" / "a.zip")
    before = out.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(ConfigError, match=r"a\.zip can't be packed \(No space left on device\)"):
        pack(output, out)
    assert out.read_bytes() == before and [path.name for path in out.parent.iterdir()] == ["a.zip"]
    assert sorted(path.name for path in output.parent.iterdir()) == ["output"]


def test_whoever_may_enter_the_folder_may_read_the_zip(output, tmp_path):
    for mode in (0o750, 0o755):
        (tmp_path / str(mode)).mkdir()
        (tmp_path / str(mode)).chmod(mode)
        assert pack(output, tmp_path / str(mode) / "a.zip").stat().st_mode & 0o777 == mode & 0o666


def test_a_run_that_trains_on_replaces_nothing_that_is_under_way(output, tmp_path, monkeypatch):
    write = zipfile.ZipFile.write

    def train_on(packed, path, name, kind):
        for each in LORA:
            (output / ".new").write_text("of the next checkpoint")
            os.replace(output / ".new", output / each)
        write(packed, path, name, kind)

    before = {name: (output / name).read_bytes() for name in LORA}
    monkeypatch.setattr(zipfile.ZipFile, "write", train_on)
    with zipfile.ZipFile(pack(output, tmp_path / "a.zip")) as packed:
        assert {name: packed.read(name) for name in LORA} == before


def test_without_links_files_are_copied(output, tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    with zipfile.ZipFile(pack(output, tmp_path / "a.zip")) as packed:
        assert packed.namelist() == sorted(LORA)


@pytest.mark.parametrize("names", [None, [], ["README.md", "preview-last.png"], [".kohya.safetensors.partial"]])
def test_before_the_first_checkpoint_there_is_nothing(tmp_path, monkeypatch, names):
    output = tmp_path / "run" / "output"
    if names is not None:
        output.mkdir(parents=True)
        handed_over(output, names)
    Hub(monkeypatch)
    for send in (lambda: pack(output, tmp_path / "a.zip"), lambda: push(output, "me/style", TOKEN)):
        with pytest.raises(ConfigError, match="first checkpoint"):
            send()
    assert not (tmp_path / "a.zip").exists()


class Hub:
    """In place of the hub: what it was asked for, and the files it was given."""

    def __init__(self, monkeypatch, public=(), error=None):
        self.asked, self.files, self.public, self.error = [], {}, set(public), error
        monkeypatch.setattr("huggingface_hub.HfApi", self.known)

    def known(self, token):
        assert token == TOKEN  # never that of the machine
        return self

    def create_repo(self, repository, private, exist_ok):
        assert exist_ok
        if self.error:
            raise self.error
        self.asked.append((repository, private))
        return Address(f"https://hub/{repository if '/' in repository else f'me/{repository}'}")

    def model_info(self, repository):
        return SimpleNamespace(private=repository not in self.public)

    def upload_folder(self, repo_id, folder_path, commit_message):
        files = [path for path in folder_path.rglob("*") if path.is_file()]
        self.files[repo_id] = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files}


class Address(str):
    @property
    def repo_id(self):
        return self.removeprefix("https://hub/")


@pytest.mark.parametrize("repository", ["me/my-style", "my_style.v2"])
@pytest.mark.parametrize("private", [True, False])
def test_a_repository_gets_what_was_handed_over_and_no_more(output, monkeypatch, repository, private):
    hub = Hub(monkeypatch)
    address = push(output, repository, TOKEN, private)
    name = repository if "/" in repository else f"me/{repository}"
    assert address == f"https://hub/{name}" and type(address) is str and hub.asked == [(repository, private)]
    assert hub.files == {name: {each: (output / each).read_bytes() for each in LORA}}
    assert sorted(path.name for path in output.parent.iterdir()) == ["output"]


def test_private_is_not_uploaded_to_what_all_can_see(output, monkeypatch):
    hub = Hub(monkeypatch, public=["me/style"])
    with pytest.raises(ConfigError, match="me/style is public already"):
        push(output, "style", TOKEN)
    assert hub.files == {}
    push(output, "style", TOKEN, private=False)
    assert list(hub.files) == ["me/style"]


@pytest.mark.parametrize(
    "repository",
    [
        "",
        "/",
        "me/",
        "/style",
        "a/b/c",
        "../style",
        "me/..",
        "me/.hidden",
        "me/a..b",
        "me/a--b",
        "me/style.git",
        "me/my style",
        "me/style\n",
        "me/stil\u00e9",
        "https://huggingface.co/me/style",
        "~/style",
        "C:\\style",
        "a" * 97,
    ],
    ids=ascii,
)
def test_what_names_no_repository_is_never_asked_for(output, monkeypatch, repository):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: pytest.fail("the hub was asked"))
    with pytest.raises(ConfigError, match="OWNER/NAME") as caught:
        push(output, repository, TOKEN)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("token", ["", "two\nlines", "hf_\u00e9"], ids=ascii)
def test_without_a_login_nothing_is_uploaded_in_the_name_of_the_machine(output, monkeypatch, token):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: pytest.fail("the hub was asked"))
    with pytest.raises(ConfigError, match="hf auth login") as caught:
        push(output, "me/style", token)
    assert not token or token not in str(caught.value)


class Refusal(OSError):
    """As the hub's client raises them."""

    def __init__(self, status):
        super().__init__(f"{status} Client Error for url with {TOKEN}\n\nRequest ID: 1")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refusal(401), "log in again"),
        (Refusal(403), "right to write"),
        (Refusal(404), "no such owner"),
        (Refusal(429), "try again later"),
        (Refusal(500), "500 Client Error"),
        (ConnectionError(f"no route\nwith {TOKEN}"), "check the connection"),
        (FileNotFoundError(2, "No such file or directory", "/home/me/run/output"), "No such file or directory;"),
        (ValueError("word " * 1000), "check the connection"),
        (RuntimeError(f"{'x' * 140} {TOKEN} {TOKEN}"), "check the connection"),
        (RuntimeError("x" * 1000), "check the connection"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_hub_refuses_is_one_sentence_without_the_token(output, monkeypatch, error, reason):
    hub = Hub(monkeypatch, error=error)
    with pytest.raises(ConfigError, match=reason) as caught:
        push(output, "me/style", TOKEN)
    told = str(caught.value)
    assert told.startswith("me/style can't be published: ") and told.isprintable() and len(told) < 300
    assert not any(part in told for part in (TOKEN, TOKEN[:8], "/home/me", "wor "))
    assert caught.value.__suppress_context__ and hub.files == {}
    assert sorted(path.name for path in output.parent.iterdir()) == ["output"]


def test_who_is_logged_in(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: SimpleNamespace(whoami=lambda: {"name": "me"}))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    assert login() == ("me", TOKEN)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert login() is None


def test_no_connection_is_nobody_and_takes_no_time(monkeypatch):
    def refuse():
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: SimpleNamespace(whoami=refuse))
    assert login() is None
    answer = threading.Event()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: SimpleNamespace(whoami=answer.wait))
    monkeypatch.setattr(publish, "LOGIN_TIMEOUT", 0.05)
    assert login() is None
    answer.set()
