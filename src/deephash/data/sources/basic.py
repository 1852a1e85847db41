"""Where images come from: an embedded set, the CIFAR archives, folders of files.

A source is built with plain keywords and reads nothing until `load()`.
"""

import contextlib
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np

from deephash.data.catalogue import Catalogue, ImageSet, no_labels, one_hot
from deephash.data.decoding import Decoder, Exact, File, Square
from deephash.data.image_formats import readable
from deephash.data.sources.folder_layouts import (
    ROLE_OF_PART,
    broken_links,
    check_classes,
    official_parts,
    remarks,
    unlabelled_folders,
)
from deephash.data.sources.folder_walk import Walk, passed_over_in_words
from deephash.errors import DataError
from deephash.utils.bounds import Count, Pixels, Place
from deephash.utils.files import expand_path


class Source(Protocol):
    """Anything that can load an image set."""

    def load(self) -> ImageSet:
        """Read everything; the same call gives the same rows in the same order."""
        ...


@runtime_checkable
class Listing(Protocol):
    """A source that knows ids and labels before it opens an image."""

    def catalogue(self) -> Any:
        """Read ids, labels and lists; no image is opened. Returns a `Catalogue`."""
        ...

    def load(self, catalogue: Any = None) -> ImageSet:
        """Read everything; what `catalogue()` returned may be passed, to read it once."""
        ...


class Digits:
    """The handwritten digits that come with scikit-learn: 1,797 images, 10 classes, no download.

    8 x 8 gray values 0..16, scaled by 255/16 and repeated to three channels. The transforms
    enlarge them.

    Example:
        >>> images = Digits().load()
        >>> images.inputs.shape, images.inputs.dtype.name, images.classes[:2]
        ((1797, 3, 8, 8), 'uint8', ('0', '1'))
    """

    size: ClassVar[int] = 8

    def load(self) -> ImageSet:
        from sklearn.datasets import load_digits

        digits = load_digits()
        gray = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
        return ImageSet(
            inputs=np.repeat(gray[:, None], 3, axis=1),
            labels=one_hot(digits.target, 10),
            ids=tuple(f"digits/{row:06d}" for row in range(len(gray))),
            classes=tuple(str(name) for name in digits.target_names),
        )


class Cifar:
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 images of 32 x 32.

    The rows are always the official training part, then the official test part. Two layouts of
    `root` are read:

    - class folders, `train/<class>/*.jpg` and `test/<class>/*.jpg` (also jpeg and png), in the
      order of their sorted names, decoded once into the cache;
    - torchvision's own, the python archive of the authors, which it downloads if it may.

    Class indices are the ranks of the sorted class names in both, which is the authors' order.

    Args:
        name: `cifar10` or `cifar100`.
        root: the folder of either layout.
        download: whether the archive may be fetched when `root` has neither.
        cache: folder for decoded pixels; None for the default one. Class folders only.
        on_error: `raise`, or `skip` to leave unreadable files out. Class folders only.
        cached: decode once into the cache; or whenever an image is asked for. Class folders only.

    Raises:
        DataError: on `load`, neither layout is there and the download failed; the two parts have
            other classes; a file is unreadable or has another size.

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
        """Say what is not there, as far as that is known without opening a file; None: nothing."""
        base = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[self.name]
        layouts = (self.root / "train", self.root / base)
        if self.download or any(path.is_dir() for path in layouts):
            return None
        archives = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
        if (self.root / archives[self.name]).is_file():
            return None
        return f"there are no images of {self.name} in {self.root}, and downloading is off"

    def load(self) -> ImageSet:
        if (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return self._load_folders()
        return self._load_archive()

    def _load_folders(self) -> ImageSet:
        walk = Walk(self.root, (".jpg", ".jpeg", ".png"))
        names = {part: walk.folders(part) for part in ("train", "test")}
        if names["train"] != names["test"] or len(names["train"]) != self.num_classes:
            raise DataError(
                f"{self.name} needs the same {self.num_classes} class folders below "
                f"{self.root}/train and {self.root}/test; they hold {len(names['train'])} and "
                f"{len(names['test'])}"
            )
        folders = [f"{part}/{name}" for part in names for name in names[part]]
        files, targets = [], []
        for at, (folder, found) in enumerate(walk.files(folders).items()):
            _refuse_empty(self.root / folder, found, walk)
            files += found
            targets += [at % self.num_classes] * len(found)
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
                # The authors' pickles are older than numpy's present way to write a dtype.
                warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
                train = kind(str(self.root), train=True, download=self.download)
                test = kind(str(self.root), train=False, download=self.download)
        except (OSError, RuntimeError) as error:  # URLError and HTTPError are OSErrors
            if not existed:
                with contextlib.suppress(OSError):
                    self.root.rmdir()  # torchvision makes it before it tries
            raise DataError(self._missing(kind.base_folder, error)) from error
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

    def _missing(self, archive: str, error: Exception) -> str:
        tried = "the download failed" if self.download else "downloading is off"
        return (
            f"{self.name} is not at {self.root}, and {tried} ({error}).\n"
            f"  looked for  {self.root / archive}\n"
            f"              {self.root}/train/<class>/*.jpg and {self.root}/test/<class>/*.jpg\n"
            "  two ways on: run once with dataset.source.download=true on a machine with a network "
            f"and copy its {archive} into {self.root};\n"
            "  or set dataset.root=FOLDER to a folder with train/<class> and test/<class>"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderCatalogue(Catalogue):
    """A catalogue with the files of its images, row by row."""

    files: tuple[File, ...]

    def keep(self, kept: np.ndarray) -> Self:
        """See `Catalogue.keep`."""
        return replace(super().keep(kept), files=tuple(itertools.compress(self.files, kept)))


class Folder:
    """Any images, one folder per class below `root`; folders inside a class folder are entered.

    Class indices are the ranks of the sorted folder names, rows are sorted by class, then by
    relative path. Links are followed, and what they lead to is read once. Hidden files, folders of
    operating systems and network disks (`@eaDir`, `__MACOSX`, ...) and files with other endings
    are passed over and counted. Files are decoded to RGB (see `to_rgb`), turned as their EXIF
    orientation says, and brought to size x size once, bilinear with antialiasing; of several
    frames the first is read.

    Where the folders are called `train` and `test`, `train` and `val`, or all three, classes are
    the folders in them, and `deephash.data.splits.Official` reads the parts as roles.

    A root, or parts, with images and no folders hold images without labels.

    Args:
        root: the folder of the class folders.
        size: side of the stored squares, in pixels.
        fit: `crop`, the shorter side becomes `size` and the middle square is kept; or `squash`,
            both sides become `size`.
        cache: folder for decoded pixels; None for the default one.
        on_error: `raise`, or `skip` to leave unreadable files out.
        workers: decoding threads; None for one per core, at most 16.
        cached: decode once into the cache; or whenever an image is asked for.
        endings: of the files that are images, such as `[.jpg, .png]`; None for all that this
            installation reads.
        parts: what folders called train, test and val are: None, official parts, which only the
            protocol `official` may use; `merge`, one set from which any protocol draws; or
            `classes`, classes of these names.
        labels: None, the class folders say which, and images without class folders have none; True,
            there must be class folders; or False, no image has a label, and all images in and below
            `root` (or its official parts) are read.

    Raises:
        DataError: on `load`, `root` is missing, has fewer than two class folders or an empty one,
            it is laid out in another way, or a file is unreadable.

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
    """Whether there may be an official validation part, which only the data know."""

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
        """Say what is not there, as far as that is known without opening a file; None: nothing."""
        return None if self.root.is_dir() else f"the image folder {self.root} does not exist"

    def load(self, catalogue: FolderCatalogue | None = None) -> ImageSet:
        known = self.catalogue() if catalogue is None else catalogue
        return self.decoder.images(self.root, known.files, known)

    def catalogue(self) -> FolderCatalogue:
        """The images that lie there, with their classes; none is opened.

        Raises:
            DataError: as `load` does, but for unreadable files.
        """
        if not self.root.is_dir():
            raise DataError(f"the image folder {self.root} does not exist: set dataset.root=FOLDER")
        walk = Walk(self.root, self.endings or readable().endings)
        names = walk.folders()
        bare = unlabelled_folders(walk, names, self.labels, self.parts)
        if bare is not None:
            return self._unlabelled(bare)
        parts = None if self.parts == "classes" else official_parts(walk, names)
        if parts is None:
            check_classes(walk, names)
            parts = {"": names}
        classes = sorted({name for here in parts.values() for name in here})
        folders = [f"{part}/{name}" if part else name for part in parts for name in parts[part]]
        files, targets = [], []
        for folder, found in walk.files(folders).items():
            _refuse_empty(self.root / folder, found, walk)
            files += found
            targets += [classes.index(folder.rpartition("/")[2])] * len(found)
        return FolderCatalogue(
            ids=tuple(file.id for file in files),
            labels=one_hot(np.array(targets), len(classes)),
            classes=tuple(classes),
            passed_over=dict(walk.passed_over),
            remarks=tuple(remarks(walk, folders, files)),
            files=tuple(files),
            **self._official(tuple(parts), files),
        )

    def _unlabelled(self, folders: Sequence[str]) -> FolderCatalogue:
        """All images in and below some folders, without labels."""
        walk = Walk(self.root, self.endings or readable().endings)  # counts nothing yet
        if folders != [""]:
            walk.folders()
        files: list[File] = []
        for folder, found in walk.files(folders).items():
            _refuse_empty(self.root / folder, found, walk, "folder")
            files += found
        return FolderCatalogue(
            ids=tuple(file.id for file in files),
            labels=no_labels(len(files)),
            classes=(),
            passed_over=dict(walk.passed_over),
            remarks=tuple(broken_links(walk)),
            files=tuple(files),
            **self._official(tuple(folders), files),
        )

    def _official(self, parts: tuple[str, ...], files: Sequence[File]) -> dict[str, Any]:
        """What a catalogue says of official parts: which files are in which."""
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
    """Endings in lower case, with a dot.

    Raises:
        DataError: there is none, or they are no text.
    """
    given = [endings] if isinstance(endings, str) else list(endings)
    if not given or not all(isinstance(one, str) and one.strip(".") for one in given):
        raise DataError(
            f"dataset.source.endings={endings} must be a list of endings, such as "
            "'dataset.source.endings=[.jpg,.png]'"
        )
    return tuple(f".{one.lower().lstrip('.')}" for one in given)


def _refuse_empty(
    folder: Path, files: Sequence[File], walk: Walk, what: str = "class folder"
) -> None:
    """Raises a DataError where a folder holds no image."""
    if not files:
        there = passed_over_in_words(walk.passed_over)
        raise DataError(
            f"the {what} {folder} holds no image ({', '.join(walk.endings)}): fill it or "
            "remove it" + (f". Passed over below {walk.root}: {there}" if there else "")
        )
