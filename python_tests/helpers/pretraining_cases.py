"""Data that the experts of a moment can learn."""

import dataclasses

import torch


def with_stripes(data):
    """Domains that stripes tell apart: instance normalisation removes the toy data's colour and contrast."""
    stripes = torch.stack([torch.arange(16) // (2**domain) % 2 for domain in range(3)])
    images = (data.images * 0.75 + 30 * stripes[data.domains][:, None, None]).byte()
    return dataclasses.replace(data, images=images)
