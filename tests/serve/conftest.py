import pytest
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint

from involution.predict import load_predictor


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A checkpoint of each task, by task."""
    folder = tmp_path_factory.mktemp("served")
    return {
        "classify": save_checkpoint(folder / "classify.ckpt", channels=3, side=24),
        "detect": save_detector(folder / "detect.ckpt"),
        "segment": save_segmenter(folder / "segment.ckpt"),
    }


@pytest.fixture(scope="session")
def predictors(checkpoints):
    """A predictor of each task, by task."""
    return {task: load_predictor(path, "cpu") for task, path in checkpoints.items()}
