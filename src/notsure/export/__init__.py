"""A guard as one graph: ONNX for onnxruntime, or a program of torch.export."""

from notsure.export.checking import TOLERANCE, Check
from notsure.export.description import Description
from notsure.export.files import Exported, to_onnx, to_program
from notsure.export.forms import Form, register_form
from notsure.export.graph import reasons
from notsure.export.running import Answer, OnnxGuard, ProgramGuard

__all__ = [
    "TOLERANCE",
    "Answer",
    "Check",
    "Description",
    "Exported",
    "Form",
    "OnnxGuard",
    "ProgramGuard",
    "reasons",
    "register_form",
    "to_onnx",
    "to_program",
]
