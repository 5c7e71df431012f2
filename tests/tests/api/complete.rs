//! Every method has a route and a verb, every route is described, and the plain doors say how a member is.

use super::*;

/// Methods of the public protos, as `NodeService.Drain`; those that stream from the client apart.
fn methods() -> (BTreeSet<String>, BTreeSet<String>) {
    let files = [
        include_str!("../../../proto/quorate/v1/cluster.proto"),
        include_str!("../../../proto/quorate/v1/nodes.proto"),
        include_str!("../../../proto/quorate/v1/containers.proto"),
        include_str!("../../../proto/quorate/v1/templates.proto"),
        include_str!("../../../proto/quorate/v1/storages.proto"),
        include_str!("../../../proto/quorate/v1/events.proto"),
    ];
    let (mut plain, mut streamed) = (BTreeSet::new(), BTreeSet::new());
    for text in files {
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.trim_end_matches(" {");
            } else if let Some((name, rest)) = line.strip_prefix("rpc ").and_then(|rest| rest.split_once('(')) {
                let kind = if rest.starts_with("stream ") { &mut streamed } else { &mut plain };
                kind.insert(format!("{service}.{name}"));
            }
        }
    }
    (plain, streamed)
}

#[test]
fn every_method_has_a_route_and_a_verb() {
    let (methods, streamed) = methods();
    assert!(methods.len() > 35, "{methods:?}");
    let routed = |path: &str| path.trim_start_matches("/quorate.v1.").replace('/', ".");
    let routes: BTreeSet<String> = rest::routes().iter().map(|route| routed(&route.grpc_path)).collect();
    assert_eq!(routes, methods, "an rpc without its HTTP annotation, or the other way round");
    let verbs = run("quoratectl", &["verbs"], &[]);
    assert_eq!(verbs.code, Some(0), "{verbs:?}");
    let verbs: BTreeSet<String> = verbs.out.lines().map(str::to_owned).collect();
    let missing: Vec<&String> = methods.difference(&verbs).collect();
    assert!(missing.is_empty(), "no verb of quoratectl calls {missing:?}");
    let known: BTreeSet<String> = methods.union(&streamed).cloned().collect();
    let strange: Vec<&String> = verbs.difference(&known).collect();
    assert!(strange.is_empty(), "quoratectl calls what is not there: {strange:?}");
}

#[test]
fn openapi_describes_every_route_and_nothing_else() {
    let cluster = Cluster::start("openapi", 1, "default");
    let answer = cluster.members[0].get("/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.good();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{}", document["openapi"]);
    let mut described = BTreeSet::new();
    for (path, verbs) in document["paths"].as_object().expect("paths") {
        for (verb, operation) in verbs.as_object().expect("verbs").iter().filter(|(verb, _)| *verb != "parameters") {
            described.insert(format!("{} {path}", verb.to_uppercase()));
            let text = operation["description"].as_str().or(operation["summary"].as_str()).unwrap_or_default();
            assert!(!text.is_empty(), "{verb} {path} is not described");
            assert!(operation["responses"]["200"].is_object(), "{verb} {path} has no good answer");
            for name in path.split('{').skip(1).filter_map(|part| part.split('}').next()) {
                let all = [&operation["parameters"], &verbs["parameters"]];
                let mut parameters = all.into_iter().filter_map(Value::as_array).flatten();
                let found = parameters.any(|it| it["name"] == name && it["in"] == "path" && it["required"] == true);
                assert!(found, "{verb} {path} does not describe {name}");
            }
        }
    }
    let routes: BTreeSet<String> =
        rest::routes().iter().map(|route| format!("{} {}", route.verb.name(), one_word(&route.template))).collect();
    assert_eq!(described, routes);
    // Every reference leads somewhere.
    let mut left = vec![&document];
    while let Some(value) = left.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        left.extend(value.as_object().into_iter().flat_map(|object| object.values()));
        left.extend(value.as_array().into_iter().flatten());
    }
}

/// `/v1/storages/{storage.name}` is described as `/v1/storages/{storage}`: generators take a parameter for an identifier.
fn one_word(template: &str) -> String {
    match (template.find('.'), template.find('}')) {
        (Some(dot), Some(end)) if dot < end => format!("{}{}", &template[..dot], &template[end..]),
        _ => template.to_owned(),
    }
}

#[test]
fn plain_doors_say_how_the_member_is() {
    let mut cluster = Cluster::start("doors", 3, "fast");
    let leader = cluster.leader();
    for member in &cluster.members {
        assert_eq!(member.get("/healthz").body, "ok\n");
        assert_eq!(member.get("/readyz").status, 200);
    }
    let metrics = cluster.members[leader].get("/metrics");
    assert_eq!(metrics.status, 200);
    let mut named = BTreeSet::new();
    for line in metrics.body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(name.starts_with("quorate_"), "{line}");
        assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line} has no value");
        let base = ["_total", "_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        named.insert(base.unwrap_or(name));
    }
    for name in &named {
        let help = metrics.body.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.len() > 10), "{name} has no HELP");
        assert!(metrics.body.contains(&format!("# TYPE {name} ")), "{name} has no TYPE");
    }
    for about in ["raft", "lease", "fail", "decision", "store"] {
        assert!(named.iter().any(|name| name.contains(about)), "nothing about {about}: {named:?}");
    }
    // Without a majority a member lives and is not ready, and says why.
    for at in 0..3 {
        if at != leader {
            cluster.members[at].kill();
        }
    }
    let answer = until("it notices", || {
        let answer = cluster.members[leader].get("/readyz");
        (answer.status == 503).then_some(answer)
    });
    assert!(answer.body.starts_with("no-quorum"), "{answer:?}");
    assert_eq!(cluster.members[leader].get("/healthz").status, 200);
    let answer = cluster.members[leader].get("/v1/cluster");
    assert_eq!(answer.good()["standing"], "MEMBER_STANDING_LEADERLESS");
}
