"""The version in force, for subcommands that show part of it."""

from __future__ import annotations

from dinspect_client.client import InspectionClient
from dinspect_client.errors import RequestRejected
from dinspect_client.methods import called
from dinspect_client.products import DamagedVersion
from dinspect_client.versions import VersionRecord
from dinspect_client.wire import Method


def version_in_force(
    client: InspectionClient, product: str, method: str = Method.ANOMALY_DINO
) -> VersionRecord:
    """Return the version of a product by a method that answers now.

    Raises:
        RequestRejected: If there is no such product, or its version in force is damaged.
        InspectionError: The subclass that fits.
    """
    version = client.history(product, method=method).in_force
    if isinstance(version, DamagedVersion):
        raise RequestRejected(
            f"version {version.version} of {called(product, method)} is in force and cannot be "
            f"used: {version.error}"
        )
    return version
