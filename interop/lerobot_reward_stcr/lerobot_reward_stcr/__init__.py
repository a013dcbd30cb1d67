"""A LeRobot reward model: how far along a task a frame is, by a judge that `stcr export` wrote.

LeRobot finds it by `--reward_model.discover_packages_path=lerobot_reward_stcr --reward_model.type=stcr`. It needs
LeRobot and the exported folder, or a server of it; stcr_plugin need not be installed.
"""

from lerobot_reward_stcr.configuration_stcr import StcrConfig

__all__ = ["StcrConfig"]
