"""Many files at once: what is read, what is told, what is written."""

import stat
import zipfile
from contextlib import contextmanager

import pytest
from PIL import Image

from tests.handed import colour, encrypted, lying, picture, special, stored, zipped
from yoso_core import batch
from yoso_core.batch import Done, Limits, Names, gathered, into_folder, into_zip, run_files
from yoso_core.engine import PictureError, Result
from yoso_core.files.archives import open_zip
from yoso_core.files.metadata import read_request
from yoso_core.requests import EditRequest, RequestError


def ask(given: Image.Image) -> EditRequest:
    return EditRequest("a", picture=given)


def echo(request: EditRequest) -> Result:
    return Result(request, [request.picture], [request.seed], 1, {"total": 0.1}, notes=("echoed",))


def write(folder, files: dict[str, bytes]) -> list:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def run(paths, limits=None, into=lambda done: done):
    """What came of every file, by name: its problem, or the first pixel of its picture."""
    with gathered(paths, limits) as (files, left):
        done = [*left, *into(run_files(echo, ask, files, limits))]
    return {one.name: one.problem or one.result.pictures[0].getpixel((0, 0)) for one in done}


def test_files_and_zips_are_read_and_one_that_is_not_stops_nothing(tmp_path):
    archive = zipped({"in/a.png": colour(5), "__MACOSX/in/._a.png": b"x", "in/.DS_Store": b"x", "in/b.txt": b"x"})
    paths = write(tmp_path, {"one.png": colour(1), "bad.png": b"no picture", "two.jpg": colour(2), "many.zip": archive})
    found = run([*paths, tmp_path / "gone.png"])
    assert found.pop("one.png") == (1, 0, 7) and found.pop("two.jpg") == (2, 0, 7)
    assert found.pop("many.zip/in/a.png") == (5, 0, 7)
    assert "This is no PNG" in found.pop("bad.png") and "This is no PNG" in found.pop("many.zip/in/b.txt")
    assert found == {"gone.png": "There is no such file."}


def test_what_was_done_to_a_file_is_told(tmp_path):
    (path,) = write(tmp_path, {"grey.png": stored(Image.new("L", (4, 4)))})
    with gathered([path]) as (files, _):
        (done,) = run_files(echo, ask, files)
    assert done.result.notes == ("grey: converted", "echoed")


def test_number_and_size_are_bounded(tmp_path):
    noise = stored(Image.effect_noise((64, 64), 90))
    small = [colour(index) for index in range(4)]
    paths = write(tmp_path, {"large.png": noise, **{f"{index}.png": each for index, each in enumerate(small)}})
    found = run(paths, Limits(files=2, file_bytes=1000, total_bytes=10_000))
    assert "too large: at most 1 kB" in found["large.png"] and isinstance(found["0.png"], tuple)
    assert len(found) == 3 and found["3 more files"] == "At most 2 files are taken at once."
    found = run(paths[1:], Limits(files=9, file_bytes=1000, total_bytes=2 * len(small[0]) + 5))
    assert [isinstance(value, str) for value in found.values()].count(True) == 2


def test_zips_are_not_believed(tmp_path):
    """A size that is a lie, a password, an unusual packing, a link, a table of contents of megabytes, no zip at all."""
    good = zipped({"a.png": colour(1)})
    files = {
        "lie.zip": lying(zipped({"a.png": colour(1) + bytes(3_000_000)}, compression=zipfile.ZIP_DEFLATED), 100),
        "locked.zip": encrypted(good),
        "odd.zip": zipped({"a.png": colour(1)}, compression=zipfile.ZIP_LZMA),
        "linked.zip": zipped([(special("a.png", stat.S_IFLNK | 0o777), b"/etc/passwd"), ("b.png", colour(3))]),
        "none.zip": b"PK no zip",
        "wide.zip": zipped({f"{index}/{'n' * 200}": b"" for index in range(6000)}),
    }
    found = run(write(tmp_path, files), Limits(files=10, file_bytes=1_000_000))
    assert found.pop("linked.zip/b.png") == (3, 0, 7) and all(isinstance(told, str) for told in found.values())
    assert "damaged" in found["lie.zip/a.png"] and "link" in found["linked.zip/a.png"]
    assert "password" in found["locked.zip/a.png"] and "unusual" in found["odd.zip/a.png"]
    assert "no zip that can be read" in found["none.zip"] and "too many files" in found["wide.zip"]


def test_a_zip_is_taken_as_far_as_there_is_room(tmp_path):
    archive = zipped({f"{index}.png": colour(index) for index in range(4)})
    found = run(write(tmp_path, {"a.zip": archive}), Limits(files=3))
    assert len(found) == 4
    assert found["a.zip"] == "1 more picture in it was left out: at most 3 are taken at once."
    assert [found[f"a.zip/{index}.png"] for index in range(3)] == [(index, 0, 7) for index in range(3)]


@pytest.fixture
def zips_open(monkeypatch):
    """Paths of the zips that were opened so far, and of those that are open."""
    ever, now = [], []

    @contextmanager
    def watched(path, most):
        with open_zip(path, most) as archive:
            ever.append(path.name)
            now.append(path.name)
            try:
                yield archive
            finally:
                now.remove(path.name)

    monkeypatch.setattr(batch, "open_zip", watched)
    return ever, now


def test_many_zips_are_not_opened_at_once(tmp_path, zips_open):
    ever, now = zips_open
    files = {f"{index:04}.zip": zipped({"a.png": colour(index)}) for index in range(9)}
    files = {"0-text.zip": zipped({".hidden": b""}), "0-large.zip": zipped({"a.png": bytes(2000)})} | files
    with gathered(write(tmp_path, files), Limits(files=8, file_bytes=1000)) as (taken, left):
        assert len(taken) == 6 and now == ever[2:] == [f"{index:04}.zip" for index in range(6)]
        assert [one.name for one in left] == ["0-large.zip/a.png", "3 more files"]
        assert left[-1].problem == "At most 8 files are taken at once."
    assert not now


def test_what_is_beyond_the_number_is_told_once_a_zip(tmp_path, zips_open):
    ever, now = zips_open
    many = zipped({f"{index}.png": b"x" for index in range(1500)})
    paths = write(tmp_path, {"a.zip": many, "b.zip": many, "c.png": b"x"})
    with gathered(paths, Limits(files=4)) as (files, left):
        assert len(files) == 4 and now == ever == ["a.zip"]
    assert [(one.name, one.problem) for one in left] == [
        ("a.zip", "1,496 more pictures in it were left out: at most 4 are taken at once."),
        ("b.zip", "At most 4 pictures are taken at once."),
        ("c.png", "At most 4 pictures are taken at once."),
    ]


def test_what_is_too_large_in_zips_is_not_told_without_end(tmp_path):
    archive = zipped({f"{index}.png": bytes(2000) for index in range(30)} | {"good.png": colour(1)})
    with gathered(write(tmp_path, {"a.zip": archive, "b.zip": archive}), Limits(4, 1000, 9000)) as (files, left):
        assert [file.name for file in files] == ["a.zip/good.png", "b.zip/good.png"]
    assert [one.name for one in left] == [f"a.zip/{index}.png" for index in range(4)] + ["a.zip", "b.zip"]
    words = "more pictures in it were left out: at most 4 are taken at once, of 1 kB each and 9 kB in all."
    assert left[-2].problem == f"26 {words}" and left[-1].problem == f"30 {words}"


def test_ones_own_zips_are_bounded_too_whatever_they_say(tmp_path, monkeypatch):
    packed = zipped({"a.png": colour(1) + bytes(3_000_000)}, compression=zipfile.ZIP_DEFLATED)
    paths = write(tmp_path, {"bomb.zip": packed, "lie.zip": lying(packed, 100)})
    assert run(paths)["bomb.zip/a.png"] == (1, 0, 7)
    monkeypatch.setattr(batch, "OWN_BYTES", 1_000_000)
    found = run(paths)
    assert found["bomb.zip/a.png"] == "It is too large: at most 1 MB are read."
    assert isinstance(found["lie.zip/a.png"], str)


def test_large_pictures_in_a_stored_zip_are_read(tmp_path):
    picture = stored(Image.effect_noise((1600, 1600), 90))
    assert len(picture) > 2_000_000
    (path,) = write(tmp_path, {"a.zip": zipped({"a.png": picture})})
    assert isinstance(run([path], Limits())["a.zip/a.png"], tuple)


def test_what_concerns_all_of_them_ends_it_and_nan_does_not(tmp_path):
    paths = write(tmp_path, {"a.png": colour(1), "b.png": colour(2)})

    def fail(error):
        def run_one(request):
            raise error

        with gathered(paths) as (files, _):
            return list(run_files(run_one, ask, files))

    with pytest.raises(RequestError, match="no such translator"):
        fail(RequestError("There is no such translator."))
    assert [one.problem for one in fail(PictureError("NaN."))] == ["NaN.", "NaN."]
    odd = "Nothing could be made of it (RuntimeError: odd)."
    assert [one.problem for one in fail(RuntimeError("odd"))] == [odd, odd]


def test_the_zip_holds_every_picture_with_its_settings(tmp_path):
    paths = write(
        tmp_path, {"a.png": colour(1), "b.png": b"", "c.jpg": colour(3), "in.zip": zipped({"a.png": colour(4)})}
    )
    run(paths, into=lambda done: into_zip(done, tmp_path / "out.zip"))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["a.png", "c.png", "a (2).png"]
        with archive.open("c.png") as file, Image.open(file) as saved:
            assert saved.getpixel((0, 0)) == (3, 0, 7) and read_request(saved).request.prompt == "a"


def test_a_folder_gets_the_same(tmp_path):
    (tmp_path / "out").mkdir()
    run(write(tmp_path, {"a.png": colour(1), "b.png": b""}), into=lambda done: into_folder(done, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_nothing_is_written_through_links(tmp_path):
    out, (kept,) = tmp_path / "out", write(tmp_path, {"kept": b"kept"})
    out.mkdir()
    for name in ("a.png", ".a.png.partial"):
        (out / name).symlink_to(kept)
    run(write(tmp_path, {"a.png": colour(1)}), into=lambda done: into_folder(done, out))
    assert kept.read_bytes() == b"kept" and not (out / "a.png").is_symlink()
    assert [path.name for path in out.iterdir()] == ["a.png"]


def test_several_pictures_of_a_file_are_numbered(tmp_path):
    result = Result(ask(picture()), [picture()] * 2, [0, 1], 1, {"total": 0.1})
    (one,) = into_folder([Done("in/a.jpg", result)], tmp_path)
    assert one.files == ("a-1.png", "a-2.png") and len(list(tmp_path.iterdir())) == 2


def test_names_are_given_once():
    names = Names()
    assert names.new("../../A cat.webp") == ["A cat.png"] and names.new("x.zip/a CAT.png") == ["a CAT (2).png"]
    assert names.new("\0", 2) == ["picture-1.png", "picture-2.png"] and names.new("") == ["picture (2).png"]
