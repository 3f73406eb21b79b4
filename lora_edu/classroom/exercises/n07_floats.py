"""Exercise 07.1: the number that the bits of a floating-point format mean."""

from lora_edu.classroom.checks import Exercise, WrongAnswer


def float_value(sign: int, exponent: int, fraction: int, exponent_bits: int, fraction_bits: int) -> float:
    """The number that the three fields of a floating-point format mean, each read as a whole number."""
    bias = 2 ** (exponent_bits - 1) - 1
    return (-1) ** sign * 2.0 ** (exponent - bias) * (1 + fraction / 2**fraction_bits)


def _no_leading_one(sign, exponent, fraction, exponent_bits, fraction_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    return (-1) ** sign * 2.0 ** (exponent - bias) * fraction / 2**fraction_bits


def _no_bias(sign, exponent, fraction, exponent_bits, fraction_bits):
    return (-1) ** sign * 2.0**exponent * (1 + fraction / 2**fraction_bits)


def _bias_one_too_large(sign, exponent, fraction, exponent_bits, fraction_bits):
    return float_value(sign, exponent, fraction, exponent_bits, fraction_bits) / 2


def _bias_of_all_bits(sign, exponent, fraction, exponent_bits, fraction_bits):
    return (-1) ** sign * 2.0 ** (exponent - 2**exponent_bits + 1) * (1 + fraction / 2**fraction_bits)


def _bias_of_fp32(sign, exponent, fraction, exponent_bits, fraction_bits):
    return (-1) ** sign * 2.0 ** (exponent - 127) * (1 + fraction / 2**fraction_bits)


def _no_sign(sign, exponent, fraction, exponent_bits, fraction_bits):
    return float_value(0, exponent, fraction, exponent_bits, fraction_bits)


def _sign_as_factor(sign, exponent, fraction, exponent_bits, fraction_bits):
    return sign * float_value(0, exponent, fraction, exponent_bits, fraction_bits)


def _sign_reversed(sign, exponent, fraction, exponent_bits, fraction_bits):
    return float_value(1 - sign, exponent, fraction, exponent_bits, fraction_bits)


def _minus_one_squared(sign, exponent, fraction, exponent_bits, fraction_bits):
    return -float_value(0, exponent, fraction, exponent_bits, fraction_bits)  # what -1**sign gives


def _fraction_as_decimals(sign, exponent, fraction, exponent_bits, fraction_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    return (-1) ** sign * 2.0 ** (exponent - bias) * float(f"1.{fraction}")


def _whole_fraction(sign, exponent, fraction, exponent_bits, fraction_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    return (-1) ** sign * 2.0 ** (exponent - bias) * (1 + fraction)


def _fraction_of_largest(sign, exponent, fraction, exponent_bits, fraction_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    return (-1) ** sign * 2.0 ** (exponent - bias) * (1 + fraction / (2**fraction_bits - 1))


def _fields():
    return [(0, 123, 77, 8, 7), (1, 128, 64, 8, 7), (1, 14, 853, 5, 10), (0, 7, 5, 4, 3), (0, 131, 1, 8, 23)]


EXERCISE = Exercise(
    solution=float_value,
    cases=_fields,
    wrong_answers=(
        WrongAnswer(
            _no_leading_one, "The 1 before the fraction is missing. It is not stored, but it counts."
        ),
        WrongAnswer(
            _no_bias, "You take the exponent as it is stored. Small numbers need negative powers of 2."
        ),
        WrongAnswer(
            _bias_one_too_large,
            "Half of the right number: your bias is one too large. For 8 exponent bits it is 127.",
        ),
        WrongAnswer(
            _bias_of_all_bits,
            "Your bias is the largest exponent, so that no number above 2 could be written.",
        ),
        WrongAnswer(
            _bias_of_fp32,
            "127 is the bias of 8 exponent bits alone. Other formats have another one.",
        ),
        WrongAnswer(_no_sign, "Negative numbers come out positive: the sign bit has no effect."),
        WrongAnswer(_sign_as_factor, "You multiply by the sign bit. But 0 there means plus, not zero."),
        WrongAnswer(
            _minus_one_squared,
            "Every number comes out negative. Python reads -1**s as -(1**s): put brackets, (-1)**s.",
        ),
        WrongAnswer(
            _fraction_as_decimals,
            "You read the fraction as decimals, 1.77 for 77. Its bits mean halves, quarters, eighths, ...",
        ),
        WrongAnswer(_sign_reversed, "The sign is the wrong way round: bit 1 means minus."),
        WrongAnswer(
            _whole_fraction,
            "You add the fraction as a whole number. Its first bit means one half, its next a quarter.",
        ),
        WrongAnswer(
            _fraction_of_largest,
            "You divide by the largest fraction. Then all ones would mean a full 1, which the next exponent says.",
        ),
    ),
)
