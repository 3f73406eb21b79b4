"""Schematic drawings, to scale and with live numbers, from one small vocabulary (`parts`)."""

from lora_edu.classroom.figures.schematic.adapter_files import adapter_files
from lora_edu.classroom.figures.schematic.adapters import one_base
from lora_edu.classroom.figures.schematic.block import transformer_block
from lora_edu.classroom.figures.schematic.example import scored_example, scored_rows
from lora_edu.classroom.figures.schematic.job import one_job
from lora_edu.classroom.figures.schematic.layer import lora_layer
from lora_edu.classroom.figures.schematic.life import weight_life
from lora_edu.classroom.figures.schematic.outer import column_times_row
from lora_edu.classroom.figures.schematic.passes import forward_backward
from lora_edu.classroom.figures.schematic.routes import routes
from lora_edu.classroom.figures.schematic.shades import shaded_tokens
from lora_edu.classroom.figures.schematic.stored_bytes import stored_bytes
from lora_edu.classroom.figures.schematic.woven_rows import woven_rows
