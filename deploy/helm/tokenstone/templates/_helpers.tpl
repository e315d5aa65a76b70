{{- define "tokenstone.name" -}}
{{- if contains "tokenstone" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-tokenstone{{ end }}
{{- end }}

{{- /* Call: include "tokenstone.selector" (dict "root" $ "part" "agent") */}}
{{- define "tokenstone.selector" -}}
app.kubernetes.io/name: tokenstone
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "tokenstone.labels" -}}
{{ include "tokenstone.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "tokenstone.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- $name := printf "tokenstone/%s" .part -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $name }}:{{ $tag }}
{{- end }}

{{- define "tokenstone.url" -}}
{{ ternary "https" "http" (not (empty .Values.service.tlsSecret)) }}://{{ include "tokenstone.name" . }}.{{ .Release.Namespace }}.svc:8470
{{- end }}

{{- define "tokenstone.extraEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
