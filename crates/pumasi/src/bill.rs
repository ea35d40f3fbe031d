//! `pumasi bill`: what this cloud owes and earns in a month, and to whom.

use crate::failure::Failure;
use crate::output::{self, Cell, Format, Table, Tone};
use crate::session::Session;
use crate::units::{duration_ms, money, short_id};
use pumasi_api::message::{Bill, BillLine, BillSide, BillState};
use pumasi_terms::{CloudName, Money};
use std::collections::BTreeMap;

pub async fn bill(session: &Session, month: Option<&str>) -> Result<(), Failure> {
    let query = month.map(|m| format!("?month={}", crate::events::query(m))).unwrap_or_default();
    let bill: Bill = session.client.get(&format!("/v1/bill{query}")).await?;
    let names = || bill.lines.iter().map(|l| format!("lease/{}\n", l.lease)).collect();
    if session.global.output != Format::Table {
        return session.show(&bill, names, || Ok(Table::default()));
    }
    let what = match month {
        Some("all") => "all time".to_owned(),
        _ => bill.from.to_string().chars().take(7).collect(),
    };
    output::note(&format!("bill of {} for {what} (UTC){}", bill.cloud, in_currency(&bill.currency)));
    if bill.lines.is_empty() {
        output::note("nothing was rented or lent");
        return Ok(());
    }
    output::print(&table(&bill.lines, &bill.currency).render(session.colours))?;
    output::print(&format!("\n{}", by_cloud(&bill).render(session.colours)))?;
    if bill.left_out > 0 {
        output::note(&format!("{} older lines are in the sums and not shown", bill.left_out));
    }
    Ok(())
}

fn in_currency(currency: &str) -> String {
    if currency.is_empty() { String::new() } else { format!(", in {currency}") }
}

pub fn table(lines: &[BillLine], currency: &str) -> Table {
    let mut table = Table::new(&[
        "LEASE", "SIDE", "WITH", "SERVICE", "STATE", "TIME", "KEPT", "REQUESTS", "PRICE/H", "AMOUNT", "SINCE",
    ]);
    for l in lines {
        let (state, tone) = match (l.state, l.readings_agree) {
            (BillState::Settled, Some(false)) => ("settled, readings differ", Tone::Busy),
            (BillState::Settled, _) => ("settled", Tone::Good),
            (BillState::Running, _) => ("runs", Tone::Busy),
            (BillState::Open, _) => ("waits for a person", Tone::Bad),
        };
        let kept = l.reserved_instance_ms;
        table.row(vec![
            short_id(l.lease.as_str()).into(),
            if l.side == BillSide::Rented { "rented".into() } else { "lent".into() },
            l.with.as_str().into(),
            l.service.as_ref().map_or("-", |s| s.as_str()).into(),
            Cell::toned(state, tone),
            duration_ms(l.instance_ms).into(),
            if kept == 0 { "-".into() } else { duration_ms(kept).into() },
            l.requests.to_string().into(),
            l.price_per_instance_hour.map_or("-".to_owned(), |p| format!("{} {currency}", money(p))).into(),
            format!("{} {currency}", money(l.amount)).into(),
            l.at.to_string().chars().take(16).collect::<String>().replace('T', " ").into(),
        ]);
    }
    table
}

#[derive(Default)]
struct Sums {
    to_pay: u64,
    to_get: u64,
    unsigned: u64,
}

fn by_cloud(bill: &Bill) -> Table {
    let mut clouds: BTreeMap<&CloudName, Sums> = BTreeMap::new();
    for l in &bill.lines {
        let sums = clouds.entry(&l.with).or_default();
        let part = match (l.state, l.side) {
            (BillState::Settled, BillSide::Rented) => &mut sums.to_pay,
            (BillState::Settled, BillSide::Lent) => &mut sums.to_get,
            _ => &mut sums.unsigned,
        };
        *part = part.saturating_add(l.amount.0);
    }
    let amount = |n: u64| format!("{} {}", money(Money(n)), bill.currency);
    let mut table = Table::new(&["WITH", "TO PAY", "TO GET", "NOT SIGNED YET"]);
    for (cloud, s) in clouds {
        table.row(vec![
            cloud.as_str().into(),
            amount(s.to_pay).into(),
            amount(s.to_get).into(),
            amount(s.unsigned).into(),
        ]);
    }
    let unsigned = bill.unsigned_to_pay.0.saturating_add(bill.unsigned_to_get.0);
    table.row(vec![
        Cell::toned("all", Tone::Head),
        amount(bill.to_pay.0).into(),
        amount(bill.to_get.0).into(),
        amount(unsigned).into(),
    ]);
    table
}
