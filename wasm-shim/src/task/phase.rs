//! The phases of a container and the edges between them.

use crate::guest::Ending;
use jiff::Timestamp;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Loaded and linked, not started.
    Created,
    /// Being started: its listener is bound, say.
    Starting,
    Running,
    Stopped {
        ending: Ending,
        at: Timestamp,
    },
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Start,
    Started,
    /// Starting failed; the container may be started again or deleted.
    StartFailed,
    Ended {
        ending: Ending,
        at: Timestamp,
    },
}

/// An event that cannot happen in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {} cannot {}", .phase.name(), .event.name())]
pub struct IllegalEdge {
    phase: Phase,
    event: Event,
}

impl Phase {
    /// The phase after an event.
    ///
    /// # Errors
    /// When there is no such edge.
    pub fn after(self, event: Event) -> Result<Self, IllegalEdge> {
        match (self, event) {
            (Self::Created, Event::Start) => Ok(Self::Starting),
            (Self::Starting, Event::Started) => Ok(Self::Running),
            (Self::Starting, Event::StartFailed) => Ok(Self::Created),
            (Self::Created | Self::Running, Event::Ended { ending, at }) => Ok(Self::Stopped { ending, at }),
            (phase, event) => Err(IllegalEdge { phase, event }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped { .. } => "stopped",
        }
    }
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "be started",
            Self::Started => "have started",
            Self::StartFailed => "fail to start",
            Self::Ended { .. } => "end",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge() {
        let ended = Event::Ended {
            ending: Ending::Exited(3),
            at: Timestamp::UNIX_EPOCH,
        };
        let stopped = Phase::Stopped {
            ending: Ending::Exited(3),
            at: Timestamp::UNIX_EPOCH,
        };
        for (phase, event, expected) in [
            (Phase::Created, Event::Start, Some(Phase::Starting)),
            (Phase::Created, Event::Started, None),
            (Phase::Created, ended, Some(stopped)),
            (Phase::Starting, Event::Start, None),
            (Phase::Starting, Event::Started, Some(Phase::Running)),
            (Phase::Starting, Event::StartFailed, Some(Phase::Created)),
            (Phase::Starting, ended, None),
            (Phase::Running, Event::Start, None),
            (Phase::Running, ended, Some(stopped)),
            (stopped, Event::Start, None),
            (stopped, ended, None),
        ] {
            assert_eq!(phase.after(event).ok(), expected, "{phase:?} {event:?}");
        }
    }

    #[test]
    fn an_illegal_edge_says_what_is_wrong() {
        let error = Phase::Running.after(Event::Start).unwrap_err();
        assert_eq!(error.to_string(), "a container that is running cannot be started");
    }
}
