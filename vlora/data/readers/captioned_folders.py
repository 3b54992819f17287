"""Folders of images, each with its caption in a text file of the same name: cat.png and cat.txt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ...errors import SampleError, SplitError
from ...system.files import read_regular
from ..values import Row

CAPTION_SUFFIX = ".txt"


@attrs.frozen(eq=False)
class CaptionedTable:
    """Images with captions beside them.

    Attributes:
        images: The images' files, in the order of their names.
        captions: For each image the file of its caption, which need not exist.
    """

    images: Sequence[Path]
    captions: Sequence[Path]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.images)

    def __getitem__(self, index: int) -> Row:
        """Read a row.

        Raises:
            SampleError: There is no caption, or it is no text.
        """
        image, file = self.images[index], self.captions[index]
        try:
            caption = read_regular(file).decode("utf-8-sig").strip()
        except (OSError, ValueError) as error:
            why = "it is no UTF-8" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
            msg = f"cannot read {file.name}, the caption of {image.name}: {why}"
            raise SampleError(msg) from None
        return {"image": str(image), "caption": caption}

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of the columns."""
        return {"image": "image"}

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the rows."""
        return ["image", "caption"]


def has_captions(folder: Path, images: Sequence[str], rows: Sequence[str]) -> bool:
    """Whether a folder holds nothing but images and captions, most images with one, and no text without an image.

    Args:
        folder: The folder.
        images: Endings of images.
        rows: Endings of files with rows, whose folder is another one.
    """
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    named = {file.stem for file in files if file.suffix.lower() in images}
    captions = {file.stem for file in files if file.suffix.lower() == CAPTION_SUFFIX}
    has_rows = any(file.suffix.lower() in rows for file in files)
    return not has_rows and bool(captions) and captions <= named and 2 * len(captions) > len(named)


def open_captions(folder: Path, images: Sequence[str], split: str) -> CaptionedTable:
    """Read the rows of a folder that `has_captions`.

    Raises:
        SplitError: Another split than the only one is wanted.
        ValueError: Two images have one caption, or further images lie in folders within.
    """
    if split != "train":
        msg = "it is a folder of images with captions, which has the split train"
        raise SplitError(msg, ["train"])
    # Hidden folders are those of programs, which keep copies of images there.
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in images and not any(part[0] == "." for part in file.relative_to(folder).parts)
    )
    if deeper := [file for file in found if file.parent != folder]:
        msg = f"images with captions lie beside {str(deeper[0].relative_to(folder))!r}; name the folder of either"
        raise ValueError(msg)
    stems: dict[str, Path] = {}
    for file in found:
        if (other := stems.setdefault(file.stem, file)) != file:
            msg = f"{other.name} and {file.name} have one caption, {file.stem}{CAPTION_SUFFIX}; rename one"
            raise ValueError(msg)
    # Endings are written in any case.
    texts = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() == CAPTION_SUFFIX}
    return CaptionedTable(found, [texts.get(file.stem, file.with_suffix(CAPTION_SUFFIX)) for file in found])
