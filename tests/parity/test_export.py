"""What `experiments.export --to torch` writes is loaded by torchvision and timm themselves, with `strict=True`."""

import sys
import types

import numpy as np
import pytest

import resjax
from experiments.export import main
from tests.parity import twins
from tests.parity.random_state import to_nchw

torch = twins.torch
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("_meta_registrations"))
models = pytest.importorskip("torchvision", reason="parity is with torchvision: pip install 'resjax[parity]'").models
timm = pytest.importorskip("timm", reason="parity is with timm: pip install 'resjax[parity]'")
from safetensors.torch import load_file  # noqa: E402

SHORT = (1, 1, 1, 1)
# Of every family that they have a small member: our name and fields, and theirs.
NETWORKS = {
    "resnet, basic": (
        "resnet_18",
        {"stage_sizes": SHORT},
        lambda: models.ResNet(models.resnet.BasicBlock, SHORT, num_classes=5),
        lambda: timm.models.ResNet(timm.models.resnet.BasicBlock, SHORT, num_classes=5),
    ),
    "resnet, bottleneck": (
        "resnet_50",
        {"stage_sizes": SHORT},
        lambda: models.ResNet(models.resnet.Bottleneck, SHORT, num_classes=5),
        lambda: timm.models.ResNet(timm.models.resnet.Bottleneck, SHORT, num_classes=5),
    ),
    "resnext": (
        "resnext_50_4x8d",
        {"stage_sizes": SHORT},
        lambda: models.ResNet(models.resnet.Bottleneck, SHORT, num_classes=5, groups=4, width_per_group=8),
        lambda: timm.models.ResNet(timm.models.resnet.Bottleneck, SHORT, num_classes=5, cardinality=4, base_width=8),
    ),
    "wide_resnet": (
        "wrn_50_2",
        {"stage_sizes": SHORT},
        lambda: models.ResNet(models.resnet.Bottleneck, SHORT, num_classes=5, width_per_group=128),
        lambda: timm.models.ResNet(timm.models.resnet.Bottleneck, SHORT, num_classes=5, base_width=128),
    ),
    "densenet": (
        "densenet_121",
        {"stage_sizes": (2, 2, 1, 1), "growth_rate": 8, "stem_width": 16},
        lambda: models.DenseNet(8, (2, 2, 1, 1), 16, num_classes=5),
        lambda: timm.models.DenseNet(growth_rate=8, block_config=(2, 2, 1, 1), num_classes=5),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_their_networks_load_the_file_strictly_and_have_our_logits(name, tmp_path, capsys, draw_variables):
    ours, fields, *theirs = NETWORKS[name]
    model = resjax.create_model(ours, num_classes=5, **fields)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = draw_variables(model, images)
    about = {"mean": [120.0] * 3, "std": [60.0] * 3, "size": [64, 64]}
    resjax.save_pretrained(tmp_path / "ours", model, variables, about)
    expected = np.asarray(model.apply(variables, images))
    for library, make in zip(("torchvision", "timm"), theirs, strict=True):
        file = tmp_path / f"{library}.safetensors"
        arguments = (tmp_path / "ours", "--to", "torch", "--names", library, "--output", file)
        assert main(list(map(str, arguments))) == 0, capsys.readouterr().err
        net = make().eval()
        net.load_state_dict(load_file(file), strict=True)
        with torch.no_grad():
            logits = net(to_nchw(images)).numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
