//! A volume's part in exporting a snapshot of it: whether it may be, and which one there is.
//!
//! What blocks (waiting for writes in progress, binding a socket) is done on a thread apart; its outcome comes back as
//! an input.

use super::Owner;
use crate::api::Problem;
use crate::clock;
use crate::control::problem;
use crate::driver::Answer;
use crate::driver::export::{self, Export};
use crate::driver::handle::Input;

impl Owner {
    pub(super) fn begin_export(&mut self, answer: Answer) {
        match &self.export {
            export::State::Serving(_) => return drop(answer.send(Ok(()))),
            export::State::Busy => return drop(answer.send(Err(export_busy()))),
            export::State::None => {}
        }
        let status = self.engine.status();
        if let Err(why) = export::allowed(status.role, status.disk, status.frozen.as_deref()) {
            return drop(answer.send(Err(problem(409, "not-exportable", "Cannot be exported", why))));
        }
        self.export = export::State::Busy;
        let (store, mut config) = (self.store.clone(), self.engine.config().clone());
        config.size_bytes = self.engine.exportable();
        let run_dir = self.shared.options.run_dir.clone();
        self.apart(answer, move || Export::start(&store, &config, &run_dir).map(|e| Some(Box::new(e))));
    }

    pub(super) fn end_export(&mut self, answer: Option<Answer>) {
        match std::mem::take(&mut self.export) {
            export::State::None => {
                if let Some(answer) = answer {
                    let _ = answer.send(Ok(()));
                }
            }
            export::State::Busy => {
                self.export = export::State::Busy;
                if let Some(answer) = answer {
                    let _ = answer.send(Err(export_busy()));
                }
            }
            export::State::Serving(export) => {
                self.export = export::State::Busy;
                let store = self.store.clone();
                self.apart(answer, move || {
                    export.end(&store);
                    Ok(None)
                });
            }
        }
    }

    /// Runs what blocks on a thread of its own; its outcome comes as an input.
    fn apart(
        &mut self,
        answer: impl Into<Option<Answer>>,
        work: impl FnOnce() -> Result<Option<Box<Export>>, String> + Send + 'static,
    ) {
        let (door, answer) = (self.handle.door.clone(), answer.into());
        let run = move || {
            // An error means that the volume was detached meanwhile.
            let _ = door.send(Input::ExportDone(work(), answer));
        };
        if let Err(error) = std::thread::Builder::new().name("export".into()).spawn(run) {
            self.export = export::State::None;
            tracing::error!(%error, "cannot start a thread for an export");
        }
    }

    pub(super) fn export_done(
        &mut self,
        outcome: Result<Option<Box<Export>>, String>,
        answer: Option<Answer>,
    ) {
        let volume = &self.engine.config().volume;
        let result = match outcome {
            Ok(Some(export)) => {
                tracing::info!(%volume, uri = export.status().uri, "a snapshot is served for backup");
                self.export = export::State::Serving(export);
                Ok(())
            }
            Ok(None) => {
                tracing::info!(%volume, "the snapshot for backup has ended");
                self.export = export::State::None;
                Ok(())
            }
            Err(why) => {
                self.export = export::State::None;
                Err(problem(500, "export", "Cannot be exported", why))
            }
        };
        self.publish();
        self.shared.version.send_modify(|v| *v += 1);
        if let Some(answer) = answer {
            let _ = answer.send(result);
        }
    }

    pub(super) fn look_at_export(&mut self) {
        if let export::State::Serving(export) = &mut self.export
            && export.is_forgotten(clock::now())
        {
            tracing::warn!(volume = %self.engine.config().volume, "nobody has used the snapshot for an hour: it ends");
            self.end_export(None);
        }
    }
}

fn export_busy() -> Problem {
    problem(409, "export-busy", "Export is being changed", "an export is just being made or ended; try again")
}
