"""The log as TensorBoard and as a reader of metrics.jsonl see it."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runners.errors import UserError
from runners.log import RunLog, cut_metrics
from runners.log_layout import horizon_marks, run_layout

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tb"), size_guidance={"images": 0, "scalars": 0})
    return accumulator.Reload()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def series(events: Any, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in events.Scalars(tag)]


def small_clip(frames: int = 6) -> np.ndarray:
    clip = np.zeros((frames, 16, 24, 3), np.uint8)
    for t in range(frames):
        clip[t, :, 4 * t : 4 * t + 4] = (255, 40 * t, 0)
    return clip


def test_scalars_reach_both_places(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.scalars(7, {"policy/loss": 0.5, "episode/return": 2})
    log.scalars(9, {"policy/loss": float("nan")})
    log.close()
    log.close()
    events = read(tmp_path)
    assert series(events, "policy/loss")[0] == (7, 0.5)
    assert series(events, "episode/return") == [(7, 2.0)]
    first, second = lines(tmp_path)
    assert first["step"] == 7 and first["policy/loss"] == 0.5 and first["episode/return"] == 2.0
    assert list(first)[2:] == ["policy/loss", "episode/return"]
    assert second["policy/loss"] is None


def fill(log: RunLog, step: int = 0) -> None:
    """Log until nothing more can be written."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for i in range(step, step + 50):
        log.scalars(i, {"a/b": 1.0})
        log.image("noise", noise, i)
        log.flush()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_told_and_what_was_logged_stays(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.scalars(0, {"a/b": 0.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
        with pytest.raises(UserError, match=f"cannot write to {tmp_path}.*MiB free"):
            fill(log, 1)
        lines_before = len(lines(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
        with pytest.raises(UserError, match="cannot write to"):
            log.scalars(99, {"a/b": 1.0})
        with contextlib.suppress(UserError):
            log.close()
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(lines(tmp_path)) == lines_before > 1


def test_resume_cuts_what_came_later(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (10, 20, 30, 40):
        log.scalars(step, {"a/b": float(step), "only/before": 1.0})
        log.image("picture", small_clip()[0], step)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "torn')
    log = RunLog(tmp_path, purge_step=20)
    log.scalars(25, {"a/b": 25.5})
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 25]
    events = read(tmp_path)
    assert series(events, "a/b") == [(10, 10.0), (20, 20.0), (25, 25.5)]
    assert series(events, "only/before") == [(10, 1.0), (20, 1.0)]
    assert [e.step for e in events.Images("picture")] == [10, 20]
    # The loader that TensorBoard itself falls back to has rules of its own.
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    served = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [e.step for e in served.Tensors("a/b")] == [10, 20, 25]
    assert [e.step for e in served.Tensors("only/before")] == [10, 20]


def test_cut_adds_the_newline_a_crash_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_metrics(path, 5)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"step": 2}')
    cut_metrics(path, 5)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_clip_keeps_every_frame_and_colour(tmp_path: Path) -> None:
    import io

    from PIL import Image

    clip = small_clip()
    log = RunLog(tmp_path)
    log.clip("imagination/clip", clip, step=3)
    with pytest.raises(ValueError, match="mp4"):
        log.clip("imagination/clip", clip, step=3, format="mp4")
    log.close()
    (event,) = read(tmp_path).Images("imagination/clip")
    assert (event.width, event.height) == (24, 16)
    picture: Any = Image.open(io.BytesIO(event.encoded_image_string))
    assert picture.n_frames == 6
    for t in range(6):
        picture.seek(t)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), clip[t])


def test_text_hparams_and_layout(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    log = RunLog(tmp_path)
    log.text("run/command", "tokendream train")
    log.hparams({"seed": 3, "fast": True, "env.suite": "crafter"}, ["eval/return"])
    log.layout(run_layout("crafter", 15, [""]))
    log.close()
    events = read(tmp_path)
    (event,) = events.Tensors("run/command")
    assert event.tensor_proto.string_val[0] == b"tokendream train"
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [c.title for c in layout.category] == ["Overview", "World model", "Policy", "Speed"]
    assert "score" in [chart.title for chart in layout.category[0].chart]
    margin = layout.category[1].chart[0].margin.series
    assert margin[0].value == "imagination/mse_h1" and margin[0].lower == "imagination/mse_h1_low"
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["seed"].number_value == 3 and start.hparams["fast"].bool_value
    assert start.hparams["env.suite"].string_value == "crafter"


def test_what_is_told_of_each_of_several_entries_has_charts_of_its_own() -> None:
    charts = run_layout("gymnasium", 5, ["pixels", "inner/kinds.a"])["World model"]
    titles = [title for title in charts if title.startswith("imagination error")]
    assert len(titles) == 4 and "imagination error of pixels with another" in titles[1]
    assert charts[titles[0]][0][0] == "imagination/pixels/mse_h1"
    (pattern, *_) = charts[titles[3]]
    assert re.fullmatch(pattern, "imagination/inner/kinds.a/misled_mse_h1")
    assert not re.fullmatch(pattern, "imagination/inner/kindsxa/misled_mse_h1")


def test_marks_are_few_and_end_at_the_horizon() -> None:
    assert horizon_marks(15) == (1, 5, 15)
    assert horizon_marks(3) == (1, 3)
    assert horizon_marks(1) == (1,)


def fetch(url: str, seconds: float = 100.0) -> tuple[str, bytes]:
    """The content type and body, once the server is up and has an answer that is not empty."""
    last = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body = answer.read()
                if body not in (b"{}", b"[]"):
                    return answer.headers["content-type"], body
        except OSError:
            if time.monotonic() > last:
                raise
        assert time.monotonic() < last, f"no data at {url}"
        time.sleep(0.3)


def test_real_tensorboard_serves_the_animation(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.clip("imagination/clip", small_clip(), step=3)
    log.scalars(3, {"eval/return": 1.0})
    log.hparams({"seed": 1}, ["eval/return"])
    log.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path)]
    command += ["--port", str(port), "--host", "127.0.0.1"]
    base = f"http://127.0.0.1:{port}/data/plugin"
    with (tmp_path / "server.txt").open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            query = urllib.parse.urlencode({"tag": "imagination/clip", "run": "tb"})
            _, body = fetch(f"{base}/images/images?{query}&sample=0")
            (image,) = json.loads(body)
            assert image["step"] == 3
            kind, data = fetch(f"{base}/images/individualImage?{image['query']}")
            assert kind == "image/png" and b"acTL" in data and data.count(b"fcTL") == 6
            _, body = fetch(f"{base}/scalars/tags")
            assert "eval/return" in json.loads(body)["tb"]
            query = urllib.parse.urlencode({"request": "{}"})
            _, body = fetch(f"{base}/hparams/experiment?{query}")
            assert json.loads(body)["hparamInfos"][0]["name"] == "seed"
        finally:
            server.terminate()
            server.wait(timeout=60)
