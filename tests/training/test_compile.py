"""`train.compile`: where it pays, or where it is asked for; no compiler is no error."""

import signal

import onnxruntime
import pytest
import torch
from data_helpers import make_store
from test_fit import build, run, same
from torch._inductor.exc import InvalidCxxCompiler

import tasks.train
from components.data.loaders import PreparedDataModule
from components.models.compilation import is_compiled, why_not_compiled
from components.training.fit import fit
from components.training.settings import TrainSettings
from tasks.train import module_options


@pytest.mark.parametrize(
    ("choice", "device", "num_steps", "expected"),
    [
        ("auto", "cpu", 100_000, False),
        ("auto", "cuda", 1_000, True),
        ("auto", "cuda", 999, False),
        ("on", "cpu", 1, True),
        ("on", "cuda", 1, True),
        ("off", "cuda", 100_000, False),
    ],
)
def test_auto_compiles_on_a_gpu_in_a_long_training(choice, device, num_steps, expected):
    options = module_options(TrainSettings(compile=choice))
    assert is_compiled(options.get("compile_model", True), device, num_steps) is expected


@pytest.fixture
def no_compiler(monkeypatch):
    def missing():
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)


def test_triton_is_asked_for_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    assert why_not_compiled("cpu") == ""
    assert why_not_compiled("cuda").startswith("triton is missing")


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path, no_compiler):
    store = make_store(tmp_path / "store", "classification", num_images=20)
    module = build("classification", compile_model="always")
    settings = TrainSettings(epochs=1, batch_size=4, warmup_epochs=0)
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3)
    with pytest.warns(UserWarning, match=r"not compiled: there is no C\+\+ compiler \(install"):
        assert fit(module, data, settings, 0, tmp_path / "resume").state
    assert module.network._compiled_call_impl is None


# All of it but for torch's own C++, which takes two minutes for this network.
TRACED = {"compile_model": "always", "compile_kwargs": {"backend": "eager"}}
SETTINGS = {"name": "test_resnet", "compile": "on", "epochs": 2, "average_best": 2}


def test_compiled_it_resumes_bit_for_bit_and_its_weights_are_anyones(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.train._COMPILED, "on", TRACED)
    store = make_store(tmp_path / "store", "classification", num_images=20, image_size=(32, 32))
    fitted, steps = [], []
    monkeypatch.setattr("test_fit.fit", lambda *given: fitted.append(given[0]) or fit(*given))
    whole = run(store, tmp_path / "whole", **SETTINGS)
    module = fitted[0]
    assert module.network._compiled_call_impl is not None
    with monkeypatch.context() as patched:

        def stop(self, *given):
            steps.append(given)
            if len(steps) == 4:  # the first one of the second epoch
                signal.raise_signal(signal.SIGTERM)

        patched.setattr("components.training.callbacks.EpochSeed.on_train_batch_end", stop)
        with pytest.raises(SystemExit, match="143"):
            run(store, tmp_path / "resume", **SETTINGS)
    resumed = run(store, tmp_path / "resume", **SETTINGS)
    assert same(resumed.state, whole.state) and resumed.rows == whole.rows
    assert resumed.average.figures == whole.average.figures
    # No compiler's prefix in the names; the moving average has left the network as it was.
    plain = build("classification", "test_resnet")
    plain.network.load_state_dict(whole.state)
    module.network.load_state_dict(whole.state)
    images = torch.rand(2, 3, 32, 32)
    expected = plain.evaluating(images)
    torch.testing.assert_close(module.evaluating(images), expected, rtol=1e-4, atol=1e-5)
    file = module.to_onnx(tmp_path / "model.onnx", images)
    session = onnxruntime.InferenceSession(file)
    (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-5)
