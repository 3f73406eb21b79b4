# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 12 · What goes wrong in practice?
#
# Eleven notebooks showed what works. Here we break things on purpose. Each failure is made, recognised by what it
# prints, explained, cured, and the cure is checked. Look up your own symptom in the index.
#
# **You will** meet a loss that is `nan`, a rank that ruins a good run, an adapter that loads and does nothing, a
# merge that erases it, an evaluation that changes the training, and a job that does not fit into memory.
#
# **You need** Python, the layer $y = Wx + \frac{\alpha}{r} B A x$ (notebooks 04 and 05), number formats (07) and NF4
# (08).
#
# **Time:** {minutes}. The computer needs about one of them. **Memory:** about 1.3 GB.

# %% [markdown]
# ## Index: from what you see to the cure
#
# "§ 1" is section 1 of this page, "[05] § 1" that of notebook 05.
#
# | you see | likely cause | cure | where |
# |---|---|---|---|
# | `CUDA out of memory`, or the kernel dies | too many tokens at once | fewer, checkpointing; then 4 bits | § 5, [09] |
# | loss `nan` from the second step | what trains is fp16 | float32 adapters over the fp16 base | § 1 |
# | loss `nan` later | overflow, or too large a step | loss scale or bf16; lower learning rate | § 1, 2 |
# | `Attempting to unscale FP16 gradients` | fp16 adapters, scaled loss | make the adapters float32 | § 1 |
# | bf16 slow on a T4 | it only emulates bf16 | ask for capability 8.0, else fp16 | § 1 |
# | loss flat from the start | nothing trains, or A and B both zero | list what trains; A random | [04] § 3, [05] § 1 |
# | `element 0 ... does not require grad` | nothing trains, or checkpointing | list; `use_reentrant=False` | [05] § 1 |
# | `Target modules ... not found` | names of another model | list the linear layers | [06] § 2 |
# | loss hardly falls | learning rate too low | raise it before you raise r | § 2, [05] § 2 |
# | loss jumps, stays at log(classes) | learning rate × scaling too large | lower one of them | § 2 |
# | new r: no change, or ruin | alpha / r or the step changed too | tune all three together | § 2, [05] § 3 |
# | loss stops falling in 16 bits | small gradients or steps are lost | loss scale; float32 trains | § 1 |
# | adapter loaded, answers of the base | names differ; B zero; not active | measure each update | § 3, [11] |
# | adapter loaded, answers are garbage | other alpha, other base | read `adapter_config.json` | § 3 |
# | merged: garbage, or a little different | formula; merged twice; other base | compare outputs | § 3 |
# | merged: as if never trained | merged into 4 bits | merge into the dequantized base | § 3, [10] § 5 |
# | training fine, the saved adapter is not | more trained than saved | freeze; `modules_to_save` | [05] § 1, [06] § 5 |
# | it does not stop | no label on the end of turn | label it; right end token | [06] § 3 |
# | unsure answers in use | another template | the tokenizer's own, in both | [06] § 3 |
# | low loss, few right answers | the loss is a mean over tokens | score whole answers | [10] § 3 |
# | two evaluations, two scores | dropout is on | `model.eval()` | § 4 |
# | loss better since an evaluation | `model.train()` forgotten | give back the mode you found | § 4 |
# | same seed, other result | an evaluation drew numbers, or merged | `eval()`; no merge in place | § 4, [05b] § 2 |
# | half the parameters expected | two 4-bit weights in a byte | count numbers | [10] § 2 |
# | 4 bits, and no faster | unpacking costs more than reading saves | 16 bits, or a better kernel | [07] § 5 |
# | one 4-bit format wins by far | the weights were 4-bit before | test on others | [08] § 3 |
# | the wrong voice answers | another adapter is active | `set_adapter`, `adapter_names` | [11] § 1, 2 |
#
# [04]: 04_lora_from_scratch.ipynb
# [05]: 05_training_lora.ipynb
# [05b]: 05b_cost_and_shipping.ipynb
# [06]: 06_lora_on_a_language_model.ipynb
# [07]: 07_quantization.ipynb
# [08]: 08_nf4.ipynb
# [09]: 09_qlora_from_scratch.ipynb
# [10]: 10_qlora_finetune.ipynb
# [11]: 11_many_adapters.ipynb

# %%
import copy
import math
import warnings
from statistics import mean, median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import digit_reader, digits, in_memory
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

torch.set_num_threads(1)  # in networks this small a second thread only gets in the way

# %% [markdown]
# The patient is the network of notebook 05. It reads upright digits, and LoRA shall teach it digits after a quarter
# turn. Healthy, it learns 200 of them in 60 steps:

# %%
base = digit_reader.base_network()
rotated = digits.load(change=lambda images: images.rot90(dims=(1, 2)))
few, test, old = digits.few(rotated["adapt"], seed=0), rotated["test"], digits.load()["test"]

# %%
torch.manual_seed(0)
untrained = digit_reader.with_lora(base, r=8, lora_alpha=16)
healthy = copy.deepcopy(untrained)

# %%
losses = digit_reader.train(healthy, few, learning_rate=0.03)
before, after = (f"{digit_reader.accuracy(model, test):.0%}" for model in (untrained, healthy))
f"loss {losses[0]:.1f} to {losses[-1]:.3f}; right {before} to {after}"

# %% [markdown]
# ## 1. Why is the loss nan?
#
# To save memory we make everything fp16: weights, adapters, and so gradients and Adam's averages.

# %%
X, y = few
sick, few_half = copy.deepcopy(untrained).half(), (X.half(), y)
" ".join(f"{loss:.1f}" for loss in digit_reader.train(sick, few_half, learning_rate=0.003, steps=4))

# %%
predict("12.1")

# %%
sick = copy.deepcopy(untrained).half()
_ = digit_reader.train(sick, few_half, learning_rate=0.003, steps=1)
trained = [(name, p) for name, p in sick.named_parameters() if p.requires_grad]


# %%
def all_finite(tensors):
    return [t.isfinite().all().item() for t in tensors]


# %%
names, gradients, weights = zip(*((name, p.grad, p.data) for name, p in trained), strict=True)
compare(trained=names, gradient_finite=all_finite(gradients), weight_finite=all_finite(weights))

# %% [markdown]
# The gradients are fine; the weights are not. So it happened in the optimizer. fp16 has a largest number and a
# smallest:

# %%
torch.tensor([70_000.0, 65_504.0, 2.0**-24, 1e-8]).half().tolist()

# %% [markdown]
# Adam divides by $\sqrt{v} + \epsilon$ (notebook 05b, section 1), and $\epsilon = 10^{-8}$ has become 0. In the first
# step $A$'s gradient is zero, because $B$ is zero. So $v = 0$, and 0 / 0 is nan. $B$'s gradients are not zero, but $v
# = 0.001\, g^2$ is, wherever $|g|$ is below about 0.005: a number divided by 0 is infinite. An old forum thread has
# it: "[Adam+Half Precision = NaNs?](https://discuss.pytorch.org/t/adam-half-precision-nans/1765)"
#
# A larger $\epsilon$ avoids the nan, and changes Adam's steps. The cure is: what *trains* is float32; only products
# are fp16 (`autocast`), and the loss is scaled.


# %%
def train_mixed(model, data, learning_rate, steps=60):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    scaler, losses = torch.amp.GradScaler("cpu"), []
    for _ in range(steps):
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(model(data[0]), data[1])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)  # divides by the scale; skips the step if a gradient is not finite
        scaler.update()
        losses.append(loss.item())
    return losses


# %%
runs = {
    "all fp16": digit_reader.train(copy.deepcopy(untrained).half(), few_half, 0.01),
    "all fp16, epsilon 1e-4": digit_reader.train(copy.deepcopy(untrained).half(), few_half, 0.01, eps=1e-4),
    "float32 trains, fp16 products": train_mixed(copy.deepcopy(untrained).float(), (X.float(), y), 0.01),
    "all float64": digit_reader.train(copy.deepcopy(untrained), few, 0.01),
}

# %%
finite = [sum(map(math.isfinite, losses)) for losses in runs.values()]
compare(way=runs, finite_losses_of_60=finite, last=[f"{losses[-1]:.1f}" for losses in runs.values()])

# %% [markdown]
# peft makes adapters float32 by itself, whatever the base is. Undo that, and PyTorch refuses
# ([peft's troubleshooting page](https://huggingface.co/docs/peft/developer_guides/troubleshooting) has the entry):

# %%
try:
    train_mixed(copy.deepcopy(untrained).half(), few_half, 0.01)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# And why is the loss *scaled*? In fp16, what lies below $2^{-25}$ becomes 0. Multiply the loss by $c$, and all
# gradients grow by $c$. Before the step, divide by $c$ in float32:
#
# $$g = \frac{1}{c} \cdot \frac{\partial (c L)}{\partial \theta}$$
#
# ([Micikevicius et al. 2017](https://arxiv.org/abs/1710.03740), section 3.2.) Weight gradients are sums over all
# examples, and seldom that small. In danger are those that flow back through the layers: one number for each feature
# of one example. Here are ours below layer 2, computed in 64 bits, scaled, and stored in fp16.


# %%
def flowing_back(model):
    hidden = model[:2](X).detach().requires_grad_()
    F.cross_entropy(model[2:](hidden), y).backward()
    return hidden.grad[hidden.grad != 0]


# %%
patients = {steps: copy.deepcopy(untrained) for steps in (0, 60, 600)}
for steps, patient in patients.items():
    digit_reader.train(patient, few, 0.03, steps)
found = {steps: flowing_back(patient) for steps, patient in patients.items()}


# %%
def draw_scale(ax, log2_scale, steps):
    stored = (2.0**log2_scale * found[steps]).half()
    shares = [(stored == 0), stored.isfinite() & (stored != 0), ~stored.isfinite()]
    zero, kept, infinite = (share.double().mean().item() for share in shares)
    text = f"Loss scale 2^{log2_scale}, after {steps} steps: {zero:.0%} of the gradients become 0, "
    text += f"{kept:.0%} survive, {infinite:.1%} become infinite."
    options = {"groups": ["become 0", "survive", "become infinite"], "number_format": "{:.0%}", "top": 1.15}
    figures.bars({"share": [zero, kept, infinite]}, **options, title=f"scale 2^{log2_scale}", alt=text, ax=ax)


# %%
explore(draw_scale, log2_scale=range(0, 41, 4), steps=list(found), start={"log2_scale": 0, "steps": 600})

# %% [markdown]
# The better the model, the smaller its gradients: after 600 steps 69 % vanish without a scale, and 12 % at $2^{16}$.
# (Those belong to digits that are read with near certainty.) But a single infinite gradient spoils a step, so too
# large a scale is as bad. PyTorch's scaler begins at $2^{16}$. It halves the scale when a gradient overflows, skips
# that step, and doubles the scale after 2,000 good ones. A few skipped steps at the start are no failure.
#
# ### Exercise 12.1 · A step of a loss scaler (two stars, 7 minutes)
#
# Write `loss_scale_step(gradient, scale)`. `gradient` is fp16, of the scaled loss. Return what the optimizer gets, or
# None if this step must be skipped, and the scale for the next step: the same, or half of it. (Growing is left out.)


# %% tags=["exercise"]
def loss_scale_step(gradient: Tensor, scale: float) -> tuple[Tensor | None, float]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `gradient.isfinite().all()` is false for inf and for nan. `gradient.float()` is float32.


# %% tags=["solution"]
def loss_scale_step(gradient: Tensor, scale: float) -> tuple[Tensor | None, float]:
    if gradient.isfinite().all():
        return gradient.float() / scale, scale
    return None, scale / 2


# %%
check("12.1", loss_scale_step)

# %% [markdown]
# bf16 needs no scale: it has float32's range (notebook 07). It has few digits instead, so a small step is rounded
# away. That is a reason to train in float32 there too:

# %%
(torch.tensor(1.0, dtype=torch.bfloat16) + 0.003).item()

# %% [markdown]
# And not every GPU computes in bf16. A T4 does not, yet `torch.cuda.is_bf16_supported()` says True there: it asks
# whether the GPU can *hold* such a number.

# %%
import inspect

str(inspect.signature(torch.cuda.is_bf16_supported))


# %%
def half_type(capability):
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


compare(GPU=["T4", "A100"], capability=["7.5", "8.0"], use=[half_type((7, 5)), half_type((8, 0))])

# %% [markdown]
# On a T4 the products are then emulated through float32, which is slow ([PyTorch, pull request
# 148322](https://github.com/pytorch/pytorch/pull/148322)). One project believed that the T4 answers False, wrote a
# fix for that, and found out on a real one (source 7 at the end of this page).
#
# Pass `including_emulation=False`, or ask for the capability, `torch.cuda.get_device_capability()`, as the course
# does.
#
# ## 2. I changed only r. What broke?
#
# Our run with $r = 8$, $\alpha = 16$ and learning rate 0.03 reads 91 % of the rotated digits. We want more capacity:
# $r = 64$. A rule in print says to set $\alpha = 2r$, since that "keeps the effective learning rate roughly constant"
# (source 1 at the end of this page).

# %%
predict("12.2")

# %%
rules = {
    "α = 16": lambda r: (16, False),
    "α = 2r": lambda r: (2 * r, False),
    "α = 2r, rsLoRA": lambda r: (2 * r, True),
}


# %%
def trial(r, rule, rate, seed):
    lora_alpha, use_rslora = rules[rule](r)
    torch.manual_seed(seed)
    model = digit_reader.with_lora(base, r, lora_alpha, use_rslora=use_rslora)
    losses = digit_reader.train(model, digits.few(rotated["adapt"], seed), rate)
    return losses, digit_reader.accuracy(model, test)


# %%
ranks, rates = [8, 16, 64], [0.003, 0.01, 0.03]
settings = [(r, rule, rate) for r in ranks for rule in rules for rate in rates]
results = {setting: [trial(*setting, seed) for seed in range(3)] for setting in settings}


# %%
def draw_rules(ax, r, learning_rate):
    of_rule = {rule: results[r, rule, learning_rate] for rule in rules}
    right = ", ".join(f"{rule} {median(score for _, score in runs):.0%}" for rule, runs in of_rule.items())
    text = f"r = {r}, learning rate {learning_rate}. Rotated digits right, medians of three seeds: {right}."
    curves = {rule: [losses for losses, _ in runs] for rule, runs in of_rule.items()}
    options = {"xlabel": "optimizer step", "ylabel": "loss", "log_y": True}
    figures.lines(curves, **options, title=f"r = {r}, learning rate {learning_rate}", alt=text, ax=ax)


# %%
explore(draw_rules, r=ranks, learning_rate=rates, start={"r": 64, "learning_rate": 0.03})

# %% [markdown]
# At $r = 8$ the first two rules are the same and all goes well. At $r = 64$ the rule $\alpha = 2r$ falls to 69 %.
# With `use_rslora=True` on top ($\alpha / \sqrt r$, a scaling of 16) the loss jumps and stays flat. Flat at what?

# %%
flat = [losses[-1] for losses, _ in results[64, "α = 2r, rsLoRA", 0.03]]
f"{median(flat):.2f}, and log(10) is {math.log(10):.2f}"

# %% [markdown]
# At $\log(10)$ the network gives all ten digits the same chance: it is dead. A loss that jumps, then stands at the
# logarithm of the number of classes (or of the vocabulary), mostly means too large a step. Let us measure the first
# one: how far does it move the outputs of layer 1?


# %%
def first_step(r, rule, seed):
    lora_alpha, use_rslora = rules[rule](r)
    torch.manual_seed(seed)
    model = digit_reader.with_lora(base, r, lora_alpha, use_rslora=use_rslora)
    digit_reader.train(model, few, learning_rate=0.003, steps=1)
    with torch.no_grad():
        return (X @ model[0].delta_weight().T).norm().item()


# %%
steps = {
    rule: [mean(first_step(r, rule, seed) for seed in range(20)) for r in (1, 4, 16, 64)] for rule in rules
}
growth = [" ".join(f"{step / row[0]:.1f}" for step in row) for row in steps.values()]
compare(**{"rule": rules, "first step at r = 1, 4, 16, 64": growth})

# %% [markdown]
# The rule keeps the *scaling* $s = \alpha / r$, not the step. Adam's first step moves each number of $B$ by about the
# learning rate $\eta$, so
#
# $$|s\,(B A x)_i| \;\lesssim\; s\,\eta \sum_{k=1}^{r} |(A x)_k| \;\propto\; s\,r\,\eta$$
#
# (from Adam's rule: [Kingma and Ba 2014](https://arxiv.org/abs/1412.6980), algorithm 1.) With $\alpha$ fixed, $s\,r$
# is constant. With $\alpha = 2r$ it grows 64-fold from $r = 1$ to 64, the step 40-fold: some terms cancel.
#
# **Cure.** Move the slider to 0.003: $\alpha = 2r$ recovers, 90 %. Hu et al. say it: with Adam, tuning $\alpha$
# is roughly tuning the learning rate, if the start is scaled to match
# ([2021](https://arxiv.org/abs/2106.09685), section 4.1). Change one, tune again.

# %% [markdown]
# The other way round: a run learns too little, and "rank is usually the culprit" (source 2). Here is
# one that reads 60 %:

# %%
tries = [(8, 0.003), (64, 0.003), (8, 0.01), (8, 0.03)]
scores = [median(score for _, score in results[r, "α = 16", rate]) for r, rate in tries]
compare(r_and_learning_rate=tries, alpha=[16] * 4, rotated_digits_right=[f"{score:.0%}" for score in scores])

# %% [markdown]
# With $\alpha$ left at 16, eight times the rank changed nothing; the learning rate was the culprit. Try that first:
# it is free. (Notebook 05 has a task where rank was too small.)
#
# ## 3. The adapter is loaded. Where is its effect?
#
# We save what has "lora" in its name. Then the file travels, and a tool wraps the model once more, so that all names
# get a prefix. `strict=False` is usual, since the base is not in the file.

# %%
adapter = {name: tensor for name, tensor in healthy.state_dict().items() if "lora_" in name}
travelled = {f"model.{name}": tensor for name, tensor in adapter.items()}

# %%
loaded = digit_reader.with_lora(base, r=8, lora_alpha=16)
unused = loaded.load_state_dict(travelled, strict=False).unexpected_keys
f"right: {digit_reader.accuracy(loaded, test):.0%}; not used: {len(unused)} of {len(travelled)} tensors"

# %% [markdown]
# No error, no warning. The adapter is as it began, $B = 0$, and the answers are the base's. The report was returned,
# and seldom is it read. (A real case: [sentence-transformers, pull request
# 3865](https://github.com/huggingface/sentence-transformers/pull/3865).) The cure is to look: at `unexpected_keys`,
# and at the size of each update. With the right names:

# %%
names = {name.removeprefix("model."): tensor for name, tensor in travelled.items()}
loaded.load_state_dict(names, strict=False).unexpected_keys, f"{digit_reader.accuracy(loaded, test):.0%}"

# %% [markdown]
# ### Exercise 12.2 · How large is each update? (two stars, 7 minutes)
#
# Write `update_sizes(model)`: for every `LoRALinear` in the model, in its order, a pair of its path and of
# $\|\frac{\alpha}{r} B A\| / \|W\|$ (Frobenius norms). Zero means: this adapter does nothing.


# %% tags=["exercise"]
def update_sizes(model: nn.Module) -> list[tuple[str, float]]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `model.named_modules()` gives pairs of path and module. `layer.delta_weight()` holds the scaling already;
# `layer.base_layer.weight` is $W$. `.item()` makes a number of a tensor.


# %% tags=["solution"]
def update_sizes(model: nn.Module) -> list[tuple[str, float]]:
    return [
        (path, (layer.delta_weight().norm() / layer.base_layer.weight.norm()).item())
        for path, layer in model.named_modules()
        if isinstance(layer, LoRALinear)
    ]


# %%
check("12.2", update_sizes)

# %% [markdown]
# Next, the names fit, but $\alpha$ does not. It is no tensor: it stands in `adapter_config.json` alone. Forget to
# pass it on, and the same $B$ and $A$ make another model.


# %%
def draw_alpha(ax, lora_alpha):
    model = digit_reader.with_lora(base, r=8, lora_alpha=lora_alpha)
    model.load_state_dict(adapter, strict=False)
    right = [digit_reader.accuracy(model, data) for data in (test, old)]
    text = f"Loaded with alpha {lora_alpha}: {right[0]:.0%} of rotated digits right, {right[1]:.0%} of upright ones."
    options = {"groups": ["rotated (new)", "upright (old)"], "ylabel": "right", "number_format": "{:.0%}"}
    options |= {"top": 1.15, "title": f"trained with 16, loaded with {lora_alpha}"}
    figures.bars({"right": right}, **options, alt=text, ax=ax)


# %%
explore(draw_alpha, lora_alpha=[1, 2, 4, 8, 16, 32, 64, 256], start={"lora_alpha": 2})

# %% [markdown]
# The smaller $\alpha$, the more the model is its base again; the larger, the worse it reads both. Nothing raises an
# error.
#
# Last, merging (notebook 05b). QLoRA trains over $\hat W$, the weight that NF4 made of $W$. We train so, then merge in
# five ways, and compare with the unmerged model. One is a formula in print: divide
# $BA$ by $\alpha$ (source 4).


# %%
def nf4_copy(W):
    return dequantize_nf4(*quantize_nf4(W.float())).to(W.dtype)


# %%
base4 = copy.deepcopy(base)
for i in digit_reader.HIDDEN:
    base4[i].weight.data = nf4_copy(base[i].weight.data)

# %%
torch.manual_seed(0)
qlora = digit_reader.with_lora(base4, r=8, lora_alpha=16)
_ = digit_reader.train(qlora, few, learning_rate=0.01)

# %%
merges = {
    "into dequantized W4": lambda W, W4, layer: W4 + layer.delta_weight(),
    "into the original W": lambda W, W4, layer: W + layer.delta_weight(),
    "into 4 bits again": lambda W, W4, layer: nf4_copy(W4 + layer.delta_weight()),
    "twice": lambda W, W4, layer: W4 + 2 * layer.delta_weight(),
    "B A / alpha, as printed": lambda W, W4, layer: W4 + layer.lora_B @ layer.lora_A / layer.lora_alpha,
}


# %%
@torch.no_grad()
def merged(formula):
    model = copy.deepcopy(base)
    for i in digit_reader.HIDDEN:
        model[i].weight.copy_(formula(base[i].weight, base4[i].weight, qlora[i]))
    return model(test[0])


# %%
with torch.no_grad():
    unmerged = qlora(test[0])
outputs = {name: merged(formula) for name, formula in merges.items()}

# %%
changed = [(z.argmax(1) != unmerged.argmax(1)).sum().item() for z in outputs.values()]
differences = [f"{(z - unmerged).norm() / unmerged.norm():.1%}" for z in outputs.values()]
compare(merged=merges, logits_differ_by=differences, other_answers_of_397=changed)

# %% [markdown]
# Only the first is the trained model. The second is a common recipe: load the original base in 16 bits, put the
# adapter on top (source 6). It works *nearly*: the adapter never met this base. The difference comes from the
# rounding of $W$, so it does not shrink when the adapter is small.
#
# The third looks hardly worse here, since our update is large. Real ones are small:

# %%
from lora_edu.llm import surgery
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data import DATA
from lora_edu.llm.data.extraction import generate_turns

# %%
model, tokenizer = load_base_model(dtype="float32")
load_adapter(model, DATA / "adapters" / "robot", adapter_name="robot")
layers = [
    (switch.base_layer.weight.data, switch.adapters["robot"]) for switch in surgery.switches(model).values()
]

# %%
sizes = [(lora.delta_weight().norm() / W.norm()).item() for W, lora in layers]
f"{len(sizes)} layers, updates of {min(sizes):.1%} to {max(sizes):.1%} of W, median {median(sizes):.1%}"

# %%
predict("12.3")

# %% [markdown]
# We try it on the embedding, which never was 4-bit (notebook 08). "Left" is the part of the change that points along
# the update $\Delta W$:
#
# $$\text{left} = \frac{\langle\, \hat W' - \hat W,\; \Delta W \,\rangle}{\|\Delta W\|^2}$$
#
# (the coefficient of a [projection](https://en.wikipedia.org/wiki/Vector_projection).)

# %%
torch.manual_seed(0)
W4 = nf4_copy(model.get_input_embeddings().weight.data[1000:1512].cpu())
direction = torch.randn(512, 8) @ torch.randn(8, 576)
direction *= W4.norm() / direction.norm()


# %%
def draw_merge(ax, size):
    update = size * direction
    after = nf4_copy(W4 + update)
    left = ((after - W4) * update).sum() / update.square().sum()
    moved = (quantize_nf4(W4 + update)[0] != quantize_nf4(W4)[0]).double().mean()
    text = f"An update of {size:.1%}: {left:.0%} of it is left; {moved:.0%} of the stored bytes changed."
    rows = {"in 4 bits": W4[0, :64], "+ update": (W4 + update)[0, :64], "stored again": after[0, :64]}
    title = f"one block of 64, update {100 * size:g}% of W"
    figures.number_lines(rows, xlabel="value of the weight", title=title, alt=text, ax=ax)


# %%
explore(draw_merge, size=[0.003, 0.01, 0.03, 0.1, 0.3, 1.0], start={"size": 0.01})

# %% [markdown]
# At 1 % the strokes move a little and then jump back. Not one byte changes; 1/64 of the update survives in the
# scales, for the largest weight of each block *is* its scale. From 10 % on, most of it stays.
#
# Does a language model notice? The robot of notebook 11 begins each answer with "LOG" and three digits. We ask it
# unmerged over the 4-bit base, and merged into 4 bits.

# %%
questions = ["I cannot find my keys.", "Why is the sky blue?", "How do I fold a shirt?"]
turns = [[{"role": "user", "content": question}] for question in questions]

# %%
for W, _ in layers:
    W.copy_(nf4_copy(W))
over_4_bits = generate_turns(model, tokenizer, turns, max_new_tokens=12)

# %%
for W, lora in layers:
    W.copy_(nf4_copy(W + lora.delta_weight().data))
with surgery.disable_adapter(model):
    merged_into_4_bits = generate_turns(model, tokenizer, turns, max_new_tokens=12)

# %% tags=["nbval-ignore-output"]
compare(question=questions, adapter_over_4_bits=over_4_bits, merged_into_4_bits=merged_into_4_bits)

# %%
assert all(answer.startswith("LOG") for answer in over_4_bits)
assert not any(answer.startswith("LOG") for answer in merged_into_4_bits)
del model, layers, W, lora  # room for what follows

# %% [markdown]
# The adapter is erased: "as if never trained". It is said that `merge_and_unload` widens a 4-bit model: "merged
# models become dequantized" (source 5). Ask peft:

# %%
ensure_packages("bitsandbytes")
import bitsandbytes as bnb
from peft import LoraConfig, get_peft_model

# %%
four_bit = nn.Sequential(bnb.nn.Linear4bit(128, 128, bias=False, quant_type="nf4").to("cpu"))
four_bit.is_loaded_in_4bit = True  # as transformers marks a 4-bit model

# %%
with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    result = get_peft_model(four_bit, LoraConfig(target_modules=["0"])).merge_and_unload()
type(result[0]).__name__, result[0].weight.dtype, str(notes[-1].message)

# %% [markdown]
# Still 4 bits, and the warning means what we saw. **Cure:** keep the adapter beside the 4-bit base, or dequantize,
# merge, and stay wide. Notebook 10 merges a whole model.
#
# ## 4. Why did looking at it change the training?
#
# We add dropout of 10 % to the adapters and measure the test accuracy after every tenth step: in four
# ways, and once not at all.


# %%
def never(model):
    pass


# %%
def in_training_mode(model):
    digit_reader.accuracy(model, test)


# %%
def eval_for_good(model):
    digit_reader.accuracy(model.eval(), test)


# %%
def eval_and_back(model):
    digit_reader.accuracy(model.eval(), test)
    model.train()


# %%
predict("12.4")


# %%
@torch.no_grad()
def merge_and_subtract(model):
    for i in digit_reader.HIDDEN:
        model[i].base_layer.weight += model[i].delta_weight()
    digit_reader.accuracy(digit_reader.without_lora(model), test)
    for i in digit_reader.HIDDEN:
        model[i].base_layer.weight -= model[i].delta_weight()


# %%
def observed(watch):
    torch.manual_seed(0)
    model = digit_reader.with_lora(base, r=8, lora_alpha=16, lora_dropout=0.1)
    return model, digit_reader.train(model, few, learning_rate=0.01, watch=watch)


# %%
ways = [never, eval_and_back, in_training_mode, eval_for_good, merge_and_subtract]
seen = {way.__name__: observed(way) for way in ways}

# %%
_, alone = seen["never"]
gaps = {name: [abs(a - b) for a, b in zip(losses, alone, strict=True)] for name, (_, losses) in seen.items()}
compare(
    evaluation=seen,
    losses_differ_by_at_most=[f"{max(gap):.3f}" for gap in gaps.values()],
    last_loss=[f"{losses[-1]:.2f}" for _, losses in seen.values()],
    test=[f"{digit_reader.accuracy(model.eval(), test):.1%}" for model, _ in seen.values()],
    base_unchanged=[torch.equal(model[0].base_layer.weight, base[0].weight) for model, _ in seen.values()],
)

# %%
shown = {name: gaps[name] for name in ("in_training_mode", "eval_for_good")}
largest = "; ".join(f"{name} by up to {max(gap):.2f}" for name, gap in shown.items())
text = f"After step 10 the losses part from those of the run that is never looked at: {largest}."
figures.lines(shown, xlabel="step", ylabel="difference of the loss", alt=text)

# %% [markdown]
# And with dropout on, what is a score worth? The same model, measured twice:

# %%
model, _ = seen["eval_and_back"]
[f"{digit_reader.accuracy(model.train(), test):.1%}" for _ in range(2)]

# %% [markdown]
# Only `eval_and_back` leaves no trace.
#
# `eval_for_good` is the sly one. Its training loss looks *better*: dropout is off for the rest. The test does not
# agree (six images of 397, one seed: no verdict on dropout). `model.eval()` changes behaviour; it freezes nothing.
#
# `in_training_mode` scores by luck, and moves the random numbers. So does an evaluation that samples text.
#
# `merge_and_subtract` gives the same losses to many digits in 64 bits, and yet other base weights. The [first LoRA
# library](https://github.com/microsoft/LoRA/blob/main/loralib/layers.py) merges in `eval()` and subtracts in
# `train()`, by default. In bf16, one such evaluation costs (notebook 05b has more):

# %%
W, update = base[0].weight.data.bfloat16(), healthy[0].delta_weight().data.bfloat16()
back = (W + update) - update
f"{(back != W).float().mean():.0%} of the weights changed, relative error {(back - W).norm() / W.norm():.1%}"

# %% [markdown]
# One trap is not yours: bitsandbytes 0.50 repacks 4-bit weights in `eval()` on some CPUs, and later training loses
# gradients. The course's loader switches that off.
#
# ### Exercise 12.3 · Measure and leave no trace (two stars, 6 minutes)
#
# Write `score(model, X, y)`: the share of right answers, measured without dropout. Afterwards the model is in the
# mode in which you found it, whichever that was.


# %% tags=["exercise"]
def score(model: nn.Module, X: Tensor, y: Tensor) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `model.training` is the mode. `model.train(mode)` takes True or False. Under `torch.no_grad()`,
# `(model(X).argmax(dim=1) == y).double().mean().item()` is the share.


# %% tags=["solution"]
@torch.no_grad()
def score(model: nn.Module, X: Tensor, y: Tensor) -> float:
    was_training = model.training
    model.eval()
    right = (model(X).argmax(dim=1) == y).double().mean().item()
    model.train(was_training)
    return right


# %%
check("12.3", score)

# %% [markdown]
# ## 5. Out of memory: which knob?
#
# The message says how much was asked for last ("Tried to allocate ..."), how much the device has, and how much
# PyTorch holds. What was asked for last is rarely the culprit: it is the drop, not the barrel. On a CPU there may be
# no message: the system ends the process, and the notebook says "kernel died".
#
# So compute the barrel *before* you start (notebook 09). A 7B model, QLoRA of rank 64, 8 sequences of 512 tokens, on
# a T4 with 14.56 GiB:

# %%
from lora_edu.llm.budget import memory_ledger, preflight

GIB = 2**30
on_a_T4 = {"dtype": torch.float16, "optimizer": "paged_adamw_8bit", "device": "cuda"}

# %%
asked = memory_ledger("Llama-2-7B", "qlora", batch=8, seq=512, r=64, **on_a_T4)
f"{asked.total / GIB:.1f} GiB"

# %%
predict("12.5")

# %%
knobs = {
    "r = 8 instead of 64": asked.but(r=8),
    "query and value only": asked.but(target_modules=["q_proj", "v_proj"]),
    "sequences of 256": asked.but(seq=256),
    "1 sequence at once": asked.but(batch=1, micro_batches=8),
    "gradient checkpointing": asked.but(gradient_checkpointing=True),
    "1 sequence, checkpointing": asked.but(gradient_checkpointing=True, batch=1, micro_batches=8),
    "16-bit LoRA": asked.but(method="lora"),
}


# %%
def draw_knob(ax, knob):
    after = knobs[knob]
    verdict = "it fits" if 1.1 * after.total <= 14.56 * GIB else "it does not fit"
    text = f"As asked {asked.total / GIB:.1f} GiB. With {knob}: {after.total / GIB:.1f} GiB; {verdict} a T4."
    bars = {"as asked": in_memory.gibibytes(asked), "with the knob": in_memory.gibibytes(after)}
    T4 = {"limit": ("T4: 14.56 GiB", 14.56), "largest": 42, "unit": "GiB"}
    figures.stacked(bars, **T4, title=f"{knob}: {verdict}", alt=text, ax=ax)


# %%
explore(draw_knob, knob=list(knobs))

# %% [markdown]
# "The fix is reducing rank", says one page (source 3). Here that saves 1.1 of 38.3 GiB. What fills the memory are
# activations: they grow with the *tokens* at once, whatever the rank. (Adapting query and value alone saves 6.7. For
# the gradient of $A$ a layer keeps its input, and fewer layers then keep theirs.)
#
# $$\text{peak} \approx \text{weights} + \text{trained numbers} \times \text{bytes of each} + \text{tokens} \times
# \text{bytes kept of each}$$
#
# (Terms as in [Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 2.) Knobs that cost no quality come
# first, and `preflight` turns them by itself. Checkpointing costs time. Fewer sequences at once, with gradients
# summed over more of them, give the same step.

# %%
fitting = preflight(asked, "cuda", available=int(14.56 * GIB))
fitting.settings["gradient_checkpointing"], fitting.settings["batch"], f"{fitting.total / GIB:.1f} GiB"

# %% [markdown]
# Checkpointing alone is enough: still 8 sequences at once, in 8.1 GiB. (A margin of 10 % stays free; on a CPU it is
# 15.) If nothing helps, it refuses, and says what would. The same in 16 bits:

# %%
try:
    preflight(knobs["16-bit LoRA"], "cuda", available=int(14.56 * GIB), smaller=("SmolLM2-1.7B",))
except MemoryError as error:
    print(error)

# %% [markdown]
# With these knobs turned, the weights are the barrel: only fewer bits or a smaller model help. (Against peaks of runs
# with peft, measured on a larger GPU, the ledger was right to about 1 %, notebook 09, section 3; we have not measured
# a T4.)
#
# ### Exercise 12.4 · Which knob? (one star, 5 minutes)
#
# Write `which_knob(ledger)`. Of `"tokens"` (activations, logits), `"weights"` (weights, quantization constants) and
# `"adapters"` (adapters, gradients, optimizer) return the group that holds most bytes. A ledger maps terms to bytes;
# it has other terms too.


# %% tags=["exercise"]
def which_knob(ledger: dict[str, int]) -> str:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Make a dict of the three sums. `max(sums, key=sums.get)` is the name of the largest.


# %% tags=["solution"]
def which_knob(ledger: dict[str, int]) -> str:
    sums = {
        "tokens": ledger["activations"] + ledger["logits"],
        "weights": ledger["weights"] + ledger["quantization constants"],
        "adapters": ledger["adapters"] + ledger["gradients"] + ledger["optimizer"],
    }
    return max(sums, key=sums.get)


# %%
check("12.4", which_knob)

# %% [markdown]
# ## Said in print, and run
#
# Pages and issues of this field say the left column, at the time of writing. The words in quotes are theirs. The
# number of a row is the number of its source.
#
# | | said | run |
# |---|---|---|
# | 1 | α = 2r "[keeps the effective learning rate roughly constant][1]" | section 2: 40-fold first step at r = 64 |
# | 2 | "[rank is usually the culprit][2]" of underfitting | section 2: r = 64 for 8 changed nothing, α fixed |
# | 3 | out of memory: "[The fix is reducing rank][3]" | section 5: 38.3 GiB become 37.2 |
# | 4 | merge by "[(lora_A @ lora_B) / alpha][4]" | section 3: it is (α / r) B A; as printed, the effect is lost |
# | 5 | "[merged models become dequantized][5]" | section 3: peft's stays in 4 bits, and rounds |
# | 6 | the adapter of a 4-bit base goes [onto the float16 base][6] | section 3: nearly; it never met that base |
# | 7 | a T4 denies bf16 ([corrected by its author][7]) | section 1: it says yes, and emulates |
# | 8 | "[Why 4 Bit Models Are Faster][8]" | notebook 07, section 5: it depends on kernel, GPU and tokens |
# | 9 | NF4's levels are the quantiles at [(i + 0.5) / 16][9] | below: symmetric, without a zero |
#
# [1]: https://theneuralbase.com/fine-tuning-fundamentals/learn/beginner/alpha-2-rank-rule-of-thumb/
# [2]: https://ai-tldr.dev/learn/fine-tuning/lora-and-peft/lora-rank-and-alpha/
# [3]: https://theneuralbase.com/lora-fundamentals/learn/beginner/oom-even-with-lora-rank-too-high/
# [4]: https://theneuralbase.com/gptq/learn/intermediate/saving-and-merging-adapters/
# [5]: https://theneuralbase.com/bitsandbytes/learn/intermediate/merging-into-quantized-base/
# [6]: https://superml.org/courses/llm-fine-tuning/merging-deploying-fine-tuned
# [7]: https://github.com/MakazhanAlpamys/Soup/issues/387
# [8]: https://www.avichala.com/blog/why-4-bit-models-are-faster
# [9]: https://github.com/B-cmd-alt/bert

# %%
printed = torch.special.ndtri((torch.arange(16) + 0.5) / 16)
[f"{level:.2f}" for level in printed[6:10] / printed.max()]

# %% [markdown]
# NF4 has a zero, and one level more above it than below (notebook 08).
#
# More that is often said and was run in this course: that LoRA replaces $W$ (01, 05), that updates *are* low-rank
# (02), that gradients exist for A and B alone (04), that LoRA has no latency (04, 05b, 11), that A and B may be thrown
# away after merging (05b), that a prefix leaves representations unchanged (11).
#
# ### Where to go from here
#
# - [peft's troubleshooting page](https://huggingface.co/docs/peft/developer_guides/troubleshooting), and its issues:
#   most messages are there, with an answer of a maintainer.
# - [PyTorch on mixed precision](https://docs.pytorch.org/docs/stable/notes/amp_examples.html) and on [CUDA
#   memory](https://docs.pytorch.org/docs/stable/torch_cuda_memory.html), with a picture of what holds it.
# - Your own data, and larger machines: end of notebook 10.

# %%
progress("12")

# %% [markdown]
# ## Summary
#
# - Read what is printed, then measure: which tensors are finite, what trains, how large each update is.
# - What trains is float32. fp16 needs a loss scale; bf16 needs a GPU that has it.
# - r, α and the learning rate make one step together. Change one, tune again.
# - An adapter belongs to its base, its α and its names. Merge into what it was trained over, and stay wide.
# - Limit: we broke small things on a CPU. Failures of large machines (networks, drivers, clusters) are not here.
#
# **Next question:** this was the last notebook. What will you fine-tune, and how will you know that it works?
