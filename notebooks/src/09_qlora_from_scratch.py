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
# They do not. QLoRA freezes them, makes them wide for the length of a product, and trains LoRA beside them.
#
# **You will** follow one weight, and every byte, through a training step, and write the forward pass of a 4-bit layer
# (deeper: its backward). **You need** LoRA (notebook 04); Adam's averages (notebook
# [05b](05b_cost_and_shipping.ipynb)); NF4's codes and scales (notebook [08](08_nf4.ipynb)).
#
# **Time:** {minutes}. The cells run in about a minute.

# %%
ensure_packages("bitsandbytes")

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check, faulty
from lora_edu.classroom.exercises.n09 import matmul_4bit as in_one_piece
from lora_edu.classroom.experiments import in_memory, one_layer, step_memory
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.base_model import fetch_base_model, load_base_model
from lora_edu.llm.surgery import add_qlora
from lora_edu.methods import nf4
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import QuantState
from lora_edu.methods.packing import unpack_4bit
from lora_edu.methods.qlora import NF4Linear

# %% [markdown]
# ## 1. What does training do to a 4-bit weight?
#
# Here are a query weight of SmolLM2 and the update that full fine-tuning gave it (recorded, notebook 02).

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
# Few codes move, and each of those jumps a whole gap between levels. So what arrives is ten times too large. Along the
# update nearly all of it is there (10 × 0.10), buried in noise. That is luck of a $W$ between the levels; training in 4
# bits would start *on* them:

# %%
start = nf4.dequantize_nf4(*before)
moved = nf4.quantize_nf4(start + dW)[0] != before[0]
f"from the levels: {moved.double().mean():.1%} of the bytes differ"

# %% [markdown]
# From there the same update moves no code. So QLoRA freezes the codes. A product uses $\hat W$, the weight read back,
# and what learns is LoRA:
#
# $$y = x \hat W^\top + \frac{\alpha}{r} (x A^\top) B^\top, \qquad
# \hat W = \text{dequantize}(\text{codes}, \text{scales})$$
#
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), equations 3, 5 and 6.) In the course these are two layers:

# %%
dense = nn.Linear(576, 576, bias=False)
dense.weight.data = W
qlora = LoRALinear(NF4Linear.from_linear(dense), r=8, lora_alpha=16)
{name: f"{tensor.dtype}, {tensor.nbytes:,} bytes" for name, tensor in qlora.base_layer.named_buffers()}

# %% [markdown]
# In notebook 08's words, `packed` holds the codes, `absmax` the scales in 8 bits, `offset` the mean that was subtracted
# from them, `nested_absmax` the scales of the scales, `nested_code` the levels of their 8 bits. All these are
# *buffers*: saved, but found by no optimizer.
#
# Is this LoRA over $\hat W$, and nothing else? And is it the professionals' layer, `Linear4bit` of bitsandbytes? All
# three get the same $A$, $B$ and input, and take one step.

# %%
wide = nn.Linear(576, 576, bias=False)
wide.weight.data = qlora.base_layer.dequantize()
theirs = one_layer.by_bitsandbytes(W)
torch.equal(theirs.weight.flatten(), qlora.base_layer.packed)  # the codes, byte by byte

# %%
lora, peers = (LoRALinear(base, r=8, lora_alpha=16) for base in (wide, theirs))
compare(
    tensor=one_layer.STEP,
    LoRA_over_wide=one_layer.agree(qlora, lora),
    bitsandbytes=one_layer.agree(qlora, peers),
)

# %% [markdown]
# That is the law: **QLoRA is LoRA over the dequantized weight.** The codes of bitsandbytes are the same bytes, and all
# results agree up to rounding. What 4 bits change is the starting point:

# %%
f"the start is off by {(wide.weight - W).norm() / W.norm():.1%} of W"

# %% tags=["claim"]
pair = [records.runs("events_gpu_final", method=m, r=8, backend="peft") for m in ("lora", "qlora")]
first = [[run["losses"][0] for run in runs] for runs in pair]
scores = [sorted(f"{run['exact_match']:.1%}" for run in runs) for runs in pair]
assert [f"{sum(losses) / len(losses):.2f}" for losses in first] == ["0.85", "1.12"] and len(first[0]) == 3
assert (scores[0][0], scores[0][-1], scores[1][0], scores[1][-1]) == ("96.0%", "96.5%", "94.0%", "96.5%")

# %% [markdown]
# The rounding costs something at the start: on notebook 10's events the loss of the first step was about 1.12 in place
# of 0.85 (recorded, three seeds, in float32). Training may make up for it: after 200 steps LoRA got 96.0 to 96.5 %
# right, QLoRA 94.0 to 96.5. In the paper exam questions (MMLU) came out at 53.1 % right with NF4, 53.0 with bf16
# ([table 4](https://arxiv.org/abs/2305.14314)).
#
# ### Exercise 09.1 · The forward pass (two stars, 4 minutes)
#
# Write `qlora_forward(...)` for rows `x` of shape (batch, in). `nf4.dequantize_nf4(packed, quant_state)` gives the
# weight, shape (out, in). `lora_A` is (r, in), `lora_B` is (out, r).


# %% tags=["exercise"]
def qlora_forward(
    x: Tensor, packed: Tensor, quant_state: QuantState, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `r` is `len(lora_A)`. In shapes: (batch, in) times (in, r), then times (r, out).


# %% tags=["solution"]
def qlora_forward(
    x: Tensor, packed: Tensor, quant_state: QuantState, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> Tensor:
    W = nf4.dequantize_nf4(packed, quant_state)
    return x @ W.T + lora_alpha / len(lora_A) * (x @ lora_A.T) @ lora_B.T


# %%
check("09.1", qlora_forward)

# %% [markdown]
# ## 2. When is a 4-bit weight wide?
#
# A training step passes through a 7B model, forward and then back. A bar is a block with its seven linear layers; of
# these, one at a time is wide. Press play.

# %%
explore(one_layer.draw_life, step=one_layer.STEPS)

# %% [markdown]
# Only where the step is, a weight is made wide: in 16 bits, for one product. Then the copy is dropped; the codes never
# left. (Mistral's largest weight, wide, is as large as a whole block in 4 bits.) The price is time: each weight is
# dequantized twice a step. On the way back it is made again, because the gradient passes through it:
#
# $$\frac{\partial L}{\partial X} = \frac{\partial L}{\partial Y} \, \hat W$$
#
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 3.) Now one layer, closely: 4096 × 4096, rank 16,
# 512 tokens. Memory is counted in MiB, $2^{20}$ bytes, and GiB, 1,024 times as much.

# %%
predict("09.2")

# %%
moments, begin = [1, 2, 3, 4, 5], {"method": "QLoRA", "moment": 2}
explore(one_layer.draw_moments, method=one_layer.METHODS, moment=moments, start=begin)

# %% [markdown]
# In the product QLoRA's layer takes more than LoRA's, by its codes. But only one layer is in its product, and all
# others rest at 9.8 MiB in place of 33.5, or wait at 17.8 in place of 41.5. (The input waits in 32 bits, for $A$.)
# "Kept wide" is a careless layer: the copy waits for backward, in *every* layer, and the 4 bits have saved nothing
# (section 4).
#
# | | LoRA | QLoRA |
# |---|---|---|
# | weights of linear layers, stored | 16 bits | 4-bit codes, 8-bit scales, their scales in float32 |
# | the same in a product | bf16 (fp16 on a T4) | bf16 (fp16 on a T4), for that moment |
# | embedding, norms, output head | 16 bits | 16 bits, norms float32 (peft prepares all three so) |
# | $B$, $A$, their gradients | float32 in peft and here | the same (the paper's are bf16) |
# | gradient of $W$ | none | none |
# | Adam's averages | of $B$ and $A$ alone, 32 bits each | the same, or 8 bits each |
#
# (A T4, the GPU of free Colab, has no bf16 arithmetic. Averages of 8 bits are stored as weights are in notebook 08:
# codes in blocks, each with a scale.)

# %% [markdown]
# ## 3. Where do the gigabytes go?
#
# All 210 linear layers of SmolLM2 become NF4, with rank 8 beside each. On our CPU everything else is float32.

# %%
model = load_base_model(dtype="float32")[0].cpu()
model = add_qlora(model, "all-linear", r=8, lora_alpha=16).train()
ids = torch.randint(3, 49_152, (1, 128), generator=torch.Generator().manual_seed(0))

# %%
predict("09.3")

# %% [markdown]
# `predicted` looks at the model's configuration alone. `measured` counts every tensor of one real step, as long as it
# lives.

# %% tags=["measured"]
optimizer = step_memory.optimizer_of(model)
bars = {
    "predicted": step_memory.predicted(128),
    "measured": step_memory.measured(model, optimizer, ids),
}
figures.memory_at_peak(bars, roles=step_memory.ROLES, title="The 4-bit weights are an eighth of the peak")

# %% tags=["claim"]
totals = {name: sum(parts.values()) for name, parts in bars.items()}
assert all(abs(size / bars["measured"][part] - 1) < 0.1 for part, size in bars["predicted"].items())
assert abs(totals["predicted"] / totals["measured"] - 1) < 0.05
assert 0.11 < bars["measured"]["4-bit weights"] / totals["measured"] < 0.14

# %% [markdown]
# The peak comes when the loss is computed: all activations are kept, and each token has 49,152 logits, their
# log-probabilities and a gradient. Gradients of $A$ and $B$ come later, when activations have gone.
#
# On a small model 4 bits gain little. On a 7B they do the work. Recorded on a GPU, one text of 512 tokens, rank 16,
# gradient checkpointing (only each block's input is kept, the rest is computed again; section 5):

# %%
bars, found = step_memory.recorded_peaks()
finding = "QLoRA of a 7B takes 5 to 7 GiB. LoRA in 16 bits fills a T4, or does not fit"
figures.memory_at_peak(
    bars, roles=step_memory.ROLES, measured=found, limit=step_memory.T4, largest=16, title=finding
)

# %% [markdown]
# Parts are predicted, diamonds measured; the sums differ by less than 1 %. LoRA's runs had averages in 32 bits, QLoRA's
# in 8: in 32, Mistral would take 0.23 GiB more. QLoRA's activations are twice LoRA's: float32 norms
# make the kept stream float32.
#
# Seven billion weights at half a byte are 3.3 GiB, so why 4.7? With scales, Mistral's linear layers take 3.35.
# Embedding and head stay in 16 bits, 0.49, and the step adds 0.85. Qwen's vocabulary of 152,064 makes embedding and
# head four times as large.
#
# **How sure is this?** Weights were random, and tensors had a limit of 14.5 GiB. On a T4 the driver takes its share,
# so LoRA's 14.39 would probably not run.

# %% tags=["claim"]
mistral, qwen = (bars[f"{name}, QLoRA"] for name in step_memory.MODELS)
measured_over_predicted = [size / sum(bars[bar].values()) for bar, size in found.items() if size]
assert all(abs(ratio - 1) < 0.01 for ratio in measured_over_predicted) and len(measured_over_predicted) == 3
assert f"{found['Mistral-7B, LoRA']:.2f}" == "14.39" and found["Qwen2.5-7B, LoRA"] is None
assert 4.6 < found["Mistral-7B, QLoRA"] < found["Qwen2.5-7B, QLoRA"] < 7
assert f"{mistral['4-bit weights'] + mistral['their scales']:.2f}" == "3.35"
step = sum(list(mistral.values())[3:])  # what trains, averages, activations, logits
assert f"{mistral['frozen weights']:.2f}" == "0.49" and f"{step:.2f}" == "0.85"
assert 4 < qwen["frozen weights"] / mistral["frozen weights"] < 4.3
QLORA_32, QLORA_8 = (
    sum(step_memory.mistral(way, 16, 512, True).values()) for way in list(step_memory.WAYS)[1:]
)
assert f"{QLORA_32 - QLORA_8:.2f}" == "0.23"

# %% [markdown]
# ## 4. How does a layer keep only its codes?
#
# *Deeper: nothing later needs this section.*
#
# The obvious layer dequantizes, then calls `F.linear`:

# %%
large = NF4Linear.from_linear(nn.Linear(2048, 2048, bias=False))
batch = torch.randn(16, 2048, requires_grad=True)


def obvious(x):
    return F.linear(x, large.dequantize())


# %%
predict("09.4")

# %%
layers = {"obvious": obvious, "NF4Linear": large}
compare(layer=layers, kept=[one_layer.kept_for_backward(layer, batch) for layer in layers.values()])

# %% [markdown]
# `NF4Linear` keeps the codes, which are there anyway, and dequantizes again. That takes a function whose two halves we
# write ourselves, a [torch.autograd.Function](https://docs.pytorch.org/docs/stable/notes/extending.html):
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
# What is the price? Milliseconds for forward and backward, with the weight in 32 bits, with the exercise's solution,
# and with `NF4Linear`, which makes its weight in panels of rows:

# %%
plain = nn.Linear(2048, 2048, bias=False).requires_grad_(False)
layers = {"32_bits": plain, "NF4_in_one_piece": lambda x: in_one_piece(x, large.packed, large.quant_state)}
layers |= {"NF4Linear": large}

# %% tags=["measured"]
tokens = [1, 16, 128]
columns = {
    name: [one_layer.best_milliseconds(layer, 2048, n) for n in tokens] for name, layer in layers.items()
}
compare(tokens=tokens, **columns)

# %% tags=["claim"]
assert torch.allclose(large(batch), obvious(batch), rtol=1e-3, atol=1e-3)
alone = {way: records.runs("events_gpu_alone", cuda_graphs=way) for way in ("off", "on")}
step = {way: [f"{1000 * run['seconds']['step']:.0f}" for run in runs] for way, runs in alone.items()}
assert step == {"off": ["99", "171", "295"], "on": ["42", "41", "66"]}  # full, LoRA, QLoRA

# %% [markdown]
# Each weight is dequantized twice a step, for one token as for many. On a GPU a step of SmolLM2 took 171 ms with LoRA
# and 295 with QLoRA (recorded, in float32). Most of either was starting kernels one by one: CUDA graphs, which start
# them by one call, made it 41 and 66. What is left between them is probably mostly QLoRA's 8-bit optimizer: [a page on
# speed](https://github.com/OWNER/REPO/blob/main/docs/speed.md) timed it. It also tells how close these layers come to
# the professionals' and to the hardware. Notebook [07](07_quantization.ipynb) tells when 4 bits are *faster*.
# (bitsandbytes 0.50 makes the copy whole in backward, and in forward for large batches; for few tokens it multiplies
# straight from the codes.)

# %% [markdown]
# ## 5. What else can be moved out of the way?
#
# *Deeper: nothing later needs this section.*
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
# ### Activations: computed again
#
# **Gradient checkpointing** keeps each block's input alone, and runs its forward again when backward needs the rest
# ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)). The gradients are the same.

# %%
predict("09.5")

# %%
costs = {"all kept": step_memory.cost_of_a_step(model, ids)}
gradient = next(p.grad.clone() for p in model.parameters() if p.requires_grad)
in_memory.checkpoint_blocks(model)

# %% tags=["measured"]
costs["checkpointing"] = step_memory.cost_of_a_step(model, ids)
waiting = [f"{mib:.0f} MiB" for mib, _ in costs.values()]
compare(activations=costs, waiting=waiting, seconds=[f"{seconds:.1f}" for _, seconds in costs.values()])

# %% tags=["claim"]
again = next(p.grad for p in model.parameters() if p.requires_grad)
assert torch.allclose(gradient, again, rtol=1e-3, atol=1e-5)
assert costs["checkpointing"][0] < costs["all kept"][0] / 3
recorded = step_memory.with_and_without_checkpointing()
assert [f"{gib:.2f}" for gib in recorded] == ["3.37", "1.50"]

# %% [markdown]
# The price is one more forward. Over frozen weights backward takes about as long as forward, so a third pass adds up to
# half.
# On a GPU, SmolLM2-1.7B in QLoRA went from 3.37 to 1.50 GiB (recorded, 512 tokens). Predicted for Mistral-7B:

# %%
knobs = {"r": step_memory.RANKS, "tokens": step_memory.TOKENS, "checkpointing": ["on", "off"]}
explore(step_memory.draw_mistral, **knobs, start={"r": 16})

# %% [markdown]
# LoRA and QLoRA have the same optimizer here; the third bar has averages of 8 bits. Tokens cost activations. Rank costs
# what trains, and at 256 its gradients make the peak.
#
# ### Averages: paged
#
# **Paged optimizers** are QLoRA's third idea. The paper's case is a 65B model on a card of 48 GB (GiB, as memory
# chips are counted), with rank 64 on all
# linear layers, and averages in 32 bits:

# %%
in_and_out = 4 * (8192 + 8192) + 3 * (8192 + 22_016)  # of a block: q, k, v, o; gate, up, down
numbers = 64 * 80 * in_and_out
f"{in_and_out:,} × 64 × 80 = {numbers:,} numbers; averages {8 * numbers / 1e9:.1f} GB, {8 * numbers / 2**30:.2f} GiB"

# %%
finding = "Paged averages leave gradients and activations 14.4 GiB in place of 8.5"
figures.memory_at_peak(
    step_memory.llama_65b(), roles=step_memory.STANDING, limit=step_memory.CARD, largest=50, title=finding
)

# %% [markdown]
# (Shapes: [Touvron et al. 2023](https://arxiv.org/abs/2302.13971), table 2; rank and optimizer: [the authors'
# script](https://github.com/artidoro/qlora/blob/main/qlora.py).) Gradients and activations come on top, and the
# activations of one long text could end the run. The averages are used in the optimizer's step alone. So CUDA moves
# them to the CPU's memory, page by page, when the GPU is full, and back when they are used ([Dettmers et al.
# 2023](https://arxiv.org/abs/2305.14314), section 3; at a batch of 16 the authors saw no loss of speed, section 4).
#
# **How sure is this?** This is arithmetic: no run of ours was so full that pages moved.

# %% tags=["claim"]
standing = [sum(parts.values()) for parts in step_memory.llama_65b().values()]
assert [f"{48 - gib:.1f}" for gib in standing] == ["8.5", "14.4"]
assert in_and_out == 156_160 and f"{8 * numbers / 1e9:.1f}" == "6.4"

# %% [markdown]
# ## When not to use it
#
# When the model fits in 16 bits with LoRA, use that: nothing is dequantized, and nothing lost by rounding.

# %% [markdown]
# ## Aside: would you notice a layer that breaks the law?
#
# *Deeper: nothing later needs this section.*
#
# QLoRA is LoRA over the dequantized weight: section 1 showed it for one layer. Here are three with other alphas, as
# they are before training. Which of them says something else than its base?

# %%
x = torch.randn(5, 576)
fresh = [LoRALinear(qlora.base_layer, r=8, lora_alpha=alpha) for alpha in (1, 16, 1000)]
[torch.equal(layer(x), qlora.base_layer(x)) for layer in fresh]

# %% [markdown]
# None: $B$ is zero. A test with such a layer finds no fault in the scaling at all. Write a better one. It gets answers
# that 09.1 refuses, and right ones that compute in other orders.
#
# ### Exercise 09.4 · A test of the law (two stars, 8 minutes)
#
# Write `is_lora_over_4_bits(layer)`. `layer(x, W, lora_A, lora_B, lora_alpha)` quantizes `W`, (out, in), by
# `nf4.quantize_nf4(W)`, and computes the output for rows `x`. True if that is LoRA over $\hat W$, up to rounding. You
# choose the inputs. Right ones may round differently, by up to 0.1 %.


# %% tags=["exercise"]
def is_lora_over_4_bits(layer: Callable) -> bool:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A second route: merge, $\hat W + \frac{\alpha}{r} B A$, and multiply once. `nf4.dequantize_nf4(*nf4.quantize_nf4(W))`
# is $\hat W$. `torch.allclose(..., rtol=1e-3, atol=1e-3)` leaves room. Are in, out, r and alpha all different?


# %% tags=["solution"]
def is_lora_over_4_bits(layer: Callable) -> bool:
    x, W, A, B = (torch.randn(shape) for shape in ((5, 64), (48, 64), (3, 64), (48, 3)))
    merged = nf4.dequantize_nf4(*nf4.quantize_nf4(W)) + 2.0 / 3 * B @ A
    return torch.allclose(layer(x, W, A, B, 2.0), x @ merged.T, rtol=1e-3, atol=1e-3)


# %%
check("09.4", is_lora_over_4_bits)

# %% [markdown]
# And here is a fault in backward. Somebody saves memory. The gradient for $x$, beside that of exercise 09.2's layers:


# %%
def by_autograd(x, layers):
    x = x.clone().requires_grad_()
    y = functools.reduce(lambda y, layer: in_one_piece(y, *layer), layers, x)
    return torch.autograd.grad(y.square().sum() / 2, x)[0].flatten()


# %%
torch.manual_seed(0)
chain = [nf4.quantize_nf4(torch.randn(64, 64) / 8) for _ in range(3)]
x = torch.randn(4, 64)
pairs = [(faulty("09.5")(x, chain[:n]).flatten(), by_autograd(x, chain[:n])) for n in (1, 2, 3)]
compare(layers=[1, 2, 3], cosine=[f"{F.cosine_similarity(*pair, dim=0):.2f}" for pair in pairs])

# %% [markdown]
# Right with one layer, wrong with two. A test of a single layer passes it, and in training only the adapters of the
# last two layers would get the gradient that is theirs.
#
# ### Exercise 09.5 · Right for one layer (three stars, 8 minutes)
#
# Repair it. The loss is half the sum of squares of the last output $y$, so its gradient for $y$ is $y$. `layers` are
# pairs of codes and `QuantState`, all of one size. Of the layers' weights, at most
# one may be wide at a time.


# %% tags=["exercise"]
def input_gradient(x: Tensor, layers: list) -> Tensor:
    room, kept = torch.empty(layers[0][1].shape), []
    for packed, quant_state in layers:
        W = nf4.dequantize_nf4(packed, quant_state, out=room)
        kept.append(W)
        x = x @ W.T
    grad = x
    for W in reversed(kept):
        grad = grad @ W
    return grad


# %% [markdown] tags=["hint"]
# `kept` has as many entries as there are layers. How many memories? `kept[0] is kept[1]` tells. What is in the room
# when backward begins?


# %% tags=["solution"]
def input_gradient(x: Tensor, layers: list) -> Tensor:
    room = torch.empty(layers[0][1].shape)
    for packed, quant_state in layers:
        x = x @ nf4.dequantize_nf4(packed, quant_state, out=room).T
    grad = x
    for packed, quant_state in reversed(layers):
        grad = grad @ nf4.dequantize_nf4(packed, quant_state, out=room)
    return grad


# %%
check("09.5", input_gradient)

# %% tags=["claim"]
right = [torch.allclose(*pair, rtol=1e-3, atol=1e-4) for pair in pairs]
assert right == [True, False, False]

# %%
progress("09")

# %% [markdown]
# ## Summary
#
# - 4-bit weights do not train: an update is smaller than the gaps between levels. QLoRA is LoRA over $\hat W$.
# - The wide weight exists in a product, forward and backward. Between the two only codes wait. The price is time.
# - A peak is weights, what trains, activations and logits. 4 bits shrink only the first: a 7B takes 5 to 7 GiB.
# - Checkpointing shrinks activations for one more forward. Paging guards a run against a long text, by moving Adam's
#   averages out of its way.
# - Limit: the 7B peaks are of random weights. They say nothing about quality.
#
# **Next question:** the layer stands. Does it fine-tune a real model, start to end, on your own data? (Notebook
# [10](10_qlora_finetune.ipynb).)
