# What the HPCS server may do in the vault: make the policies and roles of clients, their readers and their jobs, and look them
# up; keep what it remembers; destroy secrets, but not read them with its own token.
# Whoever may write policies can in effect read everything: give it a vault or namespace of its own.
path "sys/policies/acl/client_*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "auth/jwt/role/client_*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "sys/policies/acl/job_*" {
  capabilities = ["create", "update", "delete"]
}
path "auth/jwt/role/job_*" {
  capabilities = ["create", "update", "delete"]
}
path "kv/data/hpcs-server/*" {
  capabilities = ["create", "read", "update"]
}
path "kv/metadata/hpcs-server/*" {
  capabilities = ["list", "delete"]
}
# What a client's secrets are called and that they exist, which is not what they hold.
path "kv/metadata/client_*" {
  capabilities = ["read", "list", "delete"]
}
# Whom the vault remembers to have logged in with the JWT method: those who are gone are forgotten.
path "identity/lookup/entity" {
  capabilities = ["update"]
}
path "identity/entity/id/*" {
  capabilities = ["delete"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
