"""Each dataset in miniature, from its archive to a report; and ``deephash data`` itself."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from deephash import runs
from deephash.data.splits.split_file import read_split
from deephash.errors import ConfigError, DataError
from tests.data import miniatures
from tests.pages import job
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures("composable")


WNIDS = tuple(
    name
    for name in (ROOT / "conf/dataset/imagenet100.yaml")
    .read_text()
    .partition("class_names: [")[2]
    .partition("]")[0]
    .replace(",", " ")
    .split()
)
MINIATURES = {  # what makes it, its protocol, and what is smaller than in the published one
    "imagenet100": (
        lambda root: miniatures.make_ilsvrc(root, WNIDS, train=4, validation=2, layout="kaggle"),
        "drawn",
        ["dataset.recipes.drawn.train=2", "dataset.source.size=32",
         "dataset.protocols.drawn.validation=1"],
    ),
    "nuswide21": (
        lambda root: miniatures.make_nuswide(root, count=400, world="running"),
        "drawn",
        ["dataset.recipes.drawn.train=2", "dataset.recipes.drawn.queries=1",
         "dataset.protocols.drawn.validation=0"],
    ),
    "nuswide81": (
        lambda root: miniatures.make_nuswide(root, concepts=81),
        "drawn",
        ["dataset.recipes.drawn.train=60", "dataset.recipes.drawn.queries=20"],
    ),
    "coco": (
        miniatures.make_coco,
        "drawn",
        ["dataset.recipes.drawn.train=60", "dataset.recipes.drawn.queries=20",
         "dataset.protocols.drawn.validation=0"],
    ),
    "mirflickr25k": (
        lambda root: miniatures.make_mirflickr(root, columns=38),
        "drawn",
        ["dataset.recipes.drawn.train=60", "dataset.recipes.drawn.queries=20"],
    ),
    "voc2012": (
        miniatures.make_voc,
        "drawn",
        ["dataset.recipes.drawn.train=60", "dataset.recipes.drawn.queries=20"],
    ),
    "csv": (
        miniatures.make_csv,
        "roles",
        ["dataset.catalog.role=role", "dataset.protocols.roles.validation=2"],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPHASH_CACHE", str(tmp_path / "cache"))


def data(do, *words):
    """What ``deephash data`` does."""
    runs.data(*job("data", [f"do={do}", *words]))


def train(*words):
    words = ["backbone=tiny", "trainer.epochs=1", "trainer.batch_size=16", "trainer.device=cpu",
             "model.nbit=16", "logger=quiet", *words]  # fmt: skip
    return runs.train(*job("train", words))


def evaluate(*words):
    words = ["figures=false", "device=cpu", *words]
    return runs.evaluate(*job("evaluate", words))


@pytest.mark.parametrize("dataset", MINIATURES)
def test_from_an_archive_to_a_report(dataset, tmp_path, capsys):
    make, protocol, smaller = MINIATURES[dataset]
    made = make(tmp_path / "images")
    words = [f"dataset={dataset}", "dataset.root=images", f"dataset.protocol={protocol}",
             "dataset.size=32", "dataset.top=null", *smaller]  # fmt: skip
    data("prepare", *words)
    output = capsys.readouterr().out
    assert (
        f"wrote images/{protocol}.split.xz" in output and f"dataset.protocol={protocol}" in output
    )
    catalogue, header = read_split(tmp_path / f"images/{protocol}.split.xz")
    known = dict(zip(made.ids, made.labels.tolist(), strict=True))
    assert catalogue.labels.toarray().tolist() == [known[name] for name in catalogue.ids]
    assert header.dataset == dataset and header.fingerprint[:16] in output

    data("prepare", *words)
    assert "is there already, and the same" in capsys.readouterr().out
    data("verify", *words, "images=true", "out=verified.json")
    assert capsys.readouterr().out.endswith("in order\n")
    assert json.loads((tmp_path / "verified.json").read_text())["facts"]["dataset"] == dataset
    data("describe", *words, "out=described.json")
    result = json.loads((tmp_path / "described.json").read_text())
    assert result["facts"]["num_train"] == len(catalogue.lists["train"])

    report = train(*words)
    assert report["protocol"]["fingerprint"] == result["facts"]["fingerprint"]
    assert 0 < report["metrics"]["map"] <= 1
    run = "outputs/" + report["run"]
    again = evaluate(f'run="{run}"')
    assert again["metrics"]["map"] == report["metrics"]["map"]


def test_lists_of_every_dialect_are_one_split(tmp_path, capsys):
    """Exported with other prefixes and styles, and adopted again, the fingerprint stays."""
    miniatures.make_voc(tmp_path / "voc")
    words = ["dataset=voc2012", "dataset.root=voc", "dataset.recipes.drawn.train=60",
             "dataset.recipes.drawn.queries=20", "dataset.expected=null"]  # fmt: skip
    data("prepare", *words, "dataset.protocol=drawn", "images=false")
    drawn = capsys.readouterr().out.partition("fingerprint ")[2][:16]
    for folder, more in (("a", []), ("b", ["prefix=/home/somebody/data/voc/"])):
        data("export", *words, "dataset.protocol=drawn", f"out={folder}", *more)
        assert drawn in capsys.readouterr().out
        data("prepare", *words, f"dataset.lists={folder}", "images=false")
        assert drawn in capsys.readouterr().out
        assert (tmp_path / folder / "lists.split.xz").is_file()
    assert (tmp_path / "b/train.txt").read_text().startswith("/home/somebody/data/voc/VOCdevkit/")
    first, second = (read_split(tmp_path / name / "lists.split.xz")[1] for name in "ab")
    assert first.fingerprint == second.fingerprint and first.lists != second.lists

    data("export", *words, "dataset.protocol=drawn", "out=one", "style=split")
    file = tmp_path / "one/voc2012-drawn.split.xz"
    assert read_split(file)[1].fingerprint == first.fingerprint
    data("describe", *words, f"dataset.lists={file}")
    assert drawn in capsys.readouterr().out
    with pytest.raises(DataError, match="style=index needs one label per image"):
        data("export", *words, "dataset.protocol=drawn", "out=two", "style=index")
    assert not (tmp_path / "two").exists()

    lines = (tmp_path / "a/train.txt").read_text().splitlines()
    (tmp_path / "a/train.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="made from other lists"):
        data("describe", *words, "dataset.lists=a")


def test_a_draw_is_the_same_on_every_machine(tmp_path, capsys):
    miniatures.make_voc(tmp_path / "voc", count=60)
    words = ["dataset=voc2012", "dataset.root=voc", "dataset.recipes.drawn.train=20",
             "dataset.recipes.drawn.queries=10", "dataset.protocol=drawn"]  # fmt: skip
    data("prepare", *words, "images=false")
    assert "fingerprint 7043944c38806802" in capsys.readouterr().out


def test_what_is_not_the_published_set_is_refused_and_not_kept(tmp_path):
    miniatures.make_voc(tmp_path / "voc", count=60)
    words = ["dataset=voc2012", "dataset.root=voc", "dataset.protocol=drawn"]
    with pytest.raises(DataError, match=r"60 images .* needs"):
        data("prepare", *words)
    (tmp_path / "lists").mkdir()
    for name, rows in (("train", (0, 20)), ("test", (20, 30)), ("database", (30, 60))):
        files = sorted((tmp_path / "voc/VOCdevkit/VOC2012/JPEGImages").iterdir())[slice(*rows)]
        lines = [f"{file.name} 1 {' 0' * 19}\n" for file in files]
        (tmp_path / f"lists/{name}.txt").write_text("".join(lines))
    words = ["dataset=voc2012", "dataset.root=voc", "dataset.lists=lists"]
    with pytest.raises(DataError, match="num_train should be 4000 and is 20"):
        data("prepare", *words)
    assert not list(tmp_path.rglob("*.split.xz")) and not (tmp_path / "cache").exists()
    data("prepare", *words, "dataset.expected=null", "images=false")
    assert (tmp_path / "lists/lists.split.xz").is_file()


def test_prepare_without_lists_states_what_to_type(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"dataset\.lists=FOLDER, or .* dataset\.protocol=drawn"):
        data("prepare", "dataset=coco", "dataset.root=empty")
    with pytest.raises(DataError, match="annotations"):
        data("prepare", "dataset=coco", "dataset.root=empty", "dataset.protocol=drawn")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_set_that_draws_its_split_is_prepared_by_decoding_it(tmp_path, capsys):
    for name in ("ant", "bee"):
        for number in range(14):
            miniatures.picture(tmp_path / f"pets/{name}/{number}.jpg", np.eye(2)[name == "bee"])
    data("prepare", "dataset=folder", "dataset.root=pets", "dataset.source.size=16")
    output = capsys.readouterr().out
    assert "28 images are ready" in output and "20 queries" in output
    assert len(list((tmp_path / "cache").glob("pixels-*/pixels.npy"))) == 1


# verify


def folder_of(tmp_path, count=12):
    for number in range(count):
        for name in ("ant", "bee"):
            picture = np.full((8, 8, 3), 10 * number + 5 * (name == "bee"), np.uint8)
            path = tmp_path / f"pets/{name}/{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return ["dataset=folder", "dataset.root=pets", "dataset.source.size=8",
            "dataset.protocols.per_class.queries=2"]  # fmt: skip


def test_verify_tells_unreadable_files_and_their_number(tmp_path, capsys):
    words = folder_of(tmp_path)
    for number in (3, 4):
        file = tmp_path / f"pets/ant/{number:02d}.png"
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="folder is not in order"):
        data("verify", *words, "images=true")
    output = capsys.readouterr().out
    assert "error: 2 images are unreadable\n    ant/03.png\n    ant/04.png" in output
    assert "on_error=skip" in output


def test_verify_finds_the_same_picture_under_two_names(tmp_path, capsys):
    words = folder_of(tmp_path)
    data("verify", *words, "images=true")
    assert "look the same" not in capsys.readouterr().out
    shutil.copy(tmp_path / "pets/ant/00.png", tmp_path / "pets/bee/twin.png")
    data("verify", *words, "images=true")
    output = capsys.readouterr().out
    assert "2 images look the same, pixel by pixel\n    ant/00.png = bee/twin.png" in output


def test_verify_reports_a_query_with_a_duplicate_in_the_database(tmp_path, capsys):
    words = folder_of(tmp_path)
    for number in range(12):  # every image a second time, in its class
        for name in ("ant", "bee"):
            source = tmp_path / f"pets/{name}/{number:02d}.png"
            shutil.copy(source, source.with_name(f"twin{number:02d}.png"))
    data("verify", *words, "images=true")
    output = capsys.readouterr().out
    assert "48 images look the same" in output and "are queries and in train or database" in output


def test_verify_reports_the_same_picture_with_two_classes(tmp_path, capsys):
    words = folder_of(tmp_path)
    shutil.copy(tmp_path / "pets/ant/00.png", tmp_path / "pets/bee/twin.png")
    data("verify", *words, "images=true")
    assert "2 of these have different labels" in capsys.readouterr().out


def test_verify_tells_pictures_that_show_nothing_and_several_frames(tmp_path, capsys):
    words = folder_of(tmp_path)
    data("verify", *words)
    assert "25 images have at most two levels" not in capsys.readouterr().out
    noise = np.random.default_rng(0)
    for file in (tmp_path / "pets").rglob("*.png"):
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    dark = Image.fromarray(noise.integers(0, 4096, (8, 8), dtype=np.uint16))
    dark.save(tmp_path / "pets/ant/microscope.tif")
    frames = [Image.new("L", (8, 8), value) for value in (90, 91, 92)]
    frames[0].save(tmp_path / "pets/ant/film.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "pets/ant/drawing.svg").write_text("<svg/>")
    data("verify", *words, "images=true")
    output = capsys.readouterr().out
    assert "1 images have at most two levels of gray or color\n    ant/film.gif" in output
    assert (
        "1 images are nearly black: no value is above 16 of 255\n    ant/microscope.tif" in output
    )
    assert "1 files hold several frames or pages, and only the first is read" in output
    assert "note: ignored: 1 .svg (convert them to JPEG or PNG)" in output
    data("describe", *words)
    assert "note: ignored: 1 .svg" in capsys.readouterr().out


def test_verify_tells_layouts_and_lists_that_are_exchanged(tmp_path, capsys):
    words = folder_of(tmp_path)
    for part in ("train", "val"):
        shutil.copytree(tmp_path / "pets", tmp_path / "parts" / part)
    words[1] = "dataset.root=parts"
    with pytest.raises(DataError, match="not in order"):
        data("verify", *words)
    assert "dataset.protocol=official" in capsys.readouterr().out
    data("verify", *words, "dataset.protocol=official")
    assert "in order" in capsys.readouterr().out
    for name, numbers in (("train", (0, 1)), ("test", (2, 3, 4, 5)), ("database", (6, 7))):
        lines = [f"{kind}/{number:02d}.png {index}" for number in numbers
                 for index, kind in ((1, "ant"), (2, "bee"))]  # fmt: skip
        (tmp_path / "pets" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    data("verify", "dataset=lists", "dataset.root=pets", "dataset.source.size=8")
    output = capsys.readouterr().out
    assert "more queries (8) than images to search (4)" in output
    assert "labels seem to be counted from 1" in output


def test_verify_repairs_changed_pixels_in_the_cache(tmp_path, capsys):
    words = folder_of(tmp_path)
    data("prepare", *words)
    file = next((tmp_path / "cache").glob("pixels-*/pixels.npy"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="not in order"):
        data("verify", *words, "images=true")
    assert "had changed in the cache" in capsys.readouterr().out
    data("verify", *words, "images=true")
    assert capsys.readouterr().out.endswith("in order\n")


def test_verify_of_lists_collects_all_that_is_wrong(tmp_path, capsys):
    miniatures.make_voc(tmp_path / "voc", count=60)
    words = ["dataset=voc2012", "dataset.root=voc", "dataset.recipes.drawn.train=20",
             "dataset.recipes.drawn.queries=10", "dataset.expected=null"]  # fmt: skip
    data("prepare", *words, "dataset.protocol=drawn", "images=false")
    data("export", *words, "dataset.protocol=drawn", "out=lists")
    train_list = tmp_path / "lists/train.txt"
    lines = train_list.read_text().splitlines()
    lines[3] += " 1"  # a column too many: its image is in no list then
    lines.append(lines[0])
    train_list.write_text("\n".join(lines))
    (tmp_path / "voc" / lines[0].split()[0]).unlink()
    capsys.readouterr()
    with pytest.raises(DataError, match="not in order"):
        data("verify", *words, "dataset.lists=lists", "dataset.protocol=lists")
    output = capsys.readouterr().out
    assert "line 4" in output and "21 labels" in output  # malformed
    assert "line 21" in output or "twice" in output  # named again
    assert "1 of 59 images" in output  # without its file


def test_a_place_that_cannot_be_written_is_reported():
    with pytest.raises(DataError, match=r"out  cannot write /proc/x\.json"):
        data("describe", "out=/proc/x.json")


def test_describe_gives_the_map_of_random_codes(tmp_path, capsys):
    data("describe", "out=digits.json")
    result = json.loads((tmp_path / "digits.json").read_text())
    share = np.array(result["classes"]["database"]) / 1597
    assert result["chance"]["prevalence"] == pytest.approx(share.mean(), abs=1e-12)
    assert result["chance"]["map"] == pytest.approx(0.1039, abs=5e-5)
    assert "chance: mAP@all 0.1039" in capsys.readouterr().out


# runs of before


def test_a_run_of_before_new_keys_and_protocols_is_the_same_run(tmp_path):
    import yaml

    report = train("dataset=digits")
    file = tmp_path / "outputs" / report["run"] / "config.yaml"
    ran = yaml.safe_load(file.read_text())
    del ran["evaluation"]["centred"], ran["trainer"]["compile"], ran["trainer"]["graph"]
    ran["dataset"]["protocols"]["other"] = {"queries": 3}
    file.write_text(yaml.safe_dump(ran))
    assert train("dataset=digits") == report  # finished: skipped
    ran["dataset"]["protocols"]["per_class"]["queries"] = 19
    file.write_text(yaml.safe_dump(ran))
    with pytest.raises(ConfigError, match=r"dataset\.protocols\.queries: 19 -> 20"):
        train("dataset=digits")


def test_runs_are_measured_on_the_data_that_is_named(tmp_path):
    report = train("dataset=digits")
    with pytest.raises(DataError, match="cifar10 is not at"):
        evaluate(f'runs=["outputs/{report["run"]}"]', "dataset=cifar10",
                 "dataset.source.download=false")  # fmt: skip


# features


def test_features_train_a_head_and_carry_the_split_along(tmp_path, capsys):
    words = ["dataset=digits", "backbone=tiny", "backbone.width=4", "trainer.device=cpu", "out=f"]
    data("encode", *words)
    before = (tmp_path / "f/features.npy").stat()
    array = np.load(tmp_path / "f/features.npy")
    assert array.shape == (1797, 64) and array.dtype == np.float32
    data("encode", *words)  # finished: left as it is
    assert (tmp_path / "f/features.npy").stat().st_mtime_ns == before.st_mtime_ns
    data("encode", *words, "dtype=float16", "trainer.eval_batch_size=100")
    half = np.load(tmp_path / "f/features.npy")
    assert half.dtype == np.float16 and np.abs(half - array).max() < 1e-2
    used = ["dataset=features", "dataset.root=f", "backbone=identity", "trainer.epochs=10"]
    report = train(*used)
    original = train("dataset=digits")
    assert report["protocol"]["fingerprint"] == original["protocol"]["fingerprint"]
    assert report["metrics"]["map"] > 0.5  # chance is 0.1
    again = evaluate(f'run="outputs/{report["run"]}"', "figures=true", "tsne=0")
    assert again["metrics"]["map"] == report["metrics"]["map"]
    with pytest.raises(ConfigError, match="takes features, but this dataset has images"):
        train("dataset=digits", "backbone=identity", "paths.outputs=others")
    with pytest.raises(ConfigError, match=r"64 features: try backbone=identity"):
        train("dataset=features", "dataset.root=f", "backbone=tiny", "paths.outputs=others")
    with pytest.raises(ConfigError, match="these are features already"):
        data("encode", "dataset=features", "dataset.root=f", "out=g")


def test_an_interrupted_encoding_continues(tmp_path, monkeypatch):
    from deephash.data.sources import feature_formats

    words = ["dataset=digits", "backbone=tiny", "trainer.device=cpu", "trainer.eval_batch_size=64"]
    data("encode", *words, "out=whole")
    monkeypatch.setattr(feature_formats, "FLUSH", 2)
    write_json = feature_formats.write_json
    written = []

    def tell(path, values):
        write_json(path, values)
        written.append(values)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(feature_formats, "write_json", tell)
    with pytest.raises(KeyboardInterrupt):
        data("encode", *words, "out=parts")
    assert written[-1]["done"] == 6 * 64 and not (tmp_path / "parts/features.npy").exists()
    with pytest.raises(DataError, match=r"looked for features\.npy"):
        train("dataset=features", "dataset.root=parts", "backbone=identity")
    monkeypatch.setattr(feature_formats, "write_json", write_json)
    data("encode", *words, "out=parts")
    assert not (tmp_path / "parts/features.part").exists()
    whole, parts = (np.load(tmp_path / folder / "features.npy") for folder in ("whole", "parts"))
    assert np.array_equal(whole, parts)


def test_verify_finds_features_that_are_not_finite(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for role in ("train", "test", "database"):
        features = rng.standard_normal((20, 8)).astype(np.float32)
        features[3, 5] = np.inf if role == "test" else 0
        np.savez(tmp_path / f"{role}.npz", features=features, labels=np.arange(20) % 2)
    words = ["dataset=features", f"dataset.root={tmp_path}"]
    for do in ("verify", "prepare"):
        with pytest.raises(DataError) as caught:
            data(do, *words)
        message = str(caught.value) + capsys.readouterr().out
        assert "1 of 60 features hold NaN or infinite values" in message
        assert f"(queries): inf in column 5 of {tmp_path}/test.npz, row 3" in message
    with pytest.raises(DataError, match=r"test\.npz, row 3"):
        train(*words, "backbone=identity", "dataset.name=own", "dataset.top=null")
    assert not any(path.is_file() for path in (tmp_path / "outputs").rglob("*"))
