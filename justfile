# The task runner (https://just.systems). CI needs none of it: see .ci/run.

# What there is
default:
    @just --list

# Format everything
fmt:
    cargo fmt --all

# Format, layering and lints, as CI checks them
lint:
    cargo fmt --all --check
    .ci/purity
    cargo clippy --workspace --all-targets -- -D warnings

# All tests
test *ARGS:
    cargo test --workspace --no-fail-fast {{ARGS}}

# The overload case on three real clouds, with its promises
e2e *ARGS:
    cargo run --release -- lab play overload {{ARGS}}

# Random load and random faults for an hour (or `just soak 5`), watched from outside
soak MINUTES="60" *ARGS:
    cargo run --release -- lab soak --minutes {{MINUTES}} {{ARGS}}

# Three clouds on this machine, to look at
lab:
    cargo run --release -- lab

# One fuzz target for so many seconds, by libFuzzer (needs nightly Rust and cargo-fuzz); fuzz/README.md
fuzz TARGET SECONDS="300":
    fuzz/run {{TARGET}} {{SECONDS}}

# Every fuzz target in turn
fuzz-all SECONDS="120":
    sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/libfuzzer/Cargo.toml | while read -r target; do fuzz/run "$target" {{SECONDS}} || exit 1; done

# Known faults of dependencies, by the vendored snapshot (no network); CI does it too
advisories:
    .ci/advisories

# A newer snapshot, from a checkout of github.com/rustsec/advisory-db
advisories-snapshot CHECKOUT:
    .ci/advisories snapshot {{CHECKOUT}}

# The list of licences, after a change of dependencies
licences:
    .ci/licences write

# Licences, advisories, bans, by the network's newest word (needs cargo-deny)
deny:
    cargo deny check

# What the tests need beside Rust (Debian)
install:
    .ci/install

# Everything that CI does
ci:
    .ci/run
