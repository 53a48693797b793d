{{- define "tcplinger.selector" -}}
app.kubernetes.io/name: tcplinger
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tcplinger.labels" -}}
{{ include "tcplinger.selector" . }}
app.kubernetes.io/component: agent
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
