# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04 · How is a LoRA layer built?
#
# A weight stays as it is, and a small trained update $BA$ stands beside it. This notebook builds that layer piece by
# piece: forward, merging, the start, the gradients, and what a library adds.
#
# **You will** write the layer's forward pass, its merge and its gradients, see why $B$ starts at zero, and find your
# numbers equal to those of peft on a weight of a real language model.
#
# **You need** Python, the product of two matrices, and the slope of a curve. Notebooks [01](01_rank_and_svd.ipynb)
# and 03 help: a product $BA$ of rank $r$ takes $r\,(m + n)$ numbers.
#
# **Time:** {minutes}. The cells run in under a minute.

# %%
import inspect
import time
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.methods.lora import LoRALinear, merged_linear

# %% [markdown]
# ## 1. How does a layer carry an update?
#
# Here is a layer that turns 5 numbers into 4. Its weight $W$ is 4 × 5, that is (out, in). $W$ is frozen. The input
# $x$ goes a second way, through two thin matrices that learn.

# %%
W = torch.tensor([[1.0, 2, 0, 1, 3], [0, 1, 1, -1, 2], [2, 3, -1, 3, 4], [1, 3, 1, 0, 5]])
B = torch.tensor([[1.0, 0, 1, 0], [0, 2, 0, 1], [-1, 1, 0, 1], [0, 1, 2, -1]])
A = torch.tensor([[1.0, 0, 0, -1, 0], [0, 1, 0, 0, 1], [0, 0, 2, 0, 0], [1, 0, 0, 1, 0]])
x = torch.tensor([1.0, 2, -1, 0, 1])

# %%
figures.lora_layer(x, W, A[:2], B[:, :2], alpha=2)

# %% [markdown]
# $A$ reads 2 numbers from the 5 of $x$, and $B$ spreads them over the 4 outputs. Both ways read the same $x$, and
# their results are added. $W$ is not replaced.

# %%
predict("04.1")

# %% [markdown]
# So the second way is an update of $W$, of rank 2, that is never written down: $B(Ax)$ and $(BA)x$ are the same
# numbers.

# %%
B[:, :2] @ (A[:2] @ x), (B[:, :2] @ A[:2]) @ x

# %% [markdown]
# $BA$ is a sum of two terms, each one column of $B$ times one row of $A$.

# %%
torch.equal(B[:, :2] @ A[:2], torch.outer(B[:, 0], A[0]) + torch.outer(B[:, 1], A[1]))

# %% [markdown]
# One more number belongs to the layer: the update is multiplied by $\alpha / r$, the **scaling**. Move both sliders.


# %%
def draw_layer(ax, rank, alpha):
    figures.lora_layer(x, W, A[:rank], B[:, :rank], alpha, ax=ax)


explore(draw_layer, rank=[1, 2, 3, 4], alpha=[1, 2, 4, 8], start={"rank": 2, "alpha": 2})

# %% [markdown]
# $$y = W x + \frac{\alpha}{r}\, B (A x), \qquad B: (\text{out}, r), \quad A: (r, \text{in})$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), equation 3, and section 4.1 for the scaling.) Each rank adds
# one term to the update. So $\alpha / r$ makes the update $\alpha$ times the *mean* of its $r$ terms. A mean does not
# grow with $r$, so a larger rank should not need another learning rate. Notebook 05 measures whether that holds.
#
# Keep $\alpha$ at 2 and go from rank 2 to rank 4. The update of $y_2$ *falls*, from 6 to 3.5: more terms, but a smaller
# factor.
#
# ### Exercise 04.1 · The forward pass (two stars, 6 minutes)
#
# Write `lora_forward(x, W, lora_A, lora_B, lora_alpha)`: the outputs for inputs that stand in the **rows** of `x`
# (batch, in). $r$ is in the shapes.


# %% tags=["exercise"]
def lora_forward(x: Tensor, W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# With inputs in rows, each product is from the right, with a transpose: `x @ W.T`. First (batch, in) to (batch, r),
# then (batch, r) to (batch, out). `lora_A.shape[0]` is r.


# %% tags=["solution"]
def lora_forward(x: Tensor, W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    scaling = lora_alpha / lora_A.shape[0]
    return x @ W.T + scaling * (x @ lora_A.T) @ lora_B.T


# %%
check("04.1", lora_forward)

# %% [markdown]
# The course's layer, `LoRALinear`, does the same. `base_layer` keeps $W$ (and its bias); dropout is explained in
# section 5.

# %%
print(inspect.getsource(LoRALinear.forward))

# %% [markdown]
# ## 2. Apart or in one piece: which is less work?
#
# $W x + B(Ax)$ keeps two ways. Or $W + BA$ is formed once, which is called **merging**, and then there is one way
# again. Forming it takes $r\,m\,n$ multiplications for $W$ of $m$ × $n$, whatever the number of tokens. Apart takes
# $r\,(m + n)$ more than merged for each token.

# %%
predict("04.2")

# %% [markdown]
# Both are equal at $m n / (m + n)$ tokens: the rank cancels. But multiplications are not milliseconds. Here is a 1024
# × 1024 layer, where that is 512 tokens, on your machine, on one core. "Merged" was formed before the clock started,
# "formed anew" is formed for each input.

# %%
wide = nn.Linear(1024, 1024, bias=False)
apart = LoRALinear(wide, r=8, lora_alpha=16)
_ = nn.init.normal_(apart.lora_B)


# %%
def formed_anew(x):
    return x @ (wide.weight + apart.delta_weight()).T


@torch.no_grad()
def seconds(way, tokens):
    names = {"way": way, "x": torch.randn(tokens, 1024)}
    timer = Timer("way(x)", globals=names, timer=time.thread_time)  # leaves out the time of other programs
    return min(timer.blocked_autorange(min_run_time=0.3).times)


# %% tags=["measured"]
counts = [1, 16, 128, 1024]
ways = {"apart": apart, "formed anew": formed_anew, "merged": merged_linear(apart)}
times = {name: [seconds(way, count) for count in counts] for name, way in ways.items()}
figures.running_time(times, sizes=counts, xlabel="tokens", title="For one token, forming W + BA costs most")

# %% tags=["claim"]
inputs = torch.randn(16, 1024)
assert all(torch.allclose(way(inputs), apart(inputs), atol=1e-4) for way in ways.values())

# %% [markdown]
# All three give the same outputs. With one token, forming $W + BA$ each time is by far the slowest. With 1024 tokens
# the lines come close, and their order is chance: nearly all multiplications are now those of $Wx$.
#
# Apart takes 1.6 % more multiplications than merged ($8 \cdot 2048 / 1024^2$). With few tokens it takes longer by more
# than that: two more products are started, and two more matrices of outputs are written, the update and the sum. "No
# additional inference latency" ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1) is meant, and holds,
# **after merging**.
#
# Keep $B$ and $A$ when you merge. Without them there is no way back to $W$, and no switching to another adapter.
#
# ### Exercise 04.2 · Merge (one star, 4 minutes)
#
# Write `merge(W, lora_A, lora_B, lora_alpha)`: one weight that does what $W$ and the update do together. Leave `W`
# itself unchanged.


# %% tags=["exercise"]
def merge(W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The result has the shape of `W`, (out, in). Which order of `lora_A` and `lora_B` gives that? `W += ...` would change
# `W`.


# %% tags=["solution"]
def merge(W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    return W + lora_alpha / lora_A.shape[0] * lora_B @ lora_A


# %%
check("04.2", merge)

# %% [markdown]
# ### The same on a real weight, beside peft
#
# The query weight in the middle block of SmolLM2-135M ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)) is 576
# × 576, without a bias. [peft](https://huggingface.co/docs/peft/package_reference/lora), the library that most people
# use, wraps it, and so do we.

# %%
from peft import LoraConfig, get_peft_model
from safetensors import safe_open

with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
    W_real = file.get_tensor("model.layers.15.self_attn.q_proj.weight").double()
real = nn.Linear(576, 576, bias=False, dtype=torch.float64)
real.weight = nn.Parameter(W_real)

# %%
torch.manual_seed(0)
config = LoraConfig(r=8, lora_alpha=16, target_modules=["0"])
theirs = get_peft_model(nn.Sequential(real), config).base_model.model[0]
lora_A, lora_B = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
lora_A.shape, lora_B.shape

# %% [markdown]
# For a test of equality the weights are copied, and $B$ must not be zero, or any $A$ would pass.

# %%
_ = nn.init.normal_(lora_B, std=0.02)
ours = LoRALinear(real, r=8, lora_alpha=16).double()
ours.lora_A.data, ours.lora_B.data = lora_A.detach(), lora_B.detach()

# %%
X_real = torch.randn(32, 576, dtype=torch.float64)
gap, moved = (ours(X_real) - theirs(X_real)).abs().max(), (theirs(X_real) - real(X_real)).abs().max()
gap.item() < 1e-12, f"the update moves the outputs by up to {moved:.1f}"

# %% [markdown]
# Equal. So is the merged weight: `delta_weight()` is $\frac{\alpha}{r} B A$, and the difference to $W$ has rank 8.

# %%
W_merged = W_real + ours.delta_weight()
torch.allclose(X_real @ W_merged.T, theirs(X_real)), torch.linalg.matrix_rank(W_merged - W_real).item()

# %% [markdown]
# A merge is exact up to rounding, here in float64. Rounding matters more in fewer bits: notebook 05b measures it, and
# notebook 10 merges into 4-bit weights.

# %% [markdown]
# ## 3. Why does B start at zero?
#
# `LoRALinear` starts with a random $A$ and with $B = 0$. We wrap a layer, in float64, and give it a task: new
# targets, made by another weight.

# %%
torch.manual_seed(0)
layer = nn.Linear(16, 12, dtype=torch.float64)
X = torch.randn(64, 16, dtype=torch.float64)
target = (layer(X) + X @ torch.randn(16, 12, dtype=torch.float64) / 4).detach()


# %%
def wrapped(size_of_A, size_of_B):
    torch.manual_seed(1)
    lora = LoRALinear(layer, r=4, lora_alpha=8).double()
    with torch.no_grad():
        lora.lora_A.mul_(size_of_A)
        lora.lora_B.copy_(size_of_B * torch.randn(12, 4) / 2)
    return lora


# %%
lora = wrapped(1, 0)
(lora(X) - layer(X)).abs().max().item()

# %% [markdown]
# Before training, the wrapped layer gives exactly what the base gives.

# %%
predict("04.3")


# %%
def train(lora, steps=15, weight_decay=0.0):
    A0, B0 = lora.lora_A.detach().clone(), lora.lora_B.detach().clone()
    optimizer = torch.optim.AdamW([lora.lora_A, lora.lora_B], lr=0.02, weight_decay=weight_decay)
    for _ in range(steps):
        loss = (lora(X) - target).square().mean()
        yield loss.item(), (lora.lora_A - A0).norm().item(), (lora.lora_B - B0).norm().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# %%
starts = {"A random, B zero": (1, 0), "A zero, B random": (0, 1), "both zero": (0, 0), "both random": (1, 1)}
history = {name: torch.tensor(list(train(wrapped(*sizes)))) for name, sizes in starts.items()}


# %%
def draw_moves(ax, beginning):
    _, A_moved, B_moved = history[beginning].T
    axes = {"xlabel": "steps taken", "ylabel": "how far it moved (norm)", "ylim": (-0.1, 2)}
    roles = {"A": "trained", "B": "trained"}
    figures.lines({"A": A_moved, "B": B_moved}, x=range(15), roles=roles, title=beginning, **axes, ax=ax)


explore(draw_moves, beginning=list(starts))

# %% [markdown]
# With $B = 0$ the product is zero, so the model starts as itself ([Hu et al.
# 2021](https://arxiv.org/abs/2106.09685), section 4.1). $A$ stays for one step, $B$ leaves zero at once.
#
# The other starts:
#
# - **$A$ zero, $B$ random** works too; now $A$ moves first. On language models it did worse on average
#   ([Hayou et al. 2024](https://arxiv.org/abs/2406.08447)).
# - **Both zero** never moves, at any learning rate.
# - **Both random** starts away from the base: its first loss is 2.38 in place of 0.93. Training may repair that.
#
# Under AdamW, the optimizer used above (notebook 05b), $A$ may move at step 1 though its gradient is zero. **Weight
# decay** shrinks it. That is why it is off above.

# %%
for decay in (0.0, 0.1):
    _, (_, A_moved, _), *_ = train(wrapped(1, 0), weight_decay=decay)
    print(f"weight decay {decay}: after one step A has moved by {A_moved:.4f}")

# %% tags=["claim"]
first = {name: h[0, 0].item() for name, h in history.items()}
assert f"{first['both random']:.2f}" == "2.38" and f"{first['A random, B zero']:.2f}" == "0.93"
assert history["both zero"][:, 1:].abs().max() == 0 and history["A random, B zero"][1, 1] == 0

# %% [markdown]
# ## 4. What does the backward pass compute?
#
# Training asks: how does the loss $L$ change with each number of $A$ and $B$? That is a slope, and it can be
# measured: change one number a little, and watch the loss of one input, $L = \frac12 \|y - \text{target}\|^2$.

# %%
tried = wrapped(1, 1)
token, goal, s = X[0].clone().requires_grad_(), target[0], tried.scaling
loss = (tried(token) - goal).square().sum() / 2
loss.backward()

# %%
nudges = torch.linspace(-1, 1, 21, dtype=torch.float64)


@torch.no_grad()
def loss_after(nudge, factor, row, column):
    changed = deepcopy(tried)
    getattr(changed, factor)[row, column] += nudge
    return (changed(token) - goal).square().sum() / 2


# %%
def draw_slope(ax, factor, row, column):
    losses = torch.stack([loss_after(nudge, factor, row, column) for nudge in nudges])
    slope = losses[10] + getattr(tried, factor).grad[row, column] * nudges
    style = {
        "xlabel": f"added to {factor}[{row}, {column}]",
        "ylabel": "loss",
        "roles": {"slope by autograd": "gradients"},
    }
    figures.lines({"loss": losses, "slope by autograd": slope}, x=nudges, **style, ax=ax)


explore(draw_slope, factor=["lora_A", "lora_B"], row=[0, 1, 2, 3], column=[0, 1, 2, 3])

# %% [markdown]
# PyTorch's autograd finds each slope without trying any change. How? By the **chain rule**: the rates along the path
# from a number to the loss are multiplied, from the end. Here is the layer of section 1 again, with $h = A x$, and with
# $g$ handed to it by the layers above. $L_h$ is short for $\partial L / \partial h$, and $s = \alpha / r$, here 1.

# %%
g = torch.tensor([1.0, -2, 0.5, -1])
figures.forward_backward(x, W, A[:2], B[:, :2], 2, g)

# %% [markdown]
# | step | forward | backward, from the end |
# |---|---|---|
# | 1 | $L(y)$: the loss | $g = L_y$ |
# | 2 | $y = W x + s\, B h$ | the gradient of $B$: $s\, g\, h^\top$, and $L_h = s\, B^\top g$ |
# | 3 | $h = A x$ | the gradient of $A$: $L_h\, x^\top$, and $L_x = W^\top g + A^\top L_h$ |
#
# Each gradient of a factor needs what the factor read: $x$ and $h$ are **kept** from the forward pass.
#
# $$\frac{\partial L}{\partial B} = s\, g\, (A x)^\top, \qquad \frac{\partial L}{\partial A} = s\, B^\top g\, x^\top$$
#
# Now section 3 is clear. The gradient of $B$ carries $A$, that of $A$ carries $B$: with both zero, both are zero at
# every step. By hand, for the slopes above (the loss there is half a squared error, so $g = y - \text{target}$):

# %%
with torch.no_grad():
    g = tried(token) - goal
    L_h, h = s * tried.lora_B.T @ g, tried.lora_A @ token
    L_x = layer.weight.T @ g + tried.lora_A.T @ L_h

# %%
(
    torch.allclose(torch.outer(L_h, token), tried.lora_A.grad),
    torch.allclose(s * torch.outer(g, h), tried.lora_B.grad),
)

# %%
torch.allclose(L_x, token.grad), layer.weight.grad is None

# %% [markdown]
# $W$ has no gradient, but $x$'s gradient passes through $W$. "Gradients only for $A$ and $B$" means *weight*
# gradients. Gradients of inputs are computed from the loss down to the lowest adapter, and that takes memory: in a 7B
# model at batch size 1, 567 MB beside 26 MB of LoRA weights ([Dettmers et al.
# 2023](https://arxiv.org/abs/2305.14314), section 2).
#
# ### Exercise 04.3 · Gradients of a batch (three stars, 10 minutes)
#
# Write `lora_gradients(x, grad_y, lora_A, lora_B, scaling)`: the gradients of $A$ and $B$, in this order, for `x`
# (batch, in) and `grad_y` (batch, out), one $g$ a row. The gradients of the rows add up. No matrix of shape (out, in)
# is needed.


# %% tags=["exercise"]
def lora_gradients(
    x: Tensor, grad_y: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A sum of outer products $\sum_i g_i h_i^\top$ is one matrix product: `grad_y.T @ hidden`. A gradient has the shape
# of what it belongs to: (r, in) and (out, r).


# %% tags=["solution"]
def lora_gradients(
    x: Tensor, grad_y: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    hidden = x @ lora_A.T
    grad_hidden = scaling * grad_y @ lora_B
    return grad_hidden.T @ x, scaling * grad_y.T @ hidden


# %%
check("04.3", lora_gradients)

# %% [markdown]
# ### The first step
#
# Full training would take the gradient $G$ of $W$ itself, (out, in), and change $W$ by $-\eta\, G$ at learning rate
# $\eta$. LoRA, from $B = 0$, changes $BA$ instead.

# %%
predict("04.4")

# %%
full = deepcopy(layer).requires_grad_()
(full(X) - target).square().mean().backward()
G = full.weight.grad

# %%
lora, rate = wrapped(1, 0), 0.1
optimizer = torch.optim.SGD([lora.lora_A, lora.lora_B], lr=rate)
(lora(X) - target).square().mean().backward()
optimizer.step()

# %%
A_random = lora.lora_A.detach()
torch.allclose(lora.delta_weight(), -rate * lora.scaling**2 * G @ A_random.T @ A_random)

# %% [markdown]
# How much of $G$ comes through? Here is the cosine between the two steps, for 20 random $A$ of each rank up to the
# layer's largest, 12. The band holds all 20. 100 % means the same direction, 24 % an angle of 76°.

# %%
ranks = [1, 2, 4, 8, 12]
G_let_through = [[G @ a.T @ a for a in torch.rand(20, r, 16).double() * 2 - 1] for r in ranks]
cosines = [[torch.cosine_similarity(t.flatten(), G.flatten(), 0) for t in ts] for ts in G_let_through]

# %%
figures.share_by_rank(
    {"20 random A": torch.tensor(cosines).T},
    ranks=ranks,
    ylabel="cosine with G",
    title="LoRA's first step leans towards G, more with every rank",
)

# %% [markdown]
# $$\Delta W_1 = -\eta\, s^2\, G\, A^\top A$$
#
# (From the gradient of $B$ above, summed over the batch; $A$'s is zero.) One line tells four things. $B$ moves first.
# A random $A$ works, since on average $A^\top A$ is a multiple of the identity, so on average the step points along
# $G$. Every rank trains, even 1. And $A$ must move later: what lies outside its $r$ rows is not seen at all.
#
# ### Exercise 04.4 · The first step (two stars, 6 minutes)
#
# Write `first_step(grad_W, lora_A, scaling, learning_rate)`: the change of the effective weight, (out, in), after one
# step of gradient descent from $B = 0$. `grad_W` (out, in) is the gradient that full training would use.


# %% tags=["exercise"]
def first_step(grad_W: Tensor, lora_A: Tensor, scaling: float, learning_rate: float) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The gradient of $B$ is $s\, g\, (Ax)^\top$, and $G$ is $g\, x^\top$: which product of `grad_W` and `lora_A` is that?
# Then $B$ takes its step, and the weight changes by `scaling` times $BA$.


# %% tags=["solution"]
def first_step(grad_W: Tensor, lora_A: Tensor, scaling: float, learning_rate: float) -> Tensor:
    lora_B = -learning_rate * scaling * grad_W @ lora_A.T
    return scaling * lora_B @ lora_A


# %%
check("04.4", first_step)

# %% [markdown]
# ### When not to use it
#
# - You have the memory for full training, and the task is far from what the model knows: full fine-tuning may learn
#   more ([Biderman et al. 2024](https://arxiv.org/abs/2405.09673)).
# - Only one task is ever served: the second path costs time for nothing, so merge. Several tasks in turn: do not
#   merge.

# %% [markdown]
# ## 5. What does a library add to the formula?
#
# *Deeper: nothing later needs this section.*
#
# **Dropout** sets random inputs to zero while training and scales up the others, so that no single one is relied on.
# LoRA layers have an option for it, `lora_dropout`.

# %%
lora = LoRALinear(layer, r=4, lora_alpha=8, lora_dropout=0.5).double()


def difference_of_two_calls(lora):
    return (lora(X) - lora(X)).abs().max().item()


# %%
predict("04.5")

# %%
difference_of_two_calls(lora)

# %%
_ = nn.init.normal_(lora.lora_B)
difference_of_two_calls(lora.train()) > 0, difference_of_two_calls(lora.eval()) > 0

# %% [markdown]
# $$y = W x + \frac{\alpha}{r}\, B A \,\mathrm{dropout}_p(x), \qquad
# \mathrm{dropout}_p(x) = \frac{\text{keep} \cdot x}{1 - p}$$
#
# ([PyTorch, nn.Dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html).) `keep` is 1 with
# probability $1 - p$, else 0, so the mean stays $x$. In evaluation nothing is dropped. That is why a merged weight
# needs no dropout.
#
# ### Exercise 04.5 · Dropout in its place (two stars, 6 minutes)
#
# Write `forward_in_training(x, keep, p, W, lora_A, lora_B, scaling)`: the outputs (batch, out), with `keep` (batch,
# in) already drawn.


# %% tags=["exercise"]
def forward_in_training(
    x: Tensor, keep: Tensor, p: float, W: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Two inputs: all of `x` for the base path, and a dropped one for the update. Then as in 04.1.


# %% tags=["solution"]
def forward_in_training(
    x: Tensor, keep: Tensor, p: float, W: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> Tensor:
    dropped = x * keep / (1 - p)
    return x @ W.T + scaling * (dropped @ lora_A.T) @ lora_B.T


# %%
check("04.5", forward_in_training)

# %% [markdown]
# **Biases** belong to the base layer. In peft, the option `bias` says which of them train. It is `"none"`, `"all"` or
# `"lora_only"`; not true or false. Here are three layers with a bias each; the first and the last get LoRA.


# %%
def trained_biases(bias):
    layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model = get_peft_model(layers, LoraConfig(r=2, target_modules=["0", "2"], bias=bias))
    return sum(p.requires_grad for name, p in model.named_parameters() if name.endswith("bias"))


options = ["none", "all", "lora_only"]
compare(bias=options, biases_that_train=[trained_biases(option) for option in options])

# %% [markdown]
# The default is `"none"`. A trained bias is no part of $BA$: switch the adapter off, and the layer is not the base
# any more (the peft page says so too).
#
# **The start of $A$.** The paper draws it from a Gaussian; its own released code and peft draw it uniformly between
# $\pm 1/\sqrt{\text{in}}$, and `LoRALinear` follows them. Above, peft made one for 576 inputs:

# %%
f"A times √in lies within ±{lora_A.abs().max() * 576**0.5:.3f}"

# %%
progress("04")

# %% [markdown]
# ## Summary
#
# - $y = Wx + \frac{\alpha}{r} B(Ax)$: $W$ stays whole, $B$ (out, r) and $A$ (r, in) train.
# - $B(Ax)$ takes few multiplications, but some time. Merged once, the update costs nothing in use.
# - $B = 0$ and a random $A$: the layer starts as its base, $B$ moves first, then $A$.
# - The gradients of $A$ and $B$ are as small as $A$ and $B$, and the gradient of $x$ still passes through $W$. The
#   first step is $-\eta\, s^2\, G\, A^\top A$: the full gradient, as far as $A$ lets it through.
# - Limit: this was one layer. That the formulas agree with peft does not say that the update learns enough.
#
# **Next question:** what changes when only $B$ and $A$ train, in a whole network? (Notebook 05.)
