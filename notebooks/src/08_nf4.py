# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 08 · Which 16 numbers?
#
# Four bits name 16 numbers. QLoRA chose its own 16, called NF4. This notebook builds them, tests them against other
# choices, and stores them as the library does, byte for byte.
#
# **You will** derive NF4 from the bell curve, measure where it wins and where it loses, pack two codes into a byte,
# and bring 4.5 bits a weight down to 4.127.
#
# **You need** Python and the idea of a mean. From notebook [07](07_quantization.ipynb): weights are cut into blocks,
# each block is divided by its largest absolute value (**absmax**), and each weight becomes the index of the nearest
# level of a **code**.
#
# **Time:** {minutes}. The computer needs less than one of them.

# %%
ensure_packages("bitsandbytes")

import torch
from safetensors import safe_open
from torch import Tensor

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.four_bit_formats import (
    FORMATS,
    mean_absolute,
    normal_code,
    root_mean_square,
)
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.methods import blockwise, codebook, nf4

# %% [markdown]
# ## 1. How do you cut a bell curve into equal shares?
#
# Weights crowd around zero. Sixteen even levels spend many of their levels where few weights are. The idea behind NF4:
# let each level serve an equal share of the weights. So cut a bell curve, the **normal distribution**, into 16 slices
# of equal area. Its width is told in *standard deviations*: 68 % of all numbers lie within one of the middle, 95 %
# within two.

# %%
predict("08.1")

# %% [markdown]
# The **quantile** at $p$ is the number below which a share $p$ lies. For the normal distribution PyTorch has it as
# `ndtri`. We compare with the quantiles of random normal numbers.

# %%
torch.manual_seed(0)
normal = torch.randn(2**18)
Q = torch.special.ndtri
shares = torch.arange(1, 16, dtype=torch.float64) / 16

# %%
print(Q(shares).numpy().round(2))
print(f"largest difference to the sample: {(normal.double().quantile(shares) - Q(shares)).abs().max():.2f}")


# %%
def draw_shares(ax, parts):
    first = abs(Q(torch.tensor(1 / parts)).item())
    text = f"{parts} slices of {100 / parts:.3g} % each. The outermost begin {first:.2f} standard deviations "
    text += "from the middle."
    figures.equal_shares(parts, title=f"{parts} equal shares", alt=text, ax=ax)


explore(draw_shares, parts=range(2, 17), start={"parts": 16})

# %% [markdown]
# $$Q(p) = \text{the } x \text{ with } P(X \le x) = p, \qquad X \sim N(0, 1)$$
#
# ([quantile function](https://en.wikipedia.org/wiki/Quantile_function).) At 4 slices the three cuts are the
# *quartiles*. NF4 is sometimes said to use quartiles. It uses quantiles: quartiles are one case of them.
#
# What surprises: evenly spaced shares make unevenly spaced cuts. The middle slices of 16 are 0.16 wide, the next to
# last 0.38, and the outermost have no end.
#
# Are real weights normal? We take the token embedding of the course's model, SmolLM2-135M
# ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)). Section 4 says why not its linear layers. Beside it: normal
# numbers, a heavy-tailed distribution (Student's $t$ with 4 degrees of freedom), and normal numbers of which one in a
# thousand is ten times too large. Each is scaled to a root mean square of 1.

# %%
with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
    embedding = file.get_tensor("model.embed_tokens.weight")[::48].float()
    query = file.get_tensor("model.layers.15.self_attn.q_proj.weight").float()

# %%
heavy = torch.randn(2**18) / torch.randn(4, 2**18).square().mean(0).sqrt()
outliers = torch.randn(2**18)
outliers[::1000] *= 10

# %%
samples = {"normal": normal, "heavy-tailed": heavy, "outliers": outliers, "embedding": embedding.flatten()}
samples = {name: x / x.square().mean().sqrt() for name, x in samples.items()}
points = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
measured = {name: x.double().quantile(points) for name, x in samples.items()}

# %%
figures.lines(
    measured,
    x=Q(points),
    xlabel="quantile of the normal distribution",
    ylabel="quantile of the sample",
    alt=f"A straight line means normal. At a share of 0.999, where the normal quantile is {Q(points)[-1]:.2f}: "
    + ", ".join(f"{name} {values[-1]:.2f}" for name, values in measured.items())
    + ".",
)

# %% [markdown]
# The embedding is close to normal in the middle, and its tails are heavier. (The outliers, one in a thousand, lie
# mostly beyond the ends of the picture.) The authors tested LLaMA's weights: 7.5 % of the neurons are not normal,
# where 5 % would fail the test by chance ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), appendix F).
#
# ## 2. Which sixteen numbers does that give?
#
# The paper takes each level as the middle of two neighbouring quantiles, with $k = 4$ bits (equation 4):
#
# $$q_i = \frac{1}{2} \left( Q\!\left(\frac{i}{2^k + 1}\right) + Q\!\left(\frac{i + 1}{2^k + 1}\right) \right)$$

# %%
predict("08.2")

# %%
i = torch.arange(16, dtype=torch.float64)
literal = (Q(i / 17) + Q((i + 1) / 17)) / 2
print(literal.numpy().round(2) + 0)  # + 0: no minus zero

# %% [markdown]
# One level is lost. The other 15 are symmetric, with zero in the middle. (From $i = 1$ to 16, plus infinity takes the
# place of minus infinity.) Why not 16 symmetric levels, at the centres of 16 equal shares?

# %%
centres = Q((2 * i + 1) / 32)
print((centres / centres[-1]).numpy().round(3))

# %% [markdown]
# Now **zero has no level**: a weight of exactly zero would come back as ±0.042 of its block's absmax. Padding and
# pruned weights are exactly zero, and should stay so. Zero and pairs around it make an odd number of levels, and 16
# is even: so NF4 gives the positive side one more. The recipe of the authors' code ([bitsandbytes,
# create_normal_map](https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py)):
#
# - **Positive:** 8 probabilities, evenly spaced from an *offset* below 1 down towards $\frac{1}{2}$, the half itself
#   left out. Take their quantiles.
# - **Negative:** the same with 7, and a minus sign.
# - Add zero. Divide all by the largest.
#
# The offset keeps infinity away. Move it: which value gives the published levels, and which the least error?

# %%
offsets = [0.9, 0.93, 0.94, 0.95, 0.96, 0.9677083, 0.975, 0.98, 0.99]
x = samples["normal"]


def error_of(code):
    W_hat = blockwise.dequantize_blockwise(*blockwise.quantize_blockwise(x, code), code)
    return f"mean absolute {mean_absolute(x, W_hat):.4f}, root mean square {root_mean_square(x, W_hat):.4f}"


errors = {offset: error_of(normal_code(offset)) for offset in offsets}


# %%
def draw_offset(ax, offset):
    rows = {"built": normal_code(offset), "published": codebook.nf4_code()}
    gap = (rows["built"] - rows["published"]).abs().max()
    text = f"Offset {offset:g}: largest difference to the published levels {gap:.3f}. "
    text += f"Error on normal numbers, blocks of 64: {errors[offset]}."
    figures.number_lines(rows, xlabel="level", title=f"offset {offset:g}", alt=text, ax=ax)


explore(draw_offset, offset=offsets, start={"offset": 0.95})

# %% [markdown]
# The published offset is 0.9677083. It is the mean of $1 - \frac{1}{30}$ and $1 - \frac{1}{32}$, the centres of the
# last slice when 15 and when 16 equal shares are cut
# ([Yoshida 2023](https://arxiv.org/abs/2306.06965) analyses the construction).
#
# What surprises: of the offsets here it has the least mean absolute error, but not the least root mean square. That
# one counts large errors more, and a smaller offset moves the inner levels towards the wide
# gaps at the ends. Which error should count? Section 3 shows both.
#
# ### Exercise 08.1 · Build NF4 (two stars, 8 minutes)
#
# Write `derive_nf4(offset)`: the 16 levels by the recipe above, ascending, in float64.


# %% tags=["exercise"]
def derive_nf4(offset: float) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1]` holds 8 probabilities without the half.
# `torch.cat` joins, `.sort().values` sorts.


# %% tags=["solution"]
def derive_nf4(offset: float) -> Tensor:
    positive = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([negative, torch.zeros(1), positive]).sort().values
    return levels / levels[-1]


# %%
check("08.1", derive_nf4)

# %% [markdown]
# Is the course's own derivation within 2e-7 of the published table? Does that equal the library's?

# %%
import bitsandbytes.functional as bnb

published = codebook.nf4_code()
gap = (codebook.derive_nf4_code() - published).abs().max()
(gap < 2e-7).item(), torch.equal(published, bnb.get_4bit_type("nf4", device="cpu"))

# %%
print(published.numpy().round(4))
(published < 0).sum().item(), (published == 0).sum().item(), (published > 0).sum().item()

# %% [markdown]
# Seven negative, zero, eight positive. They are not evenly spaced, though articles on QLoRA sometimes draw them so. The
# last digits (less than 2e-7) depend on where a computation rounds to float32.
#
# Equal shares were the idea. So are the 16 levels used equally often, 6.25 % each?

# %%
blocks = [16, 32, 64, 128, 256, 1024]
used = {b: blockwise.quantize_blockwise(normal, published, b)[0] for b in blocks}
used = {b: 100 * indices.int().bincount(minlength=16) / normal.numel() for b, indices in used.items()}


# %%
def draw_usage(ax, block_size):
    percent = used[block_size]
    most, least = percent.argmax().item(), percent.argmin().item()
    text = f"Blocks of {block_size}: level {most} is used most, {percent[most]:.1f} %, level {least} least, "
    text += f"{percent[least]:.1f} %: {percent[most] / percent[least]:.1f} times. Equal would be 6.25 %."
    style = {"groups": [str(n) for n in range(16)], "number_format": "{:.0f}", "ylabel": "% of the weights"}
    figures.bars({"used": percent}, **style, title=f"blocks of {block_size}", alt=text, ax=ax)


explore(draw_usage, block_size=blocks, start={"block_size": 64})

# %%
even = blockwise.quantize_blockwise(normal, codebook.uniform_code())[0].int().bincount()
f"16 even levels, blocks of 64: {even.max() / even.min():.1f} times"

# %%
absmax = blockwise.quantize_blockwise(normal, published)[1]
designed = Q(torch.tensor(0.9677083))
f"level 1.0 in standard deviations: {designed:.2f} by design, {absmax.mean():.2f} in blocks of 64, on average"

# %% [markdown]
# No: 5.4 times at blocks of 64, though even levels are worse. The paper calls NF4 "information theoretically optimal"
# because each level should serve an equal share. But the levels are stretched to each block's absmax, and the largest
# of 64 normal numbers lies farther out than the design assumes. The larger the block, the farther: no fixed code can
# be used equally at every block size ([Yoshida 2023](https://arxiv.org/abs/2306.06965)).
#
# Is that bad? Equal use is not the goal. Small error is.
#
# ## 3. Which 4-bit code loses least?
#
# "int4" alone names no format. Here are eight, with the constants that each block of $b$ weights keeps:
#
# | name | levels | constants of a block |
# |---|---|---|
# | NF4 | the table above, times absmax | 32 bits |
# | NF4, double quantization | the same | 8 bits + 32 / 256 (section 5) |
# | fp4 | 15 values of a 4-bit float as in bitsandbytes | 32 bits |
# | int4 symmetric | (-7 … 7) / 7, times absmax | 16 bits |
# | int4 even | 16 even levels from -1 to 1, times absmax | 16 bits |
# | int4 eighths | (-8 … 7) / 8, times absmax | 16 bits |
# | int4 signed max | (-8 … 7) / 8, turned so that the largest weight is -8 | 16 bits |
# | int4 min-max | 16 even levels from the smallest weight to the largest | 2 × 16 bits |

# %%
predict("08.3")


# %%
def row(W, blocksize):
    copies = [scheme.round_trip(W, blocksize) for scheme in FORMATS.values()]
    return [f"{mean_absolute(W, copy):.3f} / {root_mean_square(W, copy):.3f}" for copy in copies]


bits = [f"{scheme.bits(64):.3f}" for scheme in FORMATS.values()]
compare(blocks_of_64=FORMATS, bits=bits, **{name: row(W, 64) for name, W in samples.items()})

# %% [markdown]
# Each cell holds the **mean absolute** error and the **root mean square** error, as shares of the weights' root mean
# square. Read a column, then the bits. A second figure sets error against bits, as the block size changes.

# %%
shown = ["NF4", "NF4, double quantization", "int4 signed max", "int4 min-max"]
sizes = [256, 128, 64, 32]


def curve_of(name, W):
    copies = [FORMATS[name].round_trip(W, size) for size in sizes]
    both = {error: [error(W, copy) for copy in copies] for error in (mean_absolute, root_mean_square)}
    return [FORMATS[name].bits(size) for size in sizes], both


curves = {data: {name: curve_of(name, W) for name in shown} for data, W in samples.items()}

# %%
kinds = {"mean absolute": mean_absolute, "root mean square": root_mean_square}


def draw_errors(ax, data, error):
    lines = {name: (bits, both[kinds[error]]) for name, (bits, both) in curves[data].items()}
    text = f"Data: {data}. {error.capitalize()} error at blocks of 64: "
    text += ", ".join(
        f"{name} {errors[2]:.4f} ({bits[2]:.3f} bits)" for name, (bits, errors) in lines.items()
    )
    figures.error_by_bits(lines, ylabel=f"{error} error", title=data, alt=text + ".", ax=ax)


explore(draw_errors, data=list(samples), error=list(kinds))

# %% [markdown]
# The marks are blocks of 256, 128, 64 and 32, from left to right. At blocks of 64, NF4 has the least mean absolute
# error on all four samples. In root mean square, min-max beats it on normal numbers and with outliers; NF4 wins on
# heavy tails and on the embedding. The same bits may also buy smaller blocks, where constants are cheaper:

# %%
sizes_at = {"NF4": 64, "int4 min-max": 64, "int4 signed max": 32}
stored = [FORMATS[name].bits(size) for name, size in sizes_at.items()]
lost = [row(normal, size)[list(FORMATS).index(name)] for name, size in sizes_at.items()]
compare(format=sizes_at, block_size=sizes_at.values(), bits=stored, error_on_normal_numbers=lost)

# %% [markdown]
# So plain NF4, with its 32-bit scales, is not the best use of 4.5 bits on normal numbers. With **double
# quantization**, NF4 has the lowest curve of the four as far as it goes (4.25 bits). That gain comes from cheap
# constants, and int4 can have those too: llama.cpp's [Q4_K](https://github.com/ggml-org/llama.cpp/pull/1684) keeps
# 6-bit constants, 4.5 bits in all at blocks of 32. We have not measured it.
#
# A model is more than the error of its weights. The paper's mean perplexity over many models (lower is better) is
# 34.34 for int4, 31.07 for fp4 (E2M1, not quite bitsandbytes' fp4) and 27.41 for NF4 with double quantization
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), table 2).
#
# ### Exercise 08.2 · The strongest rival (two stars, 6 minutes)
#
# Write `minmax_int4(block)`: put 16 even levels from the smallest to the largest weight of one block, and return each
# weight's nearest level. The weights are not all equal, and the constants are not rounded.


# %% tags=["exercise"]
def minmax_int4(block: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# 16 levels have 15 gaps. Find the index of each weight with `.round()`, then turn indices back into weights.


# %% tags=["solution"]
def minmax_int4(block: Tensor) -> Tensor:
    low, high = block.min(), block.max()
    step = (high - low) / 15
    return low + step * ((block - low) / step).round()


# %%
check("08.2", minmax_int4)

# %% [markdown]
# ## 4. May the model's own weights be the judge?
#
# It seems natural to compare formats on the layers that QLoRA will quantize. The course's model has 134.5 million
# weights and came as a download of 93 MB: 5.5 bits each, so it was quantized before. We hold the contest on one of
# its query weights, in blocks of 32.

# %%
predict("08.4")

# %%
W = query.flatten() / query.square().mean().sqrt()
later = W[16:-16]  # the same weights; each block begins 16 weights later
rivals = ["NF4", "int4 signed max", "int4 min-max"]


def judged(V):
    return [f"{root_mean_square(V, FORMATS[name].round_trip(V, 32)):.2%}" for name in rivals]


compare(root_mean_square=rivals, as_it_is=judged(W), sixteen_weights_later=judged(later))

# %% [markdown]
# The contest was decided before it began. The smallest and largest weight of each block give away its old grid, and
# min-max lands on it. Begin the blocks elsewhere and the miracle is gone.

# %%
shifts = list(range(0, 33, 4))
errors_at = {name: [] for name in ("NF4", "int4 min-max")}
for name, found in errors_at.items():
    for shift in shifts:
        moved = W[shift : W.numel() - 32 + shift]
        found.append(root_mean_square(moved, FORMATS[name].round_trip(moved, 32)))

# %%
figures.lines(
    errors_at,
    x=shifts,
    xlabel="weights by which the blocks are shifted",
    ylabel="root mean square error",
    alt=f"Min-max: {errors_at['int4 min-max'][0]:.4f} at shifts 0 and 32, at least "
    f"{min(e for s, e in zip(shifts, errors_at['int4 min-max'], strict=True) if s % 32):.3f} between. "
    f"NF4 stays within {min(errors_at['NF4']):.3f} and {max(errors_at['NF4']):.3f}.",
)

# %% [markdown]
# The number of different values in a block of 32 shows it too: first the query weight, then the embedding.


# %%
def most_values(V):
    return max(len(block.unique()) for block in V.reshape(-1, 32)[:1000])


most_values(query), most_values(embedding)

# %% [markdown]
# Sixteen: four bits. So the linear layers may not judge 4-bit formats, and a table made on them would be rigged for
# min-max. The embedding went through 8 bits only, never through 4: that is why it stood in section 3. (The remaining
# 0.2 % is what bf16 and 16-bit constants round.)
#
# What to take along: before you compare formats on a downloaded model, ask how its weights were stored. And test on
# blocks that do not line up with the old ones.
#
# ## 5. How do 4.5 bits become 4.127?
#
# A byte is the least that a computer addresses. Two codes share one: the even element in the high half, the odd one
# in the low half.

# %%
indices, absmax = blockwise.quantize_blockwise(embedding, published)
first, second = indices[0, :2].tolist()
f"{first} = {first:04b},  {second} = {second:04b}  ->  {16 * first + second} = {16 * first + second:08b}"

# %% [markdown]
# Multiplying by 16 shifts by four bits, as multiplying by 10 shifts by one decimal digit.
#
# ### Exercise 08.3 · Two codes in a byte (one star, 4 minutes)
#
# Write `pack(indices)` for an even number of uint8 indices from 0 to 15, one-dimensional: half as many bytes, in uint8.


# %% tags=["exercise"]
def pack(indices: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `indices[::2]` are the even elements, `indices[1::2]` the odd ones.


# %% tags=["solution"]
def pack(indices: Tensor) -> Tensor:
    return 16 * indices[::2] + indices[1::2]


# %%
check("08.3", pack)

# %% [markdown]
# The codes take 4 bits a weight. The scales take 32 bits for each 64 weights, half a bit a weight. **Double
# quantization** stores the scales as 8-bit codes, in blocks of 256 scales with one float32 scale each.

# %%
predict("08.5")

# %%
centred = absmax - absmax.mean()
codes, nested = blockwise.quantize_blockwise(centred, codebook.dynamic_code(), blocksize=256)
before, after = absmax.nbytes, codes.nbytes + nested.nbytes
f"before {8 * before / embedding.numel():.3f}, after {8 * after / embedding.numel():.3f} bits a weight"

# %% [markdown]
# Why is the mean taken away? Scales are all positive, and an 8-bit code has both signs: half of it would be idle.
# We read the scales back both ways.


# %%
def read_back(scales):
    code = codebook.dynamic_code()
    return blockwise.dequantize_blockwise(*blockwise.quantize_blockwise(scales, code, 256), code, 256)


with_mean = (read_back(absmax) - absmax).norm() / absmax.norm()
without = (read_back(centred) - centred).norm() / absmax.norm()
f"relative error of the scales: {with_mean:.2%} with the mean, {without:.2%} without"


# %%
def draw_bits(ax, block, second_block):
    plain, first, second = 32 / block, 8 / block, 32 / (block * second_block)
    text = f"Blocks of {block}, second blocks of {second_block}: {4 + plain:.3f} bits a weight, or "
    text += f"{4 + first + second:.5f} = 4 + {first:.4f} + {second:.5f} with double quantization."
    groups = ["float32 scales", "8-bit scales", "their scales"]
    figures.bars({"bits": [plain, first, second]}, groups=groups, ylabel="bits a weight", alt=text, ax=ax)


explore(
    draw_bits,
    block=[16, 32, 64, 128, 256],
    second_block=[64, 256, 1024],
    start={"block": 64, "second_block": 256},
)

# %% [markdown]
# $$4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.12695 \text{ bits}$$
#
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 3: 0.5 becomes 0.127.) Counted are codes, 8-bit
# scales and their float32 scales. Not counted: 32 bits a tensor for the mean, and the two code tables. The paper's
# second level is an 8-bit float; bitsandbytes uses an 8-bit dynamic map, as we do.
#
# What surprises is how little it loses: the errors in the table of section 3 hardly change.
#
# ### Exercise 08.4 · Count the bits (one star, 4 minutes)
#
# Write `bits_per_weight(blocksize, nested_blocksize)` for double quantization, counted as above.


# %% tags=["exercise"]
def bits_per_weight(blocksize: int, nested_blocksize: int) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A second-level scale serves `blocksize * nested_blocksize` weights.


# %% tags=["solution"]
def bits_per_weight(blocksize: int, nested_blocksize: int) -> float:
    return 4 + 8 / blocksize + 32 / (blocksize * nested_blocksize)


# %%
check("08.4", bits_per_weight)

# %% [markdown]
# The last test: the course's `quantize_nf4` against bitsandbytes, on 589,824 real weights.

# %%
packed, ours = nf4.quantize_nf4(embedding, double_quant=True)
their_packed, theirs = bnb.quantize_4bit(embedding, blocksize=64, compress_statistics=True, quant_type="nf4")
[a, b] = [(packed, ours.absmax, ours.nested_absmax, ours.offset),
          (their_packed.flatten(), theirs.absmax, theirs.state2.absmax, theirs.offset)]  # fmt: skip

# %%
names = ["codes", "scales", "scales of scales", "mean of the scales"]
equal = [torch.equal(x, y) for x, y in zip(a, b, strict=True)]
compare(part=names, our_bytes=[x.nbytes for x in a], their_bytes=[y.nbytes for y in b], equal=equal)

# %%
f"{8 * sum(x.nbytes for x in a) / embedding.numel():.5f} bits a weight, {nf4.bits_per_parameter(ours):.5f}"

# %% [markdown]
# Every byte is the same. The digits beyond 4.12695 are the 32 bits of the mean, spread over this one tensor.
#
# ### When not to use it
#
# NF4 levels are no integers: they must be looked up and turned into 16-bit numbers before a product (notebook 09). So
# it saves memory, not time. Where integer hardware matters, take int4 or int8. Where a model is quantized already,
# start from the original weights if you can: a second format adds a second error. And QLoRA leaves embeddings, norms
# and the output head in 16 or 32 bits.

# %%
progress("08")

# %% [markdown]
# ## Summary
#
# - NF4 is built from quantiles: 8 positive levels, 7 negative ones, and zero.
# - The printed formula gives minus infinity. The authors' code keeps it away with an offset.
# - Its levels are not used equally often. At blocks of 64 it has the least mean absolute error here; min-max int4 may
#   win in root mean square. Name the variant, the bits and the error.
# - Two codes share a byte, and 8-bit scales bring 4.5 bits down to 4.127.
# - Limit: these are errors of weights. What a model loses by them must be measured on the model.
#
# **Next question:** 4-bit codes have no gradient. How can a model train on top of them? (Notebook 09.)
