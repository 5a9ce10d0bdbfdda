"""Many files at once: what is read, what is told, what is written."""

import stat
import zipfile

import pytest
from PIL import Image

from tests.handed import colour, encrypted, lying, picture, special, stored, zipped
from yoso_core.batch import Done, Limits, Names, gathered, into_folder, into_zip, run_files
from yoso_core.engine import PictureError, Result
from yoso_core.metadata import read_request
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
    assert found["2.png"] == found["3.png"] == "At most 2 pictures are taken at once."
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
    assert len(found) == 4 and found["a.zip/3.png"] == "At most 3 pictures are taken at once."
    assert [found[f"a.zip/{index}.png"] for index in range(3)] == [(index, 0, 7) for index in range(3)]


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


def test_several_pictures_of_a_file_are_numbered(tmp_path):
    result = Result(ask(picture()), [picture()] * 2, [0, 1], 1, {"total": 0.1})
    (one,) = into_folder([Done("in/a.jpg", result)], tmp_path)
    assert one.files == ("a-1.png", "a-2.png") and len(list(tmp_path.iterdir())) == 2


def test_names_are_given_once():
    names = Names()
    assert names.new("../../A cat.webp") == ["A cat.png"] and names.new("x.zip/a CAT.png") == ["a CAT (2).png"]
    assert names.new("\0", 2) == ["picture-1.png", "picture-2.png"] and names.new("") == ["picture (2).png"]
