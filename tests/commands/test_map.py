"""python -m yoso_core map."""

from PIL import Image

from yoso_core.__main__ import main


def test_map_draws_what_a_controlnet_follows(drawing, tmp_path, capsys):
    out = tmp_path / "map.png"
    arguments = ["map", drawing.path, "--size", "64", "--low", "20", "--high", "60", "--out", str(out)]
    for fit, size in (("keep", (72, 56)), ("crop", (64, 64))):
        assert main([*arguments, "--fit", fit]) == 0
        with Image.open(out) as edges:
            assert edges.size == size and {colour for _, colour in edges.getcolors()} == {(0,) * 3, (255,) * 3}
    assert main(["map", drawing.path, "--annotator", "map", "--fit", "fit", "--size", "64", "--out", str(out)]) == 0
    assert Image.open(out).tobytes() == drawing.picture.resize((64, 64), Image.Resampling.LANCZOS).tobytes()
