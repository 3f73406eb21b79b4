# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 03 · What does a low-rank update cost?
#
# LoRA keeps a weight $W$ and trains an update $\Delta W = B A$ of low rank. What does that save: numbers, memory, work?
#
# **You will** size an adapter from a `config.json`, and see what your GPU can train, and which costs stay.
#
# **You need** notebook [01](01_rank_and_svd.ipynb): shapes, rank, a product $BA$.
#
# **Time:** {minutes}.

# %%
import math
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check, faulty
from lora_edu.classroom.experiments.gpu_fits import WAYS as GPU_WAYS
from lora_edu.classroom.experiments.kept import WAYS, recorded_mebibytes
from lora_edu.classroom.experiments.step_costs import step_costs
from lora_edu.classroom.experiments.training_memory import (
    MODELS,
    QUERY_VALUE,
    TOKENS,
    adapter_numbers,
    draw_training_memory,
    errors_of_the_ledger,
    ledger_against_records,
    parts,
)
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.budget import count_parameters, resolve_config
from lora_edu.llm.budget.count import meta_model
from lora_edu.llm.data import DATA
from lora_edu.methods.lora import LoRALinear

# %% [markdown]
# ## 1. How many numbers does an update hold?
#
# A layer turns 8192 numbers into 8192, so $W$ has shape (8192, 8192). At rank $r = 8$, $B$ has shape (out, r), and $A$
# (r, in).

# %%
predict("03.1")

# %%
W_numbers, BA_numbers = 8192 * 8192, 8192 * 8 + 8 * 8192
f"{W_numbers:,} in W, {BA_numbers:,} in B and A: {W_numbers / BA_numbers:.0f} times fewer"


# %%
def draw_update(ax, d_in, d_out, r):
    share = r * (d_in + d_out) / (d_in * d_out)
    figures.update_to_scale(d_out, d_in, r, title=f"B and A hold {share:.2%} of the numbers of W", ax=ax)


sizes = [256, 576, 1536, 4096, 8192, 10_000, 12_288]
ranks = [1, 2, 4, 8, 16, 32, 64, 128, 256]
explore(draw_update, d_in=sizes, d_out=sizes, r=ranks, start={"d_in": 8192, "d_out": 8192, "r": 8})

# %% [markdown]
# $$\Delta W = B A: \quad r\,(\text{in} + \text{out}) \text{ numbers in place of } \text{in} \cdot \text{out}$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1). Double both sides: $W$ grows four times, $B$ and
# $A$ twice. So wide layers save most. With both widths and $r$ at 256, $B$ and $A$ hold *twice* as much as $W$
# (section 4).
#
# ### And a whole model?
#
# Each adapted layer gets a pair. A model's `config.json` tells the sizes:

# %%
model = resolve_config("Mistral-7B")
{name: value for name, value in model.to_dict().items() if name.startswith("num_") or name.endswith("_size")}

# %%
figures.transformer_block(["q_proj", "v_proj"], hidden=4096, keys=1024, inner=14_336)

# %% [markdown]
# Here you need only the seven hatched rectangles, each $W$ to scale; notebook 06 explains the rest.
# `num_hidden_layers` counts the blocks, 32. `hidden_size`, 4,096, is how many numbers a token carries, and
# `intermediate_size` the wide side of gate, up and down. The 32 attention heads share the hidden size: 128 numbers
# each. Keys and values have 8 heads, so `k` and `v` turn 4,096 numbers into 1,024.
#
# ### Exercise 03.1 · Count from a configuration (two stars, 5 minutes)
#
# Write `count_adapter(config, r)`: the numbers in all $B$ and $A$, with all seven layers of every block adapted at rank
# `r`.


# %% tags=["exercise"]
def count_adapter(config: dict[str, int], r: int) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A pair costs `r * (d_in + d_out)`. `k` and `v` put out `num_key_value_heads` times the size of a head. `gate`, `up`
# and `down` have a hidden and an intermediate side.


# %% tags=["solution"]
def count_adapter(config: dict[str, int], r: int) -> int:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    block = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return config["num_hidden_layers"] * r * block


# %%
check("03.1", count_adapter)

# %% [markdown]
# The share of a model, at rank 8:

# %%
models = ["SmolLM2-135M", "Mistral-7B", "GPT-3"]
layers = {"query and value": QUERY_VALUE, "all linear": "all-linear"}
counts = {(m, name): adapter_numbers(m, targets) for m in models for name, targets in layers.items()}
shares = {name: [f"{counts[m, name] / count_parameters(m):.2%}" for m in models] for name in layers}
compare(model=models, **shares)

# %% [markdown]
# A share means little without model, rank and layers. Which layers? At one budget, GPT-3 reached 73.7 % on WikiSQL with
# query and value at rank 4, 70.4 % with query alone at rank 8, 73.0 % with value alone, and 73.7 % with all four of
# attention at rank 2 ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), table 5). So adapt more
# matrices before you raise the rank. QLoRA needed all linear layers to match 16-bit training ([Dettmers et al.
# 2023](https://arxiv.org/abs/2305.14314), section 4).

# %% [markdown]
# ## 2. What must fit into memory to train?
#
# A number that trains has a **gradient**, and the optimizer **Adam** keeps two averages of it (notebook 05b). A step
# goes *forward*, from the input to the loss, and *back*: gradients come from the loss down to the first layer. What a
# layer keeps on the way forward, for the way back, are **activations**. **Logits** are the outputs, one for each token
# of the vocabulary.
#
# On Mistral-7B, rank 8 on all linear layers trains 1/345 of the numbers.

# %%
predict("03.2")

# %%
explore(
    draw_training_memory, panels=2, model=MODELS, tokens=TOKENS, start={"model": "Mistral-7B", "tokens": 512}
)

# %% [markdown]
# Full fine-tuning takes 16 bytes a weight here: the weight, its gradient and two averages in float32. Frozen weights
# need no float32: LoRA leaves 2 bytes each, and the activations. **QLoRA** stores most weights in 4 bits, and Adam's
# averages in 8. At 2,048 tokens activations dominate, unless they are computed twice instead of kept (notebook 09). For
# GPT-3 the paper has 350 GB in place of 1.2 TB ([section 4.2](https://arxiv.org/abs/2106.09685)).
#
# The bars are predicted as for a T4, Colab's free GPU: one text at a time, gradients of two added up. (Notebook 00 adds
# none: 7 GiB less.) On SmolLM2 the same formulas stand beside recorded runs. On a CPU they are up to 15 % off:

# %%
ledger_against_records()

# %% [markdown]
# ### Which activations are kept?

# %%
x, g = torch.tensor([1.0, 2, -1, 0, 1]), torch.tensor([1.0, -2, 0.5, -1])
A = torch.tensor([[1.0, 0, 0, -1, 0], [0, 1, 0, 0, 1]])
B = torch.tensor([[1.0, 0], [0, 2], [-1, 1], [0, 1]])
figures.forward_backward(x, torch.ones(4, 5), A, B, 2, g)

# %% [markdown]
# A gradient is made of what comes back (dashed) and what the layer read. So $x$ and $h = A x$ are kept, for $A$ and $B$
# (notebook 04). A frozen $W$ alone needs nothing. SmolLM2, recorded at rank 8:

# %%
figures.bars(
    recorded_mebibytes(),
    groups=WAYS,
    ylabel="MiB kept for a token",
    number_format="{:.2f}",
    title="Few adapters keep less than full training. Many, over a 16-bit base, keep more",
)

# %% [markdown]
# An adapted layer keeps its input, as in full training, and $A x$. A linear layer without an adapter keeps none;
# attention, norms and curves keep theirs in any case. Over a 16-bit base, float32 adapters keep float32 copies. Dropout
# (notebook 04) keeps a second copy. So activations shrink a little with few adapters, and may grow with many.
#
# **How sure is this?** What is kept was recorded once, on a CPU. A GPU that computes in 16 bits by itself (*autocast*)
# keeps other copies.

# %% [markdown]
# ## 3. Is 512 times fewer numbers 512 times less work?
#
# We count the operations (FLOP) of section 1's layer, for 128 tokens. On the way back it also hands a gradient to the
# layer before.

# %%
predict("03.3")


# %%
def costs_at(r=None):
    layer = nn.Linear(8192, 8192, bias=False, device="meta")  # a shape, and no numbers
    x = torch.empty(128, 8192, device="meta", requires_grad=True)
    return step_costs(layer if r is None else LoRALinear(layer, r=r, lora_alpha=16), x)


full, lora = costs_at(), costs_at(r=8)
kinds = ["numbers that train", "operations, forward", "operations, step", "kept for the way back"]
ratios = [f"{lora[i] / full[i]:.4f}" for i in range(4)]
compare(kind=kinds, full=[f"{n:,}" for n in full], LoRA=[f"{n:,}" for n in lora], ratio=ratios)

# %% [markdown]
# A trained weight costs 6 operations a token, 2 forward and 4 backward ([Kaplan et al.
# 2020](https://arxiv.org/abs/2001.08361), section 2.1): 2 of the 4 make its own gradient. A frozen one costs 4, 2
# forward and 2 to pass a gradient on.
#
# $$6\,m n \quad \text{becomes} \quad 4\,m n + 6\,r\,(m + n)$$
#
# So LoRA saves at most a third of such a layer's work. On GPT-3 the authors measured 43.1 tokens a second in place of
# 32.5: 33 % more speed, 25 % less time ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.2).
#
# ### What is saved, and what is not
#
# | | full fine-tuning | LoRA |
# |---|---|---|
# | numbers that train, gradients, Adam's averages | all of $W$ | $B$ and $A$ |
# | file for each task | all of $W$ | $B$ and $A$ |
# | weights in memory | $W$ | $W$, $B$ and $A$ |
# | activations | kept | fewer, if few layers are adapted |
# | operations, forward | $2 m n$ | a little more, unless merged ($BA$ added to $W$ for good) |
# | operations of a step | $6 m n$ | about $4 m n$ |
#
# ### When not to use it
#
# - Layers are small, or the rank is near $m n / (m + n)$ (section 4).
# - There is one task, and memory for a full fine-tune.
# - You want faster answers: merged, LoRA is only as fast as the base.

# %% [markdown]
# ## 4. From which rank on is nothing saved?
#
# *Deeper: nothing later needs this section.*
#
# SmolLM2's value layer turns 576 numbers into 192: its largest rank is 192.

# %%
predict("03.4")

# %%
f"W: {192 * 576:,} numbers. B and A at rank 144: {144 * (192 + 576):,}"

# %%
figures.break_even(
    {"query": (576, 576), "value": (192, 576), "embedding": (49_152, 576)},
    title="B and A break even at half of the largest rank, or later",
)

# %% [markdown]
# For a $W$ of shape (m, n) the counts meet where $r\,(m + n) = m\,n$:
#
# $$r^* = \frac{m\,n}{m + n}$$
#
# Operations break even at $r^* / 3$. None of this says which rank a *task* needs.

# %%
tried = [8, 512, 1024, 1365, 2048, 4096]
swept = [costs_at(r) for r in tried]
figures.lines(
    {"forward": [c.forward / full.forward for c in swept], "whole step": [c.step / full.step for c in swept]},
    x=tried,
    xlabel="rank r",
    ylabel="times full fine-tuning",
    title="At 8192 × 8192, a step saves work up to rank 1,365, a third of the break-even",
    mark={"r = 1,365": (1365, None)},
)

# %% [markdown]
# ### Exercise 03.2 · The break-even rank (one star, 4 minutes)
#
# Write `break_even_rank(m, n)`. It need not be a whole number.


# %% tags=["exercise"]
def break_even_rank(m: int, n: int) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Solve $r\,(m + n) = m\,n$ for $r$. Try 192 and 576: the answer is 144.


# %% tags=["solution"]
def break_even_rank(m: int, n: int) -> float:
    return m * n / (m + n)


# %%
check("03.2", break_even_rank)

# %% [markdown]
# ## 5. One thousand customers: a thousand models, or one?
#
# *Deeper: nothing later needs this section.*
#
# Each has a fine-tuned Mistral-7B, or an adapter to a shared one: rank 8, query and value, 16 bits.

# %%
predict("03.5")

# %%
one_model, one_adapter = 2 * count_parameters("Mistral-7B"), 2 * counts["Mistral-7B", "query and value"]
f"{1000 * one_model / 1e12:.1f} TB, or {one_model / 1e9:.1f} GB + {1000 * one_adapter / 1e9:.1f} GB"

# %%
customers = [1, 10, 100, 1000, 10_000]
each = [n * one_model / 1e9 for n in customers]
shared = [(one_model + n * one_adapter) / 1e9 for n in customers]
figures.log_log(
    {"a model each": each, "one model and adapters": shared},
    x=customers,
    xlabel="customers",
    ylabel="GB on disk",
    title="A thousand models fill 14,483 GB. One and a thousand adapters fill 21 GB",
)

# %% [markdown]
# With $P$ bytes a model and $a$ an adapter, $n$ customers cost
#
# $$n\,P \quad \text{or} \quad P + n\,a$$
#
# (The paper: 35 TB or 354 GB for 100; [section 4.2](https://arxiv.org/abs/2106.09685).) A merged model shares nothing.
# To *serve* a thousand adapters costs too: notebook [11](11_many_adapters.ipynb).
#
# ### Exercise 03.3 · The size of an adapter (two stars, 6 minutes)
#
# Write `adapter_bytes(shapes, r, bits)` for a list of weight shapes (out, in), one a layer. Every number takes `bits`
# bits.


# %% tags=["exercise"]
def adapter_bytes(shapes: list[tuple[int, int]], r: int, bits: int) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Count the numbers of all layers first. A byte has 8 bits. `[(192, 576)]` at rank 2 in 4 bits takes 768 bytes.


# %% tags=["solution"]
def adapter_bytes(shapes: list[tuple[int, int]], r: int, bits: int) -> float:
    return sum(r * (d_out + d_in) for d_out, d_in in shapes) * bits / 8


# %%
check("03.3", adapter_bytes)

# %% [markdown]
# Does our count agree with the file of notebook 00's robot, and with the library peft?

# %%
numbers = adapter_numbers("SmolLM2-135M", QUERY_VALUE)
size = (DATA / "adapters" / "robot" / "adapter_model.safetensors").stat().st_size
f"{numbers:,} numbers, {size:,} bytes on disk: {size / numbers:.2f} each"

# %%
by_peft = get_peft_model(meta_model("Mistral-7B"), LoraConfig(r=8, target_modules=list(QUERY_VALUE)))
by_us = counts["Mistral-7B", "query and value"]
f"on Mistral-7B peft counts {by_peft.get_nb_trainable_parameters()[0]:,}, and we {by_us:,}"

# %% [markdown]
# The robot was saved in 16 bits, with a table of names. For GPT-3 at its rank of 4 the paper says 35 MB in place of
# 350 GB. We count:

# %%
numbers, whole = adapter_numbers("GPT-3", QUERY_VALUE, r=4), count_parameters("GPT-3")
f"{2 * numbers / 1e6:.1f} MB beside {2 * whole / 1e9:.0f} GB: {numbers / whole:.2%}"

# %% tags=["claim"]
full_gib, lora_gib, qlora_gib = (sum(parts("Mistral-7B", way, 512).values()) for way in GPU_WAYS)
float32, mixed = recorded_mebibytes().values()
by_us = counts["Mistral-7B", "query and value"]
assert 6 < full_gib / lora_gib < 6.5 and qlora_gib < 14.56 < lora_gib
assert 345 < count_parameters("Mistral-7B") / counts["Mistral-7B", "all linear"] < 346
assert sum(parts("Mistral-7B", "QLoRA", 2048).values()) > 24
assert max(abs(error) for error in errors_of_the_ledger()["GPU"]) <= 0.0105
assert float32[1] < float32[2] < float32[0] < float32[3] and mixed[1] < mixed[0] < mixed[2] < mixed[3]
assert (full.kept, lora.kept, full.trained // lora.trained) == (128 * 8192, 128 * (8192 + 8), 512)
assert round(lora.step / full.step, 2) == 0.67 and round(costs_at(1365).step / full.step, 3) == 1
assert shares["all linear"] == ["1.82%", "0.29%", "0.10%"]
assert by_peft.get_nb_trainable_parameters()[0] == by_us and round(1000 * one_model / 1e9) == 14_483
assert round(43.1 / 32.5, 2) == 1.33 and round(1 - 32.5 / 43.1, 2) == 0.25

# %% [markdown]
# ## Which wrong formulas does a test let through?
#
# *Deeper: nothing later needs this section.*
#
# Two formulas, on two shapes:

# %%
shapes = [(8192, 8192), (192, 576)]
halves, even = [min(shape) / 2 for shape in shapes], [m * n / (m + n) for m, n in shapes]
compare(shape=shapes, half_of_the_smaller_side=halves, break_even=even)

# %% [markdown]
# Who tries the square alone cannot tell them apart.
#
# ### Exercise 03.4 · A test for the break-even rank (two stars, 6 minutes)
#
# Write `breaks_even(candidate)`. It calls `candidate(m, n)` with sizes of yours, and returns True if each result is the
# break-even rank, else False. The check hands it right functions, and wrong ones: answers to 03.2, and near misses. How
# many does it catch? Right ones may round differently, by up to a millionth of the rank.


# %% tags=["exercise"]
def breaks_even(candidate: Callable) -> bool:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# You need no formula for the rank: at break-even $B$ and $A$ hold as many numbers as $W$. `math.isclose(a, b,
# rel_tol=1e-6)` leaves room for rounding. Which shapes are special?


# %% tags=["solution"]
def breaks_even(candidate: Callable) -> bool:
    shapes = (192, 576), (4096, 1024), (3, 8)
    return all(math.isclose(candidate(m, n) * (m + n), m * n, rel_tol=1e-6) for m, n in shapes)


# %%
check("03.4", breaks_even)

# %% [markdown]
# ## Why is a small model larger than it should be?
#
# *Deeper: nothing later needs this section.*
#
# The code of exercise 03.5 counts the bytes of a model. Here in numbers of 4 bytes each, beside `count_parameters`:

# %%
names = ["SmolLM2-135M", "Mistral-7B"]
counted = [f"{faulty('03.5')(meta_model(name)) // 4:,}" for name in names]
compare(model=names, this_code=counted, right=[f"{count_parameters(name):,}" for name in names])

# %% [markdown]
# Mistral-7B comes out right, SmolLM2 a fifth too large.
#
# ### Exercise 03.5 · Find the fault (two stars, 8 minutes)
#
# Mend `model_bytes(model)`: the bytes of all tensors that a model keeps, whatever it is.


# %% tags=["exercise"]
def model_bytes(model: nn.Module) -> int:
    total = 0
    for tensor in model.state_dict().values():
        total += tensor.numel() * tensor.element_size()
    return total


# %% [markdown] tags=["hint"]
# 28,311,552 too many: which weight has this size? Print names and shapes of `meta_model("SmolLM2-135M").state_dict()`.
# A model keeps parameters and buffers.


# %% tags=["solution"]
def model_bytes(model: nn.Module) -> int:
    # SmolLM2's last layer is its embedding: one tensor, two names (Press and Wolf 2017, https://arxiv.org/abs/1608.05859).
    # `state_dict` lists both names; `parameters` and `buffers` give each tensor once.
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        total += tensor.numel() * tensor.element_size()
    return total


# %%
check("03.5", model_bytes)

# %% tags=["claim"]
assert counted == ["162,826,560", f"{count_parameters('Mistral-7B'):,}"]
assert 162_826_560 - count_parameters("SmolLM2-135M") == 28_311_552 == 49_152 * 576

# %%
progress("03")

# %% [markdown]
# ## Summary
#
# - An update holds $r\,(\text{in} + \text{out})$ numbers in place of $\text{in} \cdot \text{out}$.
# - Gradients and averages all but vanish. $W$ stays; QLoRA stores it in 4 bits.
# - Activations shrink a little with few adapters, and may grow with many.
# - A step takes two thirds of a layer's operations, not always of the time.
# - Limit: this says nothing about what an update can learn.
#
# **Next question:** we can count $B$ and $A$. How is a layer built that uses them? (Notebook 04.)
