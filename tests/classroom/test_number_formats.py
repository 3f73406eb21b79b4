"""Numbers bit by bit, against Python's own packing, and the figures that show them."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_edu.classroom import figures
from lora_edu.classroom.exercises.n07_floats import float_value
from lora_edu.classroom.experiments import number_formats
from lora_edu.classroom.experiments.number_formats import FLOATS, as_float, as_integer, in_all_formats

SIZES = st.floats(2**-6, 448) | st.floats(-448, -(2**-6))  # normal in every format
ALT = "Bits."


def bits_of(stored):
    return "".join(stored.fields.values())


@pytest.mark.parametrize(("name", "layout"), [("fp32", ">f"), ("fp16", ">e")])
@given(number=st.floats(-65_000, 65_000, width=32))
def test_the_bits_are_those_that_python_packs(name, layout, number):
    packed = struct.pack(layout, number)
    assert bits_of(as_float(number, name)) == "".join(f"{byte:08b}" for byte in packed)
    assert as_float(number, name).value == struct.unpack(layout, packed)[0]


@given(number=st.floats(-(2.0**126), 2.0**126, width=32))
def test_bf16_is_the_front_half_of_fp32_rounded(number):
    near = int(bits_of(as_float(number, "fp32")), 2) / 2**16
    assert abs(int(bits_of(as_float(number, "bf16")), 2) - near) <= 0.5


@pytest.mark.parametrize("name", FLOATS)
@given(number=SIZES)
def test_the_fields_mean_the_value(name, number):
    stored, (_, exponent_bits, fraction_bits) = as_float(number, name), FLOATS[name]
    sign, exponent, fraction = (int(bits, 2) for bits in stored.fields.values())
    assert float_value(sign, exponent, fraction, exponent_bits, fraction_bits) == stored.value
    assert abs(stored.value - number) <= 2.0 ** -(fraction_bits + 1) * abs(number)


@pytest.mark.parametrize("bits", [4, 8])
@given(share=st.floats(-1.5, 1.5), largest=st.floats(1e-3, 1e5))
def test_an_integer_counts_steps_in_twos_complement(bits, share, largest):
    stored, most = as_integer(share * largest, bits, largest), 2 ** (bits - 1) - 1
    [pattern] = stored.fields.values()
    steps = int(pattern, 2) - 2**bits * int(pattern[0])
    assert len(pattern) == bits and abs(steps) <= most
    assert stored.value == pytest.approx(steps * largest / most, rel=1e-6)
    assert abs(steps - max(-1, min(1, share)) * most) <= 0.5 + 1e-4


def test_all_formats_are_shown():
    widths = {name: len(bits_of(stored)) for name, stored in in_all_formats(0.1, largest=1).items()}
    assert widths == {"fp32": 32, "fp16": 16, "bf16": 16, "fp8 E4M3": 8, "int8": 8, "int4": 4}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_float(1.0, "BF32"), "name must be one of .*'bf16'.*, got 'BF32'"),
        (lambda: as_integer(1.0, 4, 0.0), "largest must be above 0, got 0.0"),
        (lambda: as_integer(1.0, 9, 1.0), "bits must be an integer in 2 … 8, got 9"),
        (lambda: figures.bit_fields({}, alt=ALT), "rows must hold at least one row"),
        (
            lambda: figures.bit_fields({"a": ({"sign": "2"}, "")}, alt=ALT),
            "sign of a must be 0s and 1s, got '2'",
        ),
        (
            lambda: figures.error_budget({"a": ([4, 5], [0.2, 0.1])}, chosen=(5, 0.1), along=[64]),
            r"along must have a block size for each point .* got \[64\]",
        ),
        (lambda: figures.error_budget({}, chosen=(4, 0), alt=ALT), "chosen must be two numbers above 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nine_digits_show_that_no_floating_point_format_holds_a_tenth():
    meanings = {name: meaning for name, (_, meaning) in number_formats.rows(0.1, largest=1).items()}
    assert meanings["fp32"] == "0.100000001" and all(meanings[name] != "0.1" for name in FLOATS)
    assert all(float(meanings[name]) == pytest.approx(0.1, rel=0.03) for name in FLOATS)


def test_every_bit_stands_in_the_box_of_its_field():
    rows = {"a": ({"sign": "1", "rest": "0110"}, "-6"), "b": ({"whole": "101"}, "5")}
    picture = figures.bit_fields(rows, alt=ALT)
    figures.to_quick_png(picture)
    widths = [box.get_width() for box in picture.patches]
    assert [width / widths[0] for width in widths] == pytest.approx([1, 4, 3])
    texts = {text.get_text(): text.get_window_extent() for text in picture.texts}
    for box, bits in zip(picture.patches, ["1", "0110", "101"], strict=True):
        inside, outside = texts[bits], box.get_window_extent()
        assert outside.x0 <= inside.x0 and inside.x1 <= outside.x1
        assert outside.y0 <= inside.y0 and inside.y1 <= outside.y1
    assert {"sign", "rest", "whole", "-6", "5"} <= set(texts)


@pytest.mark.parametrize("number", [1e-8, -1.23456789e-30, 0.1, 70_000.0])
def test_no_bits_touch_and_boxes_stand_still(number):
    [used] = figures.new_pictures()
    edges = []
    for drawn in (0.5, number):
        figures.bit_fields(number_formats.rows(drawn, largest=1), ax=used)
        figures.to_quick_png(used)
        assert figures.collisions(used) == []
        edges.append([box.get_window_extent().extents.tolist() for box in used.patches])
    assert edges[0] == edges[1]


def test_the_longest_row_stays_on_the_canvas():
    picture = figures.bit_fields(number_formats.rows(-1.23456789e-30, largest=1), alt=ALT)
    figures.to_quick_png(picture)
    page = picture.get_figure().bbox
    boxes = [text.get_window_extent() for text in picture.texts]
    assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= page.x1


def test_block_sizes_stand_along_the_marked_line_as_far_as_there_is_room():
    sizes = [4096, 512, 64, 32, 16, 8]
    series = {f"{b} bits": ([b + 32 / size for size in sizes], np.geomspace(1, 0.6, 6) / b) for b in (3, 4)}
    bits, errors = series["4 bits"]
    picture = figures.error_budget(series, chosen=(bits[2], errors[2]), along=sizes, title="Blocks")
    figures.to_quick_png(picture)
    named = {
        text.get_text(): text.xy for text in picture.texts if text.get_text() in map("{:,}".format, sizes)
    }
    assert named == {
        f"{size:,}": (bits[k], errors[k]) for k, size in enumerate(sizes) if size in (4096, 32, 16, 8)
    }
    assert figures.collisions(picture) == []


def test_the_choice_is_marked_where_it_lies():
    picture = figures.error_budget({"4 bits": ([4, 5], [0.2, 0.1])}, chosen=(5, 0.1), alt=ALT)
    [mark] = picture.collections
    assert mark.get_offsets().tolist() == [[5, 0.1]]
    assert picture.get_yscale() == "log"
