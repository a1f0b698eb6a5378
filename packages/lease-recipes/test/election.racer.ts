/** One process of the race: a node of an election that says when it leads. It resigns when it is told anything. */
import { Manager } from 'lease-core'
import { election } from '#src/election.ts'
import { nowMs, openClient, racerEntry, report, reportReliance } from './racer.ts'

const entry = racerEntry()
const { client } = openClient(entry)
const manager = new Manager({ client })
const node = election({ manager })('/race', { id: entry.name, value: entry.name, ttl: entry.leaseMs })

node.on('select', (_value, _id, { fencingToken }) => {
  report({ what: 'selected', token: String(fencingToken), atMs: nowMs() })
  return reportReliance(fencingToken, () => node.isSelected() && node.fencingToken === fencingToken)
})
node.on('deselect', ({ reason }) => report({ what: 'deselected', detail: reason, atMs: nowMs() }))
node.on('change', (_value, id) => report({ what: 'leader', detail: id ?? '', atMs: nowMs() }))
node.on('error', (error) => {
  throw error
})

process.on('message', () => {
  const { fencingToken } = node
  if (fencingToken === undefined) return
  report({ what: 'resigning', token: String(fencingToken), atMs: nowMs() })
  node.resign().catch(() => {}) // it lapses by itself
})

await node.start()
report({ what: 'started', detail: node.id() ?? '', atMs: nowMs() })
