"""Exercises of notebook 13."""

import math

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer

# ---------------------------------------------------------------- 13.1 left_out(layers, blocks)


def left_out(layers: list[tuple[int, str]], blocks: int) -> list[tuple[int, str]]:
    """The layers (block, kind) that some block has and another of the `blocks` has not, in order."""
    kinds = sorted({kind for _, kind in layers})
    return [(block, kind) for block in range(blocks) for kind in kinds if (block, kind) not in layers]


def _up_to_the_last_one_found(layers, blocks):
    return left_out(layers, max((block for block, _ in layers), default=-1) + 1)


def _whole_blocks_alone(layers, blocks):
    found = {block for block, _ in layers}
    return [pair for pair in left_out(layers, blocks) if pair[0] not in found]


def _what_is_there(layers, blocks):
    return sorted(layers)


def _blocks_counted_from_one(layers, blocks):
    return [(block + 1, kind) for block, kind in left_out(layers, blocks)]


def _files():
    every = [(block, kind) for block in range(3) for kind in ("q", "v")]
    return [(every, 3), (every[:3] + every[4:], 3), (every, 4), (every[2:], 3), (every[:1] + every[4:], 4)]


# ---------------------------------------------------------------- 13.2 gguf_alpha(r, lora_alpha, use_rslora)


def gguf_alpha(r: int, lora_alpha: float, use_rslora: bool) -> float:
    """The alpha that a file must hold for a reader that always multiplies by alpha / r."""
    return lora_alpha * math.sqrt(r) if use_rslora else lora_alpha


def _alpha_copied(r, lora_alpha, use_rslora):
    return lora_alpha


def _scaling_written(r, lora_alpha, use_rslora):
    return lora_alpha / (math.sqrt(r) if use_rslora else r)


def _root_the_other_way(r, lora_alpha, use_rslora):
    return lora_alpha / math.sqrt(r) if use_rslora else lora_alpha


def _root_always(r, lora_alpha, use_rslora):
    return lora_alpha * math.sqrt(r)


def _rank_in_place_of_its_root(r, lora_alpha, use_rslora):
    return lora_alpha * r if use_rslora else lora_alpha


def _adapters():
    return [
        (8, 16.0, False),
        (8, 16.0, True),
        (4, 6.0, True),
        (1, 2.0, True),
        (64, 16.0, True),
        (64, 16.0, False),
    ]


def _the_reader_scales_as_peft(function, r, lora_alpha, use_rslora) -> bool:
    wanted = lora_alpha / (math.sqrt(r) if use_rslora else r)
    return math.isclose(float(function(r, lora_alpha, use_rslora)) / r, wanted, rel_tol=1e-6)


# ---------------------------------------------------------------- 13.3 interleave(rows, heads)


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads x head_dim, n) in llama.cpp's order: in each head, row i, then row i + head_dim / 2."""
    total, columns = rows.shape
    return rows.reshape(heads, 2, total // heads // 2, columns).transpose(1, 2).reshape(total, columns)


def _as_they_were(rows, heads):
    return rows


def _the_way_back(rows, heads):
    total, columns = rows.shape
    return rows.reshape(heads, total // heads // 2, 2, columns).transpose(1, 2).reshape(total, columns)


def _across_all_heads(rows, heads):
    return interleave(rows, 1)


def _heads_exchanged(rows, heads):
    total, columns = rows.shape
    return rows.reshape(heads, total // heads, columns).transpose(0, 1).reshape(total, columns)


def _halves_exchanged(rows, heads):
    total, columns = rows.shape
    return rows.reshape(heads, 2, total // heads // 2, columns).flip(1).reshape(total, columns)


def _heads():
    for heads, head_dim in ((1, 4), (2, 8), (3, 6)):
        yield torch.arange(2.0 * heads * head_dim).reshape(heads * head_dim, 2), heads


EXERCISES = {
    "13.1": Exercise(
        solution=left_out,
        cases=_files,
        wrong_answers=(
            WrongAnswer(
                _up_to_the_last_one_found, "You stop at the last block that has something. The base goes on."
            ),
            WrongAnswer(_whole_blocks_alone, "You name whole blocks alone. A block may have q and lack v."),
            WrongAnswer(_what_is_there, "You list what is there. What is missing?"),
            WrongAnswer(_blocks_counted_from_one, "You count blocks from 1. The file's names begin at 0."),
        ),
    ),
    "13.2": Exercise(
        solution=gguf_alpha,
        cases=_adapters,
        wrong_answers=(
            WrongAnswer(
                _alpha_copied, "With rsLoRA the reader still divides by r. By what did training divide?"
            ),
            WrongAnswer(
                _scaling_written,
                "That is the scaling. The reader divides what the file holds by r once more.",
            ),
            WrongAnswer(
                _root_the_other_way,
                "The root of r is on the wrong side: alpha / r must become alpha / sqrt(r).",
            ),
            WrongAnswer(
                _root_always, "Without rsLoRA the reader's rule is the trainer's. Nothing changes then."
            ),
            WrongAnswer(_rank_in_place_of_its_root, "Now r cancels altogether. Its root must stay."),
        ),
        laws=(Law("the reader's alpha / r is the scaling of training.", _the_reader_scales_as_peft),),
    ),
    "13.3": Exercise(
        solution=interleave,
        cases=_heads,
        wrong_answers=(
            WrongAnswer(
                _as_they_were, "Nothing moved. Row 0's partner is half a head away; there it must come next."
            ),
            WrongAnswer(
                _the_way_back,
                "That is the way back: it takes neighbours apart. Here halves become neighbours.",
            ),
            WrongAnswer(_across_all_heads, "Pairs reach over two heads. Each head is turned by itself."),
            WrongAnswer(
                _heads_exchanged,
                "Rows of different heads stand beside each other. A pair lies within one head.",
            ),
            WrongAnswer(
                _halves_exchanged,
                "The halves changed places as blocks. They must be woven: i, i + half, i + 1, ...",
            ),
        ),
    ),
}
