# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 07 · What is lost when 32 bits become 4?
#
# LoRA leaves the frozen weights in memory. QLoRA stores them in 4 bits each. This notebook shows what that does to a
# number, to a tensor with an outlier, and to real weights. Which 16 numbers are the best ones is notebook 08.
#
# **You will** read numbers bit by bit in six formats, round to 16 levels, see one outlier ruin a tensor and blocks
# save it, weigh error against bits on one chart, and measure whether fewer bits are faster.
#
# **You need** Python, and from notebooks 01 and 03 the relative error of a matrix and what a byte is.
#
# **Time:** {minutes}. The computer needs less than one of them.

# %%
import torch
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.house import evening
from lora_edu.classroom.experiments.number_formats import as_float, in_all_formats
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.methods import blockwise, codebook, lowrank

# %% [markdown]
# ## 1. What do the bits of a number say?
#
# A weight is a floating-point number. The usual formats have 32 bits (fp32) or 16, and there are two ways to spend 16:
# fp16 and bf16.

# %%
predict("07.1")

# %%
x = torch.tensor([70_000.0, 1 / 3, 1e-8], dtype=torch.float32)
x.to(torch.float16).tolist(), x.to(torch.bfloat16).tolist()

# %% [markdown]
# bf16 keeps all three, roughly. fp16 keeps 1/3 better, and loses the other two. The bits show why:


# %%
def draw_bits(ax, number, largest=1.0):
    stored = in_all_formats(number, largest)
    rows = {name: (fields, f"{value:.7g}") for name, (fields, value) in stored.items()}
    text = ", ".join(f"{name} {meaning}" for name, (_, meaning) in rows.items())
    title = f"{number:.7g}, integers up to ±{largest:g}"
    figures.bit_fields(rows, title=title, alt=f"{number:.7g} is kept as: {text}.", ax=ax)


numbers = [-1.0, 0.0, 1e-8, 0.001, 0.1, 0.23456, 1 / 3, 0.5, 1.0, 3.14159, 448.0, 65_504.0, 70_000.0]
explore(draw_bits, number=numbers, largest=[1.0, 10.0, 100.0, 70_000.0], start={"number": 0.1})

# %% [markdown]
# The **exponent** sets the range, the **fraction** (or mantissa) the digits. bf16 (sometimes misnamed "BF32") is the
# front half of fp32, rounded: the same range, fewer digits
# ([Kalamkar et al. 2019](https://arxiv.org/abs/1905.12322)). This fp8 is E4M3: 4 bits of exponent, 3 of fraction
# ([Micikevicius et al. 2022](https://arxiv.org/abs/2209.05433)).
#
# int8 and int4 have no exponent. They count equal steps, the largest count meaning `largest`. Move that slider: at 10,
# int4 reads 0.1 as 0, and at 100 int8 does too. Then try the number 1e-8, and 448 and 70,000. (E4M3 has no infinity.
# PyTorch 2.13 stores 70,000 as its largest, 448; older versions may store "not a number".)
#
# To type a number of your own:

# %%
mine = 2.718281828
{name: value for name, (_, value) in in_all_formats(mine, largest=10.0).items()}

# %% [markdown]
# Now read bits yourself. Here are those of 0.1 in bf16, and what they mean as whole numbers:

# %%
fields, value = as_float(0.1, "bf16")
{name: int(bits, base=2) for name, bits in fields.items()}, value

# %%
(-1) ** 0 * 2.0 ** (123 - 127) * (1 + 77 / 2**7)

# %% [markdown]
# With sign $s$, exponent $e$ of $k$ bits and fraction $f$ of $p$ bits,
#
# $$x = (-1)^s \cdot 2^{\,e - (2^{k-1} - 1)} \cdot \left(1 + \frac{f}{2^p}\right)$$
#
# ([IEEE 754](https://en.wikipedia.org/wiki/IEEE_754)). The number taken from $e$ is the *bias*: 127 for $k = 8$. An
# exponent of all zeros is for zero and its neighbours; of all ones, mostly for infinity and "not a number".
#
# What surprises: 0.1 is exact in none of the floating-point formats, not even in fp32 (`torch.tensor(0.1).item()` is
# 0.10000000149011612). Within the range, rounding costs at most a share of $2^{-(p+1)}$ of a number: fp16 0.05 %, bf16
# 0.4 %, fp8 6 %.
#
# ### Exercise 07.1 · Bits to number (two stars, 6 minutes)
#
# Write `float_value(sign, exponent, fraction, exponent_bits, fraction_bits)`. The first three are whole numbers; the
# exponent is neither all zeros nor all ones.


# %% tags=["exercise"]
def float_value(sign: int, exponent: int, fraction: int, exponent_bits: int, fraction_bits: int) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First the bias: `2 ** (exponent_bits - 1) - 1`. `float_value(0, 123, 77, 8, 7)` is 0.10009765625.


# %% tags=["solution"]
def float_value(sign: int, exponent: int, fraction: int, exponent_bits: int, fraction_bits: int) -> float:
    bias = 2 ** (exponent_bits - 1) - 1
    return (-1) ** sign * 2.0 ** (exponent - bias) * (1 + fraction / 2**fraction_bits)


# %%
check("07.1", float_value)

# %% [markdown]
# ## 2. Where does a number go when there are only 16?
#
# Four bits name 16 numbers. We may choose them: such a list is a **code**, its numbers are **levels**. The plainest
# code has 16 even levels from -1 to 1. What is stored of a number is the index of the nearest level, 0 to 15.

# %%
even = codebook.uniform_code(bits=4)
"  ".join(f"{level:.3f}" for level in even)

# %%
predict("07.2")

# %%
index = (0.23456 - even).abs().argmin().item()
index, round(even[index].item(), 5), round(0.23456 - even[index].item(), 5)


# %%
def draw_rounding(ax, number, bits):
    codes = {"even": codebook.uniform_code(bits), "symmetric": codebook.symmetric_int_code(bits)}
    kept = {name: code[(number - code).abs().argmin()].item() for name, code in codes.items()}
    errors = [f"{kept[name]:.5f} (error {abs(number - kept[name]):.5f})" for name in codes]
    text = f"{bits} bits: {number:g} becomes {errors[0]} on even levels, {errors[1]} on symmetric ones."
    rows = {"number": [number]}
    for name, code in codes.items():
        rows |= {f"{len(code)} {name}": code, f"nearest {name}": [kept[name]]}
    figures.number_lines(rows, title=f"{number:g} in {bits} bits", alt=text, ax=ax)


numbers = [-1.0, -0.75, -0.5, -0.1, 0.0, 0.05, 0.1, 0.23456, 1 / 3, 0.6, 0.9]
explore(draw_rounding, number=numbers, bits=[2, 3, 4, 5, 6], start={"number": 0.23456, "bits": 4})

# %% [markdown]
# With a code $c$, a number $x$ becomes
#
# $$i = \arg\min_j |x - c_j|, \qquad \hat x = c_i, \qquad |x - \hat x| \le \tfrac12 \max_j (c_{j+1} - c_j)$$
#
# ([quantization error](https://en.wikipedia.org/wiki/Quantization_(signal_processing))). The bound holds between the
# first and the last level: half of the widest gap. With 16 even levels that is 1/15. Each further bit about halves it.
#
# Some pages say that 0.23456 is stored as 10. Level 10 is 0.333, and the error would be nearly three times larger.
#
# What surprises: set the number to 0. The even levels have no zero, so 0 becomes -0.067. Therefore one often gives a
# level away: **symmetric int4** is (-7 … 7) / 7, with zero, and one of its 16 patterns is unused.
#
# ### Exercise 07.2 · The nearest level (one star, 4 minutes)
#
# Write `nearest_index(x, code)` for any ascending code, even or not.


# %% tags=["exercise"]
def nearest_index(x: float, code: Tensor) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `argmin` gives the place of the smallest entry, counted from 0. Smallest distance, not smallest difference.


# %% tags=["solution"]
def nearest_index(x: float, code: Tensor) -> int:
    return int((x - code).abs().argmin())


# %%
check("07.2", nearest_index)

# %% [markdown]
# ## 3. What can a single weight do to all others?
#
# Weights do not lie between -1 and 1. So a tensor is divided by its largest magnitude, `absmax`: its **scale**. Indices
# and absmax are stored. To read a weight back, multiply its level with absmax. Here are 4,096 Gaussian weights: drawn
# from a bell curve, two of three between -1 and 1. Then one grows to 100. (`nearest_level` is your `nearest_index` for
# a whole tensor.)

# %%
torch.manual_seed(0)
W = torch.randn(4096)
W[100] = 100.0

# %%
predict("07.3")

# %%
code = codebook.symmetric_int_code(bits=4)
indices = blockwise.nearest_level(W / W.abs().max(), code)
(code[indices] != 0).sum().item()

# %% [markdown]
# One number is left of 4,096. The cure: cut the tensor into **blocks**, each with an absmax of its own.

# %%
indices, absmax = blockwise.quantize_blockwise(W, code, blocksize=64)
(code[indices.int()] != 0).sum().item(), absmax.shape

# %% [markdown]
# Only the outlier's block is lost, 63 weights; the other zeros are weights so small that zero is their nearest level.
# Let us see that in a picture: its grey levels, from -1 to 1, are the weights, and one pixel in the middle is the
# outlier. Blocks run along rows, and a row has 288 pixels.

# %%
picture = 2 * torch.from_numpy(evening()).float() - 1


def round_trip(W, bits, blocksize):
    code = codebook.symmetric_int_code(bits)
    return blockwise.dequantize_blockwise(*blockwise.quantize_blockwise(W, code, blocksize), code, blocksize)


# %%
def draw_outlier(left, right, bits, blocksize, outlier):
    W = picture.clone()
    W[96, 144] = outlier
    W_hat = round_trip(W, bits, blocksize)
    error = (W_hat - W).norm() / picture.norm()  # the outlier itself is read back exactly
    setting = f"{bits} bits, blocks of {blocksize:,}, outlier {outlier:g}"
    text = f"{setting}: {(W_hat == 0).sum():,} of 55,296 weights become 0."
    figures.image(W_hat, limits=(-1, 1), title=setting, alt=text, ax=left)
    text = f"Error of the others: {error:.1%}."
    figures.image(W_hat - W, limits=(-1, 1), title=f"error {error:.1%}", alt=text, ax=right)


# %%
sizes, outliers = [16, 64, 288, 4096, 55_296], [1.0, 3.0, 10.0, 30.0, 100.0]
begin = {"bits": 4, "blocksize": 55_296, "outlier": 30.0}
explore(draw_outlier, panels=2, bits=[2, 3, 4, 6, 8], blocksize=sizes, outlier=outliers, start=begin)

# %% [markdown]
# One block of 55,296 is the whole picture: nothing is left of it. Make the blocks smaller, and the loss shrinks to a
# stripe. More bits help too, but look how many it takes. For block $b$,
#
# $$a_b = \max_{k \in b} |w_k|, \qquad \hat w_k = a_b\, c_{i_k}, \qquad
# |w_k - \hat w_k| \le \tfrac12\, a_b \max_j (c_{j+1} - c_j)$$
#
# ([Dettmers et al. 2022](https://arxiv.org/abs/2110.02861), section 2.1). What surprises: a weight's error hardly
# depends on the weight. It depends on the largest weight in its block.
#
# Blocks do not cure everything. The outlier's neighbours are lost all the same.
#
# ### Exercise 07.3 · Block by block (three stars, 10 minutes)
#
# Write `quantize_blocks(W, code, blocksize)`. Return the indices, in the shape of `W`, and the absmax of each block.
# `blocksize` divides the number of weights, and no block is all zeros. Use `blockwise.nearest_level(x, code)`.


# %% tags=["exercise"]
def quantize_blocks(W: Tensor, code: Tensor, blocksize: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `W.view(-1, blocksize)` has one block a row. `.abs().amax(1)` is one number a row, and `absmax[:, None]` makes a
# column of them, which divides row by row.


# %% tags=["solution"]
def quantize_blocks(W: Tensor, code: Tensor, blocksize: int) -> tuple[Tensor, Tensor]:
    blocks = W.view(-1, blocksize)
    absmax = blocks.abs().amax(1)
    return blockwise.nearest_level(blocks / absmax[:, None], code).view(W.shape), absmax


# %%
check("07.3", quantize_blocks)

# %% [markdown]
# ## 4. How small should a block be?
#
# Every block stores its absmax, here in 32 bits. So small blocks cost. Now we need real weights. The linear layers of
# the course's model would not be fair: our copy of them was rounded to 4 bits once. Its embedding never was. It was
# rounded to 8 bits once, so we stop at 6 here.

# %%
from safetensors import safe_open

from lora_edu.llm.base_model import fetch_base_model

with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
    embedding = file.get_slice("model.embed_tokens.weight")[1000:1512].float()
embedding.shape, f"largest: {embedding.abs().max() / embedding.std():.1f} standard deviations"

# %%
predict("07.4")


# %%
def error(W, bits, blocksize):
    return lowrank.relative_error(W, round_trip(W, bits, blocksize))


ways = [(4, 16), (5, 32), (6, 4096)]
errors = [f"{error(embedding, *way):.1%}" for way in ways]
compare(bits_and_blocksize=ways, bits_a_weight=[f"{b + 32 / size:.2f}" for b, size in ways], error=errors)

# %% [markdown]
# With `bits` for the index, the constants of a block are shared by all its weights:
#
# $$\text{bits per parameter} = \text{bits} + \frac{\text{constant bits}}{\text{blocksize}}$$
#
# For 4 bits and blocks of 64 that is $4 + 32 / 64 = 4.5$
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 3). The chart has one line a code width. Along a
# line, blocks shrink from 4,096 (left) to 8 (right). For comparison, Gaussian noise.

# %%
weights = {"embedding": embedding, "Gaussian": torch.randn(512, 576)}
widths, sizes = [3, 4, 5, 6], [4096, 1024, 512, 256, 128, 64, 32, 16, 8]
table = {(name, b): [error(W, b, size) for size in sizes] for name, W in weights.items() for b in widths}


# %%
def draw_budget(ax, weight, bits, blocksize):
    cost, kept = bits + 32 / blocksize, table[weight, bits][sizes.index(blocksize)]
    budget = [[b + 32 / size for size in sizes] for b in widths]
    series = {f"{b} bits": (costs, table[weight, b]) for b, costs in zip(widths, budget, strict=True)}
    text = f"{weight}, {bits}-bit codes, blocks of {blocksize:,}: {cost:.2f} bits a weight, error {kept:.1%}."
    title = f"{weight}: {cost:.2f} bits, error {kept:.1%}"
    figures.error_budget(series, chosen=(cost, kept), title=title, alt=text, ax=ax)


begin = {"bits": 4, "blocksize": 64}
explore(draw_budget, weight=list(weights), bits=widths, blocksize=sizes, start=begin)

# %% [markdown]
# Lower left is better. Follow a line to the right: smaller blocks buy less and less, until the next width gives more
# for the same bits. For 4-bit codes of the embedding, 64 is a good place. (6-bit codes in blocks of 1,024 would have
# won our prediction: 6.03 bits, 5.0 %.)
#
# What surprises: set the weight to Gaussian. Without outliers large blocks lose less, and for 6 bits the 6-bit codes
# win. A format is good or bad *for* some weights; always ask what it was tried on.
#
# 32 bits are a lot for a scale. Notebook 08 quantizes the scales too.
#
# Two things that one reads about quantization, tried on the embedding at 4.5 bits:

# %%
embedding_hat = round_trip(embedding, 4, 64)
f"mean magnitude {embedding.abs().mean():.3f} before, {embedding_hat.abs().mean():.3f} after"

# %%
f"read back as {embedding_hat.dtype}: error still {lowrank.relative_error(embedding, embedding_hat):.0%}"

# %% [markdown]
# Quantization does not make weights *smaller*: it makes them coarser, in fewer bits. And reading them back into fp32,
# or computing beside them in fp32, does not restore what rounding lost. Training an adapter may compensate for some of
# it (notebook 09).
#
# ### Exercise 07.4 · Bits per parameter (one star, 3 minutes)
#
# Write `bits_per_parameter(bits, blocksize, constant_bits)` for whole blocks, each of which stores `constant_bits` bits
# of constants.


# %% tags=["exercise"]
def bits_per_parameter(bits: int, blocksize: int, constant_bits: int) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Each weight has its own index, and pays its share of the block's constants. `bits_per_parameter(4, 8, 32)` is 8: at
# blocks of 8, a weight in "4 bits" takes 8.


# %% tags=["solution"]
def bits_per_parameter(bits: int, blocksize: int, constant_bits: int) -> float:
    return bits + constant_bits / blocksize


# %%
check("07.4", bits_per_parameter)

# %% [markdown]
# ## 5. Are fewer bits faster?
#
# An eighth of the bits is about an eighth of the memory. Is it also less time? We take one layer, 2048 × 2048, four
# times: in fp32, in bf16, in int8, and in NF4, the 4-bit format of QLoRA.

# %%
predict("07.5")

# %%
from lora_edu.methods.qlora import NF4Linear

wide = nn.Linear(2048, 2048, bias=False)
W = wide.weight.detach()
W_bf16, W_nf4 = W.bfloat16(), NF4Linear.from_linear(wide)

# %% [markdown]
# int8 goes further: inputs are quantized as well, with one absmax a row, and whole numbers are multiplied with whole
# numbers. PyTorch's `_int_mm` does that; its name says that it may change.

# %%
W_scale = W.abs().amax(1) / 127
W_int8 = (W / W_scale[:, None]).round().to(torch.int8)


def int8_layer(x):
    x_scale = x.abs().amax(1, keepdim=True) / 127
    return torch._int_mm((x / x_scale).round().to(torch.int8), W_int8.T) * x_scale * W_scale


layers = {"fp32": wide, "bf16": lambda x: (x.bfloat16() @ W_bf16.T).float(), "int8": int8_layer, "NF4": W_nf4}

# %%
import time

from torch.utils.benchmark import Timer


@torch.no_grad()
def milliseconds(layer, tokens):
    names = {"layer": layer, "x": torch.randn(tokens, 2048)}
    timer = Timer("layer(x)", globals=names, timer=time.thread_time)  # leaves out the time of other programs
    return 1000 * min(timer.blocked_autorange(min_run_time=0.3).times)


# %% tags=["measured"]
times = {n: [milliseconds(layer, n) for layer in layers.values()] for n in (1, 64)}
shares = {f"{n} tokens" if n > 1 else "1 token": [t / row[0] for t in row] for n, row in times.items()}
text = "; ".join(
    f"{name} {shares['1 token'][i]:.2f} and {shares['64 tokens'][i]:.2f}" for i, name in enumerate(layers)
)
figures.bars(
    shares, groups=list(layers), ylabel="time, fp32 = 1", alt=f"Time at 1 and 64 tokens, fp32 = 1: {text}."
)

# %%
x = torch.randn(64, 2048)
with torch.no_grad():
    errors = [lowrank.relative_error(wide(x), layer(x)) for layer in layers.values()]
stored = [W.nbytes, W_bf16.nbytes, W_int8.nbytes + W_scale.nbytes, sum(b.nbytes for b in W_nf4.buffers())]
assert stored == sorted(stored, reverse=True) and errors == sorted(errors)
compare(layer=list(layers), MB=[f"{b / 1e6:.1f}" for b in stored], error=[f"{e:.1%}" for e in errors])

# %% [markdown]
# The stored picture is from a processor that multiplies bf16 and int8 in hardware, on one core; yours may differ.
# There, with 64 tokens, these two are several times faster than fp32. NF4 is slowest, most of all at one token:
# unpacking $W$ takes as long, and little is multiplied.
#
# So "quantization speeds models up" is half of a truth. Time is saved where the hardware *multiplies* in the narrow
# format. NF4 is a format for *storage*. (At one token, a GPU mostly waits for $W$. There, kernels that unpack while
# they multiply can be faster: [AWQ](https://arxiv.org/abs/2306.00978).)
#
# int8 has its own catch: the inputs of large models have outliers, so
# [LLM.int8()](https://arxiv.org/abs/2208.07339) computes some columns in 16 bits (section 3).
#
# ### When not to use it
#
# When the weights fit into memory in 16 bits: 4 bits then cost accuracy, often time, and save nothing that you need.
# For embeddings, norms and the head: QLoRA leaves them in 16 or 32 bits. And not without blocks.

# %%
progress("07")

# %% [markdown]
# ## Summary
#
# - Exponent bits are range, fraction bits are digits. bf16 has fp32's range, fp16 has more digits.
# - With 16 even levels 0.23456 is stored as 9, counted from 0, and read as 0.2: an error of 0.03456.
# - The largest weight sets the error of its whole block. Blocks of 64 cost 0.5 bits and save the rest from an outlier.
# - Judge a format by error *and* bits per parameter, on the weights that you have.
# - Limit: rounding is not undone by computing in more bits, and storing 4 bits does not make a layer faster.
#
# **Next question:** even levels waste some of the 16. Which 16 numbers suit weights? (Notebook 08.)
