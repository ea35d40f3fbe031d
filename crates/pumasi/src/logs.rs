//! `pumasi logs`: what a service's instances wrote, one line after the other.
//!
//! Always holds: lines of all instances are in the order of their times; while it follows, each is printed once.

use crate::args::{Kind, LogsArgs};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Tone, note, paint};
use crate::retry::Backoff;
use crate::session::{Session, wall_now};
use pumasi_engine::stamp;
use pumasi_terms::WallMs;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(1_000);
const LINES: usize = 100;
/// Lines that come late, since another cloud was asked, are still looked for so long back.
const BACK_MS: i64 = 5_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    /// Of the line itself or of the one above it.
    stamp: String,
    instance: String,
    text: String,
}

/// Lines of all instances by their times, and what could not be read.
fn parse(text: &str) -> (Vec<Line>, Vec<String>) {
    let (mut lines, mut unread) = (Vec::new(), Vec::new());
    let (mut instance, mut stamp) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("== ") {
            instance = head.to_owned();
            stamp.clear();
            continue;
        }
        if let Some(why) = line.strip_prefix("(not read: ") {
            unread.push(format!("{instance}: not read: {}", why.trim_end_matches(')')));
            continue;
        }
        let (at, text) = stamp::split(line);
        if let Some(at) = at {
            stamp = at.to_owned();
        }
        lines.push(Line { stamp: stamp.clone(), instance: instance.clone(), text: text.to_owned() });
    }
    // Lines of one instance at one instant stay as they were written.
    lines.sort_by(|a, b| a.stamp.cmp(&b.stamp));
    (lines, unread)
}

/// Which lines were printed: of the last instants, how often each.
#[derive(Debug, Default)]
struct Printed(BTreeMap<Line, u32>);

impl Printed {
    /// Those of `lines` that were not printed yet.
    fn new_ones(&mut self, lines: Vec<Line>, from: &str) -> Vec<Line> {
        let mut left = self.0.clone();
        let mut fresh = Vec::new();
        for line in lines {
            match left.get_mut(&line).filter(|n| **n > 0) {
                Some(n) => *n -= 1,
                None => {
                    *self.0.entry(line.clone()).or_default() += 1;
                    fresh.push(line);
                }
            }
        }
        self.0.retain(|line, _| line.stamp.as_str() >= from);
        fresh
    }
}

pub async fn logs(session: &Session, args: &LogsArgs) -> Result<(), Failure> {
    let instance = match &args.instance {
        Some(id) => Some(session.id(Kind::Instances, id).await?),
        None => None,
    };
    let path = |since: Option<WallMs>| {
        let mut path = format!("/v1/services/{}/logs?", args.service);
        path.extend(instance.iter().map(|id| format!("instance={id}&")));
        path.extend(since.iter().map(|at| format!("since_ms={}", at.0)));
        path.trim_end_matches(['?', '&']).to_owned()
    };
    let back = |ms: i64| WallMs(wall_now().0.saturating_sub(ms));
    let since = args.since.map(|ms| back(i64::try_from(ms).unwrap_or(i64::MAX)));
    let text = session.client.text(&path(since)).await?;
    let (mut lines, unread) = parse(&text);
    unread.iter().for_each(|u| note(&output::line(u)));
    let keep = args.lines.map_or(if since.is_some() { usize::MAX } else { LINES }, |n| n as usize);
    let mut printed = Printed::default();
    if args.follow {
        printed.new_ones(lines.clone(), &stamp::of(back(2 * BACK_MS)));
    }
    lines.drain(..lines.len().saturating_sub(keep));
    if lines.is_empty() && !args.follow {
        note("no lines yet");
    }
    let mut instances = BTreeSet::new();
    print(session, args, &lines, &mut instances)?;
    let (mut lost, mut answered) = (Backoff::default(), wall_now());
    if !args.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(lost.wait_or(POLL)).await;
        // Since the last answer, however long ago that was; what was printed is remembered for longer than what is asked for again.
        let (asked, kept) = (WallMs(answered.0 - BACK_MS), WallMs(answered.0 - 2 * BACK_MS));
        let now = wall_now();
        match session.client.text(&path(Some(asked))).await {
            Ok(text) => {
                (lost, answered) = (Backoff::default(), now);
                let fresh = printed.new_ones(parse(&text).0, &stamp::of(kept));
                print(session, args, &fresh, &mut instances)?;
            }
            Err(error) if error.is_unreachable() => lost.next(error.into())?,
            Err(error) if error.problem().is_some_and(|p| p.status == 404) => {
                return Err(Failure::new(Exit::NotFound, format!("service {} is gone", args.service)));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn print(session: &Session, args: &LogsArgs, lines: &[Line], instances: &mut BTreeSet<String>) -> Result<(), Failure> {
    instances.extend(lines.iter().map(|l| l.instance.clone()));
    let several = instances.len() > 1;
    let mut out = String::new();
    for line in lines {
        if matches!(session.global.output, Format::Json | Format::Yaml) {
            let value = json!({ "at": line.stamp, "instance": line.instance, "line": line.text });
            out.push_str(&(output::escaped(value.to_string()) + "\n"));
            continue;
        }
        if args.timestamps && !line.stamp.is_empty() {
            out.push_str(&paint(&line.stamp, Tone::Faint, session.colours));
            out.push(' ');
        }
        if several {
            out.push_str(&paint(&short(&line.instance), Tone::Faint, session.colours));
            out.push(' ');
        }
        // Applications write what they like.
        out.push_str(&output::line(&line.text));
        out.push('\n');
    }
    output::print(&out)
}

/// `inst-4f1c0a2b at city-b` as `inst-4f1c0a2b@city-b`, with as much of the id as tells it from others.
fn short(instance: &str) -> String {
    let (id, cloud) = instance.split_once(" at ").unwrap_or((instance, ""));
    let id = crate::units::short_id(id);
    output::line(&if cloud.is_empty() { id.to_owned() } else { format!("{id}@{cloud}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> String {
        stamp::of(WallMs(ms))
    }

    #[test]
    fn lines_of_several_instances_are_in_order_of_time() {
        let text = format!(
            "== i-1 at a\n{} one\n  of one\n{} three\n== i-2 at b\n{} two\n== l-3 at c\n(not read: it is gone)\n",
            at(1_000),
            at(3_000),
            at(2_000)
        );
        let (lines, unread) = parse(&text);
        let told: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(told, ["one", "  of one", "two", "three"]);
        assert_eq!(unread, ["l-3 at c: not read: it is gone"]);
    }

    #[test]
    fn each_line_is_printed_once_also_the_same_line_twice() {
        let line = |ms, text: &str| Line { stamp: at(ms), instance: "i".into(), text: text.into() };
        let mut printed = Printed::default();
        let first = vec![line(1, "a"), line(1, "a"), line(2, "b")];
        assert_eq!(printed.new_ones(first.clone(), &at(0)).len(), 3);
        assert!(printed.new_ones(first.clone(), &at(0)).is_empty());
        let more = [first, vec![line(1, "a"), line(3, "c")]].concat();
        assert_eq!(printed.new_ones(more, &at(0)), [line(1, "a"), line(3, "c")]);
        printed.new_ones(Vec::new(), &at(3));
        assert_eq!(printed.0.len(), 1, "what is old is forgotten");
    }
}
