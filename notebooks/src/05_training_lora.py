# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 05 · What changes when only B and A train?
#
# The layer of notebook 04 starts to learn: a small network that reads handwritten digits gets a new task.
#
# **You will** see what a forgotten freeze costs, compare LoRA with what it must beat, and, if you like, see how the
# best learning rate follows the rank.
#
# **You need** the layer $y = Wx + \frac{\alpha}{r} B A x$, with $B$ zero at the start (notebook
# [04](04_lora_from_scratch.ipynb)).
#
# **Time:** {minutes}. The cells run in under a minute.

# %%
import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import digit_reader, digit_sweep, digits, step_sizes
from lora_edu.classroom.experiments.digit_reader import accuracy, with_lora
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict

torch.set_num_threads(1)  # in networks this small a second thread only gets in the way

# %% [markdown]
# ## 1. Which numbers does the optimizer get?
#
# The old task is to read digits of 8 × 8 pixels. In the new ones a faulty scanner **swaps** two columns of pixels, or
# the page is **turned**.

# %%
upright = digits.load()
swapped, turned = (digits.load(change) for change in digit_sweep.TASKS.values())

# %%
rows = [digits.strip(task["test"][0][:8]) for task in (upright, swapped, turned)]
title = "Upright, two columns swapped, a quarter turn"
figures.image(-torch.cat(rows), limits=(-1, 1), title=title)

# %% [markdown]
# The base learned from 700 upright digits. It has three layers, 64 → 64 → 64 → 10, numbered 0, 2 and 4, with a curve
# between them. `with_lora` puts LoRA layers over the first two.

# %%
base = digit_reader.base_network()

# %%
tests = {"upright": upright["test"], "swapped": swapped["test"], "turned": turned["test"]}
compare(task=tests, right=[f"{accuracy(base, test):.0%}" for test in tests.values()])

# %% [markdown]
# Here is the whole training. Nothing in it knows about LoRA: the optimizer gets what has `requires_grad`. The loss,
# *cross-entropy*, is small when the right digit is likely. *Adam* moves each number by about the learning rate
# (notebook [05b](05b_cost_and_shipping.ipynb)).


# %%
def train(model, data, learning_rate, steps=60):
    X, y = data
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        loss = F.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


# %%
torch.manual_seed(0)
not_frozen = copy.deepcopy(base).requires_grad_()
careless = with_lora(not_frozen, r=8, lora_alpha=16)

# %%
predict("05.1")

# %%
{name: p.numel() for name, p in careless.named_parameters() if p.requires_grad}

# %% [markdown]
# Somebody forgot a part of the freeze. To do it right, freeze all, then wrap. Both models learn from the same start
# and the same 200 turned digits.

# %%
careful = with_lora(base.requires_grad_(False), r=8, lora_alpha=16)
careful.load_state_dict(careless.state_dict())
models = {"all frozen": careful, "last layer forgotten": careless}

# %%
few = digits.few(turned["adapt"], seed=0)
{name: f"loss {train(model, few, learning_rate=0.03):.3f}" for name, model in models.items()}

# %% [markdown]
# Both learn. Now pass on the result as one does: save $B$ and $A$, and put them over a clean copy of the base.


# %%
def passed_on(trained):
    adapter = {name: tensor for name, tensor in trained.state_dict().items() if "lora_" in name}
    model = with_lora(base, r=8, lora_alpha=16)
    model.load_state_dict(adapter, strict=False)
    return model


# %%
def scores(model):
    return [accuracy(model, turned["test"]), accuracy(passed_on(model), turned["test"])]


# %%
figures.bars(
    {name: scores(model) for name, model in models.items()},
    groups=["as trained", "B and A over a clean base"],
    ylabel="turned digits right",
    number_format="{:.0%}",
    title="With the last layer forgotten, the file is worth half or less",
)

# %% tags=["claim"]
assert scores(careful)[0] == scores(careful)[1] > 0.85
assert scores(careless)[0] > 0.85 and scores(careless)[1] < 0.5

# %% [markdown]
# That is how a forgotten freeze looks: training is fine, but the file does not give what training gave. (Over ten
# starts, 22 to 51 % were left.) The goal is $\min_{B, A} L(W + \frac{\alpha}{r} B A)$ with $W$ fixed (after [Hu et
# al. 2021](https://arxiv.org/abs/2106.09685), equation 2). So read the list of what trains before each run. A last
# layer may train too, if it is saved as well (notebook 06).
#
# ### Exercise 05.1 · Freeze all but LoRA (two stars, 4 minutes)
#
# Write `freeze_all_but_lora(model)`. Afterwards only the parameters whose name ends in `lora_A` or `lora_B` train,
# whatever trained before. Return them as a list, in the model's order, for the optimizer.


# %% tags=["exercise"]
def freeze_all_but_lora(model: nn.Module) -> list[nn.Parameter]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `model.named_parameters()` gives pairs of name and parameter. A text can be asked for several endings at once:
# `name.endswith(("a", "b"))`. `p.requires_grad_(False)` freezes one parameter.


# %% tags=["solution"]
def freeze_all_but_lora(model: nn.Module) -> list[nn.Parameter]:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("lora_A", "lora_B")))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# %%
check("05.1", freeze_all_but_lora)

# %% [markdown]
# ## 2. How much rank does a new task take, and what must W know?
#
# One answer can be written down. Each task moves pixels, so it is a matrix $P$, and $P^\top$ moves them back:
# $W P^\top (P x) = W x$. With the update $W P^\top - W$ in its first layer, the base would read the changed digits like
# upright ones.


# %%
def undo(change):
    moved = change(torch.eye(64).double().view(64, 8, 8)).reshape(64, 64)  # the transpose of P
    return base[0].weight @ moved - base[0].weight


{name: torch.linalg.matrix_rank(undo(change)).item() for name, change in digit_sweep.TASKS.items()}

# %% [markdown]
# That is the rank of the exact update; swapping touches two columns of 8 pixels. Training does not know it. And it now
# sees only 20 images.

# %%
predict("05.2")

# %% [markdown]
# LoRA, $W + BA$, has three rivals: a new network, trained **from scratch**; **full fine-tuning** of the base; and LoRA
# beside a **random** $W$ (last layer and biases stay the base's). Each gets the learning rate that is best on 300 other
# digits. Recorded for 20 seeds (`tools/record_digit_sweep.py`); bands hold the middle half.


# %%
def draw_ways(ax, task):
    style = {
        "ylabel": f"{task} digits right",
        "title": digit_sweep.FINDINGS[task],
        "roles": {"W + BA": "trained"},
    }
    figures.share_by_rank(digit_sweep.rivals(task), ranks=digit_sweep.RANKS, **style, ax=ax)


explore(draw_ways, task=list(digit_sweep.TASKS))

# %% [markdown]
# **Swapped columns.** The base alone reads 69 %, LoRA of rank 1 gets 78 %, full fine-tuning 72 %, a new network 62 %.
# But $W$ must have learned: beside a random $W$, rank 16 reads 58 %; without $W$, rank 8 reads 41 %.
#
# **Quarter turn.** Rank counts, 44 % at 1 and 58 % at 16. A new network does at least as well as full fine-tuning, 64
# and 61 %. At rank 1 the learned $W$ helps (44 against 32 %), from 8 on no more.
#
# **How sure is this?** The first task was chosen, on validation digits, as one where the base helps. With 200 images
# scratch, full and rank 8 all read 92 %; on the turn rank 8 reads 89 %.
#
# One of them, live:

# %%
model = digit_sweep.new_model("W + BA", seed=3, r=4)
_ = train(model, digits.few(swapped["adapt"], seed=3, count=20), learning_rate=0.01)

# %%
recorded = digit_sweep.trials(experiment="ranks", task="swapped", way="W + BA", r=4)[1, 2, 3]
f"{accuracy(model, swapped['test']):.4f}, recorded {recorded:.4f}"


# %% tags=["claim"]
def right(task, way, r):
    return digit_sweep.by_rank(task, way, [r])[1].item()


many = {"experiment": "images", "task": "swapped"}
ways_of_many = [("from scratch", None), ("full fine-tuning", None), ("W + BA", 8)]
found = [digit_sweep.tuned_scores(**many, way=way, r=r) for way, r in ways_of_many]
assert [f"{digit_sweep.middle_half(scores[:, None])[1].item():.0%}" for scores in found] == ["92%"] * 3
ways = list(digit_sweep.rivals("turned"))
cases = [("W + BA", 1), (ways[1], 1), (ways[0], 1), ("random W + BA", 16), ("BA alone", 8)]
assert [f"{right('swapped', *case):.0%}" for case in cases] == ["78%", "72%", "62%", "58%", "41%"]
assert f"{accuracy(base, swapped['test']):.0%}" == "69%"
cases = [("W + BA", 1), ("W + BA", 16), (ways[0], 1), (ways[1], 1), ("random W + BA", 1)]
assert [f"{right('turned', *case):.0%}" for case in cases] == ["44%", "58%", "64%", "61%", "32%"]
tuned_full = digit_sweep.tuned_scores(experiment="ranks", task="swapped", way=ways[1], r=None)
rank_1 = digit_sweep.tuned_scores(experiment="ranks", task="swapped", way="W + BA", r=1)
assert (rank_1 > tuned_full).sum() == 16  # of 20 seeds
turned_by_8 = digit_sweep.tuned_scores(experiment="images", task="turned", way="W + BA", r=8)
assert f"{digit_sweep.middle_half(turned_by_8[:, None])[1].item():.0%}" == "89%"
assert max(right("swapped", "W + BA", r) for r in digit_sweep.RANKS) - right("swapped", "W + BA", 1) < 0.02
assert all(
    right("turned", ways[0], r) > right("turned", way, r) for way in ways[1:4] for r in digit_sweep.RANKS
)
assert all(abs(right("turned", ways[2], r) - right("turned", ways[3], r)) < 0.02 for r in (8, 16))
assert abs(accuracy(model, swapped["test"]) - recorded.item()) < 0.0034  # another processor: one image

# %% [markdown]
# ### When not to use it
#
# Far from what the base knows, or with many examples, try full fine-tuning too, and even a new network.

# %% [markdown]
# ## 3. What happens to the best learning rate when r grows?
#
# *Deeper: nothing later needs this section.*
#
# LoRA scales its update by $s = \alpha / r$. *Rank-stabilized* LoRA (`use_rslora=True`) takes $s = \alpha / \sqrt r$.
# Now $\alpha$ is 4, and there are 100 turned digits.

# %%
predict("05.3")


# %%
def draw_rates(ax, use_rslora):
    style = {"ylabel": "turned digits right", "title": digit_sweep.RATE_FINDINGS[use_rslora]}
    figures.score_by_rate(digit_sweep.by_rate(use_rslora), rates=digit_sweep.SCALING_RATES, **style, ax=ax)


figures.beside(draw_rates, use_rslora=[False, True])

# %% [markdown]
# A ring marks the best of six rates, which validation digits choose as well. With $\alpha / r$ you can keep the rate
# when you change the rank. With $\alpha / \sqrt r$ rank 64 wants a lower one; 0.1 is too much for all.
#
# In its first step Adam moves each number of $B$ by the learning rate $\eta$, with the sign that lowers the loss. So
# for an input the $r$ terms of $B(Ax)$ add up, and the output moves by about
#
# $$\|s\, B A x\| \;\sim\; s\, r\, \eta$$
#
# With $\alpha / r$ the rank cancels. With $\alpha / \sqrt r$, derived for plain gradient descent ([Kalajdzievski
# 2023](https://arxiv.org/abs/2312.03732), theorem 3.2), the step grows like $\sqrt r$.
#
# The same on SmolLM2 at $\eta = 0.001$, for sentences built in ways that training never showed:

# %%
figures.score_by_step(
    step_sizes.unseen_by_step(),
    xlabel="length of a step, s times r",
    ylabel="unseen patterns right",
    title="Only the longest steps do clearly better",
)

# %%
compare(**step_sizes.scaling_columns())

# %% tags=["claim"]
best = {use: [int(line[1].argmax()) for line in digit_sweep.by_rate(use).values()] for use in (False, True)}
assert best == {False: [3, 3, 3, 3], True: [3, 3, 2, 2]} and digit_sweep.SCALING_RATES[2:4] == (0.01, 0.03)
assert digit_sweep.by_rate(True)["r = 64"][1, 4] < 0.2
columns = step_sizes.scaling_columns()
plain, rooted = (
    columns["α / r, unseen"][1:],
    columns["α / √r, unseen"][1:],
)  # two digits each, so text compares
assert all(max(a.split(", ")) < min(b.split(", ")) for a, b in zip(plain, rooted, strict=True))

# %% [markdown]
# The number at a mark is its rank; marks of one step length stand side by side. Most of those with steps up to 32 lie
# about 60 %, whatever their rank: rank 128 with small steps does no better than rank 1. The three highest, 71 to 74 %,
# all have steps above 90. On seen patterns all are alike; on unseen ones, at ranks 32 and 128, each seed of $\alpha /
# \sqrt r$ beats each of $\alpha / r$.
#
# **How sure is this?** Three seeds, 100 sentences and one learning rate, chosen on seen test patterns; at rank 8
# validation sentences choose the same. A higher rate might do the same as a longer step.
#
# ### Exercise 05.2 · Tune without peeking (two stars, 4 minutes)
#
# Write `tuned(validation, test)`. Both have shape (rates, seeds). Take the one rate whose **median** validation score
# is highest, and return its test scores, shape (seeds,).


# %% tags=["exercise"]
def tuned(validation: Tensor, test: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `t.median(dim=1).values` is one number a row, and `.argmax()` says which is largest.


# %% tags=["solution"]
def tuned(validation: Tensor, test: Tensor) -> Tensor:
    return test[validation.median(dim=1).values.argmax()]


# %%
check("05.2", tuned)

# %% [markdown]
# ### Exercise 05.3 · The scaling (one star, 2 minutes)
#
# Write `scaling(r, lora_alpha, use_rslora)`: what the update $BA$ is multiplied by.


# %% tags=["exercise"]
def scaling(r: int, lora_alpha: float, use_rslora: bool) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# At `r=1` both are `lora_alpha`. A root is `r**0.5`.


# %% tags=["solution"]
def scaling(r: int, lora_alpha: float, use_rslora: bool) -> float:
    return lora_alpha / (r**0.5 if use_rslora else r)


# %%
check("05.3", scaling)

# %%
progress("05")

# %% [markdown]
# ## Summary
#
# - Freeze all, wrap, then read the list of what trains.
# - Compare with a fresh network. The base is worth most where the task is near and examples are few, and there rank 1
#   may do.
# - $\alpha$, $r$ and the learning rate together set the step. With Adam and $\alpha / r$ the best rate hardly depends
#   on $r$.
# - Limit: a small network and two toy tasks. Measure yours, with a fresh network beside it.
#
# **Next question:** what does that save, and how is the result shipped? (Notebook 05b.)
