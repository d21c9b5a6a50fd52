"""The client's subcommands, one file each; the entry points of ``dinspect`` name these classes."""

from dinspect_client.commands.append import AppendCommand
from dinspect_client.commands.delete import DeleteCommand
from dinspect_client.commands.enroll import EnrollCommand
from dinspect_client.commands.export_product import ExportProductCommand
from dinspect_client.commands.history import HistoryCommand
from dinspect_client.commands.import_product import ImportProductCommand
from dinspect_client.commands.inspect import InspectCommand
from dinspect_client.commands.products import ProductsCommand
from dinspect_client.commands.region import RegionCommand
from dinspect_client.commands.rollback import RollbackCommand
from dinspect_client.commands.threshold import ThresholdCommand
from dinspect_client.commands.zero_shot import ZeroShotCommand

__all__ = [
    "AppendCommand",
    "DeleteCommand",
    "EnrollCommand",
    "ExportProductCommand",
    "HistoryCommand",
    "ImportProductCommand",
    "InspectCommand",
    "ProductsCommand",
    "RegionCommand",
    "RollbackCommand",
    "ThresholdCommand",
    "ZeroShotCommand",
]
