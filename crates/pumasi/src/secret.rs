//! `pumasi secret`: values from a file or standard input, never from the command line, which others on the host can read.

use crate::args::{SecretCommand, Whose};
use crate::failure::Failure;
use crate::output::{self, Table};
use crate::session::Session;
use crate::units::age;
use pumasi_api::message::{List, NewSecret, SecretView};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

const BYTES_MAX: u64 = 64 << 10;

fn query(whose: &Whose) -> String {
    whose.customer.as_ref().map(|c| format!("?customer={c}")).unwrap_or_default()
}

fn read(file: Option<&Path>) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let done = match file {
        Some(path) => std::fs::File::open(path).and_then(|f| f.take(BYTES_MAX).read_to_end(&mut bytes)),
        None => std::io::stdin().lock().take(BYTES_MAX).read_to_end(&mut bytes),
    };
    let from = file.map_or("standard input".to_owned(), |p| p.display().to_string());
    done.map_err(|e| Failure::input(format!("reading the secret from {from}: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::input(format!("{from}: a secret is UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

pub async fn secret(session: &Session, command: &SecretCommand) -> Result<(), Failure> {
    match command {
        SecretCommand::Set { name, file, whose } => {
            let body = NewSecret { value: read(file.as_deref())? };
            let answer: Value = session.client.put(&format!("/v1/secrets/{name}{}", query(whose)), &body).await?;
            session.done(&format!("secret/{name}"), "set", &answer)
        }
        SecretCommand::Delete { name, whose } => {
            let answer: Value = session.client.delete(&format!("/v1/secrets/{name}{}", query(whose))).await?;
            session.done(&format!("secret/{name}"), "deleted", &answer)
        }
        SecretCommand::List { whose } => {
            let list: List<SecretView> = session.client.get(&format!("/v1/secrets{}", query(whose))).await?;
            if list.items.is_empty() && session.global.output == output::Format::Table {
                output::note("no secrets");
                return Ok(());
            }
            let names = || list.items.iter().map(|s| format!("secret/{}\n", s.name)).collect();
            session.show(&list, names, || {
                let mut table = Table::new(&["NAME", "CUSTOMER", "VERSION", "AGE", "USED BY"]);
                for s in &list.items {
                    let used: Vec<&str> = s.used_by.iter().map(pumasi_terms::ServiceName::as_str).collect();
                    table.row(vec![
                        s.name.as_str().into(),
                        s.customer.as_str().into(),
                        s.version.to_string().into(),
                        age(session.now, s.set_at).into(),
                        if used.is_empty() { "-".into() } else { used.join(" ").into() },
                    ]);
                }
                Ok(table)
            })
        }
    }
}
