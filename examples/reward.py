"""Use a trained judge as a reward: which frame of each step is closer to completion, and how surely?

    python examples/reward.py runs/demo/stage2 "put the red cube on the green pad" frame_1.png frame_2.png frame_3.png

Both orders of each pair are evaluated and averaged, so a preference for a position cancels. A step whose two orders
disagree gets reward 0 here: such a judgement says more about the position than about the images.
"""

import sys
from itertools import pairwise

from stcr_plugin.evaluation.judge import judge_all, opened


def rewards(judge, task, images):
    """One reward per step, -1..1: positive where the later image is judged closer to completion.

    Args:
        judge: What `opened` returns. The model stays loaded, so open it once.
        task: What is being done, in a few words.
        images: Images in the order of time: paths, PIL images or arrays [height, width, 3].
    """
    judgements = judge_all(judge, [(step, task) for step in pairwise(images)])
    return [0.0 if one.disagreeing else 2 * one.probabilities[1] - 1 for one in judgements]


if __name__ == "__main__":
    model, task, *paths = sys.argv[1:]
    for (before, after), reward in zip(pairwise(paths), rewards(opened(model), task, paths), strict=True):
        print(f"{reward:+.3f}  {before} -> {after}")
