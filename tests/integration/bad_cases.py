"""The tables of bad uploads: what is sent, the code that must come of it, what the detail must say."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from core.networks.architectures import build
from tests.integration import bad_files as files

RESNET = {"architecture": "cifar/resnet8", "input_shape": "1,8,8"}


class Sources:
    """The good files that the bad ones are made from; `traps` is where a program that ran leaves its mark."""

    def __init__(self, traps: Path) -> None:
        self.traps = traps
        self.state = dict(small_network().state_dict())
        self.good = files.saved(self.state)
        self.inner = files.zipped({"network.pt": self.good})
        self.tensors = safetensors.torch.save(dict(self.state))
        self.squeezenet = files.saved(build("torchvision/squeezenet1_1", num_classes=10).half().state_dict())
        self.nan = self.state["conv1.weight"].clone()
        self.nan[0, 0, 0, 0] = torch.nan

        self.x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
        self.y = np.arange(12) % 10
        self.npz = files.npz(x=self.x, y=self.y)
        self.trap = np.array([files.Trap(traps / "npz")] * 12, dtype=object)
        self.png = files.picture()


@dataclass(frozen=True)
class Case:
    """`says`: what the detail must hold, so that the reader knows where to look and what to do."""

    make: Callable[[Sources], bytes]
    code: str
    says: tuple[str, ...]
    fields: dict[str, str]
    at: str
    """`field` of the error."""


def _checkpoint(
    make: Callable[[Sources], bytes], code: str, *says: str, at: str = "file", fields: dict[str, str] = RESNET
) -> Case:
    return Case(make, code, says, fields, at)


def _dataset(
    make: Callable[[Sources], bytes], code: str, *says: str, at: str = "file", **fields: str
) -> Case:
    return Case(make, code, says, fields, at)


def small_network(num_classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return build("cifar/resnet8", num_classes=num_classes, in_channels=1)


def changed(state: files.State, **tensors: torch.Tensor | None) -> files.State:
    """`__` stands for a dot in names; None removes."""
    result = OrderedDict(state)
    for name, value in tensors.items():
        key = name.replace("__", ".")
        if value is None:
            del result[key]
        else:
            result[key] = value
    return result


NOT_RUN = ("was not loaded", "torch.save(network.state_dict()")

CHECKPOINTS: dict[str, Case] = {
    "truncated zip": _checkpoint(
        lambda s: s.good[: len(s.good) // 2], "truncated_file", "cut off", "Upload it again"
    ),
    "truncated by one byte": _checkpoint(
        lambda s: s.good[:-1], "truncated_file", "cut off", "Upload it again"
    ),
    "truncated legacy file": _checkpoint(
        lambda s: files.saved(s.state, _use_new_zipfile_serialization=False)[:100_000],
        "truncated_file",
        "again",
    ),
    "truncated safetensors": _checkpoint(
        lambda s: s.tensors[:-9], "truncated_file", "lies beyond its end", "again"
    ),
    "truncated to four bytes": _checkpoint(lambda s: b"\x80\x02\x8a\x0a", "truncated_file", "cut off"),
    "truncated in the middle": _checkpoint(
        lambda s: s.good[:5000] + s.good[9000:], "truncated_file", "damaged", "Upload it again"
    ),
    "code in a zip": _checkpoint(
        lambda s: files.trapped_checkpoint(s.state, s.traps / "zip"), "unsafe_pickle", "eval", *NOT_RUN
    ),
    "code in a legacy file": _checkpoint(
        lambda s: files.trapped_legacy_checkpoint(s.state, s.traps / "legacy"),
        "unsafe_pickle",
        "eval",
        *NOT_RUN,
    ),
    "code in a plain pickle": _checkpoint(
        lambda s: files.trapped_pickle(s.traps / "pickle"), "unsafe_pickle", "eval", *NOT_RUN
    ),
    "code in an old pickle": _checkpoint(
        lambda s: files.trapped_pickle(s.traps / "old-pickle", 0), "unsafe_pickle", "eval", *NOT_RUN
    ),
    "code in a later pickle": _checkpoint(
        lambda s: files.trapped_behind_tensors(s.state, s.traps / "behind"), "unsafe_pickle", "eval", *NOT_RUN
    ),
    "a whole model": _checkpoint(
        lambda s: files.saved(torch.nn.Sequential(torch.nn.Linear(2, 2))),
        "not_a_state_dict",
        "whole pickled model",
    ),
    "zip bomb": _checkpoint(
        lambda s: files.repacked(s.good, {"/data/0": bytes(24 << 20)}, zipfile.ZIP_DEFLATED),
        "archive_bomb",
        "25,165,824",
    ),
    "zip in a zip": _checkpoint(
        lambda s: files.zipped({"a.zip": s.inner}), "archive_bomb", "another archive", "contents"
    ),
    "stride bomb": _checkpoint(
        lambda s: files.saved({"conv1.weight": torch.zeros(1).expand(1 << 28)}),
        "archive_bomb",
        "1,073,741,824",
    ),
    "header bomb": _checkpoint(
        lambda s: (1 << 30).to_bytes(8, "little") + b"{" + bytes(99), "archive_bomb", "header"
    ),
    "wrong architecture": _checkpoint(
        lambda s: s.good,
        "missing_keys",
        "cifar/resnet20",
        "layer1.1.conv1.weight",
        "architecture=cifar/resnet8",
        fields={**RESNET, "architecture": "cifar/resnet20"},
        at="architecture",
    ),
    "another family": _checkpoint(
        lambda s: s.good,
        "missing_keys",
        "torchvision/resnet18",
        "architecture=cifar/resnet8",
        fields={"architecture": "torchvision/resnet18"},
        at="architecture",
    ),
    "missing keys": _checkpoint(
        lambda s: files.saved(changed(s.state, layer2__0__conv1__weight=None, linear__bias=None)),
        "missing_keys",
        "2 keys",
        "layer2.0.conv1.weight",
        "linear.bias",
        at="architecture",
    ),
    "unexpected keys": _checkpoint(
        lambda s: files.saved(changed(s.state, extra__weight=torch.zeros(3))),
        "unexpected_keys",
        "extra.weight",
        at="architecture",
    ),
    "another shape": _checkpoint(
        lambda s: files.saved(changed(s.state, layer1__0__conv1__weight=torch.zeros(16, 16, 5, 5))),
        "shape_mismatch",
        "layer1.0.conv1.weight is 16x16x5x5, should be 16x16x3x3",
        at="architecture",
    ),
    "NaN weights": _checkpoint(
        lambda s: files.saved(changed(s.state, conv1__weight=s.nan)),
        "non_finite_weights",
        "conv1.weight",
        "checkpoint",
    ),
    "infinite weights": _checkpoint(
        lambda s: files.saved(changed(s.state, linear__bias=torch.full((10,), torch.inf))),
        "non_finite_weights",
        "linear.bias",
    ),
    "negative variance": _checkpoint(
        lambda s: files.saved(changed(s.state, bn1__running_var=-s.state["bn1.running_var"])),
        "non_finite_weights",
        "bn1.running_var",
    ),
    "complex weights": _checkpoint(
        lambda s: files.saved(changed(s.state, linear__bias=torch.zeros(10, dtype=torch.complex64))),
        "unsupported_dtype",
        "float32",
    ),
    "no tensors": _checkpoint(
        lambda s: files.saved({"epoch": 3, "loss": 0.5}), "not_a_state_dict", "'epoch'", "torch.save"
    ),
    "a list": _checkpoint(lambda s: files.saved([torch.zeros(2)]), "not_a_state_dict", "list", "torch.save"),
    "an empty dict": _checkpoint(
        lambda s: files.saved({}), "not_a_state_dict", "an empty dictionary", "torch.save"
    ),
    "a pickled dict": _checkpoint(
        lambda s: pickle.dumps({"a": 1}, protocol=2), "not_a_state_dict", "torch.save"
    ),
    "TorchScript": _checkpoint(
        lambda s: files.torchscript(small_network()), "unsupported_format", "TorchScript"
    ),
    "ONNX": _checkpoint(lambda s: files.onnx_model(), "unsupported_format", "ONNX", "PyTorch checkpoint"),
    "a text": _checkpoint(
        lambda s: b"epoch,loss\n1,0.5\n" * 9, "unsupported_format", "text file", "torch.save"
    ),
    "a web page": _checkpoint(
        lambda s: b"<!doctype html><html>404</html>", "unsupported_format", "web page", "Download"
    ),
    "a gzip": _checkpoint(lambda s: gzip.compress(s.good), "unsupported_format", "gzip", "Unpack"),
    "a checkpoint in a zip": _checkpoint(
        lambda s: s.inner, "unsupported_format", "zip with checkpoints", "Unpack"
    ),
    "a dataset": _checkpoint(lambda s: files.npz(x=np.zeros(3)), "unsupported_format", ".npz"),
    "noise": _checkpoint(
        lambda s: np.random.default_rng(0).bytes(4096), "unsupported_format", "unknown format"
    ),
    "safetensors without JSON": _checkpoint(
        lambda s: files.safetensors_with_header(b"{" + b"\xff" * 30), "unsupported_format", "not JSON"
    ),
    "safetensors of one tensor too large": _checkpoint(
        lambda s: files.safetensors_with_header(
            b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}', bytes(16)
        ),
        "truncated_file",
        "a lies beyond its end",
    ),
    "wrong num_classes": _checkpoint(
        lambda s: s.squeezenet,
        "shape_mismatch",
        "10 outputs (classifier.1.weight)",
        "num_classes says 7",
        "leave it out",
        fields={"architecture": "torchvision/squeezenet1_1", "num_classes": "7"},
        at="num_classes",
    ),
    "channels that do not fit": _checkpoint(
        lambda s: s.good,
        "shape_mismatch",
        "conv1.weight is 16x1x3x3, should be 16x3x3x3",
        "input_shape",
        fields={**RESNET, "input_shape": "3,8,8"},
        at="architecture",
    ),
    "images too small": _checkpoint(
        lambda s: s.squeezenet,
        "invalid_input_shape",
        "input_shape 3,1,1",
        "trained with",
        fields={"architecture": "torchvision/squeezenet1_1", "input_shape": "3,1,1"},
        at="input_shape",
    ),
    "images too large": _checkpoint(
        lambda s: s.good,
        "invalid_input_shape",
        "1,4096,4096",
        "1024",
        fields={**RESNET, "input_shape": "1,4096,4096"},
        at="input_shape",
    ),
    "mean of other channels": _checkpoint(
        lambda s: s.good,
        "invalid_input_shape",
        "mean",
        fields={"architecture": "cifar/resnet8", "mean": "1,2"},
        at="mean",
    ),
}

DATASETS: dict[str, Case] = {
    "truncated npz": _dataset(lambda s: s.npz[:-40], "truncated_file", "Upload it again"),
    "damaged in the middle": _dataset(
        lambda s: s.npz.replace(s.x[6].tobytes(), bytes(64)), "truncated_file", "damaged", "Upload it again"
    ),
    "npz bomb": _dataset(lambda s: files.npz_bomb(24), "archive_bomb", "x.npy", "unpack"),
    "npz with code": _dataset(
        lambda s: files.npz(x=s.x, y=s.trap), "invalid_dataset", "y is an array of Python objects"
    ),
    "images with code": _dataset(
        lambda s: files.npz(x=s.trap, y=s.y), "invalid_dataset", "x is an array of Python objects"
    ),
    "no labels": _dataset(lambda s: files.npz(x=s.x), "invalid_dataset", "no array 'y'", "y (integer labels"),
    "other names": _dataset(
        lambda s: files.npz(images=s.x, labels=s.y), "invalid_dataset", "no array 'x'", "'images'"
    ),
    "floats": _dataset(
        lambda s: files.npz(x=s.x.astype(np.float32), y=s.y),
        "invalid_dataset_shape",
        "float32",
        "must be uint8",
    ),
    "flat images": _dataset(
        lambda s: files.npz(x=s.x.reshape(12, 64), y=s.y),
        "invalid_dataset_shape",
        "(12, 64)",
        "N x H x W x C",
    ),
    "channels first": _dataset(
        lambda s: files.npz(x=np.zeros((12, 3, 8, 8), np.uint8), y=s.y),
        "invalid_dataset_shape",
        "x.transpose(0, 2, 3, 1)",
    ),
    "no images": _dataset(
        lambda s: files.npz(x=s.x[:0], y=s.y[:0]), "invalid_dataset_shape", "(0, 8, 8, 1)", "N x H x W x C"
    ),
    "fewer labels": _dataset(
        lambda s: files.npz(x=s.x, y=s.y[:-1]), "invalid_dataset_shape", "(11,)", "must be (12,)"
    ),
    "one-hot labels": _dataset(
        lambda s: files.npz(x=s.x, y=np.eye(12, 10, dtype=int)),
        "invalid_dataset_shape",
        "(12, 10)",
        "must be (12,)",
    ),
    "labels of floats": _dataset(
        lambda s: files.npz(x=s.x, y=s.y + 0.5), "invalid_dataset_shape", "float64", "must be integers"
    ),
    "negative labels": _dataset(
        lambda s: files.npz(x=s.x, y=s.y - 1), "labels_out_of_range", "label -1", "begin at 0"
    ),
    "labels past the classes": _dataset(
        lambda s: files.npz(x=s.x, y=s.y), "labels_out_of_range", "label 9", "3 classes", classes="a,b,c"
    ),
    "huge labels": _dataset(lambda s: files.npz(x=s.x, y=s.y + 2**40), "labels_out_of_range", str(9 + 2**40)),
    "a lying header": _dataset(
        lambda s: files.zipped({"x.npy": files.npy_header((10**9, 8, 8, 1)) + bytes(64), "y.npy": bytes(9)}),
        "invalid_dataset_shape",
        "64,000,000,000",
    ),
    "a GIF": _dataset(lambda s: files.picture("GIF"), "invalid_dataset", "neither an .npz nor a zip or tar"),
    "a folder of GIFs": _dataset(
        lambda s: files.zipped({"0_cat/a.gif": files.picture("GIF")}), "invalid_dataset", "no images", ".png"
    ),
    "a GIF that is named PNG": _dataset(
        lambda s: files.zipped({"0_cat/a.png": files.picture("GIF")}), "invalid_dataset", "0_cat/a.png", "PNG"
    ),
    "a damaged image": _dataset(
        lambda s: files.zipped({"0_cat/a.png": s.png, "1_dog/b.png": s.png[:-30]}),
        "invalid_dataset",
        "1_dog/b.png",
    ),
    "images in no folder": _dataset(
        lambda s: files.zipped({"a.png": s.png}), "invalid_dataset", "a.png", "folder"
    ),
    "two sets": _dataset(
        lambda s: files.zipped({"train/0/a.png": s.png, "test/0/b.png": s.png}),
        "invalid_dataset",
        "test, train",
    ),
    "a folder that is no class": _dataset(
        lambda s: files.zipped({"cat/a.png": s.png, "cow/b.png": s.png}),
        "invalid_dataset",
        "cow",
        at="classes",
        classes="cat,dog",
    ),
    "a path out of the archive": _dataset(
        lambda s: files.tarred({"../0/a.png": s.png}), "invalid_dataset", "../0/a.png", "leaves it"
    ),
    "a truncated tar": _dataset(
        lambda s: files.tarred({"0/a.png": s.png, "1/b.png": s.png})[:1300],
        "truncated_file",
        "Upload it again",
    ),
    "a text": _dataset(lambda s: b"label,path\n" * 9, "invalid_dataset", "neither an .npz nor a zip or tar"),
    "a checkpoint": _dataset(
        lambda s: files.saved({"a": torch.zeros(2)}), "invalid_dataset", "no images", "one folder a class"
    ),
}
