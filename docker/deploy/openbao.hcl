ui = false
api_addr = "https://openbao:8200"
cluster_addr = "https://openbao:8201"

storage "raft" {
  path = "/openbao/file"
  node_id = "openbao"
}

listener "tcp" {
  address = "0.0.0.0:8200"
  tls_cert_file = "/etc/openbao/tls.crt"
  tls_key_file = "/etc/openbao/tls.key"
}

# Every use of a key is recorded here. The vault stops where it cannot write: rotate the file (SIGHUP opens it anew), and watch the disk.
audit "file" "file" {
  description = "every use of a key"
  options {
    file_path = "/openbao/logs/audit.log"
  }
}
