"""What Dask's setting for the C library's memory costs an encoder on the CPU.

    python benchmarks/allocator.py [--architecture efficientnet_lite0] [--batches 4]

Runs batches of 256 windows of 64 pixels in two processes of one thread: as they are, and with
``MALLOC_TRIM_THRESHOLD_=65536``, which Dask's nanny sets. Prints CPU time in the program and in the system, and page
faults.
"""

import argparse
import os
import resource
import subprocess
import sys

import timm
import torch

from eo_backbones.device import fast_dtype, inference


def main() -> None:
    """Measure in two processes, or in this one if it is one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="efficientnet_lite0", help="a name of timm")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--here", action="store_true", help="measure in this process, as it was started")
    options = parser.parse_args()
    if options.here:
        measure(options.architecture, options.batches)
        return
    for setting in ({}, {"MALLOC_TRIM_THRESHOLD_": "65536"}):
        print(setting or "as it is", flush=True)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--here"], env=os.environ | setting, check=True)


def measure(architecture: str, batches: int) -> None:
    """Print what the batches took."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    network = timm.create_model(architecture, in_chans=1, num_classes=0).eval().to(memory_format=torch.channels_last)
    images = torch.randn(256, 1, 64, 64)
    with inference(device, fast_dtype(device)):
        network(images)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(batches):
            network(images)
        after = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"  program {after.ru_utime - before.ru_utime:.2f} s, system {after.ru_stime - before.ru_stime:.2f} s, "
        f"{after.ru_minflt - before.ru_minflt:,} page faults"
    )


if __name__ == "__main__":
    main()
