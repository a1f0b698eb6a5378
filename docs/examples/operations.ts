/** What an operator asks of a process: metrics for Prometheus, and probes for Kubernetes. */
import { createServer, type Server } from 'node:http'
import { PrometheusExporter } from '@opentelemetry/exporter-prometheus'
import { MeterProvider } from '@opentelemetry/sdk-metrics'
import type { Manager } from 'lease-core'
import { collapseName, countLeases, health, instrument } from 'lease-otel'

/** Call it before the first claim. Closing the server ends everything. */
export function operationsServer(manager: Manager): Server {
  const exporter = new PrometheusExporter({ preventServerStart: true })
  const meterProvider = new MeterProvider({ readers: [exporter] })
  const metrics = instrument({ meterProvider, groupOf: collapseName, names: ['scheduler'] })
  const leases = countLeases(manager, { meterProvider, expiringWithin: { seconds: 10 } }) // in one process only

  const probe = health(manager, { tolerance: { seconds: 30 }, answeredWithin: { seconds: 5 } })

  const server = createServer((request, response) => {
    if (request.url === '/metrics') return exporter.getMetricsRequestHandler(request, response)
    const asked = request.url === '/livez' ? Promise.resolve(probe.live()) : probe.ready()
    void asked.then(({ ok, problems }) => response.writeHead(ok ? 200 : 503).end(problems.join('\n')))
  })
  server.on('close', () => {
    for (const part of [metrics, leases, probe]) part.stop()
    void meterProvider.shutdown()
  })
  return server
}
