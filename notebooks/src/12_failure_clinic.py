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
# Here we break things on purpose: each failure is made, recognised by what it prints, explained and cured. Look up your
# own symptom in the index.
#
# **You will** meet a loss that is `nan`, a model that cannot stop, an adapter that loads and does nothing, an
# evaluation that changes the training, and a job that does not fit into memory.
#
# **You need** the layer $y = Wx + \frac{\alpha}{r} B A x$ (notebooks [04](04_lora_from_scratch.ipynb) and
# [05](05_training_lora.ipynb)). The index serves without it.
#
# **Time:** {minutes}. The computer needs about two of them. **Memory:** about 1.3 GiB.

# %% [markdown]
# ## Index: from what you see to the cure
#
# *Core: look up, do not learn by heart.*
#
# "§ 1" is section 1 of this page, "[05](05_training_lora.ipynb) § 1" that of notebook 05.

# %% [markdown] tags=["slide-skip"]
# ### It does not start, or it is gone
#
# | you see | likely cause | cure | where |
# |---|---|---|---|
# | `Found an incompatible version of torchao` | Colab's is old | `pip install -U torchao` | [PR][torchao] |
# | `401`, `gated repo` | licence not accepted, or no token | accept it on the Hub, then `login()` | [Hub][gated] |
# | session and files are gone | idle machines are ended | copy to Drive; resume | [10], [FAQ][colab] |
# | `CUDA out of memory`, or the kernel dies | too many tokens at once | fewer, checkpointing; then 4 bits | § 5, [09] |
# | out of memory while it *answers* | the cache grows with rows × tokens | fewer rows at once | § 5 |
# | `Target modules ... not found` | names of another model | list the linear layers | [06] § 2 |
# | `element 0 ... does not require grad` | nothing trains, or checkpointing | list; `use_reentrant=False` | [05] § 1 |
# | bf16 slow on a T4 | it only emulates bf16 | ask for capability 8.0, else fp16 | § 1 |
#
# ### The loss looks wrong
#
# | you see | likely cause | cure | where |
# |---|---|---|---|
# | `nan` from the second step | what trains is fp16 | float32 adapters over the fp16 base | § 1 |
# | `nan` later | overflow, or too large a step | loss scale or bf16; lower rate | § 1 |
# | `Attempting to unscale FP16 gradients` | fp16 adapters, scaled loss | make the adapters float32 | § 1 |
# | flat from the start | nothing trains, or A and B both zero | list what trains; A random | [04] § 3, [05] § 1 |
# | hardly falls | learning rate too low | raise it before you raise r | § 1, [05] § 2 |
# | jumps, stays at log(classes) | learning rate × scaling too large | lower one of them | § 1 |
# | a large model diverges | the rate of a small one | 2e-4 for 7B and 13B ([QLoRA][qlora], table 9) | [10] |
# | new r: no change, or ruin | α / r or the step changed too | tune all three together | § 1, [05] § 3 |
# | better since an evaluation | `model.train()` forgotten | give back the mode you found | § 4 |
# | same seed, other result | an evaluation drew numbers, or merged | `eval()`; no merge in place | § 4, [05b] § 2 |
#
# ### The answers look wrong
#
# | you see | likely cause | cure | where |
# |---|---|---|---|
# | it does not stop | end of turn has no label: pad = eos | a pad token of its own; own labels | § 2, [06] § 3 |
# | it does not stop, Gemma | `<end_of_turn>` is not its `eos_token` | label it; give both to `generate` | § 2 |
# | two beginnings of text | template and tokenizer both write BOS | `add_special_tokens=False` | § 2 |
# | worse in a batch; `right-padding was detected` | padded on the right | `padding_side="left"` | § 2 |
# | unsure answers in use | another template than in training | the tokenizer's own, in both | [06] § 3 |
# | low loss, few right answers | the loss is a mean over tokens | score whole answers | [10] |
# | those of the base | names differ; B zero; not active | measure each update | § 3, [11] |
# | garbage | other α, other base | read `adapter_config.json` | § 3 |
# | merged: as if never trained | merged into 4 bits | merge into the dequantized base | [10] § 5 |
# | merged: a little different | not the base it was trained over | compare outputs | [10] § 5 |
# | training fine, the saved adapter is not | more trained than saved | freeze; `modules_to_save` | [05] § 1, [06] § 5 |
# | two evaluations, two scores | dropout is on | `model.eval()` | § 4 |
# | half the parameters expected | two 4-bit weights in a byte | count numbers | [10] |
# | 4 bits, and no faster | unpacking costs more than reading saves | 16 bits, or a better kernel | [07] § 5 |
# | the wrong voice | another adapter is active | `set_adapter`, `adapter_names` | [11] § 1, 2 |
#
# [04]: 04_lora_from_scratch.ipynb
# [05]: 05_training_lora.ipynb
# [05b]: 05b_cost_and_shipping.ipynb
# [06]: 06_lora_on_a_language_model.ipynb
# [07]: 07_quantization.ipynb
# [09]: 09_qlora_from_scratch.ipynb
# [10]: 10_qlora_finetune.ipynb
# [11]: 11_many_adapters.ipynb
# [torchao]: https://github.com/unslothai/notebooks/pull/258
# [gated]: https://huggingface.co/docs/hub/models-gated
# [colab]: https://research.google.com/colaboratory/faq.html
# [qlora]: https://arxiv.org/abs/2305.14314

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import clinic, digit_reader, digits, in_memory
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.budget import memory_ledger, preflight
from lora_edu.methods.lora import LoRALinear

torch.set_num_threads(1)  # in networks this small a second thread only gets in the way

# %% [markdown]
# The patient of sections 1, 3 and 4 is the network of notebook 05, which reads upright digits. LoRA teaches it digits
# after a quarter turn:

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
# ## 1. Why is the loss nan, or flat?
#
# *Deeper: read it when you meet it.*
#
# To save memory we make everything fp16: weights, adapters, and so gradients and Adam's averages.

# %%
X, y = few
few_half = X.half(), y
sick = copy.deepcopy(untrained).half()
" ".join(f"{loss:.1f}" for loss in digit_reader.train(sick, few_half, learning_rate=0.003, steps=4))

# %%
predict("12.1")

# %%
sick = copy.deepcopy(untrained).half()
_ = digit_reader.train(sick, few_half, learning_rate=0.003, steps=1)
trained = {name: p for name, p in sick.named_parameters() if p.requires_grad}

# %%
compare(
    trained=list(trained),
    gradient_finite=[p.grad.isfinite().all().item() for p in trained.values()],
    weight_finite=[p.isfinite().all().item() for p in trained.values()],
)

# %% [markdown]
# The gradients are fine, the weights are not. So it happened in the optimizer. fp16 has a largest and a smallest
# number:

# %%
torch.tensor([70_000.0, 65_504.0, 2.0**-24, 1e-8]).half().tolist()

# %% [markdown]
# Adam divides by $\sqrt{v} + \epsilon$ (notebook [05b](05b_cost_and_shipping.ipynb)), and $\epsilon = 10^{-8}$ has
# become 0. $A$'s first gradient is zero, because $B$ is. So $v = 0$, and 0 / 0 is nan. $B$'s gradients are not zero,
# but $v = 0.001\, g^2$ is where $|g|$ is below about 0.005.
#
# **Cure.** What *trains* is float32; only products are fp16, and the loss is scaled.


# %%
def mixed_step(model, optimizer, scaler):
    with torch.autocast("cpu", torch.float16):
        loss = F.cross_entropy(model(X.float()), y)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # divides by the scale; skips the step if a gradient is not finite
    scaler.update()
    return loss.item()


# %%
def train_mixed(model, steps=60):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    return [mixed_step(model, optimizer, scaler) for _ in range(steps)]


# %%
runs = {
    "all fp16": digit_reader.train(copy.deepcopy(untrained).half(), few_half, 0.01),
    "float32 trains, fp16 products": train_mixed(copy.deepcopy(untrained).float()),
    "all float64": digit_reader.train(copy.deepcopy(untrained), few, 0.01),
}
finite = [sum(map(math.isfinite, losses)) for losses in runs.values()]
compare(way=list(runs), finite_losses_of_60=finite, last=[f"{losses[-1]:.1f}" for losses in runs.values()])

# %% [markdown]
# peft makes adapters float32 by itself, whatever the base is. Undo that, and PyTorch refuses ([peft's
# troubleshooting page](https://huggingface.co/docs/peft/developer_guides/troubleshooting) has the entry):

# %%
try:
    train_mixed(copy.deepcopy(untrained).half())
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# Why is the loss *scaled*? In fp16, what lies below $2^{-25}$ becomes 0. So multiply the loss by $c$, and before the
# step divide by $c$ in float32 ([Micikevicius et al. 2017](https://arxiv.org/abs/1710.03740),
# section 3.2):
#
# $$g = \frac{1}{c} \cdot \frac{\partial (c L)}{\partial \theta}$$
#
# Here are the gradients that flow back below layer 2, computed in 64 bits, scaled, and stored in fp16.

# %%
patients = {steps: copy.deepcopy(untrained) for steps in (0, 60, 600)}
for steps, patient in patients.items():
    digit_reader.train(patient, few, 0.03, steps)
found = {steps: digit_reader.flowing_back(patient, few) for steps, patient in patients.items()}


# %%
def draw_scale(ax, log2_scale, steps):
    stored = (2.0**log2_scale * found[steps]).half()
    shares = [(stored == 0), stored.isfinite() & (stored != 0), ~stored.isfinite()]
    values = [share.double().mean().item() for share in shares]
    options = {"groups": ["become 0", "survive", "become infinite"], "number_format": "{:.0%}", "top": 1.15}
    title = f"Loss scale {2**log2_scale:,}, after {steps} steps"
    figures.bars({title: values}, **options, ylabel="share", title=title, ax=ax)


# %%
explore(draw_scale, log2_scale=range(0, 41, 4), steps=list(found), start={"log2_scale": 0, "steps": 600})

# %% [markdown]
# The better the model, the smaller its gradients: after 600 steps 69 % vanish without a scale, and 12 % at $2^{16}$,
# where PyTorch's scaler begins. It halves the scale when a gradient overflows, skips that step, and doubles the scale
# after 2,000 good ones.
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
# bf16 needs no scale: it has float32's range (notebook [07](07_quantization.ipynb)). A T4 has no bf16, yet
# `torch.cuda.is_bf16_supported()` says True there, and the products are emulated, slowly ([PyTorch, pull request
# 148322](https://github.com/pytorch/pytorch/pull/148322)). Ask for the capability instead: bf16 from 8.0 on.
#
# ### Flat, after r was changed
#
# We want more capacity, $r = 64$ instead of 8. Two habits: leave $\alpha$ at 16, or set $\alpha = 2r$. Ten seeds each:

# %%
rates = [0.003, 0.01, 0.03, 0.1]
settings = {"r 8, α 16": (8, 16), "r 64, α 16": (64, 16), "r 64, α 128": (64, 128)}


# %%
def trial(r, lora_alpha, rate, seed):
    torch.manual_seed(seed)
    model = digit_reader.with_lora(base, r, lora_alpha)
    losses = digit_reader.train(model, digits.few(rotated["adapt"], seed), rate)
    return losses[-1], digit_reader.accuracy(model, test)


# %%
results = {
    name: torch.tensor([[trial(*sizes, rate, seed) for rate in rates] for seed in range(10)])
    for name, sizes in settings.items()
}
scores = {name: result[:, :, 1] for name, result in results.items()}
title = "Each setting has a rate at which it reads about 90 %"
figures.score_by_rate(scores, rates=rates, ylabel="rotated digits right", title=title)

# %% tags=["claim"]
medians = {name: score.median(dim=0).values for name, score in scores.items()}
assert all(0.87 < score.max() < 0.93 for score in medians.values())
assert medians["r 64, α 128"].argmax() in (0, 1) and medians["r 64, α 16"].argmax() == 2
assert medians["r 64, α 128"][2] < 0.8 and abs(results["r 64, α 128"][:, 3, 0].median() - math.log(10)) < 0.02

# %% [markdown]
# With $\alpha = 2r$, a rate three to ten times as small is best. At the old rate, 0.03, it falls to about 70 %. At 0.1
# it is dead: its loss stands at $\log(10) = 2.30$, where all ten digits get the same chance. And a run that learns too
# little (r 8 at 0.003) is cured by the rate or by $\alpha$, not by the rank alone.
#
# Adam's first step moves each number of $B$ by about the rate $\eta$, so with $s = \alpha / r$
#
# $$|s\,(B A x)_i| \;\lesssim\; s\,\eta \sum_{k=1}^{r} |(A x)_k| \;\propto\; s\,r\,\eta$$
#
# (from [Kingma and Ba 2014](https://arxiv.org/abs/1412.6980), algorithm 1). The step grows with $\alpha = s\,r$. Change
# one of $r$, $\alpha$ and rate, and tune again.
#
# ## 2. Why does it not stop?
#
# *Core: four mistakes with one template, each made and cured.*
#
# A chat template writes a conversation as one text (notebook [06](06_lora_on_a_language_model.ipynb), section 3).

# %%
model, tokenizer = load_base_model(dtype="float32")
turns = [{"role": "user", "content": "Name a planet."}, {"role": "assistant", "content": "Mars."}]
text = tokenizer.apply_chat_template(turns, tokenize=False).split("<|im_end|>\n", 1)[
    1
]  # without its system turn
tokenizer.pad_token, tokenizer.eos_token, text

# %% [markdown]
# **Pad = eos.** Here, as for many models, one token ends a turn and fills short rows up. The usual collator gives every
# pad token the label -100, "do not score".

# %%
predict("12.2")

# %%
from transformers import DataCollatorForLanguageModeling

ids = tokenizer(text, add_special_tokens=False).input_ids
labels = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": ids}])["labels"][0]

# %%
figures.scored_example(
    [tokenizer.decode(token) for token in ids], labels.tolist(), title="The end of each turn is not scored"
)

# %% tags=["claim"]
unscored = [token for token, label in zip(ids, labels.tolist(), strict=True) if label == -100]
assert unscored == [tokenizer.eos_token_id] * 2

# %% [markdown]
# It learns to answer and never to end: the loss looks healthy ([TRL, issue
# 976](https://github.com/huggingface/trl/issues/976)). **Cure:** a pad token of its own, or labels that you write
# yourself (`DataCollatorForSeq2Seq` keeps them), as the course does.
#
# **The wrong end.** `generate` stops at `eos_token_id`. If the template ends turns with another token, it runs on:
# Gemma's `<end_of_turn>` is not its `eos_token` ([axolotl, issue
# 3754](https://github.com/axolotl-ai-cloud/axolotl/issues/3754)). We stop at `<|endoftext|>` instead of `<|im_end|>`:

# %%
prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
ends = {"<|im_end|>": tokenizer.eos_token_id, "<|endoftext|>": 0}
answers = [clinic.answer(model, tokenizer, [prompt], eos_token_id=end)[0] for end in ends.values()]

# %% tags=["nbval-ignore-output"]
compare(stops_at=list(ends), answer=answers)

# %% tags=["claim"]
assert answers[0].count("<|im_end|>") == 1 and answers[1].count("<|im_end|>") > 1

# %% [markdown]
# **Two beginnings.** Templates of Llama and Gemma write the beginning of text, BOS, and so do their tokenizers. With
# both, the model reads what it never saw in training. We give our tokenizer that habit:

# %%
twice = clinic.writes_bos(tokenizer)
written = twice.apply_chat_template(turns[:1], tokenize=False)
twice(written).tokens()[:3], twice(written, add_special_tokens=False).tokens()[:3]

# %% [markdown]
# **Cure:** `add_special_tokens=False` after a template ([transformers, chat
# templates](https://huggingface.co/docs/transformers/chat_templating)).
#
# **The wrong side.** In a batch short rows are filled up. On the right, the model must go on after the filling:

# %%
asked = ["Name a planet.", "I have two apples and buy three more. How many apples do I have now?"]
prompts = [
    tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    for question in asked
]

# %% tags=["nbval-ignore-output"]
alone = clinic.answer(model, tokenizer, prompts[:1])[0]
sides = {side: clinic.answer(model, tokenizer, prompts, padding_side=side)[0] for side in ("left", "right")}
compare(short_question=["alone", *(f"padded {side}" for side in sides)], answer=[alone, *sides.values()])

# %% tags=["claim"]
del model  # room for what follows
assert sides["left"] == alone != sides["right"]

# %% [markdown]
# On the left it answers as if alone. **Cure:** `padding_side="left"` to generate ([transformers, text
# generation](https://huggingface.co/docs/transformers/llm_tutorial)).
#
# ## 3. The adapter is loaded. Where is its effect?
#
# *Core: two failures without any message.*
#
# We save what has "lora" in its name. Then a tool wraps the model once more, so that all names get a prefix.
# `strict=False` is usual, since the base is not in the file.

# %%
adapter = {name: tensor for name, tensor in healthy.state_dict().items() if "lora_" in name}
travelled = {f"model.{name}": tensor for name, tensor in adapter.items()}
loaded = digit_reader.with_lora(base, r=8, lora_alpha=16)

# %%
predict("12.3")

# %%
unused = loaded.load_state_dict(travelled, strict=False).unexpected_keys
f"right: {digit_reader.accuracy(loaded, test):.0%}; not used: {len(unused)} of {len(travelled)} tensors"

# %% [markdown]
# The adapter is as it began, $B = 0$, and the answers are the base's. (A real case: [transformers, pull request
# 46766](https://github.com/huggingface/transformers/pull/46766).) The cure is to look: at
# `unexpected_keys`, and at the size of each update. With the right names:

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
# Next, the names fit, but $\alpha$ does not. It is no tensor: it stands in `adapter_config.json` alone. Forget to pass
# it on, and the same $B$ and $A$ make another model.


# %%
def draw_alpha(ax, lora_alpha):
    model = digit_reader.with_lora(base, r=8, lora_alpha=lora_alpha)
    model.load_state_dict(adapter, strict=False)
    right = [digit_reader.accuracy(model, data) for data in (test, old)]
    options = {"groups": ["rotated (new)", "upright (old)"], "ylabel": "digits right", "top": 1.15}
    title = f"Trained with α 16, loaded with {lora_alpha}"
    figures.bars({title: right}, **options, number_format="{:.0%}", title=title, ax=ax)


# %%
explore(draw_alpha, lora_alpha=[1, 2, 4, 8, 16, 32, 64, 256], start={"lora_alpha": 2})

# %% [markdown]
# The smaller $\alpha$, the more the model is its base again; the larger, the worse it reads both. Nothing raises an
# error. If an adapter loses its effect when *merged*, see notebook [10](10_qlora_finetune.ipynb), section 5.
#
# ## 4. Why did looking at it change the training?
#
# *Deeper: read it when you meet it.*
#
# We add dropout of 10 % to the adapters and measure the test accuracy after every tenth step: in four ways, and once
# not at all.


# %%
def never(model):
    pass


def in_training_mode(model):
    digit_reader.accuracy(model, test)


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
alone = torch.tensor(seen["never"][1])
gaps = {name: (torch.tensor(losses) - alone).abs() for name, (_, losses) in seen.items()}

# %%
compare(
    evaluation=list(seen),
    losses_differ_by_at_most=[f"{gap.max():.3f}" for gap in gaps.values()],
    last_loss=[f"{losses[-1]:.2f}" for _, losses in seen.values()],
    test=[f"{digit_reader.accuracy(model.eval(), test):.1%}" for model, _ in seen.values()],
    base_unchanged=[torch.equal(model[0].base_layer.weight, base[0].weight) for model, _ in seen.values()],
)

# %%
shown = {name: gaps[name] for name in ("eval_and_back", "in_training_mode", "eval_for_good")}
title = "Give the mode back, and the losses stay"
figures.lines(shown, xlabel="step", ylabel="difference of the loss", title=title)

# %% [markdown]
# `eval_for_good` is the sly one. Its training loss looks *better*, for dropout is off for the rest. `in_training_mode`
# scores by luck and moves the random numbers, as does an evaluation that samples text. `merge_and_subtract` leaves the
# losses alone, but rounding changes the base weights, in 16 bits much more (notebook
# [05b](05b_cost_and_shipping.ipynb)). The [first LoRA
# library](https://github.com/microsoft/LoRA/blob/main/loralib/layers.py) merges in `eval()` and subtracts in `train()`.
#
# ### Exercise 12.3 · Measure and leave no trace (two stars, 6 minutes)
#
# Write `score(model, X, y)`: the share of right answers, measured without dropout. Afterwards the model is in the mode
# in which you found it, whichever that was.


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
# *Deeper: read it when you meet it.*
#
# "Tried to allocate ..." names what was asked for last, which is rarely what fills the memory. The ledger of notebook
# [09](09_qlora_from_scratch.ipynb) says what does, *before* you start. A 7B model, QLoRA of rank 64, 8 sequences of 512
# tokens, on a T4 with 14.56 GiB:

# %%
on_a_T4 = {"dtype": torch.float16, "optimizer": "paged_adamw_8bit", "device": "cuda"}
asked = memory_ledger("Llama-2-7B", "qlora", batch=8, seq=512, r=64, **on_a_T4)
f"{asked.total / 2**30:.1f} GiB"

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
    verdict = "it fits" if 1.1 * after.total <= 14.56 * 2**30 else "it does not fit"
    bars = {"as asked": in_memory.gibibytes(asked), "with the knob": in_memory.gibibytes(after)}
    T4 = {"limit": ("T4: 14.56 GiB", 14.56), "largest": 42, "unit": "GiB"}
    text = (
        f"As asked {asked.total / 2**30:.1f} GiB. With {knob} {after.total / 2**30:.1f} GiB: {verdict} a T4."
    )
    figures.stacked(bars, **T4, title=f"{knob}: {verdict}", alt=text, ax=ax)


# %%
explore(draw_knob, knob=list(knobs))

# %% [markdown]
# The rank saves 1.1 of 38.3 GiB. What fills the memory are activations: they grow with the *tokens* at once. Knobs that
# cost no quality come first, and `preflight` turns them by itself. Checkpointing costs time. Fewer sequences at once,
# with gradients summed over more of them, give the same step.

# %%
fitting = preflight(asked, "cuda", available=int(14.56 * 2**30))
fitting.settings["gradient_checkpointing"], fitting.settings["batch"], f"{fitting.total / 2**30:.1f} GiB"

# %% [markdown]
# If nothing helps, it refuses, and says what would:

# %%
try:
    preflight(knobs["16-bit LoRA"], "cuda", available=int(14.56 * 2**30), smaller=("SmolLM2-1.7B",))
except MemoryError as error:
    print(error)

# %% [markdown]
# And a model that trains well may run out when it *answers*: each row keeps keys and values for all its tokens.
# SmolLM2-1.7B has 24 layers of 2,048 numbers each. For 25 rows of 200 tokens in float32, in GiB:

# %%
round(2 * 24 * 2048 * 4 * 25 * 200 / 2**30, 2)

# %% [markdown]
# ### Exercise 12.4 · Which knob? (one star, 5 minutes)
#
# Write `which_knob(ledger)`. Of `"tokens"` (activations, logits), `"weights"` (weights, quantization constants) and
# `"adapters"` (adapters, gradients, optimizer) return the group that holds most bytes. A ledger maps terms to bytes; it
# has other terms too.


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
# ## Often said, and what was measured here
#
# *Core: seven sentences that readers trust, with their limits.*
#
# | said | where it holds |
# |---|---|
# | LoRA "[decomposes a large matrix][peft]" into two low-rank ones | it is the *update*; W stays ([01], [04][layer]) |
# | "[no additional inference latency][lora]" | after merging; apart it costs ([04][layer] § 2, [11][adapters]) |
# | "[training with LoRA much faster][openvino]" | a step of the 135M: 171 ms, full 99; by [CUDA graphs][gpus] 41, 42 |
# | QLoRA: "[about 75% smaller peak GPU memory][google]" | [67 % for a 7B shape, 15 % for the 135M in float32][gpus] |
# | "[LoRA is about 66% faster than QLoRA][google]" | 23, 72 % for the 135M in two runs; by [CUDA graphs][gpus] 64 % |
# | α "[should typically be set to dim or 0.5 ** dim][nemo]", the rank | the step grows with α: tune the rate (§ 1) |
# | prefix tuning learns "[only 0.1% of the parameters][prefix]" | 0.34 % for 40 tokens ([11][adapters] § 5) |
#
# [01]: 01_rank_and_svd.ipynb
# [layer]: 04_lora_from_scratch.ipynb
# [adapters]: 11_many_adapters.ipynb
# [gpus]: https://github.com/OWNER/REPO/blob/main/docs/gpus.md
# [peft]: https://huggingface.co/docs/peft/v0.20.0/package_reference/lora
# [lora]: https://arxiv.org/abs/2106.09685
# [openvino]: https://openvinotoolkit.github.io/openvino.genai/docs/concepts/lora
# [google]: https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/model-garden/lora-qlora
# [nemo]: https://docs.nvidia.com/nemo/microservices/25.9.0/pysdk/types/shared/lora_finetuning_data.html
# [prefix]: https://arxiv.org/abs/2101.00190
#
# The numbers hold where they were measured: each for one model, one length of text, one GPU.
#
# More help: [peft's troubleshooting page](https://huggingface.co/docs/peft/developer_guides/troubleshooting), and
# PyTorch on [mixed precision](https://docs.pytorch.org/docs/stable/notes/amp_examples.html) and on [CUDA
# memory](https://docs.pytorch.org/docs/stable/torch_cuda_memory.html).

# %%
progress("12")

# %% [markdown]
# ## Summary
#
# - Read what is printed, then measure: which tensors are finite, what trains, how large each update is.
# - What trains is float32. fp16 needs a loss scale; bf16 needs a GPU that has it.
# - r, α and the learning rate make one step together. Change one, tune again.
# - Look at one example with its labels: the end of the turn must be scored, and the template written once.
# - Limit: we broke small things on a CPU. Failures of large machines (networks, drivers, clusters) are not here.
#
# **Next question:** what will you fine-tune, and how will you know that it works?
