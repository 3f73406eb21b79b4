"""Exercises of notebook 03."""

from lora_edu.classroom.checks import Exercise, WrongAnswer

# ---------------------------------------------------------------- 03.1 count_adapter(config, r)


def _sides(config: dict[str, int]) -> tuple[int, int, int]:
    """Numbers in the residual stream, in keys and values, and inside the MLP."""
    head = config["hidden_size"] // config["num_attention_heads"]
    return config["hidden_size"], head * config["num_key_value_heads"], config["intermediate_size"]


def _attention(hidden: int, keys: int) -> int:
    """What a unit of rank costs on q, o, k and v."""
    return 2 * (hidden + hidden) + 2 * (hidden + keys)


def count_adapter(config: dict[str, int], r: int) -> int:
    """Numbers in B and A of the seven linear layers of every block."""
    hidden, keys, inner = _sides(config)
    return config["num_hidden_layers"] * r * (_attention(hidden, keys) + 3 * (hidden + inner))


def _one_block(config, r):
    return count_adapter(config | {"num_hidden_layers": 1}, r)


def _rank_left_out(config, r):
    return count_adapter(config, 1)


def _as_many_keys_as_queries(config, r):
    return count_adapter(config | {"num_key_value_heads": config["num_attention_heads"]}, r)


def _heads_for_width(config, r):
    hidden, _, inner = _sides(config)
    keys = config["num_key_value_heads"]
    return config["num_hidden_layers"] * r * (_attention(hidden, keys) + 3 * (hidden + inner))


def _divided_by_key_heads(config, r):
    hidden, _, inner = _sides(config)
    keys = hidden // config["num_key_value_heads"]
    return config["num_hidden_layers"] * r * (_attention(hidden, keys) + 3 * (hidden + inner))


def _size_of_a_head(config, r):
    return count_adapter(config | {"num_key_value_heads": 1}, r)


def _attention_alone(config, r):
    hidden, keys, _ = _sides(config)
    return config["num_hidden_layers"] * r * _attention(hidden, keys)


def _mlp_alone(config, r):
    hidden, _, inner = _sides(config)
    return config["num_hidden_layers"] * r * 3 * (hidden + inner)


def _query_and_value_alone(config, r):
    hidden, keys, _ = _sides(config)
    return config["num_hidden_layers"] * r * (hidden + hidden + hidden + keys)


def _mlp_of_two_layers(config, r):
    hidden, keys, inner = _sides(config)
    return config["num_hidden_layers"] * r * (_attention(hidden, keys) + 2 * (hidden + inner))


def _without_output(config, r):
    hidden, keys, inner = _sides(config)
    block = (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return config["num_hidden_layers"] * r * block


def _one_of_k_and_v(config, r):
    hidden, keys, inner = _sides(config)
    block = 2 * (hidden + hidden) + (hidden + keys) + 3 * (hidden + inner)
    return config["num_hidden_layers"] * r * block


def _base_weights_of_the_model(config, r):
    hidden, keys, inner = _sides(config)
    return config["num_hidden_layers"] * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner)


def _base_weights_too(config, r):
    return _base_weights_of_the_model(config, r) + count_adapter(config, r)


def _sides_multiplied(config, r):
    return r * _base_weights_of_the_model(config, r)


def _A_of_each_layer(config, r):
    hidden, _, inner = _sides(config)
    return config["num_hidden_layers"] * r * (6 * hidden + inner)


def _B_of_each_layer(config, r):
    hidden, keys, inner = _sides(config)
    return config["num_hidden_layers"] * r * (3 * hidden + 2 * keys + 2 * inner)


def _both_sides_twice(config, r):
    return 2 * count_adapter(config, r)


def _configurations():
    names = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
    )
    for sides, r in (
        ((8, 20, 4, 1, 2), 3),  # small enough to check by hand
        ((576, 1_536, 9, 3, 30), 8),  # SmolLM2-135M
        ((4_096, 14_336, 32, 8, 32), 8),  # Mistral-7B
        ((2_048, 8_192, 32, 32, 24), 16),  # SmolLM2-1.7B: as many keys as queries
    ):
        yield dict(zip(names, sides, strict=True)), r


# ---------------------------------------------------------------- 03.2 break_even_rank(m, n)


def break_even_rank(m: int, n: int) -> float:
    """The rank r at which r (m + n) = m n."""
    return m * n / (m + n)


def _largest_rank(m, n):
    return min(m, n)


def _half_of_the_smaller(m, n):
    return min(m, n) / 2


def _half_of_the_larger(m, n):
    return max(m, n) / 2


def _half_of_the_rows(m, n):
    return m / 2


def _half_of_the_columns(m, n):
    return n / 2


def _rounded_down(m, n):
    return m * n // (m + n)


def _one_factor(m, n):
    return 2 * m * n / (m + n)


def _upside_down(m, n):
    return (m + n) / (m * n)


def _geometric_mean(m, n):
    return (m * n) ** 0.5


def _shapes():
    return [(576, 192), (192, 576), (8192, 8192), (4096, 1024), (7, 3), (100, 1)]


# ---------------------------------------------------------------- 03.3 adapter_bytes(shapes, r, bits)


def adapter_bytes(shapes: list[tuple[int, int]], r: int, bits: int) -> float:
    """Bytes of the adapter of layers with weights of these shapes (out, in)."""
    return sum(r * (d_out + d_in) for d_out, d_in in shapes) * bits / 8


def _count_of_numbers(shapes, r, bits):
    return sum(r * (d_out + d_in) for d_out, d_in in shapes)


def _bits_as_bytes(shapes, r, bits):
    return _count_of_numbers(shapes, r, bits) * bits


def _always_four_bytes(shapes, r, bits):
    return _count_of_numbers(shapes, r, bits) * 4


def _always_two_bytes(shapes, r, bits):
    return _count_of_numbers(shapes, r, bits) * 2


def _rank_forgotten(shapes, r, bits):
    return adapter_bytes(shapes, 1, bits)


def _rounded_down_at_the_end(shapes, r, bits):
    return _count_of_numbers(shapes, r, bits) * bits // 8


def _whole_bytes(shapes, r, bits):
    return _count_of_numbers(shapes, r, bits) * (bits // 8)


def _base_weights(shapes, r, bits):
    return sum(d_out * d_in for d_out, d_in in shapes) * bits / 8


def _sizes_multiplied_in_layers(shapes, r, bits):
    return r * _base_weights(shapes, r, bits)


def _first_layer_only(shapes, r, bits):
    return adapter_bytes(shapes[:1], r, bits)


def _each_shape_once(shapes, r, bits):
    return adapter_bytes(sorted(set(shapes)), r, bits)


def _both_like_A(shapes, r, bits):
    return sum(2 * r * d_in for _, d_in in shapes) * bits / 8


def _only_A(shapes, r, bits):
    return sum(r * d_in for _, d_in in shapes) * bits / 8


def _only_B(shapes, r, bits):
    return sum(r * d_out for d_out, _ in shapes) * bits / 8


def _in_megabytes(shapes, r, bits):
    return adapter_bytes(shapes, r, bits) / 1e6


def _in_mebibytes(shapes, r, bits):
    return adapter_bytes(shapes, r, bits) / 2**20


def _models():
    return [
        ([(576, 576), (192, 576)] * 2, 8, 32),
        ([(1536, 576), (576, 1536), (576, 576)], 4, 16),
        ([(192, 576)], 2, 4),
        ([(3, 2)], 1, 4),
    ]


EXERCISES = {
    "03.1": Exercise(
        solution=count_adapter,
        cases=_configurations,
        wrong_answers=(
            WrongAnswer(_one_block, "That is one block. The model has `num_hidden_layers` of them."),
            WrongAnswer(_rank_left_out, "That is a unit of rank. B has r columns, and A has r rows."),
            WrongAnswer(
                _as_many_keys_as_queries,
                "You give k and v as many heads as q. Here a few heads of keys and values serve many queries.",
            ),
            WrongAnswer(
                _heads_for_width,
                "`num_key_value_heads` counts heads. k and v put out a whole head's numbers for each.",
            ),
            WrongAnswer(
                _divided_by_key_heads,
                "You divide the hidden size by the heads of the keys. How many numbers has one head of a query?",
            ),
            WrongAnswer(
                _size_of_a_head, "You give k and v one head. They have `num_key_value_heads` of them."
            ),
            WrongAnswer(_attention_alone, "Those are the four layers of attention. The MLP has three more."),
            WrongAnswer(_mlp_alone, "Those are the three layers of the MLP. Attention has four more."),
            WrongAnswer(_query_and_value_alone, "That is q and v alone. Here all seven layers are adapted."),
            WrongAnswer(
                _mlp_of_two_layers, "You count two layers in the MLP. It has three: gate, up and down."
            ),
            WrongAnswer(_without_output, "The output layer o of attention is missing."),
            WrongAnswer(_one_of_k_and_v, "You count one of k and v. Both are there, and of one size."),
            WrongAnswer(
                _base_weights_of_the_model,
                "Those are the numbers of the weights, which stay frozen. Count their B and A.",
            ),
            WrongAnswer(
                _base_weights_too, "You count the frozen weights too. The adapter holds B and A alone."
            ),
            WrongAnswer(
                _sides_multiplied,
                "You multiply the two sides of a layer. Each of B and A has one of them, and its other side is r.",
            ),
            WrongAnswer(_A_of_each_layer, "That is A of every layer. B trains too."),
            WrongAnswer(_B_of_each_layer, "That is B of every layer. A trains too."),
            WrongAnswer(
                _both_sides_twice,
                "Twice too many: B has the outputs and A the inputs, so each side counts once.",
            ),
        ),
    ),
    "03.2": Exercise(
        solution=break_even_rank,
        cases=_shapes,
        wrong_answers=(
            WrongAnswer(
                _largest_rank,
                "That is the largest rank a matrix of this shape can have. B and A cost as much as W before that.",
            ),
            WrongAnswer(
                _half_of_the_smaller,
                "Half of the smaller side is right for a square W alone. Solve r (m + n) = m n for r.",
            ),
            WrongAnswer(
                _half_of_the_larger,
                "Half of the larger side is right for a square W alone, and may be more than any rank that fits.",
            ),
            WrongAnswer(_half_of_the_rows, "Half of m is right for a square W alone. The columns count too."),
            WrongAnswer(_half_of_the_columns, "Half of n is right for a square W alone. The rows count too."),
            WrongAnswer(
                _rounded_down,
                "You round down with `//`. The two counts may meet between two whole ranks: divide with `/`.",
            ),
            WrongAnswer(
                _one_factor,
                "Twice too large: at that rank B and A together hold as many numbers as two W.",
            ),
            WrongAnswer(_upside_down, "Upside down: that is 1 over the rank."),
            WrongAnswer(
                _geometric_mean,
                "That is the side of a square with as many numbers as W. Compare with the numbers of B and A.",
            ),
        ),
    ),
    "03.3": Exercise(
        solution=adapter_bytes,
        cases=_models,
        wrong_answers=(
            WrongAnswer(_count_of_numbers, "You count numbers. How many bytes does each of them take?"),
            WrongAnswer(_bits_as_bytes, "That is in bits, 8 times too many for bytes."),
            WrongAnswer(_always_four_bytes, "You take 4 bytes a number, whatever `bits` says."),
            WrongAnswer(
                _always_two_bytes, "You take 2 bytes a number. That is 16 bits; `bits` may say others."
            ),
            WrongAnswer(_rank_forgotten, "That is rank 1: r is missing. B has r columns and A has r rows."),
            WrongAnswer(
                _rounded_down_at_the_end,
                "`//` loses half a byte: 5 numbers in 4 bits take 2.5 bytes. Divide with `/`.",
            ),
            WrongAnswer(
                _whole_bytes,
                "`bits // 8` is 0 for 4 bits: two such numbers share a byte. Do not round before you multiply.",
            ),
            WrongAnswer(
                _base_weights, "Those are the bytes of the frozen weights. The adapter holds B and A alone."
            ),
            WrongAnswer(
                _sizes_multiplied_in_layers,
                "You multiply the two sides of a layer. Each factor has one of them; its other side is r.",
            ),
            WrongAnswer(_first_layer_only, "That is the first layer alone. Add up all of them."),
            WrongAnswer(
                _each_shape_once, "You count each shape once. Layers of one shape have an adapter each."
            ),
            WrongAnswer(
                _both_like_A,
                "You give both factors the layer's inputs. B's long side is the layer's outputs.",
            ),
            WrongAnswer(_only_A, "That is A of every layer. B is stored too."),
            WrongAnswer(_only_B, "That is B of every layer. A is stored too."),
            WrongAnswer(_in_megabytes, "That is in MB. Return bytes."),
            WrongAnswer(_in_mebibytes, "That is in MiB. Return bytes."),
        ),
    ),
}
