"""One run's log: TensorBoard under RUN/tb and the same scalars in RUN/metrics.jsonl.

The x axis is always environment steps (decisions). Event files are written with tensorboard's
own writer, without torch's, whose video summary writes nothing and whose `add_hparams` opens
a second run.
"""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

from runners.durable import disk_full_explained
from runners.media import ENCODERS, encode_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

FLUSH_SECONDS = 10


class RunLog:
    """Writes scalars, pictures and text of the run in `folder`.

    `purge_step`: on resume, the step that the run goes on from; what was logged at later steps
    is cut from metrics.jsonl and hidden by TensorBoard (by its fast loader once the tag is
    logged again). None for a new run.
    `sizes`: what `sizes()` gave at the moment that the run goes on from. Then the files are cut
    to that, so that what was logged later at the same step is gone as well.
    All methods raise UserError where the disk is full; events are written by another thread, so
    theirs may come a call later.
    """

    def __init__(
        self,
        folder: Path,
        purge_step: int | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder, self.metrics = folder, folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        with disk_full_explained(folder):
            if sizes is not None:
                _cut_files(folder, sizes)
            if purge_step is not None:
                cut_metrics(self.metrics, purge_step)
            self._writer = EventFileWriter(str(folder / "tb"), flush_secs=FLUSH_SECONDS)
        # TensorBoard drops what it read before such a mark at the mark's step or later, but takes
        # the first mark of a run for its beginning: a new run needs one for the next to count.
        step = 0 if purge_step is None else purge_step + 1
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, session_log=start))
        self._lines = self.metrics.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at `step`.

        A number that is not finite is null in metrics.jsonl, as JSON has no NaN.
        """
        if not values:
            return
        record: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        record |= {tag: float(x) if math.isfinite(x) else None for tag, x in values.items()}
        with disk_full_explained(self.folder):
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
        self._add(step, [{"tag": tag, "simple_value": x} for tag, x in values.items()])

    def clip(
        self, tag: str, frames: np.ndarray, step: int, fps: float = 8.0, format: str = "apng"
    ) -> None:
        """Show frames (T,H,W,3) uint8 as an animated picture; `format` is apng or gif."""
        if format not in ("apng", "gif"):
            raise ValueError(f"TensorBoard plays apng and gif, not {format}")
        self._image(tag, ENCODERS[format](frames, fps), frames.shape[1], frames.shape[2], step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Show one picture (H,W,3) uint8."""
        self._image(tag, encode_png(picture), picture.shape[0], picture.shape[1], step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Show text; TensorBoard reads it as Markdown."""
        from tensorboard.plugins.text import metadata

        summary_metadata = metadata.create_summary_metadata(display_name=None, description=None)
        self._add(step, [_text_value(tag, text.encode(), summary_metadata)])

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Fill the HParams tab: flat settings, and the scalar tags shown beside them."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        hparam_infos = []
        for name, value in settings.items():
            kind = _set_hparam(start.hparams[name], value)
            hparam_infos.append(api_pb2.HParamInfo(name=name, type=kind))
        experiment = api_pb2.Experiment(hparam_infos=hparam_infos, metric_infos=infos)
        for tag, field, content in (
            (metadata.EXPERIMENT_TAG, "experiment", experiment),
            (metadata.SESSION_START_INFO_TAG, "session_start_info", start),
        ):
            data = plugin_data_pb2.HParamsPluginData(**{field: content})
            summary_metadata = metadata.create_summary_metadata(data)
            self._add(0, [{"tag": tag, "metadata": summary_metadata, "tensor": _null()}])

    def layout(self, tabs: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """Fill the Custom Scalars tab: category -> chart title -> its tags.

        A chart of plain strings is one of lines; one of triples (mean, low, high) has bands.
        """
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        categories = []
        for title, charts in tabs.items():
            made = [_chart(layout_pb2, name, tags) for name, tags in charts.items()]
            categories.append(layout_pb2.Category(title=title, chart=made))
        content = layout_pb2.Layout(category=categories).SerializeToString()
        value = _text_value(
            metadata.CONFIG_SUMMARY_TAG, content, metadata.create_summary_metadata()
        )
        self._add(0, [value])

    def flush(self) -> None:
        """Hand everything logged so far to the operating system; survives a kill from here on."""
        with disk_full_explained(self.folder):
            self._writer.flush()

    def sizes(self) -> dict[str, int]:
        """The length of each file of the log by its name, after a flush."""
        self.flush()
        return {str(f.relative_to(self.folder)): f.stat().st_size for f in _files(self.folder)}

    def close(self) -> None:
        """Write what is left and release the files; a second call does nothing."""
        if self._lines.closed:
            return
        with disk_full_explained(self.folder):
            try:
                self._writer.close()
            finally:
                self._lines.close()

    def _image(self, tag: str, data: bytes, height: int, width: int, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._add(step, [{"tag": tag, "image": image}])

    def _add(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(**v) for v in values])
        event = event_pb2.Event(wall_time=time.time(), step=int(step), summary=summary)
        with disk_full_explained(self.folder):
            self._writer.add_event(event)


def cut_metrics(path: Path, last_step: int) -> None:
    """Drop the lines of metrics.jsonl after `last_step`, and one that a crash tore."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= last_step:
            kept.append(line if line.endswith(b"\n") else line + b"\n")
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _files(folder: Path) -> list[Path]:
    return [*sorted((folder / "tb").glob("events.*")), folder / "metrics.jsonl"]


def _cut_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut the log's files to `sizes`, and drop those begun later."""
    for file in _files(folder):
        size = sizes.get(str(file.relative_to(folder)))
        if size is None:
            file.unlink(missing_ok=True)
        elif file.exists() and file.stat().st_size > size:
            os.truncate(file, size)


def _chart(layout_pb2: Any, title: str, tags: Sequence[Any]) -> Any:
    if isinstance(tags[0], str):
        lines = layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags])
        return layout_pb2.Chart(title=title, multiline=lines)
    series = [
        layout_pb2.MarginChartContent.Series(value=mean, lower=low, upper=high)
        for mean, low, high in tags
    ]
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=series))


def _set_hparam(slot: Any, value: Any) -> int:
    from tensorboard.plugins.hparams import api_pb2

    if isinstance(value, bool):
        slot.bool_value = value
        return int(api_pb2.DATA_TYPE_BOOL)
    if isinstance(value, int | float):
        slot.number_value = value
        return int(api_pb2.DATA_TYPE_FLOAT64)
    slot.string_value = str(value)
    return int(api_pb2.DATA_TYPE_STRING)


def _text_value(tag: str, content: bytes, metadata: Any) -> dict[str, Any]:
    from tensorboard.compat.proto import tensor_pb2

    tensor = tensor_pb2.TensorProto(dtype="DT_STRING", string_val=[content])
    return {"tag": tag, "metadata": metadata, "tensor": tensor}


def _null() -> Any:
    from tensorboard.plugins.hparams import metadata

    return metadata.NULL_TENSOR
