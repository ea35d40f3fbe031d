//! `pumasi user`: the users of a service that sign in, for whoever looks after them.

use crate::args::UserCommand;
use crate::failure::Failure;
use crate::output::{self, Format, Table, note};
use crate::session::Session;
use crate::units::age;
use pumasi_realm::admin::{Change, Invitation, Invite, USERS_MAX, User, Users};
use pumasi_realm::{Login, percent};
use pumasi_terms::{ServiceName, WallMs};

/// More are read page by page by programs.
const SHOWN_MAX: usize = 10_000;

pub async fn user(session: &Session, command: &UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::List { service } => list(session, service).await,
        UserCommand::Show { service, login } => {
            let user: User = session.client.get(&path(service, login)).await?;
            session.show(&user, || name(&user), || Ok(table(session, std::slice::from_ref(&user))))
        }
        UserCommand::Invite { service, login, group, recover, ttl_hours } => {
            let wish =
                Invite { login: login.clone(), groups: group.clone(), recovery: *recover, ttl_hours: *ttl_hours };
            invite(session, service, &wish).await
        }
        UserCommand::Disable { service, login } => {
            let change = Change { disabled: Some(true), ..Change::default() };
            changed(session, service, login, &change, "disabled and signed out").await
        }
        UserCommand::Enable { service, login } => {
            let change = Change { disabled: Some(false), ..Change::default() };
            changed(session, service, login, &change, "enabled").await
        }
        UserCommand::SignOut { service, login } => {
            let change = Change { sign_out: true, ..Change::default() };
            changed(session, service, login, &change, "signed out").await
        }
        UserCommand::Groups { service, login, groups } => {
            let change = Change { groups: Some(groups.clone()), ..Change::default() };
            changed(session, service, login, &change, "has other groups now").await
        }
        UserCommand::Delete { service, login } => {
            let user: User = session.client.delete(&path(service, login)).await?;
            done(session, &user, "deleted")
        }
    }
}

fn path(service: &ServiceName, login: &Login) -> String {
    format!("/v1/services/{service}/users/{}", encoded(login))
}

fn encoded(login: &Login) -> String {
    percent::encode(login.as_str(), b"")
}

fn name(user: &User) -> String {
    format!("user/{}\n", user.login)
}

fn done(session: &Session, user: &User, did: &str) -> Result<(), Failure> {
    let answer = serde_json::to_value(user).unwrap_or_default();
    session.done(&format!("user/{}", user.login), did, &answer)
}

async fn changed(
    session: &Session,
    service: &ServiceName,
    login: &Login,
    change: &Change,
    did: &str,
) -> Result<(), Failure> {
    let user: User = session.client.post(&path(service, login), change).await?;
    done(session, &user, did)
}

async fn list(session: &Session, service: &ServiceName) -> Result<(), Failure> {
    let mut all = Users { items: Vec::new(), next: None };
    loop {
        let after = all.next.as_ref().map(|login| format!("&after={}", encoded(login))).unwrap_or_default();
        let page: Users = session.client.get(&format!("/v1/services/{service}/users?limit={USERS_MAX}{after}")).await?;
        all.items.extend(page.items);
        all.next = page.next;
        if all.next.is_none() || all.items.len() >= SHOWN_MAX {
            break;
        }
    }
    if all.items.is_empty() && session.global.output == Format::Table {
        note(&format!("no users; `pumasi user invite {service}` lets somebody become one"));
        return Ok(());
    }
    if all.next.is_some() {
        note(&format!("the first {SHOWN_MAX} users; the API has the others, page by page"));
    }
    session.show(&all, || all.items.iter().map(name).collect(), || Ok(table(session, &all.items)))
}

fn table(session: &Session, users: &[User]) -> Table {
    let mut table =
        Table::new(&["LOGIN", "NAME", "STATE", "PASSKEYS", "PASSWORD", "APPS", "SESSIONS", "GROUPS", "SEEN"]);
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    for user in users {
        table.row(vec![
            user.login.as_str().into(),
            or_dash(user.name.clone()).into(),
            (if user.disabled { "disabled" } else { "active" }).into(),
            user.passkeys.to_string().into(),
            (if user.password { "yes" } else { "no" }).into(),
            user.app_passwords.to_string().into(),
            user.sessions.to_string().into(),
            or_dash(user.groups.join(" ")).into(),
            user.signed_in_at_ms
                .map_or("never".to_owned(), |at| age(session.now, WallMs(at.try_into().unwrap_or(i64::MAX))))
                .into(),
        ]);
    }
    table
}

/// The address goes to standard output, so that it can be handed on by a program.
async fn invite(session: &Session, service: &ServiceName, wish: &Invite) -> Result<(), Failure> {
    let made: Invitation = session.client.post(&format!("/v1/services/{service}/invitations"), wish).await?;
    match session.global.output {
        Format::Json => output::print(&output::json(&made)?),
        Format::Yaml => output::print(&output::yaml(&made)?),
        Format::Name | Format::Table => {
            output::print(&format!("{}\n", made.path))?;
            note(&format!(
                "open it on the service's own host, within {} h; it is told only now and is good once",
                wish.ttl_hours
            ));
            Ok(())
        }
    }
}
