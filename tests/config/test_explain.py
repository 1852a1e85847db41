"""Messages about mistyped command lines; their suggestions are accepted."""

import re
import shlex
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from deephash import cli
from deephash.config import composition, overrides, schema
from deephash.config.synonyms import BY_WORD, CHOICES, SYNONYMS
from deephash.errors import DeephashError
from deephash.utils import program
from tests.paths import CONF


@pytest.fixture
def say(monkeypatch, tmp_path):
    """Return the message for a command line before data are opened; empty without a fault."""
    schema.register()
    monkeypatch.chdir(tmp_path)

    def message_of(page, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{page}.py", *arguments])
        try:
            composition.checked(CONF, page, overrides.read(arguments))
        except DeephashError as error:
            return str(error)
        return ""

    return message_of


def suggested(message):
    """Return the arguments after ``Did you mean``, split as by a shell."""
    result = re.search(r"Did you mean (.*?)\?(\s|$)", message)
    return shlex.split(result[1]) if result else []


@pytest.mark.parametrize("entry", SYNONYMS, ids=lambda entry: entry.typed[0])
def test_every_synonym_leads_to_a_valid_option(entry, say):
    for word in (entry.typed[0], entry.typed[-1]):
        message = say("train", f"{word}={entry.example}")
        if message == "":  # a group or key of this page
            continue
        words = suggested(message)
        if not words:
            assert entry.note and entry.note in message
            continue
        assert say("train", *words) == "", (word, words)


def test_no_synonym_has_two_meanings():
    assert len(BY_WORD) == sum(len(entry.typed) for entry in SYNONYMS)
    assert all(re.fullmatch(r"[a-z_0-9]+", word) for word in BY_WORD)


@pytest.mark.parametrize("group", CHOICES)
def test_every_name_of_an_option_leads_to_one_that_is_there(group):
    options = {path.stem for path in (CONF / group).glob("*.yaml")}
    for typed, meant in CHOICES[group].items():
        assert meant.split()[0] in options and typed not in options, typed


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epochs=3", "trainer.epochs=3"),
        ("+epochs=3", "trainer.epochs=3"),
        ("lr=0.1", "optimizer.lr=0.1"),
        ("bits=64", "model.nbit=64"),
        ("model=resnet50", "backbone=resnet50"),
        ("arch=resnet152", "backbone=torchvision backbone.name=resnet152"),
        ("loss.weight=0.1", "method.loss.quantization=0.1"),
        ("trainer.devices=8", "trainer.device=auto"),
        ("trainer.gpus=8", "trainer.device=auto"),
        ("momentum=0.9", "optimizer=sgd optimizer.momentum=0.9"),
        ("size=64", "dataset=cifar10 dataset.size=64"),
        ("method relahash", "method=relahash"),
        ("method = relahash", "method=relahash"),
        ("method= relahash", "method=relahash"),
        ("--epochs 3", "trainer.epochs=3"),
        ("--method=relahash", "method=relahash"),
        ("dataset=cifar-10", "dataset=cifar10"),
        ("dataset=imagenet", "dataset=imagenet100 dataset.root=FOLDER"),
        ("method=RelaHash", "method=relahash"),
        ("evaluation.convention=hashnets", "evaluation.convention=hashnet"),
        ("relahash", "method=relahash"),
        ("backbone=mambaout_femto", "backbone=timm backbone.name=mambaout_femto"),
    ],
)
def test_what_people_type_leads_to_what_is_meant(typed, meant, say):
    words = suggested(say("train", *shlex.split(typed)))
    assert " ".join(words) in (meant, meant.removesuffix(" dataset.root=FOLDER"))
    assert say("train", *words) == ""


@pytest.mark.parametrize(
    ("page", "typed", "meant"),
    [
        ("evaluate", "run=x topk=100", "evaluation.top=100"),
        ("evaluate", "--run x", "run=x"),
        ("evaluate", "ckpt=x", "run=x"),
        ("evaluate", "run=x gpu=-1", "device=cpu"),
        ("report", "table1", "sweep=table1"),
        ("report", "sweep=table1 out_dir=x", "out=x"),
        ("data", "do=encode out=x batch_size=3", "trainer.eval_batch_size=3"),
        ("data", "do=verify root=photos", "dataset=folder dataset.root=photos"),
    ],
)
def test_the_other_pages_suggest_too(page, typed, meant, say):
    message = say(page, *shlex.split(typed))
    assert " ".join(suggested(message)) == meant
    assert "must be given" not in message


@pytest.mark.parametrize("folder", ["plain", "seed0", "a b,c/seed0,trainer.epochs=1"])
def test_a_folder_without_its_key_is_a_run(folder, tmp_path, say):
    (tmp_path / folder).mkdir(parents=True)
    assert "is a folder without its key" in say("evaluate", folder)
    (meant,) = suggested(say("evaluate", folder))
    assert "folder without" not in say("evaluate", meant)


@pytest.mark.parametrize(
    "typed",
    ["trainer.patience=none", "optimizer.lr=fast", "dataset.expected=none", "optimizer.betas=[2,2]",
     "paths.outputs=''", "trainer.clip_norm=x", "seed=abc", "~seed", "method.loss.scale=big",
     "dataset.top=abc"],
)  # fmt: skip
def test_an_example_of_a_value_is_accepted(typed, say):
    message = say("train", typed)
    example = re.search(r"(?:default is|for example) (\S+?)\.?$", message, re.MULTILINE)
    assert message and example, message
    assert say("train", *shlex.split(example[1])) == ""


def test_several_values_without_m_are_a_grid(say):
    message = say("train", "seed=0,1", "model.nbit=16")
    assert "deephash train -m seed=0,1 model.nbit=16" in message
    assert '"sweep=[a,b]"' in say("report", "sweep=a,b")


@pytest.mark.parametrize(
    "arguments",
    [["~dataset.source"], ["~method.loss"], ["~optimizer._target_"], ["~trainer"], ["~seed"],
     ["dataset.source=1.5"], ["dataset.transforms=3"], ["dataset.protocols=3"], ["method=5"],
     ["trainer=3"], ["optimizer=abc"], ["+trainer.foo=1"], ["optimizer.backbone_scale=-1"],
     ["seed=12345678901234567890123"], ["model.nbit=40000"], ["=", "x"], ["3=4"], ["a=b=c"],
     ["scheduler.gamma=-1"], ["trainer.clip_norm=-1"], ["method.loss.margin=nan"],
     ["dataset.protocols.per_class.seed=5000000000"]],
)  # fmt: skip
def test_every_refusal_has_one_form(arguments, say):
    message = say("train", *arguments)
    assert message.startswith("config: ") and message.endswith("nothing was loaded or written")


def test_all_faults_are_in_one_message(say):
    words = [
        "optimizer.lr=fast",
        "optimizer.betas=[2,2]",
        "scheduler.gamma=-1",
        "model.nbit=0",
        "dataset.expected=none",
        "epochs=3",
        "method.loss.margin=inf",
    ]
    message = say("train", *words)
    assert message.startswith("config: 7 problems")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_several_processes_of_one_command_are_refused_with_advice(name):
    assert "-m" in cli._several_processes({name: "4"})
    for alone in ({}, {name: "1"}, {"SLURM_NTASKS": "8"}, {name: ""}):
        assert cli._several_processes(alone) is None


def test_the_version_is_ours(capsys):
    import deephash

    assert cli.run("train", ["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"deephash {deephash.__version__} (torch ")


@pytest.mark.parametrize(
    ("page", "line", "offered"),
    [
        ("train", "python train.py method=dp", "method=dpn"),
        ("train", "python train.py dataset.root=~/x\\ y nonsense trainer.ep", "trainer.epochs="),
        ("train", "python train.py 'dataset.root=a trainer.ep", "trainer.epochs="),
        ("data", "python data.py verify dataset=ci", "dataset=cifar10"),  # deprecated
        ("evaluate", "python evaluate.py evaluation.ti", "evaluation.ties="),
        ("train", "python train.py method=nope optimizer=", ""),
        ("train", "deephash train method=dp", "method=dpn"),
        ("train", "deephash train dataset.root=~/x\\ y nonsense trainer.ep", "trainer.epochs="),
        ("data", "deephash data verify dataset=ci", "dataset=cifar10"),
    ],
)
def test_a_shell_that_completes_a_word_gets_no_error(page, line, offered, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    if line.startswith("python"):
        monkeypatch.setattr(program, "_started_as", f"{page}.py")
    try:
        assert cli.run(page, ["-sc", "query=bash"]) == 0
    finally:
        GlobalHydra.instance().clear()
    captured = capsys.readouterr()
    assert offered in captured.out and captured.err == ""


@pytest.mark.parametrize("page", ["train", "evaluate"])
def test_an_option_of_a_list_that_does_not_exist_is_named(say, page):
    message = say(page, "logger=[csv,tensorbord]")
    assert "there is no logger/tensorbord." in message
    assert suggested(message) == ["logger=[csv,tensorboard]"]
    assert say("train", *suggested(message)) == ""
    message = say(page, "logger=[csv,nonsense]")
    assert "There are console, csv, " in message and "Did you mean" not in message


def test_a_choice_that_is_nearly_right_is_suggested(say):
    assert suggested(say("report", "wandb=workspce")) == ["wandb=workspace"]
    message = say("train", "logger=wandb", "logger.wandb.mode=offlin")
    assert suggested(message) == ["logger.wandb.mode=offline"]
