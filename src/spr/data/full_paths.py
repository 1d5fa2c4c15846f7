"""Images named by their full path or URL, as benchmarks name them: one `ImageStore` per folder."""

from __future__ import annotations

from PIL import Image

from spr.data.images import ImageStore, Watch, open_store


class FullPaths:
    """Loads a picture by full path (local, or a URL that fsspec reads). The same rules and errors as
    `ImageStore.load`; `watch` knows images by these paths.
    """

    def __init__(self) -> None:
        self.watch = Watch("evaluate")
        self._stores: dict[str, ImageStore] = {}

    def load(self, path: str) -> Image.Image:
        """The picture in RGB, stored pixels. Raises DataError for a missing folder, ImageError for a picture
        that cannot be used.
        """
        folder, _, name = path.rpartition("/")
        if folder not in self._stores:
            store = open_store(folder or ".")
            store.watch, store.prefix = self.watch, path.removesuffix(name)
            self._stores[folder] = store
        return self._stores[folder].load(name)
