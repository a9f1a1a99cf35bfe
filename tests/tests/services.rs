//! Other people's programs reach other people's services by name, in every way: beside `devbox up` and inside `devbox exec`, as
//! root and as an ordinary user.
#![cfg(target_os = "linux")]

use anyhow::ensure;
use devbox_tests::services::{GitDaemon, Nginx, Postgres, Redis, Rsyncd, Sshd, bare_repository};
use devbox_tests::{Caller, Gateway, Outcome, Road, Service, need_program, scenario, wait};

#[test]
fn psql_queries_postgres() -> Outcome {
    scenario(|scene| {
        let postgres = Postgres::start(scene)?;
        let port = scene.port_like(5432)?;
        let catalog = scene.catalog(&[Service::new("orders", "backend", port, postgres.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        Road::each(&gateway, |road| {
            let to = format!("host=orders.backend port={port} user=dev dbname=postgres connect_timeout=10");
            let query = "select 6*7; select sum(length(repeat('x', 1000))) from generate_series(1, 3000)";
            let out = road
                .command(["psql", &to, "-X", "-Atc", query])?
                .run(2 * wait::SOON)?
                .expect_success()?;
            ensure!(out.output() == "42\n3000000\n", "{}", out.output());
            // 3 MB as rows, not as one value.
            let rows = "copy (select repeat('y', 1000) from generate_series(1, 3000)) to stdout";
            let out = road
                .command(["psql", &to, "-X", "-qc", rows])?
                .run(2 * wait::SOON)?
                .expect_success()?;
            ensure!(out.stdout.len() == 3000 * 1001, "{} bytes", out.stdout.len());
            Ok(())
        })
    })
}

#[test]
fn redis_benchmark_runs_against_redis() -> Outcome {
    scenario(|scene| {
        let redis = Redis::start(scene)?;
        let port = scene.port_like(6379)?;
        let catalog = scene.catalog(&[Service::new("cache", "backend", port, redis.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        Road::each(&gateway, |road| {
            let out = road
                .command(["redis-benchmark", "-h", "cache.backend", "-p", &port.to_string()])?
                .args(["-q", "-c", "50", "-n", "2000", "-t", "ping,set,get,lrange_100"])
                .run(3 * wait::SOON)?
                .expect_success()?;
            ensure!(
                out.output().matches("requests per second").count() >= 4,
                "{}",
                out.output()
            );
            ensure!(!out.everything().contains("Error"), "{}", out.everything());
            Ok(())
        })
    })
}

#[test]
fn curl_fetches_from_nginx_under_every_name() -> Outcome {
    scenario(|scene| {
        need_program("curl", "curl")?;
        let nginx = Nginx::start(scene)?;
        let port = scene.port_like(8080)?;
        let catalog = scene.catalog(&[Service::new("web", "frontend", port, nginx.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let own = format!("web.frontend.{}", scene.environment());
        let names = [
            "web.frontend",
            "web.frontend.svc",
            "web.frontend.svc.cluster.local",
            &own,
        ];
        let urls: Vec<String> = names
            .iter()
            .map(|name| format!("http://{name}:{port}/"))
            .collect();
        Road::each(&gateway, |road| {
            let curl = road
                .command(["curl", "-sS", "--fail", "--max-time", "10"])?
                .args(&urls);
            let out = curl.run(2 * wait::SOON)?.expect_success()?;
            ensure!(
                out.output() == "hello from nginx\n".repeat(names.len()),
                "{}",
                out.output()
            );
            Ok(())
        })
    })
}

#[test]
fn ssh_git_and_rsync_ride_on_sshd() -> Outcome {
    scenario(|scene| {
        need_program("rsync", "rsync")?;
        let sshd = Sshd::start(scene)?;
        let repository = bare_repository(scene, Caller::own())?;
        let port = scene.port_like(2222)?;
        let catalog = scene.catalog(&[Service::new("shell", "ops", port, sshd.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let here = repository.display();
        Road::each(&gateway, |road| {
            let ssh = sshd.client(scene, road.caller(), "shell.ops", port)?.join(" ");
            let to = format!("clone-{}", scene.unique());
            let script = format!(
                "set -e; test \"$(echo to the far side | {ssh} shell.ops 'cat; exit 7' || echo $?)\" = 'to the far side\n7'; \
                 GIT_SSH_COMMAND='{ssh}' git clone -q ssh://shell.ops{here}/things.git {to}; \
                 rsync -rt -e '{ssh}' shell.ops:{here}/source/noise {to}-noise; cmp {to}-noise {to}/noise"
            );
            road.command(["sh", "-c", &script])?
                .run(3 * wait::SOON)?
                .expect_success()?;
            Ok(())
        })
    })
}

#[test]
fn git_and_rsync_reach_their_own_daemons() -> Outcome {
    scenario(|scene| {
        let repository = bare_repository(scene, Caller::Ordinary)?;
        let git = GitDaemon::start(scene, &repository)?;
        let rsyncd = Rsyncd::start(scene, &repository)?;
        let (git_port, rsync_port) = (scene.port_like(9418)?, scene.port_like(8730)?);
        let catalog = scene.catalog(&[
            Service::new("things", "ops", git_port, git.address()).port(rsync_port, rsyncd.address())
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        Road::each(&gateway, |road| {
            let to = format!("clone-{}", scene.unique());
            let script = format!(
                "set -e; git clone -q git://things.ops:{git_port}/things.git {to}; \
                 rsync -rt rsync://things.ops:{rsync_port}/things/source/noise {to}-noise; cmp {to}-noise {to}/noise"
            );
            road.command(["sh", "-c", &script])?
                .run(3 * wait::SOON)?
                .expect_success()?;
            Ok(())
        })
    })
}
