"""A server of a few images, in this process."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from starlette.testclient import TestClient

from deephash.search.image_index import ImageIndex
from deephash.search.server.app import Limits, make_app
from deephash.search.server.service import Service
from tests.search.conftest import make_encoder
from tests.search.pictures import save

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "photos"
    for seed in range(12):
        save(folder / ("cats" if seed % 3 else "dogs & more") / f"{seed}.png", seed)
    made = ImageIndex(make_encoder(), folder, labels="folders")
    made.update()
    yield made
    made.close()


@pytest.fixture(scope="session")
def service(index):
    return Service(index, max_pixels=100_000)


@pytest.fixture
def app(service):
    return make_app(service, Limits(size=200_000, seconds=1.0, uploads=2))


@pytest.fixture
def client(app):
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def guarded(service):
    """A client of a server with a token."""
    app = make_app(service, Limits(), TOKEN)
    with TestClient(app, base_url="http://pc.example", follow_redirects=False) as made:
        yield made


@contextlib.contextmanager
def running(app):
    """Run a server in a thread. Gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
