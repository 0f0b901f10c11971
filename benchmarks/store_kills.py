"""Does the store lose or spoil anything? Publishes that are killed at random moments, and many who promote at once.

Prints and writes what it saw for a local folder and for S3 (`local_s3.py`, or any bucket of yours). Exit code 1 when anything is wrong:
a version that was told published and is not whole, a log that does not lead to the aliases, half a version in a reader's hands.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onecard.adapters import remote_shelf
from onecard.adapters.aliases import Aliases, promoted
from onecard.adapters.manifest import Manifest
from onecard.adapters.store import Store
from onecard.adapters.verification import differences
from onecard.errors import OnecardError, StoreBusy

AGENT, NAME = "writer", "style"
VERSIONS_TO_PROMOTE = 8
READER_PAUSE_S = 0.05  # a reader without a pause takes the processor from those who publish and are to be killed
LOCK_TIMEOUT_S = 300.0  # everybody gets a turn; a wait that ends early would be counted, not hidden


def main() -> int:
    options = _options()
    found: dict[str, Any] = {"machine": platform.platform(), "processors": os.cpu_count(), "seed": options.seed}
    ok = True
    for kind in options.where:
        scratch = Path(tempfile.mkdtemp(prefix="store-kills-"))
        try:
            with _place(kind, scratch) as where:
                random.seed(options.seed)
                run = Run(where, scratch)
                found[kind] = {
                    "kills": run.kills(options.kills),
                    "promotes": run.promotes(options.promotes, options.processes, options.threads),
                }
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        ok = ok and not any(part["wrong"] for part in found[kind].values())
        print(f"{kind}: {json.dumps(found[kind], indent=2)}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print("nothing lost, nothing spoilt" if ok else "SOMETHING IS WRONG")
    return 0 if ok else 1


class Run:
    """One store at `where`. Everything that opens it runs in a forked process, so that the parent can fork again."""

    def __init__(self, where: str, scratch: Path) -> None:
        self.where, self.scratch = where, scratch

    def store(self, part: str) -> Store:
        return Store(f"{self.where}/{part}", LOCK_TIMEOUT_S, cache=self.scratch / "cache")

    def kills(self, count: int) -> dict[str, Any]:
        """Publishes one version after another and kills each publisher at a random moment, while somebody reads all the time."""
        usual_s = max(_forked(lambda n=n: self._publish_s("warm-up", n)) for n in range(2))
        told = [_forked(lambda: self._published("kills", 0))]  # from now on there is a candidate to read
        stop, reader_end = os.pipe()
        reader = _fork(lambda: self._read_until(stop))
        killed, attempts, longest_s = 0, 0, usual_s
        while killed < count:
            attempts += 1
            child = _fork(lambda n=attempts: self._publish("kills", n))
            child.wait_ready()
            time.sleep(random.uniform(0, longest_s))
            answer = child.kill()
            killed += child.was_killed
            longest_s *= (
                1.1 if child.was_killed else 0.8
            )  # about one in three finishes, so the kills fall into all of it
            if answer is not None:
                told.append(answer)
        os.write(reader_end, b"x")
        read = reader.result()
        for end in (stop, reader_end):
            os.close(end)
        seen = _forked(lambda: self._after_kills(told))
        seen["wrong"] += read["wrong"]
        return {
            "publishes": attempts, "killed": killed, "told_published": len(told), "usual_publish_s": round(usual_s, 3),
            "versions_hashed_by_the_reader_meanwhile": read["hashed"], **seen,
        }  # fmt: skip

    def promotes(self, count: int, processes: int, threads: int) -> dict[str, Any]:
        """`count` promotions of random versions, spread over processes and threads that all start together."""
        _forked(lambda: [self._published("promotes", n) for n in range(VERSIONS_TO_PROMOTE)])
        started = time.monotonic()
        each = -(-count // (processes * threads))
        children = [_fork(lambda p=p: self._promote_some(p, threads, each)) for p in range(processes)]
        results = [child.result() for child in children]
        seconds = time.monotonic() - started
        told = [reason for result in results for reason in result["told"]]
        seen = _forked(lambda: self._after_promotes(told))
        return {
            "asked": each * processes * threads, "processes": processes, "threads_each": threads, "told_done": len(told),
            "told_busy": sum(result["busy"] for result in results), "seconds": round(seconds, 1),
            **seen, "wrong": seen["wrong"] + [fault for result in results for fault in result["faults"]],
        }  # fmt: skip

    def _published(self, part: str, number: int) -> dict[str, str]:
        folder = write_adapter(self.scratch / f"adapter-{part}-{number}", seed=1.0 + number)
        stored = self.store(part).publish(AGENT, NAME, folder, a_manifest(), by="benchmark")
        return {"version": stored.version, "digest": stored.digest}

    def _publish(self, part: str, number: int) -> dict[str, str]:
        folder = write_adapter(self.scratch / f"adapter-{part}-{number}", seed=1.0 + number)
        store = self.store(part)
        store.exists()  # opens the connection, so that the kill falls into the publish and not into an import
        _say_ready()
        stored = store.publish(AGENT, NAME, folder, a_manifest(), by="benchmark")
        return {"version": stored.version, "digest": stored.digest}

    def _publish_s(self, part: str, number: int) -> float:
        self.store(part).exists()
        started = time.monotonic()
        self._published(part, number)
        return time.monotonic() - started

    def _read_until(self, stop: int) -> dict[str, Any]:
        """Resolves the candidate, fetches and hashes every file of it, again and again; the reader has a cache of its own."""
        os.set_blocking(stop, False)
        hashed, wrong = 0, []
        cache = Path(tempfile.mkdtemp(dir=self.scratch))
        store = Store(f"{self.where}/kills", LOCK_TIMEOUT_S, cache=cache)
        while not _readable(stop):
            try:
                stored = store.resolve(AGENT, f"{NAME}@candidate")
                wrong += differences(stored.folder, stored.manifest)
                hashed += 1
            except OnecardError as error:
                wrong.append(f"a reader saw: {error}")
            shutil.rmtree(cache, ignore_errors=True)
            time.sleep(READER_PAUSE_S)
        return {"hashed": hashed, "wrong": wrong}

    def _after_kills(self, told: list[dict[str, str]]) -> dict[str, Any]:
        """One more publish, which tidies up as every change does, and then every promise is checked."""
        store = self.store("kills")
        left_before = len(self._unfinished(store))
        remote_shelf.ABANDONED_AFTER_S = -1.0  # everybody is dead here: sweep now and not tomorrow
        told = [*told, self._published("kills", 10**6)]
        there = {stored.version: stored.digest for stored in store.versions(AGENT, NAME)}
        wrong = [f"told published and gone: {t}" for t in told if there.get(t["version"]) != t["digest"]]
        for version in there:
            wrong += [f"{version}: {difference}" for difference in store.verify(AGENT, NAME, version)]
        log = store.log(AGENT, NAME)
        logged = [entry.version for entry in log if entry.action in ("publish", "appeared")]
        if sorted(v for v in logged if v) != sorted(there):
            wrong.append(f"the log names {logged} and there are {sorted(there)}")
        if log[-1].aliases != store.aliases(AGENT, NAME):
            wrong.append(f"the log ends with {log[-1].aliases} and the aliases are {store.aliases(AGENT, NAME)}")
        if store.aliases(AGENT, NAME).candidate != told[-1]["version"]:
            wrong.append("the candidate is not what was published last")
        wrong += [f"not swept: {rest}" for rest in self._unfinished(store)]
        return {
            "versions": len(there), "log_entries": len(log), "unfinished_before_sweeping": left_before, "wrong": wrong
        }  # fmt: skip

    def _unfinished(self, store: Store) -> list[str]:
        """What lies in the store and belongs to no version."""
        there = set(store._place.shelf(AGENT, NAME).versions())
        if "://" in self.where:
            place = store._place
            assert isinstance(place, remote_shelf.RemotePlace)
            names = {found.key.split("/")[4] for found in place.objects.below(f"agents/{AGENT}/adapters/{NAME}")}
            return sorted(names - there - {"log"})
        shelf = store.root / "agents" / AGENT / "adapters" / NAME
        names = {path.name for path in shelf.iterdir()}
        return sorted(names - there - {"log.jsonl", "aliases.json", ".lock", ".holder"})

    def _promote_some(self, process: int, threads: int, each: int) -> dict[str, Any]:
        told: list[str] = []
        faults: list[str] = []
        busy = 0
        store = self.store("promotes")

        def work(thread: int) -> None:
            nonlocal busy
            chance = random.Random(f"{process}-{thread}")
            for n in range(each):
                version, reason = f"v{chance.randint(1, VERSIONS_TO_PROMOTE):04d}", f"{process}-{thread}-{n}"
                try:
                    store.promote(AGENT, NAME, version, by="benchmark", reason=reason, force=True)
                    told.append(reason)
                except StoreBusy:
                    busy += 1
                except Exception as error:
                    faults.append(f"{reason}: {type(error).__name__}: {error}")

        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {"told": told, "busy": busy, "faults": faults}

    def _after_promotes(self, told: list[str]) -> dict[str, Any]:
        """Replays the log: each line must follow from the one before it, and the last must be what the aliases say."""
        store = self.store("promotes")
        entries = store.log(AGENT, NAME)
        wrong = []
        aliases = Aliases()
        for number, entry in enumerate(entries, start=1):
            if entry.action == "promote" and entry.version:
                if promoted(aliases, entry.version) != entry.aliases or aliases.production == entry.version:
                    wrong.append(f"entry {number} does not follow from the one before it")
            elif entry.action != "publish":
                wrong.append(f"entry {number} is a {entry.action}")
            aliases = entry.aliases
        reasons = [entry.reason for entry in entries if entry.action == "promote"]
        if len(set(reasons)) != len(reasons) or not set(reasons) <= set(told):
            wrong.append("a promotion stands twice in the log, or nobody was told of it")
        if aliases != store.aliases(AGENT, NAME):
            wrong.append("log and aliases do not agree")
        return {"logged": len(reasons), "already_in_production": len(told) - len(reasons), "wrong": wrong}


class Child:
    """A forked process that answers once, as JSON through a pipe."""

    def __init__(self, process: int, answers: int) -> None:
        self.process, self._answers = process, os.fdopen(answers, "rb")
        self.was_killed = False

    def wait_ready(self) -> None:
        assert self._answers.read(1) == b"!", "a publisher died before it began"

    def kill(self) -> Any:
        """Kills it where it is; what it had answered before, or None."""
        os.kill(self.process, signal.SIGKILL)
        _, status = os.waitpid(self.process, 0)
        self.was_killed = os.WIFSIGNALED(status)
        return self._parsed()

    def result(self) -> Any:
        parsed = self._parsed()
        os.waitpid(self.process, 0)
        if parsed is None:
            raise RuntimeError("a process of this benchmark died; its stack trace stands above")
        return parsed

    def _parsed(self) -> Any:
        with self._answers:
            content = self._answers.read().lstrip(b"!")
        return json.loads(content) if content.endswith(b"\n") else None


_answers = -1


def _fork(work: Callable[[], Any]) -> Child:
    global _answers
    here, there = os.pipe()
    process = os.fork()
    if process:
        os.close(there)
        return Child(process, here)
    os.close(here)
    _answers = there
    code = 1
    try:
        content = memoryview(json.dumps(work()).encode() + b"\n")
        while content:
            content = content[os.write(there, content) :]
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _forked(work: Callable[[], Any]) -> Any:
    return _fork(work).result()


def _say_ready() -> None:
    os.write(_answers, b"!")


def _readable(pipe: int) -> bool:
    try:
        return bool(os.read(pipe, 1))
    except BlockingIOError:
        return False


@contextmanager
def _place(kind: str, scratch: Path) -> Iterator[str]:
    """A folder, a bucket of the server beside this file, or the URL that was given."""
    if kind == "local":
        yield str(scratch / "store")
    elif kind != "s3":
        yield kind.rstrip("/")
    else:
        import aiobotocore.session  # noqa: F401  # once, before the forks: every child would take a second for it,
        import s3fs  # noqa: F401  # and a kill is to hit the publishing, not the import

        server = Path(__file__).with_name("local_s3.py")
        with subprocess.Popen([sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin and process.stdout
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(process.stdout.readline())}",
                "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
            }  # fmt: skip
            _forked(_make_bucket)
            yield "s3://bucket/store"
            process.stdin.close()


def _make_bucket() -> bool:
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")
    return True


def write_adapter(folder: Path, seed: float) -> Path:
    """A rank-4 adapter of one module as PEFT writes it; another seed gives another content."""
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for side, shape in (("A", [4, 64]), ("B", [64, 4])):
        content = struct.pack("<256f", *(seed + 0.001 * i for i in range(256)))
        name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def a_manifest() -> Manifest:
    return Manifest.model_validate({
        "agent": AGENT, "name": NAME, "rank": 4, "alpha": 8, "targets": ("q_proj",), "stop_ids": (2,), "recipe": {},
        "base": {"id": "none", "fingerprint": "f" * 64, "quantization": "none"},
        "chat_template_sha256": "c" * 64, "data_sha256": "d" * 64,
        "training": {
            "rows": 1, "trained_tokens": 1, "steps": 1, "seconds": 1.0, "tokens_s": 1.0, "peak_memory_bytes": 1,
            "memory_kind": "process-rss", "curve": [], "hardware": "none", "versions": {},
        },
    })  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--where", nargs="+", default=["local", "s3"], help="local, s3, or a URL such as s3://bucket/empty"
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--promotes", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
