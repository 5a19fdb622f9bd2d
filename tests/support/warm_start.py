"""Starts the program that needs LibTorch from a copy that has loaded it already: see warm_start.cpp."""

import array
import ctypes
import functools
import os
import pathlib
import socket
import subprocess
import threading

PR_SET_CHILD_SUBREAPER = 36


class Server:
    """A process that waits in front of main()."""

    def __init__(self, program, library):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.lock = threading.Lock()
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Read while a library is loaded, hence the server's: OpenMP's, and whether there are faults at all.
        env = {**os.environ, "LD_PRELOAD": str(library), "UNIGRPO_WARM_START": str(other.fileno()), "UNIGRPO_FAULT": "",
               "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen([program], env=env, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()])
        other.close()

    def start(self, args, cwd, env, outputs):
        words = [os.path.abspath(cwd), str(len(args)), *args, *(f"{name}={value}" for name, value in env.items())]
        with self.lock:
            self.socket.sendmsg([b"".join(os.fsencode(word) + b"\0" for word in words)],
                                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", outputs))])
            pid = int.from_bytes(self.socket.recv(4), "little", signed=True)
        if pid <= 0:
            raise OSError(f"no process for {args}")
        return pid


@functools.cache
def server_of(binary):
    """None where the build has no library for it (under sanitizers)."""
    folder = pathlib.Path(binary).resolve().parent
    library = folder.parent / "test_plugins/warm_start.so"
    return Server(folder / "unigrpo-torch", library) if library.exists() else None


class WarmProcess(subprocess.Popen):
    """A Popen of a warm start; stdout and stderr are pipes."""

    def _execute_child(self, args, _executable, _preexec, _close_fds, _pass_fds, cwd, env, _startupinfo, _flags, _shell, *pipes):
        pipes = pipes[:6]
        self.pid = server_of(args[0]).start(args, cwd, env, (pipes[3], pipes[5]))
        self._child_created = True
        self._close_pipe_fds(*pipes)


def popen(args, **options):
    """subprocess.Popen, faster where that is possible. args: the binary and its arguments."""
    make = WarmProcess if server_of(args[0]) else subprocess.Popen
    return make(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **options)
