"""python -m yoso_core check."""

import zipfile

from tests.handed import colour
from yoso_core.__main__ import main


def test_each_is_told_and_how_many_can_not_be_used(tmp_path, capsys):
    (tmp_path / "plain.png").write_bytes(colour(1))
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    odd = tmp_path / "odd\x1b[2J.zip"
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr("\x1b]0;x.png", b"none")
    assert main(["check", str(tmp_path / "plain.png")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/plain.png: a PNG picture of 16 x 16 pixels, can be used"
    ]
    assert main(["check", str(tmp_path / "plain.png"), str(tmp_path / "phone.heic"), str(odd)]) == 1
    told = capsys.readouterr()
    assert f"{tmp_path}/phone.heic: nothing that is read here, can not be used" in told.out
    assert all(line.isprintable() for line in told.out.splitlines())
    assert told.err.strip() == "error: 2 of 3 can't be used; the reasons stand above."
