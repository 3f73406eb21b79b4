"""What the line below each picture must hold, computed here from the labels that its sliders show.

One function an explorer, in the notebook's order. Where a number comes out of a training or a random sample, only what
follows from the sliders alone is asked for; every value of those is drawn as well, and looked at by tests/films.py.
"""

import json
from functools import cache
from statistics import NormalDist, median

import numpy as np
import torch
from safetensors import safe_open

from lora_edu.classroom.experiments.house import evening
from lora_edu.llm.base_model import fetch_base_model, load_base_model
from lora_edu.llm.data import DATA, extraction, load_events


def number(label):
    """The number that a label of at most six digits stands for."""
    return 1 / 3 if label == "0.333333" else float(label)


# ---------------------------------------------------------------- 00 and 01


def ways_to_train(GPU_GiB):
    # Four float32 numbers a weight, and cuBLAS's workspace.
    full = 16 * PARAMETERS["Mistral-7B"] / 2**30 + 1 / 16
    all_fit = "all three fit." if float(GPU_GiB) > full else ""
    return f"On a GPU of {GPU_GiB} GiB", f"full fine-tune {full:.2f} GiB", all_fit


@cache
def picture_spectrum():
    return np.linalg.svd(evening(), compute_uv=False)


@cache
def weight_spectrum():
    with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
        weight = file.get_tensor("model.layers.15.self_attn.q_proj.weight")
    return np.linalg.svd(weight.double().numpy(), compute_uv=False)


def least_error(spectrum, rank):
    return np.linalg.norm(spectrum[rank:]) / np.linalg.norm(spectrum)


def copied_picture(terms):
    error = least_error(picture_spectrum(), int(terms))
    return f"Rank {terms}: {int(terms) * (192 + 288):,} numbers", f"relative error {error:.1%}."


def ellipse(angle, rank):
    # The squares of the half axes are the eigenvalues of W^T W = [[2.25, 1.8], [1.8, 2.25]]; v1 stands at 45 degrees.
    longer, shorter = 4.05**0.5, 0.45**0.5
    heard = np.radians(int(angle) - 45)
    length = np.hypot(longer * np.cos(heard), (rank == "2") * shorter * np.sin(heard))
    shape = f"half axes of {longer:.2f} and {shorter:.2f}" if rank == "2" else f"a stroke of {longer:.2f}"
    return shape, f"x at {angle}° ", f"its y is {length:.2f} long"


def copied_weight(rank):
    return f"at rank {rank}:", f"real weight {least_error(weight_spectrum(), int(rank)):.0%}"


# ---------------------------------------------------------------- 02


def energies(kind, block, rank):
    path = f"model.layers.{block}.{'self_attn' if kind in 'qv' else 'mlp'}.{kind}_proj"
    with safe_open(DATA / "delta_w" / "spectra.safetensors", "np") as file:
        spectra = [file.get_tensor(f"{path}.{part}") for part in ("dW", "W")]
    dW, W = (1 - least_error(spectrum.astype(float), int(rank)) ** 2 for spectrum in spectra)
    return f"{kind} of block {block}:", f"dW {dW:.0%}, W {W:.0%}"


def shared_directions(kind):
    layers = json.loads((DATA / "runs" / "delta_w_overlap.json").read_text())["layers"]
    pairs = [pair for path, layer in layers.items() if f".{kind}_proj" in path for pair in layer["right"]]
    first, last = (np.median([pair[place] for pair in pairs]) for place in (0, -1))
    chance = "4.2%" if kind == "down" else "11%"  # 64 of the 1,536 or 576 numbers that it reads
    return f"two runs {first:.0%} at 1, {last:.0%} at 64; chance", f"{chance} at 64"


# ---------------------------------------------------------------- 03


def update_of_a_layer(d_in, d_out, r):
    together = int(r) * (int(d_in) + int(d_out))
    return (
        f"hold {together:,}: {together / (int(d_in) * int(d_out)):.2%} of W",
        f"W, frozen, is {int(d_out):,} ×",
    )


# Of the whole models, and what a unit of rank costs on query and value.
PARAMETERS = {"SmolLM2-135M": 134_515_008, "Mistral-7B": 7_241_732_096}
QUERY_VALUE = {"SmolLM2-135M": 30 * (576 + 576 + 576 + 192)}


def training_memory(model, tokens):
    return (
        f"{model}: ",
        f"{int(tokens):,} tokens: the first 26 GiB enlarged",
        "The lines are T4: 14.56 GiB",
    )


# ---------------------------------------------------------------- 04


def layer(rank, alpha):
    held = f"A and B hold {9 * int(rank)} numbers, W holds 20."
    return f"and rank {rank}.", f"times α / r = {int(alpha) / int(rank):.3g} they add", held


def first_moves(beginning):
    stand_still = "A: 0 at 0, 0 at 14. B: 0 at 0, 0 at 14."  # at every step, as neither has a gradient
    return (stand_still if beginning == "both zero" else "They cross at",)


def slope(factor, row, column):
    return (f"added to {factor}[{row}, {column}]. loss: ",)


# ---------------------------------------------------------------- 05 and 05b


def ways_by_rank(task):
    runs = json.loads((DATA / "runs" / "digit_sweep.json").read_text())["runs"]
    found = [
        run for run in runs if (run["experiment"], run["task"], run["way"]) == ("ranks", task, "from scratch")
    ]
    best = max(found, key=lambda run: sorted(run["validation"])[9])  # torch's median of 20 is the tenth
    scratch = f"{np.median(best['test']):.0%} at 1, "
    return f"{task.capitalize()} digits right over rank", f"from scratch: {scratch}"


def drift(update_size):
    return f"Updates of {100 * float(update_size):.3g} % of W.", "after 300 swaps: float32"


# ---------------------------------------------------------------- 06


@cache
def encoded_example():
    model, tokenizer = load_base_model(dtype="float32")
    example = extraction.encode_example(tokenizer, load_events("test")[0])
    start = np.flatnonzero(np.array(example["labels"]) >= 0)[0]
    return model, tokenizer, torch.tensor(example["input_ids"]), int(start)


@cache
def next_token(token):
    model, tokenizer, ids, start = encoded_example()
    place = start + int(token) - 1
    with torch.no_grad():  # of the text so far alone
        probability = model(ids[None, :place]).logits[0, -1].double().softmax(dim=-1)
    right, best = ids[place], probability.argmax()
    return (
        f"Token {token} of the answer. Right is {tokenizer.decode(right)!r},",
        f"with a probability of {probability[right]:.1%}.",
        f"The likeliest, {tokenizer.decode(best)!r}, has {probability[best]:.1%}.",
    )


# ---------------------------------------------------------------- 07


def stored(label, largest):
    x, largest = number(label), float(largest)
    with np.errstate(over="ignore"):
        half = np.float16(x)
    pattern = f"{int(half.view(np.uint16)):016b}"
    return (f"fp16: {pattern[0]} {pattern[1:6]} {pattern[6:]}, {float(half):.9g}.",)


def rounded(label, bits, levels):
    count = 2 ** int(bits) - (levels == "symmetric")
    error = np.abs(number(label) - np.linspace(-1, 1, count)).min()
    return f"{count} levels, numbered 0 to {count - 1}.", f"off by {error:.5f}".rstrip("0").rstrip(
        "."
    ) + ". Half"


def outlier(bits, blocksize, size):
    setting = f"{bits} bits, blocks of {int(blocksize):,}, outlier {size}."
    if bits == "2":  # many greys lie on a tie between two of its three levels: rounding decides
        return (setting,)
    weights = (2 * evening() - 1).astype(np.float32)
    weights[96, 144] = float(size)
    tail = -weights.size % int(blocksize)  # the last block may be shorter; what fills it up is not counted
    blocks = np.pad(weights.flatten(), (0, tail), constant_values=np.nan).reshape(-1, int(blocksize))
    largest = np.nanmax(np.abs(blocks), axis=1, keepdims=True)
    scaled = np.abs(blocks) / np.where(largest == 0, 1, largest)
    zeros = np.count_nonzero(scaled < 0.5 / (2 ** (int(bits) - 1) - 1))
    return setting, f"{zeros:,} of 55,296 numbers are read back as 0."


def bits_a_weight(weight, bits, blocksize):
    cost = int(bits) + 32 / int(blocksize)
    return (f"{weight}, {bits} bits, blocks of {int(blocksize):,}: {cost:.2f} bits a weight",)


def four_bit_speeds(layer, work, clock):
    rows = json.loads((DATA / "runs" / "bench_gpu_four_bit_layer.json").read_text())["results"]
    shape = [int(side.replace(",", "")) for side in layer.split(" × ")]
    bf16, narrow = (
        next(row for row in rows if (row["shape"], row["passes"], row["way"]) == (shape, work, way))
        for way in ("bf16", "bitsandbytes")
    )
    by_kernels, by_call = bf16["kernel_seconds"] / narrow["kernel_seconds"], 1 / median(narrow["ratios"])
    return (
        f"{layer}, {work}: bitsandbytes",
        f"is {by_kernels if 'GPU' in clock else by_call:.2f} times as fast at 1 token",
    )


# ---------------------------------------------------------------- 08


def equal_shares(slices):
    cut = abs(NormalDist().inv_cdf(1 / int(slices)))
    between = "The cut stands at 0" if slices == "2" else f"between {-cut:.3g} and {cut:.3g}"
    return f"in {slices} slices of equal area, {1 / int(slices):.3g} each", between


def usage(block_size):
    return f"Blocks of {block_size}: no equal use. Most used is the level", "Equal use would be 6.25 %."


def settled(step):
    return (f"After {step} of 200 steps no level lies farther than",)


def codes_compared(error):
    return f"NF4 has the least {error} error.", "4.25 bits: normal NF4 (", "embedding NF4 ("


def stored_bytes(block_size):
    size = int(block_size)
    after = 4 + 8 / size + 32 / (256 * size)
    return f"256 blocks of {size} weights, {128 * size:,} bytes of codes.", f"the scales: {after:.5f}."


def formats_compared(error):
    return f"{error.capitalize()} error, by bits a weight.", "4.13 bits: normal NF4 + DQ ("


# ---------------------------------------------------------------- 11


def storage(r):
    adapters, base = 4 * int(r) * QUERY_VALUE["SmolLM2-135M"], 4 * PARAMETERS["SmolLM2-135M"]
    return (
        f"adapters: 0 at 0, {1000 * adapters / 2**30:.3g} at 1,000",
        f"the base: {base / 2**30:.3g} at 0",
    )


# ---------------------------------------------------------------- 12


def loss_scale(log2_scale, steps):
    scale = f"Loss scale {2 ** int(log2_scale):,}, after {steps} steps: become 0"
    return scale, "and become infinite"


def alpha_at_loading(lora_alpha):
    return (f"Trained with α 16, loaded with {lora_alpha}: rotated (new)",)


def memory_knob(knob):
    return f"As asked 38.3 GiB. With {knob}", "a T4."


# ---------------------------------------------------------------- 09

# What a moment adds to a layer at rest, in MiB: activations and gradients of 512 tokens, each of 4096 numbers.
ADDED = {"1": 0, "2": 4 + 4, "3": 8 + 512 * 16 * 4 / 2**20, "4": 4 + 4 + 4 + 0.5, "5": 0.5}
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


def life(step):
    place = int(step) if int(step) < 32 else 63 - int(step)
    block = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    stored = 32 * block * NF4_BITS / 8 / 2**30
    way = "forward" if int(step) < 32 else "back"
    return f"{stored:.3g} GiB in all. On the way {way}, a weight of block {place + 1} is made wide: 0.109 GiB"


def moments(method, moment):
    name = ("at rest", "forward", "waiting", "back", "after")[int(moment) - 1]
    stored = 32 if method == "LoRA" else 4096**2 * NF4_BITS / 8 / 2**20
    copied = method != "LoRA" and (moment in "24" or (method.endswith("wide") and moment == "3"))
    total = stored + 0.5 + 2 * 0.5 + ADDED[moment] + 32 * copied  # float32: A and B, and two averages
    return f"{method}, {name}: ", f"Now, {name}: {total:.3g} MiB"


def seven_billion(r, tokens, checkpointing):
    sides = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14_336)  # of q, o; k, v; gate, up, down
    trained = 4 * 32 * int(r) * sides / 2**30
    return f"weights that train {trained:.2f}", f"averages {2 * trained:.2f}", "The line is T4: 14.56 GiB"


EXPECTED = {
    "00_start_here": [ways_to_train],
    "01_rank_and_svd": [copied_picture, ellipse, copied_weight],
    "02_are_updates_low_rank": [energies, shared_directions],
    "03_parameter_budget": [update_of_a_layer, training_memory],
    "04_lora_from_scratch": [layer, first_moves, slope],
    "05_training_lora": [ways_by_rank],
    "05b_cost_and_shipping": [drift],
    "06_lora_on_a_language_model": [next_token],
    "07_quantization": [stored, rounded, outlier, bits_a_weight, four_bit_speeds],
    "08_nf4": [equal_shares, usage, settled, codes_compared, stored_bytes, formats_compared],
    "09_qlora_from_scratch": [life, moments, seven_billion],
    "11_many_adapters": [storage],
    "12_failure_clinic": [loss_scale, alpha_at_loading, memory_knob],
}
