"""Download weights from the Hugging Face hub, for hf://ORGANIZATION/REPOSITORY/FILE and hf://timm/NAME."""

import os

from fcos_core.errors import InputError

SCHEME = "hf://"
# The file that timm puts into each of its repositories.
_TIMM_FILE = "model.safetensors"


def split_hub_name(source: str) -> tuple[str, str]:
    """Split hf://ORGANIZATION/REPOSITORY/FILE into repository and file; raise InputError if a part is missing."""
    organization, _, rest = source.removeprefix(SCHEME).partition("/")
    repository, _, file = rest.partition("/")
    if organization == "timm" and not file:
        file = _TIMM_FILE
    if not (organization and repository and file):
        raise InputError(
            f"'{source}' names no file of the Hugging Face hub: write hf://ORGANIZATION/REPOSITORY/FILE, or "
            "hf://timm/NAME for a model of timm."
        )
    return f"{organization}/{repository}", file


def download_from_hub(source: str) -> str:
    """Return the path of the hub's file `source` in the cache of huggingface_hub, which downloads it if necessary.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and the other environment variables of huggingface_hub apply. Raise InputError if the
    name is malformed, the library is not installed, or the download fails.
    """
    repository, file = split_hub_name(source)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"'{source}' needs the library huggingface_hub: pip install 'fcos_core[hub]' (or pip install "
            "huggingface_hub), or download the file yourself and name it in MODEL.WEIGHT."
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        return hf_hub_download(repository, file, endpoint=endpoint)
    # The library raises errors of its own, of its HTTP client, and of the system.
    except Exception as error:
        raise InputError(
            f"Downloading {source} failed ({type(error).__name__}: {' '.join(str(error).split())[:300]}). Check the "
            "name and the network; HF_ENDPOINT names another server, and `hf auth login` opens files that ask for a "
            f"login. Or download {file} yourself and name it in MODEL.WEIGHT."
        ) from error
