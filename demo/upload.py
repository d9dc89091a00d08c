"""Upload fields that hand over the visitor's file as it is: not decoded, not converted, never fetched from elsewhere.

Gradio's own fields open an upload with Pillow before any check can run, and download a path that is a web address.
"""

from __future__ import annotations

import abc
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData, ImageData, ListFiles

_NOT_OPENED = "Please upload the file itself; addresses and inline data are not opened."


class _OnlyUploads:
    """Passes on the path of an uploaded file and refuses everything else."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise gr.Error(_NOT_OPENED, print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def preprocess(self, payload: FileData | ImageData | ListFiles | None) -> str | list[str] | None:
        if payload is None:
            return None
        several = getattr(self, "file_count", "single") != "single"
        files = payload.root if isinstance(payload, ListFiles) else [payload]
        paths = [_uploaded(each) for each in files]
        if len(paths) > 1 and not several:
            raise gr.Error("Expected one file, got several.", print_exception=False)
        return paths if several else paths[0]


def _uploaded(file: FileData | ImageData) -> str:
    if not file.path or (file.url or "").startswith("data:"):
        raise gr.Error(_NOT_OPENED, print_exception=False)
    return file.path


def _only_uploads(field: type) -> type:
    """Derive a field under the same name, by which the browser knows it.

    A class statement would run Gradio's metaclass, which writes a stub file beside this module.
    """
    return abc.ABCMeta.__new__(type(field), field.__name__, (_OnlyUploads, field), {"__module__": __name__})


Image = _only_uploads(gr.Image)
File = _only_uploads(gr.File)
