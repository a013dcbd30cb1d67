import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.inverse_tasks import InverseTasks
from stcr_plugin.episodes.metaworld import METAWORLD_INVERSES, TASKS
from stcr_plugin.episodes.tabletop import TABLETOP_INVERSES, TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError
from stcr_plugin.registry.data_config import DataConfig


@pytest.mark.parametrize(
    ("task", "inverse"),
    [
        ("open the red door", "close the red door"),
        ("Close the red door.", None),  # as it is written
        (" close the red door. ", "open the red door"),
        ("把门打开。", "把门关上"),
        ("open the", None),
        ("reopen the door", None),
    ],
)
def test_inverse_is_read_in_both_directions_with_the_parts_of_the_task(task, inverse):
    known = InverseTasks({"open the {thing}": "close the {thing}.", "把门打开": "把门关上"})
    found = known.inverse(task)
    assert (found and found.rstrip(".")) == inverse


def test_parts_may_change_their_order():
    known = InverseTasks({"put the {thing} on the {pad}": "clear the {pad} of the {thing}"})
    assert known.inverse("put the can on the mat") == "clear the mat of the can"
    assert known.inverse("clear the mat of the can") == "put the can on the mat"


@pytest.mark.parametrize(
    "texts", [{"open": ""}, {"open the {thing}": "close it"}, {"put {a} on {a}": "take {a} off"}, {"{a}": "{b}"}]
)
def test_texts_that_cannot_be_filled_in_are_refused_in_a_configuration_too(texts):
    with pytest.raises(ValueError, match=r"inverse|parts in braces"):
        InverseTasks(texts)
    config = {"name": "toy", "source": {"kind": "tabletop"}, "splits": {"a": {"episodes": 1}}, "inverse_tasks": texts}
    with pytest.raises(ConfigError, match=r"inverse|parts in braces"):
        from_mapping(DataConfig, config, "test")


def test_texts_of_a_configuration_are_looked_up_first():
    both = InverseTasks({"open it": "close it", "push it": "pull it"}, ("move",)).after({"open it": "shut it"})
    assert [both.inverse(task) for task in ("open it", "shut it", "push it")] == ["shut it", "open it", "pull it"]
    assert both.phases == ("move",)


@pytest.mark.parametrize(
    ("phase", "shown"),
    [("reach", False), ("reach>grasp", False), ("transport", True), ("done>reach", True), ("", False)],
)
def test_pair_in_which_only_the_hand_moves_shows_nothing_to_undo(phase, shown):
    assert METAWORLD_INVERSES.shown(phase) == shown
    assert InverseTasks().shown(phase)


def test_simulator_knows_what_undoes_its_own_tasks():
    source = TabletopSource(TabletopConfig(seen=1, heldout=1, take_off=1, push=1))
    tasks = {episode.group: episode.task for episode in source.episodes()}
    for group in ("seen", "heldout", "take_off"):
        inverse = TABLETOP_INVERSES.inverse(tasks[group])
        assert inverse != tasks[group]
        assert TABLETOP_INVERSES.inverse(inverse) == tasks[group]
    assert TABLETOP_INVERSES.inverse(tasks["push"]) is None


def test_inverse_tasks_of_metaworld_are_tasks_of_its_own():
    texts = {task.text for task in TASKS.values()}
    found = {text: METAWORLD_INVERSES.inverse(text) for text in texts}
    known = {text: inverse for text, inverse in found.items() if inverse}
    assert len(known) == 24
    assert set(known.values()) <= texts
    assert all(found[inverse] == text for text, inverse in known.items())
    assert known["open the door"] == "close the door"
