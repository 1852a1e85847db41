"""Event files, read with TensorBoard's own reader."""

import importlib.util
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from deephash.errors import ConfigError
from deephash.loggers import Jsonl, Loggers, Picture
from deephash.loggers.tensorboard import TensorBoard

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard


def read(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def session(folder, epochs, done=0):
    record = Jsonl(folder / "log.jsonl")
    record.truncate_after(10 * done)
    board = TensorBoard(folder, record.path, {"method": "csq", "bits": 8})
    logger = Loggers([record, board])
    for epoch in epochs:
        logger.scalars("train", {"loss": 1 / epoch, "images_seen": 64 * epoch}, 10 * epoch, epoch)
        logger.scalars("query", {"map": epoch / 10}, 10 * epoch, epoch)
    return logger


@needs_tensorboard
def test_a_killed_run_is_one_history(tmp_path):
    session(tmp_path, (1, 2, 3)).close()  # epoch 3 is trained again
    session(tmp_path, (3, 4), done=2).close()
    events = read(tmp_path)
    points = [(point.step, point.value) for point in events.Scalars("query/map")]
    assert points == [(10 * n, pytest.approx(n / 10)) for n in (1, 2, 3, 4)]
    assert [point.value for point in events.Scalars("images_seen")] == [64, 128, 192, 256]
    assert TensorBoard.is_complete(tmp_path, str)
    assert not TensorBoard.is_complete(tmp_path / "b", str)


@needs_tensorboard
def test_results_of_a_run(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tsne.png")
    logger = session(tmp_path, (1,))
    assert logger.keep_results
    logger.table("per_class", ("class", "map"), [["cat|lynx", 0.5], ["dog", None]])
    logger.table("nearest", ("query", "1"), [["0", Picture(pixels)]])
    logger.report({"metrics": {"map": 0.5}}, 10)
    logger.close()
    later = TensorBoard(tmp_path)  # deephash evaluate adds figures
    later.figures({"tsne": tmp_path / "tsne.png"})
    later.close()
    events = read(tmp_path)
    assert events.Tags()["images"] == ["figures/tsne"]
    assert events.Scalars("summary/map")[0].value == 0.5
    table = events.Tensors("tables/per_class/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table == "| class | map |\n|---|---|\n| cat\\|lynx | 0.5 |\n| dog |  |"
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def test_without_the_package_the_error_states_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install tensorboard .*logger=csv"):
        TensorBoard.require()
