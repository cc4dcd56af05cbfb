# What the HPCS server may do in the vault: make the policies and roles of clients and their readers, and look them up.
# Whoever may write policies can in effect read everything: give it a vault or namespace of its own.
path "sys/policies/acl/client_*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "auth/jwt/role/client_*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
