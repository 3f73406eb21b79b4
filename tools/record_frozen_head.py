"""Record how far a head alone gets: the classes of `record_classifier.py`, read off the frozen base.

    python -m tools.record_frozen_head

Writes data/runs/frozen_head.json. While the base is frozen, what it says of a sentence does not change: 576 numbers at
the last token. So they are computed once, and the head is fitted to the end, as logistic regression, its strength
of regularization chosen by cross-validation on the training sentences alone.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, DataCollatorWithPadding

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from tools.record_classifier import KINDS, examples, new_model

TARGET = Path(__file__).resolve().parents[1] / "data" / "runs" / "frozen_head.json"
FOLDS = 5


@torch.no_grad()
def features(part: str, model: Any, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the base computes at the last token of each sentence, (sentences, 576), and the classes."""
    lines, collate = examples(part, tokenizer), DataCollatorWithPadding(tokenizer)
    classes = np.array([line.pop("labels") for line in lines])
    batches: list[Any] = [collate(lines[start : start + 50]) for start in range(0, len(lines), 50)]
    outputs = [model(**batch.to(model.device)).logits.cpu() for batch in batches]
    return torch.cat(outputs).numpy(), classes


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    model = new_model(seed=0).eval()
    model.score = torch.nn.Identity()  # the model then returns what a head would see
    (X, y), (X_test, y_test) = (features(part, model, tokenizer) for part in ("train", "test"))
    head = LogisticRegressionCV(cv=FOLDS, max_iter=5000)
    fitted = make_pipeline(StandardScaler(), head).fit(X, y)
    content = {
        "command": "python -m tools.record_frozen_head",
        **provenance(),
        "settings": {"classes": KINDS, "folds": FOLDS},
        "train": fitted.score(X, y),
        "after": fitted.score(X_test, y_test),
        "most_frequent_class": np.bincount(y_test).max().item() / len(y_test),
    }
    print({key: content[key] for key in ("train", "after", "most_frequent_class")})
    write_json(TARGET, content)


if __name__ == "__main__":
    main()
