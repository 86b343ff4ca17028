"""Embed a region on Kubernetes: scheduler and workers are pods that Dask's operator starts.

    pip install "eo-backbones[scale]" dask-kubernetes
    python on_kubernetes.py SCENES REGION       run it in a pod that has the same volume
    python on_kubernetes.py --spec              only show what will be created

The image must hold this package with the same versions as this process. Scenes and REGION are below /data on a volume
that many pods can write (ReadWriteMany), the claim "regions".
"""

import json
import sys
from pathlib import Path
from typing import Any

from dask_kubernetes.operator import KubeCluster, make_cluster_spec

VOLUME = {"name": "data", "persistentVolumeClaim": {"claimName": "regions"}}
MOUNT = {"name": "data", "mountPath": "/data"}


def make_spec() -> dict[str, Any]:
    """Return the specification: eight workers with four cores, each with four tasks at a time."""
    spec: dict[str, Any] = make_cluster_spec(
        name="embed-region",
        image="registry.example.com/eo-backbones:latest",
        n_workers=8,
        resources={"requests": {"cpu": "4", "memory": "6Gi"}, "limits": {"cpu": "4", "memory": "6Gi"}},
        env={"OMP_NUM_THREADS": "1"},  # a task computes with one thread
    )
    pod = spec["spec"]["worker"]["spec"]
    pod["volumes"] = [VOLUME]
    pod["containers"][0]["volumeMounts"] = [MOUNT]
    return spec


def main(scenes: str, region: str) -> None:
    """Embed the scenes."""
    from dask.distributed import Client  # noqa: PLC0415 -- not needed to show the specification

    from eo_backbones.progress import ProgressBars  # noqa: PLC0415
    from eo_backbones.regions import RegionRequest, embed_region  # noqa: PLC0415

    request = RegionRequest(
        scenes=(scenes,),
        model="eo_efficientnet_lite0.distill_s1s2_mini",
        bands=("B04", "B03", "B02"),
        components=16,
        out=Path(region),
    )
    with (
        KubeCluster(custom_cluster_spec=make_spec()) as cluster,
        Client(cluster) as client,
        ProgressBars() as progress,
    ):
        made = embed_region(request, scheduler=client, progress=progress)
    print(made.to_dict())


if __name__ == "__main__":
    if sys.argv[1:] == ["--spec"]:
        print(json.dumps(make_spec(), indent=2))
    else:
        main(*sys.argv[1:])
