//! Every field of `cloud.toml` from its types: for `docs/configuration.md`, and for `pumasi config show`, which tells what is unset, too.
//!
//! Always holds: what stands here is read by [`Config::parse`] as it stands.

use super::Config;
use serde_json::Value;
use std::fmt::Write;

const INTRODUCTION: &str = "\
# cloud.toml

The configuration of one cloud's daemon. `pumasi serve --config cloud.toml` reads it once, at its start; a change counts after a restart,
which no service notices. The least that works:

```toml
version = 1
[cloud]
name = \"city-a\"
```

`pumasi config check` tells every fault of it at once, each with its line; `pumasi config show` prints what is in force, and in comments
what could be set besides. Paths are relative to the file. A variable `PUMASI__SECTION__KEY` in the daemon's environment stands over the
file, as `PUMASI__TIMING__TICK_MS=50`; fields of a section within a section cannot be set so.

This page is made from the program's own types (a test compares them): what is not here is not known there.
";

/// How fields are written that have no default, or one that says nothing.
const EXAMPLES: [(&str, &str); 24] = [
    ("cloud.name", "\"city-a\""),
    ("cloud.data_dir", "\"/var/lib/pumasi\""),
    ("cloud.place.city", "\"Seoul\""),
    ("cloud.place.latitude", "37.57"),
    ("cloud.place.longitude", "126.98"),
    ("api.socket", "\"/run/pumasi/api.sock\""),
    ("api.group", "\"staff\""),
    ("api.users", "{ alice = \"operator\", wall = \"viewer\" }"),
    ("api.listen", "\"203.0.113.7:7400\""),
    ("api.names", "[\"cloud.city-a.example\"]"),
    ("api.certificate", "\"/etc/pumasi/api.pem\""),
    ("api.key", "\"/etc/pumasi/api.key\""),
    ("metrics.listen", "\"127.0.0.1:9100\""),
    ("peer.advertise", "\"cloud.city-a.example:7443\""),
    ("peer.source_ip", "\"203.0.113.7\""),
    ("gateway.listen_tls", "[\"203.0.113.7:443\"]"),
    ("gateway.tls_certificate", "\"/etc/pumasi/tls.pem\""),
    ("gateway.tls_key", "\"/etc/pumasi/tls.key\""),
    ("gateway.peer_advertise", "\"cloud.city-a.example:7444\""),
    ("gateway.trusted_proxies", "[\"192.0.2.0/24\"]"),
    ("engine.lend_without_isolation", "\"\""),
    ("engine.uid_base", "800000"),
    ("engine.view", "[\"/usr/share\"]"),
    ("engine.home_egress", "[\"10.0.0.0/8:5432\"]"),
];
const MORE_EXAMPLES: [(&str, &str); 2] = [("lend.egress", "[\"203.0.113.0/24:443\"]"), ("pact.role", "\"witness\"")];

/// One field.
struct Field {
    /// Empty at the top.
    section: String,
    key: String,
    about: String,
    /// As TOML writes it; none: there is no default.
    default: Option<String>,
}

struct Section {
    name: String,
    about: String,
    fields: Vec<Field>,
}

impl Field {
    fn path(&self) -> String {
        if self.section.is_empty() { self.key.clone() } else { format!("{}.{}", self.section, self.key) }
    }

    fn example(&self) -> Option<String> {
        let path = self.path();
        let named =
            EXAMPLES.iter().chain(&MORE_EXAMPLES).find(|(of, _)| *of == path).map(|(_, text)| (*text).to_owned());
        // What is off is shown switched on.
        let default = || self.default.clone().map(|d| if d == "false" { "true".to_owned() } else { d });
        named.or_else(default).or_else(|| (path == "version").then(|| "1".to_owned()))
    }

    /// By the field's name: units stand in it.
    fn unit(&self) -> &'static str {
        let units = [
            ("_ms", "ms"),
            ("bytes_per_s", "bytes/s"),
            ("bytes_max", "bytes"),
            ("_bytes", "bytes"),
            ("_kib_per_s", "KiB/s"),
            ("_mib_per_s", "MiB/s"),
            ("_mib", "MiB"),
            ("_mib_max", "MiB"),
            ("_percent", "%"),
            ("_hours", "h"),
            ("_millis", "1/1000 CPU"),
            ("_per_second", "1/s"),
            ("retry_budget", "1/1000000"),
            ("latitude", "degrees"),
            ("longitude", "degrees"),
        ];
        units.iter().find(|(end, _)| self.key.ends_with(end)).map_or("", |(_, unit)| unit)
    }
}

/// What is not set has this.
fn least() -> toml::Table {
    let config = Config::parse("version = 1\n[cloud]\nname = \"city-a\"\n", std::iter::empty());
    config.ok().and_then(|c| toml::Table::try_from(c).ok()).unwrap_or_default()
}

/// The schema behind references and `null`.
fn resolved<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
        return root.get("$defs").and_then(|defs| defs.get(name)).map_or(schema, |s| resolved(s, root));
    }
    let any = schema.get("anyOf").and_then(Value::as_array);
    let some = any.and_then(|any| any.iter().find(|s| s.get("type").and_then(Value::as_str) != Some("null")));
    some.map_or(schema, |s| resolved(s, root))
}

fn about(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sections() -> Vec<Section> {
    let root = schemars::schema_for!(Config).to_value();
    let top = Section { name: String::new(), about: String::new(), fields: Vec::new() };
    let mut found = vec![top];
    walk(&root, &root, 0, &least(), &mut found);
    found
}

fn walk(schema: &Value, root: &Value, at: usize, defaults: &toml::Table, found: &mut Vec<Section>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, property) in properties.into_iter().flatten() {
        let inner = resolved(property, root);
        let own = about(property);
        let about = if own.is_empty() { about(inner) } else { own };
        let section = found[at].name.clone();
        let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        if inner.get("properties").is_some() {
            let of = defaults.get(key).and_then(toml::Value::as_table).cloned().unwrap_or_default();
            found.push(Section { name: path, about, fields: Vec::new() });
            let next = found.len() - 1;
            walk(inner, root, next, &of, found);
        } else {
            let needed = ["version", "cloud.name"].contains(&path.as_str());
            let default = defaults.get(key).filter(|_| !needed).map(ToString::to_string);
            // What is off is not written.
            let off = inner.get("type").and_then(Value::as_str) == Some("boolean");
            let default = default.or_else(|| off.then(|| "false".to_owned()));
            found[at].fields.push(Field { section, key: key.clone(), about, default });
        }
    }
}

/// `docs/configuration.md`.
pub fn page() -> String {
    let mut out = INTRODUCTION.to_owned();
    for section in sections().iter().filter(|s| !s.fields.is_empty()) {
        // Writing into a String does not fail.
        let _ = match section.name.is_empty() {
            true => write!(out, "\n## At the top\n\n"),
            false => write!(out, "\n## [{}]\n\n{}\n\n", section.name, section.about),
        };
        out.push_str("| field | unit | default | example | what it is |\n|---|---|---|---|---|\n");
        for field in &section.fields {
            let code = |text: &str| format!("`{text}`");
            let default = match &field.default {
                Some(default) => code(default),
                None if ["version", "cloud.name"].contains(&field.path().as_str()) => "(required)".to_owned(),
                None => "unset".to_owned(),
            };
            let example = field.example().map_or_else(String::new, |e| code(&e));
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {example} | {} |",
                field.key,
                field.unit(),
                field.about.replace('|', "\\|")
            );
        }
    }
    out
}

/// A configuration as TOML, with what is unset in comments.
pub fn shown(config: &Config) -> Result<String, toml::ser::Error> {
    let set = toml::Table::try_from(config)?;
    let text = toml::to_string_pretty(config)?;
    let sections = sections();
    let mut out = String::new();
    let mut at = String::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).filter(|_| !line.starts_with("[["))
        {
            unset(&mut out, &sections, &at, &set);
            head.clone_into(&mut at);
            if !out.ends_with("\n\n") {
                out.push('\n');
            }
        } else if line.is_empty() {
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    unset(&mut out, &sections, &at, &set);
    for section in sections.iter().filter(|s| !s.name.is_empty() && table_at(&set, &s.name).is_none()) {
        let _ = writeln!(out, "\n# [{}]", section.name);
        unset(&mut out, &sections, &section.name, &set);
    }
    Ok(out)
}

fn table_at<'t>(table: &'t toml::Table, path: &str) -> Option<&'t toml::Table> {
    path.split('.').filter(|p| !p.is_empty()).try_fold(table, |t, key| t.get(key)?.as_table())
}

fn unset(out: &mut String, sections: &[Section], name: &str, set: &toml::Table) {
    let Some(section) = sections.iter().find(|s| s.name == name) else { return };
    let here = table_at(set, name);
    for field in section.fields.iter().filter(|f| here.is_none_or(|t| !t.contains_key(&f.key))) {
        let example = field.example().unwrap_or_default();
        let _ = writeln!(out, "# {} = {example}  # {}", field.key, field.about);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, std::iter::empty()).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
    }

    #[test]
    fn every_field_is_explained_and_its_example_is_read() {
        let mut text = String::new();
        for section in sections() {
            if !section.name.is_empty() {
                assert!(!section.about.is_empty(), "[{}] is not explained", section.name);
                text.push_str(&format!("[{}]\n", section.name));
            }
            for field in section.fields {
                assert!(!field.about.is_empty(), "{} is not explained", field.path());
                let example = field.example().unwrap_or_else(|| panic!("{} has no example", field.path()));
                text.push_str(&format!("{} = {example}\n", field.key));
            }
        }
        let config = parse(&text);
        assert_eq!(config.engine.uid_base, Some(800_000));
        assert_eq!(config.cloud.place.map(|p| p.city).as_deref(), Some("Seoul"));
    }

    #[test]
    fn what_is_shown_is_read_as_the_same_and_names_what_is_unset() {
        for text in [
            "version = 1\n[cloud]\nname = \"city-a\"\n",
            "version = 1\n[cloud]\nname = \"city-a\"\n[cloud.place]\ncity = \"Seoul\"\nlatitude = 1.5\nlongitude = 2.5\n[api]\nlisten = \"127.0.0.1:9\"\n[api.users]\nalice = \"viewer\"\n",
        ] {
            let config = parse(text);
            let shown = shown(&config).unwrap();
            assert_eq!(parse(&shown), config, "{shown}");
            for unset in ["# socket = ", "# uid_base = 800000", "# source_ip = ", "# trusted_proxies = "] {
                assert!(shown.contains(unset), "{unset}\n{shown}");
            }
            assert_eq!(shown.contains("# [cloud.place]"), config.cloud.place.is_none(), "{shown}");
            assert_eq!(shown.contains("# listen = \"203.0.113.7:7400\""), config.api.listen.is_none(), "{shown}");
        }
    }
}
