"""Right answers that are written in another way than the solution: each passes its check."""

import copy
import fractions
import functools
import itertools
import json
import math
import random
import statistics
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.checks import HINT, PASS, check
from lora_edu.classroom.experiments import digit_reader
from lora_edu.llm.surgery import linear_layers
from lora_edu.methods.blockwise import dequantize_blockwise, nearest_level, quantize_blockwise
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4
from lora_edu.methods.qlora import NF4Linear
from tests.classroom.test_checks import EXERCISES

WAYS = []


def right(key):
    """Record a right answer to an exercise."""

    def record(function):
        WAYS.append((key, function))
        return function

    return record


# ------------------------------------------------ 00 and 01

right("00.1")(statistics.fmean)
right("00.1")(lambda marks: marks.count(True) / len(marks))
right("00.1")(lambda marks: fractions.Fraction(sum(marks), len(marks)))
right("00.1")(np.mean)

right("01.1")(lambda W, X: (W @ X.T).T)
right("01.1")(lambda W, X: F.linear(X, W))
right("01.1")(lambda W, X: torch.einsum("oi,bi->bo", W, X))
right("01.1")(lambda W, X: torch.stack([W @ x for x in X]))
right("01.1")(lambda W, X: (X[:, None, :] * W).sum(-1))
right("01.1")(lambda W, X: X.double() @ W.double().T)

right("01.2")(lambda m, n, r: m * r + r * n)
right("01.2")(lambda m, n, r: torch.zeros(m, r).numel() + torch.zeros(r, n).numel())


@right("01.3")
def sum_of_terms(W, r):
    U, S, Vh = torch.linalg.svd(W)
    return sum(S[k] * torch.outer(U[:, k], Vh[k]) for k in range(r))


@right("01.3")
def small_ones_zeroed(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    S[r:] = 0
    return U @ S.diag() @ Vh


@right("01.3")
def projected(W, r):
    _, vectors = torch.linalg.eigh(W.T @ W)
    V = vectors[:, -r:]
    return W @ V @ V.T


right("01.4")(lambda W, W_hat: float(torch.dist(W, W_hat) / torch.dist(W, torch.zeros_like(W))))
right("01.4")(lambda W, W_hat: math.sqrt((W - W_hat).square().sum() / W.square().sum()))
right("01.4")(lambda W, W_hat: float(np.linalg.norm((W - W_hat).numpy()) / np.linalg.norm(W.numpy())))


@right("01.5")
def as_close_as_our_own(candidate):
    for m, n, r in ((5, 7, 2), (9, 4, 3), (6, 6, 1)):
        W = torch.randn(m, n, dtype=torch.float64)
        torch.testing.assert_close(candidate(W, r), sum_of_terms(W, r), rtol=1e-3, atol=1e-3)
    return True


@right("01.5")
def by_what_is_left(candidate):
    W = torch.randn(7, 5).double()
    S = torch.linalg.svdvals(W)
    left = [torch.linalg.svdvals(W - candidate(W, r)) for r in range(1, 5)]
    return all(F.pad(S[r:], (0, r)).allclose(left[r - 1], rtol=1e-3, atol=1e-3) for r in range(1, 5))


@right("01.6")
def orthonormal_at_each_half(W, start, rounds):
    Q = torch.linalg.qr(W @ start)[0]
    for _ in range(rounds):
        Q = torch.linalg.qr(W.T @ Q)[0]
        Q = torch.linalg.qr(W @ Q)[0]
    return float(torch.dist(W, Q @ Q.T @ W) / W.norm())


@right("01.6")
def by_the_svd_of_the_columns(W, start, rounds):
    for _ in range(rounds):
        start = W.T @ torch.linalg.svd(W @ start, full_matrices=False)[0]
    Q = torch.linalg.svd((W @ start).double(), full_matrices=False)[0].float()
    return ((W - Q @ (Q.T @ W)).norm() / W.norm()).item()


# ------------------------------------------------ 02 and 03

right("02.1")(lambda X, E: (X.T @ E).T)
right("02.1")(lambda X, E: torch.einsum("bo,bi->oi", E, X))
right("02.1")(lambda X, E: (E[:, :, None] * X[:, None, :]).sum(0))
right("02.1")(lambda X, E: sum(torch.outer(e, x) for e, x in zip(E, X, strict=True)))
right("02.1")(lambda X, E: E.float().T @ X.float())


@right("02.1")
def by_autograd(X, E):
    W = torch.zeros(E.shape[1], X.shape[1], dtype=X.dtype, requires_grad=True)
    (X @ W.T).backward(E)
    return W.grad


@right("02.2")
def in_a_loop(S, share):
    total, kept = sum(s**2 for s in S.tolist()), 0.0
    for rank, s in enumerate(S.tolist(), start=1):
        kept += s**2
        if kept >= share * total:
            return rank
    return len(S)


right("02.2")(lambda S, share: 1 + int(torch.searchsorted((S**2).cumsum(0), share * (S**2).sum())))
right("02.2")(lambda S, share: ((S / S.norm()).square().cumsum(0) >= share).int().argmax().item() + 1)
right("02.2")(lambda S, share: np.searchsorted(np.cumsum(S.numpy() ** 2) / np.sum(S.numpy() ** 2), share) + 1)

right("02.3")(lambda W, W_tuned, r: W + sum_of_terms(W_tuned - W, r))
right("02.3")(lambda W, W_tuned, r: projected(W_tuned - W, r) + W)


@right("03.1")
def by_shapes(config, r):
    h, m = config["hidden_size"], config["intermediate_size"]
    k = h * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = [(h, h), (k, h), (k, h), (h, h), (m, h), (m, h), (h, m)] * config["num_hidden_layers"]
    return sum(torch.empty(r, side, device="meta").numel() for shape in shapes for side in shape)


@right("03.1")
def by_the_model(config, r):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **config))
    return sum(r * sum(layer.weight.shape) for layer in linear_layers(model).values())


right("03.2")(lambda m, n: 1 / (1 / m + 1 / n))
right("03.2")(lambda m, n: statistics.harmonic_mean([m, n]) / 2)
right("03.2")(lambda m, n: fractions.Fraction(m * n, m + n))


@right("03.3")
def layer_by_layer(shapes, r, bits):
    total = 0
    for d_out, d_in in shapes:
        total += d_out * r * bits + r * d_in * bits
    return total / 8


right("03.3")(lambda shapes, r, bits: r * sum(map(sum, shapes)) * (bits / 8))


@right("03.4")
def neither_saves_nor_costs(candidate):
    rng = random.Random(1)
    for _ in range(20):
        m, n = rng.randint(1, 5000), rng.randint(1, 5000)
        saved = m * n - candidate(m, n) * (m + n)
        assert abs(saved) < 1e-5 * m * n
    return True


@right("03.4")
def by_shares(candidate):
    return all(
        abs(candidate(m, n) / m + candidate(m, n) / n - 1) < 1e-5 for m in (1, 3, 50) for n in (2, 7, 999)
    )


@right("03.5")
def by_the_object(model):
    kept = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    return sum(t.nbytes for t in kept.values())


@right("03.5")
def by_the_memory(model):
    kept = {t.data_ptr(): t.numel() * t.element_size() for t in model.state_dict().values()}
    return sum(kept.values())


# ------------------------------------------------ 04 and 05


@right("04.1")
def update_formed(x, W, lora_A, lora_B, lora_alpha):
    r = lora_B.shape[-1]
    return x @ (W + lora_B @ lora_A * (lora_alpha / r)).T


@right("04.1")
def by_linear(x, W, lora_A, lora_B, lora_alpha):
    return F.linear(x, W) + F.linear(F.linear(x, lora_A), lora_B) * lora_alpha / len(lora_A)


@right("04.1")
def by_einsum(x, W, lora_A, lora_B, lora_alpha):
    base = torch.einsum("...i,oi->...o", x, W)
    return base + lora_alpha / lora_A.size(0) * torch.einsum("...i,ri,or->...o", x, lora_A, lora_B)


@right("04.2")
def on_a_copy(W, lora_A, lora_B, lora_alpha):
    merged = W.clone()
    merged += lora_alpha / lora_B.shape[1] * (lora_B @ lora_A)
    return merged


@right("04.2")
def term_by_term(W, lora_A, lora_B, lora_alpha):
    terms = (torch.outer(lora_B[:, k], lora_A[k]) for k in range(len(lora_A)))
    return W + sum(terms) * lora_alpha / len(lora_A)


right("04.2")(lambda W, A, B, alpha: torch.addmm(W, B, A, alpha=alpha / len(A)))


@right("04.3")
def gradients_by_autograd(x, grad_y, lora_A, lora_B, scaling):
    A, B = (t.clone().requires_grad_() for t in (lora_A, lora_B))
    return torch.autograd.grad(scaling * x @ A.T @ B.T, (A, B), grad_y)


@right("04.3")
def gradients_row_by_row(x, grad_y, lora_A, lora_B, scaling):
    grad_A, grad_B = torch.zeros_like(lora_A), torch.zeros_like(lora_B)
    for row, g in zip(x, grad_y, strict=True):
        grad_A += scaling * torch.outer(lora_B.T @ g, row)
        grad_B += scaling * torch.outer(g, lora_A @ row)
    return [grad_A, grad_B]


@right("04.3")
def gradients_through_W(x, grad_y, lora_A, lora_B, scaling):
    G = scaling * grad_y.T @ x
    return lora_B.T @ G, G @ lora_A.T


@right("04.4")
def step_as_one_product(grad_W, lora_A, scaling, learning_rate):
    return -learning_rate * scaling**2 * grad_W @ (lora_A.T @ lora_A)


@right("04.4")
def step_by_autograd(grad_W, lora_A, scaling, learning_rate):
    lora_B = torch.zeros(len(grad_W), len(lora_A), dtype=grad_W.dtype, requires_grad=True)
    (grad_W * (scaling * lora_B @ lora_A)).sum().backward()
    return scaling * (-learning_rate * lora_B.grad) @ lora_A


@right("04.5")
def dropout_on_the_rows(x, keep, p, W, lora_A, lora_B, scaling):
    return F.linear(x, W) + scaling / (1 - p) * (x * keep) @ (lora_B @ lora_A).T


@right("04.5")
def dropout_by_where(x, keep, p, W, lora_A, lora_B, scaling):
    dropped = torch.where(keep == 1, x / (1 - p), 0)
    return x @ W.T + (dropped @ lora_A.T @ lora_B.T) * scaling


@right("05.1")
def all_off_then_on(model):
    model.requires_grad_(False)
    trains = [p for name, p in model.named_parameters() if name.split(".")[-1] in {"lora_A", "lora_B"}]
    for parameter in trains:
        parameter.requires_grad = True
    return trains


@right("05.1")
def by_the_layers(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
    return tuple(p.requires_grad_(True) for layer in layers for p in (layer.lora_A, layer.lora_B))


right("05.2")(lambda validation, test: test[validation.quantile(0.5, dim=1).argmax()])
right("05.2")(
    lambda v, t: max(zip(v, t, strict=True), key=lambda pair: statistics.median(pair[0].tolist()))[1]
)
right("05.2")(lambda v, t: t[np.median(v.numpy(), axis=1).argmax()])
right("05.3")(lambda r, lora_alpha, use_rslora: lora_alpha / r**0.5 if use_rslora else lora_alpha / r)
right("05.3")(lambda r, lora_alpha, use_rslora: lora_alpha * r ** (-0.5 if use_rslora else -1.0))
right("05.4")(lambda model: 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad))


@right("05.4")
def state_of_adam(model):
    total = 0
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        averages = torch.zeros_like(parameter), torch.zeros_like(parameter)
        total += sum(average.numel() * average.element_size() for average in averages)
    return total


@right("05.5")
def by_the_layer(candidate):
    layer = LoRALinear(nn.Linear(7, 4, bias=False), r=3, lora_alpha=2)
    nn.init.normal_(layer.lora_B)
    parts = [part.detach() for part in (layer.base_layer.weight, layer.lora_A, layer.lora_B)]
    x = torch.randn(4, 7)
    torch.testing.assert_close(x @ candidate(*parts, 2).T, layer(x).detach(), rtol=1e-3, atol=1e-3)
    return True


@right("05.5")
def with_the_inputs_one_by_one(candidate):
    W, A, B = torch.randn(3, 6), torch.randn(2, 6), torch.randn(3, 2)
    merged = candidate(W, A, B, lora_alpha=5.0)
    columns = [W[:, i] + 2.5 * B @ A[:, i] for i in range(6)]
    return len(merged.T) == 6 and all(map(functools.partial(torch.allclose, atol=1e-3), merged.T, columns))


def over_each_linear(base):
    model = copy.deepcopy(base)
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            model[i] = LoRALinear(layer, r=2, lora_alpha=4)
    return model


@right("05.6")
def with_what_trains(base, X, y, seed):
    torch.manual_seed(seed)
    model = over_each_linear(base)
    return digit_reader.train(model, (X, y), learning_rate=0.03, steps=10)


@right("05.6")
def with_groups_added_late(base, X, y, seed):
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(base.parameters(), lr=0.03)
    model, losses = over_each_linear(base), []
    optimizer.add_param_group({"params": [p for p in model.parameters() if p.requires_grad]})
    for _ in range(10):
        model.zero_grad()
        loss = F.nll_loss(model(X).log_softmax(dim=1), y)
        loss.backward()
        optimizer.step()
        losses += [loss.item()]
    return losses


# ------------------------------------------------ 06 and 07

right("06.1")(lambda logits, labels: F.nll_loss(logits[:-1].log_softmax(-1), labels[1:]))


@right("06.1")
def place_by_place(logits, labels):
    losses = [torch.logsumexp(logits[t], 0) - logits[t, k] for t, k in enumerate(labels[1:]) if k != -100]
    return sum(losses) / len(losses)


@right("06.1")
def masked(logits, labels):
    picked = logits[:-1].softmax(-1).log().gather(1, labels[1:, None].clamp(min=0))[:, 0]
    scored = (labels[1:] != -100).double()
    return -(picked * scored).sum() / scored.sum()


@right("06.2")
def in_a_plain_loop(model, target_modules):
    found = []
    for path, module in model.named_modules():
        if type(module) is nn.Linear and any(
            ("." + path).endswith("." + target) for target in target_modules
        ):
            found.append(path)
    return tuple(found)


right("06.2")(
    lambda model, targets: [
        path
        for path, m in model.named_modules()
        if m.__class__ == nn.Linear and path.rpartition(".")[2] in set(targets)
    ]
)
right("06.3")(lambda prompt, answer, end: ([*prompt, *answer, end], [-100 for _ in prompt] + answer + [end]))


@right("06.3")
def appended(prompt, answer, end):
    tokens = list(prompt)
    labels = len(prompt) * [-100]
    for token in itertools.chain(answer, (end,)):
        tokens.append(token)
        labels.append(token)
    return [tokens, labels]


@right("07.1")
def by_ldexp(sign, exponent, fraction, exponent_bits, fraction_bits):
    whole = (1 << fraction_bits) + fraction
    value = math.ldexp(whole, exponent - (2 ** (exponent_bits - 1) - 1) - fraction_bits)
    return -value if sign else value


@right("07.1")
def by_the_bits(sign, exponent, fraction, exponent_bits, fraction_bits):
    exponent += 127 - (2 ** (exponent_bits - 1) - 1)
    bits = sign << 31 | exponent << 23 | fraction << (23 - fraction_bits)
    return struct.unpack(">f", bits.to_bytes(4, "big"))[0]


right("07.2")(lambda x, code: min(range(len(code)), key=lambda i: abs(x - code[i])))
right("07.2")(lambda x, code: (code - x).square().argmin().item())
right("07.2")(lambda x, code: int(torch.bucketize(torch.tensor(x), (code[1:] + code[:-1]) / 2)))
right("07.2")(lambda x, code: np.abs(code.numpy() - x).argmin())


@right("07.3")
def by_argmin(W, code, blocksize):
    blocks = W.reshape(-1, blocksize)
    absmax = blocks.abs().max(dim=1).values
    indices = (blocks[..., None] / absmax[:, None, None] - code).abs().argmin(-1)
    return indices.reshape(W.shape), absmax


@right("07.3")
def in_units_of_the_weights(W, code, blocksize):
    indices, absmax = [], []
    for block in W.flatten().split(blocksize):
        absmax.append(block.abs().max())
        indices += [((weight - absmax[-1] * code) ** 2).argmin().item() for weight in block]
    return [torch.tensor(indices, dtype=torch.int16).view_as(W), torch.stack(absmax).double()]


right("07.4")(lambda bits, blocksize, constant_bits: (bits * blocksize + constant_bits) / blocksize)
right("07.4")(lambda bits, blocksize, constant_bits: fractions.Fraction(constant_bits, blocksize) + bits)


@right("07.5")
def in_two_shapes(quantize):
    code = nf4_code()
    for shape, blocksize in (((8, 24), 16), ((5, 40), 20)):
        W = 3 * torch.randn(shape)
        W[0, 1] = -50
        indices, absmax = quantize(W, code, blocksize)
        back = dequantize_blockwise(indices.to(torch.uint8), absmax, code, blocksize)
        limit = W.abs().view(-1, blocksize).amax(1).repeat_interleave(blocksize).view(shape)
        if ((back - W).abs() > limit * code.diff().max() / 1.999).any():
            return False
    return True


@right("07.5")
def weight_by_weight(quantize):
    W, code = [0.7, -0.2, 0.65, -9.0, 0.3, 0.33, 0.1, -0.35, 2.0, 4.0, 2.0, -2.3], [-1, -0.5, -0.4, 0.2, 1]
    indices, absmax = quantize(torch.tensor(W).view(2, 6), torch.tensor(code), 3)
    back = [code[i] * absmax[k // 3].item() for k, i in enumerate(indices.flatten().tolist())]
    largest = [max(map(abs, W[k - k % 3 : k - k % 3 + 3])) for k in range(12)]
    assert len(absmax) == 4
    assert all(abs(w - b) <= a * 0.4001 for w, b, a in zip(W, back, largest, strict=True))
    return True


@right("07.6")
def with_a_copy_for_each_size(W, code, sizes):
    errors = []
    for size in sizes:
        blocks = W.clone().view(-1, size)
        absmax = blocks.abs().amax(1, keepdim=True)
        blocks /= absmax
        lost = (blocks - code[nearest_level(blocks, code)]) * absmax
        errors.append(lost.norm().item() / W.norm().item())
    return errors


@right("07.6")
def by_the_library(W, code, sizes):
    pairs = [(dequantize_blockwise(*quantize_blockwise(W, code, size), code, size), W) for size in sizes]
    return [((copy - W).norm() / W.norm()).item() for copy, W in pairs]


# ------------------------------------------------ 08 and 09


@right("08.1")
def by_erfinv(offset):
    def quantile(p):
        return math.sqrt(2) * torch.erfinv(2 * p - 1)

    positive = quantile(torch.linspace(0.5, offset, 9, dtype=torch.float64)[1:])
    negative = quantile(torch.linspace(1 - offset, 0.5, 8, dtype=torch.float64)[:-1])
    return torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive]) / positive.max()


@right("08.1")
def by_statistics(offset):
    quantile = statistics.NormalDist().inv_cdf
    positive = [quantile(0.5 + (offset - 0.5) * k / 8) for k in range(1, 9)]
    negative = [-quantile(0.5 + (offset - 0.5) * k / 7) for k in range(1, 8)]
    return torch.tensor(sorted([*negative, 0.0, *positive]), dtype=torch.float64) / max(positive)


@right("08.2")
def divided_last(block):
    low, high = block.min(), block.max()
    return low + (high - low) * ((block - low) / (high - low) * 15).round() / 15


@right("08.2")
def nearest_of_the_levels(block):
    levels = torch.linspace(block.min().item(), block.max().item(), 16, dtype=block.dtype)
    return levels[(block[:, None] - levels).abs().argmin(1)]


@right("08.2")
def from_the_top(block):
    step = (block.max() - block.min()) / 15
    return block.max() - step * torch.floor((block.max() - block) / step + 0.5)


@right("08.2")
def in_float32(block):
    return divided_last(block.float())


right("08.3")(lambda indices: indices[::2] << 4 | indices[1::2])
right("08.3")(lambda indices: indices.view(-1, 2)[:, 0] * 16 + indices.view(-1, 2)[:, 1])
right("08.3")(lambda i: torch.tensor([16 * a + b for a, b in i.view(-1, 2).tolist()], dtype=torch.uint8))
right("08.3")(lambda i: (i.reshape(-1, 2).int() @ torch.tensor([16, 1], dtype=torch.int32)).to(torch.uint8))
right("08.4")(lambda blocksize, nested: 4 + (8 + 32 / nested) / blocksize)
right("08.4")(lambda b, n: (4 * b * n + 8 * n + 32) / (b * n))


@right("08.5")
def asserted(round_trip):
    once = round_trip(torch.randn(10, 64))
    torch.testing.assert_close(round_trip(once), once)
    return True


@right("08.5")
def by_the_length_of_what_is_lost(round_trip):
    once = round_trip(3 * torch.randn(640))
    return ((round_trip(once) - once).norm() < 1e-4 * once.norm()).item()


@right("08.6")
def on_255_levels(absmax, blocksize):
    levels, deviation = torch.linspace(-1, 1, 255), (absmax - absmax.mean()).view(-1, blocksize)
    largest = deviation.abs().amax(1, keepdim=True)
    return (levels[nearest_level(deviation / largest, levels)] * largest).flatten() + absmax.mean()


@right("08.6")
def block_after_block(absmax, blocksize):
    mean = absmax.double().mean()
    blocks = [(absmax - mean).double() for absmax in absmax.split(blocksize)]
    steps = [block.abs().max() / 127 for block in blocks]
    codes = [(block / step).round().to(torch.int8) for block, step in zip(blocks, steps, strict=True)]
    return torch.cat([code * step + mean for code, step in zip(codes, steps, strict=True)])


@right("09.1")
def weight_formed(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    W = dequantize_nf4(packed, quant_state)
    return F.linear(x, W + (lora_alpha / lora_B.shape[1]) * lora_B @ lora_A)


@right("09.1")
def side_by_side(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    W = dequantize_nf4(packed, quant_state)
    update = torch.einsum("bi,ri,or->bo", x, lora_A, lora_B) * lora_alpha / lora_A.shape[0]
    return torch.einsum("bi,oi->bo", x, W) + update


class SavesByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, packed, quant_state):
        ctx.stored = packed, quant_state
        return F.linear(x, dequantize_nf4(packed, quant_state))

    @staticmethod
    def backward(ctx, grad_y):
        return torch.einsum("bo,oi->bi", grad_y, dequantize_nf4(*ctx.stored)), None, None


right("09.2")(SavesByHand.apply)


class InTwoHalves(torch.autograd.Function):
    @staticmethod
    def forward(x, packed, quant_state):
        return x.mm(dequantize_nf4(packed, quant_state).t())

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, packed, ctx.quant_state = inputs
        ctx.save_for_backward(packed)

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y.mm(dequantize_nf4(*ctx.saved_tensors, ctx.quant_state)), None, None


right("09.2")(lambda x, packed, quant_state: InTwoHalves.apply(x, packed, quant_state))


@right("09.3")
def by_the_blocks(d_in, d_out, r):
    blocks = d_in * d_out // 64
    adapter = (d_in * r + r * d_out) * 4
    return [d_in * d_out * 4 // 8, blocks + blocks // 256 * 4, adapter, adapter, adapter * 2]


right("09.3")(
    lambda d_in, d_out, r: tuple(
        int(size)
        for size in (
            d_in * d_out / 2,
            d_in * d_out * (8 / 64 + 32 / (64 * 256)) / 8,
            *(n * 4 * r * (d_in + d_out) for n in (1, 1, 2)),
        )
    )
)


@right("09.4")
def two_layers(layer):
    for d_in, d_out, r, lora_alpha in ((64, 32, 2, 8.0), (64, 16, 4, 6.0)):
        shapes = (7, d_in), (d_out, d_in), (r, d_in), (d_out, r)
        x, W, A, B = (torch.randn(shape) for shape in shapes)
        base = x @ dequantize_nf4(*quantize_nf4(W)).T
        torch.testing.assert_close(
            layer(x, W, A, B, lora_alpha), base + lora_alpha / r * (x @ A.T) @ B.T, rtol=1e-3, atol=1e-3
        )
    return True


@right("09.4")
def against_the_courses_layer(layer):
    linear = nn.Linear(64, 24, bias=False)
    lora = LoRALinear(NF4Linear.from_linear(linear, double_quant=False), r=5, lora_alpha=4)
    nn.init.normal_(lora.lora_B)
    x = torch.randn(9, 64)
    with torch.no_grad():
        y = layer(x, linear.weight.detach(), lora.lora_A.detach(), lora.lora_B.detach(), 4.0)
        return torch.allclose(y, lora(x), rtol=1e-3, atol=1e-3)


@right("09.5")
def without_a_room(x, layers):
    if not layers:
        return x
    first, *others = layers
    return without_a_room(x @ dequantize_nf4(*first).T, others) @ dequantize_nf4(*first)


@right("09.5")
def through_functions(x, layers):
    x = y = x.clone().requires_grad_()
    for layer in layers:
        y = SavesByHand.apply(y, *layer)
    return torch.autograd.grad(y.square().sum() / 2, x)[0]


def test_a_wide_copy_for_each_layer_is_refused(capsys):
    def with_copies(x, layers):
        weights = [dequantize_nf4(*layer) for layer in layers]
        for W in weights:
            x = x @ W.T
        for W in reversed(weights):
            x = x @ W
        return x

    assert check("09.5", with_copies) == HINT
    assert "one weight at a time is wide" in capsys.readouterr().out


# ------------------------------------------------ 10, 11 and 12


@right("10.1")
def in_a_loop_with_try(answers, references):
    hits = 0
    for answer, reference in zip(answers, references, strict=True):
        try:
            hits += json.loads(answer) == reference
        except ValueError:
            continue
    return hits / len(answers)


@right("10.1")
def by_sorted_text(answers, references):
    def canonical(text):
        try:
            return json.dumps(json.loads(text), sort_keys=True)
        except json.JSONDecodeError:
            return None

    wanted = [json.dumps(reference, sort_keys=True) for reference in references]
    return np.mean([canonical(a) == w for a, w in zip(answers, wanted, strict=True)])


@right("10.2")
def counted_in_a_loop(model):
    trains = total = 0
    for _, parameter in model.named_parameters():
        total += math.prod(parameter.shape)
        trains += math.prod(parameter.shape) * parameter.requires_grad
    return trains / total


right("10.2")(
    lambda m: (
        1
        - sum(p.numel() for p in m.parameters() if not p.requires_grad)
        / sum(p.numel() for p in m.parameters())
    )
)
right("10.3")(lambda W, W2, D: float(torch.sum((W2 - W) * D) / torch.sum(D * D)))
right("10.3")(lambda W, W2, D: torch.dot((W2 - W).flatten(), D.flatten()).item() / D.norm().item() ** 2)
right("10.3")(lambda W, W2, D: (torch.trace((W2 - W).T @ D) / torch.trace(D.T @ D)).item())


@right("11.1")
def row_by_row(X, W, adapters, names):
    rows = []
    for x, name in zip(X, names, strict=True):
        y = W @ x
        if name in adapters:
            A, B, scaling = adapters[name]
            y = y + scaling * (B @ (A @ x))
        rows.append(y)
    return torch.stack(rows)


@right("11.1")
def adapter_by_adapter(X, W, adapters, names):
    Y = X @ W.T
    for name, (A, B, scaling) in adapters.items():
        mask = torch.tensor([other == name for other in names])
        Y[mask] = Y[mask] + scaling * (X[mask] @ A.T) @ B.T
    return Y


@right("11.1")
def weights_formed(X, W, adapters, names):
    nothing = torch.zeros(1, W.shape[1]), torch.zeros(W.shape[0], 1), 0.0
    each = (adapters.get(name, nothing) for name in names)
    return torch.stack([(W + s * (B @ A)) @ x for x, (A, B, s) in zip(X.double(), each, strict=True)])


right("11.2")(lambda memory, base, adapter: (memory - base) // adapter if memory > base else 0)
right("11.2")(lambda memory, base, adapter: divmod(max(memory - base, 0), adapter)[0])
right("11.2")(lambda memory, base, adapter: max(0, math.floor((memory - base) / adapter)))
right("11.3")(lambda h, down, up: h + (h @ down.T).clamp(min=0) @ up.T)
right("11.3")(lambda h, down, up: h + torch.stack([up @ F.relu(down @ row) for row in h]))
right("11.3")(lambda h, down, up: h.float() + F.linear(F.linear(h, down).relu(), up).float())


@right("11.4")
def by_scaled_dot_product(q, K, V, prefix_K, prefix_V):
    keys, values = torch.vstack([prefix_K, K]), torch.vstack([prefix_V, V])
    return F.scaled_dot_product_attention(q[None, None], keys[None], values[None])[0, 0]


@right("11.4")
def tokens_first(q, K, V, prefix_K, prefix_V):
    scores = torch.cat([K, prefix_K]) @ q / math.sqrt(len(q))
    weights = scores.exp() / scores.exp().sum()
    return (weights[:, None] * torch.cat([V, prefix_V])).sum(0)


@right("12.1")
def any_that_is_not(gradient, scale):
    if gradient.isinf().any() or gradient.isnan().any():
        return None, scale * 0.5
    return gradient.to(torch.float32).div(scale), scale


@right("12.1")
def in_float64(gradient, scale):
    good = all(map(math.isfinite, gradient.tolist()))
    return [gradient.double() * (1 / scale), scale] if good else [None, scale / 2]


@right("12.2")
def by_hand(model):
    sizes = []
    for path, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            update = layer.scaling * layer.lora_B @ layer.lora_A
            sizes.append([path, (update.norm() / layer.base_layer.weight.norm()).item()])
    return sizes


@right("12.3")
def with_finally(model, X, y):
    mode = model.training
    try:
        model.eval()
        with torch.inference_mode():
            return float((model(X).argmax(-1) == y).float().mean())
    finally:
        model.train(mode)


@right("12.3")
def counted(model, X, y):
    before = model.training
    hits = sum(int(answer) == int(label) for answer, label in zip(model.eval()(X).argmax(1), y, strict=True))
    if before:
        model.train()
    return hits / len(y)


GROUPS = {
    "tokens": ["activations", "logits"],
    "weights": ["weights", "quantization constants"],
    "adapters": ["adapters", "gradients", "optimizer"],
}


@right("12.4")
def sorted_by_sum(ledger):
    return sorted(GROUPS, key=lambda group: -sum(map(ledger.get, GROUPS[group])))[0]


@right("12.4")
def by_comparison(ledger):
    tokens, weights, adapters = (functools.reduce(int.__add__, map(ledger.get, g)) for g in GROUPS.values())
    if tokens > weights and tokens > adapters:
        return "tokens"
    return "weights" if weights > adapters else "adapters"


@right("13.1")
def as_sets(layers, blocks):
    every = itertools.product(range(blocks), {kind for _, kind in layers})
    return sorted(set(every) - set(layers))


right("13.2")(lambda r, lora_alpha, use_rslora: r * (lora_alpha / (math.sqrt(r) if use_rslora else r)))
right("13.2")(lambda r, lora_alpha, use_rslora: lora_alpha * (r**0.5) ** int(use_rslora))


@right("13.3")
def by_index(rows, heads):
    d = len(rows) // heads
    return rows[[head * d + i + side for head in range(heads) for i in range(d // 2) for side in (0, d // 2)]]


@right("13.3")
def stacked_halves(rows, heads):
    woven = []
    for head in rows.chunk(heads):
        first, second = head.chunk(2)
        woven.append(torch.stack([first, second], dim=1).flatten(0, 1))
    return torch.cat(woven)


@pytest.mark.parametrize(("key", "answer"), WAYS, ids=[f"{key}-{way.__name__}" for key, way in WAYS])
def test_another_right_way_passes(key, answer, capsys):
    status = check(key, answer)
    assert status == PASS, capsys.readouterr().out


def test_every_exercise_has_another_right_way():
    assert {key for key, _ in WAYS} == set(EXERCISES)
