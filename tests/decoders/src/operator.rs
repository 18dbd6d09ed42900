//! What a foreign operator prints.

use ops::foreign::batch::wire::{self, Answer, Builder, OWN_KEY, Request};
use ops::foreign::text::Answers;

/// Frames of the batch protocol, read from both sides.
pub fn batch(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((message, length))) = wire::frame(rest) {
        read(message);
        rest = &rest[length..];
    }
    read(data);
}

fn read(message: &[u8]) {
    let mut again = vec![];
    if let Ok(answer) = Answer::read(message) {
        answer.write(&mut again);
        assert_eq!(Answer::read(whole(&again)).as_ref(), Ok(&answer));
        if let Answer::Outputs { values, keys, .. } = &answer {
            let bytes: usize = values.iter().map(<[u8]>::len).sum();
            assert_eq!(bytes, values.data().len());
            assert!((0..values.len()).all(|i| values.get(i).len() <= bytes));
            keys.iter().for_each(|k| assert_eq!(k.iter().count(), k.len()));
        }
    }
    again.clear();
    if let Ok(request) = Request::read(message) {
        request.write(&mut again);
        assert_eq!(Request::read(whole(&again)), Ok(request));
    }
}

fn whole(frame: &[u8]) -> &[u8] {
    match wire::frame(frame) {
        Ok(Some((message, length))) if length == frame.len() => message,
        other => panic!("no whole frame: {other:?}"),
    }
}

pub fn batch_seeds() -> Vec<Vec<u8>> {
    let mut column = Builder::default();
    column.push(b"one");
    column.push(b"");
    column.push(b"three");
    let column = column.column();
    let origins: Vec<u8> = [0, 1, 2].into_iter().flat_map(u32::to_le_bytes).collect();
    let own = OWN_KEY.to_le_bytes().repeat(3);
    let outputs = |origins, keys| Answer::Outputs {
        more: false,
        origins,
        keys,
        values: column,
    };
    let answers = [
        outputs(None, None),
        outputs(Some(&origins), None),
        outputs(Some(&own), Some(column)),
        outputs(None, Some(column)),
        Answer::Passed(&[1, 0, 1]),
        Answer::Snapshot {
            more: true,
            round_ended: false,
            bytes: b"state",
        },
        Answer::Restored,
        Answer::Error {
            index: Some(2),
            what: "no number".into(),
        },
    ];
    let requests = [
        Request::Batch {
            keys: Some(column),
            values: column,
        },
        Request::Finish,
        Request::Snapshot { rewrite: 1 << 20 },
        Request::Restore {
            more: false,
            bytes: b"state",
        },
    ];
    let mut frames: Vec<Vec<u8>> = vec![];
    for answer in &answers {
        let mut frame = vec![];
        answer.write(&mut frame);
        frames.push(frame);
    }
    for request in &requests {
        let mut frame = vec![];
        request.write(&mut frame);
        frames.push(frame);
    }
    frames.extend(frames.clone().into_iter().map(|frame| frame[4..].to_vec()));
    frames.push(frames[..answers.len()].concat());
    frames
}

/// Lines of the text protocol.
pub fn text(data: &[u8]) {
    let mut answers = Answers::default();
    for line in data.split(|b| *b == b'\n') {
        if answers.line(line, |_, _| ()).is_err() {
            break;
        }
    }
}

pub fn text_seeds() -> Vec<Vec<u8>> {
    vec![
        b"filter\nforward\nvalue: v\nforward\nkey: k\nvalue: v\n".to_vec(),
        b"emit\nkey: k\nvalue: a\nemit\nvalue:b\nend\nend\n".to_vec(),
    ]
}
