#!/usr/bin/env python3
"""The README's comparison table, from what was measured.

  compare.py RESULTS.jsonl [--run] [--shale shale-rootless] [--peers docker,buildah-rootless]
             [--only w1,w5] [-n 3] [--versions "docker 29.1, buildah 1.41"] [--date 2026-01-31]
             [--machine "a two-core virtual machine"] [--readme README.md] [--print]

With --run everything is measured first, by the program in RIG_BENCH, which
takes --tool, --only, --mode, -n and --results and finds the tools, contexts
and output folder by itself (RIG_TOOLS, RIG_WORK, RIG_OUT). --shale may name
two tools, say shale-rootless,shale: each has a column. A peer that needs
other flags for some workloads is several tools and one column, named by the
last of them: kaniko-cache+kaniko takes of each row the first that ran.

RESULTS has one JSON object a line, a run each: tool, workload (w1 .. w8),
mode (tar, store), ok, wall and cpu in seconds, rss_client and rss_daemon in
MB, size in bytes. The table goes between the two marker lines of the README;
a workload that a tool did not finish is "not compared", and rows in which
shale is not the fastest are named below the table. Runs of different days
must not share a file: only ratios within one run mean something.
"""
import argparse, datetime, json, os, re, statistics, subprocess

BEGIN, END = "<!-- comparison: written by benches/compare.py -->", "<!-- end of the comparison -->"
ROWS = [
    ("w1", "store", "nothing changed: 10,000 files, 200 MB of context"),
    ("w1", "tar", "the same, to an archive"),
    ("w2", "tar", "one of these files changed, to an archive"),
    ("w3", "tar", "cold `COPY` of 10,000 small files, to an archive"),
    ("w4", "tar", "1 GB, half of it compressible, to a gzip archive"),
    ("w5", "store", "50 trivial `RUN` steps, cold"),
    ("w6", "store", "four stages of `sleep 2` and a join"),
    ("w7cold", "store", "apt, pip and npm, cold"),
    ("w7warm", "store", "the same after an edit"),
    ("w8", "store", "one `RUN` on a base of 60 layers"),
]


def medians(lines):
    """(workload, mode, tool) -> medians of its runs that ended well."""
    runs = {}
    for line in lines:
        run = json.loads(line)
        if run["ok"]:
            runs.setdefault((run["workload"], run["mode"], run["tool"]), []).append(run)
    middle = lambda rows, key: statistics.median(row.get(key) or 0 for row in rows)
    return {key: {k: middle(rows, k) for k in ("wall", "cpu", "rss_client", "rss_daemon", "size")} for key, rows in runs.items()}


def seconds(value):
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def cell(found, tool):
    if not found:
        return "not compared"
    notes = []
    if tool.startswith("docker") and found["size"]:
        notes = ["not compressed"]  # docker save writes layers as they are.
    elif tool == "kaniko" and not found["size"]:
        notes = ["no image kept"]  # It has no store: without an archive it drops what it built, and keeps its cache at most.
    return f'{seconds(found["wall"])} ({"; ".join([seconds(found["cpu"]), *notes])})'


def table(results, a):
    ours = a.shale.split(",")
    parts = {peer.rpartition("+")[2]: peer.split("+") for peer in [*ours, *a.peers.split(",")]}
    tools = list(parts)
    kinds = [tool.removesuffix("-rootless") for tool in tools]
    name = lambda tool: tool if kinds.count(tool.removesuffix("-rootless")) > 1 else tool.removesuffix("-rootless")
    out = [f"| workload | {' | '.join(map(name, tools))} |", "|---" * (len(tools) + 1) + "|"]
    losses, memory = [], {tool: 0 for tool in tools}
    for workload, mode, words in ROWS:
        found = {tool: next(filter(None, (results.get((workload, mode, part)) for part in parts[tool])), None) for tool in tools}
        if not any(found.values()):
            continue
        for tool, one in found.items():
            if one:
                # Of w7 the commands' own memory would be counted: those of the others have none to speak of.
                if not workload.startswith("w7"):
                    memory[tool] = max(memory[tool], one["rss_client"] + one["rss_daemon"])
        if (size := (found[ours[0]] or {}).get("size")) and workload == "w4":
            words += f" of {size / 1e6:.0f} MB"
        out.append(f"| {words} | " + " | ".join(cell(found[tool], tool) for tool in tools) + " |")
        # Root is held against root, and who has no root against who has none or works through a root daemon.
        for tool in tools[len(ours):]:
            own = next((one for one in ours if one.endswith("-rootless") == tool.endswith("-rootless")), ours[0])
            if found[own] and found[tool] and found[tool]["wall"] <= found[own]["wall"]:
                losses.append(f"{name(tool)} is faster at: {words}")
    text = (
        f"Median wall seconds (CPU seconds behind them) of one run on {a.date} on {a.machine}: shale "
        + ("as an ordinary user and as root" if len(ours) > 1 else "as an ordinary user" if ours[0].endswith("-rootless") else "as root")
        + f" beside {a.versions}. Only the ratios mean something elsewhere.")
    peaks = ", ".join(f"{name(tool)} {memory[tool]:.0f}" for tool in tools if memory[tool])
    below = f"Largest resident memory in MB, client and daemon, without the workload whose commands are large: {peaks}. "
    below += "; ".join(losses) + "." if losses else "No peer was faster at any of these."
    return "\n".join([BEGIN, text, "", *out, "", below, END])


def measure(a):
    """Every row of the table, appended to the results: a mode at a time, since a workload is not run in each."""
    for mode in ("store", "tar"):
        # w7cold and w7warm are one workload.
        workloads = dict.fromkeys(w[:2] for w, m, _ in ROWS if m == mode and w[:2] in a.only.split(","))
        if workloads:
            tools = ",".join([a.shale, a.peers.replace("+", ",")])
            command = [os.environ["RIG_BENCH"], "--tool", tools, "--only", ",".join(workloads), "--mode", mode, "-n", str(a.n)]
            subprocess.run([*command, "--results", a.results], check=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results")
    p.add_argument("--run", action="store_true", help="measure first, with the program in RIG_BENCH")
    p.add_argument("--only", default="w1,w2,w3,w4,w5,w6,w7,w8", help="with --run: these workloads")
    p.add_argument("-n", type=int, default=3, help="with --run: how often")
    p.add_argument("--shale", default="shale-rootless")
    p.add_argument("--peers", default="docker,buildah-rootless")
    p.add_argument("--versions", default="Debian's docker (daemon as root) and buildah (rootless)")
    p.add_argument("--date", default=datetime.date.today().isoformat())
    p.add_argument("--machine", default="a two-core virtual machine")
    p.add_argument("--readme", default="README.md")
    p.add_argument("--print", action="store_true", help="to standard output, not into the README")
    a = p.parse_args()
    if a.run:
        measure(a)
    with open(a.results) as f:
        new = table(medians(f), a)
    if a.print:
        print(new)
        return
    with open(a.readme) as f:
        text = f.read()
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    if not pattern.search(text):
        raise SystemExit(f"{a.readme} lacks the lines {BEGIN} and {END}")
    with open(a.readme, "w") as f:
        f.write(pattern.sub(lambda _: new, text))


if __name__ == "__main__":
    main()
