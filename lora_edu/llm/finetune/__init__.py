"""Fine-tune a language model, on event sentences or on your own data: as a function, and as a command.

    python -m lora_edu.llm.finetune --output build/runs/qlora
    python -m lora_edu.llm.finetune --output build/runs/mine --model auto --dataset mine.jsonl
    python -m lora_edu.llm.finetune --output build/runs/hub --dataset owner/name --columns prompt=question \\
        completion=answer --epochs 2 --over-length drop --validation-fraction 0.1 --patience 3

A setting travels one way, through one file after the other:

``config``
    What the user says, checked when it is made.
``reading``
    The data: what is learned from, what is kept back for validation, what is asked.
``recipe``, ``memory``, ``plan``
    What machine, data and model make of it: dtype, optimizer, batch, memory (`lora_edu.llm.budget`), examples.
    Settled once, before a weight is loaded, and frozen. Below it nothing asks the machine again.
``backends`` (``sharding``)
    peft over transformers, our own layers, or every weight.
``graph_shapes``, ``graphs``, ``scored_loss``
    On a GPU: a step as a CUDA graph at a few padded lengths, its loss computed of scored tokens alone.
``run_folder``
    Whose the folder is, a lock while the run lives, checkpoints that are trusted only when whole.
``arguments``, ``trainer``
    transformers' ``Trainer`` over accelerate, which is the loop.
``record``
    run.json, written last; its keys stand in that file's docstring. And its summary.
``run``
    The fine-tune, as these steps.

A run's folder holds ``run.json``; ``adapter/`` in PEFT's format (``model/``, the whole model, after full fine-tuning);
``checkpoints/``, the last two, from which ``--resume`` goes on; ``config.json``, by which a folder is known to hold a
run; ``before.json``, what the base answered. What lies there under these names and was not written by a run is left
alone: such a folder is refused.
"""

from lora_edu.llm.finetune.config import FinetuneConfig
from lora_edu.llm.finetune.record import summary
from lora_edu.llm.finetune.run import Run, finetune
from lora_edu.llm.finetune.trainer import DivergedError

__all__ = ["DivergedError", "FinetuneConfig", "Run", "finetune", "summary"]
