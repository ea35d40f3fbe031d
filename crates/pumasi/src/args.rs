//! What people type: every command, its flags and its examples.

use crate::complete;
pub use crate::output::Form;
use crate::output::Format;
use crate::units::parse_ms;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pumasi_terms::{CloudName, CustomerName, Money, PrincipalName, Resources, SecretName, ServiceName};
use std::path::PathBuf;

mod objects;
mod terms;
pub use objects::*;
pub use terms::*;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not found, 4 refused or forbidden, 5 daemon unreachable.
Data goes to standard output, everything else to standard error.";

const TOP: &str = "\
Examples:
  pumasi lab                           several clouds on this machine, to look at
  pumasi serve --config cloud.toml     run the daemon of a cloud
  pumasi apply -f service.yaml         create or change services
  pumasi get services                  how they do
  pumasi describe service notes        why they do so
  pumasi stop-automation --why audit   nothing more happens by itself";

#[derive(Debug, Parser)]
#[command(name = "pumasi", version, max_term_width = 100, disable_help_subcommand = true, infer_subcommands = false)]
#[command(about = "Clouds that lend each other a hand, so that services keep their promised speed")]
#[command(after_help = format!("{TOP}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The daemon: unix:/path/api.sock on this host, https://host:port elsewhere; without it the socket of --config
    #[arg(long, global = true, value_name = "URL", env = "PUMASI_SERVER", hide_env_values = true)]
    pub server: Option<String>,
    /// Certificates (PEM) that vouch for an https server, as trust/ca.pem of the cloud's data directory
    #[arg(long, global = true, value_name = "PATH", env = "PUMASI_CA", hide_env_values = true)]
    pub ca: Option<PathBuf>,
    /// File with the token that says who asks; without it PUMASI_TOKEN; a socket tells the daemon which user calls
    #[arg(long, global = true, value_name = "PATH", env = "PUMASI_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// The cloud's configuration
    #[arg(long, global = true, value_name = "PATH", env = "PUMASI_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Whether somebody named it: a file of this directory counts less.
    #[arg(skip)]
    pub config_named: bool,
    /// A daemon and a token by name, of `pumasi context`
    #[arg(long, global = true, value_name = "NAME", env = "PUMASI_CONTEXT", hide_env_values = true)]
    pub context: Option<String>,
    /// Form of the data on standard output
    #[arg(short = 'o', long = "output", global = true, value_name = "FORM", value_enum, default_value_t = Form::Table)]
    pub form: Form,
    /// Of `form`, once the arguments have been read.
    #[arg(skip)]
    pub output: Format,
    /// The longest to wait for one answer, as 10s or 2m
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = parse_ms)]
    pub timeout: u64,
    /// Form of log lines on standard error; json is the default of daemons that do not write to a terminal
    #[arg(long, global = true, value_name = "FORM", value_enum)]
    pub log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon of one cloud
    #[command(
        after_help = "Examples:\n  pumasi serve --config cloud.toml\n  PUMASI_LOG=debug pumasi serve --config cloud.toml"
    )]
    Serve,
    /// Run the gateway of one cloud; the daemon starts it
    #[command(hide = true, after_help = "Example:\n  pumasi gateway --dir /var/lib/pumasi/gateway")]
    Gateway(Dir),
    /// Hold one instance; the engine starts it
    #[command(hide = true, after_help = "Example:\n  pumasi shim --dir /var/lib/pumasi/instances/inst-1")]
    Shim(Dir),
    /// Become the application of one instance; the shim starts it
    #[command(hide = true, after_help = "Example:\n  pumasi instance-exec --dir /var/lib/pumasi/instances/inst-1")]
    InstanceExec(Dir),
    /// Handle the bytes of one dataset or lease; the daemon starts it
    #[command(hide = true, after_help = "Example:\n  (only a daemon can, over a socket) pumasi data-helper")]
    DataHelper,
    /// Serve the pages on which the users of one service sign in; the engine starts it
    #[command(
        hide = true,
        after_help = "Example:\n  (only the engine can, with the settings in its environment) pumasi signin"
    )]
    Signin,
    /// Several clouds on this machine: real daemons, a wide-area relay between them, scenarios
    #[command(
        after_help = "Examples:\n  pumasi lab\n  pumasi lab play overload\n  pumasi lab list\n  pumasi lab soak --minutes 60\n  pumasi lab replay --load requests.csv\n  pumasi lab replay --help"
    )]
    Lab {
        /// What to do; without anything the clouds are started and stay
        #[arg(value_name = "ARGS", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// An example application of the lab
    #[command(hide = true, after_help = "Example:\n  PORT=8080 pumasi lab-app notes")]
    LabApp {
        #[arg(value_name = "KIND")]
        kind: String,
        #[arg(value_name = "ARGS", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check or show the configuration
    #[command(
        subcommand,
        after_help = "Examples:\n  pumasi config check --config cloud.toml\n  pumasi config show -o json"
    )]
    Config(ConfigCommand),
    /// Create or change services from a manifest
    #[command(after_help = "\
Examples:
  pumasi apply -f service.yaml
  pumasi apply -f service.yaml --dry-run
  pumasi apply -f manifests/ --wait --within 5m
  generate-manifest | pumasi apply -f -

A bundle that is a directory is taken relative to the manifest, packed, and only what the daemon lacks is sent.
Nothing is sent before every manifest and bundle has been read and checked. Several services are changed all or none.

At a terminal, or with --wait, it returns when the first instance of each new generation gets requests: exit code 0. A
generation that fails three times, or is not there in time, ends it with 1; what served before goes on serving.")]
    Apply(Apply),
    /// List what there is, or show one
    #[command(after_help = "\
Examples:
  pumasi get services
  pumasi get leases -o json
  pumasi get service notes -o yaml
  pumasi get services -o wide -l team=forms
  pumasi get services --watch
  pumasi get all
  pumasi get plans -o name")]
    Get {
        /// One of these, or all: services, instances, journeys and leases
        kind: Wanted,
        /// A name, an id, or the beginning of an id
        #[arg(add = complete::of_the_kind_before())]
        name: Option<String>,
        /// Go on: print what changes, a row each time, until Ctrl-C
        #[arg(long, short = 'w')]
        watch: bool,
        /// Only services with these labels, as team=forms or team=forms,stage=live
        #[arg(long, short = 'l', value_name = "LABELS", default_value = "", hide_default_value = true)]
        selector: String,
    },
    /// Show one thing with its reasons and its latest events
    #[command(after_help = "Examples:\n  pumasi describe service notes\n  pumasi describe lease lease-4f1c")]
    Describe {
        kind: Kind,
        #[arg(add = complete::of_the_kind_before())]
        name: String,
    },
    /// Remove a service; what it rented is given back first
    #[command(
        after_help = "Examples:\n  pumasi delete service notes\n  pumasi delete service notes --wait --timeout 5m\n  pumasi delete -f service.yaml"
    )]
    Delete {
        #[arg(requires = "name", required_unless_present = "file")]
        kind: Option<DeleteKind>,
        #[arg(add = complete::of(Kind::Services))]
        name: Option<ServiceName>,
        /// Every service of this manifest; a directory for all in it, - for standard input; may be repeated
        #[arg(short, long, value_name = "FILE", conflicts_with = "kind")]
        file: Vec<PathBuf>,
        /// Return when it is gone
        #[arg(long)]
        wait: bool,
    },
    /// What an apply would change, line by line
    #[command(after_help = "\
Examples:
  pumasi diff -f service.yaml
  pumasi diff -f manifests/ || echo 'something would change'

Exit code 0: nothing would change; 1: something would; others as always.")]
    Diff {
        /// Manifest to read; a directory for all in it, - for standard input; may be repeated
        #[arg(short, long, value_name = "FILE", required = true)]
        file: Vec<PathBuf>,
    },
    /// How a deployment goes, what ran before, and back to it
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi rollout status notes
  pumasi rollout history notes
  pumasi rollout undo notes"
    )]
    Rollout(RolloutCommand),
    /// Exchange every instance of a service for a new one, one by one
    #[command(after_help = "Examples:\n  pumasi restart notes\n  pumasi restart notes --wait --why 'it leaks'")]
    Restart {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        #[command(flatten)]
        why: WhyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Change how many instances of a service run at home
    #[command(
        after_help = "Examples:\n  pumasi scale notes --home 3\n  pumasi scale notes --home 2-6\n\nThe manifest is not changed: apply it again, and its number is in force again."
    )]
    Scale {
        #[arg(add = complete::of(Kind::Services))]
        service: ServiceName,
        /// How many, as 3; or at least and, under load, at most, as 2-6
        #[arg(long, value_name = "N", value_parser = crate::units::parse_range)]
        home: (u32, u32),
        #[command(flatten)]
        why: WhyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Print changes of services, journeys, plans, leases (lent ones) or members as they happen
    #[command(after_help = "\
Examples:
  pumasi watch
  pumasi watch leases -o json

A lost connection is made again from the last revision that was seen. End it with Ctrl-C.")]
    Watch {
        kind: Option<Kind>,
        /// End after this many changes
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Look at plans and decide those that wait
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi plan show plan-4f1c
  pumasi plan diff plan-4f1c
  pumasi plan approve plan-4f1c
  pumasi plan refuse plan-4f1c --why 'the campaign ends at noon'"
    )]
    Plan(PlanCommand),
    /// Act on a lease
    #[command(subcommand, after_help = "Example:\n  pumasi lease recall lease-4f1c --why 'our own peak'")]
    Lease(LeaseCommand),
    /// Settlements whose readings differ beyond the tolerance: the operator of the lender decides
    #[command(
        subcommand,
        after_help = "Examples:\n  pumasi settlement list\n  pumasi settlement accept lease-4f1c --why 'their gateway was down'"
    )]
    Settlement(SettlementCommand),
    /// Act on a journey
    #[command(subcommand, after_help = "Example:\n  pumasi journey cancel jrn-4f1c --why 'not needed'")]
    Journey(JourneyCommand),
    /// Find out whether it would work: borrow one instance, ask it once, give it back
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi rehearse overload notes
  pumasi rehearse overload notes --at city-b --path /healthz

No user is sent there. What is borrowed is paid for; the ceilings of the service hold."
    )]
    Rehearse(RehearseCommand),
    /// Move a service to another cloud, for good: its data, host names and users go along
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi move service notes --to city-c --dry-run
  pumasi move service notes --to city-c
  pumasi move cancel notes --why 'not today'
  pumasi move abandon notes --heir-is-gone city-c --why 'its disk burnt'

Requests that change something wait for a moment while the last of the data is sent; none is lost. The cloud that it leaves
forwards whoever still comes to it."
    )]
    Move(MoveCommand),
    /// The journal: what happened and why
    #[command(after_help = "\
Examples:
  pumasi events
  pumasi events --subject notes --limit 20
  pumasi events --follow -o json")]
    Events {
        /// Go on as it happens
        #[arg(long, short)]
        follow: bool,
        /// Only about this service, lease, plan...
        #[arg(long, value_name = "NAME")]
        subject: Option<String>,
        /// The last so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// The last lines that the instances of a service wrote, rented ones too
    #[command(after_help = "\
Examples:
  pumasi logs notes
  pumasi logs notes --follow
  pumasi logs notes --since 10m --timestamps
  pumasi logs notes --instance inst-4f1c --lines 500

Lines are in the order in which they were written, each with its instance in front where there are several.")]
    Logs(LogsArgs),
    /// Run a command in an instance of a service, as its application is run
    #[command(after_help = "\
Examples:
  pumasi exec notes -- ls -l /tmp
  pumasi exec notes -it -- sh
  pumasi exec notes --instance inst-4f1c -i -- sh -c 'cat > /tmp/x' < x

It may do nothing that the application may not, and ends when you hang up, when its instance ends, or after 15 minutes without a word. Instances \
at home only; each command is kept in the journal. The exit code is the command's.")]
    Exec(ExecArgs),
    /// Copy files into an instance of a service, or out of it
    #[command(after_help = "\
Examples:
  pumasi cp notes:/tmp/heap.dump .
  pumasi cp ./fixtures notes:/tmp/fixtures

By tar in the instance, which it must have. Links and special files are passed over. What is written to an instance's own directories is \
gone when it starts again; what lasts belongs into a dataset.")]
    Cp(CpArgs),
    /// Stop every automatic act of this cloud, at once
    #[command(
        after_help = "Example:\n  pumasi stop-automation --why 'network maintenance'\n\nWhat runs goes on; leases are still renewed. Undo it with pumasi resume-automation."
    )]
    StopAutomation(WhyArgs),
    /// Let this cloud act by itself again
    #[command(after_help = "Example:\n  pumasi resume-automation --why 'maintenance is over'")]
    ResumeAutomation(WhyArgs),
    /// The federation's agreement and this cloud's part in it
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi pact init --currency EUR --lends-cpu 4000 --lends-memory 8192
  pumasi pact invite city-b > invitation
  pumasi pact join --invitation-file invitation --lends-cpu 2000 --lends-memory 4096
  pumasi pact show
  pumasi pact terms --price 0.04"
    )]
    Pact(PactCommand),
    /// Tokens of people and programs
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi token create ci --role customer --ttl 30d > ci.token
  pumasi token list
  pumasi token revoke tok-4f1c"
    )]
    Token(TokenCommand),
    /// What no record explains: directories set aside for a day, and instances that wait for a word
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi quarantine list
  pumasi quarantine restore 1764380000000-lease-4f1c
  pumasi quarantine empty 1764380000000-lease-4f1c
  pumasi quarantine empty --all"
    )]
    Quarantine(QuarantineCommand),
    /// What services wrote here before this cloud was found lost, and others did not go on with
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi get divergences
  pumasi divergence download notes --epoch 3 > notes.tar
  pumasi divergence discard notes --epoch 3 --why 'the customer has what it needs of it'"
    )]
    Divergence(DivergenceCommand),
    /// Customers of this cloud: what each may have
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi customer set acme --host '*.acme.example' --services 10 --cpu 8000 --memory 16384
  pumasi customer list
  pumasi token create acme-deploy --role customer --customer acme
  pumasi customer delete acme"
    )]
    Customer(CustomerCommand),
    /// Secrets that services use: values go in and never come out
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi secret set stripe --file stripe.key
  pass show stripe | pumasi secret set stripe
  pumasi secret list
  pumasi secret delete stripe"
    )]
    Secret(SecretCommand),
    /// Look after the users of a service that sign in
    #[command(
        subcommand,
        after_help = "Examples:\n  pumasi user list notes\n  pumasi user invite notes --login minjun\n  pumasi user disable notes minjun"
    )]
    User(UserCommand),
    /// Erase the data of a deleted service now, instead of when their time is over
    #[command(after_help = "Examples:\n  pumasi get retired\n  pumasi erase svc-4f1c")]
    Erase {
        /// The id of the deleted service, or its beginning
        id: String,
    },
    /// End the daemon of this cloud; its gateway and instances go on serving, unless everything is to end
    #[command(
        after_help = "Examples:\n  pumasi stop --why 'a new version'\n  pumasi stop --everything\n\nThe next `pumasi serve` finds what goes on, and starts anew what ended. A supervisor may start the daemon again at once."
    )]
    Stop {
        /// The gateway and every instance too: nobody is served any more
        #[arg(long)]
        everything: bool,
        /// Also while instances of other clouds run here
        #[arg(long, requires = "everything")]
        force: bool,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Have certificates read again, while everybody is served; as SIGHUP to the daemon does
    #[command(
        after_help = "Example:\n  pumasi reload\n\nSays what changed. A certificate of no use changes nothing. What else stands in cloud.toml holds from the next start on."
    )]
    Reload,
    /// Have the daemon write a consistent copy of its store beside it
    #[command(after_help = "Example:\n  pumasi backup")]
    Backup,
    /// Put a copy of a store back, while the daemon is down
    #[command(after_help = "\
Example:
  pumasi restore --from backup.db --to /var/lib/pumasi

The daemon then starts, but acts on no other cloud before pumasi accept-restored.")]
    Restore {
        /// The copy
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// The data directory of the daemon
        #[arg(long, value_name = "DATA_DIR")]
        to: PathBuf,
        /// Set a store that is there aside instead of refusing
        #[arg(long)]
        force: bool,
    },
    /// Let a restored store act again, after it was compared with the peers
    #[command(after_help = "Example:\n  pumasi accept-restored --why 'disk replaced, backup of 06:00'")]
    AcceptRestored {
        #[command(flatten)]
        why: WhyArgs,
        /// A member that is silent and not waited for; may be given several times
        #[arg(long, value_name = "CLOUD")]
        without: Vec<CloudName>,
    },
    /// This cloud at a glance: its services, its members, what is wrong
    #[command(after_help = "Examples:\n  pumasi status\n  pumasi status -o json")]
    Status,
    /// Look for what is wrong, and say what to do about it
    #[command(
        after_help = "Examples:\n  pumasi doctor\n  pumasi doctor -o json\n\nExit code 0: nothing is bad; 1: something is."
    )]
    Doctor,
    /// Have a member's daemon answer over mutual TLS, and say how long it took
    #[command(after_help = "Examples:\n  pumasi ping city-b\n  pumasi ping city-b --count 10")]
    Ping {
        #[arg(add = complete::of(Kind::Members))]
        cloud: CloudName,
        #[arg(long, short = 'c', value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
    },
    /// What this cloud owes and earns in a month, and to whom
    #[command(
        after_help = "Examples:\n  pumasi bill\n  pumasi bill --month 2026-10 -o json\n  pumasi bill --month all"
    )]
    Bill {
        /// As 2026-11 (UTC), or all; without it this month
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
    },
    /// Daemons and tokens by name, in a file of the command line's own
    #[command(
        subcommand,
        after_help = "\
Examples:
  pumasi context set busan --server https://busan.example:7400 --ca busan-ca.pem --token-file ci.token
  pumasi context use busan
  pumasi --context seoul get services
  pumasi context list

Flags and variables count before a context, and cloud.toml of the directory before the context in use."
    )]
    Context(ContextCommand),
    /// Live traffic of each service
    #[command(after_help = "Examples:\n  pumasi top\n  pumasi top --once")]
    Top {
        /// Print once and end
        #[arg(long)]
        once: bool,
    },
    /// Open the web console at a loopback port of this host, until Ctrl-C
    #[command(
        after_help = "Examples:\n  pumasi console\n  pumasi console --port 7400\n\nPrints the address, with a token in its fragment that is good as long as this runs.\nTreat the line as a secret."
    )]
    Console {
        /// Listen there; 0 takes a free port
        #[arg(long, value_name = "PORT", default_value_t = 0)]
        port: u16,
    },
    /// Print completions for a shell: commands, flags, and the names of what there is
    #[command(
        after_help = "Examples:\n  source <(pumasi completions bash)\n  pumasi completions zsh > ~/.zfunc/_pumasi\n  pumasi completions fish | source"
    )]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Clone, Args)]
pub struct Dir {
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    #[arg(add = complete::of(Kind::Services))]
    pub service: ServiceName,
    /// Go on as lines are written, until Ctrl-C
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only what was written in this time up to now, as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub since: Option<u64>,
    /// Only of this instance: an id, or its beginning
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
    /// The last so many lines; without it 100, or with --since as many as there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub lines: Option<u32>,
    /// Each line with its time (UTC)
    #[arg(long, short = 't')]
    pub timestamps: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    #[arg(add = complete::of(Kind::Services))]
    pub service: ServiceName,
    /// In this instance: an id, or its beginning; without it in one that is ready
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
    /// Give the command this terminal's standard input
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Give it a terminal: keys as they are pressed, Ctrl-C too
    #[arg(long, short = 't', requires = "stdin")]
    pub tty: bool,
    /// Program and arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct CpArgs {
    /// A path here, or SERVICE:PATH
    #[arg(value_name = "FROM")]
    pub from: String,
    /// A path here, or SERVICE:PATH
    #[arg(value_name = "TO")]
    pub to: String,
    /// In this instance: an id, or its beginning; without it in one that is ready
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The reason, for the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
}

#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// Manifest to read; a directory for all in it, - for standard input; may be repeated
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// Read, check and compare; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Whose new services are; for operators, since a customer's are its own. Without it the default customer's
    #[arg(long, value_name = "NAME")]
    pub customer: Option<CustomerName>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Return when the new generation gets requests, with an exit code that says whether it does; so it is at a terminal
    #[arg(long)]
    pub wait: bool,
    /// Return at once, also at a terminal
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// Wait no longer than this; the deployment goes on meanwhile
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_ms)]
    pub within: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    #[value(alias = "service", alias = "svc")]
    Services,
    #[value(alias = "instance")]
    Instances,
    #[value(alias = "journey")]
    Journeys,
    #[value(alias = "plan")]
    Plans,
    #[value(alias = "lease")]
    Leases,
    /// If a service's own cloud stopped now: where it goes on, how soon, with what loss
    #[value(alias = "standbys", alias = "standby")]
    Continuity,
    #[value(alias = "offer")]
    Offers,
    #[value(alias = "member")]
    Members,
    #[value(alias = "event")]
    Events,
    #[value(alias = "token")]
    Tokens,
    #[value(alias = "customer")]
    Customers,
    /// Deleted services whose data are still kept
    Retired,
    /// What services wrote here before this cloud was found lost, kept until somebody discards it
    Divergences,
    /// What is owed and earned for each lease, signed by both clouds or not yet
    #[value(alias = "settlement")]
    Settlements,
}

/// What `get` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    All,
    Of(Kind),
}

impl ValueEnum for Wanted {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: std::sync::OnceLock<Vec<Wanted>> = std::sync::OnceLock::new();
        let kinds = || Kind::value_variants().iter().map(|kind| Self::Of(*kind));
        ALL.get_or_init(|| std::iter::once(Self::All).chain(kinds()).collect())
    }
    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::All => Some(clap::builder::PossibleValue::new("all")),
            Self::Of(kind) => kind.to_possible_value(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeleteKind {
    #[value(alias = "services", alias = "svc")]
    Service,
}
