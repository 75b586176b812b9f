"""Experts that are trained in a moment."""

from dgdd_fast.config import NetworkConfig, PretrainConfig

NETWORK = NetworkConfig(architecture="resnet18", width=4)


TINY = PretrainConfig(experts=2, epochs=3, batch_size=40, network=NETWORK, checkpoint_every=2)


def weights(pool, index, share):
    expert = pool.new_expert()
    pool.fill_(expert, index, share)
    return [parameter.clone() for parameter in expert.parameters()]


def equal(first, second):
    return all(one.equal(other) for one, other in zip(first, second, strict=True))
