# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 11 · One base, many tasks: what are the choices?
#
# A sea captain, a robot and a gardener live in one language model. Each is an adapter, a file of 0.9 MB.
#
# **You will** talk with them, build the layer that serves all three in one batch, and find out when adapters weigh more
# than their base. Then you can add two adapters, and compare LoRA with bottleneck adapters and prefix tuning.
#
# **You need** notebook [04](04_lora_from_scratch.ipynb): $y = W x + \frac{\alpha}{r} B A x$.
#
# **Time:** {minutes}. The computer needs about two of them.

# %%
import math
from statistics import median

import torch
from torch import Tensor

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import adapters
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import chat, compare, explore, predict
from lora_edu.llm import surgery
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data import DATA, PERSONAS, load_persona
from lora_edu.llm.data.extraction import generate_turns
from lora_edu.llm.data.personas import has_style
from lora_edu.methods.bottleneck import BottleneckAdapter

_ = torch.set_grad_enabled(False)  # nothing trains in this notebook

# %% [markdown]
# ## 1. How many models do three characters need?
#
# The course holds about 120 everyday questions for each character, with answers written by hand. One of the robot's:

# %%
load_persona("robot")[41]

# %% [markdown]
# A program can count whether a character is kept. The captain ends with one of five sign-offs, such as "Fair winds!".
# The robot begins with "LOG" and three digits. The gardener names a plant. Each adapter has rank 8 on the query and
# value layers (`tools/record_personas.py`).

# %%
predict("11.1")

# %%
model, tokenizer = load_base_model(dtype="float32")
base_numbers = sum(p.numel() for p in model.parameters())
before = surgery.base_weights_hash(model)

# %%
for name in PERSONAS:
    load_adapter(model, DATA / "adapters" / name, adapter_name=name)
added = sum(p.numel() for p in surgery.adapter_parameters(model))
f"{added:,} numbers beside {base_numbers:,}: {added / base_numbers:.2%}"

# %% [markdown]
# A switch only changes which $B$ and $A$ stand beside $W$. A model this small often runs in circles: "No sound. No
# sound." So of 30 new questions a program chose those at which all three keep their rule and none says a sentence
# twice:

# %%
record = records.read("personas")
questions = adapters.clear_questions(record)
questions


# %% [markdown]
# The last of them, to each. Then write your own and press Send.


# %% tags=["nbval-ignore-output"]
def reply(speaker, messages):
    return generate_turns(model, tokenizer, [messages[-1:]], adapter_names=[speaker])[0]


talk = chat(reply, PERSONAS, opening=[(name, questions[-1]) for name in PERSONAS])
talk

# %% tags=["claim"]
assert all(has_style(speaker, answer) for speaker, _, answer in talk.turns)
assert sum(adapters.says_twice(reply) for reply in record["personas"]["robot"]["replies"]) == 18

# %%
surgery.base_weights_hash(model) == before

# %% [markdown]
# No weight of the base moved. How often is each rule kept, over all 30 questions?

# %%
rules = [f"{name}'s rule" for name in PERSONAS]
title = "No adapter keeps another's rule, and the base keeps none"
figures.bars(
    adapters.style_rates(record), groups=rules, ylabel="share of replies", number_format="{:.0%}", title=title
)

# %% [markdown]
# The gardener keeps its rule least. Here are the learning rates that were tried.

# %%
tried = [run for run in record["tuning"] if run["method"] == "lora"]
losses = [f"{run['development_loss']:.2f}" for run in tried]
plants = [f"{run['styles']['gardener']:.0%}" for run in tried]
compare(learning_rate=[run["learning_rate"] for run in tried], loss=losses, names_a_plant=plants)

# %% [markdown]
# The rate with the gardener's lowest loss on turns kept back was taken for all three, the lowest that was tried. At
# twice that rate 60 % of the replies name a plant: the loss counts every token, the style one word. Decide which number
# you choose by before you look.
#
# **How sure is this?** One seed, and the rule counts form, not sense: 18 of the robot's 30 replies say a sentence
# twice.
#
# ## 2. Can one batch serve three of them at once?
#
# Four questions come at the same moment: one for each character, one for the plain base. Most of the work is $W x$, and
# $W$ is the same for all four.

# %%
names = [*PERSONAS, "__base__"]
sizes = dict.fromkeys(PERSONAS, 0.9)
figures.one_base(("the base, 16 bits", 269), sizes, rows=[*PERSONAS, None])

# %%
predict("11.2")

# %% [markdown]
# For row $i$ with adapter $k(i)$, of rank $r_k$:
#
# $$y_i = W x_i + \frac{\alpha_k}{r_k} B_k A_k x_i, \qquad k = k(i)$$
#
# ([Chen et al. 2023](https://arxiv.org/abs/2310.18547) wrote a GPU kernel for the second term.)
#
# ### Exercise 11.1 · A layer for a mixed batch (three stars, 8 minutes)
#
# Write `mixed_layer(X, W, adapters, names)`. `X` holds one input a row. `adapters` maps a name to `(lora_A, lora_B,
# scaling)`. `names` has one entry a row; a name that is no adapter means: the base alone.


# %% tags=["exercise"]
def mixed_layer(X: Tensor, W: Tensor, adapters: dict[str, tuple], names: list[str]) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First `Y = X @ W.T`, for all rows. Then walk over `enumerate(names)` and add to `Y[row]` where the name is known.
# `lora_A` has shape (r, in), `lora_B` (out, r).


# %% tags=["solution"]
def mixed_layer(X: Tensor, W: Tensor, adapters: dict[str, tuple], names: list[str]) -> Tensor:
    Y = X @ W.T
    for row, name in enumerate(names):
        if name in adapters:
            lora_A, lora_B, scaling = adapters[name]
            Y[row] += scaling * lora_B @ (lora_A @ X[row])
    return Y


# %%
check("11.1", mixed_layer)

# %% [markdown]
# Our model does this in all its adapted layers. Does every row get what it would get alone?

# %%
tokens = tokenizer([questions[0]] * 4, return_tensors="pt").input_ids.to(model.device)
mixed = model(tokens, adapter_names=names).logits
alone = [model(tokens[:1], adapter_names=[name]).logits[0] for name in names]
[torch.allclose(row, single, atol=1e-3) for row, single in zip(mixed, alone, strict=True)]

# %% [markdown]
# Equal to rounding. And is it faster than one after the other? The same question to all four:

# %% tags=["measured"]
asked = [[{"role": "user", "content": questions[-1]}]] * 4
_, apart = adapters.timed(lambda: [reply(name, asked[0]) for name in names])
replies, together = adapters.timed(lambda: generate_turns(model, tokenizer, asked, adapter_names=names))
print(f"one by one {apart:.1f} s, in one batch {together:.1f} s")
compare(who=names, reply=replies)

# %% tags=["claim"]
assert all(has_style(name, answer) for name, answer in zip(PERSONAS, replies, strict=False))

# %% [markdown]
# The batch reads the base's weights once a step for all rows, but computes each row until the longest answer ends.
# Merged models could share nothing: each is a base of its own.
#
# ## 3. What does a thousand adapters cost?
#
# *Deeper: nothing later needs this section.*
#
# Twenty are enough to measure. The seventeen new ones are copies of the robot: their size is what counts.

# %%
for number in range(17):
    load_adapter(model, DATA / "adapters" / "robot", adapter_name=f"customer_{number}")
base_bytes = 4 * base_numbers
adapter_bytes = sum(p.nbytes for p in surgery.adapter_parameters(model)) // 20
f"{adapter_bytes / 2**20:.2f} MiB each in 32 bits, the base {base_bytes / 2**20:.0f} MiB"

# %%
predict("11.3")

# %%
customers = torch.linspace(0, 1000, 11)
GiB = base_bytes / 2**30


def draw_storage(ax, r):
    sizes = {"adapters": customers * adapter_bytes * r / 8 / 2**30, "the base": torch.full((11,), GiB)}
    title = f"Rank {r}: {8 * base_bytes / adapter_bytes / r:,.0f} adapters weigh as much as the base"
    options = {"xlabel": "customers", "ylabel": "GiB in 32 bits", "roles": {"the base": "frozen"}}
    figures.lines(sizes, x=customers, ylim=(0, 2.5), title=title, **options, ax=ax)


explore(draw_storage, r=[1, 2, 4, 8, 16, 64], start={"r": 8})

# %% [markdown]
# A thousand models would take 501 GiB, one base with a thousand adapters 2.2. So servers keep most adapters in the
# host's memory, and bring to the GPU those that the current batch needs ([Sheng et al.
# 2023](https://arxiv.org/abs/2311.03285)). To run one elsewhere: notebook [13](13_out_of_the_notebook.ipynb).
#
# ### Exercise 11.2 · How many fit? (one star, 4 minutes)
#
# Write `adapters_that_fit(memory, base, adapter)`: how many adapters fit beside one base. All sizes are in bytes. If
# the base itself does not fit, the answer is 0.


# %% tags=["exercise"]
def adapters_that_fit(memory: int, base: int, adapter: int) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `//` divides and rounds down, below zero too: `-1 // 7` is -1. `max(0, n)` keeps a count from falling below zero.


# %% tags=["solution"]
def adapters_that_fit(memory: int, base: int, adapter: int) -> int:
    return max(0, (memory - base) // adapter)


# %%
check("11.2", adapters_that_fit)

# %% [markdown]
# ## 4. Can two adapters become one?
#
# *Deeper: nothing later needs this section.*
#
# Captain and robot in one voice: their updates could be averaged. A common shortcut adds the $A$ and the $B$ apart,
# each times $\sqrt{1/2}$: the shapes stay as they are.

# %%
layers = [
    [switch.adapters[name] for name in ("captain", "robot")] for switch in surgery.switches(model).values()
]


# %%
def exact(one, other):
    return (one.delta_weight() + other.delta_weight()) / 2


def shortcut(one, other):  # what peft's "linear" does with weights of one half
    return one.scaling / 2 * (one.lora_B + other.lora_B) @ (one.lora_A + other.lora_A)


# %%
predict("11.4")

# %%
misses = [(shortcut(*pair) - exact(*pair)).norm() / exact(*pair).norm() for pair in layers]
f"the shortcut misses the exact average by {median(misses):.0%} of it, median of {len(misses)} layers"

# %% [markdown]
# $$(B_1 + B_2)(A_1 + A_2) = B_1 A_1 + B_2 A_2 + \underbrace{B_1 A_2 + B_2 A_1}_{\text{cross terms}}$$
#
# The cross terms are as large as the sum itself. Two ways have none. Write the matrices one after the other: $[B_1\,
# B_2]\,[A_1; A_2]$ is the sum, of rank 16. Or form the sum, and keep the best rank $r$ of its SVD (notebook
# [01](01_rank_and_svd.ipynb)).

# %%
kept = torch.stack([adapters.errors_by_rank(*adapters.one_after_the_other(pair)) for pair in layers])
options = {"x": range(17), "xlabel": "rank that is kept", "ylabel": "relative error"}
marks = {"linear": (8, median(misses).item()), "cat": (16, 0)}
title = "An SVD misses little, the shortcut by as much as there is"
figures.lines({"svd": kept.median(dim=0).values}, **options, mark=marks, title=title)

# %% tags=["claim"]
assert 0.9 < median(misses) < 1.05 and kept[:, 8].median() < 0.1 and kept[:, 16].max() < 1e-6
B, A = adapters.one_after_the_other(layers[0])
assert torch.allclose(B @ A / 2, exact(*layers[0]), atol=1e-7)

# %% [markdown]
# In [peft](https://huggingface.co/docs/peft/package_reference/lora), `add_weighted_adapter` calls the three ways
# `"linear"`, `"cat"` and `"svd"`. Even an exact sum is no promise of both tasks: each update was trained without the
# other.
#
# ## 5. What if the adapter is no update of a weight?
#
# *Deeper: nothing later needs this section.*
#
# In 2019, two years before LoRA, adapters were small networks *behind* a layer: down to $m$ numbers, a bend $f$, up
# again, and the input added ([Houlsby et al. 2019](https://arxiv.org/abs/1902.00751), section 2.1): $y = h + U f(D h)$.

# %%
torch.manual_seed(0)
behind, W = BottleneckAdapter(features=8, bottleneck=2, activation="relu"), torch.randn(8, 8)
_ = behind.up.weight.normal_()  # as if trained; it starts at zero

# %%
predict("11.5")

# %%
scales = torch.linspace(-2, 2, 81)
inputs = scales[:, None] * torch.randn(8)
curves = {"a matrix": (inputs @ W.T)[:, 0], "a bottleneck": behind(inputs)[:, 0]}
title = "A matrix draws a straight line, a bottleneck bends"
figures.lines(curves, x=scales, xlabel="one input, times this number", ylabel="first output", title=title)

# %% [markdown]
# What bends cannot be added to a matrix, so a bottleneck stays in the way, twice in each block. LoRA's paper measures
# up to 30 % more time with one short text at a time ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), table 1).
#
# ### Exercise 11.3 · A bottleneck (one star, 5 minutes)
#
# Write `bottleneck_adapter(h, down, up)` with a ReLU as its bend and no biases. `h` holds one vector a row, `down` has
# shape (m, d), `up` (d, m).


# %% tags=["exercise"]
def bottleneck_adapter(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Rows go through a matrix as `h @ down.T`. `torch.relu` acts on the narrow part. With `up` = 0 the result must be `h`.


# %% tags=["solution"]
def bottleneck_adapter(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return h + torch.relu(h @ down.T) @ up.T


# %%
check("11.3", bottleneck_adapter)

# %% [markdown]
# **Prefix tuning** changes no layer. In attention the query of a token, times all keys, says how much is read of each
# value. A prefix puts trained keys and values of no word before the first token, in each layer ([Li and Liang
# 2021](https://arxiv.org/abs/2101.00190), section 4.2):
#
# $$\mathrm{softmax}\!\left(\frac{q\,[P_K; K]^\top}{\sqrt d}\right) [P_V; V]$$
#
# Here every prefix token costs $2 \cdot 30 \cdot 192 = 11{,}520$ numbers: a key and a value of 192 numbers in each of
# 30 layers.
#
# ### Exercise 11.4 · Attention with a prefix (two stars, 8 minutes)
#
# Write `attend(q, K, V, prefix_K, prefix_V)` for one query `q` of `d` numbers. Keys and values stand in rows.


# %% tags=["exercise"]
def attend(q: Tensor, K: Tensor, V: Tensor, prefix_K: Tensor, prefix_V: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `torch.cat((prefix_K, K))` puts rows above rows. One softmax runs over all of them: the weights of prefix and tokens
# together sum to 1. `q.numel() ** 0.5` is the square root of d.


# %% tags=["solution"]
def attend(q: Tensor, K: Tensor, V: Tensor, prefix_K: Tensor, prefix_V: Tensor) -> Tensor:
    keys, values = torch.cat((prefix_K, K)), torch.cat((prefix_V, V))
    return torch.softmax(keys @ q / q.numel() ** 0.5, dim=0) @ values


# %%
check("11.4", attend)

# %% [markdown]
# Now all of them on the event sentences of notebook [10](10_qlora_finetune.ipynb), the adapters with about equally many
# numbers: LoRA of rank 8 on query and value, a bottleneck of 6 behind each sublayer, a prefix of 40. Each method got a
# learning rate of its own, by validation lines (`tools/record_methods.py`, 120 steps of 8 on a GPU).

# %%
methods = records.read("methods")
multiples, scores = adapters.scores_by_rate(methods)
title = "Each method's rate lies inside what was tried"
labels = {"xlabel": "learning rate, in multiples of the chosen one", "ylabel": "validation lines right"}
figures.score_by_rate(scores, rates=multiples, **labels, title=title)

# %% [markdown]
# At that rate, three seeds on the test sentences, and the time of a token on your machine:

# %%
surgery.add_bottleneck(model, bottleneck=6, adapter_name="bottleneck")
surgery.add_prefix(model, num_virtual_tokens=40, adapter_name="prefix")
kinds = {"lora": "gardener", "bottleneck": "bottleneck", "prefix": "prefix"}  # untrained ones take as long

# %% tags=["measured"]
times = adapters.milliseconds_a_token(model, tokens[:1], list(kinds.values()))
milliseconds = {key: times[name] for key, name in kinds.items()} | {"full": times["base"]}
compare(**adapters.method_columns(methods, milliseconds))

# %% tags=["claim"]
numbers = {run["method"]: run["trainable_parameters"] for run in methods["runs"]}
assert all(
    sum(p.numel() for p in surgery.adapter_parameters(model, n)) == numbers[k] for k, n in kinds.items()
)
inside = [not math.isnan(values[i]) for values in scores.values() for i in map(multiples.index, (0.5, 2.0))]
assert all(inside) and [f"{scores['prefix'][multiples.index(m)]:.0%}" for m in (0.5, 2.0)] == ["47%", "0%"]
seen = {key: [run["exact_match"] for run in methods["runs"] if run["method"] == key] for key in numbers}
unseen = [[run["exact_match_unseen"] for run in methods["runs"] if run["method"] == key] for key in numbers]
assert sorted(round(100 * (max(seeds) - min(seeds))) for seeds in unseen) == [9, 10, 13, 17]
others = [seen[key] for key in ("lora", "bottleneck", "full")]
assert max(map(min, others)) < min(map(max, others)) and max(seen["prefix"]) < min(map(min, others))

# %% [markdown]
# On seen patterns three of the four do equally well: their ranges meet, though the adapters train 0.3 % of the numbers.
# The prefix stays behind, and it is hard to tune: at half its rate it read 47 % of the validation lines, at twice its
# rate none. But it adds no product to a layer, only 40 tokens to the cache of each row.
#
# **How sure is this?** Three seeds (rates by one), one task, 120 steps. A busy machine hides differences of a tenth. On
# unseen patterns the seeds spread by 9 to 17 points.
#
# ### When not to use it
#
# One task only: merge. Tasks that a good prompt solves: no adapter at all. And an adapter fits its base alone: change
# the base, and a thousand adapters must be trained anew.

# %%
progress("11")

# %% [markdown]
# ## Summary
#
# - A switch of adapters moves no weight of the base. Three characters cost 1 % of it.
# - In a mixed batch, W acts once on all rows; each row adds the update of its own adapter.
# - A thousand adapters and one base: 2.2 GiB instead of 501. Beyond 292, the adapters outweigh the base.
# - Adding $A$ and $B$ apart brings cross terms as large as the sum. One after the other, or by SVD, it is right.
# - Limit: the style rule counts form. A reply can keep it and be wrong.
#
# **Next question:** all this has worked. What goes wrong in practice, and how do you see it? (Notebook 12.)
