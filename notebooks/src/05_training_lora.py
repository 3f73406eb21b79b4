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
# The layer of notebook 04 starts to learn: a small network that reads handwritten digits gets a new task, once with
# all its weights and once with $B$ and $A$ alone. Each training takes a fraction of a second, so we can afford many.
#
# **You will** freeze a model and see what happens if you forget a part, tune learning rates fairly, measure how much
# rank two tasks take, count the bytes that are saved and those that are not, and merge.
#
# **You need** Python, and the layer $y = Wx + \frac{\alpha}{r} B A x$ with $B$ zero at the start (notebook 04). A
# *gradient* says how the loss changes with a number.
#
# **Time:** {minutes}. The computer needs about one of them.

# %%
import copy
from statistics import mean, median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import digits
from lora_edu.classroom.experiments.step_costs import step_costs
from lora_edu.classroom.experiments.tuning import at_rate, medians
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.methods.lora import LoRALinear, merged_linear

torch.set_num_threads(1)  # in networks this small a second thread only gets in the way

# %% [markdown]
# ## 1. Which numbers does the optimizer get?
#
# scikit-learn brings 1,797 scanned digits of 8 × 8 pixels. The old task: read them upright. The new one: read them
# after a quarter turn. `load` makes the same four parts for both.


# %%
def quarter_turn(images):
    return images.rot90(dims=(1, 2))


upright, rotated = digits.load(), digits.load(change=quarter_turn)
{part: len(labels) for part, (_, labels) in upright.items()}

# %%
blocks = [digits.strip(task["test"][0][i : i + 6]) for i in (0, 6) for task in (upright, rotated)]
names = " ".join(map(str, upright["test"][1][:12].tolist()))
text = (
    f"Twelve digits, {names}: a row upright, below it the same row after a quarter turn to the left, twice."
)
figures.image(-torch.cat(blocks), limits=(-1, 1), alt=text)

# %% [markdown]
# Here is the whole training, for both methods alike. It hands the optimizer what has `requires_grad`, and nothing
# else in it knows about LoRA. The loss, *cross-entropy*, is small when the right digit gets a high probability
# (notebook 06 takes it apart). **Adam** makes steps from gradients (section 4). Each step sees all examples, so a step
# is an *epoch*.


# %%
def train(model, data, learning_rate, steps=60):
    X, y = data
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
def accuracy(model, data):
    X, y = data
    return (model(X).argmax(dim=1) == y).double().mean().item()


# %% [markdown]
# The base: three layers, trained on upright digits. We use 64-bit numbers (`double`), so that your results are those
# printed here.

# %%
torch.manual_seed(0)
base = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).double()
_ = train(base, upright["pretrain"], learning_rate=0.003, steps=100)
f"test digits: upright {accuracy(base, upright['test']):.1%}, rotated {accuracy(base, rotated['test']):.1%}"

# %% [markdown]
# Now LoRA, $r = 8$, beside the two hidden layers.


# %%
def wrap(model, r, lora_alpha, **options):
    model = copy.deepcopy(model)
    for i in (0, 2):
        model[i] = LoRALinear(model[i], r, lora_alpha, **options)
    return model.double()


# %%
careless = wrap(base, r=8, lora_alpha=16)

# %%
predict("05.1")

# %%
{name: p.numel() for name, p in careless.named_parameters() if p.requires_grad}

# %% [markdown]
# Somebody forgot a part of the freeze. To do it right, freeze all, then wrap: what is new trains, what is old does
# not.

# %%
frozen = copy.deepcopy(base).requires_grad_(False)
careful = wrap(frozen, r=8, lora_alpha=16)

# %% [markdown]
# Both get the same start and the same 200 rotated digits.

# %%
careful.load_state_dict(careless.state_dict())
models = {"frozen": careful, "last layer forgotten": careless}
losses = {name: train(model, digits.few(rotated["adapt"], seed=0), 0.03) for name, model in models.items()}

# %%
ends = "; ".join(f"{name}, from {curve[0]:.1f} to {curve[-1]:.3f}" for name, curve in losses.items())
figures.loss_curve(losses, alt=f"The training loss over 60 steps: {ends}.")

# %% [markdown]
# The loss shows nothing: both learn. Now hand on the result as one does, by saving $B$ and $A$ and putting them over
# a fresh copy of the base.


# %%
def hand_on(trained):
    adapter = {name: tensor for name, tensor in trained.state_dict().items() if "lora_" in name}
    model = wrap(frozen, r=8, lora_alpha=16)
    model.load_state_dict(adapter, strict=False)
    return model


# %%
as_trained = [f"{accuracy(model, rotated['test']):.1%}" for model in models.values()]
handed_on = [f"{accuracy(hand_on(model), rotated['test']):.1%}" for model in models.values()]
compare(freeze=models, rotated_digits_right=as_trained, B_and_A_over_a_fresh_base=handed_on)

# %% [markdown]
# That is the symptom of a forgotten freeze: training looks fine, and the saved adapter does not give what training
# gave.
#
# $$\min_{B,\,A}\; L\!\left(W + \tfrac{\alpha}{r} B A\right), \qquad W \text{ fixed}$$
#
# (after [Hu et al. 2021](https://arxiv.org/abs/2106.09685), equation 2.) `model.eval()` does not freeze, only
# `requires_grad` does. A last layer may well train with the adapter, if it is saved with it (notebook 06). So look at
# the list of what trains before each run.
#
# ### Exercise 05.1 · Freeze all but LoRA (two stars, 7 minutes)
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
# ## 2. How much rank does a new task take?
#
# One answer can be written down. A quarter turn moves pixels, so it is a matrix $P$, and $P^\top$ moves them back:
# $W P^\top (P x) = W x$. (The rows of `turn` are turned images, so `turn` is $P^\top$.)

# %%
turn = quarter_turn(torch.eye(64).double().view(64, 8, 8)).reshape(64, 64)
undo = base[0].weight.data @ turn - base[0].weight.data
torch.linalg.matrix_rank(undo).item()

# %%
exact = copy.deepcopy(base)
exact[0].weight.data += undo
f"rotated {accuracy(exact, rotated['test']):.1%}"

# %% [markdown]
# An update of rank 48 in the first layer alone, and rotated digits are read as upright ones were. (Why 48? The 64
# pixels turn in 16 rings of four, and the sum over a ring stays as it was: 64 - 16.) Training does not know this
# update; it has 200 examples and 60 steps.

# %%
predict("05.2")

# %% [markdown]
# Three ways compete: all 8,970 numbers; $Wx + BAx$; and $BAx$ alone, with $W$ thrown away, since one often reads that
# LoRA *replaces* $W$ by two small matrices. Each sees four learning rates and three seeds. A seed decides which 200
# digits are seen, and what $A$ is at the start.

# %%
rates, ranks = [0.003, 0.01, 0.03, 0.1], [1, 2, 4, 8, 16]


def trial(make_model, task, rate, seed):
    torch.manual_seed(seed)
    model = make_model()
    train(model, digits.few(task["adapt"], seed), rate)
    return accuracy(model, task["validation"]), accuracy(model, task["test"])


# %%
def trials(make_model, task):
    runs = [[trial(make_model, task, rate, seed) for seed in range(3)] for rate in rates]
    return torch.tensor(runs).permute(2, 0, 1)  # validation and test, learning rate, seed


# %%
def without_W(model):
    for i in (0, 2):
        nn.init.zeros_(model[i].base_layer.weight)
    return model


# %% [markdown]
# Beside the turn we try an **inverted** task: ink and paper change places. $\alpha$ is $2r$, so the scaling is 2
# everywhere. That makes 264 trainings:


# %%
def sweep(task):
    full = trials(lambda: copy.deepcopy(base), task)
    lora = [trials(lambda r=r: wrap(frozen, r, 2 * r), task) for r in ranks]
    alone = [trials(lambda r=r: without_W(wrap(frozen, r, 2 * r)), task) for r in ranks]
    return {"full": [full] * len(ranks), "Wx + BAx": lora, "BAx alone": alone}


tasks = {"rotated": rotated, "inverted": digits.load(change=torch.neg)}
results = {name: sweep(task) for name, task in tasks.items()}

# %% [markdown]
# "Tuned" chooses each learning rate on the 300 validation digits; the picture shows test digits. Its bands reach from
# the lowest seed to the highest. Move both sliders.


# %%
def draw_sweep(ax, task, learning_rate):
    curves = {name: at_rate(runs, rates, learning_rate) for name, runs in results[task].items()}
    text = f"Task {task}, learning rate {learning_rate}, r = 1, 2, 4, 8, 16, medians: {medians(curves)}."
    figures.share_by_rank(curves, ranks=ranks, ylabel="digits right", title=task, alt=text, ax=ax)


explore(draw_sweep, task=list(tasks), learning_rate=[*rates, "tuned"], start={"learning_rate": "tuned"})

# %% [markdown]
# **Rotated.** Rank 4 is within 2 points of full fine-tuning, with 1,024 trained numbers in place of 8,970. Without $W$
# even rank 16 falls short: what the base learned upright helps. So LoRA keeps $W$ whole.
#
# **Inverted.** LoRA loses at every rank tried, at 16 by 86 % to 91 %. From rank 8 on $BAx$ alone does as well. Yet the
# update $-2W$ in the first layer would be exact; its rank is 64. (Full fine-tuning also trains biases and the last
# layer.)
#
# **Learning rate.** Move it from "tuned" to 0.003: full fine-tuning loses 4 points, LoRA at rank 4 about 47. And look
# at the bands: one seed can mislead.
#
# Now SmolLM2, which learned to write JSON (recorded; `data/README.md`):

# %%
llm_ranks = [1, 2, 4, 8, 16, 64]
llm_lora = torch.tensor(
    [[run["exact_match"] for run in records.runs("events_gpu_final", method="lora", r=r)] for r in llm_ranks]
).T
llm_full = torch.tensor(
    [[run["exact_match"]] * len(llm_ranks) for run in records.runs("events_gpu_final", method="full")]
)

# %%
curves = {"full": llm_full, "LoRA": llm_lora}
text = f"SmolLM2, events right, r = 1, 2, 4, 8, 16, 64, medians of 3 seeds: {medians(curves)}."
figures.share_by_rank(curves, ranks=llm_ranks, ylabel="events right", alt=text)

# %%
tune = [run for method in ("full", "lora") for run in records.runs("events_gpu_tune", method=method)]
compare(**{key: [run[key] for run in tune] for key in ("method", "learning_rate", "exact_match")})

# %% [markdown]
# Three seeds at each rank, $\alpha = 2r$, one rate for all. On sentences built like those of training, rank 1 is within
# a point. Our reading: the model knows the words, and only the form is new. On sentences built otherwise (not drawn),
# rank 64 beats rank 1 in every seed: 67 to 80 % against 60 or 61 %.
#
# Again LoRA wants the higher learning rate, 0.001 against 0.00005. (One seed a rate, chosen by these same test
# sentences, so the neighbours may be as good. The next exercise does it right.)
#
# Last, the start. Notebook 04 made $A$ random and $B$ zero. What do the others do in training?

# %%
torch.manual_seed(0)
starts = {name: wrap(frozen, r=8, lora_alpha=16) for name in ("B zero", "both zero", "both random")}
for i in (0, 2):
    nn.init.zeros_(starts["both zero"][i].lora_A)
    nn.init.kaiming_uniform_(starts["both random"][i].lora_B, a=5**0.5)  # as nn.Linear does

# %%
X, y = upright["test"]
upright_loss = [f"{F.cross_entropy(model(X), y).item():.2f}" for model in starts.values()]

# %%
few = digits.few(rotated["adapt"], seed=0)
rotated_loss = [f"{train(model, few, 0.03)[-1]:.2f}" for model in starts.values()]
compare(start=starts, upright_loss_before_training=upright_loss, rotated_loss_after=rotated_loss)

# %% [markdown]
# Both zero: no gradient, no movement. Both random: here it learns as well, but it starts from a damaged base.
#
# ### Exercise 05.2 · Tune without peeking (two stars, 6 minutes)
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
# ## 3. What should happen to the scaling when r grows?
#
# So far $\alpha$ was $2r$. Now $r$ grows, while $\alpha$ stays at 4 and the learning rate stays too. LoRA scales by
# $\alpha / r$. *Rank-stabilized* LoRA (`use_rslora=True`) scales by $\alpha / \sqrt r$.

# %%
predict("05.3")

# %%
more_ranks = [1, 4, 16, 64]


def over_ranks(use_rslora):
    return [trials(lambda r=r: wrap(frozen, r, 4, use_rslora=use_rslora), rotated) for r in more_ranks]


# %%
scalings = {"α / r": over_ranks(False), "α / √r": over_ranks(True)}


# %%
def draw_scalings(ax, learning_rate):
    curves = {name: at_rate(runs, rates, learning_rate) for name, runs in scalings.items()}
    text = f"Learning rate {learning_rate}, alpha 4, r = 1, 4, 16, 64, medians: {medians(curves)}."
    figures.share_by_rank(curves, ranks=more_ranks, ylabel="rotated digits right", alt=text, ax=ax)


explore(draw_scalings, learning_rate=rates)

# %% [markdown]
# At 0.003 only $\alpha / \sqrt r$ makes use of rank. At 0.03 the two are alike, and at 0.1 it is $\alpha / \sqrt r$
# that breaks at high rank. So is it the better scaling, or just a larger step? Look at the first step alone: how far
# does it move the outputs of layer 1?


# %%
def first_step(optimizer_class, r, use_rslora):
    model = wrap(frozen, r, lora_alpha=4, use_rslora=use_rslora)
    optimizer = optimizer_class([p for p in model.parameters() if p.requires_grad], lr=0.003)
    F.cross_entropy(model(few[0]), few[1]).backward()
    optimizer.step()
    return (few[0] @ model[0].delta_weight().T).norm().item()


# %%
def growth(optimizer, rs):
    torch.manual_seed(0)
    steps = [sum(first_step(optimizer, r, rs) for _ in range(20)) for r in more_ranks]
    return " ".join(f"{step / steps[0]:.2f}" for step in steps)


# %%
rows = [(optimizer, rs) for optimizer in (torch.optim.SGD, torch.optim.Adam) for rs in (False, True)]
names = [f"{optimizer.__name__}, {'α / √r' if rs else 'α / r'}" for optimizer, rs in rows]
compare(**{"first step": names, "length at r = 1, 4, 16, 64": [growth(*row) for row in rows]})

# %% [markdown]
# Means of 20 starts, relative to $r = 1$; SGD is plain gradient descent. With $s$ for the scaling, $\eta$ for the
# learning rate and $g$ for the gradient of the output, its first step on one example makes
#
# $$B = -\eta\, s\, g\, (A x)^\top \quad\Rightarrow\quad s\, B A x = -\eta\, s^2\, \|A x\|^2\, g$$
#
# and $\|Ax\|^2$ grows like $r$. So $s \propto 1/\sqrt r$ keeps the step
# ([Kalajdzievski 2023](https://arxiv.org/abs/2312.03732), theorem 3.2), and $\alpha / r$ lets it fade.
#
# What surprises: in its first step **Adam** moves each number of $B$ by about $\eta$, however small its gradient
# (section 4). Now the $r$ terms of $B(Ax)$ alone make $sBAx$ grow, like $s\,r$. So it is $\alpha / r$ that keeps the
# step, roughly, and $\alpha / \sqrt r$ that lets it grow.
#
# The same on SmolLM2, with Adam, $\alpha = 16$ and one learning rate (recorded):


# %%
def loss_and_score(r, use_rslora):
    runs = records.runs("events_gpu_scaling", r=r, use_rslora=use_rslora)
    loss = median(mean(run["losses"][-20:]) for run in runs)
    return f"{loss:.4f}, {median(run['exact_match'] for run in runs):.1%} right"


# %%
columns = {
    name: [loss_and_score(r, rs) for r in (4, 32, 128)] for name, rs in (("α / r", False), ("α / √r", True))
}
compare(r=[4, 32, 128], **columns)

# %% [markdown]
# The mean training loss of the last 20 steps and the test score, medians of three seeds. The loss is level with
# $\alpha / r$ and falls with $\alpha / \sqrt r$; the scores do not tell them apart. Neither scaling replaces tuning the
# learning rate. $\alpha$, $r$ and $\eta$ belong together.
#
# ### Exercise 05.3 · The scaling (one star, 4 minutes)
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

# %% [markdown]
# ## 4. Which memory is saved, and which is not?
#
# First the optimizer. **Adam** keeps two running averages for each number that trains: of its gradient, $m$, and of
# the gradient's square, $v$.
#
# $$m \leftarrow 0.9\, m + 0.1\, g, \qquad v \leftarrow 0.999\, v + 0.001\, g^2, \qquad
# \theta \leftarrow \theta - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# The hats divide by $1 - 0.9^t$ and $1 - 0.999^t$ at step $t$, since both start at zero
# ([Kingma and Ba 2014](https://arxiv.org/abs/1412.6980), algorithm 1). One step by hand, and by PyTorch:

# %%
g = torch.tensor([4.0, -0.25, 0.001])
m, v = 0.1 * g, 0.001 * g**2
-0.01 * (m / 0.1) / ((v / 0.001).sqrt() + 1e-8)

# %%
theta = nn.Parameter(torch.zeros(3))
theta.grad = g
torch.optim.Adam([theta], lr=0.01).step()
theta.data

# %% [markdown]
# The first step is the learning rate, whatever the gradient's size: that was Adam's row in section 3.
#
# So training holds the weights, a gradient and two averages for each trained number, and the **activations**: what
# the forward pass keeps for the backward pass.

# %%
predict("05.4")


# %%
def bytes_in_training(model, data):
    X, y = data
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained)
    F.cross_entropy(model(X), y).backward()
    optimizer.step()
    averages = [tensor for state in optimizer.state.values() for tensor in state.values()]
    held = [sum(t.nbytes for t in ts) for ts in (model.parameters(), [p.grad for p in trained], averages)]
    return [*held, X.element_size() * step_costs(model, X).kept]  # step_costs counts what autograd keeps


# %%
batches, lora_ranks = [8, 32, 128, 512], [1, 8, 32]
models = {0: copy.deepcopy(base)} | {r: wrap(frozen, r, 2 * r) for r in lora_ranks}
ledger = {
    (r, batch): bytes_in_training(model, digits.few(upright["pretrain"], seed=0, count=batch))
    for r, model in models.items()
    for batch in batches
}


# %%
def draw_ledger(ax, batch, r):
    held = {"full": ledger[0, batch], f"LoRA, r = {r}": ledger[r, batch]}
    held = {name: [round(number / 1000) for number in numbers] for name, numbers in held.items()}
    groups = ["weights", "gradients\nof weights", "Adam's\naverages", "activations\nkept"]
    text = f"Kilobytes at batch {batch} for weights, their gradients, Adam's averages and activations: "
    text += "; ".join(f"{name}: " + ", ".join(map(str, kilobytes)) for name, kilobytes in held.items())
    figures.bars(held, groups=groups, ylabel="kB", number_format="{:.0f}", alt=f"{text}.", ax=ax)


explore(draw_ledger, batch=batches, r=lora_ranks, start={"batch": 128, "r": 8})

# %% [markdown]
# These are bytes of real tensors. Gradients of weights and averages shrink with the number of trained weights; the
# rest does not. One often reads "gradients only for $A$ and $B$". That holds for gradients of *weights*. To reach the
# first $B$, gradients must flow back through every frozen $W$ above it:

# %%
X, y = few
hidden = models[8][:2](X)
hidden.retain_grad()
F.cross_entropy(models[8][2:](hidden), y).backward()

# %%
hidden.grad.shape, models[8][2].base_layer.weight.grad

# %%
operations = [step_costs(model, X).step for model in (models[0], models[8])]
f"operations of a step: full {operations[0]:,}, r = 8 {operations[1]:,}"

# %% [markdown]
# The input of the frozen layer 2 has a gradient, for each of the 200 examples; its weight has none. So the work falls
# by a seventh, not by the factor in trained numbers. (For GPT-3,
# [Hu et al. 2021](https://arxiv.org/abs/2106.09685) report 25 % faster training, section 4.2.)
#
# For a 7B model at batch size 1, the QLoRA paper counts 26 MB of LoRA weights and 567 MB of input gradients; with
# gradient checkpointing (notebook 09), 18 MB a sequence ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314),
# section 2). And SmolLM2, by the ledger and as the GPU's peak was recorded:

# %%
pair = [records.runs("events_gpu_alone", method=method)[0] for method in ("full", "lora")]
ledgers = [f"{12 * run['trainable_parameters'] / 1e6:,.0f} MB" for run in pair]
peaks = [f"{run['peak_gpu_memory_bytes'] / 1e6:,.0f} MB" for run in pair]
seconds = [f"{run['seconds']['train']:.0f}" for run in pair]
compare(
    method=["full", "LoRA, r = 8"], gradients_and_averages=ledgers, peak_of_the_GPU=peaks, seconds=seconds
)

# %% [markdown]
# The ledger falls by 1,585 MB, the peak by about 1,200 MB. A peak is one moment, not a sum: gradients come in the
# backward pass while activations go, so the two never stand at full size together. Of LoRA's peak, the base weights are
# 538 MB; most of the rest are activations and *logits*: at each place, a score for every possible next token
# (notebook 06).
#
# And LoRA was *slower* there. On so small a model the GPU waits for many small products to be launched, and LoRA
# launches more.
#
# ### Exercise 05.4 · What Adam will hold (two stars, 6 minutes)
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
# ## 5. Can the update be added to W, and taken out again?
#
# After training, $W + \frac{\alpha}{r} BA$ can become one plain layer. We go on in 32 bits, as one would.

# %%
adapted, images = copy.deepcopy(careful).float(), rotated["test"][0].float()
merged = copy.deepcopy(adapted)
for i in (0, 2):
    merged[i] = merged_linear(adapted[i])

# %%
torch.allclose(merged(images), adapted(images), rtol=1e-4, atol=1e-4)

# %% [markdown]
# The same outputs, up to rounding. Is it as fast as the base? One token at a layer as large as SmolLM2's query layer,
# best of 200 rounds:

# %% tags=["measured"]
wide, token = nn.Linear(576, 576), torch.randn(1, 576)
unmerged = LoRALinear(wide, r=8, lora_alpha=16)
layers = {"base": wide, "merged": merged_linear(unmerged), "unmerged": unmerged}
timers = [Timer("layer(x)", globals={"layer": layer, "x": token}) for layer in layers.values()]
with torch.no_grad():
    rounds = [[timer.timeit(20).mean for timer in timers] for _ in range(200)]
times = [min(column) for column in zip(*rounds, strict=True)]
compare(layer=layers, microseconds=[f"{1e6 * t:.0f}" for t in times])

# %%
assert type(layers["merged"]) is type(wide) and layers["merged"].weight.shape == wide.weight.shape

# %% [markdown]
# Merged, it *is* a layer like the base, so it costs what the base costs. "LoRA has no latency" is true of the
# merged layer alone. Unmerged there are two products more.
#
# To get the base back one could subtract the update again.

# %%
predict("05.5")

# %%
W, update = base[2].weight.data.float(), adapted[2].delta_weight().data
back = (W + update) - update
f"same: {(back == W).float().mean():.0%}, size of the update: {update.norm() / W.norm():.1f} times that of W"

# %% [markdown]
# Our update is larger than $W$. In SmolLM2 a full fine-tune moved each weight matrix by 0.1 to 0.9 % of its size
# (`data/runs/delta_w_seed0.json`). The sliders set the number format and the size of the update. A swap adds an
# update and subtracts it again.


# %%
def errors(W, updates):
    now = W
    for update in updates:
        now = (now + update) - update
        yield ((now - W).double().norm() / W.double().norm()).item()


# %%
torch.manual_seed(0)
products = torch.randn(300, 64, 8, dtype=torch.double) @ torch.randn(300, 8, 64, dtype=torch.double)
updates = products * (base[2].weight.data.norm() / products.norm(dim=(1, 2), keepdim=True))  # as long as W


# %%
def curves_of(dtype, size):
    W, scaled = base[2].weight.data.to(dtype), (size * updates).to(dtype)
    same, different = errors(W, [scaled[0]] * 300), errors(W, scaled)
    return {"one adapter, again and again": list(same), "another adapter each time": list(different)}


# %%
sizes, formats = [0.003, 0.03, 0.3, 3.0], {"float32": torch.float32, "bfloat16": torch.bfloat16}
drifts = {(name, size): curves_of(dtype, size) for name, dtype in formats.items() for size in sizes}


# %%
def draw_drift(ax, number_format, update_size):
    curves = drifts[number_format, update_size]
    ends = "; ".join(f"{name} {curve[0]:.1e} and {curve[-1]:.1e}" for name, curve in curves.items())
    text = f"{number_format}, updates {update_size:g} times W. Relative error after 1 and 300 swaps: {ends}."
    figures.lines(curves, xlabel="swaps", ylabel="relative error of W", alt=text, ax=ax)


explore(draw_drift, number_format=list(formats), update_size=sizes)

# %% [markdown]
# One and the same adapter does its damage in the first swap: the rounded sum comes back each time. Different adapters
# push $W$ in different directions, and the error grows, about as the root of the number of swaps. In float32 it stays
# near a millionth or below. In bfloat16 it reaches 8 % at updates 3 times $W$. At 0.003, a size as in SmolLM2, it
# reaches 0.3 %: as much as an update.
#
# So do not subtract. `merged_linear` returns a *new* layer, and the base stays as it was:

# %%
torch.equal(adapted[2].base_layer.weight.data, W)

# %%
merged_right, base_right = [accuracy(model.double(), upright["test"]) for model in (merged, base)]
f"upright digits: merged {merged_right:.1%}, base {base_right:.1%}"

# %% [markdown]
# The merged model reads rotated digits and no longer upright ones. Some texts advise to discard $A$ and $B$ after
# merging. Then there is no way back, and no other adapter can take their place. Keep the base and the adapter files;
# make merged copies from them when you need speed.
#
# ### When not to use it
#
# **LoRA.** When a task is far from what the base knows, as with the inverted digits, full fine-tuning did better. If
# the model with its gradients and averages fits your memory, try that too. And with a base as small as ours, little is
# saved.
#
# **Merging.** Not while you still train, or switch between adapters.

# %%
progress("05")

# %% [markdown]
# ## Summary
#
# - Freeze all, wrap, then look at the list of what trains. The loss does not show a forgotten freeze.
# - Measure the rank: 4 did for the quarter turn, 16 not for inverted digits, 1 for a form in a language model on
#   patterns it had seen. Each method gets its own learning rate, and several seeds.
# - $\alpha$, $r$ and the learning rate all set the step. Tune them together.
# - Saved: gradients of weights, and Adam's averages. Not saved: weights, activations, gradients that flow through $W$.
# - Limit: one small network, 200 examples, 60 steps. Other tasks have other figures: measure yours the same way.
#
# **Next question:** digits are not language. Does it work on a real language model? (Notebook 06.)
