//! A connection whose bytes pass through something of ours on their way: TLS, or the line that a proxy wants to read.

use std::fmt;
use std::io::{Read, Write};

use ureq::config::Config;
use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, Transport, TransportAdapter};

/// What the bytes pass through.
pub(super) trait Stream: Read + Write + Send + Sync + 'static {
    /// Whether nobody on the way can read them.
    const IS_TLS: bool;

    /// The connection below.
    fn socket(&mut self) -> &mut TransportAdapter;
}

/// A connection through such a stream, as ureq wants it.
pub(super) struct StreamTransport<S> {
    buffers: LazyBuffers,
    stream: S,
}

impl<S> StreamTransport<S> {
    pub(super) fn new(config: &Config, stream: S) -> Self {
        Self { buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()), stream }
    }
}

impl<S> fmt::Debug for StreamTransport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamTransport").finish_non_exhaustive()
    }
}

impl<S: Stream> Transport for StreamTransport<S> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.socket().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.socket().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.socket().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        S::IS_TLS
    }
}
