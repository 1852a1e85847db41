"""Names of options in other programs and papers, with the corresponding keys.

``tests/config/test_explain.py`` types each of these words in a training command, then types what is
suggested in turn, so an entry whose key is renamed fails there.
"""

from collections.abc import Callable
from dataclasses import dataclass

Template = str | Callable[[str], str | None]
"""An override, ``{}`` for the value; or a function of the value, which may return None."""


@dataclass(frozen=True)
class Synonym:
    """Names of one option.

    Args:
        typed: the words, in small letters, ``_`` between their parts.
        example: a value that people give, for the test.
        meant: what to type instead; the first that the page accepts is suggested.
        note: a sentence after it, or in its place where ``meant`` is empty.
    """

    typed: tuple[str, ...]
    example: str
    meant: tuple[Template, ...]
    note: str = ""


def _gpu(value: str) -> str | None:
    if value.lower() in ("-1", "false", "none", "cpu"):
        return "trainer.device=cpu"
    number = value.lower().removeprefix("cuda:").removeprefix("cuda")
    return f"trainer.device=cuda:{number}" if number.isdecimal() else "trainer.device=cuda"


def _evaluation_gpu(value: str) -> str | None:
    return (_gpu(value) or "").removeprefix("trainer.")


def _pretrained(value: str) -> str:
    known = {"true": "imagenet", "1": "imagenet", "false": "none", "0": "none"}
    return f"backbone.weights={known.get(value.lower(), value)}"


def _wandb(value: str) -> str:
    return f"logger={'console' if value.lower() in ('false', '0', 'no', 'off') else 'wandb'}"


def _amp(value: str) -> str:
    off = value.lower() in ("false", "0", "32", "fp32", "no")
    return f"trainer.precision={'fp32' if off else 'bf16'}"


def _flag(key: str) -> Callable[[str], str]:
    def meant(value: str) -> str:
        return f"{key}={'false' if value.lower() in ('false', '0', 'no') else 'true'}"

    return meant


def _torchvision(value: str) -> str:
    return f"backbone=torchvision backbone.name={value}"


ONE_DEVICE = "A run computes on one device; with -m one job runs on each GPU."

SYNONYMS = (
    Synonym(("epochs", "epoch", "num_epochs", "n_epochs", "max_epochs", "max_epoch", "nepoch",
             "train_epochs"), "3", ("trainer.epochs={}",)),
    Synonym(("batch_size", "batchsize", "batch", "bs", "train_batch_size", "train_bs"), "16",
            ("trainer.batch_size={}", "trainer.eval_batch_size={}")),
    Synonym(("eval_batch_size", "test_batch_size", "val_batch_size", "eval_bs"), "64",
            ("trainer.eval_batch_size={}",)),
    Synonym(("bits", "bit", "nbits", "nbit", "n_bits", "num_bits", "num_bit", "hash_bit",
             "hash_bits", "hashbit", "code_length", "code_len", "codelength", "hash_length",
             "hash_dim", "length", "k"), "64", ("model.nbit={}",)),
    Synonym(("lr", "learning_rate", "learningrate", "base_lr", "init_lr", "lr0"), "0.01",
            ("optimizer.lr={}",)),
    Synonym(("backbone_lr", "lr_backbone", "lr_scale", "lr_mult", "backbone_lr_scale"), "0.1",
            ("optimizer.backbone_scale={}",), "It is a factor of optimizer.lr."),
    Synonym(("wd", "weight_decay", "weightdecay", "decay"), "0.0001",
            ("optimizer.weight_decay={}",)),
    Synonym(("momentum",), "0.9", ("optimizer.momentum={}", "optimizer=sgd optimizer.momentum={}")),
    Synonym(("optim", "opt", "solver", "optimiser"), "sgd", ("optimizer={}",)),
    Synonym(("sched", "lr_scheduler", "lr_schedule", "schedule"), "cosine", ("scheduler={}",)),
    Synonym(("lr_step", "step_size", "lr_decay_epoch"), "30",
            ("scheduler.epochs={}", "scheduler=every scheduler.epochs={}")),
    Synonym(("lr_gamma", "lr_decay", "gamma"), "0.1", ("scheduler.gamma={}",)),
    Synonym(("net", "model", "arch", "architecture", "network", "encoder", "cnn", "base_model",
             "backbone_name"), "resnet50", ("backbone={}", "method={}", _torchvision)),
    Synonym(("algo", "algorithm", "approach", "hashing", "hash_method", "methods"), "csq",
            ("method={}",)),
    Synonym(("dropout",), "true", ("backbone.dropout={}",
                                   "backbone=alexnet backbone.dropout={}")),
    Synonym(("pretrained", "pretrain", "pre_trained"), "false", (_pretrained,)),
    Synonym(("weights", "pretrained_path", "weights_path"), "none", ("backbone.weights={}",)),
    Synonym(("data", "dataset_name", "ds", "data_name", "db"), "cifar10",
            ("dataset={}", "dataset.root={}", "dataset=folder dataset.root={}")),
    Synonym(("root", "data_path", "data_dir", "data_root", "dataroot", "datadir", "dataset_path",
             "dataset_dir", "dataset_root", "image_dir", "image_root", "img_dir", "images_dir",
             "train_dir", "input"), "photos",
            ("dataset.root={}", "dataset=folder dataset.root={}")),
    Synonym(("lists", "list", "train_list", "list_dir", "txt_dir"), "lists",
            ("dataset.lists={}", "dataset=lists dataset.root=IMAGES dataset.lists={}")),
    Synonym(("size", "image_size", "img_size", "imgsize", "crop_size", "crop", "resize",
             "resize_size", "input_size", "imsize", "resolution"), "64",
            ("dataset.size={}", "dataset=cifar10 dataset.size={}"),
            "The digits are 8 x 8 and stay so."),
    Synonym(("protocol", "split", "setting"), "per_class", ("dataset.protocol={}",)),
    Synonym(("gpu", "gpu_id", "gpu_ids", "cuda", "device", "device_id", "gpuid", "use_gpu",
             "use_cuda", "local_rank", "accelerator"), "0",
            (_gpu, _evaluation_gpu, "trainer.device=auto", "device=auto"),
            "auto is the GPU where torch sees one, else the CPU."),
    Synonym(("gpus", "devices", "num_gpus", "ngpu", "n_gpu", "num_devices", "nproc",
             "nproc_per_node", "world_size", "nodes", "num_nodes", "strategy", "distributed",
             "ddp"), "8", ("trainer.device=auto", "device=auto"), ONE_DEVICE),
    Synonym(("workers", "num_workers", "n_workers", "nworkers", "num_worker", "j", "threads"), "4",
            ("dataset.source.workers={}", "+dataset.source.workers={}"),
            "No worker processes are started: leave it out. Where images are decoded, "
            "+dataset.source.workers=4 sets the threads."),
    Synonym(("margin", "m"), "0.3", ("loss.margin={}", "method.loss.margin={}")),
    Synonym(("beta", "scale", "s", "temperature"), "20", ("loss.scale={}", "method.loss.scale={}")),
    Synonym(("loss_weight", "weight", "quant_weight", "quantization_weight", "lambda", "lamda",
             "lambda_q", "quantization", "q_weight", "eta"), "0.1",
            ("loss.quantization={}", "method.loss.quantization={}"),
            "It weighs the quantization term of the loss."),
    Synonym(("topk", "top_k", "top", "r", "map_at", "topn", "map_r", "top_r", "test_topk"), "100",
            ("evaluation.top={}",)),
    Synonym(("tie", "ties"), "stable", ("evaluation.ties={}",)),
    Synonym(("project", "wandb_project", "project_name"), "hashing",
            ("logger.wandb.project={}", "logger=wandb logger.wandb.project={}")),
    Synonym(("entity", "wandb_entity", "team"), "lab",
            ("logger.wandb.entity={}", "logger=wandb logger.wandb.entity={}")),
    Synonym(("wandb", "use_wandb", "enable_wandb", "log_wandb", "wandb_mode"), "true", (_wandb,)),
    Synonym(("quiet", "silent", "q"), "true", ("logger=quiet",)),
    Synonym(("seeds", "random_seed", "rng_seed", "manual_seed", "set_seed"), "3", ("seed={}",),
            "Several seeds are a grid: -m seed=0,1,2."),
    Synonym(("out_dir", "output_dir", "output", "outputs", "outdir", "save_dir", "save",
             "save_path", "out", "results", "result_dir", "log_dir", "logdir", "work_dir",
             "workdir", "exp_dir",
             "checkpoint_dir", "ckpt_dir", "dest"), "elsewhere", ("out={}", "paths.outputs={}")),
    Synonym(("cache", "cache_dir", "cache_path"), "elsewhere", ("paths.cache={}",)),
    Synonym(("exp_name", "experiment_name", "run_name", "exp", "tag", "tags", "name", "comment"),
            "first", ("sweep={}", "name={}"), "Otherwise folders are named by settings."),
    Synonym(("amp", "bf16", "mixed_precision", "use_amp", "precision"), "true",
            ("trainer.precision={}", _amp)),
    Synonym(("fp16", "half", "float16"), "true", ("trainer.precision=fp16",)),
    Synonym(("patience", "early_stop", "early_stopping"), "5", ("trainer.patience={}",)),
    Synonym(("eval_every", "eval_freq", "eval_interval", "test_every", "test_freq", "val_interval",
             "valid_interval", "evaluate_every", "eval_epoch", "test_map"), "5",
            ("trainer.eval_every={}",)),
    Synonym(("log_every", "log_freq", "log_interval", "print_freq", "print_interval",
             "log_every_n_steps"), "10", ("trainer.log_every={}",)),
    Synonym(("clip", "clip_norm", "grad_clip", "clip_grad", "max_norm", "gradient_clip",
             "gradient_clip_val", "clip_grad_norm", "max_grad_norm"), "5",
            ("trainer.clip_norm={}",)),
    Synonym(("compile", "torch_compile"), "true", ("trainer.compile={}",)),
    Synonym(("graph", "cuda_graph", "cuda_graphs", "cudagraphs"), "false", ("trainer.graph={}",)),
    Synonym(("select", "monitor", "save_best"), "query", ("trainer.select_on={}",)),
    Synonym(("overwrite", "force", "restart", "fresh", "retrain"), "true", (_flag("rerun"),)),
    Synonym(("dry_run", "dryrun", "dry"), "true", (_flag("preview"),)),
    Synonym(("debug", "fast_dev_run"), "true", ("trainer=debug",)),
    Synonym(("resume", "resume_from", "continue", "load"), "true", (),
            "Leave it out: the same command goes on after the last epoch."),
    Synonym(("num_classes", "n_class", "nclass", "n_classes", "num_class", "classes"), "10", (),
            "Leave it out: the data have their classes; dataset.classes=[0,1,2] selects some."),
    Synonym(("run_dir", "run_folder", "model_path", "model_dir", "path", "folder", "ckpt",
             "checkpoint_path"), "outputs/run", ("run={}", "dataset.root={}",
                                                 "dataset=folder dataset.root={}")),
    Synonym(("sweep_name", "sweeps", "grid"), "table1", ("sweep={}",), "A grid is typed as "
            "-m +sweep=table1."),
)  # fmt: skip
"""All synonyms."""

BY_WORD = {word: entry for entry in SYNONYMS for word in entry.typed}

CHOICES: dict[str, dict[str, str]] = {
    "dataset": {
        "cifar": "cifar10", "imagenet": "imagenet100", "ilsvrc": "imagenet100",
        "ilsvrc2012": "imagenet100", "imagenet1k": "imagenet100", "nuswide": "nuswide21",
        "nus": "nuswide21", "mscoco": "coco", "coco2014": "coco", "voc": "voc2012",
        "pascal": "voc2012", "pascalvoc": "voc2012", "flickr": "mirflickr25k",
        "flickr25k": "mirflickr25k", "mirflickr": "mirflickr25k", "imagefolder": "folder",
        "custom": "folder", "own": "folder", "oxford": "roxford5k", "roxford": "roxford5k",
        "oxford5k": "roxford5k", "paris": "rparis6k", "rparis": "rparis6k", "paris6k": "rparis6k",
        "landmarks": "gldv2", "gld": "gldv2", "mnist": "digits", "digit": "digits", "txt": "lists",
        "table": "csv", "npy": "features",
    },
    "backbone": {
        "resnet": "resnet50", "vgg": "vgg16", "vit": "vit_b_16", "vitb16": "vit_b_16",
        "swin": "swin_t", "mobilenet": "mobilenet_v3_large", "efficientnet": "efficientnet_b0",
        "convnext": "convnext_tiny", "squeezenet": "squeezenet1_0", "none": "identity",
    },
    "method": {
        "orthocos": "orthohash", "orthoarc": "orthohash_arc", "greedy": "greedyhash",
        "baseline": "ce", "crossentropy": "ce", "lmcl": "relahash", "rela": "relahash",
        "ortho": "orthohash",
    },
    "optimizer": {"momentum": "sgd"},
    "scheduler": {
        "steplr": "step", "multistep": "step", "cosineannealing": "cosine", "cos": "cosine",
        "none": "constant", "fixed": "constant", "null": "constant",
    },
    "logger": {"none": "quiet", "off": "quiet", "w&b": "wandb", "weightsandbiases": "wandb"},
    "loss": {"cosface": "lmcl", "ce": "cross_entropy", "softmax": "cross_entropy"},
    "trainer": {"earlystopping": "early_stop"},
}  # fmt: skip
"""Names of options of a group that people type, small letters without ``-``, ``_`` and blanks."""
