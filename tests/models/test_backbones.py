"""timm models as backbones: strides, channels, weights, messages."""

import json
import pickle

import pytest
import timm
import torch
from lightning import LightningModule
from safetensors.torch import save_file

from components.errors import ModelError
from components.models.backbones import (
    BackboneConfig,
    FeatureBackboneConfig,
    count_parameters,
    create_backbone,
    create_feature_backbone,
    get_feature_channels,
    get_feature_strides,
    image_size_arguments,
    list_backbones,
    normalization,
)
from components.models.pretrained import LITE0, lite0_to_timm, packaged_weights, read_state


def test_there_are_many_names():
    assert len(list_backbones()) > 1000
    assert "convnext_atto" in list_backbones("convnext*")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [128, 256, 512]),
        (LITE0, [40, 112, 320]),
        ("convnext_atto", [80, 160, 320]),  # four stages
        ("swin_tiny_patch4_window7_224", [192, 384, 768]),  # NHWC
        ("mobilenetv3_small_050", [16, 24, 288]),
        ("densenet121", [512, 1024, 1024]),
    ],
)
def test_a_plain_name_gives_maps_of_strides_8_16_32(name, channels):
    extra = {"img_size": 64} if "swin" in name else {}
    backbone = create_feature_backbone(
        FeatureBackboneConfig(name, pretrained=False, extra_kwargs=extra)
    ).eval()
    assert get_feature_strides(backbone) == [8, 16, 32]
    assert get_feature_channels(backbone) == channels
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 64 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]


def test_out_indices_are_timms_own():
    backbone = create_feature_backbone(
        FeatureBackboneConfig("resnet18", pretrained=False, out_indices=(1, 3))
    )
    assert get_feature_strides(backbone) == [4, 16]


@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
def test_an_unknown_name_is_answered_with_the_nearest(create):
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5O'; did you mean .*resnet50"):
        create("resnet5O")


def test_parameters_are_counted():
    backbone = create_backbone(BackboneConfig("resnet18", pretrained=False))
    assert count_parameters(backbone) == 11_176_512
    backbone.requires_grad_(False)
    assert count_parameters(backbone) == 0
    assert count_parameters(backbone, trainable_only=False) == 11_176_512


class TestLocalWeights:
    def config(self, path, kind=BackboneConfig):
        return kind("resnet18", pretrained=str(path))

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("kind", [BackboneConfig, FeatureBackboneConfig])
    def test_are_loaded_into_classifier_and_detector_alike(self, tmp_path, suffix, kind):
        source = timm.create_model("resnet18", pretrained=False)
        path = tmp_path / f"weights{suffix}"
        save = save_file if suffix == ".safetensors" else torch.save
        save(source.state_dict(), path)
        if kind is BackboneConfig:
            loaded = create_backbone(self.config(path)).state_dict()
        else:
            loaded = create_feature_backbone(self.config(path, kind)).body.state_dict()
        assert torch.equal(loaded["layer4.1.conv2.weight"], source.layer4[1].conv2.weight)

    def test_of_a_flattened_features_model(self, tmp_path):
        source = timm.create_model("convnext_atto", pretrained=False)
        save_file(source.state_dict(), tmp_path / "w.safetensors")
        config = FeatureBackboneConfig("convnext_atto", pretrained=str(tmp_path / "w.safetensors"))
        loaded = create_feature_backbone(config).body.state_dict()
        name = "blocks.0.conv_dw.weight"
        assert torch.equal(loaded[f"stages_3.{name}"], source.state_dict()[f"stages.3.{name}"])

    def test_that_are_missing(self, tmp_path):
        with pytest.raises(ModelError, match="no such weights file"):
            create_backbone(self.config(tmp_path / "none.pth"))

    def test_of_another_model(self, tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match=r"not the weights of this backbone: \d+ of \d+"):
            create_backbone(self.config(tmp_path / "w.safetensors"))

    def test_that_would_run_code_are_refused(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (tmp_path.joinpath("ran").touch, ())

        path = tmp_path / "evil.pth"
        path.write_bytes(pickle.dumps({"state_dict": Evil()}))
        with pytest.raises(ModelError, match="cannot be read"):
            create_backbone(self.config(path))
        assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(packaged_weights(LITE0) is None, reason="extra `weights` is not installed")
class TestPackagedLite0:
    def test_every_tensor_has_its_place(self):
        path = packaged_weights(LITE0)
        model = timm.create_model(LITE0, pretrained=False)
        model.load_state_dict(lite0_to_timm(read_state(path)), strict=True)

    def test_is_what_pretrained_means(self):
        pretrained = create_backbone(BackboneConfig(LITE0)).state_dict()
        stem = read_state(packaged_weights(LITE0))["_conv_stem.weight"]
        assert torch.equal(pretrained["conv_stem.weight"], stem)

    def test_its_normalisation_is_its_own(self):
        assert normalization(LITE0) == ((0.5,) * 3, (0.5,) * 3)


def test_models_built_for_one_size_are_built_for_ours():
    extra = image_size_arguments("vit_tiny_patch16_224", (96, 64))
    config = BackboneConfig("vit_tiny_patch16_224", pretrained=False, extra_kwargs=extra)
    with torch.no_grad():
        assert create_backbone(config).eval()(torch.zeros(1, 3, 96, 64)).shape == (1, 192)
    assert image_size_arguments("resnet18", (96, 64)) == {}


def test_unknown_weights_are_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"weights there are: .*resnet18.a1_in1k"):
        create_backbone("resnet18.of_mine")


def test_without_a_hub_the_error_says_what_else_there_is(monkeypatch):
    monkeypatch.setattr("components.models.timm_builder.hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"could not be fetched .* path of a local file"):
        create_backbone(BackboneConfig("resnet18", pretrained=True))


class TestConfigsAreSavedWhole:
    CONFIGS = (
        BackboneConfig("test_vit", False, drop_rate=0.1, extra_kwargs={"img_size": (96, 64)}),
        FeatureBackboneConfig(
            "test_vit",
            "weights.safetensors",
            (1, -1),
            drop_path_rate=0.2,
            extra_kwargs={"img_size": [96, 64], "qk_norm": True},
            grad_checkpointing=True,
        ),
        FeatureBackboneConfig(),
    )

    @pytest.mark.parametrize("config", CONFIGS)
    def test_in_json(self, config):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize("config", CONFIGS)
    @pytest.mark.parametrize("plain", [True, False])
    def test_among_the_hyper_parameters_of_a_checkpoint(self, config, plain, tmp_path):
        class Module(LightningModule):
            def __init__(self, backbone):
                super().__init__()
                self.save_hyperparameters()
                self.layer = torch.nn.Linear(1, 1)

        module = Module(config.to_dict() if plain else config)
        checkpoint = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
        torch.save(checkpoint, tmp_path / "a.ckpt")
        loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["backbone"]
        assert (type(config).from_dict(loaded) if plain else loaded) == config

    def test_and_build_the_same_model(self):
        config = BackboneConfig("test_vit", False, extra_kwargs={"img_size": (96, 64)})
        ours, theirs = create_backbone(config), create_backbone(config.to_dict())
        assert {n: t.shape for n, t in ours.state_dict().items()} == {
            n: t.shape for n, t in theirs.state_dict().items()
        }

    def test_an_unknown_field_is_answered_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"no field 'drop_rat'; did you mean drop_rate\?"):
            BackboneConfig.from_dict({"drop_rat": 0.1})

    def test_what_is_no_plain_data_cannot_be_saved(self):
        config = BackboneConfig(extra_kwargs={"norm_layer": torch.nn.LayerNorm})
        with pytest.raises(ValueError, match=r"extra_kwargs.norm_layer = .* cannot be saved"):
            config.to_dict()

    @pytest.mark.parametrize("values", [{"drop_rate": 1.0}, {"drop_path_rate": -0.1}])
    def test_a_rate_is_a_share(self, values):
        with pytest.raises(ValueError, match=r"a share, at least 0 and below 1"):
            FeatureBackboneConfig(**values)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_mambaout", "test_coatnet"])
@pytest.mark.parametrize("kind", [BackboneConfig, FeatureBackboneConfig])
def test_local_weights_of_a_family_are_loaded_unchanged(name, kind, tmp_path):
    source = timm.create_model(name, pretrained=False)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    create = create_backbone if kind is BackboneConfig else create_feature_backbone
    model = create(kind(name, pretrained=str(tmp_path / "w.safetensors")))
    body = model if kind is BackboneConfig else model.body
    values = {value.double().sum().item() for value in source.state_dict().values()}
    assert len(list(body.parameters())) > 10
    for tensor in body.state_dict().values():
        assert tensor.double().sum().item() in values


def test_position_embeddings_of_another_image_size_are_resampled(tmp_path):
    source = timm.create_model("test_vit", pretrained=False)  # 160 pixels: 10 by 10 patches
    with torch.no_grad():  # a value that grows from left to right, whatever the resolution
        source.pos_embed[0, 1:] = torch.linspace(0, 1, 10).repeat(10)[:, None]
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    config = FeatureBackboneConfig("test_vit", pretrained=str(tmp_path / "w.safetensors"))
    backbone = create_feature_backbone(config, image_size=(96, 64))
    embedding = backbone.body.model.pos_embed
    assert embedding.shape[1] == 1 + 6 * 4
    row = embedding[0, 1:5, 0]
    assert torch.all(row.diff() > 0.1)
    assert torch.equal(backbone.body.model.patch_embed.proj.weight, source.patch_embed.proj.weight)


def test_an_out_index_that_is_not_there():
    with pytest.raises(ValueError, match=r"out_indices = \(2, 9\): resnet18 has 5 features"):
        create_feature_backbone(FeatureBackboneConfig("resnet18", False, out_indices=(2, 9)))


def test_negative_out_indices_count_from_the_end():
    given = FeatureBackboneConfig("test_convnext", False, out_indices=(-2, -1))
    assert get_feature_strides(create_feature_backbone(given)) == [16, 32]


def test_an_argument_that_the_family_does_not_take():
    with pytest.raises(ValueError, match=r"extra_kwargs holds 'windows', which resnet18 does not"):
        create_backbone(BackboneConfig("resnet18", False, extra_kwargs={"windows": 7}))
