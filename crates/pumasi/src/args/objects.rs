//! Subcommands about one kind of object each.

use super::*;
use pumasi_realm::Login;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Name every wrong field and its line
    #[command(after_help = "Example:\n  pumasi config check --config cloud.toml")]
    Check,
    /// Print the configuration as it is used, with its defaults; what is unset stands in comments
    #[command(after_help = "Example:\n  pumasi config show --config cloud.toml -o json")]
    Show,
}

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Print a plan with its reasons
    #[command(after_help = "Examples:\n  pumasi plan show plan-4f1c\n  pumasi plan show plan-4f1c -o json")]
    Show {
        #[arg(add = complete::of(Kind::Plans))]
        id: String,
    },
    /// Let a waiting plan be executed
    #[command(after_help = "Example:\n  pumasi plan approve plan-4f1c")]
    Approve {
        id: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Refuse a waiting plan
    #[command(after_help = "Example:\n  pumasi plan refuse plan-4f1c --why 'too dear'")]
    Refuse {
        id: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// What a plan changes against the plan before it
    #[command(after_help = "Examples:\n  pumasi plan diff plan-4f1c\n  pumasi plan diff plan-4f1c --against plan-07aa")]
    Diff {
        id: String,
        /// Another plan than its parent
        #[arg(long, value_name = "ID")]
        against: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Wait until the generation in force is ready, and say how it goes
    #[command(after_help = "\
Examples:
  pumasi rollout status notes
  pumasi rollout status notes --now -o json

Exit code 0: all of it is ready. 1: it fails, or was not ready in time.")]
    Status {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        /// Do not wait
        #[arg(long)]
        now: bool,
        /// Wait no longer than this
        #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_ms)]
        within: u64,
    },
    /// What it ran before, newest first
    #[command(after_help = "Examples:\n  pumasi rollout history notes\n  pumasi rollout history notes -o yaml")]
    History {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
    },
    /// Run what an earlier generation ran; hosts, objective and numbers stay as they are
    #[command(after_help = "Examples:\n  pumasi rollout undo notes\n  pumasi rollout undo notes --to-generation 3")]
    Undo {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        /// Of `pumasi rollout history`; without it the last one that ran something else
        #[arg(long, value_name = "N")]
        to_generation: Option<u64>,
        #[command(flatten)]
        why: WhyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts; the one in use has a star
    #[command(after_help = "Example:\n  pumasi context list")]
    List,
    /// Make a context of --config, or of --server, --ca and --token-file; the first one is in use at once
    #[command(
        after_help = "Examples:\n  pumasi context set here --config /etc/pumasi/cloud.toml\n  pumasi context set busan --server https://busan.example:7400 --ca ca.pem --token-file t"
    )]
    Set { name: String },
    /// Ask this one from now on
    #[command(after_help = "Example:\n  pumasi context use busan")]
    Use { name: String },
    /// Forget a context
    #[command(after_help = "Example:\n  pumasi context delete busan")]
    Delete { name: String },
}

#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Call a lent lease back, with the notice that was agreed
    #[command(after_help = "Example:\n  pumasi lease recall lease-4f1c --why 'our own peak'")]
    Recall {
        id: String,
        /// The reason, for both journals
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum MoveCommand {
    /// It lives there from now on
    #[command(after_help = "\
Examples:
  pumasi move service notes --to city-c --dry-run
  pumasi move service notes --to city-c
  pumasi move service notes --to city-c --within 2m -o json

Steps go to standard error, the result to standard output. Exit code 0: the other cloud owns it and serves it.")]
    Service {
        #[arg(value_name = "NAME", add = complete::of(Kind::Services))]
        service: ServiceName,
        /// The cloud, a member of the pact
        #[arg(long, value_name = "CLOUD")]
        to: CloudName,
        /// Only tell what would come of it: bytes, cost, pause, risks
        #[arg(long)]
        dry_run: bool,
        /// Wait for its end no longer than this; it goes on meanwhile
        #[arg(long, value_name = "DURATION", value_parser = parse_ms, default_value = "10m")]
        within: u64,
    },
    /// Stay where it is, as long as the other cloud does not own it yet
    #[command(after_help = "Example:\n  pumasi move cancel notes --why 'not today'")]
    Cancel {
        #[arg(value_name = "NAME", add = complete::of(Kind::Services))]
        service: ServiceName,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Serve it here again: the other cloud may have signed, and is lost (operators only)
    #[command(after_help = "\
Example:
  pumasi move abandon notes --heir-is-gone city-c --why 'its disk burnt'

Refused while the other cloud answers. Look first that neither its gateway nor its instances run: if
they do, both clouds take requests until it hears of this, at its daemon's next heartbeat, and what
it wrote meanwhile is no part of the service any more.")]
    Abandon {
        #[arg(value_name = "NAME", add = complete::of(Kind::Services))]
        service: ServiceName,
        /// The other cloud: you know that it does not serve
        #[arg(long, value_name = "CLOUD")]
        heir_is_gone: CloudName,
        /// The reason, for the journals of both
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum RehearseCommand {
    /// As if there were more load than the home can bear
    #[command(after_help = "\
Examples:
  pumasi rehearse overload notes
  pumasi rehearse overload notes --at city-b --path /healthz
  pumasi rehearse overload notes -o json

Steps go to standard error, the result to standard output. Exit code 0: a rented instance answered with 200 to 399,
and everything was given back.")]
    Overload {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        /// The partner to borrow from; without it the best one is taken
        #[arg(long, value_name = "CLOUD")]
        at: Option<CloudName>,
        /// What is asked for by GET; without it the readiness probe's path
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
        /// The longest to wait until everything came back
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_ms)]
        within: u64,
    },
}

#[derive(Debug, Subcommand)]
pub enum SettlementCommand {
    /// Those that wait for an operator, or for a borrower that is late
    #[command(after_help = "Example:\n  pumasi settlement list")]
    List,
    /// Sign it by the lesser reading all the same, or write it off where none came; the borrower may rent here again
    #[command(after_help = "Example:\n  pumasi settlement accept lease-4f1c --why 'their gateway was down'")]
    Accept {
        lease: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Leave it open; beyond one open instance-hour the borrower gets no lease here
    #[command(after_help = "Example:\n  pumasi settlement dispute lease-4f1c --why 'they report nothing'")]
    Dispute {
        lease: String,
        /// The reason, for the journal
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum JourneyCommand {
    /// Give back everything of a journey, in order
    #[command(after_help = "Example:\n  pumasi journey cancel jrn-4f1c --why 'not needed'")]
    Cancel {
        id: String,
        #[command(flatten)]
        why: WhyArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum PactCommand {
    /// Found a pact of one
    #[command(after_help = "Example:\n  pumasi pact init --currency EUR --lends-cpu 4000 --lends-memory 8192")]
    Init {
        /// ISO 4217 code in which prices are meant
        #[arg(long, value_name = "CODE", default_value = "EUR")]
        currency: String,
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Print an invitation for one cloud, good once
    #[command(after_help = "Example:\n  pumasi pact invite city-b --ttl 1h > invitation")]
    Invite {
        cloud: CloudName,
        /// How long it is good, as 30m or 1d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ms)]
        ttl: u64,
    },
    /// Join a pact by an invitation
    #[command(after_help = "\
Examples:
  pumasi pact join --invitation-file invitation --lends-cpu 2000 --lends-memory 4096
  ssh city-a pumasi pact invite city-b | pumasi pact join --invitation-file -")]
    Join {
        /// File with the invitation, - for standard input: it is a secret, so not on the command line
        #[arg(long, value_name = "PATH", default_value = "-")]
        invitation_file: PathBuf,
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Print the pact as all have signed it
    #[command(after_help = "Examples:\n  pumasi pact show\n  pumasi pact show -o yaml")]
    Show,
    /// Leave the pact, by this cloud's word alone; leases are given back first
    #[command(after_help = "Example:\n  pumasi pact leave --why 'moving to another federation'")]
    Leave(WhyArgs),
    /// Part from a member: the operators of all others are asked
    #[command(after_help = "\
Example:
  pumasi pact dismiss city-c --why 'it pays nothing'

Where another operator must agree, this daemon asks again by itself; pumasi pact show tells how far it is.")]
    Dismiss {
        cloud: CloudName,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Agree to a newcomer or a dismissal that another member proposes
    #[command(after_help = "Example:\n  pumasi pact approve 4f1c09a2b7e1")]
    Approve {
        /// As pumasi pact show prints it
        proposal: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Refuse a newcomer or a dismissal that another member proposes
    #[command(after_help = "Example:\n  pumasi pact refuse 4f1c09a2b7e1 --why 'we do not know them'")]
    Refuse {
        /// As pumasi pact show prints it
        proposal: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Choose who votes on the ownership of services, so that they may move without their owner; all members sign
    #[command(after_help = "\
Examples:
  pumasi pact vote --voters city-a,city-b,city-c
  pumasi pact vote --voters city-a,city-b,city-c --profile lan
  pumasi pact vote --stop

Three or five voters: with two, nobody can tell a dead partner from a cut link. pumasi pact show tells who leads.")]
    Vote {
        /// Three, five or seven members
        #[arg(long, value_name = "CLOUD,...", value_delimiter = ',', required_unless_present = "stop")]
        voters: Vec<CloudName>,
        /// Times for these distances: default, lan (one metropolitan area) or far (round trips above 200 ms)
        #[arg(long, value_name = "PROFILE", value_parser = ["default", "lan", "far"])]
        profile: Option<String>,
        /// Nobody votes any more; services stay where they are
        #[arg(long, conflicts_with_all = ["voters", "profile"])]
        stop: bool,
    },
    /// Agree that a lost member's services are taken over, where more were lost than the pact answers by itself
    #[command(after_help = "\
Examples:
  pumasi pact recover city-a --why 'its site burnt, B was on maintenance'

Operators of a majority of the voters say so, each at its own cloud. pumasi pact show tells what waits.")]
    Recover {
        /// The member that is lost
        #[arg(value_name = "CLOUD")]
        cloud: CloudName,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Own what is kept ready here for a member that is gone for good, where the pact does not vote
    #[command(after_help = "\
Examples:
  pumasi pact takeover --lost city-a --i-have-fenced-it --why 'its site burnt'
  pumasi pact takeover --lost city-a --service notes --i-have-fenced-it --why 'its site burnt'

Refused while its daemon or its gateway answers here. Switch the machines of the lost cloud off first, or cut them from
users for good: if they serve all the same, both clouds take requests until the lost one hears of this, and what it wrote
meanwhile is no part of the service any more. Exit code 0: every service is this cloud's own now.")]
    Takeover {
        /// The member that is gone
        #[arg(long, value_name = "CLOUD")]
        lost: CloudName,
        /// One service; without it all that are kept ready here
        #[arg(long, value_name = "NAME")]
        service: Option<ServiceName>,
        /// You made sure that nothing of it runs or can be reached
        #[arg(long, required = true)]
        i_have_fenced_it: bool,
        /// The reason, for the journals of both
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Say what would happen if a member were lost now: who takes over what, what waits, what would mend it
    #[command(after_help = "\
Examples:
  pumasi pact rehearse --lose city-a
  pumasi pact rehearse --lose city-b -o json

Nothing changes. It is the plan that a real loss would be answered with; a pact that does not vote says why there is none.")]
    Rehearse {
        /// The member that would be lost
        #[arg(long, value_name = "CLOUD")]
        lose: CloudName,
    },
    /// Give a service up on purpose: another cloud takes it over, it is asked once, and it comes back
    #[command(after_help = "\
Examples:
  pumasi pact game-day --service canary
  pumasi pact game-day --service canary --every 7d
  pumasi pact game-day --service canary --never
  pumasi pact game-day

It goes the way of a real failure, at the cloud that owns the service. Its users wait for some seconds, and what it wrote in the
last moment may be set aside: take a service that bears it, early or deferred. Exit code 0: it passed. Without a service: the last
results.")]
    GameDay {
        /// The service that is given up
        #[arg(long, value_name = "NAME")]
        service: Option<ServiceName>,
        /// Again and again after so long, as 7d; the first time now
        #[arg(long, value_name = "TIME", value_parser = parse_ms, requires = "service")]
        every: Option<u64>,
        /// No more of them
        #[arg(long, requires = "service", conflicts_with = "every")]
        never: bool,
    },
    /// Print what this cloud lends, or change it
    #[command(after_help = "Examples:\n  pumasi pact terms\n  pumasi pact terms --lends-cpu 1000 --price 0.04")]
    Terms(TermsArgs),
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; its secret is printed once
    #[command(
        after_help = "Examples:\n  pumasi token create ci --role customer --customer acme --ttl 30d > ci.token\n  pumasi token create wall --role viewer"
    )]
    Create {
        name: PrincipalName,
        #[arg(long, value_enum)]
        role: PersonRole,
        /// The customer that it acts for; without it the default customer. An operator's token is for the whole cloud
        #[arg(long, value_name = "NAME")]
        customer: Option<CustomerName>,
        /// How long it is good, as 12h or 30d; without it until it is revoked
        #[arg(long, value_name = "TIME", value_parser = parse_ms)]
        ttl: Option<u64>,
    },
    /// List tokens, without their secrets
    #[command(after_help = "Example:\n  pumasi token list")]
    List,
    /// Revoke a token
    #[command(after_help = "Example:\n  pumasi token revoke tok-4f1c")]
    Revoke { id: String },
}

#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List what is there, oldest first
    #[command(after_help = "Example:\n  pumasi quarantine list")]
    List,
    /// Put a directory back where it was
    #[command(after_help = "Example:\n  pumasi quarantine restore 1764380000000-lease-4f1c")]
    Restore { name: String },
    /// Erase a directory now, or let the stray instances of an owner be stopped
    #[command(
        after_help = "Examples:\n  pumasi quarantine empty 1764380000000-lease-4f1c\n  pumasi quarantine empty --all"
    )]
    Empty {
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// Every directory; stray instances are named one by one
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum DivergenceCommand {
    /// Write all of it to standard output, as a tar archive; divergence.json in it says what differs
    #[command(after_help = "Example:\n  pumasi divergence download notes --epoch 3 > notes.tar")]
    Download {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        /// Of `pumasi get divergences`
        #[arg(long, value_name = "N")]
        epoch: u64,
    },
    /// Erase it for good
    #[command(after_help = "Example:\n  pumasi divergence discard notes --epoch 3 --why 'merged by hand'")]
    Discard {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        /// Of `pumasi get divergences`
        #[arg(long, value_name = "N")]
        epoch: u64,
        /// The reason, for the journal
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum CustomerCommand {
    /// Make a customer, or change what it may have; what is not named has no limit
    #[command(
        after_help = "Examples:\n  pumasi customer set acme\n  pumasi customer set acme --host '*.acme.example' --services 10"
    )]
    Set {
        name: CustomerName,
        /// Host name that its services may claim, or '*.' and a domain for all below it; may be repeated. Without it any that is free
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// Services at a time
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        services: u32,
        /// CPU of its instances at home together, in thousandths of a CPU
        #[arg(long, value_name = "MILLIS", default_value_t = 0, hide_default_value = true, value_parser = crate::units::parse_millis)]
        cpu: u32,
        /// Memory of its instances at home together, in MiB
        #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true, value_parser = crate::units::parse_mib::<u32>)]
        memory: u32,
    },
    /// List customers: what they may have, have and use
    #[command(after_help = "Example:\n  pumasi customer list")]
    List,
    /// Remove a customer that has no service, no kept data, no secret and no token left
    #[command(after_help = "Example:\n  pumasi customer delete acme")]
    Delete { name: CustomerName },
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a value, from a file or standard input; instances of services that use it are exchanged
    #[command(
        after_help = "Examples:\n  pumasi secret set stripe --file stripe.key\n  pass show stripe | pumasi secret set stripe\n\nOne line end at the end is not part of the value."
    )]
    Set {
        name: SecretName,
        /// File that holds the value; without it standard input
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        #[command(flatten)]
        whose: Whose,
    },
    /// List secrets by name
    #[command(after_help = "Example:\n  pumasi secret list")]
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Delete a secret that no service uses
    #[command(after_help = "Example:\n  pumasi secret delete stripe")]
    Delete {
        name: SecretName,
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, Clone, Args)]
pub struct Whose {
    /// Whose it is; for operators, since a customer's are its own. Without it the default customer's
    #[arg(long, value_name = "NAME")]
    pub customer: Option<CustomerName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PersonRole {
    /// Sees what its customer has, without values of environments; changes nothing
    Viewer,
    /// Acts for its customer
    Customer,
    /// Runs the cloud
    Operator,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List them, by login
    #[command(after_help = "Examples:\n  pumasi user list notes\n  pumasi user list notes -o json")]
    List { service: ServiceName },
    /// Show one
    #[command(after_help = "Example:\n  pumasi user show notes minjun")]
    Show { service: ServiceName, login: Login },
    /// Let somebody become a user, or an existing one in again; prints the address to open, once
    #[command(after_help = "\
Examples:
  pumasi user invite notes
  pumasi user invite notes --login minjun --group staff
  pumasi user invite notes --login minjun --recover

Whoever opens the address chooses a passkey or a password. With --recover an existing user does, who has lost what it signed in by.")]
    Invite {
        service: ServiceName,
        /// The login that it is for; without it whoever opens it chooses one
        #[arg(long, value_name = "LOGIN")]
        login: Option<Login>,
        /// A group of the new user; may be given several times
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
        /// For a user who is there already
        #[arg(long, requires = "login")]
        recover: bool,
        /// How long it is good, hours
        #[arg(long, value_name = "HOURS", default_value_t = 72, value_parser = clap::value_parser!(u32).range(1..=720))]
        ttl_hours: u32,
    },
    /// Keep a user out: its sessions and app passwords end at once
    #[command(after_help = "Example:\n  pumasi user disable notes minjun")]
    Disable { service: ServiceName, login: Login },
    /// Let a disabled user sign in again
    #[command(after_help = "Example:\n  pumasi user enable notes minjun")]
    Enable { service: ServiceName, login: Login },
    /// End the sessions and app passwords of a user, who may sign in again
    #[command(after_help = "Example:\n  pumasi user sign-out notes minjun")]
    SignOut { service: ServiceName, login: Login },
    /// Set the groups of a user; none takes it out of all
    #[command(
        after_help = "Examples:\n  pumasi user groups notes minjun staff editors\n  pumasi user groups notes minjun"
    )]
    Groups {
        service: ServiceName,
        login: Login,
        #[arg(value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Delete a user with everything it signs in by; nobody ever becomes this user again
    #[command(after_help = "Example:\n  pumasi user delete notes minjun")]
    Delete { service: ServiceName, login: Login },
}
