"""Small caches of random tokens and trainings on them, for several tests."""

from __future__ import annotations

import torch
from random_networks import tiny

from dinspect_export import training
from dinspect_export.token_cache import TokenCache, TokenCacheKey
from dinspect_export.training import (
    TrainingOptions,
    train_students,
)

VARIANT = tiny(dim=4)
LAYERS = (2, 3)
OPTIONS = TrainingOptions(epochs=3, learning_rate=0.01, batch_images=2)


def make_cache(folder, num_images=3, num_patches=6, dim=4, seed=0):
    """Tokens of block k are a function of those of block j that students can learn."""
    digests = tuple(f"{seed}-{index}" for index in range(num_images))
    key = TokenCacheKey(digests, "backbone", LAYERS, num_patches, dim)
    cache = TokenCache.open(folder, key, 10**9)
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    for index in cache.missing():
        tokens_j = torch.randn(num_patches, dim, generator=generator)
        cache.put(index, tokens_j, torch.tanh(tokens_j @ mixing))
    return cache


def train(cache, options=OPTIONS, indices=(0, 1, 2), **others):
    return train_students(cache, indices, VARIANT, LAYERS, options, **others)


def weights(students):
    return {name: tensor.clone() for name, tensor in students.pair.state_dict().items()}


def same(found, expected):
    return all(torch.equal(found[name], expected[name]) for name in expected)


def float64(student):
    return {name: tensor.detach().double().numpy() for name, tensor in student.state_dict().items()}


def tokens_float64(cache, indices):
    return tuple(tokens.double().numpy() for tokens in cache.read(indices))


def numbers_of(path):
    _, progress, state = training._read_checkpoint(path)
    return progress.num_steps, all(tensor.isfinite().all() for tensor in state.values())


class StopHereError(Exception):
    pass


def stop_after(number):
    def on_step(step, num_steps, loss):
        if step == number:
            raise StopHereError

    return on_step
