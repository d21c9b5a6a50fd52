"""Meta's weights from Meta's address, once."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from tqdm import tqdm

from dinspect_export.errors import CheckpointError
from dinspect_export.variants import BackboneVariant
from dinspect_export.weights_location import PACKAGED, meta_checkpoint_path

DOWNLOAD_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


def download_from_meta(variant: BackboneVariant, cache_dir: Path) -> Path:
    """Fetch a variant's weights from Meta's published address, unless they are there.

    Returns:
        Path of the cached file. A partial or altered download never takes that name.

    Raises:
        CheckpointError: If Meta does not publish the variant, the address cannot be reached, the
            download breaks off, or its SHA-256 is not the published one.
    """
    target = meta_checkpoint_path(variant, cache_dir)
    if target.is_file():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        digest = _fetch(str(variant.checkpoint_url), partial, target.name)
        if variant.checkpoint_sha256 not in (None, digest):
            raise CheckpointError(
                f"{variant.checkpoint_url} was received with SHA-256 {digest}, expected is "
                f"{variant.checkpoint_sha256}; it was removed. Something between here and Meta "
                "changes the file: fetch it in another way and pass its path"
            )
        partial.replace(target)
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(
            f"cannot download {variant.name} from {variant.checkpoint_url}: {error}. Fetch the "
            f"file on a machine with access and pass its path, or use '{PACKAGED}' to try the demo"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(url: str, path: Path, label: str) -> str:
    """Write what an address answers into a file and return its hex SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310
        total = int(response.headers.get("Content-Length", 0))
        with (
            path.open("wb") as file,
            tqdm(total=total or None, unit="B", unit_scale=True, desc=label) as bar,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            received = file.tell()
    if total and received != total:
        raise CheckpointError(f"{url} broke off after {received} of {total} bytes; try again")
    return digest.hexdigest()
