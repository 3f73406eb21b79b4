# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 05b · What does LoRA cost, and how is it shipped?
#
# Training $B$ and $A$ alone saves memory. How much, and what is lost when the update is added to $W$?
#
# **You will** compute a step of Adam, read a bill of memory, merge an adapter, and see a weight drift.
#
# **You need** the digits of notebook [05](05_training_lora.ipynb), and what a merge is (notebook
# [04](04_lora_from_scratch.ipynb)).
#
# **Time:** {minutes}. The cells run in under a minute.

# %%
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check, faulty
from lora_edu.classroom.experiments import digit_reader, digit_sweep, digits, shipping
from lora_edu.classroom.experiments.digit_reader import accuracy
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.methods.lora import LoRALinear, merged_linear

torch.set_num_threads(1)  # in networks this small a second thread only gets in the way

# %% [markdown]
# ## 1. Which memory is saved, and which is not?
#
# **Adam** keeps two running averages for each number that trains: of its gradient, $m$, and of the gradient's square,
# $v$.
#
# $$m \leftarrow 0.9\, m + 0.1\, g, \qquad v \leftarrow 0.999\, v + 0.001\, g^2, \qquad
# \theta \leftarrow \theta - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# Here $g$ is the gradient of one number $\theta$, and $\epsilon$ keeps from dividing by zero. Both averages start at
# zero, and the hats make up for that: they divide by $1 - 0.9^t$ and $1 - 0.999^t$ at step $t$ ([Kingma
# and Ba 2014](https://arxiv.org/abs/1412.6980), algorithm 1). So at the first step $\hat m = g$ and $\hat v = g^2$. A
# gradient of 4 gives $4 / \sqrt{16} = 1$, and one of $-300$ gives $-1$:

# %%
g = torch.tensor([4.0, -300, 1])
-0.01 * g / ((g**2).sqrt() + 1e-8)

# %%
theta = nn.Parameter(torch.zeros(3))
theta.grad = g
torch.optim.Adam([theta], lr=0.01).step()
theta.data

# %% [markdown]
# (**AdamW** also shrinks each weight a little.) So the first step is as long as the learning rate, whatever the
# gradient's size, unless it is 0 (as $A$'s is, while $B$ is zero).
#
# Each number that trains takes three more, a gradient and two averages. Here is SmolLM2, with LoRA on all linear
# layers.

# %%
predict("05.4")

# %%
figures.memory_at_peak(
    shipping.peaks(),
    roles=shipping.ROLES,
    title="Adam's averages all but vanish; the peak falls by a third",
)

# %% [markdown]
# Recorded on a GPU, in float32. The last part is the rest: mostly **activations**, which the forward pass keeps for
# the backward pass. The peak comes when the loss is computed, with all activations and no gradient yet. So at the
# peak LoRA saves Adam's averages. Gradients summed over small batches count too.
#
# A frozen layer need not keep its input, unless an $A$ wants it. In float32 LoRA keeps 10 % less for a token with all
# linear layers adapted; over a 16-bit base it keeps more (notebook [03](03_parameter_budget.ipynb)).
#
# A step took 171 ms with LoRA and 99 with full fine-tuning: Python starts many small products one by one. A [CUDA
# graph](https://github.com/OWNER/REPO/blob/main/docs/gpus.md) starts all by one call: 41 and 42.
#
# ### Exercise 05.4 · What Adam will hold (two stars, 5 minutes)
#
# Write `adam_state_bytes(model)`: bytes of both averages, before training and without an optimizer. They have the
# dtype of their parameter: `p.element_size()` bytes a number. (PyTorch also keeps a step counter of 4 bytes a tensor.
# Leave it out.)


# %% tags=["exercise"]
def adam_state_bytes(model: nn.Module) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum over `model.parameters()`, and only those that train. `p.numel()` numbers, twice.


# %% tags=["solution"]
def adam_state_bytes(model: nn.Module) -> int:
    return sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


# %%
check("05.4", adam_state_bytes)

# %% [markdown]
# ## 2. Can the update be added to W, and taken out again?
#
# LoRA learns turned digits, as in notebook 05. Then, in 32 bits, $W + \frac{\alpha}{r} BA$ becomes one plain layer.

# %%
base = digit_reader.base_network()
upright, turned = digits.load(), digits.load(digit_sweep.quarter_turn)
adapted = digit_sweep.new_model("W + BA", seed=0, r=8)
_ = digit_reader.train(adapted, digits.few(turned["adapt"], seed=0), learning_rate=0.03)

# %%
adapted, images = adapted.float(), turned["test"][0].float()
merged = copy.deepcopy(adapted)
for i in digit_reader.HIDDEN:
    merged[i] = merged_linear(adapted[i])

# %%
torch.allclose(merged(images), adapted(images), rtol=1e-4, atol=1e-4)

# %% [markdown]
# The same outputs, up to rounding. Is it as fast as the base? One token, a layer of SmolLM2's size:

# %% tags=["measured"]
wide = nn.Linear(576, 576)
unmerged = LoRALinear(wide, r=8, lora_alpha=16)
layers = {"base": wide, "merged": merged_linear(unmerged), "unmerged": unmerged}
compare(layer=layers, microseconds=shipping.microseconds(layers, torch.randn(1, 576)))

# %% tags=["claim"]
assert torch.allclose(merged(images), adapted(images), rtol=1e-4, atol=1e-4)
assert type(layers["merged"]) is type(wide) and layers["merged"].weight.shape == wide.weight.shape

# %% [markdown]
# Merged, it *is* a layer like the base. To get the base back, one could subtract the update again.

# %%
predict("05.5")

# %%
W = base[2].weight.data.float()
update = adapted[2].delta_weight().data
update *= W.norm() / update.norm()
f"{((W + update) - update == W).float().mean():.0%} come back exactly"

# %% [markdown]
# So do not subtract. `merged_linear` returns a *new* layer, and the base stays:

# %%
torch.equal(adapted[2].base_layer.weight.data, W)

# %%
right = [f"{accuracy(model.double(), upright['test']):.0%}" for model in (base, merged)]
compare(model=["base", "merged"], upright_digits_right=right)

# %% [markdown]
# (The update was blown up to show this; real ones are about 2 % of $W$, see below.) The merged model no longer reads
# upright digits. Keep the base, $A$ and $B$: without them there is no way back, and
# no switching.
#
# ### When not to use it
#
# Do not merge while you are still training, or switching between adapters.

# %% [markdown]
# ## 3. How far does W drift when adapters are swapped in place?
#
# *Deeper: nothing later needs this section.*
#
# A server could swap adapters by adding and subtracting in place. How large are real updates? Here are the 180 of
# this course's adapters, as shares of $W$:

# %%
sizes = shipping.update_sizes()
f"{sizes.min():.1%} to {sizes.max():.1%}, median {sizes.median():.1%}"

# %% [markdown]
# Now add updates to our $W$ and subtract them: the same one again and again, or another each time.

# %%
predict("05.6")

# %%
W = base[2].weight.data
drifts = {size: shipping.drift(W, size) for size in (0.002, 0.008, 0.02, 0.05)}


# %%
def draw_drift(ax, update_size):
    title = "Another adapter each time: bfloat16 drifts away from W"
    figures.drift(drifts[update_size], update=update_size, title=title, ax=ax)


explore(draw_drift, update_size=list(drifts), start={"update_size": 0.02})

# %% [markdown]
# The same adapter does its damage in the first swap: the rounded sum comes back each time. With different ones the
# error grows, about like the root of the number of swaps or slower. In float32 it stays tiny. In bfloat16 it reaches
# a quarter of an update of 2 %, and more than a whole one of 0.2 %, which is smaller than any of ours.
#
# **How sure is this?** One weight of a toy, random updates.

# %% tags=["claim"]
full, lora = shipping.peaks().values()
held = [1.5 * bar["Adam's averages"] for bar in (full, lora)]  # and gradients, half as many
assert [f"{gib:.2f}" for gib in held] == ["1.50", "0.03"]
assert 0.3 < 1 - sum(lora.values()) / sum(full.values()) < 0.36
bfloat16, float32 = (drifts[0.02][f"{name}, another each time"][-1] for name in ("bfloat16", "float32"))
assert f"{bfloat16:.1%}" == "0.6%" and float32 < 1e-6
assert 0.2 < bfloat16 / 0.02 < 0.33 and drifts[0.002]["bfloat16, another each time"][-1] > 0.002

# %% [markdown]
# ## Which wrong merges does a test let through?
#
# *Deeper: nothing later needs this section.*
#
# Somebody forgets the update, and returns $W$ itself. On an adapter that has not trained yet:

# %%
fresh = LoRALinear(nn.Linear(6, 4), r=2, lora_alpha=16)
torch.equal(fresh.base_layer.weight, merged_linear(fresh).weight)

# %% [markdown]
# $B$ is zero, and a test there sees no difference.
#
# ### Exercise 05.5 · A test for a merge (three stars, 8 minutes)
#
# Write `keeps_outputs(candidate)`. It calls `candidate(W, lora_A, lora_B, lora_alpha)` with tensors of yours, and
# returns True if the merged weight gives the outputs of $W$ and update together, else False. The check hands it right
# functions, and wrong ones that were answers to exercise 04.2. How many does it catch? Right ones may round
# differently, by up to 0.1 %.


# %% tags=["exercise"]
def keeps_outputs(candidate: Callable) -> bool:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The outputs apart are $W x + \frac{\alpha}{r} B (A x)$. `torch.allclose(a, b, rtol=1e-3, atol=1e-3)` leaves room. Let
# no two sizes be equal, and no factor be 1 or 0.


# %% tags=["solution"]
def keeps_outputs(candidate: Callable) -> bool:
    W, lora_A, lora_B, x = torch.randn(5, 4), torch.randn(2, 4), torch.randn(5, 2), torch.randn(3, 4)
    apart = x @ W.T + 6 / 2 * x @ lora_A.T @ lora_B.T
    return torch.allclose(x @ candidate(W, lora_A, lora_B, 6).T, apart, rtol=1e-3, atol=1e-3)


# %%
check("05.5", keeps_outputs)

# %% [markdown]
# ## Why does a loss stand still?
#
# *Deeper: nothing later needs this section.*
#
# The code of exercise 05.6 wraps our base and trains on turned digits. Its losses:

# %%
X, y = digits.few(turned["adapt"], seed=0)
losses = faulty("05.6")(base, X, y, seed=0)
", ".join(f"{loss:.3f}" for loss in losses)

# %% [markdown]
# ### Exercise 05.6 · Find the fault (two stars, 8 minutes)
#
# Mend `train_adapter`, so that $A$ and $B$ train, and nothing else. (Here $r = 2$, $\alpha = 4$.)


# %% tags=["exercise"]
def train_adapter(base: nn.Sequential, X: Tensor, y: Tensor, seed: int) -> list[float]:
    torch.manual_seed(seed)
    model, losses = base, []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    model = nn.Sequential(*(LoRALinear(m, 2, 4) if isinstance(m, nn.Linear) else m for m in model))
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown] tags=["hint"]
# Which parameters of `model` have a gradient after `backward`? Which tensors are in
# `optimizer.param_groups[0]["params"]`? Compare their shapes.


# %% tags=["solution"]
def train_adapter(base: nn.Sequential, X: Tensor, y: Tensor, seed: int) -> list[float]:
    # An optimizer holds the tensors that it was given. Those were the base's, which are frozen: it had nothing to do,
    # and said nothing. `len(optimizer.state)` after a step would have been 0.
    torch.manual_seed(seed)
    model, losses = base, []
    model = nn.Sequential(*(LoRALinear(m, 2, 4) if isinstance(m, nn.Linear) else m for m in model))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
check("05.6", train_adapter)

# %% tags=["claim"]
idle = torch.optim.Adam(base.parameters(), lr=0.03)
idle.step()
assert len(idle.state) == 0 and len(losses) == 10 and len(set(losses)) == 1

# %%
progress("05b")

# %% [markdown]
# ## Summary
#
# - LoRA saves the memory of gradients and of Adam's averages, that of few activations, and none of the weights'.
# - Merge into a copy, which is as fast as the base, and keep base and adapter.
# - Limit: one model on one GPU. Measure the peak of yours.
#
# **Next question:** digits are not language. Does it work on a real language model? (Notebook 06.)
