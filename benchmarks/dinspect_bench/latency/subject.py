"""What is measured: a version of a product on a server, and all that its time depends on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinspect_bench.errors import BenchmarkError, LatencyError, StatisticsError
from dinspect_bench.latency.statistics import StatisticsSource, ensemble_steps
from dinspect_bench.served import runtime_in_force, server_errors
from dinspect_client import wire
from dinspect_client.products import DamagedVersion
from dinspect_client.versions import ProductVersion, VersionRecord

if TYPE_CHECKING:
    from dinspect_client import InspectionClient

_PATCH_SIZE = 14
_PAD = "pad"  # how the server names what L2BT does to images


@dataclass(frozen=True)
class Subject:
    """An inspection that is repeated.

    Attributes:
        product: Name of the product, perhaps pinned to a version, as it is asked for.
        method: What it is inspected by.
        with_map: Whether the full-size anomaly map is asked for.
        ensemble: Ensemble that inspects it.
        version: The version that answers.
    """

    product: str
    method: str
    with_map: bool
    ensemble: str
    version: VersionRecord

    def settings(self) -> dict[str, Any]:
        """What the time depends on, flat, as a record of latency holds it."""
        version = self.version
        bank = version if isinstance(version, ProductVersion) else None
        return {
            "product": self.product,
            "method": self.method,
            "ensemble": self.ensemble,
            "bundle_version": version.version,
            "backbone": version.backbone.name,
            "backbone_sha256": version.backbone.onnx_sha256,
            "resolution": _PATCH_SIZE * min(version.grid),
            "input_size": wire.grid_label(version.grid, _PATCH_SIZE),
            "shots": version.num_references,
            "bank_patches": bank.num_patches if bank else None,
            "masking": bank.preprocessing.masked if bank else False,
            "rotation": bank.preprocessing.setting if bank else _PAD,
            "with_map": self.with_map,
        }


def find_subject(
    client: InspectionClient, reference: str, method: str, *, with_map: bool
) -> Subject:
    """Look a product up on the server.

    Args:
        client: Connected client.
        reference: Name of the product, or pinned: ``screw@3``.
        method: What it is to be inspected by.
        with_map: Whether the full-size anomaly map is asked for.

    Raises:
        BenchmarkError: If the reference is malformed, there is no such product by the method, or
            the version is missing or damaged.
    """
    try:
        name, pinned = wire.parse_product(reference)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    listed = [product for product in client.products() if product.method == method]
    ensembles = {product.name: product.ensemble for product in listed}
    if name not in ensembles:
        known = ", ".join(sorted(ensembles)) or "none"
        raise BenchmarkError(
            f"no product {name!r} is inspected by {method}; those that are: {known}"
        )
    history = client.history(name, method=method)
    number = history.current if pinned is None else pinned
    version = next((one for one in history.versions if one.version == number), None)
    if version is None:
        raise BenchmarkError(f"{name} has no version {number} that {method} could inspect by")
    if isinstance(version, DamagedVersion):
        raise BenchmarkError(f"version {number} of {name} is damaged: {version.error}")
    return Subject(reference, method, with_map, ensembles[name], version)


def runtime_settings(grpc_url: str, subject: Subject) -> dict[str, str]:
    """What runs the backbone, and in which precision.

    The served model is asked; one of Triton's own backends cannot say, and then the version's
    record counts.
    """
    import tritonclient.grpc

    with (
        contextlib.suppress(StatisticsError),
        contextlib.closing(tritonclient.grpc.InferenceServerClient(grpc_url)) as triton,
        server_errors(f"the steps of {subject.ensemble}"),
    ):
        backbone = ensemble_steps(triton, subject.ensemble)[1]
        info = runtime_in_force(grpc_url, backbone)
        return {"runtime": info["runtime"], "precision": info["precision"]}
    recorded = subject.version.backbone
    return {"runtime": recorded.runtime, "precision": recorded.precision}


def response_cache_state(grpc_url: str, ensemble: str) -> str:
    """Make sure that no answer comes from a cache.

    Returns:
        ``off``, or why the server does not tell.

    Raises:
        LatencyError: If it is on.
    """
    import tritonclient.grpc

    try:
        with (
            contextlib.closing(tritonclient.grpc.InferenceServerClient(grpc_url)) as triton,
            server_errors(f"the configuration of {ensemble}"),
        ):
            refuse_response_cache(triton, ensemble)
    except StatisticsError as error:
        return f"unknown: {error}"
    return "off"


def refuse_response_cache(client: StatisticsSource, ensemble: str) -> None:
    """Refuse an ensemble whose answers may come from a cache.

    Raises:
        LatencyError: If the ensemble or one of its steps has Triton's response cache on.
        StatisticsError: If the ensemble has no steps.
    """
    for name in (ensemble, *ensemble_steps(client, ensemble)):
        config = client.get_model_config(name, as_json=True).get("config", {})
        if config.get("response_cache", {}).get("enable"):
            raise LatencyError(
                f"{name} is served with Triton's response cache, so an image that was sent before "
                "would not be inspected; take response_cache out of its config"
            )
