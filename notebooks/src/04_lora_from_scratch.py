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
# **Time:** {minutes}. The computer needs less than one of them.

# %%
import inspect
import time

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.methods.lora import LoRALinear, merged_linear

# %% [markdown]
# ## 1. How does a layer carry an update?
#
# A layer turns 5 numbers into 4: its weight $W$ is 4 × 5, that is (out, in). We want to add an update of rank 2 to
# it.

# %%
predict(
    "Which two factors make an update that can be added to a 4 × 5 weight?",
    ["B: 4 × 2 and A: 5 × 2", "B: 4 × 2 and A: 2 × 5", "B: 5 × 2 and A: 2 × 4"],
    answer="B: 4 × 2 and A: 2 × 5",
    why="Neighbours must agree: (4, 2) times (2, 5) is (4, 5). The first pair does not chain, the third gives 5 × 5.",
)

# %%
W = torch.tensor([[1.0, 2, 0, 1, 3], [0, 1, 1, -1, 2], [2, 3, -1, 3, 4], [1, 3, 1, 0, 5]])
B = torch.tensor([[1.0, 0, 1, 0], [0, 2, 0, 1], [-1, 1, 0, 1], [0, 1, 2, -1]])
A = torch.tensor([[1.0, 0, 0, -1, 0], [0, 1, 0, 0, 1], [0, 0, 2, 0, 0], [1, 0, 0, 1, 0]])
x = torch.tensor([1.0, 2, -1, 0, 1])

# %% [markdown]
# For rank 2, take two columns of $B$ and two rows of $A$. $A$ reads 2 numbers from the 5 of $x$, $B$ spreads them
# over the 4 outputs.

# %%
hidden = A[:2] @ x
update = B[:, :2] @ hidden
hidden.shape, update.shape, torch.equal(update, (B[:, :2] @ A[:2]) @ x)

# %% [markdown]
# $BA$ is a sum of two terms, each one column of $B$ times one row of $A$.

# %%
torch.equal(B[:, :2] @ A[:2], torch.outer(B[:, 0], A[0]) + torch.outer(B[:, 1], A[1]))

# %% [markdown]
# One more number belongs to the layer: the update is multiplied by $\alpha / r$, the **scaling**. Move both sliders.


# %%
def draw_layer(left, right, rank, alpha):
    scaling, BA = alpha / rank, B[:, :rank] @ A[:rank]
    text = f"Rank {rank}: B and A hold {rank * (4 + 5)} numbers, W holds 20."
    figures.product(B[:, :rank], A[:rank], alt=text, ax=left)
    base, update = W @ x, scaling * BA @ x
    numbers = ", ".join(f"{value:.3g}" for value in update)
    text = f"Alpha {alpha}, scaling {scaling:.3g}: the update adds {numbers} to the outputs of W."
    bars = {"W x": base, "scaled B A x": update}
    figures.bars(bars, groups=["y₁", "y₂", "y₃", "y₄"], title=f"α / r = {scaling:.3g}", alt=text, ax=right)


explore(draw_layer, panels=2, rank=[1, 2, 3, 4], alpha=[1, 2, 4, 8], start={"rank": 2, "alpha": 2})

# %% [markdown]
# $$y = W x + \frac{\alpha}{r}\, B (A x), \qquad B: (\text{out}, r), \quad A: (r, \text{in})$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), equation 3, and section 4.1 for the scaling.) $W$ is not
# replaced: both paths read the same $x$, and their results are added.
#
# Each rank adds one term to the update. So $\alpha / r$ makes the update $\alpha$
# times the *mean* of its $r$ terms. It is meant to save tuning the learning rate anew for each $r$. Whether it does
# is measured in notebook 05.
#
# What surprises: keep $\alpha$ at 2 and go from rank 2 to rank 4. The update of $y_2$ *falls*, from 6 to 3.5: more
# terms, but a smaller factor.
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
# The update can be computed as $B(Ax)$ or as $(BA)x$. Or $W + BA$ is formed first, and then there is no second path.
# The three give the same outputs. We count multiplications, for one token at a 4096 × 4096 weight and rank 8.

# %%
m = n = 4096
r = 8
f"W x: {m * n:,}    B(Ax): {r * n + m * r:,}    (BA)x: {m * r * n + m * n:,}"

# %% [markdown]
# So $B(Ax)$ takes 2304 times fewer than $(BA)x$. But $BA$ can serve many tokens, once it is formed.

# %%
predict(
    "From how many tokens on does forming W + BA first take fewer multiplications than W x and B(Ax) apart?",
    ["8", "64", "about 2000", "never"],
    answer="about 2000",
    why="Forming costs r m n once; apart costs r (m + n) for each token. Equal at m n / (m + n) = 2048 tokens.",
)

# %%
tokens = 2.0 ** torch.arange(0, 17)


# %%
def work(rank, outputs):
    once, each = rank * outputs * n, rank * (outputs + n)
    return {"(BA)x": once + tokens * outputs * n, "form W + BA": once + 0 * tokens, "B(Ax)": tokens * each}


# %%
def draw_work(ax, rank, outputs):
    crossing = outputs * n / (outputs + n)
    text = f"W {outputs} × 4096, rank {rank}. B(Ax): {rank * (outputs + n):,} multiplications a token. "
    text += f"Forming W + BA: {rank * outputs * n:,} once. The two are equal at {crossing:,.0f} tokens."
    style = {"limits": (3e3, 3e13), "xlabel": "tokens", "ylabel": "multiplications beyond W x"}
    figures.crossover(work(rank, outputs), x=tokens, at=crossing, **style, alt=text, ax=ax)


explore(
    draw_work, rank=[1, 4, 8, 16, 64, 256], outputs=[1024, 4096, 16384], start={"rank": 8, "outputs": 4096}
)

# %% [markdown]
# With $t$ tokens, the two ways cost the same when
#
# $$t \, r\,(m + n) = r\, m\, n, \qquad\text{that is}\qquad t = \frac{m n}{m + n}$$
#
# The rank cancels: move its slider, and the mark stands still. $B(Ax)$ beats $(BA)x$ at every number of tokens as
# long as $r$ is below that same number, the break-even rank of notebook 03. We left out additions and the scaling, so
# say "about".
#
# A test with 2048 tokens: PyTorch counts what it would do, on matrices that have a shape but no numbers (`meta`).
# It counts each multiplication together with an addition, so twice as many.


# %%
def operations(way):
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


with torch.device("meta"):
    B_4096, A_4096, inputs = torch.empty(4096, 8), torch.empty(8, 4096), torch.empty(2048, 4096)
operations(lambda: (inputs @ A_4096.T) @ B_4096.T), operations(lambda: B_4096 @ A_4096)

# %% [markdown]
# Would a training step, with its thousands of tokens, better form $W + BA$? Not so: its backward pass would make a
# gradient of shape (out, in), just what LoRA avoids. A library may count for both passes, and then choose the order
# ([Cherniuk et al. 2023](https://arxiv.org/abs/2312.03415)).

# %% [markdown]
# Multiplications are not milliseconds. Here is a 1024 × 1024 layer on your machine, on one core. **Merged** means
# that $W + BA$ was formed once, before the clock started.

# %%
wide = nn.Linear(1024, 1024, bias=False)
apart = LoRALinear(wide, r=8, lora_alpha=16)
_ = nn.init.normal_(apart.lora_B)


# %%
def formed_anew(x):
    return x @ (wide.weight + apart.delta_weight()).T


ways = {"formed anew": formed_anew, "apart": apart, "merged": merged_linear(apart)}


# %%
@torch.no_grad()
def seconds(way, tokens):
    names = {"way": way, "x": torch.randn(tokens, 1024)}
    timer = Timer("way(x)", globals=names, timer=time.thread_time)  # leaves out the time of other programs
    return min(timer.blocked_autorange(min_run_time=0.3).times)


# %% tags=["measured"]
counts = [1, 16, 128, 1024]
times = {name: [seconds(way, count) for count in counts] for name, way in ways.items()}
text = "; ".join(f"{name} {t[0] * 1e3:.2f} and {t[-1] * 1e3:.0f} ms" for name, t in times.items())
figures.running_time(times, sizes=counts, xlabel="tokens", alt=f"At 1 and at 1024 tokens: {text}.")

# %%
inputs = torch.randn(16, 1024)
assert all(torch.allclose(way(inputs), apart(inputs), atol=1e-4) for way in ways.values())
"all three give the same outputs"

# %% [markdown]
# With one token, forming $W + BA$ each time is by far the slowest. With 1024 tokens the lines come close: nearly all
# multiplications are now those of $Wx$. (By multiplications, "formed anew" and "apart" cross at 512.)
#
# Apart takes 1.6 % more multiplications than merged. It usually takes far more than 1.6 % longer, with one token and
# with 1024: two extra products are started, and one more matrix of outputs is written and added. So "LoRA has no
# inference latency" ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1) holds **after merging**, and not
# before.
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


lora = wrapped(1, 0)
(lora(X) - layer(X)).abs().max().item()

# %% [markdown]
# Before training, the wrapped layer says exactly what the base says.

# %%
predict(
    "A is random, B is zero. After the first training step, what has moved?",
    ["A", "B", "both", "neither"],
    answer="B",
    why="A's gradient carries a factor B, and B is still zero. B's gradient carries A x, and that is not zero.",
)


# %%
def train(lora, steps=15, weight_decay=0.0):
    factors = [lora.lora_A, lora.lora_B]
    starts = [factor.detach().clone() for factor in factors]
    optimizer = torch.optim.AdamW(factors, lr=0.02, weight_decay=weight_decay)
    history = []
    for _ in range(steps):
        loss = (lora(X) - target).square().mean()
        moved = [(factor - start).norm().item() for factor, start in zip(factors, starts, strict=True)]
        history.append([loss.item(), *moved])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.tensor(history).T


# %%
beginnings = {
    "A random, B zero": (1, 0),
    "A zero, B random": (0, 1),
    "both zero": (0, 0),
    "both random": (1, 1),
}
histories = {name: train(wrapped(*sizes)) for name, sizes in beginnings.items()}


# %%
def draw_moves(ax, beginning):
    loss, *moved = histories[beginning]
    text = f"{beginning}: the loss goes from {loss[0]:.2f} to {loss[-1]:.2f}. Moved after one step: "
    text += f"A by {moved[0][1]:.2f}, B by {moved[1][1]:.2f}."
    axis = {"x": torch.arange(len(loss)), "xlabel": "steps taken", "ylabel": "distance from the start"}
    figures.lines(dict(zip("AB", moved, strict=True)), title=beginning, **axis, alt=text, ax=ax)


explore(draw_moves, beginning=list(beginnings))

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
# What surprises: under AdamW, the optimizer used above (notebook 05), $A$ may move at step 1 though its gradient is
# zero. **Weight decay** shrinks it. That is why it is off above.

# %%
[f"{train(wrapped(1, 0), weight_decay=decay)[1, 1]:.4f}" for decay in (0.0, 0.1)]

# %% [markdown]
# ## 4. What does the backward pass compute?
#
# Training asks: how does the loss $L$ change with each number of $A$ and $B$? The **chain rule** answers step by
# step: the rates along the path from that number to the loss are multiplied. The path of one input:
#
# | forward | what it passes on | backward, from the end |
# |---|---|---|
# | $h = A x$ | the r hidden numbers | 3. $\; L_A = L_h\, x^\top$ |
# | $y = W x + b + s\, B h$ | the outputs | 2. $\; L_B = s\, g\, h^\top$ and $L_h = s\, B^\top g$ |
# | $L(y)$ | the loss | 1. $\; g = L_y$ |
#
# $s = \alpha / r$, and $L_h$ is short for $\partial L / \partial h$. The later layers hand $g$ to this one. The base
# weight $W$ is frozen.

# %%
predict(
    "In full training a layer's backward pass has two large products: one gives the gradient of W, one the gradient "
    "of x. How many remain when W is frozen?",
    ["none", "one", "two"],
    answer="one",
    why="W gets no gradient. But the layers below need the gradient of x, and it passes through W.",
)

# %% [markdown]
# By hand, for one input and the loss $L = \frac12 \|y - \text{target}\|^2$, so that $g = y - \text{target}$:

# %%
lora = wrapped(1, 1)
lora_A, lora_B, s = lora.lora_A.detach(), lora.lora_B.detach(), lora.scaling
token, goal = X[0].clone().requires_grad_(), target[0]
loss = (lora(token) - goal).square().sum() / 2
loss.backward()

# %%
with torch.no_grad():
    g = lora(token) - goal
    by_hand = {"A": s * torch.outer(lora_B.T @ g, token), "B": s * torch.outer(g, lora_A @ token)}
torch.allclose(by_hand["A"], lora.lora_A.grad), torch.allclose(by_hand["B"], lora.lora_B.grad)

# %% [markdown]
# PyTorch's autograd finds the same. And what is a gradient? A slope: change one number, and watch the loss. (In one
# number this loss is a parabola, so the change from -0.1 to 0.1 is exactly 0.2 times the slope.)

# %%
factors = {"A": lora_A, "B": lora_B}
nudges = torch.linspace(-1, 1, 21, dtype=torch.float64)


# %%
@torch.no_grad()
def loss_after(nudge, factor, row, column):
    changed = {name: value.clone() for name, value in factors.items()}
    changed[factor][row, column] += nudge
    y = layer(token) + s * changed["B"] @ (changed["A"] @ token)
    return (y - goal).square().sum() / 2


# %%
def draw_slope(ax, factor, row, column):
    losses = torch.stack([loss_after(nudge, factor, row, column) for nudge in nudges])
    slope = by_hand[factor][row, column]
    curves = {"loss": losses, "slope by hand": losses[10] + slope * nudges}
    text = (
        f"{factor}[{row}, {column}] has the slope {slope:.2f} by hand. From -0.1 to 0.1 the loss changes by "
    )
    text += f"{losses[11] - losses[9]:.3f}; 0.2 times the slope is {0.2 * slope:.3f}."
    figures.lines(
        curves, x=nudges, xlabel=f"added to {factor}[{row}, {column}]", ylabel="loss", alt=text, ax=ax
    )


explore(draw_slope, factor=["B", "A"], row=[0, 1, 2, 3], column=[0, 1, 2, 3], start={"factor": "A"})

# %% [markdown]
# $$\frac{\partial L}{\partial B} = s\, g\, (A x)^\top, \qquad \frac{\partial L}{\partial A} = s\, B^\top g\, x^\top$$
#
# Now section 3 is clear. The gradient of $B$ carries $A$, that of $A$ carries $B$: with both zero, both are zero at
# every step.
#
# The gradient of $x$ goes on to the layers below:

# %%
with torch.no_grad():
    grad_x = layer.weight.T @ g + s * lora_A.T @ (lora_B.T @ g)
torch.allclose(grad_x, token.grad), layer.weight.grad is None

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
# ## 5. What does a library add to the formula?
#
# **Dropout** sets random inputs to zero while training and scales up the others, so that no single one is relied on.
# LoRA layers have an option for it, `lora_dropout`.

# %%
lora = LoRALinear(layer, r=4, lora_alpha=8, lora_dropout=0.5).double()


def difference_of_two_calls(lora):
    return (lora(X) - lora(X)).abs().max().item()


# %%
predict(
    "Training mode, dropout 0.5, B still zero. Two calls with the same inputs: how much do the outputs differ?",
    ["not at all", "a little", "by about half"],
    answer="not at all",
    why="Only the update sees the dropped inputs, and with B zero the update is zero. The base path gets all of x.",
)

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
# ### Exercise 04.4 · Dropout in its place (two stars, 6 minutes)
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
check("04.4", forward_in_training)

# %% [markdown]
# **Biases** belong to the base layer. In [peft](https://huggingface.co/docs/peft/package_reference/lora), the library
# that most people use, the option `bias` says which of them train. It is `"none"`, `"all"` or `"lora_only"`; not true
# or false. Here are three layers with a bias each; the first and the last get LoRA.

# %%
from peft import LoraConfig, get_peft_model


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
# Now a real weight: the query weight in the middle block of SmolLM2-135M
# ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)), 576 × 576, without a bias. peft wraps it, and so do we.

# %%
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

# %%
f"A times √in lies within ±{lora_A.abs().max() * 576**0.5:.3f}, B within ±{lora_B.abs().max()}"


# %%
def shares(values):
    return torch.histc(576**0.5 * values.float(), bins=20, min=-2, max=2) / values.numel()


curves = {"peft": shares(lora_A.detach()), "Gaussian": shares(torch.randn(8, 576) / 1728**0.5)}

# %%
figures.lines(
    curves,
    x=torch.linspace(-1.9, 1.9, 20),
    xlabel="number in A, times √in",
    ylabel="share",
    alt=f"peft's A: even between -1 and 1, {curves['peft'][:5].sum():.0%} below -1. A Gaussian with the same "
    f"spread: a bell, {curves['Gaussian'][:5].sum():.0%} below -1.",
)

# %% [markdown]
# The paper draws $A$ from a Gaussian. peft's default is uniform in $\pm 1/\sqrt{\text{in}}$, and `LoRALinear` follows
# it. So for a test of equality the weights are copied, and $B$ must not be zero, or any $A$ would pass.

# %%
_ = nn.init.normal_(lora_B, std=0.02)
ours = LoRALinear(real, r=8, lora_alpha=16).double()
ours.lora_A.data, ours.lora_B.data = lora_A.detach(), lora_B.detach()

# %%
X_real = torch.randn(32, 576, dtype=torch.float64)
gap, moved = (ours(X_real) - theirs(X_real)).abs().max(), (theirs(X_real) - real(X_real)).abs().max()
gap.item() < 1e-12, f"the update moves the outputs by up to {moved:.1f}"

# %% [markdown]
# Equal. Last, the merged weight: `delta_weight()` is $\frac{\alpha}{r} B A$, and the difference to $W$ has rank 8.

# %%
W_merged = W_real + ours.delta_weight()
torch.allclose(X_real @ W_merged.T, theirs(X_real)), torch.linalg.matrix_rank(W_merged - W_real).item()

# %% [markdown]
# A merge is exact up to rounding, here in float64. Rounding matters more in fewer bits: notebook 05 measures it, and
# notebook 10 merges into 4-bit weights.
#
# ### When not to use it
#
# - You have the memory for full training, and the task is far from what the model knows: full fine-tuning may learn
#   more ([Biderman et al. 2024](https://arxiv.org/abs/2405.09673)).
# - Only one task is ever served: the second path costs time for nothing, so merge. Several tasks in turn: do not merge.
#
# ## Summary
#
# - $y = Wx + \frac{\alpha}{r} B(Ax)$: $W$ stays whole, $B$ (out, r) and $A$ (r, in) train.
# - $B(Ax)$ is cheap at any number of tokens. Merged once, the update costs nothing in use.
# - $B = 0$ and a random $A$: the layer starts as its base, $B$ moves first, then $A$.
# - The gradients of $A$ and $B$ are as small as $A$ and $B$, and the gradient of $x$ still passes through $W$.
# - Limit: this was one layer. That the formulas agree with peft does not say that the update learns enough.
#
# **Next question:** what changes when only $B$ and $A$ train, in a whole network? (Notebook 05.)
