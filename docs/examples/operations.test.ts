import { readFileSync } from 'node:fs'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parser } from '@prometheus-io/lezer-promql'
import { expect } from 'chai'
import { Manager, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate } from 'lease-core/testing'
import { until } from 'lease-servers'
import { parse } from 'yaml'
import { operationsServer } from './operations.ts'

interface Alerts {
  readonly groups: readonly {
    readonly name: string
    readonly rules: readonly {
      readonly alert: string
      readonly expr: string
      readonly for?: string
      readonly labels: { readonly severity: string }
      readonly annotations: { readonly summary: string; readonly description: string }
    }[]
  }[]
}
interface Dashboard {
  readonly title: string
  readonly panels: readonly {
    readonly id: number
    readonly title: string
    readonly description: string
    readonly targets: readonly { readonly expr: string; readonly refId: string }[]
  }[]
}

const alerts = parse(readFileSync('docs/operations/alerts.yaml', 'utf8')) as Alerts
const dashboard = JSON.parse(readFileSync('docs/operations/dashboard.json', 'utf8')) as Dashboard
const rules = alerts.groups.flatMap((group) => group.rules)
const queries = [
  ...rules.map(({ alert, expr }) => ({ where: `alert ${alert}`, expr })),
  ...dashboard.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ where: `panel ${title}`, expr }))),
]

/** What a scrape has: its metrics, each with its labels. */
function metricsOf(scrape: string): ReadonlyMap<string, ReadonlySet<string>> {
  const found = new Map<string, Set<string>>()
  for (const line of scrape.split('\n')) {
    const [, name = '', labels = ''] = /^([a-z_]+)(?:\{(.*)\})? /.exec(line) ?? []
    if (name === '') continue
    const known = found.get(name) ?? new Set()
    for (const [, label = ''] of labels.matchAll(/(\w+)="/g)) known.add(label)
    found.set(name, known)
  }
  return found
}

/** The metrics and labels that a query names; it must be one that Prometheus can read. */
function namesIn(query: string): { readonly metrics: readonly RegExp[]; readonly labels: ReadonlySet<string> } {
  const expr = query.replaceAll('$__rate_interval', '5m') // Grafana fills in the range
  const metrics: RegExp[] = []
  const labels = new Set<string>()
  let label = ''
  parser.parse(expr).iterate({
    enter: ({ name, type, from, to }) => {
      if (type.isError) throw new Error(`not PromQL, at ${from}: ${expr}`)
      const text = expr.slice(from, to)
      if (name === 'Identifier') metrics.push(new RegExp(`^${text}$`))
      if (name === 'LabelName') label = text
      if (name === 'LabelName' && text !== '__name__') labels.add(text)
      if (name === 'StringLiteral' && label === '__name__') metrics.push(new RegExp(`^(?:${text.slice(1, -1)})$`))
    },
  })
  return { metrics, labels }
}

describe('example: metrics and probes', () => {
  let server: Server
  let manager: Manager
  let client: SubstrateClient
  let url: string
  let scrape = ''

  /** Everything that the instruments follow happens once. */
  before(async () => {
    const store = new MemoryStore()
    const wire = new FaultySubstrate(new MemorySubstrate({ store, namespace: 'billing' }))
    client = new SubstrateClient({ substrate: wire })
    manager = new Manager({ client })
    server = operationsServer(manager)
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

    const retried: string[] = []
    manager.events.subscribe(({ type }) => retried.push(type), { types: ['retrying', 'renewed'] })
    const options = { duration: { minutes: 1 }, renewEvery: 20 }
    const hold = await manager.hold('scheduler', 'a', options)
    await until('a renewal', () => retried.includes('renewed'))
    const away = wire.reject(new Error('away'), { kind: 'extend' })
    await until('a renewal that fails', () => retried.includes('retrying'))
    away.heal()
    const waiting = manager.hold('scheduler', 'b', { ...options, wait: true })
    await manager.claim('scheduler', 'c', 60_000).catch(() => {})
    await hold.release()
    await (await waiting).release()
    const lost = await manager.hold('order-4711', 'a', options)
    await manager.revoke('order-4711')
    await until('the loss', () => !lost.held)
    await lost.release()
    const lostClaim = wire.reject(new Error('away'), { kind: 'claim' })
    await manager.claim('order-4712', 'a', 60_000).catch(() => {})
    lostClaim.heal()
    wire.emit({ kind: 'resync' })
    client.warn({ warning: 'fsync-off', message: 'fsync is off' })
    await until('all that is counted', async () => {
      scrape = await (await fetch(`${url}/metrics`)).text()
      return ['resyncs', 'warnings', 'losses', 'held'].every((word) => scrape.includes(word))
    })
  })

  after(async () => {
    await new Promise((done) => server.close(done))
    await manager.stop()
    await client.close()
  })

  it('a scrape has the names that Prometheus knows them by, and no name of a lease but that of the election', () => {
    const metrics = metricsOf(scrape)
    expect([...metrics.keys()]).to.include.members([
      'lease_claim_duration_bucket',
      'lease_losses_total',
      'lease_hold_active',
      'lease_leader',
    ])
    expect(scrape).to.match(/lease_losses_total\{[^}]*lease_loss_reason="revoked"[^}]*\} 1\n/)
    expect(scrape).to.match(/lease_losses_total\{[^}]*lease_loss_reason="expired"[^}]*\} 0\n/)
    expect(scrape).to.include('lease_group="order-*"')
    expect(scrape).to.not.include('4711')
  })

  it('the probes answer 200, with nothing to say', async () => {
    for (const path of ['/livez', '/readyz']) {
      const answer = await fetch(url + path)
      expect([answer.status, await answer.text()], path).to.deep.equal([200, ''])
    }
  })

  for (const { where, expr } of queries) {
    it(`${where} asks for metrics and labels that the scrape has`, () => {
      const { metrics, labels } = namesIn(expr)
      const known = [...metricsOf(scrape)]
      expect(metrics.length).to.be.above(0)
      const found = metrics.map((pattern) => known.filter(([name]) => pattern.test(name)))
      expect(metrics.filter((_, index) => found[index]?.length === 0).map(String)).to.deep.equal([])
      const own = new Set(found.flat().flatMap(([, names]) => [...names]))
      expect([...labels].filter((label) => !own.has(label))).to.deep.equal([])
    })
  }

  it('a query that is none, or asks for what the scrape has not, is noticed', () => {
    expect(() => namesIn('sum by (x (lease_losses_total)')).to.throw('not PromQL')
    const { metrics, labels } = namesIn('sum by (lease_naem) ({__name__=~"lease_loses(_total)?"}) + lease_nothing')
    expect(metrics.some((pattern) => [...metricsOf(scrape).keys()].some((name) => pattern.test(name)))).to.equal(false)
    expect([...labels]).to.deep.equal(['lease_naem'])
  })

  it('every alert says how bad it is, and what it means', () => {
    expect(rules).to.have.length.above(5)
    for (const { alert, labels, annotations } of rules) {
      expect(['page', 'ticket'], alert).to.include(labels.severity)
      expect(annotations.summary, alert).to.be.a('string')
      expect(annotations.description, alert).to.be.a('string')
    }
    const page = readFileSync('docs/operations/metrics.md', 'utf8')
    for (const { alert } of rules) expect(page, alert).to.include(`\`${alert}\``)
  })

  it('every panel has a title, a description and queries, and an id of its own', () => {
    expect(new Set(dashboard.panels.map(({ id }) => id)).size).to.equal(dashboard.panels.length)
    for (const { title, description, targets } of dashboard.panels) {
      expect(title).to.not.equal('')
      expect(description, title).to.be.a('string')
      expect(targets, title).to.have.length.above(0)
    }
  })
})
