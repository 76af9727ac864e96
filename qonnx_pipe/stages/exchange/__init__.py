"""Exchange: encodings in the form of AIMET and QAIRT, out of a run and into a plan."""

from qonnx_pipe.stages.exchange.adopt import Adopted, adopt_encodings
from qonnx_pipe.stages.exchange.export import Exported, export_encodings

__all__ = ["Adopted", "Exported", "adopt_encodings", "export_encodings"]
