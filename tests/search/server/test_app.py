"""The HTTP API of the search page, compared with the index, and the requests that it refuses."""

import io
import socket
import threading
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deephash.errors import DataError
from deephash.search.engines.exact import ExactEngine
from deephash.search.image_index import ImageIndex
from deephash.search.server import service as service_module
from deephash.search.server.app import Limits, make_app
from deephash.search.server.service import Service
from tests.search.conftest import make_encoder
from tests.search.pictures import content, noise, save
from tests.search.server.conftest import TOKEN, running


def message(response):
    """Return the message of a refused request."""
    assert 400 <= response.status_code < 500
    assert list(response.json()) == ["error"]
    return response.json()["error"]


def image_bytes(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


class TestSearch:
    def test_an_upload_gives_the_answer_of_the_index(self, client, index):
        response = client.post("/api/search?top=5", content=content(3))
        assert response.status_code == 200
        result = response.json()
        [answer] = index.search(noise(3), top=5)
        assert [(hit["id"], hit["distance"]) for hit in result["results"]] == [
            (hit.id, hit.distance) for hit in answer.hits
        ]
        assert result["results"][0] == {"id": "dogs & more/3.png", "labels": ["dogs & more"],
                                        "distance": 0}  # fmt: skip
        assert result["more"] == answer.more
        assert result["searched"] == 12
        assert result["code"] == answer.hex
        values = index.encoder.codes(noise(3))[0]
        assert result["bits"] == "".join("1" if value >= 0 else "0" for value in values)
        np.testing.assert_allclose(result["values"], values, atol=1e-4)

    def test_an_image_of_the_index_finds_others(self, client, index):
        name = "dogs & more/3.png"
        result = client.get("/api/similar", params={"id": name, "top": 11}).json()
        [answer] = index.search(noise(3), top=11, exclude=[name])
        assert [hit["id"] for hit in result["results"]] == [hit.id for hit in answer.hits]
        assert name not in {hit["id"] for hit in result["results"]}
        assert result["labels"] == ["dogs & more"]
        assert result["values"] is None

    def test_a_class_and_a_radius_limit_the_results(self, client, index):
        everything = client.post("/api/search?top=100", content=content(3)).json()["results"]
        cats = [hit for hit in everything if hit["labels"] == ["cats"]]
        assert 0 < len(cats) < len(everything) == 12
        limited = client.post("/api/search?top=100&label=cats", content=content(3)).json()
        assert limited["results"] == cats
        assert limited["searched"] == len(cats)
        radius = cats[2]["distance"]
        near = client.post(f"/api/search?radius={radius}&label=cats", content=content(3)).json()
        assert near["results"] == [hit for hit in cats if hit["distance"] <= radius]
        one = client.post(f"/api/search?radius={radius}&top=1", content=content(3)).json()
        within = [hit for hit in everything if hit["distance"] <= radius]
        assert (one["results"], one["more"]) == (within[:1], len(within) - 1)

    def test_a_query_of_another_class_is_not_excluded_by_place(self, client):
        params = {"id": "cats/1.png", "label": "dogs & more", "top": 100}
        result = client.get("/api/similar", params=params).json()
        assert len(result["results"]) == 4
        result = client.get("/api/similar", params={**params, "label": "cats"}).json()
        assert len(result["results"]) == 7

    def test_an_engine_finds_the_nearest_images(self, client, index, tmp_path, monkeypatch):
        class Named(ExactEngine):
            name = "named"

        expected = client.get("/api/similar?id=cats/1.png&top=5").json()
        with Named(20, tmp_path / "engine", index.store) as engine:
            app = make_app(Service(index, 10_000, engine), Limits())
            served = TestClient(app, base_url="http://localhost")
            result = served.get("/api/similar?id=cats/1.png&top=5").json()
            assert (expected["engine"], result["engine"]) == ("exact", "named")
            distances = [[one["distance"] for one in it["results"]] for it in (expected, result)]
            assert distances[0] == distances[1] and len(distances[0]) == 5
            assert all(one["id"] != "cats/1.png" for one in result["results"])
            assert served.post("/api/search", content=content(3)).json()["engine"] == "named"
            for more in ("radius=9", "label=cats"):
                path = f"/api/similar?id=cats/1.png&{more}"
                exact, other = client.get(path).json(), served.get(path).json()
                assert other["engine"] == "exact" and other["results"] == exact["results"]

            def fail(*arguments):
                raise DataError("the table is gone")

            monkeypatch.setattr(engine, "search", fail)
            response = served.get("/api/similar?id=cats/1.png")
            assert (response.status_code, response.json()["error"]) == (503, "the table is gone")

    def test_an_unknown_class_gives_nothing(self, client):
        result = client.post("/api/search?label=bird", content=content(3)).json()
        assert (result["results"], result["more"], result["searched"]) == ([], 0, 0)

    @pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_formats(self, client, form):
        assert client.post("/api/search", content=image_bytes(noise(1), form)).status_code == 200

    def test_images_and_classes_are_listed(self, client, index):
        info = client.get("/api/info").json()
        assert info["classes"] == ["cats", "dogs & more"]
        assert (info["images"], info["nbit"], info["name"]) == (12, 20, "photos")
        assert info["encoder"] == index.encoder.fingerprint
        listed = client.get("/api/images?top=100").json()
        assert {image["id"] for image in listed} == {item.id for item in index.collection.items}
        some = client.get("/api/images?top=3&label=cats").json()
        assert [image["labels"] for image in some] == [["cats"]] * 3
        assert client.get("/api/health").json()["images"] == 12

    def test_pictures_are_small_jpegs(self, client):
        for size in ("small", "large", "small"):
            response = client.get("/api/picture", params={"id": "dogs & more/3.png", "size": size})
            assert response.headers["content-type"] == "image/jpeg"
            picture = Image.open(io.BytesIO(response.content))
            assert (picture.format, picture.size) == ("JPEG", (10, 10))

    def test_an_image_that_another_process_adds_has_a_picture(self, tmp_path):
        folder = save(tmp_path / "photos" / "a.png").parent
        served, other = (ImageIndex(make_encoder(), folder) for _ in range(2))
        served.update()
        client = TestClient(
            make_app(Service(served, 10_000), Limits()), base_url="http://localhost"
        )
        save(folder / "b.png", 1)
        assert client.get("/api/picture?id=b.png").status_code == 404
        other.update()
        assert client.get("/api/picture?id=b.png").status_code == 200

    def test_the_memory_of_pictures_is_limited(self, client, service, monkeypatch):
        monkeypatch.setattr(service_module, "KEPT_PICTURES", 2000)
        for item in service.index.collection.items:
            client.get("/api/picture", params={"id": item.id})
        kept = service._pictures
        assert 0 < sum(map(len, kept.values())) == service._pictures_size <= 2000

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("similar?id=cats/1.png&topk=3", "/api/similar has no parameter 'topk'. Did you mean"),
            ("similar?id=cats/1.png&topk=3", "top? It takes id, top, radius, label."),
            ("images?radius=3", "/api/images has no parameter 'radius'. It takes top, label."),
            ("picture?id=cats/1.png&Size=large", "Did you mean size?"),
            ("health?verbose=1", "It takes no parameters."),
        ],
    )  # fmt: skip
    def test_an_unknown_parameter_is_refused(self, client, path, message):
        response = client.get(f"/api/{path}")
        assert response.status_code == 422 and message in response.json()["error"]

    def test_an_unknown_parameter_of_an_upload_is_refused(self, client):
        response = client.post("/api/search?k=3", content=content(3))
        assert response.status_code == 422 and "top, radius, label" in response.json()["error"]
        assert client.get("/?token=of-an-earlier-start").status_code == 200

    def test_the_schema_has_types(self, client):
        schema = client.get("/openapi.json").json()
        result = schema["components"]["schemas"]["Result"]["properties"]
        assert result["distance"]["type"] == "integer"
        assert "image/*" in schema["paths"]["/api/search"]["post"]["requestBody"]["content"]


BAD_UPLOADS = {
    "empty": b"",
    "text": b"not an image",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": b"<html><img src=x onerror=alert(1)></html>",
    "cut": content(1)[:60],
    "pdf": b"%PDF-1.7 \n1 0 obj",
    "pickle": b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00",
    "zip": b"PK\x03\x04" + bytes(40),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage",
}


class TestUploads:
    @pytest.mark.parametrize("kind", BAD_UPLOADS)
    def test_what_is_no_image_is_refused(self, client, kind):
        response = client.post("/api/search", content=BAD_UPLOADS[kind])
        assert response.status_code == 422
        assert "image" in message(response)

    def test_damaged_images_never_break_the_server(self, client):
        rng = np.random.default_rng(0)
        files = [image_bytes(noise(1, 40), form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF")]
        for number in range(60):
            data = bytearray(files[number % len(files)])
            for place in rng.integers(0, len(data), rng.integers(1, 8)):
                data[place] = rng.integers(256)
            response = client.post("/api/search", content=bytes(data[: rng.integers(1, len(data))]))
            assert response.status_code in (200, 422), response.text
        assert client.get("/api/health").json()["status"] == "ok"

    def test_a_file_behind_an_image_is_not_read(self, client):
        polyglot = image_bytes(noise(3), "PNG") + b"<script>alert(1)</script>PK\x03\x04"
        result = client.post("/api/search", content=polyglot).json()
        assert result["results"][0]["distance"] == 0
        assert "script" not in str(result)

    def test_a_large_file_is_refused_before_it_is_read(self, client):
        response = client.post("/api/search", content=b"x", headers={"content-length": "300000"})
        assert response.status_code == 413

    def test_a_large_file_without_a_length_is_refused(self, client):
        response = client.post("/api/search", content=(bytes(50_000) for _ in range(5)))
        assert response.status_code == 413
        assert "0.2 MB" in message(response)

    def test_many_pixels_are_refused(self, client):
        bomb = image_bytes(Image.new("1", (400, 400)))
        assert len(bomb) < 1000
        assert "160,000 pixels" in message(client.post("/api/search", content=bomb))

    def test_a_decompression_bomb_is_refused(self, client):
        bomb = bytearray(image_bytes(Image.new("1", (8, 8))))
        bomb[16:24] = (60_000).to_bytes(4, "big") * 2
        assert "image" in message(client.post("/api/search", content=bytes(bomb)))

    def test_a_wrong_length_is_refused(self, client):
        response = client.post("/api/search", content=b"x", headers={"content-length": "-1"})
        assert response.status_code == 400

    def test_a_slow_upload_is_refused_and_others_are_served(self, app):
        with running(app) as port:
            slow = socket.create_connection(("127.0.0.1", port))
            head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            slow.sendall(head.encode() + b"x")
            assert fetch(port, content(1)).startswith(b"HTTP/1.1 200")
            slow.settimeout(20)
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408")
            slow.close()

    def test_uploads_beyond_the_slots_wait_or_are_refused(self, app):
        with running(app) as port:
            head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
            for connection in slow:
                connection.sendall(head.encode() + b"x")
            for connection in slow:
                connection.settimeout(20)
            statuses = {connection.recv(1 << 16)[9:12] for connection in slow}
            assert statuses <= {b"408", b"503"}
            assert fetch(port, content(1)).startswith(b"HTTP/1.1 200")
            for connection in slow:
                connection.close()

    def test_parallel_searches_agree(self, app):
        with running(app) as port:
            answers = [b""] * 16
            expected = fetch(port, content(5)).partition(b'"encode_ms"')[0]

            def ask(place):
                answers[place] = fetch(port, content(5))

            threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        body = expected.partition(b"\r\n\r\n")[2]
        assert b'"results"' in body
        assert all(body in answer for answer in answers)


def fetch(port, body):
    """Send an upload over a new connection, and return the response."""
    head = f"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


class TestAccess:
    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "cats/../cats/1.png", "nothing.png", "cats"]
    )
    @pytest.mark.parametrize("page", ["picture", "similar"])
    def test_only_images_of_the_index_are_read(self, client, page, name):
        response = client.get(f"/api/{page}", params={"id": name})
        assert response.status_code == 404
        assert name in message(response)

    @pytest.mark.parametrize(
        "path", ["/../pyproject.toml", "/%2e%2e/app.py", "/static/app.js", "/docs", "/app.py"]
    )
    def test_only_the_files_of_the_page_are_served(self, client, path):
        assert client.get(path).status_code == 404

    @pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/icon.svg", "/api/info"])
    def test_nothing_is_loaded_from_elsewhere(self, client, path):
        response = client.get(path)
        assert response.status_code == 200
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        text = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost", 200),
            ("127.0.0.1:9", 200),
            ("[::1]:80", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("0.0.0.0", 403),
            ("127.0.0.1@evil.example", 403),
            ("[", 400),
        ],
    )
    def test_other_host_names_are_refused(self, client, host, status):
        assert client.get("/api/info", headers={"host": host}).status_code == status

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9"])
    def test_other_origins_are_refused(self, client, origin):
        response = client.post("/api/search", content=content(1), headers={"origin": origin})
        assert response.status_code == 403

    def test_pages_of_other_sites_read_nothing_but_may_link(self, client):
        headers = {"sec-fetch-site": "cross-site"}
        assert client.get("/api/picture?id=cats/1.png", headers=headers).status_code == 403
        assert client.get("/", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("query", "key"),
        [("top=0", "top"), ("top=x", "top"), ("top=501", "top"), ("radius=-1", "radius")],
    )
    def test_a_wrong_parameter_is_named(self, client, query, key):
        assert message(client.post(f"/api/search?{query}", content=content(1))).startswith(key)

    def test_an_unexpected_error_is_no_traceback(self, client, service, monkeypatch, caplog):
        def fail(*args):
            raise RuntimeError("a secret")

        monkeypatch.setattr(service, "search_similar", fail)
        response = client.get("/api/similar?id=cats/1.png")
        assert response.status_code == 500
        assert "secret" not in response.text
        assert "a secret" in caplog.text

    def test_a_file_that_is_gone_gives_a_message(self, client, service, monkeypatch):
        def fail(*args):
            raise DataError("The image cats/1.png cannot be read any more.")

        monkeypatch.setattr(service, "picture", fail)
        assert "cats/1.png" in message(client.get("/api/picture?id=cats/1.png"))


class TestToken:
    @pytest.mark.parametrize("path", ["/", "/app.js", "/api/info", "/openapi.json", "/?token=no"])
    def test_nothing_is_served_without_it(self, guarded, path):
        response = guarded.get(path)
        assert response.status_code == 401
        assert "token" in message(response)

    @pytest.mark.parametrize("value", [f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", "Bearer é"])
    def test_a_wrong_one_is_refused(self, guarded, value):
        headers = {"authorization": value.encode("latin-1")}
        assert guarded.get("/api/info", headers=headers).status_code == 401

    def test_it_is_accepted_in_a_header(self, guarded):
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert guarded.get("/api/info", headers=headers).status_code == 200

    def test_the_address_sets_a_cookie(self, guarded):
        response = guarded.get(f"/?token={quote(TOKEN)}")
        assert (response.status_code, response.headers["location"]) == (303, "/")
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert guarded.get("/api/info").status_code == 200
