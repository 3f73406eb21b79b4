"""The recorded capstone, as notebook 00 shows it."""

from lora_edu.classroom import records
from lora_edu.classroom.experiments import capstone
from lora_edu.llm.data import extraction


def runs():
    return [records.read(f"events_qlora_cpu_seed{seed}") for seed in range(3)]


def test_a_cut_answer_says_so_and_a_whole_one_is_whole():
    run = {"answers": [{"sentence": "s", "before": "one two", "answer": "a"}] * 2}
    assert capstone.before_and_after(run, [0, 1], width=7)["before"] == ["one two"] * 2
    assert capstone.before_and_after(run, [0], width=4)["before"] == ["one …"]
    recorded = capstone.before_and_after(runs()[0], (0, 1, 49))
    for entry, shown in zip((0, 1, 49), recorded["before"], strict=True):
        answer = runs()[0]["answers"][entry]["before"]
        assert shown == answer or (
            shown.endswith(" …") and answer.startswith(shown[:-2]) and len(answer) > 100
        )


def test_the_scores_are_those_of_the_answers():
    """Counted again from the recorded answers of the seed whose answers are kept."""
    [run, *_] = runs()
    row = dict(zip(capstone.GROUPS, capstone.scores(runs())[0], strict=True))
    for group, unseen in (("fine-tuned, seen forms", False), ("fine-tuned, unseen forms", True)):
        kept = [entry for entry in run["answers"] if entry["unseen_pattern"] is unseen]
        right = [extraction.parse_event(entry["answer"]) == entry["event"] for entry in kept]
        assert sum(right) / len(right) == row[group]
