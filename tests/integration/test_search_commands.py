"""``deephash encode`` and ``deephash search`` as a shell sees them, with a run of digits."""

import json
import os
import re
import shutil
import signal
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import deephash
from deephash import cli
from deephash.search import encode as encoding
from deephash.search.code_files import CodeFile
from deephash.search.image_index import home_of
from deephash.search.store import CodeStore
from tests import commands


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("run"))
        line = ["model.nbit=12", "trainer.epochs=1", "logger=quiet", "trainer.device=cpu"]
        yield deephash.train(line).folder.resolve()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Forty digits in folders of their classes, and a file that is cut off."""
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    for row in range(40):
        folder = tmp_path / "my photos" / str(digits.target[row])
        folder.mkdir(parents=True, exist_ok=True)
        gray = np.round(digits.images[row] * (255 / 16)).astype(np.uint8)
        Image.fromarray(gray).save(folder / f"{row:02},=.png")
    (tmp_path / "my photos" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "my photos"


def command(capsys, *words, status=0):
    """What a command prints on stdout and stderr."""
    assert cli.run(words[0], [*words[1:], "device=cpu"]) == status
    return capsys.readouterr()


def test_encode_goes_on_where_it_was_killed(run, photos, capsys, tmp_path):
    words = ("encode", f"run={run}", f"images={photos}", "out=codes.npz", "labels=folders")
    killed = commands.Command(tmp_path, _kill_after_two_writes, *words)
    assert killed.wait(300)[0] == -signal.SIGKILL
    assert not (tmp_path / "codes.npz").exists()
    with CodeStore.open(tmp_path / "codes.npz.partial") as store:
        assert len(store) == 10
    printed = command(capsys, *words)
    assert "40 codes of 12 bits: codes.npz" in printed.out
    assert "1 image cannot be read: codes.unreadable.tsv" in printed.err
    file = CodeFile.read(tmp_path / "codes.npz")
    assert file.ids == sorted(file.ids) and len(file) == 40
    assert file.labels == [name.partition("/")[0] for name in file.ids]
    encoder = deephash.load(run, device="cpu")
    assert file.encoder == encoder.describe()
    np.testing.assert_array_equal(file.codes, encoder.encode([photos / name for name in file.ids]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codes.npz", "codes.unreadable.tsv", "my photos"
    ]  # fmt: skip


def _kill_after_two_writes(*words):
    encoding.COMMIT_SECONDS = 0.0
    add, calls = CodeStore.add, []

    def killed(self, *arguments, **more):
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(add(self, *arguments, **more))

    CodeStore.add = killed
    cli.run(words[0], [*words[1:], "device=cpu", "batch_size=5"])


def test_encode_again_adds_what_is_new(run, photos, capsys, tmp_path, monkeypatch):
    words = ("encode", f"run={run}", f"images={photos}", "out=codes.jsonl")
    command(capsys, *words)
    sizes = []
    original = deephash.CodeEncoder.codes_of_pixels
    monkeypatch.setattr(
        deephash.CodeEncoder,
        "codes_of_pixels",
        lambda self, pixels: sizes.append(len(pixels)) or original(self, pixels),
    )
    before = (tmp_path / "codes.jsonl").read_bytes()
    command(capsys, *words)
    assert sizes == [] and (tmp_path / "codes.jsonl").read_bytes() == before
    shutil.copy(photos / "0" / "00,=.png", photos / "new.png")
    (photos / "1" / "01,=.png").unlink()
    (photos / "cut.png").unlink()
    assert "40 codes" in command(capsys, *words).out and sizes == [1]
    names = CodeFile.read(tmp_path / "codes.jsonl").ids
    assert "new.png" in names and "1/01,=.png" not in names
    assert not (tmp_path / "codes.unreadable.tsv").exists()


def test_search_prints_the_nearest_images_and_writes_a_page(run, photos, capsys):
    words = ("search", f"run={run}", "images=my photos", "labels=folders")
    query = "query=my photos/3/03,=.png"
    printed = command(capsys, *words, query, "top=5", "itself=true")
    assert "40 images (40 added, 1 unreadable)" in printed.err
    first, *lines = printed.out.splitlines()
    assert first == "my photos/3/03,=.png" and len(lines) in (5, 6)
    assert lines[0] == "   0  3/03,=.png  3"
    home = home_of(photos)
    page = (home / "search.html").read_text()
    assert page.count('src="data:image/jpeg') == 6
    assert 'href="../my%20photos/3/03%2C%3D.png"' in page and "3 ✓" in page
    assert re.search(r'(src|href)="(https?:)?//', page) is None and "<script" not in page
    result = json.loads((home / "search.json").read_text())
    assert result["queries"][0]["results"][0]["id"] == "3/03,=.png"
    # by its id in the index, and without itself
    printed = command(capsys, *words, "query=3/03,=.png", "top=4", "page=false", "json=true")
    assert "added" not in printed.err and "page" not in printed.err
    answer = json.loads(printed.out)["queries"][0]
    expected = result["queries"][0]["results"][1:]
    assert (answer["query"], answer["results"]) == ("3/03,=.png", expected)


def test_codes_of_two_precisions_are_not_mixed(run, photos, capsys, tmp_path):
    """Without ``precision``, codes that exist are used; on a CPU new ones are in float32."""
    words = ("search", "images=my photos", "query=3/03,=.png", "page=false")
    trained = tmp_path / "trained in bf16"
    shutil.copytree(run, trained)
    config = (trained / "config.yaml").read_text()
    (trained / "config.yaml").write_text(config.replace("precision: fp32", "precision: bf16"))
    encoder = deephash.load(trained, device="cpu")
    folders = {
        name: home_of(photos) / encoder.with_precision(name).fingerprint[:12]
        for name in ("fp32", "bf16")
    }
    assert "40 added" in command(capsys, *words, f"run={trained}", "precision=bf16").err
    assert folders["bf16"].exists() and not folders["fp32"].exists()
    again = command(capsys, *words, f"run={trained}").err
    assert "precision=bf16, as the codes that exist" in again and "added" not in again
    assert "40 added" in command(capsys, *words, f"run={run}", "precision=fp32").err
    assert "precision=" not in command(capsys, *words, f"run={trained}").err
    words = ("encode", f"run={trained}", f"images={photos}", "out=codes.npz")
    for more, expected in (((), "fp32"), (("precision=bf16",), "bf16"), ((), "bf16")):
        printed = command(capsys, *words, *more)
        assert CodeFile.read(tmp_path / "codes.npz").encoder["precision"] == expected
        assert ("codes of another encoder: starting again" in printed.err) == bool(more)
    assert deephash.encode(trained, photos, device="cpu").encoder["precision"] == "fp32"


def test_search_with_many_queries_and_a_radius(run, photos, capsys, tmp_path):
    with zipfile.ZipFile("queries.zip", "w") as archive:
        for row in (10, 11):
            (path,) = photos.glob(f"*/{row},=.png")
            archive.write(path, path.name)
    words = ("search", f"run={run}", "images=my photos", "radius=1", "json=true")
    out = tmp_path / "results"
    first = json.loads(command(capsys, *words, "query=queries.zip", f"out={out}").out)
    assert [one["query"] for one in first["queries"]] == ["10,=.png", "11,=.png"]
    for one in first["queries"]:
        assert one["results"][0]["distance"] == 0 and one["more"] == 0
        assert all(hit["distance"] <= 1 for hit in one["results"])
    assert (out / "search.html").is_file() and not (home_of(photos) / "search.html").exists()
    paths = [next(photos.glob(f"*/{row},=.png")).relative_to(tmp_path) for row in (10, 11)]
    listed = f"query=[{','.join(map(str, paths))}]"
    second = json.loads(command(capsys, *words, listed, "itself=true").out)
    assert [one["results"] for one in second["queries"]] == [
        one["results"] for one in first["queries"]
    ]


def test_duplicates_are_grouped(run, photos, capsys):
    shutil.copy(photos / "0" / "00,=.png", photos / "copy.png")
    words = ("search", f"run={run}", "images=my photos", "duplicates=true")
    lines = command(capsys, *words).out.splitlines()
    assert re.fullmatch(
        r"\d+ groups? of \d+ images within distance 0, 1 of them identical files", lines[0]
    )
    assert any(line.endswith("copy.png  identical to 0/00,=.png") for line in lines)
    groups = json.loads((home_of(photos) / "duplicates.json").read_text())["groups"]
    (group,) = [group for group in groups if any("copy_of" in image for image in group["images"])]
    assert group["width"] == 0
    page = (home_of(photos) / "duplicates.html").read_text()
    assert "identical to 0/00,=.png" in page and "http" not in page.partition("<main>")[2]


def test_another_process_may_add_images_meanwhile(run, photos, capsys):
    words = ("search", f"run={run}", "images=my photos", "query=0/00,=.png")
    command(capsys, *words)
    shutil.copy(photos / "0" / "00,=.png", photos / "new.png")
    (folder,) = [path for path in home_of(photos).iterdir() if path.is_dir()]
    with CodeStore.open(folder, write=True):
        printed = command(capsys, *words)
    assert "Searching the 40 images that are in the index" in printed.err
    assert "new.png" not in printed.out
    assert "   0  new.png" in command(capsys, *words).out


def test_search_by_an_engine(run, photos, capsys):
    pytest.importorskip("faiss")
    words = ("search", f"run={run}", "images=my photos", "query=my photos/3", "page=false")
    exact = json.loads(command(capsys, *words, "json=true").out)
    more = ("engine=faiss_ivf", "engine.lists=4", "check_recall=true", "json=true")
    printed = command(capsys, *words, *more)
    assert "recall of engine=faiss_ivf: 1.0000 (" in printed.err
    result = json.loads(printed.out)
    assert result["engine"] == {"name": "faiss_ivf", "exact": True, "recall": 1.0}
    for one, other in zip(exact["queries"], result["queries"], strict=True):
        assert [hit["distance"] for hit in one["results"]] == [
            hit["distance"] for hit in other["results"]
        ]
    (folder,) = home_of(photos).glob("*.faiss_ivf")
    (file,) = folder.glob("*.faiss")
    # the index is read again, and follows the images
    assert command(capsys, *words, *more).out == printed.out and file.exists()
    shutil.copy(next(photos.glob("3/*.png")), photos / "new.png")
    result = json.loads(command(capsys, *words, *more).out)
    assert "new.png" in [hit["id"] for hit in result["queries"][0]["results"]]
    assert not file.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search"], "Type run=FOLDER."),
        (["search", "run=R", "images=my photos"], "duplicates=true, and not both."),
        (["search", "run=R", "images=my photos", "duplicates=true", "query=a.png"], "not both"),
        (["search", "run=R", "images=my photos", "query=a.png", "topk=3"], "Did you mean top=3?"),
        (["search", "run=R", "images=my photos", "query=a.png", "top=0"], "top"),
        (
            ["search", "run=R", "images=my photos", "query=a.png", "engine=faiss_hnsw", "radius=2"],
            "needs all images within a distance",
        ),
        (
            ["search", "run=R", "images=my photos", "query=a.png", "check_recall=true"],
            "Try engine=faiss_ivf",
        ),
        (
            ["search", "run=R", "images=my photos", "query=a.png", "engine=faiss"],
            "Did you mean engine=faiss_ivf?",
        ),
        (["encode", "run=R", "images=my photos"], "Type out=codes.npz."),
        (["encode", "run=R", "images=my photos", "out=codes.h5"], "a file such as out=codes.npz"),
        (["encode", "run=R", "images=no", "out=codes.npz", "precision=b16"], "precision=bf16?"),
        (["encode", "run=R", "images=my photos", "out=no.npz"], "R"),
    ],
)
def test_mistakes_are_explained(photos, capsys, words, message):
    assert cli.run(words[0], words[1:]) in (1, 2)
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err
    assert [path.name for path in photos.parent.iterdir()] == ["my photos"]


def test_a_query_that_does_not_exist(run, photos, capsys):
    words = ("search", f"run={run}", "images=my photos")
    printed = command(capsys, *words, "query=0/00,=.jpg", status=1)
    assert "Did you mean query=0/00,=.png?" in printed.err and not home_of(photos).exists()
    printed = command(capsys, *words, "query=my photos/cut.png", status=1)
    assert "none of the queries can be read" in printed.err


def test_a_missing_checkpoint_is_named_before_images_are_read(
    run, photos, capsys, tmp_path, monkeypatch
):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "best.pt").unlink()
    for name in ("deephash.search.commands.open_collection", "deephash.config.build.data_module"):
        monkeypatch.setattr(name, None)
    for words in (
        ("encode", "images=my photos", "out=codes.npz"),
        ("search", "images=my photos", "query=3/03,=.png"),
        ("serve", "images=my photos"),
        ("evaluate", "figures=false"),
    ):
        printed = command(capsys, *words, f"run={broken}", status=1)
        assert f"there is no checkpoint {broken / 'best.pt'}" in printed.err
    assert cli.run("export", [f"run={broken}", "to=safetensors", "out=hub"]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err and not (tmp_path / "hub").exists()


def test_the_functions_of_a_program(run, photos):
    failed = []
    file = deephash.encode(run, photos, labels="folders", device="cpu", unreadable=failed)
    assert len(file) == 40 and [one.id for one in failed] == ["cut.png"]
    index = deephash.ImageIndex(run, photos, device="cpu")
    assert index.update().added == 40
    (answer,) = index.search(Image.open(photos / "5" / "05,=.png"), top=3)
    assert answer.hits[0].distance == 0 and len(answer.hits) == 3
