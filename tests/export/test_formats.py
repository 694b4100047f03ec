"""Every file of a model is held to its rule: what fails is not left behind and says why."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from components.export import formats as formats_module
from components.export.formats import FILES, Candidate, Images, compare_all, write_formats
from components.export.gate import HALF, INT8, Rule, metric_loss, problems, rule_for
from components.export.measure import load_runner, peak_memory_mb
from components.export.parity import Parity
from components.export.predictor import OnnxPredictor
from components.export.quantize import calibrate, quantized, sensitivity, write_int8
from components.export.settings import ExportSettings
from components.export.write_onnx import write_onnx
from components.models.saved_model import InferenceModel, ModelDescription, build_model

SIZE = (64, 96)
EXACT = Rule(1e-4, 0.999, 0.05, 1.0, 1e-4)


def described(**changes) -> ModelDescription:
    return ModelDescription(
        **{
            "task": "classification",
            "backbone": "test_resnet",
            "classes": ("red", "green", "blue"),
            "image_size": SIZE,
            "resize": "crop",
            "crop_fraction": 0.9,
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
            "fingerprint": "abc",
            **changes,
        }
    )


def built(about: ModelDescription) -> InferenceModel:
    torch.manual_seed(0)
    module = build_model(about).eval()
    # An untrained head says the same of everything; this one has opinions.
    torch.nn.init.normal_(module.network.head.weight, std=0.5)
    return InferenceModel(module, about).eval()


def pictures(count: int, size=SIZE) -> list[np.ndarray]:
    """Random blocks of colour: unlike noise, one picture is not like another."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)
    rows, columns = (np.arange(n) * c // n for n, c in zip(size, (4, 6), strict=True))
    return list(coarse[:, rows][:, :, columns])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All four formats of a toy, and what was found out about each."""
    folder = tmp_path_factory.mktemp("formats")
    about = described()
    model = built(about)
    shown = pictures(8)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(np.stack(shown)))[0].argmax(1).numpy()

    def accuracy(outputs):
        return float((np.concatenate([o[0] for o in outputs]).argmax(1) == wanted).mean())

    settings = ExportSettings(formats=("fp32", "fp16", "int8", "pt2"), latency_runs=1)
    with pytest.MonkeyPatch.context() as patch:
        # A size that no file can have.
        patch.setattr("components.export.gate.INT8", replace(INT8, max_size=0.01))
        patch.setattr(formats_module, "peak_memory_mb", lambda *_: 1.0)  # a process each
        candidates, torch_metric = write_formats(
            model,
            about,
            Images(shown, shown, accuracy, accuracy),
            settings,
            0.0,
            {"license": "MIT"},
            folder / "model.onnx",
            folder,
        )
    assert torch_metric == 1
    return model, about, folder, {candidate.kind: candidate for candidate in candidates}


@pytest.fixture(scope="module")
def source(written):
    """The float32 file."""
    return written[2] / "model.onnx"


@pytest.fixture
def already_written(source, monkeypatch):
    """For models that are the one of `written`: its float32 file, not exported once more."""
    monkeypatch.setattr(
        formats_module, "write_onnx", lambda model, about, path, *_: shutil.copy(source, path)
    )


def test_what_passes_is_there_and_measured(written):
    _, _, _, found = written
    assert list(found) == ["fp32", "fp16", "int8", "pt2"]
    for kind in ("fp32", "fp16", "pt2"):
        assert found[kind].reasons == [] and found[kind].path.is_file()
        figures = found[kind].figures
        assert figures["metric"] == 1 and figures["parity"]["share_matched"] == 1
        assert figures["latency_ms_p95_batch_8"] >= figures["latency_ms_p50_batch_8"] > 0
        assert figures["megabytes"] == found[kind].path.stat().st_size / 1e6
        assert figures["peak_memory_mb"] == 1
    assert found["fp16"].figures["size_ratio"] < 0.7
    json.dumps([candidate.figures for candidate in found.values()], allow_nan=False)


@pytest.mark.parametrize("name", ["model.onnx", FILES["pt2"]])
def test_memory_is_measured_in_a_process_of_its_own(written, name):
    _, _, folder, _ = written
    assert peak_memory_mb(folder / name, SIZE) > 0


def test_what_fails_is_gone_and_says_why(written):
    _, _, folder, found = written
    assert any(reason.startswith("its size is 0.") for reason in found["int8"].reasons)
    assert not (folder / FILES["int8"]).exists()
    assert found["int8"].figures["size_ratio"] < 0.35


def test_files_hold_no_path_of_this_machine(written):
    _, _, folder, _ = written
    assert b".py" not in (folder / "model.onnx").read_bytes()


def test_the_lesser_files_say_what_the_full_one_says(written):
    _, _, folder, _ = written
    full = OnnxPredictor(folder / "model.onnx").metadata
    assert OnnxPredictor(folder / FILES["fp16"]).metadata == full
    assert full["license"] == "MIT" and full["temperature"] == "1.0"


def scaled_weights(proto):
    for weights in proto.graph.initializer:
        if len(weights.dims) == 4:
            values = numpy_helper.to_array(weights) * np.float32(1.01)
            weights.CopyFrom(numpy_helper.from_array(values, weights.name))


def swapped_classes(proto):
    for weights in proto.graph.initializer:
        if len(weights.dims) == 2 and weights.dims[0] == 3:
            values = numpy_helper.to_array(weights)[[1, 0, 2]]
            weights.CopyFrom(numpy_helper.from_array(values, weights.name))


def not_a_number(proto):
    for weights in proto.graph.initializer:
        if len(weights.dims) == 2 and weights.dims[0] == 3:
            values = np.full_like(numpy_helper.to_array(weights), np.nan)
            weights.CopyFrom(numpy_helper.from_array(values, weights.name))


@pytest.mark.parametrize("damage", [scaled_weights, swapped_classes, not_a_number])
@pytest.mark.parametrize("rule", [EXACT, HALF, INT8], ids=["fp32", "fp16", "int8"])
def test_a_damaged_file_is_caught(written, tmp_path, damage, rule):
    model, about, folder, _ = written
    if damage is scaled_weights and rule is INT8:
        pytest.skip("eight bits cannot tell a change of one in a hundred")
    proto = onnx.load(folder / "model.onnx")
    before = proto.SerializeToString()
    damage(proto)
    assert proto.SerializeToString() != before
    onnx.save(proto, tmp_path / "damaged.onnx")
    candidate = Candidate("fp32", tmp_path / "damaged.onnx", rule)
    nothing = Images(pictures(8), [], lambda outputs: None, lambda outputs: None)
    compare_all(model, about, [candidate], nothing)
    assert candidate.reasons


def test_a_converter_that_damages_leaves_no_file(written, already_written, tmp_path, monkeypatch):
    model, about, _, _ = written

    def damaging(source, path):
        proto = onnx.load(source)
        swapped_classes(proto)
        onnx.save(proto, path)

    monkeypatch.setattr(formats_module, "write_fp16", damaging)
    monkeypatch.setattr(formats_module, "peak_memory_mb", lambda *_: None)
    nothing = Images(pictures(4), [], lambda outputs: None, lambda outputs: None)
    (fp32, fp16), _ = write_formats(
        model,
        about,
        nothing,
        ExportSettings(formats=("fp32", "fp16"), latency_runs=1),
        0.0,
        {},
        tmp_path / "model.onnx",
        tmp_path,
    )
    assert fp32.reasons == [] and "have no match" in fp16.reasons[0]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def unrunnable(proto):
    """Loads, and takes one image at a time only."""
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(not_a_number, "some predictions are no numbers"), (unrunnable, "cannot be run")],
)
def test_a_file_without_numbers_or_that_cannot_run_stops_itself_alone(
    written, already_written, tmp_path, monkeypatch, damage, reason
):
    model, about, _, _ = written

    def damaging(source, path):
        proto = onnx.load(source)
        damage(proto)
        onnx.save(proto, path)

    def no_nan(outputs):
        assert all(np.isfinite(batch[0]).all() for batch in outputs)
        return 0.5

    monkeypatch.setattr(formats_module, "write_fp16", damaging)
    monkeypatch.setattr(formats_module, "peak_memory_mb", lambda *_: None)
    (fp32, fp16), _ = write_formats(
        model,
        about,
        Images(pictures(4), [], no_nan, no_nan),
        ExportSettings(formats=("fp32", "fp16"), latency_runs=1),
        0.0,
        {},
        tmp_path / "model.onnx",
        tmp_path,
    )
    assert fp32.reasons == []
    assert any(reason in text for text in fp16.reasons)
    json.dumps([fp32.figures, fp16.figures], allow_nan=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


class TestRules:
    """What is asked of a file."""

    good = Parity(num_images=9, num_compared=90, num_sure=100)

    @pytest.mark.parametrize(
        ("rule", "changes", "figures", "reason"),
        [
            (EXACT, {}, {}, None),
            (EXACT, {"num_compared": 0}, {}, "nothing was predicted"),
            (EXACT, {"num_unmatched": 1}, {}, "1 of 100 predictions have no match"),
            (EXACT, {"max_score_difference": 2e-4}, {}, "scores differ by up to 0.0002"),
            (INT8, {"max_score_difference": np.inf}, {}, "no numbers"),
            (EXACT, {}, {"metric": 0.5, "torch_metric": 0.5001}, "the metric falls"),
            (EXACT, {}, {"metric": 0.5001, "torch_metric": 0.5}, None),
            (HALF, {"num_unmatched": 1}, {}, None),
            (HALF, {"num_unmatched": 2}, {}, "98.00 % matched; at least 99 % needed"),
            (HALF, {}, {"metric": 0.49, "torch_metric": 0.5}, "by 2.00 %"),
            (INT8, {"num_unmatched": 10}, {}, None),
            (INT8, {"num_unmatched": 11}, {}, "89.00 % matched"),
            (INT8, {}, {"metric": 0.496, "torch_metric": 0.5}, None),
            (INT8, {}, {"metric": 0.494, "torch_metric": 0.5}, r"by 1.20 % \(at most 1 %"),
            (INT8, {}, {"metric": np.nan, "torch_metric": 0.5}, "the metric falls"),
            (INT8, {}, {"size": 0.31, "speed": 2.0}, "its size is 0.31 of float32's"),
            (INT8, {}, {"size": 0.26, "speed": 1.2}, "its speed is 1.20 of float32's"),
            (INT8, {}, {"size": 0.26, "speed": 1.31}, None),
        ],
    )
    def test_each_is_told_apart(self, rule, changes, figures, reason):
        found = problems(rule, Parity(**{**self.good.__dict__, **changes}), **figures)
        if reason is None:
            assert found == []
        else:
            assert len(found) == 1
            assert re.search(reason, found[0])

    def test_float32_is_held_to_the_parameters(self):
        assert rule_for("pt2", 1e-5, 0.99, 0.1) == Rule(1e-5, 0.99, 0.1, 1.0, 1e-5)

    def test_a_metric_of_nought_cannot_fall(self):
        assert metric_loss(0, 0) == 0 and metric_loss(0.4, 0.5) == pytest.approx(0.2)

    @pytest.mark.parametrize(
        ("given", "error"),
        [(["fp16"], "fp32 must be among them"), (["fp32", "fp32"], "names one twice")],
    )
    def test_formats_that_cannot_be_written_are_refused(self, given, error):
        with pytest.raises(ValueError, match=error):
            ExportSettings(formats=given)


class TestQuantisation:
    """Sensitive layers are found, and only as many as needed stay float."""

    @pytest.mark.parametrize(("refusals", "share"), [(0, 0.0), (1, 0.05), (9, 0.4)])
    def test_layers_stay_float_until_it_passes(self, source, tmp_path, refusals, share):
        said = ["too far off"] * refusals
        batches = [np.stack(pictures(4))]
        result = write_int8(
            source, tmp_path / "int8.onnx", batches, lambda _: said.pop() if said else ""
        )
        expected = max(1, round(share * result.num_layers)) if share else 0
        assert len(result.float_layers) == expected
        assert result.reason == ("too far off" if refusals == 9 else "")
        kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
        assert kinds.count("QuantizeLinear") > 3

    def test_the_layer_with_the_widest_weights_is_the_most_sensitive(self, source):
        proto = onnx.load(source)
        convs = [node for node in proto.graph.node if node.op_type == "Conv"]
        victim = convs[-1]
        weights = next(w for w in proto.graph.initializer if w.name == victim.input[1])
        values = numpy_helper.to_array(weights).copy()
        values[:, 0, 0, 0] = 40 * np.abs(values).max()  # one that leaves no steps for the others
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        batch = np.stack(pictures(4))
        changed = source.parent / "changed.onnx"
        onnx.save(proto, changed)
        names = [node.name for node in convs]
        noise = sensitivity(proto, calibrate(changed, [batch]), batch, names)
        changed.unlink()
        assert max(noise, key=noise.__getitem__) == victim.name

    def test_what_is_not_the_network_stays_float(self, source):
        proto = onnx.load(source)
        result = quantized(proto, calibrate(source, [np.stack(pictures(4))]))
        softmax = next(node for node in result.graph.node if node.op_type == "Softmax")
        makers = {name: node for node in result.graph.node for name in node.output}
        # The logits come out of int8; what follows is not put back into it.
        assert makers[softmax.input[0]].op_type in ("DequantizeLinear", "Gemm")
        assert [output.name for output in result.graph.output] == ["probabilities"]


class TestInputSizes:
    """Images of other sizes: resized in the graph, or taken as they are."""

    @pytest.mark.parametrize("resize", ["letterbox", "crop"])
    def test_any_size_gives_what_resizing_outside_gives(self, source, tmp_path, resize):
        about = described(resize=resize)
        # The graph for images of one size is the same, however they came to it.
        fixed = onnx.load(source)
        (told,) = (prop for prop in fixed.metadata_props if prop.key == "resize")
        told.value = resize
        onnx.save(fixed, tmp_path / "fixed.onnx")
        write_onnx(built(about), about, tmp_path / "any.onnx", input_size="any")
        fixed, free = (OnnxPredictor(tmp_path / f"{name}.onnx") for name in ("fixed", "any"))
        for size in ((64, 96), (200, 110), (31, 47), (97, 400)):
            shown = pictures(2, size)
            for a, b in zip(fixed.predict(shown), free.predict(shown), strict=True):
                assert list(a["probabilities"].values()) == pytest.approx(
                    [b["probabilities"][name] for name in a["probabilities"]], abs=0.01
                )

    def test_a_free_size_is_the_networks_own(self, tmp_path):
        about = described()
        model = built(about)
        write_onnx(model, about, tmp_path / "free.onnx", input_size="free")
        run = load_runner(tmp_path / "free.onnx")
        for size in ((64, 64), (128, 96), SIZE):
            batch = np.stack(pictures(3, size))
            with torch.inference_mode():
                ours = model(torch.from_numpy(batch))[0].numpy()
            np.testing.assert_allclose(run(batch)[0], ours, atol=1e-5)


def test_temperature_is_in_the_model():
    shown = torch.from_numpy(np.stack(pictures(3)))
    with torch.inference_mode():
        plain = built(described())(shown)[0]
        cooler = built(described(temperature=2.0))(shown)[0]
    expected = torch.softmax(plain.log() / 2, dim=1)
    torch.testing.assert_close(cooler, expected)
