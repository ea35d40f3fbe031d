//! `pumasi customer` and `pumasi erase`: tenants, and what is kept of services that they deleted.

use crate::args::{CustomerCommand, Kind};
use crate::failure::Failure;
use crate::session::Session;
use pumasi_api::message::CustomerGrant;
use pumasi_terms::Resources;
use serde_json::Value;

pub async fn customer(session: &Session, command: &CustomerCommand) -> Result<(), Failure> {
    match command {
        CustomerCommand::List => crate::get::get(session, Kind::Customers, None, &Default::default()).await,
        CustomerCommand::Delete { name } => {
            let answer: Value = session.client.delete(&format!("/v1/customers/{name}")).await?;
            session.done(&format!("customer/{name}"), "deleted", &answer)
        }
        CustomerCommand::Set { name, host, services, cpu, memory } => {
            let grant = CustomerGrant {
                hosts: host.clone(),
                services_max: *services,
                resources_max: Resources { cpu_millis: *cpu, memory_mib: *memory },
            };
            let answer: Value = session.client.put(&format!("/v1/customers/{name}"), &grant).await?;
            session.done(&format!("customer/{name}"), "set", &answer)
        }
    }
}

pub async fn erase(session: &Session, id: &str) -> Result<(), Failure> {
    let id = session.id(Kind::Retired, id).await?;
    let answer: Value = session.client.delete(&format!("/v1/retired/{id}")).await?;
    session.done(&format!("retired/{id}"), "erased", &answer)
}
