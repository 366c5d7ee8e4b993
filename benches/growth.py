#!/usr/bin/env python3
"""How cost grows: files, layers, steps, sizes, each by factors, with time, CPU and memory.

  growth.py --shale BINARY --base busybox.tar [--only files,runs,layers,steps,size,store]
            [--scale 1.0] [--dir DIR] [--json FILE] [--fill BENCH]

--fill is the binary of `cargo bench --bench store --no-run`, which makes the large stores of "store".

Every row is one build into a store of its own, cold and then again with
nothing changed. Time is wall seconds, CPU is of the command and of all that it
started (told by a control group, which only root can make; without one what
happens in a worker is not counted), memory is the largest VmHWM of any of its processes whose program is
shale: what a RUN's own command takes is not the builder's. The last column is
the cost by unit, to be read down: it must not rise.

Give --dir on a fresh file system (an ext4 image on a loop device will do): ext4 passes over inodes that were deleted in the last five
minutes one by one, so whatever was deleted before makes everything slow that comes after. For the same reason no store is
deleted before the end, but for the large ones of "size".
"""
import argparse, json, os, resource, shutil, subprocess, tempfile, threading, time


def peaks(root, seen):
    """Notes VmHWM of every process of shale below root, by pid."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    text = f.read()
                parents[int(name)] = int(text[text.rindex(b")") + 2:].split()[1])
            except OSError:
                pass
    for pid in parents:
        at = pid
        while at not in (root, 0, 1) and at in parents:
            at = parents[at]
        if at != root:
            continue
        try:
            if "shale" not in os.path.basename(os.readlink(f"/proc/{pid}/exe")):
                continue
            with open(f"/proc/{pid}/status") as f:
                for line in f:
                    if line.startswith("VmHWM:"):
                        seen[pid] = max(seen.get(pid, 0), int(line.split()[1]))
        except OSError:
            pass


class Group:
    """A control group that counts CPU, or the CPU of the children that were waited for: a step's processes are nobody's children."""

    def __init__(self):
        self.dir = None
        for parent, self.file, self.unit in [("/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e9), ("/sys/fs/cgroup", "cpu.stat", 1e6)]:
            made = f"{parent}/shale-growth-{os.getpid()}"
            try:
                os.mkdir(made)
                self.dir = made
                self.seconds()
                return
            except (OSError, IndexError, ValueError):
                self.remove()
        print("CPU without that of workers: no control group can be made here")

    def enter(self):
        if self.dir:
            with open(f"{self.dir}/cgroup.procs", "w") as f:
                f.write("0")

    def seconds(self):
        if not self.dir:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime
        with open(f"{self.dir}/{self.file}") as f:
            return int(f.read().split("\n")[0].split()[-1]) / self.unit

    def remove(self):
        """The process that writes back the disk outlives its build."""
        for _ in range(600 if self.dir else 0):
            try:
                os.rmdir(self.dir)
                break
            except OSError:
                time.sleep(.1)
        self.dir = None


def run(command, env, group):
    before = group.seconds()
    began = time.monotonic()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=group.enter)
    seen, over = {}, threading.Event()

    def watch():
        while not over.wait(.01):
            peaks(child.pid, seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = child.communicate()
    wall = time.monotonic() - began
    over.set()
    watcher.join()
    cpu = group.seconds() - before
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said.decode(errors='replace')[-3000:]}")
    return {"wall": wall, "cpu": cpu, "mb": max(seen.values(), default=0) / 1024}


class Bench:
    def __init__(self, a):
        self.a, self.rows, self.group = a, [], Group()
        self.dir = tempfile.mkdtemp(prefix="shale-growth-", dir=a.dir)
        self.env, self.stores = dict(os.environ), 0

    def reset(self):
        """A store that was never used."""
        self.stores += 1
        self.env["SHALE_ROOT"] = os.path.join(self.dir, f"store-{self.stores}")
        subprocess.run([self.a.shale, "load", "-q", "-i", self.a.base], env=self.env, check=True, stdout=subprocess.DEVNULL)

    def context(self, dockerfile):
        ctx = tempfile.mkdtemp(prefix="ctx-", dir=self.dir)
        with open(os.path.join(ctx, "Dockerfile"), "w") as f:
            f.write(dockerfile)
        return ctx

    def build(self, ctx, *more):
        return run([self.a.shale, "build", "-q", "-t", "growth", *more, ctx], self.env, self.group)

    def row(self, what, count, unit, ctx, *more):
        for how in ("cold", "again"):
            self.note(self.build(ctx, *more), what, count, unit, how)

    def note(self, r, what, count, unit, how):
        self.rows.append(dict(r, what=what, count=count, how=how))
        per = r["cpu"] / count * 1e6
        print(f'| {what} | {count:,} | {how} | {r["wall"]:.2f} | {r["cpu"]:.2f} | {r["mb"]:.0f} | {per:,.1f} µs/{unit} |', flush=True)

    def sized(self, counts):
        return [max(1, int(n * self.a.scale)) for n in counts]

    # What grows.

    def files(self):
        for count in self.sized([1_000, 10_000, 100_000]):
            self.reset()
            ctx = self.context("FROM busybox\nCOPY src /src\n")
            for n in range(count):
                if n % 100 == 0:
                    os.makedirs(f"{ctx}/src/d{n // 10_000}/e{n // 100}")
                with open(f"{ctx}/src/d{n // 10_000}/e{n // 100}/file_{n}.c", "w") as f:
                    f.write(f"{n}\n" * 40)
            self.row("files, COPY alone", count, "file", ctx)
            self.reset()
            with open(f"{ctx}/Dockerfile", "a") as f:
                f.write("RUN touch /done\nCOPY --from=busybox /bin/busybox /b\n")
            self.row("files, a RUN on top", count, "file", ctx)

    def runs(self):
        """What a RUN changes, in one directory: all of its files by mode, then the directory itself replaced."""
        for count in self.sized([1_000, 10_000, 100_000]):
            self.reset()
            make = f"mkdir /w && cd /w && seq 1 {count} | xargs touch"
            self.row("RUN that makes files", count, "file", self.context(f"FROM busybox\nRUN {make}\n"))
            again = f"FROM busybox\nRUN {make}\n"
            self.row("RUN that changes their modes", count, "file", self.context(f"{again}RUN chmod -R 700 /w\n"))
            self.row("RUN that replaces their directory", count, "file", self.context(f"{again}RUN rm -rf /w && {make}\n"))

    def store(self):
        """The cache of many builds: what it takes to look at it, and to empty it."""
        if not self.a.fill:
            raise SystemExit("store needs --fill")
        for count in self.sized([3_000, 30_000, 150_000]):
            self.stores += 1
            self.env["SHALE_ROOT"] = os.path.join(self.dir, f"store-{self.stores}")
            subprocess.run([self.a.fill, "fill", self.env["SHALE_ROOT"], str(count)], check=True)
            for what, command in [("system df", ["system", "df"]), ("prune of a thousandth", ["builder", "prune", "-f", "--filter", "id=00f"]),
                                  ("prune of all", ["builder", "prune", "-af"])]:
                self.note(run([self.a.shale, *command], self.env, self.group), what, count, "entry", "")

    def layers(self):
        for count in self.sized([1, 10, 100, 300]):
            self.reset()
            steps = "".join(f"COPY <<E /l/{n}\n{n}\nE\n" for n in range(count))
            base = self.context(f"FROM busybox\n{steps}")
            run([self.a.shale, "build", "-q", "-t", "high", base], self.env, self.group)
            archive = os.path.join(self.dir, "high.tar")
            subprocess.run([self.a.shale, "save", "-o", archive, "high"], env=self.env, check=True)
            self.reset()
            subprocess.run([self.a.shale, "load", "-q", "-i", archive], env=self.env, check=True, stdout=subprocess.DEVNULL)
            ctx = self.context("FROM high\nRUN echo >/x\nRUN echo >/y\n")
            self.row("layers of a base, two RUNs", count, "layer", ctx)

    def steps(self):
        for count in self.sized([10, 100, 1_000]):
            self.reset()
            steps = "".join(f"RUN echo {n} >/f{n}\n" for n in range(count))
            ctx = self.context(f"FROM busybox AS b\n{steps}FROM scratch\nCOPY --from=b /f* /\n")
            self.row("RUN steps, read by COPY --from", count, "step", ctx)
            self.reset()
            steps = "".join(f"COPY <<E /f{n}\n{n}\nE\n" for n in range(count))
            self.row("COPY steps", count, "step", self.context(f"FROM busybox\n{steps}"))

    def size(self):
        # Blocks that differ and half compress, so that nothing is shared and gzip has work.
        block = os.urandom(1 << 19) + b"the quick brown fox jumps over the lazy dog " * 11_916
        for count in self.sized([1, 100, 1_000, 8_000]):
            self.reset()
            ctx = self.context("FROM busybox\nCOPY big /big\n")
            with open(f"{ctx}/big", "wb") as f:
                for n in range(count):
                    f.write(n.to_bytes(8, "little") + block[8:1 << 20])
            out = os.path.join(self.dir, "out.tar")
            self.row("MB in one file, gzip archive", count, "MB", ctx, "-o", f"type=oci,dest={out}")
            self.reset()
            self.row("MB, a RUN on top", count, "MB", self.grown(ctx, "RUN touch /done\n"))
            for path in (out, f"{ctx}/big"):
                os.remove(path)
            self.prune()

    def prune(self):
        subprocess.run([self.a.shale, "builder", "prune", "-af"], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def grown(self, ctx, line):
        with open(f"{ctx}/Dockerfile", "a") as f:
            f.write(line)
        return ctx


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shale", default="shale")
    p.add_argument("--base", required=True, help="archive of an image named busybox")
    p.add_argument("--only", default="files,runs,layers,steps,size")
    p.add_argument("--fill", help="the binary of benches/store.rs")
    p.add_argument("--scale", type=float, default=1.0, help="multiplies every count")
    p.add_argument("--dir", help="where contexts and stores are made")
    p.add_argument("--json", help="rows as JSON, too")
    a = p.parse_args()
    bench = Bench(a)
    try:
        print("| what grows | count | | wall s | cpu s | memory MB | cpu by unit |\n|---|---|---|---|---|---|---|")
        for name in a.only.split(","):
            getattr(bench, name)()
    finally:
        for number in range(bench.stores):
            bench.env["SHALE_ROOT"] = os.path.join(bench.dir, f"store-{number + 1}")
            bench.prune()
        shutil.rmtree(bench.dir, ignore_errors=True)
        bench.group.remove()
    if a.json:
        with open(a.json, "w") as f:
            json.dump(bench.rows, f, indent=1)


if __name__ == "__main__":
    main()
