"""From the bytes of an image file to statements about its making: where each stands, and how far it can be trusted."""

from mai_app.prediction import Evidence


def read_evidence(data: bytes) -> tuple[Evidence, ...]:
    """What the file says of its making."""
    return ()
