"""Record the runs that the README and notebook 00 show: QLoRA on this machine's CPU, three seeds.

    python tools/record_runs.py             train, about 20 minutes on two cores; then draw the picture
    python tools/record_runs.py --picture   draw docs/before_after.png from the records in data/runs/

Run it on a quiet machine and a clean checkout: seconds, memory and git revision are part of the record.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from lora_edu.classroom import figures

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "data" / "runs"
PICTURE = ROOT / "docs" / "before_after.png"
SEEDS = (0, 1, 2)
GROUPS = {
    "exact_match_before": "base model",
    "exact_match_before_few_shot": "base, three\nexamples",
    "exact_match": "fine-tuned,\nseen patterns",
    "exact_match_unseen": "fine-tuned,\nunseen patterns",
}


def record(seed: int) -> None:
    """Train with one seed in a process of its own, and keep its run.json."""
    output = Path("build") / "runs" / f"events_qlora_cpu_seed{seed}"
    command = [sys.executable, "-m", "lora_edu.llm.finetune", "--seed", str(seed), "--output", str(output)]
    if seed != SEEDS[0]:  # the base does not depend on the seed: it is asked once
        command += ["--before-events", "0"]
    subprocess.run([*command, "--overwrite"], cwd=ROOT, check=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / output / "run.json", RECORDS / f"{output.name}.json")


def draw() -> None:
    """Draw the exact match of the three seeds: median, and the range as a line."""
    records = [json.loads((RECORDS / f"events_qlora_cpu_seed{seed}.json").read_text()) for seed in SEEDS]
    scores = [
        [records[0][key] if record[key] is None else record[key] for key in GROUPS] for record in records
    ]
    picture = figures.bars(
        {"exact match": scores},
        groups=list(GROUPS.values()),
        ylabel="exact match on new events",
        number_format="{:.0%}",
        alt="Exact match of the base model and of the fine-tuned one.",
    )
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(figures.to_png(picture))
    print(f"Drew {PICTURE.relative_to(ROOT)} from {len(records)} runs.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", action="store_true", help="only draw, from the records that are there")
    if not parser.parse_args().picture:
        for seed in SEEDS:
            record(seed)
    draw()


if __name__ == "__main__":
    main()
