import pytest
import timm
import torch
from tolerances import NETWORK

from involution.models.keys import timm_name, to_timm_layout


@pytest.fixture(scope="module")
def model(golden):
    model = timm.create_model("rednet26").double()
    model.load_state_dict(to_timm_layout(golden.state_dict).tensors)
    return model


@pytest.mark.parametrize("case", range(3), ids=["eval", "eval wide", "train"])
def test_logits_and_stages(golden, model, case):
    wanted = golden.cases[case]
    images = torch.from_numpy(golden.image(wanted["shape"]))
    stages = {}
    hooks = [
        getattr(model, "act1" if name == "stem" else name).register_forward_hook(
            lambda _, __, output, name=name: stages.update({name: output.clone()})
        )
        for name in wanted["stages"]
    ]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model.train(wanted["mode"] == "train")(images)
    for hook in hooks:
        hook.remove()
    model.load_state_dict(state)

    torch.testing.assert_close(
        logits[:, :8], torch.tensor(wanted["logits"], dtype=torch.float64), **NETWORK[torch.float64]
    )
    assert logits.norm().item() == pytest.approx(wanted["logits_norm"], rel=NETWORK[torch.float64]["rtol"])
    assert logits.argmax(1).tolist() == wanted["argmax"]
    assert len(stages) == 6
    for name, values in wanted["stages"].items():
        stage = stages[name]
        assert list(stage.shape) == values["shape"]
        assert stage.mean().item() == pytest.approx(values["mean"], rel=NETWORK[torch.float64]["rtol"])
        assert stage.std().item() == pytest.approx(values["std"], rel=NETWORK[torch.float64]["rtol"])
        assert stage.norm().item() == pytest.approx(values["norm"], rel=NETWORK[torch.float64]["rtol"])
        torch.testing.assert_close(
            stage.flatten()[:8], torch.tensor(values["first8"], dtype=torch.float64), **NETWORK[torch.float64]
        )


def test_gradients(golden, model):
    images = torch.from_numpy(golden.image(golden.cases[0]["shape"]))
    model.eval().zero_grad()
    model(images).square().mean().backward()
    gradients = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    names = {timm_name(name.removeprefix("backbone.").removeprefix("head.")) for name in golden.grad_norms}
    assert names == set(gradients)
    for name, norm in golden.grad_norms.items():
        ours = timm_name(name.removeprefix("backbone.").removeprefix("head."))
        assert gradients[ours] == pytest.approx(norm, rel=NETWORK[torch.float64]["rtol"])
