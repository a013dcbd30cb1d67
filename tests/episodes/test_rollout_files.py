import pytest
from simulator_probe import obstacle

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import rollout
from stcr_plugin.episodes.metaworld import MetaworldConfig, MetaworldSource
from stcr_plugin.episodes.rollout_files import read_rollout
from stcr_plugin.registry import shards
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.types import Episode

pytestmark = pytest.mark.slow(seconds=1)

SMALL = MetaworldConfig(tasks=("drawer-open-v3",), episodes=1, regressing=1, width=64, height=48)


@pytest.fixture(scope="module")
def sim():
    if obstacle():
        pytest.skip(f"Meta-World cannot be drawn here: {obstacle()}")


@pytest.fixture
def nothing_moves(sim, monkeypatch):
    """From when it is called, a simulator can be started, to draw with, but makes no step."""

    def refuse(run, action):
        raise AssertionError("simulated again")

    return lambda: monkeypatch.setattr(rollout.Rollout, "step", refuse)


def test_kept_rollouts_give_the_same_episodes_states_actions_and_pictures(tmp_path, nothing_moves):
    first = MetaworldSource(SMALL, 0, tmp_path)
    listed = list(first.episodes())
    episodes = [one for one in listed if isinstance(one, Episode)]
    made = [(first.states(one), *first.controls(one), *first.frames(one, [0, one.n_frames - 1])) for one in episodes]
    nothing_moves()
    again = MetaworldSource(SMALL, 0, tmp_path)
    assert list(again.episodes()) == listed
    for one, (states, *arrays) in zip(episodes, made, strict=True):
        assert again.states(one) == states
        kept = [*again.controls(one), *again.frames(one, [0, one.n_frames - 1])]
        assert all((old == new).all() for old, new in zip(arrays, kept, strict=True))
    with pytest.raises(AssertionError, match="simulated again"):
        list(MetaworldSource(SMALL, 1, tmp_path).episodes())


def test_cut_file_is_no_rollout(tmp_path, sim):
    list(MetaworldSource(SMALL, 0, tmp_path).episodes())
    path = next(tmp_path.rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:1000])
    assert read_rollout(path) is None
    assert read_rollout(tmp_path / "missing.npz") is None


def test_killed_build_goes_on_without_simulating_again(tmp_path, nothing_moves, monkeypatch):
    values = {"name": "small", "source": SMALL, "splits": {"train": {"fraction": 1.0}}}
    config = from_mapping(DataConfig, values, "test")
    write = shards.picture
    monkeypatch.setattr(shards, "picture", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(config, tmp_path)
    assert len(list(tmp_path.rglob("simulated/*/*.npz"))) == 2
    nothing_moves()
    monkeypatch.setattr(shards, "picture", write)
    build(config, tmp_path)
    assert not list(tmp_path.rglob("*.npz"))  # only as long as the build is unfinished
