"""Published `utils.model_zoo`: files from URLs."""

from fcos_core.weights.download import download


def cache_url(url: str, model_dir: None = None, progress: bool = True) -> str:
    """Return the path of the cached file of `url`; `model_dir` and `progress` are not read, see `download`."""
    return download(url)
