#!/usr/bin/env python3
"""Writes builtin.txt: the fields of the built-in kinds, read from the struct tags of Kubernetes' Go modules.

Usage: generate.py <folder with api@v…, apimachinery@v… and apiextensions-apiserver@v…> > builtin.txt
The folder is what `go mod download k8s.io/api@v0.33.4 …` leaves under $GOPATH/pkg/mod/k8s.io.
Only facts that the wire formats need are kept: names, numbers, types, which are pointers, how lists merge.
"""
import glob, re, sys

ROOT = sys.argv[1]
PACKAGES = {
    "core.v1": "api@*/core/v1", "apps.v1": "api@*/apps/v1", "storage.v1": "api@*/storage/v1",
    "autoscaling.v1": "api@*/autoscaling/v1", "policy.v1": "api@*/policy/v1", "events.v1": "api@*/events/v1",
    "coordination.v1": "api@*/coordination/v1", "discovery.v1": "api@*/discovery/v1",
    "networking.v1": "api@*/networking/v1", "rbac.v1": "api@*/rbac/v1", "authentication.v1": "api@*/authentication/v1",
    "authorization.v1": "api@*/authorization/v1", "meta.v1": "apimachinery@*/pkg/apis/meta/v1",
    "apiextensions.v1": "apiextensions-apiserver@*/pkg/apis/apiextensions/v1",
}
ROOTS = """core.v1: Namespace Node Pod Service Endpoints ConfigMap Secret PersistentVolume PersistentVolumeClaim Event
 ServiceAccount Binding
apps.v1: Deployment ReplicaSet StatefulSet ControllerRevision
autoscaling.v1: Scale
policy.v1: Eviction
storage.v1: StorageClass
events.v1: Event
coordination.v1: Lease
discovery.v1: EndpointSlice
networking.v1: Ingress IngressClass NetworkPolicy
rbac.v1: Role RoleBinding ClusterRole ClusterRoleBinding
authentication.v1: TokenRequest TokenReview SelfSubjectReview
authorization.v1: SelfSubjectAccessReview SubjectAccessReview LocalSubjectAccessReview SelfSubjectRulesReview
apiextensions.v1: CustomResourceDefinition
meta.v1: DeleteOptions"""
SPECIAL = {
    "meta.v1.Time": "time", "meta.v1.MicroTime": "microtime", "resource.Quantity": "quantity",
    "intstr.IntOrString": "intstr", "meta.v1.FieldsV1": "fields", "runtime.RawExtension": "raw",
    "meta.v1.Duration": "duration", "types.UID": "string", "types.NodeName": "string",
    "apiextensions.v1.JSON": "json", "apiextensions.v1.JSONSchemaPropsOrArray": "schema-or-array",
    "apiextensions.v1.JSONSchemaPropsOrBool": "schema-or-bool",
    "apiextensions.v1.JSONSchemaPropsOrStringArray": "schema-or-strings",
}
BASIC = {"string": "string", "int32": "i32", "int64": "i64", "bool": "bool", "float64": "f64", "byte": "u8", "int": "i64"}
ALIASES = {"v1": "core.v1", "metav1": "meta.v1", "corev1": "core.v1"}

structs, aliases = {}, {}
for package, folder in PACKAGES.items():
    for path in glob.glob(f"{ROOT}/{folder}/types*.go"):
        text = open(path).read()
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.S | re.M):
            structs[f"{package}.{name}"] = body
        for name in re.findall(r"^type (\w+) struct ?\{\s*\}", text, re.M):
            structs[f"{package}.{name}"] = ""
        for name, target in re.findall(r"^type (\w+) =? ?([\[\]\w.]+)$", text, re.M):
            aliases[f"{package}.{name}"] = (package, target)


def resolve(package, go):
    """The table's word for a Go type."""
    if go.startswith("*"):
        return resolve(package, go[1:])
    if go == "[]byte":
        return "bytes"
    if go.startswith("[]"):
        return "[]" + resolve(package, go[2:])
    found = re.match(r"map\[[\w.]+\](.*)", go)
    if found:
        inner = found.group(1)
        full = inner if "." in inner else f"{package}.{inner}"
        if full in aliases and aliases[full][1].startswith("[]"):
            return "{}items:" + resolve(aliases[full][0], aliases[full][1][2:])
        return "{}" + resolve(package, inner)
    if go in BASIC:
        return BASIC[go]
    full = go
    if "." not in go:
        full = f"{package}.{go}"
    else:
        head, tail = go.split(".")
        if head == "v1":
            head = "meta.v1" if f"meta.v1.{tail}" in structs and f"core.v1.{tail}" not in structs else "core.v1"
        full = f"{ALIASES.get(head, head)}.{tail}"
    if full in SPECIAL:
        return SPECIAL[full]
    if full in structs:
        return "@" + full
    if full in aliases:
        return resolve(*aliases[full])
    raise SystemExit(f"unknown Go type {go} in {package}")


def fields(full):
    package = full.rsplit(".", 1)[0]
    comment, out = "", []
    for line in structs[full].splitlines():
        line = line.strip()
        if line.startswith("//"):
            comment += line[2:] + "\n"
            continue
        found = re.match(r"(?:(\w+)\s+)?([*\[\]\w.]+(?:\[[\w.]+\][*\w.]+)?)\s+`(.*)`", line)
        if found:
            _, go, tags = found.groups()
            tag = dict(re.findall(r'(\w+):"([^"]*)"', tags))
            if "protobuf" in tag and tag["protobuf"] != "-":
                out.append(field(package, go, tag, comment))
        if line == "" or found:
            comment = ""
    return out


def field(package, go, tag, comment):
    number = tag["protobuf"].split(",")[1]
    name, *options = tag["json"].split(",")
    words = [number, name or "-", ("*" if go.startswith("*") else "") + resolve(package, go)]
    if name and "omitempty" not in options and not go.startswith("*"):
        words.append("required" if "+optional" not in comment else "kept")
    kind = re.search(r"\+listType=(\w+)", comment)
    keys = re.findall(r"\+listMapKey=(\w+)", comment)
    if kind:
        words.append("list=" + kind.group(1) + (":" + ",".join(keys) if keys else ""))
    if "patchStrategy" in tag:
        words.append("patch=" + tag["patchStrategy"] + (":" + tag["patchMergeKey"] if "patchMergeKey" in tag else ""))
    return words


wanted, done = [], {}
for part in re.findall(r"([\w.]+):\s([\w\s]+?)(?=\n\w+\.v1:|\Z)", ROOTS):
    wanted += [f"{part[0]}.{name}" for name in part[1].split()]
wanted += ["apiextensions.v1.JSONSchemaProps"]
while wanted:
    full = wanted.pop()
    if full in done:
        continue
    done[full] = fields(full)
    for words in done[full]:
        found = re.search(r"@([\w.]+)", words[2])
        if found:
            wanted.append(found.group(1))
print("# Fields of the built-in kinds; written by generate.py from Kubernetes v0.33 Go struct tags (Apache-2.0). Do not edit.")
print("# number name type [required|kept] [list=…] [patch=…]; '-' is inlined; '*' a pointer, '[]' a list, '{}' a map, '@' a message.")
for full in sorted(done):
    print(full)
    for words in done[full]:
        print(" " + " ".join(words))
