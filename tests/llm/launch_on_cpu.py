"""``lora_edu.llm.finetune`` in 16 bits on CPUs, and sharded where the environment asks; both need GPUs otherwise.

accelerate takes FSDP for what it is only where it finds GPUs, so it is told afterwards what it would have found out.
"""

import sys

import transformers
from accelerate import Accelerator, DistributedType
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
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.fsdp_plugin.set_mixed_precision("bf16")


transformers.TrainingArguments.__post_init__ = with_autocast
if is_sharded():
    Accelerator.__init__ = with_fsdp
sys.exit(main())
