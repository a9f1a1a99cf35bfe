//! Connections outlive the one under them: a way that is cut or dies in silence, a gateway that is killed, a network that changes.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use devbox_tests::networks::{FAR, NEAR, Networks};
use devbox_tests::peers::Drip;
use devbox_tests::relay::Relay;
use devbox_tests::{
    Caller, CatalogFile, Exit, Gateway, Invocation, Outcome, Process, Result, Scene, Service, Signal,
    need_program, scenario, wait,
};

const PORT: u16 = 7800;

/// A download by name in a `devbox exec`, and where it has got to.
struct Download {
    process: Process,
    file: PathBuf,
}

impl Download {
    fn start(scene: &Scene, exec: Invocation<'_>) -> Result<Download> {
        need_program("bash", "bash")?;
        let file = scene.folder().join(format!("download-{}", scene.unique()));
        std::fs::write(&file, "")?;
        scene.give(&file, exec_caller())?;
        let script = format!("exec 3<>/dev/tcp/drip.demo/{PORT} && cat <&3 >{}", file.display());
        let process = exec
            .args(["--", "bash", "-c"])
            .args([script])
            .by(exec_caller())
            .start()?;
        Ok(Download { process, file })
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |found| found.len())
    }

    /// Waits until there is more than at the moment; how long that took.
    fn goes_on(&self, within: Duration) -> Result<Duration> {
        let (asked, bytes) = (Instant::now(), self.bytes());
        wait::until("more of the download", within, || {
            (self.bytes() > bytes).then_some(())
        })?;
        Ok(asked.elapsed())
    }

    /// For how long nothing came, at the longest, from then on and within so long.
    fn longest_pause(&self, from: Instant, within: Duration) -> Result<Duration> {
        let (mut last, mut bytes, mut longest) = (from, self.bytes(), Duration::ZERO);
        wait::stays("a download that is under way", within, || {
            let found = self.bytes();
            if found != bytes {
                longest = longest.max(last.elapsed());
                (bytes, last) = (found, Instant::now());
            }
            true
        })?;
        Ok(longest.max(last.elapsed()))
    }

    fn ends_whole(mut self) -> Result {
        let exit = self.process.wait(Duration::from_secs(60))?;
        ensure!(exit == Exit::Code(0), "{exit}: {}", self.process.everything());
        let bytes = std::fs::read(&self.file)?;
        ensure!(bytes == Drip::content(), "{} bytes, or others", bytes.len());
        Ok(())
    }

    fn ends_reset(mut self) -> Result {
        let exit = self.process.wait(Duration::from_secs(60))?;
        let said = self.process.everything();
        ensure!(
            exit != Exit::Code(0),
            "an incomplete download ended as if it were whole: {said}"
        );
        ensure!(said.contains("reset by peer"), "{exit}: {said}");
        ensure!(self.bytes() < Drip::content().len() as u64);
        Ok(())
    }
}

/// Root, which needs no user namespace for `exec`, or whoever runs the tests.
fn exec_caller() -> Caller {
    Caller::own()
}

fn catalog(scene: &Scene, drip: &Drip) -> Result<CatalogFile> {
    scene.catalog(&[Service::new("drip", "demo", PORT, drip.address())])
}

/// `devbox exec` by way of a relay.
fn exec_over<'a>(scene: &'a Scene, gateway: &Gateway<'_>, relay: &Relay) -> Result<Invocation<'a>> {
    let tokens = gateway.token_file(exec_caller())?;
    exec(
        scene,
        scene.devbox(["exec"])?,
        &relay.address().to_string(),
        &tokens,
    )
}

fn exec<'a>(scene: &Scene, exec: Invocation<'a>, at: &str, tokens: &Path) -> Result<Invocation<'a>> {
    Ok(exec
        .args(["--gateway".to_owned(), format!("ws://{at}")])
        .args([OsString::from("--token-file"), tokens.into()])
        .args(["--env", scene.environment()]))
}

#[test]
fn a_download_is_whole_through_twenty_cuts() -> Outcome {
    scenario(|scene| {
        let drip = Drip::start(scene)?;
        let gateway = Gateway::start(scene, &catalog(scene, &drip)?)?;
        let relay = Relay::start(scene, gateway.address())?;
        let download = Download::start(scene, exec_over(scene, &gateway, &relay)?)?;
        for cut in 0..20 {
            download
                .goes_on(wait::SOON)
                .with_context(|| format!("after cut {cut}: {}", download.process.everything()))?;
            // What came before the last cut may still be on its way to the file.
            wait::until("a connection to cut", wait::SOON, || {
                (relay.cut() > 0).then_some(())
            })?;
        }
        download.ends_whole()?;
        ensure!(relay.accepted() > 20);
        ensure!(drip.accepted() == 1, "it was one connection all the while");
        Ok(())
    })
}

#[test]
fn a_gateway_that_is_killed_resets_what_was_open_and_serves_what_is_new() -> Outcome {
    scenario(|scene| {
        let drip = Drip::start(scene)?;
        let mut gateway = Gateway::start(scene, &catalog(scene, &drip)?)?;
        let relay = Relay::start(scene, gateway.address())?;
        let download = Download::start(scene, exec_over(scene, &gateway, &relay)?)?;
        download.goes_on(wait::SOON)?;
        gateway.kill()?;
        gateway.start_again()?;
        download.ends_reset()?;
        let again = Download::start(scene, exec_over(scene, &gateway, &relay)?)?;
        again.ends_whole()
    })
}

#[test]
fn a_way_that_dies_in_silence_is_noticed_within_20_s_and_the_download_goes_on() -> Outcome {
    scenario(|scene| {
        let drip = Drip::start(scene)?;
        let gateway = Gateway::start(scene, &catalog(scene, &drip)?)?;
        let relay = Relay::start(scene, gateway.address())?;
        let download = Download::start(scene, exec_over(scene, &gateway, &relay)?)?;
        download.goes_on(wait::SOON)?;
        relay.freeze();
        let pause = download.longest_pause(Instant::now(), Duration::from_secs(23))?;
        ensure!(
            (Duration::from_secs(2)..Duration::from_secs(20)).contains(&pause),
            "{pause:?}"
        );
        download.ends_whole()?;
        ensure!(drip.accepted() == 1, "it was one connection all the while");
        Ok(())
    })
}

#[test]
fn a_download_goes_on_within_2_s_of_a_change_of_address() -> Outcome {
    scenario(|scene| {
        let networks = Networks::start(scene)?;
        let drip = networks.at_the_far_side(|| Drip::start(scene))?;
        let caller = exec_caller();
        let tokens = scene.write_secret("token", format!("{}\n", devbox_tests::TOKEN), caller)?;
        let in_far = networks.far();
        let program = scene.devbox_program()?.into_os_string();
        let netns = |name: &str| {
            let words = ["ip", "netns", "exec", name].map(OsString::from);
            scene.command(words.into_iter().chain([program.clone()]))
        };
        // The namespace is this test's own, and so are its ports.
        let at = format!("{FAR}:7801");
        let mut gateway = netns(&in_far)
            .args(["gateway", "serve", "--insecure", "--listen", &at, "--catalog"])
            .args([catalog(scene, &drip)?.path()])
            .args([OsString::from("--token-file"), tokens.clone().into()])
            .by(caller)
            .start()?
            .stop_with(Signal::TERM);
        wait::until("a gateway that listens", wait::SOON, || {
            gateway.output().contains("listening").then_some(())
        })?;

        let download = Download::start(
            scene,
            exec(
                scene,
                netns(&networks.near()).args(["exec", "--insecure"]),
                &at,
                &tokens,
            )?,
        )?;
        download.goes_on(wait::SOON)?;
        let mut before = NEAR;
        for last in [3, 4] {
            let after = std::net::Ipv4Addr::new(10, 201, 0, last);
            networks.change(&format!("addr del {before}/24 dev cable"))?;
            networks.change(&format!("addr add {after}/24 dev cable"))?;
            before = after;
            let changed = Instant::now();
            let pause = download.longest_pause(changed, Duration::from_secs(3))?;
            ensure!(
                (Duration::from_millis(500)..Duration::from_secs(2)).contains(&pause),
                "{pause:?}: {}",
                download.process.everything()
            );
        }
        download.ends_whole()?;
        ensure!(drip.accepted() == 1, "it was one connection all the while");
        gateway.signal(Signal::TERM)?;
        gateway.wait(wait::SOON)?;
        networks.at_the_far_side(|| {
            drop(drip);
            Ok(())
        })
    })
}
