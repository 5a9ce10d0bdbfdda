"""What a run handed over, for elsewhere: one file to take along, or a repository on the hub.

A run may be training while this reads, so the files are linked aside before anything takes time.
"""

import json
import os
import re
import shutil
import tempfile
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import huggingface_hub as hub

from train.loop.config import ConfigError
from yoso_core.lora.reading import one_line

FOLDERS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")  # of a pipeline as diffusers lays it out
NAME = re.compile(r"README\.md|\w[\w.-]*\.(?:safetensors|json|png|txt)", re.ASCII)
FOLDER = re.compile(r"~?/[^/]+/|[A-Za-z]:\\")  # how the place of a file on a disk begins
PACKED_ALREADY = (".safetensors", ".png")
REPOSITORY = re.compile(r"(?:{0}/)?{0}".format(r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"))
REPOSITORY_LIMIT = 96  # characters, as the hub has it
REASON_LIMIT = 160
LOGIN_TIMEOUT = 5.0  # seconds
REFUSALS = {  # by the status of the hub's answer
    401: "the hub does not know this token; log in again with `hf auth login`",
    403: "this token may not write there; take one with the right to write, or a repository of your own",
    404: "there is no such owner, or this token may not see it; check the name",
    429: "the hub has had too many requests; try again later",
}


def pack(output: Path, out: Path) -> Path:
    """Write what a run handed over into one zip, in the order of the names; weights are stored as they are.

    Args:
        output: the run's ``output`` folder.
        out: the file to write; it appears whole or not at all.

    Raises:
        ConfigError: nothing has been handed over yet, or a file can't be read or written.
    """
    output, out, partial = Path(output), Path(out), None
    try:
        with _held(output) as held:
            out.parent.mkdir(parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(".partial", f".{out.name}.", out.parent)
            with open(descriptor, "wb") as file, zipfile.ZipFile(file, "w", strict_timestamps=False) as packed:
                for name in _known(held):
                    stored = name.endswith(PACKED_ALREADY)
                    packed.write(held / name, name, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
        os.chmod(partial, out.parent.stat().st_mode & 0o666)  # tempfile makes files that nobody else can read
        os.replace(partial, out)
    except OSError as error:
        raise ConfigError(f"{out.name} can't be packed ({error.strerror or error!s:.80}); try again") from None
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
    return out


def push(output: Path, repository: str, token: str, private: bool = True) -> str:
    """Upload what a run handed over to a repository on the hub, which is made if it is not there.

    Args:
        output: the run's ``output`` folder.
        repository: OWNER/NAME, or NAME for the token's own.
        token: of who publishes, with the right to write.
        private: whether only its owner sees it; one that is there already stays as it is.

    Returns:
        Its address.

    Raises:
        ConfigError: no name of a repository, no login, no right, no connection, nothing handed over yet, or a private
            repository was asked for and a public one is there.
    """
    token, plain = token.strip(), REPOSITORY.fullmatch(repository) and len(repository) <= REPOSITORY_LIMIT
    if not plain or repository.endswith(".git"):
        raise ConfigError(
            f"{repository!r:.60} is no name of a repository; write OWNER/NAME, of letters, digits and single - _ ."
        )
    if not (token and token.isascii() and token.isprintable()):  # without one the hub would take who is logged in here
        raise ConfigError("nobody is logged in to the hub; log in with `hf auth login`, or give a token")
    try:
        with _held(Path(output)) as held:
            api = hub.HfApi(token=token)
            made = api.create_repo(repository, private=private, exist_ok=True)
            if private and api.model_info(made.repo_id).private is False:
                raise ConfigError(f"{made.repo_id} is public already; choose another name, or publish it publicly")
            api.upload_folder(repo_id=made.repo_id, folder_path=held, commit_message="Trained with YOSO Studio")
            return str(made)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # the hub, its connection and the disk raise a dozen unrelated types
        raise ConfigError(f"{repository} can't be published: {_reason(error, token)}") from None


def login() -> tuple[str, str] | None:
    """Name and token of who is logged in to the hub on this machine; None for nobody, or without a connection."""
    found: list[tuple[str, str]] = []

    def ask() -> None:
        with suppress(Exception):  # the hub and its connection raise a dozen unrelated types
            if token := hub.get_token():
                found.append((hub.HfApi(token=token).whoami()["name"], token))

    asking = threading.Thread(target=ask, daemon=True)  # the hub's own client waits without end
    asking.start()
    asking.join(LOGIN_TIMEOUT)
    return found[0] if found else None


def _known(folder: Path) -> list[str]:
    """The files that a run hands over, as far as they are there; nothing hidden, partial or linked from elsewhere."""
    found = []
    for inner in ("", *FOLDERS):
        place = folder / inner
        if not place.is_dir() or (inner and place.is_symlink()):
            continue
        files = [path for path in place.iterdir() if NAME.fullmatch(path.name)]
        found += [path.relative_to(folder).as_posix() for path in files if path.is_file() and not path.is_symlink()]
    return sorted(found)


@contextmanager
def _held(output: Path) -> Iterator[Path]:
    """A folder with the files as they are now, gone afterwards.

    Raises:
        ConfigError: there are no weights yet.
        OSError: a file can't be read.
    """
    names = _known(output)
    if not any(name.endswith(".safetensors") for name in names):
        raise ConfigError("this run has handed over nothing yet; wait for its first checkpoint")
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=output.parent) as made:  # beside it, so that links do
        held = Path(made)
        for name in names:
            (held / name).parent.mkdir(exist_ok=True)
            if (shown := _without_paths(output / name)) is not None:
                (held / name).write_text(shown, encoding="utf-8")
                continue
            try:
                (held / name).hardlink_to(output / name)
            except OSError:  # a disk without links
                shutil.copyfile(output / name, held / name)
        yield held


def _without_paths(path: Path) -> str | None:
    """A JSON object without the folders of who trained, where diffusers wrote such into it; None to take it as is."""
    if path.suffix != ".json":
        return None
    with suppress(ValueError, AttributeError, RecursionError):
        values = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in values.items() if not (isinstance(value, str) and FOLDER.match(value))}
        if len(kept) < len(values):
            return json.dumps(kept, indent=2) + "\n"
    return None


def _reason(error: Exception, token: str) -> str:
    """Why the hub refused, in words without the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in REFUSALS:
        return REFUSALS[status]
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)  # the former without paths
    told = one_line(f"{type(error).__name__}: {told}".replace(token, "TOKEN"))
    advice = "check the connection and try again" if status is None else "try again later"
    return f"{textwrap.shorten(told, REASON_LIMIT, placeholder=' ...')}; {advice}"
