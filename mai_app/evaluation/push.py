"""Push a model to the Hugging Face Hub: its checkpoint, which holds preprocessing and calibration, and its card."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from mai_app import __version__
from mai_app.config import CardConfig, PushConfig
from mai_app.core.log import say
from mai_app.errors import CheckpointError, MaiError
from mai_app.evaluation.model_card import write_card
from mai_app.models.checkpoint import Checkpoint, load_checkpoint
from mai_app.models.hub import PREFIX, describe, is_hub_name, parse_name
from mai_app.models.registry import BEST, find_checkpoint, name_of, results_folder

_GET_ONE: Final = "make one with write access in your account's settings, and set HF_TOKEN to it, or `hf auth login`"
_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class Pushed:
    """What was sent."""

    repository: str
    """owner/name."""
    private: bool
    commit: str
    """The commit that holds it."""
    bytes: int
    """Size of the checkpoint."""
    version: str
    """Names weights and calibration."""


def push(config: PushConfig) -> Pushed:
    """Send a model to the Hub in one commit; a repository that is not there is made, private unless config.public.

    Raises MaiError for want of a token, for a model that was trained on simulated images unless config.simulated, for
    one without a card, and where the Hub refuses; CheckpointError for the model, DataError for its report.
    """
    import huggingface_hub  # noqa: PLC0415 - with the network, for this command alone

    name = parse_name(f"{PREFIX}{config.repository.removeprefix(PREFIX)}")
    if name.revision:
        raise MaiError(f"{config.repository}: a push goes to the branch main; leave out @{name.revision}")
    if is_hub_name(config.model):
        raise MaiError(f"{config.model}: is on the Hub already; name a run")
    if not _LICENSE.fullmatch(config.license):
        raise MaiError(f"--license {config.license}: write it as the Hub does: mit, apache-2.0, cc-by-4.0, unknown, …")
    checkpoint = load_checkpoint(find_checkpoint(config.model, config.runs))
    if checkpoint.info.simulated and not config.simulated:
        raise MaiError(
            f"{checkpoint.path}: was trained on simulated images and says nothing about real ones; --simulated sends "
            f"it all the same"
        )
    card = _with_front_matter(_read_card(config, checkpoint), config, name.repository)
    if not huggingface_hub.get_token():
        raise MaiError(f"the Hub takes a model only with a token; {_GET_ONE}")
    data = checkpoint.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise CheckpointError(f"{checkpoint.path}: was changed meanwhile, perhaps by its training; push it after that")
    title = f"{name_of(checkpoint.path)}, version {checkpoint.version}, by MAI {__version__}"
    private, commit = _send(name.repository, {BEST: data, "README.md": card.encode()}, title, config.public)
    return Pushed(name.repository, private, commit, len(data), checkpoint.version)


def summary(pushed: Pushed) -> str:
    """What was sent and how it is loaded, as plain text."""
    name = f"{PREFIX}{pushed.repository}"
    who = "private: loading it takes HF_TOKEN with access" if pushed.private else "public: everyone can load it"
    return "\n".join(
        [
            f"sent: {BEST} ({pushed.bytes / 1e6:.1f} MB, version {pushed.version}) and README.md, its card",
            f"to: {name}, {who}",
            f"commit: {pushed.commit}",
            f"load it: mai predict photo.jpg --model {name}",
            f'    or: mai_app.load("{name}"); {name}@{pushed.commit} stays this one',
        ]
    )


def _read_card(config: PushConfig, checkpoint: Checkpoint) -> str:
    """The text of the model's card: the file that is named, or that of its report on the test part, made if need be."""
    report = results_folder(checkpoint.path, config.runs) / "report-test"
    path = config.card or report / "MODEL_CARD.md"
    if not config.card and not path.is_file():
        if not (report / "report.json").is_file():
            raise MaiError(
                f"{checkpoint.path}: has no card, for {report} holds no report; run "
                f"`mai evaluate --data FOLDER --model {config.model}`, or name a card with --card"
            )
        write_card(CardConfig(report=report, model=str(checkpoint.path), runs=config.runs))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise MaiError(f"{path}: can't be read as a card ({reason}); name another with --card") from None
    if checkpoint.version not in text:
        raise MaiError(
            f"{path}: does not name version {checkpoint.version}, so it is the card of other weights or of another "
            f"calibration; run `mai evaluate` and `mai card` again, or name the right file with --card"
        )
    return text


def _with_front_matter(card: str, config: PushConfig, repository: str) -> str:
    """The card as the Hub reads it: metadata in YAML, and how to load the model under its title."""
    if card.startswith("---"):  # by hand
        return card
    if config.license == PushConfig.license:
        say("the card says that the licence is unknown; --license names one")
    title, _, text = card.partition("\n")
    warning = "\n\n**It was trained on simulated images, and says nothing about real ones.**" * config.simulated
    return f"{FRONT_MATTER.format(license=config.license)}{title}{warning}\n\n{LOAD.format(name=repository)}\n{text}"


def _send(repository: str, files: dict[str, bytes], title: str, public: bool) -> tuple[bool, str]:
    """Commit the files, all or none; whether the repository is private, and the commit. Raises MaiError."""
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # noqa: PLC0415

    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    api = huggingface_hub.HfApi(library_name="mai")
    try:
        private = _is_private(api, repository)
        if private is None:
            api.create_repo(repository, private=not public, exist_ok=True)
            private = not public
        elif private and public:
            say(f"{repository}: is private and stays so; its settings on the Hub open it")
        elif not private and not public:
            raise MaiError(f"{repository}: is open to everyone; add --public to send the model there")
        additions = [huggingface_hub.CommitOperationAdd(path, data) for path, data in files.items()]
        commit = api.create_commit(repository, additions, commit_message=title)
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise MaiError(f"{repository}: {_reason(error)}") from None
    return private, str(commit.oid)


def _is_private(api: Any, repository: str) -> bool | None:
    """Whether a repository is private; None for one that is not there, or not for this token."""
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415

    try:
        return bool(api.model_info(repository).private)
    except RepositoryNotFoundError:
        return None


def _reason(error: Exception) -> str:
    """Why nothing was sent, and what to do."""
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    if constants.is_offline_mode():
        return "nothing was sent, for HF_HUB_OFFLINE is set"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status == 401:
        return f"the Hub does not know this token (401); {_GET_ONE}"
    if status in (403, 404):
        return f"this token may not write there ({status}); name another owner, or {_GET_ONE}"
    return f"nothing was sent ({describe(error)}); the same command tries again"


FRONT_MATTER: Final = """\
---
license: "{license}"
library_name: mai
pipeline_tag: image-classification
tags:
- mai
- ai-generated-image-detection
- synthetic-image-detection
- image-forensics
---
"""

LOAD: Final = """\
```python
import mai_app

detector = mai_app.load("hf:{name}")
for prediction in detector.predict(["photo.jpg"]):
    print(prediction.path, prediction.p_synthetic, prediction.verdict)
```"""
