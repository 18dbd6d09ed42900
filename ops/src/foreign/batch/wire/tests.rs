use proptest::prelude::*;

use super::*;

type Values = Vec<Vec<u8>>;

fn builder(values: &Values) -> Builder {
    let mut b = Builder::default();
    values.iter().for_each(|v| b.push(v));
    b
}

fn read(column: Column<'_>) -> Values {
    (0..column.len()).map(|i| column.get(i).to_vec()).collect()
}

fn request(r: Request<'_>) -> Result<(), TestCaseError> {
    let mut bytes = b"before".to_vec();
    r.write(&mut bytes);
    let (message, length) = frame(&bytes[6..]).unwrap().unwrap();
    prop_assert_eq!(length, bytes.len() - 6);
    prop_assert_eq!(Request::read(message), Ok(r));
    for cut in 0..length.min(40) {
        prop_assert_eq!(frame(&bytes[6..6 + cut]), Ok(None));
        prop_assert!(Request::read(&message[..cut.min(message.len() - 1)]).is_err());
    }
    Ok(())
}

fn answer(a: Answer<'_>) -> Result<(), TestCaseError> {
    let mut bytes = vec![];
    a.write(&mut bytes);
    let (message, length) = frame(&bytes).unwrap().unwrap();
    prop_assert_eq!(length, bytes.len());
    prop_assert_eq!(Answer::read(message), Ok(a));
    for cut in 0..message.len().min(40) {
        prop_assert!(Answer::read(&message[..cut]).is_err());
    }
    let longer = [message, b"\xc0"].concat();
    prop_assert!(Answer::read(&longer).is_err());
    Ok(())
}

proptest! {
    #[test]
    fn messages_round_trip(tuples: Vec<(Vec<u8>, Vec<u8>)>, bytes: Vec<u8>, n: u64, yes: bool, text: String) {
        let keys = builder(&tuples.iter().map(|t| t.0.clone()).collect());
        let want: Values = tuples.iter().map(|t| t.1.clone()).collect();
        let values = builder(&want);
        prop_assert_eq!(read(values.column()), want.clone());
        prop_assert_eq!(values.column().iter().map(<[u8]>::to_vec).collect::<Values>(), want);
        request(Request::Batch { keys: Some(keys.column()), values: values.column() })?;
        request(Request::Batch { keys: None, values: values.column() })?;
        request(Request::Finish)?;
        request(Request::Snapshot { rewrite: n })?;
        request(Request::Restore { more: yes, bytes: &bytes })?;

        let (values, keys) = (values.column(), keys.column());
        answer(Answer::Outputs { more: yes, origins: None, keys: None, values })?;
        answer(Answer::Outputs { more: yes, origins: None, keys: Some(keys), values })?;
        let own = OWN_KEY.to_le_bytes().repeat(values.len());
        answer(Answer::Outputs { more: yes, origins: Some(&own), keys: Some(keys), values })?;
        answer(Answer::Outputs { more: yes, origins: Some(&vec![7; own.len()]), keys: None, values })?;
        answer(Answer::Passed(&bytes))?;
        answer(Answer::Snapshot { more: yes, round_ended: !yes, bytes: &bytes })?;
        answer(Answer::Restored)?;
        answer(Answer::Error { index: yes.then_some(n), what: text.into() })?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, kind in 0u8..6, n in 0u8..7) {
        let _ = frame(&bytes);
        let _ = Request::read(&bytes);
        let _ = Answer::read(&bytes);
        let near = [&[0x90 | n, kind][..], &bytes].concat();
        let _ = Request::read(&near);
        let _ = Answer::read(&near);
    }

    /// A byte of a good message changed: read as something else or refused.
    #[test]
    fn damaged_messages_do_no_harm(values: Values, at: prop::sample::Index, to: u8) {
        let column = builder(&values);
        let mut bytes = vec![];
        Answer::Outputs { more: false, origins: None, keys: Some(column.column()), values: column.column() }.write(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(Some((message, _))) = frame(&bytes)
            && let Ok(Answer::Outputs { keys: Some(keys), values, .. }) = Answer::read(message)
        {
            prop_assert_eq!(read(keys).len(), read(values).len());
        }
    }
}

#[test]
fn huge_lengths_are_refused_before_anything_is_read() {
    assert_eq!(frame(b"hello"), Err(Error::TooLong(0x6865_6c6c)));
    assert!(frame(&[0xff; 4]).is_err());
    assert_eq!(frame(&[0x03, 0xff, 0xff, 0xff, 0]), Ok(None));
    // A byte string of 4 GiB in a frame of seven bytes.
    let message = [0x92, 1, 0xc6, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(
        Answer::read(&message),
        Err(Error::Malformed("a byte string goes beyond the frame"))
    );
}

#[test]
fn columns_must_fit_together() {
    let ends = |ends: &[u32]| ends.iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<u8>>();
    assert!(Column::new(&ends(&[1, 3]), b"abc").is_ok());
    for (ends, data) in [
        (ends(&[3, 1]), &b"abc"[..]),
        (ends(&[1, 2]), b"abc"),
        (ends(&[4]), b"abc"),
        (ends(&[]), b"abc"),
        (vec![3, 0, 0], b"abc"),
    ] {
        assert!(Column::new(&ends, data).is_err(), "{ends:?}");
    }
}

/// The session in `docs/operators.md`.
#[test]
fn the_documented_bytes_are_these() {
    let hex = |text: &str| -> Vec<u8> {
        text.split_ascii_whitespace()
            .map(|b| u8::from_str_radix(b, 16).unwrap())
            .collect()
    };
    let doc = include_str!("../../../../../docs/operators.md");
    let line = |begin: &str| {
        let line = doc
            .lines()
            .find_map(|l| l.strip_prefix(begin).filter(|l| l.starts_with("00")));
        hex(line.expect("the session is in the page"))
    };
    let mut request = vec![];
    let values = builder(&vec![b"ab".to_vec(), vec![]]);
    Request::Batch {
        keys: None,
        values: values.column(),
    }
    .write(&mut request);
    assert_eq!(request, line("to the program     "));
    let mut answer = vec![];
    Answer::Passed(&[1, 0]).write(&mut answer);
    assert_eq!(answer, line("from the program   "));
}
