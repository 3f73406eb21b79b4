"""What the first page and the map of the course show: drawn and counted, so that no picture or number there can rot."""

import html
from pathlib import Path

from lora_edu.classroom import figures, records
from lora_edu.classroom.experiments import capstone
from tools import build_notebooks

RUNS = [f"events_qlora_cpu_seed{seed}" for seed in range(3)]
EXAMPLE = 1
"""Of the recorded answers, the one that the first page shows."""


def words(folder: Path) -> dict[str, str]:
    """What takes the place of ``{{key}}`` on those pages; their pictures are written to `folder`."""
    runs = [records.read(name) for name in RUNS]
    times = build_notebooks.course_times(build_notebooks.ROOT / "notebooks" / "src")
    result = figures.bars(
        {"exactly right": capstone.scores(runs)},
        groups=capstone.GROUPS,
        ylabel="share of events",
        number_format="{:.0%}",
        title="Asked alone, the base model got no event right. After training, most are",
    )
    return {
        "result": picture(result, folder / "result.png"),
        "example": example(capstone.before_and_after(runs[0], [EXAMPLE], width=106)),
        "map": picture(figures.course_map(), folder / "map.png"),
        "rows": times["course map"],
        "hours": times["course hours"],
        "core_hours": times["core hours"],
        "count": str(len(times["course map"].splitlines())),
    }


def picture(drawn: figures.Picture, path: Path) -> str:
    """Write a figure's file, with two dots for each dot on the page, and return the Markdown that shows it."""
    png = figures.to_png(drawn)
    path.write_bytes(png)
    width = int.from_bytes(png[16:20], "big") // 2  # where every PNG says it
    return f"![{drawn.alt}]({path.name}){{width={width}px}}"


def example(columns: dict[str, list[str]]) -> str:
    """One recorded answer before and after, as HTML."""
    names = {"sentence": "It reads", "before": "Before training, it answers", "after": "After training"}
    rows = [f"<dt>{names[name]}</dt><dd>{html.escape(text)}</dd>" for name, [text] in columns.items()]
    return f'<dl class="example">{"".join(rows)}</dl>'
