"""python -m yoso_core map."""

from PIL import Image

from yoso_core.__main__ import main


def test_map_draws_what_a_controlnet_follows(drawing, tmp_path, capsys):
    out = tmp_path / "map.png"
    assert main(["map", drawing.path, "--size", "64", "--low", "20", "--high", "60", "--out", str(out)]) == 0
    edges = Image.open(out)
    assert (
        edges.size == (64, 64)
        and edges.getcolors()
        and {colour for _, colour in edges.getcolors()}
        == {
            (0, 0, 0),
            (255, 255, 255),
        }
    )
    assert main(["map", drawing.path, "--annotator", "map", "--fit", "fit", "--size", "64", "--out", str(out)]) == 0
    assert Image.open(out).tobytes() == drawing.picture.resize((64, 64), Image.Resampling.LANCZOS).tobytes()
