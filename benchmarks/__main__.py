"""Run the benchmarks that suit a CPU, each in its own process, and record them in one file named after the time.

docs/speed.md shows what was recorded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._harness import write_json

SCRIPTS = ("nf4", "qlora_linear", "lora_step", "svd")  # not qlora_step: its models want a GPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="default build/bench")
    options, passed_on = parser.parse_known_args()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for script in SCRIPTS:
            file = Path(folder) / f"{script}.json"
            command = [sys.executable, "-m", f"benchmarks.{script}", *passed_on, "--json", str(file)]
            if status := subprocess.run(command).returncode:
                sys.exit(status)
            print(flush=True)
            records.append(json.loads(file.read_text(encoding="utf-8")))
    target = options.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    write_json(target, records)
    print(f"Record: {target}")


if __name__ == "__main__":
    main()
