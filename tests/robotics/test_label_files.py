"""The files of `stcr label`: what is written is read again, in the form that LeRobot's reader expects."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stcr_plugin.errors import DataError
from stcr_plugin.robotics.label_files import (
    Anchor,
    EpisodeProgress,
    EpisodeSuccess,
    LabelRecord,
    read_anchors,
    read_progress,
    read_success,
    write_anchors,
    write_progress,
    write_success,
)
from stcr_plugin.types import Exclusion


def episode(number, first, values):
    frames = np.arange(len(values))
    return EpisodeProgress(number, first + frames, frames, np.array(values, np.float32))


def test_progress_is_a_row_per_frame_in_the_form_of_lerobot(tmp_path):
    path = tmp_path / "stcr_progress.parquet"
    episodes = [episode(3, 0, [0.0, 0.5, 1.0]), episode(7, 3, [0.25, np.nan])]
    assert write_progress(path, iter(episodes), "runs/stage2") == 5
    table = pq.read_table(path)
    assert table.schema.types == [pa.int64(), pa.int64(), pa.int64(), pa.float32()]
    assert table.column_names == ["index", "episode_index", "frame_index", "progress_sparse"]
    assert table.schema.metadata[b"reward_model_path"] == b"runs/stage2"
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    first, second = read_progress(path)
    assert (first.episode_index, second.episode_index) == (3, 7)
    assert second.progress[0] == 0.25
    assert np.isnan(second.progress[1])
    assert second.index.tolist() == [3, 4]
    assert second.frame_index.tolist() == [0, 1]


def test_the_same_episodes_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_progress(tmp_path / name, iter([episode(0, 0, [0.1, 0.2])]), "m")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_anchors_and_success_are_read_as_they_were_written(tmp_path):
    anchors = [Anchor("000003", 3, 0, 0.0, 0.25, 4), Anchor("000003", 3, 9, 1.0, 0.0, 4)]
    assert write_anchors(tmp_path / "anchors", iter([anchors, []])) == 2
    assert list(read_anchors(tmp_path / "anchors")) == anchors
    assert pq.read_schema(tmp_path / "anchors").types == [
        pa.string(), pa.int64(), pa.int64(), pa.float32(), pa.float32(), pa.int32(),
    ]  # fmt: skip
    rows = [EpisodeSuccess("000003", 3, "put the cup on the shelf", 0.75)]
    write_success(tmp_path / "success", rows)
    assert read_success(tmp_path / "success") == rows


def test_the_record_is_read_as_it_was_written(tmp_path):
    record = LabelRecord("data", True, 0, {"every": 0.5}, {}, {"engine": "local"}, {"episodes": 1},
                         skipped=(Exclusion("episode 4", "data", "no video"),))  # fmt: skip
    record.write(tmp_path / LabelRecord.file)
    assert LabelRecord.read(tmp_path / LabelRecord.file) == record


@pytest.mark.parametrize("reader", [read_progress, read_anchors])
def test_a_file_that_is_none_is_an_error_of_one_line(tmp_path, reader):
    with pytest.raises(DataError, match="run `stcr label` first"):
        list(reader(tmp_path / "none"))
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(reader(tmp_path / "text"))
    pq.write_table(pa.table({"index": [1]}), tmp_path / "other")
    with pytest.raises(DataError, match="no column"):
        list(reader(tmp_path / "other"))
