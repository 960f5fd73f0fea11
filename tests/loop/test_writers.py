"""The writers of a run: services that are stand-ins, and those that are installed, without a network."""

import importlib.util
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tiny
from launch import ROOT

from ssd_jax.loop.fields import complete
from ssd_jax.loop.log import Log
from ssd_jax.loop.train import train
from ssd_jax.loop.writers import SERVICES, WRITERS, check_writers

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
CONFIG = {"steps": 9, "data": {"train": "train"}}
IMAGE = np.full((8, 8, 3), 7, np.uint8)


class Service:
    """What a stand-in has received: {step: {name: value}} and {step: names of images}, by the id of a run."""

    def __init__(self):
        self.numbers, self.pictures, self.settings, self.closed, self.begun = {}, {}, {}, 0, []
        self.broken = False

    def begin(self, run_id, settings):
        self.begun.append(run_id)
        self.settings.setdefault(run_id, settings)
        for part in (self.numbers, self.pictures):
            part.setdefault(run_id, {})

    def take(self, run_id, step, values):
        if self.broken:
            raise RuntimeError("the server is gone\nTraceback and so on")
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                self.pictures[run_id].setdefault(step, []).append(name)
            else:
                self.numbers[run_id].setdefault(step, {})[name] = value

    def close(self):
        self.closed += 1


def fake_wandb(service):
    class Run:
        def __init__(self, run_id):
            self.id = run_id

        def define_metric(self, name, step_metric=None):
            assert (name, step_metric) in (("step", None), ("*", "step"))

        def log(self, values):
            service.take(self.id, values["step"], {name: value for name, value in values.items() if name != "step"})

        def finish(self):
            service.close()

    def init(*, project, id, name, dir, config, resume, settings):
        assert (project, resume, settings) == ("ssd_jax", "allow", {"console": "off"})
        service.begin(id, config)
        return Run(id)

    return {"wandb": types.SimpleNamespace(init=init, Image=lambda image: image, Settings=dict)}


def fake_mlflow(service):
    class Client:
        def get_experiment_by_name(self, name):
            return None if not service.begun else types.SimpleNamespace(experiment_id="e")

        def create_experiment(self, name):
            assert name == "ssd_jax"
            return "e"

        def create_run(self, experiment, run_name):
            run_id = f"run-{len(service.begun)}"
            service.begin(run_id, {})
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

        def update_run(self, run_id, status):
            assert status == "RUNNING"
            service.begin(run_id, {})

        def log_param(self, run_id, name, value):
            service.settings[run_id][name] = value

        def log_batch(self, run_id, metrics):
            for name, value, _, step in metrics:
                service.take(run_id, step, {name: value})

        def log_image(self, run_id, image, artifact_file):
            folder, step, name = artifact_file.split("/")
            service.take(run_id, int(step), {f"{folder}/{name.removesuffix('.png')}": image})

        def set_terminated(self, run_id):
            service.close()

    metric = types.SimpleNamespace(Metric=lambda *values: values)
    return {"mlflow": types.SimpleNamespace(MlflowClient=Client), "mlflow.entities": metric}


def fake_trackio(service):
    class Run:
        def __init__(self, name):
            self.name = name

        def log(self, values, step):
            service.take(self.name, step, values)

        def finish(self):
            service.close()

    def init(*, project, name, config, resume):
        assert (project, resume) == ("ssd_jax", "allow")
        service.begin(name, config)
        return Run(name)

    return {"trackio": types.SimpleNamespace(init=init, Image=lambda image: image)}


FAKES = {"wandb": fake_wandb, "mlflow": fake_mlflow, "trackio": fake_trackio}


@pytest.fixture
def service(request, monkeypatch):
    """Put a stand-in in the place of the service that the test names."""
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    service = Service()
    for module, fake in FAKES[request.param](service).items():
        monkeypatch.setitem(sys.modules, module, fake)
    return service


def both(names):
    return pytest.mark.parametrize(("service", "name"), [(name, name) for name in names], indirect=["service"])


@both(FAKES)
def test_a_service_gets_what_tensorboard_gets_and_a_resumed_run_goes_on(service, name, tmp_path):
    writers = ("tensorboard", name)
    with Log(tmp_path, start_step=0, steps=9, writers=writers, config=CONFIG) as log:
        log.scalars(2, {"loss": 2.5})
        log.scalars(4, {"loss": 1.5, "eval/mAP": 0.25})
        log.images(4, {"image-1": IMAGE})
    with Log(tmp_path, start_step=2, steps=9, writers=writers, config=CONFIG) as log:
        log.scalars(4, {"loss": 1.25})
    (run_id,) = set(service.begun)
    assert len(service.begun) == 2 and service.closed == 2
    assert service.numbers[run_id] == {2: {"loss": 2.5}, 4: {"loss": 1.25, "eval/mAP": 0.25}}
    assert service.pictures[run_id] == {4: ["detections/image-1"]}
    settings = service.settings[run_id]
    assert settings == CONFIG if name == "wandb" else settings["data.train"] == "train"
    assert b"eval/mAP" in b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())


@both(FAKES)
def test_a_service_that_fails_is_named_once_and_the_run_goes_on(service, name, tmp_path, caplog):
    with Log(tmp_path, start_step=0, steps=9, writers=(name,), config=CONFIG) as log:
        log.scalars(1, {"loss": 2.5})
        service.broken = True
        log.scalars(2, {"loss": 1.5})
        log.scalars(3, {"loss": 0.5})
        log.images(3, {"image-1": IMAGE})
    assert caplog.messages == [f"log.writers: {name} gets nothing more of this run: the server is gone"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert [list(steps) for steps in service.numbers.values()] == [[1]]
    assert not (tmp_path / "tensorboard").exists()


@both(FAKES)
def test_a_service_that_refuses_the_run_is_one_line(service, name, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no login\nlong explanation")

    module = sys.modules[name]
    monkeypatch.setattr(module, "MlflowClient" if name == "mlflow" else "init", refuse)
    with pytest.raises(ValueError, match=f"^log.writers: {name} must be able to begin the run; got no login$"):
        Log(tmp_path, start_step=0, steps=9, writers=("tensorboard", name), config=CONFIG)


@both(["trackio"])
def test_a_run_logs_to_the_writers_of_its_config(service, name, data, tmp_path):
    train(tiny.config(data, steps=3, **{"log.writers": (name,)}), tmp_path)
    (steps,) = service.numbers.values()
    assert {"loss", "learning_rate", "eval/loss", "eval/mAP", "eval/F1", "eval/AP50"} <= steps[3].keys()
    assert [len(names) for names in service.pictures[service.begun[0]].values()] == [4]
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / "metrics.jsonl").exists()


def test_a_writer_that_is_missing_or_unknown_is_refused_before_anything_is_written(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^log.writers must be among tensorboard, wandb, .*; got 'tensorbord'$"):
        train(tiny.config(data, **{"log.writers": ("tensorbord",)}), tmp_path / "run")
    for name in SERVICES:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
        with pytest.raises(ValueError, match=f"{name} must be installed: pip install 'ssd_jax\\[{name}\\]'"):
            train(tiny.config(data, **{"log.writers": (name,)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_writers(["tensorboard"])
    check_writers([])


def test_a_config_of_an_older_version_writes_for_tensorboard(data):
    config = tiny.config(data).unlock()
    del config["log"]
    assert complete(config).log.writers == ("tensorboard",)


# ------------------------------------------------------------------------------------------ the real services

WRITE = f"""
import sys, pathlib
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from ssd_jax.loop.log import Log
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
for start in (0, 1):
    with Log(folder, start_step=start, steps=3, writers=(name,), config={CONFIG!r}) as log:
        log.scalars(start + 1, {{"loss": 2.5 - start, "eval/mAP": float("nan")}})
        log.images(start + 1, {{"image-1": np.zeros((8, 8, 3), np.uint8)}})
"""
READ = {
    "mlflow": """
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("ssd_jax").experiment_id])
print(run.info.run_name, [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")])
print(run.data.params["data.train"], [f.path for f in client.list_artifacts(run.info.run_id, "detections")])
""",
    "trackio": """
import trackio
(run,) = trackio.Api().runs("ssd_jax")
from trackio.sqlite_storage import SQLiteStorage
rows = SQLiteStorage.get_logs("ssd_jax", run.name)
print(run.name.rpartition("-")[0], [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None])
""",
}


@pytest.mark.parametrize("name", SERVICES)
def test_the_real_service_takes_a_run_without_a_network(name, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: the extra [{name}]")
    folder = tmp_path / "my run"
    folder.mkdir()
    environment = os.environ | {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "gets nothing more" not in done.stderr
        return done.stdout

    run("-c", WRITE, folder, name)
    assert list((folder / "metrics.jsonl").read_text().splitlines())
    if name == "wandb":
        files = list((folder / "wandb").rglob("*.wandb"))
        assert files and all(file.stat().st_size > 0 for file in files)
        return
    lines = run("-c", READ[name]).strip().splitlines()
    assert "my run [(1, 2.5), (2, 1.5)]" in lines
    if name == "mlflow":
        assert lines[-1] == "train ['detections/00000001', 'detections/00000002']"


def test_every_writer_is_in_the_docs():
    text = (ROOT / "docs" / "training.md").read_text()
    assert all(f"`{name}`" in text or f'"{name}"' in text for name in WRITERS)
