"""Imports torchvision also where torch is a CPU build.

torchvision's wheel on PyPI is compiled against the CUDA build of torch. With a CPU build its C++
operators do not load, and ``import torchvision`` fails with "operator torchvision::nms does not
exist", because it registers shapes for operators that it expects to exist. Defining the two schemas,
once the import has shown that they are missing, lets it pass. netsieve uses torchvision's datasets,
never these operators (non-maximum suppression of boxes); calling one would still fail.
"""

import importlib
from types import ModuleType


def import_datasets() -> ModuleType:
    """``torchvision.datasets``."""
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch  # noqa: PLC0415  # torchvision has imported it by now

    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.datasets")
