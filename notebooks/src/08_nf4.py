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
# Four bits name 16 numbers. QLoRA chose its own 16, called NF4. This notebook builds them, looks for better ones, and
# stores them as the library does, byte for byte.
#
# **You will** derive NF4 from the bell curve, watch other levels settle on it, find out when a contest of formats is
# rigged, and bring 4.5 bits a weight down to 4.127.
#
# **You need** Python and the idea of a mean. From notebook [07](07_quantization.ipynb): weights are cut into blocks,
# each block is divided by its largest absolute value (**absmax**), and each weight becomes the index of the nearest
# level of a **code**.
#
# **Time:** {minutes}. The cells run in about a minute and a half.

# %%
ensure_packages("bitsandbytes")

import torch
from safetensors import safe_open
from torch import Tensor

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.four_bit_formats import (
    CODES,
    FORMATS,
    by_bits,
    mean_absolute,
    root_mean_square,
    with_code,
)
from lora_edu.classroom.experiments.gguf_referee import READS, WRITES, read_by_gguf
from lora_edu.classroom.experiments.gptq import gptq, output_error
from lora_edu.classroom.experiments.head_errors import head_errors, hidden_states
from lora_edu.classroom.experiments.lloyd import Quotients, even_start, excess, excess_by_offset, settle
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model, load_base_model
from lora_edu.llm.data import load_events, load_persona
from lora_edu.llm.data.extraction import encode_example, encode_turn
from lora_edu.methods import blockwise, codebook, nf4

# %% [markdown]
# ## 1. Which 16 numbers serve equal shares of a bell curve?
#
# Weights crowd around zero, so 16 even levels spend many of their levels where few weights are. The idea behind NF4:
# let each level serve an equal share of the weights. Cut a bell curve, the **normal distribution**, into slices of
# equal area.


# %%
def draw_shares(ax, slices):
    figures.equal_shares(slices, title="Equal shares make unequal slices", ax=ax)


explore(draw_shares, slices=range(2, 17), start={"slices": 16})

# %% [markdown]
# The unit is the *standard deviation*: 68 % of all numbers lie within one of the middle. The cuts are **quantiles**:
# below the quantile at $p$ lies a share $p$ of all numbers. PyTorch calls it `ndtri`.
#
# $$Q(p) = \text{the } x \text{ with } P(X \le x) = p, \qquad X \sim N(0, 1)$$
#
# Are real weights normal? We take the token embedding of SmolLM2-135M ([Allal et al.
# 2025](https://arxiv.org/abs/2502.02737)): the table with a row of weights for each token. Beside it stand normal
# numbers, numbers with heavy tails (Student's $t$ distribution, 4 degrees of freedom), and normal numbers of which one
# in a thousand is ten times too large. All are scaled to a **root mean square** (root of the mean of the squares) of 1.

# %%
with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
    embedding = file.get_tensor("model.embed_tokens.weight")[::48].float()
    query = file.get_tensor("model.layers.15.self_attn.q_proj.weight").float()

# %%
torch.manual_seed(0)
normal, heavy, outliers = torch.randn(2**18), torch.randn(2**18), torch.randn(2**18)
heavy /= torch.randn(4, 2**18).square().mean(0).sqrt()
outliers[::1000] *= 10

# %%
samples = {"normal": normal, "heavy-tailed": heavy, "outliers": outliers, "embedding": embedding.flatten()}
samples = {name: x / x.square().mean().sqrt() for name, x in samples.items()}

# %% [markdown]
# How to read the picture: at each place, so many standard deviations from the middle, a sample's own quantile is
# drawn. A sample that is exactly normal gives the straight line.

# %%
places = torch.linspace(-3.1, 3.1, 63, dtype=torch.float64)
shares = torch.special.ndtr(places)
measured = {name: samples[name].double().quantile(shares) for name in ("heavy-tailed", "outliers", "embedding")}
axes = {"xlabel": "quantile of the normal distribution", "ylabel": "quantile of the sample"}
figures.lines({"exactly normal": places} | measured, x=places, title="The embedding has heavy tails", **axes)

# %% [markdown]
# The embedding is close to normal in the middle and heavy in the tails. In LLaMA 7.5 % of the neurons are not normal,
# where 5 % would fail such a test by chance ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), appendix F).
#
# The paper takes each level as the middle of two neighbouring quantiles, with $k = 4$ bits (equation 4):
#
# $$q_i = \frac{1}{2} \left( Q\!\left(\frac{i}{2^k + 1}\right) + Q\!\left(\frac{i + 1}{2^k + 1}\right) \right)$$

# %%
predict("08.1")

# %%
Q = torch.special.ndtri
i = torch.arange(16, dtype=torch.float64)
print(((Q(i / 17) + Q((i + 1) / 17)) / 2).numpy().round(2))

# %% [markdown]
# One level is lost. Then why not the centres of 16 equal shares?

# %%
centres = Q((2 * i + 1) / 32)
print((centres / centres[-1]).numpy().round(3))

# %% [markdown]
# Now **zero has no level**: a weight of exactly zero would come back as ±0.042 of its block's absmax. Padding and
# pruned weights should stay zero. Zero and pairs around it make an odd number of levels, and 16 is even. So NF4 gives
# the positive side one more. The recipe of the authors' code ([bitsandbytes,
# create_normal_map](https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py)):
#
# - **Positive:** 8 probabilities, evenly spaced from an *offset* below 1 down towards $\frac{1}{2}$, the half itself
#   left out. Take their quantiles.
# - **Negative:** the same with 7, and a minus sign.
# - Add zero. Divide all by the largest.
#
# The offset, 0.9677083, keeps infinity away.
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
# Here is the published table. The course's derivation is within 2e-7 of it, and it equals the library's.

# %%
import bitsandbytes.functional as bnb

published = codebook.nf4_code()
gap = (codebook.derive_nf4_code() - published).abs().max()
print(published.numpy().round(4))
(gap < 2e-7).item(), torch.equal(published, bnb.get_4bit_type("nf4", device="cpu"))

# %% [markdown]
# Equal shares were the idea. Are the 16 levels used equally often?

# %%
blocks = [16, 32, 64, 128, 256, 1024]
indices = {size: blockwise.quantize_blockwise(normal, published, size)[0].int() for size in blocks}
used = {size: found.bincount(minlength=16) / normal.numel() for size, found in indices.items()}


# %%
def draw_use(ax, block_size):
    figures.level_use(published, used[block_size], top=14, title=f"Blocks of {block_size}: no equal use", ax=ax)


explore(draw_use, block_size=blocks, start={"block_size": 64})

# %% [markdown]
# No. The paper calls NF4 "information theoretically optimal" for equal use. But a block's absmax takes the level 1,
# and the larger the block, the farther out its absmax lies. So no fixed code is used equally at every block size
# ([Yoshida 2023](https://arxiv.org/abs/2306.06965)).
#
# But equal use is not the goal. Small error is.
#
# ## 2. Which 16 numbers err least?
#
# **Lloyd's iteration** finds out. Start anywhere, and repeat two steps: give each weight to its nearest level, then
# move each level to the best place for the weights it was given. Neither step can raise the error ([Lloyd
# 1982](https://doi.org/10.1109/TIT.1982.1056489)). We keep -1, 0 and 1.

# %%
predict("08.2")

# %%
quotients = Quotients.of(normal, blocksize=64, error="mean absolute")
codes = settle(quotients, even_start(), steps=60)
errors = [quotients.error_of(code) for code in codes]


# %%
def draw_steps(walk, error, step):
    goal = {"target": published, "target_error": quotients.error_of(published)}
    figures.settling(walk, error, codes, errors, step=step, title="The levels settle on NF4", **goal)


explore(draw_steps, panels=2, step=range(61), start={"step": 60})

# %% [markdown]
# Move the slider back to 0 and forward. The levels know nothing of quantiles, and they settle on NF4.
#
# The best place is a *median*, since it has the least mean absolute distance. But an error $e$ in a block divided by
# its absmax $a$ is an error $a\,e$ in the weights, so it is a **weighted** median, with weights $a$. (For the root
# mean square: a mean, with weights $a^2$.)
#
# Is that so at every block size? We find levels on one sample and judge them, beside NF4, on another.

# %%
sizes, kinds = [16, 32, 64, 128, 256], ["mean absolute", "root mean square"]
more = {
    kind: [[100 * excess(published, size, kind, seed) for size in sizes] for seed in range(10)]
    for kind in kinds
}

# %%
title = "In mean absolute error NF4 is the best code at blocks of 64"
figures.lines(more, x=range(5), xlabel="block size", ylabel="NF4's error above the least, %", title=title)

# %% tags=["claim"]
middle = torch.tensor(more["mean absolute"]).median(0).values
assert middle.argmin() == 2 and middle[2].abs() < 0.2 and (middle[[0, 1, 3, 4]] > 0.2).all()

# %% [markdown]
# At blocks of 64 NF4 is within 0.1 % of the best; at 32 it misses by 0.5 %, at 16 by 2 %. In root mean square, which
# counts large errors more, it would fit blocks of 256.
#
# **How sure is this?** Ten pairs of samples; the bands show all of them.
#
# Is it the offset that makes NF4 fit blocks of 64? We move it.

# %%
offsets = [0.9 + 0.005 * k for k in range(19)]
above = {
    f"blocks of {size}": [[100 * share for share in excess_by_offset(offsets, size, seed)] for seed in range(10)]
    for size in (32, 64, 128, 256)
}

# %%
axes = {"xlabel": "offset", "ylabel": "mean absolute error above the least, %", "ylim": (0, 6)}
title = "Each block size has an offset of its own"
figures.lines(above, x=offsets, mark={"published": (0.9677083, None)}, title=title, **axes)

# %% [markdown]
# The best offset is 0.95 to 0.955 for blocks of 32, 0.965 for 64, 0.975 for 128 and more for 256. So the idea of
# equal shares does not come true, and its result is nearly perfect: for blocks of 64, which QLoRA uses.
#
# Now the other codes that 4 bits are used for, all with the same constants: one 16-bit scale for 64 weights.

# %%
copies = {name: {data: with_code(x, code) for data, x in samples.items()} for name, code in CODES.items()}
errors_of = {"mean absolute": mean_absolute, "root mean square": root_mean_square}


# %%
def draw_codes(ax, error):
    rows = {name: [errors_of[error](samples[data], copy[data]) for data in samples] for name, copy in copies.items()}
    options = {"columns": list(samples), "limits": [(0.07, 0.17)] * 4, "formats": ["{:.3f}"] * 4}
    figures.shaded_table({"4.25 bits": rows}, title=f"NF4 has the least {error} error", **options, ax=ax)


explore(draw_codes, error=list(errors_of))

# %% [markdown]
# As shares of the weights' root mean square. With equal constants NF4 errs least everywhere. But a min-max format
# does not use absmax at all.
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
# ## 3. Can the model's own weights be the judge?
#
# It seems natural to compare formats on the layers that QLoRA will quantize. The course's model has 134.5 million
# weights and came as a download of 93 MB: 5.5 bits each, so it was quantized before. We hold the contest on one of
# its query weights, in blocks of 32. `Q4_0` and `Q4_1` are llama.cpp's: (-8 … 7) times a step that takes the largest
# weight to -8, and min-max.

# %%
predict("08.3")

# %%
W = query.flatten() / query.square().mean().sqrt()
rivals = ["NF4 (32, 16-bit)", "Q4_0", "Q4_1"]


def judged(V):
    return [f"{root_mean_square(V, FORMATS[name].round_trip(V)):.2%}" for name in rivals]


compare(root_mean_square=rivals, as_it_is=judged(W), sixteen_weights_later=judged(W[16:-16]))

# %% [markdown]
# The contest was decided before it began. The smallest and largest weight of each block give away its old grid, and
# min-max lands on it. Begin the blocks elsewhere and the miracle is gone.


# %%
def error_at(shift, name):
    moved = W[shift : W.numel() - 32 + shift]
    return root_mean_square(moved, FORMATS[name].round_trip(moved))


# %%
shifts = list(range(0, 33, 4))
found = {name: [error_at(shift, name) for shift in shifts] for name in ("NF4 (32, 16-bit)", "Q4_1")}
axes = {"xlabel": "weights by which the blocks are shifted", "ylabel": "root mean square error"}
figures.lines(found, x=shifts, title="Q4_1 is perfect only where the old blocks begin", **axes)

# %% [markdown]
# The number of different values in a block of 32 shows it too: first the query weight, then the embedding.


# %%
def most_values(V):
    return max(len(block.unique()) for block in V.reshape(-1, 32)[:1000])


most_values(query), most_values(embedding)

# %% [markdown]
# Sixteen: four bits. So the linear layers cannot judge 4-bit formats, and a table made on them would be rigged for
# min-max. The embedding went through 8 bits only: that is why it stood above. (The remaining 0.2 % is what bf16 and
# 16-bit constants round.)
#
# Before you compare formats on a downloaded model, ask how its weights were stored. And test on blocks that do not
# line up with the old ones.
#
# ## 4. How do 4.5 bits become 4.127?
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
# The library keeps its scales in 32 bits: for each 64 weights, half a bit a weight. **Double quantization** stores
# the scales as 8-bit codes, in blocks of 256 scales with one float32 scale each.

# %%
predict("08.4")


# %%
def draw_bytes(ax, block_size):
    title = "Double quantization leaves a quarter of the scales' bytes"
    figures.stored_bytes(block_size, title=title, ax=ax)


explore(draw_bytes, block_size=[16, 32, 64, 128], start={"block_size": 64})

# %% [markdown]
# $$4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.12695 \text{ bits}$$
#
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 3: 0.5 becomes 0.127.) Not counted: 32 bits a
# tensor for the mean of the scales, and the code tables. The paper's second level is an 8-bit float; bitsandbytes
# uses an 8-bit dynamic map, as we do.
#
# Why a mean? Scales are all positive, and an 8-bit code has both signs, so half of it would be idle. We read the
# scales back with and without their mean:


# %%
def lost(scales):
    code = codebook.dynamic_code()
    copy = blockwise.dequantize_blockwise(*blockwise.quantize_blockwise(scales, code, 256), code, 256)
    return f"{(copy - scales).norm() / absmax.norm():.2%}"


compare(scales=["as they are", "mean taken off"], error=[lost(absmax), lost(absmax - absmax.mean())])

# %% [markdown]
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
pairs = {
    "codes": (packed, their_packed.flatten()),
    "scales": (ours.absmax, theirs.absmax),
    "scales of scales": (ours.nested_absmax, theirs.state2.absmax),
    "mean of the scales": (ours.offset, theirs.offset),
}
compare(part=pairs, bytes=[a.nbytes for a, b in pairs.values()], equal=[torch.equal(*p) for p in pairs.values()])

# %% [markdown]
# Every byte is the same.
#
# ## 5. Which format at equal bits?
#
# *Deeper: formats by their real names, errors of outputs, and calibration. Nothing later needs this section.*
#
# `Q4_0`, `Q4_1` and [Q4_K](https://github.com/ggml-org/llama.cpp/pull/1684) (min-max, its constants in 6 bits) are
# llama.cpp's. [MXFP4](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf) and
# [NVFP4](https://developer.nvidia.com/blog/introducing-nvfp4-for-efficient-and-accurate-low-precision-inference/) are
# 4-bit floats that GPUs multiply: one scale for 32 weights, a power of two, or for 16, an 8-bit float. "Searched" is
# min-max with start and step fitted by Lloyd's two steps, a relative of
# [HQQ](https://mobiusml.github.io/hqq_blog/), which searches the start. In brackets: block, bits of a scale.

# %%
found = {name: {data: scheme.round_trip(x) for data, x in samples.items()} for name, scheme in FORMATS.items()}


# %%
def draw_formats(ax, error):
    rows = by_bits(lambda name: [errors_of[error](x, found[name][data]) for data, x in samples.items()])
    options = {"columns": list(samples), "limits": [(0.055, 0.135)] * 4, "formats": ["{:.3f}"] * 4}
    figures.shaded_table(rows, title=f"{error.capitalize()} error, by bits a weight", **options, ax=ax)


explore(draw_formats, error=list(errors_of))

# %% [markdown]
# At 4.5 bits no format wins everywhere: Q4_K on normal numbers and with outliers, NVFP4 in mean absolute error on
# heavy tails and on the embedding. The library's own 32-bit scales make NF4 a poor use of 4.5 bits; with 16-bit
# scales it beats Q4_0 in mean absolute error everywhere. Where bits count most, NF4 with double quantization (DQ)
# loses next to nothing.
#
# Is our arithmetic theirs? `gguf`, llama.cpp's own package, is the referee. It writes three of the formats. Q4_K and
# NVFP4 it only reads: there it reads our bytes. (Our Q4_K encoder is plain; llama.cpp's searches its constants.)

# %%
names = [*WRITES, *READS]
same = [torch.equal(FORMATS[name].round_trip(normal), read_by_gguf(name, normal)) for name in names]
compare(format=names, gguf=["writes and reads"] * 3 + ["reads"] * 2, every_number_equal=same)

# %% [markdown]
# Errors of weights are not what a user sees. So we round the head, whose weight in SmolLM2 is the embedding, and
# look at the **logits**, the scores of the next token. Why the head and not the linear layers? Those are rigged
# (section 3). The inputs are the model's own, at 215 places of answers.

# %%
model, tokenizer = load_base_model(dtype="float32")
head = model.lm_head.weight.detach()
judges = [encode_example(tokenizer, event) for event in load_events("validation")[::10]]
inputs = hidden_states(model, judges)[::4]

# %% tags=["measured"]
at_4_5 = {name: head_errors(head, inputs, scheme.round_trip) for name, scheme in FORMATS.items() if scheme.bits == 4.5}
columns = ["weights, mean abs.", "weights, RMS", "logits, RMS", "another best token"]
limits, formats = [(0.06, 0.11), (0.08, 0.13), (0.1, 0.35), (0, 0.15)], ["{:.3f}", "{:.3f}", "{:.2f}", "{:.0%}"]
rows = {name: [e.mean_absolute, e.root_mean_square, e.logits, e.changed] for name, e in at_4_5.items()}
title = "Small errors of weights are not small errors of outputs"
figures.shaded_table({"4.5 bits": rows}, columns=columns, limits=limits, formats=formats, title=title)

# %% tags=["claim"]
by_logits = sorted(at_4_5, key=lambda name: at_4_5[name].logits)
assert by_logits[0] == "Q4_K" and at_4_5["NVFP4"].logits > at_4_5["Q4_0"].logits
assert at_4_5["NVFP4"].root_mean_square < at_4_5["Q4_0"].root_mean_square

# %% [markdown]
# NVFP4 has smaller errors than Q4_0 in the weights and larger ones in the logits. Inputs are not alike in all
# directions: of 576 numbers, the ten largest carry over half of an input's energy, and the errors of *their* weights
# decide. **Calibration** uses that. It reads some text, sees which inputs are large, and rounds so that the *outputs*
# err least. GPTQ ([Frantar et al. 2022](https://arxiv.org/abs/2210.17323)) rounds one column at a time, and the
# columns that are still to come are changed to make up for the error.

# %%
predict("08.5")


# %%
def states_of(texts):
    return hidden_states(model, texts, answers_only=False)


turns = [([{"role": "user", "content": line["user"]}], line["reply"]) for line in load_persona("captain")[:40]]
talk = [encode_turn(tokenizer, *turn) for turn in turns]
read = {"events": states_of([encode_example(tokenizer, event) for event in load_events("fit")[:20]])}
read |= {"a captain": states_of(talk[:30])}
unseen = {"events": states_of(judges[:10]), "a captain's talk": states_of(talk[30:])}
unseen |= {"random numbers": torch.randn(1000, 576)}

# %% tags=["measured"]
V = head[::24].contiguous()  # every 24th token's row
rounded = {"to nearest": with_code(V.flatten(), published).view_as(V)}
rounded |= {f"GPTQ that read {text}": gptq(V, X.T @ X, published) for text, X in read.items()}
found = {way: [output_error(V, copy, X) for X in unseen.values()] for way, copy in rounded.items()}
title = "GPTQ quarters the error on texts like those it read"
figures.bars(found, groups=list(unseen), ylabel="error of the outputs", number_format="{:.1%}", title=title)

# %% tags=["claim"]
nearest, events, captain = found.values()
assert events[0] < nearest[0] / 3 and captain[0] > 2 * events[0] and events[2] > 1.2 * nearest[2]

# %% [markdown]
# Same code, same blocks, same bits. On new texts of the kind that it read, GPTQ errs a quarter as much as rounding to
# nearest; on other texts it gains less; on random inputs, where all weights count alike, it *loses*, since each
# weight is now farther from where it was. So it needs data like yours, and time. NF4 needs neither: it quantizes
# when a model is loaded.
#
# **How sure is this?** One layer, one model. The order held on two disjoint sets of rows.
#
# ### When not to use it
#
# NF4's levels are looked up and made 16-bit numbers before a product. One token with a fused kernel is faster than in
# 16 bits; a training batch is slower (notebook 07). Where the hardware multiplies integers or NVFP4, take those. A
# model that is quantized already gets a second error from a second format: start from the original if you can.

# %%
progress("08")

# %% [markdown]
# ## Summary
#
# - NF4 is built from quantiles: 7 negative levels, zero, 8 positive ones. Its levels are not used equally often.
# - Yet Lloyd's iteration settles on it: for mean absolute error at blocks of 64 no code with -1, 0 and 1 is better by
#   more than 0.1 %.
# - Name the format, the bits and the error; and ask whether the weights that judge were in 4 bits before.
# - Two codes share a byte, and 8-bit scales bring 4.5 bits down to 4.127.
# - Limit: these are errors of weights. Outputs follow another order, and calibration may change it.
#
# **Next question:** 4-bit codes have no gradient. How can a model train on top of them? (Notebook 09.)
