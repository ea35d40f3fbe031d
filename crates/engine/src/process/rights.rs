//! Giving up the rights of root, so that nothing executed later can have them again.

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

/// No program started from here on has a capability, whatever its file or its user says. The caller keeps its own until it changes
/// its user.
pub(super) fn forbid_all() -> Result<(), String> {
    // Asked of the kernel: one that is newer than our list may know more.
    let known = caps::runtime::procfs_all_supported(None).unwrap_or_else(|_| caps::runtime::thread_all_supported());
    for capability in known {
        caps::drop(None, CapSet::Bounding, capability).map_err(|e| format!("give up {capability}: {e}"))?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(|e| format!("give up capabilities: {e}"))?;
    }
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits).map_err(|e| format!("lock the rules of capabilities: {e}"))
}

/// Root no more, and no way back.
pub(super) fn become_user(uid: u32, gid: u32) -> Result<(), String> {
    let err = |doing: &'static str| move |e: nix::errno::Errno| format!("{doing}: {}", e.desc());
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).map_err(err("clear groups"))?;
    setresgid(gid, gid, gid).map_err(err("change gid"))?;
    setresuid(uid, uid, uid).map_err(err("change uid"))?;
    for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
        let left = caps::read(None, set).map_err(|e| format!("look at what is left: {e}"))?;
        if !left.is_empty() {
            return Err(format!("capabilities are left after the change of uid: {left:?}"));
        }
    }
    Ok(())
}

/// All that init needs while its application runs: it signals processes of another uid.
pub(super) fn keep_only_signals() -> Result<(), String> {
    forbid_all()?;
    let signals = caps::CapsHashSet::from([Capability::CAP_KILL]);
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &signals).map_err(|e| format!("give up what init does not need: {e}"))?;
    }
    Ok(())
}
