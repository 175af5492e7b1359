"""Run ours and the peers alternately, each run in a process of its own, and print ratios.

python -m benchmarks [CASE ...] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from benchmarks import cases, neural

CASES = cases.CASES | neural.CASES


def run_alone(case: str, contestant: str) -> dict:
    """One contestant in a fresh process: no thread pool or cache of another library is in its way."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "--one", case, contestant]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def run_here(name: str, contestant: str) -> None:
    """Prepare, time several runs, and print the median, the memory that the first took, and the figure to compare."""
    case = CASES[name]
    data = case.make()
    work = case.contestants[contestant](data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    while len(seconds) < 3 or (sum(seconds) < 1.0 and len(seconds) < 15):
        time.sleep(0.1)  # let spinning threads go to sleep
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
        if sum(seconds) > 20:
            break
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"seconds": statistics.median(seconds) / case.steps, "megabytes": peak, "score": data["score"](data)}))


def compare(name: str, repeats: int, console: Console) -> bool:
    """Print the table of one case; whether all goals are met."""
    case = CASES[name]
    runs: dict[str, list[dict]] = {contestant: [] for contestant in case.contestants}
    for _ in range(repeats):
        for contestant in case.contestants:
            runs[contestant].append(run_alone(name, contestant))
    ours = statistics.median(run["seconds"] for run in runs["unveil"])
    table = Table("library", "ms per step", "spread", "ratio", "goal", "peak MB", "result", title=case.title)
    met = True
    for contestant, results in runs.items():
        seconds = [run["seconds"] for run in results]
        ratios = [theirs / run["seconds"] for theirs, run in zip(seconds, runs["unveil"], strict=True)]
        ratio, goal = statistics.median(ratios), case.goal.get(contestant)
        met = met and (goal is None or ratio >= goal)
        table.add_row(
            contestant,
            f"{1e3 * statistics.median(seconds):.2f}",
            f"{1e3 * min(seconds):.2f} .. {1e3 * max(seconds):.2f}",
            f"{ratio:.1f} ({min(ratios):.1f} .. {max(ratios):.1f})" if contestant != "unveil" else "1",
            f"{goal:g}" if goal else "",
            f"{statistics.median(run['megabytes'] for run in results):.0f}",
            f"{results[-1]['score']:.10g}",
        )
    console.print(table)
    return met and ours > 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare speed and memory with other libraries.")
    parser.add_argument("cases", nargs="*", help=f"by default all of {', '.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "CONTESTANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_here(*arguments.one)
        return
    console = Console(width=140)
    missed = [name for name in arguments.cases or CASES if not compare(name, arguments.repeats, console)]
    console.print(f"Below their goal: {', '.join(missed)}" if missed else "All goals are met.")


if __name__ == "__main__":
    main()
