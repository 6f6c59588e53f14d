"""Published import path of the checkpointers, kept for scripts."""

from fcos_core.published_scripts.checkpoint import Checkpointer as Checkpointer
from fcos_core.weights.checkpointer import DetectronCheckpointer as DetectronCheckpointer
