"""Trains a small residual network on scikit-learn's handwritten digits, in seconds on a CPU.

    python examples/digits/train.py OUT_DIR

writes `digits.pt` (a state dict of `cifar/resnet32`), `digits_test.npz` (the held-back images,
`x` uint8 [N, H, W, 1] and `y` int64 [N]), and `digits.json` (what they are), and prints its top-1 on
them and how to hand both to zsq.
Nothing is downloaded: the 1,797 images come with scikit-learn (Alpaydin and Kaynak 1998, UCI).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from core.networks.architectures import build

ARCHITECTURE = "cifar/resnet32"
SIDE = 8  # pixels
# Of the training part's pixels, scaled to [0, 1].
MEAN, STD = 0.304, 0.375
SEED = 0


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [N, SIDE, SIDE, 1] and labels int64 [N] to train with, then the same to test with."""
    digits = load_digits()
    # Gray levels 0 to 16 onto 0..255.
    x_NHWC = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    x_train, x_test, y_train, y_test = train_test_split(
        x_NHWC, digits.target, test_size=0.4, stratify=digits.target, random_state=SEED
    )
    return x_train, y_train, x_test, y_test


def normalized(x_NHWC: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] as the network expects it."""
    return (torch.from_numpy(x_NHWC).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def shifted(x_NCHW: Tensor) -> Tensor:
    """The batch moved by up to a pixel in each direction; the rest is background."""
    dy, dx = torch.randint(0, 3, (2,)).tolist()
    padded = F.pad(x_NCHW, (1, 1, 1, 1), value=-MEAN / STD)
    return padded[:, :, dy : dy + SIDE, dx : dx + SIDE]


def train(epochs: int, batch: int = 32, peak_lr: float = 0.05) -> nn.Module:
    torch.manual_seed(SEED)
    x_train, y_train, _, _ = split()
    images, labels = normalized(x_train), torch.from_numpy(y_train)
    network = build(ARCHITECTURE, num_classes=10, in_channels=1).train()
    steps = epochs * math.ceil(len(images) / batch)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=peak_lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch):
            loss = F.cross_entropy(network(shifted(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: nn.Module, x_NHWC: np.ndarray, y: np.ndarray) -> tuple[int, int]:
    """How many images are recognized, of how many."""
    with torch.inference_mode():
        found = network(normalized(x_NHWC)).argmax(1)
    return int((found == torch.from_numpy(y)).sum()), len(y)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", default=Path(), help="folder to write to")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint, test_set = arguments.out / "digits.pt", arguments.out / "digits_test.npz"

    network = train(arguments.epochs)
    _, _, x_test, y_test = split()
    correct, total = accuracy(network, x_test, y_test)
    np.savez_compressed(test_set, x=x_test, y=y_test)
    torch.save(network.state_dict(), checkpoint)
    facts = {
        "architecture": ARCHITECTURE,
        "input_shape": [1, SIDE, SIDE],
        "mean": [MEAN],
        "std": [STD],
        "correct": correct,
        "total": total,
    }
    (arguments.out / "digits.json").write_text(json.dumps(facts, indent=2) + "\n")
    shape = f"1,{SIDE},{SIDE}"
    print(f"top-1 {100 * correct / total:.2f} % ({correct} of {total} held-back images), float32")
    print(f"wrote {checkpoint} and {test_set}\n\nQuantize it (make up runs the server):")
    print(
        f"  zsq quantize {checkpoint} --architecture {ARCHITECTURE} --input-shape {shape} "
        f"--mean {MEAN} --std {STD} --bits w4a4 --method zaq --dataset {test_set}"
    )
    print(
        f"or with curl:\n  curl -F file=@{checkpoint} -F architecture={ARCHITECTURE} -F input_shape={shape} "
        f"-F mean={MEAN} -F std={STD} http://127.0.0.1:8000/v1/checkpoints\n"
        f"  curl -F file=@{test_set} http://127.0.0.1:8000/v1/datasets"
    )


if __name__ == "__main__":
    main()
