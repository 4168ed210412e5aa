"""Compiled for inference: a folded copy, weights frozen, gradients off."""

import logging

import pytest
import timm
import torch

from involution.models import compile_for_inference
from involution.models.compiled import without_word_of_cuda


def network():
    torch.manual_seed(0)
    return timm.create_model("rednet_nano", num_classes=3, zero_init_last=False).eval()


def test_a_folded_copy_is_compiled_with_its_weights_frozen(monkeypatch):
    asked = []

    def compile(model, **options):
        asked.append((model, options))
        return model

    monkeypatch.setattr(torch, "compile", compile)
    model, images = network(), torch.rand(2, 3, 32, 32)
    fast = compile_for_inference(model, dynamic=True)
    ((folded, options),) = asked
    assert options == {"dynamic": True, "options": {"freezing": True}}
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    assert fast.compile_seconds is None
    found = fast(images)
    taken = fast.compile_seconds
    assert taken > 0
    assert not found.requires_grad
    torch.testing.assert_close(found, model(images), rtol=1e-3, atol=1e-4)
    fast(images)
    assert fast.compile_seconds == taken
    with pytest.raises(ValueError, match="can't be trained; train the one that it was made of"):
        fast.train()


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match="needs evaluation mode"):
        compile_for_inference(network().train())


@pytest.mark.slow
def test_the_compiled_code_computes_the_same():
    model, images = network(), torch.rand(1, 3, 32, 32)
    fast = compile_for_inference(model)
    torch.testing.assert_close(fast(images), model(images), rtol=1e-3, atol=1e-4)


def test_pytorchs_word_about_cuda_is_left_out(caplog, monkeypatch):
    logger = logging.getLogger("torch.utils.cpp_extension")
    # whatever torch has made of its loggers
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.WARNING, logger.name)
    with without_word_of_cuda():
        logger.warning("No CUDA runtime is found, using CUDA_HOME='/usr/local/cuda'")
    assert caplog.records == []
    logger.warning("after")
    assert [record.message for record in caplog.records] == ["after"]
