"""Films of sliders, and what a page that no Python serves gets of sliders and predictions. No browser here."""

import hashlib
import io
import itertools
import json

import nbformat
import numpy as np
import pytest
from PIL import Image

from lora_edu.classroom import figures
from lora_edu.classroom.widgets import WIDGET_VIEW, explore, frames, predict
from lora_edu.classroom.widgets.pages import make_pages_live, static_slider
from tests.classroom.test_widgets import shown

RANKS, NOISES = [1, 2, 3], [0.0, 0.5]


def draw(ax, rank, noise):
    return figures.bars(
        {"error": [noise, rank]}, groups=["a", "b"], ax=ax, alt=f"rank {rank}, noise {noise:g}"
    )


def explorer():
    return explore(draw, rank=RANKS, noise=NOISES, start={"rank": 2})


@pytest.fixture(scope="module")
def film_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    explorer().write_film(folder)
    return folder


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))


# ---------------------------------------------------------------- films


def test_a_film_holds_the_picture_and_the_line_of_every_combination(film_folder):
    film = frames.read_film(film_folder, "rank 2, noise 0")
    assert film["labels"] == {"rank": ["1", "2", "3"], "noise": ["0", "0.5"]} and film["start"] == [1, 0]
    combinations = list(itertools.product(RANKS, NOISES))
    assert [text for _, text in film["frames"]] == [f"rank {r}, noise {n:g}" for r, n in combinations]
    for (name, _), (rank, noise) in zip(film["frames"], combinations, strict=True):
        fresh, _ = explorer().frame(rank=rank, noise=noise)
        assert np.array_equal(pixels((film_folder / name).read_bytes()), pixels(fresh))


def test_equal_pictures_are_one_file_and_a_second_run_adds_none(film_folder, tmp_path):
    def same(ax, rank, noise):
        return draw(ax, 1, noise)

    path = explore(same, rank=RANKS, noise=NOISES).write_film(tmp_path)
    assert (
        len(list(tmp_path.glob("*.webp"))) == len(NOISES) and len(json.loads(path.read_text())["frames"]) == 6
    )
    before = {file.name: file.stat().st_mtime_ns for file in film_folder.glob("*.webp")}
    explorer().write_film(film_folder)
    assert {file.name: file.stat().st_mtime_ns for file in film_folder.glob("*.webp")} == before


def png_of(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_a_photograph_is_stored_with_less_and_a_chart_exactly():
    generator = np.random.default_rng(0)
    smooth = np.kron(generator.integers(0, 255, (30, 40, 3)), np.ones((16, 16, 1)))
    photograph = np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    stored = frames.to_webp(png_of(photograph))
    assert len(stored) < len(png_of(photograph)) / 4
    assert np.abs(pixels(stored).astype(int) - pixels(png_of(photograph))).mean() < 8
    chart, _ = explorer().frame(rank=1, noise=0.0)
    assert np.array_equal(pixels(frames.to_webp(chart)), pixels(chart))


def test_the_variable_alone_makes_a_cell_write_its_film_and_its_outputs_stay(tmp_path, monkeypatch):
    monkeypatch.delenv("LORA_EDU_FRAMES", raising=False)
    without = shown(explorer())
    monkeypatch.setenv("LORA_EDU_FRAMES", str(tmp_path))
    with_frames = shown(explorer())
    assert frames.read_film(tmp_path, with_frames[-1][0]["text/plain"]) is not None
    assert without[1:] == with_frames[1:] and [set(data) for data, _ in without] == [
        set(data) for data, _ in with_frames
    ]


def test_too_many_combinations_are_refused_before_one_is_drawn(tmp_path):
    def never(ax, **values):
        return draw(ax, 1, 0.0) if values == {"a": 0, "b": 0} else 1 / 0

    wide = explore(never, a=range(25), b=range(21))
    with pytest.raises(ValueError, match=r"at most 500 combinations, got \[25, 21\]"):
        wide.write_film(tmp_path)


def test_frames_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the frames in .* take 0 MB, more than 0"):
        explorer().write_film(tmp_path)


# ---------------------------------------------------------------- pages


def notebook_of(*values):
    """An executed notebook whose cells end in `values`."""
    cells = []
    for value in values:
        outputs = [
            nbformat.v4.new_output("display_data", data=data, metadata=metadata)
            for data, metadata in shown(value)
        ]
        cells.append(nbformat.v4.new_code_cell("", outputs=outputs))
    return nbformat.v4.new_notebook(cells=cells)


def test_a_slider_takes_the_place_of_picture_and_text(film_folder):
    notebook = notebook_of(explorer())
    names = make_pages_live(notebook, film_folder, address="../frames")
    assert names == {file.name for file in film_folder.glob("*.webp")}
    [output] = notebook.cells[0].outputs
    start, _ = explorer().frame(rank=2, noise=0.0)
    name = f"{hashlib.sha256(start).hexdigest()[:16]}.webp"
    assert f'src="../frames/{name}"' in output.data["text/html"]
    assert 'alt="rank 2, noise 0"' in output.data["text/html"]
    nbformat.validate(notebook)


def test_without_a_film_the_static_form_stays(tmp_path):
    notebook = notebook_of(explorer())
    assert make_pages_live(notebook, tmp_path) == set()
    picture, text = notebook.cells[0].outputs
    assert "image/png" in picture.data and "<p>rank 2, noise 0</p>" in text.data["text/html"]


def test_no_widget_view_and_no_rule_of_jupyter_is_left(film_folder):
    notebook = notebook_of(explorer(), predict("01.4"))
    make_pages_live(notebook, film_folder)
    text = nbformat.writes(notebook)
    assert WIDGET_VIEW not in text and "lora-edu-live" not in text


def test_a_notebook_without_sliders_and_predictions_stays_as_it_is(film_folder):
    plain = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Nothing"), *notebook_of().cells])
    before = nbformat.writes(plain)
    make_pages_live(plain, film_folder)
    assert nbformat.writes(plain) == before


def test_a_label_cannot_end_the_script():
    film = {"labels": {"kind": ["</script><b>", "b"]}, "start": [0], "width": 720}
    page = static_slider({**film, "frames": [["a.webp", "</script>1"], ["b.webp", '"2"']]})
    assert page.count("</script>") == 1 and page.endswith("</script></figure>") and "<b>" not in page
