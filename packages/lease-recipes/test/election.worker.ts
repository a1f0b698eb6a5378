/** One process of the race: a node of an election that says when it leads. It resigns when it gets a message. */
import { Manager } from 'lease-core'
import { election } from '#src/election.ts'
import {
  loadStore,
  measureStalls,
  nowMs,
  openClient,
  record,
  recordReliance,
  whenTold,
  workerEntry,
} from 'lease-chaos/worker'

const entry = workerEntry()
await loadStore(entry.kind)
const { client } = openClient(entry)
const manager = new Manager({ client })
const node = election({ manager })('/race', { id: entry.name, value: entry.name, ttl: entry.leaseMs })

node.on('select', (_value, _id, { fencingToken }) => {
  record({ what: 'selected', token: String(fencingToken), atMs: nowMs() })
  return recordReliance({ fencingToken }, () => node.isSelected() && node.fencingToken === fencingToken)
})
node.on('deselect', ({ reason }) => record({ what: 'deselected', detail: reason, atMs: nowMs() }))
node.on('change', (_value, id) => record({ what: 'leader', detail: id ?? '', atMs: nowMs() }))
node.on('error', (error) => {
  throw error
})

whenTold(() => {
  const { fencingToken } = node
  if (fencingToken === undefined) return
  record({ what: 'resigning', token: String(fencingToken), atMs: nowMs() })
  node.resign().catch(() => {}) // it lapses by itself
})

void measureStalls(manager, entry.name, (stall) => record({ what: 'measured', ...stall }))
await node.start()
record({ what: 'started', detail: node.id() ?? '', atMs: nowMs() })
