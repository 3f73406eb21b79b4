# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 02 · Can the update be smaller than the weights?
#
# Trained weights are not low-rank (notebook 01). Perhaps the *change* by fine-tuning is.
#
# **You will** measure a real update: its size, its rank, and how much the task needs. **You need** notebook
# [01](01_rank_and_svd.ipynb): rank, SVD. **Time:** {minutes}.

# %%
from statistics import median

import torch
from torch import Tensor

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import updates
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import explore, predict
from lora_edu.methods import lowrank

# %% [markdown]
# ## 1. What does training add to a weight?
#
# The **gradient** says how the **loss**, one number for how wrong the outputs are, changes with each weight. Training
# steps against it, as far as the **learning rate** says; the steps add up to the **update** $\Delta W$.
#
# The weight in row 2, column 3 carries $x_3$ to $y_2$. So its gradient is $x_3$ times $e_2$, where $e_2$ says how the
# loss changes with $y_2$:

# %%
E = torch.tensor([[1.0, -1, 2], [0, 2, 1]])
X = torch.tensor([[2.0, 0, 1, 3], [1, -1, 2, 0]])
figures.column_times_row(E, X)

# %% [markdown]
# Each row of a table is a multiple of $x$: rank 1. The sum is one product of $X$ (batch, in) and
# $E = \partial L / \partial Y$ (batch, out), one example a row:
#
# $$\frac{\partial L}{\partial W} = E^\top X, \qquad \operatorname{rank} \le \text{number of examples}$$
#
# ### Exercise 02.1 · The gradient of a layer (one star, 3 minutes)
#
# Write `weight_gradient(X, E)`, of shape (out, in).


# %% tags=["exercise"]
def weight_gradient(X: Tensor, E: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which product of `E` and `X` sums over the batch?


# %% tags=["solution"]
def weight_gradient(X: Tensor, E: Tensor) -> Tensor:
    return E.T @ X


# %%
check("02.1", weight_gradient)

# %%
torch.manual_seed(0)
X, wanted = torch.randn(6, 30, dtype=torch.float64), torch.randn(6, 20, dtype=torch.float64)
W = torch.randn(20, 30, dtype=torch.float64) / 30**0.5


# %%
def update(direction):
    trained = W.clone()
    for _ in range(100):
        E = X @ trained.T - wanted
        trained -= 0.01 * direction(E.T @ X)
    return trained - W


# %%
predict("02.1")

# %%
matrices = {"W": W, "by sign": update(torch.sign), "by gradient": update(lambda gradient: gradient)}
curves = {name: lowrank.rank_error_curve(matrix) for name, matrix in matrices.items()}
figures.rank_error(curves, rank=6, title="Six examples: rank 6, unless only the signs count")

# %% [markdown]
# A real run reads over 100,000 tokens (pieces of words), each a row of $X$, so the number of examples no longer limits
# the rank. And its **optimizer**, Adam (notebook 05b), evens out how far each number moves. At the first step
# only the signs remain, and signs alone gave rank 20 above. One has to measure.
#
# ## 2. How small is the update?
#
# All weights of our model were trained on notebook 10's event sentences: three runs, 200 steps
# (`tools/record_delta_w.py`). **Exact match** (every letter right) went from 0 to 95 %.

# %%
predict("02.2")

# %%
W_sizes, dW_sizes = updates.sizes("W"), updates.sizes("dW")
figures.update_sizes(W_sizes, dW_sizes, groups=updates.KINDS, marked=("block 0", 0))

# %% [markdown]
# A mark is the typical number (root mean square) of one of 210 weights. Adam moves every number by about the learning
# rate a step, here 0.00005, whichever weight it stands in. Most of the 200 steps cancel, and about 0.0004 is left
# everywhere. The ratio is largest, 0.9 %, where $W$ is smallest.
#
# The task does not ask for this size: single runs at learning rates of 0.00002 and 0.0002 got 96 and 98 of 100
# validation sentences right.

# %% [markdown]
# ### A cliff-hanger
#
# The base is stored in bfloat16, so storing $W$ again loses nothing. What if $W + \Delta W$ is stored so, too?

# %%
path = "model.layers.15.self_attn.q_proj"
W, dW = updates.base_weight(path), records.delta_w(path)
stored = (W + dW).bfloat16().double()
lost, lost_alone = (stored - (W + dW)).norm() / dW.norm(), (W.bfloat16() - W).norm() / W.norm()
f"lost: {lost:.0%} of dW, {lost_alone:.0%} of W alone. {(stored == W).double().mean():.0%} of the numbers stand still"

# %%
figures.nearby_levels(updates.bf16_levels(0.05, 0.1, 0.2, 0.4), change=0.00043)

# %% [markdown]
# Changes below half a gap are lost. So training needs finer numbers (notebook 05b), 4 bits endanger updates (07), and
# merging can erase them (12).
#
# ## 3. Is the update low-rank?
#
# Small and low-rank are two questions: faint noise has full rank. Which share of the **energy**, the sum of squared
# singular values, do a few directions hold?

# %%
predict("02.3")

# %%
explore(
    updates.draw_energy,
    start={"block": 15, "rank": 8},
    kind=["q", "v", "gate", "down"],
    block=[0, 7, 15, 22, 29],
    rank=[1, 2, 4, 8, 16, 32, 64, 128],
)

# %%
for part in ("dW", "W"):
    kept = [curve[7].item() for curve in updates.energies(part).values()]
    print(f"{part}: the first 8 terms keep {min(kept):.0%} to {max(kept):.0%}, median {median(kept):.0%}")

# %% [markdown]
# (16 % of the energy of $W$ is the error of 92 % in notebook 01: $0.92^2$ is what is lost.) In all 210 weights, up to
# rank 128, $\Delta W$ keeps more than $W$ and than noise. (Eight of the 30 value weights keep no more than noise at
# rank 16.) Yet no curve jumps to 100 %.
#
# ## 4. How much of the update does the task need?
#
# Three ways compete. **Full**: all weights train. **Full, cut**: the best rank-$r$ copy of each $\Delta W$ is added to
# the base, whose embedding (tokens to vectors) and norms (which rescale) stay. **LoRA**: $BA$ trains at rank $r$ from
# the start. Of the test sentences 200 are built as in training (*seen patterns*), 100 in new ways (*unseen*). Bands
# will hold three runs.

# %%
predict("02.4")

# %%
title = "LoRA, seen patterns: rank 1 will do. Unseen: 64 did best"
figures.rank_panels(updates.scores(), ylabel="exact match", roles={"LoRA": "trained"}, title=title)

# %% [markdown]
# *Seen:* LoRA beats the cut up to rank 8. *Unseen:* LoRA got 60 to 61 % at rank 1, 67 to 80 % at 64, full fine-tuning
# 54 to 70 %. So rank can matter, or the longer steps that come with it (notebook 05). Yet **for this task a low-rank
# update does as well as the full one.**
#
# $$W + \Delta W = W + B A, \qquad r \ll \min(\text{out}, \text{in})$$
#
# Hu et al. ([2021](https://arxiv.org/abs/2106.09685), section 4.1) state it as a hypothesis, after *intrinsic
# dimension*: along 200 random directions a language model reached 90 % of full fine-tuning on one task ([Aghajanyan et
# al. 2020](https://arxiv.org/abs/2012.13255)).
#
# **How sure is this?** Rates, LoRA's at rank 8, were chosen on seen test patterns. On validation sentences, one run
# each, they are within one answer of the best.
#
# ### When not to use it
#
# On code and mathematics LoRA at usual ranks learned less than full fine-tuning, and forgot less ([Biderman et al.
# 2024](https://arxiv.org/abs/2405.09673)). At low rank it gives weights strong new singular vectors, which full
# fine-tuning does not ([Shuttleworth et al. 2024](https://arxiv.org/abs/2410.21228)).

# %% [markdown]
# ## 5. Are the weak terms noise?
#
# *Deeper: nothing later needs this section.*
#
# ### Exercise 02.2 · How many terms? (two stars, 6 minutes)
#
# Write `rank_for_energy(S, share)`: the smallest rank that keeps at least `share` of the energy. `S` holds the
# singular values, largest first.


# %% tags=["exercise"]
def rank_for_energy(S: Tensor, share: float) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `S.square().cumsum(0)`. Count the ranks that are not enough yet.


# %% tags=["solution"]
def rank_for_energy(S: Tensor, share: float) -> int:
    kept = S.square().cumsum(0) / S.square().sum()
    return min(int((kept < share).sum()) + 1, len(S))  # rounding may leave the last of kept below share


# %%
check("02.2", rank_for_energy)

# %% [markdown]
# For 90 % our updates take 12 to 207 terms, median 77. On this scale Biderman et al. find 10 to 100 times a usual
# LoRA's rank. Are the weak ones noise? Runs that read the sentences in another order can tell.

# %%
predict("02.5")

# %%
explore(updates.draw_overlap, kind=updates.KINDS)

# %% [markdown]
# $$\text{shared} = \frac{\lVert U_r^\top U_r' \rVert_F^2}{r}$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 7.2), for the first $r$ singular vectors of two runs.
# (For what is read, $V$ takes the place of $U$.) At rank 64 they share, by weight, 40 to 78 %; chance gives 4 to 33 %.
# So the first 64 directions are not noise of the order alone. Part may come from the inputs, which are the same in both
# runs. Weaker directions were not compared.
#
# ### Exercise 02.3 · Cut the update (two stars, 7 minutes)
#
# Write `cut_update(W, W_tuned, r)`: $W$ plus the best rank-`r` copy of the update.


# %% tags=["exercise"]
def cut_update(W: Tensor, W_tuned: Tensor, r: int) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# What is cut, as in exercise 01.3, and what stays whole?


# %% tags=["solution"]
def cut_update(W: Tensor, W_tuned: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W_tuned - W, full_matrices=False)
    return W + U[:, :r] * S[:r] @ Vh[:r]


# %%
check("02.3", cut_update)

# %% tags=["claim"]
assert [torch.linalg.matrix_rank(matrix).item() for matrix in matrices.values()] == [20, 20, 6]
assert (W_sizes.max() / W_sizes.min()).round(decimals=1) == 8.5
assert (dW_sizes.max() / dW_sizes.min()).round(decimals=1) == 1.3 and dW_sizes.median().round(
    decimals=4
) == 4e-4
ratios = dW_sizes / W_sizes
assert ratios.argmax() == W_sizes.argmin() == 2 * updates.BLOCKS and updates.KINDS[2] == "v"  # of block 0
assert ratios.max().round(decimals=3) == 0.009
assert 0.56 < lost < 0.58 and lost_alone == 0 and 0.51 < (stored == W).double().mean() < 0.53
tuned = [records.read(f"delta_w_seed{seed}")["tuned"]["exact_match"] for seed in range(3)]
assert median(tuned) == 0.95 and max(tuned) - min(tuned) <= 0.011

# %% tags=["claim"]
dW_kept, W_kept = updates.energies("dW"), updates.energies("W")
noise = {layer: updates.noise_energy(updates.kind_of(layer)) for layer in W_kept}
assert len(dW_kept) == 210
assert all((dW_kept[layer] > W_kept[layer])[:128].all() for layer in W_kept)
assert all((dW_kept[layer] > noise[layer])[:128].all() for layer in W_kept)
below = [updates.kind_of(layer) for layer in W_kept if W_kept[layer][15] <= noise[layer][15]]
assert below == ["v"] * 8
ranks = sorted(int((curve < 0.9).sum()) + 1 for curve in dW_kept.values())
assert (ranks[0], ranks[-1], median(ranks)) == (12, 207, 77)
assert 0.48 < median(curve[7].item() for curve in dW_kept.values()) < 0.49

# %% tags=["claim"]
seen, unseen = (
    {name: torch.tensor(shares).T for name, (_, shares) in lines.items()}
    for lines in updates.scores().values()
)
middle = {name: shares.median(dim=1).values for name, shares in seen.items()}
assert (middle["LoRA"][:4] > middle["full, cut"][:4]).all()  # ranks 1, 2, 4, 8
assert (middle["full, cut"][4:] >= 0.95).all()  # from 16 on
assert middle["full"] - 0.011 < middle["LoRA"][0] < middle["full"]
full, rank_1, rank_64 = unseen["full"][0], unseen["LoRA"][0], unseen["LoRA"][-1]
ends = [share for runs in (full, rank_1, rank_64) for share in (runs.min(), runs.max())]
assert [f"{share:.0%}" for share in ends] == ["54%", "70%", "60%", "61%", "67%", "80%"]
by_rate = {run["learning_rate"]: run["exact_match"] for run in records.runs("events_gpu_tune", method="full")}
assert (by_rate[2e-5], by_rate[2e-4]) == (0.96, 0.98) and max(by_rate.values()) - by_rate[5e-5] < 0.011
lora = {
    run["learning_rate"]: run["exact_match"] for run in records.runs("events_gpu_tune", method="lora", r=8)
}
assert lora[1e-3] == max(lora.values())

# %% tags=["claim"]
at_64 = [updates.overlap(kind, side)[:, -1] for kind in updates.KINDS for side in ("left", "right")]
assert f"{min(map(min, at_64)):.0%}" == "40%" and f"{max(map(max, at_64)):.0%}" == "78%"
chances = [64 / width for shape in updates.SHAPES.values() for width in shape]
assert f"{min(chances):.0%}" == "4%" and f"{max(chances):.0%}" == "33%"
assert 0.6 < median(updates.overlap("q", "right")[:, 3]) < 0.7

# %%
progress("02")

# %% [markdown]
# ## Summary
#
# - A gradient is a sum of columns times rows.
# - Adam and the learning rate set the update's size.
# - It is not low-rank: rank 8 keeps half of its energy.
# - The task needs less: rank 1, trained, nearly matches full fine-tuning on seen patterns.
# - Limit: one small model, narrow task, three runs.
#
# **Next question:** what does a low-rank update cost? (Notebook 03.)
