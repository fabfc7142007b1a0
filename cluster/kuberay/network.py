"""Who may reach a cluster's pods, and whom they may reach."""

from __future__ import annotations

from cluster.kuberay.pods import SERVE_PORT, Document, Site

_DASHBOARD_PORT = 8265


def network_policy(site: Site) -> tuple[Document, ...]:
    """The NetworkPolicy of the pods of a site; none where the profile wants none.

    The pods reach one another. The operator reaches the dashboard, and pods of the same namespace
    the port of the service, which asks for a key.
    """
    network = site.kubernetes.network
    if not network.policy:
        return ()
    own = {"app.kubernetes.io/instance": site.name, "app.kubernetes.io/managed-by": "raysmith"}
    peers = {"podSelector": {"matchLabels": own}}
    operator = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": network.operator_namespace}
        }
    }
    spec: Document = {
        "podSelector": {"matchLabels": own},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [peers]},
            {
                "from": [operator],
                "ports": [_tcp(_DASHBOARD_PORT), _tcp(SERVE_PORT)],
            },
            {"from": [{"podSelector": {}}], "ports": [_tcp(SERVE_PORT)]},
        ],
    }
    if network.egress == "any":
        spec["egress"] = [{}]
    else:
        dns = {"protocol": "UDP", "port": 53}
        # Pods would not find their head by its name without DNS.
        spec["egress"] = [{"to": [peers]}, {"ports": [dns, _tcp(53)]}]
    return (
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": site.metadata(site.name),
            "spec": spec,
        },
    )


def _tcp(port: int) -> dict[str, object]:
    return {"protocol": "TCP", "port": port}
