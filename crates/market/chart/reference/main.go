// Writes what real Helm makes of tests/shop: the release record as a Secret. Run by hand when the chart changes:
//
//	go mod init reference && go get helm.sh/helm/v3@v3.22.0 && go mod tidy && go run . ../tests/shop ../tests/given.yaml > ../tests/helm.json
//
// With one argument it reads a Secret that this crate wrote and prints what Helm sees in it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func main() {
	client := fake.NewSimpleClientset()
	secrets := client.CoreV1().Secrets("market")
	if len(os.Args) == 2 {
		data, err := os.ReadFile(os.Args[1])
		check(err)
		var secret v1.Secret
		check(json.Unmarshal(data, &secret))
		_, err = secrets.Create(context.Background(), &secret, metav1.CreateOptions{})
		check(err)
		all, err := storage.Init(driver.NewSecrets(secrets)).ListReleases()
		check(err)
		for _, r := range all {
			fmt.Println(r.Name, r.Version, r.Info.Status, r.Info.LastDeployed, r.Chart.Metadata.Name, len(r.Chart.Templates), len(r.Hooks), len(r.Manifest), r.Config)
		}
		return
	}
	c, err := loader.Load(os.Args[1])
	check(err)
	values, err := chartutil.ReadValuesFile(os.Args[2])
	check(err)
	config := &action.Configuration{
		Releases:     storage.Init(driver.NewSecrets(secrets)),
		KubeClient:   &kubefake.PrintingKubeClient{Out: io.Discard},
		Capabilities: chartutil.DefaultCapabilities,
		Log:          func(string, ...any) {},
	}
	install := action.NewInstall(config)
	install.ReleaseName, install.Namespace, install.Timeout, install.SkipCRDs = "demo", "market", time.Second, true
	_, err = install.Run(c, values)
	check(err)
	list, err := secrets.List(context.Background(), metav1.ListOptions{})
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(list.Items[0]))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
