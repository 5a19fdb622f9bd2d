#!/usr/bin/env bash
# PyTorch 2.11.0 (the `torch` wheel of PyPI, Linux x86-64, CPU)
#
# What conv2d makes of an image depends on how many others stand beside it in the batch, and on the number of threads: it
# chooses between oneDNN and a product of its own by the batch's size (a single image; with a 1x1 kernel and one thread
# fewer than 16), so the last bits of the same image with the same weights differ. Whoever batches images as they come,
# and wants the same bytes again, meets it. torch.mkldnn_convolution, oneDNN without that choice, gives an image the same
# bits in any batch. (ConvParams::use_mkldnn in aten/src/ATen/native/Convolution.cpp.)
#
# Seen (the image 0 of a batch of 64 against the same image in a batch of n; n where bits differ):
#   conv2d 1x1, 1 thread:              1 2 4 8 15
#   conv2d 1x1, 2 threads:             1
#   conv2d 3x3, 1 thread:              1
#   mkldnn_convolution, all of these:  none
#
# Needs python3 with venv, 3 GB of disk, and the network: a download of about 540 MB. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
# libtorch_cpu.so of this wheel links two small libraries of CUDA's; it needs no GPU.
venv/bin/pip install --quiet torch==2.11.0
cat > batches.py <<'PY'
import torch

plain = lambda x, w, b, pad: torch.conv2d(x, w, b, padding=pad)
onednn = lambda x, w, b, pad: torch.mkldnn_convolution(x, w, b, [pad, pad], [1, 1], [1, 1], 1)


def differing(convolve, kernel, threads):
    torch.set_num_threads(threads)
    random = torch.Generator().manual_seed(1)
    x = torch.randn(64, 64, 16, 16, generator=random)
    w, b = torch.randn(64, 64, kernel, kernel, generator=random), torch.randn(64, generator=random)
    whole = convolve(x, w, b, kernel // 2)[0]
    return [n for n in (1, 2, 4, 8, 15, 16, 32) if not torch.equal(convolve(x[:n].contiguous(), w, b, kernel // 2)[0], whole)]


seen = {"conv2d 1x1, 1 thread": differing(plain, 1, 1), "conv2d 1x1, 2 threads": differing(plain, 1, 2),
        "conv2d 3x3, 1 thread": differing(plain, 3, 1),
        "mkldnn_convolution": [n for kernel in (1, 3) for threads in (1, 2) for n in differing(onednn, kernel, threads)]}
for what, batches in seen.items():
    print(f"{what}: {' '.join(map(str, batches)) or 'none'}")
raise SystemExit(not (seen["conv2d 1x1, 1 thread"] == [1, 2, 4, 8, 15] and 1 in seen["conv2d 3x3, 1 thread"] and
                      not seen["mkldnn_convolution"]))
PY
venv/bin/python batches.py
