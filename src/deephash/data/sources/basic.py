"""Sources of images: the digits of scikit-learn, the CIFAR archives, folders of files.

Constructors access no files; `load()` does.
"""

import contextlib
import importlib.util
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from deephash.data.catalogue import Catalogue, ImageSet, no_labels, one_hot
from deephash.data.decoding import Decoder, Exact, File, Square
from deephash.data.image_formats import supported_formats
from deephash.data.sources.folder_layouts import (
    ROLE_OF_PART,
    check_classes,
    official_parts,
    unlabelled_folders,
    warn_of_broken_links,
    warn_of_layout,
)
from deephash.data.sources.folder_walk import Walk, describe_passed_over
from deephash.errors import DataError
from deephash.utils.bounds import Count, Pixels, Place
from deephash.utils.files import expand_path


class Source(Protocol):
    """An object that loads an image set."""

    def load(self) -> ImageSet:
        """Read everything; the rows are the same on each call."""
        ...


@runtime_checkable
class Listing(Protocol):
    """A source that reads ids and labels without opening an image."""

    def catalogue(self) -> Any:
        """Read ids, labels and lists as a `Catalogue`; no image is opened."""
        ...

    def load(self, catalogue: Any = None) -> ImageSet:
        """Read everything; pass the result of `catalogue()` to avoid reading it again."""
        ...


class Digits:
    """The handwritten digits of scikit-learn: 1,797 images, 10 classes, no download.

    8 x 8 gray values 0..16, scaled by 255/16 and repeated to three channels. The transforms
    enlarge them.

    Example:
        >>> images = Digits().load()
        >>> images.inputs.shape, images.inputs.dtype.name, images.classes[:2]
        ((1797, 3, 8, 8), 'uint8', ('0', '1'))
    """

    size: ClassVar[int] = 8

    def load(self) -> ImageSet:
        table = _digits()
        gray = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        return ImageSet(
            inputs=np.repeat(gray[:, None], 3, axis=1),
            labels=one_hot(table[:, -1].astype(int), 10),
            ids=tuple(f"digits/{row:06d}" for row in range(len(gray))),
            classes=tuple(map(str, range(10))),
        )


@cache
def _digits() -> Any:
    """Return the digits of scikit-learn: 64 gray values and the class in each row.

    The file is read without importing scikit-learn, which takes a second.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # a release with another layout

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


class Cifar:
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 images of 32 x 32.

    The rows are the official training part, then the official test part. `root` has one of two
    layouts:

    - class folders, `train/<class>/*.jpg` and `test/<class>/*.jpg` (also jpeg and png), in the
      order of their sorted names, decoded once into the cache;
    - torchvision's, the python archive of the authors, which can be downloaded.

    Class indices are the ranks of the sorted class names in both, which is the authors' order.

    Args:
        name: `cifar10` or `cifar100`.
        root: the folder of either layout.
        download: whether to download the archive if `root` has neither.
        cache: folder for decoded pixels; None for the default one. Class folders only.
        on_error: `raise`, or `skip` to leave unreadable files out. Class folders only.
        cached: decode once into the cache; or on each access. Class folders only.

    Raises:
        DataError: on `load`, neither layout exists and the download failed; the two parts have
            different classes; a file is unreadable or has another size.

    Example:
        >>> images = Cifar("cifar10", root="data").load()  # doctest: +SKIP
        >>> images.inputs.shape  # doctest: +SKIP
        (60000, 3, 32, 32)
    """

    def __init__(
        self,
        name: Literal["cifar10", "cifar100"],
        root: Place,
        download: bool = True,
        cache: Place | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        cached: bool = True,
    ):
        if name not in ("cifar10", "cifar100"):
            raise DataError(f"dataset.source.name={name} is unknown: cifar10 or cifar100")
        self.name = name
        self.num_classes = 10 if name == "cifar10" else 100
        self.root = expand_path(root)
        self.download = download
        self.decoder = Decoder(Exact(32), cache, on_error, cached=cached)

    def missing(self) -> str | None:
        """Return what is missing, as far as that is known without opening a file."""
        base = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[self.name]
        layouts = (self.root / "train", self.root / base)
        if self.download or any(path.is_dir() for path in layouts):
            return None
        archives = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
        if (self.root / archives[self.name]).is_file():
            return None
        return f"there are no images of {self.name} in {self.root}, and downloads are disabled"

    def load(self) -> ImageSet:
        if self.root.is_file():
            raise DataError(
                f"dataset.root  {self.root} is a file.\n  Unpack it, and give the folder with"
                " train/<class> and test/<class>; of the authors' archive, the folder that holds it"
            )
        if (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return self._load_folders()
        return self._load_archive()

    def _load_folders(self) -> ImageSet:
        walk = Walk(self.root, (".jpg", ".jpeg", ".png"))
        names = {part: walk.folders(part) for part in ("train", "test")}
        if names["train"] != names["test"] or len(names["train"]) != self.num_classes:
            raise DataError(
                f"{self.name} needs the same {self.num_classes} class folders below "
                f"{self.root}/train and {self.root}/test; they have {len(names['train'])} and "
                f"{len(names['test'])}"
            )
        folders = [f"{part}/{name}" for part in names for name in names[part]]
        files, targets = [], []
        for index, (folder, images) in enumerate(walk.files(folders).items()):
            _refuse_empty(self.root / folder, images, walk)
            files += images
            targets += [index % self.num_classes] * len(images)
        catalogue = Catalogue(
            ids=tuple(file.id for file in files),
            labels=one_hot(np.array(targets), self.num_classes),
            classes=tuple(names["train"]),
            official_query=np.array([file.id.startswith("test/") for file in files]),
            passed_over=dict(walk.passed_over),
        )
        return self.decoder.images(self.root, files, catalogue)

    def _load_archive(self) -> ImageSet:
        from torchvision.datasets import CIFAR10, CIFAR100

        kind = CIFAR10 if self.name == "cifar10" else CIFAR100
        existed = self.root.exists()
        try:
            with warnings.catch_warnings():
                # The authors' pickles use an old format of numpy's dtype.
                warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
                train = kind(str(self.root), train=True, download=self.download)
                test = kind(str(self.root), train=False, download=self.download)
        except (OSError, RuntimeError) as error:  # URLError and HTTPError are OSErrors
            if not existed:
                with contextlib.suppress(OSError):
                    self.root.rmdir()  # torchvision makes it before it tries
            raise self._missing(kind.base_folder, error) from error
        pixels = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)
        targets = np.array([*train.targets, *test.targets])
        return ImageSet(
            inputs=np.ascontiguousarray(pixels),
            labels=one_hot(targets, self.num_classes),
            ids=(
                *(f"train/{row:06d}" for row in range(len(train.data))),
                *(f"test/{row:06d}" for row in range(len(test.data))),
            ),
            classes=tuple(train.classes),
            official_query=np.arange(len(targets)) >= len(train.data),
        )

    def _missing(self, archive: str, error: Exception) -> DataError:
        reason = "the download failed" if self.download else "downloads are disabled"
        return DataError(
            f"{self.name} is not at {self.root}, and {reason} ({error}).\n"
            f"  looked for  {self.root / archive}\n"
            f"              {self.root}/train/<class>/*.jpg and {self.root}/test/<class>/*.jpg\n"
            "  Run once with dataset.source.download=true on a machine with a network and copy its "
            f"{archive} into {self.root};\n"
            "  or set dataset.root=FOLDER to a folder with train/<class> and test/<class>"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderCatalogue(Catalogue):
    """A catalogue with the files of its images, row by row."""

    files: tuple[File, ...]

    def _subset(self, kept: np.ndarray) -> dict[str, Any]:
        return super()._subset(kept) | {"files": tuple(itertools.compress(self.files, kept))}


class Folder:
    """Any images, one folder per class below `root`, with or without subfolders.

    Class indices are the ranks of the sorted folder names; rows are sorted by class, then by
    relative path. Links are followed, and their targets are read once. Hidden files, system folders
    (`@eaDir`, `__MACOSX`, ...) and files with other extensions are ignored and counted. Files are
    decoded to RGB (see `to_rgb`), rotated by their EXIF orientation, and resized to size x size
    once, bilinear with antialiasing; only the first of several frames is read.

    If the folders are called `train` and `test`, `train` and `val`, or all three, classes are the
    folders in them, and `deephash.data.splits.Official` uses the parts as roles.

    Images in a root or in parts without folders have no labels.

    Args:
        root: the folder of the class folders.
        size: side of the stored squares, in pixels.
        fit: `crop`, the shorter side becomes `size` and the middle square is kept; or `squash`,
            both sides become `size`.
        cache: folder for decoded pixels; None for the default one.
        on_error: `raise`, or `skip` to leave unreadable files out.
        workers: decoding threads; None for one per core, at most 16.
        cached: decode once into the cache; or on each access.
        endings: extensions of the image files, such as `[.jpg, .png]`; None for all supported ones.
        parts: the meaning of folders called train, test and val. None: official parts, which only
            the protocol `official` may use; `merge`: one set from which any protocol draws;
            `classes`: classes of these names.
        labels: None: from the class folders, if there are any; True: class folders are required;
            False: no image has a label, and all images in and below `root` (or its official parts)
            are read.

    Raises:
        DataError: on `load`, `root` is missing, has fewer than two class folders or an empty one,
            it has another layout, or a file is unreadable.

    Example:
        >>> from PIL import Image
        >>> for name in ("cat", "dog"):
        ...     Path("photos", name).mkdir(parents=True)
        ...     Image.new("RGB", (40, 30)).save(f"photos/{name}/one.png")
        >>> images = Folder("photos", size=16, cached=False).load()
        >>> images.ids, images.inputs.shape
        (('cat/one.png', 'dog/one.png'), (2, 3, 16, 16))
    """

    may_have_validation: ClassVar[bool] = True
    """Whether there may be an official validation part, depending on the files."""

    def __init__(
        self,
        root: Place,
        size: Pixels = 256,
        fit: Literal["crop", "squash"] = "crop",
        cache: Place | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        workers: Count | None = None,
        cached: bool = True,
        endings: Sequence[str] | None = None,
        parts: Literal["merge", "classes"] | None = None,
        labels: bool | None = None,
    ):
        self.root = expand_path(root)
        self.labels = labels
        self.decoder = Decoder(Square(size, fit), cache, on_error, workers, cached)
        self.endings = None if endings is None else _endings(endings)
        self.parts = parts

    def missing(self) -> str | None:
        """Return what is missing, as far as that is known without opening a file."""
        return None if self.root.is_dir() else f"the image folder {self.root} does not exist"

    def load(self, catalogue: FolderCatalogue | None = None) -> ImageSet:
        known = self.catalogue() if catalogue is None else catalogue
        return self.decoder.images(self.root, known.files, known)

    def catalogue(self) -> FolderCatalogue:
        """Find the images and their classes, without opening any.

        Raises:
            DataError: as `load`, except for unreadable files.
        """
        if not self.root.is_dir():
            raise DataError(f"the image folder {self.root} does not exist: set dataset.root=FOLDER")
        walk = Walk(self.root, self.endings or supported_formats().endings)
        names = walk.folders()
        bare = unlabelled_folders(walk, names, self.labels, self.parts)
        if bare is not None:
            return self._unlabelled(bare)
        parts = None if self.parts == "classes" else official_parts(walk, names)
        if parts is None:
            check_classes(walk, names)
            parts = {"": names}
        classes = sorted(set(itertools.chain.from_iterable(parts.values())))
        folders = [f"{part}/{name}" if part else name for part in parts for name in parts[part]]
        files, targets = [], []
        for folder, images in walk.files(folders).items():
            _refuse_empty(self.root / folder, images, walk)
            files += images
            targets += [classes.index(folder.rpartition("/")[2])] * len(images)
        return FolderCatalogue(
            ids=tuple(file.id for file in files),
            labels=one_hot(np.array(targets), len(classes)),
            classes=tuple(classes),
            passed_over=dict(walk.passed_over),
            remarks=tuple(warn_of_layout(walk, folders, files)),
            files=tuple(files),
            **self._official(tuple(parts), files),
        )

    def _unlabelled(self, folders: Sequence[str]) -> FolderCatalogue:
        """Return all images in and below some folders, without labels."""
        walk = Walk(self.root, self.endings or supported_formats().endings)  # with new counters
        if folders != [""]:
            walk.folders()
        files: list[File] = []
        for folder, images in walk.files(folders).items():
            _refuse_empty(self.root / folder, images, walk, "folder")
            files += images
        return FolderCatalogue(
            ids=tuple(file.id for file in files),
            labels=no_labels(len(files)),
            classes=(),
            passed_over=dict(walk.passed_over),
            remarks=tuple(warn_of_broken_links(walk)),
            files=tuple(files),
            **self._official(tuple(folders), files),
        )

    def _official(self, parts: tuple[str, ...], files: Sequence[File]) -> dict[str, Any]:
        """Return the fields of the catalogue about official parts."""
        if "" in parts:
            return {}
        roles = [ROLE_OF_PART.get(file.id.partition("/")[0].lower(), "") for file in files]
        query_role = "test" if "test" in roles else "val"
        validation = np.array([role == "val" for role in roles])
        both = query_role == "test" and validation.any()
        return {
            "official_query": np.array([role == query_role for role in roles]),
            "official_validation": validation if both else None,
            "parts": parts if self.parts is None else (),
        }


def _endings(endings: Sequence[str]) -> tuple[str, ...]:
    """Return extensions in lower case, with a dot.

    Raises:
        DataError: there is none, or they are no text.
    """
    names = [endings] if isinstance(endings, str) else list(endings)
    if not names or not all(isinstance(name, str) and name.strip(".") for name in names):
        raise DataError(
            f"dataset.source.endings={endings} must be a list of file extensions, such as "
            "'dataset.source.endings=[.jpg,.png]'"
        )
    return tuple(f".{name.lower().lstrip('.')}" for name in names)


def _refuse_empty(
    folder: Path, files: Sequence[File], walk: Walk, what: str = "class folder"
) -> None:
    """Raise a DataError if a folder contains no image."""
    if not files:
        message = (
            f"the {what} {folder} has no image ({', '.join(walk.endings)}): fill it or remove it"
        )
        if walk.passed_over:
            message += f". Ignored below {walk.root}: {describe_passed_over(walk.passed_over)}"
        raise DataError(message)
