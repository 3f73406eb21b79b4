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
# LoRA keeps a weight $W$ as it is and trains an update $\Delta W = B A$ of low rank. This notebook counts: numbers,
# bytes, operations. Whether a low rank is *enough* was the question of notebook 02. Here we ask what it saves, and what
# it does not.
#
# **You will** count the update of one layer, find the rank at which nothing is saved, size the adapters of whole
# models up to GPT-3, serve a thousand customers, and see which costs stay.
#
# **You need** notebook 01: shapes, rank, and a matrix of rank $r$ as a product of two thin ones.
#
# **Time:** {minutes}. The computer needs less than one of them.

# %%
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.step_costs import step_costs
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm import budget
from lora_edu.llm.base_model import fetch_base_model, load_base_model
from lora_edu.llm.budget import count_parameters, resolve_config
from lora_edu.llm.surgery import add_lora, linear_layers
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.packing import pack_4bit

# %% [markdown]
# ## 1. How many numbers does the update of one layer hold?
#
# Take a layer that turns 8192 numbers into 8192. $W$ has shape (8192, 8192). $B$ has shape (out, r), $A$ has shape
# (r, in), so that $B A$ has the shape of $W$. We choose the rank $r = 8$.

# %%
predict("03.1")

# %%
W_numbers, BA_numbers = 8192 * 8192, 8192 * 8 + 8 * 8192
f"{W_numbers:,} in W, {BA_numbers:,} in B and A: {W_numbers / BA_numbers:.0f} times fewer"


# %%
def draw_update(ax, d_in, d_out, r):
    together = budget.lora_parameter_count(d_in, d_out, r)
    share = together / (d_in * d_out)
    text = f"W has {d_out:,} × {d_in:,} = {d_out * d_in:,} numbers. B has {d_out * r:,} and A {r * d_in:,}: "
    text += f"together {together:,}, or {share:.2%} of W."
    figures.update_to_scale(d_out, d_in, r, title=f"{share:.2%} of W", alt=text, ax=ax)


sizes = [256, 576, 1536, 4096, 8192, 10_000, 12_288]
ranks = [1, 2, 4, 8, 16, 32, 64, 128, 256]
explore(draw_update, d_in=sizes, d_out=sizes, r=ranks, start={"d_in": 8192, "d_out": 8192, "r": 8})

# %% [markdown]
# The picture is true to scale, but no strip is drawn thinner than a hair. Set both sizes to 10,000: 160,000 numbers in
# place of 100,000,000, or 625 times fewer. Then set both to 256 and $r$ to 256: 200 %, which section 2 looks into.
#
# $$\Delta W = B A: \quad r\,(\text{in} + \text{out}) \text{ numbers in place of } \text{in} \cdot \text{out}$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1). What surprises: a wide layer is not a problem but
# the reason why it works. Double both sides, and $W$ grows four times, $B$ and $A$ only twice.
#
# Two things do not count. $W$ is still there, but frozen. And $\alpha$ is a setting that you choose, not a number
# that trains.

# %%
wrapped = LoRALinear(nn.Linear(8192, 8192, bias=False, device="meta"), r=8, lora_alpha=16)
{name: (tuple(p.shape), p.requires_grad) for name, p in wrapped.named_parameters()}

# %% [markdown]
# That is a real LoRA layer of the course. On PyTorch's *meta* device a tensor has a shape and no numbers. So we can
# count models that do not fit into this machine.
#
# ### Exercise 03.1 · Count an update (one star, 3 minutes)
#
# Write `lora_parameter_count(d_in, d_out, r)`: the numbers that train in a LoRA layer.


# %% tags=["exercise"]
def lora_parameter_count(d_in: int, d_out: int, r: int) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `A` takes the input: shape (r, d_in). `B` makes the output: shape (d_out, r).


# %% tags=["solution"]
def lora_parameter_count(d_in: int, d_out: int, r: int) -> int:
    return r * (d_in + d_out)


# %%
check("03.1", lora_parameter_count)

# %% [markdown]
# ## 2. From which rank on is nothing saved?
#
# In SmolLM2, the model of this course, the value layer of a block turns 576 numbers into 192: $W$ has shape
# (192, 576). So no update of it can have a rank above 192.

# %%
predict("03.2")

# %%
192 * 576, 144 * (192 + 576)


# %%
def draw_break_even(ax, d_out):
    whole, ranks = 576 * d_out, torch.linspace(0, min(576, d_out), 41)
    numbers = {"B and A": ranks * (576 + d_out), "W": torch.full_like(ranks, whole)}
    text = f"W of {d_out:,} × 576 holds {whole:,} numbers. B and A hold as many at rank {whole / (576 + d_out):.1f}; "
    text += f"the largest rank is {min(576, d_out)}."
    figures.lines(
        numbers, x=ranks, xlabel="rank r", ylabel="numbers", title=f"out = {d_out}", alt=text, ax=ax
    )


explore(draw_break_even, d_out=[16, 64, 192, 576, 1536, 4096, 49152], start={"d_out": 192})

# %% [markdown]
# The lines cross where $r\,(m + n) = m\,n$, for a $W$ of shape (m, n):
#
# $$r^* = \frac{m\,n}{m + n}$$
#
# Watch where the crossing lies. For a square $W$ it is half of the largest rank; the more a layer differs from a
# square, the nearer it comes to the largest rank.
#
# What surprises: right of the crossing $B$ and $A$ cost *more* than $W$. They say the same thing in many ways: for any
# invertible $M$, $B M$ and $M^{-1} A$ have the same product (a
# [rank factorization](https://en.wikipedia.org/wiki/Rank_factorization) is not unique).
#
# $r^*$ is where counting stops paying. It is no limit on $r$, and it says nothing about the rank that a task needs.
#
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
# ## 3. How large is the adapter of a whole model?
#
# First, how many bytes a number takes. These are the 131,072 numbers of section 1 in 32, 16 and 4 bits:

# %%
update = torch.zeros(131_072)
update.nbytes, update.bfloat16().nbytes, pack_4bit(torch.zeros(131_072, dtype=torch.uint8)).nbytes

# %% [markdown]
# 4 bytes, 2 bytes, and half a byte: two numbers share one. Four bits are for frozen weights, and need a few more for
# scales (notebook 08). Numbers that train have 16 or 32.
#
# Now the largest model of the LoRA paper, GPT-3: 96 blocks, each with a query and a value weight of 12,288 × 12,288
# ([Brown et al. 2020](https://arxiv.org/abs/2005.14165), table 2.1). The paper adapts these two at rank 4.

# %%
predict("03.3")

# %%
base, adapter = count_parameters("GPT-3"), 96 * 2 * 4 * (12_288 + 12_288)
f"{adapter:,} of {base:,} numbers: {adapter / base:.2%}"

# %%
f"in 16 bits {adapter * 2 / 1e6:.1f} MB beside {base * 2 / 1e9:.0f} GB"

# %% [markdown]
# The paper says that the saved file shrinks from 350 GB to 35 MB, about 10,000 times
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.2). By count it is 37.7 MB, about 9,250 times: the
# paper's figures are rounded.
#
# One often reads that LoRA trains about 1 % of a model, "1 billion of 175". That division gives 0.57 %, and 1 billion
# is 53 times the adapter above.
#
# The share depends on the model, on the rank, and on the layers that you adapt. So let us ask real models for the
# shapes of their layers. The names of those in the blocks end in `q_proj`, `v_proj` and so on, all in `_proj`.


# %%
def without_numbers(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shapes_of(model, endings):
    return [
        tuple(layer.weight.shape) for path, layer in linear_layers(model).items() if path.endswith(endings)
    ]


smol = without_numbers(AutoConfig.from_pretrained(fetch_base_model()))
mistral = without_numbers(resolve_config("Mistral-7B"))
shapes_of(mistral, "layers.0.self_attn.v_proj"), shapes_of(mistral, "layers.0.mlp.up_proj")

# %%
qv, qkvo, every = ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"), "_proj"
counts = [8 * sum(map(sum, shapes_of(mistral, endings))) for endings in ("q_proj", qv, qkvo, every)]
shares = [f"{count / count_parameters(mistral):.3%}" for count in counts]
texts = [f"{count:,}" for count in counts]
compare(adapted=["q", "q, v", "q, k, v, o", "all linear"], numbers_at_rank_8=texts, share=shares)

# %% [markdown]
# That was Mistral-7B. A unit of rank costs in + out numbers in each layer, and `sum(map(sum, shapes))` adds them up.
# Key and value turn 4096 numbers into 1024, so they are cheap. The three layers of the MLP, the other half of a block,
# have a side of 14,336: they hold most of the numbers in the last row.

# %%
# GPT-3: query, key, value and output are square, and the two layers of the MLP four times as wide.
gpt3_block = [(12_288, 12_288)] * 4 + [(49_152, 12_288), (12_288, 49_152)]
unit = {
    "SmolLM2-135M": [sum(map(sum, shapes_of(smol, ends))) for ends in (every, qv)],
    "Mistral-7B": [sum(map(sum, shapes_of(mistral, ends))) for ends in (every, qv)],
    "GPT-3": [96 * sum(map(sum, gpt3_block)), 96 * sum(map(sum, gpt3_block[:2]))],
}
parameters = {"SmolLM2-135M": count_parameters(smol), "Mistral-7B": count_parameters(mistral), "GPT-3": base}


# %%
def draw_models(ax, model, r):
    labels = [model, "all linear layers", "query and value"]
    MB = [2 * numbers / 1e6 for numbers in (parameters[model], *(r * count for count in unit[model]))]
    text = f"{model} in 16 bits: {MB[0]:,.0f} MB. Rank {r} on all linear layers: {MB[1]:,.1f} MB, "
    text += f"{MB[1] / MB[0]:.3%}; on query and value: {MB[2]:,.1f} MB, {MB[2] / MB[0]:.3%}."
    areas, title = dict(zip(labels, MB, strict=True)), f"rank {r}, 16 bits"
    figures.areas(areas, number_format="{:,.1f} MB", title=title, alt=text, ax=ax)


explore(draw_models, model=list(unit), r=[1, 2, 4, 8, 16, 32, 64], start={"model": "Mistral-7B", "r": 8})

# %% [markdown]
# Areas are true to scale. What surprises: the same rank 8 weighs 1.8 % of SmolLM2 and 0.1 % of GPT-3 when all linear
# layers are adapted. "LoRA trains x %" says little without model, rank and layers.
#
# Which layers, then? On GPT-3, at the same budget, rank 4 on query and value did a little better than rank 8 on one of
# them ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), table 5). QLoRA adapts all linear layers, and needed that to
# match 16-bit fine-tuning ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 4).
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
# Does the count agree with the library that professionals use, and with a file? `peft` counts on Mistral-7B without
# its weights; the file is an adapter of the real SmolLM2, at rank 8 on query and value.

# %%
from peft import LoraConfig, get_peft_model

by_peft = get_peft_model(without_numbers(mistral.config), LoraConfig(r=8, target_modules=list(qv)))
by_peft.get_nb_trainable_parameters()[0], counts[1]

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_edu.llm.checkpoint import save_adapter

model, _ = load_base_model(dtype="bfloat16")
with TemporaryDirectory() as folder:
    save_adapter(add_lora(model, list(qv), r=8, lora_alpha=16), folder)
    size = (Path(folder) / "adapter_model.safetensors").stat().st_size
numbers = 8 * unit["SmolLM2-135M"][1]
f"{numbers:,} numbers, {size:,} bytes on disk: {size / numbers:.2f} each"

# %% [markdown]
# Four bytes a number, not two: like peft, we train adapters in 32 bits even over a 16-bit base, and save them so. The
# rest is the file's table of names and shapes.
#
# ## 4. One thousand customers: a thousand models, or one?
#
# Each customer wants a model of their own, fine-tuned on their data. After a full fine-tune each has a whole
# Mistral-7B. With LoRA there is one Mistral-7B, and a thousand adapters of rank 8 on query and value, in 16 bits.

# %%
predict("03.4")

# %%
one_model, one_adapter = 2 * count_parameters(mistral), 2 * counts[1]
f"{1000 * one_model / 1e12:.1f} TB, or {one_model / 1e9:.1f} GB + {1000 * one_adapter / 1e9:.1f} GB"


# %%
def draw_customers(ax, customers, model):
    one_model, one_adapter = 2 * parameters[model] / 1e9, 2 * 8 * unit[model][1] / 1e9
    each, shared = customers * one_model, one_model + customers * one_adapter
    text = f"{model}, customers: {customers:,}. A model each takes {each:,.2f} GB; one model, and adapters of rank 8, "
    text += f"{shared:,.2f} GB. The first is {each / shared:.4g} times the second."
    groups = ["a model each", "one model\nand adapters"]
    options = {"ylabel": "GB", "number_format": "{:,.2f}", "title": f"{model}, customers: {customers:,}"}
    figures.bars({"bytes": [each, shared]}, groups=groups, alt=text, ax=ax, **options)


counts_of_customers = [1, 2, 5, 10, 100, 1000, 10_000]
begin = {"customers": 1000, "model": "Mistral-7B"}
explore(draw_customers, customers=counts_of_customers, model=list(unit), start=begin)

# %% [markdown]
# With $P$ for the model's bytes and $a$ for the adapter's, $n$ customers cost
#
# $$n\,P \quad \text{or} \quad P + n\,a$$
#
# The paper makes the same point with 100 models of 350 GB: 35 TB, or 354 GB
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.2).
#
# Set the slider to one customer. LoRA then stores *more*: the base is needed all the same. What is saved depends on
# how many share it, and it is at most $P / a$ times. A merged model, $W + B A$ in one matrix (notebook 05), is whole
# again: it shares nothing.
#
# Try GPT-3 with a thousand: 349 TB or 0.4 TB.
#
# ## 5. Is 512 times fewer numbers 512 times less work?
#
# Back to the layer of section 1, now at work on 128 tokens, pieces of text that are one row of $X$ each. The layer sits
# inside a network, so it must also pass a gradient back to the layers before it. We count the operations (FLOP) of
# matrix products, multiplications and additions. The optimizer's own work is left out.

# %%
predict("03.5")


# %%
def costs_at(r=None):
    layer = nn.Linear(8192, 8192, bias=False, device="meta")
    x = torch.empty(128, 8192, device="meta", requires_grad=True)
    return step_costs(layer if r is None else LoRALinear(layer, r=r, lora_alpha=16), x)


full, lora = costs_at(), costs_at(r=8)
kinds = ["numbers that train", "operations, forward", "operations, step", "kept for the way back"]
ratios = [f"{b / a:.4f}" for a, b in zip(full, lora, strict=True)]
compare(kind=kinds, full=[f"{n:,}" for n in full], LoRA=[f"{n:,}" for n in lora], ratio=ratios)

# %%
swept = {r: costs_at(r) for r in [8, 64, 256, 1024, 1365, 2048, 4096]}


def draw_operations(ax, r):
    rows = {"full fine-tuning": full[1:3], "LoRA": swept[r][1:3]}
    billions = {name: [n / 1e9 for n in row] for name, row in rows.items()}
    forward, step = (b / a for a, b in zip(*rows.values(), strict=True))
    counted = [f"{n:.1f}" for row in billions.values() for n in row]
    text = f"Billion operations, forward and in a whole step: full {counted[0]} and {counted[1]}, LoRA at rank {r}: "
    text += f"{counted[2]} and {counted[3]}, that is {forward:.3f} and {step:.3f} times as many."
    options = {"ylabel": "billion operations", "number_format": "{:.1f}", "title": f"rank {r}"}
    figures.bars(billions, groups=["forward", "whole step"], alt=text, ax=ax, **options)


explore(draw_operations, r=list(swept))

# %% [markdown]
# A trained weight costs 6 operations a token, 2 forward and 4 backward
# ([Kaplan et al. 2020](https://arxiv.org/abs/2001.08361), section 2.1). A frozen one still costs 4, 2 forward and 2 to
# pass the gradient on:
#
# $$6\,m n \quad \text{becomes} \quad 4\,m n + 6\,r\,(m + n)$$
#
# The forward pass even grows, by 0.2 % at rank 8. From $r = r^*/3$ on, here about 1365, a step costs as much as full
# fine-tuning. On GPT-3 the authors measured training that is 25 % faster
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.2): not 500 times.
#
# What surprises is the last row of the table: what must be kept for the way back, the *activations*, does not shrink.
# It grows by $A x$.

# %% [markdown]
# ### What is saved, and what is not
#
# | | full fine-tuning | LoRA |
# |---|---|---|
# | numbers that train, their gradients, the optimizer's memory | all of $W$ | $B$ and $A$ |
# | what is saved for each task | all of $W$ | $B$ and $A$ |
# | weights in memory | $W$ | $W$, $B$ and $A$ |
# | activations | kept | kept, and $A x$ |
# | operations, forward | $2 m n$ | a little more, unless merged |
# | operations of a step | $6 m n$ | about $4 m n$ |
#
# So training memory shrinks far less than the file. For GPT-3 the paper reports 350 GB in place of 1.2 TB, about 3
# times less ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.2). What remains is mostly $W$ itself, and
# storing $W$ in 4 bits is the idea of QLoRA (notebooks 07 to 09). Notebook 05 measures gradients and optimizer.
#
# ### When not to use it
#
# When layers are small, or the rank that a task needs comes near $r^*$: then $B$ and $A$ save little. When there is one
# task, and memory for a full fine-tune: then a small file is no gain. And when you hope for faster answers: a merged
# LoRA is as fast as the base, an unmerged one a little slower (notebook 05).

# %%
progress("03")

# %% [markdown]
# ## Summary
#
# - The update of one layer holds $r\,(\text{in} + \text{out})$ numbers. At 8192 × 8192 and rank 8 that is 512 times
#   fewer than $W$.
# - The break-even rank is $m n / (m + n)$: half of the largest rank for a square $W$.
# - GPT-3 at rank 4 on query and value: 37.7 MB, 0.01 %. Always name model, rank and layers.
# - Customers share the base: $P + n\,a$ bytes in place of $n\,P$.
# - Limit: $W$ stays in memory, activations stay, and a training step takes two thirds of the work, not 1/512.
#
# **Next question:** we can count $B$ and $A$. How is a layer built that uses them? (Notebook 04.)
