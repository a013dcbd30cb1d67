"""One run of a Meta-World task: the simulator, the expert and what disturbs it, the recording, and its pictures.

Lengths are metres as in the simulator. A step is one control step (1/80 s), a frame every `stride`-th step.
"""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stcr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

Vector = npt.NDArray[np.float64]

CONTROL_HZ = 80  # MuJoCo time step 2.5 ms, five per control step (metaworld.SawyerMocapBase.metadata["render_fps"])
LONGEST = 500  # steps after which Meta-World refuses to go on
TOUCHING = 0.001  # metres; a hand that hooks a handle sometimes loses contact for an instant
# Camera -> whether it hangs upside down.
CAMERAS = {"corner": True, "corner2": True, "corner3": True, "corner4": True, "topview": False}
_INSTALL = "apt-get install libosmesa6"  # Debian 12
_LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}  # software first, so that every machine draws the same


@dataclass(frozen=True)
class Scene:
    """The parts of a task's model that are recorded.

    Attributes:
        carried: Name of the site that must get to the goal, "" for the object's own reference point.
        tool: The object is brought to a second one, which must get to the goal.
    """

    task: str
    carried: str = ""
    tool: bool = False


@dataclass(frozen=True)
class Facts:
    """The true state of one frame; points are [3] in metres.

    Attributes:
        hand: The point between the fingertips.
        object: What the hand goes to.
        carried: What must get to `meets`: the goal, or with a tool the second object.
        rest: With a tool, the distance from the second object to the goal.
        gap: Distance between gripper and object.
        opening: 0 closed .. 1 open.
        touched: Robot and object are in contact, or nearly.
        held: The fingers squeeze the object.
        observation: What a policy is given, [39], see `_observation`.
    """

    simulator: Vector
    hand: Vector
    object: Vector
    carried: Vector
    meets: Vector
    goal: Vector
    rest: float
    gap: float
    opening: float
    touched: bool
    held: bool
    success: bool
    observation: Vector


@dataclass
class Rollout:
    """A running or finished rollout.

    `frames` has one Facts every `stride` steps, beginning with the reset; `actions` what was done in every step, [4].
    """

    scene: Scene
    env: Any
    expert: Any
    rng: np.random.Generator
    noise: float
    stride: int
    limit: int
    obs: Vector
    steps: int = 0
    effort: float = -1.0
    succeeded: list[bool] = field(default_factory=list)
    frames: list[Facts] = field(default_factory=list)
    path: list[Vector] = field(default_factory=list)
    actions: list[Vector] = field(default_factory=list)
    _parts: _Parts | None = None

    def step(self, action: Vector) -> None:
        """One control step with `action` [4]: three shifts of the hand in cm, and the closing of the gripper."""
        self.actions.append(np.clip(action, -1, 1))
        _, _, _, _, info = self.env.step(self.actions[-1].astype(np.float32))
        self.obs = _observation(self.env)
        self.steps += 1
        self.effort = float(np.clip(action[3], -1, 1))
        self.path.append(self.env.data.mocap_pos[0].copy())
        self.succeeded.append(bool(info["success"]))
        if self.steps % self.stride == 0:
            self.frames.append(self._facts(self.succeeded[-1]))

    @property
    def finished(self) -> bool:
        return self.steps >= self.limit

    def expert_action(self, obs: Vector | None = None) -> Vector:
        """What the scripted expert does, with the configured noise; `obs` shows it another observation."""
        action = np.clip(np.asarray(self.expert.get_action(self.obs if obs is None else obs), dtype=float), -1, 1)
        action[:3] += self.rng.normal(0, self.noise, 3)
        return np.asarray(action)

    def first_success(self) -> int | None:
        """The step, from 1, after which the simulator first called the task done."""
        return self.succeeded.index(True) + 1 if any(self.succeeded) else None

    def _facts(self, success: bool) -> Facts:
        import mujoco

        env, scene = self.env, self.scene
        model, data = env.model, env.data
        if self._parts is None:
            self._parts = _find_parts(model, data, self.obs[4:7])
        parts = self._parts
        simulator = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, simulator, mujoco.mjtState.mjSTATE_INTEGRATION)
        goal = np.array(env._target_pos, dtype=float)
        thing, second = self.obs[4:7].copy(), self.obs[11:14].copy()
        touched, held = _contact(model, data, parts)
        gap = 0.0 if touched else _gap(model, data, parts)
        return Facts(
            simulator=simulator,
            hand=np.array(env.tcp_center, dtype=float),
            object=thing,
            carried=data.site(scene.carried).xpos.copy() if scene.carried else thing,
            meets=second if scene.tool else goal,
            goal=goal,
            rest=float(np.linalg.norm(second - goal)) if scene.tool else 0.0,
            gap=gap,
            opening=float(self.obs[3]),
            touched=gap <= TOUCHING,
            held=held,
            success=success,
            observation=self.obs.copy(),
        )


def start(scene: Scene, seed: int, *, noise: float, stride: int, limit: int) -> Rollout:
    """A task before its first step, with a layout by `seed`; `noise` is the standard deviation of the expert's.

    Raises ConfigError where the extra `sim` is not installed.
    """
    mujoco = simulator()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    # A new environment for every rollout: a used one keeps positions and attributes of the last.
    env = ALL_V3_ENVIRONMENTS[scene.task]()
    env._partially_observable = False
    del env.sawyer_observation_space  # cached with a goal range of zero, to which the goal would be cut
    env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
    env.seed(seed)
    env.reset()
    mujoco.mj_forward(env.model, env.data)  # reset moves bodies after the positions were computed
    rng = np.random.default_rng(seed)
    expert, obs = ENV_POLICY_MAP[scene.task](), _observation(env)
    rollout = Rollout(scene, env, expert, rng=rng, noise=noise, stride=stride, limit=limit, obs=obs)
    rollout.frames.append(rollout._facts(False))
    return rollout


@contextmanager
def quiet() -> Iterator[None]:
    """The experts warn about their own gains at nearly every step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def simulator() -> Any:
    """The mujoco package, set to draw without a screen.

    Raises ConfigError where it or Meta-World is missing, and where MUJOCO_GL names a backend that does not work here.
    """
    if not os.environ.get("MUJOCO_GL"):
        found = next((name for name, library in _LIBRARIES.items() if find_library(library)), None)
        if found is not None:  # chosen by the package when it is imported; physics alone needs none
            os.environ["MUJOCO_GL"] = found
    with suppress(ImportError):
        import triton  # noqa: F401  # behind OSMesa, where PEFT and torchvision would import it, it kills the process
    try:
        import metaworld.env_dict  # noqa: F401
        import mujoco
    except ImportError as error:
        problem = f"{error.name or error} is not installed"
        raise ConfigError("source metaworld", problem, "run pip install 'stcr-plugin[sim]'") from None
    except (RuntimeError, AttributeError, OSError) as error:  # what MuJoCo's own choice of a backend ends in
        problem = f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} does not work here ({error})"
        raise ConfigError("source metaworld", problem, f"unset it, or run {_INSTALL}") from None
    return mujoco


def follow_expert(rollout: Rollout, *, until: int | None = None, settle: int = 0, shift: Vector | None = None) -> None:
    """Let the expert act until step `until`, or until success has lasted `settle` steps or is lost again.

    shift: [39], added to the observation, so that the expert is mistaken about where things are.
    """
    lasted = 0
    while not rollout.finished and (until is None or rollout.steps < until):
        rollout.step(rollout.expert_action(None if shift is None else rollout.obs + shift))
        if until is None:
            if lasted and not rollout.succeeded[-1]:
                return
            lasted += rollout.succeeded[-1]
            if lasted > settle:
                return


def stand_still(rollout: Rollout, steps: int, effort: float) -> None:
    """Leave the hand where it is and the gripper at `effort` (-1 opening .. 1 closing)."""
    for _ in range(min(steps, rollout.limit - rollout.steps)):
        rollout.step(np.array([0.0, 0.0, 0.0, effort]))


def let_go(rollout: Rollout, rise: int) -> None:
    """Open the gripper, then draw it straight up for `rise` steps."""
    stand_still(rollout, 10, -1.0)
    for _ in range(min(rise, rollout.limit - rollout.steps)):
        rollout.step(np.array([0.0, 0.0, 0.7, -1.0]))


def go_back(rollout: Rollout, to_step: int, effort: float) -> None:
    """Lead the hand back along the way it came, to where it was at `to_step`, with the gripper at `effort`."""
    way = rollout.path[max(to_step - 1, 0) : rollout.steps][::-1]
    for spot in way:
        if rollout.finished:
            return
        shift = (spot - rollout.env.data.mocap_pos[0]) / rollout.env.action_scale
        rollout.step(np.append(shift, effort))


class Painter:
    """Draws recorded frames of one task, pictures uint8 [height, width, 3], the right way up.

    Site markers (the goal's among them) are not drawn, nor are shadows.
    """

    def __init__(self, env: Any, size: tuple[int, int], camera: str) -> None:
        """Raises ConfigError where nothing can draw without a screen, which is not the fault of an episode."""
        width, height = size
        self._mujoco = mujoco = simulator()
        model = env.model
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        try:
            self._gl = mujoco.GLContext(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each backend raises its own kind
            problem = f"no picture can be drawn without a screen ({error})"
            fix = f"run {_INSTALL}, or set MUJOCO_GL to a backend that works here"
            raise ConfigError("source metaworld", problem, fix) from None
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self.closed = False
        self._picture = np.empty((height, width, 3), dtype=np.uint8)
        self._view = mujoco.MjrRect(0, 0, width, height)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._turned = CAMERAS[camera]
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id
        atexit.register(_close, weakref.ref(self))  # EGL ends at exit too, after which a context cannot be freed

    def draw(self, env: Any, facts: Facts) -> Picture:
        """The picture of one recorded frame; `env` is its rollout's own, since resetting moves bodies of the model."""
        mujoco = self._mujoco
        mujoco.mj_setState(env.model, env.data, facts.simulator, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(env.model, env.data)
        return self.draw_present(env)

    def draw_present(self, env: Any) -> Picture:
        """The picture of the simulator's present state."""
        mujoco = self._mujoco
        scene = mujoco.MjvScene(env.model, maxgeom=2000)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(env.model, env.data, self._option, None, self._camera, every, scene)
        self._gl.make_current()
        mujoco.mjr_render(self._view, scene, self._context)
        mujoco.mjr_readPixels(self._picture, None, self._view, self._context)
        # The pixels come bottom row first; a half turn of an upside-down camera then leaves only left and right.
        return np.ascontiguousarray(self._picture[:, ::-1] if self._turned else self._picture[::-1])

    def close(self) -> None:
        """Free what the painter holds in the graphics library."""
        self.closed = True
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _close(painter: weakref.ref[Painter]) -> None:
    if (open_still := painter()) is not None and not open_still.closed:
        open_still.close()


@dataclass(frozen=True)
class _Parts:
    """Masks [nbody] of the robot, each finger and the object; ids of the colliding geoms of gripper and object."""

    robot: npt.NDArray[np.bool_]
    left: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    thing: npt.NDArray[np.bool_]
    gripper_geoms: Sequence[int]
    thing_geoms: Sequence[int]


def _observation(env: Any) -> Vector:
    """[39]: hand (3), opening, object (3) and rotation (4), a second object likewise, the same a step ago, goal (3)."""
    return np.array(env._get_obs(), dtype=float)


def _below(model: Any, root: int) -> npt.NDArray[np.bool_]:
    """[nbody], whether a body is `root` or hangs on it."""
    inside = np.zeros(model.nbody, dtype=bool)
    inside[root] = True
    for body in range(root + 1, model.nbody):  # parents come before their children
        inside[body] |= inside[model.body_parentid[body]]
    return inside


def _find_parts(model: Any, data: Any, point: Vector) -> _Parts:
    """The object is the movable thing, with all that hangs on it, that has a geom nearest to `point` [3]."""
    robot = _below(model, model.body("base").id) | _below(model, model.body("mocap").id)
    movable = (model.body_weldid != 0) & ~robot
    colliding = (model.geom_contype | model.geom_conaffinity) != 0
    nearest = min(
        (geom for geom in range(model.ngeom) if movable[model.geom_bodyid[geom]]),
        key=lambda geom: float(np.linalg.norm(data.geom_xpos[geom] - point)),
    )
    body = int(model.geom_bodyid[nearest])
    while movable[model.body_parentid[body]]:
        body = int(model.body_parentid[body])
    thing, hand = _below(model, body), _below(model, model.body("hand").id)
    return _Parts(
        robot=robot,
        left=_below(model, model.body("leftclaw").id),
        right=_below(model, model.body("rightclaw").id),
        thing=thing,
        gripper_geoms=[int(geom) for geom in np.flatnonzero(hand[model.geom_bodyid] & colliding)],
        thing_geoms=[int(geom) for geom in np.flatnonzero(thing[model.geom_bodyid] & colliding)],
    )


def _contact(model: Any, data: Any, parts: _Parts) -> tuple[bool, bool]:
    """Whether robot and object touch, and whether the fingers press on it from two sides."""
    bodies = model.geom_bodyid[data.contact.geom[: data.ncon]]  # [ncon, 2]
    normals = data.contact.frame[: data.ncon, :3]  # from the first geom to the second
    across = data.body("rightclaw").xpos - data.body("leftclaw").xpos
    across = across / max(float(np.linalg.norm(across)), 1e-9)
    touched, left, right = False, False, False
    for first, second, sign in ((0, 1, 1.0), (1, 0, -1.0)):
        theirs = parts.thing[bodies[:, second]]
        press = sign * (normals @ across)
        touched |= bool((theirs & parts.robot[bodies[:, first]]).any())
        left |= bool((theirs & parts.left[bodies[:, first]] & (press > 0.5)).any())
        right |= bool((theirs & parts.right[bodies[:, first]] & (press < -0.5)).any())
    return touched, left and right


def _gap(model: Any, data: Any, parts: _Parts) -> float:
    """Metres between the nearest colliding geoms of gripper and object, 0 where they touch."""
    import mujoco

    gap = 1.0
    for ours in parts.gripper_geoms:
        for theirs in parts.thing_geoms:
            gap = min(gap, mujoco.mj_geomDistance(model, data, ours, theirs, gap, None))
            if gap <= 0:
                return 0.0
    return float(gap)
