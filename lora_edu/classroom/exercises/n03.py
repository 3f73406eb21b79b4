"""Exercises of notebook 03."""

from lora_edu.classroom.checks import Exercise, WrongAnswer

# ---------------------------------------------------------------- 03.1 lora_parameter_count(d_in, d_out, r)


def lora_parameter_count(d_in: int, d_out: int, r: int) -> int:
    """Numbers in B (d_out, r) and A (r, d_in) together."""
    return r * (d_in + d_out)


def _base_weight(d_in, d_out, r):
    return d_in * d_out


def _base_too(d_in, d_out, r):
    return d_in * d_out + r * (d_in + d_out)


def _sizes_multiplied(d_in, d_out, r):
    return r * d_in * d_out


def _both_have_inputs(d_in, d_out, r):
    return 2 * r * d_in


def _both_have_outputs(d_in, d_out, r):
    return 2 * r * d_out


def _twice(d_in, d_out, r):
    return 2 * r * (d_in + d_out)


def _A_only(d_in, d_out, r):
    return r * d_in


def _B_only(d_in, d_out, r):
    return r * d_out


def _alpha_too(d_in, d_out, r):
    return r * (d_in + d_out) + 1


def _with_biases(d_in, d_out, r):
    return r * (d_in + d_out) + r + d_out


def _with_one_bias(d_in, d_out, r):
    return r * (d_in + d_out) + d_out


def _with_the_bias_of_A(d_in, d_out, r):
    return r * (d_in + d_out) + r


def _rank_is_min_shape(d_in, d_out, r):
    return min(d_in, d_out) * (d_in + d_out)


def _degrees_of_freedom(d_in, d_out, r):
    return r * (d_in + d_out - r)


def _layers():
    return [
        (8192, 8192, 8),
        (10_000, 10_000, 8),
        (576, 192, 16),
        (4096, 14336, 1),
        (14336, 4096, 3),
        (3, 5, 2),
    ]


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
        solution=lora_parameter_count,
        cases=_layers,
        wrong_answers=(
            WrongAnswer(_base_weight, "Those are the numbers of W, which stays frozen. Count the update's."),
            WrongAnswer(_base_too, "You count W too. It stays frozen, and the adapter does not hold it."),
            WrongAnswer(
                _sizes_multiplied,
                "You multiply d_in by d_out. No factor has that shape: each has one long side, the other is r.",
            ),
            WrongAnswer(
                _both_have_inputs,
                "Right for a square layer alone: you give both factors d_in. One of them makes the output.",
            ),
            WrongAnswer(
                _both_have_outputs,
                "Right for a square layer alone: you give both factors d_out. One of them meets the input.",
            ),
            WrongAnswer(_twice, "Twice too many: each factor has only one of the two long sides."),
            WrongAnswer(_A_only, "That is A alone. B trains too."),
            WrongAnswer(_B_only, "That is B alone. A trains too."),
            WrongAnswer(
                _alpha_too, "You count alpha. It is a setting that you choose, not a trained number."
            ),
            WrongAnswer(
                _with_biases, "You give A and B biases, as two `nn.Linear` would have. LoRA's have none."
            ),
            WrongAnswer(
                _with_one_bias, "You count a bias of d_out numbers. It belongs to the frozen layer, not to B."
            ),
            WrongAnswer(
                _with_the_bias_of_A,
                "You count r numbers beside A and B. Neither has a bias, and r is a size.",
            ),
            WrongAnswer(
                _rank_is_min_shape, "min(d_in, d_out) is the largest rank that fits. The rank here is r."
            ),
            WrongAnswer(
                _degrees_of_freedom,
                "You count how many numbers can vary freely. Count what B and A store, which is more.",
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
