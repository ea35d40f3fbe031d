//! The cases of `split`: what breaks, and what may come of it.

use crate::scenario::voted::faults::Fault;

/// Where the service is owned, against where the pact's vote is led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    Any,
    Leader,
    Follower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    Owner(Fault),
    Other(Fault),
    /// Of another one than the owner.
    Leader(Fault),
    /// The owner and another cloud do not see each other, and both see the third.
    Bridge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By the others, once.
    Taken,
    /// By nobody.
    Stays,
    Either,
}

#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    pub home: Home,
    pub breaks: Breaks,
    pub end: End,
    /// Whether the owner's gateway lives, and has to say no.
    pub refuses: bool,
}

const fn case(name: &'static str, about: &'static str, breaks: Breaks, end: End, refuses: bool) -> Case {
    Case { name, about, home: Home::Any, breaks, end, refuses }
}

/// In an order in which they can follow each other: what makes nobody lost comes first.
pub static ALL: [Case; 9] = [
    Case {
        home: Home::Follower,
        ..case(
            "bridge",
            "the owner and the leader do not see each other, both see the third",
            Breaks::Bridge,
            End::Stays,
            false,
        )
    },
    case("minority", "the owner is cut off from both others", Breaks::Owner(Fault::Blackhole), End::Taken, true),
    case(
        "other",
        "a cloud that owns nothing is cut off from both others",
        Breaks::Other(Fault::Blackhole),
        End::Stays,
        false,
    ),
    case("send", "nothing that the owner sends arrives", Breaks::Owner(Fault::DropSend), End::Taken, true),
    case("receive", "nothing that is sent to the owner arrives", Breaks::Owner(Fault::DropReceive), End::Taken, true),
    case("flap", "the owner is cut off for a second, ten times", Breaks::Owner(Fault::Flap), End::Either, false),
    Case {
        home: Home::Leader,
        ..case(
            "gateway",
            "the owner's gateway stands still, and its daemon leads",
            Breaks::Owner(Fault::PauseGateway),
            End::Taken,
            false,
        )
    },
    case(
        "daemon",
        "the owner's daemon stands still, its gateway does not",
        Breaks::Owner(Fault::PauseDaemon),
        End::Taken,
        true,
    ),
    Case {
        home: Home::Follower,
        ..case(
            "leader",
            "the leader's daemon stands still, and it owns nothing",
            Breaks::Leader(Fault::PauseDaemon),
            End::Stays,
            false,
        )
    },
];

/// Those that every run plays.
pub const SHORT: [&str; 3] = ["bridge", "minority", "other"];
