# SPDX-License-Identifier: Apache-2.0
"""test_processes.py TRAIN_KTO EXAMPLE SOURCE_ROOT: how the processes of a run start, whoever starts them, and how they end together:
one log, one error, no process left. Standard library only."""
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from runs import Runs

train_kto, example, root = sys.argv[1:4]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def copies_of(process):
    """The processes that `process` started."""
    return [int(pid) for pid in open(f"/proc/{process.pid}/task/{process.pid}/children").read().split()]


def rank_of(pid):
    return re.search(rb"(?:^|\0)RANK=(\d+)", open(f"/proc/{pid}/environ", "rb").read()).group(1).decode()


def is_running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    case, at = runs.case, runs.at
    short, endless = ["--max_steps", "4"], ["--max_steps", "100000", "--save_steps", "100000"]

    def start(out, *flags, **more):
        return subprocess.Popen(runs.command(out, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**runs.environment, **more})

    def start_ranks(out, size, *flags, of_rank=None):
        """Processes that PyTorch's variables make ranks, without a launcher that watches them."""
        port = str(free_port())
        return [start(out, *flags, *(of_rank or {}).get(rank, []), RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(size)]

    def end(processes):
        told = [process.communicate(timeout=120) for process in processes]
        return [process.returncode for process in processes], [out for out, _ in told], [error for _, error in told]

    def errors(*texts):
        return [line for text in texts for line in text.splitlines() if "error:" in line]

    # Starts
    result = runs.run("own", "--nproc", "2", *short)
    case("--nproc 2: one log", result.returncode == 0 and result.stdout.count("Model saved") == 1 and result.stdout.count("'loss'") == 2,
         result.stdout + result.stderr)
    statuses, outs, texts = end(start_ranks("by hand", 2, *short))
    case("two processes that others start: the same", statuses == [0, 0] and outs[1] == texts[1] == "", (statuses, outs[1], texts))
    if statuses == [0, 0] and result.returncode == 0:
        runs.same("the same weights and log", "by hand", "own")
    result = runs.run("sharded", "--nproc", "2", "--zero_stage", "2", *short)
    case("--zero_stage 2", result.returncode == 0 and result.stdout.count("Model saved") == 1, result.stdout + result.stderr)
    if result.returncode == 0:  # of two numbers the sum is the same in any order; the norm is summed in another
        case("--zero_stage 2: the same weights", runs.result("sharded")[0] == runs.result("own")[0])
        result = runs.run("sharded", "--nproc", "2", "--zero_stage", "3", "--max_steps", "5", "--resume_from_checkpoint", "True")
        case("--zero_stage 3 goes on", result.returncode == 0 and 'zero_stage is "3" and was "2"' in result.stdout, result.stdout + result.stderr)
        result = runs.run("sharded", "--max_steps", "6", "--gradient_accumulation_steps", "2", "--resume_from_checkpoint", "True")
        case("shards are whole on disk: one process goes on", result.returncode == 0 and 'zero_stage is "0" and was "3"' in result.stdout, result.stdout + result.stderr)
    margins = [subprocess.run([example, count], capture_output=True, text=True, timeout=60).stdout for count in ("1", "2")]
    case("the example: 1 and 2 processes train alike", len({margin.split(":")[-1] for margin in margins}) == 1 and "2 processes" in margins[1], margins)

    # Refusals, once each
    result = runs.run("no", "--nproc", "2", "--seed", "x")
    case("--nproc: a bad option is refused once, before ranks start", result.returncode == 2 and len(errors(result.stderr)) == 1, result.stderr)
    statuses, _, texts = end(start_ranks("no", 2, *short, of_rank={1: ["--seed", "3"]}))
    case("another option on a rank is named with it", statuses == [1, 2] and len(errors(*texts)) == 1 and
         re.search(r"^\[rank 1\] train_kto: error: rank 1: --seed is 3, and rank 0 has 42", texts[1], re.M), (statuses, texts))
    statuses, _, texts = end(start_ranks("no", 2, *short, of_rank={1: ["--no_such"]}))
    case("a bad option on a rank ends both", statuses == [1, 2] and len(errors(*texts)) == 1 and "unknown option --no_such" in texts[1], (statuses, texts))
    statuses, _, texts = end([start("no", "--nproc", "2", RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")])
    case("--nproc under another launcher is refused", statuses == [2] and "nproc 2 in rank 0 of 2 processes" in texts[0], texts)
    statuses, _, texts = end([start("no", RANK="0")])
    case("half of the variables are refused", statuses == [2] and "RANK and not WORLD_SIZE" in texts[0], texts)
    result = runs.run("no", "--nproc", "2", *short, data=at("nowhere"))
    case("an error before training: one line", result.returncode == 1 and len(errors(result.stderr)) == 1, result.stderr)

    # Ends
    process = start("killed", "--nproc", "2", *endless)
    if wait_for(lambda: len(copies_of(process)) == 2) and wait_for(lambda: os.path.exists(at("killed"))):
        time.sleep(2)
        copies = copies_of(process)
        begin = time.monotonic()
        os.kill(next(pid for pid in copies if rank_of(pid) == "1"), signal.SIGKILL)
        statuses, _, texts = end([process])
        case("--nproc: a killed rank is named, once, and ends the others", statuses == [137] and time.monotonic() - begin < 30 and
             len(errors(texts[0])) == 1 and "rank 1 was ended by signal 9" in texts[0] and not any(map(is_running, copies)), (statuses, texts))
    ranks = start_ranks("lost", 3, *endless)
    if wait_for(lambda: os.path.exists(at("lost"))):
        time.sleep(2)
        ranks[1].kill()
        statuses, _, texts = end(ranks)
        case("a killed rank is named by the others", statuses == [1, -9, 1] and  # by one, or where they are slow by both
             "rank 1 has ended or cannot be reached" in texts[0] + texts[2], (statuses, texts))
    ranks = start_ranks("first", 2, *endless)
    if wait_for(lambda: os.path.exists(at("first"))):
        time.sleep(2)
        ranks[0].kill()  # holds the store
        statuses, _, texts = end(ranks)
        case("so is rank 0", statuses == [-9, 1] and len(errors(*texts)) == 1 and "rank 0 has ended or cannot be reached" in texts[1], (statuses, texts))
    process = start("stopped", "--nproc", "2", *endless)
    if wait_for(lambda: len(copies_of(process)) == 2) and wait_for(lambda: os.path.exists(at("stopped"))):
        time.sleep(2)
        copies = copies_of(process)
        process.terminate()
        statuses, outs, texts = end([process])
        case("SIGTERM: the run is saved and says so once", statuses == [143] and texts[0].count("stopping after saving") == 1 and
             texts[0].count("stopped after step") == 1 and runs.checkpoints("stopped") and not any(map(is_running, copies)), (statuses, texts))
    process = start("orphans", "--nproc", "2", *endless)
    if wait_for(lambda: len(copies_of(process)) == 2) and wait_for(lambda: os.path.exists(at("orphans"))):
        copies = copies_of(process)
        process.kill()
        case("copies end with the process that started them", wait_for(lambda: not any(map(is_running, copies))), copies)
        process.communicate()
    sys.exit(runs.report())
