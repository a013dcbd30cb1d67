"""Run by LeRobot's Python: rewards of pictures through LeRobot's own factory, as JSON.

python lerobot_reward.py '{"config": {"folder": ..., "references": [...]}, "frames": [...], "task": ...}'
"""

import json
import sys
import tempfile

import numpy as np
import torch
from lerobot.configs.parser import load_plugin
from lerobot.rewards.factory import make_reward_model, make_reward_model_config, make_reward_pre_post_processors
from PIL import Image

asked = json.loads(sys.argv[1])
load_plugin("lerobot_reward_stcr")
config = make_reward_model_config("stcr", device="cpu", image_key="observation.images.front", **asked["config"])
model = make_reward_model(config)
before, _ = make_reward_pre_post_processors(config)
frames = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in asked["frames"]]
pictures = torch.stack(frames).permute(0, 3, 1, 2).float() / 255
batch = before({"observation.images.front": pictures, "task": [asked["task"]] * len(frames)})
rewards = model.compute_reward(batch)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder).compute_reward(batch)
print(json.dumps({"rewards": rewards.tolist(), "again": again.tolist(), "trainable": model.is_trainable}))
