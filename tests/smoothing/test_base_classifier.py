import pytest
import torch
from torch import nn

from featdenoise.base.rng import Stream
from featdenoise.smoothing.base_classifier import BaseClassifier
from featdenoise.smoothing.certify import Smooth
from featdenoise.smoothing.noise import Gaussian


def make_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
    network.train()
    network[3].eval()  # a mixture of modes must survive
    return network


def noisy_batch():
    return Gaussian(sigma=1.0).sample((6, 3, 4, 4), 0, "test").add_(0.5)


def test_adapter_gives_the_logits_of_evaluation_mode():
    network, batch = make_network(), noisy_batch()
    logits = BaseClassifier(network)(batch)
    assert torch.equal(logits, network.eval()(batch))


def test_votes_leave_the_model_as_it_was():
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    global_state = torch.get_rng_state()
    smooth = Smooth(network, num_classes=5, noise=Gaussian(sigma=0.5))
    smooth.certify(torch.zeros(3, 4, 4), n=300, stream=Stream(seed=0, image_ids=(0,)))
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in network.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.equal(global_state, torch.get_rng_state())


def test_modes_come_back_after_an_error():
    network = make_network()
    modes = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError):
        BaseClassifier(network)(torch.zeros(1, 7, 4, 4))
    assert [module.training for module in network.modules()] == modes


def test_modes_of_the_adapter_do_not_reach_the_model():
    network = make_network()
    adapter = BaseClassifier(network)
    modes = [module.training for module in network.modules()]
    assert adapter.eval() is adapter
    assert adapter.train() is adapter
    assert [module.training for module in network.modules()] == modes


def test_an_image_is_classified_by_itself():
    adapter, batch = BaseClassifier(make_network()), noisy_batch()
    alone = torch.cat([adapter(image[None]) for image in batch])
    torch.testing.assert_close(alone, adapter(batch))


def test_autocast_of_the_caller_does_not_change_the_votes():
    adapter, batch = BaseClassifier(make_network()), noisy_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = adapter(batch)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, adapter(batch))


def test_precision_names_the_parameters_type():
    assert BaseClassifier(make_network()).precision == "float32"
    assert BaseClassifier(make_network().double()).precision == "float64"
    assert BaseClassifier(lambda images: images).precision == "unknown"


def test_adapter_moves_with_its_model_and_takes_plain_functions():
    adapter = BaseClassifier(make_network())
    assert len(list(adapter.parameters())) == 6
    assert torch.equal(BaseClassifier(lambda x: x.flatten(1))(torch.ones(2, 3)), torch.ones(2, 3))
