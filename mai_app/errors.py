"""The errors that MAI raises on purpose: each message says what was wrong, with which file, and what to do.

MaiError
├── DataError         a data set that can't be trained or evaluated on
│   └── SourceError   a remote data set, or one of its files, that can't be had; the others go on
├── ImageError        one file that can't be judged; the rest of a batch goes on
├── CheckpointError   a checkpoint that is missing, damaged, or from another model
│   └── ModelNameError    a model's name that none has
└── RunError          a training run that can't start, or can't carry on as asked
"""


class MaiError(Exception):
    """Base of every error that MAI raises on purpose."""


class DataError(MaiError):
    """A folder or a prepared set that can't serve as a data set."""


class SourceError(DataError):
    """A remote data set, or one of its files, that can't be had."""

    def __init__(self, message: str, whole: bool = False) -> None:
        super().__init__(message)
        self.whole = whole
        """Whether nothing more can be had of the data set, so that its other files need not be tried."""


class ImageError(MaiError):
    """An image file that MAI refuses or can't decode; names the file and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        # Exceptions are pickled by their message alone, which this one's __init__ does not take.
        return ImageError, (self.name, self.reason)


class CheckpointError(MaiError):
    """A checkpoint that is missing, damaged, newer than this MAI, or not MAI's."""


class ModelNameError(CheckpointError):
    """A name that no run and no shipped model has."""


class RunError(MaiError):
    """A training run whose folder and command do not fit together."""
