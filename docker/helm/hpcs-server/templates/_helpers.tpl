{{- define "hpcs-server.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "hpcs-server.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hpcs-server.labels" -}}
{{ include "hpcs-server.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "hpcs-server.image" -}}
{{- $repository := required "image.repository: where the image of docker/Dockerfile, target server, is" .Values.image.repository -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The server's configuration: what the values say, and over it what `config` says. */}}
{{- define "hpcs-server.configuration" -}}
{{- $domain := required "spire.trustDomain: the trust domain of SPIRE" .Values.spire.trustDomain -}}
{{- $spire := dict "address" .Values.spire.address "port" .Values.spire.port "trust-domain" $domain -}}
{{- $agent := dict "spire-agent-socket" (printf "/run/spire-agent/%s" .Values.spire.agentSocket.file) "hpcs-server-spiffeid" (.Values.spire.serverId | default (printf "spiffe://%s/hpcs-server/workload" $domain)) -}}
{{- $vault := dict "url" (required "vault.url: where OpenBao is" .Values.vault.url) "server-role" .Values.vault.role "audience" .Values.vault.audience -}}
{{- if .Values.vault.namespace }}{{ $_ := set $vault "namespace" .Values.vault.namespace }}{{ end -}}
{{- if .Values.authorities.configMap }}{{ $_ := set $vault "ca-file" "/etc/hpcs/authorities/ca.pem" }}{{ end -}}
{{- $listen := dict "port" 10080 "drain" .Values.drain -}}
{{- if .Values.urls }}{{ $_ := set $listen "url" (join "," .Values.urls) }}{{ end -}}
{{- $tls := dict "cert-file" "/etc/hpcs/tls/tls.crt" "key-file" "/etc/hpcs/tls/tls.key" -}}
{{- $all := dict "spire-server" $spire "spire-agent" $agent "vault" $vault "listen" $listen "tls" $tls -}}
{{- $all = mergeOverwrite $all .Values.config -}}
{{- range $section := keys $all | sortAlpha }}
[{{ $section }}]
{{- range $key := keys (get $all $section) | sortAlpha }}
{{- $value := get (get $all $section) $key }}
{{ $key }} = {{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- end }}
{{ end }}
{{- end }}
