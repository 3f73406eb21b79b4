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
# A language model is mostly matrices, and LoRA trains an update of low rank. What is that?
#
# **You will** read a layer as a matrix, count the numbers it needs, and see what its largest terms hold.
#
# **You need** Python, and the product of two matrices.
#
# **Time:** {minutes}.

# %%
import json
import time
from collections.abc import Callable

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check, faulty
from lora_edu.classroom.experiments.house import evening
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data import DATA
from lora_edu.methods import blockwise, lowrank

# %% [markdown]
# ## 1. What does a layer do to its input?
#
# A linear layer that turns 5 numbers into 4 keeps a matrix $W$ of shape (4, 5), that is (out, in).

# %%
W = torch.tensor([[1.0, 2, 0, 1, 3], [0, 1, 1, -1, 2], [2, 3, -1, 3, 4], [1, 3, 1, 0, 5]])
layer = nn.Linear(5, 4, bias=False)
layer.weight = nn.Parameter(W)

# %% [markdown]
# It computes $W x$ for one input $x$, a column. PyTorch stacks several inputs as **rows** of $X$.

# %%
predict("01.1")

# %%
X = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
torch.equal(layer(X), X @ W.T)

# %%
figures.product(X, W.T, names=("X", "Wᵀ"), title="Every output is a mix of W's columns")

# %% [markdown]
# So a layer is $Y = X W^\top$, with $X$ (batch, in) and $Y$ (batch, out)
# ([nn.Linear](https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html), without bias). Row 1 of $Y$ is
# column 1 of $W$, row 2 is column 2, row 3 is their sum: all that a layer can say is a mix of its columns.
#
# ### Exercise 01.1 · A batch through a layer (one star, 2 minutes)
#
# Write `apply_layer(W, X)`: the outputs, one a row, for a weight `W` (out, in) and inputs `X` (batch, in).


# %% tags=["exercise"]
def apply_layer(W: Tensor, X: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Neighbours must agree: (batch, in) times (in, out).


# %% tags=["solution"]
def apply_layer(W: Tensor, X: Tensor) -> Tensor:
    return X @ W.T


# %%
check("01.1", apply_layer)

# %% [markdown]
# ## 2. How many numbers does a matrix need?
#
# $W$ has 20 entries. But its columns 3, 4 and 5 are mixes of the first two: column 3 is column 2 minus twice column 1.

# %%
predict("01.2")

# %%
B = W[:, :2]
A = torch.tensor([[1.0, 0, -2, 3, -1], [0, 1, 1, -1, 2]])
torch.equal(B @ A, W)

# %%
figures.product(B, A, title="Two columns, and how much of each, give all five")

# %% [markdown]
# Columns are **independent** if none is a mix of the others. The **rank** of a matrix is its largest number of
# independent columns, and of rows too: each row of $W$ is a mix of the two of $A$. A larger one:

# %%
torch.manual_seed(0)
large = torch.randn(100, 3) @ torch.randn(3, 100)
f"100 × 100, rank {torch.linalg.matrix_rank(large)}: {3 * (100 + 100)} numbers instead of {large.numel():,}"

# %% [markdown]
# $$W = B A, \qquad B: (m, r), \quad A: (r, n), \qquad m n \;\to\; r\,(m + n) \text{ numbers}$$
#
# ([Rank factorization](https://en.wikipedia.org/wiki/Rank_factorization).) This saves while $r < mn / (m + n)$, for
# 4 × 5 below 2.2. Fewer numbers are really free to choose, $r\,(m + n - r)$, here 14: columns 1 and 2 of $A$ are just
# ones and zeros.
#
# ### Exercise 01.2 · Count the numbers (one star, 2 minutes)
#
# Write `numbers_in_rank_r(m, n, r)`: how many numbers `B` (m, r) and `A` (r, n) hold together.


# %% tags=["exercise"]
def numbers_in_rank_r(m: int, n: int, r: int) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# For 4, 5, 2 it is 18.


# %% tags=["solution"]
def numbers_in_rank_r(m: int, n: int, r: int) -> int:
    return r * (m + n)


# %%
check("01.2", numbers_in_rank_r)

# %% [markdown]
# ## 3. Which terms make up a matrix?
#
# $BA$ is a sum of $r$ **terms**, each a column of $B$ times a row of $A$. Most matrices need many, but a few may come
# close. Here is one to judge by eye:

# %%
picture = torch.from_numpy(evening())
figures.image(picture, title="192 × 288 grey levels, from 0 to 1")

# %%
predict("01.3")

# %% [markdown]
# The **singular value decomposition** (SVD) finds terms, the largest first: term $i$ is column $i$ of `U` times row $i$
# of `Vh`, times `S[i]`.

# %%
U, S, Vh = torch.linalg.svd(picture, full_matrices=False)
figures.terms(U, S, Vh, title="Term 1, plus term 2, plus term 3: boxes, then a fence")

# %% [markdown]
# (Above, each term has its own scale of greys.) A term draws only what runs along columns and rows. Add more. The
# **norm** of a matrix is the root of the sum of its squared entries; the **relative error** is the norm of what is
# missing over the norm of the matrix:


# %%
def draw_copy(ax, terms):
    figures.copy_and_rest(U, S, Vh, terms, reach=0.55, title="The fence is sharp long before the sun", ax=ax)


explore(draw_copy, terms=range(1, 65), start={"terms": 8})

# %% [markdown]
# By itself the fence has rank 2, and the plain disc of the sun 33. The **energy** of a matrix is its norm squared. Here
# 85 % of it is mean brightness. So the 7.2 % at 8 terms flatters: of what differs from plain grey, 19 % is missing.
#
# What do `U`, `S` and `Vh` mean? Take a 2 × 2 matrix. All inputs $x$ of length 1 form a circle. Turn $x$:


# %%
def draw_circle(ax, angle, rank):
    small = torch.tensor([[0.9, 0], [1.2, 1.5]])
    figures.circle_to_ellipse(small, angle, rank=rank, ax=ax)


explore(draw_circle, angle=range(0, 180, 15), rank=[1, 2], start={"angle": 75, "rank": 2})

# %% [markdown]
# $$W = \sum_i \sigma_i\, u_i v_i^\top, \qquad U^\top U = V^\top V = I$$
#
# ($V^\top$ is `Vh`.) $W$ *listens* along $v_i$: it hears $v_i \cdot x$, the part of $x$ along $v_i$. It multiplies that
# by the **singular value** $\sigma_i$ and *writes* along $u_i$. The $u_i$ are **orthonormal**, each 1 long and any two
# at right angles, and so are the $v_i$. LoRA's $BA$ listens along the rows of $A$ and writes along the columns of $B$.
#
# Set the rank to 1: the ellipse falls flat, and $x$ at 135° is not heard. Terms at right angles cannot make up for
# each other, and no copy of rank $r$ is closer than the first $r$ terms
# ([Eckart and Young 1936](https://doi.org/10.1007/BF02288367)).

# %% [markdown]
# ## 4. Is the weight of a trained model low-rank?
#
# The course's model, SmolLM2-135M ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)), has 30 blocks of seven
# matrices. We take the query weight of block 15.


# %%
def load_weight(block, layer):
    with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
        return file.get_tensor(f"model.layers.{block}.{layer}_proj.weight").float()


# %%
predict("01.4")

# %% [markdown]
# Beside it: the house (less its mean), a planted rank of 8 under a little noise, and noise alone.

# %%
noise, real = torch.randn(576, 576), load_weight(15, "self_attn.q")
planted = torch.randn(576, 8) @ torch.randn(8, 576) / 8**0.5 + 0.1 * noise
matrices = {"house": picture - picture.mean(), "real weight": real, "planted": planted, "noise": noise}
sigmas = {name: torch.linalg.svdvals(matrix) for name, matrix in matrices.items()}


# %%
def draw_spectra(left, right, rank):
    style = {"rank": rank, "last": 400, "roles": {"real weight": "frozen"}}
    figures.spectrum(sigmas, title="The weight's terms fall slowly", **style, ax=left)
    figures.error_by_rank(sigmas, title="A small rank leaves most of the weight out", **style, ax=right)


explore(draw_spectra, panels=2, rank=[1, 2, 4, 8, 16, 32, 64, 128, 288], start={"rank": 8})

# %% [markdown]
# The error sums up what is dropped: $\sqrt{\sum_{i>r} \sigma_i^2}$, over the norm $\|W\|_F = \sqrt{\sum_i
# \sigma_i^2}$. Low rank is a cliff, as in the planted matrix. At 288, $B$ and $A$ hold as many numbers as $W$, and
# still are not $W$. Is this weight an exception?

# %%
layers = [f"self_attn.{name}" for name in "qkvo"] + ["mlp.gate", "mlp.up", "mlp.down"]


def errors_at_8(block):
    return [f"{lowrank.rank_error_curve(load_weight(block, layer))[8]:.0%}" for layer in layers]


compare(weight=layers, error_at_rank_8_in_block_0=errors_at_8(0), in_block_15=errors_at_8(15))

# %% [markdown]
# Rank 8 leaves errors of 64 to 98 %. So LoRA keeps $W$ whole, and factors only the *update*:
# $W + \Delta W = W + BA$ ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1).
#
# **How sure is this?** Our copy of the weights was packed in 4 bits for the download, which rounded it by about 8 %
# (measured on noise). That moves an error by 8 points at most.

# %% [markdown]
# ## 5. How is the best copy computed?
#
# *Deeper: nothing later needs this section.*
#
# $$\min_{\operatorname{rank} \hat W \le r} \|W - \hat W\|_F = \|W - W_r\|_F = \sqrt{\sum_{i>r} \sigma_i^2}$$
#
# Here $W_r$ is the sum of the first $r$ terms (Eckart and Young).
#
# ### Exercise 01.3 · The best copy (two stars, 6 minutes)
#
# Write `best_rank_r(W, r)`: the matrix of rank `r` nearest to `W`. Use `torch.linalg.svd` with `full_matrices=False`.


# %% tags=["exercise"]
def best_rank_r(W: Tensor, r: int) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# It returns `U, S, Vh`. Keep `r` columns of `U`, numbers of `S` and rows of `Vh`. `U * S` scales columns.


# %% tags=["solution"]
def best_rank_r(W: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]


# %%
check("01.3", best_rank_r)

# %% [markdown]
# ### Exercise 01.4 · What counts as close? (one star, 4 minutes)
#
# Write `relative_error(W, W_hat)` as a float: 0 for a perfect copy, 1 for zeros. (The energy kept is
# $1 - \text{error}^2$: 90 % is an error of 32 %.)


# %% tags=["exercise"]
def relative_error(W: Tensor, W_hat: Tensor) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `W.norm()` is $\|W\|_F$. `.item()` makes a float.


# %% tags=["solution"]
def relative_error(W: Tensor, W_hat: Tensor) -> float:
    return ((W - W_hat).norm() / W.norm()).item()


# %%
check("01.4", relative_error)

# %% [markdown]
# ### A large matrix
#
# The work of a whole SVD grows with the cube of the size. For a few terms a **randomized** one will do. (Times of one
# core, on noise, recorded on another machine; yours may take several times as long.)

# %%
record = json.loads((DATA / "svd" / "times.json").read_text(encoding="utf-8"))
f"whole SVD at {record['size'][-1]} × {record['size'][-1]}: {record['exact_seconds'][-1]:.0f} seconds"

# %%
predict("01.5")

# %%
figures.running_time(
    {"whole": record["exact_seconds"], "64 terms, randomized": record["randomized_seconds"]},
    sizes=record["size"],
    xlabel="rows and columns",
    title="The larger the matrix, the more it saves to ask for a few terms",
)

# %% tags=["measured"]
huge = torch.randn(8192, 8192)
start = time.perf_counter()
largest = lowrank.truncated_svd(huge, r=64, method="randomized")[1]
f"{time.perf_counter() - start:.1f} s on this machine"

# %% tags=["claim"]
assert 0.9 < largest[0] / (2 * 8192**0.5) < 1.01  # the limit for noise is two roots of the size

# %% [markdown]
# The recipe ([Halko, Martinsson and Tropp 2011](https://arxiv.org/abs/0909.4061), algorithms 4.4 and 5.1): multiply $W$
# by 80 random columns, 64 and some to spare, and twice by $W W^\top$, so that large terms dominate. Make the 80 columns
# orthonormal, call them $Q$, and take the SVD of the small $Q^\top W$. Ten random starts at rank 8, and how much of
# their first 8 directions two starts have in common:


# %%
def ten_starts(W):
    runs = [lowrank.truncated_svd(W, 8, method="randomized") for _ in range(10)]
    least, first = lowrank.rank_error_curve(W)[8], runs[0][0]
    excess = max(0, *(lowrank.relative_error(W, U * S @ Vh) / least - 1 for U, S, Vh in runs))
    shared = [(first.T @ U).square().sum() / 8 for U, _, _ in runs[1:]]
    return f"{excess:.1%}", f"{min(shared):.0%} to {max(shared):.0%}"


# %%
found = {name: ten_starts(matrices[name]) for name in ("planted", "real weight", "noise")}
excess, shared = [told[0] for told in found.values()], [told[1] for told in found.values()]
compare(matrix=list(found), error_above_the_least=excess, directions_shared_with_the_first=shared)

# %% tags=["claim"]
error = lowrank.relative_error(picture, U[:, :8] * S[:8] @ Vh[:8])
assert abs(error - (S[8:].square().sum() / S.square().sum()).sqrt()) < 1e-9 and f"{error:.1%}" == "7.2%"
assert f"{lowrank.rank_error_curve(picture - picture.mean())[8]:.0%}" == "19%"
assert f"{picture.numel() * picture.mean() ** 2 / picture.square().sum():.0%}" == "85%"
assert max((picture - U[:, :r] * S[:r] @ Vh[:r]).abs().max() for r in range(1, 65)) < 0.55
assert torch.allclose(U.T @ U, torch.eye(192, dtype=U.dtype), atol=1e-9)
shown = [error for block in (0, 15) for error in errors_at_8(block)]
assert (min(shown), max(shown)) == ("64%", "98%")
rounded = blockwise.dequantize_minmax(*blockwise.quantize_minmax(noise, 32), 32)  # as Q4_1, the copy's format
assert f"{lowrank.relative_error(noise, rounded):.0%}" == "8%"
assert real.numel() == 2 * 288 * 576 and lowrank.rank_error_curve(real)[288] > 0.15
assert all(float(told.rstrip("%")) < 0.5 for told in excess)
assert [shares.split("%")[0] == "100" for shares in shared] == [True, False, False]

# %% [markdown]
# The error hardly depends on the start. On noise the directions do, since many terms are about as large.
#
# ### When not to use it
#
# For up to about 1,000 rows, compute the whole SVD. And store no weight at rank 8 before you have drawn its curve.

# %% [markdown]
# ## Which wrong copies does a test let through?
#
# *Deeper: nothing later needs this section.*
#
# A function is asked for the best copy of rank 8, and keeps 9 terms. Its error looks even better:

# %%
compare(terms_kept=[8, 9], error=[f"{lowrank.rank_error_curve(real)[r]:.1%}" for r in (8, 9)])

# %% [markdown]
# ### Exercise 01.5 · A test for the best copy (three stars, 8 minutes)
#
# Write `is_best_copy(candidate)`. It calls `candidate(W, r)` for matrices of yours, and returns True if each result is
# a best copy of rank `r`, else False. Take float32 matrices, of at most 65,536 numbers (the house fits, the weight does
# not). The check hands it right functions, and wrong ones that were answers to 01.3. How many does it catch? Right ones
# may round differently, by up to 0.1 %.


# %% tags=["exercise"]
def is_best_copy(candidate: Callable) -> bool:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Eckart and Young say two things: what rank the copy has, and what its error is. `torch.linalg.svdvals(W)` gives all
# $\sigma_i$, and `torch.linalg.matrix_rank(W_hat, rtol=1e-3)` the rank.


# %% tags=["solution"]
def is_best_copy(candidate: Callable) -> bool:
    W = torch.randn(6, 4)
    S = torch.linalg.svdvals(W)
    for r in (1, 2, 3):
        W_hat = candidate(W, r)
        error, least = (W - W_hat).norm(), S[r:].norm()
        if torch.linalg.matrix_rank(W_hat, rtol=1e-3) > r or not torch.isclose(error, least, rtol=1e-3):
            return False
    return True


# %%
check("01.5", is_best_copy)

# %% [markdown]
# ## Why does more work make the copy worse?
#
# *Deeper: nothing later needs this section.*
#
# The code of exercise 01.6 is a randomized SVD, run in float32 on the house. More rounds should bring it nearer to the
# best copy:

# %% tags=["measured"]
start, rounds = torch.randn(288, 8), [0, 1, 2, 3, 4, 6, 8]
errors = [faulty("01.6")(picture.float(), start, n) for n in rounds]
least = [lowrank.rank_error_curve(picture)[8]] * len(rounds)
figures.lines(
    {"this code": errors, "best copy of rank 8": least},
    x=rounds,
    xlabel="rounds",
    ylabel="relative error",
    title="One round helps. Eight make the copy worse than none",
)

# %% tags=["claim"]
assert least[0] < errors[1] < errors[0] < errors[-1]

# %% [markdown]
# ### Exercise 01.6 · Find the fault (three stars, 8 minutes)
#
# Mend `copy_error(W, start, rounds)`, so that more rounds help.


# %% tags=["exercise"]
def copy_error(W: Tensor, start: Tensor, rounds: int) -> float:
    columns = W @ start
    for _ in range(rounds):
        columns = W @ (W.T @ columns)
    Q = torch.linalg.qr(columns).Q
    copy = Q @ (Q.T @ W)
    return ((W - copy).norm() / W.norm()).item()


# %% [markdown] tags=["hint"]
# Each round multiplies every term by its $\sigma^2$, so the largest grows fastest. After some, what is left of the
# small terms in a column of float32, which holds 7 digits? Print the angle between two columns.


# %% tags=["solution"]
def copy_error(W: Tensor, start: Tensor, rounds: int) -> float:
    # On paper the columns span the same space either way. In float32 they would all turn towards the first term, and
    # what tells them apart would be rounded away. So each round makes them orthonormal again.
    Q = torch.linalg.qr(W @ start).Q
    for _ in range(rounds):
        Q = torch.linalg.qr(W @ (W.T @ Q)).Q
    copy = Q @ (Q.T @ W)
    return ((W - copy).norm() / W.norm()).item()


# %%
check("01.6", copy_error)

# %%
progress("01")

# %% [markdown]
# ## Summary
#
# - A layer is a matrix $W$ (out, in). A batch is $X W^\top$.
# - Rank $r$ means $W = B A$: $r\,(m + n)$ numbers, fewer than $m n$ while $r < mn/(m+n)$.
# - The SVD's first $r$ terms are the best copy of rank $r$.
# - Limit: the trained weights here are not low-rank. LoRA leaves them whole.
#
# **Next question:** can their *update* have low rank? (Notebook 02.)
