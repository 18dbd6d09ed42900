//! A door behind which everybody says who he is before he is served.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{Arrival, Door, Limits, Strangers};
use crate::net::{self, Connection, Identity};
use crate::spawn;

/// A connection whose other side knows the cluster's secret.
pub struct Guest {
    pub connection: Connection,
    /// From 1, in the order in which they came.
    pub number: u64,
    strangers: Arc<Strangers>,
}

impl Guest {
    /// Tells of one that knows the secret and is all the same not to be served.
    pub fn refuse(&self, why: impl Display) {
        self.strangers.note(self.connection.addr, why);
    }
}

/// Greets all who come, each on a task of its own, and has `serve` go on with those who know the secret; of the others the log
/// tells. The hello has a time limit. Ends when there will never be a connection again. `name` is for the log.
pub async fn greet<S, F, E>(
    name: &'static str,
    listener: TcpListener,
    limits: Limits,
    me: Arc<Identity>,
    serve: S,
) -> io::Result<()>
where
    S: Fn(Guest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    let mut door = Door::new(name, listener, limits);
    let (strangers, serve) = (Arc::new(Strangers::default()), Arc::new(serve));
    let mut number = 0;
    loop {
        let Arrival {
            stream,
            addr,
            stranger,
            place,
        } = door.next().await?;
        number += 1;
        let (me, strangers, serve) = (me.clone(), strangers.clone(), serve.clone());
        spawn::task(name, async move {
            let _place = place;
            let greeted = net::accept(stream, addr, &me).await;
            drop(stranger);
            match greeted {
                Ok(connection) => {
                    let guest = Guest {
                        connection,
                        number,
                        strangers,
                    };
                    serve(guest).await
                }
                // As of whoever asks all ports whether a program is there.
                Err(net::Error::Io(_) | net::Error::Closed) => Ok(()),
                Err(error) => {
                    strangers.note(addr, error);
                    Ok(())
                }
            }
        });
    }
}
