"""Five pages for people who want to look before they read: each leads, step by step, through sliders of the notebooks.

A step sets the sliders of one film. Where it asks, they move only once the reader has chosen an answer. Without
JavaScript the steps are a list, and the picture stays at its start.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nbformat import NotebookNode

from lora_edu.classroom.widgets import predict
from lora_edu.classroom.widgets.frames import read_film
from lora_edu.classroom.widgets.pages import explorer_texts, static_slider


class Ask(NamedTuple):
    """A question before a picture changes."""

    question: str
    choices: tuple[str, ...]
    answer: str
    why: str


class Step(NamedTuple):
    """What is said, and what the sliders of one film say then; what is not named stays at the film's start."""

    text: str
    labels: Mapping[str, str] = {}
    film: int = 0
    ask: Ask | None = None


class Tour(NamedTuple):
    """One page."""

    title: str
    promise: str
    notebook: str
    """Whose sliders it sets."""
    films: tuple[int, ...]
    """Which of them, counted from 0."""
    steps: tuple[Step, ...]


TOURS = {
    "look_rank": Tour(
        "How much of a picture is there?",
        "A house, drawn from fewer and fewer numbers.",
        "01_rank_and_svd",
        (0,),
        (
            Step(
                "A picture in grey is a table of numbers: here 192 rows and 288 columns, 55,296 numbers. On the left "
                "it is built from 64 pieces, called terms. Each is one column of numbers times one row of numbers.",
                {"terms": "64"},
            ),
            Step(
                "Now we keep the best piece alone: 192 numbers down and 288 across.",
                {"terms": "1"},
                ask=Ask(
                    "What will be left of the house?",
                    ("nothing but stripes", "its outline", "all but the details"),
                    "nothing but stripes",
                    "One column times one row can only make stripes that cross. On the right is what is missing.",
                ),
            ),
            Step("Three pieces make boxes.", {"terms": "3"}),
            Step(
                "A table of numbers that needs r pieces has rank r. We go on adding pieces.",
                {"terms": "8"},
                ask=Ask(
                    "What is sharp after 8 pieces: the fence or the sun?",
                    ("the fence", "the sun"),
                    "the fence",
                    "Its edges run along rows and columns. A round edge needs many pieces.",
                ),
            ),
            Step(
                "8 pieces take 3,840 numbers, a fourteenth of the picture. LoRA makes the same bet about a model: what "
                "training changes may need few pieces. Move the slider yourself.",
                {"terms": "8"},
            ),
        ),
    ),
    "look_scale": Tour(
        "How thin is the update?",
        "What LoRA trains, drawn to scale beside what it leaves alone.",
        "03_parameter_budget",
        (0,),
        (
            Step(
                "The square is one weight of a small language model: 576 × 576 numbers, which stay. Left of "
                "it and above it lie B and A, the two thin tables that LoRA trains. Their product is as large as the "
                "square.",
                {"d_in": "576", "d_out": "576", "r": "8"},
            ),
            Step(
                "Larger models have larger weights. This one has 8,192 × 8,192 numbers. B still has 8 columns, and A "
                "8 rows.",
                {"d_in": "8192", "d_out": "8192", "r": "8"},
                ask=Ask(
                    "The square has about 200 times as many numbers. And B and A together?",
                    ("as many as before", "about 14 times as many", "about 200 times as many"),
                    "about 14 times as many",
                    "The square grows with width times height, B and A with width plus height.",
                ),
            ),
            Step(
                "The number of columns of B, and of rows of A, is the rank r. At r = 64 the update can hold more, and "
                "is still 1.56 % of the weight.",
                {"d_in": "8192", "d_out": "8192", "r": "64"},
            ),
            Step(
                "It is not always thin. Here the weight is small and the rank is large.",
                {"d_in": "256", "d_out": "256", "r": "128"},
                ask=Ask(
                    "A weight of 256 × 256, at r = 128: what do B and A take?",
                    ("a quarter of the weight", "half of it", "as much as the weight"),
                    "as much as the weight",
                    "256 × 128 numbers in B and as many in A. From there on the update saves nothing.",
                ),
            ),
            Step("Now set width, height and rank as you like.", {"d_in": "8192", "d_out": "8192", "r": "8"}),
        ),
    ),
    "look_levels": Tour(
        "What do 4 bits keep?",
        "A few levels for all numbers, and what one large number does to the rest.",
        "07_quantization",
        (1, 2),
        (
            Step(
                "4 bits can name 16 things. Here they name 16 levels from -1 to 1. A number is stored as the number of "
                "its nearest level, and is read back as that level.",
                {"number": "0.23456", "bits": "4", "levels": "even"},
            ),
            Step(
                "With 2 bits there are 4 levels.",
                {"number": "0.23456", "bits": "2", "levels": "even"},
                ask=Ask(
                    "As what will 0.23456 be read back?",
                    ("0", "0.2", "0.333"),
                    "0.333",
                    "The four levels are -1, -0.333, 0.333 and 1.",
                ),
            ),
            Step(
                "Back to 4 bits, and to a number that every model holds often.",
                {"number": "0", "bits": "4", "levels": "even"},
                ask=Ask(
                    "Is 0 read back as 0?",
                    ("yes", "no"),
                    "no",
                    "16 even levels have none in the middle. That is one reason to choose other levels.",
                ),
            ),
            Step(
                "Weights are not all between -1 and 1. So they are divided by the largest of them first. This picture "
                "stands for weights; one of its 55,296 numbers is the largest. From here on there "
                "are 15 levels, and the middle one is 0.",
                {"bits": "4", "blocksize": "55296", "outlier": "1"},
                film=1,
            ),
            Step(
                "Now we make that one number 30 times as large, and nothing else.",
                {"bits": "4", "blocksize": "55296", "outlier": "30"},
                film=1,
                ask=Ask(
                    "What happens to the others?",
                    ("nothing", "they lose some detail", "almost all are read back as 0"),
                    "almost all are read back as 0",
                    "The levels now stand 30 times as far apart, and 0 is the nearest to all but one.",
                ),
            ),
            Step(
                "The cure: cut the numbers into blocks of 64, each with a largest number of its own. One bad number "
                "now spoils its own block alone. QLoRA stores a model in such blocks.",
                {"bits": "4", "blocksize": "64", "outlier": "30"},
                film=1,
            ),
        ),
    ),
    "look_memory": Tour(
        "Where does the memory go?",
        "Three ways to train the same model, part by part.",
        "03_parameter_budget",
        (1,),
        (
            Step(
                "This is what it takes to train a small model, of 135 million numbers, on 512 pieces of words at once. "
                "All three ways fit any graphics card that the dashed lines stand for.",
                {"model": "SmolLM2-135M", "tokens": "512"},
            ),
            Step(
                "The next model has 7 billion numbers. A free card in Colab has 14.56 GiB.",
                {"model": "Mistral-7B", "tokens": "512"},
                ask=Ask(
                    "Which of the three ways fits on it?",
                    ("all three", "LoRA and QLoRA", "QLoRA alone"),
                    "QLoRA alone",
                    "Full training keeps three more numbers for each number that it trains. LoRA trains few, but its "
                    "frozen model still takes 2 bytes a number. QLoRA stores that in 4 bits.",
                ),
            ),
            Step(
                "What flows through the model while it trains is kept, too. It grows with the length of the text.",
                {"model": "Mistral-7B", "tokens": "2048"},
                ask=Ask(
                    "With four times the text, does QLoRA still fit the free card?",
                    ("yes", "no"),
                    "no",
                    "4 bits make the stored weights small. They do nothing about what flows.",
                ),
            ),
            Step("Now try other models and lengths.", {"model": "Mistral-7B", "tokens": "512"}),
        ),
    ),
    "look_life": Tour(
        "How do you train over 4-bit weights?",
        "One weight at a time is made wide, used and dropped.",
        "09_qlora_from_scratch",
        (0,),
        (
            Step(
                "A model is a row of blocks. Their weights lie stored in 4 bits, as codes. To be multiplied, the "
                "weight that is needed now is made wide, in 16 bits. Beside it stand A and B, two thin tables.",
                {"step": "0"},
            ),
            Step(
                "The text has come to block 13.",
                {"step": "12"},
                ask=Ask(
                    "What has become of the wide weights of blocks 1 to 12?",
                    ("they are kept for the way back", "they were dropped", "they went back to 4 bits"),
                    "they were dropped",
                    "The codes never left their place, so nothing has to be put back.",
                ),
            ),
            Step(
                "At the end of the way forward the model has said how likely the right word is.",
                {"step": "31"},
            ),
            Step(
                "Now the way back begins, which finds out how to change A and B.",
                {"step": "32"},
                ask=Ask(
                    "Do the 4-bit weights have to be made wide again?",
                    ("yes, each once more", "no"),
                    "yes, each once more",
                    "What changes A and B in one block has to pass through the weights of all later ones.",
                ),
            ),
            Step(
                "So at any moment one weight is wide. Only A and B are trained. They are small, and always wide.",
                {"step": "57"},
            ),
        ),
    ),
}


def tour_page(
    tour: Tour, notebooks: Mapping[str, NotebookNode], frames: Path, address: str
) -> tuple[str, set[str]]:
    """A tour's page in Markdown, and the names of the pictures that it shows.

    Parameters
    ----------
    tour : Tour
    notebooks : mapping
        Executed, by name. Where the tour's own is missing, the steps stand alone.
    frames : Path
        Where the films of their sliders lie; the tour has no sliders if one is missing.
    address : str
        Of that folder or a copy, seen from the page.
    """
    notebook = notebooks.get(tour.notebook)
    texts = explorer_texts(notebook) if notebook else []
    films = [read_film(frames, texts[place]) if place < len(texts) else None for place in tour.films]
    shown = [] if None in films else [film for film in films if film is not None]
    steps = "".join(_step_html(step, shown[step.film] if shown else None) for step in tour.steps)
    sliders = "".join(static_slider(film, address) for film in shown)
    body = f'<div class="lora-edu-tour"><ol>{steps}</ol>{sliders}</div>'
    number = tour.notebook.partition("_")[0]
    more = f"More of this, and the code: [notebook {number}]({tour.notebook}.ipynb).\n" if notebook else ""
    pictures = {name for film in shown for name, _ in film["frames"]}
    return f"# {tour.title}\n\n{tour.promise}\n\n{body}\n\n{more}", pictures


def _step_html(step: Step, film: dict[str, Any] | None) -> str:
    places = json.dumps(places_of(step, film)) if film else "[]"
    asked = f'<div class="lora-edu-predict">{predict(*step.ask).to_html()}</div>' if step.ask else ""
    return f'<li data-film="{step.film}" data-places="{places}"><p>{html.escape(step.text)}</p>{asked}</li>'


def places_of(step: Step, film: dict[str, Any]) -> list[int]:
    """Where a step puts each slider of its film.

    Raises
    ------
    ValueError
        If the film has no such slider, or a slider no such value.
    """
    if unknown := set(step.labels) - set(film["labels"]):
        raise ValueError(f"a step sets {sorted(unknown)}, which its film has not")
    starts = zip(film["labels"].items(), film["start"], strict=True)
    return [
        labels.index(step.labels[name]) if name in step.labels else start for (name, labels), start in starts
    ]
