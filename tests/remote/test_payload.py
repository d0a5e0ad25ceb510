"""Payloads: which settings go to a container, and errors that come back as values and are raised again."""

from pathlib import Path

import modal.exception
import pytest

from mai_app.cli import COMMANDS
from mai_app.config import EvaluateConfig, TrainConfig
from mai_app.errors import DataError, ImageError, MaiError, ModelNameError
from mai_app.remote.payload import LOCAL_FIELDS, Payload, error_payload, extract_settings, return_errors, unwrap


def test_settings_are_all_fields_but_those_of_the_callers_machine() -> None:
    config = TrainConfig(data=Path("photos"), name="r", on="modal", detach=True)
    settings = extract_settings(config)
    assert set(LOCAL_FIELDS) == {"data", "runs", "prepared", "on", "detach", "budget"}
    assert not set(settings) & set(LOCAL_FIELDS)
    assert TrainConfig(data=config.data, runs=config.runs, prepared=config.prepared, **settings) == TrainConfig(
        data=Path("photos"), name="r"
    )
    assert "out" not in extract_settings(EvaluateConfig(data=Path("photos"), out=Path("here")), "out")


def test_every_command_that_runs_there_has_fields_that_stay_here() -> None:
    there = {name: command.config for name, command in COMMANDS.items() if command.on_modal}
    assert len(there) == 8
    for name, config in there.items():
        assert "on" in config.__dataclass_fields__, name


@pytest.mark.parametrize(
    "error", [ImageError("a: b.png", "is no image"), ModelNameError("no 'lion'"), DataError("empty")]
)
def test_an_error_becomes_a_value_and_is_raised_again_as_its_kind(error: MaiError) -> None:
    @return_errors
    def fail() -> Payload:
        raise error

    result = fail()
    assert result == error_payload(error)
    assert all(type(value) is str for value in result.values())
    with pytest.raises(MaiError) as raised:
        unwrap(result)
    if isinstance(error, ImageError):
        assert isinstance(raised.value, ImageError)
        assert (raised.value.name, raised.value.reason) == (error.name, error.reason)
    else:
        assert type(raised.value) is (ModelNameError if isinstance(error, ModelNameError) else MaiError)
        assert str(raised.value) == f"on Modal: {error}"


def test_results_are_left_as_they_are() -> None:
    @return_errors
    def divide(a: int, b: int) -> Payload:
        return {"quotient": a // b}

    assert unwrap(divide(6, 2)) == {"quotient": 3}
    assert divide.__name__ == "divide"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no number"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        ZeroDivisionError(),
        KeyError(1),
    ],
)
def test_a_crash_that_would_come_again_is_no_reason_to_try_again(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    @return_errors
    def crash() -> Payload:
        raise error

    result = crash()
    assert result["mai_error"].startswith(f"{type(error).__name__}: ")
    assert "Traceback" in capsys.readouterr().err  # in the container's log


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        ConnectionResetError(),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        modal.exception.ServiceError("busy"),
    ],
)
def test_what_another_machine_may_not_meet_is_tried_again(error: Exception) -> None:
    @return_errors
    def fail() -> Payload:
        raise error

    with pytest.raises(type(error)):
        fail()
