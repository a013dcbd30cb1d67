"""The weights that LeRobot's training gives the frames of a progress file, by its formula."""

import numpy as np
import pyarrow.parquet as pq


def rabc_weights(path, chunk, kappa=0.01, epsilon=1e-6):
    """Weights as lerobot/rewards/sarm/rabc.py (0.6) computes them, before a batch is normalised: index -> weight."""
    rows = pq.read_table(path).to_pylist()
    known = {row["index"]: row["progress_sparse"] for row in rows if not np.isnan(row["progress_sparse"])}
    last = {}
    for row in rows:
        last[row["episode_index"]] = max(row["index"], last.get(row["episode_index"], 0))
    deltas = {}
    for row in rows:
        later = known.get(min(row["index"] + chunk, last[row["episode_index"]]))
        now = known.get(row["index"])
        deltas[row["index"]] = np.nan if now is None or later is None else later - now
    valid = [delta for delta in deltas.values() if not np.isnan(delta)]
    mean, spread = max(float(np.mean(valid)), 0.0), max(float(np.std(valid)), epsilon)

    def weight(delta):
        if np.isnan(delta):
            return 1.0
        if delta > kappa:
            return 1.0
        return float(np.clip((delta - mean + 2 * spread) / (4 * spread + epsilon), 0, 1)) if delta >= 0 else 0.0

    return {index: weight(delta) for index, delta in deltas.items()}
