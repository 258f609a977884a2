"""What is known of the ResNets and ResNeXts. Weights and their figures: https://docs.pytorch.org/vision/stable/models.html."""

from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import resnet
from deploykit.models.layouts import PYTORCH, TORCHVISION, Conventions
from deploykit.models.published import TorchvisionFile

# With 1000 classes.
_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
}
_WEIGHTS = {
    "resnet18": [TorchvisionFile("IMAGENET1K_V1", "resnet18-f37072fd.pth", 224, 256, "bilinear", 69.758)],
    "resnet34": [TorchvisionFile("IMAGENET1K_V1", "resnet34-b627a593.pth", 224, 256, "bilinear", 73.314)],
    "resnet50": [
        TorchvisionFile("IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 224, 232, "bilinear", 80.858),
        TorchvisionFile("IMAGENET1K_V1", "resnet50-0676ba61.pth", 224, 256, "bilinear", 76.130),
    ],
    "resnet101": [
        TorchvisionFile("IMAGENET1K_V2", "resnet101-cd907fc2.pth", 224, 232, "bilinear", 81.886),
        TorchvisionFile("IMAGENET1K_V1", "resnet101-63fe2227.pth", 224, 256, "bilinear", 77.374),
    ],
    "resnet152": [
        TorchvisionFile("IMAGENET1K_V2", "resnet152-f82ba261.pth", 224, 232, "bilinear", 82.284),
        TorchvisionFile("IMAGENET1K_V1", "resnet152-394f9c45.pth", 224, 256, "bilinear", 78.312),
    ],
    "resnext50_32x4d": [
        TorchvisionFile("IMAGENET1K_V2", "resnext50_32x4d-1a0047aa.pth", 224, 232, "bilinear", 81.198),
        TorchvisionFile("IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth", 224, 256, "bilinear", 77.618),
    ],
    "resnext101_32x8d": [
        TorchvisionFile("IMAGENET1K_V2", "resnext101_32x8d-110c445d.pth", 224, 232, "bilinear", 82.834),
        TorchvisionFile("IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5.pth", 224, 256, "bilinear", 79.312),
    ],
}
_RESNET = ("He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, CVPR 2016", "https://arxiv.org/abs/1512.03385")
_RESNEXT = (
    "Xie, Girshick, Dollar, Tu & He, Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017",
    "https://arxiv.org/abs/1611.05431",
)


def _build(variant: resnet.Variant, num_classes: int, _conventions: Conventions) -> nn.Module:
    return resnet.ResNet(variant, num_classes)  # everything published here pads and normalizes as PyTorch does


def _entry(name: str, variant: resnet.Variant) -> ModelEntry:
    weights = tuple(file.published() for file in _WEIGHTS[name])
    is_resnext = variant.cardinality > 1
    paper, paper_url = _RESNEXT if is_resnext else _RESNET
    return ModelEntry(
        name=name,
        family="resnext" if is_resnext else "resnet",
        paper=paper,
        paper_url=paper_url,
        build=partial(_build, variant),
        parameters=_PARAMETERS[name],
        cam_layer="layer4",
        head="fc",
        conventions=PYTORCH,
        layouts=(TORCHVISION,),
        image=weights[0].image,
        weights=weights,
    )


ENTRIES = tuple(_entry(name, variant) for name, variant in resnet.VARIANTS.items())
