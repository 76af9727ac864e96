"""Bytes become text only when it is certain how: UTF-8, or for one old document Windows-1252, else an error."""

from __future__ import annotations

from pathlib import Path

from qonnx_pipe.errors import DataError


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), fix="check path and rights") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark; DataError with the offset of the first wrong byte."""
    try:
        return read_bytes(path).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _undecodable(path, error) from error


def read_document(path: Path) -> tuple[str, bool]:
    """The text of a file that is one document, and whether it had to be read as Windows-1252.

    Old corpora hold a few such files. One is taken for Windows-1252 when nothing outside ASCII in it is UTF-8: a file
    that mixes both is damaged, and refused as in `read_text`.
    """
    data = read_bytes(path)
    try:
        return data.decode().removeprefix("\ufeff"), False
    except UnicodeDecodeError as error:
        if b"\0" in data or not data.decode(errors="ignore").isascii():
            raise _undecodable(path, error) from error
        try:
            return data.decode("cp1252"), True
        except UnicodeDecodeError:
            raise _undecodable(path, error) from error


def _undecodable(path: Path, error: UnicodeDecodeError) -> DataError:
    what = f"byte 0x{error.object[error.start]:02x} at offset {error.start} is not UTF-8"
    return DataError(what, where=str(path), fix="save the file as UTF-8")
