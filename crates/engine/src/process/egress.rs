//! The egress list, enforced by nftables for the uid of each instance.
//!
//! Stateless on purpose: no connection can open without a SYN, so nothing needs connection tracking, whose table would fill up under
//! many short connections. Answers to clients therefore always pass; UDP and the rest pass to listed addresses only.

use crate::EngineError;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, Clone)]
pub(super) struct Firewall {
    program: PathBuf,
    table: String,
}

impl Firewall {
    /// `None` where there is no nftables or no right to use it.
    pub(super) fn open(name: &str) -> Option<Self> {
        let program =
            ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].map(PathBuf::from).into_iter().find(|p| p.is_file())?;
        let firewall = Self { program, table: format!("inet {name}") };
        // A table may be added twice; one that cannot be added is no firewall.
        match firewall.run(&firewall.base()) {
            Ok(_) => Some(firewall),
            Err(e) => {
                tracing::info!(error = %e, "nftables is here but cannot be used");
                None
            }
        }
    }

    /// The rule is looked up by uid, so that packets of others cost one lookup.
    fn base(&self) -> String {
        let t = &self.table;
        format!(
            "add table {t}\n\
             add map {t} instances {{ typeof meta skuid : verdict; }}\n\
             add chain {t} output {{ type filter hook output priority filter; policy accept; }}\n\
             flush chain {t} output\n\
             add rule {t} output meta skuid vmap @instances\n"
        )
    }

    /// One transaction; repeating it changes nothing.
    pub(super) fn admit(&self, uid: u32, egress: &[String]) -> Result<(), EngineError> {
        let t = &self.table;
        let mut script = self.base();
        let _ = write!(
            script,
            "add chain {t} u{uid}\n\
             flush chain {t} u{uid}\n\
             add rule {t} u{uid} tcp flags & (syn | ack) != syn accept\n"
        );
        for to in egress.iter().filter_map(|e| e.parse::<SocketAddr>().ok()) {
            let family = if to.is_ipv4() { "ip" } else { "ip6" };
            let (ip, port) = (to.ip(), to.port());
            let _ = writeln!(
                script,
                "add rule {t} u{uid} {family} daddr {ip} meta l4proto {{ tcp, udp }} th dport {port} accept"
            );
        }
        let _ = write!(
            script,
            "add rule {t} u{uid} meta l4proto tcp reject with tcp reset\n\
             add rule {t} u{uid} reject with icmpx type admin-prohibited\n\
             add element {t} instances {{ {uid} : jump u{uid} }}\n"
        );
        self.run(&script).map(drop).map_err(EngineError::host(format!("set the egress rules of uid {uid}")))
    }

    pub(super) fn forget(&self, uid: u32) -> Result<(), EngineError> {
        if !self.uids()?.contains(&uid) {
            return Ok(());
        }
        let t = &self.table;
        let script = format!(
            "add element {t} instances {{ {uid} : jump u{uid} }}\n\
             delete element {t} instances {{ {uid} : jump u{uid} }}\n\
             flush chain {t} u{uid}\n\
             delete chain {t} u{uid}\n"
        );
        self.run(&script).map(drop).map_err(EngineError::host(format!("delete the egress rules of uid {uid}")))
    }

    /// The uids that have rules.
    pub(super) fn uids(&self) -> Result<BTreeSet<u32>, EngineError> {
        let text = match self.run(&format!("list table {}\n", self.table)) {
            Ok(text) => text,
            Err(e) if e.to_string().contains("No such file") => return Ok(BTreeSet::new()),
            Err(e) => return Err(EngineError::host("list the egress rules")(e)),
        };
        Ok(uids_in(&text))
    }

    /// The table itself, when nobody needs it; it is made again on the next start.
    pub(super) fn close(&self) {
        let _ = self.run(&format!("add table {0}\ndelete table {0}\n", self.table));
    }

    fn run(&self, script: &str) -> io::Result<String> {
        let mut child = Command::new(&self.program)
            .args(["-f", "-"])
            .env_clear()
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        let out = child.wait_with_output()?;
        if out.status.success() {
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        } else {
            let text = String::from_utf8_lossy(&out.stderr);
            Err(io::Error::other(text.lines().next().unwrap_or("nft failed without a word").to_owned()))
        }
    }
}

/// From the chains `u<uid>`.
fn uids_in(text: &str) -> BTreeSet<u32> {
    text.lines().filter_map(|l| l.trim().strip_prefix("chain u")?.split(' ').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn chains_name_their_uids() {
        let text = "table inet x {\n\tchain output {\n\t}\n\tchain u4000001 {\n\t\treject\n\t}\n}\n";
        assert_eq!(super::uids_in(text), [4_000_001].into());
    }
}
