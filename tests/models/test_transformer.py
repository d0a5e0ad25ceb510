"""The plain transformer gives what timm's network gives, from the same tensors."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mai_app.config import Architecture
from mai_app.models.backbones import Body
from mai_app.models.transformer import PlainBody, is_plain
from mai_app.models.views import build_empty, build_network


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("blocks", [(2,), (1, 3), ()])
def test_it_is_the_network_of_timm(registers: bool, blocks: tuple[int, ...]) -> None:
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    architecture = Architecture(backbone=f"{name}.lvd142m", blocks=blocks, size=42)
    torch.manual_seed(0)
    body = Body(architecture).eval()
    for name, parameter in body.named_parameters():  # as trained: none of them stands for nothing
        torch.nn.init.normal_(parameter, 1.0 if "gamma" in name or "norm" in name else 0.0, 0.05)
    plain = PlainBody(architecture).eval()
    plain.load_state_dict(body.state_dict(), assign=True)
    images = torch.rand(3, 3, 42, 42)
    with torch.inference_mode():
        assert plain.width == body.width
        expected = body(images)
        torch.testing.assert_close(plain(images), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):  # as on a GPU
            torch.testing.assert_close(plain(images), expected, atol=0.1, rtol=0.1)


def test_the_others_are_left_to_timm() -> None:
    for name in ("vit_small_patch14_dinov2", "vit_large_patch14_reg4_dinov2.lvd142m"):
        assert is_plain(Architecture(backbone=name, blocks=(3, 12)))
    assert not is_plain(Architecture(backbone="vit_small_patch14_dinov2", blocks=(13,)))
    for name in ("test_vit", "vit_small_patch16_dinov3", "vit_giant_patch14_dinov2", "resnet18"):
        assert not is_plain(Architecture(backbone=name))
    architecture = Architecture(backbone="test_vit", size=64)
    assert type(build_empty("test_vit", architecture)) is type(build_network("test_vit", architecture))
    with pytest.raises(ValueError, match="test_vit"):
        PlainBody(architecture)


def test_predicting_with_the_shipped_model_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    words = """
import sys
import mai_app
mai_app.load("mai-1", "cpu")
print(sorted({"timm", "torchvision", "scipy", "sklearn", "pyarrow", "torch._dynamo"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
