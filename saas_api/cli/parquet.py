"""Parquet files from CSV files of PostgreSQL, and back."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from saas_api.cli.errors import CommandError


class ParquetFiles:
    """Parquet files by pyarrow, which is installed only where partitions are archived.

    Columns are rows of information_schema.columns: column_name, udt_name, numeric_precision, numeric_scale.

    raises: CommandError when it is not installed
    """

    def __init__(self) -> None:
        try:
            self._pa, self._csv, self._parquet = map(import_module, ("pyarrow", "pyarrow.csv", "pyarrow.parquet"))
        except ImportError:
            raise CommandError("Archives need pyarrow: pip install -r requirements-archive.txt.") from None

    def write_parquet(self, source: Path, target: Path, columns: Sequence[Any]) -> int:
        """Write a CSV file of PostgreSQL as Parquet, one row group for each batch; returns the number of rows."""
        count = 0
        with self._parquet.ParquetWriter(target, self._schema(columns), compression="zstd") as writer:
            for batch in self._batches(source, columns):
                writer.write_batch(batch, row_group_size=max(batch.num_rows, 1))
                count += batch.num_rows
        return count

    def verify(self, source: Path, target: Path, columns: Sequence[Any]) -> None:
        """Read a Parquet file back and compare every value.

        raises: CommandError
        """
        with self._parquet.ParquetFile(target) as file:
            groups = iter(range(file.num_row_groups))
            for batch in self._batches(source, columns):
                group = next(groups, None)
                if group is None or not file.read_row_group(group).equals(self._pa.Table.from_batches([batch])):
                    raise CommandError(f"{target} does not contain what was written; nothing is dropped.")
            if next(groups, None) is not None:
                raise CommandError(f"{target} contains more than was written; nothing is dropped.")

    def write_csv(self, source: Path, target: Path) -> None:
        """Write a Parquet file as a CSV file for PostgreSQL, in which only NULL has no quotes."""
        with self._parquet.ParquetFile(source) as file:
            options = self._csv.WriteOptions(include_header=False, quoting_style="all_valid")
            with self._csv.CSVWriter(target, file.schema_arrow, write_options=options) as writer:
                for batch in file.iter_batches():
                    writer.write_batch(batch)

    def _batches(self, source: Path, columns: Sequence[Any]) -> Iterator[Any]:
        if source.stat().st_size == 0:  # Arrow does not read an empty file
            return
        schema = self._schema(columns)
        with self._csv.open_csv(
            source,
            read_options=self._csv.ReadOptions(column_names=schema.names, block_size=16_777_216),
            parse_options=self._csv.ParseOptions(newlines_in_values=True),
            convert_options=self._csv.ConvertOptions(
                column_types=schema,
                null_values=[""],
                true_values=["t"],
                false_values=["f"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ) as reader:
            yield from (batch for batch in reader if batch.num_rows)

    def _schema(self, columns: Sequence[Any]) -> Any:
        pa = self._pa
        types = {
            "int2": pa.int16(),
            "int4": pa.int32(),
            "int8": pa.int64(),
            "bool": pa.bool_(),
            "date": pa.date32(),
            "timestamptz": pa.timestamp("us", tz="UTC"),
        }
        return pa.schema(
            (
                column.column_name,
                pa.decimal128(column.numeric_precision, column.numeric_scale)
                if column.udt_name == "numeric"
                else types.get(column.udt_name, pa.string()),
            )
            for column in columns
        )
