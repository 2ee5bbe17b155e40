"""Which parameters decay."""

import torch
from torch import nn

from eca_lightning import create_attention, create_backbone
from eca_lightning.training.optim import parameter_groups


def test_exemption_goes_by_layer_type():
    network = create_backbone("resnet18", "eca")
    decayed, exempt = parameter_groups(network, no_decay_norm_bias=True)
    norms = sum(2 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert len(exempt["params"]) == norms + 1  # and the classifier's bias
    assert exempt["weight_decay"] == 0
    assert "weight_decay" not in decayed  # the optimizer's own holds
    together = {id(p) for p in decayed["params"] + exempt["params"]}
    assert together == {id(p) for p in network.parameters()}


def test_a_norm_is_found_whatever_its_name_and_a_vector_is_not_a_norm():
    network = nn.ModuleDict({"weightless": nn.LayerNorm(4), "bias": create_attention("se_var2", 4)})
    decayed, exempt = parameter_groups(network, no_decay_norm_bias=True)
    assert {id(p) for p in exempt["params"]} == {id(p) for p in network["weightless"].parameters()}
    assert len(decayed["params"]) == 1


def test_without_exemption_there_is_one_group():
    (group,) = parameter_groups(create_backbone("resnet20"), no_decay_norm_bias=False)
    assert len(group["params"]) == len(list(create_backbone("resnet20").parameters()))


def test_frozen_parameters_are_left_out_and_shared_ones_appear_once():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    (group,) = parameter_groups(nn.Sequential(first, second), no_decay_norm_bias=False)
    assert [id(p) for p in group["params"]] == [id(first.weight), id(first.bias)]


def test_decay_moves_only_the_decayed():
    layer = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(parameter_groups(layer, True), lr=1.0, weight_decay=0.5)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] / 2)
    assert torch.equal(layer.bias.detach(), before[1])
