# SPDX-License-Identifier: Apache-2.0
"""what a benchmark file holds: one row for every figure (docs/architecture.md, "Benchmarks")"""
import json
import statistics


def at_most(limit):
    return f"<= {limit:g}", lambda v: v <= limit


def at_least(limit):
    return f">= {limit:g}", lambda v: v >= limit


def below(limit):
    return f"< {limit:g}", lambda v: v < limit


def show(row):
    mark = {True: "ok", False: "MISSED", None: ""}[row["ok"]]
    goal = f"goal {row['goal']}" if row["goal"] else ""
    print(f"   {row['metric']:42} {row['value']:12.4g} {row['unit']:10} {goal:16} {mark}", flush=True)


class Rows:
    def __init__(self):
        self.rows = []

    def add(self, metric, values, unit, goal, ok, start, end):
        """values: one or many; ok: a function of their median, or None without a goal"""
        values = values if isinstance(values, list) else [values]
        self.rows.append({
            "metric": metric, "value": statistics.median(values), "unit": unit, "goal": goal,
            "ok": ok(statistics.median(values)) if ok else None, "min": min(values),
            "median": statistics.median(values), "max": max(values), "n": len(values),
            "from": start, "to": end})

    def take(self, row, goal=None, ok=None):
        """a row that a program has made, without the goal, which is ours"""
        self.rows.append(dict(row, goal=goal, ok=ok(row["value"]) if ok else None))

    def value(self, metric):
        return next(r["value"] for r in self.rows if r["metric"] == metric)

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.rows, indent=1) + "\n")

    def table(self):
        """what has a goal, once more"""
        missed = [row["metric"] for row in self.rows if row["ok"] is False]
        print("\n  figures with a goal")
        for row in self.rows:
            if row["goal"]:
                show(row)
        print("  every goal was reached" if not missed else f"  MISSED: {', '.join(missed)}")
