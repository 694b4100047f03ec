"""`train.compile`: where it pays, or where it is asked for; no compiler is no error."""

import pytest
from data_helpers import make_store
from test_fit import build
from torch._inductor.exc import InvalidCxxCompiler

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
