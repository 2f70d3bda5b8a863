"""Which data set, from where, at what size: what the command line fills and a header records."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set by name."""

    name: str = "digits"
    """digits, cifar10, cifar100, imagenet, imagefolder or fake."""
    root: str | None = None
    """Folder that holds the files of cifar10, cifar100, imagenet or imagefolder."""
    image_size: int | None = None
    """Height and width of the images; the data set's own by default."""
    download: bool = False
    """Download cifar10 or cifar100 into the root if they are not there."""

    def __post_init__(self) -> None:
        """Refuse a size below 1."""
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"data.image_size must be >= 1, got {self.image_size}")
