"""``import eo_backbones`` reads its own row data and registers names in timm, and does nothing else."""

import json
from pathlib import Path

from eo_backbones.weights import PUBLISHED_FOLDER, WEIGHTS
from support.hub_fixtures import RunPython

CODE = """
import json, logging, os, sys, warnings
import timm, torch

before = set(timm.list_models(include_tags=True))
import eo_backbones
registered = set(timm.list_models(include_tags=True)) - before

# again, with every other package loaded: only what this package itself does is left
for name in [name for name in sys.modules if name.partition(".")[0] == "eo_backbones"]:
    del sys.modules[name]
events = []
sys.addaudithook(lambda event, arguments: events.append((event, str(arguments[0]) if arguments else "")))

def state():
    loggers = [logging.getLogger(), *(each for each in logging.Logger.manager.loggerDict.values() if
               isinstance(each, logging.Logger) and not each.name.startswith("eo_backbones"))]
    return {
        "filters": list(map(str, warnings.filters)),
        "loggers": [(each.name, each.level, list(map(str, each.handlers))) for each in loggers],
        "environment": dict(os.environ),
        "torch": [str(torch.get_default_dtype()), torch.get_num_threads(), torch.backends.cudnn.deterministic,
                  torch.backends.cudnn.benchmark, torch.is_grad_enabled(), torch.get_rng_state().sum().item()],
    }

first = state()
import eo_backbones
second = state()
own = [(each.name, each.level, len(each.handlers)) for each in logging.Logger.manager.loggerDict.values()
       if isinstance(each, logging.Logger) and each.name.startswith("eo_backbones")]
print(json.dumps({
    "registered": sorted(registered),
    "changed": [key for key in first if first[key] != second[key]],
    "own_loggers": own,
    "events": sorted({event for event, _ in events if event.partition(".")[0] in ("socket", "subprocess", "os")}),
    "read": sorted({path for event, path in events if event == "open" and not path.endswith((".py", ".pyc"))}),
}))
"""


def test_importing_reads_row_data_registers_names_and_does_nothing_else(run_python: RunPython) -> None:
    done = run_python(CODE)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["registered"] == sorted(WEIGHTS)
    assert {Path(path) for path in seen["read"]} == set(PUBLISHED_FOLDER.glob("*.json"))
    assert seen["changed"] == []
    assert all((level, handlers) == (0, 0) for _, level, handlers in seen["own_loggers"])
    assert set(seen["events"]) <= {"os.listdir", "os.scandir"}  # where the import system looks for modules
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
