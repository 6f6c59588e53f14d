"""Names that exist only for scripts written for the published code, FCOS, HRNet-FCOS and maskrcnn-benchmark.

Each is a thin name for what this project has. `MODULES` maps the published module paths to the files of this folder;
docs/published_scripts.md lists every name and what differs. No other part of the project uses them.
"""

from fcos_core.published_scripts.aliases import ModuleAliases

# Published module path: module that stands for it.
MODULES = {
    "fcos_core.data.collate_batch": "fcos_core.published_scripts.collate_batch",
    "fcos_core.data.datasets": "fcos_core.published_scripts.datasets",
    "fcos_core.data.datasets.coco": "fcos_core.published_scripts.datasets",
    "fcos_core.data.datasets.evaluation": "fcos_core.published_scripts.evaluation",
    "fcos_core.modeling.utils": "fcos_core.published_scripts.modeling_utils",
    "fcos_core.solver.build": "fcos_core.solver",
    "fcos_core.structures.boxlist_ops": "fcos_core.published_scripts.boxlist_ops",
    "fcos_core.utils.env": "fcos_core.published_scripts.env",
    "fcos_core.utils.imports": "fcos_core.published_scripts.imports",
    "fcos_core.utils.metric_logger": "fcos_core.published_scripts.metric_logger",
    "fcos_core.utils.miscellaneous": "fcos_core.published_scripts.miscellaneous",
    "fcos_core.utils.model_serialization": "fcos_core.published_scripts.model_serialization",
    "fcos_core.utils.model_zoo": "fcos_core.published_scripts.model_zoo",
    "fcos_core.utils.registry": "fcos_core.published_scripts.registry",
}


def install() -> None:
    """Let `import` find `MODULES`, after every real module; `import fcos_core` calls this once."""
    ModuleAliases(MODULES.get).install()
