"""Client of a dinspect server: inspect images, enrol products, manage them, look at the result.

Needs numpy and tritonclient, OpenCV for pictures; importing it loads neither gRPC nor OpenCV.
"""

from dinspect_client.client import InspectionClient
from dinspect_client.errors import (
    InspectionError,
    InvalidImageError,
    ModelUnavailable,
    ProductFileError,
    ProtocolMismatch,
    RequestRejected,
    RequestTimeout,
    ServerFault,
    ServerUnreachable,
)
from dinspect_client.images import ImageSource
from dinspect_client.products import DamagedVersion, LoggedChange, Product, ProductHistory
from dinspect_client.results import DefectRegion, Inspection, ZeroShotScore
from dinspect_client.versions import (
    Backbone,
    BankBackbone,
    Calibration,
    Change,
    ImageRecord,
    MeasuredLoss,
    Preprocessing,
    ProductVersion,
    Region,
    Scoring,
    StudentsVersion,
    TokenDistance,
    VersionRecord,
)
from dinspect_client.wire import Verdict

__all__ = [
    "Backbone",
    "BankBackbone",
    "Calibration",
    "Change",
    "DamagedVersion",
    "DefectRegion",
    "ImageRecord",
    "ImageSource",
    "Inspection",
    "InspectionClient",
    "InspectionError",
    "InvalidImageError",
    "LoggedChange",
    "MeasuredLoss",
    "ModelUnavailable",
    "Preprocessing",
    "Product",
    "ProductFileError",
    "ProductHistory",
    "ProductVersion",
    "ProtocolMismatch",
    "Region",
    "RequestRejected",
    "RequestTimeout",
    "Scoring",
    "ServerFault",
    "ServerUnreachable",
    "StudentsVersion",
    "TokenDistance",
    "Verdict",
    "VersionRecord",
    "ZeroShotScore",
]
