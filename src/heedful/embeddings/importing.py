"""`read_embeddings`: item vectors that were made elsewhere, as a table. Nothing is ever unpickled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heedful.embeddings.table import ItemEmbeddings
from heedful.embeddings.word2vec import read_binary, read_text
from heedful.errors import InputError
from heedful.events.vocabulary import Ids

__all__ = ["read_embeddings"]

_PICKLES = (".kv", ".model", ".pkl", ".pickle", ".pt", ".pth")


def read_embeddings(source: Any, ids: Ids | str | os.PathLike[str] | None = None) -> ItemEmbeddings:
    """Item vectors from elsewhere.

    Args:
        source: one of
            a folder of embeddings;
            a `.npy` file of numbers [I, D], with `ids`;
            a `.parquet` file with a column `item_id` and either one column of lists of numbers or many numeric columns;
            a word2vec file, text (`.txt`, `.vec`) or binary (`.bin`);
            a gensim `KeyedVectors` or `Word2Vec` object.
        ids: for a `.npy` file: the ids in row order, as a sequence or as a file (`.txt` with one id a line, `.npy`,
            or `.parquet` with a column `item_id`).

    Raises:
        InputError: the source is not one of these, is damaged, or does not hold a table.
        FolderError: the folder is not a sound folder of embeddings.

    """
    if not isinstance(source, str | os.PathLike):
        _refuse_ids(ids)
        return _from_gensim(source)
    path = Path(source)
    if path.is_dir():
        _refuse_ids(ids)
        return ItemEmbeddings.load(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist", expected="a file or folder of item vectors")
    if path.suffix == ".npy":
        if ids is None:
            raise InputError(
                f"{path} holds numbers without ids", fix="pass ids=, a sequence or a .txt, .npy or .parquet file"
            )
        return _table(path, _read_ids(ids), _read_npy(path))
    _refuse_ids(ids)
    return _table(path, *_reader(path)(path))


def _reader(path: Path) -> Callable[[Path], tuple[Ids, np.ndarray]]:
    readers: dict[str, Callable[[Path], tuple[Ids, np.ndarray]]] = {
        ".parquet": _read_parquet,
        ".txt": read_text,
        ".vec": read_text,
        ".bin": read_binary,
    }
    if path.suffix in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when it is read",
            expected="a word2vec file",
            fix="load it where you trust it and export: vectors.save_word2vec_format('vectors.bin', binary=True)",
        )
    if path.suffix not in readers:
        raise InputError(
            f"{path} has a suffix that names no known format", got=path.suffix, expected=f".npy {' '.join(readers)}"
        )
    return readers[path.suffix]


def _table(path: Path, ids: Ids, vectors: np.ndarray) -> ItemEmbeddings:
    return ItemEmbeddings.from_arrays(ids, vectors, provenance={"source": path.name})


def _refuse_ids(ids: object) -> None:
    if ids is not None:
        raise InputError("ids are given, but the source has its own", fix="leave out ids, or pass a .npy file with them")


def _from_gensim(source: Any) -> ItemEmbeddings:
    keyed = getattr(source, "wv", source)
    if not hasattr(keyed, "index_to_key") or not hasattr(keyed, "vectors"):
        raise InputError(
            "invalid source of item vectors",
            got=type(source).__name__,
            expected="a path, or a gensim KeyedVectors or Word2Vec object",
            fix="use ItemEmbeddings.from_arrays(ids, vectors) for arrays",
        )
    provenance = {"source": f"{type(source).__module__}.{type(source).__name__}"}
    contexts = getattr(source, "syn1neg", None)
    return ItemEmbeddings.from_arrays(list(keyed.index_to_key), keyed.vectors, contexts, provenance=provenance)


def _read_npy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as an array", got=error, expected="a .npy file without Python objects"
        ) from error
    return array


def _read_ids(ids: Ids | str | os.PathLike[str]) -> Ids:
    if not isinstance(ids, str | os.PathLike):
        return ids
    path = Path(ids)
    if not path.is_file():
        raise InputError(f"{path} does not exist", expected="a file of ids")
    if path.suffix == ".npy":
        array = _read_npy(path)
        return array.tolist() if array.dtype.kind == "U" else np.asarray(array)
    if path.suffix == ".parquet":
        parquet = _open_parquet(path)
        return parquet.read(columns=["item_id"])["item_id"]
    try:
        # Only a line feed ends an id: splitlines would also split at the odd characters that some ids contain.
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", got=error, expected="one id a line") from error
    return [line.removesuffix("\r") for line in lines]


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet", got=error) from error
    if "item_id" not in parquet.schema_arrow.names:
        raise InputError(f"{path} has no column of ids", got=", ".join(parquet.schema_arrow.names), expected="item_id")
    return parquet


def _read_parquet(path: Path) -> tuple[Ids, np.ndarray]:
    parquet = _open_parquet(path)
    columns = [field for field in parquet.schema_arrow if field.name != "item_id"]
    lists = [field.name for field in columns if _is_list(field.type)]
    numbers = [field.name for field in columns if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)]
    if len(lists) > 1 or not (lists or numbers):
        raise InputError(
            f"{path} does not say which column holds the vectors",
            got=", ".join(f"{field.name}: {field.type}" for field in columns) or "no column but item_id",
            expected="one column of lists of numbers, or many numeric columns",
        )
    names = lists or numbers
    ids, vectors_ID, low = [], np.empty((parquet.metadata.num_rows, 0), np.float32), 0
    for batch in parquet.iter_batches(columns=["item_id", *names]):
        block_BD = _from_lists(path, batch, names[0]) if lists else _from_columns(path, batch, names)
        if low == 0:
            vectors_ID = np.empty((len(vectors_ID), block_BD.shape[1]), np.float32)
        if block_BD.shape[1] != vectors_ID.shape[1]:
            raise InputError(f"{path} has vectors of different widths", got=block_BD.shape[1], expected=vectors_ID.shape[1])
        vectors_ID[low : low + len(block_BD)] = block_BD
        ids.append(batch.column("item_id"))
        low += len(block_BD)
    return pa.chunked_array(ids, parquet.schema_arrow.field("item_id").type), vectors_ID


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _from_lists(path: Path, batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(lengths != lengths[0]) if lengths[0] > 0 else np.array([0])
    if len(odd):
        raise InputError(
            f"{path} has a vector of another width or none at all",
            got=f"item {batch.column('item_id')[int(odd[0])].as_py()!r} in column {name}",
            expected="the same number of values for each item",
        )
    values = column.flatten()
    if values.null_count or not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise InputError(f"{path} has vectors that are not numbers", got=f"{values.null_count} nulls in {values.type}")
    flat: np.ndarray = values.to_numpy(zero_copy_only=False)
    return flat.reshape(len(batch), -1)


def _from_columns(path: Path, batch: pa.RecordBatch, names: list[str]) -> np.ndarray:
    for name in names:
        if batch.column(name).null_count:
            raise InputError(f"{path} has a missing number", got=f"null in column {name}", expected="a number in each row")
    return np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names])
