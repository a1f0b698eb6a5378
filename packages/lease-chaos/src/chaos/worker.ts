/** The program of a worker: several runners act at random until the run says stop. Then the worker closes everything and ends by itself. */
import { readdirSync, readlinkSync } from 'node:fs'
import { setTimeout as pass } from 'node:timers/promises'
import { Manager } from 'lease-core'
import { Random } from 'lease-simulation'
import { kinds } from '../accounts.ts'
import { nowMs } from '../recorder.ts'
import { loadStore, openClient } from '../connections.ts'
import { whenTold, workerEntry } from '../worker-entry.ts'
import { Actor, type ChaosEntry } from './acts.ts'
import type { Usage } from './event.ts'
import { note, wordsOf } from './journal.ts'

/** What a worker can be notified. */
export interface Order {
  /** `quiet`: the faults are over, and every operation is called in turn. `stop`: finish, close and end. */
  readonly phase?: 'quiet' | 'stop'
  /** The event loop does not run for so long. */
  readonly spinMs?: number
}

const PULSE_MS = 10
/** A gap that is recorded: what the loop did not run beyond its pulse. */
const LATE_MS = 5
const USAGE_EVERY_MS = 1_000
/** A socket is gone some time after it was closed: gRPC looks every ten seconds for connections that nobody uses. */
const CLOSING_MS = 30_000
/** What the documentation names, where a run was lost in a pause, or the store is slow or away. */
const EXPECTED_WARNINGS = ['LEASE_NOT_HELD', 'LEASE_UNKNOWN', 'LEASE_NO_HINTS', 'LEASE_STORE_AWAY']

const descriptorsBefore = descriptors()
const entry = workerEntry() as ChaosEntry
const told: { phase: 'faults' | 'quiet' | 'stop' } = { phase: 'faults' }

process.on('uncaughtException', (error) => note({ what: 'uncaught', detail: wordsOf(error) }))
process.on('unhandledRejection', (error) => note({ what: 'uncaught', detail: `rejection: ${wordsOf(error)}` }))
process.removeAllListeners('warning').on('warning', (warning: Error & { readonly code?: string }) => {
  if (!EXPECTED_WARNINGS.includes(warning.code ?? '')) note({ what: 'warning', detail: wordsOf(warning) })
})
whenTold((order) => {
  const { phase: next, spinMs } = order as Order
  if (next !== undefined) told.phase = next
  if (spinMs !== undefined) spin(spinMs)
})

await loadStore(entry.kind)
const opened = openClient(entry)
const manager = new Manager({ client: opened.client })
const teller = kinds[entry.kind].openTeller(entry)
const random = new Random(entry.seed)
const actor = new Actor({ entry, manager, random, teller })

const timers = [watchLoop(), setInterval(() => note({ what: 'usage', usage: usage() }), USAGE_EVERY_MS)]
note({ what: 'ready' })
await Promise.all(Array.from({ length: entry.runners }, (_, index) => run(`${entry.name}-${index}`)))
note({ what: 'finished' })
await close()

async function run(runner: string): Promise<void> {
  for (let round = 0, quiet = 0; told.phase !== 'stop'; round++) {
    const holder = `${runner}-${round}`
    await (told.phase === 'quiet' ? actor.actInTurn(holder, quiet++) : actor.act(holder))
    await pass(random.next() * 10)
  }
}

/** Everything that a careful application closes, in its order. */
async function close(): Promise<void> {
  await actor.stop()
  await manager.stop()
  await opened.close()
  await teller[Symbol.asyncDispose]()
  for (const timer of timers) clearInterval(timer)
  // The channel to the run is the last that keeps the process.
  process.removeAllListeners('disconnect').disconnect()
  const untilMs = nowMs() + CLOSING_MS
  while (descriptors().length > descriptorsBefore.length && nowMs() < untilMs) await pass(20)
  const left = descriptors().filter((one) => !descriptorsBefore.includes(one))
  // A descriptor that another one has replaced is not left over.
  const more = left.slice(0, Math.max(0, descriptors().length - descriptorsBefore.length))
  note({ what: 'closed', usage: usage(), left: more, detail: process.getActiveResourcesInfo().join(' ') })
}

/** Records for how long the event loop did not run. */
function watchLoop(): NodeJS.Timeout {
  let lastMs = nowMs()
  return setInterval(() => {
    const atMs = nowMs()
    const lostMs = atMs - lastMs - PULSE_MS
    lastMs = atMs
    if (lostMs > LATE_MS) note({ what: 'late', atMs, lostMs })
  }, PULSE_MS)
}

function spin(forMs: number): void {
  const untilMs = nowMs() + forMs
  while (nowMs() < untilMs);
}

function usage(): Usage {
  return {
    heapBytes: process.memoryUsage().heapUsed,
    descriptors: descriptors().length,
    timers: process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length,
    listeners: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0),
  }
}

/** Open files and sockets of this process, by what they are; none where the system does not show them. */
function descriptors(): readonly string[] {
  try {
    return readdirSync('/proc/self/fd').flatMap((number) => targetOf(number) ?? [])
  } catch {
    return []
  }
}

/** undefined: it was the one by which the folder was read. */
function targetOf(number: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${number}`)
  } catch {
    return undefined
  }
}
