"""The points of a grid, and the files of sweeps/: counts and values as the papers have them."""

import itertools
import subprocess
from dataclasses import replace

import pytest
import yaml

from deephash.config import checks
from deephash.config.overrides import parse_all, texts
from deephash.errors import ConfigError
from deephash.sweep import grid as grids
from deephash.sweep import multirun
from deephash.sweep.spec import SweepSpec
from tests.pages import composable, resolved
from tests.paths import ROOT

SWEEPS = ROOT / "sweeps"
NAMES = sorted(file.stem for file in SWEEPS.glob("*.yaml"))

BITS = ("16", "32", "64", "128")
BETAS = ("5", "10", "25", "50", "80", "100", "200", "250", "300", "500")
METHODS = ("hashnet", "dtsh", "greedyhash", "jmlh", "dpn", "csq", "orthohash", "relahash")


def jobs_of(name, *typed):
    """The jobs of a sweep as dictionaries of what is typed."""
    result = multirun.build_grid(SweepSpec.read(SWEEPS, name), parse_all(typed))
    return [{override.key: override.value for override in job} for job in result.jobs]


def picked(jobs, *keys):
    return {tuple(job.get(key) for key in keys) for job in jobs}


def constant(jobs, key):
    (value,) = {job.get(key) for job in jobs}
    return value


@pytest.fixture(scope="module")
def composed():
    with composable():

        def compose_job(job):
            overrides = [f"{key}={value}".removesuffix("=") for key, value in job.items()]
            cfg = resolved(overrides)
            assert checks.check_train(cfg, parse_all(overrides)) == []
            return cfg

        yield compose_job


# points


def test_the_last_axis_runs_fastest():
    result = grids.grid_points({"a": ["1", "2"], "b": ["x", "y"]})
    assert [tuple(point.values()) for point in result] == [
        ("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")
    ]  # fmt: skip


def test_a_rule_holds_where_all_its_conditions_do_and_a_later_one_beats_it():
    axes = {"dataset": ["cifar10", "coco"], "nbit": ["16", "32"]}
    where = [
        {"if": {"dataset": "cifar10"}, "then": {"beta": 80}},
        {"if": {"dataset": ["cifar10", "voc"], "nbit": 32}, "then": {"beta": 0.5, "on": True}},
    ]
    assert grids.grid_points(axes, where) == [
        {"dataset": "cifar10", "nbit": "16", "beta": "80"},
        {"dataset": "cifar10", "nbit": "32", "beta": "0.5", "on": "true"},
        {"dataset": "coco", "nbit": "16"},
        {"dataset": "coco", "nbit": "32"},
    ]


def test_no_rule_sets_what_the_user_did():
    where = [{"if": {"a": 1}, "then": {"beta": 80, "m": 0.5}}]
    result = grids.grid_points({"a": ["1"], "beta": ["7"]}, where, given=["beta"])
    assert result == [{"a": "1", "beta": "7", "m": "0.5"}]


def test_a_rule_of_another_form_is_reported():
    with pytest.raises(
        ConfigError, match=r"(?s)'when'.*is not a rule of a sweep.*if: \{dataset: cifar10\}"
    ):
        grids.grid_points({"a": ["1"]}, [{"when": {"a": 1}}])


# what is typed


def grid(*typed, **sheet):
    result = multirun.build_grid(SweepSpec("s" if sheet else None, **sheet), parse_all(typed))
    return replace(result, jobs=tuple(tuple(texts(job)) for job in result.jobs))


def test_without_a_sheet_the_grid_is_what_is_typed():
    result = grid(
        "seed=0,1", "model.nbit=16,32", "trainer.epochs=3", "logger=quiet", "~scheduler.at"
    )
    assert len(result.jobs) == 4
    assert result.jobs[1] == (
        "seed=0", "model.nbit=32", "trainer.epochs=3", "logger=quiet", "~scheduler.at"
    )  # fmt: skip
    assert result.axes == ("seed", "model.nbit")
    assert "trainer.epochs=3" in result.typed and "logger=quiet" not in result.typed


def test_what_is_typed_replaces_the_sheet_and_keeps_its_axes():
    result = grid("b=9", "c=1", params={"a": [1, 2], "b": [0.5, 2], "c": 0})
    assert [dict(t.split("=") for t in job) for job in result.jobs] == [
        {"a": str(a), "b": "9", "c": "1", "group": "s"} for a in (1, 2)
    ]
    assert result.axes == ("a", "b")
    assert result.typed == ("c=1",)  # another table; b is a place in the same


def test_ranges_and_globs():
    assert len(grid("seed=range(0,5)").jobs) == 5
    assert len(grid("model.nbit=choice(16,32)").jobs) == 2
    with pytest.raises(ConfigError, match="a grid needs single values"):
        grid("optimizer.lr=interval(0,1)")
    with pytest.raises(ConfigError, match="Write it as key=value"):
        grid("optimizer.lr:0,1")


def test_a_group_of_the_users_own():
    (job,) = grid("group=mine", params={"a": 1}).jobs
    assert job == ("a=1", "group=mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paramss: {a: 1}", "has no use for ['paramss']; it takes title, source, params"),
        ("- a", "has no use for ['a']"),
        ("a: [", "is not readable"),
        ("params: [1]", "is no sweep: params is a list, not a mapping"),
        ("title: 2020-01-02", "is not readable: it holds a date, 2020-01-02. Put it in quotes"),
        ("where: 5", "is no sweep: where is a whole number, not a list"),
        ("where: [{if: x, then: {}}]", "is no sweep: where[0].if is a text, not a mapping"),
        ("where: [{if: {}, then: [1]}]", "is no sweep: where[0].then is a list, not a mapping"),
        ("report: {digits: x}", "is no sweep: report.digits is a text, not a whole number"),
        ("a: &a [*a]", "is not readable: line 1: *a refers to a node that contains it"),
        ("a: " + "[" * 70, "is not readable: line 1: it is nested more than 50 times"),
    ],
)
def test_a_broken_sheet_is_reported(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        SweepSpec.read(tmp_path, "mine")
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"there is no 'other'.\n.*There are mine."):
        SweepSpec.read(tmp_path, "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("where: [{if: {a: 3}, then: {b: 1}}]", "a is never 3.\n         The grid has a: 1, 2."),
        ("where: [{if: {c: 1}, then: {b: 1}}]", "c is never 1.\n         The grid has a."),
        ("report: {rows: metod}", "metod is no axis"),
        ("report: {figure: {x: nbit}}", "nbit is no axis"),
        ("report: {publisehd: x}", "has no use for publisehd"),
        ("report: {published: nosuch}", "nothing is published as nosuch"),
        ("report: {figure: {x: a, scale: loga}}", "there is no scale loga"),
    ],
)
def test_names_that_mean_nothing_are_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(f"params: {{a: [1, 2]}}\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        SweepSpec.read(tmp_path, "mine")
    assert message in str(caught.value) and "mine.yaml" in str(caught.value)


def test_what_is_typed_over_a_rule_is_another_setting():
    sheet = SweepSpec.read(SWEEPS, "table1")
    result = multirun.build_grid(sheet, parse_all(["trainer.batch_size=16", "dataset=cifar10"]))
    assert result.typed == ("trainer.batch_size=16",)
    assert len(set(result.axes)) == len(result.axes) and "method.loss.penalty" in result.axes


# the files of sweeps/, against numbers that stand here


COUNTS = {
    "table1": (96, 32),
    "table2_beta": (80, 40),
    "table3_batch_size": (32, 16),
    "table4_lmcl": (48, 24),
    "fig7_margin": (11, 11),
    "fig8_beta": (11, 11),
    "fig9_batch_size": (7, 7),
    "sdc_table1": (36, 36),
    "sdc_calibration": (20, 10),
    "sdc_contrastive": (4, 2),
    "shallow": (72, 18),
    "cibhash_beta": (5, 5),
    "unsupervised": (162, 162),
}
RELAHASH = [name for name in NAMES if name.startswith(("table", "fig"))]
SHALLOW = ("lsh", "pcah", "pca_rr", "itq", "sh", "imh")
TWO_VIEWS = ("sdc_simclr", "cibhash", "nsh")


def test_every_sweep_is_counted_here():
    assert set(COUNTS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_number_of_jobs_of_each_sweep_and_in_its_description(name):
    whole, digits = COUNTS[name]
    assert len(jobs_of(name)) == whole
    assert len(jobs_of(name, "dataset=digits")) == digits
    seeds = 1 if name == "unsupervised" else 3
    assert len(jobs_of(name, "seed=0,1,2")) == seeds * whole
    text = (SWEEPS / f"{name}.yaml").read_text()
    assert f" {whole} jobs" in text and f"-m +sweep={name}" in text
    assert digits == whole or f" {digits} jobs" in text


def test_table1():
    jobs = jobs_of("table1")
    datasets = ("cifar10", "imagenet100", "nuswide21")
    assert picked(jobs, "method", "dataset", "model.nbit") == set(
        itertools.product(METHODS, datasets, BITS)
    )
    others = [job for job in jobs if job["method"] != "relahash"]
    assert constant(others, "trainer.batch_size") == "256"
    greedy = [job for job in others if job["method"] == "greedyhash"]
    assert picked(greedy, "dataset", "method.loss.penalty") == {
        ("cifar10", "0.1"),
        ("imagenet100", None),
        ("nuswide21", None),
    }
    ours = [job for job in jobs if job["method"] == "relahash"]
    assert picked(ours, "dataset", "model.nbit", "method.loss.scale") == {
        ("cifar10", "16", "100"),
        ("cifar10", "32", "80"),
        ("cifar10", "64", "200"),
        ("cifar10", "128", "250"),
        ("imagenet100", "16", "500"),
        ("imagenet100", "32", "500"),
        ("imagenet100", "64", "250"),
        ("imagenet100", "128", "100"),
        *(("nuswide21", nbit, "200") for nbit in BITS),
    }
    assert picked(ours, "dataset", "trainer.batch_size") == {
        ("cifar10", "16"),
        ("imagenet100", "64"),
        ("nuswide21", "256"),
    }


def test_table2():
    jobs = jobs_of("table2_beta")
    wanted = set(itertools.product(("cifar10", "imagenet100"), BETAS, BITS))
    assert picked(jobs, "dataset", "method.loss.scale", "model.nbit") == wanted
    assert constant(jobs, "method") == "relahash"
    assert constant(jobs, "method.loss.margin") == "0.5"
    assert constant(jobs, "trainer") == "early_stop"


def test_table3():
    jobs = jobs_of("table3_batch_size")
    assert picked(jobs, "dataset", "method.loss.scale", "trainer.batch_size", "model.nbit") == {
        (dataset, beta, size, nbit)
        for dataset, beta in (("cifar10", "80"), ("imagenet100", "100"))
        for size in ("16", "32", "64", "128")
        for nbit in BITS
    }
    assert constant(jobs, "trainer") == "early_stop"
    assert constant(jobs, "method.loss.margin") == "0.5"
    assert constant(jobs_of("table3_batch_size", "dataset=digits"), "method.loss.scale") is None


def test_table4():
    jobs = jobs_of("table4_lmcl")
    pointwise = ("greedyhash", "jmlh", "dpn", "csq", "orthohash", "relahash")
    assert picked(jobs, "method", "dataset", "model.nbit") == set(
        itertools.product(pointwise, ("cifar10", "imagenet100"), BITS)
    )
    settled = ("loss", "loss.scale", "loss.margin", "trainer.batch_size")
    assert picked(jobs, *settled) == {("lmcl", "sqrt_nbit", "0.2", "64")}


@pytest.mark.parametrize(
    ("name", "axis", "values", "settled"),
    [
        (
            "fig7_margin",
            "method.loss.margin",
            (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
            {"method.loss.scale": "50", "trainer.batch_size": "16"},
        ),
        (
            "fig8_beta",
            "method.loss.scale",
            (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            {"method.loss.margin": "0.5", "trainer.batch_size": "16"},
        ),
        (
            "fig9_batch_size",
            "trainer.batch_size",
            (4, 8, 16, 32, 64, 128, 256),
            {"method.loss.margin": "0.5", "method.loss.scale": "50"},
        ),
    ],
)
def test_figures_7_to_9(name, axis, values, settled):
    jobs = jobs_of(name)
    assert [float(job[axis]) for job in jobs] == list(values)
    both = {"method": "relahash", "dataset": "cifar10", "model.nbit": "64"}
    for key, value in (settled | both).items():
        assert constant(jobs, key) == value


def test_the_distributions_of_sdc():
    """A Gaussian does not read the parameter of the Beta distribution: one job, not nine."""
    jobs = jobs_of("sdc_calibration", "dataset=cifar10")
    axes = ("method.loss.calibration", "method.loss.beta_ab", "method", "model.nbit")
    assert picked(jobs, *axes) == {
        *(
            ("beta", value, "sdc", "64")
            for value in ("0.2", "0.5", "0.7", "1", "2", "3", "5", "7", "10")
        ),
        ("gaussian", "5", "sdc", "64"),
    }


def test_one_table_of_sdc_has_one_protocol_backbone_and_selection():
    jobs = jobs_of("sdc_table1")
    assert constant(jobs, "backbone") == "vgg16" and constant(jobs, "evaluation.top") == "1000"
    assert picked(jobs, "method", "dataset.protocol", "trainer.select_on") == {
        *((method, None, "query") for method in ("ugh", "bihalf", "cibhash", "sdc_simclr", "sdc")),
        *((method, None, None) for method in SHALLOW),
        ("nsh", "59k", "query"),
    }
    digits = jobs_of("sdc_table1", "dataset=digits")
    assert constant(digits, "backbone") is None and constant(digits, "dataset.protocol") is None


def test_all_methods_see_the_same_features():
    jobs = jobs_of("unsupervised")
    (typed, *_) = jobs_of("unsupervised", "backbone.frozen=false", "method.views=[train]")
    assert (typed["backbone.frozen"], typed["method.views"]) == ("False", "[train]")
    result = multirun.build_grid(
        SweepSpec.read(SWEEPS, "unsupervised"), parse_all(["backbone.frozen=false"])
    )
    assert not any("++backbone.frozen=true" in texts(job) for job in result.jobs)
    settled = {
        "backbone.frozen": "true",
        "trainer.select_on": "last",
        "evaluation.top": "1000",
        "evaluation.tops": "[all]",
        "backbone": "vgg16",
    }
    for key, value in settled.items():
        assert constant(jobs, key) == value
    result = multirun.build_grid(SweepSpec.read(SWEEPS, "unsupervised"), [])
    assert all("~settings" in texts(job) for job in result.jobs)
    views = {
        (job["method"], job.get("method.views"), job.get("method.cached_views")) for job in jobs
    }
    assert views == {
        (method, *((None, "8") if method in TWO_VIEWS else ("[test]", None)))
        for method in ("relahash", "orthohash", "csq", "dpn", "greedyhash", "hashnet", "ugh",
                       "bihalf", "sdc", *TWO_VIEWS, *SHALLOW)
    }  # fmt: skip
    typed = jobs_of("unsupervised", "backbone=alexnet")
    assert constant(typed, "backbone") == "alexnet"
    digits = jobs_of("unsupervised", "dataset=digits")
    assert constant(digits, "backbone") is None and not any("settings" in job for job in digits)


def test_closed_forms_and_the_divergence():
    jobs = jobs_of("shallow")
    assert picked(jobs, "method", "model.nbit") == set(itertools.product(SHALLOW, BITS[:3]))
    assert picked(jobs, "dataset", "evaluation.top") == {
        ("cifar10", "1000"), ("imagenet100", None), ("nuswide21", None), ("coco", None)
    }  # fmt: skip
    (axis,) = {"method.loss.divergence"}
    assert [job[axis] for job in jobs_of("cibhash_beta")] == ["0", "0.0001", "0.001", "0.01", "0.1"]
    assert picked(jobs_of("sdc_contrastive"), "method", "dataset") == set(
        itertools.product(("sdc", "sdc_simclr"), ("cifar10", "imagenet100"))
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RELAHASH])
def test_sweeps_without_labels_compose(name, composed):
    """Frozen, without a selection on the queries or with the one of the papers, and at one R."""
    for dataset in ("cifar10", "digits"):
        jobs = jobs_of(name, f"dataset={dataset}")
        result = multirun.build_grid(
            SweepSpec.read(SWEEPS, name), parse_all([f"dataset={dataset}"])
        ).jobs
        middle = next((at for at, job in enumerate(jobs) if job["method"] == "sdc_simclr"), 0)
        for at in {0, middle, len(jobs) - 1}:
            cfg = composed({override.name: override.value or "" for override in result[at]})
            assert cfg["backbone"]["frozen"] is True
            top = cfg["evaluation"]["top"] or cfg["dataset"]["top"]
            assert top == (1000 if dataset == "cifar10" or name == "unsupervised" else None)
            if dataset == "cifar10":
                assert (cfg["backbone"]["name"], cfg["dataset"]["protocol"]) == ("vgg16", "59k")


def test_points_that_rules_make_the_same_stand_once():
    where = [{"if": {"a": "2"}, "then": {"b": 0}}]
    assert grids.grid_points({"a": ["1", "2"], "b": ["0", "1", "2"]}, where) == [
        *({"a": "1", "b": value} for value in "012"),
        {"a": "2", "b": "0"},
    ]


@pytest.mark.parametrize("name", RELAHASH)
def test_the_two_regimes_are_exact(name, composed):
    """Tables 2 and 3 stop early; all else trains 100 epochs and looks at every 10th."""
    stops = name in ("table2_beta", "table3_batch_size")
    batch = {"cifar10": 16, "imagenet100": 64}  # where no job says another
    top = {"cifar10": None, "imagenet100": 1000, "nuswide21": 5000}
    seen = set()
    for job in jobs_of(name):
        kind = {job["dataset"], job["method"]}
        if kind <= seen:
            continue
        seen |= kind
        cfg = composed(job)
        trainer = cfg["trainer"]
        assert trainer["epochs"] == 100
        assert (trainer["eval_every"], trainer["patience"]) == ((1, 6) if stops else (10, None))
        assert trainer["select_on"] == "query"
        if "trainer.batch_size" not in job and job["dataset"] in batch:
            assert trainer["batch_size"] == batch[job["dataset"]]
        assert cfg["dataset"]["top"] == top[job["dataset"]]
        assert cfg["backbone"]["name"] == "alexnet"
        assert cfg["optimizer"]["lr"] == 1e-4 and cfg["optimizer"]["backbone_scale"] == 0.1
        assert cfg["optimizer"]["weight_decay"] == 5e-4
        assert cfg["scheduler"]["at"] == 0.8
        assert cfg["group"] == name


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_a_report_exist(name):
    sheet = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())
    report = sheet["report"]
    axes = {key for key, value in sheet["params"].items() if isinstance(value, list)}
    rows = report["rows"] if isinstance(report["rows"], list) else [report["rows"]]
    assert set(rows) <= axes
    assert report["columns"] == "model.nbit" and report["figure"]["x"] in axes
    assert report["figure"].get("scale", "linear") in ("log", "linear")
    assert set(report) <= {"rows", "row_label", "columns", "digits", "published", "also", "figure"}


def agent_command(page, point):
    """The command of a W&B agent, with its macros replaced."""
    words = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": ["echo"],  # instead of python
        "${program}": [page["program"]],
        "${args_no_hyphens}": [f"{key}={value}" for key, value in point.items()],
    }
    return [word for word_ in page["command"] for word in words.get(word_, [word_])]


def test_the_sweep_of_weights_and_biases_is_the_same_grid():
    page = yaml.safe_load((SWEEPS / "for_wandb" / "table2_beta.yaml").read_text())
    axes = {key: given["values"] for key, given in page["parameters"].items()}
    theirs = set()
    for point in grids.grid_points(axes):
        done = subprocess.run(agent_command(page, point), capture_output=True, text=True)
        program, *overrides = done.stdout.split()
        assert (program, overrides.pop()) == ("train.py", "logger=wandb"), done.stderr
        theirs.add(frozenset(tuple(word.split("=", 1)) for word in overrides))
    assert len(theirs) == 80
    assert theirs == {frozenset(job.items()) for job in jobs_of("table2_beta")}
    assert (ROOT / page["program"]).is_file() and page["method"] == "grid"


def test_parameters_of_weights_and_biases_have_names_of_their_own():
    """W&B puts a parameter in the place of a key of the configuration."""
    keys = {word.split(".")[0] for word in yaml.safe_load((ROOT / "conf/train.yaml").read_text())}
    keys |= {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    for file in (SWEEPS / "for_wandb").glob("*.yaml"):
        names = yaml.safe_load(file.read_text())["parameters"]
        assert names and not {name.split(".")[0] for name in names} & keys


def test_a_grid_of_millions_of_jobs_is_refused():
    axes = {f"a{n}": [str(value) for value in range(20)] for n in range(9)} | {"b": ["1"]}
    with pytest.raises(
        ConfigError, match=r"512,000,000,000 jobs, more than 100,000: 20 a0 x 20 a1"
    ):
        grids.grid_points(axes)


def test_paths_of_a_sheet_are_texts_and_its_name_makes_a_group():
    sheet = SweepSpec("my ß sweep", params={"dataset.root": "~/a b", "seed": [0, 1]})
    result = multirun.build_grid(sheet, parse_all(["method=csq"]))
    assert texts(result.jobs[1][:2]) == ["dataset.root='~/a b'", "seed=1"]
    assert {job[-1].text for job in result.jobs} == {"group='my-ß-sweep'"}


@pytest.mark.parametrize(
    "text",
    ["title:", "params:", "where:", "where: [{if: {seed: 0}, then: {model.nbit: 16}, else: null}]",
     "report:", "report: {figure: null}", "report: {rows: null, figure: {x: null, scale: null}}"],
)  # fmt: skip
def test_a_sweep_with_keys_without_values_is_read(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(
        text + ("" if "params" in text else "\nparams: {seed: [0, 1]}")
    )
    assert multirun.build_grid(SweepSpec.read(tmp_path, "mine"), [])


@pytest.mark.parametrize("rule", ["{if: null, then: {seed: 1}}", "{if: {seed: 0}, then: null}"])
def test_a_rule_without_a_side_is_refused(tmp_path, rule):
    (tmp_path / "mine.yaml").write_text(f"where: [{rule}]\nparams: {{seed: [0, 1]}}")
    with pytest.raises(ConfigError, match="is not a rule of a sweep"):
        multirun.build_grid(SweepSpec.read(tmp_path, "mine"), [])
