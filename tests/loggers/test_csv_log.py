import csv

from deephash.loggers import Jsonl, Loggers
from deephash.loggers.csv_log import CsvLog


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def session(folder, epochs, done=0):
    record = Jsonl(folder / "log.jsonl")
    record.truncate_after(10 * done)
    logger = Loggers([record, CsvLog(folder, record.path)])
    for epoch in epochs:
        values = {"loss": 1 / epoch, "images_seen": 64 * epoch}
        logger.scalars("train", values, 10 * epoch, epoch)
        if epoch % 2 == 0:
            logger.scalars("query", {"map": epoch / 10}, 10 * epoch, epoch)
    return logger


def test_a_row_for_each_step_with_columns_that_begin_late(tmp_path):
    session(tmp_path, (1, 2, 3)).close()
    rows = rows_of(tmp_path / "log.csv")
    assert list(rows[0]) == ["step", "epoch", "train/loss", "images_seen", "query/map"]
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert [row["query/map"] for row in rows] == ["", "0.2", ""]
    assert CsvLog.is_complete(tmp_path, lambda: "") and not CsvLog.is_complete(tmp_path / "b", str)


def test_a_killed_run_is_one_table(tmp_path):
    session(tmp_path, (1, 2, 3)).close()  # epoch 3 is trained again
    session(tmp_path, (3, 4), done=2).close()
    rows = rows_of(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["10", "20", "30", "40"]
    assert [row["query/map"] for row in rows] == ["", "0.2", "", "0.4"]
