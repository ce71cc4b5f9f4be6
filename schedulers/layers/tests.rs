// SPDX-License-Identifier: GPL-2.0-only
//! Rules: what they are compiled into, and what is said of mistakes.

use proptest::prelude::*;

use super::*;

fn compiled(text: &str) -> Box<layers_config> {
    compile_for(text, 8).unwrap_or_else(|error| panic!("{error:#}"))
}

/// What is said of a mistake: one line.
fn refused(text: &str) -> String {
    let message = format!("{:#}", compile_for(text, 8).err().unwrap_or_else(|| panic!("accepted: {text}")));
    assert!(!message.contains('\n'), "{message}");
    message
}

/// CPUs of each layer.
fn cpus(config: &layers_config) -> Vec<Vec<usize>> {
    let of = |layer| (0..MAX_CPUS).filter(|cpu| config.cpu_layers[*cpu] & 1u16 << layer != 0).collect();
    (0..config.nr_layers).map(of).collect()
}

/// The beginning of a name that is compared, as text; `$` is its end.
fn shown(text: &[u8], len: u32) -> String {
    String::from_utf8(text[..len as usize].to_vec()).unwrap().replace('\0', "$")
}

#[test]
fn nothing_said_is_one_layer_that_has_all() {
    let config = compiled("");
    assert_eq!((config.nr_layers, config.nr_rules, config.conditions), (1, 0, 0));
    assert_eq!(cpus(&config), [(0..8).collect::<Vec<_>>()]);
    for queue in &config.queues[..2] {
        assert_eq!((queue.share, queue.slice_ns, queue.everywhere, queue.preempt), (100, 0, 1, 0));
    }
    assert_eq!(compile("").unwrap().len(), size_of::<layers_config>());
}

#[test]
fn the_example_says_what_it_says() {
    let config = compiled(include_str!("example.toml"));
    assert_eq!((config.nr_layers, config.nr_rules, config.some_preempt), (3, 5, 1));
    let all: Vec<_> = (0..8).collect();
    assert_eq!(cpus(&config), [all.clone(), vec![2, 3], all]);
    let queues: Vec<_> = config.queues[..4]
        .iter()
        .map(|queue| (queue.share, queue.slice_ns / 1000, queue.preempt, queue.everywhere))
        .collect();
    assert_eq!(queues, [(300, 2000, 1, 1), (50, 20_000, 0, 0), (100, 0, 0, 1), (100, 0, 0, 1)]);
    let layers: Vec<_> = config.rules[..5].iter().map(|rule| rule.layer).collect();
    assert_eq!(layers, [0, 0, 1, 1, 1]);
    let [cgroup, comm, nice, threads, hint] = &config.rules[..5] else { panic!() };
    let names: Vec<_> =
        cgroup.path[..2].iter().map(|name| &config.names[*name as usize]).map(|n| shown(&n.text, n.len)).collect();
    assert_eq!((cgroup.depth, names), (2, vec!["system.slice$".to_owned(), "nginx".into()]));
    assert_eq!(shown(&comm.comm, comm.comm_len), "nginx$");
    assert_eq!(nice.nice, [1, i32::MAX]);
    assert_eq!((threads.uid, threads.threads), (1000, [17, u32::MAX]));
    let both = intf::layers_conditions_LAYERS_UID | intf::layers_conditions_LAYERS_THREADS;
    assert_eq!((threads.conditions, hint.class_), (both, 2));
}

#[test]
fn a_layer_for_all_others_is_added_if_there_is_none() {
    let config = compiled("[[layer]]\nname = 'a'\nmatch = [{ comm = 'a*' }, { comm = 'a-rather-long-name' }]");
    assert_eq!(config.nr_layers, 2);
    assert_eq!(shown(&config.rules[0].comm, config.rules[0].comm_len), "a");
    // As the kernel cuts it.
    assert_eq!(shown(&config.rules[1].comm, config.rules[1].comm_len), "a-rather-long-n$");
}

#[test]
fn exclusive_cpus_are_taken_from_the_others() {
    let config = compiled(
        "[[layer]]\nname = 'a'\nmatch = [{ uid = 1 }]\ncpus = '1, 3-4'\nexclusive = true\n\
         [[layer]]\nname = 'b'\nmatch = [{ uid = 2 }]\ncpus = '0-3'\n",
    );
    assert_eq!(cpus(&config), [vec![1, 3, 4], vec![0, 2], vec![0, 2, 5, 6, 7]]);
    assert_eq!(config.queues[2].everywhere, 0);
}

#[test]
fn names_of_cgroups_are_kept_once() {
    let rules = "[[layer]]\nname = 'a'\nmatch = [{ cgroup = '/x/y' }, { cgroup = '/sys/fs/cgroup/x*/y/' }]";
    let config = compiled(rules);
    assert_eq!(config.rules[0].path[..2], [0, 1]);
    assert_eq!(config.rules[1].path[..2], [2, 1]);
}

#[test]
fn each_mistake_is_said_in_one_line() {
    let layer = |rest: &str| format!("[[layer]]\nname = 'a'\n{rest}");
    let rule = |rest: &str| layer(&format!("match = [{{ {rest} }}]"));
    for (text, says) in [
        ("[[layer]\nname = 'a'".into(), "line 1: "),
        ("x = ".into(), "line 1: "),
        ("[[layers]]\nname = 'a'".into(), "line 1: unknown field `layers`, expected `layer`"),
        ("[[layer]]\nshare = 5".into(), "line 1: missing field `name`"),
        (layer("nice = 5"), "line 3: unknown field `nice`, expected one of `name`, `match`, "),
        (layer("share = 0"), "line 3: a share of 0 is out of range: 1 to 10000"),
        (layer("share = 10001"), "line 3: a share of 10001 is out of range"),
        (layer("share = 'much'"), "line 3: invalid type: string \"much\""),
        (layer("slice = '2 parsecs'"), "line 3: slice: unknown unit \" parsecs\""),
        (layer("slice = '1us'"), "line 3: a slice of 1us is out of range: 100us to 100ms"),
        (layer("slice = 5"), "line 3: invalid type: integer `5`"),
        (layer("cpus = '0-'"), "line 3: \"0-\" is no list of CPUs, such as 0-3,6"),
        (layer("cpus = '3-1'"), "line 3: \"3-1\" is no list of CPUs"),
        (layer("cpus = '0-18446744073709551615'"), "line 3: there is no CPU 18446744073709551615"),
        (layer("cpus = '6-8'"), "line 1: layer \"a\": there is no CPU 8 here; they are 0-7"),
        (layer("exclusive = true"), "line 1: layer \"a\" is exclusive: say on which `cpus`"),
        (layer("match = []"), "line 1: layer \"a\" matches nobody: `match` is an empty list"),
        (layer("match = [{}]"), "line 3: layer \"a\": a rule without conditions"),
        (rule("name = 'x'"), "line 3: unknown field `name`, expected one of `comm`, `cgroup`, "),
        (rule("comm = '*x'"), "line 3: \"*x\": of patterns only a * at the end of a name is known"),
        (rule("comm = ''"), "line 3: a name is empty"),
        (rule("cgroup = '/'"), "line 3: \"/\" is every cgroup"),
        (rule("cgroup = 'a//b'"), "line 3: cgroup \"a//b\": a name is empty"),
        (rule("cgroup = '1/2/3/4/5/6/7/8/9'"), "line 3: \"1/2/3/4/5/6/7/8/9\" is 9 cgroups deep, 8 can be"),
        (rule("uid = -1"), "line 3: invalid value: integer `-1`"),
        (rule("hint = 'slow'"), "line 3: unknown variant `slow`, expected `latency` or `batch`"),
        (rule("nice_above = 5, nice_below = 6"), "line 3: layer \"a\": no nice value is in this range"),
        (rule("threads_above = 5, threads_below = 3"), "line 3: layer \"a\": no number of threads"),
        (layer("[[layer]]\nname = 'b'"), "line 3: layer \"b\" gets nobody: the one before it matches all"),
        (rule("uid = 1") + "\n[[layer]]\nname = 'a'", "line 4: layer \"a\": there is one of this name already"),
        ("[[layer]]\nname = ''".into(), "line 1: layer \"\" has an empty name"),
        (
            rule("uid = 1") + "\ncpus = '0-7'\nexclusive = true",
            "tasks that no rule matches: no CPU is left for them",
        ),
    ] {
        let message = refused(&text);
        assert!(message.starts_with(says), "{text}\n{message}\nexpected: {says}");
    }
    let exclusive = "cpus = '0-1'\nexclusive = true\nmatch = [{ uid = 1 }]\n";
    let two = format!("[[layer]]\nname = 'a'\n{exclusive}[[layer]]\nname = 'b'\n{exclusive}");
    assert_eq!(refused(&two), "line 6: layer \"b\": CPU 0 is exclusive to \"a\" already");
    assert!(refused(&rule(&format!("cgroup = '{}'", "x".repeat(127)))).contains("more than 126 bytes"));
}

#[test]
fn there_may_be_so_many_and_no_more() {
    let layers = |count| (0..count).map(|n| format!("[[layer]]\nname = '{n}'\nmatch = [{{ uid = {n} }}]\n"));
    assert_eq!(compiled(&layers(MAX_LAYERS - 1).collect::<String>()).nr_layers as usize, MAX_LAYERS);
    let message = refused(&layers(MAX_LAYERS).collect::<String>());
    assert!(message.contains("is one too many: 15 layers at most"), "{message}");
    let rules = |count: usize, one: &dyn Fn(usize) -> String| {
        let rules: Vec<_> = (0..count).map(one).collect();
        format!("[[layer]]\nname = 'a'\nmatch = [{}]", rules.join(","))
    };
    let uid = |n: usize| format!("{{ uid = {n} }}");
    assert_eq!(compiled(&rules(MAX_RULES, &uid)).nr_rules as usize, MAX_RULES);
    assert!(refused(&rules(MAX_RULES + 1, &uid)).contains("64 rules at most"));
    let path = |n: usize| format!("{{ cgroup = 'a{n}/b{n}/c{n}' }}");
    assert!(refused(&rules(MAX_RULES, &path)).contains("128 names of cgroups at most"));
}

proptest! {
    /// Whatever somebody writes, it is compiled or refused in a line.
    #[test]
    fn nothing_that_is_written_does_harm(
        text in "(\\[\\[layer\\]\\]\n|name = '[a-z]?'\n|share = -?[0-9]{1,20}\n|cpus = '[0-9,-]{0,8}'\n|match = \\[\\{ (uid|comm|cgroup|nice_above) = ('[a-z/*]{0,6}'|-?[0-9]{1,11}) \\}\\]\n|exclusive = true\n|.){0,20}",
    ) {
        if let Err(error) = compile_for(&text, 8) {
            prop_assert!(!format!("{error:#}").contains('\n'), "{:#}", error);
        }
    }
}
