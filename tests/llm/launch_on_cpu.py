"""Runs of ``lora_edu.llm.finetune`` in 16 bits on CPUs, one after the other in the same processes.

    torchrun ... launch_on_cpu.py RUNS

RUNS is a JSON file: a list of ``{"flags": [...], "environment": {...}}``. Where a run's environment asks for it, the
model is sharded. Both need GPUs otherwise: accelerate takes FSDP for what it is only where it finds GPUs, so it is told
afterwards what it would have found out. Between two runs it forgets what it found out in the first.
"""

import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

import transformers
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import FullyShardedDataParallelPlugin

from lora_edu.llm.finetune.__main__ import main
from lora_edu.llm.finetune.sharding import is_sharded

accelerator_init = Accelerator.__init__
arguments_init = transformers.TrainingArguments.__post_init__


def with_autocast(arguments):
    arguments.bf16 = True
    arguments_init(arguments)


def with_fsdp(accelerator, *values, **named):
    accelerator_init(accelerator, *values, **named)
    if is_sharded():
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.fsdp_plugin.set_mixed_precision("bf16")


transformers.TrainingArguments.__post_init__ = with_autocast
Accelerator.__init__ = with_fsdp
for run in json.loads(Path(sys.argv[1]).read_text()):
    with patch.dict(os.environ, run["environment"]), patch.object(sys, "argv", ["finetune", *run["flags"]]):
        if status := main():
            sys.exit(status)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
