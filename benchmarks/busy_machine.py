"""What do as many threads as there are free cores gain, beside others who compute?

    python -m benchmarks.busy_machine [--json FILE] [--quick] [--rounds N]

Four answers of the base model in NF4, on the CPU: with as many threads as PyTorch starts with, and with as many as
`lora_edu.llm.threads` finds free (its own look, 0.3 s, is counted). First with nothing beside, then beside processes
that do nothing but compute: two for each core. It keeps the whole machine busy for minutes, so `make bench` leaves it
out. The rows hold for a machine that is free otherwise: look at `load_average_before` in the record.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks._harness import Race, Result, Settings, main
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data import load_events
from lora_edu.llm.data.extraction import generate_answers
from lora_edu.llm.threads import use_free_cores


def measure(settings: Settings) -> list[Result]:
    at_start = torch.get_num_threads()
    model, tokenizer = load_base_model(quantization="nf4")
    sentences = [line["sentence"] for line in load_events("test")[: 1 if settings.quick else 4]]

    def answers() -> list[str]:
        return generate_answers(model, tokenizer, sentences, max_new_tokens=2 if settings.quick else 32)

    def with_all() -> tuple[list[str], str]:
        torch.set_num_threads(at_start)
        return answers(), f"{at_start} threads"

    def with_free() -> tuple[list[str], str]:
        reason = use_free_cores()
        return answers(), reason

    busy = 1 if settings.quick else 2 * (os.cpu_count() or 1)
    return [race(with_all, with_free, count, settings) for count in (0, busy)]


def race(with_all, with_free, count: int, settings: Settings) -> Result:
    """A row: both ways beside so many busy processes."""
    with busy_processes(count):
        both = Race({"all cores": with_all, "free cores": with_free}, settings)
    (theirs, _), (ours, reason) = both.outputs["all cores"], both.outputs["free cores"]
    same = "same answers" if ours == theirs else "other answers"
    case = f"{count} busy process{'' if count == 1 else 'es'}"
    return both.result(case, "free cores", "all cores", f"{same}; {reason}")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that keep a core busy each, until the block ends or this process dies."""
    command = [sys.executable, "-c", "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], measure)
