//! Where an instance takes connections.

use crate::enter::{enter, enter_blocking};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// An address, of this host or, behind a door, of the instance's own network. Two instances behind doors have the same address:
/// only both together name one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub address: SocketAddr,
    pub door: Option<Arc<Path>>,
}

impl Place {
    pub fn new(address: SocketAddr, door: Option<&Path>) -> Self {
        Self { address, door: door.map(Arc::from) }
    }

    /// # Errors
    /// As of a TCP connection.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        match &self.door {
            Some(door) => enter(door).await,
            None => TcpStream::connect(self.address).await,
        }
    }

    /// # Errors
    /// As of a TCP connection.
    pub fn connect_blocking(&self, timeout: Duration) -> io::Result<std::net::TcpStream> {
        match &self.door {
            Some(door) => enter_blocking(door, timeout),
            None => std::net::TcpStream::connect_timeout(&self.address, timeout),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.door {
            Some(door) => write!(f, "{} by {}", self.address, door.display()),
            None => self.address.fmt(f),
        }
    }
}
