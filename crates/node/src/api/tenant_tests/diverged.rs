//! What a service wrote before its cloud was lost: its customer's to see, to download and to discard, and nobody else's.

use super::*;
use crate::diverged;
use crate::object::{DIVERGENCE, Divergence};
use std::os::unix::fs::symlink;

const SET_ASIDE: &str = "diverged/epoch-3/notes";

impl Rig {
    /// As a cloud finds it that is back: data that went on, and beside them what it had written.
    async fn diverged(&self) -> PathBuf {
        let dir = tenancy::service_dir(&self.node, &self.record("victim").unwrap());
        let (aside, beside) = (dir.join(SET_ASIDE), dir.join("data/notes"));
        for at in [&aside, &beside] {
            std::fs::create_dir_all(at).unwrap();
            std::fs::write(at.join("same"), "both").unwrap();
            // A copy has the times of what it is of.
            let same = std::fs::File::options().write(true).open(at.join("same")).unwrap();
            same.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
        std::fs::write(aside.join("lost\nwrite \u{1f33e}"), "acknowledged").unwrap();
        std::fs::write(aside.join("empty"), "").unwrap();
        std::fs::write(aside.join("other"), "here").unwrap();
        std::fs::write(beside.join("other"), "there").unwrap();
        std::fs::write(beside.join("later"), "there").unwrap();
        symlink("/etc/passwd", aside.join("link")).unwrap();
        diverged::look(&self.node).await.unwrap();
        aside
    }
}

#[tokio::test]
async fn a_divergence_is_its_customers_to_see_download_and_discard() {
    let rig = Rig::new().await;
    rig.victim().await;
    let aside = rig.diverged().await;
    let (archive, discard) = ("/v1/services/victim/divergences/3/archive", "/v1/services/victim/divergences/3/discard");
    for eve in ["eve", "eve-viewer"] {
        let (status, text) = rig.get(eve, "/v1/divergences").await;
        assert!(status == 200 && !text.contains("victim"), "{eve}: {text}");
        for (method, path, body) in [("GET", archive, Value::Null), ("POST", discard, json!({"why": "x"}))] {
            let asked = rig.ask(eve, method, path, body).await;
            assert!(matches!(asked.0, 403 | 404) && !asked.1.contains("acknowledged"), "{eve} {method}: {asked:?}");
        }
    }
    assert_eq!(rig.get("eve", archive).await.0, 404);
    assert_eq!(rig.get("acme-viewer", archive).await.0, 403, "who only looks is given no data");
    for who in ["acme", "acme-viewer", "operator"] {
        let (status, text) = rig.get(who, "/v1/divergences").await;
        assert_eq!(status, 200, "{who}: {text}");
        let list: Value = serde_json::from_str(&text).unwrap();
        let told = &list["items"][0];
        assert_eq!(
            (&told["service"], &told["epoch"], &told["only_here"]),
            (&"victim".into(), &3.into(), &3.into()),
            "{told}"
        );
        let files = &told["datasets"]["notes"]["files"];
        // A link that leads out of the dataset has no content: it is given out, and not compared.
        assert_eq!((&files["added"]["count"], &files["changed"]["first"][0]), (&2.into(), &"other".into()), "{told}");
        assert_eq!(files["removed"]["first"], json!(["later"]));
    }
    for who in ["acme", "operator"] {
        let (status, tar) = rig.get(who, archive).await;
        assert_eq!(status, 200, "{tar}");
        for part in ["divergence.json", "notes/same", "lost\nwrite \u{1f33e}", "acknowledged", "/etc/passwd"] {
            assert!(tar.contains(part), "{who}: {part} is not in {tar}");
        }
        assert!(!tar.contains("root:"), "a link is given as a link");
    }
    assert_eq!(rig.get("acme", "/v1/services/victim/divergences/2/archive").await.0, 404);
    // What is kept makes nobody unready, and is seen.
    let metrics = rig.get("operator", "/metrics").await.1;
    assert!(metrics.contains("pumasi_divergences 1"), "{metrics}");
    assert!(diverged::notice(&rig.node).unwrap().contains("1 divergences"));
    // It goes by a word with a reason, once.
    for why in [json!({"why": " "}), json!({})] {
        assert_eq!(rig.ask("acme", "POST", discard, why).await.0, 400);
    }
    assert!(aside.join("same").exists());
    assert_eq!(rig.ask("acme", "POST", discard, json!({"why": "merged by hand"})).await.0, 200);
    assert!(!aside.exists() && rig.node.items::<Divergence>(DIVERGENCE).unwrap().iter().next().is_none());
    let events = rig.get("acme", "/v1/events").await.1;
    for action in ["data_set_aside", "divergence_compared", "divergence_discarded", "merged by hand"] {
        assert!(events.contains(action), "{action}: {events}");
    }
    assert_eq!(rig.ask("acme", "POST", discard, json!({"why": "again"})).await.0, 404);
    diverged::look(&rig.node).await.unwrap();
    assert!(rig.record("victim").is_some() && !rig.get("acme", "/v1/divergences").await.1.contains("victim"));
}

#[tokio::test]
async fn what_was_cut_off_while_it_was_discarded_is_there_or_is_gone() {
    let rig = Rig::new().await;
    rig.victim().await;
    let aside = rig.diverged().await;
    let dir = aside.parent().unwrap().to_owned();
    let gone = dir.with_extension("erasing");
    // Renamed, and nobody's word written down: it is there again.
    std::fs::rename(&dir, &gone).unwrap();
    diverged::look(&rig.node).await.unwrap();
    assert!(aside.join("same").exists() && !gone.exists());
    // Written down, and not erased yet.
    std::fs::rename(&dir, &gone).unwrap();
    let key = diverged::key(&rig.record("victim").unwrap().id, pumasi_terms::Epoch(3));
    rig.node.transact(move |tx| Ok(tx.delete(DIVERGENCE, &key, Expect::Any).map(|_| ())?)).await.unwrap();
    diverged::look(&rig.node).await.unwrap();
    assert!(!dir.exists() && !gone.exists());
}

#[tokio::test]
async fn a_database_that_is_garbled_is_told_and_given_out_as_a_file() {
    let rig = Rig::new().await;
    rig.victim().await;
    let name = "victim".to_owned();
    rig.node
        .transact(move |tx| {
            let stored = tx.get::<ServiceRecord>(SERVICE, &name)?.unwrap();
            let mut record = stored.body;
            let set = &mut record.document.spec.datasets[0];
            (set.kind, set.file) = (pumasi_terms::service::DatasetKind::Sqlite, Some("app.db".into()));
            Ok(tx.put(SERVICE, &name, &record, Expect::Any).map(|_| ())?)
        })
        .await
        .unwrap();
    let dir = tenancy::service_dir(&rig.node, &rig.record("victim").unwrap());
    for at in [SET_ASIDE, "data/notes"] {
        std::fs::create_dir_all(dir.join(at)).unwrap();
        std::fs::write(dir.join(at).join("app.db"), format!("no database {at}")).unwrap();
    }
    diverged::look(&rig.node).await.unwrap();
    let (_, text) = rig.get("acme", "/v1/divergences").await;
    assert!(text.contains("could not be compared by its rows") && text.contains("app.db"), "{text}");
    let (status, tar) = rig.get("acme", "/v1/services/victim/divergences/3/archive").await;
    assert!(status == 200 && tar.contains("no database diverged"), "{tar}");
}

#[tokio::test]
async fn one_whose_record_cannot_be_read_stays_where_it_is() {
    let rig = Rig::new().await;
    rig.victim().await;
    let aside = rig.diverged().await;
    let key = diverged::key(&rig.record("victim").unwrap().id, pumasi_terms::Epoch(3));
    let garbled = json!({"version": 99});
    rig.node.transact(move |tx| Ok(tx.put(DIVERGENCE, &key, &garbled, Expect::Any).map(|_| ())?)).await.unwrap();
    diverged::look(&rig.node).await.unwrap();
    let discarded =
        rig.ask("acme", "POST", "/v1/services/victim/divergences/3/discard", json!({"why": "it is old"})).await;
    assert_eq!(discarded.0, 404, "{discarded:?}");
    assert!(aside.join("same").exists() && !rig.get("acme", "/v1/divergences").await.1.contains("victim"));
}
