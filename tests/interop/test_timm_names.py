import pytest
import torch
from safetensors.torch import save_file

from zoo.errors import IntegrityError, UnknownName, WeightsUnavailable
from zoo.interop.timm_names import architecture_of, is_timms, timm_input, timm_network

NAME = "timm:test_resnet.r160_in1k"


def test_names():
    assert is_timms(NAME)
    assert not is_timms("pslt_pico")
    assert architecture_of("timm:resnet18") == "resnet18"
    assert architecture_of("pslt_pico.c10") == "pslt_pico"


def test_a_network_from_a_file(tmp_path):
    assert timm_input(NAME).size == (3, 160, 160)
    made = timm_network(NAME).eval()
    save_file(made.state_dict(), tmp_path / "mine.safetensors")
    read = timm_network(NAME, checkpoint_path=tmp_path / "mine.safetensors").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(read(x), made(x))


@pytest.mark.parametrize("asked", [{}, {"num_classes": 5}])
def test_a_files_own_head_is_kept(asked, tmp_path):
    made = timm_network(NAME, num_classes=5).eval()
    save_file(made.state_dict(), tmp_path / "mine.safetensors")
    read = timm_network(NAME, checkpoint_path=tmp_path / "mine.safetensors", **asked).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(read(x), made(x))
    assert timm_network(NAME, checkpoint_path=tmp_path / "mine.safetensors", num_classes=7).num_classes == 7


def test_preprocessing_is_timms():
    squashed, fixed = timm_input("timm:convnext_base.fb_in22k_ft_in1k_384"), timm_input("timm:vit_tiny_patch16_224")
    assert (squashed.crop_mode, squashed.fixed_size) == ("squash", False)
    assert (fixed.crop_mode, fixed.fixed_size) == ("center", True)


def test_what_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="timm has no model 'resnet19'"):
        timm_network("timm:resnet19")
    with pytest.raises(IntegrityError, match=r"not called \.safetensors"):
        timm_network(NAME, checkpoint_path=tmp_path / "weights.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsUnavailable, match="cannot be had") as refused:
        timm_network(NAME, checkpoint_path=tmp_path / "cut.safetensors")
    assert "\n" not in refused.value.message
    with pytest.raises(TypeError):
        timm_network(NAME, pretrained=True, num_classes=3, nonsense=1)
