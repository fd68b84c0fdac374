"""Builds a table of features: shards next to the output, each written once, merged at the end."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ..data.lists import VideoList
from ..data.pool import Outcomes, TaskResult
from ..evaluation.features import claim, shards
from .compute import Computed
from .feature_table import FeatureRow, FeatureTable, merge_shards, outcomes_of, write_shard

if TYPE_CHECKING:
    import pyarrow

Parts = dict[int, range]  # the videos of each part of the list, by the number of the first


class ShardedTable:
    """The shards of a table, in the folder `<output>.parts`, and the merged file.

    Args:
        path: the file.
        videos: the list.
        schema: of the table, with metadata.
        identity: the metadata that is equal for equal tables.
        shard_size: videos per shard.
    """

    def __init__(
        self, path: Path, videos: VideoList, schema: "pyarrow.Schema", identity: Mapping[str, str], shard_size: int
    ) -> None:
        self.path = path
        self.folder = path.with_name(f"{path.name}.parts")
        self.schema = schema
        self.identity = dict(identity)
        self.shard_size = shard_size
        self.shards = shards(len(videos), shard_size)
        self._was_read = False  # whether earlier attempts have read a video
        root = videos.root.rstrip("/") + "/"
        self.names = [row.path.removeprefix(root) for row in videos.rows]

    def claim(self) -> None:
        """Record the settings of the output.

        Raises:
            ValueError: the output has other settings.
        """
        if not self.path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), FileLock(self.folder / "claim.lock"):  # unless the shards were merged
                self._claim_folder()
        if not self.path.exists():
            return
        found = FeatureTable(self.path).metadata
        different = [
            f"{key} was {found.get(key)}, is {mine}" for key, mine in self.identity.items() if found.get(key) != mine
        ]
        if different:
            raise ValueError(
                f"{self.path} holds other features: {'; '.join(different)}; delete it or choose another output"
            )

    def todo(self, rank: int, world_size: int, part_size: int) -> Parts:
        """Returns the parts, of at most `part_size` videos, of this process's missing shards.

        If earlier attempts read no video at all, their shards are computed again.
        """
        mine = {shard: rows for shard, rows in self.shards.items() if shard % world_size == rank}
        self._was_read = self._has_features()
        if not self._was_read:
            for shard in mine:
                self._shard(shard).unlink(missing_ok=True)
        left = [] if self.path.exists() else [rows for shard, rows in mine.items() if not self._shard(shard).exists()]
        return {start: rows[start - rows.start :][:part_size] for rows in left for start in rows[::part_size]}

    def collect(self, computed: Iterable[Computed], parts: Parts) -> Iterator[TaskResult[str, bool]]:
        """Writes each shard when all its parts are complete; yields the outcome of each video.

        Raises:
            CommonFailure: the first videos all fail for the same reason.
        """
        outcomes = Outcomes(len(self.names), was_read=self._was_read)
        waiting: dict[int, set[int]] = defaultdict(set)
        for part in parts:
            waiting[part // self.shard_size].add(part)
        ready: dict[int, list[FeatureRow]] = defaultdict(list)
        for one in computed:
            for piece, embedding in zip(one.pieces, one.embeddings, strict=True):
                name = self.names[piece.video_index]
                ready[one.part].append(FeatureRow(name, piece.start_sec, piece.end_sec, embedding, piece.error))
            if not one.last:
                continue
            errors = {row.video: row.error for row in ready[one.part] if row.error}
            read = {row.video for row in ready[one.part] if row.embedding is not None}
            shard = one.part // self.shard_size
            waiting[shard].remove(one.part)
            if not waiting[shard]:
                members = sorted(part for part in ready if part // self.shard_size == shard)
                rows = [row for part in members for row in ready.pop(part)]
                with FileLock(self.folder / "claim.lock"):
                    self._claim_folder()  # before the first shard, another command may claim it
                    write_shard(self._shard(shard), rows, self.schema)
            for name in (self.names[i] for i in parts[one.part]):
                outcomes.add(name, None if name in read else errors[name])
                yield TaskResult(name, None if name in errors else True, errors.get(name) or "")

    def merge(self) -> bool:
        """Merges the shards if all are complete (in the last process); returns whether the file exists.

        Raises:
            CommonFailure: no process has read a video, and all failed for the same reason.
        """
        paths = [self._shard(shard) for shard in self.shards]
        if not self.path.exists() and all(path.exists() for path in paths):
            with suppress(FileNotFoundError), FileLock(self.folder / "merge.lock"):
                if not self.path.exists():  # another process may have merged and removed the folder
                    if not self._has_features():
                        Outcomes(len(self.names)).add_all(one for path in paths for one in outcomes_of(path))
                    merge_shards(paths, self.path, self.schema)
        if self.path.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.path.exists()

    def _has_features(self) -> bool:
        """Whether any existing shard holds a feature."""
        try:
            return any(error is None for path in self.folder.glob("shard_*.parquet") for _, error in outcomes_of(path))
        except FileNotFoundError:  # another process has merged them in the meantime
            return True

    def _claim_folder(self) -> None:
        if not any(self.folder.glob("shard_*.parquet")):  # the claim of a run without results
            (self.folder / "settings.json").unlink(missing_ok=True)
        claim(self.folder, self.identity | {"shard_size": str(self.shard_size)})

    def _shard(self, shard: int) -> Path:
        return self.folder / f"shard_{shard:06d}.parquet"
