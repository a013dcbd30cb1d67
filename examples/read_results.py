"""Read evaluations from Python: typed figures with intervals instead of JSON keys.

    python examples/read_results.py runs/demo/*/eval/*/results.json

Prints one line per evaluation, and the hardest task of each.
"""

import sys

from stcr_plugin.results import Evaluation

for path in sys.argv[1:]:
    found = Evaluation.read(path)
    figures = found.figures
    low, high = (found.intervals or {}).get("pair_accuracy", (float("nan"), float("nan")))
    share = f"{figures.pair_accuracy:.1f} % ({low:.1f} to {high:.1f})"
    print(f"{found.name}, {found.dataset} {found.split}, {figures.n_pairs} pairs:", end=" ")
    print(f"pair accuracy {share}, gap {figures.gap_points:+.1f} points")
    by_task = found.parts.by_task
    tasks = sorted(by_task.tasks if by_task else (), key=lambda task: task.figures.pair_accuracy)
    if tasks:
        print(f"  hardest task: {tasks[0].task}, {tasks[0].figures.pair_accuracy:.1f} %")
