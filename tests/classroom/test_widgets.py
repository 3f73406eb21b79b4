"""Widgets: what a click or a drag changes, and what is left without a kernel.

No browser here. The file also runs under ipywidgets 7.7.1 and IPython 7.34 (Colab).
"""

import io
import json
import sys
import types

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib import image

from lora_edu.classroom import figures
from lora_edu.classroom.predictions import n01
from lora_edu.classroom.widgets import WIDGET_VIEW, chat, compare, explore, predict


def shown(value):
    """The outputs (data, metadata) that a cell ending in `value` shows."""
    InteractiveShell.instance()
    with capture_output() as captured:
        display(value)
    return [(output.data, output.metadata) for output in captured.outputs]


def static(value):
    """The same without the live view, as text."""
    return json.dumps([output for output in shown(value) if WIDGET_VIEW not in output[0]])


@pytest.mark.parametrize("make", [lambda: question(), lambda: explorer(), lambda: conversation()])
def test_on_colab_one_output_holds_both_forms(make, monkeypatch):
    # Colab keeps the state of widgets in the file. Two outputs would both be seen there.
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    [(data, _)] = shown(make())
    assert WIDGET_VIEW in data and {"text/html", "image/png"} & set(data)


# ---------------------------------------------------------------- predict


def question():
    return predict("Is `B` < A?", ["yes", "no", "both"], answer="no", why="B starts at zero.")


def test_prediction_without_a_kernel_hides_the_answer_behind_a_click():
    _, (data, _) = shown(question())
    before, _, folded = data["text/html"].partition("<details>")
    assert "Is <code>B</code> &lt; A?" in before and "<li>both</li>" in before
    assert "B starts at zero." not in before and "<b>no</b>. <span>B starts at zero.</span>" in folded
    assert data["text/plain"] == "Is `B` < A?\n  - yes\n  - no\n  - both"


def test_prediction_is_live_with_a_kernel_and_its_static_form_does_not_depend_on_it():
    first, second = question(), question()
    (data, _), _ = shown(first)
    assert set(data) == {WIDGET_VIEW} and data[WIDGET_VIEW]["model_id"] == first.widget.model_id
    assert static(first) == static(second)


def test_answer_opens_only_after_committing():
    prediction = question()
    assert prediction.feedback.value == ""
    prediction.buttons[1].click()
    assert "Right. B starts at zero." in prediction.feedback.value
    assert all(button.disabled for button in prediction.buttons)


def test_a_wrong_choice_is_told_the_answer():
    prediction = question()
    prediction.buttons[0].click()
    assert "You said: yes. The answer: no. B starts at zero." in prediction.feedback.value


def test_an_id_stands_for_the_question_in_the_module():
    [*_, last] = n01.PREDICTIONS
    assert predict(f"01.{len(n01.PREDICTIONS)}").question == last
    whole = predict(last.text, last.choices, answer=last.answer, why=last.why)
    assert static(whole) == static(predict(f"01.{len(n01.PREDICTIONS)}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Well?", ["yes"], "yes"), "choices must be at least two"),
        (("Well?", ["yes", "yes"], "yes"), "choices must be at least two different"),
        (("Well?", ["yes", "no"], "maybe"), "answer must be one of .*'maybe'"),
        (("Well?", ["yes", "no"]), "answer must be one of .*''"),
        (("Well?",), r"must be an id such as '01.4', got 'Well\?'"),
        (("01.99",), "question must be one of .*'01.1', .* got '01.99'"),
        (("99.1",), r"question must be one of \[\], got '99.1'"),
    ],
)
def test_predict_names_the_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(*arguments)


# ---------------------------------------------------------------- compare


def test_comparison_is_a_table_and_a_text():
    data, _ = shown(compare(sentence=["a < b", "c"], after_training=["x", "y"]))[0]
    assert data["text/html"].count("<tr>") == 3
    assert "after training" in data["text/html"] and "a &lt; b" in data["text/html"]
    assert data["text/plain"].splitlines()[:2] == ["sentence        a < b", "after training  x"]


def test_comparison_takes_single_texts():
    assert "before  one\nafter   two" in repr(compare(before="one", after="two"))


@pytest.mark.parametrize("columns", [{"a": ["x"]}, {"a": ["x"], "b": ["x", "y"]}])
def test_compare_names_the_bad_argument(columns):
    with pytest.raises(ValueError, match="columns must be at least two, of equal length"):
        compare(**columns)


# ---------------------------------------------------------------- explore


def draw(ax, rank, noise):
    values = [noise + 1 / (step + rank) for step in range(20)]
    return figures.lines({"error": values}, ax=ax, alt=f"rank {rank}, noise {noise:g}")


def explorer(**options):
    return explore(draw, rank=range(1, 5), noise=[0.0, 0.5], **options)


def test_moving_a_slider_changes_picture_and_text():
    ours = explorer(start={"rank": 2})
    before = ours.image.value
    assert ours.caption.value == "rank 2, noise 0"
    ours.sliders["rank"].value = 4
    ours.sliders["noise"].value = 0.5
    assert ours.image.value != before
    assert ours.caption.value == "rank 4, noise 0.5"


def test_a_picture_does_not_depend_on_the_way_there():
    straight, around = explorer(), explorer()
    straight.sliders["rank"].value = 3
    for rank in (4, 2, 3):
        around.sliders["rank"].value = rank
    assert straight.image.value == around.image.value


def test_play_runs_through_the_values_and_starts_where_the_slider_stands():
    ours = explorer(start={"rank": 2})
    row, noise, *_ = ours.widget.children
    slider, play = row.children
    assert noise is ours.sliders["noise"]  # two values are no sequence
    assert play.value == 1 and play.max == 3
    play.value += 1  # what the front end does at each beat
    assert slider.value == 3 and ours.caption.value == "rank 3, noise 0"
    slider.value = 1
    assert play.value == 0


def test_words_have_no_order_to_run_through():
    ours = explore(lambda ax, kind: draw(ax, 1, len(kind)), kind=["q", "kk", "vvv"])
    assert ours.widget.children[0] is ours.sliders["kind"]


def test_labels_that_grow_are_not_cut_off():
    def bars(ax, length):
        return figures.next_token({"a" * length: 0.5, "b": 0.1}, right="b", ax=ax, alt=f"length {length}")

    ours = explore(bars, length=[1, 20])
    png, _ = ours.frame(length=20)
    page = image.imread(io.BytesIO(png))
    inside, corner = page[6:-6, 6:-6], slice(40, -40)  # of the card's own edge, which is round at its corners
    paper = inside[0, inside.shape[1] // 2]
    edges = inside[0, corner], inside[-1, corner], inside[corner, 0], inside[corner, -1]
    assert all((line == paper).all() for line in edges)
    assert png == figures.to_png(bars(None, 20))


def test_a_frame_is_drawn_once():
    drawn = []

    def counted(ax, **values):
        drawn.append(values)
        return draw(ax, **values)

    ours = explore(counted, rank=[1, 2], noise=[0.0, 0.5])
    for rank in (2, 1, 2, 1):
        ours.sliders["rank"].value = rank
    assert len(drawn) == 2


def test_sweep_draws_every_value_of_every_control():
    texts = [text for _, text in explorer(start={"noise": 0.5}).sweep()]
    assert texts == [f"rank {r}, noise 0.5" for r in range(1, 5)] + ["rank 1, noise 0", "rank 1, noise 0.5"]


def test_sweep_meets_the_value_that_fails():
    ours = explore(lambda ax, x: figures.lines({"y": [1 / (x - 2)]}, ax=ax, alt="y"), x=[1, 2])
    with pytest.raises(ZeroDivisionError):
        ours.sweep()


def test_explorer_without_a_kernel_shows_the_picture_and_the_line_for_the_start_values():
    (live, _), (picture, metadata), (text, _) = shown(explorer(start={"rank": 3}))
    assert set(live) == {WIDGET_VIEW} and set(picture) == {"image/png"}
    assert metadata["image/png"]["alt"] == "rank 3, noise 0"
    assert "<p>rank 3, noise 0</p>" in text["text/html"] and text["text/plain"] == "rank 3, noise 0"
    assert static(explorer()) == static(explorer())


def test_several_panels_share_the_sliders():
    def both(left, right, rank):
        draw(left, rank, 0.0)
        draw(right, rank, 0.5)

    ours = explore(both, panels=2, rank=[1, 2])
    assert ours.caption.value == "rank 1, noise 0 rank 1, noise 0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "controls must be at least one"),
        ({"rank": [1]}, "two or more values"),
        ({"rank": [1, 2], "start": {"rank": 7}}, "start must name values of .*rank=7"),
        ({"rank": [1, 2], "start": {"r": 1}}, "start must name values of .*r=1"),
    ],
)
def test_explore_names_the_bad_argument(options, message):
    with pytest.raises(ValueError, match=message):
        explore(draw, **options)


# ---------------------------------------------------------------- chat


def shout(speaker, messages):
    return f"{speaker} <{messages[-1]['content'].upper()}>"


def conversation(reply=shout):
    return chat(reply, ["ann", "bob"], opening=[("ann", "hi & bye")])


def write(ours, speaker, message):
    ours.speaker.value, ours.message.value = speaker, message
    ours.send.click()


def test_the_speaker_changes_between_turns():
    ours = conversation()
    write(ours, "bob", " how? ")
    write(ours, "ann", "why?")
    assert ours.turns[1:] == [("bob", "how?", "bob <HOW?>"), ("ann", "why?", "ann <WHY?>")]
    assert "<b>bob:</b> bob &lt;HOW?&gt;" in ours.transcript.value
    assert ours.message.value == "" and not ours.send.disabled


def test_a_reply_sees_the_conversation_so_far():
    ours = conversation(lambda speaker, messages: " ".join(m["role"][0] + m["content"] for m in messages))
    write(ours, "bob", "now")
    assert ours.turns[1][2] == "uhi & bye auhi & bye unow"


def test_nothing_is_sent_without_a_message():
    ours = conversation()
    write(ours, "bob", "  ")
    assert len(ours.turns) == 1


def test_a_reply_that_fails_is_told_and_the_chat_goes_on():
    ours = conversation()
    ours._reply = lambda *_: [][0]
    write(ours, "bob", "well?")
    assert "No reply: IndexError: list index out of range" in ours.status.value
    assert len(ours.turns) == 1 and ours.message.value == "well?" and not ours.send.disabled
    ours._reply = shout
    ours.send.click()
    assert len(ours.turns) == 2 and "No reply" not in ours.status.value


def test_a_reply_grows_in_the_transcript():
    seen, ours = [], conversation()

    def grow(speaker, messages):
        for text in ("O", "Oh", "Oh <dear>"):
            yield text
            seen.append(ours.transcript.value)

    ours._reply = grow
    write(ours, "bob", "well?")
    assert ours.turns[-1] == ("bob", "well?", "Oh <dear>") and len(ours.turns) == 2
    assert ["<b>bob:</b> Oh" in html for html in seen] == [False, True, True]
    assert all('aria-busy="true"' in html for html in seen) and "aria-busy" not in ours.transcript.value
    assert "Oh &lt;dear&gt;" in ours.transcript.value and ours.message.value == ""


@pytest.mark.parametrize(("texts", "told"), [(["Oh"], "ZeroDivisionError"), ([], "ZeroDivisionError")])
def test_a_reply_that_breaks_off_is_no_turn(texts, told):
    def break_off(speaker, messages):
        yield from texts
        raise ZeroDivisionError("gone")

    ours = conversation()
    before, ours._reply = ours.transcript.value, break_off
    write(ours, "bob", "well?")
    assert f"No reply: {told}: gone" in ours.status.value and not ours.send.disabled
    assert ours.transcript.value == before and len(ours.turns) == 1
    ours._reply = lambda *_: iter(())
    ours.send.click()
    assert "reply must return text or yield some" in ours.status.value


def test_chat_without_a_kernel_shows_the_opening():
    _, (data, _) = shown(conversation())
    assert "<b>you:</b> hi &amp; bye<br><b>ann:</b> ann &lt;HI &amp; BYE&gt;" in data["text/html"]
    assert data["text/plain"] == "you: hi & bye\nann: ann <HI & BYE>"
    assert static(conversation()) == static(conversation())


@pytest.mark.parametrize(
    ("speakers", "opening", "message"),
    [
        (["ann"], [], "speakers must be at least two different names"),
        (["ann", "ann"], [], "speakers must be at least two different names"),
        (["ann", "bob"], [("cid", "hi")], "opening must name speakers among .*'cid'"),
    ],
)
def test_chat_names_the_bad_argument(speakers, opening, message):
    with pytest.raises(ValueError, match=message):
        chat(shout, speakers, opening)
