"""Data sets of a few tiny pictures, in the layouts that are published."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIZE = (40, 60)  # rows, columns


def write_image(path, size=SIZE, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)


def write_mask(path, size=SIZE, value=255, mode="L"):
    """A mask whose first two rows are defective."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[:2] = value
    Image.fromarray(pixels).convert(mode).save(path)


def write_mvtec_category(folder, *, defects=("crack", "hole"), masks=True, num_good=5):
    """Good images to learn from, two good ones to inspect, and two of each defect."""
    for number in range(num_good):
        write_image(folder / "train/good" / f"{number:03d}.png", value=number)
    for number in range(2):
        write_image(folder / "test/good" / f"{number:03d}.png", value=100 + number)
        for kind, defect in enumerate(defects):
            name = f"{number:03d}"
            write_image(folder / "test" / defect / f"{name}.png", value=150 + 10 * kind + number)
            if masks:
                write_mask(folder / "ground_truth" / defect / f"{name}_mask.png")
    return folder


def write_visa(root, names=("candle", "pcb1"), num_train=4):
    """Objects with their split; its lines are in no order, as in the official one."""
    lines = []
    for value, name in enumerate(names):
        images, masks = f"{name}/Data/Images", f"{name}/Data/Masks/Anomaly"
        for number in range(num_train + 2):
            file = f"{images}/Normal/{number:04d}.JPG"
            write_image(root / file, value=10 * value + number)
            split = "train" if number < num_train else "test"
            lines.append(f"{name},{split},normal,{file},")
        for number in range(2):
            image, mask = f"{images}/Anomaly/{number:03d}.JPG", f"{masks}/{number:03d}.png"
            write_image(root / image, value=200 + number)
            write_mask(root / mask, value=1 + number)
            lines.append(f"{name},test,anomaly,{image},{mask}")
    (root / "split_csv").mkdir()
    write_split(root, lines[::-1])
    return root


def write_split(root, lines, head="object,split,label,image,mask"):
    (root / "split_csv/1cls.csv").write_text("\n".join([head, *lines]) + "\n")


def read_split(root):
    return (root / "split_csv/1cls.csv").read_text().splitlines()[1:]
