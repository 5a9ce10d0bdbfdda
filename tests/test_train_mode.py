"""Who may train what, by where the studio stands; whose runs are whose, without keeping what tells it."""

import hashlib
import re

import pytest

from app.train_mode import MODES, owner_of, usual_mode
from train.data.datasets import OWN
from train.runs.presets import PRESETS

TOKEN = "a-token-of-a-browser"


@pytest.mark.parametrize(
    ("host", "share", "mode"),
    [
        ("127.0.0.1", False, "local"),
        ("localhost", False, "local"),
        ("::1", False, "local"),
        ("127.0.0.1", True, "private"),
        ("0.0.0.0", False, "private"),
        ("::", False, "private"),
        ("", False, "private"),
        ("192.168.0.7", True, "private"),
    ],
)
def test_the_mode_follows_the_address(monkeypatch, host, share, mode):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert usual_mode(host, share) == mode
    monkeypatch.setenv("SPACE_ID", "somebody/studio")
    assert usual_mode(host, share) == "off"


def test_only_ones_own_machine_shows_all_to_everybody():
    assert [name for name, mode in MODES.items() if not mode.private] == ["local"]
    assert not MODES["off"].presets and MODES["off"].runs == 0


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_modes_offer_what_there_is(mode):
    assert set(mode.presets) <= PRESETS.keys()
    if mode.presets:
        assert mode.runs > 0 and mode.steps > 0 and mode.bytes >= mode.limits.total_bytes
        assert 0 < mode.limits.file_bytes <= mode.limits.total_bytes and mode.limits.pictures > 0
    assert mode.limits == OWN or mode.private


def test_where_all_runs_are_one_persons_nobody_owns_them():
    assert owner_of(TOKEN, MODES["local"]) == ""


@pytest.mark.parametrize("name", ["private", "tiny", "off"])
def test_owners_are_told_apart_by_what_is_no_token(name):
    mode = MODES[name]
    owners = {owner_of(token, mode) for token in (TOKEN, TOKEN + " ", TOKEN[:-1], TOKEN.upper(), "ü", "x" * 10_000)}
    assert len(owners) == 6 and owner_of(TOKEN, mode) == owner_of(TOKEN, MODES["private"])
    assert all(re.fullmatch("[0-9a-f]{32}", owner) for owner in owners)
    assert hashlib.sha256(TOKEN.encode()).hexdigest() != owner_of(TOKEN, mode) != TOKEN
    assert owner_of("", mode) == ""
