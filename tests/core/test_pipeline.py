"""Whole jobs on a small network: what the report says is what the files do."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from PIL import Image

from core import pipeline
from core.context import Progress, RunContext
from core.errors import (
    ArchitectureError,
    Canceled,
    CheckpointError,
    DatasetError,
    DeadlineExceeded,
    HandedBack,
    SpecError,
)
from core.evaluate.report import json_schema
from core.export import onnxruntime_int8
from core.export.integer import IntegerStudent
from core.fake_quant.insert import build_student
from core.networks import architectures
from core.networks.graph import trace
from core.pipeline import CheckpointInput, DatasetInput, PipelineResult
from core.spec import (
    BitSpec,
    Budget,
    ExportConfig,
    FastConfig,
    GdfqConfig,
    LayerBits,
    MinMaxConfig,
    NetworkSpec,
    QuantizationSpec,
    ZaqConfig,
    ZeroqConfig,
)

SHAPE = (3, 16, 16)
IMAGES = 90
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NETWORK = NetworkSpec("cifar/resnet8", input_shape=SHAPE, mean=MEAN, std=STD)
TRAINED = QuantizationSpec(
    BitSpec(4, 4),
    ZaqConfig(preset="paper", budget=Budget(iterations=4), batch_size=8, student_steps=1, student_lr=0.01),
)
MINMAX = QuantizationSpec(BitSpec(4, 4), MinMaxConfig(images=16, iterations=2))
ZAQ = QuantizationSpec(
    BitSpec(3, 4, overrides={"layer1.*": LayerBits(weight=4)}),
    ZaqConfig(budget=Budget(iterations=2), batch_size=8, latent_dim=8, warmup_iterations=1),
    seed=7,
)
GDFQ = QuantizationSpec(
    BitSpec(4, 4),
    GdfqConfig(
        budget=Budget(iterations=2), batch_size=8, latent_dim=8, warmup_iterations=1, distilled_images=8
    ),
)
FAST = QuantizationSpec(BitSpec(3, 4), FastConfig(images=8, iterations=2))
ZEROQ = QuantizationSpec(BitSpec(6, 6), ZeroqConfig(images=16, iterations=2))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Job:
    """One run, with everything that it said on the way."""

    folder: Path
    checkpoint: CheckpointInput
    dataset: DatasetInput | None
    spec: QuantizationSpec
    news: list[Progress] = field(default_factory=list)

    def run(self, **options: Any) -> PipelineResult:
        output, scratch = self.folder / "output", self.folder / "scratch"
        output.mkdir(parents=True)
        scratch.mkdir()
        context = RunContext(
            scratch,
            seed=self.spec.seed,
            device=torch.device("cpu"),
            emit=self.news.append,
            interval=0.0,
            **options,
        )
        return pipeline.quantize(self.checkpoint, self.dataset, self.spec, output, context)

    @property
    def output(self) -> Path:
        return self.folder / "output"


@dataclass
class Done:
    job: Job
    result: PipelineResult

    @property
    def report(self) -> dict[str, Any]:
        return self.result.report


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Latency and the baseline take seconds, and are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_LATENCY_SECONDS", 0.0)
        patch.setattr(pipeline, "baseline_config", lambda shape: MinMaxConfig(images=16, iterations=2))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointInput:
    """A ResNet-8 whose statistics fit its weights, so that its classes differ from image to image."""
    torch.manual_seed(0)
    network = architectures.build("cifar/resnet8").train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(32, *SHAPE))
        network.linear.weight.mul_(4)  # type: ignore[union-attr, operator]
    path = tmp_path_factory.mktemp("checkpoint") / "resnet8.pt"
    torch.save(network.state_dict(), path)
    return CheckpointInput(path, sha256(path), NETWORK)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (IMAGES, *SHAPE[1:], 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def labels(checkpoint: CheckpointInput, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The network's own classes for two thirds of the images."""
    with torch.no_grad():
        found = network_of(checkpoint)(normalized(pixels)).argmax(1).numpy()
    return np.where(np.arange(IMAGES) % 3 == 0, (found + 1) % 10, found)


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> DatasetInput:
    path = tmp_path_factory.mktemp("dataset") / "test.npz"
    np.savez(path, x=pixels, y=labels)
    return DatasetInput(path, sha256(path), None)


@pytest.fixture(scope="module")
def minmax(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: CheckpointInput, dataset: DatasetInput
) -> Done:
    job = Job(tmp_path_factory.mktemp("minmax"), checkpoint, dataset, MINMAX)
    return Done(job, job.run())


@pytest.fixture(scope="module")
def zaq(tmp_path_factory: pytest.TempPathFactory, checkpoint: CheckpointInput, dataset: DatasetInput) -> Done:
    job = Job(tmp_path_factory.mktemp("zaq"), checkpoint, dataset, ZAQ)
    return Done(job, job.run())


def without_a_set(spec: QuantizationSpec) -> Any:
    """A fixture: the job done for the checkpoint alone."""

    @pytest.fixture(scope="module")
    def done(tmp_path_factory: pytest.TempPathFactory, checkpoint: CheckpointInput) -> Done:
        job = Job(tmp_path_factory.mktemp(spec.method.name), checkpoint, None, spec)
        return Done(job, job.run())

    return done


blind, gdfq, zeroq, fast = map(without_a_set, (MINMAX, GDFQ, ZEROQ, FAST))


@pytest.fixture(params=["minmax", "blind", "zaq", "gdfq", "zeroq", "fast"])
def done(request: pytest.FixtureRequest) -> Done:
    found: Done = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["minmax", "zaq"])
def measured(request: pytest.FixtureRequest) -> Done:
    found: Done = request.getfixturevalue(request.param)
    return found


def network_of(checkpoint: CheckpointInput) -> torch.nn.Module:
    network = architectures.build("cifar/resnet8").eval()
    network.load_state_dict(torch.load(checkpoint.path, weights_only=True))
    return network


def normalized(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


# --- the report against the files -----------------------------------------------------------------


def test_the_report_follows_its_published_schema(done: Done) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(done.report)
    assert json.loads((done.job.output / "report.json").read_text()) == done.report


def test_every_artifact_exists(done: Done) -> None:
    assert [(a.name, a.media_type) for a in done.result.artifacts] == [
        ("model.onnx", "application/octet-stream"),
        ("report.json", "application/json"),
        ("samples.png", "image/png"),
        ("student.safetensors", "application/octet-stream"),
    ]
    assert all(a.path.stat().st_size > 0 for a in done.result.artifacts)
    assert (done.job.output / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_accuracy_of_the_file_is_what_the_file_alone_gives(
    measured: Done, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """As a user does it: stock ONNX Runtime, mean and standard deviation from the file."""
    session = ort.InferenceSession(measured.job.output / "model.onnx", providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    mean, std = (np.array(json.loads(properties[f"zsq.{n}"]), np.float32) for n in ("mean", "std"))
    x = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    (logits,) = session.run(None, {"image": np.ascontiguousarray(x, np.float32)})
    correct = int((logits.argmax(1) == labels).sum())
    entry = measured.report["accuracy"]["onnxruntime"]
    assert (entry["correct"], entry["total"]) == (correct, IMAGES)
    assert entry["top1"] == pytest.approx(100 * correct / IMAGES, abs=1e-3)


def test_the_accuracy_of_float32_is_the_networks(measured: Done, labels: np.ndarray[Any, Any]) -> None:
    assert measured.report["accuracy"]["float32"]["correct"] == int((np.arange(IMAGES) % 3 != 0).sum())


@torch.no_grad()
def test_the_saved_student_has_the_accuracy_of_the_report(
    measured: Done, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    student = build_student(trace(network_of(measured.job.checkpoint), SHAPE), measured.job.spec.bits)
    student.graph.load_state_dict(safetensors.torch.load_file(measured.job.output / "student.safetensors"))
    correct = int((IntegerStudent(student)(normalized(pixels)).argmax(1).numpy() == labels).sum())
    assert measured.report["accuracy"]["student"]["correct"] == correct


def test_without_a_set_no_accuracy_is_claimed(blind: Done) -> None:
    assert blind.report["accuracy"] is blind.report["agreement"] is blind.report["dataset"] is None
    assert blind.report["synthetic"]["images"] == 16
    assert 0 <= blind.report["synthetic"]["agreement"] <= 100


def test_the_set_changes_nothing_but_what_is_measured(minmax: Done, blind: Done) -> None:
    """Nothing is trained, calibrated or selected on it: the files are the same."""
    assert minmax.report["artifact"]["sha256"] == blind.report["artifact"]["sha256"]


def test_sizes_and_hash_are_the_files(done: Done) -> None:
    path, artifact = done.job.output / "model.onnx", done.report["artifact"]
    assert artifact["bytes"] == path.stat().st_size
    assert artifact["sha256"] == sha256(path)
    assert artifact["ideal_bytes"] < artifact["bytes"] < artifact["float32_bytes"]
    assert sum(layer["bytes"] for layer in done.report["layers"]) < artifact["bytes"]


def test_layers_say_what_was_placed_and_what_runs_them(zaq: Done) -> None:
    layers = {layer["name"]: layer for layer in zaq.report["layers"]}
    assert len(layers) == 8
    assert layers["layer1.0.conv1"]["weight_bits"] == 4
    assert layers["layer2.0.conv1"]["weight_bits"] == 3
    assert layers["conv1"]["activation_bits"] == layers["linear"]["activation_bits"] == 8
    assert layers["layer3.0.conv2"]["activation_bits"] == 4
    assert layers["conv1"]["macs"] == 16 * 27 * 16 * 16
    assert {layer["kernel"] for layer in layers.values()} == {"QLinearConv", "QGemm"}
    assert all(layer["weight_sqnr_db"] > 0 for layer in layers.values())
    assert all(0 < layer["activation_sqnr_db"] < 60 for layer in layers.values())
    weights = sum(layer["weights"] for layer in layers.values())
    bits = sum(layer["weights"] * layer["weight_bits"] for layer in layers.values())
    assert zaq.report["bits"]["weight_average"] == pytest.approx(bits / weights, abs=1e-5)


def test_the_verification_is_that_of_a_file_in_integers(done: Done) -> None:
    found = done.report["verification"]
    assert found["integer_mac_share"] == 1.0
    assert found["float_operators"] == {}
    assert found["clamped_biases"] == 0
    assert found["parity"]["largest_step"] <= 1
    assert found["parity"]["logits_error"] < 1e-4
    parity = found["parity"]
    assert parity["different_share"] == pytest.approx(parity["different"] / parity["elements"], abs=1e-6)
    assert sum(tensor["different"] for tensor in parity["most_different"]) <= parity["different"]
    assert len(parity["most_different"]) <= 5


def test_latency_is_of_three_files_on_one_and_on_all_threads(done: Done) -> None:
    assert len(done.report["latency"]) == 2
    for entry in done.report["latency"]:
        ours, theirs = entry["quantized"]["median_ms"], entry["onnxruntime_int8"]["median_ms"]
        assert entry["ratio_to_onnxruntime_int8"] == pytest.approx(ours / theirs, rel=0.01)
        assert entry["speedup"] == pytest.approx(entry["float32"]["median_ms"] / ours, rel=0.01)
    assert not any("own int8 file" in note for note in done.report["notes"])
    assert not list((done.job.folder / "scratch").glob("*int8*"))


def test_a_network_that_onnxruntimes_quantizer_cannot_take_is_no_failure(
    tmp_path: Path, checkpoint: CheckpointInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_int8, "MAX_BYTES", 1000)
    report = Job(tmp_path, checkpoint, None, MINMAX).run().report
    jsonschema.Draft202012Validator(json_schema()).validate(report)
    for entry in report["latency"]:
        assert entry["onnxruntime_int8"] is entry["ratio_to_onnxruntime_int8"] is None
        assert entry["quantized"]["median_ms"] > 0
    (note,) = [note for note in report["notes"] if "own int8 file" in note]
    assert "\n" not in note


# --- the names of the classes in the file ----------------------------------------------------------


def labels_of(job: Job) -> list[str] | None:
    session = ort.InferenceSession(job.output / "model.onnx", providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get("zsq.labels")
    return None if text is None else json.loads(text)


def test_no_name_is_made_up(minmax: Done, blind: Done) -> None:
    assert labels_of(minmax.job) is labels_of(blind.job) is None


def test_the_file_names_the_classes_of_the_checkpoint_before_those_of_the_set(
    tmp_path: Path, checkpoint: CheckpointInput, dataset: DatasetInput
) -> None:
    theirs, ours = list("abcdefghij"), tuple("ABCDEFGHIJ")
    named_set = replace(dataset, classes=theirs)
    from_set = Job(tmp_path / "set", checkpoint, named_set, MINMAX)
    from_set.run()
    assert labels_of(from_set) == theirs
    named = replace(checkpoint, network=replace(NETWORK, classes=ours))
    from_checkpoint = Job(tmp_path / "checkpoint", named, named_set, MINMAX)
    from_checkpoint.run()
    assert labels_of(from_checkpoint) == list(ours)


def test_timings_name_the_method_and_the_phases(done: Done) -> None:
    timings = done.report["timings"]
    assert {"loading", "evaluating", "exporting", "verifying", "method", "total"} <= set(timings)
    assert timings["method"] <= timings["total"]


def test_the_report_says_what_was_asked_and_with_what(zaq: Done) -> None:
    report = zaq.report
    assert report["bits"]["asked"]["overrides"] == {"layer1.*": {"weight": 4, "activation": None}}
    assert report["method"]["name"] == "zaq"
    assert report["method"]["iterations"] == 2
    assert report["method"]["settings"]["batch_size"] == 8
    assert report["network"]["architecture"] == "cifar/resnet8"
    assert report["network"]["input_shape"] == list(SHAPE)
    assert report["provenance"]["seed"] == 7
    assert report["provenance"]["checkpoint_sha256"] == zaq.job.checkpoint.sha256
    assert report["dataset"] == {
        "images": IMAGES,
        "sha256": zaq.job.dataset.sha256 if zaq.job.dataset else None,
        "preprocessing": report["dataset"]["preprocessing"],
    }


def test_progress_never_falls_and_names_every_phase(done: Done) -> None:
    fractions = [news.fraction for news in done.job.news]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    phases = list(dict.fromkeys(news.phase for news in done.job.news))
    method = {
        "minmax": ["synthesizing"],
        "zeroq": ["baseline", "synthesizing"],
        "fast": ["baseline", "synthesizing"],
    }.get(done.job.spec.method.name, ["baseline", "synthesizing", "training"])
    assert phases == ["loading", *method, "evaluating", "exporting", "verifying"]


def test_images_that_were_made_to_be_of_a_class_are_drawn_by_class(gdfq: Done, zeroq: Done) -> None:
    def size(done: Done) -> tuple[int, int]:
        with Image.open(done.job.output / "samples.png") as picture:
            return picture.size

    step = 6 * SHAPE[1] + 2
    assert size(gdfq) == (6 * step + 2, 10 * step + 2)
    assert size(zeroq) == (4 * step + 2, 4 * step + 2)


@pytest.mark.parametrize(
    ("profile", "bits", "opset"),
    [("portable", BitSpec(4, 4), 17), ("tensorrt", BitSpec(4, 8), 17), ("qdq", BitSpec(4, 4), 21)],
)
def test_every_profile_says_truly_what_its_file_is(
    tmp_path: Path, checkpoint: CheckpointInput, profile: Any, bits: BitSpec, opset: int
) -> None:
    spec = QuantizationSpec(bits, MinMaxConfig(images=16, iterations=2), ExportConfig(profile))
    job = Job(tmp_path, checkpoint, None, spec)
    report = job.run().report
    artifact, verification = report["artifact"], report["verification"]
    model = onnx.load(job.output / "model.onnx")
    assert (artifact["profile"], artifact["opset"]) == (profile, opset)
    assert model.opset_import[0].version == opset
    assert {p.key: p.value for p in model.metadata_props}["zsq.profile"] == profile
    assert artifact["bytes"] == (job.output / "model.onnx").stat().st_size
    weights = sum(layer["weights"] for layer in report["layers"])
    rows = sum(layer["shape"][0] for layer in report["layers"])
    assert artifact["ideal_bytes"] == weights // 2 + 8 * rows  # 4 bits, a scale, a bias, no zero-point
    containers = weights if profile in ("portable", "tensorrt") else weights // 2
    assert containers < artifact["bytes"]
    assert verification["parity"]["largest_step"] <= 1
    integer = verification["integer_mac_share"]
    assert (integer == 1.0) if profile == "portable" else (integer < 1.0)
    assert any("multiply-accumulates in float" in note for note in report["notes"]) == (integer < 1.0)


# --- refusals and stops ----------------------------------------------------------------------------


def test_labels_beyond_the_networks_classes_are_refused(
    tmp_path: Path, checkpoint: CheckpointInput, pixels: np.ndarray[Any, Any]
) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, x=pixels, y=np.full(IMAGES, 10))
    with pytest.raises(DatasetError) as caught:
        Job(tmp_path / "job", checkpoint, DatasetInput(path, sha256(path), None), MINMAX).run()
    assert caught.value.code == "labels_out_of_range"


def test_an_override_that_matches_nothing_is_refused(tmp_path: Path, checkpoint: CheckpointInput) -> None:
    spec = replace(MINMAX, bits=BitSpec(4, 4, overrides={"layer9.*": LayerBits(weight=2)}))
    with pytest.raises(SpecError) as caught:
        Job(tmp_path, checkpoint, None, spec).run()
    assert caught.value.code == "override_matches_nothing"


@pytest.mark.parametrize("phase", ["loading", "synthesizing", "evaluating", "verifying"])
def test_cancel_stops_in_every_phase(tmp_path: Path, checkpoint: CheckpointInput, phase: str) -> None:
    job = Job(tmp_path, checkpoint, None, MINMAX)
    with pytest.raises(Canceled):
        job.run(canceled=lambda: bool(job.news) and job.news[-1].phase == phase)


def test_a_deadline_stops_the_job(tmp_path: Path, checkpoint: CheckpointInput) -> None:
    with pytest.raises(DeadlineExceeded):
        Job(tmp_path, checkpoint, None, MINMAX).run(deadline=0.0)


def test_a_job_handed_back_in_training_ends_as_an_unbroken_one(
    tmp_path: Path, checkpoint: CheckpointInput
) -> None:
    unbroken, broken, resumed = (
        Job(tmp_path / name, checkpoint, None, TRAINED) for name in ("unbroken", "broken", "resumed")
    )
    kept: list[Path] = []

    def hand_back() -> bool:
        return broken.news[-1:] != [] and (broken.news[-1].phase, broken.news[-1].step) == ("training", 2)

    with pytest.raises(HandedBack):
        broken.run(keep=kept.append, hand_back=hand_back)
    reports = [unbroken.run().report, resumed.run(resume_from=kept[-1]).report]
    files = [sha256(job.output / "student.safetensors") for job in (unbroken, resumed)]
    assert files[0] == files[1]
    note = "Interrupted, and resumed after iteration 2."
    assert [note in report["notes"] for report in reports] == [False, True]
    assert [news.fraction for news in resumed.news] == sorted(news.fraction for news in resumed.news)
    assert resumed.news[-1].fraction == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("phase", ["baseline", "synthesizing", "exporting"])
def test_a_job_that_is_wanted_back_elsewhere_ends_at_once(
    tmp_path: Path, checkpoint: CheckpointInput, phase: str
) -> None:
    job = Job(tmp_path, checkpoint, None, TRAINED)
    with pytest.raises(HandedBack):
        job.run(keep=Path.unlink, hand_back=lambda: bool(job.news) and job.news[-1].phase == phase)
    assert job.news[-1].phase == phase


def test_tensors_of_any_rank_may_stand_beside_convolutions() -> None:
    """Swin Transformer V2 keeps position biases of five dimensions."""
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3))
    network.register_buffer("biases", torch.zeros(1, 1, 2, 3, 3))
    pipeline.channels_last(network)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network.biases.is_contiguous()


# --- inspection --------------------------------------------------------------------------------------


def test_inspection_says_what_a_checkpoint_holds(checkpoint: CheckpointInput) -> None:
    found = pipeline.inspect_checkpoint(checkpoint)
    parameters = sum(p.numel() for p in network_of(checkpoint).parameters())
    assert (found["parameters"], found["layers"], found["num_classes"]) == (parameters, 8, 10)
    assert found["input_shape"] == list(SHAPE)
    assert found["mean"] == list(MEAN)
    json.dumps(found)


def test_inspection_says_what_a_dataset_holds(dataset: DatasetInput, labels: np.ndarray[Any, Any]) -> None:
    found = pipeline.inspect_dataset(dataset)
    assert found["images"] == IMAGES
    assert sum(found["counts"].values()) == IMAGES
    assert found["classes"] == len(set(labels.tolist()))


def test_inspection_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    torch.save({"nothing": torch.zeros(1)}, buffer := io.BytesIO())
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError):
        pipeline.inspect_checkpoint(CheckpointInput(path, sha256(path), NETWORK))


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        (
            "timm/efficientnet_cc_b0_4e",
            "architecture_not_traceable",
            "computes its weight or bias from the image",
        ),
        ("timm/edgenext_xx_small", "unsupported_operator", "aten.cumsum.default"),
    ],
)
def test_inspection_refuses_what_could_not_be_exported(
    tmp_path: Path, name: str, code: str, reason: str
) -> None:
    path, network = tmp_path / "c.pt", NetworkSpec(name, input_shape=(3, 64, 64))
    torch.save(architectures.build(name, 3).state_dict(), path)
    with pytest.raises(ArchitectureError, match=reason) as caught:
        pipeline.inspect_checkpoint(CheckpointInput(path, sha256(path), network))
    assert (caught.value.code, caught.value.field) == (code, "architecture")
