//! `pumasi divergence`: what a service wrote here before its cloud was found lost.

use crate::args::DivergenceCommand;
use crate::failure::Failure;
use crate::session::Session;
use pumasi_api::message::Why;
use serde_json::Value;
use std::io::{IsTerminal, Write};

pub async fn divergence(session: &Session, command: &DivergenceCommand) -> Result<(), Failure> {
    match command {
        DivergenceCommand::Download { service, epoch } => {
            let mut out = std::io::stdout();
            if out.is_terminal() {
                return Err(Failure::failed("an archive is no text for a terminal")
                    .hint(format!("pumasi divergence download {service} --epoch {epoch} > {service}.tar")));
            }
            let path = format!("/v1/services/{service}/divergences/{epoch}/archive");
            session.client.stream(&path, |piece| out.write_all(piece)).await?;
            out.flush().map_err(|e| Failure::failed(format!("writing the archive: {e}")))
        }
        DivergenceCommand::Discard { service, epoch, why } => {
            let path = format!("/v1/services/{service}/divergences/{epoch}/discard");
            let answer: Value = session.client.post(&path, &Why { why: why.clone() }).await?;
            session.done(&format!("divergence/{service}"), "discarded", &answer)
        }
    }
}
