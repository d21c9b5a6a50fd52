"""The version in force, for subcommands that show part of it."""

from __future__ import annotations

from dinspect_client.client import InspectionClient
from dinspect_client.errors import RequestRejected
from dinspect_client.products import DamagedVersion
from dinspect_client.versions import ProductVersion


def version_in_force(client: InspectionClient, product: str) -> ProductVersion:
    """Return the version of a product that answers now.

    Raises:
        RequestRejected: If there is no such product, or its version in force is damaged.
        InspectionError: The subclass that fits.
    """
    version = client.history(product).in_force
    if isinstance(version, DamagedVersion):
        raise RequestRejected(
            f"version {version.version} of {product} is in force and cannot be used: "
            f"{version.error}"
        )
    return version
