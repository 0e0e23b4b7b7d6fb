//! Whom the guests of a container may meet: the rules of its Pod's network, which may change while it runs.
//!
//! Owns the rules in force and, for datagrams, who is in conversation: as with the connection tracking of a kernel, an answer
//! is allowed where what it answers was. A change is for what begins after it; connections that are there go on. Refuses to
//! know where rules come from. Without any a question costs the reading of one word.

use amphipod_shim_api::network::{NetworkRules, Protocol};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use wasmtime_wasi::sockets::SocketAddrUse;

/// How long the last datagram lets others follow: what the kernel has for both directions (`nf_conntrack_udp_timeout_stream`).
const CONVERSATION: Duration = Duration::from_secs(120);

/// Most a container has of them; then the one with the longest silence is forgotten.
const MAX_CONVERSATIONS: usize = 4_096;

/// The rules of one container.
#[derive(Debug, Default)]
pub struct Narrowing {
    narrow: AtomicBool,
    rules: RwLock<Arc<NetworkRules>>,
    conversations: Mutex<Conversations>,
}

impl Narrowing {
    pub fn new(rules: NetworkRules) -> Arc<Self> {
        let narrowing = Self::default();
        narrowing.set(rules);
        Arc::new(narrowing)
    }

    /// From now on these hold.
    pub fn set(&self, rules: NetworkRules) {
        let narrow = !rules.is_open();
        // Two that come at once are not mixed.
        let mut held = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(rules);
        self.narrow.store(narrow, Ordering::Release);
        drop(held);
        if !narrow {
            self.conversations(|all| *all = Conversations::default());
        }
    }

    /// The rules, where there are some.
    fn rules(&self) -> Option<Arc<NetworkRules>> {
        let narrow = self.narrow.load(Ordering::Acquire);
        narrow.then(|| Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn conversations<T>(&self, look: impl FnOnce(&mut Conversations) -> T) -> T {
        look(&mut self.conversations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anybody may be refused.
    pub fn is_narrow(&self) -> bool {
        self.narrow.load(Ordering::Acquire)
    }

    /// Whether a connection of somebody with a port of the container may begin.
    pub fn lets_in(&self, from: SocketAddr, port: u16) -> bool {
        self.rules()
            .is_none_or(|rules| rules.lets_in(Protocol::Tcp, from.ip(), port))
    }

    /// Whether a connection to somebody may begin.
    pub fn lets_out(&self, protocol: Protocol, to: SocketAddr) -> bool {
        self.rules().is_none_or(|rules| rules.lets_out(protocol, to))
    }

    /// Whether a datagram may be sent.
    fn lets_send(&self, to: SocketAddr) -> bool {
        let Some(rules) = self.rules() else { return true };
        let allowed = rules.lets_out(Protocol::Udp, to);
        self.conversations(|all| all.goes_on(to, Begun::Here, allowed, Instant::now()))
    }

    /// Whether a datagram that came to a port may be taken.
    pub fn lets_receive(&self, from: SocketAddr, port: u16) -> bool {
        let Some(rules) = self.rules() else { return true };
        let allowed = rules.lets_in(Protocol::Udp, from.ip(), port);
        self.conversations(|all| all.goes_on(from, Begun::There, allowed, Instant::now()))
    }

    /// What wasmtime-wasi asks of each address. It does not say at which port somebody arrives: those questions are answered
    /// where that is known (`program::sockets`).
    pub fn permits(&self, address: SocketAddr, how: SocketAddrUse) -> bool {
        match how {
            SocketAddrUse::TcpConnect => self.lets_out(Protocol::Tcp, address),
            SocketAddrUse::UdpSend => self.lets_send(address),
            SocketAddrUse::TcpBind
            | SocketAddrUse::TcpListen
            | SocketAddrUse::TcpAccept
            | SocketAddrUse::UdpBind
            | SocketAddrUse::UdpReceive => true,
        }
    }
}

/// Who sent the first datagram of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Begun {
    Here,
    There,
}

impl Begun {
    fn other(self) -> Self {
        match self {
            Begun::Here => Begun::There,
            Begun::There => Begun::Here,
        }
    }
}

/// Who datagrams were exchanged with by a rule, who began, and when for the last time.
#[derive(Debug, Default)]
struct Conversations(HashMap<(SocketAddr, Begun), Instant>);

impl Conversations {
    /// Whether a datagram from `by` may pass: it answers one that passed, or is `allowed`. Without a rule only answers pass, so that
    /// nobody keeps up by himself what he may begin no more. That it answers is asked first: an answer begins nothing, though a
    /// rule may allow that too.
    fn goes_on(&mut self, other: SocketAddr, by: Begun, allowed: bool, now: Instant) -> bool {
        let other = SocketAddr::new(other.ip().to_canonical(), other.port());
        let answered = (other, by.other());
        let fresh = |last: &Instant| now.duration_since(*last) < CONVERSATION;
        let answers = self.0.get(&answered).is_some_and(fresh);
        if answers || allowed {
            self.note(if answers { answered } else { (other, by) }, now);
        }
        answers || allowed
    }

    fn note(&mut self, other: (SocketAddr, Begun), now: Instant) {
        if self.0.len() >= MAX_CONVERSATIONS && !self.0.contains_key(&other) {
            self.0.retain(|_, last| now.duration_since(*last) < CONVERSATION);
        }
        if self.0.len() >= MAX_CONVERSATIONS && !self.0.contains_key(&other) {
            let oldest = self.0.iter().min_by_key(|(_, last)| **last);
            let oldest = oldest.map(|(other, _)| *other);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(other, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::network::{Addresses, Allowed, Ports};

    fn rules(ingress: Option<&str>, egress: Option<&str>) -> NetworkRules {
        let only = |address: &str| {
            vec![Allowed {
                ports: Some(vec![Ports::one(Protocol::Udp, 53), Ports::one(Protocol::Tcp, 80)]),
                addresses: Addresses::from_iter([address.parse::<std::net::IpAddr>().unwrap()]),
            }]
        };
        NetworkRules {
            ingress: ingress.map(only),
            egress: egress.map(only),
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rules_change_and_go() {
        let narrowing = Narrowing::new(NetworkRules::default());
        assert!(!narrowing.is_narrow() && narrowing.lets_in(at("10.0.0.1:4000"), 80));
        narrowing.set(rules(Some("10.0.0.1"), None));
        assert!(narrowing.is_narrow() && narrowing.lets_in(at("[::ffff:10.0.0.1]:4000"), 80));
        assert!(!narrowing.lets_in(at("10.0.0.1:4000"), 81) && !narrowing.lets_in(at("10.0.0.2:4000"), 80));
        assert!(narrowing.permits(at("10.0.0.9:1"), SocketAddrUse::TcpConnect));
        narrowing.set(rules(None, Some("10.0.0.1")));
        assert!(narrowing.lets_in(at("10.0.0.2:4000"), 81));
        assert!(narrowing.permits(at("10.0.0.1:80"), SocketAddrUse::TcpConnect));
        assert!(!narrowing.permits(at("10.0.0.1:81"), SocketAddrUse::TcpConnect));
        assert!(narrowing.permits(at("0.0.0.0:81"), SocketAddrUse::TcpBind));
        narrowing.set(NetworkRules::default());
        assert!(!narrowing.is_narrow() && narrowing.permits(at("10.0.0.1:81"), SocketAddrUse::TcpConnect));
    }

    #[test]
    fn answers_follow_questions_both_ways() {
        let (resolver, stranger) = (at("10.0.0.1:53"), at("10.0.0.2:53"));
        let asking = Narrowing::new(NetworkRules {
            ingress: Some(Vec::new()),
            ..rules(None, Some("10.0.0.1"))
        });
        assert!(!asking.lets_receive(resolver, 4000));
        assert!(!asking.permits(stranger, SocketAddrUse::UdpSend));
        assert!(asking.permits(resolver, SocketAddrUse::UdpSend) && asking.lets_receive(resolver, 4000));
        assert!(!asking.lets_receive(stranger, 4000));
        let answering = Narrowing::new(NetworkRules {
            egress: Some(Vec::new()),
            ..rules(Some("10.0.0.1"), None)
        });
        let client = at("10.0.0.1:4000");
        assert!(!answering.permits(client, SocketAddrUse::UdpSend));
        assert!(!answering.lets_receive(client, 54) && answering.lets_receive(client, 53));
        assert!(answering.permits(client, SocketAddrUse::UdpSend));
    }

    #[test]
    fn conversations_end_and_are_not_too_many() {
        let mut all = Conversations::default();
        let (other, now) = (at("10.0.0.1:53"), Instant::now());
        let (half, whole) = (now + CONVERSATION / 2, now + CONVERSATION);
        assert!(all.goes_on(other, Begun::Here, true, now));
        assert!(
            !all.goes_on(other, Begun::Here, false, now),
            "it keeps nothing up by itself"
        );
        assert!(all.goes_on(other, Begun::There, false, half));
        assert!(all.goes_on(other, Begun::There, false, whole));
        assert!(!all.goes_on(other, Begun::There, false, whole + CONVERSATION));
        let client = at("10.0.0.2:53");
        assert!(all.goes_on(client, Begun::There, true, now));
        assert!(all.goes_on(client, Begun::Here, true, now));
        let again = all.goes_on(client, Begun::There, false, now);
        assert!(!again, "an answer begins nothing");
        all = Conversations::default();
        for n in 0..=MAX_CONVERSATIONS as u64 {
            let other = at(&format!("10.1.{}.{}:9", n / 256, n % 256));
            assert!(all.goes_on(other, Begun::Here, true, now + Duration::from_micros(n)));
        }
        assert_eq!(all.0.len(), MAX_CONVERSATIONS);
        assert!(
            !all.goes_on(at("10.1.0.0:9"), Begun::There, false, now),
            "the oldest is forgotten"
        );
        assert!(all.goes_on(at("10.1.0.2:9"), Begun::There, false, now));
    }
}
