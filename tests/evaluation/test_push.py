"""`mai push` by real HTTP to a Hub on 127.0.0.1: what is sent, what is said, and what is refused before anything is."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import constants

import mai_app
from mai_app.cli import main
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.registry import BEST, shipped_models
from tests.conftest import write_data_set
from tests.hub import Fault, Hub

# The client's own way of sending a large file, which it has where Xet is turned off.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = "# photos: model card\n\n**photos** is a detector of MAI. Version `{version}` names its weights.\n"
PUSH = ["push", "photos", "me/photos"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process has the right token for, and a run "photos" with a card in the folder."""
    monkeypatch.chdir(tmp_path)
    run = Path("runs/photos")
    (run / "report-test").mkdir(parents=True)
    copy(shipped_models()["traces"], run / BEST)
    version = load_checkpoint(run / BEST).version
    (run / "report-test" / "MODEL_CARD.md").write_text(CARD.format(version=version))
    with Hub() as hub:
        hub.patch(monkeypatch, tmp_path / "hf")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a push that must fail says, in one line."""
    assert main([*words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    return err.removeprefix("mai: ").rstrip("\n")


def test_what_is_pushed_is_what_others_load(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PUSH, "--license", "mit"]) == 0
    out, err = capsys.readouterr()
    commit, version = hub.commit("models/me/photos"), load_checkpoint(Path("runs/photos") / BEST).version
    assert out.splitlines() == [
        f"sent: best.safetensors (2.1 MB, version {version}) and README.md, its card",
        "to: hf:me/photos, private: loading it takes HF_TOKEN with access",
        f"commit: {commit}",
        "load it: mai predict photo.jpg --model hf:me/photos",
        f'    or: mai_app.load("hf:me/photos"); hf:me/photos@{commit} stays this one',
    ]
    assert "licence" not in err
    assert hub.private == {"models/me/photos"}
    assert hub.paths("models/me/photos") == ["README.md", BEST]
    assert hub.read("models/me/photos", BEST) == (Path("runs/photos") / BEST).read_bytes()
    _, matter, card = hub.read("models/me/photos", "README.md").decode().split("---\n", 2)
    facts = yaml.safe_load(matter)
    assert facts.pop("tags")[0] == "mai"
    assert facts == {"license": "mit", "library_name": "mai", "pipeline_tag": "image-classification"}
    assert card.startswith("# photos: model card\n\n```python\nimport mai_app\n")
    assert 'mai_app.load("hf:me/photos")' in card
    assert card.endswith(CARD.format(version=version).partition("\n")[2])
    for name in ("hf:me/photos", f"hf:me/photos@{commit}"):
        assert mai_app.load(name, device="cpu").facts.version == version
    # Card and weights came in one commit.
    assert sum("/commit/" in path for path, _ in hub.bodies) == 1


def test_the_same_again_is_the_same_commit_and_another_one_replaces_it(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = []
    for license_ in ("mit", "mit", "apache-2.0"):
        assert main([*PUSH, "--license", license_]) == 0
        commits.append(capsys.readouterr().out.splitlines()[2])
        assert commits[-1] == f"commit: {hub.commit('models/me/photos')}"
    assert commits[0] == commits[1] != commits[2]
    assert main(["push", "photos", "hf:me/open", "--public"]) == 0
    out, err = capsys.readouterr()
    assert "to: hf:me/open, public: everyone can load it\n" in out
    assert err == "the card says that the licence is unknown; --license names one\n"
    assert "models/me/open" not in hub.private


def test_nobody_opens_or_feeds_a_public_repository_by_mistake(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("models/me/photos", "a.txt", b"there already")
    said = refusal(capsys, *PUSH, "--license", "mit")
    assert said == "me/photos: is open to everyone; add --public to send the model there"
    assert hub.paths("models/me/photos") == ["a.txt"]
    hub.private.add("models/me/photos")
    assert main([*PUSH, "--license", "mit", "--public"]) == 0
    out, err = capsys.readouterr()
    assert "hf:me/photos, private: " in out
    assert err == "me/photos: is private and stays so; its settings on the Hub open it\n"
    assert hub.paths("models/me/photos") == ["README.md", "a.txt", BEST]


def test_a_push_is_refused_before_anything_is_sent(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, reason in (
        (["push", "photos", "photos"], "hf:photos: is no name of a model on the Hub; write hf:owner/name"),
        (["push", "photos", "me/photos@v1"], "me/photos@v1: a push goes to the branch main; leave out @v1"),
        (["push", "hf:me/photos", "me/two"], "hf:me/photos: is on the Hub already; name a run"),
        (["push", "nowhere", "me/two"], "model 'nowhere' not found; available runs in runs/ = ['photos']"),
        ([*PUSH, "--license", "MIT: yes"], "--license MIT: yes: write it as the Hub does: mit, "),
        ([*PUSH, "--card", "none.md"], "none.md: can't be read as a card (No such file or directory)"),
        (["push", "traces", "me/two"], "has no card, for runs/traces/report-test holds no report; run `mai evaluate"),
    ):
        assert reason in refusal(capsys, *words)
    checkpoint = load_checkpoint(Path("runs/photos") / BEST)
    other = replace(checkpoint.info, simulated=True)
    save_checkpoint(Path("runs/photos") / BEST, checkpoint.network, other)
    assert "was trained on simulated images and says nothing about real ones; --simulated" in refusal(capsys, *PUSH)
    said = refusal(capsys, *PUSH, "--simulated")
    assert (
        f"report-test/MODEL_CARD.md: does not name version {load_checkpoint(Path('runs/photos') / BEST).version}"
        in said
    )
    assert "run `mai evaluate` and `mai card` again" in said
    save_checkpoint(Path("runs/photos") / BEST, checkpoint.network, checkpoint.info)
    version = load_checkpoint(Path("runs/photos") / BEST).version
    Path("card.md").write_text(CARD.format(version=version))
    monkeypatch.delenv("HF_TOKEN")
    said = refusal(capsys, *PUSH, "--license", "mit", "--card", "card.md")
    assert said.startswith(
        "the Hub takes a model only with a token; make one with write access in your account's settings"
    )
    assert "HF_TOKEN" in said
    assert hub.requests == []


def test_what_the_hub_refuses_is_one_line(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--license", "mit"]
    said = refusal(capsys, "push", "photos", "you/photos", *words)
    assert said.startswith("you/photos: this token may not write there (403); name another owner, or make one with")
    hub.faults.append(Fault("/commit/", "status", status=500, method="POST"))
    assert (
        refusal(capsys, *PUSH, *words)
        == "me/photos: nothing was sent (the Hub answers 500); the same command tries again"
    )
    assert hub.paths("models/me/photos") == []
    assert main([*PUSH, *words]) == 0  # the repository that the first try made is private
    capsys.readouterr()
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "the Hub does not know this token (401)" in refusal(capsys, "push", "photos", "me/new", *words)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(capsys, *PUSH, *words) == "me/photos: nothing was sent, for HF_HUB_OFFLINE is set"


def test_a_simulated_model_says_so_and_a_card_by_hand_is_sent_as_it_is(hub: Hub, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path("runs/photos") / BEST)
    save_checkpoint(Path("runs/toy") / BEST, checkpoint.network, replace(checkpoint.info, simulated=True))
    version = load_checkpoint(Path("runs/toy") / BEST).version
    Path("card.md").write_text(CARD.format(version=version))
    assert main(["push", "toy", "me/toy", "--simulated", "--card", "card.md"]) == 0
    card = hub.read("models/me/toy", "README.md").decode()
    assert "# photos: model card\n\n**It was trained on simulated images, and says nothing about real ones.**\n" in card
    own = f"---\nlicense: mit\n---\n# My own, {version}\n"
    Path("own.md").write_text(own)
    assert main(["push", "toy", "me/own", "--simulated", "--card", "own.md"]) == 0
    assert hub.read("models/me/own", "README.md").decode() == own


def test_the_card_is_made_of_the_report_where_there_is_none(hub: Hub, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "pictures", train=2, val=1, test=3)
    report = Path("runs/photos/report-test")
    (report / "MODEL_CARD.md").unlink()
    assert main(["evaluate", "--data", str(data), "--model", "photos", "--device", "cpu"]) == 0
    assert main([*PUSH, "--license", "mit"]) == 0
    card = hub.read("models/me/photos", "README.md").decode()
    assert card.partition("```\n")[2].strip() == (report / "MODEL_CARD.md").read_text().partition("\n")[2].strip()
    assert "## How well it does" in card
    assert json.loads((report / "report.json").read_text())["version"] in card
