"""`tokendream list`: what there is to choose from."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from runners.errors import UserError

TOPICS = ("presets", "agents", "games", "tasks", "tables", "runs")


def list_choices(words: list[str]) -> int:
    """Print the presets, the games, the tasks, the tables of ablate, or the runs."""
    topic = words[0] if words else "presets"
    roots = [word.partition("=")[2] for word in words[1:] if word.startswith("root=")]
    if topic not in TOPICS or len(words) > 1 + len(roots):
        close = get_close_matches(topic, TOPICS, n=1, cutoff=0.5)
        hint = f"\n  did you mean: {close[0]}" if close else ""
        raise UserError(f"cannot list {' '.join(words)!r} (there are: {', '.join(TOPICS)}){hint}")
    if topic in ("presets", "agents"):
        from runners.settings.show import presets_text

        print(presets_text() if topic == "presets" else presets_text(("agent",)))
    elif topic == "games":
        from runners.settings.show import games_text

        print(games_text())
    elif topic == "tasks":
        from runners.settings.show import tasks_text

        print(tasks_text())
    elif topic == "tables":
        from runners.settings.ablations import tables_text

        print(tables_text())
    else:
        _list_runs(Path(roots[-1]) if roots else None)
    return 0


def _list_runs(root: Path | None) -> None:
    from runners.run_folder import ROOT, list_runs
    from runners.settings.show import table

    head = ("run", "status", "steps", "return", "folder")
    rows = [
        (
            run.path.name,
            run.status,
            f"{run.steps:,}",
            "-" if run.last_return is None else f"{run.last_return:.2f}",
            str(run.path.parent),
        )
        for run in list_runs(root or ROOT)
    ]
    print(table(head, rows) if rows else f"no runs in {root or ROOT}/")
