//! What people type: every command, its flags and its examples.

use crate::output::Format;
use crate::units::parse_ms;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pumasi_terms::{CloudName, CustomerName, Money, PrincipalName, Resources, SecretName, ServiceName};
use std::path::PathBuf;

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
    /// Form of the data on standard output
    #[arg(short, long, global = true, value_name = "FORM", value_enum, default_value_t = Format::Table)]
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
  generate-manifest | pumasi apply -f -

A bundle that is a directory is taken relative to the manifest, packed, and only what the daemon lacks is sent.
Nothing is sent before every manifest and bundle has been read and checked.")]
    Apply(Apply),
    /// List what there is, or show one
    #[command(after_help = "\
Examples:
  pumasi get services
  pumasi get leases -o json
  pumasi get service notes -o yaml
  pumasi get plans -o name")]
    Get {
        kind: Kind,
        /// A name, an id, or the beginning of an id
        name: Option<String>,
    },
    /// Show one thing with its reasons and its latest events
    #[command(after_help = "Examples:\n  pumasi describe service notes\n  pumasi describe lease lease-4f1c")]
    Describe { kind: Kind, name: String },
    /// Remove a service; what it rented is given back first
    #[command(
        after_help = "Examples:\n  pumasi delete service notes\n  pumasi delete service notes --wait --timeout 5m"
    )]
    Delete {
        kind: DeleteKind,
        name: ServiceName,
        /// Return when it is gone
        #[arg(long)]
        wait: bool,
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
    #[command(after_help = "Examples:\n  pumasi logs notes\n  pumasi logs notes --lines 500")]
    Logs {
        service: ServiceName,
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        lines: u32,
    },
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
    /// Erase the data of a deleted service now, instead of when their time is over
    #[command(after_help = "Examples:\n  pumasi get retired\n  pumasi erase svc-4f1c")]
    Erase {
        /// The id of the deleted service, or its beginning
        id: String,
    },
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
    /// Print completions for a shell
    #[command(after_help = "Example:\n  pumasi completions bash > /etc/bash_completion.d/pumasi")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Clone, Args)]
pub struct Dir {
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The reason, for the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
}

#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// Manifest to read, - for standard input; may be repeated
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// Read, check and compare; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Whose new services are; for operators, since a customer's are its own. Without it the default customer's
    #[arg(long, value_name = "NAME")]
    pub customer: Option<CustomerName>,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeleteKind {
    #[value(alias = "services", alias = "svc")]
    Service,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Name every wrong field and its line
    #[command(after_help = "Example:\n  pumasi config check --config cloud.toml")]
    Check,
    /// Print the configuration as it is used, with its defaults
    #[command(after_help = "Example:\n  pumasi config show --config cloud.toml -o json")]
    Show,
}

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Print a plan with its reasons
    #[command(after_help = "Examples:\n  pumasi plan show plan-4f1c\n  pumasi plan show plan-4f1c -o json")]
    Show { id: String },
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
pub enum SettlementCommand {
    /// Those that wait
    #[command(after_help = "Example:\n  pumasi settlement list")]
    List,
    /// Sign it by the lesser reading all the same; the borrower may rent here again
    #[command(after_help = "Example:\n  pumasi settlement accept lease-4f1c --why 'their gateway was down'")]
    Accept {
        lease: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Leave it open; the borrower gets no lease here
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
    /// Print what this cloud lends, or change it
    #[command(after_help = "Examples:\n  pumasi pact terms\n  pumasi pact terms --lends-cpu 1000 --price 0.04")]
    Terms(TermsArgs),
}

/// What a cloud lends. Flags that are left out keep what was agreed before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TermsArgs {
    /// Most CPU lent at one time, thousandths of one CPU
    #[arg(long, value_name = "MILLIS")]
    pub lends_cpu: Option<u32>,
    /// Most memory lent at one time, MiB
    #[arg(long, value_name = "MIB")]
    pub lends_memory: Option<u32>,
    /// Most storage lent at one time, MiB
    #[arg(long, value_name = "MIB")]
    pub storage: Option<u64>,
    /// Most that one borrower may hold, percent of what is lent
    #[arg(long, value_name = "PERCENT")]
    pub share_per_borrower: Option<u32>,
    /// Holds that one borrower may have open
    #[arg(long, value_name = "N")]
    pub holds_per_borrower: Option<u32>,
    /// Price of a CPU-hour in the pact's currency, as 0.05
    #[arg(long, value_name = "AMOUNT", value_parser = crate::units::parse_money)]
    pub price: Option<Money>,
    /// Warning before a lease is called back
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub recall_notice: Option<u64>,
    /// Longest that a hold lasts
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub hold_ttl_max: Option<u64>,
    /// Longest that a lease lasts after its last renewal
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub lease_ttl_max: Option<u64>,
    /// Member that may ask; may be repeated, 'all' for every member
    #[arg(long, value_name = "CLOUD")]
    pub borrower: Vec<String>,
}

impl TermsArgs {
    /// These flags over `base`.
    pub fn over(&self, base: &pumasi_terms::pact::Terms) -> Result<pumasi_terms::pact::Terms, pumasi_terms::BadId> {
        let mut terms = base.clone();
        terms.lends = Resources {
            cpu_millis: self.lends_cpu.unwrap_or(base.lends.cpu_millis),
            memory_mib: self.lends_memory.unwrap_or(base.lends.memory_mib),
        };
        terms.storage_bytes = self.storage.map_or(base.storage_bytes, |mib| mib.saturating_mul(1 << 20));
        terms.share_per_borrower_percent = self.share_per_borrower.unwrap_or(base.share_per_borrower_percent);
        terms.holds_per_borrower = self.holds_per_borrower.unwrap_or(base.holds_per_borrower);
        terms.price_per_cpu_hour = self.price.unwrap_or(base.price_per_cpu_hour);
        terms.recall_notice_ms = self.recall_notice.unwrap_or(base.recall_notice_ms);
        terms.hold_ttl_ms_max = self.hold_ttl_max.unwrap_or(base.hold_ttl_ms_max);
        terms.lease_ttl_ms_max = self.lease_ttl_max.unwrap_or(base.lease_ttl_ms_max);
        if !self.borrower.is_empty() {
            let named = self.borrower.iter().filter(|b| *b != "all");
            terms.borrowers = named.map(|b| CloudName::parse(b.as_str())).collect::<Result<_, _>>()?;
        }
        Ok(terms)
    }
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
        #[arg(long, value_name = "MILLIS", default_value_t = 0, hide_default_value = true)]
        cpu: u32,
        /// Memory of its instances at home together, in MiB
        #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true)]
        memory: u32,
    },
    /// List customers: what they may have, have and use
    #[command(after_help = "Example:\n  pumasi customer list")]
    List,
    /// Remove a customer that has no service, no kept data and no token left
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
