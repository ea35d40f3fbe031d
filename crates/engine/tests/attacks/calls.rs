//! System calls, socket families, rights.

use super::{cannot_try, inside, python, wrong};
use crate::common::{App, ProcessRig, Rig, shell};

/// Each is tried with arguments that a kernel without the filter would take, or refuse for another reason than these.
const CALLS: &str = r#"
import ctypes, errno, os
c = ctypes.CDLL(None, use_errno=True)
calls = dict(ptrace=(101,0), syslog=(103,10), uselib=(134,), personality_exec=(135,0x400000), modify_ldt=(154,0,0,0),
 pivot_root=(155,0,0), acct=(163,0), mount=(165,0,0,0), umount2=(166,0,0), swapon=(167,0), reboot=(169,0), iopl=(172,0),
 init_module=(175,0), quotactl=(179,0), lookup_dcookie=(212,0), kexec_load=(246,0), add_key=(248,0,0,0,0,0),
 request_key=(249,0,0,0,0), keyctl=(250,0,-3,0), unshare_user=(272,0x10000000), unshare_none=(272,0), perf_event_open=(298,0,0,-1,-1,0),
 fanotify_init=(300,0x200,0), name_to_handle_at=(303,-100,b"/",0,0,0), open_by_handle_at=(304,-1,0,0), setns=(308,-1,0),
 process_vm_readv=(310,os.getpid(),0,0,0,0,0), process_vm_writev=(311,os.getpid(),0,0,0,0,0), kcmp=(312,os.getpid(),os.getpid(),1,0,0),
 finit_module=(313,-1,0,0), bpf=(321,0,0,0), userfaultfd=(323,1), io_uring_setup=(425,1,0), io_uring_enter=(426,-1,0,0,0),
 open_tree=(428,-100,b"/",0), fsopen=(430,b"tmpfs",0), clone3=(435,0,0), pidfd_getfd=(438,-1,0,0), process_madvise=(440,-1,0,0,0,0),
 mount_setattr=(442,-100,b"/",0,0,0), quotactl_fd=(443,-1,0,0,0), memfd_secret=(447,0), statmount=(457,0,0,0,0), listmount=(458,0,0,0,0),
 sync=(162,), syncfs=(306,0), chroot=(161,b"/tmp"), adjtimex=(159,0), move_pages=(279,0,0,0,0,0,0), unknown=(1000,),
 clone_user=(56,0x10000011,0,0,0,0), clone_net_high=(56,(1<<40)|0x40000011,0,0,0,0), sched_ext_of_the_future=(600,))
for name, a in calls.items():
    for twin, bit in (("", 0), ("_x32", 0x40000000)):
        ctypes.set_errno(0)
        r = c.syscall(ctypes.c_long(a[0] | bit), *[ctypes.c_char_p(x) if isinstance(x, bytes) else ctypes.c_long(x) for x in a[1:]])
        if r == 0 and name.startswith("clone"): os._exit(0)
        print(name + twin, errno.errorcode.get(ctypes.get_errno(), "0") if r == -1 else "GOT", flush=True)
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c), ("TIOCSETD", 0x5423), ("TIOCSTI_high", (1<<32)|0x5412)):
    r = c.ioctl(0, ctypes.c_ulong(request), b"x")
    print(name, errno.errorcode[ctypes.get_errno()])
"#;

#[tokio::test]
async fn calls_that_reach_beyond_an_instance_are_not_made() {
    if cannot_try("system calls") || std::env::consts::ARCH != "x86_64" {
        return;
    }
    let rig = ProcessRig::new().await;
    let address = inside(&rig, &rig.spec(1, App::Well)).await;
    let said = python(address, CALLS);
    assert!(said.lines().count() >= 2 * 33 + 4, "{said}");
    let wrong = wrong(&said, |_, answer| matches!(answer, "EPERM" | "ENOSYS"));
    assert!(wrong.is_empty(), "{wrong:?}");
    // The 32-bit entry has other numbers: whoever takes it is killed.
    rig.end().await;
}

const SOCKETS: &str = r#"
import socket, errno
kinds = dict(stream=1, dgram=2, raw=3, rdm=4, seqpacket=5, packet=10)
for family in range(0, 60):
    for protocol in (0, 1, 6, 9, 12, 15, 17, 33, 58, 132, 136, 255, 256, 262):
        for kind, number in kinds.items():
            try:
                socket.socket(family, number, protocol).close()
                print(f"{family}/{kind}/{protocol} GOT")
            except OSError as e:
                if family not in (1, 2, 10, 16): print(f"{family}/{kind}/{protocol}", errno.errorcode[e.errno])
try:
    socket.socketpair(30, 1); print("tipc-pair GOT")
except OSError as e: print("tipc-pair", errno.errorcode[e.errno])
"#;

#[tokio::test]
async fn no_socket_of_another_family_or_protocol() {
    if cannot_try("socket families") {
        return;
    }
    let rig = ProcessRig::new().await;
    let address = inside(&rig, &rig.spec(1, App::Well)).await;
    let said = python(address, SOCKETS);
    let fine = |name: &str, answer: &str| {
        let parts: Vec<&str> = name.split('/').collect();
        match (parts[0], answer) {
            ("1", "GOT") => parts[1] != "rdm" && parts[1] != "packet",
            ("2" | "10", "GOT") => matches!(parts[1..], ["stream", "0" | "6"] | ["dgram", "0" | "17"]),
            ("16", "GOT") => parts[2] == "0",
            (_, answer) => answer == "EAFNOSUPPORT",
        }
    };
    let wrong = wrong(&said, fine);
    assert!(wrong.is_empty(), "{wrong:?}");
    for usual in ["1/stream/0 GOT", "2/stream/6 GOT", "10/dgram/17 GOT", "16/raw/0 GOT"] {
        assert!(said.contains(usual), "{usual} is missing: {said}");
    }
    rig.end().await;
}

#[tokio::test]
async fn no_capability_is_in_reach() {
    if cannot_try("capabilities") {
        return;
    }
    let rig = ProcessRig::new().await;
    let address = inside(&rig, &rig.spec(1, App::Well)).await;
    let said = shell(address, "grep ^Cap /proc/self/status");
    assert_eq!(said.lines().count(), 5, "{said}");
    assert!(said.lines().all(|l| l.ends_with("\t0000000000000000")), "{said}");
    let bits = python(address, "import ctypes\nprint(ctypes.CDLL(None).prctl(27, 0, 0, 0, 0))");
    assert_eq!(bits.trim().parse::<u32>().unwrap() & 0b1110_0011, 0b1110_0011, "secure bits {bits}");
    // Init keeps what it needs to end its application, and no more.
    let init = shell(address, "kill -9 1; kill -STOP 1; echo $?");
    assert!(init.contains("No such process") || init.contains("not permitted"), "{init}");
    let host_pid = crate::common::status(&rig, &crate::common::id(1)).await.unwrap().pid.unwrap();
    let parent = crate::parent_of(host_pid);
    let of_init = std::fs::read_to_string(format!("/proc/{parent}/status")).unwrap();
    for (set, right) in [("CapEff", 0x20), ("CapPrm", 0x20), ("CapBnd", 0u64)] {
        let found = of_init.lines().find_map(|l| l.strip_prefix(set)?.strip_prefix(":\t")).unwrap();
        assert_eq!(u64::from_str_radix(found, 16).unwrap(), right, "{set} of init");
    }
    rig.end().await;
}

/// The list of what is allowed must not be the end of what people run.
const USUAL: &str = r#"
import asyncio, multiprocessing, os, select, signal, sqlite3, ssl, subprocess, tempfile, threading, time, getpass, socket, mmap
assert getpass.getuser() == "instance", getpass.getuser()
t = threading.Thread(target=time.sleep, args=(0.01,)); t.start(); t.join()
with multiprocessing.Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]
assert subprocess.run(["sh", "-c", "echo x | cat"], capture_output=True).stdout == b"x\n"
with tempfile.NamedTemporaryFile() as f:
    db = sqlite3.connect(f.name); db.execute("pragma journal_mode=wal"); db.execute("create table t(x)"); db.commit()
assert len(ssl.create_default_context().get_ca_certs()) > 10
fd = os.memfd_create("x"); os.ftruncate(fd, 4096); mmap.mmap(fd, 4096)
os.eventfd(0); os.pidfd_open(os.getpid()); select.epoll().close(); os.sched_setaffinity(0, os.sched_getaffinity(0))
async def child(): return await (await asyncio.create_subprocess_exec("true")).wait()
assert asyncio.run(child()) == 0
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
os.mkfifo("/tmp/fifo"); open("/dev/null", "w").write("x"); open("/dev/stdout", "w").write("")
assert socket.gethostbyname("localhost") == "127.0.0.1"
print("well", time.tzname[0])
"#;

#[tokio::test]
async fn usual_programs_run_as_before() {
    if cannot_try("usual programs") {
        return;
    }
    let rig = ProcessRig::new().await;
    let mut spec = rig.spec(1, App::Well);
    spec.resources.memory_mib = 768;
    let address = inside(&rig, &spec).await;
    let said = python(address, USUAL);
    assert!(said.starts_with("well "), "{said}");
    let runtimes = rig.engine().capabilities().platforms.remove(0).runtimes;
    let has = |name: &str| runtimes.iter().any(|r| r == name);
    if has("node") {
        let program = "const w=require('worker_threads'),f=require('fs'),c=require('child_process');\
            f.writeFileSync('/tmp/n','x');c.execSync('true');require('crypto').randomBytes(9);\
            if(w.isMainThread)new w.Worker('1+1',{eval:true}).on('exit',()=>console.log('well',require('os').userInfo().username))";
        assert_eq!(shell(address, &format!("node -e \"{program}\"")).trim(), "well instance");
    }
    if has("java") {
        let said = shell(address, "java -Xmx64m -XX:+UseSerialGC -version");
        assert!(said.to_lowercase().contains("runtime environment"), "{said}");
    }
    if has("perl") {
        assert_eq!(shell(address, "perl -e 'print((getpwuid($<))[0])'"), "instance");
    }
    rig.end().await;
}
