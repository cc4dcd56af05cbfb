# What SPIRE lets its callers do, the HPCS server among them: for `auth_opa_policy_engine` in SPIRE's server.conf.
# Data beside it, made by `hpcs server spire-policy`: {"hpcs": {"servers": [SPIFFE ID, …], "trust_domain", "audiences": […],
# "longest_ttl": seconds, "agent_mode": true or false}}.
# Input: SPIRE's doc/authorization_policy_engine.md. A field of a request that has its zero value is not there.
package spire

result := {
	"allow": allow,
	"allow_if_admin": allow_if_admin,
	"allow_if_local": allow_if_local,
	"allow_if_downstream": allow_if_downstream,
	"allow_if_agent": allow_if_agent,
}

default allow := false

default allow_if_admin := false

default allow_if_local := false

default allow_if_downstream := false

default allow_if_agent := false

# As without this policy: agents, downstream servers and anyone have a few methods; all others are for administrators.

anyone := {
	"/spire.api.server.agent.v1.Agent/AttestAgent",
	"/spire.api.server.bundle.v1.Bundle/GetBundle",
}

agents := {
	"/spire.api.server.agent.v1.Agent/PostStatus",
	"/spire.api.server.agent.v1.Agent/RenewAgent",
	"/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
	"/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
	"/spire.api.server.svid.v1.SVID/BatchNewWITSVID",
	"/spire.api.server.svid.v1.SVID/BatchNewX509SVID",
	"/spire.api.server.svid.v1.SVID/NewJWTSVID",
}

downstream := {
	"/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",
	"/spire.api.server.bundle.v1.Bundle/PublishWITAuthority",
	"/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
}

federated_bundle := "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle"

allow if input.full_method in anyone

allow_if_agent if input.full_method in agents

allow_if_agent if input.full_method == federated_bundle

allow_if_downstream if input.full_method in downstream

administration if {
	not input.full_method in agents
	not input.full_method in downstream
}

# An HPCS server stays confined even where somebody made an entry with admin for it.
allow_if_admin if {
	administration
	not input.caller in data.hpcs.servers
}

allow_if_local if administration

# The HPCS server: identities of clients and of their jobs, and in agent mode the entries that readers on nodes need. Short-lived, for
# its own services, without rights in SPIRE, and nothing of anybody else's.

allow if {
	input.caller in data.hpcs.servers
	permitted
}

# A token of a client or of a job.
permitted if {
	input.full_method == "/spire.api.server.svid.v1.SVID/MintJWTSVID"
	input.req.id.trust_domain == data.hpcs.trust_domain
	regex.match(`^/c/[0-9a-f]{9}/(workload|j/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?)$`, input.req.id.path)
	short(input.req.ttl)
	count(input.req.audience) > 0
	every audience in input.req.audience { audience in data.hpcs.audiences }
}

permitted if {
	data.hpcs.agent_mode
	input.full_method == "/spire.api.server.entry.v1.Entry/BatchCreateEntry"
	every entry in input.req.entries { modest(entry) }
}

# Entries that are there are looked for, and deleted, in job mode too: a grant may be older than its mode.
# A request to delete holds ids alone: those of this server's entries have a prefix.
permitted if {
	input.full_method == "/spire.api.server.entry.v1.Entry/BatchDeleteEntry"
	every id in input.req.ids { startswith(id, "hpcs.") }
}

permitted if {
	input.full_method == "/spire.api.server.entry.v1.Entry/ListEntries"
	input.req.filter.by_spiffe_id.trust_domain == data.hpcs.trust_domain
	regex.match(`^/c/[0-9a-f]{9}(/workload|/s/[A-Za-z0-9._-]+)?$`, input.req.filter.by_spiffe_id.path)
}

permitted if {
	data.hpcs.agent_mode
	input.full_method == "/spire.api.server.agent.v1.Agent/CreateJoinToken"
	input.req.agent_id.trust_domain == data.hpcs.trust_domain
	regex.match(`^(/c/[0-9a-f]{9}|/h/[A-Za-z0-9._-]+)$`, input.req.agent_id.path)
	short(input.req.ttl)
	not input.req.token
}

# Agents that came with a join token: that of a client that is removed. Which client's, SPIRE does not say.
permitted if {
	data.hpcs.agent_mode
	input.full_method == "/spire.api.server.agent.v1.Agent/DeleteAgent"
	input.req.id.trust_domain == data.hpcs.trust_domain
	startswith(input.req.id.path, "/spire/agent/join_token/")
}

# Fields that are named here and no others: no admin, no downstream, no DNS names, no federation, and nothing that comes with a
# later SPIRE.
modest(entry) if {
	object.keys(entry) - {"id", "spiffe_id", "parent_id", "selectors", "jwt_svid_ttl"} == set()
	startswith(entry.id, "hpcs.")
	entry.spiffe_id.trust_domain == data.hpcs.trust_domain
	entry.parent_id.trust_domain == data.hpcs.trust_domain
	short(entry.jwt_svid_ttl)
	related(entry.spiffe_id.path, entry.parent_id.path)
}

# The workload of a client, below the agent of the same client.
related(path, parent) if {
	regex.match(`^/c/[0-9a-f]{9}$`, parent)
	path == concat("", [parent, "/workload"])
}

# Readers of a secret, below the agent of a node.
related(path, parent) if {
	regex.match(`^/c/[0-9a-f]{9}/s/[A-Za-z0-9._-]+$`, path)
	regex.match(`^/h/[A-Za-z0-9._-]+$`, parent)
}

short(ttl) if {
	ttl > 0
	ttl <= data.hpcs.longest_ttl
}
