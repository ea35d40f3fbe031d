//! The one table of endpoints. The daemon's routers, one a door, its authorisation and its OpenAPI document are made from it.

use crate::role::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// Where a daemon listens, and for whom. What a door does not serve is not there: no rule has to refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// The Unix socket, and TLS where an operator chose it. Who calls is known by the socket, or by a token.
    People,
    /// The peer port: mutual TLS. Certificates of members and invitations, never tokens.
    Members,
    /// For monitoring without credentials: metrics alone, on loopback.
    Monitors,
}

#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    pub method: Method,
    /// With `{name}` parameters.
    pub path: &'static str,
    pub summary: &'static str,
    /// Empty: everybody.
    pub roles: &'static [Role],
    pub doors: &'static [Door],
    /// The largest body that is read.
    pub body_bytes_max: usize,
}

/// Who may call, and through which doors.
type Access = (&'static [Role], &'static [Door]);

const PEOPLE: Access = (&[Role::Viewer, Role::Customer, Role::Operator], &[Door::People]);
const CUSTOMERS: Access = (&[Role::Customer, Role::Operator], &[Door::People]);
const OPERATORS: Access = (&[Role::Operator], &[Door::People]);
const PEERS: Access = (&[Role::Peer], &[Door::Members]);
const MEMBERS_AND_PEOPLE: Access =
    (&[Role::Viewer, Role::Customer, Role::Operator, Role::Peer], &[Door::People, Door::Members]);
const INVITED: Access = (&[Role::Invited, Role::Peer], &[Door::Members]);
const ALL: Access = (&[], &[Door::People]);
const MONITORS: Access = (&[], &[Door::People, Door::Monitors]);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn on(
    method: Method,
    path: &'static str,
    (roles, doors): Access,
    body_bytes_max: usize,
    summary: &'static str,
) -> Endpoint {
    Endpoint { method, path, summary, roles, doors, body_bytes_max }
}

use Method::{Delete, Get, Post, Put};

pub const ENDPOINTS: &[Endpoint] = &[
    // The daemon itself.
    on(Get, "/healthz", ALL, 0, "Whether the process lives"),
    on(Get, "/readyz", ALL, 0, "Whether it may be sent work"),
    on(Get, "/openapi.json", ALL, 0, "This API as OpenAPI 3.1"),
    on(Get, "/metrics", MONITORS, 0, "Prometheus metrics"),
    on(Get, "/v1/whoami", PEOPLE, 0, "Who asks: name, role and customer"),
    on(Get, "/v1/cloud", PEOPLE, 0, "This cloud: version, standing, automation, capacity"),
    on(Get, "/v1/traffic", PEOPLE, 0, "Live rates, times and shares of each service"),
    on(Get, "/v1/traffic/history", PEOPLE, 0, "The last hour of each service, a point each five seconds"),
    on(Get, "/v1/watch", PEOPLE, 0, "Changes of objects as server-sent events, from a revision"),
    on(Get, "/v1/events", PEOPLE, 0, "The journal: what happened and why"),
    on(Post, "/v1/automation", OPERATORS, 4 * KIB, "Stop or resume all automatic acts of this cloud"),
    on(Post, "/v1/stop", OPERATORS, 4 * KIB, "End the daemon, and with it everything if that is asked for"),
    on(Post, "/v1/reload", OPERATORS, 4 * KIB, "Read certificates again, while everybody is served"),
    on(Post, "/v1/backup", OPERATORS, 4 * KIB, "Write a consistent copy of the store beside it"),
    on(Post, "/v1/standing", OPERATORS, 4 * KIB, "Accept a restored store after comparing it with the peers"),
    on(Get, "/v1/quarantine", OPERATORS, 0, "What no record explains: directories set aside for a day, and instances"),
    on(Post, "/v1/quarantine/{entry}/restore", OPERATORS, 4 * KIB, "Put a directory of the quarantine back"),
    on(
        Delete,
        "/v1/quarantine/{entry}",
        OPERATORS,
        0,
        "Erase an entry of the quarantine, or let stray instances be stopped",
    ),
    on(Get, "/v1/tokens", OPERATORS, 0, "Tokens, without their secrets"),
    on(Post, "/v1/tokens", OPERATORS, 4 * KIB, "Make a token; its secret is told once"),
    on(Delete, "/v1/tokens/{id}", OPERATORS, 0, "Revoke a token"),
    on(Get, "/v1/customers", OPERATORS, 0, "Customers: what they are granted, have and use"),
    on(Put, "/v1/customers/{name}", OPERATORS, 16 * KIB, "Make a customer, or change what it is granted"),
    on(Delete, "/v1/customers/{name}", OPERATORS, 0, "Remove a customer that has nothing left here"),
    // What customers own. Whatever is somebody else's is answered as if it were not there.
    on(Post, "/v1/manifests/read", CUSTOMERS, 2 * MIB, "Read a manifest: its services, or every fault of it"),
    on(Get, "/v1/services", PEOPLE, 0, "Services with their state"),
    on(Put, "/v1/services", CUSTOMERS, 8 * MIB, "Create or change several services: all of them, or none"),
    on(Get, "/v1/services/{name}", PEOPLE, 0, "One service with its state"),
    on(Put, "/v1/services/{name}", CUSTOMERS, MIB, "Create or change a service"),
    on(Post, "/v1/services/{name}/check", CUSTOMERS, MIB, "What would come of applying a service; nothing is changed"),
    on(Get, "/v1/services/{name}/generations", PEOPLE, 0, "What a service ran before, newest first"),
    on(Post, "/v1/services/{name}/undo", CUSTOMERS, 4 * KIB, "Run what an earlier generation ran"),
    on(Post, "/v1/services/{name}/restart", CUSTOMERS, 4 * KIB, "Exchange every instance for a new one, one by one"),
    on(Post, "/v1/services/{name}/scale", CUSTOMERS, 4 * KIB, "Change how many instances run at home"),
    on(Post, "/v1/services/{name}/rehearsals", CUSTOMERS, 4 * KIB, "Borrow one instance, ask it once, give it back"),
    on(Get, "/v1/services/{name}/move", PEOPLE, 0, "How far a service's last move is"),
    on(
        Post,
        "/v1/services/{name}/move",
        CUSTOMERS,
        4 * KIB,
        "Move a service to another cloud, for good; or tell what would come of it",
    ),
    on(
        Post,
        "/v1/services/{name}/move/cancel",
        CUSTOMERS,
        4 * KIB,
        "Cancel a move, as long as the other cloud does not own it",
    ),
    on(
        Post,
        "/v1/services/{name}/move/abandon",
        OPERATORS,
        4 * KIB,
        "Own a service again whose heir may have signed and does not serve; refused while the heir answers",
    ),
    on(Delete, "/v1/services/{name}", CUSTOMERS, 0, "Remove a service; what it rented is given back first"),
    on(Get, "/v1/services/{name}/logs", CUSTOMERS, 0, "The last lines of its instances, rented ones too"),
    on(Get, "/v1/services/{name}/users", CUSTOMERS, 0, "Users of a service that sign in, by login"),
    on(Get, "/v1/services/{name}/users/{login}", CUSTOMERS, 0, "One user of a service"),
    on(
        Post,
        "/v1/services/{name}/users/{login}",
        CUSTOMERS,
        16 * KIB,
        "Disable or enable a user, sign it out, or set its groups",
    ),
    on(
        Delete,
        "/v1/services/{name}/users/{login}",
        CUSTOMERS,
        0,
        "Delete a user with everything that it signs in by; it never comes back",
    ),
    on(
        Post,
        "/v1/services/{name}/invitations",
        CUSTOMERS,
        16 * KIB,
        "Let somebody become a user of a service, or an existing one get in again; the address is told once",
    ),
    on(
        Post,
        "/v1/services/{name}/exec",
        CUSTOMERS,
        64 * KIB,
        "Run a command in one of its instances at home; the connection becomes the command's (Upgrade: pumasi-exec/1)",
    ),
    on(Get, "/v1/divergences", PEOPLE, 0, "What services wrote here before this cloud was found lost, kept aside"),
    on(
        Get,
        "/v1/services/{name}/divergences/{epoch}/archive",
        CUSTOMERS,
        0,
        "All of a divergence as a tar archive, divergence.json first",
    ),
    on(
        Post,
        "/v1/services/{name}/divergences/{epoch}/discard",
        CUSTOMERS,
        4 * KIB,
        "Erase a divergence for good, with a reason",
    ),
    on(Get, "/v1/secrets", PEOPLE, 0, "Secrets by name, without their values"),
    on(Put, "/v1/secrets/{name}", CUSTOMERS, 256 * KIB, "Set a secret's value; services that use it are renewed"),
    on(Delete, "/v1/secrets/{name}", CUSTOMERS, 0, "Delete a secret that no service uses"),
    on(Get, "/v1/retired", PEOPLE, 0, "Deleted services whose data are still kept"),
    on(Delete, "/v1/retired/{id}", CUSTOMERS, 0, "Erase the data of a deleted service now"),
    on(Post, "/v1/bundles/missing", CUSTOMERS, 256 * MIB, "Which chunks of a bundle are not here yet"),
    on(Post, "/v1/bundles/chunks", CUSTOMERS, 64 * MIB, "Upload a pack of chunks"),
    on(Post, "/v1/bundles", CUSTOMERS, 256 * MIB, "Complete a bundle from its manifest"),
    // The journey, to be seen and decided.
    on(Get, "/v1/instances", PEOPLE, 0, "Instances that run here, own and lent"),
    on(Get, "/v1/journeys", PEOPLE, 0, "Journeys of services, open and lately closed"),
    on(Get, "/v1/journeys/{id}", PEOPLE, 0, "One journey"),
    on(Post, "/v1/journeys/{id}/cancel", CUSTOMERS, 4 * KIB, "Give back everything of a journey, in order"),
    on(Get, "/v1/plans", PEOPLE, 0, "Plans"),
    on(Get, "/v1/plans/{id}", PEOPLE, 0, "One plan"),
    on(Post, "/v1/plans/{id}/approve", CUSTOMERS, 4 * KIB, "Let a waiting plan be executed"),
    on(Post, "/v1/plans/{id}/refuse", CUSTOMERS, 4 * KIB, "Refuse a waiting plan, with a reason"),
    on(Get, "/v1/leases", PEOPLE, 0, "Leases, rented and lent"),
    on(Get, "/v1/leases/{id}", PEOPLE, 0, "One lease"),
    on(Post, "/v1/leases/{id}/recall", OPERATORS, 4 * KIB, "Call a lent lease back, with notice"),
    on(Get, "/v1/bill", OPERATORS, 0, "What is owed and earned in a month, or in all time"),
    on(Post, "/v1/members/{name}/ping", OPERATORS, 4 * KIB, "Have a member's daemon answer, and tell how long it took"),
    on(Get, "/v1/settlements", OPERATORS, 0, "Settlements whose readings differ, which wait for a person"),
    on(
        Post,
        "/v1/settlements/{id}/accept",
        OPERATORS,
        4 * KIB,
        "Settle a lent lease by the lesser reading all the same",
    ),
    on(Post, "/v1/settlements/{id}/dispute", OPERATORS, 4 * KIB, "Leave a settlement open, with a reason"),
    on(
        Get,
        "/v1/continuity",
        PEOPLE,
        0,
        "If a service's own cloud stopped now: where it goes on, how soon, with what loss",
    ),
    on(Get, "/v1/offers", PEOPLE, 0, "What the members offer now"),
    // The pact.
    on(Get, "/v1/pact", MEMBERS_AND_PEOPLE, 0, "The pact as signed"),
    on(Post, "/v1/pact", OPERATORS, 16 * KIB, "Found a pact"),
    on(Post, "/v1/pact/invitations", OPERATORS, 4 * KIB, "Make an invitation, good once"),
    on(Post, "/v1/pact/join", OPERATORS, 64 * KIB, "Join a pact by an invitation"),
    on(Post, "/v1/pact/leave", OPERATORS, 4 * KIB, "Leave the pact"),
    on(Post, "/v1/pact/dismissals", OPERATORS, 4 * KIB, "Part from a member; the other members' operators are asked"),
    on(Post, "/v1/pact/proposals/{id}/approve", OPERATORS, 4 * KIB, "Agree to a newcomer or a dismissal"),
    on(Post, "/v1/pact/proposals/{id}/refuse", OPERATORS, 4 * KIB, "Refuse a newcomer or a dismissal"),
    on(Put, "/v1/pact/terms", OPERATORS, 16 * KIB, "Change what this cloud lends"),
    on(Get, "/v1/pact/rehearsal", OPERATORS, 0, "What would happen if a member were lost now"),
    on(
        Post,
        "/v1/pact/recoveries/{cloud}",
        OPERATORS,
        4 * KIB,
        "Agree that a lost cloud's services are taken over, where the pact asks",
    ),
    on(
        Post,
        "/v1/pact/takeovers",
        OPERATORS,
        4 * KIB,
        "Take over what is kept ready here for a member that is gone, by hand",
    ),
    on(Get, "/v1/pact/game-days", OPERATORS, 0, "Services that are given up on purpose, and how that went"),
    on(
        Put,
        "/v1/pact/game-days/{service}",
        OPERATORS,
        4 * KIB,
        "Give a service up on purpose, now or again and again: it is taken over, asked, and brought back",
    ),
    on(Put, "/v1/pact/voting", OPERATORS, 4 * KIB, "Choose who votes on the ownership of services, or nobody"),
    // Between clouds.
    on(Post, "/v1/pact/admissions", INVITED, 256 * KIB, "Ask for admission with an invitation's secret"),
    on(Post, "/v1/pact/signatures", PEERS, 512 * KIB, "Ask a member to sign the next serial"),
    on(Put, "/v1/pact/current", INVITED, 512 * KIB, "Bring the pact that all have signed"),
    on(Put, "/v1/pact/notices", INVITED, 256 * KIB, "Bring what members said of their own membership, signed by them"),
    on(Post, "/v1/pacts/{id}/messages", PEERS, 512 * KIB, "Words of the pact's voters, and renewals, in one batch"),
    on(
        Post,
        "/v1/pacts/{id}/silence",
        PEERS,
        4 * KIB,
        "Ask whether a cloud was heard, and what could be taken over from it",
    ),
    on(Post, "/v1/pacts/{id}/commands", PEERS, 320 * KIB, "Ask whoever leads to put a command into the register"),
    on(Get, "/v1/pacts/{id}/register", PEERS, 0, "What the register became after a revision; waits a second for news"),
    on(Get, "/v1/pacts/{id}/snapshot/{digest}", PEERS, 0, "A snapshot of the register"),
    on(Post, "/v1/heartbeat", PEERS, 256 * KIB, "Offers, renewals and news in one batch"),
    on(Post, "/v1/reservations", PEERS, 64 * KIB, "Hold room for seconds"),
    on(Delete, "/v1/reservations/{id}", PEERS, 0, "Let a hold go"),
    on(Post, "/v1/leases", PEERS, 256 * KIB, "Sign a lease over a hold; the answer carries both signatures"),
    on(Post, "/v1/leases/{id}/chunks/missing", PEERS, 256 * MIB, "Which chunks of a tree are not there yet"),
    on(Post, "/v1/leases/{id}/chunks", PEERS, 64 * MIB, "Send a pack of chunks"),
    on(Get, "/v1/leases/{id}/sealing-key", PEERS, 0, "What a lease's secrets are sealed to"),
    on(Put, "/v1/leases/{id}/application", PEERS, MIB, "Complete the application and say how it runs"),
    on(Put, "/v1/leases/{id}/dossier", PEERS, 4 * MIB, "Say what a standby must know to go on without its home"),
    on(Post, "/v1/leases/{id}/handover/prepare", PEERS, 4 * KIB, "Make ready to own what a lease keeps ready"),
    on(
        Put,
        "/v1/leases/{id}/handover",
        PEERS,
        256 * KIB,
        "Own a service from now on; the answer carries both signatures",
    ),
    on(Post, "/v1/leases/{id}/handover/hold", PEERS, 4 * KIB, "Let unsafe requests wait that come in there"),
    on(
        Post,
        "/v1/leases/{id}/handover/cancel",
        PEERS,
        4 * KIB,
        "Do not sign a handover any more; the answer says if that is too late",
    ),
    on(Get, "/v1/leases/{id}/handover", PEERS, 0, "Whether a service that was handed over serves there"),
    on(
        Put,
        "/v1/leases/{id}/datasets/{name}",
        PEERS,
        64 * KIB,
        "Complete the first copy of a dataset, or a new state of its files",
    ),
    on(
        Post,
        "/v1/leases/{id}/datasets/{name}/batches",
        PEERS,
        256 * MIB,
        "Bring a copy forward by changed pages or files",
    ),
    on(Get, "/v1/leases/{id}/logs", PEERS, 0, "The last lines of the instances there"),
    on(Post, "/v1/leases/{id}/release", PEERS, 4 * KIB, "Give a lease back; the answer proves how much is left"),
    on(Post, "/v1/leases/{id}/settlement", PEERS, 256 * KIB, "Compare the ledgers and sign"),
];

impl Endpoint {
    pub fn is_served_at(&self, door: Door) -> bool {
        self.doors.contains(&door)
    }
}

/// The endpoint of a request, by the router's matched path.
pub fn find(method: &str, path: &str) -> Option<&'static Endpoint> {
    ENDPOINTS.iter().find(|e| e.method.as_str() == method && e.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_endpoint_stands_twice() {
        for (i, a) in ENDPOINTS.iter().enumerate() {
            assert!(!ENDPOINTS[..i].iter().any(|b| a.method == b.method && a.path == b.path), "{}", a.path);
        }
    }

    #[test]
    fn each_door_serves_its_own_callers_only() {
        let people = [Role::Viewer, Role::Customer, Role::Operator];
        for e in ENDPOINTS {
            let name = format!("{} {}", e.method.as_str(), e.path);
            let for_people = e.roles.is_empty() || e.roles.iter().any(|r| people.contains(r));
            let for_members = e.roles.iter().any(|r| matches!(r, Role::Peer | Role::Invited));
            assert_eq!(e.is_served_at(Door::People), for_people, "{name}");
            assert_eq!(e.is_served_at(Door::Members), for_members, "{name}");
            assert_eq!(e.is_served_at(Door::Monitors), e.path == "/metrics", "{name}");
        }
    }

    #[test]
    fn what_changes_something_needs_a_role() {
        for e in ENDPOINTS.iter().filter(|e| e.method != Method::Get) {
            assert!(!e.roles.is_empty(), "{} {} is open to everybody", e.method.as_str(), e.path);
            assert!(!e.roles.contains(&Role::Viewer), "{} {}", e.method.as_str(), e.path);
        }
    }
}
