"""Client of a dinspect server: inspect images, enrol products, look at the result.

Needs numpy and tritonclient, OpenCV for pictures; importing it loads neither gRPC nor OpenCV.
"""

from dinspect_client.client import InspectionClient
from dinspect_client.errors import (
    InspectionError,
    InvalidImageError,
    ModelUnavailable,
    ProtocolMismatch,
    RequestRejected,
    RequestTimeout,
    ServerFault,
    ServerUnreachable,
)
from dinspect_client.images import ImageSource
from dinspect_client.results import Calibration, Enrollment, Inspection, Product
from dinspect_client.wire import Verdict

__all__ = [
    "Calibration",
    "Enrollment",
    "ImageSource",
    "Inspection",
    "InspectionClient",
    "InspectionError",
    "InvalidImageError",
    "ModelUnavailable",
    "Product",
    "ProtocolMismatch",
    "RequestRejected",
    "RequestTimeout",
    "ServerFault",
    "ServerUnreachable",
    "Verdict",
]
