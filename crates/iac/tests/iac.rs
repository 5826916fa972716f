//! Files to plans to a cloud that is a map: errors point at their places, a second plan is empty, nothing is left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use atoll_iac::{
    Catalogue, Change, Cloud, CloudError, EngineError, Inventory, Plan, Resource, ResourceId, SourceFile, Stack, engine,
};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

struct Apps;

impl Catalogue for Apps {
    fn version(&self, app: &str) -> Option<String> {
        ["guestbook", "website"].contains(&app).then(|| "1.0.0".to_owned())
    }

    fn names(&self) -> Vec<String> {
        vec!["guestbook".into(), "website".into()]
    }
}

const HELLO: &str = include_str!("../../../examples/hello/stack.yaml");

fn read(texts: &[&str]) -> Result<Stack, String> {
    let file = |(index, text): (usize, &&str)| SourceFile { name: format!("{index}.yaml"), text: (*text).to_owned() };
    let files: Vec<SourceFile> = texts.iter().enumerate().map(file).collect();
    Stack::read(&files, &Apps).map_err(|it| it.to_string())
}

/// A cloud that is a map and, as a server does, adds fields of its own. It fails after `left` writes.
#[derive(Default)]
struct Memory {
    there: Mutex<BTreeMap<ResourceId, Json>>,
    inventory: Mutex<Option<Json>>,
    left: Mutex<Option<usize>>,
}

impl Memory {
    fn spend(&self) -> Result<(), CloudError> {
        match &mut *self.left.lock().unwrap() {
            Some(0) => return Err(CloudError::Unavailable("cut off".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

/// Takes away what was written the last time and is not any more, and lays the new over what is there.
fn lay(there: &mut Json, new: &Json, last: Option<&Json>) {
    match (there, new) {
        (Json::Object(there), Json::Object(new)) => {
            for key in last.and_then(Json::as_object).into_iter().flat_map(serde_json::Map::keys) {
                if !new.contains_key(key) {
                    there.remove(key);
                }
            }
            for (key, value) in new {
                let last = last.and_then(|it| it.get(key));
                lay(there.entry(key.clone()).or_insert(Json::Null), value, last);
            }
        }
        (there, new) => *there = new.clone(),
    }
}

impl Cloud for Memory {
    async fn get(&self, id: &ResourceId) -> Result<Option<Json>, CloudError> {
        Ok(self.there.lock().unwrap().get(id).cloned())
    }

    async fn apply(&self, resource: &Resource, last: Option<&Json>) -> Result<(), CloudError> {
        self.spend()?;
        let mut there = self.there.lock().unwrap();
        for need in &resource.needs {
            assert!(there.contains_key(need), "{} before {need}", resource.id);
        }
        let slot = there.entry(resource.id.clone()).or_insert(Json::Null);
        lay(slot, &resource.spec, last);
        slot["status"] = json!({ "uid": 7 });
        Ok(())
    }

    async fn delete(&self, id: &ResourceId) -> Result<(), CloudError> {
        self.spend()?;
        self.there.lock().unwrap().remove(id);
        Ok(())
    }

    async fn load(&self, _: &str) -> Result<Option<Json>, CloudError> {
        Ok(self.inventory.lock().unwrap().clone())
    }

    async fn store(&self, _: &str, inventory: Option<&Json>) -> Result<(), CloudError> {
        self.spend()?;
        *self.inventory.lock().unwrap() = inventory.cloned();
        Ok(())
    }
}

async fn apply(cloud: &Memory, stack: &Stack) -> Result<Plan, EngineError> {
    let plan = engine::plan(cloud, stack).await?;
    engine::apply(cloud, &plan, &|_| {}).await?;
    Ok(plan)
}

#[test]
fn nine_lines_describe_it_all() {
    assert_eq!(HELLO.lines().count(), 9);
    let stack = read(&[HELLO]).unwrap();
    let ids: Vec<String> = stack.resources.keys().map(ToString::to_string).collect();
    assert_eq!(ids[..5], ["lease/home/1", "lease/home/2", "lease/home/3", "lease/home/4", "lease/home/5"]);
    assert_eq!(ids[5..], ["evdc/home", "app/default/guestbook"]);
    let lease = &stack.resources[&ids[0].parse().unwrap()];
    assert_eq!(lease.spec, json!({ "cpuMillis": 1000, "memoryBytes": 1_u64 << 30, "storageBytes": 4_u64 << 30 }));
    let app = &stack.resources[&ids[5].parse().unwrap()];
    assert_eq!(app.spec["values"]["image"]["tag"], "1.0.0");
    for id in stack.resources.keys() {
        assert_eq!(&id.to_string().parse::<ResourceId>().unwrap(), id);
    }
}

#[test]
fn errors_point_at_what_is_wrong() {
    let check = |from: &str, to: &str, expect: &str| {
        assert!(HELLO.contains(from), "{from}");
        assert_eq!(read(&[&HELLO.replacen(from, to, 1)]).unwrap_err(), expect, "{to}");
    };
    check("  nodes: 5", "  nods: 5", "0.yaml:4:3: evdc has no nods: did you mean nodes?");
    check("nodes: 5", "nodes: many", "0.yaml:4:10: evdc.nodes must be a whole number from 1 to 1000");
    check("memory: 1Gi", "memory: 1Gx", "0.yaml:5:26: each.memory must be a quantity such as 1Gi");
    check(", storage: 4Gi", "", "0.yaml:5:9: each lacks storage");
    check("  guestbook:", "  guestbok:", "0.yaml:8:3: no application guestbok: did you mean guestbook?");
    check("name: home", "name: Home", &format!("0.yaml:3:9: evdc.name \"Home\": {NAME}"));
    check("gateway: atoll.test", "gateway: a b", "0.yaml:6:10: gateway \"a b\" must be a domain such as example.org");
    check("stack: hello", "stak: hello", "0.yaml:1:1: no document has the key stack, which names the stack");
    check("values: {", "valus: {", "0.yaml:9:5: apps.guestbook has no valus: did you mean values?");
    let twice = read(&[HELLO, HELLO]).unwrap_err();
    assert_eq!(twice, "1.yaml:1:1: there is a second stack: a folder holds one");
    let odd = read(&[HELLO, "---\na: 1\n---\nkind: X\n"]).unwrap_err();
    assert!(odd.starts_with("1.yaml:2:1: a document is a stack or a Kubernetes object"), "{odd}");
    assert!(read(&[HELLO, "a: [1,\nb"]).unwrap_err().starts_with("1.yaml:"));
    assert!(read(&[HELLO, "a: 1\na: 2"]).unwrap_err().starts_with("1.yaml:2:1"));
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let double = read(&[HELLO, object, object]).unwrap_err();
    assert_eq!(double, "2.yaml:1:1: object/v1/ConfigMap/default/a is defined already at 1.yaml:1:1");
}

const NAME: &str = "a name has 1 to 53 lower-case letters, digits and dashes, none of them at an end";

#[tokio::test]
async fn the_life_of_a_stack() {
    let cloud = Memory::default();
    let extra = "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: more}\ndata: {a: '1', b: '2'}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: hidden}\n";
    let stack = read(&[HELLO, extra]).unwrap();
    let first = apply(&cloud, &stack).await.unwrap();
    assert!(first.text().ends_with("9 to create, 0 to change, 0 to replace, 0 to delete.\n"), "{}", first.text());
    assert!(!first.json().to_string().contains("hidden") && !first.text().contains("hidden"));
    assert!(engine::plan(&cloud, &stack).await.unwrap().changes.is_empty());

    let newer =
        read(&[&HELLO.replace("1.0.0", "1.1.0"), &extra.replace(", b: '2'", "").replace("hidden", "secret")]).unwrap();
    let plan = engine::plan(&cloud, &newer).await.unwrap();
    let text = plan.text();
    assert!(text.contains("~ app/default/guestbook\n    values.image.tag: \"1.0.0\" → \"1.1.0\"\n"), "{text}");
    assert!(
        text.contains("    data.b: \"2\" → (nothing)\n") && text.contains("stringData.k: (secret) → (secret)"),
        "{text}"
    );
    assert_eq!(plan.json()["changes"][0]["change"], "update");
    engine::apply(&cloud, &plan, &|_| {}).await.unwrap();
    assert!(engine::plan(&cloud, &newer).await.unwrap().changes.is_empty());

    // Somebody else changes one thing and deletes another.
    let (map, secret) = ("object/v1/ConfigMap/more/c".parse().unwrap(), "object/v1/Secret/default/s".parse().unwrap());
    cloud.there.lock().unwrap().get_mut(&map).unwrap()["data"]["a"] = json!("9");
    cloud.there.lock().unwrap().remove(&secret);
    let drift = engine::drift(&cloud, "hello").await.unwrap();
    assert_eq!(drift.len(), 2);
    assert_eq!((drift[0].fields[0].path.as_str(), &drift[0].fields[0].to), ("data.a", &Some(json!("9"))));
    assert!(drift[1].missing);
    apply(&cloud, &newer).await.unwrap();
    assert!(engine::drift(&cloud, "hello").await.unwrap().is_empty());

    // A smaller stack: what is not written any more goes, a lease of another size is made anew.
    let smaller = read(&[&HELLO.replace("nodes: 5", "nodes: 4").replace("1Gi", "2Gi")]).unwrap();
    let plan = apply(&cloud, &smaller).await.unwrap();
    let deleted: Vec<String> =
        plan.changes.iter().filter(|it| matches!(it, Change::Delete { .. })).map(|it| it.id().to_string()).collect();
    let place = |id: &str| deleted.iter().position(|it| it == id).unwrap();
    assert_eq!(deleted.len(), 4);
    assert!(place("object/v1/ConfigMap/more/c") < place("object/v1/Namespace/-/more"));
    assert_eq!(plan.changes.iter().filter(|it| matches!(it, Change::Replace { .. })).count(), 4);

    let gone = engine::plan_destroy(&cloud, "hello").await.unwrap();
    assert_eq!(gone.changes[0].id().to_string(), "app/default/guestbook");
    assert_eq!(gone.changes[1].id().to_string(), "evdc/home");
    engine::apply(&cloud, &gone, &|_| {}).await.unwrap();
    assert!(cloud.there.lock().unwrap().is_empty() && cloud.inventory.lock().unwrap().is_none());
}

#[tokio::test]
async fn what_the_stack_did_not_make_is_not_touched() {
    let cloud = Memory::default();
    cloud.there.lock().unwrap().insert("evdc/home".parse().unwrap(), json!({}));
    let error = engine::plan(&cloud, &read(&[HELLO]).unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("evdc/home exists and was not made by this stack"), "{error}");
    assert!(Inventory::from_json(&json!({ "version": 2 })).unwrap_err().to_string().contains("newer"));
}

fn documents() -> impl Strategy<Value = Vec<(u8, u8, BTreeMap<String, u8>)>> {
    let data = proptest::collection::btree_map("[a-c]", 0..3_u8, 0..3);
    proptest::collection::vec((0..4_u8, 0..3_u8, data), 0..8)
}

fn stack_of(nodes: u8, documents: &[(u8, u8, BTreeMap<String, u8>)]) -> Stack {
    let mut texts = BTreeMap::new();
    for (name, namespace, data) in documents {
        let meta = format!("{{name: o{name}, namespace: n{namespace}}}");
        let data: String = data.iter().map(|(key, it)| format!("  {key}: 'v{it}'\n")).collect();
        texts.insert((*name, *namespace), format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {meta}\ndata:\n{data}"));
        let own = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{namespace}}}\n");
        texts.insert((u8::MAX, *namespace), own);
    }
    let head = HELLO.replace("nodes: 5", &format!("nodes: {}", nodes + 1));
    let mut all = vec![head.as_str()];
    all.extend(texts.values().map(String::as_str));
    read(&all).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_second_plan_is_empty_also_after_interruptions(
        stacks in proptest::collection::vec((0..3_u8, documents(), proptest::option::of(0..12_usize), any::<bool>()), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let cloud = Memory::default();
            for (nodes, documents, cut, overtaken) in &stacks {
                let stack = stack_of(*nodes, documents);
                *cloud.left.lock().unwrap() = *cut;
                let whole = apply(&cloud, &stack).await.is_ok();
                *cloud.left.lock().unwrap() = None;
                // What was begun may be finished, or overtaken by the next stack.
                if !whole && *overtaken {
                    continue;
                }
                apply(&cloud, &stack).await.unwrap();
                let second = engine::plan(&cloud, &stack).await.unwrap();
                assert!(second.changes.is_empty(), "{second:?}");
                let mut there = cloud.there.lock().unwrap().clone();
                for it in there.values_mut() {
                    it.as_object_mut().unwrap().remove("status");
                }
                let wanted: BTreeMap<_, _> = stack.resources.iter().map(|(id, it)| (id.clone(), it.spec.clone())).collect();
                assert_eq!(there, wanted);
            }
            let gone = engine::plan_destroy(&cloud, "hello").await.unwrap();
            engine::apply(&cloud, &gone, &|_| {}).await.unwrap();
            assert!(cloud.there.lock().unwrap().is_empty() && cloud.inventory.lock().unwrap().is_none());
        });
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z:{}\\[\\], \n&*'\"|>-]{0,80}") {
        let _ = read(&[HELLO, &text]);
    }
}
