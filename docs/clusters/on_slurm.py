"""Embed a region on a Slurm cluster: the scheduler runs in this process, the workers in jobs that it submits.

    pip install "eo-backbones[scale]" dask-jobqueue
    python on_slurm.py SCENES REGION            run it on a node that can submit jobs and may run for long
    python on_slurm.py --job-script             only show the job that will be submitted

Scenes, REGION and the environment must be on a disk that all nodes share. Jobs that end at their time limit cost the
blocks that they were computing; new ones take their place.
"""

import sys
from pathlib import Path

from dask_jobqueue import SLURMCluster


def make_cluster() -> SLURMCluster:
    """Return a cluster without jobs yet: eight workers of one thread in each."""
    return SLURMCluster(
        queue="general",
        cores=8,
        processes=8,
        memory="16GB",
        walltime="02:00:00",
        job_script_prologue=["source .venv/bin/activate"],
        worker_extra_args=["--lifetime", "110m", "--lifetime-stagger", "5m"],  # end before Slurm ends the job
    )


def main(scenes: str, region: str) -> None:
    """Embed the scenes on 2 to 20 jobs, as many as there is work for."""
    from dask.distributed import Client  # noqa: PLC0415 -- not needed to show the job

    from eo_backbones.progress import ProgressBars  # noqa: PLC0415
    from eo_backbones.regions import RegionRequest, embed_region  # noqa: PLC0415

    request = RegionRequest(
        scenes=(scenes,),
        model="eo_efficientnet_lite0.distill_s1s2_mini",
        bands=("B04", "B03", "B02"),
        components=16,
        out=Path(region),
    )
    with make_cluster() as cluster, Client(cluster) as client, ProgressBars() as progress:
        cluster.adapt(minimum_jobs=2, maximum_jobs=20)
        made = embed_region(request, scheduler=client, progress=progress)
    print(made.to_dict())


if __name__ == "__main__":
    if sys.argv[1:] == ["--job-script"]:
        with make_cluster() as shown:
            print(shown.job_script())
    else:
        main(*sys.argv[1:])
