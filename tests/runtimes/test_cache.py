"""A folder of the cache is whole or counts as absent."""

import threading

import pytest

from yoso_core.runtimes.cache import cache_folder, check, put, scratch


def fill(folder, text):
    files = scratch(folder)
    (files / "a").write_text(text)
    put(files, folder)
    return files


def test_what_is_put_is_whole_and_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "new" / "one"
    files = fill(folder, "x")
    check(folder)
    assert (folder / "a").read_text() == "x"
    assert not files.exists() and [path.name for path in folder.parent.iterdir()] == ["one"]


def test_what_is_whole_stays_and_what_is_broken_is_replaced(tmp_path):
    folder = tmp_path / "one"
    fill(folder, "x")
    fill(folder, "y")
    assert (folder / "a").read_text() == "x"
    (folder / "a").write_text("harmed")
    with pytest.raises(OSError, match="changed"):
        check(folder)
    fill(folder, "y")
    check(folder)
    assert (folder / "a").read_text() == "y"


def test_who_reads_while_others_put_the_same_finds_it_whole(tmp_path):
    folder, problems = tmp_path / "one", []

    def work(puts: bool) -> None:
        for _ in range(40):
            if puts:
                fill(folder, "x")
            elif folder.exists():
                try:
                    check(folder)
                except OSError as error:
                    problems.append(error)

    threads = [threading.Thread(target=work, args=(number < 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and [path.name for path in tmp_path.iterdir()] == ["one"]


def test_where_it_is_can_be_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("YOSO_CACHE", raising=False)
    assert cache_folder() == tmp_path / "yoso-studio"
    monkeypatch.setenv("YOSO_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
