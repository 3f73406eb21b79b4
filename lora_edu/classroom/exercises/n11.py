"""Exercises of notebook 11."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer

Adapter = tuple[Tensor, Tensor, float]
"""lora_A (r, in), lora_B (out, r) and the scaling."""


def _normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- 11.1 mixed_layer(X, W, adapters, names)


def mixed_layer(X: Tensor, W: Tensor, adapters: dict[str, Adapter], names: list[str]) -> Tensor:
    """Outputs (rows, out) of a layer whose rows (rows, in) each go through the adapter of their name, or none."""
    Y = X @ W.T
    for row, name in enumerate(names):
        if name in adapters:
            lora_A, lora_B, scaling = adapters[name]
            Y[row] += scaling * lora_B @ (lora_A @ X[row])
    return Y


def _update(x, adapter):
    lora_A, lora_B, scaling = adapter
    return scaling * x @ lora_A.T @ lora_B.T


def _every_adapter_on_every_row(X, W, adapters, names):
    return X @ W.T + sum(_update(X, adapters[name]) for name in set(names) & set(adapters))


def _first_adapter_for_all(X, W, adapters, names):
    first = next((name for name in names if name in adapters), None)
    return X @ W.T + (_update(X, adapters[first]) if first else 0)


def _adapter_without_base(X, W, adapters, names):
    return torch.stack(
        [_update(x, adapters[name]) if name in adapters else W @ x for x, name in zip(X, names, strict=True)]
    )


def _base_row_is_zero(X, W, adapters, names):
    known = torch.tensor([name in adapters for name in names], dtype=X.dtype)
    return mixed_layer(X, W, adapters, names) * known[:, None]


def _base_row_stops_it(X, W, adapters, names):
    return X @ W.T + torch.stack([_update(x, adapters[name]) for x, name in zip(X, names, strict=True)])


def _scaling_forgotten(X, W, adapters, names):
    return mixed_layer(X, W, {name: (A, B, 1.0) for name, (A, B, _) in adapters.items()}, names)


def _adapters_in_their_own_order(X, W, adapters, names):
    in_order = [*adapters, *["__base__"] * len(names)]
    return mixed_layer(X, W, adapters, in_order[: len(names)])


def _mixed_batches():
    adapters = {
        name: (_normal(seed, 2, 5), _normal(seed + 10, 4, 2), scaling)
        for seed, (name, scaling) in enumerate({"captain": 2.0, "robot": 0.5, "gardener": 3.0}.items())
    }
    W = _normal(20, 4, 5)
    for names in (
        ["robot", "captain", "robot", "gardener"],
        ["gardener", "__base__", "captain"],
        ["__base__"],
    ):
        yield _normal(len(names), len(names), 5), W, adapters, names


# ---------------------------------------------------------------- 11.2 adapters_that_fit(memory, base, adapter)


def adapters_that_fit(memory: int, base: int, adapter: int) -> int:
    """How many adapters fit into the memory beside one base; all in bytes. None fits if the base does not."""
    return max(0, (memory - base) // adapter)


def _base_forgotten(memory, base, adapter):
    return memory // adapter


def _a_base_each(memory, base, adapter):
    return memory // (base + adapter)


def _not_whole(memory, base, adapter):
    return max(0.0, (memory - base) / adapter)


def _rounded_up(memory, base, adapter):
    return max(0, -((base - memory) // adapter))


def _negative(memory, base, adapter):
    return (memory - base) // adapter


def _base_counted_too(memory, base, adapter):
    return 1 + adapters_that_fit(memory, base, adapter)


def _machines():
    return [
        (1000, 400, 7),
        (1000, 400, 100),
        (300, 400, 7),
        (400, 400, 7),
        (16_000_000_000, 538_060_032, 1_843_200),
    ]


# ---------------------------------------------------------------- 11.3 bottleneck_adapter(h, down, up)


def bottleneck_adapter(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """h (rows, d) with what a bottleneck adds: down (m, d), a ReLU, up (d, m). Biases are left out."""
    return h + torch.relu(h @ down.T) @ up.T


def _without_what_came_in(h, down, up):
    return torch.relu(h @ down.T) @ up.T


def _without_bend(h, down, up):
    return h + h @ down.T @ up.T


def _bent_at_the_end(h, down, up):
    return h + torch.relu(h @ down.T @ up.T)


def _bent_at_the_start(h, down, up):
    return h + torch.relu(h) @ down.T @ up.T


def _all_bent(h, down, up):
    return torch.relu(h + h @ down.T @ up.T)


def _bottlenecks():
    return [
        (_normal(1, 3, 6), _normal(2, 2, 6), _normal(3, 6, 2)),
        (_normal(4, 1, 4), _normal(5, 1, 4), _normal(6, 4, 1)),
    ]


def _starts_as_nothing(function, h, down, up) -> bool:
    return torch.allclose(function(h, down, torch.zeros_like(up)).double(), h)


# ---------------------------------------------------------------- 11.4 attend(q, K, V, prefix_K, prefix_V)


def attend(q: Tensor, K: Tensor, V: Tensor, prefix_K: Tensor, prefix_V: Tensor) -> Tensor:
    """What the query q (d) reads from prefix and tokens together: keys (n, d), values (n, d)."""
    keys, values = torch.cat((prefix_K, K)), torch.cat((prefix_V, V))
    return torch.softmax(keys @ q / q.numel() ** 0.5, dim=0) @ values


def _prefix_alone(q, K, V, prefix_K, prefix_V):
    return attend(q, K[:0], V[:0], prefix_K, prefix_V)


def _tokens_alone(q, K, V, prefix_K, prefix_V):
    return attend(q, K, V, prefix_K[:0], prefix_V[:0])


def _two_softmaxes(q, K, V, prefix_K, prefix_V):
    return _prefix_alone(q, K, V, prefix_K, prefix_V) + _tokens_alone(q, K, V, prefix_K, prefix_V)


def _unscaled(q, K, V, prefix_K, prefix_V):
    return attend(q * q.numel() ** 0.5, K, V, prefix_K, prefix_V)


def _divided_by_d(q, K, V, prefix_K, prefix_V):
    return attend(q / q.numel() ** 0.5, K, V, prefix_K, prefix_V)


def _without_softmax(q, K, V, prefix_K, prefix_V):
    return torch.cat((prefix_K, K)) @ q / q.numel() ** 0.5 @ torch.cat((prefix_V, V))


def _values_out_of_step(q, K, V, prefix_K, prefix_V):
    keys, values = torch.cat((prefix_K, K)), torch.cat((V, prefix_V))
    return torch.softmax(keys @ q / q.numel() ** 0.5, dim=0) @ values


def _keys_as_values(q, K, V, prefix_K, prefix_V):
    return attend(q, K, K, prefix_K, prefix_K)


def _attentions():
    for length in (3, 1, 0):
        tokens = [_normal(seed, 4, 8) for seed in (1, 2)]
        prefix = [_normal(seed, length, 8) for seed in (3, 4)]
        yield _normal(length, 8), *tokens, *prefix


def _no_prefix_is_the_base(function, q, K, V, prefix_K, prefix_V) -> bool:
    alone = function(q, K, V, prefix_K[:0], prefix_V[:0]).double()
    return torch.allclose(alone, torch.softmax(K @ q / 8**0.5, dim=0) @ V, rtol=1e-4, atol=1e-6)


EXERCISES = {
    "11.1": Exercise(
        solution=mixed_layer,
        cases=_mixed_batches,
        wrong_answers=(
            WrongAnswer(
                _every_adapter_on_every_row,
                "Every adapter acts on every row. A row belongs to one customer: only that one's update is added.",
            ),
            WrongAnswer(
                _first_adapter_for_all,
                "One adapter answers for the whole batch. Each row brings a name of its own.",
            ),
            WrongAnswer(
                _adapter_without_base,
                "The adapter stands in place of W. It is added to what W says; W was never replaced.",
            ),
            WrongAnswer(
                _base_row_is_zero,
                "A row without an adapter becomes zero. What does the base say to that row?",
            ),
            WrongAnswer(
                _base_row_stops_it, "A name that is no adapter stops you. Such a row wants the base alone."
            ),
            WrongAnswer(
                _scaling_forgotten, "The update is not scaled. Each adapter brings its own alpha / r."
            ),
            WrongAnswer(
                _adapters_in_their_own_order,
                "Row k gets the k-th adapter of the dict. The names say which row wants which one.",
            ),
        ),
    ),
    "11.2": Exercise(
        solution=adapters_that_fit,
        cases=_machines,
        wrong_answers=(
            WrongAnswer(
                _base_forgotten,
                "The whole memory goes to adapters. Without its base an adapter can do nothing.",
            ),
            WrongAnswer(_a_base_each, "You load a base for each adapter. They share one: that is the point."),
            WrongAnswer(_not_whole, "That is not a whole number. Half an adapter serves nobody."),
            WrongAnswer(_rounded_up, "You round up: the last adapter does not fit any more."),
            WrongAnswer(_negative, "Where the base itself does not fit you count below zero."),
            WrongAnswer(_base_counted_too, "You count the base as one of the adapters."),
        ),
    ),
    "11.3": Exercise(
        solution=bottleneck_adapter,
        cases=_bottlenecks,
        wrong_answers=(
            WrongAnswer(
                _without_what_came_in,
                "What came in is lost. The adapter adds to h; with up = 0 it must change nothing.",
            ),
            WrongAnswer(
                _without_bend, "Nothing bends. Two products in a row are one matrix: that is LoRA's shape."
            ),
            WrongAnswer(_bent_at_the_end, "The ReLU acts after the way up. It belongs in the narrow part."),
            WrongAnswer(
                _bent_at_the_start, "The ReLU acts before the way down. It belongs in the narrow part."
            ),
            WrongAnswer(_all_bent, "The ReLU acts on h as well. Only the narrow part is bent."),
        ),
        laws=(Law("with up = 0 the adapter gives back h.", _starts_as_nothing),),
    ),
    "11.4": Exercise(
        solution=attend,
        cases=_attentions,
        wrong_answers=(
            WrongAnswer(_prefix_alone, "The query reads the prefix alone. The tokens are still there."),
            WrongAnswer(_tokens_alone, "The prefix is never read."),
            WrongAnswer(
                _two_softmaxes,
                "Two softmaxes, added: the weights sum to 2. Prefix and tokens share one softmax.",
            ),
            WrongAnswer(_unscaled, "The scores are not divided by the square root of d."),
            WrongAnswer(_divided_by_d, "You divide the scores by d. It is the square root of d."),
            WrongAnswer(
                _without_softmax, "You mix with raw scores. Softmax makes them weights that sum to 1."
            ),
            WrongAnswer(
                _values_out_of_step,
                "Keys and values are in different orders: a weight must meet the value of its key.",
            ),
            WrongAnswer(
                _keys_as_values, "You mix keys. Keys decide how much is read, values are what is read."
            ),
        ),
        laws=(Law("without a prefix the result is that of the tokens alone.", _no_prefix_is_the_base),),
    ),
}
