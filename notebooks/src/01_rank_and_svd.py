# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01 · How much of a matrix is really there?
#
# A language model is mostly matrices. LoRA trains an update that is cheap because it has low rank. This notebook
# is about what that word means, what it saves, and when it costs too much.
#
# **You will** read a layer as a matrix, count the numbers that a matrix really needs, find the best copy of a given
# rank, and see that the weights of a trained model do *not* have low rank.
#
# **You need** Python, and from linear algebra the product of two matrices.
#
# **Time:** {minutes}. The computer needs less than one of them.

# %%
import torch
from torch import nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.house import evening
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.methods import lowrank

# %% [markdown]
# ## 1. What does a layer do to its input?
#
# A linear layer that turns 5 numbers into 4 keeps a matrix $W$ of shape (4, 5), that is (out, in). We choose the
# entries ourselves.

# %%
W = torch.tensor([[1.0, 2, 0, 1, 3], [0, 1, 1, -1, 2], [2, 3, -1, 3, 4], [1, 3, 1, 0, 5]])
layer = nn.Linear(5, 4, bias=False)
layer.weight = nn.Parameter(W)

# %% [markdown]
# One input $x$ is a column: the layer computes $W x$. PyTorch stacks several inputs as **rows** of $X$.

# %%
predict("01.1")

# %%
X = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
torch.equal(layer(X), X @ W.T)

# %%
figures.product(
    X,
    W.T,
    names=("X", "Wᵀ"),
    alt="X (3 × 5) times the transpose of W (5 × 4) gives 3 × 4: row 1 is column 1 of W, row 2 is its column 2, "
    "row 3 is their sum.",
)

# %% [markdown]
# For a whole batch, the layer is one product:
#
# $$Y = X W^\top, \qquad X: \text{(batch, in)}, \quad Y: \text{(batch, out)}$$
#
# ([PyTorch, nn.Linear](https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html); we left the bias out.) In
# a language model $X$ has shape (batch, seq, in), and the same product acts on the last axis.
#
# Look at the rows of $Y$. The first input asks for column 1 of $W$, the second for column 2, the third for their sum.
# An output is always a mix of the columns of $W$. So what a layer can say is what its columns can be mixed to.
#
# ### Exercise 01.1 · A batch through a layer (one star, 3 minutes)
#
# Write `apply_layer(W, X)`: the outputs, one a row, of a layer with weight `W` (out, in) for inputs `X` (batch, in).

# %% tags=["exercise"]
from torch import Tensor


def apply_layer(W: Tensor, X: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Neighbours must agree: (batch, in) times (in, out).

# %% tags=["solution"]
from torch import Tensor


def apply_layer(W: Tensor, X: Tensor) -> Tensor:
    return X @ W.T


# %%
check("01.1", apply_layer)

# %% [markdown]
# ## 2. How many numbers does a matrix need?
#
# $W$ has 20 entries. But its columns 3, 4 and 5 are mixes of the first two: column 3 is column 2 minus twice column 1,
# for instance.

# %%
predict("01.2")

# %%
B = W[:, :2]
A = torch.tensor([[1.0, 0, -2, 3, -1], [0, 1, 1, -1, 2]])
torch.equal(B @ A, W), B.numel() + A.numel()

# %%
figures.product(
    B,
    A,
    alt="B (4 × 2, 8 numbers) times A (2 × 5, 10 numbers) gives W (4 × 5, 20 numbers). Column 3 of A holds -2 and 1: "
    "column 3 of W is -2 times column 1 of B plus column 2 of B.",
)

# %% [markdown]
# Columns are **independent** if none of them is a mix of the others. The **rank** of a matrix is the largest number of
# independent columns in it. It is also the largest number of independent rows: read $B A$ row by row, and each row of
# $W$ is a mix of the two rows of $A$.

# %%
torch.linalg.matrix_rank(W).item(), torch.linalg.matrix_rank(W.T).item()

# %% [markdown]
# Now a larger one: 100 × 100, made from 3 columns and 3 rows.

# %%
torch.manual_seed(0)
tall, wide = torch.randn(100, 3), torch.randn(3, 100)
torch.linalg.matrix_rank(tall @ wide).item(), (tall @ wide).numel(), tall.numel() + wide.numel()

# %% [markdown]
# 600 numbers in place of 10,000. A matrix of rank $r$ is a product of two thin ones
# ([rank factorization](https://en.wikipedia.org/wiki/Rank_factorization)):
#
# $$W = B A, \qquad B: (m, r), \quad A: (r, n), \qquad m n \;\to\; r\,(m + n) \text{ numbers}$$
#
# In the small example this saved 2 numbers of 20. At rank 3 it would have cost 27: low rank saves only while $r$ is
# well below $m$ and $n$. Another pair can give the same $W$: any two independent columns of $W$ would do for $B$.
#
# ### Exercise 01.2 · Count the numbers (one star, 3 minutes)
#
# Write `numbers_in_rank_r(m, n, r)`: how many numbers `B` and `A` hold together for a matrix of `m` rows and `n`
# columns.


# %% tags=["exercise"]
def numbers_in_rank_r(m: int, n: int, r: int) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `B` has shape (m, r), `A` has shape (r, n). Try 4, 5, 2: the answer is 18.


# %% tags=["solution"]
def numbers_in_rank_r(m: int, n: int, r: int) -> int:
    return r * (m + n)


# %%
check("01.2", numbers_in_rank_r)

# %% [markdown]
# ## 3. Which matrix of rank r comes closest?
#
# Most matrices have full rank. Then a copy of lower rank has an error, and the question is how small it can be. Here
# is a matrix that you can judge by eye: grey levels from 0 to 1.

# %%
picture = torch.from_numpy(evening())
figures.image(picture, alt="192 × 288 grey levels: a house with a gable roof, a fence, hills, a low sun.")

# %%
predict("01.3")

# %% [markdown]
# The **singular value decomposition** (SVD) writes a matrix as a sum of terms of rank 1, the largest first. To keep
# rank $r$, keep the first $r$ terms.

# %%
U, S, Vh = torch.linalg.svd(picture, full_matrices=False)
U.shape, S.shape, Vh.shape

# %% [markdown]
# Term $i$ is column $i$ of `U` times row $i$ of `Vh`, scaled by `S[i]`. In code, `U[:, :r] * S[:r] @ Vh[:r]` scales $r$
# columns, then multiplies, which adds up the first $r$ terms.

# %%
curve = lowrank.rank_error_curve(picture)


def draw_picture(left, right, rank):
    kept = U[:, :rank] * S[:rank] @ Vh[:rank]
    text = (
        f"Rank {rank}: {rank * (192 + 288):,} numbers in place of 55,296, relative error {curve[rank]:.1%}."
    )
    figures.image(kept, title=f"rank {rank}", alt=text, ax=left)
    rest = f"Missing entries reach {(picture - kept).abs().max():.2f}."
    figures.image(picture - kept, limits=(-0.3, 0.3), title="what is missing", alt=rest, ax=right)


explore(draw_picture, panels=2, rank=range(1, 65), start={"rank": 8})

# %% [markdown]
# $$W = \sum_i \sigma_i u_i v_i^\top, \qquad
# \min_{\operatorname{rank} \hat W \le r} \|W - \hat W\|_F = \|W - W_r\|_F = \sqrt{\sum_{i>r} \sigma_i^2}$$
#
# The first $r$ terms, $W_r$, are the best copy of rank $r$ that there is
# ([Eckart and Young 1936](https://doi.org/10.1007/BF02288367)). $\sigma_i$ are the singular values, and $\|W\|_F$ is
# the root of the sum of all squared entries. The relative error is $\|W - W_r\|_F / \|W\|_F$.
#
# What surprises: simple to the eye is not low in rank. By itself, the fence of nine posts has rank 2, and the plain
# disc of the sun has rank 33. A term of rank 1 is one column times one row, so it draws what runs along them.

# %%
error = lowrank.relative_error(picture, U[:, :8] * S[:8] @ Vh[:8])
formula = (S[8:].square().sum() / S.square().sum()).sqrt()
f"by the formula {formula:.6f}, measured {error:.6f}"

# %% [markdown]
# A theorem may be tested too. Replace the 8 columns of $U$ by others: a blend of $U$ with random columns, from all $U$
# (0) to all random (1), 50 times each. `qr` makes the columns orthonormal (each of length 1, any two at right angles)
# and keeps what they can be mixed to; the best copy from them is $Q (Q^\top W)$. The line will be the median of the 50,
# the band from the lowest to the highest.

# %%
other = torch.randn(50, 192, 8, dtype=torch.float64) / 192**0.5
blends = torch.linspace(0, 1, 11)


# %%
def errors_at(blend):
    Q = torch.linalg.qr((1 - blend) * U[:, :8] + blend * other).Q
    return torch.linalg.matrix_norm(picture - Q @ (Q.mT @ picture)) / picture.norm()


trials = torch.stack([errors_at(blend) for blend in blends], dim=1)

# %%
figures.lines(
    {"50 trials": trials},
    x=blends,
    xlabel="share of random columns",
    ylabel="relative error at rank 8",
    alt=f"The SVD's error is {formula:.3f}, the least of all {trials.numel()} trials {trials.min():.3f}. "
    f"The median is {trials[:, 1].median():.3f} at a share of 0.1 and {trials[:, -1].median():.3f} at 1.",
)

# %% [markdown]
# ### Exercise 01.3 · The best copy (two stars, 6 minutes)
#
# Write `best_rank_r(W, r)`: the matrix of rank `r` that is nearest to `W`. Use `torch.linalg.svd` with
# `full_matrices=False`.


# %% tags=["exercise"]
def best_rank_r(W: Tensor, r: int) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The function returns `U, S, Vh`. Keep `r` columns of `U`, `r` numbers of `S`, `r` rows of `Vh`, which is transposed
# already. `U * S` scales the columns of `U`.


# %% tags=["solution"]
def best_rank_r(W: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]


# %%
check("01.3", best_rank_r)

# %% [markdown]
# ## 4. Is the weight of a trained model low-rank?
#
# Low rank is shown, never asserted. We load weights of the course's model, SmolLM2-135M
# ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)): 30 blocks with seven matrices each (notebook 06 says what
# they do). First the query weight of block 15, 576 × 576.

# %%
from safetensors import safe_open

from lora_edu.llm.base_model import fetch_base_model

path = fetch_base_model() / "model.safetensors"


def load_weight(block, layer):
    with safe_open(path, "pt") as file:
        return file.get_tensor(f"model.layers.{block}.{layer}_proj.weight").float()


real = load_weight(15, "self_attn.q")

# %%
predict("01.4")

# %% [markdown]
# A number alone says little, so we set two controls beside it: a matrix with rank 8 planted under a little noise, and
# noise alone.

# %%
noise = torch.randn(576, 576)
planted = torch.randn(576, 8) @ torch.randn(8, 576) / 8**0.5 + 0.1 * noise
matrices = {"noise": noise, "real weight": real, "planted": planted}
curves = {name: lowrank.rank_error_curve(matrix) for name, matrix in matrices.items()}


# %%
def draw_curves(ax, rank):
    errors = ", ".join(f"{name} {curve[rank]:.0%}" for name, curve in curves.items())
    text = f"Rank {rank}: {rank * (576 + 576):,} numbers in place of 331,776. Relative error: {errors}."
    figures.rank_error(curves, rank=rank, alt=text, ax=ax)


explore(draw_curves, rank=[1, 2, 4, 8, 16, 32, 64, 128, 200, 288, 400, 576], start={"rank": 8})

# %% [markdown]
# Move the slider to 288. There $B$ and $A$ hold as many numbers as $W$, and the copy of the real weight is still not
# $W$. The planted matrix bends sharply at 8: that is what low rank looks like.
#
# Is this weight an exception? Here are all seven of its block, and those of the first block.

# %%
layers = [f"self_attn.{name}" for name in "qkvo"] + ["mlp.gate", "mlp.up", "mlp.down"]


def errors_at_8(block):
    return [f"{lowrank.rank_error_curve(load_weight(block, layer))[8]:.0%}" for layer in layers]


# %%
compare(weight=layers, error_at_rank_8_in_block_0=errors_at_8(0), in_block_15=errors_at_8(15))

# %% [markdown]
# Rank 8 leaves most of every weight out. What surprises is the difference: a few weights of the first block have a
# strong low-rank part, others look almost like noise.
#
# So LoRA does **not** replace $W$ by a low-rank copy, though one often reads that. It keeps $W$ whole and factors only
# the *update*: $W + \Delta W = W + B A$ ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1). Whether an
# update has low rank is another question: notebook 02.
#
# A caveat: the course's copy of these weights was rounded to 4 bits once. For Gaussian weights in blocks of 32 that is
# an error of about 8 %, so it moves these figures by about 8 points at most.
#
# ### Exercise 01.4 · What counts as close? (one star, 4 minutes)
#
# Write `relative_error(W, W_hat)` as a float: 0 for a perfect copy, 1 for a copy of zeros. Mind papers that report the
# "energy kept", $1 - \text{error}^2$: 90 % of the energy is an error of 32 %.


# %% tags=["exercise"]
def relative_error(W: Tensor, W_hat: Tensor) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `W.norm()` is the Frobenius norm. `.item()` turns a tensor of one number into a float.


# %% tags=["solution"]
def relative_error(W: Tensor, W_hat: Tensor) -> float:
    return ((W - W_hat).norm() / W.norm()).item()


# %%
check("01.4", relative_error)

# %% [markdown]
# ## 5. Must a large matrix wait for its SVD?
#
# The work of a full SVD grows with the cube of the size. But if only the first 64 terms are wanted, a random start
# finds them. Both were measured once, up to 8192 × 8192, on one core (`tools/record_svd_times.py`).

# %%
import json

from lora_edu.llm.data import DATA

record = json.loads((DATA / "svd" / "times.json").read_text(encoding="utf-8"))
f"exact SVD at {record['size'][-1]} x {record['size'][-1]}: {record['exact_seconds'][-1]:.0f} seconds"

# %%
predict("01.5")

# %%
figures.running_time(
    {"exact": record["exact_seconds"], "randomized, r = 64": record["randomized_seconds"]},
    sizes=record["size"],
    xlabel="rows and columns",
    alt=f"Seconds of one core. At 1024: exact {record['exact_seconds'][1]:.2f}, randomized "
    f"{record['randomized_seconds'][1]:.2f}. At 8192: {record['exact_seconds'][-1]:.0f} and "
    f"{record['randomized_seconds'][-1]:.1f}.",
)

# %% [markdown]
# Now live, on your machine. We need a matrix whose best error is known without the long computation. A Kronecker
# product holds every product of an entry of $P$ and one of $Q$. Its singular values are all products of theirs. And
# the squares of what is kept and of what is missing add up, so singular values are enough to know an error.

# %%
P, Q = torch.randn(64, 64), torch.randn(128, 128)
large = torch.kron(P, Q)
large.shape, f"{large.nbytes / 2**20:.0f} MiB"

# %% tags=["measured"]
import time

start = time.perf_counter()
_, S_64, _ = lowrank.truncated_svd(large, r=64, method="randomized")
f"{time.perf_counter() - start:.1f} s on this machine"

# %%
energy = torch.outer(torch.linalg.svdvals(P), torch.linalg.svdvals(Q)).square().flatten().sort().values
least = (1 - energy[-64:].sum() / energy.sum()).sqrt()
found = (1 - S_64.square().sum() / energy.sum()).sqrt()
assert least < found < 1.01 * least
f"relative error: least possible {least:.3f}, found {found:.3f}"

# %% [markdown]
# The error is within one percent of the best. But noise is a hard case: of the energy that the best 64 terms keep,
# ours keep less. Where singular values fall fast, the two agree closely:

# %%
_, S_8, _ = lowrank.truncated_svd(planted, r=8, method="randomized")
kept = S_64.square().sum() / energy[-64:].sum()
kept_planted = S_8.square().sum() / torch.linalg.svdvals(planted)[:8].square().sum()
f"energy kept, best = 100 %: noise {kept:.0%}, planted rank 8 {kept_planted:.2%}"

# %% [markdown]
# The recipe
# ([Halko, Martinsson and Tropp 2011](https://arxiv.org/abs/0909.4061), algorithms 4.4 and 5.1):
#
# 1. $Y = W X$ with a random $X$ of 80 columns: 64 wanted, 16 to spare. Large singular values dominate $Y$.
# 2. Multiply by $W W^\top$ twice, so that they dominate more.
# 3. $Q$: an orthonormal basis of $Y$. Decompose the small $Q^\top W$; then $W \approx Q\,(Q^\top W)$.
#
# What surprises: the start is random, and the result hardly depends on it. Run the two cells again and see.
#
# ### When not to use it
#
# Up to about 1000 rows the exact SVD takes a second or less: take it. It is also right when you need small singular
# values. And do not store a trained weight at rank 8 because a text says that weights are low-rank: draw its curve
# first.

# %%
progress("01")

# %% [markdown]
# ## Summary
#
# - A layer is a matrix $W$ (out, in). A batch is $X W^\top$.
# - Rank $r$ means $W = B A$: $r\,(m + n)$ numbers in place of $m n$. That saves only for small $r$.
# - The first $r$ terms of the SVD are the best copy of rank $r$, and the dropped singular values give its error.
# - The first terms of a large matrix come in seconds, from a random start.
# - Limit: the trained weights here are not low-rank. LoRA leaves them whole.
#
# **Next question:** the weights are not low-rank, but may their *update* be? (Notebook 02.)
