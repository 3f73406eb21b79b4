# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 09 · How can 4-bit weights train?
#
# They do not. QLoRA freezes them, makes them wide for the length of a product, and trains LoRA beside them. This
# notebook builds that layer, watches it in memory, and accounts for every byte of a training step.
#
# **You will** write forward and backward of a 4-bit layer, step through what is wide when, predict the memory of a
# real model and measure it, find what fits a 15 GB GPU, and compare your layer with the professionals'.
#
# **You need** Python; LoRA, $y = Wx + \frac{\alpha}{r} BAx$ (notebook 04); Adam's averages and activations (notebook
# [05b](05b_cost_and_shipping.ipynb), section 1); NF4 codes and scales (notebook [08](08_nf4.ipynb)).
#
# **Time:** {minutes}. The computer needs about one of them.

# %%
ensure_packages("bitsandbytes")

import time

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import in_memory
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.methods import nf4
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.packing import unpack_4bit
from lora_edu.methods.qlora import NF4Linear

# %% [markdown]
# ## 1. What does training do to a 4-bit weight?
#
# Could we train the 4-bit weights themselves? Here are a query weight of SmolLM2 and the update that full fine-tuning
# gave it (recorded, `data/README.md`).

# %%
path = "model.layers.15.self_attn.q_proj"
with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
    W = file.get_tensor(f"{path}.weight").float()
dW = records.delta_w(path).float()
f"{W.numel():,} weights; the update is {dW.norm() / W.norm():.2%} as large as W"

# %%
predict("09.1")

# %%
before, after = nf4.quantize_nf4(W), nf4.quantize_nf4(W + dW)
codes = [unpack_4bit(packed, W.numel()) for packed, _ in (before, after)]
f"codes that differ: {(codes[0] != codes[1]).double().mean():.1%}"

# %%
arrived = nf4.dequantize_nf4(*after) - nf4.dequantize_nf4(*before)
cosine = F.cosine_similarity(arrived.flatten(), dW.flatten(), dim=0)
f"sent 1, arrived {arrived.norm() / dW.norm():.0f}; cosine between the two: {cosine:.2f}"

# %% [markdown]
# Few codes move, and each of those jumps a whole gap. So what arrives is ten times too large and points almost
# elsewhere (a cosine of 1 would be the same direction). On average it is right, since 10 × 0.10 = 1, but it drowns in
# noise. And this $W$ lay between the levels. Training in 4 bits would start *on* levels:

# %%
start = nf4.dequantize_nf4(*before)
moved = nf4.quantize_nf4(start + dW)[0] != before[0]
f"from the levels: {moved.double().mean():.1%} of the bytes differ"

# %% [markdown]
# From there the same update moves no code. And a code has no gradient: it is a whole number. (One can train a wide
# copy and round it at each step. Then the copy has to be kept, and no memory is saved.)
#
# So QLoRA keeps the codes frozen. A product uses $\hat W$, the weight read back; what learns is LoRA:
#
# $$y = x \hat W^\top + \frac{\alpha}{r} (x A^\top) B^\top, \qquad
# \hat W = \text{dequantize}(\text{codes}, \text{scales})$$
#
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), equations 3, 5 and 6.) In the course it is a composition of
# two layers:

# %%
dense = nn.Linear(576, 576, bias=False)
dense.weight.data = W
qlora = LoRALinear(NF4Linear.from_linear(dense), r=8, lora_alpha=16)
{name: f"{tensor.dtype}, {tensor.nbytes:,} bytes" for name, tensor in qlora.state_dict().items()}

# %% [markdown]
# Codes and scales are *buffers*: saved with the model, found by no optimizer. Is this LoRA over $\hat W$, and nothing
# else? We give a LoRA layer over the wide $\hat W$ the same $A$ and $B$, and compare one step.

# %%
wide = nn.Linear(576, 576, bias=False)
wide.weight.data = qlora.base_layer.dequantize()
lora = LoRALinear(wide, r=8, lora_alpha=16)

# %%
torch.manual_seed(0)
start = {"lora_A": torch.randn(8, 576) / 24, "lora_B": torch.randn(576, 8) / 24}
x, grad_y = torch.randn(32, 576), torch.randn(32, 576)


# %%
def one_step(layer):
    layer.load_state_dict(start, strict=False)
    layer.zero_grad()
    inputs = x.clone().requires_grad_()
    y = layer(inputs)
    y.backward(grad_y)
    torch.optim.AdamW([layer.lora_A, layer.lora_B], lr=1e-3).step()
    results = [y, inputs.grad, layer.lora_A.grad, layer.lora_B.grad, layer.lora_A, layer.lora_B]
    return [tensor.detach().clone() for tensor in results]


# %%
names = ["output", "gradient of x", "gradient of A", "gradient of B", "A after the step", "B after the step"]


def agree(layer, other):
    pairs = zip(one_step(layer), one_step(other), strict=True)
    return [torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs]


# %%
compare(tensor=names, equal_up_to_rounding=agree(qlora, lora))

# %% [markdown]
# That is the law: **QLoRA is LoRA over the dequantized weight.** All that 4 bits change is the starting point: it is
# $\hat W$ in place of $W$.

# %%
f"the start is off by {(wide.weight - W).norm() / W.norm():.1%} of W"

# %% [markdown]
# One sometimes reads that adapters in 32 bits make up for the rounding. Their precision restores nothing. Their
# training may: in the paper, the mean on MMLU (exam questions with four choices; percent right) was 53.1 with NF4 and
# double quantization, and 53.0 with bf16 ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), table 4). On our
# own task (recorded, three seeds):

# %%
pair = [records.runs("events_gpu_final", method=m, r=8, backend="peft") for m in ("lora", "qlora")]
scores = [", ".join(f"{run['exact_match']:.1%}" for run in runs) for runs in pair]
first_losses = [", ".join(f"{run['losses'][0]:.2f}" for run in runs) for runs in pair]
compare(method=["LoRA", "QLoRA"], loss_of_first_step=first_losses, events_right=scores)

# %% [markdown]
# The rounding costs something at the start. After 200 steps there is no difference that three seeds of 200 events
# could settle. (What is not in NF4 was in 32 bits.)
#
# ### Exercise 09.1 · The forward pass (two stars, 6 minutes)
#
# Write `qlora_forward(...)` for rows `x` of shape (batch, in). `nf4.dequantize_nf4(packed, quant_state)` gives the
# weight, shape (out, in). `lora_A` is (r, in), `lora_B` is (out, r).

# %% tags=["exercise"]
from torch import Tensor

from lora_edu.methods.nf4 import QuantState


def qlora_forward(
    x: Tensor, packed: Tensor, quant_state: QuantState, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `r` is `len(lora_A)`. In shapes: (batch, in) times (in, r), then times (r, out).

# %% tags=["solution"]
from torch import Tensor

from lora_edu.methods.nf4 import QuantState


def qlora_forward(
    x: Tensor, packed: Tensor, quant_state: QuantState, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> Tensor:
    W = nf4.dequantize_nf4(packed, quant_state)
    return x @ W.T + lora_alpha / len(lora_A) * (x @ lora_A.T) @ lora_B.T


# %%
check("09.1", qlora_forward)

# %% [markdown]
# ## 2. What waits for the backward pass?
#
# Layers below have adapters too, so a gradient must get through the frozen part of this one:
#
# $$\frac{\partial L}{\partial X} = \frac{\partial L}{\partial Y} \, \hat W$$
#
# No gradient for $\hat W$, but $\hat W$ itself is needed a second time ([Dettmers et al.
# 2023](https://arxiv.org/abs/2305.14314), section 3). Take a layer as wide as those of a 7B model. The obvious way
# dequantizes, then calls `F.linear`:

# %%
large = NF4Linear.from_linear(nn.Linear(4096, 4096, bias=False))
batch = torch.randn(16, 4096, requires_grad=True)


def obvious(x):
    return F.linear(x, large.dequantize())


# %%
predict("09.2")

# %% [markdown]
# PyTorch tells a *hook* about each tensor that it keeps. The first function below sees it (`append` gives None, so
# `or t` hands it on); the second is for the way back.


# %%
def kept(forward):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        forward(batch)
    return ", ".join(f"{t.dtype}, {t.nbytes / 1e6:.1f} MB" for t in saved)


# %%
compare(layer=["obvious", "NF4Linear"], kept_for_backward=[kept(obvious), kept(large)])

# %% [markdown]
# With `obvious`, a model in training holds its wide weights too, and the 4 bits saved nothing. `NF4Linear` keeps the
# codes, which are there anyway, and dequantizes again in backward. That takes a function whose two halves we write
# ourselves, a [torch.autograd.Function](https://docs.pytorch.org/docs/stable/notes/extending.html):
#
# - `forward(ctx, ...)` computes, and puts on `ctx` what backward will need;
# - `backward(ctx, grad_y)` returns one gradient for each argument of `forward` (leaving out `ctx`), or None.
#
# ### Exercise 09.2 · Keep only the codes (three stars, 12 minutes)
#
# Write `matmul_4bit(x, packed, quant_state)`: the product of `x` with the transposed weight. Until backward comes, only
# the codes and their scales wait: no wide weight, and not `x`, which only a gradient of the weight would need. Put your
# Function into the same cell.


# %% tags=["exercise"]
def matmul_4bit(x: Tensor, packed: Tensor, quant_state: QuantState) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `class MatMul4Bit(torch.autograd.Function)`, with both halves as `@staticmethod`. `ctx.save_for_backward(packed)`
# keeps a tensor, which is in `ctx.saved_tensors` later; a `QuantState` may be set as `ctx.quant_state`. Call it by
# `MatMul4Bit.apply(x, packed, quant_state)`.


# %% tags=["solution"]
class MatMul4Bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, packed, quant_state):
        ctx.save_for_backward(packed)
        ctx.quant_state = quant_state
        return x @ nf4.dequantize_nf4(packed, quant_state).T

    @staticmethod
    def backward(ctx, grad_y):
        (packed,) = ctx.saved_tensors
        return grad_y @ nf4.dequantize_nf4(packed, ctx.quant_state), None, None


def matmul_4bit(x: Tensor, packed: Tensor, quant_state: QuantState) -> Tensor:
    return MatMul4Bit.apply(x, packed, quant_state)


# %%
check("09.2", matmul_4bit)

# %% [markdown]
# What is wide when? Below is one layer of 4096 × 4096 with rank 16, a batch of 512 tokens, and 16-bit numbers as in
# the paper. Move both sliders: stay on QLoRA and go through the moments, then stay on a moment and change the method.


# %%
def draw_moment(ax, method, moment):
    held = in_memory.layer_tensors(method, moment, d_in=4096, d_out=4096, tokens=512, r=16)
    rows = {name: (kind, size / 1e6) for name, (kind, size) in held.items()}
    listed = ", ".join(f"{name} {size:.1f}" for name, (_, size) in rows.items() if size)
    total = sum(size for _, size in rows.values())
    text = f"{method}, {moment}: {total:.1f} MB. {listed}."
    formats = ("4-bit codes and scales", "bfloat16")
    title = f"{method}, {moment}: {total:.0f} MB"
    figures.tensors_alive(rows, formats=formats, largest=67.1, title=title, alt=text, ax=ax)


# %%
begin = {"method": "QLoRA", "moment": "forward product"}
explore(draw_moment, method=list(in_memory.METHODS), moment=list(in_memory.MOMENTS), start=begin)

# %% [markdown]
# Only one layer at a time is in its product. At rest QLoRA's layer takes 9 MB, LoRA's 34. *In* the product QLoRA's
# takes more: codes and the wide copy. After it, the copy is dropped. It does not go "back to 4 bits": the codes never
# left. (bitsandbytes makes the copy whole in backward, and for large batches in forward. Our `NF4Linear` makes panels
# of rows.) Side by side (a T4, Colab's free GPU, has no bf16 arithmetic and takes fp16):
#
# | | LoRA | QLoRA |
# |---|---|---|
# | weights of linear layers, stored | 16 bits | 4-bit codes, 8-bit scales, their scales in float32 |
# | the same in a product | bf16 (fp16 on a T4) | bf16 (fp16 on a T4), for that moment |
# | embedding, norms, output head | 16 bits | 16 bits, norms float32 (peft's `prepare_model_for_kbit_training`: all) |
# | $B$, $A$, their gradients | float32 in peft and here, bf16 in the paper | the same |
# | gradient of $W$ | none | none |
# | Adam's averages | of $B$ and $A$ alone | the same, 8 bits each where memory is short |
#
# What is the price? The same 4096 × 4096 product, forward and backward, with the weight in 32 bits, with exercise
# 09.2 as its solution has it, and with `NF4Linear`:

# %%
from lora_edu.classroom.exercises.n09 import matmul_4bit as in_one_piece

plain = nn.Linear(4096, 4096, bias=False).requires_grad_(False)
layers = {"32 bits": plain, "exercise 09.2": lambda x: in_one_piece(x, large.packed, large.quant_state)}
layers |= {"NF4Linear": large}

# %%
from torch.utils.benchmark import Timer


def best_milliseconds(layer, n):
    inputs = torch.randn(n, 4096, requires_grad=True)
    timer = Timer("layer(x).sum().backward()", globals={"layer": layer, "x": inputs})
    return f"{1000 * min(timer.timeit(1).mean for _ in range(3)):.0f} ms"


# %% tags=["measured"]
tokens = [1, 16, 128]
compare(
    tokens=tokens, **{name: [best_milliseconds(layer, n) for n in tokens] for name, layer in layers.items()}
)

# %%
assert torch.allclose(large(batch), obvious(batch), rtol=1e-3, atol=1e-3)

# %% [markdown]
# Here QLoRA loses: each step dequantizes each weight twice, and that work is the same for one token as for many. How
# much it costs depends on the code. Panels that stay in the processor's cache win much of it back. On our GPU, with
# bitsandbytes, 200 steps of SmolLM2 took these seconds (recorded; on so small a model any adapter is slow, notebook
# 05b):

# %%
alone = {method: records.runs("events_gpu_alone", method=method)[0] for method in ("full", "lora", "qlora")}
compare(method=alone, seconds=[f"{run['seconds']['train']:.0f}" for run in alone.values()])

# %% [markdown]
# ## 3. Where do the gigabytes go?
#
# One often reads: "7 billion weights in 4 bits are 3.5 GB, so 4 GB will do." Let us count, first one layer.
#
# ### Exercise 09.3 · The bytes of one layer (two stars, 8 minutes)
#
# Write `qlora_bytes(d_in, d_out, r)`: bytes of (codes, scales, adapter, gradients, averages). Double quantization in
# blocks of 64 and 256; $B$ and $A$, their gradients and Adam's two averages in float32. 16,384 divides d_in times
# d_out. Leave out the mean of the scales and the code tables.


# %% tags=["exercise"]
def qlora_bytes(d_in: int, d_out: int, r: int) -> tuple[int, int, int, int, int]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Notebook 08 counted 4 + 8/64 + 32/(64 · 256) bits a weight. `//` divides whole numbers. At (4096, 4096, 16) the
# scales take 266,240 bytes. $B$ and $A$ together hold r (d_in + d_out) numbers of 4 bytes; their gradients as many,
# the averages twice as many.


# %% tags=["solution"]
def qlora_bytes(d_in: int, d_out: int, r: int) -> tuple[int, int, int, int, int]:
    weights, trained = d_in * d_out, 4 * r * (d_in + d_out)
    return weights // 2, weights // 64 + 4 * weights // (64 * 256), trained, trained, 2 * trained


# %%
check("09.3", qlora_bytes)

# %% [markdown]
# Now all of SmolLM2: its 210 linear layers become NF4, with rank 8 beside each.

# %%
from lora_edu.llm.base_model import load_base_model, return_freed_memory
from lora_edu.llm.budget import memory_ledger, preflight
from lora_edu.llm.budget.moments import HEAP_FACTOR
from lora_edu.llm.surgery import add_qlora

# %%
del plain, layers  # 67 MB
model = load_base_model(dtype="float32")[0].cpu()
model = add_qlora(model, "all-linear", r=8, lora_alpha=16).train()
return_freed_memory()  # of the wide weights

# %%
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.randint(3, 49_152, (1, 224), generator=torch.Generator().manual_seed(0))

# %%
predict("09.3")

# %% [markdown]
# `memory_ledger` predicts the peak from the model's configuration alone. `LiveTensors` counts the tensors that a step
# makes, as long as they live. The peak comes when the loss is computed: for each token, 49,152 logits, their
# log-probabilities, and a gradient.

# %%
ledger = memory_ledger("SmolLM2-135M", "qlora", batch=1, seq=224, r=8, backend="scratch")
log_probabilities = 4 * ids.numel() * 49_152

# %% tags=["measured"]
with in_memory.LiveTensors() as live:
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    activations = live.now - log_probabilities
    loss.backward()
optimizer.step()  # the first step makes Adam's averages
measured = in_memory.standing_bytes(model, optimizer)
measured |= {"activations": activations, "logits": live.peak - activations}
del measured["gradients"]  # they come when activations have gone
predicted = {term: ledger[term] for term in measured}
predicted["activations"] /= 1 + HEAP_FACTOR
both = [sizes | {"together": sum(sizes.values())} for sizes in (predicted, measured)]
columns = [[f"{size / 1e6:.1f}" for size in sizes.values()] for sizes in both]
compare(MB=both[0], predicted=columns[0], measured=columns[1])

# %%
assert all(abs(predicted[term] / size - 1) < 0.15 for term, size in measured.items())
assert abs(both[0]["together"] / both[1]["together"] - 1) < 0.1

# %% [markdown]
# On a CPU the ledger predicts *resident* memory: it adds Python and its libraries, and counts activations twice,
# because the heap keeps holes between tensors. We counted tensors, so the table takes one half. The 210 layers in NF4
# are 55 MB of all this.
#
# How well does it predict a whole run? On a GPU, peaks were recorded under a limit of 14.5 GiB (15.6 GB), for real
# shapes with random weights (`data/README.md`): one sequence of 512 tokens, rank 16.

# %%
usual = {"backend": "peft", "dtype": "bfloat16", "gradient_checkpointing": True, "batch": 1, "seq": 512}
entries = {(e["case"]["model"], e["case"]["method"]): e for e in in_memory.cases("gpu_memory", **usual)}
found = dict(sorted(entries.items()))

# %%
expected = {key: in_memory.recorded_ledger(entry["case"], "cuda") for key, entry in found.items()}

# %%
GB = [
    f"{entry['measured_bytes'] / 1e9:.2f}" if "measured" in entry else "out of memory"
    for entry in found.values()
]
predicted_GB = [f"{ledger.total / 1e9:.2f}" for ledger in expected.values()]
compare(model=[f"{model}, {method}" for model, method in found], predicted_GB=predicted_GB, measured_GB=GB)

# %% [markdown]
# Mistral-7B as LoRA in 16 bits just stays under the limit, which counts tensors alone. On a real T4 the driver takes
# its share too, and `preflight`, which keeps a tenth free, refuses. With NF4, and Adam's averages in 8 bits
# (section 4), it takes a third. And it is not 3.5 GB. Qwen2.5-7B takes 7: its vocabulary of 152,064 keeps 2.2 GB of
# embedding and head in 16 bits. Mistral by the stages of its run:

# %%
stages, terms = found["Mistral-7B", "qlora"]["measured"], expected["Mistral-7B", "qlora"]
by_stage = [
    stages["loaded"],
    stages["attached"] - stages["loaded"],
    stages["training_peak"] - stages["attached"],
]
by_term = [terms["weights"] + terms["quantization constants"], terms["adapters"]]
by_term.append(terms.total - sum(by_term))
columns = [[f"{size / 1e9:.2f}" for size in sizes] for sizes in (by_term, by_stage)]
compare(
    GB=["weights and scales", "adapters", "all that training adds"], predicted=columns[0], measured=columns[1]
)

# %% [markdown]
# Weights and scales are 4.1 GB: 7.0 billion weights at 4.127 bits, and embedding and head in 16. (The QLoRA paper
# counts 5,048 MB for the base of a 7B LLaMA, section 2.) So what fits a 15 GB GPU such as Colab's T4? Gradient
# checkpointing, section 4, is on.

# %%
choices = {"r": [8, 16, 64, 256], "seq": [512, 1024, 2048], "batch": [1, 2, 4]}
T4 = {"dtype": torch.float16, "device": "cuda", "gradient_checkpointing": True, "flash_attention": False}
optimizers = {"full": "adamw", "lora": "adamw", "qlora": "paged_adamw_8bit"}
titles = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}


# %%
def bars_at(r, seq, batch):
    settings = {"batch": batch, "seq": seq, "r": r} | T4
    ledgers = {m: memory_ledger("Mistral-7B", m, optimizer=o, **settings) for m, o in optimizers.items()}
    return {titles[m]: in_memory.gigabytes(ledger) for m, ledger in ledgers.items()}


# %%
import itertools

precomputed = {values: bars_at(*values) for values in itertools.product(*choices.values())}


# %%
def draw_seven_billion(ax, r, seq, batch):
    bars = precomputed[r, seq, batch]
    totals = ", ".join(f"{m} {sum(parts.values()):.2f} GB" for m, parts in bars.items())
    text = f"Mistral-7B, rank {r}, batches of {batch} × {seq} tokens: {totals}. A T4 has 15.6 GB."
    title = f"Mistral-7B, r = {r}, {batch} × {seq} tokens"
    figures.stacked(bars, limit=("T4: 15.6 GB", 15.6), largest=26, title=title, alt=text, ax=ax)


# %%
explore(draw_seven_billion, **choices, start={"r": 16, "seq": 512, "batch": 1})

# %% [markdown]
# A 7B is where the 4 bits do the work: 16-bit weights alone nearly fill the card, whatever is trained. From rank 8 to
# rank 64 QLoRA's peak grows by 0.9 GB, to rank 256 by six (1 × 512 tokens): the adapter, its gradients and averages.
# Tokens cost activations. (Without one fused kernel for all of attention, as for Mistral, whose heads share keys, on a
# T4, the scores are kept, and grow with the square of the sequence. A kernel is one program on the GPU.)
#
# Now a free Binder: 2 GB, no GPU, SmolLM2-135M in bfloat16, batches of 2 × 128 tokens.

# %%
small = {titles[entry["case"]["method"]]: entry for entry in in_memory.cases("cpu_memory")}
bars = {m: in_memory.gigabytes(in_memory.recorded_ledger(entry["case"], "cpu")) for m, entry in small.items()}
resident = {m: entry["measured_bytes"] / 1e9 for m, entry in small.items()}

# %%
pairs = [f"{m} {sum(bars[m].values()):.2f} predicted, {resident[m]:.2f} measured" for m in small]
text = f"SmolLM2-135M on a CPU, in GB: {'; '.join(pairs)}."
labelled = {f"{m}\nmeasured {resident[m]:.2f}": parts for m, parts in bars.items()}
figures.stacked(labelled, limit=("Binder: 2 GB", 2), largest=2.2, title="SmolLM2-135M, predicted", alt=text)


# %%
def verdict(entry):
    try:
        preflight(in_memory.recorded_ledger(entry["case"], "cpu"), available=2_000_000_000)
    except MemoryError:
        return "refused"
    return "accepted"


# %%
verdicts = [verdict(entry) for entry in small.values()]
compare(method=small, measured_GB=[f"{size:.2f}" for size in resident.values()], preflight=verdicts)

# %% [markdown]
# Here LoRA does the work: it drops Adam's averages of 134 million numbers. (Full training's gradients come
# after the peak: no bar shows them.) QLoRA was measured *larger*. Up
# to 0.27 GB of that are pages of the model's file, read once, which the system drops when memory is short. Without
# them it takes about what LoRA takes: weights save 0.16 GB, but activations need more (the stream between blocks is
# float32).
#
# On a CPU the ledger leaves those pages out. Apart from them it is off by up to 6 % here, by more in notebook 10.
# `preflight`, which a run of the course asks before it loads a byte, adds 15 % on a CPU. It refuses the full fine-tune.
#
# ## 4. What else can be moved out of the way?
#
# After the weights, what is left is activations. **Gradient checkpointing** keeps the input of each block alone, and
# runs the block's forward a second time when backward needs the rest ([Chen et al.
# 2016](https://arxiv.org/abs/1604.06174)). The result is the same.

# %%
predict("09.4")


# %%
def step_costs():
    model.zero_grad()
    start = time.perf_counter()
    with in_memory.LiveTensors() as live:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        waiting = live.now
        loss.backward()
    return waiting, time.perf_counter() - start


# %% tags=["measured"]
costs = {"all kept": step_costs()}
gradient = next(p.grad.clone() for p in model.parameters() if p.requires_grad)
in_memory.checkpoint_blocks(model)
costs["checkpointing"] = step_costs()
waiting = [f"{size / 1e6:.0f} MB" for size, _ in costs.values()]
compare(activations=costs, waiting=waiting, seconds=[f"{seconds:.1f}" for _, seconds in costs.values()])

# %%
again = next(p.grad for p in model.parameters() if p.requires_grad)
assert torch.allclose(gradient, again, rtol=1e-3, atol=1e-5)
assert costs["checkpointing"][0] < costs["all kept"][0] / 3

# %% [markdown]
# What waits now is the input of each of the 30 blocks, and the log-probabilities of the loss. The price is one more
# forward. In full fine-tuning a step is about three forwards, so it costs a third; over frozen weights it is about
# two, so it costs up to a half. On the GPU (recorded peaks, QLoRA):

# %%
sizes = {"SmolLM2-135M": {"batch": 8, "seq": 256}, "SmolLM2-1.7B": {"batch": 1, "seq": 512}}


def peaks_GB(checkpointing):
    settings = usual | {"method": "qlora", "gradient_checkpointing": checkpointing}
    peaks = [in_memory.cases("gpu_memory", model=m, **settings | size)[0] for m, size in sizes.items()]
    return [f"{entry['measured_bytes'] / 1e9:.2f}" for entry in peaks]


# %%
tokens = [f"{size['batch']} × {size['seq']}" for size in sizes.values()]
compare(model=sizes, tokens=tokens, all_kept_GB=peaks_GB(False), checkpointing_GB=peaks_GB(True))

# %% [markdown]
# **Paged optimizers** are QLoRA's third idea. bitsandbytes can keep Adam's averages in memory that CUDA moves to the
# CPU, page by page, when the GPU is full, and back when they are used ([Dettmers et al.
# 2023](https://arxiv.org/abs/2305.14314), section 3). The step then slows down instead of failing. This needs a GPU:
# on a CPU bitsandbytes warns and takes ordinary memory. What the record says of Mistral-7B:

# %%
averages, paged, peak = (
    n / 1e6 for n in (terms["optimizer"], stages["paged_optimizer"], stages["training_peak"])
)
f"Adam's averages {averages:.0f} MB, of which paged {paged:.0f} MB; peak {peak:,.0f} MB"

# %% [markdown]
# Only tensors of 100,000 numbers or more are paged, here three in a block: B of gate and up, A of down
# ([bitsandbytes,
# get_state_buffer](https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/optim/optimizer.py)).
# So with LoRA, paging can move 44 MB of 5,037 out of the way. It would matter where more trains: a full fine-tune
# of this model in 16 bits has averages of 29 GB. We recorded sizes; no run of ours was so full that pages moved, so we
# say nothing about the slowdown.
#
# ## 5. Do the professionals' layers give the same numbers?
#
# bitsandbytes' `Linear4bit` is what `load_in_4bit` puts into a model. Same weight, same $A$ and $B$, same input:

# %%
predict("09.5")

# %%
import bitsandbytes as bnb

# %%
theirs = bnb.nn.Linear4bit(576, 576, bias=False, compute_dtype=torch.float32, quant_type="nf4")
theirs.weight = bnb.nn.Params4bit(W.clone(), requires_grad=False, quant_type="nf4")
theirs.support_avx512bf16_for_cpu = False
theirs = theirs.to("cpu")  # this quantizes

# %%
torch.equal(theirs.weight.flatten(), qlora.base_layer.packed)

# %%
compare(tensor=names, equal_up_to_rounding=agree(qlora, LoRALinear(theirs, r=8, lora_alpha=16)))

# %% [markdown]
# The bytes of the codes are equal; output, gradients and a step of AdamW agree to a thousandth. (One line above
# switches off a path of bitsandbytes 0.50: on some CPUs it repacks the weights in `eval()`, after which training
# loses the gradient of $x$ without a word.) And whole trainings, with peft and bitsandbytes or with the course's
# layers, on a GPU (recorded):


# %%
def seeds(backend):
    runs = records.runs("events_gpu_final", method="qlora", r=8, backend=backend)
    return ", ".join(f"{run['exact_match']:.1%}" for run in runs)


# %%
compare(layers=["peft and bitsandbytes", "lora_edu"], events_right=[seeds("peft"), seeds("scratch")])

# %% [markdown]
# ### How close to the hardware do a few lines come?
#
# Plain PyTorch writes each step of the arithmetic to memory and reads it back. A *kernel* does all steps on what it
# has read once. The course has two, in `lora_edu/accel/cuda.py`, of about 15 lines each, written in
# [Triton](https://triton-lang.org). They give the same bytes. On an H200 they raced bitsandbytes' kernels, with 8192 ×
# 8192 weights in bfloat16, and a plain copy of as many bytes as must be read and written (recorded):

# %%
rows = {(r["case"], r["ours"], r["peer"]): r for r in records.read("bench_gpu_nf4")["results"]}


def seconds_of(case, plain, kernel):
    beside = rows[case, kernel, "bitsandbytes"]
    return {
        "plain PyTorch": rows[case, plain, "bitsandbytes"]["seconds"],
        "bitsandbytes": beside["peer_seconds"],
        "Triton": beside["seconds"],
        "copy": rows[case, kernel, "a copy"]["peer_seconds"],
    }


# %%
seconds = {
    "quantize": seconds_of("quantize", "plain", "triton"),
    "dequantize": seconds_of("dequantize", "plain, out=", "triton, out="),
}
milliseconds = {case: [f"{1000 * s:.3f}" for s in row.values()] for case, row in seconds.items()}
compare(ms=["plain PyTorch", "bitsandbytes", "Triton", "copy"], **milliseconds)

# %% [markdown]
# Dequantizing, 15 lines come close to a copy, and are faster than bitsandbytes. Quantizing, they are four times as fast
# as bitsandbytes, and take four times as long as a copy. Why? A *roofline* shows what is possible:
#
# $$\text{operations a second} \le \min(\text{peak},\; \text{bandwidth} \times \text{operations a byte})$$
#
# ([Williams et al. 2009](https://doi.org/10.1145/1498765.1498785).) Dequantizing multiplies once a weight. Quantizing
# takes 7 operations: two for absmax, one to scale, two to find a cell of a table, one comparison, one addition.
# (Comparing with all 15 midpoints would take 33. The flat part is
# [NVIDIA's](https://www.nvidia.com/en-us/data-center/h200/) 67 · 10¹².) Memory is the limit of both. The rest of
# quantizing's time is no arithmetic: each weight reads the table, and a call waits until the GPU has said that all
# weights are finite.

# %%
moved = 8192**2 * (2 + 1 / 2 + 4 / 64)  # bytes: bfloat16, codes, scales
operations = {"quantize": 7 * 8192**2, "dequantize": 8192**2}
chip = {"bandwidth": moved / seconds["dequantize"]["copy"], "peak": 67e12}
points = {
    f"{case}, {who}": (operations[case], moved, row[who])
    for case, row in seconds.items()
    for who in ("plain PyTorch", "bitsandbytes", "Triton")
}

# %%
reached = [n / s / min(67e12, chip["bandwidth"] * n / m) for n, m, s in points.values()]
text = "; ".join(f"{name} {share:.0%}" for name, share in zip(points, reached, strict=True))
figures.roofline(points, **chip, title="8192 × 8192, H200", alt=f"Share of what the chip allows: {text}.")

# %% [markdown]
# And a whole training step? Time of ours over peft's with bitsandbytes, real shapes, random weights (recorded):

# %%
from statistics import median

steps = records.read("bench_gpu_qlora_step")["results"]
ratio = {(row["case"], row["ours"]): f"{median(row['ratios']):.2f}" for row in steps}
shapes = list(dict.fromkeys(case for case, _ in ratio))
compare(
    model_and_tokens=shapes,
    plain=[ratio[case, "plain"] for case in shapes],
    kernels=[ratio[case, "triton"] for case in shapes],
)

# %% [markdown]
# (Medians of 40 rounds; single rounds lie between 0.6 and 1.9.) With plain PyTorch the course's layers cost 1.2 to 1.4
# times as much as the professionals', with the kernels about as much. `lora_edu.accel.use_kernels(model)` puts them in;
# for a model on a CPU, loops compiled by numba. The lines you wrote stay the lesson.
#
# ### When not to use it
#
# When the model fits in 16 bits with LoRA, use that: nothing is dequantized, and nothing lost by rounding. On a model
# as small as ours 4 bits gain nothing. If a low rank is not enough for your task (notebook 05), 4 bits do not help.

# %%
progress("09")

# %% [markdown]
# ## Summary
#
# - 4-bit weights do not train: an update is smaller than the gaps between levels. QLoRA is LoRA over $\hat W$.
# - The wide weight exists in a product, forward and backward. Between the two only codes wait. The price is time.
# - A peak is weights, what trains, activations and logits. 4 bits shrink only the first: a 7B takes 5 to 7 GB.
# - Checkpointing shrinks activations for one more forward. Paging guards the optimizer against spikes.
# - Limit: the 7B peaks are of random weights in real shapes, three steps long. They say nothing about quality.
#
# **Next question:** the layer stands. Does it fine-tune a real model, start to end, on your own data? (Notebook
# [10](10_qlora_finetune.ipynb).)
