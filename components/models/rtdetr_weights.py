"""Published or local weights for RT-DETR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import huggingface_hub

from components.errors import ModelError
from components.models.pretrained import read_state
from components.models.rtdetr_config import import_transformers
from components.models.rtdetr_network import RTDetrNetwork, reset_class_heads
from components.models.timm_builder import hub_reachable

_HUB_OWNER = "PekingU"
_FILES = ("model.safetensors", "weights.safetensors")  # transformers' name, and ours
# All that has a row or column for each class.
_CLASS_TENSORS = ("class_embed", "enc_score_head", "denoising_class_embed")


def load_rtdetr_weights(network: RTDetrNetwork, model_name: str, pretrained: bool | str) -> None:
    """Load weights; class heads of another number of classes stay as they are.

    Args:
        network: into which.
        model_name: whose weights the hub is asked for.
        pretrained: True for the hub's; or the path of a file, or of a folder that holds
            `model.safetensors` or `weights.safetensors`. Names are transformers', of any version,
            or this project's.

    Raises:
        ModelError: the hub is out of reach, no such file, or weights of another model.
    """
    path = _local_file(Path(pretrained)) if isinstance(pretrained, str) else _from_hub(model_name)
    state = {name.removeprefix("detr."): value for name, value in read_state(path).items()}
    model_class = import_transformers().RTDetrForObjectDetection
    with _quiet():
        # Not load_state_dict: transformers knows the names that its older versions gave.
        loaded, report = model_class.from_pretrained(
            None,
            config=network.config,
            state_dict=state,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    missing = [name for name in report["missing_keys"] if not name.endswith("num_batches_tracked")]
    wrong = {str(entry[0]) for entry in report["mismatched_keys"]}
    own = {name for name in wrong if any(part in name for part in _CLASS_TENSORS)}
    if missing or wrong - own:
        shown = ", ".join(sorted([*missing, *(wrong - own)])[:3])
        raise ModelError(
            f"{path}: not the weights of {model_name}: {len(missing)} of "
            f"{len(network.detr.state_dict())} tensors missing, {len(wrong - own)} of another "
            f"shape ({shown})"
        )
    if wrong:
        reset_class_heads(loaded)
    network.detr.load_state_dict(loaded.state_dict())


def _local_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    raise ModelError(f"{path}: holds neither {' nor '.join(_FILES)}")


def _from_hub(model_name: str) -> Path:
    repository = f"{_HUB_OWNER}/{model_name}"
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repository,
                _FILES[0],
                # Cached weights still load; without them the answer comes at once.
                local_files_only=not hub_reachable(),
            )
        )
    except (OSError, httpx.HTTPError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise ModelError(
            f"pretrained weights of {repository} could not be fetched ({error}). Without a hub in "
            "reach: give pretrained the path of a local file or folder, or false"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its table of heads that differ, which is meant."""
    logging = import_transformers().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
