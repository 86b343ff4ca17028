"""Embed a region on machines that Coiled starts in your cloud account.

    pip install "eo-backbones[scale]" coiled && coiled login
    python on_coiled.py SCENES REGION

All machines see the bucket as the folder /mount/my-bucket. This process needs it under the same path: run it on a
machine of Coiled, or mount the bucket here (mountpoint-s3 and gcsfuse do). SCENES may also be addresses of a STAC API.
"""

import sys
from pathlib import Path

import coiled

from eo_backbones.progress import ProgressBars
from eo_backbones.regions import RegionRequest, embed_region


def main(scenes: str, region: str) -> None:
    """Embed the scenes on ten machines; Coiled installs the packages of this environment on them."""
    request = RegionRequest(
        scenes=(scenes,),
        model="eo_efficientnet_lite0.distill_s1s2_mini",
        bands=("B04", "B03", "B02"),
        components=16,
        out=Path(region),
    )
    with (
        coiled.Cluster(n_workers=10, worker_cpu=4, mount_bucket="s3://my-bucket") as cluster,
        cluster.get_client() as client,
        ProgressBars() as progress,
    ):
        made = embed_region(request, scheduler=client, progress=progress)
    print(made.to_dict())


if __name__ == "__main__":
    main(*sys.argv[1:])
