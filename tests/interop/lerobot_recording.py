"""Run by LeRobot's Python: recordings of format v2.1 as a dataset that LeRobot itself writes, in its present format.

python lerobot_recording.py '{"source": ..., "episodes": [...], "out": ...}'

Every third frame is kept, at 10 a second and 96x72, so that a test decodes little.
"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import LeRobotDataset

asked = json.loads(sys.argv[1])
source, camera, step, (height, width) = Path(asked["source"]), "observation.images.cam_high", 3, (72, 96)
info = json.loads((source / "meta/info.json").read_text())
(task,) = [json.loads(line)["task"] for line in (source / "meta/tasks.jsonl").read_text().splitlines()]
vectors = {
    name: {"dtype": "float32", "shape": tuple(info["features"][name]["shape"]), "names": None}
    for name in ("observation.state", "action")
}
features = vectors | {camera: {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}}
made = LeRobotDataset.create("test/recordings", fps=info["fps"] // step, features=features, root=asked["out"])
for number in asked["episodes"]:
    (rows,) = source.glob(f"data/**/episode_{number:06d}.parquet")
    (video,) = source.glob(f"videos/**/{camera}/episode_{number:06d}.mp4")
    with av.open(str(video)) as file:
        pairs = zip(pq.read_table(rows, partitioning=None).to_pylist(), file.decode(video=0), strict=False)
        for place, (row, frame) in enumerate(pairs):
            if place % step == 0:
                values = {name: np.array(row[name], np.float32) for name in vectors}
                picture = frame.to_ndarray(width=width, height=height, format="rgb24")
                made.add_frame({**values, camera: picture, "task": task})
    made.save_episode()
made.finalize()
