"""The hostile application of `pumasi lab play hostile`: a web server that attacks what it runs on when it is asked to.

GET /            a page that costs a few milliseconds of CPU
GET /attack/X    plays attack X and answers in JSON: {"got": what it got, or null, "how": what stopped it}
"""

import ctypes
import errno
import http.server
import json
import os
import socket
import sqlite3
import stat
import threading
import time
import urllib.parse

HOME = os.environ.get("HOME", "/")
DATA = {k[5:]: v for k, v in os.environ.items() if k.startswith("DATA_")}
LIBC = ctypes.CDLL(None, use_errno=True)


def why(error):
    return f"{type(error).__name__}: {error}"


def each(tries):
    """The first of several tries that gets something; else the first reason why not."""
    got, how = [], []
    for name, attempt in tries:
        try:
            result = attempt()
            if result:
                got.append(f"{name}: {result}")
            else:
                how.append(f"{name}: nothing")
        except Exception as e:
            how.append(f"{name}: {why(e)}")
    return "; ".join(got)[:2000] or None, "; ".join(how)[:2000]


def can_read(path):
    if os.path.isdir(path):
        return f"lists {len(os.listdir(path))} entries"
    with open(path, "rb") as f:
        return f"reads {len(f.read(64))} bytes"


def can_write(path):
    with open(path, "ab") as f:
        f.write(b"hostile")
    return "writes"


def mine(path):
    return path.startswith(("/run/pumasi/", HOME + "/", "/tmp/", "/var/tmp/", "/dev/shm/"))


def walk(args):
    """Reads everything below a path that it has no business with."""
    def below(root):
        seen = 0
        for at, dirs, files in os.walk(root):
            seen += 1
            for f in files:
                try:
                    can_read(os.path.join(at, f))
                    return f"reads {os.path.join(at, f)}"
                except OSError:
                    pass
        return f"lists {root}" if seen and os.listdir(root) else None
    return each([(p, lambda p=p: below(p)) for p in args["path"]])


def marker(args):
    """Looks in every file that it can reach for what only others have."""
    mark, deadline = args["mark"][0].encode(), time.time() + 8
    skip = ("/proc", "/sys", "/usr", "/lib", "/bin", "/sbin", "/etc/alternatives")
    for at, dirs, files in os.walk("/"):
        dirs[:] = [d for d in dirs if not os.path.join(at, d).startswith(skip)]
        for f in files:
            path = os.path.join(at, f)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode):
                    with open(path, "rb") as h:
                        if mark in h.read(1 << 20):
                            return path, ""
            except OSError:
                pass
        if time.time() > deadline:
            return None, "searched for 8 s"
    return None, "searched everything"


def others(args):
    """Processes of others, and what /proc tells of them."""
    def pids():
        strange = [p for p in os.listdir("/proc") if p.isdigit()]
        # init of the instance, the application and its children.
        return f"{len(strange)} processes" if len(strange) > 8 else None
    def init(name):
        def look():
            with open(f"/proc/1/{name}", "rb") as f:
                return f.read(64) or None
        return look
    return each([
        ("processes", pids),
        ("/proc/1/environ", init("environ")),
        ("/proc/1/mem", init("mem")),
        ("/proc/1/root", lambda: ([n for n in os.listdir("/proc/1/root") if n not in os.listdir("/")] or None)),
        ("/proc/kcore", lambda: can_read("/proc/kcore")),
        ("/proc/sysrq-trigger", lambda: can_write("/proc/sysrq-trigger")),
        ("/proc/sys", lambda: can_write("/proc/sys/kernel/core_pattern")),
        ("cgroup", lambda: can_write("/sys/fs/cgroup/memory/memory.limit_in_bytes")),
        ("kill", lambda: os.kill(1, 9)),
    ])


def write_root(args):
    places = ["/hostile", "/etc/hostile", "/usr/bin/hostile", "/run/hostile", "/dev/hostile", "/etc/passwd", "/proc/1/oom_score_adj",
              os.environ.get("BUNDLE", "/") + "/hostile"]
    return each([(p, lambda p=p: can_write(p)) for p in places])


def devices(args):
    def node(path):
        return lambda: os.open(path, os.O_RDWR) >= 0 and "opened"
    def make():
        os.mknod(HOME + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 1))
        return "made"
    names = ["net/tun", "fuse", "kmsg", "mem", "kvm", "loop-control", "vda", "vhost-net", "vsock", "mapper/control", "userfaultfd"]
    return each([(n, node("/dev/" + n)) for n in names] + [("mknod", make)])


def rights(args):
    def status():
        fields = dict(l.split(":", 1) for l in open("/proc/self/status") if ":" in l)
        bad = [n for n in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(fields[n], 16)]
        bad += [n for n, want in (("NoNewPrivs", "1"), ("Seccomp", "2")) if fields[n].strip() != want]
        bad += ["Uid"] if "0" in fields["Uid"].split() else []
        return " ".join(bad)
    return each([("status", status)])


def calls(args):
    """System calls that reach beyond an application. ENOSYS, EPERM and EACCES are the right answers."""
    numbers = {
        "ptrace": 101, "syslog": 103, "unshare": 272, "mount": 165, "umount2": 166, "pivot_root": 155, "swapon": 167,
        "reboot": 169, "sethostname": 170, "init_module": 175, "add_key": 248, "request_key": 249, "keyctl": 250,
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "open_tree": 428, "fsopen": 430,
        "open_by_handle_at": 304, "name_to_handle_at": 303, "setns": 308, "kcmp": 312, "process_vm_readv": 310,
        "memfd_secret": 447, "statmount": 457, "listmount": 458, "fanotify_init": 300, "chroot": 161, "acct": 163,
        "settimeofday": 164, "mount_setattr": 442, "pidfd_getfd": 438,
    }
    def call(n):
        def attempt():
            ctypes.set_errno(0)
            LIBC.syscall(ctypes.c_long(n), 0, 0, 0, 0, 0, 0)
            code = ctypes.get_errno()
            if code in (errno.EPERM, errno.ENOSYS, errno.EACCES):
                raise OSError(code, os.strerror(code))
            return f"answers {code}"
        return attempt
    return each([(name, call(n)) for name, n in numbers.items()])


def families(args):
    """Sockets of families that no web application needs."""
    allowed = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    def open_one(f, t, p):
        def attempt():
            s = socket.socket(f, t, p)
            s.close()
            return "made"
        return attempt
    tries = [(f"family {f} type {t}", open_one(f, t, 0)) for f in range(46) if f not in allowed for t in (1, 2, 3, 5)]
    tries += [(f"netlink {p}", open_one(socket.AF_NETLINK, socket.SOCK_RAW, p)) for p in (4, 9, 12, 15, 16)]
    tries += [("raw", open_one(socket.AF_INET, socket.SOCK_RAW, 1)), ("packet", open_one(17, 3, 3))]
    return each(tries)


def connect(args):
    """Addresses of the host, of the cloud and of its neighbours."""
    def to(address):
        host, port = address.rsplit(":", 1)
        def attempt():
            s = socket.create_connection((host, int(port)), 1.5)
            s.close()
            return "connected"
        return attempt
    return each([(a, to(a)) for a in args["to"]])


def abstract(args):
    def connects():
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(1.5)
        s.connect("\0" + args["name"][0])
        return "connected"
    def listed():
        return [l for l in open("/proc/net/unix") if args["name"][0] in l]
    def tcp():
        # Its own listeners only; connections come by the dozen.
        own = {int(os.environ["PORT"]), 9999}
        rows = [l.split() for l in open("/proc/net/tcp").readlines()[1:]]
        strange = [r[1] for r in rows if r[3] == "0A" and int(r[1].split(":")[1], 16) not in own]
        return f"listeners {strange}" if strange else None
    return each([("connect", connects), ("/proc/net/unix", listed), ("/proc/net/tcp", tcp)])


def listen(args):
    """Opens a door of its own to the world; the lab knocks at it."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", int(args["port"][0])))
    s.listen()
    def answer():
        while True:
            c, _ = s.accept()
            c.sendall(b"HTTP/1.0 200 OK\r\n\r\nhostile")
            c.close()
    threading.Thread(target=answer, daemon=True).start()
    return None, "listens inside"


def turn_tmp(args):
    """Exchanges its own directories for links to the host's and ends: what will be mounted there at the next start?"""
    done = []
    for name in ("tmp", ".cache", "."):
        path = os.path.join(HOME, name)
        try:
            os.rename(path, path + ".was")
            os.symlink("/run", path)
            done.append(name)
        except OSError as e:
            done.append(f"{name} {why(e)}")
    threading.Timer(0.2, lambda: os._exit(3)).start()
    return None, ", ".join(done)


def tmp(args):
    name = args["name"][0]
    tries = [(d, lambda d=d: name in os.listdir(d) and "sees the host's") for d in ("/tmp", "/var/tmp", HOME, HOME + "/tmp", "/run")]
    return each(tries)


def link_database(args):
    """Puts a link to somebody else's file where its own database was; the shipping of copies would follow it."""
    path = os.path.join(DATA["DB"], "db.sqlite")
    for suffix in ("", "-wal", "-shm"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            pass
    os.symlink(args["to"][0], path)
    return None, "linked"


def own_database(args):
    path = os.path.join(DATA["DB"], "db.sqlite")
    if os.path.islink(path):
        os.unlink(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS t (a TEXT)")
    db.execute("INSERT INTO t VALUES (?)", (args.get("text", ["x"])[0],))
    db.commit()
    db.close()
    return None, "made"


def flap(args):
    """Exchanges a directory for a link and back, as fast as it can, for some seconds."""
    base, to = DATA["FILES"], args["to"][0]
    a, b = os.path.join(base, "d0"), os.path.join(base, "d0.aside")
    os.makedirs(a, exist_ok=True)
    for i in range(20):
        with open(os.path.join(a, f"f{i}"), "w") as f:
            f.write("own\n")
    def run():
        end = time.time() + float(args["seconds"][0])
        while time.time() < end:
            try:
                os.rename(a, b)
                os.symlink(to, a)
                time.sleep(0.0005)
                os.unlink(a)
                os.rename(b, a)
                with open(os.path.join(base, "changed"), "w") as f:
                    f.write(str(time.time()))
                time.sleep(0.0005)
            except OSError:
                pass
    threading.Thread(target=run, daemon=True).start()
    return None, "flapping"


def odd(args):
    """What no scan may stumble over: pipes, sockets, devices' names, hard links, holes of a terabyte."""
    base = DATA["FILES"]
    os.mkfifo(os.path.join(base, "pipe")) if not os.path.exists(os.path.join(base, "pipe")) else None
    for name, size in (("hole", 1 << 40),):
        try:
            with open(os.path.join(base, name), "wb") as f:
                f.truncate(size)
        except OSError:
            pass
    os.symlink("/proc/self/root", os.path.join(base, "root")) if not os.path.lexists(os.path.join(base, "root")) else None
    return None, "made"


def even(args):
    for name in ("pipe", "hole", "root"):
        try:
            os.unlink(os.path.join(DATA["FILES"], name))
        except FileNotFoundError:
            pass
    return None, "taken away"


def truncate_shm(args):
    """Cuts the shared memory of its database away under whoever has it mapped."""
    path = os.path.join(DATA["DB"], "db.sqlite")
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS t (a TEXT)")
    def run():
        end, n = time.time() + float(args["seconds"][0]), 0
        while time.time() < end:
            try:
                db.execute("INSERT INTO t VALUES ('x')")
                db.commit()
            except sqlite3.Error:
                pass
            try:
                os.truncate(path + "-shm", 0)
            except OSError:
                pass
            n += 1
    # In a process of its own: it may die of it as well.
    if os.fork() == 0:
        try:
            run()
        finally:
            os._exit(0)
    return None, "cutting"


def fill(args):
    """Writes until it is told that there is no room."""
    path, written = os.path.join(DATA[args["set"][0]], "filler"), 0
    try:
        with open(path, "wb", buffering=0) as f:
            while written < int(args["bytes"][0]):
                written += f.write(b"\xa5" * (1 << 20))
    except OSError as e:
        return None, f"{written >> 20} MiB, then {why(e)}"
    return f"wrote {written >> 20} MiB", ""


def inodes(args):
    base, made = os.path.join(DATA[args["set"][0]], "many"), 0
    try:
        os.makedirs(base, exist_ok=True)
        while made < int(args["files"][0]):
            os.close(os.open(os.path.join(base, str(made)), os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError as e:
        return None, f"{made} files, then {why(e)}"
    return f"made {made} files", ""


def tidy(args):
    import shutil
    for base in DATA.values():
        shutil.rmtree(os.path.join(base, "many"), ignore_errors=True)
        try:
            os.unlink(os.path.join(base, "filler"))
        except OSError:
            pass
    return None, "tidy"


def log(args):
    def run():
        end, line = time.time() + float(args["seconds"][0]), b"[pumasi] forged \x1b[31m" + b"x" * 4000 + b"\n"
        while time.time() < end:
            os.write(1, line)
    threading.Thread(target=run, daemon=True).start()
    return None, "writing"


def memory(args):
    if os.fork() == 0:
        hold = []
        try:
            while True:
                hold.append(bytearray(8 << 20))
        finally:
            os._exit(1)
    return None, "growing"


def forks(args):
    made, end = 0, time.time() + float(args["seconds"][0])
    try:
        while made < int(args["most"][0]) and time.time() < end:
            if os.fork() == 0:
                time.sleep(max(0, end - time.time()))
                os._exit(0)
            made += 1
    except OSError as e:
        return None, f"{made} processes, then {why(e)}"
    return f"{made} processes", ""


def own_secret(args):
    """Not an attack: it must have what its owner gave it, wherever it runs."""
    return (None, "has it") if os.environ.get("API_KEY") == args["is"][0] else ("something else, or nothing", "")


ATTACKS = {f.__name__.replace("_", "-"): f for f in (
    walk, marker, others, write_root, devices, rights, calls, families, connect, abstract, listen, turn_tmp, tmp, link_database,
    own_database, flap, odd, even, truncate_shm, fill, inodes, tidy, log, memory, forks, own_secret)}


# Once: of sixty of its own nothing would be left to serve with.
LARGE = b"x" * (4 << 20)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        name = url.path.removeprefix("/attack/")
        if name in ATTACKS:
            try:
                got, how = ATTACKS[name](urllib.parse.parse_qs(url.query))
            except Exception as e:
                got, how = None, why(e)
            body = json.dumps({"got": got, "how": how, "at": os.uname().nodename}).encode()
        elif name == "/stream":
            return self.stream()
        elif name == "/large":
            body = LARGE
        elif name == "/poll":
            time.sleep(8)
            body = b"nothing new\n"
        else:
            end = time.thread_time() + 0.005
            while time.thread_time() < end:
                pass
            body = b"ok\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"9\r\ndata: x\n\n\r\n")
            self.wfile.flush()
            time.sleep(0.5)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
