"""What a learner clicks and drags.

Each widget can be seen without a kernel (GitHub, HTML, a notebook opened again): it publishes text or a picture as
outputs of their own after the live one, and `_show` sees to it that one of the two forms is seen. `frames` and `pages`
make sliders and predictions live where no Python runs. Only core widgets: ipywidgets 7.7 has them too.
"""

from lora_edu.classroom.widgets._show import WIDGET_VIEW
from lora_edu.classroom.widgets.chat import Chat, chat
from lora_edu.classroom.widgets.compare import Comparison, compare
from lora_edu.classroom.widgets.explore import Explorer, explore
from lora_edu.classroom.widgets.predict import Prediction, predict

__all__ = [
    "WIDGET_VIEW",
    "Chat",
    "Comparison",
    "Explorer",
    "Prediction",
    "chat",
    "compare",
    "explore",
    "predict",
]
