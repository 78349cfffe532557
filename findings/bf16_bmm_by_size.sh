#!/bin/sh
# Batched matrix products in bfloat16 against float32, by size: PyTorch 2.13.0 on one core of a processor with
# AVX512-BF16. Needs Python 3.11 or later and a network for pip; about half a minute after that.
#
# Guess, written before the run: the instruction has twice the multiplications of float32's, so twice as fast for
# large products, and less for small ones, where packing weighs; elementwise operations gain as well, because they
# move half the bytes.
#
# Found (qualitatively; the thresholds below): products of 64 x 64 and more are about twice as fast, and *more* than
# twice where the batch is large; but elementwise ReLU on bfloat16 is slower than on float32 although it moves half
# the bytes, and the same operation on the bits, viewed as int16, is several times faster again; and a weight that is
# a view with gaps between its matrices costs a copy at every bfloat16 product, none at a float32 one.
#
# Exits with 0 while all of this holds, with 1 when it no longer does, with 2 where it cannot be seen.
set -eu
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install -q torch==2.13.0 numpy
OMP_NUM_THREADS=1 "$venv/bin/python" - <<'PYTHON'
import statistics
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)
if not (torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")):
    print("this processor has no bfloat16 products")
    sys.exit(2)


def ratio(slow, fast, rounds=25):
    """CPU time of `slow` over that of `fast`, taking turns, the median."""
    found = []
    for _ in range(rounds):
        spent = []
        for work in (slow, fast):
            work()
            began = time.thread_time_ns()
            for _ in range(5):
                work()
            spent.append(time.thread_time_ns() - began)
        found.append(spent[0] / spent[1])
    return statistics.median(found)


def copies(work):
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        work()
    return sum(e.count for e in trace.key_averages() if e.key == "aten::copy_")


wrong = []


def hold(name, value, true):
    print(f"{name:<62}{value:6.2f}" + ("" if true else "   no longer"))
    if not true:
        wrong.append(name)


for slots, n, width in ((40, 128, 32), (40, 128, 64), (20, 256, 128), (16, 256, 256)):
    x, w = torch.randn(slots, n, width), torch.randn(slots, width, width)
    x16, w16 = x.bfloat16(), w.bfloat16()
    value = ratio(lambda: torch.bmm(x, w), lambda: torch.bmm(x16, w16))
    hold(f"product, {slots} x ({n} x {width}) ({width} x {width}): float32 / bfloat16", value, width < 64 or value > 1.4)
x, x16 = torch.randn(20, 256, 128), torch.randn(20, 256, 128).bfloat16()
bits = x16.view(torch.int16)
value = ratio(lambda: x16.clamp_min_(0), lambda: x.clamp_min_(0))
hold("ReLU: bfloat16 / float32", value, value > 1.1)
value = ratio(lambda: x16.clamp_min_(0), lambda: bits.clamp_min_(0))
hold("ReLU: bfloat16 / its bits as int16", value, value > 2.0)
gaps = torch.randn(20, 128 * 128 + 64)[:, : 128 * 128].view(20, 128, 128)
gaps16 = torch.randn(20, 128 * 128 + 64).bfloat16()[:, : 128 * 128].view(20, 128, 128)
value = copies(lambda: torch.bmm(x16, gaps16)) - copies(lambda: torch.bmm(x, gaps))
hold("more copies of a weight with gaps, bfloat16 minus float32", value, value >= 1)
sys.exit(1 if wrong else 0)
PYTHON
