//! `top`: the cluster's page in a terminal. It shows what a node's console says, as the page does.

mod view;

use std::io::IsTerminal as _;
use std::time::Duration;

use common::clock;
use common::cluster::Cluster;
use common::net::Identity;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};

use crate::members;
use crate::outcome::{Done, Error};
use view::{Kind, Seen, ViewLine};

const EVERY: Duration = Duration::from_secs(2);
const KEYS_WITHIN: Duration = Duration::from_millis(100);
/// Of `--once`: a script's reader has no screen that ends.
const ONCE_WIDTH: usize = 160;
const ONCE_EVENTS: usize = 20;

pub async fn run(cluster: &Cluster, me: &Identity, node: Option<String>, once: bool) -> Result<Done, Error> {
    let seen = look(cluster, me, node.clone()).await?;
    if once {
        let lines = view::lines(&seen, ONCE_WIDTH, usize::MAX, ONCE_EVENTS);
        let text: Vec<String> = lines.into_iter().map(|line| line.text).collect();
        return Ok(text.join("\n").into());
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let mut terminal = ratatui::try_init().map_err(Error::Terminal)?;
    let _restored = Restored;
    let mut seen = Ok(seen);
    let mut pressed = tokio::task::spawn_blocking(key);
    loop {
        let asked = clock::now();
        let size = terminal.size().map_err(Error::Terminal)?;
        let text = shown(&seen, usize::from(size.width), usize::from(size.height));
        terminal
            .draw(|frame| frame.render_widget(text, frame.area()))
            .map_err(Error::Terminal)?;
        let mut next = std::pin::pin!(async {
            clock::sleep_until(asked + EVERY).await;
            look(cluster, me, node.clone()).await
        });
        loop {
            tokio::select! {
                found = &mut next => {
                    seen = found;
                    break;
                }
                key_or_none = &mut pressed => match next_key(&mut pressed, key_or_none).map_err(Error::Terminal)? {
                    Pressed::End => return Ok(Done::default()),
                    // Laid out anew.
                    Pressed::Resized => {
                        let size = terminal.size().map_err(Error::Terminal)?;
                        let text = shown(&seen, usize::from(size.width), usize::from(size.height));
                        terminal.draw(|frame| frame.render_widget(text, frame.area())).map_err(Error::Terminal)?;
                    }
                    Pressed::Other => {}
                },
            }
        }
    }
}

/// The terminal is as it was, however this ends.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn look(cluster: &Cluster, me: &Identity, node: Option<String>) -> Result<Seen, Error> {
    let ask = async |path: &'static str| {
        members::any(cluster, me, node.clone(), async |node| {
            let said = memberd::client::console(cluster, me, &node, path).await?;
            serde_json::from_slice::<Value>(&said.body)
                .map_err(|_| memberd::client::Error::Unexpected { node })
        })
        .await
    };
    let (cluster, jobs, events) = tokio::join!(ask("/api/cluster"), ask("/api/jobs"), ask("/api/events"));
    Ok(Seen {
        cluster: cluster?,
        jobs: jobs?,
        events: events?,
    })
}

fn shown(seen: &Result<Seen, Error>, width: usize, height: usize) -> Text<'static> {
    let lines = match seen {
        Ok(seen) => view::lines(seen, width, height, height),
        Err(error) => vec![
            ViewLine::new(Kind::Bad, error.to_string()),
            ViewLine::new(Kind::Dim, "q ends".into()),
        ],
    };
    let styled = |line: ViewLine| {
        let plain = Style::default();
        let style = match line.kind {
            Kind::Plain => plain,
            Kind::Head => plain.add_modifier(Modifier::BOLD),
            Kind::Dim => plain.add_modifier(Modifier::DIM),
            Kind::Good => plain.fg(Color::Green),
            Kind::Warn => plain.fg(Color::Yellow),
            Kind::Bad => plain.fg(Color::Red),
        };
        Line::styled(line.text, style)
    };
    Text::from(lines.into_iter().map(styled).collect::<Vec<_>>())
}

enum Pressed {
    End,
    Resized,
    Other,
}

/// What was pressed; the next is waited for from now on.
fn next_key(
    pressed: &mut JoinHandle<std::io::Result<Pressed>>,
    now: Result<std::io::Result<Pressed>, JoinError>,
) -> std::io::Result<Pressed> {
    *pressed = tokio::task::spawn_blocking(key);
    now.unwrap_or(Ok(Pressed::Other))
}

fn key() -> std::io::Result<Pressed> {
    if !event::poll(KEYS_WITHIN)? {
        return Ok(Pressed::Other);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => {
            let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => Pressed::End,
                _ if ctrl_c => Pressed::End,
                _ => Pressed::Other,
            }
        }
        Event::Resize(..) => Pressed::Resized,
        _ => Pressed::Other,
    })
}
