# SPDX-License-Identifier: Apache-2.0
"""test_chat_interrupt.py CHAT SOURCE_ROOT: Ctrl-C in chat, typed on a pseudo-terminal: during a reply it ends only the reply;
a second one, or one at the prompt, ends the program with status 130. Standard library only."""
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time

from cases import Cases
from tiny_model import make_model

chat, root = sys.argv[1:3]
cases = Cases()
case = cases.case
CTRL_C = b"\x03"


class Terminal:
    """A chat on its own terminal."""

    def __init__(self, model):
        self.master, slave = pty.openpty()
        flags = ["--model_name_or_path", model, "--temperature", "0", "--repetition_penalty", "1.01", "--max_new_tokens", "1000000"]
        self.process = subprocess.Popen([chat, *flags], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)

    def type(self, keys):
        os.write(self.master, keys)

    def read_until(self, condition, seconds=60):
        """What came since the last call, when condition(it) holds or time is up."""
        end, got = time.monotonic() + seconds, b""
        while not condition(got) and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    got += os.read(self.master, 65536)
                except OSError:  # the program has ended
                    break
        return got

    def reply_to(self, message):
        """Sends a message, and returns once the reply has begun."""
        self.type(message + b"\n")
        return self.read_until(lambda got: len(got) > len(message) + 40)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def at_prompt(got):
    return got.endswith(b"\n> ")


with tempfile.TemporaryDirectory() as tmp:
    # No token ends a text, so a reply continues until it is stopped.
    model = make_model(os.path.join(tmp, "model"), root, eos_token_id=None)
    terminal = Terminal(model)
    case("a prompt", terminal.read_until(lambda got: got.endswith(b"> ")).endswith(b"> "))
    for message in (b"Which river is the longest?", b"And mountains?"):
        begun = terminal.reply_to(message)
        case("a reply starts and continues", not at_prompt(begun) and len(begun) > 40, begun)
        terminal.type(CTRL_C)
        rest = terminal.read_until(at_prompt)
        case("Ctrl-C ends the reply alone: a prompt again", at_prompt(rest) and terminal.process.poll() is None, rest[-100:])
    terminal.type(CTRL_C)
    case("at the prompt it ends the program with 130", terminal.process.wait(timeout=30) == 130, terminal.process.returncode)
    terminal.close()

    terminal = Terminal(model)
    terminal.read_until(lambda got: got.endswith(b"> "))
    terminal.reply_to(b"yes")
    os.kill(terminal.process.pid, signal.SIGSTOP)  # both come before the next token, and one after the other
    terminal.type(CTRL_C)
    time.sleep(0.2)
    os.kill(terminal.process.pid, signal.SIGCONT)
    terminal.type(CTRL_C)
    terminal.type(CTRL_C)
    case("a second one ends the program with 130", terminal.process.wait(timeout=30) == 130, terminal.process.returncode)
    terminal.close()

    # In a pipe nobody can be asked: the signal ends the program.
    process = subprocess.Popen([chat, "--model_name_or_path", model, "--temperature", "0", "--max_new_tokens", "1000000"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    process.stdin.write(b"yes\n")
    process.stdin.flush()
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    case("in a pipe the first one ends the program", process.wait(timeout=30) == -signal.SIGINT, process.returncode)
    process.stdin.close()
    process.stdout.close()
sys.exit(cases.report())
