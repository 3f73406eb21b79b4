# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 02 · May the update be smaller than the weights?
#
# Notebook 01 ended with a disappointment: trained weights are not low-rank. But fine-tuning does not make weights. It
# changes them a little. Perhaps the *change* is simpler than the weights.
#
# **You will** see what training adds to a weight, measure how small that is and how low its rank is on a real model,
# and find out how much of it the task needs.
#
# **You need** notebook 01 (rank, SVD, energy) and the word gradient: how the loss changes with each number.
#
# **Time:** {minutes}. The computer needs less than one of them.

# %%
from statistics import median

import torch
from torch import Tensor

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.methods import lowrank

# %% [markdown]
# ## 1. What does training add to a weight?
#
# Gradient descent moves a weight by many small steps, each against the gradient of the loss. Look only at the start and
# the end: $W_{\text{end}} = W + \Delta W$. The *update* $\Delta W$ is the sum of all steps.
#
# A toy first: one layer with $W$ of shape (20, 30), trained to give 6 inputs the outputs that we want.

# %%
torch.manual_seed(0)
X, wanted = torch.randn(6, 30, dtype=torch.float64), torch.randn(6, 20, dtype=torch.float64)
W = torch.randn(20, 30, dtype=torch.float64) / 30**0.5

# %%
predict("02.1")

# %%
trained = W.clone().requires_grad_()
for _ in range(100):
    loss = (X @ trained.T - wanted).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, trained)
    trained.data -= 0.01 * gradient

# %%
dW = trained.detach() - W
f"rank of W: {torch.linalg.matrix_rank(W)}, of the update: {torch.linalg.matrix_rank(dW)}"

# %%
curves = {"W": lowrank.rank_error_curve(W), "update": lowrank.rank_error_curve(dW)}
figures.rank_error(
    curves,
    alt="Relative error of the best copy over the rank kept. That of W falls slowly and reaches zero at rank 20; that "
    f"of the update is {curves['update'][5]:.0%} at rank 5 and {curves['update'][6]:.0%} from rank 6 on.",
)

# %% [markdown]
# With inputs $X$ (batch, in) and the loss's gradient at the outputs $E = \partial L / \partial Y$ (batch, out):
#
# $$\frac{\partial L}{\partial W} = E^\top X, \qquad \operatorname{rank} \le \text{rows of } X$$
#
# (chain rule: in one example $W_{oi}$ carries input $x_i$ to output $y_o$, so its slope is $e_o x_i$.) Each example
# adds one column times one row: rank 1. So a few examples can only make an update of low rank, when each step goes
# straight against the gradient. That is arithmetic, not yet a finding, and for a real run it says nothing: that sees
# tens of thousands of tokens, each a row of $X$, and its optimizer, Adam (notebook 05), rescales every number by
# itself. (Step by `0.01 * gradient.sign()` above, the core of Adam, and see: rank 20.) One has to measure.
#
# ### Exercise 02.1 · The gradient of a layer (two stars, 5 minutes)
#
# Write `weight_gradient(X, E)`: the gradient of the loss for $W$ (out, in), from inputs `X` (batch, in) and the
# gradient at the outputs `E` (batch, out).


# %% tags=["exercise"]
def weight_gradient(X: Tensor, E: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The result has the shape of $W$: (out, in). Which product of `E` and `X` sums over the batch?


# %% tags=["solution"]
def weight_gradient(X: Tensor, E: Tensor) -> Tensor:
    return E.T @ X


# %%
check("02.1", weight_gradient)

# %% [markdown]
# Before LoRA, the usual way to change less was to **freeze** most layers: their $\Delta W$ is zero, and only the rest
# trains. Here is what that can cost, recorded on a GPU (`tools/record_classifier.py`). The task: name the kind of day
# in a sentence, four classes, with a new output layer (the *head*). Either only the head trains, or a LoRA update in
# every block as well.

# %%
ways = {"head, 100 steps": "head", "head and LoRA, 100 steps": "LoRA, head saved"}
seeds = [[run["after"] for run in records.runs("classifier", way=way)] for way in ways.values()]
right = [f"{median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})" for shares in seeds]
fitted = f"{records.read('frozen_head')['after']:.0%}"
compare(what_trains=[*ways, "head, fitted to the end"], right_answers=[*right, fitted])

# %% [markdown]
# The first two: three seeds at one learning rate. The last is logistic regression on what the frozen layers compute
# (`tools/record_frozen_head.py`). Always naming the most frequent class gets 41 %. Frozen layers keep what they
# compute, and that was made for another job.
#
# ## 2. How small is the update of a real model?
#
# The course's model, all of its weights trained in float32 on the event sentences of notebook 10: 200 steps of 8, on a
# GPU, three seeds (`tools/record_delta_w.py`). Before, it gets no event right; afterwards 95 %.

# %%
predict("02.2")

# %%
updates = [records.read(f"delta_w_seed{seed}") for seed in range(3)]
sizes = updates[0]["relative_size"]
f"{len(sizes)} weights, {min(sizes.values()):.2%} to {max(sizes.values()):.2%}"

# %%
kinds = ["q", "k", "v", "o", "gate", "up", "down"]
by_kind = [[size for path, size in sizes.items() if path.endswith(f".{kind}_proj")] for kind in kinds]

# %%
figures.bars(
    {"|dW| / |W|": list(zip(*by_kind, strict=True))},
    groups=kinds,
    number_format="{:.2%}",
    ylabel="relative size of the update",
    alt="Norm of the update over norm of the weight, median of 30 blocks, the line from the smallest to the largest: "
    + ", ".join(f"{kind} {median(values):.2%}" for kind, values in zip(kinds, by_kind, strict=True)),
)

# %% [markdown]
# Bars are medians of the 30 blocks, here of the first seed; the lines reach from the smallest to the largest. A change
# of two parts in a thousand turns a model that never answers in our form into one that nearly always does.
#
# But **small and low-rank are two questions**. Noise at a thousandth of the size of $W$ is small, and has full rank. A
# single column times a single row can be huge, and has rank 1. The norm says how long the update is; the singular
# values say in how many directions it points. LoRA saves numbers only if the second is small.
#
# ## 3. Is the update low-rank?
#
# For each weight the record keeps the singular values of $W$ and, of the first seed, of $\Delta W$; a few $\Delta W$
# are kept whole. A record should be checked, so we compute one of them again. (Stored are 16-bit numbers, scaled by a
# power of two.)

# %%
spectra = records.delta_w_spectra()
S = spectra["model.layers.15.self_attn.q_proj.dW"]
again = torch.linalg.svdvals(records.delta_w("model.layers.15.self_attn.q_proj"))
f"largest singular value: recorded {S[0]:.4f}, computed {again[0]:.4f}"

# %%
predict("02.3")


# %%
def energy(singular_values):
    return (singular_values.square().cumsum(0) / singular_values.square().sum()).numpy()


shapes = {
    "self_attn.q": (576, 576),
    "self_attn.v": (192, 576),
    "mlp.gate": (1536, 576),
    "mlp.down": (576, 1536),
}
noise = {kind: energy(torch.linalg.svdvals(torch.randn(shape))) for kind, shape in shapes.items()}


# %%
def draw(ax, kind, block, rank):
    path = f"model.layers.{block}.{kind}_proj"
    curves = {"dW": energy(spectra[path + ".dW"]), "W": energy(spectra[path + ".W"]), "noise": noise[kind]}
    kept = ", ".join(f"{name} {curve[rank - 1]:.0%}" for name, curve in curves.items())
    text = f"{kind} of block {block}: of {len(curves['W'])} terms, the first {rank} keep this share of energy: {kept}."
    figures.energy_by_rank(curves, rank=rank, alt=text, ax=ax)


explore(
    draw,
    kind=list(shapes),
    block=[0, 7, 15, 22, 29],
    rank=[1, 2, 4, 8, 16, 32, 64, 128],
    start={"block": 15, "rank": 8},
)

# %% [markdown]
# Energy is the sum of squared singular values ([notebook 01](01_rank_and_svd.ipynb)). From tick to tick the rank
# doubles. The update rises earlier than the weight, and the weight earlier than noise. (One exception: the value weight
# of block 29 rises no earlier than noise.) Yet nowhere does the curve jump to 100 %: every term is there, only most are
# weak.

# %%
for part in (".dW", ".W"):
    kept = [energy(S)[7] for name, S in spectra.items() if name.endswith(part)]
    print(f"{part[1:]}: the first 8 terms keep {min(kept):.0%} to {max(kept):.0%}, median {median(kept):.0%}")

# %% [markdown]
# ### Exercise 02.2 · How many terms? (two stars, 6 minutes)
#
# Write `rank_for_energy(S, share)`: the smallest rank whose terms keep at least `share` (more than 0, less than 1) of
# the energy, from singular values `S`, largest first.


# %% tags=["exercise"]
def rank_for_energy(S: Tensor, share: float) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `S.square().cumsum(0)` is the energy of the first 1, 2, 3, … terms. Count the ranks that are not enough yet.


# %% tags=["solution"]
def rank_for_energy(S: Tensor, share: float) -> int:
    kept = S.square().cumsum(0) / S.square().sum()
    return min(int((kept < share).sum()) + 1, len(S))  # rounding may leave the last of kept below share


# %%
check("02.2", rank_for_energy)

# %% [markdown]
# Try `sorted(rank_for_energy(S, 0.9) for name, S in spectra.items() if name.endswith(".dW"))`. The answers run from 12
# to 207, with a median of 77. A rank of 8 does not hold this update.
#
# ## 4. How much of the update does the task need?
#
# Energy counts every direction alike. The task may not. So we put only the best rank-$r$ copy of each $\Delta W$ onto
# the base, kept the base's own embedding and norms, and asked the 200 events of seen patterns again.

# %%
predict("02.4")

# %%
ranks = [1, 2, 4, 8, 16, 64]
cut = [[row["exact_match"] for row in record["by_rank"] if row["rank"] in ranks] for record in updates]
kept = [median(energy(S)[rank - 1] for name, S in spectra.items() if name.endswith(".dW")) for rank in ranks]

# %% [markdown]
# One more line belongs here. LoRA does not cut an update: it *trains* one of rank $r$ from the start. Same data, same
# number of steps, learning rate tuned for each method, three seeds (`tools/record_gpu_runs.py`). Lines are medians,
# bands go from the lowest seed to the highest. The rank doubles from tick to tick; the last step is from 16 to 64.

# %%
lora = [
    [run["exact_match"] for run in records.runs("events_gpu_final", method="lora", r=rank)] for rank in ranks
]
trained_at = list(zip(*lora, strict=True))
cut_at = dict(zip(ranks, zip(*cut, strict=True), strict=True))

# %%
figures.share_by_rank(
    {
        "LoRA trained at rank r": trained_at,
        "full update cut to rank r": cut,
        "energy of the cut update": kept,
    },
    ranks=ranks,
    ylabel="exact match, or energy kept",
    alt=f"Exact match, medians of three seeds. The update cut to rank 1: {median(cut_at[1]):.0%}, 4: "
    f"{median(cut_at[4]):.0%}, 8: {median(cut_at[8]):.0%}, 16: {median(cut_at[16]):.0%}. LoRA trained at rank 1: "
    f"{median(lora[0]):.0%}, at 8: {median(lora[3]):.0%}. Energy kept at 8, median of 210 weights: {kept[3]:.0%}.",
)

# %% [markdown]
# Three lines, three answers. Energy climbs slowly: at rank 64 it is not yet at 90 %. The exact match of the cut update
# is whole from about rank 16 on. And an update that was *trained* at rank 1 is already within two points of it.
#
# So the careful form of the claim is not "updates are low-rank". It is: **for this task there is a low-rank update that
# does as well.** Hu et al. state theirs as a hypothesis, too
# ([2021](https://arxiv.org/abs/2106.09685), section 4.1):
#
# $$W + \Delta W = W + B A, \qquad r \ll \min(\text{out}, \text{in})$$
#
# What surprises: cutting a good update is a worse way to a low rank than training there.
#
# ### Exercise 02.3 · Cut the update (two stars, 7 minutes)
#
# Write `cut_update(W, W_tuned, r)`: the weight that you get when only the best rank-`r` copy of the update is kept.


# %% tags=["exercise"]
def cut_update(W: Tensor, W_tuned: Tensor, r: int) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# What is cut, and what stays whole? `torch.linalg.svd(..., full_matrices=False)`, as in exercise 01.3.


# %% tags=["solution"]
def cut_update(W: Tensor, W_tuned: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W_tuned - W, full_matrices=False)
    return W + U[:, :r] * S[:r] @ Vh[:r]


# %%
check("02.3", cut_update)

# %% [markdown]
# ### When not to use it
#
# Our task is narrow: one form, short sentences, 1,600 examples. Where much must be learned, a low rank can be too
# little. [Biderman et al. (2024)](https://arxiv.org/abs/2405.09673) trained Llama-2-7B on code and mathematics, up to
# billions of tokens. Full fine-tuning then found updates of 10 to 100 times the rank of a usual LoRA, and LoRA learned
# less. It also forgot less. Draw the curve for your own task before you believe either side.

# %%
progress("02")

# %% [markdown]
# ## Summary
#
# - Training gives $W + \Delta W$. One row of inputs, such as a token, adds a matrix of rank 1 to a layer's gradient.
# - The update of this fine-tune is small: about 0.2 % of the weight.
# - It is closer to low rank than the weight is, but not low-rank: rank 8 keeps about half of its energy.
# - The task needs less than the energy says: a LoRA of rank 1 comes within a point or two of full fine-tuning here.
# - Limit: one small model, one narrow task. On hard tasks full fine-tuning finds updates of much higher rank.
#
# **Next question:** if a low-rank update is enough, what does it cost? (Notebook 03.)
