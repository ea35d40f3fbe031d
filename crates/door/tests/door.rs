//! A door between two ends of this process; that it leads into another network is tried by the engine's tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_door::{Answer, Place, answer, enter, enter_blocking, listen};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A shim as small as can be: each knock gets what `give` says.
fn doorkeeper(door: &Path, give: impl Fn() -> Option<TcpStream> + Send + 'static, without: Answer) {
    let listener = listen(door).unwrap();
    std::thread::spawn(move || {
        for knock in listener.incoming().flatten() {
            let socket = give();
            let word = if socket.is_some() { Answer::Socket } else { without };
            let _ = answer(&knock, word, socket.as_ref().map(AsFd::as_fd));
        }
    });
}

fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn leads_to_the_server(door: PathBuf) {
    let (listener, address) = server();
    doorkeeper(&door, move || TcpStream::connect(address).ok(), Answer::Refused);
    for _ in 0..3 {
        let stream = enter(&door).await.unwrap();
        let (mut inside, _) = listener.accept().unwrap();
        stream.into_std().unwrap().write_all(b"x").unwrap();
        inside.read_exact(&mut [0]).unwrap();
    }
    let path = door.clone();
    let entering = tokio::task::spawn_blocking(move || enter_blocking(&path, Duration::from_secs(5)));
    let mut stream = entering.await.unwrap().unwrap();
    let (mut inside, _) = listener.accept().unwrap();
    inside.write_all(b"hello").unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::symlink_metadata(&door).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_door_leads_to_the_server() {
    let dir = tempfile::tempdir().unwrap();
    leads_to_the_server(dir.path().join("door")).await;
}

#[tokio::test]
async fn a_door_may_lie_deep() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    leads_to_the_server(deep.join("door")).await;
}

#[tokio::test]
async fn what_is_refused_inside_is_refused_to_whoever_knocks() {
    let dir = tempfile::tempdir().unwrap();
    let door = dir.path().join("door");
    assert_eq!(enter(&door).await.unwrap_err().kind(), ErrorKind::NotFound);
    doorkeeper(&door, || None, Answer::Refused);
    assert_eq!(enter(&door).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let refused = Place::new("127.0.0.1:8080".parse().unwrap(), Some(&door)).connect().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);

    // A shim that was killed leaves the file, and a new one takes its place.
    let left = dir.path().join("left");
    drop(listen(&left).unwrap());
    assert_eq!(enter(&left).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    doorkeeper(&left, || None, Answer::Short);
    assert!(enter(&left).await.unwrap_err().to_string().contains("could not make a socket"));
}

#[tokio::test]
async fn a_keeper_that_ends_in_the_middle_is_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let door = dir.path().join("door");
    let listener = listen(&door).unwrap();
    std::thread::spawn(move || drop(listener.accept()));
    assert_eq!(enter(&door).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn those_who_find_no_room_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let door = dir.path().join("door");
    let (_inside, address) = server();
    let socket = TcpStream::connect(address).unwrap();
    let listener = listen(&door).unwrap();
    let all: Vec<_> = (0..1_500)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move { enter(&door).await.is_ok() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::thread::spawn(move || {
        for knock in listener.incoming().flatten() {
            answer(&knock, Answer::Socket, Some(socket.as_fd())).unwrap();
        }
    });
    for one in all {
        assert!(one.await.unwrap());
    }
}
