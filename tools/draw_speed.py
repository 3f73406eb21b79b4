"""Draw the pictures and tables of docs/speed.md from the records of the benchmarks: `python -m tools.draw_speed`.

Every number of the page comes from data/runs/: those of pictures and tables through this file, and
tests/classroom/test_speed_page.py looks for the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from lora_edu.classroom import figures, records
from tools.draw_pictures import page_with

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "speed.md"
FOLDER = "speed"
WEIGHTS = 8192**2
MOVED = WEIGHTS * (2 + 1 / 2 + 4 / 64)  # bytes: bfloat16, codes, scales
# A weight: two for absmax, one to scale, two to find a cell of a table, one comparison, one addition; one product.
OPERATIONS = {"quantize": 7 * WEIGHTS, "dequantize": WEIGHTS}
H200_PEAK = 67e12  # float32 operations a second: https://www.nvidia.com/en-us/data-center/h200/
WHO = ("plain PyTorch", "bitsandbytes", "Triton", "a copy")


# ---------------------------------------------------------------- what was raced


@cache
def nf4_seconds() -> dict[str, dict[str, float]]:
    """Seconds to quantize and dequantize 8192 × 8192 weights on an H200, by each of `WHO`."""
    rows = {(row["case"], row["ours"], row["peer"]): row for row in records.read("bench_gpu_nf4")["results"]}
    kinds = {"quantize": ("plain", "triton"), "dequantize": ("plain, out=", "triton, out=")}
    return {
        case: dict(
            zip(
                WHO,
                (
                    rows[case, plain, "bitsandbytes"]["seconds"],
                    rows[case, kernel, "bitsandbytes"]["peer_seconds"],
                    rows[case, kernel, "bitsandbytes"]["seconds"],
                    rows[case, kernel, "a copy"]["peer_seconds"],
                ),
                strict=True,
            )
        )
        for case, (plain, kernel) in kinds.items()
    }


@cache
def step_ratios() -> dict[str, dict[str, list[float]]]:
    """Our time over peft's of whole training steps on an H200: shape to kind of ours to its rounds."""
    return _by_case(records.read("bench_gpu_qlora_step")["results"])


@cache
def layer_ratios() -> dict[str, dict[str, list[float]]]:
    """Our time over bitsandbytes' of a 4096 × 4096 layer, forward and backward, on two CPU cores."""
    tables: Any = records.read("bench_cpu")  # one file, a table a question
    [table] = [table for table in tables if "4-bit layer" in table["question"]]
    return _by_case(table["results"])


STEP_SIDES = {"triton": "launched one by one", "graph": "from a graph"}


@cache
def whole_steps() -> dict[str, dict[str, dict[str, Any]]]:
    """Seconds, seconds of kernels, peak bytes and third loss of whole steps: shape to side to them."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in records.read("bench_gpu_qlora_step")["results"]:
        ours, theirs = re.findall(r"\d+\.\d{4}", row["agreement"])
        case = cases.setdefault(row["case"].replace(" x ", "×"), {})
        case[row["ours"]] = {k: row[k] for k in ("seconds", "kernel_seconds", "peak_bytes")} | {"loss": ours}
        case["peft"] = {k: row[f"peer_{k}"] for k in ("seconds", "kernel_seconds", "peak_bytes")}
        case["peft"]["loss"] = theirs
    return cases


def _by_case(results: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    cases: dict[str, dict[str, list[float]]] = {}
    for row in results:
        cases.setdefault(row["case"], {})[row["ours"]] = row["ratios"]
    return cases


def reached() -> dict[str, dict[str, float]]:
    """Share of what memory and arithmetic of the chip allow."""
    allowed = {case: min(H200_PEAK, bandwidth() * n / MOVED) for case, n in OPERATIONS.items()}
    return {
        case: {who: OPERATIONS[case] / row[who] / allowed[case] for who in WHO[:3]}
        for case, row in nf4_seconds().items()
    }


def bandwidth() -> float:
    """Bytes a second of a plain copy of as many bytes as dequantizing moves."""
    return MOVED / nf4_seconds()["dequantize"]["a copy"]


# ---------------------------------------------------------------- pictures and tables


def draw_roofline() -> figures.Picture:
    """Quantizing and dequantizing below the roof."""
    points = {
        f"{case}, {who}": (OPERATIONS[case], MOVED, row[who])
        for case, row in nf4_seconds().items()
        for who in WHO[:3]
    }
    title = "Memory is the limit of both, and dequantizing comes near it"
    return figures.roofline(points, bandwidth=bandwidth(), peak=H200_PEAK, title=title)


def draw_ratios(
    cases: dict[str, dict[str, list[float]]], kinds: dict[str, str], **options: Any
) -> figures.Picture:
    """Our time over a peer's: a group a case, a bar a kind of ours, whiskers over the rounds."""
    series = {
        name: list(zip(*(ratios[kind] for ratios in cases.values()), strict=True))
        for kind, name in kinds.items()
    }
    return figures.bars(series, number_format="{:.2f}", **options)


def draw_waiting() -> figures.Picture:
    """The share of a step in which the GPU computes nothing, because the next kernel is not launched yet."""
    steps = whole_steps()
    series = {
        name: [100 - 100 * case[side]["kernel_seconds"] / case[side]["seconds"] for case in steps.values()]
        for side, name in STEP_SIDES.items()
    }
    title = "Launched one by one, kernels leave the GPU waiting; from a graph they do not"
    return figures.bars(
        series, groups=list(steps), ylabel="% of a step the GPU waits", title=title, number_format="{:.0f}"
    )


DRAWN: dict[str, Callable[[], figures.Picture]] = {
    "roofline": draw_roofline,
    "steps": lambda: draw_ratios(
        step_ratios(),
        {"plain": "plain PyTorch", "triton": "with the kernels"},
        groups=[case.replace(" x ", "×") for case in step_ratios()],
        ylabel="our time over peft's",
        title=f"With the kernels the median ratio to peft's time is {' to '.join(_ends(step_ratios(), 'triton'))}",
    ),
    "waiting": draw_waiting,
    "layer": lambda: draw_ratios(
        layer_ratios(),
        {"plain": "plain PyTorch", "numba": "compiled by numba"},
        groups=[
            f"{case.rpartition(' ')[2]} tokens".replace("1 tokens", "1 token") for case in layer_ratios()
        ],
        ylabel="our time over bitsandbytes'",
        title="Here our layer is faster, and the more so the fewer tokens there are",
    ),
}


def nf4_table() -> str:
    """Milliseconds, as Markdown."""
    rows = [f"| ms | {' | '.join(WHO)} |", "|---" * (len(WHO) + 1) + "|"]
    for case, row in nf4_seconds().items():
        rows.append(f"| {case} | {' | '.join(f'{1000 * row[who]:.3f}' for who in WHO)} |")
    return "\n".join(rows)


def steps_table() -> str:
    """Milliseconds, those in kernels, peak GiB and the loss at step 3, as Markdown."""
    rows = ["| step | side | ms | ms in kernels | peak GiB | loss at step 3 |", "|---" * 6 + "|"]
    for case, sides in whole_steps().items():
        for side, found in sides.items():
            times = f"{1000 * found['seconds']:.1f} | {1000 * found['kernel_seconds']:.1f}"
            rows.append(
                f"| {case} | {side} | {times} | {found['peak_bytes'] / 2**30:.2f} | {found['loss']} |"
            )
        rows.append(f"| {case} | all in float32 | | | | {exact_loss(case):.4f} |")
    return "\n".join(rows)


def exact_loss(case: str) -> float:
    """The loss at step 3 of a shape if nothing is rounded to 16 bits."""
    return records.read("float32_losses")["losses"][case.partition(",")[0]][2]


def finetunes_table() -> str:
    """Whole fine-tunes without graphs and with them, as Markdown."""
    head = ["fine-tune", "steps", "s", "s, graphs", "ms a step", "ms, graphs", "peak GiB", "peak GiB, graphs"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case, ways in records.read("cuda_graphs")["runs"].items():
        off, on = ways["off"], ways["on"]
        cells = [case, off["steps"], *(f"{way['seconds']['train']:.1f}" for way in (off, on))]
        cells += [f"{1000 * way['seconds']['step']:.0f}" for way in (off, on)]
        cells += [f"{way['peak_gpu_memory_bytes'][0] / 2**30:.2f}" for way in (off, on)]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def tokens_table() -> str:
    """Our time over bfloat16's for one token, as Markdown."""
    sides = {"plain": "plain PyTorch", "bitsandbytes": "bitsandbytes", "triton": "our kernel"}
    sides |= {"triton, fused": "our kernel, fused", "bf16, fused": "bfloat16, fused"}
    rows = [f"| one token | {' | '.join(sides.values())} |", "|---" * (1 + len(sides)) + "|"]
    for case, ratios in _by_case(records.read("bench_gpu_decode_step")["results"]).items():
        name = case.replace(", next token, eager", ", launched one by one").replace(
            ", next token, graph", ", from a graph"
        )
        rows.append(f"| {name} | {' | '.join(f'{median(ratios[side]):.2f}' for side in sides)} |")
    return "\n".join(rows)


TABLES = {"ms": nf4_table, "step": steps_table, "fine-tune": finetunes_table, "one token": tokens_table}
"""What stands in the first column's head of each table of the page, and its rows."""


def medians(cases: dict[str, dict[str, list[float]]], kind: str) -> list[str]:
    """The median ratio of each case, written."""
    return [f"{median(ratios[kind]):.2f}" for ratios in cases.values()]


def _ends(cases: dict[str, dict[str, list[float]]], kind: str) -> tuple[str, str]:
    """The smallest and the largest of the median ratios, written."""
    ratios = sorted(median(ratios[kind]) for ratios in cases.values())
    return f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}"


def page_of(page: str, sentences: dict[str, str]) -> str:
    """The page with its tables and the sentences of its pictures as the records have them."""
    for head, table in TABLES.items():
        page, found = re.subn(rf"(?m)^\| {head} \|(?:.*\n)(?:\|.*\n)+", table() + "\n", page)
        if found != 1:
            raise ValueError(f"the page must have one table that begins with {head!r}, found {found}")
    return page_with(page, sentences, FOLDER)


def main() -> None:
    folder = PAGE.parent / FOLDER
    folder.mkdir(exist_ok=True)
    sentences = {}
    for name, draw in DRAWN.items():
        picture = draw()
        (folder / f"{name}.png").write_bytes(figures.to_png(picture))
        sentences[name] = picture.alt
    PAGE.write_text(page_of(PAGE.read_text("utf-8"), sentences), "utf-8")


if __name__ == "__main__":
    main()
