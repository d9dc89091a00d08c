"""Image files to arrays and back, with nothing lost on the way: depth, alpha, pages, colour, metadata, resolution.

A file is read by its content and written by its suffix, whole or not at all. Any module may import this package; the
codec libraries (libvips, Pillow) are imported when an image is read or written.
"""

from mdrn.files.formats import ALSO_READ, SUFFIXES, ImageFile, ImageFileError
from mdrn.files.reading import MAX_PIXELS, Pages, format_of, open_pages, read_image
from mdrn.files.writing import check_target, encode_image, encode_pages, write_image, write_pages

__all__ = ["ALSO_READ", "MAX_PIXELS", "SUFFIXES", "ImageFile", "ImageFileError", "Pages", "check_target"]
__all__ += ["encode_image", "encode_pages", "format_of", "open_pages", "read_image", "write_image", "write_pages"]
