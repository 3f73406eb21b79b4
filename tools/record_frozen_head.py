"""Record how far a head alone gets: the classes of `record_classifier.py`, read off the frozen base.

    python -m tools.record_frozen_head

Writes data/runs/frozen_head.json. While the base is frozen, what it computes of a sentence does not change. So that is
computed once: 576 numbers a token, after each block (every second one is used). They are read in two ways, at the last
token or as the mean over all tokens, and a head is fitted to the end, as logistic regression. Its strength of
regularization, and which block is read, are chosen on the validation split; then the head is fitted to all training
sentences and scored on the test split.

What a head is worth that nobody trained stands beside it: `DRAWS` random ones, on what the last block gives.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, DataCollatorWithPadding

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from tools.record_classifier import KINDS, examples, new_model

TARGET = Path(__file__).resolve().parents[1] / "data" / "runs" / "frozen_head.json"
READINGS = ("last token", "mean")
STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)  # scikit-learn's C: the smaller, the stronger the regularization
DRAWS = 1000

Parts = dict[str, tuple[np.ndarray, np.ndarray]]


@torch.no_grad()
def features(part: str, body: Any, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the base computes, (readings, blocks + 1, sentences, 576), first before any block, and the classes."""
    lines, collate = examples(part, tokenizer), DataCollatorWithPadding(tokenizer)
    classes = np.array([line.pop("labels") for line in lines])
    found = []
    for start in range(0, len(lines), 50):
        padded: Any = collate(lines[start : start + 50])
        batch = padded.to(body.device)
        states = torch.stack(body(**batch, output_hidden_states=True).hidden_states)
        mask = batch["attention_mask"]
        last = states[:, torch.arange(len(mask)), mask.sum(dim=1) - 1]
        mean = (states * mask[..., None]).sum(dim=2) / mask.sum(dim=1)[:, None]
        found.append(torch.stack([last, mean]).cpu())
    return torch.cat(found, dim=2).numpy(), classes


def head(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))


def score(parts: Parts, reading: int, block: int) -> dict[str, Any]:
    """Choose the strength for one reading of one block, and score it."""
    (X_fit, y_fit), (X_chosen, y_chosen), (X, y), (X_test, y_test) = (
        (found[reading, block], classes) for found, classes in parts.values()
    )
    right = {strength: head(strength).fit(X_fit, y_fit).score(X_chosen, y_chosen) for strength in STRENGTHS}
    best = max(right, key=right.__getitem__)
    fitted = head(best).fit(X, y)
    result = {"reading": READINGS[reading], "block": block, "strength": best, "validation": right[best]}
    result |= {"train": fitted.score(X, y), "after": fitted.score(X_test, y_test)}
    print(result, flush=True)
    return result


def fresh_heads(X: np.ndarray, y: np.ndarray, deviation: float) -> dict[str, Any]:
    """The share right by heads as a new model draws them: least, quartiles, most and mean."""
    heads = torch.randn(DRAWS, len(KINDS), X.shape[1], generator=torch.Generator().manual_seed(0)) * deviation
    named = (heads @ torch.from_numpy(X).T).argmax(dim=1)
    right = (named == torch.from_numpy(y)).double().mean(dim=1).numpy()
    quartiles = [float(share) for share in np.quantile(right, [0, 0.25, 0.5, 0.75, 1])]
    return {"draws": DRAWS, "mean": float(right.mean()), "quartiles": quartiles}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    body = new_model(seed=0).eval().model
    parts = {part: features(part, body, tokenizer) for part in ("fit", "validation", "train", "test")}
    X_test, y_test = parts["test"]
    blocks = range(0, X_test.shape[1], 2)
    content = {
        "command": "python -m tools.record_frozen_head",
        **provenance(),
        "settings": {
            "classes": KINDS,
            "strengths": STRENGTHS,
            "initializer_range": body.config.initializer_range,
        },
        "runs": [score(parts, reading, block) for reading in range(len(READINGS)) for block in blocks],
        "fresh_heads": fresh_heads(X_test[0, -1], y_test, body.config.initializer_range),
        "most_frequent_class": np.bincount(y_test).max().item() / len(y_test),
    }
    print({key: content[key] for key in ("fresh_heads", "most_frequent_class")})
    write_json(TARGET, content)


if __name__ == "__main__":
    main()
