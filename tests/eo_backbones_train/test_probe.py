"""The probe in the loop: scikit-learn's neighbours on the encoder's features, and no trace left in the run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from eo_backbones.contract import unit_range
from eo_backbones.datasets import open_dataset
from eo_backbones.datasets.splits import seeded_split
from eo_backbones.datasets.synthetic_files import write_eurosat_rgb
from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.probe import Probe
from eo_backbones_train.pretraining.runlog import read_records
from support.synthetic_layouts import write_eurosat_ms
from support.tiny_run import TinyEncoder, build_tiny, tiny_options, tiny_recipe, write_store

CLASSES = ("Forest", "River", "SeaLake")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eurosat_ms(tmp_path_factory.mktemp("labelled"), per_class=10, classes=CLASSES)


def test_the_score_is_that_of_scikit_learn(labelled: Path) -> None:
    torch.manual_seed(0)
    encoder, data = TinyEncoder(), open_dataset("eurosat-ms", labelled)
    metrics = Probe(f"eurosat-ms={labelled}", spec=unit_range(), device=torch.device("cpu"))(encoder)
    transform = InputTransform(unit_range(), band="B08", unit="dn")
    images = torch.stack(
        [transform(torch.from_numpy(data.read(i, ["B08"]).astype(np.int32))) for i in range(len(data))]
    )
    features = encoder.eval()(images).detach().numpy()
    split = seeded_split(data.labels, seed=0)
    scaled = StandardScaler().fit(features[split.train]).transform(features)
    known = np.concatenate([split.train, split.val])
    model = KNeighborsClassifier(5, metric="cosine").fit(scaled[known], data.labels[known])
    expected = f1_score(data.labels[split.test], model.predict(scaled[split.test]), average="weighted")
    assert metrics["probe_f1_B08"] == pytest.approx(expected)
    assert len(metrics) == 11  # the paper's ten bands and their mean
    assert metrics["probe_f1"] == pytest.approx(np.mean([value for name, value in metrics.items() if "_B" in name]))


def test_looking_changes_nothing_in_the_run(labelled: Path, tmp_path: Path) -> None:
    store, recipe = write_store(tmp_path / "data"), tiny_recipe(epochs=4)
    plain = train(recipe, tiny_options(store, tmp_path / "plain"), build=build_tiny)
    options = tiny_options(store, tmp_path / "probed", probe_data=f"eurosat-ms={labelled}", probe_epochs=2)
    probed = train(recipe, options, build=build_tiny)
    digests = [(run / "result.json").read_text().partition('"weights_digest"')[2] for run in (plain, probed)]
    assert digests[0] == digests[1]
    looks = [record for record in read_records(probed / "metrics.jsonl") if "probe_f1" in record]
    assert [(look["step"], look["epoch"]) for look in looks] == [(4, 2.0), (8, 4.0)]
    assert all(0 <= look["probe_f1"] <= 1 for look in looks)


def test_the_encoder_stays_in_training_mode(labelled: Path) -> None:
    encoder = TinyEncoder().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    Probe(f"eurosat-ms={labelled}", spec=unit_range(), device=torch.device("cpu"))(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("source", "message"),
    [("/data", "write KIND=DIR, with KIND one of eurosat-ms"), ("eurosad-ms=/data", "unknown data set 'eurosad-ms'")],
)
def test_a_wrong_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Probe(source, spec=unit_range(), device=torch.device("cpu"))


def test_data_without_a_band_of_the_recipe_is_refused(tmp_path: Path) -> None:
    root = write_eurosat_rgb(tmp_path, per_class=3, classes=CLASSES)
    with pytest.raises(UserError, match="has the bands B04, B03, B02, the recipe uses none of them"):
        Probe(f"eurosat-rgb={root}", spec=unit_range(["B08", "VV"]), device=torch.device("cpu"))
