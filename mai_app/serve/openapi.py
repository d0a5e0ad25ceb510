"""What /openapi.json says of requests, answers and problems, with an example of each."""

from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

from mai_app.evidence.statements import Evidence
from mai_app.inference.prediction import ImageFacts, ModelFacts, Prediction

PROBLEMS: Final = {
    400: "The body is malformed.",
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
    408: "The body came too slowly.",
    413: "The body has too many bytes or too many files.",
    415: "The content type is none of those that are taken.",
    421: "This server does not answer to that name.",
    422: "There is no image in the body, or no model of that name.",
    429: "Too many requests in a minute from this address.",
    500: "The server failed.",
    503: "Too much to do, or the model can't be had; try again in a moment.",
}
"""The problems by status, in words."""

_REQUEST_ID: Final = "3f0c9a52d1e84b7f"
_ID_HEADER: Final = {"X-Request-ID": {"description": "Names the request.", "schema": {"type": "string"}}}
_RETRY_HEADER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

_BINARY: Final = {"type": "string", "format": "binary"}
_PIXEL: Final = "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
_IMAGE: Final = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "name": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64", "format": "byte"},
    },
}
_JSON: Final = {
    "schema": {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "items": _IMAGE, "minItems": 1}},
    },
    "example": {"images": [{"name": "x.gif", "data": _PIXEL}]},
}
# Files may have any names of fields, and share one.
_FORM: Final = {"schema": {"type": "object", "properties": {"image": _BINARY}, "additionalProperties": _BINARY}}

BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Image files: as a form, as JSON, or one file's bytes as they are.",
    "content": {
        "multipart/form-data": _FORM,
        "application/json": _JSON,
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}
"""The requestBody of an operation that takes images."""

MODEL_EXAMPLE: Final = asdict(
    ModelFacts(
        name="traces",
        network="traces",
        version="0f3b6c2a9d41",
        sha256="0f3b6c2a9d41" + "e7" * 26,
        trained_on="six",
        threshold=0.62,
        unsure_low=0.31,
        unsure_high=0.84,
        calibrated_on="",
        authentic_images=900,
        synthetic_images=900,
        tiers={"clean": {"images": 1800, "fpr": 0.04, "tpr": 0.91, "unsure": 0.2, "right": 0.97}},
    )
)
_PREDICTION: Final = asdict(
    Prediction(
        path="holiday.jpg",
        p_synthetic=0.912406,
        verdict="synthetic",
        threshold=0.62,
        unsure_low=0.31,
        unsure_high=0.84,
        model="traces",
        version="0f3b6c2a9d41",
        image=ImageFacts(1600, 1200, "JPEG", 412_310, orientation=6, jpeg_quality=92, crops=5),
        notes=(),
        evidence=(
            Evidence(
                source="EXIF",
                points_to="synthetic",
                strength="declared",
                says="Its software is a generator of images, it says; anybody can write that.",
                fields=(("Software", "ExampleDiffusion 2"),),
            ),
        ),
        error=None,
    )
)
PREDICTIONS_EXAMPLE: Final = {"request_id": _REQUEST_ID, "models": [MODEL_EXAMPLE], "predictions": [_PREDICTION]}


def problem(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """A problem's fields after RFC 9457; about:blank says that the status tells all there is to tell of its kind."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}


def responses(example: Any, statuses: list[int], media_type: str = "application/json") -> dict[int | str, Any]:
    """An operation's responses: 200, with this example, and these problems."""
    content = {"schema": _BINARY} if media_type == "image/png" else {"example": example}
    answered = {"headers": _ID_HEADER, "content": {media_type: content}}
    return {200: answered, **{status: _problem_response(status) for status in statuses}}


def _problem_response(status: int) -> dict[str, Any]:
    example = problem(status, PROBLEMS[status], _REQUEST_ID)
    kinds = {name: {"type": "integer" if name == "status" else "string"} for name in example}
    schema = {"type": "object", "required": list(example), "properties": kinds}
    return {
        "description": PROBLEMS[status],
        "headers": _ID_HEADER | (_RETRY_HEADER if status in (429, 503) else {}),
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    }
