//! Where an instance may write without end, and what it can put in place of its own directories.

use super::{cannot_try, inside, python};
use crate::common::{App, At, ProcessRig, Rig, get, id, shell, status, wait};
use pumasi_engine::InstanceState;

/// As a directory tree of the host counts them.
fn bytes_below(dir: &std::path::Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let meta = entry.metadata().unwrap();
        sum += if meta.is_dir() { bytes_below(&entry.path()) } else { meta.len() };
    }
    sum
}

#[tokio::test]
async fn what_it_may_fill_has_an_end_and_is_not_the_hosts() {
    if cannot_try("full scratch space") {
        return;
    }
    let rig = ProcessRig::new().await;
    let mut spec = rig.spec(1, App::Well);
    spec.resources.memory_mib = 64;
    let address = inside(&rig, &spec).await;
    let before = bytes_below(&rig.instance_dir(&spec.id));
    for place in ["/tmp", "/var/tmp", "$HOME", "/dev/shm"] {
        let said =
            shell(address, &format!("head -c 100000000 /dev/zero > {place}/big; wc -c < {place}/big; rm {place}/big"));
        let bytes: u64 = said.lines().next().unwrap().parse().unwrap();
        assert!(said.contains("No space left"), "{place}: {said}");
        assert!((20 << 20..=32 << 20).contains(&bytes), "{place} takes {bytes}");
    }
    // One bound for all of them together.
    let said =
        shell(address, "head -c 30000000 /dev/zero > /tmp/a; head -c 30000000 /dev/zero > $HOME/b; rm /tmp/a $HOME/b");
    assert!(said.contains("No space left"), "{said}");
    let said = python(
        address,
        "import os\nn=0\ntry:\n  while n<200000:\n    os.close(os.open(f'/tmp/{n}', os.O_CREAT)); n+=1\nexcept OSError as e: print(e.strerror)\nprint(n)\nfor i in range(n): os.unlink(f'/tmp/{i}')",
    );
    assert!(said.starts_with("No space left"), "{said}");
    assert!(said.lines().nth(1).unwrap().parse::<u32>().unwrap() < 9_000, "{said}");
    assert_eq!(
        shell(address, "df --output=fstype /tmp $HOME /dev/shm /var/tmp | sort -u | xargs").trim(),
        "Type tmpfs"
    );
    // It lives, and the host's disk has not grown by it.
    let found = status(&rig, &id(1)).await.unwrap();
    assert_eq!((found.state, found.restarts), (InstanceState::Ready, 0));
    assert!(bytes_below(&rig.instance_dir(&spec.id)) < before + 64_000);
    rig.end().await;
}

#[tokio::test]
async fn links_in_its_own_directories_lead_nowhere_after_a_restart() {
    if cannot_try("links in its own directories") {
        return;
    }
    let rig = ProcessRig::new().await;
    let spec = rig.spec(1, App::Well);
    let address = inside(&rig, &spec).await;
    let of_the_host = tempfile::Builder::new().prefix("pumasi-host-").tempdir_in("/run").unwrap();
    std::fs::set_permissions(of_the_host.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let target = of_the_host.path().display();
    shell(
        address,
        &format!(
            "rm -rf $HOME/tmp; ln -s {target} $HOME/tmp; ln -s {target} $HOME/data; ln -s {target} /tmp/x; \
             mv $HOME /tmp/home; ln -s {target} $HOME; rmdir /tmp; ln -s {target} /tmp; echo kept > /tmp/kept; echo kept > $HOME/kept"
        ),
    );
    let _ = get(address, "/exit?1");
    let again = wait(&rig, &spec.id, |s| s.restarts == 1 && s.state == InstanceState::Ready).await;
    let address = At::of(&again);
    let said = shell(
        address,
        &format!(
            "ls -A /tmp $HOME /var/tmp/ /dev/shm | grep -v : | xargs; echo x > /tmp/f; echo x > $HOME/f; echo x > {target}/f"
        ),
    );
    assert!(said.starts_with('\n'), "nothing of the run before is there: {said}");
    assert_eq!(std::fs::read_dir(of_the_host.path()).unwrap().count(), 0, "the host's directory was written");
    assert!(said.contains("nonexistent") || said.contains("No such file"), "{said}");
    rig.end().await;
}
