"""OpenAPI descriptions of request bodies, responses and problem details, with examples."""

from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

from mai_app.evidence.statements import Evidence
from mai_app.inference.prediction import ImageFacts, ModelFacts, Prediction

PROBLEMS: Final = {
    400: "The body is malformed.",
    404: "There is nothing at this URL.",
    405: "This URL does not support this method.",
    408: "The body was sent too slowly.",
    413: "The body has too many bytes or too many files.",
    415: "The content type is not supported.",
    421: "This server does not answer to this host name.",
    422: "The body has no image, or there is no model of that name.",
    429: "Too many requests in a minute from this address.",
    500: "The server failed.",
    503: "Too many requests, or the model is unavailable; try again in a moment.",
}
"""Default problem texts by status."""

_REQUEST_ID: Final = "3f0c9a52d1e84b7f"
_ID_HEADER: Final = {"X-Request-ID": {"description": "Identifies the request.", "schema": {"type": "string"}}}
_RETRY_HEADER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

_BINARY_SCHEMA: Final = {"type": "string", "format": "binary"}
_PIXEL_GIF: Final = "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
_JSON_IMAGE: Final = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "name": {"type": "string"},
        "data": {
            "type": "string",
            "contentEncoding": "base64",
            "format": "byte",
            "description": "Base64 of either alphabet, with or without padding and line breaks, or a data URL with it.",
        },
    },
}
_JSON_CONTENT: Final = {
    "schema": {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "items": _JSON_IMAGE, "minItems": 1}},
    },
    "example": {"images": [{"name": "x.gif", "data": _PIXEL_GIF}]},
}
# Files may be in fields of any name, several in one field.
_FORM_CONTENT: Final = {
    "schema": {"type": "object", "properties": {"image": _BINARY_SCHEMA}, "additionalProperties": _BINARY_SCHEMA}
}

REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Image files: as a form, as JSON, or one file's raw bytes.",
    "content": {
        "multipart/form-data": _FORM_CONTENT,
        "application/json": _JSON_CONTENT,
        "image/*": {"schema": _BINARY_SCHEMA},
        "application/octet-stream": {"schema": _BINARY_SCHEMA},
    },
}
"""The requestBody of operations on images."""

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
        tiers={
            "clean": {
                "images": 1800,
                "fpr": 0.03,
                "tpr": 0.91,
                "unsure": 0.2,
                "right": 0.97,
                "fpr_bound": 0.05,
                "right_bound": 0.95,
            }
        },
    )
)
_PREDICTION_EXAMPLE: Final = asdict(
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
                says="names an AI generator, ExampleDiffusion (ExampleDiffusion 2); anybody can write that",
                fields=(("Software", "ExampleDiffusion 2"),),
            ),
        ),
        error=None,
    )
)
PREDICTIONS_EXAMPLE: Final = {
    "request_id": _REQUEST_ID,
    "models": [MODEL_EXAMPLE],
    "predictions": [_PREDICTION_EXAMPLE],
}


def problem_details(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """Return problem details after RFC 9457; type about:blank means that the status alone identifies the problem."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}


def describe_responses(example: Any, statuses: list[int], media_type: str = "application/json") -> dict[int | str, Any]:
    """Return an operation's OpenAPI responses: 200 with an example, and problems with these statuses."""
    content = {"schema": _BINARY_SCHEMA} if media_type == "image/png" else {"example": example}
    success = {"headers": _ID_HEADER, "content": {media_type: content}}
    return {200: success, **{status: _describe_problem(status) for status in statuses}}


def _describe_problem(status: int) -> dict[str, Any]:
    example = problem_details(status, PROBLEMS[status], _REQUEST_ID)
    kinds = {name: {"type": "integer" if name == "status" else "string"} for name in example}
    schema = {"type": "object", "required": list(example), "properties": kinds}
    return {
        "description": PROBLEMS[status],
        "headers": _ID_HEADER | (_RETRY_HEADER if status in (429, 503) else {}),
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    }
