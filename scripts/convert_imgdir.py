"""Convert a folder of `.npz` files, one per image, to an image LMDB in the release's layout.

    python scripts/convert_imgdir.py --img_dir npz/coco_train2014 --output img_db/coco_train2014

Each `.npz` holds `features` (n, D), `norm_bb` (n, 6: x1, y1, x2, y2, w, h in 0..1), `conf` (n,) and, for MRC,
`soft_labels` (n, classes, background first). The most confident boxes are kept: those above `--conf_th`, at least
`--min_bb` and at most `--max_bb`; all with `--keep_all`. With `--conf_th -1` boxes keep their order, and `--num_bb` is
part of the store's name: readers take the first `num_bb` boxes, so the boxes of an image that has more are sorted.
What is done is kept in `.VARIANT.partial`, and the same command goes on there. This file also runs alone: it imports
nothing else of the project.
"""

import argparse
import contextlib
import fcntl
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import lmdb
    import msgpack
    import msgpack_numpy
    import numpy as np
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    print(
        f"error: the package {missing.name} is missing: pip install lmdb msgpack msgpack-numpy numpy tqdm",
        file=sys.stderr,
    )
    sys.exit(2)

MAP_SIZE = 1 << 42  # an upper limit that LMDB needs, not the size on disk
ARRAYS = ("features", "norm_bb", "conf")
FEATURE_WIDTH, LABEL_WIDTH = 2048, 1601  # of the released models
CHUNK, AHEAD = 16, 2  # files that a worker gets at a time; such portions that it has before it is asked for answers
COMMIT_EVERY = 200  # files
OUTSIDE, SIZE_ERROR, CONF_ERROR, SUM_ERROR = 0.05, 2e-3, 1e-3, 0.01  # as in data/region_checks.py


class Problem(ValueError):
    """What is wrong with a file, or ends the conversion."""


def compute_num_bb(conf: np.ndarray, conf_th: float, min_bb: int, max_bb: int) -> int:
    """The number of boxes to keep. As in the release, it may be larger than the number of boxes."""
    return int(min(max(int((conf > conf_th).sum()), min_bb), max_bb))


def variant(args: argparse.Namespace) -> str:
    """The name of the LMDB folder."""
    if args.keep_all:
        name = "all"
    elif args.conf_th == -1:
        name = f"feat_numbb{args.num_bb}"
    else:
        name = f"feat_th{args.conf_th}_max{args.max_bb}_min{args.min_bb}"
    return name + ("_compressed" if args.compress else "")


def load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file that have a row of numbers for each box; `Problem` if one that is needed has not."""
    try:
        path.name.encode()
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        with np.load(path, allow_pickle=False) as file:
            if {"x", "bbox"} <= set(file.files):
                raise ValueError("MILVLG's layout: convert it with `python -m scripts.import_features --npz` first")
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, numpy and the operating system each raise their own exceptions
        objects = "it holds Python objects, which are not read, or no arrays at all"
        raise Problem(f"the file cannot be read: {objects if 'allow_pickle' in str(error) else error}") from None
    region_arrays = {
        name: array for name, array in arrays.items() if name in (*ARRAYS, "soft_labels") and array.ndim in (1, 2)
    }
    lengths = {len(array) for array in region_arrays.values()}
    if any(name not in region_arrays for name in ARRAYS) or len(lengths) != 1 or 0 in lengths:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise Problem(f"expected {', '.join(ARRAYS)} with equally many rows, at least 1; found {shapes}")
    if any(array.dtype.kind not in "fiub" for array in region_arrays.values()):
        raise Problem("an array holds no numbers")
    others = {name: array for name, array in arrays.items() if array.ndim in (1, 2) and array.dtype.kind in "fiub"}
    return region_arrays | {name: array for name, array in others.items() if len(array) in lengths}


def check(arrays: dict[str, np.ndarray]) -> None:
    """`Problem` if the arrays, in float16, do not mean what they should."""
    for name, array in arrays.items():
        if array.dtype == np.float16 and ((array.view(np.uint16) & 0x7FFF) >= 0x7C00).any():
            raise Problem(f"{name} holds NaN, infinity or a number beyond float16 (65504)")
    if arrays["norm_bb"].ndim != 2 or arrays["norm_bb"].shape[1] not in (4, 6) or arrays["features"].ndim != 2:
        shapes = f"features {arrays['features'].shape}, norm_bb {arrays['norm_bb'].shape}"
        raise Problem(f"expected features (n, D) and norm_bb (n, 6); found {shapes}")
    boxes, conf = arrays["norm_bb"].astype(np.float32), arrays["conf"]
    if conf.size != len(conf) or conf.min() < -CONF_ERROR or conf.max() > 1 + CONF_ERROR:
        raise Problem(f"conf {conf.shape} is from {conf.min():g} to {conf.max():g}; expected n probabilities, 0..1")
    if boxes[:, :4].min() < -OUTSIDE or boxes[:, :4].max() > 1 + OUTSIDE:
        extent = f"from {boxes[:, :4].min():g} to {boxes[:, :4].max():g}"
        raise Problem(f"the corners in norm_bb are {extent}; expected shares of the image, 0..1")
    sizes = boxes[:, 2:4] - boxes[:, :2]
    wrong = (sizes < 0) | (boxes.shape[1] == 6 and np.abs(boxes[:, -2:] - sizes) > SIZE_ERROR)
    if wrong.any():
        box = boxes[wrong.any(1)][0].round(4).tolist()
        raise Problem(f"norm_bb holds {box}; expected x1, y1, x2, y2, w, h with w = x2 - x1 >= 0, h = y2 - y1 >= 0")
    labels = arrays.get("soft_labels")
    if labels is not None:
        sums = labels.sum(-1, dtype=np.float32)
        if labels.ndim != 2 or labels.min() < 0 or np.abs(sums - 1).max() > SUM_ERROR:
            extent = f"from {labels.min():g} to {labels.max():g}, rows sum to {sums.min():g} .. {sums.max():g}"
            raise Problem(f"soft_labels {labels.shape} are {extent}; expected probabilities with the sum 1 in each row")
        if arrays["features"].shape[1] == FEATURE_WIDTH and labels.shape[1] != LABEL_WIDTH:
            raise Problem(f"soft_labels {labels.shape}; expected (n, {LABEL_WIDTH}): all classes, background first")


def convert(path: Path, args: argparse.Namespace) -> tuple[bytes | str, dict[str, Any]]:
    """Convert one file: record, and notes on it. If the file cannot be used, the record is an error message."""
    try:
        arrays = load(path)
        conf = arrays["conf"].reshape(len(arrays["conf"]), -1)[:, 0]  # counted and sorted before it becomes float16
        conf = conf if conf.dtype.kind == "f" else conf.astype(np.float64)
        with np.errstate(over="ignore"):  # a number that is too large becomes infinite and is refused
            halves = {k for k, a in arrays.items() if a.dtype.kind == "f" or k in (*ARRAYS, "soft_labels")}
            arrays = {k: a.astype(np.float16) if k in halves else a for k, a in arrays.items()}
        check(arrays)
    except Problem as error:
        return str(error), {}
    n_boxes = len(conf) if args.keep_all else compute_num_bb(conf, args.conf_th, args.min_bb, args.max_bb)
    chosen_by_conf = args.keep_all or args.conf_th > -1 or len(conf) > args.num_bb
    unsorted = bool((conf[1:] > conf[:-1]).any())
    if unsorted and chosen_by_conf:
        order = np.argsort(-conf, kind="stable")
        arrays = {name: array[order] for name, array in arrays.items()}
    arrays = {name: array[:n_boxes] for name, array in arrays.items()}
    corners, labels = arrays["norm_bb"][:, :4].astype(np.float32), arrays.get("soft_labels")
    notes = {
        "boxes": n_boxes,
        "stored": len(arrays["conf"]),
        "sorted": unsorted and chosen_by_conf,
        "in another order": unsorted and not chosen_by_conf,
        "empty": int((corners[:, 2:] <= corners[:, :2]).any(1).sum()),
        "repeated": len(corners) - len(set(map(bytes, corners))),
        "width": [arrays["features"].shape[1], None if labels is None else labels.shape[1]],
    }
    if args.compress:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue(), notes
    return msgpack.packb(arrays, default=msgpack_numpy.encode, use_bin_type=True), notes


def serve(pipe: Any, args: argparse.Namespace) -> None:
    """Convert the portions of files that come through the pipe. Runs in a worker, and ends soon after its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, parent_id = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        while parent and parent.is_alive() and os.getppid() == parent_id:
            parent.join(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        pipe.send([convert(path, args) for path in pipe.recv()])


def convert_all(files: list[Path], args: argparse.Namespace) -> Iterator[tuple[Path, bytes | str, dict[str, Any]]]:
    """Convert files in worker processes, which take portions in turn: (file, record, notes), in order.

    Each worker has a pipe of its own, so that one that is killed in the middle of an answer is noticed.
    """
    portions = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    workers = []
    for _ in range(min(args.nproc, len(portions))):
        ours, theirs = multiprocessing.Pipe()
        workers.append((multiprocessing.Process(target=serve, args=(theirs, args), daemon=True), ours))
        workers[-1][0].start()
        theirs.close()  # the worker alone holds this end, so its death ends the pipe
    ahead = AHEAD * len(workers)
    try:
        for number in range(-ahead, len(portions)):
            process, pipe = workers[number % len(workers)]
            try:
                if number + ahead < len(portions):
                    pipe.send(portions[number + ahead])
                if number < 0:
                    continue
                while not pipe.poll(60):
                    print(f"waiting for {portions[number][0]} or one after it in process {process.pid}", flush=True)
                answers = pipe.recv()
            except (EOFError, OSError):
                process.join(1)
                remedy = "if memory ran out, lower --nproc; the same command goes on where it stopped"
                end = f"worker process {process.pid} died at {portions[max(number, 0)][0]} or one after it"
                raise Problem(f"{end} (exit status {process.exitcode}, negative: a signal); {remedy}") from None
            yield from ((path, *answer) for path, answer in zip(portions[number], answers))
    finally:
        for process, _ in workers:
            process.kill()
            process.join()


def write(args: argparse.Namespace) -> str | None:
    """Write the store. Returns None, or an error message; after an error what is done is kept for the next run."""
    target = Path(args.output) / variant(args)
    hidden = target.with_name(f".{target.name}.partial")
    try:
        everything = sorted(Path(args.img_dir).glob("*.npz"))
        files = [path for path in everything if not path.name.startswith(".")]  # macOS puts such beside each file
        if len(files) < len(everything):
            print(f"{len(everything) - len(files):,} hidden files of {args.img_dir} are not read")
        if not files:
            return f"no .npz files in {args.img_dir}; expected one per image (scripts/describe_regions.py writes them)"
        if target.exists():
            return f"{target} exists already; remove it, or give another --output"
        check_variants(files, target)
        hidden.mkdir(parents=True, exist_ok=True)
        with open(hidden / "lock", "w") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
            except (BlockingIOError, PermissionError):
                return f"another process is writing {target}: wait for it, or stop it; what it has done is kept"
            write_variant(files, target, hidden, args)
        shutil.rmtree(hidden, ignore_errors=True)
    except Problem as problem:
        journal = hidden / "done.jsonl"
        if journal.exists() and not journal.read_text(encoding="utf-8").strip():  # nothing is worth keeping
            shutil.rmtree(hidden, ignore_errors=True)
        return str(problem)
    except (OSError, lmdb.Error) as error:
        space = f"{shutil.disk_usage(hidden).free:,} bytes are free" if hidden.is_dir() else "check --output"
        if (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
            space += f"; a file may have at most {limit:,} bytes: raise that limit (ulimit -f unlimited)"
        return f"{target} cannot be written: {error}; {space}; the same command goes on where it stopped"
    return None


def check_variants(files: list[Path], target: Path) -> None:
    """`Problem` if a variant beside `target` was made of other images or other features than `files`."""
    by_key = {path.name.encode(): path for path in files}
    for other in sorted(path.parent for path in target.parent.glob("[!.]*/data.mdb")):
        remedy = f"give another --output, or remove {other}"
        with (
            contextlib.suppress(lmdb.Error),
            lmdb.open(os.fsencode(other), readonly=True, lock=False) as env,
            env.begin() as txn,
        ):
            keys = set(txn.cursor().iternext(values=False)) - {b"__keys__"}
            if (lacking := keys - by_key.keys()) and by_key.keys() - keys:
                name = min(lacking).decode(errors="replace")
                raise Problem(f"{other} is of other images, such as {name}, which --img_dir lacks; {remedy}")
            common = sorted(keys & by_key.keys())[:3]
            if common and not any(is_made_of(txn.get(key) or b"", by_key[key]) for key in common):
                raise Problem(f"{other} has other features of {common[0].decode()} than --img_dir; {remedy}")


def is_made_of(record: bytes, path: Path) -> bool:
    """Whether a record of another variant has a row of the file's features. True where that cannot be told."""
    with contextlib.suppress(Exception):  # what is wrong with a file is said when it is converted
        if record.startswith(b"PK"):
            record = np.load(io.BytesIO(record), allow_pickle=False)["features"].tobytes()
        return any(row.tobytes() in record for row in load(path)["features"].astype(np.float16))
    return True


def write_variant(files: list[Path], target: Path, hidden: Path, args: argparse.Namespace) -> None:
    """Fill the hidden folder, going on with the work of an earlier run, and make the store of it."""
    done = earlier_work(hidden, args)
    with lmdb.open(os.fsencode(hidden / "files"), map_size=MAP_SIZE, lock=False) as env:
        with env.begin(buffers=True) as txn:  # what was committed, of files that have not changed
            kept = {path.name: done.get(path.name) for path in files if txn.get(path.name.encode()) is not None}
        done = {path.name: note for path in files if (note := kept.get(path.name)) and note["stamp"] == stamp(path)}
        with open(hidden / "done.jsonl", "a", buffering=1, encoding="utf-8") as journal:
            bad = fill(env, files, done, journal, args)
        names = [path.name for path in files if path.name in done]
        if not names:
            list_bad(target, bad)
            raise Problem(f"no file in {args.img_dir} can be used; the first: {': '.join(next(iter(bad.items())))}")
        with env.begin(write=True) as txn:
            for key in {bytes(key) for key in txn.cursor().iternext(values=False)} - {name.encode() for name in names}:
                txn.delete(key)
            txn.put(b"__keys__", json.dumps(names).encode())
        env.sync(True)
    counts = {name: done[name]["boxes"] for name in names}
    if not args.keep_all and args.conf_th != -1:  # the LMDB comes last: its folder means that all is written
        save_json(target.with_name(f"nbb_th{args.conf_th}_max{args.max_bb}_min{args.min_bb}.json"), counts)
    provenance = Path(args.img_dir) / "provenance.json"  # the origin of features and classes stays with the store
    if provenance.exists() and provenance.resolve() != target.with_name("provenance.json").resolve():
        shutil.copyfile(provenance, target.with_name("provenance.json"))
    os.rename(hidden / "files", target)
    report(target, [done[name] for name in names], bad)


def stamp(path: Path) -> list[int]:
    """Tells whether a file is still the same: its size and the time of its last change."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def earlier_work(hidden: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Notes on the files that an earlier run with the same options has converted, by name; else empty the folder."""
    options = vars(args) | {
        "version": 2,
        "nproc": 0,
        "skip_bad": False,
        "img_dir": os.path.abspath(args.img_dir),
        "output": "",
    }
    with contextlib.suppress(OSError, ValueError):
        if json.loads((hidden / "job.json").read_text()) == options:
            lines = (hidden / "done.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
            notes = dict(json.loads(line) for line in lines if line.endswith("]"))  # not one that a kill has cut
            print(f"going on with the work of an earlier run in {hidden}")
            return notes
    for path in hidden.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (hidden / "files").mkdir()
    (hidden / "done.jsonl").touch()
    save_json(hidden / "job.json", options)
    return {}


def fill(env: Any, files: list[Path], done: dict[str, Any], journal: Any, args: argparse.Namespace) -> dict[str, str]:
    """Convert the files that are not done, and add notes on them to `done`; returns what is wrong with the others."""
    bad: dict[str, str] = {}
    todo = [path for path in files if path.name not in done]
    answers = tqdm(convert_all(todo, args), initial=len(done), total=len(files), unit="image", disable=None)
    journal.write("\n")  # where the last line was cut
    txn = env.begin(write=True)
    try:
        for number, (path, record, note) in enumerate(answers, 1):
            width = next((other["width"] for other in done.values()), note.get("width"))
            if not isinstance(record, str) and note["width"] != width:
                record = f"features and soft labels are {note['width']} wide, those of other files {width}"
            if isinstance(record, str):
                bad[str(path)] = record
                if not args.skip_bad:
                    remedy = "extract the features of this image again, or leave out such files with --skip_bad"
                    raise Problem(f"{path}: {record}; {remedy}")
                continue
            txn.put(path.name.encode(), record)
            done[path.name] = note | {"stamp": stamp(path)}
            journal.write(json.dumps([path.name, done[path.name]]) + "\n")
            if number % COMMIT_EVERY == 0:
                txn.commit()
                txn = env.begin(write=True)
    except lmdb.Error:  # the transaction is lost, those before it are kept
        raise
    except BaseException:
        txn.commit()
        raise
    txn.commit()
    return bad


def report(target: Path, notes: list[dict[str, Any]], bad: dict[str, str]) -> None:
    """Print what the store holds."""
    print(f"{len(notes):,} images with {sum(note['stored'] for note in notes):,} boxes in {target}")
    if (labels := notes[0]["width"][1]) not in (None, LABEL_WIDTH):
        print(f"  soft labels have {labels:,} classes; mrc and mrckl need {LABEL_WIDTH:,}")
    for key, text in (
        ("sorted", "images had boxes that were not sorted by confidence: now the most confident comes first"),
        ("in another order", "images have boxes that are not sorted by confidence, and stay so with --conf_th -1"),
        ("empty", "boxes have no area"),
        ("repeated", "boxes are the same as another one of their image"),
    ):
        if count := sum(note[key] for note in notes):
            print(f"  {count:,} {text}")
    list_bad(target, bad)


def list_bad(target: Path, bad: dict[str, str]) -> None:
    """Write the list of the files that were left out, or remove an older one."""
    listing = target.with_name(f"left_out_{target.name}.json")
    listing.unlink(missing_ok=True)
    if bad:
        save_json(listing, bad)
        print(f"  {len(bad):,} bad files left out, listed in {listing}")


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.with_name(f".{path.name}.tmp").write_text(json.dumps(value))
    os.replace(path.with_name(f".{path.name}.tmp"), path)


def number(kind: type, low: float, high: float, other: float | None = None) -> Callable[[str], float]:
    """The `type` of a flag that is a number from `low` to `high`, or `other`."""

    def parse(text: str) -> float:
        """Convert the text of the flag; `ValueError` when it is no number of this kind."""
        value: float = kind(text)
        if not (low <= value <= high or value == other):
            allowed = f"from {low} to {high}" + ("" if other is None else f", or {other}")
            raise argparse.ArgumentTypeError(f"{text[:80]} is out of range: expected a number {allowed}")
        return value

    parse.bounds = low, high, other  # type: ignore[attr-defined]
    parse.__name__ = kind.__name__  # in the message of argparse for text that is no number
    return parse


def command_line() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--img_dir", required=True, help="folder of .npz files to convert")
    add("--output", required=True, help="folder of the image store; it may hold other variants already")
    count = number(int, 1, 10_000)
    add("--nproc", type=count, default=8, help="number of parallel processes")
    add("--compress", action="store_true", help="write records as compressed npz")
    add("--keep_all", action="store_true", help="keep all boxes (variant `all`)")
    add(
        "--conf_th",
        type=number(float, 0, 1, -1),
        default=0.2,
        help="keep boxes above this confidence; -1: a fixed number, see --num_bb",
    )
    add("--max_bb", type=count, default=100, help="keep at most this many boxes of an image")
    add("--min_bb", type=count, default=10, help="keep at least this many boxes of an image")
    add("--num_bb", type=count, default=100, help="number of boxes that readers take with --conf_th -1")
    add("--skip_bad", action="store_true", help="leave out bad files, count them and list them beside the store")
    return parser


def main() -> None:
    """Convert the folder that the command line names; on an error, print it and exit with status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a locale cannot write is shown as its code, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = command_line()
    args = parser.parse_args()
    if args.min_bb > args.max_bb:
        parser.error(f"argument --min_bb: {args.min_bb} is greater than --max_bb, which is {args.max_bb}")
    problem = write(args)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at its end
        problem = problem or f"standard output cannot be written: {error.strerror}; the store is complete"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
