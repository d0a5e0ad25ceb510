"""A run's saved state: a damaged one is told, and the one before it carries on; what is not trained is kept once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mai_app.config import TrainConfig
from mai_app.errors import RunError
from mai_app.training.loop import train
from tests.conftest import copied, folder_of, write_data_set
from tests.training.test_strong import tiny


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_weight(path: Path) -> None:
    """Turn one bit of a weight, which torch would not see."""
    state = torch.load(path, weights_only=True)
    weights = max(state["network"].values(), key=torch.Tensor.numel)
    data = bytearray(path.read_bytes())
    at = data.find(weights.numpy().tobytes()[:64])
    assert at > 0
    data[at + 3] ^= 0x40
    path.write_bytes(data)
    torch.load(path, weights_only=True)


def lose_a_part(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["optimizer"]
    torch.save(state, path)


def be_something_else(path: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("damage", [cut, empty, change_a_weight, lose_a_part, be_something_else])
def test_after_damage_it_carries_on_from_the_save_before_to_the_very_same_weights(
    plain: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    config = copied(plain, tmp_path)
    run = folder_of(config)
    damage(run / "last.pt")
    train(config)
    said = capsys.readouterr().err
    assert f"{run / 'last.pt'}: is damaged" in said
    assert "carrying on from the save before it, before.pt" in said
    assert "carrying on at epoch 2, step 4" in said
    assert (run / "best.safetensors").read_bytes() == (folder_of(plain) / "best.safetensors").read_bytes()
    ours, theirs = (torch.load(folder / "last.pt", weights_only=True) for folder in (run, folder_of(plain)))
    assert ours["epoch"] == theirs["epoch"] == 2
    assert all(torch.equal(ours["network"][name], tensor) for name, tensor in theirs["network"].items())
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_state_that_is_missing_is_the_one_before(plain: TrainConfig, tmp_path: Path) -> None:
    config = copied(plain, tmp_path)
    run = folder_of(config)
    (run / "last.pt").unlink()
    train(config)
    assert (run / "best.safetensors").read_bytes() == (folder_of(plain) / "best.safetensors").read_bytes()


def test_the_whole_state_stays_until_there_is_another(plain: TrainConfig, tmp_path: Path) -> None:
    config = replace(copied(plain, tmp_path), epochs=4)
    run = folder_of(config)
    before = (run / "before.pt").read_bytes()
    cut(run / "last.pt")
    kept: list[bytes] = []

    def stop() -> None:
        kept.append((run / "before.pt").read_bytes())
        if len(kept) == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, on_save=stop)
    assert kept[0] == before  # and not the damaged one
    assert kept[1] != before
    assert torch.load(run / "before.pt", weights_only=True)["epoch"] == 2


def test_where_both_are_damaged_it_is_refused(plain: TrainConfig, tmp_path: Path) -> None:
    config = copied(plain, tmp_path)
    for name in ("last.pt", "before.pt"):
        cut(folder_of(config) / name)
    with pytest.raises(RunError, match=r"last\.pt: is damaged \(BadZipFile\); choose another --name"):
        train(config)


def test_a_run_of_an_earlier_mai_has_no_state_before(plain: TrainConfig, tmp_path: Path) -> None:
    config = replace(copied(plain, tmp_path), epochs=3)
    run = folder_of(config)
    (run / "before.pt").unlink()
    train(config)
    assert torch.load(run / "before.pt", weights_only=True)["step"] > 0


def test_two_states_are_two_names_and_no_copy(plain: TrainConfig) -> None:
    states = [folder_of(plain) / name for name in ("last.pt", "before.pt")]
    assert states[0].read_bytes() != states[1].read_bytes()
    assert not (folder_of(plain) / "frozen.pt").exists()  # everything is trained


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of matrices on a pretrained body."""
    folder = tmp_path_factory.mktemp("frozen")
    data = write_data_set(folder / "d", train=8, val=4, test=0)
    torch.manual_seed(5)
    save_file(timm.create_model("test_vit").state_dict(), folder / "weights.safetensors")
    start = str(folder / "weights.safetensors")
    config = replace(tiny(data, folder), start_from=start, epochs=1, batch_size=8, save_minutes=0)
    train(config)
    return config


def names(run: Path, file: str, *keys: str) -> set[str]:
    state: dict[str, Any] = torch.load(run / file, weights_only=True)
    for key in keys:
        state = state[key]
    return set(state)


def test_what_is_not_trained_is_stored_once(frozen: TrainConfig, tmp_path: Path) -> None:
    run = folder_of(frozen)
    body = names(run, "frozen.pt")
    assert "body.network.patch_embed.proj.weight" in body
    for file in ("last.pt", "before.pt"):
        for key in ("network", "averaged"):
            assert not body & names(run, file, key)
    assert (run / "last.pt").stat().st_size < (run / "frozen.pt").stat().st_size
    # Carried on for another epoch it is what it is without a stop.
    config = replace(copied(frozen, tmp_path), optimizer="rmsprop", epochs=2)
    with pytest.raises(RunError, match="other settings"):
        train(config)
    again = train(replace(frozen, runs=tmp_path / "again"))
    assert (again / "best.safetensors").read_bytes() == (run / "best.safetensors").read_bytes()


@pytest.mark.parametrize("old", [False, True])
def test_it_is_carried_on_with_what_is_not_trained(frozen: TrainConfig, tmp_path: Path, old: bool) -> None:
    config = copied(frozen, tmp_path)
    run, saved = folder_of(config), [0]

    def stop() -> None:
        saved[0] += 1
        if saved[0] == 2:
            raise ZeroDivisionError

    fresh = replace(config, name="fresh")
    with pytest.raises(ZeroDivisionError):
        train(fresh, on_save=stop)
    run = folder_of(fresh)
    if old:  # as version 0.2 wrote it: everything in last.pt
        state, body = (torch.load(run / name, weights_only=True) for name in ("last.pt", "frozen.pt"))
        for key in ("network", "averaged"):
            state[key] = body | state[key]
        torch.save(state, run / "last.pt")
        (run / "frozen.pt").unlink()
        (run / "before.pt").unlink()
    train(replace(fresh, start_from=frozen.start_from))
    assert (run / "best.safetensors").read_bytes() == (folder_of(frozen) / "best.safetensors").read_bytes()
    assert (run / "frozen.pt").exists()


def test_without_what_is_not_trained_it_is_refused(frozen: TrainConfig, tmp_path: Path) -> None:
    config = copied(frozen, tmp_path)
    cut(folder_of(config) / "frozen.pt")
    with pytest.raises(RunError, match=r"frozen\.pt: is damaged"):
        train(config)
    (folder_of(config) / "frozen.pt").unlink()
    with pytest.raises(RunError, match=r"frozen\.pt: is damaged \(FileNotFoundError\)"):
        train(config)


@pytest.mark.parametrize("change", ["an image less", "an image more", "another label", "other pixels"])
def test_a_data_set_that_changed_under_a_run_is_refused(plain: TrainConfig, tmp_path: Path, change: str) -> None:
    data = write_data_set(tmp_path / "d", train=8, val=4, test=0)
    config = replace(plain, data=data, runs=tmp_path / "runs", epochs=1)
    train(config)
    before = {path.name: path.read_bytes() for path in folder_of(config).iterdir()}
    folder = data / "train" / "authentic" / "source0"
    if change == "an image less":
        (folder / "000.png").unlink()
    elif change == "an image more":
        (folder / "new.png").write_bytes((data / "val" / "synthetic" / "source0" / "000.png").read_bytes() + b"\0")
        (data / "val" / "synthetic" / "source0" / "000.png").unlink()
    elif change == "another label":
        (folder / "000.png").rename(data / "train" / "synthetic" / "source0" / "moved.png")
    else:
        other = write_data_set(tmp_path / "other", train=1, val=0, test=0, seed=9)
        (folder / "000.png").write_bytes((other / "train" / "authentic" / "source0" / "000.png").read_bytes())
    with pytest.raises(RunError, match=r"was started on other data than .* holds now; choose another --name"):
        train(config)
    assert {path.name: path.read_bytes() for path in folder_of(config).iterdir()} == before
