//! The OpenAPI 3.1 document, made from the table of endpoints and the types of the stages.

use crate::object::PlanRecord;
use pumasi_api::console as c;
use pumasi_api::game_day::{AskGameDay, GameDayView};
use pumasi_api::message as m;
use pumasi_api::{ENDPOINTS, Method, Problem, Role};
use pumasi_lease::message as l;
use pumasi_realm::admin as r;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

/// Schemas of one endpoint: what is sent, and what is answered.
type Shapes = (Option<Value>, Value);

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

fn shapes(g: &mut SchemaGenerator, method: Method, path: &str) -> Shapes {
    use Method::{Delete, Get, Post, Put};
    let any = || json!({});
    let text = || json!({ "type": "string" });
    match (method, path) {
        (Get, "/v1/cloud") => (None, of::<m::CloudStatus>(g)),
        (Get, "/v1/traffic") => (None, of::<m::Traffic>(g)),
        (Get, "/v1/traffic/history") => (None, of::<c::TrafficHistory>(g)),
        (Get, "/v1/whoami") => (None, of::<c::WhoAmI>(g)),
        (Post, "/v1/manifests/read") => (Some(of::<c::ReadManifest>(g)), of::<c::ManifestRead>(g)),
        (Get, "/v1/events") => (None, of::<m::List<m::Event>>(g)),
        (Get, "/v1/watch") => (None, of::<m::Change>(g)),
        (Post, "/v1/automation") => (Some(of::<m::Automation>(g)), of::<m::Automation>(g)),
        (Post, "/v1/stop") => (Some(of::<m::StopCloud>(g)), any()),
        (Post, "/v1/reload") => (Some(of::<m::Why>(g)), of::<m::ReloadDone>(g)),
        (Post, "/v1/backup") => (Some(of::<m::Why>(g)), of::<m::BackupDone>(g)),
        (Post, "/v1/standing") => (Some(of::<m::AcceptRestored>(g)), text()),
        (Get, "/v1/quarantine") => (None, of::<m::List<m::Quarantined>>(g)),
        (Get, "/v1/tokens") => (None, of::<m::List<m::TokenView>>(g)),
        (Post, "/v1/tokens") => (Some(of::<m::NewToken>(g)), of::<m::TokenView>(g)),
        (Get, "/v1/customers") => (None, of::<m::List<m::CustomerView>>(g)),
        (Put, "/v1/customers/{name}") => (Some(of::<m::CustomerGrant>(g)), of::<m::CustomerView>(g)),
        (Get, "/v1/secrets") => (None, of::<m::List<m::SecretView>>(g)),
        (Put, "/v1/secrets/{name}") => (Some(of::<m::NewSecret>(g)), of::<m::SecretView>(g)),
        (Get, "/v1/retired") => (None, of::<m::List<m::RetiredView>>(g)),
        (Get, "/v1/divergences") => (None, of::<m::List<m::DivergenceView>>(g)),
        (Get, "/v1/services/{name}/divergences/{epoch}/archive") => {
            (None, json!({ "type": "string", "format": "binary" }))
        }
        (Post, "/v1/services/{name}/divergences/{epoch}/discard") => (Some(of::<m::Why>(g)), any()),
        (Get, "/v1/services") => (None, of::<m::List<m::ServiceView>>(g)),
        (Put, "/v1/services") => (Some(of::<m::ApplyServices>(g)), of::<m::List<m::ServiceView>>(g)),
        (Get, "/v1/services/{name}") => (None, of::<m::ServiceView>(g)),
        (Get, "/v1/services/{name}/generations") => (None, of::<m::List<m::GenerationView>>(g)),
        (Post, "/v1/services/{name}/undo") => (Some(of::<m::UndoService>(g)), of::<m::ServiceView>(g)),
        (Post, "/v1/services/{name}/restart") => (Some(of::<m::Why>(g)), of::<m::ServiceView>(g)),
        (Post, "/v1/services/{name}/scale") => (Some(of::<m::ScaleService>(g)), of::<m::ServiceView>(g)),
        (Post, "/v1/services/{name}/rehearsals") => {
            (Some(of::<m::RehearseService>(g)), of::<pumasi_journey::Journey>(g))
        }
        (Get, "/v1/services/{name}/users") => (None, of::<r::Users>(g)),
        (Get | Delete, "/v1/services/{name}/users/{login}") => (None, of::<r::User>(g)),
        (Post, "/v1/services/{name}/users/{login}") => (Some(of::<r::Change>(g)), of::<r::User>(g)),
        (Post, "/v1/services/{name}/invitations") => (Some(of::<r::Invite>(g)), of::<r::Invitation>(g)),
        (Post, "/v1/services/{name}/exec") => (Some(of::<pumasi_api::exec::RunCommand>(g)), any()),
        (Get, "/v1/services/{name}/move") => (None, of::<pumasi_journey::moving::Move>(g)),
        // A dry run is answered by the outlook.
        (Post, "/v1/services/{name}/move") => {
            let either = json!({ "anyOf": [of::<m::MoveOutlook>(g), of::<pumasi_journey::moving::Move>(g)] });
            (Some(of::<m::MoveService>(g)), either)
        }
        (Post, "/v1/services/{name}/move/abandon") => {
            (Some(of::<m::AbandonMove>(g)), of::<pumasi_journey::moving::Move>(g))
        }
        (Post, "/v1/services/{name}/move/cancel") => (Some(of::<m::Why>(g)), of::<pumasi_journey::moving::Move>(g)),
        (Post, "/v1/services/{name}/check") => (Some(of::<m::CheckService>(g)), of::<m::Lending>(g)),
        (Put, "/v1/services/{name}") => (Some(of::<pumasi_terms::service::Service>(g)), of::<m::ServiceView>(g)),
        (Post, "/v1/bundles") => (Some(any()), of::<m::Uploaded>(g)),
        (Post, "/v1/bundles/missing") => (Some(any()), of::<m::Missing>(g)),
        (Get, "/v1/instances") => (None, of::<m::List<m::InstanceView>>(g)),
        (Get, "/v1/journeys") => (None, of::<m::List<pumasi_journey::Journey>>(g)),
        (Get, "/v1/journeys/{id}") => (None, of::<pumasi_journey::Journey>(g)),
        (Post, "/v1/journeys/{id}/cancel") => (Some(of::<m::Why>(g)), of::<pumasi_journey::Journey>(g)),
        (Get, "/v1/plans") => (None, of::<m::List<PlanRecord>>(g)),
        (Get, "/v1/plans/{id}") => (None, of::<PlanRecord>(g)),
        (Post, "/v1/plans/{id}/approve" | "/v1/plans/{id}/refuse") => (Some(of::<m::Why>(g)), of::<PlanRecord>(g)),
        (Get, "/v1/continuity") => (None, of::<m::List<m::StandbyView>>(g)),
        (Get, "/v1/leases") => (None, of::<m::List<m::LeaseView>>(g)),
        (Get, "/v1/leases/{id}") => (None, of::<m::LeaseView>(g)),
        (Post, "/v1/leases/{id}/recall") => (Some(of::<m::Why>(g)), of::<pumasi_lease::LentLease>(g)),
        (Get, "/v1/bill") => (None, of::<m::Bill>(g)),
        (Post, "/v1/members/{name}/ping") => (Some(of::<m::Why>(g)), of::<m::Pong>(g)),
        (Get, "/v1/settlements") => (None, of::<m::List<m::SettlementView>>(g)),
        (Post, "/v1/settlements/{id}/accept" | "/v1/settlements/{id}/dispute") => {
            (Some(of::<m::Why>(g)), of::<m::SettlementView>(g))
        }
        (Get, "/v1/offers") => (None, of::<m::List<pumasi_terms::offer::Offer>>(g)),
        (Post, "/v1/pact") => (Some(of::<m::FoundPact>(g)), any()),
        (Post, "/v1/pact/invitations") => (Some(of::<m::Invite>(g)), of::<m::Invited>(g)),
        (Post, "/v1/pact/join") => (Some(of::<m::Join>(g)), any()),
        (Post, "/v1/pact/leave") => (Some(of::<m::Why>(g)), any()),
        (Post, "/v1/pact/dismissals") => (Some(of::<m::Dismiss>(g)), any()),
        (Post, "/v1/pact/proposals/{id}/approve" | "/v1/pact/proposals/{id}/refuse") => {
            (Some(of::<m::Why>(g)), of::<m::PactProposal>(g))
        }
        (Post, "/v1/pact/recoveries/{cloud}") => (Some(of::<m::Why>(g)), any()),
        (Post, "/v1/pact/takeovers") => (Some(of::<m::TakeOver>(g)), of::<Vec<m::TakenOver>>(g)),
        (Get, "/v1/pact/game-days") => (None, of::<m::List<GameDayView>>(g)),
        (Put, "/v1/pact/game-days/{service}") => (Some(of::<AskGameDay>(g)), of::<GameDayView>(g)),
        (Get, "/v1/pact/rehearsal") => (None, of::<m::RehearsalView>(g)),
        (Put, "/v1/pact/voting") => (Some(of::<m::Vote>(g)), any()),
        (Put, "/v1/pact/terms") => (Some(of::<pumasi_terms::pact::Terms>(g)), any()),
        (Post, "/v1/heartbeat") => (Some(of::<l::Heartbeat>(g)), of::<l::HeartbeatAnswer>(g)),
        (Post, "/v1/reservations") => (Some(of::<l::ReservationRequest>(g)), of::<l::ReservationGrant>(g)),
        (Get, "/v1/leases/{id}/sealing-key") => (None, of::<crate::wire::SealingKey>(g)),
        (Post, "/v1/leases/{id}/release") => (Some(any()), any()),
        (Get, "/healthz" | "/readyz" | "/metrics" | "/v1/services/{name}/logs" | "/v1/leases/{id}/logs") => {
            (None, text())
        }
        (Get | Delete, _) => (None, any()),
        (
            Post,
            "/v1/bundles/chunks"
            | "/v1/leases/{id}/chunks"
            | "/v1/leases/{id}/datasets/{name}/batches"
            | "/v1/pacts/{id}/messages",
        ) => (Some(json!({ "type": "string", "format": "binary" })), any()),
        (Post | Put, _) => (Some(any()), any()),
    }
}

fn parameters(method: Method, path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
    let form = |name: &str| {
        let id = match path.split('/').nth(2).filter(|_| name == "id") {
            Some("tokens") => "tok",
            Some("retired") => "svc",
            Some("journeys") => "jrn",
            Some("plans") => "plan",
            Some("leases") => "lease",
            Some("reservations") => "hold",
            Some("pacts") => "pact",
            _ => return "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$".to_owned(),
        };
        format!("^{id}-[a-z0-9]{{1,48}}$")
    };
    let schema = |name: &str| match name {
        "login" => json!({ "type": "string", "minLength": 1, "maxLength": pumasi_realm::login::LOGIN_BYTES_MAX }),
        "epoch" => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        name => json!({ "type": "string", "pattern": form(name) }),
    };
    let mut list: Vec<Value> =
        names.map(|n| json!({ "name": n, "in": "path", "required": true, "schema": schema(n) })).collect();
    let query = |name: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "schema": schema });
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
    match path {
        // Whoever only reads or deletes one is told of its own.
        "/v1/services" | "/v1/services/{name}" if method != Method::Put => {}
        "/v1/services/{name}/logs" => {
            list.extend([query("since_ms", json!({ "type": "integer" })), query("instance", text())])
        }
        "/v1/services/{name}/users" => list.extend([query("after", text()), query("limit", number())]),
        "/v1/traffic/history" => list.push(query("service", json!({ "type": "string", "pattern": form("name") }))),
        "/v1/bill" => list.push(query("month", text())),
        "/v1/watch" => list.extend([query("kind", text()), query("after", number())]),
        "/v1/services"
        | "/v1/services/{name}"
        | "/v1/services/{name}/check"
        | "/v1/secrets"
        | "/v1/secrets/{name}"
        | "/v1/bundles"
        | "/v1/bundles/missing"
        | "/v1/bundles/chunks" => {
            list.push(query("customer", json!({ "type": "string", "pattern": form("name") })));
        }
        "/v1/pacts/{id}/register" => list.extend([query("since", number()), query("after", number())]),
        "/v1/events" => list.extend([
            query("after", number()),
            query("limit", number()),
            query("kind", text()),
            query("subject", text()),
        ]),
        _ => {}
    }
    list
}

fn security(roles: &[Role]) -> Value {
    let mut ways = Vec::new();
    if roles.iter().any(|r| matches!(r, Role::Viewer | Role::Customer | Role::Operator)) {
        ways.push(json!({ "token": [] }));
    }
    if roles.contains(&Role::Peer) {
        ways.push(json!({ "peer": [] }));
    }
    Value::Array(ways)
}

fn build() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut g = SchemaGenerator::new(settings);
    let problem = of::<Problem>(&mut g);
    let mut paths: Map<String, Value> = Map::new();
    for e in ENDPOINTS {
        let (body, answer) = shapes(&mut g, e.method, e.path);
        let binary = body.as_ref().is_some_and(|b| b["format"] == "binary");
        let media = |schema: Value| match (e.path, schema["type"].as_str()) {
            ("/v1/watch", _) => json!({ "text/event-stream": { "schema": schema } }),
            (path, Some("string")) if path != "/v1/standing" => json!({ "text/plain": { "schema": schema } }),
            _ => json!({ "application/json": { "schema": schema } }),
        };
        let mut operation = json!({
            "summary": e.summary,
            "operationId": format!("{}{}", e.method.as_str().to_lowercase(), e.path.replace(['/', '{', '}', '.'], "_")),
            "parameters": parameters(e.method, e.path),
            "security": security(e.roles),
            "x-roles": e.roles,
            "responses": {
                "200": { "description": "done", "content": media(answer) },
                "default": { "description": "refused or failed; RFC 9457", "content": { "application/problem+json": { "schema": problem } } },
            },
        });
        if let Some(body) = body {
            let kind = if binary { "application/octet-stream" } else { "application/json" };
            // A reason may be left out, and with it the body: none is read as `{}`.
            let optional = [
                "#/components/schemas/Why",
                "#/components/schemas/AcceptRestored",
                "#/components/schemas/CustomerGrant",
                "#/components/schemas/UndoService",
                "#/components/schemas/StopCloud",
            ];
            let required = !optional.iter().any(|name| body["$ref"] == *name);
            operation["requestBody"] = json!({ "required": required, "content": { kind: { "schema": body } } });
        }
        if e.path == "/v1/services/{name}/exec" {
            let told = "the connection carries the frames of pumasi-exec/1 from here on";
            operation["responses"] =
                json!({ "101": { "description": told }, "default": operation["responses"]["default"] });
        }
        if e.path == "/readyz" {
            operation["responses"]["503"] = json!({ "description": "not ready, and why", "content": { "text/plain": { "schema": { "type": "string" } } } });
        }
        let entry = paths.entry(e.path).or_insert_with(|| json!({}));
        entry[e.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Pumasi", "version": "1", "description": "One API for customers, operators and peers of a cloud.", "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "paths": paths,
        "components": {
            "schemas": g.take_definitions(true),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "peer": { "type": "mutualTLS", "description": "X.509-SVID of a member's daemon" },
            },
        },
    })
}

pub async fn document() -> axum::Json<&'static Value> {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    axum::Json(DOCUMENT.get_or_init(build))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = build();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                    }
                    open.extend(map.values());
                }
                Value::Array(list) => open.extend(list),
                _ => {}
            }
        }
        assert_eq!(
            document["paths"].as_object().map(Map::len),
            Some(ENDPOINTS.iter().map(|e| e.path).collect::<std::collections::BTreeSet<_>>().len())
        );
    }
}
