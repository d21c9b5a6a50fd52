"""Triton's configs of the ensembles: which models an image passes through, and in which order.

A rule is kept here and checked by a test: a tensor that an ensemble puts out feeds no later step,
because Triton prunes its producer when a client does not ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tritonclient.grpc import model_config_pb2 as pb

from dinspect_client import wire
from dinspect_server.triton_config import (
    DISTANCE_GRID,
    IMAGE_SIZE,
    MAP_SETTINGS,
    MAX_BATCH,
    PADDED_PIXELS,
    PIXELS,
    BackboneModel,
    input_of,
    output_of,
    patch_distances_spec,
    preprocess_name,
    tokens_spec,
)


def anomaly_dino_config(backbone: BackboneModel, *, raw: bool) -> pb.ModelConfig:
    """The ensemble that plant software calls."""
    tokens = {backbone.last_tokens.name: "patch_tokens"}
    return _inspection_config(
        wire.anomaly_dino_model(backbone.label, raw=raw),
        backbone,
        PIXELS,
        tokens,
        f"cosine_knn_{backbone.label}",
        raw=raw,
    )


def l2bt_config(
    backbone: BackboneModel, product: str, layers: tuple[int | str, int | str], *, raw: bool
) -> pb.ModelConfig:
    """The ensemble of one L2BT product.

    Args:
        backbone: The backbone, of a square input.
        product: Its name, or what stands for it in a template.
        layers: Blocks ``(j, k)`` that its students translate, or what stands for them.
        raw: Whether it takes decoded images.
    """
    tokens = {f"patch_tokens_{layer}": f"patch_tokens_{layer}" for layer in layers}
    return _inspection_config(
        wire.l2bt_model(product, backbone.label, raw=raw),
        backbone,
        PADDED_PIXELS,
        tokens,
        f"students_{backbone.label}",
        raw=raw,
    )


def patch_tokens_config(backbone: BackboneModel) -> pb.ModelConfig:
    """The ensemble that gives an image's patch tokens, for the training of students."""
    tokens = [tokens_spec(backbone, layer) for layer in backbone.layers]
    config = pb.ModelConfig(
        name=wire.patch_tokens_model(backbone.label),
        platform="ensemble",
        max_batch_size=MAX_BATCH,
        input=[input_of(wire.IMAGE)],
        output=[output_of(spec) for spec in (*tokens, wire.IMAGE_SIZE)],
    )
    config.ensemble_scheduling.step.extend(
        [
            _step(
                preprocess_name(backbone, raw=False),
                _same(wire.IMAGE.name),
                _same(PADDED_PIXELS, IMAGE_SIZE),
            ),
            _step(backbone.name, {PIXELS: PADDED_PIXELS}, _same(*(spec.name for spec in tokens))),
        ]
    )
    return config


def _inspection_config(
    name: str,
    backbone: BackboneModel,
    pixels: str,
    tokens: Mapping[str, str],
    scoring_model: str,
    *,
    raw: bool,
) -> pb.ModelConfig:
    """Image and product to everything that is known of the part.

    Args:
        name: Of the ensemble.
        backbone: The backbone.
        pixels: Output of the preprocessing that it takes.
        tokens: Its outputs to the inputs of what scores.
        scoring_model: What scores.
        raw: Whether it takes decoded images.
    """
    source = wire.IMAGE_RGB if raw else wire.IMAGE
    config = pb.ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=MAX_BATCH,
        input=[input_of(source), input_of(wire.PRODUCT)],
        output=[
            output_of(patch_distances_spec(backbone) if spec is wire.PATCH_DISTANCES else spec)
            for spec in wire.INSPECTION_OUTPUTS
        ],
    )
    answers = [spec.name for spec in wire.INSPECTION_OUTPUTS if spec not in wire.MAP_OUTPUTS]
    config.ensemble_scheduling.step.extend(
        [
            _step(
                preprocess_name(backbone, raw=raw), _same(source.name), _same(pixels, IMAGE_SIZE)
            ),
            _step(backbone.name, {PIXELS: pixels}, tokens),
            _step(
                scoring_model,
                _same(*tokens.values(), wire.PRODUCT.name, IMAGE_SIZE),
                _same(*answers, DISTANCE_GRID, MAP_SETTINGS),
            ),
            _step(
                "anomaly_map",
                _same(DISTANCE_GRID, IMAGE_SIZE, MAP_SETTINGS),
                _same(*(spec.name for spec in wire.MAP_OUTPUTS)),
            ),
        ]
    )
    return config


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _step(
    model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> pb.ModelEnsembling.Step:
    return pb.ModelEnsembling.Step(
        model_name=model, model_version=-1, input_map=inputs, output_map=outputs
    )
