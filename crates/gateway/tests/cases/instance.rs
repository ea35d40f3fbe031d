//! An instance that notes every byte, reads strictly, and answers as a case says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub enum Conduct {
    /// 200, with the target in the body.
    Ordinary,
    /// Requests are answered with these bytes, but for `/next`; the connection stays.
    Says(&'static str),
    /// The same, and these a moment later.
    SaysLater(&'static str, &'static str),
    /// The connection ends behind them.
    SaysAndEnds(&'static str),
    /// So many bytes of a field, then the rest of an answer.
    LongHead(usize),
    /// It takes a body for the next request, as some servers do for methods without one.
    IgnoresBodies,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Request {
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub requests: Vec<Request>,
    /// Something came that is no request.
    pub garbage: bool,
    pub raw: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    conduct: Conduct,
    seen: Seen,
}

pub struct Instance {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl Instance {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { conduct: Conduct::Ordinary, seen: Seen::default() }));
        let all = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = all.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }
    pub fn begin(&self, conduct: Conduct) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Shared { conduct, seen: Seen::default() };
    }
    pub fn end(&self) -> Seen {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }
}

fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut arrived = Vec::new();
    let mut buffer = [0u8; 16 << 10];
    // Who asked first was told to go on.
    let mut told = false;
    loop {
        loop {
            let mut s = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let bodies = !matches!(s.conduct, Conduct::IgnoresBodies);
            match take(&mut arrived, bodies) {
                Ok(None) => {
                    let head = find(&arrived, b"\r\n\r\n").map(|end| arrived[..end].to_ascii_lowercase());
                    let asks = head.is_some_and(|head| find(&head, b"expect: 100-continue").is_some());
                    if asks && !std::mem::replace(&mut told, true) {
                        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    break;
                }
                Err(()) => {
                    s.seen.garbage = true;
                    return;
                }
                Ok(Some(request)) => {
                    told = false;
                    let text = format!("this is {}", request.target());
                    s.seen.requests.push(request);
                    let conduct = if text.ends_with("/next") { Conduct::Ordinary } else { s.conduct };
                    drop(s);
                    let ordinary = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                    let (now, later, ends) = match conduct {
                        Conduct::Ordinary | Conduct::IgnoresBodies => (ordinary, "", false),
                        Conduct::Says(text) => (text.to_owned(), "", false),
                        Conduct::SaysLater(text, later) => (text.to_owned(), later, false),
                        Conduct::SaysAndEnds(text) => (text.to_owned(), "", true),
                        Conduct::LongHead(bytes) => {
                            let long = "a".repeat(bytes);
                            (format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 0\r\n\r\n"), "", false)
                        }
                    };
                    let _ = stream.write_all(now.as_bytes());
                    if !later.is_empty() {
                        std::thread::sleep(Duration::from_millis(20));
                        let _ = stream.write_all(later.as_bytes());
                    }
                    if ends {
                        return;
                    }
                }
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                arrived.extend_from_slice(&buffer[..n]);
                let mut s = shared.lock().unwrap_or_else(PoisonError::into_inner);
                s.seen.raw.extend_from_slice(&buffer[..n]);
            }
        }
    }
}

/// Takes one request off; None: it is not all there. Strictly: what does not read is garbage.
fn take(arrived: &mut Vec<u8>, bodies: bool) -> Result<Option<Request>, ()> {
    let Some(end) = find(arrived, b"\r\n\r\n") else { return Ok(None) };
    let head = arrived[..end + 2].to_vec();
    let text = String::from_utf8_lossy(&head).into_owned();
    let first = text.split("\r\n").next().unwrap_or_default();
    let bare = head.iter().enumerate().any(|(i, &b)| b == 0 || (b == b'\n' && (i == 0 || head[i - 1] != b'\r')));
    let words: Vec<&str> = first.split(' ').collect();
    if bare || words.len() != 3 || !words[2].starts_with("HTTP/1.") {
        return Err(());
    }
    let mut length = None;
    let mut chunked = false;
    for line in text.split("\r\n").skip(1).filter(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(())?;
        if name.is_empty() || name.contains([' ', '\t']) || line.starts_with([' ', '\t']) {
            return Err(());
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" if length.is_some() => return Err(()),
            "content-length" => length = Some(value.trim().parse::<usize>().map_err(|_| ())?),
            "transfer-encoding" if chunked || !value.trim().to_ascii_lowercase().ends_with("chunked") => return Err(()),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    if length.is_some() && chunked {
        return Err(());
    }
    let mut at = end + 4;
    let (mut body, mut trailers) = (Vec::new(), String::new());
    if chunked && bodies {
        loop {
            let Some(line) = find(&arrived[at..], b"\r\n") else { return Ok(None) };
            let size = String::from_utf8_lossy(&arrived[at..at + line]).into_owned();
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16).map_err(|_| ())?;
            at += line + 2;
            if size == 0 {
                let rest = &arrived[at..];
                let Some(end) =
                    (if rest.starts_with(b"\r\n") { Some(0) } else { find(rest, b"\r\n\r\n").map(|e| e + 2) })
                else {
                    return Ok(None);
                };
                trailers = String::from_utf8_lossy(&rest[..end]).into_owned();
                at += end + 2;
                break;
            }
            if arrived.len() < at + size + 2 {
                return Ok(None);
            }
            body.extend_from_slice(&arrived[at..at + size]);
            if &arrived[at + size..at + size + 2] != b"\r\n" {
                return Err(());
            }
            at += size + 2;
        }
    } else if let Some(length) = length.filter(|_| bodies) {
        if arrived.len() < at + length {
            return Ok(None);
        }
        body = arrived[at..at + length].to_vec();
        at += length;
    }
    arrived.drain(..at);
    Ok(Some(Request { head: text, body, trailers }))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}
