//! Users of this host, as the kernel names them at the Unix socket.

use crate::config::Api;
use nix::unistd::{Group, Uid, User, geteuid};
use pumasi_api::{Principal, Role};
use pumasi_terms::PrincipalName;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub struct Users {
    by_uid: BTreeMap<u32, (PrincipalName, Role)>,
    group: Option<u32>,
}

impl Users {
    /// Root and the daemon's own user operate the cloud: they could read its store anyway.
    pub fn of_host(api: &Api) -> Result<Self, String> {
        let mut by_uid = BTreeMap::new();
        for (name, role) in &api.users {
            let found = User::from_name(name).map_err(|e| format!("api.users: looking for {name}: {e}"))?;
            let user = found.ok_or_else(|| format!("api.users: this host has no user {name}"))?;
            let name = PrincipalName::parse(name.as_str()).map_err(|e| format!("api.users: {e}"))?;
            by_uid.insert(user.uid.as_raw(), (name, *role));
        }
        let operator = |name: &str| PrincipalName::parse(name).map_err(|e| e.to_string());
        by_uid.insert(geteuid().as_raw(), (operator("operator")?, Role::Operator));
        by_uid.insert(Uid::from_raw(0).as_raw(), (operator("root")?, Role::Operator));
        let group = match &api.group {
            None => None,
            Some(name) => {
                let found = Group::from_name(name).map_err(|e| format!("api.group: looking for {name}: {e}"))?;
                Some(found.ok_or_else(|| format!("api.group: this host has no group {name}"))?.gid.as_raw())
            }
        };
        Ok(Self { by_uid, group })
    }

    pub fn group(&self) -> Option<u32> {
        self.group
    }

    /// Nobody in particular: then only a token tells who it is.
    pub fn of(&self, uid: u32) -> Option<Principal> {
        self.by_uid.get(&uid).map(|(name, role)| Principal::person(name.clone(), *role, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_user_operate_and_others_are_what_is_written() {
        let api = Api { users: BTreeMap::from([("nobody".to_owned(), Role::Viewer)]), ..Api::default() };
        let users = Users::of_host(&api).unwrap();
        let role = |uid| users.of(uid).and_then(|p| p.role());
        assert_eq!((role(0), role(geteuid().as_raw())), (Some(Role::Operator), Some(Role::Operator)));
        let nobody = User::from_name("nobody").unwrap().unwrap().uid.as_raw();
        assert_eq!((role(nobody), role(200_001)), (Some(Role::Viewer), None));
        let api = Api { users: BTreeMap::from([("no-such-user".to_owned(), Role::Viewer)]), ..Api::default() };
        assert!(Users::of_host(&api).unwrap_err().contains("no-such-user"));
    }
}
