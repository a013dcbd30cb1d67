"""Whether Meta-World can be simulated and drawn on this machine."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

PROBE = """
from stcr_plugin.episodes.rollout import Painter, Scene, start
run = start(Scene("reach-v3"), 0, noise=0.0, stride=4, limit=500)
painter = Painter(run.env, (32, 32), "corner2")
assert painter.draw_present(run.env).std() > 0
painter.close()
"""


@cache
def obstacle() -> str:
    """Why nothing can be simulated here, "" where it can. Asked in a process of its own, which GL may abort."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    lines = (done.stderr or f"exit status {done.returncode}").strip().splitlines()
    return "" if done.returncode == 0 else lines[-1]
