"""The IPTC's vocabulary of digital source types: what each code means for a picture, and in words."""

from dataclasses import dataclass
from typing import Final, Literal

Points = Literal["synthetic", "authentic", "edited", "nothing"]


@dataclass(frozen=True)
class SourceType:
    """What a file declares itself to be."""

    code: str
    """As in http://cv.iptc.org/newscodes/digitalsourcetype/."""
    points_to: Points
    words: str
    """To be read after "declares itself"."""


_TYPES: Final = {
    kind.code.lower(): kind
    for kind in (
        SourceType("trainedAlgorithmicMedia", "synthetic", "synthetic"),
        SourceType("compositeWithTrainedAlgorithmicMedia", "synthetic", "synthetic in part"),
        SourceType("algorithmicMedia", "synthetic", "made by an algorithm"),
        SourceType("compositeSynthetic", "synthetic", "a composite with synthetic parts"),
        SourceType("trainedAlgorithmicData", "synthetic", "data of a trained model"),
        SourceType("digitalCapture", "authentic", "taken by a camera"),
        SourceType("computationalCapture", "authentic", "taken by a camera that computes"),
        SourceType("compositeCapture", "edited", "a composite of camera pictures"),
        SourceType("negativeFilm", "authentic", "scanned from film"),
        SourceType("positiveFilm", "authentic", "scanned from film"),
        SourceType("print", "authentic", "scanned from a print"),
        SourceType("minorHumanEdits", "edited", "edited a little"),
        SourceType("humanEdits", "edited", "edited by a person"),
        SourceType("algorithmicallyEnhanced", "edited", "enhanced by an algorithm"),
        SourceType("composite", "edited", "a composite"),
        SourceType("digitalCreation", "nothing", "made by a person with software"),
        SourceType("digitalArt", "nothing", "drawn by a person with software"),
        SourceType("softwareImage", "nothing", "made by software"),
        SourceType("dataDrivenMedia", "nothing", "drawn from data"),
        SourceType("screenCapture", "nothing", "taken from a screen"),
        SourceType("virtualRecording", "nothing", "recorded from a virtual event"),
    )
}


def source_type(value: str) -> SourceType | None:
    """The type of a value, the vocabulary's address or the bare code; None if it is none of these."""
    return _TYPES.get(value.strip().rstrip("/#").rpartition("/")[2].rpartition(":")[2].lower())
