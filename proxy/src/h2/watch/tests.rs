use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
    bytes
}

#[test]
fn frames_are_found_in_pieces_of_any_size() {
    let mut bytes = b"preface".to_vec();
    bytes.extend(frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 1]));
    bytes.extend(frame(HEADERS, 4, &[0x82; 300]));
    bytes.extend(frame(RST_STREAM, 0, &[0, 0, 0, 7]));
    bytes.extend(frame(DATA, 0, b""));
    bytes.extend(frame(GOAWAY, 0, &[0x80, 0, 0, 9, 0, 0, 0, 11, b'x']));
    bytes.extend(frame(RST_STREAM, 0, &[0, 0, 0, 1]));
    bytes.extend(frame(RST_STREAM, 0, &[0, 0, 0, 8]));
    for size in 1..bytes.len() {
        let watch = Watch::default();
        let (mut came, mut went) = (Scan::after(7), Scan::after(7));
        for piece in bytes.chunks(size) {
            came.came(piece, &watch);
            went.went(piece, &watch);
        }
        assert!(watch.has_settings(), "{size}");
        assert_eq!(watch.last_id(), Some(9), "{size}");
        assert_eq!(watch.received(), bytes.len() as u64);
        assert_eq!(watch.take_told(), [1, 1, 1], "{size}");
        assert_eq!(watch.take_told(), [0, 0, 0]);
        assert_eq!(RESETS.burst as f64 - watch.resets.left.get(), 3.0);
    }
}

#[test]
fn the_last_goaway_does_not_take_the_first_back() {
    let watch = Watch::default();
    let mut scan = Scan::after(0);
    for id in [0x7fff_ffffu32, 5, 7] {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 4]);
        scan.came(&frame(GOAWAY, 0, &payload), &watch);
    }
    assert_eq!(watch.last_id(), Some(5));
}

#[test]
fn what_carries_something_allows_for_more() {
    let ping = frame(PING, 0, &[0; 8]);
    let pong = frame(PING, ACK, &[0; 8]);
    let data = frame(DATA, 0, &[7; 150]);
    let after = |excuse: &[u8], ours: &[u8]| {
        let watch = Watch::default();
        let (mut came, mut went) = (Scan::after(0), Scan::after(0));
        let mut frames = 0u32;
        while watch.flood().is_none() && frames < 3 * IDLE_FRAMES.burst {
            came.came(&ping, &watch);
            came.came(excuse, &watch);
            went.went(ours, &watch);
            frames += 1;
        }
        frames
    };
    // What time allows while this runs is less than half as many again.
    let most = IDLE_FRAMES.burst * 3 / 2;
    assert!(after(b"", b"") <= most);
    assert!(after(b"", &pong) <= most);
    assert_eq!(after(&data, b""), 3 * IDLE_FRAMES.burst);
    assert_eq!(after(b"", &data), 3 * IDLE_FRAMES.burst);
}
