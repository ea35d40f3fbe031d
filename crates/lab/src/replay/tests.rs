use super::arrivals::{Arrivals, TICKS_PER_S};
use super::hindsight::{Sight, rates, seen};
use super::hpa::{Hpa, Metric};
use super::kpa::Kpa;
use super::load::{Kind, Load, LoadError, Run, parse};
use super::plant::{Fleet, Plant, Served};
use super::race::{CLAIRVOYANT, DELAYED, Entry, HINDSIGHT, HPA, KEDA, KPA, OURS, TUNED};
use super::{Race, Setting, race, synthetic, table};
use std::path::Path;

fn read(text: &str) -> Result<Load, LoadError> {
    parse(text, Path::new("load.csv"), &[], 60)
}

#[test]
fn columns_and_steps_are_found() {
    let per_minute = read("period,count\n1998-05-12 06:37:00,1252\n1998-05-12 06:38:00,15085\n").unwrap();
    assert_eq!((per_minute.step_s, &per_minute.runs[0].counts), (60, &vec![1252, 15085]));
    let other_order = read("requests;time\n7;2026-11-05T18:30:00Z\n9;2026-11-05T18:30:01Z\n").unwrap();
    assert_eq!((other_order.step_s, &other_order.runs[0].counts), (1, &vec![7, 9]));
    let more_columns = read("# made by hand\ntime\tbytes\trequests\n0\t55\t4\n60\t66\t5\n").unwrap();
    assert_eq!((more_columns.step_s, &more_columns.runs[0].counts), (60, &vec![4, 5]));
    assert_eq!(read("3\n4\n5\n").unwrap().runs[0].counts, [3, 4, 5]);
    assert_eq!(read("1000,3\n1060,4\n").unwrap().step_s, 60, "no head line");
}

#[test]
fn gaps_are_filled_or_end_a_run() {
    let load = read("t,n\n0,10\n60,20\n180,40\n6000,5\n6060,6\n").unwrap();
    assert_eq!(load.filled, 1);
    assert_eq!(load.runs.iter().map(|r| r.counts.clone()).collect::<Vec<_>>(), [vec![10, 20, 30, 40], vec![5, 6]]);
    let text = "period,count\n1998-05-12 06:37:00,1\n1998-05-12 06:38:00,2\n1998-05-13 06:38:00,3\n";
    let only = parse(text, Path::new("load.csv"), &["1998-05-12".into()], 60).unwrap();
    assert_eq!((only.runs.len(), &only.runs[0].counts), (1, &vec![1, 2]));
    let none = parse(text, Path::new("load.csv"), &["1999".into()], 60).unwrap_err();
    assert_eq!(none.to_string(), "load.csv: has no row whose time begins with 1999");
}

#[test]
fn faults_name_file_and_line() {
    let cases = [
        ("", "load.csv: is empty"),
        ("t,n\n0,1\n", "load.csv: has fewer than two rows of counts"),
        ("t,n\n0,1\n60,two\n", "load.csv:3: \"two\" is not a number of requests"),
        ("t,n\n0,1\n60,-2\n", "load.csv:3: -2 requests cannot be: 0 to 10^12 can"),
        ("t,n\n0,1\n60,NaN\n", "load.csv:3: NaN requests cannot be: 0 to 10^12 can"),
        ("t,n\n60,1\n0,2\n", "load.csv:3: its time is not later than the one before: sort the file by time"),
        ("t,n\n0,1\n0,2\n", "load.csv:3: its time is not later than the one before: sort the file by time"),
        ("t,n\n0,1\n60,2,3\n", "load.csv:3: 3 columns, 2 before it"),
        ("t,n\n0,1\n60,2\n150,2\n", "load.csv:4: 150 does not fit steps of 60 s, counted from the first row"),
        ("t,n\n0,1\nmonday,2\n", "load.csv:3: \"monday\" is not a time"),
        ("t,n\n0,1\n99999999,2\n", "load.csv: has a row every 99999999 s"),
    ];
    for (text, expected) in cases {
        let found = read(text).unwrap_err().to_string();
        assert!(found.starts_with(expected), "{text:?}: {found}");
    }
    let missing = super::load::read(Path::new("/nowhere/load.csv"), &[], 60).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/load.csv: cannot be read"), "{missing}");
}

#[test]
fn rates_are_straight_between_the_middles() {
    let counts = [600, 1200, 600];
    let minutes = Arrivals::new(&counts, 60, 1);
    let at = |s: u64| minutes.rate(s * TICKS_PER_S);
    assert!((at(0) - 10.0).abs() < 0.1 && (at(60) - 15.0).abs() < 0.1 && (at(90) - 20.0).abs() < 0.1);
    let seconds = Arrivals::new(&counts, 1, 1);
    assert!((seconds.rate(19) - 1200.0).abs() < f64::EPSILON);
    let all: u64 = (0..minutes.ticks()).map(|t| minutes.at(t)).sum();
    assert!((2_150..2_650).contains(&all), "the peak is cut, chance adds a little: {all}");
    assert_ne!(minutes.at(7), Arrivals::new(&counts, 60, 2).at(7).wrapping_add(100));
}

#[test]
fn who_counts_sees_only_seconds_that_are_over() {
    let mut counts = vec![10; 20];
    counts.extend([1_000; 20]);
    let arrivals = Arrivals::new(&counts, 1, 1);
    let rates = rates(&arrivals);
    let counting = seen(&arrivals, &rates, Sight::Counts, 3);
    assert!((counting[0].0 - 10.0).abs() < f64::EPSILON, "before the load there was its first rate");
    assert!(counting[20].0 < 30.0, "the jump of second 20 is not known as it begins: {:?}", counting[20]);
    assert!((200.0..500.0).contains(&counting[21].0) && counting[21].1 > 50.0, "{:?}", counting[21]);
    assert!((900.0..1_100.0).contains(&counting[30].0) && counting[30].1 < 60.0, "{:?}", counting[30]);
    assert!((seen(&arrivals, &rates, Sight::Rate, 1)[20].0 - 1_000.0).abs() < f64::EPSILON);
}

#[test]
fn what_came_is_served_lost_or_waits() {
    let mut plant = Plant::new(50_000, 500);
    let (mut came, mut served, mut lost) = (0, 0, 0);
    for tick in 0..100 {
        let arrived = if tick < 50 { 20 } else { 3 };
        let out = plant.step(tick, arrived, 2);
        (came, served, lost) = (came + arrived, served + out.served, lost + out.lost);
        assert_eq!(came, served + lost + out.queued);
        assert!(out.served <= 10 && out.waits.iter().all(|(ms, _)| *ms <= 600), "{out:?}");
    }
    // Ten a tick are too many for five seconds; five ticks' worth of room is the queue.
    assert!((430..=470).contains(&lost), "{lost}");
    let mut odd = Plant::new(3_300, 500);
    let served: u64 = (0..1_000).map(|t| odd.step(t, 5, 1).served).sum();
    assert_eq!(served, 330, "parts of a request are not lost");
}

#[test]
fn a_fleet_gives_back_what_starts_first() {
    let mut fleet = Fleet::of(3);
    fleet.order(2, 10);
    fleet.order(4, 20);
    fleet.give_back(5);
    assert_eq!((fleet.ready, fleet.coming()), (3, 1));
    fleet.advance(10);
    assert_eq!((fleet.ready, fleet.coming()), (4, 0));
}

/// A constant load of `per_tick`; replicas after each sync period.
fn replicas(mut hpa: Hpa, per_tick: u64, seconds: u64) -> Vec<u32> {
    let mut out = Vec::new();
    for tick in 0..seconds * TICKS_PER_S {
        let room = u64::from(hpa.ready(tick)) * 5;
        hpa.see(tick, &Served { arrived: per_tick, served: per_tick.min(room), ..Served::default() });
        if (tick + 1) % (15 * TICKS_PER_S) == 0 {
            out.push(hpa.held());
        }
    }
    out
}

#[test]
fn hpa_keeps_kubernetes_rules() {
    let hpa = |metric, start_s| Hpa::new(metric, 50_000, 50, 2, start_s);
    // 100/s on two full instances: usage is twice the target. Then 60 % of what was there for 15 s, then 43 %, then 40 %.
    let seen = replicas(hpa(Metric::Cpu, 5), 10, 360);
    assert_eq!(seen[..4], [4, 5, 5, 5]);
    // Four would do from the first minute on; the window of 300 s holds the five until 345 s.
    assert_eq!((seen[21], seen[22]), (5, 4), "{seen:?}");
    // What starts counts as idle: usage of 100 % on two of four is the target.
    assert_eq!(replicas(hpa(Metric::Cpu, 60), 10, 60), [4, 4, 4, 4]);
    // Within a tenth of the target nothing changes.
    assert_eq!(replicas(hpa(Metric::Cpu, 5), 5, 60), [2, 2, 2, 2]);
    // 1000/s need forty at 25/s each: +4 at first, then doubling; the first poll comes after 30 s.
    assert_eq!(replicas(hpa(Metric::Keda, 5), 100, 90), [2, 6, 12, 24, 40, 40]);
}

fn burst() -> Load {
    let mut counts = vec![2_000; 4];
    counts.extend([9_000, 18_000, 27_000, 27_000, 27_000, 12_000, 2_000, 2_000]);
    let kind = Kind::Requests { bunch: 1 };
    Load { kind, step_s: 60, runs: vec![Run { label: String::new(), counts }], filled: 0 }
}

#[test]
fn a_burst_is_raced_and_the_same_seed_gives_the_same_race() {
    let setting = Setting { starts_s: vec![5, 30], ..Setting::default() };
    let first = race(&burst(), &setting, &|_| {}).unwrap();
    assert_eq!(first, race(&burst(), &setting, &|_| {}).unwrap());
    let of = |policy: &str, start_s| first.entries.iter().find(|e| e.policy == policy && e.start_s == start_s).unwrap();
    for start_s in [5, 30] {
        let all = [OURS, HPA, KEDA, TUNED, CLAIRVOYANT, HINDSIGHT, DELAYED, KPA].map(|p| of(p, start_s));
        assert!(all.iter().all(|e| e.requests == all[0].requests && e.lost <= e.requests), "{all:?}");
        assert!(all.iter().all(|e| e.instance_seconds >= 2 * 720), "home is always there: {all:?}");
        let (ours, hpa, known) = (all[0], all[1], all[4]);
        assert_eq!(known.lost, 0);
        assert!(all[..3].iter().all(|e| e.instance_seconds >= known.instance_seconds), "{all:?}");
        assert!(ours.lost * 8 <= hpa.lost, "{ours:?} {hpa:?}");
    }
    let text = table::text(&first, &burst());
    assert!(text.contains("CPU target 50 %") && text.contains("hindsight lost"), "{text}");
    let json = table::to_json(&first);
    assert_eq!((json["version"].as_u64(), json["entries"].as_array().unwrap().len()), (Some(1), 16));
    assert!(json["rules"].as_array().unwrap().len() >= 8 && json["entries"][0]["lost_percent"].is_f64());
    let chance = Setting { seed: 2, ..setting };
    assert_ne!(race(&burst(), &chance, &|_| {}).unwrap().entries, first.entries);
}

#[test]
fn hpa_with_its_delays_decides_later() {
    // A jump to 1000/s after the first second: when are more ordered?
    let first_more = |metric| {
        let mut hpa = Hpa::new(metric, 50_000, 50, 2, 5);
        (0..1_200).find(|tick| {
            let served = u64::from(hpa.ready(*tick)) * 5;
            hpa.see(*tick, &Served { arrived: 100, served, saturated: true, ..Served::default() });
            hpa.held() > 2
        })
    };
    // The kubelet's look at 25 s is fetched at 30 s and found at 37 s.
    assert_eq!((first_more(Metric::Cpu), first_more(Metric::CpuDelayed)), (Some(149), Some(369)));
}

#[test]
fn knative_keeps_its_rules() {
    let mut kpa = Kpa::new(50_000, 4, 2, 5);
    let mut held = Vec::new();
    for tick in 0..2_400 {
        let ready = u64::from(kpa.ready(tick));
        // 50/s for a minute, 1000/s for ten seconds, then 50/s again.
        let (arrived, queued) = if (600..700).contains(&tick) { (100, 50) } else { (5, 0) };
        kpa.see(tick, &Served { arrived, served: arrived.min(ready * 5), queued, ..Served::default() });
        if (tick + 1) % 10 == 0 {
            held.push(kpa.held());
        }
    }
    // 50/s keep four places busy; at 70 % of four places an instance that needs two.
    assert!(held[..60].iter().all(|n| *n == 2), "{held:?}");
    let most = held[60..80].iter().max().unwrap();
    assert!((24..60).contains(most), "{most}");
    // Nothing goes within a minute of panic; afterwards all of it, by half a look.
    assert!(held[75..125].iter().all(|n| n == most), "{held:?}");
    assert_eq!(held[180], 2, "{held:?}");
}

/// A made load, raced without hindsight.
fn raced(name: &str, starts_s: &[u64]) -> Race {
    let setting = Setting { starts_s: starts_s.to_vec(), hindsight: false, ..Setting::default() };
    race(&synthetic::named(name).unwrap(), &setting, &|_| {}).unwrap()
}

fn entry<'a>(race: &'a Race, policy: &str, start_s: u64) -> &'a Entry {
    race.entries.iter().find(|e| e.policy == policy && e.start_s == start_s).unwrap()
}

#[test]
fn steady_load_orders_nothing() {
    for start_s in [5, 30, 60] {
        assert_eq!(entry(&raced("steady", &[start_s]), OURS, start_s).scale_ups, 0, "{start_s}");
    }
}

#[test]
fn what_scatters_is_not_taken_for_growth() {
    for name in ["bunches-4", "bunches-10", "bunches-30", "on-off", "sawtooth"] {
        let race = raced(name, &[5, 30, 60]);
        let need = (race.second_max.unwrap() * 1_000).div_ceil(race.setting.instance_mps);
        for start_s in [5, 30, 60] {
            let (ours, hpa) = (entry(&race, OURS, start_s), entry(&race, HPA, start_s));
            assert!(ours.instance_seconds * 10 <= hpa.instance_seconds * 12, "{name}, {start_s} s: {ours:?} {hpa:?}");
            assert!(u64::from(ours.peak) <= 2 * need, "{name}, {start_s} s: {ours:?}, the highest second needs {need}");
        }
    }
}

#[test]
fn clients_who_wait_for_answers_are_helped() {
    for name in ["clients-64", "clients-200", "users", "joining"] {
        let race = raced(name, &[5]);
        let (ours, hpa) = (entry(&race, OURS, 5), entry(&race, HPA, 5));
        // A crowd that is there is met in few steps; one that joins one by one asks for one after the other.
        let steps_max = if name == "joining" { 45 } else { 10 };
        assert!(ours.scale_ups > 0 && ours.scale_ups < steps_max, "{name}: {ours:?}");
        // The steps are taken within a minute, and nothing is broken again.
        assert!(ours.violated_s <= 60, "{name}: {ours:?} {hpa:?}");
        assert!(ours.instance_seconds <= hpa.instance_seconds, "{name}: {ours:?} {hpa:?}");
    }
}
