"""What is learned: the course's events and personas, and your own conversations, read and checked line by line.

``events`` and ``personas`` are the course's data. ``rows`` reads your own, ``conversations`` checks it, ``arrange``
shares it out, ``doctor`` looks at it before a model does. ``extraction`` is how a sentence is asked about and an answer
counted, ``dialogue`` how all turns of a conversation are scored, ``lines`` how any file of JSON Lines is read.
"""

from lora_edu.llm.data.events import EVENT_FIELDS, load_events
from lora_edu.llm.data.lines import DATA
from lora_edu.llm.data.personas import PERSONAS, load_persona, load_persona_questions

__all__ = ["DATA", "EVENT_FIELDS", "PERSONAS", "load_events", "load_persona", "load_persona_questions"]
