"""Export trained encoders: to ONNX, torch.export, and the folder of a model hub.

The package is not called ``export``, because ``deephash.export`` is the function.
"""

from deephash.deployment.command import Exported, export
from deephash.deployment.metadata import read_metadata

__all__ = ["Exported", "export", "read_metadata"]
