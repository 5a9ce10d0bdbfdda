"""Zips of strangers: what is read of them, what is refused, and that neither takes more than was agreed to."""

import io
import os
import random
import stat
import struct
import tracemalloc
import unicodedata
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handed import encrypted, lying, patched, special, zipped
from yoso_core.files.archives import CHUNK, UnreadableError, amount, members, open_file, open_zip, read_parts, safe_stem

DEFLATED = {"compression": zipfile.ZIP_DEFLATED}


@pytest.fixture
def opened(tmp_path):
    """Opens bytes as a zip."""

    def opened(content, most=8):
        (tmp_path / "a.zip").write_bytes(content)
        return open_zip(tmp_path / "a.zip", most)

    return opened


def test_files_of_a_zip_are_read_and_what_systems_leave_in_it_is_not(opened):
    files = {
        "set/a.png": b"1",
        "set\\b.png": b"22",
        "./c..d/e.txt": b"",
        "set/.DS_Store": b"x",
        ".git/x.png": b"x",
        "__MACOSX/set/a.png": b"x",
        "set/empty/": b"",
        "other\\empty\\": b"",
        ".": b"x",
        "/": b"",
    }
    with opened(zipped(files, **DEFLATED)) as archive:
        found = list(members(archive))
        read = {str(member.path): (member.bytes, b"".join(read_parts(member.open, 9))) for member in found}
    assert read == {"set/a.png": (1, b"1"), "set/b.png": (2, b"22"), "c..d/e.txt": (0, b"")}
    assert not any(member.refusal for member in found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.png", "leads out"),
        ("a/../../evil.png", "leads out"),
        ("/tmp/evil.png", "leads out"),
        ("..\\evil.png", "leads out"),
        ("C:\\evil.png", "leads out"),
        (special("link.png", stat.S_IFLNK | 0o777), "a link"),
        (special("pipe.png", stat.S_IFIFO | 0o777), "another special file"),
        ("locked.png", "password"),
    ],
)
def test_members_are_refused_before_they_are_opened(opened, name, words, monkeypatch):
    content = zipped([("good.png", b"good"), (name, b"/etc/passwd")])
    with opened(encrypted(content) if words == "password" else content) as archive:
        good, bad = members(archive)
        assert b"".join(read_parts(good.open)) == b"good" and not good.refusal
        monkeypatch.setattr(zipfile.ZipFile, "open", None)
        assert words in bad.refusal and bad.refusal.endswith(".")
        with pytest.raises(UnreadableError, match=words):
            list(read_parts(bad.open))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bounds_are_refused(opened, method):
    with opened(zipped({"a.png": b"\0" * 10**6}, compression=method)) as archive:
        (member,) = members(archive)
        assert "unusual way" in member.refusal


def test_a_table_of_contents_is_not_read_when_it_is_too_long(opened):
    content = zipped({f"{index:0500}.png": b"" for index in range(3000)})  # 1.6 MB of names
    with pytest.raises(UnreadableError, match="too many files: at most 8 are taken"), opened(content):
        pass
    with opened(content, 3000) as archive:
        assert len(list(members(archive))) == 3000


def test_a_table_of_contents_of_gigabytes_takes_no_memory(tmp_path):
    size = 2**31
    with open(tmp_path / "a.zip", "wb") as file:  # takes no room on disk either
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError, match="too many files"), open_zip(tmp_path / "a.zip", 8):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", ["cut", "empty", "no zip", "table"])
def test_what_is_no_zip_is_told_in_a_sentence(opened, damage):
    whole = zipped({"a.png": b"1", "b.png": b"2"})
    table = whole.index(b"PK\x01\x02")
    content = {"cut": whole[:-30], "empty": b"", "no zip": b"PK", "table": patched(whole, table, b"\xff" * 60)}[damage]
    with pytest.raises(UnreadableError, match="damaged"), opened(content):
        pass


def test_random_damage_is_told_or_does_nothing(opened):
    rng = random.Random(5)
    whole = zipped({f"d/{index}.txt": rng.randbytes(50) * 9 for index in range(4)}, **DEFLATED)
    told = 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 9)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            with opened(bytes(content)) as archive:
                for member in members(archive):
                    assert len(b"".join(read_parts(member.open, 999))) <= 999
        except UnreadableError as error:
            assert "\n" not in str(error) and str(error).endswith(".")
            told += 1
    assert 50 < told < 200


def test_what_goes_wrong_while_a_zip_is_open_stays_what_it_is(opened):
    with pytest.raises(OSError, match="full"), opened(zipped({"a": b""})):
        raise OSError("full")


def test_bytes_are_counted_because_headers_lie(opened):
    with opened(lying(zipped({"a.png": b"\0" * 10**6}, **DEFLATED), 100)) as archive:
        (member,) = members(archive)
        assert member.bytes == 100
        with pytest.raises(UnreadableError, match="damaged"):
            list(read_parts(member.open, 3000))
    with pytest.raises(UnreadableError, match=r"^It is too large: at most 3 kB are read\.$"):
        list(read_parts(lambda: io.BytesIO(bytes(3001)), 3000))
    assert len(b"".join(read_parts(lambda: io.BytesIO(bytes(3000)), 3000))) == 3000


def test_a_file_comes_in_parts_and_no_more_of_it_is_read_than_is_taken():
    source = io.BytesIO(bytes(20 * CHUNK))
    parts = read_parts(lambda: source, 2 * CHUNK)
    assert [len(next(parts)), len(next(parts)), source.tell()] == [CHUNK, CHUNK, 2 * CHUNK]
    with pytest.raises(UnreadableError):
        next(parts)
    assert source.closed
    assert sum(map(len, read_parts(lambda: io.BytesIO(bytes(20 * CHUNK))))) == 20 * CHUNK


def test_large_members_are_read_whichever_way_they_are_packed(opened):
    content = random.Random(1).randbytes(9 * CHUNK + 1)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with opened(zipped({"a": content}, compression=method)) as archive:
            (member,) = members(archive)
            assert b"".join(read_parts(member.open)) == content


def test_only_ordinary_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    for name in ("gone.zip", "pipe.zip", ".", "nul\0.zip"):
        with pytest.raises(UnreadableError, match="no such file"):
            open_file(tmp_path / name)
        with pytest.raises(UnreadableError, match="no such file"), open_zip(tmp_path / name, 8):
            pass


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.zip"
    path.write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(UnreadableError, match=r"can't be opened \(Permission denied\)"), open_zip(path, 8):
            pass


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.jpg", "a"),
        ("A red  heart_2.png", "A red heart_2"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\Ä cat (1).webp", "Ä cat (1)"),
        ("x.zip/<b>\n\0.png", "b"),
        (".hidden.png", "hidden"),
        ("...", "picture"),
        ("..", "picture"),
        ("", "picture"),
        ("a\nb\x1b[31m\u202ec.png", "a b [31m c"),
        ('a<b>:"|?*.png', "a b"),
        ("gro\u0308\u00dfer als.png", "gr\u00f6\u00dfer als"),
        ("\udcff\ud800x.png", "x"),
        ("x" * 500 + ".png", "x" * 90),
        ("x" * 89 + ". y.png", "x" * 89),
        ("漢" * 200 + ".png", "漢" * 60),
        ("a" + "漢" * 200 + ".png", "a" + "漢" * 59),
    ],
)
def test_names_keep_their_words_and_lead_nowhere(name, stem):
    assert safe_stem(name) == stem and len(stem.encode()) <= 180


def test_amounts_are_told_as_people_say_them():
    said = [amount(number) for number in (999, 3000, 12_500, 20_000_000, 200_000_000, 20_000_000_000)]
    assert said == ["0.999 kB", "3 kB", "12.5 kB", "20 MB", "200 MB", "20 GB"]


def unmarked(content):
    """A zip whose names do not say that they are UTF-8, as macOS packs them."""
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            flags = int.from_bytes(content[place + offset : place + offset + 2], "little") & ~0x800
            content = patched(content, place + offset, flags.to_bytes(2, "little"))
            place = content.find(signature, place + 1)
    return content


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=":/\\"), min_size=1, max_size=20))
def test_names_are_read_however_they_are_packed(tmp_path_factory, name):
    name = unicodedata.normalize("NFC", f"x{name}")
    path = tmp_path_factory.mktemp("names") / "a.zip"
    for packed in (name, unicodedata.normalize("NFD", name), f"sub\\{name}"):
        for change in (bytes, unmarked):
            path.write_bytes(change(zipped({packed: b"1"})))
            with open_zip(path, 9) as archive:
                [member] = members(archive)
                assert member.path.name == name and member.open().read() == b"1"


def test_a_name_may_stand_in_a_field_of_its_own(tmp_path):
    for checksum, name in ((zlib.crc32(b"caf\x82.png"), "café.png"), (5, "café.png")):  # and code page 437 without it
        info = zipfile.ZipInfo("caf_.png")
        field = struct.pack("<BI", 1, checksum) + "café.png".encode()
        info.extra = struct.pack("<HH", 0x7075, len(field)) + field
        path = tmp_path / "a.zip"
        path.write_bytes(zipped([(info, b"1")]).replace(b"caf_", b"caf\x82"))
        with open_zip(path, 9) as archive:
            assert [str(member.path) for member in members(archive)] == [name]
