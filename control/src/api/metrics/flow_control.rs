//! API Priority and Fairness in numbers, under upstream's names and labels. Labels are names of FlowSchemas and
//! PriorityLevelConfigurations that are there, or were when a request came that is under way.
use super::super::Api;
use super::super::fairness::{Counts, Reason, SEATS};
use super::super::flows::Share;
use crate::measures::Exposition;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The requests of a schema in a level.
type Row = (Vec<(&'static str, String)>, Arc<Counts>);

pub(super) fn write(api: &Api, out: &mut Exposition) {
    let table = api.flow_table();
    limits(&table.shares(SEATS), out);
    let rows: Vec<Row> = api
        .flows
        .counts()
        .into_iter()
        .map(|((level, schema), counts)| {
            let labels = vec![
                ("flow_schema", schema.to_string()),
                ("priority_level", level.to_string()),
            ];
            (labels, counts)
        })
        .collect();
    totals(&rows, out);
    for (name, help, of) in LOADS {
        out.begin(name, "gauge", help);
        for (labels, counts) in &rows {
            out.sample(name, labels, of(counts).load(Ordering::Relaxed));
        }
    }
    waits(&rows, out);
}

/// Name, help, and where the number is.
type Gauge = (&'static str, &'static str, fn(&Counts) -> &AtomicI64);

const LOADS: [Gauge; 4] = [
    (
        "apiserver_flowcontrol_current_inqueue_requests",
        "Requests that wait for seats.",
        |counts| &counts.waiting.requests,
    ),
    (
        "apiserver_flowcontrol_current_inqueue_seats",
        "Seats that are waited for.",
        |counts| &counts.waiting.seats,
    ),
    (
        "apiserver_flowcontrol_current_executing_requests",
        "Requests that are worked on; watches until they have begun.",
        |counts| &counts.executing.requests,
    ),
    (
        "apiserver_flowcontrol_current_executing_seats",
        "Seats of the requests that are worked on.",
        |counts| &counts.executing.seats,
    ),
];

fn limits(shares: &[(Arc<str>, Share)], out: &mut Exposition) {
    let gauges: [(&str, &str, fn(&Share) -> usize); 3] = [
        (
            "apiserver_flowcontrol_nominal_limit_seats",
            "Seats that a level's shares are worth.",
            |share| share.nominal,
        ),
        (
            "apiserver_flowcontrol_lower_limit_seats",
            "Seats that a level has for itself.",
            |share| share.own,
        ),
        (
            "apiserver_flowcontrol_upper_limit_seats",
            "Seats that a level may have at most.",
            |share| share.most,
        ),
    ];
    for (name, help, of) in gauges {
        out.begin(name, "gauge", help);
        for (level, share) in shares {
            out.sample(name, &[("priority_level", level.to_string())], of(share));
        }
    }
}

fn totals(rows: &[Row], out: &mut Exposition) {
    let name = "apiserver_flowcontrol_dispatched_requests_total";
    out.begin(name, "counter", "Requests that were given their seats.");
    for (labels, counts) in rows {
        out.sample(name, labels, counts.dispatched.load(Ordering::Relaxed));
    }
    let name = "apiserver_flowcontrol_rejected_requests_total";
    out.begin(name, "counter", "Requests that were sent back, by why.");
    for (labels, counts) in rows {
        for reason in Reason::ALL {
            let count = counts.rejected(reason);
            if count > 0 {
                let mut labels = labels.clone();
                labels.push(("reason", reason.word().to_owned()));
                out.sample(name, &labels, count);
            }
        }
    }
}

fn waits(rows: &[Row], out: &mut Exposition) {
    let name = "apiserver_flowcontrol_request_wait_duration_seconds";
    out.begin(name, "histogram", "How long requests waited for their seats.");
    for (labels, counts) in rows {
        for (executed, waited) in [("true", &counts.seated), ("false", &counts.given_up)] {
            let mut labels = labels.clone();
            labels.insert(0, ("execute", executed.to_owned()));
            waited.write(name, &labels, out);
        }
    }
}
