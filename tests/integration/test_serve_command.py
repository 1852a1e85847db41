"""``deephash serve`` as a shell sees it, with a run of digits."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import deephash
from deephash import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run and with ten photos."""
    made = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(made)
        line = ["model.nbit=12", "trainer.epochs=0", "logger=quiet", "trainer.device=cpu"]
        deephash.train(line).folder.resolve().rename(made / "run")
    for row, image in enumerate(load_digits().images[:10]):
        place = made / "photos" / str(row % 2) / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(place)
    return made


@contextlib.contextmanager
def serving(folder, *words):
    """Run the command. Gives the process and the address that it prints."""
    line = [sys.executable, "-m", "deephash", "serve", "run=run", "images=photos", "device=cpu"]
    process = subprocess.Popen(
        [*line, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        printed = process.stdout.readline()
        match = re.match(r"10 images: (http://\S+)   \(Ctrl-C stops\)", printed)
        assert match, printed + process.stderr.read()
        yield process, match[1]
    finally:
        process.kill()
        process.communicate()


def get(address, path, **options):
    with urllib.request.urlopen(urllib.parse.urljoin(address, path), **options) as response:
        return json.load(response)


def test_serve_answers_until_it_is_interrupted(folder):
    with serving(folder, "labels=folders") as (process, address):
        assert get(address, "/api/info")["classes"] == ["0", "1"]
        photo = (folder / "photos" / "1" / "3.png").read_bytes()
        result = get(address, "/api/search?top=3", data=photo)
        assert result["results"][0]["distance"] == 0
        assert result["searched"] == 10
        before = {path for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(urllib.error.HTTPError, match="422"):
            get(address, "/api/search", data=b"not an image")
        assert {path for path in folder.rglob("*") if path.is_file()} == before
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_other_machines_need_the_token(folder):
    with serving(folder, "host=0.0.0.0", "update=false") as (_, address):
        parts = urllib.parse.urlsplit(address)
        token = urllib.parse.parse_qs(parts.query)["token"][0]
        local = f"http://127.0.0.1:{parts.port}/"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(local, "/api/info")
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{local}api/info", headers=headers)
        assert json.load(urllib.request.urlopen(request))["images"] == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=photos"], "run  must be given"),
        (["run=run", "images=photos", "port=70000"], "port"),
        (["run=run", "images=photos", "token=short"], "token  must have at least 16"),
        (["run=run", "images=photos", "hots=0.0.0.0"], "host"),
        (["run=run", "images=nothing"], "images=nothing  does not exist"),
    ],
)
def test_mistakes_are_explained(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    assert cli.run("serve", [*words, "device=cpu"]) != 0
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["run=run", "images=photos", "device=cpu", f"port={port}"]
        assert cli.run("serve", words) != 0
    message = capsys.readouterr().err
    assert f"port={port}  cannot be used" in message
    assert "Leave it out" in message
