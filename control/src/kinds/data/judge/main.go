// Command judge puts objects through the strategies of upstream's registries and prints what they say, a line of JSON
// each. It is built inside a Kubernetes 1.36 source tree; `record.py` asks it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"

	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
)

type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

type row struct {
	create strategy
	subs   map[string]rest.RESTUpdateStrategy
}

func plain(s strategy) row { return row{create: s} }
func with(s strategy, status rest.RESTUpdateStrategy) row {
	return row{s, map[string]rest.RESTUpdateStrategy{"status": status}}
}

type allow struct{}

func (allow) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

func table() map[string]row {
	vap := validatingadmissionpolicy.NewStrategy(nil, nil)
	claim := resourceclaim.NewStrategy(nil, allow{})
	return map[string]row{
		"admissionregistration.k8s.io/validatingadmissionpolicies":       with(vap, validatingadmissionpolicy.NewStatusStrategy(vap)),
		"admissionregistration.k8s.io/validatingadmissionpolicybindings": plain(validatingadmissionpolicybinding.NewStrategy(nil, nil, nil)),
		"admissionregistration.k8s.io/mutatingadmissionpolicies":         plain(mutatingadmissionpolicy.NewStrategy(nil, nil)),
		"admissionregistration.k8s.io/mutatingadmissionpolicybindings":   plain(mutatingadmissionpolicybinding.NewStrategy(nil, nil, nil)),
		"admissionregistration.k8s.io/mutatingwebhookconfigurations":     plain(mutatingwebhookconfiguration.Strategy),
		"admissionregistration.k8s.io/validatingwebhookconfigurations":   plain(validatingwebhookconfiguration.Strategy),
		"apps/controllerrevisions":                                       plain(controllerrevision.Strategy),
		"apps/daemonsets":                                                with(daemonset.Strategy, daemonset.StatusStrategy),
		"apps/deployments":                                               with(deployment.Strategy, deployment.StatusStrategy),
		"apps/replicasets":                                               with(replicaset.Strategy, replicaset.StatusStrategy),
		"apps/statefulsets":                                              with(statefulset.Strategy, statefulset.StatusStrategy),
		"autoscaling/horizontalpodautoscalers":                           with(horizontalpodautoscaler.Strategy, horizontalpodautoscaler.StatusStrategy),
		"batch/cronjobs":                                                 with(cronjob.Strategy, cronjob.StatusStrategy),
		"batch/jobs":                                                     with(job.Strategy, job.StatusStrategy),
		"certificates.k8s.io/certificatesigningrequests": {certificates.Strategy, map[string]rest.RESTUpdateStrategy{
			"status": certificates.StatusStrategy, "approval": certificates.ApprovalStrategy}},
		"coordination.k8s.io/leases":                               plain(lease.Strategy),
		"/configmaps":                                              plain(configmap.Strategy),
		"/endpoints":                                               plain(endpoint.Strategy),
		"/events":                                                  plain(event.Strategy),
		"events.k8s.io/events":                                     plain(event.Strategy),
		"/limitranges":                                             plain(limitrange.Strategy),
		"/persistentvolumes":                                       with(persistentvolume.Strategy, persistentvolume.StatusStrategy),
		"/persistentvolumeclaims":                                  with(persistentvolumeclaim.Strategy, persistentvolumeclaim.StatusStrategy),
		"/podtemplates":                                            plain(podtemplate.Strategy),
		"/replicationcontrollers":                                  with(replicationcontroller.Strategy, replicationcontroller.StatusStrategy),
		"/resourcequotas":                                          with(resourcequota.Strategy, resourcequota.StatusStrategy),
		"/secrets":                                                 plain(secret.Strategy),
		"/serviceaccounts":                                         plain(serviceaccount.Strategy),
		"discovery.k8s.io/endpointslices":                          plain(endpointslice.Strategy),
		"flowcontrol.apiserver.k8s.io/flowschemas":                 with(flowschema.Strategy, flowschema.StatusStrategy),
		"flowcontrol.apiserver.k8s.io/prioritylevelconfigurations": with(prioritylevelconfiguration.Strategy, prioritylevelconfiguration.StatusStrategy),
		"networking.k8s.io/ingresses":                              with(ingress.Strategy, ingress.StatusStrategy),
		"networking.k8s.io/ingressclasses":                         plain(ingressclass.Strategy),
		"networking.k8s.io/ipaddresses":                            plain(ipaddress.Strategy),
		"networking.k8s.io/networkpolicies":                        plain(networkpolicy.Strategy),
		"networking.k8s.io/servicecidrs":                           with(servicecidr.Strategy, servicecidr.StatusStrategy),
		"node.k8s.io/runtimeclasses":                               plain(runtimeclass.Strategy),
		"policy/poddisruptionbudgets":                              with(poddisruptionbudget.Strategy, poddisruptionbudget.StatusStrategy),
		"rbac.authorization.k8s.io/clusterroles":                   plain(clusterrole.Strategy),
		"rbac.authorization.k8s.io/clusterrolebindings":            plain(clusterrolebinding.Strategy),
		"rbac.authorization.k8s.io/roles":                          plain(role.Strategy),
		"rbac.authorization.k8s.io/rolebindings":                   plain(rolebinding.Strategy),
		"resource.k8s.io/deviceclasses":                            plain(deviceclass.Strategy),
		"resource.k8s.io/resourceclaims":                           with(claim, resourceclaim.NewStatusStrategy(claim)),
		"resource.k8s.io/resourceclaimtemplates":                   plain(resourceclaimtemplate.NewStrategy(nil)),
		"resource.k8s.io/resourceslices":                           plain(resourceslice.Strategy),
		"scheduling.k8s.io/priorityclasses":                        plain(priorityclass.Strategy),
		"storage.k8s.io/csidrivers":                                plain(csidriver.Strategy),
		"storage.k8s.io/csinodes":                                  plain(csinode.Strategy),
		"storage.k8s.io/csistoragecapacities":                      plain(csistoragecapacity.Strategy),
		"storage.k8s.io/storageclasses":                            plain(storageclass.Strategy),
		"storage.k8s.io/volumeattachments":                         with(volumeattachment.Strategy, volumeattachment.StatusStrategy),
		"storage.k8s.io/volumeattributesclasses":                   plain(volumeattributesclass.Strategy),
	}
}

type testCase struct {
	Group, Version, Plural, Sub string
	New, Old                    json.RawMessage
}

type answer struct {
	Errors   []string        `json:"errors"`
	Other    string          `json:"other,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Object   json.RawMessage `json:"object,omitempty"`
}

type recorder struct{ list *[]string }

func (r recorder) AddWarning(_, text string) { *r.list = append(*r.list, text) }

func decode(raw json.RawMessage) (runtime.Object, error) {
	obj, _, err := legacyscheme.Codecs.UniversalDecoder().Decode(raw, nil, nil)
	return obj, err
}

func judge(rows map[string]row, c testCase) (out answer) {
	defer func() {
		if r := recover(); r != nil {
			out.Other = fmt.Sprint("panic: ", r)
		}
	}()
	out.Errors = []string{}
	row, ok := rows[c.Group+"/"+c.Plural]
	if !ok {
		out.Other = "no row"
		return
	}
	obj, err := decode(c.New)
	if err != nil {
		out.Other = "decode: " + err.Error()
		return
	}
	m, _ := meta.Accessor(obj)
	ns := ""
	if row.create.NamespaceScoped() {
		ns = "n"
	}
	ctx := genericapirequest.WithNamespace(context.Background(), ns)
	ctx = genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: "u", Groups: []string{"system:masters"}})
	verb := "create"
	if len(c.Old) > 0 {
		verb = "update"
	}
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{IsResourceRequest: true, Verb: verb, APIGroup: c.Group, APIVersion: c.Version,
		APIPrefix: "apis", Resource: c.Plural, Subresource: c.Sub, Namespace: ns, Name: m.GetName()})
	ctx = warning.WithWarningRecorder(ctx, recorder{&out.Warnings})
	if len(c.Old) == 0 {
		m.SetUID(types.UID("U"))
		m.SetCreationTimestamp(metav1.Unix(1700000000, 0))
		err = rest.BeforeCreate(row.create, ctx, obj)
	} else {
		old, derr := decode(c.Old)
		if derr != nil {
			out.Other = "decode old: " + derr.Error()
			return
		}
		o, _ := meta.Accessor(old)
		for _, x := range []metav1.Object{m, o} {
			if x.GetUID() == "" {
				x.SetUID(types.UID("U"))
			}
			x.SetCreationTimestamp(metav1.Unix(1700000000, 0))
			if x.GetResourceVersion() == "" {
				x.SetResourceVersion("1")
			}
		}
		var s rest.RESTUpdateStrategy = row.create
		if c.Sub != "" {
			s = row.subs[c.Sub]
		}
		err = rest.BeforeUpdate(s, ctx, obj, old)
	}
	if err != nil {
		var status *apierrors.StatusError
		if errors.As(err, &status) && status.ErrStatus.Details != nil && status.ErrStatus.Reason == metav1.StatusReasonInvalid {
			for _, cause := range status.ErrStatus.Details.Causes {
				out.Errors = append(out.Errors, cause.Field+": "+cause.Message)
			}
			return
		}
		out.Other = err.Error()
		return
	}
	gv := schema.GroupVersion{Group: c.Group, Version: c.Version}
	data, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(gv), obj)
	if err != nil {
		out.Other = "encode: " + err.Error()
	}
	out.Object = json.RawMessage(strings.TrimSpace(string(data)))
	return
}

func main() {
	rows := table()
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 64<<20)
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush()
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for in.Scan() {
		if strings.TrimSpace(in.Text()) == "" {
			continue
		}
		var c testCase
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			panic(err)
		}
		enc.Encode(judge(rows, c))
	}
}
