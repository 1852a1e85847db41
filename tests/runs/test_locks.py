"""Looking whether a run is locked does not keep it from being taken."""

import threading

from deephash.runs.folder import RunFolder


def test_a_look_at_a_lock_is_no_lock(tmp_path):
    done = threading.Event()

    def look():
        while not done.is_set():
            assert RunFolder(tmp_path / "run").locked in (True, False)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            run = RunFolder(tmp_path / "run")
            run.lock()
            run.close()
    finally:
        done.set()
        watcher.join()


def test_a_launch_begins_a_run_once(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.lock()
    run.begin({"a": 1}, ["a=1"], fresh=True, launch="first")
    run.close()
    assert run.begun_in("first") and not run.begun_in("second") and not run.begun_in("")
