"""The checkup: what works is said to, what is missing comes with its remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from runners import doctor
from runners.doctor import Finding
from runners.settings.environments import SUITES


def test_a_sound_machine_passes() -> None:
    # In a process of its own: dm-control binds its process to a renderer, or to none.
    command = [sys.executable, "-m", "runners", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "BROKEN" not in done.stdout, done.stdout
    for name in ("python", "torch", "device", *SUITES, "numba", "tensorboard", "mp4"):
        assert f" {name} " in done.stdout


def test_a_missing_package_is_a_note_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    findings = list(doctor._check_environments())
    assert [finding.status for finding in findings] == ["note"] * 4 + ["BROKEN"]
    assert 'pip install "tokendream[crafter]"' in findings[0].text


def test_what_pictures_of_dm_control_lack_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("envs.gl.loads", lambda name: "OSMesa" in name)
    (finding,) = doctor._check_drawing()
    assert finding.status == "ok" and "osmesa: its libraries load" in finding.text
    monkeypatch.setattr("envs.gl.loads", lambda name: False)
    (finding,) = doctor._check_drawing()
    assert finding.status == "note" and "apt-get install" in finding.text
    assert "libegl1 libopengl0 libegl-mesa0 (or libosmesa6)" in finding.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not list(doctor._check_drawing())


def test_dm_control_works_from_the_state_where_nothing_can_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("dm_control")
    monkeypatch.setattr("envs.gl.loads", lambda name: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    finding = doctor._try_suite("dmc")
    assert finding.status == "ok" and "vector of 24" in finding.text


def test_whatever_a_check_raises_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _check_teeth() -> Iterator[Finding]:
        yield Finding("ok", "teeth", "32")
        raise OSError("one is loose")

    monkeypatch.setattr(doctor, "CHECKS", (_check_teeth,))
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "BROKEN  teeth        OSError: one is loose" in printed
    assert "broken: teeth" in printed
