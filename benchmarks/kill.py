"""`make kill-test`: SIGKILL at random moments, until the files are those of a run that nobody disturbed.

A small world with two workers: `spr run` (two adapters, one of them with two rounds), then `spr ablate`.
First undisturbed; then again at the same place, with kills: of the command, which is started again at once,
or of one of its workers, which the command has to replace. A kill comes after up to 20 seconds of work, or as
soon as a stage that was drawn writes something. When both commands are through, every file must be there and
none more, each with the bytes of the undisturbed run (seconds apart). Then it begins anew, until there were
--kills.

    python -m benchmarks.kill --kills 50 --seed 0

Goes on where it stood: each kill is a line of runs/kill/<seed>-<code>/log.jsonl, and a run that was killed
goes on anyway.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress
from tests.e2e.tools import config_of, differences, files_of

from benchmarks.resume import code_digest, read_log
from spr.scenes.files import write_split
from spr.store.folders import FOLDERS, STAGES
from spr.store.run import VERBS

SCENES = {"pair": 8, "test": 4}
WORKER = 0.3  # of the kills are for a worker, where there is one
LONGEST = 20.0  # seconds of work before a kill, at most
STUCK = 300.0  # seconds after which a command does not end any more
ADAPTERS = {"spr_paper": {}, "spr": {"sft_weight": 1.0, "rejected_coordinates": "none", "rounds": 2}}
CHANGES = ("runtime.workers=2", "runtime.shard_size=2", f"adapters={json.dumps(ADAPTERS)}")
COMMANDS: Mapping[str, tuple[str, ...]] = {"run": (), "ablate": ("--vary", "pairing.lambda=0.8,0.5")}


class Command:
    """`spr run CONFIG` or `spr ablate CONFIG` in a process of its own, whose stderr goes to a file."""

    def __init__(self, name: str, config: Path) -> None:
        self._said, self._run = config.with_suffix(".log"), config.with_suffix("")
        words = ["-m", "spr", name, str(config), *COMMANDS[name]]
        words += [word for change in CHANGES for word in ("--set", change)]
        env = {**os.environ, "SPR_CACHE": str(config.parent / "cache")}
        with self._said.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words], env=env, stdout=subprocess.DEVNULL, stderr=log
            )

    def lines(self) -> list[str]:
        """What it said until now."""
        return self._said.read_text(encoding="utf-8", errors="replace").splitlines()

    def _announced(self) -> str:
        announced = [line for line in self.lines() if " to do" in line]
        words = announced[-1].replace(":", " ").split() if announced else []
        return next((w for w in words if w in STAGES), "evaluate" if "test" in words else "preflight")

    def wait(self, seconds: float, folder: str) -> int | str:
        """The exit code; or the stage that it is in, when it is still at work so many seconds after now and
        its first line, or when something is new in the folder of that stage.
        """
        begin, end, before = time.monotonic(), None, self._files(folder)
        while (code := self._process.poll()) is None:
            now = time.monotonic()
            if end is None and self._said.stat().st_size:
                end = now + seconds
            if self._files(folder) - before:
                return VERBS[folder]
            if end is not None and now > end:
                return self._announced()
            if now > begin + STUCK:
                raise SystemExit(f"still at work after {STUCK:.0f} s; it said last: {self.lines()[-3:]}")
            time.sleep(0.01)
        return code

    def _files(self, folder: str) -> set[str]:
        """All files of this name, and those that lie in a folder of this name, at any depth."""
        found = (Path(place, name) for place, _, names in os.walk(self._run) for name in names)
        return {str(file) for file in found if folder in file.parts} if folder else set()

    def kill(self) -> None:
        """SIGKILL for the command. Its workers have to notice."""
        self._process.kill()
        self._process.wait()

    def kill_worker(self, rng: random.Random) -> bool:
        """SIGKILL for one of its workers; False when it has none at the moment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._process.pid).children()
            if workers := [child for child in children if "spawn_main" in " ".join(child.cmdline())]:
                rng.choice(workers).kill()
                return True
        return False


def finish(
    name: str, config: Path, draw: Callable[[], random.Random | None], note: Callable[..., None]
) -> None:
    """Start a command again and again until it ends by itself. `draw` gives the chance of the next kill, or
    None once there are enough; `note` hears of each kill. Raises SystemExit for an end that should not be.
    """
    while True:
        command = Command(name, config)
        while True:
            rng = draw()
            folder = rng.choice(["", *FOLDERS.values()]) if rng else ""
            stage = command.wait(rng.uniform(0, LONGEST) if rng else STUCK, folder)
            if isinstance(stage, int) or rng is None:
                break
            if rng.random() < WORKER and command.kill_worker(rng):
                note(command=name, stage=stage, victim="worker")
                continue
            command.kill()
            note(command=name, stage=stage, victim="command")
            break
        if stage == 0:
            return
        if isinstance(stage, int) and not command.lines()[-1].startswith("spr: shard"):  # killed three times
            raise SystemExit("\n".join([*command.lines(), f"`spr {name}` ended with exit code {stage}"]))


def main() -> None:
    """Kill and compare, print which stages were met how often, and exit with 1 where anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="in all, with those of earlier runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill"))
    args = parser.parse_args()
    folder = (args.out / f"{args.seed}-{code_digest('kill.py')}").absolute()
    run, undisturbed, log = folder / "run", folder / "undisturbed", folder / "log.jsonl"
    config = folder / "run.yaml"
    if not undisturbed.exists():
        shutil.rmtree(folder, ignore_errors=True)
        config_of({split: write_split(folder / "world", split, n) for split, n in SCENES.items()}, run)
    rows = read_log(log)

    def note(**row: Any) -> None:
        rows.append(row)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("kills", total=args.kills)

        def draw() -> random.Random | None:
            done = sum("victim" in row for row in rows)
            bars.update(bar, completed=done)
            return random.Random(f"{args.seed}-{done}") if done < args.kills else None

        if not undisturbed.exists():
            for name in COMMANDS:
                finish(name, config, lambda: None, note)
            run.rename(undisturbed)
        while draw() or run.exists():
            for name in COMMANDS:
                finish(name, config, draw, note)
            note(compared=len(files_of(undisturbed)), different=differences(run, undisturbed))
            run.rename(folder / f"run-{sum('compared' in row for row in rows)}")
    table = Counter((row["command"], row["stage"], row["victim"]) for row in rows if "victim" in row)
    for (command, stage, victim), n in sorted(table.items()):
        print(f"spr {command:8} {stage:10} {victim:8} {n:4}")
    compared = [row for row in rows if "compared" in row]
    print(
        f"{table.total()} kills, {len(compared)} runs compared, {sum(row['compared'] for row in compared)} "
        f"files; seed {args.seed}, {log}"
    )
    different = [name for row in compared for name in row["different"]]
    print("\n".join([f"{len(different)} different", *different]))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
